//! The listener's certificates and its clients': real handshakes of openssl, curl and rustls.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::{Duration, SystemTime},
};

use firstcas::{
    certificates::ListenerCertificates,
    config::{CertificateFiles, ClientCertificates, ListenerTls},
};
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, OtherNameValue, SanType,
    date_time_ymd,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tempfile::TempDir;
use tokio::{net::TcpStream, process::Command};
use tokio_rustls::TlsConnector;

use crate::{
    harness::{House, credential, within},
    openldap::{self, Authority},
    record,
    windows_client::Handshake,
    wire::{Wire, field},
};

/// A folder of certificates, an authority that signs them, and the lines of configuration that name them.
struct Safe {
    folder: TempDir,
    authority: Authority,
}

/// What a client certificate is made of.
struct Person<'p> {
    name: &'p str,
    upn: Option<&'p str>,
    uses: Vec<ExtendedKeyUsagePurpose>,
    ended: bool,
}

impl<'p> Person<'p> {
    /// As Active Directory's authority would issue it.
    fn called(upn: &'p str) -> Self {
        Person { name: upn, upn: Some(upn), uses: vec![ExtendedKeyUsagePurpose::ClientAuth], ended: false }
    }
}

impl Safe {
    fn new() -> Safe {
        let safe = Safe { folder: tempfile::tempdir().expect("a temporary folder"), authority: openldap::authority() };
        safe.write("ca.pem", &safe.authority.pem());
        safe
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, contents: &str) {
        fs::write(self.path(name), contents).expect("written");
    }

    /// A server certificate `FILE.pem` and `FILE.key`, whose common name is `title`.
    fn server(&self, file: &str, title: &str, names: &[&str], key: &KeyPair) {
        let mut params =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).expect("names");
        params.distinguished_name.push(DnType::CommonName, title);
        params.not_after = (SystemTime::now() + Duration::from_secs(90 * 24 * 60 * 60)).into();
        self.write(&format!("{file}.pem"), &params.signed_by(key, &self.authority).expect("a certificate").pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    /// A client certificate `FILE.pem` and `FILE.key`.
    fn person(&self, file: &str, Person { name, upn, uses, ended }: Person<'_>) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true; // the authorities all have one name
        params.extended_key_usages = uses;
        params.subject_alt_names = vec![SanType::Rfc822Name("carla@contoso.com".try_into().expect("ASCII"))];
        if let Some(upn) = upn {
            let upn = OtherNameValue::Utf8String(upn.to_owned());
            params.subject_alt_names.push(SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], upn)));
        }
        if ended {
            params.not_after = date_time_ymd(2024, 6, 15);
        }
        self.write(&format!("{file}.pem"), &params.signed_by(&key, &self.authority).expect("a certificate").pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn files(&self, name: &str) -> CertificateFiles {
        CertificateFiles { certificate: self.path(&format!("{name}.pem")), key: self.path(&format!("{name}.key")) }
    }

    /// What [`Self::listener`] writes, as the edge reads it.
    fn tls(&self, files: &[&str], clients: Option<ClientCertificates>) -> ListenerTls {
        ListenerTls { certificates: files.iter().map(|name| self.files(name)).collect(), http2: false, clients }
    }

    /// One more listener, with the first of these in `[listener.tls]` and the others after it.
    fn listener(&self, files: &[&str], options: &str) -> String {
        let pair = |name: &&str| {
            let CertificateFiles { certificate, key } = self.files(name);
            format!("certificate = \"{}\"\nkey = \"{}\"\n", certificate.display(), key.display())
        };
        let (first, others) = files.split_first().expect("one at least");
        let others = others.iter().map(|name| format!("[[listener.tls.certificates]]\n{}", pair(name)));
        let options = options.replace("@SAFE@", &self.folder.path().display().to_string());
        format!(
            "process.threads = 1\n[[listener]]\naddress = \"127.0.0.1:0\"\n[listener.tls]\n{}{options}\n{}",
            pair(first),
            others.collect::<String>()
        )
    }
}

/// An edge whose last listener has these certificates.
async fn house(safe: &Safe, files: &[&str], options: &str) -> (House, SocketAddr) {
    let house = House::with(&safe.listener(files, options)).await;
    let address = house.edge.as_ref().expect("it runs").addresses()[2];
    (house, address)
}

