//! The edge: Pingora's phases, each said in one sentence, and the parts that carry them out.
//!
//! | phase | what happens |
//! |---|---|
//! | before any | [`arrival`]: whose connection it is; [`door`] bounds how long a client may take to send a header |
//! | `early_request_filter` | the client gets its time limits; [`sender`]: who it is |
//! | `on_connection_reuse` | a further request of a pinned client counts |
//! | `request_filter` | [`form`]: who has logged on by it; [`course`]: facts, identity, [`restraint`], directory, decision; an answer of our own ends here |
//! | `upstream_peer` | [`pools`] picks the server, [`pin`] says whose connection it may use |
//! | `connected_to_upstream` | the server's certificate and TLS version are judged before anything is sent |
//! | `upstream_request_filter` | [`hygiene`] takes away what only Exchange servers may say, we add what only we may |
//! | `response_filter` | [`pin`] learns what the answer did to the connection; [`acceptance`]: who is proven by it, and what follows |
//! | `response_body_filter` | a connection that may serve nobody else is closed with its answer |
//! | `logging` | [`story`] writes the access log line; who still sends is heard out |

mod acceptance;
pub mod affinity;
pub mod arrival;
mod callers;
pub mod client;
mod cookies;
pub(crate) mod course;
pub mod decisions;
pub mod door;
pub mod errand;
mod form;
pub mod health;
pub mod hygiene;
pub mod in_force;
pub(crate) mod lately;
pub(crate) mod logons;
mod mandates;
pub mod notices;
mod on_behalf;
pub mod organisation;
pub mod path;
pub mod pin;
pub mod pools;
pub mod proof;
pub mod proxy_protocol;
pub mod respond;
pub(crate) mod restraint;
pub mod seal;
mod sender;
mod story;
mod tally;
mod tracing;

use std::{
    any::Any,
    os::fd::RawFd,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, COOKIE, EXPECT, HOST, TRANSFER_ENCODING};
use nix::sys::socket::Shutdown;
use pingora_core::{
    Error, ErrorSource, ErrorType, Result,
    modules::http::HttpModules,
    protocols::{Digest, http::server::Session as HttpSession},
    upstreams::peer::HttpPeer,
};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};

use crate::{
    events::Event,
    metrics::Underway,
    routing::{Pool, protocol::Protocol, topology::ServerId},
};
use acceptance::Claim;
use client::{Client, Passage, Proven};
use course::Course;
use form::Reason;
use health::{Fault, InFlight};
use in_force::InForce;
use on_behalf::{AGAIN, Failure, OnBehalf, Signed, may_repeat};
use pin::{Carries, Closed};
use respond::{Answer, Denial};
use restraint::Credentials;
use sender::Sender;
use story::Story;

/// The proxy application that Pingora runs, once on each thread.
#[derive(Clone)]
pub struct Edge {
    in_force: Arc<ArcSwap<InForce>>,
    in_flight: TaskTracker,
}

/// What one request carries from phase to phase.
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Context {
    in_force: Arc<InForce>,
    sender: Sender,
    client: Client,
    /// What the request brings to the gate.
    carries: Carries,
    /// How it passed the gate, if its client is pinned.
    passage: Option<Passage>,
    /// The name it signs in with, to be proven by the server's answer.
    claim: Option<Claim>,
    /// Who has proven who they are, by what came before the request or with it; a password is not verified for this.
    proven: Option<Arc<Proven>>,
    /// The name and password, or proof of one, that it brings.
    attempt: Option<Credentials>,
    /// The credential is the logon form's, and not in the request.
    is_by_form: bool,
    /// For whom the edge may have to sign in to the server.
    on_behalf: Option<OnBehalf>,
    /// The cookie of a logon that goes on, for the answer.
    renewed_logon: Option<String>,
    /// The edge's own answer leaves no sooner.
    leaves_at: Option<tokio::time::Instant>,
    /// An answer of the edge's that takes the place of the server's.
    instead: Option<Answer>,
    /// The upstream connection's socket, while it is in use.
    socket: Option<RawFd>,
    /// The upstream connection may serve nobody else.
    is_isolated: bool,
    /// The answer broke off in its middle, and must not look whole.
    is_broken_off: bool,
    destination: Option<Destination>,
    /// Counts it at the server it is with.
    in_flight_behind: Option<InFlight>,
    /// Servers that did not let this request in.
    tried: Vec<ServerId>,
    /// Whether the choice of the server says something about a mailbox.
    is_about_mailbox: bool,
    /// Request body bytes seen so far, and since when.
    body_bytes: u64,
    body_began: Option<Instant>,
    story: Story,
    /// Counted as under way, once its protocol is known.
    underway: Option<Underway>,
    _in_flight: TaskTrackerToken,
}

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    /// To the member of a pool that this key picks.
    Pool { pool: Pool, key: u64 },
    /// To the server that the client is signed in at, or signing in.
    Bound(ServerId),
    /// To the Exchange 2003 server that holds the mailbox.
    BackEnd(ServerId),
}

