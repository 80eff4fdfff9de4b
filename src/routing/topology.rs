//! Sites, servers and their virtual directories: what the directory's configuration container says,
//! made ready to decide by.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap},
    fmt, mem,
    net::IpAddr,
};

use ipnet::IpNet;
use url::Url;

use super::{
    protocol::{Protocol, VirtualDirectoryKind},
    version::{Generation, Version},
};

/// Index of a site in its [`Topology`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SiteId(pub usize);

/// Index of a server in its [`Topology`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub usize);

/// The organisation as the directory describes it. Immutable; a new one replaces it whole.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    sites: Vec<Site>,
    servers: Vec<Server>,
    servers_by_legacy_dn: HashMap<String, ServerId>,
    servers_by_database: HashMap<String, ServerId>,
    subnets: Vec<(IpNet, SiteId)>,
    site_links: Vec<SiteLink>,
}

/// What a directory source read, by names; [`Topology::new`] joins it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologyParts {
    /// Names of the AD sites.
    pub sites: Vec<String>,
    /// Every Exchange server of the organisation.
    pub servers: Vec<Server>,
    /// Site links: the sites of one link reach each other at its cost.
    pub site_links: Vec<SiteLink>,
    /// Mailbox database DN (folded to lower case) to the name of the server that owns it.
    pub databases: Vec<(String, String)>,
    /// Subnet to the name of its site.
    pub subnets: Vec<(IpNet, String)>,
}

/// A `siteLink` object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteLink {
    /// Names of the sites it joins, a full mesh.
    pub sites: Vec<String>,
    /// Its `cost`, 1 to 99,999; AD's default is 100.
    pub cost: u32,
}

/// An AD site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// Its name, such as `Porto`.
    pub name: String,
    /// Its Client Access Servers, by name: two edges that read them in different orders decide alike.
    pub client_access_servers: Vec<ServerId>,
    /// The other sites that site links reach, nearest first.
    pub neighbours: Vec<SiteId>,
}

/// An Exchange server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Its `cn`, such as `cas-opo-1`.
    pub name: String,
    /// Fully qualified name, from `networkAddress`' `ncacn_ip_tcp:` value; the bare name if it has none.
    pub fqdn: String,
    /// `legacyExchangeDN`, folded to lower case: what a mailbox's `msExchHomeServerName` names.
    pub legacy_dn: String,
    /// Name of its AD site (`msExchServerSite`); Exchange 2003 servers have none.
    pub site_name: Option<String>,
    /// Its place in the topology; [`Topology::new`] fills it in from `site_name`.
    pub site: Option<SiteId>,
    /// `versionNumber`, decoded.
    pub version: Version,
    /// Whether it has the Client Access role (`msExchCurrentServerRoles` bit 4, or 16384 from 2013 on).
    pub client_access: bool,
    /// Stable hash of `fqdn`, for [`choose`](super::choice::choose); [`Topology::new`] fills it in.
    pub hash_seed: u64,
    /// Its virtual directories, at most one of a kind.
    pub virtual_directories: [Option<VirtualDirectory>; VirtualDirectoryKind::COUNT],
}

/// A virtual directory object under a server's `CN=HTTP,CN=Protocols`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualDirectory {
    /// `msExchInternalHostName`: where other Client Access Servers reach it.
    pub internal_url: Option<Url>,
    /// `msExchExternalHostName`: where clients on the Internet reach it. Its presence is what makes it Internet-facing.
    pub external_url: Option<Url>,
    /// `msExchInternalAuthenticationMethods`.
    pub internal_authentication: AuthenticationMethods,
}

/// The bit mask of `msExch(In|Ex)ternalAuthenticationMethods`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AuthenticationMethods(pub u32);

