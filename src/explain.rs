//! How a request would be decided, step by step, for the administrator who wonders.
//!
//! Nothing is decided here: the request is read by [`identity`](crate::identity), the directory is asked, and
//! [`decide`] decides, as in the edge; this module only writes down what each of them said.

mod mail;

use std::{fmt, iter, sync::Arc};

use url::Url;

use crate::{
    config::{
        self, Config, Routing, SignInBy,
        values::{eas_version, list},
    },
    directory::{
        Directory, DirectoryError, Entry, Oddity,
        cache::{CachedDirectory, Lookup},
        schema::fold_dn,
    },
    edge::{organisation::service_of, path, respond},
    identity::{
        Facts, Identity, LogonName, MailboxName, TargetSource, activesync, identify, logon_name::LogonNameError,
        name::NameError,
    },
    routing::{
        Decision, EasVersion, Policy, Pool, Refusal, Request, Rule, Verdict, choice, decide, judge,
        mailbox::{Mailbox, Whose},
        members,
        protocol::Protocol,
        sign_in::SignIn,
        topology::{Server, ServerId, Topology},
    },
};

/// The request to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    user_as_given: String,
    user: MailboxName,
    /// What mail's forms of a name say besides: whose mailbox is wanted.
    mailbox: Option<MailboxName>,
    protocol: Protocol,
    path: String,
    query: Option<String>,
    eas_version: Option<EasVersion>,
}

/// The request as the command line describes it.
#[derive(Clone, Copy, Debug, Default)]
pub struct QuestionParts<'a> {
    /// The user signed in, in any form that a client sends.
    pub user: &'a str,
    /// The protocol; `None`: the URL tells it.
    pub protocol: Option<Protocol>,
    /// A whole URL, or a path with or without query; `None`: the one that the protocol's clients ask for first.
    pub url: Option<&'a str>,
    /// `ActiveSync` protocol version, such as `12.1`; `None`: the URL may tell it.
    pub eas_version: Option<&'a str>,
}

/// Why there is nothing to explain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    /// The user's name could be nobody's.
    #[error("--user: {0}")]
    User(#[from] NameError),
    /// It is none that anybody logs on to mail by.
    #[error("--user: {0}")]
    LogonName(#[from] LogonNameError),
    /// The URL is not one, or the edge would refuse its path.
    #[error("--url: {0}")]
    Url(String),
    /// The path is served by no protocol.
    #[error("--url: the edge does not serve {0}; routing.open_paths can open a path")]
    NotServed(String),
    /// The URL is of another protocol than asked for.
    #[error("--url is of protocol {by_url}, --protocol says {given}; give one of the two, or a URL of {given}")]
    OtherProtocol {
        /// The one asked for.
        given: Protocol,
        /// The URL's.
        by_url: Protocol,
    },
    /// It is said of a protocol of mail, which has no such thing.
    #[error("{option}: {protocol} has none; leave it out")]
    NotOfMail {
        /// What was given.
        option: &'static str,
        /// The protocol.
        protocol: Protocol,
    },
    /// Neither protocol nor URL.
    #[error("give --protocol or --url")]
    NoProtocol,
    /// Not an `ActiveSync` protocol version.
    #[error("--eas-version: {0}")]
    EasVersion(String),
}

/// A decision and what led to it. Its `Display` is for reading, one step after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The decision.
    pub decision: Decision,
    steps: Vec<(&'static str, Vec<String>)>,
    /// Names of the home server and of those considered, in lower case.
    servers: Vec<String>,
}

impl Explanation {
    /// Adds what is odd in the directory about the servers that were looked at.
    #[must_use]
    pub fn with_oddities(mut self, oddities: &[Oddity]) -> Self {
        let is_about = |dn: &str, server: &String| {
            let dn = fold_dn(dn);
            let object = format!("cn={server},cn=servers,");
            dn.starts_with(&object) || dn.contains(&format!(",{object}"))
        };
        let odd = oddities.iter().filter(|oddity| self.servers.iter().any(|server| is_about(&oddity.dn, server)));
        let lines: Vec<_> = odd.map(|oddity| format!("{}: {}", oddity.dn, oddity.problem)).collect();
        if !lines.is_empty() {
            self.steps.push(("odd", lines));
        }
        self
    }
}

impl Question {
    /// Reads the request as the edge would.
    ///
    /// # Errors
    /// What is wrong with the description.
    pub fn new(parts: QuestionParts<'_>, routing: &Routing) -> Result<Question, QuestionError> {
        if let Some(protocol) = parts.protocol.filter(|protocol| protocol.is_mail()) {
            return Question::of_mail(parts, protocol);
        }
        let (path, query) = match parts.url {
            Some(url) => path_and_query(url)?,
            None => (parts.protocol.ok_or(QuestionError::NoProtocol)?.default_path().to_owned(), None),
        };
        let by_url = routing.protocol_of(&path).ok_or_else(|| QuestionError::NotServed(path.clone()))?;
        match parts.protocol {
            Some(given) if given != by_url => Err(QuestionError::OtherProtocol { given, by_url }),
            _ => Ok(Question {
                user_as_given: parts.user.to_owned(),
                user: MailboxName::parse(parts.user)?,
                mailbox: None,
                protocol: by_url,
                eas_version: match parts.eas_version {
                    Some(text) => Some(eas_version(text).map_err(QuestionError::EasVersion)?),
                    None if by_url == Protocol::ActiveSync => activesync::protocol_version(None, query.as_deref()),
                    None => None,
                },
                path,
                query,
            }),
        }
    }

    /// A logon.
    fn of_mail(parts: QuestionParts<'_>, protocol: Protocol) -> Result<Question, QuestionError> {
        let given = [("--url", parts.url), ("--eas-version", parts.eas_version)];
        if let Some((option, _)) = given.into_iter().find(|(_, value)| value.is_some()) {
            return Err(QuestionError::NotOfMail { option, protocol });
        }
        let LogonName { user, mailbox } = LogonName::parse(parts.user.as_bytes(), None)?;
        Ok(Question {
            user_as_given: parts.user.to_owned(),
            user,
            mailbox,
            protocol,
            path: String::new(),
            query: None,
            eas_version: None,
        })
    }

    /// Whose mailbox it is about.
    fn asked_for<'q>(&'q self, identity: &'q Identity) -> &'q MailboxName {
        self.mailbox.as_ref().or_else(|| identity.routing_name(Some(&self.user))).unwrap_or(&self.user)
    }

    /// The user, if another's mailbox is asked for and it matters who they are: they are signed in as themselves.
    fn own_name(&self, asked_for: &MailboxName, rules: Rules<'_>) -> Option<&MailboxName> {
        (rules.config.sign_in.is_some() && *asked_for != self.user).then_some(&self.user)
    }

    fn identity(&self) -> Identity {
        let facts = Facts {
            protocol: self.protocol,
            path: &self.path,
            query: self.query.as_deref(),
            authorization: None,
            anchor_mailbox: None,
        };
        identify(&facts)
    }
}

/// By what requests are decided.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The organisation.
    pub topology: &'a Topology,
    /// What is allowed.
    pub policy: &'a Policy,
    /// How servers are reached and signed in to.
    pub config: &'a Config,
}

