//! Keytab files of MIT Kerberos, version 2 ("The Kerberos Keytab Binary File Format", MIT Kerberos documentation),
//! which `ktpass`, `ktutil`, `msktutil` and `samba-tool domain exportkeytab` write: the keys that open tickets.

use std::fmt;

use zeroize::Zeroizing;

use super::kerberos::{AES128, AES256};

/// A service's keys.
#[derive(Debug)]
pub struct Keytab {
    keys: Vec<Key>,
}

/// One of them.
pub struct Key {
    /// Whose it is, such as `HTTP/mail.contoso.com@CONTOSO.COM`.
    pub principal: String,
    /// Its version.
    pub kvno: u32,
    /// Its encryption type (RFC 3961 section 8).
    pub etype: i32,
    secret: Zeroizing<Vec<u8>>,
}

/// Why a keytab cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeytabError {
    /// It does not begin with `05 02`.
    #[error(
        "not a keytab of MIT Kerberos, version 2, which would begin with the bytes 05 02; export it again, as a binary \
         file"
    )]
    NotAKeytab,
    /// A file that was cut short, or changed by a transfer as text.
    #[error("the keytab's entry at byte {at} is cut short or damaged; copy the file again, as a binary file")]
    Damaged {
        /// Where the entry begins.
        at: usize,
    },
    /// More than [`KEYS_MAX`].
    #[error("the keytab has more than {KEYS_MAX} keys; export only those of the service account")]
    TooMany,
    /// Empty, or only DES, RC4 or other keys.
    #[error(
        "the keytab has no AES key (encryption types 17, 18), the only kind that is used; give the service account AES \
         keys (msDS-SupportedEncryptionTypes 24), set its password anew and export the keytab again, with all AES types"
    )]
    NoAesKey,
}

/// The most keys that are read: a service account has one per encryption type and version for each of its names.
pub const KEYS_MAX: usize = 1024;

/// The most keys that are tried on one ticket, so that forged ones cost little. Accounts with different keys in one
/// keytab are rare.
const TRIED_MAX: usize = 8;

impl Keytab {
    /// Reads a keytab's bytes. Keys that are not AES are left out.
    ///
    /// # Errors
    /// When it is none, or has no key that is used.
    pub fn parse(bytes: &[u8]) -> Result<Keytab, KeytabError> {
        let mut rest = bytes.strip_prefix(&[5, 2]).ok_or(KeytabError::NotAKeytab)?;
        let mut keys = Vec::new();
        while !rest.is_empty() {
            let damaged = KeytabError::Damaged { at: bytes.len() - rest.len() };
            let length = i32::from_be_bytes(array(&mut rest).ok_or(damaged)?);
            let is_hole = length <= 0; // a deleted entry
            let length = usize::try_from(length.unsigned_abs()).map_err(|_| damaged)?;
            let entry = take(&mut rest, length).ok_or(damaged)?;
            if is_hole {
                continue;
            }
            let key = Key::read(entry).ok_or(damaged)?;
            if key.is_usable() {
                keys.push(key);
            }
            if keys.len() > KEYS_MAX {
                return Err(KeytabError::TooMany);
            }
        }
        if keys.is_empty() { Err(KeytabError::NoAesKey) } else { Ok(Keytab { keys }) }
    }

    /// Its keys, for those who want to know what it is good for.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// The different keys that may open a ticket: those of its key version; else, as `ktpass` is often told to write
    /// another one, the newest of each principal.
    pub(super) fn keys_for(&self, etype: i32, kvno: Option<u32>) -> impl Iterator<Item = &Key> {
        let of_type = move || self.keys.iter().filter(move |key| key.etype == etype);
        let is_known = of_type().any(|key| Some(key.kvno) == kvno);
        let is_newest = move |key: &Key| of_type().all(|it| it.principal != key.principal || it.kvno <= key.kvno);
        let mut tried: Vec<&[u8]> = Vec::new();
        of_type()
            .filter(move |key| if is_known { Some(key.kvno) == kvno } else { is_newest(key) })
            .filter(move |key| {
                let is_new = !tried.contains(&key.secret());
                tried.push(key.secret());
                is_new
            })
            .take(TRIED_MAX)
    }
}

impl Key {
    fn read(mut entry: &[u8]) -> Option<Key> {
        let rest = &mut entry;
        let components = u16::from_be_bytes(array(rest)?);
        let realm = text(rest)?;
        let mut principal = String::new();
        for place in 0..components {
            if place > 0 {
                principal.push('/');
            }
            principal.push_str(&text(rest)?);
        }
        principal.push('@');
        principal.push_str(&realm);

        let _name_type: [u8; 4] = array(rest)?;
        let _timestamp: [u8; 4] = array(rest)?;
        let [kvno] = array(rest)?;
        let etype = i32::from(i16::from_be_bytes(array(rest)?));
        let length = usize::from(u16::from_be_bytes(array(rest)?));
        let secret = Zeroizing::new(take(rest, length)?.to_vec());
        // Where all 32 bits follow, they count; else there are only the low 8 above.
        let kvno = array(rest).map(u32::from_be_bytes).filter(|kvno| *kvno != 0).unwrap_or(kvno.into());
        Some(Key { principal, kvno, etype, secret })
    }

