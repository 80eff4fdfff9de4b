//! What was done and seen: counts by kind, and every exception.

use std::{collections::BTreeMap, fmt};

/// The counts of a run.
#[derive(Clone, Debug)]
pub struct Tally {
    seed: u64,
    counts: BTreeMap<String, u64>,
    exceptions: BTreeMap<&'static str, u64>,
    /// The first of them, as they were.
    stories: Vec<String>,
}

/// How much must have happened, so that a run that did nothing fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Least {
    /// NTLM handshakes accepted.
    pub ntlm: u64,
    /// Kerberos tickets accepted that nobody had asked for.
    pub kerberos: u64,
    /// Requests with name and password answered in that name.
    pub basic: u64,
    /// Requests without a credential answered in the name that the connection is signed in as.
    pub on_signed_in: u64,
    /// Answers to nobody.
    pub nobody: u64,
    /// Client connections.
    pub connections: u64,
}

impl Tally {
    /// Nothing yet.
    pub fn new(seed: u64) -> Self {
        Tally { seed, counts: BTreeMap::new(), exceptions: BTreeMap::new(), stories: Vec::new() }
    }

    /// One more of that kind.
    pub fn count(&mut self, what: &str) {
        if let Some(count) = self.counts.get_mut(what) {
            *count += 1;
        } else {
            self.counts.insert(what.to_owned(), 1);
        }
    }

    /// Something that must never be.
    pub fn except(&mut self, what: &'static str, story: &str) {
        *self.exceptions.entry(what).or_default() += 1;
        if self.stories.len() < STORIES_MAX {
            self.stories.push(format!("{what}: {story}"));
        }
    }

    /// How many of that kind.
    pub fn of(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or_default()
    }

    /// Answers of contoso's servers.
    pub fn answers(&self) -> u64 {
        let named = self.counts.iter().filter(|(what, _)| what.starts_with("answers in"));
        self.of(NOBODY) + named.map(|(_, count)| count).sum::<u64>() + self.wrong_names()
    }

    /// Answers in the wrong name.
    pub fn wrong_names(&self) -> u64 {
        WRONG_NAMES.iter().filter_map(|what| self.exceptions.get(what)).sum()
    }

    /// Windows sign-ins that were accepted.
    pub fn sign_ins(&self) -> u64 {
        self.of(NTLM) + self.of(KERBEROS)
    }

    /// Everything that must never be, with its number.
    pub fn exceptions(&self) -> &BTreeMap<&'static str, u64> {
        &self.exceptions
    }

    /// What there was too little of.
    pub fn lacks(&self, least: Least) -> Vec<String> {
        [
            (NTLM, least.ntlm),
            (KERBEROS, least.kerberos),
            (BASIC, least.basic),
            (ON_SIGNED_IN, least.on_signed_in),
            (NOBODY, least.nobody),
            (CONNECTIONS, least.connections),
        ]
        .into_iter()
        .filter(|(what, least)| self.of(what) < *least)
        .map(|(what, least)| format!("{what}: {} instead of {least}", self.of(what)))
        .collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {} (FIRSTCAS_SEED={0} repeats the clients' choices)", self.seed)?;
        for (what, count) in &self.counts {
            writeln!(f, "{count:>8} {what}")?;
        }
        let exceptions: u64 = self.exceptions.values().sum();
        writeln!(f, "{exceptions:>8} exceptions")?;
        for (what, count) in &self.exceptions {
            writeln!(f, "{count:>8} EXCEPTION {what}")?;
        }
        self.stories.iter().try_for_each(|story| writeln!(f, "  {story}"))
    }
}

/// Client connections.
pub const CONNECTIONS: &str = "client connections";
/// Contoso answered to nobody.
pub const NOBODY: &str = "answers to nobody";
/// In the name of a name and password.
pub const BASIC: &str = "answers in the name of a Basic credential";
/// At the end of a handshake.
pub const NTLM: &str = "answers in the name of an NTLM handshake";
/// With a ticket.
pub const KERBEROS: &str = "answers in the name of a Kerberos ticket";
/// Without a credential.
pub const ON_SIGNED_IN: &str = "answers in the name the connection is signed in as";
/// Exceptions that are names.
pub const WRONG_NAMES: [&str; 3] = [SOMEBODY_ELSES, OF_BEFORE, NOT_MINE];
/// See [`super::belief::WrongName::SomebodyElses`].
pub const SOMEBODY_ELSES: &str = "answered in the name of somebody who never signed in over this connection";
/// See [`super::belief::WrongName::SomebodysOfBefore`].
pub const OF_BEFORE: &str = "answered in the name of somebody who was signed in over this connection before";
/// The answer is to another request.
pub const NOT_MINE: &str = "the answer to another request";

const STORIES_MAX: usize = 20;
