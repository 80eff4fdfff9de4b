//! The gate: whose upstream connection a request may use. A pure state machine, without sockets or clock.
//!
//! A credential such as NTLM authenticates the *connection* (RFC 4559 section 6). So a client connection whose request
//! ever carried one ([`Carries::pins`]) is **pinned**: from then on its requests use upstream connections that belong to
//! it alone, one for each origin. They are told apart by a process-wide counter, which is part of the key under which
//! Pingora reuses connections; never by an address, a file descriptor or a user name, because all of those are used again
//! for somebody else.
//!
//! For a request that is not connection-bound, on a client connection that is not pinned, there is no [`Gate`] at all:
//! it costs nothing. (If a server authenticates its connection all the same, [`Answered::pins`], nobody uses that one
//! again.) A pinned client connection has one, and every one of its requests passes through it:
//!
//! ```text
//! admit -> approach(origin) -> connected(reused, which) -> answered(status, token) -> ends?
//!                                     lost(which), at any time
//! ```
//!
//! Each own connection is anonymous, challenged or signed in. An anonymous one may be lost and replaced. If one of the
//! others is lost, the client connection is over, as if the server itself had hung up. Whoever signs in over one of them is
//! not signed in over the others any more. Whatever is not as expected fails closed:
//! the request goes nowhere, and the client connection ends.

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
    /// `Persistent-Auth`, by which IIS says that the connection is authenticated from now on, or that it is not.
    pub persistent: Option<bool>,
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
    /// The connection that somebody was signed in over, or signing in, is gone, and with it what this request means.
    #[error("the server's connection that this client was signing in, or had signed in, over is gone")]
    Lost,
    /// It answers a challenge that another server gave, or that waits no more. (From a client that was never challenged, it
    /// is the server's to judge.)
    #[error("a message came that answers a challenge, but the one that this client was given does not wait there")]
    Astray,
    /// The own connection was gone before anything was sent. Approach again: another may take its place.
    #[error("the own connection is gone")]
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
    /// The server wants a credential, and whoever was signed in there is no more.
    Rejected,
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
    /// Some server has challenged it.
    has_challenged: bool,
    /// A bound was passed, and a handshake was let finish.
    overdue: bool,
    /// A connection was lost over which somebody was signed in, or signing in: the client connection must end.
    over: bool,
    links: Vec<Link>,
}

/// The pin's connection to one origin; it stands here as long as it is open.
#[derive(Debug)]
struct Link {
    origin: Origin,
    connection: ConnectionNumber,
    login: Login,
    /// Somebody has signed in over it, or begun to; the server may still take them for it after a refusal.
    is_personal: bool,
}

/// What a server has last said of the client behind a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Login {
    Nobody,
    Challenged(Challenged),
    SignedIn,
}

/// Origins that one client connection may have connections to at a time. Two are common (a mailbox's server and the
/// local pool, for Outlook's address book); whoever needs more loses the oldest, and rather one that nobody is signed in
/// over.
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
}

