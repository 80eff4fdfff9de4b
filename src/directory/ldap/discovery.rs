//! Finds a forest's servers by the SRV records of its domain.
//!
//! Each domain controller registers itself in DNS ([MS-ADTS] 6.3.2.3). Of the names it registers these are asked for:
//!
//! | name | who is there |
//! |---|---|
//! | `_ldap._tcp.SITE._sites.DOMAIN` | domain controllers of the site, read-only ones too, and those that cover it |
//! | `_ldap._tcp.DOMAIN` | all writable domain controllers |
//! | `_gc._tcp.SITE._sites.FOREST` | global catalogs of the site |
//! | `_gc._tcp.FOREST` | all global catalogs |
//!
//! `_ldap._tcp.dc._msdcs.DOMAIN` and `_ldap._tcp.gc._msdcs.FOREST` have the same servers, but only where they are
//! Windows' or Samba's; a zone kept by hand, for other LDAP servers, has the names above.
//!
//! DNS proves nothing. Whoever can forge its answers can send the edge to any server with a certificate of a trusted
//! authority, so that the authorities of found servers are best the forest's own.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::rr::{Name, RData},
    system_conf::read_system_conf,
};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};
use url::Url;

use super::Scheme;

/// A server at one of its addresses.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// Its scheme, its host name, which its certificate must bear, and its port.
    pub url: Url,
    /// Where to connect to.
    pub address: SocketAddr,
    /// Whether the site's own records name it.
    pub nearby: bool,
}

/// A forest's servers, the preferred ones first: those of the site, then by priority and weight (RFC 2782). One with
/// several addresses has as many places, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// At least one.
    pub domain_controllers: Vec<Place>,
    /// Empty if nobody has registered one, which [`Found::oddities`] then says.
    pub global_catalogs: Vec<Place>,
    /// When to ask DNS again: the shortest lifetime of what it said, within a minute and an hour. A minute where
    /// something was odd.
    pub ask_again_after: Duration,
    /// What an administrator should know, each a sentence.
    pub oddities: Vec<String>,
}

/// Why no servers were found.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// DNS cannot ask for such a site.
    #[error(
        "DNS has no names for the site `{site}`: {problem}; write the site as in Active Directory Sites and Services"
    )]
    BadSite {
        /// As configured.
        site: String,
        /// What is wrong with it.
        problem: String,
    },
    /// DNS cannot ask for such a domain.
    #[error("`{domain}` is not the DNS name of a domain: {problem}; write it like contoso.com")]
    BadDomain {
        /// As configured.
        domain: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The system does not say which name servers it uses.
    #[error(
        "the system names no name server: {problem}; mend /etc/resolv.conf, or set dns_servers to those of the domain"
    )]
    NoNameServer {
        /// What reading its settings said.
        problem: String,
    },
    /// The name servers do not know the domain.
    #[error(
        "the name server {name_server} knows no domain {domain}; set dns_servers to those of the domain, or mend its name"
    )]
    NoSuchDomain {
        /// The domain.
        domain: String,
        /// Who was asked.
        name_server: String,
    },
    /// They know the domain, but none of its servers.
    #[error(
        "the name server {name_server} has no SRV records of {name}; let the domain controllers register themselves \
         (nltest /dsregdns), or list the servers in urls"
    )]
    NoRecords {
        /// What was asked for.
        name: String,
        /// Who was asked.
        name_server: String,
    },
    /// The records name servers that have no address.
    #[error("none of the servers of {name} has an address: {}; register them in DNS (ipconfig /registerdns)", .hosts.join(", "))]
    NoAddress {
        /// What was asked for.
        name: String,
        /// The servers; of many, some.
        hosts: Vec<String>,
    },
    /// A name server is silent.
    #[error(
        "the name server {name_server} did not answer within {} ms; see whether it runs and port 53 (UDP and TCP) is \
         open to it, or name others in dns_servers",
        .after.as_millis()
    )]
    NotAnswered {
        /// Who was asked.
        name_server: String,
        /// How long it was given.
        after: Duration,
    },
    /// A name server cannot or will not answer.
    #[error("the name server {name_server} failed at {name}: {problem}; name others in dns_servers, or mend it")]
    Failed {
        /// What was asked for.
        name: String,
        /// Who was asked.
        name_server: String,
        /// What it said.
        problem: String,
    },
}

