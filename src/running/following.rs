//! How a running edge follows its directory: changes are watched, the topology is read again, and both the topology and
//! the known people are kept for the next start.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use super::{StartError, reload::Reload};
use crate::{
    certificates::ListenerCertificates,
    config::{self, Config, values::list},
    directory::{
        Directory, DirectoryError, Oddity, Remembered,
        cache::CachedDirectory,
        kept::{Kept, KeptError, KeptTopology},
    },
    edge::{
        in_force::InForce,
        notices::{Notices, Told},
        organisation::Organisation,
    },
    events::{Event, whole_chain},
    routing::{
        Policy,
        differences::differences,
        topology::{Topology, TopologyParts},
    },
};

/// What was kept of the topology for a start without directory.
type KeptResult = Result<Option<KeptTopology>, KeptError>;

/// What makes the topology be read again before its time.
#[derive(Default)]
pub(super) struct Wake {
    /// Somebody wants it now.
    pub(super) asked: Notify,
    /// The directory says that something has changed.
    pub(super) changed: Notify,
}

/// An organisation to start with.
pub(super) struct Beginning {
    pub(super) organisation: Organisation,
    /// What the first reading leaves to be done.
    pub(super) standing: Standing,
    /// If the directory could not be read: how the edge starts all the same.
    pub(super) without_directory: Option<String>,
}

/// A topology as read, with the policy that fits it.
pub(super) struct Reading {
    pub(super) parts: TopologyParts,
    pub(super) topology: Topology,
    pub(super) policy: Policy,
    pub(super) oddities: Vec<Oddity>,
}

/// Reads the organisation, or takes the one that was kept if the directory gives none.
pub(super) async fn begin(
    directory: &dyn Directory,
    config: &Config,
    keeper: Option<&Keeper>,
    kept: KeptResult,
) -> Result<Beginning, StartError> {
    // Asked first, so that what changes from now on is seen; and where nobody answers, once is enough.
    let read = match directory.changes().await {
        Err(error @ (DirectoryError::Unreachable { .. } | DirectoryError::TimedOut { .. })) => Err(error.into()),
        Ok(_) | Err(_) => read(directory, config).await,
    };
    let reading = match read {
        Ok(reading) => reading,
        Err(StartError::Directory(error)) => return begin_without_directory(error, config, keeper, kept).await,
        Err(error) => return Err(error),
    };
    let standing = Standing { odd: tell_oddities(&reading.oddities, &BTreeSet::new()), ..Standing::default() };
    let organisation = Organisation::new(reading.topology, reading.policy, config, None, &HashMap::new()).await?;
    if let Some(keeper) = keeper {
        keeper.keep_topology(reading.parts, organisation.addresses());
    }
    Ok(Beginning { organisation, standing, without_directory: None })
}

async fn begin_without_directory(
    error: DirectoryError,
    config: &Config,
    keeper: Option<&Keeper>,
    kept: KeptResult,
) -> Result<Beginning, StartError> {
    let Some(keeper) = keeper else {
        return Err(match config.directory {
            config::Directory::Ldif(_) => StartError::Directory(error),
            config::Directory::Ldap { .. } => StartError::DirectoryAway {
                without: "no topology is kept to start with; name a folder for one, such as process.state_dir = \
                          \"/var/lib/firstcas\""
                    .to_owned(),
                source: error,
            },
        });
    };
    let nothing_kept = |problem: &str| {
        format!("process.state_dir has no topology to start with ({problem}); start once while the directory answers")
    };
    let kept = match kept {
        Ok(Some(kept)) if !keeper.is_of_same_servers(&kept) => {
            let problem = format!("the one there was read from {}", kept.from);
            return Err(StartError::DirectoryAway { without: nothing_kept(&problem), source: error });
        }
        Ok(Some(kept)) => kept,
        Ok(None) => {
            return Err(StartError::DirectoryAway { without: nothing_kept("none was kept yet"), source: error });
        }
        Err(problem) => {
            Event::StateNotKept.report(whole_chain(&problem));
            return Err(StartError::DirectoryAway { without: nothing_kept(&whole_chain(&problem)), source: error });
        }
    };
    let topology = Topology::new(kept.parts);
    let policy = match config.policy(&topology) {
        Ok(policy) => policy,
        Err(mistakes) => {
            let without = nothing_kept(&format!("the kept one does not fit the configuration: {mistakes}"));
            return Err(StartError::DirectoryAway { without, source: error });
        }
    };
    let age = age(SystemTime::now().duration_since(kept.read_at).unwrap_or_default());
    let without_directory = format!(
        "started without directory, with the topology of {age} ago that was read from {}: {}",
        kept.from,
        whole_chain(&error)
    );
    let organisation = Organisation::new(topology, policy, config, None, &kept.addresses).await?;
    let standing = Standing { unanswered: 1, ..Standing::default() };
    Ok(Beginning { organisation, standing, without_directory: Some(without_directory) })
}

