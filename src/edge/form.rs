//! The logon form: browsers log on here, and their requests carry a sealed cookie from then on.
//!
//! Paths, fields and statuses are those of Exchange's forms-based authentication, so that bookmarks and what OWA's pages know
//! of it go on working. Whoever sends a credential unasked, as telephones and programs do, never meets the form.

mod destination;
mod logon;
mod page;
mod place;
mod ticket;

use std::time::{Duration, Instant, SystemTime};

use http::{
    HeaderMap, Method,
    header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, EXPECT, HOST, SET_COOKIE},
};
use moka::{Expiry, policy::EvictionPolicy, sync::Cache};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use tokio::time::timeout;
use url::form_urlencoded;
use zeroize::Zeroizing;

use self::{
    destination::HOME,
    logon::{Computer, Logon, Void},
    page::{Fields, Said},
    place::{FORM_PATH, Place, is_logoff_of_2003, is_open},
    ticket::Ticket,
};
use super::{
    Context, content_length, cookies,
    course::{self, Proof},
    in_force::InForce,
    on_behalf::OnBehalf,
    respond::{self, Answer, Denial},
};
use crate::{
    config::SignInBy,
    directory::{Entry, EntryId, cache::Lookup},
    identity::{Credential, Identity, MailboxName},
    routing::protocol::Protocol,
    secret::Secret,
};

/// The cookies that are the form's, which no server sees.
pub(super) const COOKIES: [&str; 2] = [logon::NAME, ticket::NAME];

/// What the logon form has to do with a request.
pub(super) enum Form {
    /// Nothing.
    Apart,
    /// It answers.
    Answer(Answer),
    /// It comes from somebody who has logged on.
    LoggedOn(LoggedOn),
}

/// Somebody who has logged on by the form, as the cookie says.
pub(super) struct LoggedOn {
    pub user: MailboxName,
    /// Whose that name was.
    pub account: EntryId,
    /// What they have logged on with, if the edge needs it to sign in for them.
    pub password: Option<Secret>,
}

impl LoggedOn {
    /// Puts what they have logged on with in the place of a credential of the request's. Without a password, they are who
    /// the cookie says: this name, of this account.
    pub(super) fn into_credential(
        self,
        identity: &mut Identity,
        context: &mut Context,
    ) -> Option<(MailboxName, EntryId)> {
        context.is_by_form = true;
        let Some(password) = self.password else { return Some((self.user, self.account)) };
        identity.credential = Credential::Basic { user: self.user, password };
        None
    }
}

/// Logons that have ended here, each until its cookies would have ended by themselves, and how long that is.
pub(super) struct LoggedOff(Cache<[u8; 16], Duration>);

/// Why the form is shown, as Exchange numbers it in the form's address (from memory).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    NotLoggedOn = 0,
    WrongPassword = 2,
    TimedOut = 3,
}

/// What somebody has filled in.
struct Post {
    destination: String,
    user: String,
    password: Secret,
    computer: Computer,
    token: String,
}

