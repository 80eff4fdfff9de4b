//! Mail while a server, or the directory, does not do as it should.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::net::TcpListener;

use super::{Post, To};
use crate::{
    admin::ADMIN,
    dovecot::{Dovecot, PASSWORD, Port, Wish},
    harness::{Plan, until},
    mail_servers::certificate,
    openldap::{self, BIND_DN, BIND_PASSWORD, Slapd, Tls},
    record,
    wire::{Wire, play_on},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_greets_costs_one_logon_its_patience_and_the_next_nothing() {
    let further = format!("{ADMIN}mail.client_access_servers.tls = \"none\"\nmail.server_timeout = \"1s\"");
    let mut post = Post::with(&further).await;
    assert!(post.logs_on(To::Imap4Tls, "ana", PASSWORD).await.starts_with("a1 OK"));
    let has_ana = |dovecot: &Dovecot| dovecot.log().contains("Login: user=<ana>");
    until("one of the two has logged her", async || post.cas_lis.iter().any(has_ana)).await;
    let hers = post.cas_lis.iter().position(has_ana).expect("one has");
    let (address, name) = (post.cas_lis[hers].address(Port::Imap4), ["cas-lis-1", "cas-lis-2"][hers]);
    tokio::task::block_in_place(|| post.cas_lis[hers].stop());
    let mut free = None;
    until("its port is free", async || {
        free = TcpListener::bind(address).await.ok();
        free.is_some()
    })
    .await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    play_on(free.expect("a port"), move |_, mut wire: Wire| {
        counted.fetch_add(1, Relaxed);
        async move { drop(wire.rest().await) }
    });
    let began = Instant::now();
    assert!(post.logs_on(To::Imap4Tls, "ana", PASSWORD).await.starts_with("a1 OK"));
    assert!(began.elapsed() >= Duration::from_secs(1), "it was waited for");
    assert_eq!(connections.load(Relaxed), 1);
    assert!(post.logs_on(To::Imap4Tls, "ana", PASSWORD).await.starts_with("a1 OK"));
    assert_eq!(connections.load(Relaxed), 1, "it is left alone");
    record::line(&["event=FC187", &format!("{name} lets nobody sign in by imap4: it did not answer within 1 s")]).await;
    let metrics = post.house.metrics().await;
    assert_eq!(metrics.sum("firstcas_server_requests_total", &[name]), 1, "nobody's session was there after the first");
    assert_eq!(metrics.sum("firstcas_server_requests_total", &["cas-lis-"]), 3);
    assert_eq!(metrics.sum("firstcas_mail_logons_total", &[]), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_tls_is_not_believed_is_not_said_to_be_back_by_each_try() {
    let server = tokio::task::block_in_place(|| {
        let (certificate, key, _) = certificate(&openldap::authority(), "ex03-stt.contoso.com");
        let people = &[("duarte", PASSWORD)];
        Dovecot::start(Wish { name: "ex03-stt", people, certificate: Some((&*certificate, &*key)), ..Wish::default() })
    });
    let plan = Plan {
        resolve: vec![("ex03-stt.contoso.com:143", server.address(Port::Imap4))],
        rewrite: Some(|ldif| ldif.replace("\n ", "").replace("ex03-opo", "ex03-stt")), // the log is every test's
        ..Plan::default()
    };
    let further = "mail.back_ends.tls = \"start_tls\"\nmail.refusal_delay = \"0s\"";
    let post = Post::planned(further, plan).await;
    let tries = || server.log().lines().filter(|line| line.contains("alert unknown ca")).count();
    until("it has been tried three times", async || {
        let told = post.logs_on(To::Imap4Tls, "duarte", PASSWORD).await;
        assert!(told.starts_with("a1 NO [UNAVAILABLE] "), "{told}");
        tries() >= 3
    })
    .await;
    record::line(&["event=FC", "ex03-stt", "certificate"]).await;
    assert_eq!(record::lines(&["ex03-stt accepts connections again"]), Vec::<String>::new());
    assert!(!server.log().contains("Login: user="), "no password came there");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_directory_is_away_known_people_are_served_and_nobody_else_learns_anything() {
    let mut slapd = tokio::task::block_in_place(|| Slapd::load(include_str!("../../../conf/contoso.ldif"), &Tls::None));
    let password = slapd.ldif_path().with_file_name("password");
    std::fs::write(&password, BIND_PASSWORD).expect("written");
    let directory = format!(
        "directory.ldap = {{ urls = [\"{}\"], bind_dn = \"{BIND_DN}\", bind_password_file = \"{}\", \
         users_base = \"DC=contoso,DC=com\", configuration_base = \"CN=Configuration,DC=contoso,DC=com\", \
         connect_timeout = \"1s\", search_timeout = \"2s\" }}",
        slapd.url("ldap"),
        password.display()
    );
    let limits = "mail.refusal_delay = \"0s\"\nlimits.failed_logons_per_user = 3";
    let post = Post::with(&format!("{directory}\n{limits}")).await;
    for user in ["ana", "duarte", "bruno"] {
        let told = post.logs_on(To::Imap4Tls, user, "wrong").await;
        assert!(told.starts_with("a1 NO [AUTHENTICATIONFAILED] "), "{user}: {told}");
    }
    tokio::task::block_in_place(|| slapd.stop());
    let told = post.logs_on(To::Imap4Tls, "ana", PASSWORD).await;
    assert!(told.starts_with("a1 OK"), "known, and their server judges: {told}");
    let away = post.logs_on(To::Imap4Tls, "nobody", PASSWORD).await;
    assert!(away.starts_with("a1 NO [UNAVAILABLE] The mail service cannot look up mailboxes"), "{away}");
    assert_eq!(post.logs_on(To::Imap4Tls, "bruno", PASSWORD).await, away, "where they live is for the proven");
    for guess in ["one", "two"] {
        assert_eq!(post.logs_on(To::Imap4Tls, "duarte", guess).await, away);
    }
    until("their server has judged both", async || post.ex03_opo.log().matches("auth failed").count() == 2).await;
    let told = post.logs_on(To::Imap4Tls, "duarte", PASSWORD).await;
    assert!(told.contains("Too many passwords"), "each has counted, with the one before: {told}");
}
