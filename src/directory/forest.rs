//! One forest: its source of records, and what is asked of it whatever the source.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync;

use super::{
    Changed, Changes, DirectoryError, ServerState, TopologyReading, Verdict, ldap, ldif,
    schema::{self, Domain, Record, attribute, class},
};
use crate::identity::MailboxName;

/// A forest.
pub(super) struct Forest {
    source: Source,
    domains: Mutex<KnownDomains>,
    reading_domains: sync::Mutex<()>,
}

/// Where records come from.
pub(super) enum Source {
    /// A file in memory.
    Ldif(ldif::Records),
    /// LDAP servers.
    Ldap(Arc<ldap::Servers>),
}

/// Matches the records that have at least one of these values. Rendered as a filter, or looked up in an index.
pub(super) struct AnyOf(Vec<(&'static str, Vec<u8>)>);

#[derive(Default)]
struct KnownDomains {
    read: Option<Arc<Vec<Domain>>>,
    /// When the directory was last asked for them, with or without an answer.
    asked_at: Option<Instant>,
}

impl Forest {
    pub(super) fn new(source: Source) -> Self {
        Forest { source, domains: Mutex::default(), reading_domains: sync::Mutex::default() }
    }

    /// How its servers have answered so far.
    pub(super) fn servers(&self) -> Vec<ServerState> {
        match &self.source {
            Source::Ldif(_) => Vec::new(),
            Source::Ldap(servers) => servers.states(),
        }
    }

    /// The organisation as the configuration container has it.
    pub(super) async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
        let classes = schema::topology_classes();
        let reading =
            schema::topology(&self.source.configuration(&classes, attribute::OF_TOPOLOGY, TOPOLOGY_PATIENCE).await?);
        // An account without rights, or a wrong base, is answered with an empty success. It must not pass for a topology.
        if reading.parts.servers.is_empty() {
            return Err(DirectoryError::Unusable {
                place: self.source.place(),
                problem: "no Exchange server is in its configuration container; mend configuration_base, or let the \
                          bind account read it"
                    .to_owned(),
            });
        }
        Ok(reading)
    }

    /// The one entry that is meant ([`schema::meant`]) by a name, with these attributes.
    pub(super) async fn find(
        &self,
        name: &MailboxName,
        attributes: &'static [&'static str],
    ) -> Result<Option<Record>, DirectoryError> {
        let only = async |domain, any_of| self.only(name, domain, any_of, attributes).await;
        match name {
            MailboxName::Address(address) => only(None, AnyOf::address(address)).await,
            MailboxName::Account { domain, account } => match self.domain(domain).await? {
                Some(domain) => only(Some(&domain), AnyOf::text(attribute::SAM_ACCOUNT_NAME, account)).await,
                None => Ok(None),
            },
            MailboxName::Bare(bare) => match only(None, AnyOf::text(attribute::SAM_ACCOUNT_NAME, bare)).await? {
                Some(record) => Ok(Some(record)),
                None => only(None, AnyOf::text(attribute::MAIL_NICKNAME, bare)).await,
            },
            MailboxName::Guid(guid) => {
                only(None, AnyOf::bytes(attribute::MAILBOX_GUID, &schema::guid_as_stored(*guid))).await
            }
        }
    }

    /// The one entry that is meant by this value, in a domain or anywhere. `name` is for the error.
    pub(super) async fn only(
        &self,
        name: &MailboxName,
        domain: Option<&Domain>,
        any_of: AnyOf,
        attributes: &'static [&'static str],
    ) -> Result<Option<Record>, DirectoryError> {
        if any_of.equalities().iter().any(|(_, value)| value.is_empty()) {
            return Ok(None);
        }
        let mut records = self.source.people(domain, &any_of, attributes).await?;
        records.retain(|record| domain.is_none_or(|domain| domain.holds(&record.dn)));
        if records.is_empty() {
            return Ok(None);
        }
        if let Some(record) = schema::meant(&records.iter().collect::<Vec<_>>()) {
            return Ok(Some(record.clone()));
        }
        let mut dns: Vec<_> = records.into_iter().map(|record| record.dn).collect();
        dns.sort();
        Err(DirectoryError::Ambiguous { name: name.clone(), dns })
    }

    /// Whether this is the password of the person with that DN.
    pub(super) async fn verify(&self, dn: &str, password: &str) -> Result<Verdict, DirectoryError> {
        match &self.source {
            Source::Ldif(records) => {
                Ok(if records.check_password(dn, password)? { Verdict::Right } else { Verdict::Wrong })
            }
            Source::Ldap(servers) => servers.bind_as(dn, password).await,
        }
    }

    /// What has changed since the last call.
    pub(super) async fn changes(&self) -> Result<Changes, DirectoryError> {
        // Before anything counts as seen.
        let domains = self.domains().await?;
        let news = match &self.source {
            Source::Ldif(records) => records.news()?,
            Source::Ldap(servers) => servers.news().await?,
        };
        let people: Vec<Changed> = news.people.iter().map(|record| schema::changed(record, &domains)).collect();
        Ok(Changes { people, may_have_missed: news.may_have_missed, topology: news.topology })
    }

    /// Everybody who has a mailbox or an address, and the domains.
    pub(super) async fn everybody(&self) -> Result<Vec<Record>, DirectoryError> {
        match &self.source {
            Source::Ldif(records) => Ok(records.all().to_vec()),
            Source::Ldap(servers) => {
                let mut records = servers.everybody().await?;
                records.extend(servers.configuration(&[class::CROSS_REF], attribute::OF_DOMAINS, 1).await?);
                Ok(records)
            }
        }
    }

    /// The accounts that have a service of that host, a few of many; `None` for a file, which has none.
    pub(super) async fn accounts_of_host(&self, host: &str) -> Result<Option<Vec<Record>>, DirectoryError> {
        match &self.source {
            Source::Ldif(_) => Ok(None),
            Source::Ldap(servers) => {
                let name = |class: &str| (attribute::SERVICE_PRINCIPAL_NAME, format!("{class}/{host}").into_bytes());
                let any_of = AnyOf(vec![name("HTTP"), name("HOST")]);
                servers.people(None, &any_of, attribute::OF_SERVICES, ACCOUNTS_OF_HOST_MAX).await.map(Some)
            }
        }
    }

    /// Every record of a file; `None` for servers.
    pub(super) fn all(&self) -> Option<Arc<Vec<Record>>> {
        match &self.source {
            Source::Ldif(records) => Some(records.all()),
            Source::Ldap(_) => None,
        }
    }

    async fn domains(&self) -> Result<Arc<Vec<Domain>>, DirectoryError> {
        let known = self.domains.lock().read.clone();
        match known {
            Some(domains) => Ok(domains),
            None => self.read_domains().await,
        }
    }

    async fn read_domains(&self) -> Result<Arc<Vec<Domain>>, DirectoryError> {
        self.domains.lock().asked_at = Some(Instant::now());
        let read = self.source.configuration(&[class::CROSS_REF], attribute::OF_DOMAINS, 1);
        let domains = Arc::new(schema::domains(&read.await?));
        self.domains.lock().read = Some(domains.clone());
        Ok(domains)
    }

    /// The domain of that `NetBIOS` or DNS name. An unknown name makes the domains be read again, by one request for all
    /// that wait, and not for every one of somebody who guesses names.
    async fn domain(&self, name: &str) -> Result<Option<Domain>, DirectoryError> {
        let name = name.to_lowercase();
        if self.domains.lock().is_to_be_read(&name) {
            let _turn = self.reading_domains.lock().await;
            let is_still = self.domains.lock().is_to_be_read(&name);
            if is_still {
                self.read_domains().await?;
            }
        }
        Ok(self.domains.lock().find(&name).cloned())
    }
}

