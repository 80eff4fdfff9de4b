//! What holds whatever the organisation: random sites, servers, URLs, mailboxes, requests and policies.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::IpNet;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::super::{
    choice::choose,
    differences::differences,
    mailbox::Mailbox,
    protocol::VirtualDirectoryKind,
    topology::{AuthenticationMethods, SiteLink, TopologyParts, VirtualDirectory},
    version::Version,
    *,
};

proptest! {
    // `PROPTEST_CASES` raises the number. Failures are kept as rows of the rule tables, not as seeds.
    #![proptest_config(ProptestConfig {
        cases: 2 * ProptestConfig::default().cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_redirect_leads_to_an_external_url_of_the_mailboxs_own_site(case in case()) {
        let (topology, decision) = case.decided();
        let (Decision::LinkPage(url, _) | Decision::MovedDevice(url, _)) = &decision else { return Ok(()) };
        let site = case.home(&topology).and_then(|home| home.site).expect("a redirect has a mailbox with a site");
        prop_assert_ne!(site, case.policy.local_site);
        prop_assert!(url.scheme() == "https" || url.scheme() == "http" && case.policy.allow_http_external_url);
        let of_site = |site| topology.servers().iter().filter(move |it| it.client_access && it.site == Some(site));
        prop_assert!(
            of_site(site)
                .filter_map(|cas| cas.virtual_directory(case.protocol)?.external_url.as_ref())
                .any(|external| external == url)
        );
        prop_assert!(
            of_site(case.policy.local_site)
                .flat_map(|cas| cas.virtual_directories.iter().flatten())
                .filter_map(|directory| directory.external_url.as_ref())
                .all(|own| (own.host(), own.port_or_known_default()) != (url.host(), url.port_or_known_default())),
            "never back to the local site's own address"
        );
    }

    #[test]
    fn a_pool_has_members_all_of_its_site_and_all_kept(case in case()) {
        let (topology, decision) = case.decided();
        let Decision::Proxy(pool, _) = decision else { return Ok(()) };
        let members: Vec<_> = members(pool, &topology, &case.policy).collect();
        prop_assert!(!members.is_empty());
        for (id, server) in members {
            prop_assert_eq!(&topology.server(id).name, &server.name);
            prop_assert_eq!(server.site, Some(pool.site));
            prop_assert!(server.client_access);
            prop_assert_eq!(judge(server, pool, &topology, &case.policy), Verdict::Kept);
            prop_assert!(pool.generation.is_none() || server.version.generation() == pool.generation);
        }
    }

    #[test]
    fn with_the_default_policy_a_mailbox_is_never_proxied_to_any_site_but_its_own(mut case in case()) {
        case.policy = Policy::new(case.policy.local_site);
        let (topology, decision) = case.decided();
        let Decision::Proxy(pool, rule) = decision else { return Ok(()) };
        if matches!(rule, Rule::LocalService | Rule::LocalChallenge) {
            prop_assert_eq!(pool.site, case.policy.local_site);
        } else {
            prop_assert_eq!(Some(pool.site), case.home(&topology).and_then(|home| home.site));
        }
    }

    #[test]
    fn a_back_end_is_the_mailboxs_own_2003_server(case in case()) {
        let (topology, decision) = case.decided();
        let Decision::BackEnd(id, _) = decision else { return Ok(()) };
        let home = case.home(&topology).expect("a back-end has a mailbox");
        prop_assert_eq!(&topology.server(id).name, &home.name);
        prop_assert_eq!(home.version.generation(), Some(Generation::Exchange2003));
    }

    #[test]
    fn neither_the_order_of_the_servers_nor_a_second_look_changes_the_decision(
        (case, shuffled) in case().prop_flat_map(|case| {
            (Just(case.clone()), Just(case.parts.servers).prop_shuffle())
        })
    ) {
        let other = Case { parts: TopologyParts { servers: shuffled, ..case.parts.clone() }, ..case.clone() };
        prop_assert_eq!(case.told(), case.told());
        prop_assert_eq!(case.told(), other.told());
    }

    #[test]
    fn a_refusal_names_what_the_site_lacks_after_filtering_by_authentication_then_ssl_then_version(case in case()) {
        let (topology, decision) = case.decided();
        let Decision::Refuse(refusal) = decision else { return Ok(()) };
        let Some(site) = case.home(&topology).and_then(|home| home.site) else { return Ok(()) };
        let before_the_site_matters = [
            Refusal::NotServedLocally,
            Refusal::UnknownUser,
            Refusal::AmbiguousName,
            Refusal::NoMailbox,
            Refusal::VersionUnknown,
            Refusal::NotOnThisVersion,
        ];
        if !before_the_site_matters.contains(&refusal) {
            prop_assert_eq!(Some(refusal), case.lacking(site, &topology));
        }
    }

    #[test]
    fn every_change_of_an_organisation_is_told_and_nothing_else(
        old in parts(), other in parts(), piece in 0..PIECES, at in 0..SERVERS
    ) {
        let new = with_a_piece_of(&other, &old, piece, at);
        let (old, new) = (Topology::new(old), Topology::new(new));
        prop_assert_eq!(differences(&old, &old), Vec::<String>::new());
        let told = differences(&old, &new);
        prop_assert_eq!(told.is_empty(), old == new, "{:?}", told);
        prop_assert_eq!(differences(&new, &old).is_empty(), told.is_empty());
        prop_assert_eq!(&told, &differences(&old, &new), "in the same order each time");
    }

    #[test]
    fn the_order_of_reading_is_no_difference(
        (one, other) in parts().prop_flat_map(|parts| {
            let shuffled = (
                Just(parts.sites.clone()).prop_shuffle(),
                Just(parts.servers.clone()).prop_shuffle(),
                Just(parts.site_links.clone()).prop_shuffle(),
                Just(parts.subnets.clone()).prop_shuffle(),
            );
            (Just(parts), shuffled)
        })
    ) {
        let (sites, servers, site_links, subnets) = other;
        let other = TopologyParts { sites, servers, site_links, subnets, databases: one.databases.clone() };
        let (one, other) = (Topology::new(one), Topology::new(other));
        prop_assert_eq!(differences(&one, &other), Vec::<String>::new());
        prop_assert!(one == other);
    }
}

