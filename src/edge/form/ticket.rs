//! Whether a post comes from our own form, in the browser that it was shown in.
//!
//! Another site could have a visitor's browser post *its* name and password here, and then read what the visitor writes. So
//! the form has a hidden token, and the browser a cookie, both sealed and with the same number in them: another site can read
//! neither, and set none.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header::ORIGIN};

use crate::edge::seal::Seal;

/// The cookie's name.
pub const NAME: &str = "__Host-firstcas-form";

/// The number that a form and its browser have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket([u8; 16]);

impl Ticket {
    /// The one that the browser has, so that a form in another of its windows stays good; or a new one. `None`: the system
    /// has no randomness.
    pub(super) fn of(cookie: Option<&[u8]>, seal: &Seal, now: SystemTime) -> Option<Ticket> {
        cookie.and_then(|cookie| open(NAME, cookie, seal, now)).or_else(|| seal.random().map(Ticket))
    }

    /// For the cookie.
    pub(super) fn cookie(self, seal: &Seal, now: SystemTime) -> Option<String> {
        self.seal(NAME, seal, now)
    }

    /// For the form.
    pub(super) fn token(self, seal: &Seal, now: SystemTime) -> Option<String> {
        self.seal(TOKEN, seal, now)
    }

    fn seal(self, purpose: &str, seal: &Seal, now: SystemTime) -> Option<String> {
        let issued = now.duration_since(UNIX_EPOCH).ok()?.as_secs().to_be_bytes();
        seal.seal(purpose, &[&issued[..], &self.0].concat())
    }
}

/// Whether a form with this token was shown in the browser with this cookie, not long ago.
pub(super) fn belong_together(token: &[u8], cookie: Option<&[u8]>, seal: &Seal, now: SystemTime) -> bool {
    let token = open(TOKEN, token, seal, now);
    token.is_some() && token == cookie.and_then(|cookie| open(NAME, cookie, seal, now))
}

fn open(purpose: &str, sealed: &[u8], seal: &Seal, now: SystemTime) -> Option<Ticket> {
    const LONGEST: usize = 256;
    let text = seal.open(purpose, sealed.get(..LONGEST.min(sealed.len())).filter(|it| it.len() == sealed.len())?)?;
    let (issued, number) = text.split_first_chunk()?;
    let issued = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*issued)))?;
    let is_fresh = match now.duration_since(issued) {
        Ok(age) => age <= LIFETIME,
        Err(ahead) => ahead.duration() <= CLOCKS_DIFFER_BY,
    };
    Some(Ticket(number.try_into().ok().filter(|_| is_fresh)?))
}

/// Whether the browser itself says that another site posts. One that says neither is an old one; it has the token.
pub(super) fn is_foreign(headers: &HeaderMap, host: Option<&str>) -> bool {
    let is = |value: &http::HeaderValue, expected: &str| value.as_bytes().eq_ignore_ascii_case(expected.as_bytes());
    if let Some(site) = headers.get("Sec-Fetch-Site") {
        return !is(site, "same-origin") && !is(site, "none"); // none: somebody has reloaded the page
    }
    let origin = host.map(|host| format!("https://{}", host.strip_suffix(":443").unwrap_or(host)));
    headers.get(ORIGIN).is_some_and(|said| !origin.is_some_and(|origin| is(said, &origin)))
}

const TOKEN: &str = "firstcas-form-token";

/// A form that is older is shown again; nobody takes an hour to fill it in, but a page may stay open for one.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Between edges that share keys.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    #[test]
    fn a_token_is_good_with_its_own_browsers_cookie_for_an_hour() {
        let seal = Seal::new(&[], None).expect("a key");
        let ticket = || Ticket::of(None, &seal, now()).expect("randomness");
        let (ours, another) = (ticket(), ticket());
        let token = ours.token(&seal, now()).expect("randomness");
        let cookie = ours.cookie(&seal, now()).expect("randomness");
        let good = |token: &str, cookie: Option<&str>, time| {
            belong_together(token.as_bytes(), cookie.map(str::as_bytes), &seal, time)
        };
        assert!(good(&token, Some(&cookie), now()));
        assert!(good(&token, Some(&cookie), now() + LIFETIME));
        assert!(!good(&token, Some(&cookie), now() + LIFETIME + Duration::from_secs(1)), "too old");
        assert!(!good(&token, Some(&cookie), now() - LIFETIME), "from the future");
        assert!(!good(&token, None, now()), "no cookie");
        assert!(!good("", Some(&cookie), now()), "no token");
        assert!(!good("", None, now()), "neither");
        assert!(!good(&token, Some(&another.cookie(&seal, now()).expect("randomness")), now()), "another browser's");
        assert!(!good(&cookie, Some(&cookie), now()), "the cookie is no token");
        assert!(!good(&token, Some(&token), now()), "nor the other way round");
        assert!(!good(&"A".repeat(1 << 20), Some(&cookie), now()));
        assert_eq!(Ticket::of(Some(cookie.as_bytes()), &seal, now()), Some(ours), "a second window has the same");
        assert_ne!(Ticket::of(Some(cookie.as_bytes()), &seal, now() + LIFETIME * 2), Some(ours));
    }

    #[test]
    fn what_the_browser_says_of_another_site_is_believed() {
        let foreign = |fields: &[(&'static str, &'static str)], host| {
            let fields = fields
                .iter()
                .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
            is_foreign(&fields.collect(), Some(host))
        };
        for (fields, is) in [
            (&[][..], false),
            (&[("sec-fetch-site", "same-origin")], false),
            (&[("sec-fetch-site", "none")], false),
            (&[("sec-fetch-site", "same-site")], true),
            (&[("sec-fetch-site", "cross-site")], true),
            (&[("sec-fetch-site", "cross-site"), ("origin", "https://mail.contoso.com")], true),
            (&[("origin", "https://mail.contoso.com")], false),
            (&[("origin", "https://MAIL.contoso.com")], false),
            (&[("origin", "https://evil.example")], true),
            (&[("origin", "http://mail.contoso.com")], true),
            (&[("origin", "https://mail.contoso.com.evil.example")], true),
            (&[("origin", "null")], true),
        ] {
            assert_eq!(foreign(fields, "mail.contoso.com"), is, "{fields:?}");
        }
        assert!(!foreign(&[("origin", "https://mail.contoso.com")], "mail.contoso.com:443"));
        assert!(!foreign(&[("origin", "https://mail.contoso.com:8443")], "mail.contoso.com:8443"));
        assert!(foreign(&[("origin", "https://mail.contoso.com")], "mail.contoso.com:8443"));
    }
}
