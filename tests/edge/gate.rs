//! A client connection that signs in by Windows authentication, and the connection to its server: one cannot be without
//! the other, and nobody else ever comes near. The servers here are scripts, so that they can misbehave at will.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use crate::{
    harness::{House, Plan, until},
    record,
    wire::{Wire, field, play},
};

/// An NTLM `NEGOTIATE_MESSAGE`, `CHALLENGE_MESSAGE` and anonymous `AUTHENTICATE_MESSAGE` ([MS-NLMP] 2.2.1), the shortest
/// there are.
const NEGOTIATE: &str = "NTLM TlRMTVNTUAABAAAAB4IIAAAAAAAAAAAAAAAAAAAAAAA=";
const CHALLENGE: &str = "NTLM TlRMTVNTUAACAAAAAAAAADgAAAAFgoECAAAAAAAAAAAAAAAAAAAAAAAAAAA4AAAA";
const AUTHENTICATE: &str =
    "NTLM TlRMTVNTUAADAAAAAAAAAEAAAAAAAAAAQAAAAAAAAABAAAAAAAAAAEAAAAAAAAAAQAAAAAAAAABAAAAABYKBAg==";

/// The path of a mailbox on a server that speaks plain http, which a script can.
const PATH: &str = "/exchange/duarte/";

async fn house(server: SocketAddr, further: &str) -> House {
    let instead = vec![("ex03-opo.contoso.com:80", server)];
    House::planned(Plan { instead, further: further.into(), ..Plan::default() }).await
}

fn get(authorization: Option<&str>) -> String {
    let authorization = authorization.map_or(String::new(), |value| format!("Authorization: {value}\r\n"));
    format!("GET {PATH} HTTP/1.1\r\nHost: mail.contoso.com\r\n{authorization}\r\n")
}

fn answer(status: &str, fields: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n{fields}\r\nok")
}

fn challenge() -> String {
    answer("401 Unauthorized", &format!("WWW-Authenticate: {CHALLENGE}\r\n"))
}

/// A server's part: whoever asks is challenged.
async fn ask_who(edge: &mut Wire) {
    edge.head().await;
    edge.send(challenge()).await;
}

/// A server's part: whoever answers the challenge is let in.
async fn let_in(edge: &mut Wire) {
    ask_who(edge).await;
    edge.head().await;
    edge.send(answer("200 OK", "")).await;
}

/// A client that has sent its first message and been challenged.
async fn challenged(house: &House) -> Wire {
    let mut client = house.wire().await;
    client.send(get(Some(NEGOTIATE))).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 401 ") && head.contains(CHALLENGE), "{head}");
    client.body(&head).await;
    client
}

