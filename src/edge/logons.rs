//! Who has failed to sign in too often. Whoever guesses passwords is stopped before the directory or a server is asked,
//! and does not lock the owner out: where somebody has signed in lately, they go by a count of their own (as the extranet
//! lockout of AD FS has it).

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};

use super::{
    sender::network,
    tally::{Key, Tally},
};
use crate::{config::Limits, identity::MailboxName};

/// Failed logons, and who is familiar where.
pub(super) struct Logons {
    failed: Tally,
    familiar: Cache<Key, ()>,
}

/// Somebody signs in from somewhere.
#[derive(Clone, Copy)]
pub(super) struct Attempt {
    user: Key,
    client: Key,
    /// This user from this client.
    both: Key,
}

/// A limit that has just been reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    User,
    Client,
}

impl Logons {
    pub(super) fn new() -> Self {
        const COUNTERS_MAX: u64 = 100_000; // some 20 MB, if as many have failed
        const FAMILIAR_MAX: u64 = 200_000; // some 30 MB
        const REMEMBERED: Duration = Duration::from_secs(14 * 24 * 60 * 60); // somebody comes back from a holiday
        let familiar = Cache::builder()
            .max_capacity(FAMILIAR_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(REMEMBERED)
            .build();
        Logons { failed: Tally::new(COUNTERS_MAX), familiar }
    }

    pub(super) fn attempt(&self, user: &MailboxName, client: IpAddr) -> Attempt {
        let (user, client) = (Account(user), network(client));
        Attempt {
            user: self.failed.key((1, &user)),
            client: self.failed.key((2, client)),
            both: self.failed.key((3, &user, client)),
        }
    }

    /// How long the attempt must wait; `None`: it may go on.
    pub(super) fn refuses(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Option<Duration> {
        let over = |key, max| self.failed.reached(key, max, now, limits.failed_logons_window);
        let Attempt { user, client, both } = attempt;
        match self.familiar.get(&both) {
            Some(()) => over(both, limits.failed_logons_per_user),
            None => over(user, limits.failed_logons_per_user).max(over(client, limits.failed_logons_per_client)),
        }
    }

    /// The password was wrong.
    pub(super) fn failed(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Option<Reached> {
        let count = |key| self.failed.count(key, now, limits.failed_logons_window);
        let Attempt { user, client, both } = attempt;
        if self.familiar.contains_key(&both) {
            return (count(both) == limits.failed_logons_per_user).then_some(Reached::User);
        }
        let of_client = count(client) == limits.failed_logons_per_client;
        match count(user) == limits.failed_logons_per_user {
            true => Some(Reached::User),
            false => of_client.then_some(Reached::Client),
        }
    }

    /// It was right. What somebody else has tried elsewhere is still counted.
    pub(super) fn succeeded(&self, attempt: Attempt) {
        match self.familiar.get(&attempt.both) {
            Some(()) => self.failed.forget(attempt.both),
            None => self.familiar.insert(attempt.both, ()),
        }
    }
}

/// A name without its domain, so that whoever guesses gets no further tries by writing it in another way. Two people who
/// share it in two domains share the count, too.
struct Account<'n>(&'n MailboxName);

impl Hash for Account<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self.0 {
            MailboxName::Address(address) => address.split('@').next().hash(state),
            MailboxName::Account { account: name, .. } | MailboxName::Bare(name) => Some(name.as_str()).hash(state),
            MailboxName::Guid(guid) => guid.hash(state),
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(600);

    fn limits() -> Limits {
        Limits {
            client_connections: 0,
            connections_per_client: 0,
            failed_logons_per_client: 6,
            failed_logons_per_user: 3,
            failed_logons_window: WINDOW,
            activesync_requests_per_minute: 0,
            body_rate_min_bytes: 0,
            header_bytes: 0,
            owa_body_bytes: 0,
            activesync_body_bytes: 0,
            ews_body_bytes: 0,
            rpc_body_bytes: 0,
            other_body_bytes: 0,
        }
    }

    fn attempt(logons: &Logons, user: &str, client: &str) -> Attempt {
        logons.attempt(&MailboxName::parse(user).expect("a name"), client.parse().expect("an address"))
    }

    #[test]
    fn a_guesser_is_stopped_and_the_owner_is_not() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let home = attempt(&logons, "ana", "198.51.100.1");
        logons.succeeded(home);
        let guess = attempt(&logons, "CONTOSO\\ana", "203.0.113.1");
        let reached = [0; 3].map(|_| logons.failed(guess, &limits, now));
        assert_eq!(reached, [None, None, Some(Reached::User)], "told once");
        for elsewhere in ["203.0.113.1", "203.0.113.2", "2001:db8::1"] {
            let again = attempt(&logons, "Ana@contoso.com", elsewhere);
            assert_eq!(logons.refuses(again, &limits, now), Some(WINDOW), "{elsewhere}");
        }
        assert_eq!(logons.refuses(home, &limits, now), None, "where ana is known she goes on");
        assert_eq!(logons.refuses(attempt(&logons, "bruno", "203.0.113.1"), &limits, now), None, "so does bruno");
        assert_eq!(logons.refuses(guess, &limits, now + WINDOW), None, "and it passes");
    }

    #[test]
    fn somebody_who_tries_many_names_from_one_place_is_stopped_there() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let known = attempt(&logons, "ana", "203.0.113.1");
        logons.succeeded(known);
        let reached: Vec<_> = (0..6)
            .map(|name| logons.failed(attempt(&logons, &format!("u{name}"), "203.0.113.1"), &limits, now))
            .collect();
        assert_eq!(reached[4..], [None, Some(Reached::Client)]);
        assert!(logons.refuses(attempt(&logons, "u9", "203.0.113.1"), &limits, now).is_some());
        assert_eq!(logons.refuses(attempt(&logons, "u9", "203.0.113.2"), &limits, now), None, "not elsewhere");
        assert_eq!(logons.refuses(known, &limits, now), None, "who shares the address and is known there goes on");
    }

    #[test]
    fn one_network_of_ipv6_is_one_client() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        for host in 0..6 {
            logons.failed(attempt(&logons, &format!("u{host}"), &format!("2001:db8::{host}")), &limits, now);
        }
        assert!(logons.refuses(attempt(&logons, "u9", "2001:db8::ffff"), &limits, now).is_some());
        assert_eq!(logons.refuses(attempt(&logons, "u9", "2001:db8:0:1::1"), &limits, now), None);
    }

    #[test]
    fn where_somebody_is_known_wrong_passwords_count_until_a_right_one_comes() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let home = attempt(&logons, "ana", "198.51.100.1");
        logons.succeeded(home);
        let fail = || logons.failed(home, &limits, now);
        assert_eq!([fail(), fail()], [None, None]);
        logons.succeeded(home);
        assert_eq!([fail(), fail(), fail()], [None, None, Some(Reached::User)]);
        assert!(logons.refuses(home, &limits, now).is_some());
        let elsewhere = attempt(&logons, "ana", "203.0.113.1");
        assert_eq!(logons.refuses(elsewhere, &limits, now), None, "that says nothing about other places");
    }
}
