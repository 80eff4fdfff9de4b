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
}

impl PinNumber {
    /// The part of Pingora's reuse key that keeps this pin's connections apart from all others.
    pub fn group_key(self) -> u64 {
        self.0
    }

    fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST);
        PinNumber(NEXT.fetch_add(1, Relaxed))
    }
}

/// Lower keys belong to shared connections: one for each way of trusting a server (`organisation`).
pub const FIRST: u64 = 1 << 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn key(pin: Pin) -> Option<u64> {
        match pin {
            Pin::Shared => None,
            Pin::Pinned(number) => Some(number.group_key()),
        }
    }

    #[test]
    fn a_client_connection_stays_shared_until_it_carries_a_connection_bound_credential() {
        assert_eq!(Pin::default().on_request(false), Pin::Shared);
    }

    #[test]
    fn once_pinned_it_keeps_its_number_whatever_comes() {
        let pinned = Pin::Shared.on_request(true);
        assert!(key(pinned) >= Some(FIRST), "apart from every shared connection");
        assert_eq!(pinned.on_request(false), pinned);
        assert_eq!(pinned.on_request(true), pinned);
    }

    #[test]
    fn no_two_client_connections_share_a_number() {
        let mut keys: Vec<_> = (0..1000).map(|_| key(Pin::Shared.on_request(true))).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), 1000);
    }
}