impl Answered {
    /// Whether the connection that this came over may not serve anybody else any more.
    pub fn pins(self) -> bool {
        self.token.is_some() || self.persistent == Some(true)
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
        let (number, links) = (PinNumber::next(), Vec::new());
        Gate { number, since: now, requests: 0, has_challenged: false, overdue: false, over: false, links }
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
    /// What it carries means something on one connection only, and that is not there.
    pub fn approach(&self, origin: Origin, carries: Carries) -> Result<Expect, Closed> {
        let link = self.link(origin);
        let is_challenged = link.is_some_and(|link| link.login.is_challenged());
        match carries {
            Carries::Nothing | Carries::Token(_) if self.over => Err(Closed::Lost),
            Carries::Token(Leg::Next) if self.has_challenged && !is_challenged => Err(Closed::Astray),
            Carries::Nothing | Carries::PerRequest | Carries::Token(_) => {
                Ok(if link.is_some() { Expect::Own } else { Expect::New })
            }
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
        let own = self.link(origin).map(|link| link.connection);
        match (expected, reused, which) {
            (Expect::Own, true, Some(_)) if which == own => Ok(()),
            (Expect::Own, false, _) => {
                if let Some(own) = own {
                    self.lost(own); // Pingora would have found it
                }
                Err(Closed::Reopen)
            }
            (Expect::New, false, Some(number)) => {
                self.make_room(origin);
                self.links.push(Link { origin, connection: number, login: Login::Nobody, is_personal: false });
                Ok(())
            }
            // One of its own that was given up; Pingora had not noticed yet that it is closed.
            (Expect::New, true, None) => Err(Closed::Reopen),
            (Expect::Own, true, _) | (Expect::New, _, _) => Err(Closed::Stranger),
        }
    }

    /// The server has answered. `asked` is a number of the request, the same for the same method and target.
    pub fn answered(&mut self, origin: Origin, carries: Carries, asked: u64, answer: Answered) -> SignIn {
        let Some(link) = self.links.iter_mut().find(|link| link.origin == origin) else {
            self.over = true; // it went while it answered, and what the answer said of it is void
            return SignIn::Unchanged;
        };
        let answers = link.login.challenge().filter(|_| carries == Carries::Token(Leg::Next));
        let (login, sign_in) = match (answer.status, answer.token, carries) {
            (401, Some(ntlm), _) => (Login::Challenged(Challenged { asked, ntlm }), SignIn::Challenged),
            (401, None, _) => (Login::Nobody, SignIn::Rejected),
            (_, _, Carries::Token(_)) => (Login::SignedIn, SignIn::Accepted { answers }),
            (_, _, Carries::Nothing | Carries::PerRequest) if answer.pins() => (Login::SignedIn, SignIn::Unchanged),
            (_, _, Carries::Nothing | Carries::PerRequest) => return SignIn::Unchanged,
        };
        link.login = login;
        link.is_personal |= login != Login::Nobody;
        self.has_challenged |= sign_in == SignIn::Challenged;
        if login != Login::Nobody {
            // Whoever signs in last is who the client connection is: nobody is signed in elsewhere over it, or signing in.
            self.links.retain(|link| link.origin == origin || !link.is_personal);
        }
        sign_in
    }

    /// Whether the client connection must end with the answer just noted: an own connection that mattered is gone, or
    /// about to be, or a bound is reached. A client that has just been challenged may answer beyond the bound, but once.
    pub fn ends(&mut self, origin: Origin, answer: Answered, now: Instant, bounds: Bounds) -> bool {
        let login = self.link(origin).map_or(Login::Nobody, |link| link.login);
        let has_expired = self.has_expired(now, bounds);
        let may_finish = login.is_challenged() && !self.overdue;
        self.overdue |= has_expired;
        self.over || has_expired && !may_finish || answer.closes && login != Login::Nobody
    }

    /// Whether a bound is reached.
    pub fn has_expired(&self, now: Instant, bounds: Bounds) -> bool {
        self.requests >= bounds.requests_max || now.duration_since(self.since) >= bounds.lifetime
    }

    /// A connection is gone.
    pub fn lost(&mut self, number: ConnectionNumber) {
        if let Some(index) = self.links.iter().position(|link| link.connection == number) {
            self.forget(index);
        }
    }

    /// Whether the client connection must end: at once, or with the answer that is under way.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Whether it has a connection there.
    pub fn is_open(&self, origin: Origin) -> bool {
        self.link(origin).is_some()
    }

    /// Whether somebody is signed in over any of its connections.
    pub fn is_signed_in(&self) -> bool {
        self.links.iter().any(|link| link.login == Login::SignedIn)
    }

    /// Whether it is one of the pin's connections. One that is not, or not any more, is to be closed.
    pub fn owns(&self, number: ConnectionNumber) -> bool {
        self.links.iter().any(|link| link.connection == number)
    }

    fn make_room(&mut self, origin: Origin) {
        if let Some(index) = self.links.iter().position(|link| link.origin == origin) {
            self.forget(index);
        }
        if self.links.len() >= ORIGINS_MAX {
            let least = self.links.iter().position(|link| link.login == Login::Nobody);
            self.forget(least.unwrap_or(0));
        }
    }

    fn forget(&mut self, index: usize) {
        self.over |= self.links.remove(index).login != Login::Nobody;
    }

    fn link(&self, origin: Origin) -> Option<&Link> {
        self.links.iter().find(|link| link.origin == origin)
    }
}

impl Login {
    fn challenge(self) -> Option<Challenged> {
        match self {
            Login::Challenged(challenge) => Some(challenge),
            Login::Nobody | Login::SignedIn => None,
        }
    }

    fn is_challenged(self) -> bool {
        self.challenge().is_some()
    }
}

/// A number that no other pin of this process ever had, nor any ticket by which an [`errand`](super::errand) is signed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinNumber(u64);

impl PinNumber {
    /// The part of Pingora's reuse key that keeps this pin's connections apart from all others.
    pub fn group_key(self) -> u64 {
        self.0
    }

    /// One that nobody has had.
    pub fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        PinNumber(NEXT.fetch_add(1, Relaxed))
    }
}

/// Keys from here on belong to shared connections (`organisation`); nobody ever counts as many pins.
pub const KEYS_END: u64 = 1 << 63;

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may fail by panicking
mod tests {
    use super::*;
    use crate::{
        identity::{MailboxName, Token, UnreadableCredential, token::Shows},
        secret::Secret,
    };

