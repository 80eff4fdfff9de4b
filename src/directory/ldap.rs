//! ldap

use std::{path::PathBuf, time::Duration};

use url::Url;

use crate::secret::Secret;

/// Where LDAP servers are and how they are asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `ldaps://` or `ldap://`, asked in this order.
    pub urls: Vec<Url>,
    /// Name of the account that reads: a DN, or a UPN with Active Directory.
    pub bind_dn: String,
    /// Its password.
    pub bind_password: Secret,
    /// PEM file of the authorities that sign the servers' certificates; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Whether `ldap://` connections are encrypted with StartTLS (RFC 4511 section 4.14).
    pub start_tls: bool,
    /// Where people are searched; `None`: the server's `defaultNamingContext`.
    pub users_base: Option<String>,
    /// Where the Exchange organisation and the sites are; `None`: the server's `configurationNamingContext`.
    pub configuration_base: Option<String>,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long a search may take.
    pub search_timeout: Duration,
    /// Connections kept for searches.
    pub connections: usize,
}
