//! What is kept of a client connection from one request to the next: nothing, until it is pinned.
//!
//! A pinned one has its [`Gate`], its upstream connections, and what it has proved. Both ends of a pair live and die
//! together: when the client goes, its upstream connections are shut down; when an upstream connection goes over which
//! somebody is signed in, or signing in, the client's connection ends, as if it had been connected to the server itself.

use std::{
    net::{Shutdown, TcpStream},
    os::fd::AsFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use parking_lot::Mutex;
use pingora_core::{
    Error, ErrorType, OrErr,
    protocols::{Digest, SocketDigest},
    upstreams::peer::{HttpPeer, Peer, Tracer, Tracing},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::pin::{Answered, Bounds, Carries, Closed, ConnectionNumber, Expect, Gate, Origin, SignIn};
use crate::{identity::MailboxName, routing::topology::ServerId};

/// A client connection; `Default` is one that shares.
#[derive(Clone, Default)]
pub struct Client(Option<Arc<Pinned>>);

/// A client connection that has, or had, to do with a connection-bound credential.
pub struct Pinned {
    state: Mutex<State>,
    /// The client connection must end: what it was signed in over is gone.
    over: CancellationToken,
    _place: OwnedSemaphorePermit,
}

struct State {
    gate: Gate,
    /// Its upstream connections: those the gate owns, and the one that is being opened.
    held: Vec<Held>,
    /// The server that the client is signed in at, or signing in, and the origin of the connection that it is so over.
    bound: Option<(Origin, Arc<Bound>)>,
    proven: Option<Arc<Proven>>,
}

/// An upstream connection on its leash.
struct Held {
    origin: Origin,
    number: ConnectionNumber,
    /// A second descriptor of the same socket, to shut it down by.
    twin: TcpStream,
    /// By which it is recognised when Pingora hands it out again: one such object is made for each socket.
    identity: Option<Arc<SocketDigest>>,
}

/// The server that a client connection is signed in at, or signing in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its name: indices change with the topology.
    pub name: String,
    /// Where it stood in the topology when it was bound.
    pub server: ServerId,
}

/// Somebody who proved who they are, and how the directory calls them.
#[derive(Debug, PartialEq, Eq)]
pub struct Proven {
    /// The name they proved.
    pub name: MailboxName,
    /// The directory's.
    pub entry_name: String,
}

/// A pinned request on its way to an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    origin: Origin,
    expect: Expect,
}

impl Client {
    /// Pins the connection from this request on, if it is not.
    ///
    /// # Errors
    /// `places` has none left.
    pub fn pin(&mut self, places: &Arc<Semaphore>, now: Instant) -> Result<(), NoPlace> {
        if self.0.is_none() {
            let place = places.clone().try_acquire_owned().map_err(|_| NoPlace)?;
            let mut gate = Gate::new(now);
            gate.admit();
            let state = State { gate, held: Vec::new(), bound: None, proven: None };
            let (state, over) = (Mutex::new(state), CancellationToken::new());
            self.0 = Some(Arc::new(Pinned { state, over, _place: place }));
        }
        Ok(())
    }

    /// What there is of it, if it is pinned.
    pub fn pinned(&self) -> Option<&Arc<Pinned>> {
        self.0.as_ref()
    }
}

/// As many client connections are pinned as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no place is left for a client that signs in by Windows authentication")]
pub struct NoPlace;

impl Pinned {
    /// A further request has come.
    pub fn admit(&self) {
        self.state.lock().gate.admit();
    }

    /// The server that the connection is bound to, and whom it is signed in as.
    pub fn standing(&self) -> (Option<Arc<Bound>>, Option<Arc<Proven>>) {
        let state = self.state.lock();
        (state.bound.as_ref().map(|(_, bound)| bound.clone()), state.proven.clone())
    }

    /// Gives the peer what sets its connections apart, and finds out whether the client's own is open there.
    ///
    /// # Errors
    /// See [`Gate::approach`].
    pub fn approach(self: &Arc<Self>, peer: &mut HttpPeer, carries: Carries) -> Result<Passage, Closed> {
        let state = self.state.lock();
        peer.group_key = state.gate.number().group_key();
        let origin = peer.reuse_hash();
        let expect = state.gate.approach(origin, carries)?;
        drop(state);
        if expect == Expect::New {
            self.leash(peer, origin);
        }
        Ok(Passage { origin, expect })
    }

