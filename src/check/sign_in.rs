//! Whether the edge can sign in to every server that it has to: its own account, and the servers' service principal names.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
};

use tokio::{task::spawn_blocking, time::timeout};

use super::{Report, SHOWN_MAX};
use crate::{
    config::{self, Config, SignInBy, values::list},
    directory::{
        DirectoryError,
        organisation::Organisation,
        schema::{self, Record, attribute},
    },
    edge::organisation::{may_be_sent_to, service_of},
    identity::keytab::Keytab,
    kerberos::{KerberosError, library::Credential},
    routing::{
        Policy,
        protocol::Protocol,
        sign_in::SignIn,
        topology::{ServerId, Topology},
    },
};

/// By what tickets are got, one way a line; and what is wrong with the keytab.
pub fn summary(sign_in: &config::SignIn) -> (Vec<String>, Option<String>) {
    let mut problem = None;
    let by = sign_in.by.iter().map(|by| match by {
        SignInBy::Password => "Kerberos with the user's password".to_owned(),
        SignInBy::Delegation => {
            let (account, keytab) =
                (sign_in.account.as_deref().unwrap_or("nobody"), sign_in.keytab.as_deref().unwrap_or(Path::new("")));
            let keys = keys_of(account, keytab);
            if !keys.iter().any(|(_, is_strong)| *is_strong) {
                problem = Some(format!(
                    "{} has no AES key of {account}; give its account AES types and export the keytab again",
                    keytab.display()
                ));
            }
            let keys: Vec<_> = keys.into_iter().map(|(name, _)| name).collect();
            let keys = if keys.is_empty() { "no keys of it".to_owned() } else { keys.join(", ") };
            format!("Kerberos by delegation from {account}; {} has {keys}", keytab.display())
        }
    });
    (by.collect(), problem)
}

/// The account's keys in words, and whether each is of AES.
fn keys_of(account: &str, keytab: &Path) -> Vec<(String, bool)> {
    let keytab = std::fs::read(keytab).ok().and_then(|bytes| Keytab::parse(&bytes).ok());
    let keys = keytab.iter().flat_map(Keytab::keys).filter(|key| key.principal == account);
    let of_key = |kvno: u32, etype: i32| {
        let (name, is_strong) = match etype {
            17 => ("AES-128", true),
            18 => ("AES-256", true),
            19 => ("AES-128 with SHA-256", true),
            20 => ("AES-256 with SHA-384", true),
            23 => ("RC4", false),
            _ => ("another type", false),
        };
        (format!("{name} (version {kvno})"), is_strong)
    };
    keys.map(|key| of_key(key.kvno, key.etype)).collect()
}

/// The services that somebody is signed in to by a ticket, each with the names of its servers.
fn services(topology: &Topology, policy: &Policy, sign_in: &config::SignIn) -> BTreeMap<String, BTreeSet<String>> {
    let mut services: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let is_wanted = |server, protocol| {
        let accepts = topology.server(server).accepts(protocol);
        may_be_sent_to(topology.server(server), protocol, topology, policy)
            && [true, false]
                .map(|password| SignIn::to(accepts, sign_in.means(true, password)))
                .contains(&SignIn::Kerberos)
    };
    for id in (0..topology.servers().len()).map(ServerId) {
        for protocol in Protocol::ALL.into_iter().filter(|protocol| is_wanted(id, *protocol)) {
            let server = topology.server(id);
            services.entry(service_of(server, protocol)).or_default().insert(server.name.clone());
        }
    }
    services
}

