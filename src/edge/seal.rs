//! What the edge gives a client to keep and bring back: sealed, so that it tells nobody anything and nobody can change it.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Length of a key in bytes.
pub const KEY_BYTES: usize = 32;

/// Seals and opens.
pub struct Seal {
    /// The first seals, all open.
    keys: Vec<LessSafeKey>,
    random: SystemRandom,
    /// The key, if it is one that was made here or by the process before.
    own: Option<Secret>,
}

/// A key is not [`KEY_BYTES`] long, or the system has no randomness to make one of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key to seal cookies by could be made")]
pub struct NoKey;

impl Seal {
    /// With these keys; if there are none, with the one that was `made` before; if there is none, with one of its own, which
    /// dies with the process unless the next one gets it.
    pub fn new(keys: &[Secret], made: Option<&Secret>) -> Result<Self, NoKey> {
        let random = SystemRandom::new();
        let key =
            |secret: &Secret| UnboundKey::new(&AES_256_GCM, secret.expose()).map(LessSafeKey::new).map_err(|_| NoKey);
        if !keys.is_empty() {
            let keys = keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
            return Ok(Seal { keys, random, own: None });
        }
        let own = if let Some(made) = made {
            made.clone()
        } else {
            let mut bytes = [0; KEY_BYTES];
            random.fill(&mut bytes).map_err(|_| NoKey)?;
            Secret::new(bytes)
        };
        Ok(Seal { keys: vec![key(&own)?], random, own: Some(own) })
    }

    /// The key that was made, for the next process.
    pub fn own(&self) -> Option<&Secret> {
        self.own.as_ref()
    }

    /// Nonce, ciphertext and tag, in the characters of a cookie. It opens for the same `purpose` only. `None`: the system
    /// has no randomness.
    pub fn seal(&self, purpose: &str, text: &[u8]) -> Option<String> {
        let nonce: [u8; NONCE_LEN] = self.random()?;
        let mut sealed = Zeroizing::new(text.to_vec());
        let key = self.keys.first()?;
        let tag = key.seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(purpose),
            sealed.as_mut_slice(),
        );
        Some(BASE64_URL_SAFE_NO_PAD.encode([&nonce[..], &sealed, tag.ok()?.as_ref()].concat()))
    }

    /// What was sealed for this purpose, by any of the keys. `None`: it was not, or something in it was changed.
    pub fn open(&self, purpose: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut sealed = BASE64_URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (nonce, sealed) = sealed.split_at_mut_checked(NONCE_LEN)?;
        let nonce = <[u8; NONCE_LEN]>::try_from(&*nonce).ok()?;
        for key in &self.keys {
            let mut copy = Zeroizing::new(sealed.to_vec()); // a failed opening leaves nothing of its buffer
            let opened =
                key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(purpose), copy.as_mut_slice());
            if let Ok(length) = opened.map(|text| text.len()) {
                copy.truncate(length);
                return Some(copy);
            }
        }
        None
    }

    /// Bytes that nobody can guess.
    pub fn random<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes).ok()?;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> Seal {
        Seal::new(&[], None).expect("a key")
    }

    #[test]
    fn what_was_sealed_opens_for_its_purpose_only() {
        let seal = made();
        let sealed = seal.seal("cookie", b"ana").expect("randomness");
        assert_eq!(seal.open("cookie", sealed.as_bytes()).as_deref().map(Vec::as_slice), Some(&b"ana"[..]));
        assert_eq!(seal.open("token", sealed.as_bytes()), None);
        assert_eq!(made().open("cookie", sealed.as_bytes()), None, "another key");
        assert_ne!(seal.seal("cookie", b"ana"), Some(sealed), "not even whether two are the same");
    }

    #[test]
    fn nothing_of_it_can_be_changed() {
        let seal = made();
        let sealed = seal.seal("cookie", b"ana").expect("randomness").into_bytes();
        for place in 0..sealed.len() {
            let mut forged = sealed.clone();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(seal.open("cookie", &forged), None, "byte {place}");
            assert_eq!(seal.open("cookie", &sealed[..place]), None, "cut at {place}");
        }
    }

    #[test]
    fn the_next_process_opens_what_a_key_has_sealed_that_was_made() {
        let old = made();
        let sealed = old.seal("cookie", b"ana").expect("randomness");
        let new = Seal::new(&[], old.own()).expect("a key");
        assert!(new.open("cookie", sealed.as_bytes()).is_some());
        assert_eq!(new.own(), old.own(), "and the one after that does, too");
        let file = [Secret::new([7; KEY_BYTES])];
        let named = Seal::new(&file, old.own()).expect("a key");
        assert_eq!(named.own(), None, "it is in a file");
        assert_eq!(named.open("cookie", sealed.as_bytes()), None);
    }

    #[test]
    fn a_new_key_goes_in_front_and_what_is_older_still_opens() {
        let (old, new) = (Secret::new(vec![1; KEY_BYTES]), Secret::new(vec![2; KEY_BYTES]));
        let before = Seal::new(std::slice::from_ref(&old), None).expect("a key");
        let after = Seal::new(&[new, old], None).expect("keys");
        let sealed = |seal: &Seal| seal.seal("cookie", b"ana").expect("randomness");
        assert!(after.open("cookie", sealed(&before).as_bytes()).is_some());
        assert_eq!(before.open("cookie", sealed(&after).as_bytes()), None);
        assert!(Seal::new(&[Secret::new(vec![1; 31])], None).is_err());
    }
}
