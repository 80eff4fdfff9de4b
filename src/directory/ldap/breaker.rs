//! Whether a server is worth asking: a circuit breaker.
//!
//! Open, it is asked by nobody but the one who looks after the servers, and less and less often. So requests never wait
//! for a server that is known not to answer.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// One server's.
#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Closed,
    Open {
        failures: u32,
        retry_at: Instant,
    },
}

impl Breaker {
    /// Whether the server may be asked.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.0.lock(), State::Closed)
    }

    /// The server did not answer; it is not tried again for at least so long. Whether that is news.
    pub(super) fn open(&self, now: Instant, at_least: Duration) -> bool {
        let mut state = self.0.lock();
        let failures = match *state {
            State::Closed => 1,
            State::Open { failures, .. } => failures.saturating_add(1),
        };
        let pause = RETRY_FIRST.saturating_mul(1 << (failures - 1).min(10)).min(RETRY_LAST).max(at_least);
        *state = State::Open { failures, retry_at: now + pause };
        failures == 1
    }

    /// The server answered. Whether that is news.
    pub(super) fn close(&self) -> bool {
        !matches!(std::mem::take(&mut *self.0.lock()), State::Closed)
    }

    /// Whether it is time to look whether the server answers again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(*self.0.lock(), State::Open { retry_at, .. } if retry_at <= now)
    }
}

/// How soon a server that does not answer is tried again.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// How seldom at the least.
const RETRY_LAST: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_does_not_answer_is_tried_less_and_less_often_until_it_does() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        assert!(breaker.is_closed() && !breaker.is_due(now));
        assert!(breaker.open(now, Duration::ZERO), "the first failure is news");
        for pause_s in [1, 2, 4, 8, 15, 15] {
            assert!(!breaker.is_closed());
            let due = now + Duration::from_secs(pause_s);
            assert!(!breaker.is_due(due.checked_sub(Duration::from_millis(1)).unwrap_or(now)) && breaker.is_due(due));
            now = due;
            assert!(!breaker.open(now, Duration::ZERO), "it is no news any more");
        }
        assert!(breaker.close(), "that it answers is");
        assert!(!breaker.close() && breaker.is_closed() && !breaker.is_due(now));
        assert!(breaker.open(now, Duration::ZERO) && breaker.is_due(now + RETRY_FIRST), "it begins anew");
    }
}
