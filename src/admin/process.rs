//! What the system says of this process; so that a leak shows.

use std::{fs, time::Duration};

/// What the system says; 0 where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Process {
    pub open_fds: u64,
    pub max_fds: u64,
    pub resident_bytes: u64,
    pub cpu: Duration,
    /// In seconds since 1970.
    pub started: f64,
}

impl Process {
    /// This process, now.
    pub(super) fn now() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
        // The name in brackets may have spaces; what comes after it is field 3, and so on (proc(5)).
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
        let booted = number_after(&read("/proc/stat"), "btime");
        #[allow(clippy::cast_precision_loss)] // seconds since 1970
        let booted = booted as f64;
        Process {
            open_fds: fs::read_dir("/proc/self/fd").map_or(0, |open| open.count() as u64),
            max_fds: number_after(&read("/proc/self/limits"), "Max open files"),
            resident_bytes: number_after(&status, "VmRSS:") * 1024,
            cpu: Duration::from_secs_f64((ticks(14) + ticks(15)) / TICKS_A_SECOND),
            started: booted + ticks(22) / TICKS_A_SECOND,
        }
    }
}

/// The first number after a line's title.
fn number_after(text: &str, title: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(title));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// `USER_HZ`, which Linux shows to every program as 100.
const TICKS_A_SECOND: f64 = 100.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edge::decisions::unix_now;

    #[test]
    fn this_process_is_young_and_has_some_of_everything() {
        let process = Process::now();
        assert!((3..=process.max_fds).contains(&process.open_fds), "{process:?}");
        assert!((1 << 20..1 << 36).contains(&process.resident_bytes), "{process:?}");
        assert!((-2.0..3600.0).contains(&(unix_now() - process.started)), "{process:?}");
    }
}