    const HERE: Origin = 1;
    const THERE: Origin = 2;
    const BEGIN: Carries = Carries::Token(Leg::First);
    const REPLY: Carries = Carries::Token(Leg::Next);
    const OK: Answered = Answered { status: 200, token: None, persistent: None, closes: false, offers_windows: false };
    const REFUSAL: Answered = Answered { status: 401, offers_windows: true, ..OK };
    const NTLM: ntlm::Challenge = ntlm::Challenge { unicode: true };
    const CHALLENGE: Answered = Answered { token: Some(Some(NTLM)), ..REFUSAL };
    const MANY: Bounds = Bounds { lifetime: Duration::MAX, requests_max: u64::MAX };

    fn gate() -> Gate {
        Gate::new(Instant::now())
    }

    /// A request opens connection `number` and gets this answer.
    fn opened(gate: &mut Gate, origin: Origin, number: ConnectionNumber, carries: Carries, answer: Answered) -> SignIn {
        assert_eq!(gate.approach(origin, carries), Ok(Expect::New));
        assert_eq!(gate.connected(origin, Expect::New, false, Some(number)), Ok(()));
        gate.answered(origin, carries, 7, answer)
    }

    /// A gate with connection 10 in this state.
    fn anonymous() -> Gate {
        let mut gate = gate();
        assert_eq!(opened(&mut gate, HERE, 10, Carries::Nothing, OK), SignIn::Unchanged);
        gate
    }

    fn challenged() -> Gate {
        let mut gate = gate();
        assert_eq!(opened(&mut gate, HERE, 10, BEGIN, CHALLENGE), SignIn::Challenged);
        gate
    }

    fn signed_in() -> Gate {
        let mut gate = gate();
        assert_eq!(opened(&mut gate, HERE, 10, BEGIN, OK), SignIn::Accepted { answers: None });
        gate
    }

    fn ends(gate: &mut Gate, answer: Answered) -> bool {
        gate.ends(HERE, answer, Instant::now(), MANY)
    }

    #[test]
    fn only_a_message_that_authenticates_the_connection_pins_it() {
        let token = |leg| Credential::ConnectionBound(Token { leg, shows: Shows::Nothing });
        let user = MailboxName::parse_bytes(b"ana").unwrap();
        for (credential, carries, pins) in [
            (Credential::None, Carries::Nothing, false),
            (Credential::Bearer, Carries::PerRequest, false),
            (Credential::Unreadable(UnreadableCredential::NoColon), Carries::PerRequest, false),
            (Credential::Basic { user, password: Secret::new(&b"Pass-word1"[..]) }, Carries::PerRequest, false),
            (token(Leg::First), BEGIN, true),
            (token(Leg::Next), REPLY, true),
        ] {
            assert_eq!(Carries::of(&credential), carries, "{credential:?}");
            assert_eq!(carries.pins(), pins, "{credential:?}");
        }
    }

    #[test]
    fn an_answer_with_a_token_or_persistent_auth_keeps_others_off_its_connection() {
        for (answer, pins) in [
            (OK, false),
            (REFUSAL, false),
            (CHALLENGE, true),
            (Answered { token: Some(None), ..OK }, true),
            (Answered { persistent: Some(true), ..OK }, true),
            (Answered { persistent: Some(false), ..OK }, false),
        ] {
            assert_eq!(answer.pins(), pins, "{answer:?}");
        }
    }

