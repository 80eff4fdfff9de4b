//! The one implementation of [`Directory`]: the forest that Exchange is in, and the forests whose accounts have linked
//! mailboxes there.

use std::borrow::Cow;

use async_trait::async_trait;

use super::{
    Changes, Directory, DirectoryError, Entry, Oddity, ServerState, Sid, TopologyReading, Verdict,
    forest::{AnyOf, Forest, Source},
    schema::{self, Record, attribute},
};
use crate::{identity::MailboxName, routing::topology::TopologyParts, secret::Secret};

/// An organisation's directory. Made by [`ldif::open`](super::ldif::open) and [`ldap::open`](super::ldap::open).
pub struct Organisation {
    exchange: Forest,
    accounts: Vec<Forest>,
}

#[async_trait]
impl Directory for Organisation {
    async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
        self.exchange.topology().await
    }

    async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
        let found = match self.exchange.find(name, attribute::OF_PEOPLE).await? {
            Some(record) => Some(record),
            None => match self.account(name).await? {
                Some(sid) => {
                    let master = AnyOf::bytes(attribute::MASTER_ACCOUNT_SID, &sid.0);
                    self.exchange.only(name, None, master, attribute::OF_PEOPLE).await?
                }
                None => None,
            },
        };
        Ok(found.as_ref().map(schema::entry))
    }

    async fn verify(&self, entry: &Entry, password: &Secret) -> Result<Verdict, DirectoryError> {
        // RFC 4513 section 5.1.2: a bind with an empty password succeeds, and proves nothing.
        if password.expose().is_empty() || entry.dn.is_empty() {
            return Ok(Verdict::Wrong);
        }
        let password = as_text(password);
        let Some(sid) = &entry.master_account else {
            return self.exchange.verify(&entry.dn, &password).await;
        };
        // Nobody signs in as a linked mailbox itself: its own account is disabled.
        let name = MailboxName::Bare(entry.name.clone());
        let mut unanswered = None;
        for forest in &self.accounts {
            let of_sid = AnyOf::bytes(attribute::OBJECT_SID, &sid.0);
            match forest.only(&name, None, of_sid, attribute::OF_ACCOUNTS).await {
                Ok(Some(account)) => return forest.verify(&account.dn, &password).await,
                Ok(None) => {}
                Err(error) => unanswered = Some(error),
            }
        }
        unanswered.map_or(Ok(Verdict::Wrong), Err)
    }

    async fn changes(&self) -> Result<Changes, DirectoryError> {
        self.exchange.changes().await
    }

    fn servers(&self) -> Vec<ServerState> {
        std::iter::once(&self.exchange).chain(&self.accounts).flat_map(Forest::servers).collect()
    }
}

impl Organisation {
    pub(super) fn new(exchange: Source, accounts: impl IntoIterator<Item = Source>) -> Self {
        Organisation { exchange: Forest::new(exchange), accounts: accounts.into_iter().map(Forest::new).collect() }
    }

    /// People whose mailbox is on no server of the topology, and names that several share. `None` where that would take reading everybody from LDAP.
    pub fn people_oddities(&self, parts: &TopologyParts) -> Option<Vec<Oddity>> {
        self.exchange.all().map(|records| schema::people_oddities(&records, parts))
    }

    /// Everybody who has a mailbox or an address, and the domains of the forest: what
    /// [`people_oddities`](schema::people_oddities) looks at. Reads the whole directory.
    pub async fn everybody(&self) -> Result<Vec<Record>, DirectoryError> {
        self.exchange.everybody().await
    }

    /// The accounts that have a service of that host; `None` for a file, which has none.
    ///
    /// # Errors
    /// The directory's.
    pub async fn accounts_of_host(&self, host: &str) -> Result<Option<Vec<Record>>, DirectoryError> {
        self.exchange.accounts_of_host(host).await
    }

    /// The SID of the account of that name in a forest of accounts.
    async fn account(&self, name: &MailboxName) -> Result<Option<Sid>, DirectoryError> {
        let mut unanswered = None;
        for forest in &self.accounts {
            match forest.find(name, attribute::OF_ACCOUNTS).await {
                Ok(Some(account)) => {
                    return Ok(account.values(attribute::OBJECT_SID).first().map(|sid| Sid(sid.as_slice().into())));
                }
                Ok(None) => {}
                // Another forest may have it.
                Err(error) => unanswered = Some(error),
            }
        }
        unanswered.map_or(Ok(None), Err)
    }
}

/// RFC 4513 wants UTF-8; browsers and devices also send Latin-1 (RFC 7617 section 2.1), told by not being UTF-8.
fn as_text(password: &Secret) -> Cow<'_, str> {
    match std::str::from_utf8(password.expose()) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(password.expose().iter().copied().map(char::from).collect()),
    }
}
