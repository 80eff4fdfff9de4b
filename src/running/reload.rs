//! A new configuration, in force without a restart. Everything is read and judged first and then takes the old one's place
//! whole; what is bad changes nothing. Requests that are under way end as they began.

use std::{
    collections::HashMap,
    os::unix::fs::MetadataExt,
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::FutureExt as _;
use tokio::sync::oneshot;

use super::{
    StartError,
    following::{self, Follower, Keeper, Reading},
};
use crate::{
    certificates::{CertificateError, ListenerCertificates, Loaded},
    config::{self, Config, ConfigErrors, Kept},
    directory::{Directory, DirectoryError, Oddity, cache::CachedDirectory, ldif},
    edge::{
        affinity::Affinity,
        in_force::{InForce, LastReload},
        notices::Told,
        organisation::Organisation,
        seal::Seal,
    },
    events::{Event, whole_chain},
    logging,
    routing::{
        Policy,
        topology::{Topology, TopologyParts},
    },
    service_manager,
};

/// Somebody wants the configuration to be read again.
pub(super) struct Reload {
    pub(super) file: PathBuf,
    /// Who wants to know what came of it.
    pub(super) done: oneshot::Sender<Result<Reloaded, ReloadError>>,
}

/// A configuration has come in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// Which of this process it is.
    pub version: u64,
    /// What of it waits for another process, a sentence each.
    pub waits: Vec<String>,
}

/// Why a configuration did not come in force; the one before it still is.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// It has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// What it names cannot be used.
    #[error(transparent)]
    NotUsable(#[from] StartError),
    /// The edge is stopping.
    #[error("the edge is stopping")]
    Stopping,
    /// The edge came upon a fault of its own.
    #[error("reading it broke off by a fault of firstcas's own; please report it, with the log lines before")]
    Fault,
}

/// A topology for the new configuration.
struct New {
    topology: Topology,
    policy: Policy,
    /// If it was read just now.
    reading: Option<(TopologyParts, Vec<Oddity>)>,
}

impl Follower {
    /// Brings the file's configuration in force, or says why not.
    pub(super) async fn reload(&mut self, Reload { file, done }: Reload) {
        service_manager::reloading();
        let result =
            AssertUnwindSafe(self.bring_in_force(&file)).catch_unwind().await.unwrap_or(Err(ReloadError::Fault));
        let file = file.display();
        let problem = result.as_ref().err().map(|error| whole_chain(error));
        *self.in_force.load().shared.last_reload.lock() = Some(LastReload { at: SystemTime::now(), problem });
        match &result {
            Ok(Reloaded { version, waits }) => {
                let said = format!("{file} is in force, as configuration {version}");
                service_manager::status(&said);
                Event::Reloaded.report(said);
                for sentence in waits {
                    Event::WaitsForUpgrade.report(format_args!("{file}: {sentence}"));
                }
            }
            Err(error) => {
                let version = self.in_force.load().version;
                let problem = whole_chain(error);
                let said = format!("configuration {version} stays in force: {problem}");
                service_manager::status(&said);
                Event::ReloadRefused.report(said);
            }
        }
        service_manager::ready();
        let _ = done.send(result); // nobody may want to know
    }

    async fn bring_in_force(&mut self, file: &Path) -> Result<Reloaded, ReloadError> {
        let since = SystemTime::now();
        let mut config = {
            let file = file.to_owned();
            tokio::task::spawn_blocking(move || Config::load(&file)).await.map_err(|_| ReloadError::Fault)??
        };
        let old = self.in_force.load_full();
        let Kept { waits, listeners } = config.keep_what_cannot_change(&old.config);
        let is_same_directory = config.directory.is_same(&old.config.directory, old.since);
        let (directory, told) = match is_same_directory {
            true => (self.same_directory(&old, &config).await?, None),
            false => self.other(&config).map(|(directory, told)| (directory, Some(told)))?,
        };
        let New { topology, policy, reading } = if is_same_directory {
            self.read_again(&directory, &config, &old).await?
        } else {
            New::of(following::read(&**directory.behind(), &config).await?)
        };
        let organisation = Organisation::new(topology, policy, &config, Some(&old.organisation), &HashMap::new()).await;
        let organisation = Arc::new(organisation.map_err(StartError::from)?);
        let seal = Seal::new(&config.affinity.keys, old.affinity.seal().own()).map_err(StartError::from)?;
        let affinity = Arc::new(Affinity::new(seal, config.affinity.lifetime));
        let logon_seal = Seal::new(&config.logon_form.keys, old.logon_seal.own()).map_err(StartError::from)?;
        let certificates = load_certificates(&config, &listeners).map_err(StartError::from)?;
        let keeper = Keeper::of(&config);

        if old.shared.is_leaving() {
            return Err(ReloadError::Stopping); // the next process has what this one would write to
        }

        // Nothing below can fail.
        for (in_force, new) in self.certificates.iter().zip(certificates) {
            if let (Some(in_force), Some(new)) = (in_force, new) {
                in_force.replace(new);
            }
        }
        let version = old.version + 1;
        logging::apply(&config.log);
        if let Some(told) = told {
            self.told.is_in_force(false);
            self.notices.begin_anew();
            told.is_in_force(true);
            self.told = told;
            if let Some(keeper) = keeper.clone() {
                let nobody_yet = directory.clone();
                let writing = tokio::task::spawn_blocking(move || keeper.keep_people(&nobody_yet));
                let _ = writing.await; // it tells its own failures
            }
        }
        self.keeper.store(keeper);
        self.in_force.store(Arc::new(InForce {
            config: Arc::new(config),
            directory,
            organisation: organisation.clone(),
            affinity,
            logon_seal: Arc::new(logon_seal),
            addresses: self.addresses.clone(),
            version,
            since,
            shared: old.shared.clone(),
        }));
        if let Some((parts, oddities)) = reading {
            self.read_anew(&old.organisation.topology, organisation, parts, &oddities).await;
        }
        Ok(Reloaded { version, waits })
    }

