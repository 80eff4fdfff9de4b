//! What of a new configuration can come in force while the process runs, and what has to wait for another process.

use std::net::SocketAddr;

use super::{Admin, Config, Listener, SignIn};

/// What of a new configuration is not as it is wanted.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// One sentence for each.
    pub waits: Vec<String>,
    /// Which of the listeners are as the file wants them.
    pub listeners: Vec<bool>,
}

impl Config {
    /// Puts back what this process cannot change any more, as it is `in_force`, and says so.
    #[must_use]
    pub fn keep_what_cannot_change(&mut self, in_force: &Config) -> Kept {
        let mut kept = Vec::new();
        keep("process.threads", &mut self.threads, in_force.threads, &mut kept);
        let places = &mut self.limits.client_connections;
        keep("limits.client_connections", places, in_force.limits.client_connections, &mut kept);
        keep_admin(&mut self.admin, in_force.admin.as_ref(), &mut kept);
        keep("pins.connections_max", &mut self.pins.connections_max, in_force.pins.connections_max, &mut kept);
        if self.directory.keytab() != in_force.directory.keytab() {
            kept.push("[directory.ldap] stays as it is: the keytab is the whole process's".to_owned());
            self.directory.clone_from(&in_force.directory);
        }
        keep_sign_in(&mut self.sign_in, in_force.sign_in.as_ref(), &mut kept);
        if self.pid_file != in_force.pid_file {
            kept.push("process.pid_file stays as it is".to_owned());
            self.pid_file.clone_from(&in_force.pid_file);
        }
        let idle = (self.timeouts.client_keepalive, in_force.timeouts.client_keepalive);
        let speaks_http2 = |listener: &Listener| listener.tls.as_ref().is_some_and(|tls| tls.http2);
        if idle.0 != idle.1 && in_force.listeners.iter().any(speaks_http2) {
            kept.push("over HTTP/2 timeouts.client_keepalive stays as it was at the start".to_owned());
        }
        let old_mail = in_force.mail.clone();
        let wants_mail = self.listeners.iter().any(|listener| listener.mail.is_some());
        let wanted = std::mem::take(&mut self.listeners);
        let in_force = numbered(&in_force.listeners);
        let mut wanted = numbered(&wanted);
        let listeners = in_force.into_iter().map(|(place, old)| {
            let new = wanted.iter().position(|(of, _)| *of == place).map(|found| wanted.remove(found).1);
            let told = kept.len();
            (old.as_far_as_it_can_be(new, &mut kept), kept.len() == told)
        });
        let listeners: Vec<_> = listeners.collect();
        kept.extend(wanted.iter().map(|(_, new)| format!("nothing listens on {} yet", new.address)));
        let (listeners, as_wanted) = listeners.into_iter().unzip();
        self.listeners = listeners;
        let is_kept = |listeners: &[Listener]| listeners.iter().any(|listener| listener.mail.is_some());
        if is_kept(&self.listeners) && !wants_mail {
            // Without it these would sign in by the defaults, which may be without TLS.
            kept.push("[mail] stays as it is".to_owned());
            self.mail.clone_from(&old_mail);
        }
        Kept { waits: kept, listeners: as_wanted }
    }
}

impl Listener {
    /// This listener, with what is wanted of it now.
    fn as_far_as_it_can_be(&self, new: Option<&Listener>, kept: &mut Vec<String>) -> Listener {
        let Some(new) = new else {
            kept.push(format!("{} is still listened on", self.address));
            return self.clone();
        };
        let speaks =
            |listener: &Listener| (listener.tls.is_some(), listener.mail.map(|mail| (mail.protocol, mail.start_tls)));
        if speaks(new) == speaks(self) {
            return new.clone();
        }
        kept.push(format!("{} still speaks {}", self.address, self.speaks()));
        self.clone()
    }

    /// In words.
    pub(crate) fn speaks(&self) -> String {
        match (self.mail, &self.tls) {
            (None, None) => "plain http".to_owned(),
            (None, Some(_)) => "https".to_owned(),
            (Some(mail), None) => format!("plain {}", mail.protocol),
            (Some(mail), Some(_)) if mail.start_tls => format!("{} with TLS by command", mail.protocol),
            (Some(mail), Some(_)) => format!("{} over TLS", mail.protocol),
        }
    }
}

