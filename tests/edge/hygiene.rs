//! What a client may say, and what it may not.

use http::Method;

use crate::{
    connections::raw,
    harness::{House, credential},
    record,
};

/// A request that shows what arrives behind.
async fn echoed(house: &House, target: &str, fields: &[(&str, &str)]) -> String {
    let mut client = house.client().await;
    let mut asking = client.get(target).basic("ana", "Pass-word1").header("X-Contoso-Echo", "1");
    for (name, value) in fields {
        asking = asking.header(name, value);
    }
    let answer = asking.send().await;
    assert!(answer.server().starts_with("cas-lis-"), "{answer:?}");
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_could_be_read_two_ways_is_refused_and_its_connection_closed() {
    let house = House::start().await;
    let before = house.requests_behind();
    let ana = credential("ana");
    for (what, request) in [
        (
            "length and encoding",
            "POST /owa/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (
            "length and encoding the other way round",
            "POST /owa/ HTTP/1.1\r\nHost: h\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n"
                .to_owned(),
        ),
        (
            "two lengths",
            "POST /owa/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_owned(),
        ),
        ("a list of lengths", "POST /owa/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\nhello".to_owned()),
        (
            "encoding gzip",
            "POST /owa/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("two Hosts", "GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\nHost: evil.example\r\n\r\n".to_owned()),
        ("no Host", "GET /owa/ HTTP/1.1\r\n\r\n".to_owned()),
        ("a Host that is no name", "GET /owa/ HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned()),
        (
            "two Authorizations",
            format!(
                "GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {ana}\r\nAuthorization: NTLM TlRMTVNTUAABAAAA\r\n\r\n"
            ),
        ),
        ("a field name with a space", "GET /owa/ HTTP/1.1\r\nHost : h\r\n\r\n".to_owned()),
        ("a folded field", "GET /owa/ HTTP/1.1\r\nHost: h\r\nX-A: b\r\n c\r\n\r\n".to_owned()),
        (
            "encoding in HTTP/1.0",
            "POST /owa/ HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("not HTTP", "\x16\x03\x01\x02\r\n\r\n".to_owned()),
    ] {
        // `raw` returns when the edge closes, so that is asserted too.
        let answer = raw(house.plain(), request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{what}: {answer}");
    }
    assert_eq!(house.requests_behind(), before, "a malformed request reached a server");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_request_is_an_event_that_names_the_client() {
    let house = House::start().await;
    let request = "POST /owa/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    raw(house.plain(), request.as_bytes()).await;
    record::line(&["event=FC130", "127.0.0.1", "cure="]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_only_servers_set_are_gone_in_every_spelling() {
    let house = House::start().await;
    let forged = [
        "X-BEResource",
        "X_BEResource",
        "X-BETarget",
        "X-CommonAccessToken",
        "x_commonaccesstoken",
        "X-IsFromCafe",
        "X-SourceCafeServer",
        "msExchProxyUri",
        "msExchLogonMailbox",
        "X-OWA-ProxySid",
        "X_OWA_ProxyUri",
        "X-WLID-MemberName",
        "X_Forwarded_For",
        "X-Forwarded-Server",
        "X-Real-IP",
        "Forwarded",
        "Front_End_Https",
    ];
    let fields: Vec<_> = forged.iter().map(|name| (*name, "forged-by-the-client")).collect();
    let echo = echoed(&house, "/owa/", &fields).await;
    assert!(!echo.contains("forged-by-the-client"), "{echo}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_request_came_from_is_said_by_the_edge_alone() {
    let house = House::start().await;
    let echo = echoed(
        &house,
        "/owa/",
        &[
            ("X-Forwarded-For", "6.6.6.6"),
            ("X-Forwarded-Proto", "https"),
            ("X-Forwarded-Host", "evil.example"),
            ("Front-End-Https", "On"),
        ],
    )
    .await;
    for line in ["x-forwarded-for: 127.0.0.1\n", "x-forwarded-proto: http\n", "x-forwarded-host: mail.contoso.com\n"] {
        assert!(echo.contains(line), "{line} in {echo}");
    }
    assert!(!echo.contains("front-end-https"), "the client came without TLS: {echo}");
    assert!(!echo.contains("6.6.6.6") && !echo.contains("evil"), "{echo}");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_fields_pass_as_they_are() {
    let house = House::start().await;
    let fields = [
        ("X-AnchorMailbox", "ana@contoso.com"),
        ("X-PreferServerAffinity", "true"),
        ("X-OWA-CANARY", "abc"),
        ("Cookie", "sessionid=1; UserContext=2"),
        ("X-MS-PolicyKey", "123"),
        ("User-Agent", "a \"quoted\" one; (x)"),
        ("Accept-Encoding", "gzip, deflate"),
        ("X-Empty", ""),
    ];
    let echo = echoed(&house, "/owa/?a=%20b&c=%E4", &fields).await;
    assert!(echo.starts_with("GET /owa/?a=%20b&c=%E4 HTTP/1.1\n"), "{echo}");
    for (name, value) in fields {
        assert!(echo.contains(&format!("\n{}: {value}\n", name.to_lowercase())), "{name} in {echo}");
    }
    assert!(echo.contains("\nhost: mail.contoso.com\n"), "{echo}");
    assert!(echo.contains("\nauthorization: Basic\n"), "{echo}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_one_connection_stay_on_it() {
    let house = House::start().await;
    let fields = [("Keep-Alive", "timeout=5"), ("Proxy-Connection", "close"), ("TE", "gzip"), ("Upgrade", "evil/1")];
    let echo = echoed(&house, "/owa/", &fields).await;
    for (name, _) in fields {
        assert!(!echo.contains(&format!("\n{}:", name.to_lowercase())), "{name} in {echo}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_get_their_own_answers_or_none() {
    let house = House::start().await;
    let ask = |user: &str, last: &str| {
        format!("GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {}\r\n{last}\r\n", credential(user))
    };
    let both = ask("ana", "") + &ask("bruno", "Connection: close\r\n");
    let answers = raw(house.plain(), both.as_bytes()).await.to_lowercase();
    let users: Vec<_> = answers.lines().filter_map(|line| line.strip_prefix("x-contoso-user: ")).collect();
    assert!(users == ["ana"] || users == ["ana", "bruno"], "{users:?} in {answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_a_client_chooses_the_server() {
    let house = House::start().await;
    let home = house.get("bruno", "/owa/").await.server().to_owned();
    for (name, value) in [
        ("X-Forwarded-Host", "cas-mad-1.contoso.com"),
        ("X-BEServer", "cas-mad-1.contoso.com"),
        ("X-BEResource", "cas-mad-1.contoso.com/EWS/x~1942062522"),
        ("X-OriginalRequestHost", "cas-mad-1.contoso.com"),
        ("Cookie", "X-BEResource=cas-mad-1.contoso.com/x; X-AnonResource-Backend=cas-mad-1.contoso.com"),
    ] {
        let mut client = house.client().await;
        let answer = client.get("/owa/").basic("bruno", "Pass-word1").header(name, value).send().await;
        assert_eq!(answer.server(), home, "{name}: {value}");
    }
    for host in ["cas-mad-1.contoso.com", "cas-mad-1.contoso.com:443", "127.0.0.1"] {
        let request = format!(
            "GET /owa/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
            credential("bruno")
        );
        let answer = raw(house.plain(), request.as_bytes()).await.to_lowercase();
        assert!(answer.contains(&format!("x-contoso-server: {home}")), "Host {host}: {answer}");
    }
    // An anchor that is no mailbox, such as a server's name: the edge must not take it for an address.
    for anchor in ["cas-mad-1.contoso.com", "http://cas-mad-1.contoso.com/", "cas-mad-1.contoso.com:443", "a@b:443"] {
        let before = house.contoso.server("cas-mad-1").requests();
        let mut client = house.client().await;
        let asking = client.ask(Method::POST, "/EWS/Exchange.asmx").basic("bruno", "Pass-word1");
        let answer = asking.header("X-AnchorMailbox", anchor).send().await;
        assert_eq!(house.contoso.server("cas-mad-1").requests(), before, "{anchor}: {answer:?}");
    }
    for target in [
        "/rpc/rpcproxy.dll?cas-mad-1.contoso.com:6001",
        "/rpc/rpcproxy.dll?evil.example:6001",
        "/rpc/rpcproxy.dll?127.0.0.1:22",
    ] {
        let answer = house.ask("bruno", Method::GET, target).await;
        assert!(answer.server().starts_with("cas-lis-"), "{target}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absolute_request_target_leads_no_further_than_its_path() {
    let house = House::start().await;
    for (host, status) in [("mail.contoso.com", "200"), ("evil.example", "200")] {
        let request = format!(
            "GET http://{host}/owa/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nAuthorization: {}\r\n\r\n",
            credential("ana")
        );
        let answer = raw(house.plain(), request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
        assert!(answer.to_lowercase().contains("x-contoso-server: cas-lis-"), "{host}: {answer}");
    }
    let before = house.requests_behind();
    for request in [
        "GET http://evil.example/owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\n",
        "GET http://mail.contoso.com@evil.example/owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\n",
        "GET owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\n",
        "GET http:/owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: mail.contoso.com\r\n",
    ] {
        let answer = raw(house.plain(), format!("{request}Connection: close\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request}: {answer}");
    }
    let connect = "CONNECT cas-mad-1.contoso.com:443 HTTP/1.1\r\nHost: cas-mad-1.contoso.com:443\r\n\r\n";
    let answer = raw(house.plain(), connect.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
    assert_eq!(house.requests_behind(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_early_are_answered_one_after_the_other() {
    let house = House::start().await;
    let mut wire = house.wire().await;
    let post = |user: &str, path: &str| {
        let credential = credential(user);
        format!("POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: {credential}\r\nContent-Length: 5\r\n\r\nhello")
    };
    let first = post("ana", "/owa/first").replace("\r\n\r\n", "\r\nX-Contoso-Hold-Ms: 200\r\n\r\n");
    wire.send(&first).await; // and while it is held:
    wire.send(post("bruno", "/owa/second") + &post("ana", "/owa/third")).await;
    for user in ["ana", "bruno", "ana"] {
        let head = wire.head().await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        assert!(head.to_lowercase().contains(&format!("x-contoso-user: {user}")), "{head}");
        wire.body(&head).await;
    }
}
