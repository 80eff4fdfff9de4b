//! A real Dovecot in a temporary folder, on loopback ports of its own: a mail server that speaks POP3 and IMAP4.
#![allow(dead_code)] // each test takes this module whole and uses a part of it

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::{
        fs::{DirBuilderExt, chown},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// What is wanted of it.
#[derive(Clone, Copy, Default)]
pub struct Wish<'a> {
    /// What it calls itself in its greeting.
    pub name: &'a str,
    /// Names and passwords.
    pub people: &'a [(&'a str, &'a str)],
    /// Its certificate and its private key, in PEM: it takes `STARTTLS` and `STLS`, and has ports for TLS at once.
    pub certificate: Option<(&'a str, &'a str)>,
    /// More of its configuration, such as `ssl = required`.
    pub more: &'a str,
}

/// Who may read everybody's mail by SASL's authorization identity, with [`PASSWORD`].
pub const DELEGATE: &str = "delegate";
/// That password.
pub const PASSWORD: &str = "Pass-word1";

/// Where it listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// IMAP4 in clear.
    Imap4,
    /// IMAP4 with TLS at once.
    Imap4Tls,
    /// POP3 in clear.
    Pop3,
    /// POP3 with TLS at once.
    Pop3Tls,
}

/// A running or stopped Dovecot; ends when dropped.
pub struct Dovecot {
    home: TempDir,
    ports: [u16; 4],
    process: Option<Child>,
}

