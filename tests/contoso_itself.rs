//! The stand-in organisation does what the tests that use it rely on.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test that cannot be set up has failed

#[path = "contoso/mod.rs"]
mod contoso;
mod kdc;
mod windows_client;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io::Write as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use contoso::{
    Contoso, StartError, any_port, control,
    pki::Pki,
    server::Keeps,
    tickets::{self, Ticket},
};
use firstcas::{
    directory::{
        Changes, Directory, DirectoryError, Entry, TopologyReading, Verdict, ldif,
        schema::{self, Record},
    },
    identity::MailboxName,
    routing::{
        protocol::{Protocol, VirtualDirectoryKind},
        topology::{AuthenticationMethods, Server, TopologyParts, VirtualDirectory},
        version::Version,
    },
    secret::Secret,
};
use kdc::Kdc;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use windows_client::{Form, Handshake, kerberos, raw_kerberos};

#[tokio::test]
async fn an_answer_says_which_server_gave_it_to_whom_over_which_connection() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let first = client.get("/owa/", BRUNO).await;
    assert_eq!(first.status, 200);
    assert_eq!(first.field("x-contoso-server"), ["cas-opo-1"]);
    assert_eq!(first.field("x-contoso-user"), ["bruno"]);
    assert!(first.text().contains("cas-opo-1 serves /owa/ to bruno"), "{}", first.text());

    let second = client.get("/owa/", BRUNO).await;
    assert_eq!(second.field("x-contoso-connection"), first.field("x-contoso-connection"), "the same connection");
    let other = site.connect("cas-opo-1").await.get("/owa/", BRUNO).await;
    assert_ne!(other.field("x-contoso-connection"), first.field("x-contoso-connection"), "another connection");
}

#[tokio::test]
async fn every_way_to_write_a_user_name_signs_the_same_person_in() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    for name in ["bruno", "BRUNO", "bruno@contoso.com", "CONTOSO\\bruno"] {
        let answer = client.get("/owa/", &basic(name, "Pass-word1")).await;
        assert_eq!((answer.status, answer.field("x-contoso-user")), (200, vec!["bruno"]), "{name}");
    }
}

#[tokio::test]
async fn without_a_right_credential_the_answer_is_a_challenge_from_nobody() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let wrong = basic("bruno", "wrong");
    let stranger = basic("mallory", "Pass-word1");
    for authorization in ["", &wrong, &stranger, "Authorization: Basic ???\r\n", "Authorization: NTLM TlRM\r\n"] {
        let answer = client.get("/owa/", authorization).await;
        assert_eq!(answer.status, 401, "{authorization}");
        assert_eq!(answer.field("x-contoso-user"), ["-"]);
        assert_eq!(
            answer.field("www-authenticate"),
            ["Negotiate", "NTLM", "Basic realm=\"cas-opo-1.contoso.com\""],
            "{authorization}"
        );
    }
    assert_eq!(client.get("/owa/", BRUNO).await.status, 200, "the connection lives on");
}

#[tokio::test]
async fn an_ntlm_handshake_in_every_form_makes_the_connection_its_users() {
    let site = Site::start().await;
    for form in [Form::Ntlm, Form::Negotiate, Form::Spnego] {
        for name in ["CONTOSO\\bruno", "contoso\\BRUNO", "bruno@contoso.com", "bruno"] {
            let mut client = site.connect("cas-opo-1").await;
            let handshake = Handshake::ntlm(name).form(form);
            let challenge = client.get("/owa/", &authorization(&handshake.first())).await;
            assert_eq!((challenge.status, challenge.field("x-contoso-user")), (401, vec!["-"]), "{name} {form:?}");
            assert_eq!(challenge.field("persistent-auth"), [""; 0], "nobody yet");
            let [offer] = challenge.field("www-authenticate")[..] else {
                panic!("not one challenge: {:?}", challenge.fields);
            };
            let last = client.get("/owa/", &authorization(&handshake.answer(offer))).await;
            assert_eq!((last.status, last.field("x-contoso-user")), (200, vec!["bruno"]), "{name} {form:?}");
            assert_eq!(last.field("www-authenticate").len(), usize::from(form == Form::Spnego), "its last token");
            for _ in 0..2 {
                let later = client.get("/EWS/Exchange.asmx", "").await;
                assert_eq!((later.status, later.field("x-contoso-user")), (200, vec!["bruno"]), "{name} {form:?}");
                assert_eq!(later.field("persistent-auth"), ["true"]);
                assert_eq!(later.field("x-contoso-connection"), challenge.field("x-contoso-connection"));
            }
            assert_eq!(site.connect("cas-opo-1").await.get("/owa/", "").await.status, 401, "another connection");
        }
    }
}

#[tokio::test]
async fn an_exchange_2003_server_takes_ntlm_over_http() {
    let site = Site::start().await;
    let mut client = site.connect("ex03-opo").await;
    let last = client.sign_in("/exchange/", &Handshake::ntlm("CONTOSO\\duarte")).await;
    assert_eq!((last.status, last.field("x-contoso-user")), (200, vec!["duarte"]));
}

#[tokio::test]
async fn a_wrong_password_an_unknown_name_and_a_message_out_of_turn_leave_nobody() {
    let site = Site::start().await;
    let bruno = Handshake::ntlm("CONTOSO\\bruno");
    for handshake in [
        bruno.clone().password("wrong"),
        Handshake::ntlm("CONTOSO\\mallory"),
        Handshake::ntlm("FABRIKAM\\bruno"),
        Handshake::ntlm(""),
    ] {
        let mut client = site.connect("cas-opo-1").await;
        client.sign_in("/owa/", &bruno).await;
        let refused = client.sign_in("/owa/", &handshake).await;
        assert_eq!((refused.status, refused.field("x-contoso-user")), (401, vec!["-"]), "{handshake:?}");
        assert_eq!(refused.field("www-authenticate"), OFFERS, "{handshake:?}");
        assert_eq!(client.get("/owa/", "").await.status, 401, "nobody's: {handshake:?}");
        assert_eq!(client.sign_in("/owa/", &bruno).await.status, 200, "a new handshake: {handshake:?}");
    }

    let mut client = site.connect("cas-opo-1").await;
    let challenge = client.get("/owa/", &authorization(&bruno.first())).await;
    let answer = authorization(&bruno.answer(challenge.field("www-authenticate")[0]));
    let mut other = site.connect("cas-opo-1").await;
    assert_eq!(other.get("/owa/", &answer).await.status, 401, "without a challenge");
    other.get("/owa/", &authorization(&bruno.first())).await;
    assert_eq!(other.get("/owa/", &answer).await.status, 401, "for another challenge");
    assert_eq!(client.get("/owa/", &answer).await.status, 200, "where it belongs");
    assert_eq!(client.get("/owa/", &answer).await.status, 401, "but once only");

    let challenge = client.get("/owa/", &authorization(&bruno.first())).await;
    let challenge = challenge.field("www-authenticate")[0];
    let wrong = bruno.clone().password("wrong").answer(challenge);
    for credential in [wrong, bruno.answer(challenge)] {
        let refused = client.get("/owa/", &authorization(&credential)).await;
        assert_eq!(refused.status, 401, "a challenge is spent with its first answer");
    }
}

