//! The isolation hammer: many clients of many users sign in by every way there is, in any order, over connections that
//! appear, idle and break; and every answer must carry the name of whoever that very client connection signed in.
//!
//! ```no_run
//! let tally = hammer::run(Plan { address, seed, ..Plan::default() }).await;
//! assert!(tally.exceptions().is_empty(), "{tally}");
//! ```
//!
//! It needs contoso behind whatever it strikes, with [`people::ldif`] in the directory: `X-Contoso-User` says whose
//! name an answer carries, `X-Contoso-Connection` over which connection it came. What a client chooses follows from the
//! seed, its number, the turn its connection is and the answers it gets; when the others do what they do, does not.
//!
//! Read in this order: [`belief`] (whose name an answer may carry), [`registry`] (which connections may be met again),
//! [`client`] (what a client does), then [`connection`], [`tally`], [`people`].
#![allow(dead_code)] // each program takes this module whole and uses a part of it

pub mod belief;
pub mod client;
pub mod connection;
pub mod people;
pub mod registry;
pub mod tally;

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use people::Person;
use registry::Registry;
use tally::{Least, Tally};
use tokio::task::JoinSet;

/// What to strike, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where, over plain http.
    pub address: SocketAddr,
    /// Repeats the clients' choices.
    pub seed: u64,
    /// For how long, at least.
    pub lasts: Duration,
    /// For how long at most, while there is too little of anything in `least`.
    pub lasts_at_most: Duration,
    /// Clients at a time; each opens one connection after the other.
    pub clients: u64,
    /// Who signs in.
    pub people: Vec<Person>,
    /// How they do.
    pub ways: Ways,
    /// Whether connections break on both sides, requests are pipelined, and servers say what nobody asked for.
    pub rough: bool,
    /// How much must have happened.
    pub least: Least,
}

/// Which credentials are used besides none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ways {
    /// All of them.
    All,
    /// NTLM handshakes.
    Ntlm,
    /// Kerberos tickets, sent with the first request and unasked.
    Kerberos,
}

/// What all clients share.
pub struct Shared {
    plan: Plan,
    begun: Instant,
    tally: Mutex<Tally>,
    registry: Mutex<Registry>,
    /// The affinity cookie that each person got last.
    cookies: Mutex<HashMap<String, String>>,
    connections: AtomicU64,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            seed: 0,
            lasts: Duration::from_secs(5),
            lasts_at_most: Duration::from_secs(60),
            clients: 40,
            people: people::all(),
            ways: Ways::All,
            rough: true,
            least: Least::default(),
        }
    }
}

/// Strikes, and returns what was seen.
pub async fn run(plan: Plan) -> Tally {
    let clients = plan.clients;
    let shared = Arc::new(Shared {
        begun: Instant::now(),
        tally: Mutex::new(Tally::new(plan.seed)),
        registry: Mutex::default(),
        cookies: Mutex::default(),
        connections: AtomicU64::new(0),
        plan,
    });
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let shared = Arc::clone(&shared);
        tasks.spawn(async move {
            let mut turn = 0;
            while !shared.is_over() {
                client::visit(&shared, client, turn).await;
                turn += 1;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            shared.tally().except("a client failed", &error.to_string());
        }
    }
    shared.tally().clone()
}

impl Shared {
    fn is_over(&self) -> bool {
        let elapsed = self.begun.elapsed();
        if elapsed < self.plan.lasts {
            return false;
        }
        let tally = self.tally();
        let enough = tally.lacks(self.plan.least).is_empty() || !tally.exceptions().is_empty();
        enough || elapsed >= self.plan.lasts_at_most
    }

    fn tally(&self) -> std::sync::MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cookies(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Relaxed)
    }
}
