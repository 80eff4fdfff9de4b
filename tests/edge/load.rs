//! Clients of every kind that never rest, and a strict count of what they get: an answer that is not what it should be, a
//! connection that is refused, and one that closes although nobody said so are all failures.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    harness::{DEADLINE, credential, until},
    windows_client::Handshake,
};

/// A load that goes on until it is stopped.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

struct Shared {
    place: Place,
    stopped: AtomicBool,
    answers: [AtomicU64; Way::ALL.len()],
    failures: Mutex<Vec<String>>,
}

/// Where to go.
#[derive(Clone)]
pub struct Place {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    pub connector: TlsConnector,
    /// The same with HTTP/2.
    pub h2_connector: TlsConnector,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One connection for as long as it is let.
    KeepAlive,
    /// The same, with pauses.
    Pausing,
    /// A connection for each request.
    Anew,
    /// A connection for a sign-in by NTLM and a few requests.
    Ntlm,
    TlsKeepAlive,
    TlsAnew,
    TlsNtlm,
    Http2,
}

impl Way {
    pub const ALL: [Way; 8] =
        [Way::KeepAlive, Way::Pausing, Way::Anew, Way::Ntlm, Way::TlsKeepAlive, Way::TlsAnew, Way::TlsNtlm, Way::Http2];
}

impl Load {
    /// So many clients of each kind.
    pub fn start(place: Place, of_each: usize) -> Load {
        let (answers, failures) = (Default::default(), Mutex::default());
        let shared = Arc::new(Shared { place, stopped: AtomicBool::new(false), answers, failures });
        let mut clients = JoinSet::new();
        for way in Way::ALL.into_iter().flat_map(|way| std::iter::repeat_n(way, of_each)) {
            let shared = shared.clone();
            clients.spawn(async move {
                while !shared.is_over() {
                    if let Err(failure) = Box::pin(shared.visit(way)).await {
                        shared.failures().push(format!("{way:?}: {failure}"));
                    }
                }
            });
        }
        Load { shared, clients }
    }

    /// Returns when clients of every kind have got so many more answers.
    pub async fn goes_on(&self, answers: u64) {
        let counts = || Way::ALL.map(|way| self.shared.answers[way as usize].load(Relaxed));
        let before = counts();
        until("all clients get on", async || {
            tokio::time::sleep(Duration::from_millis(5)).await; // leaves the processor to them
            !self.shared.failures().is_empty() || counts().iter().zip(before).all(|(now, then)| now - then >= answers)
        })
        .await;
    }

    /// How many answers there were, and what went wrong.
    pub async fn stop(mut self) -> (u64, Vec<String>) {
        self.shared.stopped.store(true, Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client panics");
        }
        let failures = std::mem::take(&mut *self.shared.failures());
        (self.shared.answers.iter().map(|answers| answers.load(Relaxed)).sum(), failures)
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stopped.load(Relaxed) || self.failures().len() > FAILURES_MAX
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, way: Way) {
        self.answers[way as usize].fetch_add(1, Relaxed);
    }

    /// A connection from its beginning to its end.
    async fn visit(&self, way: Way) -> Result<(), String> {
        match way {
            Way::KeepAlive | Way::Pausing | Way::Anew => self.talk(way, self.tcp(self.place.plain).await?).await,
            Way::Ntlm => self.talk_ntlm(way, self.tcp(self.place.plain).await?).await,
            Way::TlsKeepAlive | Way::TlsAnew => self.talk(way, self.tls(&self.place.connector).await?).await,
            Way::TlsNtlm => self.talk_ntlm(way, self.tls(&self.place.connector).await?).await,
            Way::Http2 => self.talk_http2(self.tls(&self.place.h2_connector).await?).await,
        }
    }

    async fn tcp(&self, address: SocketAddr) -> Result<TcpStream, String> {
        soon("a connection", TcpStream::connect(address)).await
    }

    async fn tls(
        &self,
        connector: &TlsConnector,
    ) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>, String> {
        let stream = self.tcp(self.place.tls).await?;
        let name = ServerName::try_from("mail.contoso.com").expect("a name");
        soon("TLS", connector.connect(name, stream)).await
    }