/// Where the administrators' page stands stays; by which names it is called changes.
fn keep_admin(new: &mut Option<Admin>, in_force: Option<&Admin>, kept: &mut Vec<String>) {
    let address = |admin: Option<&Admin>| admin.map_or("unset".to_owned(), |admin: &Admin| admin.address.to_string());
    keep("admin.address", &mut address(new.as_ref()), address(in_force), kept);
    *new = in_force.map(|admin| Admin {
        address: admin.address,
        hosts: new.take().map_or_else(|| admin.hosts.clone(), |new| new.hosts),
    });
}

/// The tickets stay, and whose keys the Kerberos library has; for whom it is asked, and how, changes.
fn keep_sign_in(new: &mut Option<SignIn>, in_force: Option<&SignIn>, kept: &mut Vec<String>) {
    let account = |sign_in: Option<&SignIn>| sign_in.map(|it| (it.keytab.clone(), it.account.clone()));
    if account(new.as_ref()) != account(in_force) {
        kept.push("[sign_in] stays as it is: its presence, keytab and account are the whole process's".to_owned());
        *new = in_force.cloned();
    }
    if let (Some(new), Some(in_force)) = (new, in_force) {
        keep("sign_in.users_max", &mut new.users_max, in_force.users_max, kept);
    }
}

/// The listeners by their address, and how many of the same address come before: there may be several with port 0.
fn numbered(listeners: &[Listener]) -> Vec<((SocketAddr, usize), &Listener)> {
    let before = |end: usize, address| listeners[..end].iter().filter(|listener| listener.address == address).count();
    let place = |(index, listener): (usize, &Listener)| (listener.address, before(index, listener.address));
    listeners.iter().enumerate().map(|it| (place(it), it.1)).collect()
}

