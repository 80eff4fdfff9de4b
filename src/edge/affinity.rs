//! The affinity cookie: which mailbox a client's next connection will be for.
//!
//! NTLM's challenge must come from the server that checks its answer, so the site is chosen before the client has said
//! who it is. Once somebody has proved it, this cookie takes their client's next connection straight to the right site.
//! It is a hint, as `User=` of ActiveSync is: whoever steals one meets the challenge of the mailbox's server, and is told
//! nothing. It holds the mailbox's name, not its place, so that it stays right when the mailbox moves; and it is sealed,
//! so that it tells nobody anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{cookies, seal::Seal};
use crate::identity::MailboxName;

/// The cookie's name.
pub const NAME: &str = "firstcas-affinity";

/// Makes and reads affinity cookies.
pub struct Affinity {
    seal: Seal,
    lifetime: Duration,
}

impl Affinity {
    /// Cookies of this seal, believed for so long.
    pub fn new(seal: Seal, lifetime: Duration) -> Self {
        Affinity { seal, lifetime }
    }

    /// What they are sealed by.
    pub fn seal(&self) -> &Seal {
        &self.seal
    }

    /// The `Set-Cookie` field that takes its client to this mailbox's server. `None`: the system has no randomness.
    pub fn set_cookie(&self, mailbox: &MailboxName, tls: bool, now: SystemTime) -> Option<String> {
        let issued = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut text = issued.to_be_bytes().to_vec();
        text.extend_from_slice(mailbox.to_string().as_bytes());
        let value = self.seal.seal(NAME, &text)?;
        let secure = if tls { "; Secure" } else { "" };
        Some(format!("{NAME}={value}; Path=/; HttpOnly; SameSite=Lax{secure}"))
    }

    /// The mailbox named by the affinity cookie among these, the value of a `Cookie` field. `None`: there is none, or it
    /// is too old, or not ours.
    pub fn mailbox(&self, cookies: &[u8], now: SystemTime) -> Option<MailboxName> {
        let value = cookies::value(cookies, NAME).filter(|value| value.len() <= VALUE_BYTES_MAX)?;
        let text = self.seal.open(NAME, value)?;
        let (issued, name) = text.split_first_chunk()?;
        let issued = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*issued)))?;
        let is_fresh = now.duration_since(issued).is_ok_and(|age| age <= self.lifetime);
        is_fresh.then(|| MailboxName::parse(str::from_utf8(name).ok()?).ok()).flatten()
    }
}

/// The longest name, sealed and in base64.
const VALUE_BYTES_MAX: usize = (MailboxName::LENGTH_MAX_BYTES + 64) * 4 / 3;

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn affinity() -> Affinity {
        Affinity::new(Seal::new(&[], None).expect("a key"), DAY)
    }

    fn bruno() -> MailboxName {
        MailboxName::parse("CONTOSO\\bruno").expect("a name")
    }

    fn cookie(affinity: &Affinity) -> String {
        let field = affinity.set_cookie(&bruno(), true, now()).expect("a cookie");
        field.split(';').next().expect("a pair").to_owned()
    }

    #[test]
    fn a_cookie_of_ours_names_its_mailbox_among_others() {
        let affinity = affinity();
        let cookie = cookie(&affinity);
        for cookies in [cookie.clone(), format!("a=b; {cookie}"), format!("sessionid=1;{cookie}; cadata=\"x=y\"")] {
            assert_eq!(affinity.mailbox(cookies.as_bytes(), now()), Some(bruno()), "{cookies}");
        }
    }

    #[test]
    fn a_cookie_is_read_for_its_lifetime_only() {
        let affinity = affinity();
        let cookie = cookie(&affinity);
        assert!(affinity.mailbox(cookie.as_bytes(), now() + DAY).is_some());
        assert_eq!(affinity.mailbox(cookie.as_bytes(), now() + DAY + Duration::from_secs(1)), None);
        assert_eq!(affinity.mailbox(cookie.as_bytes(), now() - Duration::from_secs(1)), None, "from the future");
    }

    #[test]
    fn it_tells_nobody_else_what_is_in_it() {
        let affinity = affinity();
        assert!(!cookie(&affinity).contains("bruno"));
        assert_eq!(self::affinity().mailbox(cookie(&affinity).as_bytes(), now()), None, "another key");
        assert_ne!(cookie(&affinity), cookie(&affinity), "not even whether two are of the same mailbox");
    }
}
