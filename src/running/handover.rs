//! The listening sockets go from one process to the next, and no client notices.
//!
//! ```text
//! the old process                     the new one, `firstcas run --upgrade`
//!                                     listens on process.upgrade_socket
//! on SIGQUIT connects there: Hello ->
//!                                  <- Successor
//! Sockets, with the descriptors    ->
//!                                     reads the directory, serves
//!                                  <- Serving, or Failed and why
//! Yours                            -> writes the pid file
//!                                  <- Settled
//! stops listening, drains
//! ```
//!
//! `firstcas upgrade` listens there first. It answers Hello with Start; the old process starts the new one itself, so that
//! that has its user, rights, log and place among the system's services, does all of the above, and says Done or Failed.
//!
//! Until Yours the old process serves as before, and whatever goes wrong leaves it so. From Serving on the new one does
//! too; if it hears that it is not wanted any more, it drains and ends.

#![allow(clippy::wildcard_enum_match_arm)] // whatever else is said, or happens, is refused

use std::{
    fs,
    io::{self, ErrorKind, IoSlice, IoSliceMut, Write as _},
    mem::MaybeUninit,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt as _, MetadataExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rustix::{
    fs::Mode,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
        recvmsg, sendmsg, sockopt,
    },
};
use serde::{Deserialize, Serialize};

use super::sockets::Sockets;
use crate::{client_keytab, config::Upgrade, events::whole_chain, secret::Secret};

/// Why the sockets did not change hands.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// There is no place to meet.
    #[error(
        "process.upgrade_socket is not configured, so no process can take this one's place; SIGTERM stops the edge"
    )]
    NotConfigured,
    /// Nobody waits there.
    #[error("no process waits at {} to take over; start `firstcas upgrade`, or `firstcas run --upgrade` first", .0.display())]
    NobodyThere(PathBuf),
    /// The place is not safe, or cannot be used.
    #[error("process.upgrade_socket: {}: {problem}", .path.display())]
    Place {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong there.
        problem: String,
    },
    /// Somebody else than the process's own user, or root.
    #[error("user {0} is at the other end of process.upgrade_socket, who has no business there")]
    Stranger(u32),
    /// The other process hung up.
    #[error("the other process ended before all was said")]
    Gone,
    /// It said nothing in time.
    #[error("nothing was heard of the other process in time (process.upgrade_timeout)")]
    Silent,
    /// The edge was told to stop before.
    #[error("the edge was told to stop meanwhile")]
    Stopping,
    /// It said something else than it should have.
    #[error("the other process speaks another language; is it a firstcas?")]
    Astray,
    /// The other process says that it cannot or will not.
    #[error("{0}")]
    Declined(String),
    /// The new process cannot be started.
    #[error("{} cannot be started", .binary.display())]
    NotStarted {
        /// The program.
        binary: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The new process ended at once.
    #[error("the new process ended before it could take over ({0}); its own words are in the log")]
    Ended(ExitStatus),
    /// The operating system refused something basic.
    #[error("the two processes cannot speak to each other")]
    System(#[from] io::Error),
}

/// What the processes say to each other, a line each. No `Debug`: one of them carries a key.
#[derive(Deserialize, Serialize)]
pub(crate) enum Word {
    Hello { pid: u32, patience: Duration },
    Successor { pid: u32 },
    Start { binary: PathBuf, config: PathBuf },
    Sockets { names: Vec<String>, affinity_key: Option<String>, logon_key: Option<String> },
    Serving,
    Yours,
    NotWanted,
    Settled,
    Done { pid: u32, drains: u32, for_at_most: Duration },
    Failed { why: String },
}

/// What the old process has for the next one.
pub(super) struct Estate {
    pub(super) upgrade: Upgrade,
    pub(super) sockets: Arc<Sockets>,
    pub(super) affinity_key: Option<Secret>,
    pub(super) logon_key: Option<Secret>,
    /// The keytab that this process was given to its Kerberos library; the next one chooses its own.
    pub(super) keytab: Option<PathBuf>,
    /// The edge is to stop: nobody shall take its place any more.
    pub(super) is_stopping: Arc<AtomicBool>,
}

impl Successor {
    /// Has it read its configuration again.
    pub(super) fn reload(&self) {
        let pid = i32::try_from(self.pid).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid
            && let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::HUP)
        {
            log::warn!("the new process could not be told to read its configuration again: {error}");
        }
    }
}

