//! How many connections each client has.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use pingora_core::upstreams::peer::Tracing;

use super::sender::network;

/// The clients that are connected; never more than there are connections.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<IpAddr, usize>>);

/// A connection, counted until this is dropped.
#[derive(Debug)]
pub(super) struct Caller {
    client: IpAddr,
    all: Arc<Callers>,
}

impl Callers {
    /// One more connection of this client; `None`: it has as many as it may.
    pub(super) fn admit(self: &Arc<Self>, client: IpAddr, max: usize) -> Option<Caller> {
        let client = network(client);
        let mut connections = self.0.lock();
        let connections = connections.entry(client).or_default();
        if *connections >= max {
            return None; // so there is at least one, and the entry does not stay empty
        }
        *connections += 1;
        Some(Caller { client, all: self.clone() })
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Entry::Occupied(mut connections) = self.all.0.lock().entry(self.client) {
            *connections.get_mut() -= 1;
            if *connections.get() == 0 {
                connections.remove();
            }
        }
    }
}

/// Stays with the connection as what Pingora lets a connection carry, and does nothing but to be dropped with it.
#[derive(Clone, Debug)]
pub(super) struct Staying(#[allow(dead_code)] pub(super) Arc<Caller>); // never read, only dropped

impl Tracing for Staying {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {}

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;

    #[test]
    fn a_client_has_so_many_connections_and_another_when_one_is_gone() {
        let callers = Arc::new(Callers::default());
        let admit = |client: &str| callers.admit(client.parse().expect("an address"), 2);
        let one = admit("2001:db8::1");
        let other = admit("2001:db8::2");
        assert!(one.is_some() && other.is_some());
        assert!(admit("2001:db8::3").is_none(), "one network, one client");
        assert!(admit("2001:db8:0:1::1").is_some(), "others are not affected");
        drop(one);
        assert!(admit("2001:db8::3").is_some());
        drop(other);
        assert!(callers.0.lock().is_empty(), "who is gone leaves nothing");
    }
}
