//! Any bytes as a keytab, as an `AP-REQ`, and as what is sealed inside one by a KDC that has gone mad: a name is proven
//! only by a ticket whose bytes have it. The bytes for the last: two of a length, a ticket so long, an authenticator.
#![no_main]

use std::time::{Duration, SystemTime};

use firstcas_fuzz::identity::{MailboxName, kerberos::ApReq, keytab::Keytab};
use libfuzzer_sys::fuzz_target;
use picky_krb::crypto::CipherSuite;

/// When the corpus was made.
const THEN: Duration = Duration::from_secs(1_795_375_319);

const REAL: &[u8] = include_bytes!("../../../tokens/service.keytab");

fuzz_target!(|bytes: &[u8]| {
    if let Ok(keytab) = Keytab::parse(bytes) {
        assert!(!keytab.keys().is_empty());
    }
    let now = SystemTime::UNIX_EPOCH + THEN;
    if let Ok(opened) = Keytab::parse(REAL).unwrap().open(&ApReq { der: bytes.to_vec() }, now) {
        assert!(["contoso.com\\ana", "carla@contoso.com"].contains(&opened.client.to_string().as_str()));
    }

    let Some((length, rest)) = bytes.split_first_chunk() else { return };
    let Some((ticket, authenticator)) = rest.split_at_checked(u16::from_be_bytes(*length).into()) else { return };
    if let Ok(opened) = made_keytab().open(&ApReq { der: ap_req(ticket, authenticator) }, now) {
        let name = match opened.client {
            MailboxName::Account { account, .. } => account,
            MailboxName::Address(name) | MailboxName::Bare(name) => name,
            MailboxName::Guid(guid) => panic!("no ticket has a GUID: {guid:?}"),
        };
        let stands_in = |part: &[u8]| String::from_utf8_lossy(part).to_lowercase().contains(&name);
        assert!(stands_in(ticket) && stands_in(authenticator), "{name}");
    }
});

/// One key of 32 threes, version 3, of a principal without a name.
fn made_keytab() -> Keytab {
    let entry = [&[0; 4 + 8][..], &[3, 0, 18, 0, 32], &[3; 32]].concat();
    let length = u32::try_from(entry.len()).unwrap().to_be_bytes();
    Keytab::parse(&[&[5, 2][..], &length, &entry].concat()).unwrap()
}

fn ap_req(ticket: &[u8], authenticator: &[u8]) -> Vec<u8> {
    let cipher = CipherSuite::Aes256CtsHmacSha196.cipher();
    let sealed = |key: &[u8], usage, plain: &[u8]| {
        let sealed = cipher.encrypt(key, usage, plain).unwrap();
        tlv(0x30, &[tlv(0xa0, &[2, 1, 18]), tlv(0xa2, &tlv(4, &sealed))].concat())
    };
    let name = [&[0xa0, 3, 2, 1, 1][..], &[0xa1, 2, 0x30, 0]].concat();
    let ticket = [
        tlv(0xa0, &[2, 1, 5]),
        tlv(0xa1, &[0x1b, 0]),
        tlv(0xa2, &tlv(0x30, &name)),
        tlv(0xa3, &sealed(&[3; 32], 2, ticket)),
    ];
    let message = [
        tlv(0xa0, &[2, 1, 5]),
        tlv(0xa1, &[2, 1, 14]),
        tlv(0xa2, &[3, 5, 0, 0, 0, 0, 0]),
        tlv(0xa3, &tlv(0x61, &tlv(0x30, &ticket.concat()))),
        tlv(0xa4, &sealed(&[7; 32], 11, authenticator)),
    ];
    tlv(0x6e, &tlv(0x30, &message.concat()))
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    let header: &[u8] = match value.len() {
        0..0x80 => &[tag, length[1]],
        0x80..0x100 => &[tag, 0x81, length[1]],
        _ => &[tag, 0x82, length[0], length[1]],
    };
    [header, value].concat()
}