impl InForce {
    /// Whether the form answers a request, or who sends it. A request with a credential of its own is apart.
    pub(super) async fn form(&self, session: &mut Session, context: &mut Context) -> Result<Form, Denial> {
        let request = session.req_header();
        // Without https there is neither form nor cookie; over a connection that somebody has signed in over, there they are.
        let is_signed_in = || context.client.pinned().is_some_and(|pinned| pinned.is_signed_in());
        if !self.has_form(session)
            || !context.sender.is_tls
            || request.headers.contains_key(AUTHORIZATION)
            || is_signed_in()
        {
            return Ok(Form::Apart);
        }
        let (path, query) = course::path_and_query(request)?;
        let Some(protocol) = self.config.routing.protocol_of(&path).filter(|protocol| is_browsers(*protocol)) else {
            return Ok(Form::Apart);
        };
        let now = SystemTime::now();
        let place = Place::of(&path);
        let is_logoff = place == Some(Place::Logoff) || protocol == Protocol::LegacyOwa && is_logoff_of_2003(query);
        let answer = if is_logoff && !is_page(request) {
            page::login_timeout() // an image of another page's logs nobody off
        } else if is_logoff {
            self.log_off(&request.headers, now)
        } else if place == Some(Place::Post) && request.method == Method::POST {
            context.story.protocol = Some(protocol);
            self.log_on(session, context, now).await?
        } else if place == Some(Place::Form) && matches!(request.method, Method::GET | Method::HEAD) {
            self.shown(request, query, now)
        } else if place.is_some() {
            ask(request, Reason::NotLoggedOn)
        } else {
            match self.logon(&request.headers, now) {
                Ok(logon) => {
                    if is_somebodys(&request.headers, &path, query) {
                        let renewed = logon.renewed(&self.config.logon_form, now);
                        context.renewed_logon = renewed.and_then(|renewed| self.cookie(&renewed));
                    }
                    let password = logon.password.filter(|_| self.needs_passwords());
                    return Ok(Form::LoggedOn(LoggedOn { user: logon.user, account: logon.account, password }));
                }
                Err(_) if is_open(&path) => return Ok(Form::Apart),
                // Somebody who is known by a certificate, by which the edge can sign in for them, is asked for nothing.
                Err(_) if self.config.delegates() && self.certified(session).await.is_some() => return Ok(Form::Apart),
                Err(Void::TimedOut) => ask(request, Reason::TimedOut),
                Err(Void::Unknown) => ask(request, Reason::NotLoggedOn),
            }
        };
        context.story.protocol = Some(protocol);
        context.story.rule = Some("logon-form");
        context.underway = Some(self.shared.metrics.begin(protocol));
        Ok(Form::Answer(answer))
    }

    fn has_form(&self, session: &Session) -> bool {
        if self.config.listeners.iter().all(|listener| !listener.logon_form) {
            return false;
        }
        let came_to = session.server_addr().and_then(|address| address.as_inet());
        came_to.and_then(|came_to| self.listener(came_to)).is_some_and(|listener| listener.logon_form)
    }

    /// Whether the edge has to sign in for people with their own passwords.
    fn needs_passwords(&self) -> bool {
        self.config.sign_in.as_ref().is_none_or(|sign_in| sign_in.by.contains(&SignInBy::Password))
    }

    /// The logon that a browser's cookie says, if it is believed.
    fn logon(&self, headers: &HeaderMap, now: SystemTime) -> Result<Logon, Void> {
        let value = cookies::find(headers, logon::NAME).ok_or(Void::Unknown)?;
        let logon = Logon::open(value, &self.logon_seal)?;
        logon.check(&self.config.logon_form, now)?;
        let is_usable = logon.password.is_some() || !self.needs_passwords();
        if is_usable && !self.shared.logged_off.has(&logon.session) { Ok(logon) } else { Err(Void::Unknown) }
    }

    /// The `Set-Cookie` field of a logon.
    fn cookie(&self, logon: &Logon) -> Option<String> {
        Some(set_cookie(logon::NAME, &logon.seal(&self.logon_seal)?))
    }

    /// The form, as somebody asks for it or is sent to it.
    fn shown(&self, request: &RequestHeader, query: Option<&str>, now: SystemTime) -> Answer {
        let parameters = || form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let parameter = |name: &str| parameters().find(|(known, _)| known == name).map(|(_, value)| value);
        let asked = parameter("url").unwrap_or_default();
        let said = match parameter("reason").as_deref() {
            Some("2") => Said::Problem(respond::text_of(Denial::WrongPassword)),
            Some("3") => Said::Note("You were signed out because nothing was done for a while. Sign in to go on."),
            Some(_) | None => Said::Nothing,
        };
        self.filled_in(200, request, said, &asked, "", Computer::Public, now)
    }

    /// The form with this in it; and the cookie that it belongs together with.
    #[allow(clippy::too_many_arguments)] // a form has fields
    fn filled_in(
        &self,
        status: u16,
        request: &RequestHeader,
        said: Said,
        asked: &str,
        user: &str,
        computer: Computer,
        now: SystemTime,
    ) -> Answer {
        let seal = &self.logon_seal;
        let ticket = Ticket::of(cookies::find(&request.headers, ticket::NAME), seal, now);
        let sealed = ticket.and_then(|ticket| Some((ticket.token(seal, now)?, ticket.cookie(seal, now)?)));
        let Some((token, cookie)) = sealed else { return respond::denied(Denial::Internal, Some(Protocol::Owa)) };
        let destination = destination::safe(asked, host(request));
        let fields = Fields { said, destination, token: &token, user, computer };
        let mut answer = page::form(status, &fields, &self.config.logon_form);
        answer.headers.push((SET_COOKIE.as_str(), set_cookie(ticket::NAME, &cookie)));
        answer
    }

