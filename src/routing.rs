//! **The core.** [`decide`] answers, for one request: where does it go, and by which rule?
//!
//! Pure: no I/O, no clock, no framework. The rules are those of the article "Overview of Exchange Server 2007 CAS
//! Proxying and Redirection" and of the sources that complete it, S1 to S60 in [`reasons`]; each [`Rule`] and each
//! [`Refusal`] carries the sentence it implements.
//!
//! Read in this order: [`decide`], then `redirect_target`, then [`judge`], which says of one Client Access Server
//! whether it can take the request and, if not, what it lacks. [`choice`] picks one of those that can.

pub mod choice;
pub mod differences;
pub mod mailbox;
pub mod protocol;
pub mod reasons;
pub mod sign_in;
pub mod topology;
pub mod version;

pub use reasons::{Refusal, Rule, Verdict};

use mailbox::Whose;
use protocol::Protocol;
use topology::{Server, ServerId, SiteId, Topology};
use url::Url;
use version::Generation;

/// What the administrator decides about the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The site the edge stands in: an index into the topology decided by, so to be found anew in each new topology.
    pub local_site: SiteId,
    /// Whether a Second CAS may be proxied to over plain `http://` (Exchange: `AllowProxyingWithoutSSL`).
    pub allow_http_internal_url: bool,
    /// Whether clients may be redirected to a plain `http://` `ExternalURL`.
    pub allow_http_external_url: bool,
    /// `ActiveSync` devices below this protocol version, or that do not say theirs, are proxied rather than sent a 451,
    /// which old ones do not follow (S7, S8). `None`: all get the 451, as from Exchange 2007.
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
    /// The device's protocol version, from `MS-ASProtocolVersion` or the first byte of a base64 query; if it said one.
    pub eas_version: Option<EasVersion>,
}

/// What to do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Pass it to a Client Access Server of this pool.
    Proxy(Pool, Rule),
    /// Pass it straight to the Exchange 2003 server that holds the mailbox, over http; or POP3 or IMAP4 as they are.
    BackEnd(ServerId, Rule),
    /// Answer with a page that has a link to this URL.
    LinkPage(Url, Rule),
    /// Answer 451 with this URL in `X-MS-Location`.
    MovedDevice(Url, Rule),
    /// Answer 302 to this path on the same host.
    SameHost(&'static str, Rule),
    /// Answer that this host must be connected to instead.
    ConnectTo(String, Rule),
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
    /// The generation they must be of; `None` only where no mailbox is in sight and no server's version is known.
    pub generation: Option<Generation>,
}

impl Policy {
    /// Exchange's own defaults, for an edge in this site: https only, every device gets the 451, no neighbours.
    pub fn new(local_site: SiteId) -> Self {
        Policy {
            local_site,
            allow_http_internal_url: false,
            allow_http_external_url: false,
            activesync_redirect_from: None,
            serve_from_neighbour_site: false,
        }
    }
}

impl Decision {
    /// The rule that led to it; `None`: a refusal.
    pub fn rule(&self) -> Option<Rule> {
        match self {
            Decision::Proxy(_, rule)
            | Decision::BackEnd(_, rule)
            | Decision::LinkPage(_, rule)
            | Decision::MovedDevice(_, rule)
            | Decision::SameHost(_, rule)
            | Decision::ConnectTo(_, rule) => Some(*rule),
            Decision::Refuse(_) => None,
        }
    }

    /// Whether the answer gives away that a mailbox exists, or where: then it must wait for a proven identity. Passing
    /// a request on gives nothing away, because the server it reaches asks for the proof itself.
    pub fn tells_about_mailbox(&self) -> bool {
        match self {
            Decision::Proxy(..) | Decision::BackEnd(..) | Decision::SameHost(_, Rule::RootToOwa) => false,
            Decision::LinkPage(..) | Decision::MovedDevice(..) | Decision::ConnectTo(..) | Decision::SameHost(..) => {
                true
            }
            Decision::Refuse(refusal) => refusal.tells_about_mailbox(),
        }
    }
}