impl KnownDomains {
    fn find(&self, name: &str) -> Option<&Domain> {
        self.read.as_ref()?.iter().find(|domain| domain.names.iter().any(|own| own == name))
    }

    /// Whether a name is unknown that may have become one since.
    fn is_to_be_read(&self, name: &str) -> bool {
        let asked_lately = self.asked_at.is_some_and(|asked_at| asked_at.elapsed() < DOMAINS_REREAD_INTERVAL);
        self.find(name).is_none() && !(self.read.is_some() && asked_lately)
    }
}

impl Source {
    /// One more than can be told apart, so that too many are seen to be too many; and one for each child domain, whose
    /// accounts a search of the parent may find too.
    async fn people(
        &self,
        domain: Option<&Domain>,
        any_of: &AnyOf,
        attributes: &'static [&'static str],
    ) -> Result<Vec<Record>, DirectoryError> {
        let base = domain.map(|domain| domain.naming_context.as_str());
        let limit = schema::MATCHES_MAX + 1 + domain.map_or(0, |domain| domain.children.len());
        match self {
            Source::Ldif(records) => Ok(records.matching(base, any_of, limit)),
            Source::Ldap(servers) => servers.people(base, any_of, attributes, limit).await,
        }
    }

    async fn configuration(
        &self,
        classes: &[&str],
        attributes: &'static [&'static str],
        patience: u32,
    ) -> Result<Vec<Record>, DirectoryError> {
        match self {
            Source::Ldif(records) => Ok(records.of_classes(classes)),
            Source::Ldap(servers) => servers.configuration(classes, attributes, patience).await,
        }
    }

    fn place(&self) -> String {
        match self {
            Source::Ldif(records) => records.place(),
            Source::Ldap(servers) => servers.place(),
        }
    }
}

impl AnyOf {
    pub(super) fn text(attribute: &'static str, value: &str) -> Self {
        AnyOf::bytes(attribute, value.as_bytes())
    }

    pub(super) fn bytes(attribute: &'static str, value: &[u8]) -> Self {
        AnyOf(vec![(attribute, value.to_vec())])
    }

    /// A user principal name or SMTP address. Not `mail`: anybody may write anything there, such as administrators the
    /// address of their everyday account.
    pub(super) fn address(address: &str) -> Self {
        let bytes = address.as_bytes().to_vec();
        let smtp = if bytes.is_empty() { Vec::new() } else { [b"smtp:", address.as_bytes()].concat() };
        AnyOf(vec![(attribute::USER_PRINCIPAL_NAME, bytes), (attribute::PROXY_ADDRESSES, smtp)])
    }

    pub(super) fn equalities(&self) -> &[(&'static str, Vec<u8>)] {
        &self.0
    }
}

/// What a source says has changed.
#[derive(Default)]
pub(super) struct News {
    /// People whose records are new or were changed.
    pub people: Vec<Record>,
    /// There may be more changes.
    pub may_have_missed: bool,
    /// Something in the configuration container was changed.
    pub topology: bool,
}

/// The topology may take so many times the time of a single search.
const TOPOLOGY_PATIENCE: u32 = 10;
/// More than one of a kind is too many.
const ACCOUNTS_OF_HOST_MAX: usize = 8;
/// A new domain is a rare event, a mistyped one is not.
const DOMAINS_REREAD_INTERVAL: Duration = Duration::from_secs(10);
