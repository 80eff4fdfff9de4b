//! What systemd is told: that the edge serves, reloads or stops, and what `systemctl status` shows. Where no service manager
//! asked to be told (`NOTIFY_SOCKET`), nothing happens.

use libsystemd::daemon::{NotifyState, notify};

use crate::events::one_line;

/// The edge serves; also the end of [`reloading`].
pub fn ready() {
    tell(&[NotifyState::Ready]);
}

/// What it does, for people: one line.
pub fn status(text: &str) {
    tell(&[NotifyState::Status(one_line(text))]);
}

/// A new configuration is being read; [`ready`] says that this is over, however it ended.
pub fn reloading() {
    tell(&[NotifyState::Reloading]);
}

/// The edge stops. Not to be said by a process whose place another has taken: the service goes on.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// From now on the service's process is this one, which must have been started by a process of the service.
pub fn main_pid(pid: u32) {
    // In libsystemd's own words it would need the `Pid` of its version of nix.
    tell(&[NotifyState::Other(format!("MAINPID={pid}"))]);
}

fn tell(state: &[NotifyState]) {
    if let Err(error) = notify(false, state) {
        log::warn!("the service manager cannot be told {state:?}: {error}");
    }
}
