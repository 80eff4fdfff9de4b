//! Whatever follows the type of an NTLM `AUTHENTICATE_MESSAGE`: a name that is read stands in the message in one piece,
//! in the character set that it claims, and is fit for a log.
#![no_main]

use base64::{Engine as _, prelude::BASE64_STANDARD};
use firstcas_fuzz::identity::{
    Credential, MailboxName,
    authorization::credential,
    token::{Leg, Shows, UnreadableToken},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let message = [b"NTLMSSP\0\x03\0\0\0", bytes].concat();
    let sent = format!("NTLM {}", BASE64_STANDARD.encode(&message));
    let Credential::ConnectionBound(token) = credential(sent.as_bytes()) else { panic!("NTLM is bound") };
    assert_eq!(token.leg, Leg::Next);
    let read = match token.shows {
        Shows::Account(read) => read,
        Shows::Unreadable(why) => return assert_eq!(why, UnreadableToken::Ntlm),
        other => panic!("{other:?}"),
    };
    assert!(read.user.is_none() || read.unreadable_name.is_none());
    assert!(!read.workstation.contains(char::is_control));

    let stands_in_message = |name: &str| {
        message.windows(name.len().max(1)).any(|part| part.eq_ignore_ascii_case(name.as_bytes()))
            || [0, 1].into_iter().any(|odd| {
                let units = message[odd..].as_chunks::<2>().0.iter().copied().map(u16::from_le_bytes);
                let text: String = char::decode_utf16(units).map(|it| it.unwrap_or('\0')).collect();
                text.to_lowercase().replace('ς', "σ").contains(&name.replace('ς', "σ"))
            })
    };
    match read.user {
        Some(MailboxName::Account { domain, account }) => {
            assert!(stands_in_message(&domain) && stands_in_message(&account), "{domain}\\{account}");
        }
        Some(MailboxName::Address(name) | MailboxName::Bare(name)) => {
            assert!(stands_in_message(&name) && !name.contains(char::is_control), "{name}");
        }
        Some(MailboxName::Guid(guid)) => panic!("a server reads no GUID in a name: {guid:?}"),
        None => {}
    }
});
