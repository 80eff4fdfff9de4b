//! What a client is told when its request is not passed on: one table, from redirects and denials to answers.

use std::{borrow::Cow, sync::LazyLock};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{HeaderValue, header::WWW_AUTHENTICATE};
use pingora_core::tls::hash::{MessageDigest, hash};
use pingora_http::ResponseHeader;
use url::Url;

use crate::{
    directory::Unusable,
    edge::{hygiene::Malformed, path::PathError},
    routing::{Decision, Refusal, protocol::Protocol},
};

/// An answer of the edge's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Fields besides those every answer has.
    pub headers: Vec<(&'static str, String)>,
    /// `Content-Type`; empty where there is no body.
    pub content_type: &'static str,
    /// Body, in full.
    pub body: String,
}

impl Answer {
    /// The same, which sets this cookie, too, and is not kept for anybody else.
    #[must_use]
    pub fn with_cookie(mut self, set_cookie: String) -> Self {
        if self.headers.iter().all(|(name, _)| *name != "Cache-Control") {
            self.headers.push(("Cache-Control", "private".into()));
        }
        self.headers.push(("Set-Cookie", set_cookie));
        self
    }

    /// The body; if something went wrong, with the number by which an administrator finds the request in the log.
    pub fn body_of(&self, request: &str) -> Cow<'_, str> {
        if self.status < 400 || self.status == 401 {
            return self.body.as_str().into();
        }
        if let Some((before, after)) = self.body.split_once("</main>") {
            let number = html_escape::encode_text(request);
            return format!("{before}<p><small>For your administrator: request {number}</small></p>\n</main>{after}")
                .into();
        }
        if self.content_type.starts_with("text/plain") {
            return format!("{}For your administrator: request {request}\n", self.body).into();
        }
        self.body.as_str().into()
    }
}

/// Why a request is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// A routing rule.
    Routing(Refusal),
    /// The path belongs to no protocol that is served here.
    PathNotServed,
    /// The path could mean one thing here and another behind.
    BadPath(PathError),
    /// The request's fields contradict each other.
    Malformed(Malformed),
    /// It is not HTTP.
    Unreadable,
    /// The header is larger than its limit.
    HeaderTooLarge,
    /// The body is larger than the protocol's limit.
    BodyTooLarge,
    /// The answer needs a proven identity, and the password is wrong.
    WrongPassword,
    /// The password is right, but too old, or has to be changed first.
    PasswordExpired,
    /// The password is right, but nobody may sign in to the account: it is disabled or expired, or may not be used now.
    AccountUnusable,
    /// The connection that the client had signed in over is gone.
    SignInLost,
    /// The connection that the client was signing in over is gone. It is not told: an answer would be taken for a wrong
    /// password, or shown to the user, while a connection that just ends makes the client begin anew.
    HandshakeLost,
    /// As many clients as may be have signed in by Windows authentication.
    TooManyPins,
    /// The edge cannot sign in to the server for the user, until somebody mends what the event says.
    CannotSignIn,
    /// The edge cannot sign in now: no key distribution centre answers.
    SignInAway,
    /// Too many passwords were wrong.
    TooManyFailedLogons {
        /// After so many seconds they are forgotten.
        retry_after: u16,
    },
    /// A device sends requests much faster than any real use.
    TooManyRequests {
        /// After so many seconds its minute is over.
        retry_after: u16,
    },
    /// The directory did not answer.
    DirectoryAway,
    /// The server failed after it had the request.
    UpstreamFailed,
    /// The server kept silent for too long.
    UpstreamTimedOut,
    /// The client kept silent for too long.
    ClientTimedOut,
    /// Something went wrong in the edge itself.
    Internal,
}

/// Seconds after which a client may try again what failed for a passing reason.
const RETRY_AFTER_SECONDS: u16 = 30;

