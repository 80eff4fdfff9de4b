//! Whether one place, or one virtual directory, is in or out; why, and since when.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use parking_lot::Mutex;

/// The state of one thing that requests are sent to. Requests read it by one relaxed load; what changes it is rare and
/// takes a lock, so that each change is seen once.
pub struct Standing {
    phase: AtomicU64,
    record: Mutex<Record>,
}

/// Where it stands. Times are milliseconds of whatever clock the caller has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It serves.
    In,
    /// It serves again, since then.
    Back(u64),
    /// It gets no requests until then; [`Phase::FOR_GOOD`]: until checks find it good.
    Out(u64),
    /// It gets no requests while there is another; but it answers.
    Poor,
}

/// What is told of it.
#[derive(Clone, Debug)]
pub struct Record {
    /// When it came to stand as it does.
    pub since: SystemTime,
    /// Why it is out; the latest reason.
    pub reason: Option<String>,
    /// Checks in a row, the last ones, that found the opposite of how it stands.
    against: u32,
}

impl Phase {
    /// A time that does not come.
    pub const FOR_GOOD: u64 = u64::MAX >> Phase::TAG_BITS;
    const TAG_BITS: u32 = 2;

    fn packed(self) -> u64 {
        let (tag, ms) = match self {
            Phase::In => (0, 0),
            Phase::Back(since) => (1, since),
            Phase::Out(until) => (2, until),
            Phase::Poor => (3, 0),
        };
        ms.min(Phase::FOR_GOOD) << Phase::TAG_BITS | tag
    }

    fn unpacked(word: u64) -> Self {
        let ms = word >> Phase::TAG_BITS;
        match word & 3 {
            0 => Phase::In,
            1 => Phase::Back(ms),
            2 => Phase::Out(ms),
            _ => Phase::Poor,
        }
    }

    fn is_out(self) -> bool {
        matches!(self, Phase::Out(_) | Phase::Poor)
    }

    fn is_out_for_a_while(self) -> bool {
        matches!(self, Phase::Out(until) if until != Phase::FOR_GOOD)
    }
}

impl Standing {
    /// In, since now.
    pub fn new() -> Self {
        let record = Record { since: SystemTime::now(), reason: None, against: 0 };
        Standing { phase: AtomicU64::new(Phase::In.packed()), record: Mutex::new(record) }
    }

    /// Where it stands.
    pub fn phase(&self) -> Phase {
        Phase::unpacked(self.phase.load(Relaxed))
    }

    /// Whether it gets requests.
    pub fn is_in(&self, now_ms: impl FnOnce() -> u64) -> bool {
        match self.phase() {
            Phase::In | Phase::Back(_) => true,
            Phase::Out(until) => until != Phase::FOR_GOOD && now_ms() >= until,
            Phase::Poor => false,
        }
    }

    /// The slow start that began then is over.
    pub fn settle(&self, since: u64) {
        let (from, to) = (Phase::Back(since).packed(), Phase::In.packed());
        let _ = self.phase.compare_exchange(from, to, Relaxed, Relaxed); // else it is out again
    }

    /// Takes it out at once until then; what checks took out stays out. `true`: that is news.
    pub fn take_out(&self, until: u64, reason: &str) -> bool {
        let mut record = self.record.lock();
        record.against = 0;
        let is_for_good = self.phase() == Phase::Out(Phase::FOR_GOOD);
        self.out(Phase::Out(if is_for_good { Phase::FOR_GOOD } else { until }), reason, &mut record)
    }

    /// Brings back at once what is out for a while. `true`: that is news.
    pub fn bring_back(&self, now_ms: u64) -> bool {
        if !self.phase().is_out_for_a_while() {
            return false; // the way of nearly every new connection, without a lock
        }
        let mut record = self.record.lock();
        self.phase().is_out_for_a_while() && self.back(now_ms, &mut record) // a check may have been first
    }

    /// Has it answer, badly, if it was out for good because it did not.
    pub fn answers(&self) {
        let silent = Phase::Out(Phase::FOR_GOOD);
        if self.phase() == silent {
            let _ = self.phase.compare_exchange(silent.packed(), Phase::Poor.packed(), Relaxed, Relaxed);
        }
    }

    /// A check was bad; with the last of `fall` in a row it is out. `true`: that is news.
    pub fn was_bad(&self, fall: u32, phase: Phase, reason: &str) -> bool {
        let mut record = self.record.lock();
        if self.phase().is_out() {
            record.against = 0;
            self.out(phase, reason, &mut record);
            return false;
        }
        record.against = record.against.saturating_add(1);
        record.against >= fall && self.out(phase, reason, &mut record)
    }

    /// A check was good; with the last of `rise` in a row it is back. `true`: that is news.
    pub fn was_good(&self, rise: u32, now_ms: u64) -> bool {
        let mut record = self.record.lock();
        if !self.phase().is_out() {
            record.against = 0;
            return false;
        }
        record.against = record.against.saturating_add(1);
        record.against >= rise && self.back(now_ms, &mut record)
    }

