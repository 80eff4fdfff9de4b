//! What a server has said, without the password that it may have repeated.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::Printable;

/// The forms in which what was sent to a server would be known again.
pub(super) struct Echoes(Vec<Vec<u8>>);

/// The longest [`Printable`], in characters.
const PRINTABLE_MAX: usize = 200;

impl Echoes {
    /// Of this secret: as it is, in quotes of IMAP4, and in base64.
    pub(super) fn of(secret: &[u8]) -> Self {
        let mut echoes = Echoes(Vec::new());
        echoes.add(secret);
        echoes
    }

    /// Of this as well.
    pub(super) fn add(&mut self, secret: &[u8]) {
        if !secret.is_empty() {
            let quoted = secret.iter().flat_map(|byte| {
                let escape = matches!(byte, b'"' | b'\\').then_some(b'\\');
                escape.into_iter().chain([*byte])
            });
            self.0.extend([secret.to_vec(), quoted.collect(), BASE64_STANDARD.encode(secret).into_bytes()]);
            self.0.sort_by_key(|form| std::cmp::Reverse(form.len())); // a part must not hide the whole
        }
    }

    /// For the client: as it is, except that no line of any protocol has these two, and that secrets are gone.
    pub(super) fn remove_from(&self, words: &[u8]) -> Vec<u8> {
        self.cleaned(words, |byte| (!matches!(byte, b'\r' | 0)).then_some(byte))
    }

    /// For an administrator: printable ASCII besides.
    pub(super) fn printable(&self, words: &[u8]) -> Printable {
        let kept = |byte: u8| match byte {
            b' '..=b'~' => Some(byte),
            0x80.. => Some(b'?'),
            0..b' ' | 0x7f => None,
        };
        let mut words = self.cleaned(words, kept);
        words.truncate(PRINTABLE_MAX);
        Printable(words.into_iter().map(char::from).collect())
    }

    /// Each byte as `kept` has it, then without secrets: these as `kept` has them, or a byte that is dropped would part a
    /// secret and let it through.
    fn cleaned(&self, words: &[u8], kept: impl Fn(u8) -> Option<u8>) -> Vec<u8> {
        let clean = |bytes: &[u8]| -> Vec<u8> { bytes.iter().copied().filter_map(&kept).collect() };
        self.0.iter().map(|form| clean(form)).filter(|form| !form.is_empty()).fold(clean(words), |words, form| {
            let mut result = Vec::with_capacity(words.len());
            let mut rest = &words[..];
            while let Some(byte) = rest.first() {
                if let Some(after) = rest.strip_prefix(&form[..]) {
                    result.extend_from_slice(b"***");
                    rest = after;
                } else {
                    result.push(*byte);
                    rest = &rest[1..];
                }
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_that_a_server_repeats_is_not_passed_on_whatever_its_form() {
        let echoes = Echoes::of(b"Pa\"ss-wo\xe4rd1");
        let encoded = BASE64_STANDARD.encode(b"Pa\"ss-wo\xe4rd1");
        for (said, meant) in [
            (&b"bad password Pa\"ss-wo\xe4rd1 of duarte"[..], "bad password *** of duarte"),
            (b"LOGIN duarte \"Pa\\\"ss-wo\xe4rd1\"", "LOGIN duarte \"***\""),
            (encoded.as_bytes(), "***"),
            (b"Pa\"ss-\0wo\xe4rd1Pa\"ss-\rwo\xe4rd1", "******"),
            (b"Pa\"ss-", "Pa\"ss-"),
        ] {
            assert_eq!(echoes.printable(said), Printable(meant.into()));
            assert_eq!(echoes.remove_from(said), meant.as_bytes());
        }
    }

    #[test]
    fn what_an_administrator_reads_is_bounded_and_printable() {
        let echoes = Echoes::of(b"");
        assert_eq!(echoes.printable(b"\x1b[2Jna\xc3\xafve\x7f\r\n"), Printable("[2Jna??ve".into()));
        assert_eq!(echoes.printable(&[b'a'; 8192]), Printable("a".repeat(PRINTABLE_MAX)));
        assert_eq!(echoes.remove_from("naïve\tword".as_bytes()), "naïve\tword".as_bytes());
    }
}
