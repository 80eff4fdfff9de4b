//! The client's half of POP3 and IMAP4, with which the edge signs in at a server with what its own client has sent.
//!
//! As a [`Dialogue`](super::dialogue::Dialogue) it has no clock and no socket: a [`SignIn`] is given the bytes that come and
//! asked what to do [`next`](SignIn::next), until that is [`Step::Read`]. Bytes may come cut anywhere.
//!
//! A server's words are passed on as they are, unless it repeats the password in a refusal.

mod echoes;
mod imap4;
mod pop3;

use std::fmt;

use super::dialogue::{LINE_MAX_BYTES, Logon};
use imap4::Imap4;
use pop3::Pop3;

/// Signs in at a server.
pub struct SignIn {
    half: Half,
    input: Vec<u8>,
    /// Bytes of the lines that were heard.
    heard: usize,
    /// What is to be done before anything else is heard.
    pending: Option<Step>,
    stage: Stage,
}

enum Half {
    Pop3(Pop3),
    Imap4(Imap4),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The server says something.
    Hearing,
    /// TLS begins, and nobody has anything to say.
    BeginningTls,
    /// It has come to an end.
    Over,
}

/// Who signs in.
enum Credential {
    Password(Logon),
    /// The first message of Windows authentication.
    Ntlm(Vec<u8>),
}

/// What is to be done next.
pub enum Step {
    /// Nothing, until more bytes have come.
    Read,
    /// Send this to the server.
    Send(Vec<u8>),
    /// Begin TLS with the server, and say so by [`SignIn::tls_has_begun`].
    StartTls,
    /// The server's message of Windows authentication. The client's next is for [`SignIn::answer`].
    Challenge(Vec<u8>),
    /// Signed in: these words are for the client, and all that has come after them.
    SignedIn(Vec<u8>),
    /// The server says no, in these words: one line as the client gets it, its line end included, with the client's tag in
    /// IMAP4. The edge says no itself where the server could not be asked, which is the client's doing and not the server's.
    Refused(Vec<u8>),
    /// No sign-in comes of it, and that says nothing about the password.
    Failed(Failure),
}

/// Why no sign-in comes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It does not speak the protocol, or says goodbye, before anybody's name was sent to it.
    #[error("it says: {0}")]
    Words(Printable),
    /// It answers a logon by what is no answer, or by goodbye; who logs on may have had a hand in that.
    #[error("it answers a logon by: {0}")]
    Answer(Printable),
    /// It offers no TLS where the configuration wants it.
    #[error("it does not offer TLS")]
    NoTls,
    /// It takes no password without TLS.
    #[error("it takes no password without TLS")]
    TlsRequired,
    /// It does not offer what has to be used.
    #[error("it does not offer {0}")]
    NoMechanism(&'static str),
    /// It, or somebody else in its name, said more after it had agreed to TLS and before that began (CVE-2011-0411).
    #[error("it said more in clear after it had agreed to begin TLS")]
    BeforeTls,
    /// A line of it, or all it says, is longer than may be.
    #[error("it sent more than {0} bytes where that is too much")]
    TooLong(usize),
}

impl Failure {
    /// Whether it is the server's, whoever signs in: not what came of a logon, in which the client may have had a hand.
    pub fn is_of_server(&self) -> bool {
        match self {
            Failure::Words(_) | Failure::NoTls | Failure::TlsRequired | Failure::BeforeTls => true,
            Failure::Answer(_) | Failure::NoMechanism(_) | Failure::TooLong(_) => false,
        }
    }
}

/// What a server said, safe to print: bounded, printable, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable(pub String);

/// The most a server may say until it has let somebody in.
pub const HEARD_MAX_BYTES: usize = 64 * 1024;

impl SignIn {
    /// Signs in at an IMAP4 server: with TLS by command if `start_tls`, over a connection that `is_tls` already or not.
    pub fn imap4(logon: Logon, start_tls: bool, is_tls: bool) -> Self {
        let tag = logon.tag.clone();
        SignIn::by_imap4(Imap4::new(Credential::Password(logon), tag, start_tls, is_tls))
    }

    /// Signs in at a POP3 server.
    pub fn pop3(logon: Logon, start_tls: bool) -> Self {
        SignIn::by_pop3(Pop3::new(Credential::Password(logon), start_tls))
    }

    /// Passes on Windows authentication to an IMAP4 server, of which the client has sent its first message.
    pub fn imap4_ntlm(first: Vec<u8>, tag: Vec<u8>, start_tls: bool, is_tls: bool) -> Self {
        SignIn::by_imap4(Imap4::new(Credential::Ntlm(first), tag, start_tls, is_tls))
    }

    /// Passes on Windows authentication to a POP3 server, of which the client has sent its first message.
    pub fn pop3_ntlm(first: Vec<u8>, start_tls: bool) -> Self {
        SignIn::by_pop3(Pop3::new(Credential::Ntlm(first), start_tls))
    }

