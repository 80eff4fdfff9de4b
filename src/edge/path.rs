//! The path we classify must be the path that IIS behind us will serve.
//!
//! A path is decoded once, as IIS does, and refused where the two could see different things: dot segments in any
//! disguise, backslashes (http.sys takes them for slashes), an encoded slash in the segment that names the virtual
//! directory, escapes that only one side knows (`%u002e`) and escapes of escapes, which something behind IIS may decode
//! again. The request itself is forwarded as it was sent.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Why a path is not served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Not `/...`, or a raw `?` or `#` in it.
    #[error("the path must begin with `/` and have no unescaped `?` or `#`; ask for it as /owa/")]
    NotAPath,
    /// `//...`: a client or a proxy that builds URLs this way means another server by the first segment.
    #[error("the path begins with two slashes; ask for it with one")]
    DoubleSlash,
    /// `.` or `..` as a segment, plain or escaped.
    #[error("the path has a `.` or `..` segment; ask for the path it leads to")]
    DotSegment,
    /// `\`, plain or escaped.
    #[error("the path has a backslash; separate segments with `/`")]
    Backslash,
    /// `%2F` in the first segment.
    #[error("the first path segment has an escaped slash; send `/` unescaped")]
    EscapedSlash,
    /// NUL, a line break or the like, plain or escaped.
    #[error("the path has a control character; leave it out")]
    ControlCharacter,
    /// Bytes that are no UTF-8 in the first segment, or ASCII in an overlong form anywhere.
    #[error("the path is not UTF-8; escape its characters as UTF-8 bytes")]
    NotUtf8,
    /// `%` without two hexadecimal digits behind it, `%uXXXX` among them.
    #[error("the path has a `%` without two hexadecimal digits; escape a percent sign as %25")]
    BadEscape,
    /// An escaped escape of a letter, digit, dot, slash, backslash, percent sign or control character.
    #[error("the path is escaped twice; escape it once")]
    EscapedTwice,
}

/// Percent-decodes a request's path (without its query) once, or refuses it. Costs no allocation if nothing is escaped.
///
/// Behind the first segment bytes that are no UTF-8 become U+FFFD: `WebDAV` clients of Exchange 2003 name items in
/// their own code page, and those segments are only looked at.
///
/// # Errors
/// When the path could mean something else to the server behind us, or is malformed.
pub fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if !raw.starts_with('/') || raw.contains(['?', '#']) {
        return Err(PathError::NotAPath);
    }
    let path = if raw.contains('%') { Cow::Owned(unescape(raw)?) } else { Cow::Borrowed(raw) };

    if path.starts_with("//") {
        return Err(PathError::DoubleSlash);
    }
    if path.contains('\\') {
        return Err(PathError::Backslash);
    }
    if path.contains(char::is_control) {
        return Err(PathError::ControlCharacter);
    }
    // Windows drops spaces at the end of a file name, so `.. ` is a way to write `..`.
    if path.split('/').any(|segment| matches!(segment.trim_end_matches(' '), "." | "..")) {
        return Err(PathError::DotSegment);
    }
    Ok(path)
}

fn unescape(raw: &str) -> Result<String, PathError> {
    if escapes(raw).any(|digits| digits.is_none()) {
        return Err(PathError::BadEscape);
    }
    let first_segment = raw.split('/').nth(1).unwrap_or_default();
    let decoded_first_segment = percent_decode_str(first_segment).decode_utf8().map_err(|_| PathError::NotUtf8)?;
    if decoded_first_segment.contains('/') {
        return Err(PathError::EscapedSlash);
    }

    let bytes: Vec<u8> = percent_decode_str(raw).collect();
    if bytes.windows(2).any(is_overlong) {
        return Err(PathError::NotUtf8);
    }
    let path = String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    // Only the second escapes that can harm, now or by making a third (`%%32%65`): an item may be called `5%de`. IIS 7
    // refuses every one of them unless `allowDoubleEscaping` is on.
    let harms = |byte: u8| {
        byte.is_ascii_alphanumeric() || byte.is_ascii_control() || matches!(byte, b'.' | b'/' | b'\\' | b'%')
    };
    if escapes(&path).flatten().any(harms) || has_percent_u(&path) {
        return Err(PathError::EscapedTwice);
    }
    Ok(path)
}

/// For each `%` the byte that the two characters behind it stand for.
fn escapes(text: &str) -> impl Iterator<Item = Option<u8>> {
    text.split('%').skip(1).map(|behind| {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        match behind.as_bytes() {
            [high, low, ..] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        }
    })
}

/// http.sys knows `%uXXXX` unless told otherwise (registry value `PercentUAllowed`).
fn has_percent_u(text: &str) -> bool {
    text.split('%').skip(1).any(|behind| match behind.as_bytes() {
        [b'u' | b'U', digits @ ..] => digits.iter().take_while(|byte| byte.is_ascii_hexdigit()).count() >= 4,
        _ => false,
    })
}

