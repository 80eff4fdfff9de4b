//! **The core.** [`decide`] answers, for one request: where does it go, and by which rule?
//!
//! Pure: no I/O, no clock, no framework. The rules are those of the article "Overview of Exchange Server 2007 CAS
//! Proxying and Redirection"; each [`Rule`] and each [`Refusal`] carries the sentence it implements.
//!
//! Read in this order: [`decide`], then [`in_another_site`], then [`judge`], which says of one Client Access Server
//! whether it can take the request and, if not, what it lacks.

pub mod mailbox;
pub mod protocol;
pub mod topology;
pub mod version;

use mailbox::{Mailbox, Whose};
use protocol::Protocol;
use topology::{Server, ServerId, SiteId, Topology};
use url::Url;
use version::Generation;

/// What the administrator decides about the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The site the edge stands in.
    pub local_site: SiteId,
    /// Whether a Second CAS may be proxied to over plain `http://` (Exchange: `AllowProxyingWithoutSSL`).
    pub allow_http_internal_url: bool,
    /// Whether clients may be redirected to a plain `http://` ExternalURL.
    pub allow_http_external_url: bool,
    /// `ActiveSync` devices below this protocol version are proxied rather than sent a 451. `None`: all get the 451.
    pub activesync_redirect_from: Option<EasVersion>,
    /// Whether a site without Client Access Server may be served by the nearest site that has one.
    pub serve_from_neighbour_site: bool,
}

/// An `ActiveSync` protocol version, times ten: 121 is 12.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EasVersion(pub u16);

/// What the rules need to know of a request besides its mailbox.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The protocol its path belongs to.
    pub protocol: Protocol,
    /// Its path, percent-decoded.
    pub path: &'a str,
    /// The device's `MS-ASProtocolVersion`, if it said one.
    pub eas_version: Option<EasVersion>,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pass it to a Client Access Server of this pool.
    Proxy(Pool, Rule),
    /// Pass it straight to the Exchange 2003 server that holds the mailbox, over http.
    BackEnd(ServerId, Rule),
    /// Answer with a page that has a link to this URL.
    LinkPage(Url, Rule),
    /// Answer 451 with this URL in `X-MS-Location`.
    MovedDevice(Url, Rule),
    /// Answer 302 to this path on the same host.
    SameHost(&'static str, Rule),
    /// Answer that it cannot be served, and why.
    Refuse(Refusal),
}

/// The Client Access Servers that may take a request: those of a site that [`judge`] keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Their site.
    pub site: SiteId,
    /// The protocol they must serve.
    pub protocol: Protocol,
    /// The generation they must be of; `None` where no mailbox is in sight.
    pub generation: Option<Generation>,
}

/// The rule that led to a decision other than a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// The bare host name leads to Outlook Web Access.
    RootToOwa,
    /// Nobody is named yet: the local pool challenges.
    LocalChallenge,
    /// Services that any Client Access Server of the local site answers for everybody.
    LocalService,
    /// The mailbox is in the edge's own site.
    LocalSite,
    /// The mailbox's site is proxied to.
    ProxyToSite,
    /// The mailbox's site has no Client Access Server; the nearest one that has is allowed to serve it.
    ProxyToNeighbour,
    /// Outlook Web Access is redirected by a page with a link.
    OwaRedirect,
    /// `ActiveSync` is redirected by a 451.
    ActiveSyncRedirect,
    /// An Exchange 2003 mailbox is served by its own server.
    BackEnd2003,
    /// An Exchange 2003 mailbox was asked for at `/owa`.
    OwaTo2003,
    /// An Exchange 2007 mailbox was asked for at `/exchange`.
    LegacyToOwa,
}

/// Why a request cannot be served. Ordered as the rules meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
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
    /// An Exchange 2003 mailbox cannot be reached by this protocol.
    NotOn2003,
    /// The mailbox's site has no Client Access Server.
    NoClientAccessServer,
    /// No Client Access Server there has the virtual directory, or its InternalURL is empty.
    NoInternalUrl,
    /// None of them has Integrated Windows authentication on.
    NoIntegratedAuthentication,
    /// All of them are set to plain `http://`, which the policy does not allow.
    NoSsl,
    /// None of them is of a version that serves this mailbox.
    NoAcceptableVersion,
    /// None of them answers.
    NoneResponding,
}

/// What [`judge`] says of one Client Access Server, from "furthest from serving" to "can serve". Ordered, so that the
/// greatest verdict of a site tells what the site lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It has no such virtual directory, or one without InternalURL.
    NoInternalUrl,
    /// Integrated Windows authentication is off on it.
    IntegratedAuthenticationOff,
    /// Its InternalURL is `http://`.
    PlainHttp,
    /// It is of another generation than the mailbox.
    OtherVersion,
    /// It can take the request.
    Kept,
}

