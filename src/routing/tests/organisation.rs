//! The stand-in organisation Contoso, and the means to change it and to ask it for decisions.

use super::super::{
    mailbox::Mailbox,
    topology::{AuthenticationMethods, SiteLink, TopologyParts},
    version::Version,
    *,
};
pub(super) use super::super::{topology::VirtualDirectory, version::Generation};

pub(super) const LISBON: SiteId = SiteId(0);
pub(super) const PORTO: SiteId = SiteId(1);
pub(super) const MADRID: SiteId = SiteId(2);
pub(super) const FARO: SiteId = SiteId(4);
pub(super) const E2007: Generation = Generation::Exchange2007;
pub(super) const E2010: Generation = Generation::Exchange2010;
pub(super) const E2013: Generation = Generation::Exchange2013;

/// The table of the stand-in organisation: who stands where, and what the Internet sees of it.
pub(super) fn contoso() -> Organisation {
    let lisbon = "https://mail.contoso.com";
    Organisation::of_sites(["Lisbon", "Porto", "Madrid", "Braga", "Faro"])
        .link(["Lisbon", "Porto"], 100)
        .link(["Lisbon", "Madrid"], 200)
        .link(["Lisbon", "Faro"], 300)
        .link(["Porto", "Braga"], 50)
        .link(["Braga", "Faro"], 100)
        .add(cas("cas-lis-1", "Lisbon").internet_facing(lisbon))
        .add(cas("cas-lis-2", "Lisbon").internet_facing(lisbon))
        .add(mailbox_server("mbx-lis", "Lisbon"))
        .add(exchange_2003("ex03-lis"))
        .add(cas("cas-opo-1", "Porto"))
        .add(cas("cas-opo-2", "Porto"))
        .add(mailbox_server("mbx-opo", "Porto"))
        .add(exchange_2003("ex03-opo"))
        .add(cas("cas-mad-1", "Madrid").internet_facing("https://mail.madrid.contoso.com"))
        .add(mailbox_server("mbx-mad", "Madrid"))
        .add(cas("cas-bra-1", "Braga").basic_only())
        .add(mailbox_server("mbx-bra", "Braga"))
        .add(mailbox_server("mbx-far", "Faro"))
}

/// Contoso after an upgrade: every Exchange 2007 server is now of this major version.
pub(super) fn contoso_of_version(major: u8) -> Organisation {
    let mut contoso = contoso();
    for server in contoso.parts.servers.iter_mut().filter(|server| server.version.major == 8) {
        *server = New(server.clone()).version(major).0;
    }
    contoso
}

/// An Exchange 2007 SP3 Client Access Server whose virtual directories are reached from inside only.
pub(super) fn cas(name: &str, site: &str) -> New {
    let mut cas = mailbox_server(name, site);
    cas.0.client_access = true;
    cas.add_directories()
}

/// An Exchange 2007 SP3 Mailbox server.
pub(super) fn mailbox_server(name: &str, site: &str) -> New {
    let mut server = exchange_2003(name);
    server.0.site_name = Some(site.into());
    server.version(8)
}

/// An Exchange 2003 server, which has no site.
pub(super) fn exchange_2003(name: &str) -> New {
    New(Server {
        name: name.into(),
        fqdn: format!("{name}.contoso.com"),
        legacy_dn: legacy_dn(name),
        site_name: None,
        site: None,
        version: Version { major: 6, minor: 5, build: 7638 },
        client_access: false,
        hash_seed: 0,
        virtual_directories: Default::default(),
    })
}

/// A server being described.
pub(super) struct New(Server);

impl New {
    /// Another major version, with the virtual directories that it brings.
    pub(super) fn version(mut self, major: u8) -> Self {
        self.0.version = Version { major, minor: 3, build: 83 };
        if self.0.client_access { self.add_directories() } else { self }
    }

