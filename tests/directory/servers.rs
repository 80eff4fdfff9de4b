//! Several servers, some of which do not answer: who is asked, who is told, and for how long anybody waits.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use firstcas::{
    directory::{Directory, DirectoryError, Notice, Tell, ldap, organisation::Organisation},
    secret::Secret,
};
use url::Url;

use crate::{
    CONTOSO, account, bare,
    line::{Fault, Line},
    openldap::{Slapd, Tls, authority},
    settings, within,
};

/// A directory, and what it tells.
struct Told {
    directory: Organisation,
    notices: Arc<Mutex<Vec<Notice>>>,
}

impl Told {
    fn open(settings: ldap::Settings) -> Told {
        let notices = Arc::new(Mutex::new(Vec::new()));
        let told = notices.clone();
        let tell: Tell = Arc::new(move |notice| told.lock().unwrap().push(notice));
        let directory = ldap::open(settings, vec![], &tell);
        Told { directory: directory.expect("good settings"), notices }
    }

    async fn finds_ana(&self) -> Result<bool, DirectoryError> {
        Ok(within(self.directory.find(&bare("ana"))).await?.is_some())
    }

    async fn until_told(&self, wanted: impl Fn(&Notice) -> bool) {
        within(async {
            while !self.notices.lock().unwrap().iter().any(&wanted) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn count(&self, wanted: impl Fn(&Notice) -> bool) -> usize {
        self.notices.lock().unwrap().iter().filter(|notice| wanted(notice)).count()
    }
}

fn impatient(slapd: &Slapd, domain_controllers: Vec<Url>) -> ldap::Settings {
    ldap::Settings {
        servers: ldap::Where::Listed { domain_controllers, global_catalogs: vec![] },
        connect_timeout: PATIENCE,
        search_timeout: PATIENCE,
        ..settings(slapd)
    }
}

/// Two servers of one directory; the first is behind a line.
async fn two_servers() -> (Slapd, Slapd, Line) {
    let slapds = tokio::task::spawn_blocking(|| [0; 2].map(|_| Slapd::load(CONTOSO, &Tls::None)));
    let [first, second] = slapds.await.expect("two slapd");
    let line = Line::to(&first.url("ldap")).await;
    (first, second, line)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_befalls_the_preferred_server_the_next_one_answers_until_it_is_back() {
    let (first, second, line) = two_servers().await;
    let told = Told::open(impatient(&first, vec![line.url(), second.url("ldap")]));
    for fault in [Fault::Refused, Fault::Silent, Fault::CutAfter(1), Fault::Slow(Duration::from_secs(5))] {
        assert!(told.finds_ana().await.expect("the first answers"));
        line.becomes(fault);
        let asked = Instant::now();
        assert!(told.finds_ana().await.unwrap_or_else(|error| panic!("the second answers: {error:?} at {fault:?}")));
        assert!(asked.elapsed() < PATIENCE * 6, "{fault:?}: {:?}", asked.elapsed());
        told.until_told(|notice| matches!(notice, Notice::ServerAway { .. })).await;
        let asked = Instant::now();
        for _ in 0..20 {
            assert!(told.finds_ana().await.expect("the second answers"));
        }
        // Each would wait so long.
        assert!(asked.elapsed() < PATIENCE * 20 / 2, "nobody waits for it again: {:?}", asked.elapsed());

        line.becomes(Fault::None);
        told.until_told(|notice| matches!(notice, Notice::ServerBack { .. })).await;
        let notices = std::mem::take(&mut *told.notices.lock().unwrap());
        let url = line.url().to_string();
        assert!(
            matches!(&notices[..], [Notice::ServerAway { server, .. }, Notice::ServerBack { server: back }]
                if *server == url && *back == url),
            "told once, and once again: {notices:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_no_server_answers_that_is_said_once_and_at_once_to_all_who_ask() {
    let (first, mut second, line) = two_servers().await;
    let told = Told::open(impatient(&first, vec![line.url(), second.url("ldap")]));
    assert!(told.finds_ana().await.expect("an answer"));
    line.becomes(Fault::Silent);
    second.stop();
    told.finds_ana().await.expect_err("nobody answers");
    let asked = Instant::now();
    for _ in 0..100 {
        let error = told.finds_ana().await.expect_err("nobody answers");
        assert!(matches!(error, DirectoryError::Unreachable { .. } | DirectoryError::TimedOut { .. }), "{error:?}");
    }
    assert!(asked.elapsed() < PATIENCE * 100 / 5, "each would wait so long: {:?}", asked.elapsed());
    let away = |notice: &Notice| matches!(notice, Notice::Away { .. });
    assert_eq!(told.count(away), 1, "{:?}", told.notices);

    second.start();
    told.until_told(|notice| matches!(notice, Notice::Back { .. })).await;
    assert!(told.finds_ana().await.expect("the second answers again"));
    assert_eq!((told.count(away), told.count(|notice| matches!(notice, Notice::Back { .. }))), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_answers_others_meanwhile_is_slow_and_not_lost() {
    let (first, _second, line) = two_servers().await;
    let told = Told::open(ldap::Settings { connections: 1, searches_max: 1000, ..impatient(&first, vec![line.url()]) });
    assert!(told.finds_ana().await.expect("an answer"));
    line.becomes(Fault::Slow(Duration::from_millis(150)));
    let finds = (0..200).map(|_| told.finds_ana());
    let found = futures_util::future::join_all(finds).await;
    let (in_time, late): (Vec<_>, Vec<_>) = found.into_iter().partition(Result::is_ok);
    assert!(!in_time.is_empty() && !late.is_empty(), "{} in time, {} late", in_time.len(), late.len());
    assert_eq!(told.count(|_| true), 0, "{:?}", told.notices);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_asked_of_one_server_only_and_so_is_one_that_a_server_swallowed() {
    let (first, second, line) = two_servers().await;
    let told = Told::open(impatient(&first, vec![line.url(), second.url("ldap")]));
    let ana = within(told.directory.find(&bare("ana"))).await.expect("an answer").expect("ana");
    let (right, wrong) = (Secret::new(*b"Pass-word1"), Secret::new(*b"wrong"));
    assert!(!within(told.directory.verify(&ana, &wrong)).await.expect("an answer").is_right());
    assert!(within(told.directory.verify(&ana, &right)).await.expect("an answer").is_right());
    // Refused before it had the password: the next one is asked.
    line.becomes(Fault::Refused);
    let asked = match within(told.directory.verify(&ana, &right)).await {
        // The connection that was there may break only now, and then it may have had the password.
        Err(DirectoryError::TimedOut { .. }) => within(told.directory.verify(&ana, &right)).await,
        asked => asked,
    };
    assert!(asked.expect("the second answers").is_right());
    line.becomes(Fault::None);
    told.until_told(|notice| matches!(notice, Notice::ServerBack { .. })).await;
    // It may have had the password: nobody else is asked.
    line.becomes(Fault::Silent);
    let error = within(told.directory.verify(&ana, &wrong)).await.expect_err("no answer");
    assert!(matches!(error, DirectoryError::TimedOut { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_are_asked_of_global_catalogs_and_the_organisation_of_domain_controllers() {
    let slapds = tokio::task::spawn_blocking(|| {
        let nobody = CONTOSO.split("\n\n").filter(|record| !record.contains("sAMAccountName:"));
        (Slapd::load(&nobody.collect::<Vec<_>>().join("\n\n"), &Tls::None), Slapd::load(CONTOSO, &Tls::None))
    });
    let (controller, mut catalog) = slapds.await.expect("two slapd");
    let told = Told::open(ldap::Settings {
        servers: ldap::Where::Listed {
            domain_controllers: vec![controller.url("ldap")],
            global_catalogs: vec![catalog.url("ldap")],
        },
        ..settings(&controller)
    });
    assert!(told.finds_ana().await.expect("the catalog answers"));
    catalog.stop();
    assert_eq!(within(told.directory.topology()).await.expect("the controller answers").parts.servers.len(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_account_that_two_servers_refuse_is_not_tried_at_the_others_nor_again() {
    let (first, second, line) = two_servers().await;
    line.becomes(Fault::Silent); // a bind here would wait
    let wrong = ldap::Settings {
        account: account("wrong"),
        ..impatient(&first, vec![first.url("ldap"), second.url("ldap"), line.url()])
    };
    let told = Told::open(ldap::Settings { connect_timeout: Duration::from_secs(15), connections: 4, ..wrong });
    let asked = Instant::now();
    let finds = (0..20).map(|_| told.finds_ana());
    for found in futures_util::future::join_all(finds).await {
        let error = found.expect_err("a wrong password");
        assert!(firstcas::error_chain::whole_chain(&error).contains("invalidCredentials"), "{error:?}");
    }
    assert!(asked.elapsed() < Duration::from_secs(12), "nobody waits for the silent one: {:?}", asked.elapsed());
    assert_eq!(told.count(|notice| matches!(notice, Notice::Away { .. })), 1, "{:?}", told.notices);
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_told_once_and_one_that_has_ended_is_refused() {
    let ca = authority();
    let ca_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca_file.path(), ca.pem()).expect("written");
    for (days_left, accepted) in [(400, true), (20, true), (-1, false)] {
        let slapd = Slapd::load(CONTOSO, &Tls::Ending(&ca, days_left));
        let told = Told::open(ldap::Settings {
            ca_file: Some(ca_file.path().to_owned()),
            connections: 3,
            ..impatient(&slapd, vec![slapd.url("ldaps")])
        });
        for _ in 0..6 {
            assert_eq!(told.finds_ana().await.is_ok(), accepted, "{days_left} days");
        }
        let soon = told.count(|notice| matches!(notice, Notice::CertificateEnds { days: 20, .. }));
        assert_eq!(soon, usize::from(days_left == 20), "{:?}", told.notices);
        let away =
            told.count(|notice| matches!(notice, Notice::Away { problem, .. } if problem.contains("ertificate")));
        assert_eq!(away, usize::from(!accepted), "{:?}", told.notices);
    }
}

/// For a server that is to be given up, and long for one that answers.
const PATIENCE: Duration = Duration::from_millis(1500);