/// Knows what to ask DNS for.
#[derive(Clone, Debug)]
pub struct Finder {
    domain: String,
    scheme: Scheme,
    name_servers: Vec<SocketAddr>,
    domain_controllers: Service,
    global_catalogs: Service,
    domain_name: Name,
}

/// The names of one kind of server.
#[derive(Clone, Debug)]
struct Service {
    of_site: Option<Question>,
    of_domain: Question,
    /// Where it listens for TLS, which no record says. `None`: at the port of its record, without TLS.
    tls_port: Option<u16>,
}

#[derive(Clone, Debug)]
struct Question {
    text: String,
    name: Name,
}

/// What DNS said of one name.
#[derive(Debug, Default)]
struct Answer {
    records: Vec<Record>,
    lifetime: Option<Duration>,
    oddities: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Record {
    priority: u16,
    weight: u16,
    port: u16,
    host: String,
    /// Said of the site, not only of the domain.
    nearby: bool,
}

impl Finder {
    /// Names the questions; nothing is asked yet. Without `name_servers` those of the system are asked.
    ///
    /// # Errors
    /// [`FindError::BadSite`], [`FindError::BadDomain`].
    pub fn new(
        domain: &str,
        site: Option<&str>,
        name_servers: &[SocketAddr],
        scheme: Scheme,
    ) -> Result<Finder, FindError> {
        let bad_domain = |problem: String| FindError::BadDomain { domain: domain.to_owned(), problem };
        let domain_name = name([domain]).map_err(bad_domain)?;
        let service = |service: &str, tls_port| {
            let of_domain = question([service, domain]).map_err(bad_domain)?;
            let of_site = |site: &str| {
                question([service, site, "_sites", domain])
                    .map_err(|problem| FindError::BadSite { site: site.to_owned(), problem })
            };
            let tls_port = (scheme == Scheme::Ldaps).then_some(tls_port);
            Ok(Service { of_site: site.map(of_site).transpose()?, of_domain, tls_port })
        };
        Ok(Finder {
            domain_controllers: service("_ldap._tcp", LDAPS_PORT)?,
            global_catalogs: service("_gc._tcp", GLOBAL_CATALOG_TLS_PORT)?,
            domain: domain.to_owned(),
            name_servers: name_servers.to_vec(),
            scheme,
            domain_name,
        })
    }

    /// Asks the name servers in turn, until one knows a domain controller. All together have `patience`.
    pub async fn find(&self, patience: Duration) -> Result<Found, FindError> {
        let name_servers = self.name_servers()?;
        let deadline = Instant::now() + patience;
        let mut told = FindError::NoNameServer { problem: "the list is empty".to_owned() };
        for (asked, name_server) in name_servers.iter().enumerate() {
            let left = u32::try_from(name_servers.len() - asked).unwrap_or(u32::MAX);
            let patience = deadline.saturating_duration_since(Instant::now()) / left;
            match self.find_by(name_server, patience).await {
                Ok(found) => return Ok(found),
                // What one of them says tells more than the silence of another.
                Err(error) if matches!(told, FindError::NoNameServer { .. } | FindError::NotAnswered { .. }) => {
                    told = error;
                }
                Err(_) => {}
            }
        }
        Err(told)
    }

    fn name_servers(&self) -> Result<Vec<NameServerConfig>, FindError> {
        if self.name_servers.is_empty() {
            let (config, _) =
                read_system_conf().map_err(|error| FindError::NoNameServer { problem: error.to_string() })?;
            return Ok(config.name_servers().to_vec());
        }
        let at = |address: &SocketAddr| {
            let mut name_server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut name_server.connections {
                connection.port = address.port();
            }
            name_server
        };
        Ok(self.name_servers.iter().map(at).collect())
    }

