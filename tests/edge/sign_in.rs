//! Who is asking, when they sign in by NTLM or Kerberos: what the edge learns from it, and where it takes them.

use std::{collections::HashSet, net::SocketAddr};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::Method;

use crate::{
    contoso::tickets::{self, Ticket},
    harness::{Answer, Client, House, Plan},
    record,
    windows_client::{self, Handshake},
    wire::{field, play},
};

/// Asks twice, as a client without hurry does: with the first message and with the answer to the challenge.
pub async fn sign_in(
    client: &mut Client,
    handshake: &Handshake,
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let challenged = ask(client, &handshake.first(), method.clone(), target, fields).await;
    assert_eq!(challenged.status, 401, "{challenged:?}");
    let last = handshake.answer(challenged.header("WWW-Authenticate"));
    ask(client, &last, method, target, fields).await
}

async fn ask(
    client: &mut Client,
    authorization: &str,
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
) -> Answer {
    let mut asking = client.ask(method, target).header("Authorization", authorization);
    for (name, value) in fields {
        asking = asking.header(name, value);
    }
    asking.send().await
}

async fn get(house: &House, user: &str, target: &str) -> Answer {
    sign_in(&mut house.client().await, &ntlm(user), Method::GET, target, &[]).await
}

pub fn ntlm(user: &str) -> Handshake {
    Handshake::ntlm(&format!("CONTOSO\\{user}"))
}

