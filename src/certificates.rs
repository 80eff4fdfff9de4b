//! The certificates that a TLS listener shows, and whose client certificates it believes. Both can be replaced while it
//! serves: a new handshake takes what is in force then, a running connection keeps what it began with.
//!
//! Each certificate has a TLS context of its own, made when it is loaded; a handshake only picks one ([`choice`]). What a
//! listener's threads share is this; session tickets are each thread's own, because BoringSSL keeps them in the context
//! that a connection begins with, and offers no safe way to share that.

pub mod choice;
pub mod client;
pub mod expiry;

use std::{
    any::Any,
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::{
    listeners::{TlsAccept, tls::TlsSettings},
    protocols::tls::TlsRef,
    tls::{
        error::ErrorStack,
        hash::MessageDigest,
        pkey::{Id, PKey, Public},
        ssl::{
            AlpnError, NameType, SelectCertError, Ssl, SslAcceptor, SslAcceptorBuilder, SslContext, SslMethod,
            SslOptions, SslRef, SslSessionCacheMode, SslVerifyMode, select_next_proto,
        },
        x509::{X509, X509VerifyError, store::X509StoreBuilder, verify::X509VerifyFlags},
    },
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::{
    config::{CertificateFiles, ClientCertificates, ListenerTls, files},
    identity::MailboxName,
};
use choice::{KeyKind, Offer};
use client::{ClientCertificate, NoUser};

/// What one listener shows, for all its threads.
pub struct ListenerCertificates(ArcSwap<Loaded>);

/// Certificates read, checked and ready to be shown; nothing has come of it yet.
pub struct Loaded {
    served: Vec<Served>,
    clients: Option<Arc<Clients>>,
}

/// One certificate with all that a handshake needs.
struct Served {
    certificate: Certificate,
    context: SslContext,
}

/// By what client certificates are believed.
struct Clients {
    authorities: Vec<(X509, Certificate)>,
    required: bool,
}

/// The certificate that a client has shown, for as long as its connection lasts.
pub struct Shown {
    certificate: ClientCertificate,
    believed_by: Arc<Clients>,
    listener: Arc<ListenerCertificates>,
}

/// A certificate as an administrator wants it described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The names and addresses it is for, in lower case, as the certificate lists them; of an authority, its subject.
    pub names: Vec<String>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// The kind of its key.
    pub key: KeyKind,
    /// Its serial number, in hexadecimal digits with colons.
    pub serial: String,
    /// SHA-256 of it, in hexadecimal digits.
    pub fingerprint: String,
    /// The file it came from.
    pub file: PathBuf,
    /// What the listener uses it for.
    pub role: Role,
}

/// What a listener uses a certificate for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It shows it to clients.
    Server,
    /// It believes client certificates of this authority.
    ClientAuthority,
}

/// Why certificates cannot be used. Its text never holds anything of a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}; {cure}")]
pub struct CertificateError {
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub cure: String,
}

impl ListenerCertificates {
    /// Reads and checks all files of a listener. Changes nothing: what is in force stays so until [`Self::replace`]. An
    /// expired certificate is no error, or nothing else could be renewed beside it; [`expiry`] tells of it.
    pub fn load(tls: &ListenerTls) -> Result<Loaded, CertificateError> {
        let clients = tls.clients.as_ref().map(Clients::load).transpose()?.map(Arc::new);
        let served = tls.certificates.iter().map(|files| Served::load(files, tls.http2, clients.as_deref()));
        Ok(Loaded { served: served.collect::<Result<_, _>>()?, clients })
    }

    /// Puts certificates in force.
    pub fn new(loaded: Loaded) -> Arc<Self> {
        Arc::new(ListenerCertificates(ArcSwap::from_pointee(loaded)))
    }

    /// Puts others in force in their place, for all handshakes from now on.
    pub fn replace(&self, loaded: Loaded) {
        self.0.store(Arc::new(loaded));
    }

    /// Those in force: what the listener shows, the default first, then the authorities of its clients.
    pub fn in_force(&self) -> Vec<Certificate> {
        self.0.load().certificates().cloned().collect()
    }

    /// The first name of what the listener shows by default, if that has any.
    pub fn name(&self) -> Option<String> {
        self.0.load().certificates().next()?.names.first().cloned()
    }