pub(super) async fn read(directory: &dyn Directory, config: &Config) -> Result<Reading, StartError> {
    let reading = directory.topology().await?;
    let topology = Topology::new(reading.parts.clone());
    let policy = config.policy(&topology)?;
    Ok(Reading { parts: reading.parts, topology, policy, oddities: reading.oddities })
}

/// Tells what is odd and was not told before; gives all that is odd now.
fn tell_oddities(oddities: &[Oddity], told: &BTreeSet<String>) -> BTreeSet<String> {
    let now: BTreeSet<_> = oddities.iter().map(|Oddity { dn, problem }| format!("{dn}: {problem}")).collect();
    for oddity in now.difference(told) {
        Event::DirectoryOddity.report(oddity);
    }
    now
}

/// Sees to it that a fault in one round of work costs that round and not all that come after.
async fn unbroken(what: &str, round: impl Future<Output = ()>) {
    if AssertUnwindSafe(round).catch_unwind().await.is_err() {
        Event::InternalFault.report(format_args!("{what} broke off, and goes on"));
        tokio::time::sleep(Duration::from_secs(1)).await; // a fault that lasts must not fill the log
    }
}

/// Asks the directory `in_force` again and again, so often, what has changed. That no server answers is told by the directory's own notices; anything else that
/// keeps the edge from following is told here, once.
pub(super) async fn watch(in_force: impl Fn() -> (Arc<CachedDirectory>, Duration), wake: Arc<Wake>) {
    let mut told = None;
    loop {
        let (_, interval) = in_force();
        tokio::time::sleep(interval).await;
        let (directory, _) = in_force();
        unbroken("what watches the directory for changes", look(&directory, &wake, &mut told)).await;
    }
}

/// One look at what has changed; `told` is the last problem that was told of.
async fn look(directory: &CachedDirectory, wake: &Wake, told: &mut Option<String>) {
    match directory.follow().await {
        Ok(topology_changed) => {
            *told = None;
            if topology_changed {
                wake.changed.notify_one();
            }
        }
        Err(DirectoryError::Unreachable { .. } | DirectoryError::TimedOut { .. }) => {}
        Err(error) => {
            let problem = whole_chain(&error);
            if told.as_ref() != Some(&problem) {
                Event::DirectoryOddity.report(format_args!("what changes is not noticed: {problem}"));
                *told = Some(problem);
            }
        }
    }
}

/// Keeps what is in force in step with the directory and with the configuration. One task does both, so that neither
/// undoes what the other has done. What is worse than what is in force leaves that in force.
pub(super) struct Follower {
    pub(super) in_force: Arc<ArcSwap<InForce>>,
    pub(super) notices: Arc<Notices>,
    pub(super) keeper: Arc<ArcSwapOption<Keeper>>,
    pub(super) wake: Arc<Wake>,
    pub(super) standing: Standing,
    pub(super) reloads: mpsc::Receiver<Reload>,
    /// Where the listeners are bound, in the order of the configuration.
    pub(super) addresses: Vec<SocketAddr>,
    /// What they show their clients, in the same order.
    pub(super) certificates: Vec<Option<Arc<ListenerCertificates>>>,
    /// Where the notices of the directory in force go.
    pub(super) told: Told,
}

/// What the readings so far leave to be done.
#[derive(Default)]
pub(super) struct Standing {
    /// What is odd about the topology, and told already.
    odd: BTreeSet<String>,
    /// How many readings in a row the directory gave no answer to.
    unanswered: u32,
    /// The kind of the last reading's failure, told already.
    failure: Option<Failure>,
    /// The servers of a reading that was not believed.
    doubted: Option<BTreeSet<String>>,
}

/// What a [`Follower`] does next.
enum Task {
    /// Reads the topology.
    Read,
    /// Asks for the addresses of servers that have none.
    Resolve,
    /// Brings a configuration in force.
    Reload(Reload),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Failure {
    NoAnswer,
    DoesNotFit,
}

impl Follower {
    pub(super) async fn run(mut self) {
        let mut last = Instant::now();
        loop {
            let task = self.until_due(last).await;
            if !matches!(task, Task::Resolve) {
                last = Instant::now(); // a name that never resolves must not put the next reading off for ever
            }
            unbroken("what follows the directory and the configuration", self.carry_out(task)).await;
        }
    }