/// Decides one request. `whose` is what the directory said about the mailbox the request names.
pub fn decide(request: &Request<'_>, whose: Whose<'_>, topology: &Topology, policy: &Policy) -> Decision {
    let local = |generation| Pool { site: policy.local_site, protocol: request.protocol, generation };
    match request.protocol {
        Protocol::Root => return Decision::SameHost("/owa/", Rule::RootToOwa),
        Protocol::Autodiscover | Protocol::Oab | Protocol::OutlookAnywhere | Protocol::Opened => {
            return Decision::Proxy(local(None), Rule::LocalService);
        }
        Protocol::Owa | Protocol::LegacyOwa | Protocol::Ecp | Protocol::ActiveSync | Protocol::Ews | Protocol::Mapi => {
        }
    }
    let mailbox = match whose {
        Whose::Nobody => return Decision::Proxy(local(None), Rule::LocalChallenge),
        Whose::Unknown => return Decision::Refuse(Refusal::UnknownUser),
        Whose::Ambiguous => return Decision::Refuse(Refusal::AmbiguousName),
        Whose::WithoutMailbox => return Decision::Refuse(Refusal::NoMailbox),
        Whose::Mailbox(mailbox) => mailbox,
    };
    let (home_id, home) = match home(mailbox, topology) {
        Ok(home) => home,
        Err(refusal) => return Decision::Refuse(refusal),
    };
    let Some(generation) = home.version.generation() else {
        return Decision::Refuse(Refusal::VersionUnknown);
    };
    if generation == Generation::Exchange2003 {
        return on_2003(request.protocol, home_id);
    }
    if request.protocol == Protocol::LegacyOwa {
        return legacy_path_of_later_mailbox(request.path, local(None));
    }
    let Some(site) = home.site else {
        return Decision::Refuse(Refusal::SiteUnknown);
    };
    let pool = Pool { site, protocol: request.protocol, generation: Some(generation) };
    if site == policy.local_site {
        return match best_verdict(pool, topology, policy) {
            Ok(()) => Decision::Proxy(pool, Rule::LocalSite),
            Err(refusal) => Decision::Refuse(refusal),
        };
    }
    in_another_site(request, pool, topology, policy)
}

/// A mailbox outside the local site: redirect where the client can follow and the site is Internet-facing, else proxy.
fn in_another_site(request: &Request<'_>, pool: Pool, topology: &Topology, policy: &Policy) -> Decision {
    if let Some(url) = redirect_target(request, pool, topology, policy) {
        return if request.protocol == Protocol::ActiveSync {
            Decision::MovedDevice(url.clone(), Rule::ActiveSyncRedirect)
        } else {
            Decision::LinkPage(url.clone(), Rule::OwaRedirect)
        };
    }
    match best_verdict(pool, topology, policy) {
        Ok(()) => Decision::Proxy(pool, Rule::ProxyToSite),
        Err(Refusal::NoClientAccessServer) if policy.serve_from_neighbour_site => topology
            .site(pool.site)
            .neighbours
            .iter()
            .map(|&site| Pool { site, ..pool })
            .find(|neighbour| best_verdict(*neighbour, topology, policy).is_ok())
            .map_or(Decision::Refuse(Refusal::NoClientAccessServer), |neighbour| {
                Decision::Proxy(neighbour, Rule::ProxyToNeighbour)
            }),
        Err(refusal) => Decision::Refuse(refusal),
    }
}

/// The ExternalURL to send the client to, if its protocol, its version and the mailbox's site allow a redirection.
fn redirect_target<'t>(request: &Request<'_>, pool: Pool, topology: &'t Topology, policy: &Policy) -> Option<&'t Url> {
    let client_follows = match request.protocol {
        Protocol::Owa | Protocol::Ecp => true,
        Protocol::ActiveSync => match (policy.activesync_redirect_from, request.eas_version) {
            (None, _) | (Some(_), None) => true,
            (Some(least), Some(version)) => version >= least,
        },
        Protocol::Root
        | Protocol::LegacyOwa
        | Protocol::Ews
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::OutlookAnywhere
        | Protocol::Mapi
        | Protocol::Opened => false,
    };
    // Exchange 2013 and later proxy to each other; only 2007 and 2010 redirect.
    let redirects = pool.generation <= Some(Generation::Exchange2010);
    if !client_follows || !redirects {
        return None;
    }
    servers_of(pool.site, topology)
        .filter(|(_, cas)| of_fitting_version(cas, pool.generation))
        .filter_map(|(_, cas)| cas.virtual_directory(pool.protocol)?.external_url.as_ref())
        .find(|url| {
            (url.scheme() == "https" || policy.allow_http_external_url) && !is_own_address(url, topology, policy)
        })
}

