//! What the cache has to know besides the names themselves, under one lock that a hit never takes: who is known, which
//! searches are under way, and which of them a change has overtaken.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use futures_util::future::{BoxFuture, Shared, WeakShared};

use super::{
    Lookup,
    clock::{Latest, Moment},
};
use crate::{
    directory::{DirectoryError, Entry, EntryId, Notice},
    identity::MailboxName,
    routing::mailbox::Mailbox,
};

/// A person that one or more cached names belong to.
pub(super) struct Known {
    /// Always [`Lookup::Found`].
    pub(super) lookup: ArcSwap<Lookup>,
    read_at: Latest,
}

/// A search that any number of requests wait for; it is given up when nobody does any more.
pub(super) type Search = Shared<BoxFuture<'static, Answer>>;
pub(super) type Answer = Result<Arc<Lookup>, Arc<DirectoryError>>;

/// A search that has not ended yet.
struct UnderWay {
    number: u64,
    /// How many changes had been applied when it asked the directory.
    began: u64,
    /// Its name has changed hands, or may have, since it asked.
    is_overtaken: bool,
    search: WeakShared<BoxFuture<'static, Answer>>,
}

/// What a search's answer is worth when it comes.
pub(super) enum Standing {
    Good,
    /// It may be older than a change.
    Overtaken,
    /// Nobody waits for it any more, nor noted what has overtaken it.
    Abandoned,
}

/// See the module.
#[derive(Default)]
pub(super) struct Books {
    people: HashMap<EntryId, Weak<Known>>,
    people_sweep: Sweep,
    searches: HashMap<MailboxName, UnderWay>,
    searches_sweep: Sweep,
    searches_begun: u64,
    /// Home servers and databases: there are few, and many mailboxes share each.
    homes: HashSet<Arc<str>>,
    homes_sweep: Sweep,
    /// How many changes have been applied.
    changes: u64,
    /// Who changed while a search was under way that began before, and at which of the changes.
    changed: HashMap<EntryId, u64>,
}

impl Books {
    pub(super) fn known(&self, id: EntryId) -> Option<Arc<Known>> {
        self.people.get(&id)?.upgrade()
    }

    /// The person as read from the directory at a moment, known from now on; and the move, if that is what it shows.
    /// What is known already and was read later stays.
    pub(super) fn learn(&mut self, mut entry: Entry, read_at: Moment) -> (Arc<Known>, Option<Notice>) {
        let known = self.known(entry.id);
        if let Some(known) = &known
            && known.read_at.get() > read_at
        {
            return (known.clone(), None);
        }
        entry.dn.shrink_to_fit();
        entry.name.shrink_to_fit();
        if let Some(mailbox) = &mut entry.mailbox {
            mailbox.home_server = self.share(&mailbox.home_server);
            mailbox.home_database = mailbox.home_database.take().map(|database| self.share(&database));
        }
        let Some(known) = known else {
            let id = entry.id;
            let lookup = ArcSwap::from_pointee(Lookup::Found(entry));
            let known = Arc::new(Known { lookup, read_at: Latest::new(read_at) });
            self.people.insert(id, Arc::downgrade(&known));
            if self.people_sweep.is_due(self.people.len()) {
                self.people.retain(|_, known| known.strong_count() > 0);
                self.people_sweep.is_done(self.people.len());
            }
            return (known, None);
        };
        known.read_at.raise(read_at);
        let old = known.lookup.load_full();
        let mut moved = None;
        if let Lookup::Found(old) = &*old
            && *old != entry
        {
            if home(old.mailbox.as_ref()) != home(entry.mailbox.as_ref()) {
                let (from, to) = (old.mailbox.clone(), entry.mailbox.clone());
                moved = Some(Notice::MailboxMoved { name: entry.name.clone(), from, to });
            }
            known.lookup.store(Arc::new(Lookup::Found(entry)));
        }
        (known, moved)
    }

    /// The search for a name that is under way.
    pub(super) fn under_way(&self, name: &MailboxName) -> Option<Search> {
        self.searches.get(name)?.search.upgrade()
    }

    /// A number for a new search.
    pub(super) fn next_search(&mut self) -> u64 {
        self.searches_begun += 1;
        self.searches_begun
    }

    pub(super) fn begin(&mut self, name: MailboxName, number: u64, search: &Search) {
        if let Some(search) = search.downgrade() {
            self.searches.insert(name, UnderWay { number, began: self.changes, is_overtaken: false, search });
        }
        if self.searches_sweep.is_due(self.searches.len()) {
            self.drop_abandoned();
        }
    }

    /// What the answer of a search is worth, and the person in it.
    pub(super) fn standing(&self, name: &MailboxName, number: u64, found: Option<EntryId>) -> Standing {
        match self.searches.get(name) {
            Some(it) if it.number == number => {
                let changed = found.and_then(|id| self.changed.get(&id));
                let is_overtaken = it.is_overtaken || changed.is_some_and(|change| *change > it.began);
                if is_overtaken { Standing::Overtaken } else { Standing::Good }
            }
            Some(_) | None => Standing::Abandoned,
        }
    }

    /// Notes that the search for a name asks the directory once more.
    pub(super) fn begin_again(&mut self, name: &MailboxName) {
        if let Some(it) = self.searches.get_mut(name) {
            it.began = self.changes;
            it.is_overtaken = false;
        }
    }

    pub(super) fn end(&mut self, name: &MailboxName) {
        self.searches.remove(name);
    }

    /// Notes that a person changed, who has these names now.
    pub(super) fn change(&mut self, id: EntryId, names: &[MailboxName]) {
        self.changes += 1;
        for name in names {
            if let Some(it) = self.searches.get_mut(name) {
                it.is_overtaken = true;
            }
        }
        if !self.searches.is_empty() {
            self.changed.insert(id, self.changes);
        }
    }

    /// Forgets the changes that no search under way could contradict any more.
    pub(super) fn forget_changes(&mut self) {
        self.drop_abandoned();
        match self.searches.values().map(|it| it.began).min() {
            Some(oldest) => self.changed.retain(|_, change| *change > oldest),
            None => self.changed = HashMap::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn searches_noted(&self) -> usize {
        self.searches.len()
    }

    fn drop_abandoned(&mut self) {
        self.searches.retain(|_, it| it.search.upgrade().is_some());
        self.searches_sweep.is_done(self.searches.len());
    }

    fn share(&mut self, text: &Arc<str>) -> Arc<str> {
        if let Some(shared) = self.homes.get(text) {
            return shared.clone();
        }
        if self.homes_sweep.is_due(self.homes.len()) {
            self.homes.retain(|home| Arc::strong_count(home) > 1);
            self.homes_sweep.is_done(self.homes.len());
        }
        self.homes.insert(text.clone());
        text.clone()
    }
}

fn home(mailbox: Option<&Mailbox>) -> Option<(&str, Option<&str>)> {
    mailbox.map(|mailbox| (&*mailbox.home_server, mailbox.home_database.as_deref()))
}

/// When a table is swept of what nobody needs any more: whenever it has doubled since the last time. So it is never
/// more than twice as large as it was then, and an entry's share of the sweeping does not grow with the table.
#[derive(Default)]
pub(super) struct Sweep {
    left: usize,
}

impl Sweep {
    const AT_LEAST: usize = 1000;

    pub(super) fn is_due(&self, entries: usize) -> bool {
        entries >= Self::AT_LEAST.max(2 * self.left)
    }

    pub(super) fn is_done(&mut self, left: usize) {
        self.left = left;
    }
}
