//! Which server of a pool takes a request, and whether it is the one it claims to be.

use std::fmt::Write as _;

use pingora_core::{
    protocols::{Digest, tls::SslDigest},
    upstreams::peer::HttpPeer,
};

use super::{
    Destination,
    organisation::{Organisation, Target},
};
use crate::{
    config::{Trust, UpstreamTls},
    routing::{self, choice, protocol::Protocol, topology::ServerId},
};

/// Picks the server: among those that are well, the one the key belongs to; where none is, one that at least answers; now
/// and then one to probe, sooner one that accepts connections. `None`: none is left.
pub(crate) fn choose<'o>(
    destination: Destination,
    protocol: Protocol,
    organisation: &'o Organisation,
    tried: &[ServerId],
) -> Option<(ServerId, Target<'o>)> {
    let (topology, policy, health) = (&organisation.topology, &organisation.policy, &organisation.health);
    let is_left = |server| !tried.contains(&server) && organisation.target(server, protocol).is_some();
    let server = match destination {
        Destination::Pool { pool, key } => {
            let pick = |usable: &dyn Fn(ServerId) -> bool| {
                choice::choose(key, routing::members(pool, topology, policy), |server| {
                    is_left(server) && usable(server)
                })
            };
            pick(&|server| health.takes(server, protocol, key))
                .or_else(|| pick(&|server| health.is_alive(server, protocol)))
                .or_else(|| pick(&|server| health.answers(server, protocol)))
                .or_else(|| {
                    pick(&|server| health.is_reached(server, protocol))
                        .or_else(|| pick(&|_| true))
                        .filter(|server| health.may_probe(*server, protocol))
                })
        }
        Destination::Bound(server) => Some(server).filter(|&server| is_left(server)),
        Destination::BackEnd(server) => Some(server).filter(|&server| {
            let is_usable = health.is_alive(server, protocol) || health.answers(server, protocol);
            is_left(server) && (is_usable || health.may_probe(server, protocol))
        }),
    }?;
    Some((server, organisation.target(server, protocol)?))
}

/// What is wrong with a new connection's TLS beyond what the connector has checked; `None`: nothing.
pub(super) fn distrust(tls: &UpstreamTls, peer: &HttpPeer, digest: Option<&Digest>) -> Option<String> {
    if !peer.is_tls() {
        return None;
    }
    distrust_of(tls, digest.and_then(|digest| digest.ssl_digest.as_deref()))
}

/// The same of a connection that has to have TLS.
pub(crate) fn distrust_of(tls: &UpstreamTls, session: Option<&SslDigest>) -> Option<String> {
    let Some(session) = session else {
        return Some("the connection has no TLS".into());
    };
    if !tls.allow_tls_1_0 && matches!(&*session.version, "TLSv1" | "TLSv1.1" | "SSLv3") {
        return Some(format!(
            "it speaks only {}; give it a newer one, or set allow_tls_1_0 = true for its site",
            session.version
        ));
    }
    match &tls.trust {
        Trust::Fingerprints(known) if !known.iter().any(|known| known[..] == session.cert_digest[..]) => {
            let mut shown = String::with_capacity(64);
            for byte in &session.cert_digest {
                let _ = write!(shown, "{byte:02x}"); // a String grows
            }
            Some(format!("its certificate has SHA-256 fingerprint {shown}, which is not among those of its site"))
        }
        Trust::Fingerprints(_) | Trust::System | Trust::CertificateAuthorities(_) | Trust::Anything => None,
    }
}
