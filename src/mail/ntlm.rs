//! Windows authentication passed on: the challenge comes from the one server that the configuration names, and the user's
//! name after it ([MS-NLMP] 3.2.5.1). So it is for the mailboxes of that server, or of its pool; all others use a password.

use tokio::sync::OwnedSemaphorePermit;

use super::{
    at_server::{Came, Sitting},
    dialogue::Way,
    judge::{Guess, Refused, too_many},
    refusal::Denial,
    session::{Opened, Session},
    sign_in::SignIn,
};
use crate::{
    identity::ntlm::{Authenticate, Challenge},
    routing::{self, Decision, protocol::Protocol, topology::ServerId},
};

/// A sign-in that waits for the client's answer to the server's challenge.
pub(super) struct Passing {
    sitting: Sitting,
    server: ServerId,
    /// `None`: it is none of NTLM's.
    challenge: Option<Challenge>,
    /// Among those that wait.
    _place: OwnedSemaphorePermit,
}

impl Session<'_> {
    /// The server whose challenges are passed on, if there is one that speaks the protocol.
    pub(super) fn ntlm_server(&self) -> Option<ServerId> {
        let name = self.in_force.config.mail.ntlm_server.as_deref()?;
        let servers = self.in_force.organisation.topology.servers();
        let named = servers.iter().position(|server| server.name.eq_ignore_ascii_case(name)).map(ServerId);
        named.filter(|server| self.in_force.organisation.target(*server, self.protocol).is_some())
    }

    /// Takes the client's first message to the server; what comes back is its challenge.
    pub(super) async fn begin_ntlm(&mut self, message: Vec<u8>, tag: &[u8]) -> Result<(Passing, Vec<u8>), Refused> {
        self.logon_begins(Way::Ntlm);
        let organisation = self.in_force.organisation.clone();
        let attempt = self.in_force.shared.logons.attempt(None, None, self.client);
        if let Err(wait) = self.in_force.shared.logons.enter(attempt, &self.in_force.config.limits).await {
            return Err(self.refused(too_many(wait)));
        }
        let Ok(place) = self.mail.ntlm_waiting.clone().try_acquire_owned() else {
            return Err(self.refused(Refused::By(Denial::TooManySessions)));
        };
        let server = self.ntlm_server();
        let Some((server, target)) = server.and_then(|id| Some((id, organisation.target(id, self.protocol)?))) else {
            return Err(self.refused(Refused::By(Denial::ServerAway)));
        };
        let sign_in = if self.protocol == Protocol::Pop3 {
            SignIn::pop3_ntlm(message, target.start_tls)
        } else {
            SignIn::imap4_ntlm(message, tag.to_vec(), target.start_tls, target.peer.is_tls())
        };
        match self.sign_in_at(server, &target, sign_in).await {
            Came::Challenged(sitting, message) => {
                Ok((Passing { sitting, server, challenge: Challenge::read(&message), _place: place }, message))
            }
            Came::Away => Err(self.refused(Refused::By(Denial::ServerAway))),
            Came::Refused(words) => Err(self.refused(Refused::InOwnWords(words))), // of nobody yet
            Came::In(_) | Came::Failed => Err(self.refused(Refused::By(Denial::ServerFailed))),
        }
    }

    /// Takes the client's answer there, if it is the server of who they say they are.
    pub(super) async fn end_ntlm(&mut self, passing: Passing, message: &[u8]) -> Result<Opened, Refused> {
        let result = self.try_end_ntlm(passing, message).await;
        result.map_err(|refused| self.refused(refused))
    }

    /// The server judges first: so whoever does not convince it learns nothing, by words, time or count, of who lives where.
    async fn try_end_ntlm(&mut self, passing: Passing, message: &[u8]) -> Result<Opened, Refused> {
        let in_force = self.in_force.clone();
        let Passing { sitting, server, challenge, _place } = passing;
        let user = challenge.and_then(|challenge| Authenticate::read(message)?.user_answering(challenge).cloned());
        let attempt = in_force.shared.logons.attempt(user.as_ref(), None, self.client);
        let turn = in_force.shared.logons.enter(attempt, &in_force.config.limits).await;
        let _turn = turn.map_err(too_many)?;
        let guess = Guess::by(self, attempt, user.as_ref());
        let wrong = || Refused::By(Denial::WrongPassword);
        let (Some(user), Some(target)) = (user, in_force.organisation.target(server, self.protocol)) else {
            return Err(wrong());
        };
        self.story.claims(&user, None);
        let Came::In(opened) = self.answer_at(sitting, message, &target).await else { return Err(wrong()) };
        guess.was_right();
        self.story.proven(&user.to_string());
        let lookup = in_force.find(&user).await.map_err(|_| Refused::By(Denial::DirectoryAway))?;
        let decision = self.decide(&lookup);
        if self.leads_to(&decision, server) {
            return Ok(opened);
        }
        Err(Refused::By(Denial::of(&decision, self.protocol).unwrap_or(Denial::PasswordNeeded)))
    }

    /// Whether a mailbox is served by this server.
    fn leads_to(&self, decision: &Decision, server: ServerId) -> bool {
        let organisation = &self.in_force.organisation;
        match decision {
            Decision::BackEnd(home, _) => *home == server,
            Decision::Proxy(pool, _) => {
                let mut members = routing::members(*pool, &organisation.topology, &organisation.policy);
                members.any(|(member, _)| member == server)
            }
            Decision::LinkPage(..)
            | Decision::MovedDevice(..)
            | Decision::SameHost(..)
            | Decision::ConnectTo(..)
            | Decision::Refuse(_) => false,
        }
    }
}

/// Sign-ins of one thread that wait for their clients' answers at one time: nobody knows yet who these are.
pub(super) const WAITING_MAX: usize = 64;
