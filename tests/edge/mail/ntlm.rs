//! Windows authentication by way of the edge, at a server that judges it as Windows does.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use base64::prelude::{BASE64_STANDARD, Engine};

use super::{Post, To};
use crate::{
    admin::ADMIN,
    contoso::ntlm::{Answer, Challenge},
    dovecot::PASSWORD,
    harness::{Plan, until},
    record,
    windows_client::Handshake,
    wire::{Wire, play},
};

/// An IMAP4 server that takes Windows authentication, and any password.
#[derive(Default)]
struct Windows {
    /// It never judges.
    is_stuck: bool,
    opened: AtomicUsize,
    ended: AtomicUsize,
    /// Answers to its challenges.
    answers: AtomicUsize,
    /// Of the commands that began an exchange.
    tags: Mutex<Vec<String>>,
}

impl Windows {
    async fn serve(&self, wire: Wire) {
        self.opened.fetch_add(1, Relaxed);
        self.speak(wire).await;
        self.ended.fetch_add(1, Relaxed);
    }

    async fn speak(&self, mut wire: Wire) -> Option<()> {
        wire.send("* OK ready\r\n").await;
        loop {
            let line = wire.next_line().await?;
            let (tag, command) = line.split_once(' ').expect("a command");
            let answer = match command {
                "CAPABILITY" => "* CAPABILITY IMAP4rev1 IDLE NAMESPACE LITERAL+ AUTH=NTLM\r\n".to_owned(),
                "AUTHENTICATE NTLM" => {
                    self.tags.lock().expect("no panic").push(tag.to_owned());
                    let is_right = self.is_right(&mut wire).await?;
                    let words = if is_right { "OK you are in" } else { "NO says the server itself" };
                    wire.send(format!("{tag} {words}\r\n")).await;
                    continue;
                }
                _ => String::new(),
            };
            wire.send(format!("{answer}{tag} OK done\r\n")).await;
        }
    }

    async fn is_right(&self, wire: &mut Wire) -> Option<bool> {
        wire.send("+ \r\n").await;
        let negotiate = BASE64_STANDARD.decode(wire.next_line().await?).expect("base64");
        let challenge = Challenge::new();
        let message = challenge.message(&negotiate, "ex03-opo").expect("flags");
        wire.send(format!("+ {}\r\n", BASE64_STANDARD.encode(message))).await;
        let answer = BASE64_STANDARD.decode(wire.next_line().await?).expect("base64");
        self.answers.fetch_add(1, Relaxed);
        if self.is_stuck {
            wire.rest().await;
            return None;
        }
        Some(Answer::read(&answer).is_some_and(|answer| challenge.judge(&answer, PASSWORD)))
    }
}

/// Where ex03-opo is such a server.
async fn post(further: &str, windows: Windows) -> (Post, Arc<Windows>) {
    let windows = Arc::new(windows);
    let stands_there = windows.clone();
    let server = play(move |_, wire| {
        let windows = stands_there.clone();
        async move { windows.serve(wire).await }
    })
    .await;
    let plan = Plan { resolve: vec![("ex03-opo.contoso.com:143", server)], ..Plan::default() };
    let further = format!("{ADMIN}mail.ntlm_server = \"ex03-opo\"\nmail.refusal_delay = \"0s\"\n{further}");
    (Post::planned(&further, plan).await, windows)
}

/// As far as the server's challenge, in base64.
async fn challenged(wire: &mut Wire, tag: &str, handshake: &Handshake) -> String {
    wire.send(format!("{tag} AUTHENTICATE NTLM\r\n")).await;
    assert_eq!(wire.through("\r\n").await, "+ \r\n");
    wire.send(format!("{}\r\n", handshake.first().trim_start_matches("NTLM "))).await;
    let challenge = wire.through("\r\n").await;
    challenge.trim_end().strip_prefix("+ ").unwrap_or_else(|| panic!("no challenge but {challenge}")).to_owned()
}

async fn answer(wire: &mut Wire, handshake: &Handshake, challenge: &str) {
    let answer = handshake.answer(&format!("NTLM {challenge}"));
    wire.send(format!("{}\r\n", answer.trim_start_matches("NTLM "))).await;
}

