//! Events: what an administrator should know, each with a stable id, a severity, a text and a cure.
//!
//! Where Exchange has an event for the same thing, its id is kept ([`Event::id`]: `OWA41` is event 41 of source
//! `MSExchange OWA`, `EAS1008` event 1008 of `MSExchange ActiveSync`). Our own are `FC` and a number.

use std::{
    collections::VecDeque,
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use parking_lot::Mutex;

pub use crate::error_chain::whole_chain;
use crate::routing::Refusal;

/// Something worth an administrator's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A device was sent to another site by a 451.
    ActiveSyncRedirected,
    /// A 2003 back-end challenged without Integrated Windows authentication.
    BackEndWithoutIntegratedAuthentication,
    /// Proxying needs Integrated Windows authentication, or an InternalURL, on the target.
    ProxyTargetNotUsable,
    /// Proxying needs SSL on the target.
    ProxyTargetWithoutSsl,
    /// The mailbox's site has no Client Access Server of its version.
    ProxyTargetVersion,
    /// A mailbox's site has no Client Access Server at all.
    SiteWithoutClientAccessServer,
    /// A server does not accept connections.
    ServerUnreachable,
    /// A server accepts connections again.
    ServerBack,
    /// No Client Access Server of a site answers.
    SiteDown,
    /// A server's certificate is not trusted, or its TLS is too old.
    ServerCertificate,
    /// A virtual directory does not answer as one that works does.
    VirtualDirectoryOut,
    /// It does again.
    VirtualDirectoryBack,
    /// Directory data that would break a user.
    DirectoryOddity,
    /// No directory server answers any more, or what it says cannot be used.
    DirectoryAway,
    /// The directory answers again.
    DirectoryBack,
    /// One of several directory servers does not answer any more.
    DirectoryServerAway,
    /// It answers again.
    DirectoryServerBack,
    /// A directory server's certificate ends soon.
    DirectoryCertificate,
    /// The directory is not asked about somebody's passwords any more, because too many were wrong.
    WrongPasswords,
    /// A mailbox has moved.
    MailboxMoved,
    /// What is kept for a start without directory could not be written or read.
    StateNotKept,
    /// A new topology is in force.
    TopologyChanged,
    /// A listener's certificate, or one that its clients are believed by, ends within 30 days.
    CertificateEnds,
    /// It ends within a day, or has ended.
    CertificateEnded,
    /// A client certificate of an authority that is believed proves nobody.
    ClientCertificateUnknown,
    /// A request was malformed or forged.
    MalformedRequest,
    /// More clients came than are let in.
    TooManyClients,
    /// More clients sign in by Windows authentication than may.
    TooManyPins,
    /// A server refused a sign-in, most likely because of Extended Protection.
    ExtendedProtection,
    /// A client's Kerberos ticket could not be opened with the keytab.
    TicketNotOpened,
    /// A connection of a pinned client was not what it had to be, or a server authenticated one unasked.
    ConnectionNotOwn,
    /// A request was refused because of who asked for what.
    RequestRefused,
    /// Another configuration is in force.
    Reloaded,
    /// A configuration that was to come in force cannot; the one before it still is.
    ReloadRefused,
    /// Part of a configuration needs another process.
    WaitsForUpgrade,
    /// A part of the edge broke off by a fault in it, and went on.
    InternalFault,
}

/// How urgent an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Good to know.
    Information,
    /// A user was, or soon will be, affected.
    Warning,
    /// Users are affected until somebody acts.
    Error,
}

impl Event {
    /// Every event, in the order of the catalogue.
    pub const ALL: &[Event] = &[
        Event::ActiveSyncRedirected,
        Event::BackEndWithoutIntegratedAuthentication,
        Event::ProxyTargetNotUsable,
        Event::ProxyTargetWithoutSsl,
        Event::ProxyTargetVersion,
        Event::SiteWithoutClientAccessServer,
        Event::ServerUnreachable,
        Event::ServerBack,
        Event::SiteDown,
        Event::ServerCertificate,
        Event::VirtualDirectoryOut,
        Event::VirtualDirectoryBack,
        Event::DirectoryOddity,
        Event::DirectoryAway,
        Event::DirectoryBack,
        Event::DirectoryServerAway,
        Event::DirectoryServerBack,
        Event::DirectoryCertificate,
        Event::WrongPasswords,
        Event::MailboxMoved,
        Event::StateNotKept,
        Event::TopologyChanged,
        Event::CertificateEnds,
        Event::CertificateEnded,
        Event::ClientCertificateUnknown,
        Event::MalformedRequest,
        Event::TooManyClients,
        Event::TooManyPins,
        Event::ExtendedProtection,
        Event::TicketNotOpened,
        Event::ConnectionNotOwn,
        Event::RequestRefused,
        Event::Reloaded,
        Event::ReloadRefused,
        Event::WaitsForUpgrade,
        Event::InternalFault,
    ];

