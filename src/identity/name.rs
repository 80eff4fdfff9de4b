//! The ways a mailbox can be named, made comparable.

use std::{borrow::Cow, fmt, str::FromStr};

/// A name that a request or an administrator uses for a person or a mailbox. Folded to lower case, as the directory
/// compares names without case; so two spellings share one cache entry.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MailboxName {
    /// `ana@contoso.com`: a user principal name or an SMTP address; the directory is asked for both.
    Address(String),
    /// `CONTOSO\ana`: a domain (`NetBIOS` or DNS name) and a `sAMAccountName` in it.
    Account {
        /// The domain.
        domain: String,
        /// The account's name.
        account: String,
    },
    /// `ana`: a `sAMAccountName` or an alias (`mailNickname`).
    Bare(String),
    /// `msExchMailboxGuid`, in the order its text form is written.
    Guid([u8; 16]),
}

/// Why a text names no mailbox. Never quotes the text: a password typed into the wrong field would end in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing, or only spaces.
    #[error("the name is empty")]
    Empty,
    /// More than [`MailboxName::LENGTH_MAX_BYTES`].
    #[error("the name is longer than {} bytes, which no directory allows", MailboxName::LENGTH_MAX_BYTES)]
    TooLong,
    /// A control character, NUL included.
    #[error("the name has a control character in it")]
    ControlCharacter,
    /// A colon; only the prefix `smtp:` may have one.
    #[error("the name has a colon in it; write DOMAIN\\user, user@domain or the bare name")]
    Colon,
    /// `\ana`, `CONTOSO\`, `@contoso.com`, `ana@`.
    #[error("the name lacks the part before or after its `\\` or `@`; write DOMAIN\\user or user@domain")]
    HalfMissing,
    /// `a\b\c`.
    #[error("the name has several backslashes; write DOMAIN\\user")]
    SeveralBackslashes,
    /// Only of [`MailboxName::of_parts`]: a `\\`, `@`, colon, space or GUID where it could mean another name.
    #[error("the name could be read in two ways; it must be an account in its domain, or user@domain without one")]
    TwoReadings,
}

impl MailboxName {
    /// The longest text that is looked at. Active Directory bounds `userPrincipalName` to 1,024 characters
    /// ([MS-ADA3]), far more than SMTP's 64 + `@` + 255 octets (RFC 5321 section 4.5.3.1) or a `sAMAccountName`'s 256.
    pub const LENGTH_MAX_BYTES: usize = 1024;

    /// Reads a name in any form that people and clients write: `DOMAIN\user`, `user@domain`, `smtp:user@domain`, a bare
    /// name, a mailbox GUID with or without braces, alone or as `guid@domain` (its domain says nothing that the GUID
    /// does not).
    ///
    /// Spaces around the text are dropped: phone keyboards add them. `DOMAIN\user@domain`, which phones send whose
    /// domain field was filled in needlessly, is the address. `DOMAIN/user` is not taken for an account: no source says
    /// that Exchange does. A colon is refused because RFC 7617 refuses it, and because other namespaces are written
    /// with one (`SID:S-1-5-..`).
    ///
    /// # Errors
    /// When the text cannot be a name in any directory.
    pub fn parse(text: &str) -> Result<MailboxName, NameError> {
        if text.len() > MailboxName::LENGTH_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        if text.contains(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        let text = without_smtp_prefix(text.trim()).trim();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.contains(':') {
            return Err(NameError::Colon);
        }

        let Some((domain, account)) = text.split_once('\\') else {
            return if text.contains('@') { address(text) } else { Ok(bare_or_guid(text)) };
        };
        if account.contains('\\') {
            return Err(NameError::SeveralBackslashes);
        }
        if domain.is_empty() || account.is_empty() {
            return Err(NameError::HalfMissing);
        }
        if account.contains('@') {
            return address(account.trim());
        }
        Ok(MailboxName::Account { domain: domain.to_lowercase(), account: account.to_lowercase() })
    }

    /// Reads a name as a client sent it: UTF-8, else Latin-1, which older browsers and phones send (RFC 7617 section
    /// 2.1 leaves the encoding open).
    ///
    /// # Errors
    /// As [`MailboxName::parse`].
    pub fn parse_bytes(bytes: &[u8]) -> Result<MailboxName, NameError> {
        if bytes.len() > MailboxName::LENGTH_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        let text = str::from_utf8(bytes)
            .map_or_else(|_| Cow::Owned(bytes.iter().copied().map(char::from).collect()), Cow::Borrowed);
        MailboxName::parse(&text)
    }

    /// Reads the two parts in which a message of Windows authentication names an account; the domain may be empty.
    ///
    /// Other than people, whose spellings [`parse`](MailboxName::parse) forgives, these messages are judged by another
    /// server, and we may not read one person where it reads another. So nothing is trimmed or stripped, and a name is
    /// refused if its parts could be put together in another way.
    ///
    /// # Errors
    /// As [`MailboxName::parse`], and when there are two readings.
    pub fn of_parts(domain: &str, user: &str) -> Result<MailboxName, NameError> {
        if domain.contains(char::is_control) || user.contains(char::is_control) {
            return Err(NameError::ControlCharacter);
        }
        let is_one_word = |part: &str| part.trim() == part && !part.contains(['\\', ':']);
        if !is_one_word(domain) || !is_one_word(user) || domain.contains('@') {
            return Err(NameError::TwoReadings);
        }
        if domain.is_empty() {
            // A server looks for an account called so, not for a mailbox GUID.
            return MailboxName::parse(user).and_then(|name| match name {
                MailboxName::Guid(_) => Err(NameError::TwoReadings),
                MailboxName::Address(_) | MailboxName::Account { .. } | MailboxName::Bare(_) => Ok(name),
            });
        }
        if user.contains('@') {
            return Err(NameError::TwoReadings);
        }
        MailboxName::parse(&format!("{domain}\\{user}"))
    }
}

/// `proxyAddresses` writes addresses as `SMTP:ana@contoso.com`; administrators paste them.
fn without_smtp_prefix(text: &str) -> &str {
    match text.split_once(':') {
        Some((prefix, address)) if prefix.eq_ignore_ascii_case("smtp") => address,
        _ => text,
    }
}

fn address(text: &str) -> Result<MailboxName, NameError> {
    match text.rsplit_once('@') {
        None | Some(("", _) | (_, "")) => Err(NameError::HalfMissing),
        Some((local_part, _domain)) => {
            Ok(guid(local_part).unwrap_or_else(|| MailboxName::Address(text.to_lowercase())))
        }
    }
}

fn bare_or_guid(text: &str) -> MailboxName {
    guid(text).unwrap_or_else(|| MailboxName::Bare(text.to_lowercase()))
}

/// The text form of a GUID: groups of 8, 4, 4, 4 and 12 hexadecimal digits ([MS-DTYP] 2.3.4.3), braces optional.
fn guid(text: &str) -> Option<MailboxName> {
    let text = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text);
    if text.len() != 36 {
        return None;
    }
    let mut number: u128 = 0;
    for (place, character) in text.chars().enumerate() {
        match (place, character) {
            (8 | 13 | 18 | 23, '-') => {}
            (8 | 13 | 18 | 23, _) => return None,
            _ => number = number << 4 | u128::from(character.to_digit(16)?),
        }
    }
    Some(MailboxName::Guid(number.to_be_bytes()))
}

