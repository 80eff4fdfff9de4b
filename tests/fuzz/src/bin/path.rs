//! A path that is served has no way up, however often something behind us decodes it, and its first segment is the one
//! that was sent.
#![no_main]

use std::borrow::Cow;

use firstcas_fuzz::edge::path::decode;
use libfuzzer_sys::fuzz_target;
use percent_encoding::percent_decode_str;

fuzz_target!(|raw: &str| {
    let Ok(path) = decode(raw) else { return };
    assert_eq!(matches!(path, Cow::Borrowed(_)), !raw.contains('%'));
    assert!(path.starts_with('/') && !path.starts_with("//"));

    let sent = raw.split('/').nth(1).map(|segment| percent_decode_str(segment).decode_utf8_lossy());
    assert_eq!(path.split('/').nth(1), sent.as_deref());

    let mut path = path.into_owned();
    for _ in 0..4 {
        assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{path}");
        assert!(!path.contains('\\') && !path.contains('\0'), "{path}");
        path = percent_decode_str(&path).decode_utf8_lossy().into_owned();
    }
});