    /// TLS 1.2 and 1.3 with Mozilla's intermediate cipher list, for one thread of the listener.
    pub fn settings(self: &Arc<Self>) -> Result<TlsSettings, CertificateError> {
        let believed_by = Ssl::new_ex_index::<Arc<Clients>>().map_err(|error| unusable(&error))?;
        let shown =
            Connections { listener: self.clone(), believed_by: move |ssl: &TlsRef| ssl.ex_data(believed_by).cloned() };
        let mut settings = TlsSettings::with_callbacks(Box::new(shown)).map_err(|error| unusable(&error))?;
        self.show_in(&mut settings, move |ssl, clients| ssl.set_ex_data(believed_by, clients));
        Ok(settings)
    }

    /// The same for connections that Pingora does not begin TLS on, where client certificates prove nothing.
    pub fn acceptor(self: &Arc<Self>) -> Result<SslAcceptor, CertificateError> {
        let builder = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls());
        let mut builder = builder.map_err(|error| unusable(&error))?;
        self.show_in(&mut builder, |_, _| {});
        Ok(builder.build())
    }

    fn show_in(
        self: &Arc<Self>,
        builder: &mut SslAcceptorBuilder,
        remember: impl Fn(&mut SslRef, Arc<Clients>) + Send + Sync + 'static,
    ) {
        let certificates = self.clone();
        builder.set_select_certificate_callback(move |mut hello| {
            let in_force = certificates.0.load();
            let name = hello.servername(NameType::HOST_NAME).map(str::to_owned);
            let offer = Offer::of(&hello);
            let choice = choice::choose(&in_force.served.iter().map(Served::traits), name.as_deref(), &offer);
            let chosen = choice.and_then(|index| in_force.served.get(index)).ok_or(SelectCertError::ERROR)?;
            let ssl = hello.ssl_mut();
            ssl.set_ssl_context(&chosen.context).map_err(|_| SelectCertError::ERROR)?;
            if let Some(clients) = &in_force.clients {
                ssl.set_verify(match clients.required {
                    true => SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT,
                    false => SslVerifyMode::PEER,
                });
                ssl.set_options(SslOptions::NO_TICKET); // see `verify_in`
                remember(ssl, clients.clone());
            }
            Ok(())
        });
    }
}

fn unusable(error: &dyn fmt::Display) -> CertificateError {
    CertificateError { problem: format!("TLS cannot be set up: {error}"), cure: "report it".into() }
}

impl Shown {
    /// Whom it proves now. Not any more once it has ended, or one of the authorities is gone that it was believed by: which
    /// one that was is not looked at, and those who are still believed have only to connect again.
    pub fn proves(&self, now: SystemTime) -> Result<&MailboxName, NoUser> {
        let in_force = self.listener.0.load();
        let is_in_force = |authority: &Certificate| in_force.certificates().any(|it| it.is_the_authority(authority));
        if !self.believed_by.authorities.iter().all(|(_, authority)| is_in_force(authority)) {
            return Err(NoUser::AuthorityGone);
        }
        self.certificate.proves(now)
    }
}

impl Loaded {
    /// As [`ListenerCertificates::in_force`].
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        let authorities = self.clients.iter().flat_map(|clients| &clients.authorities).map(|(_, authority)| authority);
        self.served.iter().map(|served| &served.certificate).chain(authorities)
    }
}

impl Served {
    fn load(
        CertificateFiles { certificate, key }: &CertificateFiles,
        http2: bool,
        clients: Option<&Clients>,
    ) -> Result<Self, CertificateError> {
        let chain = files::certificates_in(certificate)?;
        let private = files::private_key_in(key)?;
        files::belong_together(&chain, &private)?;
        let [own, issuers @ ..] = &*chain else {
            return Err(CertificateError::unusable(certificate, "it has no certificate"));
        };
        let described = Certificate::describe(own, certificate, Role::Server)?;
        let context = || {
            let mut context = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls())?;
            context.set_certificate(own)?;
            for issuer in issuers {
                context.add_extra_chain_cert(issuer.clone())?;
            }
            context.set_private_key(&private)?;
            if http2 {
                context.set_alpn_select_callback(|_, offered| {
                    select_next_proto(b"\x02h2\x08http/1.1", offered).ok_or(AlpnError::NOACK)
                });
            }
            if let Some(clients) = clients {
                clients.verify_in(&mut context)?;
            }
            Ok(context.build().into_context())
        };
        let context = context().map_err(|error: ErrorStack| CertificateError::unusable(certificate, error))?;
        Ok(Served { certificate: described, context })
    }

    fn traits(&self) -> (&[String], KeyKind) {
        (&self.certificate.names, self.certificate.key)
    }
}

