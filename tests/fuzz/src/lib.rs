//! The pure parts of firstcas, compiled by themselves: a fuzz target must not build Pingora. And what the targets share.

pub use sources::*;

use base64::{Engine as _, prelude::BASE64_STANDARD_NO_PAD};
use identity::MailboxName;

#[path = "../../../src"]
mod sources {
    pub mod identity;
    pub mod routing;
    pub mod secret;
    pub mod edge {
        pub mod hygiene;
        pub mod path;
    }
    pub mod mail {
        pub mod dialogue;
        pub mod imap4;
        pub mod pop3;
        pub mod sasl;
    }
}

/// Panics unless the name stands, case aside, in one of the places. Each is looked at as UTF-8 and as Latin-1, as names
/// are read.
pub fn assert_named_in(name: &MailboxName, places: &[&[u8]]) {
    let sought = folded(&name.to_string());
    let found = places.iter().any(|place| {
        let latin_1: String = place.iter().copied().map(char::from).collect();
        folded(&String::from_utf8_lossy(place)).contains(&sought) || folded(&latin_1).contains(&sought)
    });
    assert!(found, "{name} was not in the request");
}

/// Greek has two small sigmas; which of them a capital one becomes depends on its neighbours.
fn folded(text: &str) -> String {
    text.to_lowercase().replace('ς', "σ")
}

/// What a base64 query holds, be its padding right or not; empty if it is none.
pub fn base64_content(query: &[u8]) -> Vec<u8> {
    let end = query.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    // As many zero bits behind it as make the last group whole, so that the last character may have any bits.
    let whole = [&query[..end], &b"AAA"[..(4 - end % 4) % 4]].concat();
    let mut content = BASE64_STANDARD_NO_PAD.decode(whole).unwrap_or_default();
    content.truncate(end * 3 / 4);
    content
}
