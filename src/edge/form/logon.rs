//! What the cookie of somebody who has logged on says, and for how long it is believed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use crate::{config::LogonForm, directory::EntryId, edge::seal::Seal, identity::MailboxName, secret::Secret};

/// The cookie's name. Browsers take a `__Host-` cookie over https only, and send it to no other host (RFC 6265bis).
pub const NAME: &str = "__Host-firstcas-logon";

/// Somebody's logon. No `Debug` of it shows the password: a [`Secret`] has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Logon {
    pub(super) user: MailboxName,
    /// Whose that name was: another account may have it later.
    pub(super) account: EntryId,
    /// If the edge needs it to sign in for them.
    pub(super) password: Option<Secret>,
    /// What the browser says of itself.
    pub(super) computer: Computer,
    /// By which it is known when it is logged off.
    pub(super) session: [u8; 16],
    /// When it began.
    pub(super) began: SystemTime,
    /// When something was last seen to be done by it, or up to a quarter of the time-out before.
    pub(super) active: SystemTime,
}

/// Whose computer a browser runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Computer {
    /// Others use it, too.
    Public,
    /// One's own.
    Private,
}

/// Why a cookie does not log anybody on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Void {
    /// It is not one of ours.
    Unknown,
    /// Its time is over.
    TimedOut,
}

impl Logon {
    /// The cookie's value. `None`: the system has no randomness, or the cookie would be longer than browsers keep.
    pub(super) fn seal(&self, seal: &Seal) -> Option<String> {
        let user = self.user.to_string();
        let mut text = Zeroizing::new(Vec::with_capacity(TEXT_BYTES_MAX)); // never moved, so nothing is left behind
        text.push(match self.computer {
            Computer::Public => PUBLIC,
            Computer::Private => PRIVATE,
        });
        text.extend_from_slice(&self.session);
        text.extend_from_slice(&self.account.0);
        for time in [self.began, self.active] {
            text.extend_from_slice(&time.duration_since(UNIX_EPOCH).ok()?.as_secs().to_be_bytes());
        }
        text.extend_from_slice(&u16::try_from(user.len()).ok()?.to_be_bytes());
        text.extend_from_slice(user.as_bytes());
        if let Some(password) = &self.password {
            if password.expose().len() > PASSWORD_BYTES_MAX {
                return None;
            }
            text.extend_from_slice(&u16::try_from(password.expose().len()).ok()?.to_be_bytes());
            text.extend_from_slice(password.expose());
        } else {
            text.extend_from_slice(&NO_PASSWORD.to_be_bytes());
        }
        // A cookie's length does not tell how long the password is.
        let padded = text.len().next_multiple_of(PADDED_TO_BYTES);
        text.resize(padded, 0);
        seal.seal(NAME, &text)
    }

    /// What a cookie of this value says.
    pub(super) fn open(value: &[u8], seal: &Seal) -> Result<Logon, Void> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Void::Unknown);
        }
        let text = seal.open(NAME, value).ok_or(Void::Unknown)?;
        Logon::read(&text).ok_or(Void::Unknown)
    }

    fn read(text: &[u8]) -> Option<Logon> {
        let (&[computer], text) = text.split_first_chunk()?;
        let (session, text) = text.split_first_chunk()?;
        let (account, text) = text.split_first_chunk()?;
        let (began, text) = text.split_first_chunk()?;
        let (active, text) = text.split_first_chunk()?;
        let (length, text) = text.split_first_chunk()?;
        let (user, text) = text.split_at_checked(u16::from_be_bytes(*length).into())?;
        let (length, text) = text.split_first_chunk()?;
        let time = |seconds: &[u8; 8]| UNIX_EPOCH.checked_add(Duration::from_secs(u64::from_be_bytes(*seconds)));
        Some(Logon {
            user: MailboxName::parse(str::from_utf8(user).ok()?).ok()?,
            password: match u16::from_be_bytes(*length) {
                NO_PASSWORD => None,
                length => Some(Secret::new(text.get(..length.into())?)),
            },
            computer: match computer {
                PUBLIC => Computer::Public,
                PRIVATE => Computer::Private,
                _ => return None,
            },
            session: *session,
            account: EntryId(*account),
            began: time(began)?,
            active: time(active)?,
        })
    }

    /// Whether it is believed now.
    pub(super) fn check(&self, form: &LogonForm, now: SystemTime) -> Result<(), Void> {
        let is_within = |since: SystemTime, time: Duration| match now.duration_since(since) {
            Ok(age) => age <= time,
            Err(ahead) => ahead.duration() <= CLOCKS_DIFFER_BY, // sealed by another edge
        };
        if is_within(self.began, form.lifetime) && is_within(self.active, self.computer.longest_pause(form)) {
            Ok(())
        } else {
            Err(Void::TimedOut)
        }
    }

    /// The same, with something done now. `None`: it was seen lately, and a new cookie with each answer is too many.
    pub(super) fn renewed(&self, form: &LogonForm, now: SystemTime) -> Option<Logon> {
        let age = now.duration_since(self.active).unwrap_or_default();
        (age >= self.computer.timeout(form) / RENEWALS).then(|| Logon { active: now, ..self.clone() })
    }
}

