//! The edge: Pingora's phases, each said in one sentence, and the parts that carry them out.
//!
//! | phase | what happens |
//! |---|---|
//! | before any | [`door`] bounds how long a client may take to send a header |
//! | `early_request_filter` | the client gets its time limits |
//! | `request_filter` | [`Edge::course`]: facts, identity, directory, decision; an answer of our own ends here |
//! | `upstream_peer` | [`pools`] picks the server, [`pin`] says whose connection it may use |
//! | `connected_to_upstream` | the server's certificate and TLS version are judged before anything is sent |
//! | `upstream_request_filter` | [`hygiene`] takes away what only Exchange servers may say, we add what only we may |
//! | `response_filter` | a back-end that cannot do Windows authentication is reported |
//! | `logging` | [`story`] writes the access log line; who still sends is heard out |

pub mod door;
pub mod eager;
pub mod health;
pub mod hygiene;
pub mod organisation;
pub mod path;
pub mod pin;
pub mod pools;
pub mod respond;
mod story;

use std::{
    any::Any,
    borrow::Cow,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, EXPECT, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use pingora_core::{
    Error, ErrorSource, ErrorType, Result,
    modules::http::HttpModules,
    protocols::{Digest, http::server::Session as HttpSession},
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    config::Config,
    directory::{
        DirectoryError, Entry,
        cache::{CachedDirectory, Lookup},
    },
    events::{self, Event},
    identity::{self, Credential, Facts, Identity, MailboxName},
    routing::{self, Decision, Pool, Refusal, Request, mailbox::Whose, protocol::Protocol, topology::ServerId},
    secret::Secret,
};
use organisation::Organisation;
use pin::Pin;
use respond::{Answer, Denial};
use story::Story;

/// The proxy application that Pingora runs.
pub struct Edge {
    config: Arc<Config>,
    directory: Arc<CachedDirectory>,
    organisation: Arc<ArcSwap<Organisation>>,
    in_flight: TaskTracker,
}

/// What one request carries from phase to phase.
pub struct Context {
    organisation: Arc<Organisation>,
    pin: Pin,
    destination: Option<Destination>,
    /// Servers that did not let this request in.
    tried: Vec<ServerId>,
    /// Request body bytes seen so far.
    body_bytes: u64,
    story: Story,
    _in_flight: TaskTrackerToken,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    /// To the member of a pool that this key picks.
    Pool { pool: Pool, key: u64 },
    /// To the Exchange 2003 server that holds the mailbox.
    BackEnd(ServerId),
}

/// What [`Edge::course`] finds out about a request.
enum Course {
    Onward(Destination),
    Answer(Answer),
    /// Windows authentication over HTTP/2 cannot work: the client must come again over HTTP/1.1 (RFC 9113 section 7).
    Http11Required,
}

/// What is known of the one who asks.
enum Proof {
    /// The directory accepted the password.
    Proven(Entry),
    /// It did not, or knows nobody of that name.
    Wrong,
    /// The request carries nothing that the edge could verify.
    Absent,
}

impl Edge {
    /// An edge over this directory and organisation. `in_flight` counts the requests being served.
    pub fn new(
        config: Arc<Config>,
        directory: Arc<CachedDirectory>,
        organisation: Arc<ArcSwap<Organisation>>,
        in_flight: TaskTracker,
    ) -> Self {
        Edge { config, directory, organisation, in_flight }
    }

    /// Facts, identity, directory, decision: the life of a request up to the choice of a server.
    async fn course(&self, session: &mut Session, context: &mut Context) -> Result<Course, Denial> {
        let organisation = context.organisation.clone();
        if header_bytes(session) > self.config.limits.header_bytes {
            return Err(Denial::HeaderTooLarge);
        }
        let received = session.req_header();
        hygiene::check(received.version, &received.headers).map_err(Denial::Malformed)?;
        check_framing(session)?;

        let (path, query) = path_and_query(session.req_header())?;
        let protocol = self.config.routing.protocol_of(&path).ok_or(Denial::PathNotServed)?;
        context.story.protocol = Some(protocol);
        self.check_announced_body(session.req_header(), protocol)?;

        let header = |name: &str| session.req_header().headers.get(name).map(http::HeaderValue::as_bytes);
        let facts = Facts {
            protocol,
            path: &path,
            query,
            authorization: header(AUTHORIZATION.as_str()),
            anchor_mailbox: header("X-AnchorMailbox"),
        };
        let identity = identity::identify(&facts);
        let eas_version = identity::activesync::protocol_version(header("MS-ASProtocolVersion"), query);
        context.story.identified(&identity);

        let connection_bound = identity.credential == Credential::ConnectionBound;
        if connection_bound && session.as_downstream().is_http2() {
            return Ok(Course::Http11Required);
        }
        context.pin = context.pin.on_request(connection_bound);

        let lookup = match identity.routing_name() {
            Some(name) if protocol.asks_for_mailbox() => Some(self.find(name).await?),
            Some(_) | None => None,
        };
        let whose = lookup.as_deref().map_or(Whose::Nobody, whose);
        let request = Request { protocol, path: &path, eas_version };
        let mut decision = routing::decide(&request, whose, &organisation.topology, &organisation.policy);

        if decision.tells_about_mailbox() {
            match self.prove(&identity).await? {
                Proof::Proven(entry) => context.story.is_proven_as(&entry),
                Proof::Wrong => return Err(Denial::WrongPassword),
                Proof::Absent => decision = local_challenge(&request, &organisation),
            }
        }
        context.story.decided(&decision);
        report(&decision, &identity);

        if let Some(answer) = respond::decided(&decision, protocol) {
            return Ok(Course::Answer(answer));
        }
        let key = match whose {
            Whose::Mailbox(mailbox) => mailbox.key,
            Whose::Nobody | Whose::Unknown | Whose::Ambiguous | Whose::WithoutMailbox => client_key(session),
        };
        Ok(Course::Onward(match decision {
            Decision::Proxy(pool, _) => Destination::Pool { pool, key },
            Decision::BackEnd(server, _) => Destination::BackEnd(server),
            Decision::LinkPage(..) | Decision::MovedDevice(..) | Decision::SameHost(..) | Decision::Refuse(_) => {
                return Err(Denial::Internal);
            }
        }))
    }

    fn check_announced_body(&self, request: &RequestHeader, protocol: Protocol) -> Result<(), Denial> {
        let length = request.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match length {
            Some(bytes) if bytes > self.config.limits.body_bytes(protocol) => Err(Denial::BodyTooLarge),
            Some(_) | None => Ok(()),
        }
    }

    async fn find(&self, name: &MailboxName) -> Result<Arc<Lookup>, Denial> {
        let search = self.directory.find(name);
        match tokio::time::timeout(self.config.timeouts.directory, search).await {
            Ok(Ok(lookup)) => Ok(lookup),
            Ok(Err(error)) => Err(directory_away(&error)),
            Err(_) => {
                let after = self.config.timeouts.directory;
                Err(directory_away(&DirectoryError::TimedOut { operation: "a mailbox look-up".into(), after }))
            }
        }
    }

    /// Verifies the credential of a request whose answer tells something about a mailbox.
    async fn prove(&self, identity: &Identity) -> Result<Proof, Denial> {
        let Credential::Basic { user, password } = &identity.credential else {
            return Ok(Proof::Absent);
        };
        match self.find(user).await?.as_ref() {
            Lookup::Found(entry) => self.verify(entry, password).await,
            Lookup::NotFound => Ok(Proof::Wrong),
            // Whichever of them it is: who knows the password of one may be told that there are two.
            Lookup::Ambiguous(dns) => {
                for dn in dns {
                    let entry = Entry { dn: dn.clone(), name: dn.clone(), mailbox: None };
                    if let proven @ Proof::Proven(_) = self.verify(&entry, password).await? {
                        return Ok(proven);
                    }
                }
                Ok(Proof::Wrong)
            }
        }
    }

    async fn verify(&self, entry: &Entry, password: &Secret) -> Result<Proof, Denial> {
        let check = self.directory.verify(entry, password);
        match tokio::time::timeout(self.config.timeouts.directory, check).await {
            Ok(Ok(true)) => Ok(Proof::Proven(entry.clone())),
            Ok(Ok(false)) => Ok(Proof::Wrong),
            Ok(Err(error)) => Err(directory_away(&error)),
            Err(_) => {
                let after = self.config.timeouts.directory;
                Err(directory_away(&DirectoryError::TimedOut { operation: "a credential check".into(), after }))
            }
        }
    }

    fn set_client_limits(&self, session: &mut HttpSession) {
        session.set_read_timeout(Some(self.config.timeouts.client));
        session.set_write_timeout(Some(self.config.timeouts.client));
        // Pingora's own default keeps idle clients for ever; what the client asked for (close or not) stays in force.
        if session.get_keepalive().is_some() {
            session.set_keepalive(Some(self.config.timeouts.client_keepalive.as_secs().max(1)));
        }
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        door::header_arrived();
        Context {
            organisation: self.organisation.load_full(),
            pin: Pin::default(),
            destination: None,
            tried: Vec::new(),
            body_bytes: 0,
            story: Story::new(),
            _in_flight: self.in_flight.token(),
        }
    }

    fn init_downstream_modules(&self, _: &mut HttpModules) {
        // No response compression: the servers behind decide, and a module costs every request.
    }

    fn on_connection_reuse(&self, _: &mut Session, context: &mut Context, previous: Box<dyn Any + Send + Sync>) {
        if let Ok(pin) = previous.downcast::<Pin>() {
            context.pin = *pin;
        }
    }

    fn persist_connection_context(&self, _: &Session, context: &Context) -> Option<Box<dyn Any + Send + Sync>> {
        match context.pin {
            Pin::Shared => None,
            Pin::Pinned(_) => Some(Box::new(context.pin)),
        }
    }

    async fn early_request_filter(&self, session: &mut Session, _: &mut Context) -> Result<()> {
        self.set_client_limits(session.as_downstream_mut());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        let answer = match self.course(session, context).await {
            Ok(Course::Onward(destination)) => {
                context.destination = Some(destination);
                if let Some(protocol) = context.story.protocol {
                    let silence = Some(self.config.timeouts.client(protocol));
                    session.as_downstream_mut().set_read_timeout(silence);
                    session.as_downstream_mut().set_write_timeout(silence);
                }
                return Ok(false);
            }
            Ok(Course::Http11Required) => {
                session.as_downstream_mut().shutdown_with_reason(h2::Reason::HTTP_1_1_REQUIRED);
                return Ok(true);
            }
            Ok(Course::Answer(answer)) => answer,
            Err(denial) => deny(denial, session, context),
        };
        send(&answer, session).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
        let organisation = context.organisation.clone();
        let chosen = context
            .destination
            .and_then(|destination| pools::choose(destination, protocol, &organisation, &context.tried));
        let Some((server, target)) = chosen else {
            context.story.denial = Some(Denial::Routing(Refusal::NoneResponding));
            Event::of_refusal(Refusal::NoneResponding).report(format_args!(
                "no server of {} answers",
                context.story.site.map_or("the mailbox", |site| &organisation.topology.site(site).name)
            ));
            session.set_keepalive(None);
            return Err(Error::explain(ErrorType::HTTPStatus(503), "no server answers"));
        };
        context.story.server = Some(server);
        let mut peer = target.peer.clone();
        peer.group_key = context.pin.group_key();
        peer.options.read_timeout = Some(self.config.timeouts.server(protocol));
        peer.options.write_timeout = Some(self.config.timeouts.client);
        if protocol == Protocol::OutlookAnywhere {
            door::pass_at_once();
        }
        if protocol == Protocol::OutlookAnywhere || context.pin != Pin::Shared {
            eager::mark(&mut peer);
        }
        Ok(Box::new(peer))
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, context: &mut Context, error: Box<Error>) -> Box<Error> {
        server_failed(context, &error);
        let mut error = error;
        error.set_retry(true); // nothing was sent; `upstream_peer` picks the next server or gives up
        error
    }

    async fn connected_to_upstream(
        &self,
        _: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        _: std::os::fd::RawFd,
        digest: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        context.story.reused = Some(reused);
        let Some(server) = context.story.server else { return Ok(()) };
        if !reused {
            let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
            let target = context.organisation.target(server, protocol);
            if let Some(problem) = target.and_then(|target| pools::distrust(target.trust, peer, digest)) {
                let name = &context.organisation.topology.server(server).name;
                Event::ServerCertificate.report(format_args!("{name}: {problem}"));
                return Err(Error::explain(UNTRUSTED_SERVER, problem));
            }
            if context.organisation.health.mark_alive(server) {
                let name = &context.organisation.topology.server(server).name;
                Event::ServerBack.report(format_args!("{name} accepts connections again"));
            }
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        _: &mut Context,
    ) -> Result<()> {
        let forged: Vec<_> = request.headers.keys().filter(|name| hygiene::is_forged(name.as_str())).cloned().collect();
        for name in forged {
            request.remove_header(&name);
        }
        let tls = is_tls(session);
        if let Some(client) = client_ip(session) {
            request.insert_header("X-Forwarded-For", client.to_string())?;
        }
        request.insert_header("X-Forwarded-Proto", if tls { "https" } else { "http" })?;
        if let Some(host) = request.headers.get(http::header::HOST).cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        if tls {
            request.insert_header("Front-End-Https", "On")?;
        }
        Ok(())
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        _: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.body_bytes += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
        if context.body_bytes > self.config.limits.body_bytes(protocol) {
            context.story.denial = Some(Denial::BodyTooLarge);
            return Err(Error::explain(ErrorType::HTTPStatus(413), "the body is larger than its limit").into_down());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        _: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() {
            return Ok(());
        }
        context.story.answered = Some(Instant::now());
        if let Some(Destination::BackEnd(server)) = context.destination
            && response.status == 401
            && !offers_windows_authentication(response)
        {
            Event::BackEndWithoutIntegratedAuthentication.report(format_args!(
                "{} challenges without Integrated Windows authentication",
                context.organisation.topology.server(server).name
            ));
        }
        Ok(())
    }

    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        context: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("server {}", peer._address));
        if error.etype() == &UNTRUSTED_SERVER {
            server_failed(context, &error);
            error.set_retry(true); // refused before anything was sent
            return error;
        }
        // What may have been delivered is not delivered twice: only an idempotent request, kept whole, on a connection
        // that had been idle and belongs to nobody is tried again.
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && context.pin == Pin::Shared;
        if repeatable {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let denial = context.story.denial.or_else(|| denial_of(error));
        context.story.denial = denial;
        let (Some(denial), None) = (denial, session.response_written()) else {
            return FailToProxy { error_code: 0, can_reuse_downstream: false };
        };
        let answer = respond::denied(denial, context.story.protocol);
        session.set_keepalive(None);
        if let Err(error) = send(&answer, session).await {
            log::debug!("the client left before it could be told: {error}");
        }
        FailToProxy { error_code: answer.status, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true // the access log line and the events tell it
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        story::tell(session, context, error);
        linger(session).await;
    }
}

/// The server's certificate or TLS version is not what the configuration asks for.
const UNTRUSTED_SERVER: ErrorType = ErrorType::new("UntrustedServer");

/// The size of the request's header: as it came over HTTP/1, as RFC 9113 section 6.5.2 counts it over HTTP/2.
fn header_bytes(session: &Session) -> u64 {
    const FIELD_OVERHEAD_BYTES: usize = 32;
    let bytes = if let Some(h1) = session.as_downstream().as_http1() {
        h1.get_headers_raw_bytes().len()
    } else {
        let request = session.req_header();
        let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES
        };
        request.raw_path().len() + request.headers.iter().map(size).sum::<usize>()
    };
    bytes as u64
}

/// Pingora drops `Content-Length` where `Transfer-Encoding` is there too, so the fields as received are asked.
fn check_framing(session: &Session) -> Result<(), Denial> {
    const FIELDS_MAX: usize = 256; // Pingora reads no more
    let Some(h1) = session.as_downstream().as_http1() else { return Ok(()) };
    if !h1.req_header().headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let raw = h1.get_headers_raw_bytes();
    let announced = match request.parse(&raw) {
        Ok(_) => request.headers.iter().any(|field| field.name.eq_ignore_ascii_case("Content-Length")),
        Err(_) => return Err(Denial::Unreadable),
    };
    if announced { Err(Denial::Malformed(hygiene::Malformed::LengthAndTransferEncoding)) } else { Ok(()) }
}

/// The path, decoded, and the query, as sent. What is classified here must be what the server behind will serve, so
/// both come from the raw request target that is passed on.
fn path_and_query(request: &RequestHeader) -> Result<(Cow<'_, str>, Option<&str>), Denial> {
    let raw = std::str::from_utf8(request.raw_path()).map_err(|_| Denial::BadPath(path::PathError::NotUtf8))?;
    let raw = if raw.starts_with('/') { raw } else { of_absolute_form(raw).ok_or(NOT_A_PATH)? };
    let (path, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    Ok((path::decode(path).map_err(Denial::BadPath)?, query))
}

/// The path and query of an absolute request target (RFC 9112 section 3.2.2). Its authority, which Pingora has compared
/// with `Host`, decides nothing. `None`: it is another form or has no path.
fn of_absolute_form(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let path = rest.find(['/', '?', '#', '\\']).filter(|_| is_http)?;
    rest.get(path..).filter(|path| path.starts_with('/'))
}

const NOT_A_PATH: Denial = Denial::BadPath(path::PathError::NotAPath);

fn whose(lookup: &Lookup) -> Whose<'_> {
    match lookup {
        Lookup::Found(Entry { mailbox: Some(mailbox), .. }) => Whose::Mailbox(mailbox),
        Lookup::Found(Entry { mailbox: None, .. }) => Whose::WithoutMailbox,
        Lookup::NotFound => Whose::Unknown,
        Lookup::Ambiguous(_) => Whose::Ambiguous,
    }
}

/// The decision while nothing may be told: the local pool challenges.
fn local_challenge(request: &Request<'_>, organisation: &Organisation) -> Decision {
    routing::decide(request, Whose::Nobody, &organisation.topology, &organisation.policy)
}

/// Events that go with a decision.
fn report(decision: &Decision, identity: &Identity) {
    let name = identity.routing_name().map_or_else(|| "-".to_owned(), ToString::to_string);
    match decision {
        Decision::MovedDevice(url, _) => {
            Event::ActiveSyncRedirected.report(format_args!("the device of {name} was sent to {url} (HTTP 451)"));
        }
        Decision::Refuse(refusal) => {
            Event::of_refusal(*refusal).report(format_args!("{name} was refused: {}", refusal.sentence()));
        }
        Decision::Proxy(..) | Decision::BackEnd(..) | Decision::LinkPage(..) | Decision::SameHost(..) => {}
    }
}

fn directory_away(error: &dyn std::error::Error) -> Denial {
    Event::DirectoryAway.report(events::whole_chain(error));
    Denial::DirectoryAway
}

/// Notes that the chosen server did not let the request in.
fn server_failed(context: &mut Context, error: &Error) {
    let Some(server) = context.story.server else { return };
    context.tried.push(server);
    if !context.organisation.health.mark_dead(server) {
        return;
    }
    let name = &context.organisation.topology.server(server).name;
    let etype = error.etype();
    if *etype == UNTRUSTED_SERVER {
        return; // told, with the reason, where it was found
    }
    if matches!(etype, ErrorType::InvalidCert | ErrorType::TLSHandshakeFailure) {
        Event::ServerCertificate.report(format_args!("{name} is not believed: {error}"));
    } else {
        Event::ServerUnreachable.report(format_args!("{name} does not accept connections: {error}"));
    }
}

/// Why a request failed on its way; `None`: its client is gone, nobody is left to be told.
fn denial_of(error: &Error) -> Option<Denial> {
    match (error.esource(), error.etype()) {
        (ErrorSource::Upstream, ErrorType::ReadTimedout | ErrorType::WriteTimedout) => Some(Denial::UpstreamTimedOut),
        (ErrorSource::Upstream, _) => Some(Denial::UpstreamFailed),
        (ErrorSource::Downstream, ErrorType::ReadTimedout) => Some(Denial::ClientTimedOut),
        (ErrorSource::Downstream, ErrorType::WriteError | ErrorType::ReadError | ErrorType::ConnectionClosed) => None,
        (ErrorSource::Downstream, _) => Some(Denial::Unreadable),
        (ErrorSource::Internal | ErrorSource::Unset, _) => Some(Denial::Internal),
    }
}

fn deny(denial: Denial, session: &mut Session, context: &mut Context) -> Answer {
    context.story.denial = Some(denial);
    match denial {
        Denial::Malformed(_) | Denial::BadPath(_) | Denial::Unreadable | Denial::HeaderTooLarge => {
            let client = client_ip(session).map_or_else(|| "-".to_owned(), |ip| ip.to_string());
            Event::MalformedRequest.report(format_args!("a request from {client} was malformed: {}", denial.name()));
            session.set_keepalive(None);
        }
        Denial::BodyTooLarge => session.set_keepalive(None),
        Denial::Routing(_)
        | Denial::PathNotServed
        | Denial::WrongPassword
        | Denial::DirectoryAway
        | Denial::UpstreamFailed
        | Denial::UpstreamTimedOut
        | Denial::ClientTimedOut
        | Denial::Internal => {}
    }
    respond::denied(denial, context.story.protocol)
}

async fn send(answer: &Answer, session: &mut Session) -> Result<()> {
    // A client that waits for a 100 before its body, or has a long one to send, must not be waited for in turn.
    if session.req_header().headers.contains_key(EXPECT) || announces_long_body(session.req_header()) {
        session.set_keepalive(None);
    }
    let mut header = ResponseHeader::build(answer.status, Some(answer.headers.len() + 3))?;
    for (name, value) in &answer.headers {
        header.insert_header(*name, value)?;
    }
    if !answer.content_type.is_empty() {
        header.insert_header("Content-Type", answer.content_type)?;
    }
    header.insert_header("Content-Length", answer.body.len().to_string())?;
    let body_wanted = session.req_header().method != http::Method::HEAD && !answer.body.is_empty();
    session.write_response_header(Box::new(header), !body_wanted).await?;
    if body_wanted {
        session.write_response_body(Some(Bytes::from(answer.body.clone())), true).await?;
    }
    Ok(())
}

/// Takes in what a client still sends after its answer, for a while. Closing at once would reset the connection, and a
/// client that sends before it reads would never see the answer (RFC 9112 section 9.6).
async fn linger(session: &mut Session) {
    const LONGEST: Duration = Duration::from_secs(5); // some 60 MB at 100 Mbit/s; a client slower than that retries
    let is_told = session.response_written().is_some_and(|answer| !answer.status.is_informational());
    let waits = session.req_header().headers.contains_key(EXPECT);
    let http = session.as_downstream_mut();
    if !is_told || waits || http.as_http1().is_none() || http.is_body_done() {
        return;
    }
    let _ = http.finish_body().await; // the answer leaves first; an error shows below again
    let rest = async { while let Ok(Some(_)) = http.read_request_body().await {} };
    if tokio::time::timeout(LONGEST, rest).await.is_err() {
        log::debug!("a client was still sending after its answer and was cut off");
    }
}

fn announces_long_body(request: &RequestHeader) -> bool {
    const SHORT_BYTES: u64 = 64 * 1024; // read and thrown away sooner than a new connection is made
    request.headers.contains_key(TRANSFER_ENCODING)
        || request
            .headers
            .get(CONTENT_LENGTH)
            .is_some_and(|value| value.to_str().ok().and_then(|text| text.parse::<u64>().ok()) > Some(SHORT_BYTES))
}

fn offers_windows_authentication(response: &ResponseHeader) -> bool {
    response.headers.get_all(WWW_AUTHENTICATE).iter().any(|challenge| {
        let scheme = challenge.as_bytes().split(|byte| *byte == b' ').next().unwrap_or_default();
        scheme.eq_ignore_ascii_case(b"Negotiate") || scheme.eq_ignore_ascii_case(b"NTLM")
    })
}

fn is_tls(session: &Session) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}

fn client_ip(session: &Session) -> Option<IpAddr> {
    Some(session.client_addr()?.as_inet()?.ip())
}

/// Keeps a client without known mailbox on one server: its logon form and cookies are good there only ([S38a] in the
/// project's reference).
fn client_key(session: &Session) -> u64 {
    match client_ip(session) {
        Some(IpAddr::V4(ip)) => u64::from(u32::from(ip)),
        #[allow(clippy::cast_possible_truncation)] // folded on purpose
        Some(IpAddr::V6(ip)) => (u128::from(ip) >> 64) as u64 ^ u128::from(ip) as u64,
        None => 0,
    }
}
