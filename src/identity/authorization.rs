//! The `Authorization` field: `Basic` (RFC 7617), `Bearer` (RFC 6750), and whatever authenticates the connection.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    Credential, MailboxName, Token, UnreadableCredential,
    token::{self, Leg, Shows, UnreadableToken},
};
use crate::secret::Secret;

/// Reads an `Authorization` field's value.
///
/// A scheme is per request only if it is on the short list here. Every other one (`NTLM`, `Negotiate`, `Nego2`,
/// `Kerberos`, `Digest`, one yet to be invented, none at all) counts as bound to the connection: to be wrong in that
/// direction costs a connection, to be wrong in the other gives one person's mailbox to another.
pub fn credential(authorization: &[u8]) -> Credential {
    let authorization = authorization.trim_ascii();
    let end_of_scheme = authorization.iter().position(u8::is_ascii_whitespace).unwrap_or(authorization.len());
    let (scheme, token) = authorization.split_at(end_of_scheme);
    let is = |name: &str| scheme.eq_ignore_ascii_case(name.as_bytes());

    let is_basic = is("Basic");
    let is_bearer = !is_basic && is("Bearer");
    if !is_basic && !is_bearer && !["Negotiate", "NTLM", "Nego2", "Kerberos"].into_iter().any(is) {
        return connection_bound(Shows::Nothing); // `Digest` and its like have no token
    }
    // None of these schemes' tokens has a comma (RFC 9110 section 11.2), so there is a second credential behind it, and
    // which of the two the server takes is anybody's guess.
    if token.contains(&b',') {
        return connection_bound(Shows::Unreadable(UnreadableToken::SeveralCredentials));
    }
    if is_basic {
        return basic(token.trim_ascii_start()).unwrap_or_else(Credential::Unreadable);
    }
    if is_bearer {
        return Credential::Bearer;
    }
    Credential::ConnectionBound(token::read(token.trim_ascii_start()))
}

fn connection_bound(shows: Shows) -> Credential {
    Credential::ConnectionBound(Token { leg: Leg::First, shows })
}

fn basic(token: &[u8]) -> Result<Credential, UnreadableCredential> {
    let mut user = BASE64.decode(token).map_err(|_| UnreadableCredential::NotBase64)?;
    let colon = user.iter().position(|byte| *byte == b':').ok_or(UnreadableCredential::NoColon)?;
    let password = Secret::new(user.split_off(colon + 1));
    user.truncate(colon);
    let user = MailboxName::parse_bytes(&user).map_err(|_| UnreadableCredential::BadUserName)?;
    Ok(Credential::Basic { user, password })
}

