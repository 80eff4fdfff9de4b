//! What the page shows, and `/status.json` says. Times are seconds since 1970, unless a field's name says otherwise.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::Ordering::Relaxed,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{
    certificates::{self, Certificate, Listeners},
    process::Process,
};
use crate::{
    edge::{
        decisions::{Decided, unix_now},
        door::Places,
        health::{DirectoryReport, Report},
        in_force::InForce,
        may_be_held,
    },
    events::{self, Severity},
    explain,
    metrics::{
        Outcome,
        mail::{Logon, State},
    },
};

/// The whole of it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The version of firstcas.
    pub version: &'static str,
    /// When this was written.
    pub now: f64,
    /// `serving` or `draining`.
    pub state: &'static str,
    /// The configuration in force.
    pub configuration: Configuration,
    /// How many requests there were, and are.
    pub requests: Requests,
    /// POP3 and IMAP4; null: no listener speaks them.
    pub mail: Option<Mail>,
    /// Connections of clients and to servers.
    pub connections: Connections,
    /// The directory, and what is remembered of it.
    pub directory: Directory,
    /// Every site that has Exchange servers, the edge's own first.
    pub sites: Vec<Site>,
    /// What clients are shown.
    pub certificates: Vec<Certificate>,
    /// The last events, the latest first.
    pub events: Vec<Reported>,
    /// Some of the last decisions, the latest first.
    pub decisions: Vec<Decided>,
    /// What the system says of the process.
    pub process: Resources,
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize)]
pub struct Configuration {
    /// Which of this process it is; the first is 1.
    pub version: u64,
    /// Since when it is in force.
    pub since: f64,
    /// The last attempt to bring another in force; null: there was none.
    pub last_reload: Option<Reload>,
}

/// An attempt to bring another configuration in force.
#[derive(Clone, Debug, Serialize)]
pub struct Reload {
    /// When it ended.
    pub at: f64,
    /// Why it failed; null: it did not.
    pub problem: Option<String>,
}

/// Requests since the process began.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Requests {
    /// All that have ended.
    pub total: u64,
    /// Those answered with a 5xx.
    pub failed: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Those that were sent elsewhere: by a page, a 451, a 302.
    pub redirected: u64,
    /// Those under way.
    pub in_flight: u64,
    /// Those of them whose protocols' servers hold them on purpose.
    pub held: u64,
}

/// Sessions of POP3 and IMAP4, and their logons since the process began.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Mail {
    /// Sessions in which nobody has logged on yet.
    pub logging_on: u64,
    /// Those that are open at a server.
    pub open: u64,
    /// Logons that ended at a server.
    pub signed_in: u64,
    /// Those that were refused, wrong passwords included.
    pub refused: u64,
    /// Those that came to nothing because something does not work.
    pub failed: u64,
}

/// Connections.
#[derive(Clone, Debug, Serialize)]
pub struct Connections {
    /// Open client connections.
    pub clients: usize,
    /// As many as there may be.
    pub clients_max: usize,
    /// Those of them with server connections of their own.
    pub pinned: usize,
    /// As many as there may be.
    pub pinned_max: usize,
    /// Connections to servers that requests opened.
    pub upstream_new: u64,
    /// How often one was there already.
    pub upstream_reused: u64,
}

/// The directory.
#[derive(Clone, Debug, Serialize)]
pub struct Directory {
    /// Whether it answers.
    pub is_up: bool,
    /// Names that are remembered.
    pub entries: u64,
    /// Names answered by what is remembered.
    pub hits: u64,
    /// Names that had to wait.
    pub misses: u64,
    /// Names answered by what was known before, because the directory gave no answer.
    pub stale_answers: u64,
    /// Names that it was asked for.
    pub searches: u64,
    /// Mailboxes that moved while they were known.
    pub moves: u64,
    /// Passwords that it was asked about.
    pub binds: u64,
    /// Passwords that it was not, because too many of the person's had been wrong.
    pub passwords_not_asked: u64,
    /// Its servers; none where it is a file.
    pub servers: Vec<DirectoryServer>,
}

/// A directory server.
#[derive(Clone, Debug, Serialize)]
pub struct DirectoryServer {
    /// Its URL.
    pub url: String,
    /// What it is asked for: `people` or `configuration`.
    pub asked_for: &'static str,
    /// Whether it answers.
    pub is_up: bool,
    /// Searches that it was asked to make.
    pub searches: u64,
    /// Those that it gave no result of.
    pub failures: u64,
    /// How long one took, in milliseconds, on average; null: there was none.
    pub mean_ms: Option<f64>,
}

