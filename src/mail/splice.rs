//! Passes bytes on between a client and its server, both ways, until either has gone or neither says anything any more.
//!
//! A mail client stays for hours and says nothing: a session that waits owns no buffer. What comes is read onto the stack and
//! written at once; only what the other side does not take is kept, and until it has, no more is read for it.
//!
//! What the connections and the task of an idle session cost, in KiB, at 2,000 of them (BoringSSL keeps no buffer while it
//! waits; `loadtest/mail` measures whole sessions):
//!
//! | client, server | Pingora's read buffer of 64 KiB | no buffers | and in a task of its own |
//! |---|---|---|---|
//! | plain, plain | 71.7 | 5.1 | 3.1 |
//! | TLS, plain | 74.8 | 9.2 | 7.2 |
//! | TLS, TLS | 83.6 | 17.9 | 15.0 |
//!
//! So the listeners of mail have no buffers (`L4BufferSettings::unbuffered`), nor have the connections to servers, and a
//! session leaves Pingora's task, which has a handshake's size, for one of its own.

#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    mem::{self, MaybeUninit},
    pin::{Pin, pin},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

/// How long who is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Until a byte passes, either way. IMAP4's IDLE is begun anew after 29 minutes (RFC 2177), and no server may log a
    /// client off before 30 (RFC 3501 section 5.4).
    pub idle_timeout: Duration,
    /// Until somebody takes more of what is there for them.
    pub write_timeout: Duration,
    /// Until a byte passes, once one of the two has said all.
    pub half_closed_timeout: Duration,
}

/// How many bytes have passed so far: been taken by those they are for.
#[derive(Debug, Default)]
pub struct Passed {
    /// From the server to the client.
    pub to_client: AtomicU64,
    /// From the client to the server.
    pub to_server: AtomicU64,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// Why no more bytes pass: what happened first.
#[derive(Debug)]
pub enum Ending {
    /// The client has said all.
    Client,
    /// The server has said all.
    Server,
    /// Neither said anything.
    Idle,
    /// This side did not read.
    NotReading(Side),
    /// The edge is going down, and nothing was on its way.
    Drained,
    /// The connection to this side broke.
    Error(Side, io::Error),
}

/// How long nothing passes in a session that is quiet.
const QUIET: Duration = Duration::from_secs(1);
/// What is read at a time: a whole TLS record.
const READ_MAX_BYTES: usize = 16 * 1024;
/// How often those who always have more are read before other sessions get their turn.
const ROUNDS_MAX: u32 = 8;

/// Passes on what comes, until there is no more; first of all this, which the client has said already. Once `drain` is
/// cancelled, it is over as soon as the session is quiet: a message that is being fetched arrives whole.
///
/// When it returns, both have been told the end, but by TCP and TLS alone: either may be in the middle of a message, and
/// words of the edge's would be taken for a part of it.
pub async fn splice<C, S>(
    client: &mut C,
    server: &mut S,
    first_to_server: Vec<u8>,
    settings: &Settings,
    passed: &Passed,
    drain: &CancellationToken,
) -> Ending
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut session = Session {
        to_client: Way::new(Side::Server, Vec::new(), &passed.to_client),
        to_server: Way::new(Side::Client, first_to_server, &passed.to_server),
        last: Instant::now(),
        first: None,
        is_draining: false,
    };
    let mut timer = pin!(sleep_until(session.deadline(settings)));
    let mut drained = pin!(drain.cancelled());
    poll_fn(|cx| {
        session.is_draining = session.is_draining || drained.as_mut().poll(cx).is_ready();
        let ending = match session.poll_pass(client, server, cx) {
            Poll::Ready(ending) => ending,
            Poll::Pending => ready!(session.poll_time(settings, timer.as_mut(), cx)),
        };
        session.to_client.say_end(client, cx);
        session.to_server.say_end(server, cx);
        Poll::Ready(ending)
    })
    .await
}

/// Both ways.
struct Session<'a> {
    to_client: Way<'a>,
    to_server: Way<'a>,
    /// When bytes have last passed.
    last: Instant,
    /// What happened first, of that which ends it.
    first: Option<Ending>,
    is_draining: bool,
}

