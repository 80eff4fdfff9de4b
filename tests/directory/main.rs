//! The directory, asked the same questions over the embedded file and over a real `OpenLDAP` that loaded the same file.
#![allow(clippy::expect_used, clippy::unwrap_used)] // a failing `expect` is a failing test

mod following;
mod hostile;
mod line;
mod linked;
#[path = "../openldap/mod.rs"]
mod openldap;
mod samba;
mod servers;

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use firstcas::{
    directory::{
        Directory, DirectoryError, Entry, EntryId, Unusable, Verdict,
        cache::{self, CachedDirectory, Lookup},
        ldap, ldif,
        organisation::Organisation,
        schema::{self, Record, attribute, fold_dn},
    },
    identity::MailboxName,
    routing::{differences::differences, topology::Topology},
    secret::Secret,
};
use hostile::Request;
use openldap::{Slapd, Tls};
use tokio::{io::AsyncWriteExt, time::timeout};
use url::Url;

/// Contoso, and what a test adds to it, from every source.
struct Contoso {
    embedded: Organisation,
    openldap: Organisation,
    /// Where nothing is added, and `FIRSTCAS_FOREST` names the folder of a running forest (`tests/samba/forest`).
    samba: Option<Organisation>,
    slapd: Slapd,
}

impl Contoso {
    fn start(extra: &str) -> Self {
        let slapd = Slapd::load(&format!("{CONTOSO}\n{extra}"), &Tls::None);
        Contoso {
            embedded: ldif::open(slapd.ldif_path()).expect("the file is good LDIF"),
            openldap: ldap::open(settings(&slapd), vec![], &silent()).expect("good settings"),
            samba: std::env::var_os("FIRSTCAS_FOREST")
                .filter(|_| extra.is_empty())
                .map(|folder| ldap::open(samba::found(folder.as_ref()), vec![], &silent()).expect("good settings")),
            slapd,
        }
    }

    fn sources(&self) -> Vec<(&'static str, &Organisation)> {
        let samba = self.samba.iter().map(|samba| ("samba", samba));
        [("embedded", &self.embedded), ("openldap", &self.openldap)].into_iter().chain(samba).collect()
    }
}

fn settings(slapd: &Slapd) -> ldap::Settings {
    ldap::Settings {
        servers: listed(vec![slapd.url("ldap")]),
        account: account(openldap::BIND_PASSWORD),
        ca_file: None,
        start_tls: false,
        users_base: Some("DC=contoso,DC=com".into()),
        configuration_base: Some("CN=Configuration,DC=contoso,DC=com".into()),
        connect_timeout: Duration::from_secs(5),
        search_timeout: Duration::from_secs(5),
        connections: 2,
        searches_max: 32,
    }
}

/// Nobody listens to the directory's notices.
fn silent() -> firstcas::directory::Tell {
    Arc::new(drop)
}

fn listed(domain_controllers: Vec<Url>) -> ldap::Where {
    ldap::Where::Listed { domain_controllers, global_catalogs: vec![] }
}

