//! One connection to a server, from the first byte to the last record.

use std::{
    io,
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use ldap3::{
    Ldap, LdapConnAsync, LdapConnSettings, LdapError, Scope, SearchOptions, StdStream,
    adapters::{Adapter, EntriesOnly, PagedResults},
};
use rustls::ClientConfig;
use tokio::{
    net::{TcpStream, lookup_host},
    sync,
    time::timeout,
};
use url::Url;

use super::{
    filter::record,
    settings::{Account, Settings},
    verdict,
};
use crate::directory::{
    DirectoryError, Verdict, repeated,
    schema::{Record, attribute, fold_dn, is_within},
};

/// A server's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Scheme, host and port; the host is the name that its certificate must have.
    pub url: Url,
    /// Where that is; empty: the system is asked at each connection.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is known to stand in the edge's own site.
    pub nearby: bool,
}

/// What a kind of server has of the forest's people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Those of its own domain.
    Domain,
    /// All: it is a global catalog.
    Forest,
}

/// A bound connection.
#[derive(Clone)]
pub(super) struct Link {
    ldap: Ldap,
    opened: Instant,
    /// The server sends more than it was asked for, and may never end.
    overrun: Arc<AtomicBool>,
    /// Its URL.
    pub server: Arc<str>,
    users_base: Option<Arc<str>>,
    configuration_base: Option<Arc<str>>,
    /// The certificate that the server showed, if it was encrypted (DER).
    pub certificate: Option<Arc<[u8]>>,
}

/// Whether it was the account itself that was refused.
struct Refused(bool);

/// What is searched.
pub(super) struct Search<'a> {
    /// For messages.
    pub operation: &'a str,
    pub base: Base<'a>,
    pub filter: String,
    pub attributes: &'static [&'static str],
    pub size: Size,
}

impl Search<'static> {
    /// Costs the server next to nothing, and shows that it searches.
    pub(super) fn probe() -> Self {
        Search {
            operation: "a search for nobody",
            base: Base::Users,
            filter: format!("({}=firstcas-looks-who-is-there)", attribute::SAM_ACCOUNT_NAME),
            attributes: &[attribute::SAM_ACCOUNT_NAME],
            size: Size::AtMost(1),
        }
    }
}

/// Where.
#[derive(Clone, Copy)]
pub(super) enum Base<'a> {
    /// Where people are.
    Users,
    /// A domain's naming context, or the part of it where people are.
    Domain(&'a str),
    /// The configuration container.
    Configuration,
}

/// How much.
#[derive(Clone, Copy)]
pub(super) enum Size {
    /// So many records and no more, which is no error.
    AtMost(usize),
    /// All of them, page by page, but never more than so many and one, by which it is seen that there are more.
    AllUpTo(usize),
}

/// What became of a question.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server answered, and the answer is no.
    Refused(DirectoryError),
    /// The connection broke, or the server cannot work: another one may answer.
    Broken(DirectoryError),
    /// Nothing came in time.
    Silent(DirectoryError),
}

/// How connections are made.
pub(super) struct Reach {
    pub settings: Settings,
    pub tls: Option<Arc<ClientConfig>>,
    refusals: sync::Mutex<Refusals>,
    /// Whether the edge's own account was accepted when it was last tried.
    is_accepted: AtomicBool,
}

/// How often the edge's own account was refused.
#[derive(Default)]
struct Refusals {
    /// Since it was last accepted, by whatever server.
    in_a_row: u32,
    /// When and how.
    last: Option<(Instant, DirectoryError)>,
}

impl Reach {
    pub(super) fn new(settings: Settings, tls: Option<Arc<ClientConfig>>) -> Self {
        Reach { settings, tls, refusals: sync::Mutex::default(), is_accepted: AtomicBool::new(false) }
    }

    /// A connection that searches can be made on.
    pub(super) async fn open(&self, place: &Place, holds: Holds) -> Result<Link, DirectoryError> {
        let after = self.settings.connect_timeout;
        timeout(after, self.open_bound(place, holds)).await.unwrap_or_else(|_| Err(no_connection(place, after)))
    }

