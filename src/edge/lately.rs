//! What happened a short while ago, so that it is not done, or told, over and over.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Duration,
};

use moka::future::Cache;

use crate::{events::Event, identity::MailboxName};

/// What of an event has been told within a minute.
#[derive(Clone)]
pub struct Lately(Cache<(Event, String), ()>);

impl Lately {
    /// Nothing yet.
    pub fn new() -> Self {
        const KINDS_MAX: u64 = 1_000;
        const SILENCE: Duration = Duration::from_secs(60);
        Lately(Cache::builder().max_capacity(KINDS_MAX).time_to_live(SILENCE).build())
    }

    /// Whether this has not been told lately; now it is.
    pub async fn is_news(&self, event: Event, of: &str) -> bool {
        self.0.entry((event, of.to_owned())).or_insert(()).await.is_fresh()
    }
}

/// Counts how often a client was sent to its own site lately, so that one without a memory for cookies is not sent in
/// circles.
#[derive(Clone)]
pub struct Sent(Cache<(IpAddr, MailboxName), Arc<AtomicU8>>);

impl Sent {
    /// A client that keeps its cookie is sent once. Several browsers of one person may come at once; a browser that is
    /// sent in circles gives up after 20 times, which it must not come to.
    const TIMES_MAX: u8 = 5;

    /// Nobody yet.
    pub fn new() -> Self {
        const CLIENTS_MAX: u64 = 10_000;
        const REMEMBERED: Duration = Duration::from_secs(30); // a handshake over a slow line is long done by then
        Sent(Cache::builder().max_capacity(CLIENTS_MAX).time_to_live(REMEMBERED).build())
    }

    /// Whether this client may be sent once more; then it is counted.
    pub async fn may_go(&self, client: IpAddr, mailbox: &MailboxName) -> bool {
        let times = self.0.get_with((client, mailbox.clone()), async { Arc::default() }).await;
        times.fetch_update(Relaxed, Relaxed, |times| (times < Sent::TIMES_MAX).then_some(times + 1)).is_ok()
    }
}