    fn by_imap4(half: Imap4) -> Self {
        SignIn::begin(half.unspeakable(), Half::Imap4(half))
    }

    fn by_pop3(half: Pop3) -> Self {
        SignIn::begin(half.unspeakable(), Half::Pop3(half))
    }

    fn begin(pending: Option<Step>, half: Half) -> Self {
        SignIn { half, input: Vec::new(), heard: 0, pending, stage: Stage::Hearing }
    }

    /// Takes bytes of the server's, no more than some thousand at a time; the next step is asked for before more are read.
    pub fn receive(&mut self, bytes: &[u8]) {
        match self.stage {
            Stage::Hearing => self.input.extend_from_slice(bytes),
            Stage::BeginningTls => self.pending = Some(Step::Failed(Failure::BeforeTls)),
            Stage::Over => {}
        }
    }

    /// What is to be done next.
    #[allow(clippy::should_implement_trait)] // no iterator: it never ends, and is called as a dialogue's is
    pub fn next(&mut self) -> Step {
        let step = self.pending.take().unwrap_or_else(|| self.hear());
        match step {
            Step::StartTls if !self.input.is_empty() => self.end(Step::Failed(Failure::BeforeTls)),
            Step::StartTls => {
                self.stage = Stage::BeginningTls;
                Step::StartTls
            }
            Step::SignedIn(mut words) => {
                words.append(&mut self.input);
                self.end(Step::SignedIn(words))
            }
            Step::Refused(_) | Step::Failed(_) => self.end(step),
            Step::Read | Step::Send(_) | Step::Challenge(_) => step,
        }
    }

    /// TLS has begun.
    pub fn tls_has_begun(&mut self) {
        if self.stage == Stage::BeginningTls {
            self.stage = Stage::Hearing;
            self.pending = Some(match &mut self.half {
                Half::Pop3(half) => half.tls_has_begun(),
                Half::Imap4(half) => half.tls_has_begun(),
            });
        }
    }

    /// The client's answer to a challenge.
    pub fn answer(&mut self, message: &[u8]) {
        if self.stage == Stage::Hearing {
            self.pending = Some(match &mut self.half {
                Half::Pop3(half) => half.answer(message),
                Half::Imap4(half) => half.answer(message),
            });
        }
    }

    /// What the server has said it offers, the last time that it did. A POP3 server is not asked.
    pub fn capabilities(&self) -> Option<&[String]> {
        match &self.half {
            Half::Pop3(_) => None,
            Half::Imap4(half) => half.capabilities(),
        }
    }

    fn hear(&mut self) -> Step {
        while self.stage == Stage::Hearing {
            let length = match self.input.iter().position(|byte| *byte == b'\n') {
                Some(end) => end + 1,
                None if self.input.len() < LINE_MAX_BYTES => return Step::Read,
                None => LINE_MAX_BYTES + 1, // its end comes later still
            };
            if length > LINE_MAX_BYTES {
                return Step::Failed(Failure::TooLong(LINE_MAX_BYTES));
            }
            self.heard += length;
            if self.heard > HEARD_MAX_BYTES {
                return Step::Failed(Failure::TooLong(HEARD_MAX_BYTES));
            }
            let line: Vec<u8> = self.input.drain(..length).collect();
            let step = match &mut self.half {
                Half::Pop3(half) => Some(half.hear(&line)),
                Half::Imap4(half) => half.hear(&line),
            };
            if let Some(step) = step {
                return step;
            }
        }
        Step::Read
    }

    fn end(&mut self, step: Step) -> Step {
        self.stage = Stage::Over;
        self.input = Vec::new();
        step
    }
}

/// A line without its end.
fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// SASL PLAIN's one message (RFC 4616).
fn plain(logon: &Logon) -> Vec<u8> {
    let authorize_as = logon.authorize_as.as_deref().unwrap_or_default();
    [authorize_as, b"\0", &logon.user, b"\0", logon.password.expose()].concat()
}

/// What a protocol has no way to say, whatever the server: bytes that end a line or a string.
fn is_unspeakable(logon: &Logon, bytes: &[u8]) -> bool {
    let authorize_as = logon.authorize_as.as_deref().unwrap_or_default();
    let said = [&logon.user[..], logon.password.expose(), authorize_as];
    said.into_iter().flatten().any(|byte| bytes.contains(byte))
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Read => f.write_str("Read"),
            Step::Send(_) => f.write_str("Send(<secret>)"), // it may be the password
            Step::StartTls => f.write_str("StartTls"),
            Step::Challenge(message) => write!(f, "Challenge({} bytes)", message.len()),
            Step::SignedIn(words) => write!(f, "SignedIn({} bytes)", words.len()),
            Step::Refused(words) => write!(f, "Refused({} bytes)", words.len()),
            Step::Failed(failure) => f.debug_tuple("Failed").field(failure).finish(),
        }
    }
}

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests;
