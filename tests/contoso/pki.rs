//! The certificates of the demo: a CA, one certificate for the stand-in servers and one for the edge's own listener.
//!
//! Made on first start and kept; made anew, all of them, when any is missing, unreadable, does not fit the others or
//! ends within [`RENEWAL`]. The CA's key signs twice and is then forgotten: there is nothing to steal.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

/// The demo's certificates, on disk in one directory and ready for use.
pub struct Pki {
    dir: PathBuf,
    ca: CertificateDer<'static>,
    servers: Arc<ServerConfig>,
}

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The directory cannot be written.
    #[error("{} cannot be written; give a directory of your own to --pki", .path.display())]
    Write {
        /// File or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made")]
    Make(#[from] rcgen::Error),
    /// What was just made cannot be read back, which only somebody else's hand in the directory explains.
    #[error("the certificates in {} cannot be used; is another program writing there? ({reason})", .dir.display())]
    Unusable {
        /// Directory of the certificates.
        dir: PathBuf,
        /// What is wrong with them.
        reason: String,
    },
}

impl Pki {
    /// Takes the certificates of `dir`, making the directory and them if need be.
    pub fn load_or_make(dir: &Path) -> Result<Pki, PkiError> {
        Pki::load_or_make_at(dir, SystemTime::now())
    }

    /// The same at another time than now.
    pub fn load_or_make_at(dir: &Path, now: SystemTime) -> Result<Pki, PkiError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Ok(pki) = load(dir, now) {
            return Ok(pki);
        }
        make(dir, now)?;
        load(dir, now).map_err(|reason| PkiError::Unusable { dir: dir.into(), reason })
    }

    /// The CA, for a client that verifies the servers.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// PEM file of the CA: what the edge verifies its upstreams with, and curl the edge.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join(CA)
    }

    /// PEM files of the edge's certificate and of its private key.
    pub fn edge_files(&self) -> (PathBuf, PathBuf) {
        (self.dir.join(EDGE.certificate), self.dir.join(EDGE.key))
    }

    /// TLS 1.2 and 1.3 as the stand-in servers speak it.
    pub fn servers(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.servers)
    }
}

/// A certificate and its key, by file and by names.
struct Leaf {
    certificate: &'static str,
    key: &'static str,
    common_name: &'static str,
    names: &'static [&'static str],
}

fn load(dir: &Path, now: Duration) -> Result<Pki, String> {
    let ca = CertificateDer::from_pem_file(dir.join(CA)).map_err(|error| format!("{CA}: {error}"))?;
    let servers = load_leaf(dir, &SERVERS, &ca, now)?;
    load_leaf(dir, &EDGE, &ca, now)?;
    Ok(Pki { dir: dir.into(), ca, servers: Arc::new(servers) })
}

/// Reads a certificate and its key, and judges them as a client would at the end of [`RENEWAL`].
fn load_leaf(dir: &Path, leaf: &Leaf, ca: &CertificateDer<'static>, now: Duration) -> Result<ServerConfig, String> {
    let in_file = |error: &dyn std::fmt::Display| format!("{}: {error}", leaf.certificate);
    let chain: Vec<_> = CertificateDer::pem_file_iter(dir.join(leaf.certificate))
        .map_err(|error| in_file(&error))?
        .collect::<Result<_, _>>()
        .map_err(|error| in_file(&error))?;
    let key = PrivateKeyDer::from_pem_file(dir.join(leaf.key)).map_err(|error| format!("{}: {error}", leaf.key))?;

    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(|error| format!("{CA}: {error}"))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|error| format!("{CA}: {error}"))?;
    let certificate = chain.first().ok_or_else(|| in_file(&"no certificate in it"))?;
    let at_renewal = UnixTime::since_unix_epoch(now + RENEWAL);
    for name in leaf.names {
        let name = ServerName::try_from(name.replace('*', "any")).map_err(|error| in_file(&error))?;
        verifier.verify_server_cert(certificate, &[], &name, &[], at_renewal).map_err(|error| in_file(&error))?;
    }

    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| in_file(&error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| in_file(&error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()]; // IIS 6 and 7 know no HTTP/2
    Ok(config)
}

fn make(dir: &Path, now: Duration) -> Result<(), PkiError> {
    fs::create_dir_all(dir).map_err(|source| PkiError::Write { path: dir.into(), source })?;
    let mut params = params("Contoso Demo CA", &[], now)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    for leaf in [&SERVERS, &EDGE] {
        let key = KeyPair::generate()?;
        let mut params = self::params(leaf.common_name, leaf.names, now)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &ca)?;
        write(dir, leaf.key, &key.serialize_pem(), 0o600)?;
        write(dir, leaf.certificate, &certificate.pem(), 0o644)?;
    }
    write(dir, CA, &ca.pem(), 0o644)
}

fn params(common_name: &str, names: &[&str], now: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = date_time_ymd(1970, 1, 1) + now;
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + LIFETIME;
    Ok(params)
}

/// Writes beside the file and renames, so that nobody reads half a key and an old file's mode does not survive.
fn write(dir: &Path, name: &str, pem: &str, mode: u32) -> Result<(), PkiError> {
    let path = dir.join(name);
    let new = dir.join(format!("{name}.{}.new", std::process::id()));
    let written = fs::remove_file(&new)
        .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
        .and_then(|()| OpenOptions::new().write(true).create_new(true).mode(mode).open(&new))
        .and_then(|mut file| file.write_all(pem.as_bytes()))
        .and_then(|()| fs::rename(&new, &path));
    written.map_err(|source| PkiError::Write { path, source })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

const CA: &str = "ca.pem";

const SERVERS: Leaf = Leaf {
    certificate: "servers.pem",
    key: "servers.key",
    common_name: "Contoso Client Access Servers",
    names: &[
        "cas-lis-1.contoso.com",
        "cas-lis-2.contoso.com",
        "cas-opo-1.contoso.com",
        "cas-opo-2.contoso.com",
        "cas-mad-1.contoso.com",
        "cas-bra-1.contoso.com",
        "*.contoso.com", // the servers that a test invents
    ],
};

const EDGE: Leaf = Leaf {
    certificate: "edge.pem",
    key: "edge.key",
    common_name: "mail.contoso.com",
    names: &["mail.contoso.com", "localhost", "127.0.0.1", "::1"],
};

/// A demo that is started once a week never meets an expired certificate.
const RENEWAL: Duration = Duration::from_secs(7 * DAY);
const LIFETIME: Duration = Duration::from_secs(365 * DAY);
/// A client whose clock is behind still accepts them.
const CLOCK_SKEW: Duration = Duration::from_secs(DAY);
const DAY: u64 = 24 * 60 * 60;