/// A client that is signed in.
async fn signed_in(house: &House) -> Wire {
    let mut client = challenged(house).await;
    client.send(get(Some(AUTHENTICATE))).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.body(&head).await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_closes_in_mid_handshake_ends_its_client_with_the_answer() {
    let server = play(|_, mut edge| async move {
        edge.head().await;
        let fields = format!("WWW-Authenticate: {CHALLENGE}\r\nConnection: close\r\n");
        edge.send(answer("401 Unauthorized", &fields)).await;
    })
    .await;
    let house = house(server, "").await;
    let mut client = house.wire().await;
    client.send(get(Some(NEGOTIATE))).await;
    let head = client.head().await;
    assert_eq!(field(&head, "connection"), Some("close"), "{head}");
    assert_eq!(client.rest().await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_between_the_legs_ends_its_client() {
    let server = play(|_, mut edge| async move {
        ask_who(&mut edge).await;
    })
    .await;
    let house = house(server, "").await;
    let mut client = challenged(&house).await;
    assert_eq!(client.rest().await, "", "it is closed, and told nothing that it could mistake for an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lost_after_the_sign_in_ends_its_idle_client() {
    let server = play(|_, mut edge| async move {
        let_in(&mut edge).await;
    })
    .await;
    let house = house(server, "").await;
    let mut client = signed_in(&house).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_sign_in_leaves_its_client_free_to_begin_anew_even_if_the_server_closes() {
    let server = play(|number, mut edge| async move {
        ask_who(&mut edge).await;
        edge.head().await;
        match number {
            0 => edge.send(answer("401 Unauthorized", "WWW-Authenticate: NTLM\r\n")).await,
            _ => edge.send(answer("200 OK", "")).await,
        }
    })
    .await;
    let house = house(server, "").await;
    let mut client = challenged(&house).await;
    client.send(get(Some(AUTHENTICATE))).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert_eq!(field(&head, "www-authenticate"), Some("NTLM"), "the server's own refusal");
    assert_eq!(field(&head, "connection"), Some("keep-alive"), "{head}");
    client.body(&head).await;
    for (sent, status) in [(NEGOTIATE, 401), (AUTHENTICATE, 200)] {
        client.send(get(Some(sent))).await;
        let head = client.head().await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        client.body(&head).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_own_connection_breaks_under_is_never_sent_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let seen = requests.clone();
    let server = play(move |_, mut edge| {
        let seen = seen.clone();
        async move {
            let_in(&mut edge).await;
            edge.head().await;
            seen.fetch_add(1, SeqCst); // and nothing is answered
        }
    })
    .await;
    let house = house(server, "").await;
    let mut client = signed_in(&house).await;
    client.send(get(None)).await;
    let told = client.rest().await;
    assert!(told.starts_with("HTTP/1.1 502 "), "{told}");
    assert_eq!(requests.load(SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_a_server_authenticates_unasked_serves_nobody_else() {
    for (case, unasked) in [
        ("token", format!("WWW-Authenticate: {CHALLENGE}\r\n")),
        ("persistent", "Persistent-Auth: true\r\n".to_owned()),
    ] {
        let server = play(move |number, mut edge| {
            let fields = if number == 0 { unasked.clone() } else { format!("X-Connection: {number}\r\n") };
            async move {
                loop {
                    edge.head().await;
                    edge.send(answer("200 OK", &fields)).await;
                }
            }
        })
        .await;
        let house = house(server, "").await;
        let mut client = house.wire().await;
        client.send(get(None)).await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{case}: {head}");
        assert_eq!(field(&head, "connection"), Some("close"), "{case}: {head}");
        let mut other = house.wire().await;
        other.send(get(None)).await;
        let head = other.head().await;
        assert_eq!(field(&head, "x-connection"), Some("1"), "{case}: {head}");
        record::line(&["event=FC141", "ex03-opo authenticated a connection without being asked"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_clients_as_the_configuration_allows_are_pinned_and_no_more() {
    let server = play(|_, mut edge| async move {
        ask_who(&mut edge).await;
        edge.rest().await;
    })
    .await;
    let house = house(server, "pins.connections_max = 1").await;
    let first = challenged(&house).await;
    let mut second = house.wire().await;
    second.send(get(Some(NEGOTIATE))).await;
    let head = second.head().await;
    assert!(head.starts_with("HTTP/1.1 503 ") && field(&head, "retry-after").is_some(), "{head}");
    record::line(&["event=FC133", "all 1 are taken"]).await;
    drop(first);
    until("its place is free", async || {
        let mut next = house.wire().await;
        next.send(get(Some(NEGOTIATE))).await;
        next.head().await.starts_with("HTTP/1.1 401 ")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_connection_ends_politely_after_its_requests() {
    let server = play(|_, mut edge| async move {
        ask_who(&mut edge).await;
        for _ in 0..9 {
            edge.head().await;
            edge.send(answer("200 OK", "")).await;
        }
        edge.rest().await;
    })
    .await;
    let house = house(server, "pins.requests_max = 10").await;
    let mut client = signed_in(&house).await;
    for number in 3..=10 {
        client.send(get(None)).await;
        let head = client.head().await;
        client.body(&head).await;
        let expected = if number == 10 { "close" } else { "keep-alive" };
        assert_eq!(field(&head, "connection"), Some(expected), "request {number}: {head}");
    }
    assert_eq!(client.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_connection_ends_politely_after_its_lifetime() {
    let server = play(|_, mut edge| async move {
        let_in(&mut edge).await;
        edge.rest().await;
    })
    .await;
    let instead = vec![("ex03-opo.contoso.com:80", server)];
    let adjust: fn(&mut firstcas::config::Config) = |config| config.pins.lifetime = Duration::ZERO;
    let house = House::planned(Plan { instead, adjust: Some(adjust), ..Plan::default() }).await;
    let mut client = challenged(&house).await; // a handshake under way is let finish
    client.send(get(Some(AUTHENTICATE))).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(field(&head, "connection"), Some("close"), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_pinned_connection_has_a_patience_of_its_own() {
    let server = play(|_, mut edge| async move {
        ask_who(&mut edge).await;
        edge.rest().await;
    })
    .await;
    let house = house(server, "pins.idle_timeout = \"1s\"").await;
    let mut client = challenged(&house).await;
    assert_eq!(client.rest().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn challenges_say_that_windows_authentication_works_through_here() {
    let house = House::start().await;
    let relayed = house.client().await.get("/owa/").send().await;
    assert_eq!(relayed.status, 401);
    assert_eq!(relayed.header("Proxy-Support"), "Session-Based-Authentication", "{relayed:?}");
    let own = house.client().await.get("/owa/").basic("carla", "wrong").send().await;
    assert_eq!((own.status.as_u16(), own.server()), (401, ""));
    assert_eq!(own.header("Proxy-Support"), "Session-Based-Authentication", "{own:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_affinity_cookie_stays_with_the_edge() {
    let house = House::start().await;
    for (sent, passed) in
        [("a=b; firstcas-affinity=x; c=d", "cookie: a=b; c=d\n"), ("firstcas-affinity=x", ""), ("a=b", "cookie: a=b\n")]
    {
        let mut client = house.client().await;
        let asking = client.get("/owa/").basic("ana", "Pass-word1").header("Cookie", sent);
        let echo = asking.header("X-Contoso-Echo", "1").send().await.body;
        let cookie = echo.lines().find(|line| line.starts_with("cookie:")).map(|line| format!("{line}\n"));
        assert_eq!(cookie.unwrap_or_default(), passed, "{sent}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_client_that_only_the_edge_answers_ends_too() {
    let house = House::with("pins.requests_max = 10").await;
    let mut client = house.wire().await;
    for number in 1..=10 {
        let nowhere = format!("GET /nowhere HTTP/1.1\r\nHost: h\r\nAuthorization: {NEGOTIATE}\r\n\r\n");
        let pinning = if number == 1 { get(Some(NEGOTIATE)) } else { nowhere };
        client.send(pinning).await;
        let head = client.head().await;
        client.body(&head).await;
        let expected = if number == 10 { "close" } else { "keep-alive" };
        assert_eq!(field(&head, "connection"), Some(expected), "request {number}: {head}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_before_the_body_is_all_there_does_not_end_the_handshake() {
    let server = play(|_, mut edge| async move {
        ask_who(&mut edge).await;
        edge.take(100_000).await;
        edge.head().await;
        edge.send(answer("200 OK", "")).await;
        edge.rest().await;
    })
    .await;
    let house = house(server, "").await;
    let mut client = house.wire().await;
    let post = |authorization: &str, bytes: usize| {
        format!("POST {PATH} HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\nContent-Length: {bytes}\r\n\r\n")
    };
    client.send(post(NEGOTIATE, 100_000) + &"x".repeat(1_000)).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
    assert_eq!(field(&head, "connection"), Some("keep-alive"), "{head}");
    client.body(&head).await;
    client.send("x".repeat(99_000)).await;
    client.send(post(AUTHENTICATE, 0)).await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}
