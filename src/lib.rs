//! `firstcas`: the First CAS of Exchange Server 2007, as an edge proxy.
pub mod command_line;
pub mod config;
pub mod directory;
/// What stands between the network and the core.
pub mod edge {
    pub mod hygiene;
    pub mod path;
}
pub mod explain;
pub mod identity;
pub mod routing;
pub mod secret;