    async fn find_by(&self, name_server: &NameServerConfig, patience: Duration) -> Result<Found, FindError> {
        let asking = Asking::new(name_server, self.name_servers.is_empty(), patience)?;
        let (domain_controllers, global_catalogs) =
            tokio::join!(asking.service(&self.domain_controllers), asking.service(&self.global_catalogs));
        let (domain_controllers, global_catalogs) = (domain_controllers?, global_catalogs?);
        if domain_controllers.records.is_empty() {
            return Err(self.without_records(&asking).await);
        }
        let hosts = domain_controllers.records.iter().chain(&global_catalogs.records);
        let addresses = asking.addresses(hosts.map(|record| record.host.clone()).collect()).await;
        let mut odd = Vec::new();
        let mut lifetimes: Vec<_> = domain_controllers.lifetime.into_iter().chain(global_catalogs.lifetime).collect();
        let mut places = |answer: &Answer| {
            let mut places = Vec::new();
            for Record { host, port, nearby, .. } in &answer.records {
                match addresses.get(host) {
                    Some(Ok((addresses, lifetime))) => {
                        lifetimes.push(*lifetime);
                        let Some(url) = url(self.scheme, host, *port) else { continue };
                        let at = |ip: &IpAddr| Place {
                            url: url.clone(),
                            address: SocketAddr::new(*ip, *port),
                            nearby: *nearby,
                        };
                        places.extend(addresses.iter().map(at));
                    }
                    Some(Err(problem)) => odd.push(format!("the server {host} is left out: {problem}")),
                    None => {}
                }
            }
            places
        };
        let found_controllers = places(&domain_controllers);
        let found_catalogs = places(&global_catalogs);
        if found_controllers.is_empty() {
            let hosts = domain_controllers.records.into_iter().take(SOME).map(|record| record.host).collect();
            return Err(FindError::NoAddress { name: self.domain_controllers.of_domain.text.clone(), hosts });
        }
        if found_catalogs.is_empty() {
            odd.push(format!("no global catalog is known to DNS as {}", self.global_catalogs.of_domain.text));
        }
        let mut oddities = domain_controllers.oddities;
        oddities.extend(global_catalogs.oddities);
        odd.sort();
        odd.dedup();
        oddities.extend(odd);
        let lifetime = lifetimes.into_iter().min().unwrap_or(LIFETIME_MIN);
        let ask_again_after =
            if oddities.is_empty() { lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX) } else { LIFETIME_MIN };
        Ok(Found { domain_controllers: found_controllers, global_catalogs: found_catalogs, ask_again_after, oddities })
    }

    /// Whether there is no such domain, or only no record of its servers: the same answer may mean either.
    async fn without_records(&self, asking: &Asking) -> FindError {
        let name_server = asking.name_server.clone();
        let start = asking.resolver.soa_lookup(self.domain_name.clone());
        match timeout_at(asking.deadline, start).await {
            Ok(Err(error)) if error.is_nx_domain() => {
                FindError::NoSuchDomain { domain: self.domain.clone(), name_server }
            }
            _ => FindError::NoRecords { name: self.domain_controllers.of_domain.text.clone(), name_server },
        }
    }
}

/// One name server, asked until a deadline.
struct Asking {
    resolver: TokioResolver,
    name_server: String,
    patience: Duration,
    deadline: Instant,
}

impl Asking {
    fn new(name_server: &NameServerConfig, of_system: bool, patience: Duration) -> Result<Asking, FindError> {
        let config = ResolverConfig::from_name_servers(vec![name_server.clone()]);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.attempts = 1; // and once again, should the first packet be lost
        options.timeout = patience / 2;
        options.cache_size = 0; // whoever asks keeps the answer
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = if of_system { ResolveHosts::Always } else { ResolveHosts::Never };
        options.max_active_requests = 4 * SERVERS_MAX; // two kinds of server, two kinds of address
        let name_server = name_server.ip.to_string();
        let failed = |error: NetError| FindError::NoNameServer { problem: error.to_string() };
        let resolver = builder.build().map_err(failed)?;
        Ok(Asking { resolver, name_server, patience, deadline: Instant::now() + patience })
    }

