//! The attribute names of Active Directory and Exchange, and what their values mean.
//!
//! Decodes [`Record`]s, whatever source they come from. Nothing here is fatal: a value that cannot be used is left out
//! and reported as an [`Oddity`], so that one bad object never takes the rest of the organisation down.
//!
//! Facts: [MS-ADTS], [MS-ADA1..3] and the tables of `exchange.md`, sections 2.3 and 3.

use std::collections::{BTreeMap, HashMap, HashSet};

use ipnet::IpNet;
use url::Url;

use super::{Changed, Entry, EntryId, Oddity, Sid, TopologyReading};
use crate::{
    identity::MailboxName,
    routing::{
        mailbox::Mailbox,
        protocol::VirtualDirectoryKind,
        topology::{AuthenticationMethods, Server, SiteLink, TopologyParts, VirtualDirectory},
        version::{Generation, Version},
    },
};

/// Attribute names, as Active Directory spells them.
pub mod attribute {
    /// Classes of an object, from `top` to the most specific.
    pub const OBJECT_CLASS: &str = "objectClass";
    /// Common name.
    pub const CN: &str = "cn";

    /// User principal name, `ana@contoso.com`.
    pub const USER_PRINCIPAL_NAME: &str = "userPrincipalName";
    /// Logon name, unique in its domain.
    pub const SAM_ACCOUNT_NAME: &str = "sAMAccountName";
    /// Every address: `SMTP:` primary, `smtp:` others, `X500:`, `EUM:` ...
    pub const PROXY_ADDRESSES: &str = "proxyAddresses";
    /// The Exchange alias.
    pub const MAIL_NICKNAME: &str = "mailNickname";
    /// 16 bytes, see [`guid_as_stored`](super::guid_as_stored).
    pub const MAILBOX_GUID: &str = "msExchMailboxGuid";
    /// DN of the mailbox database.
    pub const HOME_MDB: &str = "homeMDB";
    /// `legacyExchangeDN` of the mailbox server, a string.
    pub const HOME_SERVER_NAME: &str = "msExchHomeServerName";
    /// Linked mailbox: the SID of the account of another forest.
    pub const MASTER_ACCOUNT_SID: &str = "msExchMasterAccountSid";
    /// Services that an account's key opens tickets for, such as `HTTP/cas-opo-1.contoso.com`.
    pub const SERVICE_PRINCIPAL_NAME: &str = "servicePrincipalName";
    /// SID of an account.
    pub const OBJECT_SID: &str = "objectSid";
    /// 16 bytes that no change changes, in Active Directory.
    pub const OBJECT_GUID: &str = "objectGUID";
    /// The same in `OpenLDAP` (RFC 4530), as text.
    pub const ENTRY_UUID: &str = "entryUUID";
    /// `OpenLDAP`'s stored password hash; Active Directory never shows one.
    pub const USER_PASSWORD: &str = "userPassword";

    /// X.500-like name that Exchange knows an object by.
    pub const LEGACY_EXCHANGE_DN: &str = "legacyExchangeDN";
    /// `ncacn_ip_tcp:<fully qualified name>` and others.
    pub const NETWORK_ADDRESS: &str = "networkAddress";
    /// Packed build number, see [`Version::from_version_number`](crate::routing::version::Version).
    pub const VERSION_NUMBER: &str = "versionNumber";
    /// Bit mask of server roles.
    pub const SERVER_ROLES: &str = "msExchCurrentServerRoles";
    /// DN of a server's site.
    pub const SERVER_SITE: &str = "msExchServerSite";
    /// DN of the server a database is on.
    pub const OWNING_SERVER: &str = "msExchOwningServer";
    /// `InternalURL`, despite its name.
    pub const INTERNAL_HOST_NAME: &str = "msExchInternalHostName";
    /// `ExternalURL`, despite its name.
    pub const EXTERNAL_HOST_NAME: &str = "msExchExternalHostName";
    /// Bit mask of authentication methods.
    pub const INTERNAL_AUTHENTICATION: &str = "msExchInternalAuthenticationMethods";

    /// DN of a subnet's site.
    pub const SITE_OBJECT: &str = "siteObject";
    /// DNs of a link's sites.
    pub const SITE_LIST: &str = "siteList";
    /// Cost of a link.
    pub const COST: &str = "cost";

    /// `NetBIOS` name of a domain.
    pub const NETBIOS_NAME: &str = "nETBIOSName";
    /// DNS name of a naming context.
    pub const DNS_ROOT: &str = "dnsRoot";
    /// DN of a naming context.
    pub const NC_NAME: &str = "nCName";
    /// Bits 1 and 2: a naming context of this forest that is a domain.
    pub const SYSTEM_FLAGS: &str = "systemFlags";

    /// All that [`entry`](super::entry) reads.
    pub const OF_PEOPLE: &[&str] = &[
        USER_PRINCIPAL_NAME,
        SAM_ACCOUNT_NAME,
        PROXY_ADDRESSES,
        MAIL_NICKNAME,
        MAILBOX_GUID,
        HOME_MDB,
        HOME_SERVER_NAME,
        MASTER_ACCOUNT_SID,
        OBJECT_GUID,
        ENTRY_UUID,
    ];

    /// What is read of the accounts of linked mailboxes.
    pub const OF_ACCOUNTS: &[&str] = &[OBJECT_SID];

    /// What `firstcas check` reads of the accounts of servers.
    pub const OF_SERVICES: &[&str] = &[SERVICE_PRINCIPAL_NAME];

    /// All that [`topology`](super::topology) reads.
    pub const OF_TOPOLOGY: &[&str] = &[
        OBJECT_CLASS,
        CN,
        LEGACY_EXCHANGE_DN,
        NETWORK_ADDRESS,
        VERSION_NUMBER,
        SERVER_ROLES,
        SERVER_SITE,
        OWNING_SERVER,
        INTERNAL_HOST_NAME,
        EXTERNAL_HOST_NAME,
        INTERNAL_AUTHENTICATION,
        SITE_OBJECT,
        SITE_LIST,
        COST,
    ];

    /// All that [`domains`](super::domains) reads.
    pub const OF_DOMAINS: &[&str] = &[OBJECT_CLASS, NETBIOS_NAME, DNS_ROOT, NC_NAME, SYSTEM_FLAGS];
}

/// Class names, as Active Directory spells them.
pub mod class {
    /// An AD site.
    pub const SITE: &str = "site";
    /// A subnet of a site.
    pub const SUBNET: &str = "subnet";
    /// A link between sites.
    pub const SITE_LINK: &str = "siteLink";
    /// An Exchange server.
    pub const SERVER: &str = "msExchExchangeServer";
    /// A mailbox database.
    pub const DATABASE: &str = "msExchPrivateMDB";
    /// A naming context of the forest.
    pub const CROSS_REF: &str = "crossRef";

    /// Objects that [`topology`](super::topology) reads, besides the virtual directories.
    pub(super) const OF_TOPOLOGY: &[&str] = &[SITE, SUBNET, SITE_LINK, SERVER, DATABASE];
}

