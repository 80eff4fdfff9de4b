//! What requests are counted by. A request pays some atomic additions and allocates nothing; whoever reads the numbers
//! pays for the rest. No user's name, path or address is ever part of a number's name.

pub mod mail;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::routing::{Decision, Rule, protocol::Protocol};

/// All counts of a running edge. They outlive configurations and topologies.
pub struct Metrics {
    sites: ByName<SiteCounts>,
    servers: ByName<AtomicU64>,
    durations: [Histogram; PROTOCOLS],
    first_bytes: [Histogram; PROTOCOLS],
    in_flight: [AtomicU64; PROTOCOLS],
    upstream_new: AtomicU64,
    upstream_reused: AtomicU64,
    sign_ins: [[AtomicU64; TicketsOutcome::ALL.len()]; TicketsBy::ALL.len()],
    /// Those of POP3 and IMAP4.
    pub mail: Arc<mail::Mail>,
}

/// What became of a request, by the kind of its decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Passed to the local site's servers.
    Local,
    /// Passed to another site's.
    Proxy,
    /// Passed to an Exchange 2003 server.
    BackEnd,
    /// Answered with a page that has a link to another site.
    RedirectPage,
    /// Answered with a 451 that names another site.
    MovedDevice,
    /// Refused with the name of another site's server.
    OtherServer,
    /// Answered with another path of the same host.
    SameHost,
    /// Refused by a rule, or because of how it was asked.
    Refused,
    /// Answered by the edge before anything was decided, as where it only says where https is.
    EdgeAnswer,
}

/// By what a user's tickets were asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketsBy {
    /// Their password.
    Password,
    /// The edge's own account.
    Delegation,
}

/// What came of asking for a user's tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TicketsOutcome {
    /// They are there.
    Got,
    /// This user gets none, as with a wrong password.
    Refused,
    /// No key distribution centre has answered in time.
    Away,
    /// Nobody gets any, as where the edge's own account cannot sign in.
    Failed,
}

/// One request's end.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// `None`: it was not found out.
    pub protocol: Option<Protocol>,
    /// The name of the mailbox's site; else of the one that served.
    pub site: Option<&'a str>,
    /// What became of it.
    pub outcome: Outcome,
    /// The status that the client got; 0: none.
    pub status: u16,
    /// How long a server's answer took to begin; `None`: no server answered.
    pub first_byte: Option<Duration>,
    /// How long all of it took.
    pub duration: Duration,
}

/// A request under way, counted as such until it is dropped.
pub struct Underway {
    metrics: Arc<Metrics>,
    protocol: usize,
}

/// How often something took how long.
#[derive(Default)]
pub struct Histogram {
    /// One for each bound, and one for what took longer.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_us: AtomicU64,
}

/// The requests of one site, by protocol, outcome and class of status.
struct SiteCounts([AtomicU64; PROTOCOLS * Outcome::ALL.len() * CLASSES.len()]);

/// Counts by a name of the directory's. A name is added once and then only read.
struct ByName<T>(ArcSwap<HashMap<Box<str>, Arc<T>>>);

/// Upper bounds in seconds. Below a second as a page of Outlook Web Access has it; above, up to the hour for which a
/// device's Ping is held.
pub const BOUNDS: [f64; 17] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0];

/// All protocols, and none.
const PROTOCOLS: usize = Protocol::ALL.len() + 2;

const CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What stands where there is nothing.
const NOTHING: &str = "-";

/// More sites, or servers, than any organisation has; so that years of renaming do not fill the memory.
const NAMES_MAX: usize = 10_000;

/// What all further names are counted under.
const OTHERS: &str = "(others)";

