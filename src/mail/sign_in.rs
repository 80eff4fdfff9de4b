//! The client's half of POP3 and IMAP4, with which the edge signs in at a server with what its own client has sent.
//!
//! As a [`Dialogue`](super::dialogue::Dialogue) it has no clock and no socket.

use std::fmt;

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Nothing, until more bytes have come.
    Read,
    /// Send this to the server.
    Send(Vec<u8>),
    /// Begin TLS with the server, and say so by `tls_has_begun`.
    StartTls,
    /// Signed in: these words are for the client, and all that has come after them.
    SignedIn(Vec<u8>),
    /// The server says no, in these words: one line as the client gets it, its line end included, with the client's tag in
    /// IMAP4.
    Refused(Vec<u8>),
    /// No sign-in comes of it, and that says nothing about the password.
    Failed(Failure),
}

/// Why no sign-in comes of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It does not speak the protocol, or says goodbye. What it said, in one printable line.
    #[error("{0}")]
    Words(Printable),
    /// It offers no TLS where the configuration wants it.
    #[error("it does not offer TLS")]
    NoTls,
    /// It takes no password without TLS.
    #[error("it takes no password without TLS")]
    TlsRequired,
    /// A line of it is longer than may be.
    #[error("it sent a line of more than {0} bytes")]
    TooLong(usize),
}

/// What a server said, safe to print: bounded, printable, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printable(pub String);

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
