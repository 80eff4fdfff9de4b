//! `firstcas upgrade`: a new process takes the running one's place. `running::handover` tells what the two say to each
//! other; here is whoever asks for it, and waits for what comes of it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    fd::OwnedFd,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

use crate::{
    config::{Config, ConfigErrors},
    running::{
        handover::{HandoverError, Meeting, Word},
        pid_file,
    },
};

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// The process that serves now.
    pub serves: u32,
    /// The one that finishes what it has.
    pub drains: u32,
    /// How long it may.
    pub for_at_most: Duration,
}

/// Why no new process serves; the running one does as before.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The configuration has mistakes.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// The new program does not like the configuration, or is none.
    #[error("{} does not call the configuration good:\n{said}", .binary.display())]
    NotGood {
        /// The program.
        binary: PathBuf,
        /// What it wrote.
        said: String,
    },
    /// The new program cannot be started.
    #[error("{} cannot be started", .0.display())]
    NotStarted(PathBuf, #[source] io::Error),
    /// The configuration does not say where the processes meet, or who is running.
    #[error("process.{0} is not configured, and an upgrade needs it; the edge that runs must have it too")]
    NotConfigured(&'static str),
    /// Nobody is running.
    #[error("no firstcas is running, as far as {} says: {problem}", .pid_file.display())]
    NotRunning {
        /// Where its number was looked for.
        pid_file: PathBuf,
        /// What was found.
        problem: String,
    },
    /// It may not be asked.
    #[error("process {0} cannot be asked; be root, or the user that firstcas runs as")]
    NotAsked(u32, #[source] io::Error),
    /// It did not come to hear what is wanted.
    #[error(
        "process {0} does not answer SIGQUIT as a firstcas does that has process.upgrade_socket configured as here"
    )]
    NoAnswer(u32, #[source] HandoverError),
    /// It could not hand over.
    #[error("process {0} goes on serving")]
    NotHandedOver(u32, #[source] HandoverError),
}

/// Brings a new process of `binary` (of this program, if there is none) in the running one's place.
///
/// # Errors
/// The running process serves as before.
pub fn upgrade(file: &Path, binary: Option<&Path>) -> Result<Upgraded, UpgradeError> {
    let config = Config::load(file)?;
    let place = config.upgrade.socket.as_deref().ok_or(UpgradeError::NotConfigured("upgrade_socket"))?;
    let pid_file = config.pid_file.as_deref().ok_or(UpgradeError::NotConfigured("pid_file"))?;
    let binary = match binary {
        Some(binary) => std::path::absolute(binary),
        None => std::env::current_exe(),
    };
    let binary = binary.map_err(|error| UpgradeError::NotStarted(PathBuf::from("this program"), error))?;
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    check(&binary, &file)?;

    let running = Process::of(pid_file)?;
    let failed = |error| UpgradeError::NotHandedOver(running.pid, error);
    let meeting = Meeting::at(place, running.uid).map_err(failed)?;
    let not_asked = |error: rustix::io::Errno| UpgradeError::NotAsked(running.pid, error.into());
    pidfd_send_signal(&running.handle, Signal::QUIT).map_err(not_asked)?;
    let called = meeting.caller(Instant::now() + ANSWER, || running.is_alive());
    let (mut line, pid, patience) = called.map_err(|error| match matches!(error, HandoverError::Declined(_)) {
        true => failed(error),
        false => UpgradeError::NoAnswer(running.pid, error),
    })?;
    drop(meeting); // the new process will wait there
    line.say(&Word::Start { binary, config: file }, &[]).map_err(|error| failed(error.into()))?;
    match line.hear(Instant::now() + patience + ANSWER) {
        Ok(Word::Done { pid, drains, for_at_most }) => Ok(Upgraded { serves: pid, drains, for_at_most }),
        Ok(Word::Failed { why }) => Err(UpgradeError::NotHandedOver(pid, HandoverError::Declined(why))),
        Ok(_) => Err(failed(HandoverError::Astray)),
        Err(error) => Err(failed(error)),
    }
}

/// The new program checks the configuration itself: it may know other options, and a program that cannot even do that
/// would not serve.
fn check(binary: &Path, file: &Path) -> Result<(), UpgradeError> {
    let mut command = Command::new(binary);
    command.args(["check", "--config"]).arg(file).stdin(Stdio::null());
    let output = command.output().map_err(|error| UpgradeError::NotStarted(binary.to_owned(), error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(UpgradeError::NotGood { binary: binary.to_owned(), said })
}

/// The process that serves.
struct Process {
    pid: u32,
    uid: u32,
    /// Stays its own, even if the number becomes another's.
    handle: OwnedFd,
}

impl Process {
    fn of(pid_file: &Path) -> Result<Self, UpgradeError> {
        let not_running = |problem: String| UpgradeError::NotRunning { pid_file: pid_file.to_owned(), problem };
        let pid = pid_file::read(pid_file).map_err(|error| not_running(error.to_string()))?;
        let gone = || not_running(format!("process {pid} is not there any more"));
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(gone)?;
        let handle = pidfd_open(number, PidfdFlags::empty()).map_err(|_| gone())?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| gone())?;
        let name = field(&status, "Name").ok_or_else(gone)?;
        // SIGQUIT would end anybody else.
        if !name.starts_with(OURS) {
            return Err(not_running(format!("process {pid} is {name}, which is no {OURS}")));
        }
        // The effective one, by which it meets others.
        let uid = field(&status, "Uid").and_then(|ids| ids.split_whitespace().nth(1)?.parse().ok()).ok_or_else(gone)?;
        Ok(Process { pid, uid, handle })
    }

    fn is_alive(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        field(&status, "State").is_some_and(|state| !state.starts_with('Z'))
    }
}

/// A field of what the system says of a process (proc(5)).
fn field<'s>(status: &'s str, name: &str) -> Option<&'s str> {
    let mut fields = status.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(known, _)| *known == name).map(|(_, value)| value.trim())
}

/// How programs of ours are called, whatever follows.
const OURS: &str = "firstcas";
/// How long a process may take to follow a signal: it does so at once, but a machine may be busy.
const ANSWER: Duration = Duration::from_secs(10);
