//! LDAP servers (Active Directory, Samba, `OpenLDAP`) as a source of records.
//!
//! People are asked of global catalogs where there are any, the configuration container of domain controllers. Of each
//! kind the preferred server is asked, the next one while it does not answer ([`fleet`]); so a request never waits for a
//! server that is known to be away. A few connections to each, bound as one account, are shared by all searches; LDAP lets
//! each carry many at a time. Passwords are verified on connections of their own, so that the shared ones never act as
//! somebody else.

mod breaker;
mod filter;
mod fleet;
mod link;
mod settings;
mod verdict;
mod watch;

pub mod certificate;
pub mod discovery;
#[cfg(feature = "gssapi")]
pub mod gssapi;

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

pub use settings::{Account, Scheme, Settings, Where};
use tokio::{
    runtime::Handle,
    sync::{self, Semaphore},
    time::timeout,
};

use self::{
    discovery::{FindError, Finder},
    fleet::Fleet,
    link::{Base, Holds, Place, Reach, Search, Size},
    watch::Positions,
};
use super::{
    DirectoryError, ServerState, Tell, Verdict,
    forest::{AnyOf, News, Source},
    organisation::Organisation,
    schema::{Record, attribute},
};

/// Prepares the servers' directory. Connects at the first question, not yet. Must be called within a runtime: all
/// connections live there.
///
/// # Errors
/// [`DirectoryError::Unusable`]: settings that cannot work, each with its cure.
pub fn open(settings: Settings, account_forests: Vec<Settings>, tell: &Tell) -> Result<Organisation, DirectoryError> {
    let forest = Servers::new(settings, tell)?;
    let account_forests: Result<Vec<_>, _> =
        account_forests.into_iter().map(|settings| Servers::new(settings, tell)).collect();
    Ok(Organisation::new(Source::Ldap(forest), account_forests?.into_iter().map(Source::Ldap)))
}

/// The servers of a forest.
pub(super) struct Servers {
    reach: Arc<Reach>,
    /// Asked for the configuration container.
    controllers: Fleet,
    /// Asked for people; where there are none, the controllers are.
    catalogs: Fleet,
    /// How they are found; `None`: they are listed.
    finder: Option<Finder>,
    finding: sync::Mutex<Finding>,
    positions: Positions,
    binds: Semaphore,
    searches: Semaphore,
}

/// When servers were looked for last, and with what result.
#[derive(Default)]
struct Finding {
    due: Option<Instant>,
    error: Option<FindError>,
}

impl Servers {
    fn new(settings: Settings, tell: &Tell) -> Result<Arc<Self>, DirectoryError> {
        let tls = settings.prepared()?;
        let runtime = Handle::try_current().map_err(|error| unusable("the LDAP servers", &error))?;
        let (controllers, catalogs, finder) = match &settings.servers {
            Where::Listed { domain_controllers, global_catalogs } => {
                (listed(domain_controllers), listed(global_catalogs), None)
            }
            Where::Found { domain, site, dns_servers, scheme } => {
                let finder = Finder::new(domain, site.as_deref(), dns_servers, *scheme);
                (Vec::new(), Vec::new(), Some(finder.map_err(|error| unusable(domain, &error))?))
            }
        };
        let searches = Semaphore::new(settings.searches_max);
        let reach = Arc::new(Reach::new(settings, tls));
        let fleet = |holds, places| Fleet::new(reach.clone(), holds, runtime.clone(), tell.clone(), places);
        let servers = Arc::new(Servers {
            controllers: fleet(Holds::Domain, controllers),
            catalogs: fleet(Holds::Forest, catalogs),
            finder,
            finding: sync::Mutex::default(),
            positions: Positions::default(),
            binds: Semaphore::new(BINDS_IN_FLIGHT_MAX),
            searches,
            reach,
        });
        let tended = Arc::downgrade(&servers);
        runtime.spawn(async move {
            // Only who looks after the servers finds them back: a panic there must not be the end of it.
            while let Err(error) = tokio::spawn(tend(tended.clone())).await {
                log::error!("whoever looks after the LDAP servers broke off and begins anew: {error}");
            }
        });
        Ok(servers)
    }

