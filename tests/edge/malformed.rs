//! Bytes that no well-meaning client sends: what the edge makes of them, and what of them arrives behind.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::{
    harness::{House, Plan, credential},
    tls,
    wire::Wire,
};

/// What a case must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not a byte arrives behind; the edge says 4xx or nothing, and closes.
    Refused,
    /// Its beginning may arrive; what is hidden behind it does not.
    CutOff,
    /// It is a request, in an odd spelling; behind, it arrives in the usual one.
    Served,
}
use End::{CutOff, Refused, Served};

/// In every case, what must never arrive as a request.
const SMUGGLED: &str = "GET /exchange/elsa/smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

/// A request: `@` is a path that leads to the server behind, followed by the fields that it needs.
fn spelled(case: &str) -> Vec<u8> {
    let elsa = credential("elsa");
    let fields = format!("/exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {elsa}\r\n");
    case.replace("@@", &fields).replace("SMUGGLED", SMUGGLED).replace("ELSA", &elsa).into_bytes()
}

/// What makes two servers in a row see different requests.
const FRAMING: &[(&str, End)] = &[
    ("POST @@Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\nSMUGGLED\r\n0\r\n\r\n", Refused),
    ("POST @@Content-Length: 0\r\ntransfer-encoding: CHUNKED\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding : chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@ Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Transfer-Encoding\r\n: chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Content-Length: 5\r\nContent-Length: 50\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: 5, 50\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: +5\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: -5\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: 0x5\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: 5 0\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: 5e0\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: \r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Content-Length: 18446744073709551616\r\n\r\nhelloSMUGGLED", Refused),
    ("POST @@Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED", Refused),
    ("POST @@Connection: Content-Length\r\nContent-Length: 95\r\n\r\nSMUGGLED", Refused),
];

/// What is no request line, or no field.
const HEADERS: &[(&str, End)] = &[
    ("GET @@X-A: b\r\n folded\r\n\r\n", Refused),
    ("GET @@X-A: b\r\n\tfolded\r\n\r\n", Refused),
    ("GET @@X-A: b\rX-C: d\r\n\r\n", Refused),
    ("GET @@X-A: b\0c\r\n\r\n", Refused),
    ("GET @@X-A\0: b\r\n\r\n", Refused),
    ("GET @@X-A: b\x1bc\r\n\r\n", Refused),
    ("GET @@X A: b\r\n\r\n", Refused),
    ("GET @@(X): b\r\n\r\n", Refused),
    ("GET @@: b\r\n\r\n", Refused),
    ("GET @@no colon\r\n\r\n", Refused),
    ("GET @@X-\u{e9}: b\r\n\r\n", Refused),
    ("GET @@Host: other\r\n\r\n", Refused),
    ("GET /exchange/elsa/\0 HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET /exchange/elsa/%00 HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET /exchange/elsa/%zz HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET /exchange/../elsa HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET http://other/exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET ftp://h/exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET exchange/elsa/ HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("GET * HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Refused),
    ("G@T @@\r\n", Refused),
    ("G\0T @@\r\n", Refused),
    ("G\"T @@\r\n", Refused),
    (" GET @@\r\n", Refused),
    ("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n", Refused),
    ("GET /exchange/elsa/\r\n\r\n", Refused),
    ("GET /exchange/elsa/ HTTP/0.9\r\n\r\n", Refused),
    ("GET /exchange/elsa/ HTTP/2.0\r\nHost: h\r\n\r\n", Refused),
    ("GET /exchange/elsa/ HTTP/1.10\r\nHost: h\r\n\r\n", Refused),
    ("GET /exchange/elsa/ HTTP/11\r\nHost: h\r\n\r\n", Refused),
    ("GET /exchange/elsa/ http/1.1\r\nHost: h\r\n\r\n", Refused),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Refused),
    ("\r\r\n\r\n\0", Refused),
    ("\u{80}\u{80}\r\n\r\n", Refused),
    ("GET @@Connection: close\r\n", Refused), // and nothing more
    ("GET @@Connection: close\r\nX-A: \u{e9}\r\n\r\n", Served),
    ("\r\nGET @@Connection: close\r\n\r\n", Served),
    ("GET /exchange/elsa/ HTTP/1.1\nHost: h\nAuthorization: ELSA\nConnection: close\n\n", Served),
    ("BREW @@Connection: close\r\n\r\n", Served),
    ("GET /exchange/elsa/ x HTTP/1.1\r\nHost: h\r\nAuthorization: ELSA\r\n\r\n", Served), // the space as %20
];