impl Report {
    /// Looks whether everybody could be signed in where they are sent.
    pub(super) async fn sign_in(
        &mut self,
        config: &Config,
        directory: &Organisation,
        people: &[Record],
        topology: &Topology,
        policy: &Policy,
    ) -> Result<(), DirectoryError> {
        let Some(sign_in) = &config.sign_in else { return Ok(()) };
        let (by, problem) = summary(sign_in);
        for (place, line) in by.into_iter().enumerate() {
            self.say(if place == 0 { "sign-in" } else { "" }, line);
        }
        if let Some(problem) = problem {
            self.fault(problem);
        }
        let services = services(topology, policy, sign_in);
        let (mut found, mut unseen) = (0, 0);
        for (service, servers) in &services {
            let host = service.trim_start_matches("HTTP/");
            let of = list(&servers.iter().map(String::as_str).collect::<Vec<_>>());
            if host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
                self.fault(format!(
                    "{of} has the address {host} in an InternalURL, which is no service principal name's; name its host there"
                ));
                continue;
            }
            match directory.accounts_of_host(host).await? {
                // A file has no accounts of servers, and users_base may leave them out.
                None => unseen += 1,
                Some(accounts) if accounts.is_empty() && narrowed(&config.directory) => unseen += 1,
                Some(accounts) => match problem_of(service, &accounts) {
                    Some(problem) => self.fault(format!("{of}: {problem}")),
                    None => found += 1,
                },
            }
        }
        self.say("", format!("{found} of {} service principal names are one account's", services.len()));
        if unseen > 0 {
            self.say("", format!("{unseen} could not be looked for: their accounts are outside of what is searched"));
        }
        if let (true, Some(account)) = (sign_in.by.contains(&SignInBy::Delegation), &sign_in.account) {
            let with_mailbox = people.iter().map(schema::entry).filter(|entry| entry.mailbox.is_some());
            let users = with_mailbox.filter_map(|entry| entry.principal).take(TRIED_MAX).collect();
            self.delegation(account.clone(), users, services.into_keys().collect(), sign_in).await;
        }
        Ok(())
    }

    /// Gets what the edge would get: the account's own ticket, and one for each service in the name of somebody.
    async fn delegation(
        &mut self,
        account: String,
        users: Vec<String>,
        services: Vec<String>,
        sign_in: &config::SignIn,
    ) {
        let asked = account.clone();
        // The library waits, and nothing but the end of the program ends that.
        let calls = services.len().saturating_add(users.len()).saturating_add(1);
        let patience = sign_in.timeout * u32::try_from(calls).unwrap_or(u32::MAX).min(60);
        let asking = spawn_blocking(move || -> Result<Vec<(String, Tried)>, KerberosError> {
            let own = Credential::of_account(&asked)?;
            let mut tried = Vec::new();
            for user in users {
                let result = own.delegated(&user).map(|credential| {
                    let refused =
                        services.iter().filter_map(|service| Some((service, credential.token(service).err()?)));
                    refused.map(|(service, error)| (service.clone(), error)).collect::<Vec<_>>()
                });
                let is_last = result.is_ok();
                tried.push((user, result));
                if is_last {
                    break; // those before may be disabled, a room's, or not to be delegated
                }
            }
            Ok(tried)
        });
        match timeout(patience, asking).await {
            Ok(Ok(Ok(tried))) => {
                self.say("", format!("{account} has a ticket of its own"));
                match tried.last() {
                    Some((user, Ok(refused))) if refused.is_empty() => {
                        self.say("", format!("it can sign in for {user} everywhere"));
                    }
                    Some((user, Ok(refused))) => {
                        for (service, error) in refused.iter().take(SHOWN_MAX) {
                            self.fault(format!("{account} cannot sign in for {user} to {service}: {error}"));
                        }
                        if let Some(more @ 1..) = refused.len().checked_sub(SHOWN_MAX) {
                            self.say("", format!("  and to {more} more"));
                        }
                    }
                    Some((user, Err(error))) => {
                        let how_many = tried.len();
                        self.fault(format!(
                            "{account} cannot sign in for any of {how_many} people with a mailbox; for {user}: {error}"
                        ));
                    }
                    None => self.say("", "nobody with a mailbox has a Kerberos name that it could be tried for"),
                }
            }
            Ok(Ok(Err(error))) => self.fault(format!("{account} can sign in for nobody: {error}")),
            Ok(Err(_)) | Err(_) => self.fault(format!("{account} got no ticket in time")),
        }
    }

    fn fault(&mut self, problem: impl std::fmt::Display) {
        self.faults += 1;
        self.say("odd", problem);
    }
}

/// What became of signing in for somebody: the services that there is no ticket for.
type Tried = Result<Vec<(String, KerberosError)>, KerberosError>;

/// People who are tried, until one can be signed in for.
const TRIED_MAX: usize = 10;

/// What would keep the edge from a ticket. `HOST/` stands for `HTTP/` where nobody has that ([MS-ADTS] 3.1.1.3.2.9).
fn problem_of(service: &str, accounts: &[Record]) -> Option<String> {
    let host = service.trim_start_matches("HTTP/");
    let with = |name: String| -> Vec<&str> {
        let has = |account: &&Record| {
            account.texts(attribute::SERVICE_PRINCIPAL_NAME).any(|own| own.eq_ignore_ascii_case(&name))
        };
        accounts.iter().filter(has).map(|account| account.dn.as_str()).collect()
    };
    let (own, implied) = (with(service.to_owned()), with(format!("HOST/{host}")));
    match if own.is_empty() { &implied } else { &own }[..] {
        [_] => None,
        [] => Some(format!("no account has the service principal name {service}; setspn -S {service} ACCOUNT")),
        ref several => Some(format!(
            "several accounts have the service principal name {service}: {}; setspn -D {service} all but one",
            several.join(" | ")
        )),
    }
}

/// Whether less than a whole domain is searched.
fn narrowed(directory: &config::Directory) -> bool {
    let config::Directory::Ldap { forest, .. } = directory else { return false };
    let base = schema::fold_dn(forest.users_base.as_deref().unwrap_or_default());
    base.split(',').any(|rdn| !rdn.is_empty() && !rdn.starts_with("dc="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_one_accounts() {
        let account = |dn: &str, names: &[&str]| {
            let mut record = Record::new(dn);
            for name in names {
                record.push(attribute::SERVICE_PRINCIPAL_NAME, *name);
            }
            record
        };
        let machine = account("CN=cas", &["HOST/cas.contoso.com", "HOST/cas"]);
        let (asa, other) = (account("CN=asa", &["http/CAS.contoso.com"]), account("CN=b", &["HTTP/cas.contoso.com"]));
        let problem = |accounts: &[&Record]| {
            let accounts: Vec<_> = accounts.iter().copied().cloned().collect();
            problem_of("HTTP/cas.contoso.com", &accounts)
        };
        assert_eq!(problem(&[&machine]), None);
        assert_eq!(problem(&[&machine, &asa]), None, "what is named itself comes first");
        assert!(problem(&[]).is_some_and(|it| it.starts_with("no account has the service principal name HTTP/cas.")));
        assert!(
            problem(&[&asa, &other]).is_some_and(|it| it.contains("HTTP/cas.contoso.com: CN=asa | CN=b; setspn -D"))
        );
        assert!(problem(&[&machine, &machine]).is_some());
        assert!(problem(&[&machine, &asa, &other]).is_some(), "what is named itself, twice");
    }
}
