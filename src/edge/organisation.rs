//! The organisation as the edge uses it: topology, policy, and for every server the peer it is reached by.
//!
//! Built once per topology and swapped whole; a request works with one `Arc` of it from start to end.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use pingora_core::{
    protocols::{ALPN, tls::CustomALPN},
    tls::x509::X509,
    upstreams::peer::{HttpPeer, PeerOptions},
};
use tokio::task::JoinSet;
use url::Url;

use super::{
    client::Bound,
    health::{Health, Member, WAYS},
    pin,
};
use crate::{
    config::{self, Config, MailTls, Trust, UpstreamTls},
    events::Event,
    routing::{
        self, Policy, Pool, Verdict,
        protocol::Protocol,
        topology::{AuthenticationMethods, Server, ServerId, Topology},
        version::Generation,
    },
};

/// Everything a request needs to know of the organisation.
pub struct Organisation {
    /// Sites, servers, virtual directories.
    pub topology: Topology,
    /// The administrator's choices.
    pub policy: Policy,
    /// Which servers answer, and which of their virtual directories work.
    pub health: Health,
    /// By server, then by origin. A server usually has one origin for all its virtual directories.
    origins: Vec<Vec<Origin>>,
    /// How servers are reached for POP3 and IMAP4.
    mail: config::Mail,
}

/// A place a server is reached at.
struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
    /// `None`: its name could not be resolved.
    peer: Option<HttpPeer>,
    trust: Arc<UpstreamTls>,
}

/// What is spoken at an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Web { tls: bool },
    Mail { protocol: Protocol, tls: MailTls },
}

impl Scheme {
    /// Whether a connection begins with TLS.
    fn tls(self) -> bool {
        matches!(self, Scheme::Web { tls: true } | Scheme::Mail { tls: MailTls::AtOnce, .. })
    }

    /// What is spoken under TLS, as servers are told, so that one of another protocol does not answer (RFC 7301).
    fn alpn(self) -> ALPN {
        match self {
            Scheme::Web { .. } => ALPN::H1, // Windows authentication and Exchange 2007 to 2010 know HTTP/1.1 only
            Scheme::Mail { protocol: Protocol::Pop3, .. } => ALPN::Custom(CustomALPN::new(b"pop3".to_vec())),
            Scheme::Mail { .. } => ALPN::Custom(CustomALPN::new(b"imap".to_vec())),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Scheme::Web { tls: false } => "http",
            Scheme::Web { tls: true } => "https",
            Scheme::Mail { protocol: Protocol::Pop3, tls: MailTls::AtOnce } => "pop3s",
            Scheme::Mail { protocol: Protocol::Pop3, .. } => "pop3",
            Scheme::Mail { tls: MailTls::AtOnce, .. } => "imaps",
            Scheme::Mail { .. } => "imap",
        }
    }
}

/// The ways in which servers are trusted, numbered. A connection that was opened in one way must not be used by a
/// server that is reached in another, so the number is part of the key under which Pingora reuses connections, which
/// itself does not tell certificate authorities or fingerprints apart. It is made of all that matters, because connections
/// outlive the configuration they were opened by, and the contents of its files.
struct Trusted {
    number: u64,
    tls: Arc<UpstreamTls>,
    authorities: Option<Arc<Box<[X509]>>>,
}

impl Trusted {
    fn by(tls: &UpstreamTls) -> Result<Self, OrganisationError> {
        let (authorities, pem) = match &tls.trust {
            Trust::CertificateAuthorities(path) => {
                let (authorities, pem) = authorities(path)?;
                (Some(Arc::new(authorities.into_boxed_slice())), pem)
            }
            Trust::System | Trust::Fingerprints(_) | Trust::Anything => (None, Vec::new()),
        };
        Ok(Trusted { number: number_of(tls, &pem), tls: Arc::new(tls.clone()), authorities })
    }
}

/// The number of a way to trust, for as long as the process runs. Pins have the lower ones.
fn number_of(tls: &UpstreamTls, authorities_pem: &[u8]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(format!("{tls:?}").as_bytes()).update(authorities_pem);
    let mut number = [0; 8];
    hasher.finalize_xof().fill(&mut number);
    u64::from_be_bytes(number) | pin::KEYS_END
}

