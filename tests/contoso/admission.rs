//! Who is let in: the virtual directory a path belongs to, the authentication methods it offers, and the credential.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use firstcas::{
    directory::{Directory, DirectoryError, Entry},
    identity::{Credential, MailboxName, authorization},
    routing::{
        protocol::{Protocol, VirtualDirectoryKind},
        topology::AuthenticationMethods,
        version::Generation,
    },
};
use hyper::{
    Response, StatusCode,
    header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    http::request::Parts,
};
use percent_encoding::percent_decode_str;

use super::{
    body::Body,
    pages,
    server::Host,
    session::{self, Leg, Session},
};

/// A request that was let in.
pub struct Visit {
    /// The protocol its path belongs to.
    pub protocol: Protocol,
    /// Whom it authenticated.
    pub person: Arc<Person>,
    /// The last token of the handshake that this request ended, for `WWW-Authenticate`.
    pub last_token: Option<HeaderValue>,
}

/// Somebody who proved who they are.
pub struct Person {
    /// The `sAMAccountName`; somebody of another domain than contoso.com has it after the name.
    pub account: String,
    /// The same as a header field's value.
    pub value: HeaderValue,
}

/// Lets a request in, or says what it is answered instead. A credential of its own decides, else the connection's user.
pub async fn admit(host: &Host, session: &Session, head: &Parts) -> Result<Visit, Response<Body>> {
    let Some((protocol, offered)) = offered(host, head.uri.path()) else {
        return Err(not_found(host));
    };
    if host.behaviour().failing == Some(protocol) {
        return Err(pages::plain(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable\n".to_owned()));
    }
    if host.generation == Generation::Exchange2013 && head.uri.path().ends_with("/healthcheck.htm") {
        return Err(pages::plain(StatusCode::OK, format!("200 OK<br/>{}", host.fqdn))); // asks nobody who they are
    }
    let failed =
        |error: DirectoryError| pages::plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{}: {error}\n", host.name));
    let (person, last_token) = match head.headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) {
        None if offered.integrated_windows() => (session.user(), None),
        Some(authorization) if session::is_leg(authorization) => {
            if !offered.integrated_windows() {
                return Err(challenge(host, offered));
            }
            match session.leg(host, authorization).await.map_err(failed)? {
                Leg::Accepted(person, last_token) => (Some(person), last_token),
                Leg::Challenge(token) => return Err(next_leg(host, token)),
                Leg::Refused => (None, None),
            }
        }
        Some(authorization) if offered.0 & AuthenticationMethods::BASIC != 0 => {
            (host.common.people.authenticate(authorization).await.map_err(failed)?, None)
        }
        Some(_) | None => (None, None),
    };
    let person = person.ok_or_else(|| challenge(host, offered))?;
    Ok(Visit { protocol, person, last_token })
}

/// What the path would be answered without a credential.
pub fn unauthenticated(host: &Host, path: &str) -> Response<Body> {
    match offered(host, path) {
        Some((_, offered)) => challenge(host, offered),
        None => not_found(host),
    }
}

/// The protocol of a path and the methods that its virtual directory offers now; `None`: this server has none.
fn offered(host: &Host, path: &str) -> Option<(Protocol, AuthenticationMethods)> {
    let protocol = Protocol::of_path(&percent_decode_str(path).decode_utf8_lossy())?;
    let mut offered = configured(host, protocol)?;
    let behaviour = host.behaviour();
    if !behaviour.integrated {
        offered.0 &= AuthenticationMethods::BASIC;
    }
    if !behaviour.basic {
        offered.0 &= !AuthenticationMethods::BASIC;
    }
    Some((protocol, offered))
}

fn configured(host: &Host, protocol: Protocol) -> Option<AuthenticationMethods> {
    if host.generation == Generation::Exchange2003 {
        // Exchange 2003 sets both up on its virtual directories; they are not objects that the edge reads.
        let serves = matches!(protocol, Protocol::LegacyOwa | Protocol::ActiveSync);
        return serves.then_some(BASIC_AND_INTEGRATED);
    }
    let of = |kind: VirtualDirectoryKind| host.virtual_directories[kind as usize];
    match protocol {
        // A Client Access Server has the legacy paths beside /owa (overview article, "Exchange 2003").
        Protocol::LegacyOwa => of(VirtualDirectoryKind::Owa),
        // Windows' own RPC proxy; where the directory has no object for it, as in conf/contoso.ldif, it goes by /owa.
        Protocol::OutlookAnywhere => of(VirtualDirectoryKind::OutlookAnywhere).or(of(VirtualDirectoryKind::Owa)),
        Protocol::Root
        | Protocol::Owa
        | Protocol::Ecp
        | Protocol::ActiveSync
        | Protocol::Ews
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::Mapi
        | Protocol::Pop3
        | Protocol::Imap4
        | Protocol::Opened => of(protocol.virtual_directory()?),
    }
}

fn not_found(host: &Host) -> Response<Body> {
    pages::plain(StatusCode::NOT_FOUND, format!("{} has no such virtual directory\n", host.name))
}

fn challenge(host: &Host, offered: AuthenticationMethods) -> Response<Body> {
    let mut response = pages::plain(StatusCode::UNAUTHORIZED, format!("{}: 401 Unauthorized\n", host.name));
    let fields = response.headers_mut();
    if offered.integrated_windows() {
        fields.append(WWW_AUTHENTICATE, HeaderValue::from_static("Negotiate"));
        if host.behaviour().ntlm {
            fields.append(WWW_AUTHENTICATE, HeaderValue::from_static("NTLM"));
        }
    }
    if offered.0 & AuthenticationMethods::BASIC != 0
        && let Ok(basic) = HeaderValue::from_str(&format!("Basic realm=\"{}\"", host.fqdn))
    {
        fields.append(WWW_AUTHENTICATE, basic);
    }
    response
}

/// The answer to a leg that is not the last: this challenge alone, as IIS sends it.
fn next_leg(host: &Host, token: HeaderValue) -> Response<Body> {
    let mut response = pages::plain(StatusCode::UNAUTHORIZED, format!("{}: 401 Unauthorized\n", host.name));
    response.headers_mut().insert(WWW_AUTHENTICATE, token);
    response
}

/// The directory's people, with a memory of credentials that were right, so that a load test measures the proxy in
/// front and not the password hash.
pub struct People {
    directory: Arc<dyn Directory>,
    /// By hash of the credential, so that no password stays in memory.
    known: RwLock<HashMap<blake3::Hash, Arc<Person>>>,
}

impl People {
    /// The people of this directory.
    pub fn new(directory: Arc<dyn Directory>) -> Self {
        People { directory, known: RwLock::default() }
    }

    /// Whose credential this `Authorization` value is; `None`: nobody's, or none that can be read.
    pub async fn authenticate(&self, authorization: &[u8]) -> Result<Option<Arc<Person>>, DirectoryError> {
        let hash = blake3::hash(authorization);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(&hash).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let Credential::Basic { user, password } = authorization::credential(authorization) else {
            return Ok(None);
        };
        let Some(entry) = self.entry(&user).await? else {
            return Ok(None);
        };
        if !self.directory.verify(&entry, &password).await?.is_right() {
            return Ok(None);
        }
        let person = Arc::new(Person::of(&entry));
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_LIMIT {
            known.clear();
        }
        known.insert(hash, Arc::clone(&person));
        Ok(Some(person))
    }

    /// The person of that name, in any of its forms, who proved to be them in another way.
    pub async fn find(&self, name: &str) -> Result<Option<Arc<Person>>, DirectoryError> {
        let Ok(name) = MailboxName::parse(name) else {
            return Ok(None);
        };
        Ok(self.entry(&name).await?.map(|entry| Arc::new(Person::of(&entry))))
    }

    async fn entry(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
        match self.directory.find(name).await {
            Err(DirectoryError::Ambiguous { .. }) => Ok(None),
            found => found,
        }
    }
}

impl Person {
    fn of(entry: &Entry) -> Self {
        // At Contoso the account is the local part of the UPN, which is what the directory calls the person.
        let account = entry.name.strip_suffix("@contoso.com").unwrap_or(&entry.name).to_owned();
        let value = HeaderValue::from_bytes(account.as_bytes()).unwrap_or(HeaderValue::from_static("?"));
        Person { account, value }
    }
}

const BASIC_AND_INTEGRATED: AuthenticationMethods = AuthenticationMethods(
    AuthenticationMethods::BASIC | AuthenticationMethods::NTLM | AuthenticationMethods::WINDOWS_INTEGRATED,
);

/// A load test with a thousand users of its own still finds them all; beyond, the memory starts over.
const KNOWN_LIMIT: usize = 10_000;
