//! Whose upstream connection a request may use.
//!
//! A credential such as NTLM authenticates the *connection* (RFC 4559 section 6). A client connection that ever carried
//! one is pinned: its requests use an upstream connection that belongs to it alone, told apart by a process-wide
//! counter, which is part of the key under which Pingora reuses connections. The counter is never derived from an
//! address, a file descriptor or a user name, because all of those are used again for somebody else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Whose connections a client connection's requests travel on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pin {
    /// Nobody's in particular: any idle connection of the pool will do, and is given back afterwards.
    #[default]
    Shared,
    /// This client connection's own, for the rest of its life.
    Pinned(PinNumber),
}

/// A number that no other pin of this process ever had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PinNumber(u64);

impl Pin {
    /// What becomes of the pin when a request carries a connection-bound credential or not. Once pinned, always pinned.
    #[must_use]
    pub fn on_request(self, connection_bound: bool) -> Pin {
        match self {
            Pin::Shared if connection_bound => Pin::Pinned(PinNumber::next()),
            Pin::Shared | Pin::Pinned(_) => self,
        }
    }

    /// The part of Pingora's reuse key that keeps pinned connections apart; shared ones all have 0.
    pub fn group_key(self) -> u64 {
        match self {
            Pin::Shared => 0,
            Pin::Pinned(PinNumber(number)) => number,
        }
    }
}

impl PinNumber {
    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1); // 0 is the shared connections' key
        PinNumber(NEXT.fetch_add(1, Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_connection_stays_shared_until_it_carries_a_connection_bound_credential() {
        assert_eq!(Pin::default().on_request(false), Pin::Shared);
        assert_eq!(Pin::Shared.group_key(), 0);
    }

    #[test]
    fn once_pinned_it_keeps_its_number_whatever_comes() {
        let pinned = Pin::Shared.on_request(true);
        assert_ne!(pinned.group_key(), 0);
        assert_eq!(pinned.on_request(false), pinned);
        assert_eq!(pinned.on_request(true), pinned);
    }

    #[test]
    fn no_two_client_connections_share_a_number() {
        let mut keys: Vec<_> = (0..1000).map(|_| Pin::Shared.on_request(true).group_key()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1000);
    }
}