/// An organisation after one change, of as little as can change, or with one piece taken from another organisation.
fn with_a_piece_of(other: &TopologyParts, whole: &TopologyParts, piece: usize, at: usize) -> TopologyParts {
    let mut new = whole.clone();
    let in_range = |len: usize| at.checked_rem(len).unwrap_or_default();
    match piece {
        0 => new.site_links.clone_from(&other.site_links),
        1 => new.databases.clone_from(&other.databases),
        2 => new.subnets.clone_from(&other.subnets),
        3 => new.servers.truncate(at),
        4 => new.sites.truncate(at % SITES),
        5 => new.sites[at % SITES].make_ascii_uppercase(),
        6 => new.site_links.get_mut(in_range(whole.site_links.len())).into_iter().for_each(|link| link.cost += 1),
        7 => new.databases.get_mut(in_range(whole.databases.len())).into_iter().for_each(|it| it.1 = server_name(at)),
        8 => new.subnets.get_mut(in_range(whole.subnets.len())).into_iter().for_each(|it| it.1 = site_name(at % SITES)),
        _ => {
            let (Some(mine), Some(theirs)) = (new.servers.get_mut(at), other.servers.get(at)) else { return new };
            let kind = at % VirtualDirectoryKind::COUNT;
            let (my_directory, directory) = (&mut mine.virtual_directories[kind], &theirs.virtual_directories[kind]);
            match piece {
                9 => *mine = theirs.clone(),
                10 => mine.site_name.clone_from(&theirs.site_name),
                11 => mine.version = theirs.version,
                12 => mine.client_access = theirs.client_access,
                13 => mine.legacy_dn.push('x'),
                14 => mine.fqdn.make_ascii_uppercase(),
                15 => mine.name.make_ascii_uppercase(),
                16 => my_directory.clone_from(directory),
                _ => {
                    let (Some(mine), Some(theirs)) = (my_directory, directory) else { return new };
                    match piece {
                        17 => mine.internal_url.clone_from(&theirs.internal_url),
                        18 => mine.external_url.clone_from(&theirs.external_url),
                        _ => mine.internal_authentication = theirs.internal_authentication,
                    }
                }
            }
        }
    }
    new
}

