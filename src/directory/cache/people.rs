//! Names and the people they belong to: how long an answer is good, who searches, and what a change does to both.

use std::{
    collections::{HashMap, hash_map},
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Counters, Lookup, Settings,
    books::{Answer, Books, Known, Search, Standing},
    clock::{Clock, Latest, Moment},
};
use crate::{
    directory::{Changed, Changes, Directory, DirectoryError, Entry, Notice, Remembered, Tell},
    identity::MailboxName,
};

/// The cached names. Every write to `names` and `others` is made with the books locked, so that a search, a change and
/// a restored person cannot come between each other's steps; a hit does not lock them.
pub(super) struct People {
    directory: Arc<dyn Directory>,
    settings: Settings,
    tell: Tell,
    runtime: Handle,
    counters: Arc<Counters>,
    clock: Arc<Clock>,
    names: Cache<MailboxName, Link>,
    /// Names that belong to nobody or to several.
    others: Cache<MailboxName, Arc<Lookup>>,
    books: Mutex<Books>,
    refreshes: Arc<Semaphore>,
    /// Whatever was read until then may have changed unnoticed.
    doubted_until: Latest,
    /// When the directory last answered a search.
    answered_at: Latest,
}

/// Whose name it is.
#[derive(Clone)]
struct Link {
    known: Arc<Known>,
    /// When the directory was asked, with success.
    asked_at: Moment,
    /// When it last gave no answer.
    failed_at: Moment,
}

enum Age {
    Fresh,
    /// Good, but soon it will not be.
    Due,
    /// Good only while the directory is away.
    Stale,
    /// Good no more.
    TooOld,
}

enum Joined {
    /// The answer has come in the meantime.
    Kept(Arc<Lookup>),
    UnderWay(Search),
    New(Search),
}

impl People {
    pub(super) fn new(
        directory: Arc<dyn Directory>,
        settings: Settings,
        tell: Tell,
        runtime: Handle,
        counters: Arc<Counters>,
        clock: Arc<Clock>,
    ) -> Self {
        let others = Cache::builder().max_capacity(settings.not_found_max);
        People {
            directory,
            settings,
            tell,
            runtime,
            counters,
            clock,
            names: Cache::new(settings.max_entries),
            others: others.time_to_live(settings.not_found_lifetime).build(),
            books: Mutex::default(),
            refreshes: Arc::new(Semaphore::new(REFRESHES_MAX)),
            doubted_until: Latest::new(Moment::NEVER),
            answered_at: Latest::new(Moment::NEVER),
        }
    }

    pub(super) async fn find(self: &Arc<Self>, name: &MailboxName) -> Answer {
        if let Some(link) = self.names.get(name) {
            let now = self.clock.now();
            match self.age(&link, now) {
                Age::Fresh => {
                    self.counters.hits.fetch_add(1, Ordering::Relaxed);
                    return Ok(link.known.lookup.load_full());
                }
                Age::Due => {
                    self.counters.hits.fetch_add(1, Ordering::Relaxed);
                    self.refresh(name, &link, now);
                    return Ok(link.known.lookup.load_full());
                }
                Age::Stale => return Ok(self.find_again(name, &link, now).await),
                Age::TooOld => {}
            }
        } else if let Some(other) = self.others.get(name) {
            self.counters.hits.fetch_add(1, Ordering::Relaxed);
            return Ok(other);
        }
        self.counters.misses.fetch_add(1, Ordering::Relaxed);
        match self.join(name) {
            Joined::Kept(lookup) => Ok(lookup),
            Joined::UnderWay(search) | Joined::New(search) => search.await,
        }
    }

    pub(super) fn apply(&self, changes: &Changes) {
        self.books.lock().forget_changes();
        for changed in &changes.people {
            self.apply_one(changed);
        }
        if changes.may_have_missed {
            self.doubted_until.raise(self.clock.now());
        }
    }

    /// Names that are remembered, about.
    pub(super) fn entries(&self) -> u64 {
        self.names.run_pending_tasks(); // or it counts what is long there, and not the last
        self.others.run_pending_tasks();
        self.names.entry_count() + self.others.entry_count()
    }

