//! Behind a balancer: who the client is, and who may say so. The balancer is a real HAProxy.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Stdio},
};

use firstcas::Running;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    harness::{House, credential, until, within},
    record,
    wire::Wire,
};

/// Listeners after the two that every house has: for balancers, plain and with TLS, and for a proxy that speaks HTTP.
const LISTENERS: &str = "\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\n\
    tls = { certificate = \"@FOLDER@/edge.pem\", key = \"@FOLDER@/edge.key\" }\n\
    [[listener]]\naddress = \"127.0.0.1:0\"\ntrusted_proxies = [\"127.0.0.1\", \"10.9.9.9\"]\n\
    redirect_to_https = \"https://mail.contoso.com\"\n";

/// All of loopback is this machine; this address is none of the balancer's.
const CLIENT: &str = "127.0.0.77";

fn addresses(house: &House) -> [SocketAddr; 3] {
    house.edge.as_ref().map(Running::addresses).expect("it runs")[2..].try_into().expect("three more listeners")
}

/// A connection from the client's own address.
async fn from_the_client(to: SocketAddr) -> Wire {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((CLIENT.parse::<Ipv4Addr>().expect("an address"), 0).into()).expect("all of loopback is ours");
    Wire::over(within("a connection", socket.connect(to)).await.expect("somebody listens"))
}

fn request(path: &str, further: &str) -> String {
    let ana = credential("ana");
    format!(
        "GET {path} HTTP/1.1\r\nHost: mail.contoso.com\r\nAuthorization: {ana}\r\nX-Contoso-Echo: 1\r\n{further}\r\n"
    )
}

/// The answer's status line and what the server behind has seen.
async fn answered(wire: &mut Wire) -> (String, String) {
    let head = wire.head().await;
    let body = wire.body(&head).await;
    (head.lines().next().unwrap_or_default().to_owned(), body)
}

struct HaProxy(Child);

impl HaProxy {
    /// A balancer with these backends, each by a port of its own.
    async fn start<const N: usize>(folder: &Path, backends: [(&str, String); N]) -> (HaProxy, [SocketAddr; N]) {
        let free = backends.each_ref().map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let addresses = free.each_ref().map(|listener| listener.local_addr().expect("its address"));
        drop(free);
        let mut text =
            "global\n  maxconn 100\ndefaults\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n"
                .to_owned();
        for ((mode, lines), address) in backends.iter().zip(&addresses) {
            writeln!(text, "listen by_{}\n  mode {mode}\n  bind {address}\n{lines}", address.port())
                .expect("a String grows");
        }
        let file = folder.join("haproxy.cfg");
        std::fs::write(&file, text).expect("the configuration is written");
        let started = Command::new("haproxy").arg("-db").arg("-f").arg(&file).stdout(Stdio::null()).spawn();
        let haproxy = HaProxy(started.expect("HAProxy is installed (Debian: haproxy)"));
        for address in addresses {
            until("HAProxy listens", async || TcpStream::connect(address).await.is_ok()).await;
        }
        (haproxy, addresses)
    }
}

