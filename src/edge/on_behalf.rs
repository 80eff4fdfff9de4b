//! Signing in to servers for users: whose tickets a request goes by, and what the answer says of them.
//!
//! Whoever is proven, and whose request leads to a server that wants Integrated Windows authentication, is signed in there
//! by a Kerberos ticket of theirs. [`errand`](super::errand) says when a token goes with a request and when it is sent again,
//! [`mandates`](super::mandates) has the tickets.

use std::{sync::Arc, time::Duration};

use base64::prelude::{BASE64_STANDARD, Engine};
use http::{
    HeaderName, HeaderValue,
    header::{AUTHORIZATION, WWW_AUTHENTICATE},
};
use pingora_core::{Error, ErrorType, Result, upstreams::peer::HttpPeer};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;
use zeroize::Zeroizing;

use super::{
    Context, Destination,
    client::Proven,
    content_length,
    course::{Proof, Speaker},
    errand::{Errand, Mandate, Verdict, may_keep},
    in_force::InForce,
    mandates::{By, Tickets},
    pin::{Answered, PinNumber},
    respond::Denial,
};
use crate::{
    config::{self, SignInBy},
    directory::{Entry, cache::Lookup},
    events::Event,
    identity::{Credential, MailboxName},
    kerberos::KerberosError,
    routing::{
        self,
        protocol::Protocol,
        sign_in::{Means, SignIn},
        topology::ServerId,
    },
    secret::Secret,
};

/// Somebody for whom the edge may have to say who they are.
pub(super) struct OnBehalf {
    /// What the directory calls them.
    name: String,
    /// Whose tickets, and by what they are got; `None`: there are none to be had.
    means: Option<(Mandate, By)>,
    /// What they have signed in with.
    password: Option<(MailboxName, Secret)>,
    /// The request does not carry that itself.
    is_by_form: bool,
    /// Some server could not be signed in to.
    has_failed: bool,
    /// At the server that was chosen last.
    way: Way,
}

/// How a server is told who it is.
enum Way {
    /// The request says it, or nothing does.
    AsSent,
    /// The name and password do; those of the logon form the edge adds.
    Basic,
    /// The edge signs in.
    Kerberos(Box<Kerberos>),
}

struct Kerberos {
    server: ServerId,
    /// Its service principal name, and what it is asked for.
    place: (String, Protocol),
    tickets: Arc<Tickets>,
    errand: Errand,
    /// One that was made when its ticket was got.
    token: Option<HeaderValue>,
    /// The server has not taken these tickets.
    is_refused: bool,
    /// Nobody would find its connection again.
    is_alone: bool,
}

/// Why a server is not signed in to.
pub(super) enum Failure {
    /// It is the server's fault; another may do better.
    OfServer,
    /// No server would do better.
    Denied(Denial),
}

/// The request has not been served, and is sent again with a token.
pub(super) const AGAIN: ErrorType = ErrorType::new("SignInAgain");

/// The server took no ticket.
const REFUSED: ErrorType = ErrorType::new("SignInRefused");