impl Dovecot {
    /// Starts.
    pub fn start(wish: Wish<'_>) -> Dovecot {
        let home = tempfile::tempdir().expect("a temporary folder");
        let passwords: Vec<_> =
            wish.people.iter().map(|(name, password)| [*name, ":", *password, "\n"].concat()).collect();
        let mut files = vec![("people", passwords.concat()), ("delegates", format!("{DELEGATE}:{PASSWORD}\n"))];
        if let Some((certificate, key)) = wish.certificate {
            files.extend([("certificate.pem", certificate.to_owned()), ("key.pem", key.to_owned())]);
        }
        for (name, text) in files {
            fs::write(home.path().join(name), text).expect("written");
        }
        for (name, _) in wish.people {
            let folder = home.path().join("mail").join(name);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).expect("a folder");
        }
        let mut dovecot = Dovecot { home, ports: [0; 4], process: None };
        // Another program may take a free port before Dovecot does; then other ports are tried.
        for _ in 0..5 {
            dovecot.ports = free_ports(wish.certificate.is_some());
            dovecot.write_config(wish);
            if dovecot.try_to_start().is_ok() {
                return dovecot;
            }
        }
        panic!("dovecot does not start: {}", dovecot.log());
    }

    /// Where it listens.
    pub fn address(&self, port: Port) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.ports[port as usize]))
    }

    /// Puts a mail into somebody's inbox.
    pub fn deliver(&self, to: &str, mail: &str) {
        let folder = self.home.path().join("mail").join(to);
        let [written, inbox] = ["tmp", "new"].map(|part| folder.join(part));
        for part in [&written, &inbox] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(part).expect("a folder");
        }
        let file = tempfile::Builder::new().prefix("mail").tempfile_in(written).expect("a file");
        fs::write(&file, mail).expect("written");
        give_to_nobody(&folder);
        let name = file.path().file_name().expect("a name").to_owned();
        file.persist(inbox.join(name)).expect("renamed");
    }

    /// What it has logged: every logon, and its refusals.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// Ends the process: whoever connects now is refused, and who is connected is cut off.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        signal(&process, Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while process.try_wait().expect("it is ours").is_none() {
            if Instant::now() > deadline {
                process.kill().expect("it is ours");
                process.wait().expect("it ends");
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts again, on the same ports.
    pub fn start_again(&mut self) {
        self.try_to_start().expect("dovecot starts");
    }

    fn config(&self) -> PathBuf {
        self.home.path().join("dovecot.conf")
    }

    fn write_config(&self, wish: Wish<'_>) {
        let home = self.home.path().display();
        let [imap4, imap4_tls, pop3, pop3_tls] = self.ports;
        let [user, group] = if geteuid().is_root() { ["nobody", "nogroup"].map(str::to_owned) } else { ours() };
        let tls = match wish.certificate {
            None => "ssl = no".to_owned(),
            Some(_) => format!("ssl = yes\nssl_cert = <{home}/certificate.pem\nssl_key = <{home}/key.pem"),
        };
        let config = format!(
            "base_dir = {home}/run\n\
             state_dir = {home}/state\n\
             log_path = {home}/log\n\
             auth_verbose = yes\n\
             protocols = imap pop3\n\
             listen = 127.0.0.1\n\
             login_greeting = {}\n\
             default_internal_user = {user}\n\
             default_internal_group = {group}\n\
             default_login_user = {user}\n\
             mail_location = maildir:{home}/mail/%u\n\
             mail_max_userip_connections = 0\n\
             disable_plaintext_auth = no\n\
             auth_mechanisms = plain login\n\
             auth_failure_delay = 0\n\
             auth_username_chars =\n\
             {tls}\n\
             passdb {{\ndriver = passwd-file\nmaster = yes\nargs = scheme=plain username_format=%u {home}/delegates\n}}\n\
             passdb {{\ndriver = passwd-file\nargs = scheme=plain username_format=%u {home}/people\n}}\n\
             userdb {{\ndriver = static\nargs = uid={user} gid={group} home={home}/mail/%u\n}}\n\
             service anvil {{\nchroot =\nunix_listener anvil-auth-penalty {{\nmode = 0\n}}\n}}\n\
             service stats {{\nchroot =\n}}\n\
             service imap-login {{\nchroot =\n\
             inet_listener imap {{\nport = {imap4}\n}}\ninet_listener imaps {{\nport = {imap4_tls}\nssl = yes\n}}\n}}\n\
             service pop3-login {{\nchroot =\n\
             inet_listener pop3 {{\nport = {pop3}\n}}\ninet_listener pop3s {{\nport = {pop3_tls}\nssl = yes\n}}\n}}\n\
             {}\n",
            wish.name, wish.more,
        );
        fs::write(self.config(), config).expect("written");
    }

    fn try_to_start(&mut self) -> Result<(), String> {
        let said = File::create(self.home.path().join("said")).expect("a file");
        let mut command = Command::new("/usr/sbin/dovecot");
        command.args(["-F", "-c"]).arg(self.config()).stdin(Stdio::null());
        command.stdout(said.try_clone().expect("a file")).stderr(said);
        if geteuid().is_root() {
            give_to_nobody(self.home.path()); // it takes no mail to root, and one way for all users is enough
            command.uid(NOBODY).gid(NOBODY);
        }
        let mut process = command.spawn().expect("dovecot is installed (Debian: dovecot-imapd, dovecot-pop3d)");
        let ports: Vec<u16> = self.ports.into_iter().filter(|port| *port != 0).collect();
        let deadline = Instant::now() + Duration::from_secs(10);
        for port in ports {
            loop {
                match TcpStream::connect(("127.0.0.1", port)) {
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
                    return Err(fs::read_to_string(self.home.path().join("said")).unwrap_or_default());
                }
            }
        }
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Who runs it where the tests run as root.
const NOBODY: u32 = 65534;

/// Nothing, unless the tests run as root.
fn give_to_nobody(path: &Path) {
    if !geteuid().is_root() || path.is_symlink() {
        return;
    }
    let _ = chown(path, Some(NOBODY), Some(NOBODY)); // root may, but Dovecot may just have removed it
    if path.is_dir() {
        for inner in fs::read_dir(path).expect("a folder").map_while(Result::ok) {
            give_to_nobody(&inner.path());
        }
    }
}

/// User and group of whoever runs the tests.
fn ours() -> [String; 2] {
    ["-un", "-gn"].map(|which| {
        let said = Command::new("id").arg(which).output().expect("id is there");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    })
}

fn signal(process: &Child, which: Signal) {
    let pid = Pid::from_raw(i32::try_from(process.id()).expect("a process number")).expect("a process number");
    kill_process(pid, which).expect("it is ours");
}

/// In the order of [`Port`]; 0 is none.
fn free_ports(is_tls: bool) -> [u16; 4] {
    let listeners = [0; 4].map(|port| TcpListener::bind(("127.0.0.1", port)).expect("a free port"));
    let [imap4, imap4_tls, pop3, pop3_tls] =
        listeners.map(|listener| listener.local_addr().expect("its address").port());
    if is_tls { [imap4, imap4_tls, pop3, pop3_tls] } else { [imap4, 0, pop3, 0] }
}
