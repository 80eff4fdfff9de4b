//! NTLM messages ([MS-NLMP] 2.2.1), as far as a proxy may look into them.

use super::{MailboxName, name::NameError};

/// What an `AUTHENTICATE_MESSAGE` ([MS-NLMP] 2.2.1.3) shows in clear.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticate {
    /// Who says to be there; `None`: anonymous, or a name that no mailbox can have ([`unreadable_name`]).
    ///
    /// Read in the character set that the message itself claims. The server may go by the one its challenge settled:
    /// where that is known, ask [`user_answering`].
    ///
    /// [`unreadable_name`]: Authenticate::unreadable_name
    /// [`user_answering`]: Authenticate::user_answering
    pub user: Option<MailboxName>,
    /// Why there is no `user` although the message is not anonymous.
    pub unreadable_name: Option<UnreadableName>,
    /// The machine it comes from, as the client calls it; empty if it does not say, or not in a readable way.
    pub workstation: String,
    /// `NegotiateFlags` ([MS-NLMP] 2.2.2.5).
    pub flags: u32,
    /// Whether the client bound its answer to the TLS channel it sees (`MsvAvChannelBindings`, [MS-NLMP] 2.2.2.1): a
    /// server that insists on Extended Protection then refuses it, because the edge ends that channel.
    pub channel_bindings: bool,
}

/// Why the name in an `AUTHENTICATE_MESSAGE` is not taken for anybody's. Never quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableName {
    /// Half a character at the end, or half a surrogate pair.
    #[error("the name is not UTF-16, though the message says so")]
    NotUtf16,
    /// The code page is that of the client's machine and stands nowhere in the message: beyond ASCII the same bytes are
    /// one name in Lisbon and another in Athens.
    #[error("the name is in an OEM code page, of which only ASCII means the same everywhere")]
    NotAscii,
    /// Neither `NTLMSSP_NEGOTIATE_UNICODE` nor `NTLM_NEGOTIATE_OEM`.
    #[error("the message does not say in which character set its name is")]
    NoCharacterSet,
    /// It is no name in any directory, or could be read as two.
    #[error(transparent)]
    NoName(#[from] NameError),
}

/// What a `CHALLENGE_MESSAGE` ([MS-NLMP] 2.2.1.2) settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Whether names are UTF-16 from now on (`NTLMSSP_NEGOTIATE_UNICODE`), else in the OEM character set.
    pub unicode: bool,
}

/// `NTLMSSP_NEGOTIATE_UNICODE`, which wins where both are set.
const UNICODE: u32 = 1;
/// `NTLM_NEGOTIATE_OEM`.
const OEM: u32 = 1 << 1;

/// What each message begins with.
pub(super) const SIGNATURE: &[u8; 8] = b"NTLMSSP\0";

/// An NTLM message's `MessageType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageType {
    Negotiate,
    Challenge,
    Authenticate,
}

/// Which message it is; `None`: none of NTLM's.
pub(super) fn message_type(message: &[u8]) -> Option<MessageType> {
    match u32_at(message.strip_prefix(SIGNATURE)?, 0)? {
        1 => Some(MessageType::Negotiate),
        2 => Some(MessageType::Challenge),
        3 => Some(MessageType::Authenticate),
        _ => None,
    }
}

impl Challenge {
    /// Reads a `CHALLENGE_MESSAGE`; `None`: it is none.
    pub(crate) fn read(message: &[u8]) -> Option<Challenge> {
        let is_challenge = message_type(message) == Some(MessageType::Challenge);
        is_challenge.then_some(Challenge { unicode: u32_at(message, 20)? & UNICODE != 0 })
    }
}

impl Authenticate {
    /// Where the payload begins at the earliest. `Version` and `MIC` may follow `NegotiateFlags` and are absent in
    /// messages of old clients; the payload may stand in their place.
    const HEADER_LENGTH: usize = 64;

