//! What is offered to clients before their logon: what the configuration says of all servers, less what one of them does not
//! have. A client may not ask again after it, and must not use what its server does not know.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use crate::{config, events::Event, routing::protocol::Protocol};

/// What some server was found not to have.
#[derive(Default)]
pub struct Offered {
    missing: Mutex<BTreeSet<String>>,
}

impl Offered {
    /// What is offered in a protocol.
    pub(super) fn of(&self, protocol: Protocol, mail: &config::Mail) -> Arc<[String]> {
        if protocol == Protocol::Pop3 {
            return mail.pop3_capabilities.clone();
        }
        let missing = self.missing.lock();
        if missing.is_empty() {
            return mail.imap4_capabilities.clone();
        }
        let is_there = |name: &&String| !missing.contains(&name.to_ascii_uppercase());
        mail.imap4_capabilities.iter().filter(is_there).cloned().collect()
    }

    /// Learns what an IMAP4 server offers, as far as it has said. POP3 servers are not asked: what they are promised to have
    /// every one does (RFC 1939 section 7).
    pub(super) fn learn(&self, server: &str, says: &[String], mail: &config::Mail) {
        let has = |name: &String| says.iter().any(|said| said.eq_ignore_ascii_case(name));
        for name in mail.imap4_capabilities.iter().filter(|name| !has(name)) {
            let name = name.to_ascii_uppercase();
            let is_new = !self.missing.lock().contains(&name);
            if is_new {
                Event::CapabilityMissing.report(format_args!(
                    "{server} does not offer {name}, so no client is offered it any more until the edge starts anew"
                ));
                self.missing.lock().insert(name);
            }
        }
    }
}
