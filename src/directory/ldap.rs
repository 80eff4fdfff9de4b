//! ldap

/// Where LDAP servers are and how they are asked.
#[derive(Clone, Debug)]
pub struct Settings {}
