//! One request: steered, let in or refused, answered.

use std::{fmt::Write, str::FromStr, time::Duration};

use firstcas::routing::protocol::Protocol;
use hyper::{
    Request, Response, StatusCode,
    body::{Body as _, Incoming},
    header::{
        AUTHORIZATION, CONNECTION, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHORIZATION,
        WWW_AUTHENTICATE,
    },
    http::request::Parts,
};

use super::{
    admission::{self, Visit},
    body::{Body, Cut, Dropped, Received, receive},
    pages,
    server::{Host, Keeps},
    session::{self, Session},
};

/// Answers a request of the connection of that number; an error drops the connection.
pub async fn answer(
    host: &Host,
    connection: &HeaderValue,
    session: &Session,
    request: Request<Incoming>,
) -> Result<Response<Body>, Dropped> {
    host.take_up_request().await;
    let (head, body) = request.into_parts();
    let steering = Steering::read(&head.headers);
    if steering.reset == Some(Reset::Before) {
        return Err(Dropped);
    }
    let admission = match steering.refuse_expect {
        Some(status) if expects_continue(&head) => Err(refused_expectation(status, host, &head)),
        Some(_) | None => admission::admit(host, session, &head).await,
    };
    if admission.is_ok() {
        host.lets_in();
    }
    let user = admission.as_ref().map_or(NOBODY, |visit| visit.person.value.clone());
    let last_token = admission.as_ref().ok().and_then(|visit| visit.last_token.clone());

    let mut response = match admission {
        Ok(visit) if steering.wants_own_body() || !is_duplex(&visit, &head) => {
            let received = receive(body, steering.echo).await?;
            hold(steering.hold.or_else(|| ping_hold(host, &visit, &head))).await;
            own_body(&steering, &head, Some(&received)).unwrap_or_else(|| pages::page(host, &visit, &head))
        }
        Ok(_) => {
            hold(steering.hold).await;
            let mut response = Response::new(Body::Duplex(body));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/rpc"));
            response
        }
        Err(mut refusal) => {
            let received = if is_drained(&head, &body) { Some(receive(body, steering.echo).await?) } else { None };
            hold(steering.hold).await;
            if steering.echo {
                *refusal.body_mut() = Body::whole(echo(&head, received.as_ref()));
            }
            refusal
        }
    };
    if steering.reset == Some(Reset::Mid) {
        *response.body_mut() = Body::Cut(Cut::Begun);
    }
    let fields = response.headers_mut();
    if let Some(token) = last_token {
        fields.append(WWW_AUTHENTICATE, token);
    }
    if steering.unasked_token {
        fields.append(WWW_AUTHENTICATE, UNASKED_TOKEN);
    }
    let tells = host.behaviour().keeps != Keeps::Silently && session.user().is_some();
    if steering.unasked_persistence || tells {
        fields.insert(PERSISTENT_AUTH, HeaderValue::from_static("true"));
    }
    if steering.close {
        fields.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if steering.reset == Some(Reset::After) {
        session.end_in_reset();
    }
    fields.insert(X_CONTOSO_SERVER, host.name_value.clone());
    fields.insert(X_CONTOSO_USER, user);
    fields.insert(X_CONTOSO_CONNECTION, connection.clone());
    Ok(response)
}

/// What a request's own `X-Contoso-*` fields ask for; the table stands in [`super`].
#[allow(clippy::struct_excessive_bools)] // fields that a request has or has not
struct Steering {
    echo: bool,
    hold: Option<Duration>,
    size: Option<u64>,
    refuse_expect: Option<StatusCode>,
    close: bool,
    reset: Option<Reset>,
    unasked_token: bool,
    unasked_persistence: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reset {
    Before,
    Mid,
    After,
}

impl Steering {
    fn read(fields: &HeaderMap) -> Self {
        Steering {
            echo: fields.contains_key(X_CONTOSO_ECHO),
            hold: number(fields, &X_CONTOSO_HOLD_MS).map(Duration::from_millis),
            size: number(fields, &X_CONTOSO_SIZE),
            refuse_expect: fields.get(X_CONTOSO_REFUSE_EXPECT).map(|status| match status.as_bytes() {
                b"401" => StatusCode::UNAUTHORIZED,
                _ => StatusCode::EXPECTATION_FAILED,
            }),
            close: fields.contains_key(X_CONTOSO_CLOSE),
            reset: fields.get(X_CONTOSO_RESET).map(|when| match when.as_bytes() {
                b"mid" => Reset::Mid,
                b"after" => Reset::After,
                _ => Reset::Before,
            }),
            unasked_token: fields.contains_key(X_CONTOSO_UNASKED_TOKEN),
            unasked_persistence: fields.contains_key(X_CONTOSO_UNASKED_PERSISTENCE),
        }
    }

    /// Whether the fields, not the protocol, say what the body is.
    fn wants_own_body(&self) -> bool {
        self.echo || self.size.is_some() || self.reset.is_some()
    }
}

fn number<N: FromStr>(fields: &HeaderMap, name: &HeaderName) -> Option<N> {
    fields.get(name)?.to_str().ok()?.parse().ok()
}

fn own_body(steering: &Steering, head: &Parts, received: Option<&Received>) -> Option<Response<Body>> {
    if let Some(size) = steering.size {
        return Some(Response::new(Body::Filled(size)));
    }
    steering.echo.then(|| pages::plain(StatusCode::OK, echo(head, received)))
}

/// The request as it arrived. hyper has folded the field names to lower case and put equal ones together.
fn echo(head: &Parts, received: Option<&Received>) -> String {
    let mut text = format!("{} {} {:?}\n", head.method, head.uri, head.version);
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        let secret = name == AUTHORIZATION || name == PROXY_AUTHORIZATION;
        let shown = if secret { value.split(' ').next().unwrap_or_default() } else { &value };
        let _ = writeln!(text, "{name}: {shown}");
    }
    let _ = match received {
        Some(Received { length, hash: Some(hash) }) => writeln!(text, "\nbody: {length} bytes, blake3 {hash}"),
        Some(Received { length, hash: None }) => writeln!(text, "\nbody: {length} bytes"),
        None => writeln!(text, "\nbody: not read"),
    };
    text
}

/// Outlook Anywhere's two long requests: what comes in goes out while more comes in.
fn is_duplex(visit: &Visit, head: &Parts) -> bool {
    visit.protocol == Protocol::OutlookAnywhere && matches!(head.method.as_str(), "RPC_IN_DATA" | "RPC_OUT_DATA")
}

fn ping_hold(host: &Host, visit: &Visit, head: &Parts) -> Option<Duration> {
    let is_ping = visit.protocol == Protocol::ActiveSync && head.uri.query().is_some_and(pages::is_ping);
    is_ping.then(|| host.common.ping_hold())
}

async fn hold(time: Option<Duration>) {
    if let Some(time) = time {
        tokio::time::sleep(time).await;
    }
}

/// Whether a refused request's body is read, so that its connection lives on. Not if the client waits for leave to send
/// it, unless this is a leg of a handshake, which would end with the connection; and not if it may never end, as
/// Outlook Anywhere's does.
fn is_drained(head: &Parts, body: &Incoming) -> bool {
    let endless = head.method.as_str().starts_with("RPC_") || body.size_hint().lower() > DRAIN_LIMIT;
    let is_leg = head.headers.get(AUTHORIZATION).is_some_and(|value| session::is_leg(value.as_bytes()));
    !endless && (is_leg || !expects_continue(head))
}

fn expects_continue(head: &Parts) -> bool {
    head.headers.get(EXPECT).is_some_and(|expectation| expectation.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

fn refused_expectation(status: StatusCode, host: &Host, head: &Parts) -> Response<Body> {
    if status == StatusCode::UNAUTHORIZED {
        return admission::unauthenticated(host, head.uri.path());
    }
    pages::plain(status, format!("{} will not continue\n", host.name))
}

const X_CONTOSO_SERVER: HeaderName = HeaderName::from_static("x-contoso-server");
const X_CONTOSO_USER: HeaderName = HeaderName::from_static("x-contoso-user");
const X_CONTOSO_CONNECTION: HeaderName = HeaderName::from_static("x-contoso-connection");
const X_CONTOSO_ECHO: HeaderName = HeaderName::from_static("x-contoso-echo");
const X_CONTOSO_HOLD_MS: HeaderName = HeaderName::from_static("x-contoso-hold-ms");
const X_CONTOSO_SIZE: HeaderName = HeaderName::from_static("x-contoso-size");
const X_CONTOSO_REFUSE_EXPECT: HeaderName = HeaderName::from_static("x-contoso-refuse-expect");
const X_CONTOSO_CLOSE: HeaderName = HeaderName::from_static("x-contoso-close");
const X_CONTOSO_RESET: HeaderName = HeaderName::from_static("x-contoso-reset");
const X_CONTOSO_UNASKED_TOKEN: HeaderName = HeaderName::from_static("x-contoso-unasked-token");
const X_CONTOSO_UNASKED_PERSISTENCE: HeaderName = HeaderName::from_static("x-contoso-unasked-persistence");
const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");
/// A Kerberos service's `NegTokenResp` that a mutually authenticating client would wait for; nobody reads it here.
const UNASKED_TOKEN: HeaderValue = HeaderValue::from_static("Negotiate oQcwBaADCgEA");
const NOBODY: HeaderValue = HeaderValue::from_static("-");
/// IIS reads a refused body too, to keep the connection, but not without end.
const DRAIN_LIMIT: u64 = 4 << 20;
