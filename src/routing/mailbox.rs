//! What routing needs to know about a mailbox: where its home is, as the directory says it.

use std::sync::Arc;

/// Where a mailbox lives, in the directory's own words. Joined with the [`Topology`](super::topology::Topology) at each
/// decision, so that a new topology takes effect without looking mailboxes up again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// A stable number of this mailbox (from its `msExchMailboxGuid` or its DN): picks the CAS among a site's several.
    pub key: u64,
    /// `msExchHomeServerName`: the home server's `legacyExchangeDN`, folded to lower case. Empty if absent.
    pub home_server: Arc<str>,
    /// `homeMDB`: the DN of the mailbox database, folded to lower case.
    pub home_database: Option<Arc<str>>,
}

/// The answer to "whose mailbox is this request about?".
#[derive(Clone, Copy, Debug)]
pub enum Whose<'a> {
    /// The request names nobody.
    Nobody,
    /// It names somebody the directory does not have.
    Unknown,
    /// The name fits more than one directory entry.
    Ambiguous,
    /// The directory has the person, but no mailbox.
    WithoutMailbox,
    /// It is about this mailbox.
    Mailbox(&'a Mailbox),
}