impl Denial {
    /// What is said of an account that cannot be used. That it is locked the directory also tells whoever does not know its
    /// password; so the edge says of every wrong password that it may be so.
    pub fn of_unusable(why: Unusable) -> Denial {
        match why {
            Unusable::PasswordExpired | Unusable::PasswordMustChange => Denial::PasswordExpired,
            Unusable::AccountDisabled | Unusable::AccountExpired | Unusable::LogonRestricted => Denial::AccountUnusable,
            Unusable::AccountLocked => Denial::WrongPassword,
        }
    }

    /// The name in the access log.
    pub fn name(self) -> &'static str {
        match self {
            Denial::Routing(refusal) => refusal.name(),
            Denial::PathNotServed => "path-not-served",
            Denial::BadPath(_) => "bad-path",
            Denial::Malformed(_) | Denial::Unreadable => "malformed-request",
            Denial::HeaderTooLarge => "header-too-large",
            Denial::BodyTooLarge => "body-too-large",
            Denial::WrongPassword => "wrong-password",
            Denial::PasswordExpired => "password-expired",
            Denial::AccountUnusable => "account-unusable",
            Denial::SignInLost => "sign-in-lost",
            Denial::HandshakeLost => "handshake-lost",
            Denial::TooManyPins => "too-many-pins",
            Denial::TooManyFailedLogons { .. } => "too-many-failed-logons",
            Denial::TooManyRequests { .. } => "too-many-requests",
            Denial::CannotSignIn => "cannot-sign-in",
            Denial::SignInAway => "sign-in-away",
            Denial::DirectoryAway => "directory-away",
            Denial::UpstreamFailed => "upstream-failed",
            Denial::UpstreamTimedOut => "upstream-timed-out",
            Denial::ClientTimedOut => "client-timed-out",
            Denial::Internal => "internal",
        }
    }
}

/// The answer to a decision that does not pass the request on; `None` for one that does.
pub fn decided(decision: &Decision, protocol: Protocol) -> Option<Answer> {
    match decision {
        Decision::Proxy(..) | Decision::BackEnd(..) | Decision::ConnectTo(..) => None, // the last is of mail alone
        Decision::LinkPage(url, _) => Some(link_page(url)),
        Decision::MovedDevice(url, _) => Some(moved_device(url)),
        Decision::SameHost(path, _) => Some(found(path)),
        Decision::Refuse(refusal) => Some(denied(Denial::Routing(*refusal), Some(protocol))),
    }
}

/// The answer to a request that is not served. `protocol` chooses the form its client understands.
pub fn denied(denial: Denial, protocol: Option<Protocol>) -> Answer {
    let words = Words::of(denial);
    let mut answer = match protocol {
        Some(Protocol::Ews) if words.soap_code.is_some() => soap_fault(&words),
        Some(Protocol::ActiveSync) => text(words.activesync_status, &words.text),
        Some(
            Protocol::Root
            | Protocol::Owa
            | Protocol::LegacyOwa
            | Protocol::Ecp
            | Protocol::Ews
            | Protocol::Autodiscover
            | Protocol::Oab
            | Protocol::OutlookAnywhere
            | Protocol::Mapi
            | Protocol::Pop3
            | Protocol::Imap4
            | Protocol::Opened,
        )
        | None => page(words.status, words.title, &format!("<p>{}</p>", html_escape::encode_text(&words.text))),
    };
    if answer.status == 401 {
        answer.headers.push(("WWW-Authenticate", BASIC.into()));
    }
    if answer.status == 503 {
        let seconds =
            if let Denial::TooManyFailedLogons { retry_after } | Denial::TooManyRequests { retry_after } = denial {
                retry_after.max(1)
            } else {
                RETRY_AFTER_SECONDS
            };
        answer.headers.push(("Retry-After", seconds.to_string()));
    }
    answer
}

/// What a page says to whoever is denied something.
pub(super) fn text_of(denial: Denial) -> Cow<'static, str> {
    Words::of(denial).text
}

/// What a refused client gets, in words.
pub fn described(refusal: Refusal, protocol: Protocol) -> String {
    let status = denied(Denial::Routing(refusal), Some(protocol)).status;
    let Words { text, soap_code, .. } = Words::of_refusal(refusal);
    match (protocol, soap_code) {
        (Protocol::Ews, Some(code)) => format!("{status}, a SOAP fault with {code}"),
        (Protocol::ActiveSync, _) => format!("{status}; most devices show no text: {text}"),
        _ => format!("{status}, a page: {text}"),
    }
}

