//! A real MIT KDC in a temporary folder, on a loopback port of its own: the realm CONTOSO.COM, where everybody's password is
//! `Pass-word1`, with a service for every host; and FABRIKAM.COM, which trusts it and which it trusts.
#![allow(dead_code)] // each test takes this module whole and uses a part of it

use std::{
    ffi::OsString,
    fs::{self, File},
    io::Write as _,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running or stopped KDC; ends when dropped.
pub struct Kdc {
    home: TempDir,
    port: u16,
    process: Option<Child>,
}

/// Databases that others need as well: they take a second to make, and none to copy.
struct Made {
    people: Vec<String>,
    hosts: Vec<String>,
    files: Vec<(OsString, Vec<u8>)>,
}

static MADE: Mutex<Option<Made>> = Mutex::new(None);

/// Everybody's password at first.
pub const PASSWORD: &str = "Pass-word1";

impl Kdc {
    /// Starts, with these people (`bruno@CONTOSO.COM`; of any realm of [`REALMS`]) and `HTTP/<host>` of these hosts.
    pub fn start(people: &[String], hosts: &[String]) -> Kdc {
        let home = tempfile::tempdir().expect("a temporary folder");
        let mut kdc = Kdc { home, port: 0, process: None };
        kdc.write_config(); // the tools want one, whatever the port
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some(made) if (&made.people[..], &made.hosts[..]) == (people, hosts) => {
                for (name, content) in &made.files {
                    fs::write(kdc.home.path().join(name), content).expect("written");
                }
            }
            Some(_) | None => {
                kdc.make_databases(people, hosts);
                let files = kdc.databases();
                *made = Some(Made { people: people.to_owned(), hosts: hosts.to_owned(), files });
            }
        }
        drop(made);
        // Another program may take a free port before the KDC does; then another port is tried.
        for _ in 0..5 {
            kdc.port = free_port();
            kdc.write_config();
            if kdc.try_to_start().is_ok() {
                return kdc;
            }
        }
        panic!("krb5kdc does not start: {}", kdc.said());
    }

    fn make_databases(&self, people: &[String], hosts: &[String]) {
        for realm in REALMS {
            self.run(Command::new("/usr/sbin/kdb5_util").args(["create", "-s", "-r", realm, "-P", "master"]), "");
            let mut commands = String::new();
            for person in people.iter().filter(|person| person.ends_with(&format!("@{realm}"))) {
                // As Active Directory: who does not know the password gets nothing to try passwords on.
                commands.extend(["addprinc +requires_preauth -pw ", PASSWORD, " ", person, "\n"]);
            }
            for [of, to] in [REALMS, [REALMS[1], REALMS[0]]] {
                commands.extend(["addprinc -pw trust krbtgt/", to, "@", of, "\n"]);
            }
            if realm == REALMS[0] {
                commands.extend(hosts.iter().map(|host| format!("addprinc -randkey HTTP/{host}\n")));
            }
            self.administer_in(realm, &commands);
        }
    }

    /// Name and content of what `kdb5_util` has made.
    fn databases(&self) -> Vec<(OsString, Vec<u8>)> {
        let files = fs::read_dir(self.home.path()).expect("the folder").map(|file| file.expect("a file"));
        let files =
            files.filter(|file| REALMS.iter().any(|realm| file.file_name().to_string_lossy().starts_with(realm)));
        files.map(|file| (file.file_name(), fs::read(file.path()).expect("readable"))).collect()
    }

    /// What `KRB5_CONFIG` names, for whoever asks this KDC.
    pub fn config(&self) -> PathBuf {
        self.home.path().join("krb5.conf")
    }

    /// The services' keys as they are now.
    pub fn keytab(&self) -> Vec<u8> {
        let file = self.home.path().join("keytab");
        let _ = fs::remove_file(&file); // it would grow
        self.administer(&format!("ktadd -norandkey -k {} -glob HTTP/*\n", file.display()));
        fs::read(file).expect("a keytab")
    }

    /// Ends the process: whoever asks now is refused.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("it is ours");
            process.wait().expect("it ends");
        }
    }

    /// Starts again, on the same port.
    pub fn start_again(&mut self) {
        self.try_to_start().expect("krb5kdc starts");
    }

    /// Whoever asks now waits.
    pub fn hang(&self) {
        self.signal(Signal::STOP);
    }

    /// Answers everybody who waits.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Gives somebody another password.
    pub fn set_password(&self, person: &str, password: &str) {
        self.administer(&format!("cpw -pw {password} {person}\n"));
    }

    /// Locks somebody out.
    pub fn lock(&self, person: &str) {
        self.administer(&format!("modprinc -allow_tix {person}\n"));
    }

    /// Lets somebody's password expire.
    pub fn expire_password(&self, person: &str) {
        self.administer(&format!("modprinc -pwexpire yesterday {person}\n"));
    }

    /// Lets somebody's tickets last so long from now on.
    pub fn shorten_tickets(&self, person: &str, life: &str) {
        self.administer(&format!("modprinc -maxlife \"{life}\" {person}\n"));
    }

    /// Gives the service of a host another key.
    pub fn change_key(&self, host: &str) {
        self.administer(&format!("cpw -randkey HTTP/{host}\n"));
    }

    /// Takes the service of a host away.
    pub fn remove_service(&self, host: &str) {
        self.administer(&format!("delprinc -force HTTP/{host}\n"));
    }

    /// What the KDC logged: every ticket asked for, and its refusals.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("kdc.log")).expect("its log")
    }

    fn administer(&self, commands: &str) {
        self.administer_in(REALMS[0], commands);
    }

    fn administer_in(&self, realm: &str, commands: &str) {
        self.run(Command::new("/usr/sbin/kadmin.local").args(["-r", realm]), commands);
    }

    fn run(&self, command: &mut Command, input: &str) {
        let process =
            self.with_environment(command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = process.spawn().expect("MIT Kerberos is installed (Debian: krb5-kdc, krb5-admin-server)");
        process.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        let done = process.wait_with_output().expect("it ends");
        let said = [done.stdout, done.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        // kadmin.local is content with itself whatever went wrong, but says "while creating ...".
        assert!(done.status.success() && !said.contains(" while "), "{said}");
    }

    fn with_environment<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        let config = |name: &str| self.home.path().join(name);
        command.env("KRB5_CONFIG", config("krb5.conf")).env("KRB5_KDC_PROFILE", config("kdc.conf"))
    }

    fn write_config(&self) {
        let (home, port) = (self.home.path().display(), self.port);
        let realms = |each: &dyn Fn(&str) -> String| REALMS.map(each).concat();
        // Names are taken as they are: no DNS is asked, neither for the KDC nor for a host's canonical name.
        let config = format!(
            "[libdefaults]\n\
             default_realm = {}\n\
             dns_lookup_kdc = false\n\
             dns_lookup_realm = false\n\
             dns_canonicalize_hostname = false\n\
             rdns = false\n\
             udp_preference_limit = 1\n\
             [realms]\n{}\
             [domain_realm]\n{}",
            REALMS[0],
            realms(&|realm| format!("{realm} = {{\nkdc = 127.0.0.1:{port}\n}}\n")),
            realms(&|realm| format!(".{} = {realm}\n", realm.to_lowercase())),
        );
        let kdc_config = format!(
            "[kdcdefaults]\n\
             kdc_listen = \"\"\n\
             kdc_tcp_listen = 127.0.0.1:{port}\n\
             [realms]\n{}\
             [logging]\n\
             kdc = FILE:{home}/kdc.log\n",
            realms(&|realm| format!(
                "{realm} = {{\ndatabase_name = {home}/{realm}\nkey_stash_file = {home}/{realm}.stash\n\
                 acl_file = {home}/acl\nsupported_enctypes = aes256-cts:normal\n}}\n"
            )),
        );
        for (name, text) in [("krb5.conf", config), ("kdc.conf", kdc_config)] {
            fs::write(self.home.path().join(name), text).expect("written");
        }
    }

    fn try_to_start(&mut self) -> Result<(), String> {
        let said = File::create(self.home.path().join("said")).expect("a file");
        let mut command = Command::new("/usr/sbin/krb5kdc");
        command.arg("-n").args(REALMS.map(|realm| ["-r", realm]).as_flattened()).stdin(Stdio::null());
        command.stdout(said.try_clone().expect("a file")).stderr(said);
        let mut process = self.with_environment(&mut command).spawn().expect("krb5kdc is installed (Debian: krb5-kdc)");
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpStream::connect(("127.0.0.1", self.port)) {
                // A free port can be handed to the very connection that tries it.
                Ok(stream) if stream.local_addr().ok() != stream.peer_addr().ok() => break,
                Err(error) if Instant::now() > deadline => {
                    let _ = process.kill();
                    let _ = process.wait();
                    return Err(error.to_string());
                }
                Ok(_) | Err(_) => thread::yield_now(),
            }
            if process.try_wait().expect("it is ours").is_some() {
                return Err(self.said());
            }
        }
        self.process = Some(process);
        Ok(())
    }

    fn said(&self) -> String {
        fs::read_to_string(self.home.path().join("said")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        let pid = Pid::from_raw(i32::try_from(process.id()).expect("a process number")).expect("a process number");
        kill_process(pid, signal).expect("it is ours");
    }
}

impl Drop for Kdc {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Its realms, the first one the hosts'.
pub const REALMS: [&str; 2] = ["CONTOSO.COM", "FABRIKAM.COM"];
