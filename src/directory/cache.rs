//! What stands between every request and the directory: answers kept for a while, and asked for once at a time.
//!
//! A name that is not kept is searched when the first request wants it; the others wait for that search. One that is
//! asked for all the time is searched again before its lifetime ends, and nobody waits. A change of a person is seen
//! under all the person's names. What was found serves longer while the directory is away; an error is never kept, the
//! next request asks again.

mod books;
mod clock;
mod passwords;
mod people;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::runtime::Handle;

use self::{clock::Clock, passwords::Passwords, people::People};
use super::{Changes, Directory, DirectoryError, Entry, Remembered, Tell, Verdict};
use crate::{identity::MailboxName, secret::Secret};

/// How much is kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Names of people kept; the least used go first. About 750 bytes each.
    pub max_entries: u64,
    /// How long a found name is good, if no change of its person is noticed before. One that is asked for is searched
    /// again after three quarters of it, while what is known serves.
    pub found_lifetime: Duration,
    /// How long an unknown or ambiguous name is kept: how long a new mailbox may have to wait if nobody notices it.
    pub not_found_lifetime: Duration,
    /// Verified credentials kept, right or wrong. About 200 bytes each.
    pub max_proofs: u64,
    /// How long a right password is believed: how long a changed one still works here.
    pub proof_lifetime: Duration,
    /// How long a wrong password is known as wrong. Briefer still: it may just have been set. At most `proof_lifetime`.
    /// As long nobody asks about an account that is locked.
    pub disproof_lifetime: Duration,
    /// How long a mailbox that was found is still believed to be where it was while the directory is away. At least
    /// `found_lifetime`.
    pub stale_lifetime: Duration,
    /// Unknown and ambiguous names kept, apart from the others, so that a flood of made-up names displaces nobody.
    pub not_found_max: u64,
    /// How many wrong passwords of one person are asked of the directory until `wrong_passwords_window` has passed
    /// without another. At least 1.
    pub wrong_passwords_max: u32,
    /// See `wrong_passwords_max`.
    pub wrong_passwords_window: Duration,
}

/// A directory with a cache in front.
pub struct CachedDirectory {
    directory: Arc<dyn Directory>,
    people: Arc<People>,
    passwords: Passwords,
    counters: Arc<Counters>,
    #[cfg(test)]
    clock: Arc<Clock>,
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
    /// Names that had to wait for a search; many of these may have shared one.
    pub misses: AtomicU64,
    /// Names that had to be answered with what was known before, because the directory gave no answer.
    pub stale_answers: AtomicU64,
    /// Searches that the directory was asked to make.
    pub searches: AtomicU64,
    /// Those that nobody waited for, because what is known was still good.
    pub refreshes: AtomicU64,
    /// Mailboxes whose home changed while they were known.
    pub moves: AtomicU64,
    /// Passwords the directory was asked about.
    pub binds: AtomicU64,
    /// Passwords it was not asked about, because too many of the person's had been wrong.
    pub passwords_not_asked: AtomicU64,
}

impl CachedDirectory {
    /// Puts an empty cache in front of a directory, which is searched on the given runtime.
    ///
    /// # Panics
    /// If the operating system has no random bytes.
    pub fn new(directory: Arc<dyn Directory>, settings: Settings, tell: Tell, runtime: Handle) -> Self {
        let (counters, clock) = (Arc::<Counters>::default(), Arc::new(Clock::new()));
        let passwords = Passwords::new(directory.clone(), settings, tell.clone(), counters.clone(), clock.clone());
        let people = People::new(directory.clone(), settings, tell, runtime, counters.clone(), clock.clone());
        CachedDirectory {
            directory,
            people: Arc::new(people),
            passwords,
            counters,
            #[cfg(test)]
            clock,
        }
    }

    /// What the directory says about a name. Must be called on a Tokio runtime with a clock.
    ///
    /// # Errors
    /// The directory's, shared by all who waited for the same search. An ambiguous name is an answer, not an error.
    pub async fn find(&self, name: &MailboxName) -> Result<Arc<Lookup>, Arc<DirectoryError>> {
        self.people.find(name).await
    }

    /// What the directory says of a password. When too many of the person's were wrong of late, every other is too,
    /// until [`Settings::wrong_passwords_window`] has passed since the last; only what is remembered as right is not.
    ///
    /// # Errors
    /// The directory's, shared by all who waited for the same answer.
    pub async fn verify(&self, entry: &Entry, password: &Secret) -> Result<Verdict, Arc<DirectoryError>> {
        self.passwords.verify(entry, password).await
    }

    /// The directory itself.
    pub fn behind(&self) -> &Arc<dyn Directory> {
        &self.directory
    }

    /// Asks the directory what has changed, and takes it in. Whether the topology has.
    ///
    /// # Errors
    /// The directory's.
    pub async fn follow(&self) -> Result<bool, DirectoryError> {
        let changes = self.directory.changes().await?;
        self.apply(&changes);
        Ok(changes.topology)
    }

    /// Takes in what has changed in the directory. A search that asked before is not believed after.
    pub fn apply(&self, changes: &Changes) {
        self.people.apply(changes);
    }

    /// The known people, to be kept for the next start. No request waits for it; but a million of them take some 4 s
    /// and hundreds of megabytes, so not on a thread that serves requests.
    pub fn remembered(&self) -> Vec<Remembered> {
        self.people.remembered()
    }

    /// Takes in what an earlier process remembered. Each is as old as it was read then, and looked up again at its next
    /// use, without waiting if it is younger than [`Settings::found_lifetime`]. A million take some 4 s,
    /// during which requests are served.
    pub fn restore(&self, people: Vec<Remembered>) {
        self.people.restore(people);
    }

    /// Names that are remembered, of people and of nobody; about.
    pub fn entries(&self) -> u64 {
        self.people.entries()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }
}
