//! The SASL mechanisms of a mail client: PLAIN (RFC 4616), LOGIN (draft-murchison-sasl-login), NTLM ([MS-OXPOP3],
//! [MS-OXIMAP4]). What comes between the lines of either protocol is the same.
//!
//! ```text
//! PLAIN   C: authzid NUL name NUL password
//! LOGIN   S: Username:   C: name   S: Password:   C: password
//! NTLM    C: NEGOTIATE   S: CHALLENGE   C: AUTHENTICATE
//! ```
//!
//! Each message of the client may come with the command (the initial response); the server asks for the next one by a
//! challenge, which is empty where it has nothing to say. All are base64 (RFC 4648 section 4).

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::dialogue::{Logon, Terms, Way};
use crate::secret::Secret;

/// A way to log on over SASL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// Name and password in one message.
    Plain,
    /// Name and password in one message each.
    Login,
    /// Windows authentication, which a server behind judges.
    Ntlm,
}

impl Mechanism {
    /// What may be used now. NTLM sends no password, but what it sends is enough to guess one from, so it needs the
    /// [same terms](Terms::may_log_on).
    pub fn offered(terms: &Terms) -> impl Iterator<Item = Mechanism> {
        let is_offered =
            |mechanism: &Mechanism| terms.may_log_on() && (*mechanism != Mechanism::Ntlm || terms.offers_ntlm);
        [Mechanism::Plain, Mechanism::Login, Mechanism::Ntlm].into_iter().filter(is_offered)
    }

    /// The mechanism of this name, whether it is offered or not. Names are compared without case (RFC 4422 section 3.1).
    pub fn named(name: &[u8]) -> Option<Mechanism> {
        [Mechanism::Plain, Mechanism::Login, Mechanism::Ntlm]
            .into_iter()
            .find(|mechanism| mechanism.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// As IANA registers it.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Login => "LOGIN",
            Mechanism::Ntlm => "NTLM",
        }
    }
}

/// One client's logon by SASL. It is over when it says anything but [`Next::Challenge`] and [`Next::Ntlm`].
pub struct Exchange {
    awaits: Awaits,
}

enum Awaits {
    Plain,
    LoginName,
    LoginPassword {
        user: Vec<u8>,
    },
    /// So many messages have come.
    Ntlm(usize),
    Nothing,
}

/// What a message of the client's leads to.
pub enum Next {
    /// Ask for the next message by this challenge, which is in base64 or empty.
    Challenge(&'static str),
    /// Somebody logs on. The tag is left empty.
    LogOn(Logon),
    /// A message of Windows authentication. Whoever passes it on answers by [`encode`]d challenges.
    Ntlm(Vec<u8>),
    /// The client thinks better of it.
    Cancelled,
    /// This is no message of the mechanism.
    Malformed(Malformed),
}

/// Why a message cannot be read. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// RFC 4648 section 4, padding included.
    #[error("The answer is not base64.")]
    NotBase64,
    /// RFC 4616 section 2.
    #[error("The answer is not an authorization identity, a NUL, a name, a NUL and a password.")]
    NotPlain,
    /// A name with nothing in it.
    #[error("The name is empty.")]
    NoName,
    /// [MS-NLMP] has a NEGOTIATE and an AUTHENTICATE message.
    #[error("Windows authentication has two messages of the client's.")]
    TooManyMessages,
}

impl Exchange {
    /// Begins with what has come with the command: nothing, `=` for an empty message, or a message.
    pub fn begin(mechanism: Mechanism, initial: Option<&[u8]>) -> (Exchange, Next) {
        let (awaits, challenge) = match mechanism {
            Mechanism::Plain => (Awaits::Plain, ""),
            Mechanism::Login => (Awaits::LoginName, USERNAME),
            Mechanism::Ntlm => (Awaits::Ntlm(0), ""),
        };
        let mut exchange = Exchange { awaits };
        let next = match initial {
            None => Next::Challenge(challenge),
            Some(b"=") => exchange.take(Vec::new()),
            Some(message) => exchange.decode(message),
        };
        (exchange, next)
    }

    /// Goes on with a line of the client's, without its line end.
    pub fn go_on(&mut self, line: &[u8]) -> Next {
        if line == b"*" {
            self.awaits = Awaits::Nothing;
            return Next::Cancelled;
        }
        self.decode(line)
    }

    fn decode(&mut self, message: &[u8]) -> Next {
        match BASE64_STANDARD.decode(message) {
            Ok(message) => self.take(message),
            Err(_) => self.malformed(Malformed::NotBase64),
        }
    }

    fn take(&mut self, message: Vec<u8>) -> Next {
        match std::mem::replace(&mut self.awaits, Awaits::Nothing) {
            Awaits::Plain => plain(message).map_or_else(Next::Malformed, Next::LogOn),
            Awaits::LoginName if message.is_empty() => self.malformed(Malformed::NoName),
            Awaits::LoginName => {
                self.awaits = Awaits::LoginPassword { user: message };
                Next::Challenge(PASSWORD)
            }
            Awaits::LoginPassword { user } => Next::LogOn(logon(user, message, None, Way::Login)),
            Awaits::Ntlm(NTLM_MESSAGES) | Awaits::Nothing => self.malformed(Malformed::TooManyMessages),
            Awaits::Ntlm(messages) => {
                self.awaits = Awaits::Ntlm(messages + 1);
                Next::Ntlm(message)
            }
        }
    }

