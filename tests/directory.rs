//! The directory, asked the same questions over the embedded file and over a real `OpenLDAP` that loaded the same file.
#![allow(clippy::expect_used, clippy::unwrap_used)] // a failing `expect` is a failing test

mod openldap;

use std::{
    net::TcpListener,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use firstcas::{
    directory::{
        Directory, DirectoryError, Entry,
        cache::{self, CachedDirectory, Lookup},
        ldap, ldif,
        organisation::Organisation,
        schema::{self, Record, attribute, fold_dn},
    },
    identity::MailboxName,
    routing::topology::Topology,
    secret::Secret,
};
use openldap::{Slapd, Tls};
use tokio::time::timeout;
use url::Url;

/// Contoso, and what a test adds to it, from both sources.
struct Contoso {
    embedded: Organisation,
    openldap: Organisation,
    slapd: Slapd,
}

impl Contoso {
    fn start(extra: &str) -> Self {
        let slapd = Slapd::load(&format!("{CONTOSO}\n{extra}"), &Tls::None);
        Contoso {
            embedded: ldif::open(slapd.ldif_path()).expect("the file is good LDIF"),
            openldap: ldap::open(settings(&slapd)).expect("good settings"),
            slapd,
        }
    }

    fn both(&self) -> [(&'static str, &Organisation); 2] {
        [("embedded", &self.embedded), ("openldap", &self.openldap)]
    }
}

fn settings(slapd: &Slapd) -> ldap::Settings {
    ldap::Settings {
        urls: vec![slapd.url("ldap")],
        bind_dn: openldap::BIND_DN.into(),
        bind_password: Secret::new(openldap::BIND_PASSWORD.as_bytes()),
        ca_file: None,
        start_tls: false,
        users_base: Some("DC=contoso,DC=com".into()),
        configuration_base: Some("CN=Configuration,DC=contoso,DC=com".into()),
        connect_timeout: Duration::from_secs(5),
        search_timeout: Duration::from_secs(5),
        connections: 2,
    }
}

/// Every person of the stand-in organisation: account, surname, home server.
const PEOPLE: [(&str, &str, Option<&str>); 8] = [
    ("ana", "almeida", Some("mbx-lis")),
    ("bruno", "barros", Some("mbx-opo")),
    ("carla", "castro", Some("mbx-mad")),
    ("duarte", "dias", Some("ex03-opo")),
    ("elsa", "esteves", Some("ex03-lis")),
    ("filipe", "faria", Some("mbx-far")),
    ("gil", "gomes", Some("mbx-bra")),
    ("helena", "henriques", None),
];

#[tokio::test]
async fn everybody_is_found_by_every_name_and_at_home() {
    let contoso = Contoso::start("");
    let records = ldif::parse(CONTOSO.as_bytes()).expect("LDIF");
    for (source, directory) in contoso.both() {
        let topology = Topology::new(within(directory.topology()).await.expect("a topology").parts);
        for (account, surname, home) in PEOPLE {
            let mut names = vec![
                address(&format!("{account}@contoso.com")),
                in_domain("contoso", account),
                in_domain("contoso.com", account),
                bare(account),
            ];
            if home.is_some() {
                names.push(address(&format!("{account}.{surname}@contoso.com")));
                names.push(guid_of(&records, account));
            }
            for name in names {
                let found = within(directory.find(&name)).await.expect("an answer");
                let entry = found.unwrap_or_else(|| panic!("{source} has {account} as {name}"));
                assert_eq!(fold_dn(&entry.dn), dn_of(account, surname), "{source}: {name}");
                assert_eq!(entry.name, format!("{account}@contoso.com"), "{source}: {name}");
                let server = entry.mailbox.as_ref().map(|mailbox| {
                    let id = topology.home_server(mailbox).expect("a home");
                    topology.server(id).name.as_str()
                });
                assert_eq!(server, home, "{source}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_mailbox_guid_is_asked_for_in_the_order_its_text_is_written() {
    let contoso = Contoso::start("");
    for (source, directory) in contoso.both() {
        let found = within(directory.find(&MailboxName::Guid(ANA.to_be_bytes()))).await.expect("an answer");
        assert_eq!(found.map(|entry| entry.name).as_deref(), Some("ana@contoso.com"), "{source}");
    }
}

#[tokio::test]
async fn both_sources_give_the_same_people() {
    let contoso = Contoso::start("");
    for (account, ..) in PEOPLE {
        let name = bare(account);
        let [embedded, openldap] = [&contoso.embedded, &contoso.openldap].map(|directory| directory.find(&name));
        let (embedded, openldap) = (within(embedded).await.unwrap().unwrap(), within(openldap).await.unwrap().unwrap());
        assert_eq!(Entry { dn: String::new(), ..embedded }, Entry { dn: String::new(), ..openldap });
    }
}

#[tokio::test]
async fn both_sources_give_the_same_topology_over_several_pages() {
    let subnets: Vec<_> = (0..1200)
        .map(|number| {
            let net = format!("172.16.{}.{}/30", number / 64, number % 64 * 4);
            format!(
                "dn: CN={net},CN=Subnets,CN=Sites,CN=Configuration,DC=contoso,DC=com\nobjectClass: top\n\
                 objectClass: subnet\ncn: {net}\nsiteObject: CN=Faro,CN=Sites,CN=Configuration,DC=contoso,DC=com\n"
            )
        })
        .collect();
    let contoso = Contoso::start(&subnets.join("\n"));
    let embedded = within(contoso.embedded.topology()).await.expect("a topology");
    let openldap = within(contoso.openldap.topology()).await.expect("a topology");
    assert_eq!(embedded.oddities, []);
    assert_eq!(openldap.oddities, []);
    assert_eq!(embedded.parts.subnets.len(), 1208);
    assert_eq!(format!("{:#?}", embedded.parts), format!("{:#?}", openldap.parts));
}

#[tokio::test]
async fn only_the_right_password_is_right() {
    let contoso = Contoso::start("");
    for (source, directory) in contoso.both() {
        for (account, ..) in PEOPLE {
            let entry = within(directory.find(&bare(account))).await.expect("an answer").expect("somebody");
            for (password, right) in [("Pass-word1", true), ("pass-word1", false), ("Pass-word1 ", false), ("", false)]
            {
                let verdict = within(directory.verify(&entry, &Secret::new(password.as_bytes()))).await;
                assert_eq!(verdict.expect("an answer"), right, "{source}: {account} with {password:?}");
            }
        }
        let gone = Entry { dn: "CN=Gone,CN=Users,DC=contoso,DC=com".into(), name: "gone".into(), mailbox: None };
        assert!(!within(directory.verify(&gone, &Secret::new(*b"Pass-word1"))).await.expect("an answer"), "{source}");
    }
}

#[tokio::test]
async fn a_verified_password_leaves_the_shared_connection_bound_as_before() {
    let contoso = Contoso::start("");
    let ana = within(contoso.openldap.find(&bare("ana"))).await.unwrap().unwrap();
    assert!(!within(contoso.openldap.verify(&ana, &Secret::new(*b"wrong"))).await.unwrap());
    assert!(within(contoso.openldap.find(&bare("bruno"))).await.unwrap().is_some(), "a failed bind would be anonymous");
}

#[tokio::test]
async fn a_latin_1_password_is_the_utf_8_one() {
    let contoso = Contoso::start(&person("Inês", "ines", &format!("userPassword: {SSHA_OF_PALAVRA_PASSE}\n")));
    for (source, directory) in contoso.both() {
        let entry = within(directory.find(&bare("ines"))).await.expect("an answer").expect("somebody");
        for password in [&b"palavra-pass\xe9"[..], "palavra-passé".as_bytes()] {
            let verdict = within(directory.verify(&entry, &Secret::new(password))).await;
            assert!(verdict.expect("an answer"), "{source}: {}", password.escape_ascii());
        }
    }
}

#[tokio::test]
async fn names_that_nobody_has_find_nobody() {
    let contoso = Contoso::start("");
    for (source, directory) in contoso.both() {
        for name in [
            address("nobody@contoso.com"),
            address("*"),
            address("ana*"),
            address("/o=Contoso Lda/ou=Lisboa/cn=Recipients/cn=ana"),
            address("X500:/o=Contoso Lda/ou=Lisboa/cn=Recipients/cn=ana"),
            address("ana@contoso.com)(objectClass=*"),
            address("smtp:ana.almeida@contoso.com"),
            address(""),
            bare("nobody"),
            bare("*"),
            bare(""),
            bare("ana@contoso.com"),
            in_domain("fabrikam", "ana"),
            in_domain("contoso", "nobody"),
            in_domain("contoso", ""),
            in_domain("", "ana"),
            in_domain("enterprise configuration", "ana"),
            MailboxName::Guid([7; 16]),
        ] {
            assert_eq!(within(directory.find(&name)).await.expect("an answer"), None, "{source}: {name:?}");
        }
    }
}

#[tokio::test]
async fn an_alias_finds_who_has_no_such_account() {
    let alias = "mailNickname: the-boss\nproxyAddresses: SMTP:rui@contoso.com\nuserPrincipalName: rui@contoso.com\n";
    let contoso = Contoso::start(&person("Rui", "rui", alias));
    for (source, directory) in contoso.both() {
        let entry = within(directory.find(&bare("the-boss"))).await.expect("an answer").expect("somebody");
        assert_eq!(entry.name, "rui@contoso.com", "{source}");
    }
}

#[tokio::test]
async fn a_name_of_two_entries_is_ambiguous_and_one_entry_that_matches_twice_is_not() {
    let contoso = Contoso::start(&person("Another Ana", "ana2", "proxyAddresses: smtp:ANA@contoso.com\n"));
    for (source, directory) in contoso.both() {
        match within(directory.find(&address("ana@contoso.com"))).await {
            Err(DirectoryError::Ambiguous { dns, .. }) => {
                let mut dns: Vec<_> = dns.iter().map(|dn| fold_dn(dn)).collect();
                dns.sort();
                assert_eq!(
                    dns,
                    [dn_of("ana", "almeida"), "cn=another ana,cn=users,dc=contoso,dc=com".into()],
                    "{source}"
                );
            }
            other => panic!("{source}: {other:?}"),
        }
        assert!(within(directory.find(&address("ana.almeida@contoso.com"))).await.expect("an answer").is_some());
        assert!(within(directory.find(&bare("ana"))).await.expect("an answer").is_some());
    }
}

#[tokio::test]
async fn a_mailbox_on_an_unknown_server_is_listed_where_everybody_can_be_read() {
    let home = "msExchHomeServerName: /o=Contoso/ou=Gone/cn=Configuration/cn=Servers/cn=mbx-gone\n";
    let contoso = Contoso::start(&person("Lost", "lost", home));
    let parts = within(contoso.embedded.topology()).await.expect("a topology").parts;
    let oddities = contoso.embedded.people_oddities(&parts).expect("the file is in memory");
    assert_eq!(
        oddities.iter().map(|oddity| oddity.dn.as_str()).collect::<Vec<_>>(),
        ["CN=Lost,CN=Users,DC=contoso,DC=com"]
    );
    assert_eq!(contoso.openldap.people_oddities(&parts), None);
    let entry = within(contoso.openldap.find(&bare("lost"))).await.unwrap().unwrap();
    let mailbox = entry.mailbox.expect("a mailbox");
    assert_eq!(Topology::new(parts).home_server(&mailbox), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_who_want_one_cold_name_make_one_search() {
    let contoso = Contoso::start("");
    let cached = Arc::new(CachedDirectory::new(Arc::new(contoso.openldap), cache_settings()));
    let finds: Vec<_> = (0..200)
        .map(|_| {
            let cached = cached.clone();
            tokio::spawn(async move { cached.find(&address("ana@contoso.com")).await.map(|lookup| (*lookup).clone()) })
        })
        .collect();
    for find in finds {
        let lookup = within(find).await.expect("no panic").expect("an answer");
        assert!(matches!(&lookup, Lookup::Found(entry) if entry.name == "ana@contoso.com"), "{lookup:?}");
    }
    assert_eq!(cached.counters().searches.load(Ordering::Relaxed), 1);
    let Lookup::Found(ana) = (*cached.find(&address("ana@contoso.com")).await.unwrap()).clone() else { panic!("ana") };
    let verdicts: Vec<_> = (0..50)
        .map(|_| {
            let (cached, ana) = (cached.clone(), ana.clone());
            tokio::spawn(async move { cached.verify(&ana, &Secret::new(*b"Pass-word1")).await })
        })
        .collect();
    for verdict in verdicts {
        assert!(within(verdict).await.expect("no panic").expect("an answer"));
    }
    assert_eq!(cached.counters().binds.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_down_is_told_at_once_to_all_and_used_again_when_it_is_up() {
    let mut contoso = Contoso::start("");
    assert!(within(contoso.openldap.find(&bare("ana"))).await.expect("an answer").is_some());
    contoso.slapd.stop();
    let directory = Arc::new(contoso.openldap);
    let asked = Instant::now();
    let finds: Vec<_> = (0..100)
        .map(|_| {
            let directory = directory.clone();
            tokio::spawn(async move { directory.find(&bare("ana")).await })
        })
        .collect();
    for find in finds {
        let error = within(find).await.expect("no panic").expect_err("it is down");
        assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error:?}");
    }
    let ana = Entry { dn: "CN=Ana Almeida,CN=Users,DC=contoso,DC=com".into(), name: "ana".into(), mailbox: None };
    let error = within(directory.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect_err("it is down");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(3), "refused connections need no time-out: {:?}", asked.elapsed());

    contoso.slapd.start();
    assert!(within(directory.find(&bare("ana"))).await.expect("an answer").is_some());
    contoso.slapd.stop();
    contoso.slapd.start();
    for _ in 0..2 {
        let found = within(directory.find(&bare("ana"))).await;
        assert!(found.expect("a restart between two searches goes unnoticed").is_some());
    }
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_is_given_up_in_time_and_the_next_one_asked() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_url = Url::parse(&format!("ldap://{}", mute.local_addr().expect("its address"))).expect("a URL");
    let contoso = Contoso::start("");
    let patience = Duration::from_millis(300);
    let only_mute = ldap::Settings {
        urls: vec![mute_url.clone()],
        connect_timeout: patience,
        search_timeout: patience,
        ..settings(&contoso.slapd)
    };
    let both = ldap::Settings {
        urls: vec![mute_url, contoso.slapd.url("ldap")],
        search_timeout: Duration::from_secs(5),
        ..only_mute.clone()
    };
    let asked = Instant::now();
    let error = within(ldap::open(only_mute).unwrap().find(&bare("ana"))).await.expect_err("it is mute");
    assert!(matches!(error, DirectoryError::TimedOut { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(within(ldap::open(both).unwrap().find(&bare("ana"))).await.expect("the next answers").is_some());
}

#[tokio::test]
async fn passwords_are_verified_at_the_next_server_when_the_first_is_mute() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_url = Url::parse(&format!("ldap://{}", mute.local_addr().expect("its address"))).expect("a URL");
    let contoso = Contoso::start("");
    let both = ldap::Settings {
        urls: vec![mute_url, contoso.slapd.url("ldap")],
        connect_timeout: Duration::from_millis(300),
        ..settings(&contoso.slapd)
    };
    let directory = ldap::open(both).expect("good settings");
    let ana = within(directory.find(&bare("ana"))).await.expect("an answer").expect("ana");
    assert!(within(directory.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect("the next answers"));
    assert!(!within(directory.verify(&ana, &Secret::new(*b"wrong"))).await.expect("the next answers"));
}

#[tokio::test]
async fn an_account_that_may_not_bind_or_read_is_told_apart_from_an_empty_directory() {
    let contoso = Contoso::start("");
    let wrong = ldap::Settings { bind_password: Secret::new(*b"wrong"), ..settings(&contoso.slapd) };
    let error = within(ldap::open(wrong).unwrap().find(&bare("ana"))).await.expect_err("a wrong password");
    assert!(matches!(error, DirectoryError::Rejected { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wrong"), "{error:?}");

    let nobody = ldap::Settings { bind_dn: String::new(), ..settings(&contoso.slapd) };
    let error = within(ldap::open(nobody).unwrap().topology()).await.expect_err("nobody may read");
    assert!(matches!(error, DirectoryError::Unusable { .. } | DirectoryError::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn bases_that_neither_the_server_nor_the_config_names_are_asked_for() {
    let contoso = Contoso::start("");
    let baseless = ldap::Settings { users_base: None, ..settings(&contoso.slapd) };
    let error = within(ldap::open(baseless).unwrap().find(&bare("ana"))).await.expect_err("OpenLDAP has no such thing");
    assert!(error.to_string().contains("has no defaultNamingContext, so users_base must be configured"), "{error}");
}

#[tokio::test]
async fn ldaps_and_start_tls_trust_the_given_authority_and_no_other() {
    let ca = openldap::authority();
    let slapd = Slapd::load(CONTOSO, &Tls::By(&ca));
    let other = openldap::authority();
    let dir = tempfile::tempdir().expect("a folder");
    let pem = |name: &str, text: String| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    };
    let (ca_file, other_file) = (pem("ca.pem", ca.pem()), pem("other.pem", other.pem()));
    for (scheme, start_tls) in [("ldaps", false), ("ldap", true)] {
        let with = |file: &PathBuf| ldap::Settings {
            urls: vec![slapd.url(scheme)],
            start_tls,
            ca_file: Some(file.clone()),
            ..settings(&slapd)
        };
        let trusting = ldap::open(with(&ca_file)).expect("good settings");
        let ana = within(trusting.find(&bare("ana"))).await.expect("an answer").expect("ana");
        assert!(within(trusting.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect("an answer"), "{scheme}");
        let error = within(ldap::open(with(&other_file)).unwrap().find(&bare("ana"))).await.expect_err("a stranger");
        assert!(matches!(error, DirectoryError::Unreachable { .. }), "{scheme}: {error:?}");
    }
}

async fn within<F: IntoFuture>(future: F) -> F::Output {
    timeout(DEADLINE, future.into_future()).await.expect("an answer in time")
}

fn cache_settings() -> cache::Settings {
    cache::Settings {
        max_entries: 1000,
        found_lifetime: Duration::from_secs(60),
        not_found_lifetime: Duration::from_secs(10),
        max_proofs: 1000,
        proof_lifetime: Duration::from_secs(60),
        disproof_lifetime: Duration::from_secs(5),
    }
}

fn address(text: &str) -> MailboxName {
    MailboxName::Address(text.to_owned())
}

fn bare(text: &str) -> MailboxName {
    MailboxName::Bare(text.to_owned())
}

fn in_domain(domain: &str, account: &str) -> MailboxName {
    MailboxName::Account { domain: domain.to_owned(), account: account.to_owned() }
}

fn guid_of(records: &[Record], account: &str) -> MailboxName {
    let record = records.iter().find(|record| record.text(attribute::SAM_ACCOUNT_NAME) == Some(account));
    let stored = record.expect("the person").values(attribute::MAILBOX_GUID)[0].clone();
    MailboxName::Guid(schema::guid_as_stored(stored.try_into().expect("16 bytes")))
}

fn dn_of(account: &str, surname: &str) -> String {
    format!("cn={account} {surname},cn=users,dc=contoso,dc=com")
}

fn person(cn: &str, account: &str, rest: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let cn64 = STANDARD.encode(cn);
    let dn64 = STANDARD.encode(format!("CN={cn},CN=Users,DC=contoso,DC=com"));
    let classes = "objectClass: top\nobjectClass: person\nobjectClass: organizationalPerson\nobjectClass: user\n";
    format!("dn:: {dn64}\n{classes}cn:: {cn64}\nsn: Extra\nsAMAccountName: {account}\n{rest}")
}

const CONTOSO: &str = include_str!("../conf/contoso.ldif");
const DEADLINE: Duration = Duration::from_secs(20);
/// ana's msExchMailboxGuid, fdd1e256-59cc-5e29-91d5-883dc695f501.
const ANA: u128 = 0xfdd1_e256_59cc_5e29_91d5_883d_c695_f501;
/// Of `palavra-passé` in UTF-8.
const SSHA_OF_PALAVRA_PASSE: &str = "{SSHA}fmWwEIoXRC2el7jFAS5n5yYKRjhzYWx0c2FsdA==";
