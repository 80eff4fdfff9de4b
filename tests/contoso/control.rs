//! The switches over HTTP, for a demo: `curl -X POST http://127.0.0.1:8099/cas-opo-1/stop`.
//!
//! | request | effect |
//! |---|---|
//! | `GET /` | a line per server: name, address, state, counters |
//! | `POST /<server>/stop`, `/start` | its sockets close, open again |
//! | `POST /<server>/slow/<milliseconds>` | every answer waits |
//! | `POST /<server>/hang` | requests stay unanswered |
//! | `POST /<server>/fail/<protocol>` | that virtual directory answers 503 (`owa`, `ews`, `activesync`, ...) |
//! | `POST /<server>/without-integrated` | offers Basic only |
//! | `POST /<server>/integrated-only` | offers no Basic |
//! | `POST /<server>/kerberos-only` | offers neither Basic nor NTLM |
//! | `POST /<server>/keeps/<habit>` | a Kerberos ticket counts for the connection (`telling`, `silently`) or for its own request (`nothing`) |
//! | `POST /<server>/mod-auth-gssapi` | refuses a new handshake on an authenticated connection |
//! | `POST /<server>/extended-protection` | refuses every handshake |
//! | `POST /<server>/resume` | undoes all but stop |

use std::{convert::Infallible, fmt::Write, sync::Arc, time::Duration};

use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Contoso,
    body::Body,
    pages,
    server::{Keeps, StandIn},
};

/// Serves the switches until dropped.
pub async fn serve(listener: TcpListener, contoso: Arc<Contoso>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else {
                    continue;
                };
                let contoso = Arc::clone(&contoso);
                let service = service_fn(move |request| respond(Arc::clone(&contoso), request));
                connections.spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn respond(contoso: Arc<Contoso>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().trim_matches('/').to_owned();
    if request.method() == Method::GET && path.is_empty() {
        return Ok(pages::plain(StatusCode::OK, overview(&contoso)));
    }
    let (status, text) = if request.method() == Method::POST {
        match act(&contoso, &path).await {
            Ok(server) => (StatusCode::OK, line(server)),
            Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")),
        }
    } else {
        (StatusCode::NOT_FOUND, USAGE.to_owned())
    };
    Ok(pages::plain(status, text))
}

async fn act<'c>(contoso: &'c Contoso, path: &str) -> Result<&'c StandIn, String> {
    let mut segments = path.split('/');
    let name = segments.next().unwrap_or_default();
    let server = contoso.find(name).ok_or_else(|| format!("no server `{name}`; GET / lists them"))?;
    match (segments.next(), segments.next(), segments.next()) {
        (Some("stop"), None, None) => server.stop().await,
        (Some("start"), None, None) => server.start().map_err(|error| error.to_string())?,
        (Some("slow"), Some(delay), None) => {
            let delay = delay.parse().map_err(|_| format!("`{delay}` is no number of milliseconds"))?;
            server.slow(Duration::from_millis(delay));
        }
        (Some("hang"), None, None) => server.hang(),
        (Some("fail"), Some(protocol), None) => server.fail(protocol.parse()?),
        (Some("without-integrated"), None, None) => server.without_integrated(),
        (Some("integrated-only"), None, None) => server.integrated_only(),
        (Some("kerberos-only"), None, None) => server.kerberos_only(),
        (Some("keeps"), Some(keeps), None) => server.keeps(keeps.parse()?),
        (Some("mod-auth-gssapi"), None, None) => server.mod_auth_gssapi(),
        (Some("extended-protection"), None, None) => server.extended_protection(),
        (Some("resume"), None, None) => server.resume(),
        _ => return Err(USAGE.trim_end().to_owned()),
    }
    Ok(server)
}

fn overview(contoso: &Contoso) -> String {
    contoso.servers().iter().map(line).collect()
}

fn line(server: &StandIn) -> String {
    let behaviour = server.behaviour();
    let mut line = format!("{:<10} {:<21} ", server.name(), server.address().to_string());
    line.push_str(if server.is_up() { "up" } else { "stopped" });
    if behaviour.hung {
        line.push_str(" hung");
    }
    if !behaviour.delay.is_zero() {
        let _ = write!(line, " slow={}ms", behaviour.delay.as_millis());
    }
    if let Some(protocol) = behaviour.failing {
        let _ = write!(line, " failing={protocol}");
    }
    if !behaviour.integrated {
        line.push_str(" without-integrated");
    }
    match (behaviour.basic, behaviour.ntlm) {
        (true, _) => {}
        (false, true) => line.push_str(" integrated-only"),
        (false, false) => line.push_str(" kerberos-only"),
    }
    if behaviour.keeps != Keeps::Telling {
        let _ = write!(line, " keeps={}", format!("{:?}", behaviour.keeps).to_lowercase());
    }
    if behaviour.mod_auth_gssapi {
        line.push_str(" mod-auth-gssapi");
    }
    if behaviour.extended_protection {
        line.push_str(" extended-protection");
    }
    let _ = writeln!(
        line,
        " connections={} open={} requests={}",
        server.connections(),
        server.open_connections(),
        server.requests()
    );
    line
}

const USAGE: &str = "GET / lists the servers; \
    POST /<server>/stop|start|slow/<ms>|hang|fail/<protocol>|without-integrated|integrated-only|\
    kerberos-only|keeps/telling|keeps/silently|keeps/nothing|mod-auth-gssapi|extended-protection|resume\n";