impl Drop for HaProxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_layer_4_balancer_the_client_is_who_its_header_says() {
    let house = House::with(LISTENERS).await;
    let [plain, tls, _] = addresses(&house);
    let (_haproxy, [v1, v2, v2_tls]) = HaProxy::start(
        house.folder.path(),
        [
            ("tcp", format!("  server edge {plain} send-proxy")),
            ("tcp", format!("  server edge {plain} send-proxy-v2 proxy-v2-options crc32c,unique-id")),
            ("tcp", format!("  server edge {tls} send-proxy-v2")),
        ],
    )
    .await;
    for (version, balancer) in [("v1", v1), ("v2", v2)] {
        let mut wire = from_the_client(balancer).await;
        for time in 1..=2 {
            let path = format!("/owa/balancer-{version}-{time}");
            wire.send(request(&path, "X-Forwarded-For: 6.6.6.6\r\n")).await;
            let (status, seen) = answered(&mut wire).await;
            assert!(status.starts_with("HTTP/1.1 200"), "{version}: {status}");
            assert!(seen.contains(&format!("\nx-forwarded-for: {CLIENT}\n")), "{version}, request {time}: {seen}");
            let line = record::line(&["firstcas::access", &format!(" path={path} ")]).await;
            assert!(line.contains(&format!(" client={CLIENT}:")), "{line}");
        }
    }
    let curl = Command::new("curl")
        .args(["-s", "--interface", CLIENT, "-u", "ana:Pass-word1", "-H", "X-Contoso-Echo: 1", "--max-time", "20"])
        .args(["--cacert", &house.folder.path().join("ca.pem").display().to_string()])
        .args(["--resolve", &format!("mail.contoso.com:{}:127.0.0.1", v2_tls.port())])
        .arg(format!("https://mail.contoso.com:{}/owa/", v2_tls.port()))
        .output();
    let seen = String::from_utf8_lossy(&curl.expect("curl is installed (Debian: curl)").stdout).into_owned();
    assert!(seen.contains(&format!("\nx-forwarded-for: {CLIENT}\n")), "{seen}");
    assert!(seen.contains("\nx-forwarded-proto: https\n"), "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_that_speaks_http_the_client_is_who_it_names() {
    let house = House::with(LISTENERS).await;
    let [_, _, http] = addresses(&house);
    let lines = format!("  option forwardfor\n  http-request set-header X-Forwarded-Proto https\n  server edge {http}");
    let (_haproxy, [balancer]) = HaProxy::start(house.folder.path(), [("http", lines)]).await;
    let mut wire = from_the_client(balancer).await;
    wire.send(request("/owa/named-by-a-proxy", "X-Forwarded-For: 6.6.6.6\r\n")).await;
    let (status, seen) = answered(&mut wire).await;
    assert!(status.starts_with("HTTP/1.1 200"), "who has come by https is not sent there: {status}");
    for field in [&format!("x-forwarded-for: {CLIENT}"), "x-forwarded-proto: https", "front-end-https: On"] {
        assert!(seen.contains(&format!("\n{field}\n")), "{field} in {seen}");
    }
    let line = record::line(&["firstcas::access", " path=/owa/named-by-a-proxy "]).await;
    assert!(line.contains(&format!(" client={CLIENT} ")), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_is_no_trusted_proxy_is_not_believed() {
    let house = House::with(LISTENERS).await;
    let [plain, tls, http] = addresses(&house);
    let mut wire = from_the_client(http).await;
    let lies = "X-Forwarded-For: 10.9.9.9\r\nX-Forwarded-Proto: https\r\n";
    wire.send(request("/owa/believed", lies)).await;
    assert!(wire.head().await.starts_with("HTTP/1.1 307 "), "it came by http, and is sent to https");
    let line = record::line(&["firstcas::access", " path=/owa/believed "]).await;
    assert!(line.contains(&format!(" client={CLIENT}:")), "{line}");

    let before = house.requests_behind();
    for listener in [plain, tls] {
        let mut wire = from_the_client(listener).await;
        let _ = wire.try_send("PROXY TCP4 10.9.9.9 127.0.0.1 1 2\r\n".to_owned() + &request("/owa/", "")).await;
        assert_eq!(wire.rest().await, "", "the connection is closed");
    }
    assert_eq!(house.requests_behind(), before);
    record::line(&["WARN firstcas::event", "event=FC134", CLIENT, &plain.to_string(), "cure="]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_speaks_for_itself_keeps_its_own_address() {
    let house = House::with(LISTENERS).await;
    let [plain, _, _] = addresses(&house);
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
    for header in [&local[..], b"PROXY UNKNOWN\r\n"] {
        let mut wire = Wire::connect(plain).await;
        for byte in header {
            wire.send([*byte]).await; // a header may come in pieces
        }
        let lies = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Request-Id: the-clients-own\r\n";
        wire.send(request("/owa/", lies)).await;
        let (_, seen) = answered(&mut wire).await;
        assert!(seen.contains("\nx-forwarded-for: 127.0.0.1\n"), "{seen}");
        assert!(seen.contains("\nx-forwarded-proto: http\n"), "{seen}");
        assert!(!seen.contains("the-clients-own"), "{seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_without_a_header_is_not_served_and_others_are() {
    let house = House::with(&format!("timeouts.client = \"1s\"{LISTENERS}")).await;
    let [plain, tls, _] = addresses(&house);
    let before = house.requests_behind();
    let endless = "PROXY TCP4 ".to_owned() + &"1".repeat(5000);
    let mut too_long = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec();
    too_long.resize(3000, 0);
    let unfinished = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x01\x02";
    let twice = b"PROXY UNKNOWN\r\nPROXY TCP4 10.9.9.9 127.0.0.1 1 2\r\nGET /owa/ HTTP/1.1\r\nHost: h\r\n\r\n";
    for bytes in [
        request("/owa/", "").as_bytes(),
        b"PROXY TCP4 10.9.9.9 127.0.0.1 1 99999999\r\n",
        endless.as_bytes(),
        &too_long,
        unfinished,
        b"PROXY",
        b"",
    ] {
        for listener in [plain, tls] {
            let mut wire = Wire::connect(listener).await;
            let _ = wire.try_send(bytes).await; // it may be closed before everything is sent
            assert_eq!(wire.rest().await, "", "{}", bytes.escape_ascii());
        }
    }
    let mut wire = Wire::connect(plain).await;
    wire.send(twice).await;
    assert!(wire.rest().await.starts_with("HTTP/1.1 400 "), "the second header is no HTTP");
    assert_eq!(house.requests_behind(), before, "nothing of it reached a server");
    record::line(&["ERROR firstcas::event", "event=FC135", &plain.to_string(), "cure="]).await;
    let mut wire = Wire::connect(plain).await;
    wire.send("PROXY TCP6 2001:db8::7 2001:db8::1 1 2\r\n".to_owned() + &request("/owa/", "")).await;
    let (_, seen) = answered(&mut wire).await;
    assert!(seen.contains("\nx-forwarded-for: 2001:db8::7\n"), "{seen}");
}
