//! The log: one line a record on standard error, as `key=value` pairs or as JSON, by configuration. Whatever the filter
//! says, the debugging of the libraries stays out, because it shows credentials.

use std::{
    fmt::Display,
    io::{self, Write},
    sync::OnceLock,
};

use arc_swap::ArcSwap;
use log::{Level, Metadata, Record, kv};

use crate::{
    config::{Log, LogFormat},
    events,
};

/// Starts logging, and throttles events from then on. `RUST_LOG` overrides the configured filter. Where the process has a
/// logger already, that one stays.
pub fn start(settings: &Log) {
    if log::set_logger(&InForce).is_ok() {
        events::throttle();
        let _ = LOGGER.set(ArcSwap::from_pointee(logger(settings))); // nobody else sets it
    }
    apply(settings);
}

/// Puts other settings into force, from the next line on.
pub fn apply(settings: &Log) {
    if let Some(in_force) = LOGGER.get() {
        let logger = logger(settings);
        let level = logger.filter();
        in_force.store(logger.into());
        log::set_max_level(level);
    }
    events::also_to(&settings.events);
}

fn logger(settings: &Log) -> env_logger::Logger {
    let format = settings.format;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| settings.filter.clone());
    env_logger::Builder::new()
        .parse_filters(&filter)
        .format(move |out, record| {
            let time = out.timestamp_millis();
            write_line(out, format, &time, record)
        })
        .build()
}

/// The process's one logger, whose settings can change.
struct InForce;

static LOGGER: OnceLock<ArcSwap<env_logger::Logger>> = OnceLock::new();

impl log::Log for InForce {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        may_be_told(metadata) && LOGGER.get().is_some_and(|logger| logger.load().enabled(metadata))
    }

    fn log(&self, record: &Record<'_>) {
        if let Some(logger) = LOGGER.get().filter(|_| may_be_told(record.metadata()) && !is_of_handshake(record)) {
            logger.load().log(record);
        }
    }

    fn flush(&self) {}
}

/// Pingora's own debugging shows requests as they are, with passwords and cookies, so nobody's but ours is written.
fn may_be_told(of: &Metadata<'_>) -> bool {
    let ours = of.target() == OURS || of.target().starts_with("firstcas::");
    ours || of.level() <= Level::Info
}

/// Pingora writes a line for every TLS handshake that fails, as each scanner's does, and for every connection that is closed
/// before one, which an event tells of where it matters. Anybody could fill the disk with them.
fn is_of_handshake(record: &Record<'_>) -> bool {
    record.target() == "pingora_core::services::listening"
        && record.args().to_string().starts_with("Downstream handshake ")
}

const OURS: &str = "firstcas";

fn write_line(out: impl Write, format: LogFormat, time: &impl Display, record: &Record<'_>) -> io::Result<()> {
    let mut line = Line { out, format, is_empty: true };
    line.pair("time", Value::Shown(time))?;
    line.pair("level", Value::Text(record.level().as_str()))?;
    line.pair("target", Value::Text(record.target()))?;
    match record.args().as_str() {
        Some("") => {}
        Some(message) => line.pair("msg", Value::Text(message))?,
        None => line.pair("msg", Value::Shown(record.args()))?,
    }
    record.key_values().visit(&mut line).map_err(io::Error::other)?;
    line.end()
}

/// A line being written, straight to where it goes.
struct Line<W> {
    out: W,
    format: LogFormat,
    is_empty: bool,
}

