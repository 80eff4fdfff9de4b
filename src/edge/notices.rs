//! What the directory notices, told as events.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{in_force::InForce, organisation::Organisation};
use crate::{
    certificates::expiry::when,
    directory::{Notice, Tell},
    events::Event,
    routing::{mailbox::Mailbox, topology::Topology},
};

/// Tells the directory's notices, and knows whether it is away: that is told once, and once more when it is back,
/// whoever finds out.
#[derive(Default)]
pub struct Notices {
    /// Names the servers; empty until the edge has started. Weak, because who is in force tells its notices to this.
    in_force: OnceLock<Weak<ArcSwap<InForce>>>,
    /// Which servers are all away, each kind with its problem; and under [`START`] that the edge started without any.
    away: Mutex<BTreeMap<String, String>>,
}

/// Where one directory's notices go. Another one's, that is only tried or is not in force any more, are nobody's business.
pub struct Told {
    /// For the directory.
    pub tell: Tell,
    in_force: Arc<AtomicBool>,
}

impl Told {
    /// Whether the directory is in force.
    pub fn is_in_force(&self, in_force: bool) {
        self.in_force.store(in_force, Relaxed);
    }
}

impl Notices {
    /// The directory answers, as far as anybody knows.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// For a directory to tell its notices to, which are taken while it is in force.
    pub fn of_directory(self: &Arc<Self>) -> Told {
        let in_force = Arc::new(AtomicBool::new(false));
        let (notices, is_in_force) = (self.clone(), in_force.clone());
        let tell = move |notice| {
            if is_in_force.load(Relaxed) {
                notices.take(&notice);
            }
        };
        Told { tell: Arc::new(tell), in_force }
    }

    /// The edge has started, with this in force. `without_directory`: how, if the directory could not be read.
    pub fn started(&self, in_force: &Arc<ArcSwap<InForce>>, without_directory: Option<String>) {
        let _ = self.in_force.set(Arc::downgrade(in_force)); // an edge starts once
        let mut away = self.away.lock();
        if let Some(how) = without_directory {
            Event::DirectoryAway.report(&how);
            away.insert(START.to_owned(), how);
        } else if let Some((servers, problem)) = away.first_key_value() {
            report_away(servers, problem);
        }
    }

    /// Whether it has been told that the directory is away, and not yet that it is back.
    pub fn is_away(&self) -> bool {
        !self.away.lock().is_empty()
    }

    /// The topology could be read.
    pub fn directory_answers(&self) {
        self.back(START);
    }

    /// The directory of another configuration has come in force, and answers: what the one before said is over.
    pub fn begin_anew(&self) {
        let mut away = self.away.lock();
        if !away.is_empty() {
            away.clear();
            Event::DirectoryBack.report("the directory of the new configuration answers");
        }
    }

    fn organisation(&self) -> Option<Arc<Organisation>> {
        Some(self.in_force.get()?.upgrade()?.load().organisation.clone())
    }

    fn back(&self, servers: &str) {
        let mut away = self.away.lock();
        // Without an organisation nobody has been told that it was away.
        if away.remove(servers).is_some() && away.is_empty() && self.in_force.get().is_some() {
            Event::DirectoryBack.report("the directory answers again");
        }
    }

    fn take(&self, notice: &Notice) {
        match notice {
            Notice::Away { servers, problem } => {
                let mut away = self.away.lock();
                let is_first = away.is_empty();
                away.insert(servers.clone(), problem.clone());
                // Before it has started, what becomes of a start without directory is told by that.
                if is_first && self.in_force.get().is_some() {
                    report_away(servers, problem);
                }
            }
            Notice::Back { servers } => self.back(servers),
            Notice::ServerAway { .. }
            | Notice::ServerBack { .. }
            | Notice::CertificateEnds { .. }
            | Notice::WrongPasswords { .. }
            | Notice::MailboxMoved { .. } => {
                let organisation = self.organisation();
                let (event, sentence) = told(notice, organisation.as_ref().map(|it| &it.topology));
                event.report(sentence);
            }
        }
    }
}

fn report_away(servers: &str, problem: &str) {
    Event::DirectoryAway.report(format_args!(
        "none of {servers} answers: {problem}; the last good topology stays in force, and who is known is served"
    ));
}

/// Stands for no servers, but for a start without any.
const START: &str = "";

/// A notice as an event and its sentence; a topology names the servers that mailboxes are on.
pub fn told(notice: &Notice, topology: Option<&Topology>) -> (Event, String) {
    match notice {
        Notice::Away { servers, problem } => (Event::DirectoryAway, format!("none of {servers} answers: {problem}")),
        Notice::Back { servers } => (Event::DirectoryBack, format!("{servers} answer again")),
        Notice::ServerAway { server, problem } => {
            (Event::DirectoryServerAway, format!("{server} does not answer: {problem}"))
        }
        Notice::ServerBack { server } => (Event::DirectoryServerBack, format!("{server} answers again")),
        Notice::CertificateEnds { server, days } => {
            (Event::DirectoryCertificate, format!("the certificate of {server} {}", when(*days)))
        }
        Notice::WrongPasswords { name, pause } => (
            Event::WrongPasswords,
            format!(
                "too many wrong passwords came for {name}; the directory is asked about no other for {} s",
                pause.as_secs()
            ),
        ),
        Notice::MailboxMoved { name, from, to } => {
            (Event::MailboxMoved, moved(name, from.as_ref(), to.as_ref(), topology))
        }
    }
}

