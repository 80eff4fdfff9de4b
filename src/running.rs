//! From a configuration to a running edge, and from there to a stopped one. [`following`] is what it does besides serving.

mod following;
pub(crate) mod handover;
pub(crate) mod pid_file;
mod reload;
mod sockets;

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    os::fd::IntoRawFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::future::join_all;
use parking_lot::Mutex;
use pingora_core::{
    listeners::{L4BufferSettings, ListenerConfig},
    server::{ListenFds, configuration::ServerConf},
    services::{Service as Serving, listening::Service},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin::{Admin, Listeners},
    certificates::{CertificateError, ListenerCertificates, expiry},
    config::{Config, ConfigErrors, Listener, values::duration_text},
    directory::{Directory, DirectoryError, cache::CachedDirectory},
    edge::{
        Edge,
        affinity::Affinity,
        arrival::{Arrival, Porch, Reception},
        door::{Door, Places},
        health,
        in_force::{InForce, Shared},
        notices::{Notices, Told},
        organisation::OrganisationError,
        pin,
        seal::{NoKey, Seal},
    },
    events::{Event, whole_chain},
    mail::{Mail, Offered},
    service_manager,
};
use following::{Beginning, Follower, Keeper, Wake};
use handover::{Estate, HandoverError, Inheritance, Predecessor, Successor};
use pid_file::Prepared;
use reload::Reload;
pub use reload::{ReloadError, Reloaded};
use sockets::Sockets;

