//! The affinity cookie: which mailbox a client's next connection will be for.
//!
//! NTLM's challenge must come from the server that checks its answer, so the site is chosen before the client has said
//! who it is. Once somebody has proved it, this cookie takes their client's next connection straight to the right site.
//! It is a hint, as `User=` of ActiveSync is: whoever steals one meets the challenge of the mailbox's server, and is told
//! nothing. It holds the mailbox's name, not its place, so that it stays right when the mailbox moves; and it is sealed,
//! so that it tells nobody anything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};

use crate::{identity::MailboxName, secret::Secret};

/// The cookie's name.
pub const NAME: &str = "firstcas-affinity";

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// Seals and opens affinity cookies.
pub struct Affinity {
    /// The first seals, all open.
    keys: Vec<LessSafeKey>,
    random: SystemRandom,
    lifetime: Duration,
    /// The key, if it is one that was made here or by the process before.
    own: Option<Secret>,
}

/// A key is not [`KEY_BYTES`] long, or the system has no randomness to make one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key for affinity cookies could be made")]
pub struct NoKey;

impl Affinity {
    /// With these keys; if there are none, with one of its own, which dies with the process.
    pub fn new(keys: &[Secret], lifetime: Duration) -> Result<Self, NoKey> {
        let random = SystemRandom::new();
        let key = |bytes: &[u8]| UnboundKey::new(&AES_256_GCM, bytes).map(LessSafeKey::new).map_err(|_| NoKey);
        if keys.is_empty() {
            let mut bytes = [0; KEY_BYTES];
            random.fill(&mut bytes).map_err(|_| NoKey)?;
            return Affinity::with_own(Secret::new(bytes), lifetime);
        }
        let keys = keys.iter().map(|secret| key(secret.expose())).collect::<Result<Vec<_>, _>>()?;
        Ok(Affinity { keys, random, lifetime, own: None })
    }

    /// With a key that the process before has made.
    pub fn with_own(own: Secret, lifetime: Duration) -> Result<Self, NoKey> {
        let affinity = Affinity::new(std::slice::from_ref(&own), lifetime)?;
        Ok(Affinity { own: Some(own), ..affinity })
    }

    /// The key that was made, for the next process.
    pub fn own(&self) -> Option<&Secret> {
        self.own.as_ref()
    }

    /// The `Set-Cookie` field that takes its client to this mailbox's server. `None`: the system has no randomness.
    pub fn set_cookie(&self, mailbox: &MailboxName, tls: bool, now: SystemTime) -> Option<String> {
        let value = BASE64_URL_SAFE_NO_PAD.encode(self.seal(&mailbox.to_string(), now)?);
        let secure = if tls { "; Secure" } else { "" };
        Some(format!("{NAME}={value}; Path=/; HttpOnly; SameSite=Lax{secure}"))
    }

    /// The mailbox named by the affinity cookie among these, the value of a `Cookie` field. `None`: there is none, or it
    /// is too old, or not ours.
    pub fn mailbox(&self, cookies: &[u8], now: SystemTime) -> Option<MailboxName> {
        let (_, value) = pairs(cookies).find(|(name, _)| *name == NAME.as_bytes())?;
        if value.len() > VALUE_BYTES_MAX {
            return None;
        }
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(value).ok()?;
        let (nonce, sealed) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = <[u8; NONCE_LEN]>::try_from(&*nonce).ok()?;
        for key in &self.keys {
            let mut copy = sealed.to_vec(); // a failed opening leaves nothing of its buffer
            let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(NAME), &mut copy);
            let Some((issued, name)) = opened.ok().and_then(|opened| opened.split_first_chunk()) else { continue };
            let issued = UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*issued)))?;
            let is_fresh = now.duration_since(issued).is_ok_and(|age| age <= self.lifetime);
            return is_fresh.then(|| MailboxName::parse(str::from_utf8(name).ok()?).ok()).flatten();
        }
        None
    }

    /// Nonce, ciphertext, tag.
    fn seal(&self, name: &str, now: SystemTime) -> Option<Vec<u8>> {
        let issued = now.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut text = issued.to_be_bytes().to_vec();
        text.extend_from_slice(name.as_bytes());
        let key = self.keys.first()?;
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(NAME), &mut text).ok()?;
        Some([&nonce[..], &text].concat())
    }
}

