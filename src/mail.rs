//! POP3 and IMAP4: a client logs on to the edge, and from then on speaks to its mailbox's own server.
//!
//! ```text
//! client -> listener (TLS) -> dialogue: greeting, STARTTLS, logon -> directory -> decide -> server: sign in -> splice
//!                                                                            \-> refused, in words to act on
//! ```
//!
//! Until somebody has logged on the edge speaks the protocol itself ([`dialogue`], [`pop3`], [`imap4`]): pure state machines
//! that are given bytes and say what is to be done next. So is the other half, which signs in at a server ([`sign_in`]).
//! `session` drives both over sockets, asks the directory and obeys the decision; [`splice`] passes on what comes after.
//!
//! Nothing is shared between sessions: each has a server connection of its own, which ends with it.

mod at_server;
pub mod dialogue;
pub mod imap4;
mod judge;
mod ntlm;
mod offered;
pub mod pop3;
pub mod refusal;
pub mod sasl;
pub mod server;
mod session;
pub mod sign_in;
pub mod splice;
mod story;

pub use offered::Offered;
pub use session::Mail;