/// Decides one request. `whose` is what the directory said about the mailbox the request names.
pub fn decide(request: &Request<'_>, whose: Whose<'_>, topology: &Topology, policy: &Policy) -> Decision {
    match request.protocol {
        Protocol::Root => return Decision::SameHost(OWA, Rule::RootToOwa),
        Protocol::Autodiscover | Protocol::Oab | Protocol::OutlookAnywhere | Protocol::Opened => {
            return from_local_site(request.protocol, Rule::LocalService, topology, policy);
        }
        Protocol::Owa
        | Protocol::LegacyOwa
        | Protocol::Ecp
        | Protocol::ActiveSync
        | Protocol::Ews
        | Protocol::Mapi
        | Protocol::Pop3
        | Protocol::Imap4 => {}
    }
    let mailbox = match whose {
        Whose::Nobody => return from_local_site(request.protocol, Rule::LocalChallenge, topology, policy),
        Whose::Unknown => return Decision::Refuse(Refusal::UnknownUser),
        Whose::Ambiguous => return Decision::Refuse(Refusal::AmbiguousName),
        Whose::WithoutMailbox => return Decision::Refuse(Refusal::NoMailbox),
        Whose::Mailbox(mailbox) => mailbox,
    };
    let Some(home_id) = topology.home_server(mailbox) else {
        return Decision::Refuse(Refusal::HomeServerUnknown);
    };
    let home = topology.server(home_id);
    let Some(generation) = home.version.generation() else {
        return Decision::Refuse(Refusal::VersionUnknown);
    };
    if generation == Generation::Exchange2003 {
        return on_2003(request.protocol, home_id);
    }
    if request.protocol == Protocol::LegacyOwa {
        return legacy_path_of_later_mailbox(request.path, topology, policy);
    }
    if request.protocol == Protocol::Ecp && generation < Generation::Exchange2010 {
        return Decision::SameHost(OWA, Rule::EcpToOwa);
    }
    if request.protocol == Protocol::Mapi && generation < Generation::Exchange2013 {
        return Decision::Refuse(Refusal::NotOnThisVersion);
    }
    let Some(site) = home.site else {
        return Decision::Refuse(Refusal::SiteUnknown);
    };
    let pool = Pool { site, protocol: request.protocol, generation: Some(generation) };
    if site == policy.local_site {
        return from_site(pool, Rule::LocalSite, topology, policy);
    }
    if request.protocol.is_mail() && generation == Generation::Exchange2007 {
        return own_site_server(pool, topology, policy);
    }
    match redirect_target(request, pool, topology, policy) {
        Some(url) if request.protocol == Protocol::ActiveSync => {
            Decision::MovedDevice(url.clone(), Rule::ActiveSyncRedirect)
        }
        Some(url) => Decision::LinkPage(url.clone(), Rule::OwaRedirect),
        None => from_site(pool, Rule::ProxyToSite, topology, policy),
    }
}

/// What needs no mailbox. In a site of mixed versions the newest servers take it, because a server can serve or pass on
/// mailboxes of its own version and older, never newer ones (S8, S13); but the paths of Exchange 2003 go to the
/// oldest, because later versions dropped them (S15, S16).
fn from_local_site(protocol: Protocol, rule: Rule, topology: &Topology, policy: &Policy) -> Decision {
    let any = Pool { site: policy.local_site, protocol, generation: None };
    let generations = members(any, topology, policy).filter_map(|(_, cas)| cas.version.generation());
    let generation = if protocol == Protocol::LegacyOwa { generations.min() } else { generations.max() };
    let pool = Pool { generation, ..any };
    match best_verdict(pool, topology, policy) {
        Ok(()) => Decision::Proxy(pool, rule),
        Err(_) => Decision::Refuse(Refusal::NotServedLocally),
    }
}

/// Exchange 2003 mailboxes: their own server speaks Outlook Web Access at `/exchange`, `ActiveSync`, POP3 and IMAP4,
/// nothing else.
fn on_2003(protocol: Protocol, home: ServerId) -> Decision {
    match protocol {
        Protocol::Owa | Protocol::Ecp => Decision::SameHost("/exchange/", Rule::OwaTo2003),
        Protocol::LegacyOwa | Protocol::ActiveSync | Protocol::Pop3 | Protocol::Imap4 => {
            Decision::BackEnd(home, Rule::BackEnd2003)
        }
        Protocol::Ews
        | Protocol::Mapi
        | Protocol::Root
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::OutlookAnywhere
        | Protocol::Opened => Decision::Refuse(Refusal::NotOnThisVersion),
    }
}

