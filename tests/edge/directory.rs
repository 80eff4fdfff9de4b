//! The edge and its directory: a real one, a broken one, one that changes.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use firstcas::{config::Config, events::whole_chain};
use http::Method;

use crate::{
    admin::ADMIN,
    harness::{House, Plan, start_edge, until},
    openldap::{self, BIND_DN, BIND_PASSWORD, Slapd, Tls},
    record,
    reload::moved_to_lisbon,
};

const CONTOSO: &str = include_str!("../../conf/contoso.ldif");
const SERVERS: &str = "CN=Servers,CN=Exchange Administrative Group (FYDIBOHF23SPDLT),CN=Administrative Groups,CN=Contoso,\
                       CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=com";

/// Contoso behind an edge whose directory is a running slapd.
struct WithSlapd {
    house: House,
    slapd: Slapd,
    further: String,
}

impl WithSlapd {
    async fn start(further: &str, adjust: Option<fn(&mut Config)>) -> Self {
        WithSlapd::loaded(CONTOSO.to_owned(), further, adjust).await
    }

    async fn loaded(ldif: String, further: &str, adjust: Option<fn(&mut Config)>) -> Self {
        let loading = tokio::task::spawn_blocking(move || Slapd::load(&ldif, &Tls::None));
        let slapd = loading.await.expect("slapd");
        let password = slapd.ldif_path().with_file_name("password");
        std::fs::write(&password, format!("{BIND_PASSWORD}\n")).expect("written");
        let further = format!(
            "directory.ldap = {{ urls = [\"{}\"], bind_dn = \"{BIND_DN}\", bind_password_file = \"{}\", \
             users_base = \"DC=contoso,DC=com\", configuration_base = \"CN=Configuration,DC=contoso,DC=com\", \
             connect_timeout = \"1s\", search_timeout = \"2s\" }}\n{further}",
            slapd.url("ldap"),
            password.display()
        );
        let house = House::planned(Plan { further: further.clone(), adjust, ..Plan::default() }).await;
        WithSlapd { house, slapd, further }
    }

    /// Ends the edge, as SIGINT does, and slapd.
    async fn stop_both(&mut self) {
        let edge = self.house.edge.take().expect("a running edge");
        tokio::task::spawn_blocking(|| drop(edge)).await.expect("it ends");
        self.slapd.stop();
    }

    /// Starts another edge with the same configuration.
    async fn start_edge(&mut self) {
        let plan = Plan { further: self.further.clone(), ..Plan::default() };
        self.house.edge = Some(start_edge(&self.house.contoso, &self.house.folder, plan).await);
    }

    /// Starts slapd again.
    async fn start_slapd(self) -> Self {
        let WithSlapd { house, mut slapd, further } = self;
        let started = tokio::task::spawn_blocking(move || {
            slapd.start();
            slapd
        });
        WithSlapd { house, slapd: started.await.expect("slapd starts"), further }
    }

    /// Takes servers out of the directory, with all that is theirs.
    async fn remove_servers(&self, names: &[&str]) {
        let url = self.slapd.url("ldap");
        let dns: Vec<_> = names.iter().map(|name| format!("CN={name},{SERVERS}")).collect();
        let removed = tokio::task::spawn_blocking(move || {
            let account = ["-D", BIND_DN, "-w", BIND_PASSWORD];
            Command::new("ldapdelete").args(["-r", "-x", "-H", url.as_str()]).args(account).args(dns).status()
        });
        let removed = removed.await.expect("no panic").expect("ldapdelete is installed (Debian: ldap-utils)");
        assert!(removed.success(), "ldapdelete failed");
    }

    /// Changes the directory while it runs.
    async fn modify(&self, ldif: String) {
        let url = self.slapd.url("ldap");
        let modified = tokio::task::spawn_blocking(move || openldap::modify(&mut openldap::ldapmodify(&url), &ldif));
        modified.await.expect("no panic");
    }
}