/// The standard alphabet, whose padding may be missing. Browsers and phones always pad, hand-made clients forget to,
/// and Microsoft's sample decoder for this very field copes (KB 191239). It changes no byte of what is read, so there
/// is nothing to gain from being stricter than the server that will check the password.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_user_name_is_read_in_every_form_and_the_password_to_the_byte() {
        for (sent, user, password) in [
            // The example of RFC 7617 section 2.
            (&b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="[..], "aladdin", &b"open sesame"[..]),
            (b"Basic YW5hOlBhc3Mtd29yZDE=", "ana", b"Pass-word1"),
            (b"basic YW5hOlBhc3Mtd29yZDE=", "ana", b"Pass-word1"),
            (b"BASIC \t  YW5hOlBhc3Mtd29yZDE=  ", "ana", b"Pass-word1"),
            (b"Basic YW5hOlBhc3Mtd29yZDE", "ana", b"Pass-word1"),
            (b"Basic Q09OVE9TT1xicnVubzpQYXNzLXdvcmQx", "contoso\\bruno", b"Pass-word1"),
            (b"Basic Y2FybGFAY29udG9zby5jb206YTpiOjpj", "carla@contoso.com", b"a:b::c"),
            (b"Basic YW5hOg==", "ana", b""),
            // The example of RFC 7617 section 2.1: a password in UTF-8.
            (b"Basic dGVzdDoxMjPCow==", "test", b"123\xc2\xa3"),
            (b"Basic w4lsb2RpZTpw", "élodie", b"p"),
            (b"Basic yWxvZGllOv8=", "élodie", b"\xff"),
        ] {
            let read = credential(sent);
            let expected = Credential::Basic { user: parse(user), password: Secret::new(password) };
            assert!(read == expected, "{}: {read:?}", String::from_utf8_lossy(sent));
        }
    }

    #[test]
    fn a_broken_basic_credential_says_what_is_broken() {
        for (sent, why) in [
            (&b"Basic"[..], UnreadableCredential::NoColon),
            (b"Basic YW5h", UnreadableCredential::NoColon),
            (b"Basic ana:Pass-word1", UnreadableCredential::NotBase64),
            (b"Basic YW5h OnA=", UnreadableCredential::NotBase64),
            (b"Basic YW5hOlBhc3M=Zm9v", UnreadableCredential::NotBase64),
            (b"Basic OnBhc3M=", UnreadableCredential::BadUserName),
            (b"Basic YW4AYTpw", UnreadableCredential::BadUserName),
        ] {
            let read = credential(sent);
            assert!(read == Credential::Unreadable(why), "{}: {read:?}", String::from_utf8_lossy(sent));
        }
    }

    #[test]
    fn a_user_name_longer_than_any_directory_allows_is_refused() {
        let sent = format!("Basic {}", BASE64_STANDARD.encode("a".repeat(48 * 1024) + ":p"));
        assert_eq!(credential(sent.as_bytes()), Credential::Unreadable(UnreadableCredential::BadUserName));
    }

    #[test]
    fn whatever_is_not_known_to_be_per_request_is_bound_to_the_connection() {
        for sent in [
            &b"NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw=="[..],
            b"ntlm",
            b"Negotiate YIIFmwYGKwYBBQUCoIIFjzCCBYs=",
            b"Nego2 YIIFmw==",
            b"Kerberos YIIFmw==",
            b"Digest username=\"ana\"",
            b"Basic\x0bYW5hOnA=",
            b"Basic=YW5hOnA=",
            b"BasicYW5hOnA=",
            b"Basic,Negotiate YIIFmw==",
            b"Basic YW5hOnA=, Negotiate YIIFmw==",
            b"Bearer abc, NTLM TlRMTVNTUAAB",
            b"\xff\xfe",
            b"",
            b"   ",
        ] {
            assert!(matches!(credential(sent), Credential::ConnectionBound(_)), "{}", String::from_utf8_lossy(sent));
        }
    }

    #[test]
    fn a_token_is_read_and_what_has_none_shows_nothing() {
        let shows = |sent: &[u8]| {
            let Credential::ConnectionBound(Token { shows, .. }) = credential(sent) else { panic!("not bound") };
            shows
        };
        for sent in [&b"NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw=="[..], b"ntlm", b"Negotiate "] {
            assert_eq!(shows(sent), Shows::Nothing);
        }
        assert_eq!(shows(b"Digest username=\"ana\", realm=\"Contoso\""), Shows::Nothing);
        assert_eq!(shows(b"Nego2 YIIFmw=="), Shows::Unreadable(UnreadableToken::Spnego));
        let several = Shows::Unreadable(UnreadableToken::SeveralCredentials);
        assert_eq!(shows(b"Basic YW5hOnA=, Negotiate YIIFmw=="), several);
        assert_eq!(shows(b"NTLM TlRMTVNTUAABAAAAB4IIog==, NTLM TlRMTVNTUAAB"), several);
    }

    #[test]
    fn a_bearer_token_is_left_unread() {
        assert_eq!(credential(b"bearer eyJ0eXAiOiJKV1QifQ.e30."), Credential::Bearer);
    }

    #[test]
    fn the_password_is_not_in_the_debug_text() {
        let shown = format!("{:?}", credential(b"Basic YW5hOlBhc3Mtd29yZDE="));
        assert!(shown.contains("ana") && !shown.contains("Pass-word1") && !shown.contains("YW5h"), "{shown}");
    }

    proptest! {
        #[test]
        fn every_password_arrives_as_sent(
            user in "[a-z]{1,8}", password in prop::collection::vec(any::<u8>(), 0..80), spaces in " {1,5}",
        ) {
            let sent = format!("Basic{spaces}{}", BASE64_STANDARD.encode([user.as_bytes(), b":", &password].concat()));
            let expected = Credential::Basic { user: parse(&user), password: Secret::new(password) };
            prop_assert!(credential(sent.as_bytes()) == expected);
        }
    }

    #[allow(clippy::expect_used)] // the names in these tests are names
    fn parse(name: &str) -> MailboxName {
        MailboxName::parse(name).expect("a name")
    }
}
