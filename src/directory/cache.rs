//! What stands between every request and the directory: answers kept for a while, and asked for once at a time.
//!
//! A name that is not kept is searched by the first request that wants it; the others wait for that search. Errors are
//! never kept: the next request asks again. Passwords are not kept either, only a keyed hash of them and the DN, under
//! a key that dies with the process.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::{Expiry, future::Cache};

use super::{Directory, DirectoryError, Entry, Tell};
use crate::{identity::MailboxName, secret::Secret};

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Names kept, found or not; the least used go first. About 500 bytes each.
    pub max_entries: u64,
    /// How long a found name is kept: how long a moved mailbox is still sought at its old home.
    pub found_lifetime: Duration,
    /// How long an unknown or ambiguous name is kept: how long a new mailbox may have to wait.
    pub not_found_lifetime: Duration,
    /// Verified credentials kept, right or wrong. About 200 bytes each.
    pub max_proofs: u64,
    /// How long a right password is believed: how long a changed one still works here.
    pub proof_lifetime: Duration,
    /// How long a wrong password is known as wrong. Briefer still: it may just have been set. At most `proof_lifetime`.
    pub disproof_lifetime: Duration,
    /// How long a mailbox that was found is still believed to be where it was while the directory is away. At least
    /// `found_lifetime`.
    pub stale_lifetime: Duration,
    /// Unknown names kept, apart from the known ones, so that a flood of made-up names displaces nobody.
    pub not_found_max: u64,
    /// How many wrong passwords of one person are asked of the directory within `wrong_passwords_window`.
    pub wrong_passwords_max: u32,
    /// See `wrong_passwords_max`.
    pub wrong_passwords_window: Duration,
}

/// A directory with a cache in front.
pub struct CachedDirectory {
    directory: Arc<dyn Directory>,
    lookups: Cache<MailboxName, Arc<Lookup>>,
    proofs: Cache<CredentialHash, bool>,
    credential_key: [u8; 32],
    counters: Counters,
    restored: std::sync::Mutex<std::collections::HashMap<MailboxName, Entry>>,
}

/// What the directory said about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// It belongs to this person.
    Found(Entry),
    /// It belongs to nobody.
    NotFound,
    /// It belongs to several entries, whose DNs these are; of many, some.
    Ambiguous(Vec<String>),
}

/// What happened so far, for metrics.
#[derive(Debug, Default)]
pub struct Counters {
    /// Names answered from the cache.
    pub hits: AtomicU64,
    /// Names that were not in it; many of these may have shared one search.
    pub misses: AtomicU64,
    /// Questions the directory was asked.
    pub searches: AtomicU64,
    /// Passwords the directory was asked about.
    pub binds: AtomicU64,
}

type CredentialHash = [u8; 32];

impl CachedDirectory {
    /// Puts an empty cache in front of a directory.
    ///
    /// # Panics
    /// If the operating system has no random bytes.
    #[allow(clippy::expect_used)] // no input leads here, and an edge with a guessable key must not start
    pub fn new(directory: Arc<dyn Directory>, settings: Settings, _tell: Tell) -> Self {
        let mut credential_key = [0; 32];
        rustls::crypto::ring::default_provider()
            .secure_random
            .fill(&mut credential_key)
            .expect("the operating system has random bytes");
        CachedDirectory {
            directory,
            lookups: Cache::builder()
                .max_capacity(settings.max_entries)
                .expire_after(LookupExpiry { found: settings.found_lifetime, other: settings.not_found_lifetime })
                .build(),
            proofs: Cache::builder()
                .max_capacity(settings.max_proofs)
                .expire_after(ProofExpiry {
                    right: settings.proof_lifetime,
                    wrong: settings.disproof_lifetime.min(settings.proof_lifetime),
                })
                .build(),
            credential_key,
            counters: Counters::default(),
            restored: std::sync::Mutex::default(),
        }
    }

