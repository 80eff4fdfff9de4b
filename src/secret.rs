//! A value that never reaches a log, a metric, an error text or a `Debug`.

use std::fmt;

/// Bytes that must not be printed: a password, a token, a cookie. `Debug` shows `<secret>`, in every build.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8]>);

impl Secret {
    /// Wraps the bytes.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Self {
        Secret(bytes.into())
    }

    /// The bytes, for the one place that needs them. Whoever calls this answers for where they go.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_secret_shows_nothing_of_it() {
        let secret = Secret::new(*b"Pass-word1");
        assert_eq!(format!("{secret:?} {secret:#?}"), "<secret> <secret>");
    }
}
