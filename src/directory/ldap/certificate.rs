//! When a server's certificate ends.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::prelude::{FromDer, X509Certificate};

/// Whole days until the certificate, in DER, ends; below 0 once it has ended. `None`: it is no X.509 certificate.
pub fn days_left(certificate: &[u8], now: SystemTime) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let now = i64::try_from(now.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok()?;
    Some(certificate.validity().not_after.timestamp().saturating_sub(now).div_euclid(DAY_SECONDS))
}

const DAY_SECONDS: i64 = 24 * 60 * 60;

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use std::time::Duration;

    use rcgen::{CertificateParams, KeyPair};
    use time::{OffsetDateTime, macros::datetime};

    use super::*;

    /// Self-signed, as DER.
    fn ending(not_after: OffsetDateTime) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["dc1.contoso.com".to_owned()]).expect("a name");
        params.not_after = not_after;
        params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").der().to_vec()
    }

    #[test]
    fn whole_days_are_counted_to_the_end_and_beyond() {
        let end = datetime!(2030-06-15 12:00 UTC);
        let certificate = ending(end);
        for (before_end, days) in [
            (time::Duration::days(30), 30),
            (time::Duration::days(30) - time::Duration::SECOND, 29),
            (time::Duration::hours(23), 0),
            (time::Duration::ZERO, 0),
            (-time::Duration::SECOND, -1),
            (-time::Duration::days(3), -3),
        ] {
            assert_eq!(days_left(&certificate, (end - before_end).into()), Some(days), "{before_end}");
        }
    }

    #[test]
    fn a_certificate_for_ever_has_many_days() {
        // RFC 5280 section 4.1.2.5: no well-defined end.
        let certificate = ending(datetime!(9999-12-31 23:59:59 UTC));
        assert!(days_left(&certificate, datetime!(2030-01-01 0:00 UTC).into()).is_some_and(|days| days > 2_000_000));
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let certificate = ending(datetime!(2030-06-15 12:00 UTC));
        let now = UNIX_EPOCH + Duration::from_secs(1);
        for cut in [0, 1, 10, certificate.len() / 2, certificate.len() - 1] {
            assert_eq!(days_left(certificate.get(..cut).expect("a part"), now), None, "{cut}");
        }
        assert_eq!(days_left(b"-----BEGIN CERTIFICATE-----", now), None);
    }
}