fn account(password: &str) -> ldap::Account {
    ldap::Account::Password { dn: openldap::BIND_DN.into(), password: Secret::new(password.as_bytes()) }
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
    for (source, directory) in contoso.sources() {
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
async fn every_source_gives_the_same_topology() {
    let contoso = Contoso::start("");
    let mut topologies = Vec::new();
    for (source, directory) in contoso.sources() {
        let reading = within(directory.topology()).await.expect("a topology");
        assert_eq!(reading.oddities, [], "{source}");
        topologies.push(Topology::new(reading.parts));
    }
    for topology in &topologies {
        assert_eq!(differences(&topologies[0], topology), [""; 0]);
    }
}

#[tokio::test]
async fn a_mailbox_guid_is_asked_for_in_the_order_its_text_is_written() {
    let contoso = Contoso::start("");
    for (source, directory) in contoso.sources() {
        let found = within(directory.find(&MailboxName::Guid(ANA.to_be_bytes()))).await.expect("an answer");
        assert_eq!(found.map(|entry| entry.name).as_deref(), Some("ana@contoso.com"), "{source}");
    }
}

#[tokio::test]
async fn every_source_gives_the_same_people() {
    let contoso = Contoso::start("");
    for (account, ..) in PEOPLE {
        let name = bare(account);
        let mut people = Vec::new();
        for (source, directory) in contoso.sources() {
            let entry = within(directory.find(&name)).await.expect("an answer").expect(account);
            people.push((source, Entry { id: EntryId([0; 16]), dn: fold_dn(&entry.dn), ..entry }));
        }
        assert!(people.iter().all(|(_, entry)| *entry == people[0].1), "{people:#?}");
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
    for (source, directory) in contoso.sources() {
        for (account, ..) in PEOPLE {
            let entry = within(directory.find(&bare(account))).await.expect("an answer").expect("somebody");
            for (password, right) in [("Pass-word1", true), ("pass-word1", false), ("Pass-word1 ", false), ("", false)]
            {
                let verdict = within(directory.verify(&entry, &Secret::new(password.as_bytes()))).await;
                assert_eq!(verdict.expect("an answer").is_right(), right, "{source}: {account} with {password:?}");
            }
        }
        let gone = schema::entry(&Record::new("CN=Gone,CN=Users,DC=contoso,DC=com"));
        assert!(
            !within(directory.verify(&gone, &Secret::new(*b"Pass-word1"))).await.expect("an answer").is_right(),
            "{source}"
        );
    }
}

#[tokio::test]
async fn why_an_account_cannot_be_used_is_heard() {
    let verdicts = [
        ("52e", Verdict::Wrong),
        ("532", Verdict::Unusable(Unusable::PasswordExpired)),
        ("533", Verdict::Unusable(Unusable::AccountDisabled)),
        ("773", Verdict::Unusable(Unusable::PasswordMustChange)),
        ("775", Verdict::Unusable(Unusable::AccountLocked)),
    ];
    let people = verdicts.map(|(code, _)| openldap::refused(code, ""));
    let contoso = Contoso::start(&[&[openldap::OF_REFUSED.to_owned()][..], &people].concat().join("\n"));
    for (code, verdict) in verdicts {
        let entry = within(contoso.openldap.find(&bare(&format!("data-{code}")))).await.expect("an answer");
        let judged = within(contoso.openldap.verify(&entry.expect("somebody"), &Secret::new(*b"Pass-word1"))).await;
        assert_eq!(judged.expect("an answer"), verdict, "{code}");
    }
}

#[tokio::test]
async fn a_verified_password_leaves_the_shared_connection_bound_as_before() {
    let contoso = Contoso::start("");
    let ana = within(contoso.openldap.find(&bare("ana"))).await.unwrap().unwrap();
    assert!(!within(contoso.openldap.verify(&ana, &Secret::new(*b"wrong"))).await.unwrap().is_right());
    assert!(within(contoso.openldap.find(&bare("bruno"))).await.unwrap().is_some(), "a failed bind would be anonymous");
}

#[tokio::test]
async fn a_latin_1_password_is_the_utf_8_one() {
    let contoso = Contoso::start(&person("Inês", "ines", &format!("userPassword: {SSHA_OF_PALAVRA_PASSE}\n")));
    for (source, directory) in contoso.sources() {
        let entry = within(directory.find(&bare("ines"))).await.expect("an answer").expect("somebody");
        for password in [&b"palavra-pass\xe9"[..], "palavra-passé".as_bytes()] {
            let verdict = within(directory.verify(&entry, &Secret::new(password))).await;
            assert!(verdict.expect("an answer").is_right(), "{source}: {}", password.escape_ascii());
        }
    }
}

#[tokio::test]
async fn names_that_nobody_has_find_nobody() {
    let contoso = Contoso::start("");
    for (source, directory) in contoso.sources() {
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
    for (source, directory) in contoso.sources() {
        let entry = within(directory.find(&bare("the-boss"))).await.expect("an answer").expect("somebody");
        assert_eq!(entry.name, "rui@contoso.com", "{source}");
    }
}

#[tokio::test]
async fn a_name_of_two_mailboxes_is_ambiguous_and_one_entry_that_matches_twice_is_not() {
    let other = format!("{MAILBOX}proxyAddresses: smtp:ANA@contoso.com\n");
    let contoso = Contoso::start(&person("Another Ana", "ana2", &other));
    for (source, directory) in contoso.sources() {
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
async fn an_address_that_is_only_somebodys_mail_attribute_is_not_searched() {
    let contoso = Contoso::start(&person("Ana's Administration", "adm-ana", "mail: ana@contoso.com\nmail: a@b.com\n"));
    for (source, directory) in contoso.sources() {
        let found = within(directory.find(&address("ana@contoso.com"))).await.expect("not ambiguous").expect("ana");
        assert_eq!(fold_dn(&found.dn), dn_of("ana", "almeida"), "{source}");
        assert_eq!(within(directory.find(&address("a@b.com"))).await.expect("an answer"), None, "{source}");
    }
}

#[tokio::test]
async fn entries_without_mailbox_do_not_make_the_mailboxs_owner_ambiguous() {
    let contoso = Contoso::start(
        &[
            person("Ana's Administration", "adm-ana", "userPrincipalName: ana.almeida@contoso.com\n"),
            person("A Mail Contact", "contact", "proxyAddresses: SMTP:ana.almeida@contoso.com\n"),
            person("First Alias", "first", "mailNickname: sales\n"),
            person("Second Alias", "second", &format!("{MAILBOX}mailNickname: sales\n")),
        ]
        .join("\n"),
    );
    for (source, directory) in contoso.sources() {
        let found = within(directory.find(&address("ana.almeida@contoso.com"))).await.expect("not ambiguous");
        assert_eq!(fold_dn(&found.expect("ana").dn), dn_of("ana", "almeida"), "{source}");
        let found = within(directory.find(&bare("sales"))).await.expect("not ambiguous").expect("the second");
        assert!(found.dn.to_lowercase().starts_with("cn=second alias,"), "{source}: {}", found.dn);
    }
}

#[tokio::test]
async fn a_name_is_ambiguous_if_nobody_has_a_mailbox_or_too_many_have_the_name() {
    let address_line = "proxyAddresses: smtp:sales@contoso.com\n";
    let two = [person("One", "one", address_line), person("Two", "two", address_line)].join("\n");
    let four = [
        two.clone(),
        person("Three", "three", address_line),
        person("Four", "four", &format!("{address_line}{MAILBOX}")),
    ]
    .join("\n");
    for (extra, entries) in [(two, 2), (four, 4)] {
        let contoso = Contoso::start(&extra);
        for (source, directory) in contoso.sources() {
            match within(directory.find(&address("sales@contoso.com"))).await {
                Err(DirectoryError::Ambiguous { dns, .. }) => assert_eq!(dns.len(), entries, "{source}: {dns:?}"),
                other => panic!("{source}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_account_of_a_child_domain_is_not_its_parent_domains() {
    let child = format!(
        "dn: DC=emea,DC=contoso,DC=com\nobjectClass: top\nobjectClass: domain\nobjectClass: domainDNS\ndc: emea\n\n\
         dn: CN=EMEA,CN=Partitions,CN=Configuration,DC=contoso,DC=com\nobjectClass: top\nobjectClass: crossRef\n\
         cn: EMEA\nnETBIOSName: EMEA\ndnsRoot: emea.contoso.com\nnCName: DC=emea,DC=contoso,DC=com\nsystemFlags: 3\n\n{}\n{}",
        person_below("DC=emea,DC=contoso,DC=com", "Her Namesake", "helena", MAILBOX),
        person_below("DC=emea,DC=contoso,DC=com", "Only There", "only-there", MAILBOX),
    );
    let contoso = Contoso::start(&child);
    for (source, directory) in contoso.sources() {
        let found = within(directory.find(&in_domain("contoso", "helena"))).await.expect("an answer").expect("helena");
        assert_eq!(fold_dn(&found.dn), dn_of("helena", "henriques"), "{source}");
        let found = within(directory.find(&in_domain("emea", "helena"))).await.expect("an answer").expect("the other");
        assert_eq!(fold_dn(&found.dn), "cn=her namesake,dc=emea,dc=contoso,dc=com", "{source}");
        let found = within(directory.find(&in_domain("contoso", "only-there"))).await.expect("an answer");
        assert_eq!(found, None, "{source}");
    }
}

#[tokio::test]
async fn a_topology_that_the_servers_size_limit_cut_off_is_an_error_that_names_the_cure() {
    let contoso = Contoso::start(&person("Limited", "limited", &format!("userPassword: {SSHA_OF_PALAVRA_PASSE}\n")));
    let limited = ldap::Settings {
        account: ldap::Account::Password {
            dn: "CN=Limited,CN=Users,DC=contoso,DC=com".into(),
            password: Secret::new("palavra-passé".as_bytes()),
        },
        ..settings(&contoso.slapd)
    };
    let directory = ldap::open(limited, vec![], &silent()).expect("good settings");
    let error = within(directory.topology()).await.map(|reading| reading.parts.servers.len()).expect_err("cut off");
    assert!(matches!(error, DirectoryError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains("raise that limit for the bind account"), "{error}");
    assert!(within(directory.find(&bare("ana"))).await.expect("a search for one is within the limit").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_made_up_names_puts_a_bounded_number_of_searches_on_the_server() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = Url::parse(&format!("ldap://{}", server.local_addr().expect("its address"))).expect("a URL");
    let settings = ldap::Settings {
        servers: listed(vec![url]),
        account: ldap::Account::Anonymous,
        ca_file: None,
        start_tls: false,
        users_base: Some("DC=contoso,DC=com".into()),
        configuration_base: Some("CN=Configuration,DC=contoso,DC=com".into()),
        connect_timeout: DEADLINE,
        search_timeout: DEADLINE,
        connections: 1,
        searches_max: 32,
    };
    let most_unanswered = Arc::new(AtomicUsize::new(0));
    let seen = most_unanswered.clone();
    tokio::spawn(async move {
        let (mut client, _) = server.accept().await.expect("a connection");
        let mut unanswered = VecDeque::new();
        loop {
            // A slow server: it takes in what there is, and answers only when there is nothing more for a while.
            match timeout(Duration::from_millis(100), Request::read(&mut client)).await {
                Ok(Some(request)) => unanswered.push_back(request.id),
                Ok(None) => return,
                Err(_) => {
                    for id in unanswered.drain(..) {
                        let length = u8::try_from(id.len() + 11).expect("short");
                        let id_length = u8::try_from(id.len()).expect("short");
                        let head = [0x30, length, 0x02, id_length];
                        let done = [0x65, 7, 0x0a, 1, 0, 4, 0, 4, 0]; // SearchResultDone, success
                        client.write_all(&[&head[..], &id, &done].concat()).await.expect("sent");
                    }
                }
            }
            seen.fetch_max(unanswered.len(), Ordering::Relaxed);
        }
    });
    let directory = Arc::new(ldap::open(settings, vec![], &silent()).expect("good settings"));
    let finds: Vec<_> = (0..300)
        .map(|number| {
            let directory = directory.clone();
            tokio::spawn(async move { directory.find(&address(&format!("made-up-{number}@contoso.com"))).await })
        })
        .collect();
    for find in finds {
        assert_eq!(within(find).await.expect("no panic").expect("an answer"), None);
    }
    let most = most_unanswered.load(Ordering::Relaxed);
    assert!((1..=32).contains(&most), "{most} at once");
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

#[test]
fn a_name_that_two_entries_share_is_shown_by_check_before_going_live() {
    let another = person("Another Ana", "ana2", "proxyAddresses: smtp:ANA.almeida@contoso.com\n");
    let (good, stdout, stderr) = check(&format!("{CONTOSO}\n{another}"));
    assert!(good, "{stderr}");
    let odd: Vec<_> = stdout.lines().filter(|line| line.starts_with("odd ")).collect();
    let [odd] = odd.as_slice() else { panic!("one oddity in\n{stdout}") };
    for part in ["CN=Another Ana,", "CN=Ana Almeida,", "`ana.almeida@contoso.com`", "remove it from all but one"] {
        assert!(odd.contains(part), "{part} in {odd}");
    }
}

/// A configuration file over this slapd.
fn configuration(slapd: &Slapd, password: &str, folder: &Path) -> PathBuf {
    let (config, password_file) = (folder.join("firstcas.toml"), folder.join("password"));
    std::fs::write(&password_file, password).expect("written");
    let settings = format!(
        "{LISTENER}[directory.ldap]\nurls = [\"{}\"]\nbind_dn = \"{}\"\nbind_password_file = \"{}\"\n\
         users_base = \"DC=contoso,DC=com\"\nconfiguration_base = \"CN=Configuration,DC=contoso,DC=com\"\n",
        slapd.url("ldap"),
        openldap::BIND_DN,
        password_file.display()
    );
    std::fs::write(&config, settings).expect("written");
    config
}

/// What `firstcas check --directory` says over this slapd: whether it could read it, its output, its errors.
fn check_over(slapd: &Slapd, password: &str) -> (bool, String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    firstcas(&["check", "--directory", "-c"], &configuration(slapd, password, dir.path()))
}

#[test]
fn the_whole_directory_is_checked_alike_over_both_sources() {
    let home = "CN=InformationStore,CN=mbx-opo,CN=Servers,CN=Exchange Administrative Group (FYDIBOHF23SPDLT),CN=\
                Administrative Groups,CN=Contoso,CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=com";
    let home = format!("homeMDB: CN=Mailbox Database,CN=First Storage Group,{home}\n");
    let lost = "msExchHomeServerName: /o=Contoso/ou=Gone/cn=Configuration/cn=Servers/cn=mbx-gone\n";
    let people: Vec<_> = (0..25).map(|it| person(&format!("Lost {it:02}"), &format!("lost-{it:02}"), lost)).collect();
    let people = format!(
        "{}\n{}",
        person("Another Bruno", "bruno2", &format!("{home}proxyAddresses: smtp:BRUNO@contoso.com\n")),
        people.join("\n")
    );
    let text = format!("{}\n{people}", CONTOSO.replace("https://cas-opo-2.contoso.com/owa", "https://[cas-opo-2/owa"));
    let slapd = Slapd::load(&text, &Tls::None);
    let (good, over_ldap, stderr) = check_over(&slapd, openldap::BIND_PASSWORD);
    assert!(good, "{stderr}");
    let (good, of_file, stderr) = check_with(&["check", "--directory", "-c"], &text);
    assert!(good, "{stderr}");

    // OpenLDAP spells the attributes of a DN in its own way.
    let body = |text: &str| text.lines().skip(3).map(|line| line.to_lowercase() + "\n").collect::<String>();
    assert_eq!(body(&over_ldap), body(&of_file));
    let place = format!("\ndirectory  {} as {}\n", slapd.url("ldap"), openldap::BIND_DN);
    assert!(over_ldap.contains(&place), "{place} in {over_ldap}");
    for part in [
        "           5 sites, 13 servers, 6 of them Client Access Servers, 33 mailboxes\nlocal site Lisbon\n",
        "site       Lisbon, where the edge stands: 3 servers, 1 mailbox\n",
        "             mbx-lis    Exchange 2007 (8.3.83), 1 mailbox\n",
        "             owa, activesync, ews: served by cas-lis-1, cas-lis-2\n",
        "             owa: proxied to Porto (cas-opo-1)\n",
        "             activesync, ews: proxied to Porto (cas-opo-1, cas-opo-2)\n",
        "             owa: redirected to https://mail.madrid.contoso.com/owa by a page with a link\n             activesync: \
         redirected to https://mail.madrid.contoso.com/Microsoft-Server-ActiveSync by a 451\n             ews: proxied \
         to Madrid (cas-mad-1)\n",
        "REFUSED      owa, activesync, ews of 1 mailbox: The mailbox's site has no Client Access Server.\n             \
         filipe@contoso.com\n",
        "             activesync: passed straight to ex03-opo\n",
        "no server  25 mailboxes on none that the directory has, so refused; see below\n",
        "odd        CN=owa (Default Web Site),CN=HTTP,CN=Protocols,CN=cas-opo-2,",
        "odd        of 25 objects: its mailbox is on `/o=Contoso/ou=Gone/cn=Configuration/cn=Servers/cn=mbx-gone`",
        "CN=Lost 19,CN=Users,DC=contoso,DC=com\n             and 5 more\n",
        "`bruno@contoso.com` is also that of",
        // Faro, Braga, the URL, the lost, the shared address.
        "\n5 things would break users\n",
    ] {
        assert!(of_file.contains(part), "{part} in\n{of_file}");
    }
}

#[test]
fn a_server_that_nobody_could_be_signed_in_to_is_listed() {
    let account = |name: &str, services: &[&str]| {
        let names: Vec<_> = services.iter().map(|service| format!("servicePrincipalName: {service}\n")).collect();
        person(name, &name.to_lowercase(), &names.concat())
    };
    let hosts = ["cas-lis-1", "cas-lis-2", "cas-mad-1", "ex03-lis", "ex03-opo"];
    let people = [
        hosts.map(|host| account(host, &[&format!("HOST/{host}.contoso.com")])).join("\n"),
        account("asa", &["http/cas-mad-1.contoso.com", "HTTP/cas-opo-1.contoso.com"]),
        account("former", &["HTTP/cas-opo-1.contoso.com"]),
    ];
    let text = CONTOSO.replace("https://cas-opo-2.contoso.com/Microsoft", "https://10.2.0.22/Microsoft");
    let slapd = Slapd::load(&format!("{text}\n{}", people.join("\n")), &Tls::None);
    let dir = tempfile::tempdir().expect("a folder");
    let config = configuration(&slapd, openldap::BIND_PASSWORD, dir.path());
    let basic = std::fs::read_to_string(&config).expect("the configuration");
    let checked = |sign_in: &str| {
        std::fs::write(&config, format!("{basic}\n{sign_in}")).expect("written");
        firstcas(&["check", "--directory", "-c"], &config)
    };
    let (good, said, stderr) = checked("[sign_in]\n");
    assert!(good, "{stderr}");
    let said_alike = said.to_lowercase();
    for part in [
        "sign-in    Kerberos with the user's password\n",
        "odd        cas-opo-2 has the address 10.2.0.22 in an InternalURL",
        "odd        cas-opo-2: no account has the service principal name HTTP/cas-opo-2.contoso.com",
        "odd        cas-opo-1: several accounts have the service principal name HTTP/cas-opo-1.contoso.com: cn=asa,",
        "           5 of 8 service principal names are one account's\n",
        // Besides Faro and Braga.
        "\n5 things would break users\n",
    ] {
        assert!(said_alike.contains(&part.to_lowercase()), "{part} in\n{said}");
    }
    let (good, said, stderr) = checked("");
    assert!(good && said.ends_with("\n2 things would break users\n") && !said.contains("sign-in"), "{said}{stderr}");
}

#[test]
fn a_directory_without_fault_is_said_to_have_none() {
    let whole: String = CONTOSO
        .split("\n\n")
        .filter(|record| !record.contains("dn: CN=Filipe") && !record.contains("dn: CN=Gil"))
        .flat_map(|record| [record, "\n\n"])
        .collect();
    let (good, text, stderr) = check_with(&["check", "--directory", "-c"], &whole);
    assert!(good, "{stderr}");
    assert!(text.ends_with("\nnothing found that would break a user\n"), "{text}");
}

#[test]
fn a_directory_that_cannot_be_read_fails_the_check_with_the_reason() {
    let mut slapd = Slapd::load(CONTOSO, &Tls::None);
    let (good, _, stderr) = check_over(&slapd, "wrong");
    assert!(!good && stderr.contains("the directory refused the bind as"), "{stderr}");
    slapd.stop();
    let (good, stdout, stderr) = check_over(&slapd, openldap::BIND_PASSWORD);
    assert!(!good && stdout.is_empty() && stderr.contains(slapd.url("ldap").as_str()), "{stderr}");
}

#[test]
fn every_mistake_of_the_file_is_told_by_check_up_to_a_limit() {
    let (good, _, stderr) = check("dn: DC=contoso,DC=com\nnot LDIF\ndc: contoso\n\ncn: nobody\n\ndn: CN=empty\n");
    assert!(!good);
    let mut lines = stderr.lines();
    assert!(lines.next().is_some_and(|headline| headline.ends_with(": 3 mistakes")), "{stderr}");
    for part in ["ldif:2: it has no colon", "ldif:5: a record must start with `dn:`", "ldif:7: the record has no attr"]
    {
        assert!(lines.next().is_some_and(|line| line.contains(part)), "{part} in\n{stderr}");
    }

    let (good, _, stderr) = check(&"no colon\n".repeat(1000));
    assert!(!good);
    assert_eq!(stderr.lines().count(), 1 + ldif::MISTAKES_MAX, "{stderr}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_who_want_one_cold_name_make_one_search() {
    let contoso = Contoso::start("");
    let cached = Arc::new(CachedDirectory::new(
        Arc::new(contoso.openldap),
        cache_settings(),
        Arc::new(drop),
        tokio::runtime::Handle::current(),
    ));
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
        assert!(within(verdict).await.expect("no panic").expect("an answer").is_right());
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
    let ana = schema::entry(&Record::new("CN=Ana Almeida,CN=Users,DC=contoso,DC=com"));
    let error = within(directory.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect_err("it is down");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error:?}");
    // That of one connection alone would be five seconds.
    assert!(asked.elapsed() < Duration::from_secs(5), "refused connections need no time-out: {:?}", asked.elapsed());

    contoso.slapd.start();
    let found = async {
        loop {
            if let Ok(found) = directory.find(&bare("ana")).await {
                return found;
            }
            tokio::task::yield_now().await;
        }
    };
    assert!(within(found).await.is_some(), "it is looked after, and found to be up again");
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
        servers: listed(vec![mute_url.clone()]),
        connect_timeout: patience,
        search_timeout: patience,
        ..settings(&contoso.slapd)
    };
    let both = ldap::Settings {
        servers: listed(vec![mute_url, contoso.slapd.url("ldap")]),
        connect_timeout: Duration::from_secs(2), // the next one's, too
        search_timeout: Duration::from_secs(5),
        ..only_mute.clone()
    };
    let asked = Instant::now();
    let error =
        within(ldap::open(only_mute, vec![], &silent()).unwrap().find(&bare("ana"))).await.expect_err("it is mute");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error:?}");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert!(
        within(ldap::open(both, vec![], &silent()).unwrap().find(&bare("ana")))
            .await
            .expect("the next answers")
            .is_some()
    );
}

#[tokio::test]
async fn passwords_are_verified_at_the_next_server_when_the_first_is_mute() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_url = Url::parse(&format!("ldap://{}", mute.local_addr().expect("its address"))).expect("a URL");
    let contoso = Contoso::start("");
    let both = ldap::Settings {
        servers: listed(vec![mute_url, contoso.slapd.url("ldap")]),
        connect_timeout: Duration::from_secs(2), // the next one's, too
        ..settings(&contoso.slapd)
    };
    let directory = ldap::open(both, vec![], &silent()).expect("good settings");
    let ana = within(directory.find(&bare("ana"))).await.expect("an answer").expect("ana");
    assert!(within(directory.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect("the next answers").is_right());
    assert!(!within(directory.verify(&ana, &Secret::new(*b"wrong"))).await.expect("the next answers").is_right());
}

#[tokio::test]
async fn an_account_that_may_not_bind_or_read_is_told_apart_from_an_empty_directory() {
    let contoso = Contoso::start("");
    let wrong = ldap::Settings { account: account("wrong"), ..settings(&contoso.slapd) };
    let error =
        within(ldap::open(wrong, vec![], &silent()).unwrap().find(&bare("ana"))).await.expect_err("a wrong password");
    assert!(matches!(error, DirectoryError::Rejected { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wrong"), "{error:?}");

    let nobody = ldap::Settings { account: ldap::Account::Anonymous, ..settings(&contoso.slapd) };
    let error = within(ldap::open(nobody, vec![], &silent()).unwrap().topology()).await.expect_err("nobody may read");
    assert!(matches!(error, DirectoryError::Unusable { .. } | DirectoryError::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn bases_that_neither_the_server_nor_the_config_names_are_asked_for() {
    let contoso = Contoso::start("");
    let baseless = ldap::Settings { users_base: None, ..settings(&contoso.slapd) };
    let error = within(ldap::open(baseless, vec![], &silent()).unwrap().find(&bare("ana")))
        .await
        .expect_err("OpenLDAP has no such thing");
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
            servers: listed(vec![slapd.url(scheme)]),
            start_tls,
            ca_file: Some(file.clone()),
            ..settings(&slapd)
        };
        let trusting = ldap::open(with(&ca_file), vec![], &silent()).expect("good settings");
        let ana = within(trusting.find(&bare("ana"))).await.expect("an answer").expect("ana");
        assert!(
            within(trusting.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect("an answer").is_right(),
            "{scheme}"
        );
        let error = within(ldap::open(with(&other_file), vec![], &silent()).unwrap().find(&bare("ana")))
            .await
            .expect_err("a stranger");
        assert!(matches!(error, DirectoryError::Unreachable { .. }), "{scheme}: {error:?}");
    }
}

/// What `firstcas check` says of an embedded directory: whether it is content, its output, its errors.
fn check(text: &str) -> (bool, String, String) {
    check_with(&["check", "-c"], text)
}

fn check_with(arguments: &[&str], text: &str) -> (bool, String, String) {
    let dir = tempfile::tempdir().expect("a folder");
    let (config, ldif) = (dir.path().join("firstcas.toml"), dir.path().join("contoso.ldif"));
    std::fs::write(&ldif, text).expect("written");
    std::fs::write(&config, format!("{LISTENER}[directory]\nldif = {:?}\n", ldif.display().to_string()))
        .expect("written");
    firstcas(arguments, &config)
}

#[test]
fn sighup_makes_a_running_edge_read_the_topology_again() {
    let slapd = Slapd::load(CONTOSO, &Tls::None);
    let dir = tempfile::tempdir().expect("a folder");
    let config = configuration(&slapd, openldap::BIND_PASSWORD, dir.path());
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(
        &config,
        text.replace("[directory.ldap]", "[directory]\nwatch_interval = \"10s\"\n[directory.ldap]"),
    )
    .expect("written");
    let edge = Command::new(env!("CARGO_BIN_EXE_firstcas"))
        .args(["run", "-c"])
        .arg(&config)
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn();
    let mut edge = Ended(edge.expect("it runs"));
    let log = BufReader::new(edge.0.stderr.take().expect("piped"));
    let (lines, news) = mpsc::channel();
    thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
    let until = |part: &str, patience: Duration| {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = news.recv_timeout(left).unwrap_or_else(|error| panic!("no {part:?} in the log: {error}"));
            if line.contains(part) {
                return;
            }
        }
    };
    until("firstcas is ready", DEADLINE);
    let site = "CN=Faro,CN=Sites,CN=Configuration,DC=contoso,DC=com";
    slapd.modify(&format!("dn: {site}\nchangetype: modrdn\nnewrdn: CN=Algarve\ndeleteoldrdn: 1\n"));
    let told = Command::new("kill").args(["-HUP", &edge.0.id().to_string()]).status();
    assert!(told.expect("kill is there").success());
    // Sooner than anything else would have made it be read.
    until("the site Algarve is new", Duration::from_secs(8));
    until("event=FC160", DEADLINE);
}

/// A process of ours, which ends with its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn firstcas(arguments: &[&str], config: &Path) -> (bool, String, String) {
    let ended = Command::new(env!("CARGO_BIN_EXE_firstcas")).args(arguments).arg(config).output();
    let Output { status, stdout, stderr } = ended.expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.success(), text(stdout), text(stderr))
}

/// One listener, in Lisbon.
const LISTENER: &str = "routing.local_site = \"Lisbon\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n";

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
        stale_lifetime: Duration::from_secs(60),
        not_found_max: 1000,
        wrong_passwords_max: 3,
        wrong_passwords_window: Duration::from_secs(60),
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
    person_below("CN=Users,DC=contoso,DC=com", cn, account, rest)
}

fn person_below(container: &str, cn: &str, account: &str, rest: &str) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let cn64 = STANDARD.encode(cn);
    let dn64 = STANDARD.encode(format!("CN={cn},{container}"));
    let classes = "objectClass: top\nobjectClass: person\nobjectClass: organizationalPerson\nobjectClass: user\n";
    format!("dn:: {dn64}\n{classes}cn:: {cn64}\nsn: Extra\nsAMAccountName: {account}\n{rest}")
}

const CONTOSO: &str = include_str!("../../conf/contoso.ldif");
const DEADLINE: Duration = Duration::from_secs(20);
/// What makes an entry one with a mailbox, wherever that may be.
const MAILBOX: &str = "msExchHomeServerName: /o=Contoso/cn=mbx-extra\n";
/// ana's msExchMailboxGuid, fdd1e256-59cc-5e29-91d5-883dc695f501.
const ANA: u128 = 0xfdd1_e256_59cc_5e29_91d5_883d_c695_f501;
/// Of `palavra-passé` in UTF-8.
const SSHA_OF_PALAVRA_PASSE: &str = "{SSHA}fmWwEIoXRC2el7jFAS5n5yYKRjhzYWx0c2FsdA==";
