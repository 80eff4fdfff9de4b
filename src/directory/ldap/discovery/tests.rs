//! Against a real DNS server on loopback, with a zone of our own.

use std::{collections::BTreeMap, sync::Arc};

use hickory_server::{
    Server,
    net::runtime::TokioRuntimeProvider,
    proto::{
        rr::{LowerName, rdata::SRV},
        serialize::txt::Parser,
    },
    store::in_memory::InMemoryZoneHandler,
    zone_handler::{AxfrPolicy, Catalog, ZoneHandler, ZoneType},
};
use proptest::prelude::*;
use tokio::net::{TcpListener, UdpSocket};

use super::*;

/// The first zone lines of contoso.com.
const START: &str = "@ 600 IN SOA dc1 hostmaster 1 900 600 86400 600\n@ 600 IN NS dc1\n";
/// Three servers in two sites.
const FOREST: &str = "
_ldap._tcp.Lisbon._sites 600 IN SRV 0 100 389 dc1
_ldap._tcp               600 IN SRV 0 100 389 dc1
_ldap._tcp               600 IN SRV 0 100 389 dc2
_ldap._tcp               600 IN SRV 0 100 389 dc3
_gc._tcp.Lisbon._sites   600 IN SRV 0 100 3268 dc2
_gc._tcp                 600 IN SRV 0 100 3268 dc2
_gc._tcp                 600 IN SRV 0 100 3268 dc1
dc1 1200 IN A 10.1.0.10
dc2 1200 IN A 10.1.0.11
dc2 1200 IN AAAA fd00::11
dc3 1200 IN A 10.2.0.10
";
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until dropped.
struct Dns {
    _server: Server<Catalog>,
    address: SocketAddr,
}

#[derive(Clone, Copy, PartialEq)]
enum Over {
    UdpOnly,
    UdpAndTcp,
}

impl Dns {
    async fn serve(records: &str) -> Dns {
        Dns::start(Over::UdpAndTcp, records, vec![]).await
    }

    /// `odd`: SRV records with names that the text of a zone cannot have here.
    async fn start(over: Over, records: &str, odd: Vec<(Name, SRV)>) -> Dns {
        let origin = Name::from_ascii("contoso.com.").expect("a name");
        let lines: Vec<_> = records.lines().map(str::trim_start).collect();
        let zone = format!("{START}{}\n", lines.join("\n"));
        let (origin, records) = Parser::new(zone, None, Some(origin)).parse().expect("a zone");
        let mut zone: InMemoryZoneHandler<TokioRuntimeProvider> =
            InMemoryZoneHandler::new(origin.clone(), records, ZoneType::Primary, AxfrPolicy::Deny).expect("a zone");
        for (name, srv) in odd {
            assert!(zone.upsert_mut(hickory_server::proto::rr::Record::from_rdata(name, 600, RData::SRV(srv)), 2));
        }
        let mut catalog = Catalog::new();
        catalog.upsert(LowerName::from(origin), vec![Arc::new(zone) as Arc<dyn ZoneHandler>]);
        let mut server = Server::new(catalog);
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("its address")).await {
                break (udp, tcp); // the same port was free for TCP too
            }
        };
        let address = udp.local_addr().expect("its address");
        server.register_socket(udp);
        if over == Over::UdpAndTcp {
            server.register_listener(tcp, PATIENCE, 4096);
        }
        Dns { _server: server, address }
    }

    async fn find(&self, site: Option<&str>, scheme: Scheme) -> Result<Found, FindError> {
        find_at(&[self.address], site, scheme, PATIENCE).await
    }
}

async fn find_at(
    name_servers: &[SocketAddr],
    site: Option<&str>,
    scheme: Scheme,
    patience: Duration,
) -> Result<Found, FindError> {
    Finder::new("contoso.com", site, name_servers, scheme).expect("good names").find(patience).await
}

/// Takes questions and never answers.
async fn black_hole() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("its address");
    (socket, address)
}

fn texts(places: &[Place]) -> Vec<String> {
    places.iter().map(|place| format!("{} {}", place.url, place.address)).collect()
}

/// The host names in order, each once.
fn hosts(places: &[Place]) -> Vec<&str> {
    let mut hosts: Vec<_> = places.iter().filter_map(|place| place.url.host_str()).collect();
    hosts.dedup();
    hosts
}

