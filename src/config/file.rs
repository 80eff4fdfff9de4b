//! Settings as the administrator writes them, in TOML, turned into [`Config`]. `conf/firstcas.toml` shows every option with
//! its default and the reason for it; a test keeps the two in step.
//!
//! One function per table, in the order of the sample file. Each reads on after a mistake, so that all are reported.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    num::NonZero,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use ipnet::IpNet;
use toml::de::DeValue;

use super::{
    Admin, Affinity, CertificateFiles, ClientCertificates, Config, Directory, EventOutlet, Health, Limits, Listener,
    ListenerTls, Log, LogFormat, LogonForm, Mail, MailListener, MailServers, MailTls, Pins, Resolve, Routing, SignIn,
    SignInBy, Timeouts, Trust, USERS_MAX, Upgrade, Upstream, UpstreamTls, UserName,
    files::{self, Surroundings},
    mistake::{ConfigErrors, Mistake, closest},
    section::{Document, Section, Wrong, wrong},
    values::{count, duration, eas_version, fingerprint, number, origin, parsed, size, switch, text},
};
use crate::{
    directory::{cache, ldap},
    identity::{MailboxName, keytab::Keytab},
    routing::protocol::Protocol,
    secret::Secret,
};

/// Reads the file.
pub fn load(path: &Path, surroundings: &Surroundings) -> Result<Config, ConfigErrors> {
    let mistake = |Wrong { problem, cure }| Mistake { place: path.display().to_string(), problem, cure };
    let bytes = files::read(path).map_err(mistake)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let problem = format!("byte {} is not UTF-8", error.utf8_error().valid_up_to() + 1);
        mistake(wrong(problem, "save the file as UTF-8"))
    })?;
    read(path, &text, surroundings)
}

/// Reads a file's text. `path` is only for the places of mistakes.
pub fn read(path: &Path, text: &str, surroundings: &Surroundings) -> Result<Config, ConfigErrors> {
    let document = Document::parse(path, text)?;
    let root = document.root();

    let process = process(&root.section("process"), surroundings);
    let listeners = listeners(&root, surroundings);
    let routing = routing(&root.section("routing"));
    let directory_section = root.section("directory");
    let directory = directory(&directory_section, routing.local_site.as_deref(), surroundings);
    let watch_interval = directory_section.get("watch_interval", duration(WATCH)).unwrap_or(Duration::from_secs(3));
    let cache = cache(&root.section("cache"), &directory_section);
    drop(directory_section);
    let resolve = resolve(&root.section("resolve"));
    let upstream = upstream(&root.section("upstream"), surroundings);
    let sites = sites(&root.section("sites"), &upstream.tls, surroundings);
    let health = health(&root.section("health"));
    let timeouts = timeouts(&root.section("timeouts"));
    let limits = limits(&root.section("limits"));
    let pins = pins(&root.section("pins"), &limits);
    let affinity = affinity(&root.section("affinity"), surroundings);
    let logon_form = logon_form(&root.section("logon_form"), surroundings);
    let keytab = keytab(&root.section("kerberos"), surroundings);
    let mail = mail(&root.section("mail"), &listeners);
    let sign_in = sign_in(&root.section("sign_in"), directory.as_ref(), surroundings);
    let admin = admin(&root.section("admin"), &listeners);
    let log = log(&root.section("log"));

    drop(root);
    document.mistakes()?;
    let Some(directory) = directory else {
        let place = path.display().to_string();
        return Err(Mistake { place, problem: "there is no directory".into(), cure: DIRECTORY_CURE.into() }.into());
    };
    Ok(Config {
        listeners,
        directory,
        watch_interval,
        state_dir: process.state_dir,
        cache,
        routing,
        resolve,
        upstream,
        sites,
        health,
        timeouts,
        limits,
        pins,
        affinity,
        logon_form,
        keytab,
        mail,
        sign_in,
        admin,
        log,
        threads: process.threads,
        drain_timeout: process.drain_timeout,
        pid_file: process.pid_file,
        upgrade: process.upgrade,
    })
}

struct Process {
    threads: usize,
    drain_timeout: Duration,
    state_dir: Option<PathBuf>,
    pid_file: Option<PathBuf>,
    upgrade: Upgrade,
}

fn process(section: &Section<'_>, surroundings: &Surroundings) -> Process {
    Process {
        state_dir: section.get("state_dir", |value| surroundings.folder(value)),
        threads: section
            .get("threads", count(1..=1024))
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, NonZero::get)),
        drain_timeout: section.get("drain_timeout", duration(Duration::ZERO..=DAY)).unwrap_or(Duration::from_secs(30)),
        pid_file: section.get("pid_file", |value| surroundings.path(value)),
        upgrade: Upgrade {
            socket: section.get("upgrade_socket", |value| surroundings.socket(value)),
            timeout: section
                .get("upgrade_timeout", duration(Duration::from_secs(1)..=HOUR))
                .unwrap_or(Duration::from_secs(60)),
            drain_timeout: section
                .get("upgrade_drain_timeout", duration(Duration::ZERO..=DAY))
                .unwrap_or(Duration::from_secs(65 * 60)),
        },
    }
}

