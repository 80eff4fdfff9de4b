//! Settings as the program uses them: every path, address and number checked, every default filled in.
//!
//! `file` has them as the administrator writes them, and turns one into the other, reporting every mistake at once.

mod file;
pub(crate) mod files;
mod live;
mod mistake;
mod policy;
mod section;
pub(crate) mod values;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
pub use live::Kept;
pub use mistake::{ConfigErrors, Mistake};

use crate::{
    directory,
    identity::keytab::Keytab,
    routing::{EasVersion, protocol::Protocol, sign_in::Means, version::Generation},
    secret::Secret,
};

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the edge listens; at least one.
    pub listeners: Vec<Listener>,
    /// Where people, mailboxes and the organisation are looked up.
    pub directory: Directory,
    /// How often the directory is asked for what has changed.
    pub watch_interval: Duration,
    /// Where the last good topology and the known mailboxes are kept for a start without directory; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// How long and how many answers of the directory are remembered.
    pub cache: directory::cache::Settings,
    /// What the administrator decides about the routing rules.
    pub routing: Routing,
    /// Addresses that replace DNS, by host and port.
    pub resolve: Resolve,
    /// How Client Access Servers and back-ends are reached.
    pub upstream: Upstream,
    /// How the servers of a site are reached where it differs from [`Upstream::tls`]; by site name in lower case.
    pub sites: HashMap<String, UpstreamTls>,
    /// How the servers' health is watched.
    pub health: Health,
    /// Time-outs of each protocol.
    pub timeouts: Timeouts,
    /// Upper bounds on what a client may send.
    pub limits: Limits,
    /// Bounds on client connections that have upstream connections of their own.
    pub pins: Pins,
    /// The cookie that takes a client's next connection to its mailbox's site.
    pub affinity: Affinity,
    /// The form that browsers log on by, on listeners that have it.
    pub logon_form: LogonForm,
    /// The service account's keys, which open the Kerberos tickets that clients send.
    pub keytab: Option<Arc<Keytab>>,
    /// POP3 and IMAP4, on listeners that speak them.
    pub mail: Mail,
    /// How the edge signs in to servers for users; `None`: it does not, and passes on what clients send.
    pub sign_in: Option<SignIn>,
    /// Where administrators look at the edge; `None`: nowhere.
    pub admin: Option<Admin>,
    /// How the log is written.
    pub log: Log,
    /// Threads that serve clients.
    pub threads: usize,
    /// How long SIGTERM lets requests in flight, and sessions of mail that are not quiet, finish.
    pub drain_timeout: Duration,
    /// Where this process's number is written; `None`: nowhere.
    pub pid_file: Option<PathBuf>,
    /// How a running process is taken over from.
    pub upgrade: Upgrade,
}

/// How a running process is taken over from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Where the two processes meet; `None`: the edge cannot be upgraded while it runs.
    pub socket: Option<PathBuf>,
    /// How long the new process may take until it serves.
    pub timeout: Duration,
    /// How long the old process lives on for the clients that it has.
    pub drain_timeout: Duration,
}

/// One listening address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// `None`: plain http.
    pub tls: Option<ListenerTls>,
    /// A plain http listener sends every client to this https origin (`https://mail.contoso.com`) instead of serving,
    /// but those that a trusted proxy says have come by https.
    pub redirect_to_https: Option<url::Url>,
    /// Whether every connection begins with a PROXY protocol header, which a trusted proxy has put there.
    pub proxy_protocol: bool,
    /// Balancers and proxies that are believed when they say who the client is: in the PROXY protocol header, and in
    /// `X-Forwarded-For`.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether browsers log on by a form here.
    pub logon_form: bool,
    /// What it speaks besides http; `None`: nothing.
    pub mail: Option<MailListener>,
}

/// A listener for POP3 or IMAP4 instead of http.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailListener {
    /// [`Protocol::Pop3`] or [`Protocol::Imap4`].
    pub protocol: Protocol,
    /// With TLS: whether it begins by a command (`STLS`, `STARTTLS`) and not at once.
    pub start_tls: bool,
    /// Whether a password may be sent without TLS.
    pub allow_plain_logon: bool,
}

