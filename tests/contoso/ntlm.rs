//! NTLM as a server judges it: a challenge, and whether the answer to it was made with the password ([MS-NLMP]).

use hmac::{Hmac, Mac};
use md5::Md5;
use ntlmclient::{Credentials, Flags, Message, TargetInfoEntry, TargetInfoType, ntlm_v2_password_func};

/// A server challenge that is out, waiting for its answer.
#[derive(Debug)]
pub struct Challenge([u8; 8]);

/// An AUTHENTICATE_MESSAGE (2.2.1.3) of the version that is accepted, not yet judged.
pub struct Answer {
    /// The domain, as the client names it; may be empty.
    pub domain: String,
    /// The user, as the client names them; empty for an anonymous one.
    pub user: String,
    /// NTProofStr and what it was made of (2.2.2.8).
    response: Vec<u8>,
}

/// The number of an NTLM message; `None`: these bytes are none.
pub fn message_type(bytes: &[u8]) -> Option<u32> {
    let rest = bytes.strip_prefix(SIGNATURE)?;
    Some(u32::from_le_bytes(rest.first_chunk().copied()?))
}

impl Challenge {
    /// One that nobody can foresee.
    pub fn new() -> Self {
        let mut bytes = [0; 8];
        // The system's source of random bytes does not fail on any machine that runs the tests.
        let _ = rustls::crypto::ring::default_provider().secure_random.fill(&mut bytes);
        Challenge(bytes)
    }

    /// The CHALLENGE_MESSAGE (2.2.1.2) for a NEGOTIATE_MESSAGE (2.2.1.1), of which only the flags count; a message as
    /// short as curl's, 32 bytes, is whole. `None`: it has none.
    pub fn message(&self, negotiate: &[u8], computer: &str) -> Option<Vec<u8>> {
        let flags = Flags::from_bits_retain(u32::from_le_bytes(negotiate.get(12..)?.first_chunk().copied()?));
        let mut agreed = flags & AS_THE_CLIENT_LIKES | ALWAYS;
        // 3.2.5.1.1: Unicode if the client can, else its OEM code page.
        agreed |=
            if flags.contains(Flags::NEGOTIATE_UNICODE) { Flags::NEGOTIATE_UNICODE } else { Flags::NEGOTIATE_OEM };
        let target = if agreed.contains(Flags::NEGOTIATE_UNICODE) { utf16(DOMAIN) } else { DOMAIN.as_bytes().to_vec() };
        let info = target_info(computer);
        let mut message = [SIGNATURE, &2_u32.to_le_bytes()].concat();
        message.extend(field(target.len(), HEADER));
        message.extend(agreed.bits().to_le_bytes());
        message.extend(self.0);
        message.extend([0; 8]);
        message.extend(field(info.len(), HEADER + target.len()));
        message.extend(VERSION);
        message.extend(target);
        message.extend(info);
        Some(message)
    }

    /// Whether the answer to this challenge was made with this password (3.3.2). Only NTLMv2 is accepted, as
    /// Windows can be told to; the message integrity code is not looked at, because curl sends none.
    pub fn judge(&self, answer: &Answer, password: &str) -> bool {
        let Some((proof, rest)) = answer.response.split_first_chunk::<16>() else {
            return false;
        };
        let key = ntlm_v2_password_func(&Credentials {
            username: answer.user.clone(),
            domain: answer.domain.clone(),
            password: password.to_owned(),
        });
        let Ok(mut expected) = Hmac::<Md5>::new_from_slice(&key) else {
            return false;
        };
        expected.update(&self.0);
        expected.update(rest);
        expected.verify_slice(proof).is_ok()
    }
}

impl Answer {
    /// Reads one; `None`: nobody could, or it is anonymous or of an older version.
    pub fn read(authenticate: &[u8]) -> Option<Answer> {
        let Ok(Message::Authenticate(message)) = Message::try_from(authenticate) else {
            return None;
        };
        let is_version_2 = message.ntlm_response.len() > NTLM_V1_RESPONSE;
        (is_version_2 && !message.user_name.is_empty()).then_some(Answer {
            domain: message.domain_name,
            user: message.user_name,
            response: message.ntlm_response,
        })
    }
}

/// A security buffer's fields: length, allocated length, offset.
fn field(length: usize, offset: usize) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation)] // the names of this organisation, of some dozen letters
    let (length, offset) = (length as u16, offset as u32);
    [&length.to_le_bytes()[..], &length.to_le_bytes(), &offset.to_le_bytes()].concat()
}

/// What Windows says of itself in every challenge (2.2.2.1). The timestamp makes newer clients add their MIC.
fn target_info(computer: &str) -> Vec<u8> {
    let now = time::OffsetDateTime::now_utc() - time::macros::datetime!(1601-01-01 00:00 UTC);
    let ticks = u64::try_from(now.whole_nanoseconds() / 100).unwrap_or_default();
    [
        TargetInfoEntry::from_string(TargetInfoType::NtDomain, DOMAIN),
        TargetInfoEntry::from_string(TargetInfoType::NtServer, &computer.to_uppercase()),
        TargetInfoEntry::from_string(TargetInfoType::DnsDomain, DNS_DOMAIN),
        TargetInfoEntry::from_string(TargetInfoType::DnsServer, &format!("{computer}.{DNS_DOMAIN}")),
        TargetInfoEntry { entry_type: TargetInfoType::Timestamp, data: ticks.to_le_bytes().to_vec() },
        TargetInfoEntry { entry_type: TargetInfoType::Terminator, data: Vec::new() },
    ]
    .iter()
    .flat_map(TargetInfoEntry::to_bytes)
    .collect()
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// How every NTLM message begins.
const SIGNATURE: &[u8] = b"NTLMSSP\0";
/// Length of a CHALLENGE_MESSAGE before its payload.
const HEADER: usize = 56;
/// Windows Server 2008, NTLMSSP revision 15 (2.2.2.10).
const VERSION: [u8; 8] = [6, 0, 0x71, 0x17, 0, 0, 0, 15];
const NTLM_V1_RESPONSE: usize = 24;
const DOMAIN: &str = "CONTOSO";
const DNS_DOMAIN: &str = "contoso.com";
const ALWAYS: Flags = Flags::NEGOTIATE_NTLM
    .union(Flags::NEGOTIATE_TARGET_INFO)
    .union(Flags::REQUEST_TARGET)
    .union(Flags::TARGET_TYPE_DOMAIN)
    .union(Flags::NEGOTIATE_VERSION);
const AS_THE_CLIENT_LIKES: Flags = Flags::NEGOTIATE_SIGN
    .union(Flags::NEGOTIATE_SEAL)
    .union(Flags::NEGOTIATE_ALWAYS_SIGN)
    .union(Flags::NEGOTIATE_NTLM2_KEY)
    .union(Flags::NEGOTIATE_128BIT)
    .union(Flags::NEGOTIATE_56BIT)
    .union(Flags::NEGOTIATE_KEY_EXCHANGE);