    /// Looks for the servers if it is time to. Those that were found last stay until others are.
    async fn find(&self) -> Result<(), DirectoryError> {
        let Some(finder) = &self.finder else { return Ok(()) };
        let mut finding = self.finding.lock().await;
        if finding.due.is_none_or(|due| due <= Instant::now()) {
            let (pause, error) = match finder.find(self.reach.settings.search_timeout).await {
                Ok(found) => {
                    for oddity in &found.oddities {
                        log::warn!("{oddity}");
                    }
                    let controllers = by_server(found.domain_controllers);
                    let mut catalogs = by_server(found.global_catalogs);
                    // What was seen to change at one is read from the other, so best both are the same machine.
                    let rank =
                        |place: &Place| controllers.iter().position(|other| other.url.host() == place.url.host());
                    catalogs.sort_by_key(|place| (!place.nearby, rank(place).unwrap_or(usize::MAX)));
                    self.controllers.replace(controllers);
                    self.catalogs.replace(catalogs);
                    (found.ask_again_after, None)
                }
                Err(error) => {
                    log::warn!("{error}");
                    (FIND_RETRY, Some(error))
                }
            };
            *finding = Finding { due: Some(Instant::now() + pause), error };
        }
        match &finding.error {
            Some(error) if self.controllers.is_empty() => {
                Err(DirectoryError::Unreachable { server: self.place(), source: Box::new(error.clone()) })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// The records that match, at most `limit`.
    pub(super) async fn people(
        &self,
        domain: Option<&str>,
        any_of: &AnyOf,
        attributes: &'static [&'static str],
        limit: usize,
    ) -> Result<Vec<Record>, DirectoryError> {
        let search = Search {
            operation: "a search for a person",
            base: domain.map_or(Base::Users, Base::Domain),
            filter: filter::any_of(any_of),
            attributes,
            size: Size::AtMost(limit),
        };
        self.search(Self::catalogs, &search, self.reach.settings.search_timeout).await
    }

    /// Everybody who has a mailbox or an address.
    pub(super) async fn everybody(&self) -> Result<Vec<Record>, DirectoryError> {
        let has = |attribute| format!("({attribute}=*)");
        let filter = [attribute::HOME_MDB, attribute::HOME_SERVER_NAME, attribute::PROXY_ADDRESSES].map(has).concat();
        let search = Search {
            operation: "a search for everybody",
            base: Base::Users,
            filter: format!("(|{filter})"),
            attributes: attribute::OF_PEOPLE,
            size: Size::AllUpTo(PEOPLE_MAX),
        };
        let patience = self.reach.settings.search_timeout.saturating_mul(EVERYBODY_PATIENCE);
        let people = self.search(Self::catalogs, &search, patience).await?;
        if people.len() > PEOPLE_MAX {
            return Err(unusable(&self.place(), &format!("more than {PEOPLE_MAX} people; narrow users_base")));
        }
        Ok(people)
    }

    /// The configuration container's records of these classes, within so many times the time of a single search.
    pub(super) async fn configuration(
        &self,
        classes: &[&str],
        attributes: &'static [&'static str],
        patience: u32,
    ) -> Result<Vec<Record>, DirectoryError> {
        let search = Search {
            operation: "a search of the configuration container",
            base: Base::Configuration,
            filter: filter::of_classes(classes),
            attributes,
            size: Size::AllUpTo(RECORDS_MAX),
        };
        let patience = self.reach.settings.search_timeout.saturating_mul(patience);
        let records = self.search(|servers| &servers.controllers, &search, patience).await?;
        if records.len() > RECORDS_MAX {
            return Err(DirectoryError::Unusable {
                place: self.place(),
                problem: format!(
                    "its configuration container has more than {RECORDS_MAX} records; narrow configuration_base"
                ),
            });
        }
        Ok(records)
    }

    /// What a bind as this DN with this password says, on a connection of its own.
    pub(super) async fn bind_as(&self, dn: &str, password: &str) -> Result<Verdict, DirectoryError> {
        let after = self.reach.settings.search_timeout;
        let turn = timeout(after, self.binds.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(self.no_turn("a bind to verify a password", after));
        };
        self.find_first().await?;
        self.catalogs().bind_as(dn, password).await
    }

    /// What has changed since the last call.
    pub(super) async fn news(&self) -> Result<News, DirectoryError> {
        let patience = self.reach.settings.search_timeout;
        self.find_first().await?;
        self.catalogs().ask(&|link| Box::pin(self.positions.look(link, patience))).await
    }

    /// How each has answered so far.
    pub(super) fn states(&self) -> Vec<ServerState> {
        self.controllers.states().into_iter().chain(self.catalogs.states()).collect()
    }

    /// The servers, for messages.
    pub(super) fn place(&self) -> String {
        self.reach.settings.servers.to_string()
    }

    /// Nobody was asked.
    fn no_turn(&self, operation: &str, after: Duration) -> DirectoryError {
        let source =
            format!("no turn for {operation} within {} ms: too much is asked at once", after.as_millis()).into();
        DirectoryError::Unreachable { server: self.place(), source }
    }

    fn catalogs(&self) -> &Fleet {
        if self.catalogs.is_empty() { &self.controllers } else { &self.catalogs }
    }

    /// Nobody waits for DNS who knows a server.
    async fn find_first(&self) -> Result<(), DirectoryError> {
        if self.controllers.is_empty() { self.find().await } else { Ok(()) }
    }

    async fn search(
        &self,
        fleet: impl Fn(&Self) -> &Fleet,
        search: &Search<'_>,
        patience: Duration,
    ) -> Result<Vec<Record>, DirectoryError> {
        self.find_first().await?;
        // Waiting for a turn says nothing about the servers.
        let turn = timeout(patience, self.searches.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(self.no_turn(search.operation, patience));
        };
        fleet(self).ask(&|mut link| Box::pin(async move { link.search(search, patience).await })).await
    }
}

/// Looks after the servers for as long as anybody uses them.
async fn tend(servers: Weak<Servers>) {
    loop {
        tokio::time::sleep(TEND_INTERVAL).await;
        let Some(servers) = servers.upgrade() else { return };
        if !servers.controllers.is_empty() {
            let _ = servers.find().await; // it is in the log, and those that were found last stay
        }
        servers.controllers.tend().await;
        servers.catalogs.tend().await;
    }
}

fn listed(urls: &[url::Url]) -> Vec<Place> {
    urls.iter().map(|url| Place { url: url.clone(), addresses: Vec::new(), nearby: false }).collect()
}

/// Found places, which have one address each, by server.
fn by_server(found: Vec<discovery::Place>) -> Vec<Place> {
    let mut places: Vec<Place> = Vec::new();
    for discovery::Place { url, address, nearby } in found {
        match places.iter_mut().find(|place| place.url == url) {
            Some(place) => place.addresses.push(address),
            None => places.push(Place { url, addresses: vec![address], nearby }),
        }
    }
    for place in &mut places {
        place.addresses.sort_unstable(); // DNS has no order, and a new one is no news
    }
    places
}

fn unusable(place: &str, problem: &dyn std::fmt::Display) -> DirectoryError {
    DirectoryError::Unusable { place: place.to_owned(), problem: problem.to_string() }
}

/// How soon servers are looked for again that were not found.
const FIND_RETRY: Duration = Duration::from_secs(2);
const TEND_INTERVAL: Duration = Duration::from_millis(500);
/// Each is a connection of its own. More wait for their turn, within the time a search has.
const BINDS_IN_FLIGHT_MAX: usize = 32;
/// Larger than any Exchange organisation's sites, servers and virtual directories together.
const RECORDS_MAX: usize = 200_000;
/// Several times the largest Exchange organisation; about 2 GB of memory while they are looked at.
const PEOPLE_MAX: usize = 2_000_000;
/// Everybody may take so many times the time of a single search.
const EVERYBODY_PATIENCE: u32 = 200;
