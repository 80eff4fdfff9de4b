//! A session's own connection to a server, and TLS on it: at once or by command, judged as the web's connections are.
//!
//! Pingora connects, because it knows what [`Organisation`](crate::edge::organisation::Organisation) has put into a peer: how
//! long it may take, and whom to trust. What it makes has no buffers of its own, so that a session that waits costs little.

use std::sync::LazyLock;

use async_trait::async_trait;
use parking_lot::Mutex;
use pingora_core::{
    Error, ErrorType, Result as PingoraResult,
    connectors::{TransportConnector, l4},
    protocols::{Stream, l4::socket::SocketAddr, l4::stream::Stream as TcpStream},
    upstreams::peer::{HttpPeer, Scheme},
};

use crate::{
    config::UpstreamTls,
    edge::{health::Fault, organisation::Target, pools},
};

/// A connection to a server, with TLS or without.
pub type ServerStream = Stream;

/// It keeps the system's certificate authorities, and no connection: none is ever given back to it.
static CONNECTOR: LazyLock<TransportConnector> = LazyLock::new(|| TransportConnector::new(None));

/// Connects, with TLS where that begins at once. `Err(None)`: nothing was learned of the server.
pub async fn connect(target: &Target<'_>) -> Result<ServerStream, Option<Fault>> {
    open(target.peer, target.trust).await
}

/// Begins TLS on a connection in clear, of which everything has been read that came before.
pub async fn start_tls(stream: ServerStream, target: &Target<'_>) -> Result<ServerStream, Option<Fault>> {
    // Not TCP: it has TLS already, and nobody may be told so again.
    let stream = stream.into_any().downcast::<TcpStream>().map_err(|_| None)?;
    let mut peer = HttpPeer { scheme: Scheme::HTTPS, ..target.peer.clone() };
    peer.options.custom_l4 = Some(std::sync::Arc::new(Standing(Mutex::new(Some(*stream)))));
    open(&peer, target.trust).await
}

async fn open(peer: &HttpPeer, trust: &UpstreamTls) -> Result<ServerStream, Option<Fault>> {
    let stream = CONNECTOR.new_stream(peer).await.map_err(|error| Fault::of(&error))?;
    if peer.is_tls()
        && let Some(problem) = pools::distrust_of(trust, stream.get_ssl_digest().as_deref())
    {
        return Err(Some(Fault::Untrusted(problem)));
    }
    Ok(stream)
}

/// "Connects" by a connection that stands, so that Pingora does the rest.
#[derive(Debug)]
struct Standing(Mutex<Option<TcpStream>>);

#[async_trait]
impl l4::Connect for Standing {
    async fn connect(&self, _: &SocketAddr) -> PingoraResult<TcpStream> {
        self.0.lock().take().ok_or_else(|| Error::explain(ErrorType::InternalError, "a connection is used once"))
    }
}