/// Ends a process; one that may end by itself can write its log first.
fn end(child: &mut Child, patience: Duration) -> io::Result<()> {
    let deadline = Instant::now() + patience;
    while child.try_wait()?.is_none() && Instant::now() < deadline {
        thread::sleep(A_MOMENT);
    }
    child.kill()
}

/// What a process has from the one before.
#[derive(Default)]
pub struct Inheritance {
    pub(super) sockets: Sockets,
    pub(super) affinity_key: Option<Secret>,
    pub(super) logon_key: Option<Secret>,
}

/// The process that serves from now on.
pub(super) struct Successor {
    pub(super) pid: u32,
    /// If this process has started it.
    pub(super) child: Option<Child>,
}

impl Estate {
    /// Hands over to whoever waits at the socket.
    pub(super) fn hand_over(&self) -> Result<Successor, HandoverError> {
        let mut line = self.call(Instant::now() + MEETING)?;
        match line.hear(Instant::now() + MEETING)? {
            Word::Successor { pid } => self.hand_over_to(line, pid, Instant::now() + self.upgrade.timeout),
            Word::Start { binary, config } => {
                let result = self.start_and_hand_over(&binary, &config);
                let (drains, for_at_most) = (std::process::id(), self.upgrade.drain_timeout);
                let _ = match &result {
                    Ok(Successor { pid, .. }) => line.say(&Word::Done { pid: *pid, drains, for_at_most }, &[]),
                    Err(error) => line.say(&Word::Failed { why: whole_chain(error) }, &[]),
                }; // whoever asked need not wait
                result
            }
            _ => Err(HandoverError::Astray),
        }
    }

    /// Connects, and waits for somebody to be there.
    fn call(&self, deadline: Instant) -> Result<Line, HandoverError> {
        let place = place(&self.upgrade)?;
        loop {
            match Line::to(place) {
                Err(HandoverError::NobodyThere(_)) if Instant::now() < deadline => thread::sleep(A_MOMENT),
                line => {
                    let mut line = line?;
                    let patience = self.upgrade.timeout;
                    line.say(&Word::Hello { pid: std::process::id(), patience }, &[])?;
                    return Ok(line);
                }
            }
        }
    }

    fn start_and_hand_over(&self, binary: &Path, config: &Path) -> Result<Successor, HandoverError> {
        let deadline = Instant::now() + self.upgrade.timeout;
        let mut command = Command::new(binary);
        command.args(["run", "--upgrade", "--config"]).arg(config).stdin(Stdio::null());
        client_keytab::forget(&mut command, self.keytab.as_deref());
        let not_started = |source| HandoverError::NotStarted { binary: binary.to_owned(), source };
        let mut child = command.spawn().map_err(not_started)?;
        match self.hand_over_to_child(&mut child, deadline) {
            Ok(successor) => Ok(Successor { child: Some(child), ..successor }),
            Err(error) => {
                let may_end_itself = matches!(error, HandoverError::Declined(_) | HandoverError::Silent);
                let patience = if may_end_itself { MEETING } else { Duration::ZERO };
                end(&mut child, patience)?;
                let status = child.wait()?;
                // A crash shows only in the status; and how it ended by itself says more than that it did.
                Err(if matches!(error, HandoverError::Gone) { HandoverError::Ended(status) } else { error })
            }
        }
    }

