//! The gate: whose upstream connection a request may use. A pure state machine, without sockets or clock.
//!
//! A credential such as NTLM authenticates the *connection* (RFC 4559 section 6). So a client connection whose request or
//! whose answer ever carried one is **pinned**: from then on its requests use upstream connections that belong to it
//! alone, one for each origin. They are told apart by a process-wide counter, which is part of the key under which
//! Pingora reuses connections; never by an address, a file descriptor or a user name, because all of those are used again
//! for somebody else.
//!
//! For a request that is not connection-bound, on a client connection that is not pinned, there is no [`Gate`] at all:
//! it costs nothing. A pinned client connection has one, and every one of its requests passes through it:
//!
//! ```text
//! admit -> approach(origin) -> connected(reused, which) -> answered(status, token)
//!                                     lost(which), at any time
//! ```
//!
//! Whatever is not as expected fails closed: the request goes nowhere, and the client connection ends.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::identity::{
    Credential, ntlm,
    token::{self, Leg},
};

/// What a request brings to the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// No credential: it is whoever the connection is.
    Nothing,
    /// A credential that counts for this request alone.
    PerRequest,
    /// A message of a scheme that authenticates the connection.
    Token(Leg),
}

/// What an answer says about the connection it came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// A `WWW-Authenticate` field with a token of a connection-bound scheme; `Some(Some(..))`: an NTLM challenge.
    pub token: Option<Option<ntlm::Challenge>>,
    /// `Persistent-Auth: true`, by which IIS says that the connection is authenticated from now on.
    pub persistent: bool,
    /// The server will close the connection.
    pub closes: bool,
    /// A connection-bound scheme is offered, or used.
    pub offers_windows: bool,
}

/// An upstream connection, numbered by whoever opens them; no number is given twice.
pub type ConnectionNumber = u64;

/// Where an upstream connection leads: Pingora's reuse key, which has the pin's number in it.
pub type Origin = u64;

/// What a pinned request is to find at its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Its own connection is open there.
    Own,
    /// None is; it opens one.
    New,
}

/// Why a pinned request goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The connection that the credential, or the handshake, belonged to is gone.
    #[error("the server's connection that this client was signing in, or had signed in, over is gone")]
    Lost,
    /// The own connection is gone, but the request may open another: nothing of it depends on the old one.
    #[error("the own connection is gone; another is opened")]
    Reopen,
    /// Pingora handed out a connection that is not this pin's. Cannot happen; if it does, nobody is served over it.
    #[error("a connection turned up that is not this client's own")]
    Stranger,
}

/// What an answer did to the sign-in of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignIn {
    /// Nothing.
    Unchanged,
    /// The server has challenged; the client's next message answers it.
    Challenged,
    /// The server has accepted a message. `answers`: the challenge that it answered, if it answered one.
    Accepted {
        /// The challenge before.
        answers: Option<Challenged>,
    },
    /// The server wants a credential, and whoever was signed in is no more.
    Rejected {
        /// Whether what it rejects is the last message of a handshake.
        after_answer: bool,
    },
}

/// A challenge that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenged {
    /// The request that was challenged, by a number that two different requests do not share.
    pub asked: u64,
    /// What an NTLM challenge settled; `None`: it was of another mechanism.
    pub ntlm: Option<ntlm::Challenge>,
}

/// Bounds on one pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// How long a client connection may stay pinned.
    pub lifetime: Duration,
    /// How many requests it may send.
    pub requests_max: u64,
}

/// The gate of one pinned client connection.
#[derive(Debug)]
pub struct Gate {
    number: PinNumber,
    since: Instant,
    requests: u64,
    /// A bound was passed, and a handshake was let finish.
    overdue: bool,
    links: Vec<Link>,
}

/// The pin's connection to one origin.
#[derive(Debug)]
struct Link {
    origin: Origin,
    /// `None`: it was lost.
    connection: Option<ConnectionNumber>,
    login: Login,
}

/// What a server knows of the client behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    Nobody,
    Challenged(Challenged),
    SignedIn,
}

/// Origins that one client connection may have connections to at a time. Two are common (a mailbox's server and the
/// local pool, for Outlook's address book); whoever needs more loses the oldest.
pub const ORIGINS_MAX: usize = 4;

impl Carries {
    /// What a credential is to the gate. What cannot be read counts as the worst.
    pub fn of(credential: &Credential) -> Carries {
        match credential {
            Credential::None => Carries::Nothing,
            Credential::Basic { .. } | Credential::Bearer | Credential::Unreadable(_) => Carries::PerRequest,
            Credential::ConnectionBound(token) => Carries::Token(token.leg),
        }
    }

    /// Whether it pins its client connection.
    pub fn pins(self) -> bool {
        matches!(self, Carries::Token(_))
    }

    /// Whether it means the same on any connection.
    fn needs_no_history(self) -> bool {
        matches!(self, Carries::PerRequest | Carries::Token(Leg::First))
    }
}

impl Answered {
    /// Whether the connection that this came over may not serve anybody else any more.
    pub fn pins(self) -> bool {
        self.token.is_some() || self.persistent
    }

    /// Notes one value of a `WWW-Authenticate` field.
    pub fn note(&mut self, challenge: token::Challenge) {
        match challenge {
            token::Challenge::PerRequest => return,
            token::Challenge::Offer => {}
            token::Challenge::Token(ntlm) => self.token = Some(self.token.flatten().or(ntlm)),
        }
        self.offers_windows = true;
    }
}

