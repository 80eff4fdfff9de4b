//! From a configuration to a running edge, and from there to a stopped one. [`following`] is what it does besides serving.

mod following;
mod reload;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use pingora_core::{
    apps::ServerApp,
    listeners::{L4BufferSettings, ListenerConfig},
    server::{ListenFds, configuration::ServerConf},
    services::{Service as _, listening::Service},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::Admin,
    certificates::{CertificateError, ListenerCertificates, expiry},
    config::{Config, ConfigErrors},
    directory::{Directory, DirectoryError, cache::CachedDirectory},
    edge::{
        Edge,
        affinity::{Affinity, NoKey},
        door::{Door, Places},
        health,
        in_force::{InForce, Shared},
        notices::Notices,
        organisation::OrganisationError,
        pin,
    },
};
use following::{Follower, Keeper, Wake};
use reload::Reload;
pub use reload::{ReloadError, Reloaded};

/// A running edge. Dropping it stops it, with all its connections; [`Running::drain`] lets the requests in flight finish.
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    /// Held, and never told: administrators want to see the draining, too.
    _admin_stop: watch::Sender<bool>,
    certificates: Vec<Option<Arc<ListenerCertificates>>>,
    /// No new clients.
    stop: watch::Sender<bool>,
    /// No clients at all.
    end: CancellationToken,
    in_flight: TaskTracker,
    wake: Arc<Wake>,
    in_force: Arc<ArcSwap<InForce>>,
    reloads: mpsc::Sender<Reload>,
    keeper: Arc<ArcSwapOption<Keeper>>,
    directory: Option<tokio::runtime::Runtime>,
}