impl Metrics {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        Metrics {
            sites: ByName::new(),
            servers: ByName::new(),
            durations: Default::default(),
            first_bytes: Default::default(),
            in_flight: Default::default(),
            upstream_new: AtomicU64::new(0),
            upstream_reused: AtomicU64::new(0),
            sign_ins: Default::default(),
            mail: Arc::default(),
        }
    }

    /// A request of a protocol has begun.
    pub fn begin(self: &Arc<Self>, protocol: Protocol) -> Underway {
        let protocol = index(Some(protocol));
        self.in_flight[protocol].fetch_add(1, Relaxed);
        Underway { metrics: self.clone(), protocol }
    }

    /// A request has found a connection to this server.
    pub fn connected(&self, server: &str, reused: bool) {
        self.servers.get(server).fetch_add(1, Relaxed);
        let counter = if reused { &self.upstream_reused } else { &self.upstream_new };
        counter.fetch_add(1, Relaxed);
    }

    /// A session of POP3 or IMAP4 is open at this server. Its connection is nobody else's, so it is none that could have
    /// been there already.
    pub fn session_at(&self, server: &str) {
        self.servers.get(server).fetch_add(1, Relaxed);
    }

    /// A user's tickets were asked for.
    pub fn tickets(&self, by: TicketsBy, outcome: TicketsOutcome) {
        self.sign_ins[by as usize][outcome as usize].fetch_add(1, Relaxed);
    }

    /// A request has ended.
    pub fn ended(&self, end: End<'_>) {
        let protocol = index(end.protocol);
        self.sites.get(end.site.unwrap_or(NOTHING)).count(protocol, end.outcome, class(end.status));
        self.durations[protocol].observe(end.duration);
        if let Some(first_byte) = end.first_byte {
            self.first_bytes[protocol].observe(first_byte);
        }
    }

    /// Every count of requests that is not 0: site, protocol, outcome, class of status.
    pub fn each_request(&self, mut each: impl FnMut(&str, &'static str, Outcome, &'static str, u64)) {
        for (site, counts) in self.sites.0.load().iter() {
            for (place, count) in counts.0.iter().enumerate() {
                let count = count.load(Relaxed);
                if count > 0 {
                    let (rest, class) = (place / CLASSES.len(), place % CLASSES.len());
                    let (protocol, outcome) = (rest / Outcome::ALL.len(), rest % Outcome::ALL.len());
                    each(site, name(protocol), Outcome::ALL[outcome], CLASSES[class], count);
                }
            }
        }
    }

    /// How long requests took, by protocol, of the protocols that were spoken.
    pub fn durations(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        spoken(&self.durations)
    }

    /// How long servers' answers took to begin, by protocol, of the protocols that were spoken.
    pub fn first_bytes(&self) -> impl Iterator<Item = (&'static str, &Histogram)> {
        spoken(&self.first_bytes)
    }

    /// Requests under way, by protocol of the web.
    pub fn in_flight(&self) -> impl Iterator<Item = (Protocol, u64)> {
        let all = Protocol::ALL.into_iter().chain([Protocol::Opened]).filter(|protocol| !protocol.is_mail());
        all.map(|protocol| (protocol, self.in_flight[index(Some(protocol))].load(Relaxed)))
    }

    /// How often a request's connection to its server was new, and how often it was there already.
    pub fn upstream_connections(&self) -> (u64, u64) {
        (self.upstream_new.load(Relaxed), self.upstream_reused.load(Relaxed))
    }

    /// How often users' tickets were asked for, by what, and what came of it.
    pub fn sign_ins(&self) -> impl Iterator<Item = (TicketsBy, TicketsOutcome, u64)> {
        let all = TicketsBy::ALL.into_iter().flat_map(|by| TicketsOutcome::ALL.map(|outcome| (by, outcome)));
        all.map(|(by, outcome)| (by, outcome, self.sign_ins[by as usize][outcome as usize].load(Relaxed)))
    }

    /// Requests, and sessions of mail, that a server of this name was given.
    pub fn given_to(&self, server: &str) -> u64 {
        self.servers.0.load().get(server).map_or(0, |count| count.load(Relaxed))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 9] = [
        Outcome::Local,
        Outcome::Proxy,
        Outcome::BackEnd,
        Outcome::RedirectPage,
        Outcome::MovedDevice,
        Outcome::OtherServer,
        Outcome::SameHost,
        Outcome::Refused,
        Outcome::EdgeAnswer,
    ];

    /// A decision's.
    pub fn of(decision: &Decision) -> Outcome {
        match decision {
            Decision::Proxy(_, Rule::LocalChallenge | Rule::LocalService | Rule::LocalSite) => Outcome::Local,
            Decision::Proxy(..) => Outcome::Proxy,
            Decision::BackEnd(..) => Outcome::BackEnd,
            Decision::LinkPage(..) => Outcome::RedirectPage,
            Decision::MovedDevice(..) => Outcome::MovedDevice,
            Decision::ConnectTo(..) => Outcome::OtherServer,
            Decision::SameHost(..) => Outcome::SameHost,
            Decision::Refuse(_) => Outcome::Refused,
        }
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Outcome::Local => "local",
            Outcome::Proxy => "proxy",
            Outcome::BackEnd => "back_end",
            Outcome::RedirectPage => "redirect_page",
            Outcome::MovedDevice => "moved_device",
            Outcome::OtherServer => "other_server",
            Outcome::SameHost => "same_host",
            Outcome::Refused => "refused",
            Outcome::EdgeAnswer => "edge_answer",
        }
    }
}

