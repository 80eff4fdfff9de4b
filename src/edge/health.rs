//! Which servers answer: a server that refused a connection is left alone for a while.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::routing::topology::ServerId;

/// When each server may be tried again. Lock-free: one relaxed load a server and request.
pub struct Health {
    started: Instant,
    retry_after: Duration,
    /// Milliseconds after `started` until which the server is left alone; 0: it answers.
    dead_until_ms: Vec<AtomicU64>,
}

impl Health {
    /// Every server alive. A dead one is tried again after `retry_after`.
    pub fn new(servers: usize, retry_after: Duration) -> Self {
        Health {
            started: Instant::now(),
            retry_after,
            dead_until_ms: std::iter::repeat_with(AtomicU64::default).take(servers).collect(),
        }
    }

    /// Whether a server may be tried now.
    pub fn is_alive(&self, server: ServerId) -> bool {
        let until = self.dead_until_ms[server.0].load(Relaxed);
        until == 0 || self.now_ms() >= until
    }

    /// Notes that a server refused a connection. `true`: that is news.
    pub fn mark_dead(&self, server: ServerId) -> bool {
        let retry_ms = u64::try_from(self.retry_after.as_millis()).unwrap_or(u64::MAX);
        self.dead_until_ms[server.0].swap(self.now_ms().saturating_add(retry_ms).max(1), Relaxed) == 0
    }

    /// Notes that a server accepted a connection. `true`: that is news.
    pub fn mark_alive(&self, server: ServerId) -> bool {
        self.dead_until_ms[server.0].load(Relaxed) != 0 && self.dead_until_ms[server.0].swap(0, Relaxed) != 0
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_server_is_left_alone_until_its_time_is_over() {
        let patient = Health::new(2, Duration::from_secs(3600));
        assert!(patient.is_alive(ServerId(0)));
        assert!(patient.mark_dead(ServerId(0)), "the first refusal is news");
        assert!(!patient.mark_dead(ServerId(0)), "the second is not");
        assert!(!patient.is_alive(ServerId(0)));
        assert!(patient.is_alive(ServerId(1)), "the other one is not affected");
        assert!(patient.mark_alive(ServerId(0)), "its return is news");
        assert!(!patient.mark_alive(ServerId(0)));
        assert!(patient.is_alive(ServerId(0)));

        let impatient = Health::new(1, Duration::ZERO);
        impatient.mark_dead(ServerId(0));
        std::thread::yield_now();
        assert!(impatient.is_alive(ServerId(0)) || impatient.now_ms() == 0, "tried again once the time is over");
    }
}