    fn hand_over_to_child(&self, child: &mut Child, deadline: Instant) -> Result<Successor, HandoverError> {
        loop {
            if let Some(status) = child.try_wait()? {
                return Err(HandoverError::Ended(status));
            }
            if self.is_stopping.load(Relaxed) {
                return Err(HandoverError::Stopping);
            }
            match self.call(Instant::now()) {
                Err(HandoverError::NobodyThere(_)) if Instant::now() < deadline => thread::sleep(A_MOMENT),
                Err(HandoverError::NobodyThere(_)) => return Err(HandoverError::Silent),
                Err(error) => return Err(error),
                Ok(mut line) => match self.hear(&mut line, deadline)? {
                    Word::Successor { pid } if pid == child.id() => return self.hand_over_to(line, pid, deadline),
                    _ => return Err(HandoverError::Astray),
                },
            }
        }
    }

    fn hand_over_to(&self, mut line: Line, pid: u32, deadline: Instant) -> Result<Successor, HandoverError> {
        let (names, descriptors) = self.sockets.all();
        let text = |key: &Option<Secret>| key.as_ref().map(|key| BASE64_STANDARD.encode(key.expose()));
        let (affinity_key, logon_key) = (text(&self.affinity_key), text(&self.logon_key));
        line.say(&Word::Sockets { names, affinity_key, logon_key }, &descriptors)?;
        match self.hear(&mut line, deadline) {
            Ok(Word::Serving) => {
                line.say(&Word::Yours, &[])?;
                match line.hear(Instant::now() + MEETING) {
                    Err(HandoverError::Gone) => Err(HandoverError::Gone), // it died of its first client, or of its pid file
                    Ok(_) | Err(_) => Ok(Successor { pid, child: None }), // all is in place, or it says why not itself
                }
            }
            Ok(Word::Failed { why }) => Err(HandoverError::Declined(format!("the new process cannot serve: {why}"))),
            Ok(_) => Err(HandoverError::Astray),
            Err(error) => {
                let _ = line.say(&Word::NotWanted, &[]); // it may be gone
                Err(error)
            }
        }
    }
}

impl Estate {
    /// What the other process says by then, unless the edge is to stop meanwhile.
    fn hear(&self, line: &mut Line, deadline: Instant) -> Result<Word, HandoverError> {
        loop {
            let soon = Instant::now() + A_MOMENT;
            match line.hear(soon.min(deadline)) {
                Err(HandoverError::Silent) if self.is_stopping.load(Relaxed) => return Err(HandoverError::Stopping),
                Err(HandoverError::Silent) if soon < deadline => {}
                heard => return heard,
            }
        }
    }
}

/// Tells whoever waits at the socket that this process does not hand over.
pub(super) fn decline(upgrade: &Upgrade, why: &str) -> Result<(), HandoverError> {
    let mut line = Line::to(place(upgrade)?)?;
    Ok(line.say(&Word::Failed { why: why.to_owned() }, &[])?)
}

fn place(upgrade: &Upgrade) -> Result<&Path, HandoverError> {
    upgrade.socket.as_deref().ok_or(HandoverError::NotConfigured)
}

/// The process before, as its successor sees it.
pub struct Predecessor {
    line: Line,
    pid: u32,
    patience: Duration,
}

