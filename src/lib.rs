//! `firstcas`: the First CAS of Exchange Server 2007, as an edge proxy.
//!
//! # The life of a request
//!
//! ```text
//! client -> listener (TLS) -> facts -> identity -> directory (cache) -> decide -> pool / pin -> Second CAS
//!                                                                     \-> redirect page, 451, 302, refusal
//! ```
//!
//! 1. [`edge::arrival`] finds out whose connection it is. [`edge`] takes the request from Pingora and turns it into
//!    [`identity::Facts`].
//! 2. [`identity::identify`] says whose mailbox it is about, as far as the request claims. [`certificates`] are what the
//!    listener shows, and what its client may have proved itself by already.
//! 3. [`directory`] says where that mailbox lives; a bounded cache stands in front. `running::following` keeps what is known
//!    true while the directory changes, and in force while it is away.
//! 4. [`routing::decide`] decides: pure, no I/O, no clock. **The core; read it first.**
//! 5. `edge::course` carries out 1 to 4; [`edge::respond`] turns redirects and refusals into answers.
//! 6. [`edge::pools`] picks the server, among those that [`edge::health`] finds well; [`edge::pin`] says whose connection may be used, [`edge::client`] holds the pinned
//!    ones together with their client.
//!    Where the server wants a ticket of the user's, [`edge::errand`] and `edge::on_behalf` sign in for them ([`kerberos`]).
//! 7. Pingora proxies. Where the answer shows that somebody has signed in ([`edge::proof`]), `edge::acceptance` does what
//!    should have been decided at first, and [`edge::affinity`] remembers it in a cookie. One access log line tells the whole
//!    story.
//! 8. When the process ends, [`edge::door`] lets each client go with its next answer; `running::handover` gives the listening
//!    sockets to the next process before.
//!
//! [`mail`] does for POP3 and IMAP4 what 1, 2 and 7 are for the web, with dialogues of its own; 3 to 6 and 8 are the same.
//! [`admin`] shows administrators what [`metrics`] counts and [`edge::in_force`] has, on an address of its own.
//!
//! # Invariants
//!
//! 1. No client byte chooses an upstream address.
//! 2. A connection that ever carried a connection-bound credential (NTLM, Negotiate) belongs to one client connection; where
//!    the edge itself has signed in, to one person and one proof of who they are.
//! 3. A shared connection never carries a connection-bound credential.
//! 4. A request that may have been delivered is never delivered twice.
//! 5. Where a mailbox lives is told only to someone who proved who they are.
//! 6. Passwords, tokens and cookies never reach a log, a metric, an error text or a `Debug`.
//! 7. The last good configuration, topology and certificates stay in force when a new one is bad or the directory is away.
//! 8. Every refusal says which rule refused: in the log, in an event with a stable id, and to the user.
//! 9. Nothing grows without a bound.

pub mod admin;
pub mod certificates;
pub mod check;
pub mod client_keytab;
pub mod command_line;
pub mod config;
pub mod directory;
pub mod edge;
pub mod error_chain;
pub mod events;
pub mod explain;
pub mod identity;
pub mod kerberos;
pub mod logging;
pub mod mail;
pub mod metrics;
pub mod routing;
pub mod running;
pub mod secret;
pub mod service_manager;
pub mod upgrade;

pub use running::{Running, start};
