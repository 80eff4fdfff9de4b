//! One process takes another's place, under load: nobody is refused, nothing fails, and whatever is wrong with the new one
//! leaves the old one serving. All of it with the real binary.

use std::{
    fs::{self, Permissions},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Output, Stdio},
};

use http::Method;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpStream, UnixListener},
    process::Command,
};

use crate::{
    form::Browser,
    harness::{Client, House, Plan, credential, until, within},
    load::{Load, Place},
    process::{FIRSTCAS, Process},
    tls::{TLS13, connector},
    windows_client::Handshake,
    wire::{Wire, field},
};

/// Processes of firstcas, one after the other, in front of contoso.
struct Edge {
    /// The first.
    process: Process,
    /// All that were ever told of; dropping this ends them.
    pids: Vec<u32>,
}

impl Edge {
    async fn start() -> Edge {
        Edge::with("").await
    }

    /// With further lines of configuration.
    async fn with(further: &str) -> Edge {
        let further = format!(
            "# http2\nprocess.pid_file = \"@FOLDER@/run/firstcas.pid\"\n\
             process.upgrade_socket = \"@FOLDER@/run/upgrade.sock\"\n{further}"
        );
        let plan = Plan { further, ..Plan::default() };
        let house = House::without_edge(&plan).await;
        fs::create_dir(house.folder.path().join("run")).expect("a folder");
        let process = Process::start(house, &plan, &[]).await;
        let pids = vec![process.pid()];
        let edge = Edge { process, pids };
        until("the pid file is there", async || edge.pid_file() == Some(edge.pids[0])).await;
        edge
    }

    fn place(&self) -> Place {
        let [plain, tls] = self.process.addresses();
        let connector = |protocols| connector(&self.process.house, TLS13, protocols);
        Place { plain, tls, connector: connector(&[]), h2_connector: connector(&["h2"]) }
    }

    fn load(&self) -> Load {
        Load::start(self.place(), 2)
    }

    fn socket(&self) -> PathBuf {
        self.process.house.folder.path().join("run/upgrade.sock")
    }

    fn pid_file(&self) -> Option<u32> {
        fs::read_to_string(self.process.house.folder.path().join("run/firstcas.pid")).ok()?.trim().parse().ok()
    }

    /// `firstcas upgrade` with further arguments.
    async fn upgrade(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(FIRSTCAS);
        command.args(["upgrade", "-c"]).arg(&self.process.config).args(arguments).stdin(Stdio::null());
        within("firstcas upgrade", command.kill_on_drop(true).output()).await.expect("it starts")
    }

    /// An upgrade that works; returns the process that serves.
    async fn upgraded(&mut self, arguments: &[&str]) -> u32 {
        let answer = self.upgrade(arguments).await;
        let said = format!("{}{}", text(&answer.stdout), text(&answer.stderr));
        assert!(answer.status.success(), "{said}\n{}", self.process.log());
        let (serves, drains) = said.split_once(" serves now\nprocess ").expect(&said);
        let serves = serves.strip_prefix("process ").and_then(|pid| pid.parse().ok()).expect(&said);
        let before = *self.pids.last().expect("one serves");
        assert!(drains.starts_with(&format!("{before} finishes what it has, for at most ")), "{said}");
        assert_ne!(serves, before);
        assert_eq!(self.pid_file(), Some(serves));
        self.process.says(&format!("this one, {before}, finishes what it has")).await; // after that it lets everybody go
        self.pids.push(serves);
        serves
    }

    /// An upgrade that does not; returns what is said about it.
    async fn refused(&self, arguments: &[&str]) -> String {
        let answer = self.upgrade(arguments).await;
        let said = text(&answer.stderr);
        assert_eq!(
            (answer.status.code(), text(&answer.stdout).as_str()),
            (Some(1), ""),
            "{said}\n{}",
            self.process.log()
        );
        assert_eq!(self.pid_file(), self.pids.last().copied(), "{said}");
        assert!(!self.socket().exists(), "{said}");
        said
    }

