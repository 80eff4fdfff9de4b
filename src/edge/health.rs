//! Which servers answer, and which of their virtual directories work.
//!
//! A *place*, where a server is reached, is out at once, and for a while, when it refuses a request's connection or cannot
//! be believed; the next connection that it accepts brings it back. What checks ([`rounds`]) find out stays so until checks
//! find otherwise. A *virtual directory* is out when checks find it so ([`judgement`] says what they look for).
//!
//! Where no server is left, one request a second tries each that is out, whoever took it out: one lost packet, or a check
//! that is mistaken, does not take a site away. That one request waits for as long as connecting to a server may take, and
//! where the server lets it in, for as long as an answer may take; all others are told at once.
//!
//! Everything is out of the way of requests: they read one word a place and one a virtual directory.

mod check;
pub mod judgement;
mod report;
pub mod rounds;
mod slow_start;
mod standing;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use pingora_core::{Error, ErrorType};

pub use report::{DirectoryReport, Report, ServerReport};

use self::{
    judgement::Illness,
    rounds::Turn,
    standing::{Phase, Standing},
};
use crate::{
    config,
    events::Event,
    routing::{protocol::Protocol, topology::ServerId},
};

/// The health of every server of a topology. A new one takes over what the old one knew.
pub struct Health {
    settings: config::Health,
    retry_after_ms: u64,
    servers: Vec<Server>,
    by_name: HashMap<String, ServerId>,
}

/// A server, as far as its health is concerned.
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its seed of the consistent hash.
    pub hash_seed: u64,
    /// Where it is reached, such as `https://cas-1.contoso.com:443`; each place once. None: no client's request goes there.
    pub places: Vec<String>,
    /// By protocol: the index of its place, and whether it has a virtual directory there that clients could be sent to.
    pub ways: [(usize, bool); WAYS],
}

/// Places for every protocol, [`Protocol::Opened`] too.
pub const WAYS: usize = Protocol::ALL.len() + 1;

struct Server {
    name: String,
    hash_seed: u64,
    places: Vec<Place>,
    ways: [Way; WAYS],
    load: Arc<AtomicUsize>,
}

/// What is shared is so by the topologies that the place was in.
#[derive(Clone)]
struct Place {
    name: String,
    standing: Arc<Standing>,
    turn: Arc<Turn>,
    /// Milliseconds from which a request may probe it although it is out.
    probe_from_ms: Arc<AtomicU64>,
    /// Checks are made here.
    is_watched: bool,
}

struct Way {
    place: usize,
    /// `None`: it is not checked.
    directory: Option<Arc<Standing>>,
}

/// Why a server gets no requests at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not accept connections.
    Unreachable(String),
    /// Its certificate is not trusted, or its TLS too old.
    Untrusted(String),
    /// It lets nobody sign in by POP3 or IMAP4, in words that follow its name.
    Unfit(String),
}

/// A request that a server is busy with, for as long as this lives.
pub struct InFlight(Arc<AtomicUsize>);

impl Health {
    /// Everything in, except what `previous` knows to be out. What a request has taken out is tried again after
    /// `retry_after`.
    pub fn new(
        settings: config::Health,
        retry_after: Duration,
        members: Vec<Member>,
        previous: Option<&Health>,
    ) -> Health {
        let is_checked = settings.interval.is_some();
        let known = |name: &str| previous.and_then(|previous| Some(&previous.servers[previous.by_name.get(name)?.0]));
        let by_name = members.iter().enumerate().map(|(id, member)| (member.name.clone(), ServerId(id))).collect();
        let servers = members.into_iter().map(|member| Server::new(known(&member.name), member, is_checked)).collect();
        Health { settings, retry_after_ms: millis(retry_after), servers, by_name }
    }

    /// Whether a server gets requests of a protocol.
    pub fn is_alive(&self, server: ServerId, protocol: Protocol) -> bool {
        self.way(server, protocol).is_some_and(|(place, directory)| {
            place.standing.is_in(now_ms) && directory.is_none_or(|directory| directory.is_in(now_ms))
        })
    }

    /// Whether it gets those of this key: a server that is back gets them one after the other.
    pub fn takes(&self, server: ServerId, protocol: Protocol, key: u64) -> bool {
        let seed = self.servers[server.0].hash_seed;
        self.way(server, protocol).is_some_and(|(place, directory)| {
            self.is_open(&place.standing, key, seed)
                && directory.is_none_or(|directory| self.is_open(directory, key, seed))
        })
    }

