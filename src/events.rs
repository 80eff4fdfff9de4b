//! Events: what an administrator should know, each with a stable id, a severity, a text and a cure.
//!
//! Where Exchange has an event for the same thing, its id is kept ([`Event::id`]: `OWA41` is event 41 of source
//! `MSExchange OWA`, `EAS1008` event 1008 of `MSExchange ActiveSync`). Our own are `FC` and a number. [`catalogue`] shows
//! them all.
//!
//! Every event is counted ([`counts`]). What is written goes to the log, to the list of [`recent`] ones, and to where
//! [`also_to`] says; no event is written so often that it hides the others ([`throttle`]).

pub mod catalogue;
mod kept;
mod outlets;
mod throttle;

use std::fmt;

pub use self::{
    kept::{Happened, counts, recent},
    outlets::also_to,
    throttle::{tell_left_out, throttle},
};
pub use crate::error_chain::whole_chain;
use crate::routing::Refusal;

/// Something worth an administrator's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A server did not take the ticket that the edge signed in with for a user, or has no service principal name.
    ProxySignInFailed,
    /// No Kerberos key distribution centre answers.
    KdcAway,
    /// One answers again.
    KdcBack,
    /// This machine's clock and the key distribution centre's differ too much.
    ClockSkew,
    /// The key distribution centre does not let the edge's account sign in for a user.
    DelegationRefused,
    /// The edge's own account cannot sign in.
    EdgeAccountUnusable,
    /// A user's account cannot be signed in with: password expired, locked, disabled.
    AccountUnusable,
    /// A ticket could not be had for another reason.
    SignInFailed,
    /// A server broke off a POP3 or IMAP4 sign-in, or could not begin it.
    MailServerFailed,
    /// A server of IMAP4 does not offer what the edge has promised of it.
    CapabilityMissing,
    /// A client of POP3 or IMAP4 was told another server to connect to.
    MailElsewhere,
    /// A server of mail said no to a password that the directory had found right.
    MailSignInRefused,
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
    /// Somebody spoke to a listener for balancers who is none.
    BalancerNotTrusted,
    /// A trusted balancer sent no PROXY protocol header, or none that can be read.
    BalancerHeader,
    /// One client has as many connections as it may.
    TooManyOfClient,
    /// Too many logons from one client failed.
    FailedLogonsOfClient,
    /// Too many logons of one person failed.
    FailedLogonsOfUser,
    /// A device repeats its requests much faster than any real use.
    RetryStorm,
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
    /// A configuration that was to come into force cannot; the one before it still is.
    ReloadRefused,
    /// Part of a configuration needs another process.
    WaitsForUpgrade,
    /// A part of the edge broke off by a fault in it, and went on.
    InternalFault,
    /// Another process has taken this one's place.
    HandedOver,
    /// This process has taken another one's place.
    TookOver,
    /// Another process was to take this one's place, and did not.
    NotHandedOver,
    /// The process that had taken over died while the one before was draining.
    SuccessorDied,
    /// Clients were cut off when the time to drain was over.
    CutOff,
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
        Event::BalancerNotTrusted,
        Event::BalancerHeader,
        Event::TooManyOfClient,
        Event::FailedLogonsOfClient,
        Event::FailedLogonsOfUser,
        Event::RetryStorm,
        Event::ExtendedProtection,
        Event::TicketNotOpened,
        Event::ConnectionNotOwn,
        Event::ProxySignInFailed,
        Event::KdcAway,
        Event::KdcBack,
        Event::ClockSkew,
        Event::DelegationRefused,
        Event::EdgeAccountUnusable,
        Event::AccountUnusable,
        Event::SignInFailed,
        Event::MailServerFailed,
        Event::CapabilityMissing,
        Event::MailElsewhere,
        Event::MailSignInRefused,
        Event::RequestRefused,
        Event::Reloaded,
        Event::ReloadRefused,
        Event::WaitsForUpgrade,
        Event::InternalFault,
        Event::HandedOver,
        Event::TookOver,
        Event::NotHandedOver,
        Event::SuccessorDied,
        Event::CutOff,
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
            Event::BalancerNotTrusted => "FC134",
            Event::BalancerHeader => "FC135",
            Event::TooManyOfClient => "FC136",
            Event::FailedLogonsOfClient => "FC137",
            Event::FailedLogonsOfUser => "FC138",
            Event::RetryStorm => "FC139",
            Event::ExtendedProtection => "FC140",
            Event::ConnectionNotOwn => "FC141",
            Event::TicketNotOpened => "FC142",
            Event::RequestRefused => "FC131",
            Event::ProxySignInFailed => "OWA71",
            Event::KdcAway => "FC180",
            Event::KdcBack => "FC181",
            Event::ClockSkew => "FC182",
            Event::DelegationRefused => "FC183",
            Event::EdgeAccountUnusable => "FC184",
            Event::AccountUnusable => "FC185",
            Event::SignInFailed => "FC186",
            Event::MailServerFailed => "FC187",
            Event::CapabilityMissing => "FC188",
            Event::MailElsewhere => "FC189",
            Event::MailSignInRefused => "FC190",
            Event::Reloaded => "FC160",
            Event::ReloadRefused => "FC161",
            Event::WaitsForUpgrade => "FC162",
            Event::InternalFault => "FC170",
            Event::CertificateEnds => "FC150",
            Event::CertificateEnded => "FC151",
            Event::ClientCertificateUnknown => "FC152",
            Event::HandedOver => "FC163",
            Event::TookOver => "FC164",
            Event::NotHandedOver => "FC165",
            Event::CutOff => "FC166",
            Event::SuccessorDied => "FC167",
        }
    }

    /// How urgent it is.
    pub fn severity(self) -> Severity {
        match self {
            Event::ServerBack
            | Event::KdcBack
            | Event::VirtualDirectoryBack
            | Event::DirectoryBack
            | Event::DirectoryServerBack
            | Event::MailboxMoved
            | Event::TopologyChanged
            | Event::RequestRefused
            | Event::Reloaded
            | Event::HandedOver
            | Event::TookOver
            | Event::MalformedRequest => Severity::Information,
            Event::ActiveSyncRedirected
            | Event::MailElsewhere
            | Event::MailSignInRefused
            | Event::CapabilityMissing
            | Event::AccountUnusable
            | Event::DirectoryOddity
            | Event::DirectoryServerAway
            | Event::DirectoryCertificate
            | Event::CertificateEnds
            | Event::ClientCertificateUnknown
            | Event::WrongPasswords
            | Event::StateNotKept
            | Event::TicketNotOpened
            | Event::BalancerNotTrusted
            | Event::TooManyOfClient
            | Event::FailedLogonsOfClient
            | Event::FailedLogonsOfUser
            | Event::RetryStorm
            | Event::WaitsForUpgrade
            | Event::CutOff
            | Event::ExtendedProtection => Severity::Warning,
            Event::BackEndWithoutIntegratedAuthentication
            | Event::ProxySignInFailed
            | Event::KdcAway
            | Event::ClockSkew
            | Event::DelegationRefused
            | Event::EdgeAccountUnusable
            | Event::SignInFailed
            | Event::MailServerFailed
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
            | Event::BalancerHeader
            | Event::ConnectionNotOwn
            | Event::ReloadRefused
            | Event::InternalFault
            | Event::NotHandedOver
            | Event::SuccessorDied
            | Event::DirectoryAway => Severity::Error,
        }
    }

    /// The source and number of Exchange's own event, where this is one.
    pub fn of_exchange(self) -> Option<(&'static str, &'static str)> {
        let id = self.id();
        let owa = id.strip_prefix("OWA").map(|number| ("MSExchange OWA", number));
        owa.or_else(|| id.strip_prefix("EAS").map(|number| ("MSExchange ActiveSync", number)))
    }

    /// What it means.
    #[allow(clippy::too_many_lines)] // a table
    pub fn meaning(self) -> &'static str {
        match self {
            Event::VirtualDirectoryOut => {
                "A server accepts connections, but one of its virtual directories does not answer as one that works does. \
                 Its requests go to the site's other servers."
            }
            Event::VirtualDirectoryBack => {
                "A virtual directory answers again as one that works does; its clients come back to it little by little."
            }
            Event::CertificateEnds => {
                "A listener's certificate, or an authority that its clients are believed by, ends within 30 days; told again \
                 at 7 days."
            }
            Event::CertificateEnded => {
                "A listener's certificate, or an authority that its clients are believed by, ends within a day or has ended. \
                 Clients that check it cannot connect then."
            }
            Event::ClientCertificateUnknown => {
                "A client showed a certificate of an authority that is believed, but the name in it is no account's, or there \
                 is none. It is served as if it had shown none."
            }
            Event::Reloaded => {
                "SIGHUP brought another configuration into force, with the certificates and the topology that it names. \
                 No connection was closed for it."
            }
            Event::ReloadRefused => {
                "A configuration that SIGHUP asked for has mistakes, or what it names cannot be used. All of it was left; \
                 what was in force before still is."
            }
            Event::WaitsForUpgrade => {
                "A part of the new configuration cannot change while the process runs, such as the addresses it listens on. \
                 The rest of it is in force."
            }
            Event::BalancerNotTrusted => {
                "Somebody who is no trusted proxy came to a listener that waits for a balancer's PROXY protocol header. The \
                 connection was closed."
            }
            Event::BalancerHeader => {
                "A trusted balancer's connection did not begin with a PROXY protocol header that can be read. It was closed, \
                 because nobody knows whose it is."
            }
            Event::TooManyOfClient => {
                "One client address has as many connections as one may have; further ones were closed."
            }
            Event::FailedLogonsOfClient => {
                "So many logons from one client failed that people who are not known there are told to wait, without asking \
                 the directory or a server."
            }
            Event::FailedLogonsOfUser => {
                "So many logons of one person failed that they are told to wait where they have not signed in before. Where \
                 they are known they go on."
            }
            Event::RetryStorm => {
                "An ActiveSync device asks far more often than one that works would; it was told to wait for the rest of the \
                 minute."
            }
            Event::HandedOver => {
                "Another process has taken this one's place: it listens on the same sockets, and new clients are its own. \
                 This one finishes what it has."
            }
            Event::TookOver => {
                "This process has taken the place of another, which finishes what it has. No client was refused for it."
            }
            Event::NotHandedOver => {
                "Another process was to take this one's place and did not: it could not start, did not say in time that it \
                 serves, or nobody waited. This process serves as before."
            }
            Event::SuccessorDied => {
                "A process that had taken another one's place died by a fault while the one before was still finishing what it \
                 had. Nobody listens until the service is started again, which the end of that one lets happen."
            }
            Event::CutOff => {
                "A process that was leaving had waited for its last requests and sessions of mail as long as it may, and cut them \
                 off."
            }
            Event::InternalFault => {
                "A part of firstcas came upon a fault of its own. That round of its work was given up; the next one is made \
                 as usual."
            }
            Event::ActiveSyncRedirected => {
                "A device asked here for a mailbox of a site that has its own Internet-facing Client Access Server, and was \
                 sent there by an HTTP 451 with the URL to use."
            }
            Event::BackEndWithoutIntegratedAuthentication => {
                "An Exchange 2003 back-end asked for a password without offering Integrated Windows authentication. Clients \
                 that depend on it cannot sign in there."
            }
            Event::ProxyTargetNotUsable => {
                "A request could not be proxied to the mailbox's site: no Client Access Server there has a virtual directory \
                 for it with an InternalURL and Integrated Windows authentication."
            }
            Event::ProxyTargetWithoutSsl => {
                "A request was not proxied to the mailbox's site, because the InternalURLs there are http://, and passwords \
                 would cross the network in clear."
            }
            Event::ProxyTargetVersion => {
                "A request was refused, because the mailbox's site has no Client Access Server of the mailbox's own version."
            }
            Event::SiteWithoutClientAccessServer => {
                "A request was refused, because the mailbox's site has no Client Access Server at all, and no other site may \
                 serve it."
            }
            Event::ServerUnreachable => {
                "A server has no address that could be found, or does not accept connections. It is left alone for a while, \
                 and the other servers of its site are used."
            }
            Event::ServerBack => "A server that did not accept connections accepts them again, and is used.",
            Event::SiteDown => {
                "None of a site's Client Access Servers answers, so whoever has a mailbox there is told to come back later."
            }
            Event::ServerCertificate => {
                "A server's certificate is not trusted, is for another name or has ended, or the server speaks only a TLS that \
                 is too old. Nothing is sent to it."
            }
            Event::DirectoryOddity => {
                "The directory has an object that breaks a user or a server: a mailbox on a server that is not there, a URL \
                 that is none, a name that two people have. What is right is used."
            }
            Event::DirectoryAway => {
                "No directory server answers, or what they say cannot be used. The last good topology stays in force, and \
                 people who are known are served; others get a 503."
            }
            Event::DirectoryBack => "The directory answers again, and everybody is served.",
            Event::DirectoryServerAway => {
                "One of several directory servers does not answer any more. It is asked again when it does; nobody notices."
            }
            Event::DirectoryServerBack => "A directory server that did not answer answers again, and is asked again.",
            Event::DirectoryCertificate => {
                "The certificate of a directory server ends soon, or has ended. Once it has, the edge does not speak to that \
                 server."
            }
            Event::WrongPasswords => {
                "So many wrong passwords came for one person that the directory is not asked about more of them for a \
                 while, so that nobody who guesses at the edge locks an account."
            }
            Event::MailboxMoved => {
                "A mailbox is on another server or database than before, is new, or is gone. Its requests follow it from \
                 now on."
            }
            Event::StateNotKept => {
                "What a start without directory needs (process.state_dir) could not be written or read. The edge serves all \
                 the same."
            }
            Event::TopologyChanged => {
                "The directory's servers, sites or virtual directories are different, and the new topology is in force. The \
                 text says what is different."
            }
            Event::MalformedRequest => {
                "A request, or a credential in it, was not what its protocol allows, and was refused or not believed."
            }
            Event::TooManyClients => {
                "As many client connections as limits.client_connections allows are open; further ones are closed at once."
            }
            Event::TooManyPins => {
                "As many clients are signed in by Windows authentication as pins.connections_max allows; further ones get a 503."
            }
            Event::ExtendedProtection => {
                "A server refused a sign-in by Windows authentication that it had itself begun, most likely because it \
                 demands Extended Protection."
            }
            Event::ProxySignInFailed => {
                "The edge could not sign in to a server for a user: the server has no service principal name, or did not take \
                 the Kerberos ticket."
            }
            Event::KdcAway => {
                "No Kerberos key distribution centre answers. Users whose tickets are at hand go on until those end; others \
                 are asked to try again."
            }
            Event::KdcBack => "A Kerberos key distribution centre answers again.",
            Event::ClockSkew => {
                "This machine's clock differs from the domain controllers' by more than Kerberos allows (5 minutes), and \
                 kdc_timesync = 0 in krb5.conf keeps the Kerberos library from going by theirs, so nobody can be signed in to a \
                 server. A server whose own clock differs refuses tickets, which is OWA71."
            }
            Event::DelegationRefused => {
                "The key distribution centre does not let the edge's account sign in to a server for a user (constrained \
                 delegation)."
            }
            Event::EdgeAccountUnusable => {
                "The edge's own account, sign_in.keytab, cannot sign in, so it can sign in nobody by delegation."
            }
            Event::AccountUnusable => {
                "A user's account cannot be used: its password has expired, or it is locked, disabled or expired."
            }
            Event::SignInFailed => "The Kerberos library could not get a ticket for a user, for another reason.",
            Event::MailServerFailed => {
                "A server took a connection for POP3 or IMAP4, but nobody can sign in there: it does not speak the protocol, \
                 offers no TLS where it is configured, takes no password, or broke off. The user is told to try again."
            }
            Event::CapabilityMissing => {
                "A server does not offer a capability of IMAP4 that mail.imap4_capabilities promises to every client. No client \
                 is told of it any more, until the edge starts anew."
            }
            Event::MailElsewhere => {
                "Somebody signed in here by POP3 or IMAP4 for a mailbox on Exchange 2007 in another site, which only that site \
                 serves. The client was refused, with the name of the server to use; mail programs do not follow by themselves."
            }
            Event::MailSignInRefused => {
                "A server refused a POP3 or IMAP4 logon although the directory had found the password right. The user was told \
                 so in the server's own words."
            }
            Event::TicketNotOpened => {
                "A client's Kerberos ticket could not be opened with kerberos.keytab, so the edge does not know whose it is."
            }
            Event::ConnectionNotOwn => {
                "A server connection that somebody is signed in over was not the one it had to be, or a server signed \
                 somebody in unasked. The connection was closed before anything went over it to the wrong side."
            }
            Event::RequestRefused => {
                "A request was refused because of who asked for what: nobody of that name, no mailbox, or a protocol that \
                 the mailbox's version does not have."
            }
        }
    }

    /// What to do about it.
    #[allow(clippy::too_many_lines)] // a table
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
            | Event::HandedOver
            | Event::TookOver
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
            Event::BalancerNotTrusted => {
                "if it is a balancer of yours, add it to the listener's trusted_proxies; else let the firewall keep it away"
            }
            Event::TooManyOfClient => {
                "raise limits.connections_per_client, if it is a company's or a carrier's; name it in trusted_proxies, if it \
                 is a balancer of yours; else let the firewall keep it away"
            }
            Event::FailedLogonsOfClient => {
                "find out who guesses there, or whose devices have old passwords; who is known there is not affected"
            }
            Event::FailedLogonsOfUser => {
                "find out who guesses, or which device has an old password; the person can sign in where they did lately"
            }
            Event::RetryStorm => "restart the device or its mail program, update it, or remove and add its account",
            Event::BalancerHeader => {
                "let the balancer send the PROXY protocol (HAProxy: send-proxy or send-proxy-v2), or set proxy_protocol = false"
            }
            Event::ExtendedProtection => {
                "set the virtual directory's ExtendedProtectionTokenChecking to None: it asks for the client's own TLS \
                 channel to the server, which ends at the edge"
            }
            Event::ProxySignInFailed => {
                "give the service account of the server HTTP/<host of the InternalURL> (setspn -S HTTP/host account), once in \
                 the forest; name a host in the InternalURL, not an address; let IIS offer Negotiate, not NTLM alone; set \
                 the server's clock by the domain's"
            }
            Event::KdcAway => "start a domain controller, or correct /etc/krb5.conf or DNS (_kerberos._tcp)",
            Event::KdcBack => "nothing to do",
            Event::ClockSkew => {
                "set the clock of this machine by the domain's time service (chrony or systemd-timesyncd), and remove \
                 kdc_timesync = 0"
            }
            Event::DelegationRefused => {
                "allow the account delegation to HTTP/<host> with any authentication protocol (msDS-AllowedToDelegateTo and \
                 TRUSTED_TO_AUTH_FOR_DELEGATION), give it a service principal name of its own, and see that the user is neither \
                 'sensitive and cannot be delegated' nor in Protected Users"
            }
            Event::EdgeAccountUnusable => {
                "export the account's keytab again if its password was changed, name the right one in sign_in.account, enable \
                 the account"
            }
            Event::AccountUnusable => {
                "as the line says: let the user change the password, or unlock or enable the account"
            }
            Event::SignInFailed => {
                "see the reason, and the domain controller's log; nobody can be signed in for a linked mailbox, so leave \
                 Basic on at the virtual directories for those whom the line names"
            }
            Event::MailServerFailed => {
                "see the reason; start the POP3 or IMAP4 service there, give it a certificate, or set tls and the ports of \
                 [mail.back_ends] or [mail.client_access_servers] as the server has them"
            }
            Event::CapabilityMissing => "take it out of the list in [mail], or turn it on at the server",
            Event::MailElsewhere => {
                "let the user set the incoming server of the mail program to the one that the line names; or move the mailbox \
                 to Exchange 2010 or later, which is proxied to"
            }
            Event::MailSignInRefused => {
                "see the server's words; let the mailbox use the protocol (Set-CASMailbox -PopEnabled $true or -ImapEnabled \
                 $true), and the server take a name and password (Set-PopSettings, Set-ImapSettings -LoginType)"
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
            Event::SuccessorDied => {
                "look at its last words in the log; start firstcas again if no service manager does"
            }
            Event::NotHandedOver => "mend what it names, and upgrade again; this process serves as before",
            Event::CutOff => {
                "nothing, as a rule: clients that were held ask again, and mail programs connect again; process.drain_timeout and \
                 process.upgrade_drain_timeout give them longer"
            }
            Event::WaitsForUpgrade => "`firstcas upgrade` brings it into force without losing a connection",
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

    /// Counts the event, and writes it: to the log under the target `firstcas::event`, and wherever else events go.
    pub fn report(self, what: impl fmt::Display) {
        kept::count(self);
        if throttle::may_be_written(self) {
            self.write(&what.to_string());
        }
    }

    fn write(self, what: &str) {
        log::log!(target: TARGET, self.severity().level(), event = self.id(), cure = self.cure(); "{what}");
        let line = one_line(what);
        outlets::send(self, &line);
        kept::keep(self, line);
    }
}