#[tokio::test]
async fn servers_of_the_site_come_first_and_every_server_once_with_all_its_addresses() {
    let dns = Dns::serve(FOREST).await;
    for _ in 0..10 {
        let found = dns.find(Some("Lisbon"), Scheme::Ldaps).await.expect("servers");
        assert_eq!(texts(&found.domain_controllers)[0], "ldaps://dc1.contoso.com 10.1.0.10:636");
        let mut all = hosts(&found.domain_controllers);
        all.sort_unstable();
        assert_eq!(all, ["dc1.contoso.com", "dc2.contoso.com", "dc3.contoso.com"]);
        assert_eq!(
            texts(&found.global_catalogs),
            [
                "ldaps://dc2.contoso.com:3269 10.1.0.11:3269",
                "ldaps://dc2.contoso.com:3269 [fd00::11]:3269",
                "ldaps://dc1.contoso.com:3269 10.1.0.10:3269",
            ]
        );
        assert_eq!(found.oddities, Vec::<String>::new());
        assert_eq!(found.ask_again_after, Duration::from_secs(600));
    }
}

#[tokio::test]
async fn without_tls_the_ports_are_those_of_the_records() {
    let dns = Dns::serve(
        "_ldap._tcp 600 IN SRV 0 0 1389 dc1
         _gc._tcp 600 IN SRV 0 0 3268 dc1
         dc1 600 IN A 10.1.0.10",
    )
    .await;
    let found = dns.find(None, Scheme::Ldap).await.expect("servers");
    assert_eq!(texts(&found.domain_controllers), ["ldap://dc1.contoso.com:1389 10.1.0.10:1389"]);
    assert_eq!(texts(&found.global_catalogs), ["ldap://dc1.contoso.com:3268 10.1.0.10:3268"]);
}

#[tokio::test]
async fn a_site_without_servers_falls_back_to_the_domain_and_is_told() {
    let dns = Dns::serve(FOREST).await;
    let found = dns.find(Some("Braga"), Scheme::Ldaps).await.expect("servers");
    assert_eq!(found.domain_controllers.len(), 4);
    assert!(found.oddities[0].contains("_ldap._tcp.Braga._sites.contoso.com"), "{:?}", found.oddities);
    assert_eq!(found.ask_again_after, LIFETIME_MIN);
}

#[tokio::test]
async fn a_site_may_have_spaces_dots_or_letters_beyond_ascii() {
    for (site, labels) in [("Head Office", &["Head Office"][..]), ("Évora", &["Évora"]), ("a.b", &["a", "b"])] {
        let of_site = |service: &'static str| {
            let labels = [&[service, "_tcp"], labels, &["_sites", "contoso", "com"]].concat();
            let name = Name::from_labels(labels.into_iter().map(str::as_bytes)).expect("a name");
            (name, SRV::new(0, 0, 389, Name::from_ascii("dc1.contoso.com.").expect("a name")))
        };
        let odd = vec![of_site("_ldap"), of_site("_gc")];
        let dns = Dns::start(Over::UdpAndTcp, "dc1 600 IN A 10.1.0.10", odd).await;
        let found = dns.find(Some(site), Scheme::Ldaps).await.unwrap_or_else(|error| panic!("{site}: {error}"));
        assert_eq!(texts(&found.domain_controllers), ["ldaps://dc1.contoso.com 10.1.0.10:636"], "{site}");
    }
}

#[test]
fn names_that_dns_cannot_have_are_refused_with_a_cure() {
    let finder = |domain: &str, site: &str| Finder::new(domain, Some(site), &[], Scheme::Ldaps);
    for site in ["", "a..b", "Li\nsbon", &"x".repeat(64), &"é".repeat(32), &"x.".repeat(120)] {
        let error = finder("contoso.com", site).expect_err("no such label");
        assert!(matches!(&error, FindError::BadSite { .. }), "{site:?}: {error}");
        assert!(error.to_string().contains("Active Directory Sites and Services"), "{error}");
    }
    assert!(finder("contoso.com", &"x".repeat(63)).is_ok());
    assert!(matches!(finder("contoso..com", "Lisbon"), Err(FindError::BadDomain { .. })));
}

#[tokio::test]
async fn a_domain_nobody_knows_is_told_from_one_without_servers() {
    let dns = Dns::serve("www 600 IN A 10.1.0.80\nempty.sub 600 IN TXT x").await;
    let error = dns.find(Some("Lisbon"), Scheme::Ldaps).await.expect_err("no records");
    assert!(matches!(error, FindError::NoRecords { .. }), "{error}");
    let finder = Finder::new("gone.contoso.com", None, &[dns.address], Scheme::Ldaps).expect("good names");
    let error = finder.find(PATIENCE).await.expect_err("no domain");
    assert!(matches!(error, FindError::NoSuchDomain { .. }), "{error}");
    let finder = Finder::new("fabrikam.com", None, &[dns.address], Scheme::Ldaps).expect("good names");
    let error = finder.find(PATIENCE).await.expect_err("not its zone");
    assert!(matches!(&error, FindError::Failed { .. }) && error.to_string().contains("Refused"), "{error}");
}

