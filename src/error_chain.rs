//! Errors as one line of text.

/// An error with everything behind it. What an error's own text repeats of its cause is said once.
pub fn whole_chain(error: &dyn std::error::Error) -> String {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !chain.ends_with(&text) {
            chain.push_str(": ");
            chain.push_str(&text);
        }
        source = cause.source();
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the search failed")]
    struct Outer(#[source] Middle);

    #[derive(Debug, thiserror::Error)]
    #[error("the connection broke: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn every_cause_is_told_once() {
        let error = Outer(Middle(std::io::Error::other("no route")));
        assert_eq!(whole_chain(&error), "the search failed: the connection broke: no route");
    }
}
