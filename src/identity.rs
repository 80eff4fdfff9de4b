//! Who is asking, and whose mailbox the request is about. Pure: reads a request's facts, proves nothing.
//!
//! Everything here is *claimed*, but for a Kerberos ticket that [`keytab::Keytab::open`] opens. Routing a request by a claim
//! is fine, because the server it reaches authenticates it; answering with anything about a mailbox is not, and waits for
//! a proof (`directory::Directory::verify`, `edge::proof`).

pub mod activesync;
pub mod anchor;
mod asn1;
pub mod authorization;
pub mod kerberos;
pub mod keytab;
pub mod logon_name;
pub mod name;
pub mod ntlm;
#[cfg(test)]
mod samples;
pub mod spnego;
pub mod token;

pub use logon_name::LogonName;
pub use name::MailboxName;
use percent_encoding::percent_decode_str;
pub use token::Token;

use crate::{routing::protocol::Protocol, secret::Secret};

/// What identity is read from: a borrowed view of one request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The protocol its path belongs to.
    pub protocol: Protocol,
    /// Its path, percent-decoded.
    pub path: &'a str,
    /// Its query as sent, without the `?`.
    pub query: Option<&'a str>,
    /// The `Authorization` field's value.
    pub authorization: Option<&'a [u8]>,
    /// The `X-AnchorMailbox` field's value.
    pub anchor_mailbox: Option<&'a [u8]>,
}

/// What a request says about its sender and the mailbox it wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// The credential the request carries.
    pub credential: Credential,
    /// The mailbox it names apart from the credential.
    pub target: Option<Target>,
}

/// The credential in the `Authorization` field.
#[derive(Debug, PartialEq, Eq)]
pub enum Credential {
    /// No `Authorization` field.
    None,
    /// RFC 7617.
    Basic {
        /// The user name in its canonical form.
        user: MailboxName,
        /// The password's bytes as sent.
        password: Secret,
    },
    /// `Bearer` (RFC 6750): bound to the request, opaque to us.
    Bearer,
    /// A scheme that authenticates the connection, or that we do not know and so treat as if it did.
    ConnectionBound(Token),
    /// A field that no server could read either.
    Unreadable(UnreadableCredential),
}

impl Credential {
    /// Whom a password, or the proof of one, is for.
    pub fn user(&self) -> Option<&MailboxName> {
        match self {
            Credential::Basic { user, .. } => Some(user),
            Credential::ConnectionBound(Token { shows: token::Shows::Account(message), .. }) => message.user.as_ref(),
            // Nobody guesses passwords by tickets.
            Credential::ConnectionBound(_) | Credential::None | Credential::Bearer | Credential::Unreadable(_) => None,
        }
    }
}

/// Why an `Authorization` field could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableCredential {
    /// RFC 7617 section 2: the token is base64.
    #[error("the Basic credential is not base64; the client must send base64(user:password)")]
    NotBase64,
    /// RFC 7617 section 2: user and password are separated by the first colon.
    #[error("the Basic credential has no colon between user name and password")]
    NoColon,
    /// An empty name, a control character in it, or a name longer than any directory allows.
    #[error("the Basic credential's user name is empty, too long or has control characters")]
    BadUserName,
}

/// A mailbox named by the request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its name.
    pub name: MailboxName,
    /// Where the request names it.
    pub source: TargetSource,
}

/// Where a request names its target mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetSource {
    /// `ActiveSync`'s `User=`, or tag 8 of its base64 query. Only a hint: the credential, if readable, is authoritative.
    ActiveSyncUser,
    /// The `X-AnchorMailbox` field.
    AnchorMailbox,
    /// A path such as `/owa/ana@contoso.com/` or `/exchange/ana/`.
    ExplicitLogon,
    /// `MailboxId=` of a MAPI over HTTP query.
    MapiMailboxId,
    /// The mailbox in an `rpcproxy.dll` query (2013 and later).
    RpcProxy,
}

/// Reads everything a request says about who it is for.
pub fn identify(facts: &Facts<'_>) -> Identity {
    Identity {
        credential: facts.authorization.map_or(Credential::None, authorization::credential),
        target: anchor::target(facts),
    }
}

impl Identity {
    /// The name that routes: the target where it differs from the signed-in user, else the signed-in user.
    pub fn routing_name<'i>(&'i self, signed_in: Option<&'i MailboxName>) -> Option<&'i MailboxName> {
        match &self.target {
            Some(Target { source: TargetSource::ActiveSyncUser, name }) => signed_in.or(Some(name)),
            Some(target) => Some(&target.name),
            None => signed_in,
        }
    }
}

/// The decoded value of a query parameter, whose name is compared without case as ASP.NET does. `None` if it stands there
/// twice: ASP.NET would join the two with a comma and find neither mailbox.
fn parameter(query: &str, name: &str) -> Option<Vec<u8>> {
    let is_named = |key: &str| {
        let key = percent_decode_str(key).map(|byte| byte.to_ascii_lowercase());
        key.eq(name.bytes().map(|byte| byte.to_ascii_lowercase()))
    };
    let mut values = query.split('&').filter_map(|pair| pair.split_once('=')).filter(|(key, _)| is_named(key));
    let (_, value) = values.next()?;
    values.next().is_none().then(|| percent_decode_str(value).collect())
}
