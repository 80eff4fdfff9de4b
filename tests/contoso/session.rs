//! Windows authentication, bound to the connection: the legs of a handshake, and whom it left the connection to.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use firstcas::directory::DirectoryError;
use hyper::header::HeaderValue;

use super::{
    admission::Person,
    ntlm::{self, Answer, Challenge},
    server::{Host, Keeps},
    spnego::{self, Mechanism, NegState, Opened},
};

/// What a server keeps of one connection.
#[derive(Default)]
pub struct Session {
    state: Mutex<State>,
    /// The connection is reset once the answer under way has left.
    pub ends_in_reset: AtomicBool,
}

#[derive(Default)]
enum State {
    #[default]
    Nobody,
    /// A challenge is out; whoever the connection belonged to before has lost it.
    Challenged(Challenge),
    Authenticated(Arc<Person>),
}

/// What a leg of a handshake comes to.
pub enum Leg {
    /// 401 with this `WWW-Authenticate`; the client goes on.
    Challenge(HeaderValue),
    /// The connection is this person's now; SPNEGO has a last token for the client.
    Accepted(Arc<Person>, Option<HeaderValue>),
    /// 401 with the plain offers; the connection is nobody's.
    Refused,
}

/// The schemes that are bound to the connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Ntlm,
    Negotiate,
}

/// Whether an `Authorization` value is a leg of a handshake.
pub fn is_leg(authorization: &[u8]) -> bool {
    scheme_and_token(authorization).is_some()
}

impl Session {
    /// Whose connection this is.
    pub fn user(&self) -> Option<Arc<Person>> {
        match &*self.state() {
            State::Authenticated(person) => Some(Arc::clone(person)),
            State::Nobody | State::Challenged(_) => None,
        }
    }

    /// Resets the connection once the answer under way has left.
    pub fn end_in_reset(&self) {
        self.ends_in_reset.store(true, Ordering::Relaxed);
    }

    /// Takes up a leg of a handshake.
    pub async fn leg(&self, host: &Host, authorization: &[u8]) -> Result<Leg, DirectoryError> {
        if host.behaviour().mod_auth_gssapi && self.user().is_some() {
            return Ok(Leg::Refused);
        }
        let was = mem::take(&mut *self.state());
        let Some((scheme, token)) = scheme_and_token(authorization) else {
            return Ok(Leg::Refused);
        };
        let Ok(token) = BASE64_STANDARD.decode(token.trim_ascii()) else {
            return Ok(Leg::Refused);
        };
        let takes_ntlm = host.behaviour().ntlm;
        if scheme == Scheme::Ntlm || ntlm::message_type(&token).is_some() {
            if !takes_ntlm {
                return Ok(Leg::Refused);
            }
            return self.ntlm(host, was, &token, |token, _| scheme.value(token)).await;
        }
        let (token, enveloped) = match spnego::open(&token) {
            Some(Opened { token: Some(token), .. }) => (token, true),
            Some(Opened { token: None, offers_ntlm: true }) if takes_ntlm => {
                let choice = spnego::further(Some(NegState::AcceptIncomplete), Some(Mechanism::Ntlm), None);
                return Ok(scheme.value(&choice).map_or(Leg::Refused, Leg::Challenge));
            }
            Some(Opened { token: None, .. }) => return Ok(Leg::Refused),
            None => (token, false),
        };
        if ntlm::message_type(&token).is_some() {
            if !takes_ntlm {
                return Ok(Leg::Refused);
            }
            let wrapped = |token: &[u8], state| {
                let token = (state == NegState::AcceptIncomplete).then_some(token);
                scheme.value(&spnego::further(Some(state), Some(Mechanism::Ntlm), token))
            };
            return self.ntlm(host, was, &token, wrapped).await;
        }
        let Some(name) = host.common.acceptor.judge(&token, &host.fqdn) else {
            return Ok(Leg::Refused);
        };
        let last = spnego::further(Some(NegState::AcceptCompleted), Some(Mechanism::MicrosoftKerberos), None);
        let accepted = self.accept(host, &name, enveloped.then_some(last).and_then(|last| scheme.value(&last))).await;
        if host.behaviour().keeps == Keeps::Nothing {
            *self.state() = State::Nobody;
        }
        accepted
    }

    /// `sent`: how a token goes out, in which state of a negotiation.
    async fn ntlm(
        &self,
        host: &Host,
        was: State,
        token: &[u8],
        sent: impl Fn(&[u8], NegState) -> Option<HeaderValue>,
    ) -> Result<Leg, DirectoryError> {
        match (ntlm::message_type(token), was) {
            (Some(1), _) => {
                let challenge = Challenge::new();
                let message = challenge.message(token, &host.name);
                let value = message.and_then(|message| sent(&message, NegState::AcceptIncomplete));
                let Some(value) = value else {
                    return Ok(Leg::Refused);
                };
                *self.state() = State::Challenged(challenge);
                Ok(Leg::Challenge(value))
            }
            (Some(3), State::Challenged(challenge)) => {
                let Some(answer) = Answer::read(token).filter(|answer| challenge.judge(answer, PASSWORD)) else {
                    return Ok(Leg::Refused);
                };
                let name = match answer.domain.as_str() {
                    "" => answer.user,
                    domain => format!("{domain}\\{}", answer.user),
                };
                self.accept(host, &name, sent(&[], NegState::AcceptCompleted)).await
            }
            _ => Ok(Leg::Refused),
        }
    }

    async fn accept(&self, host: &Host, name: &str, last: Option<HeaderValue>) -> Result<Leg, DirectoryError> {
        // IIS finds out as late as this, when the bindings in the message are not those of its own TLS connection.
        if host.behaviour().extended_protection {
            return Ok(Leg::Refused);
        }
        let Some(person) = host.common.people.find(name).await? else {
            return Ok(Leg::Refused);
        };
        *self.state() = State::Authenticated(Arc::clone(&person));
        Ok(Leg::Accepted(person, last))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Scheme {
    /// A `WWW-Authenticate` value with this token; `None` without one.
    fn value(self, token: &[u8]) -> Option<HeaderValue> {
        let name = match self {
            Scheme::Ntlm => "NTLM",
            Scheme::Negotiate => "Negotiate",
        };
        if token.is_empty() {
            return None;
        }
        HeaderValue::from_str(&format!("{name} {}", BASE64_STANDARD.encode(token))).ok()
    }
}

fn scheme_and_token(authorization: &[u8]) -> Option<(Scheme, &[u8])> {
    let end = authorization.iter().position(|byte| *byte == b' ').unwrap_or(authorization.len());
    let (scheme, token) = authorization.split_at(end);
    if scheme.eq_ignore_ascii_case(b"NTLM") {
        Some((Scheme::Ntlm, token))
    } else {
        scheme.eq_ignore_ascii_case(b"Negotiate").then_some((Scheme::Negotiate, token))
    }
}

/// What all of Contoso's people have for a password. The directory holds it only as a salted hash, and of that nobody
/// can tell whether a response to a challenge was made with it.
const PASSWORD: &str = "Pass-word1";
