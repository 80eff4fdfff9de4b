//! Messages of the schemes that authenticate the connection (RFC 4559): what they show, and where they stand in the
//! handshake. Nothing here proves anything; a server's judgement or a service key ([`kerberos`]) does.

use super::{kerberos::ApReq, ntlm};

/// One `Authorization` field of a connection-bound scheme.
#[derive(Debug, PartialEq, Eq)]
pub struct Token {
    /// Where it stands in the handshake.
    pub leg: Leg,
    /// What it shows of who asks.
    pub shows: Shows,
}

/// A message's place in a handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leg {
    /// It begins one: an NTLM `NEGOTIATE_MESSAGE`, a SPNEGO `NegTokenInit`, a bare Kerberos `AP-REQ`; and whatever cannot
    /// be read.
    First,
    /// It answers a challenge, and means something only to the server, and on the connection, that gave it: an NTLM
    /// `AUTHENTICATE_MESSAGE`, a SPNEGO `NegTokenResp`.
    Next,
}

/// What a message shows of who asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Shows {
    /// Nothing yet.
    Nothing,
    /// An NTLM `AUTHENTICATE_MESSAGE`, alone or inside SPNEGO.
    Account(Box<ntlm::Authenticate>),
    /// A Kerberos ticket, alone or inside SPNEGO.
    Ticket(Box<ApReq>),
    /// Bytes that are none of these. They are the server's to judge.
    Unreadable(UnreadableToken),
}

/// Why a token could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableToken {
    /// RFC 4559 section 4.1: a token is base64.
    #[error("the token is not base64")]
    NotBase64,
}

/// What one value of a `WWW-Authenticate` field means for the connection it came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// A scheme that is bound to requests: `Basic`, `Bearer`.
    PerRequest,
    /// A connection-bound scheme is offered.
    Offer,
    /// A handshake is under way on the connection, or has just ended on it. `Some`: the token is, or holds, an NTLM
    /// `CHALLENGE_MESSAGE`.
    Token(Option<ntlm::Challenge>),
}

/// Reads one value of a `WWW-Authenticate` field.
pub fn challenge(value: &[u8]) -> Challenge {
    let _ = value;
    Challenge::Offer
}
