//! Who is told to wait: whoever guesses passwords, and devices that repeat themselves as fast as they can.

use std::time::{Duration, Instant};

use pingora_http::ResponseHeader;

use super::{
    Context,
    in_force::InForce,
    logons::Reached,
    pin::Carries,
    respond::{self, Denial},
    sender::network,
};
use crate::{
    events::Event,
    identity::{Credential, Facts, Identity, activesync},
    routing::protocol::Protocol,
};

impl InForce {
    /// Lets a request go on to the directory and the servers, or not.
    pub(super) fn restrain(&self, identity: &Identity, facts: &Facts<'_>, context: &mut Context) -> Result<(), Denial> {
        if facts.protocol == Protocol::ActiveSync {
            self.check_storm(identity, facts.query, context)?;
        }
        self.check_logon(&identity.credential, context)
    }

    /// A device that repeats itself as fast as it can is told to rest; that, devices understand.
    fn check_storm(&self, identity: &Identity, query: Option<&str>, context: &Context) -> Result<(), Denial> {
        const MINUTE: Duration = Duration::from_secs(60);
        let user = identity.credential.user();
        let device = query.and_then(activesync::device);
        if user.is_none() && device.is_none() {
            return Ok(()); // anybody's, who asks what can be had
        }
        // The client, too: nobody makes another's device rest by naming it.
        let whose = (user, &device, context.sender.ip.map(network));
        let (devices, max) = (&self.shared.devices, self.config.limits.activesync_requests_per_minute);
        let (device_key, now) = (devices.key(whose), context.story.started);
        let times = devices.count(device_key, now, MINUTE);
        if times <= max {
            return Ok(());
        }
        if times == max.saturating_add(1) {
            let user = user.map_or_else(|| "somebody".to_owned(), ToString::to_string);
            let device = device.as_deref().map_or("-".into(), String::from_utf8_lossy);
            let device: String = device.chars().filter(|letter| !letter.is_control()).take(64).collect();
            Event::RetryStorm.report(format_args!("the device {device} of {user} sent {times} requests in a minute"));
        }
        Err(Denial::TooManyRequests { retry_after: seconds(devices.reached(device_key, times, now, MINUTE)) })
    }

    /// Whether this credential is looked at, after all that failed before.
    fn check_logon(&self, credential: &Credential, context: &mut Context) -> Result<(), Denial> {
        let (Some(user), Some(client)) = (credential.user(), context.sender.ip) else { return Ok(()) };
        let attempt = self.shared.logons.attempt(user, client);
        let wait = self.shared.logons.refuses(attempt, &self.config.limits, context.story.started);
        if wait.is_some() {
            return Err(Denial::TooManyFailedLogons { retry_after: seconds(wait) });
        }
        context.attempt = Some(attempt);
        Ok(())
    }

    /// Remembers, before its client learns it, what a server's answer says about the password of a request.
    pub(super) fn note_answer(&self, answer: &ResponseHeader, context: &Context) {
        if answer.status == 401 {
            // A server that does not offer Basic has not looked at the password.
            if context.carries != Carries::PerRequest || respond::offers_basic(answer) {
                self.failed(context);
            }
        } else if context.story.proven.is_some() || answer.status.is_success() && context.says_password_is_right() {
            self.succeeded(context);
        }
    }

    /// The same of what the edge has found out itself.
    pub(super) fn note_own_answer(&self, context: &Context) {
        if context.story.denial == Some(Denial::WrongPassword) {
            self.failed(context);
        } else if context.story.proven.is_some() {
            self.succeeded(context);
        }
    }

    fn succeeded(&self, context: &Context) {
        if let Some(attempt) = context.attempt {
            self.shared.logons.succeeded(attempt);
        }
    }

    fn failed(&self, context: &Context) {
        let Some(attempt) = context.attempt else { return };
        let limits = &self.config.limits;
        match self.shared.logons.failed(attempt, limits, Instant::now()) {
            Some(Reached::User) => {
                let user = context.story.user.as_ref().map_or_else(|| "somebody".to_owned(), ToString::to_string);
                let max = limits.failed_logons_per_user;
                Event::FailedLogonsOfUser.report(format_args!("{max} logons of {user} have failed"));
            }
            Some(Reached::Client) => {
                let client = context.sender.ip.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
                let max = limits.failed_logons_per_client;
                Event::FailedLogonsOfClient.report(format_args!("{max} logons from {client} have failed"));
            }
            None => {}
        }
    }
}

fn seconds(wait: Option<Duration>) -> u16 {
    wait.map_or(0, |wait| u16::try_from(wait.as_secs()).unwrap_or(u16::MAX))
}

impl Context {
    /// Whether a server that has served the request must have looked at its password. Of a browser's paths some are open to
    /// everybody, the logon page for one.
    fn says_password_is_right(&self) -> bool {
        let is_for_programs = matches!(
            self.story.protocol,
            Some(Protocol::ActiveSync | Protocol::Ews | Protocol::OutlookAnywhere | Protocol::Mapi)
        );
        is_for_programs && self.carries == Carries::PerRequest
    }
}
