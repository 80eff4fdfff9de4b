//! What sessions of POP3 and IMAP4 are counted by. Their logons are counted as requests are, because that is what the edge
//! decides; how long a session lasts is its client's business, and would tell nothing beside the time of a page.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::{ByName, Histogram, NOTHING, Outcome};
use crate::routing::protocol::Protocol;

/// All counts of mail.
pub struct Mail {
    logons: ByName<SiteLogons>,
    durations: [Histogram; PROTOCOLS.len()],
    sessions: [[AtomicU64; State::ALL.len()]; PROTOCOLS.len()],
    begun: [AtomicU64; PROTOCOLS.len()],
    passed: [[AtomicU64; Direction::ALL.len()]; PROTOCOLS.len()],
}

/// A session under way, counted as such until it is dropped.
pub struct Session {
    mail: Arc<Mail>,
    protocol: usize,
    state: State,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has logged on yet.
    Logon,
    /// Somebody has, and speaks to a server.
    Open,
}

/// What came of a logon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logon {
    /// Signed in at a server.
    SignedIn,
    /// Refused as a wrong password is.
    WrongPassword,
    /// Refused for another reason than that something does not work: by a rule, a limit, or as the account is.
    Denied,
    /// The server said no to a password that the directory had found right.
    ServerRefused,
    /// Something did not work: the directory, the server, the edge.
    Failed,
}

/// Which way bytes have passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the server.
    ToClient,
    /// From the client.
    ToServer,
}

/// The logons of one site's mailboxes, by protocol, outcome and what came of it.
struct SiteLogons([AtomicU64; PROTOCOLS.len() * Outcome::ALL.len() * Logon::ALL.len()]);

const PROTOCOLS: [Protocol; 2] = [Protocol::Pop3, Protocol::Imap4];

impl Mail {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Mail {
            logons: ByName::new(),
            durations: Default::default(),
            sessions: Default::default(),
            begun: Default::default(),
            passed: Default::default(),
        }
    }

    /// A client of POP3 or IMAP4 has connected.
    pub fn begin(self: &Arc<Self>, protocol: Protocol) -> Session {
        let protocol = PROTOCOLS.iter().position(|known| *known == protocol).unwrap_or_default();
        self.begun[protocol].fetch_add(1, Relaxed);
        self.sessions[protocol][State::Logon as usize].fetch_add(1, Relaxed);
        Session { mail: self.clone(), protocol, state: State::Logon }
    }

    /// Every count of logons that is not 0: protocol, site, outcome, what came of it.
    pub fn each_logon(&self, mut each: impl FnMut(&'static str, &str, Outcome, Logon, u64)) {
        for (site, counts) in self.logons.0.load().iter() {
            for (place, count) in counts.0.iter().enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    let (rest, logon) = (place / Logon::ALL.len(), place % Logon::ALL.len());
                    let (protocol, outcome) = (rest / Outcome::ALL.len(), rest % Outcome::ALL.len());
                    each(PROTOCOLS[protocol].name(), site, Outcome::ALL[outcome], Logon::ALL[logon], count);
                }
            }
        }
    }

    /// How long logons took that ended at a server.
    pub fn durations(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        let all = PROTOCOLS.into_iter().map(Protocol::name).zip(&self.durations);
        all.filter(|(_, histogram)| !histogram.is_empty())
    }

    /// Sessions under way.
    pub fn sessions(&self) -> impl Iterator<Item = (Protocol, State, u64)> {
        let all = PROTOCOLS.into_iter().zip(&self.sessions);
        all.flat_map(|(protocol, counts)| {
            State::ALL.map(|state| (protocol, state, counts[state as usize].load(Relaxed)))
        })
    }

    /// Sessions that have begun.
    pub fn begun(&self) -> impl Iterator<Item = (Protocol, u64)> {
        PROTOCOLS.into_iter().zip(&self.begun).map(|(protocol, count)| (protocol, count.load(Relaxed)))
    }

    /// Bytes that were passed on in sessions that have ended.
    pub fn passed(&self) -> impl Iterator<Item = (Protocol, Direction, u64)> {
        let all = PROTOCOLS.into_iter().zip(&self.passed);
        all.flat_map(|(protocol, counts)| Direction::ALL.map(|way| (protocol, way, counts[way as usize].load(Relaxed))))
    }
}

impl Default for Mail {
    fn default() -> Self {
        Mail::new()
    }
}

impl Session {
    /// A logon was refused; the client may try again. `site`: the mailbox's, where it was found out.
    pub fn refused(&self, site: Option<&str>, outcome: Outcome, logon: Logon) {
        self.count(site, outcome, logon);
    }

    /// A logon has ended at a server of the mailbox's, this long after it was asked for; the session is open.
    pub fn signed_in(&mut self, site: Option<&str>, outcome: Outcome, took: Duration) {
        self.count(site, outcome, Logon::SignedIn);
        self.mail.durations[self.protocol].observe(took);
        self.is_now(State::Open);
    }