    /// The stable id.
    pub fn id(self) -> &'static str {
        match self {
            Event::ActiveSyncRedirected => "EAS1008",
            Event::BackEndWithoutIntegratedAuthentication => "EAS1036",
            Event::ProxyTargetNotUsable => "OWA41",
            Event::ProxyTargetWithoutSsl => "OWA42",
            Event::ProxyTargetVersion => "OWA46",
            Event::SiteWithoutClientAccessServer => "FC101",
            Event::ServerUnreachable => "FC110",
            Event::ServerBack => "FC111",
            Event::SiteDown => "FC112",
            Event::ServerCertificate => "FC113",
            Event::VirtualDirectoryOut => "FC114",
            Event::VirtualDirectoryBack => "FC115",
            Event::DirectoryOddity => "FC120",
            Event::DirectoryAway => "FC121",
            Event::DirectoryBack => "FC123",
            Event::DirectoryServerAway => "FC124",
            Event::DirectoryServerBack => "FC125",
            Event::DirectoryCertificate => "FC126",
            Event::WrongPasswords => "FC127",
            Event::MailboxMoved => "FC128",
            Event::StateNotKept => "FC129",
            Event::TopologyChanged => "FC122",
            Event::MalformedRequest => "FC130",
            Event::TooManyClients => "FC132",
            Event::TooManyPins => "FC133",
            Event::ExtendedProtection => "FC140",
            Event::ConnectionNotOwn => "FC141",
            Event::TicketNotOpened => "FC142",
            Event::RequestRefused => "FC131",
            Event::Reloaded => "FC160",
            Event::ReloadRefused => "FC161",
            Event::WaitsForUpgrade => "FC162",
            Event::InternalFault => "FC170",
            Event::CertificateEnds => "FC150",
            Event::CertificateEnded => "FC151",
            Event::ClientCertificateUnknown => "FC152",
        }
    }

    /// How urgent it is.
    pub fn severity(self) -> Severity {
        match self {
            Event::ServerBack
            | Event::VirtualDirectoryBack
            | Event::DirectoryBack
            | Event::DirectoryServerBack
            | Event::MailboxMoved
            | Event::TopologyChanged
            | Event::RequestRefused
            | Event::Reloaded
            | Event::MalformedRequest => Severity::Information,
            Event::ActiveSyncRedirected
            | Event::DirectoryOddity
            | Event::DirectoryServerAway
            | Event::DirectoryCertificate
            | Event::CertificateEnds
            | Event::ClientCertificateUnknown
            | Event::WrongPasswords
            | Event::StateNotKept
            | Event::TicketNotOpened
            | Event::WaitsForUpgrade
            | Event::ExtendedProtection => Severity::Warning,
            Event::BackEndWithoutIntegratedAuthentication
            | Event::ProxyTargetNotUsable
            | Event::ProxyTargetWithoutSsl
            | Event::ProxyTargetVersion
            | Event::SiteWithoutClientAccessServer
            | Event::ServerUnreachable
            | Event::SiteDown
            | Event::ServerCertificate
            | Event::CertificateEnded
            | Event::VirtualDirectoryOut
            | Event::TooManyClients
            | Event::TooManyPins
            | Event::ConnectionNotOwn
            | Event::ReloadRefused
            | Event::InternalFault
            | Event::DirectoryAway => Severity::Error,
        }
    }

    /// What to do about it.
    pub fn cure(self) -> &'static str {
        match self {
            Event::ActiveSyncRedirected => {
                "nothing, if the device follows; else recreate its partnership with the URL of the mailbox's own site"
            }
            Event::BackEndWithoutIntegratedAuthentication => {
                "turn on Integrated Windows authentication on the back-end's /Exchange and /Microsoft-Server-ActiveSync"
            }
            Event::ProxyTargetNotUsable => {
                "set InternalURL and WindowsAuthentication $true on the virtual directory of a Client Access Server there"
            }
            Event::ProxyTargetWithoutSsl => {
                "set an https InternalURL on the target, or routing.allow_http_internal_url = true here"
            }
            Event::ProxyTargetVersion => "install a Client Access Server of the mailbox's version in its site",
            Event::SiteWithoutClientAccessServer => "install a Client Access Server in the mailbox's site",
            Event::ServerUnreachable => "check the server, its name in DNS or [resolve], and the firewall between",
            Event::ServerBack
            | Event::VirtualDirectoryBack
            | Event::DirectoryBack
            | Event::DirectoryServerBack
            | Event::MailboxMoved
            | Event::Reloaded
            | Event::TopologyChanged => "nothing",
            Event::VirtualDirectoryOut => {
                "check its application pool and the server's own health; the site's other servers take its requests"
            }
            Event::DirectoryServerAway => "check that server; the others answer in its place",
            Event::DirectoryCertificate => "renew it before the edge has to refuse the server",
            Event::WrongPasswords => {
                "find out who guesses; the owner can sign in again after directory.wrong_passwords_window"
            }
            Event::StateNotKept => {
                "if it could not be written or read, give process.state_dir, with room in it, to the user that firstcas \
                 runs as; a bad file needs nothing, the next good reading of the directory writes a new one"
            }
            Event::SiteDown => "check the site's servers and the line to it",
            Event::ServerCertificate => {
                "give the server a certificate that [upstream] or [sites.NAME] trusts, or trust the one it has there"
            }
            Event::DirectoryOddity => "mend the object it names",
            Event::DirectoryAway => "check the directory servers named in [directory] and the account used there",
            Event::TooManyClients => {
                "raise limits.client_connections, if the clients are yours; else find out who they are"
            }
            Event::TooManyPins => "raise pins.connections_max, and the system's limit on open files with it",
            Event::ExtendedProtection => {
                "set the virtual directory's ExtendedProtectionTokenChecking to None: it asks for the client's own TLS \
                 channel to the server, which ends at the edge"
            }
            Event::TicketNotOpened => {
                "see the reason; until then the client goes where hints say, and its server judges it"
            }
            Event::ConnectionNotOwn => {
                "report it, with the log lines around it; the client was cut off, nobody was mixed up"
            }
            Event::CertificateEnds | Event::CertificateEnded => {
                "put the renewed certificate, and its key, in the place of the files it names, and reload firstcas"
            }
            Event::ClientCertificateUnknown => {
                "have the certificate issued with the userPrincipalName that the account has now; until then the client \
                 is asked for its password"
            }
            Event::MalformedRequest => "look at the client; an attack if it keeps coming",
            Event::RequestRefused => "see the reason; `firstcas explain` shows each step",
            Event::ReloadRefused => "mend what it names, and send SIGHUP again; `firstcas check` shows every mistake",
            Event::InternalFault => "report it, with the log lines before it",
            Event::WaitsForUpgrade => "`firstcas upgrade` brings it in force without losing a connection",
        }
    }

    /// The event that goes with a refusal by the routing rules.
    pub fn of_refusal(refusal: Refusal) -> Event {
        match refusal {
            Refusal::NotServedLocally
            | Refusal::NoVirtualDirectory
            | Refusal::NoInternalUrl
            | Refusal::NoIntegratedAuthentication => Event::ProxyTargetNotUsable,
            Refusal::NoSsl => Event::ProxyTargetWithoutSsl,
            Refusal::NoAcceptableVersion => Event::ProxyTargetVersion,
            Refusal::NoClientAccessServer => Event::SiteWithoutClientAccessServer,
            Refusal::NoneResponding => Event::SiteDown,
            Refusal::AmbiguousName | Refusal::HomeServerUnknown | Refusal::VersionUnknown | Refusal::SiteUnknown => {
                Event::DirectoryOddity
            }
            Refusal::UnknownUser | Refusal::NoMailbox | Refusal::NotOnThisVersion => Event::RequestRefused,
        }
    }

    /// Writes the event to the log, under the target `firstcas::event`.
    pub fn report(self, what: impl fmt::Display) {
        let level = match self.severity() {
            Severity::Information => log::Level::Info,
            Severity::Warning => log::Level::Warn,
            Severity::Error => log::Level::Error,
        };
        note(self, what.to_string());
        log::log!(target: "firstcas::event", level, event = self.id(), cure = self.cure(); "{what}");
    }
}

