//! One question to one virtual directory.

use std::time::Duration;

use http::header::{CONNECTION, HOST, USER_AGENT};
use pingora_core::{Error, Result, connectors::http::v1::Connector, protocols::http::v1::client::HttpSession};
use pingora_http::RequestHeader;

use super::{Fault, judgement::Answer};
use crate::edge::{organisation::Target, pools};

/// Asks for a path, over a connection of its own that nobody used before or uses after: no client's is touched. Without a
/// credential, so that the server has nobody to take the connection for. `Err(None)`: nothing was learned of the server.
pub(super) async fn ask(
    connector: &Connector,
    target: &Target<'_>,
    authority: &str,
    path: &str,
    patience: Duration,
) -> Result<Answer, Option<Fault>> {
    let mut peer = target.peer.clone();
    let shorter = |limit: Option<Duration>| Some(limit.map_or(patience, |limit| limit.min(patience)));
    peer.options.connection_timeout = shorter(peer.options.connection_timeout);
    peer.options.total_connection_timeout = shorter(peer.options.total_connection_timeout);
    // A connector that nothing is ever given back to has no connection to hand out again.
    let (mut session, _) = connector.get_http_session(&peer).await.map_err(|error| Fault::of(&error))?;
    if let Some(problem) = pools::distrust(target.trust, &peer, Some(session.digest())) {
        return Err(Some(Fault::Untrusted(problem)));
    }
    let exchange = async {
        let answer = status(&mut session, authority, path).await;
        session.shutdown().await;
        answer
    };
    Ok(match tokio::time::timeout(patience, exchange).await {
        Ok(Ok(status)) => Answer::Status(status),
        Ok(Err(_)) => Answer::Nonsense, // Pingora's words for it would repeat what the server sent
        Err(_) => Answer::Silence(patience),
    })
}

/// The status of the answer. Its header is bounded by Pingora, its body is not read.
async fn status(session: &mut HttpSession, authority: &str, path: &str) -> Result<u16> {
    const INTERIM_MAX: usize = 8;
    let mut request = RequestHeader::build("GET", path.as_bytes(), Some(4))?;
    request.insert_header(HOST, authority)?;
    request.insert_header(USER_AGENT, concat!("firstcas/", env!("CARGO_PKG_VERSION"), " (health check)"))?;
    request.insert_header(CONNECTION, "close")?;
    session.write_request_header(Box::new(request)).await?;
    for _ in 0..INTERIM_MAX {
        session.read_response().await?;
        match session.get_status() {
            Some(status) if !status.is_informational() => return Ok(status.as_u16()),
            Some(_) | None => {}
        }
    }
    Error::e_explain(pingora_core::ErrorType::InvalidHTTPHeader, "interim answers without end")
}