fn listeners(root: &Section<'_>, surroundings: &Surroundings) -> Vec<Listener> {
    let sections = root.sections("listener");
    if sections.is_empty() && !root.has("listener") {
        root.note(wrong("there is no [[listener]]", "add one with an address, such as address = \"0.0.0.0:443\""));
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for section in &sections {
        let Some(listener) = listener(section, surroundings) else {
            continue;
        };
        if let Some(other) = listeners.iter().find(|other| overlap(other.address, listener.address)) {
            let problem = format!("{} is taken by the listener on {} above", listener.address, other.address);
            section.note_at("address", wrong(problem, "give it another port or remove one of the two"));
        }
        listeners.push(listener);
    }
    listeners
}

fn listener(section: &Section<'_>, surroundings: &Surroundings) -> Option<Listener> {
    let address = section.require(
        "address",
        "add an IP address and port, such as address = \"0.0.0.0:443\"",
        parsed("an IP address and port", "0.0.0.0:443"),
    );
    let tls = section.section("tls");
    let redirect_to_https = section.get("redirect_to_https", origin(&["https"], "https://mail.contoso.com"));
    if tls.is_present() && section.has("redirect_to_https") {
        let problem = "a listener with TLS has no reason to send its clients to https";
        section.note_at("redirect_to_https", wrong(problem, "remove this line or the listener's tls"));
    }
    let proxy_protocol = section.get("proxy_protocol", switch).unwrap_or(false);
    let trusted_proxies = section.list("trusted_proxies", network);
    if proxy_protocol && !section.has("trusted_proxies") {
        let problem = "anybody could say that he is somebody else";
        let cure = "add the balancers that speak the protocol, such as trusted_proxies = [\"10.0.0.0/8\"]";
        section.note_at("proxy_protocol", wrong(problem, cure));
    }
    let logon_form = section.get("logon_form", switch).unwrap_or(false);
    // Of a balancer's own connection nobody says what the client's is.
    let may_be_https = tls.is_present() || section.has("trusted_proxies") && !proxy_protocol;
    if logon_form && !may_be_https {
        let problem = "passwords and cookies would cross the network in clear, so nobody would ever see the form";
        let cure = "add tls, or the trusted_proxies that end TLS in front and say so in X-Forwarded-Proto";
        section.note_at("logon_form", wrong(problem, cure));
    }
    let mail = mail_listener(section, &tls);
    let tls = if tls.is_present() { Some(listener_tls(&tls, surroundings)?) } else { None };
    let trusted_proxies = trusted_proxies.unwrap_or_default();
    Some(Listener {
        address: address?,
        tls,
        redirect_to_https,
        proxy_protocol,
        trusted_proxies,
        logon_form,
        mail: mail?,
    })
}

/// `Some(None)`: it speaks http.
#[allow(clippy::option_option)] // a mistake, or nothing to say
fn mail_listener<'d>(section: &Section<'d>, tls: &Section<'d>) -> Option<Option<MailListener>> {
    let start_tls = tls.get("start_tls", switch).unwrap_or(false);
    let allow_plain_logon = section.get("allow_plain_logon", switch).unwrap_or(false);
    let protocol = section.get("protocol", |value| match text(value)? {
        "http" => Ok(None),
        "pop3" => Ok(Some(Protocol::Pop3)),
        "imap4" => Ok(Some(Protocol::Imap4)),
        other => Err(wrong(format!("`{other}` is not known"), "write \"http\", \"pop3\" or \"imap4\"")),
    });
    if section.has("protocol") && protocol.is_none() {
        return None;
    }
    let Some(protocol) = protocol.flatten() else {
        for (section, key) in [(tls, "start_tls"), (section, "allow_plain_logon")] {
            if section.has(key) {
                let cure = "remove this line, or write protocol = \"pop3\" or \"imap4\"";
                section.note_at(key, wrong("http knows nothing of the kind", cure));
            }
        }
        return Some(None);
    };
    for (section, key) in [(section, "redirect_to_https"), (section, "logon_form"), (tls, "http2"), (tls, "client_ca")]
    {
        if section.has(key) {
            section.note_at(key, wrong(format!("{protocol} knows nothing of the kind"), "remove this line"));
        }
    }
    if section.has("trusted_proxies") && !section.has("proxy_protocol") {
        let problem = format!("{protocol} has no X-Forwarded-For, so everybody would be the balancer");
        section.note_at("trusted_proxies", wrong(problem, "add proxy_protocol = true, or remove this line"));
    }
    if !tls.is_present() && !allow_plain_logon {
        let problem = "nobody could log on: there is no TLS, and passwords may not be sent without";
        section
            .note_at("protocol", wrong(problem, "add tls, or allow_plain_logon = true if the network may read them"));
    }
    Some(Some(MailListener { protocol, start_tls, allow_plain_logon }))
}

fn mail(section: &Section<'_>, listeners: &[Listener]) -> Mail {
    let short = || duration(Duration::from_secs(1)..=HOUR);
    let capabilities = |key: &'static str, default: &[&str]| -> Arc<[String]> {
        let default = || default.iter().map(|name| (*name).to_owned()).collect();
        section.list(key, capability).unwrap_or_else(default).into()
    };
    if section.is_present() && listeners.iter().all(|listener| listener.mail.is_none()) {
        let problem = "no listener speaks POP3 or IMAP4";
        section.note(wrong(problem, "add protocol = \"imap4\" or \"pop3\" to a [[listener]], or remove this"));
    }
    let logon_timeout = section.get("logon_timeout", short()).unwrap_or(Duration::from_secs(60));
    let server_timeout =
        section.get("server_timeout", short()).unwrap_or(Duration::from_secs(15).min(logon_timeout / 2));
    let refusal_delay = section.get("refusal_delay", duration(Duration::ZERO..=Duration::from_secs(60)));
    let refusal_delay = refusal_delay.unwrap_or(Duration::from_secs(2).min(logon_timeout / 2));
    for (key, time) in [("server_timeout", server_timeout), ("refusal_delay", refusal_delay)] {
        if time >= logon_timeout {
            let problem = "the client is let go before, by logon_timeout";
            section.note_at(key, wrong(problem, "lower it, or raise logon_timeout"));
        }
    }
    Mail {
        host: section.get("host", |value| {
            let name = text(value)?;
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
            if is_name {
                Ok(name.to_owned())
            } else {
                Err(wrong("it is not a host name", "write it like \"mail.contoso.com\""))
            }
        }),
        back_ends: mail_servers(&section.section("back_ends"), MailTls::None),
        client_access_servers: mail_servers(&section.section("client_access_servers"), MailTls::AtOnce),
        logon_timeout,
        server_timeout,
        pop3_idle_timeout: section.get("pop3_idle_timeout", duration(MAIL_IDLE)).unwrap_or(Duration::from_secs(600)),
        imap4_idle_timeout: section.get("imap4_idle_timeout", duration(MAIL_IDLE)).unwrap_or(Duration::from_secs(1860)),
        refusal_delay,
        pop3_capabilities: capabilities("pop3_capabilities", &["TOP", "UIDL"]),
        imap4_capabilities: capabilities("imap4_capabilities", &["IDLE", "NAMESPACE", "LITERAL+"]),
        ntlm_server: section.get("ntlm_server", owned_text),
    }
}

