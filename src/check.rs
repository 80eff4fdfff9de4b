//! Everything in the directory that would break a user, as a person wants it listed before going live:
//! `firstcas check --directory`.
//!
//! Nothing is decided here: the whole directory is read once, and [`decide`] is asked about every home server's
//! mailboxes, as in the edge.

mod sign_in;

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
};

use crate::{
    config::{self, Config, ConfigErrors, MailTls, values::list},
    directory::{
        Directory as _, DirectoryError, Notice, Oddity,
        ldap::{self, Account},
        organisation::Organisation,
        schema::{self, Record},
    },
    edge::{notices, organisation::may_be_sent_to},
    explain::version,
    routing::{
        Decision, EasVersion, Policy, Refusal, Request, Rule, decide,
        mailbox::{Mailbox, Whose},
        members,
        protocol::Protocol,
        topology::{AuthenticationMethods, Server, ServerId, SiteId, Topology},
        version::Generation,
    },
};

pub use sign_in::summary as sign_in_summary;

/// What was found. Its `Display` is for reading.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    text: String,
    /// How many things would break users.
    pub faults: usize,
}

/// Why the directory could not be checked.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It could not be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The local site, or a site that the configuration names, is not in it.
    #[error(transparent)]
    Policy(#[from] ConfigErrors),
}

/// Reads the whole topology and everybody, and reports; `notices`: what the directory noticed meanwhile.
pub async fn check(
    config: &Config,
    directory: &Organisation,
    notices: impl FnOnce() -> Vec<Notice>,
) -> Result<Report, CheckError> {
    let reading = directory.topology().await?;
    let people = directory.everybody().await?;
    let mut oddities = reading.oddities;
    oddities.extend(schema::people_oddities(&people, &reading.parts));
    let topology = Topology::new(reading.parts);
    let policy = config.policy(&topology)?;
    if config.listeners.iter().any(|listener| listener.logon_form) {
        oddities.extend(forms_of_servers(&topology, &policy));
    }
    oddities.extend(unknown_ntlm_server(config, &topology));
    let mailboxes = by_home(&people, &topology);
    let mail: Vec<_> =
        [Protocol::Pop3, Protocol::Imap4].into_iter().filter(|protocol| config.listens_for(*protocol)).collect();

    let mut report = Report { text: String::new(), faults: 0 };
    report.say("directory", place(&config.directory));
    report.say("", totals(&topology, mailboxes.values().map(Vec::len).sum()));
    report.say("local site", &topology.site(policy.local_site).name);
    let sites = (0..topology.sites().len()).map(|id| Some(SiteId(id)));
    for site in sites.chain([None]) {
        report.site(site, &mailboxes, &mail, &topology, &policy);
    }
    if let Some(lost) = mailboxes.get(&None) {
        let how_many = counted(lost.len(), "mailbox");
        report.say("no server", format!("{how_many} on none that the directory has, so refused; see below"));
    }
    if !mail.is_empty() {
        report.passwords_in_clear(&config.mail, &topology);
    }
    report.sign_in(config, directory, &people, &topology, &policy).await?;
    report.oddities(&oddities);
    for notice in notices() {
        report.faults += usize::from(matches!(notice, Notice::CertificateEnds { .. }));
        report.say("notice", notices::told(&notice, Some(&topology)).1);
    }
    Ok(report)
}

/// Where the directory is, and who asks it.
fn place(directory: &config::Directory) -> String {
    let of = |settings: &ldap::Settings| {
        let whom = match &settings.account {
            Account::Anonymous => "nobody".to_owned(),
            Account::Password { dn, .. } => dn.clone(),
            Account::Keytab(path) => format!("the account of {}", path.display()),
        };
        format!("{} as {whom}", settings.servers)
    };
    match directory {
        config::Directory::Ldif(path) => path.display().to_string(),
        config::Directory::Ldap { forest, account_forests } => {
            let forests: Vec<_> = std::iter::once(&**forest).chain(account_forests).map(of).collect();
            forests.join("; accounts from ")
        }
    }
}

