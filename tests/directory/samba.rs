//! A real Active Directory forest, if one runs: `tests/samba/forest start DIR`, and DIR in `FIRSTCAS_FOREST`. What needs
//! nothing but Contoso is asked of it too; the rest here needs it, and does nothing without it.

use std::{collections::HashMap, net::SocketAddr, path::Path, process::Command, time::Duration};

use firstcas::{
    directory::{Changes, Directory, DirectoryError, Unusable, Verdict, ldap},
    identity::MailboxName,
    secret::Secret,
};
use url::Url;

use crate::{DEADLINE, bare, openldap, silent, within};

/// What `DIR/env` says.
struct Forest(HashMap<String, String>);

impl Forest {
    fn running() -> Option<Forest> {
        std::env::var_os("FIRSTCAS_FOREST").map(|folder| Forest::in_folder(folder.as_ref()))
    }

    fn in_folder(folder: &Path) -> Forest {
        let text = std::fs::read_to_string(folder.join("env")).expect("FIRSTCAS_FOREST has the file env");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        Forest(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
    }

    fn get(&self, key: &str) -> &str {
        self.0.get(key).unwrap_or_else(|| panic!("env has no {key}"))
    }

    fn settings(&self, servers: ldap::Where) -> ldap::Settings {
        let password = std::fs::read_to_string(self.get("BIND_PASSWORD_FILE")).expect("the password");
        ldap::Settings {
            servers,
            account: ldap::Account::Password {
                dn: self.get("BIND_UPN").to_owned(),
                password: Secret::new(password.trim().as_bytes()),
            },
            ca_file: Some(self.get("CA").into()),
            start_tls: false,
            users_base: None,
            configuration_base: None,
            connect_timeout: Duration::from_secs(5),
            search_timeout: Duration::from_secs(10),
            connections: 2,
            searches_max: 32,
        }
    }

    fn listed(&self, scheme: &str, port: &str, catalog_port: &str) -> ldap::Where {
        let url =
            |port| Url::parse(&format!("{scheme}://{}:{}", self.get("DC1_ADDRESS"), self.get(port))).expect("a URL");
        ldap::Where::Listed { domain_controllers: vec![url(port)], global_catalogs: vec![url(catalog_port)] }
    }

    /// As administrator, at the first domain controller.
    fn modify(&self, ldif: &str) {
        let mut ldapmodify = Command::new("ldapmodify");
        ldapmodify
            .args(["-x", "-H", &format!("ldaps://{}", self.get("DC1_ADDRESS")), "-D", self.get("ADMINISTRATOR")])
            .args(["-y", self.get("ADMINISTRATOR_PASSWORD_FILE")])
            .env("LDAPTLS_CACERT", self.get("CA"));
        openldap::modify(&mut ldapmodify, ldif);
    }
}

/// The forest of that folder, its servers found by DNS.
pub fn found(folder: &Path) -> ldap::Settings {
    let forest = Forest::in_folder(folder);
    let dns_servers = forest.get("DNS_SERVERS").split(',');
    let dns_servers = dns_servers.map(|ip| SocketAddr::new(ip.parse().expect("an address"), 53)).collect();
    let domain = forest.get("DOMAIN").to_owned();
    forest.settings(ldap::Where::Found {
        domain,
        site: Some("Lisbon".into()),
        dns_servers,
        scheme: ldap::Scheme::Ldaps,
    })
}

#[tokio::test]
async fn active_directory_is_reached_by_ldaps_and_start_tls_and_refuses_passwords_in_clear() {
    let Some(forest) = Forest::running() else { return };
    for (scheme, ports, start_tls) in
        [("ldaps", ("PORT_LDAPS", "PORT_GCS"), false), ("ldap", ("PORT_LDAP", "PORT_GC"), true)]
    {
        let settings = forest.settings(forest.listed(scheme, ports.0, ports.1));
        let directory = ldap::open(ldap::Settings { start_tls, ..settings }, vec![], &silent()).expect("good settings");
        let ana = within(directory.find(&bare("ana"))).await.expect("an answer").expect("ana");
        assert!(
            within(directory.verify(&ana, &Secret::new(*b"Pass-word1"))).await.expect("an answer").is_right(),
            "{scheme}"
        );
        assert!(
            !within(directory.verify(&ana, &Secret::new(*b"wrong"))).await.expect("an answer").is_right(),
            "{scheme}"
        );
        assert_eq!(within(directory.topology()).await.expect("a topology").parts.servers.len(), 13, "{scheme}");
    }
    let in_clear = forest.settings(forest.listed("ldap", "PORT_LDAP", "PORT_GC"));
    let directory = ldap::open(in_clear, vec![], &silent()).expect("good settings");
    let error = within(directory.find(&bare("ana"))).await.expect_err("strong authentication is required");
    assert!(matches!(error, DirectoryError::Unusable { .. }), "{error:?}");
    assert!(error.to_string().contains("write ldaps:// or start_tls = true"), "{error}");
}

#[tokio::test]
async fn active_directory_says_why_an_account_cannot_be_used() {
    let Some(forest) = Forest::running() else { return };
    let settings = forest.settings(forest.listed("ldaps", "PORT_LDAPS", "PORT_GCS"));
    let directory = ldap::open(settings, vec![], &silent()).expect("good settings");
    let gil = within(directory.find(&bare("gil"))).await.expect("an answer").expect("gil");
    let change = |how: &str| forest.modify(&format!("dn: {}\nchangetype: modify\n{how}\n", gil.dn));
    let right = Secret::new(*b"Pass-word1");
    let judge = async |password: &Secret| within(directory.verify(&gil, password)).await.expect("an answer");
    let set = |attribute: &str, value: &str| change(&format!("replace: {attribute}\n{attribute}: {value}"));
    set("userAccountControl", "512"); // an account like any; the others' passwords never expire, nor must they be changed
    for (attribute, value, otherwise, why) in [
        ("pwdLastSet", "0", "-1", Unusable::PasswordMustChange),
        ("accountExpires", "132000000000000000", "0", Unusable::AccountExpired),
        ("userAccountControl", "514", "512", Unusable::AccountDisabled),
    ] {
        // The process that is asked may see a little later what another has written.
        let becomes = async |verdict: Verdict| while judge(&right).await != verdict {};
        set(attribute, value);
        let became = tokio::time::timeout(DEADLINE, becomes(Verdict::Unusable(why))).await;
        let of_wrong = judge(&Secret::new(*b"wrong")).await;
        set(attribute, otherwise);
        assert_eq!((became, of_wrong), (Ok(()), Verdict::Wrong), "{attribute}");
        assert_eq!(tokio::time::timeout(DEADLINE, becomes(Verdict::Right)).await, Ok(()), "{attribute}");
    }
}

#[tokio::test]
async fn a_mailbox_that_is_moved_in_active_directory_is_told_with_its_new_home() {
    let Some(forest) = Forest::running() else { return };
    let settings = forest.settings(forest.listed("ldaps", "PORT_LDAPS", "PORT_GCS"));
    let directory = ldap::open(settings, vec![], &silent()).expect("good settings");
    within(directory.changes()).await.expect("an answer");
    let helena = MailboxName::parse("helena").expect("a name");
    let entry = within(directory.find(&helena)).await.expect("an answer").expect("helena");
    let home = "/o=Contoso/ou=Exchange Administrative Group (FYDIBOHF23SPDLT)/cn=Configuration/cn=Servers/cn=mbx-lis";
    let change = |how: &str| forest.modify(&format!("dn: {}\nchangetype: modify\n{how}\n", entry.dn));
    change(&format!("replace: msExchHomeServerName\nmsExchHomeServerName: {home}"));
    let of_helena = |changes: &Changes| changes.people.iter().find(|person| person.entry.id == entry.id).cloned();
    let changed = async {
        loop {
            if let Some(person) = of_helena(&directory.changes().await.expect("an answer")) {
                return person;
            }
        }
    };
    let person = tokio::time::timeout(DEADLINE, changed).await.expect("it is told");
    change("delete: msExchHomeServerName");
    assert_eq!(&*person.entry.mailbox.expect("a mailbox").home_server, home.to_lowercase());
    assert!(
        person.names.contains(&helena)
            && person.names.contains(&MailboxName::parse("CONTOSO\\helena").expect("a name"))
    );
}
