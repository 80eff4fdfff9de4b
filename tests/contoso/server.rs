//! One stand-in server: its sockets, the switches that make it fail, and what it counted.

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    net::SocketAddr,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use firstcas::routing::{
    protocol::{Protocol, VirtualDirectoryKind},
    topology::{AuthenticationMethods, Server},
    version::{Generation, Version},
};
use hyper::{header::HeaderValue, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Common, StartError, answer,
    reset::{OverTcp, Resettable},
    session::Session,
};

/// A running (or stopped) server of the organisation.
pub struct StandIn {
    host: Arc<Host>,
    endpoints: Vec<Endpoint>,
}

/// What answering a request needs to know of the server.
pub struct Host {
    /// Short name.
    pub name: String,
    /// Fully qualified name.
    pub fqdn: String,
    /// Short name as a header field's value.
    pub name_value: HeaderValue,
    /// Exchange version.
    pub version: Version,
    /// Decides what it serves and says.
    pub generation: Generation,
    /// Authentication methods of each virtual directory it has, by kind.
    pub virtual_directories: [Option<AuthenticationMethods>; VirtualDirectoryKind::COUNT],
    /// What it shares with the other servers.
    pub common: Arc<Common>,
    behaviour: watch::Sender<Behaviour>,
    accepted: AtomicU64,
    open: AtomicU64,
    requests: AtomicU64,
    let_in: AtomicU64,
}

/// The switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // switches, each on its own
pub struct Behaviour {
    /// Every answer waits this long.
    pub delay: Duration,
    /// Connections are accepted and TLS is spoken, but requests stay unanswered.
    pub hung: bool,
    /// Integrated Windows authentication is offered where the directory has it on.
    pub integrated: bool,
    /// `Basic` is offered where the directory has it on.
    pub basic: bool,
    /// NTLM is offered where Integrated Windows authentication is.
    pub ntlm: bool,
    /// For how long a Kerberos ticket counts.
    pub keeps: Keeps,
    /// A new handshake on an authenticated connection is refused, as Apache's mod_auth_gssapi does; IIS allows it.
    pub mod_auth_gssapi: bool,
    /// This protocol's virtual directory is answered 503, as IIS does whose application pool is stopped.
    pub failing: Option<Protocol>,
    /// Every handshake is refused, as IIS does with Extended Protection `Require` behind a proxy that terminates TLS.
    pub extended_protection: bool,
}

/// For how long a Kerberos ticket counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// For the connection, which answers say (`Persistent-Auth: true`), as IIS does.
    Telling,
    /// For the connection, and nobody is told, as Apache's mod_auth_gssapi does with `GssapiConnectionBound On`.
    Silently,
    /// For its own request, as IIS does with `authPersistNonNTLM="false"`, and Apache's mod_auth_gssapi unasked.
    Nothing,
}

impl FromStr for Keeps {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "telling" => Ok(Keeps::Telling),
            "silently" => Ok(Keeps::Silently),
            "nothing" => Ok(Keeps::Nothing),
            other => Err(format!("`{other}` is none of telling, silently, nothing")),
        }
    }
}

/// A port of a server, its own for life: while the server is stopped, nobody who asks for any port gets this one.
pub struct Endpoint {
    port: u16,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    /// Bound, never listening: holds the port while no listening socket does.
    reservation: TcpSocket,
    listening: Mutex<Option<Listening>>,
}

/// Ends the accepting task when dropped.
struct Listening {
    stop: oneshot::Sender<Infallible>,
    ended: JoinHandle<()>,
}

impl StandIn {
    /// A server that does not listen yet.
    pub fn new(host: Arc<Host>, endpoints: Vec<Endpoint>) -> Self {
        StandIn { host, endpoints }
    }

    /// Short name.
    pub fn name(&self) -> &str {
        &self.host.name
    }

    /// Where its first port is served.
    pub fn address(&self) -> SocketAddr {
        self.endpoints[0].address // a server without a port is not started
    }

    /// `host:port` as the directory has it, scheme, and where it is served.
    pub fn endpoints(&self) -> impl Iterator<Item = (String, &'static str, SocketAddr)> {
        self.endpoints.iter().map(|endpoint| {
            let scheme = if endpoint.tls.is_some() { "https" } else { "http" };
            (format!("{}:{}", self.host.fqdn, endpoint.port), scheme, endpoint.address)
        })
    }

