//! From a configuration to a running edge, and from there to a stopped one.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use pingora_core::{
    listeners::{L4BufferSettings, ListenerConfig, tls::TlsSettings},
    server::{ListenFds, configuration::ServerConf},
    services::{Service as _, listening::Service},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{Config, ConfigErrors, ListenerTls},
    directory::{Directory, DirectoryError, cache::CachedDirectory},
    edge::{
        Edge,
        affinity::{Affinity, NoKey},
        door::{Door, Places},
        organisation::{Organisation, OrganisationError},
        pin,
    },
    events::{self, Event},
    routing::topology::Topology,
};

/// A running edge. Dropping it stops it, with all its connections; [`Running::drain`] lets the requests in flight finish.
pub struct Running {
    addresses: Vec<SocketAddr>,
    /// No new clients.
    stop: watch::Sender<bool>,
    /// No clients at all.
    end: CancellationToken,
    in_flight: TaskTracker,
    drain_timeout: Duration,
    directory: Option<tokio::runtime::Runtime>,
}

/// Why the edge cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be opened or read.
    #[error("the directory cannot be read")]
    Directory(#[from] DirectoryError),
    /// The local site, or a site the config names, is not in the directory.
    #[error("the configuration does not fit the directory")]
    Policy(#[from] ConfigErrors),
    /// A server cannot be prepared for.
    #[error("the servers of the organisation cannot be prepared for")]
    Organisation(#[from] OrganisationError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}; {}", cure(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A certificate or key cannot be used.
    #[error("the certificate {} or its key {} cannot be used", .certificate.display(), .key.display())]
    Certificate {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        #[source]
        source: Box<pingora_core::Error>,
    },
    /// The system has no randomness.
    #[error(transparent)]
    Affinity(#[from] NoKey),
    /// The operating system refused something basic.
    #[error("the operating system refused to start the edge's threads")]
    System(#[from] std::io::Error),
}

/// Starts the edge: reads the organisation, binds every listener, serves.
pub fn start(config: Config) -> Result<Running, StartError> {
    let directory_runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("directory").enable_all().build()?;
    let config = Arc::new(config);
    let directory: Arc<dyn Directory> = {
        let _inside = directory_runtime.enter();
        Arc::new(config.directory.open(&(Arc::new(drop) as crate::directory::Tell))?)
    };
    let organisation = directory_runtime.block_on(read_organisation(&*directory, &config, None))?;
    let organisation = Arc::new(ArcSwap::from_pointee(organisation));
    directory_runtime.spawn(refresh(directory.clone(), config.clone(), organisation.clone()));

    let in_flight = TaskTracker::new();
    let cached =
        Arc::new(CachedDirectory::new(directory, config.cache, Arc::new(drop), directory_runtime.handle().clone()));

    let sockets: Vec<_> = config.listeners.iter().map(|listener| bind(listener.address)).collect::<Result<_, _>>()?;
    let addresses: Vec<_> = sockets.iter().map(|(_, address)| *address).collect();
    let redirects = config.listeners.iter().zip(&addresses);
    let redirects = redirects.filter_map(|(listener, bound)| Some((*bound, listener.redirect_to_https.clone()?)));
    let affinity = Affinity::new(&config.affinity.keys, config.affinity.lifetime)?;
    let edge = Edge::new(config.clone(), cached, organisation, redirects.collect(), in_flight.clone(), affinity);
    let places = Arc::new(Places::new(config.limits.client_connections));
    let (stop, stopped) = watch::channel(false);
    let end = CancellationToken::new();
    let unless_started = end.clone().drop_guard();
    for number in 0..config.threads {
        let serving = service(&config, edge.clone(), places.clone(), &addresses)?;
        serve(number, serving, own(&sockets)?, stopped.clone(), end.clone())?;
    }
    for (listener, address) in config.listeners.iter().zip(&addresses) {
        log::info!("listening on {}://{address}", if listener.tls.is_some() { "https" } else { "http" });
    }
    log::info!("firstcas is ready");
    unless_started.disarm();
    let drain_timeout = config.drain_timeout;
    Ok(Running { addresses, stop, end, in_flight, drain_timeout, directory: Some(directory_runtime) })
}

/// What one thread serves: all listeners, by a proxy with server connections of its own.
fn service(
    config: &Config,
    edge: Edge,
    places: Arc<Places>,
    addresses: &[SocketAddr],
) -> Result<Service<Door>, StartError> {
    let server = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: idle_connections_max(config),
        max_retries: MAX_SERVERS_TRIED,
        ..ServerConf::default()
    };
    let door = Door::new(pingora_proxy::http_proxy(&Arc::new(server), edge), config, places);
    let mut serving = Service::new("edge".into(), door);
    for (listener, address) in config.listeners.iter().zip(addresses) {
        // Unbuffered towards the client: Pingora flushes a body of announced length only at its end, and a channel of
        // Outlook Anywhere announces 1 GB and sends a few hundred bytes now and then, which the client waits for.
        let mut endpoint = ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::default().write(0));
        if let Some(tls) = &listener.tls {
            endpoint = endpoint.tls(tls_settings(tls)?);
        }
        serving.add_listener(endpoint);
    }
    Ok(serving)
}

/// Starts a thread that serves until `end`, and takes new clients until `stopped`.
///
/// A client and its server connections stay on one thread. Pingora watches an idle connection by a task, and takes it back
/// with a check that fails now and then when that task runs on another thread (cloudflare/pingora issue 998); the
/// connection is then dropped, and whoever was signed in over it has to sign in again.
fn serve(
    number: usize,
    mut serving: Service<Door>,
    sockets: ListenFds,
    stopped: watch::Receiver<bool>,
    end: CancellationToken,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        serving.start_service(Some(sockets), stopped, 1).await;
        std::future::pending::<()>().await;
    };
    std::thread::Builder::new().name(format!("edge-{number}")).spawn(move || {
        let _ = runtime.block_on(end.run_until_cancelled(work));
    })?;
    Ok(())
}

/// Places for a thread's idle upstream connections. Pingora has one list for all and drops the one that was used longest
/// ago, whoever it belongs to; so there are as many as can be, and no pinned client loses the connection it is signed in
/// over. Shared ones: as many as there are requests at a time, at as many servers as they all may visit in turn before
/// `upstream.idle_timeout` ends the first.
fn idle_connections_max(config: &Config) -> usize {
    const SERVERS_IN_TURN: usize = 8;
    config.limits.client_connections * SERVERS_IN_TURN + config.pins.connections_max * pin::ORIGINS_MAX
}

impl Running {
    /// Where it listens, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until SIGTERM or SIGQUIT (drain) or SIGINT (stop at once, a drain too). SIGHUP is answered in the log.
    pub fn run_until_signalled(self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let (mut terminate, mut quit) = (signal(SignalKind::terminate())?, signal(SignalKind::quit())?);
            let (mut interrupt, mut hangup) = (signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = quit.recv() => break,
                    _ = interrupt.recv() => return Ok(()),
                    _ = hangup.recv() => {
                        log::warn!("SIGHUP: nothing is reloaded; restart firstcas for a new configuration or certificate");
                    }
                }
            }
            let drained = tokio::task::spawn_blocking(|| self.drain());
            tokio::select! {
                _ = drained => {}
                _ = interrupt.recv() => log::warn!("SIGINT: the requests in flight are cut off"),
            }
            Ok(())
        })
        .inspect(|()| runtime.shutdown_background())
    }

    /// Stops listening, closes idle clients, and waits for the requests in flight: all of them, or the configured time.
    pub fn drain(mut self) {
        log::info!("draining: no new connections; {} requests in flight", self.in_flight.len());
        let _ = self.stop.send(true); // nobody listening any more is what we want
        self.in_flight.close();
        if let Some(directory) = &self.directory {
            // The clock of the time-out is the runtime's, so it must be made inside.
            let waiting = async { tokio::time::timeout(self.drain_timeout, self.in_flight.wait()).await };
            match directory.block_on(waiting) {
                Ok(()) => log::info!("drained"),
                Err(_) => log::warn!("{} requests were cut off after the drain time", self.in_flight.len()),
            }
        }
        self.shut_down();
    }

    fn shut_down(&mut self) {
        let _ = self.stop.send(true);
        self.end.cancel();
        if let Some(directory) = self.directory.take() {
            directory.shutdown_background();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Reads the topology, reports what is odd about it, and prepares the peers.
async fn read_organisation(
    directory: &dyn Directory,
    config: &Config,
    previous: Option<&Organisation>,
) -> Result<Organisation, StartError> {
    let reading = directory.topology().await?;
    for oddity in &reading.oddities {
        Event::DirectoryOddity.report(format_args!("{}: {}", oddity.dn, oddity.problem));
    }
    let topology = Topology::new(reading.parts);
    let policy = config.policy(&topology)?;
    Ok(Organisation::new(topology, policy, config, previous).await?)
}

/// Reads the organisation again and again; one that cannot be read leaves the last good one in force.
async fn refresh(directory: Arc<dyn Directory>, config: Arc<Config>, organisation: Arc<ArcSwap<Organisation>>) {
    loop {
        let regularly = config.routing.topology_refresh;
        let soon = organisation.load().has_unresolved();
        tokio::time::sleep(if soon { regularly.min(UNRESOLVED_RETRY) } else { regularly }).await;
        let previous = organisation.load_full();
        match read_organisation(&*directory, &config, Some(&previous)).await {
            Ok(new) => {
                let old = organisation.swap(Arc::new(new));
                let (old, new) = (&old.topology, &organisation.load().topology);
                if old.sites() != new.sites() || old.servers() != new.servers() {
                    Event::TopologyChanged.report(format_args!(
                        "a new topology of {} sites and {} servers is in force",
                        new.sites().len(),
                        new.servers().len()
                    ));
                }
            }
            Err(error) => Event::DirectoryAway
                .report(format_args!("the last good topology stays in force: {}", events::whole_chain(&error))),
        }
    }
}

fn cure(error: &std::io::Error) -> &'static str {
    #[allow(clippy::wildcard_enum_match_arm)] // the rest says it itself
    match error.kind() {
        ErrorKind::AddrInUse => "another program uses it",
        ErrorKind::AddrNotAvailable => "it is no address of this machine",
        ErrorKind::PermissionDenied => "ports below 1024 need root or the capability CAP_NET_BIND_SERVICE",
        _ => "choose another address",
    }
}

/// Binds here rather than in Pingora, so that port 0 works and a busy port is an error with a name.
fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let socket = TcpListener::bind(address).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let bound = socket.local_addr().map_err(failed)?;
    Ok((socket, bound))
}

/// The listening sockets for one thread, which closes its own descriptors of them.
fn own(sockets: &[(TcpListener, SocketAddr)]) -> std::io::Result<ListenFds> {
    let mut own = pingora_core::server::Fds::new();
    for (socket, address) in sockets {
        own.add(address.to_string(), socket.try_clone()?.into_raw_fd());
    }
    Ok(Arc::new(Mutex::new(own)))
}

/// TLS 1.2 and 1.3 with Mozilla's intermediate cipher list.
fn tls_settings(tls: &ListenerTls) -> Result<TlsSettings, StartError> {
    let failed =
        |source| StartError::Certificate { certificate: tls.certificate.clone(), key: tls.key.clone(), source };
    let mut settings =
        TlsSettings::intermediate(&tls.certificate.to_string_lossy(), &tls.key.to_string_lossy()).map_err(failed)?;
    if tls.http2 {
        settings.enable_h2();
    }
    Ok(settings)
}

/// How soon a name that did not resolve is asked for again.
const UNRESOLVED_RETRY: Duration = Duration::from_secs(30);
/// How many servers one request is offered to before it is told that none answers.
const MAX_SERVERS_TRIED: usize = 16;