/// A site.
#[derive(Clone, Debug, Serialize)]
pub struct Site {
    /// Its name; `-`: the servers of Exchange 2003, which belong to no site.
    pub name: String,
    /// Whether the edge stands in it.
    pub is_local: bool,
    /// Requests for its mailboxes, or served by it.
    pub requests: u64,
    /// Those of them answered with a 5xx.
    pub failed: u64,
    /// Its servers that take clients' requests; a site without any is not served, unless by a neighbour.
    pub servers: Vec<Server>,
}

/// A server that takes clients' requests.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its site's name; `-`: none.
    pub site: String,
    /// Its name in DNS.
    pub fqdn: String,
    /// Its version of Exchange.
    pub version: String,
    /// Whether it is reached.
    pub is_up: bool,
    /// Since when that is so.
    pub since: u64,
    /// Why it is not, in words that follow its name; null: it is.
    pub why: Option<String>,
    /// Requests, and sessions of POP3 and IMAP4, that it has now.
    pub in_flight: usize,
    /// Those of its virtual directories that clients could be sent to.
    pub virtual_directories: Vec<DirectoryReport>,
    /// Requests, and sessions of POP3 and IMAP4, that it was given.
    pub requests: u64,
}

/// An event that was reported.
#[derive(Clone, Debug, Serialize)]
pub struct Reported {
    /// When.
    pub at: f64,
    /// Its id.
    pub id: &'static str,
    /// `information`, `warning` or `error`.
    pub severity: &'static str,
    /// What happened.
    pub text: String,
    /// What to do about it.
    pub cure: &'static str,
}

/// What the system says of the process.
#[derive(Clone, Debug, Serialize)]
pub struct Resources {
    /// When it began.
    pub started: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// As many as there may be.
    pub max_fds: u64,
    /// Memory in use, in bytes.
    pub resident_bytes: u64,
    /// Processor time in seconds.
    pub cpu_seconds: f64,
}

impl Status {
    /// What is so now.
    pub(super) fn of(in_force: &InForce, clients: &Places, listeners: &Listeners, is_stopping: bool) -> Self {
        let (clients, clients_max) = clients.taken();
        let (pinned, pinned_max) = in_force.shared.pinned();
        let (upstream_new, upstream_reused) = in_force.shared.metrics.upstream_connections();
        let process = Process::now();
        let last_reload = in_force.shared.last_reload.lock().clone();
        let (requests, of_sites) = requests(in_force);
        Status {
            version: env!("CARGO_PKG_VERSION"),
            now: unix_now(),
            state: if is_stopping { "draining" } else { "serving" },
            configuration: Configuration {
                version: in_force.version,
                since: unix(in_force.since),
                last_reload: last_reload.map(|last| Reload { at: unix(last.at), problem: last.problem }),
            },
            requests,
            mail: Mail::of(in_force),
            connections: Connections { clients, clients_max, pinned, pinned_max, upstream_new, upstream_reused },
            directory: Directory::of(in_force),
            sites: sites(in_force, &of_sites),
            certificates: certificates::of(listeners),
            events: events::recent().into_iter().map(Reported::from).collect(),
            decisions: in_force.shared.decisions.latest(),
            process: Resources {
                started: process.started,
                open_fds: process.open_fds,
                max_fds: process.max_fds,
                resident_bytes: process.resident_bytes,
                cpu_seconds: process.cpu.as_secs_f64(),
            },
        }
    }
}

impl Mail {
    fn of(in_force: &InForce) -> Option<Self> {
        if !in_force.config.listeners.iter().any(|listener| listener.mail.is_some()) {
            return None;
        }
        let (counts, mut all) = (&in_force.shared.metrics.mail, Mail::default());
        for (_, state, count) in counts.sessions() {
            match state {
                State::Logon => all.logging_on += count,
                State::Open => all.open += count,
            }
        }
        counts.each_logon(|_, _, _, logon, count| match logon {
            Logon::SignedIn => all.signed_in += count,
            Logon::WrongPassword | Logon::Denied | Logon::ServerRefused => all.refused += count,
            Logon::Failed => all.failed += count,
        });
        Some(all)
    }
}