    pub(super) fn remembered(&self) -> Vec<Remembered> {
        let (now, wall_clock) = (self.clock.now(), SystemTime::now());
        let mut people: Vec<Remembered> = Vec::new();
        let mut places: HashMap<_, usize> = HashMap::new();
        for (name, link) in &self.names {
            let age = now.since(link.asked_at);
            let read_at = wall_clock.checked_sub(age).filter(|_| age < self.settings.stale_lifetime);
            let lookup = link.known.lookup.load();
            let (Some(read_at), Lookup::Found(entry)) = (read_at, &**lookup) else { continue };
            match places.entry((Arc::as_ptr(&link.known), link.asked_at)) {
                hash_map::Entry::Occupied(place) => people[*place.get()].names.push((*name).clone()),
                hash_map::Entry::Vacant(place) => {
                    place.insert(people.len());
                    people.push(Remembered { names: vec![(*name).clone()], entry: entry.clone(), read_at });
                }
            }
        }
        people
    }

    pub(super) fn restore(&self, people: Vec<Remembered>) {
        let (now, wall_clock) = (self.clock.now(), SystemTime::now());
        for Remembered { names, entry, read_at } in people {
            let age = wall_clock.duration_since(read_at).unwrap_or_default();
            if age >= self.settings.stale_lifetime {
                continue;
            }
            let asked_at = now.before(age);
            let mut books = self.books.lock();
            let (known, _) = books.learn(entry, asked_at);
            for name in names {
                if !self.names.contains_key(&name) && !self.others.contains_key(&name) {
                    self.names.insert(name, Link { known: known.clone(), asked_at, failed_at: Moment::NEVER });
                }
            }
        }
        self.doubted_until.raise(now);
    }

    fn age(&self, link: &Link, now: Moment) -> Age {
        let age = now.since(link.asked_at);
        let found_lifetime = self.settings.found_lifetime;
        if age >= self.settings.stale_lifetime {
            Age::TooOld
        } else if age >= found_lifetime {
            Age::Stale
        } else if age >= found_lifetime / 4 * 3 || link.asked_at <= self.doubted_until.get() {
            Age::Due
        } else {
            Age::Fresh
        }
    }

    /// Searches in the background, unless that is being done or has just failed.
    fn refresh(self: &Arc<Self>, name: &MailboxName, link: &Link, now: Moment) {
        if now.since(link.failed_at) < RETRY {
            return;
        }
        let Ok(permit) = self.refreshes.clone().try_acquire_owned() else { return };
        if let Joined::New(search) = self.join(name) {
            self.counters.refreshes.fetch_add(1, Ordering::Relaxed);
            self.runtime.spawn(search.map(|_| drop(permit)));
        }
    }

    /// What a new search says; while there is no answer, what the last one said. Who found out that there is none has
    /// waited for the others too.
    async fn find_again(self: &Arc<Self>, name: &MailboxName, link: &Link, now: Moment) -> Arc<Lookup> {
        if link.failed_at > self.answered_at.get() || now.since(link.failed_at) < RETRY {
            self.refresh(name, link, now);
        } else {
            self.counters.misses.fetch_add(1, Ordering::Relaxed);
            let search = match self.join(name) {
                Joined::Kept(lookup) => return lookup,
                Joined::UnderWay(search) => search,
                Joined::New(search) => {
                    // It goes on when this request has lost its patience.
                    if let Ok(permit) = self.refreshes.clone().try_acquire_owned() {
                        self.runtime.spawn(search.clone().map(|_| drop(permit)));
                    }
                    search
                }
            };
            match timeout(PATIENCE, search).await {
                Ok(Ok(lookup)) => return lookup,
                Ok(Err(_)) => {}
                Err(_) => self.note_failure(&self.books.lock(), name),
            }
        }
        self.counters.stale_answers.fetch_add(1, Ordering::Relaxed);
        link.known.lookup.load_full()
    }

    /// Joins the search for a name, or begins it.
    fn join(self: &Arc<Self>, name: &MailboxName) -> Joined {
        let mut books = self.books.lock();
        if let Some(search) = books.under_way(name) {
            return Joined::UnderWay(search);
        }
        let now = self.clock.now();
        match self.names.get(name) {
            Some(link) if matches!(self.age(&link, now), Age::Fresh) => {
                return Joined::Kept(link.known.lookup.load_full());
            }
            Some(_) => {}
            None => {
                if let Some(other) = self.others.get(name) {
                    return Joined::Kept(other);
                }
            }
        }
        let number = books.next_search();
        let task = AbortOnDropHandle::new(self.runtime.spawn(self.clone().search(name.clone(), number)));
        let search = async move { task.await.unwrap_or_else(|_| Err(Arc::new(ended()))) }.boxed().shared();
        books.begin(name.clone(), number, &search);
        Joined::New(search)
    }

