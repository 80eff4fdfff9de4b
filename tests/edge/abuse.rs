//! Who takes more than their share: connections, tries at passwords, requests, time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Method;
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{
    harness::{Answer, Client, House, Plan, credential, until, within},
    record,
    windows_client::Handshake,
    wire::{Wire, field, play},
};

const SYNC: &str = "/Microsoft-Server-ActiveSync?Cmd=Sync&DeviceId=d1&DeviceType=t";

/// A client at an address of its own; all of loopback is this machine.
pub async fn stream_from(client: &str, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{client}:0").parse().expect("an address")).expect("all of loopback is ours");
    within("a connection", socket.connect(to)).await.expect("somebody listens")
}

async fn sync(house: &House, from: &str, user: &str, password: &str) -> Answer {
    let mut client = Client::over(stream_from(from, house.plain()).await).await;
    client.ask(Method::POST, SYNC).basic(user, password).send().await
}

async fn browse(house: &House, from: &str, password: &str) -> u16 {
    let mut client = Client::over(stream_from(from, house.plain()).await).await;
    client.ask(Method::POST, "/exchange/elsa/").basic("elsa", password).send().await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_connections_and_others_have_theirs() {
    let house = House::with("limits.connections_per_client = 3").await;
    for listener in [house.plain(), house.tls()] {
        let is_taken = async |from: &str| {
            let mut wire = Wire::over(stream_from(from, listener).await);
            let sent = wire.try_send("no HTTP and no TLS\r\n\r\n").await;
            sent.is_ok() && !wire.rest().await.is_empty() // the edge's answer, or an alert
        };
        let mut inside = Vec::new();
        for _ in 0..3 {
            inside.push(stream_from("127.0.0.11", listener).await); // not a byte is sent
        }
        until("the fourth is closed", async || !is_taken("127.0.0.11").await).await;
        assert!(is_taken("127.0.0.12").await, "another client");
        inside.pop();
        until("a connection is free again", async || is_taken("127.0.0.11").await).await;
    }
    record::line(&["WARN firstcas::event", "event=FC136", "127.0.0.11 has 3 connections", "cure="]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_guesses_a_password_is_stopped_and_its_owner_is_not() {
    let house = House::with("limits.failed_logons_per_user = 3").await;
    assert_eq!(sync(&house, "127.0.0.1", "bruno", "Pass-word1").await.status, 200);
    for _ in 0..3 {
        assert_eq!(sync(&house, "127.0.0.66", "bruno", "wrong").await.status, 401);
    }
    record::line(&["WARN firstcas::event", "event=FC138", "3 logons of bruno have failed", "cure="]).await;
    let before = house.requests_behind();
    for (from, name) in [("127.0.0.66", "bruno"), ("127.0.0.66", "CONTOSO\\Bruno"), ("127.0.0.67", "bruno@contoso.com")]
    {
        for password in ["wrong", "Pass-word1"] {
            let refused = sync(&house, from, name, password).await;
            assert_eq!(refused.status, 503, "{name} from {from}: {refused:?}");
            let wait: u32 = refused.header("Retry-After").parse().expect("a number");
            assert!((500..=600).contains(&wait), "{wait}");
        }
    }
    let mut browser = Client::over(stream_from("127.0.0.66", house.plain()).await).await;
    let page = browser.get("/owa/").basic("bruno", "wrong").send().await;
    assert!(page.status == 503 && page.body.contains("Too many passwords were wrong"), "{page:?}");
    assert_eq!(house.requests_behind(), before, "no server was asked");
    assert_eq!(sync(&house, "127.0.0.1", "CONTOSO\\bruno", "Pass-word1").await.status, 200, "the owner goes on");
    assert_eq!(sync(&house, "127.0.0.66", "ana", "Pass-word1").await.status, 200, "so do others");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_tries_many_names_is_stopped_and_who_is_known_there_is_not() {
    let house = House::with("limits.failed_logons_per_client = 4").await;
    assert_eq!(sync(&house, "127.0.0.21", "ana", "Pass-word1").await.status, 200);
    for name in ["ana", "bruno", "duarte", "elsa", "nobody"] {
        assert_eq!(sync(&house, "127.0.0.21", name, "wrong").await.status, 401, "{name}"); // ana is known: not counted
    }
    record::line(&["WARN firstcas::event", "event=FC137", "4 logons from 127.0.0.21 have failed", "cure="]).await;
    assert_eq!(sync(&house, "127.0.0.21", "bruno", "Pass-word1").await.status, 503);
    assert_eq!(sync(&house, "127.0.0.21", "ana", "Pass-word1").await.status, 200);
    assert_eq!(sync(&house, "127.0.0.22", "bruno", "Pass-word1").await.status, 200, "elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_edge_itself_refuses_and_ntlm_count_too() {
    let house = House::with("limits.failed_logons_per_user = 3").await;
    for _ in 0..3 {
        let mut client = house.client().await;
        let answer = client.get("/owa/").basic("carla", "wrong").send().await;
        assert_eq!((answer.status.as_u16(), answer.server()), (401, ""), "the edge verifies whom it redirects");
    }
    assert_eq!(house.get("carla", "/owa/").await.status, 503);

    let sign_in = async |password: &str| {
        let handshake = Handshake::ntlm("CONTOSO\\ana").password(password);
        let mut client = house.client().await;
        let challenge = client.get("/EWS/Exchange.asmx").header("Authorization", &handshake.first()).send().await;
        let answer = handshake.answer(challenge.header("WWW-Authenticate"));
        client.get("/EWS/Exchange.asmx").header("Authorization", &answer).send().await
    };
    for _ in 0..3 {
        assert_eq!(sign_in("wrong").await.status, 401);
    }
    assert_eq!(sign_in("Pass-word1").await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_is_open_to_everybody_makes_nobody_known() {
    let back_end = play(async |_, mut wire: Wire| {
        while let Some(head) = wire.next_head().await {
            let is_right = field(&head, "authorization") == Some(&credential("elsa"));
            let is_open = head.starts_with("GET ");
            let status =
                if is_right || is_open { "200 OK" } else { "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"h\"" };
            wire.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
        }
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let further = "limits.failed_logons_per_user = 2".to_owned();
    let house = House::planned(Plan { further, instead, ..Plan::default() }).await;
    let guess = async |method: Method, password: &str| {
        house.client().await.ask(method, "/exchange/elsa/").basic("elsa", password).send().await.status.as_u16()
    };
    assert_eq!(guess(Method::GET, "wrong").await, 200, "the logon page");
    assert_eq!([guess(Method::POST, "wrong").await, guess(Method::POST, "wrong").await], [401, 401]);
    assert_eq!(guess(Method::POST, "Pass-word1").await, 503, "elsa has never signed in from here");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_health_page_makes_nobody_known() {
    /// Exchange 2007 SP3 becomes 2013 CU23, whose page asks nobody who they are.
    fn to_2013(ldif: &str) -> String {
        let version = 0x7000_0000 | 15 << 22 | 0x8000 | 0x05d9;
        let ldif = ldif.replace("versionNumber: 1912832083", &format!("versionNumber: {version}"));
        ldif.replace("msExchCurrentServerRoles: 4\n", "msExchCurrentServerRoles: 16384\n")
    }
    let further = "limits.failed_logons_per_user = 2".to_owned();
    let house = House::planned(Plan { further, rewrite: Some(to_2013), ..Plan::default() }).await;
    let ask = async |from: &str, method: Method, path: &str, password: &str| {
        let mut client = Client::over(stream_from(from, house.plain()).await).await;
        client.ask(method, path).basic("ana", password).send().await.status.as_u16()
    };
    let asmx = "/EWS/Exchange.asmx";
    assert_eq!(ask("127.0.0.41", Method::GET, "/EWS/healthcheck.htm", "wrong").await, 200);
    assert_eq!(ask("127.0.0.42", Method::POST, asmx, "Pass-word1").await, 200);
    assert_eq!(ask("127.0.0.43", Method::POST, asmx, "wrong").await, 401);
    assert_eq!(ask("127.0.0.43", Method::POST, asmx, "wrong").await, 401);
    assert_eq!(ask("127.0.0.41", Method::POST, asmx, "wrong").await, 503, "nobody has signed in there");
    assert_eq!(ask("127.0.0.42", Method::POST, asmx, "Pass-word1").await, 200, "here ana has");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_guesses_at_once_no_more_reach_a_server_than_may_fail() {
    let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (counts, waits) = (asked.clone(), answers.clone());
    let back_end = play(move |_, mut wire: Wire| {
        let (counts, waits) = (counts.clone(), waits.clone());
        async move {
            while wire.next_head().await.is_some() {
                counts.fetch_add(1, Relaxed);
                waits.acquire().await.expect("it stays open").forget();
                let answer = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"h\"\r\nContent-Length: 0";
                wire.send(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
            }
        }
    })
    .await;
    let instead = vec![("ex03-lis.contoso.com:80", back_end)];
    let further = "limits.failed_logons_per_user = 3".to_owned();
    let house = Arc::new(House::planned(Plan { further, instead, ..Plan::default() }).await);
    let mut guesses = JoinSet::new();
    for number in 0..50 {
        let house = house.clone();
        guesses.spawn(async move { browse(&house, "127.0.0.51", &format!("guess {number}")).await });
    }
    for _ in 0..47 {
        // The server has answered nobody, so none of them can have been counted yet.
        let status = within("an answer of the edge's own", guesses.join_next()).await.expect("one").expect("a status");
        assert_eq!(status, 503);
    }
    assert_eq!(asked.load(Relaxed), 3);
    answers.add_permits(50);
    let mut others = guesses.join_all().await;
    others.dedup();
    assert_eq!(others, [401]);
    assert_eq!(browse(&house, "127.0.0.52", "Pass-word1").await, 503, "now they have failed");
    assert_eq!(asked.load(Relaxed), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_an_old_password_does_not_shut_its_owner_out() {
    let house = House::with("limits.failed_logons_per_user = 3").await;
    assert_eq!(sync(&house, "127.0.0.61", "bruno", "Pass-word1").await.status, 200);
    for time in 1..=4 {
        let told = sync(&house, "127.0.0.61", "bruno", "old").await.status;
        assert_eq!(told, if time <= 3 { 401 } else { 503 }, "time {time}");
    }
    for guess in ["guess 2", "guess 3"] {
        assert_eq!(sync(&house, "127.0.0.61", "bruno", guess).await.status, 401, "the old one was one");
    }
    assert_eq!(sync(&house, "127.0.0.61", "bruno", "guess 4").await.status, 503);
    assert_eq!(sync(&house, "127.0.0.61", "bruno", "Pass-word1").await.status, 200, "the right one always passes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_nobody_can_read_counts_for_its_client() {
    let house = House::with("limits.failed_logons_per_client = 3").await;
    let ask = async |from: &str| {
        let mut client = Client::over(stream_from(from, house.plain()).await).await;
        let asking = client.ask(Method::POST, SYNC).header("Authorization", "Basic OnBhc3M="); // no name
        asking.send().await.status.as_u16()
    };
    assert_eq!([ask("127.0.0.71").await, ask("127.0.0.71").await, ask("127.0.0.71").await], [401; 3]);
    assert_eq!(ask("127.0.0.71").await, 503);
    assert_eq!(ask("127.0.0.72").await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_limits_that_one_failure_reaches_are_told() {
    let house = House::with("limits.failed_logons_per_user = 1\nlimits.failed_logons_per_client = 1").await;
    assert_eq!(sync(&house, "127.0.0.81", "bruno", "wrong").await.status, 401);
    record::line(&["event=FC138", "1 logons of bruno have failed"]).await;
    record::line(&["event=FC137", "1 logons from 127.0.0.81 have failed"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_repeats_itself_without_end_is_told_to_rest_and_others_are_served() {
    let house = House::with("limits.activesync_requests_per_minute = 10").await;
    let device = async |user: &str, device: &str, from: &str| {
        let target = format!("/Microsoft-Server-ActiveSync?Cmd=Sync&User={user}&DeviceId={device}&DeviceType=iPhone");
        let mut client = Client::over(stream_from(from, house.plain()).await).await;
        client.ask(Method::POST, &target).basic(user, "Pass-word1").send().await
    };
    for _ in 0..10 {
        assert_eq!(device("bruno", "storming", "127.0.0.31").await.status, 200);
    }
    let before = house.requests_behind();
    for _ in 0..3 {
        let told = device("bruno", "storming", "127.0.0.31").await;
        assert_eq!(told.status, 503, "{told:?}");
        let wait: u32 = told.header("Retry-After").parse().expect("a number");
        assert!((1..=60).contains(&wait), "{wait}");
    }
    assert_eq!(house.requests_behind(), before, "no server was asked");
    assert_eq!(device("bruno", "quiet", "127.0.0.31").await.status, 200, "another device of his");
    assert_eq!(device("ana", "storming", "127.0.0.31").await.status, 200, "somebody else's");
    assert_eq!(device("bruno", "storming", "127.0.0.32").await.status, 200, "nobody can name it from elsewhere");
    let told = ["WARN firstcas::event", "event=FC139", "the device storming of bruno"];
    record::line(&told).await;
    assert_eq!(record::lines(&told).len(), 1, "once");
}

/// Sends a byte of a body every so often until the edge answers.
async fn drip(house: &House, head: &str, every: Duration) -> (usize, String) {
    let mut wire = house.wire().await;
    let ana = credential("ana");
    wire.send(format!("{head} HTTP/1.1\r\nHost: h\r\nAuthorization: {ana}\r\nContent-Length: 1000\r\n\r\n")).await;
    for sent in 0..1000 {
        if wire.try_send("x").await.is_err() {
            return (sent, wire.rest().await);
        }
        tokio::time::sleep(every).await; // the drip itself, not a wait for something
    }
    (1000, wire.head().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_drips_its_body_is_let_go() {
    let house = House::with("timeouts.client = \"1s\"").await;
    let (sent, answer) = drip(&house, "POST /owa/", Duration::from_millis(50)).await;
    assert!(answer.starts_with("HTTP/1.1 408 ") && sent < 500, "after {sent}: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outlook_channel_and_a_patient_administrators_clients_may_drip() {
    for (further, head) in
        [("", "RPC_IN_DATA /rpc/rpcproxy.dll?mbx-lis.contoso.com:6001"), ("limits.body_rate_min = 0\n", "POST /owa/")]
    {
        let house = House::with(&format!("{further}timeouts.client = \"3s\"")).await;
        let (sent, answer) = drip(&house, head, Duration::from_millis(5)).await; // at least five seconds in all
        assert!(sent == 1000 && answer.starts_with("HTTP/1.1 200 "), "after {sent}: {answer}");
    }
}