    /// A directory that was not in force before, with nothing remembered of it.
    fn other(&self, config: &Config) -> Result<(Arc<CachedDirectory>, Told), StartError> {
        let told = self.notices.of_directory();
        let directory: Arc<dyn Directory> = Arc::new(config.directory.open(&told.tell)?);
        let runtime = tokio::runtime::Handle::current();
        Ok((Arc::new(CachedDirectory::new(directory, config.cache, told.tell.clone(), runtime)), told))
    }

    /// The directory that is in force, with what is remembered of it, by the new configuration's bounds.
    async fn same_directory(&self, old: &InForce, config: &Config) -> Result<Arc<CachedDirectory>, StartError> {
        if let config::Directory::Ldif(file) = &config.directory {
            ldif::open(file)?; // as it is now; `follow` would say that it is bad only once
            if old.directory.follow().await? {
                self.wake.changed.notify_one(); // whatever becomes of the configuration
            }
        }
        if config.cache == old.config.cache {
            return Ok(old.directory.clone());
        }
        let (directory, runtime) = (old.directory.behind().clone(), tokio::runtime::Handle::current());
        let anew = Arc::new(CachedDirectory::new(directory, config.cache, self.told.tell.clone(), runtime));
        let (remembers, remembering) = (old.directory.clone(), anew.clone());
        let restoring = tokio::task::spawn_blocking(move || remembering.restore(remembers.remembered()));
        let _ = restoring.await; // or nobody is known
        Ok(anew)
    }

    /// The topology as it is now; the one in force if the directory is away, or shows one that is hard to believe.
    async fn read_again(
        &mut self,
        directory: &CachedDirectory,
        config: &Config,
        old: &InForce,
    ) -> Result<New, StartError> {
        let in_force = &old.organisation.topology;
        match following::read(&**directory.behind(), config).await {
            Ok(reading) if !self.standing.doubts(in_force, &reading.topology) => return Ok(New::of(reading)),
            Ok(_) => {} // told
            Err(StartError::Directory(DirectoryError::Unreachable { .. } | DirectoryError::TimedOut { .. })) => {
                log::warn!("the directory is away: the new configuration goes with the last good topology");
            }
            Err(error) => return Err(error),
        }
        let topology = in_force.clone();
        let policy = config.policy(&topology)?;
        Ok(New { topology, policy, reading: None })
    }
}

impl New {
    fn of(Reading { parts, topology, policy, oddities }: Reading) -> Self {
        New { topology, policy, reading: Some((parts, oddities)) }
    }
}

impl config::Directory {
    /// Whether what has been connected to, and remembered, of the other since then serves this one too.
    fn is_same(&self, other: &config::Directory, since: SystemTime) -> bool {
        match (self, other) {
            (config::Directory::Ldif(file), config::Directory::Ldif(other)) => file == other,
            (
                config::Directory::Ldap { forest, account_forests },
                config::Directory::Ldap { forest: other, account_forests: others },
            ) => {
                let mut authorities = account_forests.iter().chain([&**forest]).filter_map(|it| it.ca_file.as_deref());
                forest == other && account_forests == others && !authorities.any(|file| has_changed(file, since))
            }
            (config::Directory::Ldif(_), config::Directory::Ldap { .. })
            | (config::Directory::Ldap { .. }, config::Directory::Ldif(_)) => false,
        }
    }
}

/// What each listener is to show, if it speaks TLS and stands in the file `as_wanted`; files of others may be gone.
fn load_certificates(config: &Config, as_wanted: &[bool]) -> Result<Vec<Option<Loaded>>, CertificateError> {
    let listeners = config.listeners.iter().zip(as_wanted);
    let tls = listeners.map(|(listener, as_wanted)| listener.tls.as_ref().filter(|_| *as_wanted));
    tls.map(|tls| tls.map(ListenerCertificates::load).transpose()).collect()
}

/// Whether a file, or what it says of itself, is another than it was.
fn has_changed(file: &Path, since: SystemTime) -> bool {
    let since =
        since.duration_since(UNIX_EPOCH).map_or(i64::MAX, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    std::fs::metadata(file).map_or(true, |metadata| metadata.ctime() >= since)
}