impl TicketsBy {
    const ALL: [TicketsBy; 2] = [TicketsBy::Password, TicketsBy::Delegation];

    /// Its name in metrics; the configuration's.
    pub fn name(self) -> &'static str {
        match self {
            TicketsBy::Password => "password",
            TicketsBy::Delegation => "delegation",
        }
    }
}

impl TicketsOutcome {
    const ALL: [TicketsOutcome; 4] =
        [TicketsOutcome::Got, TicketsOutcome::Refused, TicketsOutcome::Away, TicketsOutcome::Failed];

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            TicketsOutcome::Got => "got",
            TicketsOutcome::Refused => "refused",
            TicketsOutcome::Away => "away",
            TicketsOutcome::Failed => "failed",
        }
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.metrics.in_flight[self.protocol].fetch_sub(1, Relaxed);
    }
}

impl SiteCounts {
    fn count(&self, protocol: usize, outcome: Outcome, class: usize) {
        let place = (protocol * Outcome::ALL.len() + outcome as usize) * CLASSES.len() + class;
        self.0[place].fetch_add(1, Relaxed);
    }
}

impl Default for SiteCounts {
    fn default() -> Self {
        SiteCounts(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let place = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.counts[place].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// The sum in seconds, and how many took at most as long as each bound but longer than the one before; the last is
    /// without bound, written as `f64::MAX`.
    pub fn read(&self) -> (f64, Vec<(f64, u64)>) {
        let bounds = BOUNDS.into_iter().chain([f64::MAX]);
        let counts = bounds.zip(&self.counts).map(|(bound, count)| (bound, count.load(Relaxed))).collect();
        (Duration::from_micros(self.sum_us.load(Relaxed)).as_secs_f64(), counts)
    }

    fn is_empty(&self) -> bool {
        self.counts.iter().all(|count| count.load(Relaxed) == 0)
    }
}

impl<T: Default> ByName<T> {
    fn new() -> Self {
        ByName(ArcSwap::default())
    }

    fn get(&self, name: &str) -> Arc<T> {
        if let Some(counts) = self.0.load().get(name) {
            return counts.clone();
        }
        let (mut full, new) = (false, Arc::<T>::default());
        self.0.rcu(|known| {
            full = known.len() >= NAMES_MAX && name != OTHERS;
            let mut known = HashMap::clone(known);
            if !full {
                known.entry(name.into()).or_insert_with(|| new.clone());
            }
            known
        });
        if full { self.get(OTHERS) } else { self.0.load().get(name).cloned().unwrap_or(new) }
    }
}

fn index(protocol: Option<Protocol>) -> usize {
    protocol.map_or(0, |protocol| 1 + protocol as usize)
}

fn name(index: usize) -> &'static str {
    let all = Protocol::ALL.into_iter().chain([Protocol::Opened]);
    index.checked_sub(1).and_then(|index| all.into_iter().nth(index)).map_or(NOTHING, Protocol::name)
}

fn class(status: u16) -> usize {
    usize::from(status / 100).min(CLASSES.len() - 1)
}

fn spoken(histograms: &[Histogram; PROTOCOLS]) -> impl Iterator<Item = (&'static str, &Histogram)> {
    histograms.iter().enumerate().filter(|(_, it)| !it.is_empty()).map(|(index, it)| (name(index), it))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn end(site: &str) -> End<'_> {
        End {
            protocol: Some(Protocol::Owa),
            site: Some(site),
            outcome: Outcome::Proxy,
            status: 200,
            first_byte: Some(Duration::from_millis(20)),
            duration: Duration::from_millis(30),
        }
    }

