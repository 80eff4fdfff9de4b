//! The people who sign in: fifty, at two sites, for the hammer alone.

use std::fmt::Write;

use base64::{Engine, prelude::BASE64_STANDARD};

/// Somebody with a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The `sAMAccountName`.
    pub name: String,
    /// The server with the mailbox.
    pub home: &'static str,
}

/// Twenty-five people at Lisbon, twenty-five at Porto.
pub fn all() -> Vec<Person> {
    (0..EACH).flat_map(|number| [("mbx-lis", number), ("mbx-opo", number)]).map(person).collect()
}

/// The people at Lisbon alone, where one site is all there is.
pub fn at_lisbon() -> Vec<Person> {
    (0..EACH).map(|number| person(("mbx-lis", number))).collect()
}

fn person((home, number): (&'static str, u8)) -> Person {
    Person { name: format!("{}{number:02}", &home[4..]), home }
}

/// Their entries in the directory. The password is Contoso's.
pub fn ldif() -> String {
    let mut text = String::new();
    for (number, Person { name, home }) in all().into_iter().enumerate() {
        let mut guid = [0x99; 16];
        guid[..8].copy_from_slice(&number.to_le_bytes());
        let guid = BASE64_STANDARD.encode(guid);
        let _ = write!(
            text,
            "\ndn: CN={name},CN=Users,DC=contoso,DC=com\nobjectClass: top\nobjectClass: person\n\
             objectClass: organizationalPerson\nobjectClass: user\ncn: {name}\nsn: {name}\nsAMAccountName: {name}\n\
             userPrincipalName: {name}@contoso.com\nmail: {name}@contoso.com\n\
             proxyAddresses: SMTP:{name}@contoso.com\nmailNickname: {name}\n\
             legacyExchangeDN: /o=Contoso/ou={GROUP}/cn=Recipients/cn={name}\n\
             homeMDB: CN=Mailbox Database,CN=First Storage Group,CN=InformationStore,CN={home},CN=Servers,\
             CN=Exchange Administrative Group ({GROUP_ID}),CN=Administrative Groups,CN=Contoso,\
             CN=Microsoft Exchange,CN=Services,CN=Configuration,DC=contoso,DC=com\n\
             msExchHomeServerName: /o=Contoso/ou={GROUP}/cn=Configuration/cn=Servers/cn={home}\n\
             msExchMailboxGuid:: {guid}\nmsExchRecipientTypeDetails: 1\nuserPassword: {PASSWORD}\n"
        );
    }
    text
}

const EACH: u8 = 25;
const GROUP: &str = "Exchange Administrative Group (FYDIBOHF23SPDLT)";
const GROUP_ID: &str = "FYDIBOHF23SPDLT";
/// `Pass-word1`, salted and hashed, as in `conf/contoso.ldif`.
const PASSWORD: &str = "{SSHA}9sVsr08QVNkinz3uj72QpnvpYvQUQbBSipVZ8A==";
