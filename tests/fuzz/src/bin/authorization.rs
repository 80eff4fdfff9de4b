//! An `Authorization` field of any bytes is per request only if it says `Basic` or `Bearer` and no more than that; a
//! well-formed Basic credential is read to the byte.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use firstcas_fuzz::{
    identity::{Credential, MailboxName, authorization::credential},
    secret::Secret,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let starts_with = |scheme: &str| {
        bytes.trim_ascii_start().get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    match credential(bytes) {
        Credential::Basic { .. } => assert!(starts_with("Basic") && !bytes.contains(&b',')),
        Credential::Unreadable(_) => assert!(starts_with("Basic")),
        Credential::Bearer => assert!(starts_with("Bearer") && !bytes.contains(&b',')),
        Credential::ConnectionBound(_) => {}
        Credential::None => panic!("there was a field"),
    }

    let sent = format!("Basic {}", BASE64_STANDARD.encode(bytes));
    let colon = bytes.iter().position(|byte| *byte == b':');
    let expected = colon.and_then(|colon| {
        let user = MailboxName::parse_bytes(&bytes[..colon]).ok()?;
        Some(Credential::Basic { user, password: Secret::new(&bytes[colon + 1..]) })
    });
    match (credential(sent.as_bytes()), expected) {
        (Credential::Unreadable(_), None) => {}
        (read, expected) => assert!(Some(read) == expected),
    }
});
