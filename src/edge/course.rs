//! The course of a request: facts, identity, directory, decision. What it ends in, [`super`] carries out.

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::SystemTime};

use http::header::{AUTHORIZATION, COOKIE, TRANSFER_ENCODING};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::{
    Context, Destination,
    acceptance::{Claim, Next},
    client::Proven,
    content_length,
    form::Form,
    hygiene,
    in_force::InForce,
    on_behalf::OnBehalf,
    organisation::Organisation,
    path,
    pin::Carries,
    respond::{self, Answer, Denial},
};
use crate::{
    certificates::Shown,
    directory::{
        DirectoryError, Entry, EntryId, Unusable, Verdict,
        cache::Lookup,
        schema::{self, Record},
    },
    events::{self, Event},
    identity::{
        self, Credential, Facts, Identity, MailboxName, Token, authorization,
        token::{Leg, Shows},
    },
    routing::{self, Decision, Refusal, Request, Rule, mailbox::Whose, protocol::Protocol, topology::ServerId},
    secret::Secret,
};

/// What [`InForce::course`] finds out about a request.
pub(super) enum Course {
    Onward(Destination),
    Answer(Answer),
    /// Windows authentication over HTTP/2 cannot work: the client must come again over HTTP/1.1 (RFC 9113 section 7).
    Http11Required,
}

/// Who asks.
pub(super) enum Speaker<'i> {
    /// Nobody knows.
    Unknown,
    /// Most likely this one: it was so before, on this connection or by its affinity cookie.
    Hinted(MailboxName),
    /// By a name and password that are not verified yet.
    Claimed(&'i MailboxName),
    /// By the connection, over which they have proved it, or by a ticket that the edge could open.
    Proven(Arc<Proven>),
    /// By the certificate that their connection began with.
    Certified(Arc<Proven>),
    /// By the logon form, where they have proved it before.
    LoggedOn(Arc<Proven>),
}

impl Speaker<'_> {
    pub(super) fn name(&self) -> Option<&MailboxName> {
        match self {
            Speaker::Unknown => None,
            Speaker::Hinted(name) => Some(name),
            Speaker::Claimed(name) => Some(name),
            Speaker::Proven(person) | Speaker::Certified(person) | Speaker::LoggedOn(person) => Some(&person.name),
        }
    }
}

/// What is known of the one who asks.
pub(crate) enum Proof {
    /// The directory accepted the password.
    Proven(Entry),
    /// It would not let anybody sign in to the account.
    Unusable(Unusable),
    /// It did not, or knows nobody of that name.
    Wrong,
    /// The request carries nothing that the edge could verify.
    Absent,
}

