//! Who has failed to sign in too often. Whoever guesses passwords is stopped before the directory or a server is asked,
//! and does not lock the owner out: where somebody has signed in lately, they go by a count of their own (as the extranet
//! lockout of AD FS has it).
//!
//! A name counts as it is written, without its domain. Somebody whose user principal name and account name differ has a
//! count for each, so that Windows may see twice as many wrong passwords: whoever wants to be sure sets half the limit.

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

use super::{
    sender::network,
    tally::{Key, Tally},
};
use crate::{config::Limits, identity::MailboxName, secret::Secret};

/// Failed logons, those that are not judged yet, and who is familiar where.
pub(crate) struct Logons {
    failed: Tally,
    familiar: Cache<Key, Passwords>,
    pending: Arc<Pending>,
}

/// Somebody signs in from somewhere.
#[derive(Clone, Copy)]
pub(crate) struct Attempt {
    client: Key,
    /// `None`: nobody can read who it is.
    person: Option<Person>,
}

#[derive(Clone, Copy)]
struct Person {
    user: Key,
    /// This user from this client, by distinct passwords.
    both: Key,
    /// The same, every time.
    repeated: Key,
    /// The password, where it is sent: this user's from this client.
    password: Option<Key>,
}

/// The last passwords that were right, the newest first: as many as Active Directory remembers, which does not count them
/// as wrong either. So a telephone with yesterday's password shuts nobody out.
#[derive(Clone, Copy, Default)]
struct Passwords([Option<Key>; 2]);

/// Limits that have just been reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reached {
    pub(super) user: bool,
    pub(super) client: bool,
}

/// Attempts of people where they are not familiar, which no server has judged yet; never more than there are requests.
#[derive(Default)]
struct Pending(Mutex<HashMap<Key, Attempts>>);

#[derive(Default)]
struct Attempts {
    /// By where each comes from.
    under_way: Vec<Key>,
    /// Told whenever one is judged, and gone with the last.
    judged: watch::Sender<()>,
}

/// An attempt that is under way, until it is judged or this is dropped.
pub(crate) struct Turn {
    person: Person,
    pending: Arc<Pending>,
}

/// Why an attempt cannot go on now.
enum Wait {
    /// Too many have failed.
    For(Duration),
    /// Too many would have, if all that are under way did.
    Judgement(watch::Receiver<()>),
}

impl Logons {
    pub(super) fn new() -> Self {
        const COUNTERS_MAX: u64 = 100_000; // some 20 MB, if as many have failed
        const FAMILIAR_MAX: u64 = 200_000; // some 40 MB
        const REMEMBERED: Duration = Duration::from_secs(14 * 24 * 60 * 60); // somebody comes back from a holiday
        let familiar = Cache::builder()
            .max_capacity(FAMILIAR_MAX)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(REMEMBERED)
            .build();
        Logons { failed: Tally::new(COUNTERS_MAX), familiar, pending: Arc::default() }
    }

    /// Somebody's attempt; of a password that is sent, a keyed hash is kept.
    pub(crate) fn attempt(&self, user: Option<&MailboxName>, password: Option<&Secret>, client: IpAddr) -> Attempt {
        let (keys, client) = (&self.failed, network(client));
        let person = user.map(Account).map(|user| Person {
            user: keys.key((1, &user)),
            both: keys.key((3, &user, client)),
            repeated: keys.key((4, &user, client)),
            password: password.map(|password| keys.key((5, &user, client, password.expose()))),
        });
        Attempt { client: keys.key((2, client)), person }
    }

    /// Lets an attempt go on, once those before it are judged; `Err`: it must wait so long.
    pub(crate) async fn enter(&self, attempt: Attempt, limits: &Limits) -> Result<Option<Turn>, Duration> {
        const PATIENCE: Duration = Duration::from_secs(3);
        let turn = async {
            loop {
                match self.try_enter(attempt, limits, Instant::now()) {
                    Ok(turn) => return Ok(turn),
                    Err(Wait::For(time)) => return Err(time),
                    Err(Wait::Judgement(mut judged)) => drop(judged.changed().await), // or nobody is under way any more
                }
            }
        };
        timeout(PATIENCE, turn).await.unwrap_or(Err(PATIENCE))
    }