impl FromStr for MailboxName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        MailboxName::parse(text)
    }
}

impl fmt::Display for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MailboxName::Address(text) | MailboxName::Bare(text) => f.write_str(text),
            MailboxName::Account { domain, account } => write!(f, "{domain}\\{account}"),
            MailboxName::Guid(bytes) => {
                let number = u128::from_be_bytes(*bytes);
                let group = |shift: u32| number >> shift & 0xffff;
                let (first, last) = (number >> 96, number & 0xffff_ffff_ffff);
                write!(f, "{first:08x}-{:04x}-{:04x}-{:04x}-{last:012x}", group(80), group(64), group(48))
            }
        }
    }
}

impl fmt::Debug for MailboxName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_people_write_is_read_as_what_it_means() {
        let address = || MailboxName::Address("ana@contoso.com".into());
        let account = || MailboxName::Account { domain: "contoso".into(), account: "ana".into() };
        let guid = || MailboxName::Guid(*b"\x4c\x1f\x05\x3e\x9a\xd2\x4b\x47\x8e\x6f\x01\x23\x45\x67\x89\xab");
        for (text, name) in [
            ("ana@contoso.com", address()),
            (" Ana@Contoso.COM ", address()),
            ("SMTP:Ana@contoso.com", address()),
            ("smtp: ana@contoso.com", address()),
            ("CONTOSO\\ana@contoso.com", address()),
            ("CONTOSO\\Ana", account()),
            ("contoso.com\\ana", MailboxName::Account { domain: "contoso.com".into(), account: "ana".into() }),
            ("Ana", MailboxName::Bare("ana".into())),
            ("ÉLODIE", MailboxName::Bare("élodie".into())),
            ("Ana Maria", MailboxName::Bare("ana maria".into())),
            ("CONTOSO/ana", MailboxName::Bare("contoso/ana".into())),
            ("4C1F053E-9AD2-4B47-8E6F-0123456789AB", guid()),
            ("{4c1f053e-9ad2-4b47-8e6f-0123456789ab}", guid()),
            ("4c1f053e-9ad2-4b47-8e6f-0123456789ab@contoso.com", guid()),
            ("{4C1F053E-9AD2-4B47-8E6F-0123456789AB}@contoso.com", guid()),
            ("4c1f053e9ad24b478e6f0123456789ab", MailboxName::Bare("4c1f053e9ad24b478e6f0123456789ab".into())),
        ] {
            assert_eq!(MailboxName::parse(text), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_can_be_no_name_says_what_is_wrong_with_it() {
        for (text, error) in [
            ("", NameError::Empty),
            ("  ", NameError::Empty),
            ("smtp:", NameError::Empty),
            ("ana\0", NameError::ControlCharacter),
            ("ana\r\nX-Evil: 1", NameError::ControlCharacter),
            ("ana\u{85}", NameError::ControlCharacter),
            ("SID:S-1-5-21-1-2-3-1104", NameError::Colon),
            ("smtp:smtp:ana@contoso.com", NameError::Colon),
            ("\\ana", NameError::HalfMissing),
            ("CONTOSO\\", NameError::HalfMissing),
            ("@contoso.com", NameError::HalfMissing),
            ("ana@", NameError::HalfMissing),
            ("@", NameError::HalfMissing),
            ("CONTOSO\\@contoso.com", NameError::HalfMissing),
            ("a\\b\\c", NameError::SeveralBackslashes),
        ] {
            assert_eq!(MailboxName::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn a_name_in_two_parts_is_read_only_if_there_is_one_way_to_put_them_together() {
        let account = |domain: &str| MailboxName::Account { domain: domain.into(), account: "ana".into() };
        for (domain, user, name) in [
            ("CONTOSO", "Ana", Ok(account("contoso"))),
            ("Contoso.com", "ana", Ok(account("contoso.com"))),
            ("", "ana", Ok(MailboxName::Bare("ana".into()))),
            ("", "Ana@contoso.com", Ok(MailboxName::Address("ana@contoso.com".into()))),
            ("CONTOSO", "ana@contoso.com", Err(NameError::TwoReadings)),
            ("CONTOSO", "ADATUM\\ana", Err(NameError::TwoReadings)),
            ("", "CONTOSO\\ana", Err(NameError::TwoReadings)),
            ("CONTOSO\\ana", "bruno", Err(NameError::TwoReadings)),
            ("ana@contoso.com", "bruno", Err(NameError::TwoReadings)),
            ("", "smtp:ana@contoso.com", Err(NameError::TwoReadings)),
            ("", "4c1f053e-9ad2-4b47-8e6f-0123456789ab", Err(NameError::TwoReadings)),
            ("", "4c1f053e-9ad2-4b47-8e6f-0123456789ab@contoso.com", Err(NameError::TwoReadings)),
            ("CONTOSO", "ana ", Err(NameError::TwoReadings)),
            ("CONTOSO", "\u{3000}ana", Err(NameError::TwoReadings)),
            (" CONTOSO", "ana", Err(NameError::TwoReadings)),
            ("CONTOSO", "", Err(NameError::HalfMissing)),
            ("", "", Err(NameError::Empty)),
            ("CONTOSO", "ana\0", Err(NameError::ControlCharacter)),
        ] {
            assert_eq!(MailboxName::of_parts(domain, user), name, "{domain:?} {user:?}");
        }
    }

    #[test]
    fn a_name_as_long_as_a_directory_allows_is_read_and_a_longer_one_is_not() {
        let longest = "a".repeat(MailboxName::LENGTH_MAX_BYTES);
        assert!(MailboxName::parse(&longest).is_ok());
        assert_eq!(MailboxName::parse(&(longest + "a")), Err(NameError::TooLong));
        assert_eq!(MailboxName::parse_bytes(&[b'a'; 1025]), Err(NameError::TooLong));
    }

    #[test]
    fn bytes_are_utf_8_first_and_latin_1_else() {
        let elodie = MailboxName::Bare("élodie".into());
        assert_eq!(MailboxName::parse_bytes("Élodie".as_bytes()), Ok(elodie.clone()));
        assert_eq!(MailboxName::parse_bytes(b"\xc9lodie"), Ok(elodie));
    }

    #[test]
    fn a_guid_is_shown_as_its_text_form() {
        let text = "0c1f053e-9ad2-0b47-8e6f-00004567890b";
        assert_eq!(MailboxName::parse(text).expect("a GUID").to_string(), text);
    }

    proptest! {
        #[test]
        fn a_name_is_read_back_from_what_it_is_shown_as(text in any_name()) {
            if let Ok(name) = MailboxName::parse(&text) {
                prop_assert_eq!(MailboxName::parse(&name.to_string()), Ok(name));
            }
        }

        #[test]
        fn case_makes_no_difference(text in "[a-zA-Z0-9éÉ .{}-]{1,12}[\\\\@]?[a-zA-Z0-9.]{0,12}") {
            let name = MailboxName::parse(&text);
            prop_assert_eq!(MailboxName::parse(&text.to_uppercase()), name.clone());
            prop_assert_eq!(MailboxName::parse(&text.to_lowercase()), name);
        }

        #[test]
        fn no_bytes_make_a_name_with_a_control_character(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(name) = MailboxName::parse_bytes(&bytes) {
                let shown = name.to_string();
                prop_assert!(!shown.is_empty() && !shown.contains(char::is_control));
            }
        }

        #[test]
        fn every_guid_is_read_back(bytes in any::<[u8; 16]>()) {
            let guid = MailboxName::Guid(bytes);
            prop_assert_eq!(MailboxName::parse(&format!("{{{guid}}}@contoso.com")), Ok(guid));
        }
    }

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![any::<String>(), "(?i)(smtp:)? ?[a-z{Σİ@\\\\ ]{0,4}[\\\\@]?[a-z@ }ς.-]{0,5}"]
    }
}
