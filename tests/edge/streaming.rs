//! Bodies pass while they come, in both directions at once.

use crate::{
    harness::{House, Plan, credential},
    tls,
    wire::{Wire, field, play},
};

fn rpc(method: &str, framing: &str) -> String {
    format!(
        "{method} /rpc/rpcproxy.dll?mbx-lis.contoso.com:6001 HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\
         {framing}\r\n\r\n",
        credential("ana")
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn both_outlook_anywhere_channels_answer_while_they_are_still_asked() {
    let house = House::start().await;
    for method in ["RPC_IN_DATA", "RPC_OUT_DATA"] {
        let mut wire = house.wire().await;
        wire.send(rpc(method, "Transfer-Encoding: chunked")).await;
        for piece in ["first", "second", "third"] {
            wire.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
            if piece == "first" {
                let head = wire.head().await;
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            }
            assert_eq!(wire.chunk().await, piece, "{method}: comes back before the next is sent");
        }
        wire.send("0\r\n\r\n").await;
        assert_eq!(wire.chunk().await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_that_announces_1_gb_is_let_in_and_flows() {
    let house = House::start().await;
    for mut wire in [house.wire().await, Wire::over(tls::connect(&house, tls::TLS13, &[]).await)] {
        wire.send(rpc("RPC_IN_DATA", "Content-Length: 1073741824")).await;
        for piece in ["bind", "request"] {
            wire.send(piece).await;
            if piece == "bind" {
                let head = wire.head().await;
                assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                assert_eq!(field(&head, "content-length"), Some("1073741824"));
            }
            assert_eq!(wire.take(piece.len()).await, piece);
        }
    }
}

/// Far more than all socket buffers on the way, far less than the bodies below.
const BUFFERED_MAX: usize = 32 << 20;
const LARGE: usize = 96 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_answer_waits_behind_until_its_client_reads() {
    let (report, mut written) = tokio::sync::mpsc::unbounded_channel();
    let back_end = play(move |_, mut wire: Wire| {
        let report = report.clone();
        async move {
            wire.head().await;
            wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
            let at_first = wire.fill(LARGE).await;
            report.send(at_first).expect("the test listens");
            let mut left = LARGE - at_first;
            while left > 0 {
                left -= wire.fill(left).await;
            }
        }
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let mut wire = house.wire().await;
    let elsa = credential("elsa");
    wire.send(format!("GET /exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {elsa}\r\nConnection: close\r\n\r\n"))
        .await;
    let at_first = written.recv().await.expect("the back-end was stopped");
    assert!(at_first < BUFFERED_MAX, "{at_first} bytes are buffered for a client that reads none");
    wire.head().await;
    assert_eq!(wire.count_rest().await, LARGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_waits_with_its_client_until_the_server_reads() {
    const LENGTH: usize = 45 << 20;
    let (go_on, waiting) = tokio::sync::watch::channel(false);
    let back_end = play(move |_, mut wire: Wire| {
        let mut waiting = waiting.clone();
        async move {
            wire.head().await;
            waiting.wait_for(|go_on| *go_on).await.expect("the test goes on");
            let mut left = LENGTH;
            while left > 0 {
                let piece = left.min(1 << 20);
                wire.take(piece).await;
                left -= piece;
            }
            wire.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n").await;
        }
    });
    let instead = vec![("ex03-lis.contoso.com:80", back_end.await)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let mut wire = house.wire().await;
    let elsa = credential("elsa");
    wire.send(format!(
        "PUT /exchange/elsa/drafts/x.eml HTTP/1.1\r\nHost: h\r\nAuthorization: {elsa}\r\nContent-Length: {LENGTH}\r\n\r\n"
    ))
    .await;
    let at_first = wire.fill(LENGTH).await;
    assert!(at_first < BUFFERED_MAX, "{at_first} bytes are buffered for a server that reads none");
    go_on.send(true).expect("the back-end waits");
    let mut left = LENGTH - at_first;
    while left > 0 {
        left -= wire.fill(left).await;
    }
    assert!(wire.head().await.starts_with("HTTP/1.1 201 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn thirty_megabytes_arrive_unchanged_both_ways() {
    const LENGTH: usize = 30 << 20;
    let house = House::start().await;
    let mut client = house.client().await;
    let body = vec![b'm'; LENGTH];
    let hash = blake3::hash(&body);
    let ask = client.ask(http::Method::POST, "/EWS/Exchange.asmx").basic("bruno", "Pass-word1");
    let sent = ask.header("X-Contoso-Echo", "1").body(body).send().await;
    assert!(sent.body.contains(&format!("body: {LENGTH} bytes, blake3 {hash}")), "{sent:?}");
    let ask = client.get("/EWS/Exchange.asmx").basic("bruno", "Pass-word1");
    let received = ask.header("X-Contoso-Size", &LENGTH.to_string()).send().await;
    assert_eq!(received.body.len(), LENGTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_does_not_look_whole_even_while_the_client_still_sends() {
    let server = play(|_, mut edge| async move {
        edge.head().await;
        edge.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    })
    .await;
    let instead = vec![("ex03-opo.contoso.com:80", server)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let mut client = house.wire().await;
    client.send("POST /exchange/duarte/ HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\nhalf").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert_eq!(client.rest().await, "5\r\nhello\r\n", "no last chunk");
}
