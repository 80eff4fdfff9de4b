//! A connection before its first request: whose it is, also where a balancer passes it on, and whether they may have it.

use std::{net::SocketAddr as InetAddr, sync::Arc};

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
    upstreams::peer::Tracer,
};
use tokio::{io::AsyncRead, sync::OwnedSemaphorePermit, time::timeout};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use super::{
    callers::{Caller, Staying},
    door::{Door, Places},
    in_force::InForce,
    proxy_protocol::{self, HeaderError},
};
use crate::events::Event;

/// What a listener does with a connection before TLS, or before the first request where there is none.
#[derive(Clone)]
pub struct Arrival {
    in_force: Arc<ArcSwap<InForce>>,
}

/// Finds out who is there before they are let in, and counts who is in.
#[derive(Clone)]
pub struct Reception {
    arrival: Arrival,
    places: Arc<Places>,
    connections: TaskTracker,
}

/// A client that is in, counted until this is dropped.
pub struct Guest {
    _counted: TaskTrackerToken,
    _caller: Option<Caller>,
    _place: OwnedSemaphorePermit,
}

/// A door with a reception. Pingora has a hook for one before a TLS handshake only.
pub struct Porch {
    reception: Reception,
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

    /// Finds out whose the connection is, from here to its end, and counts it.
    async fn take<S>(&self, stream: &mut S) -> Result<Option<Caller>, NotTaken>
    where
        S: AsyncRead + GetSocketDigest + UniqueID + Unpin + ?Sized,
    {
        let in_force = self.in_force.load_full();
        let digest = stream.get_socket_digest().ok_or(NotTaken)?;
        let came_to = *digest.local_addr().and_then(|address| address.as_inet()).ok_or(NotTaken)?;
        let peer = *digest.peer_addr().and_then(|address| address.as_inet()).ok_or(NotTaken)?;
        // Where addresses are translated on the way it may be unknown which it is; then nobody is believed.
        let listener = in_force.listener(&came_to);
        let trusts = |address: InetAddr| listener.is_some_and(|listener| listener.trusts(address.ip()));
        let any = || in_force.config.listeners.iter().any(|listener| listener.proxy_protocol);
        let mut client = peer;
        if listener.map_or_else(any, |listener| listener.proxy_protocol) {
            let named = in_force.who_is_named(stream, trusts(peer), peer, came_to).await?;
            if let Some(named) = named {
                let digest = SocketDigest::from_raw_fd(stream.id());
                let _ = digest.peer_addr.set(Some(SocketAddr::Inet(named))); // it is new, so nothing is set
                stream.set_socket_digest(digest);
                client = named;
            }
        }
        if trusts(client) {
            return Ok(None); // its connections are everybody's
        }
        let max = in_force.config.limits.connections_per_client;
        if let Some(caller) = in_force.shared.callers.admit(client.ip(), max) {
            return Ok(Some(caller));
        }
        if in_force.shared.lately.is_news(Event::TooManyOfClient, "").await {
            let ip = client.ip().to_canonical();
            Event::TooManyOfClient.report(format_args!("{ip} has {max} connections, and wants more"));
        }
        Err(NotTaken)
    }
}

impl InForce {
    /// Whose connection it is, by the balancer's header; `None`: the balancer's own.
    async fn who_is_named(
        &self,
        stream: &mut (impl AsyncRead + Unpin + ?Sized),
        is_trusted: bool,
        peer: InetAddr,
        came_to: InetAddr,
    ) -> Result<Option<InetAddr>, NotTaken> {
        let ip = peer.ip().to_canonical();
        if !is_trusted {
            if self.shared.lately.is_news(Event::BalancerNotTrusted, "").await {
                Event::BalancerNotTrusted.report(format_args!("{ip} came to {came_to}, and is no trusted proxy"));
            }
            return Err(NotTaken);
        }
        let header = timeout(self.config.timeouts.client, proxy_protocol::read(stream)).await;
        match header.unwrap_or_else(|slow| Err(HeaderError::Broken(slow.into()))) {
            Ok(named) => Ok(named),
            // Some balancers look whether anybody listens by connecting, and say nothing.
            Err(HeaderError::Broken(_)) => Err(NotTaken),
            Err(error) => {
                if self.shared.lately.is_news(Event::BalancerHeader, &ip.to_string()).await {
                    Event::BalancerHeader.report(format_args!("a connection of {ip} to {came_to} was closed: {error}"));
                }
                Err(NotTaken)
            }
        }
    }
}

#[async_trait]
impl PreTlsProcess for Arrival {
    async fn process(&self, stream: &mut L4Stream) -> Result<()> {
        match self.take(stream).await {
            Ok(caller) => {
                stream.tracer = caller.map(|caller| Tracer(Box::new(Staying(Arc::new(caller)))));
                Ok(())
            }
            Err(NotTaken) => Error::e_explain(ErrorType::ConnectionClosed, "not taken"),
        }
    }
}

impl Reception {
    /// With so many places for clients; `connections` are those that are open.
    pub fn new(arrival: Arrival, places: Arc<Places>, connections: TaskTracker) -> Self {
        Reception { arrival, places, connections }
    }

    /// Lets somebody in, or not.
    pub async fn admit(&self, stream: &mut Stream) -> Option<Guest> {
        let counted = self.connections.token();
        let caller = match stream.get_ssl_digest() {
            Some(_) => None, // it has been counted since before its handshake
            None => self.arrival.take(&mut **stream).await.ok()?,
        };
        let place = self.places.take()?; // until the connection ends, however many requests come over it
        Some(Guest { _counted: counted, _caller: caller, _place: place })
    }
}

impl Porch {
    /// In front of this door.
    pub fn new(reception: Reception, door: Door) -> Self {
        Porch { reception, door: Arc::new(door) }
    }
}

#[async_trait]
impl ServerApp for Porch {
    async fn process_new(self: &Arc<Self>, mut stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _guest = self.reception.admit(&mut stream).await?;
        self.door.process_new(stream, shutdown).await
    }

    async fn cleanup(&self) {
        ServerApp::cleanup(&*self.door).await;
    }
}
