//! Which servers answer: a server that refused a connection is left alone for a while.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use crate::routing::topology::ServerId;

/// When each server may be tried again. Lock-free: one relaxed load a server and request.
pub struct Health {
    retry_after_ms: u64,
    servers: Vec<Arc<Server>>,
}

/// One server's health; a new topology takes over what is known of the old one's servers.
struct Server {
    since: Instant,
    /// Milliseconds after `since` until which the server is left alone; 0: it answers.
    dead_until_ms: AtomicU64,
    /// Milliseconds after `since` from which it may be probed although it is dead.
    probe_from_ms: AtomicU64,
}

impl Health {
    /// Every server alive. A dead one is tried again after `retry_after`.
    pub fn new(servers: usize, retry_after: Duration) -> Self {
        let alive = || {
            let (dead_until_ms, probe_from_ms) = Default::default();
            Arc::new(Server { since: Instant::now(), dead_until_ms, probe_from_ms })
        };
        Health {
            retry_after_ms: u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX),
            servers: std::iter::repeat_with(alive).take(servers).collect(),
        }
    }

    /// Takes over what another one knows of the server, which may have another number there.
    pub fn inherit(&mut self, server: ServerId, other: &Health, there: ServerId) {
        self.servers[server.0] = other.servers[there.0].clone();
    }

    /// Whether a server may be tried now.
    pub fn is_alive(&self, server: ServerId) -> bool {
        let server = &self.servers[server.0];
        let until = server.dead_until_ms.load(Relaxed);
        until == 0 || server.now_ms() >= until
    }

    /// Whether a dead server may be tried all the same, because no other is left: one request a second may. So a site
    /// with one server loses a moment to one lost packet, and not the whole time for which a dead server is left alone.
    pub fn may_probe(&self, server: ServerId) -> bool {
        const EVERY_MS: u64 = 1000;
        let server = &self.servers[server.0];
        let (now, from) = (server.now_ms(), server.probe_from_ms.load(Relaxed));
        now >= from && server.probe_from_ms.compare_exchange(from, now + EVERY_MS, Relaxed, Relaxed).is_ok()
    }

    /// Notes that a server refused a connection. `true`: that is news.
    pub fn mark_dead(&self, server: ServerId) -> bool {
        let server = &self.servers[server.0];
        server.dead_until_ms.swap(server.now_ms().saturating_add(self.retry_after_ms).max(1), Relaxed) == 0
    }

    /// Notes that a server accepted a connection. `true`: that is news.
    pub fn mark_alive(&self, server: ServerId) -> bool {
        let server = &self.servers[server.0];
        server.dead_until_ms.load(Relaxed) != 0 && server.dead_until_ms.swap(0, Relaxed) != 0
    }
}

impl Server {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
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

        let impatient = Health::new(1, Duration::from_millis(1));
        impatient.mark_dead(ServerId(0));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !impatient.is_alive(ServerId(0)) {
            assert!(Instant::now() < deadline, "it is never tried again");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_dead_server_is_probed_once_a_second_at_most() {
        let health = Health::new(1, Duration::from_secs(3600));
        health.mark_dead(ServerId(0));
        assert!(health.may_probe(ServerId(0)));
        let at_once = (0..100).filter(|_| health.may_probe(ServerId(0))).count();
        assert!(at_once <= 1, "{at_once} probes in no time");
    }

    #[test]
    fn a_new_topology_knows_who_was_dead_in_the_old_one() {
        let old = Health::new(2, Duration::from_secs(3600));
        old.mark_dead(ServerId(1));
        let mut new = Health::new(3, Duration::from_secs(3600));
        new.inherit(ServerId(2), &old, ServerId(1));
        assert!(!new.is_alive(ServerId(2)));
        assert!(new.is_alive(ServerId(0)));
        assert!(new.mark_alive(ServerId(2)) && old.is_alive(ServerId(1)), "both know it at once");
    }
}