fn totals(topology: &Topology, mailboxes: usize) -> String {
    let client_access = topology.servers().iter().filter(|server| server.client_access).count();
    format!(
        "{}, {}, {client_access} of them Client Access Servers, {}",
        counted(topology.sites().len(), "site"),
        counted(topology.servers().len(), "server"),
        counted(mailboxes, "mailbox")
    )
}

/// The virtual directories that ask by a form of their own whoever has logged on by the edge's.
fn forms_of_servers(topology: &Topology, policy: &Policy) -> Vec<Oddity> {
    let asks = |server: &Server, protocol| {
        let accepts = server.accepts(protocol).unwrap_or_default();
        accepts.0 & AuthenticationMethods::FORM != 0 && may_be_sent_to(server, protocol, topology, policy)
    };
    let of = |protocol: Protocol, name: &str, cmdlet: &str| {
        let servers = topology.servers().iter().filter(|server| asks(server, protocol));
        let odd = servers.map(|server| Oddity {
            dn: format!("{}\\{name} (Default Web Site)", server.name),
            problem: format!(
                "its forms-based authentication asks again whoever has logged on by the edge's form; \
                 {cmdlet} -FormsAuthentication $false"
            ),
        });
        odd.collect::<Vec<_>>()
    };
    [of(Protocol::Owa, "owa", "Set-OwaVirtualDirectory"), of(Protocol::Ecp, "ecp", "Set-EcpVirtualDirectory")].concat()
}

/// The server that Windows authentication is to be passed on to, where the directory has none of its name.
fn unknown_ntlm_server(config: &Config, topology: &Topology) -> Option<Oddity> {
    let is_spoken = config.listeners.iter().any(|listener| listener.mail.is_some());
    let name = config.mail.ntlm_server.as_deref().filter(|_| is_spoken)?;
    let is_there =
        topology.servers().iter().any(|server| speaks_mail(server) && server.name.eq_ignore_ascii_case(name));
    let problem = "the directory has no Exchange 2003 server or Client Access Server of this name, so nobody can use \
                   Windows authentication by POP3 or IMAP4; name one that it has";
    (!is_there).then(|| Oddity { dn: format!("mail.ntlm_server = \"{name}\""), problem: problem.to_owned() })
}

/// Whether sessions of POP3 or IMAP4 may be passed on to it.
fn speaks_mail(server: &Server) -> bool {
    server.client_access || server.version.generation() == Some(Generation::Exchange2003)
}

/// Names and mailboxes by the server they are on; `None`: on none that the topology has.
type ByHome = HashMap<Option<ServerId>, Vec<(String, Mailbox)>>;

fn by_home(people: &[Record], topology: &Topology) -> ByHome {
    let mut by_home = ByHome::new();
    for entry in people.iter().map(schema::entry) {
        if let Some(mailbox) = entry.mailbox {
            by_home.entry(topology.home_server(&mailbox)).or_default().push((entry.name, mailbox));
        }
    }
    by_home
}

/// What happens to requests for a mailbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// As the rules want it.
    Fine(String),
    /// Their version of Exchange has no such thing, with or without an edge.
    NotSpoken,
    /// Another server has to be connected to, with or without an edge.
    Elsewhere(String),
    /// By this rule.
    Refused(&'static str),
}