    async fn talk(&self, way: Way, stream: impl Stream) -> Result<(), String> {
        let mut client = Http1::over(stream).await?;
        let authorization = credential("bruno");
        while !self.is_over() {
            let (status, headers) = client.ask(Some(&authorization)).await?;
            expect(StatusCode::OK, status)?;
            self.answered(way);
            if closes(&headers) || matches!(way, Way::Anew | Way::TlsAnew) {
                break;
            }
            if way == Way::Pausing {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(1..60))).await; // as people do
            }
        }
        Ok(())
    }

    async fn talk_ntlm(&self, way: Way, stream: impl Stream) -> Result<(), String> {
        let mut client = Http1::over(stream).await?;
        let handshake = Handshake::ntlm("CONTOSO\\ana");
        let (status, headers) = client.ask(Some(&handshake.first())).await?;
        expect(StatusCode::UNAUTHORIZED, status)?;
        if closes(&headers) {
            return Err("the connection closes in the middle of a handshake".into());
        }
        let challenge = headers.get("WWW-Authenticate").and_then(|value| value.to_str().ok()).ok_or("no challenge")?;
        let mut authorization = Some(handshake.answer(challenge));
        for _ in 0..REQUESTS_SIGNED_IN {
            let (status, headers) = client.ask(authorization.take().as_deref()).await?;
            expect(StatusCode::OK, status)?;
            if headers.get("X-Contoso-User").is_none_or(|user| user != "ana") {
                return Err(format!("somebody else than ana: {headers:?}"));
            }
            self.answered(way);
            if closes(&headers) {
                break;
            }
        }
        Ok(())
    }

    /// A request that the connection did not take any more was not sent, and is not lost.
    async fn talk_http2(&self, stream: impl Stream) -> Result<(), String> {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = soon("h2", handshake).await?;
        let connection = tokio::spawn(connection);
        while !self.is_over() && sender.ready().await.is_ok() {
            let uri = "https://mail.contoso.com/owa/";
            let request = Request::builder().uri(uri).header("Authorization", credential("bruno"));
            let request = request.body(Empty::<Bytes>::new()).expect("a request");
            let sent = sender.try_send_request(request);
            match timeout(DEADLINE, sent).await.map_err(|_| "no answer over HTTP/2")? {
                Err(mut error) => {
                    let was_sent = error.take_message().is_none();
                    return if was_sent { Err(format!("HTTP/2: {:?}", error.into_error())) } else { Ok(()) };
                }
                Ok(answer) => {
                    expect(StatusCode::OK, answer.status())?;
                    soon("a body", answer.into_body().collect()).await?;
                    self.answered(Way::Http2);
                }
            }
        }
        connection.abort();
        Ok(())
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

struct Http1(http1::SendRequest<Empty<Bytes>>);

impl Http1 {
    async fn over(stream: impl Stream) -> Result<Self, String> {
        let (sender, connection) = soon("HTTP", http1::handshake(TokioIo::new(stream))).await?;
        tokio::spawn(connection);
        Ok(Http1(sender))
    }

    async fn ask(&mut self, authorization: Option<&str>) -> Result<(StatusCode, HeaderMap), String> {
        soon("a connection that nobody said would close", self.0.ready()).await?;
        let mut request = Request::builder().uri("/owa/").header("Host", "mail.contoso.com");
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let request = request.body(Empty::new()).expect("a request");
        let (head, body): (_, Incoming) = soon("an answer", self.0.send_request(request)).await?.into_parts();
        soon("a body", body.collect()).await?;
        Ok((head.status, head.headers))
    }
}

fn closes(headers: &HeaderMap) -> bool {
    headers.get("Connection").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"))
}

fn expect(expected: StatusCode, status: StatusCode) -> Result<(), String> {
    if status == expected { Ok(()) } else { Err(format!("{status} instead of {expected}")) }
}

async fn soon<T, E: std::fmt::Debug>(what: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    timeout(DEADLINE, work)
        .await
        .map_err(|_| format!("{what}: not in time"))?
        .map_err(|error| format!("{what}: {error:?}"))
}

const REQUESTS_SIGNED_IN: usize = 4;
/// Enough to see what is wrong.
const FAILURES_MAX: usize = 20;