    /// Closes the listening sockets and drops every connection; done when this returns.
    pub async fn stop(&self) {
        for endpoint in &self.endpoints {
            let listening = endpoint.lock().take();
            if let Some(Listening { stop, ended }) = listening {
                drop(stop);
                let _ = ended.await;
            }
        }
    }

    /// Listens again on the same ports. Nothing happens if it does already.
    pub fn start(&self) -> Result<(), StartError> {
        for endpoint in &self.endpoints {
            endpoint.listen(&self.host).map_err(|source| StartError::Listen {
                server: self.host.name.clone(),
                address: endpoint.address,
                source,
            })?;
        }
        Ok(())
    }

    /// Whether it listens.
    pub fn is_up(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.lock().is_some())
    }

    /// Lets every answer wait this long.
    pub fn slow(&self, delay: Duration) {
        self.host.behaviour.send_modify(|behaviour| behaviour.delay = delay);
    }

    /// Accepts connections and requests from now on, but answers none until [`StandIn::resume`].
    pub fn hang(&self) {
        self.host.behaviour.send_modify(|behaviour| behaviour.hung = true);
    }

    /// Answers 503 to every request of a protocol, as if its application pool had stopped.
    pub fn fail(&self, protocol: Protocol) {
        self.host.behaviour.send_modify(|behaviour| behaviour.failing = Some(protocol));
    }

    /// Switches Integrated Windows authentication off on all virtual directories.
    pub fn without_integrated(&self) {
        self.host.behaviour.send_modify(|behaviour| behaviour.integrated = false);
    }

    /// Switches `Basic` off on all virtual directories.
    pub fn integrated_only(&self) {
        self.host.behaviour.send_modify(|behaviour| behaviour.basic = false);
    }

    /// Switches `Basic` and NTLM off on all virtual directories: a ticket, or nothing.
    pub fn kerberos_only(&self) {
        self.host.behaviour.send_modify(|behaviour| (behaviour.basic, behaviour.ntlm) = (false, false));
    }

    /// For how long a Kerberos ticket counts from now on.
    pub fn keeps(&self, keeps: Keeps) {
        self.host.behaviour.send_modify(|behaviour| behaviour.keeps = keeps);
    }

    /// Refuses a new handshake on an authenticated connection, as Apache's `mod_auth_gssapi` does.
    pub fn mod_auth_gssapi(&self) {
        self.host.behaviour.send_modify(|behaviour| behaviour.mod_auth_gssapi = true);
    }

    /// Refuses every handshake at its last leg, as IIS does with Extended Protection `Require` where the channel
    /// bindings are not those of its own TLS connection: behind whatever terminates TLS, all of them.
    pub fn extended_protection(&self) {
        self.host.behaviour.send_modify(|behaviour| behaviour.extended_protection = true);
    }

    /// Undoes every switch; requests that hang are answered.
    pub fn resume(&self) {
        self.host.behaviour.send_modify(|behaviour| *behaviour = NORMAL);
    }

    /// The switches as they stand.
    pub fn behaviour(&self) -> Behaviour {
        self.host.behaviour()
    }

    /// Connections accepted since the beginning.
    pub fn connections(&self) -> u64 {
        self.host.accepted.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open_connections(&self) -> u64 {
        self.host.open.load(Ordering::Relaxed)
    }

    /// Requests whose header arrived since the beginning, answered or not.
    pub fn requests(&self) -> u64 {
        self.host.requests.load(Ordering::Relaxed)
    }

    /// Requests that were let in since the beginning: each was delivered, and a 401 was not.
    pub fn let_in(&self) -> u64 {
        self.host.let_in.load(Ordering::Relaxed)
    }
}

impl Host {
    /// A server as the directory describes it.
    pub fn new(server: &Server, common: Arc<Common>) -> Self {
        Host {
            name: server.name.clone(),
            fqdn: server.fqdn.clone(),
            name_value: HeaderValue::from_str(&server.name).unwrap_or(UNPRINTABLE),
            version: server.version,
            generation: server.version.generation().unwrap_or(Generation::Exchange2007),
            virtual_directories: server
                .virtual_directories
                .each_ref()
                .map(|directory| directory.as_ref().map(|directory| directory.internal_authentication)),
            common,
            behaviour: watch::Sender::new(NORMAL),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            let_in: AtomicU64::new(0),
        }
    }