impl InForce {
    /// Facts, identity, directory, decision: the life of a request up to the choice of a server.
    pub(super) async fn course(&self, session: &mut Session, context: &mut Context) -> Result<Course, Denial> {
        let organisation = &self.organisation;
        if header_bytes(session) > self.config.limits.header_bytes {
            return Err(Denial::HeaderTooLarge);
        }
        let received = session.req_header();
        hygiene::check(received.version, &received.headers).map_err(Denial::Malformed)?;
        check_framing(session)?;

        let logged_on = match self.form(session, context).await? {
            Form::Apart => None,
            Form::Answer(answer) => return Ok(Course::Answer(answer)),
            Form::LoggedOn(person) => Some(person),
        };
        let (path, query) = path_and_query(session.req_header())?;
        let protocol = self.config.routing.protocol_of(&path).ok_or(Denial::PathNotServed)?;
        context.story.protocol = Some(protocol);
        context.underway = Some(self.shared.metrics.begin(protocol));
        self.check_announced_body(session.req_header(), protocol)?;

        let header = |name: &str| session.req_header().headers.get(name).map(http::HeaderValue::as_bytes);
        let facts = Facts {
            protocol,
            path: &path,
            query,
            authorization: header(AUTHORIZATION.as_str()),
            anchor_mailbox: header("X-AnchorMailbox"),
        };
        let mut identity = identity::identify(&facts);
        let by_form = logged_on.and_then(|person| person.into_credential(&mut identity, context));
        let eas_version = identity::activesync::protocol_version(header("MS-ASProtocolVersion"), query);
        context.story.identified(&identity, context.is_by_form);
        tell_unreadable(&identity.credential, &facts);
        self.restrain(&identity, &facts, &session.req_header().method, context).await?;

        context.carries = Carries::of(&identity.credential);
        if context.carries.pins() {
            if session.as_downstream().is_http2() {
                return Ok(Course::Http11Required);
            }
            self.pin(context).await?;
        }
        let (bound, proven) = context.client.pinned().map_or((None, None), |pinned| pinned.standing());
        let speaker;
        (speaker, context.claim) = match by_form {
            Some((user, account)) => (self.logged_on(user, account).await?, None),
            None => self.speaker(&identity, proven, bound.is_some(), session).await,
        };
        context.story.speaks(&speaker);
        if let Speaker::Proven(person) | Speaker::Certified(person) | Speaker::LoggedOn(person) = &speaker {
            context.proven = Some(person.clone());
        }
        // A connection that somebody is signed in over, or signing in, stays where it is: what it means, it means there.
        // A credential that says itself who asks may go elsewhere.
        let says_who = context.carries == Carries::PerRequest
            || context.claim.is_some() && context.carries == Carries::Token(Leg::First);
        let bound = bound.filter(|_| !says_who).and_then(|it| organisation.find(&it));

        let lookup = match identity.routing_name(speaker.name()) {
            Some(name) if protocol.asks_for_mailbox() => match self.find(name).await {
                Err(_) if bound.is_some() => None, // it is known where to go without the directory
                found => Some(found?),
            },
            Some(_) | None => None,
        };
        let whose = lookup.as_deref().map_or(Whose::Nobody, whose);
        let request = Request { protocol, path: &path, eas_version };
        let mut decision = routing::decide(&request, whose, &organisation.topology, &organisation.policy);

        if decision.tells_about_mailbox() && !self.is_proven(&speaker, &identity.credential, context).await? {
            decision = local_challenge(&request, organisation);
        }
        let stays = |server| {
            context.carries == Carries::Token(Leg::Next)
                || leads_to(&decision, server, organisation)
                || matches!(decision, Decision::Proxy(..))
                    && organisation.serves(server, protocol)
                    && !self.delegates(&identity.credential, &speaker)
        };
        if let Decision::Proxy(..) | Decision::BackEnd(..) = decision
            && let Some(server) = bound.filter(|server| stays(*server))
        {
            if let Some(claim) = self.claim(&identity, &request, server, organisation).await {
                context.claim = Some(claim);
            }
            context.story.decided(&decision, whose, &organisation.topology);
            context.story.rule = Some("signed-in-connection");
            context.is_about_mailbox = true;
            return Ok(Course::Onward(Destination::Bound(server)));
        }
        context.story.decided(&decision, whose, &organisation.topology);
        report(&decision, identity.routing_name(speaker.name()), lookup.as_deref());

        if let Some(answer) = respond::decided(&decision, protocol) {
            return Ok(Course::Answer(answer));
        }
        context.is_about_mailbox = !matches!(decision, Decision::Proxy(_, Rule::LocalChallenge | Rule::LocalService));
        let destination = destination(&decision, whose, context).ok_or(Denial::Internal)?;
        context.on_behalf = self.on_behalf(&identity.credential, &speaker, destination, context).await?;
        Ok(Course::Onward(destination))
    }

    /// Whether it is certain who asks; `false`: the request carries nothing that the edge could verify.
    async fn is_proven(
        &self,
        speaker: &Speaker<'_>,
        credential: &Credential,
        context: &mut Context,
    ) -> Result<bool, Denial> {
        let name = match (speaker, self.prove(credential).await?) {
            (Speaker::Proven(person) | Speaker::Certified(person) | Speaker::LoggedOn(person), _) => {
                person.entry_name.clone()
            }
            (_, Proof::Proven(entry)) => entry.name,
            (_, Proof::Unusable(why)) => return Err(Denial::of_unusable(why)),
            (_, Proof::Wrong) => return Err(Denial::WrongPassword),
            (_, Proof::Absent) => return Ok(false),
        };
        context.story.proven = Some(name);
        Ok(true)
    }