/// TLS of a listener: 1.2 and 1.3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTls {
    /// What it shows, by the name that a client asks for; at least one. The first is for those that ask for no other.
    pub certificates: Vec<CertificateFiles>,
    /// Whether HTTP/2 is offered. Off by default: Windows authentication works over HTTP/1.1 only.
    pub http2: bool,
    /// Whose client certificates prove who somebody is; `None`: clients are asked for none.
    pub clients: Option<ClientCertificates>,
}

/// A certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the certificate chain, the listener's own first.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
}

/// By what client certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// PEM file with the authorities that issue them.
    pub ca: PathBuf,
    /// Whether a client without one is turned away.
    pub required: bool,
}

/// The directory's source.
#[derive(Clone, Debug)]
pub enum Directory {
    /// An LDIF file, read into memory.
    Ldif(PathBuf),
    /// LDAP servers.
    Ldap {
        /// Those of the forest that Exchange is in.
        forest: Box<directory::ldap::Settings>,
        /// Those of the forests whose accounts have linked mailboxes.
        account_forests: Vec<directory::ldap::Settings>,
    },
}

/// Choices about the rules; [`crate::routing::Policy`] once the topology is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Name of the site the edge stands in; `None`: the site whose subnet holds a listener's address.
    pub local_site: Option<String>,
    /// See [`crate::routing::Policy::allow_http_internal_url`].
    pub allow_http_internal_url: bool,
    /// See [`crate::routing::Policy::allow_http_external_url`].
    pub allow_http_external_url: bool,
    /// See [`crate::routing::Policy::activesync_redirect_from`].
    pub activesync_redirect_from: Option<EasVersion>,
    /// See [`crate::routing::Policy::serve_from_neighbour_site`].
    pub serve_from_neighbour_site: bool,
    /// Paths served by the local pool although no protocol of ours: first segments, lower case, without slashes.
    pub open_paths: Vec<String>,
    /// How often the topology is read again.
    pub topology_refresh: Duration,
}

/// Addresses that replace DNS, as curl's `--resolve` and `--connect-to` do. Hosts in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolve {
    /// By host and port.
    pub by_host_and_port: HashMap<(String, u16), SocketAddr>,
    /// By host, for any port; the port stays the URL's.
    pub by_host: HashMap<String, std::net::IpAddr>,
}

/// How Client Access Servers and back-ends are reached.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// TLS to sites that have no entry in [`Config::sites`].
    pub tls: UpstreamTls,
    /// How long a TCP connection may take.
    pub connect_timeout: Duration,
    /// How long TCP connection and TLS handshake together may take.
    pub total_connect_timeout: Duration,
    /// How long an idle connection is kept for the next request.
    pub idle_timeout: Duration,
    /// How long a server that refused a connection is left alone.
    pub retry_dead_after: Duration,
}

/// How a server's certificate is judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// By what the certificate is trusted.
    pub trust: Trust,
    /// Whether TLS 1.0 and 1.1 are accepted, for Exchange 2007 on Windows Server 2003 and 2008.
    pub allow_tls_1_0: bool,
}

/// By what a server's certificate is trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The system's certificate authorities.
    System,
    /// The certificate authorities in this PEM file.
    CertificateAuthorities(PathBuf),
    /// SHA-256 fingerprints of self-signed certificates; names and dates are not looked at.
    Fingerprints(Vec<[u8; 32]>),
    /// Nothing is checked. Written `insecure = true`, so that nobody does it by accident.
    Anything,
}

/// How the servers' health is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// How often each virtual directory is asked; `None`: never, requests alone find out.
    pub interval: Option<Duration>,
    /// How long connecting, and then the answer, may take.
    pub timeout: Duration,
    /// Bad checks in a row after which a server or virtual directory is out.
    pub fall: u32,
    /// Good checks in a row after which it is back.
    pub rise: u32,
    /// How long a server that is back takes to get all of its mailboxes back.
    pub slow_start: Duration,
    /// Checks under way at one time.
    pub checks_max: usize,
}

/// Time-outs, by protocol where they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// How long a client may stay silent between two requests on one connection.
    pub client_keepalive: Duration,
    /// How long a client may take between two reads of its request or writes of its answer. Outlook Anywhere and MAPI
    /// channels rest for longer: see [`Timeouts::client`].
    pub client: Duration,
    /// How long a server may stay silent: `ActiveSync`, where a Ping is held up to 59 minutes.
    pub activesync: Duration,
    /// ... EWS, where streaming notifications are held up to 30 minutes.
    pub ews: Duration,
    /// ... Outlook Anywhere and MAPI over HTTP, whose channels stay open for hours.
    pub rpc: Duration,
    /// ... everything else.
    pub web: Duration,
    /// How long the directory may keep a request waiting.
    pub directory: Duration,
}