fn mail_servers(section: &Section<'_>, tls: MailTls) -> MailServers {
    let tls = section
        .get("tls", |value| match text(value)? {
            "none" => Ok(MailTls::None),
            "start_tls" => Ok(MailTls::StartTls),
            "at_once" => Ok(MailTls::AtOnce),
            other => Err(wrong(format!("`{other}` is not known"), "write \"none\", \"start_tls\" or \"at_once\"")),
        })
        .unwrap_or(tls);
    let port = |key, clear: u16, of_tls: u16| {
        let usual = if tls == MailTls::AtOnce { of_tls } else { clear };
        section.get(key, number(1..=65_535)).map_or(usual, |port| u16::try_from(port).unwrap_or(usual))
    };
    MailServers { tls, pop3_port: port("pop3_port", 110, 995), imap4_port: port("imap4_port", 143, 993) }
}

/// What a server says it can do, as it says it.
fn capability(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?;
    let own =
        ["STARTTLS", "STLS", "LOGINDISABLED", "IMAP4REV1", "IMAP4REV2", "USER", "SASL", "RESP-CODES", "AUTH-RESP-CODE"];
    let is_own = own.iter().any(|own| name.eq_ignore_ascii_case(own)) || name.to_ascii_uppercase().starts_with("AUTH=");
    if is_own {
        return Err(wrong(format!("the edge says itself whether there is {name}"), "remove it"));
    }
    if name.bytes().all(|byte| byte.is_ascii_graphic() && !b"(){%*\"\\]".contains(&byte))
        && !name.starts_with('.')
        && name.len() <= 64
    {
        return Ok(name.to_owned());
    }
    Err(wrong(format!("`{name}` is not a capability"), "write it as servers do, such as \"IDLE\""))
}

/// An address, or a network with its length.
fn network(value: &DeValue<'_>) -> Result<IpNet, Wrong> {
    match text(value)?.parse::<IpAddr>() {
        Ok(address) => Ok(address.to_canonical().into()),
        Err(_) => parsed::<IpNet>("an IP address or network", "10.0.0.0/8")(value).and_then(|network| {
            if network.prefix_len() > 0 {
                return Ok(network);
            }
            Err(wrong("everybody would be trusted", "name the proxies' own addresses or networks"))
        }),
    }
}

fn listener_tls(section: &Section<'_>, surroundings: &Surroundings) -> Option<ListenerTls> {
    let http2 = section.get("http2", switch).unwrap_or(false);
    let others = section.sections("certificates");
    let is_first_here = others.is_empty() || section.has("certificate") || section.has("key");
    let certificates = is_first_here.then_some(section).into_iter().chain(&others);
    // All are read before the first wrong one makes it `None`.
    let certificates: Vec<_> = certificates.map(|section| certificate_files(section, surroundings)).collect();
    let clients = client_certificates(section, surroundings);
    let certificates = certificates.into_iter().collect::<Option<_>>()?;
    Some(ListenerTls { certificates, http2, clients })
}

fn certificate_files(section: &Section<'_>, surroundings: &Surroundings) -> Option<CertificateFiles> {
    let certificate =
        section.require("certificate", "name the PEM file with the certificate and its issuers", |value| {
            surroundings.certificates(value)
        });
    let key = section.require("key", "name the PEM file with the private key", |value| surroundings.private_key(value));
    let ((certificate, chain), (key, private)) = (certificate?, key?);
    if let Err(wrong) = files::belong_together(&chain, &private) {
        section.note_at("key", wrong);
    }
    Some(CertificateFiles { certificate, key })
}

fn client_certificates(section: &Section<'_>, surroundings: &Surroundings) -> Option<ClientCertificates> {
    let ca = section.get("client_ca", |value| surroundings.certificates(value));
    let required = section.get("client_certificate", |value| match text(value)? {
        "optional" => Ok(false),
        "required" => Ok(true),
        other => Err(wrong(format!("`{other}` is not known"), "write \"optional\" or \"required\"")),
    });
    if section.has("client_certificate") && !section.has("client_ca") {
        let problem = "without client_ca no client certificate is believed";
        section.note_at("client_certificate", wrong(problem, "add client_ca, or remove this line"));
    }
    ca.map(|(ca, _)| ClientCertificates { ca, required: required.unwrap_or(false) })
}

/// Whether binding both would fail. Port 0 takes a free port each time.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    // `[::]` takes IPv4 too, as Linux binds it.
    let takes = |one: SocketAddr, other: SocketAddr| {
        one.ip().is_unspecified() && (one.is_ipv6() || other.is_ipv4() == one.is_ipv4())
    };
    let same_address = one.ip() == other.ip() || takes(one, other) || takes(other, one);
    one.port() != 0 && one.port() == other.port() && same_address
}

fn directory(section: &Section<'_>, local_site: Option<&str>, surroundings: &Surroundings) -> Option<Directory> {
    let ldif = section.get("ldif", |value| surroundings.file(value));
    let ldap = section.section("ldap");
    let account_forests = section.sections("account_forest");
    if section.has("ldif") && section.has("account_forest") {
        let problem = "a file has no linked mailboxes";
        section.note_at("account_forest", wrong(problem, "remove account_forest, or the ldif"));
    }
    let account_forests: Vec<_> = account_forests
        .iter()
        .filter_map(|section| self::ldap(section, None, surroundings).map(|settings| (section, settings)))
        .collect();
    match (section.has("ldif"), ldap.is_present()) {
        (true, true) => {
            section.note_at("ldif", wrong("the directory is either a file or LDAP servers", "remove ldif or ldap"));
            self::ldap(&ldap, local_site, surroundings);
            None
        }
        (true, false) => ldif.map(Directory::Ldif),
        (false, true) => {
            let forest = self::ldap(&ldap, local_site, surroundings)?;
            one_keytab(&forest, &account_forests);
            let account_forests = account_forests.into_iter().map(|(_, settings)| settings).collect();
            Some(Directory::Ldap { forest: Box::new(forest), account_forests })
        }
        (false, false) => {
            section.note(wrong("there is no directory", DIRECTORY_CURE));
            None
        }
    }
}