    /// So much was passed on: told once, when the session ends.
    pub fn passed(&self, to_client: u64, to_server: u64) {
        let counts = &self.mail.passed[self.protocol];
        counts[Direction::ToClient as usize].fetch_add(to_client, Relaxed);
        counts[Direction::ToServer as usize].fetch_add(to_server, Relaxed);
    }

    fn count(&self, site: Option<&str>, outcome: Outcome, logon: Logon) {
        let place = (self.protocol * Outcome::ALL.len() + outcome as usize) * Logon::ALL.len() + logon as usize;
        self.mail.logons.get(site.unwrap_or(NOTHING)).0[place].fetch_add(1, Relaxed);
    }

    fn is_now(&mut self, state: State) {
        let counts = &self.mail.sessions[self.protocol];
        counts[state as usize].fetch_add(1, Relaxed);
        counts[self.state as usize].fetch_sub(1, Relaxed);
        self.state = state;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.mail.sessions[self.protocol][self.state as usize].fetch_sub(1, Relaxed);
    }
}

impl State {
    const ALL: [State; 2] = [State::Logon, State::Open];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            State::Logon => "logon",
            State::Open => "open",
        }
    }
}

impl Logon {
    const ALL: [Logon; 5] = [Logon::SignedIn, Logon::WrongPassword, Logon::Denied, Logon::ServerRefused, Logon::Failed];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Logon::SignedIn => "signed_in",
            Logon::WrongPassword => "wrong_password",
            Logon::Denied => "denied",
            Logon::ServerRefused => "server_refused",
            Logon::Failed => "failed",
        }
    }
}

impl Direction {
    const ALL: [Direction; 2] = [Direction::ToClient, Direction::ToServer];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Direction::ToClient => "to_client",
            Direction::ToServer => "to_server",
        }
    }
}

impl Default for SiteLogons {
    fn default() -> Self {
        SiteLogons(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logons(mail: &Mail) -> Vec<(&'static str, String, &'static str, &'static str, u64)> {
        let mut found = Vec::new();
        mail.each_logon(|protocol, site, outcome, logon, count| {
            found.push((protocol, site.to_owned(), outcome.name(), logon.name(), count));
        });
        found.sort_unstable();
        found
    }

    #[test]
    fn a_session_is_counted_as_far_as_it_is_until_it_ends() {
        let mail = Arc::new(Mail::new());
        let now = || mail.sessions().map(|(_, _, count)| count).collect::<Vec<_>>();
        let mut one = mail.begin(Protocol::Imap4);
        let other = mail.begin(Protocol::Pop3);
        assert_eq!(now(), [1, 0, 1, 0], "POP3, then IMAP4");
        one.signed_in(Some("Porto"), Outcome::Proxy, Duration::from_millis(20));
        assert_eq!(now(), [1, 0, 0, 1]);
        drop(other);
        drop(one);
        assert_eq!(now(), [0, 0, 0, 0]);
        assert_eq!(mail.begun().map(|(_, count)| count).collect::<Vec<_>>(), [1, 1]);
    }

    #[test]
    fn every_logon_of_a_session_is_counted_where_it_belongs() {
        let mail = Arc::new(Mail::new());
        for protocol in PROTOCOLS {
            for outcome in Outcome::ALL {
                for logon in Logon::ALL {
                    mail.begin(protocol).refused(Some("Porto"), outcome, logon);
                }
            }
        }
        let all = logons(&mail);
        assert_eq!(all.len(), PROTOCOLS.len() * Outcome::ALL.len() * Logon::ALL.len(), "none is mixed up: {all:?}");
        assert!(all.iter().all(|(_, site, _, _, count)| site == "Porto" && *count == 1), "{all:?}");
        mail.begin(Protocol::Pop3).refused(None, Outcome::EdgeAnswer, Logon::WrongPassword);
        mail.begin(Protocol::Pop3).signed_in(Some("Porto"), Outcome::BackEnd, Duration::from_millis(3));
        let all = logons(&mail);
        assert!(all.contains(&("pop3", "-".to_owned(), "edge_answer", "wrong_password", 1)), "{all:?}");
        assert!(all.contains(&("pop3", "Porto".to_owned(), "back_end", "signed_in", 2)), "{all:?}");
    }

    #[test]
    fn what_was_passed_on_is_counted_by_its_direction() {
        let mail = Arc::new(Mail::new());
        mail.begin(Protocol::Imap4).passed(3, 2);
        mail.begin(Protocol::Imap4).passed(30, 20);
        let passed: Vec<_> = mail.passed().map(|(protocol, way, bytes)| (protocol.name(), way.name(), bytes)).collect();
        let imap4 = [("imap4", "to_client", 33), ("imap4", "to_server", 22)];
        assert_eq!(passed, [("pop3", "to_client", 0), ("pop3", "to_server", 0), imap4[0], imap4[1]]);
    }
}
