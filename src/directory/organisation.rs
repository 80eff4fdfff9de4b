//! The one implementation of [`Directory`]: the questions are asked and the answers decoded here, whatever the source.

use std::{
    borrow::Cow,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::{
    Changes, Directory, DirectoryError, Entry, Oddity, TopologyReading, ldap, ldif,
    schema::{self, Domain, Record, VIRTUAL_DIRECTORY_CLASSES, attribute, class},
};
use crate::{identity::MailboxName, routing::topology::TopologyParts, secret::Secret};

/// An organisation's directory. Made by [`ldif::open`] and [`ldap::open`].
pub struct Organisation {
    source: Source,
    domains: Mutex<KnownDomains>,
}

/// Where records come from.
pub(super) enum Source {
    /// A file in memory.
    Ldif(ldif::Records),
    /// LDAP servers.
    Ldap(Box<ldap::Servers>),
}

/// Matches the records that have at least one of these values. Rendered as a filter, or looked up in an index.
pub(super) struct AnyOf(Vec<(&'static str, Vec<u8>)>);

#[derive(Default)]
struct KnownDomains {
    domains: Vec<Domain>,
    read_at: Option<Instant>,
}

#[async_trait]
impl Directory for Organisation {
    async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
        let virtual_directories = VIRTUAL_DIRECTORY_CLASSES.iter().map(|(class, _, _)| *class);
        let classes: Vec<_> = class::OF_TOPOLOGY.iter().copied().chain(virtual_directories).collect();
        let reading = schema::topology(&self.source.configuration(&classes, attribute::OF_TOPOLOGY).await?);
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

    async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
        match name {
            MailboxName::Address(address) => self.only(name, None, AnyOf::address(address)).await,
            MailboxName::Account { domain, account } => match self.domain(domain).await? {
                Some(domain) => self.only(name, Some(&domain), AnyOf::one(attribute::SAM_ACCOUNT_NAME, account)).await,
                None => Ok(None),
            },
            MailboxName::Bare(bare) => {
                match self.only(name, None, AnyOf::one(attribute::SAM_ACCOUNT_NAME, bare)).await? {
                    Some(entry) => Ok(Some(entry)),
                    None => self.only(name, None, AnyOf::one(attribute::MAIL_NICKNAME, bare)).await,
                }
            }
            MailboxName::Guid(guid) => {
                let stored = schema::guid_as_stored(*guid);
                self.only(name, None, AnyOf(vec![(attribute::MAILBOX_GUID, stored.to_vec())])).await
            }
        }
    }

    async fn verify(&self, entry: &Entry, password: &Secret) -> Result<bool, DirectoryError> {
        // RFC 4513 section 5.1.2: a bind with an empty password succeeds, and proves nothing.
        if password.expose().is_empty() || entry.dn.is_empty() {
            return Ok(false);
        }
        let password = as_text(password);
        match &self.source {
            Source::Ldif(records) => records.check_password(&entry.dn, &password),
            Source::Ldap(servers) => servers.bind_as(&entry.dn, &password).await,
        }
    }

    async fn changes(&self) -> Result<Changes, DirectoryError> {
        Ok(Changes::default())
    }
}

impl Organisation {
    pub(super) fn new(source: Source) -> Self {
        Organisation { source, domains: Mutex::default() }
    }

    /// People whose mailbox is on no server of the topology, and names that several share. `None` where that would take reading everybody from LDAP.
    pub fn people_oddities(&self, parts: &TopologyParts) -> Option<Vec<Oddity>> {
        match &self.source {
            Source::Ldif(records) => Some(schema::people_oddities(records.all(), parts)),
            Source::Ldap(_) => None,
        }
    }

    /// Everybody who has a mailbox or an address, and the domains of the forest: what
    /// [`people_oddities`](schema::people_oddities) looks at. Reads the whole directory.
    pub async fn everybody(&self) -> Result<Vec<Record>, DirectoryError> {
        match &self.source {
            Source::Ldif(records) => Ok(records.all().to_vec()),
            Source::Ldap(servers) => {
                let mut records = servers.everybody().await?;
                records.extend(servers.configuration(&[class::CROSS_REF], attribute::OF_DOMAINS).await?);
                Ok(records)
            }
        }
    }

    /// The one entry that is meant ([`schema::meant`]) by these values, in a domain or anywhere.
    async fn only(
        &self,
        name: &MailboxName,
        domain: Option<&Domain>,
        any_of: AnyOf,
    ) -> Result<Option<Entry>, DirectoryError> {
        if any_of.equalities().iter().any(|(_, value)| value.is_empty()) {
            return Ok(None);
        }
        let mut records = self.source.people(domain, &any_of).await?;
        records.retain(|record| domain.is_none_or(|domain| domain.holds(&record.dn)));
        if records.is_empty() {
            return Ok(None);
        }
        if let Some(record) = schema::meant(&records.iter().collect::<Vec<_>>()) {
            return Ok(Some(schema::entry(record)));
        }
        let mut dns: Vec<_> = records.into_iter().map(|record| record.dn).collect();
        dns.sort();
        Err(DirectoryError::Ambiguous { name: name.clone(), dns })
    }

    /// The domain of that `NetBIOS` or DNS name. An unknown name makes the domains be read again, but not for every
    /// request of somebody who guesses names.
    async fn domain(&self, name: &str) -> Result<Option<Domain>, DirectoryError> {
        let name = name.to_lowercase();
        {
            let known = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
            let found = domain_in(&known.domains, &name);
            let fresh = known.read_at.is_some_and(|read_at| read_at.elapsed() < DOMAINS_REREAD_INTERVAL);
            if found.is_some() || fresh {
                return Ok(found);
            }
        }
        let domains = schema::domains(&self.source.configuration(&[class::CROSS_REF], attribute::OF_DOMAINS).await?);
        let found = domain_in(&domains, &name);
        *self.domains.lock().unwrap_or_else(PoisonError::into_inner) =
            KnownDomains { domains, read_at: Some(Instant::now()) };
        Ok(found)
    }
}

impl Source {
    /// One more than can be told apart, so that too many are seen to be too many; and one for each child domain, whose
    /// accounts a search of the parent may find too.
    async fn people(&self, domain: Option<&Domain>, any_of: &AnyOf) -> Result<Vec<Record>, DirectoryError> {
        let base = domain.map(|domain| domain.naming_context.as_str());
        let limit = schema::MATCHES_MAX + 1 + domain.map_or(0, |domain| domain.children.len());
        match self {
            Source::Ldif(records) => Ok(records.matching(base, any_of, limit)),
            Source::Ldap(servers) => servers.people(base, any_of, limit).await,
        }
    }

    async fn configuration(
        &self,
        classes: &[&str],
        attributes: &'static [&'static str],
    ) -> Result<Vec<Record>, DirectoryError> {
        match self {
            Source::Ldif(records) => Ok(records.of_classes(classes)),
            Source::Ldap(servers) => servers.configuration(classes, attributes).await,
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
    pub(super) fn one(attribute: &'static str, value: &str) -> Self {
        AnyOf(vec![(attribute, value.as_bytes().to_vec())])
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

fn domain_in(domains: &[Domain], name: &str) -> Option<Domain> {
    domains.iter().find(|domain| domain.names.iter().any(|own| own == name)).cloned()
}

/// RFC 4513 wants UTF-8; browsers and devices also send Latin-1 (RFC 7617 section 2.1), told by not being UTF-8.
fn as_text(password: &Secret) -> Cow<'_, str> {
    match std::str::from_utf8(password.expose()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(password.expose().iter().copied().map(char::from).collect()),
    }
}

/// A new domain is a rare event, a mistyped one is not.
const DOMAINS_REREAD_INTERVAL: Duration = Duration::from_secs(10);
