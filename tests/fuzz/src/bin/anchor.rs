//! A request never names a target that is not literally in it. The bytes: path, `?`, query, a line break, the anchor.
#![no_main]

use firstcas_fuzz::{
    assert_named_in, base64_content,
    edge::path::decode,
    identity::{Facts, TargetSource, anchor::target},
    routing::protocol::Protocol,
};
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;

fuzz_target!(|bytes: &[u8]| {
    let line_break = bytes.iter().position(|byte| *byte == b'\n');
    let (request, anchor_mailbox) = match line_break {
        Some(place) => (&bytes[..place], Some(&bytes[place + 1..])),
        None => (bytes, None),
    };
    let Ok(request) = str::from_utf8(request) else { return };
    let (raw, query) = request.split_once('?').map_or((request, None), |(raw, query)| (raw, Some(query)));
    let Ok(path) = decode(raw) else { return };
    let Some(protocol) = Protocol::of_path(&path) else { return };

    let facts = Facts { protocol, path: &path, query, authorization: None, anchor_mailbox };
    let Some(target) = target(&facts) else { return };
    let query: Vec<u8> = percent_decode_str(query.unwrap_or_default()).collect();
    match target.source {
        TargetSource::AnchorMailbox => assert_named_in(&target.name, &[anchor_mailbox.unwrap_or_default()]),
        TargetSource::ExplicitLogon => assert_named_in(&target.name, &[path.as_bytes()]),
        TargetSource::MapiMailboxId | TargetSource::RpcProxy => assert_named_in(&target.name, &[&query]),
        TargetSource::ActiveSyncUser => assert_named_in(&target.name, &[&query, &base64_content(&query)]),
    }
});
