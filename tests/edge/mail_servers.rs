//! Signing in at real mail servers: in clear, with TLS by command and at once, and whom the edge believes.

use std::{collections::HashMap, fmt::Write as _, io, net::SocketAddr, sync::Arc, time::Duration};

use firstcas::{
    config::Config,
    directory::{ldif, schema},
    edge::{health::Fault, organisation::Organisation},
    mail::{
        dialogue::{Logon, Way},
        server::{self, ServerStream},
        sign_in::{Failure, SignIn, Step},
    },
    routing::{
        protocol::Protocol,
        topology::{ServerId, Topology},
    },
    secret::Secret,
};
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use crate::{
    dovecot::{DELEGATE, Dovecot, PASSWORD, Port, Wish},
    harness::{DEADLINE, until},
    openldap::{Authority, authority},
};

const HOST: &str = "ex03-opo.contoso.com";
const PEOPLE: &[(&str, &str)] = &[("duarte", PASSWORD), ("bruno@contoso.com", "Pä\"ss\\word")];

/// Contoso, as a configuration has it, with `ex03-opo` at these addresses.
struct House {
    organisation: Organisation,
    server: ServerId,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new(tls: &str, imap4: SocketAddr, pop3: SocketAddr, upstream: &str, ca: Option<&Authority>) -> House {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
            folder.path().join(name)
        };
        let ldif_text = include_str!("../../conf/contoso.ldif");
        let ldif_file = file("contoso.ldif", ldif_text);
        let ca = ca.map(|ca| format!("ca = \"{}\"\n", file("ca.pem", &ca.pem()).display())).unwrap_or_default();
        let text = format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"imap4\"\nallow_plain_logon = true\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"pop3\"\nallow_plain_logon = true\n\
             [directory]\nldif = \"{}\"\n\
             [routing]\nlocal_site = \"Porto\"\n\
             [resolve]\n\"{HOST}:80\" = \"127.0.0.1:80\"\n\"{HOST}:1143\" = \"{imap4}\"\n\"{HOST}:1110\" = \"{pop3}\"\n\
             [mail]\nhost = \"mail.contoso.com\"\n\
             [mail.back_ends]\ntls = \"{tls}\"\npop3_port = 1110\nimap4_port = 1143\n\
             [upstream]\n{ca}{upstream}\n",
            ldif_file.display(),
        );
        let mut config = Config::load(&file("firstcas.toml", &text)).expect("a good configuration");
        let entries = ldif::parse(ldif_text.as_bytes()).expect("LDIF");
        let topology = Topology::new(schema::topology(&entries).parts);
        // No name is looked up: that takes as long as a time-out where there is no DNS.
        let others = topology.servers().iter().map(|server| server.fqdn.clone()).filter(|host| host != HOST);
        config.resolve.by_host = others.map(|host| (host, [127, 0, 0, 1].into())).collect();
        let policy = config.policy(&topology).expect("Porto is there");
        let server = topology.servers().iter().position(|server| server.name == "ex03-opo").map(ServerId);
        let kept = HashMap::new();
        let organisation = Organisation::new(topology, policy, &config, None, &kept).await.expect("authorities");
        House { organisation, server: server.expect("it is there"), _folder: folder }
    }

    async fn of(dovecot: &Dovecot, tls: &str, upstream: &str, ca: Option<&Authority>) -> House {
        let [imap4, pop3] = if tls == "at_once" { [Port::Imap4Tls, Port::Pop3Tls] } else { [Port::Imap4, Port::Pop3] };
        House::new(tls, dovecot.address(imap4), dovecot.address(pop3), upstream, ca).await
    }

    async fn sign_in(&self, protocol: Protocol, user: &str, password: &str) -> Came {
        self.log_on(protocol, logon(user, password)).await
    }

    async fn log_on(&self, protocol: Protocol, logon: Logon) -> Came {
        let target = self.organisation.target(self.server, protocol).expect("it has an address");
        let sign_in = if protocol == Protocol::Pop3 {
            SignIn::pop3(logon, target.start_tls)
        } else {
            SignIn::imap4(logon, target.start_tls, target.peer.is_tls())
        };
        self.converse(protocol, sign_in, |_| Vec::new()).await
    }

    async fn converse(&self, protocol: Protocol, mut sign_in: SignIn, answer: impl Fn(&[u8]) -> Vec<u8>) -> Came {
        let target = self.organisation.target(self.server, protocol).expect("it has an address");
        let conversation = async {
            let mut stream = match server::connect(&target).await {
                Ok(stream) => stream,
                Err(fault) => return Came::Fault(fault.expect("of the server")),
            };
            let mut input = [0; 4096];
            loop {
                match sign_in.next() {
                    Step::Read => match stream.read(&mut input).await {
                        Ok(0) | Err(_) => return Came::Ended,
                        Ok(read) => sign_in.receive(&input[..read]),
                    },
                    Step::Send(words) => {
                        let sent: io::Result<()> = async {
                            stream.write_all(&words).await?;
                            stream.flush().await
                        }
                        .await;
                        sent.expect("sent");
                    }
                    Step::StartTls => {
                        stream = match server::start_tls(stream, &target).await {
                            Ok(stream) => stream,
                            Err(fault) => return Came::Fault(fault.expect("of the server")),
                        };
                        sign_in.tls_has_begun();
                    }
                    Step::Challenge(message) => sign_in.answer(&answer(&message)),
                    Step::SignedIn(words) => {
                        let offered = sign_in.capabilities().map(<[String]>::to_vec);
                        return Came::In(stream, text(&words), offered);
                    }
                    Step::Refused(words) => return Came::Refused(text(&words)),
                    Step::Failed(failure) => return Came::Failed(failure),
                }
            }
        };
        timeout(DEADLINE, conversation).await.expect("before the deadline")
    }
}

