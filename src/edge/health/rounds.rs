//! When each place is checked, and what is learned there.
//!
//! A round asks for one virtual directory of a place. If no connection comes of it, that is all; else the others there are
//! asked for too. Places have their turns spread over the interval, and those in doubt come sooner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use pingora_core::connectors::http::v1::Connector;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{
    Fault, check,
    judgement::{self, Answer},
    millis, now_ms,
};
use crate::{
    edge::organisation::Organisation,
    routing::{protocol::Protocol, topology::ServerId},
};

/// Checks every place of the organisation that is in force, again and again, each at its own time. A server that has left
/// the organisation is not asked any more. Never ends.
pub async fn run(in_force: impl Fn() -> Arc<Organisation>) {
    let connector = Arc::new(Connector::new(None));
    let mut bound = (1, Arc::new(Semaphore::new(1)));
    let mut rounds = JoinSet::new();
    loop {
        let organisation = in_force();
        let settings = organisation.health.settings();
        if bound.0 != settings.checks_max {
            bound = (settings.checks_max, Arc::new(Semaphore::new(settings.checks_max)));
        }
        if let Some(interval) = settings.interval {
            let now = now_ms();
            for (server, place, turn) in organisation.health.watched() {
                if turn.begins(now, interval) {
                    let (connector, bound, organisation) = (connector.clone(), bound.1.clone(), organisation.clone());
                    let round = Round { connector, bound, organisation, interval, server, place };
                    rounds.spawn(async move { round.make().await });
                }
            }
        }
        while rounds.try_join_next().is_some() {}
        let pause = settings.interval.unwrap_or(WHILE_OFF) / LOOKS;
        drop(organisation);
        tokio::time::sleep(pause.clamp(Duration::from_millis(5), Duration::from_millis(250))).await;
    }
}

/// One look at one place.
struct Round {
    connector: Arc<Connector>,
    bound: Arc<Semaphore>,
    organisation: Arc<Organisation>,
    interval: Duration,
    server: ServerId,
    place: usize,
}

impl Round {
    async fn make(&self) {
        let health = &self.organisation.health;
        let mut protocols = health.checked_at(self.server, self.place);
        let Some(first) = protocols.next() else { return };
        match self.ask(first).await {
            Ok(answer) => {
                health.check_accepted(self.server, self.place);
                self.judge(first, answer);
            }
            Err(Some(fault)) => return health.check_refused(self.server, self.place, &fault),
            Err(None) => return,
        }
        let rest = protocols.map(|protocol| async move {
            // Should no connection come of it now, that says nothing of the virtual directory; the next round finds out.
            if let Ok(answer) = self.ask(protocol).await {
                self.judge(protocol, answer);
            }
        });
        join_all(rest).await;
    }

    async fn ask(&self, protocol: Protocol) -> Result<Answer, Option<Fault>> {
        let Ok(_one_of_them) = self.bound.acquire().await else { return Err(None) }; // it is never closed
        let (organisation, server) = (&self.organisation, self.server);
        let Some(target) = organisation.target(server, protocol) else { return Err(None) }; // its name does not resolve
        let path = judgement::path(organisation.topology.server(server).version.generation(), protocol);
        let authority = organisation.authority(server, protocol);
        check::ask(&self.connector, &target, &authority, &path, organisation.health.settings().timeout).await
    }

    fn judge(&self, protocol: Protocol, answer: Answer) {
        let generation = self.organisation.topology.server(self.server).version.generation();
        self.organisation.health.check_judged(self.server, protocol, judgement::judge(generation, answer));
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let health = &self.organisation.health;
        let in_doubt = health.is_in_doubt(self.server, self.place);
        health.turn(self.server, self.place).ends(now_ms(), self.interval, in_doubt);
    }
}

/// When a place is checked next.
#[derive(Default)]
pub(super) struct Turn {
    /// 0: that is not decided yet.
    next_ms: AtomicU64,
    is_under_way: AtomicBool,
}

impl Turn {
    /// Whether a round begins now. The first comes at any time of the first interval.
    fn begins(&self, now_ms: u64, interval: Duration) -> bool {
        if self.is_under_way.load(Relaxed) {
            return false;
        }
        match self.next_ms.load(Relaxed) {
            0 => {
                self.next_ms.store(now_ms + fastrand::u64(1..=millis(interval).max(1)), Relaxed);
                false
            }
            next if now_ms < next => false,
            _ => !self.is_under_way.swap(true, Relaxed),
        }
    }

    /// The next comes after the interval, a little more or less, so that those who met by chance part again.
    fn ends(&self, now_ms: u64, interval: Duration, in_doubt: bool) {
        let interval = millis(if in_doubt { interval / IN_DOUBT } else { interval });
        self.next_ms.store(now_ms + fastrand::u64(interval * 9 / 10..=interval * 11 / 10).max(1), Relaxed);
        self.is_under_way.store(false, Relaxed);
    }

    /// Somebody would like to know sooner.
    pub(super) fn soon(&self, now_ms: u64, interval: Duration) {
        self.next_ms.fetch_min(now_ms + millis(interval / IN_DOUBT), Relaxed);
    }
}

/// So many times as often a place is asked whose last answer was not what was known of it.
const IN_DOUBT: u32 = 10;

/// So often in an interval it is looked whose turn it is.
const LOOKS: u32 = 20;

const WHILE_OFF: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_thousand_places_have_their_turns_spread_over_the_interval() {
        const INTERVAL: Duration = Duration::from_secs(10);
        let turns: Vec<_> = std::iter::repeat_with(Turn::default).take(2_000).collect();
        let mut began = Vec::new();
        for now in (0..30_000).step_by(100) {
            let whose_turn = turns.iter().filter(|turn| turn.begins(now, INTERVAL));
            began.push(whose_turn.map(|turn| turn.ends(now, INTERVAL, false)).count());
        }
        let most = began.iter().max().copied().unwrap_or_default();
        assert!(most <= 60, "{most} within 100 ms, where 20 are even");
        let rounds: usize = began.iter().sum();
        assert!((4_000..=7_000).contains(&rounds), "{rounds} in three intervals");
    }

    #[test]
    fn a_place_is_not_asked_twice_at_a_time_and_sooner_in_doubt() {
        const INTERVAL: Duration = Duration::from_secs(10);
        let turn = Turn::default();
        assert!(!turn.begins(1, INTERVAL));
        assert!(turn.begins(10_001, INTERVAL));
        assert!(!turn.begins(90_000, INTERVAL), "it is still under way");
        turn.ends(90_000, INTERVAL, false);
        assert!(!turn.begins(98_999, INTERVAL) && turn.begins(101_000, INTERVAL));
        turn.ends(101_000, INTERVAL, true);
        assert!(!turn.begins(101_899, INTERVAL) && turn.begins(102_100, INTERVAL));
        turn.ends(102_100, INTERVAL, false);
        turn.soon(102_100, INTERVAL);
        assert!(turn.begins(103_100, INTERVAL));
    }
}
