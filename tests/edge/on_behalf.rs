//! The edge signs in to servers for users: whoever comes with a password ends as themselves at servers that take Kerberos
//! tickets alone, of a real MIT KDC. The edge is a process of its own, because `KRB5_CONFIG` is its environment's.

use std::{
    collections::{HashMap, HashSet},
    fs,
    net::SocketAddr,
    time::Instant,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::Method;
use sha1::{Digest, Sha1};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::rustls::pki_types::ServerName;

use crate::{
    contoso::server::Keeps,
    hammer::people,
    harness::{Answer, Client, House, Plan, credential, until, within},
    kdc::{Kdc, PASSWORD, REALMS},
    process::Process,
    tls,
};

/// Contoso without Basic and NTLM behind an edge that signs in, and the KDC that both believe.
struct Site {
    edge: Process,
    kdc: Kdc,
    plain: SocketAddr,
}

impl Site {
    async fn start() -> Site {
        Site::with("").await
    }

    /// With further lines in `[sign_in]`.
    async fn with(further: &str) -> Site {
        Site::planned(Plan { further: format!("\n[sign_in]\n{further}\n"), ..Plan::default() }).await
    }

    async fn planned(mut plan: Plan) -> Site {
        if !plan.further.contains("[sign_in]") {
            plan.further += "\n[sign_in]\n";
        }
        plan.people.extend([people::ldif().as_str(), "\n", FABRIKAM]);
        let house = House::without_edge(&plan).await;
        let hosts = house.contoso.resolve().into_keys();
        let hosts: Vec<_> = hosts.map(|host| host.split(':').next().expect("a host").to_owned()).collect();
        let kdc = tokio::task::spawn_blocking(move || Kdc::start(&everybody(), &hosts)).await.expect("a KDC");
        house.contoso.use_keytab(&kdc.keytab());
        for server in house.contoso.servers() {
            server.kerberos_only();
        }
        let edge = Process::start(house, &plan, &[("KRB5_CONFIG", &kdc.config())]).await;
        let address = edge.addresses()[0];
        Site { edge, kdc, plain: address }
    }

    async fn client_over_tls(&self) -> Client {
        let [_, address] = self.edge.addresses();
        let stream = TcpStream::connect(address).await.expect("the edge accepts");
        let name = ServerName::try_from("mail.contoso.com").expect("a name");
        let tls = tls::connector(&self.edge.house, tls::TLS13, &[]).connect(name, stream);
        Client::over(within("TLS", tls).await.expect("a handshake")).await
    }

    async fn client(&self) -> Client {
        Client::connect(self.plain).await
    }

    /// A GET on a connection of its own.
    async fn get(&self, user: &str, target: &str) -> Answer {
        self.client().await.get(target).basic(user, PASSWORD).send().await
    }

    /// A POST of so many bytes on a connection of its own, which the server tells of.
    async fn post(&self, user: &str, length: usize) -> Answer {
        let mut client = self.client().await;
        let asking = client.ask(Method::POST, "/EWS/Exchange.asmx").basic(user, PASSWORD);
        asking.header("X-Contoso-Echo", "1").body(vec![b'x'; length]).send().await
    }

    /// Requests that servers let in.
    fn let_in(&self) -> u64 {
        self.edge.house.contoso.servers().iter().map(crate::contoso::server::StandIn::let_in).sum()
    }

    fn each_server(&self, does: impl Fn(&crate::contoso::server::StandIn)) {
        self.edge.house.contoso.servers().iter().for_each(does);
    }

    /// How many lines of the log have all of these parts.
    fn lines(&self, parts: &[&str]) -> usize {
        self.edge.log().lines().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }
}

/// As the KDC has them.
fn everybody() -> Vec<String> {
    let ours = ["ana", "bruno", "carla", "duarte", "elsa", "filipe", "gil", "helena"].map(str::to_owned);
    let ours = ours.into_iter().chain(people::all().into_iter().map(|person| person.name));
    let ours = ours.map(|name| format!("{name}@{}", REALMS[0]));
    ours.chain([format!("bruno@{}", REALMS[1])]).collect()
}

/// Another domain of the forest, with another bruno.
const FABRIKAM: &str = "
dn: DC=fabrikam,DC=com
objectClass: top
objectClass: domain
objectClass: domainDNS
dc: fabrikam

dn: CN=FABRIKAM,CN=Partitions,CN=Configuration,DC=contoso,DC=com
objectClass: top
objectClass: crossRef
cn: FABRIKAM
nETBIOSName: FABRIKAM
dnsRoot: fabrikam.com
nCName: DC=fabrikam,DC=com
systemFlags: 3

dn: CN=Bruno Brito,DC=fabrikam,DC=com
objectClass: top
objectClass: person
objectClass: organizationalPerson
objectClass: user
cn: Bruno Brito
sn: Brito
sAMAccountName: bruno
userPrincipalName: bruno@fabrikam.com
mail: bruno@fabrikam.com
proxyAddresses: SMTP:bruno@fabrikam.com
legacyExchangeDN: /o=Contoso/ou=Exchange Administrative Group (FYDIBOHF23SPDLT)/cn=Recipients/cn=brunobrito
homeMDB: CN=Mailbox Database,CN=First Storage Group,CN=InformationStore,CN=mbx-opo,CN=Servers,CN=Exchange Administrative
  Group (FYDIBOHF23SPDLT),CN=Administrative Groups,CN=Contoso,CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=cont
 oso,DC=com
msExchHomeServerName: /o=Contoso/ou=Exchange Administrative Group (FYDIBOHF23SPDLT)/cn=Configuration/cn=Servers/cn=mbx-o
 po
msExchMailboxGuid:: qqqqqqqqqqqqqqqqqqqqqg==
msExchRecipientTypeDetails: 1
userPassword: {SSHA}aYB1eEgqIBE1yW3qghxwiTHhB+TBQkeDukALTA==
";

/// A name that is one person's alone, wherever there are two brunos.
const BRUNO: &str = "bruno@contoso.com";
/// Each thread has server connections of its own.
const ONE_THREAD: &str = "process.threads = 1";
/// More than is kept to be sent again.
const LONG: usize = 200 << 10;
const SYNC: &str = "/Microsoft-Server-ActiveSync?Cmd=Sync&DeviceId=d&DeviceType=t";

#[track_caller]
fn is_served(answer: &Answer, user: &str, server: &str) {
    assert_eq!((answer.status.as_u16(), answer.user()), (200, user), "{answer:?}");
    assert!(answer.server().starts_with(server), "{answer:?}");
    // What is between the edge and the server is none of the client's business.
    for field in ["WWW-Authenticate", "Persistent-Auth", "Proxy-Support"] {
        assert_eq!(answer.header(field), "", "{answer:?}");
    }
}

/// The edge's own answer, and none that would make a client ask for another password or sign in otherwise.
#[track_caller]
fn is_refused(answer: &Answer, status: u16) {
    assert_eq!((answer.status.as_u16(), answer.server()), (status, ""), "{answer:?}");
    assert_eq!(answer.header("WWW-Authenticate"), "", "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_with_a_password_ends_as_themselves_where_kerberos_alone_is_taken() {
    let site = Site::start().await;
    is_served(&site.get(BRUNO, "/owa/of-bruno").await, "bruno", "cas-opo-");
    is_served(&site.get("CONTOSO\\bruno", "/owa/").await, "bruno", "cas-opo-");
    is_served(&site.get("ana", "/owa/").await, "ana", "cas-lis-"); // the local pool
    is_served(&site.get("duarte", "/exchange/duarte/").await, "duarte", "ex03-opo"); // over http
    is_served(&site.get("elsa", "/exchange/elsa/").await, "elsa", "ex03-lis");
    for (user, server) in [(BRUNO, "cas-opo-"), ("ana", "cas-lis-"), ("duarte", "ex03-opo")] {
        let mut device = site.client().await;
        let answer = device.ask(Method::POST, SYNC).basic(user, PASSWORD).body("x").send().await;
        is_served(&answer, user.split('@').next().expect("a name"), server);
    }
    is_served(&site.post("carla", 10).await, "carla", "cas-mad-1");
    let line = site.edge.says(" path=/owa/of-bruno ").await;
    for part in [" credential=basic ", " sign_in=kerberos ", " proven=bruno@contoso.com ", " status=200 "] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    assert_eq!(site.let_in(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_never_gets_further_and_is_counted_once() {
    let site = Site::planned(Plan { further: "limits.failed_logons_per_user = 3".into(), ..Plan::default() }).await;
    for _ in 0..3 {
        let answer = site.client().await.get("/owa/").basic("ana", "wrong").send().await;
        assert_eq!((answer.status.as_u16(), answer.server()), (401, ""), "{answer:?}");
        let mut offers = answer.headers.get_all("WWW-Authenticate").iter();
        assert!(offers.any(|offer| offer.as_bytes().starts_with(b"Basic ")), "{answer:?}");
    }
    assert_eq!(site.get("ana", "/owa/").await.status, 503, "the fourth is not listened to");
    assert_eq!(site.edge.house.requests_behind(), 0);
    assert!(!site.kdc.log().contains("ana@"), "the directory has counted it; the KDC would have, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_has_a_connection_of_their_own_that_nobody_else_ever_gets() {
    let second = |ldif: &str| {
        let other = Sha1::new().chain_update("Pass-word2").chain_update("salt").finalize();
        let other = BASE64_STANDARD.encode([other.as_slice(), b"salt"].concat());
        let marker = "msExchMailboxGuid:: D9NLmc6T8FuJyVCITpVrSw==\n"; // bruno's
        assert!(ldif.contains(marker));
        ldif.replace(marker, &format!("{marker}userPassword: {{SSHA}}{other}\n"))
    };
    let site = Site::planned(Plan { rewrite: Some(second), further: ONE_THREAD.into(), ..Plan::default() }).await;
    let first = site.get(BRUNO, "/owa/").await;
    is_served(&first, "bruno", "cas-opo-");
    for name in [BRUNO, "contoso\\BRUNO"] {
        let again = site.get(name, "/owa/").await;
        is_served(&again, "bruno", first.server());
        assert_eq!(again.connection(), first.connection(), "theirs by whatever name");
    }

    // Somebody who names him, but proves nothing.
    let mut stranger = site.client().await;
    let challenged = stranger.ask(Method::POST, &format!("{SYNC}&User={BRUNO}")).send().await;
    assert_eq!((challenged.status.as_u16(), challenged.server()), (401, first.server()), "{challenged:?}");
    assert_ne!(challenged.connection(), first.connection());
    let mut mallory = site.client().await;
    let refused = mallory.get("/owa/").basic(BRUNO, "wrong").send().await;
    assert_eq!((refused.status.as_u16(), refused.server()), (401, ""), "{refused:?}");

    // Others at the same site, somebody of the same name among them.
    let others = people::all().into_iter().filter(|person| person.home == "mbx-opo").map(|person| person.name);
    let mut met = 0;
    for other in others.chain(["bruno@fabrikam.com".to_owned(), "FABRIKAM\\bruno".to_owned()]).collect::<Vec<_>>() {
        let answer = site.get(&other, "/owa/").await;
        is_served(&answer, if other.contains("bruno") { "bruno@fabrikam.com" } else { &other }, "cas-opo-");
        assert_ne!(answer.connection(), first.connection(), "{other}");
        met += usize::from(answer.server() == first.server());
    }
    assert!(met > 0, "nobody else was at his server");

    // He himself, once he has another password.
    site.kdc.set_password("bruno", "Pass-word2");
    let changed = site.client().await.get("/owa/").basic(BRUNO, "Pass-word2").send().await;
    is_served(&changed, "bruno", first.server());
    assert_ne!(changed.connection(), first.connection());
    assert_eq!(site.get(BRUNO, "/owa/").await.connection(), first.connection(), "each goes by its own proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_does_with_a_sign_in_every_request_is_served_once() {
    for (keeps, apache) in
        [(Keeps::Telling, false), (Keeps::Silently, false), (Keeps::Silently, true), (Keeps::Nothing, false)]
    {
        let site = Site::planned(Plan { further: ONE_THREAD.into(), ..Plan::default() }).await;
        site.each_server(|server| {
            server.keeps(keeps);
            if apache {
                server.mod_auth_gssapi(); // refuses a token on a connection that is signed in
            }
        });
        let mut sent = 0;
        let (mut of_long, mut of_short) = (Vec::new(), Vec::new());
        // The long ones cannot be repeated, and some of them come first, when nothing is known of the server.
        for length in [LONG, LONG, LONG, 0, 1 << 10, LONG, 0, 1 << 10, 1 << 10, LONG] {
            println!("{keeps:?}, Apache: {apache}, {length} bytes"); // the last of these is what failed, if it did
            let answer = if length == 0 { site.get(BRUNO, "/owa/").await } else { site.post(BRUNO, length).await };
            is_served(&answer, "bruno", "cas-opo-");
            assert!(length == 0 || answer.body.contains(&format!("\nbody: {length} bytes")), "{answer:?}");
            let connections = if length == LONG { &mut of_long } else { &mut of_short };
            connections.push(answer.connection().to_owned());
            sent += 1;
            assert_eq!(site.let_in(), sent);
        }
        let contoso = &site.edge.house.contoso;
        assert_eq!(contoso.tokens_replayed(), 0);
        if keeps == Keeps::Nothing {
            assert_eq!(contoso.tokens_accepted(), sent, "each request has a token of its own");
            assert_eq!(of_short.last(), of_long.last(), "{keeps:?}: once it is known, a connection is used again");
        } else {
            // A sign-in may end at any time, so the long ones each have a connection, and with it a token.
            assert_eq!(contoso.tokens_accepted(), 6, "{keeps:?}, Apache: {apache}");
            let different: HashSet<_> = of_long.iter().chain(&of_short).collect();
            assert_eq!((different.len(), of_long.len()), (6, 5), "{keeps:?}: {of_long:?}, {of_short:?}");
            assert!(of_short.iter().all(|connection| *connection == of_short[0]), "{keeps:?}: {of_short:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_changes_what_it_does_with_a_sign_in_is_found_out() {
    let site = Site::planned(Plan { further: ONE_THREAD.into(), ..Plan::default() }).await;
    let as_apache = |apache: bool| {
        site.each_server(|server| {
            server.resume();
            server.kerberos_only();
            if apache {
                server.mod_auth_gssapi();
            }
        });
    };
    let habits = [(Keeps::Nothing, false), (Keeps::Silently, true), (Keeps::Nothing, false), (Keeps::Telling, false)];
    let mut sent = 0;
    for (keeps, apache) in habits.into_iter().chain([(Keeps::Silently, true), (Keeps::Telling, true)]) {
        println!("{keeps:?}, Apache: {apache}"); // the last of these is what failed, if it did
        as_apache(apache);
        site.each_server(|server| server.keeps(keeps));
        for length in [1 << 10, 0, 1 << 10, 1 << 10, LONG] {
            is_served(&site.post(BRUNO, length).await, "bruno", "cas-opo-");
            sent += 1;
            assert_eq!((site.let_in(), site.edge.house.contoso.tokens_replayed()), (sent, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_who_signed_in_is_told_again() {
    let site = Site::start().await;
    is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    site.each_server(|server| server.keeps(Keeps::Nothing)); // for new sign-ins
    for server in ["cas-opo-1", "cas-opo-2"] {
        let server = site.edge.house.contoso.server(server);
        server.stop().await;
        until("its ports are free", async || server.start().is_ok()).await;
    }
    for _ in 0..3 {
        is_served(&site.post(BRUNO, 1 << 10).await, "bruno", "cas-opo-");
    }
    assert_eq!((site.let_in(), site.edge.house.contoso.tokens_replayed()), (5, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_that_end_are_followed_by_others_and_nobody_notices() {
    let site = Site::planned(Plan { further: ONE_THREAD.into(), ..Plan::default() }).await;
    site.kdc.shorten_tickets("bruno", "5 seconds");
    let first = site.get(BRUNO, "/owa/").await;
    is_served(&first, "bruno", "cas-opo-");
    until("other tickets, and so another connection", async || {
        let answer = site.get(BRUNO, "/owa/").await;
        is_served(&answer, "bruno", "cas-opo-");
        answer.connection() != first.connection()
    })
    .await;
    // The server's key may change in the meantime.
    site.kdc.change_key(&format!("{}.contoso.com", first.server()));
    site.edge.house.contoso.use_keytab(&site.kdc.keytab());
    until("tickets by the new key", async || {
        let server = site.edge.house.contoso.server(first.server());
        server.stop().await; // whoever is signed in stays so
        until("its ports are free", async || server.start().is_ok()).await;
        let answer = site.get(BRUNO, "/owa/").await;
        assert!(matches!(answer.status.as_u16(), 200 | 403), "{answer:?}");
        answer.status == 200
    })
    .await;
    assert_eq!(site.edge.house.contoso.tokens_replayed(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_take_the_ticket_is_told_of_and_the_client_is_not_asked_for_another() {
    let site = Site::start().await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        site.kdc.change_key(&format!("{server}.contoso.com")); // and nobody tells the servers
    }
    for length in [0, 1 << 10, LONG] {
        is_refused(&site.post(BRUNO, length).await, 500); // a SOAP fault
    }
    is_refused(&site.get(BRUNO, "/owa/").await, 403);
    let mut device = site.client().await;
    is_refused(&device.ask(Method::POST, SYNC).basic(BRUNO, PASSWORD).body("x").send().await, 403);
    let line = site.edge.says("event=OWA71").await;
    assert!(line.contains("HTTP/cas-opo-") && line.contains("bruno@contoso.com") && line.contains("cure="), "{line}");
    assert_eq!(site.lines(&["event=OWA71"]), 1, "{}", site.edge.log());
    assert_eq!(site.let_in(), 0);
    assert!(site.edge.house.requests_behind() <= 10, "a refusal is not asked for without end");
    is_served(&site.get("ana", "/owa/").await, "ana", "cas-lis-");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_service_principal_name_is_told_of_by_that_name() {
    let site = Site::start().await;
    site.kdc.remove_service("cas-opo-1.contoso.com");
    // Whoever belongs there is served by the other one.
    for person in people::all().iter().filter(|person| person.home == "mbx-opo").take(8) {
        is_served(&site.get(&person.name, "/owa/").await, &person.name, "cas-opo-2");
    }
    let line = site.edge.says("event=OWA71").await;
    assert!(line.contains("HTTP/cas-opo-1.contoso.com") && line.contains("cure="), "{line}");
    site.kdc.remove_service("cas-opo-2.contoso.com");
    is_refused(&site.get(BRUNO, "/owa/").await, 403);
    until("the other is told of, too", async || site.lines(&["event=OWA71", "HTTP/cas-opo-2.contoso.com"]) > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_kdc_away_those_with_tickets_go_on_and_others_are_asked_to_come_back() {
    let mut site = Site::start().await;
    is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    site.kdc.stop();
    let begun = Instant::now();
    for _ in 0..3 {
        let refused = site.get("ana", "/owa/").await;
        is_refused(&refused, 503);
        assert!(refused.header("Retry-After").parse::<u32>().is_ok(), "{refused:?}");
    }
    assert!(begun.elapsed().as_secs() < 12, "15 s, if each waited: {:?}", begun.elapsed());
    is_served(&site.post(BRUNO, 1 << 10).await, "bruno", "cas-opo-");
    // Over a new connection, too.
    for server in ["cas-opo-1", "cas-opo-2"] {
        let server = site.edge.house.contoso.server(server);
        server.stop().await;
        until("its ports are free", async || server.start().is_ok()).await;
    }
    is_served(&site.post(BRUNO, 1 << 10).await, "bruno", "cas-opo-");
    assert_eq!((site.lines(&["event=FC180"]), site.lines(&["event=FC181"])), (1, 0), "{}", site.edge.log());
    site.kdc.start_again();
    until("ana is served", async || site.get("ana", "/owa/").await.status == 200).await;
    site.edge.says("event=FC181").await;
    assert_eq!((site.lines(&["event=FC180"]), site.lines(&["event=FC181"])), (1, 1), "{}", site.edge.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_kdc_away_whose_ticket_ends_is_asked_to_come_back() {
    let mut site = Site::planned(Plan { further: ONE_THREAD.into(), ..Plan::default() }).await;
    site.kdc.shorten_tickets("bruno", "5 seconds");
    is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    site.kdc.stop();
    until("the ticket's end", async || {
        let answer = site.get(BRUNO, "/owa/").await;
        if answer.status == 200 {
            is_served(&answer, "bruno", "cas-opo-");
            return false;
        }
        is_refused(&answer, 503);
        assert!(answer.header("Retry-After").parse::<u32>().is_ok(), "{answer:?}");
        true
    })
    .await;
    is_refused(&site.get(BRUNO, "/owa/").await, 503); // the connection that he was signed in over is his no more
    site.kdc.start_again();
    until("bruno is served", async || site.get(BRUNO, "/owa/").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_somebody_is_signed_in_over_is_closed_when_nobody_uses_it() {
    let further = format!("{ONE_THREAD}\nupstream.idle_timeout = \"4s\"");
    let site = Site::planned(Plan { further, ..Plan::default() }).await;
    let first = site.get(BRUNO, "/owa/").await;
    is_served(&first, "bruno", "cas-opo-");
    assert_eq!(site.get(BRUNO, "/owa/").await.connection(), first.connection());
    let server = site.edge.house.contoso.server(first.server());
    assert_eq!(server.open_connections(), 1);
    until("it is closed", async || server.open_connections() == 0).await;
    let later = site.get(BRUNO, "/owa/").await;
    is_served(&later, "bruno", first.server());
    assert_ne!(later.connection(), first.connection());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kdc_that_says_nothing_keeps_nobody_waiting_beyond_the_time_out() {
    let site = Site::with("timeout = \"1s\"").await;
    is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    site.kdc.hang();
    let begun = Instant::now();
    let mut asking = JoinSet::new();
    for person in people::all() {
        let plain = site.plain;
        asking
            .spawn(async move { Client::connect(plain).await.get("/owa/").basic(&person.name, PASSWORD).send().await });
    }
    for _ in 0..5 {
        is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    }
    while let Some(answer) = asking.join_next().await {
        let answer = answer.expect("no panic");
        is_refused(&answer, 503);
        assert!(answer.header("Retry-After").parse::<u32>().is_ok(), "{answer:?}");
    }
    assert!(begun.elapsed().as_secs() < 15, "{:?}", begun.elapsed());
    site.kdc.resume();
    until("ana is served", async || site.get("ana", "/owa/").await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_the_kdc_does_not_let_in_is_told_why_and_so_is_the_administrator() {
    let site = Site::start().await;
    site.kdc.lock("ana");
    site.kdc.expire_password("duarte");
    for (user, target, told) in
        [("ana", "/owa/", "Your account cannot be used"), ("duarte", "/exchange/duarte/", "Change your password")]
    {
        let answer = site.get(user, target).await;
        assert_eq!((answer.status.as_u16(), answer.server()), (401, ""), "{answer:?}");
        assert!(answer.body.contains(told), "{answer:?}");
    }
    for (name, reason) in [("ana@contoso.com", "locked"), ("duarte@contoso.com", "password has expired")] {
        let line = site.edge.says(&format!("{name} could not be signed in")).await;
        assert!(line.contains("event=FC185") && line.contains(reason) && line.contains("cure="), "{line}");
    }
    // A password that the directory takes and the KDC does not is wrong: it was changed a moment ago.
    site.kdc.set_password("elsa", "Pass-word2");
    let elsa = site.get("elsa", "/exchange/elsa/").await;
    assert_eq!((elsa.status.as_u16(), elsa.server()), (401, ""), "{elsa:?}");
    assert_eq!(site.let_in(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_signed_in_is_offered_basic_although_the_server_takes_none() {
    let site = Site::start().await;
    for target in ["/owa/", "/EWS/Exchange.asmx", "/exchange/"] {
        let challenged = site.client_over_tls().await.get(target).send().await;
        assert_eq!(challenged.status, 401, "{challenged:?}");
        let offers = challenged.headers.get_all("WWW-Authenticate").iter().map(|offer| offer.to_str().expect("text"));
        let offers: Vec<_> = offers.collect();
        assert_eq!(offers.iter().filter(|offer| offer.starts_with("Basic realm=")).count(), 1, "{target}: {offers:?}");
        assert!(offers.contains(&"Negotiate"), "{target}: {offers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_offered_basic_where_their_password_could_be_overheard() {
    let site = Site::start().await;
    for target in ["/owa/", "/EWS/Exchange.asmx", "/exchange/"] {
        let challenged = site.client().await.get(target).send().await;
        let offers: Vec<_> =
            challenged.headers.get_all("WWW-Authenticate").iter().map(http::HeaderValue::as_bytes).collect();
        assert_eq!((challenged.status.as_u16(), offers), (401, vec![&b"Negotiate"[..]]), "{target}: {challenged:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_and_no_token_is_ever_written() {
    let mut site = Site::planned(Plan { further: "log.filter = \"trace\"".into(), ..Plan::default() }).await;
    for user in [BRUNO, "ana", "duarte", "helena", "nobody"] {
        for target in ["/owa/", "/EWS/Exchange.asmx", "/exchange/"] {
            site.get(user, target).await;
        }
    }
    site.each_server(|server| server.keeps(Keeps::Nothing));
    is_served(&site.get(BRUNO, "/owa/").await, "bruno", "cas-opo-");
    site.kdc.change_key("cas-mad-1.contoso.com");
    site.post("carla", 10).await;
    site.kdc.stop();
    site.get("elsa", "/exchange/elsa/the-last").await;
    site.edge.says(" path=/exchange/elsa/the-last ").await;
    let log = site.edge.log();
    assert!(!log.contains(PASSWORD), "{log}");
    for user in [BRUNO, "ana", "duarte", "carla", "elsa"] {
        assert!(!log.contains(credential(user).trim_start_matches("Basic ")), "{user}");
    }
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    let token = log.as_bytes().split(|byte| !is_base64(*byte)).find(|run| run.len() > 200);
    assert_eq!(token.map(String::from_utf8_lossy), None, "a token, by its looks");
    // Nor is anything of them left beside the log.
    for file in fs::read_dir(site.edge.house.folder.path()).expect("the folder") {
        let file = file.expect("a file").path();
        if file.is_file() && file.file_name().is_some_and(|name| name != "contoso.ldif") {
            let text = fs::read(&file).expect("readable");
            assert!(!String::from_utf8_lossy(&text).contains(PASSWORD), "{}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_people_at_once_nobody_is_ever_served_as_another_even_while_the_kdc_is_away() {
    let mut site = Site::with("timeout = \"20s\"").await; // all of them come at once
    site.edge.house.contoso.server("cas-lis-2").keeps(Keeps::Silently);
    site.edge.house.contoso.server("cas-opo-1").keeps(Keeps::Nothing);
    site.edge.house.contoso.server("cas-opo-2").mod_auth_gssapi();
    let others = [(BRUNO, "bruno"), ("bruno@fabrikam.com", "bruno@fabrikam.com"), ("ana", "ana")];
    let everybody = people::all().into_iter().map(|person| (person.name.clone(), person.name));
    // These come over two connections at once.
    let others = others.into_iter().chain(others).map(|(name, account)| (name.to_owned(), account.to_owned()));
    let everybody = everybody.chain(others);
    let everybody: Vec<_> = everybody.collect();
    let mut owners = HashMap::new();
    let mut round = async |requests: usize| {
        let mut tasks = JoinSet::new();
        for (name, account) in everybody.clone() {
            let plain = site.plain;
            tasks.spawn(async move {
                let mut client = Client::connect(plain).await;
                let mut met = HashSet::new();
                for number in 0..requests {
                    let posts = number % 3 == 0;
                    let (method, target) =
                        if posts { (Method::POST, "/EWS/Exchange.asmx") } else { (Method::GET, "/owa/") };
                    let body = vec![b'x'; if posts { 1 << 10 } else { 0 }];
                    let answer = client.ask(method, target).basic(&name, PASSWORD).body(body).send().await;
                    assert_eq!((answer.status.as_u16(), answer.user()), (200, account.as_str()), "{answer:?}");
                    met.insert(answer.connection().to_owned());
                }
                (account, met)
            });
        }
        // Strangers among them are nobody, whatever connections there are.
        for _ in 0..10 {
            let plain = site.plain;
            tasks.spawn(async move {
                let mut client = Client::connect(plain).await;
                let mut met = HashSet::new();
                for _ in 0..requests {
                    let answer = client.get("/owa/").send().await;
                    assert_eq!((answer.status.as_u16(), answer.user()), (401, "-"), "{answer:?}");
                    met.insert(answer.connection().to_owned());
                }
                (String::new(), met)
            });
        }
        while let Some(done) = tasks.join_next().await {
            let (account, met) = done.expect("everybody is themselves");
            for connection in met {
                let owner = owners.entry(connection.clone()).or_insert_with(|| account.clone());
                assert_eq!(*owner, account, "connection {connection} has served two");
            }
        }
    };
    round(20).await;
    site.kdc.stop();
    round(10).await;
    let contoso = &site.edge.house.contoso;
    assert_eq!(site.let_in(), u64::try_from(everybody.len() * 30).expect("few"), "each was delivered once");
    assert_eq!(contoso.tokens_replayed(), 0);
}