/// Upper bounds, in bytes, on what a client may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Client connections at one time, over HTTP/2 requests; further ones are closed.
    pub client_connections: usize,
    /// Connections of one client, which is an IPv4 address or an IPv6 /64, at one time; further ones are closed.
    pub connections_per_client: usize,
    /// Failed logons from one client, of people who have not signed in from there lately, in one window.
    pub failed_logons_per_client: u32,
    /// Failed logons of one person, from where they have not signed in lately, in one window; and from each client where
    /// they have.
    pub failed_logons_per_user: u32,
    /// How long failed logons are counted, and then at most refused.
    pub failed_logons_window: Duration,
    /// `ActiveSync` requests of one device in a minute.
    pub activesync_requests_per_minute: u32,
    /// What a client must send of a body in each second, once it has taken longer than [`Timeouts::client`]; 0: any.
    pub body_rate_min_bytes: u64,
    /// A request's header: request line and all fields together.
    pub header_bytes: u64,
    /// Outlook Web Access, `/exchange`, `/ecp`.
    pub owa_body_bytes: u64,
    /// `ActiveSync`.
    pub activesync_body_bytes: u64,
    /// EWS.
    pub ews_body_bytes: u64,
    /// Outlook Anywhere and MAPI: a channel announces 1 GB and recycles itself within it.
    pub rpc_body_bytes: u64,
    /// Autodiscover, OAB and opened paths.
    pub other_body_bytes: u64,
}

/// Bounds on client connections that sign in by NTLM, Negotiate or the like, and so have upstream connections of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pins {
    /// How many there may be at one time.
    pub connections_max: usize,
    /// How long one may last.
    pub lifetime: Duration,
    /// How many requests one may send.
    pub requests_max: u64,
    /// How long one may wait between two requests.
    pub idle_timeout: Duration,
}

/// The affinity cookie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Affinity {
    /// The keys it is sealed by, 32 bytes each: the first seals, all open. None: a key is made at each start.
    pub keys: Vec<Secret>,
    /// How long it is believed.
    pub lifetime: Duration,
}

/// The form that browsers log on by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogonForm {
    /// How long nothing may be done on a computer that others use, until the form comes again.
    pub public_timeout: Duration,
    /// The same on one's own computer.
    pub private_timeout: Duration,
    /// How long a logon lasts, however much is done.
    pub lifetime: Duration,
    /// The keys that its cookies are sealed by, 32 bytes each: the first seals, all open. None: a key is made at each start.
    pub keys: Vec<Secret>,
    /// What it asks for.
    pub user_name: UserName,
    /// The domain of a name that is written without one.
    pub default_domain: Option<String>,
}

/// In which form people are asked for their name (Exchange's `LogonFormat`). Every other is taken, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UserName {
    /// `contoso\ana`.
    WithDomain,
    /// `ana@contoso.com`.
    Email,
    /// `ana`.
    Bare,
}

/// POP3 and IMAP4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    /// The name in the greeting; `None`: the first in the listener's certificate.
    pub host: Option<String>,
    /// How Exchange 2003 back-ends are reached.
    pub back_ends: MailServers,
    /// How Client Access Servers are reached.
    pub client_access_servers: MailServers,
    /// How long a client may take to log on.
    pub logon_timeout: Duration,
    /// How long a server may take to let somebody in, or not.
    pub server_timeout: Duration,
    /// How long a logged-on POP3 client may be silent.
    pub pop3_idle_timeout: Duration,
    /// The same in IMAP4.
    pub imap4_idle_timeout: Duration,
    /// When, after it was asked for, a refusal of a logon leaves.
    pub refusal_delay: Duration,
    /// What every server behind offers in POP3, besides what the edge does itself.
    pub pop3_capabilities: Arc<[String]>,
    /// The same in IMAP4.
    pub imap4_capabilities: Arc<[String]>,
    /// The server whose challenges of Windows authentication are passed on; `None`: it is not offered.
    pub ntlm_server: Option<String>,
}