/// The same without its challenge; 401 would need one (RFC 9110 section 15.5.2).
pub(super) fn without_challenge(mut answer: Answer) -> Answer {
    if answer.status == 401 {
        answer.status = 403;
    }
    answer.headers.retain(|(name, _)| *name != "WWW-Authenticate" && *name != PROXY_SUPPORT.0);
    answer
}

/// Offers what the local pool's challenge offers, so that the edge's own says nothing by being different.
pub fn offer_windows(answer: &mut Answer) {
    answer.headers.insert(0, ("WWW-Authenticate", "Negotiate".into()));
    answer.headers.insert(1, ("WWW-Authenticate", "NTLM".into()));
    answer.headers.push((PROXY_SUPPORT.0, PROXY_SUPPORT.1.into()));
}

/// Takes from a server's challenge what names the server: whoever sees it has not proven who they are, and must not learn
/// where a mailbox lives.
pub fn anonymise(challenge: &mut ResponseHeader) -> pingora_core::Result<()> {
    for name in NAMING_A_SERVER {
        challenge.remove_header(name);
    }
    let offers: Vec<_> = challenge.headers.get_all(WWW_AUTHENTICATE).iter().cloned().collect();
    if offers.iter().any(is_basic) {
        challenge.remove_header(&WWW_AUTHENTICATE);
        for offer in offers {
            let offer = if is_basic(&offer) { HeaderValue::from_static(BASIC) } else { offer };
            challenge.append_header(WWW_AUTHENTICATE, offer)?;
        }
    }
    Ok(())
}

/// Lets a challenge ask for a name and password, too.
pub fn offer_basic(challenge: &mut ResponseHeader) -> pingora_core::Result<()> {
    if !offers_basic(challenge) {
        challenge.append_header(WWW_AUTHENTICATE, BASIC)?;
    }
    Ok(())
}

/// Whether a challenge asks for a name and password.
pub fn offers_basic(challenge: &ResponseHeader) -> bool {
    challenge.headers.get_all(WWW_AUTHENTICATE).iter().any(is_basic)
}

fn is_basic(offer: &HeaderValue) -> bool {
    offer.as_bytes().get(..5).is_some_and(|it| it.eq_ignore_ascii_case(b"Basic"))
}

/// Says with a challenge that Windows authentication works through this proxy (RFC 4559 section 6).
pub const PROXY_SUPPORT: (&str, &str) = ("Proxy-Support", "Session-Based-Authentication");

/// The realm that browsers show; one for all servers.
const BASIC: &str = "Basic realm=\"Mail\", charset=\"UTF-8\"";

/// Set by Exchange 2013 and later.
const NAMING_A_SERVER: [&str; 4] = ["X-FEServer", "X-BEServer", "X-CalculatedBETarget", "X-DiagInfo"];

/// How a denial is said to each kind of client.
struct Words {
    status: u16,
    /// Devices take some statuses as commands, so theirs differ.
    activesync_status: u16,
    title: &'static str,
    text: Cow<'static, str>,
    /// EWS `ResponseCode`, where the protocol has one for this.
    soap_code: Option<&'static str>,
}