    /// The servers of the site, then the others, each once.
    async fn service(&self, service: &Service) -> Result<Answer, FindError> {
        let of_site = async {
            match &service.of_site {
                Some(question) => self.records(question).await,
                None => Ok(Answer::default()),
            }
        };
        let (of_site, of_domain) = tokio::join!(of_site, self.records(&service.of_domain));
        let mut answer = Answer::default();
        if let (Some(question), Ok(in_site), Ok(in_domain)) = (&service.of_site, &of_site, &of_domain)
            && in_site.records.is_empty()
            && !in_domain.records.is_empty()
        {
            answer.oddities.push(format!(
                "no server is known to DNS as {}, so those of all sites are used; see that the site's name is right",
                question.text
            ));
        }
        let mut failure = None;
        let mut ordered = Vec::new();
        for (said, nearby) in [(of_site, service.of_site.is_some()), (of_domain, false)] {
            match said {
                Ok(said) => {
                    let records = in_order(said.records, &mut |below| fastrand::u64(..below));
                    ordered.extend(records.into_iter().map(|record| Record { nearby, ..record }));
                    answer.lifetime = answer.lifetime.into_iter().chain(said.lifetime).min();
                    answer.oddities.extend(said.oddities);
                }
                Err(error) => {
                    answer.oddities.push(error.to_string());
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = failure.filter(|_| ordered.is_empty()) {
            return Err(error);
        }
        for record in &mut ordered {
            record.port = service.tls_port.unwrap_or(record.port);
        }
        let mut known = HashSet::new();
        ordered.retain(|record| known.insert((record.host.clone(), record.port)));
        if ordered.len() > SERVERS_MAX {
            let (all, name) = (ordered.len(), &service.of_domain.text);
            answer.oddities.push(format!("{all} servers are known to DNS as {name}; the first {SERVERS_MAX} are used"));
            ordered.truncate(SERVERS_MAX);
        }
        answer.records = ordered;
        Ok(answer)
    }

    /// The SRV records of a name. None: the name is unknown, has no such records, or says that there is no such server.
    async fn records(&self, question: &Question) -> Result<Answer, FindError> {
        let lookup = match timeout_at(self.deadline, self.resolver.srv_lookup(question.name.clone())).await {
            Ok(Ok(lookup)) => lookup,
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(_)))) => return Ok(Answer::default()),
            Ok(Err(NetError::Timeout)) | Err(_) => {
                return Err(FindError::NotAnswered { name_server: self.name_server.clone(), after: self.patience });
            }
            Ok(Err(error)) => {
                return Err(FindError::Failed {
                    name: question.text.clone(),
                    name_server: self.name_server.clone(),
                    problem: error.to_string(),
                });
            }
        };
        let mut answer = Answer::default();
        for record in lookup.answers() {
            let RData::SRV(srv) = &record.data else { continue };
            let lifetime = Duration::from_secs(record.ttl.into());
            answer.lifetime = answer.lifetime.into_iter().chain([lifetime]).min();
            if srv.target.is_root() {
                continue; // "the service is decidedly not available" (RFC 2782)
            }
            match host(&srv.target) {
                Some(host) => {
                    answer.records.push(Record {
                        priority: srv.priority,
                        weight: srv.weight,
                        port: srv.port,
                        host,
                        nearby: false,
                    });
                }
                None if answer.oddities.len() < SOME => {
                    let target = srv.target.to_ascii();
                    answer.oddities.push(format!("{} names `{target}`, which is not a host name", question.text));
                }
                None => {}
            }
        }
        Ok(answer)
    }

    /// The addresses of all hosts, or what is wrong with one. Asks for all at once: whoever is silent delays nobody.
    async fn addresses(&self, hosts: HashSet<String>) -> HashMap<String, Result<Addresses, String>> {
        let mut lookups = JoinSet::new();
        for host in hosts {
            let (resolver, deadline) = (self.resolver.clone(), self.deadline);
            lookups.spawn(async move {
                let late = |_| Err("its address was not told in time".to_owned());
                let found = timeout_at(deadline, addresses(&resolver, &host)).await.unwrap_or_else(late);
                (host, found)
            });
        }
        let mut all = HashMap::new();
        while let Some(joined) = lookups.join_next().await {
            all.extend(joined.ok());
        }
        all
    }
}