    /// Reads an `AUTHENTICATE_MESSAGE`. `None`: it is none, or its fields lie outside it, on its header or on each
    /// other.
    pub(crate) fn read(message: &[u8]) -> Option<Authenticate> {
        if message_type(message) != Some(MessageType::Authenticate) {
            return None;
        }
        let fields = [12, 20, 28, 36, 44, 52].map(|at| Field::read(message, at));
        let [Some(_), Some(nt_response), Some(domain), Some(user), Some(workstation), Some(_)] = fields else {
            return None;
        };
        if overlap(fields.into_iter().flatten()) {
            return None;
        }

        let flags = u32_at(message, 60)?;
        let nt_response = nt_response.of(message);
        let (domain, user) = (domain.of(message), user.of(message));
        let is_anonymous = user.is_empty() && nt_response.is_empty(); // [MS-NLMP] 3.2.5.1.2
        let name = if is_anonymous { Ok(None) } else { name(domain, user, flags).map(Some) };
        Some(Authenticate {
            unreadable_name: name.as_ref().err().copied(),
            user: name.ok().flatten(),
            workstation: text(workstation.of(message), flags)
                .ok()
                .filter(|it| is_fit_for_a_log(it))
                .unwrap_or_default(),
            flags,
            channel_bindings: has_channel_bindings(nt_response),
        })
    }

    /// Whether its names are UTF-16, as it says itself.
    pub fn is_unicode(&self) -> bool {
        self.flags & UNICODE != 0
    }

    /// Who says to be there, to a server that gave this challenge: nobody if the message claims another character set
    /// than the challenge settled, because a server that goes by its own would read another name in the same bytes.
    pub fn user_answering(&self, challenge: Challenge) -> Option<&MailboxName> {
        self.user.as_ref().filter(|_| self.is_unicode() == challenge.unicode)
    }
}

/// A length, an allocated length that receivers ignore, and an offset from the message's beginning.
#[derive(Clone, Copy)]
struct Field {
    start: usize,
    end: usize,
}

impl Field {
    /// `None`: it does not lie in the message. The offset of an empty one means nothing.
    fn read(message: &[u8], at: usize) -> Option<Field> {
        let length = usize::from(u16::from_le_bytes(bytes_at(message, at)?));
        let start = usize::try_from(u32_at(message, at + 4)?).ok()?;
        if length == 0 {
            return Some(Field { start: 0, end: 0 });
        }
        let end = start.checked_add(length)?;
        (start >= Authenticate::HEADER_LENGTH && end <= message.len()).then_some(Field { start, end })
    }

    fn of(self, message: &[u8]) -> &[u8] {
        message.get(self.start..self.end).unwrap_or_default()
    }
}

/// No client lays one field upon another.
fn overlap(fields: impl Iterator<Item = Field>) -> bool {
    let mut fields: Vec<_> = fields.filter(|field| field.start < field.end).collect();
    fields.sort_unstable_by_key(|field| field.start);
    fields.windows(2).any(|pair| matches!(pair, [first, second] if second.start < first.end))
}

fn name(domain: &[u8], user: &[u8], flags: u32) -> Result<MailboxName, UnreadableName> {
    Ok(MailboxName::of_parts(&text(domain, flags)?, &text(user, flags)?)?)
}

fn text(bytes: &[u8], flags: u32) -> Result<String, UnreadableName> {
    if bytes.len() > 2 * MailboxName::LENGTH_MAX_BYTES {
        return Err(NameError::TooLong.into());
    }
    if flags & UNICODE != 0 {
        let (units, half) = bytes.as_chunks::<2>();
        let units = units.iter().copied().map(u16::from_le_bytes);
        let text: Result<String, _> = char::decode_utf16(units).collect();
        return text.ok().filter(|_| half.is_empty()).ok_or(UnreadableName::NotUtf16);
    }
    if flags & OEM == 0 {
        return Err(UnreadableName::NoCharacterSet);
    }
    str::from_utf8(bytes).ok().filter(|text| text.is_ascii()).map(str::to_owned).ok_or(UnreadableName::NotAscii)
}

/// A host name is at most 255 octets long (RFC 1123 section 2.1).
fn is_fit_for_a_log(workstation: &str) -> bool {
    workstation.len() <= 255 && !workstation.contains(char::is_control)
}