/// The virtual directory classes, each with the kind it is and the `New-`/`Set-` cmdlet that mends it.
pub const VIRTUAL_DIRECTORY_CLASSES: [(&str, VirtualDirectoryKind, &str); VirtualDirectoryKind::COUNT] = [
    ("msExchOWAVirtualDirectory", VirtualDirectoryKind::Owa, "Set-OwaVirtualDirectory"),
    ("msExchECPVirtualDirectory", VirtualDirectoryKind::Ecp, "Set-EcpVirtualDirectory"),
    ("msExchMobileVirtualDirectory", VirtualDirectoryKind::ActiveSync, "Set-ActiveSyncVirtualDirectory"),
    ("msExchWebServicesVirtualDirectory", VirtualDirectoryKind::Ews, "Set-WebServicesVirtualDirectory"),
    ("msExchAutoDiscoverVirtualDirectory", VirtualDirectoryKind::Autodiscover, "Set-AutodiscoverVirtualDirectory"),
    ("msExchOABVirtualDirectory", VirtualDirectoryKind::Oab, "Set-OabVirtualDirectory"),
    ("msExchRpcHttpVirtualDirectory", VirtualDirectoryKind::OutlookAnywhere, "Set-OutlookAnywhere"),
    ("msExchMapiVirtualDirectory", VirtualDirectoryKind::Mapi, "Set-MapiVirtualDirectory"),
];

/// The classes of all objects that [`topology`] reads.
pub fn topology_classes() -> Vec<&'static str> {
    let virtual_directories = VIRTUAL_DIRECTORY_CLASSES.iter().map(|(class, _, _)| *class);
    class::OF_TOPOLOGY.iter().copied().chain(virtual_directories).collect()
}

/// One object of the directory: its DN and its attributes, each with any number of values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Distinguished name, as the source spells it.
    pub dn: String,
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Record {
    /// An object without attributes.
    pub fn new(dn: impl Into<String>) -> Self {
        Record { dn: dn.into(), attributes: Vec::new() }
    }

    /// Adds a value.
    pub fn push(&mut self, attribute: &str, value: impl Into<Vec<u8>>) {
        let value = value.into();
        match self.attributes.iter_mut().find(|(name, _)| name.eq_ignore_ascii_case(attribute)) {
            Some((_, values)) => values.push(value),
            None => self.attributes.push((attribute.to_owned(), vec![value])),
        }
    }

    /// Every attribute with its values, in the order the source had them.
    pub fn attributes(&self) -> impl Iterator<Item = (&str, &[Vec<u8>])> {
        self.attributes.iter().map(|(name, values)| (name.as_str(), values.as_slice()))
    }

    /// Every value of an attribute.
    pub fn values(&self, attribute: &str) -> &[Vec<u8>] {
        self.attributes
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(attribute))
            .map_or(&[], |(_, values)| values.as_slice())
    }

    /// Every value of an attribute that is text and not blank, trimmed.
    pub fn texts(&self, attribute: &str) -> impl Iterator<Item = &str> {
        self.values(attribute)
            .iter()
            .filter_map(|value| std::str::from_utf8(value).ok())
            .map(str::trim)
            .filter(|text| !text.is_empty())
    }

    /// The first of [`Self::texts`].
    pub fn text(&self, attribute: &str) -> Option<&str> {
        self.texts(attribute).next()
    }

    /// Whether `objectClass` names this class.
    pub fn is(&self, class: &str) -> bool {
        self.texts(attribute::OBJECT_CLASS).any(|own| own.eq_ignore_ascii_case(class))
    }

    fn cn(&self) -> &str {
        self.text(attribute::CN).unwrap_or_else(|| rdn_value(&self.dn))
    }
}

/// A domain of the forest: a `crossRef` object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its names, folded: `NetBIOS` and DNS.
    pub names: Vec<String>,
    /// DN of its naming context.
    pub naming_context: String,
    /// Folded DNs of the other domains below it, whose objects are not its own.
    pub children: Vec<String>,
}

impl Domain {
    /// Whether the object of that DN is this domain's.
    pub fn holds(&self, dn: &str) -> bool {
        let dn = fold_dn(dn);
        is_within(&dn, &fold_dn(&self.naming_context)) && !self.children.iter().any(|child| is_within(&dn, child))
    }
}

/// Decodes a person.
pub fn entry(record: &Record) -> Entry {
    let home_database = record.text(attribute::HOME_MDB);
    let home_server = record.text(attribute::HOME_SERVER_NAME);
    let mailbox = (home_database.is_some() || home_server.is_some()).then(|| Mailbox {
        key: mailbox_key(record),
        home_server: home_server.unwrap_or_default().to_lowercase().into(),
        home_database: home_database.map(|dn| fold_dn(dn).into()),
    });
    let name = record
        .text(attribute::USER_PRINCIPAL_NAME)
        .or_else(|| record.texts(attribute::PROXY_ADDRESSES).find_map(|address| address.strip_prefix("SMTP:")))
        .or_else(|| record.text(attribute::SAM_ACCOUNT_NAME))
        .unwrap_or(&record.dn);
    Entry {
        id: entry_id(record),
        dn: record.dn.clone(),
        name: name.to_owned(),
        mailbox,
        master_account: master_account(record),
        principal: principal(record),
    }
}

/// In Active Directory the last `DC=` parts of a DN are the DNS name of its domain, and that in capitals is the domain's
/// realm ([MS-KILE] 3.3.5.6.1); so no crossRef has to be asked for it. The account of a linked mailbox is another one, of
/// which this entry knows only the SID.
fn principal(record: &Record) -> Option<String> {
    let account = record.text(attribute::SAM_ACCOUNT_NAME)?;
    let mut labels: Vec<_> = rdns(&record.dn).collect();
    labels.reverse();
    let labels = labels.into_iter().map_while(|rdn| {
        let (attribute, label) = rdn.split_once('=')?;
        attribute.trim().eq_ignore_ascii_case("dc").then_some(label.trim())
    });
    let mut labels: Vec<_> = labels.collect();
    labels.reverse();
    let is_label = |label: &&str| {
        !label.is_empty() && label.chars().all(|letter| letter.is_alphanumeric() || matches!(letter, '-' | '_'))
    };
    // Such a name would have to be written with escapes (RFC 1964 section 2.1.1), and without them be somebody else's. Active
    // Directory lets no account have one.
    let needs_escapes = account.contains(|letter: char| letter.is_control() || matches!(letter, '/' | '@' | '\\'));
    let has_one =
        !needs_escapes && !labels.is_empty() && labels.iter().all(is_label) && master_account(record).is_none();
    has_one.then(|| format!("{account}@{}", labels.join(".").to_uppercase()))
}

/// A person and every name that [`Directory::find`](super::Directory::find) finds it by.
pub fn changed(record: &Record, domains: &[Domain]) -> Changed {
    let mut names = Vec::new();
    let addresses = record.texts(attribute::PROXY_ADDRESSES);
    let addresses = addresses.filter_map(|address| strip_prefix_ignoring_case(address, "smtp:"));
    names.extend(record.text(attribute::USER_PRINCIPAL_NAME).into_iter().chain(addresses).map(str::to_owned));
    let account = record.text(attribute::SAM_ACCOUNT_NAME);
    names.extend(account.into_iter().chain(record.text(attribute::MAIL_NICKNAME)).map(str::to_owned));
    if let (Some(domain), Some(account)) = (domains.iter().find(|domain| domain.holds(&record.dn)), account) {
        names.extend(domain.names.iter().map(|domain| format!("{domain}\\{account}")));
    }
    let mut names: Vec<_> = names.iter().filter_map(|name| MailboxName::parse(name).ok()).collect();
    names.extend(mailbox_guid(record).map(MailboxName::Guid));
    Changed { entry: entry(record), names }
}

