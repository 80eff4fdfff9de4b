//! The kinds of values an option can have: how each is written, and what to say when it is not.

use std::{ops::RangeInclusive, str::FromStr, time::Duration};

use toml::de::DeValue;
use url::Url;

use super::section::{Wrong, kind, wrong};
use crate::{identity::activesync::protocol_version, routing::EasVersion};

/// `true` or `false`.
pub fn switch(value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| {
        wrong(format!("true or false is needed, not {}", kind(value)), "write true or false, without quotes")
    })
}

/// Text that is not empty.
pub fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    match value.as_str() {
        Some(text) if text.trim().is_empty() => Err(wrong("the text is empty", "fill it in, or remove the line")),
        Some(text) => Ok(text),
        None => Err(wrong(format!("text is needed, not {}", kind(value)), "put it in \"quotes\"")),
    }
}

/// Text of a form that Rust knows, such as an address.
pub fn parsed<T: FromStr>(what: &str, example: &str) -> impl Fn(&DeValue<'_>) -> Result<T, Wrong> {
    move |value| {
        let text =
            text(value).map_err(|wrong| Wrong { cure: format!("write {what}, such as \"{example}\""), ..wrong })?;
        text.parse().map_err(|_| wrong(format!("`{text}` is not {what}"), format!("write it like \"{example}\"")))
    }
}