    async fn search(self: Arc<Self>, name: MailboxName, number: u64) -> Answer {
        let mut tries_left = TRIES_MAX;
        loop {
            tries_left -= 1;
            let asked_at = self.clock.now();
            self.counters.searches.fetch_add(1, Ordering::Relaxed);
            let found = self.directory.find(&name).await;
            let mut books = self.books.lock();
            let id = found.as_ref().ok().and_then(Option::as_ref).map(|entry| entry.id);
            let is_overtaken = match books.standing(&name, number, id) {
                Standing::Good => false,
                Standing::Overtaken if tries_left > 0 => {
                    books.begin_again(&name);
                    continue;
                }
                Standing::Overtaken => true,
                Standing::Abandoned => return Err(Arc::new(ended())),
            };
            books.end(&name);
            let (answer, moved) = self.keep(&mut books, &name, found, asked_at, is_overtaken);
            drop(books);
            self.tell(moved);
            return answer;
        }
    }

    /// Keeps what a search found, unless a change has overtaken it: then it serves those who waited, and nobody else.
    fn keep(
        &self,
        books: &mut Books,
        name: &MailboxName,
        found: Result<Option<Entry>, DirectoryError>,
        asked_at: Moment,
        is_overtaken: bool,
    ) -> (Answer, Option<Notice>) {
        let other = match found {
            Ok(Some(entry)) if is_overtaken => {
                let known = books.known(entry.id).map(|known| known.lookup.load_full());
                return (Ok(known.unwrap_or_else(|| Arc::new(Lookup::Found(entry)))), None);
            }
            Ok(Some(entry)) => {
                self.answered_at.raise(self.clock.now());
                let (known, moved) = books.learn(entry, asked_at);
                let lookup = known.lookup.load_full();
                self.names.insert(name.clone(), Link { known, asked_at, failed_at: Moment::NEVER });
                self.others.invalidate(name);
                return (Ok(lookup), moved);
            }
            Ok(None) => Arc::new(Lookup::NotFound),
            Err(DirectoryError::Ambiguous { dns, .. }) => Arc::new(Lookup::Ambiguous(dns)),
            Err(error) => {
                self.note_failure(books, name);
                return (Err(Arc::new(error)), None);
            }
        };
        self.answered_at.raise(self.clock.now());
        if !is_overtaken {
            self.names.invalidate(name);
            self.others.insert(name.clone(), other.clone());
        }
        (Ok(other), None)
    }

    fn note_failure(&self, _: &Books, name: &MailboxName) {
        if let Some(link) = self.names.get(name) {
            self.names.insert(name.clone(), Link { failed_at: self.clock.now(), ..link });
        }
    }

    fn apply_one(&self, Changed { entry, names }: &Changed) {
        let mut books = self.books.lock();
        books.change(entry.id, names);
        let known = books.known(entry.id);
        for name in names {
            self.others.invalidate(name);
            let is_theirs = |link: &Link| known.as_ref().is_some_and(|known| Arc::ptr_eq(known, &link.known));
            if self.names.get(name).is_some_and(|link| !is_theirs(&link)) {
                self.names.invalidate(name);
            }
        }
        let moved = known.and_then(|_| books.learn(entry.clone(), self.clock.now()).1);
        drop(books);
        self.tell(moved);
    }

    #[cfg(test)]
    pub(super) fn unknown_names(&self) -> u64 {
        self.others.run_pending_tasks();
        self.others.entry_count()
    }

    #[cfg(test)]
    pub(super) fn searches_noted(&self) -> usize {
        self.books.lock().searches_noted()
    }

    #[cfg(test)]
    pub(super) fn refreshes_free(&self) -> usize {
        self.refreshes.available_permits()
    }

    fn tell(&self, moved: Option<Notice>) {
        if let Some(moved) = moved {
            self.counters.moves.fetch_add(1, Ordering::Relaxed);
            (self.tell)(moved);
        }
    }
}

/// Only when the program ends, a search has panicked, or nobody listens.
fn ended() -> DirectoryError {
    DirectoryError::Unusable { place: "a search".into(), problem: "it ended without an answer".into() }
}

/// How many searches may be under way that nobody waits for: fewer than the directory is asked at a time
/// (`directory.ldap.searches_max`), so that those who wait find a place.
const REFRESHES_MAX: usize = 16;
/// How soon a search that failed is made again for a name whose last answer still serves.
const RETRY: Duration = Duration::from_secs(1);
/// How long a request waits for a search whose last answer would still serve if the directory were away.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a search begins anew because a change has overtaken it.
const TRIES_MAX: u32 = 3;