    fn requests(metrics: &Metrics) -> Vec<(String, &'static str, Outcome, &'static str, u64)> {
        let mut found = Vec::new();
        metrics.each_request(|site, protocol, outcome, class, count| {
            found.push((site.to_owned(), protocol, outcome, class, count));
        });
        found.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        found
    }

    #[test]
    fn a_request_is_counted_where_it_belongs() {
        let metrics = Metrics::new();
        metrics.ended(end("Porto"));
        metrics.ended(end("Porto"));
        for protocol in Protocol::ALL.into_iter().chain([Protocol::Opened]) {
            metrics.ended(End {
                protocol: Some(protocol),
                outcome: Outcome::Refused,
                status: 599,
                ..end(protocol.name())
            });
        }
        metrics.ended(End { protocol: None, site: None, outcome: Outcome::EdgeAnswer, status: 0, ..end("") });
        let found = requests(&metrics);
        assert!(found.contains(&("Porto".into(), "owa", Outcome::Proxy, "2xx", 2)), "{found:?}");
        assert!(found.contains(&("-".into(), "-", Outcome::EdgeAnswer, "none", 1)), "{found:?}");
        for protocol in Protocol::ALL.into_iter().chain([Protocol::Opened]) {
            let name = protocol.name();
            assert!(found.contains(&(name.into(), name, Outcome::Refused, "5xx", 1)), "{found:?}");
        }
        assert_eq!(found.len(), 15);
    }

    #[test]
    fn a_histogram_holds_a_short_page_and_an_hours_ping() {
        let histogram = Histogram::default();
        for duration in [Duration::ZERO, Duration::from_millis(5), Duration::from_millis(6), Duration::from_secs(3540)]
        {
            histogram.observe(duration);
        }
        histogram.observe(Duration::from_secs(3601));
        let (sum, counts) = histogram.read();
        assert!((sum - 7141.011).abs() < 1e-6, "{sum}");
        let filled: Vec<_> = counts.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.005, 2), (0.01, 1), (3600.0, 1), (f64::MAX, 1)]);
    }

    #[test]
    fn a_request_under_way_is_counted_until_it_ends() {
        let metrics = Arc::new(Metrics::new());
        let under_way = |metrics: &Metrics| metrics.in_flight().map(|(_, count)| count).sum::<u64>();
        let request = metrics.begin(Protocol::ActiveSync);
        assert_eq!(under_way(&metrics), 1);
        drop(request);
        assert_eq!(under_way(&metrics), 0);
    }

    #[test]
    fn tickets_are_counted_by_what_they_were_asked_for_by_and_what_came_of_it() {
        let metrics = Metrics::new();
        let all: Vec<_> = metrics.sign_ins().map(|(by, outcome, _)| (by, outcome)).collect();
        assert_eq!(all.len(), 8);
        for (times, (by, outcome)) in (1..).zip(&all) {
            for _ in 0..times {
                metrics.tickets(*by, *outcome);
            }
        }
        let counted: Vec<_> = metrics.sign_ins().map(|(_, _, count)| count).collect();
        assert_eq!(counted, [1, 2, 3, 4, 5, 6, 7, 8]);
        let names: HashSet<_> = all.iter().map(|(by, outcome)| (by.name(), outcome.name())).collect();
        assert_eq!(names.len(), 8);
    }

    #[test]
    fn names_are_bounded_and_nothing_goes_uncounted() {
        let names = ByName::<AtomicU64>::new();
        names.0.store(Arc::new((0..NAMES_MAX).map(|number| (number.to_string().into(), Arc::default())).collect()));
        names.get("one more").fetch_add(1, Relaxed);
        names.get("another").fetch_add(1, Relaxed);
        assert_eq!(names.0.load().len(), NAMES_MAX + 1);
        assert_eq!(names.get(OTHERS).load(Relaxed), 2);
    }
}
