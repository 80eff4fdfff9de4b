//! LDAP servers (Active Directory, Samba, `OpenLDAP`) as a source of records.
//!
//! A few connections, bound as one account, are shared by all searches; LDAP lets each carry many at a time. One that
//! fails is replaced by the next search. Passwords are verified on connections of their own, so that the shared ones
//! never act as somebody else. Referrals are not followed: they would let the directory send the edge, and the bind
//! account's password with it, to addresses nobody configured.

use std::{
    fmt::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, ResultEntry, Scope, SearchOptions,
    adapters::{Adapter, EntriesOnly, PagedResults},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::timeout,
};
use url::Url;

use super::{
    DirectoryError, Tell,
    organisation::{AnyOf, Organisation, Source},
    schema::{Record, attribute, fold_dn, is_within},
};
use crate::secret::Secret;

/// How to reach and search the servers.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The servers, or how they are found.
    pub servers: Where,
    /// Who searches.
    pub account: Account,
    /// PEM file of the authorities that sign the servers' certificates. `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether `ldap://` connections turn to TLS before anything else is said.
    pub start_tls: bool,
    /// DN below which people are searched. `None`: the server's `defaultNamingContext`. The empty DN searches the
    /// whole forest of a global catalog.
    pub users_base: Option<String>,
    /// DN of the configuration container. `None`: the server's `configurationNamingContext`.
    pub configuration_base: Option<String>,
    /// Time for a connection to be open, secured and bound.
    pub connect_timeout: Duration,
    /// Time for a search for one person, or for one page of the topology.
    pub search_timeout: Duration,
    /// How many connections to a server are shared by the searches; at least one.
    pub connections: usize,
    /// How many searches are under way at once; more wait for their turn, as long as a search may take.
    pub searches_max: usize,
}

/// Where the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// `ldap://` and `ldaps://` URLs, the preferred ones first.
    Listed {
        /// Domain controllers: asked for the configuration container, and for people where no global catalog is listed.
        domain_controllers: Vec<Url>,
        /// Global catalogs: asked for people of the whole forest.
        global_catalogs: Vec<Url>,
    },
    /// Found by the SRV records of a domain.
    Found {
        /// DNS name of the forest's root domain.
        domain: String,
        /// AD site whose servers come first.
        site: Option<String>,
        /// Name servers; none: those of the system.
        dns_servers: Vec<SocketAddr>,
        /// `ldaps` (on 636 and 3269), else `ldap` (on the ports of the records).
        scheme: Scheme,
    },
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Where::Listed { domain_controllers, global_catalogs } => {
                let all = domain_controllers.iter().chain(global_catalogs);
                f.write_str(&all.map(Url::as_str).collect::<Vec<_>>().join(", "))
            }
            Where::Found { domain, .. } => write!(f, "the domain controllers of {domain}"),
        }
    }
}

/// How found servers are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS, or with `StartTLS`.
    Ldap,
    /// TLS from the first byte.
    Ldaps,
}

/// Who searches.
#[derive(Clone, Debug)]
pub enum Account {
    /// Nobody.
    Anonymous,
    /// A simple bind.
    Password {
        /// A distinguished name or, with Active Directory, a UPN.
        dn: String,
        /// Its password.
        password: Secret,
    },
    /// Kerberos (SASL GSSAPI) with the first key of a keytab, which the Kerberos library takes from the environment.
    Keytab(PathBuf),
}