    /// Somebody has filled in the form.
    async fn log_on(&self, session: &mut Session, context: &mut Context, now: SystemTime) -> Result<Answer, Denial> {
        let Some(post) = self.posted(session).await? else { return Err(Denial::Unreadable) };
        let request = session.req_header();
        let headers = &request.headers;
        let again =
            |status, said| self.filled_in(status, request, said, &post.destination, &post.user, post.computer, now);
        let cookie = cookies::find(headers, ticket::NAME);
        let is_ours = !ticket::is_foreign(headers, host(request))
            && ticket::belong_together(post.token.as_bytes(), cookie, &self.logon_seal, now);
        if !is_ours {
            let problem = "This page was open for too long, or your browser does not keep its cookies. Sign in again.";
            return Ok(again(403, Said::Problem(problem.into())));
        }
        context.story.credential = "form";
        let came = tokio::time::Instant::now();
        let (entry, typed) = match self.checked(&post, context).await {
            Ok(proven) => proven,
            Err(denial) => {
                context.story.denial = Some(denial);
                if denial == Denial::WrongPassword {
                    context.leaves_at = Some(came + SAME_FOR_EVERY_NAME);
                }
                // By a challenge browsers would ask for a password themselves.
                let described = respond::without_challenge(respond::denied(denial, Some(Protocol::Owa)));
                let mut answer = again(described.status, Said::Problem(respond::text_of(denial)));
                answer.headers.extend(described.headers.into_iter().filter(|(name, _)| *name == "Retry-After"));
                return Ok(answer);
            }
        };
        context.story.proven = Some(entry.name.clone());
        let logon = Logon {
            user: self.own_name(&entry, typed).await,
            account: entry.id,
            password: self.needs_passwords().then(|| post.password.clone()),
            computer: post.computer,
            session: self.logon_seal.random().ok_or(Denial::Internal)?,
            began: now,
            active: now,
        };
        let cookie = self.cookie(&logon).ok_or(Denial::Internal)?;
        if let Some(client) = context.sender.ip {
            // The name that the cookie goes by is not always the one that was written.
            let logons = &self.shared.logons;
            logons.succeeded(logons.attempt(Some(&logon.user), Some(&post.password), client));
        }
        self.end_logon(headers, now); // whoever was logged on in this browser before
        let location = destination::safe(&post.destination, host(request)).to_owned();
        let headers = vec![
            ("Location", location),
            (SET_COOKIE.as_str(), cookie),
            (SET_COOKIE.as_str(), no_cookie(ticket::NAME)),
            ("Cache-Control", "no-store".into()),
            ("Referrer-Policy", "same-origin".into()),
        ];
        Ok(Answer { status: 302, headers, content_type: "", body: String::new() })
    }

