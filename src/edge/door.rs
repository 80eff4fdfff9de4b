//! The door: what happens to an HTTP/1.1 client connection before and between its requests.
//!
//! Pingora limits each read while a request's header arrives, but not their sum, and a new connection has a limit of its
//! own. Somebody who sends a byte now and then would hold a connection for ever.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use pingora_core::{
    apps::{HttpServerApp as _, HttpServerOptions},
    protocols::{Stream, http::ServerSession},
    server::ShutdownWatch,
};
use pingora_proxy::HttpProxy;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{
    Edge,
    eager::{Eager, EagerConnector},
};
use crate::config::Timeouts;

/// The proxy behind the door.
pub type Proxy = HttpProxy<Edge, EagerConnector>;

/// What Pingora must know: HTTP/1.1 connections are handed to [`serve`], idle HTTP/2 connections are closed.
pub fn options(timeouts: &Timeouts) -> HttpServerOptions {
    let mut options = HttpServerOptions::default();
    options.force_custom = true;
    options.h2_idle_timeout = Some(timeouts.client_keepalive);
    options
}

/// Serves one client connection from its first request to its last.
pub async fn serve(proxy: Arc<Proxy>, stream: Stream, timeouts: Timeouts, shutdown: ShutdownWatch) {
    let connection = Connection::default();
    let _left = connection.left.clone().drop_guard(); // however this ends
    let stream: Stream = Box::new(Eager::new(stream, connection.passes_at_once.clone()));
    let mut session = ServerSession::new_http1(stream);
    // How long until the first byte; Pingora's own 60 seconds otherwise.
    let is_draining = *shutdown.borrow();
    session.set_keepalive(if is_draining { None } else { Some(timeouts.client.as_secs().max(1)) });
    let mut patience = timeouts.client;
    loop {
        connection.header_arrived.store(false, Relaxed);
        connection.passes_at_once.store(false, Relaxed);
        let request = CONNECTION.scope(connection.clone(), proxy.process_new_http(session, &shutdown));
        let served = tokio::select! {
            biased;
            served = request => served,
            () = late(patience, &connection.header_arrived) => return,
        };
        let Some((stream, settings)) = served.map(pingora_core::apps::ReusedHttpStream::consume) else { return };
        session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
        patience = timeouts.client_keepalive + timeouts.client;
    }
}

/// Notes that the header of this task's request is complete.
pub(super) fn header_arrived() {
    // Over HTTP/2 there is no such connection, and nobody waits.
    let _ = CONNECTION.try_with(|connection| connection.header_arrived.store(true, Relaxed));
}

/// From now on, until the request ends, its client gets every piece of the answer at once.
pub(super) fn pass_at_once() {
    // HTTP/2 always does.
    let _ = CONNECTION.try_with(|connection| connection.passes_at_once.store(true, Relaxed));
}

/// Ends when this task's client has left; `None` over HTTP/2, which carries nothing that belongs to one client.
pub(super) fn client_left() -> Option<Pin<Box<WaitForCancellationFutureOwned>>> {
    CONNECTION.try_with(|connection| Box::pin(connection.left.clone().cancelled_owned())).ok()
}

/// Ends when the patience has and no header has come.
async fn late(patience: Duration, header_arrived: &AtomicBool) {
    tokio::time::sleep(patience).await;
    if header_arrived.load(Relaxed) {
        std::future::pending::<()>().await;
    }
}

/// What the edge tells the door of the request it works on.
#[derive(Clone, Default)]
struct Connection {
    header_arrived: Arc<AtomicBool>,
    passes_at_once: Arc<AtomicBool>,
    left: CancellationToken,
}

tokio::task_local! {
    static CONNECTION: Connection;
}
