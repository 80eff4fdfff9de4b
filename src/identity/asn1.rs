//! How a DER structure is read field by field, in the order its ASN.1 module lists them, to its last byte.
//!
//! The readers are DER's strict ones (X.690): a length that is indefinite or longer than it need be, a field out of
//! order or there twice, bytes behind the end are all refused. Nothing here calls itself, so a message's nesting costs
//! no stack.

use der::{
    Decode as _, Header, Reader as _, Result, SliceReader, Tag, TagNumber,
    asn1::{GeneralStringRef, OctetStringRef},
};

/// Reads a structure that is all there is.
pub fn whole<'a, T>(bytes: &'a [u8], read: impl FnOnce(&mut SliceReader<'a>) -> Result<T>) -> Result<T> {
    let mut reader = SliceReader::new(bytes)?;
    let value = read(&mut reader)?;
    reader.finish()?;
    Ok(value)
}

/// What is inside a tag.
pub fn inside<'a, T>(
    reader: &mut SliceReader<'a>,
    tag: Tag,
    read: impl FnOnce(&mut SliceReader<'a>) -> Result<T>,
) -> Result<T> {
    let header = Header::decode(reader)?;
    header.tag().assert_eq(tag)?;
    reader.read_nested(header.length(), read)
}

/// The `SEQUENCE` in `[APPLICATION number]`.
pub fn application<'a, T>(
    reader: &mut SliceReader<'a>,
    number: u32,
    read: impl FnOnce(&mut SliceReader<'a>) -> Result<T>,
) -> Result<T> {
    inside(reader, TagNumber(number).application(true), |reader| inside(reader, Tag::Sequence, read))
}

/// The field `[number]` of a `SEQUENCE`.
pub fn field<'a, T>(
    reader: &mut SliceReader<'a>,
    number: u32,
    read: impl FnOnce(&mut SliceReader<'a>) -> Result<T>,
) -> Result<T> {
    inside(reader, context(number), read)
}

/// The field `[number]` of a `SEQUENCE`, if it is there.
pub fn optional<'a, T>(
    reader: &mut SliceReader<'a>,
    number: u32,
    read: impl FnOnce(&mut SliceReader<'a>) -> Result<T>,
) -> Result<Option<T>> {
    if reader.is_finished() || Tag::peek(reader)? != context(number) {
        return Ok(None);
    }
    field(reader, number, read).map(Some)
}

fn context(number: u32) -> Tag {
    TagNumber(number).context_specific(true)
}

/// An `OCTET STRING`.
pub fn octets<'a>(reader: &mut SliceReader<'a>) -> Result<&'a [u8]> {
    <&OctetStringRef>::decode(reader).map(OctetStringRef::as_bytes)
}

/// A `KerberosString` (RFC 4120 section 5.2.1): ASCII by the letter, UTF-8 as Windows sends it.
pub fn text<'a>(reader: &mut SliceReader<'a>) -> Result<&'a str> {
    Ok(str::from_utf8(GeneralStringRef::decode(reader)?.as_bytes())?)
}

/// The rest, whatever it is.
pub fn rest<'a>(reader: &mut SliceReader<'a>) -> Result<&'a [u8]> {
    reader.read_slice(reader.remaining_len())
}