    async fn open_bound(&self, place: &Place, holds: Holds) -> Result<Link, DirectoryError> {
        let mut ldap = self.connect(place).await?;
        self.sign_in(&mut ldap, place).await?;
        let Settings { users_base, configuration_base, .. } = &self.settings;
        let whole_forest = (holds == Holds::Forest).then(String::new);
        let users_base = &users_base.clone().or(whole_forest);
        let root = if users_base.is_some() && configuration_base.is_some() {
            Record::new("")
        } else {
            let read = root_dse(&mut ldap, &[DEFAULT_NAMING_CONTEXT, CONFIGURATION_NAMING_CONTEXT]).await;
            read.map_err(|error| failure(place.url.as_str(), "reading its root DSE", error))?
        };
        let base =
            |configured: &Option<String>, attribute| configured.as_deref().or(root.text(attribute)).map(Arc::from);
        Ok(Link {
            users_base: base(users_base, DEFAULT_NAMING_CONTEXT),
            configuration_base: base(configuration_base, CONFIGURATION_NAMING_CONTEXT),
            certificate: ldap.get_peer_certificate().await.ok().flatten().map(Arc::from),
            ldap,
            opened: Instant::now(),
            overrun: Arc::default(),
            server: place.url.as_str().into(),
        })
    }

    /// What a bind as this DN with this password says, on a connection of its own.
    pub(super) async fn bind_as(&self, place: &Place, dn: &str, password: &str) -> Result<Verdict, Failure> {
        let mut ldap = self.connect(place).await.map_err(Failure::Broken)?;
        let after = self.settings.search_timeout;
        // From here on the server may have counted a wrong password, so nothing but its answer is `Broken`.
        match timeout(after, ldap.simple_bind(dn, password)).await {
            Ok(Ok(result)) => match result.rc {
                SUCCESS => Ok(Verdict::Right),
                INVALID_CREDENTIALS => Ok(verdict::of_refusal(&result.text)),
                BUSY | UNAVAILABLE => Err(Failure::Broken(answered(place, BIND_AS, result))),
                _ => Err(Failure::Refused(answered(place, BIND_AS, result))),
            },
            Ok(Err(error)) => {
                let operation = format!("{BIND_AS} (the connection broke: {error})");
                Err(Failure::Silent(DirectoryError::TimedOut { operation, after }))
            }
            Err(_) => Err(Failure::Silent(DirectoryError::TimedOut { operation: BIND_AS.to_owned(), after })),
        }
    }

    /// Signs in, unless the account was refused a while ago by one server after the other: whoever has mistyped its password
    /// would soon find it locked, were it tried at each server of the forest, and again and again. A single server may only
    /// have an old password. While the last attempt was refused there is one at a time.
    async fn sign_in(&self, ldap: &mut Ldap, place: &Place) -> Result<(), DirectoryError> {
        if self.is_accepted.load(Ordering::Relaxed) {
            let result = self.bind(ldap, place).await;
            self.note(&mut *self.refusals.lock().await, &result);
            return result.map_err(|(error, _)| error);
        }
        let mut refusals = self.refusals.lock().await;
        if let Some((since, error)) = &refusals.last
            && refusals.in_a_row >= REFUSALS_MAX
            && since.elapsed() < REFUSED_PAUSE
        {
            return Err(repeated(error));
        }
        let result = self.bind(ldap, place).await;
        self.note(&mut refusals, &result);
        result.map_err(|(error, _)| error)
    }

    fn note(&self, refusals: &mut Refusals, result: &Result<(), (DirectoryError, Refused)>) {
        match result {
            Ok(()) => {
                self.is_accepted.store(true, Ordering::Relaxed);
                refusals.in_a_row = 0;
            }
            Err((error, Refused(true))) => {
                self.is_accepted.store(false, Ordering::Relaxed);
                refusals.in_a_row = refusals.in_a_row.saturating_add(1);
                refusals.last = Some((Instant::now(), repeated(error)));
            }
            Err((_, Refused(false))) => {}
        }
    }

