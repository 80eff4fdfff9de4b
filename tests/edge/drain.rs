//! The edge stops: nobody is cut off in the middle, and nobody is waited for without end.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::{
    harness::{House, Plan, credential, until, within},
    wire::Wire,
};

/// A request that its server holds for so long; returns once the server has it.
async fn held(house: &House, milliseconds: u64) -> Wire {
    let before = house.requests_behind();
    let mut wire = house.wire().await;
    wire.send(format!(
        "GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\nX-Contoso-Hold-Ms: {milliseconds}\r\n\r\n",
        credential("bruno")
    ))
    .await;
    until("the server has the request", async || house.requests_behind() > before).await;
    wire
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_finishes_what_it_has_and_takes_nothing_new() {
    let mut house = House::start().await;
    let (plain, tls) = (house.plain(), house.tls());
    let mut idle = house.wire().await;
    idle.send(format!("GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n\r\n", credential("ana"))).await;
    let head = idle.head().await;
    idle.body(&head).await;
    let mut busy = held(&house, 6000).await;

    let edge = house.edge.take().expect("it runs");
    let drained = tokio::task::spawn_blocking(move || edge.drain());
    assert_eq!(idle.rest().await, "", "an idle client is let go");
    for address in [plain, tls] {
        until("new connections are refused", async || TcpStream::connect(address).await.is_err()).await;
    }
    assert!(!drained.is_finished(), "it waits for the held request");
    let answer = busy.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("cas-opo-"), "{answer}");
    within("the end of draining", drained).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_edge_does_not_wait_longer_than_it_is_told() {
    let plan = Plan { further: "process.drain_timeout = \"300ms\"".into(), ..Plan::default() };
    let mut house = House::planned(plan).await;
    let _busy = held(&house, 600_000).await;
    let edge = house.edge.take().expect("it runs");
    let begun = Instant::now();
    within("the end of draining", tokio::task::spawn_blocking(move || edge.drain())).await.expect("no panic");
    assert!(begun.elapsed() >= Duration::from_millis(300), "it waited its time");
}