#[tokio::test]
async fn a_target_of_a_dot_means_that_there_is_no_server() {
    let dns = Dns::serve("_ldap._tcp 600 IN SRV 0 0 0 .\n_gc._tcp 600 IN SRV 0 0 0 .").await;
    let error = dns.find(None, Scheme::Ldaps).await.expect_err("decidedly none");
    assert!(matches!(error, FindError::NoRecords { .. }), "{error}");
}

#[tokio::test]
async fn servers_without_address_are_left_out_and_named() {
    let dns = Dns::serve(
        "_ldap._tcp 600 IN SRV 0 0 389 gone
         _ldap._tcp 600 IN SRV 1 0 389 dc1
         _gc._tcp 600 IN SRV 0 0 3268 gone
         dc1 600 IN A 10.1.0.10",
    )
    .await;
    let found = dns.find(None, Scheme::Ldaps).await.expect("one of them");
    assert_eq!(texts(&found.domain_controllers), ["ldaps://dc1.contoso.com 10.1.0.10:636"]);
    assert_eq!(
        found.oddities,
        [
            "no global catalog is known to DNS as _gc._tcp.contoso.com",
            "the server gone.contoso.com is left out: it has no address in DNS",
        ]
    );
    let dns = Dns::serve("_ldap._tcp 600 IN SRV 0 0 389 gone\n_gc._tcp 600 IN SRV 0 0 3268 gone").await;
    let error = dns.find(None, Scheme::Ldaps).await.expect_err("no address at all");
    assert!(matches!(&error, FindError::NoAddress { hosts, .. } if *hosts == ["gone.contoso.com"]), "{error}");
}

#[tokio::test]
async fn one_server_under_several_records_is_one_server() {
    let dns = Dns::serve(
        "_ldap._tcp.Lisbon._sites 600 IN SRV 5 0 389 DC1
         _ldap._tcp 600 IN SRV 0 0 389 dc1
         _ldap._tcp 600 IN SRV 0 0 390 dc1
         _ldap._tcp 600 IN SRV 1 9 389 dc1
         _gc._tcp 600 IN SRV 0 0 3268 dc1
         dc1 600 IN A 10.1.0.10",
    )
    .await;
    let found = dns.find(Some("Lisbon"), Scheme::Ldaps).await.expect("one");
    assert_eq!(texts(&found.domain_controllers), ["ldaps://dc1.contoso.com 10.1.0.10:636"]);
    let found = dns.find(Some("Lisbon"), Scheme::Ldap).await.expect("one with two ports");
    assert_eq!(
        texts(&found.domain_controllers),
        ["ldap://dc1.contoso.com 10.1.0.10:389", "ldap://dc1.contoso.com:390 10.1.0.10:390"]
    );
}

#[tokio::test]
async fn targets_that_are_no_host_names_are_left_out_and_named() {
    let name = Name::from_ascii("_ldap._tcp.contoso.com.").expect("a name");
    let no_host = Name::from_labels([&b"dc1/x@evil"[..], b"com"]).expect("a name");
    let dns = Dns::start(
        Over::UdpAndTcp,
        "_ldap._tcp 600 IN SRV 0 0 389 dc1
         _gc._tcp 600 IN SRV 0 0 3268 dc1
         dc1 600 IN A 10.1.0.10",
        vec![(name, SRV::new(0, 0, 389, no_host))],
    )
    .await;
    let found = dns.find(None, Scheme::Ldaps).await.expect("the good one");
    assert_eq!(hosts(&found.domain_controllers), ["dc1.contoso.com"]);
    assert!(found.oddities[0].contains("is not a host name"), "{:?}", found.oddities);
}

/// So many that no UDP packet holds them.
fn many(number: usize) -> String {
    let servers = (0..number).map(|at| {
        format!(
            "_ldap._tcp 600 IN SRV 0 100 389 server-{at}\n_gc._tcp 600 IN SRV 0 100 3268 server-{at}\n\
             server-{at} 600 IN A 10.3.{}.{}\n",
            at / 256,
            at % 256
        )
    });
    servers.collect()
}