    /// The switches as they stand.
    pub fn behaviour(&self) -> Behaviour {
        *self.behaviour.borrow()
    }

    /// Counts a request that was let in.
    pub fn lets_in(&self) {
        self.let_in.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request, then waits as the switches say.
    pub async fn take_up_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let behaviour = self.behaviour();
        if !behaviour.delay.is_zero() {
            tokio::time::sleep(behaviour.delay).await;
        }
        if behaviour.hung && self.behaviour.subscribe().wait_for(|behaviour| !behaviour.hung).await.is_err() {
            pending::<()>().await; // the organisation is gone; so is this connection, at its next breath
        }
    }
}

impl Endpoint {
    /// Takes the address for good; port 0 means any. `tls`: spoken here if given.
    pub fn reserve(port: u16, address: SocketAddr, tls: Option<TlsAcceptor>) -> io::Result<Self> {
        let reservation = reusing_socket(address)?;
        let address = reservation.local_addr()?;
        Ok(Endpoint { port, address, tls, reservation, listening: Mutex::new(None) })
    }

    fn listen(&self, host: &Arc<Host>) -> io::Result<()> {
        let mut listening = self.lock();
        if listening.is_some() {
            return Ok(());
        }
        let listener = reusing_socket(self.address)?.listen(BACKLOG)?;
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(accept(listener, Arc::clone(host), self.tls.clone(), stopped));
        *listening = Some(Listening { stop, ended });
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Listening>> {
        self.listening.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Linux lets two sockets of one user bind the same port if both ask for `SO_REUSEADDR` and at most one listens
/// (socket(7)); that is what lets the reservation and the listening socket live side by side.
fn reusing_socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(
    listener: TcpListener,
    host: Arc<Host>,
    tls: Option<TlsAcceptor>,
    mut stopped: oneshot::Receiver<Infallible>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(Connection::new(Arc::clone(&host)).serve(stream, tls.clone()));
                }
                Err(_) => tokio::time::sleep(OUT_OF_FILES_PAUSE).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// An accepted connection; counted as open while it lives.
struct Connection {
    host: Arc<Host>,
    number: HeaderValue,
    session: Arc<Session>,
}

impl Connection {
    fn new(host: Arc<Host>) -> Self {
        host.accepted.fetch_add(1, Ordering::Relaxed);
        host.open.fetch_add(1, Ordering::Relaxed);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed) + 1;
        Connection { host, number: HeaderValue::from(number), session: Arc::default() }
    }

    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        match tls {
            None => self.http(stream).await,
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    self.http(stream).await;
                }
            }
        }
    }

    fn http<S: AsyncRead + AsyncWrite + OverTcp + Unpin>(&self, stream: S) -> impl Future<Output = ()> {
        let stream = Resettable::new(stream, Arc::clone(&self.session));
        let service = service_fn(move |request| answer::answer(&self.host, &self.number, &self.session, request));
        let connection = http1::Builder::new()
            .title_case_headers(true) // as IIS writes them, and as people read them
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(stream), service);
        async {
            let _ = connection.await; // a client that goes away in the middle is no news to a test
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.host.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The last number given to a connection. The only thing that organisations of one process share, so that no two
/// connections a test sees have the same number.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

const NORMAL: Behaviour = Behaviour {
    delay: Duration::ZERO,
    hung: false,
    integrated: true,
    basic: true,
    ntlm: true,
    keeps: Keeps::Telling,
    mod_auth_gssapi: false,
    failing: None,
    extended_protection: false,
};
const UNPRINTABLE: HeaderValue = HeaderValue::from_static("?");
/// A load test's connections arrive at once.
const BACKLOG: u32 = 4096;
/// More than any edge lets through, so that the edge's limit is what a test meets.
const MAX_HEADERS: usize = 512;
const OUT_OF_FILES_PAUSE: Duration = Duration::from_millis(10);
