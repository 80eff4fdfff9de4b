//! Where events go besides the log: syslog and the journal of systemd.
//!
//! Each event is one datagram, sent without waiting. Who does not take it (nobody there, or not reading) has lost it: a
//! request never waits for a log, and the log on standard error has the event all the same.

use std::{
    io,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use syslog::LogFormat as _;

use super::{Event, Severity, TARGET};
use crate::config;

/// From now on events go here too, and nowhere else but to the log.
pub fn also_to(outlets: &[config::EventOutlet]) {
    let open = |outlet: &config::EventOutlet| {
        let (encoding, path): (Encoding, _) = match outlet {
            config::EventOutlet::Syslog => (syslog_message, SYSLOG),
            config::EventOutlet::Journald => (journal_entry, libsystemd::logging::SD_JOURNAL_SOCK_PATH),
        };
        Outlet::open(Path::new(path), encoding)
            .inspect_err(|error| log::warn!(target: LOG, "events do not go to {path}: {error}"))
            .ok()
    };
    OUTLETS.store(Arc::new(outlets.iter().filter_map(open).collect()));
}

pub(super) fn send(event: Event, line: &str) {
    let (outlets, level) = (OUTLETS.load(), event.severity().level());
    let takers = outlets.iter().filter(|outlet| outlet.send(event, line)).count();
    if takers == 0 && !outlets.is_empty() && !log::log_enabled!(target: TARGET, level) {
        // The filter that leaves events out relied on the outlets.
        log::log!(target: LOG, level, event = event.id(), cure = event.cure(); "{line}");
    }
}

const SYSLOG: &str = "/dev/log";

static OUTLETS: LazyLock<ArcSwap<Vec<Outlet>>> = LazyLock::new(ArcSwap::default);

/// An event and its line as a message.
type Encoding = fn(Event, &str) -> Vec<u8>;

struct Outlet {
    path: PathBuf,
    /// Without a peer: each message finds whoever listens by then, so a daemon may be started again.
    socket: UnixDatagram,
    encoding: Encoding,
    /// Events that it has not taken since it took one.
    lost: AtomicU64,
}

impl Outlet {
    fn open(path: &Path, encoding: Encoding) -> io::Result<Outlet> {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Outlet { path: path.to_owned(), socket, encoding, lost: AtomicU64::new(0) })
    }

    /// Whether it was taken.
    fn send(&self, event: Event, line: &str) -> bool {
        let path = self.path.display();
        match self.socket.send_to(&(self.encoding)(event, line), &self.path) {
            Ok(_) => {
                let lost = self.lost.swap(0, Relaxed);
                if lost > 0 {
                    log::info!(target: LOG, "events go to {path} again; {lost} did not");
                }
                true
            }
            Err(error) => {
                if self.lost.fetch_add(1, Relaxed) == 0 {
                    log::warn!(target: LOG, "events do not go to {path}: {error}; this log has them");
                }
                false
            }
        }
    }
}

/// As RFC 3164 has it, without the host's name: what the daemons behind /dev/log read, which RFC 5424 is not.
fn syslog_message(event: Event, line: &str) -> Vec<u8> {
    let format = syslog::Formatter3164 {
        facility: syslog::Facility::LOG_DAEMON,
        hostname: None,
        process: IDENTIFIER.to_owned(),
        pid: std::process::id(),
    };
    let severity = match event.severity() {
        Severity::Information => syslog::Severity::LOG_INFO,
        Severity::Warning => syslog::Severity::LOG_WARNING,
        Severity::Error => syslog::Severity::LOG_ERR,
    };
    let mut message = Vec::new();
    let _ = format.format(&mut message, severity, format_args!("{}: {line}; cure: {}", event.id(), event.cure()));
    message
}

/// In the journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL), which one line each is enough for. libsystemd's
/// `journal_send` would wait for a journal that does not read.
fn journal_entry(event: Event, line: &str) -> Vec<u8> {
    let priority = match event.severity() {
        Severity::Information => 6,
        Severity::Warning => 4,
        Severity::Error => 3,
    };
    let (id, cure) = (event.id(), event.cure());
    format!(
        "MESSAGE={id}: {line}\nPRIORITY={priority}\nSYSLOG_IDENTIFIER={IDENTIFIER}\n\
         FIRSTCAS_EVENT={id}\nFIRSTCAS_CURE={cure}\n"
    )
    .into_bytes()
}

