//! When certificates end, and who is told: 30, 7 and 1 day before, and when it has happened.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{Certificate, ListenerCertificates, Role};
use crate::events::Event;

/// How near a certificate's end is. Each is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// 30 days.
    Month,
    /// 7 days.
    Week,
    /// 1 day.
    Day,
    /// It has ended.
    Ended,
}

/// What is to be told of a certificate that ends then, after what was `told` already.
pub fn due(not_after: SystemTime, now: SystemTime, told: Option<Due>) -> Option<Due> {
    let reached = match not_after.duration_since(now) {
        Err(_) => Some(Due::Ended),
        Ok(left) if left <= DAY => Some(Due::Day),
        Ok(left) if left <= 7 * DAY => Some(Due::Week),
        Ok(left) if left <= 30 * DAY => Some(Due::Month),
        Ok(_) => None,
    };
    reached.filter(|reached| told < Some(*reached))
}

/// Tells of the listeners' certificates that end soon, at once and every hour.
pub async fn watch_expiry(listeners: Vec<Arc<ListenerCertificates>>) {
    let mut hours = tokio::time::interval(Duration::from_secs(60 * 60));
    let mut told = Told::default();
    loop {
        hours.tick().await;
        let certificates = listeners.iter().flat_map(|listener| listener.in_force());
        for (event, sentence) in told.news(certificates, SystemTime::now()) {
            event.report(sentence);
        }
    }
}

/// What was told of which certificate, by its fingerprint.
#[derive(Default)]
struct Told(HashMap<String, Option<Due>>);

impl Told {
    /// What is to be told now. A certificate that is not in use any more is forgotten.
    fn news(&mut self, certificates: impl Iterator<Item = Certificate>, now: SystemTime) -> Vec<(Event, String)> {
        let mut news = Vec::new();
        let before = std::mem::take(&mut self.0);
        for certificate in certificates {
            let told = self
                .0
                .entry(certificate.fingerprint.clone())
                .or_insert_with(|| before.get(&certificate.fingerprint).copied().flatten());
            if let Some(due) = due(certificate.not_after, now, *told) {
                *told = Some(due);
                let event = match due {
                    Due::Month | Due::Week => Event::CertificateEnds,
                    Due::Day | Due::Ended => Event::CertificateEnded,
                };
                news.push((event, sentence(&certificate, now)));
            }
        }
        news
    }
}

fn sentence(certificate: &Certificate, now: SystemTime) -> String {
    let whose = match certificate.role {
        Role::Server => "the certificate of",
        Role::ClientAuthority => "the client authority",
    };
    let (title, file) = (certificate.title(), certificate.file.display());
    format!("{whose} {title} ({file}) {}", when(days_left(certificate.not_after, now)))
}

/// Whole days until then; below 0 once it has passed.
fn days_left(not_after: SystemTime, now: SystemTime) -> i64 {
    let days = |span: Duration| i64::try_from(span.as_secs() / DAY.as_secs()).unwrap_or(i64::MAX);
    not_after.duration_since(now).map_or_else(|passed| -1 - days(passed.duration()), days)
}

/// When something ends that has so many whole days left.
pub fn when(days: i64) -> String {
    match days {
        ..=-2 => format!("ended {} days ago", days.unsigned_abs()),
        -1 => "ended yesterday".to_owned(),
        0 => "ends today".to_owned(),
        1 => "ends tomorrow".to_owned(),
        2.. => format!("ends in {days} days"),
    }
}

/// The day of a time, in UTC: `2027-11-23`.
pub fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
    x509_parser::time::ASN1Time::from_timestamp(seconds)
        .map_or_else(|_| "-".into(), |time| time.to_datetime().date().to_string())
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::certificates::choice::KeyKind;

    fn after(days: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + Duration::from_secs(days * DAY.as_secs())
    }

    #[test]
    fn each_threshold_is_told_once_and_one_that_was_slept_through_is_not() {
        let end = after(100);
        let second = Duration::from_secs(1);
        for (now, told, news) in [
            (after(0), None, None),
            (after(70) - second, None, None),
            (after(70), None, Some(Due::Month)),
            (after(70), Some(Due::Month), None),
            (after(93) - second, Some(Due::Month), None),
            (after(93), Some(Due::Month), Some(Due::Week)),
            (after(98), Some(Due::Week), None),
            (after(98), None, Some(Due::Week)),
            (after(99), Some(Due::Week), Some(Due::Day)),
            (after(100), Some(Due::Day), None),
            (after(100) + second, Some(Due::Day), Some(Due::Ended)),
            (after(500), None, Some(Due::Ended)),
            (after(500), Some(Due::Ended), None),
        ] {
            assert_eq!(due(end, now, told), news, "{now:?} {told:?}");
        }
    }

    fn certificate(fingerprint: &str, not_after: SystemTime) -> Certificate {
        Certificate {
            names: vec!["mail.contoso.com".into(), "owa.contoso.com".into()],
            not_before: UNIX_EPOCH,
            not_after,
            key: KeyKind::Ecdsa { bits: 256 },
            serial: "01".into(),
            fingerprint: fingerprint.into(),
            file: PathBuf::from("/etc/mail.pem"),
            role: Role::Server,
        }
    }

    #[test]
    fn a_certificate_is_told_of_once_however_many_listeners_have_it_and_its_successor_anew() {
        let mut told = Told::default();
        let mut look = |certificates: &[(&str, u64)], today| {
            let certificates = certificates.iter().map(|(name, end)| certificate(name, after(*end)));
            let news = told.news(certificates, after(today));
            news.into_iter().map(|(event, sentence)| (event.id(), sentence)).collect::<Vec<_>>()
        };
        let of = |what: &str| format!("the certificate of mail.contoso.com, owa.contoso.com (/etc/mail.pem) {what}");
        assert_eq!(look(&[("a", 100)], 0), []);
        assert_eq!(look(&[("a", 100), ("a", 100)], 75), [("FC150", of("ends in 25 days"))]);
        assert_eq!(look(&[("a", 100), ("a", 100)], 76), []);
        assert_eq!(look(&[("a", 100)], 94), [("FC150", of("ends in 6 days"))]);
        assert_eq!(look(&[("a", 100)], 99), [("FC151", of("ends tomorrow"))]);
        assert_eq!(look(&[("a", 100)], 102), [("FC151", of("ended 3 days ago"))]);
        assert_eq!(look(&[("b", 110)], 103), [("FC150", of("ends in 7 days"))], "renewed, but not for long");
        assert_eq!(look(&[("c", 400)], 103), []);
        assert_eq!(told.0.len(), 1, "what is not in use any more is forgotten");
    }

    #[test]
    fn days_are_counted_to_the_end_and_beyond() {
        let end = after(100);
        for (now, sentence) in [
            (after(70), "ends in 30 days"),
            (after(99), "ends tomorrow"),
            (after(99) + Duration::from_secs(1), "ends today"),
            (after(100), "ends today"),
            (after(100) + Duration::from_secs(1), "ended yesterday"),
            (after(103), "ended 4 days ago"),
        ] {
            assert_eq!(when(days_left(end, now)), sentence);
        }
        assert_eq!(date(after(0)), "2023-11-14");
    }
}