    /// What was posted; `None`: it is not the form.
    async fn posted(&self, session: &mut Session) -> Result<Option<Post>, Denial> {
        let request = session.req_header();
        let content_type = request.headers.get(CONTENT_TYPE).map_or(&b""[..], http::HeaderValue::as_bytes);
        let media_type = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !media_type.eq_ignore_ascii_case(b"application/x-www-form-urlencoded") {
            return Ok(None);
        }
        if content_length(request) > Some(BODY_BYTES_MAX as u64) {
            return Err(Denial::BodyTooLarge);
        }
        let waits = request.headers.get(EXPECT).is_some_and(|it| it.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        let read = async {
            if waits {
                session.as_downstream_mut().write_continue_response().await.map_err(|_| Denial::Unreadable)?;
            }
            let mut body = Zeroizing::new(Vec::with_capacity(BODY_BYTES_MAX)); // never moved, so nothing is left behind
            while let Some(bytes) = session.read_request_body().await.map_err(|_| Denial::Unreadable)? {
                if body.len() + bytes.len() > BODY_BYTES_MAX {
                    return Err(Denial::BodyTooLarge);
                }
                body.extend_from_slice(&bytes);
            }
            Ok(body)
        };
        let body = timeout(self.config.timeouts.client, read).await.unwrap_or(Err(Denial::ClientTimedOut))?;
        Ok(Some(Post::read(&body)))
    }

    /// Whose name and password these are, and which name was written.
    async fn checked(&self, post: &Post, context: &mut Context) -> Result<(Entry, MailboxName), Denial> {
        let user = MailboxName::parse(&post.user).map_err(|_| Denial::WrongPassword)?;
        let user = match (user, &self.config.logon_form.default_domain) {
            (MailboxName::Bare(name), Some(domain)) => {
                MailboxName::parse(&format!("{domain}\\{name}")).map_err(|_| Denial::WrongPassword)?
            }
            (user, _) => user,
        };
        context.story.user = Some(user.clone());
        let length = post.password.expose().len();
        if length == 0 || length > logon::PASSWORD_BYTES_MAX {
            return Err(Denial::WrongPassword); // an empty one would be an anonymous bind's
        }
        let credential = Credential::Basic { user: user.clone(), password: post.password.clone() };
        self.check_logon(&credential, false, context).await?;
        match self.prove(&credential).await? {
            Proof::Proven(entry) => Ok((entry, user)),
            Proof::Unusable(why) => Err(Denial::of_unusable(why)),
            Proof::Wrong | Proof::Absent => Err(Denial::WrongPassword),
        }
    }

    /// The name by which the directory finds this person and nobody else, and servers know them; else the one they have
    /// written. The account of a linked mailbox is another one.
    async fn own_name(&self, entry: &Entry, typed: MailboxName) -> MailboxName {
        let Ok(own) = MailboxName::parse(&entry.name) else { return typed };
        match self.find(&own).await.as_deref() {
            Ok(Lookup::Found(found)) if found.id == entry.id && entry.master_account.is_none() => own,
            Ok(Lookup::Found(_) | Lookup::NotFound | Lookup::Ambiguous(_)) | Err(_) => typed,
        }
    }

    /// Why a server does not serve somebody who has logged on by the form. Its 401 may mean that the password is wrong now,
    /// but also that the mailbox is not theirs, or that it takes another credential than the edge has.
    pub(super) async fn refused_by_server(&self, response: &ResponseHeader, context: &mut Context) -> Denial {
        let credential = context.on_behalf.as_ref().and_then(OnBehalf::credential).unwrap_or(Credential::None);
        if !respond::offers_basic(response) {
            return Denial::CannotSignIn;
        }
        match self.prove(&credential).await {
            Ok(Proof::Proven(entry)) => {
                context.story.proven = Some(entry.name);
                Denial::CannotSignIn
            }
            Ok(Proof::Unusable(why)) => Denial::of_unusable(why),
            Ok(Proof::Wrong) => Denial::WrongPassword,
            Ok(Proof::Absent) => Denial::CannotSignIn,
            Err(away) => away,
        }
    }

    /// Ends the logon of a browser's cookie, and of every copy of it. One that is not believed any more has ended.
    pub(super) fn end_logon(&self, headers: &HeaderMap, now: SystemTime) {
        let logon = cookies::find(headers, logon::NAME).and_then(|value| Logon::open(value, &self.logon_seal).ok());
        if let Some(logon) = logon.filter(|logon| logon.check(&self.config.logon_form, now).is_ok()) {
            self.shared.logged_off.add(logon.session, logon.computer.lives_at_most(&self.config.logon_form));
        }
    }

    fn log_off(&self, headers: &HeaderMap, now: SystemTime) -> Answer {
        self.end_logon(headers, now);
        let mut answer = page::signed_out();
        answer.headers.push((SET_COOKIE.as_str(), no_cookie(logon::NAME)));
        answer
    }
}

/// Sends whoever asks for a page to the form, and back afterwards; tells everything else that its user is not logged on.
/// What cookie there is ends.
pub(super) fn ask(request: &RequestHeader, reason: Reason) -> Answer {
    let mut answer = if is_page(request) {
        let asked = request.uri.path_and_query().map_or(HOME, http::uri::PathAndQuery::as_str);
        let asked = destination::safe(asked, None);
        let mut location = format!("{FORM_PATH}?");
        let start = location.len();
        location = form_urlencoded::Serializer::for_suffix(location, start)
            .append_pair("url", asked)
            .append_pair("reason", &(reason as u8).to_string())
            .finish();
        let headers = vec![("Location", location), ("Cache-Control", "no-store".into())];
        Answer { status: 302, headers, content_type: "", body: String::new() }
    } else {
        page::login_timeout()
    };
    if cookies::find(&request.headers, logon::NAME).is_some() {
        answer.headers.push((SET_COOKIE.as_str(), no_cookie(logon::NAME)));
    }
    answer
}

/// Adds the cookie of a logon that goes on to an answer of a server's. One that may be kept for others gets none, and any
/// other may not be kept for them from then on.
pub(super) fn renew(renewed: Option<&str>, answer: &mut ResponseHeader) -> pingora_core::Result<()> {
    let Some(cookie) = renewed else { return Ok(()) };
    let fields = answer.headers.get_all(CACHE_CONTROL);
    let directives = fields.iter().flat_map(|field| field.as_bytes().split(|byte| *byte == b','));
    let (mut is_public, mut is_private) = (false, false);
    for directive in directives {
        let name = directive.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
        is_public |= [&b"public"[..], b"s-maxage"].iter().any(|it| name.eq_ignore_ascii_case(it));
        // With a value, `private` speaks of some fields only (RFC 9111 section 5.2.2.7).
        let whole = directive.trim_ascii();
        is_private |= [&b"private"[..], b"no-store"].iter().any(|it| whole.eq_ignore_ascii_case(it));
    }
    if is_public {
        return Ok(());
    }
    if !is_private {
        answer.append_header(CACHE_CONTROL, "private")?;
    }
    answer.append_header(SET_COOKIE, cookie).map(drop)
}

impl Post {
    fn read(body: &[u8]) -> Post {
        let mut post = Post {
            destination: String::new(),
            user: String::new(),
            password: Secret::new([]),
            computer: Computer::Public,
            token: String::new(),
        };
        for (name, value) in form_urlencoded::parse(body) {
            match &*name {
                "destination" => post.destination = value.into_owned(),
                "username" => post.user = value.into_owned(),
                "password" => post.password = Secret::new(value.into_owned().into_bytes()),
                "token" => post.token = value.into_owned(),
                // Either says it: scripts of other forms set the flags, without scripts it is the choice itself.
                "trusted" | "flags" if value.parse().is_ok_and(|flags: u32| flags & PRIVATE != 0) => {
                    post.computer = Computer::Private;
                }
                _ => {}
            }
        }
        post
    }
}

impl LoggedOff {
    pub(super) fn new() -> Self {
        // The oldest makes place, as it has the least time left; the default policy would turn away the newest.
        let oldest_first = EvictionPolicy::lru();
        LoggedOff(
            Cache::builder()
                .max_capacity(LOGGED_OFF_MAX)
                .eviction_policy(oldest_first)
                .expire_after(UntilItsCookiesEnd)
                .build(),
        )
    }

