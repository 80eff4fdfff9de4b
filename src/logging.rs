//! The log: one line a record on standard error, as `key=value` pairs or as JSON, by configuration. Whatever the filter
//! says, the debugging of the libraries stays out, because it shows credentials.

use std::{fmt::Write as _, io::Write as _};

use log::{Level, Metadata, Record, kv};

use crate::config::{Log, LogFormat};

/// Starts logging. `RUST_LOG` overrides the configured filter. A second call in one process changes nothing.
pub fn start(settings: &Log) {
    let format = settings.format;
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| settings.filter.clone());
    let started = env_logger::Builder::new()
        .parse_filters(&filter)
        .format(move |out, record| {
            if !may_be_told(record.metadata()) {
                return Ok(());
            }
            let time = out.timestamp_millis();
            let line = match format {
                LogFormat::KeyValue => key_value_line(&time, record),
                LogFormat::Json => json_line(&time, record),
            };
            out.write_all(line.as_bytes())
        })
        .try_init();
    if started.is_err() {
        log::debug!("logging was started before");
    }
}

/// Pingora's own debugging shows requests as they are, with passwords and cookies, so nobody's but ours is written.
fn may_be_told(of: &Metadata<'_>) -> bool {
    let ours = of.target() == OURS || of.target().starts_with("firstcas::");
    ours || of.level() <= Level::Info
}

const OURS: &str = "firstcas";

fn key_value_line(time: &impl std::fmt::Display, record: &Record<'_>) -> String {
    let mut pairs = Pairs(Vec::new());
    // Visiting into a Vec cannot fail; a value that cannot be shown is left out.
    let _ = record.key_values().visit(&mut pairs);
    let mut line = format!("time={time} level={} target={}", record.level(), record.target());
    let message = record.args().to_string();
    if !message.is_empty() {
        let _ = write!(line, " msg={}", quoted(&message));
    }
    for (key, value) in pairs.0 {
        let text = match value {
            serde_json::Value::String(text) => quoted(&text),
            serde_json::Value::Null
            | serde_json::Value::Bool(_)
            | serde_json::Value::Number(_)
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => value.to_string(),
        };
        let _ = write!(line, " {key}={text}");
    }
    line.push('\n');
    line
}

fn json_line(time: &impl std::fmt::Display, record: &Record<'_>) -> String {
    let mut pairs = Pairs(Vec::new());
    let _ = record.key_values().visit(&mut pairs);
    let mut object = serde_json::Map::new();
    object.insert("time".into(), time.to_string().into());
    object.insert("level".into(), record.level().as_str().into());
    object.insert("target".into(), record.target().into());
    let message = record.args().to_string();
    if !message.is_empty() {
        object.insert("msg".into(), message.into());
    }
    object.extend(pairs.0);
    let mut line = serde_json::Value::Object(object).to_string();
    line.push('\n');
    line
}

/// A value as it is, if it is one plain word; else in quotes with everything a reader or a parser could trip over
/// escaped, so that no client can forge a second line or a second pair.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && c != '"' && c != '=' && c != '\\';
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

struct Pairs(Vec<(String, serde_json::Value)>);

impl<'kvs> kv::VisitSource<'kvs> for Pairs {
    fn visit_pair(&mut self, key: kv::Key<'kvs>, value: kv::Value<'kvs>) -> Result<(), kv::Error> {
        let value = if let Some(number) = value.to_u64() {
            number.into()
        } else if let Some(truth) = value.to_bool() {
            truth.into()
        } else {
            value.to_string().into()
        };
        self.0.push((key.as_str().to_owned(), value));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_name_with_a_line_break_stays_one_quoted_value() {
        record(|record| {
            let line = key_value_line(&"T", record);
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
            let line = json_line(&"T", record);
            let object: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(object["status"], 200);
            assert_eq!(object["user"], "ana\nlevel=ERROR msg=\"forged\"");
            assert_eq!(line.matches('\n').count(), 1);
        });
    }
}