/// The mailbox's GUID, in the order its text is written.
fn mailbox_guid(record: &Record) -> Option<[u8; 16]> {
    let [stored] = record.values(attribute::MAILBOX_GUID) else { return None };
    Some(guid_as_stored(<[u8; 16]>::try_from(stored.as_slice()).ok()?)) // its own inverse
}

fn entry_id(record: &Record) -> EntryId {
    let guid =
        record.values(attribute::OBJECT_GUID).first().and_then(|guid| <[u8; 16]>::try_from(guid.as_slice()).ok());
    let uuid = || record.text(attribute::ENTRY_UUID).map(|uuid| short_hash(uuid.as_bytes()));
    EntryId(guid.or_else(uuid).unwrap_or_else(|| short_hash(fold_dn(&record.dn).as_bytes())))
}

fn short_hash(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
    short
}

/// `None` also for S-1-5-10 ("self"), which room and shared mailboxes have.
fn master_account(record: &Record) -> Option<Sid> {
    const SELF: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 10, 0, 0, 0];
    let sid = record.values(attribute::MASTER_ACCOUNT_SID).first().filter(|sid| **sid != SELF)?;
    Some(Sid(sid.as_slice().into()))
}

/// Which of the entries that a name matches is meant: the only one, or the only one with a mailbox. Names reach the
/// edge as those of mailboxes; so a mail contact, a group or an administrator's account that shares one with a mailbox
/// does not lock its owner out. Two mailboxes are a real ambiguity, whichever attribute either is matched by, and so
/// are several entries of which none has a mailbox. Of more than [`MATCHES_MAX`] some were not seen: none is meant.
pub fn meant<'r>(matches: &[&'r Record]) -> Option<&'r Record> {
    if let [only] = matches {
        return Some(only);
    }
    if matches.len() > MATCHES_MAX {
        return None;
    }
    let mut with_mailbox = matches.iter().filter(|record| entry(record).mailbox.is_some());
    match (with_mailbox.next(), with_mailbox.next()) {
        (Some(one), None) => Some(one),
        (Some(_) | None, _) => None,
    }
}

/// What would break people: mailboxes whose home server is not in the topology, which are refused, and names that
/// several entries have.
pub fn people_oddities(people: &[Record], parts: &TopologyParts) -> Vec<Oddity> {
    let servers: HashSet<&str> = parts.servers.iter().map(|server| server.legacy_dn.as_str()).collect();
    let databases: HashSet<&str> = parts.databases.iter().map(|(dn, _)| dn.as_str()).collect();
    let mut oddities = Oddities::default();
    for record in people {
        let Some(mailbox) = entry(record).mailbox else { continue };
        let server_known = servers.contains(&*mailbox.home_server) && !mailbox.home_server.is_empty();
        let database_known = mailbox.home_database.is_some_and(|dn| databases.contains(&*dn));
        if !server_known && !database_known {
            let named = record.text(attribute::HOME_SERVER_NAME).or_else(|| record.text(attribute::HOME_MDB));
            oddities.add(
                record,
                format!(
                    "its mailbox is on `{}`, which is no server of this organisation; move the mailbox, or mend \
                     msExchHomeServerName and homeMDB",
                    named.unwrap_or_default()
                ),
            );
        }
    }
    shared_names(people, &mut oddities);
    oddities.0
}

fn shared_names(records: &[Record], oddities: &mut Oddities) {
    let domains = domains(records);
    let mut owners: BTreeMap<(String, String), Vec<&Record>> = BTreeMap::new();
    for record in records {
        let mut own = |kind: String, name: String| {
            let of_name = owners.entry((kind, name)).or_default();
            if of_name.last().is_none_or(|last| !std::ptr::eq(*last, record)) {
                of_name.push(record);
            }
        };
        let proxy_addresses = record.texts(attribute::PROXY_ADDRESSES);
        let smtp_addresses = proxy_addresses.filter_map(|address| strip_prefix_ignoring_case(address, "smtp:"));
        for address in record.texts(attribute::USER_PRINCIPAL_NAME).chain(smtp_addresses) {
            own("address (userPrincipalName or proxyAddresses)".to_owned(), address.to_lowercase());
        }
        if let Some(account) = record.text(attribute::SAM_ACCOUNT_NAME) {
            let domain = domains.iter().find(|domain| domain.holds(&record.dn));
            let domain = domain.map(|domain| format!(" in {}", domain.naming_context)).unwrap_or_default();
            own(format!("sAMAccountName{domain}"), account.to_lowercase());
        }
        if let Some(guid) = mailbox_guid(record) {
            own(attribute::MAILBOX_GUID.to_owned(), MailboxName::Guid(guid).to_string());
        }
    }
    for ((kind, name), mut records) in owners {
        if records.len() < 2 {
            continue;
        }
        let effect = match meant(&records) {
            Some(record) => format!("it is taken for that of `{}`, the only one with a mailbox", record.dn),
            None => "whoever uses it is refused".to_owned(),
        };
        records.sort_by(|a, b| a.dn.cmp(&b.dn));
        let Some((first, others)) = records.split_first() else { continue };
        let others: Vec<_> = others.iter().map(|record| format!("`{}`", record.dn)).collect();
        let others = others.join(", ");
        oddities.add(
            first,
            format!("its {kind} `{name}` is also that of {others}, so {effect}; remove it from all but one"),
        );
    }
}

/// Decodes the domains among these records. The forest's other naming contexts (configuration, schema, application
/// partitions) are `crossRef` objects too, some with a domain's DNS name: `systemFlags` tells them apart.
pub fn domains(records: &[Record]) -> Vec<Domain> {
    let mut domains: Vec<Domain> = records
        .iter()
        .filter(|record| record.is(class::CROSS_REF))
        .filter(|record| match record.text(attribute::SYSTEM_FLAGS).map(str::parse::<i64>) {
            Some(Ok(flags)) => flags & CROSS_REF_DOMAIN == CROSS_REF_DOMAIN,
            Some(Err(_)) | None => record.text(attribute::NETBIOS_NAME).is_some(),
        })
        .filter_map(|record| {
            let names = record.texts(attribute::NETBIOS_NAME).chain(record.texts(attribute::DNS_ROOT));
            Some(Domain {
                names: names.map(str::to_lowercase).collect(),
                naming_context: record.text(attribute::NC_NAME)?.to_owned(),
                children: Vec::new(),
            })
        })
        .collect();
    let all: Vec<String> = domains.iter().map(|domain| fold_dn(&domain.naming_context)).collect();
    for (domain, own) in domains.iter_mut().zip(&all) {
        domain.children = all.iter().filter(|other| *other != own && is_within(other, own)).cloned().collect();
    }
    domains
}