/// The Kerberos library knows one keytab for a whole process.
fn one_keytab(forest: &ldap::Settings, account_forests: &[(&Section<'_>, ldap::Settings)]) {
    let keytab = |settings: &ldap::Settings| match &settings.account {
        ldap::Account::Keytab(path) => Some(path.clone()),
        ldap::Account::Anonymous | ldap::Account::Password { .. } => None,
    };
    let mut first = keytab(forest);
    for (section, settings) in account_forests {
        let Some(another) = keytab(settings) else { continue };
        let first = first.get_or_insert(another.clone());
        if *first != another {
            let problem = format!("only one keytab can be used, and another forest has {}", first.display());
            section.note_at(
                "bind_keytab",
                wrong(problem, "name the same keytab, if its realm is trusted, or use bind_dn here"),
            );
        }
    }
}

fn ldap(section: &Section<'_>, local_site: Option<&str>, surroundings: &Surroundings) -> Option<ldap::Settings> {
    let start_tls = section.get("start_tls", switch).unwrap_or(false);
    let allow_plain = section.get("allow_plain", switch).unwrap_or(false);
    let servers = servers(section, local_site, start_tls, allow_plain);
    let account = account(section, surroundings);
    if matches!(account, Some(ldap::Account::Keytab(_))) && !start_tls && servers.as_ref().is_some_and(is_plain) {
        // Kerberos would seal the connection itself: see `SignInError::WithoutTls`.
        let problem = "a sign-in by Kerberos needs TLS";
        section.note_at("bind_keytab", wrong(problem, "write ldaps:// or start_tls = true"));
    }
    let ca = section.get("ca", |value| surroundings.certificates(value));
    let is_found_encrypted = section.has("domain") && (start_tls || !allow_plain);
    if is_found_encrypted && !section.has("ca") {
        // Whoever forges DNS can name a server of his own, with a certificate that any public authority gave him for it.
        let problem = "servers that DNS names are told from impostors by nothing but their certificates";
        section.note_at("domain", wrong(problem, "add ca, the PEM file of the authority of the domain controllers"));
    }
    Some(ldap::Settings {
        ca_file: ca.map(|(path, _)| path),
        start_tls,
        users_base: section.get("users_base", search_base),
        configuration_base: section.get("configuration_base", search_base),
        connect_timeout: section.get("connect_timeout", duration(SHORT)).unwrap_or(Duration::from_secs(2)),
        search_timeout: section.get("search_timeout", duration(SHORT)).unwrap_or(Duration::from_secs(3)),
        connections: section.get("connections", count(1..=256)).unwrap_or(4),
        searches_max: section.get("searches_max", count(1..=10_000)).unwrap_or(32),
        servers: servers?,
        account: account?,
    })
}

/// Either a list, or a domain to find them by.
fn servers(section: &Section<'_>, local_site: Option<&str>, start_tls: bool, allow_plain: bool) -> Option<ldap::Where> {
    let add_urls = "add the domain controllers, such as urls = [\"ldaps://dc1.contoso.com\"], or the domain to find them by, \
                    domain = \"contoso.com\"";
    let domain = section.get("domain", domain_name);
    let site = section.get("site", owned_text).or_else(|| local_site.map(str::to_owned));
    let dns_servers = section.list("dns_servers", |value| {
        let port = |ip| SocketAddr::new(ip, DNS_PORT);
        text(value)?.parse().map(port).or_else(|_| parsed("an IP address, with or without port", "10.1.0.10")(value))
    });
    let urls = section.list("urls", origin(&["ldaps", "ldap"], "ldaps://dc1.contoso.com"));
    let global_catalogs = section.list("global_catalogs", origin(&["ldaps", "ldap"], "ldaps://dc1.contoso.com:3269"));
    for (key, url) in urls
        .iter()
        .flatten()
        .map(|url| ("urls", url))
        .chain(global_catalogs.iter().flatten().map(|url| ("global_catalogs", url)))
    {
        if url.scheme() == "ldaps" && start_tls {
            let problem = format!("start_tls and {url} exclude each other: ldaps is encrypted from the first byte");
            section.note_at("start_tls", wrong(problem, "write ldap:// or remove start_tls"));
        }
        if url.scheme() == "ldap" && !start_tls && !allow_plain && !is_loopback(url) {
            let problem = format!("passwords would travel to {url} in clear");
            let cure = "write ldaps://, or start_tls = true, or allow_plain = true if the network may read them";
            section.note_at(key, wrong(problem, cure));
        }
    }
    if section.has("domain") {
        for key in ["urls", "global_catalogs"] {
            if section.has(key) {
                let problem = format!("the servers of {} are found by DNS", domain.as_deref().unwrap_or("the domain"));
                section.note_at(key, wrong(problem, "remove this line, or domain"));
            }
        }
        let scheme = if start_tls || allow_plain { ldap::Scheme::Ldap } else { ldap::Scheme::Ldaps };
        let dns_servers = dns_servers.unwrap_or_default();
        return Some(ldap::Where::Found { domain: domain?, site, dns_servers, scheme });
    }
    for key in ["site", "dns_servers"] {
        if section.has(key) {
            section.note_at(key, wrong("it is used only to find servers by their domain", "remove it, or add domain"));
        }
    }
    if section.require("urls", add_urls, |_| Ok(())).is_some() && urls.as_ref().is_some_and(Vec::is_empty) {
        section.note_at("urls", wrong("the list is empty", add_urls));
    }
    let global_catalogs = global_catalogs.unwrap_or_default();
    Some(ldap::Where::Listed { domain_controllers: urls?, global_catalogs })
}

fn is_plain(servers: &ldap::Where) -> bool {
    match servers {
        ldap::Where::Listed { domain_controllers, global_catalogs } => {
            domain_controllers.iter().chain(global_catalogs).any(|url| url.scheme() == "ldap")
        }
        ldap::Where::Found { scheme, .. } => *scheme == ldap::Scheme::Ldap,
    }
}

/// The url crate parses IPv4 addresses of web schemes only; those of `ldap://` stay text.
fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => {
            name == "localhost" || name.parse().is_ok_and(|address: IpAddr| address.is_loopback())
        }
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// A DNS name of several labels.
fn domain_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?.trim_end_matches('.').to_lowercase();
    let label = |label: &str| {
        !label.is_empty() && label.len() < 64 && !label.contains(|c: char| c.is_whitespace() || c == '/' || c == ':')
    };
    if name.len() < 254 && name.contains('.') && name.split('.').all(label) {
        return Ok(name);
    }
    Err(wrong(format!("`{name}` is not the DNS name of a domain"), "write it like \"contoso.com\""))
}

fn account(section: &Section<'_>, surroundings: &Surroundings) -> Option<ldap::Account> {
    if section.has("bind_keytab") {
        for key in ["bind_dn", "bind_password_file", "bind_password_env"] {
            if section.has(key) {
                section.note_at(key, wrong("the keytab has the account and its key", "keep one of the two"));
            }
        }
        let keytab = section.get("bind_keytab", |value| surroundings.file(value));
        if !cfg!(feature = "gssapi") {
            let problem = "this firstcas was built without Kerberos";
            let cure = "build it with its default features, or use bind_dn and a password";
            section.note_at("bind_keytab", wrong(problem, cure));
        }
        return keytab.map(ldap::Account::Keytab);
    }
    let dn = section.require("bind_dn", "add the account that reads the directory", owned_text);
    let password = bind_password(section, surroundings);
    Some(ldap::Account::Password { dn: dn?, password: password? })
}

/// A distinguished name, or the empty one: in a global catalog, the whole forest.
fn search_base(value: &DeValue<'_>) -> Result<String, Wrong> {
    if value.as_str() == Some("") {
        return Ok(String::new());
    }
    let base = text(value)?;
    if !base.contains('=') {
        return Err(wrong(format!("`{base}` is not a distinguished name"), "write it like \"DC=contoso,DC=com\""));
    }
    Ok(base.to_owned())
}

fn bind_password(section: &Section<'_>, surroundings: &Surroundings) -> Option<Secret> {
    let cure = "put the password on the first line of a file and name it in bind_password_file, or name an \
                environment variable in bind_password_env";
    if section.has("bind_password") {
        section.note_at("bind_password", wrong("a password does not belong into the configuration file", cure));
        return None;
    }
    let from_file = section.get("bind_password_file", |value| surroundings.first_line(value));
    let from_variable = section.get("bind_password_env", |value| {
        let name = text(value)?;
        (surroundings.variable)(name).filter(|password| !password.is_empty()).map(String::into_bytes).ok_or_else(|| {
            wrong(format!("the environment variable {name} is not set, or empty"), "set it where firstcas is started")
        })
    });
    match (section.has("bind_password_file"), section.has("bind_password_env")) {
        (true, true) => {
            section.note_at("bind_password_env", wrong("the password is given twice", "keep one of the two lines"));
            None
        }
        (false, false) => {
            section.note(wrong("`bind_password_file` is missing", cure));
            None
        }
        (true, false) | (false, true) => from_file.or(from_variable).map(Secret::new),
    }
}

fn cache(section: &Section<'_>, directory: &Section<'_>) -> cache::Settings {
    let lifetime = || duration(Duration::from_secs(1)..=DAY);
    let proof_lifetime = section.get("proof_lifetime", lifetime()).unwrap_or(Duration::from_secs(5 * 60));
    let disproof_lifetime = section.get("disproof_lifetime", lifetime());
    if disproof_lifetime.is_some_and(|lifetime| lifetime > proof_lifetime) {
        let problem = "a wrong password cannot be remembered for longer than a right one";
        section.note_at("disproof_lifetime", wrong(problem, "lower it, or raise proof_lifetime"));
    }
    let found_lifetime = section.get("found_lifetime", lifetime()).unwrap_or(Duration::from_secs(60 * 60));
    let stale_lifetime = section.get("stale_lifetime", duration(Duration::from_secs(1)..=DAY * 30));
    if stale_lifetime.is_some_and(|lifetime| lifetime < found_lifetime) {
        let problem = "a mailbox cannot be believed for a shorter time without the directory than with it";
        section.note_at("stale_lifetime", wrong(problem, "raise it, or lower found_lifetime"));
    }
    cache::Settings {
        max_entries: section.get("entries_max", number(1..=100_000_000)).unwrap_or(100_000),
        found_lifetime,
        stale_lifetime: stale_lifetime.unwrap_or(DAY.max(found_lifetime)),
        not_found_max: section.get("not_found_max", number(1..=100_000_000)).unwrap_or(10_000),
        wrong_passwords_max: directory
            .get("wrong_passwords_max", number(1..=1000))
            .map_or(3, |max| u32::try_from(max).unwrap_or(u32::MAX)),
        wrong_passwords_window: directory
            .get("wrong_passwords_window", duration(Duration::from_secs(1)..=DAY))
            .unwrap_or(Duration::from_secs(30 * 60)),
        not_found_lifetime: section.get("not_found_lifetime", lifetime()).unwrap_or(Duration::from_secs(30)),
        max_proofs: section.get("proofs_max", number(1..=100_000_000)).unwrap_or(50_000),
        proof_lifetime,
        disproof_lifetime: disproof_lifetime.unwrap_or(Duration::from_secs(10).min(proof_lifetime)),
    }
}

fn routing(section: &Section<'_>) -> Routing {
    Routing {
        local_site: section.get("local_site", owned_text),
        allow_http_internal_url: section.get("allow_http_internal_url", switch).unwrap_or(false),
        allow_http_external_url: section.get("allow_http_external_url", switch).unwrap_or(false),
        activesync_redirect_from: section.get("activesync_redirect_from", |value| {
            eas_version(text(value)?).map_err(|problem| wrong(problem, "write it like \"14.0\""))
        }),
        serve_from_neighbour_site: section.get("serve_from_neighbour_site", switch).unwrap_or(false),
        open_paths: section.list("open_paths", open_path).unwrap_or_default(),
        topology_refresh: section
            .get("topology_refresh", duration(Duration::from_secs(10)..=DAY))
            .unwrap_or(Duration::from_secs(15 * 60)),
    }
}

/// A path's first segment, folded to lower case.
fn open_path(value: &DeValue<'_>) -> Result<String, Wrong> {
    let cure = "write the first segment alone, such as \"/PowerShell\"";
    let written = text(value)?;
    let segment = written.trim_matches('/');
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if segment.is_empty() || !segment.bytes().all(plain) || segment.bytes().all(|byte| byte == b'.') {
        return Err(wrong(format!("`{written}` is not one segment of a path"), cure));
    }
    match Protocol::of_path(segment) {
        Some(protocol) => Err(wrong(format!("`{written}` is served anyway, as {protocol}"), "remove it")),
        None => Ok(segment.to_ascii_lowercase()),
    }
}

fn resolve(section: &Section<'_>) -> Resolve {
    let mut resolve = Resolve::default();
    section.each(|written, value| {
        if value.is_table() {
            let cure = "put the name in quotes: \"cas-1.contoso.com:443\" = \"10.1.0.11:443\"";
            return Err(wrong("the dots of a bare name make tables of it", cure));
        }
        let (host, port) = host_and_port(written)?;
        let twice = match port {
            Some(port) => resolve.by_host_and_port.insert((host, port), socket_address(value, port)?).is_some(),
            None => resolve.by_host.insert(host, parsed("an IP address", "10.1.0.11")(value)?).is_some(),
        };
        if twice { Err(wrong("the name is there twice, but for its case", "remove one of the two")) } else { Ok(()) }
    });
    resolve
}

fn host_and_port(written: &str) -> Result<(String, Option<u16>), Wrong> {
    let wrong_name =
        || wrong(format!("`{written}` is neither a host nor a host and port"), "write \"cas-1.contoso.com:443\"");
    let (host, port) = match written.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (written, None),
    };
    let port = port.map(str::parse).transpose().map_err(|_| wrong_name())?;
    let valid = |host: &str| !host.is_empty() && url::Host::parse(host).is_ok();
    if !valid(host) || port == Some(0) {
        return Err(wrong_name());
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// An address with a port, or without one where the name's port stays.
fn socket_address(value: &DeValue<'_>, port: u16) -> Result<SocketAddr, Wrong> {
    match text(value)?.parse::<IpAddr>() {
        Ok(address) => Ok(SocketAddr::new(address, port)),
        Err(_) => parsed("an IP address and port", "10.1.0.11:443")(value),
    }
}

fn upstream(section: &Section<'_>, surroundings: &Surroundings) -> Upstream {
    let by_default = UpstreamTls { trust: Trust::System, allow_tls_1_0: false };
    let connect_timeout = section.get("connect_timeout", duration(SHORT)).unwrap_or(Duration::from_secs(5));
    let total = section.get("total_connect_timeout", duration(SHORT));
    if total.is_some_and(|total| total < connect_timeout) {
        let problem = "the whole of connecting cannot be given less time than its first step, connect_timeout";
        section.note_at("total_connect_timeout", wrong(problem, "raise it or lower connect_timeout"));
    }
    Upstream {
        tls: upstream_tls(section, &by_default, surroundings),
        connect_timeout,
        total_connect_timeout: total.unwrap_or(connect_timeout * 2),
        idle_timeout: section
            .get("idle_timeout", duration(Duration::from_secs(1)..=DAY))
            .unwrap_or(Duration::from_secs(90)),
        retry_dead_after: section
            .get("retry_dead_after", duration(Duration::from_millis(100)..=Duration::from_secs(3600)))
            .unwrap_or(Duration::from_secs(10)),
    }
}

fn sites(section: &Section<'_>, by_default: &UpstreamTls, surroundings: &Surroundings) -> HashMap<String, UpstreamTls> {
    let mut sites = HashMap::new();
    for (name, site) in section.named_sections() {
        if sites.insert(name.to_lowercase(), upstream_tls(&site, by_default, surroundings)).is_some() {
            site.note(wrong("the site is there twice, but for its case", "put everything about it into one table"));
        }
    }
    sites
}

fn upstream_tls(section: &Section<'_>, by_default: &UpstreamTls, surroundings: &Surroundings) -> UpstreamTls {
    let authorities = section.get("ca", |value| surroundings.certificates(value));
    let fingerprints = section.list("fingerprints", fingerprint);
    if fingerprints.as_ref().is_some_and(Vec::is_empty) {
        section
            .note_at("fingerprints", wrong("no certificate has any of no fingerprints", "add one or remove the line"));
    }
    let insecure = section.get("insecure", switch).unwrap_or(false);
    let given = [("ca", section.has("ca")), ("fingerprints", section.has("fingerprints")), ("insecure", insecure)];
    let mut given = given.into_iter().filter(|(_, given)| *given).map(|(key, _)| key);
    if let (Some(first), Some(second)) = (given.next(), given.next()) {
        section.note_at(second, wrong(format!("{first} and {second} exclude each other"), "keep one of them"));
    }
    let trust = match (authorities, fingerprints, insecure) {
        (Some((path, _)), _, _) => Trust::CertificateAuthorities(path),
        (None, Some(fingerprints), _) => Trust::Fingerprints(fingerprints),
        (None, None, true) => Trust::Anything,
        (None, None, false) => by_default.trust.clone(),
    };
    let allow_tls_1_0 = section.get("allow_tls_1_0", switch).unwrap_or(by_default.allow_tls_1_0);
    UpstreamTls { trust, allow_tls_1_0 }
}

fn health(section: &Section<'_>) -> Health {
    let times =
        |key, default| section.get(key, number(1..=100)).map_or(default, |times| times.try_into().unwrap_or(default));
    Health {
        interval: section.get("interval", check_interval).unwrap_or(Some(Duration::from_secs(10))),
        timeout: section.get("timeout", duration(SHORT)).unwrap_or(Duration::from_secs(5)),
        fall: times("fall", 3),
        rise: times("rise", 2),
        slow_start: section
            .get("slow_start", duration(Duration::ZERO..=Duration::from_secs(3600)))
            .unwrap_or(Duration::from_secs(30)),
        checks_max: section.get("checks_max", count(1..=10_000)).unwrap_or(64),
    }
}

/// `None`: "0s", no checks.
fn check_interval(value: &DeValue<'_>) -> Result<Option<Duration>, Wrong> {
    let interval = duration(Duration::ZERO..=Duration::from_secs(3600))(value)?;
    if !interval.is_zero() && interval < Duration::from_secs(1) {
        let problem = "servers that are asked more than once a second are under load from it";
        return Err(wrong(problem, "write it from 1s to 1h, or \"0s\" for no checks"));
    }
    Ok(Some(interval).filter(|interval| !interval.is_zero()))
}

fn timeouts(section: &Section<'_>) -> Timeouts {
    let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
    let get = |key, default| section.get(key, duration(Duration::from_secs(1)..=DAY)).unwrap_or(default);
    Timeouts {
        client_keepalive: get("client_keepalive", minutes(5)),
        client: get("client", minutes(1)),
        activesync: get("activesync", minutes(65)),
        ews: get("ews", minutes(35)),
        rpc: get("rpc", minutes(120)),
        web: get("web", minutes(10)),
        directory: get("directory", Duration::from_secs(10)),
    }
}

fn limits(section: &Section<'_>) -> Limits {
    let body = |key, default| section.get(key, size(1 << 10..=1 << 40)).unwrap_or(default);
    let times = |key, default| {
        section.get(key, number(1..=1_000_000)).map_or(default, |times| u32::try_from(times).unwrap_or(u32::MAX))
    };
    let client_connections = section.get("client_connections", count(1..=1_000_000)).unwrap_or(20_000);
    Limits {
        client_connections,
        connections_per_client: section
            .get("connections_per_client", count(1..=1_000_000))
            .unwrap_or(client_connections.div_ceil(2)),
        failed_logons_per_client: times("failed_logons_per_client", 300),
        failed_logons_per_user: times("failed_logons_per_user", 9),
        failed_logons_window: section
            .get("failed_logons_window", duration(Duration::from_secs(1)..=Duration::from_secs(60 * 60)))
            .unwrap_or(Duration::from_secs(10 * 60)),
        activesync_requests_per_minute: times("activesync_requests_per_minute", 600),
        body_rate_min_bytes: section.get("body_rate_min", size(0..=1 << 20)).unwrap_or(500),
        header_bytes: section.get("header", size(HEADER_BYTES)).unwrap_or(128 << 10),
        owa_body_bytes: body("owa_body", 48 << 20),
        activesync_body_bytes: body("activesync_body", 40 << 20),
        ews_body_bytes: body("ews_body", 88 << 20),
        rpc_body_bytes: body("rpc_body", 2 << 30),
        other_body_bytes: body("other_body", 16 << 20),
    }
}

fn pins(section: &Section<'_>, limits: &Limits) -> Pins {
    let connections_max = section.get("connections_max", count(1..=1_000_000));
    if connections_max.is_some_and(|max| max > limits.client_connections) {
        let problem = format!("there are never more than {} client connections", limits.client_connections);
        section.note_at("connections_max", wrong(problem, "lower it, or raise limits.client_connections"));
    }
    Pins {
        connections_max: connections_max.unwrap_or_else(|| limits.client_connections.min(10_000)),
        lifetime: section
            .get("lifetime", duration(Duration::from_secs(60)..=DAY))
            .unwrap_or(Duration::from_secs(60 * 60)),
        requests_max: section.get("requests_max", number(10..=1_000_000_000)).unwrap_or(10_000),
        idle_timeout: section
            .get("idle_timeout", duration(Duration::from_secs(1)..=DAY))
            .unwrap_or(Duration::from_secs(5 * 60)),
    }
}

fn affinity(section: &Section<'_>, surroundings: &Surroundings) -> Affinity {
    Affinity {
        keys: section.get("key_file", |value| surroundings.keys(value)).unwrap_or_default(),
        lifetime: section
            .get("lifetime", duration(Duration::from_secs(60)..=DAY * 30))
            .unwrap_or(Duration::from_secs(12 * 60 * 60)),
    }
}

fn logon_form(section: &Section<'_>, surroundings: &Surroundings) -> LogonForm {
    const MINUTE: Duration = Duration::from_secs(60);
    let timeout = |key, default| section.get(key, duration(MINUTE..=DAY * 30)).unwrap_or(default);
    let public_timeout = timeout("public_timeout", MINUTE * 15);
    let private_timeout = timeout("private_timeout", DAY.max(public_timeout));
    if public_timeout > private_timeout {
        let problem = "whoever uses a computer of others cannot be given more time than on their own";
        section.note_at("public_timeout", wrong(problem, "lower it, or raise private_timeout"));
    }
    let lifetime = section.get("lifetime", duration(MINUTE..=DAY * 30));
    if lifetime.is_some_and(|lifetime| lifetime < private_timeout) {
        let problem = "a logon would end before private_timeout is over";
        section.note_at("lifetime", wrong(problem, "raise it, or lower private_timeout"));
    }
    LogonForm {
        public_timeout,
        private_timeout,
        lifetime: lifetime.unwrap_or(private_timeout.max(DAY * 7)),
        keys: section.get("key_file", |value| surroundings.keys(value)).unwrap_or_default(),
        user_name: section
            .get("user_name", |value| match text(value)? {
                "domain\\user name" => Ok(UserName::WithDomain),
                "email" => Ok(UserName::Email),
                "user name" => Ok(UserName::Bare),
                other => Err(wrong(
                    format!("`{other}` is not known"),
                    "write 'domain\\user name' (in single quotes), \"email\" or \"user name\"",
                )),
            })
            .unwrap_or(UserName::WithDomain),
        default_domain: section.get("default_domain", |value| {
            let domain = text(value)?;
            let is_one = MailboxName::parse(&format!("{domain}\\user")).is_ok() && !domain.contains(['@', '\\']);
            let cure = "write its NetBIOS name, such as \"CONTOSO\"";
            if is_one { Ok(domain.to_owned()) } else { Err(wrong(format!("`{domain}` is no domain"), cure)) }
        }),
    }
}

fn keytab(section: &Section<'_>, surroundings: &Surroundings) -> Option<Arc<Keytab>> {
    section.get("keytab", |value| surroundings.keytab(value)).map(Arc::new)
}

fn sign_in(section: &Section<'_>, directory: Option<&Directory>, surroundings: &Surroundings) -> Option<SignIn> {
    if !section.is_present() {
        return None;
    }
    if !cfg!(feature = "gssapi") {
        let problem = "this firstcas was built without Kerberos";
        section.note(wrong(problem, "build it with its default features, or remove [sign_in]"));
    }
    let by = section.list("by", |value| match text(value)? {
        "password" => Ok(SignInBy::Password),
        "delegation" => Ok(SignInBy::Delegation),
        other => Err(wrong(format!("`{other}` is not known"), "write \"password\" or \"delegation\"")),
    });
    let by = by.unwrap_or_else(|| vec![SignInBy::Password]);
    if by.is_empty() {
        section.note_at("by", wrong("nobody could be signed in", "write by = [\"password\"], or remove [sign_in]"));
    }
    let account = section.get("account", owned_text);
    let keytab = section.get("keytab", |value| Ok((surroundings.keytab(value)?, surroundings.file(value)?)));
    if by.contains(&SignInBy::Delegation) && !section.has("keytab") {
        let cure = "add keytab, the file with the keys of the edge's own account, or take \"delegation\" out of by";
        section.note_at("by", wrong("delegation needs the edge's own account", cure));
    }
    if let (Some((_, path)), Some(other)) = (&keytab, directory.and_then(Directory::keytab))
        && path != other
    {
        let problem = format!("only one keytab can be used, and the directory's bind_keytab is {}", other.display());
        section.note_at("keytab", wrong(problem, "name the same file in both places"));
    }
    if let (Some(account), Some((keys, path))) = (&account, &keytab)
        && !keys.keys().iter().any(|key| key.principal == *account)
    {
        let problem = format!("{} has no key of {account}", path.display());
        section.note_at("account", wrong(problem, "write it as `klist -kt` shows it, or remove the line"));
    }
    if section.has("account") && !section.has("keytab") {
        let problem = "the account needs a keytab";
        section.note_at("account", wrong(problem, "add keytab, the file with its keys, or remove this line"));
    }
    // A principal with a slash is a service's; the account itself has none.
    let first = keytab.as_ref().and_then(|(keys, _)| {
        let names = || keys.keys().iter().map(|key| key.principal.as_str());
        names().find(|name| !name.contains('/')).or_else(|| names().next()).map(str::to_owned)
    });
    Some(SignIn {
        by,
        account: keytab.is_some().then(|| account.or(first)).flatten(),
        keytab: keytab.map(|(_, path)| path),
        pass_basic_on: section.get("pass_basic_on", switch).unwrap_or(false),
        timeout: section.get("timeout", duration(SHORT)).unwrap_or(Duration::from_secs(10)),
        users_max: section.get("users_max", number(1..=1_000_000)).unwrap_or(USERS_MAX),
    })
}

fn admin(section: &Section<'_>, listeners: &[Listener]) -> Option<Admin> {
    if !section.is_present() {
        return None;
    }
    let address = section.require(
        "address",
        "add an IP address and port, such as address = \"127.0.0.1:8090\"",
        parsed("an IP address and port", "127.0.0.1:8090"),
    );
    let allow_remote = section.get("allow_remote", switch).unwrap_or(false);
    let hosts = section.list("hosts", host_name).unwrap_or_default();
    let address: SocketAddr = address?;
    if let Some(other) = listeners.iter().find(|other| overlap(other.address, address)) {
        let problem = format!("{address} is taken by the listener on {}, where clients come in", other.address);
        section.note_at("address", wrong(problem, "give it another port"));
    }
    if !address.ip().is_loopback() && !allow_remote {
        let problem = format!("{address} can be reached from other machines, and the page asks for no password");
        let cure = "write a loopback address, such as \"127.0.0.1:8090\", or allow_remote = true if only \
                    administrators reach that network";
        section.note_at("address", wrong(problem, cure));
    }
    Some(Admin { address, hosts })
}

/// The name of a host, without port.
fn host_name(value: &DeValue<'_>) -> Result<String, Wrong> {
    let name = text(value)?.to_lowercase();
    match url::Host::parse(&name) {
        Ok(url::Host::Domain(domain)) if domain == name => Ok(name),
        _ => Err(wrong(format!("`{name}` is not the name of a host"), "write it like \"edge-1.contoso.com\"")),
    }
}

fn log(section: &Section<'_>) -> Log {
    Log {
        format: section
            .get("format", |value| match text(value)? {
                "key=value" => Ok(LogFormat::KeyValue),
                "json" => Ok(LogFormat::Json),
                other => Err(wrong(format!("there is no log format `{other}`"), "write \"key=value\" or \"json\"")),
            })
            .unwrap_or(LogFormat::KeyValue),
        filter: section.get("filter", log_filter).unwrap_or_else(|| "info".to_owned()),
        events: event_outlets(section),
    }
}

/// One, or a list.
fn event_outlets(section: &Section<'_>) -> Vec<EventOutlet> {
    let mut outlets = if section.is_list("events") {
        section.list("events", event_outlet).unwrap_or_default()
    } else {
        section.get("events", event_outlet).into_iter().collect()
    };
    outlets.dedup();
    outlets
}

fn event_outlet(value: &DeValue<'_>) -> Result<EventOutlet, Wrong> {
    match text(value)? {
        "syslog" => Ok(EventOutlet::Syslog),
        "journald" => Ok(EventOutlet::Journald),
        other => Err(wrong(format!("events cannot go to `{other}`"), "write \"syslog\" or \"journald\"")),
    }
}

/// `level` or `module=level`, separated by commas. `env_logger` would take a misspelt level for a module's name and log
/// nothing else.
fn log_filter(value: &DeValue<'_>) -> Result<String, Wrong> {
    let filter = text(value)?;
    for directive in filter.split(',').map(str::trim) {
        let (level, may_be_module) = match directive.split_once('=') {
            Some((_, level)) => (level, false),
            None => (directive, true),
        };
        let known = LOG_LEVELS.iter().any(|known| known.eq_ignore_ascii_case(level));
        if known || may_be_module && closest(level, LOG_LEVELS).is_none() && !level.is_empty() {
            continue;
        }
        let cure = format!("use one of {}", LOG_LEVELS.join(", "));
        return Err(wrong(format!("`{level}` is not a log level"), cure));
    }
    Ok(filter.to_owned())
}

fn owned_text(value: &DeValue<'_>) -> Result<String, Wrong> {
    text(value).map(str::to_owned)
}

const DIRECTORY_CURE: &str =
    "name an LDIF file under [directory], ldif = \"...\", or the domain controllers under [directory.ldap]";

const LOG_LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A moved mailbox must be noticed within ten seconds, and the directory not be asked all the time.
const WATCH: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(10);

const DNS_PORT: u16 = 53;

/// How long a client of POP3 or IMAP4 may be silent: for as long as its protocol lets it (RFC 1939 section 3: 10 minutes, RFC 3501
/// section 5.4: 30 minutes), or less where the administrator knows better.
const MAIL_IDLE: RangeInclusive<Duration> = Duration::from_secs(10)..=DAY;

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Waits a person sits through: below, a busy network fails; above, the client gives up first.
const SHORT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(120);

/// A Kerberos token of a user in many groups is a line of 64 KiB; Pingora itself stops at 1 MiB.
const HEADER_BYTES: RangeInclusive<u64> = 64 << 10..=1_048_575;

#[cfg(test)]
mod tests;
