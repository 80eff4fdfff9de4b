//! The ways a mailbox can be named, made comparable.

use std::fmt;

/// A name that a request or an administrator uses for a person or a mailbox. Folded to lower case, as the directory
/// compares names without case; so two spellings share one cache entry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MailboxName {
    /// `ana@contoso.com`: a user principal name or an SMTP address; the directory is asked for both.
    Address(String),
    /// `CONTOSO\ana`: a domain (NetBIOS or DNS name) and a `sAMAccountName` in it.
    Account {
        /// The domain.
        domain: String,
        /// The account's name.
        account: String,
    },
    /// `ana`: a `sAMAccountName` or an alias (`mailNickname`).
    Bare(String),
    /// `msExchMailboxGuid`, in the order its text form is written.
    Guid([u8; 16]),
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailboxName::Address(text) | MailboxName::Bare(text) => f.write_str(text),
            MailboxName::Account { domain, account } => write!(f, "{domain}\\{account}"),
            MailboxName::Guid(_) => f.write_str("guid"),
        }
    }
}

impl fmt::Debug for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