impl Computer {
    pub(super) fn timeout(self, form: &LogonForm) -> Duration {
        match self {
            Computer::Public => form.public_timeout,
            Computer::Private => form.private_timeout,
        }
    }

    /// How long after it was last renewed a cookie is believed.
    fn longest_pause(self, form: &LogonForm) -> Duration {
        let timeout = self.timeout(form);
        timeout + timeout / RENEWALS
    }

    /// How long from now a cookie may go on to be believed, whichever edge has sealed it.
    pub(super) fn lives_at_most(self, form: &LogonForm) -> Duration {
        self.longest_pause(form) + CLOCKS_DIFFER_BY
    }
}

/// A cookie is renewed at most so often within its time-out; and lives for this part of it longer, so that nobody who does
/// something now and then is logged off before the time-out is over.
const RENEWALS: u32 = 4;

/// Between edges that share keys.
const CLOCKS_DIFFER_BY: Duration = Duration::from_secs(60);

const PUBLIC: u8 = 0;
const PRIVATE: u8 = 4; // as the form has it
const NO_PASSWORD: u16 = u16::MAX;

/// Windows takes 256 characters at most, in UTF-8 up to three bytes each.
pub(super) const PASSWORD_BYTES_MAX: usize = 768;

const PADDED_TO_BYTES: usize = 128;

const TEXT_BYTES_MAX: usize = 2048; // the longest name, the longest password, times and lengths, padded

/// Browsers keep 4,096 bytes of a cookie, its name among them (RFC 6265 section 6.1).
const VALUE_BYTES_MAX: usize = (TEXT_BYTES_MAX + 64) * 4 / 3;

