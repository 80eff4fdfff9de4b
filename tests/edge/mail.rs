//! POP3 and IMAP4 through the edge to real Dovecots, which stand where Contoso's servers are.

mod ntlm;
mod trouble;

use std::{
    fmt::Write as _,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};

use crate::{
    admin::ADMIN,
    dovecot::{Dovecot, PASSWORD, Port, Wish},
    harness::{House, Plan, start_edge, until, within},
    record, tls,
    wire::{Wire, play},
};

/// Contoso, its mail servers, and an edge with a listener for each way of POP3 and IMAP4.
struct Post {
    house: House,
    ex03_opo: Dovecot,
    cas_lis: [Dovecot; 2],
}

/// The listeners, in the order of the configuration, after the two of the web.
#[derive(Clone, Copy)]
enum To {
    Imap4 = 2,
    Imap4Tls = 3,
    Pop3 = 4,
    Pop3Tls = 5,
    /// IMAP4 that takes passwords in clear.
    Imap4InClear = 6,
    /// The same of POP3.
    Pop3InClear = 7,
}

impl Post {
    async fn start() -> Post {
        Post::with("").await
    }

    /// With further lines, keys of `[mail]` dotted.
    async fn with(further: &str) -> Post {
        Post::planned(further, Plan::default()).await
    }

    async fn planned(further: &str, plan: Plan) -> Post {
        let house = House::without_edge(&plan).await;
        let file = |name: &str| std::fs::read_to_string(house.folder.path().join(name)).expect("contoso made it");
        let (certificate, key) = (file("servers.pem"), file("servers.key"));
        let start = |name, people: &'static [&'static str], is_tls: bool| {
            let people: Vec<_> = people.iter().map(|name| (*name, PASSWORD)).collect();
            let certificate = is_tls.then_some((&*certificate, &*key));
            Dovecot::start(Wish { name, people: &people, certificate, ..Wish::default() })
        };
        let (ex03_opo, cas_lis) = tokio::task::block_in_place(|| {
            let of_ana = ["cas-lis-1", "cas-lis-2"].map(|name| start(name, &["ana"], true));
            (start("ex03-opo", &["duarte"], false), of_ana)
        });
        let resolve = vec![
            ("ex03-opo.contoso.com:143", ex03_opo.address(Port::Imap4)),
            ("ex03-opo.contoso.com:110", ex03_opo.address(Port::Pop3)),
            ("cas-lis-1.contoso.com:143", cas_lis[0].address(Port::Imap4)),
            ("cas-lis-2.contoso.com:143", cas_lis[1].address(Port::Imap4)),
            ("cas-lis-1.contoso.com:993", cas_lis[0].address(Port::Imap4Tls)),
            ("cas-lis-1.contoso.com:995", cas_lis[0].address(Port::Pop3Tls)),
            ("cas-lis-2.contoso.com:993", cas_lis[1].address(Port::Imap4Tls)),
            ("cas-lis-2.contoso.com:995", cas_lis[1].address(Port::Pop3Tls)),
        ];
        let mut post = Post { house, ex03_opo, cas_lis };
        let is_ours = |place: &str| plan.resolve.iter().all(|(other, _)| *other != place);
        let resolve = resolve.into_iter().filter(|(place, _)| is_ours(place));
        let resolve = resolve.chain(plan.resolve.iter().copied()).collect();
        let further = format!("{further}\n{}{}", plan.further, listeners());
        let plan = Plan { further, resolve, ..plan };
        post.house.edge = Some(start_edge(&post.house.contoso, &post.house.folder, plan).await);
        post
    }

    fn address(&self, to: To) -> SocketAddr {
        self.house.edge.as_ref().expect("a running edge").addresses()[to as usize]
    }

    async fn wire(&self, to: To) -> Wire {
        match to {
            To::Imap4 | To::Pop3 | To::Imap4InClear | To::Pop3InClear => Wire::connect(self.address(to)).await,
            To::Imap4Tls | To::Pop3Tls => {
                let stream = TcpStream::connect(self.address(to)).await.expect("the edge accepts");
                Wire::over(self.under_tls(stream).await)
            }
        }
    }

    async fn under_tls(&self, stream: TcpStream) -> tokio_rustls::client::TlsStream<TcpStream> {
        let connector = tls::connector(&self.house, tls::TLS13, &[]);
        let name = ServerName::try_from("mail.contoso.com").expect("a name");
        within("TLS", connector.connect(name, stream)).await.expect("a handshake")
    }

    /// What somebody is told who logs on.
    async fn logs_on(&self, to: To, user: &str, password: &str) -> String {
        let mut wire = self.wire(to).await;
        wire.through("\r\n").await;
        match to {
            To::Imap4 | To::Imap4Tls | To::Imap4InClear => {
                wire.send(format!("a1 LOGIN \"{user}\" \"{password}\"\r\n")).await;
                loop {
                    let line = wire.through("\r\n").await;
                    if line.starts_with("a1 ") {
                        return line;
                    }
                }
            }
            To::Pop3 | To::Pop3Tls | To::Pop3InClear => {
                wire.send(format!("USER {user}\r\n")).await;
                wire.through("\r\n").await;
                wire.send(format!("PASS {password}\r\n")).await;
                wire.through("\r\n").await
            }
        }
    }
}