/// `/exchange` of a later mailbox leads to `/owa`; `/public` and `/exchweb` stay legacy services of the local pool.
fn legacy_path_of_later_mailbox(path: &str, topology: &Topology, policy: &Policy) -> Decision {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if first.eq_ignore_ascii_case("exchange") {
        Decision::SameHost(OWA, Rule::LegacyToOwa)
    } else {
        from_local_site(Protocol::LegacyOwa, Rule::LocalService, topology, policy)
    }
}

/// The mailbox's own site serves it, by `rule`; a neighbour does where the site has no Client Access Server at all and
/// the policy allows it.
fn from_site(pool: Pool, rule: Rule, topology: &Topology, policy: &Policy) -> Decision {
    match best_verdict(pool, topology, policy) {
        Ok(()) => Decision::Proxy(pool, rule),
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

/// The `ExternalURL` to send the client to, if its protocol, its version and the mailbox's site allow a redirection.
///
/// Its presence decides (S5, S6). That redirection needs Integrated Windows authentication too, as one sentence of the
/// article has it, is not asked for: the user logs on to that server directly, by whatever it offers (S24a).
fn redirect_target<'t>(request: &Request<'_>, pool: Pool, topology: &'t Topology, policy: &Policy) -> Option<&'t Url> {
    let client_follows = match request.protocol {
        Protocol::Owa | Protocol::Ecp => true,
        // A device that has not said its version has not shown that it follows; its first OPTIONS has none.
        Protocol::ActiveSync => {
            policy.activesync_redirect_from.is_none_or(|least| request.eas_version.is_some_and(|it| it >= least))
        }
        Protocol::Root
        | Protocol::LegacyOwa
        | Protocol::Ews
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::OutlookAnywhere
        | Protocol::Mapi
        | Protocol::Pop3
        | Protocol::Imap4
        | Protocol::Opened => false,
    };
    if !client_follows || !redirects(pool) {
        return None;
    }
    servers_of(pool.site, topology)
        .filter(|(_, cas)| of_fitting_version(cas, pool))
        .filter_map(|(_, cas)| external_url(cas, pool))
        .find(|url| is_http(url, policy.allow_http_external_url) && !is_own_address(url, topology, policy))
}

/// The server of the mailbox's site that a client of POP3 or IMAP4 must connect to. An Internet-facing site is known to
/// its users by the name in its `ExternalURL`; in another the server has only its own name.
fn own_site_server(pool: Pool, topology: &Topology, policy: &Policy) -> Decision {
    if let Err(refusal) = best_verdict(pool, topology, policy) {
        return Decision::Refuse(refusal);
    }
    let of_site = || members(pool, topology, policy).map(|(_, cas)| cas);
    let external_url = |cas: &Server| {
        let urls = cas.virtual_directories.iter().flatten().filter_map(|directory| directory.external_url.as_ref());
        let mut urls = urls.filter(|url| !is_own_address(url, topology, policy));
        urls.find_map(|url| url.host_str().map(str::to_owned))
    };
    match of_site().find_map(external_url).or_else(|| of_site().map(|cas| cas.fqdn.clone()).next()) {
        Some(host) => Decision::ConnectTo(host, Rule::OwnSiteServer),
        None => Decision::Refuse(Refusal::NoClientAccessServer),
    }
}

/// A site that repeats the local site's `ExternalURL` is not Internet-facing on its own: a redirection there would lead
/// the client straight back here.
fn is_own_address(url: &Url, topology: &Topology, policy: &Policy) -> bool {
    servers_of(policy.local_site, topology)
        .flat_map(|(_, cas)| cas.virtual_directories.iter().flatten())
        .filter_map(|directory| directory.external_url.as_ref())
        .any(|own| own.host() == url.host() && own.port_or_known_default() == url.port_or_known_default())
}

/// The members of a pool: the Client Access Servers of its site that [`judge`] keeps.
pub fn members<'t>(
    pool: Pool,
    topology: &'t Topology,
    policy: &'t Policy,
) -> impl Iterator<Item = (ServerId, &'t Server)> {
    servers_of(pool.site, topology).filter(move |(_, cas)| judge(cas, pool, topology, policy) == Verdict::Kept)
}

/// Whether this Client Access Server of the pool's site can take the pool's requests.
pub fn judge(cas: &Server, pool: Pool, topology: &Topology, policy: &Policy) -> Verdict {
    let verdict = judge_alone(cas, pool, policy);
    // Only ActiveSync knows a better server of the same site (S6). A request sent to the lesser one comes back as a 451
    // with the site's ExternalURL; where that is the edge's own name, the device would run in circles.
    let gives_way = verdict == Verdict::Kept
        && pool.protocol == Protocol::ActiveSync
        && redirects(pool)
        && external_url(cas, pool).is_none()
        && servers_of(pool.site, topology)
            .any(|(_, other)| external_url(other, pool).is_some() && judge_alone(other, pool, policy) == Verdict::Kept);
    if gives_way { Verdict::GivesWay } else { verdict }
}

/// Whether any Client Access Server of the pool's site can take the request and, if none, what the best of them lacks.
fn best_verdict(pool: Pool, topology: &Topology, policy: &Policy) -> Result<(), Refusal> {
    match servers_of(pool.site, topology).map(|(_, cas)| judge_alone(cas, pool, policy)).max() {
        None => Err(Refusal::NoClientAccessServer),
        Some(Verdict::NoVirtualDirectory) => Err(Refusal::NoVirtualDirectory),
        Some(Verdict::NoInternalUrl) => Err(Refusal::NoInternalUrl),
        Some(Verdict::IntegratedAuthenticationOff) => Err(Refusal::NoIntegratedAuthentication),
        Some(Verdict::PlainHttp) => Err(Refusal::NoSsl),
        Some(Verdict::OtherVersion) => Err(Refusal::NoAcceptableVersion),
        Some(Verdict::GivesWay | Verdict::Kept) => Ok(()), // it gives way only to one that is kept
    }
}

/// [`judge`], without a look at the site's other servers.
///
/// The filters come in the order in which Exchange names its failures, the EWS response codes (S18): authentication,
/// SSL, version. Servers of the local site are the First CAS itself, so nothing is proxied to them in the article's
/// sense and only their virtual directory and version count.
fn judge_alone(cas: &Server, pool: Pool, policy: &Policy) -> Verdict {
    let directory = cas.virtual_directory(pool.protocol);
    if pool.protocol.virtual_directory().is_some() && directory.is_none() {
        return Verdict::NoVirtualDirectory;
    }
    if let Some(directory) = directory
        && pool.site != policy.local_site
    {
        let Some(internal_url) = &directory.internal_url else {
            return Verdict::NoInternalUrl;
        };
        if !directory.internal_authentication.integrated_windows() {
            return Verdict::IntegratedAuthenticationOff;
        }
        if !is_http(internal_url, policy.allow_http_internal_url) {
            return Verdict::PlainHttp;
        }
    }
    if of_fitting_version(cas, pool) { Verdict::Kept } else { Verdict::OtherVersion }
}

/// A Client Access Server renders mailboxes of its own generation only; 2013 and later count as one. (S8, S51a)
fn of_fitting_version(cas: &Server, pool: Pool) -> bool {
    pool.generation.is_none() || cas.version.generation() == pool.generation
}

/// Only 2007 and 2010 redirect; Exchange 2013 and later proxy to each other. (S25b)
fn redirects(pool: Pool) -> bool {
    pool.generation <= Some(Generation::Exchange2010)
}

fn external_url(cas: &Server, pool: Pool) -> Option<&Url> {
    cas.virtual_directory(pool.protocol)?.external_url.as_ref()
}

/// The directory may hold any scheme; a `javascript:` link must not reach a page even where plain http is allowed.
fn is_http(url: &Url, plain_allowed: bool) -> bool {
    url.scheme() == "https" || plain_allowed && url.scheme() == "http"
}

fn servers_of(site: SiteId, topology: &Topology) -> impl Iterator<Item = (ServerId, &Server)> {
    topology.site(site).client_access_servers.iter().map(|&id| (id, topology.server(id)))
}

/// Where Outlook Web Access of Exchange 2007 and later starts.
const OWA: &str = "/owa/";

#[cfg(test)]
mod tests;