/// Not this module's name: a filter of `firstcas::event` is one of everything that begins like it.
const LOG: &str = "firstcas::outlets";

const IDENTIFIER: &str = "firstcas";

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test's own values
mod tests {
    use std::time::Duration;

    use super::*;

    struct Daemon {
        folder: tempfile::TempDir,
        socket: UnixDatagram,
    }

    impl Daemon {
        fn start() -> Daemon {
            let folder = tempfile::tempdir().unwrap();
            let socket = Daemon::listen(&folder);
            Daemon { folder, socket }
        }

        fn listen(folder: &tempfile::TempDir) -> UnixDatagram {
            let socket = UnixDatagram::bind(folder.path().join("log")).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            socket
        }

        fn outlet(&self, encoding: Encoding) -> Outlet {
            Outlet::open(&self.folder.path().join("log"), encoding).unwrap()
        }

        fn read(&self) -> String {
            let mut message = [0; 4096];
            let length = self.socket.recv(&mut message).unwrap();
            String::from_utf8(message[..length].to_vec()).unwrap()
        }
    }

    #[test]
    fn syslog_takes_an_event_as_one_line_with_its_severity_id_and_cure() {
        let daemon = Daemon::start();
        daemon.outlet(syslog_message).send(Event::DirectoryAway, "nobody answers");
        let message = daemon.read();
        let (head, text) = message.split_once("]: ").unwrap();
        assert!(head.starts_with("<27>"), "daemon.err, in {message}");
        assert!(head.ends_with(&format!(" firstcas[{}", std::process::id())), "{message}");
        assert_eq!(text, format!("FC121: nobody answers; cure: {}", Event::DirectoryAway.cure()));
        for (event, priority) in [(Event::WrongPasswords, "<28>"), (Event::DirectoryBack, "<30>")] {
            daemon.outlet(syslog_message).send(event, "x");
            assert!(daemon.read().starts_with(priority));
        }
    }

    #[test]
    fn the_journal_takes_an_event_with_fields_to_search_by() {
        let daemon = Daemon::start();
        daemon.outlet(journal_entry).send(Event::WrongPasswords, "too many for ana");
        let entry = daemon.read();
        let cure = format!("FIRSTCAS_CURE={}", Event::WrongPasswords.cure());
        let fields = [
            "MESSAGE=FC127: too many for ana",
            "PRIORITY=4",
            "SYSLOG_IDENTIFIER=firstcas",
            "FIRSTCAS_EVENT=FC127",
            &cure,
        ];
        assert!(entry.lines().eq(fields) && entry.ends_with('\n'), "{entry}");
    }

    #[test]
    fn a_daemon_that_is_away_loses_events_and_gets_the_next_when_it_is_back() {
        let mut daemon = Daemon::start();
        let outlet = daemon.outlet(journal_entry);
        std::fs::remove_file(daemon.folder.path().join("log")).unwrap();
        for lost in 1..=3 {
            assert!(!outlet.send(Event::ServerBack, "unheard"));
            assert_eq!(outlet.lost.load(Relaxed), lost);
        }
        daemon.socket = Daemon::listen(&daemon.folder);
        assert!(outlet.send(Event::ServerBack, "heard"));
        assert!(daemon.read().contains("heard\n"));
        assert_eq!(outlet.lost.load(Relaxed), 0);
    }

    #[test]
    fn a_daemon_that_does_not_read_is_not_waited_for() {
        let daemon = Daemon::start();
        let outlet = daemon.outlet(syslog_message);
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let taken = (0..10_000).filter(|_| outlet.send(Event::ServerBack, "nobody reads this")).count();
            ended.send((outlet, taken))
        });
        let (outlet, taken) = end.recv_timeout(Duration::from_secs(10)).expect("it waits for the daemon");
        assert!((1..10_000).contains(&taken) && outlet.lost.load(Relaxed) > 0, "{taken}");
        assert!(daemon.read().contains("nobody reads this"));
    }
}