    fn add(&self, session: [u8; 16], for_time: Duration) {
        self.0.insert(session, for_time);
    }

    fn has(&self, session: &[u8; 16]) -> bool {
        self.0.contains_key(session)
    }
}

/// Each logged-off logon is kept for its own time.
struct UntilItsCookiesEnd;

impl Expiry<[u8; 16], Duration> for UntilItsCookiesEnd {
    fn expire_after_create(&self, _: &[u8; 16], for_time: &Duration, _: Instant) -> Option<Duration> {
        Some(*for_time)
    }

    fn expire_after_update(
        &self,
        _: &[u8; 16],
        for_time: &Duration,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(*for_time)
    }
}

/// Some 10 MB.
const LOGGED_OFF_MAX: u64 = 100_000;

fn is_browsers(protocol: Protocol) -> bool {
    match protocol {
        Protocol::Owa | Protocol::LegacyOwa | Protocol::Ecp => true,
        Protocol::Root
        | Protocol::ActiveSync
        | Protocol::Ews
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::OutlookAnywhere
        | Protocol::Mapi
        | Protocol::Pop3
        | Protocol::Imap4
        | Protocol::Opened => false,
    }
}

/// Whether a browser asks for a whole page, by all that it says; neither a script of a page, nor a part of it, nor `WebDAV`.
fn is_page(request: &RequestHeader) -> bool {
    let says = |name: &str| request.headers.get(name).map(|value| value.as_bytes().to_ascii_lowercase());
    matches!(request.method, Method::GET | Method::HEAD)
        && says("X-Requested-With").is_none()
        && says("Translate").is_none()
        && says("Sec-Fetch-Mode").is_none_or(|mode| mode == b"navigate")
        && says("Sec-Fetch-Dest").is_none_or(|dest| dest == b"document")
}

/// Whether somebody does something by a request. What a page of OWA's does by itself says so (Microsoft's KB 2621269 has
/// these for 2010; `X-UserActivity` is 2013's, and what 2007 waits for new mail by is from memory).
fn is_somebodys(headers: &HeaderMap, path: &str, query: Option<&str>) -> bool {
    let parameters = || form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let has = |name: &str, value: &str| {
        parameters().any(|(known, it)| known.eq_ignore_ascii_case(name) && it.eq_ignore_ascii_case(value))
    };
    let ends_with = |end: &str| path.to_ascii_lowercase().ends_with(end);
    let by_itself = headers.get("X-UserActivity").is_some_and(|it| it.as_bytes() == b"0")
        || has("UA", "0")
        || has("ns", "PendingRequest") && ends_with("/ev.owa")
        || ends_with("/keepalive.owa");
    !by_itself
}

/// How the browser calls this host.
fn host(request: &RequestHeader) -> Option<&str> {
    let authority = || request.uri.authority().map(http::uri::Authority::as_str); // HTTP/2
    request.headers.get(HOST).map_or_else(authority, |host| host.to_str().ok())
}

/// Gone with the browser's window.
fn set_cookie(name: &str, value: &str) -> String {
    format!("{name}={value}; Path=/; Secure; HttpOnly; SameSite=Lax")
}

fn no_cookie(name: &str) -> String {
    format!("{name}=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0")
}

/// How long a wrong password takes to be told, whether there is such a name or not. For a name that nobody has the directory
/// is asked less, and the time would tell. The request waits for it alone: no lock or thread is held.
const SAME_FOR_EVERY_NAME: Duration = Duration::from_millis(500);

/// A name, a password, a destination and a token, all of them escaped, are less.
const BODY_BYTES_MAX: usize = 16 << 10;

/// The bit of the form's `flags` and `trusted` that says that the computer is private.
const PRIVATE: u32 = 4;

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn request(method: Method, target: &str, fields: &[(&'static str, &'static str)]) -> RequestHeader {
        let mut request = RequestHeader::build(method, target.as_bytes(), None).expect("a request");
        for (name, value) in fields {
            let name = HeaderName::from_static(name);
            request.insert_header(name, HeaderValue::from_static(value)).expect("a field");
        }
        request
    }