    /// What the directory says about a name. A hit takes some 300 ns and allocates nothing itself; moka's housekeeping
    /// allocates about once in twelve hits.
    ///
    /// # Errors
    /// The directory's, shared by all who waited for the same search. An ambiguous name is an answer, not an error.
    pub async fn find(&self, name: &MailboxName) -> Result<Arc<Lookup>, Arc<DirectoryError>> {
        if let Some(lookup) = self.lookups.get(name).await {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(lookup);
        }
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        let found = self.lookups.try_get_with_by_ref(name, self.search(name)).await;
        let restored = || self.restored.lock().ok()?.get(name).cloned();
        found.or_else(|error| restored().map(|entry| Arc::new(Lookup::Found(entry))).ok_or(error))
    }

    /// Takes note of changes.
    pub fn apply(&self, _: &super::Changes) {}

    /// Everybody known, to be kept.
    pub fn remembered(&self) -> Vec<super::Remembered> {
        let now = std::time::SystemTime::now();
        let person = |(name, lookup): (Arc<MailboxName>, Arc<Lookup>)| match &*lookup {
            Lookup::Found(entry) => {
                Some(super::Remembered { names: vec![(*name).clone()], entry: entry.clone(), read_at: now })
            }
            Lookup::NotFound | Lookup::Ambiguous(_) => None,
        };
        self.lookups.iter().filter_map(person).collect()
    }

    /// Knows these people again.
    pub fn restore(&self, people: Vec<super::Remembered>) {
        if let Ok(mut restored) = self.restored.lock() {
            for super::Remembered { names, entry, .. } in people {
                restored.extend(names.into_iter().map(|name| (name, entry.clone())));
            }
        }
    }

    /// Whether this is the person's password.
    ///
    /// # Errors
    /// The directory's, shared by all who waited for the same answer.
    pub async fn verify(&self, entry: &Entry, password: &Secret) -> Result<bool, Arc<DirectoryError>> {
        if password.expose().is_empty() {
            return Ok(false);
        }
        let hash = self.credential_hash(entry, password);
        let bind = async {
            self.counters.binds.fetch_add(1, Ordering::Relaxed);
            self.directory.verify(entry, password).await
        };
        self.proofs.try_get_with(hash, bind).await
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    async fn search(&self, name: &MailboxName) -> Result<Arc<Lookup>, DirectoryError> {
        self.counters.searches.fetch_add(1, Ordering::Relaxed);
        match self.directory.find(name).await {
            Ok(Some(entry)) => Ok(Arc::new(Lookup::Found(entry))),
            Ok(None) => Ok(Arc::new(Lookup::NotFound)),
            Err(DirectoryError::Ambiguous { dns, .. }) => Ok(Arc::new(Lookup::Ambiguous(dns))),
            Err(error) => Err(error),
        }
    }

    /// The DN's length goes in too, so that no DN and password can be cut differently into another pair.
    fn credential_hash(&self, entry: &Entry, password: &Secret) -> CredentialHash {
        let mut hasher = blake3::Hasher::new_keyed(&self.credential_key);
        hasher.update(&(entry.dn.len() as u64).to_le_bytes());
        hasher.update(entry.dn.as_bytes());
        hasher.update(password.expose());
        *hasher.finalize().as_bytes()
    }
}

struct LookupExpiry {
    found: Duration,
    other: Duration,
}

impl Expiry<MailboxName, Arc<Lookup>> for LookupExpiry {
    fn expire_after_create(&self, _: &MailboxName, lookup: &Arc<Lookup>, _: Instant) -> Option<Duration> {
        Some(match **lookup {
            Lookup::Found(_) => self.found,
            Lookup::NotFound | Lookup::Ambiguous(_) => self.other,
        })
    }
}

struct ProofExpiry {
    right: Duration,
    wrong: Duration,
}

impl Expiry<CredentialHash, bool> for ProofExpiry {
    fn expire_after_create(&self, _: &CredentialHash, right: &bool, _: Instant) -> Option<Duration> {
        Some(if *right { self.right } else { self.wrong })
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use std::sync::atomic::AtomicBool;

    use async_trait::async_trait;
    use tokio::{sync::Semaphore, time::timeout};

    use super::*;
    use crate::directory::TopologyReading;

    const DEADLINE: Duration = Duration::from_secs(10);

    /// Knows `ana`, whose password is `right`; answers only as often as `answers` has permits.
    struct Fake {
        answers: Semaphore,
        away: AtomicBool,
    }

    #[async_trait]
    impl Directory for Fake {
        async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
            Ok(TopologyReading::default())
        }

        async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
            self.answer().await?;
            match name.to_string().as_str() {
                "ana" => Ok(Some(ana())),
                "both" => {
                    Err(DirectoryError::Ambiguous { name: name.clone(), dns: vec!["CN=a".into(), "CN=b".into()] })
                }
                _ => Ok(None),
            }
        }