/// Decodes the organisation. The result does not depend on the order of the records.
pub fn topology(records: &[Record]) -> TopologyReading {
    let mut records: Vec<(String, &Record)> = records.iter().map(|record| (fold_dn(&record.dn), record)).collect();
    records.sort_by(|(a, _), (b, _)| a.cmp(b));
    let of_class = |class: &'static str| records.iter().filter(move |(_, record)| record.is(class));

    let mut oddities = Oddities::default();
    let sites: HashMap<&str, &str> =
        of_class(class::SITE).map(|(folded, record)| (folded.as_str(), record.cn())).collect();
    let mut parts = TopologyParts {
        sites: of_class(class::SITE).map(|(_, record)| record.cn().to_owned()).collect(),
        ..TopologyParts::default()
    };
    parts.subnets = of_class(class::SUBNET).filter_map(|(_, record)| subnet(record, &sites, &mut oddities)).collect();
    parts.site_links = of_class(class::SITE_LINK)
        .filter(|(folded, _)| rdn_value(parent(folded)) == "ip") // Exchange ignores SMTP links
        .map(|(_, record)| site_link(record, &sites, &mut oddities))
        .collect();

    let server_records: Vec<&(String, &Record)> = of_class(class::SERVER).collect();
    let server_ids: HashMap<&str, usize> =
        server_records.iter().enumerate().map(|(id, (folded, _))| (folded.as_str(), id)).collect();
    parts.servers = server_records.iter().map(|(_, record)| server(record, &sites, &mut oddities)).collect();
    drop_repeated_legacy_dns(&mut parts.servers, &server_records, &mut oddities);

    for (folded, record) in of_class(class::DATABASE) {
        match record.text(attribute::OWNING_SERVER).map(|dn| server_ids.get(fold_dn(dn).as_str())) {
            Some(Some(&owner)) => parts.databases.push((folded.clone(), parts.servers[owner].name.clone())),
            Some(None) => oddities.add(record, "its msExchOwningServer is no server of this organisation; mend it"),
            None => oddities.add(record, "it has no msExchOwningServer; set it to the DN of the server it is on"),
        }
    }

    let mut chosen: HashMap<(usize, usize), &Record> = HashMap::new();
    for (folded, record) in &records {
        let Some(&(_, kind, _)) = VIRTUAL_DIRECTORY_CLASSES.iter().find(|(class, _, _)| record.is(class)) else {
            continue;
        };
        let cn = record.cn().to_lowercase();
        if cn.contains(BACK_END) || (kind == VirtualDirectoryKind::Owa && !cn.starts_with("owa")) {
            continue;
        }
        let Some(&owner) = ancestors(folded).find_map(|dn| server_ids.get(dn)) else {
            oddities.add(record, "it is not below any Exchange server; remove it");
            continue;
        };
        match chosen.get(&(owner, kind as usize)) {
            Some(other) if other.cn().to_lowercase().contains(FRONT_END) || !cn.contains(FRONT_END) => {
                oddities.add(record, format!("`{}` of the same kind is used instead; remove one", other.cn()));
            }
            Some(other) => {
                oddities.add(other, format!("`{}` of the same kind is used instead; remove one", record.cn()));
                chosen.insert((owner, kind as usize), record);
            }
            None => drop(chosen.insert((owner, kind as usize), record)),
        }
    }
    let mut chosen: Vec<_> = chosen.into_iter().collect();
    chosen.sort_by_key(|(place, _)| *place);
    for ((owner, kind), record) in chosen {
        let server = &mut parts.servers[owner];
        server.virtual_directories[kind] = Some(virtual_directory(record, kind, server.client_access, &mut oddities));
    }
    oddities.0.sort_by_cached_key(|oddity| (fold_dn(&oddity.dn), oddity.problem.clone()));
    TopologyReading { parts, oddities: oddities.0 }
}

/// A DN made comparable: lower case, no spaces around its separators.
pub fn fold_dn(dn: &str) -> String {
    let mut folded = String::with_capacity(dn.len());
    for (position, rdn) in rdns(dn).enumerate() {
        if position > 0 {
            folded.push(',');
        }
        match rdn.split_once('=') {
            Some((attribute, value)) => {
                folded.push_str(&attribute.trim().to_lowercase());
                folded.push('=');
                folded.push_str(&value.trim().to_lowercase());
            }
            None => folded.push_str(&rdn.trim().to_lowercase()),
        }
    }
    folded
}

/// Whether a folded DN is `base` (folded) or below it. The empty base holds everything.
pub fn is_within(dn: &str, base: &str) -> bool {
    base.is_empty() || dn.strip_suffix(base).is_some_and(|above| above.is_empty() || above.ends_with(','))
}

/// The bytes Active Directory stores for a GUID whose text form reads in the given order: the first three groups are
/// little-endian ([MS-DTYP] 2.3.4).
pub fn guid_as_stored(text_order: [u8; 16]) -> [u8; 16] {
    let mut stored = text_order;
    stored[..4].reverse();
    stored[4..6].reverse();
    stored[6..8].reverse();
    stored
}

fn subnet(record: &Record, sites: &HashMap<&str, &str>, oddities: &mut Oddities) -> Option<(IpNet, String)> {
    let Ok(net) = record.cn().parse::<IpNet>() else {
        let problem = format!("`{}` is not a subnet; name it as address/prefix, such as 10.1.0.0/16", record.cn());
        oddities.add(record, problem);
        return None;
    };
    let Some(dn) = record.text(attribute::SITE_OBJECT) else {
        oddities.add(record, "it belongs to no site; set its siteObject");
        return None;
    };
    let Some(site) = sites.get(fold_dn(dn).as_str()) else {
        oddities.add(record, format!("its siteObject `{dn}` is no site; mend it"));
        return None;
    };
    Some((net.trunc(), (*site).to_owned()))
}

fn site_link(record: &Record, sites: &HashMap<&str, &str>, oddities: &mut Oddities) -> SiteLink {
    let mut names = Vec::new();
    for dn in record.texts(attribute::SITE_LIST) {
        match sites.get(fold_dn(dn).as_str()) {
            Some(site) => names.push((*site).to_owned()),
            None => oddities.add(record, format!("its siteList names `{dn}`, which is no site; remove it")),
        }
    }
    names.sort();
    let cost = match record.text(attribute::COST).map(str::parse::<u32>) {
        Some(Ok(cost)) if (1..=SITE_LINK_COST_MAX).contains(&cost) => cost,
        None => SITE_LINK_COST_DEFAULT,
        Some(_) => {
            oddities.add(record, "its cost is not a number from 1 to 99999, so 100 is used; set it");
            SITE_LINK_COST_DEFAULT
        }
    };
    SiteLink { sites: names, cost }
}

