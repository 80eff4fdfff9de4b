//! `firstcas`: the First CAS of Exchange Server 2007, as an edge proxy.
pub mod config;
pub mod directory;
pub mod identity;
pub mod routing;
pub mod secret;
