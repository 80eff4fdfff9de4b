//! Tells the Kerberos library what the edge wants of it: with which keytab the edge signs in, that tickets stay in memory,
//! and what it cannot do without of krb5.conf.
//!
//! The library (MIT Kerberos) takes these from the environment alone, and a running process cannot change its own safely.
//! So the program starts itself anew, once, in the same process, with the variables set.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::Path,
    process::Command,
};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::config::Config;

/// Starts the program anew if the environment does not tell the Kerberos library yet what the configuration wants of it;
/// then this call does not return. Returns what an administrator should know: variables that were set already are left
/// alone.
///
/// # Errors
/// The program could not be started.
pub fn name_in_environment(config: &Config) -> io::Result<Vec<String>> {
    let keytab = config.client_keytab().map(std::path::absolute).transpose()?;
    let Plan { set, kept } = plan(keytab.as_deref(), config.sign_in.is_some(), |variable| env::var_os(variable));
    if set.is_empty() {
        return Ok(kept);
    }
    let mut arguments = env::args_os();
    let mut again = Command::new(env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    if set.iter().any(|(name, _)| *name == PROFILES) {
        again.stdin(own_profile()?); // which nothing else reads
    }
    Err(again.args(arguments).envs(set).exec())
}

/// Takes out of a command's environment what was put into this process's for Kerberos: it chooses its own.
pub fn forget(command: &mut Command, keytab: Option<&Path>) {
    for (name, value) in forgotten(keytab, |variable| env::var_os(variable)) {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Variables that are missing. None: nothing to do, so that the new start does not start anew.
    set: Vec<(&'static str, OsString)>,
    /// Sentences about those that somebody else has set.
    kept: Vec<String>,
}

/// `signs_in`: the edge signs in to servers for users.
fn plan(keytab: Option<&Path>, signs_in: bool, variable: impl Fn(&str) -> Option<OsString>) -> Plan {
    let mut plan = Plan { set: Vec::new(), kept: Vec::new() };
    let mut want = |name, value: OsString, otherwise: &str| match variable(name) {
        None => plan.set.push((name, value)),
        Some(there) if there == value => {}
        Some(there) => {
            plan.kept.push(format!("{name} is {} in the environment; unset it to {otherwise}", there.display()));
        }
    };
    if let Some(keytab) = keytab {
        want(KEYTAB, file(keytab), &format!("sign in with {}", keytab.display()));
    }
    if keytab.is_some() || signs_in {
        want(TICKETS, IN_MEMORY.into(), "keep tickets in memory, apart from those of whoever starts firstcas");
    }
    if signs_in {
        let others = variable(PROFILES).filter(|others| !others.is_empty()).unwrap_or_else(|| SYSTEM_PROFILE.into());
        if !others.as_bytes().starts_with(OWN_PROFILE.as_bytes()) {
            plan.set.push((PROFILES, joined(&[OWN_PROFILE.as_ref(), ":".as_ref(), &others])));
        }
    }
    plan
}

/// The variables that this process was given by [`plan`], and what they were before, or might have been.
fn forgotten(
    keytab: Option<&Path>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Vec<(&'static str, Option<OsString>)> {
    let ours = [(KEYTAB, keytab.map(file)), (TICKETS, Some(IN_MEMORY.into()))];
    let ours = ours.into_iter().filter(|(name, value)| value.is_some() && variable(name) == *value);
    let mut forgotten: Vec<_> = ours.map(|(name, _)| (name, None)).collect();
    let profiles = variable(PROFILES).unwrap_or_default();
    if let Some(others) = profiles.as_bytes().strip_prefix(OWN_PROFILE.as_bytes()) {
        forgotten.push((PROFILES, others.strip_prefix(b":").map(|others| OsStr::from_bytes(others).to_owned())));
    }
    forgotten
}

/// A file without a name, for [`OWN_PROFILE`].
fn own_profile() -> io::Result<File> {
    let name = "krb5.conf";
    // A system may insist on the seal, and one before Linux 6.3 does not know it.
    let memory = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL)
        .or_else(|_| memfd_create(name, MemfdFlags::CLOEXEC))?;
    let mut file = File::from(memory);
    file.write_all(INDISPENSABLE.as_bytes())?;
    Ok(file)
}

fn file(path: &Path) -> OsString {
    joined(&["FILE:".as_ref(), path.as_os_str()])
}

fn joined(parts: &[&OsStr]) -> OsString {
    parts.iter().copied().collect()
}

/// Where MIT Kerberos looks for the keys of whoever signs in.
const KEYTAB: &str = "KRB5_CLIENT_KTNAME";
/// Where it keeps tickets.
const TICKETS: &str = "KRB5CCNAME";
/// Tickets stay in the process: no file is left behind, and nobody else's are used.
const IN_MEMORY: &str = "MEMORY:firstcas";
/// Its configuration, a list of files. What the first of them has of one setting counts.
const PROFILES: &str = "KRB5_CONFIG";
/// Where the library looks if nobody has said so.
const SYSTEM_PROFILE: &str = "/etc/krb5.conf";
/// Standard input: so the file needs no place to be written to, and no process started from this one has it.
const OWN_PROFILE: &str = "/proc/self/fd/0";
/// Goes before what the administrator has written. Without the first line domain controllers let nobody delegate; without
/// the others DNS, which proves nothing, would say which server a ticket is for.
const INDISPENSABLE: &str =
    "[libdefaults]\n    forwardable = true\n    dns_canonicalize_hostname = false\n    rdns = false\n";

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;

    const PATH: &str = "/etc/firstcas/firstcas.keytab";

    /// The value of a variable in this environment.
    fn of<'e>(environment: &'e [(&'e str, &'e str)]) -> impl Fn(&str) -> Option<OsString> + 'e {
        |name| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    }

    fn planned(keytab: Option<&str>, signs_in: bool, environment: &[(&str, &str)]) -> Plan {
        plan(keytab.map(Path::new), signs_in, of(environment))
    }

    fn texts<'v>(variables: &'v [(&'static str, OsString)]) -> Vec<(&'static str, &'v str)> {
        variables.iter().map(|(name, value)| (*name, value.to_str().expect("UTF-8"))).collect()
    }

    #[test]
    fn what_is_wanted_is_set_and_then_there_is_nothing_to_do() {
        let keys = (KEYTAB, "FILE:/etc/firstcas/firstcas.keytab");
        let (tickets, profiles) = ((TICKETS, "MEMORY:firstcas"), (PROFILES, "/proc/self/fd/0:/etc/krb5.conf"));
        for (keytab, signs_in, wanted) in [
            (None, false, &[][..]),
            (Some(PATH), false, &[keys, tickets]),
            (None, true, &[tickets, profiles]),
            (Some(PATH), true, &[keys, tickets, profiles]),
        ] {
            let Plan { set, kept } = planned(keytab, signs_in, &[]);
            assert_eq!(texts(&set), wanted);
            assert!(kept.is_empty());
            assert_eq!(planned(keytab, signs_in, wanted), Plan { set: vec![], kept: vec![] });
        }
    }

    #[test]
    fn what_the_administrator_has_set_is_left_alone_and_told() {
        let Plan { set, kept } = planned(Some(PATH), false, &[(TICKETS, "FILE:/tmp/krb5cc_0")]);
        assert_eq!(set.len(), 1);
        assert_eq!(
            kept,
            [
                "KRB5CCNAME is FILE:/tmp/krb5cc_0 in the environment; unset it to keep tickets in memory, apart from those \
              of whoever starts firstcas"
            ]
        );
        let both = [(TICKETS, "FILE:/tmp/krb5cc_0"), (KEYTAB, "FILE:/root/mine.keytab")];
        let Plan { set, kept } = planned(Some(PATH), false, &both);
        assert_eq!((set.len(), kept.len()), (0, 2), "nothing is missing, so there is no new start");
    }

    #[test]
    fn the_administrators_krb5_conf_comes_behind_ours() {
        let Plan { set, kept } = planned(None, true, &[(PROFILES, "/etc/firstcas/krb5.conf:/etc/krb5.conf")]);
        assert!(texts(&set).contains(&(PROFILES, "/proc/self/fd/0:/etc/firstcas/krb5.conf:/etc/krb5.conf")), "{set:?}");
        assert!(kept.is_empty());
    }

    #[test]
    fn the_next_process_is_given_nothing_of_this_ones_and_all_of_the_administrators() {
        let keytab = Some(Path::new(PATH));
        let Plan { set, .. } = planned(Some(PATH), true, &[]);
        let forgotten_all = [(KEYTAB, None), (TICKETS, None), (PROFILES, Some(OsString::from("/etc/krb5.conf")))];
        assert_eq!(forgotten(keytab, of(&texts(&set))), forgotten_all);
        let his = [(KEYTAB, "FILE:/root/mine.keytab"), (TICKETS, "FILE:/tmp/krb5cc_0"), (PROFILES, "/root/krb5.conf")];
        assert_eq!(forgotten(keytab, of(&his)), []);
    }
}
