//! The mailbox a request names apart from its credential: `X-AnchorMailbox`, explicit logon, query strings.

use super::{Facts, Target};

/// The target mailbox a request names, if it names one.
pub fn target(_facts: &Facts<'_>) -> Option<Target> {
    None
}