#[tokio::test]
async fn tokens_that_nobody_can_read_are_refused_and_the_connection_lives_on() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let negotiate = "TlRMTVNTUAABAAAA";
    let empty_first = BASE64_STANDARD.encode([0x60, 2, 6, 0]);
    let endless = BASE64_STANDARD.encode([0x60, 0x84, 0xff, 0xff, 0xff, 0xff, 6]);
    for token in ["", " ", " ???", " YIIB", " TlRM", negotiate, &empty_first, &endless, " oQMCAQA=", " YAA="] {
        for scheme in ["NTLM", "Negotiate"] {
            let refused = client.get("/owa/", &authorization(&format!("{scheme} {}", token.trim()))).await;
            assert_eq!((refused.status, refused.field("www-authenticate")), (401, OFFERS.to_vec()), "{scheme} {token}");
        }
    }
    client.sign_in("/owa/", &Handshake::ntlm("bruno")).await;
    client.get("/owa/", &authorization("Negotiate YIIB")).await;
    assert_eq!(client.get("/owa/", "").await.status, 401, "it took the connection from bruno");
    assert_eq!(client.sign_in("/owa/", &Handshake::ntlm("bruno")).await.status, 200);
}

#[tokio::test]
async fn a_request_without_a_credential_in_the_middle_of_a_handshake_is_just_challenged() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let handshake = Handshake::ntlm("bruno");
    let challenge = client.get("/owa/", &authorization(&handshake.first())).await;
    let between = client.get("/owa/", "").await;
    assert_eq!((between.status, between.field("www-authenticate")), (401, OFFERS.to_vec()));
    let last = client.get("/owa/", &authorization(&handshake.answer(challenge.field("www-authenticate")[0]))).await;
    assert_eq!(last.field("x-contoso-user"), ["bruno"]);
}

#[tokio::test]
async fn a_new_handshake_changes_the_connections_user_as_in_iis_or_is_refused_as_in_apache() {
    let site = Site::start().await;
    let (bruno, duarte) = (Handshake::ntlm("bruno"), Handshake::ntlm("duarte"));
    let mut client = site.connect("cas-opo-1").await;
    client.sign_in("/owa/", &bruno).await;
    let mid = client.get("/owa/", &authorization(&duarte.first())).await;
    assert_eq!((mid.status, mid.field("x-contoso-user"), mid.field("persistent-auth")), (401, vec!["-"], vec![]));
    assert_eq!(client.get("/owa/", "").await.status, 401, "bruno has lost it");
    client.sign_in("/owa/", &duarte).await;
    assert_eq!(client.get("/owa/", "").await.field("x-contoso-user"), ["duarte"]);
    let ticket = client.get("/owa/", &authorization(&kerberos(&Ticket::of("bruno")))).await;
    assert_eq!(ticket.field("x-contoso-user"), ["bruno"]);

    site.contoso.server("cas-opo-1").mod_auth_gssapi();
    for credential in [duarte.first(), kerberos(&Ticket::of("duarte"))] {
        let refused = client.get("/owa/", &authorization(&credential)).await;
        assert_eq!((refused.status, refused.field("www-authenticate")), (401, OFFERS.to_vec()), "no token");
    }
    let mut fresh = site.connect("cas-opo-1").await;
    assert_eq!(fresh.sign_in("/owa/", &duarte).await.status, 200, "the first handshake of a connection");
}

#[tokio::test]
async fn a_basic_credential_on_an_authenticated_connection_counts_for_its_own_request() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    client.sign_in("/owa/", &Handshake::ntlm("duarte")).await;
    assert_eq!(client.get("/owa/", BRUNO).await.field("x-contoso-user"), ["bruno"]);
    let wrong = client.get("/owa/", &basic("bruno", "wrong")).await;
    assert_eq!((wrong.status, wrong.field("x-contoso-user")), (401, vec!["-"]));
    let unheard_of = client.get("/owa/", &authorization("Unheard-of x")).await;
    assert_eq!(unheard_of.status, 401);
    assert_eq!(client.get("/owa/", "").await.field("x-contoso-user"), ["duarte"]);
}

#[tokio::test]
async fn windows_authentication_is_accepted_only_where_it_is_offered() {
    let site = Site::start().await;
    let handshake = Handshake::ntlm("bruno");
    let mut client = site.connect("cas-bra-1").await;
    for credential in [handshake.first(), kerberos(&Ticket::of("bruno"))] {
        let refused = client.get("/owa/", &authorization(&credential)).await;
        assert_eq!(refused.status, 401);
        assert_eq!(refused.field("www-authenticate"), ["Basic realm=\"cas-bra-1.contoso.com\""]);
    }
    let mut client = site.connect("cas-opo-1").await;
    client.sign_in("/owa/", &handshake).await;
    site.contoso.server("cas-opo-1").without_integrated();
    assert_eq!(client.get("/owa/", "").await.status, 401, "switched off under a user");
}

#[tokio::test]
async fn a_ticket_sent_unasked_makes_the_connection_its_owners_at_once() {
    let site = Site::start().await;
    for token in [kerberos(&Ticket::of("bruno")), raw_kerberos(&Ticket::of("bruno"))] {
        let mut client = site.connect("cas-opo-1").await;
        let first = client.get("/owa/", &authorization(&token)).await;
        assert_eq!((first.status, first.field("x-contoso-user")), (200, vec!["bruno"]));
        assert_eq!(first.field("persistent-auth"), ["true"]);
        assert_eq!(client.get("/owa/", "").await.field("x-contoso-user"), ["bruno"]);
    }
}

