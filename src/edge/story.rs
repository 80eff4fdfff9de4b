//! The access log: one line a request that tells who, where, why, and over which connection.

use std::time::Instant;

use log::kv::ToValue;
use pingora_proxy::Session;

use super::{
    Context, acceptance::REPLACED, course::Speaker, decisions::Decided, on_behalf::OnBehalf, respond::Denial, tracing,
};
use crate::{
    identity::{Credential, Identity, MailboxName, token::Shows},
    metrics::{End, Outcome},
    routing::{
        Decision, Rule,
        mailbox::Whose,
        protocol::Protocol,
        topology::{ServerId, SiteId, Topology},
    },
};

/// What is told about one request.
#[derive(Debug)]
pub struct Story {
    /// The number by which everybody calls it.
    pub(super) request: String,
    pub(super) started: Instant,
    pub(super) protocol: Option<Protocol>,
    /// The kind of credential it carries.
    pub(super) credential: &'static str,
    /// The name that an affinity cookie, or an earlier sign-in over the connection, suggests.
    pub(super) hint: Option<MailboxName>,
    /// The machine that an NTLM client says it is on; empty if it says none.
    pub(super) workstation: String,
    /// The name that signs in, as claimed, or that is signed in over the connection.
    pub(super) user: Option<MailboxName>,
    /// The mailbox asked for, where it is not the user's own.
    pub(super) target: Option<MailboxName>,
    /// The user's directory name, once the credential was verified.
    pub(super) proven: Option<String>,
    /// The mailbox's; else the one that serves.
    pub(super) site: Option<SiteId>,
    pub(super) outcome: Option<Outcome>,
    pub(super) rule: Option<&'static str>,
    pub(super) denial: Option<Denial>,
    pub(super) server: Option<ServerId>,
    pub(super) reused: Option<bool>,
    pub(super) answered: Option<Instant>,
}

impl Story {
    pub(super) fn new() -> Self {
        Story {
            request: String::new(),
            started: Instant::now(),
            protocol: None,
            credential: "-",
            workstation: String::new(),
            hint: None,
            user: None,
            target: None,
            proven: None,
            site: None,
            outcome: None,
            rule: None,
            denial: None,
            server: None,
            reused: None,
            answered: None,
        }
    }

    pub(super) fn identified(&mut self, identity: &Identity, is_by_form: bool) {
        self.credential = match &identity.credential {
            _ if is_by_form => "form",
            Credential::None => "-",
            Credential::Basic { .. } => "basic",
            Credential::Bearer => "bearer",
            Credential::Unreadable(_) => "unreadable",
            Credential::ConnectionBound(token) => match &token.shows {
                Shows::Nothing => "windows",
                Shows::Account(message) => {
                    self.user.clone_from(&message.user);
                    self.workstation.clone_from(&message.workstation);
                    "ntlm"
                }
                Shows::Ticket(_) => "kerberos",
                Shows::Unreadable(_) => "unreadable",
            },
        };
        self.target = identity.target.as_ref().map(|target| target.name.clone());
    }

    pub(super) fn speaks(&mut self, speaker: &Speaker<'_>) {
        match speaker {
            Speaker::Unknown => {}
            Speaker::Hinted(name) => self.hint = Some(name.clone()),
            Speaker::Claimed(name) => self.user = Some((*name).clone()),
            Speaker::Proven(person) => self.user = Some(person.name.clone()),
            Speaker::Certified(person) => {
                self.user = Some(person.name.clone());
                self.credential = "certificate";
            }
            Speaker::LoggedOn(person) => {
                self.user = Some(person.name.clone());
                self.credential = "form";
            }
        }
    }

    pub(super) fn decided(&mut self, decision: &Decision, whose: Whose<'_>, topology: &Topology) {
        if let Whose::Mailbox(mailbox) = whose {
            self.site = topology.home_server(mailbox).and_then(|home| topology.server(home).site);
        }
        self.outcome = Some(Outcome::of(decision));
        self.rule = decision.rule().map(Rule::name).or(self.rule);
        match decision {
            Decision::Proxy(pool, _) => self.site = self.site.or(Some(pool.site)),
            Decision::Refuse(refusal) => self.denial = Some(Denial::Routing(*refusal)),
            Decision::BackEnd(..)
            | Decision::LinkPage(..)
            | Decision::MovedDevice(..)
            | Decision::SameHost(..)
            | Decision::ConnectTo(..) => {}
        }
    }
}

impl Story {
    /// What became of the request.
    fn outcome(&self) -> Outcome {
        match (self.denial, self.outcome) {
            (Some(Denial::Routing(_)), _) | (Some(_), None) => Outcome::Refused,
            (_, outcome) => outcome.unwrap_or(Outcome::EdgeAnswer),
        }
    }
}

