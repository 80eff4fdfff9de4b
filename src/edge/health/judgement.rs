//! What a virtual directory is asked for, and whether its answer is that of one that works.

use std::{borrow::Cow, time::Duration};

use crate::routing::{protocol::Protocol, version::Generation};

/// What came of asking, once a connection stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An answer with this status.
    Status(u16),
    /// None for so long.
    Silence(Duration),
    /// The connection ended, or what came over it is not HTTP.
    Nonsense,
}

/// Why a virtual directory should get no requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Illness {
    /// In words that follow its path.
    pub reason: String,
    /// It answers at once, if badly: where no other is left, what it says is better than nothing.
    pub answers: bool,
}

/// The path to ask for. Exchange 2013 and later have a page for it, which Managed Availability takes away from a virtual
/// directory that must not be used and which asks nobody who they are.
pub fn path(generation: Option<Generation>, protocol: Protocol) -> Cow<'static, str> {
    if generation == Some(Generation::Exchange2013) {
        return format!("{}/healthcheck.htm", protocol.directory_path()).into();
    }
    protocol.default_path().into()
}

/// Judges what came of asking for that path.
///
/// Before 2013 there is no such page. What answers by its own rules is there and at work: a challenge, a redirection to
/// the logon form, "403, SSL is required", and also 501 and 505, by which ActiveSync declines a GET.
pub fn judge(generation: Option<Generation>, answer: Answer) -> Result<(), Illness> {
    let ill = |reason: String, answers| Err(Illness { reason, answers });
    match (answer, generation) {
        (Answer::Status(200), _) => Ok(()),
        (Answer::Status(status), Some(Generation::Exchange2013)) => {
            ill(format!("was answered {status}, not 200"), true)
        }
        (Answer::Status(404), _) => ill("was not found (404)".to_owned(), true),
        (Answer::Status(501 | 505), _) => Ok(()),
        (Answer::Status(status @ 500..), _) => ill(format!("was answered {status}"), true),
        (Answer::Status(_), _) => Ok(()),
        (Answer::Silence(patience), _) => ill(format!("was not answered within {} ms", patience.as_millis()), false),
        (Answer::Nonsense, _) => ill("ended the connection without an answer of HTTP".to_owned(), false),
    }
}

#[cfg(test)]
mod tests {
    use Answer::{Nonsense, Silence, Status};
    use Generation::{Exchange2003, Exchange2007, Exchange2010, Exchange2013};

    use super::*;

    const SLOW: Answer = Silence(Duration::from_secs(5));

    #[test]
    fn each_generation_is_judged_by_what_it_answers() {
        let before_2013 = [Some(Exchange2003), Some(Exchange2007), Some(Exchange2010), None];
        for (answer, before, from_2013) in [
            (Status(200), "well", "well"),
            (Status(204), "well", "ill, but answers"),
            (Status(302), "well", "ill, but answers"),
            (Status(400), "well", "ill, but answers"),
            (Status(401), "well", "ill, but answers"),
            (Status(403), "well", "ill, but answers"),
            (Status(404), "ill, but answers", "ill, but answers"),
            (Status(405), "well", "ill, but answers"),
            (Status(440), "well", "ill, but answers"), // the forms' log-on time-out
            (Status(500), "ill, but answers", "ill, but answers"),
            (Status(501), "well", "ill, but answers"),
            (Status(502), "ill, but answers", "ill, but answers"),
            (Status(503), "ill, but answers", "ill, but answers"),
            (Status(505), "well", "ill, but answers"),
            (Status(599), "ill, but answers", "ill, but answers"),
            (SLOW, "ill", "ill"),
            (Nonsense, "ill", "ill"),
        ] {
            let said = |generation| match judge(generation, answer) {
                Ok(()) => "well",
                Err(Illness { answers: true, .. }) => "ill, but answers",
                Err(Illness { answers: false, .. }) => "ill",
            };
            for generation in before_2013 {
                assert_eq!(said(generation), before, "{generation:?} {answer:?}");
            }
            assert_eq!(said(Some(Exchange2013)), from_2013, "2013 {answer:?}");
        }
    }

    #[test]
    fn each_generation_is_asked_for_what_it_has() {
        for (generation, protocol, expected) in [
            (Some(Exchange2003), Protocol::LegacyOwa, "/exchange/"),
            (Some(Exchange2003), Protocol::ActiveSync, "/Microsoft-Server-ActiveSync"),
            (Some(Exchange2007), Protocol::Owa, "/owa/"),
            (Some(Exchange2007), Protocol::Ews, "/EWS/Exchange.asmx"),
            (Some(Exchange2010), Protocol::Ecp, "/ecp/"),
            (Some(Exchange2013), Protocol::Owa, "/owa/healthcheck.htm"),
            (Some(Exchange2013), Protocol::Mapi, "/mapi/healthcheck.htm"),
            (Some(Exchange2013), Protocol::OutlookAnywhere, "/rpc/healthcheck.htm"),
            (None, Protocol::Owa, "/owa/"),
        ] {
            assert_eq!(path(generation, protocol), expected, "{generation:?} {protocol}");
        }
    }

    #[test]
    fn the_reason_says_what_was_wrong() {
        for (generation, answer, reason) in [
            (Exchange2007, Status(503), "was answered 503"),
            (Exchange2007, Status(404), "was not found (404)"),
            (Exchange2013, Status(401), "was answered 401, not 200"),
            (Exchange2007, SLOW, "was not answered within 5000 ms"),
            (Exchange2013, Nonsense, "ended the connection without an answer of HTTP"),
        ] {
            assert_eq!(judge(Some(generation), answer).map_err(|illness| illness.reason), Err(reason.to_owned()));
        }
    }
}
