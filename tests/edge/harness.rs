//! The whole of Contoso behind a real edge, on free loopback ports, and clients that hold their connections in hand.

use std::{fmt::Write as _, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use firstcas::{Running, config::Config, directory::ldif};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::TcpStream, time::timeout};

use crate::contoso::{Contoso, any_port, pki::Pki};

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Contoso, an edge in front of it, and the folder with its files.
pub struct House {
    pub contoso: Contoso,
    pub edge: Option<Running>,
    pub folder: TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// One client connection.
pub struct Client {
    sender: SendRequest<Full<Bytes>>,
}

/// A request being put together.
pub struct Asking<'c> {
    client: &'c mut Client,
    request: http::request::Builder,
    body: Bytes,
}

impl House {
    /// Contoso as it is, the edge as the demo runs it.
    pub async fn start() -> House {
        House::with("").await
    }

    /// The same with further lines of configuration. Tables that the basic configuration has already (`[routing]`,
    /// `[upstream]`) are given as dotted keys (`routing.x = 1`).
    pub async fn with(further: &str) -> House {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::load_or_make(folder.path()).expect("certificates");
        let directory = Arc::new(ldif::open("conf/contoso.ldif").expect("the LDIF file"));
        let contoso = Contoso::start(directory, &pki, any_port).await.expect("contoso");
        let edge = start_edge(&contoso, &folder, further).await;
        House { contoso, edge: Some(edge), folder }
    }

    /// Where the edge's plain listener is.
    pub fn plain(&self) -> SocketAddr {
        self.edge.as_ref().expect("a running edge").addresses()[0]
    }

    /// Where its TLS listener is.
    pub fn tls(&self) -> SocketAddr {
        self.edge.as_ref().expect("a running edge").addresses()[1]
    }

    /// A new client connection to the plain listener.
    pub async fn client(&self) -> Client {
        Client::connect(self.plain()).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, user: &str, method: Method, target: &str) -> Answer {
        self.client().await.ask(method, target).basic(user, "Pass-word1").send().await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, user: &str, target: &str) -> Answer {
        self.ask(user, Method::GET, target).await
    }
}

impl Drop for House {
    fn drop(&mut self) {
        drop(self.edge.take()); // before contoso, so that nobody logs servers that are gone
    }
}

/// An edge in front of contoso.
pub async fn start_edge(contoso: &Contoso, folder: &TempDir, further: &str) -> Running {
    let config = config_file(contoso, folder, further);
    tokio::task::spawn_blocking(move || {
        let config = Config::load(&config).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        firstcas::start(config).expect("an edge")
    })
    .await
    .expect("the edge starts")
}

fn config_file(contoso: &Contoso, folder: &TempDir, further: &str) -> PathBuf {
    let place = folder.path().display();
    let mut text = format!(
        "{further}\n\
         routing.local_site = \"Lisbon\"\n\
         upstream.ca = \"{place}/ca.pem\"\n\
         {directory}\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"{place}/edge.pem\", key = \"{place}/edge.key\"{http2} }}\n\
         [resolve]\n",
        directory = if further.contains("directory.") { "" } else { "directory.ldif = \"conf/contoso.ldif\"\n" },
        http2 = if further.contains("# http2") { ", http2 = true" } else { "" },
    );
    for (host, address) in contoso.resolve() {
        writeln!(text, "\"{host}\" = \"{address}\"").expect("a String grows");
    }
    let file = folder.path().join("firstcas.toml");
    std::fs::write(&file, text).expect("the configuration is written");
    file
}

impl Client {
    /// A new connection.
    pub async fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.expect("the edge accepts");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        Client { sender }
    }

    /// A request on this connection.
    pub fn ask(&mut self, method: Method, target: &str) -> Asking<'_> {
        let request = Request::builder().method(method).uri(target).header("Host", "mail.contoso.com");
        Asking { client: self, request, body: Bytes::new() }
    }

    /// A GET on this connection.
    pub fn get(&mut self, target: &str) -> Asking<'_> {
        self.ask(Method::GET, target)
    }
}

impl Asking<'_> {
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub fn basic(self, user: &str, password: &str) -> Self {
        let token = BASE64_STANDARD.encode(format!("{user}:{password}"));
        self.header("Authorization", &format!("Basic {token}"))
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The answer, or why there is none.
    pub async fn try_send(self) -> Result<Answer, hyper::Error> {
        let request = self.request.body(Full::new(self.body)).expect("a request");
        let exchange = async {
            self.client.sender.ready().await?;
            let answer = self.client.sender.send_request(request).await?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await?.to_bytes();
            let body = String::from_utf8_lossy(&body).into_owned();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        timeout(DEADLINE, exchange).await.expect("an answer before the deadline")
    }

    pub async fn send(self) -> Answer {
        self.try_send().await.expect("an answer")
    }
}

impl Answer {
    /// A field's value; empty if it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }

    /// Which server of contoso answered; empty if the edge did itself.
    pub fn server(&self) -> &str {
        self.header("X-Contoso-Server")
    }

    /// Whom that server authenticated.
    pub fn user(&self) -> &str {
        self.header("X-Contoso-User")
    }

    /// The number of the connection it came over.
    pub fn connection(&self) -> &str {
        self.header("X-Contoso-Connection")
    }
}
