//! The `ActiveSync` query: `User=` of the plain form ([MS-ASHTTP] 2.2.1.1.1.2), tag 8 of the base64 form
//! ([MS-ASHTTP] 2.2.1.1.1.1).
//!
//! The user of the query is only a hint, for requests whose credential cannot be read: the server believes the credential.

use base64::Engine as _;
use percent_encoding::percent_decode_str;

use super::{MailboxName, authorization::BASE64, parameter};
use crate::routing::EasVersion;

/// The user that an `ActiveSync` query names: an SMTP address, a bare alias or `DOMAIN\user`, as the device was set up.
///
/// A `+` is a plus. The devices that were looked at escape with `%20` and `%2B` (Android's `Uri.encode`) or leave a plus
/// as it is (Apple's URL classes); none writes a space as `+`, as an HTML form would.
pub fn user(query: &str) -> Option<MailboxName> {
    let name = match Base64Query::read(query) {
        Some(read) => MailboxName::parse_bytes(read.user()?),
        None => MailboxName::parse_bytes(&parameter(query, "User")?),
    };
    name.ok()
}

/// The device that a query names, as it names itself.
pub fn device(query: &str) -> Option<Vec<u8>> {
    match Base64Query::read(query) {
        Some(read) => Some(read.device),
        None => parameter(query, "DeviceId"),
    }
}

/// The protocol version that a device speaks: the first byte of a base64 query, which stands for the request fields that
/// it leaves out, else the `MS-ASProtocolVersion` field's value, such as `12.1`.
pub fn protocol_version(header: Option<&[u8]>, query: Option<&str>) -> Option<EasVersion> {
    if let Some(read) = query.and_then(Base64Query::read) {
        return Some(EasVersion(read.version.into()));
    }
    let (major, minor) = str::from_utf8(header?).ok()?.trim().split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u8>().ok()).flatten();
    let minor = digits(minor).filter(|minor| *minor < 10)?;
    Some(EasVersion(u16::from(digits(major)?) * 10 + u16::from(minor)))
}

/// Whether a query is of neither form: it names no parameters and is no base64 of the specified layout. The server
/// behind judges it; the administrator may want to know.
pub fn is_unreadable(query: &str) -> bool {
    !query.is_empty() && !is_plain(query) && Base64Query::read(query).is_none()
}

/// An `=` that is not padding, or an `&`, joins the parameters of the plain form.
fn is_plain(query: &str) -> bool {
    query.trim_end_matches('=').contains(['=', '&'])
}

/// What is needed of a base64 query's bytes.
struct Base64Query {
    version: u8,
    device: Vec<u8>,
    /// A chain of tag (1 byte), length (1 byte), value. May end in the middle of one.
    command_parameters: Vec<u8>,
}

impl Base64Query {
    /// `None`: the plain form, or neither.
    fn read(query: &str) -> Option<Self> {
        if is_plain(query) {
            return None;
        }
        // The alphabet is that of RFC 2045, whose `+`, `/` and `=` a device may escape. The URL-safe alphabet is not in
        // the specification.
        let text: Vec<u8> = percent_decode_str(query).collect();
        let mut bytes = BASE64.decode(text).ok()?;

        let ([version, _command, _locale @ ..], rest) = bytes.split_first_chunk::<4>()?;
        if *version < VERSION_LOWEST {
            return None;
        }
        let (device, rest) = counted(rest)?;
        let (_policy_key, rest) = counted(rest)?;
        let (_device_type, command_parameters) = counted(rest)?;
        let device = device.to_vec();
        let (version, start) = (*version, bytes.len() - command_parameters.len());
        Some(Base64Query { version, device, command_parameters: bytes.split_off(start) })
    }

    fn user(&self) -> Option<&[u8]> {
        let mut parameters = self.command_parameters.as_slice();
        while let Some((tag, rest)) = parameters.split_first() {
            let (value, rest) = counted(rest)?;
            if *tag == TAG_USER {
                return Some(value);
            }
            parameters = rest;
        }
        None
    }
}

/// A length byte, that many bytes, and the rest.
fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked((*length).into())
}

/// 12.1 was the first version with the base64 form ([MS-ASHTTP] 2.2.1.1.1.1).
const VERSION_LOWEST: u8 = 121;