#[tokio::test]
async fn a_ticket_with_anything_wrong_is_refused() {
    let site = Site::start().await;
    let good = Ticket::of("bruno");
    let hour = Duration::from_secs(60 * 60);
    for (what, ticket) in [
        ("a stranger's", Ticket::of("mallory")),
        ("sealed with another key", Ticket { service_key: [7; 32], ..good.clone() }),
        ("for another service", Ticket { service: "HTTP/cas-opo-1.contoso.com".into(), ..good.clone() }),
        ("of another realm's bruno", Ticket { realm: "FABRIKAM.COM".into(), ..good.clone() }),
        ("used by somebody else", Ticket { authenticator_user: "duarte".into(), ..good.clone() }),
        ("over", Ticket { ends: good.made - hour, ..good.clone() }),
        ("used before it begins", Ticket { ends: good.ends + hour, ..good.clone() }),
        ("with an old authenticator", Ticket { made: good.made - hour, ..good.clone() }),
    ] {
        let mut client = site.connect("cas-opo-1").await;
        for token in [kerberos(&ticket), raw_kerberos(&ticket)] {
            let refused = client.get("/owa/", &authorization(&token)).await;
            assert_eq!((refused.status, refused.field("www-authenticate")), (401, OFFERS.to_vec()), "{what}");
        }
        assert_eq!(client.get("/owa/", "").await.status, 401, "{what}");
    }
    let mut spoilt = good.token();
    for place in 0..spoilt.len() {
        spoilt[place] ^= 0x10;
        assert_ne!(tickets::judge(&spoilt).as_deref(), Some("mallory@CONTOSO.COM"), "and no panic");
        assert!(tickets::judge(&spoilt[..place]).is_none(), "cut after {place} bytes");
        spoilt[place] ^= 0x10;
    }
    assert_eq!(tickets::judge(&spoilt).as_deref(), Some("bruno@CONTOSO.COM"));
}