/// How to reach a server for a protocol.
pub struct Target<'o> {
    /// The peer, ready to be cloned.
    pub peer: &'o HttpPeer,
    /// What its certificate is checked by beyond the peer's own options.
    pub trust: &'o UpstreamTls,
    /// Whether TLS begins by a command: of mail alone.
    pub start_tls: bool,
}

/// Why the organisation cannot be served at all.
#[derive(Debug, thiserror::Error)]
pub enum OrganisationError {
    /// A file with certificate authorities.
    #[error("{path}: {problem}")]
    CertificateAuthorities {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Organisation {
    /// Resolves every server's name and prepares its peers. A name that cannot be resolved is an event, not an error:
    /// the other servers serve on, and a server that `previous` knew an address of keeps it, or the one that was kept on
    /// disk.
    pub async fn new(
        topology: Topology,
        policy: Policy,
        config: &Config,
        previous: Option<&Organisation>,
        kept_addresses: &HashMap<(String, u16), SocketAddr>,
    ) -> Result<Self, OrganisationError> {
        let by_default = Trusted::by(&config.upstream.tls)?;
        let of_sites = config.sites.iter().map(|(site, tls)| Ok((site.as_str(), Trusted::by(tls)?)));
        let of_sites: HashMap<_, _> = of_sites.collect::<Result<_, OrganisationError>>()?;
        let mut origins = Vec::with_capacity(topology.servers().len());
        let spoken = spoken(config);
        let addresses = resolve_all(&topology, &policy, config, &spoken).await;
        for server in topology.servers() {
            let mut of_server: Vec<Origin> = Vec::new();
            for (scheme, host, port) in addresses_of(server, &policy, &config.mail, &spoken) {
                if of_server.iter().any(|known| known.is(scheme, &host, port)) {
                    continue;
                }
                let site = server.site.map(|id| topology.site(id).name.to_lowercase());
                let trusted = site.and_then(|name| of_sites.get(name.as_str())).unwrap_or(&by_default);
                let unasked = || Err("its name was not asked for".to_owned()); // every name of the topology was
                let address = match addresses.get(&(host.clone(), port)).cloned().unwrap_or_else(unasked) {
                    Ok(address) => Some(address),
                    Err(problem) => {
                        let kept = previous.and_then(|previous| previous.address(scheme, &host, port));
                        let kept = kept.or_else(|| kept_addresses.get(&(host.clone(), port)).copied());
                        let so = if kept.is_some() { "; its last address stays in force" } else { "" };
                        Event::ServerUnreachable.report(format_args!("{} ({host}): {problem}{so}", server.name));
                        kept
                    }
                };
                let peer = address.map(|address| HttpPeer {
                    options: options(config, trusted, scheme),
                    group_key: trusted.number,
                    ..HttpPeer::new(address, scheme.tls(), host.clone())
                });
                of_server.push(Origin { scheme, host, port, peer, trust: trusted.tls.clone() });
            }
            origins.push(of_server);
        }
        let members = topology.servers().iter().zip(&origins).map(|(server, origins)| Member {
            name: server.name.clone(),
            hash_seed: server.hash_seed,
            places: origins.iter().map(ToString::to_string).collect(),
            ways: ways(server, origins, &config.mail, &topology, &policy),
        });
        let known = previous.map(|previous| &previous.health);
        let health = Health::new(config.health.clone(), config.upstream.retry_dead_after, members.collect(), known);
        Ok(Organisation { topology, policy, health, origins, mail: config.mail.clone() })
    }

    /// Whether some server's name could not be resolved, so that it is worth trying again soon.
    pub fn has_unresolved(&self) -> bool {
        self.origins.iter().flatten().any(|origin| origin.peer.is_none())
    }

    /// The address of every host and port that has one.
    pub fn addresses(&self) -> HashMap<(String, u16), SocketAddr> {
        let origins = self.origins.iter().flatten();
        let address = |origin: &Origin| origin.peer.as_ref()?._address.as_inet().copied();
        origins.filter_map(|origin| Some(((origin.host.clone(), origin.port), address(origin)?))).collect()
    }

    /// Whether clients may sign in by Windows authentication at the local site.
    pub fn offers_windows_locally(&self, protocol: Protocol) -> bool {
        let servers = &self.topology.site(self.policy.local_site).client_access_servers;
        let accepts = |server: &ServerId| self.topology.server(*server).accepts(protocol);
        servers.iter().filter_map(accepts).any(AuthenticationMethods::integrated_windows)
    }

    /// Whether a server has a protocol's virtual directory. An Exchange 2003 server's are not objects that the edge reads.
    pub fn serves(&self, server: ServerId, protocol: Protocol) -> bool {
        let server = self.topology.server(server);
        match server.version.generation() {
            Some(Generation::Exchange2003) => {
                matches!(protocol, Protocol::LegacyOwa | Protocol::ActiveSync) || protocol.is_mail()
            }
            _ => protocol.virtual_directory().is_none() || server.virtual_directory(protocol).is_some(),
        }
    }

    /// Where the server that a client is signed in at stands in this topology.
    pub fn find(&self, bound: &Bound) -> Option<ServerId> {
        let unmoved = self.topology.servers().get(bound.server.0).is_some_and(|server| server.name == bound.name);
        if unmoved { Some(bound.server) } else { self.server_named(&bound.name) }
    }

    fn server_named(&self, name: &str) -> Option<ServerId> {
        self.topology.servers().iter().position(|server| server.name == name).map(ServerId)
    }

    fn address(&self, scheme: Scheme, host: &str, port: u16) -> Option<SocketAddr> {
        let known = self.origins.iter().flatten().find(|origin| origin.is(scheme, host, port))?;
        known.peer.as_ref()?._address.as_inet().copied()
    }

    /// How a server is reached for a protocol; `None` if its name does not resolve.
    pub fn target(&self, server: ServerId, protocol: Protocol) -> Option<Target<'_>> {
        let (scheme, host, port) = address_of(self.topology.server(server), protocol, &self.mail);
        let origin = self.origins[server.0].iter().find(|origin| origin.is(scheme, host, port))?;
        let start_tls = matches!(scheme, Scheme::Mail { tls: MailTls::StartTls, .. });
        Some(Target { peer: origin.peer.as_ref()?, trust: &origin.trust, start_tls })
    }

    /// [`Server::accepts`](crate::routing::topology::Server::accepts), by number.
    pub fn accepts(&self, server: ServerId, protocol: Protocol) -> Option<AuthenticationMethods> {
        self.topology.server(server).accepts(protocol)
    }

    /// The service principal name of a server where it serves a protocol, such as `HTTP/cas-opo-1.contoso.com`.
    pub fn service(&self, server: ServerId, protocol: Protocol) -> String {
        service_of(self.topology.server(server), protocol)
    }

    /// What `Host` calls a server where it serves a protocol.
    pub fn authority(&self, server: ServerId, protocol: Protocol) -> String {
        let (tls, host, port) = web_address_of(self.topology.server(server), protocol);
        if port == if tls { 443 } else { 80 } { host.to_owned() } else { format!("{host}:{port}") }
    }

    /// Whether clients could be sent to this virtual directory: it is there, and some mailbox's requests may go to it.
    pub fn may_be_sent_to(&self, server: ServerId, protocol: Protocol) -> bool {
        may_be_sent_to(self.topology.server(server), protocol, &self.topology, &self.policy)
    }
}

impl Origin {
    fn is(&self, scheme: Scheme, host: &str, port: u16) -> bool {
        self.scheme == scheme && self.port == port && self.host == host
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.name(), self.host, self.port)
    }
}

