//! What has happened since the start: how often, and the last of it.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::SystemTime,
};

use parking_lot::Mutex;

use super::Event;

/// An event that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When.
    pub time: SystemTime,
    /// What; it has the id, the severity and the cure.
    pub event: Event,
    /// Of whom or what: one line. It may name people, so it is for the administrator alone.
    pub text: String,
}

/// How often each event has happened since the start, written or not. All are there, from 0 on.
pub fn counts() -> impl Iterator<Item = (Event, u64)> {
    Event::ALL.iter().copied().map(|event| (event, COUNTS.get(event as usize).map_or(0, |count| count.load(Relaxed))))
}

/// The last events that were written, the latest first.
pub fn recent() -> Vec<Happened> {
    RECENT.lock().iter().rev().cloned().collect()
}

pub(super) fn count(event: Event) {
    if let Some(count) = COUNTS.get(event as usize) {
        count.fetch_add(1, Relaxed);
    }
}

pub(super) fn keep(event: Event, text: String) {
    push(&mut RECENT.lock(), Happened { time: SystemTime::now(), event, text });
}

fn push(recent: &mut VecDeque<Happened>, happened: Happened) {
    if recent.len() == RECENT_MAX {
        recent.pop_front();
    }
    recent.push_back(happened);
}

/// A screen or three, and at most some 200 KB.
const RECENT_MAX: usize = 100;

static COUNTS: [AtomicU64; Event::ALL.len()] = [const { AtomicU64::new(0) }; Event::ALL.len()];
static RECENT: Mutex<VecDeque<Happened>> = Mutex::new(VecDeque::new());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_hundred_are_kept_and_no_more() {
        let mut recent = VecDeque::new();
        for number in 0..=RECENT_MAX {
            let text = number.to_string();
            push(&mut recent, Happened { time: SystemTime::UNIX_EPOCH, event: Event::ServerBack, text });
        }
        let kept: Vec<_> = recent.iter().map(|happened| happened.text.as_str()).collect();
        assert_eq!((kept.len(), kept[0], kept[99]), (100, "1", "100"));
    }

    #[test]
    fn what_is_reported_is_counted_and_kept() {
        // No other test of the library reports this event.
        let count = || counts().find_map(|(event, count)| (event == Event::ExtendedProtection).then_some(count));
        assert_eq!(count(), Some(0));
        Event::ExtendedProtection.report("cas-lis-1\nand more");
        Event::ExtendedProtection.report("cas-lis-2");
        assert_eq!(count(), Some(2));
        let texts: Vec<_> = recent()
            .into_iter()
            .filter(|happened| happened.event == Event::ExtendedProtection)
            .map(|happened| happened.text)
            .collect();
        assert_eq!(texts, ["cas-lis-2", "cas-lis-1\\nand more"]);
    }
}