fn keep<T: PartialEq + std::fmt::Display>(key: &str, new: &mut T, in_force: T, kept: &mut Vec<String>) {
    if *new != in_force {
        kept.push(format!("{key} stays {in_force}, and is not {new} yet"));
        *new = in_force;
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;
    use crate::config::ListenerTls;

    fn config(listeners: &str, further: &str) -> Config {
        let folder = tempfile::tempdir().expect("a folder");
        let [file, ldif] = ["firstcas.toml", "contoso.ldif"].map(|name| folder.path().join(name));
        std::fs::write(&ldif, "dn: DC=contoso,DC=com\n").expect("written");
        std::fs::write(&file, format!("{listeners}\n[directory]\nldif = {ldif:?}\n{further}")).expect("written");
        Config::load(&file).expect("a good configuration")
    }

    fn plain(port: u16, further: &str) -> String {
        format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\n{further}\n")
    }

    #[test]
    fn what_can_change_changes_and_nothing_is_said_of_it() {
        let old = config(&plain(80, ""), "");
        let mut new = config(
            &plain(80, "redirect_to_https = \"https://mail.contoso.com\""),
            "[timeouts]\nclient = \"7s\"\n[pins]\nlifetime = \"5m\"",
        );
        let wanted = new.clone();
        assert_eq!(new.keep_what_cannot_change(&old), Kept { waits: Vec::new(), listeners: vec![true] });
        assert_eq!(new.timeouts, wanted.timeouts);
        assert_eq!(new.pins, wanted.pins);
        assert_eq!(new.listeners, wanted.listeners);
    }

    #[test]
    fn what_cannot_change_stays_and_is_said() {
        let old = config(&(plain(80, "") + &plain(81, "")), "[process]\nthreads = 2");
        let mut new = config(
            &(plain(82, "") + &plain(81, "")),
            "[process]\nthreads = 3\npid_file = \"/run/other.pid\"\n[limits]\nclient_connections = 100\n[pins]\nconnections_max = 50\n\
             [admin]\naddress = \"127.0.0.1:8090\"",
        );
        let Kept { waits: kept, listeners } = new.keep_what_cannot_change(&old);
        assert_eq!(listeners, [false, true]);
        assert_eq!(
            kept,
            [
                "process.threads stays 2, and is not 3 yet",
                "limits.client_connections stays 20000, and is not 100 yet",
                "admin.address stays unset, and is not 127.0.0.1:8090 yet",
                "pins.connections_max stays 10000, and is not 50 yet",
                "process.pid_file stays as it is",
                "127.0.0.1:80 is still listened on",
                "nothing listens on 127.0.0.1:82 yet",
            ]
        );
        assert_eq!((new.threads, new.limits.client_connections, new.pins.connections_max), (2, 20_000, 10_000));
        assert_eq!(new.listeners, old.listeners);
        assert_eq!(new.pid_file, None);
        assert_eq!(new.admin, None);
    }

    #[test]
    fn whose_tickets_the_edge_gets_stays_and_how_it_gets_them_changes() {
        let sign_in = |lines: &str| config(&plain(80, ""), &format!("[sign_in]\n{lines}"));
        let old = sign_in("");
        let mut new = sign_in("timeout = \"3s\"\npass_basic_on = true\nusers_max = 7");
        assert_eq!(
            new.keep_what_cannot_change(&old).waits,
            ["sign_in.users_max stays 20000, and is not 7 yet"],
            "what a person waits for and what is passed on are not the process's"
        );
        let (old_users, new) = (old.sign_in.as_ref().expect("there").users_max, new.sign_in.expect("there"));
        assert_eq!(
            (new.timeout, new.pass_basic_on, new.users_max),
            (std::time::Duration::from_secs(3), true, old_users)
        );

        let without = config(&plain(80, ""), "");
        let mut other_account = old.clone();
        other_account.sign_in.as_mut().expect("there").keytab = Some("/etc/firstcas/firstcas.keytab".into());
        for (old, mut new) in [(&old, without.clone()), (&without, old.clone()), (&old, other_account)] {
            let kept = new.keep_what_cannot_change(old);
            assert_eq!(
                kept.waits,
                ["[sign_in] stays as it is: its presence, keytab and account are the whole process's"]
            );
            assert_eq!(new.sign_in, old.sign_in);
        }
    }

    #[test]
    fn how_long_idle_http2_connections_stay_is_said_to_stay_as_it_is() {
        let mut old = config(&plain(80, ""), "");
        let mut new = config(&plain(80, ""), "[timeouts]\nclient_keepalive = \"7s\"");
        assert_eq!(new.keep_what_cannot_change(&old).waits, Vec::<String>::new(), "nobody speaks HTTP/2");
        old.listeners[0].tls = Some(ListenerTls { certificates: Vec::new(), http2: true, clients: None });
        new.listeners.clone_from(&old.listeners);
        let kept = new.keep_what_cannot_change(&old);
        assert_eq!(kept.waits, ["over HTTP/2 timeouts.client_keepalive stays as it was at the start"]);
    }

    #[test]
    fn the_administrators_page_stays_where_it_is_and_takes_other_names() {
        let admin = |port, hosts: &str| {
            config(&plain(80, ""), &format!("[admin]\naddress = \"127.0.0.1:{port}\"\nhosts = {hosts}"))
        };
        let (old, mut new) = (admin(8090, "[]"), admin(8091, "[\"edge-1\"]"));
        let Kept { waits: kept, listeners } = new.keep_what_cannot_change(&old);
        assert_eq!(listeners, [true]);
        assert_eq!(kept, ["admin.address stays 127.0.0.1:8090, and is not 127.0.0.1:8091 yet"]);
        let hosts = vec!["edge-1".to_owned()];
        assert_eq!(new.admin, Some(Admin { address: "127.0.0.1:8090".parse().expect("an address"), hosts }));
    }

    #[test]
    fn kept_listeners_of_mail_go_on_with_their_settings_when_the_file_has_none_any_more() {
        let imap4 = plain(143, "protocol = \"imap4\"\nallow_plain_logon = true");
        let settings = "[mail]\nlogon_timeout = \"7s\"\n[mail.back_ends]\ntls = \"start_tls\"";
        let old = config(&(plain(80, "") + &imap4), settings);
        let mut new = config(&plain(80, ""), "");
        assert_ne!(new.mail, old.mail);
        let kept = new.keep_what_cannot_change(&old);
        assert_eq!(kept.waits, ["127.0.0.1:143 is still listened on", "[mail] stays as it is"]);
        assert_eq!(kept.listeners, [true, false]);
        assert_eq!((&new.mail, &new.listeners), (&old.mail, &old.listeners));

        // Whoever still wants some of them has said what holds for all.
        let pop3 = plain(110, "protocol = \"pop3\"\nallow_plain_logon = true");
        let old = config(&(imap4.clone() + &pop3), settings);
        let mut new = config(&imap4, "[mail]\nlogon_timeout = \"8s\"");
        let wanted = new.mail.clone();
        assert_eq!(new.keep_what_cannot_change(&old).waits, ["127.0.0.1:110 is still listened on"]);
        assert_eq!(new.mail, wanted);
    }
}