/// A running edge. Dropping it stops it, with all its connections; [`Running::drain`] lets the requests in flight finish.
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    /// Told only when another process has the page: administrators want to see the draining, too.
    admin_stop: watch::Sender<bool>,
    certificates: Vec<Option<Arc<ListenerCertificates>>>,
    /// For the next process.
    sockets: Arc<Sockets>,
    /// No new clients.
    stop: watch::Sender<bool>,
    /// No idle clients, once there are no new ones.
    idle_end: CancellationToken,
    /// No clients at all.
    end: CancellationToken,
    /// Requests.
    in_flight: TaskTracker,
    /// Client connections.
    connections: TaskTracker,
    wake: Arc<Wake>,
    in_force: Arc<ArcSwap<InForce>>,
    reloads: mpsc::Sender<Reload>,
    keeper: Arc<ArcSwapOption<Keeper>>,
    directory: Option<Runtime>,
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
    Seal(#[from] NoKey),
    /// The number of the process cannot be written.
    #[error(transparent)]
    PidFile(#[from] pid_file::PidFileError),
    /// The process that serves did not hand over.
    #[error("no other process's place could be taken")]
    Handover(#[from] HandoverError),
    /// The operating system refused something basic.
    #[error("the operating system refused to start the edge's threads")]
    System(#[from] std::io::Error),
}

/// Starts the edge: reads the organisation, binds every listener, serves. Where the directory is away, the organisation is
/// the one kept on disk.
pub fn start(config: Config) -> Result<Running, StartError> {
    start_with(config, Inheritance::default())
}

/// The same in another process's place.
pub(crate) fn start_with(config: Config, inheritance: Inheritance) -> Result<Running, StartError> {
    let directory_runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("directory").enable_all().build()?;
    let (config, since) = (Arc::new(config), SystemTime::now());
    let notices = Notices::new();
    let Known { cached, keeper, beginning, told } = find_out(&config, &directory_runtime, &notices)?;
    let Inheritance { mut sockets, affinity_key, logon_key } = inheritance;
    let listening: Vec<_> = {
        let listen = |listener: &Listener| sockets.listen("listener", listener.address);
        config.listeners.iter().map(listen).collect::<Result<_, _>>()?
    };
    let admin_socket = config.admin.as_ref().map(|admin| sockets.listen("admin", admin.address)).transpose()?;
    if let Some(said) = sockets.settle() {
        log::info!("{said}");
    }
    let addresses: Vec<_> = listening.iter().map(|(_, address)| *address).collect();
    let seal = Seal::new(&config.affinity.keys, affinity_key.as_ref())?;
    let affinity = Affinity::new(seal, config.affinity.lifetime);
    let logon_seal = Seal::new(&config.logon_form.keys, logon_key.as_ref())?;

    let users_max = config.sign_in.as_ref().map_or(crate::config::USERS_MAX, |settings| settings.users_max);
    let in_force = Arc::new(ArcSwap::from_pointee(InForce {
        config: config.clone(),
        directory: cached,
        organisation: Arc::new(beginning.organisation),
        affinity: Arc::new(affinity),
        logon_seal: Arc::new(logon_seal),
        addresses: addresses.clone(),
        version: 1,
        since,
        shared: Arc::new(Shared::new(config.pins.connections_max, users_max, notices.clone())),
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
        told,
    };
    look_after(&directory_runtime, follower);

    let (in_flight, connections) = (TaskTracker::new(), TaskTracker::new());
    let edge = Edge::new(in_force.clone(), in_flight.clone());
    let places = Arc::new(Places::new(config.limits.client_connections));
    let offered = Arc::<Offered>::default();
    let (stop, stopped) = watch::channel(false);
    let (idle_end, end) = (CancellationToken::new(), CancellationToken::new());
    let unless_started = end.clone().drop_guard();
    let of_web = listeners(&config, &addresses, &certificates, false);
    let of_mail = listeners(&config, &addresses, &certificates, true);
    for number in 0..config.threads {
        let arrival = Arrival::new(in_force.clone());
        let reception = Reception::new(arrival.clone(), places.clone(), connections.clone());
        let porch = Porch::new(reception.clone(), door(&config, edge.clone(), idle_end.clone()));
        let web = service(arrival, porch, &of_web)?;
        let mail =
            Mail::new(in_force.clone(), reception, &of_mail, offered.clone(), in_flight.clone(), idle_end.clone())?;
        let serving: Vec<Box<dyn Serving>> = vec![Box::new(web), Box::new(mail_service(mail, &of_mail))];
        serve(format!("edge-{number}"), serving, own(&listening)?, stopped.clone(), end.clone())?;
    }
    tell_where(&config, &addresses);
    let (admin_stop, admin_stopped) = watch::channel(false);
    let admin = admin_socket.as_ref().map(|(_, address)| *address);
    if let Some(socket) = admin_socket {
        let page = Admin::new(in_force.clone(), places, with_tls(&addresses, &certificates), stopped);
        serve_page(page, socket, admin_stopped, &end)?;
    }
    unless_started.disarm();
    let (sockets, directory) = (Arc::new(sockets), Some(directory_runtime));
    Ok(Running {
        addresses,
        admin,
        admin_stop,
        certificates,
        sockets,
        stop,
        idle_end,
        end,
        in_flight,
        connections,
        wake,
        in_force,
        reloads,
        keeper,
        directory,
    })
}

/// What an edge knows when it starts.
struct Known {
    cached: Arc<CachedDirectory>,
    keeper: Option<Arc<Keeper>>,
    beginning: Beginning,
    told: Told,
}

/// Reads the organisation, and what was kept of its people.
fn find_out(config: &Config, runtime: &Runtime, notices: &Arc<Notices>) -> Result<Known, StartError> {
    let told = notices.of_directory();
    told.is_in_force(true);
    let directory: Arc<dyn Directory> = {
        let _inside = runtime.enter();
        Arc::new(config.directory.open(&told.tell)?)
    };
    let handle = runtime.handle().clone();
    let cached = Arc::new(CachedDirectory::new(directory.clone(), config.cache, told.tell.clone(), handle));
    let keeper = Keeper::of(config);
    // Before the topology is read, which is kept then with the names of the servers it came from: these people's may differ.
    let kept = keeper.as_ref().map_or(Ok(None), |keeper| keeper.topology());
    let people = keeper.as_ref().map(|keeper| keeper.people(config, &kept)).unwrap_or_default();
    if let (Some(keeper), true) = (&keeper, people.is_empty()) {
        keeper.keep_people(&cached); // none, in place of another directory's
    }
    let beginning = runtime.block_on(following::begin(&*directory, config, keeper.as_deref(), kept))?;
    if keeper.is_some() {
        log::info!("{} people are known from before", people.len());
        cached.restore(people);
    }
    Ok(Known { cached, keeper, beginning, told })
}

/// Begins all that is done besides serving, with what the follower follows.
fn look_after(runtime: &Runtime, follower: Follower) {
    let in_force = follower.in_force.clone();
    runtime.spawn(following::keep_people(follower.keeper.clone(), in_force.clone()));
    let watched = in_force.clone();
    let watched = move || (watched.load().directory.clone(), watched.load().config.watch_interval);
    runtime.spawn(following::watch(watched, follower.wake.clone()));
    runtime.spawn(follower.run());
    runtime.spawn(health::rounds::run(move || in_force.load().organisation.clone()));
}

/// Starts, in the running process's place if it is an upgrade, and serves until told to stop.
pub fn run(config: Config, file: &Path, is_upgrade: bool) -> Result<(), StartError> {
    let pid_file = config.pid_file.as_deref().map(Prepared::beside).transpose()?;
    if !is_upgrade {
        let running = start(config)?;
        let signals = Signals::begin()?; // before anybody can know whom to send them
        let _pid_file = pid_file.map(Prepared::put).transpose()?;
        running.run_until_signalled(file, signals);
        return Ok(());
    }
    let (mut predecessor, inheritance) = Predecessor::meet(&config.upgrade)?;
    let running = match start_with(config, inheritance) {
        Ok(running) => running,
        Err(error) => {
            predecessor.failed(&whole_chain(&error));
            return Err(error);
        }
    };
    let signals = Signals::begin()?;
    if let Err(error) = predecessor.take_over() {
        running.drain();
        return Err(error.into());
    }
    let _pid_file = pid_file.map(Prepared::put).transpose().unwrap_or_else(|error| {
        Event::StateNotKept.report(whole_chain(&error)); // the process before is on its way out
        None
    });
    Event::TookOver.report(format_args!(
        "this process, {}, serves in place of {}",
        std::process::id(),
        predecessor.pid()
    ));
    predecessor.settled();
    running.run_until_signalled(file, signals);
    Ok(())
}

/// The door of one thread, with server connections of its own behind it.
fn door(config: &Config, edge: Edge, idle_end: CancellationToken) -> Door {
    let server = ServerConf {
        threads: 1,
        upstream_keepalive_pool_size: idle_connections_max(config),
        max_retries: MAX_SERVERS_TRIED,
        ..ServerConf::default()
    };
    let in_force = edge.in_force().clone();
    Door::new(pingora_proxy::http_proxy(&Arc::new(server), edge), in_force, idle_end)
}

/// The listeners of the web, or of mail, with what they show.
fn listeners(
    config: &Config,
    addresses: &[SocketAddr],
    certificates: &[Option<Arc<ListenerCertificates>>],
    of_mail: bool,
) -> Vec<(SocketAddr, Option<Arc<ListenerCertificates>>)> {
    let listeners = config.listeners.iter().zip(addresses).zip(certificates);
    let wanted = listeners.filter(|((listener, _), _)| listener.mail.is_some() == of_mail);
    wanted.map(|((_, address), certificates)| (*address, certificates.clone())).collect()
}

/// What one thread serves of the web.
fn service(
    arrival: Arrival,
    porch: Porch,
    listeners: &[(SocketAddr, Option<Arc<ListenerCertificates>>)],
) -> Result<Service<Porch>, StartError> {
    let mut serving = Service::new("edge".into(), porch);
    serving.endpoints().set_pre_tls_callback(Arc::new(arrival));
    for (address, certificates) in listeners {
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

/// What one thread serves of mail. TLS may begin later than the connection, so Pingora has no part in it; and thousands of
/// idle sessions would each keep a buffer of Pingora's.
fn mail_service(mail: Mail, listeners: &[(SocketAddr, Option<Arc<ListenerCertificates>>)]) -> Service<Mail> {
    let mut serving = Service::new("mail".into(), mail);
    for (address, _) in listeners {
        serving.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::unbuffered()));
    }
    serving
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
fn serve(
    name: String,
    mut serving: Vec<Box<dyn Serving>>,
    sockets: ListenFds,
    stopped: watch::Receiver<bool>,
    end: CancellationToken,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = async move {
        let serving = serving.iter_mut().map(|it| it.start_service(Some(sockets.clone()), stopped.clone(), 1));
        join_all(serving).await;
        std::future::pending::<()>().await;
    };
    std::thread::Builder::new().name(name).spawn(move || {
        let _ = runtime.block_on(end.run_until_cancelled(work));
    })?;
    Ok(())
}

/// The listeners that have certificates.
fn with_tls(addresses: &[SocketAddr], certificates: &[Option<Arc<ListenerCertificates>>]) -> Listeners {
    addresses.iter().zip(certificates).filter_map(|(address, it)| Some((*address, it.clone()?))).collect()
}

fn tell_where(config: &Config, addresses: &[SocketAddr]) {
    for (listener, address) in config.listeners.iter().zip(addresses) {
        match listener.mail {
            None => log::info!("listening on {}://{address}", if listener.tls.is_some() { "https" } else { "http" }),
            Some(_) => log::info!("listening on {address}, {}", listener.speaks()),
        }
    }
}

/// Starts the thread that administrators look at.
fn serve_page(
    page: Admin,
    socket: (TcpListener, SocketAddr),
    stopped: watch::Receiver<bool>,
    end: &CancellationToken,
) -> Result<(), StartError> {
    let address = socket.1;
    let mut serving = Service::new("admin".into(), page);
    serving.add_listener(ListenerConfig::tcp(address.to_string()));
    serve("admin".to_owned(), vec![Box::new(serving)], own(&[socket])?, stopped, end.clone())?;
    log::info!("the administrators' page is at http://{address}/");
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

    /// Serves until SIGTERM (drain), SIGINT (stop at once, a drain too), or until another process has taken this one's place,
    /// for which SIGQUIT looks. SIGHUP brings the configuration in `file` in force.
    fn run_until_signalled(self, file: &Path, (runtime, mut signals): (Runtime, Signals)) {
        log::info!("firstcas is ready");
        service_manager::ready();
        runtime.block_on(async {
            let Some(why) = self.serve_until(&mut signals, file).await else { return };
            let hurry = CancellationToken::new();
            let upgrade = self.in_force.load().config.upgrade.clone();
            let mut drained = match why {
                Leaving::Stopped => {
                    service_manager::stopping();
                    tokio::task::spawn_blocking(|| self.drain())
                }
                Leaving::HandedOver(successor) => {
                    watch_over(successor, hurry.clone());
                    let hurry = hurry.clone();
                    tokio::task::spawn_blocking(move || self.retire(&hurry))
                }
            };
            loop {
                tokio::select! {
                    _ = &mut drained => return,
                    _ = signals.terminate.recv() => hurry.cancel(),
                    _ = signals.quit.recv() => {
                        log::warn!("SIGQUIT: this process is leaving already");
                        let _ = handover::decline(&upgrade, "it is leaving already"); // nobody may wait to hear it
                    }
                    _ = signals.interrupt.recv() => {
                        log::warn!("SIGINT: the requests in flight are cut off, and the sessions of mail");
                        return;
                    }
                }
            }
        });
        runtime.shutdown_background();
    }

    /// Serves until it is time to leave; `None`: at once.
    async fn serve_until(&self, signals: &mut Signals, file: &Path) -> Option<Leaving> {
        let mut handover: Option<JoinHandle<Result<Successor, HandoverError>>> = None;
        let (is_stopping, mut was_reloaded) = (Arc::new(AtomicBool::new(false)), false);
        loop {
            let handed_over = async {
                match &mut handover {
                    Some(handover) => handover.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                result = handed_over => {
                    handover = None;
                    if let Some(successor) = self.successor(result.unwrap_or(Err(HandoverError::Gone))) {
                        if was_reloaded {
                            successor.reload(); // it may have read the file before
                        }
                        return Some(Leaving::HandedOver(successor));
                    }
                }
                _ = signals.terminate.recv() => {
                    is_stopping.store(true, Relaxed);
                    if let Some(handover) = handover {
                        let _ = timeout(HANDOVER_ENDS, handover).await;
                    }
                    return Some(Leaving::Stopped);
                }
                _ = signals.interrupt.recv() => return None,
                _ = signals.hangup.recv() => {
                    was_reloaded = handover.is_some();
                    let (done, _) = oneshot::channel();
                    // One that waits already will read the file as it is then.
                    let _ = self.reloads.try_send(Reload { file: file.to_owned(), done });
                }
                _ = signals.quit.recv() => {
                    if handover.is_some() {
                        log::warn!("SIGQUIT: an upgrade is under way already");
                        continue;
                    }
                    let (estate, keeper, known) = (self.estate(&is_stopping), self.keeper.load_full(), self.in_force());
                    handover = Some(tokio::task::spawn_blocking(move || {
                        if let Some(keeper) = keeper {
                            keeper.keep_people(&known.directory); // for the next process to begin with
                        }
                        estate.hand_over()
                    }));
                }
            }
        }
    }

    /// What there is for the next process.
    fn estate(&self, is_stopping: &Arc<AtomicBool>) -> Estate {
        let in_force = self.in_force.load();
        let affinity_key = in_force.affinity.seal().own().cloned();
        Estate {
            upgrade: in_force.config.upgrade.clone(),
            sockets: self.sockets.clone(),
            affinity_key,
            logon_key: in_force.logon_seal.own().cloned(),
            keytab: in_force.config.client_keytab().map(Path::to_owned),
            is_stopping: is_stopping.clone(),
        }
    }

    fn successor(&self, result: Result<Successor, HandoverError>) -> Option<Successor> {
        match result {
            Ok(successor) => {
                let pid = successor.pid;
                self.in_force.load().shared.leave();
                service_manager::main_pid(pid);
                let longest = duration_text(self.in_force.load().config.upgrade.drain_timeout);
                Event::HandedOver.report(format_args!(
                    "process {pid} serves; this one, {}, finishes what it has, for at most {longest}",
                    std::process::id()
                ));
                Some(successor)
            }
            Err(error) => {
                Event::NotHandedOver.report(format_args!("this process goes on serving: {}", whole_chain(&error)));
                None
            }
        }
    }

    /// Stops listening, gives idle clients a moment for a last request, and waits for the requests in flight, and for the
    /// sessions of mail to be quiet: for all of them, or the configured time.
    pub fn drain(mut self) {
        log::info!("draining: no new connections; {} requests and sessions of mail in flight", self.in_flight.len());
        self.stop_listening();
        self.wait_for(self.finish());
        self.shut_down();
    }

    /// Stops listening, because another process does, and serves the clients that are here as long as they stay: each gets
    /// one more answer. If it is in a `hurry`, it drains.
    fn retire(mut self, hurry: &CancellationToken) {
        self.keeper.store(None); // the other process keeps what is to be kept
        let _ = self.admin_stop.send(true); // there may be no page
        self.stop_listening();
        let longest = self.in_force.load().config.upgrade.drain_timeout;
        self.wait_for(async {
            let gone = async { tokio::join!(self.connections.wait(), tokio::time::sleep(HANDSHAKE_MAX)) };
            tokio::select! {
                left = timeout(longest, gone) => if left.is_err() {
                    self.finish().await; // who stays for days, as mail programs do, goes when nothing is on its way
                },
                () = hurry.cancelled() => self.finish().await,
            }
        });
        self.shut_down();
    }

    fn stop_listening(&mut self) {
        self.in_force.load().shared.leave();
        let _ = self.stop.send(true); // nobody listening any more is what we want
        self.sockets = Arc::default();
        self.in_flight.close();
        self.connections.close();
    }

    /// Lets idle clients go, and the others when they have their answer.
    async fn finish(&self) {
        let finish = async {
            let _ = timeout(IDLE_GRACE, self.connections.wait()).await;
            self.idle_end.cancel();
            self.in_flight.wait().await;
            let _ = timeout(LAST_ANSWERS, self.connections.wait()).await;
        };
        let _ = timeout(self.in_force.load().config.drain_timeout, finish).await; // `wait_for` says who was left
    }

    /// Waits, and tells whom it is the end for.
    fn wait_for(&self, end: impl Future<Output = ()>) {
        let Some(directory) = &self.directory else { return };
        directory.block_on(end); // the clock of the time-outs is that runtime's
        match self.in_flight.len() {
            0 => log::info!("drained"),
            left => Event::CutOff.report(format_args!(
                "{left} requests and sessions of mail were cut off when the time to drain was over"
            )),
        }
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

/// The listening sockets for one thread, which closes its own descriptors of them.
fn own(sockets: &[(TcpListener, SocketAddr)]) -> std::io::Result<ListenFds> {
    let mut own = pingora_core::server::Fds::new();
    for (socket, address) in sockets {
        own.add(address.to_string(), socket.try_clone()?.into_raw_fd());
    }
    Ok(Arc::new(Mutex::new(own)))
}

/// Why a process leaves.
enum Leaving {
    /// It was told to.
    Stopped,
    /// Another one serves.
    HandedOver(Successor),
}

/// Sees whether the process that took this one's place lives. If it dies by a fault of its own, nobody listens any more, and
/// the service manager may not notice while this process, its parent, is there: so this one ends soon, for all to be begun anew.
fn watch_over(Successor { pid, child }: Successor, hurry: CancellationToken) {
    let Some(mut child) = child else { return };
    std::thread::spawn(move || {
        if let Ok(status) = child.wait()
            && !status.success()
        {
            Event::SuccessorDied.report(format_args!("process {pid}, which had taken over, has ended ({status})"));
            service_manager::main_pid(std::process::id());
            hurry.cancel();
        }
    });
}

struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they are kept until somebody looks, and end nobody by themselves.
    fn begin() -> std::io::Result<(Runtime, Self)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let signals = {
            let _inside = runtime.enter();
            Signals {
                terminate: signal(SignalKind::terminate())?,
                quit: signal(SignalKind::quit())?,
                interrupt: signal(SignalKind::interrupt())?,
                hangup: signal(SignalKind::hangup())?,
            }
        };
        Ok((runtime, signals))
    }
}

/// How long a handover may take to end when the edge is to stop.
const HANDOVER_ENDS: Duration = Duration::from_secs(2);
/// How long an idle client of an edge that stops may take for a request that is on its way.
const IDLE_GRACE: Duration = Duration::from_secs(2);
/// How long the last answers may take to leave: over HTTP/2 they do after their requests are over.
const LAST_ANSWERS: Duration = Duration::from_secs(1);
/// Pingora's bound on a TLS handshake, whose connection nobody counts until it is over.
const HANDSHAKE_MAX: Duration = Duration::from_secs(60);

/// How many servers one request is offered to before it is told that none answers.
const MAX_SERVERS_TRIED: usize = 16;
