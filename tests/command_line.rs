//! The command line as an administrator meets it: the real binary, its output and its exit status.

#![allow(clippy::unwrap_used, clippy::expect_used)] // a test may fail by panicking

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::{fs::PermissionsExt, net::UnixDatagram},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

/// A directory to start firstcas in, with the demo's configuration and directory and a certificate.
struct Place(TempDir);

struct Answer {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Place {
    fn new() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf");
        let place = Place(TempDir::new().unwrap());
        let made = rcgen::generate_simple_self_signed(vec!["mail.contoso.com".to_owned()]).unwrap();
        place.write("conf/firstcas.toml", &fs::read_to_string(source.join("firstcas.toml")).unwrap());
        place.write("conf/contoso.ldif", &fs::read_to_string(source.join("contoso.ldif")).unwrap());
        place.write("state/demo/edge.pem", &made.cert.pem());
        place.write("state/demo/edge.key", &made.signing_key.serialize_pem());
        place.write("state/demo/ca.pem", &made.cert.pem());
        place
    }

    fn write(&self, name: &str, contents: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    /// The shipped configuration with its first listener on this address and no other.
    fn listening_on(&self, address: &str) {
        let sample = fs::read_to_string(self.0.path().join("conf/firstcas.toml")).unwrap();
        let (before, rest) = sample.split_once("# https, TLS 1.2 and 1.3.").unwrap();
        let (_, after) = rest.split_once("#http2 = false").unwrap();
        let before = before.replace("127.0.0.1:8080", address);
        let others = ["8143", "8993", "8110", "8995", "8090"]; // many run at once
        let after = others
            .iter()
            .fold(after.to_owned(), |text, port| text.replace(&format!("127.0.0.1:{port}\""), "127.0.0.1:0\""));
        self.write("run.toml", &format!("{before}{after}"));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstcas"));
        command.args(arguments).current_dir(self.0.path()).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn firstcas(&self, arguments: &[&str]) -> Answer {
        let mut child = self.command(arguments).spawn().unwrap();
        // Outputs here are far smaller than a pipe's buffer, so the process ends without being read from.
        ended(&mut child);
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        Answer {
            status: status.code().expect("ended by itself"),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }
}

fn ended(child: &mut Child) {
    let deadline = Instant::now() + DEADLINE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("firstcas did not end in time");
        }
        thread::yield_now();
    }
}

const DEADLINE: Duration = Duration::from_secs(60);

#[test]
fn a_good_configuration_is_called_good_in_every_spelling_of_check() {
    let place = Place::new();
    for arguments in [
        &["check", "-c", "conf/firstcas.toml"][..],
        &["check", "--config", "conf/firstcas.toml"],
        &["-t", "-c", "conf/firstcas.toml"],
        &["--test", "--config=conf/firstcas.toml"],
        &["run", "-t", "-c", "conf/firstcas.toml"],
    ] {
        let answer = place.firstcas(arguments);
        assert_eq!((answer.status, answer.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(answer.stdout.starts_with("conf/firstcas.toml: configuration is good\n"), "{}", answer.stdout);
        assert!(answer.stdout.contains("https://127.0.0.1:8443\n"), "{}", answer.stdout);
        assert!(answer.stdout.contains("127.0.0.1:8143, imap4 with TLS by command\n"), "{}", answer.stdout);
        assert!(answer.stdout.contains("5 sites, 13 servers, 6 of them Client Access Servers\n"), "{}", answer.stdout);
        assert!(answer.stdout.contains("local site Lisbon\n"), "{}", answer.stdout);
    }
}

#[test]
fn a_check_lists_the_certificates_and_who_else_may_read_their_keys() {
    let place = Place::new();
    let key = place.0.path().join("state/demo/edge.key");
    for (mode, readers) in [(0o600, None), (0o640, Some("its group")), (0o644, Some("everybody on this machine"))] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).expect("the test's own file");
        let answer = place.firstcas(&["check", "-c", "conf/firstcas.toml"]);
        assert_eq!((answer.status, answer.stderr.as_str()), (0, ""), "{mode:o}");
        let certificate =
            "https://127.0.0.1:8443\n             mail.contoso.com: ECDSA P-256, valid until 4096-01-01\n";
        assert!(answer.stdout.contains(certificate), "{}", answer.stdout);
        let told =
            readers.map(|readers| format!("odd        the private key {} may be read by {readers};", key.display()));
        assert_eq!(answer.stdout.contains("private key"), told.is_some(), "{}", answer.stdout);
        assert!(answer.stdout.contains(&told.unwrap_or_default()), "{}", answer.stdout);
    }
}

#[test]
fn ten_mistakes_are_all_reported_each_with_its_place() {
    let place = Place::new();
    place.write(
        "bad.toml",
        "[[listener]]\n\
         address = \"localhost\"\n\
         [[listener]]\n\
         address = \"127.0.0.1:8443\"\n\
         tls = { certificate = \"gone.pem\", key = \"state/demo/ca.pem\" }\n\
         [directory]\n\
         ldiff = \"conf/contoso.ldif\"\n\
         [cache]\n\
         found_lifetime = 5\n\
         [routing]\n\
         open_paths = [\"/a/b\"]\n\
         [upstream]\n\
         fingerprints = [\"12\"]\n\
         [timeouts]\n\
         web = \"0s\"\n\
         [limit]\n\
         [log]\n\
         format = \"xml\"\n",
    );
    let answer = place.firstcas(&["check", "-c", "bad.toml"]);
    assert_eq!((answer.status, answer.stdout.as_str()), (1, ""));
    let mut lines = answer.stderr.lines();
    assert_eq!(lines.next(), Some("bad.toml: 11 mistakes"));
    let places: Vec<_> = lines.map(|line| line.split(": ").take(2).collect::<Vec<_>>().join(": ")).collect();
    assert_eq!(
        places,
        [
            "  bad.toml:2:11: listener[1].address",
            "  bad.toml:5:23: listener[2].tls.certificate",
            "  bad.toml:5:41: listener[2].tls.key",
            "  bad.toml:6:1: directory",
            "  bad.toml:7:1: directory.ldiff",
            "  bad.toml:9:18: cache.found_lifetime",
            "  bad.toml:11:15: routing.open_paths[1]",
            "  bad.toml:13:17: upstream.fingerprints[1]",
            "  bad.toml:15:7: timeouts.web",
            "  bad.toml:16:2: limit",
            "  bad.toml:18:10: log.format",
        ],
        "{}",
        answer.stderr
    );
    for cure in ["did you mean `ldif`?", "did you mean `limits`?", "\"5s\" or \"5m\""] {
        assert!(answer.stderr.contains(cure), "{}", answer.stderr);
    }
}

#[test]
fn mistakes_that_show_only_against_the_directory_are_reported_too() {
    let place = Place::new();
    let sample = fs::read_to_string(place.0.path().join("conf/firstcas.toml")).unwrap();
    place.write("site.toml", &format!("{}\n[sites.Portho]\n", sample.replace("\"Lisbon\"", "\"Lisboa\"")));
    let answer = place.firstcas(&["check", "-c", "site.toml"]);
    assert_eq!(answer.status, 1);
    assert!(answer.stderr.starts_with("site.toml: 2 mistakes\n"), "{}", answer.stderr);
    assert!(answer.stderr.contains("sites.portho: the directory has no AD site `portho`; did you mean `Porto`?"));
    assert!(
        answer.stderr.contains("routing.local_site: the directory has no AD site `Lisboa`; did you mean `Lisbon`?")
    );

    place.write("conf/contoso.ldif", "dn: DC=contoso,DC=com\nnot LDIF\n");
    let answer = place.firstcas(&["check", "-c", "conf/firstcas.toml"]);
    assert_eq!(answer.status, 1);
    assert!(answer.stderr.starts_with("conf/firstcas.toml: 1 mistake\n"), "{}", answer.stderr);
    assert!(answer.stderr.contains("conf/contoso.ldif:2: "), "{}", answer.stderr);
}

#[test]
fn an_oddity_of_the_directory_is_shown_without_failing_the_check() {
    let place = Place::new();
    let ldif = fs::read_to_string(place.0.path().join("conf/contoso.ldif")).unwrap();
    let homeless = "\ndn: CN=Odd One,CN=Users,DC=contoso,DC=com\nobjectClass: user\nsAMAccountName: odd\n\
                    mailNickname: odd\nhomeMDB: CN=Gone,DC=contoso,DC=com\nmsExchHomeServerName: /o=Contoso/cn=gone\n";
    place.write("conf/contoso.ldif", &format!("{ldif}{homeless}"));
    let answer = place.firstcas(&["check", "-c", "conf/firstcas.toml"]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    assert!(answer.stdout.contains("odd        CN=Odd One,CN=Users,DC=contoso,DC=com: "), "{}", answer.stdout);
}

#[test]
fn the_readmes_sample_lacks_nothing_but_the_administrators_own_files() {
    let place = Place::new();
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let sample: Vec<_> = readme
        .lines()
        .skip_while(|line| *line != "    [[listener]]")
        .take_while(|line| line.is_empty() || line.starts_with("    "))
        .map(str::trim_start)
        .collect();
    place.write("sample.toml", &sample.join("\n"));
    let answer = place.firstcas(&["check", "-c", "sample.toml"]);
    let mistakes: Vec<_> = answer.stderr.lines().skip(1).collect();
    assert_eq!(mistakes.len(), 4, "{}", answer.stderr);
    assert!(mistakes.iter().all(|mistake| mistake.contains("there is no file /etc/firstcas/")), "{}", answer.stderr);
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_and_not_a_crash() {
    let place = Place::new();
    for arguments in [
        &["check", "-c", "gone.toml"][..],
        &["-t", "-c", "gone.toml"],
        &["run", "-c", "gone.toml"],
        &["explain", "-c", "gone.toml", "--user", "ana", "--protocol", "owa"],
    ] {
        let answer = place.firstcas(arguments);
        assert_eq!((answer.status, answer.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(answer.stderr.starts_with("gone.toml: 1 mistake\n  gone.toml: there is no file gone.toml; "));
    }
}

#[test]
fn explain_tells_the_decision_and_fails_if_it_is_a_refusal() {
    let place = Place::new();
    let explain = |arguments: &[&str]| place.firstcas(&[&["explain", "-c", "conf/firstcas.toml"], arguments].concat());

    let bruno = explain(&["--user", "bruno", "--protocol", "owa"]);
    assert_eq!((bruno.status, bruno.stderr.as_str()), (0, ""));
    assert!(bruno.stdout.contains("because      proxy-to-site: "), "{}", bruno.stdout);

    let carla = explain(&["--user", "CONTOSO\\carla", "--protocol", "activesync", "--eas-version", "14.1"]);
    assert_eq!(carla.status, 0, "{}", carla.stderr);
    assert!(carla.stdout.contains(", protocol version 14.1\n"), "{}", carla.stdout);
    assert!(carla.stdout.contains("because      activesync-redirect: "), "{}", carla.stdout);

    let anas_wish = explain(&["--user", "ana", "--url", "https://mail.contoso.com/owa/bruno@contoso.com/"]);
    assert_eq!(anas_wish.status, 0, "{}", anas_wish.stderr);
    assert!(anas_wish.stdout.contains("site         Porto; "), "{}", anas_wish.stdout);

    let gil = explain(&["--user", "gil", "--protocol", "availability"]);
    assert_eq!((gil.status, gil.stderr.as_str()), (1, ""));
    assert!(gil.stdout.contains("because      no-integrated-authentication: "), "{}", gil.stdout);

    let duarte = explain(&["--user", "duarte", "--protocol", "imap4"]);
    assert_eq!((duarte.status, duarte.stderr.as_str()), (0, ""));
    assert!(duarte.stdout.contains("\nserver       ex03-opo  ex03-opo.contoso.com port 143, "), "{}", duarte.stdout);

    let elsewhere = explain(&["--user", "bruno", "--protocol", "pop3"]);
    assert_eq!((elsewhere.status, elsewhere.stderr.as_str()), (1, ""));
    assert!(
        elsewhere.stdout.contains("\nclient sees  -ERR [SYS/PERM] This mailbox is at another address."),
        "{}",
        elsewhere.stdout
    );
}

#[test]
fn wrong_usage_has_its_own_exit_status() {
    let place = Place::new();
    for arguments in [
        &[][..],
        &["serve"],
        &["-c", "conf/firstcas.toml"],
        &["check", "--colour"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "ana"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "ana", "--protocol", "imap"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "a:b", "--protocol", "owa"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "ana", "--protocol", "ews", "--url", "/owa/"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "ana", "--protocol", "owa", "--eas-version", "x"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "ana", "--protocol", "imap4", "--url", "/owa/"],
        &["explain", "-c", "conf/firstcas.toml", "--user", "ana", "--protocol", "pop3", "--eas-version", "12.1"],
    ] {
        let answer = place.firstcas(arguments);
        assert_eq!((answer.status, answer.stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(!answer.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_read_well() {
    let place = Place::new();
    let help = place.firstcas(&["--help"]);
    assert_eq!(help.status, 0);
    for text in [
        "run",
        "check",
        "explain",
        "/etc/firstcas/firstcas.toml",
        "firstcas -t -c conf/firstcas.toml",
        "check --directory",
        "Exit status",
    ] {
        assert!(help.stdout.contains(text), "{text} in\n{}", help.stdout);
    }
    for command in COMMANDS {
        let help = place.firstcas(&[command, "--help"]);
        assert!(help.stdout.contains("Example"), "{}", help.stdout);
        assert!(help.stdout.lines().all(|line| line.len() < 140), "{}", help.stdout);
    }
    let version = place.firstcas(&["--version"]);
    assert_eq!((version.status, version.stdout.trim()), (0, concat!("firstcas ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn the_catalogue_of_events_can_be_read_by_people_and_programs() {
    let place = Place::new();
    let all = place.firstcas(&["events"]);
    assert_eq!((all.status, all.stderr.as_str()), (0, ""));
    let one = place.firstcas(&["events", "fc121"]);
    assert_eq!(one.status, 0, "{}", one.stderr);
    for text in ["FC121", "error", "No directory server answers", "check the directory servers named in [directory]"] {
        assert!(all.stdout.contains(text) && one.stdout.contains(text), "{text} in\n{}", one.stdout);
    }
    assert!(!one.stdout.contains("OWA41"));
    let of_exchange = place.firstcas(&["events", "OWA41"]).stdout;
    assert!(of_exchange.contains("event 41 of source MSExchange OWA\n"), "{of_exchange}");

    let json = |arguments: &[&str]| -> Vec<serde_json::Value> {
        serde_json::from_str(&place.firstcas(arguments).stdout).expect("a list in JSON")
    };
    let events = json(&["events", "--json"]);
    assert_eq!(events.len(), all.stdout.matches("Cure: ").count());
    let is_whole = |event: &serde_json::Value| {
        ["id", "severity", "meaning", "cure"].iter().all(|key| event[key].as_str().is_some_and(|text| !text.is_empty()))
    };
    assert!(events.iter().all(is_whole), "{events:?}");
    let one = json(&["events", "--json", "EAS1008"]);
    assert_eq!((one.len(), one[0]["exchange_event"].as_u64()), (1, Some(1008)));

    let wrong = place.firstcas(&["events", "FC1211"]);
    assert_eq!((wrong.status, wrong.stdout.as_str()), (2, ""));
    assert!(wrong.stderr.contains("'FC121'"), "{}", wrong.stderr);
}

#[test]
fn the_manual_has_a_page_for_each_command_and_man_reads_them() {
    let place = Place::new();
    place.write("man8/.keep", "");
    let answer = place.firstcas(&["man", "man8"]);
    assert_eq!((answer.status, answer.stdout.as_str(), answer.stderr.as_str()), (0, "", ""));
    for command in COMMANDS {
        let page = place.0.path().join(format!("man8/firstcas-{command}.8"));
        let help = place.firstcas(&[command, "--help"]).stdout;
        let read = formatted(&fs::read(&page).expect(command));
        assert!(read.to_lowercase().starts_with(&format!("firstcas-{command}(8)")), "{read}");
        assert!(read.contains(help.lines().next().unwrap().trim_end_matches('.')), "{read}");
    }
    let first = place.firstcas(&["man"]).stdout;
    assert_eq!(first, fs::read_to_string(place.0.path().join("man8/firstcas.8")).unwrap());
    let read = formatted(first.as_bytes());
    for text in
        ["firstcas(8)", "firstcas-explain(8)", "firstcas check --directory -c conf/firstcas.toml", "Exit status"]
    {
        assert!(read.contains(text), "{text} in\n{read}");
    }
    let nowhere = place.firstcas(&["man", "gone"]);
    assert_eq!(nowhere.status, 1);
    assert!(nowhere.stderr.starts_with("the manual pages cannot be written to gone: "), "{}", nowhere.stderr);
}

/// A manual page as a terminal shows it.
fn formatted(page: &[u8]) -> String {
    let mut groff = Command::new("groff")
        .args(["-man", "-Tascii", "-ww", "-rLL=200n", "-P-cbou"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("groff");
    groff.stdin.take().unwrap().write_all(page).unwrap();
    let Output { stdout, stderr, .. } = groff.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&stderr), "", "groff finds nothing wrong");
    String::from_utf8(stdout).unwrap().trim_start().to_owned()
}

#[test]
fn bash_completes_commands_options_and_event_ids() {
    let place = Place::new();
    for (words, expected) in [
        (&["firstcas", "ev"][..], "events"),
        (&["firstcas", "run", "--conf"], "--config"),
        (&["firstcas", "events", "FC12"], "FC121"),
        (&["firstcas", "completions", "z"], "zsh"),
    ] {
        let script = format!(
            "source <({} completions bash); COMP_WORDS=({}); COMP_CWORD={}; COMP_LINE=\"${{COMP_WORDS[*]}}\"; \
             COMP_POINT=${{#COMP_LINE}}; _firstcas firstcas \"{}\" \"{}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            env!("CARGO_BIN_EXE_firstcas"),
            words.join(" "),
            words.len() - 1,
            words[words.len() - 1],
            words[words.len() - 2],
        );
        let Output { stdout, stderr, .. } =
            Command::new("bash").args(["--norc", "-c", &script]).current_dir(place.0.path()).output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        assert!(stdout.lines().any(|line| line == expected), "{words:?}: {stdout}{stderr}");
    }
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let answer = place.firstcas(&["completions", shell]);
        assert!(answer.status == 0 && answer.stdout.contains("explain"), "{shell}: {}", answer.stderr);
    }
}

const COMMANDS: [&str; 7] = ["run", "check", "explain", "upgrade", "events", "man", "completions"];

/// `firstcas run`, and its log as it is written.
struct Service {
    child: Child,
    log: mpsc::Receiver<String>,
}

impl Service {
    /// On a free port, with the shipped configuration; `prepare` may change the command.
    fn start(place: &Place, prepare: impl FnOnce(&mut Command)) -> Service {
        place.listening_on("127.0.0.1:0");
        let mut command = place.command(&["run", "-c", "run.toml"]);
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        let (lines, log) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| lines.send(line)));
        Service { child, log }
    }

    /// The log up to the first line with this text.
    fn log_until(&self, text: &str) -> Vec<String> {
        let mut seen: Vec<String> = Vec::new();
        while !seen.last().is_some_and(|line| line.contains(text)) {
            match self.log.recv_timeout(DEADLINE) {
                Ok(line) => seen.push(line),
                Err(error) => panic!("{text}: {error}: {seen:?}"),
            }
        }
        seen
    }

    fn signal(&self, signal: &str) {
        let told = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Stops it, and gives the rest of the log.
    fn stop(mut self) -> Vec<String> {
        self.signal("-TERM");
        ended(&mut self.child);
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        self.log.iter().collect()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill(); // already ended, where all went well
        let _ = self.child.wait();
    }
}

#[test]
fn run_serves_until_it_is_told_to_stop() {
    let place = Place::new();
    let service = Service::start(&place, |_| {});
    service.log_until("firstcas is ready");
    service.signal("-HUP");
    service.log_until("event=FC160");
    service.stop();
}

#[test]
fn the_service_manager_is_told_that_the_edge_is_ready_and_that_it_stops() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.0.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(DEADLINE)).unwrap();
    let told = || {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).expect("a notification");
        String::from_utf8(message[..length].to_vec()).unwrap()
    };
    let service = Service::start(&place, |command| {
        command.env("NOTIFY_SOCKET", place.0.path().join("notify"));
    });
    assert_eq!(told(), "READY=1\n");
    let log = service.log_until("firstcas is ready");
    assert!(log.iter().any(|line| line.contains("listening on http://127.0.0.1:")), "{log:?}");
    let rest = service.stop();
    assert_eq!(told(), "STOPPING=1\n");
    assert!(!rest.iter().any(|line| line.contains("service manager")), "{rest:?}");
}

#[test]
fn a_storm_of_one_event_is_told_by_a_few_lines_and_a_number() {
    const STORM: usize = 200;
    const MALFORMED: &[u8] =
        b"POST /owa/ HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let place = Place::new();
    let service = Service::start(&place, |_| {});
    let log = service.log_until("firstcas is ready");
    let address = log.iter().find_map(|line| line.split_once("http://")?.1.split(['"', ' ']).next()).unwrap();
    for _ in 0..STORM {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        client.write_all(MALFORMED).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    }
    let events: Vec<_> = service.stop().into_iter().filter(|line| line.contains("event=FC130")).collect();
    let (summary, written) = events.split_last().unwrap();
    let left_out = summary.split_once("and ").and_then(|(_, rest)| rest.split_once(" more of FC130 in the last "));
    let left_out: usize = left_out.expect(summary).0.parse().unwrap();
    assert!((30..STORM / 2).contains(&written.len()), "{}", written.len());
    assert_eq!(written.len() + left_out, STORM);
}

#[test]
fn run_says_which_address_it_cannot_have() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    place.listening_on(&address);
    let answer = place.firstcas(&["run", "-c", "run.toml"]);
    assert_eq!(answer.status, 1);
    assert!(answer.stderr.contains(&format!("cannot listen on {address}")), "{}", answer.stderr);
}

#[cfg(feature = "gssapi")]
#[test]
fn what_kerberos_needs_reaches_its_library_by_the_environment_of_the_same_process() {
    let place = Place::new();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let keytab = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tokens/service.keytab")).unwrap();
    fs::write(place.0.path().join("edge.keytab"), keytab).unwrap();
    place.write("password", "secret\n");
    let keytab = format!("FILE:{}/edge.keytab", place.0.path().display());
    let (by_keytab, by_password) =
        ("bind_keytab = \"edge.keytab\"", "bind_dn = \"CN=firstcas\"\nbind_password_file = \"password\"");
    let delegation = "[sign_in]\nby = [\"delegation\"]\nkeytab = \"edge.keytab\"";
    let (here, mine) = (Some("MEMORY:firstcas"), Some("FILE:mine"));
    let (system, administrators) = (Some("/proc/self/fd/0:/etc/krb5.conf"), Some("/proc/self/fd/0:mine.conf"));
    for (account, sign_in, given, [keys, tickets, profiles]) in [
        (by_keytab, "", &[][..], [Some(&*keytab), here, None]),
        (by_keytab, "", &[("KRB5CCNAME", "FILE:mine")], [Some(&*keytab), mine, None]),
        (by_password, "[sign_in]", &[], [None, here, system]),
        (by_password, delegation, &[("KRB5_CONFIG", "mine.conf")], [Some(&*keytab), here, administrators]),
    ] {
        place.write(
            "run.toml",
            &format!(
                "[[listener]]\naddress = \"127.0.0.1:0\"\n[directory.ldap]\nurls = [\"ldaps://{}\"]\n\
                 ca = \"state/demo/ca.pem\"\n{account}\n[routing]\nlocal_site = \"Lisbon\"\n{sign_in}\n",
                mute.local_addr().unwrap()
            ),
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_firstcas"));
        command.args(["explain", "-c", "run.toml", "--user", "ana", "--protocol", "owa"]).current_dir(place.0.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        for name in ["KRB5_CLIENT_KTNAME", "KRB5CCNAME", "KRB5_CONFIG"] {
            command.env_remove(name);
        }
        let mut child = command.envs(given.iter().copied()).spawn().unwrap();
        let _connection = mute.accept().unwrap(); // it got as far as its directory
        let of_child = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", child.id())).unwrap();
        let environment = of_child("environ");
        let value = |name: &str| environment.split('\0').find_map(|it| it.strip_prefix(name)?.strip_prefix('='));
        assert_eq!(value("KRB5_CLIENT_KTNAME"), keys);
        assert_eq!(value("KRB5CCNAME"), tickets);
        assert_eq!(value("KRB5_CONFIG"), profiles);
        let own = if profiles.is_some() { "[libdefaults]\n    forwardable = true\n" } else { "" };
        assert_eq!(of_child("fd/0").get(..own.len()), Some(own));
        assert!(of_child("cmdline").ends_with("\0explain\0-c\0run.toml\0--user\0ana\0--protocol\0owa\0"));
        ended(&mut child);
        let Output { stderr, .. } = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        let notes = usize::from(tickets == mine);
        assert_eq!(stderr.matches("note: KRB5CCNAME is FILE:mine").count(), notes, "{stderr}");
    }
}

/// A place whose directory is one LDAP server that does not answer, with a state folder.
fn without_directory() -> Place {
    let place = Place::new();
    place.listening_on("127.0.0.1:0");
    place.write("password", "secret\n");
    place.write("kept/.keep", "");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // and closed again
    let text = fs::read_to_string(place.0.path().join("run.toml")).unwrap();
    let ldap = format!(
        "[directory.ldap]\nurls = [\"ldap://{nobody}\"]\nbind_dn = \"CN=firstcas\"\nbind_password_file = \"password\"\n"
    );
    let text =
        text.replace("ldif = \"conf/contoso.ldif\"\n", "").replace("\n#[directory.ldap]\n", &format!("\n{ldap}"));
    place.write("away.toml", &text);
    place.write("kept.toml", &text.replace("\n[process]\n", "\n[process]\nstate_dir = \"kept\"\n"));
    place
}

#[test]
fn a_start_without_directory_and_without_what_was_kept_is_refused_with_the_cure() {
    let place = without_directory();
    for (config, cure) in [
        ("away.toml", "name a folder for one, such as process.state_dir = \"/var/lib/firstcas\""),
        ("kept.toml", "process.state_dir has no topology to start with (none was kept yet); start once while"),
    ] {
        let answer = place.firstcas(&["run", "-c", config]);
        assert_eq!(answer.status, 1, "{config}");
        assert!(answer.stderr.contains("the directory cannot be read, and "), "{}", answer.stderr);
        assert!(answer.stderr.contains(cure), "{}", answer.stderr);
        assert!(answer.stderr.contains("ldap://127.0.0.1:"), "{}", answer.stderr);
    }
}

#[test]
fn a_kept_topology_that_cannot_be_used_is_an_event_and_is_not_lost() {
    let place = without_directory();
    for (contents, problem) in [
        ("dn: DC=contoso,DC=com", "was not written by firstcas"),
        ("firstcas topology 2 00\n{}", "is of format 2, which this firstcas does not know"),
        ("firstcas topology 1 00\n{}", "is damaged or cut short"),
    ] {
        place.write("kept/topology.kept", contents);
        let answer = place.firstcas(&["run", "-c", "kept.toml"]);
        assert_eq!(answer.status, 1, "{contents}");
        let event = answer.stderr.lines().find(|line| line.contains("event=FC129")).expect("an event");
        assert!(event.contains("kept/topology.kept") && event.contains(problem), "{event}");
    }
    let aside = |number| fs::read_to_string(place.0.path().join(format!("kept/topology.kept.bad-{number}"))).unwrap();
    assert_eq!(aside(1), "dn: DC=contoso,DC=com");
    assert_eq!(aside(3), "firstcas topology 1 00\n{}");
}

#[test]
fn a_check_says_whether_it_asked_the_servers() {
    let place = without_directory();
    let answer = place.firstcas(&["check", "-c", "away.toml"]);
    assert_eq!(answer.status, 0, "{}", answer.stderr);
    assert!(answer.stdout.contains(", not asked by this check; `check --directory` does\n"), "{}", answer.stdout);
    let answer = place.firstcas(&["check", "--directory", "-c", "away.toml"]);
    assert_eq!((answer.status, answer.stdout.as_str()), (1, ""));
    assert!(answer.stderr.contains("ldap://127.0.0.1:"), "{}", answer.stderr);
}