/// How many pieces [`with_a_piece_of`] knows.
const PIECES: usize = 20;

/// A property that no case reaches proves nothing.
#[test]
fn the_random_organisations_reach_every_rule_and_every_refusal() {
    let mut runner = TestRunner::deterministic();
    let mut met = BTreeSet::new();
    let cases = case();
    for _ in 0..3_000 {
        let case = cases.new_tree(&mut runner).expect("a case").current();
        met.insert(match case.decided().1 {
            Decision::Proxy(_, rule)
            | Decision::BackEnd(_, rule)
            | Decision::LinkPage(_, rule)
            | Decision::MovedDevice(_, rule)
            | Decision::SameHost(_, rule)
            | Decision::ConnectTo(_, rule) => rule.name(),
            Decision::Refuse(refusal) => refusal.name(),
        });
    }
    let all: BTreeSet<_> = Rule::ALL.map(Rule::name).into_iter().chain(Refusal::ALL.map(Refusal::name)).collect();
    let not_met: Vec<_> = all.difference(&met).collect();
    assert_eq!(not_met, [&Refusal::NoneResponding.name()], "only the shell knows who answers");
}

/// One question to the core.
#[derive(Clone, Debug)]
struct Case {
    parts: TopologyParts,
    policy: Policy,
    protocol: Protocol,
    path: &'static str,
    eas_version: Option<EasVersion>,
    asked: Asked,
}

#[derive(Clone, Debug)]
enum Asked {
    Mailbox(Mailbox),
    Nobody,
    Unknown,
    Ambiguous,
    WithoutMailbox,
}

impl Case {
    fn decided(&self) -> (Topology, Decision) {
        let topology = Topology::new(self.parts.clone());
        let request = Request { protocol: self.protocol, path: self.path, eas_version: self.eas_version };
        let whose = match &self.asked {
            Asked::Mailbox(mailbox) => Whose::Mailbox(mailbox),
            Asked::Nobody => Whose::Nobody,
            Asked::Unknown => Whose::Unknown,
            Asked::Ambiguous => Whose::Ambiguous,
            Asked::WithoutMailbox => Whose::WithoutMailbox,
        };
        let decision = decide(&request, whose, &topology, &self.policy);
        (topology, decision)
    }

    /// The decision and, by name, the servers it leads to: comparable between topologies that number servers otherwise.
    fn told(&self) -> (Decision, Vec<String>, Option<String>) {
        let (topology, decision) = self.decided();
        let name = |id| topology.server(id).name.clone();
        match decision {
            Decision::Proxy(pool, _) => {
                let names = members(pool, &topology, &self.policy).map(|(id, _)| name(id)).collect();
                let chosen = choose(7, members(pool, &topology, &self.policy), |_| true).map(name);
                (decision, names, chosen)
            }
            Decision::BackEnd(id, rule) => (Decision::BackEnd(ServerId(0), rule), vec![name(id)], None),
            Decision::LinkPage(..)
            | Decision::MovedDevice(..)
            | Decision::SameHost(..)
            | Decision::ConnectTo(..)
            | Decision::Refuse(_) => (decision, Vec::new(), None),
        }
    }