    fn is_open(&self, standing: &Standing, key: u64, hash_seed: u64) -> bool {
        let Phase::Back(began) = standing.phase() else { return standing.is_in(now_ms) };
        let since = Duration::from_millis(now_ms().saturating_sub(began));
        if since >= self.settings.slow_start {
            standing.settle(began);
            return true;
        }
        slow_start::has_come_back(key, hash_seed, since, self.settings.slow_start)
    }

    /// Whether a server accepts connections and answers requests of a protocol at once, though badly: where no other is
    /// left, its own words are better than none; and a check that is mistaken must not take a site away.
    pub fn answers(&self, server: ServerId, protocol: Protocol) -> bool {
        self.way(server, protocol).is_some_and(|(place, directory)| {
            place.standing.is_in(now_ms) && directory.is_none_or(|directory| directory.phase() == Phase::Poor)
        })
    }

    /// Whether a server accepts connections, whatever became of its virtual directory.
    pub fn is_reached(&self, server: ServerId, protocol: Protocol) -> bool {
        self.way(server, protocol).is_some_and(|(place, _)| place.standing.is_in(now_ms))
    }

    /// Whether this request may try a server that is out, because no other is left: one a second may. So a site with one
    /// server loses a moment to one lost packet, and not the whole time for which a dead server is left alone.
    pub fn may_probe(&self, server: ServerId, protocol: Protocol) -> bool {
        const EVERY_MS: u64 = 1000;
        let Some((place, _)) = self.way(server, protocol) else { return false };
        let (now, from) = (now_ms(), place.probe_from_ms.load(Relaxed));
        now >= from && place.probe_from_ms.compare_exchange(from, now + EVERY_MS, Relaxed, Relaxed).is_ok()
    }

    /// A request found that a server does not let it in.
    pub fn refused(&self, server: ServerId, protocol: Protocol, fault: &Fault) {
        let Some((place, _)) = self.way(server, protocol) else { return };
        if place.standing.take_out(now_ms().saturating_add(self.retry_after_ms), &fault.reason()) {
            fault.tell(&self.servers[server.0].name);
            if let Some(interval) = self.settings.interval {
                place.turn.soon(now_ms(), interval);
            }
        }
    }

    /// A request's new connection was accepted. That brings back what a request took out. What checks took out they bring
    /// back, and are asked to look soon: else many could wait for a server that takes one connection of a hundred.
    pub fn accepted(&self, server: ServerId, protocol: Protocol) {
        let Some((place, _)) = self.way(server, protocol) else { return };
        if place.standing.bring_back(now_ms()) {
            self.tell_back(server);
        } else if let (Phase::Out(_), Some(interval)) = (place.standing.phase(), self.settings.interval) {
            place.turn.soon(now_ms(), interval);
        }
    }

    /// A request was answered, though badly perhaps. Where checks wait in vain and requests do not, these go on until the
    /// next check: a check can be mistaken.
    pub fn answered(&self, server: ServerId, protocol: Protocol) {
        if let Some((_, Some(directory))) = self.way(server, protocol) {
            directory.answers();
        }
    }

    /// Counts a request that a server is given.
    pub fn enter(&self, server: ServerId) -> InFlight {
        let load = &self.servers[server.0].load;
        load.fetch_add(1, Relaxed);
        InFlight(load.clone())
    }

    fn way(&self, server: ServerId, protocol: Protocol) -> Option<(&Place, Option<&Standing>)> {
        let server = &self.servers[server.0];
        let way = &server.ways[protocol as usize];
        Some((server.places.get(way.place)?, way.directory.as_deref()))
    }

    fn settings(&self) -> &config::Health {
        &self.settings
    }

    /// Every place that is checked.
    fn watched(&self) -> impl Iterator<Item = (ServerId, usize, &Turn)> {
        self.servers.iter().enumerate().flat_map(|(id, server)| {
            let watched = server.places.iter().enumerate().filter(|(_, place)| place.is_watched);
            watched.map(move |(number, place)| (ServerId(id), number, &*place.turn))
        })
    }

    /// The protocols that are checked at a place.
    fn checked_at(&self, server: ServerId, place: usize) -> impl Iterator<Item = Protocol> {
        let ways = &self.servers[server.0].ways;
        let is_there = move |protocol: &Protocol| {
            let way = &ways[*protocol as usize];
            way.place == place && way.directory.is_some()
        };
        Protocol::ALL.into_iter().filter(is_there)
    }

    /// A check could not connect.
    fn check_refused(&self, server: ServerId, place: usize, fault: &Fault) {
        let Server { name, places, .. } = &self.servers[server.0];
        if places[place].standing.was_bad(self.settings.fall, Phase::Out(Phase::FOR_GOOD), &fault.reason()) {
            fault.tell(name);
        }
    }

