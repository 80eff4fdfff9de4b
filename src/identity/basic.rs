//! `Authorization: Basic` (RFC 7617).

use super::Credential;

/// Reads an `Authorization` field's value.
pub fn credential(_authorization: &[u8]) -> Credential {
    Credential::ConnectionBound
}
