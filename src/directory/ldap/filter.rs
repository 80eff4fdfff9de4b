//! Between the LDAP library's values and ours: filters out, records in.

use std::fmt::Write as _;

use ldap3::ResultEntry;

use crate::directory::{
    forest::AnyOf,
    schema::{Record, attribute},
};

/// The filter (RFC 4515) that any of these values fulfils.
pub(super) fn any_of(any_of: &AnyOf) -> String {
    disjunction(any_of.equalities().iter().map(|(attribute, value)| (*attribute, value.as_slice())))
}

/// The filter that objects of any of these classes fulfil.
pub(super) fn of_classes(classes: &[&str]) -> String {
    disjunction(classes.iter().map(|class| (attribute::OBJECT_CLASS, class.as_bytes())))
}

/// The filter that any of these attributes' values fulfils.
fn disjunction<'v>(equalities: impl Iterator<Item = (&'static str, &'v [u8])>) -> String {
    let mut filter = String::from("(|");
    for (attribute, value) in equalities {
        let _ = write!(filter, "({attribute}="); // writing to a String cannot fail
        for byte in value {
            // Escaping more than RFC 4515 asks for is allowed, and easier to be sure of.
            if byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'.' | b'-' | b'_' | b':') {
                filter.push(char::from(*byte));
            } else {
                let _ = write!(filter, "\\{byte:02x}");
            }
        }
        filter.push(')');
    }
    filter.push(')');
    filter
}

/// `SearchResultEntry` (RFC 4511 section 4.5.2). Anything else, or an entry that is not as it should be, gives `None`.
pub(super) fn record(entry: ResultEntry) -> Option<Record> {
    let mut parts = entry.0.match_id(SEARCH_RESULT_ENTRY)?.expect_constructed()?.into_iter();
    let dn = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
    let mut record = Record::new(dn);
    for attribute in parts.next()?.expect_constructed()?.into_iter().take(ATTRIBUTES_MAX) {
        let mut parts = attribute.expect_constructed()?.into_iter();
        let name = String::from_utf8(parts.next()?.expect_primitive()?).ok()?;
        for value in parts.next()?.expect_constructed()? {
            record.push(&name, value.expect_primitive()?);
        }
    }
    Some(record)
}

const SEARCH_RESULT_ENTRY: u64 = 4;
/// More than any search asks for.
const ATTRIBUTES_MAX: usize = 1000;

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use ldap3::{
        asn1::{ASNTag, PL, StructureTag, Tag},
        parse_filter,
    };
    use proptest::prelude::*;

    use super::*;

    const EQUALITY_MATCH: u64 = 3;

    /// What a filter asks for, as the LDAP library understands its text.
    fn equalities(filter: &str) -> Vec<(String, Vec<u8>)> {
        let tag: Tag = parse_filter(filter).expect("a filter");
        let alternatives = tag.into_structure().expect_constructed().expect("an or");
        alternatives
            .into_iter()
            .map(|alternative| {
                assert_eq!(alternative.id, EQUALITY_MATCH);
                match alternative.expect_constructed().expect("two parts").as_slice() {
                    [StructureTag { payload: PL::P(attribute), .. }, StructureTag { payload: PL::P(value), .. }] => {
                        (String::from_utf8(attribute.clone()).expect("a name"), value.clone())
                    }
                    other => panic!("attribute and value, not {other:?}"),
                }
            })
            .collect()
    }

    #[test]
    fn a_name_with_a_star_is_escaped_in_the_filter() {
        assert_eq!(
            any_of(&AnyOf::text(attribute::SAM_ACCOUNT_NAME, "a*)(cn=*")),
            r"(|(sAMAccountName=a\2a\29\28cn\3d\2a))"
        );
    }

    proptest! {
        #[test]
        fn whatever_the_name_the_filter_asks_for_exactly_that_value(name in any::<String>()) {
            let value = name.as_bytes().to_vec();
            let one = any_of(&AnyOf::text(attribute::SAM_ACCOUNT_NAME, &name));
            prop_assert_eq!(equalities(&one), vec![("sAMAccountName".to_owned(), value.clone())]);
            let address = AnyOf::address(&name);
            let asked: Vec<_> =
                address.equalities().iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
            prop_assert_eq!(equalities(&any_of(&address)), asked);
        }

        #[test]
        fn whatever_the_guid_the_filter_asks_for_exactly_its_bytes(guid in any::<[u8; 16]>()) {
            let filter = disjunction(std::iter::once((attribute::MAILBOX_GUID, &guid[..])));
            prop_assert_eq!(equalities(&filter), vec![("msExchMailboxGuid".to_owned(), guid.to_vec())]);
        }
    }
}
