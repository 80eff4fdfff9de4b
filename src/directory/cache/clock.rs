//! The time as the cache counts it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A moment, in microseconds since [`BEFORE_START`] before the cache was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Moment(u64);

impl Moment {
    /// Earlier than every other.
    pub(super) const NEVER: Moment = Moment(0);

    pub(super) fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    pub(super) fn before(self, age: Duration) -> Moment {
        Moment(self.0.saturating_sub(micros(age)))
    }
}

/// The latest of several moments.
pub(super) struct Latest(AtomicU64);

impl Latest {
    pub(super) fn new(moment: Moment) -> Self {
        Latest(AtomicU64::new(moment.0))
    }

    pub(super) fn get(&self) -> Moment {
        Moment(self.0.load(Ordering::Acquire))
    }

    pub(super) fn raise(&self, moment: Moment) {
        self.0.fetch_max(moment.0, Ordering::AcqRel);
    }
}

/// Says what time it is.
pub(super) struct Clock {
    started: Instant,
    /// What a test has added, in microseconds.
    #[cfg(test)]
    ahead: AtomicU64,
}

impl Clock {
    pub(super) fn new() -> Self {
        Clock {
            started: Instant::now(),
            #[cfg(test)]
            ahead: AtomicU64::new(0),
        }
    }

    pub(super) fn now(&self) -> Moment {
        let now = micros(BEFORE_START) + micros(self.started.elapsed());
        #[cfg(test)]
        let now = now + self.ahead.load(Ordering::Relaxed);
        Moment(now)
    }

    /// Lets time pass.
    #[cfg(test)]
    pub(super) fn pass(&self, time: Duration) {
        self.ahead.fetch_add(micros(time), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// So that what an earlier process read has a moment too; longer than anything is remembered.
const BEFORE_START: Duration = Duration::from_secs(366 * 24 * 60 * 60);