/// How servers are reached for POP3 and IMAP4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MailServers {
    /// When TLS begins.
    pub tls: MailTls,
    /// Port of POP3.
    pub pop3_port: u16,
    /// Port of IMAP4.
    pub imap4_port: u16,
}

/// When TLS begins towards a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MailTls {
    /// Never: passwords cross the network in clear.
    None,
    /// By `STLS` or `STARTTLS`; a server that does not offer it gets no password.
    StartTls,
    /// At once, on ports of its own.
    AtOnce,
}

/// How the edge signs in to servers for users, by Kerberos.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignIn {
    /// By what it gets their tickets, the preferred first; at least one.
    pub by: Vec<SignInBy>,
    /// MIT keytab of the edge's own account, for delegation.
    pub keytab: Option<PathBuf>,
    /// That account, as `firstcas@CONTOSO.COM`; `None` without a keytab.
    pub account: Option<String>,
    /// Whether a name and password are passed on to servers that accept Basic, too.
    pub pass_basic_on: bool,
    /// How long a request may wait for tickets.
    pub timeout: Duration,
    /// Users whose tickets are kept at one time.
    pub users_max: u64,
}

/// Unless the settings say otherwise.
pub const USERS_MAX: u64 = 20_000;

impl SignIn {
    /// The preferred way to the tickets of a user, of those that are open: whether they have sent a password, or are proven
    /// without one.
    pub fn by(&self, has_password: bool) -> Option<SignInBy> {
        self.by.iter().copied().find(|by| match by {
            SignInBy::Password => has_password,
            SignInBy::Delegation => self.account.is_some(),
        })
    }

    /// What the edge has to show for them, if the directory shows their Kerberos name.
    pub fn means(&self, has_principal: bool, has_password: bool) -> Means {
        Means {
            tickets: has_principal && self.by(has_password).is_some(),
            password: has_password,
            pass_basic_on: self.pass_basic_on,
        }
    }
}

/// By what the edge gets a user's tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInBy {
    /// By the password that the user has sent.
    Password,
    /// By its own account, which may sign in for others (S4U2Self and S4U2Proxy, [MS-SFU]).
    Delegation,
}

/// Where administrators look at the edge: the status page, and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// Names by which it may be called, besides IP addresses and `localhost`; in lower case.
    pub hosts: Vec<String>,
}

/// How the log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its line format.
    pub format: LogFormat,
    /// `env_logger` filter, such as `info` or `info,firstcas::access=off`; `RUST_LOG` overrides it.
    pub filter: String,
    /// Where events go besides the log.
    pub events: Vec<EventOutlet>,
}

/// Where events can go besides the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutlet {
    /// The syslog daemon of this machine, by /dev/log.
    Syslog,
    /// The journal of systemd, with fields to search by.
    Journald,
}

/// The line format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `key=value` pairs.
    KeyValue,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Whether the edge may sign in for people by its own account.
    pub fn delegates(&self) -> bool {
        self.sign_in.as_ref().is_some_and(|settings| settings.by.contains(&SignInBy::Delegation))
    }

    /// Reads the file and everything it names. Relative paths, the file's and those in it, start at the working
    /// directory of the process; the paths of the result are absolute.
    ///
    /// # Errors
    /// Every mistake in it, not only the first.
    pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
        file::load(path, &files::Surroundings::of_this_process())
    }

    /// The keytab that the edge itself signs in with, to the directory or for users; both are the same.
    pub fn client_keytab(&self) -> Option<&Path> {
        let for_users = self.sign_in.as_ref().and_then(|sign_in| sign_in.keytab.as_deref());
        for_users.or_else(|| self.directory.keytab())
    }
}

impl Directory {
    /// The keytab that the edge signs in to it with, if it does; one for all forests.
    pub fn keytab(&self) -> Option<&Path> {
        let Directory::Ldap { forest, account_forests } = self else { return None };
        std::iter::once(&**forest).chain(account_forests).find_map(|forest| match &forest.account {
            directory::ldap::Account::Keytab(file) => Some(&**file),
            directory::ldap::Account::Anonymous | directory::ldap::Account::Password { .. } => None,
        })
    }