    /// The virtual directories of its version that it does not have yet, in the style of its `/owa`.
    fn add_directories(mut self) -> Self {
        for protocol in Protocol::ALL {
            let Some(kind) = protocol.virtual_directory() else { continue };
            if protocol == Protocol::Ecp && self.0.version.major < 14
                || protocol == Protocol::Mapi && self.0.version.major < 15
            {
                continue;
            }
            let base = |url: &Url| url.join(protocol.directory_path()).expect("a base URL and a path");
            let fqdn = url(&format!("https://{}", self.0.fqdn));
            let like = self.0.virtual_directory(Protocol::Owa).cloned().unwrap_or(VirtualDirectory {
                internal_url: Some(fqdn),
                external_url: None,
                internal_authentication: AuthenticationMethods(
                    AuthenticationMethods::BASIC
                        | AuthenticationMethods::NTLM
                        | AuthenticationMethods::WINDOWS_INTEGRATED,
                ),
            });
            self.0.virtual_directories[kind as usize].get_or_insert_with(|| VirtualDirectory {
                internal_url: like.internal_url.as_ref().map(base),
                external_url: like.external_url.as_ref().map(base),
                internal_authentication: like.internal_authentication,
            });
        }
        self
    }

    pub(super) fn internet_facing(mut self, base: &str) -> Self {
        let base = url(base);
        for protocol in Protocol::ALL {
            let Some(kind) = protocol.virtual_directory() else { continue };
            if let Some(directory) = &mut self.0.virtual_directories[kind as usize] {
                directory.external_url = Some(base.join(protocol.directory_path()).expect("a base URL and a path"));
            }
        }
        self
    }

    pub(super) fn not_internet_facing(self) -> Self {
        self.with_directories(|directory| Some(VirtualDirectory { external_url: None, ..directory }))
    }

    pub(super) fn basic_only(self) -> Self {
        let internal_authentication = AuthenticationMethods(AuthenticationMethods::BASIC);
        self.with_directories(|directory| Some(VirtualDirectory { internal_authentication, ..directory }))
    }

    pub(super) fn plain_http(self) -> Self {
        self.with_directories(|mut directory| {
            if let Some(internal_url) = &mut directory.internal_url {
                internal_url.set_scheme("http").expect("https becomes http");
            }
            Some(directory)
        })
    }

    pub(super) fn with_directories(mut self, change: impl Fn(VirtualDirectory) -> Option<VirtualDirectory>) -> Self {
        self.0.virtual_directories = self.0.virtual_directories.map(|directory| directory.and_then(&change));
        self
    }

    pub(super) fn without_legacy_dn(mut self) -> Self {
        self.0.legacy_dn.clear();
        self
    }
}

/// An organisation and the policy of the edge in it.
#[derive(Clone)]
pub(super) struct Organisation {
    parts: TopologyParts,
    policy: Policy,
}

/// A row of a rule table: the sentence it implements, the request, whose mailbox it is about, and the whole decision.
type Row = (&'static str, Request<'static>, Asked, Decision);

impl Organisation {
    fn of_sites<const N: usize>(names: [&str; N]) -> Self {
        let sites = names.map(String::from).to_vec();
        Organisation { parts: TopologyParts { sites, ..TopologyParts::default() }, policy: Policy::new(LISBON) }
    }

    fn link(mut self, sites: [&str; 2], cost: u32) -> Self {
        self.parts.site_links.push(SiteLink { sites: sites.map(String::from).to_vec(), cost });
        self
    }

    pub(super) fn add(mut self, server: New) -> Self {
        self.parts.servers.push(server.0);
        self
    }

    pub(super) fn change(mut self, name: &str, change: impl FnOnce(New) -> New) -> Self {
        let server = self.parts.servers.iter_mut().find(|server| server.name == name).expect("a server of that name");
        *server = change(New(server.clone())).0;
        self
    }

    pub(super) fn under(mut self, change: impl FnOnce(&mut Policy)) -> Self {
        change(&mut self.policy);
        self
    }