/// Prepares the servers' directory. Connects at the first question, not yet.
///
/// # Errors
/// [`DirectoryError::Unusable`]: settings that cannot work, each with its cure.
pub fn open(settings: Settings, account_forests: Vec<Settings>, tell: Tell) -> Result<Organisation, DirectoryError> {
    let _ = (account_forests, tell);
    let unusable = |place: &str, problem: &str| {
        Err(DirectoryError::Unusable { place: place.to_owned(), problem: problem.to_owned() })
    };
    let Where::Listed { domain_controllers, global_catalogs } = &settings.servers else {
        return unusable("domain", "not yet");
    };
    if domain_controllers.is_empty() {
        return unusable("urls", "no LDAP server is given; write at least one, such as ldaps://dc1.contoso.com");
    }
    for url in domain_controllers.iter().chain(global_catalogs) {
        if !matches!(url.scheme(), "ldap" | "ldaps") || url.host_str().is_none_or(str::is_empty) {
            return unusable(url.as_str(), "not the URL of an LDAP server; write ldap://host or ldaps://host");
        }
    }
    if let Account::Password { password, .. } = &settings.account {
        if password.expose().is_empty() {
            return unusable("bind_password", "an account without password is bound as nobody; give its password");
        }
        if std::str::from_utf8(password.expose()).is_err() {
            return unusable("bind_password", "it is not UTF-8");
        }
    }
    let secured = settings.start_tls || domain_controllers.iter().any(|url| url.scheme() == "ldaps");
    let tls = if secured { Some(tls(settings.ca_file.as_deref())?) } else { None };
    let slots = (0..settings.connections.max(1)).map(|_| Mutex::default()).collect();
    Ok(Organisation::new(Source::Ldap(Box::new(Servers {
        tls,
        slots,
        turn: AtomicUsize::new(0),
        links_opened: AtomicU64::new(0),
        answered_last: AtomicUsize::new(0),
        binds: Semaphore::new(BINDS_IN_FLIGHT_MAX),
        searches: Semaphore::new(settings.searches_max),
        settings,
    }))))
}

/// The servers and the connections to them.
pub(super) struct Servers {
    settings: Settings,
    tls: Option<Arc<ClientConfig>>,
    slots: Vec<Mutex<Slot>>,
    turn: AtomicUsize,
    links_opened: AtomicU64,
    /// Place in `settings.urls` of the server that the newest link leads to.
    answered_last: AtomicUsize,
    binds: Semaphore,
    searches: Semaphore,
}

#[derive(Default)]
struct Slot {
    link: Option<Link>,
    /// When and how connecting failed last: whoever waited for that attempt shares its result.
    failed: Option<(Instant, DirectoryError)>,
}

/// A bound connection.
#[derive(Clone)]
struct Link {
    ldap: Ldap,
    number: u64,
    opened: Instant,
    server: Arc<str>,
    users_base: Arc<str>,
    configuration_base: Arc<str>,
}

struct Search<'a> {
    /// For messages.
    operation: &'a str,
    base: Base<'a>,
    filter: String,
    attributes: &'static [&'static str],
    size: Size,
}

enum Base<'a> {
    Users,
    Domain(&'a str),
    Configuration,
}

enum Size {
    AtMost(i32),
    AllInPages,
}

impl Servers {
    fn urls(&self) -> &[Url] {
        match &self.settings.servers {
            Where::Listed { domain_controllers, .. } => domain_controllers,
            Where::Found { .. } => &[],
        }
    }

    /// The records that match, at most `limit`.
    pub(super) async fn people(
        &self,
        domain: Option<&str>,
        any_of: &AnyOf,
        limit: usize,
    ) -> Result<Vec<Record>, DirectoryError> {
        self.search(&Search {
            operation: "a search for a person",
            base: domain.map_or(Base::Users, Base::Domain),
            filter: filter(any_of),
            attributes: attribute::OF_PEOPLE,
            size: Size::AtMost(i32::try_from(limit).unwrap_or(i32::MAX)),
        })
        .await
    }

    /// Everybody who has a mailbox or an address.
    pub(super) async fn everybody(&self) -> Result<Vec<Record>, DirectoryError> {
        let has = |attribute| format!("({attribute}=*)");
        let filter = [attribute::HOME_MDB, attribute::HOME_SERVER_NAME, attribute::PROXY_ADDRESSES].map(has).concat();
        self.search(&Search {
            operation: "a search for everybody",
            base: Base::Users,
            filter: format!("(|{filter})"),
            attributes: attribute::OF_PEOPLE,
            size: Size::AllInPages,
        })
        .await
    }