impl Report {
    /// A site's servers, and what happens to its mailboxes; `None`: those of no site.
    fn site(
        &mut self,
        site: Option<SiteId>,
        mailboxes: &ByHome,
        mail: &[Protocol],
        topology: &Topology,
        policy: &Policy,
    ) {
        let servers: Vec<_> = (0..topology.servers().len())
            .map(ServerId)
            .filter(|id| topology.server(*id).site == site)
            .map(|id| (id, topology.server(id), mailboxes.get(&Some(id)).map_or(&[][..], Vec::as_slice)))
            .collect();
        let total = servers.iter().map(|(_, _, mailboxes)| mailboxes.len()).sum();
        let totals = format!("{}, {}", counted(servers.len(), "server"), counted(total, "mailbox"));
        match site {
            Some(site) if site == policy.local_site => {
                self.say("site", format!("{}, where the edge stands: {totals}", topology.site(site).name));
            }
            Some(site) => self.say("site", format!("{}: {totals}", topology.site(site).name)),
            None if servers.is_empty() => return,
            None => self.say("no site", totals),
        }
        let width = servers.iter().map(|(_, server, _)| server.name.chars().count()).max().unwrap_or_default();
        for (_, server, mailboxes) in &servers {
            self.say("", format!("  {:width$}  {}", server.name, description(server, mailboxes.len())));
        }
        let mut outcomes: BTreeMap<(usize, String, Outcome), Vec<&str>> = BTreeMap::new();
        for (_, _, mailboxes) in &servers {
            let Some((_, mailbox)) = mailboxes.first() else { continue }; // of one server, all fare alike
            for (place, (outcome, protocols)) in outcomes_of(mailbox, mail, topology, policy).into_iter().enumerate() {
                let names = mailboxes.iter().map(|(name, _)| name.as_str());
                outcomes.entry((place, protocols, outcome)).or_default().extend(names);
            }
        }
        for ((_, protocols, outcome), mut names) in outcomes {
            match outcome {
                Outcome::Fine(how) => self.say("", format!("  {protocols}: {how}")),
                Outcome::NotSpoken => self.say("", format!("  {protocols}: not spoken by Exchange of that version")),
                Outcome::Elsewhere(host) => {
                    let how_many = counted(names.len(), "mailbox");
                    self.say("", format!("  {protocols}: not served here; {how_many} must connect to {host}"));
                }
                Outcome::Refused(sentence) => {
                    self.faults += 1;
                    let how_many = counted(names.len(), "mailbox");
                    self.say("REFUSED", format!("  {protocols} of {how_many}: {sentence}"));
                    names.sort_unstable();
                    self.say("", format!("  {}", list(&names)));
                }
            }
        }
    }

    /// No fault: so Exchange 2003 comes, and so its web services are reached, too.
    fn passwords_in_clear(&mut self, mail: &config::Mail, topology: &Topology) {
        let servers = topology.servers().iter().filter(|server| speaks_mail(server));
        let in_clear = servers.filter(|server| mail.servers(server.version.generation()).tls == MailTls::None);
        let mut names: Vec<_> = in_clear.map(|server| server.name.as_str()).collect();
        if !names.is_empty() {
            names.sort_unstable();
            let names = list(&names);
            self.say("mail", format!("passwords pass in clear between the edge and {names}; see tls in [mail]"));
        }
    }

    /// What is odd, the same of several objects once.
    fn oddities(&mut self, oddities: &[Oddity]) {
        let mut by_problem: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut places: HashMap<&str, usize> = HashMap::new();
        for Oddity { dn, problem } in oddities {
            let place = *places.entry(problem).or_insert_with(|| {
                by_problem.push((problem, Vec::new()));
                by_problem.len() - 1
            });
            by_problem[place].1.push(dn);
        }
        self.faults += by_problem.len();
        for (problem, dns) in by_problem {
            if let [dn] = *dns {
                self.say("odd", format!("{dn}: {problem}"));
                continue;
            }
            self.say("odd", format!("of {} objects: {problem}", dns.len()));
            for dn in dns.iter().take(SHOWN_MAX) {
                self.say("", format!("  {dn}"));
            }
            if let Some(more @ 1..) = dns.len().checked_sub(SHOWN_MAX) {
                self.say("", format!("  and {more} more"));
            }
        }
    }

    fn say(&mut self, title: &str, line: impl fmt::Display) {
        let _ = writeln!(self.text, "{title:10} {line}"); // a String takes everything
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match self.faults {
            0 => writeln!(f, "nothing found that would break a user"),
            1 => writeln!(f, "1 thing would break users"),
            faults => writeln!(f, "{faults} things would break users"),
        }
    }
}

