//! How often something has happened lately: a bounded number of counters, each for a window of time.

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{policy::EvictionPolicy, sync::Cache};
use parking_lot::Mutex;

/// Counters by whom they count, of whom only a hash is kept. Whoever was counted longest ago is forgotten first.
pub(super) struct Tally {
    windows: Cache<Key, Arc<Mutex<Window>>>,
    hasher: RandomState,
}

/// Whom a counter counts. The hash is keyed anew in every process, so nobody can aim at another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key(u64);

/// It begins with the first event after the last one was over.
struct Window {
    began: Instant,
    times: u32,
}

impl Tally {
    /// No window lasts longer.
    pub(super) const WINDOW_MAX: Duration = Duration::from_secs(60 * 60);

    /// Nothing yet, and at most so many counters at a time.
    pub(super) fn new(counters_max: u64) -> Self {
        let windows = Cache::builder()
            .max_capacity(counters_max)
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(Tally::WINDOW_MAX)
            .build();
        Tally { windows, hasher: RandomState::new() }
    }

    pub(super) fn key(&self, whom: impl Hash) -> Key {
        Key(self.hasher.hash_one(whom))
    }

    /// It has happened once more: how often in this window.
    pub(super) fn count(&self, key: Key, now: Instant, span: Duration) -> u32 {
        let window = self.windows.get_with(key, || Arc::new(Mutex::new(Window { began: now, times: 0 })));
        let mut window = window.lock();
        if window.is_over(now, span) {
            *window = Window { began: now, times: 0 };
        }
        window.times = window.times.saturating_add(1);
        window.times
    }

    /// How long the window still lasts in which it has happened so often or more; `None`: it has not.
    pub(super) fn reached(&self, key: Key, times: u32, now: Instant, span: Duration) -> Option<Duration> {
        let window = self.windows.get(&key)?;
        let window = window.lock();
        let is_reached = window.times >= times && !window.is_over(now, span);
        is_reached.then(|| span.saturating_sub(now.saturating_duration_since(window.began)))
    }

    /// It begins anew.
    pub(super) fn forget(&self, key: Key) {
        if let Some(window) = self.windows.get(&key) {
            window.lock().times = 0;
        }
    }
}

impl Window {
    fn is_over(&self, now: Instant, span: Duration) -> bool {
        now.saturating_duration_since(self.began) >= span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Duration = Duration::from_secs(60);

    #[test]
    fn a_window_begins_with_its_first_event_and_ends_by_itself() {
        let (tally, start) = (Tally::new(10), Instant::now());
        let (ana, bruno) = (tally.key("ana"), tally.key("bruno"));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(tally.reached(ana, 1, at(0), SPAN), None);
        assert_eq!([0, 10, 59].map(|seconds| tally.count(ana, at(seconds), SPAN)), [1, 2, 3]);
        assert_eq!(tally.reached(ana, 3, at(59), SPAN), Some(Duration::from_secs(1)));
        assert_eq!(tally.reached(ana, 4, at(59), SPAN), None);
        assert_eq!(tally.reached(bruno, 1, at(59), SPAN), None, "others are not counted with it");
        assert_eq!(tally.reached(ana, 3, at(60), SPAN), None);
        assert_eq!(tally.count(ana, at(60), SPAN), 1);
    }

    #[test]
    fn what_is_forgotten_begins_anew() {
        let (tally, now) = (Tally::new(10), Instant::now());
        let key = tally.key(1);
        tally.count(key, now, SPAN);
        tally.forget(key);
        assert_eq!(tally.count(key, now, SPAN), 1);
    }

    #[test]
    fn there_are_never_more_counters_than_may_be() {
        let (tally, now) = (Tally::new(100), Instant::now());
        for whom in 0..10_000 {
            tally.count(tally.key(whom), now, SPAN);
        }
        tally.windows.run_pending_tasks();
        assert!(tally.windows.entry_count() <= 100, "{}", tally.windows.entry_count());
    }
}
