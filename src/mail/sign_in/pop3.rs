//! POP3 (RFC 1939, RFC 2595, RFC 5034) as a client speaks it, until somebody is signed in.
//!
//! The server is not asked what it offers: what it has not got it says when it is told to use it.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::{Credential, Failure, Step, echoes::Echoes, is_unspeakable, plain, without_end};

pub(super) struct Pop3 {
    credential: Credential,
    start_tls: bool,
    awaits: Awaits,
    echoes: Echoes,
}

enum Awaits {
    Greeting,
    /// The answer to `STLS`.
    Tls,
    /// The answer to `USER`.
    User,
    /// Whether it has the mechanism: then this line goes to it.
    Mechanism(Vec<u8>),
    /// Its message of Windows authentication.
    Challenge,
    /// Nothing: the client is to answer its message.
    Client,
    /// The answer to the password, or to the last message.
    Logon,
}

impl Pop3 {
    pub(super) fn new(credential: Credential, start_tls: bool) -> Self {
        let echoes = match &credential {
            Credential::Password(logon) => Echoes::of(logon.password.expose()),
            Credential::Ntlm(_) => Echoes::of(b""),
        };
        Pop3 { credential, start_tls, awaits: Awaits::Greeting, echoes }
    }

    /// A refusal of what no POP3 server can be told.
    pub(super) fn unspeakable(&self) -> Option<Step> {
        let Credential::Password(logon) = &self.credential else { return None };
        let words = b"-ERR [AUTH] POP3 has no way to say this name or this password\r\n";
        is_unspeakable(logon, b"\0\r\n").then(|| Step::Refused(words.to_vec()))
    }

    pub(super) fn hear(&mut self, line: &[u8]) -> Step {
        let said = without_end(line);
        let is_ok = is_status(said, b"+OK");
        let is_no = is_status(said, b"-ERR");
        let more = said.strip_prefix(b"+").filter(|rest| rest.is_empty() || rest.starts_with(b" "));
        match std::mem::replace(&mut self.awaits, Awaits::Logon) {
            Awaits::Greeting if is_ok && self.start_tls => {
                self.awaits = Awaits::Tls;
                Step::Send(b"STLS\r\n".to_vec())
            }
            Awaits::Greeting if is_ok => self.log_on(),
            Awaits::Tls if is_ok => Step::StartTls,
            Awaits::Tls if is_no => Step::Failed(Failure::NoTls),
            Awaits::Greeting | Awaits::Tls => Step::Failed(Failure::Words(self.echoes.printable(said))),
            Awaits::User if is_ok => self.password(),
            Awaits::Mechanism(message) if more.is_some() => {
                self.awaits = match self.credential {
                    Credential::Password(_) => Awaits::Logon,
                    Credential::Ntlm(_) => Awaits::Challenge,
                };
                Step::Send(message)
            }
            Awaits::Mechanism(_) if is_no => self.no_mechanism(),
            Awaits::Challenge if more.is_some_and(|more| BASE64_STANDARD.decode(more.trim_ascii()).is_ok()) => {
                self.awaits = Awaits::Client;
                let message = BASE64_STANDARD.decode(more.unwrap_or_default().trim_ascii());
                Step::Challenge(message.unwrap_or_default())
            }
            Awaits::Logon if is_ok => Step::SignedIn(line.to_vec()),
            Awaits::User | Awaits::Challenge | Awaits::Logon if is_no => {
                Step::Refused([&self.echoes.remove_from(said)[..], b"\r\n"].concat())
            }
            Awaits::User | Awaits::Mechanism(_) | Awaits::Challenge | Awaits::Client | Awaits::Logon => {
                Step::Failed(Failure::Answer(self.echoes.printable(said)))
            }
        }
    }

    pub(super) fn tls_has_begun(&mut self) -> Step {
        self.log_on()
    }

    pub(super) fn answer(&mut self, message: &[u8]) -> Step {
        self.echoes.add(message);
        self.awaits = Awaits::Logon;
        Step::Send(format!("{}\r\n", BASE64_STANDARD.encode(message)).into_bytes())
    }

    fn log_on(&mut self) -> Step {
        let (mechanism, message) = match &self.credential {
            Credential::Password(logon) if logon.authorize_as.is_none() => {
                self.awaits = Awaits::User;
                return Step::Send([b"USER ", &logon.user[..], b"\r\n"].concat());
            }
            Credential::Password(logon) => ("PLAIN", plain(logon)),
            Credential::Ntlm(first) => ("NTLM", first.clone()),
        };
        self.echoes.add(&message);
        self.awaits = Awaits::Mechanism(format!("{}\r\n", BASE64_STANDARD.encode(message)).into_bytes());
        Step::Send(format!("AUTH {mechanism}\r\n").into_bytes())
    }

    fn password(&self) -> Step {
        match &self.credential {
            Credential::Password(logon) => Step::Send([b"PASS ", logon.password.expose(), b"\r\n"].concat()),
            Credential::Ntlm(_) => Step::Failed(Failure::NoMechanism("NTLM")),
        }
    }

    fn no_mechanism(&self) -> Step {
        match self.credential {
            Credential::Password(_) => {
                Step::Refused(b"-ERR [SYS/PERM] the server cannot be told whose mailbox is meant\r\n".to_vec())
            }
            Credential::Ntlm(_) => Step::Failed(Failure::NoMechanism("NTLM")),
        }
    }
}

/// Whether a line begins by this word, which RFC 1939 wants in capitals.
fn is_status(line: &[u8], status: &[u8]) -> bool {
    line.strip_prefix(status).is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b' '))
}
