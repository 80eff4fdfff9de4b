//! TLS on both sides: what is spoken, and who is believed.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};

use crate::{
    connections::raw,
    harness::{House, Plan, credential, within},
    openldap, record,
    wire::Wire,
};

pub async fn connect(
    house: &House,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(house.tls()).await.expect("the edge accepts");
    let name = ServerName::try_from("mail.contoso.com").expect("a name");
    within("TLS", connector(house, versions, protocols).connect(name, stream)).await.expect("a handshake")
}

/// A client's side of TLS that trusts the demo's certificate authority.
pub fn connector(house: &House, versions: &[&'static SupportedProtocolVersion], protocols: &[&str]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(house.folder.path().join("ca.pem")).expect("the CA");
    roots.add(ca).expect("a CA");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

const TLS12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
pub const TLS13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_are_spoken_with_the_configured_certificate() {
    let house = House::start().await;
    let configured = CertificateDer::from_pem_file(house.folder.path().join("edge.pem")).expect("a certificate");
    for versions in [TLS12, TLS13] {
        let stream = connect(&house, versions, &[]).await;
        let shown = stream.get_ref().1.peer_certificates().expect("certificates").first().cloned();
        assert_eq!(shown, Some(configured.clone()));
        let mut wire = Wire::over(stream);
        let ana = credential("ana");
        wire.send(format!(
            "GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\nAuthorization: {ana}\r\nX-Contoso-Echo: 1\r\n\r\n"
        ))
        .await;
        let head = wire.head().await;
        let echo = wire.body(&head).await;
        for line in ["\nx-forwarded-proto: https\n", "\nfront-end-https: On\n", "\nx-forwarded-for: 127.0.0.1\n"] {
            assert!(echo.contains(line), "{line} in {echo}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_1_is_refused() {
    let house = House::start().await;
    let mut hello = vec![0x03, 0x02]; // a ClientHello of TLS 1.1
    hello.extend([7; 32]);
    hello.push(0); // no session
    hello.extend([0, 4, 0xc0, 0x13, 0x00, 0x2f]); // ECDHE-RSA-AES128-SHA, AES128-SHA
    hello.extend([1, 0]); // no compression
    let mut record = vec![0x16, 0x03, 0x01, 0, 4 + u8::try_from(hello.len()).expect("short")];
    record.extend([1, 0, 0, u8::try_from(hello.len()).expect("short")]);
    record.extend(hello);
    let mut wire = Wire::connect(house.tls()).await;
    wire.send(record).await;
    let alert = wire.take(7).await;
    assert!(alert.as_bytes().ends_with(&[0, 2, 2, 70]), "fatal, protocol_version: {alert:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_is_not_offered_unless_it_is_turned_on() {
    let house = House::start().await;
    let stream = connect(&house, TLS13, &["h2", "http/1.1"]).await;
    assert_ne!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_basic_works_and_windows_authentication_is_sent_to_http1() {
    let house = House::with("# http2").await;
    let stream = connect(&house, TLS13, &["h2", "http/1.1"]).await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within("h2", handshake).await.expect("h2");
    tokio::spawn(connection);
    let ask = |user: &str, authorization: &str, echo: &str| {
        let target = format!("https://mail.contoso.com/owa/?u={user}");
        let request =
            Request::builder().uri(target).header("Authorization", authorization).header("X-Contoso-Echo", echo);
        let request = request.header("Cookie", "sessionid=1").header("Cookie", "cadata=2"); // as browsers split them
        let request = request.header("X-Long", "x".repeat(70_000));
        request.body(Empty::<bytes::Bytes>::new()).expect("a request")
    };
    for (user, server) in [("ana", "cas-lis-"), ("bruno", "cas-opo-")] {
        let answer = within("h2", sender.send_request(ask(user, &credential(user), "1"))).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        assert!(answer.headers()["X-Contoso-Server"].to_str().expect("text").starts_with(server));
        let body = within("h2", answer.into_body().collect()).await.expect("a body").to_bytes();
        let echo = String::from_utf8_lossy(&body).into_owned();
        assert!(echo.contains("\nhost: mail.contoso.com\n"), "{echo}");
        assert!(echo.contains("\nx-forwarded-host: mail.contoso.com\n"), "{echo}");
        assert!(echo.contains("\nfront-end-https: On\n"), "{echo}");
        assert!(echo.contains("\ncookie: sessionid=1; cadata=2\n"), "{echo}");
        assert!(echo.contains(&"x".repeat(70_000)));
    }
    let before = house.requests_behind();
    for scheme in ["NTLM TlRMTVNTUAABAAAA", "Negotiate YIIB"] {
        let error = within("h2", sender.send_request(ask("ana", scheme, "1"))).await.expect_err("a reset");
        let h2 = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<h2::Error>());
        assert_eq!(h2.and_then(h2::Error::reason), Some(h2::Reason::HTTP_1_1_REQUIRED), "{error:?}");
    }
    assert_eq!(house.requests_behind(), before, "not a byte of it went on");
    let answer = within("h2", sender.send_request(ask("ana", &credential("ana"), "1"))).await;
    assert_eq!(answer.expect("the connection lives on").status(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_connection_has_its_place_also_while_it_asks_nothing() {
    let house = House::with("# http2\nlimits.client_connections = 2\nlimits.connections_per_client = 100").await;
    let mut inside = Vec::new();
    for _ in 0..2 {
        let stream = connect(&house, TLS13, &["h2"]).await;
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = within("h2", handshake).await.expect("h2");
        tokio::spawn(connection);
        let request =
            Request::builder().uri("https://mail.contoso.com/owa/").header("Authorization", credential("ana"));
        let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
        let answer = within("h2", sender.send_request(request)).await.expect("an answer");
        within("h2", answer.into_body().collect()).await.expect("a body");
        inside.push(sender);
    }
    let outside = house.client().await.get("/owa/").try_send().await;
    assert!(outside.is_err(), "{outside:?}");
    drop(inside);
    let next = async { while house.client().await.get("/owa/").try_send().await.is_err() {} };
    within("a free place", next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_header_over_its_limit_is_refused() {
    let house = House::with("# http2\nlimits.header = \"65536\"").await;
    let stream = connect(&house, TLS13, &["h2"]).await;
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within("h2", handshake).await.expect("h2");
    tokio::spawn(connection);
    let mut request =
        Request::builder().uri("https://mail.contoso.com/owa/").header("Authorization", credential("ana"));
    for number in 0..20 {
        request = request.header(format!("x-long-{number}"), "x".repeat(4000));
    }
    let request = request.body(Empty::<bytes::Bytes>::new()).expect("a request");
    match within("h2", sender.send_request(request)).await {
        Ok(answer) => assert_eq!(answer.status(), 431),
        Err(error) => assert!(error.to_string().contains("http2"), "{error:?}"), // refused by the protocol itself
    }
    assert_eq!(house.requests_behind(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirecting_listener_sends_everybody_to_the_one_https_address() {
    let further = "\n[[listener]]\naddress = \"127.0.0.1:0\"\nredirect_to_https = \"https://mail.contoso.com\"\n";
    let house = House::with(further).await;
    let redirecting = house.edge.as_ref().expect("it runs").addresses()[2];
    for (target, host, location) in [
        ("/owa/?a=1&b=%20", "mail.contoso.com", "https://mail.contoso.com/owa/?a=1&b=%20"),
        ("/", "evil.example", "https://mail.contoso.com/"),
        ("//evil.example/", "mail.contoso.com", "https://mail.contoso.com//evil.example/"),
        ("http://evil.example/owa/", "evil.example", "https://mail.contoso.com/owa/"),
        (".evil.example/", "mail.contoso.com", "https://mail.contoso.com/"),
        ("@evil.example/", "mail.contoso.com", "https://mail.contoso.com/"),
        (":1@evil.example/", "mail.contoso.com", "https://mail.contoso.com/"),
        ("*", "mail.contoso.com", "https://mail.contoso.com/"),
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let request =
                format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            let answer = raw(redirecting, request.as_bytes()).await;
            if answer.starts_with("HTTP/1.1 400 ") && !target.starts_with('/') {
                continue; // no such target, says Pingora
            }
            assert!(answer.starts_with("HTTP/1.1 307 "), "{method} {target}: {answer}");
            assert!(answer.contains(&format!("\r\nLocation: {location}\r\n")), "{method} {target}: {answer}");
        }
    }
    assert_eq!(house.requests_behind(), 0);
}

/// A folder with a certificate authority that nobody knows.
fn stranger() -> (TempDir, openldap::Authority) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = openldap::authority();
    std::fs::write(folder.path().join("stranger.pem"), authority.pem()).expect("written");
    (folder, authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_an_unknown_authority_gets_no_request() {
    let (folder, _) = stranger();
    let ca = folder.path().join("stranger.pem");
    let house = House::with(&format!("\n[sites.Porto]\nca = \"{}\"\n", ca.display())).await;
    let answer = house.ask("bruno", Method::POST, "/Microsoft-Server-ActiveSync?Cmd=Sync&User=bruno").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("Retry-After").parse::<u32>().is_ok());
    let event = record::line(&["event=FC113", "cas-opo-", "not believed"]).await;
    assert!(event.contains("cure=give the server a certificate"), "{event}");
    assert_eq!(house.requests_behind(), 0);
    assert_eq!(house.get("ana", "/owa/").await.status, 200, "the other sites' servers are believed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_believed_by_its_fingerprint_alone() {
    let (folder, _) = stranger();
    let ca = folder.path().join("stranger.pem");
    let further = format!("upstream.ca = \"{}\"\n[sites.Porto]\nfingerprints = [\"@FINGERPRINT@\"]\n", ca.display());
    let house = House::with(&further).await;
    assert_eq!(house.get("bruno", "/owa/").await.user(), "bruno");
    assert_eq!(house.get("ana", "/owa/").await.status, 503, "Lisbon's servers are still unknown");

    let other = "E3:B0:C4:42:98:FC:1C:14:9A:FB:F4:C8:99:6F:B9:24:27:AE:41:E4:64:9B:93:4C:A4:95:99:1B:78:52:B8:55";
    let house = House::with(&format!("\n[sites.Porto]\nfingerprints = [\"{other}\"]\n")).await;
    assert_eq!(house.get("bruno", "/owa/").await.status, 503);
    record::line(&["event=FC113", "cas-opo-", "fingerprint"]).await;
    assert_eq!(house.requests_behind(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insecure_site_is_believed_whoever_it_is() {
    let (folder, _) = stranger();
    let ca = folder.path().join("stranger.pem");
    let house = House::with(&format!("upstream.ca = \"{}\"\n[sites.Porto]\ninsecure = true\n", ca.display())).await;
    assert_eq!(house.get("bruno", "/owa/").await.user(), "bruno");
    assert_eq!(house.get("ana", "/owa/").await.status, 503);
}

/// A server of one answer, with a certificate for this name.
async fn named(name: &str, authority: &openldap::Authority) -> SocketAddr {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name); // else it has the authority's and seems to sign itself
    let certificate = params.signed_by(&key, authority).expect("a certificate").der().clone();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(stream) = acceptor.accept(stream).await {
                let mut wire = Wire::over(stream);
                wire.head().await;
                wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_name_is_not_believed() {
    let (folder, authority) = stranger();
    let ca = folder.path().join("stranger.pem");
    let further = format!("\n[sites.Madrid]\nca = \"{}\"\n", ca.display());
    for (name, status) in [("cas-mad-1.contoso.com", 200), ("cas-mad-2.contoso.com", 503)] {
        let instead = vec![("cas-mad-1.contoso.com:443", named(name, &authority).await)];
        let house = House::planned(Plan { further: further.clone(), instead, ..Plan::default() }).await;
        let answer = house.ask("carla", Method::POST, "/EWS/Exchange.asmx").await;
        if status == 200 {
            assert_eq!(answer.body, "ok", "{answer:?}");
        } else {
            assert!(answer.body.contains("ErrorNoRespondingCASInDestinationSite"), "{answer:?}");
            record::line(&["event=FC113", "cas-mad-1"]).await;
        }
    }
}

/// `openssl s_server`, which answers every GET with a page; ends when dropped.
struct OldServer {
    process: Child,
    address: SocketAddr,
    folder: TempDir,
}

impl OldServer {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let made = Command::new("openssl")
            .args("req -x509 -newkey rsa:2048 -nodes -keyout old.key -out old.pem -subj /CN=old".split(' '))
            .args(["-addext", "subjectAltName=DNS:cas-opo-1.contoso.com,DNS:cas-opo-2.contoso.com"])
            .current_dir(folder.path())
            .output()
            .expect("openssl is installed (Debian: openssl)");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut process = Command::new("openssl")
            .args(
                "s_server -accept 127.0.0.1:0 -cert old.pem -key old.key -tls1 -www -cipher AES128-SHA:@SECLEVEL=0"
                    .split(' '),
            )
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl is installed (Debian: openssl)");
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let address =
            lines.find_map(|line| line.strip_prefix("ACCEPT ")?.parse().ok()).expect("it says where it listens");
        std::thread::spawn(move || lines.count()); // so that it never waits for its reader
        OldServer { process, address, folder }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_only_tls_1_0_is_served_where_its_site_allows_it_and_nowhere_else() {
    let old = tokio::task::spawn_blocking(OldServer::start).await.expect("a server");
    let ca = old.folder.path().join("old.pem");
    for (allow, status) in [(true, 200), (false, 503)] {
        let further = format!("\n[sites.Porto]\nca = \"{}\"\nallow_tls_1_0 = {allow}\n", ca.display());
        let instead = vec![("cas-opo-1.contoso.com:443", old.address), ("cas-opo-2.contoso.com:443", old.address)];
        let house = House::planned(Plan { further, instead, ..Plan::default() }).await;
        let answer = house.get("bruno", "/owa/").await;
        assert_eq!(answer.status, status, "{answer:?}");
        if allow {
            assert!(answer.body.contains("TLSv1") && answer.body.contains("AES128-SHA"), "{answer:?}");
        } else {
            record::line(&["event=FC113", "cas-opo-", "TLSv1"]).await;
        }
    }
}