/// What came of it.
#[derive(Debug)]
enum Came {
    In(ServerStream, String, Option<Vec<String>>),
    Refused(String),
    Failed(Failure),
    Fault(Fault),
    Ended,
}

fn logon(user: &str, password: &str) -> Logon {
    Logon {
        user: user.into(),
        password: Secret::new(password.as_bytes()),
        authorize_as: None,
        way: Way::Command,
        tag: b"tag7".to_vec(),
    }
}

fn text(words: &[u8]) -> String {
    String::from_utf8_lossy(words).into_owned()
}

/// Certificate and key in PEM, and the certificate's fingerprint.
pub fn certificate(authority: &Authority, name: &str) -> (String, String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new([name.to_owned()]).expect("a name");
    params.distinguished_name.push(DnType::CommonName, name); // another than the authority's, or it passes for self-signed
    let certificate = params.signed_by(&key, authority).expect("a certificate").pem();
    let der = CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM");
    let mut fingerprint = String::new();
    for byte in ring::digest::digest(&ring::digest::SHA256, &der).as_ref() {
        write!(fingerprint, "{byte:02x}").expect("a String grows");
    }
    (certificate, key.serialize_pem(), fingerprint)
}

fn dovecot(name: &str, authority: &Authority, more: &str) -> (Dovecot, String) {
    let (certificate, key, fingerprint) = certificate(authority, name);
    let certificate = Some((&*certificate, &*key));
    (Dovecot::start(Wish { name: "ex03-opo", people: PEOPLE, certificate, more }), fingerprint)
}

async fn say(stream: &mut ServerStream, line: &str) -> String {
    let exchange = async {
        stream.write_all(line.as_bytes()).await?;
        stream.flush().await?;
        let mut answer = [0; 4096];
        stream.read(&mut answer).await.map(|read| text(&answer[..read]))
    };
    timeout(DEADLINE, exchange).await.expect("before the deadline").expect("an answer")
}

/// The shortest time to connect.
const IMPATIENT: &str = "connect_timeout = \"300ms\"\ntotal_connect_timeout = \"300ms\"";

const BOTH: [Protocol; 2] = [Protocol::Imap4, Protocol::Pop3];

#[test]
fn dovecot_starts_stops_and_starts_again() {
    let mut server = Dovecot::start(Wish { name: "ex03-opo", people: PEOPLE, ..Wish::default() });
    for _ in 0..2 {
        let address = server.address(Port::Pop3);
        assert!(std::net::TcpStream::connect(address).is_ok());
        server.stop();
        assert!(std::net::TcpStream::connect(address).is_err());
        server.start_again();
    }
}

#[tokio::test]
async fn whoever_signs_in_speaks_to_dovecot_from_then_on_whenever_tls_begins() {
    let authority = authority();
    let (dovecot, _) = dovecot(HOST, &authority, "");
    dovecot.deliver("duarte", "Subject: moin\n\nmoin\n");
    for tls in ["none", "start_tls", "at_once"] {
        let house = House::of(&dovecot, tls, "", Some(&authority)).await;
        for protocol in BOTH {
            let Came::In(mut stream, words, offered) = house.sign_in(protocol, "duarte", PASSWORD).await else {
                panic!("{protocol} with TLS {tls}: {}", dovecot.log())
            };
            let question = if protocol == Protocol::Pop3 {
                assert!(words.starts_with("+OK "), "{words}");
                assert_eq!(offered, None);
                "STAT\r\n"
            } else {
                assert!(words.contains("tag7 OK "), "{words}");
                assert!(offered.expect("it says so").contains(&"MOVE".to_owned()));
                "z STATUS INBOX (MESSAGES)\r\n"
            };
            let answer = say(&mut stream, question).await;
            assert!(answer.starts_with("+OK 1 ") || answer.contains("(MESSAGES 1)"), "{answer}");
            assert_eq!(stream.get_ssl_digest().is_some(), tls != "none");
        }
    }
}