/// An event that was reported.
#[derive(Clone, Debug)]
pub struct Recent {
    /// When.
    pub at: SystemTime,
    /// Which.
    pub event: Event,
    /// What happened.
    pub text: String,
}

/// How often each event was reported by this process.
pub fn counts() -> Vec<(Event, u64)> {
    Event::ALL.iter().map(|event| (*event, COUNTS[*event as usize].load(Relaxed))).collect()
}

/// The last events, the latest first.
pub fn recent() -> Vec<Recent> {
    RECENT.lock().iter().rev().cloned().collect()
}

fn note(event: Event, text: String) {
    COUNTS[event as usize].fetch_add(1, Relaxed);
    let mut recent = RECENT.lock();
    if recent.len() >= RECENT_MAX {
        recent.pop_front();
    }
    recent.push_back(Recent { at: SystemTime::now(), event, text });
}

static COUNTS: [AtomicU64; Event::ALL.len()] = [const { AtomicU64::new(0) }; Event::ALL.len()];
static RECENT: Mutex<VecDeque<Recent>> = Mutex::new(VecDeque::new());
const RECENT_MAX: usize = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_events_share_an_id() {
        let mut ids: Vec<_> = Event::ALL.iter().map(|event| event.id()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), Event::ALL.len());
    }
}