/// Asks the directory and decides.
///
/// # Errors
/// The directory gave no answer. That a name belongs to several entries is an answer.
pub async fn explain(
    question: &Question,
    directory: &dyn Directory,
    rules: Rules<'_>,
) -> Result<Explanation, DirectoryError> {
    let identity = question.identity();
    let name = question.asked_for(&identity);
    let found = Found::of_answer(directory.find(name).await)?;
    let own = match question.own_name(name, rules) {
        Some(own) => Some(Found::of_answer(directory.find(own).await)?),
        None => None,
    };
    Ok(explain_answer(question, &identity, &found, own.as_ref(), rules))
}

/// As [`explain`], by the directory as requests see it: through what is remembered of it.
///
/// # Errors
/// The directory gave no answer, and nothing is remembered.
pub async fn explain_as_served(
    question: &Question,
    directory: &CachedDirectory,
    rules: Rules<'_>,
) -> Result<Explanation, Arc<DirectoryError>> {
    let identity = question.identity();
    let name = question.asked_for(&identity);
    let found = Found::of_lookup(&*directory.find(name).await?, name);
    let own = match question.own_name(name, rules) {
        Some(own) => Some(Found::of_lookup(&*directory.find(own).await?, own)),
        None => None,
    };
    Ok(explain_answer(question, &identity, &found, own.as_ref(), rules))
}

enum Found {
    Answer(Option<Entry>),
    Ambiguous(String),
}

