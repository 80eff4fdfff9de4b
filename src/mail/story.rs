//! What is told of a session: a line of the access log for each logon, and one at its end.

use std::{
    net::IpAddr,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use log::kv::ToValue;

use super::{
    dialogue::{End, Way},
    splice::{Ending, Passed, Side},
};
use crate::{
    edge::{decisions::Decided, in_force::InForce},
    identity::MailboxName,
    metrics::{Metrics, Outcome, mail},
    routing::{Decision, Rule, mailbox::Whose, protocol::Protocol, topology::Topology},
};

/// What is known of a session so far.
pub(super) struct Story {
    /// By which the lines of a session are found.
    session: String,
    began: Instant,
    protocol: Protocol,
    client: IpAddr,
    /// The last logon; `None`: there was none.
    logon: Option<Box<Logon>>,
    counted: mail::Session,
    to_client: u64,
    to_server: u64,
}

#[derive(Debug)]
struct Logon {
    began: Instant,
    way: Way,
    user: Option<MailboxName>,
    target: Option<MailboxName>,
    proven: Option<String>,
    site: Option<String>,
    outcome: Option<Outcome>,
    rule: Option<&'static str>,
    denial: Option<(&'static str, mail::Logon)>,
    server: Option<String>,
    is_told: bool,
}

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client has gone before it was logged on.
    Client,
    /// No TLS came of it.
    Tls,
    /// It took too long to log on.
    TooSlow,
    /// The edge goes down.
    Drained,
    /// The dialogue was over.
    Dialogue(End),
    /// It was logged on, and this came of it.
    Passed(Ending),
}

impl Story {
    pub(super) fn new(protocol: Protocol, client: IpAddr, metrics: &Metrics) -> Self {
        let session = format!("{:016x}", fastrand::u64(..));
        let counted = metrics.mail.begin(protocol);
        Story { session, began: Instant::now(), protocol, client, logon: None, counted, to_client: 0, to_server: 0 }
    }

    pub(super) fn logon_begins(&mut self, way: Way) {
        self.logon = Some(Box::new(Logon {
            began: Instant::now(),
            way,
            user: None,
            target: None,
            proven: None,
            site: None,
            outcome: None,
            rule: None,
            denial: None,
            server: None,
            is_told: false,
        }));
    }

    pub(super) fn claims(&mut self, user: &MailboxName, target: Option<&MailboxName>) {
        if let Some(logon) = &mut self.logon {
            logon.user = Some(user.clone());
            logon.target = target.cloned();
        }
    }

    pub(super) fn proven(&mut self, name: &str) {
        if let Some(logon) = &mut self.logon {
            logon.proven = Some(name.to_owned());
        }
    }

    pub(super) fn decided(&mut self, decision: &Decision, whose: Whose<'_>, topology: &Topology) {
        let Some(logon) = &mut self.logon else { return };
        if let Whose::Mailbox(mailbox) = whose {
            let site = topology.home_server(mailbox).and_then(|home| topology.server(home).site);
            logon.site = site.map(|site| topology.site(site).name.clone());
        }
        logon.outcome = Some(Outcome::of(decision));
        logon.rule = decision.rule().map(Rule::name);
    }

    pub(super) fn at(&mut self, server: &str) {
        if let Some(logon) = &mut self.logon {
            logon.server = Some(server.to_owned());
        }
    }

    pub(super) fn refused(&mut self, denial: &'static str, counted: mail::Logon) {
        if let Some(logon) = &mut self.logon {
            logon.denial = Some((denial, counted));
        }
    }

    pub(super) fn passed(&mut self, passed: &Passed) {
        self.to_client = passed.to_client.load(Relaxed);
        self.to_server = passed.to_server.load(Relaxed);
        self.counted.passed(self.to_client, self.to_server);
    }

    /// A logon has come to something, or to nothing.
    pub(super) fn tell_logon(&mut self, in_force: &InForce) {
        if let Some(logon) = &mut self.logon {
            logon.is_told = true;
        }
        self.count(&in_force.shared.metrics);
        self.write_line("logon", "-");
        self.show(in_force);
    }

    /// The session is over.
    pub(super) fn tell_end(&mut self, ended: &Ended) {
        // One that was cut off in its middle.
        if let Some(logon) = self.logon.as_mut().filter(|logon| !logon.is_told) {
            logon.denial = Some((ended.name(), mail::Logon::Failed));
            self.counted.refused(logon.site.as_deref(), logon.outcome(), mail::Logon::Failed);
        }
        self.write_line("end", ended.name());
    }

    fn count(&mut self, metrics: &Metrics) {
        let Some(logon) = &self.logon else { return };
        let site = logon.site.as_deref();
        if let Some((_, denial)) = logon.denial {
            self.counted.refused(site, logon.outcome(), denial);
            return;
        }
        self.counted.signed_in(site, logon.outcome(), logon.began.elapsed());
        if let Some(server) = &logon.server {
            metrics.session_at(server);
        }
    }

    fn write_line(&self, stage: &'static str, ended: &'static str) {
        if !log::log_enabled!(target: "firstcas::access", log::Level::Info) {
            return;
        }
        let logon = self.logon.as_deref();
        let shown = |name: Option<&MailboxName>| name.map(ToString::to_string);
        let user = shown(logon.and_then(|logon| logon.user.as_ref()));
        let target = shown(logon.and_then(|logon| logon.target.as_ref()));
        let dash = "-";
        log::info!(
            target: "firstcas::access",
            client = self.client.to_string().as_str(),
            request = self.session.as_str(),
            protocol = self.protocol.name(),
            stage = stage,
            credential = logon.map_or(dash, |logon| logon.way.name()),
            user = user.as_deref().unwrap_or(dash),
            target = target.as_deref().unwrap_or(dash),
            proven = logon.and_then(|logon| logon.proven.as_deref()).unwrap_or(dash),
            site = logon.and_then(|logon| logon.site.as_deref()).unwrap_or(dash),
            rule = logon.and_then(|logon| logon.rule).unwrap_or(dash),
            denial = logon.and_then(|logon| logon.denial).map_or(dash, |(name, _)| name),
            cas = logon.and_then(|logon| logon.server.as_deref()).unwrap_or(dash),
            bytes_in = self.to_server,
            bytes_out = self.to_client,
            total_ms = milliseconds(self.began.elapsed()),
            ended = ended.to_value();
            ""
        );
    }

    /// Shows the logon to the administrator, if there is room for it.
    fn show(&self, in_force: &InForce) {
        let Some(logon) = &self.logon else { return };
        let outcome = logon.outcome();
        in_force.shared.decisions.note(outcome, Instant::now(), || {
            let dash = || "-".to_owned();
            let shown = |name: &Option<MailboxName>| name.as_ref().map_or_else(dash, ToString::to_string);
            Decided {
                client: self.client.to_string(),
                protocol: self.protocol.name(),
                user: logon.proven.clone().unwrap_or_else(|| shown(&logon.user)),
                proven: logon.proven.is_some(),
                target: shown(&logon.target),
                site: logon.site.clone().unwrap_or_else(dash),
                decision: outcome.name(),
                rule: logon.denial.map(|(name, _)| name).or(logon.rule).unwrap_or("-"),
                server: logon.server.clone().unwrap_or_else(dash),
                status: 0,
                duration_ms: milliseconds(logon.began.elapsed()),
                ..Decided::now(logon.target.as_ref().or(logon.user.as_ref()), Some(self.protocol))
            }
        });
    }
}

impl Logon {
    fn outcome(&self) -> Outcome {
        match (self.denial, self.outcome) {
            (Some(_), Some(Outcome::OtherServer)) => Outcome::OtherServer,
            (Some(_), _) => Outcome::Refused,
            (None, outcome) => outcome.unwrap_or(Outcome::EdgeAnswer),
        }
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Command => "password",
            Way::Plain => "plain",
            Way::Login => "login",
            Way::Ntlm => "ntlm",
        }
    }
}

impl Ended {
    fn name(&self) -> &'static str {
        match self {
            Ended::Client | Ended::Passed(Ending::Client | Ending::Error(Side::Client, _)) => "client",
            Ended::Passed(Ending::Server | Ending::Error(Side::Server, _)) => "server",
            Ended::Tls => "tls",
            Ended::TooSlow => "logon-timeout",
            Ended::Drained | Ended::Passed(Ending::Drained) => "drained",
            Ended::Dialogue(End::Goodbye) => "goodbye",
            Ended::Dialogue(End::TooLong) => "too-long",
            Ended::Dialogue(End::TooManyCommands) => "too-many-commands",
            Ended::Dialogue(End::TooManyMistakes) => "too-many-mistakes",
            Ended::Dialogue(End::TooManyLogons) => "too-many-logons",
            Ended::Passed(Ending::Idle) => "idle",
            Ended::Passed(Ending::NotReading(Side::Client)) => "client-not-reading",
            Ended::Passed(Ending::NotReading(Side::Server)) => "server-not-reading",
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