impl Words {
    /// The table. Every user reads `text`, so it says what *they* can do.
    #[allow(clippy::too_many_lines)] // one for each
    fn of(denial: Denial) -> Words {
        let words = |status, activesync_status, title, text: &'static str, soap_code| Words {
            status,
            activesync_status,
            title,
            text: text.into(),
            soap_code,
        };
        match denial {
            Denial::Routing(refusal) => Words::of_refusal(refusal),
            Denial::PathNotServed => words(
                404,
                404,
                "Nothing here",
                "This address is not part of the mail service. Check it, or start at /owa/.",
                None,
            ),
            Denial::BadPath(error) => Words { text: sentence(&error), ..words(400, 400, "Bad address", "", None) },
            Denial::Malformed(error) => Words { text: sentence(&error), ..words(400, 400, "Bad request", "", None) },
            Denial::Unreadable => words(400, 400, "Bad request", "The request is not valid HTTP.", None),
            Denial::HeaderTooLarge => words(
                431,
                431,
                "Too large",
                "The request's header is larger than this server takes. Delete this site's cookies and try again.",
                None,
            ),
            Denial::BodyTooLarge => words(
                413,
                413,
                "Too large",
                "The message or attachment is larger than this server takes. Send a smaller one.",
                None,
            ),
            Denial::WrongPassword => words(
                401,
                401,
                "Please sign in",
                "The user name or the password is not right, or the account is locked. Try again, or ask your \
                 administrator.",
                None,
            ),
            // As IIS does: a phone asks for the new password, and a browser forgets the one that it keeps for this site.
            Denial::PasswordExpired => words(
                401,
                401,
                "Change your password",
                "Your password has expired, or must be changed before you first sign in. Change it on a computer of \
                 your organisation, or ask your administrator; then sign in with the new one.",
                None,
            ),
            Denial::AccountUnusable => words(
                401,
                401,
                "Your account cannot be used",
                "Your account is disabled, has expired, or may not be used now. Ask your administrator.",
                None,
            ),
            Denial::SignInLost | Denial::HandshakeLost => {
                words(401, 401, "Please sign in", "The mail server has ended your session. Sign in again.", None)
            }
            Denial::TooManyPins => words(
                503,
                503,
                "Try again soon",
                "Too many people are signed in right now. Try again in a minute.",
                None,
            ),
            Denial::TooManyFailedLogons { .. } => words(
                503,
                503,
                "Too many attempts",
                "Too many passwords were wrong, for this user name or from where you are. Wait for a few minutes, then \
                 try again.",
                None,
            ),
            Denial::TooManyRequests { .. } => words(
                503,
                503,
                "Try again soon",
                "This device sends too many requests. Let it rest for a minute.",
                None,
            ),
            Denial::CannotSignIn => words(
                403,
                403,
                "You cannot be signed in",
                "The mail server of your mailbox could not be signed in to for you. Tell your administrator when it \
                 happened.",
                Some("ErrorProxyServiceDiscoveryFailed"),
            ),
            Denial::SignInAway => words(
                503,
                503,
                "Try again soon",
                "The mail service cannot sign you in right now. Try again in a minute.",
                None,
            ),
            Denial::DirectoryAway => words(
                503,
                503,
                "Try again soon",
                "The mail service cannot look up mailboxes right now. Try again in a minute.",
                None,
            ),
            Denial::UpstreamFailed => {
                words(502, 503, "Try again soon", "The mail server broke off while it was answering. Try again.", None)
            }
            Denial::UpstreamTimedOut => words(
                504,
                503,
                "Try again soon",
                "The mail server did not answer in time. Try again in a minute.",
                None,
            ),
            Denial::ClientTimedOut => words(408, 408, "Too slow", "The request did not arrive in time.", None),
            Denial::Internal => words(
                500,
                500,
                "Something went wrong",
                "The mail service could not handle the request. Tell your administrator when it happened.",
                None,
            ),
        }
    }

    fn of_refusal(refusal: Refusal) -> Words {
        // Exchange answers 403 where retrying cannot help; 503 asks a device to try again ([S10e]).
        let words = |status, text: &'static str, soap_code| Words {
            status,
            activesync_status: status,
            title: if status == 503 { "Try again soon" } else { "This mailbox cannot be opened here" },
            text: text.into(),
            soap_code: Some(soap_code),
        };
        match refusal {
            Refusal::UnknownUser | Refusal::NoMailbox => words(
                403,
                "There is no mailbox of this name. Check the name, or ask your administrator for a mailbox.",
                "ErrorNonExistentMailbox",
            ),
            Refusal::AmbiguousName => words(
                403,
                "More than one mailbox has this name. Sign in with your full user name (name@domain), and tell your \
                 administrator.",
                "ErrorNonExistentMailbox",
            ),
            Refusal::HomeServerUnknown | Refusal::VersionUnknown | Refusal::SiteUnknown => words(
                403,
                "The directory does not say where your mailbox is. Tell your administrator: the entry of your mailbox \
                 server needs attention.",
                "ErrorProxyServiceDiscoveryFailed",
            ),
            Refusal::NotServedLocally => words(
                403,
                "This service is not offered here. Ask your administrator for its address.",
                "ErrorProxyServiceDiscoveryFailed",
            ),
            Refusal::NotOnThisVersion => words(
                403,
                "Your mailbox is on a version of Exchange that does not offer this service. Use a browser, or \
                 ActiveSync on a phone.",
                "ErrorNoDestinationCASDueToVersionMismatch",
            ),
            Refusal::NoVirtualDirectory => words(
                403,
                "The Client Access Servers of your mailbox's site do not offer this service. Tell your administrator.",
                "ErrorProxyServiceDiscoveryFailed",
            ),
            Refusal::NoClientAccessServer => words(
                403,
                "Your mailbox is in a site without a Client Access Server, so it cannot be reached from here. Tell \
                 your administrator.",
                "ErrorProxyServiceDiscoveryFailed",
            ),
            Refusal::NoInternalUrl => words(
                403,
                "The Client Access Servers of your mailbox's site have no internal address for this service. Tell \
                 your administrator (event 41).",
                "ErrorProxyServiceDiscoveryFailed",
            ),
            Refusal::NoIntegratedAuthentication => words(
                403,
                "No Client Access Server in your mailbox's site has Integrated Windows authentication turned on. Tell \
                 your administrator (event 41).",
                "ErrorNoDestinationCASDueToKerberosRequirements",
            ),
            Refusal::NoSsl => words(
                403,
                "The Client Access Servers of your mailbox's site do not use SSL. Tell your administrator (event 42).",
                "ErrorNoDestinationCASDueToSSLRequirements",
            ),
            Refusal::NoAcceptableVersion => words(
                403,
                "No Client Access Server in your mailbox's site is of your mailbox's version. Tell your administrator \
                 (event 46).",
                "ErrorNoDestinationCASDueToVersionMismatch",
            ),
            Refusal::NoneResponding => words(
                503,
                "The mail servers are not answering right now. Try again in a minute.",
                "ErrorNoRespondingCASInDestinationSite",
            ),
        }
    }
}

