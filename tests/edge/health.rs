//! Which servers are well: found out by checks, by requests, and shown. Elsewhere in these tests no checks are made.

use std::{collections::HashMap, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use firstcas::{
    config::{Config, Health},
    directory::{Directory, ldif},
    edge::{
        health::{DirectoryReport, ServerReport, rounds},
        organisation::Organisation,
    },
    routing::{protocol::Protocol, topology::Topology},
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Method;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{
    contoso::server::StandIn,
    harness::{House, Plan, within},
    record,
};

/// Checks more often than a file may ask for.
fn often(config: &mut Config) {
    config.health = Health {
        interval: Some(Duration::from_millis(200)),
        timeout: Duration::from_secs(10),
        fall: 3,
        rise: 2,
        slow_start: Duration::ZERO,
        checks_max: 8,
    };
}

fn often_and_slow_to_come_back(config: &mut Config) {
    often(config);
    config.health.slow_start = Duration::from_secs(3600);
}

/// Patient with requests, impatient with checks.
fn often_and_impatient(config: &mut Config) {
    often(config);
    config.health.timeout = Duration::from_secs(1);
    config.upstream.connect_timeout = Duration::from_secs(120);
    config.upstream.total_connect_timeout = Duration::from_secs(120);
}

async fn house(adjust: fn(&mut Config)) -> House {
    House::planned(Plan { adjust: Some(adjust), ..Plan::default() }).await
}

impl House {
    fn report(&self, server: &str) -> ServerReport {
        let report = self.edge.as_ref().expect("a running edge").health();
        report.servers.into_iter().find(|it| it.name == server).expect("a server that clients' requests go to")
    }

    fn directory_report(&self, server: &str, protocol: Protocol) -> DirectoryReport {
        let report = self.report(server);
        let found = report.virtual_directories.iter().find(|it| it.protocol == protocol.name());
        found.unwrap_or_else(|| panic!("no {protocol} in {report:?}")).clone()
    }

    async fn until_alive(&self, server: &str, alive: bool) {
        until(&format!("{server} alive: {alive}"), async || self.report(server).alive == alive).await;
    }

    async fn until_works(&self, server: &str, protocol: Protocol, works: bool) {
        let is_so = async || self.directory_report(server, protocol).alive == works;
        until(&format!("{protocol} of {server} works: {works}"), is_so).await;
    }
}

/// Waits until something has become true; looks now and then, so that the checks have the processor.
async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(10));
    let wait = async {
        while !is_so().await {
            looks.tick().await;
        }
    };
    within(what, wait).await;
}

async fn until_asked(server: &StandIn, more: u64) {
    let before = server.requests();
    until(&format!("{} is asked", server.name()), async || server.requests() >= before + more).await;
}