    fn try_enter(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Result<Option<Turn>, Wait> {
        let over = |key, max| self.failed.reached(key, max, now, limits.failed_logons_window);
        let max = limits.failed_logons_per_user;
        let Some(person) = attempt.person else {
            return over(attempt.client, limits.failed_logons_per_client).map_or(Ok(None), |time| Err(Wait::For(time)));
        };
        if let Some(passwords) = self.familiar.get(&person.both) {
            if passwords.have(person.password) {
                return Ok(None);
            }
            // Requests may be held for an hour here, and those of the owner be many; so none waits for another.
            let known_wrong = person.password.and_then(|password| over(password, 1));
            let of_known_wrong = known_wrong.and_then(|_| over(person.repeated, max));
            return over(person.both, max).max(of_known_wrong).map_or(Ok(None), |time| Err(Wait::For(time)));
        }
        // Held while it is compared, so that of many at once no more get in than may fail.
        let mut pending = self.pending.0.lock();
        if let Some(time) = over(person.user, max).max(over(attempt.client, limits.failed_logons_per_client)) {
            return Err(Wait::For(time));
        }
        let attempts = pending.entry(person.user).or_default();
        let under_way = u32::try_from(attempts.under_way.len()).unwrap_or(u32::MAX);
        // The first always may: none has failed too often.
        if under_way > 0 && over(person.user, max.saturating_sub(under_way)).is_some() || under_way >= max.max(1) {
            return Err(Wait::Judgement(attempts.judged.subscribe()));
        }
        attempts.under_way.push(person.both);
        drop(pending);
        Ok(Some(Turn { person, pending: self.pending.clone() }))
    }

    /// The password was wrong.
    pub(crate) fn failed(&self, attempt: Attempt, limits: &Limits, now: Instant) -> Reached {
        let count = |key| self.failed.count(key, now, limits.failed_logons_window);
        let is_new = |password: Option<Key>| password.is_none_or(|password| count(password) == 1);
        let (of_user, of_client) = (limits.failed_logons_per_user, limits.failed_logons_per_client);
        let Some(person) = attempt.person else {
            return Reached { user: false, client: count(attempt.client) == of_client };
        };
        match self.familiar.get(&person.both) {
            Some(passwords) if passwords.have(person.password) => Reached::default(),
            // A program that repeats an old password leaves the others of its owner their tries. Together Windows sees less
            // than twice the limit.
            Some(_) => {
                let is_new = is_new(person.password);
                count(person.repeated);
                Reached { user: is_new && count(person.both) == of_user, client: false }
            }
            None => Reached {
                user: count(person.user) == of_user,
                client: is_new(person.password) && count(attempt.client) == of_client,
            },
        }
    }

    /// It was right. What somebody else has tried elsewhere is still counted.
    pub(crate) fn succeeded(&self, attempt: Attempt) {
        let Some(person) = attempt.person else { return };
        let known = self.familiar.get(&person.both);
        if known.is_some() {
            self.failed.forget(person.both);
            self.failed.forget(person.repeated);
        }
        let passwords = known.unwrap_or_default();
        let is_newest = person.password.is_none() || passwords.0[0] == person.password;
        if known.is_none() || !is_newest {
            self.familiar.insert(person.both, passwords.with(person.password));
        }
        self.pending.forget(person);
    }
}

impl Passwords {
    fn have(self, password: Option<Key>) -> bool {
        password.is_some() && self.0.contains(&password)
    }

    fn with(self, password: Option<Key>) -> Self {
        let [newest, _] = self.0;
        if password.is_none() || newest == password { self } else { Passwords([password, newest]) }
    }
}

impl Pending {
    /// One is judged.
    fn judged(&self, person: Person) {
        self.remove(person, |under_way| {
            if let Some(place) = under_way.iter().position(|both| *both == person.both) {
                under_way.swap_remove(place);
            }
        });
    }

    /// Whoever is familiar now is not counted any more.
    fn forget(&self, person: Person) {
        self.remove(person, |under_way| under_way.retain(|both| *both != person.both));
    }