fn server(record: &Record, sites: &HashMap<&str, &str>, oddities: &mut Oddities) -> Server {
    let name = record.cn().to_owned();
    let version = match record.text(attribute::VERSION_NUMBER).map(str::parse::<u32>) {
        Some(Ok(packed)) => Version::from_version_number(packed),
        Some(Err(_)) | None => Version { major: 0, minor: 0, build: 0 },
    };
    let generation = version.generation();
    if generation.is_none() {
        let problem = format!(
            "its versionNumber `{}` is none of Exchange's, so its mailboxes are refused; restart its System Attendant, \
             which writes it",
            record.text(attribute::VERSION_NUMBER).unwrap_or_default()
        );
        oddities.add(record, problem);
    }
    // Exchange 2000 and 2003 servers have neither roles nor a site.
    let has_roles = generation > Some(Generation::Exchange2003);
    let roles = match record.text(attribute::SERVER_ROLES).map(str::parse::<i64>) {
        Some(Ok(roles)) => roles,
        None if !has_roles => 0,
        Some(Err(_)) | None => {
            oddities.add(record, "it has no readable msExchCurrentServerRoles, so it serves no client; mend it");
            0
        }
    };
    // From 2013 on bit 4 is the Mailbox server's back end, which no client may reach.
    let client_access_role =
        if generation >= Some(Generation::Exchange2013) { ROLE_FRONT_END } else { ROLE_CLIENT_ACCESS };
    let site_name = record.text(attribute::SERVER_SITE).map(|dn| {
        if let Some(site) = sites.get(fold_dn(dn).as_str()) {
            return (*site).to_owned();
        }
        oddities.add(record, format!("its msExchServerSite `{dn}` is no site, so it is used for nothing; mend it"));
        rdn_value(dn).to_owned()
    });
    if site_name.is_none() && has_roles && roles & ROLE_EDGE == 0 {
        oddities.add(
            record,
            "it has no msExchServerSite, so it is used for nothing; map its subnet to a site and restart its Active \
             Directory Topology service",
        );
    }
    let fqdn = record.texts(attribute::NETWORK_ADDRESS).find_map(|address| strip_prefix_ignoring_case(address, TCP));
    if fqdn.is_none() {
        oddities.add(
            record,
            "its networkAddress has no ncacn_ip_tcp: value, so its bare name is used as its address; add one",
        );
    }
    let legacy_dn = record.text(attribute::LEGACY_EXCHANGE_DN).unwrap_or_default().to_lowercase();
    if legacy_dn.is_empty() {
        oddities.add(record, "it has no legacyExchangeDN, so no mailbox can name it as its home; set it");
    }
    Server {
        fqdn: fqdn.unwrap_or(&name).to_owned(),
        name,
        legacy_dn,
        site_name,
        site: None,
        hash_seed: 0, // `Topology::new` fills it in
        version,
        client_access: roles & client_access_role != 0,
        virtual_directories: [const { None }; VirtualDirectoryKind::COUNT],
    }
}

/// Two servers of one `legacyExchangeDN`: the first (by DN) keeps it, so that mailboxes still have one home.
fn drop_repeated_legacy_dns(servers: &mut [Server], records: &[&(String, &Record)], oddities: &mut Oddities) {
    let mut owners: HashMap<String, &str> = HashMap::new();
    for (server, (_, record)) in servers.iter_mut().zip(records) {
        if server.legacy_dn.is_empty() {
            continue;
        }
        if let Some(owner) = owners.get(&server.legacy_dn) {
            let problem =
                format!("`{owner}` has the same legacyExchangeDN and keeps the mailboxes; correct the wrong one");
            oddities.add(record, problem);
            server.legacy_dn.clear();
        } else {
            owners.insert(server.legacy_dn.clone(), &record.dn);
        }
    }
}

fn virtual_directory(record: &Record, kind: usize, of_cas: bool, oddities: &mut Oddities) -> VirtualDirectory {
    let (_, kind, cmdlet) = VIRTUAL_DIRECTORY_CLASSES[kind];
    let mut url = |attribute| {
        let text = record.text(attribute)?;
        // Outlook Anywhere's objects hold bare host names.
        let full = kind == VirtualDirectoryKind::OutlookAnywhere && !text.contains("://");
        let parsed = if full { web_url(&format!("https://{text}/rpc")) } else { web_url(text) };
        parsed.map_err(|problem| oddities.add(record, format!("its {attribute} {problem}; mend it with {cmdlet}"))).ok()
    };
    let internal_url = url(attribute::INTERNAL_HOST_NAME);
    let external_url = url(attribute::EXTERNAL_HOST_NAME);
    let proxied = match kind {
        VirtualDirectoryKind::Owa
        | VirtualDirectoryKind::Ecp
        | VirtualDirectoryKind::ActiveSync
        | VirtualDirectoryKind::Ews
        | VirtualDirectoryKind::Mapi => of_cas,
        VirtualDirectoryKind::Autodiscover | VirtualDirectoryKind::Oab | VirtualDirectoryKind::OutlookAnywhere => false,
    };
    if proxied && record.text(attribute::INTERNAL_HOST_NAME).is_none() {
        oddities.add(record, format!("it has no InternalURL, so nobody can proxy to it; set it with {cmdlet}"));
    }
    let methods = record.text(attribute::INTERNAL_AUTHENTICATION).map(str::parse::<u32>);
    let internal_authentication = match methods {
        Some(Ok(methods)) => AuthenticationMethods(methods),
        None if !proxied => AuthenticationMethods::default(),
        Some(Err(_)) | None => {
            oddities.add(
                record,
                format!(
                    "it has no readable msExchInternalAuthenticationMethods, so none is assumed; set them with {cmdlet}"
                ),
            );
            AuthenticationMethods::default()
        }
    };
    VirtualDirectory { internal_url, external_url, internal_authentication }
}

fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("`{text}` is not a URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`{text}` is not an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a user name or password in it".to_owned()); // not repeated: reports are read by many
    }
    Ok(url)
}

/// The same on every edge, so that all send a mailbox to the same CAS, and in every build.
fn mailbox_key(record: &Record) -> u64 {
    let hash = match record.values(attribute::MAILBOX_GUID).first() {
        Some(guid) => blake3::hash(guid),
        None => blake3::hash(fold_dn(&record.dn).as_bytes()),
    };
    hash.as_bytes().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

/// The relative names of a DN, from the object up. A comma after a backslash is part of a name (RFC 4514).
fn rdns(dn: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(dn);
    std::iter::from_fn(move || {
        let dn = rest.take()?;
        let end = end_of_rdn(dn);
        rest = dn.get(end + 1..);
        dn.get(..end)
    })
}

fn end_of_rdn(dn: &str) -> usize {
    let mut escaped = false;
    for (position, byte) in dn.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => return position,
            _ => {}
        }
    }
    dn.len()
}

fn parent(dn: &str) -> &str {
    dn.get(end_of_rdn(dn) + 1..).unwrap_or_default()
}

fn ancestors(dn: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(parent(dn)), |dn| Some(parent(dn))).take_while(|dn| !dn.is_empty())
}

fn rdn_value(dn: &str) -> &str {
    dn.get(..end_of_rdn(dn)).and_then(|rdn| rdn.split_once('=')).map_or("", |(_, value)| value.trim())
}

fn strip_prefix_ignoring_case<'t>(text: &'t str, prefix: &str) -> Option<&'t str> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    (start.eq_ignore_ascii_case(prefix) && !rest.is_empty()).then_some(rest)
}

/// How many entries that share a name can be told apart. More than a few are nobody's.
pub const MATCHES_MAX: usize = 3;

#[derive(Default)]
struct Oddities(Vec<Oddity>);

impl Oddities {
    fn add(&mut self, record: &Record, problem: impl Into<String>) {
        self.0.push(Oddity { dn: record.dn.clone(), problem: problem.into() });
    }
}