impl AuthenticationMethods {
    /// `Basic`.
    pub const BASIC: u32 = 1;
    /// `Fba`: the server's own form, which it answers a name and a password with.
    pub const FORM: u32 = 4;
    /// `Ntlm`, which `WindowsAuthentication $true` sets together with [`Self::WINDOWS_INTEGRATED`].
    pub const NTLM: u32 = 2;
    /// `WindowsIntegrated`.
    pub const WINDOWS_INTEGRATED: u32 = 16;
    /// `Kerberos`.
    pub const KERBEROS: u32 = 4096;
    /// `Negotiate`.
    pub const NEGOTIATE: u32 = 8192;

    /// Whether Integrated Windows authentication, which proxying requires, is on.
    pub fn integrated_windows(self) -> bool {
        self.0 & (Self::WINDOWS_INTEGRATED | Self::KERBEROS | Self::NEGOTIATE) != 0
    }
}

/// The names that Exchange's cmdlets use, such as `Basic, Ntlm, WindowsIntegrated`; a bit without one as its number.
impl fmt::Display for AuthenticationMethods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bits = (0..u32::BITS).filter(|bit| self.0 >> bit & 1 == 1).peekable();
        if bits.peek().is_none() {
            return f.write_str("none");
        }
        for (position, bit) in bits.enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            match AUTHENTICATION_METHOD_NAMES.get(bit as usize) {
                Some(name) => write!(f, "{comma}{name}")?,
                None => write!(f, "{comma}{}", 1_u32 << bit)?,
            }
        }
        Ok(())
    }
}

/// By bit.
const AUTHENTICATION_METHOD_NAMES: [&str; 15] = [
    "Basic",
    "Ntlm",
    "Fba",
    "Digest",
    "WindowsIntegrated",
    "LiveIdFba",
    "LiveIdBasic",
    "WSSecurity",
    "Certificate",
    "NegoEx",
    "OAuth",
    "Adfs",
    "Kerberos",
    "Negotiate",
    "LiveIdNegotiate",
];

impl Topology {
    /// Joins what was read. Names that lead nowhere (a server's unknown site, a database's unknown owner) stay
    /// unjoined, so that one bad object spoils nothing else; decisions that need them are refused by name.
    pub fn new(parts: TopologyParts) -> Self {
        let site_ids: HashMap<String, SiteId> =
            parts.sites.iter().enumerate().map(|(id, name)| (name.to_lowercase(), SiteId(id))).collect();
        let site_id = |name: &str| site_ids.get(&name.to_lowercase()).copied();

        let mut servers = parts.servers;
        for server in &mut servers {
            server.site = server.site_name.as_deref().and_then(site_id);
            server.hash_seed = super::choice::hash_of_name(&server.fqdn);
        }
        let numbered = || servers.iter().enumerate().map(|(id, server)| (ServerId(id), server));
        let server_ids: HashMap<String, ServerId> =
            numbered().map(|(id, server)| (server.name.to_lowercase(), id)).collect();

        let mut client_access_servers = vec![Vec::new(); parts.sites.len()];
        let mut by_name: Vec<_> = numbered().filter(|(_, server)| server.client_access).collect();
        by_name.sort_by_key(|(_, server)| &server.name);
        for (id, server) in by_name {
            if let Some(site) = server.site {
                client_access_servers[site.0].push(id);
            }
        }
        let neighbours = neighbours(parts.sites.len(), &parts.site_links, site_id);
        let sites = parts
            .sites
            .into_iter()
            .zip(client_access_servers)
            .zip(neighbours)
            .map(|((name, client_access_servers), neighbours)| Site { name, client_access_servers, neighbours })
            .collect();

        let mut subnets: Vec<_> = parts.subnets.iter().filter_map(|(net, site)| Some((*net, site_id(site)?))).collect();
        subnets.sort_by_key(|(net, _)| Reverse(net.prefix_len()));

        Topology {
            sites,
            // A server without the attribute must not become the home of every mailbox without one.
            servers_by_legacy_dn: numbered()
                .filter(|(_, server)| !server.legacy_dn.is_empty())
                .map(|(id, server)| (server.legacy_dn.clone(), id))
                .collect(),
            servers_by_database: parts
                .databases
                .into_iter()
                .filter_map(|(dn, owner)| Some((dn, *server_ids.get(&owner.to_lowercase())?)))
                .collect(),
            subnets,
            servers,
            site_links: parts.site_links,
        }
    }