/// A whole number within a range.
pub fn number(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Result<u64, Wrong> {
    move |value| {
        let bounds = format!("write a whole number from {} to {}", range.start(), range.end());
        let Some(integer) = value.as_integer() else {
            return Err(wrong(format!("a whole number is needed, not {}", kind(value)), bounds));
        };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        within(number.and_then(|number| u64::try_from(number).ok()), &range)
            .ok_or_else(|| wrong(format!("{integer} is out of range"), bounds))
    }
}

/// A [`number`] as a `usize`.
pub fn count(range: RangeInclusive<usize>) -> impl Fn(&DeValue<'_>) -> Result<usize, Wrong> {
    let read = number(*range.start() as u64..=*range.end() as u64);
    move |value| read(value).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

/// A time span, `"5s"`, within a range.
pub fn duration(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Duration, Wrong> {
    move |value| {
        let bounds = format!("write it from {} to {}", duration_text(*range.start()), duration_text(*range.end()));
        if let Some(integer) = value.as_integer() {
            return Err(wrong(
                format!("`{integer}` has no unit"),
                format!("write it with its unit, \"{integer}s\" or \"{integer}m\""),
            ));
        }
        let text = text(value)
            .map_err(|wrong| Wrong { cure: "write a time with its unit, such as \"5s\"".into(), ..wrong })?;
        if text.trim().parse::<f64>().is_ok() {
            return Err(wrong(
                format!("`{text}` has no unit"),
                format!("write it with its unit, \"{text}s\" or \"{text}m\""),
            ));
        }
        let duration = parse_duration(text).ok_or_else(|| {
            wrong(
                format!("`{text}` is not a time"),
                "write whole numbers with ms, s, m, h or d: \"300ms\", \"5s\", \"1h 30m\"",
            )
        })?;
        within(Some(duration), &range).ok_or_else(|| wrong(format!("`{text}` is out of range"), bounds))
    }
}

/// A size in bytes, `"64 MiB"` or `67108864`, within a range.
pub fn size(range: RangeInclusive<u64>) -> impl Fn(&DeValue<'_>) -> Result<u64, Wrong> {
    move |value| {
        let bounds = format!("write it from {} to {}", size_text(*range.start()), size_text(*range.end()));
        if value.is_integer() {
            return number(range.clone())(value).map_err(|wrong| Wrong { cure: bounds, ..wrong });
        }
        let text = text(value)
            .map_err(|wrong| Wrong { cure: "write a size, such as \"64 MiB\" or 67108864".into(), ..wrong })?;
        let size = parse_size(text).ok_or_else(|| {
            wrong(
                format!("`{text}` is not a size"),
                "write a whole number with KiB, MiB, GiB, KB, MB, GB or B: \"64 MiB\"",
            )
        })?;
        within(Some(size), &range).ok_or_else(|| wrong(format!("`{text}` is out of range"), bounds))
    }
}

/// An address with nothing after the host and port. A user name or password in it is refused, and not repeated.
pub fn origin(schemes: &'static [&'static str], example: &str) -> impl Fn(&DeValue<'_>) -> Result<Url, Wrong> {
    move |value| {
        let cure = format!("write it like \"{example}\"");
        let text = text(value).map_err(|wrong| Wrong { cure: cure.clone(), ..wrong })?;
        if text.contains('@') {
            return Err(wrong("a URL here carries no user name or password", cure));
        }
        let Some(url) = Url::parse(text).ok().filter(Url::has_host) else {
            return Err(wrong(format!("`{text}` is not a URL"), cure));
        };
        if !schemes.contains(&url.scheme()) {
            return Err(wrong(format!("`{text}` does not begin with {}://", schemes.join(":// or ")), cure));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong(format!("`{text}` has something after the host"), cure));
        }
        Ok(url)
    }
}

/// SHA-256 of a certificate: 64 hexadecimal digits, with or without colons, as `openssl x509 -fingerprint -sha256` prints.
pub fn fingerprint(value: &DeValue<'_>) -> Result<[u8; 32], Wrong> {
    let cure = "write the 64 hexadecimal digits of `openssl x509 -noout -fingerprint -sha256`, with or without colons";
    let text = text(value).map_err(|wrong| Wrong { cure: cure.into(), ..wrong })?;
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|character| !matches!(character, ':' | ' '))
        .map(|character| character.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits.ok_or_else(|| wrong(format!("`{text}` has something other than hexadecimal digits"), cure))?;
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect();
    <[u8; 32]>::try_from(bytes).ok().filter(|_| digits.len() == 64).ok_or_else(|| {
        wrong(format!("a SHA-256 fingerprint has 64 hexadecimal digits, this has {}", digits.len()), cure)
    })
}

/// An `ActiveSync` protocol version, `12.1`, as devices write it.
///
/// # Errors
/// It is none; the text says so, and what they look like.
pub fn eas_version(text: &str) -> Result<EasVersion, String> {
    protocol_version(Some(text.as_bytes()), None).ok_or_else(|| {
        format!(
            "`{text}` is not an ActiveSync protocol version; known ones are 2.5, 12.0, 12.1, 14.0, 14.1, 16.0 and 16.1"
        )
    })
}

/// Whole numbers with units, summed: `1h 30m`.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    loop {
        let (number, unit);
        (number, rest) = split_while(rest, |character| character.is_ascii_digit());
        (unit, rest) = split_while(rest.trim_start(), |character| character.is_ascii_alphabetic());
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total_ms = number.parse::<u64>().ok()?.checked_mul(unit_ms)?.checked_add(total_ms)?;
        rest = rest.trim_start();
        if rest.is_empty() {
            return Some(Duration::from_millis(total_ms));
        }
    }
}

fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_while(text.trim(), |character| character.is_ascii_digit() || character == '_');
    let unit_bytes: u64 = match unit.trim() {
        "" | "B" => 1,
        "KB" | "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.replace('_', "").parse::<u64>().ok()?.checked_mul(unit_bytes)
}

/// A duration as the config writes it, in the largest unit that leaves no remainder.
pub fn duration_text(duration: Duration) -> String {
    let ms = duration.as_millis();
    let (unit_ms, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(unit_ms, _)| ms > 0 && ms.is_multiple_of(*unit_ms))
        .unwrap_or((1, "ms"));
    format!("{}{unit}", ms / unit_ms)
}

/// A size as the config writes it, in the largest unit that leaves no remainder.
pub fn size_text(bytes: u64) -> String {
    let (unit_bytes, unit) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
        .into_iter()
        .find(|(unit_bytes, _)| bytes > 0 && bytes.is_multiple_of(*unit_bytes))
        .unwrap_or((1, "B"));
    format!("{} {unit}", bytes / unit_bytes)
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|character| !keep(character)).unwrap_or(text.len()))
}

fn within<T: PartialOrd + Copy>(value: Option<T>, range: &RangeInclusive<T>) -> Option<T> {
    value.filter(|value| range.contains(value))
}

