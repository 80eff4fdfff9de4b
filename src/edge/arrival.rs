//! A connection before its first request: whose it is, where a balancer passes it on.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType, Result,
    apps::ServerApp,
    listeners::PreTlsProcess,
    protocols::{
        GetSocketDigest, SocketDigest, Stream, UniqueID,
        l4::{socket::SocketAddr, stream::Stream as L4Stream},
    },
    server::ShutdownWatch,
};
use tokio::{io::AsyncRead, time::timeout};

use super::{
    door::Door,
    in_force::InForce,
    proxy_protocol::{self, HeaderError},
};
use crate::events::Event;

/// What a listener does with a connection before TLS, or before the first request where there is none.
#[derive(Clone)]
pub struct Arrival {
    in_force: Arc<ArcSwap<InForce>>,
}

/// A door that finds out first who is there. Pingora has a hook for that before a TLS handshake only.
pub struct Porch {
    arrival: Arrival,
    door: Arc<Door>,
}

/// The connection is not taken; why has been told.
#[derive(Debug)]
struct NotTaken;

impl Arrival {
    /// By the configuration in force when a connection comes.
    pub fn new(in_force: Arc<ArcSwap<InForce>>) -> Self {
        Arrival { in_force }
    }

    /// Takes the balancer's word for whose the connection is, from here to its end.
    async fn take<S>(&self, stream: &mut S) -> Result<(), NotTaken>
    where
        S: AsyncRead + GetSocketDigest + UniqueID + Unpin + ?Sized,
    {
        let in_force = self.in_force.load_full();
        if !in_force.config.listeners.iter().any(|listener| listener.proxy_protocol) {
            return Ok(());
        }
        let digest = stream.get_socket_digest().ok_or(NotTaken)?;
        let came_to = digest.local_addr().and_then(|address| address.as_inet()).ok_or(NotTaken)?;
        let peer = digest.peer_addr().and_then(|address| address.as_inet()).ok_or(NotTaken)?;
        let Some(listener) = in_force.listener(came_to).filter(|listener| listener.proxy_protocol) else {
            return Ok(());
        };
        if !listener.trusts(peer.ip()) {
            if in_force.shared.lately.is_news(Event::BalancerNotTrusted, "").await {
                let ip = peer.ip().to_canonical();
                Event::BalancerNotTrusted.report(format_args!("{ip} came to {came_to}, and is no trusted proxy"));
            }
            return Err(NotTaken);
        }
        let header = timeout(in_force.config.timeouts.client, proxy_protocol::read(stream)).await;
        let header = header.unwrap_or_else(|slow| Err(HeaderError::Broken(slow.into())));
        match header {
            Ok(None) => {}
            Ok(Some(client)) => {
                let digest = SocketDigest::from_raw_fd(stream.id());
                let _ = digest.peer_addr.set(Some(SocketAddr::Inet(client))); // it is new, so nothing is set
                stream.set_socket_digest(digest);
            }
            // Some balancers look whether anybody listens by connecting, and say nothing.
            Err(HeaderError::Broken(_)) => return Err(NotTaken),
            Err(error) => {
                let ip = peer.ip().to_canonical();
                if in_force.shared.lately.is_news(Event::BalancerHeader, &ip.to_string()).await {
                    Event::BalancerHeader.report(format_args!("a connection of {ip} to {came_to} was closed: {error}"));
                }
                return Err(NotTaken);
            }
        }
        Ok(())
    }
}

#[async_trait]
impl PreTlsProcess for Arrival {
    async fn process(&self, stream: &mut L4Stream) -> Result<()> {
        self.take(stream).await.or_else(|NotTaken| Error::e_explain(ErrorType::ConnectionClosed, "not taken"))
    }
}

impl Porch {
    /// In front of this door.
    pub fn new(arrival: Arrival, door: Door) -> Self {
        Porch { arrival, door: Arc::new(door) }
    }
}

#[async_trait]
impl ServerApp for Porch {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        if stream.get_ssl_digest().is_none() {
            self.arrival.take(&mut *stream).await.ok()?;
        }
        self.door.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        ServerApp::cleanup(&*self.door).await;
    }
}