    async fn bind(&self, ldap: &mut Ldap, place: &Place) -> Result<(), (DirectoryError, Refused)> {
        match &self.settings.account {
            Account::Anonymous => Ok(()),
            Account::Password { dn, password } => {
                let password = std::str::from_utf8(password.expose()).unwrap_or_default(); // checked by `Settings::prepared`
                let result = ldap.simple_bind(dn, password).await.and_then(ldap3::LdapResult::success);
                let operation = format!("the bind as `{dn}`");
                result.map(drop).map_err(|error| {
                    let refused =
                        matches!(&error, LdapError::LdapResult { result } if result.rc == INVALID_CREDENTIALS);
                    (failure(place.url.as_str(), &operation, error), Refused(refused))
                })
            }
            #[cfg(feature = "gssapi")]
            Account::Keytab(_) => {
                let host = place.url.host_str().unwrap_or_default();
                super::gssapi::bind(ldap, host, self.settings.connect_timeout).await.map_err(|source| {
                    // Kerberos itself has looked at the key; a server never sees one that is wrong.
                    let refused = matches!(source, super::gssapi::SignInError::Kerberos { .. });
                    let (server, source) = (place.url.to_string(), Box::new(source));
                    (DirectoryError::Unreachable { server, source }, Refused(refused))
                })
            }
            #[cfg(not(feature = "gssapi"))]
            Account::Keytab(_) => {
                let (place, problem) =
                    ("bind_keytab".to_owned(), "firstcas was built without the feature gssapi".to_owned());
                Err((DirectoryError::Unusable { place, problem }, Refused(false)))
            }
        }
    }

    /// An unbound connection; it closes when the last handle to it is dropped.
    async fn connect(&self, place: &Place) -> Result<Ldap, DirectoryError> {
        let after = self.settings.connect_timeout;
        let connecting = async {
            let mut settings = LdapConnSettings::new().set_starttls(self.settings.start_tls);
            if let Some(tls) = &self.tls {
                settings = settings.set_config(tls.clone());
            }
            let stream = tcp(place, after).await?.into_std()?;
            LdapConnAsync::from_url_with_settings(settings.set_std_stream(StdStream::Tcp(stream)), &place.url).await
        };
        let (connection, ldap) =
            timeout(after, connecting).await.map_err(|_| no_connection(place, after))?.map_err(|source| {
                DirectoryError::Unreachable { server: place.url.to_string(), source: Box::new(source) }
            })?;
        let server = place.url.clone();
        tokio::spawn(async move {
            if let Err(error) = connection.drive().await {
                log::debug!("the connection to {server} broke: {error}");
            }
        });
        Ok(ldap)
    }
}

impl Link {
    /// Whether the connection is of no use any more.
    pub(super) fn is_spent(&mut self) -> bool {
        self.ldap.is_closed() || self.opened.elapsed() > LINK_AGE_MAX || self.overrun.load(Ordering::Relaxed)
    }

    pub(super) fn is(&self, other: &Link) -> bool {
        self.opened == other.opened
    }

    /// The records that a search finds.
    pub(super) async fn search(&mut self, search: &Search<'_>, patience: Duration) -> Result<Vec<Record>, Failure> {
        // Another server may know what this one does not say.
        let base = self.base(search.base).map_err(Failure::Broken)?;
        let (server, operation) = (&self.server.clone(), search.operation);
        answer(server, operation, patience, self.run(search, &base, patience)).await
    }

