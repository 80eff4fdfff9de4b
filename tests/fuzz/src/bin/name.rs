//! A name read from any bytes stands in them, is fit for a log, and is read back from what it is shown as.
#![no_main]

use firstcas_fuzz::{assert_named_in, identity::MailboxName};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(name) = MailboxName::parse_bytes(bytes) else { return };
    let shown = name.to_string();
    assert!(!shown.is_empty() && !shown.contains(char::is_control));
    assert_eq!(MailboxName::parse(&shown), Ok(name.clone()));
    match &name {
        MailboxName::Account { domain, account } => {
            // One by one: there may have been spaces around the backslash.
            assert_named_in(&MailboxName::Bare(domain.clone()), &[bytes]);
            assert_named_in(&MailboxName::Bare(account.clone()), &[bytes]);
        }
        MailboxName::Address(_) | MailboxName::Bare(_) | MailboxName::Guid(_) => assert_named_in(&name, &[bytes]),
    }
});