fn description(server: &Server, mailboxes: usize) -> String {
    let role = if server.client_access { ", Client Access Server" } else { "" };
    let mailboxes = if mailboxes == 0 { String::new() } else { format!(", {}", counted(mailboxes, "mailbox")) };
    format!("{}{role}{mailboxes}", version(server))
}

/// What happens to a mailbox by each protocol; those that fare alike together.
fn outcomes_of(mailbox: &Mailbox, mail: &[Protocol], topology: &Topology, policy: &Policy) -> Vec<(Outcome, String)> {
    let newest = Some(EasVersion(u16::MAX));
    let mut questions =
        vec![("owa", Protocol::Owa, None), ("activesync", Protocol::ActiveSync, newest), ("ews", Protocol::Ews, None)];
    if policy.activesync_redirect_from.is_some() {
        questions.insert(2, ("activesync of older devices", Protocol::ActiveSync, None));
    }
    questions.extend(mail.iter().map(|protocol| (protocol.name(), *protocol, None)));
    let mut outcomes: Vec<(Outcome, String)> = Vec::new();
    for (label, protocol, eas_version) in questions {
        let request = Request { protocol, path: protocol.default_path(), eas_version };
        let outcome = outcome(&decide(&request, Whose::Mailbox(mailbox), topology, policy), topology, policy);
        match outcomes.iter_mut().find(|(known, _)| *known == outcome) {
            Some((_, labels)) => *labels = format!("{labels}, {label}"),
            None => outcomes.push((outcome, label.to_owned())),
        }
    }
    outcomes
}

fn outcome(decision: &Decision, topology: &Topology, policy: &Policy) -> Outcome {
    Outcome::Fine(match decision {
        Decision::Proxy(pool, rule) => {
            let names: Vec<_> = members(*pool, topology, policy).map(|(_, server)| server.name.as_str()).collect();
            let (site, names) = (&topology.site(pool.site).name, list(&names));
            match rule {
                Rule::LocalSite | Rule::LocalService | Rule::LocalChallenge => format!("served by {names}"),
                Rule::ProxyToNeighbour => {
                    format!("proxied to {site}, the nearest site with a Client Access Server ({names})")
                }
                Rule::ProxyToSite
                | Rule::RootToOwa
                | Rule::OwaRedirect
                | Rule::ActiveSyncRedirect
                | Rule::OwnSiteServer
                | Rule::BackEnd2003
                | Rule::OwaTo2003
                | Rule::EcpToOwa
                | Rule::LegacyToOwa => format!("proxied to {site} ({names})"),
            }
        }
        Decision::BackEnd(server, _) => format!("passed straight to {}", topology.server(*server).name),
        Decision::LinkPage(url, _) => format!("redirected to {url} by a page with a link"),
        Decision::MovedDevice(url, _) => format!("redirected to {url} by a 451"),
        Decision::SameHost(path, _) => format!("redirected to {path} on the same host"),
        Decision::ConnectTo(host, _) => return Outcome::Elsewhere(host.clone()),
        Decision::Refuse(Refusal::NotOnThisVersion) => return Outcome::NotSpoken,
        Decision::Refuse(refusal) => return Outcome::Refused(refusal.sentence()),
    })
}

fn counted(number: usize, thing: &str) -> String {
    let plural = if thing.ends_with('x') { "es" } else { "s" };
    if number == 1 { format!("1 {thing}") } else { format!("{number} {thing}{plural}") }
}

/// Of many objects with one fault, some are enough to find the rest.
const SHOWN_MAX: usize = 20;

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may fail by panicking
mod tests {
    use super::*;
    use crate::{directory::ldif, routing::protocol::VirtualDirectoryKind};

