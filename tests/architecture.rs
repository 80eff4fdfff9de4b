//! The direction of the arrows: what each part of the source may use. The core stays a pure function because its
//! imports say so, not because somebody promised.
#![allow(clippy::expect_used)] // a test may fail by panicking

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Frameworks: they bring I/O, clocks and their own types with them.
const FRAMEWORKS: [&str; 9] =
    ["pingora", "pingora_core", "pingora_proxy", "pingora_http", "tokio", "ldap3", "libgssapi", "moka", "reqwest"];

/// What of `std` reaches outside the process or looks at a clock. `std::net::IpAddr` and its like are only values.
const OUTSIDE: [&str; 12] = [
    "fs",
    "env",
    "process",
    "thread",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "UnixStream",
    "UnixListener",
    "ToSocketAddrs",
];

/// What reads the clock. Where a time is only a value that somebody else read, these stand in for the types.
const CLOCK: [&str; 2] = ["now", "elapsed"];

#[test]
fn routing_is_pure_and_uses_nothing_of_ours() {
    assert_eq!(breaches("routing", &["routing"], &[&FRAMEWORKS[..], &OUTSIDE[..]].concat()), NONE);
}

#[test]
fn identity_is_pure_and_uses_only_routing_and_secrets() {
    let outside: Vec<_> = OUTSIDE.into_iter().filter(|word| *word != "SystemTime").collect();
    let forbidden = [&FRAMEWORKS[..], &outside, &CLOCK].concat();
    assert_eq!(breaches("identity", &["identity", "routing", "secret"], &forbidden), NONE);
}

#[test]
fn dialogues_of_mail_have_neither_sockets_nor_clocks() {
    let outside: Vec<_> = OUTSIDE.into_iter().filter(|word| *word != "fs").collect(); // their suite is files
    let forbidden = [&FRAMEWORKS[..], &outside, &CLOCK].concat();
    for dialogue in ["mail/dialogue", "mail/imap4", "mail/pop3", "mail/sasl", "mail/sign_in"] {
        assert_eq!(breaches(dialogue, &["mail", "secret"], &forbidden), NONE);
    }
}

#[test]
fn the_web_knows_nothing_of_mail() {
    let ours = top_level_modules();
    let ours: Vec<_> = ours.iter().map(String::as_str).filter(|module| *module != "mail").collect();
    for module in ["routing", "identity", "directory", "edge"] {
        assert_eq!(breaches(module, &ours, &[]), NONE);
    }
}

#[test]
fn the_directory_knows_nothing_of_the_edge() {
    let pingora = ["pingora", "pingora_core", "pingora_proxy", "pingora_http"];
    assert_eq!(breaches("directory", &["directory", "error_chain", "identity", "routing", "secret"], &pingora), NONE);
}

#[test]
fn kerberos_knows_nothing_of_the_edge_nor_of_the_directory() {
    let forbidden = ["pingora", "pingora_core", "pingora_proxy", "pingora_http", "ldap3"];
    assert_eq!(breaches("kerberos", &["events", "identity", "kerberos", "secret"], &forbidden), NONE);
}

#[test]
fn one_place_speaks_to_the_kerberos_library() {
    let ours = top_level_modules();
    let ours: Vec<_> = ours.iter().map(String::as_str).collect();
    for module in ours.iter().filter(|module| **module != "kerberos") {
        assert_eq!(breaches(module, &ours, &["libgssapi"]), NONE);
    }
}

#[test]
fn counting_knows_the_rules_and_nothing_of_users_or_the_edge() {
    assert_eq!(breaches("metrics", &["metrics", "routing"], &FRAMEWORKS), NONE);
}

#[test]
fn a_secret_uses_nothing_of_ours() {
    assert_eq!(breaches("secret", &["secret"], &FRAMEWORKS), NONE);
}

#[test]
fn the_checker_finds_what_it_is_there_to_find() {
    let ours = ["routing", "secret", "directory", "edge", "events"].map(String::from);
    let forbidden = ["tokio", "pingora", "fs", "Instant", "now", "elapsed"];
    let found = |source| breaches_in(source, &ours, &["routing", "secret"], &forbidden);
    for (source, breach) in [
        ("use tokio::sync::mpsc;", "1: tokio"),
        ("\n    let body = ::tokio::spawn(f);", "2: tokio"),
        ("use std::{fs, net::IpAddr};", "1: fs"),
        ("use std::fs::File;", "1: fs"),
        ("mod a {}\npub(crate) use std::{net::{IpAddr, Ipv4Addr}, fs};", "2: fs"),
        ("let then = std::time::Instant;", "1: Instant"),
        ("let now = SystemTime::now();", "1: now"),
        ("let age = time.elapsed();", "1: elapsed"),
        ("use crate::directory::Entry;", "1: crate::directory"),
        ("use crate::{\n    routing::{Decision, edge},\n    edge::pools::{Pool, Pin},\n};", "1: crate::edge"),
        ("fn f(entry: &crate::directory::Entry) {}", "1: crate::directory"),
        ("use super::super::events::Event;", "1: super::events"),
        ("pub(crate) use super::{events};", "1: super::events"),
        ("use firstcas::events::Event;", "1: firstcas::events"),
        ("let url = \"https://contoso.com\"; use tokio::time;", "1: tokio"),
    ] {
        assert_eq!(found(source), [breach], "{source}");
    }
    for source in [
        "use crate::{routing::protocol::Protocol, secret::Secret};",
        "use super::{Decision, topology::Topology};",
        "// tokio would be wrong here, and so would crate::directory",
        "let x = 1; /// [`crate::directory`] proves it",
        "/* tokio\n * fs */",
        "struct Offset { fsync: bool, tokio_like: u8 }",
        "use std::time::SystemTime;\nfn open(now: SystemTime) { distance(now, then) }",
        "use std::net::IpAddr;\nstruct Reader { fs: usize }",
    ] {
        assert_eq!(found(source), NONE, "{source}");
    }
}