/// A person's ticket of a real KDC, used by curl at that address: status, whom it signed in, `Persistent-Auth`.
fn curl(kdc: &Kdc, cache: &Path, host: &str, address: SocketAddr, times: usize) -> Vec<String> {
    let url = format!("https://{host}:{}/owa/", address.port());
    let what = "%{http_code} %header{x-contoso-user} %header{persistent-auth}\n";
    let mut curl = Command::new("curl");
    curl.args(["-sk", "--negotiate", "-u", ":", "-m", "20", "-w", what, "--resolve"]);
    curl.arg(format!("{host}:{}:{}", address.port(), address.ip()));
    curl.env("KRB5_CONFIG", kdc.config()).env("KRB5CCNAME", cache);
    for _ in 0..times {
        curl.args([&url, "-o", "/dev/null"]);
    }
    let said = curl.output().expect("curl is installed (Debian: curl)").stdout;
    String::from_utf8(said).expect("text").lines().map(|line| line.trim_end().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_a_real_kdc_opens_the_server_it_is_for_once_and_as_long_as_its_key_is_known() {
    let site = Site::start().await;
    let hosts = ["cas-opo-1", "cas-bra-1"].map(|host| format!("{host}.contoso.com"));
    let kdc = Kdc::start(&["bruno@CONTOSO.COM".to_owned()], &hosts);
    let server = site.contoso.server("cas-opo-1");
    let address = server.address();
    server.kerberos_only();
    let cache = kdc.config().with_file_name("cache");
    let mut kinit = Command::new("kinit");
    kinit.args(["bruno@CONTOSO.COM", "-c"]).arg(&cache).env("KRB5_CONFIG", kdc.config()).stdin(Stdio::piped());
    let mut kinit = kinit.stdout(Stdio::null()).spawn().expect("kinit is installed (Debian: krb5-user)");
    writeln!(kinit.stdin.take().expect("piped"), "{}", kdc::PASSWORD).expect("it reads");
    assert!(kinit.wait().expect("it ends").success());

    assert_eq!(curl(&kdc, &cache, &hosts[0], address, 1), ["401 -"], "it has no key");
    site.contoso.use_keytab(&kdc.keytab());
    assert_eq!(curl(&kdc, &cache, &hosts[0], address, 2), ["200 bruno true"; 2]);
    assert_eq!(site.contoso.tokens_accepted(), 1, "the second request came over the same connection");
    server.keeps(Keeps::Silently);
    assert_eq!(curl(&kdc, &cache, &hosts[0], address, 2), ["200 bruno"; 2]);
    server.keeps(Keeps::Nothing);
    assert_eq!(curl(&kdc, &cache, &hosts[0], address, 1), ["200 bruno"]);
    assert_eq!(curl(&kdc, &cache, &hosts[1], address, 1), ["401 -"], "it is another server's");
    kdc.change_key(&hosts[0]);
    site.contoso.use_keytab(&kdc.keytab());
    assert_eq!(curl(&kdc, &cache, &hosts[0], address, 1), ["401 -"], "the ticket has the old key");
}

#[tokio::test]
async fn a_ticket_is_used_once_and_counts_for_as_long_as_the_server_keeps_it() {
    let site = Site::start().await;
    let server = site.contoso.server("cas-opo-1");
    let mut client = site.connect("cas-opo-1").await;
    let mut ask = async |token: &str| {
        let answer = client.get("/owa/", &if token.is_empty() { String::new() } else { authorization(token) }).await;
        (answer.status, answer.field("persistent-auth").len())
    };
    let once = kerberos(&Ticket::of("bruno"));
    assert_eq!([ask(&once).await, ask("").await], [(200, 1), (200, 1)]);
    assert_eq!([ask(&once).await, ask("").await], [(401, 0), (401, 0)], "seen before");
    assert_eq!(site.contoso.tokens_replayed(), 1);
    server.keeps(Keeps::Silently);
    assert_eq!([ask(&kerberos(&Ticket::of("bruno"))).await, ask("").await], [(200, 0), (200, 0)]);
    server.keeps(Keeps::Nothing);
    assert_eq!([ask(&kerberos(&Ticket::of("bruno"))).await, ask("").await], [(200, 0), (401, 0)]);
    assert_eq!((site.contoso.tokens_accepted(), server.let_in(), server.requests()), (3, 5, 8));
}

#[tokio::test]
async fn a_server_offers_and_takes_what_is_left_on() {
    let site = Site::start().await;
    let server = site.contoso.server("cas-opo-1");
    let mut client = site.connect("cas-opo-1").await;
    server.integrated_only();
    assert_eq!(client.get("/owa/", BRUNO).await.field("www-authenticate"), ["Negotiate", "NTLM"]);
    assert_eq!(client.sign_in("/owa/", &Handshake::ntlm("bruno")).await.status, 200);
    server.kerberos_only();
    for form in [Form::Ntlm, Form::Negotiate, Form::Spnego] {
        let first = Handshake::ntlm("bruno").form(form).first();
        let refused = client.get("/owa/", &authorization(&first)).await;
        assert_eq!((refused.status, refused.field("www-authenticate")), (401, vec!["Negotiate"]), "{form:?}");
    }
    assert_eq!(client.get("/owa/", &authorization(&kerberos(&Ticket::of("bruno")))).await.status, 200);
}

#[test]
fn mits_own_tool_reads_the_keytab() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("keytab");
    std::fs::write(&file, tickets::keytab()).expect("written");
    let said = Command::new("klist").args(["-k", "-e", "-K"]).arg(&file).output();
    let said = String::from_utf8(said.expect("klist is installed (Debian: krb5-user)").stdout).expect("text");
    assert!(said.contains("3 HTTP/mail.contoso.com@CONTOSO.COM (aes256-cts-hmac-sha1-96)"), "{said}");
    let key = "746865206b6579206f6620485454502f6d61696c2e636f6e746f736f2e636f6d";
    assert!(said.contains(&format!("(0x{key})")), "{said}");
}

#[tokio::test]
async fn extended_protection_refuses_every_handshake_at_its_last_leg_but_no_basic_credential() {
    let site = Site::start().await;
    site.contoso.server("cas-opo-1").extended_protection();
    let mut client = site.connect("cas-opo-1").await;
    let handshake = Handshake::ntlm("bruno").channel_bindings([1; 16]);
    assert_eq!(client.get("/owa/", &authorization(&handshake.first())).await.field("www-authenticate").len(), 1);
    let refused = client.sign_in("/owa/", &handshake).await;
    assert_eq!((refused.status, refused.field("www-authenticate")), (401, OFFERS.to_vec()));
    assert_eq!(client.get("/owa/", &authorization(&kerberos(&Ticket::of("bruno")))).await.status, 401);
    assert_eq!(client.get("/owa/", BRUNO).await.status, 200);
    site.contoso.server("cas-opo-1").resume();
    assert_eq!(client.sign_in("/owa/", &handshake).await.status, 200, "the bindings themselves are not judged");
}

#[tokio::test]
async fn legs_with_bodies_keep_the_connection() {
    let site = Site::start().await;
    let handshake = Handshake::ntlm("bruno");
    let mut client = site.connect("cas-opo-1").await;
    let mut credential = handshake.first();
    for leg in 1..=3 {
        let fields = if leg == 3 { String::new() } else { authorization(&credential) };
        let head = format!("POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: c\r\n{fields}X-Contoso-Echo: 1\r\n");
        client
            .write(format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n").as_bytes())
            .await;
        let answer = client.answer().await;
        assert!(answer.text().contains("body: 6 bytes"), "{}", answer.text());
        assert_eq!(answer.status, if leg == 1 { 401 } else { 200 });
        if leg == 1 {
            credential = handshake.answer(answer.field("www-authenticate")[0]);
        }
    }

    let mut client = site.connect("cas-opo-1").await;
    let mut credential = handshake.first();
    for (leg, status) in [(1, 401), (2, 200), (3, 200)] {
        let fields = if leg == 3 { String::new() } else { authorization(&credential) };
        let head = format!("POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: c\r\n{fields}Content-Length: 5\r\n");
        client.write(format!("{head}Expect: 100-continue\r\n\r\n").as_bytes()).await;
        assert_eq!(client.head().await.status, 100, "leg {leg}");
        client.write(b"hello").await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status, "leg {leg}");
        if leg == 1 {
            credential = handshake.answer(answer.field("www-authenticate")[0]);
        }
    }
}

#[tokio::test]
async fn a_connection_can_close_or_be_reset_after_a_leg() {
    let site = Site::start().await;
    let leg = authorization(&Handshake::ntlm("bruno").first());
    for server in ["cas-opo-1", "ex03-opo"] {
        let mut client = site.connect(server).await;
        let closing = client.get("/exchange/", &format!("{leg}X-Contoso-Close: 1\r\n")).await;
        assert_eq!((closing.status, closing.field("connection")), (401, vec!["close"]));
        assert_eq!(closing.field("www-authenticate").len(), 1, "with its token");
        assert_eq!(client.rest().await, b"");

        for fields in [&leg, BRUNO] {
            let mut client = site.connect(server).await;
            let whole = client.get("/exchange/", &format!("{fields}X-Contoso-Reset: after\r\n")).await;
            assert_eq!(whole.field("connection"), [""; 0], "it is not announced");
            assert!(!whole.body.is_empty(), "sent whole");
            let error = within(client.stream.read(&mut [0])).await.expect_err("reset, not closed");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{server}");
        }
    }
}

#[tokio::test]
async fn an_answer_can_carry_a_token_and_a_promise_that_nobody_asked_for() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    for (credential, status) in [(BRUNO, 200), ("", 401)] {
        let token = client.get("/owa/", &format!("{credential}X-Contoso-Unasked-Token: 1\r\n")).await;
        assert_eq!(token.status, status);
        assert!(token.field("www-authenticate").contains(&"Negotiate oQcwBaADCgEA"), "{:?}", token.fields);
        let promise = client.get("/owa/", &format!("{credential}X-Contoso-Unasked-Persistence: 1\r\n")).await;
        assert_eq!((promise.status, promise.field("persistent-auth")), (status, vec!["true"]));
    }
}

#[tokio::test]
async fn curl_signs_in_with_ntlm_under_every_form_of_its_name() {
    let site = Site::start().await;
    for name in ["CONTOSO\\bruno", "bruno@contoso.com", "bruno"] {
        let said = site.curl(&["--ntlm", "-u", &format!("{name}:Pass-word1")]).await;
        let answers = said.matches("x-contoso-user: ").count();
        assert_eq!(said.matches("x-contoso-user: bruno").count(), 2, "{name}: {said}");
        assert_eq!(answers, 3, "a challenge, then both pages: {said}");
        assert_eq!(
            said.lines().filter(|line| line.starts_with("x-contoso-connection")).collect::<BTreeSet<_>>().len(),
            1
        );

        let refused = site.curl(&["--ntlm", "-u", &format!("{name}:wrong")]).await;
        assert_eq!(refused.matches("x-contoso-user: bruno").count(), 0, "{name}: {refused}");
        assert!(refused.contains("401 unauthorized"), "{refused}");
    }
}