        async fn changes(&self) -> Result<crate::directory::Changes, DirectoryError> {
            Ok(crate::directory::Changes::default())
        }

        async fn verify(&self, _: &Entry, password: &Secret) -> Result<bool, DirectoryError> {
            self.answer().await?;
            Ok(password.expose() == b"right")
        }
    }

    impl Fake {
        async fn answer(&self) -> Result<(), DirectoryError> {
            self.answers.acquire().await.expect("never closed").forget();
            if self.away.load(Ordering::Relaxed) {
                return Err(DirectoryError::Unreachable { server: "fake".into(), source: "away".into() });
            }
            Ok(())
        }
    }

    fn ana() -> Entry {
        Entry {
            id: crate::directory::EntryId([1; 16]),
            dn: "CN=ana".into(),
            name: "ana".into(),
            mailbox: None,
            master_account: None,
        }
    }

    fn bare(name: &str) -> MailboxName {
        MailboxName::Bare(name.into())
    }

    fn cached(answers: usize) -> (Arc<Fake>, Arc<CachedDirectory>) {
        let fake = Arc::new(Fake { answers: Semaphore::new(answers), away: AtomicBool::new(false) });
        let settings = Settings {
            max_entries: 100,
            found_lifetime: Duration::from_secs(600),
            not_found_lifetime: Duration::from_millis(50),
            max_proofs: 100,
            proof_lifetime: Duration::from_secs(600),
            disproof_lifetime: Duration::from_millis(50),
            stale_lifetime: Duration::from_secs(600),
            not_found_max: 100,
            wrong_passwords_max: 100,
            wrong_passwords_window: Duration::from_secs(600),
        };
        (fake.clone(), Arc::new(CachedDirectory::new(fake, settings, Arc::new(drop))))
    }

    fn count(counter: &AtomicU64) -> u64 {
        counter.load(Ordering::Relaxed)
    }