impl Clients {
    fn load(ClientCertificates { ca, required }: &ClientCertificates) -> Result<Self, CertificateError> {
        let authorities = files::certificates_in(ca)?.into_iter().map(|authority| {
            let described = Certificate::describe(&authority, ca, Role::ClientAuthority)?;
            Ok((authority, described))
        });
        Ok(Clients { authorities: authorities.collect::<Result<_, CertificateError>>()?, required: *required })
    }

    /// Nothing of such a connection is resumed: a session that is would outlive the authority that it was believed by, and
    /// the certificate that it began with.
    fn verify_in(&self, context: &mut SslAcceptorBuilder) -> Result<(), ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        store.set_flags(X509VerifyFlags::PARTIAL_CHAIN); // an issuing authority may be named without its root
        for (authority, _) in &self.authorities {
            store.add_cert(authority)?;
            context.add_client_ca(authority)?;
        }
        context.set_cert_store_builder(store);
        context.set_cert_verify_callback(|chain| {
            let is_believed = chain.verify_cert().unwrap_or(false);
            let is_for_clients =
                chain.cert().and_then(|own| own.to_der().ok()).is_some_and(|der| client::is_for_clients(&der));
            if is_believed && !is_for_clients {
                chain.set_error(Err(X509VerifyError::INVALID_PURPOSE));
            }
            is_believed && is_for_clients
        });
        context.set_session_cache_mode(SslSessionCacheMode::OFF);
        context.set_session_id_context(b"client certificates") // sessions from before are not taken up either
    }
}

impl Certificate {
    fn describe(certificate: &X509, file: &Path, role: Role) -> Result<Self, CertificateError> {
        let unusable = |error: &dyn fmt::Display| CertificateError::unusable(file, error);
        let der = certificate.to_der().map_err(|error| unusable(&error))?;
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|error| unusable(&error))?;
        let key = certificate.public_key().map_err(|error| unusable(&error))?;
        let digest = certificate.digest(MessageDigest::sha256()).map_err(|error| unusable(&error))?;
        let names = match role {
            Role::Server => names(&parsed),
            Role::ClientAuthority => vec![parsed.subject().to_string()],
        };
        Ok(Certificate {
            names,
            not_before: time(parsed.validity().not_before.timestamp()),
            not_after: time(parsed.validity().not_after.timestamp()),
            key: kind(&key),
            serial: parsed.raw_serial_as_string(),
            fingerprint: fingerprint(&digest),
            file: file.to_owned(),
            role,
        })
    }

    fn is_the_authority(&self, other: &Certificate) -> bool {
        (self.role, &self.fingerprint) == (Role::ClientAuthority, &other.fingerprint)
    }

    /// Its names in one text.
    pub fn title(&self) -> String {
        if self.names.is_empty() { "nobody".into() } else { self.names.join(", ") }
    }
}

/// `mail.contoso.com, localhost: ECDSA P-256, valid until 2027-11-23`
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Server => "",
            Role::ClientAuthority => "clients of ",
        };
        let now = SystemTime::now();
        let until = expiry::date(self.not_after);
        let when = match () {
            () if self.not_after < now => format!("ended on {until}"),
            () if now < self.not_before => format!("valid only from {} to {until}", expiry::date(self.not_before)),
            () => format!("valid until {until}"),
        };
        write!(f, "{role}{}: {}, {when}", self.title(), self.key)
    }
}

impl CertificateError {
    fn unusable(file: &Path, why: impl fmt::Display) -> Self {
        let problem = format!("the certificate in {} cannot be used: {why}", file.display());
        CertificateError { problem, cure: "have it issued again".into() }
    }
}

/// The alternative names; where there are none, the common name, as clients once did.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let named = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    };
    match alternative {
        Some(alternative) => alternative.value.general_names.iter().filter_map(named).collect(),
        None => {
            certificate.subject().iter_common_name().filter_map(|it| it.as_str().ok()).map(str::to_lowercase).collect()
        }
    }
}

fn kind(key: &PKey<Public>) -> KeyKind {
    match (key.id(), key.bits()) {
        (Id::RSA, bits) => KeyKind::Rsa { bits },
        (Id::EC, bits) => KeyKind::Ecdsa { bits },
        (Id::ED25519, _) => KeyKind::Ed25519,
        (_, _) => KeyKind::Other,
    }
}

fn fingerprint(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)) // before 1970: ended in any case
}