/// Of each protocol, which of the server's origins serves it, and whether clients could be sent to its virtual directory.
fn ways(
    server: &Server,
    origins: &[Origin],
    mail: &config::Mail,
    topology: &Topology,
    policy: &Policy,
) -> [(usize, bool); WAYS] {
    let mut ways = [(0, false); WAYS];
    for protocol in Protocol::ALL.into_iter().chain([Protocol::Opened]) {
        let (scheme, host, port) = address_of(server, protocol, mail);
        let origin = origins.iter().position(|origin| origin.is(scheme, host, port)).unwrap_or(0);
        ways[protocol as usize] = (origin, may_be_sent_to(server, protocol, topology, policy));
    }
    ways
}

/// See [`Organisation::may_be_sent_to`].
pub fn may_be_sent_to(server: &Server, protocol: Protocol, topology: &Topology, policy: &Policy) -> bool {
    let generation = server.version.generation();
    if generation == Some(Generation::Exchange2003) {
        return matches!(protocol, Protocol::LegacyOwa | Protocol::ActiveSync);
    }
    let Some(site) = server.site.filter(|_| server.client_access && server.virtual_directory(protocol).is_some())
    else {
        return false;
    };
    routing::judge(server, Pool { site, protocol, generation }, topology, policy) == Verdict::Kept
}

