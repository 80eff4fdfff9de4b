//! Streams on which every piece leaves at once, and which end with the client they belong to.
//!
//! Pingora's streams gather small writes until 1460 bytes are there, and flush bodies that have a `Content-Length` at
//! their end only. A channel of Outlook Anywhere announces 1 GB and sends a few hundred bytes now and then, which the
//! other end waits for: neither end would ever hear the other.
//!
//! And Pingora keeps an idle connection for its time, whoever may use it. A pinned one nobody may use any more once its
//! client is gone; it is closed then, because somebody is logged on over it.

use std::{
    any::Any,
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use pingora_core::{
    Error, ErrorType, Result,
    connectors::{
        TransportConnector,
        http::custom::{Connection, Connector},
    },
    protocols::{
        ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, Stream,
        TimingDigest, UniqueID, UniqueIDType,
        raw_connect::ProxyDigest,
        tls::{CustomALPN, SslDigest, TlsRef},
    },
    upstreams::peer::{HttpPeer, Peer},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::door;

/// Marks a peer whose connection shall be eager, or is pinned. Only [`EagerConnector`] ever sees it; the server is offered HTTP/1.1.
pub fn mark(peer: &mut HttpPeer) {
    peer.options.alpn = ALPN::Custom(CustomALPN::new(b"eager".to_vec()));
    // Never a connection from, or into, the pool of those that gather. Pins count up from 1 and never come so far.
    peer.group_key |= SHARED;
}

/// The key of eager connections that belong to nobody.
const SHARED: u64 = 1 << 63;

/// Connects to the peers so marked. Pingora treats what it gives as any other HTTP/1.1 connection.
pub struct EagerConnector(pub TransportConnector);

#[async_trait]
impl Connector for EagerConnector {
    type Session = ();

    async fn get_http_session<P: Peer + Send + Sync + 'static>(&self, peer: &P) -> Result<(Connection<()>, bool)> {
        let Some(peer) = (peer as &dyn Any).downcast_ref::<HttpPeer>() else {
            return Err(Error::explain(ErrorType::InternalError, "a peer of an unknown kind"));
        };
        let mut peer = peer.clone();
        peer.options.alpn = ALPN::H1;
        let stream = self.0.new_stream(&peer).await?;
        let mut eager = Eager::new(stream, Arc::new(AtomicBool::new(true)));
        if peer.group_key != SHARED {
            eager.ends_with = door::client_left();
        }
        Ok((Connection::Stream(Box::new(eager)), false))
    }

    async fn reused_http_session<P: Peer + Send + Sync + 'static>(&self, _: &P) -> Option<()> {
        None // they are kept with the other HTTP/1.1 connections
    }

    async fn release_http_session<P: Peer + Send + Sync + 'static>(&self, (): (), _: &P, _: Option<Duration>) {}
}

/// A stream that flushes whatever is written while it is told to.
pub struct Eager {
    stream: Stream,
    told: Arc<AtomicBool>,
    /// Something may have been written and not flushed.
    is_pending: bool,
    /// Whose end is the stream's end.
    ends_with: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Eager {
    /// A stream that is eager while this is `true`.
    pub fn new(stream: Stream, told: Arc<AtomicBool>) -> Self {
        Eager { stream, told, is_pending: false, ends_with: None }
    }

    fn poll_pending(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_pending {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            self.is_pending = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Eager {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ends_with.as_mut().is_some_and(|left| left.as_mut().poll(context).is_ready()) {
            return Poll::Ready(Ok(())); // as if the server had closed: whoever keeps it lets go of it
        }
        // Who waits for an answer drives the rest of the question.
        if let Poll::Ready(Err(error)) = self.poll_pending(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Eager {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_pending(context))?;
        let written = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        if self.told.load(Relaxed) {
            self.is_pending = true;
            if let Poll::Ready(Err(error)) = self.poll_pending(context) {
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.is_pending = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl fmt::Debug for Eager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stream.fmt(f)
    }
}

#[async_trait]
impl Shutdown for Eager {
    async fn shutdown(&mut self) {
        self.stream.shutdown().await;
    }
}

impl UniqueID for Eager {
    fn id(&self) -> UniqueIDType {
        self.stream.id()
    }
}

impl Ssl for Eager {
    fn get_ssl(&self) -> Option<&TlsRef> {
        self.stream.get_ssl()
    }

    fn get_ssl_digest(&self) -> Option<Arc<SslDigest>> {
        self.stream.get_ssl_digest()
    }

    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.stream.selected_alpn_proto()
    }
}

impl GetTimingDigest for Eager {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        self.stream.get_timing_digest()
    }

    fn get_read_pending_time(&self) -> Duration {
        self.stream.get_read_pending_time()
    }

    fn get_write_pending_time(&self) -> Duration {
        self.stream.get_write_pending_time()
    }
}

impl GetProxyDigest for Eager {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.stream.get_proxy_digest()
    }

    fn set_proxy_digest(&mut self, digest: ProxyDigest) {
        self.stream.set_proxy_digest(digest);
    }
}

impl GetSocketDigest for Eager {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        self.stream.get_socket_digest()
    }

    fn set_socket_digest(&mut self, digest: SocketDigest) {
        self.stream.set_socket_digest(digest);
    }
}

#[async_trait]
impl Peek for Eager {
    async fn try_peek(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        self.stream.try_peek(buffer).await
    }
}
