//! Kerberos tickets (RFC 4120): what an `AP-REQ` shows, and who its ticket was issued to, if we hold the service's key.

/// An `AP-REQ` (RFC 4120 section 5.5.1), as sent.
#[derive(PartialEq, Eq)]
pub struct ApReq {
    /// DER.
    pub der: Vec<u8>,
}

impl std::fmt::Debug for ApReq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApReq(..)") // whoever has it could use it
    }
}
