//! How the LDAP servers are reached, and what of it cannot work.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};
use url::Url;

use crate::{directory::DirectoryError, secret::Secret};

/// How to reach and search the servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The servers, or how they are found.
    pub servers: Where,
    /// Who searches.
    pub account: Account,
    /// PEM file of the authorities that sign the servers' certificates. `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    /// Whether `ldap://` connections turn to TLS before anything else is said.
    pub start_tls: bool,
    /// DN below which people are searched. `None`: everywhere in a global catalog, which holds all domains below no
    /// common name; elsewhere the server's `defaultNamingContext`.
    pub users_base: Option<String>,
    /// DN of the configuration container. `None`: the server's `configurationNamingContext`.
    pub configuration_base: Option<String>,
    /// Time for a connection to be open, secured and bound.
    pub connect_timeout: Duration,
    /// Time for a search for one person, or for one page of the topology.
    pub search_timeout: Duration,
    /// How many connections to a server are shared by the searches; at least one.
    pub connections: usize,
    /// How many searches are under way at once; more wait for their turn, as long as a search may take.
    pub searches_max: usize,
}

/// Where the servers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Where {
    /// `ldap://` and `ldaps://` URLs, the preferred ones first.
    Listed {
        /// Domain controllers: asked for the configuration container, and for people where no global catalog is listed.
        domain_controllers: Vec<Url>,
        /// Global catalogs: asked for people of the whole forest.
        global_catalogs: Vec<Url>,
    },
    /// Found by the SRV records of a domain.
    Found {
        /// DNS name of the forest's root domain.
        domain: String,
        /// AD site whose servers come first.
        site: Option<String>,
        /// Name servers; none: those of the system.
        dns_servers: Vec<SocketAddr>,
        /// `ldaps` (on 636 and 3269), else `ldap` (on the ports of the records).
        scheme: Scheme,
    },
}

impl Where {
    /// The domain controllers, in words.
    pub(super) fn controllers_text(&self) -> String {
        match self {
            Where::Listed { domain_controllers, .. } => joined(domain_controllers),
            Where::Found { domain, .. } => format!("the domain controllers of {domain}"),
        }
    }

    /// The global catalogs, in words.
    pub(super) fn catalogs_text(&self) -> String {
        match self {
            Where::Listed { global_catalogs, .. } => joined(global_catalogs),
            Where::Found { domain, .. } => format!("the global catalogs of {domain}"),
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Where::Listed { domain_controllers, global_catalogs } if !global_catalogs.is_empty() => {
                write!(f, "{}, {}", joined(domain_controllers), joined(global_catalogs))
            }
            Where::Listed { .. } | Where::Found { .. } => f.write_str(&self.controllers_text()),
        }
    }
}

fn joined(urls: &[Url]) -> String {
    urls.iter().map(Url::as_str).collect::<Vec<_>>().join(", ")
}

/// How found servers are spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Without TLS, or with `StartTLS`.
    Ldap,
    /// TLS from the first byte.
    Ldaps,
}

/// Who searches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Nobody.
    Anonymous,
    /// A simple bind.
    Password {
        /// A distinguished name or, with Active Directory, a UPN.
        dn: String,
        /// Its password.
        password: Secret,
    },
    /// Kerberos (SASL GSSAPI) with the first key of a keytab, which the Kerberos library takes from the environment.
    Keytab(PathBuf),
}

impl Settings {
    /// What TLS the servers need; `None`: none.
    ///
    /// # Errors
    /// [`DirectoryError::Unusable`]: settings that cannot work, each with its cure.
    pub(super) fn prepared(&self) -> Result<Option<Arc<ClientConfig>>, DirectoryError> {
        let unusable = |place: &str, problem: &str| {
            Err(DirectoryError::Unusable { place: place.to_owned(), problem: problem.to_owned() })
        };
        let encrypted_from_the_start = match &self.servers {
            Where::Listed { domain_controllers, global_catalogs } => {
                if domain_controllers.is_empty() {
                    return unusable(
                        "urls",
                        "no LDAP server is given; write at least one, such as ldaps://dc1.contoso.com",
                    );
                }
                for url in domain_controllers.iter().chain(global_catalogs) {
                    if !matches!(url.scheme(), "ldap" | "ldaps") || url.host_str().is_none_or(str::is_empty) {
                        return unusable(
                            url.as_str(),
                            "not the URL of an LDAP server; write ldap://host or ldaps://host",
                        );
                    }
                }
                domain_controllers.iter().chain(global_catalogs).any(|url| url.scheme() == "ldaps")
            }
            Where::Found { scheme, .. } => *scheme == Scheme::Ldaps,
        };
        if let Account::Password { password, .. } = &self.account {
            if password.expose().is_empty() {
                return unusable("bind_password", "an account without password is bound as nobody; give its password");
            }
            if std::str::from_utf8(password.expose()).is_err() {
                return unusable("bind_password", "it is not UTF-8");
            }
        }
        let encrypted = self.start_tls || encrypted_from_the_start;
        if encrypted { tls(self.ca_file.as_deref()).map(Some) } else { Ok(None) }
    }
}

fn tls(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, DirectoryError> {
    let mut roots = RootCertStore::empty();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| DirectoryError::Unusable { place: "TLS".to_owned(), problem: error.to_string() })?;
    let path = ca_file.unwrap_or(Path::new(SYSTEM_CA_FILE));
    let unusable = |problem| DirectoryError::Unusable { place: path.display().to_string(), problem };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(|error| unusable(format!("the authorities of the LDAP servers cannot be read: {error}")))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| unusable(format!("it is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| unusable(format!("it has an unreadable certificate: {error}")))?;
    }
    if roots.is_empty() {
        return Err(unusable("it has no certificate; it must be a PEM file of the servers' authorities".to_owned()));
    }
    Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// Debian's, Ubuntu's and Alpine's bundle of public authorities.
const SYSTEM_CA_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

#[cfg(test)]
#[allow(clippy::expect_used)] // a failing `expect` is a failing test
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            servers: at(&["ldap://dc1.contoso.com"]),
            account: account("Edge-pass1"),
            ca_file: None,
            start_tls: false,
            users_base: None,
            configuration_base: None,
            connect_timeout: Duration::from_secs(1),
            search_timeout: Duration::from_secs(1),
            connections: 1,
            searches_max: 32,
        }
    }

    fn at(urls: &[&str]) -> Where {
        let domain_controllers = urls.iter().map(|url| Url::parse(url).expect("a URL")).collect();
        Where::Listed { domain_controllers, global_catalogs: vec![] }
    }

    fn account(password: &str) -> Account {
        Account::Password { dn: "CN=edge".into(), password: Secret::new(password.as_bytes()) }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_with_a_cure() {
        assert!(settings().prepared().is_ok());
        for (broken, cure) in [
            (Settings { servers: at(&[]), ..settings() }, "write at least one"),
            (Settings { servers: at(&["https://dc1.contoso.com"]), ..settings() }, "write ldap://host or ldaps://host"),
            (Settings { servers: at(&["ldap:///DC=contoso"]), ..settings() }, "write ldap://host or ldaps://host"),
            (Settings { account: account(""), ..settings() }, "give its password"),
            (Settings { start_tls: true, ca_file: Some("/no/such.pem".into()), ..settings() }, "/no/such.pem"),
        ] {
            let error = broken.prepared().expect_err("refused").to_string();
            assert!(error.contains(cure), "{error}");
        }
    }

    #[test]
    fn debug_of_the_settings_shows_no_password() {
        assert!(!format!("{:?}", settings()).contains("Edge-pass1"), "{:?}", settings());
    }
}