const _: () = assert!(MailboxName::LENGTH_MAX_BYTES + PASSWORD_BYTES_MAX + 64 + PADDED_TO_BYTES <= TEXT_BYTES_MAX);
const _: () = assert!(NAME.len() + VALUE_BYTES_MAX + 64 <= 4096);

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    pub(in super::super) fn form() -> LogonForm {
        LogonForm {
            public_timeout: MINUTE * 16,
            private_timeout: DAY,
            lifetime: DAY * 7,
            keys: Vec::new(),
            user_name: crate::config::UserName::WithDomain,
            default_domain: None,
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn seal() -> Seal {
        Seal::new(&[], None).expect("a key")
    }

    fn ana(computer: Computer) -> Logon {
        Logon {
            user: MailboxName::parse("CONTOSO\\ana").expect("a name"),
            password: Some(Secret::new(*b"Pass-word1")),
            computer,
            session: [7; 16],
            account: EntryId([8; 16]),
            began: now(),
            active: now(),
        }
    }

    #[test]
    fn a_logon_comes_back_as_it_was_sealed() {
        let seal = seal();
        for logon in [
            ana(Computer::Public),
            ana(Computer::Private),
            Logon { password: None, ..ana(Computer::Public) },
            Logon { password: Some(Secret::new(*b"")), ..ana(Computer::Public) },
            Logon { password: Some(Secret::new("p\u{e4}ss:w\u{f6}rd; \0".as_bytes())), ..ana(Computer::Private) },
        ] {
            let value = logon.seal(&seal).expect("randomness");
            assert_eq!(Logon::open(value.as_bytes(), &seal), Ok(logon));
        }
    }

    #[test]
    fn the_longest_name_and_password_fit_into_a_cookie_and_a_longer_one_is_refused() {
        let seal = seal();
        let user = MailboxName::parse(&"n".repeat(MailboxName::LENGTH_MAX_BYTES)).expect("a name");
        let logon = |bytes: usize| {
            let password = Some(Secret::new(vec![b'p'; bytes]));
            Logon { user: user.clone(), password, ..ana(Computer::Public) }
        };
        let value = logon(PASSWORD_BYTES_MAX).seal(&seal).expect("it fits");
        assert_eq!(Logon::open(value.as_bytes(), &seal), Ok(logon(PASSWORD_BYTES_MAX)));
        assert_eq!(logon(PASSWORD_BYTES_MAX + 1).seal(&seal), None);
    }

    #[test]
    fn a_cookie_that_was_changed_or_sealed_for_something_else_is_nobodys() {
        let seal = seal();
        let value = ana(Computer::Public).seal(&seal).expect("randomness").into_bytes();
        for place in 0..value.len() {
            let mut forged = value.clone();
            forged[place] = if forged[place] == b'A' { b'B' } else { b'A' };
            assert_eq!(Logon::open(&forged, &seal), Err(Void::Unknown), "byte {place}");
            assert_eq!(Logon::open(&value[..place], &seal), Err(Void::Unknown), "cut at {place}");
        }
        assert_eq!(Logon::open(&value, &self::seal()), Err(Void::Unknown), "another key");
        let affinity = seal.seal("firstcas-affinity", &[0; 128]).expect("randomness");
        assert_eq!(Logon::open(affinity.as_bytes(), &seal), Err(Void::Unknown));
        assert_eq!(Logon::open(&vec![b'A'; 1 << 20], &seal), Err(Void::Unknown));
    }

    #[test]
    fn the_cookie_tells_neither_the_name_nor_the_password_nor_how_long_they_are() {
        let seal = seal();
        let lengths = ["", "p", "Pass-word1", "a long password of thirty char"].map(|password| {
            let logon = Logon { password: Some(Secret::new(password.as_bytes())), ..ana(Computer::Public) };
            assert!(!format!("{logon:?}").contains("Pass-word1"));
            logon.seal(&seal).expect("randomness").len()
        });
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
    }

    #[test]
    fn a_logon_ends_when_nothing_was_done_for_its_time_out_and_a_quarter() {
        let form = form();
        for (computer, timeout) in [(Computer::Public, MINUTE * 16), (Computer::Private, DAY)] {
            let logon = ana(computer);
            let at = |age: Duration| logon.check(&form, now() + age);
            assert_eq!(at(timeout), Ok(()));
            assert_eq!(at(timeout * 5 / 4), Ok(()));
            assert_eq!(at(timeout * 5 / 4 + Duration::from_secs(1)), Err(Void::TimedOut));
        }
        assert_eq!(ana(Computer::Public).check(&form, now() - MINUTE), Ok(()), "another edge's clock is ahead");
        assert_eq!(ana(Computer::Public).check(&form, now() - MINUTE * 2), Err(Void::TimedOut), "from the future");
    }

    #[test]
    fn who_does_something_stays_logged_on_until_the_lifetime_is_over() {
        let form = form();
        let mut logon = ana(Computer::Public);
        let mut renewals = 0;
        let mut time = now();
        while logon.check(&form, time).is_ok() {
            if let Some(renewed) = logon.renewed(&form, time) {
                logon = renewed;
                renewals += 1;
            }
            time += MINUTE;
        }
        assert_eq!(time, now() + form.lifetime + MINUTE);
        assert_eq!(renewals, 7 * 24 * 60 / 4, "once in a quarter of the time-out");
        assert_eq!((logon.session, logon.began), ([7; 16], now()));
    }
}
