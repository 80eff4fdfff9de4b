//! Where administrators look at the edge: a page, the same as JSON, metrics, and whether it is alive and ready.
//!
//! Plain http on an address of its own, on a thread of its own: what is asked here never waits for clients, nor they for
//! it. It only reads; each request is answered by what is in force when it comes.

mod certificates;
mod numbers;
mod process;
mod status;

use std::{net::IpAddr, sync::Arc, sync::LazyLock, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::{Method, header::HOST, uri::Authority};
use pingora_core::{
    Result,
    apps::{HttpServerApp, ReusedHttpStream},
    protocols::http::ServerSession,
    server::ShutdownWatch,
    tls::hash::{MessageDigest, hash},
};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::{
    sync::{Semaphore, watch},
    time::timeout,
};
use url::form_urlencoded;

pub use certificates::Listeners;
pub use status::Status;

use crate::{
    edge::{door::Places, in_force::InForce},
    events::whole_chain,
    explain::{Question, QuestionParts, Rules, explain_as_served},
    routing::protocol::Protocol,
};

/// The application that listens for administrators.
pub struct Admin {
    in_force: Arc<ArcSwap<InForce>>,
    clients: Arc<Places>,
    listeners: Listeners,
    /// No new clients are taken any more.
    stopping: watch::Receiver<bool>,
    places: Semaphore,
}

/// What is answered.
struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
}

impl Admin {
    /// Shows what is in force, and of the edge that it is of: its places for `clients`, its `listeners`' certificates, and
    /// whether it is `stopping`.
    pub fn new(
        in_force: Arc<ArcSwap<InForce>>,
        clients: Arc<Places>,
        listeners: Listeners,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Admin { in_force, clients, listeners, stopping, places: Semaphore::new(CONNECTIONS_MAX) }
    }

    async fn serve(&self, session: &mut ServerSession) -> Result<()> {
        session.set_keepalive(None);
        let is_there = timeout(HEADER_PATIENCE, session.read_request()).await;
        if !is_there.unwrap_or(Ok(false))? {
            return Ok(()); // it closed, or says nothing while others wait for its place
        }
        session.set_keepalive(None); // the request's own wish does not count: a connection for each is cheap, and bounded
        let request = session.req_header();
        let is_head = request.method == Method::HEAD;
        let answer = self.answer(request).await;
        let body = Bytes::from(answer.body);
        let mut header = ResponseHeader::build(answer.status, Some(10))?;
        header.insert_header("Content-Type", answer.content_type)?;
        header.insert_header("Content-Length", body.len().to_string())?;
        header.insert_header("Content-Security-Policy", POLICY.as_str())?;
        header.insert_header("Cache-Control", "no-store")?;
        header.insert_header("X-Content-Type-Options", "nosniff")?;
        header.insert_header("Cross-Origin-Resource-Policy", "same-origin")?;
        header.insert_header("Referrer-Policy", "no-referrer")?;
        if answer.status == 405 {
            header.insert_header("Allow", "GET, HEAD")?;
        }
        session.write_response_header(Box::new(header)).await?;
        if !is_head {
            session.write_response_body(body, true).await?;
        }
        Ok(())
    }

    async fn answer(&self, request: &RequestHeader) -> Answer {
        let in_force = self.in_force.load_full();
        let names = in_force.config.admin.as_ref().map_or(&[][..], |admin| &admin.hosts);
        let mut hosts = request.headers.get_all(HOST).iter();
        let is_called_rightly = match (hosts.next(), hosts.next()) {
            (Some(host), None) => host.to_str().is_ok_and(|host| is_known(host, names)),
            _ => false,
        };
        if !is_called_rightly {
            return Answer::text(421, "call it by its IP address, by localhost, or by a name in admin.hosts\n");
        }
        if !matches!(request.method, Method::GET | Method::HEAD) {
            return Answer::text(405, "there is nothing to change here: only GET and HEAD are answered\n");
        }
        match request.uri.path() {
            "/" => Answer { status: 200, content_type: "text/html; charset=utf-8", body: PAGE.to_owned() },
            "/status.json" => match serde_json::to_string(&self.status(&in_force)) {
                Ok(body) => Answer { status: 200, content_type: "application/json", body },
                Err(error) => Answer::text(500, format!("the status cannot be written: {error}\n")),
            },
            "/metrics" => {
                let accept = request.headers.get(http::header::ACCEPT).and_then(|accept| accept.to_str().ok());
                let (content_type, body) = numbers::text(
                    &in_force,
                    &self.clients,
                    certificates::of(&self.listeners),
                    accept.unwrap_or_default(),
                );
                Answer { status: 200, content_type, body }
            }
            "/healthz" => Answer::text(200, "alive\n"),
            "/readyz" if self.is_stopping() => Answer::text(503, "draining: no new clients are taken\n"),
            "/readyz" => Answer::text(200, "ready\n"),
            "/explain" if is_led_here(request) => Answer::text(403, "another site's page may not ask the directory\n"),
            "/explain" => explained(&in_force, request.uri.query().unwrap_or_default()).await,
            _ => Answer::text(404, "there is /, /status.json, /metrics, /healthz, /readyz and /explain\n"),
        }
    }

    fn status(&self, in_force: &InForce) -> Status {
        Status::of(in_force, &self.clients, &self.listeners, self.is_stopping())
    }

    fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }
}