/// Tells the end of a request to whoever wants to know it.
pub(super) fn tell(session: &Session, context: &Context, error: Option<&pingora_core::Error>) {
    let now = Instant::now();
    count(session, context, now);
    write_line(session, context, error, now);
}

/// Counts it, and shows it to the administrator if there is room for it.
fn count(session: &Session, context: &Context, now: Instant) {
    let (story, in_force) = (&context.story, &context.in_force);
    let topology = &in_force.organisation.topology;
    let (outcome, status) = (story.outcome(), status(session));
    let site = story.site.map(|site| topology.site(site).name.as_str());
    let duration = now.saturating_duration_since(story.started);
    in_force.shared.metrics.ended(End {
        protocol: story.protocol,
        site,
        outcome,
        status,
        first_byte: story.answered.map(|answered| answered.saturating_duration_since(story.started)),
        duration,
    });
    in_force.shared.decisions.note(outcome, now, || {
        let dash = || "-".to_owned();
        let shown = |name: &Option<MailboxName>| name.as_ref().map_or_else(dash, ToString::to_string);
        let user = story.user.as_ref().or(story.hint.as_ref());
        Decided {
            client: client(session, context).unwrap_or_else(dash),
            protocol: story.protocol.map_or("-", Protocol::name),
            user: story.proven.clone().unwrap_or_else(|| user.map_or_else(dash, ToString::to_string)),
            proven: story.proven.is_some(),
            target: shown(&story.target),
            site: site.map_or_else(dash, str::to_owned),
            decision: outcome.name(),
            rule: story.denial.map(Denial::name).or(story.rule).unwrap_or("-"),
            server: story.server.map_or_else(dash, |server| topology.server(server).name.clone()),
            status,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            ..Decided::now(story.target.as_ref().or(user), story.protocol)
        }
    });
}

/// Who asked, with the port if the connection is the client's own.
fn client(session: &Session, context: &Context) -> Option<String> {
    let peer = session.client_addr().filter(|_| !context.sender.is_passed_on).map(ToString::to_string);
    peer.or_else(|| context.sender.ip.map(|ip| ip.to_string()))
}

/// The status that the client got; 0: none.
fn status(session: &Session) -> u16 {
    session.response_written().map_or(0, |answer| answer.status.as_u16())
}

/// Writes the line, under the target `firstcas::access`. Only the path of the URL is told: its query can hold tokens.
fn write_line(session: &Session, context: &Context, error: Option<&pingora_core::Error>, now: Instant) {
    if !log::log_enabled!(target: "firstcas::access", log::Level::Info) {
        return;
    }
    let story = &context.story;
    let organisation = &context.in_force.organisation;
    let request = session.req_header();
    let milliseconds = |until: Instant| u64::try_from((until - story.started).as_millis()).unwrap_or(u64::MAX);
    let client = client(session, context);
    let shown = |name: &Option<MailboxName>| name.as_ref().map(ToString::to_string);
    let (user, target, hint) = (shown(&story.user), shown(&story.target), shown(&story.hint));
    let dash = "-";
    log::info!(
        target: "firstcas::access",
        client = client.as_deref().unwrap_or(dash),
        request = story.request.as_str(),
        trace = tracing::trace_id(&request.headers).unwrap_or(dash),
        method = request.method.as_str(),
        path = request.uri.path(),
        protocol = story.protocol.map_or(dash, Protocol::name),
        credential = story.credential,
        sign_in = context.on_behalf.as_ref().map_or(dash, OnBehalf::way),
        workstation = if story.workstation.is_empty() { dash } else { &story.workstation },
        hint = hint.as_deref().unwrap_or(dash),
        user = user.as_deref().unwrap_or(dash),
        target = target.as_deref().unwrap_or(dash),
        proven = story.proven.as_deref().unwrap_or(dash),
        site = story.site.map_or(dash, |site| organisation.topology.site(site).name.as_str()),
        rule = story.rule.unwrap_or(dash),
        denial = story.denial.map_or(dash, Denial::name),
        cas = story.server.map_or(dash, |server| organisation.topology.server(server).name.as_str()),
        connection = if context.client.pinned().is_some() { "pinned" } else { "shared" },
        upstream = match story.reused { None => dash, Some(true) => "reused", Some(false) => "new" },
        status = status(session).to_value(),
        bytes_in = session.body_bytes_read() as u64,
        bytes_out = session.body_bytes_sent() as u64,
        first_byte_ms = milliseconds(story.answered.unwrap_or(now)),
        total_ms = milliseconds(now),
        error = error.filter(|error| *error.etype() != REPLACED).map_or(dash, |error| error.etype().as_str());
        ""
    );
}