    /// Pingora has found a connection.
    ///
    /// # Errors
    /// See [`Gate::connected`].
    pub fn connected(&self, passage: Passage, reused: bool, digest: Option<&Digest>) -> Result<(), Closed> {
        let socket = digest.and_then(|digest| digest.socket_digest.as_ref());
        let mut state = self.state.lock();
        let State { gate, held, .. } = &mut *state;
        let is_it = |held: &Held| match (&held.identity, socket) {
            (Some(known), Some(socket)) => Arc::ptr_eq(known, socket),
            (None, Some(_)) => !reused && held.origin == passage.origin,
            (_, None) => false,
        };
        let found = held.iter_mut().rev().find(|held| is_it(held));
        let number = found.map(|found| {
            found.identity = socket.cloned();
            found.number
        });
        let passed = gate.connected(passage.origin, passage.expect, reused, number);
        held.retain(|held| gate.owns(held.number));
        if gate.is_over() {
            self.over.cancel();
        }
        passed
    }

    /// The server has answered; `bound` says which, if it is asked for. See [`Gate::answered`] and [`Gate::ends`].
    pub fn answered(
        &self,
        passage: Passage,
        carries: Carries,
        asked: u64,
        answer: Answered,
        bound: impl FnOnce() -> Option<Bound>,
        bounds: Bounds,
    ) -> (SignIn, bool) {
        let mut state = self.state.lock();
        let State { gate, held, .. } = &mut *state;
        let sign_in = gate.answered(passage.origin, carries, asked, answer);
        held.retain(|held| gate.owns(held.number));
        match sign_in {
            SignIn::Unchanged => {}
            SignIn::Challenged | SignIn::Accepted { .. } => {
                state.bound = bound().map(|bound| (passage.origin, Arc::new(bound)));
                state.proven = None; // it may be somebody else; `is_proven` says who
            }
            SignIn::Rejected => {
                if state.bound.as_ref().is_some_and(|(origin, _)| *origin == passage.origin) {
                    state.bound = None;
                    state.proven = None;
                }
            }
        }
        if state.bound.as_ref().is_some_and(|(origin, _)| !state.gate.is_open(*origin)) {
            state.bound = None;
            state.proven = None;
        }
        (sign_in, state.gate.ends(passage.origin, answer, Instant::now(), bounds))
    }

    /// Whether the client connection has been pinned for as long, or has sent as many requests, as it may.
    pub fn has_expired(&self, bounds: Bounds) -> bool {
        self.state.lock().gate.has_expired(Instant::now(), bounds)
    }

    /// Whether somebody is signed in, as far as the servers have said.
    pub fn is_signed_in(&self) -> bool {
        self.state.lock().gate.is_signed_in()
    }

    /// Somebody has proved who they are, for as long as the connection lasts or until it is signed in anew.
    pub fn is_proven(&self, person: Arc<Proven>) {
        self.state.lock().proven = Some(person);
    }

    /// Resolves when the client connection must end.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Puts the connection that may be opened to this peer on the leash.
    fn leash(self: &Arc<Self>, peer: &mut HttpPeer, origin: Origin) {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let watch = Watch { pinned: Arc::downgrade(self), number };
        peer.options.tracer = Some(Tracer(Box::new(watch.clone())));
        peer.options.upstream_tcp_sock_tweak_hook = Some(Arc::new(move |socket| {
            let Some(pinned) = watch.pinned.upgrade() else {
                return Err(Error::explain(ErrorType::InternalError, "the client left while its server was called"));
            };
            let twin = socket.as_fd().try_clone_to_owned().or_err(ErrorType::InternalError, "no descriptor is left")?;
            let mut state = pinned.state.lock();
            let State { gate, held, .. } = &mut *state;
            held.retain(|held| gate.owns(held.number)); // what is left of an attempt that failed
            held.push(Held { origin, number, twin: twin.into(), identity: None });
            Ok(())
        }));
    }

    fn lost(&self, number: ConnectionNumber) {
        let mut state = self.state.lock();
        state.held.retain(|held| held.number != number);
        state.gate.lost(number);
        if state.gate.is_over() {
            self.over.cancel();
        }
    }
}

/// Closes the connection itself, not only this descriptor of it. One that is closed already has nothing to lose.
impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.twin.shutdown(Shutdown::Both);
    }
}

/// Tells the client's side when the connection of this number is gone.
#[derive(Clone)]
struct Watch {
    pinned: Weak<Pinned>,
    number: ConnectionNumber,
}

impl Tracing for Watch {
    fn on_connected(&self) {}

    fn on_disconnected(&self) {
        if let Some(pinned) = self.pinned.upgrade() {
            pinned.lost(self.number);
        }
    }

    fn boxed_clone(&self) -> Box<dyn Tracing> {
        Box::new(self.clone())
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Watch({})", self.number)
    }
}
