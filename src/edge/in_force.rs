//! What is in force: configuration, directory, organisation. A request is served by one state from its first phase to its
//! last; a new one takes the old one's place whole, and requests that are under way keep theirs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use pingora_core::protocols::http::server::Session as HttpSession;
use pingora_proxy::Session;
use tokio::sync::Semaphore;

use super::{
    affinity::Affinity,
    callers::Callers,
    decisions::Decisions,
    form::LoggedOff,
    keep_alive,
    lately::{Lately, Sent},
    logons::Logons,
    mandates::Mandates,
    notices::Notices,
    organisation::Organisation,
    pin::Bounds,
    proof::Numbers,
    seal::Seal,
    tally::Tally,
};
use crate::{
    config::{Config, Listener},
    directory::cache::CachedDirectory,
    metrics::Metrics,
};

/// All that a request is served by.
#[derive(Clone)]
pub struct InForce {
    /// The settings. Those that cannot change while the process runs are the ones it started with.
    pub config: Arc<Config>,
    /// Who people are, and where their mailboxes live.
    pub directory: Arc<CachedDirectory>,
    /// Sites, servers, and how they are reached.
    pub organisation: Arc<Organisation>,
    /// Seals the cookie that takes a client's next connection to its mailbox's site.
    pub affinity: Arc<Affinity>,
    /// Seals the cookies of the logon form.
    pub logon_seal: Arc<Seal>,
    /// Where the listeners stand, in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
    /// Which of this process's configurations it is; the first is 1.
    pub version: u64,
    /// When the configuration came in force.
    pub since: SystemTime,
    /// What outlives a configuration.
    pub shared: Arc<Shared>,
}

/// What requests have in common, whatever configuration they are served by.
pub struct Shared {
    /// Places for pinned clients.
    pub(super) pins: Arc<Semaphore>,
    pub(super) notices: Arc<Notices>,
    pub(super) sent: Sent,
    pub(crate) lately: Lately,
    pub(super) numbers: Numbers,
    is_leaving: AtomicBool,
    pub(super) callers: Arc<Callers>,
    pub(crate) logons: Logons,
    pub(super) logged_off: LoggedOff,
    /// Requests of each `ActiveSync` device.
    pub(super) devices: Tally,
    /// What requests are counted by.
    pub metrics: Arc<Metrics>,
    /// Tickets of users, by which the edge signs in for them.
    pub(super) mandates: Mandates,
    /// Some of the last decisions.
    pub decisions: Decisions,
    /// How the last attempt ended to bring another configuration in force; `None`: there was none.
    pub last_reload: Mutex<Option<LastReload>>,
    pins_max: usize,
}

/// An attempt to bring another configuration in force.
#[derive(Clone, Debug)]
pub struct LastReload {
    /// When it ended.
    pub at: SystemTime,
    /// Why it failed; `None`: it did not.
    pub problem: Option<String>,
}

impl Shared {
    /// Nothing has happened yet. `notices` know whether the directory is away.
    pub fn new(pins_max: usize, users_max: u64, notices: Arc<Notices>) -> Self {
        let (sent, lately, numbers) = (Sent::new(), Lately::new(), Numbers::default());
        let metrics = Arc::<Metrics>::default();
        Shared {
            pins: Arc::new(Semaphore::new(pins_max)),
            notices,
            sent,
            lately,
            numbers,
            callers: Arc::default(),
            logons: Logons::new(),
            logged_off: LoggedOff::new(),
            devices: Tally::new(DEVICES_MAX),
            mandates: Mandates::new(users_max, metrics.clone()),
            metrics,
            decisions: Decisions::new(),
            last_reload: Mutex::default(),
            is_leaving: AtomicBool::new(false),
            pins_max,
        }
    }

    /// Pinned clients, and how many there may be.
    pub fn pinned(&self) -> (usize, usize) {
        (self.pins_max.saturating_sub(self.pins.available_permits()), self.pins_max)
    }

    /// Users whose tickets are kept, or why they get none.
    pub fn signed_in_users(&self) -> u64 {
        self.mandates.len()
    }

    /// Whether the directory answers, as far as anybody knows.
    pub fn is_directory_up(&self) -> bool {
        !self.notices.is_away()
    }

    /// From now on each client's connection ends with its next answer.
    pub fn leave(&self) {
        self.is_leaving.store(true, Relaxed);
    }

    /// Whether the edge is about to stop.
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Relaxed)
    }
}

/// Devices whose requests are counted at a time; some 10 MB.
const DEVICES_MAX: u64 = 50_000;

impl InForce {
    /// Where the listener that this client came to sends everybody, if it does.
    pub(super) fn redirect(&self, session: &Session) -> Option<&url::Url> {
        if self.config.listeners.iter().all(|listener| listener.redirect_to_https.is_none()) {
            return None;
        }
        self.listener(session.server_addr()?.as_inet()?)?.redirect_to_https.as_ref()
    }

    /// The listener that a client came to.
    pub(super) fn listener(&self, came_to: &SocketAddr) -> Option<&Listener> {
        self.listener_at(came_to).map(|(listener, _)| listener)
    }

    /// The same, with the address that it stands at.
    pub(crate) fn listener_at(&self, came_to: &SocketAddr) -> Option<(&Listener, SocketAddr)> {
        let is_it = |bound: &SocketAddr| {
            bound.port() == came_to.port() && (bound.ip().is_unspecified() || bound.ip() == came_to.ip())
        };
        let mut listeners = self.config.listeners.iter().zip(&self.addresses);
        listeners.find(|(_, bound)| is_it(bound)).map(|(listener, bound)| (listener, *bound))
    }

    /// Of a leaving edge every pin has reached its bounds: a handshake is let finish, nothing else goes on.
    pub(super) fn pin_bounds(&self) -> Bounds {
        if self.shared.is_leaving() {
            return Bounds { lifetime: Duration::ZERO, requests_max: 0 };
        }
        Bounds { lifetime: self.config.pins.lifetime, requests_max: self.config.pins.requests_max }
    }

    pub(super) fn set_client_limits(&self, session: &mut HttpSession) {
        let timeouts = &self.config.timeouts;
        session.set_read_timeout(Some(timeouts.client));
        session.set_write_timeout(Some(timeouts.client));
        session.set_total_drain_timeout(Some(timeouts.client));
        keep_alive(session, timeouts.client_keepalive); // Pingora's own default keeps idle clients for ever
    }
}
