//! `Authorization: Negotiate` (RFC 4559 section 4.2): a Kerberos token in its SPNEGO envelope.

use base64::prelude::{BASE64_STANDARD, Engine};
use der::{
    Encode as _, Result, Tag, TagNumber,
    asn1::{AnyRef, ObjectIdentifier},
};
use http::HeaderValue;

use crate::identity::spnego;

/// The field's value with a GSS-API token of Kerberos (RFC 4121 section 4.1) in it. `None`: the token is longer than DER
/// can say.
pub fn authorization(token: &[u8]) -> Option<HeaderValue> {
    let text = format!("Negotiate {}", BASE64_STANDARD.encode(envelope(token).ok()?));
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A `NegTokenInit` that offers Kerberos alone (RFC 4178 section 4.2.1), in the frame of a first token (RFC 2743 section
/// 3.1).
fn envelope(token: &[u8]) -> Result<Vec<u8>> {
    let field = |number, content: &[u8]| tlv(TagNumber(number).context_specific(true), content);
    let oid = |oid: ObjectIdentifier| tlv(Tag::ObjectIdentifier, oid.as_bytes());
    let mechanisms = field(0, &tlv(Tag::Sequence, &oid(spnego::KERBEROS)?)?)?;
    let token = field(2, &tlv(Tag::OctetString, token)?)?;
    let init = field(0, &tlv(Tag::Sequence, &[mechanisms, token].concat())?)?;
    tlv(TagNumber(0).application(true), &[oid(spnego::SPNEGO)?, init].concat())
}

fn tlv(tag: Tag, content: &[u8]) -> Result<Vec<u8>> {
    AnyRef::new(tag, content)?.to_der()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_is_one_that_the_reader_of_clients_tokens_opens() {
        for length in [1, 100, 127, 128, 700, 70_000] {
            let token = vec![7; length];
            let envelope = envelope(&token).expect("an envelope");
            let (mechanism, inside) = spnego::frame(&envelope).expect("a frame");
            let init = spnego::init(inside).expect("a NegTokenInit");
            assert_eq!((mechanism, init.mechanism), (spnego::SPNEGO, spnego::KERBEROS));
            assert_eq!(init.token, Some(&token[..]));
        }
    }

    #[test]
    fn its_field_is_not_shown() {
        let field = authorization(b"secret").expect("a field");
        assert!(field.as_bytes().starts_with(b"Negotiate YC"));
        assert_eq!(format!("{field:?}"), "Sensitive");
    }
}
