//! Kerberos: tickets by which the edge signs in to servers for users (RFC 4559 with one leg).
//!
//! [`desk`] lets requests wait for them, [`library`] gets them, [`negotiate`] writes them into a field. The library is MIT's,
//! by `libgssapi`: it finds domain controllers, follows referrals between domains, and knows constrained delegation
//! (S4U2Self, S4U2Proxy). Of those in pure Rust `sspi` has no constrained delegation and `picky-krb` is the messages alone, so
//! that a client would have been ours to write.

pub mod desk;
pub mod library;
pub mod negotiate;

/// Why the edge cannot sign in for a user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KerberosError {
    /// The password is wrong.
    #[error("the password is wrong")]
    WrongPassword,
    /// The realm knows nobody of this name.
    #[error("the realm has no account of this name")]
    UnknownAccount,
    /// The directory does not show whom to ask tickets for.
    #[error("the directory has no Kerberos name for them: a linked mailbox, or an account without sAMAccountName")]
    NoPrincipal,
    /// The password has to be changed first.
    #[error("the password has expired")]
    PasswordExpired,
    /// The account is locked, disabled or expired; Kerberos does not say which.
    #[error("the account is locked, disabled or expired")]
    AccountUnusable,
    /// No account has the server's service principal name, or several do.
    #[error("no account has the service principal name {0}")]
    NoServicePrincipalName(String),
    /// The domain controllers do not let the edge's account sign in for this user to this server.
    #[error("delegation to {0} is not allowed")]
    DelegationNotAllowed(String),
    /// The domain controllers let the edge's account sign in for nobody, or not for this user.
    #[error(
        "the edge's account may not sign in for this user: it has no service principal name of its own, the user's domain \
         is not known to it, or the user may not be delegated"
    )]
    NotForUser,
    /// The edge's own account cannot sign in.
    #[error("the edge's own account cannot sign in: {0}")]
    OwnAccount(String),
    /// The clocks differ too much.
    #[error("the clock of this machine and the domain controller's differ too much")]
    ClockSkew,
    /// No domain controller answers, or none is known.
    #[error("no key distribution centre answers: {0}")]
    Away(String),
    /// As many tickets are being got as may be at a time, or the time is over that a request may wait.
    #[error("the tickets did not come in time")]
    TimedOut,
    /// Something else.
    #[error("the Kerberos library says: {0}")]
    Other(String),
}