#[tokio::test]
async fn a_password_of_any_characters_reaches_the_server_whole() {
    let authority = authority();
    let (dovecot, _) = dovecot(HOST, &authority, "");
    let house = House::of(&dovecot, "none", "", None).await;
    for protocol in BOTH {
        let (user, password) = PEOPLE[1];
        let came = house.sign_in(protocol, user, password).await;
        assert!(matches!(came, Came::In(..)), "{came:?} {}", dovecot.log());
    }
}

#[tokio::test]
async fn a_refusal_comes_in_dovecots_own_words() {
    let authority = authority();
    let (dovecot, _) = dovecot(HOST, &authority, "");
    let house = House::of(&dovecot, "none", "", None).await;
    for (protocol, expected) in [
        (Protocol::Imap4, "tag7 NO [AUTHENTICATIONFAILED] Authentication failed.\r\n"),
        (Protocol::Pop3, "-ERR [AUTH] Authentication failed.\r\n"),
    ] {
        let came = house.sign_in(protocol, "duarte", "Pass-word2").await;
        assert!(matches!(&came, Came::Refused(words) if words == expected), "{came:?}");
    }
}

#[tokio::test]
async fn whose_mailbox_is_meant_is_told_to_dovecot() {
    let authority = authority();
    let (dovecot, _) = dovecot(HOST, &authority, "");
    let house = House::of(&dovecot, "none", "", None).await;
    for protocol in BOTH {
        let delegate = Logon { authorize_as: Some(b"duarte".to_vec()), way: Way::Plain, ..logon(DELEGATE, PASSWORD) };
        let came = house.log_on(protocol, delegate).await;
        assert!(matches!(came, Came::In(..)), "{came:?} {}", dovecot.log());
    }
    let are_logged = async || dovecot.log().matches("Login: user=<duarte>").count() == 2;
    until("Dovecot has logged both", are_logged).await;
}

#[tokio::test]
async fn a_server_that_wants_tls_gets_no_password_without() {
    let authority = authority();
    // Dovecot takes whoever comes from its own address for its own.
    let more = "ssl = required\ndisable_plaintext_auth = yes\nlisten = 127.0.0.1, 127.0.0.2";
    let (dovecot, _) = dovecot(HOST, &authority, more);
    let [imap4, pop3] =
        [Port::Imap4, Port::Pop3].map(|port| SocketAddr::from(([127, 0, 0, 2], dovecot.address(port).port())));
    let house = House::new("none", imap4, pop3, "", None).await;
    let came = house.sign_in(Protocol::Imap4, "duarte", PASSWORD).await;
    assert!(matches!(came, Came::Failed(Failure::TlsRequired)), "{came:?}");
    let came = house.sign_in(Protocol::Pop3, "duarte", PASSWORD).await;
    assert!(matches!(came, Came::Refused(_)), "{came:?}");
    let plain = Dovecot::start(Wish { name: "ex03-opo", people: PEOPLE, ..Wish::default() });
    let house = House::of(&plain, "start_tls", "", None).await;
    for protocol in BOTH {
        let came = house.sign_in(protocol, "duarte", PASSWORD).await;
        assert!(matches!(came, Came::Failed(Failure::NoTls)), "{came:?}");
    }
    assert!(!plain.log().contains("duarte"), "{}", plain.log());
}

#[tokio::test]
async fn a_server_is_believed_by_its_authority_and_name_or_by_its_fingerprint() {
    let (ours, others) = (authority(), authority());
    let (right, fingerprint) = dovecot(HOST, &ours, "");
    let (misnamed, _) = dovecot("ex03-lis.contoso.com", &ours, "");
    let by = |fingerprint: &str| format!("fingerprints = [\"{fingerprint}\"]");
    let another = by(&"ab".repeat(32));
    for tls in ["start_tls", "at_once"] {
        for protocol in BOTH {
            for (server, upstream, ca, expected) in [
                (&right, "", Some(&ours), None),
                (&right, "", Some(&others), Some("certificate")),
                (&right, "", None, Some("certificate")),
                (&misnamed, "", Some(&ours), Some("certificate")),
                (&right, &*by(&fingerprint), None, None),
                (&misnamed, &*by(&fingerprint), None, Some("fingerprint")),
                (&right, &*another, None, Some(&*fingerprint)),
                (&misnamed, "insecure = true", None, None),
            ] {
                let house = House::of(server, tls, upstream, ca).await;
                let came = house.sign_in(protocol, "duarte", PASSWORD).await;
                let is_expected = match expected {
                    None => matches!(came, Came::In(..)),
                    Some(why) => {
                        matches!(&came, Came::Fault(Fault::Untrusted(told)) if told.to_lowercase().contains(why))
                    }
                };
                assert!(is_expected, "{protocol}, {tls}, {upstream}: {came:?}, and not {expected:?}");
            }
        }
    }
    assert!(!misnamed.log().contains("Authentication failed"), "nobody's password was tried: {}", misnamed.log());
}