    /// Where to send a request that no server of its destination answered: that a site is down would tell where the
    /// mailbox is, so it too is told to proven identities only, and others are challenged as if nothing were wrong.
    pub(super) async fn none_answers(&self, session: &Session, context: &mut Context) -> Result<Destination, Denial> {
        let (organisation, protocol) = (&self.organisation, context.story.protocol);
        if let Some(person) = &context.proven {
            context.story.proven = Some(person.entry_name.clone());
        } else if let (true, Some(protocol)) = (context.is_about_mailbox, protocol) {
            let authorization = session.req_header().headers.get(AUTHORIZATION);
            let sent = || authorization.map_or(Credential::None, |value| authorization::credential(value.as_bytes()));
            let credential = context.on_behalf.as_ref().and_then(OnBehalf::credential).unwrap_or_else(sent);
            match self.prove(&credential).await? {
                Proof::Proven(entry) => context.story.proven = Some(entry.name),
                Proof::Unusable(why) => return Err(Denial::of_unusable(why)),
                Proof::Wrong => return Err(Denial::WrongPassword),
                Proof::Absent => {
                    context.is_about_mailbox = false;
                    let request = Request { protocol, path: protocol.default_path(), eas_version: None };
                    if let Decision::Proxy(pool, _) = local_challenge(&request, organisation) {
                        return Ok(Destination::Pool { pool, key: client_key(context.sender.ip) });
                    }
                }
            }
        }
        let site = context.story.site.map_or("the mailbox", |site| &organisation.topology.site(site).name);
        Event::of_refusal(Refusal::NoneResponding).report(format_args!("no server of {site} answers"));
        Err(Denial::Routing(Refusal::NoneResponding))
    }

    fn check_announced_body(&self, request: &RequestHeader, protocol: Protocol) -> Result<(), Denial> {
        let is_too_large = content_length(request) > Some(self.config.limits.body_bytes(protocol));
        if is_too_large { Err(Denial::BodyTooLarge) } else { Ok(()) }
    }

    /// Gives the client upstream connections of its own from now on.
    async fn pin(&self, context: &mut Context) -> Result<(), Denial> {
        if let Err(no_place) = context.client.pin(&self.shared.pins, context.story.started) {
            if self.shared.lately.is_news(Event::TooManyPins, "").await {
                let most = self.config.pins.connections_max;
                Event::TooManyPins.report(format_args!("{no_place}: all {most} are taken"));
            }
            return Err(Denial::TooManyPins);
        }
        Ok(())
    }

