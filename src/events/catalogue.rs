//! The events as an administrator looks them up: `firstcas events`.

use std::fmt::Write as _;

use super::{Event, Severity};

/// All of them, for a terminal.
pub fn list() -> String {
    let mut text = String::new();
    for event in Event::ALL {
        let _ = writeln!(text, "{:<8} {:<11}  {}", event.id(), event.severity(), wrapped(event.meaning()));
        let _ = writeln!(text, "{:INDENT$}{}\n", "", wrapped(&format!("Cure: {}.", event.cure())));
    }
    text + "firstcas events ID shows one of them, and how to find it.\n"
}

/// One of them, with how to find it.
pub fn one(event: Event) -> String {
    let id = event.id();
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(text, "{name:<INDENT$}{}", wrapped(what));
    };
    line("event", id);
    if let Some((source, number)) = event.of_exchange() {
        line("in Exchange", &format!("event {number} of source {source}"));
    }
    line("severity", &format!("{}: {}", event.severity(), event.severity().meaning()));
    line("meaning", event.meaning());
    line("cure", &format!("{}.", event.cure()));
    line("in the log", &format!("a line with target=firstcas::event and event={id}"));
    line("in journald", &format!("journalctl FIRSTCAS_EVENT={id}, if log.events has \"journald\""));
    line("metric", &format!("firstcas_events_total{{event=\"{id}\"}}"));
    text
}

/// Events as JSON.
pub fn json(events: &[Event]) -> String {
    let entry = |event: &Event| {
        serde_json::json!({
            "id": event.id(),
            "exchange_source": event.of_exchange().map(|(source, _)| source),
            "exchange_event": event.of_exchange().and_then(|(_, number)| number.parse::<u32>().ok()),
            "severity": event.severity().to_string(),
            "meaning": event.meaning(),
            "cure": event.cure(),
        })
    };
    format!("{:#}\n", serde_json::Value::Array(events.iter().map(entry).collect()))
}

/// All of them as the table of conf/events.md.
pub fn markdown() -> String {
    let mut text = MARKDOWN_HEAD.to_owned();
    for event in Event::ALL {
        let exchange = event.of_exchange().map_or(String::new(), |(source, number)| format!(" ({source} {number})"));
        let (id, severity, meaning, cure) = (event.id(), event.severity(), event.meaning(), event.cure());
        let _ = writeln!(text, "| `{id}`{exchange} | {severity} | {meaning} | {cure} |");
    }
    text
}

const MARKDOWN_HEAD: &str = "\
# Events

What `firstcas` tells an administrator, by its stable id. Made by `firstcas events --markdown`; `firstcas events ID` says how to find one.

| event | severity | what it means | what to do |
|---|---|---|---|
";

impl Severity {
    fn meaning(self) -> &'static str {
        match self {
            Severity::Information => "good to know",
            Severity::Warning => "a user was, or soon will be, affected",
            Severity::Error => "users are affected until somebody acts",
        }
    }
}

/// Text in lines of a terminal's width, those after the first indented.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH - INDENT {
            let _ = write!(lines, "\n{:INDENT$}", "");
            column = 0;
        } else if column > 0 {
            lines.push(' ');
            column += 1;
        }
        lines.push_str(word);
        column += length;
    }
    lines
}

const WIDTH: usize = 100;
const INDENT: usize = 22;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_says_what_it_means_and_what_to_do() {
        for event in Event::ALL {
            let (meaning, cure) = (event.meaning(), event.cure());
            assert!(meaning.ends_with('.') && meaning.starts_with(char::is_uppercase), "{}: {meaning}", event.id());
            assert!(!cure.is_empty() && !cure.ends_with('.'), "{}: {cure}", event.id());
            assert!(!format!("{meaning}{cure}").contains(['|', '\n']), "{} fits a table", event.id());
        }
    }

    #[test]
    fn the_table_for_reading_is_the_catalogue() {
        let table = include_str!("../../conf/events.md");
        assert_eq!(table, markdown(), "run `firstcas events --markdown > conf/events.md`");
    }

    #[test]
    fn no_line_is_wider_than_a_terminal() {
        let all = Event::ALL.iter().copied().map(one).chain([list()]).collect::<String>();
        let widest = all.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(WIDTH), "{widest:?}");
        assert!(all.lines().all(|line| !line.ends_with(' ')), "{all}");
    }
}
