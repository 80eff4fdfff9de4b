//! The last decisions, for the administrator to look at. Some of each second are kept, and of what clients are told more
//! than of what is passed on; a busy edge pays one atomic load for each of the others.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;
use serde::Serialize;

use url::form_urlencoded;

use crate::{identity::MailboxName, metrics::Outcome, routing::protocol::Protocol};

/// Some of the last decisions.
pub struct Decisions {
    began: Instant,
    /// Redirects and refusals.
    told: Ring,
    /// What was passed on.
    passed_on: Ring,
}

/// One request's end, as the administrator sees it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decided {
    /// When it ended, in seconds since 1970.
    pub at: f64,
    /// Its number, which no other has.
    pub number: u64,
    /// The client's address.
    pub client: String,
    /// The protocol; `-`: none that is served.
    pub protocol: &'static str,
    /// Who signed in, or by a hint most likely did; `-`: nobody.
    pub user: String,
    /// Whether that was proven.
    pub proven: bool,
    /// The mailbox asked for, where it is not the user's own; `-`: none.
    pub target: String,
    /// The mailbox's site, else the one that served.
    pub site: String,
    /// What became of it, as in the metrics.
    pub decision: &'static str,
    /// The rule, or why it was refused.
    pub rule: &'static str,
    /// The server it was passed to; `-`: none.
    pub server: String,
    /// The status that the client got; 0: none.
    pub status: u16,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Where it is explained; absent where there is nobody to explain it for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<String>,
}

impl Decided {
    /// One that ends now, of which nothing else is known but whom and what to explain it for.
    pub fn now(name: Option<&MailboxName>, protocol: Option<Protocol>) -> Decided {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let dash = || "-".to_owned();
        Decided {
            at: unix_now(),
            number: NUMBER.fetch_add(1, Relaxed),
            client: dash(),
            protocol: "-",
            user: dash(),
            proven: false,
            target: dash(),
            site: dash(),
            decision: "-",
            rule: "-",
            server: dash(),
            status: 0,
            duration_ms: 0,
            explain: name.zip(protocol).map(|(name, protocol)| {
                let explain = "/explain?";
                let mut query = form_urlencoded::Serializer::for_suffix(explain.to_owned(), explain.len());
                query.append_pair("user", &name.to_string()).append_pair("protocol", protocol.name());
                query.finish()
            }),
        }
    }
}

struct Ring {
    a_second_max: u64,
    /// The second, counted from the beginning, above how many of it were taken.
    taken: AtomicU64,
    kept: Mutex<VecDeque<Decided>>,
}

/// Kept of either kind.
const KEPT: usize = 50;

/// More than a person reads in a second.
const TOLD_A_SECOND: u64 = 10;
const PASSED_ON_A_SECOND: u64 = 3;

impl Decisions {
    /// None yet.
    pub fn new() -> Self {
        Decisions { began: Instant::now(), told: Ring::new(TOLD_A_SECOND), passed_on: Ring::new(PASSED_ON_A_SECOND) }
    }

    /// Notes a decision, if there is room for it in this second.
    pub fn note(&self, outcome: Outcome, now: Instant, decided: impl FnOnce() -> Decided) {
        let second = now.saturating_duration_since(self.began).as_secs();
        let ring = match outcome {
            Outcome::Local | Outcome::Proxy | Outcome::BackEnd => &self.passed_on,
            Outcome::RedirectPage
            | Outcome::MovedDevice
            | Outcome::SameHost
            | Outcome::OtherServer
            | Outcome::Refused
            | Outcome::EdgeAnswer => &self.told,
        };
        if ring.takes_one(second) {
            ring.keep(decided());
        }
    }

    /// The last first.
    pub fn latest(&self) -> Vec<Decided> {
        let rings = [&self.told, &self.passed_on];
        let mut all: Vec<_> =
            rings.iter().flat_map(|ring| ring.kept.lock().iter().cloned().collect::<Vec<_>>()).collect();
        all.sort_by(|one, other| other.at.total_cmp(&one.at));
        all
    }
}

impl Default for Decisions {
    fn default() -> Self {
        Decisions::new()
    }
}

impl Ring {
    fn new(a_second_max: u64) -> Self {
        Ring { a_second_max, taken: AtomicU64::new(0), kept: Mutex::new(VecDeque::with_capacity(KEPT)) }
    }

    fn takes_one(&self, second: u64) -> bool {
        const COUNT_BITS: u32 = 8;
        let next = |taken: u64| match (taken >> COUNT_BITS, taken & ((1 << COUNT_BITS) - 1)) {
            (of, count) if of == second => (count < self.a_second_max).then_some(taken + 1),
            _ => Some((second << COUNT_BITS) + 1),
        };
        self.taken.fetch_update(Relaxed, Relaxed, next).is_ok()
    }

    fn keep(&self, decided: Decided) {
        let mut kept = self.kept.lock();
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(decided);
    }
}

/// Now, in seconds since 1970.
pub fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn decided(number: u64) -> Decided {
        Decided {
            at: 1.0,
            number,
            client: String::new(),
            protocol: "owa",
            user: String::new(),
            proven: false,
            target: String::new(),
            site: String::new(),
            decision: "proxy",
            rule: "",
            server: String::new(),
            status: 200,
            duration_ms: 1,
            explain: None,
        }
    }

    #[test]
    fn what_is_passed_on_in_masses_leaves_the_refusals_their_place() {
        let decisions = Decisions::new();
        let later = |seconds| decisions.began + Duration::from_secs(seconds);
        decisions.note(Outcome::Refused, later(0), || Decided { decision: "refused", ..decided(0) });
        let mut made = 0;
        for second in 0..200 {
            for number in 0..100 {
                decisions.note(Outcome::Proxy, later(second), || {
                    made += 1;
                    decided(number)
                });
            }
        }
        assert_eq!(made, 200 * PASSED_ON_A_SECOND, "the others cost nothing");
        let latest = decisions.latest();
        assert_eq!(latest.len(), KEPT + 1);
        assert!(latest.iter().any(|it| it.decision == "refused"));
    }
}
