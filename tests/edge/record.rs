//! The log of every edge in this process, kept for tests to read.

use std::{
    fmt::Write as _,
    sync::{Mutex, Once, PoisonError},
};

use log::{Level, LevelFilter, Metadata, Record, kv};
use tokio::sync::Notify;

use crate::harness::within;

/// Records from now on; once is enough for the process.
pub fn start() {
    static START: Once = Once::new();
    START.call_once(|| {
        log::set_logger(&Recorder).expect("no other logger in this process");
        log::set_max_level(LevelFilter::Info);
    });
}

/// The first line that has all of these parts, as soon as it is written. Other tests write too: one part must be this
/// test's own.
pub async fn line(parts: &[&str]) -> String {
    let search = async {
        loop {
            let mut news = std::pin::pin!(NEWS.notified());
            news.as_mut().enable();
            if let Some(line) = lines(parts).into_iter().next() {
                return line;
            }
            news.await;
        }
    };
    within(&format!("a line of the log with {parts:?}"), search).await
}

/// All lines so far that have all of these parts.
pub fn lines(parts: &[&str]) -> Vec<String> {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).cloned().collect()
}

struct Recorder;

impl log::Log for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = format!("{} {} {}", record.level(), record.target(), record.args());
        let _ = record.key_values().visit(&mut Pairs(&mut line)); // a String takes everything
        line.push(' ');
        if line.contains("/hammer ") {
            return; // too many to search through, and nobody does
        }
        LINES.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        NEWS.notify_waiters();
    }

    fn flush(&self) {}
}

struct Pairs<'l>(&'l mut String);

impl<'kvs> kv::VisitSource<'kvs> for Pairs<'_> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let _ = write!(self.0, " {key}={value}"); // a String takes everything
        Ok(())
    }
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static NEWS: Notify = Notify::const_new();