#[tokio::test]
async fn integrated_authentication_is_offered_only_where_the_directory_has_it_on() {
    let site = Site::start().await;
    let braga = site.connect("cas-bra-1").await.get("/owa/", "").await;
    assert_eq!(braga.field("www-authenticate"), ["Basic realm=\"cas-bra-1.contoso.com\""]);

    site.contoso.server("cas-opo-1").without_integrated();
    let porto = site.connect("cas-opo-1").await.get("/owa/", "").await;
    assert_eq!(porto.field("www-authenticate"), ["Basic realm=\"cas-opo-1.contoso.com\""]);

    site.contoso.server("cas-opo-1").resume();
    let porto = site.connect("cas-opo-1").await.get("/owa/", "").await;
    assert_eq!(porto.field("www-authenticate").len(), 3);
}

#[tokio::test]
async fn only_the_virtual_directories_of_the_directory_exist() {
    let site = Site::start().await;
    for (server, path, status) in [
        ("cas-opo-1", "/OWA/", 200),
        ("cas-opo-1", "/%6fwa/", 200),
        ("cas-opo-1", "/public/", 200),
        ("cas-opo-1", "/ecp/", 404),
        ("cas-opo-1", "/PowerShell", 404),
        ("cas-opo-1", "/", 404),
        ("ex03-opo", "/exchange/duarte/", 200),
        ("ex03-opo", "/exchweb/img/x.gif", 200),
        ("ex03-opo", "/owa/", 404),
        ("ex03-opo", "/EWS/Exchange.asmx", 404),
    ] {
        assert_eq!(site.connect(server).await.get(path, BRUNO).await.status, status, "{server} {path}");
    }
}

#[tokio::test]
async fn activesync_tells_its_versions_and_holds_a_ping() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let options = client.request("OPTIONS /Microsoft-Server-ActiveSync", BRUNO, b"").await;
    assert_eq!(options.field("ms-asprotocolversions"), ["1.0,2.0,2.1,2.5,12.0,12.1"]);
    assert_eq!(options.field("ms-server-activesync"), ["8.3"]);

    site.contoso.hold_pings(Duration::from_millis(150));
    // version 12.1, command 18, locale 0x0409, no device id, key or type ([MS-ASHTTP] 2.2.1.1.1.1)
    let encoded = BASE64_STANDARD.encode([121, 18, 9, 4, 0, 0, 0]);
    for query in ["Cmd=Ping&User=bruno&DeviceId=d&DeviceType=t", encoded.as_str()] {
        let begun = tokio::time::Instant::now();
        let ping = client.request(&format!("POST /Microsoft-Server-ActiveSync?{query}"), BRUNO, b"x").await;
        assert_eq!((ping.status, ping.body.first()), (200, Some(&3)), "WBXML 1.3: {query}");
        assert!(begun.elapsed() >= Duration::from_millis(150), "{query}");
    }
}

#[tokio::test]
async fn an_echo_lists_the_request_but_no_credential() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let fields = format!("{BRUNO}X-Contoso-Echo: 1\r\nX-Forwarded-For: 192.0.2.1\r\n");
    let echo = client.request("POST /EWS/Exchange.asmx?a=b", &fields, b"hello").await.text();
    let hash = blake3::hash(b"hello");
    assert!(echo.starts_with("POST /EWS/Exchange.asmx?a=b HTTP/1.1\n"), "{echo}");
    assert!(echo.contains("\nx-forwarded-for: 192.0.2.1\n"), "{echo}");
    assert!(echo.contains("\nauthorization: Basic\n"), "{echo}");
    assert!(echo.ends_with(&format!("\nbody: 5 bytes, blake3 {hash}\n")), "{echo}");

    let refused =
        client.request("POST /owa/", "Authorization: NTLM TlRMTVNTUAAB\r\nX-Contoso-Echo: 1\r\n", b"hi").await;
    assert_eq!(refused.status, 401);
    assert!(refused.text().contains("\nauthorization: NTLM\n"), "{}", refused.text());
}

#[tokio::test]
async fn a_header_line_of_64_kib_arrives() {
    let site = Site::start().await;
    let long = "k".repeat(64 * 1024);
    let fields = format!("{BRUNO}X-Contoso-Echo: 1\r\nX-Ticket: {long}\r\n");
    let echo = site.connect("cas-opo-1").await.get("/owa/", &fields).await;
    assert!(echo.text().contains(&long));
}

#[tokio::test]
async fn a_request_can_hold_its_answer_size_it_and_close_after_it() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    let begun = tokio::time::Instant::now();
    client.get("/owa/", &format!("{BRUNO}X-Contoso-Hold-Ms: 120\r\n")).await;
    assert!(begun.elapsed() >= Duration::from_millis(120));

    let large = client.get("/OAB/full.lzx", &format!("{BRUNO}X-Contoso-Size: 1000001\r\n")).await;
    assert_eq!(large.body.len(), 1_000_001);

    let last = client.get("/owa/", &format!("{BRUNO}X-Contoso-Close: 1\r\n")).await;
    assert_eq!((last.status, last.field("connection")), (200, vec!["close"]));
    assert_eq!(client.rest().await, b"", "closed");
}

#[tokio::test]
async fn a_connection_can_be_dropped_before_the_answer_and_in_its_middle() {
    let site = Site::start().await;
    for server in ["cas-opo-1", "ex03-opo"] {
        let mut client = site.connect(server).await;
        client.send("GET /exchange/", &format!("{BRUNO}X-Contoso-Reset: before\r\n"), b"").await;
        assert_eq!(client.rest().await, b"", "{server}");

        let mut client = site.connect(server).await;
        client.send("GET /exchange/", &format!("{BRUNO}X-Contoso-Reset: mid\r\n"), b"").await;
        let rest = client.rest().await;
        let rest = String::from_utf8_lossy(&rest);
        let (header, body) = rest.split_once("\r\n\r\n").expect("a header");
        assert!(header.contains("Content-Length: 2048"), "{header}");
        assert_eq!(body.len(), 1024, "{server}");
    }
}