    /// A program that calls the configuration good and, told to run, does this instead.
    fn program(&self, instead: &str) -> String {
        let path = self.process.house.folder.path().join("firstcas-other");
        let text = format!("#!/bin/sh\n[ \"$1\" = run ] || exec {FIRSTCAS} \"$@\"\n{instead}\n");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("it may be started");
        path.to_str().expect("UTF-8").to_owned()
    }

    async fn wire(&self) -> Wire {
        Wire::connect(self.process.addresses()[0]).await
    }

    async fn ask_bruno(&self) -> u16 {
        let answer =
            Client::connect(self.process.addresses()[0]).await.get("/owa/").basic("bruno", "Pass-word1").send().await;
        answer.status.as_u16()
    }

    /// A Ping that its server holds for so long; returns once the server has it.
    async fn held_ping(&self, user: &str, milliseconds: u64) -> Wire {
        let before = self.process.house.requests_behind();
        let mut wire = self.wire().await;
        wire.send(format!(
            "POST /Microsoft-Server-ActiveSync?Cmd=Ping&User={user}&DeviceId=d&DeviceType=t HTTP/1.1\r\nHost: h\r\n\
             Authorization: {}\r\nContent-Length: 0\r\nX-Contoso-Hold-Ms: {milliseconds}\r\n\r\n",
            credential(user)
        ))
        .await;
        until("the server has the Ping", async || self.process.house.requests_behind() > before).await;
        wire
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        for pid in self.pids.iter().copied().chain(self.pid_file()) {
            let is_ours = |program: PathBuf| program.to_string_lossy().starts_with(FIRSTCAS);
            if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(is_ours) {
                let _ = kill_process(number(pid), Signal::KILL); // it may have just ended
            }
        }
    }
}

fn number(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).expect("a process number")).expect("a process number")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn get(authorization: &str) -> String {
    format!("GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthorization: {authorization}\r\n\r\n")
}