    /// Some attributes of the server's root entry.
    pub(super) async fn root(&mut self, attributes: &[&'static str], patience: Duration) -> Result<Record, Failure> {
        let root = root_dse(&mut self.ldap, attributes);
        answer(&self.server, "reading its root DSE", patience, root).await
    }

    fn base(&self, base: Base<'_>) -> Result<Arc<str>, DirectoryError> {
        let known = |base: &Option<Arc<str>>, attribute, setting| {
            base.clone().ok_or_else(|| DirectoryError::Unusable {
                place: self.server.to_string(),
                problem: format!("its root DSE has no {attribute}, so {setting} must be configured"),
            })
        };
        let users = || known(&self.users_base, DEFAULT_NAMING_CONTEXT, "users_base");
        match base {
            Base::Users => users(),
            Base::Domain(naming_context) => match &self.users_base {
                // Whoever narrowed the users' base meant it for logon names too.
                Some(users) if is_within(&fold_dn(users), &fold_dn(naming_context)) => Ok(users.clone()),
                Some(_) | None => Ok(naming_context.into()),
            },
            Base::Configuration => known(&self.configuration_base, CONFIGURATION_NAMING_CONTEXT, "configuration_base"),
        }
    }

    async fn run(&self, search: &Search<'_>, base: &str, patience: Duration) -> Result<Vec<Record>, LdapError> {
        let mut ldap = self.ldap.clone();
        // References to other servers are left out: following them would let the directory send the edge, and the bind
        // account's password with it, to addresses that nobody configured.
        let mut adapters: Vec<Box<dyn Adapter<'_, &str, &[&str]>>> = vec![Box::new(EntriesOnly::new())];
        let most = match search.size {
            Size::AtMost(most) => {
                ldap.with_search_options(SearchOptions::new().sizelimit(i32::try_from(most).unwrap_or(i32::MAX)));
                most
            }
            Size::AllUpTo(limit) => {
                adapters.push(Box::new(PagedResults::new(PAGE_RECORDS)));
                limit.saturating_add(1)
            }
        };
        ldap.with_timeout(patience);
        let mut stream =
            ldap.streaming_search_with(adapters, base, Scope::Subtree, &search.filter, search.attributes).await?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some(entry) = stream.next().await? {
            if records.len() == most {
                self.overrun.store(true, Ordering::Relaxed);
                break;
            }
            if let Some(record) = record(entry) {
                bytes += size_of_record(&record);
                records.push(record);
            }
            if bytes > ANSWER_BYTES_MAX {
                self.overrun.store(true, Ordering::Relaxed);
                return Err(io::Error::other("its answer is larger than any could be").into());
            }
        }
        let result = stream.finish().await;
        match result.rc {
            SUCCESS => Ok(records),
            // The limit that was asked for. At one of its own, the server has left out what was not seen: no answer.
            SIZE_LIMIT_EXCEEDED | USER_CANCELLED if records.len() >= most => Ok(records),
            _ => Err(LdapError::LdapResult { result }),
        }
    }
}

/// Each address in turn, each with its share of the time: one may be that of a network that the edge cannot reach.
async fn tcp(place: &Place, patience: Duration) -> Result<TcpStream, LdapError> {
    let mut addresses = place.addresses.clone();
    if addresses.is_empty() {
        let host = place.url.host_str().unwrap_or_default();
        let port = place.url.port().unwrap_or(if place.url.scheme() == "ldaps" { LDAPS_PORT } else { LDAP_PORT });
        addresses.extend(lookup_host((host.trim_matches(['[', ']']), port)).await?.take(ADDRESSES_MAX));
    }
    let share = patience / u32::try_from(addresses.len()).unwrap_or(u32::MAX).max(1);
    let mut last = std::io::Error::other("its name has no address");
    for address in addresses {
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => last = std::io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last.into())
}

/// Roughly what it takes in memory.
fn size_of_record(record: &Record) -> usize {
    let of_values = |values: &[Vec<u8>]| values.iter().map(|value| size_of::<Vec<u8>>() + value.len()).sum::<usize>();
    size_of::<Record>()
        + record.dn.len()
        + record.attributes().map(|(name, values)| name.len() + of_values(values)).sum::<usize>()
}

/// What a server answers, whatever it answers.
async fn answer<T>(
    server: &str,
    operation: &str,
    patience: Duration,
    question: impl Future<Output = Result<T, LdapError>>,
) -> Result<T, Failure> {
    // The LDAP library panics at some answers that are not LDAP, in the task that asked.
    match timeout(patience, AssertUnwindSafe(question).catch_unwind()).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(LdapError::Timeout { .. }))) | Err(_) => {
            Err(Failure::Silent(DirectoryError::TimedOut { operation: operation.to_owned(), after: patience }))
        }
        Ok(Ok(Err(error))) => {
            let refused =
                matches!(&error, LdapError::LdapResult { result } if !matches!(result.rc, BUSY | UNAVAILABLE));
            let error = failure(server, operation, error);
            Err(if refused { Failure::Refused(error) } else { Failure::Broken(error) })
        }
        Ok(Err(_)) => Err(Failure::Broken(not_ldap(server))),
    }
}

