//! How a request that is passed on says who the user is.

use super::topology::AuthenticationMethods;

/// What the edge has to show for a user, besides what their client has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Means {
    /// It can get the user's Kerberos tickets.
    pub tickets: bool,
    /// It has the user's name and password.
    pub password: bool,
    /// A password is passed on to servers that take it, although tickets could be had.
    pub pass_basic_on: bool,
}

/// How the server is told who the user is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// By what the client has sent, if it has sent anything.
    AsSent,
    /// By the user's name and password (RFC 7617).
    Basic,
    /// By a Kerberos ticket of the user's for this server (RFC 4559).
    Kerberos,
}

impl SignIn {
    /// Chooses by what the virtual directory accepts. `None`: it is no object that the edge reads, as those of Exchange
    /// 2003, which need Integrated Windows authentication (S57) and accept Basic as well.
    pub fn to(accepts: Option<AuthenticationMethods>, means: Means) -> SignIn {
        let basic = accepts.is_none_or(|methods| methods.0 & AuthenticationMethods::BASIC != 0);
        let integrated = accepts.is_none_or(AuthenticationMethods::integrated_windows);
        let passes_on = means.password && basic && (means.pass_basic_on || !means.tickets || !integrated);
        match (passes_on, means.tickets && integrated) {
            (true, _) => SignIn::Basic,
            (false, true) => SignIn::Kerberos,
            (false, false) => SignIn::AsSent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASIC: u32 = AuthenticationMethods::BASIC;
    const INTEGRATED: u32 = AuthenticationMethods::WINDOWS_INTEGRATED;

    fn to(accepts: u32, tickets: bool, password: bool, pass_basic_on: bool) -> SignIn {
        SignIn::to(Some(AuthenticationMethods(accepts)), Means { tickets, password, pass_basic_on })
    }

    #[test]
    fn what_accepts_integrated_windows_authentication_gets_a_ticket_if_one_can_be_had() {
        assert_eq!(to(INTEGRATED, true, true, false), SignIn::Kerberos);
        assert_eq!(to(INTEGRATED, true, true, true), SignIn::Kerberos, "no policy makes it accept Basic");
        assert_eq!(to(INTEGRATED, true, false, false), SignIn::Kerberos);
        assert_eq!(to(INTEGRATED, false, true, false), SignIn::AsSent);
    }

    #[test]
    fn where_basic_is_accepted_too_the_policy_decides() {
        assert_eq!(to(BASIC | INTEGRATED, true, true, false), SignIn::Kerberos);
        assert_eq!(to(BASIC | INTEGRATED, true, true, true), SignIn::Basic);
        assert_eq!(to(BASIC | INTEGRATED, true, false, true), SignIn::Kerberos, "there is no password to pass on");
        assert_eq!(to(BASIC | INTEGRATED, false, true, false), SignIn::Basic);
    }

    #[test]
    fn what_accepts_basic_alone_gets_the_password() {
        assert_eq!(to(BASIC, true, true, false), SignIn::Basic);
        assert_eq!(to(BASIC, true, false, false), SignIn::AsSent);
    }

    #[test]
    fn an_exchange_2003_server_gets_a_ticket_if_one_can_be_had() {
        let to = |tickets, password, pass_basic_on| SignIn::to(None, Means { tickets, password, pass_basic_on });
        assert_eq!(to(true, true, false), SignIn::Kerberos);
        assert_eq!(to(true, true, true), SignIn::Basic);
        assert_eq!(to(false, true, false), SignIn::Basic);
        assert_eq!(to(false, false, false), SignIn::AsSent);
    }
}