    /// Repeats an action until the counter moves: how a test waits for a lifetime to pass without guessing its length.
    async fn until_it_rises<F: Future>(counter: &AtomicU64, mut action: impl FnMut() -> F) {
        let before = count(counter);
        let rising = async {
            while count(counter) == before {
                action().await;
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, rising).await.expect("the lifetime passes");
    }

    #[tokio::test]
    async fn a_found_name_is_searched_once_and_then_hit() {
        let (_, directory) = cached(1);
        for _ in 0..3 {
            let lookup = directory.find(&bare("ana")).await.expect("an answer");
            assert_eq!(*lookup, Lookup::Found(ana()));
        }
        let counters = directory.counters();
        assert_eq!((count(&counters.searches), count(&counters.misses), count(&counters.hits)), (1, 1, 2));
    }

    #[tokio::test]
    async fn many_who_want_one_cold_name_share_one_search() {
        let (fake, directory) = cached(0);
        let finds: Vec<_> = (0..200)
            .map(|_| {
                let directory = directory.clone();
                tokio::spawn(async move { directory.find(&bare("ana")).await.map(|lookup| (*lookup).clone()) })
            })
            .collect();
        let all_ask = async {
            while count(&directory.counters().misses) < 200 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, all_ask).await.expect("all ask");
        fake.answers.add_permits(1);
        for find in finds {
            let lookup = timeout(DEADLINE, find).await.expect("in time").expect("no panic").expect("an answer");
            assert_eq!(lookup, Lookup::Found(ana()));
        }
        assert_eq!(count(&directory.counters().searches), 1);
    }

    #[tokio::test]
    async fn a_search_whose_client_went_away_is_taken_over_by_the_next_who_waits() {
        let (fake, directory) = cached(0);
        let find = |directory: Arc<CachedDirectory>| {
            tokio::spawn(async move { directory.find(&bare("ana")).await.map(|lookup| (*lookup).clone()) })
        };
        let (first, second) = (find(directory.clone()), find(directory.clone()));
        let both_ask = async {
            while count(&directory.counters().misses) < 2 {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, both_ask).await.expect("both ask");
        first.abort();
        fake.answers.add_permits(1);
        let lookup = timeout(DEADLINE, second).await.expect("in time").expect("no panic").expect("an answer");
        assert_eq!(lookup, Lookup::Found(ana()));
    }

    #[tokio::test]
    async fn unknown_and_ambiguous_names_are_answers_that_are_soon_asked_for_again() {
        let (_, directory) = cached(Semaphore::MAX_PERMITS);
        for (name, answer) in
            [("nobody", Lookup::NotFound), ("both", Lookup::Ambiguous(vec!["CN=a".into(), "CN=b".into()]))]
        {
            let name = bare(name);
            assert_eq!(*directory.find(&name).await.expect("an answer"), answer);
            until_it_rises(&directory.counters().searches, || directory.find(&name)).await;
        }
    }

    #[tokio::test]
    async fn an_error_is_not_kept() {
        let (fake, directory) = cached(Semaphore::MAX_PERMITS);
        fake.away.store(true, Ordering::Relaxed);
        directory.find(&bare("ana")).await.expect_err("the directory is away");
        directory.verify(&ana(), &Secret::new(*b"right")).await.expect_err("the directory is away");
        fake.away.store(false, Ordering::Relaxed);
        assert_eq!(*directory.find(&bare("ana")).await.expect("an answer"), Lookup::Found(ana()));
        assert!(directory.verify(&ana(), &Secret::new(*b"right")).await.expect("an answer"));
    }

    #[tokio::test]
    async fn a_right_password_is_believed_and_a_wrong_one_soon_asked_about_again() {
        let (_, directory) = cached(Semaphore::MAX_PERMITS);
        let (ana, right, wrong) = (ana(), Secret::new(*b"right"), Secret::new(*b"wrong"));
        for _ in 0..3 {
            assert!(directory.verify(&ana, &right).await.expect("an answer"));
        }
        assert_eq!(count(&directory.counters().binds), 1);
        assert!(!directory.verify(&ana, &wrong).await.expect("an answer"));
        until_it_rises(&directory.counters().binds, || directory.verify(&ana, &wrong)).await;
    }

    #[tokio::test]
    async fn a_password_proves_one_person_only() {
        let (_, directory) = cached(Semaphore::MAX_PERMITS);
        let hash = |dn: &str, password: &str| {
            let entry = Entry { dn: dn.into(), ..ana() };
            directory.credential_hash(&entry, &Secret::new(password.as_bytes()))
        };
        assert_eq!(hash("CN=ana", "right"), hash("CN=ana", "right"));
        assert_ne!(hash("CN=ana", "right"), hash("CN=bruno", "right"));
        assert_ne!(hash("CN=ana", "right"), hash("CN=anar", "ight"));
    }

    #[tokio::test]
    async fn an_empty_password_is_wrong_without_asking() {
        let (_, directory) = cached(0);
        let verdict = timeout(DEADLINE, directory.verify(&ana(), &Secret::new([]))).await.expect("at once");
        assert!(!verdict.expect("an answer"));
        assert_eq!(count(&directory.counters().binds), 0);
    }
}
