//! Passwords: which are known as right or wrong, and how many wrong ones the directory is asked about.
//!
//! Active Directory locks an account after so many wrong passwords, and counts from nought again when a while has
//! passed since the last. The edge counts in the same way and stops earlier, so whoever guesses here locks nobody out.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};
use parking_lot::Mutex;

use super::{
    Counters, Settings,
    books::Sweep,
    clock::{Clock, Moment},
};
use crate::{
    directory::{Directory, DirectoryError, Entry, Notice, Tell, Unusable, Verdict, schema},
    secret::Secret,
};

/// Not the passwords are kept, only a keyed hash of them and the DN, under a key that dies with the process.
pub(super) struct Passwords {
    directory: Arc<dyn Directory>,
    settings: Settings,
    tell: Tell,
    counters: Arc<Counters>,
    clock: Arc<Clock>,
    key: [u8; 32],
    proofs: Cache<Hash, Verdict>,
    /// Each account's last right password, by its hash: whoever has it is not kept out by what others guess.
    last_right: Cache<Hash, Hash>,
    /// Accounts that are locked, whatever the password.
    locked: Cache<Hash, ()>,
    accounts: Mutex<Accounts>,
}

type Hash = [u8; 32];

/// People for whom the directory was asked about a wrong password of late, or is being asked.
#[derive(Default)]
struct Accounts {
    attempts: HashMap<Hash, Attempts>,
    sweep: Sweep,
    swept_at: Option<Moment>,
}

struct Attempts {
    wrong: u32,
    last_wrong_at: Moment,
    in_flight: u32,
}

/// One password that the directory is being asked about. It counts as wrong until it is known to be something else.
struct Attempt<'p> {
    passwords: &'p Passwords,
    entry: &'p Entry,
    account: Hash,
    counts: bool,
}

/// Why there is nothing to remember.
enum NotKept {
    /// The directory was not asked.
    TooMany,
    /// Nor was it here: a moment ago it said so of another password.
    Locked,
    Error(Arc<DirectoryError>),
}