/// An error's text as a sentence of its own.
fn sentence(error: &dyn std::error::Error) -> Cow<'static, str> {
    let text = error.to_string();
    let mut letters = text.chars();
    letters.next().map_or(text.clone(), |first| format!("{}{}.", first.to_uppercase(), letters.as_str())).into()
}

/// Outlook Web Access: a page with a link to the Client Access Server of the mailbox's own site.
fn link_page(url: &Url) -> Answer {
    let address = html_escape::encode_double_quoted_attribute(url.as_str()).into_owned();
    let shown = html_escape::encode_text(url.as_str()).into_owned();
    page(
        200,
        "Your mailbox is at another address",
        &format!(
            "<p>Use this link to open your mailbox, and keep it as a bookmark for next time:</p>\
             <p><a href=\"{address}\">{shown}</a></p>"
        ),
    )
}

/// `ActiveSync`: [MS-ASHTTP] 3.1.5.2.2, an empty 451 with the URL to use from now on.
fn moved_device(url: &Url) -> Answer {
    Answer {
        status: 451,
        headers: vec![("X-MS-Location", url.as_str().to_owned()), ("Cache-Control", "private".into())],
        content_type: "",
        body: String::new(),
    }
}

/// A 307 to the same path at the https origin: the method stays, so that a phone's POST does not become a GET.
pub fn to_https(origin: &Url, asked: &http::Uri) -> Answer {
    // Whatever is no path could become part of the host's name.
    let target = asked.path_and_query().map(http::uri::PathAndQuery::as_str).filter(|target| target.starts_with('/'));
    let location = format!("{}{}", origin.as_str().trim_end_matches('/'), target.unwrap_or("/"));
    Answer { status: 307, headers: vec![("Location", location)], content_type: "", body: String::new() }
}