    /// The configuration container's records of these classes.
    pub(super) async fn configuration(
        &self,
        classes: &[&str],
        attributes: &'static [&'static str],
    ) -> Result<Vec<Record>, DirectoryError> {
        let classes = classes.iter().map(|class| (attribute::OBJECT_CLASS, class.as_bytes()));
        self.search(&Search {
            operation: "a search of the configuration container",
            base: Base::Configuration,
            filter: disjunction(classes),
            attributes,
            size: Size::AllInPages,
        })
        .await
    }

    /// Whether a bind as this DN with this password succeeds, on a connection of its own. The server that answered the
    /// searches last is asked first, so that a mute one does not slow every logon.
    pub(super) async fn bind_as(&self, dn: &str, password: &str) -> Result<bool, DirectoryError> {
        let timed_out =
            || DirectoryError::TimedOut { operation: BIND_AS.to_owned(), after: self.settings.search_timeout };
        let turn = timeout(self.settings.search_timeout, self.binds.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return Err(timed_out()) };
        let first = self.answered_last.load(Ordering::Relaxed);
        let servers = self.urls().iter().skip(first).chain(self.urls().iter().take(first));
        let mut last = None;
        for url in servers {
            let mut ldap = match self.connect(url).await {
                Ok(ldap) => ldap,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            last = Some(match timeout(self.settings.search_timeout, ldap.simple_bind(dn, password)).await {
                Ok(Ok(result)) => match result.rc {
                    SUCCESS => return Ok(true),
                    INVALID_CREDENTIALS => return Ok(false),
                    UNAVAILABLE => failure(url.as_str(), BIND_AS, LdapError::LdapResult { result }),
                    _ => return Err(failure(url.as_str(), BIND_AS, LdapError::LdapResult { result })),
                },
                Ok(Err(error)) => failure(url.as_str(), BIND_AS, error),
                Err(_) => timed_out(),
            });
        }
        Err(last.unwrap_or_else(timed_out))
    }

    /// The servers, for messages.
    pub(super) fn place(&self) -> String {
        self.urls().iter().map(Url::as_str).collect::<Vec<_>>().join(", ")
    }

    /// Searches are idempotent: one that a broken connection cut off is made again, once, on a new one.
    async fn search(&self, search: &Search<'_>) -> Result<Vec<Record>, DirectoryError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.slots.len().max(1);
        let Some(slot) = self.slots.get(turn) else { return Ok(Vec::new()) };
        let patience = match search.size {
            Size::AtMost(_) => self.settings.search_timeout,
            Size::AllInPages => self.settings.search_timeout.saturating_mul(PAGES_PATIENCE),
        };
        let timed_out = || DirectoryError::TimedOut { operation: search.operation.to_owned(), after: patience };
        let mut may_try_again = true;
        loop {
            let link = self.link(slot).await?;
            // Waiting says nothing about the link, so running out of time here does not discard it.
            let turn = timeout(patience, self.searches.acquire()).await;
            let Ok(Ok(_turn)) = turn else { return Err(timed_out()) };
            let error = match timeout(patience, self.run(&link, search)).await {
                Ok(Ok(records)) if records.len() < RECORDS_MAX => return Ok(records),
                Ok(Ok(_)) => {
                    return Err(DirectoryError::Unusable {
                        place: link.configuration_base.to_string(),
                        problem: format!("it has {RECORDS_MAX} records or more; narrow configuration_base"),
                    });
                }
                Ok(Err(LdapError::Timeout { .. })) | Err(_) => {
                    discard(slot, &link).await;
                    return Err(timed_out());
                }
                Ok(Err(error)) => error,
            };
            let rejected = matches!(&error, LdapError::LdapResult { result } if result.rc != UNAVAILABLE);
            if rejected {
                return Err(failure(&link.server, search.operation, error));
            }
            discard(slot, &link).await;
            if !may_try_again {
                return Err(failure(&link.server, search.operation, error));
            }
            may_try_again = false;
        }
    }

    async fn run(&self, link: &Link, search: &Search<'_>) -> Result<Vec<Record>, LdapError> {
        let base = match search.base {
            Base::Users => &link.users_base,
            // Whoever narrowed the users' base meant it for logon names too.
            Base::Domain(naming_context) if is_within(&fold_dn(&link.users_base), &fold_dn(naming_context)) => {
                &link.users_base
            }
            Base::Domain(naming_context) => naming_context,
            Base::Configuration => &link.configuration_base,
        };
        let mut ldap = link.ldap.clone();
        let mut adapters: Vec<Box<dyn Adapter<'_, &str, &[&str]>>> = vec![Box::new(EntriesOnly::new())];
        let most = match search.size {
            Size::AtMost(most) => {
                ldap.with_search_options(SearchOptions::new().sizelimit(most));
                usize::try_from(most).unwrap_or_default()
            }
            Size::AllInPages => {
                adapters.push(Box::new(PagedResults::new(PAGE_RECORDS)));
                RECORDS_MAX
            }
        };
        ldap.with_timeout(self.settings.search_timeout);
        let mut stream =
            ldap.streaming_search_with(adapters, base, Scope::Subtree, &search.filter, search.attributes).await?;
        let mut records = Vec::new();
        while let Some(entry) = stream.next().await? {
            if records.len() == most {
                break;
            }
            records.extend(record(entry));
        }
        let result = stream.finish().await;
        match result.rc {
            SUCCESS => Ok(records),
            // The limit that was asked for. At one of its own, the server has left out what was not seen: no answer.
            SIZE_LIMIT_EXCEEDED | USER_CANCELLED if records.len() >= most => Ok(records),
            _ => Err(LdapError::LdapResult { result }),
        }
    }

    /// The slot's connection, opened if it has none, or an old or a broken one.
    async fn link(&self, slot: &Mutex<Slot>) -> Result<Link, DirectoryError> {
        let asked_at = Instant::now();
        let mut slot = slot.lock().await;
        if let Some(link) = &mut slot.link
            && !link.ldap.is_closed()
            && link.opened.elapsed() < LINK_AGE_MAX
        {
            return Ok(link.clone());
        }
        slot.link = None;
        if let Some((failed_at, error)) = &slot.failed
            && *failed_at >= asked_at
        {
            return Err(repeated(error));
        }
        match self.open_link().await {
            Ok(link) => {
                slot.link = Some(link.clone());
                slot.failed = None;
                Ok(link)
            }
            Err(error) => {
                slot.failed = Some((Instant::now(), repeated(&error)));
                Err(error)
            }
        }
    }

    async fn open_link(&self) -> Result<Link, DirectoryError> {
        let mut last = None;
        for (place, url) in self.urls().iter().enumerate() {
            match timeout(self.settings.connect_timeout, self.open_link_to(url)).await {
                Ok(Ok(link)) => {
                    self.answered_last.store(place, Ordering::Relaxed);
                    return Ok(link);
                }
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    last = Some(DirectoryError::TimedOut {
                        operation: format!("a connection to {url}"),
                        after: self.settings.connect_timeout,
                    });
                }
            }
        }
        Err(last.unwrap_or_else(|| DirectoryError::Unusable {
            place: "urls".to_owned(),
            problem: "no LDAP server is given".to_owned(),
        }))
    }

    async fn open_link_to(&self, url: &Url) -> Result<Link, DirectoryError> {
        let mut ldap = self.connect(url).await?;
        let Settings { account, users_base, configuration_base, .. } = &self.settings;
        if let Account::Password { dn, password } = account {
            let password = std::str::from_utf8(password.expose()).unwrap_or_default(); // checked by `open`
            let operation = format!("the bind as `{dn}`");
            ldap.simple_bind(dn, password)
                .await
                .and_then(ldap3::LdapResult::success)
                .map_err(|error| failure(url.as_str(), &operation, error))?;
        }
        let root = match (users_base, configuration_base) {
            (Some(_), Some(_)) => Record::new(""),
            _ => root_dse(&mut ldap).await.map_err(|error| failure(url.as_str(), "reading its root DSE", error))?,
        };
        let base = |configured: &Option<String>, attribute, setting| {
            configured.as_deref().or(root.text(attribute)).map(Arc::from).ok_or_else(|| DirectoryError::Unusable {
                place: url.to_string(),
                problem: format!("its root DSE has no {attribute}, so {setting} must be configured"),
            })
        };
        Ok(Link {
            users_base: base(users_base, "defaultNamingContext", "users_base")?,
            configuration_base: base(configuration_base, "configurationNamingContext", "configuration_base")?,
            ldap,
            number: self.links_opened.fetch_add(1, Ordering::Relaxed),
            opened: Instant::now(),
            server: url.as_str().into(),
        })
    }

    /// An unbound connection; it closes when the last handle to it is dropped.
    async fn connect(&self, url: &Url) -> Result<Ldap, DirectoryError> {
        let mut settings = LdapConnSettings::new().set_starttls(self.settings.start_tls);
        if let Some(tls) = &self.tls {
            settings = settings.set_config(tls.clone());
        }
        let connecting = LdapConnAsync::from_url_with_settings(settings, url);
        let after = self.settings.connect_timeout;
        let (connection, ldap) = timeout(after, connecting)
            .await
            .map_err(|_| DirectoryError::TimedOut { operation: format!("a connection to {url}"), after })?
            .map_err(|source| DirectoryError::Unreachable { server: url.to_string(), source: Box::new(source) })?;
        let server = url.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                log::debug!("the connection to {server} broke: {error}");
            }
        });
        Ok(ldap)
    }
}

