//! The listening sockets: taken over from the process before, or bound here.

use std::{
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::StartError;

/// All listening sockets of a process, each by what it is for and the address it was asked for.
#[derive(Default)]
pub struct Sockets {
    /// What the process before has left and nobody has asked for yet.
    left: Vec<(String, OwnedFd)>,
    listening: Vec<(String, TcpListener)>,
    bound: usize,
}

impl Sockets {
    /// Those that another process has handed over.
    pub(super) fn handed_over(left: Vec<(String, OwnedFd)>) -> Self {
        Sockets { left, ..Sockets::default() }
    }

    /// Listens on an address, by the socket that the process before did so with if there is one. Port 0 is a free port,
    /// or the one that was free for the process before. Bound here rather than in Pingora, so that port 0 works and a busy
    /// port is an error with a name.
    ///
    /// # Errors
    /// [`StartError::Listen`].
    pub fn listen(&mut self, what: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
        let failed = |source| StartError::Listen { address, source };
        let name = format!("{what} {address}");
        let socket = if let Some(socket) = self.take(&name, address) {
            socket
        } else {
            self.bound += 1;
            TcpListener::bind(address).map_err(failed)?
        };
        socket.set_nonblocking(true).map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        let twin = socket.try_clone().map_err(failed)?;
        self.listening.push((name, socket));
        Ok((twin, bound))
    }

    /// Closes what was left and not asked for, and says in words what became of all.
    pub(super) fn settle(&mut self) -> String {
        let dropped: Vec<_> = self.left.drain(..).map(|(name, _)| name).collect();
        let taken = self.listening.len() - self.bound;
        let text = format!("{taken} listening sockets taken over, {} new", self.bound);
        if dropped.is_empty() { text } else { format!("{text}, and not listened on any more: {}", dropped.join(", ")) }
    }

    /// Each socket with its name, for the next process.
    pub(super) fn all(&self) -> (Vec<String>, Vec<BorrowedFd<'_>>) {
        self.listening.iter().map(|(name, socket)| (name.clone(), socket.as_fd())).unzip()
    }

    fn take(&mut self, name: &str, address: SocketAddr) -> Option<TcpListener> {
        let place = self.left.iter().position(|(left, _)| left == name)?;
        let socket = TcpListener::from(self.left.remove(place).1);
        let bound = socket.local_addr().ok()?;
        let is_it = bound.ip() == address.ip() && (address.port() == 0 || bound.port() == address.port());
        is_it.then_some(socket)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;

    fn any_port() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn handed_over(old: &Sockets) -> Sockets {
        let (names, sockets) = old.all();
        let sockets = sockets.iter().map(|socket| socket.try_clone_to_owned().expect("a descriptor"));
        Sockets::handed_over(names.into_iter().zip(sockets).collect())
    }

    #[test]
    fn what_is_wanted_again_is_taken_over_and_what_is_not_is_closed() {
        let mut old = Sockets::default();
        let here: Vec<_> = (0..3).map(|_| old.listen("listener", any_port()).expect("a free port").1).collect();
        let (_, admin) = old.listen("admin", any_port()).expect("a free port");
        let mut new = handed_over(&old);
        let again: Vec<_> = (0..2).map(|_| new.listen("listener", any_port()).expect("handed over").1).collect();
        assert_eq!(again, here[..2], "in their order");
        assert_eq!(new.listen("admin", any_port()).expect("handed over").1, admin);
        let (_, other) = new.listen("other", any_port()).expect("a free port");
        assert!(!here.contains(&other) && other != admin);
        assert_eq!(
            new.settle(),
            "3 listening sockets taken over, 1 new, and not listened on any more: listener 127.0.0.1:0"
        );
        drop(old);
        assert!(TcpListener::bind(here[2]).is_ok(), "nobody holds it");
        assert!(TcpListener::bind(here[0]).is_err(), "the new one does");
    }

    #[test]
    fn a_socket_that_is_not_what_its_name_says_is_not_used() {
        let mut other = Sockets::default();
        let (twin, there) = other.listen("listener", any_port()).expect("a free port");
        let wanted = {
            let free = TcpListener::bind(any_port()).expect("a free port");
            free.local_addr().expect("its address")
        };
        let mut sockets = Sockets::handed_over(vec![(format!("listener {wanted}"), twin.into())]);
        let (_, bound) = sockets.listen("listener", wanted).expect("a free port");
        assert_eq!(bound, wanted);
        assert_ne!(bound, there);
    }
}