    fn malformed(&mut self, why: Malformed) -> Next {
        self.awaits = Awaits::Nothing;
        Next::Malformed(why)
    }
}

/// A challenge as it goes over the wire, without what the protocol writes before and after it.
pub fn encode(challenge: &[u8]) -> String {
    BASE64_STANDARD.encode(challenge)
}

/// RFC 4616 section 2: `[authzid] NUL authcid NUL passwd`. An empty password is let through: it is a wrong one, and is
/// answered and counted as such.
fn plain(mut message: Vec<u8>) -> Result<Logon, Malformed> {
    let mut parts = message.split(|byte| *byte == 0);
    let (Some(authorize_as), Some(user), Some(password), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Malformed::NotPlain);
    };
    if user.is_empty() {
        return Err(Malformed::NoName);
    }
    let is_another = !authorize_as.is_empty() && authorize_as != user;
    let (authorize_as, user) = (is_another.then(|| authorize_as.to_vec()), user.to_vec());
    let password = message.split_off(message.len() - password.len());
    Ok(logon(user, password, authorize_as, Way::Plain))
}

fn logon(user: Vec<u8>, password: Vec<u8>, authorize_as: Option<Vec<u8>>, way: Way) -> Logon {
    Logon { user, password: Secret::new(password), authorize_as, way, tag: Vec::new() }
}