#[tokio::test]
async fn rpc_data_comes_back_while_more_of_it_is_sent() {
    let site = Site::start().await;
    for (method, length) in [("RPC_IN_DATA", 1 << 30), ("RPC_OUT_DATA", 12)] {
        let mut client = site.connect("cas-opo-1").await;
        let head = format!(
            "{method} /rpc/rpcproxy.dll?mbx-opo:6001 HTTP/1.1\r\nHost: c\r\n{BRUNO}Content-Length: {length}\r\n\r\n"
        );
        client.write(head.as_bytes()).await;
        client.write(b"one-").await;
        let answer = client.head().await;
        assert_eq!((answer.status, answer.field("content-length")), (200, vec![length.to_string().as_str()]));
        assert_eq!(client.exactly(4).await, b"one-", "{method}");
        client.write(b"two-").await;
        assert_eq!(client.exactly(4).await, b"two-", "the request is still open");
    }
}

#[tokio::test]
async fn an_endless_request_without_credential_is_refused_at_once() {
    let site = Site::start().await;
    let mut client = site.connect("cas-opo-1").await;
    client.write(b"RPC_IN_DATA /rpc/rpcproxy.dll HTTP/1.1\r\nHost: c\r\nContent-Length: 1073741824\r\n\r\n").await;
    assert_eq!(client.head().await.status, 401);
}