impl Passwords {
    /// # Panics
    /// If the operating system has no random bytes.
    #[allow(clippy::expect_used)] // no input leads here, and an edge with a guessable key must not start
    pub(super) fn new(
        directory: Arc<dyn Directory>,
        settings: Settings,
        tell: Tell,
        counters: Arc<Counters>,
        clock: Arc<Clock>,
    ) -> Self {
        let mut key = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut key)
            .expect("the operating system has random bytes");
        let wrong = settings.disproof_lifetime.min(settings.proof_lifetime);
        let expiry = ProofExpiry { right: settings.proof_lifetime, wrong };
        let locked = Cache::builder().max_capacity(settings.max_proofs).time_to_live(wrong).build();
        let last_right = Cache::builder().max_capacity(settings.max_proofs).time_to_live(LAST_RIGHT_LIFETIME).build();
        let proofs = Cache::builder().max_capacity(settings.max_proofs).expire_after(expiry).build();
        Passwords {
            directory,
            settings,
            tell,
            counters,
            clock,
            key,
            proofs,
            last_right,
            locked,
            accounts: Mutex::default(),
        }
    }

    pub(super) async fn verify(&self, entry: &Entry, password: &Secret) -> Result<Verdict, Arc<DirectoryError>> {
        if password.expose().is_empty() {
            return Ok(Verdict::Wrong);
        }
        let hash = self.credential_hash(entry, password);
        let ask = async {
            // Not the entry's id: the owners of an ambiguous name are known by their DNs only.
            let account = *blake3::keyed_hash(&self.key, schema::fold_dn(&entry.dn).as_bytes()).as_bytes();
            if self.locked.contains_key(&account) {
                return Err(NotKept::Locked);
            }
            let was_right = self.last_right.get(&account).await == Some(hash);
            let mut attempt = self.attempt(entry, account);
            if attempt.is_none() && !was_right {
                return Err(NotKept::TooMany);
            }
            self.counters.binds.fetch_add(1, Ordering::Relaxed);
            let verdict = self.directory.verify(entry, password).await;
            let counts = match &verdict {
                Ok(Verdict::Wrong) | Err(DirectoryError::TimedOut { .. }) => true,
                // The right password, or an account that is locked already, which the directory does not count; or it was
                // not asked, or answered with something else than a verdict.
                Ok(Verdict::Right | Verdict::Unusable(_))
                | Err(
                    DirectoryError::Unreachable { .. }
                    | DirectoryError::Rejected { .. }
                    | DirectoryError::Ambiguous { .. }
                    | DirectoryError::Malformed { .. }
                    | DirectoryError::Unusable { .. },
                ) => false,
            };
            if let Some(attempt) = &mut attempt {
                attempt.counts = counts;
            }
            match verdict {
                Ok(Verdict::Right) => self.last_right.insert(account, hash).await,
                Ok(Verdict::Wrong) if was_right => self.last_right.invalidate(&account).await,
                Ok(_) | Err(_) => {}
            }
            if let Ok(Verdict::Unusable(Unusable::AccountLocked)) = verdict {
                self.locked.insert(account, ()).await;
            }
            verdict.map_err(|error| NotKept::Error(Arc::new(error)))
        };
        let verdict = self.proofs.try_get_with(hash, ask).await;
        verdict.or_else(|not_kept| match &*not_kept {
            NotKept::TooMany => {
                self.counters.passwords_not_asked.fetch_add(1, Ordering::Relaxed);
                Ok(Verdict::Wrong)
            }
            NotKept::Locked => Ok(Verdict::Unusable(Unusable::AccountLocked)),
            NotKept::Error(error) => Err(error.clone()),
        })
    }

    /// The DN's length goes in too, so that no DN and password can be cut differently into another pair.
    pub(super) fn credential_hash(&self, entry: &Entry, password: &Secret) -> Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(entry.dn.len() as u64).to_le_bytes());
        hasher.update(entry.dn.as_bytes());
        hasher.update(password.expose());
        *hasher.finalize().as_bytes()
    }

    #[cfg(test)]
    pub(super) fn accounts_noted(&self) -> usize {
        self.accounts.lock().attempts.len()
    }

    /// `None`: too many are wrong, or would be if all in flight were.
    fn attempt<'p>(&'p self, entry: &'p Entry, account: Hash) -> Option<Attempt<'p>> {
        let (now, window) = (self.clock.now(), self.settings.wrong_passwords_window);
        let mut accounts = self.accounts.lock();
        let Accounts { attempts, sweep, swept_at } = &mut *accounts;
        let is_full = attempts.len() >= ACCOUNTS_MAX && !attempts.contains_key(&account);
        let was_just_swept = swept_at.is_some_and(|then| now.since(then) < SWEEP_INTERVAL);
        if sweep.is_due(attempts.len()) || is_full && !was_just_swept {
            attempts.retain(|_, it| it.in_flight > 0 || now.since(it.last_wrong_at) < window);
            sweep.is_done(attempts.len());
            *swept_at = Some(now);
        }
        if attempts.len() >= ACCOUNTS_MAX && !attempts.contains_key(&account) {
            return None;
        }
        let it = attempts.entry(account).or_insert(Attempts { wrong: 0, last_wrong_at: Moment::NEVER, in_flight: 0 });
        if now.since(it.last_wrong_at) >= window {
            it.wrong = 0;
        }
        if it.wrong + it.in_flight >= self.settings.wrong_passwords_max {
            return None;
        }
        it.in_flight += 1;
        Some(Attempt { passwords: self, entry, account, counts: true })
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let Passwords { settings, tell, clock, accounts, .. } = self.passwords;
        let mut accounts = accounts.lock();
        let Some(it) = accounts.attempts.get_mut(&self.account) else { return };
        it.in_flight -= 1;
        if self.counts {
            it.wrong += 1;
            it.last_wrong_at = clock.now();
        }
        let is_last = self.counts && it.wrong == settings.wrong_passwords_max;
        if it.wrong == 0 && it.in_flight == 0 {
            accounts.attempts.remove(&self.account);
        }
        drop(accounts);
        if is_last {
            tell(Notice::WrongPasswords { name: self.entry.name.clone(), pause: settings.wrong_passwords_window });
        }
    }
}

struct ProofExpiry {
    right: Duration,
    wrong: Duration,
}

impl Expiry<Hash, Verdict> for ProofExpiry {
    fn expire_after_create(&self, _: &Hash, verdict: &Verdict, _: Instant) -> Option<Duration> {
        Some(if verdict.is_right() { self.right } else { self.wrong })
    }
}

/// How long a password that was right is asked about, however many others were wrong since.
const LAST_RIGHT_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// How many people may have had wrong passwords of late; about 60 bytes each. Whoever guesses at more of them at a time
/// is answered "wrong" without asking, rather than given more guesses.
const ACCOUNTS_MAX: usize = if cfg!(test) { 2000 } else { 1_000_000 };
/// How soon a full table is swept again, which takes some 20 ms.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
