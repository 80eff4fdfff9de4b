//! A request is found again by its number, in every log that it has left a line in.

use crate::{
    harness::{House, Plan, credential},
    record,
    wire::{self, play},
};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

fn field<'e>(echo: &'e str, name: &str) -> &'e str {
    echo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_one_number_everywhere() {
    let house = House::start().await;
    let mut client = house.client().await;
    let mut numbers = Vec::new();
    for path in ["/owa/numbered-1", "/owa/numbered-2"] {
        let asking = client.get(path).basic("ana", "Pass-word1").header("X-Contoso-Echo", "1");
        let answer = asking.header("X-Request-Id", "the-clients-own").send().await;
        let number = answer.header("X-Request-Id").to_owned();
        assert!(number.len() == 32 && number.bytes().all(|byte| byte.is_ascii_hexdigit()), "{number}");
        assert_eq!(field(&answer.body, "x-request-id"), number, "behind");
        record::line(&["firstcas::access", &format!(" path={path} "), &format!(" request={number} ")]).await;
        numbers.push(number);
    }
    assert_ne!(numbers[0], numbers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_numbers_requests() {
    let listener = "\n[[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\"]\n";
    let house = House::planned(Plan { further: listener.into(), ..Plan::default() }).await;
    let proxys = house.edge.as_ref().expect("it runs").addresses()[2];
    let mut client = crate::harness::Client::connect(proxys).await;
    let asking = client.get("/owa/").basic("ana", "Pass-word1").header("X-Contoso-Echo", "1");
    let asking = asking.header("X-Request-Id", "the-clients-own");
    let answer = asking.header("X-Request-Id", "7f3a.proxy:1").send().await;
    assert_eq!(answer.header("X-Request-Id"), "7f3a.proxy:1");
    assert_eq!(field(&answer.body, "x-request-id"), "7f3a.proxy:1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_is_told_with_its_number() {
    let house = House::start().await;
    for (user, path) in [("gil", "/owa/"), ("gil", "/Microsoft-Server-ActiveSync?Cmd=Sync"), ("ana", "/nowhere")] {
        let answer = house.get(user, path).await;
        let number = answer.header("X-Request-Id");
        assert!(answer.status.as_u16() >= 403 && number.len() == 32, "{path}: {answer:?}");
        assert!(answer.body.contains(&format!("For your administrator: request {number}")), "{path}: {answer:?}");
    }
    let moved = house.get("carla", "/owa/").await;
    assert!(moved.status == 200 && !moved.body.contains("administrator"), "nothing went wrong: {moved:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_passes_as_it_came() {
    let house = House::start().await;
    let good = format!("00-{TRACE}-00f067aa0ba902b7-01");
    for (path, parent, logged) in
        [("/owa/traced", good.as_str(), TRACE), ("/owa/traced-badly", "00-abc-def-01", "-"), ("/owa/untraced", "", "-")]
    {
        let mut client = house.client().await;
        let mut asking = client.get(path).basic("ana", "Pass-word1").header("X-Contoso-Echo", "1");
        if !parent.is_empty() {
            asking = asking.header("traceparent", parent).header("tracestate", "congo=t61rcWkgMzE,rojo=1");
        }
        let answer = asking.send().await;
        assert_eq!(field(&answer.body, "traceparent"), parent);
        assert_eq!(field(&answer.body, "tracestate").is_empty(), parent.is_empty());
        record::line(&["firstcas::access", &format!(" path={path} "), &format!(" trace={logged} ")]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_opens_another_protocol_has_its_number_too() {
    let back_end = play(async |_, mut wire| {
        wire.head().await;
        wire.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello").await;
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let mut wire = house.wire().await;
    let elsa = credential("elsa");
    wire.send(format!(
        "GET /exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {elsa}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ))
    .await;
    let head = wire.head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert!(wire::field(&head, "X-Request-Id").is_some_and(|number| !number.is_empty()), "{head}");
}
