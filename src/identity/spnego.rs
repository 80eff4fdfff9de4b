//! SPNEGO (RFC 4178, [MS-SPNG]) and the frame of GSS-API's first tokens (RFC 2743 section 3.1): whose token is inside.

use der::{
    Decode as _, Reader as _, Result, SliceReader, Tag, TagNumber,
    asn1::{BitStringRef, ObjectIdentifier},
};

use super::asn1::{field, inside, octets, optional, rest, whole};

/// SPNEGO itself (RFC 4178 section 3).
pub const SPNEGO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.2");
/// Kerberos (RFC 4121 section 1).
pub const KERBEROS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113554.1.2.2");
/// Kerberos as Windows 2000 wrote it, and later versions still offer it ([MS-SPNG] 3.1.5.2).
pub const KERBEROS_OF_WINDOWS_2000: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.48018.1.2.2");
/// NTLM ([MS-SPNG] 1.9).
pub const NTLM: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.311.2.2.10");

/// The first byte of a GSS-API frame: `[APPLICATION 0]`.
pub const FRAME: u8 = 0x60;
/// The first byte of a `NegTokenResp`: `[1]`.
pub const RESPONSE: u8 = 0xa1;

/// A `NegTokenInit` (RFC 4178 section 4.2.1).
pub struct Init<'a> {
    /// The first of its `mechTypes`, the one that `mechToken` is for.
    pub mechanism: ObjectIdentifier,
    /// Its `mechToken`.
    pub token: Option<&'a [u8]>,
}

/// Opens a GSS-API frame: the mechanism, and its token.
pub fn frame(bytes: &[u8]) -> Result<(ObjectIdentifier, &[u8])> {
    whole(bytes, |reader| {
        inside(reader, TagNumber(0).application(true), |reader| Ok((mechanism(reader)?, rest(reader)?)))
    })
}

/// Reads a `NegTokenInit`.
pub fn init(bytes: &[u8]) -> Result<Init<'_>> {
    negotiation_token(bytes, 0, |reader| {
        let mechanism = field(reader, 0, |reader| {
            inside(reader, Tag::Sequence, |reader| {
                let first = mechanism(reader)?;
                while !reader.is_finished() {
                    mechanism(reader)?;
                }
                Ok(first)
            })
        })?;
        optional(reader, 1, BitStringRef::decode)?; // reqFlags
        let token = optional(reader, 2, octets)?;
        optional(reader, 3, octets)?; // mechListMIC
        Ok(Init { mechanism, token })
    })
}

/// Reads a `NegTokenResp` (RFC 4178 section 4.2.2): its `responseToken`.
pub fn response(bytes: &[u8]) -> Result<Option<&[u8]>> {
    negotiation_token(bytes, 1, |reader| {
        optional(reader, 0, |reader| inside(reader, Tag::Enumerated, rest))?; // negState
        optional(reader, 1, mechanism)?; // supportedMech
        let token = optional(reader, 2, octets)?;
        optional(reader, 3, octets)?; // mechListMIC
        Ok(token)
    })
}

fn negotiation_token<'a, T>(
    bytes: &'a [u8],
    choice: u32,
    read: impl FnOnce(&mut SliceReader<'a>) -> Result<T>,
) -> Result<T> {
    whole(bytes, |reader| field(reader, choice, |reader| inside(reader, Tag::Sequence, read)))
}

fn mechanism(reader: &mut SliceReader<'_>) -> Result<ObjectIdentifier> {
    ObjectIdentifier::decode(reader)
}