/// Whether a process has ended; one that was started here stays to be asked how.
fn has_ended(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    test_kill_process(number(pid)).is_err() || status.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with('Z'))
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_logged_on_by_the_form_stays_so() {
    let mut edge = Edge::with("# logon form").await;
    let [_, tls] = edge.process.addresses();
    let cookies = {
        let mut browser = Browser::at(&edge.process.house, tls);
        assert_eq!(browser.log_on("/owa/", "ana", "Pass-word1").await.status, 302);
        browser.cookies
    };
    edge.upgraded(&[]).await;
    let mut browser = Browser::at(&edge.process.house, tls);
    browser.cookies = cookies;
    assert_eq!(browser.get("/owa/").await.user(), "ana");
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_follow_each_other_and_no_client_notices() {
    let mut edge = Edge::start().await;
    edge.process.house.contoso.server("ex03-opo").hang(); // nobody else's
    let mut ping = edge.held_ping("duarte", 0).await;
    let load = edge.load();
    load.goes_on(10).await;
    for _ in 0..4 {
        edge.upgraded(&[]).await;
        load.goes_on(10).await;
    }
    edge.process.house.contoso.server("ex03-opo").resume();
    let head = ping.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && field(&head, "connection") == Some("close"), "{head}");
    let (answers, failures) = load.stop().await;
    assert!(failures.is_empty(), "{} of {answers}: {failures:?}\n{}", failures.len(), edge.process.log());
    println!("{answers} answers, 4 upgrades, no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_is_no_good_leaves_the_old_one_serving() {
    let mut edge = Edge::with("process.upgrade_timeout = \"2s\"").await;
    let busy = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let busy = busy.local_addr().map(|address| (busy, address)).expect("its address");
    let config = fs::read_to_string(&edge.process.config).expect("the configuration");
    let wants_more = edge.process.house.folder.path().join("more.toml");
    let more = format!("[[listener]]\naddress = \"{}\"\n[resolve]", busy.1);
    fs::write(&wants_more, config.replacen("[resolve]", &more, 1)).expect("written");
    let broken = edge.process.house.folder.path().join("broken.toml");
    fs::write(&broken, config.replacen("local_site", "local_sight", 1)).expect("written");
    let nothing = edge.process.house.folder.path().join("firstcas-nothing");
    fs::write(&nothing, "\u{7f}ELF, but not really").expect("written");
    fs::set_permissions(&nothing, Permissions::from_mode(0o700)).expect("it may be started");

    let load = edge.load();
    load.goes_on(5).await;
    let run = |config: &str| format!("exec {FIRSTCAS} run --upgrade -c {config}");
    for (instead, reason) in [
        ("exit 3".to_owned(), "ended before it could take over (exit status: 3)"),
        ("kill -SEGV $$".to_owned(), "ended before it could take over (signal: 11"),
        ("exec sleep 600".to_owned(), "nothing was heard of the other process in time"),
        (run(wants_more.to_str().expect("UTF-8")), "the new process cannot serve: cannot listen on 127.0.0.1:"),
        (run(broken.to_str().expect("UTF-8")), "ended before it could take over (exit status: 1)"),
    ] {
        let said = edge.refused(&["--binary", &edge.program(&instead)]).await;
        assert!(said.starts_with("not upgraded: ") && said.contains(reason), "{reason}: {said}");
        load.goes_on(5).await;
    }
    let said = edge.refused(&["--binary", nothing.to_str().expect("UTF-8")]).await;
    assert!(said.contains("firstcas-nothing cannot be started"), "{said}");
    let good = std::mem::replace(&mut edge.process.config, broken);
    let said = edge.refused(&[]).await;
    edge.process.config = good;
    assert!(said.contains("1 mistake\n") && said.contains("local_sight"), "{said}");

    load.goes_on(5).await;
    let (answers, failures) = load.stop().await;
    assert!(failures.is_empty(), "{} of {answers}: {failures:?}", failures.len());
    assert_eq!(edge.process.log().matches("FC165").count(), 5, "{}", edge.process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_is_silent_or_leaves_after_it_got_the_sockets_changes_nothing() {
    let edge = Edge::with("process.upgrade_timeout = \"2s\"").await;
    for stays in [true, false] {
        let listener = UnixListener::bind(edge.socket()).expect("the socket");
        kill_process(number(edge.pids[0]), Signal::QUIT).expect("it runs");
        let (stream, _) = within("the old process", listener.accept()).await.expect("it calls");
        fs::remove_file(edge.socket()).expect("it was there");
        let mut wire = Wire::over(stream);
        assert!(wire.through("\n").await.starts_with("{\"Hello\""));
        wire.send(format!("{{\"Successor\":{{\"pid\":{}}}}}\n", std::process::id())).await;
        assert!(wire.through("\n").await.starts_with("{\"Sockets\""));
        if stays {
            assert_eq!(wire.through("\n").await, "\"NotWanted\"\n");
        }
        drop(wire);
        let reason = if stays { "nothing was heard of the other process in time" } else { "ended before all was said" };
        assert!(edge.process.says(reason).await.contains("this process goes on serving"));
        assert_eq!(edge.ask_bruno().await, 200);
    }
    assert_eq!(edge.pid_file(), Some(edge.pids[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigquit_alone_ends_nobody() {
    let edge = Edge::start().await;
    kill_process(number(edge.pids[0]), Signal::QUIT).expect("it runs");
    let said = edge.process.says("FC165").await;
    assert!(said.contains("goes on serving") && said.contains("no process waits"), "{said}");
    assert_eq!(edge.ask_bruno().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_successor_that_dies_does_not_leave_its_predecessor_draining_while_nobody_listens() {
    let mut edge = Edge::with("process.drain_timeout = \"1s\"").await;
    let _held = edge.held_ping("bruno", 600_000).await;
    let successor = edge.upgraded(&[]).await;
    kill_process(number(successor), Signal::KILL).expect("it runs");
    edge.process.says("event=FC167").await;
    until("the predecessor has ended", async || has_ended(edge.pids[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_is_told_to_stop_does_not_hand_over_any_more() {
    let edge = Edge::start().await;
    let started = edge.process.house.folder.path().join("started");
    let hanging = edge.program(&format!("touch {}; exec sleep 600", started.display()));
    let upgrade = ["--binary", hanging.as_str()];
    let upgrade = edge.upgrade(&upgrade);
    let stop = async {
        until("the successor is started", async || started.exists()).await;
        kill_process(number(edge.pids[0]), Signal::TERM).expect("it runs");
    };
    let (answer, ()) = tokio::join!(upgrade, stop);
    assert_eq!(answer.status.code(), Some(1));
    assert!(text(&answer.stderr).contains("told to stop meanwhile"), "{}", text(&answer.stderr));
    until("the old process has ended", async || has_ended(edge.pids[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_started_by_hand_takes_over_on_sigquit() {
    let mut edge = Edge::start().await;
    let load = edge.load();
    load.goes_on(5).await;
    let mut command = Command::new(FIRSTCAS);
    command.args(["run", "--upgrade", "-c"]).arg(&edge.process.config).stdin(Stdio::null()).stderr(Stdio::null());
    let second = command.kill_on_drop(true).spawn().expect("firstcas starts");
    let pid = second.id().expect("it runs");
    edge.pids.push(pid);
    kill_process(number(edge.pids[0]), Signal::QUIT).expect("it runs");
    until("the second process serves", async || edge.pid_file() == Some(pid)).await;
    load.goes_on(5).await;
    let (answers, failures) = load.stop().await;
    assert!(failures.is_empty(), "{} of {answers}: {failures:?}", failures.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_there_already_is_served_to_the_end_by_the_old_process() {
    let mut edge = Edge::start().await;
    let mut idle = edge.wire().await;
    idle.send(get(&credential("ana"))).await;
    let head = idle.head().await;
    assert_eq!(field(&head, "connection"), Some("keep-alive"));
    idle.body(&head).await;

    let handshake = Handshake::ntlm("CONTOSO\\ana");
    let mut signing_in = edge.wire().await;
    signing_in.send(get(&handshake.first())).await;
    let challenge = signing_in.head().await;
    signing_in.body(&challenge).await;

    let mut silent = edge.wire().await;
    let beginning = TcpStream::connect(edge.process.addresses()[1]).await.expect("the edge accepts");
    assert_eq!(edge.ask_bruno().await, 200); // by now the old process has accepted them all

    let mut half = edge.wire().await;
    half.send("GET /owa/ HTTP/1.1\r\nHost: h\r\nAuthor").await;
    edge.upgraded(&[]).await;

    idle.send(get(&credential("ana"))).await;
    let head = idle.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && field(&head, "connection") == Some("close"), "{head}");
    idle.body(&head).await;
    assert_eq!(idle.rest().await, "");

    signing_in.send(get(&handshake.answer(field(&challenge, "www-authenticate").expect("a challenge")))).await;
    let head = signing_in.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && field(&head, "connection") == Some("close"), "{head}");
    assert_eq!(field(&head, "x-contoso-user"), Some("ana"));

    let handshake = Handshake::ntlm("CONTOSO\\ana");
    silent.send(get(&handshake.first())).await;
    let challenge = silent.head().await;
    assert_eq!(field(&challenge, "connection"), Some("keep-alive"), "a handshake that begins is let finish");
    silent.body(&challenge).await;
    silent.send(get(&handshake.answer(field(&challenge, "www-authenticate").expect("a challenge")))).await;
    let head = silent.head().await;
    assert!(head.starts_with("HTTP/1.1 200 ") && field(&head, "connection") == Some("close"), "{head}");

    let name = ServerName::try_from("mail.contoso.com").expect("a name");
    let tls =
        within("TLS", connector(&edge.process.house, TLS13, &[]).connect(name, beginning)).await.expect("a handshake");
    let mut tls = Wire::over(tls);
    tls.send(get(&credential("bruno"))).await;
    assert!(tls.head().await.starts_with("HTTP/1.1 200 "));

    half.send(format!("ization: {}\r\n\r\n", credential("bruno"))).await;
    assert!(half.head().await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_request_is_cut_off_when_the_old_processs_time_is_over() {
    let mut edge = Edge::with("process.upgrade_drain_timeout = \"1s\"\nprocess.drain_timeout = \"1s\"").await;
    let mut ping = edge.held_ping("bruno", 600_000).await;
    edge.upgraded(&[]).await;
    assert_eq!(ping.rest().await, "");
    let said = edge.process.says("FC166").await;
    assert!(said.contains("1 requests and sessions of mail were cut off"), "{said}");
    let status = within("the old process's end", edge.process.child.wait()).await.expect("it ran");
    assert!(status.success());
    assert_eq!(edge.ask_bruno().await, 200);
    assert_eq!(edge.pid_file(), Some(edge.pids[1]), "the file is the new process's");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_process_that_is_told_to_stop_does_so_in_a_hurry() {
    let mut edge = Edge::with("process.drain_timeout = \"200ms\"").await;
    let mut ping = edge.held_ping("bruno", 600_000).await;
    edge.upgraded(&[]).await;
    kill_process(number(edge.pids[0]), Signal::TERM).expect("it drains");
    assert_eq!(ping.rest().await, "");
    assert!(within("the old process's end", edge.process.child.wait()).await.expect("it ran").success());
    assert_eq!(edge.ask_bruno().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_leaving_is_not_upgraded_and_takes_its_pid_file_with_it() {
    let edge = Edge::with("process.drain_timeout = \"4s\"").await;
    let _ping = edge.held_ping("bruno", 600_000).await;
    kill_process(number(edge.pids[0]), Signal::TERM).expect("it runs");
    edge.process.says("draining: no new connections").await;
    let said = edge.refused(&[]).await;
    assert!(said.contains("it is leaving already"), "{said}");
    until("it has ended", async || has_ended(edge.pids[0])).await;
    assert_eq!(edge.pid_file(), None);
    let answer = edge.upgrade(&[]).await;
    assert!(text(&answer.stderr).starts_with("not upgraded: no firstcas is running"), "{}", text(&answer.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pid_file_of_somebody_else_harms_nobody() {
    let edge = Edge::start().await;
    let mut other = Command::new("sleep").arg("600").kill_on_drop(true).spawn().expect("sleep is installed");
    let pid = other.id().expect("it runs");
    fs::write(edge.process.house.folder.path().join("run/firstcas.pid"), format!("{pid}\n")).expect("written");
    let answer = edge.upgrade(&[]).await;
    let said = text(&answer.stderr);
    assert!(said.contains(&format!("process {pid} is sleep, which is no firstcas")), "{said}");
    assert!(other.try_wait().expect("it is ours").is_none(), "it goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_that_the_new_configuration_adds_are_there_and_those_it_drops_are_not() {
    let mut edge = Edge::start().await;
    let [plain, tls] = edge.process.addresses();
    let config = fs::read_to_string(&edge.process.config).expect("the configuration");
    let (before, tls_listener) = config.rsplit_once("[[listener]]\n").expect("the second is TLS");
    let (_, after) = tls_listener.split_once("}\n").expect("the end of its tls");
    let other = "[[listener]]\naddress = \"127.0.0.2:0\"\n";
    fs::write(&edge.process.config, format!("{before}{other}{after}")).expect("written");
    edge.upgraded(&[]).await;
    let added = edge.process.says("listening on http://127.0.0.2:").await;
    let (_, added) = added.split_once("http://").expect("an address");
    let added: SocketAddr = added.trim_end_matches('"').parse().expect("an address");
    let answer = Client::connect(added).await.ask(Method::GET, "/owa/").basic("bruno", "Pass-word1").send().await;
    assert_eq!(answer.status, 200);
    until("nobody listens there any more", async || TcpStream::connect(tls).await.is_err()).await;
    assert!(TcpStream::connect(plain).await.is_ok());
}
