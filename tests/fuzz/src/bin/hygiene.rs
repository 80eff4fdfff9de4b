//! A field is forged in every spelling or in none; a request that passes the checks has one way to be read. The bytes: one
//! `name:value` a line.
#![no_main]

use firstcas_fuzz::edge::hygiene::{check, is_forged};
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n') {
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        if let Ok(name) = str::from_utf8(&line[..colon]) {
            assert_eq!(is_forged(name), is_forged(&name.to_ascii_uppercase()));
            assert_eq!(is_forged(name), is_forged(&name.replace('-', "_")));
            assert_eq!(is_forged(name), is_forged(&name.replace('_', "-")));
        }
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line.get(colon + 1..).unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }

    if check(Version::HTTP_11, &headers).is_ok() {
        let count = |name| headers.get_all(name).iter().count();
        assert_eq!(count(header::HOST), 1);
        assert!(count(header::AUTHORIZATION) <= 1 && count(header::TRANSFER_ENCODING) <= 1);
        assert!(count(header::CONTENT_LENGTH) == 0 || count(header::TRANSFER_ENCODING) == 0);
        let host = headers[header::HOST].to_str().expect("ASCII");
        assert!(host.parse::<http::uri::Authority>().is_ok(), "{host}");
    }
});