/// See [`Organisation::service`].
pub fn service_of(server: &Server, protocol: Protocol) -> String {
    format!("HTTP/{}", web_address_of(server, protocol).1)
}

/// Where a server serves a protocol: the virtual directory's InternalURL; else, for the services of the local pool that
/// have none, https on the server's own name. Exchange 2003 back-ends speak http on port 80, without SSL ([S74] in the
/// project's reference: SSL must be off on their virtual directories).
fn web_address_of(server: &Server, protocol: Protocol) -> (bool, &str, u16) {
    if server.version.generation() == Some(Generation::Exchange2003) {
        return (false, &server.fqdn, 80);
    }
    let internal_url = server.virtual_directory(protocol).and_then(|directory| directory.internal_url.as_ref());
    internal_url.and_then(origin_of).unwrap_or((true, &server.fqdn, 443))
}

/// The same of every protocol: POP3 and IMAP4 are spoken under the server's own name, by the ports of the configuration.
fn address_of<'s>(server: &'s Server, protocol: Protocol, mail: &config::Mail) -> (Scheme, &'s str, u16) {
    if protocol.is_mail() {
        let servers = mail.servers(server.version.generation());
        return (Scheme::Mail { protocol, tls: servers.tls }, &server.fqdn, servers.port(protocol));
    }
    let (tls, host, port) = web_address_of(server, protocol);
    (Scheme::Web { tls }, host, port)
}

/// The protocols that servers may be asked for: those of mail only where the edge listens for them.
fn spoken(config: &Config) -> Vec<Protocol> {
    let is_spoken = |protocol: &Protocol| !protocol.is_mail() || config.listens_for(*protocol);
    Protocol::ALL.into_iter().chain([Protocol::Opened]).filter(is_spoken).collect()
}

/// Every place the server is reached at. None for a mailbox server: no client's request ever goes there. None of mail for
/// Exchange 2007 in another site: the clients of its mailboxes are told to go there themselves.
fn addresses_of<'s>(
    server: &'s Server,
    policy: &Policy,
    mail: &'s config::Mail,
    spoken: &'s [Protocol],
) -> impl Iterator<Item = (Scheme, String, u16)> + 's {
    let generation = server.version.generation();
    let takes_clients = server.client_access || generation == Some(Generation::Exchange2003);
    let takes_mail = generation != Some(Generation::Exchange2007) || server.site == Some(policy.local_site);
    let is_asked = move |protocol: &&Protocol| takes_clients && (takes_mail || !protocol.is_mail());
    spoken.iter().filter(is_asked).map(|protocol| {
        let (scheme, host, port) = address_of(server, *protocol, mail);
        (scheme, host.to_owned(), port)
    })
}

fn origin_of(url: &Url) -> Option<(bool, &str, u16)> {
    Some((url.scheme() == "https", url.host_str()?, url.port_or_known_default()?))
}

/// The addresses of all names, or what is wrong with them. Asked at once: where DNS does not answer, hundreds of servers
/// cost one time-out and not hundreds.
async fn resolve_all(
    topology: &Topology,
    policy: &Policy,
    config: &Config,
    spoken: &[Protocol],
) -> HashMap<(String, u16), Result<SocketAddr, String>> {
    let mut known = HashMap::new();
    let mut lookups = JoinSet::new();
    let places = topology.servers().iter().flat_map(|server| addresses_of(server, policy, &config.mail, spoken));
    for (_, host, port) in places {
        let place = (host, port);
        if known.contains_key(&place) {
            continue;
        }
        if let Some(address) = config.resolve.get(&place.0, port) {
            known.insert(place, Ok(address));
            continue;
        }
        known.insert(place.clone(), Err("looking it up went wrong".to_owned())); // until it has an answer
        let patience = config.upstream.connect_timeout;
        lookups.spawn(async move { (resolve(&place.0, port, patience).await, place) });
    }
    while let Some(ended) = lookups.join_next().await {
        if let Ok((address, place)) = ended {
            known.insert(place, address);
        }
    }
    known
}

async fn resolve(host: &str, port: u16, patience: Duration) -> Result<SocketAddr, String> {
    if let Ok(ip) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, port));
    }
    let lookup = tokio::time::timeout(patience, tokio::net::lookup_host((host, port)));
    match lookup.await {
        Ok(Ok(mut addresses)) => addresses.next().ok_or_else(|| "its name has no address".into()),
        Ok(Err(error)) => Err(format!("its name does not resolve: {error}")),
        Err(_) => Err(format!("its name did not resolve within {} ms", patience.as_millis())),
    }
}