impl InForce {
    /// Whether the edge may have to say who sends a request, and for whom it does. Whoever it does it for is proven.
    pub(super) async fn on_behalf(
        &self,
        credential: &Credential,
        speaker: &Speaker<'_>,
        destination: Destination,
        context: &mut Context,
    ) -> Result<Option<OnBehalf>, Denial> {
        let is_by_form = context.is_by_form;
        if self.config.sign_in.is_none() && !is_by_form {
            return Ok(None); // nothing is to be added to what the client sends
        }
        let password = match (credential, speaker) {
            (Credential::Basic { user, password }, _) => Some((user.clone(), password.clone())),
            (Credential::None, Speaker::Proven(person)) if is_one_account(person) => None,
            (Credential::None, Speaker::Certified(_) | Speaker::LoggedOn(_)) => None,
            _ => return Ok(None),
        };
        let settings = self.config.sign_in.as_ref();
        let by = settings.and_then(|settings| by(settings, password.as_ref()));
        let wanted = settings.zip(by).filter(|(settings, _)| {
            let means = settings.means(true, password.is_some());
            self.is_wanted(destination, context.story.protocol.unwrap_or(Protocol::Opened), means)
        });
        let Some((_, by)) = wanted else {
            let name = String::new(); // no event tells of it
            let adds = is_by_form && password.is_some();
            let on_behalf = OnBehalf { name, means: None, password, is_by_form, has_failed: false, way: Way::AsSent };
            return Ok(adds.then_some(on_behalf));
        };
        let Some(entry) = self.proven(credential, speaker, &by).await? else { return Ok(None) };
        context.story.proven = Some(entry.name.clone());
        if let (None, Some(name)) = (&context.proven, speaker.name()) {
            context.proven = Some(Arc::new(Proven { name: name.clone(), entry_name: entry.name.clone() }));
        }
        let means = entry.principal.as_deref().map(|principal| (self.shared.mandates.mandate(principal, &by), by));
        Ok(Some(OnBehalf { name: entry.name, means, password, is_by_form, has_failed: false, way: Way::AsSent }))
    }

    /// Whether some server there is signed in to by a ticket, if one can be had.
    fn is_wanted(&self, destination: Destination, protocol: Protocol, means: Means) -> bool {
        let organisation = &self.organisation;
        let wants = |server| SignIn::to(organisation.accepts(server, protocol), means) == SignIn::Kerberos;
        match destination {
            Destination::Pool { pool, .. } => {
                routing::members(pool, &organisation.topology, &organisation.policy).any(|(server, _)| wants(server))
            }
            Destination::BackEnd(server) => wants(server),
            Destination::Bound(_) => false,
        }
    }

    /// The directory's entry of whoever is proven.
    async fn proven(&self, credential: &Credential, speaker: &Speaker<'_>, by: &By) -> Result<Option<Entry>, Denial> {
        let found = async |name: &MailboxName| match self.find(name).await?.as_ref() {
            Lookup::Found(entry) => Ok(Some(entry.clone())),
            Lookup::NotFound | Lookup::Ambiguous(_) => Ok(None),
        };
        let Credential::Basic { user, .. } = credential else {
            return match speaker.name() {
                Some(name) => found(name).await,
                None => Ok(None),
            };
        };
        let mandates = &self.shared.mandates;
        // What is by delegation is nobody's to prove, or to spoil, by a password.
        let mandate = |entry: &Entry| {
            let principal = entry.principal.as_deref().filter(|_| matches!(by, By::Password(_)))?;
            Some(mandates.mandate(principal, by))
        };
        match self.prove(credential).await {
            Ok(Proof::Proven(entry)) => Ok(Some(entry)),
            Ok(refused @ (Proof::Wrong | Proof::Unusable(_) | Proof::Absent)) => {
                if let Some(mandate) = found(user).await?.as_ref().and_then(mandate) {
                    mandates.forget(&mandate).await; // it was right, if there were tickets
                }
                Err(if let Proof::Unusable(why) = refused { Denial::of_unusable(why) } else { Denial::WrongPassword })
            }
            // The directory does not answer; whoever has tickets by this password has proved it.
            Err(away) => {
                let entry = found(user).await?.ok_or(away)?;
                let has_proved = match mandate(&entry) {
                    Some(mandate) => mandates.kept(&mandate).await.is_some(),
                    None => false,
                };
                if has_proved { Ok(Some(entry)) } else { Err(away) }
            }
        }
    }