    /// Reads the file, or prepares the servers' directory, which is first connected to by the first question.
    ///
    /// # Errors
    /// The file is not LDIF, or the servers' settings cannot work.
    pub fn open(
        &self,
        tell: &directory::Tell,
    ) -> Result<directory::organisation::Organisation, directory::DirectoryError> {
        match self {
            Directory::Ldif(path) => directory::ldif::open(path),
            Directory::Ldap { forest, account_forests } => {
                directory::ldap::open((**forest).clone(), account_forests.clone(), tell)
            }
        }
    }
}

impl Config {
    /// Whether any listener speaks this protocol of mail.
    pub fn listens_for(&self, protocol: Protocol) -> bool {
        self.listeners.iter().any(|listener| listener.mail.is_some_and(|mail| mail.protocol == protocol))
    }
}

impl Mail {
    /// How servers of a generation are reached.
    pub fn servers(&self, generation: Option<Generation>) -> MailServers {
        if generation == Some(Generation::Exchange2003) { self.back_ends } else { self.client_access_servers }
    }
}

impl MailServers {
    /// The port of a protocol.
    pub fn port(self, protocol: Protocol) -> u16 {
        if protocol == Protocol::Pop3 { self.pop3_port } else { self.imap4_port }
    }
}

impl Listener {
    /// Whether this is a proxy that may say who the client is.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical(); // IPv4 clients of a `[::]` listener, too
        self.trusted_proxies.iter().any(|network| network.contains(&peer))
    }
}

impl Routing {
    /// The protocol of a percent-decoded path, opened ones included. `None`: the path is not served.
    pub fn protocol_of(&self, path: &str) -> Option<Protocol> {
        let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
        let opened = || self.open_paths.iter().any(|open| open.eq_ignore_ascii_case(first)).then_some(Protocol::Opened);
        Protocol::of_path(path).or_else(opened)
    }
}

impl Timeouts {
    /// How long a client may stay silent within a request of a protocol.
    pub fn client(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::OutlookAnywhere | Protocol::Mapi => self.rpc,
            Protocol::ActiveSync
            | Protocol::Ews
            | Protocol::Root
            | Protocol::Owa
            | Protocol::LegacyOwa
            | Protocol::Ecp
            | Protocol::Autodiscover
            | Protocol::Oab
            | Protocol::Pop3
            | Protocol::Imap4
            | Protocol::Opened => self.client,
        }
    }

    /// How long a server may stay silent in a protocol.
    pub fn server(&self, protocol: Protocol) -> Duration {
        match protocol {
            Protocol::ActiveSync => self.activesync,
            Protocol::Ews => self.ews,
            Protocol::OutlookAnywhere | Protocol::Mapi => self.rpc,
            Protocol::Root
            | Protocol::Owa
            | Protocol::LegacyOwa
            | Protocol::Ecp
            | Protocol::Autodiscover
            | Protocol::Oab
            | Protocol::Pop3
            | Protocol::Imap4
            | Protocol::Opened => self.web,
        }
    }
}

impl Config {
    /// Whether so much of a body in so much time is less than a client must send.
    pub fn is_too_slow(&self, protocol: Protocol, body_bytes: u64, taken: Duration) -> bool {
        let may_rest = matches!(protocol, Protocol::OutlookAnywhere | Protocol::Mapi);
        let least = self.limits.body_rate_min_bytes.saturating_mul(taken.as_secs());
        !may_rest && taken > self.timeouts.client && body_bytes < least
    }
}

impl Limits {
    /// The largest request body a protocol may carry, in bytes.
    pub fn body_bytes(&self, protocol: Protocol) -> u64 {
        match protocol {
            Protocol::Root | Protocol::Owa | Protocol::LegacyOwa | Protocol::Ecp => self.owa_body_bytes,
            Protocol::ActiveSync => self.activesync_body_bytes,
            Protocol::Ews => self.ews_body_bytes,
            Protocol::OutlookAnywhere | Protocol::Mapi => self.rpc_body_bytes,
            Protocol::Autodiscover | Protocol::Oab | Protocol::Pop3 | Protocol::Imap4 | Protocol::Opened => {
                self.other_body_bytes
            }
        }
    }
}

impl Resolve {
    /// The address the config gives a host and port, if it does.
    pub fn get(&self, host: &str, port: u16) -> Option<SocketAddr> {
        let host = host.to_ascii_lowercase();
        if let Some(ip) = self.by_host.get(&host) {
            return Some(SocketAddr::new(*ip, port));
        }
        self.by_host_and_port.get(&(host, port)).copied()
    }
}