/// Why the edge cannot start, or a configuration cannot come in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directory cannot be opened or read.
    #[error("the directory cannot be read")]
    Directory(#[from] DirectoryError),
    /// The directory cannot be read, and the edge cannot start without it.
    #[error("the directory cannot be read, and {without}")]
    DirectoryAway {
        /// Why not, and what to do about it.
        without: String,
        /// Why the directory cannot be read.
        #[source]
        source: DirectoryError,
    },
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
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The system has no randomness.
    #[error(transparent)]
    Affinity(#[from] NoKey),
    /// The operating system refused something basic.
    #[error("the operating system refused to start the edge's threads")]
    System(#[from] std::io::Error),
}

/// Starts the edge: reads the organisation, binds every listener, serves. Where the directory is away, the organisation is
/// the one kept on disk.
pub fn start(config: Config) -> Result<Running, StartError> {
    let directory_runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("directory").enable_all().build()?;
    let config = Arc::new(config);
    let notices = Notices::new();
    let directory: Arc<dyn Directory> = {
        let _inside = directory_runtime.enter();
        Arc::new(config.directory.open(&notices.tell())?)
    };
    let runtime = directory_runtime.handle().clone();
    let cached = Arc::new(CachedDirectory::new(directory.clone(), config.cache, notices.tell(), runtime));
    let keeper = Keeper::of(&config);
    // Before the topology is read, which is kept then with the names of the servers it came from: these people's may differ.
    let people = keeper.as_ref().map(|keeper| keeper.people(&config)).unwrap_or_default();
    let beginning = directory_runtime.block_on(following::begin(&*directory, &config, keeper.as_deref()))?;
    if keeper.is_some() {
        log::info!("{} people are known from before", people.len());
        cached.restore(people);
    }
    let sockets: Vec<_> = config.listeners.iter().map(|listener| bind(listener.address)).collect::<Result<_, _>>()?;
    let addresses: Vec<_> = sockets.iter().map(|(_, address)| *address).collect();
    let admin_socket = config.admin.as_ref().map(|admin| bind(admin.address)).transpose()?;

    let in_force = Arc::new(ArcSwap::from_pointee(InForce {
        config: config.clone(),
        directory: cached,
        organisation: Arc::new(beginning.organisation),
        affinity: Arc::new(Affinity::new(&config.affinity.keys, config.affinity.lifetime)?),
        redirects: redirects(&config, &addresses),
        version: 1,
        since: SystemTime::now(),
        shared: Arc::new(Shared::new(config.pins.connections_max, notices.clone())),
    }));
    notices.started(&in_force, beginning.without_directory);
    let certificates = certificates(&config)?;
    directory_runtime.spawn(expiry::watch_expiry(certificates.iter().flatten().cloned().collect()));
    let wake = Arc::new(Wake::default());
    let keeper = Arc::new(ArcSwapOption::from(keeper));
    let (reloads, reloads_asked) = mpsc::channel(1);
    let follower = Follower {
        in_force: in_force.clone(),
        notices,
        keeper: keeper.clone(),
        wake: wake.clone(),
        standing: beginning.standing,
        reloads: reloads_asked,
        addresses: addresses.clone(),
        certificates: certificates.clone(),
    };
    directory_runtime.spawn(following::keep_people(keeper.clone(), in_force.clone()));
    let watched = in_force.clone();
    let watched = move || (watched.load().directory.clone(), watched.load().config.watch_interval);
    directory_runtime.spawn(following::watch(watched, wake.clone()));
    directory_runtime.spawn(follower.run());
    let organisation = in_force.clone();
    directory_runtime.spawn(health::rounds::run(move || organisation.load().organisation.clone()));

    let in_flight = TaskTracker::new();
    let edge = Edge::new(in_force.clone(), in_flight.clone());
    let places = Arc::new(Places::new(config.limits.client_connections));
    let (stop, stopped) = watch::channel(false);
    let end = CancellationToken::new();
    let unless_started = end.clone().drop_guard();
    for number in 0..config.threads {
        let serving = service(&config, edge.clone(), places.clone(), &addresses, &certificates)?;
        serve(format!("edge-{number}"), serving, own(&sockets)?, stopped.clone(), end.clone())?;
    }
    for (listener, address) in config.listeners.iter().zip(&addresses) {
        log::info!("listening on {}://{address}", if listener.tls.is_some() { "https" } else { "http" });
    }
    let (admin_stop, admin_stopped) = watch::channel(false);
    let admin = admin_socket.as_ref().map(|(_, address)| *address);
    if let Some(socket) = admin_socket {
        let with_tls = addresses.iter().zip(&certificates).filter_map(|(address, it)| Some((*address, it.clone()?)));
        let page = Admin::new(in_force.clone(), places, with_tls.collect(), stopped);
        let mut serving = Service::new("admin".into(), page);
        serving.add_listener(ListenerConfig::tcp(socket.1.to_string()));
        serve("admin".to_owned(), serving, own(&[socket])?, admin_stopped, end.clone())?;
    }
    if let Some(address) = admin {
        log::info!("the administrators' page is at http://{address}/");
    }
    log::info!("firstcas is ready");
    unless_started.disarm();
    let directory = Some(directory_runtime);
    Ok(Running {
        addresses,
        admin,
        certificates,
        _admin_stop: admin_stop,
        stop,
        end,
        in_flight,
        wake,
        in_force,
        reloads,
        keeper,
        directory,
    })
}

/// What the listeners say that only say where https is.
fn redirects(config: &Config, bound: &[SocketAddr]) -> Vec<(SocketAddr, url::Url)> {
    let listeners = config.listeners.iter().zip(bound);
    listeners.filter_map(|(listener, bound)| Some((*bound, listener.redirect_to_https.clone()?))).collect()
}

/// What one thread serves: all listeners, by a proxy with server connections of its own.
fn service(
    config: &Config,
    edge: Edge,
    places: Arc<Places>,
    addresses: &[SocketAddr],
    certificates: &[Option<Arc<ListenerCertificates>>],
) -> Result<Service<Door>, StartError> {
    let server = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: idle_connections_max(config),
        max_retries: MAX_SERVERS_TRIED,
        ..ServerConf::default()
    };
    let in_force = edge.in_force().clone();
    let door = Door::new(pingora_proxy::http_proxy(&Arc::new(server), edge), in_force, places);
    let mut serving = Service::new("edge".into(), door);
    for (certificates, address) in certificates.iter().zip(addresses) {
        // Unbuffered towards the client: Pingora flushes a body of announced length only at its end, and a channel of
        // Outlook Anywhere announces 1 GB and sends a few hundred bytes now and then, which the client waits for.
        let mut endpoint = ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::default().write(0));
        if let Some(certificates) = certificates {
            endpoint = endpoint.tls(certificates.settings()?);
        }
        serving.add_listener(endpoint);
    }
    Ok(serving)
}