    async fn carry_out(&mut self, task: Task) {
        let now = self.in_force.load_full();
        match task {
            Task::Reload(reload) => self.reload(reload).await,
            Task::Resolve => self.resolve(&now).await,
            Task::Read => match read(&**now.directory.behind(), &now.config).await {
                Ok(reading) => self.take(reading, &now).await,
                Err(error) => self.failed(&error),
            },
        }
    }

    /// Waits until there is something to do.
    async fn until_due(&mut self, last: Instant) -> Task {
        let now = self.in_force.load_full();
        let regularly = now.config.routing.topology_refresh;
        let doubts = self.standing.doubted.is_some();
        let soon = match self.standing.unanswered {
            0 if doubts => CONFIRMATION,
            0 => regularly,
            times => UNANSWERED_RETRY.saturating_mul(1 << times.min(16)).min(UNANSWERED_RETRY_MAX),
        };
        let mut due = last + soon.min(regularly);
        let unresolved = now.organisation.has_unresolved();
        let resolve_at = Instant::now() + UNRESOLVED_RETRY;
        loop {
            tokio::select! {
                Some(reload) = self.reloads.recv() => return Task::Reload(reload),
                () = tokio::time::sleep_until(due) => return Task::Read,
                () = self.wake.asked.notified() => return Task::Read,
                () = tokio::time::sleep_until(resolve_at), if unresolved => return Task::Resolve,
                // What made a reading doubtful often goes on for a while, and shows as one change after the other.
                () = self.wake.changed.notified(), if !doubts => due = due.min(last + CHANGES_GATHER),
            }
        }
    }

    fn failed(&mut self, error: &StartError) {
        let failure = if let StartError::Directory(_) = error { Failure::NoAnswer } else { Failure::DoesNotFit };
        match failure {
            Failure::NoAnswer => self.standing.unanswered = self.standing.unanswered.saturating_add(1),
            Failure::DoesNotFit => self.standing.unanswered = 0,
        }
        let sentence = format!("the last good topology stays in force: {}", whole_chain(error));
        let is_told = failure == Failure::NoAnswer && self.notices.is_away();
        if self.standing.failure.replace(failure) == Some(failure) || is_told {
            log::info!("{sentence}");
        } else {
            Event::DirectoryAway.report(sentence);
        }
    }

    /// Asks DNS again for the servers whose names did not resolve.
    async fn resolve(&self, now: &InForce) {
        let Organisation { topology, policy, .. } = &*now.organisation;
        let (topology, policy) = (topology.clone(), policy.clone());
        match Organisation::new(topology, policy, &now.config, Some(&now.organisation), &HashMap::new()).await {
            Ok(new) => self.in_force.store(Arc::new(InForce { organisation: Arc::new(new), ..now.clone() })),
            Err(error) => log::warn!("the servers stay where they were: {}", whole_chain(&error)),
        }
    }

    async fn take(&mut self, reading: Reading, now: &InForce) {
        self.notices.directory_answers();
        self.standing.unanswered = 0;
        let previous = &now.organisation;
        if self.standing.doubts(&previous.topology, &reading.topology) {
            return;
        }
        let Reading { parts, topology, policy, oddities } = reading;
        let new = Organisation::new(topology, policy, &now.config, Some(previous), &HashMap::new()).await;
        let new = match new {
            Ok(new) => Arc::new(new),
            Err(error) => return self.failed(&error.into()),
        };
        self.in_force.store(Arc::new(InForce { organisation: new.clone(), ..now.clone() }));
        self.read_anew(&previous.topology, new, parts, &oddities).await;
    }