async fn discard(slot: &Mutex<Slot>, link: &Link) {
    let mut slot = slot.lock().await;
    if slot.link.as_ref().is_some_and(|current| current.number == link.number) {
        slot.link = None;
    }
}

async fn root_dse(ldap: &mut Ldap) -> Result<Record, LdapError> {
    let attributes = ["defaultNamingContext", "configurationNamingContext"];
    let (entries, _) = ldap.search("", Scope::Base, "(objectClass=*)", attributes).await?.success()?;
    Ok(entries.into_iter().find_map(record).unwrap_or_else(|| Record::new("")))
}

/// `SearchResultEntry` (RFC 4511 section 4.5.2). Anything else, or an entry that is not as it should be, gives `None`.
fn record(entry: ResultEntry) -> Option<Record> {
    let mut parts = entry.0.match_id(SEARCH_RESULT_ENTRY)?.expect_constructed()?.into_iter();
    let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
    let mut record = Record::new(dn);
    for attribute in parts.next()?.expect_constructed()? {
        let mut parts = attribute.expect_constructed()?.into_iter();
        let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        for value in parts.next()?.expect_constructed()? {
            record.push(&name, value.expect_primitive()?);
        }
    }
    Some(record)
}

/// The filter (RFC 4515) that any of these values fulfils.
fn filter(any_of: &AnyOf) -> String {
    disjunction(any_of.equalities().iter().map(|(attribute, value)| (*attribute, value.as_slice())))
}

