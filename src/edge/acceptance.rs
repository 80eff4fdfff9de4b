//! What a server's answer means for whoever is signing in over the connection it came over.
//!
//! The name in an NTLM message is seen only when the server that challenged has been chosen already. That server judges
//! it; once it has accepted, the name is proven, and what should have been decided at first is done now.

use std::{sync::Arc, time::SystemTime};

use http::{
    HeaderName, Method,
    header::{CONNECTION, SET_COOKIE, WWW_AUTHENTICATE},
};
use pingora_core::{Error, ErrorType, Result};
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

use super::{
    Context,
    client::{Bound, Proven},
    course,
    in_force::InForce,
    keep_alive,
    pin::{Answered, SignIn},
    proof,
    respond::{self, Answer},
};
use crate::{
    directory::cache::Lookup,
    events::Event,
    identity::{MailboxName, ntlm, token},
    routing::{Decision, protocol::Protocol},
};

/// Who signs in by a request's message, and what follows if the server accepts it.
pub(super) enum Claim {
    /// An NTLM message.
    Message {
        message: ntlm::Authenticate,
        /// `None`: the directory knows nobody of that name, or does not answer.
        follows: Option<(Arc<Proven>, Next)>,
    },
    /// A Kerberos ticket that the edge could open: it has proved the name already, and gone by it.
    Ticket { person: Arc<Proven>, channel_bindings: bool },
}

/// What follows once somebody is proven.
pub(super) enum Next {
    /// They are where they belong, or nobody knows better.
    Stays,
    /// This mailbox is served elsewhere.
    Elsewhere(MailboxName),
    /// The edge answers itself.
    Decided(Decision, Arc<Lookup>),
}

/// The answer is replaced by one of the edge's own.
pub(super) const REPLACED: ErrorType = ErrorType::new("Replaced");

impl InForce {
    /// Notes what the answer to a pinned request did to its sign-in, and acts on it.
    pub(super) async fn signed_in_or_not(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
        answered: Answered,
    ) -> Result<()> {
        let (Some(pinned), Some(passage)) = (context.client.pinned().cloned(), context.passage) else { return Ok(()) };
        let bound = || {
            let server = context.story.server?;
            Some(Bound { name: self.organisation.topology.server(server).name.clone(), server })
        };
        let request = session.req_header();
        let asked = match context.carries.pins() {
            true => self.shared.numbers.number(&request.method, &request.uri, &request.headers),
            false => 0, // no handshake is under way
        };
        let (sign_in, ends) = pinned.answered(passage, context.carries, asked, answered, bound, self.pin_bounds());
        if ends {
            session.set_keepalive(None);
        } else if matches!(sign_in, SignIn::Challenged | SignIn::Rejected) && !pinned.is_signed_in() {
            // A place is not held for long by somebody who is not signed in.
            keep_alive(session.as_downstream_mut(), self.config.pins.idle_timeout.min(self.config.timeouts.client));
        }
        match sign_in {
            SignIn::Accepted { answers } => {
                let (person, next) = match context.claim.take() {
                    Some(Claim::Message { message, follows: Some((person, next)) })
                        if proof::proves(answers.as_ref(), asked, &message, answered.status) =>
                    {
                        (person, next)
                    }
                    Some(Claim::Ticket { person, .. }) => (person, Next::Stays),
                    Some(Claim::Message { .. }) | None => return Ok(()),
                };
                context.story.proven = Some(person.entry_name.clone());
                pinned.is_proven(person);
                self.follow(next, session, response, context).await
            }
            SignIn::Rejected if context.claim.as_ref().is_some_and(Claim::is_channel_bound) => {
                let server = context.story.server.map(|server| &self.organisation.topology.server(server).name);
                let server = server.map_or("a server", String::as_str);
                if self.shared.lately.is_news(Event::ExtendedProtection, server).await {
                    Event::ExtendedProtection.report(format_args!(
                        "{server} refused a sign-in that is bound to the client's TLS channel; if the password was right, \
                         Extended Protection is why"
                    ));
                }
                Ok(())
            }
            SignIn::Rejected | SignIn::Challenged | SignIn::Unchanged => Ok(()),
        }
    }

    /// Does what should have been done at first, had the name been known.
    async fn follow(
        &self,
        next: Next,
        session: &mut Session,
        response: &mut ResponseHeader,
        context: &mut Context,
    ) -> Result<()> {
        let protocol = context.story.protocol.unwrap_or(Protocol::Opened);
        match next {
            Next::Stays => Ok(()),
            // Done is done: a refusal comes too late for a request that has changed something.
            Next::Decided(Decision::Refuse(_), _)
                if response.status.is_success() && !session.req_header().method.is_safe() =>
            {
                Ok(())
            }
            Next::Decided(decision, lookup) => {
                let organisation = &self.organisation;
                context.story.decided(&decision, course::whose(&lookup), &organisation.topology);
                course::report(&decision, context.story.user.as_ref(), Some(&lookup));
                match respond::decided(&decision, protocol) {
                    Some(answer) => replace(answer, context),
                    None => Ok(()),
                }
            }
            Next::Elsewhere(mailbox) => {
                let Some(cookie) = self.affinity.set_cookie(&mailbox, context.sender.is_tls, SystemTime::now()) else {
                    return Ok(());
                };
                if is_navigation(&session.req_header().method, protocol)
                    && let Some(client) = context.sender.ip
                    && self.shared.sent.may_go(client, &mailbox).await
                    && let Some(answer) = respond::to_own_site(&session.req_header().uri, cookie.clone())
                {
                    context.story.rule = Some("to-own-site");
                    return replace(answer, context);
                }
                response.append_header(SET_COOKIE, cookie)?;
                Ok(())
            }
        }
    }
}

impl Claim {
    fn is_channel_bound(&self) -> bool {
        match self {
            Claim::Message { message, .. } => message.channel_bindings,
            Claim::Ticket { channel_bindings, .. } => *channel_bindings,
        }
    }
}

/// Leaves the server's answer where it is, for another.
pub(super) fn replace(answer: Answer, context: &mut Context) -> Result<()> {
    context.instead = Some(answer);
    Error::e_explain(REPLACED, "the edge answers itself")
}

/// Whether a browser asks for a page, and may safely ask for it again: whatever else the server has done is done.
fn is_navigation(method: &Method, protocol: Protocol) -> bool {
    let is_browsers = matches!(protocol, Protocol::Owa | Protocol::LegacyOwa | Protocol::Ecp);
    is_browsers && matches!(*method, Method::GET | Method::HEAD)
}

/// By which IIS says whether the connection is authenticated from now on.
const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");

/// What the header of an answer says about the connection it came over.
pub(super) fn read(response: &ResponseHeader) -> Answered {
    let mut answered = Answered { status: response.status.as_u16(), ..Answered::default() };
    for challenge in response.headers.get_all(WWW_AUTHENTICATE) {
        answered.note(token::challenge(challenge.as_bytes()));
    }
    let is = |name: &HeaderName, value: &str| {
        let field = response.headers.get(name);
        field.is_some_and(|field| field.as_bytes().trim_ascii().eq_ignore_ascii_case(value.as_bytes()))
    };
    answered.persistent =
        [("true", true), ("false", false)].iter().find(|(value, _)| is(&PERSISTENT_AUTH, value)).map(|(_, says)| *says);
    answered.closes = is(&CONNECTION, "close") || response.version == http::Version::HTTP_10;
    answered
}
