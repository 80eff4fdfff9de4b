//! The stand-in organisation: every Client Access Server and Exchange 2003 back-end that a directory describes, on
//! loopback addresses. For the demo, the tests and the load tests; no part of the edge.
//!
//! A Client Access Server serves https on the ports of its `InternalURL`s, an Exchange 2003 server http on port
//! 80, a mailbox server nothing. The virtual directories and the authentication methods they offer are the directory's.
//!
//! ```no_run
//! let contoso = Contoso::start(directory, &pki, any_port).await?;
//! let edge = start_an_edge_with(contoso.resolve()).await?;
//! contoso.server("cas-opo-1").stop().await;
//! ```
//!
//! Every answer carries `X-Contoso-Server` (who answers), `X-Contoso-User` (whom this request authenticated, `-` if
//! nobody) and `X-Contoso-Connection` (the accepted connection's number, unique in the process).
//!
//! NTLM and Kerberos, raw or in SPNEGO, are accepted where they are offered, and bound to the connection as in IIS: it
//! serves requests without a credential as its user, says `Persistent-Auth: true`, and changes its user with a new
//! handshake. `Basic` counts for its own request only. Everybody's password is `Pass-word1`; the Kerberos tickets are
//! [`tickets`]', or those of a real KDC whose keytab [`Contoso::use_keytab`] is given. None of their uses counts twice.
//!
//! A request steers its answer by fields of its own. All of them work on every path, and on 401 and 404 answers too,
//! except that a body of a size or a duplex body is only for those who are let in.
//!
//! | request field | effect |
//! |---|---|
//! | `X-Contoso-Echo: 1` | the body lists the request line, every header field (of `Authorization` only the scheme), and the length and BLAKE3 hash of the request's body |
//! | `X-Contoso-Hold-Ms: N` | the answer waits N milliseconds; for an `ActiveSync` Ping, instead of [`Contoso::hold_pings`] |
//! | `X-Contoso-Size: N` | the answer's body is N bytes long, streamed |
//! | `X-Contoso-Refuse-Expect: 1` | with `Expect: 100-continue`: 417 without reading the body; `401` as value: a 401 instead |
//! | `X-Contoso-Close: 1` | `Connection: close`, and the connection closes after the answer |
//! | `X-Contoso-Reset: before` | the connection is dropped without an answer |
//! | `X-Contoso-Reset: mid` | the connection is dropped in the middle of the answer's body |
//! | `X-Contoso-Reset: after` | the answer is sent whole (if in one piece), then the connection is reset (RST) |
//! | `X-Contoso-Unasked-Token: 1` | the answer carries a `Negotiate` token that nobody asked for |
//! | `X-Contoso-Unasked-Persistence: 1` | the answer says `Persistent-Auth: true`, whoever asked |
//!
//! Besides: `RPC_IN_DATA` and `RPC_OUT_DATA` on `/rpc/rpcproxy.dll` get their request's body back while it still
//! arrives, and an `ActiveSync` Ping is held. The servers speak HTTP/1.1 only, as IIS 6 and 7 do.
//!
//! Read in this order: [`Contoso::start`], then [`server`] (sockets and switches), [`answer`] (requests), [`admission`]
//! (who is let in), [`session`] (Windows authentication) with [`spnego`], [`ntlm`] and [`tickets`], then [`pages`],
//! [`body`], [`reset`]. [`control`] works the switches over HTTP, [`pki`] makes the certificates.
#![allow(dead_code)] // each test takes this module whole and uses a part of it

pub mod admission;
pub mod answer;
pub mod body;
pub mod control;
pub mod ntlm;
pub mod pages;
pub mod pki;
pub mod reset;
pub mod server;
pub mod session;
pub mod spnego;
pub mod tickets;

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use firstcas::{
    directory::{Directory, DirectoryError},
    routing::{topology::Server, version::Generation},
};

use admission::People;
use pki::Pki;
use server::{Endpoint, Host, StandIn};
use tickets::Acceptor;
use tokio_rustls::TlsAcceptor;

/// The running organisation. Dropping it closes every socket.
pub struct Contoso {
    servers: Vec<StandIn>,
    common: Arc<Common>,
}

/// What the servers share.
pub struct Common {
    /// Who may come in.
    pub people: People,
    /// What takes Kerberos tickets.
    pub acceptor: Acceptor,
    ping_hold_ms: AtomicU64,
}