/// The beginning of an overlong form, in which lax decoders find ASCII (RFC 3629 section 10).
fn is_overlong(pair: &[u8]) -> bool {
    matches!(pair, [0xc0 | 0xc1, 0x80..=0xbf] | [0xe0, 0x80..=0x9f] | [0xf0, 0x80..=0x8f])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_honest_path_is_decoded_once() {
        for (raw, path) in [
            ("/", "/"),
            ("/owa/", "/owa/"),
            ("/%6fwa/", "/owa/"),
            ("/OWA/ana%40contoso.com/", "/OWA/ana@contoso.com/"),
            ("/owa//auth", "/owa//auth"),
            ("/exchange/ana/Inbox/Caf%C3%A9.EML", "/exchange/ana/Inbox/Café.EML"),
            ("/exchange/ana/Inbox/Caf%E9.EML", "/exchange/ana/Inbox/Caf\u{fffd}.EML"),
            ("/exchange/ana/Inbox/a%2Fb.EML", "/exchange/ana/Inbox/a/b.EML"),
            ("/exchange/ana/Inbox/Why%3F.EML", "/exchange/ana/Inbox/Why?.EML"),
            ("/exchange/ana/Inbox/100%25%20sure.EML", "/exchange/ana/Inbox/100% sure.EML"),
            ("/exchange/ana/Inbox/100%25unique.EML", "/exchange/ana/Inbox/100%unique.EML"),
            ("/exchange/ana/Inbox/5%25de%20desconto.EML", "/exchange/ana/Inbox/5%de desconto.EML"),
            ("/exchange/ana/Inbox/...and.EML", "/exchange/ana/Inbox/...and.EML"),
            ("/EWS/Exchange.asmx", "/EWS/Exchange.asmx"),
        ] {
            assert_eq!(decode(raw).as_deref(), Ok(path), "{raw}");
        }
    }

    #[test]
    fn a_path_that_iis_could_read_otherwise_is_refused() {
        for (raw, error) in [
            ("", PathError::NotAPath),
            ("*", PathError::NotAPath),
            ("owa/", PathError::NotAPath),
            ("http://mail.contoso.com/owa/", PathError::NotAPath),
            ("/owa?x", PathError::NotAPath),
            ("/owa#/../PowerShell", PathError::NotAPath),
            ("//owa/", PathError::DoubleSlash),
            ("//mail.contoso.com/owa/", PathError::DoubleSlash),
            ("/owa/../PowerShell", PathError::DotSegment),
            ("/owa/./x", PathError::DotSegment),
            ("/owa/..", PathError::DotSegment),
            ("/./owa", PathError::DotSegment),
            ("/owa/%2e%2e/PowerShell", PathError::DotSegment),
            ("/owa/.%2E/PowerShell", PathError::DotSegment),
            ("/owa/..%2fPowerShell", PathError::DotSegment),
            ("/owa/ana@contoso.com%2f..%2fx", PathError::DotSegment),
            ("/owa/..%20/PowerShell", PathError::DotSegment),
            ("/owa/%252e%252e/x", PathError::EscapedTwice),
            ("/owa/..%252fPowerShell", PathError::EscapedTwice),
            ("/owa/..%255cPowerShell", PathError::EscapedTwice),
            ("/owa/%25252e%25252e/x", PathError::EscapedTwice),
            ("/owa/%25u002e%25u002e/x", PathError::EscapedTwice),
            ("/owa/x%2500.aspx", PathError::EscapedTwice),
            ("/owa/%25%2532%2565%25%2532%2565/x", PathError::EscapedTwice),
            ("/owa\\..\\PowerShell", PathError::Backslash),
            ("/owa/..%5cPowerShell", PathError::Backslash),
            ("/owa%5C", PathError::Backslash),
            ("/%2fowa/", PathError::EscapedSlash),
            ("/owa%2fauth/", PathError::EscapedSlash),
            ("/owa%2f..%2fPowerShell", PathError::EscapedSlash),
            ("/owa/x%00.aspx", PathError::ControlCharacter),
            ("/owa/x%0d%0aX-Evil:%201", PathError::ControlCharacter),
            ("/owa%7f/", PathError::ControlCharacter),
            ("/owa/x\u{85}", PathError::ControlCharacter),
            ("/%ffowa/", PathError::NotUtf8),
            ("/owa/%c0%ae%c0%ae/PowerShell", PathError::NotUtf8),
            ("/owa/%e0%80%ae./PowerShell", PathError::NotUtf8),
            ("/owa/%u002e%u002e/PowerShell", PathError::BadEscape),
            ("/owa/100%", PathError::BadEscape),
            ("/owa/%4", PathError::BadEscape),
            ("/owa/%zz", PathError::BadEscape),
            ("/owa/%+1", PathError::BadEscape),
        ] {
            assert_eq!(decode(raw), Err(error), "{raw}");
        }
    }

    #[test]
    fn a_path_without_escapes_is_not_copied() {
        assert!(matches!(decode("/owa/auth/logon.aspx"), Ok(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn what_is_served_has_no_way_up_however_often_it_is_decoded(
            raw in "/([.]|/|%|%2[eE]|%2f|%25|%5c|2e|2f|25|%u002e|owa| |%20|é|%c0%ae){0,12}",
        ) {
            if let Ok(mut path) = decode(&raw).map(Cow::into_owned) {
                for _ in 0..8 {
                    prop_assert!(path.split('/').all(|segment| segment != "." && segment != ".."), "{} from {}", path, raw);
                    path = percent_decode_str(&path).decode_utf8_lossy().into_owned();
                }
            }
        }

        #[test]
        fn what_was_escaped_once_is_read_as_it_was(segment in "[a-zA-Z0-9 @é&;,-]{1,20}") {
            let raw = format!("/owa/{}", percent_encoding::utf8_percent_encode(&segment, percent_encoding::NON_ALPHANUMERIC));
            let path = format!("/owa/{segment}");
            prop_assert_eq!(decode(&raw).map(Cow::into_owned), Ok(path));
        }
    }
}