/// [MS-ASHTTP] 2.2.1.1.1.1.3: "User".
const TAG_USER: u8 = 8;

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_of_neither_form_is_unreadable() {
        for query in ["!!!!", "jAAJ", "Cmd", "%00", "AAAAAAAA"] {
            assert!(is_unreadable(query), "{query}");
        }
        for query in ["", "Cmd=Ping", "a&b", "jAAJBAp2MTQwRGV2aWNlAApTbWFydFBob25l"] {
            assert!(!is_unreadable(query), "{query}");
        }
    }

    #[test]
    fn the_plain_query_names_its_user_in_any_order_spelling_and_form() {
        for (query, user) in [
            ("Cmd=Sync&User=carla&DeviceId=d&DeviceType=t", Some("carla")),
            ("User=ana&DeviceId=ApplDNQJ74&DeviceType=iPhone&Cmd=Ping", Some("ana")),
            ("DeviceType=iPhone&user=ana%40contoso.com", Some("ana@contoso.com")),
            ("Cmd=FolderSync&USER=Ana@Contoso.com&DeviceId=android1301&DeviceType=Android", Some("ana@contoso.com")),
            ("User=CONTOSO%5Cana&DeviceId=d", Some("contoso\\ana")),
            ("User=CONTOSO\\ana&DeviceId=d", Some("contoso\\ana")),
            ("User=ana+news@contoso.com&Cmd=Sync", Some("ana+news@contoso.com")),
            ("User=ana%2Bnews%40contoso.com&Cmd=Sync", Some("ana+news@contoso.com")),
            ("User=%C3%89lodie&Cmd=Sync", Some("élodie")),
            ("User=%C9lodie&Cmd=Sync", Some("élodie")),
            ("User=ana", Some("ana")),
            ("&&User=ana&", Some("ana")),
            ("User=ana&User=ana", None),
            ("User=ana&Cmd=Sync&user=bruno", None),
            ("User=&Cmd=Sync", None),
            ("User&Cmd=Sync", None),
            ("XUser=ana&Cmd=Sync", None),
            ("Cmd=User=ana", None),
            ("User=ana%00&Cmd=Sync", None),
            ("Cmd=OPTIONS", None),
            ("", None),
        ] {
            assert_eq!(super::user(query).map(|name| name.to_string()).as_deref(), user, "{query}");
        }
    }

    #[test]
    fn the_sample_of_the_specification_has_a_version_and_no_user() {
        let query = "jAAJBAp2MTQwRGV2aWNlAApTbWFydFBob25l";
        assert_eq!(user(query), None);
        assert_eq!(protocol_version(None, Some(query)), Some(EasVersion(140)));
    }

    #[test]
    fn tag_8_of_the_base64_query_names_its_user_wherever_it_stands() {
        for parameters in [
            &b"\x08\x0fana@contoso.com"[..],
            b"\x07\x01\x03\x08\x0fana@contoso.com",
            b"\x01\x015\x08\x0fana@contoso.com\x07\x01\x03",
            b"\x08\x0fana@contoso.com\x01\xffcut short",
        ] {
            for key in [&b""[..], b"\x9b\xdf\x57\xd1"] {
                let bytes = base64_query(121, key, parameters);
                let padded = BASE64_STANDARD.encode(&bytes);
                let escaped = padded.replace('=', "%3D").replace('+', "%2b").replace('/', "%2F");
                for query in [padded.as_str(), &escaped, &BASE64_STANDARD_NO_PAD.encode(&bytes)] {
                    assert_eq!(user(query).expect("tag 8").to_string(), "ana@contoso.com", "{query}");
                    assert_eq!(protocol_version(Some(b"14.1"), Some(query)), Some(EasVersion(121)));
                }
            }
        }
    }

    #[test]
    fn a_base64_query_that_is_cut_short_names_nobody() {
        let whole = base64_query(141, b"\x01\x02\x03\x04", b"\x08\x03ana");
        for length in 0..whole.len() {
            assert_eq!(user(&BASE64_STANDARD.encode(&whole[..length])), None, "{length} bytes");
        }
        assert!(user(&BASE64_STANDARD.encode(&whole)).is_some());
    }

    #[test]
    fn the_version_field_is_major_dot_minor() {
        let plain = Some("Cmd=Sync&User=ana");
        for (header, version) in [
            (&b"2.5"[..], Some(25)),
            (b"12.1", Some(121)),
            (b"14.0", Some(140)),
            (b" 16.1 ", Some(161)),
            (b"1.0", Some(10)),
            (b"12", None),
            (b"12.10", None),
            (b"12.", None),
            (b".1", None),
            (b"+12.1", None),
            (b"12.1,14.0", None),
            (b"999.1", None),
            (b"\xff", None),
            (b"", None),
        ] {
            assert_eq!(protocol_version(Some(header), plain), version.map(EasVersion), "{header:?}");
        }
        assert_eq!(protocol_version(None, plain), None);
        assert_eq!(protocol_version(None, None), None);
    }

    proptest! {
        #[test]
        fn every_user_put_into_a_base64_query_is_read_out_again(
            version in 121_u8.., name in "[a-z0-9.]{1,20}@[a-z]{1,20}", before in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let length = |bytes: &[u8]| u8::try_from(bytes.len()).expect("short");
            let tag_8 = [&[8, length(name.as_bytes())], name.as_bytes()].concat();
            let parameters = [&[1, length(&before)], before.as_slice(), &tag_8].concat();
            let query = BASE64_STANDARD.encode(base64_query(version, b"", &parameters));
            prop_assert_eq!(user(&query), Some(MailboxName::Address(name)));
            prop_assert_eq!(protocol_version(None, Some(&query)), Some(EasVersion(version.into())));
        }
    }

    fn base64_query(version: u8, policy_key: &[u8], command_parameters: &[u8]) -> Vec<u8> {
        let policy_key_length = u8::try_from(policy_key.len()).expect("short");
        let head = [version, 0, 0x09, 0x04];
        [&head, &b"\x0av140Device"[..], &[policy_key_length], policy_key, b"\x0aSmartPhone", command_parameters]
            .concat()
    }
}