/// Why the organisation does not run.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory does not say which servers there are.
    #[error("the directory gave no topology")]
    Directory(#[from] DirectoryError),
    /// The directory has no server to play.
    #[error("the directory has no Client Access Server and no Exchange 2003 server; check the LDIF file")]
    NoServers,
    /// A server has no address.
    #[error("{server} has no address; add \"{host}:{port}\" = \"127.0.0.1:PORT\" to the [resolve] table")]
    NoAddress {
        /// Short name.
        server: String,
        /// Fully qualified name.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A server's address cannot be listened on.
    #[error("{server} cannot listen on {address}{}", cure(.source))]
    Listen {
        /// Short name.
        server: String,
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl Contoso {
    /// Starts every server of the directory. `addresses` says where a host's port is served: given the fully qualified
    /// name and the port, an address of this machine; [`any_port`] leaves the choice to the system.
    pub async fn start(
        directory: Arc<dyn Directory>,
        pki: &Pki,
        addresses: impl Fn(&str, u16) -> Option<SocketAddr>,
    ) -> Result<Contoso, StartError> {
        let topology = directory.topology().await?.parts;
        let tls = TlsAcceptor::from(pki.servers());
        let common = Arc::new(Common {
            people: People::new(directory),
            acceptor: Acceptor::default(),
            ping_hold_ms: AtomicU64::new(PING_HOLD.as_secs() * 1000),
        });
        let mut servers = Vec::new();
        for server in &topology.servers {
            let host = Arc::new(Host::new(server, Arc::clone(&common)));
            let mut endpoints = Vec::new();
            for (scheme, port) in listeners(server) {
                let address = addresses(&server.fqdn, port).ok_or_else(|| StartError::NoAddress {
                    server: server.name.clone(),
                    host: server.fqdn.clone(),
                    port,
                })?;
                let tls = (scheme == "https").then(|| tls.clone());
                let endpoint = Endpoint::reserve(port, address, tls).map_err(|source| StartError::Listen {
                    server: server.name.clone(),
                    address,
                    source,
                })?;
                endpoints.push(endpoint);
            }
            if endpoints.is_empty() {
                continue;
            }
            let server = StandIn::new(host, endpoints);
            server.start()?;
            servers.push(server);
        }
        if servers.is_empty() {
            return Err(StartError::NoServers);
        }
        Ok(Contoso { servers, common })
    }

    /// Every server that serves something, in the directory's order.
    pub fn servers(&self) -> &[StandIn] {
        &self.servers
    }

    /// The server of that short name.
    pub fn find(&self, name: &str) -> Option<&StandIn> {
        self.servers.iter().find(|server| server.name() == name)
    }

    /// The server of that short name.
    ///
    /// # Panics
    /// If there is none: the test asks for a server that its directory does not have.
    #[allow(clippy::panic)] // a test's own mistake ends that test, with the cure
    pub fn server(&self, name: &str) -> &StandIn {
        let Some(server) = self.find(name) else {
            let names: Vec<_> = self.servers.iter().map(StandIn::name).collect();
            panic!("no server `{name}` serves anything; there are {}", names.join(", "));
        };
        server
    }

    /// Where the server of that short name listens: its first port's address.
    ///
    /// # Panics
    /// As [`Contoso::server`].
    pub fn address(&self, name: &str) -> SocketAddr {
        self.server(name).address()
    }

    /// The `[resolve]` table for an edge's config: `"cas-opo-1.contoso.com:443"` to `"127.0.0.1:43567"`.
    pub fn resolve(&self) -> BTreeMap<String, String> {
        let entries = self.servers.iter().flat_map(StandIn::endpoints);
        entries.map(|(host_and_port, _, address)| (host_and_port, address.to_string())).collect()
    }

    /// Opens the tickets of a KDC with this keytab's keys from now on, and with none of an earlier one. Every server takes
    /// those for `HTTP/<itself>`.
    pub fn use_keytab(&self, keytab: &[u8]) {
        self.common.acceptor.use_keytab(keytab);
    }

    /// Tokens that servers have accepted since the beginning.
    pub fn tokens_accepted(&self) -> u64 {
        self.common.acceptor.accepted()
    }

    /// Tokens that came a second time, and were refused.
    pub fn tokens_replayed(&self) -> u64 {
        self.common.acceptor.replays()
    }

    /// How long an `ActiveSync` Ping is held from now on; 30 seconds at first.
    pub fn hold_pings(&self, hold: Duration) {
        self.common.ping_hold_ms.store(u64::try_from(hold.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Common {
    /// How long an `ActiveSync` Ping is held.
    pub fn ping_hold(&self) -> Duration {
        Duration::from_millis(self.ping_hold_ms.load(Ordering::Relaxed))
    }
}

/// Any free port of 127.0.0.1, whatever the host: what a test passes to [`Contoso::start`].
#[allow(clippy::unnecessary_wraps)] // the shape `Contoso::start` asks for
pub fn any_port(_host: &str, _port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
}

/// What a server listens on: scheme and port, each once.
fn listeners(server: &Server) -> Vec<(&str, u16)> {
    if server.version.generation() == Some(Generation::Exchange2003) {
        return vec![("http", 80)];
    }
    if !server.client_access {
        return Vec::new();
    }
    let urls = server.virtual_directories.iter().flatten().filter_map(|directory| directory.internal_url.as_ref());
    let mut listeners: Vec<_> = urls.filter_map(|url| Some((url.scheme(), url.port_or_known_default()?))).collect();
    listeners.sort_unstable_by(|one, other| other.cmp(one)); // https before http
    listeners.dedup();
    if listeners.is_empty() { vec![("https", 443)] } else { listeners }
}

#[allow(clippy::wildcard_enum_match_arm)] // of any other kind the system's own words say enough
fn cure(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            ", because another program does; is a contoso still running? End it, or change the port in [resolve]"
        }
        io::ErrorKind::AddrNotAvailable => ", which is not an address of this machine; change it in [resolve]",
        io::ErrorKind::PermissionDenied => ", which takes root; use a port above 1023 in [resolve]",
        _ => "",
    }
}

/// Long enough to see a held request in a demo, short enough to see it end; a real device asks for up to 59 minutes.
const PING_HOLD: Duration = Duration::from_secs(30);