    #[tokio::test]
    async fn a_server_with_a_form_of_its_own_is_named_where_requests_may_be_sent_to_it() {
        let directory = ldif::open(concat!(env!("CARGO_MANIFEST_DIR"), "/conf/contoso.ldif")).unwrap();
        let mut parts = directory.topology().await.unwrap().parts;
        let topology = Topology::new(parts.clone());
        let policy = Policy::new(topology.site_named("Lisbon").unwrap());
        assert_eq!(forms_of_servers(&topology, &policy), []);

        // Braga's takes no Integrated Windows authentication, so that nothing is proxied to it.
        for (name, methods) in
            [("cas-lis-1", 5), ("cas-opo-1", 1 | 2 | 4 | 16), ("cas-opo-2", 1 | 2 | 16), ("cas-bra-1", 5)]
        {
            let server = parts.servers.iter_mut().find(|server| server.name == name).unwrap();
            let owa = server.virtual_directories[VirtualDirectoryKind::Owa as usize].as_mut().unwrap();
            owa.internal_authentication = AuthenticationMethods(methods);
        }
        let odd = forms_of_servers(&Topology::new(parts), &policy);
        let named: Vec<_> = odd.iter().map(|odd| odd.dn.as_str()).collect();
        assert_eq!(named, [r"cas-lis-1\owa (Default Web Site)", r"cas-opo-1\owa (Default Web Site)"]);
        assert!(odd.iter().all(|odd| odd.problem.ends_with("Set-OwaVirtualDirectory -FormsAuthentication $false")));
    }

    async fn checked(listener: &str, more: &str) -> Report {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("firstcas.toml");
        let ldif = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/contoso.ldif");
        let lisbon = "[routing]\nlocal_site = \"Lisbon\"";
        let directory = format!("[directory]\nldif = {ldif:?}");
        let text = format!("[[listener]]\naddress = \"127.0.0.1:80\"\n{listener}\n{directory}\n{lisbon}\n{more}");
        std::fs::write(&file, text).unwrap();
        check(&Config::load(&file).unwrap(), &ldif::open(ldif).unwrap(), Vec::new).await.unwrap()
    }

    const IMAP4: &str = "protocol = \"imap4\"\nallow_plain_logon = true";

    #[tokio::test]
    async fn it_is_told_whose_mailboxes_mail_is_not_served_of_and_that_is_no_fault() {
        let web = checked("", "").await;
        assert!(!web.to_string().contains("imap4") && !web.to_string().contains("mail "), "{web}");
        let report = checked(IMAP4, "").await;
        let text = report.to_string();
        assert!(text.contains("owa, activesync, ews, imap4: served by cas-lis-1"), "{text}");
        assert!(
            text.contains("  imap4: not served here; 1 mailbox must connect to mail.madrid.contoso.com\n"),
            "{text}"
        );
        assert!(text.contains("  imap4: not served here; 1 mailbox must connect to cas-opo-1.contoso.com\n"), "{text}");
        assert!(text.contains("activesync, imap4: passed straight to ex03-opo\n"), "{text}");
        assert!(text.contains("imap4 of 1 mailbox: The mailbox's site has no Client Access Server."), "{text}");
        assert!(!text.contains("pop3"), "no listener speaks it: {text}");
        assert_eq!(report.faults, web.faults, "{text}");
    }

    #[tokio::test]
    async fn passwords_in_clear_and_a_server_that_is_not_there_are_told_of_mail() {
        let report = checked(IMAP4, "[mail]\nntlm_server = \"EX03-LIS\"").await.to_string();
        let clear = "\nmail       passwords pass in clear between the edge and ex03-lis, ex03-opo; see tls in [mail]\n";
        assert!(report.contains(clear) && !report.contains("mail.ntlm_server"), "{report}");
        let wrong = "[mail]\nntlm_server = \"mbx-lis\"\n[mail.back_ends]\ntls = \"at_once\"";
        let report = checked(IMAP4, wrong).await.to_string();
        let odd =
            "\nodd        mail.ntlm_server = \"mbx-lis\": the directory has no Exchange 2003 server or Client Access";
        assert!(report.contains(odd) && !report.contains("in clear"), "{report}");
    }
}
