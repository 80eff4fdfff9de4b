//! Why a decision was made: the rules, the refusals and the verdicts on single servers, each with a name for logs and
//! metrics and a sentence for people.
//!
//! The sources that comments in this module and in [`super`] name:
//!
//! * S1: the article, "Overview of Exchange Server 2007 CAS Proxying and Redirection" (Exchange Team Blog, 2007)
//! * S2: "How Exchange Server 2007 CAS Proxying works for Outlook Web Access" (Exchange Team Blog)
//! * S3: "How Exchange 2007 CAS Proxying works for `ActiveSync`" (Exchange Team Blog)
//! * S4, S5: "Understanding Proxying and Redirection", Exchange 2007 Help and Exchange 2010 Help (bb310763)
//! * S6: `ExternalURL` on the `ActiveSync` virtual directories of one site (`TechNet` dd439372)
//! * S7: KB 2751417; S8: "Upgrading Exchange `ActiveSync` to Exchange 2010" (Exchange Team Blog)
//! * S9: MS-ASHTTP 3.1.5.2.2; S11: OWA event 42 (`TechNet` ff980613); S13: OWA event 46 (KB 947168)
//! * S15, S16: the virtual directories of Exchange 2007 (`TechNet` bb885041; theemailadmin.com)
//! * S18: `ResponseCode` of Exchange Web Services (office-developer-exchange-docs)
//! * S24a: "Exchange 2010 SP2 OWA Cross-Site Silent Redirection" (techgenix.com)
//! * S25b: Exchange 2013 interoperability with legacy versions (vanhybrid.com, 2012)
//! * S41c: Outlook Anywhere and multiple AD sites (thesoundtrackofmylife.at, 2008); S50: Autodiscover (bb204246)
//! * S51a: "Upgrading Outlook Web App to Exchange 2010" (Exchange Team Blog)
//! * S60: "Exchange proxy and redirection, Exchange 2007 and 2010 explained" (adamfarage.medium.com)

use super::protocol::Protocol;

/// The rule that led to a decision other than a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The bare host name leads to Outlook Web Access. Ours, for people who type only the name.
    RootToOwa,
    /// Nobody is named yet: the local pool challenges. The First CAS is where clients log on. (S1)
    LocalChallenge,
    /// Services that any Client Access Server of the local site answers for everybody: Autodiscover and the offline
    /// address book are not proxied between sites, and the RPC proxy reaches Mailbox servers of any site. (S41c, S50)
    LocalService,
    /// The mailbox is in the edge's own site, so the First CAS serves it directly. (S1, S2)
    LocalSite,
    /// The mailbox's site is not Internet-facing, or the client cannot be redirected: the site is proxied to. (S1, S5)
    ProxyToSite,
    /// The mailbox's site has no Client Access Server; the nearest one that has is allowed to serve it. Not a rule of
    /// Exchange, which knows candidates in the mailbox's site only (S8); hence off unless the policy says otherwise.
    ProxyToNeighbour,
    /// Outlook Web Access is redirected by a page with a link. (S1, S24a)
    OwaRedirect,
    /// `ActiveSync` is redirected by a 451. (S1, S9)
    ActiveSyncRedirect,
    /// POP3 and IMAP4 are not proxied between Exchange 2007 servers, and cannot be redirected: the client is told the
    /// server of its mailbox's site. (S1)
    OwnSiteServer,
    /// An Exchange 2003 mailbox is served by its own server, whatever its site. (S1, S3)
    BackEnd2003,
    /// An Exchange 2003 mailbox was asked for at `/owa`, where Exchange 2007 finds no mailbox (S15), or at `/ecp`, which
    /// follows it; its Outlook Web Access is at `/exchange`. (S1)
    OwaTo2003,
    /// A mailbox older than Exchange 2010 was asked for at `/ecp`, which only 2010 brought; it follows `/owa`. (S60)
    EcpToOwa,
    /// An Exchange 2007 or later mailbox was asked for at `/exchange`, which ends at `/owa`. (S15, S16)
    LegacyToOwa,
}

