//! The whole of Contoso behind a real edge, on free loopback ports, and clients that hold their connections in hand.

use std::{
    fmt::Write as _,
    future::Future,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use firstcas::{
    Running,
    config::Config,
    directory::ldif,
    running::{ReloadError, Reloaded},
};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use crate::{
    contoso::{Contoso, any_port, pki::Pki},
    record,
    wire::Wire,
};

/// No test waits longer for anything.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Contoso, an edge in front of it, and the folder with its files.
pub struct House {
    pub contoso: Contoso,
    pub edge: Option<Running>,
    pub folder: TempDir,
}

/// What is otherwise than in the demo.
#[derive(Default)]
pub struct Plan {
    /// Further lines of configuration, as in [`House::with`].
    pub further: String,
    /// Addresses that take a server of contoso's place, by `host:port`.
    pub instead: Vec<(&'static str, SocketAddr)>,
    /// Further addresses, by `host:port`.
    pub resolve: Vec<(&'static str, SocketAddr)>,
    /// Entries that the directory has besides `conf/contoso.ldif`.
    pub people: String,
    /// A last word on what `conf/contoso.ldif` says.
    pub rewrite: Option<fn(&str) -> String>,
    /// A last word on the configuration, for values below what a file may have.
    pub adjust: Option<fn(&mut Config)>,
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
        House::planned(Plan { further: further.into(), ..Plan::default() }).await
    }

    /// Contoso and an edge as planned.
    pub async fn planned(plan: Plan) -> House {
        let mut house = House::without_edge(&plan).await;
        house.edge = Some(start_edge(&house.contoso, &house.folder, plan).await);
        house
    }

    /// Contoso as planned, and nobody in front of it.
    pub async fn without_edge(plan: &Plan) -> House {
        record::start();
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pki = Pki::load_or_make(folder.path()).expect("certificates");
        let contoso_ldif = std::fs::read_to_string("conf/contoso.ldif").expect("the LDIF file");
        let contoso_ldif = match plan.rewrite {
            Some(rewrite) => rewrite(&contoso_ldif),
            None => contoso_ldif,
        };
        let ldif_file = folder.path().join("contoso.ldif");
        std::fs::write(&ldif_file, format!("{contoso_ldif}\n{}", plan.people)).expect("the LDIF file is written");
        let directory = Arc::new(ldif::open(&ldif_file).expect("the LDIF file"));
        let contoso = Contoso::start(directory, &pki, any_port).await.expect("contoso");
        House { contoso, edge: None, folder }
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

    /// A new connection to the plain listener for bytes as they are.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.plain()).await
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, user: &str, method: Method, target: &str) -> Answer {
        self.client().await.ask(method, target).basic(user, "Pass-word1").send().await
    }

    /// One GET on a connection of its own.
    pub async fn get(&self, user: &str, target: &str) -> Answer {
        self.ask(user, Method::GET, target).await
    }

    /// The configuration that the edge was started with.
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join("firstcas.toml")
    }

    /// Replaces a part of the configuration, without the edge's knowing.
    pub fn edit_config(&self, part: &str, by: &str) {
        let text = std::fs::read_to_string(self.config_file()).expect("the configuration");
        assert!(text.contains(part), "{part:?} is not in {text}");
        std::fs::write(self.config_file(), text.replace(part, by)).expect("the configuration is written");
    }

    /// What SIGHUP does.
    pub async fn reload(&self) -> Result<Reloaded, ReloadError> {
        let edge = self.edge.as_ref().expect("a running edge");
        within("the reload", edge.reload(&self.config_file())).await
    }

    /// Requests that reached any server of contoso.
    pub fn requests_behind(&self) -> u64 {
        self.contoso.servers().iter().map(crate::contoso::server::StandIn::requests).sum()
    }
}

impl Drop for House {
    fn drop(&mut self) {
        drop(self.edge.take()); // before contoso, so that nobody logs servers that are gone
    }
}

/// The value of an `Authorization: Basic` field for one of contoso's people.
pub fn credential(user: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:Pass-word1")))
}

/// Waits until something has become true that nobody announces.
pub async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    let mut is_so = is_so;
    let wait = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    within(what, wait).await;
}