/// What somebody is told who logs on.
async fn logs_on(post: &Post, user: &str, password: &str) -> String {
    let mut wire = post.wire(To::Imap4Tls).await;
    wire.through("\r\n").await;
    let handshake = Handshake::ntlm(user).password(password);
    let challenge = challenged(&mut wire, "a1", &handshake).await;
    answer(&mut wire, &handshake, &challenge).await;
    wire.through("\r\n").await
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_of_the_servers_own_is_let_in_by_windows_authentication() {
    let (post, windows) = post("", Windows::default()).await;
    let mut wire = post.wire(To::Imap4Tls).await;
    assert!(wire.through("\r\n").await.contains(" AUTH=NTLM"));
    let handshake = Handshake::ntlm("CONTOSO\\duarte");
    let challenge = challenged(&mut wire, "a1", &handshake).await;
    answer(&mut wire, &handshake, &challenge).await;
    wire.through("a1 OK you are in\r\n").await;
    wire.send("a2 NOOP\r\n").await;
    wire.through("a2 OK").await;
    let line =
        record::line(&["stage=logon", "credential=ntlm", "cas=ex03-opo", "denial=- ", "rule=back-end-2003"]).await;
    assert!(line.contains("user=contoso\\duarte ") && line.contains("proven=contoso\\duarte "), "{line}");
    let metrics = post.house.metrics().await;
    assert_eq!(metrics.sum("firstcas_mail_logons_total", &["outcome=\"signed_in\"", "decision=\"back_end\""]), 1);
    assert_eq!(metrics.sum("firstcas_mail_logons_total", &[]), 1);
    assert_eq!(metrics.sum("firstcas_server_requests_total", &["ex03-opo"]), 1);
    drop(wire);
    until("the server's connection has ended", async || windows.ended.load(Relaxed) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_whom_the_server_believes_learns_that_their_mailbox_is_elsewhere() {
    let (post, windows) = post("", Windows::default()).await;
    for (user, code, told) in [
        ("CONTOSO\\ana", "CANNOT", "choose a password"),
        ("CONTOSO\\bruno", "CONTACTADMIN", "cas-opo-1.contoso.com"),
        ("carla@contoso.com", "CONTACTADMIN", "mail.madrid.contoso.com"),
    ] {
        let words = logs_on(&post, user, PASSWORD).await;
        assert!(words.starts_with(&format!("a1 NO [{code}] ")) && words.contains(told), "{user}: {words}");
    }
    let refused = post.logs_on(To::Imap4Tls, "nobody", "wrong").await;
    assert!(refused.starts_with("a1 NO [AUTHENTICATIONFAILED] "), "{refused}");
    for user in ["CONTOSO\\duarte", "CONTOSO\\ana", "CONTOSO\\bruno", "carla@contoso.com", "CONTOSO\\helena", "nobody"]
    {
        assert_eq!(logs_on(&post, user, "wrong").await, refused, "{user}");
    }
    assert_eq!(logs_on(&post, "FABRIKAM\\stranger", PASSWORD).await, refused, "the server knows them, and nobody here");
    until("no connection is left", async || windows.ended.load(Relaxed) == windows.opened.load(Relaxed)).await;
    assert_eq!(windows.answers.load(Relaxed), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_by_windows_authentication_is_stopped_whatever_the_name() {
    let (post, windows) = post("limits.failed_logons_per_user = 2", Windows::default()).await;
    for user in ["CONTOSO\\duarte", "CONTOSO\\bruno", "nobody"] {
        for guess in ["one", "two"] {
            let told = logs_on(&post, user, guess).await;
            assert!(told.starts_with("a1 NO [AUTHENTICATIONFAILED] "), "{user}: {told}");
        }
        let asked = windows.answers.load(Relaxed);
        let told = logs_on(&post, user, PASSWORD).await;
        assert!(told.starts_with("a1 NO [UNAVAILABLE] Too many passwords"), "{user}: {told}");
        assert_eq!(windows.answers.load(Relaxed), asked, "the server was not asked again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_called_off_leaves_nothing_behind() {
    let (post, windows) = post("", Windows::default()).await;
    let mut wire = post.wire(To::Imap4Tls).await;
    wire.through("\r\n").await;
    let handshake = Handshake::ntlm("CONTOSO\\duarte");
    let first = challenged(&mut wire, "first", &handshake).await;
    wire.send("*\r\n").await;
    assert!(wire.through("\r\n").await.starts_with("first BAD "));
    until("its connection has ended", async || windows.ended.load(Relaxed) == 1).await;
    let second = challenged(&mut wire, "second", &handshake).await;
    assert_ne!(first, second, "another challenge");
    answer(&mut wire, &handshake, &second).await;
    wire.through("second OK you are in\r\n").await;
    wire.send("a3 NOOP\r\n").await;
    wire.through("a3 OK").await;
    assert_eq!(*windows.tags.lock().expect("no panic"), ["first", "second"]);
    assert_eq!((windows.opened.load(Relaxed), windows.ended.load(Relaxed)), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guess_counts_though_nobody_waits_for_its_judgement() {
    let further = "limits.failed_logons_per_user = 1\nmail.server_timeout = \"1s\"";
    let (post, windows) = post(further, Windows { is_stuck: true, ..Windows::default() }).await;
    let mut wire = post.wire(To::Imap4Tls).await;
    wire.through("\r\n").await;
    let handshake = Handshake::ntlm("CONTOSO\\duarte").password("guess");
    let challenge = challenged(&mut wire, "a1", &handshake).await;
    answer(&mut wire, &handshake, &challenge).await;
    until("the server judges", async || windows.answers.load(Relaxed) == 1).await;
    drop(wire);
    until("the edge has given up", async || windows.ended.load(Relaxed) == 1).await;
    let told = post.logs_on(To::Imap4Tls, "duarte", PASSWORD).await;
    assert!(told.starts_with("a1 NO [UNAVAILABLE] Too many passwords"), "{told}");
}