#[derive(Clone, Copy)]
enum Value<'v> {
    Number(u64),
    Text(&'v str),
    Shown(&'v dyn Display),
}

impl<W: Write> Line<W> {
    fn pair(&mut self, key: &str, value: Value<'_>) -> io::Result<()> {
        match (self.format, self.is_empty) {
            (LogFormat::KeyValue, true) => write!(self.out, "{key}=")?,
            (LogFormat::KeyValue, false) => write!(self.out, " {key}=")?,
            (LogFormat::Json, true) => write!(self.out, "{{\"{key}\":")?,
            (LogFormat::Json, false) => write!(self.out, ",\"{key}\":")?,
        }
        self.is_empty = false;
        match value {
            Value::Number(number) => write!(self.out, "{number}"),
            Value::Text(text) => self.text(text),
            Value::Shown(shown) => self.text(&shown.to_string()),
        }
    }

    /// A value as it is, if it is one plain word; else in quotes with everything a reader or a parser could trip over
    /// escaped, so that no client can forge a second line or a second pair.
    fn text(&mut self, text: &str) -> io::Result<()> {
        let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
        match self.format {
            LogFormat::KeyValue if !text.is_empty() && text.bytes().all(is_plain) => {
                self.out.write_all(text.as_bytes())
            }
            LogFormat::KeyValue => write!(self.out, "{text:?}"),
            LogFormat::Json => Ok(serde_json::to_writer(&mut self.out, text)?),
        }
    }

    fn end(mut self) -> io::Result<()> {
        self.out.write_all(match self.format {
            LogFormat::KeyValue => b"\n",
            LogFormat::Json => b"}\n",
        })
    }
}

impl<'kvs, W: Write> kv::VisitSource<'kvs> for Line<W> {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let written = if let Some(number) = value.to_u64() {
            self.pair(key.as_str(), Value::Number(number))
        } else if let Some(text) = value.to_borrowed_str() {
            self.pair(key.as_str(), Value::Text(text))
        } else {
            self.pair(key.as_str(), Value::Shown(&value))
        };
        written.map_err(kv::Error::boxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: LogFormat, record: &Record<'_>) -> String {
        let mut line = Vec::new();
        write_line(&mut line, format, &"T", record).expect("a Vec takes everything");
        String::from_utf8(line).expect("text")
    }

    fn record(check: impl FnOnce(&Record<'_>)) {
        let pairs: [(&str, kv::Value<'_>); 3] = [
            ("user", kv::Value::from("ana\nlevel=ERROR msg=\"forged\"")),
            ("status", kv::Value::from(200_u64)),
            ("path", kv::Value::from("/owa/")),
        ];
        check(
            &Record::builder()
                .level(log::Level::Info)
                .target("firstcas::access")
                .args(format_args!("a request"))
                .key_values(&pairs)
                .build(),
        );
    }

    #[test]
    fn the_debugging_of_others_which_shows_passwords_is_not_written() {
        for (target, level, told) in [
            ("firstcas::edge", Level::Trace, true),
            ("firstcas", Level::Debug, true),
            ("pingora_proxy::proxy_h1", Level::Warn, true),
            ("pingora_proxy::proxy_h1", Level::Debug, false),
            ("pingora_core::protocols", Level::Trace, false),
            ("ldap3", Level::Debug, false),
            ("firstcasket", Level::Debug, false),
        ] {
            let metadata = Metadata::builder().target(target).level(level).build();
            assert_eq!(may_be_told(&metadata), told, "{target} {level}");
        }
    }

    #[test]
    fn failed_handshakes_are_not_written_and_connections_that_cannot_be_accepted_are() {
        let address = "192.0.2.7:61000";
        for (target, message, is_left_out) in [
            ("pingora_core::services::listening", format!("Downstream handshake error from {address}: why"), true),
            ("pingora_core::services::listening", "Downstream handshake error: why".to_owned(), true),
            ("pingora_core::services::listening", "Downstream handshake timeout".to_owned(), true),
            ("pingora_core::services::listening", "Accept() failed Too many open files".to_owned(), false),
            ("pingora_core::services", "Downstream handshake timeout".to_owned(), false),
            ("firstcas::event", "Downstream handshake timeout".to_owned(), false),
        ] {
            let args = format_args!("{message}");
            let record = Record::builder().target(target).level(Level::Error).args(args).build();
            assert_eq!(is_of_handshake(&record), is_left_out, "{target} {message}");
        }
    }

    #[test]
    fn another_filter_is_in_force_at_once_and_the_debugging_of_others_stays_out() {
        let settings = |filter: &str| Log { format: LogFormat::Json, filter: filter.to_owned(), events: Vec::new() };
        start(&settings("error"));
        assert!(!log::log_enabled!(target: "firstcas::told", Level::Debug));
        apply(&settings("error,firstcas::told=debug,pingora_proxy=trace"));
        assert!(log::log_enabled!(target: "firstcas::told", Level::Debug));
        assert!(log::log_enabled!(target: "pingora_proxy", Level::Info));
        assert!(!log::log_enabled!(target: "pingora_proxy", Level::Debug));
        apply(&settings("off"));
        assert!(!log::log_enabled!(target: "firstcas::told", Level::Error));
    }

    #[test]
    fn a_name_with_a_line_break_stays_one_quoted_value() {
        record(|record| {
            let line = written(LogFormat::KeyValue, record);
            assert_eq!(
                line,
                "time=T level=INFO target=firstcas::access msg=\"a request\" \
                 user=\"ana\\nlevel=ERROR msg=\\\"forged\\\"\" status=200 path=/owa/\n"
            );
        });
    }

    #[test]
    fn a_json_line_is_one_json_object_with_numbers_as_numbers() {
        record(|record| {
            let line = written(LogFormat::Json, record);
            let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(object["status"], 200);
            assert_eq!(object["user"], "ana\nlevel=ERROR msg=\"forged\"");
            assert_eq!(line.matches('\n').count(), 1);
        });
    }
}