    /// Who asks, by the best that is known before the request is passed on; and whom its server will be asked about.
    ///
    /// A credential comes before the client's certificate: whoever it names is whom the server authenticates, and the
    /// certificate of one never proves another. So does a connection that is, or is being, signed in over (`is_bound`).
    async fn speaker<'i>(
        &self,
        identity: &'i Identity,
        proven: Option<Arc<Proven>>,
        is_bound: bool,
        session: &Session,
    ) -> (Speaker<'i>, Option<Claim>) {
        if let Some((person, claim)) = self.ticket(&identity.credential).await {
            return (Speaker::Proven(person), Some(claim));
        }
        let hint = match (&identity.credential, proven) {
            (Credential::Basic { user, .. }, _) => return (Speaker::Claimed(user), None),
            (Credential::Bearer | Credential::Unreadable(_), _) => return (Speaker::Unknown, None),
            (Credential::None, Some(person)) => return (Speaker::Proven(person), None),
            // A new handshake may be somebody else's; but most often it is the same person's.
            (Credential::ConnectionBound(_), Some(person)) => Some(person.name.clone()),
            (Credential::None | Credential::ConnectionBound(_), None) => {
                let certified = self.certified(session).await;
                if let (Some(person), Credential::None, false) = (&certified, &identity.credential, is_bound) {
                    return (Speaker::Certified(person.clone()), None);
                }
                let mut cookies = session.req_header().headers.get_all(COOKIE).iter();
                let now = SystemTime::now();
                let last = cookies.find_map(|cookies| self.affinity.mailbox(cookies.as_bytes(), now));
                last.or_else(|| certified.map(|person| person.name.clone()))
            }
        };
        (hint.map_or(Speaker::Unknown, Speaker::Hinted), None)
    }

    /// Somebody who has logged on by the form, and whose password the edge has not kept. Who is gone from the directory since,
    /// is nobody any more; and whoever has got their name is somebody else.
    async fn logged_on<'i>(&self, user: MailboxName, account: EntryId) -> Result<Speaker<'i>, Denial> {
        match self.find(&user).await?.as_ref() {
            Lookup::Found(entry) if entry.id == account => {
                Ok(Speaker::LoggedOn(Arc::new(Proven { entry_name: entry.name.clone(), name: user })))
            }
            Lookup::Found(_) | Lookup::NotFound | Lookup::Ambiguous(_) => Err(Denial::WrongPassword),
        }
    }

    /// Whom the certificate proves that the client's connection began with, if it is the directory's name for somebody. Any
    /// other of their names will not do: an address of one person's mailbox may be the user principal name of another.
    pub(super) async fn certified(&self, session: &Session) -> Option<Arc<Proven>> {
        let certificate = session.digest()?.ssl_digest.as_ref()?.extension.get::<Shown>()?;
        let (name, problem) = match certificate.proves(SystemTime::now()) {
            Ok(name) => match self.find(name).await.as_deref() {
                Ok(Lookup::Found(entry)) if MailboxName::parse(&entry.name).as_ref() == Ok(name) => {
                    return Some(Arc::new(Proven { name: name.clone(), entry_name: entry.name.clone() }));
                }
                Ok(Lookup::Found(_) | Lookup::NotFound | Lookup::Ambiguous(_)) => {
                    (name.to_string(), "the directory has no account with this userPrincipalName".to_owned())
                }
                Err(_) => return None, // told already
            },
            Err(why) => (String::new(), why.to_string()),
        };
        if self.shared.lately.is_news(Event::ClientCertificateUnknown, &name).await {
            let whose = if name.is_empty() { "somebody".into() } else { name };
            Event::ClientCertificateUnknown.report(format_args!("the certificate of {whose} proves nobody: {problem}"));
        }
        None
    }

    /// Whom a Kerberos ticket was issued to, if there is one, the edge can open it, and the directory knows them.
    async fn ticket(&self, credential: &Credential) -> Option<(Arc<Proven>, Claim)> {
        let (Some(keytab), Credential::ConnectionBound(Token { shows: Shows::Ticket(ticket), .. })) =
            (&self.config.keytab, credential)
        else {
            return None;
        };
        match keytab.open(ticket, SystemTime::now()) {
            Ok(opened) => match self.find(&opened.client).await.as_deref() {
                Ok(Lookup::Found(entry)) => {
                    let person = Arc::new(Proven { name: opened.client, entry_name: entry.name.clone() });
                    Some((person.clone(), Claim::Ticket { person, channel_bindings: opened.channel_bindings }))
                }
                // The server may know them all the same, and the directory's silence is an event already.
                Ok(Lookup::NotFound | Lookup::Ambiguous(_)) | Err(_) => None,
            },
            Err(error) => {
                if self.shared.lately.is_news(Event::TicketNotOpened, "").await {
                    Event::TicketNotOpened.report(format_args!("a Kerberos ticket could not be opened: {error}"));
                }
                None
            }
        }
    }

    /// What follows if the server accepts the name in an NTLM message. The server has to judge it first; so this never
    /// fails, and what the directory cannot say now is left undone.
    async fn claim(
        &self,
        identity: &Identity,
        request: &Request<'_>,
        server: ServerId,
        organisation: &Organisation,
    ) -> Option<Claim> {
        let Credential::ConnectionBound(Token { shows: Shows::Account(message), .. }) = &identity.credential else {
            return None;
        };
        let message = (**message).clone();
        let follows = match message.user.clone() {
            Some(user) => self.follows(user, identity, request, server, organisation).await,
            None => None,
        };
        Some(Claim::Message { message, follows })
    }

    async fn follows(
        &self,
        user: MailboxName,
        identity: &Identity,
        request: &Request<'_>,
        server: ServerId,
        organisation: &Organisation,
    ) -> Option<(Arc<Proven>, Next)> {
        let Ok(Lookup::Found(entry)) = self.find(&user).await.as_deref().cloned() else { return None };
        let person = Arc::new(Proven { name: user, entry_name: entry.name });
        let mailbox = identity.routing_name(Some(&person.name)).unwrap_or(&person.name).clone();
        let lookup = self.find(&mailbox).await.ok()?;
        let decision = routing::decide(request, whose(&lookup), &organisation.topology, &organisation.policy);
        let next = match decision {
            // Whom the directory does not know the server may; a service's account has no mailbox and needs none.
            Decision::Proxy(_, Rule::LocalChallenge | Rule::LocalService)
            | Decision::Refuse(Refusal::UnknownUser | Refusal::AmbiguousName | Refusal::NoMailbox) => Next::Stays,
            Decision::Proxy(..) | Decision::BackEnd(..)
                if leads_to(&decision, server, organisation)
                    || !leads_to_life(&decision, request.protocol, organisation) =>
            {
                Next::Stays
            }
            Decision::Proxy(..) | Decision::BackEnd(..) => Next::Elsewhere(mailbox),
            Decision::LinkPage(..)
            | Decision::MovedDevice(..)
            | Decision::SameHost(..)
            | Decision::ConnectTo(..)
            | Decision::Refuse(_) => Next::Decided(decision, lookup.clone()),
        };
        Some((person, next))
    }

    pub(crate) async fn find(&self, name: &MailboxName) -> Result<Arc<Lookup>, Denial> {
        self.in_time("a mailbox look-up", self.directory.find(name)).await
    }

    /// Verifies the credential of a request whose answer tells something about a mailbox.
    pub(crate) async fn prove(&self, credential: &Credential) -> Result<Proof, Denial> {
        let Credential::Basic { user, password } = credential else {
            return Ok(Proof::Absent);
        };
        match self.find(user).await?.as_ref() {
            Lookup::Found(entry) => self.verify(entry, password).await,
            Lookup::NotFound => Ok(Proof::Wrong),
            // Whichever of them it is: who knows the password of one may be told that there are two.
            Lookup::Ambiguous(dns) => {
                let mut best = Proof::Wrong;
                for dn in dns {
                    let entry = schema::entry(&Record::new(dn.as_str()));
                    match self.verify(&entry, password).await? {
                        proven @ Proof::Proven(_) => return Ok(proven),
                        unusable @ Proof::Unusable(_) => best = unusable,
                        Proof::Wrong | Proof::Absent => {}
                    }
                }
                Ok(best)
            }
        }
    }

    /// Asks the directory about somebody's password. Whose account cannot be used is told, at most once a minute.
    pub(super) async fn verify(&self, entry: &Entry, password: &Secret) -> Result<Proof, Denial> {
        match self.in_time("a credential check", self.directory.verify(entry, password)).await? {
            Verdict::Right => Ok(Proof::Proven(entry.clone())),
            Verdict::Wrong => Ok(Proof::Wrong),
            Verdict::Unusable(why) => {
                if self.shared.lately.is_news(Event::AccountUnusable, &entry.name).await {
                    Event::AccountUnusable.report(format_args!("{} cannot sign in: {}", entry.name, why.sentence()));
                }
                Ok(Proof::Unusable(why))
            }
        }
    }

    /// The directory's answer, within the time that a request may wait for it.
    async fn in_time<T>(
        &self,
        operation: &str,
        answer: impl Future<Output = Result<T, Arc<DirectoryError>>>,
    ) -> Result<T, Denial> {
        let after = self.config.timeouts.directory;
        match tokio::time::timeout(after, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unanswered(&error).await),
            Err(_) => Err(self.unanswered(&DirectoryError::TimedOut { operation: operation.into(), after }).await),
        }
    }

    /// That all servers are away is told once, by [`Notices`](super::notices::Notices). Anything else that costs a request
    /// its answer would go untold, so it is told here, at most once a minute.
    async fn unanswered(&self, error: &DirectoryError) -> Denial {
        let (event, of) = match error {
            DirectoryError::Unusable { place, .. } => (Event::DirectoryOddity, place.as_str()),
            DirectoryError::Unreachable { .. }
            | DirectoryError::Rejected { .. }
            | DirectoryError::TimedOut { .. }
            | DirectoryError::Malformed { .. }
            | DirectoryError::Ambiguous { .. } => (Event::DirectoryAway, ""),
        };
        let is_told = event == Event::DirectoryAway && self.shared.notices.is_away();
        if !is_told && self.shared.lately.is_news(event, of).await {
            event.report(events::whole_chain(error));
        }
        Denial::DirectoryAway
    }
}

