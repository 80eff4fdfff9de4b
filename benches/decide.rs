//! What a decision costs: `cargo bench --bench decide`. The edge decides once per request, so this is what routing adds
//! to each; an organisation of hundreds of sites must not make it dearer than one of five.
#![allow(missing_docs, clippy::expect_used)] // criterion's macros write undocumented items; a bench may panic

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use firstcas::routing::{
    Decision, Policy, Pool, Request, Rule,
    choice::choose,
    decide,
    mailbox::{Mailbox, Whose},
    members,
    protocol::Protocol,
    topology::{AuthenticationMethods, Server, ServerId, SiteLink, Topology, TopologyParts, VirtualDirectory},
    version::{Generation, Version},
};
use url::Url;

criterion_group!(benches, decisions, choices, topologies);
criterion_main!(benches);

/// Sites of the small organisation, as many as Contoso's, and of the large one.
const SITES: [usize; 2] = [5, 500];

fn decisions(criterion: &mut Criterion) {
    for sites in SITES {
        let topology = Topology::new(organisation(sites));
        let policy = Policy::new(topology.site_named("site-0").expect("the local site"));
        let mut group = criterion.benchmark_group(format!("decide, {sites} sites"));
        for (name, protocol, site) in [
            ("local", Protocol::Owa, 0),
            ("proxied", Protocol::Owa, 1),
            ("link page", Protocol::Owa, 2),
            ("451", Protocol::ActiveSync, 2),
            ("ews to a redirected site", Protocol::Ews, 2),
            ("refused, Basic only", Protocol::Owa, 3),
            ("refused, no CAS", Protocol::Owa, 4),
        ] {
            let mailbox = mailbox_in(site);
            let request = Request { protocol, path: protocol.default_path(), eas_version: None };
            let decision = decide(&request, Whose::Mailbox(&mailbox), &topology, &policy);
            assert!(as_meant(name, &decision), "{name}: {decision:?}");
            group.bench_function(name, |bencher| {
                bencher.iter(|| {
                    decide(black_box(&request), Whose::Mailbox(black_box(&mailbox)), black_box(&topology), &policy)
                });
            });
        }
        let request = Request { protocol: Protocol::Owa, path: "/owa/", eas_version: None };
        group.bench_function("challenge", |bencher| {
            bencher.iter(|| decide(black_box(&request), Whose::Nobody, black_box(&topology), &policy));
        });
    }
}

fn choices(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("choose");
    for count in [1, 2, 5] {
        let parts = TopologyParts {
            sites: vec!["site-0".into(), "site-1".into()],
            servers: (0..count).map(|number| cas(1, number)).collect(),
            ..TopologyParts::default()
        };
        let topology = Topology::new(parts);
        let policy = Policy::new(topology.site_named("site-0").expect("the local site"));
        let site = topology.site_named("site-1").expect("the pool's site");
        let pool = Pool { site, protocol: Protocol::Owa, generation: Some(Generation::Exchange2007) };
        let listed: Vec<(ServerId, &Server)> = members(pool, &topology, &policy).collect();
        assert_eq!(listed.len(), count);
        group.bench_function(format!("among {count}"), |bencher| {
            bencher.iter(|| choose(black_box(7), listed.iter().copied(), |_| true));
        });
        group.bench_function(format!("among {count}, with their judging"), |bencher| {
            bencher.iter(|| choose(black_box(7), members(black_box(pool), &topology, &policy), |_| true));
        });
    }
}

/// Not per request: each time the directory is read anew.
fn topologies(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("join a topology");
    group.sample_size(10);
    for sites in SITES {
        let parts = organisation(sites);
        group.bench_function(format!("{sites} sites"), |bencher| {
            bencher.iter(|| Topology::new(black_box(parts.clone())));
        });
    }
}

fn as_meant(name: &str, decision: &Decision) -> bool {
    match decision {
        Decision::Proxy(_, Rule::LocalSite) => name == "local",
        Decision::Proxy(..) => name == "proxied" || name.starts_with("ews"),
        Decision::LinkPage(..) => name == "link page",
        Decision::MovedDevice(..) => name == "451",
        Decision::Refuse(_) => name.starts_with("refused"),
        Decision::BackEnd(..) | Decision::SameHost(..) | Decision::ConnectTo(..) => false,
    }
}

/// Sites 0 to 4 are like Contoso's: local, proxied, Internet-facing, Basic only, without CAS; then over again. Each has
/// two Client Access Servers (but for the last kind) and two Mailbox servers, and a link to the local site.
fn organisation(sites: usize) -> TopologyParts {
    let servers = (0..sites).flat_map(|site| {
        let cas_count = if site % 5 == 4 { 0 } else { 2 };
        let mailbox_servers = (0..4 - cas_count).map(move |number| mailbox_server(site, number));
        (0..cas_count).map(move |number| cas(site, number)).chain(mailbox_servers)
    });
    TopologyParts {
        sites: (0..sites).map(|site| format!("site-{site}")).collect(),
        servers: servers.collect(),
        site_links: (1..sites)
            .map(|site| SiteLink { sites: vec!["site-0".into(), format!("site-{site}")], cost: 100 })
            .collect(),
        ..TopologyParts::default()
    }
}

fn cas(site: usize, number: usize) -> Server {
    let name = format!("cas-{site}-{number}");
    let external_host = match site % 5 {
        0 | 2 => Some(format!("mail-{site}.contoso.com")),
        _ => None,
    };
    let methods = if site % 5 == 3 { AuthenticationMethods::BASIC } else { AuthenticationMethods::WINDOWS_INTEGRATED };
    let mut server = Server { client_access: true, ..server(name, site) };
    for protocol in Protocol::ALL {
        let Some(kind) = protocol.virtual_directory() else { continue };
        let at = |host: &str| Url::parse(&format!("https://{host}{}", protocol.directory_path())).expect("a URL");
        server.virtual_directories[kind as usize] = Some(VirtualDirectory {
            internal_url: Some(at(&server.fqdn)),
            external_url: external_host.as_deref().map(at),
            internal_authentication: AuthenticationMethods(methods),
        });
    }
    server
}

fn mailbox_server(site: usize, number: usize) -> Server {
    server(format!("mbx-{site}-{number}"), site)
}

fn server(name: String, site: usize) -> Server {
    Server {
        fqdn: format!("{name}.contoso.com"),
        legacy_dn: legacy_dn(&name),
        name,
        site_name: Some(format!("site-{site}")),
        site: None,
        version: Version { major: 8, minor: 3, build: 83 },
        client_access: false,
        hash_seed: 0,
        virtual_directories: Default::default(),
    }
}

fn mailbox_in(site: usize) -> Mailbox {
    Mailbox { key: 7, home_server: legacy_dn(&format!("mbx-{site}-0")).into(), home_database: None }
}

/// As long as real ones are: it is hashed for each decision.
fn legacy_dn(server: &str) -> String {
    format!("/o=contoso/ou=exchange administrative group (fydibohf23spdlt)/cn=configuration/cn=servers/cn={server}")
}
