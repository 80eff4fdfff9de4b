//! A real `slapd` in a temporary folder, with the schema of this folder.

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use time::OffsetDateTime;
use url::Url;

/// The account that may read everything.
pub const BIND_DN: &str = "CN=firstcas,DC=contoso,DC=com";
/// Its password.
pub const BIND_PASSWORD: &str = "edge-pass";

/// Somebody whom it refuses as Active Directory does with that Windows error, whatever the password; `mailbox` says where
/// theirs is. The account is `data-532`.
pub fn refused(code: &str, mailbox: &str) -> String {
    format!(
        "dn: CN=Data {code},CN=Refused,DC=contoso,DC=com\nobjectClass: top\nobjectClass: person\n\
         objectClass: organizationalPerson\nobjectClass: user\ncn: Data {code}\nsn: {code}\nsAMAccountName: data-{code}\n\
         {mailbox}\n"
    )
}

/// The container of [`refused`] people.
pub const OF_REFUSED: &str = "dn: CN=Refused,DC=contoso,DC=com\nobjectClass: container\ncn: Refused\n";

/// Whether it speaks TLS.
pub enum Tls<'a> {
    /// No.
    None,
    /// On a second port and by `StartTLS`, with a certificate for 127.0.0.1 of this authority.
    By(&'a Authority),
    /// The same, with a certificate that ends so many days from now, and a minute.
    Ending(&'a Authority, i64),
}

/// A certificate authority.
pub type Authority = CertifiedIssuer<'static, KeyPair>;

/// A running or stopped `slapd`; ends when dropped.
pub struct Slapd {
    home: TempDir,
    plain_port: u16,
    tls_port: u16,
    process: Option<Child>,
}

impl Slapd {
    /// Loads an LDIF text of Contoso and starts.
    pub fn load(ldif: &str, tls: &Tls<'_>) -> Self {
        Slapd::of_suffix("DC=contoso,DC=com", ldif, tls)
    }

    /// Loads an LDIF text below that DN and starts.
    pub fn of_suffix(suffix: &str, ldif: &str, tls: &Tls<'_>) -> Self {
        let home = tempfile::tempdir().expect("a temporary folder");
        let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openldap");
        let file = |name: &str, text: &str| {
            std::fs::write(home.path().join(name), text).expect("written");
            home.path().join(name)
        };
        let tls = match tls {
            Tls::None => String::new(),
            Tls::By(authority) | Tls::Ending(authority, _) => {
                let key = KeyPair::generate().expect("a key");
                let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
                if let Tls::Ending(_, days) = tls {
                    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(*days) + time::Duration::MINUTE;
                }
                let certificate = params.signed_by(&key, authority).expect("a certificate");
                let certificate = file("certificate.pem", &certificate.pem());
                let key = file("key.pem", &key.serialize_pem());
                format!("TLSCertificateFile {}\nTLSCertificateKeyFile {}", certificate.display(), key.display())
            }
        };
        let template = std::fs::read_to_string(here.join("slapd.conf")).expect("the template");
        let config = template
            .replace("DC=contoso,DC=com", suffix)
            .replace("@SCHEMA@", &here.display().to_string())
            .replace("@HOME@", &home.path().display().to_string())
            .replace("\n@TLS@", &format!("\n{tls}"));
        let config = file("slapd.conf", &config);
        let ldif = file("contoso.ldif", ldif);
        let loaded = Command::new("/usr/sbin/slapadd").arg("-f").arg(config).arg("-l").arg(ldif).output();
        let loaded = loaded.expect("slapadd is installed (Debian: slapd)");
        assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
        let mut slapd = Slapd { home, plain_port: 0, tls_port: 0, process: None };
        // Another program may take a free port before slapd does; then other ports are tried.
        for _ in 0..5 {
            (slapd.plain_port, slapd.tls_port) = free_ports();
            if slapd.try_to_start().is_ok() {
                return slapd;
            }
        }
        panic!("slapd does not start");
    }

    /// Starts again, on the same ports.
    pub fn start(&mut self) {
        self.try_to_start().expect("slapd starts");
    }

    /// Ends the process.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it is ours");
            process.wait().expect("it ends");
        }
    }

    /// Where it listens.
    pub fn url(&self, scheme: &str) -> Url {
        let port = if scheme == "ldaps" { self.tls_port } else { self.plain_port };
        Url::parse(&format!("{scheme}://127.0.0.1:{port}")).expect("a URL")
    }

    /// Changes what is in it while it runs.
    pub fn modify(&self, ldif: &str) {
        modify(&mut ldapmodify(&self.url("ldap")), ldif);
    }

    /// The file it was loaded from.
    pub fn ldif_path(&self) -> PathBuf {
        self.home.path().join("contoso.ldif")
    }

    fn try_to_start(&mut self) -> Result<(), String> {
        let mut process = Command::new("/usr/sbin/slapd")
            .arg("-f")
            .arg(self.home.path().join("slapd.conf"))
            .arg("-h")
            .arg(format!("{} {}", self.url("ldap"), self.url("ldaps")))
            .args(["-d", "stats"]) // stays in the foreground and says when it is ready
            .stderr(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("slapd is installed (Debian: slapd)");
        let stderr = BufReader::new(process.stderr.take().expect("piped"));
        let (ready, is_ready) = mpsc::channel();
        thread::spawn(move || {
            let mut said = String::new();
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("slapd starting") {
                    let _ = ready.send(Ok(())); // nobody waits for a second start
                } else if said.len() < 10_000 {
                    said += &line;
                }
            }
            let _ = ready.send(Err(said));
        });
        let answer = is_ready.recv_timeout(Duration::from_secs(10)).unwrap_or_else(|error| Err(error.to_string()));
        self.process = Some(process);
        // It says "starting" just before it listens.
        let answer = answer.and_then(|()| [self.plain_port, self.tls_port].into_iter().try_for_each(listening));
        if answer.is_err() {
            self.stop();
        }
        answer
    }
}

impl Drop for Slapd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// `ldapmodify` at a `slapd` of that URL.
pub fn ldapmodify(url: &Url) -> Command {
    let mut command = Command::new("ldapmodify");
    command.args(["-x", "-H", url.as_str(), "-D", BIND_DN, "-w", BIND_PASSWORD]);
    command
}

/// Changes what is in a directory, by `ldapmodify` with its arguments.
pub fn modify(ldapmodify: &mut Command, ldif: &str) {
    let mut process = ldapmodify
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("ldapmodify is installed (Debian: ldap-utils)");
    process.stdin.take().expect("piped").write_all(ldif.as_bytes()).expect("it reads");
    assert!(process.wait().expect("it ends").success(), "ldapmodify failed");
}

/// A new authority.
pub fn authority() -> Authority {
    let mut params = CertificateParams::new([]).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

fn listening(port: u16) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            // A free port can be handed to the very connection that tries it.
            Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.to_string()),
            Ok(_) | Err(_) => thread::yield_now(),
        }
    }
}

fn free_ports() -> (u16, u16) {
    let listeners = [0; 2].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
    let [plain, tls] = listeners.map(|listener| listener.local_addr().expect("its address").port());
    (plain, tls)
}