fn options(config: &Config, trusted: &Trusted, scheme: Scheme) -> PeerOptions {
    let mut options = PeerOptions::new();
    options.connection_timeout = Some(config.upstream.connect_timeout);
    options.total_connection_timeout = Some(config.upstream.total_connect_timeout);
    options.idle_timeout = Some(config.upstream.idle_timeout);
    options.alpn = scheme.alpn();
    options.ca.clone_from(&trusted.authorities);
    match &trusted.tls.trust {
        Trust::System | Trust::CertificateAuthorities(_) => {}
        // The fingerprint is compared once the connection stands, before anything is sent on it.
        Trust::Fingerprints(_) | Trust::Anything => {
            options.verify_cert = false;
            options.verify_hostname = false;
        }
    }
    options
}

/// The certificate authorities in a file, and the file.
fn authorities(path: &Path) -> Result<(Vec<X509>, Vec<u8>), OrganisationError> {
    let error =
        |problem: String| OrganisationError::CertificateAuthorities { path: path.display().to_string(), problem };
    let pem = std::fs::read(path).map_err(|problem| error(problem.to_string()))?;
    let certificates = X509::stack_from_pem(&pem).map_err(|problem| error(problem.to_string()))?;
    if certificates.is_empty() {
        return Err(error("has no certificate; a PEM file with BEGIN CERTIFICATE is needed".into()));
    }
    Ok((certificates, pem))
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;
    use crate::directory::{ldif, schema};

    #[test]
    fn servers_that_are_trusted_otherwise_share_no_connections() {
        let tls = |trust, allow_tls_1_0| UpstreamTls { trust, allow_tls_1_0 };
        let file = || Trust::CertificateAuthorities("ca.pem".into());
        let ways = [
            (tls(Trust::System, false), &b""[..]),
            (tls(Trust::System, true), b""),
            (tls(Trust::Anything, false), b""),
            (tls(Trust::Fingerprints(vec![[1; 32]]), false), b""),
            (tls(Trust::Fingerprints(vec![[2; 32]]), false), b""),
            (tls(file(), false), b"one"),
            (tls(file(), false), b"another, put in its place"),
        ];
        let numbers: std::collections::BTreeSet<_> = ways.iter().map(|(tls, pem)| number_of(tls, pem)).collect();
        assert_eq!(numbers.len(), ways.len());
        assert_eq!(number_of(&ways[5].0, b"one"), number_of(&tls(file(), false), b"one"), "the same is the same again");
        assert!(numbers.first() >= Some(&pin::KEYS_END), "pins have the lower ones");
    }

    #[tokio::test]
    async fn a_server_whose_name_does_not_resolve_is_reached_where_it_was() {
        let contoso = include_str!("../../conf/contoso.ldif").replace(".contoso.com", ".contoso.invalid");
        let folder = tempfile::tempdir().expect("a folder");
        let [file, ldif_file] = ["firstcas.toml", "contoso.ldif"].map(|name| folder.path().join(name));
        std::fs::write(&ldif_file, &contoso).expect("written");
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[directory]\nldif = {ldif_file:?}\n[routing]\nlocal_site = \"Porto\"\n"
        );
        std::fs::write(&file, text).expect("written");
        let config = Config::load(&file).expect("a good configuration");
        let topology = Topology::new(schema::topology(&ldif::parse(contoso.as_bytes()).expect("LDIF")).parts);
        let policy = config.policy(&topology).expect("Porto is there");
        let cas = topology.servers().iter().position(|server| server.name == "cas-opo-1").map(ServerId);
        let cas = cas.expect("a server of that name");
        let place = ("cas-opo-1.contoso.invalid".to_owned(), 443);
        let kept = HashMap::from([(place, "127.0.0.9:1443".parse().expect("an address"))]);
        for (kept, is_reached) in [(HashMap::new(), false), (kept, true)] {
            let organisation = Organisation::new(topology.clone(), policy.clone(), &config, None, &kept).await;
            let organisation = organisation.expect("no authorities to load");
            assert_eq!(organisation.target(cas, Protocol::Owa).is_some(), is_reached);
            assert_eq!(organisation.addresses(), kept);
        }
    }
}