    fn remove(&self, person: Person, from: impl FnOnce(&mut Vec<Key>)) {
        let mut pending = self.0.lock();
        let Some(attempts) = pending.get_mut(&person.user) else { return };
        from(&mut attempts.under_way);
        attempts.judged.send_replace(());
        if attempts.under_way.is_empty() {
            pending.remove(&person.user);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.pending.judged(self.person);
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
        with(logons, user, None, client)
    }

    fn with(logons: &Logons, user: &str, password: Option<&str>, client: &str) -> Attempt {
        let user = MailboxName::parse(user).expect("a name");
        let password = password.map(|password| Secret::new(password.as_bytes()));
        logons.attempt(Some(&user), password.as_ref(), client.parse().expect("an address"))
    }

    /// How long an attempt would have to wait that is judged at once.
    fn refuses(logons: &Logons, attempt: Attempt, limits: &Limits, now: Instant) -> Option<Duration> {
        match logons.try_enter(attempt, limits, now) {
            Ok(_) => None,
            Err(Wait::For(time)) => Some(time),
            Err(Wait::Judgement(_)) => Some(Duration::ZERO),
        }
    }

    const NEITHER: Reached = Reached { user: false, client: false };
    const USER: Reached = Reached { user: true, client: false };
    const CLIENT: Reached = Reached { user: false, client: true };

    #[test]
    fn a_guesser_is_stopped_and_the_owner_is_not() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let home = attempt(&logons, "ana", "198.51.100.1");
        logons.succeeded(home);
        let guess = attempt(&logons, "CONTOSO\\ana", "203.0.113.1");
        let reached = [0; 3].map(|_| logons.failed(guess, &limits, now));
        assert_eq!(reached, [NEITHER, NEITHER, USER], "told once");
        for elsewhere in ["203.0.113.1", "203.0.113.2", "2001:db8::1"] {
            let again = attempt(&logons, "Ana@contoso.com", elsewhere);
            assert_eq!(refuses(&logons, again, &limits, now), Some(WINDOW), "{elsewhere}");
        }
        assert_eq!(refuses(&logons, home, &limits, now), None, "where ana is known she goes on");
        assert_eq!(refuses(&logons, attempt(&logons, "bruno", "203.0.113.1"), &limits, now), None, "so does bruno");
        assert_eq!(refuses(&logons, guess, &limits, now + WINDOW), None, "and it passes");
    }

    #[test]
    fn somebody_who_tries_many_names_from_one_place_is_stopped_there() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let known = attempt(&logons, "ana", "203.0.113.1");
        logons.succeeded(known);
        let reached: Vec<_> = (0..6)
            .map(|name| logons.failed(attempt(&logons, &format!("u{name}"), "203.0.113.1"), &limits, now))
            .collect();
        assert_eq!(reached[4..], [NEITHER, CLIENT]);
        assert!(refuses(&logons, attempt(&logons, "u9", "203.0.113.1"), &limits, now).is_some());
        assert_eq!(refuses(&logons, attempt(&logons, "u9", "203.0.113.2"), &limits, now), None, "not elsewhere");
        assert_eq!(refuses(&logons, known, &limits, now), None, "who shares the address and is known there goes on");
    }

