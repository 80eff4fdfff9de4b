//! NTLM messages ([MS-NLMP] 2.2.1), as far as a proxy may look into them.

use super::MailboxName;

/// What an `AUTHENTICATE_MESSAGE` ([MS-NLMP] 2.2.1.3) shows in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticate {
    /// Who says to be there; `None`: anonymous, or a name that no mailbox can have.
    pub user: Option<MailboxName>,
    /// The machine it comes from, as the client calls it; empty if it does not say.
    pub workstation: String,
    /// `NegotiateFlags` ([MS-NLMP] 2.2.2.5).
    pub flags: u32,
    /// Whether the client bound its answer to the TLS channel it sees (`MsvAvChannelBindings`, [MS-NLMP] 2.2.2.1): a
    /// server that insists on Extended Protection then refuses it, because the edge ends that channel.
    pub channel_bindings: bool,
}

/// What a `CHALLENGE_MESSAGE` ([MS-NLMP] 2.2.1.2) settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Whether names are UTF-16 from now on (`NTLMSSP_NEGOTIATE_UNICODE`), else in the OEM character set.
    pub unicode: bool,
}
