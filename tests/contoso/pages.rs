//! What the virtual directories say: small bodies, each of the kind its protocol's clients expect.

use base64::{Engine, prelude::BASE64_STANDARD};
use firstcas::routing::{protocol::Protocol, version::Generation};
use hyper::{
    Method, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue},
    http::request::Parts,
};

use super::{admission::Visit, body::Body, server::Host};

/// The answer of the virtual directory that a request was let into.
pub fn page(host: &Host, visit: &Visit, head: &Parts) -> Response<Body> {
    match visit.protocol {
        Protocol::ActiveSync => activesync(host, head),
        Protocol::Ews => of_type("text/xml; charset=utf-8", ews(host)),
        Protocol::Autodiscover => of_type("text/xml; charset=utf-8", autodiscover(host, visit)),
        Protocol::Oab => of_type("text/xml", OAB),
        Protocol::OutlookAnywhere => of_type("application/rpc", ""),
        Protocol::Mapi => of_type("application/mapi-http", "PROCESSING\r\nDONE\r\n\r\n"),
        Protocol::Root
        | Protocol::Owa
        | Protocol::LegacyOwa
        | Protocol::Ecp
        | Protocol::Pop3
        | Protocol::Imap4
        | Protocol::Opened => of_type("text/html; charset=utf-8", html(host, visit, head.uri.path())),
    }
}

/// A line of text.
pub fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = of_type("text/plain; charset=utf-8", text);
    *response.status_mut() = status;
    response
}

/// Whether the request is an `ActiveSync` Ping, in the plain or the base64 form of its query ([MS-ASHTTP] 2.2.1.1.1).
pub fn is_ping(query: &str) -> bool {
    let named = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .any(|(name, value)| name.eq_ignore_ascii_case("Cmd") && value.eq_ignore_ascii_case("Ping"));
    named || BASE64_STANDARD.decode(query).is_ok_and(|fields| fields.get(1) == Some(&PING_COMMAND_CODE))
}

fn activesync(host: &Host, head: &Parts) -> Response<Body> {
    let (server, versions) = match host.generation {
        Generation::Exchange2003 => ("6.5.7638.1", "1.0,2.0,2.1,2.5"),
        Generation::Exchange2007 => ("8.3", "1.0,2.0,2.1,2.5,12.0,12.1"),
        Generation::Exchange2010 => ("14.3", "2.0,2.1,2.5,12.0,12.1,14.0,14.1"),
        Generation::Exchange2013 => ("15.2", "2.0,2.1,2.5,12.0,12.1,14.0,14.1,16.0,16.1"),
    };
    let mut response = if head.method == Method::OPTIONS {
        let mut response = Response::new(Body::empty());
        let fields = response.headers_mut();
        fields.insert(ALLOW, HeaderValue::from_static("OPTIONS,POST"));
        fields.insert(HeaderName::from_static("public"), HeaderValue::from_static("OPTIONS,POST"));
        fields.insert(HeaderName::from_static("ms-asprotocolversions"), HeaderValue::from_static(versions));
        fields.insert(HeaderName::from_static("ms-asprotocolcommands"), HeaderValue::from_static(COMMANDS));
        response
    } else if head.method == Method::POST {
        // An empty body is a whole answer: "no changes" ([MS-ASCMD] 2.2.1.21, Sync).
        let content = if head.uri.query().is_some_and(is_ping) { PING_WITHOUT_CHANGES } else { b"" };
        of_type("application/vnd.ms-sync.wbxml", content)
    } else {
        plain(StatusCode::NOT_IMPLEMENTED, format!("{}: ActiveSync is OPTIONS and POST\n", host.name))
    };
    response.headers_mut().insert(HeaderName::from_static("ms-server-activesync"), HeaderValue::from_static(server));
    response
}

fn ews(host: &Host) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Header>\
         <t:ServerVersionInfo MajorVersion=\"{}\" MinorVersion=\"{}\" \
         xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\"/></s:Header><s:Body>\
         <m:ResponseMessage ResponseClass=\"Success\" \
         xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\">\
         <m:MessageText>{}</m:MessageText><m:ResponseCode>NoError</m:ResponseCode></m:ResponseMessage>\
         </s:Body></s:Envelope>\n",
        host.version.major, host.version.minor, host.name
    )
}

fn autodiscover(host: &Host, visit: &Visit) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
         <Autodiscover xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/responseschema/2006\">\
         <Response xmlns=\"http://schemas.microsoft.com/exchange/autodiscover/outlook/responseschema/2006a\">\
         <User><DisplayName>{}</DisplayName></User><Account><AccountType>email</AccountType>\
         <Action>settings</Action><Protocol><Type>EXCH</Type><Server>{}</Server></Protocol></Account>\
         </Response></Autodiscover>\n",
        escaped(&visit.person.account),
        host.fqdn
    )
}

fn html(host: &Host, visit: &Visit, path: &str) -> String {
    let user = escaped(&visit.person.account);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Contoso mail</title></head>\n\
         <body><h1>{user}'s mailbox</h1><p>{} serves {} to {user}.</p></body></html>\n",
        host.name,
        escaped(path)
    )
}

fn of_type(content_type: &'static str, content: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::whole(content));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

const OAB: &str =
    "<?xml version=\"1.0\" encoding=\"UTF-8\"?><OAB><OAL id=\"0\" dn=\"/\" name=\"\\Global Address List\"/></OAB>\n";

/// [MS-ASHTTP] 2.2.1.1.1.1.2, the command codes of the base64 query.
const PING_COMMAND_CODE: u8 = 18;

const COMMANDS: &str = "Sync,SendMail,SmartForward,SmartReply,GetAttachment,GetHierarchy,CreateCollection,\
                        DeleteCollection,MoveCollection,FolderSync,FolderCreate,FolderDelete,FolderUpdate,MoveItems,\
                        GetItemEstimate,MeetingResponse,Search,Settings,Ping,ItemOperations,Provision,\
                        ResolveRecipients,ValidateCert";

/// `<Ping><Status>1</Status></Ping>` in WBXML: the heartbeat ended without changes ([MS-ASCMD] 2.2.3.177.11, code page
/// 13 of [MS-ASWBXML]).
const PING_WITHOUT_CHANGES: &[u8] = b"\x03\x01\x6a\x00\x00\x0d\x45\x47\x031\x00\x01\x01";