    /// Every site, by id.
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// Every server, by id.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// A site of this topology.
    pub fn site(&self, id: SiteId) -> &Site {
        &self.sites[id.0]
    }

    /// A server of this topology.
    pub fn server(&self, id: ServerId) -> &Server {
        &self.servers[id.0]
    }

    /// Every mailbox database that is on a server: its DN, folded, and that server.
    pub fn databases(&self) -> impl Iterator<Item = (&str, ServerId)> {
        self.servers_by_database.iter().map(|(dn, server)| (dn.as_str(), *server))
    }

    /// Every subnet of a site, the longest prefixes first.
    pub fn subnets(&self) -> &[(IpNet, SiteId)] {
        &self.subnets
    }

    /// Every site link.
    pub fn site_links(&self) -> &[SiteLink] {
        &self.site_links
    }

    /// The site of that name, without case.
    pub fn site_named(&self, name: &str) -> Option<SiteId> {
        let name = name.to_lowercase(); // not of ASCII alone: a site may be called Évora
        self.sites.iter().position(|site| site.name.to_lowercase() == name).map(SiteId)
    }

    /// The site whose subnet holds this address; the longest prefix wins.
    pub fn site_of_address(&self, address: IpAddr) -> Option<SiteId> {
        self.subnets.iter().find(|(net, _)| net.contains(&address)).map(|(_, site)| *site)
    }

    /// The server a mailbox lives on.
    ///
    /// `msExchHomeServerName` names it directly. From Exchange 2010 on a database moves between servers without the
    /// mailboxes being touched, so the database's `msExchOwningServer` is asked first.
    pub fn home_server(&self, mailbox: &super::mailbox::Mailbox) -> Option<ServerId> {
        let named = self.servers_by_legacy_dn.get(&*mailbox.home_server).copied();
        let owner = mailbox.home_database.as_ref().and_then(|dn| self.servers_by_database.get(&**dn)).copied();
        match (named, owner) {
            (Some(named), Some(owner)) => {
                let database_moves = self.server(owner).version.generation() >= Some(Generation::Exchange2010);
                Some(if database_moves { owner } else { named })
            }
            (named, owner) => named.or(owner),
        }
    }
}

/// Equal is what decides alike, in whatever order it was read.
impl PartialEq for Topology {
    fn eq(&self, other: &Self) -> bool {
        self.in_order() == other.in_order()
    }
}

impl Eq for Topology {}

/// A topology by names, each kind of thing in order.
#[derive(PartialEq)]
struct InOrder<'t> {
    sites: Vec<&'t str>,
    servers: Vec<Server>,
    databases: BTreeMap<&'t str, &'t str>,
    subnets: Vec<(IpNet, &'t str)>,
    site_links: Vec<SiteLink>,
}

impl Topology {
    fn in_order(&self) -> InOrder<'_> {
        let mut sites: Vec<_> = self.sites.iter().map(|site| site.name.as_str()).collect();
        sites.sort_unstable();
        // A site's number says nothing, and its name is spelled by the site itself.
        let by_name = |server: &Server| {
            let site_name = server.site_name.as_ref().map(|name| name.to_lowercase());
            Server { site: None, site_name, ..server.clone() }
        };
        let mut servers: Vec<_> = self.servers.iter().map(by_name).collect();
        servers.sort_unstable();
        let mut subnets: Vec<_> =
            self.subnets.iter().map(|(net, site)| (*net, self.site(*site).name.as_str())).collect();
        subnets.sort_unstable();
        let mut site_links: Vec<_> = self.site_links.iter().map(SiteLink::in_order).collect();
        site_links.sort_unstable();
        let databases = self.databases().map(|(dn, server)| (dn, self.server(server).name.as_str())).collect();
        InOrder { sites, servers, databases, subnets, site_links }
    }
}

impl SiteLink {
    /// The same with its sites in order.
    pub(super) fn in_order(&self) -> SiteLink {
        let mut link = self.clone();
        link.sites.sort_unstable();
        link
    }
}