/// The cookie that an answer sets, as a client sends it back.
fn cookie(answer: &Answer) -> String {
    let cookie = answer.header("Set-Cookie").split(';').next().expect("a first part").to_owned();
    assert!(cookie.starts_with("firstcas-affinity="), "{answer:?}");
    cookie
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_at_home_signs_in_once_and_stays_on_one_connection() {
    let house = House::start().await;
    let mut client = house.client().await;
    let first = sign_in(&mut client, &ntlm("ana"), Method::GET, "/owa/at-home", &[]).await;
    assert_eq!((first.status.as_u16(), first.user()), (200, "ana"));
    assert!(first.server().starts_with("cas-lis-"), "{first:?}");
    assert_eq!(first.header("Set-Cookie"), "", "nothing to remember");
    let second = client.get("/owa/at-home-still").send().await;
    assert_eq!((second.user(), second.connection()), ("ana", first.connection()));
    let line = record::line(&["firstcas::access", " path=/owa/at-home ", " status=200 "]).await;
    for part in [" credential=ntlm ", " user=contoso\\ana ", " proven=ana@contoso.com ", " connection=pinned "] {
        assert!(line.contains(part), "{part:?} in {line}");
    }
    let line = record::line(&["firstcas::access", " path=/owa/at-home-still "]).await;
    assert!(line.contains(" credential=- ") && line.contains(" user=contoso\\ana "), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_taken_to_its_own_site_and_goes_there_straight_the_next_time() {
    let house = House::start().await;
    let target = "/owa/?ae=Folder&t=IPF.Note";
    let sent = get(&house, "bruno", target).await;
    assert_eq!((sent.status.as_u16(), sent.header("Location")), (307, target), "{sent:?}");
    assert_eq!(sent.header("Connection"), "close", "the next handshake is another connection's");
    assert_eq!(sent.header("X-Contoso-Server"), "", "nothing of Lisbon's answer");
    let cookie = cookie(&sent);
    assert!(!cookie.contains("bruno") && !cookie.contains("orto"), "{cookie}");
    let field = sent.header("Set-Cookie");
    assert!(field.contains("; HttpOnly") && field.contains("; Path=/") && field.contains("; SameSite=Lax"), "{field}");

    for _ in 0..2 {
        let mut client = house.client().await;
        let there = sign_in(&mut client, &ntlm("bruno"), Method::GET, target, &[("Cookie", &cookie)]).await;
        assert_eq!((there.status.as_u16(), there.user()), (200, "bruno"), "{there:?}");
        assert!(there.server().starts_with("cas-opo-"), "{there:?}");
        assert_eq!(there.header("Set-Cookie"), "", "it has what it needs");
        assert_eq!(client.get("/owa/").send().await.connection(), there.connection());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_without_a_memory_for_cookies_is_not_sent_in_circles() {
    let house = House::start().await;
    let mut answer = get(&house, "bruno", "/owa/").await;
    let mut times = 0;
    while answer.status == 307 {
        times += 1;
        assert!(times < 10, "browsers give up after 20");
        answer = get(&house, "bruno", "/owa/").await;
    }
    assert!(times > 0);
    assert_eq!((answer.status.as_u16(), answer.user()), (200, "bruno"), "{answer:?}");
    assert!(answer.server().starts_with("cas-lis-"), "the answer stands: {answer:?}");
    cookie(&answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_of_somebody_else_is_put_right() {
    let house = House::start().await;
    let bruno = cookie(&get(&house, "bruno", "/owa/").await);
    let mut client = house.client().await;
    let ana = sign_in(&mut client, &ntlm("ana"), Method::GET, "/owa/", &[("Cookie", &bruno)]).await;
    assert_eq!(ana.status, 307, "{ana:?}");
    let mut client = house.client().await;
    let ana = sign_in(&mut client, &ntlm("ana"), Method::GET, "/owa/", &[("Cookie", &cookie(&ana))]).await;
    assert_eq!(ana.user(), "ana");
    assert!(ana.server().starts_with("cas-lis-"), "{ana:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_browsers_visit_is_answered_where_it_was_let_in_and_goes_straight_the_next_time() {
    let house = House::start().await;
    for (method, target, server) in [
        (Method::POST, "/owa/ev.owa", "cas-opo-"),
        (Method::POST, "/EWS/Exchange.asmx", "cas-opo-"),
        (Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync", "cas-opo-"),
    ] {
        let mut client = house.client().await;
        let answer = sign_in(&mut client, &ntlm("bruno"), method.clone(), target, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.user()), (200, "bruno"), "{target}: {answer:?}");
        assert!(answer.server().starts_with("cas-lis-"), "{target}: {answer:?}");
        let again = client.ask(method.clone(), target).send().await;
        assert_eq!(again.connection(), answer.connection(), "{target}: a signed-in connection stays where it is");
        let cookie = [("Cookie", &*cookie(&answer))];
        let mut client = house.client().await;
        let next = sign_in(&mut client, &ntlm("bruno"), method, target, &cookie).await;
        assert!(next.server().starts_with(server) && next.user() == "bruno", "{target}: {next:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hint_in_the_request_brings_the_challenge_from_the_right_site_at_once() {
    let house = House::start().await;
    for (method, target, fields) in [
        (Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Ping&User=bruno&DeviceId=d", &[][..]),
        (Method::GET, "/owa/bruno@contoso.com/", &[]),
        (Method::POST, "/EWS/Exchange.asmx", &[("X-AnchorMailbox", "bruno@contoso.com")]),
    ] {
        house.contoso.hold_pings(std::time::Duration::ZERO);
        let mut client = house.client().await;
        let answer = sign_in(&mut client, &ntlm("bruno"), method, target, fields).await;
        assert_eq!((answer.status.as_u16(), answer.user()), (200, "bruno"), "{target}: {answer:?}");
        assert!(answer.server().starts_with("cas-opo-"), "{target}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_takes_the_place_of_the_answer_once_the_server_has_accepted() {
    let house = House::start().await;
    let page = get(&house, "carla", "/owa/").await;
    assert_eq!((page.status.as_u16(), page.server()), (200, ""), "{page:?}");
    assert!(page.body.contains("href=\"https://mail.madrid.contoso.com/owa"), "{page:?}");

    let target = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d&DeviceType=t";
    let moved = sign_in(&mut house.client().await, &ntlm("carla"), Method::POST, target, &[]).await;
    assert_eq!(moved.status, 451, "{moved:?}");
    assert!(moved.header("X-MS-Location").starts_with("https://mail.madrid.contoso.com/"), "{moved:?}");
    record::line(&["event=EAS1008", "contoso\\carla"]).await;

    let refused = get(&house, "filipe", "/owa/").await;
    assert_eq!(refused.status, 403, "{refused:?}");
    assert!(refused.body.contains("without a Client Access Server"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_signed_in_is_told_without_being_asked_again() {
    let house = House::start().await;
    let mut client = house.client().await;
    let ews = sign_in(&mut client, &ntlm("carla"), Method::POST, "/EWS/Exchange.asmx", &[]).await;
    assert_eq!((ews.status.as_u16(), ews.user()), (200, "carla"), "{ews:?}");
    let page = client.get("/owa/").send().await;
    assert!(page.body.contains("https://mail.madrid.contoso.com/owa"), "{page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_gets_the_servers_own_refusal_and_learns_nothing() {
    let house = House::start().await;
    for (user, target) in [
        ("bruno", "/owa/"),
        ("carla", "/owa/"),
        ("carla", "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d"),
        ("nobody", "/owa/"),
    ] {
        let before = house.requests_behind();
        let mut client = house.client().await;
        let answer = sign_in(&mut client, &ntlm(user).password("wrong"), Method::GET, target, &[]).await;
        assert_eq!(answer.status, 401, "{user}: {answer:?}");
        assert!(answer.server().starts_with("cas-lis-"), "{user}: {answer:?}");
        assert_eq!(answer.header("Set-Cookie"), "", "{user}");
        assert!(!format!("{answer:?}").to_lowercase().contains("madrid"), "{user}: {answer:?}");
        assert_eq!(house.requests_behind(), before + 2, "{user}: no prompt and no round trip of the edge's own");
        let after = client.get(target).send().await;
        assert_eq!((after.status.as_u16(), after.user()), (401, "-"), "{user}: {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_person_may_sign_in_over_the_same_connection() {
    let house = House::start().await;
    let mut client = house.client().await;
    let ana = sign_in(&mut client, &ntlm("ana"), Method::GET, "/owa/", &[]).await;
    let bruno = sign_in(&mut client, &ntlm("bruno"), Method::POST, "/EWS/Exchange.asmx", &[]).await;
    assert_eq!((bruno.user(), bruno.connection()), ("bruno", ana.connection()));
    let carla = sign_in(&mut client, &ntlm("carla"), Method::POST, "/EWS/Exchange.asmx", &[]).await;
    assert_eq!((carla.user(), carla.connection()), ("carla", ana.connection()));
    let page = client.get("/owa/").send().await;
    assert!(page.body.contains("madrid"), "it is carla now: {page:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_believed_only_where_the_server_must_have_checked_it() {
    const ASKED: &str = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=duarte&DeviceId=d";
    let carla = ntlm("carla");
    for (status, target, believed) in [
        (200, ASKED, true),
        (302, ASKED, true),
        (403, ASKED, false),
        (400, ASKED, false),
        (404, ASKED, false),
        (413, ASKED, false),
        (500, ASKED, false),
        (200, "/Microsoft-Server-ActiveSync?Cmd=Ping&User=duarte&DeviceId=d", false),
    ] {
        let house = with_back_end(two_legs(status).await).await;
        let mut client = house.client().await;
        let challenged = ask(&mut client, &carla.first(), Method::POST, ASKED, &[]).await;
        let last = carla.answer(challenged.header("WWW-Authenticate"));
        let answer = ask(&mut client, &last, Method::POST, target, &[]).await;
        let told = answer.header("X-MS-Location").contains("madrid");
        assert_eq!(told, believed, "{status} {target}: {answer:?}");
        assert_eq!(answer.status == 451, believed, "{status} {target}: {answer:?}");
    }
}

/// The 2003 back-end is this script.
async fn with_back_end(server: SocketAddr) -> House {
    House::planned(Plan { instead: vec![("ex03-opo.contoso.com:80", server)], ..Plan::default() }).await
}

/// A server that challenges, and answers whatever comes then with this status.
async fn two_legs(status: u16) -> SocketAddr {
    // A CHALLENGE_MESSAGE ([MS-NLMP] 2.2.1.2): Unicode, and nothing but the terminator in its target information.
    const CHALLENGE: &str = "TlRMTVNTUAACAAAAAAAAADgAAAAFgoECAQIDBAUGBwgAAAAAAAAAAAQABAA4AAAABgGxHQAAAA8AAAAA";
    play(move |_, mut edge| async move {
        edge.head().await;
        edge.send(format!(
            "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM {CHALLENGE}\r\nContent-Length: 0\r\n\r\n"
        ))
        .await;
        edge.head().await;
        edge.send(format!("HTTP/1.1 {status} Whatever\r\nContent-Length: 0\r\n\r\n")).await;
        edge.rest().await;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_services_keys_the_edge_knows_who_a_ticket_was_issued_to() {
    let house = with_keytab(&tickets::keytab()).await;
    for (user, server) in [("ana", "cas-lis-"), ("bruno", "cas-opo-")] {
        for value in [windows_client::kerberos(&Ticket::of(user)), windows_client::raw_kerberos(&Ticket::of(user))] {
            let mut client = house.client().await;
            let answer = ask(&mut client, &value, Method::GET, "/owa/by-ticket", &[]).await;
            assert_eq!((answer.status.as_u16(), answer.user()), (200, user), "{answer:?}");
            assert!(answer.server().starts_with(server), "{answer:?}");
            let next = client.get("/owa/").send().await;
            assert_eq!((next.user(), next.connection()), (user, answer.connection()));
        }
    }
    let line = record::line(&["firstcas::access", " path=/owa/by-ticket ", "bruno"]).await;
    assert!(line.contains(" credential=kerberos ") && line.contains(" proven=bruno@contoso.com "), "{line}");

    let before = house.requests_behind();
    let carla = windows_client::kerberos(&Ticket::of("carla"));
    let page = ask(&mut house.client().await, &carla, Method::GET, "/owa/", &[]).await;
    assert!(page.body.contains("https://mail.madrid.contoso.com/owa"), "{page:?}");
    let target = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d";
    let moved = ask(&mut house.client().await, &carla, Method::POST, target, &[]).await;
    assert_eq!(moved.status, 451, "{moved:?}");
    assert_eq!(house.requests_behind(), before, "the ticket alone is proof");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_keys_a_ticket_goes_where_hints_say_and_tells_nothing() {
    let other_keys = tickets::keytab_with([9; 32]);
    for house in [House::start().await, with_keytab(&other_keys).await] {
        let carla = windows_client::kerberos(&Ticket::of("carla"));
        let answer = ask(&mut house.client().await, &carla, Method::GET, "/owa/", &[]).await;
        assert_eq!((answer.status.as_u16(), answer.user()), (200, "carla"), "{answer:?}");
        assert!(answer.server().starts_with("cas-lis-"), "{answer:?}");
        assert_eq!(answer.header("Set-Cookie"), "", "nobody knows who it was");
    }
    record::line(&["event=FC142", "no key of the keytab opens the ticket"]).await;
}

async fn with_keytab(keytab: &[u8]) -> House {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("http.keytab");
    std::fs::write(&file, keytab).expect("the keytab is written");
    House::with(&format!("kerberos.keytab = \"{}\"", file.display())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_extended_protection_foils_is_explained() {
    let house = House::start().await;
    for server in ["cas-lis-1", "cas-lis-2"] {
        house.contoso.server(server).extended_protection();
    }
    let bound = ntlm("ana").channel_bindings([7; 16]);
    let answer = sign_in(&mut house.client().await, &bound, Method::GET, "/owa/", &[]).await;
    assert_eq!(answer.status, 401, "{answer:?}");
    record::line(&["WARN firstcas::event", "event=FC140", "cas-lis-", "Extended Protection", "cure="]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_messages_are_the_servers_to_judge_and_never_share_a_connection() {
    let house = House::start().await;
    let real = BASE64_STANDARD.decode(&ntlm("ana").first()[5..]).expect("base64");
    let looping = [&real[..12], &[0xff; 52]].concat();
    let ticket = Ticket::of("ana").token();
    let mut seen = HashSet::new();
    for (scheme, bytes) in [
        ("NTLM", &b"NTLMSSP\0\x03"[..]),
        ("NTLM", &real[..11]),
        ("NTLM", &looping),
        ("Negotiate", b"NTLMSSP\0\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("Negotiate", b"\x60\x84\xff\xff\xff\xff\x06\x06+\x06\x01\x05\x05\x02"),
        ("Negotiate", &ticket[..ticket.len() / 2]),
        ("Negotiate", &vec![0xa1; 48 * 1024]),
        ("Nego2", &[0x30; 4096]),
    ] {
        let value = format!("{scheme} {}", BASE64_STANDARD.encode(bytes));
        let mut client = house.client().await;
        let answer = ask(&mut client, &value, Method::GET, "/owa/hostile", &[]).await;
        assert_eq!((answer.status.as_u16(), answer.user()), (401, "-"), "{answer:?}");
        assert!(answer.server().starts_with("cas-lis-"), "the server judged it: {answer:?}");
        assert!(seen.insert(answer.connection().to_owned()), "two clients shared {answer:?}");
        let next = client.get("/owa/").send().await;
        assert_eq!(next.connection(), answer.connection(), "the client is pinned");
    }
    let shared = house.get("ana", "/owa/").await;
    assert!(!seen.contains(shared.connection()), "{shared:?}");
    record::line(&["event=FC130", "a credential could not be read", "NTLM message is cut short"]).await;
    let line = record::line(&["firstcas::access", " path=/owa/hostile "]).await;
    assert!(line.contains(" credential=unreadable ") && line.contains(" connection=pinned "), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_edges_own_comes_even_after_a_100() {
    let house = House::start().await;
    let carla = ntlm("carla");
    let target = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla&DeviceId=d";
    let mut client = house.wire().await;
    let post = |value: &str, length: usize| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: h\r\nAuthorization: {value}\r\nContent-Length: {length}\r\n{}\r\n",
            if length > 0 { "Expect: 100-continue\r\n" } else { "" }
        )
    };
    client.send(post(&carla.first(), 0)).await;
    let challenged = client.head().await;
    client.body(&challenged).await;
    let last = carla.answer(field(&challenged, "www-authenticate").expect("a challenge"));
    client.send(post(&last, 5)).await;
    let interim = client.head().await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    client.send("hello").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 451 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_been_done_is_not_refused_any_more() {
    let house = House::start().await;
    let target = "/owa/ev.owa";
    let done = sign_in(&mut house.client().await, &ntlm("filipe"), Method::POST, target, &[]).await;
    assert_eq!((done.status.as_u16(), done.user()), (200, "filipe"), "{done:?}");
    let refused = sign_in(&mut house.client().await, &ntlm("filipe"), Method::GET, target, &[]).await;
    assert_eq!(refused.status, 403, "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_in_last_is_who_the_connection_is() {
    let house = House::start().await;
    let mut client = house.client().await;
    let ana = sign_in(&mut client, &ntlm("ana"), Method::GET, "/owa/", &[]).await;
    assert_eq!(ana.user(), "ana");
    // Another server's connection of the same client: Basic leads there, and there carla signs in by NTLM.
    let handshake = ntlm("carla");
    let elsewhere = client.ask(Method::POST, "/exchange/elsa/").basic("elsa", "Pass-word1").send().await;
    assert_eq!(elsewhere.user(), "elsa", "{elsewhere:?}");
    let carla = sign_in(&mut client, &handshake, Method::POST, "/EWS/Exchange.asmx", &[]).await;
    assert_eq!(carla.user(), "carla");
    let next = client.ask(Method::POST, "/EWS/Exchange.asmx").send().await;
    assert_eq!(next.user(), "carla", "{next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_waits_for_its_100_does_not_cost_the_sign_in() {
    let house = House::start().await;
    let (ana, mut client) = (ntlm("ana"), house.wire().await);
    let post = |fields: &str| {
        format!(
            "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: h\r\n{fields}Content-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
    };
    let mut authorization = format!("Authorization: {}\r\n", ana.first());
    let mut connections = HashSet::new();
    for status in ["401", "200", "200", "200"] {
        client.send(post(&authorization)).await;
        let interim = client.head().await;
        assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
        client.send("hello").await;
        let head = client.head().await;
        client.body(&head).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert_eq!(field(&head, "connection"), Some("keep-alive"), "{head}");
        connections.insert(field(&head, "x-contoso-connection").map(ToOwned::to_owned));
        authorization = match field(&head, "www-authenticate") {
            Some(challenge) => format!("Authorization: {}\r\n", ana.answer(challenge)),
            None => String::new(),
        };
    }
    assert_eq!(connections.len(), 1, "{connections:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_would_be_taken_away_on_the_way_is_refused() {
    let house = House::start().await;
    let forged = [("Connection", "keep-alive, Authorization")];
    let answer = ask(&mut house.client().await, &ntlm("carla").first(), Method::GET, "/owa/", &forged).await;
    assert_eq!((answer.status.as_u16(), answer.server()), (400, ""), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_to_a_site_that_is_down() {
    let house = House::start().await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.contoso.server(server).stop().await;
    }
    house.get("bruno", "/owa/").await; // finds out
    let answer = get(&house, "bruno", "/owa/").await;
    assert_eq!((answer.status.as_u16(), answer.user()), (200, "bruno"), "Lisbon's answer stands: {answer:?}");
}