impl Directory {
    fn of(in_force: &InForce) -> Self {
        let counters = in_force.directory.counters();
        let server = |state: crate::directory::ServerState| {
            let asked = u32::try_from(state.searches).unwrap_or(u32::MAX);
            let mean = state.duration.checked_div(asked);
            DirectoryServer {
                url: state.url,
                asked_for: state.asked_for,
                is_up: state.is_up,
                searches: state.searches,
                failures: state.failures,
                mean_ms: mean.map(|mean| mean.as_secs_f64() * 1000.0),
            }
        };
        Directory {
            is_up: in_force.shared.is_directory_up(),
            entries: in_force.directory.entries(),
            hits: counters.hits.load(Relaxed),
            misses: counters.misses.load(Relaxed),
            stale_answers: counters.stale_answers.load(Relaxed),
            searches: counters.searches.load(Relaxed),
            moves: counters.moves.load(Relaxed),
            binds: counters.binds.load(Relaxed),
            passwords_not_asked: counters.passwords_not_asked.load(Relaxed),
            servers: in_force.directory.behind().servers().into_iter().map(server).collect(),
        }
    }
}

impl From<events::Happened> for Reported {
    fn from(recent: events::Happened) -> Self {
        Reported {
            at: unix(recent.time),
            id: recent.event.id(),
            severity: match recent.event.severity() {
                Severity::Information => "information",
                Severity::Warning => "warning",
                Severity::Error => "error",
            },
            text: recent.text,
            cure: recent.event.cure(),
        }
    }
}

/// All requests, and of each site how many there were, and failed.
fn requests(in_force: &InForce) -> (Requests, HashMap<String, (u64, u64)>) {
    let (mut all, mut of_sites) = (Requests::default(), HashMap::<_, (u64, u64)>::new());
    in_force.shared.metrics.each_request(|site, _, outcome, class, count| {
        let failed = if class == "5xx" { count } else { 0 };
        all.total += count;
        all.failed += failed;
        match outcome {
            Outcome::Refused => all.refused += count,
            Outcome::RedirectPage | Outcome::MovedDevice | Outcome::SameHost | Outcome::OtherServer => {
                all.redirected += count;
            }
            Outcome::Local | Outcome::Proxy | Outcome::BackEnd | Outcome::EdgeAnswer => {}
        }
        let (site_all, site_failed) = of_sites.entry(site.to_owned()).or_default();
        *site_all += count;
        *site_failed += failed;
    });
    for (protocol, count) in in_force.shared.metrics.in_flight() {
        all.in_flight += count;
        all.held += if may_be_held(protocol) { count } else { 0 };
    }
    (all, of_sites)
}

fn sites(in_force: &InForce, counts: &HashMap<String, (u64, u64)>) -> Vec<Site> {
    let topology = &in_force.organisation.topology;
    let local = &topology.site(in_force.organisation.policy.local_site).name;
    let mut of_sites: BTreeMap<String, Vec<Server>> = BTreeMap::new();
    for site in topology.servers().iter().filter_map(|server| server.site) {
        of_sites.entry(topology.site(site).name.clone()).or_default();
    }
    for server in servers(in_force) {
        of_sites.entry(server.site.clone()).or_default().push(server);
    }
    let site = |(name, servers): (String, Vec<Server>)| {
        let (requests, failed) = match name == NO_SITE {
            true => (servers.iter().map(|server| server.requests).sum(), 0), // the others of no site were for no server
            false => counts.get(&name).copied().unwrap_or_default(),
        };
        Site { is_local: name == *local, name, requests, failed, servers }
    };
    let mut sites: Vec<_> = of_sites.into_iter().map(site).collect();
    sites.sort_by_key(|site| (!site.is_local, site.name == NO_SITE));
    sites
}

/// The servers that take clients' requests, in the order of their names.
pub(super) fn servers(in_force: &InForce) -> Vec<Server> {
    let topology = &in_force.organisation.topology;
    let by_name: HashMap<_, _> = topology.servers().iter().map(|server| (&server.name, server)).collect();
    let reports = Report::of(&in_force.organisation).servers.into_iter();
    let mut servers: Vec<_> = reports
        .filter_map(|report| {
            let server = by_name.get(&report.name)?;
            Some(Server {
                site: report.site.unwrap_or_else(|| NO_SITE.to_owned()),
                fqdn: server.fqdn.clone(),
                version: explain::version(server),
                is_up: report.alive,
                since: report.since,
                why: report.reason,
                in_flight: report.load,
                requests: in_force.shared.metrics.given_to(&report.name),
                virtual_directories: report.virtual_directories,
                name: report.name,
            })
        })
        .collect();
    servers.sort_by(|one, other| one.name.cmp(&other.name));
    servers
}

/// Where a server stands that belongs to no site.
const NO_SITE: &str = "-";

pub(super) fn unix(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