/// `Username:` and `Password:`, as Exchange asks; the draft's own words differ, and no client reads either.
const USERNAME: &str = "VXNlcm5hbWU6";
const PASSWORD: &str = "UGFzc3dvcmQ6";
const NTLM_MESSAGES: usize = 2;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_is_one_message_with_the_command_or_after_it() {
        for initial in [true, false] {
            for (message, user, password, authorize_as) in [
                // The examples of RFC 4616 section 4.
                (&b"\0tim\0tanstaaftanstaaf"[..], &b"tim"[..], &b"tanstaaftanstaaf"[..], None),
                (b"Ursel\0Kurt\0xipj3plmq", b"Kurt", b"xipj3plmq", Some(&b"Ursel"[..])),
                (b"ana\0ana\0Pass-word1", b"ana", b"Pass-word1", None),
                (b"\0\xc3\xa9lodie\0p\xc3\xa1ss", b"\xc3\xa9lodie", b"p\xc3\xa1ss", None),
                (b"\0ana\0", b"ana", b"", None),
            ] {
                let message = encode(message);
                let next = if initial {
                    Exchange::begin(Mechanism::Plain, Some(message.as_bytes())).1
                } else {
                    let (mut exchange, next) = Exchange::begin(Mechanism::Plain, None);
                    assert_eq!(shown(next), "challenge ");
                    exchange.go_on(message.as_bytes())
                };
                let Next::LogOn(logon) = next else { panic!("{message} is no logon") };
                assert_eq!((&logon.user[..], logon.password.expose()), (user, password));
                assert_eq!((logon.authorize_as.as_deref(), logon.way), (authorize_as, Way::Plain));
            }
        }
    }

    #[test]
    fn login_asks_for_the_name_and_then_for_the_password() {
        let (mut exchange, next) = Exchange::begin(Mechanism::Login, None);
        assert_eq!(shown(next), "challenge VXNlcm5hbWU6");
        assert_eq!(shown(exchange.go_on(b"YW5h")), "challenge UGFzc3dvcmQ6");
        assert_eq!(shown(exchange.go_on(b"UGFzcy13b3JkMQ==")), "Login ana Pass-word1");

        let (mut exchange, next) = Exchange::begin(Mechanism::Login, Some(b"YW5h"));
        assert_eq!(shown(next), "challenge UGFzc3dvcmQ6");
        assert_eq!(shown(exchange.go_on(b"UGFzcy13b3JkMQ==")), "Login ana Pass-word1");
    }

    #[test]
    fn windows_authentication_is_passed_on_to_its_second_message_and_no_further() {
        let (mut exchange, next) = Exchange::begin(Mechanism::Ntlm, None);
        assert_eq!(shown(next), "challenge ");
        assert_eq!(shown(exchange.go_on(b"TlRMTQE=")), "ntlm TlRMTQE=");
        assert_eq!(shown(exchange.go_on(b"TlRMTQM=")), "ntlm TlRMTQM=");
        assert_eq!(shown(exchange.go_on(b"TlRMTQM=")), "Windows authentication has two messages of the client's.");
        let (_, next) = Exchange::begin(Mechanism::Ntlm, Some(b"TlRMTQE="));
        assert_eq!(shown(next), "ntlm TlRMTQE=");
    }

    #[test]
    fn what_is_no_message_is_refused_with_the_reason() {
        let (not_base64, not_plain) = (Malformed::NotBase64.to_string(), Malformed::NotPlain.to_string());
        let no_name = Malformed::NoName.to_string();
        for (mechanism, initial, refusal) in [
            (Mechanism::Plain, &b"AGFuYQBQYXNzLXdvcmQx"[..], "Plain ana Pass-word1"),
            (Mechanism::Plain, b"AGFuYQBQYXNzLXdvcmQ", &not_base64), // padding left out
            (Mechanism::Plain, b"AGFuYQBQYXNzLXdvcmR=", &not_base64), // bits behind the end
            (Mechanism::Plain, b"AGFu YQBQYXNzLXdvcmQx", &not_base64),
            (Mechanism::Plain, b"AGFu-_BQYXNzLXdvcmQx", &not_base64),
            (Mechanism::Plain, b"*", &not_base64), // cancels only where a challenge was
            (Mechanism::Plain, b"==", &not_base64),
            (Mechanism::Plain, b"=", &not_plain),
            (Mechanism::Plain, b"YW5h", &not_plain),
            (Mechanism::Plain, b"AGFuYQ==", &not_plain),
            (Mechanism::Plain, b"AGFuYQBhAGI=", &not_plain), // a NUL in the password
            (Mechanism::Plain, b"AAA=", &no_name),
            (Mechanism::Login, b"=", &no_name),
            (Mechanism::Ntlm, b"=", "ntlm "),
        ] {
            let (_, next) = Exchange::begin(mechanism, Some(initial));
            assert_eq!(shown(next), *refusal, "{mechanism:?} {}", initial.escape_ascii());
        }
    }

    #[test]
    fn a_client_may_think_better_of_it_whenever_it_is_asked() {
        for mechanism in [Mechanism::Plain, Mechanism::Login, Mechanism::Ntlm] {
            let (mut exchange, _) = Exchange::begin(mechanism, None);
            assert_eq!(shown(exchange.go_on(b"*")), "cancelled");
        }
        let (mut exchange, _) = Exchange::begin(Mechanism::Login, Some(b"YW5h"));
        assert_eq!(shown(exchange.go_on(b"*")), "cancelled");
    }

    #[test]
    fn only_what_the_terms_allow_is_offered() {
        for (is_tls, allow_plain_logon, offers_ntlm, offered) in [
            (false, false, true, ""),
            (false, true, false, "PLAIN LOGIN"),
            (true, false, false, "PLAIN LOGIN"),
            (true, false, true, "PLAIN LOGIN NTLM"),
        ] {
            let terms = Terms {
                host: "mail.contoso.com".into(),
                is_tls,
                may_start_tls: true,
                allow_plain_logon,
                offers_ntlm,
                capabilities: Arc::default(),
            };
            let names: Vec<_> = Mechanism::offered(&terms).map(Mechanism::name).collect();
            assert_eq!(names.join(" "), offered);
        }
        assert_eq!(Mechanism::named(b"plain"), Some(Mechanism::Plain));
        assert_eq!(Mechanism::named(b"GSSAPI"), None);
    }

    proptest! {
        #[test]
        fn what_a_client_encodes_is_what_is_read(
            authorize_as in no_nul(0), user in no_nul(1), password in no_nul(0),
        ) {
            let message = [&authorize_as[..], &user, &password].join(&0);
            let (_, next) = Exchange::begin(Mechanism::Plain, Some(encode(&message).as_bytes()));
            let Next::LogOn(logon) = next else { return Err(TestCaseError::fail("no logon")) };
            let another = Some(authorize_as).filter(|name| !name.is_empty() && *name != user);
            prop_assert_eq!((logon.user, logon.password.expose()), (user, &password[..]));
            prop_assert_eq!(logon.authorize_as, another);
        }

        #[test]
        fn no_line_makes_it_panic_or_go_on_for_ever(
            kind in 0..3_usize,
            initial in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
            lines in prop::collection::vec(prop_oneof![Just(b"YW5h".to_vec()), prop::collection::vec(any::<u8>(), 0..40)], 4),
        ) {
            let mechanism = [Mechanism::Plain, Mechanism::Login, Mechanism::Ntlm][kind];
            let (mut exchange, mut next) = Exchange::begin(mechanism, initial.as_deref());
            for line in lines {
                next = exchange.go_on(&line);
            }
            prop_assert!(!matches!(next, Next::Challenge(_) | Next::LogOn(_) | Next::Ntlm(_)));
        }
    }

    fn no_nul(length_min: usize) -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(1..=u8::MAX, length_min..20)
    }

    fn shown(next: Next) -> String {
        match next {
            Next::Challenge(challenge) => format!("challenge {challenge}"),
            Next::LogOn(Logon { user, password, way, .. }) => {
                format!("{way:?} {} {}", user.escape_ascii(), password.expose().escape_ascii())
            }
            Next::Ntlm(message) => format!("ntlm {}", encode(&message)),
            Next::Cancelled => "cancelled".into(),
            Next::Malformed(why) => why.to_string(),
        }
    }
}