/// A 307 to the very URL that was asked for, with a cookie by which the next connection goes straight to the right site.
/// `None`: the URL cannot be repeated safely.
pub fn to_own_site(asked: &http::Uri, set_cookie: String) -> Option<Answer> {
    // `//host` would be taken for another host.
    let target = asked.path_and_query()?.as_str();
    let location = (target.starts_with('/') && !target.starts_with("//")).then(|| target.to_owned())?;
    let headers = vec![("Location", location), ("Set-Cookie", set_cookie), ("Cache-Control", "no-store".into())];
    Some(Answer { status: 307, headers, content_type: "", body: String::new() })
}

/// A 302 to a path of this host; the host itself stays the one the client used.
fn found(path: &'static str) -> Answer {
    let mut answer = page(302, "Moved", &format!("<p><a href=\"{path}\">Continue to {path}</a></p>"));
    answer.headers.push(("Location", path.into()));
    answer
}

fn text(status: u16, text: &str) -> Answer {
    Answer {
        status,
        headers: vec![("Cache-Control", "private".into())],
        content_type: "text/plain; charset=utf-8",
        body: format!("{text}\n"),
    }
}

/// A SOAP 1.1 fault that carries an EWS response code, the way Exchange reports errors of the request as a whole.
fn soap_fault(words: &Words) -> Answer {
    let code = words.soap_code.unwrap_or("ErrorInternalServerError");
    let message = html_escape::encode_text(&words.text);
    Answer {
        status: 500,
        headers: vec![("Cache-Control", "private".into())],
        content_type: "text/xml; charset=utf-8",
        body: format!(
            "<?xml version=\"1.0\" encoding=\"utf-8\"?>\
             <s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Body><s:Fault>\
             <faultcode xmlns:a=\"http://schemas.microsoft.com/exchange/services/2006/types\">a:{code}</faultcode>\
             <faultstring xml:lang=\"en-US\">{message}</faultstring>\
             <detail><e:ResponseCode xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">{code}\
             </e:ResponseCode><e:Message xmlns:e=\"http://schemas.microsoft.com/exchange/services/2006/errors\">\
             {message}</e:Message></detail></s:Fault></s:Body></s:Envelope>"
        ),
    }
}

/// A page without scripts and without foreign content. `body` is HTML already.
fn page(status: u16, title: &str, body: &str) -> Answer {
    Answer {
        status,
        headers: vec![
            ("Cache-Control", "no-store".into()),
            ("Content-Security-Policy", CONTENT_SECURITY_POLICY.clone()),
            ("Referrer-Policy", "no-referrer".into()),
            ("X-Content-Type-Options", "nosniff".into()),
        ],
        content_type: "text/html; charset=utf-8",
        body: format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
             <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}\n</main>\n</body>\n</html>\n"
        ),
    }
}

/// Nothing may be loaded or run.
static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| page_policy(STYLE, "'none'", ""));

/// The policy of a page of ours: its one style sheet is named by its hash, its forms go to `form_action`, and of all else it
/// has nothing but what is added.
pub(super) fn page_policy(style: &str, form_action: &str, added: &str) -> String {
    // Hashing cannot fail but for want of memory; a page without its style is readable.
    let style = hash(MessageDigest::sha256(), style.as_bytes()).map(|digest| BASE64_STANDARD.encode(digest));
    let style = style.unwrap_or_default();
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action {form_action}; \
         frame-ancestors 'none'{added}"
    )
}