fn moved(name: &str, from: Option<&Mailbox>, to: Option<&Mailbox>, topology: Option<&Topology>) -> String {
    let server = |mailbox: &Mailbox| server_of(mailbox, topology);
    match (from.map(server), to.map(server)) {
        (Some(from), Some(to)) if from == to => format!("{name} moved to another database of {to}"),
        (Some(from), Some(to)) => format!("{name} moved from {from} to {to}"),
        (None, Some(to)) => format!("{name} has a mailbox now, on {to}"),
        (Some(from), None) => format!("{name} has no mailbox any more; it was on {from}"),
        (None, None) => format!("{name} has no mailbox"),
    }
}

/// The server by its name in the topology, else as the directory names it.
fn server_of(mailbox: &Mailbox, topology: Option<&Topology>) -> String {
    if let Some((topology, id)) = topology.and_then(|topology| Some((topology, topology.home_server(mailbox)?))) {
        return topology.server(id).name.clone();
    }
    match (&*mailbox.home_server, &mailbox.home_database) {
        ("", Some(database)) => format!("the server of database {database}"),
        ("", None) => "an unknown server".to_owned(),
        (legacy_dn, _) => legacy_dn.rsplit_once("/cn=").map_or(legacy_dn, |(_, name)| name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::directory::{ldif, schema};

    fn on(server: &str, database: Option<&str>) -> Mailbox {
        let servers = "/o=contoso/ou=exchange administrative group (fydibohf23spdlt)/cn=configuration/cn=servers";
        let home_server = if server.is_empty() { String::new() } else { format!("{servers}/cn={server}") };
        Mailbox { key: 1, home_server: home_server.into(), home_database: database.map(Into::into) }
    }

    #[test]
    fn every_notice_has_its_event_and_a_sentence() {
        let contoso = ldif::parse(include_bytes!("../../conf/contoso.ldif")).expect("LDIF");
        let topology = Topology::new(schema::topology(&contoso).parts);
        let server = || "ldaps://dc-1".to_owned();
        let moved =
            |from: Option<_>, to: Option<_>| Notice::MailboxMoved { name: "bruno@contoso.com".into(), from, to };
        for (notice, event, sentence) in [
            (
                Notice::Away { servers: server(), problem: "it is cold".into() },
                Event::DirectoryAway,
                "none of ldaps://dc-1 answers: it is cold",
            ),
            (Notice::Back { servers: server() }, Event::DirectoryBack, "ldaps://dc-1 answer again"),
            (
                Notice::ServerAway { server: server(), problem: "connection refused".into() },
                Event::DirectoryServerAway,
                "ldaps://dc-1 does not answer: connection refused",
            ),
            (Notice::ServerBack { server: server() }, Event::DirectoryServerBack, "ldaps://dc-1 answers again"),
            (
                Notice::CertificateEnds { server: server(), days: 12 },
                Event::DirectoryCertificate,
                "the certificate of ldaps://dc-1 ends in 12 days",
            ),
            (
                Notice::CertificateEnds { server: server(), days: -3 },
                Event::DirectoryCertificate,
                "the certificate of ldaps://dc-1 ended 3 days ago",
            ),
            (
                Notice::WrongPasswords { name: "ana@contoso.com".into(), pause: Duration::from_secs(600) },
                Event::WrongPasswords,
                "too many wrong passwords came for ana@contoso.com; the directory is asked about no other for 600 s",
            ),
            (
                moved(Some(on("mbx-opo", None)), Some(on("mbx-lis", None))),
                Event::MailboxMoved,
                "bruno@contoso.com moved from mbx-opo to mbx-lis",
            ),
            (
                moved(Some(on("mbx-opo", None)), Some(on("mbx-gone", None))),
                Event::MailboxMoved,
                "bruno@contoso.com moved from mbx-opo to mbx-gone",
            ),
            (
                moved(Some(on("mbx-opo", Some("cn=a"))), Some(on("mbx-opo", Some("cn=b")))),
                Event::MailboxMoved,
                "bruno@contoso.com moved to another database of mbx-opo",
            ),
            (
                moved(None, Some(on("", Some("cn=b")))),
                Event::MailboxMoved,
                "bruno@contoso.com has a mailbox now, on the server of database cn=b",
            ),
            (
                moved(Some(on("", None)), None),
                Event::MailboxMoved,
                "bruno@contoso.com has no mailbox any more; it was on an unknown server",
            ),
        ] {
            assert_eq!(told(&notice, Some(&topology)), (event, sentence.to_owned()));
        }
    }
}
