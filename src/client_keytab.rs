//! Tells the Kerberos library which keytab the edge signs in to the directory with.
//!
//! The library (MIT Kerberos) takes it from the environment alone, and a running process cannot change its own safely.
//! So the program starts itself anew, once, in the same process, with the two variables set.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    path::Path,
    process::Command,
};

use crate::{
    config::Directory,
    directory::ldap::{Account, Settings},
};

/// Starts the program anew if the directory's account is a keytab that the environment does not name yet; then this
/// call does not return. Returns what an administrator should know: variables that were set already are left alone.
///
/// # Errors
/// The program could not be started.
pub fn name_in_environment(directory: &Directory) -> io::Result<Vec<String>> {
    let Some(keytab) = keytab(directory) else { return Ok(Vec::new()) };
    let Plan { set, kept } = plan(&std::path::absolute(keytab)?, |variable| env::var_os(variable));
    if set.is_empty() {
        return Ok(kept);
    }
    let mut arguments = env::args_os();
    let mut again = Command::new(env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    Err(again.args(arguments).envs(set).exec())
}

fn keytab(directory: &Directory) -> Option<&Path> {
    match directory {
        Directory::Ldif(_) => None,
        Directory::Ldap { forest, account_forests } => {
            std::iter::once(&**forest).chain(account_forests).find_map(keytab_of)
        }
    }
}

fn keytab_of(settings: &Settings) -> Option<&Path> {
    match &settings.account {
        Account::Keytab(path) => Some(path),
        Account::Anonymous | Account::Password { .. } => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Variables that are missing. None: nothing to do, so that the new start does not start anew.
    set: Vec<(&'static str, OsString)>,
    /// Sentences about those that somebody else has set.
    kept: Vec<String>,
}

/// Takes out of a command's environment what was put into this process's for a keytab: it chooses its own.
pub fn forget(command: &mut Command, keytab: Option<&Path>) {
    let Some(keytab) = keytab else { return };
    let planned = plan(keytab, |_| None).set;
    for (name, _) in planned.iter().filter(|(name, value)| std::env::var_os(name).as_ref() == Some(value)) {
        command.env_remove(name);
    }
}

fn plan(keytab: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Plan {
    let file = |path: &Path| OsString::from_iter([OsStr::new("FILE:"), path.as_os_str()]);
    let mut plan = Plan { set: Vec::new(), kept: Vec::new() };
    for (name, value) in [(KEYTAB, file(keytab)), (TICKETS, OsString::from(IN_MEMORY))] {
        match variable(name) {
            None => plan.set.push((name, value)),
            Some(there) if there == value => {}
            Some(there) => plan.kept.push(format!(
                "{name} is {} in the environment, which goes before bind_keytab; unset it to use {}",
                there.display(),
                keytab.display()
            )),
        }
    }
    plan
}

/// Where MIT Kerberos looks for the keys of whoever signs in.
const KEYTAB: &str = "KRB5_CLIENT_KTNAME";
/// Where it keeps tickets.
const TICKETS: &str = "KRB5CCNAME";
/// Tickets stay in the process: no file is left behind, and nobody else's are used.
const IN_MEMORY: &str = "MEMORY:firstcas";

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/etc/firstcas/firstcas.keytab";

    fn with(environment: &[(&str, &str)]) -> Plan {
        plan(Path::new(PATH), |name| {
            environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn both_variables_are_set_and_then_there_is_nothing_to_do() {
        let Plan { set, kept } = with(&[]);
        let set: Vec<_> = set.iter().map(|(name, value)| (*name, value.to_str().expect("UTF-8"))).collect();
        assert_eq!(set, [(KEYTAB, "FILE:/etc/firstcas/firstcas.keytab"), (TICKETS, "MEMORY:firstcas")]);
        assert!(kept.is_empty());
        assert_eq!(with(&set), Plan { set: vec![], kept: vec![] });
    }

    #[test]
    fn what_the_administrator_has_set_is_left_alone_and_told() {
        let Plan { set, kept } = with(&[(TICKETS, "FILE:/tmp/krb5cc_0")]);
        assert_eq!(set.len(), 1);
        assert_eq!(
            kept,
            ["KRB5CCNAME is FILE:/tmp/krb5cc_0 in the environment, which goes before bind_keytab; unset it to use \
              /etc/firstcas/firstcas.keytab"]
        );
        let Plan { set, kept } = with(&[(TICKETS, "FILE:/tmp/krb5cc_0"), (KEYTAB, "FILE:/root/mine.keytab")]);
        assert_eq!((set.len(), kept.len()), (0, 2), "nothing is missing, so there is no new start");
    }
}
