//! What changes in the directory is noticed, whatever the source.

use firstcas::{
    directory::{Changes, Directory, ldap, ldif},
    identity::MailboxName,
};

use crate::{
    CONTOSO, Contoso, DEADLINE,
    openldap::{Slapd, Tls},
    settings, silent, within,
};

const BRUNO: &str = "CN=Bruno Barros,CN=Users,DC=contoso,DC=com";
const LISBON_SERVER: &str =
    "/o=Contoso/ou=Exchange Administrative Group (FYDIBOHF23SPDLT)/cn=Configuration/cn=Servers/cn=mbx-lis";

/// Looks again and again until something has changed.
async fn next_change(directory: &impl Directory) -> Changes {
    let changed = async {
        loop {
            let changes = directory.changes().await.expect("an answer");
            if changes != Changes::default() {
                return changes;
            }
            tokio::task::yield_now().await;
        }
    };
    within(changed).await
}

fn assert_bruno_moved(changes: &Changes) {
    let [bruno] = &changes.people[..] else { panic!("one person, not {changes:?}") };
    assert_eq!(bruno.entry.name, "bruno@contoso.com");
    let mailbox = bruno.entry.mailbox.as_ref().expect("a mailbox");
    assert_eq!(&*mailbox.home_server, LISBON_SERVER.to_lowercase());
    for name in ["bruno@contoso.com", "bruno.barros@contoso.com", "CONTOSO\\bruno", "contoso.com\\bruno", "bruno"] {
        assert!(bruno.names.contains(&MailboxName::parse(name).expect("a name")), "{name} in {:?}", bruno.names);
    }
    assert!(!changes.may_have_missed, "{changes:?}");
}

#[tokio::test]
async fn a_mailbox_that_is_moved_in_openldap_is_told_once_with_its_new_home_and_all_its_names() {
    let contoso = Contoso::start("");
    assert_eq!(within(contoso.openldap.changes()).await.expect("an answer").people, [], "the first look only begins");
    contoso.slapd.modify(&format!(
        "dn: {BRUNO}\nchangetype: modify\nreplace: msExchHomeServerName\nmsExchHomeServerName: {LISBON_SERVER}\n"
    ));
    let changes = next_change(&contoso.openldap).await;
    assert_bruno_moved(&changes);
    assert!(!changes.topology);
    assert_eq!(within(contoso.openldap.changes()).await.expect("an answer"), Changes::default());
}

#[tokio::test]
async fn a_mailbox_that_is_moved_in_the_file_is_told_and_found_at_its_new_home() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), CONTOSO).expect("written");
    let directory = ldif::open(file.path()).expect("good LDIF");
    assert_eq!(directory.changes().await.expect("an answer"), Changes::default());
    let bruno_at = CONTOSO.find(&format!("dn: {BRUNO}")).expect("bruno");
    let (before, bruno) = CONTOSO.split_at(bruno_at);
    std::fs::write(file.path(), format!("{before}{}", bruno.replacen("cn=mbx-o\n po", "cn=mbx-lis", 1)))
        .expect("written");
    assert_bruno_moved(&next_change(&directory).await);
    let bruno = directory.find(&MailboxName::parse("bruno").expect("a name")).await.expect("an answer").expect("bruno");
    assert_eq!(&*bruno.mailbox.expect("a mailbox").home_server, LISBON_SERVER.to_lowercase());

    // A file with a mistake changes nothing, and says so once.
    std::fs::write(file.path(), "dn CN=nobody\n").expect("written");
    let deadline = std::time::Instant::now() + DEADLINE;
    let error = loop {
        assert!(std::time::Instant::now() < deadline, "the mistake is told");
        if let Err(error) = directory.changes().await {
            break error;
        }
    };
    assert!(error.to_string().contains(":1: "), "{error}");
    assert_eq!(directory.changes().await.expect("told already"), Changes::default());
    assert!(directory.find(&MailboxName::parse("ana").expect("a name")).await.expect("an answer").is_some());
}

#[tokio::test]
async fn a_changed_server_makes_the_topology_worth_reading() {
    let contoso = Contoso::start("");
    within(contoso.openldap.changes()).await.expect("an answer");
    let records = ldif::parse(CONTOSO.as_bytes()).expect("LDIF");
    let server = records.iter().find(|record| record.dn.starts_with("CN=cas-opo-2,")).expect("the server");
    contoso.slapd.modify(&format!(
        "dn: {}\nchangetype: modify\nreplace: msExchCurrentServerRoles\nmsExchCurrentServerRoles: 32\n",
        server.dn
    ));
    let changes = next_change(&contoso.openldap).await;
    assert!(changes.topology && changes.people.is_empty() && !changes.may_have_missed, "{changes:?}");
}

#[tokio::test]
async fn another_server_in_place_of_the_first_may_have_missed_changes() {
    let mut slapds = [0; 2].map(|_| Slapd::load(CONTOSO, &Tls::None));
    let urls = slapds.iter().map(|slapd| slapd.url("ldap")).collect();
    let settings = ldap::Settings {
        servers: ldap::Where::Listed { domain_controllers: urls, global_catalogs: vec![] },
        ..settings(&slapds[0])
    };
    let directory = ldap::open(settings, vec![], &silent()).expect("good settings");
    assert!(!within(directory.changes()).await.expect("an answer").may_have_missed, "there was nothing to miss");
    slapds[0].stop();
    assert!(within(directory.changes()).await.expect("the other answers").may_have_missed);
    assert_eq!(within(directory.changes()).await.expect("an answer"), Changes::default());
}