    #[test]
    fn every_challenge_field_of_an_answer_counts() {
        use token::Challenge::{Offer, PerRequest, Token};
        let noted = |challenges: &[token::Challenge]| {
            let mut answered = OK;
            for challenge in challenges {
                answered.note(*challenge);
            }
            (answered.offers_windows, answered.token)
        };
        assert_eq!(noted(&[PerRequest]), (false, None));
        assert_eq!(noted(&[PerRequest, Offer]), (true, None));
        assert_eq!(noted(&[Token(None), Offer]), (true, Some(None)));
        assert_eq!(noted(&[Token(None), Token(Some(NTLM))]), (true, Some(Some(NTLM))));
        assert_eq!(noted(&[Token(Some(NTLM)), Token(None)]), (true, Some(Some(NTLM))));
    }

    #[test]
    fn no_two_pins_share_a_number_nor_a_key_with_shared_connections() {
        let (one, other) = (gate().number(), gate().number());
        assert_ne!(one, other);
        assert!(one.group_key() < other.group_key() && other.group_key() < KEYS_END);
    }

    #[test]
    fn a_handshake_stays_on_the_connection_that_it_began_on() {
        let mut gate = challenged();
        assert_eq!(gate.approach(HERE, REPLY), Ok(Expect::Own));
        assert_eq!(gate.connected(HERE, Expect::Own, true, Some(10)), Ok(()));
        let answers = Some(Challenged { asked: 7, ntlm: Some(NTLM) });
        assert_eq!(gate.answered(HERE, REPLY, 7, OK), SignIn::Accepted { answers });
        assert!(!ends(&mut gate, OK));
        assert_eq!(gate.approach(HERE, Carries::Nothing), Ok(Expect::Own));
        assert_eq!(gate.connected(HERE, Expect::Own, true, Some(10)), Ok(()));
        assert_eq!(gate.answered(HERE, Carries::Nothing, 8, OK), SignIn::Unchanged);
        assert!(!ends(&mut gate, OK));
    }

    #[test]
    fn a_refused_answer_and_a_refused_sign_in_are_told_apart() {
        assert_eq!(challenged().answered(HERE, REPLY, 7, REFUSAL), SignIn::Rejected);
        assert_eq!(challenged().answered(HERE, BEGIN, 7, REFUSAL), SignIn::Rejected);
        assert_eq!(signed_in().answered(HERE, Carries::Nothing, 7, REFUSAL), SignIn::Rejected);
    }

    #[test]
    fn whoever_is_signed_in_may_sign_in_anew() {
        let mut gate = signed_in();
        assert_eq!(gate.approach(HERE, BEGIN), Ok(Expect::Own));
        assert_eq!(gate.answered(HERE, BEGIN, 9, CHALLENGE), SignIn::Challenged);
        let answers = Some(Challenged { asked: 9, ntlm: Some(NTLM) });
        assert_eq!(gate.answered(HERE, REPLY, 9, OK), SignIn::Accepted { answers });
    }

    #[test]
    fn a_message_that_begins_a_handshake_answers_nothing_even_if_it_is_accepted() {
        assert_eq!(challenged().answered(HERE, BEGIN, 7, OK), SignIn::Accepted { answers: None });
    }

    #[test]
    fn a_mechanism_with_three_legs_may_take_them() {
        let mut gate = challenged();
        let again = Answered { token: Some(None), ..REFUSAL };
        assert_eq!(gate.answered(HERE, REPLY, 7, again), SignIn::Challenged);
        assert_eq!(gate.approach(HERE, REPLY), Ok(Expect::Own));
        let answers = Some(Challenged { asked: 7, ntlm: None });
        assert_eq!(gate.answered(HERE, REPLY, 7, OK), SignIn::Accepted { answers });
    }

