//! Who is told to wait: whoever guesses passwords, and devices that repeat themselves as fast as they can.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use http::Method;
use parking_lot::Mutex;
use pingora_http::ResponseHeader;

use super::{
    Context,
    course::unreadable,
    in_force::InForce,
    logons::{Attempt, Turn},
    pin::Carries,
    respond::{self, Denial},
    sender::network,
};
use crate::{
    events::Event,
    identity::{Credential, Facts, Identity, MailboxName, activesync},
    routing::protocol::Protocol,
};

/// The name and password, or proof of one, that a request brings.
pub(super) struct Credentials {
    attempt: Attempt,
    /// Whether a server that has served the request must have looked at its password.
    is_proven_by_success: bool,
    /// Until it is judged.
    turn: Mutex<Option<Turn>>,
}

impl InForce {
    /// Lets a request go on to the directory and the servers, or not.
    pub(super) async fn restrain(
        &self,
        identity: &Identity,
        facts: &Facts<'_>,
        method: &Method,
        context: &mut Context,
    ) -> Result<(), Denial> {
        if facts.protocol == Protocol::ActiveSync {
            self.check_storm(identity, facts.query, context)?;
        }
        let is_telling = method != Method::OPTIONS && asks_for_password(facts.protocol, facts.path);
        self.check_logon(&identity.credential, is_telling, context).await
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
    pub(super) async fn check_logon(
        &self,
        credential: &Credential,
        is_telling: bool,
        context: &mut Context,
    ) -> Result<(), Denial> {
        let (user, Some(client)) = (credential.user(), context.sender.ip) else { return Ok(()) };
        if user.is_none() && unreadable(credential).is_none() {
            return Ok(());
        }
        let password = match credential {
            Credential::Basic { password, .. } => Some(password),
            Credential::None | Credential::Bearer | Credential::ConnectionBound(_) | Credential::Unreadable(_) => None,
        };
        let attempt = self.shared.logons.attempt(user, password, client);
        let turn = match context.is_by_form {
            true => Ok(None), // what the edge has sealed itself is no guess, and the guesses of others do not end it
            false => self.shared.logons.enter(attempt, &self.config.limits).await,
        };
        match turn {
            Ok(turn) => {
                let is_proven_by_success = password.is_some() && is_telling;
                context.attempt = Some(Credentials { attempt, is_proven_by_success, turn: Mutex::new(turn) });
                Ok(())
            }
            Err(wait) => Err(Denial::TooManyFailedLogons { retry_after: seconds(Some(wait)) }),
        }
    }

    /// Remembers, before its client learns it, what a server's answer says about the password of a request.
    pub(super) fn note_answer(&self, answer: &ResponseHeader, context: &Context) {
        if answer.status == 401 {
            // A server that does not offer Basic has not looked at the password.
            if context.carries != Carries::PerRequest || respond::offers_basic(answer) {
                self.failed(context);
            }
        } else if context.story.proven.is_some() || answer.status.is_success() && context.is_proven_by_success() {
            self.succeeded(context);
        }
        context.is_judged();
    }

    /// The same of what the edge has found out itself.
    pub(super) fn note_own_answer(&self, context: &Context) {
        if context.story.denial == Some(Denial::WrongPassword) {
            self.failed(context);
        } else if context.story.proven.is_some() {
            self.succeeded(context);
        }
        context.is_judged();
    }

    fn succeeded(&self, context: &Context) {
        if let Some(credentials) = &context.attempt {
            self.shared.logons.succeeded(credentials.attempt);
        }
    }

    fn failed(&self, context: &Context) {
        let Some(credentials) = &context.attempt else { return };
        self.count_failed(credentials.attempt, context.story.user.as_ref(), context.sender.ip);
    }

    /// Counts a logon that has failed, and tells of limits that it reaches.
    pub(crate) fn count_failed(&self, attempt: Attempt, user: Option<&MailboxName>, client: Option<IpAddr>) {
        let limits = &self.config.limits;
        let reached = self.shared.logons.failed(attempt, limits, Instant::now());
        if reached.user {
            let user = user.map_or_else(|| "somebody".to_owned(), ToString::to_string);
            let max = limits.failed_logons_per_user;
            Event::FailedLogonsOfUser.report(format_args!("{max} logons of {user} have failed"));
        }
        if reached.client {
            let client = client.map_or_else(|| "-".to_owned(), |ip| ip.to_string());
            let max = limits.failed_logons_per_client;
            Event::FailedLogonsOfClient.report(format_args!("{max} logons from {client} have failed"));
        }
    }
}

/// Whole seconds, rounded up: who comes when they are over comes in time.
pub(crate) fn seconds(wait: Option<Duration>) -> u16 {
    wait.map_or(0, |wait| u16::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u16::MAX))
}

/// Whether this is the end point of a protocol for programs, which serves nobody whose password it has not looked at. What
/// lies beside may be open to everybody: `healthcheck.htm` is, and so is the logon page among a browser's paths.
fn asks_for_password(protocol: Protocol, path: &str) -> bool {
    let path = path.strip_suffix('/').unwrap_or(path);
    let end_points: &[&str] = match protocol {
        Protocol::ActiveSync => &["/Microsoft-Server-ActiveSync"],
        Protocol::Ews => &["/EWS/Exchange.asmx"],
        Protocol::OutlookAnywhere => &["/rpc/rpcproxy.dll"],
        Protocol::Mapi => &["/mapi/emsmdb", "/mapi/nspi"],
        Protocol::Root
        | Protocol::Owa
        | Protocol::LegacyOwa
        | Protocol::Ecp
        | Protocol::Autodiscover
        | Protocol::Oab
        | Protocol::Pop3
        | Protocol::Imap4
        | Protocol::Opened => &[],
    };
    end_points.iter().any(|end_point| path.eq_ignore_ascii_case(end_point))
}

impl Context {
    fn is_proven_by_success(&self) -> bool {
        self.attempt.as_ref().is_some_and(|credentials| credentials.is_proven_by_success)
    }

    /// The answer is there: the next attempt may go on.
    fn is_judged(&self) {
        if let Some(credentials) = &self.attempt {
            drop(credentials.turn.lock().take());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_protocols_own_end_point_asks_everybody_for_a_password() {
        for (protocol, path, asks) in [
            (Protocol::Ews, "/ews/exchange.asmx", true),
            (Protocol::Ews, "/EWS/healthcheck.htm", false),
            (Protocol::Ews, "/EWS/Exchange.asmx/healthcheck.htm", false),
            (Protocol::ActiveSync, "/microsoft-server-activesync/", true),
            (Protocol::ActiveSync, "/Microsoft-Server-ActiveSync/healthcheck.htm", false),
            (Protocol::OutlookAnywhere, "/rpc/RpcProxy.dll", true),
            (Protocol::OutlookAnywhere, "/rpc/healthcheck.htm", false),
            (Protocol::Mapi, "/mapi/emsmdb/", true),
            (Protocol::Mapi, "/mapi/nspi", true),
            (Protocol::Mapi, "/mapi/emsmdb/healthcheck.htm", false),
            (Protocol::Owa, "/owa/", false),
        ] {
            assert_eq!(asks_for_password(protocol, path), asks, "{path}");
        }
    }

    #[test]
    fn who_waits_as_long_as_told_comes_in_time() {
        let millis = [None, Some(1), Some(1000), Some(1001), Some(u64::MAX)];
        assert_eq!(millis.map(|millis| seconds(millis.map(Duration::from_millis))), [0, 1, 1, 2, u16::MAX]);
    }
}
