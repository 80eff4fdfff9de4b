//! cache
use std::time::Duration;

/// How much is remembered, and for how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Names remembered.
    pub max_entries: u64,
    /// How long a found mailbox is remembered.
    pub found_lifetime: Duration,
    /// How long an unknown name is remembered.
    pub not_found_lifetime: Duration,
    /// Verified credentials remembered.
    pub max_proofs: u64,
    /// How long a verified credential is remembered.
    pub proof_lifetime: Duration,
}
