//! The door in front of the proxy: how many clients are let in, and how long one may take to say what it wants.
//!
//! And at the end, how the clients are let go: when the edge stops listening, each gets one more answer, and with it the end
//! of its connection. Pingora's own way is to close idle connections at once, just when a request may be on its way to them.
//!
//! Pingora limits each read while a request's header arrives, but not their sum, and a new connection has a limit of its
//! own. Somebody who sends a byte now and then would hold a connection for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::{
        ServerSession,
        v2::server::{H2Options, default_h2_options},
    },
    server::ShutdownWatch,
};
use pingora_proxy::HttpProxy;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Edge, client::Client, in_force::InForce};
use crate::events::Event;

/// The application that listens: the proxy, with patience that ends.
pub struct Door {
    proxy: Arc<HttpProxy<Edge>>,
    in_force: Arc<ArcSwap<InForce>>,
    options: HttpServerOptions,
    /// Idle clients of an edge that does not listen any more are let go.
    idle_end: CancellationToken,
    /// What Pingora looks at to end connections itself: always false.
    never: ShutdownWatch,
}

/// Places for clients, of all doors together.
pub struct Places {
    free: Arc<Semaphore>,
    in_all: usize,
    was_full: AtomicBool,
}

impl Door {
    /// A door in front of this proxy.
    pub fn new(proxy: HttpProxy<Edge>, in_force: Arc<ArcSwap<InForce>>, idle_end: CancellationToken) -> Self {
        let mut options = HttpServerOptions::default();
        options.h2_idle_timeout = Some(in_force.load().config.timeouts.client_keepalive);
        let (_, never) = watch::channel(false);
        Door { proxy: Arc::new(proxy), in_force, options, idle_end, never }
    }
}

impl Door {
    /// How long this client may take until its next header is complete; `None`: it is new.
    fn patience(&self, client: Option<&Client>, session: &mut ServerSession) -> Duration {
        let in_force = self.in_force.load();
        let timeouts = &in_force.config.timeouts;
        match client.map(Client::pinned) {
            Some(Some(_)) => in_force.config.pins.idle_timeout + timeouts.client,
            Some(None) => timeouts.client_keepalive + timeouts.client,
            None => {
                session.set_keepalive(Some(timeouts.client.as_secs().max(1)));
                timeouts.client
            }
        }
    }
}

impl Places {
    /// So many.
    pub fn new(in_all: usize) -> Self {
        Places { free: Arc::new(Semaphore::new(in_all)), in_all, was_full: AtomicBool::new(false) }
    }

    /// Places that are taken, and how many there are.
    pub fn taken(&self) -> (usize, usize) {
        (self.in_all.saturating_sub(self.free.available_permits()), self.in_all)
    }

    /// A place for one more client; `None`: all are taken. Said once, and again only after a twentieth became free.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        let place = self.free.clone().try_acquire_owned().ok();
        if place.is_none() && !self.was_full.swap(true, Relaxed) {
            Event::TooManyClients.report(format_args!("all {} places for clients are taken", self.in_all));
        }
        if self.was_full.load(Relaxed) && self.free.available_permits() > self.in_all / 20 {
            self.was_full.store(false, Relaxed);
        }
        place
    }
}

#[async_trait]
impl HttpServerApp for Door {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        if session.as_http1().is_none() {
            return self.proxy.process_new_http(session, &self.never).await; // over HTTP/2 the header is here already
        }
        // Off by default: a request that comes early would then break the one that is being answered (RFC 9112 section 9.3.2).
        session.set_pipelining_enabled(true);
        // The edge leaves something with every connection that it will read a second request from.
        let left = session.take_connection_user_context();
        let client = left.as_ref().and_then(|left| left.downcast_ref::<Client>());
        let patience = self.patience(client, &mut session);
        let over = client.and_then(Client::pinned).map(|pinned| pinned.over().clone());
        session.set_connection_user_context(left);

        let arrived = Arc::new(AtomicBool::new(false));
        let request = ARRIVED.scope(arrived.clone(), self.proxy.process_new_http(session, &self.never));
        tokio::select! {
            biased;
            stream = request => stream,
            () = unless(&arrived, tokio::time::sleep(patience)) => None,
            () = unless(&arrived, server_gone(over)) => None,
        }
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    fn h2_options(&self) -> Option<H2Options> {
        let mut options = default_h2_options(); // its other bounds stay in force
        options
            .max_header_list_size(u32::try_from(self.in_force.load().config.limits.header_bytes).unwrap_or(u32::MAX));
        Some(options)
    }

    async fn http_cleanup(&self) {
        self.idle_end.cancelled().await;
        self.proxy.http_cleanup().await;
    }
}

/// Notes that the header of this task's request is complete.
pub(super) fn header_arrived() {
    let _ = ARRIVED.try_with(|arrived| arrived.store(true, Relaxed)); // over HTTP/2 nobody asks
}

/// Ends when this has, unless a header has come by then.
async fn unless(arrived: &AtomicBool, end: impl Future<Output = ()>) {
    end.await;
    if arrived.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// Ends when the client's server connection has: the client then begins anew, as it would have to if it were connected to
/// the server itself.
async fn server_gone(over: Option<CancellationToken>) {
    match over {
        Some(over) => over.cancelled().await,
        None => std::future::pending().await,
    }
}

tokio::task_local! {
    static ARRIVED: Arc<AtomicBool>;
}
