//! The upstream connections of a pinned client connection end with it.
//!
//! Pingora keeps an idle connection for its time, whoever may use it. A pinned one nobody may use any more once its
//! client is gone, and somebody is signed in over it; so it is closed then and there.

use std::{
    collections::HashMap,
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::Arc,
};

use parking_lot::Mutex;
use pingora_core::{Error, ErrorType, OrErr, protocols::l4::socket::SocketAddr, upstreams::peer::HttpPeer};

/// Holds on to each upstream connection of one client connection, and closes them when it is dropped.
#[derive(Default)]
pub struct Leash {
    /// One for each server: a second one to the same server replaces the first, which Pingora has let go of.
    held: Mutex<HashMap<SocketAddr, TcpStream>>,
}

impl Leash {
    /// Puts the connections that are opened to this peer on the leash.
    pub fn tie(self: &Arc<Self>, peer: &mut HttpPeer) {
        let (leash, address) = (Arc::downgrade(self), peer._address.clone());
        peer.options.upstream_tcp_sock_tweak_hook = Some(Arc::new(move |socket| {
            let Some(leash) = leash.upgrade() else {
                return Err(Error::explain(ErrorType::InternalError, "the client left while its server was called"));
            };
            let twin = socket.as_fd().try_clone_to_owned().or_err(ErrorType::InternalError, "no descriptor is left")?;
            if let Some(old) = leash.held.lock().insert(address.clone(), twin.into()) {
                close(&old);
            }
            Ok(())
        }));
    }
}

impl Drop for Leash {
    fn drop(&mut self) {
        for stream in self.held.get_mut().values() {
            close(stream);
        }
    }
}

/// Closes the connection itself, not only this descriptor of it. One that is closed already has nothing to lose.
fn close(stream: &TcpStream) {
    let _ = stream.shutdown(Shutdown::Both);
}
