//! Whose connection carries what.

use std::{collections::HashSet, net::SocketAddr};

use http::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    contoso::{server::StandIn, tickets::Ticket},
    harness::{Client, DEADLINE, House, until},
    windows_client::{Form, Handshake, kerberos},
};

/// Sends bytes as they are and returns everything that comes back until the edge closes.
pub async fn raw(edge: SocketAddr, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(edge).await.expect("the edge accepts");
        stream.write_all(bytes).await.expect("the edge reads");
        let mut answer = Vec::new();
        // A reset after the answer is as good as a close.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    timeout(DEADLINE, exchange).await.expect("the edge answers and closes before the deadline")
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_requests_of_many_clients_share_connections() {
    let house = House::start().await;
    let mut numbers = HashSet::new();
    for _ in 0..20 {
        numbers.insert(house.get("bruno", "/owa/").await.connection().to_owned());
    }
    // An answer may reach its client, and the next request the edge, just before the connection is put back.
    assert!(numbers.len() <= 10, "20 clients one after the other used {numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_bound_credential_neither_takes_nor_leaves_a_shared_connection() {
    let house = House::start().await;
    for scheme in ["NTLM TlRMTVNTUAABAAAA", "Negotiate YIIB", "Nego2 x", "Kerberos x", "Unheard-of x"] {
        let shared: HashSet<_> = shared_connections(&house).await;
        let mut pinned = house.client().await;
        let first = pinned.get("/owa/").header("Authorization", scheme).send().await;
        assert!(!shared.contains(first.connection()), "{scheme} took a shared connection");
        let second = pinned.get("/owa/").send().await;
        assert_eq!(second.connection(), first.connection(), "{scheme}: a pinned client keeps its connection");
        let third = pinned.get("/owa/").basic("ana", "Pass-word1").send().await;
        assert!(!shared.contains(third.connection()), "after {scheme} a client connection went back to sharing");
        let mut other = house.client().await;
        let theirs = other.get("/owa/").header("Authorization", scheme).send().await;
        assert_ne!(theirs.connection(), first.connection(), "{scheme}: two clients shared a pinned connection");
        drop((pinned, other));
        for number in shared_connections(&house).await {
            assert_ne!(number, first.connection(), "{scheme} left its connection to others");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_connection_ends_with_its_client() {
    let house = House::start().await;
    let open = || house.contoso.servers().iter().map(StandIn::open_connections).sum::<u64>();
    for target in ["/owa/", "/rpc/rpcproxy.dll?mbx-lis.contoso.com:6001"] {
        let mut client = house.client().await;
        let first = client.get(target).header("Authorization", "Negotiate YIIB").send().await;
        let second = client.get(target).send().await;
        assert_eq!(first.connection(), second.connection(), "it waits for its client");
        assert_eq!(open(), 1, "{target}");
        drop(client);
        until("the server's end is closed too", async || open() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outlook_anywhere_client_with_windows_authentication_has_its_connection_alone() {
    const CHANNEL: &str = "/rpc/rpcproxy.dll?mbx-lis.contoso.com:6001";
    let house = House::start().await;
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let mut client = house.client().await;
        let first = client.get(CHANNEL).header("Authorization", "NTLM TlRMTVNTUAABAAAA").send().await;
        assert_eq!(first.status, 401);
        assert!(seen.insert(first.connection().to_owned()), "two clients shared {}", first.connection());
        let second = client.get(CHANNEL).header("Authorization", "NTLM TlRMTVNTUAADAAAA").send().await;
        assert_eq!(second.connection(), first.connection(), "the handshake goes on where it began");
    }
    for target in [CHANNEL, "/owa/"] {
        let answer = house.get("ana", target).await;
        assert!(!seen.contains(answer.connection()), "{target} travelled on a pinned connection");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ntlm_handshake_over_activesync_reaches_porto_and_keeps_its_connection() {
    const SYNC: &str = "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno&DeviceId=d&DeviceType=t";
    let house = House::start().await;
    for form in [Form::Ntlm, Form::Negotiate, Form::Spnego] {
        let handshake = Handshake::ntlm("CONTOSO\\bruno").form(form);
        let mut client = house.client().await;
        let challenge = client.ask(Method::POST, SYNC).header("Authorization", &handshake.first()).send().await;
        assert_eq!((challenge.status.as_u16(), challenge.user()), (401, "-"), "{form:?}");
        assert!(challenge.server().starts_with("cas-opo-"), "{}", challenge.server());
        let answer = handshake.answer(challenge.header("WWW-Authenticate"));
        let signed_in = client.ask(Method::POST, SYNC).header("Authorization", &answer).send().await;
        assert_eq!((signed_in.status.as_u16(), signed_in.user()), (200, "bruno"), "{form:?}");
        let later = client.ask(Method::POST, SYNC).send().await;
        assert_eq!((later.status.as_u16(), later.user()), (200, "bruno"), "{form:?}: without a credential");
        for answer in [&signed_in, &later] {
            assert_eq!(answer.connection(), challenge.connection(), "{form:?}");
        }
        let other = house.client().await.ask(Method::POST, SYNC).send().await;
        assert_eq!((other.status.as_u16(), other.user()), (401, "-"), "another client");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_sent_unasked_serves_its_own_client_alone() {
    let house = House::start().await;
    let mut ana = house.client().await;
    let first = ana.get("/owa/").header("Authorization", &kerberos(&Ticket::of("ana"))).send().await;
    assert_eq!((first.status.as_u16(), first.user()), (200, "ana"));
    let later = ana.get("/owa/").send().await;
    assert_eq!((later.user(), later.connection()), ("ana", first.connection()));
    for number in shared_connections(&house).await {
        assert_ne!(number, first.connection());
    }
    assert_eq!(house.client().await.get("/owa/").send().await.status, 401, "another client");
}

/// The numbers of the connections that a few Basic clients, working at once, travel on.
async fn shared_connections(house: &House) -> HashSet<String> {
    let mut numbers = HashSet::new();
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..3 {
        clients.push(house.client().await);
    }
    let held = clients
        .iter_mut()
        .map(|client| client.get("/owa/").basic("ana", "Pass-word1").header("X-Contoso-Hold-Ms", "50").send());
    for answer in futures_util::future::join_all(held).await {
        numbers.insert(answer.connection().to_owned());
    }
    numbers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_servers_mailboxes_move_over_and_come_home() {
    let house = House::with("upstream.retry_dead_after = \"100ms\"").await;
    let home = house.get("bruno", "/owa/").await.server().to_owned();
    house.contoso.server(&home).stop().await;
    let elsewhere = house.get("bruno", "/owa/").await;
    assert_eq!(elsewhere.status, 200);
    assert_ne!(elsewhere.server(), home);
    assert!(elsewhere.server().starts_with("cas-opo-"));
    house.contoso.server(&home).start().expect("the same port again");
    timeout(DEADLINE, async { while house.get("bruno", "/owa/").await.server() != home {} })
        .await
        .expect("bruno comes home once his server answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_does_not_answer_is_said_to_each_client_in_its_form() {
    let house = House::start().await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.contoso.server(server).stop().await;
    }
    let page = house.get("bruno", "/owa/").await;
    assert_eq!(page.status, 503);
    assert!(page.body.contains("not answering"), "{page:?}");
    assert!(!page.body.contains("Porto"), "an unproven client learns the site: {page:?}");
    let device = house.ask("bruno", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync").await;
    assert_eq!(device.status, 503);
    assert!(device.header("Retry-After").parse::<u32>().is_ok(), "{device:?}");
    let ews = house.ask("bruno", Method::POST, "/EWS/Exchange.asmx").await;
    assert!(ews.body.contains("ErrorNoRespondingCASInDestinationSite"), "{ews:?}");
    assert_eq!(house.get("ana", "/owa/").await.status, 200, "the other sites serve on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_may_have_been_delivered_is_never_sent_twice() {
    let house = House::start().await;
    let server = house.get("bruno", "/owa/").await.server().to_owned(); // and a kept connection is there to be reused
    let before = house.contoso.server(&server).requests();
    let mut client = house.client().await;
    let answer = client
        .ask(Method::POST, "/EWS/Exchange.asmx")
        .basic("bruno", "Pass-word1")
        .header("X-Contoso-Reset", "before")
        .body("<send/>")
        .send()
        .await;
    assert_eq!(answer.status, 502, "{answer:?}");
    let all: u64 = ["cas-opo-1", "cas-opo-2"].iter().map(|name| house.contoso.server(name).requests()).sum();
    assert_eq!(all, before + 1, "the request was delivered once");
}