#[tokio::test]
async fn answers_too_long_for_udp_come_by_tcp() {
    let zone = many(60);
    let dns = Dns::serve(&zone).await;
    let found = dns.find(None, Scheme::Ldaps).await.expect("all of them");
    assert_eq!((found.domain_controllers.len(), found.oddities.len()), (60, 0));
    let deaf = Dns::start(Over::UdpOnly, &zone, vec![]).await;
    let patience = Duration::from_secs(2);
    let error = find_at(&[deaf.address], None, Scheme::Ldaps, patience).await.expect_err("without TCP they are cut");
    assert!(matches!(error, FindError::NotAnswered { .. } | FindError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn of_a_thousand_servers_some_are_used_and_it_is_told() {
    let dns = Dns::serve(&many(1000)).await;
    let found = dns.find(None, Scheme::Ldaps).await.expect("some of them");
    assert_eq!(hosts(&found.domain_controllers).len(), SERVERS_MAX);
    assert_eq!(hosts(&found.global_catalogs).len(), SERVERS_MAX);
    assert_eq!(found.oddities[0], "1000 servers are known to DNS as _ldap._tcp.contoso.com; the first 64 are used");
}

#[tokio::test]
async fn a_silent_name_server_is_given_up_in_time_and_the_next_one_asked() {
    let (_socket, silent) = black_hole().await;
    let patience = Duration::from_millis(400);
    let began = Instant::now();
    let error = find_at(&[silent], Some("Lisbon"), Scheme::Ldaps, patience).await.expect_err("silence");
    assert!(matches!(error, FindError::NotAnswered { .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let dns = Dns::serve(FOREST).await;
    let patience = Duration::from_secs(2);
    let found = find_at(&[silent, dns.address], None, Scheme::Ldaps, patience).await.expect("the second answers");
    assert_eq!(hosts(&found.global_catalogs).len(), 2);
    let empty = Dns::serve("").await;
    let error = find_at(&[empty.address, silent], None, Scheme::Ldaps, patience).await.expect_err("none knows it");
    assert!(matches!(error, FindError::NoRecords { .. }), "what one said tells more than silence: {error}");
}

#[tokio::test]
async fn lifetimes_are_bounded() {
    for (ttl, expected) in [(0, 60), (59, 60), (600, 600), (86_400, 3600)] {
        let dns = Dns::serve(&format!(
            "_ldap._tcp {ttl} IN SRV 0 0 389 dc1\n_gc._tcp 86400 IN SRV 0 0 3268 dc1\ndc1 86400 IN A 10.1.0.10"
        ))
        .await;
        let found = dns.find(None, Scheme::Ldaps).await.expect("one");
        assert_eq!(found.ask_again_after, Duration::from_secs(expected), "{ttl}");
    }
}

fn record(priority: u16, weight: u16, host: usize) -> Record {
    Record { priority, weight, port: 389, host: host.to_string(), nearby: false }
}

#[test]
fn weights_are_the_odds_among_equal_priorities() {
    let mut dice = fastrand::Rng::with_seed(1);
    let mut first: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..10_000 {
        let records = vec![record(0, 10, 0), record(0, 30, 1), record(0, 0, 2), record(1, 1000, 3)];
        let ordered = in_order(records, &mut |below| dice.u64(..below));
        assert_eq!(ordered[3].host, "3", "a higher priority number comes last, whatever its weight");
        *first.entry(ordered[0].host.clone()).or_default() += 1;
    }
    assert!((2200..2800).contains(&first["0"]), "{first:?}");
    assert!((6700..7700).contains(&first["1"]), "{first:?}");
    assert!((100..500).contains(&first["2"]), "a weight of 0 is drawn seldom, not never: {first:?}");
}

proptest! {
    #[test]
    fn whatever_the_weights_all_records_stay_and_priorities_ascend(
        parts in prop::collection::vec((0_u16..4, any::<u16>()), 0..40), seed in any::<u64>(),
    ) {
        let mut dice = fastrand::Rng::with_seed(seed);
        let records: Vec<_> = parts.iter().enumerate().map(|(at, (priority, weight))| record(*priority, *weight, at)).collect();
        let ordered = in_order(records.clone(), &mut |below| dice.u64(..below));
        prop_assert!(ordered.is_sorted_by_key(|record| record.priority));
        let by_host = |mut records: Vec<Record>| { records.sort_by(|one, other| one.host.cmp(&other.host)); records };
        prop_assert_eq!(by_host(ordered), by_host(records));
    }
}
