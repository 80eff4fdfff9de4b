//! A new configuration comes in force while the edge serves, or does not; nobody loses a connection by either.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use firstcas::{events::whole_chain, running::Reloaded};
use http::Method;

use crate::{
    harness::{Client, DEADLINE, House, Plan, until, within},
    record,
    sign_in::{ntlm, sign_in},
};

fn nothing_waits(version: u64) -> Reloaded {
    Reloaded { version, waits: Vec::new() }
}

/// Whether a path is passed on, to servers that have nothing there.
async fn is_open(house: &House, path: &str) -> bool {
    let answer = house.get("ana", path).await;
    assert_eq!(answer.status, 404);
    !answer.server().is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_configuration_comes_in_force_at_once() {
    let house = House::with("routing.open_paths = [\"/one\"]").await;
    assert!(is_open(&house, "/one/").await);
    assert!(!is_open(&house, "/two/").await);
    house.edit_config("[\"/one\"]", "[\"/two\"]");
    assert_eq!(house.reload().await.expect("it is good"), nothing_waits(2));
    assert!(!is_open(&house, "/one/").await);
    assert!(is_open(&house, "/two/").await);
    let file = house.config_file().display().to_string();
    record::line(&["event=FC160", &file, "is in force, as configuration 2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_configuration_changes_nothing_and_every_mistake_is_told() {
    let house = House::with("routing.open_paths = [\"/one\"]").await;
    house.edit_config("[\"/one\"]", "[\"/two\"]\nrouting.no_such_key = 1\ntimeouts.client = \"soon\"");
    let refused = house.reload().await.expect_err("it is bad");
    let told = whole_chain(&refused);
    assert!(told.contains("no_such_key") && told.contains("timeouts.client"), "{told}");
    let file = house.config_file().display().to_string();
    let line = record::line(&["event=FC161", &file, "configuration 1 stays in force", "cure="]).await;
    assert!(line.contains("no_such_key") && line.contains("timeouts.client"), "{line}");
    assert!(is_open(&house, "/one/").await);
    assert!(!is_open(&house, "/two/").await);
    assert_eq!(house.edge.as_ref().expect("it runs").in_force().version, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_is_not_in_the_directory_is_refused_with_all_that_came_with_it() {
    let house = House::with("routing.open_paths = [\"/one\"]").await;
    house.edit_config("[\"/one\"]", "[\"/two\"]");
    house.edit_config("local_site = \"Lisbon\"", "local_site = \"Atlantis\"");
    let refused = house.reload().await.expect_err("there is no such site");
    assert!(whole_chain(&refused).contains("Atlantis"), "{refused:?}");
    assert!(!is_open(&house, "/two/").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_ldif_file_is_read_and_a_bad_one_is_not_believed() {
    let house = House::start().await;
    assert!(house.get("bruno", "/owa/").await.server().starts_with("cas-opo-"));
    let file = house.folder.path().join("contoso.ldif");
    let good = std::fs::read_to_string(&file).expect("the LDIF file");
    std::fs::write(&file, "this is no LDIF\n").expect("written");
    for _ in 0..2 {
        let refused = house.reload().await.expect_err("it cannot be read");
        assert!(whole_chain(&refused).contains("contoso.ldif:1"), "{refused:?}");
    }
    assert!(house.get("bruno", "/owa/").await.server().starts_with("cas-opo-"));

    std::fs::write(&file, moved_to_lisbon(&good)).expect("written");
    assert_eq!(house.reload().await.expect("it is good"), nothing_waits(2));
    assert!(house.get("bruno", "/owa/").await.server().starts_with("cas-lis-"));
}

/// Bruno's entry with Lisbon's mailbox server as its home.
pub fn moved_to_lisbon(ldif: &str) -> String {
    let unfolded = ldif.replace("\n ", "");
    let mut entries: Vec<_> = unfolded.split("\n\n").map(str::to_owned).collect();
    let is_brunos = |entry: &&mut String| entry.lines().any(|line| line == "sAMAccountName: bruno");
    let bruno = entries.iter_mut().find(is_brunos).expect("bruno");
    *bruno = bruno.replace("mbx-opo", "mbx-lis");
    entries.join("\n\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_cannot_change_is_said_and_stays() {
    let house = House::with("process.threads = 1\nlimits.client_connections = 50\npins.connections_max = 20").await;
    let (plain, tls) = (house.plain(), house.tls());
    house.edit_config("process.threads = 1", "process.threads = 2");
    house.edit_config("client_connections = 50", "client_connections = 60");
    house.edit_config("[resolve]", "[[listener]]\naddress = \"127.0.0.1:9\"\n[resolve]");
    let Reloaded { version, waits } = house.reload().await.expect("it is good");
    assert_eq!(version, 2);
    let expected = [
        "process.threads stays 1, and is not 2 yet",
        "limits.client_connections stays 50, and is not 60 yet",
        "nothing listens on 127.0.0.1:9 yet",
    ];
    assert_eq!(waits, expected);
    for sentence in expected {
        record::line(&["event=FC162", &house.config_file().display().to_string(), sentence]).await;
    }
    assert_eq!((house.plain(), house.tls()), (plain, tls));
    assert_eq!(house.get("ana", "/owa/").await.user(), "ana");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_that_is_not_wanted_any_more_needs_its_files_no_more() {
    let house = House::start().await;
    let place = house.folder.path().display().to_string();
    let tls = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"{place}/edge.pem\", key = \"{place}/edge.key\" }}\n"
    );
    house.edit_config(&tls, "");
    std::fs::remove_file(house.folder.path().join("edge.pem")).expect("removed");
    let Reloaded { waits, .. } = house.reload().await.expect("it is good");
    assert_eq!(waits, ["127.0.0.1:0 is still listened on"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn held_and_signed_in_clients_live_through_a_reload() {
    let house = House::start().await;
    house.contoso.hold_pings(Duration::from_millis(1500));
    let before = house.requests_behind();
    let mut phone = house.client().await;
    let ping = tokio::spawn(async move {
        let ping = "/Microsoft-Server-ActiveSync?Cmd=Ping&User=bruno&DeviceId=d";
        phone.ask(Method::POST, ping).basic("bruno", "Pass-word1").try_send().await
    });
    until("the server has the Ping", async || house.requests_behind() > before).await;
    let mut outlook = house.client().await;
    let signed_in = sign_in(&mut outlook, &ntlm("ana"), Method::GET, "/owa/", &[]).await;
    assert_eq!(signed_in.user(), "ana");
    let mut halfway = house.client().await;
    let first = ntlm("bruno").first();
    let challenged = halfway.get("/EWS/Exchange.asmx").header("Authorization", &first).send().await;
    assert_eq!(challenged.status, 401);

    house.edit_config("[resolve]", "[timeouts]\nclient_keepalive = \"4m\"\n[resolve]");
    assert_eq!(house.reload().await.expect("it is good"), nothing_waits(2));

    let again = outlook.get("/owa/").send().await;
    assert_eq!(
        (again.user(), again.connection()),
        ("ana", signed_in.connection()),
        "signed in over the same connection"
    );
    let last = ntlm("bruno").answer(challenged.header("WWW-Authenticate"));
    let answered = halfway.get("/EWS/Exchange.asmx").header("Authorization", &last).send().await;
    assert_eq!(answered.user(), "bruno", "a handshake that was under way ends well");
    let answered = within("the Ping's answer", ping).await.expect("no panic").expect("it was not cut off");
    assert_eq!((answered.status.as_u16(), answered.user()), (200, "bruno"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_configurations_good_and_bad_come_and_go() {
    let house = Arc::new(House::start().await);
    let (over, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = ["ana", "bruno", "carla"]
        .into_iter()
        .map(|user| {
            let (over, served, address) = (over.clone(), served.clone(), house.plain());
            tokio::spawn(async move {
                let mut kept = Client::connect(address).await;
                while !over.load(SeqCst) {
                    let answer = kept.get("/EWS/Exchange.asmx").basic(user, "Pass-word1").send().await;
                    assert_eq!(answer.user(), user, "{answer:?}");
                    let new = Client::connect(address).await.get("/owa/").basic(user, "Pass-word1").send().await;
                    assert_eq!(new.status, 200, "{new:?}");
                    served.fetch_add(2, SeqCst);
                }
            })
        })
        .collect();
    for round in 0..10 {
        let so_far = served.load(SeqCst);
        until("requests were served", async || served.load(SeqCst) > so_far + 20).await;
        house.edit_config("[resolve]", "no_such_key = 1\n[resolve]");
        house.reload().await.expect_err("it is bad");
        house.edit_config("no_such_key = 1\n", "");
        assert_eq!(house.reload().await.expect("it is good").version, round + 2);
    }
    over.store(true, SeqCst);
    for client in clients {
        tokio::time::timeout(DEADLINE, client).await.expect("before the deadline").expect("no request failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_trusted_any_more_gets_no_request_over_an_old_connection() {
    let house = House::planned(Plan { further: "upstream.idle_timeout = \"1h\"".into(), ..Plan::default() }).await;
    assert_eq!(house.get("ana", "/owa/").await.status, 200);
    // The certificates of the edge's own authority are not those that the servers have.
    let other = rcgen::generate_simple_self_signed(vec!["other.example".into()]).expect("a certificate");
    let file = house.folder.path().join("ca.pem");
    let good = std::fs::read(&file).expect("the authority");
    std::fs::write(&file, other.cert.pem()).expect("written");
    assert_eq!(house.reload().await.expect("it is readable"), nothing_waits(2));
    assert_eq!(house.get("ana", "/owa/").await.status, 503, "nobody in Lisbon is trusted");
    std::fs::write(&file, good).expect("written");
    house.reload().await.expect("it is good");
    until("ana is served again", async || house.get("ana", "/owa/").await.status == 200).await;
}