impl Edge {
    /// An edge that serves by what is in force when a request comes; `in_flight` counts the requests being served.
    pub fn new(in_force: Arc<ArcSwap<InForce>>, in_flight: TaskTracker) -> Self {
        Edge { in_force, in_flight }
    }

    /// What is in force.
    pub fn in_force(&self) -> &Arc<ArcSwap<InForce>> {
        &self.in_force
    }
}

#[async_trait]
impl ProxyHttp for Edge {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            in_force: self.in_force.load_full(),
            sender: Sender::default(),
            client: Client::default(),
            carries: Carries::Nothing,
            passage: None,
            claim: None,
            proven: None,
            attempt: None,
            is_by_form: false,
            on_behalf: None,
            renewed_logon: None,
            leaves_at: None,
            instead: None,
            socket: None,
            is_isolated: false,
            is_broken_off: false,
            destination: None,
            in_flight_behind: None,
            tried: Vec::new(),
            is_about_mailbox: false,
            body_bytes: 0,
            body_began: None,
            story: Story::new(),
            underway: None,
            _in_flight: self.in_flight.token(),
        }
    }

    fn init_downstream_modules(&self, _: &mut HttpModules) {
        // No response compression: the servers behind decide, and a module costs every request.
    }

    fn on_connection_reuse(&self, _: &mut Session, context: &mut Context, previous: Box<dyn Any + Send + Sync>) {
        if let Ok(client) = previous.downcast::<Client>() {
            context.client = *client;
        }
        if let Some(pinned) = context.client.pinned() {
            pinned.admit();
        }
    }

    fn persist_connection_context(&self, _: &Session, context: &Context) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(context.client.clone()))
    }

    async fn early_request_filter(&self, session: &mut Session, context: &mut Context) -> Result<()> {
        door::header_arrived();
        context.sender = context.in_force.sender(session);
        context.story.request = tracing::request_id(context.sender, &session.req_header().headers);
        context.in_force.set_client_limits(session.as_downstream_mut());
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, context: &mut Context) -> Result<bool> {
        if let Some(origin) = context.in_force.redirect(session).filter(|_| !context.sender.is_tls) {
            let answer = respond::to_https(origin, &session.req_header().uri);
            if ends_here(context) {
                session.set_keepalive(None);
            }
            send(&answer, session, &context.story.request).await?;
            return Ok(true);
        }
        let answer = match context.in_force.clone().course(session, context).await {
            Ok(Course::Onward(destination)) => {
                context.destination = Some(destination);
                if context.client.pinned().is_some() {
                    keep_alive(session.as_downstream_mut(), context.in_force.config.pins.idle_timeout);
                }
                if let Some(protocol) = context.story.protocol {
                    let silence = Some(context.in_force.config.timeouts.client(protocol));
                    session.as_downstream_mut().set_read_timeout(silence);
                    session.as_downstream_mut().set_write_timeout(silence);
                    // An early request hides its client's leaving until the answer; where that takes hours, it may not come.
                    session.as_downstream_mut().set_pipelining_enabled(!may_be_held(protocol));
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
        let answer = match context.renewed_logon.take() {
            Some(cookie) => answer.with_cookie(cookie),
            None => answer,
        };
        context.in_force.note_own_answer(context);
        if ends_here(context) {
            session.set_keepalive(None);
        }
        if let Some(time) = context.leaves_at {
            tokio::time::sleep_until(time).await;
        }
        send(&answer, session, &context.story.request).await?;
        Ok(true)
    }

    async fn upstream_peer(&self, session: &mut Session, context: &mut Context) -> Result<Box<HttpPeer>> {
        let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
        let organisation = context.in_force.organisation.clone();
        let (server, mut peer, is_own) = loop {
            let chosen = context
                .destination
                .and_then(|destination| pools::choose(destination, protocol, &organisation, &context.tried));
            if let Some((server, target)) = chosen {
                let mut peer = target.peer.clone();
                let Some(on_behalf) = &mut context.on_behalf else { break (server, peer, false) };
                match context.in_force.approach(on_behalf, server, protocol, may_repeat(session), &mut peer).await {
                    Ok(is_own) => break (server, peer, is_own),
                    Err(Failure::OfServer) => context.tried.push(server),
                    Err(Failure::Denied(denial)) => return cannot_sign_in(denial, session, context),
                }
                continue;
            }
            if context.on_behalf.as_ref().is_some_and(OnBehalf::has_failed) {
                return cannot_sign_in(Denial::CannotSignIn, session, context);
            }
            match context.in_force.clone().none_answers(session, context).await {
                Ok(challenge) => context.destination = Some(challenge),
                Err(denial) => {
                    context.story.denial = Some(denial);
                    context.in_force.note_own_answer(context);
                    session.set_keepalive(None);
                    return Err(Error::explain(ErrorType::HTTPStatus(503), "no server answers"));
                }
            }
        };
        context.story.server = Some(server);
        context.in_flight_behind = Some(organisation.health.enter(server));
        peer.options.read_timeout = Some(context.in_force.config.timeouts.server(protocol));
        peer.options.write_timeout = Some(context.in_force.config.timeouts.client);
        context.passage = None;
        (context.body_bytes, context.body_began) = (0, None); // of a request that is sent again
        if let Some(pinned) = context.client.pinned().filter(|_| !is_own) {
            peer.options.idle_timeout = Some(context.in_force.config.pins.idle_timeout); // as long as its client may pause
            match pinned.approach(&mut peer, context.carries) {
                Ok(passage) => context.passage = Some(passage),
                Err(closed) => return closed_to(closed, context),
            }
        }
        Ok(Box::new(peer))
    }

    fn fail_to_connect(&self, _: &mut Session, _: &HttpPeer, context: &mut Context, error: Box<Error>) -> Box<Error> {
        if error.etype() == &ErrorType::InternalError {
            return error; // no descriptor or port left here: the server is not to blame, and the next would fare alike
        }
        server_failed(context, &error);
        let mut error = error;
        error.set_retry(true); // nothing was sent; `upstream_peer` picks the next server or gives up
        error
    }

    async fn connected_to_upstream(
        &self,
        session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        socket: RawFd,
        digest: Option<&Digest>,
        context: &mut Context,
    ) -> Result<()> {
        context.story.reused = Some(reused);
        context.socket = Some(socket);
        if let (Some(pinned), Some(passage)) = (context.client.pinned(), context.passage)
            && let Err(closed) = pinned.connected(passage, reused, digest)
        {
            return closed_to(closed, context);
        }
        if let Some(on_behalf) = &mut context.on_behalf {
            on_behalf.connected(reused, session, &context.in_force);
        }
        let Some(server) = context.story.server else { return Ok(()) };
        let name = &context.in_force.organisation.topology.server(server).name;
        context.in_force.shared.metrics.connected(name, reused);
        if !reused {
            let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
            let target = context.in_force.organisation.target(server, protocol);
            if let Some(problem) = target.and_then(|target| pools::distrust(target.trust, peer, digest)) {
                context.in_force.organisation.health.refused(server, protocol, &Fault::Untrusted(problem.clone()));
                return Err(Error::explain(UNTRUSTED_SERVER, problem));
            }
            context.in_force.organisation.health.accepted(server, protocol);
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        context: &mut Context,
    ) -> Result<()> {
        let forged: Vec<_> = request.headers.keys().filter(|name| hygiene::is_forged(name.as_str())).cloned().collect();
        for name in forged {
            request.remove_header(&name);
        }
        join_cookies(request)?;
        if let Some(others) =
            request.headers.get(COOKIE).and_then(|cookies| cookies::without(cookies.as_bytes(), &OWN_COOKIES))
        {
            match others.is_empty() {
                true => drop(request.remove_header(&COOKIE)),
                false => request.insert_header(COOKIE, others)?,
            }
        }
        if !request.headers.contains_key(HOST) {
            // HTTP/1.0 knows no Host, HTTP/1.1, which the server is spoken to in, demands one.
            let server =
                context.story.server.map(|server| context.in_force.organisation.topology.server(server).fqdn.clone());
            request.insert_header(HOST, server.unwrap_or_default())?;
        }
        let Sender { ip, is_tls, .. } = context.sender;
        if let Some(client) = ip {
            request.insert_header("X-Forwarded-For", client.to_string())?;
        }
        request.insert_header("X-Forwarded-Proto", if is_tls { "https" } else { "http" })?;
        if let Some(host) = request.headers.get(HOST).cloned() {
            request.insert_header("X-Forwarded-Host", host)?;
        }
        if is_tls {
            request.insert_header("Front-End-Https", "On")?;
        }
        request.insert_header(tracing::REQUEST_ID, &context.story.request)?;
        let Some(on_behalf) = &mut context.on_behalf else { return Ok(()) };
        let denial = match context.in_force.sign(on_behalf, request).await {
            Ok(()) => return Ok(()),
            Err(Failure::Denied(denial)) => denial,
            Err(Failure::OfServer) => Denial::CannotSignIn,
        };
        close(context.socket, Shutdown::Both); // Pingora would keep it, and nobody is signed in over it
        cannot_sign_in(denial, session, context)
    }

    async fn request_body_filter(
        &self,
        _: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        context: &mut Context,
    ) -> Result<()> {
        context.body_bytes += body.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
        if context.body_bytes > context.in_force.config.limits.body_bytes(protocol) {
            context.story.denial = Some(Denial::BodyTooLarge);
            return Err(Error::explain(ErrorType::HTTPStatus(413), "the body is larger than its limit").into_down());
        }
        let taken = context.body_began.get_or_insert_with(Instant::now).elapsed();
        if !is_last && context.in_force.config.is_too_slow(protocol, context.body_bytes, taken) {
            context.story.denial = Some(Denial::ClientTimedOut);
            return Err(Error::explain(ErrorType::HTTPStatus(408), "the body comes too slowly").into_down());
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let is_final = !response.status.is_informational();
        let answered = acceptance::read(response);
        let signed = match &mut context.on_behalf {
            Some(on_behalf) if is_final => {
                match context.in_force.signed_in(on_behalf, session, response, answered).await {
                    Ok(signed) => signed,
                    Err((error, denial)) => {
                        context.story.denial = denial;
                        return Err(error);
                    }
                }
            }
            Some(_) | None => Signed::NotByUs,
        };
        // Pingora closes a connection that is answered before the request's body is all there. A `100 Continue` is no answer;
        // and a handshake must go on over its connection, so the body of a message that is challenged is passed on to its
        // end, unless the client may have kept it back.
        let goes_on = answered.token.is_some() && !session.req_header().headers.contains_key(EXPECT);
        session.as_downstream_mut().set_close_on_response_before_downstream_finish(is_final && !goes_on);
        let opens_another_protocol = response.status == 101; // the last answer there is
        if is_final || opens_another_protocol {
            response.insert_header(tracing::REQUEST_ID, &context.story.request)?;
        }
        if !is_final {
            return Ok(());
        }
        context.story.answered = Some(Instant::now());
        if let Some(server) = context.story.server {
            let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
            context.in_force.organisation.health.answered(server, protocol);
        }
        if context.passage.is_none() && ends_here(context) {
            session.set_keepalive(None); // of a pinned client the gate says it
        }
        let refused = match context.is_by_form && response.status == 401 {
            true => Some(context.in_force.clone().refused_by_server(response, context).await),
            false => None,
        };
        if response.status == 401 {
            respond::anonymise(response)?;
            if answered.offers_windows {
                response.insert_header(respond::PROXY_SUPPORT.0, respond::PROXY_SUPPORT.1)?;
            }
        }
        form::renew(context.renewed_logon.as_deref(), response)?;
        if context.passage.is_some() {
            let signed_in = context.in_force.clone().signed_in_or_not(session, response, context, answered).await;
            note(response, refused, context);
            signed_in?;
        } else {
            note(response, refused, context);
            match signed {
                Signed::NotByUs if answered.pins() => {
                    isolate(response, session, context);
                    unasked(session, context);
                }
                Signed::Doubtful => isolate(response, session, context),
                Signed::NotByUs | Signed::In => {}
            }
        }
        if let Some(denial) = refused {
            return acceptance::replace(denied(denial, session.req_header(), context), context);
        }
        if response.status == 401
            && answered.token.is_none()
            && context.sender.is_tls
            && !context.is_by_form
            && context.in_force.config.sign_in.is_some()
        {
            respond::offer_basic(response)?; // the server need not take it, the edge does
        }
        if let Some(Destination::BackEnd(server)) = context.destination
            && response.status == 401
            && !answered.offers_windows
        {
            Event::BackEndWithoutIntegratedAuthentication.report(format_args!(
                "{} challenges without Integrated Windows authentication",
                context.in_force.organisation.topology.server(server).name
            ));
        }
        Ok(())
    }

    fn response_body_filter(
        &self,
        _: &mut Session,
        _: &mut Option<Bytes>,
        is_last: bool,
        context: &mut Context,
    ) -> Result<Option<Duration>> {
        if is_last && context.is_isolated {
            close(context.socket, Shutdown::Both);
        }
        Ok(None)
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
        if error.etype() == &AGAIN {
            error.set_retry(true); // a 401 proves that it was not served, and its body is still there
            return error;
        }
        if error.etype() == &REOPENED {
            error.set_retry(true); // the old connection was gone before anything was sent
            return error;
        }
        if error.etype() == &UNTRUSTED_SERVER {
            server_failed(context, &error);
            error.set_retry(true); // refused before anything was sent
            return error;
        }
        // What may have been delivered is not delivered twice: only an idempotent request, kept whole, on a connection
        // that had been idle and belongs to nobody is tried again.
        let repeatable = session.req_header().method.is_idempotent()
            && !session.as_ref().retry_buffer_truncated()
            && context.passage.is_none();
        if repeatable {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, context: &mut Context) -> FailToProxy {
        let is_answered = is_answered(session);
        if let (Some(answer), false) = (context.instead.take(), is_answered) {
            return give_up_with(&answer, session, context).await;
        }
        let denial = context.story.denial.or_else(|| denial_of(error));
        context.story.denial = denial;
        match (denial, is_answered) {
            (Some(Denial::HandshakeLost) | None, _) | (_, true) => {
                context.is_broken_off = is_answered;
                FailToProxy { error_code: 0, can_reuse_downstream: false }
            }
            (Some(denial), false) => {
                let answer = denied(denial, session.req_header(), context);
                give_up_with(&answer, session, context).await
            }
        }
    }

    fn suppress_error_log(&self, _: &Session, _: &Context, _: &Error) -> bool {
        true // the access log line and the events tell it
    }

    fn suppress_proxy_warn_log(&self, _: &Session, _: &Context, _: &Error, _: ProxyWarnLogContext) -> bool {
        true // so do they tell this; and Pingora's line has the query, which can hold tokens
    }

    fn request_summary(&self, session: &Session, _: &Context) -> String {
        format!("{} {}", session.req_header().method, session.req_header().uri.path())
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, context: &mut Context) {
        story::tell(session, context, error);
        if !context.is_broken_off {
            linger(session).await;
        }
    }
}

/// Remembers what an answer says about a password: the server's, or the edge's own in its place.
fn note(response: &ResponseHeader, instead: Option<Denial>, context: &mut Context) {
    if instead.is_none() {
        return context.in_force.note_answer(response, context);
    }
    context.story.denial = instead;
    context.in_force.note_own_answer(context);
}

/// Nobody may use this connection any more: nothing is ever sent over it again, and once its answer has come it is closed,
/// so that Pingora does not keep it.
fn isolate(response: &ResponseHeader, session: &Session, context: &mut Context) {
    let is_whole = session.req_header().method == http::Method::HEAD
        || matches!(response.status.as_u16(), 204 | 304)
        || response.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0");
    close(context.socket, if is_whole { Shutdown::Both } else { Shutdown::Write });
    context.is_isolated = true;
}

/// A server has authenticated a shared connection, or begun to, although nobody asked for it.
fn unasked(session: &mut Session, context: &Context) {
    let server = context.story.server.map(|server| &context.in_force.organisation.topology.server(server).name);
    Event::ConnectionNotOwn.report(format_args!(
        "{} authenticated a connection without being asked; it was closed",
        server.map_or("a server", String::as_str)
    ));
    session.set_keepalive(None);
}

/// Ends a request that no server can be told who sends it.
fn cannot_sign_in<T>(denial: Denial, session: &mut Session, context: &mut Context) -> Result<T> {
    context.story.denial = Some(denial);
    context.in_force.note_own_answer(context);
    session.set_keepalive(None);
    Error::e_explain(ErrorType::InternalError, "the server cannot be told who asks")
}

/// Closes a connection that is in use, and so cannot have become another one's descriptor.
fn close(socket: Option<RawFd>, how: Shutdown) {
    if let Some(socket) = socket
        && let Err(error) = nix::sys::socket::shutdown(socket, how)
    {
        log::debug!("the server had closed its connection already: {error}");
    }
}

/// The own connection of a pinned client was gone; the gate decides whether it gets another.
const REOPENED: ErrorType = ErrorType::new("Reopened");

/// What becomes of a request that the gate closed to.
fn closed_to<T>(closed: Closed, context: &mut Context) -> Result<T> {
    match closed {
        Closed::Reopen => return Error::e_explain(REOPENED, "the own connection is gone"),
        Closed::Lost if context.carries == Carries::Nothing => context.story.denial = Some(Denial::SignInLost),
        Closed::Lost | Closed::Astray => context.story.denial = Some(Denial::HandshakeLost),
        Closed::Stranger => {
            Event::ConnectionNotOwn.report(closed);
            context.story.denial = Some(Denial::Internal);
        }
    }
    Error::e_explain(ErrorType::InternalError, "the gate is closed")
}

/// Whether a client's connection ends with the answer that it gets now.
fn ends_here(context: &Context) -> bool {
    match context.client.pinned() {
        Some(pinned) => pinned.has_expired(context.in_force.pin_bounds()),
        None => context.in_force.shared.is_leaving(),
    }
}

/// Lets a client wait so long with its next request. If its connection is to end with this answer, that stays in force.
fn keep_alive(session: &mut HttpSession, patience: Duration) {
    if session.get_keepalive().is_some() {
        session.set_keepalive(Some(patience.as_secs().max(1)));
    }
}

/// Answers a request that cannot go on, and ends its connection.
async fn give_up_with(answer: &Answer, session: &mut Session, context: &Context) -> FailToProxy {
    session.set_keepalive(None);
    if let Err(error) = send(answer, session, &context.story.request).await {
        log::debug!("the client left before it could be told: {error}");
    }
    FailToProxy { error_code: answer.status, can_reuse_downstream: false }
}

/// The server's certificate or TLS version is not what the configuration asks for.
const UNTRUSTED_SERVER: ErrorType = ErrorType::new("UntrustedServer");

/// Notes that the chosen server did not let the request in.
fn server_failed(context: &mut Context, error: &Error) {
    let Some(server) = context.story.server else { return };
    context.tried.push(server);
    context.in_flight_behind = None;
    let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
    if let Some(fault) = Fault::of(error).filter(|_| error.etype() != &UNTRUSTED_SERVER) {
        context.in_force.organisation.health.refused(server, protocol, &fault); // the other is noted where it was found
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
            let client = context.sender.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
            Event::MalformedRequest.report(format_args!("a request from {client} was malformed: {}", denial.name()));
            session.set_keepalive(None);
        }
        // After a handshake that is not passed on to its end the connection is of no use.
        Denial::BodyTooLarge | Denial::TooManyFailedLogons { .. } => session.set_keepalive(None),
        Denial::Routing(_)
        | Denial::PathNotServed
        | Denial::WrongPassword
        | Denial::PasswordExpired
        | Denial::AccountUnusable
        | Denial::SignInLost
        | Denial::HandshakeLost
        | Denial::TooManyPins
        | Denial::TooManyRequests { .. }
        | Denial::CannotSignIn
        | Denial::SignInAway
        | Denial::DirectoryAway
        | Denial::UpstreamFailed
        | Denial::UpstreamTimedOut
        | Denial::ClientTimedOut
        | Denial::Internal => {}
    }
    denied(denial, session.req_header(), context)
}

/// The answer to a request that is not served. Whoever has logged on by the form gets no challenge: their browser would ask
/// for a password itself, and send it from then on.
fn denied(denial: Denial, request: &RequestHeader, context: &mut Context) -> Answer {
    let mut answer = respond::denied(denial, context.story.protocol);
    if answer.status == 401 && context.is_by_form {
        context.renewed_logon = None;
        if denial == Denial::WrongPassword {
            context.in_force.end_logon(&request.headers, SystemTime::now());
            return form::ask(request, Reason::WrongPassword);
        }
        return respond::without_challenge(answer);
    }
    let offered =
        context.story.protocol.is_some_and(|protocol| context.in_force.organisation.offers_windows_locally(protocol));
    if answer.status == 401 && offered {
        respond::offer_windows(&mut answer);
    }
    answer
}

/// The edge's cookies, which no server sees.
const OWN_COOKIES: [&str; 3] = [affinity::NAME, form::COOKIES[0], form::COOKIES[1]];

/// HTTP/2 may carry cookies in several fields, HTTP/1.1 must not (RFC 9113 section 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let mut cookies = request.headers.get_all(COOKIE).iter().map(http::HeaderValue::as_bytes);
    if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
        let joined = [first, second].into_iter().chain(cookies).collect::<Vec<_>>().join(&b"; "[..]);
        request.insert_header(COOKIE, joined)?;
    }
    Ok(())
}

async fn send(answer: &Answer, session: &mut Session, request: &str) -> Result<()> {
    // A client that waits for a 100 before its body, or has a long one to send, must not be waited for in turn.
    let waits = session.req_header().headers.contains_key(EXPECT) || announces_long_body(session.req_header());
    if waits {
        session.set_keepalive(None);
    }
    let body = answer.body_of(request);
    let mut header = ResponseHeader::build(answer.status, Some(answer.headers.len() + 4))?;
    header.insert_header(tracing::REQUEST_ID, request)?;
    for (name, value) in &answer.headers {
        header.append_header(*name, value)?;
    }
    if !answer.content_type.is_empty() {
        header.insert_header("Content-Type", answer.content_type)?;
    }
    header.insert_header("Content-Length", body.len().to_string())?;
    let body_wanted = session.req_header().method != http::Method::HEAD && !body.is_empty();
    session.write_response_header(Box::new(header), !body_wanted).await?;
    if body_wanted {
        session.write_response_body(Some(Bytes::from(body.into_owned())), true).await?;
    }
    Ok(())
}

/// Takes in what a client still sends after its answer, for a while. Closing at once would reset the connection, and a
/// client that sends before it reads would never see the answer (RFC 9112 section 9.6).
async fn linger(session: &mut Session) {
    const LONGEST: Duration = Duration::from_secs(5); // some 60 MB at 100 Mbit/s; a client slower than that retries
    let is_told = is_answered(session);
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

/// Whether the client has its answer, or the beginning of it. A `100 Continue` is none; a 101 is the last there is.
fn is_answered(session: &Session) -> bool {
    session.response_written().is_some_and(|answer| !answer.status.is_informational() || answer.status == 101)
}

/// Whether a server may hold a request on purpose, for minutes or hours.
pub(crate) fn may_be_held(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::ActiveSync | Protocol::Ews | Protocol::OutlookAnywhere | Protocol::Mapi)
}

fn announces_long_body(request: &RequestHeader) -> bool {
    const SHORT_BYTES: u64 = 64 * 1024; // read and thrown away sooner than a new connection is made
    request.headers.contains_key(TRANSFER_ENCODING) || content_length(request) > Some(SHORT_BYTES)
}

/// The length in bytes that a request announces for its body, if it announces one.
fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn is_tls(session: &Session) -> bool {
    session.digest().is_some_and(|digest| digest.ssl_digest.is_some())
}
