//! How often one event may be written. A storm of one kind neither fills the disk nor hides the others: each has a bucket of
//! its own, and what is left out is counted and told.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::Event;

/// From now on no event is written more often than its bucket allows. Until then all are: who brings a logger of their own
/// has their own means.
pub fn throttle() {
    IS_ON.store(true, Relaxed);
}

/// Whether this one may be written; else it is counted as left out.
pub(super) fn may_be_written(event: Event) -> bool {
    if !IS_ON.load(Relaxed) || THROTTLE.may_be_written(event, START.elapsed()) {
        return true;
    }
    if !IS_TOLD_LATER.swap(true, SeqCst) {
        tell_later();
    }
    false
}

/// Tells how many events were left out since that was last told; whether there were any.
pub fn tell_left_out() -> bool {
    let since = SINCE.lock().replace(Instant::now());
    let seconds = since.map_or(0, |since| since.elapsed().as_secs().max(1));
    let mut any = false;
    for (event, number) in THROTTLE.take_left_out() {
        any = true;
        event.write(&format!("and {} more of {} in the last {seconds} s", grouped(number), event.id()));
    }
    any
}

/// A thread of its own, for as long as there is something to tell: events also come from threads without a runtime.
fn tell_later() {
    *SINCE.lock() = Some(Instant::now());
    let telling = || {
        loop {
            thread::sleep(TOLD_EVERY);
            if tell_left_out() {
                continue;
            }
            IS_TOLD_LATER.store(false, SeqCst);
            // One that was left out just before that relied on this thread.
            if !THROTTLE.has_left_out() || IS_TOLD_LATER.swap(true, SeqCst) {
                return;
            }
        }
    };
    if thread::Builder::new().name("events".into()).spawn(telling).is_err() {
        IS_TOLD_LATER.store(false, SeqCst); // the next one that is left out tries again
    }
}

/// `1234` as `1,234`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A bucket and a count for each event.
struct Throttle {
    buckets: [Bucket; EVENTS],
    left_out: [AtomicU64; EVENTS],
}

impl Throttle {
    const fn new() -> Self {
        Throttle { buckets: [const { Bucket::new() }; EVENTS], left_out: [const { AtomicU64::new(0) }; EVENTS] }
    }

    fn may_be_written(&self, event: Event, now: Duration) -> bool {
        let (Some(bucket), Some(left_out)) = (self.buckets.get(event as usize), self.left_out.get(event as usize))
        else {
            return true;
        };
        let may = bucket.take(now);
        if !may {
            left_out.fetch_add(1, SeqCst);
        }
        may
    }

    fn has_left_out(&self) -> bool {
        self.left_out.iter().any(|number| number.load(SeqCst) > 0)
    }

    fn take_left_out(&self) -> impl Iterator<Item = (Event, u64)> {
        let number = |event| self.left_out.get(event as usize).map_or(0, |number| number.swap(0, SeqCst));
        Event::ALL.iter().copied().map(move |event| (event, number(event))).filter(|(_, number)| *number > 0)
    }
}

/// A token bucket that is one number: when it will be full again, in nanoseconds of the clock.
struct Bucket(AtomicU64);

impl Bucket {
    const fn new() -> Self {
        Bucket(AtomicU64::new(0))
    }

    /// Takes a token, if there is one.
    fn take(&self, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX / 2); // after 292 years
        let later = |full_at: u64| {
            let full_at = full_at.max(now) + TOKEN_EVERY_NS;
            (full_at <= now + BURST * TOKEN_EVERY_NS).then_some(full_at)
        };
        self.0.fetch_update(Relaxed, Relaxed, later).is_ok()
    }
}

const EVENTS: usize = Event::ALL.len();

/// More than a site's servers, or the differences of a topology that are told, so that what happens once is told in full.
const BURST: u64 = 30;

/// Two a second: a person cannot read more, and a day of them is some 50 MB.
const TOKEN_EVERY_NS: u64 = 500_000_000;

const TOLD_EVERY: Duration = Duration::from_secs(60);

static THROTTLE: Throttle = Throttle::new();
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static IS_ON: AtomicBool = AtomicBool::new(false);
static IS_TOLD_LATER: AtomicBool = AtomicBool::new(false);
static SINCE: Mutex<Option<Instant>> = Mutex::new(None);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bucket: &Bucket, times: u64, now: Duration) -> u64 {
        (0..times).map(|_| u64::from(bucket.take(now))).sum()
    }

    #[test]
    fn a_burst_is_written_and_then_two_a_second() {
        let bucket = Bucket::new();
        let start = Duration::from_secs(5);
        assert_eq!(taken(&bucket, 1_000, start), BURST);
        assert_eq!(taken(&bucket, 1_000, start + Duration::from_millis(499)), 0);
        assert_eq!(taken(&bucket, 1_000, start + Duration::from_millis(500)), 1);
        assert_eq!(taken(&bucket, 1_000, start + Duration::from_secs(3)), 5);
    }

    #[test]
    fn a_bucket_that_rests_is_full_again_and_never_fuller() {
        let bucket = Bucket::new();
        assert_eq!(taken(&bucket, 1_000, Duration::ZERO), BURST);
        assert_eq!(taken(&bucket, 1_000, Duration::from_secs(24 * 3600)), BURST);
    }

    #[test]
    fn a_storm_of_one_event_leaves_the_others_alone_and_is_counted() {
        let throttle = Throttle::new();
        let now = Duration::from_secs(1);
        let written = (0..1_264).filter(|_| throttle.may_be_written(Event::RequestRefused, now)).count();
        assert_eq!(written, 30);
        assert!(throttle.may_be_written(Event::DirectoryBack, now));
        assert!(throttle.has_left_out());
        assert!(throttle.take_left_out().eq([(Event::RequestRefused, 1_234)]));
        assert!(!throttle.has_left_out());
        assert_eq!(throttle.take_left_out().count(), 0);
    }

    #[test]
    fn a_large_number_is_easy_to_read() {
        for (number, text) in [(0, "0"), (999, "999"), (1_234, "1,234"), (12_345, "12,345"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    proptest! {
        #[test]
        fn no_bucket_gives_more_than_a_burst_and_its_rate(pauses in prop::collection::vec(0_u64..2_000, 1..300)) {
            let bucket = Bucket::new();
            let (mut now, mut given) = (Duration::ZERO, 0);
            for pause in pauses {
                now += Duration::from_millis(pause);
                given += taken(&bucket, 3, now);
            }
            let rate = u64::try_from(now.as_millis() / 500).expect("small");
            prop_assert!(given <= BURST + rate, "{given} in {now:?}");
        }
    }
}
