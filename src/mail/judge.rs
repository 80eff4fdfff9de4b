//! Judges a logon: who it is, where their mailbox lives, and what follows.
//!
//! The password is asked of the directory before anything else. So a wrong one, and a name that there is not, get the same
//! answer whatever server the mailbox is on, and count once; and whoever is told where a mailbox lives has proven who they
//! are. Where the directory is away, somebody it has told of before is judged by their server.

use std::{net::IpAddr, sync::Arc, time::Duration};

use super::{
    at_server::Came,
    dialogue::{Logon, Way},
    refusal::Denial,
    session::{Opened, Session},
    sign_in::SignIn,
};
use crate::{
    directory::{Unusable, cache::Lookup},
    edge::{
        Destination,
        course::{Proof, report, whose},
        in_force::InForce,
        logons::Attempt,
        pools,
        restraint::seconds,
    },
    events::Event,
    identity::{Credential, MailboxName, logon_name::LogonName},
    metrics::mail,
    routing::{self, Decision, Request, mailbox::Whose, protocol::Protocol},
};

/// A logon that comes to nothing.
pub(super) enum Refused {
    /// By a rule of the edge's.
    By(Denial),
    /// By the server, which said this to somebody whose password is right.
    InOwnWords(Vec<u8>),
}

impl Session<'_> {
    /// Lets somebody in at their mailbox's server, or not.
    pub(super) async fn judge(&mut self, logon: &Logon) -> Result<Opened, Refused> {
        self.logon_begins(logon.way);
        let result = self.try_logon(logon).await;
        result.map_err(|refused| self.refused(refused))
    }

    /// It may be long since the client came, so what is in force now counts.
    pub(super) fn logon_begins(&mut self, way: Way) {
        self.in_force = self.mail.in_force.load_full();
        self.story.logon_begins(way);
    }

    /// Notes why somebody is refused.
    pub(super) fn refused(&mut self, refused: Refused) -> Refused {
        let (name, counted) = match &refused {
            Refused::By(denial) => (denial.name(), denial.counted()),
            Refused::InOwnWords(_) => ("server-refused", mail::Logon::ServerRefused),
        };
        self.story.refused(name, counted);
        refused
    }

    async fn try_logon(&mut self, logon: &Logon) -> Result<Opened, Refused> {
        let in_force = self.in_force.clone();
        let name = LogonName::parse(&logon.user, logon.authorize_as.as_deref()).ok();
        let user = name.as_ref().map(|name| &name.user);
        let attempt = in_force.shared.logons.attempt(user, Some(&logon.password), self.client);
        if let Some(LogonName { user, mailbox }) = &name {
            self.story.claims(user, mailbox.as_ref());
        }
        let turn = in_force.shared.logons.enter(attempt, &in_force.config.limits).await;
        let turn = turn.map_err(too_many)?;
        // A directory that reads C strings would take a NUL for no password at all, and that for nobody in particular.
        let is_password = !logon.password.expose().contains(&0);
        let Some(LogonName { user, mailbox }) = name.filter(|_| is_password) else {
            self.failed(attempt, None);
            return Err(Refused::By(Denial::WrongPassword));
        };
        let credential = Credential::Basic { user: user.clone(), password: logon.password.clone() };
        let is_proven = match in_force.prove(&credential).await {
            Ok(Proof::Proven(entry)) => {
                self.story.proven(&entry.name);
                in_force.shared.logons.succeeded(attempt);
                drop(turn);
                true
            }
            Ok(Proof::Wrong | Proof::Absent | Proof::Unusable(Unusable::AccountLocked)) => {
                self.failed(attempt, Some(&user));
                // While the directory is away everybody hears the same; of some it is known without asking.
                let is_up = in_force.shared.is_directory_up();
                return Err(Refused::By(if is_up { Denial::WrongPassword } else { Denial::DirectoryAway }));
            }
            Ok(Proof::Unusable(why)) => return Err(Refused::By(Denial::AccountUnusable(why))),
            Err(_) if mailbox.is_some() => return Err(Refused::By(Denial::DirectoryAway)),
            Err(_) => false, // the directory is away, which is an event already
        };
        let lookup = in_force.find(mailbox.as_ref().unwrap_or(&user)).await;
        let lookup = lookup.map_err(|_| Refused::By(Denial::DirectoryAway))?;
        let decision = self.decide(&lookup);
        if let Some(denial) = Denial::of(&decision, self.protocol) {
            if !is_proven {
                return Err(Refused::By(Denial::DirectoryAway));
            }
            if let Denial::ConnectTo { host, protocol } = &denial
                && in_force.shared.lately.is_news(Event::MailElsewhere, &user.to_string()).await
            {
                Event::MailElsewhere.report(format_args!("{user} was told to connect to {host} for {protocol}"));
            }
            if let Decision::Refuse(refusal) = &decision
                && in_force.shared.lately.is_news(Event::of_refusal(*refusal), &user.to_string()).await
            {
                report(&decision, Some(&user), Some(&lookup)); // mail programs come again each minute
            }
            return Err(Refused::By(denial));
        }
        if is_proven {
            let opened = self.sign_in(&decision, &lookup, logon).await;
            if let Err(Refused::InOwnWords(words)) = &opened
                && !is_temporary(words)
                && in_force.shared.lately.is_news(Event::MailSignInRefused, &user.to_string()).await
            {
                let words = words.strip_prefix(&*logon.tag).unwrap_or(words).trim_ascii();
                let words = words.get(..WORDS_TOLD_MAX_BYTES).unwrap_or(words).escape_ascii();
                Event::MailSignInRefused.report(format_args!("{user} was refused: {words}"));
            }
            return opened;
        }
        let guess = Guess::by(self, attempt, Some(&user));
        match self.sign_in(&decision, &lookup, logon).await {
            Ok(opened) => {
                guess.was_right();
                Ok(opened)
            }
            Err(_) => Err(Refused::By(Denial::DirectoryAway)),
        }
    }

    /// What the rules say of a mailbox.
    pub(super) fn decide(&mut self, lookup: &Lookup) -> Decision {
        let organisation = &self.in_force.organisation;
        let request = Request { protocol: self.protocol, path: "", eas_version: None };
        let decision = routing::decide(&request, whose(lookup), &organisation.topology, &organisation.policy);
        self.story.decided(&decision, whose(lookup), &organisation.topology);
        decision
    }

    /// Signs in at the server that a decision leads to, or at another of its pool.
    async fn sign_in(&mut self, decision: &Decision, lookup: &Lookup, logon: &Logon) -> Result<Opened, Refused> {
        let organisation = self.in_force.organisation.clone();
        let destination = match decision {
            Decision::Proxy(pool, _) => Destination::Pool { pool: *pool, key: key(lookup) },
            Decision::BackEnd(server, _) => Destination::BackEnd(*server),
            Decision::ConnectTo(..)
            | Decision::LinkPage(..)
            | Decision::MovedDevice(..)
            | Decision::SameHost(..)
            | Decision::Refuse(_) => return Err(Refused::By(Denial::Internal)), // it leads to no server
        };
        let (mut tried, mut was_reached) = (Vec::new(), false);
        while let Some((server, target)) = pools::choose(destination, self.protocol, &organisation, &tried) {
            tried.push(server);
            // The directory does not mind spaces around a name; servers do.
            let logon = Logon { user: logon.user.trim_ascii().to_vec(), ..logon.clone() };
            let start_tls = target.start_tls;
            let sign_in = if self.protocol == Protocol::Pop3 {
                SignIn::pop3(logon, start_tls)
            } else {
                SignIn::imap4(logon, start_tls, target.peer.is_tls())
            };
            match self.sign_in_at(server, &target, sign_in).await {
                Came::In(opened) => return Ok(opened),
                Came::Refused(words) => return Err(Refused::InOwnWords(words)),
                Came::Failed | Came::Challenged(..) => was_reached = true,
                Came::Away => {}
            }
        }
        Err(Refused::By(if was_reached { Denial::ServerFailed } else { Denial::ServerAway }))
    }

    /// Somebody's password was wrong.
    pub(super) fn failed(&self, attempt: Attempt, user: Option<&MailboxName>) {
        self.in_force.count_failed(attempt, user, Some(self.client));
    }
}