impl Found {
    fn of_answer(answer: Result<Option<Entry>, DirectoryError>) -> Result<Self, DirectoryError> {
        match answer {
            Ok(entry) => Ok(Found::Answer(entry)),
            Err(error @ DirectoryError::Ambiguous { .. }) => Ok(Found::Ambiguous(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn of_lookup(lookup: &Lookup, name: &MailboxName) -> Self {
        match lookup {
            Lookup::Found(entry) => Found::Answer(Some(entry.clone())),
            Lookup::NotFound => Found::Answer(None),
            Lookup::Ambiguous(dns) => {
                Found::Ambiguous(DirectoryError::Ambiguous { name: name.clone(), dns: dns.clone() }.to_string())
            }
        }
    }

    fn principal(&self) -> Option<&str> {
        match self {
            Found::Answer(entry) => entry.as_ref()?.principal.as_deref(),
            Found::Ambiguous(_) => None,
        }
    }
}

/// `own`: the user signed in, where another's mailbox was found.
fn explain_answer(
    question: &Question,
    identity: &Identity,
    found: &Found,
    own: Option<&Found>,
    rules: Rules<'_>,
) -> Explanation {
    let Rules { topology, policy, config } = rules;
    let whose = match found {
        Found::Ambiguous(_) => Whose::Ambiguous,
        Found::Answer(None) => Whose::Unknown,
        Found::Answer(Some(Entry { mailbox: None, .. })) => Whose::WithoutMailbox,
        Found::Answer(Some(Entry { mailbox: Some(mailbox), .. })) => Whose::Mailbox(mailbox),
    };
    let mailbox = match whose {
        Whose::Mailbox(mailbox) => Some(mailbox),
        Whose::Nobody | Whose::Unknown | Whose::Ambiguous | Whose::WithoutMailbox => None,
    };
    let home = mailbox.and_then(|mailbox| topology.home_server(mailbox)).map(|id| topology.server(id));
    let request = Request { protocol: question.protocol, path: &question.path, eas_version: question.eas_version };
    let decision = decide(&request, whose, topology, policy);

    let is_mail = question.protocol.is_mail();
    let mut steps = vec![
        ("request", request_lines(question)),
        ("user", identity_lines(question, identity)),
        ("directory", directory_lines(found)),
    ];
    if is_mail {
        steps.insert(1, ("listener", mail::listener_lines(question.protocol, rules)));
    }
    steps.extend(mailbox.map(|mailbox| ("home server", home_lines(mailbox, home))));
    steps.extend(home.map(|home| ("site", vec![site_line(home, topology, policy)])));
    let pools = pools_considered(&decision, question.protocol, home, policy);
    let considered = pools.iter().flat_map(|pool| &topology.site(pool.site).client_access_servers);
    let servers = considered.map(|id| topology.server(*id)).chain(home);
    let servers = servers.map(|server| server.name.to_lowercase()).collect();
    steps.extend(pools.into_iter().map(|pool| ("considered", considered_lines(pool, topology, policy))));
    steps.push(("decision", vec![in_words(&decision, question.protocol, mailbox, topology, policy)]));
    steps.push(("because", vec![reason(&decision)]));
    if is_mail {
        steps.push(("server", mail::server_lines(&decision, question.protocol, rules)));
        steps.push(("client sees", mail::client_sees(&decision, question.protocol)));
        return Explanation { decision, steps, servers };
    }
    if let Some(sign_in) = &config.sign_in {
        let principal = own.unwrap_or(found).principal();
        steps.push(("sign-in", sign_in_lines(&decision, question.protocol, principal, sign_in, rules)));
    }
    steps.push(("client sees", client_sees(&decision, question.protocol)));
    Explanation { decision, steps, servers }
}

fn request_lines(question: &Question) -> Vec<String> {
    if question.protocol.is_mail() {
        return vec![format!("a logon over {}", question.protocol)];
    }
    let query = question.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
    let version =
        question.eas_version.map(|EasVersion(tenths)| format!(", protocol version {}.{}", tenths / 10, tenths % 10));
    vec![format!("{} for {}{query}{}", question.protocol, question.path, version.unwrap_or_default())]
}

fn identity_lines(question: &Question, identity: &Identity) -> Vec<String> {
    let form = match &question.user {
        MailboxName::Address(_) => "a UPN or SMTP address",
        MailboxName::Account { .. } => "a domain and an account in it",
        MailboxName::Bare(_) => "an account's name or an alias",
        MailboxName::Guid(_) => "a mailbox's GUID",
    };
    let mut lines = vec![format!("`{}`, read as {form}: {}", question.user_as_given, question.user)];
    if let Some(mailbox) = &question.mailbox {
        lines.push(format!("and after the user {mailbox}, whose mailbox it is about"));
    }
    if let Some(target) = &identity.target {
        let source = match target.source {
            TargetSource::ActiveSyncUser => "the User of the query",
            TargetSource::AnchorMailbox => "X-AnchorMailbox",
            TargetSource::ExplicitLogon => "the path (explicit logon)",
            TargetSource::MapiMailboxId => "MailboxId in the query",
            TargetSource::RpcProxy => "the query of rpcproxy.dll",
        };
        let effect = match identity.routing_name(Some(&question.user)) {
            _ if target.name == question.user => "the same",
            Some(name) if *name == target.name => "whose mailbox it is about",
            _ => "but the user signed in comes first",
        };
        lines.push(format!("{source} names {}, {effect}", target.name));
    }
    lines
}

fn directory_lines(found: &Found) -> Vec<String> {
    match found {
        Found::Ambiguous(problem) => vec![problem.clone()],
        Found::Answer(None) => vec!["nobody of that name".to_owned()],
        Found::Answer(Some(entry)) => {
            let mailbox = if entry.mailbox.is_some() { "" } else { ", who has no mailbox" };
            vec![format!("{}{mailbox}", entry.name), entry.dn.clone()]
        }
    }
}

fn home_lines(mailbox: &Mailbox, home: Option<&Server>) -> Vec<String> {
    let named = match (&mailbox.home_server, &mailbox.home_database) {
        (server, None) if server.is_empty() => "its msExchHomeServerName and homeMDB are empty".to_owned(),
        (server, Some(database)) if server.is_empty() => format!("of database {database}"),
        (server, _) => server.to_string(),
    };
    match home {
        Some(home) => vec![format!("{}, {}", home.fqdn, version(home)), named],
        None => vec!["none that the directory knows".to_owned(), named],
    }
}

fn site_line(home: &Server, topology: &Topology, policy: &Policy) -> String {
    let local = &topology.site(policy.local_site).name;
    match (home.site, &home.site_name) {
        (Some(site), _) if site == policy.local_site => format!("{local}, where the edge stands"),
        (Some(site), _) => format!("{}; the edge stands in {local}", topology.site(site).name),
        (None, Some(name)) => format!("{name}, which the directory does not have; the edge stands in {local}"),
        (None, None) => format!("none; the edge stands in {local}"),
    }
}

/// The pools whose servers were looked at on the way to the decision.
fn pools_considered(decision: &Decision, protocol: Protocol, home: Option<&Server>, policy: &Policy) -> Vec<Pool> {
    let of_mailbox =
        home.and_then(|home| Some(Pool { site: home.site?, protocol, generation: Some(home.version.generation()?) }));
    match decision {
        Decision::Proxy(pool, Rule::ProxyToNeighbour) => of_mailbox.into_iter().chain([*pool]).collect(),
        Decision::Proxy(pool, _) => vec![*pool],
        Decision::LinkPage(..) | Decision::MovedDevice(..) | Decision::ConnectTo(..) => {
            of_mailbox.into_iter().collect()
        }
        Decision::BackEnd(..) | Decision::SameHost(..) => Vec::new(),
        Decision::Refuse(refusal) => match refusal {
            Refusal::NotServedLocally => vec![Pool { site: policy.local_site, protocol, generation: None }],
            Refusal::NoClientAccessServer
            | Refusal::NoVirtualDirectory
            | Refusal::NoInternalUrl
            | Refusal::NoIntegratedAuthentication
            | Refusal::NoSsl
            | Refusal::NoAcceptableVersion
            | Refusal::NoneResponding => of_mailbox.into_iter().collect(),
            Refusal::UnknownUser
            | Refusal::AmbiguousName
            | Refusal::NoMailbox
            | Refusal::HomeServerUnknown
            | Refusal::VersionUnknown
            | Refusal::SiteUnknown
            | Refusal::NotOnThisVersion => Vec::new(),
        },
    }
}

fn considered_lines(pool: Pool, topology: &Topology, policy: &Policy) -> Vec<String> {
    let site = topology.site(pool.site);
    let servers: Vec<_> = site.client_access_servers.iter().map(|id| topology.server(*id)).collect();
    if servers.is_empty() {
        return vec![format!("{} has no Client Access Server", site.name)];
    }
    let name_width = servers.iter().map(|server| server.name.chars().count()).max().unwrap_or_default();
    let lines_of = |server: &&Server| {
        let verdict = judge(server, pool, topology, policy);
        let kept = if verdict == Verdict::Kept { "kept:   " } else { "dropped:" };
        let headline = format!("{:name_width$}  {kept} {}", server.name, verdict.sentence(pool.protocol));
        let facts = facts_about(server, pool.protocol).into_iter().map(|fact| format!("{:name_width$}  {fact}", ""));
        iter::once(headline).chain(facts).collect::<Vec<_>>()
    };
    servers.iter().flat_map(lines_of).collect()
}

fn facts_about(server: &Server, protocol: Protocol) -> Vec<String> {
    let Some(directory) = server.virtual_directory(protocol) else {
        return vec![version(server)];
    };
    let url = |name: &str, url: Option<&Url>| match url {
        Some(url) => format!("{name} {url}"),
        None => format!("no {name}"),
    };
    let windows = if directory.internal_authentication.integrated_windows() { "on" } else { "off" };
    vec![
        format!("{}, Integrated Windows authentication {windows}", version(server)),
        url("InternalURL", directory.internal_url.as_ref()),
        url("ExternalURL", directory.external_url.as_ref()),
    ]
}

pub(crate) fn version(server: &Server) -> String {
    match server.version.generation() {
        Some(generation) => format!("{generation} ({})", server.version),
        None => format!("version {}, which is none of Exchange's", server.version),
    }
}

fn in_words(
    decision: &Decision,
    protocol: Protocol,
    mailbox: Option<&Mailbox>,
    topology: &Topology,
    policy: &Policy,
) -> String {
    match decision {
        Decision::Proxy(pool, _) => {
            let site = &topology.site(pool.site).name;
            let member = |id: ServerId| topology.server(id).name.as_str();
            let names: Vec<_> = members(*pool, topology, policy).map(|(id, _)| member(id)).collect();
            let chosen =
                mailbox.and_then(|mailbox| choice::choose(mailbox.key, members(*pool, topology, policy), |_| true));
            match chosen {
                Some(chosen) if names.len() > 1 => {
                    format!("proxied to {} in {site}, while it answers; else to another of those kept", member(chosen))
                }
                _ => format!("proxied to {} in {site}", list(&names)),
            }
        }
        Decision::BackEnd(server, _) => {
            let by = if protocol.is_mail() { "" } else { " over http" };
            format!("passed straight to {}{by}", topology.server(*server).fqdn)
        }
        Decision::LinkPage(url, _) => format!("redirected to {url} by a page with a link"),
        Decision::MovedDevice(url, _) => format!("redirected to {url} by a 451"),
        Decision::SameHost(path, _) => format!("redirected to {path} on the same host"),
        Decision::ConnectTo(host, _) => format!("told to connect to {host}"),
        Decision::Refuse(_) => "refused".to_owned(),
    }
}

/// The servers that a decision may lead to, and the width of their names.
fn servers_led_to<'t>(decision: &Decision, rules: Rules<'t>) -> (Vec<&'t Server>, usize) {
    let servers: Vec<_> = match decision {
        Decision::Proxy(pool, _) => members(*pool, rules.topology, rules.policy).map(|(_, server)| server).collect(),
        Decision::BackEnd(server, _) => vec![rules.topology.server(*server)],
        Decision::LinkPage(..)
        | Decision::MovedDevice(..)
        | Decision::SameHost(..)
        | Decision::ConnectTo(..)
        | Decision::Refuse(_) => Vec::new(),
    };
    let width = servers.iter().map(|server| server.name.chars().count()).max().unwrap_or_default();
    (servers, width)
}

/// How each server that the request may go to is told who the user is.
fn sign_in_lines(
    decision: &Decision,
    protocol: Protocol,
    principal: Option<&str>,
    sign_in: &config::SignIn,
    rules: Rules<'_>,
) -> Vec<String> {
    let (servers, width) = servers_led_to(decision, rules);
    let lines_of = |server: &&Server| {
        let accepts = server.accepts(protocol);
        let by_password = way(server, protocol, principal, sign_in, true);
        let without = way(server, protocol, principal, sign_in, false);
        let accepts = match accepts {
            Some(methods) => format!("its virtual directory accepts {methods}"),
            None => {
                "its virtual directory is none that the edge reads, so it accepts Basic and WindowsIntegrated".into()
            }
        };
        let also = (without != by_password).then(|| format!("whoever is proven without a password: {without}"));
        let first = format!("{:width$}  {by_password}", server.name);
        let further = also.into_iter().chain([accepts]).map(|line| format!("{:width$}  {line}", ""));
        iter::once(first).chain(further).collect::<Vec<_>>()
    };
    servers.iter().flat_map(lines_of).collect()
}

/// How a server is told who a user is who has sent a password, or is proven without one; as the edge chooses.
fn way(
    server: &Server,
    protocol: Protocol,
    principal: Option<&str>,
    sign_in: &config::SignIn,
    has_password: bool,
) -> String {
    let accepts = server.accepts(protocol);
    let to = |has_principal| SignIn::to(accepts, sign_in.means(has_principal, has_password));
    let name = principal.unwrap_or_default();
    let service = service_of(server, protocol);
    match (to(principal.is_some()), sign_in.by(has_password)) {
        (SignIn::Kerberos, Some(SignInBy::Password)) => {
            format!("Kerberos with the user's password, as {name} to {service}")
        }
        (SignIn::Kerberos, Some(SignInBy::Delegation)) => {
            let account = sign_in.account.as_deref().unwrap_or_default();
            format!("Kerberos by delegation from {account}, as {name} to {service}")
        }
        (SignIn::Basic, _) => "Basic, with the user's password".to_owned(),
        (SignIn::AsSent, _) if to(true) == SignIn::Kerberos => {
            "nobody can be signed in: the directory shows no Kerberos name of the user (a linked mailbox, or an account \
             without sAMAccountName)"
                .to_owned()
        }
        (SignIn::Kerberos | SignIn::AsSent, _) => "as the client says it".to_owned(),
    }
}

fn reason(decision: &Decision) -> String {
    match decision {
        Decision::Proxy(_, rule)
        | Decision::BackEnd(_, rule)
        | Decision::LinkPage(_, rule)
        | Decision::MovedDevice(_, rule)
        | Decision::SameHost(_, rule)
        | Decision::ConnectTo(_, rule) => format!("{}: {}", rule.name(), rule.sentence()),
        Decision::Refuse(refusal) => format!("{}: {}", refusal.name(), refusal.sentence()),
    }
}

fn client_sees(decision: &Decision, protocol: Protocol) -> Vec<String> {
    let answer = match decision {
        Decision::Proxy(..) | Decision::BackEnd(..) => {
            "what that server answers; the server itself asks for the logon".to_owned()
        }
        Decision::LinkPage(url, _) => format!("200, a page with a link to {url}"),
        Decision::MovedDevice(url, _) => format!("451 with X-MS-Location: {url}"),
        Decision::SameHost(path, _) => format!("302 with Location: {path}"),
        Decision::ConnectTo(host, _) => format!("that {host} must be connected to"), // of mail alone
        Decision::Refuse(refusal) => respond::described(*refusal, protocol),
    };
    let proof = "only after the right password: until then a 401, which tells nothing of the mailbox";
    iter::once(answer).chain(decision.tells_about_mailbox().then(|| proof.to_owned())).collect()
}

/// The decoded path and the raw query of a whole URL or of a path.
fn path_and_query(url: &str) -> Result<(String, Option<String>), QuestionError> {
    let raw = if url.starts_with('/') {
        url.split('#').next().unwrap_or_default().to_owned()
    } else {
        let url = Url::parse(url).map_err(|error| QuestionError::Url(error.to_string()))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(QuestionError::Url("it is neither http:// nor https:// nor a path".to_owned()));
        }
        url[url::Position::BeforePath..url::Position::AfterQuery].to_owned()
    };
    let (path, query) = match raw.split_once('?') {
        Some((path, query)) => (path, Some(query.to_owned())),
        None => (raw.as_str(), None),
    };
    match path::decode(path) {
        Ok(path) => Ok((path.into_owned(), query)),
        Err(error) => Err(QuestionError::Url(format!("the edge answers 400 to it: {error}"))),
    }
}

impl Explanation {
    /// Whether the request would be refused, as a logon is that has to be made elsewhere.
    pub fn is_refusal(&self) -> bool {
        matches!(self.decision, Decision::Refuse(_) | Decision::ConnectTo(..))
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.steps.iter().map(|(title, _)| title.len()).max().unwrap_or_default();
        for (title, lines) in &self.steps {
            for (index, line) in lines.iter().enumerate() {
                writeln!(f, "{:width$}  {line}", if index == 0 { title } else { "" })?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)] // a test may fail by panicking
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::{
        directory::{ldif, organisation::Organisation},
        routing::topology::{AuthenticationMethods, SiteId},
    };

    async fn contoso() -> (Organisation, Topology, Policy) {
        let directory = ldif::open(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/contoso.ldif")).unwrap();
        let topology = Topology::new(directory.topology().await.unwrap().parts);
        let policy = Policy::new(topology.site_named("Lisbon").unwrap());
        (directory, topology, policy)
    }

    fn routing() -> Routing {
        Routing {
            local_site: None,
            allow_http_internal_url: false,
            allow_http_external_url: false,
            activesync_redirect_from: None,
            serve_from_neighbour_site: false,
            open_paths: vec!["powershell".to_owned()],
            topology_refresh: std::time::Duration::from_secs(1),
        }
    }

    /// The configuration of an edge in Lisbon, with this added.
    fn config(more: &str) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("firstcas.toml");
        let ldif = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/contoso.ldif");
        let text = format!("[[listener]]\naddress = \"127.0.0.1:80\"\n[directory]\nldif = {ldif:?}\n{more}");
        std::fs::write(&file, text).unwrap();
        Config::load(&file).unwrap()
    }

    fn rules<'a>(topology: &'a Topology, policy: &'a Policy) -> Rules<'a> {
        static CONFIG: LazyLock<Config> = LazyLock::new(|| config(""));
        Rules { topology, policy, config: &CONFIG }
    }

    fn sign_in(by: &[SignInBy]) -> config::SignIn {
        config::SignIn {
            by: by.to_vec(),
            keytab: None,
            account: Some("svc-firstcas@CONTOSO.COM".to_owned()),
            pass_basic_on: false,
            timeout: std::time::Duration::from_secs(1),
            users_max: 1,
        }
    }

    /// The step that tells how servers are told who the user is.
    async fn signed_in(user: &str, url: &str, sign_in: &config::SignIn) -> Vec<String> {
        let (directory, topology, policy) = contoso().await;
        let config = Config { sign_in: Some(sign_in.clone()), ..config("") };
        let rules = Rules { config: &config, ..rules(&topology, &policy) };
        let explanation = explain(&question(user, url), &directory, rules).await.unwrap();
        let step = explanation.steps.into_iter().find(|(title, _)| *title == "sign-in");
        step.map(|(_, lines)| lines).unwrap_or_default()
    }

    #[tokio::test]
    async fn how_each_server_is_told_who_the_user_is_is_told_before_what_the_client_sees() {
        let by_password = sign_in(&[SignInBy::Password]);
        let of_opo_2 = &signed_in("bruno", "/owa/", &by_password).await[3..];
        assert_eq!(
            of_opo_2,
            [
                "cas-opo-2  Kerberos with the user's password, as bruno@CONTOSO.COM to HTTP/cas-opo-2.contoso.com",
                "           whoever is proven without a password: as the client says it",
                "           its virtual directory accepts Basic, Ntlm, WindowsIntegrated",
            ]
        );
        let by_both = sign_in(&[SignInBy::Password, SignInBy::Delegation]);
        let delegated =
            "Kerberos by delegation from svc-firstcas@CONTOSO.COM, as bruno@CONTOSO.COM to HTTP/cas-opo-1.contoso.com";
        let of_both = signed_in("bruno", "/owa/", &by_both).await;
        assert_eq!(of_both[1], format!("           whoever is proven without a password: {delegated}"));
        let by_delegation = sign_in(&[SignInBy::Delegation]);
        assert_eq!(signed_in("bruno", "/owa/", &by_delegation).await[0], format!("cas-opo-1  {delegated}"));

        let passes_on = config::SignIn { pass_basic_on: true, ..by_password };
        assert_eq!(signed_in("bruno", "/owa/", &passes_on).await[0], "cas-opo-1  Basic, with the user's password");
        let of_2003 = signed_in("duarte", "/exchange/", &by_delegation).await;
        let back_end = "as duarte@CONTOSO.COM to HTTP/ex03-opo.contoso.com";
        assert!(of_2003[0].ends_with(back_end) && of_2003[1].contains("none that the edge reads"), "{of_2003:?}");
        let opened = signed_in("ana", "/owa/bruno@contoso.com/", &by_delegation).await;
        assert!(opened[0].contains("as ana@CONTOSO.COM to HTTP/cas-opo-1"), "as herself: {opened:?}");
        for nowhere in
            [signed_in("carla", "/owa/", &by_delegation).await, signed_in("gil", "/owa/", &by_delegation).await]
        {
            assert_eq!(nowhere, [""; 0], "no server is asked");
        }
    }

    #[tokio::test]
    async fn whoever_has_no_kerberos_name_is_told_to_have_none() {
        let (directory, _, policy) = contoso().await;
        let mut parts = directory.topology().await.unwrap().parts;
        for directory in parts.servers.iter_mut().flat_map(|server| server.virtual_directories.iter_mut().flatten()) {
            directory.internal_authentication = AuthenticationMethods(AuthenticationMethods::WINDOWS_INTEGRATED);
        }
        let topology = Topology::new(parts);
        let sign_in = sign_in(&[SignInBy::Password]);
        let config = Config { sign_in: Some(sign_in), ..config("") };
        let rules = Rules { config: &config, ..rules(&topology, &policy) };
        let bruno = directory.find(&MailboxName::parse("bruno").unwrap()).await.unwrap().unwrap();
        let linked = Found::Answer(Some(Entry { principal: None, ..bruno }));
        let question = question("bruno", "/owa/");
        let text = explain_answer(&question, &question.identity(), &linked, None, rules).to_string();
        assert!(
            text.contains("\nsign-in      cas-opo-1  nobody can be signed in: the directory shows no Kerberos name"),
            "{text}"
        );
        assert!(text.contains("\nclient sees "), "{text}");
    }

    fn question(user: &str, url: &str) -> Question {
        Question::new(QuestionParts { user, url: Some(url), ..QuestionParts::default() }, &routing()).unwrap()
    }

    async fn explained(user: &str, url: &str) -> Explanation {
        let (directory, topology, policy) = contoso().await;
        explain(&question(user, url), &directory, rules(&topology, &policy)).await.unwrap()
    }

    #[tokio::test]
    async fn every_step_to_a_redirection_is_told_in_order() {
        assert_eq!(
            explained("CONTOSO\\Carla", "https://mail.contoso.com/owa/?ae=Folder").await.to_string(),
            "\
request      owa for /owa/?ae=Folder
user         `CONTOSO\\Carla`, read as a domain and an account in it: contoso\\carla
directory    carla@contoso.com
             CN=Carla Castro,CN=Users,DC=contoso,DC=com
home server  mbx-mad.contoso.com, Exchange 2007 (8.3.83)
             /o=contoso/ou=exchange administrative group (fydibohf23spdlt)/cn=configuration/cn=servers/cn=mbx-mad
site         Madrid; the edge stands in Lisbon
considered   cas-mad-1  kept:    it can take the request
                        Exchange 2007 (8.3.83), Integrated Windows authentication on
                        InternalURL https://cas-mad-1.contoso.com/owa
                        ExternalURL https://mail.madrid.contoso.com/owa
decision     redirected to https://mail.madrid.contoso.com/owa by a page with a link
because      owa-redirect: The mailbox's site is Internet-facing, so the user gets a page with a link to its ExternalURL.
client sees  200, a page with a link to https://mail.madrid.contoso.com/owa
             only after the right password: until then a 401, which tells nothing of the mailbox
"
        );
    }

    #[tokio::test]
    async fn a_dropped_server_is_told_with_what_it_lacks() {
        let explanation = explained("gil", "/owa/").await;
        assert!(explanation.is_refusal());
        let text = explanation.to_string();
        assert!(text.contains("cas-bra-1  dropped: Integrated Windows authentication is off on its /owa"), "{text}");
        assert!(text.contains("because      no-integrated-authentication: "), "{text}");
    }

    #[tokio::test]
    async fn the_mailbox_named_in_the_path_is_the_one_explained() {
        let text = explained("ana", "/owa/bruno@contoso.com/").await.to_string();
        assert!(text.contains("names bruno@contoso.com, whose mailbox it is about"), "{text}");
        assert!(text.contains("site         Porto; the edge stands in Lisbon"), "{text}");
    }

    #[tokio::test]
    async fn the_user_of_an_activesync_query_gives_way_to_the_user_signed_in() {
        let text = explained("ana", "/Microsoft-Server-ActiveSync?Cmd=Ping&User=bruno").await.to_string();
        assert!(text.contains("names bruno, but the user signed in comes first"), "{text}");
        assert!(text.contains("site         Lisbon, where the edge stands"), "{text}");
    }

    #[tokio::test]
    async fn the_server_named_is_the_one_that_the_mailboxs_hash_picks() {
        let (directory, topology, policy) = contoso().await;
        let explanation = explain(&question("bruno", "/owa/"), &directory, rules(&topology, &policy)).await.unwrap();
        let entry = directory.find(&MailboxName::parse("bruno").unwrap()).await.unwrap().unwrap();
        let Decision::Proxy(pool, _) = explanation.decision else { panic!("{explanation}") };
        let chosen = choice::choose(entry.mailbox.unwrap().key, members(pool, &topology, &policy), |_| true).unwrap();
        let expected = format!("decision     proxied to {} in Porto", topology.server(chosen).name);
        assert!(explanation.to_string().contains(&expected), "{explanation}");
    }

    #[tokio::test]
    async fn what_is_odd_about_the_servers_considered_is_told_and_nothing_else() {
        let (directory, topology, policy) = contoso().await;
        let odd = |server: &str| Oddity {
            dn: format!("CN=owa (Default Web Site),CN=HTTP,CN=Protocols,CN={server},CN=Servers,CN=Group"),
            problem: "its URL is none".into(),
        };
        let explanation = explain(&question("bruno", "/owa/"), &directory, rules(&topology, &policy)).await.unwrap();
        let text = explanation.with_oddities(&[odd("CAS-OPO-2"), odd("cas-lis-1")]).to_string();
        let told = "\nodd          CN=owa (Default Web Site),CN=HTTP,CN=Protocols,CN=CAS-OPO-2,CN=Servers,CN=Group: its URL is none\n";
        assert!(text.contains(told) && !text.contains("cas-lis-1"), "{text}");
    }

    #[tokio::test]
    async fn a_site_without_servers_and_the_neighbour_that_serves_it_are_both_told() {
        let (directory, topology, policy) = contoso().await;
        let policy = Policy { serve_from_neighbour_site: true, ..policy };
        let text =
            explain(&question("filipe", "/owa/"), &directory, rules(&topology, &policy)).await.unwrap().to_string();
        assert!(text.contains("considered   Faro has no Client Access Server\nconsidered   cas-"), "{text}");
    }

    #[tokio::test]
    async fn every_user_of_contoso_is_explained_for_every_protocol() {
        let (directory, topology, policy) = contoso().await;
        for user in ["ana", "bruno", "carla", "duarte", "elsa", "filipe", "gil", "helena", "nobody"] {
            for protocol in Protocol::ALL {
                let parts = QuestionParts { user, protocol: Some(protocol), ..QuestionParts::default() };
                let question = Question::new(parts, &routing()).unwrap();
                let text = explain(&question, &directory, rules(&topology, &policy)).await.unwrap().to_string();
                for title in ["request", "user", "directory", "decision", "because", "client sees"] {
                    assert!(
                        text.lines().any(|line| line.starts_with(title)),
                        "{user} {protocol}: no {title} in\n{text}"
                    );
                }
            }
        }
    }

    async fn logon(user: &str, protocol: Protocol, config: &Config) -> Explanation {
        let (directory, topology, policy) = contoso().await;
        let rules = Rules { topology: &topology, policy: &policy, config };
        let parts = QuestionParts { user, protocol: Some(protocol), ..QuestionParts::default() };
        explain(&Question::new(parts, &routing()).unwrap(), &directory, rules).await.unwrap()
    }

    #[tokio::test]
    async fn a_logon_to_a_mailbox_of_2003_is_told_from_the_listener_to_the_port_behind() {
        let config = config(
            "[[listener]]\naddress = \"127.0.0.1:143\"\nprotocol = \"imap4\"\nallow_plain_logon = true\n\
             [resolve]\n\"ex03-opo.contoso.com\" = \"127.0.2.3\"\n",
        );
        assert_eq!(
            logon("duarte", Protocol::Imap4, &config).await.to_string(),
            "\
request      a logon over imap4
listener     127.0.0.1:143, plain imap4; a password may be sent without TLS
user         `duarte`, read as an account's name or an alias: duarte
directory    duarte@contoso.com
             CN=Duarte Dias,CN=Users,DC=contoso,DC=com
home server  ex03-opo.contoso.com, Exchange 2003 (6.5.6944)
             /o=contoso/ou=first administrative group/cn=configuration/cn=servers/cn=ex03-opo
site         none; the edge stands in Lisbon
decision     passed straight to ex03-opo.contoso.com
because      back-end-2003: An Exchange 2003 mailbox is served straight from the back-end server it lives on, whatever its site.
server       ex03-opo  ex03-opo.contoso.com port 143, 127.0.2.3:143 by [resolve]
                       without TLS: name and password pass in clear
client sees  what that server says to the same name and password, once the directory has found the password right
             a wrong password: NO [AUTHENTICATIONFAILED] The user name or the password is not right, or the account is locked. Try again, or ask your administrator.
"
        );
    }

    #[tokio::test]
    async fn whoever_has_to_connect_elsewhere_is_told_so_only_after_the_right_password() {
        let explanation = logon("bruno", Protocol::Pop3, &config("")).await;
        assert!(explanation.is_refusal());
        let text = explanation.to_string();
        assert!(text.contains("\nlistener     none speaks pop3, so nobody can log on; "), "{text}");
        assert!(text.contains("\nconsidered   cas-opo-1  kept:    it can take the request\n"), "{text}");
        let told = "\nclient sees  -ERR [SYS/PERM] This mailbox is at another address. In the settings of your mail program, set the incoming \
                    mail server (POP3) to cas-opo-1.contoso.com\n             only after the right password, ";
        assert!(text.contains(told), "{text}");
        assert!(text.ends_with("             -ERR [AUTH] The user name or the password is not right, or the account is locked. Try again, or ask your administrator.\n"), "{text}");
        let nobody = logon("nobody", Protocol::Pop3, &config("")).await.to_string();
        assert!(nobody.contains("\nclient sees  -ERR [AUTH] The user name or the password is not right"), "{nobody}");
        assert!(
            nobody.ends_with("             whatever the password is: a wrong one has no other answer\n"),
            "{nobody}"
        );
    }

    #[tokio::test]
    async fn the_mailbox_named_after_the_user_is_the_one_explained() {
        let config = config("");
        let text = logon("CONTOSO/ana/duarte", Protocol::Imap4, &config).await.to_string();
        assert!(text.contains("`CONTOSO/ana/duarte`, read as a domain and an account in it: contoso\\ana\n"), "{text}");
        assert!(text.contains("\n             and after the user duarte, whose mailbox it is about\n"), "{text}");
        assert!(text.contains("\ndecision     passed straight to ex03-opo.contoso.com\n"), "{text}");
        let parts = QuestionParts { user: "a/b/c/d", protocol: Some(Protocol::Pop3), ..QuestionParts::default() };
        let mistake = Question::new(parts, &routing()).unwrap_err().to_string();
        assert!(mistake.starts_with("--user: the name has too many slashes"), "{mistake}");
    }

    #[tokio::test]
    async fn nothing_of_the_web_is_told_of_mail() {
        let config = Config { sign_in: Some(sign_in(&[SignInBy::Password])), ..config("") };
        for user in ["ana", "bruno", "carla", "duarte", "elsa", "filipe", "gil", "helena", "nobody"] {
            for protocol in [Protocol::Pop3, Protocol::Imap4] {
                let text = logon(user, protocol, &config).await.to_string();
                for of_the_web in ["://", "/owa", "InternalURL", "ExternalURL", "401", "403", "http", "HTTP", "a page"]
                {
                    assert!(!text.contains(of_the_web), "{of_the_web} in\n{text}");
                }
            }
        }
    }

    #[tokio::test]
    async fn it_is_told_whether_windows_authentication_reaches_the_mailbox() {
        let config = config(
            "[[listener]]\naddress = \"127.0.0.1:143\"\nprotocol = \"imap4\"\nallow_plain_logon = true\n[mail]\nntlm_server = \"EX03-LIS\"\n[mail.back_ends]\ntls = \"start_tls\"\n",
        );
        let elsa = logon("elsa", Protocol::Pop3, &config).await.to_string();
        assert!(elsa.contains("  TLS by STLS, without which no password is sent\n"), "{elsa}");
        assert!(elsa.contains("             Windows authentication (NTLM) is passed on to EX03-LIS\n"), "{elsa}");
        let duarte = logon("duarte", Protocol::Pop3, &config).await.to_string();
        assert!(
            duarte.contains("does not lead here but to EX03-LIS (mail.ntlm_server): a password is needed"),
            "{duarte}"
        );
        let ana = logon("ana", Protocol::Imap4, &config).await.to_string();
        assert!(ana.contains("cas-lis-1.contoso.com port 993, an address found by DNS\n"), "{ana}");
        assert!(ana.contains("  TLS at once\n"), "{ana}");
    }

    #[tokio::test]
    async fn a_topology_without_servers_is_explained_too() {
        let (directory, topology, _) = contoso().await;
        let sites = topology.sites().iter().map(|site| site.name.clone()).collect();
        let empty = Topology::new(crate::routing::topology::TopologyParts { sites, ..Default::default() });
        let explanation =
            explain(&question("ana", "/owa/"), &directory, rules(&empty, &Policy::new(SiteId(0)))).await.unwrap();
        assert_eq!(explanation.decision, Decision::Refuse(Refusal::HomeServerUnknown));
        assert!(explanation.to_string().contains("home server  none that the directory knows"));
    }

    #[test]
    fn a_question_that_the_edge_would_not_serve_is_refused_with_its_reason() {
        let asked = |user, protocol, url| {
            let eas_version = if user == "version" { Some("twelve") } else { None };
            Question::new(QuestionParts { user, protocol, url, eas_version }, &routing())
        };
        assert_eq!(asked("ana", None, None), Err(QuestionError::NoProtocol));
        assert_eq!(asked("", Some(Protocol::Owa), None), Err(QuestionError::User(NameError::Empty)));
        assert_eq!(asked("ana", None, Some("/exadmin/")), Err(QuestionError::NotServed("/exadmin/".to_owned())));
        assert_eq!(
            asked("ana", Some(Protocol::Ews), Some("/owa/")),
            Err(QuestionError::OtherProtocol { given: Protocol::Ews, by_url: Protocol::Owa })
        );
        assert!(matches!(asked("ana", None, Some("/owa/%2e%2e/ews")), Err(QuestionError::Url(_))));
        assert!(matches!(asked("ana", None, Some("ftp://mail.contoso.com/owa/")), Err(QuestionError::Url(_))));
        assert!(matches!(asked("version", Some(Protocol::ActiveSync), None), Err(QuestionError::EasVersion(_))));
        assert_eq!(asked("ana", None, Some("/PowerShell/")).unwrap().protocol, Protocol::Opened);
        for protocol in [Protocol::Pop3, Protocol::Imap4] {
            let with_url = QuestionError::NotOfMail { option: "--url", protocol };
            assert_eq!(asked("ana", Some(protocol), Some("imap://mail.contoso.com/INBOX")), Err(with_url));
            let with_version = QuestionError::NotOfMail { option: "--eas-version", protocol };
            assert_eq!(asked("version", Some(protocol), None), Err(with_version));
        }
    }
}