/// Readable on a phone, in a dark room and on paper.
const STYLE: &str = "\
:root{color-scheme:light dark}\
body{margin:0;font:1.125rem/1.6 system-ui,sans-serif}\
main{max-width:36rem;margin:12vh auto;padding:0 1.5rem}\
h1{font-size:1.6rem;line-height:1.25}\
a{overflow-wrap:anywhere;font-size:1.2rem}\
a:focus-visible{outline:3px solid;outline-offset:4px}";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::Rule;

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    #[test]
    fn the_link_page_escapes_its_target_and_loads_nothing() {
        let url = Url::parse("https://mail.madrid.contoso.com/owa?a=1&b='\"<script>").expect("a URL");
        let answer = decided(&Decision::LinkPage(url, Rule::OwaRedirect), Protocol::Owa).expect("an answer");
        assert_eq!(answer.status, 200);
        assert!(answer.body.contains("href=\"https://mail.madrid.contoso.com/owa?a=1&amp;b="), "{}", answer.body);
        assert!(!answer.body.contains("<script"), "{}", answer.body);
        let policy = header(&answer, "Content-Security-Policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    }

    #[test]
    fn a_451_has_the_location_and_no_body() {
        let url = Url::parse("https://mail.madrid.contoso.com/Microsoft-Server-ActiveSync").expect("a URL");
        let answer = decided(&Decision::MovedDevice(url, Rule::ActiveSyncRedirect), Protocol::ActiveSync);
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (451, ""));
        assert_eq!(
            header(&answer, "X-MS-Location"),
            Some("https://mail.madrid.contoso.com/Microsoft-Server-ActiveSync")
        );
    }

    #[test]
    fn each_client_is_refused_in_the_form_it_understands() {
        let refusal = Denial::Routing(Refusal::NoIntegratedAuthentication);
        let soap = denied(refusal, Some(Protocol::Ews));
        assert_eq!(soap.status, 500);
        assert!(soap.body.contains(">ErrorNoDestinationCASDueToKerberosRequirements<"), "{}", soap.body);
        let device = denied(refusal, Some(Protocol::ActiveSync));
        assert_eq!((device.status, device.content_type), (403, "text/plain; charset=utf-8"));
        let browser = denied(refusal, Some(Protocol::Owa));
        assert_eq!(browser.status, 403);
        assert!(browser.body.contains("Integrated Windows authentication"), "{}", browser.body);
    }

    #[test]
    fn whatever_passes_by_itself_says_when_to_come_back() {
        for denial in [Denial::DirectoryAway, Denial::Routing(Refusal::NoneResponding)] {
            let answer = denied(denial, Some(Protocol::ActiveSync));
            assert_eq!(answer.status, 503);
            assert!(header(&answer, "Retry-After").is_some());
        }
    }

    #[test]
    fn who_has_sent_the_right_password_is_told_what_keeps_them_out_and_nobody_else_is() {
        for (why, title) in [
            (Unusable::PasswordExpired, "Change your password"),
            (Unusable::PasswordMustChange, "Change your password"),
            (Unusable::AccountDisabled, "Your account cannot be used"),
            (Unusable::AccountExpired, "Your account cannot be used"),
            (Unusable::LogonRestricted, "Your account cannot be used"),
        ] {
            for protocol in [Protocol::Owa, Protocol::Ews, Protocol::ActiveSync] {
                let answer = denied(Denial::of_unusable(why), Some(protocol));
                assert_eq!(answer.status, 401, "{why:?}");
                assert!(header(&answer, "WWW-Authenticate").is_some_and(|value| value.starts_with("Basic ")));
                let is_told = protocol == Protocol::ActiveSync || answer.body.contains(title);
                assert!(is_told && answer.body.contains("administrator"), "{}", answer.body);
            }
        }
        let locked = denied(Denial::of_unusable(Unusable::AccountLocked), Some(Protocol::Owa));
        assert_eq!(locked, denied(Denial::WrongPassword, Some(Protocol::Owa)));
    }

    #[test]
    fn a_wrong_password_is_asked_again_and_learns_nothing() {
        let answer = denied(Denial::WrongPassword, Some(Protocol::Owa));
        assert_eq!(answer.status, 401);
        assert!(header(&answer, "WWW-Authenticate").is_some_and(|value| value.starts_with("Basic ")));
        assert!(!answer.body.to_lowercase().contains("mailbox"), "{}", answer.body);
    }
}