fn refresh_often(config: &mut Config) {
    config.routing.topology_refresh = Duration::from_millis(100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_show_a_directory_that_goes_and_comes_back() {
    let mut with_slapd = WithSlapd::start(ADMIN, None).await;
    let house = &with_slapd.house;
    house.get("bruno", "/owa/").await;
    let metrics = house.metrics().await;
    assert_eq!((metrics.sum("firstcas_ldap_server_up", &[]), metrics.sum("firstcas_directory_up", &[])), (1, 1));
    assert!(metrics.sum("firstcas_ldap_searches_total", &["server=\"ldap://"]) >= 2, "the topology, and bruno");
    assert_eq!(metrics.sum("firstcas_ldap_search_failures_total", &[]), 0);
    assert_eq!(metrics.sum("firstcas_cache_entries", &[]), 1);

    with_slapd.slapd.stop();
    let house = &with_slapd.house;
    until("it is seen that the directory is away", async || {
        house.metrics().await.sum("firstcas_directory_up", &[]) == 0
    })
    .await;
    assert_eq!(house.metrics().await.sum("firstcas_ldap_server_up", &[]), 0);
    let known = house.look("/explain?user=bruno&protocol=owa").await;
    assert!(known.body.contains("proxied to cas-opo-"), "by what is remembered: {known:?}");
    assert_eq!(house.look("/explain?user=ana&protocol=owa").await.status, 503, "nothing is remembered of ana");

    let with_slapd = with_slapd.start_slapd().await;
    until("it is seen that it is back", async || {
        let metrics = with_slapd.house.metrics().await;
        metrics.sum("firstcas_directory_up", &[]) + metrics.sum("firstcas_ldap_server_up", &[]) == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_routed_alike_by_a_real_ldap_directory() {
    let WithSlapd { house, slapd: _slapd, .. } = WithSlapd::start("", None).await;
    for (user, method, target, status, server, said) in [
        ("ana", Method::GET, "/owa/", 200, "cas-lis-", ""),
        ("CONTOSO\\bruno", Method::GET, "/owa/", 200, "cas-opo-", ""),
        ("bruno.barros@contoso.com", Method::POST, "/EWS/Exchange.asmx", 200, "cas-opo-", ""),
        ("bruno", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno", 200, "cas-opo-", ""),
        ("carla@contoso.com", Method::GET, "/owa/", 200, "", "href=\"https://mail.madrid.contoso.com/owa"),
        ("carla", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla", 451, "", ""),
        ("carla", Method::POST, "/EWS/Exchange.asmx", 200, "cas-mad-1", ""),
        ("duarte", Method::GET, "/exchange/duarte/", 200, "ex03-opo", ""),
        ("duarte", Method::GET, "/owa/", 302, "", ""),
        ("elsa", Method::GET, "/exchange/elsa/", 200, "ex03-lis", ""),
        ("filipe", Method::GET, "/owa/", 403, "", "without a Client Access Server"),
        ("gil", Method::GET, "/owa/", 403, "", "Integrated Windows authentication"),
        ("helena", Method::GET, "/owa/", 403, "", "no mailbox of this name"),
        ("nobody", Method::GET, "/owa/", 401, "", ""),
    ] {
        let answer = house.ask(user, method.clone(), target).await;
        assert_eq!(answer.status, status, "{user} {target}: {answer:?}");
        assert!(answer.server().starts_with(server), "{user} {target}: {answer:?}");
        assert!(answer.body.contains(said), "{user} {target}: {answer:?}");
        if server.is_empty() {
            assert_eq!(answer.server(), "", "{user} {target}");
        }
    }
    for user in ["carla", "gil", "filipe"] {
        let mut client = house.client().await;
        assert_eq!(client.get("/owa/").basic(user, "wrong").send().await.status, 401, "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_directory_away_those_it_remembers_are_served_and_others_asked_to_come_back() {
    let WithSlapd { house, mut slapd, .. } = WithSlapd::start("", None).await;
    assert_eq!(house.get("ana", "/owa/").await.status, 200);
    assert_eq!(house.get("carla", "/owa/").await.status, 200);
    slapd.stop();
    assert_eq!(house.get("ana", "/owa/").await.user(), "ana");
    assert!(house.get("carla", "/owa/").await.body.contains("mail.madrid.contoso.com"), "even her proof is remembered");
    for (method, target) in [(Method::GET, "/owa/"), (Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno")]
    {
        let bruno = house.ask("bruno", method, target).await;
        assert_eq!(bruno.status, 503, "{bruno:?}");
        assert!(bruno.header("Retry-After").parse::<u32>().is_ok(), "{bruno:?}");
    }
    let url = slapd.url("ldap");
    let away = ["ERROR firstcas::event", "event=FC121", url.as_str()];
    let event = record::line(&away).await;
    assert!(!event.contains(BIND_PASSWORD), "{event}");
    assert_eq!(record::lines(&away).len(), 1, "it is told once, not for each request");
    let mut stranger = house.client().await;
    assert_eq!(stranger.get("/owa/").send().await.status, 401, "who names nobody is challenged as ever");
    let slapd = tokio::task::spawn_blocking(move || {
        slapd.start();
        slapd
    });
    let _slapd = slapd.await.expect("slapd starts");
    until("bruno is served again", async || house.get("bruno", "/owa/").await.user() == "bruno").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_topology_is_followed_and_a_broken_one_is_not() {
    let with = WithSlapd::start("", Some(refresh_often)).await;
    let vdir = |name: &str, server: &str| {
        format!("dn: CN={name} (Default Web Site),CN=HTTP,CN=Protocols,CN={server},{SERVERS}\nchangetype: modify\n")
    };
    let house = &with.house;
    assert!(house.get("carla", "/owa/").await.body.contains("\"https://mail.madrid.contoso.com/owa"));
    with.modify(
        vdir("owa", "cas-mad-1")
            + "replace: msExchExternalHostName\nmsExchExternalHostName: https://correo.contoso.com/owa\n",
    )
    .await;
    until("the new address is told", async || {
        house.get("carla", "/owa/").await.body.contains("\"https://correo.contoso.com/owa")
    })
    .await;
    let sentence = "cas-mad-1: the ExternalURL of /owa changed from https://mail.madrid.contoso.com/owa to \
                    https://correo.contoso.com/owa";
    record::line(&["INFO firstcas::event", "event=FC122", sentence]).await;
    // Without an ExternalURL Madrid is proxied to.
    with.modify(vdir("owa", "cas-mad-1") + "delete: msExchExternalHostName\n").await;
    until("carla is proxied", async || house.get("carla", "/owa/").await.server() == "cas-mad-1").await;

    // An account that may read nothing any more gets an empty answer. That is no topology.
    let WithSlapd { house, mut slapd, .. } = with;
    slapd.stop();
    record::line(&["event=FC121", "the last good topology stays in force", slapd.url("ldap").as_str()]).await;
    assert_eq!(house.get("carla", "/owa/").await.server(), "cas-mad-1");
    assert!(house.get("carla", "/EWS/Exchange.asmx").await.status == 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_change_while_the_directory_is_away_but_another_directory_has_to_answer() {
    let WithSlapd { house, mut slapd, .. } = WithSlapd::start("", None).await;
    assert_eq!(house.get("bruno", "/owa/").await.user(), "bruno");
    let timeout = |house: &House| house.edge.as_ref().expect("it runs").in_force().config.timeouts.client;
    slapd.stop();
    house.edit_config("[resolve]", "[timeouts]\nclient = \"7s\"\n[resolve]");
    assert_eq!(house.reload().await.expect("it is good").version, 2);
    assert_eq!(timeout(&house), Duration::from_secs(7));
    assert_eq!(house.get("bruno", "/owa/").await.user(), "bruno", "he is still known");

    house.edit_config("\"7s\"", "\"8s\"");
    house.edit_config(slapd.url("ldap").as_str(), "ldap://127.0.0.1:9");
    let refused = house.reload().await.expect_err("nobody answers there");
    assert!(whole_chain(&refused).contains("127.0.0.1:9"), "{refused:?}");
    assert_eq!(timeout(&house), Duration::from_secs(7));
    assert_eq!(house.get("bruno", "/owa/").await.user(), "bruno");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_only_tried_is_not_missed() {
    let WithSlapd { house, slapd, .. } = WithSlapd::start("", None).await;
    house.edit_config(slapd.url("ldap").as_str(), "ldap://127.0.0.1:9");
    house.reload().await.expect_err("nobody answers there");
    assert!(house.edge.as_ref().expect("it runs").in_force().shared.is_directory_up(), "the one in force answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_the_configuration_does_not_fit_leaves_the_last_good_one() {
    let with = WithSlapd::start("", Some(refresh_often)).await;
    assert_eq!(with.house.get("ana", "/owa/").await.status, 200);
    with.modify(
        "dn: CN=Lisbon,CN=Sites,CN=Configuration,DC=contoso,DC=com\nchangetype: modrdn\nnewrdn: CN=Lisboa\ndeleteoldrdn: 1\n"
            .into(),
    )
    .await;
    record::line(&["event=FC121", "the last good topology stays in force", "no AD site `Lisbon`"]).await;
    assert_eq!(with.house.get("ana", "/owa/").await.status, 200);
}

/// The object of `conf/contoso.ldif` whose DN begins so, with changes, as LDIF.
fn like(dn: &str, changes: &[(&str, &str)]) -> String {
    let unfolded = CONTOSO.replace("\n ", "");
    let mut objects = unfolded.split("\n\n").map(|object| {
        object.lines().filter(|line| !line.starts_with('#')).flat_map(|line| [line, "\n"]).collect::<String>()
    });
    let object = objects.find(|object| object.starts_with(&format!("dn: {dn}"))).expect("Contoso has it");
    let other = changes.iter().fold(object, |object, (from, to)| {
        assert!(object.contains(from), "{from} in {object}");
        object.replace(from, to)
    });
    format!("{other}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_entries_cost_their_own_people_the_mail_and_nobody_else() {
    let bruno = "CN=Bruno Barros";
    let guid = "msExchMailboxGuid:: D9NLmc6T8FuJyVCITpVrSw==\n";
    let person = |name: &str, more: &[(&str, &str)]| {
        let changes = [("Bruno Barros", name), ("bruno.barros", name), ("bruno", name), (guid, "")];
        like(bruno, &[&changes, more].concat())
    };
    let people = [
        // On a server that the directory does not have.
        person("orfeu", &[("cn=mbx-opo", "cn=mbx-gone"), ("CN=mbx-opo", "CN=mbx-gone")]),
        // On a server without a site.
        like(
            "CN=mbx-opo,",
            &[
                ("mbx-opo", "mbx-lost"),
                ("MBX-OPO", "MBX-LOST"),
                ("msExchServerSite: CN=Porto,CN=Sites,CN=Configuration,DC=contoso,DC=com\n", ""),
            ],
        ),
        person("perdida", &[("cn=mbx-opo", "cn=mbx-lost"), ("CN=mbx-opo", "CN=mbx-lost")]),
        // Two with one address.
        person("dupla1", &[("smtp:dupla1@contoso.com", "smtp:dupla@contoso.com")]),
        person("dupla2", &[("smtp:dupla2@contoso.com", "smtp:dupla@contoso.com")]),
        // A server whose virtual directory has a URL that is none.
        like("CN=cas-bra-1,", &[("cas-bra-1", "cas-bra-2"), ("CAS-BRA-1", "CAS-BRA-2")]),
        like("CN=Protocols,CN=cas-bra-1,", &[("cas-bra-1", "cas-bra-2")]),
        like("CN=HTTP,CN=Protocols,CN=cas-bra-1,", &[("cas-bra-1", "cas-bra-2")]),
        like(
            "CN=owa (Default Web Site),CN=HTTP,CN=Protocols,CN=cas-bra-1,",
            &[("Name: https://cas-bra-1.contoso.com/owa", "Name: https://[cas-bra-1/owa"), ("cas-bra-1", "cas-bra-2")],
        ),
    ];
    let house = House::planned(Plan { people: people.join("\n"), ..Plan::default() }).await;
    for (user, words) in [("orfeu", "does not say where"), ("perdida", "does not say where")] {
        let answer = house.get(user, "/owa/").await;
        assert_eq!(answer.status, 403, "{user}: {answer:?}");
        assert!(answer.body.contains(words), "{user}: {answer:?}");
        record::line(&["event=FC120", user, "cure="]).await;
    }
    record::line(&["event=FC120", "owa (Default Web Site)", "cas-bra-2"]).await;
    // The shared address is nobody's; their own names still work.
    let shared = house.get("dupla@contoso.com", "/owa/").await;
    assert_eq!(shared.status, 403, "{shared:?}");
    assert!(shared.body.contains("More than one mailbox"), "{shared:?}");
    let mut client = house.client().await;
    assert_eq!(client.get("/owa/").basic("dupla@contoso.com", "wrong").send().await.status, 401);
    for user in ["dupla1", "dupla2"] {
        assert!(house.get(user, "/owa/").await.server().starts_with("cas-opo-"), "{user}");
    }
    for (user, server) in [("ana", "cas-lis-"), ("bruno", "cas-opo-")] {
        assert!(house.get(user, "/owa/").await.server().starts_with(server), "{user}");
    }
    assert!(house.get("ana", "/owa/bruno@contoso.com/").await.server().starts_with("cas-opo-"));
    let ambiguous = house.get("ana", "/owa/dupla@contoso.com/").await;
    assert_eq!(ambiguous.status, 403, "{ambiguous:?}");
    assert!(ambiguous.body.contains("More than one mailbox"), "{ambiguous:?}");
    record::line(&["event=FC120", "dupla@contoso.com"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_starts_while_the_directory_is_away_serves_whom_it_knew() {
    let mut with = WithSlapd::start("process.state_dir = \"@FOLDER@\"", None).await;
    assert_eq!(with.house.get("bruno", "/owa/").await.user(), "bruno");
    with.stop_both().await;
    with.start_edge().await;
    let url = with.slapd.url("ldap").to_string();
    let told = record::line(&["event=FC121", "started without directory, with the topology of", &url]).await;
    assert!(told.contains(" s ago that was read from ldap://127.0.0.1"), "{told}");
    assert!(with.house.get("bruno", "/owa/").await.server().starts_with("cas-opo-"), "he is known from before");
    assert_eq!(with.house.get("bruno", "/EWS/Exchange.asmx").await.user(), "bruno");
    let asked = Instant::now();
    let ana = with.house.get("ana", "/owa/").await;
    assert_eq!(ana.status, 503, "{ana:?}");
    assert!(ana.header("Retry-After").parse::<u32>().is_ok(), "{ana:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "promptly, not after {:?}", asked.elapsed());

    let with = with.start_slapd().await;
    until("ana is served", async || with.house.get("ana", "/owa/").await.user() == "ana").await;
    record::line(&["event=FC123", "the directory answers again"]).await;
    // What came with the topology is looked at from now on.
    with.remove_servers(&["cas-opo-2"]).await;
    with.house.edge.as_ref().expect("a running edge").read_topology_again();
    record::line(&["event=FC122", "cas-opo-2 left Porto"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_that_cannot_be_read_again_are_told_of_and_the_edge_starts_without_them() {
    let mut with = WithSlapd::start("process.state_dir = \"@FOLDER@\"", None).await;
    assert_eq!(with.house.get("bruno", "/owa/").await.user(), "bruno");
    with.stop_both().await;
    let file = with.house.folder.path().join("people.kept");
    let mut people = std::fs::read(&file).expect("people are kept");
    people.truncate(people.len() - 5);
    std::fs::write(&file, people).expect("written");
    with.start_edge().await;
    let shown = file.display().to_string();
    let told = record::line(&["event=FC129", &shown, "is damaged or cut short", "cure="]).await;
    assert!(told.contains(&format!("{shown}.bad-1")), "{told}");
    assert_eq!(with.house.get("bruno", "/owa/").await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_of_another_directory_are_not_believed_at_the_next_start() {
    let mut with = WithSlapd::start("process.state_dir = \"@FOLDER@\"", None).await;
    assert!(with.house.get("bruno", "/owa/").await.server().starts_with("cas-opo-"));
    with.stop_both().await;
    let other = || Slapd::load(&moved_to_lisbon(CONTOSO), &Tls::None);
    let other = tokio::task::spawn_blocking(other).await.expect("another slapd");
    with.further = with.further.replace(with.slapd.url("ldap").as_str(), other.url("ldap").as_str());
    with.start_edge().await;
    assert!(with.house.get("bruno", "/owa/").await.server().starts_with("cas-lis-"), "by the first request already");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_lost_most_of_its_servers_is_believed_when_another_reading_confirms_it() {
    let with = WithSlapd::start("directory.watch_interval = \"10s\"", None).await;
    let is_redirected = async || with.house.get("carla", "/owa/").await.body.contains("mail.madrid.contoso.com");
    let read_again = || with.house.edge.as_ref().expect("a running edge").read_topology_again();
    assert!(is_redirected().await);
    with.remove_servers(&["cas-bra-1", "mbx-bra", "cas-mad-1", "mbx-mad", "mbx-far", "cas-opo-2", "cas-lis-2"]).await;
    read_again();
    let doubted =
        record::line(&["event=FC121", "which lacks 7 of 13 servers: cas-bra-1, cas-lis-2, cas-mad-1, "]).await;
    assert!(doubted.contains("the last good topology stays in force"), "{doubted}");
    assert!(is_redirected().await, "it may be a directory in the middle of replication");
    read_again();
    record::line(&["event=FC122", "cas-mad-1 left Madrid"]).await;
    assert!(!is_redirected().await);
    assert_eq!(with.house.get("ana", "/owa/").await.user(), "ana");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_refuses_the_account_is_told_of() {
    let WithSlapd { house, mut slapd, .. } = WithSlapd::start("", None).await;
    slapd.stop();
    let file = slapd.ldif_path().with_file_name("slapd.conf");
    let settings = std::fs::read_to_string(&file).expect("its settings");
    std::fs::write(&file, settings.replace(&format!("rootpw {BIND_PASSWORD}"), "rootpw changed")).expect("written");
    let slapd = tokio::task::spawn_blocking(move || {
        slapd.start();
        slapd
    });
    let _slapd = slapd.await.expect("slapd starts");
    let told = ["event=FC121", &format!("the directory refused the bind as `{BIND_DN}`")];
    for _ in 0..3 {
        assert_eq!(house.get("ana", "/owa/").await.status, 503);
    }
    record::line(&told).await;
    assert_eq!(record::lines(&told).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_of_a_file_whose_password_cannot_be_compared_is_told_of() {
    let changes = [("Helena Henriques", "Cripta"), ("helena.henriques", "cripta"), ("helena", "cripta")];
    let helena = like("CN=Helena Henriques", &[]);
    let changes: Vec<_> = changes.into_iter().filter(|(from, _)| helena.contains(from)).collect();
    let person: String = like("CN=Helena Henriques", &changes)
        .lines()
        .filter(|line| !line.starts_with("userPassword"))
        .flat_map(|line| [line, "\n"])
        .collect();
    let people = format!("{}\nuserPassword: {{CRYPT}}$6$x$y\n", person.trim_end());
    let house = House::planned(Plan { people, ..Plan::default() }).await;
    for _ in 0..3 {
        assert_eq!(house.get("cripta", "/owa/").await.status, 503);
    }
    let told = ["WARN firstcas::event", "event=FC120", "CN=Cripta,"];
    record::line(&told).await;
    assert_eq!(record::lines(&told).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_cannot_sign_in_learns_why_by_the_right_password_and_the_administrator_always() {
    let people = ["52e", "532", "533", "773", "775"].map(|code| openldap::refused(code, ""));
    let ldif = [&[CONTOSO.to_owned(), openldap::OF_REFUSED.to_owned()][..], &people].concat().join("\n");
    let with_slapd = WithSlapd::loaded(ldif, "limits.failed_logons_per_user = 2\n", None).await;
    let house = &with_slapd.house;
    for (user, words, reason) in [
        ("data-532", "Your password has expired, or must be changed", "the password has expired"),
        ("data-773", "Your password has expired, or must be changed", "the password must be changed before the first"),
        ("data-533", "Your account is disabled, has expired", "the account is disabled"),
    ] {
        for _ in 0..4 {
            let answer = house.get(user, "/owa/").await;
            assert_eq!(answer.status, 401, "{user}, who has guessed nothing: {answer:?}");
            assert!(answer.body.contains(words), "{user}: {answer:?}");
            assert!(answer.headers.get_all("WWW-Authenticate").iter().any(|it| it.as_bytes().starts_with(b"Basic")));
        }
        let told = ["event=FC185", &format!("{user} cannot sign in: {reason}")];
        record::line(&told).await;
        assert_eq!(record::lines(&told).len(), 1, "once a minute");
    }
    let (wrong, locked) = (house.get("data-52e", "/owa/").await, house.get("data-775", "/owa/").await);
    assert_eq!((locked.status, &locked.body), (wrong.status, &wrong.body), "what a guesser learns");
    assert!(locked.status == 401 && locked.body.contains("or the account is locked"), "{locked:?}");
    record::line(&["event=FC185", "data-775 cannot sign in: the account is locked"]).await;
    house.get("data-775", "/owa/").await;
    assert_eq!(house.get("data-775", "/owa/").await.status, 503, "whoever guesses there is stopped as elsewhere");
}
