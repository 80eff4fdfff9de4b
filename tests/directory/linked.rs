//! Linked mailboxes: who signs in has an account in another forest.

use firstcas::{
    directory::{Directory, ldap},
    secret::Secret,
};

use crate::{
    CONTOSO, SSHA_OF_PALAVRA_PASSE, address, bare, in_domain,
    openldap::{Slapd, Tls},
    person, settings, silent, within,
};
use url::Url;

/// S-1-5-21-1-2-3-1107, as stored, in base64.
const SID: &str = "AQUAAAAAAAUVAAAAAQAAAAIAAAADAAAAUwQAAA==";

fn accounts_forest() -> String {
    let classes = "objectClass: top\nobjectClass: person\nobjectClass: organizationalPerson\nobjectClass: user\n";
    format!(
        "dn: DC=accounts,DC=example\nobjectClass: top\nobjectClass: domainDNS\nobjectClass: domain\ndc: accounts\n\n\
         dn: CN=Configuration,DC=accounts,DC=example\nobjectClass: configuration\ncn: Configuration\n\n\
         dn: CN=Partitions,CN=Configuration,DC=accounts,DC=example\nobjectClass: crossRefContainer\ncn: Partitions\n\n\
         dn: CN=ACCOUNTS,CN=Partitions,CN=Configuration,DC=accounts,DC=example\nobjectClass: crossRef\ncn: ACCOUNTS\n\
         nETBIOSName: ACCOUNTS\ndnsRoot: accounts.example\nnCName: DC=accounts,DC=example\nsystemFlags: 3\n\n\
         dn: CN=Ines,DC=accounts,DC=example\n{classes}cn: Ines\nsn: X\nsAMAccountName: iporto\n\
         userPrincipalName: ines@accounts.example\nobjectSid:: {SID}\nuserPassword: {SSHA_OF_PALAVRA_PASSE}\n"
    )
}

#[tokio::test]
async fn a_linked_mailbox_is_found_by_its_accounts_names_and_opened_by_its_accounts_password() {
    let linked = person(
        "Ines Porto",
        "ines",
        &format!(
            "userPrincipalName: ines@contoso.com\nproxyAddresses: SMTP:ines@contoso.com\nmsExchMasterAccountSid:: {SID}\n\
             msExchHomeServerName: /o=Contoso/cn=mbx-extra\n"
        ),
    );
    let contoso = Slapd::load(&format!("{CONTOSO}\n{linked}"), &Tls::None);
    let accounts = Slapd::of_suffix("DC=accounts,DC=example", &accounts_forest(), &Tls::None);
    let of_accounts = ldap::Settings {
        servers: ldap::Where::Listed { domain_controllers: vec![accounts.url("ldap")], global_catalogs: vec![] },
        account: ldap::Account::Password {
            dn: "CN=firstcas,DC=accounts,DC=example".into(),
            password: Secret::new(*b"edge-pass"),
        },
        users_base: Some("DC=accounts,DC=example".into()),
        configuration_base: Some("CN=Configuration,DC=accounts,DC=example".into()),
        ..settings(&contoso)
    };
    let nobody = Url::parse("ldap://127.0.0.1:1").expect("a URL");
    let away = ldap::Settings {
        servers: ldap::Where::Listed { domain_controllers: vec![nobody], global_catalogs: vec![] },
        ..of_accounts.clone()
    };
    let directory = ldap::open(settings(&contoso), vec![away, of_accounts], &silent()).expect("good settings");
    for name in [
        in_domain("accounts", "iporto"),
        in_domain("accounts.example", "iporto"),
        address("ines@accounts.example"),
        address("ines@contoso.com"),
        bare("ines"),
    ] {
        let ines = within(directory.find(&name)).await.expect("an answer").unwrap_or_else(|| panic!("{name}"));
        assert_eq!(ines.name, "ines@contoso.com", "{name}");
        assert!(
            within(directory.verify(&ines, &Secret::new("palavra-passé".as_bytes())))
                .await
                .expect("an answer")
                .is_right()
        );
        assert!(!within(directory.verify(&ines, &Secret::new(*b"wrong"))).await.expect("an answer").is_right());
    }
    // Nobody here; but who knows what the forest that is away would say.
    for nobody in [in_domain("accounts", "ines"), in_domain("elsewhere", "iporto"), address("iporto@contoso.com")] {
        within(directory.find(&nobody)).await.map(|found| assert_eq!(found, None)).expect_err("one forest is away");
    }
}
