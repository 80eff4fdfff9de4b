//! When the certificates end that clients are shown, and those that they show.

use std::{net::SocketAddr, sync::Arc};

use serde::Serialize;

use super::status::unix;
use crate::certificates::{ListenerCertificates, Role, choice::KeyKind};

/// The listeners that have certificates, by their address.
pub type Listeners = Vec<(SocketAddr, Arc<ListenerCertificates>)>;

/// A certificate of a listener.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Certificate {
    /// The listener's address.
    pub listener: String,
    /// The first name that it is for; of an authority, its subject.
    pub name: String,
    /// All its names.
    pub names: Vec<String>,
    /// `server`: clients are shown it; `client_authority`: those of clients are believed by it.
    pub role: &'static str,
    /// The kind of its key, such as `ECDSA`.
    pub key: &'static str,
    /// When it ends, in seconds since 1970.
    pub ends: f64,
}

/// Those in force.
pub(super) fn of(listeners: &Listeners) -> Vec<Certificate> {
    let all =
        listeners.iter().flat_map(|(address, listener)| listener.in_force().into_iter().map(move |it| (address, it)));
    let described = all.map(|(address, it)| Certificate {
        listener: address.to_string(),
        name: it.names.first().cloned().unwrap_or_else(|| "-".to_owned()),
        role: match it.role {
            Role::Server => "server",
            Role::ClientAuthority => "client_authority",
        },
        key: match it.key {
            KeyKind::Rsa { .. } => "RSA",
            KeyKind::Ecdsa { .. } => "ECDSA",
            KeyKind::Ed25519 => "Ed25519",
            KeyKind::Other => "other",
        },
        ends: unix(it.not_after),
        names: it.names,
    });
    described.collect()
}