fn other(server: &str) -> String {
    let (name, number) = server.split_at(server.len() - 1);
    format!("{name}{}", if number == "1" { 2 } else { 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_owa_fails_loses_owa_alone_and_gets_it_back() {
    let house = house(often).await;
    let home = house.get("ana", "/owa/").await.server().to_owned();
    house.contoso.server(&home).fail(Protocol::Owa);
    house.until_works(&home, Protocol::Owa, false).await;
    let reason = house.directory_report(&home, Protocol::Owa).reason;
    assert_eq!(reason.as_deref(), Some("was answered 503"));
    assert_eq!(house.get("ana", "/owa/").await.server(), other(&home));
    assert_eq!(house.ask("ana", Method::POST, "/EWS/Exchange.asmx").await.server(), home);
    assert!(house.report(&home).alive);

    house.contoso.server(&home).resume();
    house.until_works(&home, Protocol::Owa, true).await;
    assert_eq!(house.get("ana", "/owa/").await.server(), home);
    let told = |event: &str| record::lines(&[event, &format!("/owa of {home} ")]).len();
    assert_eq!((told("ERROR firstcas::event"), told("event=FC114")), (1, 1), "once, and no other test fails it");
    assert_eq!((told("INFO firstcas::event"), told("event=FC115")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_challenges_is_well() {
    let house = house(often).await;
    for server in ["cas-lis-1", "cas-opo-2", "cas-mad-1", "ex03-lis", "ex03-opo"] {
        until_asked(house.contoso.server(server), 6).await;
        let report = house.report(server);
        assert!(report.alive && report.reason.is_none(), "{report:?}");
        assert!(report.virtual_directories.len() >= 2, "{report:?}");
        assert!(report.virtual_directories.iter().all(|it| it.alive && it.checked), "{report:?}");
    }
    let nobody_is_sent_there = house.report("cas-bra-1");
    assert!(nobody_is_sent_there.virtual_directories.is_empty(), "{nobody_is_sent_there:?}");
    assert_eq!(house.contoso.server("cas-bra-1").connections(), 0, "so nobody asks it either");
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_neither_use_the_connections_that_clients_share_nor_leave_any() {
    let house = house(often).await;
    let mut client = house.client().await; // one, so that one thread of the edge serves it
    let first = client.get("/owa/").basic("ana", "Pass-word1").send().await;
    let server = house.contoso.server(first.server());
    until_asked(server, 20).await;
    let second = client.get("/owa/").basic("ana", "Pass-word1").send().await;
    assert_eq!(second.connection(), first.connection(), "the shared one was left alone");
    let back_end = house.contoso.server("ex03-opo"); // nobody but checks has been there
    until_asked(back_end, 4).await;
    until("each connection ends with its check", async || back_end.open_connections() == 0).await;
    let most = back_end.requests() + 2; // two may have connected and not asked yet
    let connections = back_end.connections();
    assert!((back_end.requests()..=most).contains(&connections), "{connections} connections, {most} requests at most");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_server_is_noticed_before_any_request_and_so_is_its_return() {
    let house = house(often).await;
    let (stopped, stays) = (house.contoso.server("cas-mad-1"), house.contoso.server("cas-opo-1"));
    stopped.stop().await;
    house.until_alive("cas-mad-1", false).await;
    let reason = house.report("cas-mad-1").reason.expect("a reason");
    assert!(reason.contains("does not accept connections"), "{reason}");
    assert!(house.report("cas-mad-1").virtual_directories.iter().all(|it| !it.alive));
    let address = stopped.address().to_string();
    let told = || record::lines(&["event=FC110", "cas-mad-1", &address]).len();
    assert_eq!(told(), 1);
    let answer = house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
    assert!(answer.body.contains("ErrorNoRespondingCASInDestinationSite"), "{answer:?}");
    until_asked(stays, 20).await;
    assert_eq!(told(), 1, "it is told once, however long it takes");

    stopped.start().expect("the same port again");
    house.until_alive("cas-mad-1", true).await;
    assert_eq!(house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await.server(), "cas-mad-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refused_a_request_comes_back_by_checks() {
    let house = house(often).await;
    house.contoso.server("ex03-opo").stop().await;
    assert_eq!(house.get("duarte", "/exchange/duarte/").await.status, 503);
    assert!(!house.report("ex03-opo").alive, "at once, without waiting for a check");
    house.contoso.server("ex03-opo").start().expect("the same port again");
    house.until_alive("ex03-opo", true).await;
    assert_eq!(house.get("duarte", "/exchange/duarte/").await.server(), "ex03-opo");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_server_of_a_site_is_back_with_the_next_request_though_no_check_has_come() {
    fn seldom(config: &mut Config) {
        often(config);
        config.health.interval = Some(Duration::from_secs(3600));
        config.upstream.retry_dead_after = Duration::from_secs(3600);
    }
    let house = house(seldom).await;
    let only = house.contoso.server("cas-mad-1");
    let carla = async || house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
    only.stop().await;
    assert!(carla().await.body.contains("ErrorNoRespondingCASInDestinationSite"));
    assert!(!house.report("cas-mad-1").alive);
    only.start().expect("the same port again");
    until("a request finds out", async || carla().await.headers.contains_key("X-Contoso-Server")).await;
    assert!(house.report("cas-mad-1").alive);
    for _ in 0..5 {
        assert_eq!(carla().await.server(), "cas-mad-1", "and all others follow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_keeps_silent_towards_checks_only_goes_on_serving() {
    fn never_satisfied(config: &mut Config) {
        often_and_impatient(config);
        config.health.rise = u32::MAX;
    }
    let house = house(never_satisfied).await;
    let site = ["cas-opo-1", "cas-opo-2"];
    for server in site {
        house.contoso.server(server).hang();
    }
    for server in site {
        house.until_works(server, Protocol::Owa, false).await;
        house.contoso.server(server).resume(); // checks find nothing good any more
    }
    until("a request is let through", async || house.get("bruno", "/owa/").await.status == 200).await;
    for _ in 0..5 {
        assert_eq!(house.get("bruno", "/owa/").await.status, 200, "and all others follow");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_back_gets_its_mailboxes_one_by_one_unless_it_is_the_only_one() {
    let house = house(often_and_slow_to_come_back).await;
    let home = house.get("bruno", "/owa/").await.server().to_owned();
    let refuge = other(&home);
    house.contoso.server(&home).stop().await;
    house.until_alive(&home, false).await;
    assert_eq!(house.get("bruno", "/owa/").await.server(), refuge);
    house.contoso.server(&home).start().expect("the same port again");
    house.until_alive(&home, true).await;
    for _ in 0..5 {
        assert_eq!(house.get("bruno", "/owa/").await.server(), refuge, "an hour has just begun");
    }
    house.contoso.server(&refuge).stop().await;
    house.until_alive(&refuge, false).await;
    assert_eq!(house.get("bruno", "/owa/").await.server(), home, "nobody else is there");
}

/// An address that takes no connection and refuses none: its listener's queue is full.
struct BlackHole {
    address: std::net::SocketAddr,
    _queue: (tokio::net::TcpListener, Vec<TcpStream>),
}

impl BlackHole {
    async fn open() -> BlackHole {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bound");
        let listener = socket.listen(1).expect("listening");
        let address = listener.local_addr().expect("its address");
        let mut waiting = Vec::new();
        while let Ok(connected) = timeout(Duration::from_millis(500), TcpStream::connect(address)).await {
            waiting.push(connected.expect("not refused"));
            assert!(waiting.len() < 100, "the queue has no end");
        }
        BlackHole { address, _queue: (listener, waiting) }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_whose_servers_swallow_every_packet_is_told_to_be_away_at_once() {
    let holes = [BlackHole::open().await, BlackHole::open().await];
    let instead =
        vec![("cas-opo-1.contoso.com:443", holes[0].address), ("cas-opo-2.contoso.com:443", holes[1].address)];
    let house = House::planned(Plan { instead, adjust: Some(often_and_impatient), ..Plan::default() }).await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.until_alive(server, false).await;
    }
    // One request a second may try each server, and waits in vain.
    let mut owa: FuturesUnordered<_> = (0..20).map(|_| house.get("bruno", "/owa/")).collect();
    for _ in 0..14 {
        let told = within("an answer long before the connect time-out", owa.next()).await;
        assert_eq!(told.expect("twenty were asked").status, 503);
    }
    let mut ews: FuturesUnordered<_> =
        (0..10).map(|_| house.ask("bruno", Method::POST, "/EWS/Exchange.asmx")).collect();
    let told = within("an answer long before the connect time-out", ews.next()).await.expect("ten were asked");
    assert!(told.body.contains("ErrorNoRespondingCASInDestinationSite"), "{told:?}");
    assert_eq!(house.get("ana", "/owa/").await.status, 200, "the other sites serve on");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_every_servers_owa_fails_its_own_words_are_passed_on() {
    let house = house(often).await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.contoso.server(server).fail(Protocol::Owa);
        house.until_works(server, Protocol::Owa, false).await;
    }
    let answer = house.get("bruno", "/owa/").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (503, "Service Unavailable\n"), "{answer:?}");
    assert!(answer.server().starts_with("cas-opo-"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_is_out_and_nobody_waits_for_it() {
    let house = house(often_and_impatient).await;
    let home = house.get("bruno", "/owa/").await.server().to_owned();
    house.contoso.server(&home).hang();
    for protocol in [Protocol::Owa, Protocol::Ews, Protocol::ActiveSync] {
        house.until_works(&home, protocol, false).await;
    }
    let reason = house.directory_report(&home, Protocol::Owa).reason;
    assert_eq!(reason.as_deref(), Some("was not answered within 1000 ms"));
    assert_eq!(house.get("bruno", "/owa/").await.server(), other(&home));
    house.contoso.server(&home).resume();
    house.until_works(&home, Protocol::Owa, true).await;
    assert_eq!(house.get("bruno", "/owa/").await.server(), home);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_believed_is_out_before_any_request() {
    let further = format!("\n[sites.Porto]\nfingerprints = [\"{}\"]\n", "00".repeat(32));
    let house = House::planned(Plan { further, adjust: Some(often), ..Plan::default() }).await;
    house.until_alive("cas-opo-1", false).await;
    let reason = house.report("cas-opo-1").reason.expect("a reason");
    assert!(reason.contains("is not believed") && reason.contains("fingerprint"), "{reason}");
    assert_eq!(house.contoso.server("cas-opo-1").requests(), 0, "nothing was said to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn exchange_2013_is_judged_by_its_own_page() {
    /// Exchange 2007 SP3 becomes 2013 CU23: major 15 in place of 8, build 1497.
    fn to_2013(ldif: &str) -> String {
        let version = 0x7000_0000 | 15 << 22 | 0x8000 | 0x05d9;
        let ldif = ldif.replace("versionNumber: 1912832083", &format!("versionNumber: {version}"));
        ldif.replace("msExchCurrentServerRoles: 4\n", "msExchCurrentServerRoles: 16384\n")
    }
    let house = House::planned(Plan { rewrite: Some(to_2013), adjust: Some(often), ..Plan::default() }).await;
    until_asked(house.contoso.server("cas-opo-1"), 15).await;
    let report = house.report("cas-opo-1");
    assert_eq!(report.generation.as_deref(), Some("Exchange 2013 or later"));
    assert!(report.virtual_directories.len() >= 4, "{report:?}");
    assert!(report.virtual_directories.iter().all(|it| it.alive && it.checked), "a challenge would not do: {report:?}");
    house.contoso.server("cas-opo-1").fail(Protocol::Ews);
    house.until_works("cas-opo-1", Protocol::Ews, false).await;
    assert!(house.directory_report("cas-opo-1", Protocol::Owa).alive);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_left_the_organisation_is_asked_no_more() {
    let house = House::start().await; // its own edge makes no checks
    let mut config = Config::load(&house.folder.path().join("firstcas.toml")).expect("it was good before");
    often(&mut config);
    let directory = ldif::open(house.folder.path().join("contoso.ldif")).expect("the LDIF file");
    let parts = directory.topology().await.expect("a topology").parts;
    let mut fewer = parts.clone();
    fewer.servers.retain(|server| server.name != "cas-opo-1");
    let organisation = async |parts, previous| {
        let topology = Topology::new(parts);
        let policy = config.policy(&topology).expect("Lisbon is there");
        Organisation::new(topology, policy, &config, previous, &HashMap::new()).await.expect("an organisation")
    };
    let in_force = Arc::new(ArcSwap::from_pointee(organisation(parts, None).await));
    let checks = tokio::spawn(rounds::run({
        let in_force = in_force.clone();
        move || in_force.load_full()
    }));
    let (leaves, stays) = (house.contoso.server("cas-opo-1"), house.contoso.server("cas-opo-2"));
    until_asked(leaves, 1).await;
    let previous = in_force.load_full();
    in_force.store(Arc::new(organisation(fewer, Some(&previous)).await));
    until_asked(stays, 12).await; // what was under way has ended
    let before = leaves.requests();
    until_asked(stays, 20).await;
    assert_eq!(leaves.requests(), before);
    checks.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_checks_are_under_way_than_may_be() {
    fn two_at_a_time(config: &mut Config) {
        often(config);
        config.health.checks_max = 2;
    }
    let house = house(two_at_a_time).await;
    for server in house.contoso.servers() {
        server.hang();
    }
    let under_way = || house.contoso.servers().iter().map(StandIn::open_connections).sum::<u64>();
    until("two are waiting", async || under_way() == 2).await;
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await; // five intervals, in which all others have their turn
        assert!(under_way() <= 2, "{} checks at once", under_way());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_tells_how_busy_each_server_is() {
    let house = house(often).await;
    assert_eq!(house.report("ex03-lis").load, 0);
    let mut client = house.client().await;
    let held = client.get("/exchange/elsa/").basic("elsa", "Pass-word1").header("X-Contoso-Hold-Ms", "500").send();
    let looked = until("the request counts", async || house.report("ex03-lis").load == 1);
    let (answer, ()) = tokio::join!(held, looked);
    assert_eq!(answer.server(), "ex03-lis");
    until("it counts no more", async || house.report("ex03-lis").load == 0).await;
}