async fn root_dse(ldap: &mut Ldap, attributes: &[&'static str]) -> Result<Record, LdapError> {
    let mut stream = ldap.streaming_search("", Scope::Base, "(objectClass=*)", attributes.to_vec()).await?;
    let root = stream.next().await?;
    if root.is_some() && stream.next().await?.is_some() {
        return Err(io::Error::other("it has more than one root DSE").into());
    }
    stream.finish().await.success()?;
    Ok(root.and_then(record).unwrap_or_else(|| Record::new("")))
}

/// For a server whose answer the LDAP library could not read.
pub(super) fn not_ldap(server: &str) -> DirectoryError {
    DirectoryError::Unreachable { server: server.to_owned(), source: "its answer is not LDAP".into() }
}

fn no_connection(place: &Place, after: Duration) -> DirectoryError {
    let source = format!("no connection within {} ms", after.as_millis()).into();
    DirectoryError::Unreachable { server: place.url.to_string(), source }
}

fn answered(place: &Place, operation: &str, result: ldap3::LdapResult) -> DirectoryError {
    failure(place.url.as_str(), operation, LdapError::LdapResult { result })
}

fn failure(server: &str, operation: &str, error: LdapError) -> DirectoryError {
    if let LdapError::LdapResult { result } = &error {
        let unusable = |problem| DirectoryError::Unusable { place: server.to_owned(), problem };
        match result.rc {
            SIZE_LIMIT_EXCEEDED | ADMIN_LIMIT_EXCEEDED => {
                return unusable(format!(
                    "a size limit of the server's own cut off {operation}, so entries are missing; raise that limit for \
                     the bind account (OpenLDAP: `limits` with size.prtotal=unlimited)"
                ));
            }
            // Of Kerberos within TLS the sign-in has its own words.
            STRONGER_AUTH_REQUIRED => {
                return unusable(format!(
                    "it refused {operation} without TLS ({}); write ldaps:// or start_tls = true",
                    result.text
                ));
            }
            REFERRAL => {
                return unusable(format!(
                    "it does not hold what {operation} asked for, and refers to another server, which is not followed; \
                     name global catalogs, or a server that holds it"
                ));
            }
            _ => {}
        }
    }
    let is_answer = matches!(&error, LdapError::LdapResult { result } if !matches!(result.rc, BUSY | UNAVAILABLE));
    if is_answer || matches!(error, LdapError::FilterParsing | LdapError::AdapterInit(_)) {
        DirectoryError::Rejected { operation: operation.to_owned(), source: Box::new(error) }
    } else {
        DirectoryError::Unreachable { server: server.to_owned(), source: Box::new(error) }
    }
}

/// After so many refusals in a row the account is not tried again ...
const REFUSALS_MAX: u32 = 2;
/// ... for so long; nor is it, for so long, at a server that has refused it. So a mistyped password is tried seven times in
/// half an hour.
pub(super) const REFUSED_PAUSE: Duration = Duration::from_secs(5 * 60);
const ADDRESSES_MAX: usize = 8;
/// Active Directory closes connections after 15 idle minutes, and the LDAP library keeps a few bytes of every search
/// for as long as its connection lives.
const LINK_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Larger than everything that is read of any Exchange organisation.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Half of what Active Directory's default policy (`MaxPageSize` 1000) allows.
const PAGE_RECORDS: i32 = 500;
const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;
const DEFAULT_NAMING_CONTEXT: &str = "defaultNamingContext";
const CONFIGURATION_NAMING_CONTEXT: &str = "configurationNamingContext";
const BIND_AS: &str = "a bind to verify a password";

// RFC 4511 section 4.1.9 and appendix A.
const SUCCESS: u32 = 0;
const SIZE_LIMIT_EXCEEDED: u32 = 4;
const STRONGER_AUTH_REQUIRED: u32 = 8;
const REFERRAL: u32 = 10;
const ADMIN_LIMIT_EXCEEDED: u32 = 11;
const INVALID_CREDENTIALS: u32 = 49;
const BUSY: u32 = 51;
const UNAVAILABLE: u32 = 52;
/// The library's own: the stream was finished before its end.
const USER_CANCELLED: u32 = 88;