/// What each listener shows its clients; `None`: it speaks plain http.
fn certificates(config: &Config) -> Result<Vec<Option<Arc<ListenerCertificates>>>, CertificateError> {
    let of = |tls| Ok(ListenerCertificates::new(ListenerCertificates::load(tls)?));
    config.listeners.iter().map(|listener| listener.tls.as_ref().map(of).transpose()).collect()
}

/// Starts a thread that serves until `end`, and takes new clients until `stopped`.
///
/// A client and its server connections stay on one thread. Pingora watches an idle connection by a task, and takes it back
/// with a check that fails now and then when that task runs on another thread (cloudflare/pingora issue 998); the
/// connection is then dropped, and whoever was signed in over it has to sign in again.
fn serve<A: ServerApp + Send + Sync + 'static>(
    name: String,
    mut serving: Service<A>,
    sockets: ListenFds,
    stopped: watch::Receiver<bool>,
    end: CancellationToken,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        serving.start_service(Some(sockets), stopped, 1).await;
        std::future::pending::<()>().await;
    };
    std::thread::Builder::new().name(name).spawn(move || {
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

    /// Where the administrators' page is, if there is one.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// The certificates of each listener, in the order of the configuration; `None`: it speaks plain http.
    pub fn certificates(&self) -> &[Option<Arc<ListenerCertificates>>] {
        &self.certificates
    }

    /// The health of every server, as it is now.
    pub fn health(&self) -> health::Report {
        health::Report::of(&self.in_force.load().organisation)
    }

    /// Makes the topology be read from the directory again, now rather than at its time.
    pub fn read_topology_again(&self) {
        self.wake.asked.notify_one();
    }

    /// What is in force now.
    pub fn in_force(&self) -> Arc<InForce> {
        self.in_force.load_full()
    }

    /// Brings the configuration in this file in force, and all that it names as it is now: certificates, keys, the
    /// directory. What cannot change while the process runs is said.
    ///
    /// # Errors
    /// What was in force before still is.
    pub async fn reload(&self, file: &Path) -> Result<Reloaded, ReloadError> {
        let (done, came_of_it) = oneshot::channel();
        let asked = self.reloads.send(Reload { file: file.to_owned(), done }).await;
        asked.map_err(|_| ReloadError::Stopping)?;
        came_of_it.await.unwrap_or(Err(ReloadError::Stopping))
    }

    /// Serves until SIGTERM or SIGQUIT (drain) or SIGINT (stop at once, a drain too). SIGHUP brings the configuration in
    /// `file` in force.
    pub fn run_until_signalled(self, file: &Path) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime
            .block_on(async {
                let (mut terminate, mut quit) = (signal(SignalKind::terminate())?, signal(SignalKind::quit())?);
                let (mut interrupt, mut hangup) = (signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?);
                loop {
                    tokio::select! {
                        _ = terminate.recv() => break,
                        _ = quit.recv() => break,
                        _ = interrupt.recv() => return Ok(()),
                        _ = hangup.recv() => {
                            let (done, _) = oneshot::channel();
                            // One that waits already will read the file as it is then.
                            let _ = self.reloads.try_send(Reload { file: file.to_owned(), done });
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
            let drain_timeout = self.in_force.load().config.drain_timeout;
            let waiting = async { tokio::time::timeout(drain_timeout, self.in_flight.wait()).await };
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
            if let Some(keeper) = &*self.keeper.load() {
                keeper.keep_people(&self.in_force.load().directory);
            }
            directory.shutdown_background();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shut_down();
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

/// How many servers one request is offered to before it is told that none answers.
const MAX_SERVERS_TRIED: usize = 16;