    fn home<'t>(&self, topology: &'t Topology) -> Option<&'t Server> {
        let Asked::Mailbox(mailbox) = &self.asked else { return None };
        topology.home_server(mailbox).map(|id| topology.server(id))
    }

    /// What a site lacks, found the other way round: filter after filter over all its servers, as the EWS response
    /// codes put it ("none of them is ..."), until nobody is left.
    fn lacking(&self, site: SiteId, topology: &Topology) -> Option<Refusal> {
        let version = self.home(topology)?.version.generation();
        // Nor is anything of a virtual directory lacking where a protocol has none.
        let local = site == self.policy.local_site || self.protocol.is_mail();
        let url_of = |cas: &Server| cas.virtual_directory(self.protocol)?.internal_url.clone();
        let mut left: Vec<&Server> =
            topology.servers().iter().filter(|server| server.client_access && server.site == Some(site)).collect();
        let filters: [(Refusal, Filter<'_>); 6] = [
            (Refusal::NoClientAccessServer, &|_| true),
            (Refusal::NoVirtualDirectory, &|cas| {
                self.protocol.is_mail() || cas.virtual_directory(self.protocol).is_some()
            }),
            (Refusal::NoInternalUrl, &|cas| local || url_of(cas).is_some()),
            (Refusal::NoIntegratedAuthentication, &|cas| {
                let methods = cas.virtual_directory(self.protocol).map(|it| it.internal_authentication.0);
                local || methods.is_some_and(|it| it & (16 | 4096 | 8192) != 0)
            }),
            (Refusal::NoSsl, &|cas| {
                let scheme = url_of(cas).map(|url| url.scheme().to_owned());
                local
                    || scheme.as_deref() == Some("https")
                    || scheme.as_deref() == Some("http") && self.policy.allow_http_internal_url
            }),
            (Refusal::NoAcceptableVersion, &|cas| cas.version.generation() == version),
        ];
        for (refusal, passes) in filters {
            left.retain(|cas| passes(cas));
            if left.is_empty() {
                return Some(refusal);
            }
        }
        None
    }
}

type Filter<'a> = &'a dyn Fn(&Server) -> bool;

const SITES: usize = 4;
const SERVERS: usize = 8;

fn case() -> impl Strategy<Value = Case> {
    (parts(), policy(), protocol_and_path(), eas_version(), asked()).prop_map(
        |(parts, policy, (protocol, path), eas_version, asked)| Case {
            parts,
            policy,
            protocol,
            path,
            eas_version,
            asked,
        },
    )
}

fn parts() -> impl Strategy<Value = TopologyParts> {
    let link = (prop::collection::vec(0..=SITES, 2..4), 1_u32..4)
        .prop_map(|(sites, cost)| SiteLink { sites: sites.into_iter().map(site_name).collect(), cost });
    let database = (0..3, 0..=SERVERS).prop_map(|(database, owner)| (format!("cn=db-{database}"), server_name(owner)));
    let subnet = (0..3_u8, 0..=SITES).prop_map(|(net, site)| {
        (IpNet::new(Ipv4Addr::new(10, net, 0, 0).into(), 16).expect("16 bits of 32"), site_name(site))
    });
    (
        prop::collection::vec(server(), 0..=SERVERS),
        prop::collection::vec(link, 0..5),
        prop::collection::vec(database, 0..3),
        prop::collection::vec(subnet, 0..3),
    )
        .prop_map(|(mut servers, site_links, databases, subnets)| {
            for (number, server) in servers.iter_mut().enumerate() {
                server.name = server_name(number);
                server.fqdn = format!("{}.contoso.com", server.name);
                if !server.legacy_dn.is_empty() {
                    server.legacy_dn = legacy_dn(number);
                }
            }
            TopologyParts { sites: (0..SITES).map(site_name).collect(), servers, site_links, databases, subnets }
        })
}