/// A site that repeats the local site's ExternalURL is not Internet-facing on its own: a redirection there would lead
/// the client straight back here.
fn is_own_address(url: &Url, topology: &Topology, policy: &Policy) -> bool {
    servers_of(policy.local_site, topology)
        .flat_map(|(_, cas)| cas.virtual_directories.iter().flatten())
        .filter_map(|directory| directory.external_url.as_ref())
        .any(|own| own.host() == url.host() && own.port_or_known_default() == url.port_or_known_default())
}

/// Exchange 2003 mailboxes: their own server speaks Outlook Web Access at `/exchange` and `ActiveSync`, nothing else.
fn on_2003(protocol: Protocol, home: ServerId) -> Decision {
    match protocol {
        Protocol::Owa => Decision::SameHost("/exchange/", Rule::OwaTo2003),
        Protocol::LegacyOwa | Protocol::ActiveSync => Decision::BackEnd(home, Rule::BackEnd2003),
        Protocol::Ecp
        | Protocol::Ews
        | Protocol::Mapi
        | Protocol::Root
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::OutlookAnywhere
        | Protocol::Opened => Decision::Refuse(Refusal::NotOn2003),
    }
}

/// `/exchange` of a later mailbox leads to `/owa`; `/public` and `/exchweb` stay legacy services of the local pool.
fn legacy_path_of_later_mailbox(path: &str, local: Pool) -> Decision {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if first.eq_ignore_ascii_case("exchange") {
        Decision::SameHost("/owa/", Rule::LegacyToOwa)
    } else {
        Decision::Proxy(local, Rule::LocalService)
    }
}

fn home<'t>(mailbox: &Mailbox, topology: &'t Topology) -> Result<(ServerId, &'t Server), Refusal> {
    let id = topology.home_server(mailbox).ok_or(Refusal::HomeServerUnknown)?;
    Ok((id, topology.server(id)))
}

/// Whether any Client Access Server of the pool's site can take the request and, if none, what the best of them lacks.
fn best_verdict(pool: Pool, topology: &Topology, policy: &Policy) -> Result<(), Refusal> {
    let best = servers_of(pool.site, topology).map(|(_, cas)| judge(cas, pool, policy)).max();
    match best {
        None => Err(Refusal::NoClientAccessServer),
        Some(Verdict::NoInternalUrl) => Err(Refusal::NoInternalUrl),
        Some(Verdict::IntegratedAuthenticationOff) => Err(Refusal::NoIntegratedAuthentication),
        Some(Verdict::PlainHttp) => Err(Refusal::NoSsl),
        Some(Verdict::OtherVersion) => Err(Refusal::NoAcceptableVersion),
        Some(Verdict::Kept) => Ok(()),
    }
}

/// Whether this Client Access Server can take the pool's requests.
///
/// The filters come in the order in which Exchange names their failures (the EWS response codes): authentication, SSL,
/// version. Servers of the local site are the First CAS itself, so nothing is proxied to them in the article's sense
/// and only their version counts.
pub fn judge(cas: &Server, pool: Pool, policy: &Policy) -> Verdict {
    if pool.site != policy.local_site {
        let Some(directory) = cas.virtual_directory(pool.protocol) else {
            return Verdict::NoInternalUrl;
        };
        let Some(internal_url) = &directory.internal_url else {
            return Verdict::NoInternalUrl;
        };
        if !directory.internal_authentication.integrated_windows() {
            return Verdict::IntegratedAuthenticationOff;
        }
        if internal_url.scheme() != "https" && !policy.allow_http_internal_url {
            return Verdict::PlainHttp;
        }
    }
    if of_fitting_version(cas, pool.generation) { Verdict::Kept } else { Verdict::OtherVersion }
}

/// A Client Access Server renders mailboxes of its own generation only; 2013 and later count as one.
fn of_fitting_version(cas: &Server, mailbox: Option<Generation>) -> bool {
    mailbox.is_none() || cas.version.generation() == mailbox
}

/// The members of a pool: the Client Access Servers of its site that [`judge`] keeps.
pub fn members<'t>(
    pool: Pool,
    topology: &'t Topology,
    policy: &'t Policy,
) -> impl Iterator<Item = (ServerId, &'t Server)> {
    servers_of(pool.site, topology).filter(move |(_, cas)| judge(cas, pool, policy) == Verdict::Kept)
}

fn servers_of(site: SiteId, topology: &Topology) -> impl Iterator<Item = (ServerId, &Server)> {
    topology.site(site).client_access_servers.iter().map(|&id| (id, topology.server(id)))
}
