//! The directory: which mailbox a name belongs to, where it lives, and what the organisation looks like.
//!
//! One schema ([`schema`]) decodes the real Active Directory / Exchange attributes from two sources: an LDIF file in
//! memory ([`ldif`]) and LDAP servers ([`ldap`]); [`organisation`] asks either the same questions. A bounded cache
//! ([`cache`]) stands in front. [`kept`] is what outlives the process.

pub mod cache;
mod forest;
pub mod kept;
pub mod ldap;
pub mod ldif;
pub mod organisation;
pub mod schema;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;

use crate::{
    identity::MailboxName,
    routing::{mailbox::Mailbox, topology::TopologyParts},
    secret::Secret,
};

/// A directory of people, mailboxes and the Exchange organisation.
#[async_trait]
pub trait Directory: Send + Sync + 'static {
    /// Reads the whole topology from the configuration container.
    async fn topology(&self) -> Result<TopologyReading, DirectoryError>;

    /// Finds the person a name belongs to; of several entries, the only one with a mailbox ([`schema::meant`]).
    /// `Ok(None)`: the directory has nobody of that name.
    async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError>;

    /// Whether this is the person's password, asked of the directory itself (an LDAP bind; for an LDIF file the stored
    /// hash). An empty password is never right (RFC 4513 section 5.1.2).
    async fn verify(&self, entry: &Entry, password: &Secret) -> Result<Verdict, DirectoryError>;

    /// What has changed since the last call; the first one only remembers where the directory stands.
    async fn changes(&self) -> Result<Changes, DirectoryError>;

    /// The servers that are asked, and how they have answered. None where it is a file.
    fn servers(&self) -> Vec<ServerState> {
        Vec::new()
    }
}

/// What the directory says of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is the person's.
    Right,
    /// It is not.
    Wrong,
    /// Nobody can sign in with it as things are.
    Unusable(Unusable),
}

impl Verdict {
    /// Whether the person has proven by it who they are.
    pub fn is_right(self) -> bool {
        self == Verdict::Right
    }
}

/// Why nobody can sign in to an account, as Active Directory says it. All but [`Unusable::AccountLocked`] it says only to
/// whoever has sent the right password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// The password is too old.
    PasswordExpired,
    /// The password has to be changed before it is first used.
    PasswordMustChange,
    /// Too many passwords were wrong; whether this one was is not looked at.
    AccountLocked,
    /// An administrator has disabled the account.
    AccountDisabled,
    /// The account's last day is over.
    AccountExpired,
    /// The account may not sign in now, or not from there.
    LogonRestricted,
}

impl Unusable {
    /// For administrators.
    pub fn sentence(self) -> &'static str {
        match self {
            Unusable::PasswordExpired => "the password has expired",
            Unusable::PasswordMustChange => "the password must be changed before the first logon",
            Unusable::AccountLocked => "the account is locked after too many wrong passwords",
            Unusable::AccountDisabled => "the account is disabled",
            Unusable::AccountExpired => "the account has expired",
            Unusable::LogonRestricted => "the account may not sign in at this time or from this computer",
        }
    }
}

/// A server of the directory, and how it has answered so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    /// Its URL.
    pub url: String,
    /// What it is asked for: `people`, or the `configuration` container (and people, where nobody else is asked for them).
    pub asked_for: &'static str,
    /// Whether it answers, as far as is known.
    pub is_up: bool,
    /// Questions that it was asked on connections of the edge's own account.
    pub searches: u64,
    /// Those that it gave no answer to, or an error.
    pub failures: u64,
    /// How long it took for all of them together.
    pub duration: Duration,
}

/// Something that an administrator should know, told once as it happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// No server answers any more.
    Away {
        /// The servers of a forest that hold the same, in words; always the same words.
        servers: String,
        /// What the last one said.
        problem: String,
    },
    /// One of them does again.
    Back {
        /// As in [`Notice::Away`].
        servers: String,
    },
    /// One of several servers does not answer any more.
    ServerAway {
        /// Its URL.
        server: String,
        /// What happened.
        problem: String,
    },
    /// It answers again.
    ServerBack {
        /// Its URL.
        server: String,
    },
    /// A server's certificate ends soon.
    CertificateEnds {
        /// Its URL.
        server: String,
        /// Whole days left; negative: since when it has ended.
        days: i64,
    },
    /// Too many wrong passwords came for a person; the directory is not asked about more of them.
    WrongPasswords {
        /// The person's name, as in [`Entry::name`].
        name: String,
        /// For how long.
        pause: Duration,
    },
    /// A person's home server or database has changed.
    MailboxMoved {
        /// The person's name, as in [`Entry::name`].
        name: String,
        /// Where the mailbox was; `None`: there was none.
        from: Option<Mailbox>,
        /// Where it is now; `None`: there is none any more.
        to: Option<Mailbox>,
    },
}