/// What is no body.
const BODIES: &[(&str, End)] = &[
    ("POST @@Transfer-Encoding: chunked\r\n\r\nxyz\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n-1\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n\r\nSMUGGLED", CutOff), // no size is taken for the last chunk's
    ("POST @@Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n5\r\nhelloX0\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n\x000\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n5\rhello\r\n0\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n0\r\nSMUGGLED", CutOff), // in the place of trailers
    ("POST @@Transfer-Encoding: chunked\r\n\r\n5;x=\"\r\nhello\r\n0\r\n", CutOff),
    ("POST @@Transfer-Encoding: chunked\r\n\r\n5\r\nhel", CutOff),
    ("POST @@Content-Length: 100\r\n\r\nhalf", CutOff),
    ("GET @@\r\nno request\r\n\r\nSMUGGLED", CutOff),
    ("POST @@Content-Length: 5\r\n\r\nhello, and more\r\n\r\nSMUGGLED", CutOff),
];

/// A server that answers every header at once and keeps all that arrives.
async fn back_end() -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let keeps = arrived.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let keeps = keeps.clone();
            tokio::spawn(async move {
                let (mut buffer, mut received) = (vec![0; 64 * 1024], Vec::new());
                while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                    keeps.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..bytes]);
                    received.extend_from_slice(&buffer[..bytes]);
                    if received.windows(4).any(|end| end == b"\r\n\r\n") {
                        received.clear();
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
                    }
                }
            });
        }
    });
    (address, arrived)
}

async fn each_comes_to_its_end(cases: &[(&str, End)]) {
    let (address, arrived) = back_end().await;
    let take = || std::mem::take(&mut *arrived.lock().unwrap_or_else(PoisonError::into_inner));
    let instead = vec![("ex03-lis.contoso.com:80", address)];
    let further = "timeouts.client = \"1s\"\ntimeouts.client_keepalive = \"1s\"".to_owned();
    let house = House::planned(Plan { further, instead, ..Plan::default() }).await;
    let mut wrong = Vec::new();
    for (case, end) in cases {
        for is_tls in [false, true] {
            let mut wire =
                if is_tls { Wire::over(tls::connect(&house, tls::TLS13, &[]).await) } else { house.wire().await };
            let _ = wire.try_send(spelled(case)).await; // the edge may have seen enough before everything is sent
            let answer = wire.rest().await;
            let seen = take();
            let seen = String::from_utf8_lossy(&seen);
            let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
            let is_right = match end {
                Refused => seen.is_empty() && status.is_none_or(|status| status.starts_with('4')),
                CutOff => !seen.contains("smuggled"),
                Served => status == Some("200") && seen.matches(" HTTP/1.1\r\n").count() == 1 && !seen.contains("\n\n"),
            };
            if !is_right {
                wrong.push(format!("{case:?}, TLS {is_tls}: answered {answer:?}; behind: {seen:?}"));
            }
        }
        assert_eq!(house.get("elsa", "/exchange/elsa/").await.status, 200, "after {case:?}");
        take();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_framing_hides_a_second_request() {
    each_comes_to_its_end(FRAMING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_header_goes_no_further() {
    each_comes_to_its_end(HEADERS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_body_ends_its_connection() {
    each_comes_to_its_end(BODIES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_end_are_refused() {
    let (address, arrived) = back_end().await;
    let instead = vec![("ex03-lis.contoso.com:80", address)];
    let house = House::planned(Plan { instead, ..Plan::default() }).await;
    let many = "X-A: b\r\n".repeat(300);
    let long = format!("X-A: {}\r\n", "b".repeat(2 << 20));
    let long_path = format!("GET /exchange/elsa/{}", "b".repeat(2 << 20));
    for request in [format!("GET @@{many}\r\n"), format!("GET @@{long}\r\n"), format!("{long_path} HTTP/1.1\r\n\r\n")] {
        let mut wire = house.wire().await;
        let _ = wire.try_send(spelled(&request)).await; // it is not read to its end
        let answer = wire.rest().await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(arrived.lock().unwrap_or_else(PoisonError::into_inner).is_empty());
    assert_eq!(house.get("elsa", "/exchange/elsa/").await.status, 200);
}
