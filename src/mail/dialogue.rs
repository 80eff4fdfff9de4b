//! What POP3 and IMAP4 have in common before the logon, as the edge speaks them to a client.
//!
//! A [`Dialogue`] is given the bytes that come and asked what to do [`next`](Dialogue::next), until that is
//! [`Step::Read`]. It has no clock and no socket. Bytes may come cut anywhere; what it says does not depend on where.

use std::{fmt, sync::Arc};

use crate::secret::Secret;

/// What a client meets with before it has logged on.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // each is a fact of its own
pub struct Terms {
    /// The name in the greeting, such as `mail.contoso.com`.
    pub host: Arc<str>,
    /// Whether the connection is under TLS already.
    pub is_tls: bool,
    /// Whether TLS can begin by a command.
    pub may_start_tls: bool,
    /// Whether a password may be sent without TLS.
    pub allow_plain_logon: bool,
    /// Whether Windows authentication (`NTLM`) can be passed on.
    pub offers_ntlm: bool,
    /// What every server behind offers besides, such as `IDLE` and `LITERAL+`; the client may not ask again after its logon.
    pub capabilities: Arc<[String]>,
}

impl Terms {
    /// Whether a password may be sent now.
    pub fn may_log_on(&self) -> bool {
        self.is_tls || self.allow_plain_logon
    }

    /// Whether TLS can begin now.
    pub fn may_begin_tls(&self) -> bool {
        self.may_start_tls && !self.is_tls
    }
}

/// What is to be done next.
pub enum Step {
    /// Nothing, until more bytes have come.
    Read,
    /// Send this.
    Send(Vec<u8>),
    /// Send this, then begin TLS and say so by [`Dialogue::tls_has_begun`]. What came in clear after the command is thrown
    /// away: it may be somebody else's (RFC 3501 section 6.2.1, RFC 2595 section 4, CVE-2011-0411).
    StartTls(Vec<u8>),
    /// Judge this. Then either [`Dialogue::refuse`], or the dialogue is over and the rest is the server's.
    LogOn(Logon),
    /// A message of Windows authentication; the first begins it. Answer by [`Dialogue::challenge`], [`Dialogue::refuse`], or
    /// let the server go on.
    Ntlm(Vec<u8>),
    /// Send this and close.
    End(Vec<u8>, End),
}

/// What a client has sent may be guessed a password from.
impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Read => f.write_str("Read"),
            Step::Send(words) => write!(f, "Send({})", words.escape_ascii()),
            Step::StartTls(words) => write!(f, "StartTls({})", words.escape_ascii()),
            Step::LogOn(logon) => write!(f, "{logon:?}"),
            Step::Ntlm(_) => f.write_str("Ntlm(<secret>)"),
            Step::End(words, why) => write!(f, "End({}, {why:?})", words.escape_ascii()),
        }
    }
}

/// Why a dialogue is over before anybody has logged on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said so.
    Goodbye,
    /// A line, a literal or a message was longer than may be.
    TooLong,
    /// Too many commands without a logon.
    TooManyCommands,
    /// Too many commands that are none.
    TooManyMistakes,
    /// Too many logons were refused.
    TooManyLogons,
}

/// Somebody logs on.
#[derive(Clone, Debug)]
pub struct Logon {
    /// The name as the client wrote it, whatever its encoding.
    pub user: Vec<u8>,
    /// The password.
    pub password: Secret,
    /// The authorization identity of SASL PLAIN (RFC 4616) where it is another than the name: whose mailbox is meant.
    pub authorize_as: Option<Vec<u8>>,
    /// How the client has said it, for the access log.
    pub way: Way,
    /// The tag of IMAP4's command, which the server's answer must bear. Empty in POP3.
    pub tag: Vec<u8>,
}

/// How a client logs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `USER` and `PASS`, or `LOGIN`.
    Command,
    /// SASL PLAIN (RFC 4616).
    Plain,
    /// SASL LOGIN (draft-murchison-sasl-login).
    Login,
    /// SASL NTLM ([MS-POP3], [MS-OXIMAP4]).
    Ntlm,
}

/// Why a logon is refused, in one line of printable ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// IMAP4's response code (RFC 5530) without brackets, such as `AUTHENTICATIONFAILED`; POP3's (RFC 3206) is told by it.
    pub code: Option<&'static str>,
    /// For the user, without line ends.
    pub text: String,
}

impl Words {
    /// POP3's response code (RFC 3206), without brackets, where it has one for this: `AUTH` if other credentials are needed,
    /// else whether waiting helps.
    pub fn pop3_code(&self) -> Option<&'static str> {
        match self.code? {
            "AUTHENTICATIONFAILED" | "AUTHORIZATIONFAILED" | "EXPIRED" => Some("AUTH"),
            "UNAVAILABLE" => Some("SYS/TEMP"),
            "CONTACTADMIN" | "SERVERBUG" | "CANNOT" => Some("SYS/PERM"),
            _ => None,
        }
    }
}

/// The edge's half of a protocol, until somebody has logged on.
pub trait Dialogue: Send {
    /// The first thing the client is told.
    fn greeting(&self) -> Vec<u8>;
    /// Takes bytes of the client's. They are bounded by [`INPUT_MAX_BYTES`]: whoever drives it reads no more at a time, and
    /// asks for the next step before it reads again.
    fn receive(&mut self, bytes: &[u8]);
    /// What is to be done next.
    fn next(&mut self) -> Step;
    /// TLS has begun; everything begins anew.
    fn tls_has_begun(&mut self);
    /// The server's message of Windows authentication, as the client is told it.
    fn challenge(&mut self, message: &[u8]) -> Vec<u8>;
    /// The logon is refused; the dialogue goes on, or ends by its next step.
    fn refuse(&mut self, words: &Words) -> Vec<u8>;
    /// The tag of the logon's command, which the server's answer must bear. Empty in POP3.
    fn tag(&self) -> &[u8];
    /// What has come after the logon, for the server. The dialogue is over.
    fn rest(&mut self) -> Vec<u8>;
}

/// The longest command line before the logon, its end included. RFC 7162 section 4 and RFC 9051 recommend 8,192; a ticket or
/// an NTLM message in base64 fits.
pub const LINE_MAX_BYTES: usize = 8192;
/// The longest literal: a name or a password.
pub const LITERAL_MAX_BYTES: usize = 4096;
/// The most that is read at a time.
pub const INPUT_MAX_BYTES: usize = 4096;
/// Commands before the logon; the next one ends it. A client needs some five.
pub const COMMANDS_MAX: u32 = 50;
/// Commands that are none, among them; the next such ends it.
pub const MISTAKES_MAX: u32 = 10;
/// Logons over one connection; the last one's refusal ends it.
pub const LOGONS_MAX: u32 = 3;

#[cfg(test)]
mod suite;