/// Whether an `NTLMv2_RESPONSE` ([MS-NLMP] 2.2.2.8) has an `MsvAvChannelBindings` that is not all zeros. The answers of
/// NTLM version 1 are too short to have any.
fn has_channel_bindings(nt_response: &[u8]) -> bool {
    const AV_PAIRS: usize = 16 + 28; // NTProofStr, and NTLMv2_CLIENT_CHALLENGE (2.2.2.7) up to them
    const END_OF_LIST: u16 = 0;
    const CHANNEL_BINDINGS: u16 = 10;

    let mut rest = nt_response.get(AV_PAIRS..).unwrap_or_default();
    while let (Some(id), Some(length)) = (bytes_at(rest, 0), bytes_at(rest, 2)) {
        let end = 4 + usize::from(u16::from_le_bytes(length));
        match (u16::from_le_bytes(id), rest.get(4..end)) {
            (END_OF_LIST, _) | (_, None) => return false,
            (CHANNEL_BINDINGS, Some(hash)) if hash.iter().any(|byte| *byte != 0) => return true,
            (_, Some(_)) => rest = rest.get(end..).unwrap_or_default(),
        }
    }
    false
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes_at(bytes, at).map(u32::from_le_bytes)
}

fn bytes_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test that cannot go on says why
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{
        samples::{self, authenticate, utf_16},
        token::Shows,
    };

    #[test]
    fn real_messages_tell_user_workstation_and_channel_bindings() {
        for (sample, user, workstation, channel_bindings) in [
            (samples::CURL_NTLM_3, Some("contoso\\carla"), "WORKSTATION", false),
            (samples::CURL_NTLM_ADDRESS, Some("carla@contoso.com"), "WORKSTATION", false),
            (samples::CURL_NTLM_OEM, Some("contoso\\carla"), "WORKSTATION", false),
            (samples::CURL_NTLM_OEM_V2, Some("contoso\\carla"), "WORKSTATION", false),
            (samples::PYSPNEGO_NEGOTIATE_3, Some("contoso\\carla"), "", false),
            (samples::PYSPNEGO_3, Some("contoso\\carla"), "", false),
            (samples::PYSPNEGO_BOUND_3, Some("carla@contoso.com"), "", true),
            (samples::PYSPNEGO_NON_ASCII_3, Some("contoso\\élodie"), "", false),
        ] {
            let read = read_sample(sample);
            assert_eq!(read.user.map(|user| user.to_string()).as_deref(), user);
            assert_eq!(read.unreadable_name, None);
            if !workstation.is_empty() {
                assert_eq!(read.workstation, workstation);
            }
            assert_eq!(read.channel_bindings, channel_bindings, "{user:?}");
        }
    }

    #[test]
    fn a_name_counts_only_in_the_character_set_that_the_challenge_settled() {
        let (unicode, oem) = (Challenge { unicode: true }, Challenge { unicode: false });
        let read = |flags, user: &[u8]| Authenticate::read(&authenticate(flags, b"", user)).expect("a message");
        let in_unicode = read(UNICODE, &utf_16("carla"));
        assert_eq!(in_unicode.user_answering(unicode), Some(&bare("carla")));
        // By its own rule the server reads "c", up to the NUL.
        assert_eq!(in_unicode.user_answering(oem), None);
        let in_oem = read(OEM, b"carlas");
        assert_eq!(in_oem.user_answering(oem), Some(&bare("carlas")));
        // By its own rule the server reads three ideographs.
        assert_eq!(in_oem.user_answering(unicode), None);
        assert_eq!(read(UNICODE | OEM, &utf_16("carla")).user_answering(unicode), Some(&bare("carla")));
    }

    #[test]
    fn a_challenge_settles_the_character_set() {
        for (sample, unicode) in [(samples::CHALLENGE_UNICODE, true), (samples::CHALLENGE_OEM, false)] {
            assert_eq!(Challenge::read(&samples::message(sample)), Some(Challenge { unicode }));
        }
        assert_eq!(Challenge::read(&samples::message(samples::CURL_NTLM_3)), None);
        assert_eq!(Challenge::read(b"NTLMSSP\0\x02\0\0\0"), None);
    }

    #[test]
    fn a_name_that_could_be_another_is_nobodys() {
        use NameError::{ControlCharacter, Empty, TooLong, TwoReadings};
        use UnreadableName::{NoCharacterSet, NoName, NotAscii, NotUtf16};
        let long = utf_16(&"a".repeat(1025));
        for (flags, domain, user, why) in [
            (UNICODE, utf_16("CONTOSO"), utf_16("carla@contoso.com"), NoName(TwoReadings)),
            (UNICODE, vec![], utf_16("CONTOSO\\carla"), NoName(TwoReadings)),
            (UNICODE, utf_16("CONTOSO"), utf_16("ADATUM\\carla"), NoName(TwoReadings)),
            (UNICODE, utf_16("CONTOSO"), utf_16("carla "), NoName(TwoReadings)),
            (UNICODE, utf_16("CONTOSO"), utf_16("carla\0"), NoName(ControlCharacter)),
            (UNICODE, utf_16("CONTOSO\0"), utf_16("carla"), NoName(ControlCharacter)),
            (UNICODE, utf_16("CONTOSO"), utf_16("carla\0bruno"), NoName(ControlCharacter)),
            (UNICODE, utf_16("CONTOSO"), utf_16("carla\r\n"), NoName(ControlCharacter)),
            (UNICODE, vec![], vec![], NoName(Empty)),
            (UNICODE, vec![], long.clone(), NoName(TooLong)),
            (UNICODE, utf_16("CONTOSO"), b"c\0a".to_vec(), NotUtf16),
            (UNICODE, utf_16("CONTOSO"), b"c\0\x00\xd8".to_vec(), NotUtf16),
            (UNICODE, utf_16("CONTOSO"), b"\x00\xdcc\0".to_vec(), NotUtf16),
            (UNICODE, b"CONTOSO".to_vec(), utf_16("carla"), NotUtf16),
            (OEM, b"CONTOSO".to_vec(), utf_16("carla"), NoName(ControlCharacter)),
            (OEM, b"CONTOSO".to_vec(), b"carla\0".to_vec(), NoName(ControlCharacter)),
            (OEM, b"CONTOSO".to_vec(), b"\x82lodie".to_vec(), NotAscii),
            (OEM, b"CONTOSO".to_vec(), "élodie".into(), NotAscii),
            (0, b"CONTOSO".to_vec(), b"carla".to_vec(), NoCharacterSet),
        ] {
            let read = Authenticate::read(&authenticate(flags, &domain, &user)).expect("a message");
            assert_eq!((read.user, read.unreadable_name), (None, Some(why)), "{flags} {user:?}");
        }
    }

    #[test]
    fn nobody_in_particular_is_no_unreadable_name() {
        let mut message = authenticate(UNICODE, b"", b"");
        message[20..28].fill(0); // NtChallengeResponse
        let read = Authenticate::read(&message).expect("a message");
        assert_eq!((read.user, read.unreadable_name), (None, None));
    }

    #[test]
    fn a_workstation_unfit_for_a_log_is_left_out() {
        for (workstation, shown) in [("WS-1", "WS-1"), ("", ""), ("WS\r\nX", ""), (&*"W".repeat(300), "")] {
            let mut message = authenticate(UNICODE, b"", &utf_16("ana"));
            append(&mut message, 44, &utf_16(workstation));
            let read = Authenticate::read(&message).expect("a message");
            assert_eq!((read.workstation.as_str(), read.user), (shown, Some(bare("ana"))));
        }
    }

    #[test]
    fn the_payload_may_stand_in_any_order_with_gaps_and_behind_a_version_and_a_mic() {
        let mut message = authenticate(UNICODE, b"", b"");
        message.extend([0xee; 24 + 7]); // Version, MIC, a gap
        append(&mut message, 36, &utf_16("carla"));
        message.push(0xee);
        append(&mut message, 28, &utf_16("CONTOSO"));
        let read = Authenticate::read(&message).expect("a message");
        assert_eq!(read.user.expect("a name").to_string(), "contoso\\carla");
    }

    #[test]
    fn fields_outside_the_message_on_its_header_or_on_each_other_are_refused() {
        let message = authenticate(UNICODE, &utf_16("CONTOSO"), &utf_16("carla"));
        let length = u32::try_from(message.len()).expect("short");
        let user_at = length - 10;
        assert!(Authenticate::read(&message).is_some());
        for offset in [0, 12, 63, user_at - 1, user_at + 1, length, length + 1, 0x7fff_fff0, u32::MAX - 1, u32::MAX] {
            let mut hostile = message.clone();
            hostile[40..44].copy_from_slice(&offset.to_le_bytes());
            assert_eq!(Authenticate::read(&hostile), None, "{offset}");
        }
        for length in [11_u16, 0x7fff, u16::MAX] {
            let mut hostile = message.clone();
            hostile[36..38].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Authenticate::read(&hostile), None, "{length}");
        }
        // An empty field lies nowhere.
        let mut harmless = message.clone();
        harmless[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Authenticate::read(&harmless).is_some());
    }

    #[test]
    fn a_message_cut_short_anywhere_names_nobody() {
        for sample in [samples::CURL_NTLM_3, samples::CURL_NTLM_OEM, samples::PYSPNEGO_BOUND_3] {
            let message = samples::message(sample);
            for length in 0..message.len() {
                let read = Authenticate::read(&message[..length]);
                // Of a session key at the end the length says so; of trailing bytes in no field nobody knows.
                assert_eq!(read, None, "{length} of {}", message.len());
            }
        }
    }

    #[test]
    fn channel_bindings_are_looked_for_to_the_end_of_the_list_and_no_further() {
        let pair = |id: u16, value: &[u8]| {
            [&id.to_le_bytes()[..], &u16::try_from(value.len()).expect("short").to_le_bytes(), value].concat()
        };
        let blob = |pairs: &[Vec<u8>]| [&[0; 44][..], &pairs.concat()].concat();
        let bound = pair(10, &[1; 16]);
        for (response, found) in [
            (blob(&[pair(1, b"C\0"), bound.clone(), pair(0, &[])]), true),
            (blob(&[pair(10, &[0; 16]), pair(0, &[])]), false),
            (blob(&[pair(0, &[]), bound.clone()]), false),
            (blob(&[pair(1, &[0; 300]), bound.clone()]), true),
            (blob(std::slice::from_ref(&bound))[..60].to_vec(), false),
            (blob(&[vec![1, 0, 0xff, 0xff], bound.clone()]), false),
            (vec![0xff; 24], false),
            (vec![1; 46], false),
            (vec![], false),
        ] {
            assert_eq!(has_channel_bindings(&response), found, "{response:?}");
        }
    }

    proptest! {
        #[test]
        fn a_message_made_from_a_name_reads_back_as_that_name(
            domain in "[A-Za-z0-9.-]{0,15}",
            user in "[\\PC&&[^\\\\\\\\@:\\\\s]]{1,20}",
            is_unicode in any::<bool>(),
        ) {
            prop_assume!(user.trim() == user);
            let is_unicode = is_unicode || !user.is_ascii();
            let (flags, encode): (u32, fn(&str) -> Vec<u8>) =
                if is_unicode { (UNICODE, utf_16) } else { (OEM, |text| text.into()) };
            let read = Authenticate::read(&authenticate(flags, &encode(&domain), &encode(&user)));
            let sent = if domain.is_empty() { user } else { format!("{domain}\\{user}") };
            prop_assert_eq!(read.expect("a message").user, MailboxName::parse(&sent).ok());
        }

        #[test]
        fn no_bytes_behind_the_header_make_it_panic(
            header in prop::collection::vec(any::<u8>(), 52..53),
            flags in 0_u32..4,
            payload in prop::collection::vec(any::<u8>(), 0..200),
            small in any::<bool>(),
        ) {
            let mut header = header;
            if small {
                // Lengths and offsets that may fall inside.
                for (place, byte) in header.iter_mut().enumerate() {
                    if !matches!(place % 8, 0 | 4) { *byte = 0 }
                }
            }
            let message = [b"NTLMSSP\0\x03\0\0\0", &header[..48], &flags.to_le_bytes(), &payload].concat();
            if let Some(Authenticate { user: Some(user), .. }) = Authenticate::read(&message) {
                prop_assert!(!user.to_string().contains(char::is_control));
            }
        }
    }

    fn bare(name: &str) -> MailboxName {
        MailboxName::Bare(name.into())
    }

    fn read_sample(sample: &str) -> Authenticate {
        let Shows::Account(read) = samples::token(sample).shows else { panic!("no account") };
        *read
    }

    /// Appends a field's bytes and points the field at them.
    fn append(message: &mut Vec<u8>, field: usize, bytes: &[u8]) {
        let length = u16::try_from(bytes.len()).expect("short").to_le_bytes();
        let offset = u32::try_from(message.len()).expect("short").to_le_bytes();
        message[field..field + 8].copy_from_slice(&[&length[..], &length, &offset].concat());
        message.extend(bytes);
    }
}