    /// Prepares for a server. Returns whether its connections are those of this person alone.
    pub(super) async fn approach(
        &self,
        on_behalf: &mut OnBehalf,
        server: ServerId,
        protocol: Protocol,
        may_repeat: bool,
        peer: &mut HttpPeer,
    ) -> Result<bool, Failure> {
        let settings = self.config.sign_in.as_ref();
        let means = Means {
            tickets: on_behalf.means.is_some(),
            password: on_behalf.password.is_some(),
            pass_basic_on: settings.is_some_and(|settings| settings.pass_basic_on),
        };
        let way = SignIn::to(self.organisation.accepts(server, protocol), means);
        on_behalf.way = match (way, &on_behalf.means) {
            (SignIn::Kerberos, Some((mandate, by))) => {
                let place = (self.organisation.service(server, protocol), protocol);
                let patience = settings.map_or(PATIENCE, |settings| settings.timeout);
                let before = match std::mem::replace(&mut on_behalf.way, Way::AsSent) {
                    Way::Kerberos(before) if before.server == server => Some(before),
                    Way::Kerberos(_) | Way::Basic | Way::AsSent => None,
                };
                match self.kerberos(mandate, by, before, server, place, patience).await {
                    Ok(mut kerberos) => {
                        let habit = self.shared.mandates.habit(&kerberos.place);
                        kerberos.is_alone = kerberos.errand.needs_new_connection(habit, may_repeat);
                        peer.group_key = match kerberos.is_alone {
                            true => PinNumber::next().group_key(), // nobody has opened one under it
                            false => kerberos.errand.group_key(peer.group_key),
                        };
                        Way::Kerberos(Box::new(kerberos))
                    }
                    Err(error) => {
                        on_behalf.has_failed = true;
                        return Err(self
                            .cannot_sign_in(&error, &on_behalf.name, on_behalf.password.is_some(), server)
                            .await);
                    }
                }
            }
            (SignIn::Basic, _) => Way::Basic,
            // Known by name, and by nothing that this server takes.
            (_, None) if !on_behalf.name.is_empty() => {
                let error = KerberosError::NoPrincipal;
                return Err(self.cannot_sign_in(&error, &on_behalf.name, on_behalf.password.is_some(), server).await);
            }
            (SignIn::Kerberos | SignIn::AsSent, _) => Way::AsSent,
        };
        Ok(matches!(on_behalf.way, Way::Kerberos(_)))
    }

    async fn kerberos(
        &self,
        mandate: &Mandate,
        by: &By,
        before: Option<Box<Kerberos>>,
        server: ServerId,
        place: (String, Protocol),
        patience: Duration,
    ) -> Result<Kerberos, KerberosError> {
        let mandates = &self.shared.mandates;
        let tickets = match &before {
            Some(before) if before.is_refused => mandates.renew(mandate, &before.tickets, by, patience).await?,
            Some(_) | None => mandates.tickets(mandate, by, patience).await?,
        };
        let number = tickets.number();
        let errand = match before {
            Some(before) if before.is_refused => {
                let mut errand = before.errand;
                errand.renewed(number);
                errand
            }
            Some(before) if Arc::ptr_eq(&before.tickets, &tickets) => before.errand,
            Some(_) | None => Errand::new(number, tickets.are_fresh()),
        };
        let token = match tickets.has(&place.0) {
            true => None,
            false => Some(mandates.token(&tickets, &place.0, patience).await?),
        };
        Ok(Kerberos { server, place, tickets, errand, token, is_refused: false, is_alone: false })
    }

    /// Says who it is in a request that is about to go to the chosen server.
    pub(super) async fn sign(&self, on_behalf: &mut OnBehalf, request: &mut RequestHeader) -> Result<(), Failure> {
        match &mut on_behalf.way {
            Way::Basic if on_behalf.is_by_form => {
                let field = on_behalf.password.as_ref().and_then(|(user, password)| basic(user, password));
                set(request, field)
            }
            Way::AsSent | Way::Basic => Ok(()),
            Way::Kerberos(kerberos) if !kerberos.errand.sent_token() => {
                request.remove_header(&AUTHORIZATION);
                Ok(())
            }
            Way::Kerberos(kerberos) => {
                let patience = self.config.sign_in.as_ref().map_or(PATIENCE, |settings| settings.timeout);
                let token = match kerberos.token.take() {
                    Some(token) => Ok(token),
                    None => self.shared.mandates.token(&kerberos.tickets, &kerberos.place.0, patience).await,
                };
                match token {
                    Ok(token) => set(request, Some(token)),
                    Err(error) => Err(self
                        .cannot_sign_in(&error, &on_behalf.name, on_behalf.password.is_some(), kerberos.server)
                        .await),
                }
            }
        }
    }

