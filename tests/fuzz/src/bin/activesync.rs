//! The user of an `ActiveSync` query stands in the query, be the bytes a query or what a base64 query holds.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use firstcas_fuzz::{
    assert_named_in, base64_content,
    identity::activesync::{protocol_version, user},
};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(query) = str::from_utf8(bytes) {
        let decoded: Vec<u8> = percent_decode(bytes).collect();
        if let Some(name) = user(query) {
            assert_named_in(&name, &[&decoded, &base64_content(&decoded)]);
        }
        let _ = protocol_version(Some(bytes), Some(query));
    }

    let query = BASE64_STANDARD.encode(bytes);
    if let Some(name) = user(&query) {
        assert_named_in(&name, &[bytes]);
    }
    if let Some(version) = protocol_version(None, Some(&query)) {
        assert_eq!(bytes.first().map(|byte| u16::from(*byte)), Some(version.0));
    }
});