/// Where a request that is passed on goes; `None`: it is not passed on.
fn destination(decision: &Decision, whose: Whose<'_>, context: &Context) -> Option<Destination> {
    let key = match whose {
        Whose::Mailbox(mailbox) if context.is_about_mailbox => mailbox.key,
        Whose::Mailbox(_) | Whose::Nobody | Whose::Unknown | Whose::Ambiguous | Whose::WithoutMailbox => {
            client_key(context.sender.ip)
        }
    };
    match decision {
        Decision::Proxy(pool, _) => Some(Destination::Pool { pool: *pool, key }),
        Decision::BackEnd(server, _) => Some(Destination::BackEnd(*server)),
        Decision::LinkPage(..)
        | Decision::MovedDevice(..)
        | Decision::SameHost(..)
        | Decision::ConnectTo(..)
        | Decision::Refuse(_) => None,
    }
}

/// What of a request that is served nobody can read.
fn tell_unreadable(credential: &Credential, facts: &Facts<'_>) {
    if let Some(why) = unreadable(credential) {
        Event::MalformedRequest.report(format_args!("a credential could not be read: {why}"));
    }
    if facts.protocol == Protocol::ActiveSync && facts.query.is_some_and(identity::activesync::is_unreadable) {
        Event::MalformedRequest.report("an ActiveSync query has neither parameters nor the base64 form");
    }
}