/// Of one host, and how long they hold.
type Addresses = (Vec<IpAddr>, Duration);

async fn addresses(resolver: &TokioResolver, host: &str) -> Result<Addresses, String> {
    let none = || "it has no address in DNS".to_owned();
    let lookup = match resolver.lookup_ip(name([host])?).await {
        Ok(lookup) => lookup,
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => return Err(none()),
        Err(error) => return Err(error.to_string()),
    };
    let lifetime = lookup.as_lookup().answers().iter().map(|record| record.ttl).min().ok_or_else(none)?;
    Ok((lookup.iter().take(ADDRESSES_MAX).collect(), Duration::from_secs(lifetime.into())))
}

/// By priority; equal ones drawn by weight (RFC 2782). `draw(n)` gives a number below n.
fn in_order(mut records: Vec<Record>, draw: &mut impl FnMut(u64) -> u64) -> Vec<Record> {
    // Those of weight 0 first among equals, which are then seldom drawn before the others.
    records.sort_by_key(|record| (record.priority, record.weight != 0));
    let mut ordered = Vec::new();
    while let Some(priority) = records.first().map(|record| record.priority) {
        let equals = records.partition_point(|record| record.priority == priority);
        let sum: u64 = records.iter().take(equals).map(|record| u64::from(record.weight)).sum();
        let drawn = draw(sum + 1);
        let mut running = 0;
        let chosen = records.iter().take(equals).position(|record| {
            running += u64::from(record.weight);
            running >= drawn
        });
        ordered.push(records.remove(chosen.unwrap_or_default()));
    }
    ordered
}

/// A name of several parts, each of one label or more. Its bytes are those of the text in UTF-8, which is what Windows
/// registers, spaces included; IDNA would ask for another name.
fn name<const N: usize>(parts: [&str; N]) -> Result<Name, String> {
    let labels: Vec<_> = parts.iter().flat_map(|part| part.split('.')).collect();
    for label in &labels {
        if label.is_empty() {
            return Err("a part between dots is empty".to_owned());
        }
        if label.len() > LABEL_BYTES_MAX {
            return Err(format!("`{label}` has {} bytes, and DNS allows {LABEL_BYTES_MAX}", label.len()));
        }
        if label.contains(char::is_control) {
            return Err(format!("{label:?} has a control character"));
        }
    }
    Name::from_labels(labels.into_iter().map(str::as_bytes))
        .map_err(|_| "the whole name is too long for DNS".to_owned())
}

fn question<const N: usize>(parts: [&str; N]) -> Result<Question, String> {
    Ok(Question { name: name(parts)?, text: parts.join(".") })
}

/// The text of a host name; `None` if a certificate could not bear it or a URL not have it.
fn host(name: &Name) -> Option<String> {
    let mut labels = Vec::new();
    for label in name {
        let label = std::str::from_utf8(label).ok()?;
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
            return None;
        }
        labels.push(label.to_ascii_lowercase());
    }
    Some(labels.join("."))
}

fn url(scheme: Scheme, host: &str, port: u16) -> Option<Url> {
    let (scheme, usual) = match scheme {
        Scheme::Ldap => ("ldap", LDAP_PORT),
        Scheme::Ldaps => ("ldaps", LDAPS_PORT),
    };
    let port = if port == usual { String::new() } else { format!(":{port}") };
    Url::parse(&format!("{scheme}://{host}{port}")).ok()
}

const LDAP_PORT: u16 = 389;
const LDAPS_PORT: u16 = 636;
const GLOBAL_CATALOG_TLS_PORT: u16 = 3269;
/// RFC 1035 section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;
/// Of each kind. More than one site's servers are never needed at once; a forest may have hundreds in all.
const SERVERS_MAX: usize = 64;
/// Of one server.
const ADDRESSES_MAX: usize = 8;
/// How many of many a message names.
const SOME: usize = 8;
/// A lifetime of 0 must not make the edge ask all the time.
const LIFETIME_MIN: Duration = Duration::from_secs(60);
/// A new domain controller is used within the hour, whatever the lifetimes.
const LIFETIME_MAX: Duration = Duration::from_secs(60 * 60);

#[cfg(test)]
mod tests;