/// Why a request cannot be served. Ordered as the rules meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Neither a mailbox nor its site comes into it: the local site has no Client Access Server with that directory.
    NotServedLocally,
    /// Nobody of that name, as far as the directory goes.
    UnknownUser,
    /// The name belongs to several entries.
    AmbiguousName,
    /// The person has no mailbox.
    NoMailbox,
    /// The mailbox's home server is not in the directory.
    HomeServerUnknown,
    /// The home server's version number is none of Exchange's.
    VersionUnknown,
    /// The home server has no AD site, or one that the directory does not have.
    SiteUnknown,
    /// The mailbox's version of Exchange does not speak this protocol: no EWS on 2003 (S1), no MAPI over HTTP before
    /// 2013 SP1.
    NotOnThisVersion,
    /// The mailbox's site has no Client Access Server; such a site has no access at all. (S1, S4)
    NoClientAccessServer,
    /// No Client Access Server there has the virtual directory.
    NoVirtualDirectory,
    /// None that has it has an `InternalURL` on it (one half of Exchange's event 41).
    NoInternalUrl,
    /// None of those has Integrated Windows authentication on, which proxying requires. (S1)
    NoIntegratedAuthentication,
    /// None of those is set to `https://`, and the policy does not allow plain http. (S11)
    NoSsl,
    /// None of those is of a version that serves this mailbox. (S8, S18)
    NoAcceptableVersion,
    /// None of those answers. (S18) Never decided here: the shell says it when the whole pool is down.
    NoneResponding,
}

/// What `judge` says of one Client Access Server, from "furthest from serving" to "can serve". Ordered, so that the
/// greatest verdict of a site tells what the site lacks: authentication, SSL, version is the order in which Exchange
/// names its failures. (S18)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It has no such virtual directory.
    NoVirtualDirectory,
    /// The virtual directory has no `InternalURL`.
    NoInternalUrl,
    /// Integrated Windows authentication is off on it.
    IntegratedAuthenticationOff,
    /// Its `InternalURL` is not `https://`.
    PlainHttp,
    /// It is of another generation than the mailbox.
    OtherVersion,
    /// It would answer with a 451 that names a better server of its site: one that is Internet-facing. (S6)
    GivesWay,
    /// It can take the request.
    Kept,
}

impl Rule {
    /// Every rule, in the order of their meeting.
    pub const ALL: [Rule; 13] = [
        Rule::RootToOwa,
        Rule::LocalChallenge,
        Rule::LocalService,
        Rule::LocalSite,
        Rule::ProxyToSite,
        Rule::ProxyToNeighbour,
        Rule::OwaRedirect,
        Rule::ActiveSyncRedirect,
        Rule::OwnSiteServer,
        Rule::BackEnd2003,
        Rule::OwaTo2003,
        Rule::EcpToOwa,
        Rule::LegacyToOwa,
    ];

    /// The rule's name in logs and metrics; never changes.
    pub fn name(self) -> &'static str {
        match self {
            Rule::RootToOwa => "root-to-owa",
            Rule::LocalChallenge => "local-challenge",
            Rule::LocalService => "local-service",
            Rule::LocalSite => "local-site",
            Rule::ProxyToSite => "proxy-to-site",
            Rule::ProxyToNeighbour => "proxy-to-neighbour",
            Rule::OwaRedirect => "owa-redirect",
            Rule::ActiveSyncRedirect => "activesync-redirect",
            Rule::OwnSiteServer => "own-site-server",
            Rule::BackEnd2003 => "back-end-2003",
            Rule::OwaTo2003 => "owa-to-2003",
            Rule::EcpToOwa => "ecp-to-owa",
            Rule::LegacyToOwa => "legacy-to-owa",
        }
    }

    /// The rule itself, for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Rule::RootToOwa => "The bare host name leads to Outlook Web Access.",
            Rule::LocalChallenge => "Nobody is named yet, so the local site's servers ask for a logon.",
            Rule::LocalService => "Every Client Access Server of the local site answers this service for everybody.",
            Rule::LocalSite => "The mailbox is in the local site and is served there.",
            Rule::ProxyToSite => {
                "The mailbox's site cannot be redirected to, so the request is proxied to its Client Access Servers."
            }
            Rule::ProxyToNeighbour => {
                "The mailbox's site has no Client Access Server; the policy lets the nearest site that has one serve it."
            }
            Rule::OwaRedirect => {
                "The mailbox's site is Internet-facing, so the user gets a page with a link to its ExternalURL."
            }
            Rule::ActiveSyncRedirect => {
                "The mailbox's site is Internet-facing, so the device is told its ExternalURL with a 451."
            }
            Rule::OwnSiteServer => {
                "Exchange 2007 does not proxy POP3 and IMAP4 between sites, so the user is told the server to connect to."
            }
            Rule::BackEnd2003 => {
                "An Exchange 2003 mailbox is served straight from the back-end server it lives on, whatever its site."
            }
            Rule::OwaTo2003 => "Outlook Web Access of an Exchange 2003 mailbox is at /exchange.",
            Rule::EcpToOwa => "There is no /ecp before Exchange 2010; the user's options are in /owa.",
            Rule::LegacyToOwa => "Outlook Web Access of an Exchange 2007 or later mailbox is at /owa.",
        }
    }
}

