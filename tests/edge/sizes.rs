//! How much passes, and what is too much.

use crate::{
    connections::raw,
    harness::{House, Plan, credential},
    wire::{Wire, field, play},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_field_of_64_kib_passes_in_both_directions() {
    const LONG: usize = 64 * 1024;
    let back_end = play(async |_, mut wire| {
        let head = wire.head().await;
        let token = field(&head, "x-token").expect("the long field");
        wire.send(format!("HTTP/1.1 200 OK\r\nX-Back: {token}\r\nContent-Length: 0\r\n\r\n")).await;
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let token = "k".repeat(LONG);
    let mut client = house.client().await;
    let asking = client.get("/exchange/elsa/").basic("elsa", "Pass-word1").header("X-Token", &token);
    assert_eq!(asking.send().await.header("X-Back"), token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_over_its_limit_is_refused_and_one_just_below_is_not() {
    let house = House::with("limits.header = \"65536\"").await;
    for (bytes, status) in [(65_536, 200), (65_537, 431), (200_000, 431)] {
        let frame = format!(
            "GET /owa/ HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAuthorization: {}\r\nX-Long: \r\n\r\n",
            credential("ana")
        );
        let long = "x".repeat(bytes - frame.len());
        let request = frame.replace("X-Long: ", &format!("X-Long: {long}"));
        let answer = raw(house.plain(), request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{bytes}: {answer}");
    }
    // The same in many small fields.
    let many = format!("X-Many: {}\r\n", "y".repeat(400)).repeat(200);
    let answer = raw(house.plain(), format!("GET /owa/ HTTP/1.1\r\nHost: h\r\n{many}\r\n").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_announced_over_its_limit_is_refused_before_it_is_read() {
    let house = House::with("limits.owa_body = 10000").await;
    let before = house.requests_behind();
    let head = |length: u64| {
        format!(
            "POST /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\nContent-Length: {length}\r\n\r\n",
            credential("ana")
        )
    };
    let mut wire = house.wire().await;
    wire.send(head(10_001)).await;
    let answer = wire.head().await; // not a byte of the body was sent
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert_eq!(house.requests_behind(), before);
    let mut wire = house.wire().await;
    wire.send(head(10_000) + &"x".repeat(10_000)).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_large_a_body_all_the_same_reads_why() {
    let house = House::with("limits.owa_body = 10000").await;
    for framing in ["Content-Length: 3000000", "Transfer-Encoding: chunked"] {
        let mut wire = house.wire().await;
        let ana = credential("ana");
        wire.send(format!("POST /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {ana}\r\n{framing}\r\n\r\n")).await;
        // Many clients read nothing until they have sent everything.
        let piece =
            if framing.starts_with("Content") { "x".repeat(1000) } else { format!("3e8\r\n{}\r\n", "x".repeat(1000)) };
        for _ in 0..3000 {
            wire.send(&piece).await;
        }
        let answer = wire.head().await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{framing}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_a_large_body_with_a_wrong_password_reads_the_servers_401() {
    const LENGTH: usize = 20 << 20; // more than contoso reads of a request that it refuses
    let house = House::start().await;
    let mut wire = house.wire().await;
    wire.send(format!(
        "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: h\r\nAuthorization: Basic YnJ1bm86d3Jvbmc=\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    let mut left = LENGTH;
    while left > 0 {
        left -= wire.fill(left).await;
    }
    let answer = wire.head().await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_its_limit_never_arrives_whole() {
    let (report, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    let back_end = play(move |_, mut wire: Wire| {
        let report = report.clone();
        async move {
            wire.head().await;
            report.send(wire.rest().await).expect("the test listens");
        }
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let further = "limits.owa_body = 10000".to_owned();
    let house = House::planned(Plan { further, instead, ..Plan::default() }).await;
    let mut wire = house.wire().await;
    let elsa = credential("elsa");
    wire.send(format!(
        "PUT /exchange/elsa/x HTTP/1.1\r\nHost: h\r\nAuthorization: {elsa}\r\nTransfer-Encoding: chunked\r\n\r\n"
    ))
    .await;
    wire.send(format!("1388\r\n{0}\r\n1389\r\n{0}x\r\n0\r\n\r\n", "x".repeat(5000))).await;
    let answer = wire.head().await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    let arrived = arrived.recv().await.expect("the connection behind is closed");
    assert!(!arrived.ends_with("0\r\n\r\n"), "{arrived}");
}