    /// A topology that was read just now is in force.
    pub(super) async fn read_anew(
        &mut self,
        previous: &Topology,
        new: Arc<Organisation>,
        parts: TopologyParts,
        oddities: &[Oddity],
    ) {
        self.standing.unanswered = 0;
        if self.standing.failure.take().is_some() {
            log::info!("the topology could be read again");
        }
        tell_differences(&differences(previous, &new.topology));
        self.standing.odd = tell_oddities(oddities, &self.standing.odd);
        if let Some(keeper) = self.keeper.load_full() {
            let writing = tokio::task::spawn_blocking(move || keeper.keep_topology(parts, new.addresses()));
            let _ = writing.await; // it tells its own failures
        }
    }
}

impl Standing {
    /// Whether most servers are gone. A directory in the middle of replication shows that, or one that has taken the
    /// account's rights away; so it is believed only when the next reading shows the same servers.
    pub(super) fn doubts(&mut self, in_force: &Topology, new: &Topology) -> bool {
        let names = |topology: &Topology| -> BTreeSet<String> {
            topology.servers().iter().map(|server| server.name.to_lowercase()).collect()
        };
        let (before, now) = (names(in_force), names(new));
        let lost: Vec<_> = before.difference(&now).map(String::as_str).collect();
        if 2 * lost.len() <= before.len() || self.doubted.as_ref() == Some(&now) {
            self.doubted = None;
            return false;
        }
        Event::DirectoryAway.report(format_args!(
            "the last good topology stays in force until another reading confirms this one, which lacks {} of {} servers: {}",
            lost.len(),
            before.len(),
            list(&lost)
        ));
        self.doubted = Some(now);
        true
    }
}

fn tell_differences(differences: &[String]) {
    for difference in differences.iter().take(DIFFERENCES_TOLD_MAX) {
        Event::TopologyChanged.report(difference);
    }
    if let Some(more @ 1..) = differences.len().checked_sub(DIFFERENCES_TOLD_MAX) {
        Event::TopologyChanged.report(format_args!("and {more} more differences of the topology"));
    }
}

/// Keeps what the next start may need. A failure is told once, until it works again.
pub(super) struct Keeper {
    kept: Kept,
    /// The servers, for whoever starts from what was kept.
    from: String,
    is_failing: AtomicBool,
}

impl Keeper {
    /// For a directory that can be away, if there is a folder. A file is always there.
    pub(super) fn of(config: &Config) -> Option<Arc<Keeper>> {
        match &config.directory {
            config::Directory::Ldif(_) => None,
            config::Directory::Ldap { forest, .. } => Some(Arc::new(Keeper {
                kept: Kept::in_folder(config.state_dir.as_ref()?),
                from: forest.servers.to_string(),
                is_failing: AtomicBool::new(false),
            })),
        }
    }

    /// Keeps the people that are known. Takes a while: not on a thread that serves anybody.
    pub(super) fn keep_people(&self, cached: &CachedDirectory) {
        self.tell(self.kept.keep_people(&cached.remembered()));
    }

    /// What was kept. Once only: what cannot be read is moved aside.
    pub(super) fn topology(&self) -> KeptResult {
        self.kept.topology()
    }

    /// Whether it was read from servers of which at least one is still configured.
    fn is_of_same_servers(&self, kept: &KeptTopology) -> bool {
        kept.from.split(", ").any(|server| self.from.split(", ").any(|own| own == server))
    }

    /// The people that were known, but for those that nobody would believe any more, or of another directory.
    pub(super) fn people(&self, config: &Config, kept: &KeptResult) -> Vec<Remembered> {
        match kept {
            Ok(Some(kept)) if self.is_of_same_servers(kept) => {}
            Ok(_) | Err(_) => return Vec::new(),
        }
        let mut people = self.kept.people().unwrap_or_else(|problem| {
            Event::StateNotKept.report(whole_chain(&problem));
            Vec::new()
        });
        let now = SystemTime::now();
        people.retain(|person| now.duration_since(person.read_at).is_ok_and(|age| age < config.cache.stale_lifetime));
        people
    }

    fn keep_topology(&self, parts: TopologyParts, addresses: HashMap<(String, u16), SocketAddr>) {
        let topology = KeptTopology { read_at: SystemTime::now(), from: self.from.clone(), parts, addresses };
        self.tell(self.kept.keep_topology(&topology));
    }