    #[test]
    fn the_answer_to_a_challenge_goes_nowhere_but_to_where_it_waits() {
        assert_eq!(challenged().approach(HERE, REPLY), Ok(Expect::Own));
        assert_eq!(challenged().approach(THERE, REPLY), Err(Closed::Astray), "another server asked");
        let mut gate = challenged();
        assert_eq!(opened(&mut gate, THERE, 11, BEGIN, CHALLENGE), SignIn::Challenged);
        assert_eq!(gate.approach(HERE, REPLY), Err(Closed::Astray), "another server asked since");
        assert_eq!(gate.approach(THERE, REPLY), Ok(Expect::Own));
    }

    #[test]
    fn an_answer_that_nobody_asked_for_is_the_servers_to_judge() {
        assert_eq!(gate().approach(HERE, REPLY), Ok(Expect::New));
        assert_eq!(anonymous().approach(HERE, REPLY), Ok(Expect::Own));
        assert_eq!(signed_in().approach(HERE, REPLY), Ok(Expect::Own));
    }

    #[test]
    fn a_token_in_an_answer_that_nobody_asked_for_binds_the_connection() {
        for carries in [Carries::Nothing, Carries::PerRequest] {
            for answer in [Answered { token: Some(None), ..OK }, Answered { persistent: Some(true), ..OK }] {
                let mut gate = anonymous();
                assert_eq!(gate.answered(HERE, carries, 7, answer), SignIn::Unchanged);
                gate.lost(10);
                assert!(gate.is_over(), "{carries:?} {answer:?}");
            }
            let mut gate = anonymous();
            assert_eq!(gate.answered(HERE, carries, 7, CHALLENGE), SignIn::Challenged);
            assert_eq!(gate.approach(HERE, REPLY), Ok(Expect::Own));
        }
    }

    #[test]
    fn an_anonymous_connection_that_is_lost_is_replaced() {
        let mut gate = anonymous();
        gate.lost(10);
        assert!(!gate.is_over());
        assert!(!gate.owns(10));
        assert_eq!(opened(&mut gate, HERE, 11, Carries::Nothing, OK), SignIn::Unchanged);
        assert!(gate.owns(11));
    }

    #[test]
    fn with_a_connection_that_somebody_is_signing_in_over_the_client_connection_is_over() {
        for mut gate in [challenged(), signed_in()] {
            gate.lost(10);
            assert!(gate.is_over());
            for carries in [Carries::Nothing, BEGIN, REPLY] {
                assert_eq!(gate.approach(HERE, carries), Err(Closed::Lost), "{carries:?}");
                assert_eq!(gate.approach(THERE, carries), Err(Closed::Lost), "{carries:?}");
            }
            assert_eq!(opened(&mut gate, HERE, 11, Carries::PerRequest, OK), SignIn::Unchanged);
            assert!(ends(&mut gate, OK), "a request that was on its way is the last");
        }
    }

    #[test]
    fn a_loss_that_is_noticed_late_ends_nothing() {
        let mut gate = anonymous();
        assert_eq!(gate.connected(HERE, Expect::Own, false, None), Err(Closed::Reopen));
        assert_eq!(opened(&mut gate, HERE, 11, BEGIN, OK), SignIn::Accepted { answers: None });
        gate.lost(10);
        assert!(!gate.is_over() && gate.owns(11));
    }

    #[test]
    fn a_connection_that_goes_while_it_answers_takes_the_client_connection_with_it() {
        let mut gate = gate();
        assert_eq!(gate.connected(HERE, Expect::New, false, Some(10)), Ok(()));
        gate.lost(10);
        assert_eq!(gate.answered(HERE, BEGIN, 7, CHALLENGE), SignIn::Unchanged);
        assert!(ends(&mut gate, CHALLENGE));
    }

    #[test]
    fn an_own_connection_that_pingora_no_longer_has_is_lost_before_anything_is_sent() {
        let mut gate = anonymous();
        assert_eq!(gate.connected(HERE, Expect::Own, false, None), Err(Closed::Reopen));
        assert_eq!(gate.approach(HERE, Carries::Nothing), Ok(Expect::New));
        for mut gate in [challenged(), signed_in()] {
            assert_eq!(gate.connected(HERE, Expect::Own, false, None), Err(Closed::Reopen));
            assert!(gate.is_over());
            assert_eq!(gate.approach(HERE, REPLY), Err(Closed::Lost));
        }
    }