#[tokio::test]
async fn an_expectation_is_met_or_refused_as_asked() {
    let site = Site::start().await;
    let fields = format!("{BRUNO}Expect: 100-continue\r\nX-Contoso-Echo: 1\r\nContent-Length: 5\r\n");

    let mut client = site.connect("cas-opo-1").await;
    client.write(format!("POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: c\r\n{fields}\r\n").as_bytes()).await;
    assert_eq!(client.head().await.status, 100);
    client.write(b"hello").await;
    let answer = client.answer().await;
    assert!(answer.text().contains("body: 5 bytes"), "{}", answer.text());

    for (refusal, status) in [("1", 417), ("401", 401)] {
        let mut client = site.connect("cas-opo-1").await;
        let head = format!(
            "POST /EWS/Exchange.asmx HTTP/1.1\r\nHost: c\r\nX-Contoso-Refuse-Expect: {refusal}\r\n{fields}\r\n"
        );
        client.write(head.as_bytes()).await;
        let answer = client.answer().await;
        assert_eq!(answer.status, status);
        assert!(answer.text().contains("body: not read"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_stopped_server_drops_its_connections_and_comes_back_on_the_same_port() {
    let site = Site::start().await;
    let server = site.contoso.server("cas-opo-1");
    let address = server.address();
    let mut client = site.connect("cas-opo-1").await;
    client.get("/owa/", BRUNO).await;

    server.stop().await;
    assert_eq!((server.is_up(), server.open_connections()), (false, 0));
    assert_eq!(client.rest().await, b"", "the connection is gone");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
    let stranger = TcpSocket::new_v4().expect("a socket");
    assert!(stranger.bind(address).is_err(), "the port stays reserved");

    server.start().expect("the port is still ours");
    server.start().expect("starting twice does no harm");
    assert_eq!(server.address(), address);
    assert_eq!(site.connect("cas-opo-1").await.get("/owa/", BRUNO).await.status, 200);
}

#[tokio::test]
async fn a_slow_server_answers_late_and_a_hung_one_only_once_it_resumes() {
    let site = Site::start().await;
    let server = site.contoso.server("cas-opo-1");
    let mut client = site.connect("cas-opo-1").await;
    server.slow(Duration::from_millis(120));
    let begun = tokio::time::Instant::now();
    client.get("/owa/", BRUNO).await;
    assert!(begun.elapsed() >= Duration::from_millis(120));
    server.resume();

    server.hang();
    let mut client = site.connect("cas-opo-1").await;
    client.send("GET /owa/", BRUNO, b"").await;
    assert!(timeout(Duration::from_millis(150), client.head()).await.is_err(), "no answer");
    assert_eq!(server.requests(), 2, "but the request arrived");
    server.resume();
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_server_counts_its_connections_and_requests() {
    let site = Site::start().await;
    let server = site.contoso.server("cas-opo-1");
    let mut one = site.connect("cas-opo-1").await;
    let mut two = site.connect("cas-opo-1").await;
    one.get("/owa/", BRUNO).await;
    one.get("/owa/", "").await;
    two.get("/nothing", "").await;
    assert_eq!((server.connections(), server.open_connections(), server.requests()), (2, 2, 3));
    assert_eq!(site.contoso.server("ex03-opo").requests(), 0);
    drop(two);
    within(async {
        while server.open_connections() > 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_control_port_works_the_same_switches() {
    let site = Site::start().await;
    let contoso = Arc::new(site.contoso);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let serving = tokio::spawn(control::serve(listener, Arc::clone(&contoso)));
    let mut curl = Client::over(TcpStream::connect(address).await.expect("listening"));

    let list = curl.get("/", "").await.text();
    assert_eq!(list.lines().count(), 3, "{list}");
    let server = contoso.server("cas-opo-1");
    assert!(curl.request("POST /cas-opo-1/stop", "", b"").await.text().contains(" stopped "));
    assert!(!server.is_up());
    assert!(curl.request("POST /cas-opo-1/start", "", b"").await.text().contains(" up "));
    assert!(server.is_up());
    curl.request("POST /cas-opo-1/slow/500", "", b"").await;
    curl.request("POST /cas-opo-1/fail/owa", "", b"").await;
    curl.request("POST /cas-opo-1/without-integrated", "", b"").await;
    let hung = curl.request("POST /cas-opo-1/hang", "", b"").await.text();
    assert!(hung.contains(" up hung slow=500ms failing=owa without-integrated connections=0 "), "{hung}");
    curl.request("POST /cas-opo-1/resume", "", b"").await;
    assert!(!server.behaviour().hung && server.behaviour().integrated);
    let only = curl.request("POST /cas-opo-1/integrated-only", "", b"").await.text();
    assert!(only.contains(" integrated-only ") && !only.contains("kerberos-only"), "{only}");
    curl.request("POST /cas-opo-1/keeps/silently", "", b"").await;
    let only = curl.request("POST /cas-opo-1/kerberos-only", "", b"").await.text();
    assert!(only.contains(" kerberos-only keeps=silently connections="), "{only}");
    for mistake in [
        "POST /nobody/stop",
        "POST /cas-opo-1/slow/x",
        "POST /cas-opo-1/fail/x",
        "POST /cas-opo-1/keeps/x",
        "POST /cas-opo-1/dance",
    ] {
        assert_eq!(curl.request(mistake, "", b"").await.status, 400, "{mistake}");
    }
    serving.abort();
}

#[tokio::test]
async fn the_resolve_table_has_every_server_that_serves_and_no_other() {
    let site = Site::start().await;
    let expected: BTreeMap<_, _> = [
        ("cas-opo-1.contoso.com:443", "cas-opo-1"),
        ("cas-bra-1.contoso.com:443", "cas-bra-1"),
        ("ex03-opo.contoso.com:80", "ex03-opo"),
    ]
    .map(|(entry, server)| (entry.to_owned(), site.contoso.address(server).to_string()))
    .into();
    assert_eq!(site.contoso.resolve(), expected);
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_server_and_the_cure() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("bound");
    let (_dir, pki) = pki();
    let Err(error) = Contoso::start(Arc::new(People), &pki, |_, _| Some(address)).await else {
        panic!("it started on a port in use");
    };
    let text = error.to_string();
    assert!(text.starts_with(&format!("cas-opo-1 cannot listen on {address}, because another program does")), "{text}");

    let Err(error) = Contoso::start(Arc::new(People), &pki, |_, _| None).await else {
        panic!("it started without an address");
    };
    assert!(matches!(error, StartError::NoAddress { .. }));
}

#[tokio::test]
async fn dropping_the_organisation_closes_its_ports() {
    let site = Site::start().await;
    let address = site.contoso.address("cas-opo-1");
    drop(site);
    within(async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn the_shipped_organisation_has_its_eight_servers_with_the_paths_of_their_version() {
    let site = Site::of(Arc::new(ldif::open("conf/contoso.ldif").expect("the shipped directory"))).await;
    let mut names: Vec<_> = site.contoso.servers().iter().map(|server| server.name().to_owned()).collect();
    names.sort_unstable();
    let client_access_servers = ["cas-bra-1", "cas-lis-1", "cas-lis-2", "cas-mad-1", "cas-opo-1", "cas-opo-2"];
    let back_ends = ["ex03-lis", "ex03-opo"];
    assert_eq!(names, [&client_access_servers[..], &back_ends[..]].concat());

    let paths = ["/owa/", "/EWS/Exchange.asmx", "/Autodiscover/Autodiscover.xml", "/OAB/oab.xml", "/rpc/rpcproxy.dll"];
    for (servers, status) in [(&client_access_servers[..], 200), (&back_ends[..], 404)] {
        for server in servers {
            let mut client = site.connect(server).await;
            for path in ["/exchange/bruno/", "/public/", "/exchweb/a.gif"] {
                assert_eq!(client.get(path, BRUNO).await.status, 200, "{server} {path}");
            }
            for path in paths {
                assert_eq!(client.get(path, BRUNO).await.status, status, "{server} {path}");
            }
            assert_eq!(client.get("/public/", &basic("CONTOSO\\bruno", "wrong")).await.status, 401, "{server}");
        }
    }
}

#[test]
fn certificates_are_made_once_and_again_when_one_is_spoilt() {
    let (dir, _) = pki();
    let read = |name: &str| std::fs::read(dir.path().join(name)).expect(name);
    let first = FILES.map(read);
    Pki::load_or_make(dir.path()).expect("certificates");
    assert_eq!(FILES.map(read), first, "kept");
    for name in FILES {
        let mode = std::fs::metadata(dir.path().join(name)).expect(name).permissions().mode() & 0o777;
        assert!(!name.contains("key") || mode == 0o600, "{name} has mode {mode:o}");
    }
    for name in FILES {
        let before = FILES.map(read);
        std::fs::write(dir.path().join(name), "spoilt").expect(name);
        Pki::load_or_make(dir.path()).expect("certificates");
        assert!(FILES.map(read).iter().zip(&before).all(|(new, old)| new != old), "all made anew for {name}");
        std::fs::remove_file(dir.path().join(name)).expect(name);
        Pki::load_or_make(dir.path()).expect("certificates");
    }
}

#[test]
fn a_key_of_another_certificate_is_noticed() {
    let (one, _) = pki();
    let (other, _) = pki();
    let stranger = std::fs::read(other.path().join("edge.key")).expect("a key");
    std::fs::write(one.path().join("edge.key"), &stranger).expect("written");
    Pki::load_or_make(one.path()).expect("certificates");
    assert_ne!(std::fs::read(one.path().join("edge.key")).expect("a key"), stranger);
}

#[test]
fn certificates_are_made_anew_in_the_week_before_they_end() {
    let (dir, _) = pki();
    let read = || std::fs::read(dir.path().join("ca.pem")).expect("a CA");
    let day = Duration::from_secs(24 * 60 * 60);
    let first = read();
    Pki::load_or_make_at(dir.path(), SystemTime::now() + 357 * day).expect("certificates");
    assert!(read() == first, "eight days are enough");
    Pki::load_or_make_at(dir.path(), SystemTime::now() + 359 * day).expect("certificates");
    assert!(read() != first, "six are not");
}

/// A running organisation, if not told otherwise of [`People`], with a client that trusts its CA.
struct Site {
    contoso: Contoso,
    tls: TlsConnector,
    dir: TempDir,
}

impl Site {
    async fn start() -> Site {
        Site::of(Arc::new(People)).await
    }

    async fn of(directory: Arc<dyn Directory>) -> Site {
        let (dir, pki) = pki();
        let contoso = Contoso::start(directory, &pki, any_port).await.expect("contoso");
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca().clone()).expect("a CA");
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Site { contoso, tls: TlsConnector::from(Arc::new(config)), dir }
    }

    /// What curl says, in lower case, of two pages of cas-opo-1, asked for one after the other.
    async fn curl(&self, arguments: &[&str]) -> String {
        let page = format!("https://cas-opo-1.contoso.com:{}/owa/", self.contoso.address("cas-opo-1").port());
        let mut curl = Command::new("curl");
        curl.args(["-q", "-s", "-i", "-m", "10", "--noproxy", "*"])
            .arg("--resolve")
            .arg(format!("cas-opo-1.contoso.com:{}:127.0.0.1", self.contoso.address("cas-opo-1").port()))
            .arg("--cacert")
            .arg(self.dir.path().join("ca.pem"))
            .args(arguments)
            .args([&page, &page]);
        let said = tokio::task::spawn_blocking(move || curl.output()).await.expect("it runs");
        String::from_utf8_lossy(&said.expect("curl is installed (Debian: curl)").stdout).to_lowercase()
    }

    async fn connect(&self, server: &str) -> Client {
        let address: SocketAddr = self.contoso.address(server);
        let stream = TcpStream::connect(address).await.expect("listening");
        if server.starts_with("ex03") {
            return Client::over(stream);
        }
        let name = ServerName::try_from(format!("{server}.contoso.com")).expect("a name");
        Client::over(within(self.tls.connect(name, stream)).await.expect("TLS"))
    }
}

/// A client that shows the bytes: one HTTP/1.1 connection, nothing followed, nothing retried.
struct Client {
    stream: Box<dyn Stream>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

struct Answer {
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Client {
    fn over(stream: impl Stream + 'static) -> Client {
        Client { stream: Box::new(stream) }
    }

    async fn get(&mut self, path: &str, fields: &str) -> Answer {
        self.request(&format!("GET {path}"), fields, b"").await
    }

    /// Both legs of a handshake; the answer to the second.
    async fn sign_in(&mut self, path: &str, handshake: &Handshake) -> Answer {
        let challenge = self.get(path, &authorization(&handshake.first())).await;
        let value = challenge.field("www-authenticate").first().copied().unwrap_or_default().to_owned();
        self.get(path, &authorization(&handshake.answer(&value))).await
    }

    async fn request(&mut self, method_and_target: &str, fields: &str, body: &[u8]) -> Answer {
        self.send(method_and_target, fields, body).await;
        self.answer().await
    }

    async fn send(&mut self, method_and_target: &str, fields: &str, body: &[u8]) {
        let length = body.len();
        let head = format!("{method_and_target} HTTP/1.1\r\nHost: c\r\n{fields}Content-Length: {length}\r\n\r\n");
        self.write(&[head.as_bytes(), body].concat()).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        within(async {
            self.stream.write_all(bytes).await.expect("written");
            self.stream.flush().await.expect("flushed");
        })
        .await;
    }

    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        let length = answer.field("content-length").first().map_or(0, |length| length.parse().expect("a length"));
        answer.body = self.exactly(length).await;
        answer
    }

    async fn head(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.exactly(1).await);
        }
        let head = String::from_utf8(head).expect("text");
        let mut lines = head.trim_end().lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status").parse().expect("a number");
        let fields = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        Answer { status, fields, body: Vec::new() }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        within(self.stream.read_exact(&mut bytes)).await.expect("that many bytes");
        bytes
    }

    /// Everything until the connection ends, however it ends.
    async fn rest(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = within(self.stream.read_to_end(&mut bytes)).await;
        bytes
    }
}

impl Answer {
    fn field(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect()
    }

    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("text")
    }
}

/// Two people and four servers.
struct People;

#[async_trait]
impl Directory for People {
    async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
        let servers = vec![
            server("cas-opo-1", true, AuthenticationMethods::BASIC | AuthenticationMethods::WINDOWS_INTEGRATED),
            server("mbx-opo", false, 0),
            server("cas-bra-1", true, AuthenticationMethods::BASIC),
            Server { version: Version::from_version_number(7638), ..server("ex03-opo", false, 0) },
        ];
        Ok(TopologyReading { parts: TopologyParts { servers, ..TopologyParts::default() }, oddities: Vec::new() })
    }

    async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
        let account = match name {
            MailboxName::Address(address) => address.strip_suffix("@contoso.com"),
            MailboxName::Account { domain, account } => (domain == "contoso").then_some(account.as_str()),
            MailboxName::Bare(account) => Some(account.as_str()),
            MailboxName::Guid(_) => None,
        };
        let found = account.filter(|account| ["bruno", "duarte"].contains(account));
        Ok(found.map(|account| Entry {
            name: format!("{account}@contoso.com"),
            ..schema::entry(&Record::new(format!("CN={account},DC=contoso,DC=com")))
        }))
    }

    async fn changes(&self) -> Result<Changes, DirectoryError> {
        Ok(Changes::default())
    }

    async fn verify(&self, _entry: &Entry, password: &Secret) -> Result<Verdict, DirectoryError> {
        Ok(if password.expose() == b"Pass-word1" { Verdict::Right } else { Verdict::Wrong })
    }
}

fn server(name: &str, client_access: bool, methods: u32) -> Server {
    let mut virtual_directories = [const { None }; VirtualDirectoryKind::COUNT];
    for protocol in [Protocol::Owa, Protocol::ActiveSync, Protocol::Ews, Protocol::Oab, Protocol::OutlookAnywhere] {
        let kind = protocol.virtual_directory().expect("it has one");
        virtual_directories[kind as usize] = Some(VirtualDirectory {
            internal_url: format!("https://{name}.contoso.com{}", protocol.default_path()).parse().ok(),
            external_url: None,
            internal_authentication: AuthenticationMethods(methods),
        });
    }
    Server {
        name: name.into(),
        fqdn: format!("{name}.contoso.com"),
        legacy_dn: String::new(),
        site_name: None,
        site: None,
        version: Version::from_version_number(1_912_832_083),
        client_access,
        hash_seed: 0,
        virtual_directories: if client_access { virtual_directories } else { [const { None }; _] },
    }
}

fn pki() -> (TempDir, Pki) {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = Pki::load_or_make(&dir.path().join(".")).expect("certificates");
    (dir, pki)
}

fn basic(user: &str, password: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn authorization(value: &str) -> String {
    format!("Authorization: {value}\r\n")
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), work).await.expect("done in time")
}

/// `bruno:Pass-word1`
const BRUNO: &str = "Authorization: Basic YnJ1bm86UGFzcy13b3JkMQ==\r\n";
const OFFERS: [&str; 3] = ["Negotiate", "NTLM", "Basic realm=\"cas-opo-1.contoso.com\""];
const FILES: [&str; 5] = ["ca.pem", "edge.pem", "edge.key", "servers.pem", "servers.key"];