#[tokio::test]
async fn a_server_that_is_silent_or_closes_is_told_from_one_that_says_no() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let silent = listener.local_addr().expect("its address"); // the system accepts for it, and nobody answers
    let house = House::new("at_once", silent, silent, IMPATIENT, None).await;
    let came = timeout(Duration::from_secs(5), house.sign_in(Protocol::Imap4, "duarte", PASSWORD)).await;
    let came = came.expect("not longer than it was given");
    assert!(matches!(came, Came::Fault(Fault::Unreachable(_))), "{came:?}");

    let closes = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let closing = closes.local_addr().expect("its address");
    for (tls, is_fault) in [("at_once", true), ("none", false)] {
        let house = House::new(tls, closing, closing, "", None).await;
        let close = async { drop(closes.accept().await.expect("it comes")) };
        let ((), came) = tokio::join!(close, house.sign_in(Protocol::Pop3, "duarte", PASSWORD));
        assert!(if is_fault { matches!(came, Came::Fault(_)) } else { matches!(came, Came::Ended) }, "{came:?}");
    }

    drop(closes);
    let house = House::new("none", closing, closing, "", None).await;
    let came = house.sign_in(Protocol::Pop3, "duarte", PASSWORD).await;
    assert!(matches!(came, Came::Fault(Fault::Unreachable(_))), "{came:?}");
}

#[tokio::test]
async fn a_server_that_agrees_to_tls_and_is_then_silent_costs_no_longer_than_connecting_may() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("its address");
    let house = House::new("start_tls", address, address, IMPATIENT, None).await;
    let agree = async {
        let (mut stream, _) = listener.accept().await.expect("it comes");
        stream.write_all(b"+OK\r\n").await.expect("said");
        assert_eq!(stream.read(&mut [0; 64]).await.expect("STLS"), 6);
        stream.write_all(b"+OK\r\n").await.expect("said");
        stream
    };
    let asked = async { tokio::join!(agree, house.sign_in(Protocol::Pop3, "duarte", PASSWORD)) };
    let (_stream, came) = timeout(Duration::from_secs(5), asked).await.expect("not longer than it was given");
    assert!(matches!(came, Came::Fault(Fault::Unreachable(_))), "{came:?}");
}

#[tokio::test]
async fn windows_authentication_is_passed_on_to_dovecot() {
    // What Samba's ntlm_auth would be to Dovecot: it challenges, and lets in who answers as was agreed.
    let folder = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.expect("a folder");
    let helper = folder.path().join("ntlm_auth");
    let script = "#!/bin/sh\nwhile read -r verb message; do case \"$verb $message\" in\n\
                  'YR Zmlyc3Q=') echo 'TT c2Vjb25k';;\n'KK dGhpcmQ=') echo 'AF duarte';;\n*) echo 'NA wrong';;\nesac; done\n";
    std::fs::write(&helper, script).expect("written");
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let more = format!(
        "auth_mechanisms = plain ntlm\nauth_use_winbind = yes\nauth_winbind_helper_path = {}",
        helper.display()
    );
    let dovecot = Dovecot::start(Wish { name: "ex03-opo", people: PEOPLE, more: &more, ..Wish::default() });
    let house = House::of(&dovecot, "none", "", None).await;
    for protocol in BOTH {
        for (last, is_in) in [(&b"third"[..], true), (b"another", false)] {
            let sign_in = if protocol == Protocol::Pop3 {
                SignIn::pop3_ntlm(b"first".to_vec(), false)
            } else {
                SignIn::imap4_ntlm(b"first".to_vec(), b"tag7".to_vec(), false, false)
            };
            let challenged = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let came = house.converse(protocol, sign_in, |challenge| {
                assert_eq!(challenge, b"second");
                challenged.store(true, std::sync::atomic::Ordering::Relaxed);
                last.to_vec()
            });
            let came = came.await;
            assert!(challenged.load(std::sync::atomic::Ordering::Relaxed), "{came:?} {}", dovecot.log());
            let is_expected = if is_in { matches!(came, Came::In(..)) } else { matches!(came, Came::Refused(_)) };
            assert!(is_expected, "{protocol} {last:?}: {came:?} {}", dovecot.log());
        }
    }
}