    #[test]
    fn a_connection_that_is_not_the_own_is_a_stranger() {
        let mut gate = anonymous();
        assert_eq!(opened(&mut gate, THERE, 11, Carries::Nothing, OK), SignIn::Unchanged);
        for which in [None, Some(11), Some(99)] {
            assert_eq!(gate.connected(HERE, Expect::Own, true, which), Err(Closed::Stranger), "{which:?}");
        }
        for (reused, which) in [(true, Some(12)), (true, Some(10)), (false, None)] {
            assert_eq!(gate.connected(3, Expect::New, reused, which), Err(Closed::Stranger), "{reused} {which:?}");
        }
        let given_up = gate.connected(3, Expect::New, true, None);
        assert_eq!(given_up, Err(Closed::Reopen), "one that was the pin's own before");
    }

    #[test]
    fn a_server_that_closes_ends_the_client_connection_only_if_somebody_signs_in_there() {
        let closing = Answered { closes: true, ..OK };
        assert!(!ends(&mut anonymous(), closing));
        assert!(ends(&mut challenged(), Answered { closes: true, ..CHALLENGE }));
        assert!(ends(&mut signed_in(), closing));
        let mut gate = challenged();
        assert_eq!(gate.answered(HERE, REPLY, 7, REFUSAL), SignIn::Rejected);
        assert!(
            !ends(&mut gate, Answered { closes: true, ..REFUSAL }),
            "a wrong password may be followed by a right one"
        );
    }

    #[test]
    fn the_last_request_that_a_pin_may_send_ends_it() {
        let bounds = Bounds { requests_max: 2, ..MANY };
        let mut gate = signed_in();
        gate.admit();
        assert!(!gate.ends(HERE, OK, Instant::now(), bounds));
        gate.admit();
        assert!(gate.ends(HERE, OK, Instant::now(), bounds));
    }

    #[test]
    fn a_pin_ends_with_the_first_answer_after_its_lifetime() {
        let bounds = Bounds { lifetime: Duration::from_secs(60), ..MANY };
        let (mut gate, since) = (signed_in(), Instant::now());
        assert!(!gate.ends(HERE, OK, since + Duration::from_secs(59), bounds));
        assert!(gate.ends(HERE, OK, since + Duration::from_secs(60), bounds));
    }

    #[test]
    fn one_handshake_may_finish_beyond_the_bound_but_only_one() {
        let bounds = Bounds { requests_max: 0, ..MANY };
        let mut gate = challenged();
        assert!(!gate.ends(HERE, CHALLENGE, Instant::now(), bounds), "the client may answer");
        assert_eq!(gate.approach(HERE, REPLY), Ok(Expect::Own));
        gate.answered(HERE, REPLY, 7, OK);
        assert!(gate.ends(HERE, OK, Instant::now(), bounds), "and that is the end");

        let mut gate = challenged();
        assert!(!gate.ends(HERE, CHALLENGE, Instant::now(), bounds));
        gate.answered(HERE, BEGIN, 7, CHALLENGE);
        assert!(gate.ends(HERE, CHALLENGE, Instant::now(), bounds), "another handshake is one too many");
    }

    #[test]
    fn whoever_needs_one_origin_too_many_loses_the_oldest_that_nobody_is_signed_in_over() {
        let mut gate = signed_in();
        for other in 1..ORIGINS_MAX as u64 {
            opened(&mut gate, HERE + other, 10 + other, Carries::PerRequest, OK);
        }
        opened(&mut gate, 100, 100, Carries::PerRequest, OK);
        assert!(gate.owns(10) && !gate.owns(11) && gate.owns(12) && gate.owns(100));
        assert!(!gate.is_over());
    }

    #[test]
    fn whoever_signs_in_elsewhere_is_not_signed_in_here_any_more() {
        for refused in [false, true] {
            let mut gate = signed_in();
            if refused {
                // Perhaps only that one request; the server may go on serving others to whoever signed in before.
                assert_eq!(gate.answered(HERE, Carries::PerRequest, 7, REFUSAL), SignIn::Rejected);
            }
            assert_eq!(opened(&mut gate, THERE, 11, BEGIN, CHALLENGE), SignIn::Challenged);
            assert!(!gate.owns(10) && gate.owns(11), "the connection of before is closed");
            assert!(!gate.is_over());
        }
    }
}