/// `FLAG_CR_NTDS_NC | FLAG_CR_NTDS_DOMAIN` ([MS-ADTS] 2.2.10).
const CROSS_REF_DOMAIN: i64 = 3;
const ROLE_CLIENT_ACCESS: i64 = 4;
const ROLE_EDGE: i64 = 64;
const ROLE_FRONT_END: i64 = 16_384;
const SITE_LINK_COST_DEFAULT: u32 = 100;
const SITE_LINK_COST_MAX: u32 = 99_999;
/// How `networkAddress` marks the fully qualified name.
const TCP: &str = "ncacn_ip_tcp:";
/// From 2013 on each virtual directory exists twice; clients use the one of the front end.
const FRONT_END: &str = "(default web site)";
const BACK_END: &str = "(exchange back end)";

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use super::*;
    use crate::{directory::ldif, routing::topology::Topology};

    const CONTOSO: &str = include_str!("../../conf/contoso.ldif");

    fn contoso() -> Vec<Record> {
        ldif::parse(CONTOSO.as_bytes()).expect("the stand-in organisation")
    }

    /// Contoso with the first occurrence of a text replaced.
    fn contoso_with(text: &str, replacement: &str) -> TopologyReading {
        assert!(CONTOSO.contains(text), "{text:?}");
        topology(&ldif::parse(CONTOSO.replacen(text, replacement, 1).as_bytes()).expect("still LDIF"))
    }

    /// Contoso with one object more below a server's HTTP container.
    fn contoso_and(server: &str, cn: &str, rest: &str) -> TopologyReading {
        let container = format!("CN=HTTP,CN=Protocols,CN={server},{ADMINISTRATIVE_GROUP}");
        let text = format!("{CONTOSO}\ndn: CN={cn},{container}\ncn: {cn}\n{rest}");
        topology(&ldif::parse(text.as_bytes()).expect("still LDIF"))
    }

    fn only_oddity(reading: &TopologyReading) -> (&str, &str) {
        match reading.oddities.as_slice() {
            [oddity] => (&oddity.dn, &oddity.problem),
            others => panic!("one oddity, not {others:#?}"),
        }
    }

    fn server_of<'t>(reading: &'t TopologyReading, name: &str) -> &'t Server {
        reading.parts.servers.iter().find(|server| server.name == name).expect("the server")
    }

    fn owa_of<'t>(reading: &'t TopologyReading, name: &str) -> &'t VirtualDirectory {
        server_of(reading, name).virtual_directories[VirtualDirectoryKind::Owa as usize].as_ref().expect("its /owa")
    }

    #[test]
    fn the_readme_lists_every_attribute_that_is_read() {
        let readme = include_str!("../../README.md");
        let read = [attribute::OF_PEOPLE, attribute::OF_ACCOUNTS, attribute::OF_TOPOLOGY, attribute::OF_DOMAINS];
        for attribute in read.into_iter().flatten().chain(attribute::OF_SERVICES) {
            assert!(readme.contains(&format!("`{attribute}`")), "{attribute}");
        }
    }

    #[test]
    fn contoso_decodes_whole_and_without_oddity() {
        let reading = topology(&contoso());
        assert_eq!(reading.oddities, []);
        assert_eq!(reading.parts.sites, ["Braga", "Faro", "Lisbon", "Madrid", "Porto"]);
        let servers: Vec<_> = reading.parts.servers.iter().map(|server| server.name.as_str()).collect();
        assert_eq!(
            servers,
            [
                "cas-bra-1",
                "cas-lis-1",
                "cas-lis-2",
                "cas-mad-1",
                "cas-opo-1",
                "cas-opo-2",
                "ex03-lis",
                "ex03-opo",
                "mbx-bra",
                "mbx-far",
                "mbx-lis",
                "mbx-mad",
                "mbx-opo"
            ]
        );
        assert_eq!(reading.parts.site_links.len(), 4);
        assert_eq!(reading.parts.databases.len(), 7);
        assert_eq!(people_oddities(&contoso(), &reading.parts), []);

        let cas = server_of(&reading, "cas-lis-2");
        assert_eq!((cas.fqdn.as_str(), cas.site_name.as_deref()), ("cas-lis-2.contoso.com", Some("Lisbon")));
        assert!(cas.client_access);
        assert_eq!(cas.version.to_string(), "8.3.83");
        let owa = owa_of(&reading, "cas-lis-2");
        assert_eq!(owa.internal_url, Url::parse("https://cas-lis-2.contoso.com/owa").ok());
        assert_eq!(owa.external_url, Url::parse("https://mail.contoso.com/owa").ok());
        assert!(owa.internal_authentication.integrated_windows());
        assert!(!owa_of(&reading, "cas-bra-1").internal_authentication.integrated_windows());
        assert_eq!(owa_of(&reading, "cas-opo-1").external_url, None);

        let back_end = server_of(&reading, "ex03-opo");
        assert_eq!(back_end.version.generation(), Some(Generation::Exchange2003));
        assert_eq!((back_end.fqdn.as_str(), &back_end.site_name), ("ex03-opo.contoso.com", &None));
        assert!(!back_end.client_access);

        let topology = Topology::new(reading.parts);
        assert_eq!(topology.site_of_address("127.0.0.1".parse().expect("an address")), topology.site_named("Lisbon"));
    }

    #[test]
    fn the_order_of_the_records_does_not_matter() {
        let (mut records, there) = (contoso(), topology(&contoso()));
        records.reverse();
        assert_eq!(format!("{:?}", topology(&records)), format!("{there:?}"));
    }

    #[test]
    fn of_the_owa_class_only_the_directory_named_owa_speaks_for_owa() {
        let reading = topology(&contoso());
        let mailbox_server = server_of(&reading, "mbx-lis"); // has /exchange, /public and /exadmin of that class
        assert_eq!(mailbox_server.virtual_directories, [const { None }; VirtualDirectoryKind::COUNT]);
    }

    #[test]
    fn of_two_directories_of_a_kind_the_front_ends_is_used() {
        let back_end = "objectClass: msExchOWAVirtualDirectory\nmsExchInternalHostName: https://back:444/owa\n";
        let reading = contoso_and("cas-lis-1", "owa (Exchange Back End)", back_end);
        assert_eq!(reading.oddities, []);
        assert_eq!(owa_of(&reading, "cas-lis-1").internal_url, Url::parse("https://cas-lis-1.contoso.com/owa").ok());

        for cn in ["OWA (A Second Site)", "owa (Z Second Site)"] {
            let reading = contoso_and("cas-lis-1", cn, back_end);
            assert_eq!(
                owa_of(&reading, "cas-lis-1").internal_url,
                Url::parse("https://cas-lis-1.contoso.com/owa").ok()
            );
            let (dn, problem) = only_oddity(&reading);
            assert!(dn.starts_with(&format!("CN={cn}")), "{dn}");
            assert!(problem.contains("`owa (Default Web Site)` of the same kind is used instead"), "{problem}");
        }
    }

    #[test]
    fn outlook_anywheres_bare_host_name_becomes_a_url() {
        let rpc = "objectClass: msExchRpcHttpVirtualDirectory\nmsExchExternalHostName: mail.contoso.com\n";
        let reading = contoso_and("cas-opo-1", "Rpc (Default Web Site)", rpc);
        assert_eq!(reading.oddities, []);
        let rpc = &server_of(&reading, "cas-opo-1").virtual_directories[VirtualDirectoryKind::OutlookAnywhere as usize];
        let url = rpc.as_ref().and_then(|rpc| rpc.external_url.clone());
        assert_eq!(url, Url::parse("https://mail.contoso.com/rpc").ok());
    }

    #[test]
    fn from_2013_on_the_back_ends_client_access_bit_does_not_make_a_cas() {
        for (roles, client_access) in [("54", false), ("16385", true), ("16439", true)] {
            let text = CONTOSO
                .replace("versionNumber: 1912832083", "versionNumber: 1941996295")
                .replace("msExchCurrentServerRoles: 4\n", &format!("msExchCurrentServerRoles: {roles}\n"));
            let reading = topology(&ldif::parse(text.as_bytes()).expect("still LDIF"));
            assert_eq!(server_of(&reading, "cas-lis-1").client_access, client_access, "{roles}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_reported_with_its_place_and_left_out() {
        let site = |name: &str| format!("CN={name},CN=Sites,CN=Configuration,DC=contoso,DC=com");
        let server_site = format!("msExchServerSite: {}", site("Lisbon"));
        for (text, replacement, dn, problem) in [
            (server_site.as_str(), "description: none", "CN=cas-lis-1,", "it has no msExchServerSite"),
            (&server_site, "msExchServerSite: CN=Evora,CN=Sites", "CN=cas-lis-1,", "`CN=Evora,CN=Sites` is no site"),
            ("versionNumber: 1912832083", "versionNumber: 2007", "CN=cas-lis-1,", "versionNumber `2007` is none of"),
            ("versionNumber: 1912832083", "versionNumber: new", "CN=cas-lis-1,", "versionNumber `new` is none of"),
            ("msExchCurrentServerRoles: 4", "msExchCurrentServerRoles: x", "CN=cas-lis-1,", "msExchCurrentServerRoles"),
            ("ncacn_ip_tcp:cas-lis-1", "ncacn_np:cas-lis-1", "CN=cas-lis-1,", "no ncacn_ip_tcp: value"),
            ("cn: 10.1.0.0/16", "cn: 10.1.0.0/33", "CN=10.1.0.0/16,", "`10.1.0.0/33` is not a subnet"),
            ("siteObject: CN=Lisbon", "siteObject: CN=Evora", "CN=127.0.0.0/8,", "is no site"),
            ("siteList: CN=Porto", "siteList: CN=Evora", "CN=Lisbon-Porto,", "which is no site"),
            ("cost: 100", "cost: cheap", "CN=Lisbon-Porto,", "not a number from 1 to 99999"),
            ("https://cas-lis-1.contoso.com/owa", "https:///", "CN=owa (", "is not a URL"),
            ("https://cas-lis-1.contoso.com/owa", "ftp://cas-lis-1/owa", "CN=owa (", "is not an http or https URL"),
            ("https://cas-lis-1.contoso.com/owa", "https://a:b@cas/owa", "CN=owa (", "user name or password in it"),
            ("msExchInternalHostName: https://cas-lis-1.contoso.com/owa\n", "", "CN=owa (", "it has no InternalURL"),
            ("msExchInternalAuthenticationMethods: 19", "description: x", "CN=owa (", "so none is assumed"),
            (
                "msExchOwningServer: CN=mbx-lis,",
                "msExchOwningServer: CN=mbx-evo,",
                "CN=Mailbox Database,",
                "is no server of this organisation",
            ),
        ] {
            let reading = contoso_with(text, replacement);
            let (odd_dn, sentence) = only_oddity(&reading);
            assert!(odd_dn.starts_with(dn), "{odd_dn} for {replacement:?}");
            assert!(sentence.contains(problem), "{sentence} for {replacement:?}");
            assert!(!sentence.contains("a:b@"), "{sentence}");
        }
    }

    #[test]
    fn of_two_servers_with_one_legacy_dn_the_first_keeps_the_mailboxes() {
        let reading = contoso_with("cn=Servers/cn=cas-lis-2", "cn=Servers/cn=cas-lis-1");
        let (dn, problem) = only_oddity(&reading);
        assert!(dn.starts_with("CN=cas-lis-2,"), "{dn}");
        assert!(problem.contains("`CN=cas-lis-1,"), "{problem}");
        assert_eq!(server_of(&reading, "cas-lis-2").legacy_dn, "");
        assert!(server_of(&reading, "cas-lis-1").legacy_dn.ends_with("/cn=cas-lis-1"));
    }

    #[test]
    fn a_server_without_legacy_dn_is_not_the_home_of_mailboxes_that_name_none() {
        let leaderless = Mailbox { key: 0, home_server: "".into(), home_database: None };
        let mut parts = topology(&contoso()).parts;
        parts.servers[0].legacy_dn.clear();
        assert_eq!(Topology::new(parts).home_server(&leaderless), None);
    }

    #[test]
    fn people_on_unknown_servers_are_listed() {
        let parts = topology(&contoso()).parts;
        let mut lost = Record::new("CN=Lost,CN=Users,DC=contoso,DC=com");
        lost.push(attribute::HOME_SERVER_NAME, "/o=Contoso/cn=gone");
        let oddities = people_oddities(&[lost], &parts);
        assert_eq!(oddities.len(), 1);
        assert!(oddities[0].problem.contains("`/o=Contoso/cn=gone`"), "{oddities:?}");
    }

    /// Contoso and these people; the oddities' DNs and sentences.
    fn oddities_with(people: &str) -> Vec<(String, String)> {
        let records = ldif::parse(format!("{CONTOSO}\n{people}").as_bytes()).expect("still LDIF");
        let oddities = people_oddities(&records, &topology(&records).parts);
        oddities.into_iter().map(|oddity| (oddity.dn, oddity.problem)).collect()
    }

    #[test]
    fn a_name_of_several_entries_is_listed_once_with_all_of_them_and_the_cure() {
        let home = "homeMDB: CN=Mailbox Database,CN=First Storage Group,CN=InformationStore,CN=mbx-lis,";
        let home = format!("{home}{ADMINISTRATIVE_GROUP}");
        let ana = "CN=Ana Almeida,CN=Users,DC=contoso,DC=com";
        for (rest, kind, effect) in [
            ("userPrincipalName: ANA@contoso.com", "address (", "is taken for that of `CN=Ana Almeida,"),
            ("proxyAddresses: smtp:Ana.Almeida@contoso.com", "address (", "is taken for that of `CN=Ana Almeida,"),
            (&format!("{home}\nuserPrincipalName: ana.almeida@contoso.com"), "address (", "whoever uses it is refused"),
            (&format!("{home}\nsAMAccountName: ANA"), "sAMAccountName in DC=contoso", "whoever uses it is refused"),
            ("msExchMailboxGuid:: VuLR/cxZKV6R1Yg9xpX1AQ==", "msExchMailboxGuid `fdd1e256-59cc-", "is taken for that"),
        ] {
            let oddities = oddities_with(&format!("dn: CN=Zoe,CN=Users,DC=contoso,DC=com\n{rest}\n"));
            let [(dn, problem)] = oddities.as_slice() else { panic!("one oddity, not {oddities:#?}") };
            assert_eq!(dn, ana);
            assert!(problem.starts_with(&format!("its {kind}")), "{problem}");
            assert!(problem.contains("is also that of `CN=Zoe,CN=Users,DC=contoso,DC=com`, so "), "{problem}");
            assert!(problem.contains(effect), "{problem} for {rest}");
            assert!(problem.ends_with("; remove it from all but one"), "{problem}");
        }
    }

    #[test]
    fn what_several_may_share_is_not_listed() {
        let child = "dn: CN=EMEA,CN=Partitions,CN=Configuration,DC=contoso,DC=com\nobjectClass: crossRef\n\
                     nETBIOSName: EMEA\ndnsRoot: emea.contoso.com\nnCName: DC=emea,DC=contoso,DC=com\n";
        let namesake = "dn: CN=Ana,DC=emea,DC=contoso,DC=com\nsAMAccountName: ana\nmail: ana@contoso.com\n\
                        mailNickname: ana\nproxyAddresses: X500:/o=Contoso Lda/ou=Lisboa/cn=Recipients/cn=ana\n\
                        userPrincipalName: ana@emea.contoso.com\nproxyAddresses: smtp:ana@emea.contoso.com\n";
        assert_eq!(oddities_with(&format!("{child}\n{namesake}")), []);
    }

    #[test]
    fn a_person_has_a_mailbox_if_a_database_or_a_home_server_says_so() {
        let mut person = Record::new("CN=Ana,DC=contoso,DC=com");
        assert_eq!(entry(&person).mailbox, None);
        person.push("HOMEmdb", "CN=DB , CN=X");
        let mailbox = entry(&person).mailbox.expect("a mailbox");
        assert_eq!((&*mailbox.home_server, mailbox.home_database.as_deref()), ("", Some("cn=db,cn=x")));
    }

    #[test]
    fn a_person_is_called_by_upn_then_primary_address_then_account() {
        let mut person = Record::new("CN=Ana,DC=contoso,DC=com");
        assert_eq!(entry(&person).name, "CN=Ana,DC=contoso,DC=com");
        person.push(attribute::SAM_ACCOUNT_NAME, "ana");
        assert_eq!(entry(&person).name, "ana");
        person.push(attribute::PROXY_ADDRESSES, "smtp:second@contoso.com");
        person.push(attribute::PROXY_ADDRESSES, "SMTP:first@contoso.com");
        assert_eq!(entry(&person).name, "first@contoso.com");
        person.push(attribute::USER_PRINCIPAL_NAME, "ana@contoso.com");
        assert_eq!(entry(&person).name, "ana@contoso.com");
    }

    #[test]
    fn a_principal_is_the_account_in_the_realm_of_its_own_domain() {
        let of = |dn: &str, account: &str| {
            let mut person = Record::new(dn);
            person.push(attribute::SAM_ACCOUNT_NAME, account);
            principal(&person)
        };
        for (dn, account, expected) in [
            ("CN=Ana,CN=Users,DC=contoso,DC=com", "ana", Some("ana@CONTOSO.COM")),
            ("CN=Ana,CN=Users,DC=emea,DC=contoso,DC=com", "ana", Some("ana@EMEA.CONTOSO.COM")),
            ("cn=Ana , dc = contoso , dc=com", "Ana Almeida", Some("Ana Almeida@CONTOSO.COM")),
            (r"CN=Almeida\, Ana,DC=contoso,DC=com", "ana", Some("ana@CONTOSO.COM")),
            (r"CN=Ana\,DC=evil,DC=contoso,DC=com", "ana", Some("ana@CONTOSO.COM")),
            (r"CN=Ana\\,DC=emea,DC=contoso,DC=com", "ana", Some("ana@EMEA.CONTOSO.COM")),
            ("CN=Ana,DC=evil,OU=People,DC=contoso,DC=com", "ana", Some("ana@CONTOSO.COM")),
            (r"CN=Ana,DC=evil\,DC=contoso,DC=com", "ana", None),
            (r"CN=Ana,DC=evil\2ecom,DC=com", "ana", None),
            ("CN=Ana,DC=evil+OU=x,DC=com", "ana", None),
            ("CN=Ana,DC=,DC=com", "ana", None),
            ("CN=Ana,O=Contoso", "ana", None),
            ("", "ana", None),
            ("CN=Ana,DC=contoso,DC=com", "ana@EVIL.COM", None),
            ("CN=Ana,DC=contoso,DC=com", "HTTP/ana", None),
            ("CN=Ana,DC=contoso,DC=com", r"ana\", None),
            ("CN=Ana,DC=contoso,DC=com", "a\0na", None),
            ("CN=Ana,DC=contoso,DC=com", " ", None),
        ] {
            assert_eq!(of(dn, account).as_deref(), expected, "{dn} {account}");
        }
        assert_eq!(principal(&Record::new("CN=Ana,DC=contoso,DC=com")), None, "no sAMAccountName");
    }

    #[test]
    fn a_linked_mailbox_has_no_principal_of_its_own_and_a_shared_one_has() {
        const SELF: [u8; 12] = [1, 1, 0, 0, 0, 0, 0, 5, 10, 0, 0, 0];
        for (master, expected) in [(SELF, Some("ines@CONTOSO.COM")), ([7; 12], None)] {
            let mut person = Record::new("CN=Ines,DC=contoso,DC=com");
            person.push(attribute::SAM_ACCOUNT_NAME, "ines");
            person.push(attribute::MASTER_ACCOUNT_SID, master);
            assert_eq!(entry(&person).principal.as_deref(), expected);
        }
    }

    #[test]
    fn a_mailbox_key_stays_the_same_for_ever() {
        let mut person = Record::new("CN=Ana,DC=contoso,DC=com");
        let by_dn = mailbox_key(&person);
        person.dn = "cn=ana, dc=Contoso, dc=com".to_owned();
        assert_eq!(mailbox_key(&person), by_dn);
        assert_eq!(by_dn, KEY_BY_DN, "every edge of every version must agree");
        person.push(attribute::MAILBOX_GUID, *b"0123456789abcdef");
        assert_eq!(mailbox_key(&person), KEY_BY_GUID, "every edge of every version must agree");
    }

    #[test]
    fn a_guids_first_three_groups_are_stored_little_endian() {
        let text_order = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        let stored = *b"\x33\x22\x11\x00\x55\x44\x77\x66\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        assert_eq!(guid_as_stored(text_order), stored);
    }

    #[test]
    fn the_configurations_own_cross_ref_is_no_domain() {
        let contoso = Domain {
            names: vec!["contoso".into(), "contoso.com".into()],
            naming_context: "DC=contoso,DC=com".into(),
            children: vec![],
        };
        assert_eq!(domains(&self::contoso()), [contoso]);
    }

    #[test]
    fn an_escaped_comma_does_not_end_a_relative_name() {
        assert_eq!(rdns(r"CN=Almeida\, Ana,OU=a\\,DC=b").collect::<Vec<_>>(), [r"CN=Almeida\, Ana", r"OU=a\\", "DC=b"]);
        assert_eq!(ancestors("a,b,c").collect::<Vec<_>>(), ["b,c", "c"]);
        assert!(is_within("cn=a,dc=b", "dc=b") && is_within("dc=b", "dc=b") && !is_within("cn=a,xdc=b", "dc=b"));
    }

    const ADMINISTRATIVE_GROUP: &str = "CN=Servers,CN=Exchange Administrative Group (FYDIBOHF23SPDLT),\
        CN=Administrative Groups,CN=Contoso,CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=com";
    const KEY_BY_DN: u64 = 1_509_911_503_322_173_155;
    const KEY_BY_GUID: u64 = 13_328_035_208_042_902_785;
}