    #[test]
    fn one_network_of_ipv6_is_one_client() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        for host in 0..6 {
            logons.failed(attempt(&logons, &format!("u{host}"), &format!("2001:db8::{host}")), &limits, now);
        }
        assert!(refuses(&logons, attempt(&logons, "u9", "2001:db8::ffff"), &limits, now).is_some());
        assert_eq!(refuses(&logons, attempt(&logons, "u9", "2001:db8:0:1::1"), &limits, now), None);
    }

    #[test]
    fn where_somebody_is_known_wrong_passwords_count_until_a_right_one_comes() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let home = attempt(&logons, "ana", "198.51.100.1");
        logons.succeeded(home);
        let fail = || logons.failed(home, &limits, now);
        assert_eq!([fail(), fail()], [NEITHER, NEITHER]);
        logons.succeeded(home);
        assert_eq!([fail(), fail(), fail()], [NEITHER, NEITHER, USER]);
        assert!(refuses(&logons, home, &limits, now).is_some());
        let elsewhere = attempt(&logons, "ana", "203.0.113.1");
        assert_eq!(refuses(&logons, elsewhere, &limits, now), None, "that says nothing about other places");
    }

    #[test]
    fn a_telephone_with_an_old_password_shuts_nobody_out() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let at_home = |password| with(&logons, "ana", password, "198.51.100.1");
        let (old, new, typo) = (at_home(Some("old")), at_home(Some("new")), at_home(Some("typo")));
        logons.succeeded(old);
        assert_eq!([0; 9].map(|_| logons.failed(old, &limits, now)), [NEITHER; 9], "Windows does not count it either");
        assert_eq!(refuses(&logons, new, &limits, now), None);
        logons.succeeded(new);
        assert_eq!([0; 9].map(|_| logons.failed(old, &limits, now)), [NEITHER; 9]);
        assert_eq!([0; 9].map(|_| logons.failed(typo, &limits, now)), [NEITHER; 9], "one wrong password is one");
        assert!(refuses(&logons, typo, &limits, now).is_some(), "but is not asked about for ever");
        assert_eq!(refuses(&logons, at_home(None), &limits, now), None, "what signs in by NTLM goes on");
        logons.failed(at_home(Some("guess 2")), &limits, now);
        assert_eq!(logons.failed(at_home(Some("guess 3")), &limits, now), USER);
        assert!(refuses(&logons, at_home(Some("guess 4")), &limits, now).is_some());
        assert_eq!(refuses(&logons, new, &limits, now), None, "the right one always passes");
        let elsewhere = with(&logons, "ana", Some("new"), "203.0.113.1");
        assert_eq!([0; 3].map(|_| logons.failed(elsewhere, &limits, now)), [NEITHER, NEITHER, USER], "there all count");
    }

    #[test]
    fn a_password_that_is_repeated_counts_once_for_its_client() {
        let (logons, mut limits, now) = (Logons::new(), limits(), Instant::now());
        limits.failed_logons_per_user = 100;
        let old = with(&logons, "ana", Some("old"), "198.51.100.1");
        assert_eq!([0; 9].map(|_| logons.failed(old, &limits, now)), [NEITHER; 9]);
        assert_eq!(refuses(&logons, attempt(&logons, "bruno", "198.51.100.1"), &limits, now), None);
    }

    #[test]
    fn who_cannot_be_named_counts_for_the_client() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let nobody = logons.attempt(None, None, "203.0.113.1".parse().expect("an address"));
        let reached: Vec<_> = (0..6).map(|_| logons.failed(nobody, &limits, now)).collect();
        assert_eq!(reached[4..], [NEITHER, CLIENT]);
        assert!(refuses(&logons, nobody, &limits, now).is_some());
        assert!(refuses(&logons, attempt(&logons, "ana", "203.0.113.1"), &limits, now).is_some());
    }

    #[test]
    fn both_limits_may_be_reached_at_once() {
        let (logons, mut limits, now) = (Logons::new(), limits(), Instant::now());
        (limits.failed_logons_per_user, limits.failed_logons_per_client) = (1, 1);
        let reached = logons.failed(attempt(&logons, "ana", "203.0.113.1"), &limits, now);
        assert_eq!(reached, Reached { user: true, client: true });
    }

    #[test]
    fn no_more_are_under_way_than_may_fail() {
        let (logons, limits, now) = (Logons::new(), limits(), Instant::now());
        let guess = attempt(&logons, "ana", "203.0.113.1");
        logons.failed(guess, &limits, now);
        let enter = |attempt| logons.try_enter(attempt, &limits, now).ok().flatten();
        let [one, two] = [enter(guess), enter(attempt(&logons, "ana", "203.0.113.2"))];
        assert!(one.is_some() && two.is_some());
        assert!(matches!(logons.try_enter(guess, &limits, now), Err(Wait::Judgement(_))));
        drop(two);
        let two = enter(guess);
        assert!(two.is_some(), "one was right, or its client has left");
        logons.failed(guess, &limits, now);
        logons.failed(guess, &limits, now);
        drop((one, two));
        assert!(matches!(logons.try_enter(guess, &limits, now), Err(Wait::For(_))));
        assert!(logons.pending.0.lock().is_empty());
    }

    #[tokio::test]
    async fn who_has_to_wait_goes_on_when_one_before_was_right() {
        let (logons, limits) = (Logons::new(), limits());
        let right = attempt(&logons, "ana", "198.51.100.1");
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(logons.enter(right, &limits).await.expect("it may go on"));
        }
        let elsewhere = attempt(&logons, "ana", "198.51.100.2");
        let (entered, ()) = tokio::join!(logons.enter(elsewhere, &limits), async { logons.succeeded(right) });
        assert!(entered.is_ok_and(|turn| turn.is_some()), "those that are held where ana is known do not count");
    }
}