impl Refusal {
    /// Every refusal, in the order of their meeting.
    pub const ALL: [Refusal; 15] = [
        Refusal::NotServedLocally,
        Refusal::UnknownUser,
        Refusal::AmbiguousName,
        Refusal::NoMailbox,
        Refusal::HomeServerUnknown,
        Refusal::VersionUnknown,
        Refusal::SiteUnknown,
        Refusal::NotOnThisVersion,
        Refusal::NoClientAccessServer,
        Refusal::NoVirtualDirectory,
        Refusal::NoInternalUrl,
        Refusal::NoIntegratedAuthentication,
        Refusal::NoSsl,
        Refusal::NoAcceptableVersion,
        Refusal::NoneResponding,
    ];

    /// The refusal's name in logs and metrics; never changes.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NotServedLocally => "not-served-locally",
            Refusal::UnknownUser => "unknown-user",
            Refusal::AmbiguousName => "ambiguous-name",
            Refusal::NoMailbox => "no-mailbox",
            Refusal::HomeServerUnknown => "home-server-unknown",
            Refusal::VersionUnknown => "version-unknown",
            Refusal::SiteUnknown => "site-unknown",
            Refusal::NotOnThisVersion => "not-on-this-version",
            Refusal::NoClientAccessServer => "no-client-access-server",
            Refusal::NoVirtualDirectory => "no-virtual-directory",
            Refusal::NoInternalUrl => "no-internal-url",
            Refusal::NoIntegratedAuthentication => "no-integrated-authentication",
            Refusal::NoSsl => "no-ssl",
            Refusal::NoAcceptableVersion => "no-acceptable-version",
            Refusal::NoneResponding => "none-responding",
        }
    }

    /// What is wrong, for people.
    pub fn sentence(self) -> &'static str {
        match self {
            Refusal::NotServedLocally => "No Client Access Server of the local site serves this path.",
            Refusal::UnknownUser => "The directory has nobody of this name.",
            Refusal::AmbiguousName => "The name belongs to more than one directory entry.",
            Refusal::NoMailbox => "The person has no mailbox.",
            Refusal::HomeServerUnknown => "The mailbox's home server is not in the directory.",
            Refusal::VersionUnknown => "The version of the mailbox's home server is none of Exchange's.",
            Refusal::SiteUnknown => "The mailbox's home server is in no known Active Directory site.",
            Refusal::NotOnThisVersion => "The mailbox's version of Exchange does not speak this protocol.",
            Refusal::NoClientAccessServer => "The mailbox's site has no Client Access Server.",
            Refusal::NoVirtualDirectory => {
                "No Client Access Server in the mailbox's site has the virtual directory of this protocol."
            }
            Refusal::NoInternalUrl => {
                "No Client Access Server in the mailbox's site has an InternalURL for this protocol."
            }
            Refusal::NoIntegratedAuthentication => {
                "Integrated Windows authentication is off on every Client Access Server in the mailbox's site."
            }
            Refusal::NoSsl => {
                "No Client Access Server in the mailbox's site has an https InternalURL; the policy allows no plain http."
            }
            Refusal::NoAcceptableVersion => {
                "No Client Access Server in the mailbox's site is of a version that serves this mailbox."
            }
            Refusal::NoneResponding => "None of the servers that could take the request answers.",
        }
    }

    /// Whether the refusal gives away that a mailbox exists, or where: then only a proven identity may hear it.
    ///
    /// `NoneResponding` is answered with a text that says nothing about the mailbox, so it needs no proof.
    pub fn tells_about_mailbox(self) -> bool {
        match self {
            Refusal::NotServedLocally | Refusal::NoneResponding => false,
            Refusal::UnknownUser
            | Refusal::AmbiguousName
            | Refusal::NoMailbox
            | Refusal::HomeServerUnknown
            | Refusal::VersionUnknown
            | Refusal::SiteUnknown
            | Refusal::NotOnThisVersion
            | Refusal::NoClientAccessServer
            | Refusal::NoVirtualDirectory
            | Refusal::NoInternalUrl
            | Refusal::NoIntegratedAuthentication
            | Refusal::NoSsl
            | Refusal::NoAcceptableVersion => true,
        }
    }
}

impl Verdict {
    /// What was found of one server, for `explain`. Speaks of the virtual directory by its path.
    pub fn sentence(self, protocol: Protocol) -> String {
        let path = protocol.directory_path();
        match self {
            Verdict::NoVirtualDirectory => format!("it has no {path}"),
            Verdict::NoInternalUrl => format!("there is no InternalURL on its {path}"),
            Verdict::IntegratedAuthenticationOff => format!("Integrated Windows authentication is off on its {path}"),
            Verdict::PlainHttp => format!("the InternalURL of its {path} is not https, and the policy allows no other"),
            Verdict::OtherVersion => "it is of another version than the mailbox".into(),
            Verdict::GivesWay => format!("its {path} has no ExternalURL while another server of its site has one"),
            Verdict::Kept => "it can take the request".into(),
        }
    }
}