impl Predecessor {
    /// Waits at the socket for the process that serves, and takes what it has.
    ///
    /// # Errors
    /// It does not come, or is not whom we wait for.
    pub fn meet(upgrade: &Upgrade) -> Result<(Predecessor, Inheritance), HandoverError> {
        let place = place(upgrade)?;
        let deadline = Instant::now() + upgrade.timeout;
        let meeting = Meeting::at(place, rustix::process::geteuid().as_raw())?;
        let (mut line, pid, _) = meeting.caller(deadline, || true)?;
        drop(meeting);
        line.say(&Word::Successor { pid: std::process::id() }, &[])?;
        let Word::Sockets { names, affinity_key, logon_key } = line.hear(deadline)? else {
            return Err(HandoverError::Astray);
        };
        let descriptors = std::mem::take(&mut line.descriptors);
        if descriptors.len() != names.len() {
            return Err(HandoverError::Astray);
        }
        let key = |text: Option<String>| text.and_then(|key| BASE64_STANDARD.decode(key).ok()).map(Secret::new);
        let (affinity_key, logon_key) = (key(affinity_key), key(logon_key));
        let sockets = Sockets::handed_over(names.into_iter().zip(descriptors).collect());
        Ok((Predecessor { line, pid, patience: upgrade.timeout }, Inheritance { sockets, affinity_key, logon_key }))
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Tells it why this process cannot take over.
    pub fn failed(mut self, why: &str) {
        let _ = self.line.say(&Word::Failed { why: why.to_owned() }, &[]); // our own exit status tells it, too
    }

    /// This process serves: the one before may go.
    ///
    /// # Errors
    /// It will not, so this process must.
    pub fn take_over(&mut self) -> Result<(), HandoverError> {
        let heard = self.line.say(&Word::Serving, &[]).map_err(HandoverError::from);
        match heard.and_then(|()| self.line.hear(Instant::now() + self.patience)) {
            Ok(Word::Yours) => Ok(()),
            Ok(_) | Err(HandoverError::Silent) => {
                Err(HandoverError::Declined("the process before goes on serving".to_owned()))
            }
            Err(_) => Ok(()), // it has died, and somebody must serve
        }
    }

    /// All is in its place.
    pub fn settled(mut self) {
        let _ = self.line.say(&Word::Settled, &[]); // it goes anyway
    }
}

/// Where the processes meet: a Unix socket that is there only meanwhile.
pub(crate) struct Meeting {
    listener: UnixListener,
    path: PathBuf,
    /// Who is waited for.
    uid: u32,
}

impl Meeting {
    /// Waits for a process of this user.
    pub(crate) fn at(path: &Path, uid: u32) -> Result<Self, HandoverError> {
        let cannot = |problem: String| HandoverError::Place { path: path.to_owned(), problem };
        let folder = path.parent().unwrap_or(Path::new("/"));
        is_safe(folder, uid).map_err(cannot)?;
        if let Ok(there) = path.symlink_metadata() {
            if !there.file_type().is_socket() {
                return Err(cannot("something that is no socket is there".to_owned()));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(cannot("another upgrade is under way".to_owned()));
            }
            fs::remove_file(path)?; // left by a process that was killed
        }
        // The folder's owner may put something else in the socket's place at any moment, a link to somebody's file; so nothing
        // is done to what stands at the path but by root, to the link itself.
        let before = rustix::process::umask(Mode::from_bits_retain(!OWNERS_ALONE));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(|error| cannot(error.to_string()))?;
        let meeting = Meeting { listener, path: path.to_owned(), uid };
        if rustix::process::geteuid().as_raw() != uid {
            std::os::unix::fs::lchown(path, Some(uid), None)?; // it must be able to connect
        }
        Ok(meeting)
    }

    /// Whoever connects and says Hello, with its process number, and how long it will wait for its successor, while it
    /// `is_expected`.
    pub(crate) fn caller(
        &self,
        deadline: Instant,
        is_expected: impl Fn() -> bool,
    ) -> Result<(Line, u32, Duration), HandoverError> {
        sockopt::set_socket_timeout(&self.listener, sockopt::Timeout::Recv, Some(A_MOMENT)).map_err(io::Error::from)?;
        while Instant::now() < deadline {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::Interrupted if is_expected() => continue,
                    ErrorKind::WouldBlock | ErrorKind::Interrupted => return Err(HandoverError::Gone),
                    _ => return Err(error.into()),
                },
            };
            let mut line = Line::over(stream, self.uid)?;
            match line.hear(deadline.min(Instant::now() + MEETING)) {
                Ok(Word::Hello { pid, patience }) => return Ok((line, pid, patience)),
                Ok(Word::Failed { why }) => return Err(HandoverError::Declined(why)),
                Ok(_) => return Err(HandoverError::Astray),
                Err(_) => {} // somebody who looked whether anybody is here
            }
        }
        Err(HandoverError::Silent)
    }
}