    pub(super) fn local(self, site: SiteId) -> Self {
        self.under(|policy| policy.local_site = site)
    }

    pub(super) fn server(&self, name: &str) -> ServerId {
        ServerId(self.parts.servers.iter().position(|server| server.name == name).expect("a server of that name"))
    }

    /// The topology after a change of what the directory says.
    pub(super) fn topology_after(&self, change: impl FnOnce(&mut TopologyParts)) -> Topology {
        let mut parts = self.parts.clone();
        change(&mut parts);
        Topology::new(parts)
    }

    pub(super) fn members(&self, site: SiteId, protocol: Protocol, generation: Generation) -> Vec<String> {
        let topology = Topology::new(self.parts.clone());
        let pool = Pool { site, protocol, generation: Some(generation) };
        members(pool, &topology, &self.policy).map(|(_, server)| server.name.clone()).collect()
    }

    /// Every row's request gets exactly the row's decision.
    pub(super) fn decides<const N: usize>(&self, rows: [Row; N]) {
        let topology = Topology::new(self.parts.clone());
        for (sentence, request, asked, expected) in rows {
            let mailbox = asked.mailbox();
            let whose = match (&mailbox, asked) {
                (Some(mailbox), _) => Whose::Mailbox(mailbox),
                (None, Asked::Unknown) => Whose::Unknown,
                (None, Asked::Ambiguous) => Whose::Ambiguous,
                (None, Asked::WithoutMailbox) => Whose::WithoutMailbox,
                (None, Asked::Nobody | Asked::Homeless | Asked::On(_)) => Whose::Nobody,
            };
            let decision = decide(&request, whose, &topology, &self.policy);
            assert_eq!(decision, expected, "{sentence}\n  {request:?} {asked:?}");
            if let Decision::Proxy(pool, _) = decision {
                assert!(members(pool, &topology, &self.policy).next().is_some(), "{sentence}: a pool has members");
            }
        }
    }
}

/// Whose mailbox a row asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    /// One that lives on this server.
    On(&'static str),
    /// One whose home server is not said.
    Homeless,
    Nobody,
    Unknown,
    Ambiguous,
    WithoutMailbox,
}
pub(super) use Asked::*;

impl Asked {
    fn mailbox(self) -> Option<Mailbox> {
        let home_server = match self {
            On(server) => legacy_dn(server),
            Homeless => String::new(),
            Nobody | Unknown | Ambiguous | WithoutMailbox => return None,
        };
        Some(Mailbox { key: 7, home_server: home_server.into(), home_database: None })
    }
}

pub(super) fn ask(protocol: Protocol) -> Request<'static> {
    path(protocol, protocol.default_path())
}

pub(super) fn path(protocol: Protocol, path: &'static str) -> Request<'static> {
    Request { protocol, path, eas_version: None }
}

/// A request of an `ActiveSync` device of this version.
pub(super) fn device(version: u16) -> Request<'static> {
    Request { eas_version: Some(EasVersion(version)), ..ask(Protocol::ActiveSync) }
}

/// Proxied to the 2007 servers of a site.
pub(super) fn proxied(site: SiteId, protocol: Protocol, rule: Rule) -> Decision {
    Decision::Proxy(Pool { site, protocol, generation: Some(E2007) }, rule)
}

/// The same, to the servers of another generation.
pub(super) fn of(generation: Generation, mut decision: Decision) -> Decision {
    let Decision::Proxy(pool, _) = &mut decision else { panic!("only a pool has a generation") };
    pool.generation = Some(generation);
    decision
}

pub(super) fn madrid_activesync() -> Url {
    url("https://mail.madrid.contoso.com/Microsoft-Server-ActiveSync")
}

pub(super) fn url(text: &str) -> Url {
    Url::parse(text).expect("a URL")
}

fn legacy_dn(server: &str) -> String {
    format!("/o=contoso/ou=exchange administrative group/cn=configuration/cn=servers/cn={server}")
}