    /// Whether the last check found the opposite of how it stands.
    pub fn is_in_doubt(&self) -> bool {
        self.record.lock().against > 0
    }

    /// What is told of it.
    pub fn record(&self) -> Record {
        self.record.lock().clone()
    }

    fn out(&self, phase: Phase, reason: &str, record: &mut Record) -> bool {
        let is_news = !self.phase().is_out();
        if is_news {
            *record = Record { since: SystemTime::now(), reason: None, against: 0 };
        }
        record.reason = Some(reason.to_owned());
        self.phase.store(phase.packed(), Relaxed);
        is_news
    }

    fn back(&self, now_ms: u64, record: &mut Record) -> bool {
        if !self.phase().is_out() {
            return false; // somebody else brought it back meanwhile
        }
        *record = Record { since: SystemTime::now(), reason: None, against: 0 };
        self.phase.store(Phase::Back(now_ms).packed(), Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OUT: Phase = Phase::Out(Phase::FOR_GOOD);

    fn is_in(standing: &Standing) -> bool {
        standing.is_in(|| 0)
    }

    #[test]
    fn it_falls_with_the_third_bad_check_in_a_row_and_rises_with_the_second_good_one() {
        let standing = Standing::new();
        assert!(!standing.was_bad(3, OUT, "a") && !standing.was_bad(3, OUT, "a"));
        assert!(standing.is_in_doubt());
        assert!(!standing.was_good(2, 7), "it was in all the time");
        assert!(!standing.is_in_doubt());
        assert!(
            !standing.was_bad(3, OUT, "b") && !standing.was_bad(3, OUT, "b"),
            "a good one in between counts them anew"
        );
        assert!(is_in(&standing));
        assert!(standing.was_bad(3, OUT, "c"), "that is news");
        assert!(!is_in(&standing));
        assert!(!standing.was_bad(3, OUT, "d"), "that is not");
        assert_eq!(standing.record().reason.as_deref(), Some("d"), "the latest reason");

        assert!(!standing.was_good(2, 7));
        assert!(standing.is_in_doubt());
        assert!(!standing.was_bad(3, OUT, "e"));
        assert!(!standing.was_good(2, 8) && !is_in(&standing), "a bad one in between counts them anew");
        assert!(standing.was_good(2, 9), "that is news");
        assert_eq!(standing.phase(), Phase::Back(9));
        assert_eq!(standing.record().reason, None);
    }

    #[test]
    fn out_for_a_while_ends_by_itself_and_out_for_good_does_not() {
        let standing = Standing::new();
        standing.take_out(100, "refused");
        assert!(!standing.is_in(|| 99) && standing.is_in(|| 100));
        assert!(!standing.was_bad(3, OUT, "silent"), "nobody has brought it back in between");
        assert!(!standing.is_in(|| u64::MAX));
    }

    #[test]
    fn what_checks_took_out_no_request_brings_back_or_takes_out_for_a_while_only() {
        let standing = Standing::new();
        assert!(standing.was_bad(1, OUT, "silent"));
        assert!(!standing.take_out(100, "refused") && !standing.bring_back(5));
        assert_eq!(standing.phase(), OUT);
        standing.answers();
        assert_eq!(standing.phase(), Phase::Poor);
        assert!(!standing.was_bad(3, OUT, "silent"), "no news");
        assert_eq!(standing.phase(), OUT, "the last check counts");
        standing.was_good(1, 6);
        standing.answers();
        assert_eq!(standing.phase(), Phase::Back(6));
    }

    #[test]
    fn a_slow_start_that_is_over_does_not_hide_that_it_is_out_again() {
        let standing = Standing::new();
        standing.take_out(100, "refused");
        assert!(standing.bring_back(5) && !standing.bring_back(6));
        standing.settle(4);
        assert_eq!(standing.phase(), Phase::Back(5), "that was another slow start");
        standing.take_out(100, "refused");
        standing.settle(5);
        assert_eq!(standing.phase(), Phase::Out(100));
        standing.bring_back(6);
        standing.settle(6);
        assert_eq!(standing.phase(), Phase::In);
    }

    proptest! {
        #[test]
        fn every_phase_survives_packing(ms in 0..=Phase::FOR_GOOD) {
            for phase in [Phase::In, Phase::Back(ms), Phase::Out(ms), Phase::Poor] {
                prop_assert_eq!(Phase::unpacked(phase.packed()), phase);
            }
        }

        #[test]
        fn news_alternate_whatever_happens(happens in proptest::collection::vec(0..4_u8, 0..200)) {
            let standing = Standing::new();
            let mut was_in = true;
            for what in happens {
                let (is_news, goes_out) = match what {
                    0 => (standing.was_bad(3, OUT, ""), true),
                    1 => (standing.was_good(2, 1), false),
                    2 => (standing.take_out(100, ""), true),
                    _ => (standing.bring_back(1), false),
                };
                prop_assert_eq!(is_in(&standing), if is_news { !goes_out } else { was_in });
                prop_assert!(!is_news || goes_out == was_in);
                was_in = is_in(&standing);
            }
        }
    }
}