/// Keeps with each connection what its client has shown.
struct Connections<F> {
    listener: Arc<ListenerCertificates>,
    /// By whom it was believed in this handshake.
    believed_by: F,
}

#[async_trait]
impl<F: Fn(&TlsRef) -> Option<Arc<Clients>> + Send + Sync> TlsAccept for Connections<F> {
    async fn handshake_complete_callback(&self, ssl: &TlsRef) -> Option<Arc<dyn Any + Send + Sync>> {
        if ssl.session_reused() {
            return None; // no certificate was shown now
        }
        let der = ssl.peer_certificate()?.to_der().ok()?;
        let certificate = ClientCertificate::read(&der);
        Some(Arc::new(Shown { certificate, believed_by: (self.believed_by)(ssl)?, listener: self.listener.clone() }))
    }
}

impl From<files::Wrong> for CertificateError {
    fn from(wrong: files::Wrong) -> Self {
        CertificateError { problem: wrong.problem, cure: wrong.cure }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // a test may fail by panicking
mod tests {
    use std::fs;

    use rcgen::{CertificateParams, KeyPair};
    use tempfile::TempDir;

    use super::*;

    /// A folder with certificates for these names, as `NAME.pem` and `NAME.key`.
    fn folder(names: &[&str]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let key = KeyPair::generate().unwrap();
            let alternatives = vec![(*name).to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(alternatives).unwrap();
            params.not_after = rcgen::date_time_ymd(2024, 6, 15);
            fs::write(folder.path().join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
            fs::write(folder.path().join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        folder
    }

    fn tls(folder: &TempDir, pairs: &[(&str, &str)], ca: Option<&str>) -> ListenerTls {
        let file = |name: &str| folder.path().join(name);
        let files =
            |(certificate, key): &(&str, &str)| CertificateFiles { certificate: file(certificate), key: file(key) };
        ListenerTls {
            certificates: pairs.iter().map(files).collect(),
            http2: false,
            clients: ca.map(|ca| ClientCertificates { ca: file(ca), required: true }),
        }
    }

    #[test]
    fn what_is_loaded_is_described_even_where_it_has_ended() {
        let folder = folder(&["mail.contoso.com", "*.contoso.com"]);
        let pairs = [("mail.contoso.com.pem", "mail.contoso.com.key"), ("*.contoso.com.pem", "*.contoso.com.key")];
        let loaded = ListenerCertificates::load(&tls(&folder, &pairs, Some("mail.contoso.com.pem"))).unwrap();
        let described: Vec<_> = loaded.certificates().map(ToString::to_string).collect();
        assert_eq!(
            described,
            [
                "mail.contoso.com, 127.0.0.1: ECDSA P-256, ended on 2024-06-15",
                "*.contoso.com, 127.0.0.1: ECDSA P-256, ended on 2024-06-15",
                "clients of CN=rcgen self signed cert: ECDSA P-256, ended on 2024-06-15",
            ]
        );
        let mail = loaded.certificates().next().unwrap();
        assert_eq!(mail.fingerprint.len(), 64);
        assert_eq!(mail.file, folder.path().join("mail.contoso.com.pem"));
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_reason_and_leaves_what_is_in_force() {
        let folder = folder(&["a", "b"]);
        fs::write(folder.path().join("empty.pem"), "").unwrap();
        let certificates =
            ListenerCertificates::new(ListenerCertificates::load(&tls(&folder, &[("a.pem", "a.key")], None)).unwrap());
        let place = folder.path().display();
        for (pairs, ca, problem) in [
            (&[("a.pem", "b.key")][..], None, "the private key does not belong to the certificate".to_owned()),
            (&[("a.pem", "a.key"), ("b.pem", "gone.key")], None, format!("there is no file {place}/gone.key")),
            (&[("empty.pem", "a.key")], None, format!("{place}/empty.pem has no certificate")),
            (&[("a.pem", "a.key")], Some("empty.pem"), format!("{place}/empty.pem has no certificate")),
        ] {
            let error = ListenerCertificates::load(&tls(&folder, pairs, ca)).err().unwrap();
            assert_eq!(error.problem, problem);
        }
        let names = |certificates: &ListenerCertificates| certificates.in_force()[0].names.clone();
        assert_eq!(names(&certificates), ["a", "127.0.0.1"]);
        certificates.replace(ListenerCertificates::load(&tls(&folder, &[("b.pem", "b.key")], None)).unwrap());
        assert_eq!(names(&certificates), ["b", "127.0.0.1"]);
    }
}