/// What is left of a `Cookie` field's value for the server, which has no use for ours. `None`: ours is not among them.
pub fn without(cookies: &[u8]) -> Option<Vec<u8>> {
    if !pairs(cookies).any(|(name, _)| name == NAME.as_bytes()) {
        return None;
    }
    let others = cookies.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
    let others: Vec<_> =
        others.filter(|pair| pair.split(|byte| *byte == b'=').next() != Some(NAME.as_bytes())).collect();
    Some(others.join(&b"; "[..]))
}

/// The cookies of a `Cookie` field's value (RFC 6265 section 4.2.1).
fn pairs(cookies: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    cookies.split(|byte| *byte == b';').filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        Some((&pair[..equals], &pair[equals + 1..]))
    })
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
        Affinity::new(&[], DAY).expect("a key")
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
    fn a_cookie_that_anything_was_changed_in_is_nobodys() {
        let affinity = affinity();
        let cookie = cookie(&affinity);
        for place in NAME.len() + 1..cookie.len() {
            let mut forged = cookie.clone().into_bytes();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(affinity.mailbox(&forged, now()), None, "byte {place}");
            assert_eq!(affinity.mailbox(&cookie.as_bytes()[..place], now()), None, "cut at {place}");
        }
        assert_eq!(self::affinity().mailbox(cookie.as_bytes(), now()), None, "another key");
    }

    #[test]
    fn the_next_process_opens_cookies_of_a_key_that_was_made() {
        let old = Affinity::new(&[], DAY).expect("a key");
        let mailbox = MailboxName::parse("bruno@contoso.com").expect("a name");
        let now = SystemTime::now();
        let cookie = old.set_cookie(&mailbox, true, now).expect("randomness");
        let cookie = cookie.split(';').next().expect("a first part").as_bytes();
        let new = Affinity::with_own(old.own().expect("it was made").clone(), DAY).expect("a key");
        assert_eq!(new.mailbox(cookie, now), Some(mailbox));
        assert_eq!(new.own(), old.own(), "and the one after that does, too");
        assert_eq!(Affinity::new(&[], DAY).expect("a key").mailbox(cookie, now), None);
        assert_eq!(Affinity::new(&[Secret::new([7; KEY_BYTES])], DAY).expect("a key").own(), None, "it is in a file");
    }

    #[test]
    fn a_new_key_goes_in_front_and_old_cookies_still_open() {
        let (old, new) = (Secret::new(vec![1; KEY_BYTES]), Secret::new(vec![2; KEY_BYTES]));
        let before = Affinity::new(std::slice::from_ref(&old), DAY).expect("a key");
        let after = Affinity::new(&[new, old], DAY).expect("keys");
        assert_eq!(after.mailbox(cookie(&before).as_bytes(), now()), Some(bruno()));
        assert_eq!(before.mailbox(cookie(&after).as_bytes(), now()), None);
        assert!(Affinity::new(&[Secret::new(vec![1; 31])], DAY).is_err());
    }

    #[test]
    fn it_tells_nothing_of_what_is_in_it() {
        let affinity = affinity();
        assert!(!cookie(&affinity).contains("bruno"));
        assert_ne!(cookie(&affinity), cookie(&affinity), "not even whether two are of the same mailbox");
    }

    #[test]
    fn servers_never_see_it() {
        let ours = format!("{NAME}=x");
        assert_eq!(without(b"a=b; c=d"), None);
        assert_eq!(without(format!("a=b; {ours};c=d").as_bytes()), Some(b"a=b; c=d".to_vec()));
        assert_eq!(without(ours.as_bytes()), Some(Vec::new()));
    }
}