    fn tell(&self, result: Result<(), KeptError>) {
        let failed_before = self.is_failing.swap(result.is_err(), Relaxed);
        if let (Err(problem), false) = (result, failed_before) {
            Event::StateNotKept.report(whole_chain(&problem));
        }
    }
}

/// Keeps the known people every few minutes, where there is something to keep them by.
pub(super) async fn keep_people(keeper: Arc<ArcSwapOption<Keeper>>, in_force: Arc<ArcSwap<InForce>>) {
    loop {
        tokio::time::sleep(PEOPLE_KEPT_EVERY).await;
        let (Some(keeper), cached) = (keeper.load_full(), in_force.load().directory.clone()) else { continue };
        let _ = tokio::task::spawn_blocking(move || keeper.keep_people(&cached)).await; // it tells its own failures
    }
}

/// `20 s`, `5 min`, `3 h`, `2 days`.
fn age(age: Duration) -> String {
    let seconds = age.as_secs();
    match seconds {
        ..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        172_800.. => format!("{} days", seconds / 86_400),
    }
}

/// How soon a name that did not resolve is asked for again.
const UNRESOLVED_RETRY: Duration = Duration::from_secs(30);
/// How soon a directory that gave no answer is asked for the topology again: twice this, four times ...
const UNANSWERED_RETRY: Duration = Duration::from_secs(1);
/// ... up to this.
const UNANSWERED_RETRY_MAX: Duration = Duration::from_secs(30);
/// How soon a reading that lacks most servers is checked by another: longer than a burst of replication.
const CONFIRMATION: Duration = Duration::from_secs(60);
/// How long changes gather after a reading before they cause the next one: an installation makes hundreds.
const CHANGES_GATHER: Duration = Duration::from_secs(3);
const PEOPLE_KEPT_EVERY: Duration = Duration::from_secs(5 * 60);
/// The rest is counted: who wants to know more asks the directory.
const DIFFERENCES_TOLD_MAX: usize = 20;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use std::sync::atomic::AtomicUsize;

    use async_trait::async_trait;

    use super::*;
    use crate::{
        directory::{Changes, Entry, TopologyReading, Verdict, cache},
        identity::MailboxName,
        secret::Secret,
    };

    /// Says once that something has changed, the second time it is asked; before that, it is away.
    struct Changing {
        asked: AtomicUsize,
        change: Changes,
    }

    #[async_trait]
    impl Directory for Changing {
        async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
            Ok(TopologyReading::default())
        }

        async fn find(&self, _: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
            Ok(None)
        }

        async fn verify(&self, _: &Entry, _: &Secret) -> Result<Verdict, DirectoryError> {
            Ok(Verdict::Wrong)
        }

        async fn changes(&self) -> Result<Changes, DirectoryError> {
            match self.asked.fetch_add(1, Relaxed) {
                0 => Err(DirectoryError::Unreachable { server: "fake".into(), source: "away".into() }),
                1 => Ok(self.change.clone()),
                _ => Ok(Changes::default()),
            }
        }
    }

    #[tokio::test]
    async fn a_changed_topology_wakes_the_refresh_and_nothing_else_does() {
        for (change, wakes) in [
            (Changes { topology: true, ..Changes::default() }, true),
            (Changes { may_have_missed: true, ..Changes::default() }, false),
            (Changes::default(), false),
        ] {
            let directory = Arc::new(Changing { asked: AtomicUsize::new(0), change });
            let cached = Arc::new(CachedDirectory::new(
                directory.clone(),
                CACHE,
                Arc::new(drop),
                tokio::runtime::Handle::current(),
            ));
            let wake = Arc::new(Wake::default());
            let watching = tokio::spawn(watch(move || (cached.clone(), Duration::from_millis(1)), wake.clone()));
            let asked_often = async {
                while directory.asked.load(Relaxed) < 5 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), asked_often).await.expect("an error does not end the watch");
            watching.abort();
            let is_woken = tokio::time::timeout(Duration::ZERO, wake.changed.notified()).await.is_ok();
            assert_eq!(is_woken, wakes);
        }
    }

    const CACHE: cache::Settings = cache::Settings {
        max_entries: 1,
        found_lifetime: Duration::from_secs(1),
        not_found_lifetime: Duration::from_secs(1),
        max_proofs: 1,
        proof_lifetime: Duration::from_secs(1),
        disproof_lifetime: Duration::from_secs(1),
        stale_lifetime: Duration::from_secs(1),
        not_found_max: 1,
        wrong_passwords_max: 1,
        wrong_passwords_window: Duration::from_secs(1),
    };

    #[tokio::test]
    async fn a_fault_in_one_round_does_not_end_all_that_come_after() {
        let rounds = AtomicUsize::new(0);
        for _ in 0..2 {
            let round = async {
                assert!(rounds.fetch_add(1, Relaxed) > 0, "a fault, made for this test");
            };
            tokio::time::timeout(Duration::from_secs(10), unbroken("this test", round)).await.expect("it goes on");
        }
        assert_eq!(rounds.load(Relaxed), 2);
    }

    #[test]
    fn an_age_is_told_in_a_unit_that_people_count_in() {
        let told = [0, 119, 120, 3 * 3600 - 1, 47 * 3600, 72 * 3600].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(told, ["0 s", "119 s", "2 min", "2 h", "47 h", "3 days"]);
    }
}