impl Drop for Meeting {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path); // a stale one is removed by the next upgrade
    }
}

/// Whoever else may write to the folder could wait there in our place.
fn is_safe(folder: &Path, uid: u32) -> Result<(), String> {
    let there = folder.metadata().map_err(|error| format!("its folder cannot be used: {error}"))?;
    let owners = [uid, rustix::process::geteuid().as_raw(), ROOT];
    match owners.contains(&there.uid()) && there.mode() & WRITABLE_BY_OTHERS == 0 {
        true => Ok(()),
        false => Err(format!("others than user {uid} may write to its folder; give it mode 0700 and that owner")),
    }
}

/// One end of what two processes say to each other.
pub(crate) struct Line {
    stream: UnixStream,
    /// Received and not yet understood.
    waiting: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

impl Line {
    fn to(place: &Path) -> Result<Self, HandoverError> {
        let own = rustix::process::geteuid().as_raw();
        is_safe(place.parent().unwrap_or(Path::new("/")), own)
            .map_err(|problem| HandoverError::Place { path: place.to_owned(), problem })?;
        let stream = UnixStream::connect(place).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => {
                HandoverError::NobodyThere(place.to_owned()) // or not quite yet
            }
            _ => error.into(),
        })?;
        Line::over(stream, own)
    }

    fn over(stream: UnixStream, uid: u32) -> Result<Self, HandoverError> {
        let peer = sockopt::socket_peercred(&stream).map_err(io::Error::from)?.uid.as_raw();
        stream.set_nonblocking(false)?;
        stream.set_write_timeout(Some(MEETING))?;
        match [uid, ROOT].contains(&peer) {
            true => Ok(Line { stream, waiting: Vec::new(), descriptors: Vec::new() }),
            false => Err(HandoverError::Stranger(peer)),
        }
    }

    pub(crate) fn say(&mut self, word: &Word, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut text = serde_json::to_vec(word)?;
        text.push(b'\n');
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::Error::other(format!("more than {DESCRIPTORS_MAX} listening sockets")));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)?;
        self.stream.write_all(&text[sent..])
    }

    pub(crate) fn hear(&mut self, deadline: Instant) -> Result<Word, HandoverError> {
        loop {
            if let Some(end) = self.waiting.iter().position(|byte| *byte == b'\n') {
                let text: Vec<_> = self.waiting.drain(..=end).collect();
                return serde_json::from_slice(&text).map_err(|_| HandoverError::Astray);
            }
            if self.waiting.len() > WORD_BYTES_MAX {
                return Err(HandoverError::Astray);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(HandoverError::Silent);
            }
            self.stream.set_read_timeout(Some(left))?;
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<(), HandoverError> {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC);
        let received = match received.map_err(|error| io::Error::from(error).kind()) {
            Ok(received) => received,
            Err(ErrorKind::Interrupted) => return Ok(()), // a signal came; nothing is lost
            Err(ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Err(HandoverError::Silent),
            Err(_) => return Err(HandoverError::Gone),
        };
        if received.bytes == 0 {
            return Err(HandoverError::Gone);
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        self.waiting.extend_from_slice(&bytes[..received.bytes]);
        Ok(())
    }
}

/// The mode of a file that its owner alone may use.
const OWNERS_ALONE: u32 = 0o600;
/// How long two processes may take to find each other, and to say what takes no time.
const MEETING: Duration = Duration::from_secs(5);
/// How soon something is looked at again that announces itself by nothing.
const A_MOMENT: Duration = Duration::from_millis(20);
/// Linux's own bound on descriptors in one message.
const DESCRIPTORS_MAX: usize = 253;
const SPACE: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));
/// The names of as many sockets, or an error with all its mistakes.
const WORD_BYTES_MAX: usize = 1 << 20;
const ROOT: u32 = 0;
const WRITABLE_BY_OTHERS: u32 = 0o022;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use std::io::Write as _;

    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn own() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[test]
    fn nobody_meets_where_others_may_write() {
        let folder = tempfile::tempdir().expect("a folder");
        for mode in [0o777, 0o1777, 0o770] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).expect("it is ours");
            let place = folder.path().join("upgrade.sock");
            let error = Meeting::at(&place, own()).err().expect("a mistake").to_string();
            assert!(error.contains("may write to its folder"), "{error}");
            assert!(matches!(Line::to(&place), Err(HandoverError::Place { .. })));
        }
    }

    #[test]
    fn the_socket_is_for_its_owner_alone_and_gone_with_its_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("upgrade.sock");
        drop(UnixListener::bind(&place).expect("left by a process that was killed"));
        let meeting = Meeting::at(&place, own()).expect("a socket");
        assert_eq!(place.metadata().expect("it is there").mode() & 0o777, 0o600);
        let error = Meeting::at(&place, own()).err().expect("a mistake").to_string();
        assert!(error.contains("another upgrade is under way"), "{error}");
        drop(meeting);
        assert!(!place.exists());
        fs::write(&place, "precious").expect("written");
        let error = Meeting::at(&place, own()).err().expect("a mistake").to_string();
        assert!(error.contains("something that is no socket"), "{error}");
    }

    #[test]
    fn whoever_only_looks_or_talks_nonsense_is_not_taken_for_a_process_of_ours() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("upgrade.sock");
        let meeting = Meeting::at(&place, own()).expect("a socket");
        drop(UnixStream::connect(&place).expect("it listens"));
        let mut long = UnixStream::connect(&place).expect("it listens");
        let endless = thread::spawn(move || while long.write_all(&[b'x'; 4096]).is_ok() {});
        let mut caller = UnixStream::connect(&place).expect("it listens");
        let hello = Word::Hello { pid: 7, patience: MEETING };
        writeln!(caller, "{}", serde_json::to_string(&hello).expect("JSON")).expect("it reads");
        let (_, pid, patience) = meeting.caller(soon(), || true).expect("a caller");
        assert_eq!((pid, patience), (7, MEETING));
        endless.join().expect("it was hung up on");
        assert!(matches!(meeting.caller(soon(), || false), Err(HandoverError::Gone)));
    }

    #[test]
    fn sockets_arrive_as_they_were_sent() {
        let (one, other) = UnixStream::pair().expect("a pair");
        let [mut one, mut other] = [one, other].map(|stream| Line::over(stream, own()).expect("ours"));
        let sockets: Vec<_> =
            (0..9).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
        let names: Vec<_> = sockets.iter().map(|socket| socket.local_addr().expect("its own").to_string()).collect();
        let descriptors: Vec<_> = sockets.iter().map(std::os::fd::AsFd::as_fd).collect();
        let word = Word::Sockets { names: names.clone(), affinity_key: None, logon_key: None };
        one.say(&word, &descriptors).expect("sent");
        one.say(&Word::Yours, &[]).expect("sent");
        let Ok(Word::Sockets { names: heard, .. }) = other.hear(soon()) else { unreachable!("it was said") };
        assert_eq!(heard, names);
        let arrived = std::mem::take(&mut other.descriptors).into_iter().map(std::net::TcpListener::from);
        let arrived: Vec<_> = arrived.map(|socket| socket.local_addr().expect("its own").to_string()).collect();
        assert_eq!(arrived, names);
        assert!(matches!(other.hear(soon()), Ok(Word::Yours)));
        drop(one);
        assert!(matches!(other.hear(soon()), Err(HandoverError::Gone)));
    }
}