impl Session<'_> {
    /// Passes on what is there.
    fn poll_pass<C, S>(&mut self, client: &mut C, server: &mut S, cx: &mut Context<'_>) -> Poll<Ending>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_MAX {
            let steps = [self.to_client.poll_step(server, client, cx), self.to_server.poll_step(client, server, cx)];
            let have_all_passed = steps.iter().all(Poll::is_pending);
            for step in steps {
                match step {
                    Poll::Pending => {}
                    Poll::Ready(Step::Passed) => self.last = Instant::now(),
                    Poll::Ready(Step::Ended(why)) => {
                        self.first.get_or_insert(why);
                    }
                    Poll::Ready(Step::Broken(why)) => return Poll::Ready(self.first.take().unwrap_or(why)),
                }
            }
            let have_ended = self.to_client.state == State::Ended && self.to_server.state == State::Ended;
            if let Some(first) = self.first.take_if(|_| have_ended) {
                return Poll::Ready(first);
            }
            if have_all_passed {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Looks whether somebody has been waited for long enough. The timer may ring early: it is not set anew with every byte.
    fn poll_time(&mut self, settings: &Settings, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Ending> {
        let deadline = self.deadline(settings);
        if deadline < timer.deadline() {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(cx).is_ready() {
            if deadline <= Instant::now() {
                return Poll::Ready(self.overdue(settings));
            }
            timer.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn deadline(&self, settings: &Settings) -> Instant {
        let stuck = [&self.to_client, &self.to_server].into_iter().filter_map(|way| way.stuck_since);
        stuck.map(|since| since + settings.write_timeout).fold(self.last + self.patience(settings), Instant::min)
    }

    /// How long nothing may pass.
    fn patience(&self, settings: &Settings) -> Duration {
        let patience = match self.first {
            None => settings.idle_timeout,
            // Nobody would answer what the client may still say; it only has to read the end.
            Some(_) if self.to_client.state == State::Ended => settings.half_closed_timeout.min(QUIET),
            Some(_) => settings.half_closed_timeout,
        };
        let is_stuck = self.to_client.stuck_since.or(self.to_server.stuck_since).is_some();
        if self.is_draining && !is_stuck { patience.min(QUIET) } else { patience }
    }

    /// What has lasted too long.
    fn overdue(&mut self, settings: &Settings) -> Ending {
        let now = Instant::now();
        let takes_nothing = |way: &Way<'_>| way.stuck_since.is_some_and(|since| since + settings.write_timeout <= now);
        match self.first.take() {
            Some(first) => first,
            None if takes_nothing(&self.to_client) => Ending::NotReading(Side::Client),
            None if takes_nothing(&self.to_server) => Ending::NotReading(Side::Server),
            None if self.is_draining => Ending::Drained,
            None => Ending::Idle,
        }
    }
}

/// One of the two ways.
struct Way<'a> {
    /// Whose bytes go this way.
    from: Side,
    state: State,
    /// What has been read and not been taken.
    kept: Bytes,
    /// Since when the other side has taken nothing, though there is something for it.
    stuck_since: Option<Instant>,
    passed: &'a AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// What was written last may not be on its way yet.
    Flushing,
    /// There is no more; the other side has not been told yet.
    Ending,
    Ended,
}

/// What has come of a try.
enum Step {
    /// Bytes are on their way.
    Passed,
    /// No more can come this way; what comes the other way may say why.
    Ended(Ending),
    /// No more can come either way.
    Broken(Ending),
}

impl<'a> Way<'a> {
    fn new(from: Side, first: Vec<u8>, passed: &'a AtomicU64) -> Self {
        Way { from, state: State::Open, kept: first.into(), stuck_since: None, passed }
    }

    /// Passes on what is kept, or else what can be read at once.
    fn poll_step(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        let step = match self.kept.is_empty() {
            true => self.poll_next(from, to, cx),
            false => self.poll_kept(to, cx),
        };
        if step.is_ready() {
            self.stuck_since = None;
        } else if !self.kept.is_empty() || matches!(self.state, State::Flushing | State::Ending) {
            self.stuck_since.get_or_insert_with(Instant::now);
        }
        step
    }

    fn poll_next(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        if self.state == State::Flushing {
            if let Err(error) = ready!(Pin::new(&mut *to).poll_flush(cx)) {
                return Poll::Ready(self.refused(error));
            }
            self.state = State::Open;
        }
        if self.state == State::Open {
            return self.poll_read(from, to, cx);
        }
        if self.state == State::Ending {
            if let Err(error) = ready!(Pin::new(to).poll_shutdown(cx)) {
                return Poll::Ready(self.refused(error));
            }
            self.state = State::Ended;
        }
        Poll::Pending
    }

    fn poll_read(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Step> {
        let mut space = [MaybeUninit::uninit(); READ_MAX_BYTES];
        let mut read = ReadBuf::uninit(&mut space);
        if let Err(error) = ready!(Pin::new(from).poll_read(cx, &mut read)) {
            return Poll::Ready(Step::Broken(Ending::Error(self.from, error)));
        }
        let bytes = read.filled();
        if bytes.is_empty() {
            self.state = State::Ending;
            let gone = match self.from {
                Side::Client => Ending::Client,
                Side::Server => Ending::Server,
            };
            return Poll::Ready(Step::Ended(gone));
        }
        Poll::Ready(match self.write(bytes, to, cx) {
            Ok(taken) => {
                self.kept = Bytes::copy_from_slice(bytes.get(taken..).unwrap_or_default());
                Step::Passed
            }
            Err(error) => self.refused(error),
        })
    }

    fn poll_kept(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> Poll<Step> {
        let mut kept = mem::take(&mut self.kept);
        match self.write(&kept, to, cx) {
            Ok(taken) => {
                kept.advance(taken);
                if !kept.is_empty() {
                    self.kept = kept; // an empty one would hold its memory
                }
                if taken == 0 { Poll::Pending } else { Poll::Ready(Step::Passed) }
            }
            Err(error) => Poll::Ready(self.refused(error)),
        }
    }

    /// Writes until nothing more is taken. Over TLS what was not taken must come again, from its beginning.
    fn write(&mut self, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) -> io::Result<usize> {
        let mut taken = 0;
        while let Some(rest @ [_, ..]) = bytes.get(taken..) {
            match Pin::new(&mut *to).poll_write(cx, rest)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(more) => taken += more,
                Poll::Pending => break,
            }
        }
        if taken > 0 {
            self.state = State::Flushing;
            self.passed.fetch_add(taken as u64, Relaxed);
        }
        Ok(taken)
    }

    /// The other side takes no more.
    fn refused(&mut self, error: io::Error) -> Step {
        self.kept = Bytes::new();
        self.state = State::Ended;
        Step::Ended(Ending::Error(self.from.other(), error))
    }

    /// Tells the other side that there is no more, as far as it can be told without waiting.
    fn say_end(&mut self, to: &mut (impl AsyncWrite + Unpin), cx: &mut Context<'_>) {
        if self.kept.is_empty() && self.state != State::Ended {
            self.state = State::Ended;
            let _ = Pin::new(to).poll_shutdown(cx);
        }
    }
}

impl Side {
    fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }
}