/// What comes of it, before the deadline.
pub async fn within<T>(what: &str, work: impl Future<Output = T>) -> T {
    timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("not before the deadline: {what}"))
}

/// An edge in front of contoso.
pub async fn start_edge(contoso: &Contoso, folder: &TempDir, plan: Plan) -> Running {
    let config = config_file(contoso, folder, &plan);
    tokio::task::spawn_blocking(move || {
        let mut config = Config::load(&config).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        if let Some(adjust) = plan.adjust {
            adjust(&mut config);
        }
        firstcas::start(config).expect("an edge")
    })
    .await
    .expect("the edge starts")
}

/// Writes the configuration of an edge.
pub fn config_file(contoso: &Contoso, folder: &TempDir, plan: &Plan) -> PathBuf {
    let place = folder.path().display();
    let further = plan.further.replace("@FOLDER@", &place.to_string());
    let further = if further.contains("@FINGERPRINT@") {
        further.replace("@FINGERPRINT@", &fingerprint(&folder.path().join("servers.pem")))
    } else {
        further
    };
    // A table of its own would take the keys after it, so tables come last.
    let (further, tables) = further.split_at(further.find("\n[").unwrap_or(further.len()));
    let ldif = format!("directory.ldif = \"{place}/contoso.ldif\"\n");
    let mut text = format!(
        "{further}\n\
         {local_site}\
         {ca}\
         {directory}\
         {health}\
         [[listener]]\naddress = \"127.0.0.1:0\"\n{trusted_form}\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         tls = {{ certificate = \"{place}/edge.pem\", key = \"{place}/edge.key\"{http2} }}\n\
         {logon_form}\
         {tables}\n\
         [resolve]\n",
        local_site = if further.contains("routing.local_site") { "" } else { "routing.local_site = \"Lisbon\"\n" },
        ca = if further.contains("upstream.ca ") || further.contains("upstream.insecure") {
            String::new()
        } else {
            format!("upstream.ca = \"{place}/ca.pem\"\n")
        },
        directory = if further.contains("directory.") { "" } else { &ldif },
        // Tests count connections and requests; those of the checks would be among them.
        health =
            if further.contains("health.") { "" } else { "health.interval = \"0s\"\nhealth.slow_start = \"0s\"\n" },
        logon_form = if further.contains("# logon form") { "logon_form = true\n" } else { "" },
        trusted_form = match further.contains("# trusted form") {
            true => "logon_form = true\ntrusted_proxies = [\"127.0.0.1\"]\n",
            false => "",
        },
        http2 = if further.contains("# http2") { ", http2 = true" } else { "" },
    );
    for (host, address) in contoso.resolve() {
        let address =
            plan.instead.iter().find(|(name, _)| *name == host).map_or(address, |(_, other)| other.to_string());
        writeln!(text, "\"{host}\" = \"{address}\"").expect("a String grows");
    }
    for (host, address) in &plan.resolve {
        writeln!(text, "\"{host}\" = \"{address}\"").expect("a String grows");
    }
    let file = folder.path().join("firstcas.toml");
    std::fs::write(&file, text).expect("the configuration is written");
    file
}

/// As the sample configuration says that an administrator finds it.
fn fingerprint(certificate: &Path) -> String {
    let command = ["x509", "-noout", "-fingerprint", "-sha256", "-in"];
    let said = Command::new("openssl").args(command).arg(certificate).output();
    let said = said.expect("openssl is installed (Debian: openssl)").stdout;
    let said = String::from_utf8(said).expect("text");
    said.trim().rsplit('=').next().expect("a fingerprint").to_owned()
}

impl Client {
    /// A new connection.
    pub async fn connect(address: SocketAddr) -> Client {
        Client::over(TcpStream::connect(address).await.expect("the edge accepts")).await
    }

    /// Over this connection.
    pub async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Client {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a handshake");
        tokio::spawn(connection);
        Client { sender }
    }

    /// A request on this connection.
    pub fn ask(&mut self, method: Method, target: &str) -> Asking<'_> {
        self.ask_of(method, target, "mail.contoso.com")
    }

    /// A request on this connection, of a host that is called so.
    pub fn ask_of(&mut self, method: Method, target: &str, host: &str) -> Asking<'_> {
        let request = Request::builder().method(method).uri(target).header("Host", host);
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