    fn header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
        answer.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    #[test]
    fn who_asks_for_a_page_is_sent_to_the_form_and_everything_else_is_told() {
        for (method, fields, status) in [
            (Method::GET, &[][..], 302),
            (Method::HEAD, &[], 302),
            (Method::GET, &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")], 302),
            (Method::GET, &[("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")], 440),
            (Method::GET, &[("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")], 440),
            (Method::GET, &[("sec-fetch-mode", "cors")], 440),
            (Method::GET, &[("x-requested-with", "XMLHttpRequest")], 440),
            (Method::GET, &[("translate", "f")], 440),
            (Method::POST, &[], 440),
            (Method::from_bytes(b"PROPFIND").expect("a method"), &[], 440),
        ] {
            assert_eq!(
                ask(&request(method.clone(), "/owa/", fields), Reason::NotLoggedOn).status,
                status,
                "{method} {fields:?}"
            );
        }
        let answer = ask(&request(Method::GET, "/owa/?ae=Item&id=a%2bb", &[]), Reason::TimedOut);
        let location = header(&answer, "Location").expect("a location");
        assert_eq!(location, "/owa/auth/logon.aspx?url=%2Fowa%2F%3Fae%3DItem%26id%3Da%252bb&reason=3");
        assert_eq!(header(&answer, "Set-Cookie"), None, "there is nothing to end");
        let with_cookie = request(Method::GET, "/owa/", &[("cookie", "a=b; __Host-firstcas-logon=x")]);
        let ended = ask(&with_cookie, Reason::TimedOut);
        assert!(header(&ended, "Set-Cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    }

    #[test]
    fn a_host_is_known_over_both_versions_of_http() {
        let h1 = request(Method::GET, "/owa/", &[("host", "mail.contoso.com:8443")]);
        assert_eq!(host(&h1), Some("mail.contoso.com:8443"));
        let mut h2 = request(Method::GET, "/owa/", &[]);
        assert_eq!(host(&h2), None);
        h2.set_uri(http::Uri::from_static("https://mail.contoso.com/owa/"));
        assert_eq!(host(&h2), Some("mail.contoso.com"));
    }

    #[test]
    fn what_a_page_does_by_itself_is_nobodys_doing() {
        for (path, query, user, is) in [
            ("/owa/", None, None, true),
            ("/owa/", Some("ae=Folder&UA=1"), None, true),
            ("/owa/ev.owa", Some("oeh=1&ns=ReadMessage&ev=Load"), None, true),
            ("/owa/ev.owa", Some("oeh=1&ns=PendingRequest&ev=PendingNotificationRequest&UA=0"), None, false),
            ("/owa/ev.owa", Some("oeh=1&ns=PendingRequest&ev=PendingNotificationRequest"), None, false),
            ("/owa/ev.owa", Some("ns=x&ua=0"), None, false),
            ("/owa/keepalive.owa", None, None, false),
            ("/owa/service.svc", None, Some("0"), false),
            ("/owa/service.svc", None, Some("1"), true),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(user) = user {
                headers.insert("x-useractivity", HeaderValue::from_static(user));
            }
            assert_eq!(is_somebodys(&headers, path, query), is, "{path} {query:?} {user:?}");
        }
    }

    #[test]
    fn a_posted_form_is_read_in_utf_8_and_says_whose_the_computer_is() {
        let post = Post::read(
            b"destination=%2Fowa%2F&flags=0&username=CONTOSO%5Cana&password=p%C3%A4ss+%26%3D&trusted=4&token=t",
        );
        assert_eq!((&*post.destination, &*post.user, &*post.token), ("/owa/", "CONTOSO\\ana", "t"));
        assert_eq!(post.password.expose(), "p\u{e4}ss &=".as_bytes());
        assert_eq!(post.computer, Computer::Private);
        for (body, computer) in [
            ("trusted=0&flags=0", Computer::Public),
            ("flags=5", Computer::Private),
            ("flags=1", Computer::Public),
            ("trusted=x", Computer::Public),
            ("", Computer::Public),
        ] {
            assert_eq!(Post::read(body.as_bytes()).computer, computer, "{body}");
        }
    }

    #[test]
    fn however_many_have_logged_off_the_next_one_is_believed_to_have() {
        let logged_off = LoggedOff::new();
        let session = |number: u64| u128::from(number).to_be_bytes();
        for number in 0..LOGGED_OFF_MAX + 1000 {
            logged_off.add(session(number), Duration::from_secs(60));
        }
        logged_off.0.run_pending_tasks();
        assert!(logged_off.has(&session(LOGGED_OFF_MAX + 999)));
        assert!(!logged_off.has(&session(0)), "the oldest has made place");
    }

    #[test]
    fn who_has_logged_off_is_remembered_for_as_long_as_the_cookie_could_live() {
        let logged_off = LoggedOff::new();
        logged_off.add([1; 16], Duration::from_secs(60));
        logged_off.add([2; 16], Duration::ZERO);
        assert!(logged_off.has(&[1; 16]) && !logged_off.has(&[2; 16]));
    }

    #[test]
    fn a_cookie_is_renewed_by_answers_that_nobody_else_gets() {
        for (cache_control, is, then) in [
            (None, true, &["private"][..]),
            (Some("private, max-age=60"), true, &["private, max-age=60"]),
            (Some("no-cache, No-Store"), true, &["no-cache, No-Store"]),
            (Some("max-age=60"), true, &["max-age=60", "private"]),
            (Some("private=\"x-field\""), true, &["private=\"x-field\"", "private"]),
            (Some("max-age=60, Public"), false, &["max-age=60, Public"]),
            (Some("s-maxage=60"), false, &["s-maxage=60"]),
        ] {
            let mut answer = ResponseHeader::build(200, None).expect("an answer");
            if let Some(value) = cache_control {
                answer.insert_header("Cache-Control", value).expect("a field");
            }
            renew(Some("a=b"), &mut answer).expect("it can be added");
            assert_eq!(answer.headers.contains_key(SET_COOKIE), is, "{cache_control:?}");
            let says: Vec<_> = answer.headers.get_all(CACHE_CONTROL).iter().collect();
            assert_eq!(says, then);
        }
    }
}
