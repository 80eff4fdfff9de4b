//! Which certificate a client is shown: one for the name it asks for, of a kind that it can check.

use std::{fmt, net::IpAddr};

use pingora_core::tls::ssl::{ClientHello, ExtensionType};

/// The kind of a certificate's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA, which every client can check.
    Rsa {
        /// Its length.
        bits: u32,
    },
    /// ECDSA over a curve of NIST's.
    Ecdsa {
        /// Which: P-256, P-384 or P-521.
        bits: u32,
    },
    /// Ed25519.
    Ed25519,
    /// Another.
    Other,
}

/// What a client says of the signatures it can check (RFC 8446 section 4.2.3).
#[derive(Clone, Copy, Debug)]
pub struct Offer<'h> {
    signature_algorithms: &'h [u8],
    versions: &'h [u8],
    ciphers: &'h [u8],
}

/// The index of the certificate for a client that asks for this name, of certificates with these names and keys. `None`:
/// there are none.
///
/// A certificate for the very name is better than one with a wildcard. Where none is for it, or the client names none, it
/// is the first, or one for the same names as the first.
pub fn choose<'c>(
    certificates: &(impl Iterator<Item = (&'c [String], KeyKind)> + Clone),
    name: Option<&str>,
    client: &Offer<'_>,
) -> Option<usize> {
    let name = name.map(folded);
    let best_of = |is_for: &dyn Fn(&[String]) -> bool| {
        let mut fitting = certificates.clone().enumerate().filter(|(_, (names, _))| is_for(names));
        let first = fitting.clone().next()?;
        let is_rsa = |kind| matches!(kind, KeyKind::Rsa { .. });
        let modern = fitting.clone().find(|(_, (_, kind))| !is_rsa(*kind) && client.takes(*kind));
        let (index, _) = modern.or_else(|| fitting.find(|(_, (_, kind))| is_rsa(*kind))).unwrap_or(first);
        Some(index)
    };
    let named = name.and_then(|name| {
        let exactly = best_of(&|names| names.contains(&name));
        exactly.or_else(|| best_of(&|names| names.iter().any(|pattern| is_below(&name, pattern))))
    });
    let (default, _) = certificates.clone().next()?;
    named.or_else(|| best_of(&|names| names == default))
}

/// As certificates write it: lower case, without the dot at the end, an address in its one spelling.
fn folded(name: &str) -> String {
    let name = name.strip_suffix('.').unwrap_or(name);
    name.parse().map_or_else(|_| name.to_ascii_lowercase(), |address: IpAddr| address.to_string())
}

/// Whether a wildcard stands for a name: for its first label, whole, and no other (RFC 9525 section 6.3).
fn is_below(name: &str, pattern: &str) -> bool {
    let below = name.split_once('.').filter(|(first, _)| !first.is_empty());
    pattern.strip_prefix("*.").zip(below).is_some_and(|(domain, (_, rest))| domain == rest)
}

impl<'h> Offer<'h> {
    /// Read off a `ClientHello`.
    pub fn of(hello: &'h ClientHello<'_>) -> Self {
        let extension = |kind| hello.get_extension(kind).unwrap_or_default();
        Offer {
            signature_algorithms: extension(ExtensionType::SIGNATURE_ALGORITHMS).get(2..).unwrap_or_default(),
            versions: extension(ExtensionType::SUPPORTED_VERSIONS).get(1..).unwrap_or_default(),
            ciphers: hello.ciphers(),
        }
    }

    /// Whether the client can check signatures by a key of this kind, which is not RSA's.
    fn takes(&self, kind: KeyKind) -> bool {
        const TLS_1_3: u16 = 0x0304;
        // Before TLS 1.3 the cipher says it too: ECDHE-ECDSA with AES128-GCM, AES256-GCM, CHACHA20 of Mozilla's list.
        const ECDSA_CIPHERS: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
        let scheme = match kind {
            KeyKind::Ecdsa { bits: 256 } => 0x0403,
            KeyKind::Ecdsa { bits: 384 } => 0x0503,
            KeyKind::Ecdsa { bits: 521 } => 0x0603,
            KeyKind::Ed25519 => 0x0807,
            KeyKind::Rsa { .. } | KeyKind::Ecdsa { .. } | KeyKind::Other => return false,
        };
        let offers = |list: &[u8], wanted: u16| list.chunks_exact(2).any(|pair| pair == wanted.to_be_bytes());
        offers(self.signature_algorithms, scheme)
            && (offers(self.versions, TLS_1_3) || ECDSA_CIPHERS.iter().any(|cipher| offers(self.ciphers, *cipher)))
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::Rsa { bits } => write!(f, "RSA {bits}"),
            KeyKind::Ecdsa { bits } => write!(f, "ECDSA P-{bits}"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
            KeyKind::Other => f.write_str("unknown key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: KeyKind = KeyKind::Rsa { bits: 2048 };
    const ECDSA: KeyKind = KeyKind::Ecdsa { bits: 256 };

    /// RSA-PSS and ECDSA over P-256, TLS 1.3.
    const MODERN: Offer<'_> =
        Offer { signature_algorithms: &[8, 4, 4, 3], versions: &[3, 4, 3, 3], ciphers: &[0x13, 0x01] };
    /// RSA alone, TLS 1.2.
    const OLD: Offer<'_> = Offer { signature_algorithms: &[4, 1], versions: &[], ciphers: &[0xc0, 0x2f] };

    fn chosen(certificates: &[(&[&str], KeyKind)], name: Option<&str>, client: &Offer<'_>) -> Option<usize> {
        let certificates: Vec<(Vec<String>, KeyKind)> =
            certificates.iter().map(|(names, kind)| (names.iter().map(ToString::to_string).collect(), *kind)).collect();
        choose(&certificates.iter().map(|(names, kind)| (names.as_slice(), *kind)), name, client)
    }

    #[test]
    fn a_certificate_is_chosen_by_its_names() {
        let certificates = [
            (&["mail.contoso.com", "127.0.0.1", "::1"][..], RSA),
            (&["*.contoso.com"], RSA),
            (&["owa.contoso.com", "autodiscover.contoso.com"], RSA),
            (&["*.fabrikam.com", "fabrikam.com"], RSA),
        ];
        for (name, index) in [
            (Some("mail.contoso.com"), 0),
            (Some("MAIL.Contoso.com."), 0),
            (Some("127.0.0.1"), 0),
            (Some("0:0:0:0:0:0:0:1"), 0),
            (Some("other.contoso.com"), 1),
            (Some("owa.contoso.com"), 2),
            (Some("autodiscover.contoso.com"), 2),
            (Some("fabrikam.com"), 3),
            (Some("a.fabrikam.com"), 3),
            (Some("a.b.fabrikam.com"), 0),
            (Some(".fabrikam.com"), 0),
            (Some("contoso.com"), 0),
            (Some("*.contoso.com"), 1),
            (Some("northwind.com"), 0),
            (Some(""), 0),
            (None, 0),
        ] {
            assert_eq!(chosen(&certificates, name, &MODERN), Some(index), "{name:?}");
        }
        assert_eq!(chosen(&[], Some("mail.contoso.com"), &MODERN), None);
    }

    #[test]
    fn who_can_check_ecdsa_gets_it_and_everybody_else_rsa() {
        let rsa_first = [(&["mail.contoso.com"][..], RSA), (&["mail.contoso.com"], ECDSA)];
        let ecdsa_first = [(&["mail.contoso.com"][..], ECDSA), (&["mail.contoso.com"], RSA)];
        for name in [Some("mail.contoso.com"), Some("unknown"), None] {
            assert_eq!(chosen(&rsa_first, name, &MODERN), Some(1), "{name:?}");
            assert_eq!(chosen(&rsa_first, name, &OLD), Some(0), "{name:?}");
            assert_eq!(chosen(&ecdsa_first, name, &MODERN), Some(0), "{name:?}");
            assert_eq!(chosen(&ecdsa_first, name, &OLD), Some(1), "{name:?}");
        }
        let only_ecdsa = [(&["a"][..], RSA), (&["mail.contoso.com"], ECDSA)];
        assert_eq!(chosen(&only_ecdsa, Some("mail.contoso.com"), &OLD), Some(1), "its name counts more");
    }

    #[test]
    fn a_client_says_what_it_can_check() {
        let ciphers = &[0xc0, 0x2f, 0xc0, 0x2b][..];
        let tls_1_2 = Offer { signature_algorithms: &[4, 3, 5, 3], versions: &[3, 3], ciphers };
        assert!(tls_1_2.takes(ECDSA));
        assert!(tls_1_2.takes(KeyKind::Ecdsa { bits: 384 }));
        assert!(!tls_1_2.takes(KeyKind::Ecdsa { bits: 521 }));
        assert!(!tls_1_2.takes(KeyKind::Ed25519));
        assert!(!Offer { ciphers: &[0xc0, 0x2f], ..tls_1_2 }.takes(ECDSA), "no cipher for it");
        assert!(Offer { ciphers: &[0x13, 0x01], versions: &[0x7f, 0x1c, 3, 4], ..tls_1_2 }.takes(ECDSA), "TLS 1.3");
        assert!(!Offer { signature_algorithms: &[], ..tls_1_2 }.takes(ECDSA));
        assert!(!Offer { signature_algorithms: &[0, 4, 3, 0], ..tls_1_2 }.takes(ECDSA), "not across two entries");
    }
}