/// The size of the request's header: as it came over HTTP/1, as RFC 9113 section 6.5.2 counts it over HTTP/2.
fn header_bytes(session: &Session) -> u64 {
    const FIELD_OVERHEAD_BYTES: usize = 32;
    let bytes = if let Some(h1) = session.as_downstream().as_http1() {
        h1.get_headers_raw_bytes().len()
    } else {
        let request = session.req_header();
        let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            name.as_str().len() + value.len() + FIELD_OVERHEAD_BYTES
        };
        request.raw_path().len() + request.headers.iter().map(size).sum::<usize>()
    };
    bytes as u64
}

/// Pingora drops `Content-Length` where `Transfer-Encoding` is there too, so the fields as received are asked.
fn check_framing(session: &Session) -> Result<(), Denial> {
    const FIELDS_MAX: usize = 256; // Pingora reads no more
    let Some(h1) = session.as_downstream().as_http1() else { return Ok(()) };
    if !h1.req_header().headers.contains_key(TRANSFER_ENCODING) {
        return Ok(());
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let raw = h1.get_headers_raw_bytes();
    let announced = match request.parse(&raw) {
        Ok(_) => request.headers.iter().any(|field| field.name.eq_ignore_ascii_case("Content-Length")),
        Err(_) => return Err(Denial::Unreadable),
    };
    if announced { Err(Denial::Malformed(hygiene::Malformed::LengthAndTransferEncoding)) } else { Ok(()) }
}

/// The path, decoded, and the query, as sent. What is classified here must be what the server behind will serve, so
/// both come from the raw request target that is passed on.
pub(super) fn path_and_query(request: &RequestHeader) -> Result<(Cow<'_, str>, Option<&str>), Denial> {
    let raw = std::str::from_utf8(request.raw_path()).map_err(|_| Denial::BadPath(path::PathError::NotUtf8))?;
    let raw = if raw.starts_with('/') { raw } else { of_absolute_form(raw).ok_or(NOT_A_PATH)? };
    let (path, query) = raw.split_once('?').map_or((raw, None), |(path, query)| (path, Some(query)));
    Ok((path::decode(path).map_err(Denial::BadPath)?, query))
}

/// The path and query of an absolute request target (RFC 9112 section 3.2.2). Its authority, which Pingora has compared
/// with `Host`, decides nothing. `None`: it is another form or has no path.
fn of_absolute_form(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_once("://")?;
    let is_http = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    let path = rest.find(['/', '?', '#', '\\']).filter(|_| is_http)?;
    rest.get(path..).filter(|path| path.starts_with('/'))
}

const NOT_A_PATH: Denial = Denial::BadPath(path::PathError::NotAPath);

pub(crate) fn whose(lookup: &Lookup) -> Whose<'_> {
    match lookup {
        Lookup::Found(Entry { mailbox: Some(mailbox), .. }) => Whose::Mailbox(mailbox),
        Lookup::Found(Entry { mailbox: None, .. }) => Whose::WithoutMailbox,
        Lookup::NotFound => Whose::Unknown,
        Lookup::Ambiguous(_) => Whose::Ambiguous,
    }
}

