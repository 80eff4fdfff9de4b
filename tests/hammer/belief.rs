//! Whose name an answer may carry, by what its client connection has sent and been answered so far. No sockets here.

/// What a request brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carries {
    /// No credential.
    Nothing,
    /// Somebody's name and password, good for this request.
    Basic(String),
    /// Somebody's name and a wrong password.
    WrongBasic,
    /// The first message of a handshake, which says nothing of who asks.
    FirstLeg,
    /// The answer to a challenge. `right`: made with the password.
    LastLeg {
        /// Whose.
        user: String,
        /// Made with the password.
        right: bool,
    },
    /// Somebody's Kerberos ticket.
    Ticket(String),
}

/// What a client may think of one of its connections.
#[derive(Debug, Default)]
pub struct Belief {
    /// Whom it is signed in as; several where an answer left that open.
    is: Vec<String>,
    /// Whom it was signed in as before.
    was: Vec<String>,
    /// Whether it has had to do with a connection-bound credential.
    bound: bool,
}

/// Who answered, and in whose name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// Nobody of contoso: whatever stands in front did.
    ByTheProxy,
    /// Contoso, to nobody. `challenged`: it waits for the next message of a handshake.
    Nobody {
        /// The answer holds a challenge.
        challenged: bool,
    },
    /// Contoso, to this user.
    User(&'a str),
}

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongName {
    /// The answer is somebody's who never signed in over this connection.
    SomebodyElses,
    /// The answer is somebody's who did, but is no more, or not by this request.
    SomebodysOfBefore,
}

impl Carries {
    /// Whether it authenticates a connection.
    pub fn is_bound(&self) -> bool {
        matches!(self, Carries::FirstLeg | Carries::LastLeg { .. } | Carries::Ticket(_))
    }
}

impl Belief {
    /// Whether the connection has had to do with a connection-bound credential.
    pub fn is_bound(&self) -> bool {
        self.bound
    }

    /// An answer said that its connection is bound, to whomever.
    pub fn was_told_bound(&mut self) {
        self.bound = true;
    }

    /// Whom it is signed in as.
    pub fn user(&self) -> Option<&str> {
        self.is.last().map(String::as_str)
    }

    /// Judges the next answer, in the order of the requests.
    ///
    /// # Errors
    /// It carries a name that it may not.
    pub fn judge(&mut self, carries: &Carries, status: u16, named: Named<'_>) -> Result<(), WrongName> {
        self.bound |= carries.is_bound();
        let may_be: &[String] = match carries {
            Carries::Nothing => &self.is,
            Carries::Basic(user) | Carries::Ticket(user) | Carries::LastLeg { user, right: true } => {
                std::slice::from_ref(user)
            }
            Carries::WrongBasic | Carries::FirstLeg | Carries::LastLeg { right: false, .. } => &[],
        };
        let verdict = match named {
            Named::ByTheProxy | Named::Nobody { .. } => Ok(()),
            Named::User(name) if may_be.iter().any(|user| user == name) => Ok(()),
            Named::User(name) if self.is.iter().chain(&self.was).any(|user| user == name) => {
                Err(WrongName::SomebodysOfBefore)
            }
            Named::User(_) => Err(WrongName::SomebodyElses),
        };
        match (carries, named) {
            (Carries::Nothing | Carries::Basic(_) | Carries::WrongBasic, _)
            | (Carries::FirstLeg, Named::ByTheProxy) => {}
            // Apache's mod_auth_gssapi refuses a new handshake and keeps whom it has; IIS forgets them.
            (_, Named::Nobody { challenged: false }) if status == 401 => {}
            (Carries::FirstLeg, _) => self.forget(),
            // It cannot be seen whether the server had accepted before.
            (Carries::LastLeg { user, .. } | Carries::Ticket(user), Named::ByTheProxy) => self.is.push(user.clone()),
            (Carries::LastLeg { user, .. } | Carries::Ticket(user), _) => {
                self.forget();
                if status != 401 {
                    self.is.push(user.clone());
                }
            }
        }
        verdict
    }

    fn forget(&mut self) {
        self.was.append(&mut self.is);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(user: &str) -> Carries {
        Carries::Ticket(user.to_owned())
    }

    fn answer(user: &str) -> Carries {
        Carries::LastLeg { user: user.to_owned(), right: true }
    }

    #[test]
    fn whoever_signed_in_is_answered_until_somebody_else_does() {
        let mut belief = Belief::default();
        for carries in [ticket("ana"), Carries::Nothing] {
            assert_eq!(belief.judge(&carries, 200, Named::User("ana")), Ok(()));
        }
        assert_eq!(belief.judge(&Carries::Basic("eva".into()), 200, Named::User("eva")), Ok(()));
        assert_eq!(belief.judge(&Carries::Nothing, 200, Named::User("ana")), Ok(()));
        assert_eq!(belief.judge(&Carries::FirstLeg, 401, Named::Nobody { challenged: false }), Ok(()));
        assert_eq!(belief.judge(&Carries::Nothing, 200, Named::User("ana")), Ok(()), "refused, as Apache does");
        assert_eq!(belief.judge(&Carries::FirstLeg, 401, Named::Nobody { challenged: true }), Ok(()));
        let before = Err(WrongName::SomebodysOfBefore);
        assert_eq!(belief.judge(&Carries::Nothing, 200, Named::User("ana")), before);
        assert_eq!(belief.judge(&answer("eva"), 200, Named::User("ana")), before);
        assert_eq!(belief.judge(&Carries::Nothing, 200, Named::User("eva")), Ok(()));
    }

    #[test]
    fn nobody_is_answered_as_somebody() {
        let other = Err(WrongName::SomebodyElses);
        let wrong = Carries::LastLeg { user: "ana".into(), right: false };
        for carries in [Carries::Nothing, Carries::Basic("eva".into()), Carries::FirstLeg, wrong, ticket("eva")] {
            assert_eq!(Belief::default().judge(&carries, 200, Named::User("ana")), other, "{carries:?}");
        }
        let mut belief = Belief::default();
        assert_eq!(belief.judge(&ticket("ana"), 401, Named::Nobody { challenged: false }), Ok(()));
        assert_eq!(belief.judge(&Carries::Nothing, 200, Named::User("ana")), other);
    }

    #[test]
    fn whom_a_proxy_answered_itself_may_be_signed_in_or_not() {
        let mut belief = Belief::default();
        assert_eq!(belief.judge(&ticket("ana"), 502, Named::ByTheProxy), Ok(()));
        assert_eq!(belief.judge(&Carries::Nothing, 401, Named::Nobody { challenged: false }), Ok(()));
        assert_eq!(belief.judge(&Carries::Nothing, 200, Named::User("ana")), Ok(()));
        assert!(belief.is_bound());
    }
}