fn certificates(house: &House) -> &ListenerCertificates {
    house.edge.as_ref().expect("it runs").certificates()[2].as_ref().expect("TLS")
}

/// Standard output and error of a command that gets nothing to read, and whether it was content.
async fn run(command: &mut Command) -> (String, bool) {
    let command = command.stdin(Stdio::null()).kill_on_drop(true);
    let said = within("a command", command.output()).await.expect("it is installed (Debian: openssl, curl)");
    let text = [said.stdout, said.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), said.status.success())
}

/// What `openssl s_client` says of one handshake.
async fn s_client(address: SocketAddr, arguments: &str) -> String {
    let mut command = Command::new("openssl");
    run(command.arg("s_client").arg("-connect").arg(address.to_string()).args(arguments.split(' '))).await.0
}

/// Common name and kind of the certificate shown.
async fn shown(address: SocketAddr, arguments: &str) -> (String, &'static str) {
    let said = s_client(address, arguments).await;
    let subject = said.lines().find_map(|line| line.strip_prefix("subject=CN = "));
    let kind = if said.contains("Public-Key: (2048 bit)") || said.contains("Server public key is 2048 bit") {
        "RSA"
    } else {
        "ECDSA"
    };
    (subject.unwrap_or_else(|| panic!("{said}")).to_owned(), kind)
}

/// One GET by curl with somebody's certificate, if a file is named; `Err`: no answer came.
async fn curl(safe: &Safe, address: SocketAddr, person: Option<&str>, further: &[&str]) -> Result<String, String> {
    let mut command = Command::new("curl");
    command.args(["-si", "--max-time", "15", "--cacert"]).arg(safe.path("ca.pem"));
    command.args(["--resolve", &format!("mail.contoso.com:{}:127.0.0.1", address.port())]);
    if let Some(person) = person {
        command.arg("--cert").arg(safe.path(&format!("{person}.pem")));
        command.arg("--key").arg(safe.path(&format!("{person}.key")));
    }
    let path = further.first().filter(|path| path.starts_with('/'));
    let options = &further[usize::from(path.is_some())..];
    let url = format!("https://mail.contoso.com:{}{}", address.port(), path.unwrap_or(&"/owa/"));
    let (said, content) = run(command.args(options).arg(url)).await;
    if content { Ok(said) } else { Err(said) }
}

fn is_link_page(answer: &str) -> bool {
    answer.contains("200") && answer.contains("https://mail.madrid.contoso.com/")
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

/// ring makes none.
async fn rsa_key() -> KeyPair {
    let (pem, made) = run(Command::new("openssl").args(["genpkey", "-quiet", "-algorithm", "RSA"])).await;
    assert!(made, "{pem}");
    KeyPair::from_pem(&pem).expect("a key")
}

/// A TLS connection to be kept, begun with somebody's certificate, if a file is named.
async fn connect(safe: &Safe, address: SocketAddr, person: Option<&str>) -> Wire {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(safe.path("ca.pem")).expect("the CA")).expect("a CA");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match person.map(|person| safe.files(person)) {
        Some(CertificateFiles { certificate, key }) => {
            let chain = vec![CertificateDer::from_pem_file(certificate).expect("a certificate")];
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).expect("a key")).expect("a client")
        }
        None => config.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.expect("the edge accepts");
    let name = ServerName::try_from("mail.contoso.com").expect("a name");
    Wire::over(within("TLS", TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("a handshake"))
}