/// Whether a decision leads, or may lead, to this server.
fn leads_to(decision: &Decision, server: ServerId, organisation: &Organisation) -> bool {
    leads_to_any(decision, organisation, |it| it == server)
}

/// Whether a decision leads to a server that answers, as far as is known.
fn leads_to_life(decision: &Decision, protocol: Protocol, organisation: &Organisation) -> bool {
    leads_to_any(decision, organisation, |server| organisation.health.is_alive(server, protocol))
}

fn leads_to_any(decision: &Decision, organisation: &Organisation, is_it: impl Fn(ServerId) -> bool) -> bool {
    match decision {
        Decision::Proxy(pool, _) => {
            let mut members = routing::members(*pool, &organisation.topology, &organisation.policy);
            members.any(|(member, _)| is_it(member))
        }
        Decision::BackEnd(home, _) => is_it(*home),
        Decision::LinkPage(..)
        | Decision::MovedDevice(..)
        | Decision::SameHost(..)
        | Decision::ConnectTo(..)
        | Decision::Refuse(_) => false,
    }
}

/// Why a credential, or the name in it, cannot be read.
pub(super) fn unreadable(credential: &Credential) -> Option<&dyn std::error::Error> {
    match credential {
        Credential::Unreadable(why) => Some(why),
        Credential::ConnectionBound(Token { shows: Shows::Unreadable(why), .. }) => Some(why),
        Credential::ConnectionBound(Token { shows: Shows::Account(message), .. }) => {
            message.unreadable_name.as_ref().map(|why| why as _)
        }
        Credential::ConnectionBound(_) | Credential::None | Credential::Basic { .. } | Credential::Bearer => None,
    }
}

/// The decision while nothing may be told: the local pool challenges.
fn local_challenge(request: &Request<'_>, organisation: &Organisation) -> Decision {
    routing::decide(request, Whose::Nobody, &organisation.topology, &organisation.policy)
}

/// Events that go with a decision.
pub(crate) fn report(decision: &Decision, name: Option<&MailboxName>, lookup: Option<&Lookup>) {
    let name = || name.map_or_else(|| "-".to_owned(), ToString::to_string);
    match decision {
        Decision::MovedDevice(url, _) => {
            Event::ActiveSyncRedirected.report(format_args!("the device of {} was sent to {url} (HTTP 451)", name()));
        }
        Decision::Refuse(refusal) => {
            let whom = match lookup {
                Some(Lookup::Ambiguous(dns)) => dns.join(" | "),
                Some(Lookup::Found(Entry { dn, mailbox: Some(mailbox), .. })) => {
                    format!("{dn}, home server {}", mailbox.home_server)
                }
                Some(Lookup::Found(Entry { dn, mailbox: None, .. })) => dn.clone(),
                Some(Lookup::NotFound) | None => "not in the directory".to_owned(),
            };
            let sentence = refusal.sentence();
            Event::of_refusal(*refusal).report(format_args!("{} ({whom}) was refused: {sentence}", name()));
        }
        Decision::Proxy(..)
        | Decision::BackEnd(..)
        | Decision::LinkPage(..)
        | Decision::ConnectTo(..)
        | Decision::SameHost(..) => {}
    }
}

/// Keeps a client without known mailbox on one server: its logon form and cookies are good there only ([S38a] in the
/// project's reference).
fn client_key(client: Option<IpAddr>) -> u64 {
    match client {
        Some(IpAddr::V4(ip)) => u64::from(u32::from(ip)),
        #[allow(clippy::cast_possible_truncation)] // folded on purpose
        Some(IpAddr::V6(ip)) => (u128::from(ip) >> 64) as u64 ^ u128::from(ip) as u64,
        None => 0,
    }
}