    /// Notes what a server has answered, and takes out of it what is between the server and the edge. `Err`: the answer is
    /// not for the client.
    pub(super) async fn signed_in(
        &self,
        on_behalf: &mut OnBehalf,
        session: &Session,
        response: &mut ResponseHeader,
        answered: Answered,
    ) -> Result<Signed, (Box<Error>, Option<Denial>)> {
        let Way::Kerberos(kerberos) = &mut on_behalf.way else { return Ok(Signed::NotByUs) };
        let mandates = &self.shared.mandates;
        let errand = &kerberos.errand;
        let habit = mandates.habit(&kerberos.place).learned(errand.sent_token(), errand.is_on_reused(), answered);
        mandates.learned(&kerberos.place, habit);
        let again = |why| Err((Error::explain(AGAIN, why), None));
        match kerberos.errand.answered(answered, !session.as_ref().retry_buffer_truncated()) {
            Verdict::Served => {
                response.remove_header(&WWW_AUTHENTICATE);
                response.remove_header(&PERSISTENT_AUTH);
                let may_keep = !kerberos.is_alone && may_keep(kerberos.errand.is_on_reused(), answered);
                Ok(if may_keep { Signed::In } else { Signed::Doubtful })
            }
            Verdict::AgainWithToken => again("the server asks for a token"),
            Verdict::AgainWithTicket => {
                kerberos.is_refused = true;
                again("the server does not take the ticket")
            }
            Verdict::Refused => {
                let server = &self.organisation.topology.server(kerberos.server).name;
                if self.shared.lately.is_news(Event::ProxySignInFailed, server).await {
                    Event::ProxySignInFailed.report(format_args!(
                        "{server} refused the edge's sign-in as {} for {}",
                        on_behalf.name, kerberos.place.0
                    ));
                }
                Err((Error::explain(REFUSED, "the server refused the sign-in"), Some(Denial::CannotSignIn)))
            }
        }
    }

    /// Tells the administrator why somebody cannot be signed in, at most once a minute.
    async fn cannot_sign_in(&self, error: &KerberosError, name: &str, has_password: bool, server: ServerId) -> Failure {
        // Who has sent no password is not asked for another.
        let asked = |denial| if has_password { denial } else { Denial::CannotSignIn };
        let server = &self.organisation.topology.server(server).name;
        let (event, of, failure) = match error {
            KerberosError::WrongPassword => return Failure::Denied(Denial::WrongPassword),
            KerberosError::Away(_) | KerberosError::TimedOut => return Failure::Denied(Denial::SignInAway),
            KerberosError::ClockSkew => (Event::ClockSkew, "", Failure::Denied(Denial::SignInAway)),
            // Whoever comes here has sent the right password, or is proven otherwise and cannot mend it by another.
            KerberosError::PasswordExpired => {
                (Event::AccountUnusable, name, Failure::Denied(asked(Denial::PasswordExpired)))
            }
            KerberosError::AccountUnusable => {
                (Event::AccountUnusable, name, Failure::Denied(asked(Denial::AccountUnusable)))
            }
            KerberosError::NoServicePrincipalName(service) => {
                (Event::ProxySignInFailed, service.as_str(), Failure::OfServer)
            }
            KerberosError::DelegationNotAllowed(service) => {
                (Event::DelegationRefused, service.as_str(), Failure::OfServer)
            }
            KerberosError::NotForUser => (Event::DelegationRefused, name, Failure::Denied(Denial::CannotSignIn)),
            KerberosError::OwnAccount(_) => (Event::EdgeAccountUnusable, "", Failure::Denied(Denial::CannotSignIn)),
            KerberosError::UnknownAccount | KerberosError::NoPrincipal | KerberosError::Other(_) => {
                (Event::SignInFailed, name, Failure::Denied(Denial::CannotSignIn))
            }
        };
        if self.shared.lately.is_news(event, of).await {
            event.report(format_args!("{name} could not be signed in to {server}: {error}"));
        }
        failure
    }