async fn get(wire: &mut Wire) -> String {
    let ana = credential("ana");
    wire.send(format!("GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\nAuthorization: {ana}\r\n\r\n")).await;
    let head = wire.head().await;
    wire.body(&head).await;
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_shown_the_certificate_for_the_name_it_asks_for() {
    let safe = Safe::new();
    safe.server("first", "first", &["mail.contoso.com"], &key());
    safe.server("wild", "wild", &["*.contoso.com"], &key());
    safe.server("exact", "exact", &["owa.contoso.com", "127.0.0.1"], &key());
    let (_house, address) = house(&safe, &["first", "wild", "exact"], "").await;
    for (name, title) in [
        ("-servername mail.contoso.com", "first"),
        ("-servername owa.contoso.com", "exact"),
        ("-servername OWA.contoso.com", "exact"),
        ("-servername eas.contoso.com", "wild"),
        ("-servername a.b.contoso.com", "first"),
        ("-servername contoso.com", "first"),
        ("-servername northwind.com -tls1_2", "first"),
        ("-noservername", "first"),
        ("-servername eas.contoso.com -tls1_2", "wild"),
    ] {
        assert_eq!(shown(address, name).await.0, title, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ecdsa_is_shown_to_who_can_check_it_and_rsa_to_everybody_else() {
    let safe = Safe::new();
    safe.server("rsa", "rsa", &["mail.contoso.com"], &rsa_key().await);
    safe.server("ecdsa", "ecdsa", &["mail.contoso.com"], &key());
    for files in [["rsa", "ecdsa"], ["ecdsa", "rsa"]] {
        let (_house, address) = house(&safe, &files, "").await;
        for (client, kind) in [
            ("-servername mail.contoso.com", "ECDSA"),
            ("-noservername", "ECDSA"),
            ("-tls1_2 -servername mail.contoso.com", "ECDSA"),
            ("-servername mail.contoso.com -sigalgs rsa_pss_rsae_sha256:RSA+SHA256", "RSA"),
            ("-noservername -sigalgs rsa_pss_rsae_sha256:RSA+SHA256", "RSA"),
            ("-tls1_2 -servername mail.contoso.com -cipher ECDHE-RSA-AES128-GCM-SHA256", "RSA"),
            ("-tls1_2 -servername mail.contoso.com -cipher ECDHE-ECDSA-AES128-GCM-SHA256", "ECDSA"),
        ] {
            assert_eq!(shown(address, client).await, (kind.to_lowercase(), kind), "{client}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_clients_and_the_old_connections_live_on() {
    let safe = Safe::new();
    safe.server("mail", "old", &["mail.contoso.com"], &key());
    let (house, address) = house(&safe, &["mail"], "").await;
    let mut held = connect(&safe, address, None).await;
    assert!(get(&mut held).await.starts_with("HTTP/1.1 200 "));

    safe.server("mail", "new", &["mail.contoso.com"], &key());
    assert_eq!(shown(address, "-noservername").await.0, "old", "nobody has asked for the new one yet");
    let tls = safe.tls(&["mail"], None);
    let loaded = ListenerCertificates::load(&tls).expect("good files");
    assert_eq!(shown(address, "-noservername").await.0, "old", "loading changes nothing");
    drop(loaded);
    house.reload().await.expect("good files");
    assert_eq!(shown(address, "-noservername").await.0, "new");
    assert!(get(&mut held).await.starts_with("HTTP/1.1 200 "), "the old connection goes on");

    safe.write("mail.key", &key().serialize_pem());
    let error = ListenerCertificates::load(&tls).err().expect("it does not belong to it");
    assert_eq!(error.problem, "the private key does not belong to the certificate");
    house.reload().await.expect_err("nor does a reload believe it");
    assert_eq!(shown(address, "-noservername").await.0, "new", "the last good one stays in force");
    assert!(get(&mut held).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_client_notices_that_certificates_are_replaced_over_and_over() {
    let safe = Safe::new();
    safe.server("mail", "mail", &["mail.contoso.com"], &key());
    safe.server("next", "next", &["mail.contoso.com"], &rsa_key().await);
    let (house, address) = house(&safe, &["mail", "next"], "").await;
    let mut held = connect(&safe, address, None).await;
    let client = async || {
        for _ in 0..25 {
            assert!(get(&mut connect(&safe, address, None).await).await.starts_with("HTTP/1.1 200 "));
        }
    };
    let clients = async { tokio::join!(client(), client(), client(), client()) };
    let mut clients = std::pin::pin!(clients);
    let mut times = 0;
    loop {
        let files = [["mail", "next"], ["next", "mail"]][times % 2];
        certificates(&house).replace(ListenerCertificates::load(&safe.tls(&files, None)).expect("good files"));
        times += 1;
        if tokio::time::timeout(Duration::from_millis(1), &mut clients).await.is_ok() {
            break;
        }
    }
    assert!(times > 20, "only {times} times");
    assert!(get(&mut held).await.starts_with("HTTP/1.1 200 "));
}

/// Whether a second connection with the session of a first is a resumed one.
async fn resumes(safe: &Safe, address: SocketAddr, version: &str) -> bool {
    let session = safe.path("session");
    let _ = fs::remove_file(&session);
    // The tickets of TLS 1.3 come after the handshake: with the answer to a request.
    let mut first = Command::new("sh");
    first.arg("-c").arg(format!(
        "printf 'GET /nowhere HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n' | \
         openssl s_client -connect {address} {version} -ign_eof -sess_out {}",
        session.display()
    ));
    let (said, _) = run(&mut first).await;
    assert!(said.contains("\nNew, "), "{said}");
    if !session.exists() {
        return false; // the server gave none
    }
    let said = s_client(address, &format!("{version} -sess_in {}", session.display())).await;
    said.contains("\nReused, ")
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_also_over_a_change_of_certificates_but_never_with_client_certificates() {
    let safe = Safe::new();
    safe.server("mail", "mail", &["mail.contoso.com"], &key());
    let (house, address) = house(&safe, &["mail"], "").await;
    let versions = ["-tls1_2", "-tls1_3", "-tls1_2 -no_ticket"];
    for version in versions {
        assert!(resumes(&safe, address, version).await, "{version}");
    }
    certificates(&house).replace(ListenerCertificates::load(&safe.tls(&["mail"], None)).expect("good files"));
    for version in versions {
        assert!(resumes(&safe, address, version).await, "{version}");
    }

    let session = |version: &str| format!("{version} -sess_in {}", safe.path("session").display());
    let clients = ClientCertificates { ca: safe.path("ca.pem"), required: false };
    let asking = ListenerCertificates::load(&safe.tls(&["mail"], Some(clients))).expect("good files");
    certificates(&house).replace(asking);
    let said = s_client(address, &session("-tls1_2 -no_ticket")).await;
    assert!(said.contains("\nNew, "), "a session from before is not taken up: {said}");
    for version in versions {
        assert!(!resumes(&safe, address, version).await, "{version}");
    }
}

/// A listener that asks for client certificates, and these people's.
async fn asking(options: &str) -> (Safe, House, SocketAddr) {
    let safe = Safe::new();
    safe.server("mail", "mail", &["mail.contoso.com"], &key());
    for name in ["ana", "bruno", "carla", "filipe"] {
        safe.person(name, Person::called(&format!("{name}@contoso.com")));
    }
    let options = format!("client_ca = \"@SAFE@/ca.pem\"\n{options}");
    let (house, address) = house(&safe, &["mail"], &options).await;
    (safe, house, address)
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_certificate_is_told_where_their_mailbox_is() {
    let (safe, house, address) = asking("").await;
    let page = curl(&safe, address, Some("carla"), &[]).await.expect("an answer");
    assert!(is_link_page(&page), "{page}");
    let device = &["/Microsoft-Server-ActiveSync?Cmd=Sync&User=carla", "-X", "POST", "-d", ""];
    let moved = curl(&safe, address, Some("carla"), device).await.expect("an answer");
    assert!(moved.starts_with("HTTP/1.1 451 ") && moved.contains("X-MS-Location: "), "{moved}");
    assert_eq!(house.requests_behind(), 0);
    record::line(&["credential=certificate", "user=carla@contoso.com", "proven=carla@contoso.com"]).await;

    let without = curl(&safe, address, None, &[]).await.expect("an answer");
    assert!(without.starts_with("HTTP/1.1 401 "), "who has none is challenged: {without}");
    assert!(!without.contains("madrid"), "{without}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_leads_to_its_mailbox_and_the_server_there_still_asks_for_the_password() {
    let (safe, house, address) = asking("").await;
    let answer = curl(&safe, address, Some("bruno"), &[]).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    let line = record::line(&["credential=certificate", "user=bruno@contoso.com"]).await;
    assert!(line.contains("cas=cas-opo-"), "{line}");
    assert_eq!(house.requests_behind(), 1);

    let mut wire = house.wire().await;
    wire.send("GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\nX-SSL-Client-Cert: x\r\nX-ARR-ClientCert: x\r\n\r\n")
        .await;
    assert!(wire.head().await.starts_with("HTTP/1.1 401 "), "a field is no certificate");

    let signed_in =
        curl(&safe, address, Some("ana"), &["-u", "bruno@contoso.com:Pass-word1"]).await.expect("an answer");
    assert!(signed_in.contains("X-Contoso-User: bruno") && signed_in.contains("cas-opo-"), "{signed_in}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_persons_certificate_never_proves_another() {
    let (safe, house, address) = asking("").await;
    for person in [Some("ana"), Some("carla"), None] {
        let guessed = curl(&safe, address, person, &["-u", "carla@contoso.com:wrong"]).await.expect("an answer");
        assert!(guessed.starts_with("HTTP/1.1 401 ") && !guessed.contains("madrid"), "{person:?}: {guessed}");
        let known = curl(&safe, address, person, &["-u", "carla@contoso.com:Pass-word1"]).await.expect("an answer");
        assert!(is_link_page(&known), "{person:?}: {known}");
    }
    assert_eq!(house.requests_behind(), 0);

    let served = curl(&safe, address, Some("carla"), &["-u", "ana@contoso.com:Pass-word1"]).await.expect("an answer");
    assert!(served.contains("X-Contoso-User: ana") && !served.contains("madrid"), "{served}");
    let bearer = curl(&safe, address, Some("carla"), &["-H", "Authorization: Bearer x"]).await.expect("an answer");
    assert!(!bearer.contains("madrid"), "{bearer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_signs_in_over_the_connection_comes_before_the_certificate_it_began_with() {
    let (safe, _house, address) = asking("").await;
    let mut wire = connect(&safe, address, Some("carla")).await;
    let ana = Handshake::ntlm("CONTOSO\\ana");
    let ask = async |wire: &mut Wire, authorization: Option<String>| {
        let authorization = authorization.map(|it| format!("Authorization: {it}\r\n")).unwrap_or_default();
        wire.send(format!("GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\n{authorization}\r\n")).await;
        let head = wire.head().await;
        let body = wire.body(&head).await;
        head + &body
    };
    let page = ask(&mut wire, None).await;
    assert!(is_link_page(&page), "so far nobody else is known: {page}");
    let challenged = ask(&mut wire, Some(ana.first())).await;
    assert!(challenged.starts_with("HTTP/1.1 401 ") && !challenged.contains("madrid"), "{challenged}");
    let between = ask(&mut wire, None).await;
    assert!(between.starts_with("HTTP/1.1 401 ") && !between.contains("madrid"), "it may be anybody: {between}");
    let challenged = ask(&mut wire, Some(ana.first())).await;
    let last = ana.answer(field(&challenged, "www-authenticate").expect("a challenge"));
    for authorization in [Some(last), None] {
        let served = ask(&mut wire, authorization).await;
        assert_eq!(field(&served, "x-contoso-user"), Some("ana"), "{served}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_of_somebodys_mailbox_is_no_user_principal_name_of_theirs() {
    let (safe, _house, address) = asking("").await;
    safe.person("castro", Person::called("carla.castro@contoso.com")); // one of carla's proxyAddresses
    let answer = curl(&safe, address, Some("castro"), &[]).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("madrid"), "{answer}");
    record::line(&["event=FC152", "carla.castro@contoso.com", "no account"]).await;
    let with_password = ["-u", "carla.castro@contoso.com:Pass-word1"];
    let page = curl(&safe, address, Some("castro"), &with_password).await.expect("an answer");
    assert!(is_link_page(&page), "it is hers all the same: {page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_not_believed_is_refused_in_the_handshake() {
    use ExtendedKeyUsagePurpose::ServerAuth;
    let stranger = Safe::new();
    stranger.person("carla", Person::called("carla@contoso.com"));
    for options in ["", "client_certificate = \"optional\"", "client_certificate = \"required\""] {
        let (safe, house, address) = asking(options).await;
        safe.person("ended", Person { ended: true, ..Person::called("carla@contoso.com") });
        safe.person("server", Person { uses: vec![ServerAuth], ..Person::called("carla@contoso.com") });
        safe.person("for-nothing", Person { uses: vec![], ..Person::called("carla@contoso.com") });
        for suffix in ["pem", "key"] {
            let from = stranger.path(&format!("carla.{suffix}"));
            fs::copy(from, safe.path(&format!("stranger.{suffix}"))).expect("copied");
        }
        for person in ["ended", "server", "for-nothing", "stranger"] {
            for version in ["1.2", "1.3"] {
                let answer = curl(&safe, address, Some(person), &["--tls-max", version]).await;
                assert!(answer.as_ref().is_err_and(String::is_empty), "{options} {person} {version}: {answer:?}");
            }
        }
        let without = curl(&safe, address, None, &[]).await;
        assert_eq!(without.is_err(), options.contains("required"), "{options}: {without:?}");
        let with = curl(&safe, address, Some("carla"), &[]).await.expect("an answer");
        assert!(is_link_page(&with), "{options}: {with}");
        assert_eq!(house.requests_behind(), u64::from(without.is_ok()), "{options}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_without_a_name_that_the_directory_knows_proves_nobody() {
    let (safe, house, address) = asking("client_certificate = \"required\"").await;
    safe.person("nameless", Person { upn: None, ..Person::called("carla@contoso.com") });
    safe.person("unknown", Person::called("zacarias@contoso.com"));
    for person in ["nameless", "unknown"] {
        let answer = curl(&safe, address, Some(person), &[]).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("madrid"), "{person}: {answer}");
    }
    assert_eq!(house.requests_behind(), 2, "both were asked for a password by the local pool");
    record::line(&["event=FC152", "somebody", "no user principal name"]).await;
    record::line(&["event=FC152", "zacarias@contoso.com", "no account"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_certificate_is_told_that_no_server_answers() {
    let (safe, house, address) = asking("").await;
    for server in ["cas-opo-1", "cas-opo-2"] {
        house.contoso.server(server).stop().await;
    }
    let told = curl(&safe, address, Some("bruno"), &[]).await.expect("an answer");
    assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
    let without = curl(&safe, address, None, &[]).await.expect("an answer");
    assert!(without.starts_with("HTTP/1.1 401 "), "who has none is challenged: {without}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http2_a_certificate_proves_as_much() {
    let (safe, _house, address) = asking("http2 = true").await;
    let page = curl(&safe, address, Some("carla"), &["--http2"]).await.expect("an answer");
    assert!(page.starts_with("HTTP/2 200") && is_link_page(&page), "{page}");
    let challenged = curl(&safe, address, None, &["--http2"]).await.expect("an answer");
    assert!(challenged.starts_with("HTTP/2 401"), "{challenged}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_authority_is_believed_from_the_next_handshake_on() {
    let (safe, house, address) = asking("").await;
    let mut held = connect(&safe, address, Some("carla")).await;
    let ask = async |wire: &mut Wire| {
        wire.send("GET /owa/ HTTP/1.1\r\nHost: mail.contoso.com\r\n\r\n").await;
        let answer = wire.head().await;
        let body = wire.body(&answer).await;
        answer + &body
    };
    let believe = |pems: &[String]| {
        safe.write("believed.pem", &pems.concat());
        let clients = ClientCertificates { ca: safe.path("believed.pem"), required: false };
        certificates(&house)
            .replace(ListenerCertificates::load(&safe.tls(&["mail"], Some(clients))).expect("good files"));
    };
    let (own, other) = (safe.authority.pem(), openldap::authority().pem());
    for pems in [&[own.clone()][..], &[other.clone(), own.clone()]] {
        believe(pems);
        assert!(is_link_page(&ask(&mut held).await), "{} authorities", pems.len());
        assert!(is_link_page(&curl(&safe, address, Some("carla"), &[]).await.expect("an answer")));
    }
    believe(&[other]);
    let answer = curl(&safe, address, Some("carla"), &[]).await;
    assert!(answer.is_err(), "{answer:?}");
    let answer = ask(&mut held).await;
    assert!(answer.starts_with("HTTP/1.1 401 ") && !answer.contains("madrid"), "the connection lives on: {answer}");
    certificates(&house).replace(ListenerCertificates::load(&safe.tls(&["mail"], None)).expect("good files"));
    assert!(ask(&mut held).await.starts_with("HTTP/1.1 401 "));
    let answer = curl(&safe, address, Some("carla"), &[]).await.expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "nobody is asked for a certificate any more: {answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_certificate_is_told_at_the_start() {
    let safe = Safe::new();
    let own = key();
    let mut params = CertificateParams::new(vec!["ending.contoso.com".to_owned()]).expect("a name");
    params.not_after = (SystemTime::now() + Duration::from_secs(5 * 24 * 60 * 60 + 60 * 60)).into();
    safe.write("mail.pem", &params.signed_by(&own, &safe.authority).expect("a certificate").pem());
    safe.write("mail.key", &own.serialize_pem());
    let (_house, _) = house(&safe, &["mail"], "").await;
    let event = record::line(&["event=FC150", "the certificate of ending.contoso.com"]).await;
    assert!(event.contains("ends in 5 days"), "{event}");
}