    fn is_usable(&self) -> bool {
        matches!((self.etype, self.secret.len()), (AES128, 16) | (AES256, 32))
    }

    pub(super) fn secret(&self) -> &[u8] {
        &self.secret
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (version {}, encryption type {})", self.principal, self.kvno, self.etype)
    }
}

fn text(rest: &mut &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes(array(rest)?));
    take(rest, length).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn array<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    take(rest, N)?.try_into().ok()
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    rest.split_off(..length)
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use super::*;
    use crate::identity::samples::{self, keytab_entry};

    #[test]
    fn a_keytab_of_ktutil_is_read() {
        let keytab = Keytab::parse(samples::SERVICE_KEYTAB).expect("a keytab");
        let shown: Vec<_> = keytab.keys().iter().map(|key| format!("{key:?}")).collect();
        assert_eq!(
            shown,
            [
                "HTTP/mail.contoso.com@CONTOSO.COM (version 2, encryption type 18)",
                "HTTP/mail.contoso.com@CONTOSO.COM (version 2, encryption type 17)",
                "HTTP/aes128.contoso.com@CONTOSO.COM (version 2, encryption type 18)",
                "HTTP/aes128.contoso.com@CONTOSO.COM (version 2, encryption type 17)",
                "HTTP/aes128.contoso.com@CONTOSO.COM (version 3, encryption type 17)",
            ]
        );
    }

    #[test]
    fn what_is_no_keytab_says_what_is_wrong_with_it() {
        let of = |entries: &[&[u8]]| [&[&[5, 2][..]], entries].concat().concat();
        let key = keytab_entry(18, 3, &[1; 32]);
        for (bytes, error) in [
            (Vec::new(), KeytabError::NotAKeytab),
            (vec![5, 1, 0, 0], KeytabError::NotAKeytab),
            (b"-----BEGIN".to_vec(), KeytabError::NotAKeytab),
            (vec![5, 2], KeytabError::NoAesKey),
            (samples::RC4_KEYTAB.to_vec(), KeytabError::NoAesKey),
            (of(&[&keytab_entry(18, 3, &[1; 16])]), KeytabError::NoAesKey),
            (of(&[&key[..20]]), KeytabError::Damaged { at: 2 }),
            (of(&[&key, &[0, 0]]), KeytabError::Damaged { at: 2 + key.len() }),
            (of(&[&i32::MAX.to_be_bytes(), &key]), KeytabError::Damaged { at: 2 }),
            (of(&[&i32::MIN.to_be_bytes(), &key]), KeytabError::Damaged { at: 2 }),
            (of(&[&[0, 0, 0, 2, 0, 9]]), KeytabError::Damaged { at: 2 }),
            (of(&[&key.repeat(KEYS_MAX + 1)]), KeytabError::TooMany),
        ] {
            assert_eq!(Keytab::parse(&bytes).expect_err("an error"), error);
        }
    }

    #[test]
    fn holes_are_passed_over_and_keys_of_other_kinds_left_out() {
        let hole = [&(-5_i32).to_be_bytes()[..], &[0xff; 5]].concat();
        let entries = [hole, keytab_entry(23, 3, &[1; 16]), vec![0; 4], keytab_entry(17, 300, &[1; 16])].concat();
        let keytab = Keytab::parse(&[&[5, 2][..], &entries].concat()).expect("a keytab");
        assert_eq!(keytab.keys().iter().map(|key| key.kvno).collect::<Vec<_>>(), [300]);
    }

    #[test]
    fn a_keytab_cut_short_anywhere_is_damaged_or_has_fewer_keys() {
        for length in 0..samples::SERVICE_KEYTAB.len() {
            let read = Keytab::parse(&samples::SERVICE_KEYTAB[..length]);
            assert!(read.is_err() || read.is_ok_and(|keytab| keytab.keys().len() < 5), "{length} bytes");
        }
    }

    #[test]
    fn few_keys_are_tried_on_one_ticket() {
        let entries: Vec<u8> = (0..20).flat_map(|byte| keytab_entry(18, 3, &[byte; 32])).collect();
        let keytab = Keytab::parse(&[&[5, 2][..], &entries, &entries].concat()).expect("a keytab");
        assert_eq!(keytab.keys().len(), 40);
        assert_eq!(keytab.keys_for(18, Some(3)).count(), TRIED_MAX);
    }
}
