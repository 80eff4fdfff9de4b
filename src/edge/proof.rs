//! Whether a server's answer proves that the client is who its NTLM message says.
//!
//! The edge cannot check the message; the server that challenged can. But an answer other than 401 is not always a
//! verdict: a server may serve a path to anybody, and it may find fault with a request before it looks at who sends it.
//! So a stranger could send a message with somebody's name where it is not looked at, and be taken for them.

use std::hash::{BuildHasher, RandomState};

use http::{HeaderMap, Method, Uri};

use super::{hygiene::is_forged, pin::Challenged};
use crate::identity::ntlm;

/// Whether `message`, sent with request number `asked` and answered by `status`, was accepted by the server that had
/// challenged.
///
/// - The very same request must have been challenged before, on the same connection: a path that is open to all is not.
/// - The challenge must be NTLM's, and its character set the message's: otherwise the server may have read another name.
/// - The status must be one that comes after the check: not one for a fault in the request's form or size (400, 413,
///   IIS's 404.13), not one for where it comes from or how often (403), and not a failure of the server.
pub fn proves(challenged: Option<&Challenged>, asked: u64, message: &ntlm::Authenticate, status: u16) -> bool {
    let Some(Challenged { asked: challenged, ntlm: Some(challenge) }) = challenged else { return false };
    *challenged == asked && message.user_answering(*challenge).is_some() && matches!(status, 200..=399)
}

/// Numbers requests: one that is asked again gets the same number, and nobody can find another that does.
#[derive(Clone, Default)]
pub struct Numbers(RandomState);

impl Numbers {
    /// The number of a request: its method, its target, and all fields but those in which the legs of a handshake differ.
    /// Another `Host`, or an `Origin`, could be answered by something that does not ask who sends it.
    pub fn number(&self, method: &Method, target: &Uri, fields: &HeaderMap) -> u64 {
        let line = self.0.hash_one((method, target.path(), target.query()));
        let counts = |name: &str| !DIFFER.contains(&name) && !is_forged(name); // a forged one never reaches a server
        let fields = fields.iter().filter(|(name, _)| counts(name.as_str()));
        fields.map(|field| self.0.hash_one(field)).fold(line, u64::wrapping_add) // in any order
    }
}

/// Fields in which a client's messages of one handshake differ: the first is often sent without its body, and the
/// challenge may set a cookie. Or they are the connection's own and reach no server.
const DIFFER: [&str; 11] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "expect",
    "keep-alive",
    "proxy-connection",
    "te",
    "transfer-encoding",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::MailboxName;

    const UNICODE: ntlm::Challenge = ntlm::Challenge { unicode: true };
    const BEFORE: Challenged = Challenged { asked: 7, ntlm: Some(UNICODE) };

    fn message() -> ntlm::Authenticate {
        ntlm::Authenticate {
            user: Some(MailboxName::Bare("carla".into())),
            unreadable_name: None,
            workstation: String::new(),
            flags: 1, // NTLMSSP_NEGOTIATE_UNICODE
            channel_bindings: false,
        }
    }

    #[test]
    fn a_server_that_challenged_and_then_answers_has_judged_the_message() {
        for status in [200, 204, 302] {
            assert!(proves(Some(&BEFORE), 7, &message(), status), "{status}");
        }
    }

    #[test]
    fn an_answer_that_may_come_before_the_check_proves_nothing() {
        for status in [100, 400, 401, 403, 404, 408, 411, 413, 414, 417, 429, 431, 500, 502, 503] {
            assert!(!proves(Some(&BEFORE), 7, &message(), status), "{status}");
        }
    }

    #[test]
    fn a_request_that_is_asked_again_has_its_number_and_no_other_has() {
        let numbers = Numbers::default();
        let number = |method: &Method, target: &'static str, fields: &[(&'static str, &'static str)]| {
            let field = |(name, value): &(&'static str, &'static str)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
            };
            numbers.number(method, &Uri::from_static(target), &fields.iter().map(field).collect())
        };
        let asked = number(&Method::POST, "/EWS/Exchange.asmx?a", &[("host", "mail"), ("content-length", "0")]);
        for (method, target, fields, is_same) in [
            (
                Method::POST,
                "/EWS/Exchange.asmx?a",
                &[("content-length", "9"), ("expect", "100-continue"), ("host", "mail")][..],
                true,
            ),
            (Method::POST, "/EWS/Exchange.asmx?a", &[("host", "other")], false),
            (Method::POST, "/EWS/Exchange.asmx?a", &[("host", "mail"), ("origin", "https://contoso.com")], false),
            (Method::OPTIONS, "/EWS/Exchange.asmx?a", &[("host", "mail")], false),
            (Method::POST, "/EWS/Exchange.asmx?b", &[("host", "mail")], false),
            (Method::POST, "/EWS/exchange.asmx?a", &[("host", "mail")], false),
        ] {
            assert_eq!(number(&method, target, fields) == asked, is_same, "{method} {target} {fields:?}");
        }
    }

    #[test]
    fn a_message_that_answers_no_challenge_of_this_request_proves_nothing() {
        assert!(!proves(None, 7, &message(), 200), "no challenge at all");
        assert!(!proves(Some(&BEFORE), 8, &message(), 200), "another request was challenged");
        assert!(!proves(Some(&Challenged { ntlm: None, ..BEFORE }), 7, &message(), 200), "another mechanism's");
        let oem = ntlm::Challenge { unicode: false };
        assert!(!proves(Some(&Challenged { ntlm: Some(oem), ..BEFORE }), 7, &message(), 200), "another character set");
    }
}