impl Severity {
    fn level(self) -> log::Level {
        match self {
            Severity::Information => log::Level::Info,
            Severity::Warning => log::Level::Warn,
            Severity::Error => log::Level::Error,
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Information => "information",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// Text that stays one line and fits a datagram, whatever a client has put into it.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len().min(LINE_BYTES_MAX));
    for character in text.chars() {
        if line.len() + character.len_utf8() > LINE_BYTES_MAX {
            line.push_str("...");
            break;
        }
        if character.is_control() { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line
}

/// By which a filter of the log names events.
const TARGET: &str = "firstcas::event";

const LINE_BYTES_MAX: usize = 2_000;

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

    #[test]
    fn the_catalogue_leaves_no_event_out() {
        let mut places: Vec<_> = Event::ALL.iter().map(|event| *event as usize).collect();
        places.sort_unstable();
        assert!(places.iter().copied().eq(0..Event::ALL.len()), "{places:?}");
    }

    #[test]
    fn an_event_of_exchange_keeps_its_source_and_number() {
        assert_eq!(Event::ProxyTargetNotUsable.of_exchange(), Some(("MSExchange OWA", "41")));
        assert_eq!(Event::ActiveSyncRedirected.of_exchange(), Some(("MSExchange ActiveSync", "1008")));
        assert_eq!(Event::DirectoryAway.of_exchange(), None);
    }

    #[test]
    fn nothing_of_a_client_makes_a_second_line_or_a_long_one() {
        assert_eq!(one_line("ana\nMESSAGE=forged\u{1b}[2J"), "ana\\nMESSAGE=forged\\u{1b}[2J");
        let long = one_line(&"\u{e9}".repeat(LINE_BYTES_MAX));
        assert!(long.ends_with("\u{e9}...") && long.len() <= LINE_BYTES_MAX + 3, "{}", long.len());
        assert!(one_line(&"\u{7f}".repeat(LINE_BYTES_MAX)).len() <= LINE_BYTES_MAX + 10);
    }
}
