//! What is wrong with a configuration, where, and what to do about it.

use std::fmt;

/// One mistake. Its text never holds a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// `conf/firstcas.toml:12:15: listener[1].tls.key`, lines, columns and list entries counted from 1; or only the
    /// option's name where the mistake shows against the directory rather than in the file.
    pub place: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub cure: String,
}

/// Every mistake of a configuration, in the order of the file; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// The mistakes.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.problem, self.cure)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.mistakes.iter().map(Mistake::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl From<Mistake> for ConfigErrors {
    fn from(mistake: Mistake) -> Self {
        ConfigErrors { mistakes: vec![mistake] }
    }
}

/// "did you mean": the candidate that a slip of the finger turned into `written`, if there is one.
pub fn closest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let written = written.to_lowercase();
    // A third of the letters, so that `ca` is not offered for `key`.
    let most = (written.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&written, &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_told_from_another_word() {
        let keys = ["connect_timeout", "ca", "idle_timeout"];
        assert_eq!(closest("conect_timeout", keys), Some("connect_timeout"));
        assert_eq!(closest("Connect-Timeout", keys), Some("connect_timeout"));
        assert_eq!(closest("key", keys), None);
        assert_eq!(closest("", keys), None);
    }
}