fn listeners() -> String {
    let tls = "tls = { certificate = \"@FOLDER@/edge.pem\", key = \"@FOLDER@/edge.key\", start_tls = ";
    let mut text = String::new();
    for (protocol, further) in [
        ("imap4", format!("{tls}true }}")),
        ("imap4", format!("{tls}false }}")),
        ("pop3", format!("{tls}true }}")),
        ("pop3", format!("{tls}false }}")),
        ("imap4", "allow_plain_logon = true".to_owned()),
        ("pop3", "allow_plain_logon = true".to_owned()),
    ] {
        let _ = write!(text, "\n[[listener]]\naddress = \"127.0.0.1:0\"\nprotocol = \"{protocol}\"\n{further}\n"); // a String takes everything
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_2003_mailbox_is_served_by_its_own_server_over_either_protocol() {
    let post = Post::start().await;
    post.ex03_opo.deliver("duarte", "Subject: moin\n\nYou have reached ex03-opo.\n");
    let mut imap4 = post.wire(To::Imap4Tls).await;
    assert!(imap4.through("\r\n").await.starts_with("* OK [CAPABILITY IMAP4rev1 "));
    imap4.send("a1 LOGIN duarte Pass-word1\r\n").await;
    imap4.through("a1 OK").await;
    imap4.send("a2 SELECT INBOX\r\na3 FETCH 1 BODY[TEXT]\r\n").await;
    assert!(imap4.through("a3 OK").await.contains("You have reached ex03-opo."));
    let mut pop3 = post.wire(To::Pop3Tls).await;
    pop3.through("\r\n").await;
    // All at once: what comes after the password is the server's.
    pop3.send("USER duarte\r\nPASS Pass-word1\r\nRETR 1\r\nQUIT\r\n").await;
    let rest = pop3.rest().await;
    assert!(rest.contains("You have reached ex03-opo."), "{rest}");
    let line = record::line(&["protocol=pop3", "stage=end", "user=duarte", "cas=ex03-opo"]).await;
    assert!(line.contains("rule=back-end-2003") && line.contains("ended="), "{line}");
    assert_eq!(record::lines(&["Pass-word1"]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mailbox_of_the_edges_own_site_is_served_by_its_pool_and_another_member_takes_over() {
    let mut post = Post::start().await;
    for served in [1, 2] {
        let told = post.logs_on(To::Imap4Tls, "ana", PASSWORD).await;
        assert!(told.starts_with("a1 OK"), "{told}");
        let has_ana = |dovecot: &&mut Dovecot| dovecot.log().contains("Login: user=<ana>");
        until("it is logged", async || post.cas_lis.iter_mut().filter(has_ana).count() == served).await;
        tokio::task::block_in_place(|| post.cas_lis.iter_mut().filter(has_ana).for_each(Dovecot::stop));
    }
    let told = post.logs_on(To::Imap4Tls, "ana", PASSWORD).await;
    assert!(told.starts_with("a1 NO [UNAVAILABLE] "), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lives_elsewhere_is_told_where_but_only_with_the_right_password() {
    let post = Post::with("mail.refusal_delay = \"300ms\"").await;
    for to in [To::Imap4Tls, To::Pop3Tls] {
        for (user, told) in [
            ("bruno", "cas-opo-1.contoso.com"),
            ("CONTOSO\\\\carla", "mail.madrid.contoso.com"),
            ("gil", "cas-bra-1.contoso.com"),
        ] {
            let user = if matches!(to, To::Pop3Tls) { user.replace("\\\\", "\\") } else { user.to_owned() };
            let words = post.logs_on(to, &user, PASSWORD).await;
            assert!(words.contains(told), "{user}: {words}");
        }
        let refused = post.logs_on(to, "bruno", "wrong").await;
        for (user, password) in
            [("nobody", PASSWORD), ("carla", "wrong"), ("helena", "wrong"), ("duarte", "wrong"), ("ana", "wrong")]
        {
            let began = Instant::now();
            assert_eq!(post.logs_on(to, user, password).await, refused, "{user}");
            let took = began.elapsed();
            assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{user}: {took:?}");
        }
        for user in ["filipe", "helena"] {
            assert_ne!(post.logs_on(to, user, PASSWORD).await, refused, "{user} has proven who they are");
        }
    }
    assert_eq!(post.ex03_opo.log().matches("auth failed").count(), 0, "no wrong password came to a server");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_taken_in_clear_unless_it_is_allowed() {
    let post = Post::with("mail.refusal_delay = \"0s\"").await;
    for (to, refusal) in [(To::Imap4, "a1 NO [PRIVACYREQUIRED] "), (To::Pop3, "-ERR ")] {
        let told = post.logs_on(to, "duarte", PASSWORD).await;
        assert!(told.starts_with(refusal), "{told}");
    }
    assert!(post.logs_on(To::Imap4InClear, "duarte", PASSWORD).await.starts_with("a1 OK"));
    assert!(post.logs_on(To::Pop3InClear, "duarte", PASSWORD).await.starts_with("+OK"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_begins_by_command_and_nothing_said_before_counts() {
    let post = Post::start().await;
    for (to, command, agreed, logon, done) in [
        (To::Imap4, "a1 STARTTLS\r\n", "a1 OK", "a2 LOGIN duarte Pass-word1\r\n", "a2 OK"),
        (To::Pop3, "STLS\r\n", "+OK", "USER duarte\r\nPASS Pass-word1\r\n", "+OK"),
    ] {
        let mut stream = TcpStream::connect(post.address(to)).await.expect("the edge accepts");
        assert!(hear(&mut stream).await.contains("OK"), "a greeting");
        tokio::io::AsyncWriteExt::write_all(&mut stream, command.as_bytes()).await.expect("sent");
        assert!(hear(&mut stream).await.starts_with(agreed));
        let mut wire = Wire::over(post.under_tls(stream).await);
        wire.send(logon).await;
        if matches!(to, To::Pop3) {
            wire.through("\r\n").await;
        }
        let told = wire.through("\r\n").await;
        assert!(told.contains(done.trim_start_matches("a2 ")), "{told}");

        let mut stream = TcpStream::connect(post.address(to)).await.expect("the edge accepts");
        hear(&mut stream).await;
        tokio::io::AsyncWriteExt::write_all(&mut stream, format!("{command}{logon}").as_bytes()).await.expect("sent");
        assert!(hear(&mut stream).await.starts_with(agreed));
        let mut injected = Wire::over(post.under_tls(stream).await);
        injected.send(if matches!(to, To::Pop3) { "QUIT\r\n" } else { "a3 LOGOUT\r\n" }).await;
        let rest = injected.rest().await;
        assert!(rest.starts_with(if matches!(to, To::Pop3) { "+OK" } else { "* BYE" }), "{rest}");
        assert_eq!(rest.matches("OK").count(), 1, "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_has_a_server_connection_of_its_own_that_ends_with_it() {
    let post = Post::start().await;
    let mut sessions = Vec::new();
    for number in 0..5 {
        let mut wire = post.wire(To::Imap4Tls).await;
        wire.through("\r\n").await;
        wire.send("a1 LOGIN duarte Pass-word1\r\n").await;
        wire.through("a1 OK").await;
        sessions.push(wire);
        let is_logged = async || post.ex03_opo.log().matches("Login: user=<duarte>").count() == number + 1;
        until("Dovecot has logged the logon", is_logged).await;
    }
    drop(sessions);
    until("all are gone", async || post.ex03_opo.log().matches("Connection closed (No commands sent)").count() == 5)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_stops_ends_sessions_that_are_quiet_and_lets_a_mail_arrive_whole() {
    let mut post = Post::start().await;
    let mail = format!("Subject: large\n\n{}", "0123456789abcdef0123456789abcdef\n".repeat(300_000));
    post.ex03_opo.deliver("duarte", &mail);
    let (mut quiet, mut busy) = (post.wire(To::Imap4Tls).await, post.wire(To::Imap4Tls).await);
    for wire in [&mut quiet, &mut busy] {
        wire.through("\r\n").await;
        wire.send("a1 LOGIN duarte Pass-word1\r\na2 SELECT INBOX\r\n").await;
        wire.through("a2 OK").await;
    }
    busy.send("a3 FETCH 1 BODY[TEXT]\r\n").await;
    busy.through("0123456789abcdef").await;
    let edge = post.house.edge.take().expect("a running edge");
    let drained = tokio::task::spawn_blocking(move || edge.drain());
    quiet.rest().await; // ends before the large one has been read
    assert!(busy.rest().await.contains("a3 OK"));
    within("the end", drained).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_a_reload() {
    let post = Post::start().await;
    let mut wire = post.wire(To::Imap4Tls).await;
    wire.through("\r\n").await;
    wire.send("a1 LOGIN duarte Pass-word1\r\n").await;
    wire.through("a1 OK").await;
    post.house.edit_config("routing.local_site = \"Lisbon\"", "routing.local_site = \"Madrid\"");
    post.house.reload().await.expect("a good configuration");
    wire.send("a2 NOOP\r\n").await;
    wire.through("a2 OK").await;
    let told = post.logs_on(To::Imap4Tls, "ana", PASSWORD).await;
    assert!(told.contains("mail.contoso.com") || told.contains("cas-lis-1.contoso.com"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_is_stopped_and_counted_with_those_of_the_web() {
    let post = Post::with("mail.refusal_delay = \"0s\"\nlimits.failed_logons_per_user = 3").await;
    for guess in ["one", "two", "three"] {
        post.logs_on(To::Imap4Tls, "duarte", guess).await;
    }
    for to in [To::Imap4Tls, To::Pop3Tls] {
        let told = post.logs_on(to, "duarte", PASSWORD).await;
        assert!(told.contains("Too many"), "{told}");
    }
    let answer = post.house.get("duarte", "/exchange/duarte/").await;
    assert_eq!(answer.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_no_in_its_own_words_to_somebody_whose_password_is_right() {
    let server = play(|_, mut wire: Wire| async move {
        wire.send("* OK ready\r\n").await;
        loop {
            let line = wire.through("\r\n").await;
            let (tag, command) = line.split_once(' ').expect("a command");
            let answer = if command.starts_with("CAPABILITY") {
                format!("* CAPABILITY IMAP4rev1 IDLE NAMESPACE LITERAL+\r\n{tag} OK done\r\n")
            } else {
                format!("{tag} NO IMAP4 is off for Pass-word1, says the administrator\r\n")
            };
            wire.send(answer).await;
        }
    })
    .await;
    let plan = Plan { resolve: vec![("ex03-lis.contoso.com:143", server)], ..Plan::default() };
    let post = Post::planned("mail.refusal_delay = \"0s\"", plan).await;
    let told = post.logs_on(To::Imap4Tls, "elsa", PASSWORD).await;
    assert_eq!(told, "a1 NO IMAP4 is off for ***, says the administrator\r\n");
    record::line(&["event=FC190", "elsa"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_log_on_in_time_is_let_go() {
    let post = Post::with("mail.logon_timeout = \"1s\"").await;
    for (to, goodbye) in [(To::Imap4Tls, "* BYE "), (To::Imap4, "* BYE "), (To::Pop3Tls, "")] {
        let mut idle = post.wire(to).await;
        idle.through("\r\n").await;
        let rest = idle.rest().await;
        assert!(rest.starts_with(goodbye) && rest.is_empty() == goodbye.is_empty(), "{rest}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_stops_lets_the_idle_go_and_answers_who_has_asked() {
    let delay = Duration::from_secs(6); // longer than what the idle are left
    let mut post = Post::with("mail.refusal_delay = \"6s\"").await;
    let (mut idle, mut asked) = (post.wire(To::Imap4Tls).await, post.wire(To::Imap4Tls).await);
    for wire in [&mut idle, &mut asked] {
        wire.through("\r\n").await;
    }
    let asked_at = Instant::now();
    asked.send("a1 LOGIN drained-by-then wrong\r\n").await;
    record::line(&["stage=logon", "user=drained-by-then "]).await; // it is judged, and waits for its delay
    let edge = post.house.edge.take().expect("a running edge");
    let drained = tokio::task::spawn_blocking(move || edge.drain());
    assert!(idle.rest().await.starts_with("* BYE "));
    assert!(asked_at.elapsed() < delay, "the other waits still");
    let told = asked.rest().await;
    assert!(told.starts_with("a1 NO [AUTHENTICATIONFAILED] ") && told.contains("\r\n* BYE "), "{told}");
    within("the end", drained).await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_logon_and_each_session_is_told_and_counted_once() {
    let post = Post::with(&format!("{ADMIN}mail.refusal_delay = \"0s\"")).await;
    let client = "127.0.0.47"; // nobody else comes from there
    let mut wire = wire_from(client, post.address(To::Imap4InClear)).await;
    wire.through("\r\n").await;
    for (logon, answer) in [
        ("a1 LOGIN duarte wrong\r\n", "a1 NO [AUTHENTICATIONFAILED] "),
        ("a2 LOGIN bruno Pass-word1\r\n", "a2 NO [CONTACTADMIN] "),
        ("a3 LOGIN duarte Pass-word1\r\n", "a3 OK"),
        ("a4 NOOP\r\n", "a4 OK"),
    ] {
        wire.send(logon).await;
        wire.through(answer).await;
        wire.through("\r\n").await;
    }
    let client = format!("client={client} ");
    assert_eq!(record::lines(&[&client, "stage=end"]), Vec::<String>::new(), "it is open");
    drop(wire);
    let end = record::line(&[&client, "stage=end"]).await;
    assert!(end.contains("cas=ex03-opo ") && end.contains("ended=client "), "{end}");
    let session = end.split(' ').find(|pair| pair.starts_with("request=")).expect("a session");
    let told = |parts: &[&str]| record::lines(&[&[&*client, session, " "], parts].concat()).len();
    assert_eq!([told(&["stage=logon"]), told(&["stage=end"]), told(&[])], [3, 1, 4]);
    for denial in ["wrong-password", "other-server", "-"] {
        assert_eq!(told(&["stage=logon", &format!("denial={denial} ")]), 1, "{denial}");
    }
    let metrics = post.house.metrics().await;
    let logons = |labels: &[&str]| metrics.sum("firstcas_mail_logons_total", labels);
    assert_eq!(logons(&[]), 3);
    for (outcome, decision) in [("wrong_password", "refused"), ("denied", "other_server"), ("signed_in", "back_end")] {
        let labels = [format!("outcome=\"{outcome}\""), format!("decision=\"{decision}\""), "imap4".to_owned()];
        assert_eq!(logons(&labels.each_ref().map(|label| &**label)), 1, "{outcome}");
    }
    assert_eq!(metrics.sum("firstcas_mail_logon_duration_seconds_count", &[]), 1);
    assert_eq!(metrics.sum("firstcas_mail_sessions_begun_total", &["imap4"]), 1);
    assert_eq!(metrics.sum("firstcas_server_requests_total", &["ex03-opo"]), 1);
    assert_eq!(metrics.sum("firstcas_server_requests_total", &[]), 1, "at no other");
    let bytes = |way| metrics.sum("firstcas_mail_bytes_total", &["imap4", way]);
    assert_eq!(bytes("to_server"), "a4 NOOP\r\n".len() as u64);
    assert!(bytes("to_client") > 0);
    until("it is over", async || post.house.metrics().await.sum("firstcas_mail_sessions", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_keeps_nothing_of_what_was_in_force_when_it_began() {
    let post = Post::start().await;
    let in_force = post.house.edge.as_ref().expect("a running edge").in_force();
    let old = Arc::downgrade(&in_force);
    let (organisation, config) = (Arc::downgrade(&in_force.organisation), Arc::downgrade(&in_force.config));
    drop(in_force);
    let mut wire = post.wire(To::Imap4Tls).await;
    wire.through("\r\n").await;
    wire.send("a1 LOGIN duarte Pass-word1\r\n").await;
    wire.through("a1 OK").await;
    assert!(old.strong_count() > 0, "it is in force");
    post.house.edit_config("routing.local_site = \"Lisbon\"", "routing.local_site = \"Madrid\"");
    post.house.reload().await.expect("a good configuration");
    until("it is gone", async || {
        let left = [old.strong_count(), organisation.strong_count(), config.strong_count()];
        left == [0; 3]
    })
    .await;
    wire.send("a2 NOOP\r\n").await;
    wire.through("a2 OK").await;
}

/// A connection from this address of the machine's own.
async fn wire_from(client: &str, to: SocketAddr) -> Wire {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(client.parse().expect("an address"), 0)).expect("it is the machine's");
    Wire::over(within("a connection", socket.connect(to)).await.expect("the edge accepts"))
}

async fn hear(stream: &mut TcpStream) -> String {
    let mut bytes = [0; 1000];
    let read = within("words", tokio::io::AsyncReadExt::read(stream, &mut bytes)).await.expect("read");
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}