    /// A check could connect.
    fn check_accepted(&self, server: ServerId, place: usize) {
        if self.servers[server.0].places[place].standing.was_good(self.settings.rise, now_ms()) {
            self.tell_back(server);
        }
    }

    /// A check has judged a virtual directory.
    fn check_judged(&self, server: ServerId, protocol: Protocol, judgement: Result<(), Illness>) {
        let Server { name, ways, .. } = &self.servers[server.0];
        let (Some(directory), path) = (&ways[protocol as usize].directory, protocol.directory_path()) else { return };
        match judgement {
            Ok(()) => {
                if directory.was_good(self.settings.rise, now_ms()) {
                    Event::VirtualDirectoryBack.report(format_args!("{path} of {name} works again"));
                }
            }
            Err(Illness { reason, answers }) => {
                let phase = if answers { Phase::Poor } else { Phase::Out(Phase::FOR_GOOD) };
                if directory.was_bad(self.settings.fall, phase, &reason) {
                    Event::VirtualDirectoryOut.report(format_args!("{path} of {name} gets no more requests: {reason}"));
                }
            }
        }
    }

    fn turn(&self, server: ServerId, place: usize) -> &Turn {
        &self.servers[server.0].places[place].turn
    }

    /// Whether the last check at a place found something else than what stands.
    fn is_in_doubt(&self, server: ServerId, place: usize) -> bool {
        let Server { places, ways, .. } = &self.servers[server.0];
        let mut directories = ways.iter().filter(|way| way.place == place).filter_map(|way| way.directory.as_ref());
        places[place].standing.is_in_doubt() || directories.any(|directory| directory.is_in_doubt())
    }

    fn tell_back(&self, server: ServerId) {
        Event::ServerBack.report(format_args!("{} accepts connections again", self.servers[server.0].name));
    }
}

impl Server {
    /// Takes over what is known of the places that are still where they were, and are watched as they were.
    fn new(known: Option<&Server>, member: Member, is_checked: bool) -> Server {
        let place = |(number, name): (usize, String)| {
            let is_watched = is_checked && member.ways.iter().any(|(place, checked)| *place == number && *checked);
            let mut known = known.into_iter().flat_map(|server| &server.places);
            let known = known.find(|place| place.name == name && place.is_watched == is_watched);
            known.cloned().unwrap_or_else(|| Place {
                name,
                standing: Arc::new(Standing::new()),
                turn: Arc::default(),
                probe_from_ms: Arc::default(),
                is_watched,
            })
        };
        let places: Vec<_> = member.places.into_iter().enumerate().map(place).collect();
        let way = |protocol: usize| {
            let (place, has_directory) = member.ways[protocol];
            let directory = (has_directory && is_checked).then(|| {
                let known = known.and_then(|server| {
                    let way = &server.ways[protocol];
                    let unmoved = server.places.get(way.place)?.name == places.get(place)?.name;
                    way.directory.clone().filter(|_| unmoved)
                });
                known.unwrap_or_else(|| Arc::new(Standing::new()))
            });
            Way { place, directory }
        };
        let ways = std::array::from_fn(way);
        let load = known.map_or_else(Arc::default, |server| server.load.clone());
        Server { name: member.name, hash_seed: member.hash_seed, places, ways, load }
    }
}

impl Fault {
    /// What a failed connection says about the server. `None`: nothing, it is our own descriptors or ports that are used
    /// up, and the next server would fare alike.
    pub fn of(error: &Error) -> Option<Fault> {
        #[allow(clippy::wildcard_enum_match_arm)] // whatever else there is, no connection came of it
        match error.etype() {
            ErrorType::InternalError => None,
            ErrorType::InvalidCert | ErrorType::TLSHandshakeFailure => Some(Fault::Untrusted(error.to_string())),
            _ => Some(Fault::Unreachable(error.to_string())),
        }
    }

    fn reason(&self) -> String {
        match self {
            Fault::Unreachable(why) => format!("does not accept connections: {why}"),
            Fault::Untrusted(why) => format!("is not believed: {why}"),
            Fault::Unfit(why) => why.clone(),
        }
    }

    fn tell(&self, name: &str) {
        let event = match self {
            Fault::Unreachable(_) => Event::ServerUnreachable,
            Fault::Untrusted(_) => Event::ServerCertificate,
            Fault::Unfit(_) => Event::MailServerFailed,
        };
        event.report(format_args!("{name} {}", self.reason()));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Milliseconds of a clock that only goes forwards.
fn now_ms() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    millis(START.elapsed())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
