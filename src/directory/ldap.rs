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
mod watch;

pub mod certificate;
pub mod discovery;

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

pub use settings::{Account, Scheme, Settings, Where};
use tokio::{runtime::Handle, sync::Semaphore, time::timeout};

use self::{
    fleet::Fleet,
    link::{Base, Place, Reach, Search, Size},
    watch::Positions,
};
use super::{
    DirectoryError, Tell,
    forest::{AnyOf, News, Source},
    organisation::Organisation,
    schema::{Record, attribute},
};

/// Prepares the servers' directory. Connects at the first question, not yet. Must be called within a runtime: all
/// connections live there.
///
/// # Errors
/// [`DirectoryError::Unusable`]: settings that cannot work, each with its cure.
pub fn open(settings: Settings, account_forests: Vec<Settings>, tell: Tell) -> Result<Organisation, DirectoryError> {
    let forest = Servers::new(settings, tell.clone())?;
    let account_forests: Result<Vec<_>, _> =
        account_forests.into_iter().map(|settings| Servers::new(settings, tell.clone())).collect();
    Ok(Organisation::new(Source::Ldap(forest), account_forests?.into_iter().map(Source::Ldap)))
}

/// The servers of a forest.
pub(super) struct Servers {
    reach: Arc<Reach>,
    /// Asked for the configuration container.
    controllers: Fleet,
    /// Asked for people; `None`: the controllers are.
    catalogs: Option<Fleet>,
    positions: Positions,
    binds: Semaphore,
    searches: Semaphore,
}

impl Servers {
    fn new(settings: Settings, tell: Tell) -> Result<Arc<Self>, DirectoryError> {
        let tls = settings.prepared()?;
        let runtime = Handle::try_current().map_err(|error| DirectoryError::Unusable {
            place: "the LDAP servers".to_owned(),
            problem: error.to_string(),
        })?;
        let (controllers, catalogs) = match &settings.servers {
            Where::Listed { domain_controllers, global_catalogs } => {
                (listed(domain_controllers), listed(global_catalogs))
            }
            Where::Found { .. } => (Vec::new(), Vec::new()),
        };
        let searches = Semaphore::new(settings.searches_max);
        let reach = Arc::new(Reach { settings, tls });
        let fleet = |places| Fleet::new(reach.clone(), runtime.clone(), tell.clone(), places);
        let servers = Arc::new(Servers {
            controllers: fleet(controllers),
            catalogs: (!catalogs.is_empty()).then(|| fleet(catalogs)),
            positions: Positions::default(),
            binds: Semaphore::new(BINDS_IN_FLIGHT_MAX),
            searches,
            reach,
        });
        runtime.spawn(tend(Arc::downgrade(&servers)));
        Ok(servers)
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
        self.search(self.catalogs(), &search, self.reach.settings.search_timeout).await
    }

    /// The configuration container's records of these classes.
    pub(super) async fn configuration(
        &self,
        classes: &[&str],
        attributes: &'static [&'static str],
    ) -> Result<Vec<Record>, DirectoryError> {
        let classes = classes.iter().map(|class| (attribute::OBJECT_CLASS, class.as_bytes()));
        let search = Search {
            operation: "a search of the configuration container",
            base: Base::Configuration,
            filter: filter::disjunction(classes),
            attributes,
            size: Size::AllUpTo(RECORDS_MAX),
        };
        let patience = self.reach.settings.search_timeout.saturating_mul(PAGES_PATIENCE);
        let records = self.search(&self.controllers, &search, patience).await?;
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

    /// Whether a bind as this DN with this password succeeds, on a connection of its own.
    pub(super) async fn bind_as(&self, dn: &str, password: &str) -> Result<bool, DirectoryError> {
        let after = self.reach.settings.search_timeout;
        let turn = timeout(after, self.binds.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(DirectoryError::TimedOut { operation: "a turn to verify a password".to_owned(), after });
        };
        self.catalogs().bind_as(dn, password).await
    }

    /// What has changed since the last call.
    pub(super) async fn news(&self) -> Result<News, DirectoryError> {
        let patience = self.reach.settings.search_timeout.saturating_mul(PAGES_PATIENCE);
        self.catalogs().ask(&|link| Box::pin(self.positions.look(link, patience))).await
    }

    /// The servers, for messages.
    pub(super) fn place(&self) -> String {
        self.reach.settings.servers.to_string()
    }

    fn catalogs(&self) -> &Fleet {
        self.catalogs.as_ref().unwrap_or(&self.controllers)
    }

    async fn search(
        &self,
        fleet: &Fleet,
        search: &Search<'_>,
        patience: Duration,
    ) -> Result<Vec<Record>, DirectoryError> {
        // Waiting for a turn says nothing about the servers.
        let turn = timeout(patience, self.searches.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            return Err(DirectoryError::TimedOut {
                operation: format!("a turn for {}", search.operation),
                after: patience,
            });
        };
        fleet.ask(&|mut link| Box::pin(async move { link.search(search, patience).await })).await
    }
}

/// Looks after the servers for as long as anybody uses them.
async fn tend(servers: Weak<Servers>) {
    loop {
        tokio::time::sleep(TEND_INTERVAL).await;
        let Some(servers) = servers.upgrade() else { return };
        servers.controllers.tend().await;
        if let Some(catalogs) = &servers.catalogs {
            catalogs.tend().await;
        }
    }
}

fn listed(urls: &[url::Url]) -> Vec<Place> {
    urls.iter().map(|url| Place { url: url.clone(), addresses: Vec::new() }).collect()
}

const TEND_INTERVAL: Duration = Duration::from_millis(500);
/// Each is a connection of its own. More wait for their turn, within the time a search has.
const BINDS_IN_FLIGHT_MAX: usize = 32;
/// Larger than any Exchange organisation's sites, servers and virtual directories together.
const RECORDS_MAX: usize = 200_000;
/// The topology may take so many times the time of a single search.
const PAGES_PATIENCE: u32 = 10;