prop_compose! {
    fn server()(
        site in prop_oneof![1 => Just(None), 8 => (0..SITES).prop_map(Some), 1 => Just(Some(SITES))],
        major in prop_oneof![2 => Just(6), 4 => Just(8), 2 => Just(14), 2 => Just(15), 1 => Just(9)],
        client_access in prop::bool::weighted(0.6),
        nameless in prop::bool::weighted(0.05),
        directories in prop::collection::vec(prop::option::weighted(0.8, directory()), VirtualDirectoryKind::COUNT),
    ) -> Server {
        let mut directories = directories.into_iter();
        Server {
            name: String::new(),
            fqdn: String::new(),
            legacy_dn: if nameless { String::new() } else { "named by its number".into() },
            site_name: site.map(site_name),
            site: None,
            version: Version { major, minor: 0, build: 1 },
            client_access: client_access && major != 6,
            hash_seed: 0,
            virtual_directories: std::array::from_fn(|_| directories.next().flatten()),
        }
    }
}

/// Listed as often as it should come.
fn directory() -> impl Strategy<Value = VirtualDirectory> {
    let parsed = |text: &str| Url::parse(text).ok(); // "": none
    let https = "https://cas.contoso.com/x";
    let http = "http://cas.contoso.com/x";
    let internal_urls = ["", https, https, https, https, http, http, "ftp://cas.contoso.com/x"].map(parsed);
    let external_urls = [
        "",
        "",
        "",
        "",
        "https://mail.contoso.com/x",
        "https://mail.contoso.com:444/x",
        "https://mail.porto.contoso.com/x",
        "http://mail.madrid.contoso.com/x",
        "javascript:alert(1)",
    ]
    .map(parsed);
    let methods = [0, 1, 2, 5, 16, 4096, 8192, 23].map(AuthenticationMethods);
    (
        prop::sample::select(internal_urls.to_vec()),
        prop::sample::select(external_urls.to_vec()),
        prop::sample::select(methods.to_vec()),
    )
        .prop_map(|(internal_url, external_url, internal_authentication)| VirtualDirectory {
            internal_url,
            external_url,
            internal_authentication,
        })
}

prop_compose! {
    fn policy()(
        local_site in (0..SITES).prop_map(SiteId),
        allow_http_internal_url: bool,
        allow_http_external_url: bool,
        activesync_redirect_from in eas_version(),
        serve_from_neighbour_site: bool,
    ) -> Policy {
        Policy {
            local_site,
            allow_http_internal_url,
            allow_http_external_url,
            activesync_redirect_from,
            serve_from_neighbour_site,
        }
    }
}

fn protocol_and_path() -> impl Strategy<Value = (Protocol, &'static str)> {
    let protocols = Protocol::ALL.into_iter().chain([Protocol::Opened]).map(|it| (it, it.default_path()));
    let legacy = ["", "/", "/Exchange", "/public/x", "/exchweb/"].map(|path| (Protocol::LegacyOwa, path));
    prop::sample::select(protocols.chain(legacy).collect::<Vec<_>>())
}

fn eas_version() -> impl Strategy<Value = Option<EasVersion>> {
    prop::option::of(prop::sample::select(vec![25, 120, 121, 140, 161]).prop_map(EasVersion))
}

fn asked() -> impl Strategy<Value = Asked> {
    let mailbox = (any::<u64>(), prop::option::weighted(0.95, 0..=SERVERS), prop::option::of(0..4)).prop_map(
        |(key, home, database)| {
            Asked::Mailbox(Mailbox {
                key,
                home_server: home.map(legacy_dn).unwrap_or_default().into(),
                home_database: database.map(|number| format!("cn=db-{number}").into()),
            })
        },
    );
    prop_oneof![
        12 => mailbox,
        1 => Just(Asked::Nobody),
        1 => Just(Asked::Unknown),
        1 => Just(Asked::Ambiguous),
        1 => Just(Asked::WithoutMailbox),
    ]
}

/// Site number `SITES` is one that the directory does not have.
fn site_name(number: usize) -> String {
    format!("site-{number}")
}

fn server_name(number: usize) -> String {
    format!("server-{number}")
}

fn legacy_dn(number: usize) -> String {
    format!("/o=contoso/cn=server-{number}")
}