fn disjunction<'v>(equalities: impl Iterator<Item = (&'static str, &'v [u8])>) -> String {
    let mut filter = String::from("(|");
    for (attribute, value) in equalities {
        let _ = write!(filter, "({attribute}="); // writing to a String cannot fail
        for byte in value {
            // Escaping more than RFC 4515 asks for is allowed, and easier to be sure of.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'-' | b'_' | b':') {
                filter.push(char::from(*byte));
            } else {
                let _ = write!(filter, "\\{byte:02x}");
            }
        }
        filter.push(')');
    }
    filter.push(')');
    filter
}

fn tls(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, DirectoryError> {
    let mut roots = RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DirectoryError::Unusable { place: "TLS".to_owned(), problem: error.to_string() })?;
    let path = ca_file.unwrap_or(Path::new(SYSTEM_CA_FILE));
    let unusable = |problem| DirectoryError::Unusable { place: path.display().to_string(), problem };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| unusable(format!("the authorities of the LDAP servers cannot be read: {error}")))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(format!("it is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| unusable(format!("it has an unreadable certificate: {error}")))?;
    }
    if roots.is_empty() {
        return Err(unusable("it has no certificate; it must be a PEM file of the servers' authorities".to_owned()));
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

fn failure(server: &str, operation: &str, error: LdapError) -> DirectoryError {
    if let LdapError::LdapResult { result } = &error
        && matches!(result.rc, SIZE_LIMIT_EXCEEDED | ADMIN_LIMIT_EXCEEDED)
    {
        return DirectoryError::Unusable {
            place: server.to_owned(),
            problem: format!(
                "a size limit of the server's own cut off {operation}, so entries are missing; raise that limit for \
                 the bind account (OpenLDAP: `limits` with size.prtotal=unlimited)"
            ),
        };
    }
    if matches!(error, LdapError::LdapResult { .. } | LdapError::FilterParsing | LdapError::AdapterInit(_)) {
        DirectoryError::Rejected { operation: operation.to_owned(), source: Box::new(error) }
    } else {
        DirectoryError::Unreachable { server: server.to_owned(), source: Box::new(error) }
    }
}

/// The same error for the next one who waited. Sources cannot be cloned, so theirs is the text.
fn repeated(error: &DirectoryError) -> DirectoryError {
    match error {
        DirectoryError::Ambiguous { name, dns } => DirectoryError::Ambiguous { name: name.clone(), dns: dns.clone() },
        DirectoryError::Unreachable { server, source } => {
            DirectoryError::Unreachable { server: server.clone(), source: source.to_string().into() }
        }
        DirectoryError::Rejected { operation, source } => {
            DirectoryError::Rejected { operation: operation.clone(), source: source.to_string().into() }
        }
        DirectoryError::TimedOut { operation, after } => {
            DirectoryError::TimedOut { operation: operation.clone(), after: *after }
        }
        DirectoryError::Malformed { mistakes } => DirectoryError::Malformed { mistakes: mistakes.clone() },
        DirectoryError::Unusable { place, problem } => {
            DirectoryError::Unusable { place: place.clone(), problem: problem.clone() }
        }
    }
}

/// Active Directory closes connections after 15 idle minutes, and the LDAP library keeps a few bytes of every search
/// for as long as its connection lives. It also brings searches back to the preferred server.
const LINK_AGE_MAX: Duration = Duration::from_secs(10 * 60);
const BIND_AS: &str = "a bind to verify a password";
/// Each is a connection of its own. More wait for their turn, within the time a search has.
const BINDS_IN_FLIGHT_MAX: usize = 32;
/// Half of what Active Directory's default policy (`MaxPageSize` 1000) allows.
const PAGE_RECORDS: i32 = 500;
/// Larger than any Exchange organisation's sites, servers and virtual directories together.
const RECORDS_MAX: usize = 200_000;
/// The topology may take so many times the time of a single search.
const PAGES_PATIENCE: u32 = 10;
/// Debian's, Ubuntu's and Alpine's bundle of public authorities.
const SYSTEM_CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

// RFC 4511 section 4.1.9 and appendix A.
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const ADMIN_LIMIT_EXCEEDED: u32 = 11;
const INVALID_CREDENTIALS: u32 = 49;
const UNAVAILABLE: u32 = 52;
/// The library's own: the stream was finished before its end.
const USER_CANCELLED: u32 = 88;
const SEARCH_RESULT_ENTRY: u64 = 4;

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use ldap3::{
        asn1::{ASNTag, PL, StructureTag, Tag},
        parse_filter,
    };
    use proptest::prelude::*;

    use super::*;

    const EQUALITY_MATCH: u64 = 3;

    /// What a filter asks for, as the LDAP library understands its text.
    fn equalities(filter: &str) -> Vec<(String, Vec<u8>)> {
        let tag: Tag = parse_filter(filter).expect("a filter");
        let alternatives = tag.into_structure().expect_constructed().expect("an or");
        alternatives
            .into_iter()
            .map(|alternative| {
                assert_eq!(alternative.id, EQUALITY_MATCH);
                match alternative.expect_constructed().expect("two parts").as_slice() {
                    [StructureTag { payload: PL::P(attribute), .. }, StructureTag { payload: PL::P(value), .. }] => {
                        (String::from_utf8(attribute.clone()).expect("a name"), value.clone())
                    }
                    other => panic!("attribute and value, not {other:?}"),
                }
            })
            .collect()
    }

    #[test]
    fn a_name_with_a_star_is_escaped_in_the_filter() {
        assert_eq!(
            filter(&AnyOf::one(attribute::SAM_ACCOUNT_NAME, "a*)(cn=*")),
            r"(|(sAMAccountName=a\2a\29\28cn\3d\2a))"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_name_the_filter_asks_for_exactly_that_value(name in any::<String>()) {
            let value = name.as_bytes().to_vec();
            let one = filter(&AnyOf::one(attribute::SAM_ACCOUNT_NAME, &name));
            prop_assert_eq!(equalities(&one), vec![("sAMAccountName".to_owned(), value.clone())]);
            let address = AnyOf::address(&name);
            let asked: Vec<_> =
                address.equalities().iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            prop_assert_eq!(equalities(&filter(&address)), asked);
        }

        #[test]
        fn whatever_the_guid_the_filter_asks_for_exactly_its_bytes(guid in any::<[u8; 16]>()) {
            let filter = disjunction(std::iter::once((attribute::MAILBOX_GUID, &guid[..])));
            prop_assert_eq!(equalities(&filter), vec![("msExchMailboxGuid".to_owned(), guid.to_vec())]);
        }
    }

    fn settings() -> Settings {
        Settings {
            servers: at(&["ldap://dc1.contoso.com"]),
            account: account("Edge-pass1"),
            ca_file: None,
            start_tls: false,
            users_base: None,
            configuration_base: None,
            connect_timeout: Duration::from_secs(1),
            search_timeout: Duration::from_secs(1),
            connections: 1,
            searches_max: 32,
        }
    }

    fn at(urls: &[&str]) -> Where {
        let domain_controllers = urls.iter().map(|url| Url::parse(url).expect("a URL")).collect();
        Where::Listed { domain_controllers, global_catalogs: vec![] }
    }

    fn account(password: &str) -> Account {
        Account::Password { dn: "CN=edge".into(), password: Secret::new(password.as_bytes()) }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_a_cure() {
        assert!(open(settings(), vec![], Arc::new(drop)).is_ok());
        for (broken, cure) in [
            (Settings { servers: at(&[]), ..settings() }, "write at least one"),
            (Settings { servers: at(&["https://dc1.contoso.com"]), ..settings() }, "write ldap://host or ldaps://host"),
            (Settings { servers: at(&["ldap:///DC=contoso"]), ..settings() }, "write ldap://host or ldaps://host"),
            (Settings { account: account(""), ..settings() }, "give its password"),
            (Settings { start_tls: true, ca_file: Some("/no/such.pem".into()), ..settings() }, "/no/such.pem"),
        ] {
            let error = open(broken, vec![], Arc::new(drop)).err().expect("refused").to_string();
            assert!(error.contains(cure), "{error}");
        }
    }

    #[test]
    fn debug_of_the_settings_shows_no_password() {
        assert!(!format!("{:?}", settings()).contains("Edge-pass1"), "{:?}", settings());
    }
}