/// `a, b, c`, for cures; cut short where it grows too long to read.
pub fn list(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 20;
    let shown = names.iter().take(SHOWN_MAX).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN_MAX { format!("{shown} and {} more", names.len() - SHOWN_MAX) } else { shown }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test's own values
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn value(toml: &str) -> DeValue<'_> {
        DeValue::parse(toml).unwrap().into_inner()
    }

    #[test]
    fn a_time_is_whole_numbers_with_units() {
        let read = |toml| duration(Duration::from_millis(1)..=Duration::from_secs(1_000_000))(&value(toml));
        assert_eq!(read("'300ms'"), Ok(Duration::from_millis(300)));
        assert_eq!(read("'59m'"), Ok(Duration::from_secs(59 * 60)));
        assert_eq!(read("' 1h 30m '"), Ok(Duration::from_secs(90 * 60)));
        assert_eq!(read("5").unwrap_err().problem, "`5` has no unit");
        assert_eq!(read("'5'").unwrap_err().problem, "`5` has no unit");
        assert_eq!(read("'1.5h'").unwrap_err().problem, "`1.5h` is not a time");
        assert_eq!(read("'-5s'").unwrap_err().problem, "`-5s` is not a time");
        assert_eq!(read("'99999999999999999999d'").unwrap_err().problem, "`99999999999999999999d` is not a time");
        assert_eq!(read("'0s'").unwrap_err().problem, "`0s` is out of range");
        assert_eq!(read("true").unwrap_err().problem, "text is needed, not true or false");
    }

    #[test]
    fn a_size_is_bytes_or_a_number_with_a_unit() {
        let read = |toml| size(1..=1 << 40)(&value(toml));
        assert_eq!(read("'64 MiB'"), Ok(64 << 20));
        assert_eq!(read("'30MB'"), Ok(30_000_000));
        assert_eq!(read("67_108_864"), Ok(67_108_864));
        assert_eq!(read("0x10"), Ok(16));
        assert_eq!(read("'64 megs'").unwrap_err().problem, "`64 megs` is not a size");
        assert_eq!(read("-1").unwrap_err(), wrong("-1 is out of range", "write it from 1 B to 1024 GiB"));
    }

    #[test]
    fn a_fingerprint_is_64_hexadecimal_digits_with_or_without_colons() {
        let with_colons = format!("'{}'", ["AB"; 32].join(":"));
        assert_eq!(fingerprint(&value(&with_colons)), Ok([0xab; 32]));
        let too_short = format!("'{}'", "ab".repeat(31));
        assert!(fingerprint(&value(&too_short)).unwrap_err().problem.contains("this has 62"));
        let odd = format!("'{}'", "a".repeat(63));
        assert!(fingerprint(&value(&odd)).unwrap_err().problem.contains("this has 63"));
        assert!(fingerprint(&value("'sha256 xyz'")).is_err());
    }

    #[test]
    fn a_url_with_a_password_is_refused_without_repeating_it() {
        let wrong = origin(&["ldaps"], "ldaps://dc1.contoso.com")(&value("'ldaps://svc:Pass-word1@dc1'")).unwrap_err();
        assert!(!format!("{wrong:?}").contains("Pass-word1"));
    }

    #[test]
    fn an_activesync_version_is_read_times_ten() {
        assert_eq!(eas_version("12.1"), Ok(EasVersion(121)));
        assert_eq!(eas_version("2.5"), Ok(EasVersion(25)));
        for text in ["12", "12.10", "+1.1", ".1", "a.b", ""] {
            assert!(eas_version(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_back_as_it_is_written(ms in 1_u64..10_000_000_000) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&duration_text(duration)), Some(duration));
        }

        #[test]
        fn a_size_reads_back_as_it_is_written(bytes in 0_u64..1 << 50) {
            prop_assert_eq!(parse_size(&size_text(bytes)), Some(bytes));
        }

        #[test]
        fn no_text_makes_a_reader_panic(text in ".*") {
            let _ = (parse_duration(&text), parse_size(&text), eas_version(&text));
            let _ = fingerprint(&DeValue::String(text.into()));
        }
    }
}
