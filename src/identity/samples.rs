//! Messages for the tests: of real clients (tests/tokens/README.md says whence), and made by hand.
#![allow(clippy::expect_used)] // a test that cannot go on says why

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    Credential, Token,
    authorization::{BASE64, credential},
};

macro_rules! samples {
    ($($name:ident = $file:literal,)*) => {
        $(pub const $name: &str = include_str!(concat!("../../tests/tokens/", $file));)*
        /// What clients send.
        pub const ALL: &[&str] = &[$($name),*];
    };
}

samples! {
    CURL_NTLM_1 = "curl-ntlm-type-1",
    CURL_NTLM_3 = "curl-ntlm-type-3",
    CURL_NTLM_ADDRESS = "curl-ntlm-address",
    CURL_NTLM_OEM = "curl-ntlm-oem",
    CURL_NTLM_OEM_V2 = "curl-ntlm-oem-v2",
    CURL_KERBEROS_AES128 = "curl-kerberos-aes128",
    CURL_KERBEROS_AES256 = "curl-kerberos-aes256",
    CURL_KERBEROS_RC4 = "curl-kerberos-rc4",
    KERBEROS_BARE = "kerberos-bare",
    KERBEROS_BOUND = "kerberos-bound",
    KERBEROS_ENTERPRISE = "kerberos-enterprise",
    PYSPNEGO_1 = "pyspnego-type-1",
    PYSPNEGO_3 = "pyspnego-type-3",
    PYSPNEGO_BOUND_1 = "pyspnego-bound-type-1",
    PYSPNEGO_BOUND_3 = "pyspnego-bound-type-3",
    PYSPNEGO_NON_ASCII_3 = "pyspnego-non-ascii-type-3",
    PYSPNEGO_NEGOTIATE_1 = "pyspnego-negotiate-1",
    PYSPNEGO_NEGOTIATE_3 = "pyspnego-negotiate-3",
}

pub const CHALLENGE_UNICODE: &str = include_str!("../../tests/tokens/challenge-unicode");
pub const CHALLENGE_OEM: &str = include_str!("../../tests/tokens/challenge-oem");
pub const CHALLENGE_PYSPNEGO: &str = include_str!("../../tests/tokens/challenge-pyspnego");
pub const CHALLENGE_PYSPNEGO_END: &str = include_str!("../../tests/tokens/challenge-pyspnego-end");

pub const SERVICE_KEYTAB: &[u8] = include_bytes!("../../tests/tokens/service.keytab");
pub const RC4_KEYTAB: &[u8] = include_bytes!("../../tests/tokens/rc4.keytab");

/// What a field's value is read as.
pub fn token(authorization: &str) -> Token {
    let Credential::ConnectionBound(token) = credential(authorization.as_bytes()) else { panic!("not bound") };
    token
}

/// What a message's bytes are read as.
pub fn token_of(message: &[u8]) -> Token {
    token(&format!("Negotiate {}", BASE64_STANDARD.encode(message)))
}

/// A field's message.
pub fn message(authorization: &str) -> Vec<u8> {
    let (_scheme, token) = authorization.trim().split_once(' ').expect("a token");
    BASE64.decode(token).expect("base64")
}

/// An `AUTHENTICATE_MESSAGE` with a payload of nothing but an answer of 24 bytes, domain and user.
pub fn authenticate(flags: u32, domain: &[u8], user: &[u8]) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut fields = Vec::new();
    for field in [&[][..], &[7; 24], domain, user, &[], &[]] {
        let length = u16::try_from(field.len()).expect("a short field").to_le_bytes();
        let offset = u32::try_from(64 + payload.len()).expect("a short message").to_le_bytes();
        fields.extend([&length[..], &length, &offset].concat());
        payload.extend(field);
    }
    [b"NTLMSSP\0\x03\0\0\0", &fields[..], &flags.to_le_bytes(), &payload].concat()
}

pub fn utf_16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// A keytab's entry for `HTTP/mail@CONTOSO.COM`.
pub fn keytab_entry(etype: u8, kvno: u32, key: &[u8]) -> Vec<u8> {
    let string = |text: &str| [&[0, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
    let entry = [
        &[0, 2][..],
        &string("CONTOSO.COM"),
        &string("HTTP"),
        &string("mail"),
        &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, etype],
        &[0, u8::try_from(key.len()).expect("short")],
        key,
        &kvno.to_be_bytes(),
    ]
    .concat();
    [&u32::try_from(entry.len()).expect("short").to_be_bytes()[..], &entry].concat()
}

/// A DER value.
pub fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short value").to_be_bytes();
    match value.len() {
        0..0x80 => [&[tag, length[1]], value].concat(),
        0x80..0x100 => [&[tag, 0x81, length[1]], value].concat(),
        _ => [&[tag, 0x82, length[0], length[1]], value].concat(),
    }
}