impl Server {
    /// The virtual directory that serves a protocol here.
    pub fn virtual_directory(&self, protocol: Protocol) -> Option<&VirtualDirectory> {
        self.virtual_directories[protocol.virtual_directory()? as usize].as_ref()
    }

    /// What a protocol's virtual directory accepts as proof of who somebody is; `None`: it is no object that the edge reads.
    pub fn accepts(&self, protocol: Protocol) -> Option<AuthenticationMethods> {
        self.virtual_directory(protocol).map(|directory| directory.internal_authentication)
    }
}

/// For each site the others in order of the cheapest chain of site links (Dijkstra), unreachable ones left out.
fn neighbours(sites: usize, links: &[SiteLink], site_id: impl Fn(&str) -> Option<SiteId>) -> Vec<Vec<SiteId>> {
    let mut links_of = vec![Vec::new(); sites];
    let mut members_of = Vec::new();
    for (number, link) in links.iter().enumerate() {
        let members: Vec<SiteId> = link.sites.iter().filter_map(|name| site_id(name)).collect();
        for member in &members {
            links_of[member.0].push((number, u64::from(link.cost)));
        }
        members_of.push(members);
    }
    (0..sites)
        .map(|start| {
            let start = SiteId(start);
            let mut order = Vec::new();
            let mut settled = vec![false; sites];
            let mut crossed = vec![false; links.len()];
            let mut nearest = BinaryHeap::from([Reverse((0, start))]);
            while let Some(Reverse((cost, site))) = nearest.pop() {
                if mem::replace(&mut settled[site.0], true) {
                    continue;
                }
                if site != start {
                    order.push(site);
                }
                for &(link, link_cost) in &links_of[site.0] {
                    // Once is enough: whoever crosses it later comes from farther away.
                    if !mem::replace(&mut crossed[link], true) {
                        nearest.extend(members_of[link].iter().map(|&member| Reverse((cost + link_cost, member))));
                    }
                }
            }
            order
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;

    fn link(sites: &[&str], cost: u32) -> SiteLink {
        SiteLink { sites: sites.iter().map(ToString::to_string).collect(), cost }
    }

    #[test]
    fn neighbours_come_in_the_order_of_the_cheapest_chain_of_links() {
        let topology = Topology::new(TopologyParts {
            sites: ["Lisbon", "Porto", "Madrid", "Faro", "Azores"].map(String::from).to_vec(),
            site_links: vec![
                link(&["Lisbon", "Porto"], 100),
                link(&["Lisbon", "Madrid"], 300),
                link(&["porto", "Madrid"], 50),
                link(&["Lisbon", "Faro", "Nowhere"], 120),
            ],
            ..TopologyParts::default()
        });
        let names = |site: &str| {
            let site = topology.site(topology.site_named(site).expect("a site"));
            site.neighbours.iter().map(|id| topology.site(*id).name.as_str()).collect::<Vec<_>>()
        };
        assert_eq!(names("Lisbon"), ["Porto", "Faro", "Madrid"]);
        assert_eq!(names("Madrid"), ["Porto", "Lisbon", "Faro"]);
        assert_eq!(names("Azores"), Vec::<&str>::new());
    }

    #[test]
    fn the_longest_subnet_prefix_names_the_site_of_an_address() {
        let topology = Topology::new(TopologyParts {
            sites: vec!["Lisbon".into(), "Porto".into()],
            subnets: vec![
                ("10.0.0.0/8".parse().expect("a network"), "Lisbon".into()),
                ("10.2.0.0/16".parse().expect("a network"), "Porto".into()),
            ],
            ..TopologyParts::default()
        });
        let site = |address: &str| topology.site_of_address(address.parse().expect("an address"));
        assert_eq!(site("10.1.0.1"), Some(SiteId(0)));
        assert_eq!(site("10.2.0.1"), Some(SiteId(1)));
        assert_eq!(site("192.0.2.1"), None);
    }
}