    /// Whether somebody who is proven over their connection is served elsewhere, too.
    pub(super) fn delegates(&self, credential: &Credential, speaker: &Speaker<'_>) -> bool {
        matches!(credential, Credential::None)
            && matches!(speaker, Speaker::Proven(person) if is_one_account(person))
            && self.config.delegates()
    }
}

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signed {
    /// To a request that says itself who it is.
    NotByUs,
    /// To one that was signed in; the connection may serve this person again.
    In,
    /// The connection may not be signed in, and serves nobody any more.
    Doubtful,
}

impl OnBehalf {
    /// A connection to the chosen server is there.
    pub(super) fn connected(&mut self, reused: bool, session: &mut Session, in_force: &InForce) {
        if let Way::Kerberos(kerberos) = &mut self.way {
            let habit = in_force.shared.mandates.habit(&kerberos.place);
            kerberos.errand.connected(reused, habit, may_repeat(session));
        }
    }

    /// The credential of the logon form, which is not in the request.
    pub(super) fn credential(&self) -> Option<Credential> {
        let (user, password) = self.password.clone().filter(|_| self.is_by_form)?;
        Some(Credential::Basic { user, password })
    }

    /// Whether a server was passed over because it could not be signed in to.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The name in the access log.
    pub(super) fn way(&self) -> &'static str {
        match self.way {
            Way::AsSent => "-",
            Way::Basic => "basic",
            Way::Kerberos(_) => "kerberos",
        }
    }
}

/// Whether a name that a server has accepted is that of one account alone, in the directory and at the server: one with its
/// domain. Without domain it may be an account of the server's own, and somebody else's in the directory; an address may be
/// the user principal name of one and belong to the mailbox of another.
fn is_one_account(person: &Proven) -> bool {
    matches!(person.name, MailboxName::Account { .. })
}

/// The preferred way to tickets, of those that are open.
fn by(settings: &config::SignIn, password: Option<&(MailboxName, Secret)>) -> Option<By> {
    match settings.by(password.is_some())? {
        SignInBy::Password => password.map(|(_, password)| By::Password(password.clone())),
        SignInBy::Delegation => settings.account.clone().map(By::Delegation),
    }
}

/// Whether a request's body will be at hand, whole, if it is not served.
pub(super) fn may_repeat(session: &mut Session) -> bool {
    const KEPT_BYTES: u64 = 64 * 1024; // by Pingora
    let is_short = match content_length(session.req_header()) {
        Some(length) => length <= KEPT_BYTES,
        None => session.as_downstream_mut().is_body_empty(),
    };
    is_short && !session.as_ref().retry_buffer_truncated()
}

/// The `Authorization` field that says this name and password (RFC 7617).
fn basic(user: &MailboxName, password: &Secret) -> Option<HeaderValue> {
    let pair = Zeroizing::new([user.to_string().as_bytes(), b":", password.expose()].concat());
    let mut field = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(&*pair))).ok()?;
    field.set_sensitive(true);
    Some(field)
}

fn set(request: &mut RequestHeader, field: Option<HeaderValue>) -> Result<(), Failure> {
    let field = field.ok_or(Failure::Denied(Denial::Internal))?;
    request.insert_header(AUTHORIZATION, field).map_err(|_| Failure::Denied(Denial::Internal))
}

const PERSISTENT_AUTH: HeaderName = HeaderName::from_static("persistent-auth");
/// Without settings nothing is waited for.
const PATIENCE: Duration = Duration::ZERO;