#[async_trait]
impl HttpServerApp for Admin {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        _: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let _place = self.places.try_acquire().ok()?;
        match timeout(PATIENCE, self.serve(&mut session)).await {
            Ok(Ok(())) => drop(timeout(PATIENCE, session.finish()).await),
            Ok(Err(error)) => log::debug!("an administrator's request broke off: {error}"),
            Err(_) => log::debug!("an administrator's request took longer than {} s", PATIENCE.as_secs()),
        }
        None
    }
}

impl Answer {
    fn text(status: u16, body: impl Into<String>) -> Self {
        Answer { status, content_type: "text/plain; charset=utf-8", body: body.into() }
    }
}

/// What `firstcas explain` would say, of what is in force.
async fn explained(in_force: &InForce, query: &str) -> Answer {
    let given = |key: &str| {
        let mut pairs = form_urlencoded::parse(query.as_bytes());
        pairs.find(|(name, value)| name == key && !value.is_empty()).map(|(_, value)| value.into_owned())
    };
    let (user, protocol) = (given("user"), given("protocol"));
    let (url, eas_version) = (given("url"), given("eas_version"));
    let Some(user) = user else {
        return Answer::text(400, "whose request? /explain?user=bruno&protocol=owa; also url= and eas_version=\n");
    };
    let protocol = match protocol.map(|name| name.parse::<Protocol>()).transpose() {
        Ok(protocol) => protocol,
        Err(error) => return Answer::text(400, format!("{error}\n")),
    };
    let parts = QuestionParts { user: &user, protocol, url: url.as_deref(), eas_version: eas_version.as_deref() };
    let question = match Question::new(parts, &in_force.config.routing) {
        Ok(question) => question,
        Err(error) => return Answer::text(400, format!("{error}\n")),
    };
    let organisation = &in_force.organisation;
    let rules = Rules { topology: &organisation.topology, policy: &organisation.policy, config: &in_force.config };
    let explanation = explain_as_served(&question, &in_force.directory, rules);
    match timeout(in_force.config.timeouts.directory.min(PATIENCE / 2), explanation).await {
        Ok(Ok(explanation)) => Answer::text(200, explanation.to_string()),
        Ok(Err(error)) => Answer::text(503, format!("{}\n", whole_chain(&*error))),
        Err(_) => Answer::text(503, "the directory did not answer in time\n"),
    }
}

/// Whether a `Host` is one that no page of somebody else's can have. A browser sends the name that it was led by, even where
/// that name leads to another address than before (DNS rebinding).
fn is_known(host: &str, names: &[String]) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_matches(['[', ']']);
    let is_address = name.parse::<IpAddr>().is_ok();
    !host.contains('@')
        && (is_address
            || name.eq_ignore_ascii_case("localhost")
            || names.iter().any(|known| name.eq_ignore_ascii_case(known)))
}

/// Whether a browser says that a page of somebody else's sends it.
fn is_led_here(request: &RequestHeader) -> bool {
    let mut says = request.headers.get_all("Sec-Fetch-Site").iter();
    says.any(|site| !matches!(site.as_bytes(), b"same-origin" | b"none"))
}

/// The page, whole.
const PAGE: &str = include_str!("admin/page.html");

/// Nothing runs, is shown or is asked for but what the page itself has.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash_of = |opening: &str, closing: &str| {
        let inside = PAGE.split_once(opening).and_then(|(_, rest)| rest.split_once(closing)).map_or("", |(it, _)| it);
        let digest = hash(MessageDigest::sha256(), inside.as_bytes());
        digest.map_or_else(|_| "'none'".to_owned(), |digest| format!("'sha256-{}'", BASE64_STANDARD.encode(digest)))
    };
    format!(
        "default-src 'none'; style-src {}; script-src {}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash_of("<style>", "</style>"),
        hash_of("<script>", "</script>")
    )
});

/// A few administrators, and what collects metrics.
const CONNECTIONS_MAX: usize = 32;

/// How long a connection may take until its request is there: idle ones must not keep out who asks whether the edge is ready.
const HEADER_PATIENCE: Duration = Duration::from_secs(2);

/// How long one request may take, from connecting to the end of its answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_nobody_else_can_have_are_answered() {
        let names = ["edge-1.contoso.com".to_owned()];
        for host in ["127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "10.1.2.3", "localhost:9090", "LocalHost"] {
            assert!(is_known(host, &[]), "{host}");
        }
        assert!(is_known("Edge-1.contoso.com:9090", &names));
        for host in ["", "evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example"] {
            assert!(!is_known(host, &names), "{host}");
        }
        for host in ["a@127.0.0.1", "127.0.0.1@evil.example", "edge-1.contoso.com.evil.example", "127.0.0.1 evil"] {
            assert!(!is_known(host, &names), "{host}");
        }
    }

    #[test]
    fn the_page_is_allowed_itself_and_nothing_else() {
        assert!(POLICY.starts_with("default-src 'none'; style-src 'sha256-"), "{}", *POLICY);
        assert!(POLICY.contains("; script-src 'sha256-"), "{}", *POLICY);
        assert_eq!(PAGE.matches("<script>").count(), 1);
        assert_eq!(PAGE.matches("<style>").count(), 1);
        for foreign in ["http://", "https://", "src=", "innerHTML", "@import", "url(", "style=\""] {
            let found = PAGE.replace("http://www.w3.org/2000/svg", "").contains(foreign);
            assert!(!found, "{foreign}");
        }
    }
}
