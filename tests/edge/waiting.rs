//! Who may keep whom waiting, and for how long.

use std::time::Duration;

use http::Method;

use crate::{
    harness::{House, Plan, credential, until, within},
    record,
    wire::{Wire, field, play},
};

fn expecting(server_does: &str) -> String {
    format!(
        "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\nContent-Length: 5\r\n\
         Expect: 100-continue\r\n{server_does}\r\n",
        credential("bruno")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_a_100_gets_the_servers_and_then_its_answer() {
    let house = House::start().await;
    let mut wire = house.wire().await;
    wire.send(expecting("X-Contoso-Echo: 1\r\n")).await;
    let interim = wire.head().await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    wire.send("hello").await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(wire.body(&head).await.contains("body: 5 bytes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_before_the_body_passes_at_once_and_leaves_nobody_waiting() {
    let house = House::start().await;
    for (ask, status) in [("1", 417), ("401", 401)] {
        let mut wire = house.wire().await;
        wire.send(expecting(&format!("X-Contoso-Refuse-Expect: {ask}\r\n"))).await;
        let head = wire.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        wire.body(&head).await;
        // The client either sees the connection closed or may ask again on it; it never hangs.
        let next = format!(
            "GET /owa/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
            credential("bruno")
        );
        let sent = wire.try_send(next).await;
        let rest = wire.rest().await;
        assert!(sent.is_err() || rest.is_empty() || rest.starts_with("HTTP/1.1 "), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_a_100_hears_the_edges_own_answer_at_once() {
    let house = House::start().await;
    let mut wire = house.wire().await;
    wire.send(format!(
        "POST /Microsoft-Server-ActiveSync?Cmd=Sync&User=carla HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\
         Content-Length: 100000\r\nExpect: 100-continue\r\n\r\n",
        credential("carla")
    ))
    .await;
    let answer = wire.rest().await;
    assert!(answer.starts_with("HTTP/1.1 451 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_ping_is_answered_when_its_server_does() {
    let house = House::with("timeouts.client = \"1s\"\ntimeouts.client_keepalive = \"1s\"").await;
    house.contoso.hold_pings(Duration::from_millis(2500)); // longer than any wait that is not meant for it
    let answer = house.ask("bruno", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Ping&User=bruno&DeviceId=d").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.server().starts_with("cas-opo-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_given_up_in_its_protocols_time() {
    let house = House::with("timeouts.web = \"1s\"\ntimeouts.activesync = \"1s\"\ntimeouts.ews = \"1s\"").await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.contoso.server(server).hang();
    }
    let owa = house.get("bruno", "/owa/").await;
    assert_eq!(owa.status, 504, "{owa:?}");
    assert!(owa.body.contains("did not answer in time"), "{owa:?}");
    let device = house.ask("bruno", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno").await;
    assert_eq!(device.status, 503);
    assert!(device.header("Retry-After").parse::<u32>().is_ok(), "{device:?}");
    let ews = house.ask("bruno", Method::POST, "/EWS/Exchange.asmx").await;
    assert_eq!(ews.status, 504);
    assert_eq!(house.requests_behind(), 3, "each was delivered once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_in_the_middle_of_its_body_is_told_so_and_let_go() {
    let house = House::with("timeouts.client = \"1s\"").await;
    let mut wire = house.wire().await;
    let ana = credential("ana");
    wire.send(format!("POST /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {ana}\r\nContent-Length: 10\r\n\r\nhalf"))
        .await;
    let answer = wire.rest().await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_in_the_middle_of_its_header_is_let_go() {
    let house = House::with("timeouts.client = \"1s\"\ntimeouts.client_keepalive = \"1s\"").await;
    for begun in ["", "GET /owa/ HT", "GET /owa/ HTTP/1.1\r\nHost: h\r\nX-Slow: "] {
        let mut wire = house.wire().await;
        wire.send(begun).await;
        let answer = wire.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408 "), "{begun:?}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_drips_its_header_is_let_go_all_the_same() {
    let house = House::with("timeouts.client = \"1s\"\ntimeouts.client_keepalive = \"1s\"").await;
    let mut wire = house.wire().await;
    wire.send("GET /owa/ HTTP/1.1\r\nHost: h\r\n").await;
    until("the edge closes", async || {
        tokio::time::sleep(Duration::from_millis(100)).await; // the drip itself, not a wait for something
        wire.try_send("X-Drip: 1\r\n").await.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_is_let_go_after_its_time() {
    let house = House::with("timeouts.client_keepalive = \"1s\"").await;
    let mut wire = house.wire().await;
    let ana = credential("ana");
    wire.send(format!("GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {ana}\r\n\r\n")).await;
    let head = wire.head().await;
    wire.body(&head).await;
    assert_eq!(wire.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resting_outlook_channel_has_the_time_of_its_protocol() {
    let house = House::with("timeouts.client = \"1s\"\ntimeouts.rpc = \"30s\"").await;
    let mut wire = house.wire().await;
    wire.send(format!(
        "RPC_IN_DATA /rpc/rpcproxy.dll?mbx-lis.contoso.com:6001 HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\
         Transfer-Encoding: chunked\r\nX-Contoso-Hold-Ms: 2500\r\n\r\n4\r\nbind\r\n",
        credential("ana")
    ))
    .await;
    let head = wire.head().await; // while the client was silent for longer than timeouts.client
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(wire.chunk().await, "bind");
    wire.send("5\r\nagain\r\n0\r\n\r\n").await;
    assert_eq!(wire.chunk().await, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_its_server_has_closed_costs_a_get_nothing() {
    let back_end = play(async |number, mut wire: Wire| {
        loop {
            let head = wire.head().await;
            if number == 0 && field(&head, "x-number") == Some("2") {
                return; // the first connection breaks when it is used again
            }
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX-Over: {number}\r\n\r\n.")).await;
        }
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    for (number, over) in [("1", "0"), ("2", "1")] {
        let mut client = house.client().await;
        let asking = client.get("/exchange/elsa/").basic("elsa", "Pass-word1").header("X-Number", number);
        let answer = asking.send().await;
        assert_eq!((answer.status.as_u16(), answer.header("X-Over")), (200, over), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_breaks_under_a_post_is_not_made_good_by_a_second_delivery() {
    let (delivered, mut deliveries) = tokio::sync::mpsc::unbounded_channel();
    let back_end = play(move |_, mut wire: Wire| {
        let delivered = delivered.clone();
        async move {
            loop {
                let head = wire.head().await;
                delivered.send(head.lines().next().unwrap_or_default().to_owned()).expect("the test listens");
                if head.starts_with("POST") {
                    return;
                }
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    assert_eq!(house.get("elsa", "/exchange/elsa/").await.status, 200);
    let answer = house.ask("elsa", Method::POST, "/exchange/elsa/drafts/").await;
    assert_eq!(answer.status, 502, "{answer:?}");
    drop(house);
    let mut all = Vec::new();
    while let Ok(delivery) = deliveries.try_recv() {
        all.push(delivery);
    }
    assert_eq!(all.len(), 2, "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_looks_broken_to_the_client() {
    let house = House::start().await;
    // With a length: less comes than was promised.
    let mut client = house.client().await;
    let asking = client.get("/owa/").basic("bruno", "Pass-word1").header("X-Contoso-Reset", "mid");
    asking.try_send().await.expect_err("half a body is no body");
    // In chunks: the last one never comes.
    let back_end = play(async |_, mut wire: Wire| {
        wire.head().await;
        wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let mut wire = house.wire().await;
    let elsa = credential("elsa");
    wire.send(format!("GET /exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {elsa}\r\n\r\n")).await;
    let answer = wire.rest().await;
    assert!(answer.contains("half") && !answer.ends_with("0\r\n\r\n"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_clients_than_there_are_places_for_are_closed_and_others_served() {
    let house = House::with("limits.client_connections = 3\nlimits.connections_per_client = 100").await;
    let mut inside = Vec::new();
    for _ in 0..3 {
        let mut client = house.client().await;
        assert_eq!(client.get("/owa/").basic("ana", "Pass-word1").send().await.status, 200);
        inside.push(client);
    }
    let outside = house.client().await.get("/owa/").try_send().await;
    assert!(outside.is_err(), "{outside:?}");
    record::line(&["ERROR firstcas::event", "event=FC132", "all 3 places", "cure="]).await;
    let answer = inside[0].get("/owa/").basic("ana", "Pass-word1").send().await;
    assert_eq!(answer.status, 200, "who is inside is served on");
    inside.pop();
    let next = async { while house.client().await.get("/owa/").try_send().await.is_err() {} };
    within("a free place", next).await;
}