#[test]
fn the_checker_reads_the_files_of_a_module_and_of_its_children() {
    let files = files_of("routing");
    for expected in ["src/routing.rs", "src/routing/topology.rs", "src/routing/tests/properties.rs"] {
        assert!(files.iter().any(|file| file.ends_with(expected)), "{expected} is not among {files:?}");
    }
    assert!(top_level_modules().contains(&"directory".to_owned()));
}

const NONE: [&str; 0] = [];

/// Every breach in the files of a top-level module: a word of `forbidden` anywhere, or a path to one of our top-level
/// modules that is not `allowed`.
fn breaches(module: &str, allowed: &[&str], forbidden: &[&str]) -> Vec<String> {
    let ours = top_level_modules();
    let inside = source_directory().join(module);
    let mut found = Vec::new();
    for file in files_of(module) {
        let source = fs::read_to_string(&file).expect("a source file is readable");
        // identity::kerberos is not crate::kerberos.
        let is_sibling = |breach: &str| {
            let sibling = breach.split_once(": super::").map(|(_, name)| inside.join(name).with_extension("rs"));
            file.starts_with(&inside) && sibling.is_some_and(|sibling| sibling.exists())
        };
        found.extend(
            breaches_in(&source, &ours, allowed, forbidden)
                .into_iter()
                .filter(|breach| !is_sibling(breach))
                .map(|breach| format!("{}:{breach}", file.display())),
        );
    }
    found
}

/// The same in one source text, each as `line: what`.
fn breaches_in(source: &str, ours: &[String], allowed: &[&str], forbidden: &[&str]) -> Vec<String> {
    let source = without_comments(source);
    let mut found = Vec::new();
    for (at, word) in words(&source) {
        let line = || source.get(..=at).unwrap_or_default().lines().count();
        let after = source.get(at + word.len()..).unwrap_or_default();
        if forbidden.contains(&word) && names_a_path(&source, at, after) {
            found.push(format!("{}: {word}", line()));
        }
        if let ("crate" | "super" | "firstcas", Some(path)) = (word, after.strip_prefix("::")) {
            for head in heads(path) {
                if ours.iter().any(|module| module == head) && !allowed.contains(&head) {
                    found.push(format!("{}: {word}::{head}", line()));
                }
            }
        }
    }
    found
}

/// Whether a word stands in a path (`fs::read`, `std::{fs, net}`, `Instant` in a `use`) or is a call
/// (`time.elapsed()`), rather than being a field or a variable that happens to be called so.
fn names_a_path(source: &str, at: usize, after: &str) -> bool {
    let before = source.get(..at).unwrap_or_default();
    let statement = before.rsplit(';').next().unwrap_or_default();
    let in_use = words(statement).any(|(_, word)| word == "use");
    let is_called = before.ends_with('.') && after.starts_with('(');
    after.starts_with("::") || before.ends_with("::") || is_called || in_use
}

/// The first names of what follows `crate::`: one, or several in braces.
fn heads(path: &str) -> Vec<&str> {
    let Some(group) = path.strip_prefix('{') else {
        return words(path).next().map(|(_, word)| word).into_iter().collect();
    };
    let mut depth = 0_usize;
    let mut head_wanted = true;
    let mut heads = Vec::new();
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => head_wanted = true,
            _ if head_wanted && is_word(c) => {
                heads.extend(words(group.get(at..).unwrap_or_default()).next().map(|(_, word)| word));
                head_wanted = false;
            }
            _ => {}
        }
    }
    heads
}

/// Every identifier with its place.
fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.split(|c| !is_word(c))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The source with comments blanked out, line by line. A `//` after a colon is part of a URL in a string.
fn without_comments(source: &str) -> String {
    let mut in_block = false;
    let mut code = String::new();
    for line in source.lines() {
        let mut rest = line;
        while !rest.is_empty() {
            if in_block {
                let Some((_, after)) = rest.split_once("*/") else { break };
                (in_block, rest) = (false, after);
                continue;
            }
            let line_comment =
                rest.match_indices("//").find(|(at, _)| !rest.get(..*at).is_some_and(|it| it.ends_with(':')));
            let line_comment = line_comment.map_or(rest.len(), |(at, _)| at);
            let block_comment = rest.find("/*").unwrap_or(rest.len());
            code.push_str(rest.get(..line_comment.min(block_comment)).unwrap_or_default());
            in_block = block_comment < line_comment;
            rest = if in_block { rest.get(block_comment + 2..).unwrap_or_default() } else { "" };
        }
        code.push('\n');
    }
    code
}

/// Names of the crate's top-level modules, by their files.
fn top_level_modules() -> Vec<String> {
    let name = |path: PathBuf| path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    entries(&source_directory()).into_iter().filter_map(name).filter(|name| name != "lib" && name != "main").collect()
}

/// The files of a top-level module: its own, and everything in the directory of its name.
fn files_of(module: &str) -> Vec<PathBuf> {
    let mut files = vec![source_directory().join(format!("{module}.rs"))];
    let mut directories = vec![source_directory().join(module)];
    while let Some(directory) = directories.pop().filter(|it| it.is_dir()) {
        for entry in entries(&directory) {
            if entry.is_dir() { &mut directories } else { &mut files }.push(entry);
        }
    }
    files
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .expect("a source directory is readable")
        .map(|entry| entry.expect("a directory entry is readable").path())
        .collect()
}

fn source_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}