/// Something that a server is to judge. It counts as wrong unless the server says otherwise, also if nobody waits for that.
pub(super) struct Guess {
    in_force: Arc<InForce>,
    attempt: Attempt,
    user: Option<MailboxName>,
    client: IpAddr,
    is_open: bool,
}

impl Guess {
    pub(super) fn by(session: &Session<'_>, attempt: Attempt, user: Option<&MailboxName>) -> Guess {
        let (in_force, client) = (session.in_force.clone(), session.client);
        Guess { in_force, attempt, user: user.cloned(), client, is_open: true }
    }

    pub(super) fn was_right(mut self) {
        self.is_open = false;
        self.in_force.shared.logons.succeeded(self.attempt);
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if self.is_open {
            self.in_force.count_failed(self.attempt, self.user.as_ref(), Some(self.client));
        }
    }
}

/// Whether a server's refusal says that it may let the same person in later (RFC 5530, RFC 2449, RFC 3206).
fn is_temporary(words: &[u8]) -> bool {
    const CODES: [&str; 6] = ["UNAVAILABLE", "INUSE", "IN-USE", "LIMIT", "SYS/TEMP", "LOGIN-DELAY"];
    let code = words.split(|byte| *byte == b'[').nth(1).and_then(|rest| rest.split(|byte| b" ]".contains(byte)).next());
    code.is_some_and(|code| CODES.iter().any(|known| code.eq_ignore_ascii_case(known.as_bytes())))
}

/// Too many have failed before.
pub(super) fn too_many(wait: Duration) -> Refused {
    Refused::By(Denial::TooManyFailedLogons { retry_after: seconds(Some(wait)) })
}

/// Of a server's words, in an event.
const WORDS_TOLD_MAX_BYTES: usize = 200;

fn key(lookup: &Lookup) -> u64 {
    match whose(lookup) {
        Whose::Mailbox(mailbox) => mailbox.key,
        Whose::Nobody | Whose::Unknown | Whose::Ambiguous | Whose::WithoutMailbox => 0,
    }
}