/// Whom notices are told to. Called on the directory's threads: it must not block.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// Somebody the edge knew, kept for a start while the directory is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// The names that were asked for, at least one.
    pub names: Vec<MailboxName>,
    /// As the directory had the person.
    pub entry: Entry,
    /// When it was asked.
    pub read_at: SystemTime,
}

/// What has changed in the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// People whose entries are new or were changed in whatever way.
    pub people: Vec<Changed>,
    /// There may be more changes, which nobody can tell any more: another server answers now, or there were too many.
    pub may_have_missed: bool,
    /// Something in the configuration container was changed, so the topology is worth reading again.
    pub topology: bool,
}

/// A person as changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// As it is now.
    pub entry: Entry,
    /// Every name the person has now.
    pub names: Vec<MailboxName>,
}

/// A person (or a shared mailbox) as the directory has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What stays the same when everything else about the person changes.
    pub id: EntryId,
    /// Distinguished name, as the directory spells it.
    pub dn: String,
    /// What logs and pages call the person: the UPN, else the primary SMTP address, else the `sAMAccountName`.
    pub name: String,
    /// The mailbox, if the person has one.
    pub mailbox: Option<Mailbox>,
    /// `msExchMasterAccountSid` of a linked mailbox: the account of another forest that signs in to it.
    pub master_account: Option<Sid>,
    /// Kerberos principal name (RFC 4120 section 6.2): the `sAMAccountName` and its domain's name in capitals, as realm.
    /// `None`: the directory shows no account name or one that no Windows account can have, or the account is another
    /// forest's. It never needs escapes (RFC 1964 section 2.1.1).
    pub principal: Option<String>,
}

/// `objectGUID` or `entryUUID`; where the directory shows neither, the hash of the DN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId(pub [u8; 16]);

/// A security identifier as stored ([MS-DTYP] 2.4.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sid(pub Arc<[u8]>);

/// A topology as read, and what was odd about it.
#[derive(Clone, Debug, Default)]
pub struct TopologyReading {
    /// The readable parts.
    pub parts: TopologyParts,
    /// Objects or values that were left out, each with its place and cure.
    pub oddities: Vec<Oddity>,
}

/// Something in the directory that would break a user: what, where and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oddity {
    /// DN of the object.
    pub dn: String,
    /// What is wrong with it and how to mend it, in one sentence.
    pub problem: String,
}

/// Why the directory gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// More than one entry owns the name, and not just one of them has a mailbox.
    #[error("{name} belongs to {}: {}; remove it from all but one", count(.dns.len()), .dns.join(" | "))]
    Ambiguous {
        /// The name asked for.
        name: MailboxName,
        /// DNs of the entries that own it; of many, some.
        dns: Vec<String>,
    },
    /// No server could be reached.
    #[error("the directory at {server} cannot be reached")]
    Unreachable {
        /// The server's URL.
        server: String,
        /// What the connection said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answered with an error.
    #[error("the directory refused {operation}")]
    Rejected {
        /// What was asked of it.
        operation: String,
        /// What it answered.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It did not answer in time.
    #[error("the directory did not answer {operation} within {} ms", .after.as_millis())]
    TimedOut {
        /// What was asked of it.
        operation: String,
        /// How long it was given.
        after: Duration,
    },
    /// The directory's file is not LDIF.
    #[error("{}", .mistakes.join("; "))]
    Malformed {
        /// The first mistakes in it, each with its place and cure; at least one.
        mistakes: Vec<String>,
    },
    /// The directory's data cannot be used at all.
    #[error("{place}: {problem}")]
    Unusable {
        /// File and line, or DN.
        place: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
}

/// The same error for the next one who asks. Sources cannot be cloned, so theirs is the text.
fn repeated(error: &DirectoryError) -> DirectoryError {
    match error {
        DirectoryError::Ambiguous { name, dns } => DirectoryError::Ambiguous { name: name.clone(), dns: dns.clone() },
        DirectoryError::Unreachable { server, source } => {
            DirectoryError::Unreachable { server: server.clone(), source: source.to_string().into() }
        }
        DirectoryError::Rejected { operation, source } => {
            DirectoryError::Rejected { operation: operation.clone(), source: source.to_string().into() }
        }
        DirectoryError::TimedOut { operation, after } => {
            DirectoryError::TimedOut { operation: operation.clone(), after: *after }
        }
        DirectoryError::Malformed { mistakes } => DirectoryError::Malformed { mistakes: mistakes.clone() },
        DirectoryError::Unusable { place, problem } => {
            DirectoryError::Unusable { place: place.clone(), problem: problem.clone() }
        }
    }
}

fn count(entries: usize) -> String {
    if entries == 1 { "1 entry".into() } else { format!("{entries} entries") }
}