impl Gate {
    /// A gate for a client connection that becomes pinned now.
    pub fn new(now: Instant) -> Self {
        Gate { number: PinNumber::next(), since: now, requests: 0, overdue: false, links: Vec::new() }
    }

    /// What keeps its connections apart from all others.
    pub fn number(&self) -> PinNumber {
        self.number
    }

    /// A request has come.
    pub fn admit(&mut self) {
        self.requests += 1;
    }

    /// The request is about to go to an origin.
    ///
    /// # Errors
    /// Its own connection there is gone, and what it carries meant something on that one only.
    pub fn approach(&mut self, origin: Origin, carries: Carries) -> Result<Expect, Closed> {
        match self.link(origin) {
            None => Ok(Expect::New),
            Some(Link { connection: Some(_), .. }) => Ok(Expect::Own),
            Some(Link { connection: None, login, .. }) if *login == Login::Nobody || carries.needs_no_history() => {
                Ok(Expect::New)
            }
            Some(_) => Err(Closed::Lost),
        }
    }

    /// Pingora has found a connection for the request: an idle one, or a new one. `which` is the number of the pin's own
    /// connection to that origin that this one was recognised as; `None`: it is none of them.
    ///
    /// # Errors
    /// It is not what [`Gate::approach`] led to expect. Nothing may be sent over it.
    pub fn connected(
        &mut self,
        origin: Origin,
        expected: Expect,
        reused: bool,
        which: Option<ConnectionNumber>,
    ) -> Result<(), Closed> {
        let known = self.link(origin).and_then(|link| link.connection);
        match (expected, reused, which) {
            (Expect::Own, true, Some(number)) if known == Some(number) => Ok(()),
            (Expect::Own, false, _) => {
                if let Some(number) = known {
                    self.lost(number);
                }
                Err(Closed::Reopen) // it was opened without a leash
            }
            (Expect::New, false, Some(number)) => {
                self.links.retain(|link| link.origin != origin);
                if self.links.len() == ORIGINS_MAX {
                    self.links.remove(0);
                }
                self.links.push(Link { origin, connection: Some(number), login: Login::Nobody });
                Ok(())
            }
            (Expect::Own, true, _) | (Expect::New, _, _) => Err(Closed::Stranger),
        }
    }

    /// The server has answered. `asked` is a number of the request, the same for the same method and target.
    pub fn answered(&mut self, origin: Origin, carries: Carries, asked: u64, answer: Answered) -> SignIn {
        let Some(link) = self.links.iter_mut().find(|link| link.origin == origin) else { return SignIn::Unchanged };
        let answers = match link.login {
            Login::Challenged(challenge) if carries == Carries::Token(Leg::Next) => Some(challenge),
            Login::Challenged(_) | Login::Nobody | Login::SignedIn => None,
        };
        let (login, what) = match (answer.status, answer.token, carries) {
            (401, Some(ntlm), _) => (Login::Challenged(Challenged { asked, ntlm }), SignIn::Challenged),
            (401, None, _) => (Login::Nobody, SignIn::Rejected { after_answer: carries == Carries::Token(Leg::Next) }),
            (_, _, Carries::Token(_)) => (Login::SignedIn, SignIn::Accepted { answers }),
            (_, _, Carries::Nothing | Carries::PerRequest) if answer.pins() => (Login::SignedIn, SignIn::Unchanged),
            (_, _, Carries::Nothing | Carries::PerRequest) => (link.login, SignIn::Unchanged),
        };
        link.login = login;
        what
    }

    /// Whether the client connection must end with the answer just noted: its own connection there is about to be gone,
    /// or a bound is reached. A handshake may finish beyond the bound, but only one.
    pub fn ends(&mut self, origin: Origin, answer: Answered, now: Instant, bounds: Bounds) -> bool {
        let login = self.link(origin).map_or(Login::Nobody, |link| link.login);
        let expired = self.requests >= bounds.requests_max || now.duration_since(self.since) >= bounds.lifetime;
        let in_handshake = matches!(login, Login::Challenged(_));
        let over = expired && (!in_handshake || self.overdue);
        self.overdue |= expired;
        over || answer.closes && login != Login::Nobody
    }

    /// A connection is gone. Returns whether the client connection must go with it: somebody was signed in, or signing
    /// in, over it.
    pub fn lost(&mut self, number: ConnectionNumber) -> bool {
        let Some(link) = self.links.iter_mut().find(|link| link.connection == Some(number)) else { return false };
        link.connection = None;
        link.login != Login::Nobody
    }

    /// Whether what a request to this origin means depends on the connection: a handshake is under way there, or somebody
    /// is signed in.
    pub fn is_bound(&self, origin: Origin) -> bool {
        self.link(origin).is_some_and(|link| link.login != Login::Nobody)
    }

    fn link(&self, origin: Origin) -> Option<&Link> {
        self.links.iter().find(|link| link.origin == origin)
    }
}

/// A number that no other pin of this process ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinNumber(u64);

impl PinNumber {
    /// The part of Pingora's reuse key that keeps this pin's connections apart from all others.
    pub fn group_key(self) -> u64 {
        self.0
    }

    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST);
        PinNumber(NEXT.fetch_add(1, Relaxed))
    }
}

/// Lower keys belong to shared connections: one for each way of trusting a server (`organisation`).
pub const FIRST: u64 = 1 << 32;
