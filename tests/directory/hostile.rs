//! A server that means ill, or is broken beyond belief. The edge keeps its memory, its head and its patience.
//!
//! What the directory costs is measured in a process of its own (`asks`), which asks the server of a test here.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use firstcas::directory::{
    Changes, Directory, DirectoryError, Notice, Tell, cache::CachedDirectory, ldap, organisation::Organisation,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use url::Url;

use crate::{
    CONTOSO, address, bare, cache_settings,
    line::{Fault, Line},
    listed,
    openldap::{self, Slapd, Tls},
    silent, within,
};

/// An LDAP message as far as a server of this file looks at it (RFC 4511 section 4.1.1).
pub struct Request {
    /// Its number, as sent.
    pub id: Vec<u8>,
    operation: u8,
    body: Vec<u8>,
}

/// What it is answered.
struct Reply {
    bytes: Vec<u8>,
    then: Then,
}

type Entries = Box<dyn Fn(&Request) -> Vec<u8> + Send + Sync>;

enum Then {
    /// The next request is read.
    GoOn,
    /// The connection ends.
    Close,
    /// The same again, for as long as somebody takes it.
    Repeat,
}

/// A running server.
struct Hostile {
    url: Url,
    connections: Arc<AtomicUsize>,
    searches: Arc<AtomicUsize>,
}

impl Hostile {
    /// A server that greets as others do, and answers searches, but for that of its root entry, as it is told to.
    async fn searched(search: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Hostile {
        Hostile::asked(move |request| match request.operation {
            BIND => Reply::of(request.message(BIND_RESPONSE, &RESULT_SUCCESS)),
            SEARCH if request.is_for_root() => Reply::of([request.root(&ROOT), request.done(SUCCESS)].concat()),
            SEARCH => search(request),
            _ => Reply::of(vec![]),
        })
        .await
    }

    /// A server that answers whatever it is told to.
    async fn asked(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Hostile {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = Url::parse(&format!("ldap://{}", listener.local_addr().expect("its address"))).expect("a URL");
        let [connections, searches] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (answer, accepted, asked) = (Arc::new(answer), connections.clone(), searches.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(converse(client, answer.clone(), asked.clone()));
            }
        });
        Hostile { url, connections, searches }
    }
}

async fn converse(
    mut client: TcpStream,
    answer: Arc<impl Fn(&Request) -> Reply + Send + Sync>,
    searches: Arc<AtomicUsize>,
) {
    while let Some(request) = Request::read(&mut client).await {
        if request.operation == SEARCH && !request.is_for_root() {
            searches.fetch_add(1, Ordering::Relaxed);
        }
        let Reply { bytes, then } = answer(&request);
        loop {
            if client.write_all(&bytes).await.is_err() {
                return;
            }
            match then {
                Then::GoOn => break,
                Then::Close => return,
                Then::Repeat => {}
            }
        }
    }
}

impl Reply {
    fn of(bytes: Vec<u8>) -> Self {
        Reply { bytes, then: Then::GoOn }
    }
}

impl Request {
    /// The next one; `None`: the client has gone.
    pub async fn read(client: &mut TcpStream) -> Option<Request> {
        let mut head = [0; 2];
        client.read_exact(&mut head).await.ok()?;
        let mut length = usize::from(head[1]);
        if length > 0x7f {
            let mut bytes = vec![0; length & 0x7f];
            client.read_exact(&mut bytes).await.ok()?;
            length = bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        }
        let mut message = vec![0; length];
        client.read_exact(&mut message).await.ok()?;
        let id_length = usize::from(message[1]);
        let (id, operation) = message.split_at(2 + id_length);
        let body_at = if operation[1] > 0x7f { 2 + usize::from(operation[1] & 0x7f) } else { 2 };
        Some(Request { id: id[2..].to_vec(), operation: operation[0], body: operation[body_at..].to_vec() })
    }

    fn is_for_root(&self) -> bool {
        self.body.starts_with(&[0x04, 0])
    }

    fn message(&self, operation: u8, body: &[u8]) -> Vec<u8> {
        element(0x30, &[element(0x02, &self.id), element(operation, body)].concat())
    }

    fn root(&self, attributes: &[(&str, &str)]) -> Vec<u8> {
        let attributes: Vec<_> =
            attributes.iter().map(|(name, value)| (*name, vec![value.as_bytes().to_vec()])).collect();
        self.entry("", &attributes)
    }

    fn entry(&self, dn: &str, attributes: &[(&str, Vec<Vec<u8>>)]) -> Vec<u8> {
        let attribute = |(name, values): &(&str, Vec<Vec<u8>>)| {
            let values: Vec<u8> = values.iter().flat_map(|value| element(0x04, value)).collect();
            element(0x30, &[element(0x04, name.as_bytes()), element(0x31, &values)].concat())
        };
        let attributes: Vec<u8> = attributes.iter().flat_map(attribute).collect();
        self.message(SEARCH_ENTRY, &[element(0x04, dn.as_bytes()), element(0x30, &attributes)].concat())
    }

    /// ana, as the search for her finds her.
    fn ana(&self) -> Vec<u8> {
        self.entry("CN=Ana", &[("userPrincipalName", vec![b"ana@contoso.com".to_vec()])])
    }

    fn done(&self, code: u8) -> Vec<u8> {
        self.message(SEARCH_DONE, &[0x0a, 1, code, 0x04, 0, 0x04, 0])
    }
}

/// Tag, length and content (X.690).
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("not that long").to_be_bytes();
    [&[tag, 0x84], &length[..], content].concat()
}

/// What a process that asked a server says of it.
#[derive(Debug)]
struct Asked {
    /// `found`, `nobody`, `4 of that name`, or the error.
    outcomes: Vec<String>,
    slowest: Duration,
    /// By how much its memory has grown at the worst.
    grown_mib: usize,
}

impl Asked {
    /// Has a process ask the server three times, which gives each answer so much time.
    async fn of(hostile: &Hostile, question: &str, patience: Duration) -> Asked {
        let mut command = Command::new(std::env::current_exe().expect("this test"));
        command
            .args(["--exact", "hostile::asks", "--ignored", "--nocapture", "--test-threads=1"])
            .env("ASK_SERVER", hostile.url.as_str())
            .env("ASK_FOR", question)
            .env("ASK_MS", patience.as_millis().to_string())
            .env("RUST_BACKTRACE", "0") // its symbols are larger than anything measured here
            .stdin(Stdio::null());
        let ended = within(tokio::task::spawn_blocking(move || command.output().expect("it runs")));
        let ended = ended.await.expect("no panic");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(ended.status.success(), "{}\n{said}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr));
        let told = |what: &str| -> Vec<String> {
            said.lines().filter_map(|line| line.strip_prefix(what)).map(str::to_owned).collect()
        };
        let number = |what: &str| told(what)[0].parse().expect("a number");
        let slowest = Duration::from_millis(u64::try_from(number("slowest_ms ")).expect("not that slow"));
        Asked { outcomes: told("outcome "), slowest, grown_mib: number("grown_mib ") }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the other process of the tests here"]
async fn asks() {
    let told = |name: &str| std::env::var(name).expect(name);
    let server = Url::parse(&told("ASK_SERVER")).expect("a URL");
    let patience = Duration::from_millis(told("ASK_MS").parse().expect("a number"));
    let before = peak_kib();
    let settings = ldap::Settings { search_timeout: patience, ..settings(vec![server]) };
    let directory = ldap::open(settings, vec![], &silent()).expect("good settings");
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let asked = Instant::now();
        let outcome = match told("ASK_FOR").as_str() {
            "ana" => match within(directory.find(&bare("ana"))).await {
                Ok(Some(entry)) => format!("found {} bytes of a name", entry.name.len()),
                Ok(None) => "nobody".into(),
                Err(DirectoryError::Ambiguous { dns, .. }) => format!("{} of that name", dns.len()),
                Err(error) => error.to_string(),
            },
            "topology" => within(directory.topology()).await.map_or_else(|error| error.to_string(), |_| "read".into()),
            other => panic!("{other}"),
        };
        slowest = slowest.max(asked.elapsed());
        println!("\noutcome {outcome}");
    }
    println!("slowest_ms {}\ngrown_mib {}", slowest.as_millis(), (peak_kib() - before) / 1024);
}

/// The most memory that this process ever had.
fn peak_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn settings(servers: Vec<Url>) -> ldap::Settings {
    ldap::Settings {
        servers: listed(servers),
        account: crate::account(openldap::BIND_PASSWORD),
        ca_file: None,
        start_tls: false,
        users_base: None,
        configuration_base: None,
        connect_timeout: LEISURE,
        search_timeout: LEISURE,
        connections: 2,
        searches_max: 32,
    }
}

/// The settings for servers of which some say nothing, and some are a real one, which has no naming contexts in its root
/// entry.
fn impatient(servers: Vec<Url>) -> ldap::Settings {
    ldap::Settings {
        connect_timeout: PATIENCE,
        search_timeout: PATIENCE,
        users_base: Some("DC=contoso,DC=com".into()),
        configuration_base: Some("CN=Configuration,DC=contoso,DC=com".into()),
        ..settings(servers)
    }
}

fn open(settings: ldap::Settings) -> (Organisation, Arc<Mutex<Vec<Notice>>>) {
    let notices = Arc::new(Mutex::new(Vec::new()));
    let told = notices.clone();
    let tell: Tell = Arc::new(move |notice| told.lock().unwrap().push(notice));
    (ldap::open(settings, vec![], &tell).expect("good settings"), notices)
}

async fn real_server() -> Slapd {
    tokio::task::spawn_blocking(|| Slapd::load(CONTOSO, &Tls::None)).await.expect("slapd")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_closes_each_connection_after_one_search_is_asked_on_new_ones() {
    let answer = |request: &Request| [request.ana(), request.done(SUCCESS)].concat();
    let hostile = Hostile::searched(move |request| Reply { bytes: answer(request), then: Then::Close }).await;
    let (directory, notices) = open(settings(vec![hostile.url]));
    for _ in 0..50 {
        assert!(within(directory.find(&bare("ana"))).await.expect("an answer").is_some());
    }
    assert_eq!(*notices.lock().unwrap(), []);
    assert!(hostile.connections.load(Ordering::Relaxed) >= 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lets_itself_be_bound_to_and_never_answers_is_left_alone_until_it_does() {
    let answers = Arc::new(AtomicBool::new(false));
    let may_answer = answers.clone();
    let hostile = Hostile::searched(move |request| {
        let answer = || [request.ana(), request.done(SUCCESS)].concat();
        Reply::of(if may_answer.load(Ordering::Relaxed) { answer() } else { vec![] })
    })
    .await;
    let slapd = real_server().await;
    let (directory, notices) = open(impatient(vec![hostile.url.clone(), slapd.url("ldap")]));
    assert!(within(directory.find(&bare("ana"))).await.expect("the next one answers").is_some());
    // Asked again and again meanwhile whether it answers, but not by those who want to know something.
    while hostile.searches.load(Ordering::Relaxed) < 3 {
        assert!(within(directory.find(&bare("ana"))).await.expect("the next one answers").is_some());
    }
    assert!(matches!(&notices.lock().unwrap()[..], [Notice::ServerAway { .. }]), "{notices:?}");
    answers.store(true, Ordering::Relaxed);
    within(async {
        while !matches!(&notices.lock().unwrap()[..], [.., Notice::ServerBack { .. }]) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_answers_than_were_asked_for_are_not_read() {
    // Samba knows no size limit, so that alone makes nobody lost.
    let many = |request: &Request| [request.ana().repeat(100_000), request.done(SUCCESS)].concat();
    let many = Hostile::searched(move |request| Reply::of(many(request))).await;
    let endless = |request: &Request| Reply { bytes: request.ana().repeat(1000), then: Then::Repeat };
    for (what, hostile) in [("100,000", many), ("endless", Hostile::searched(endless).await)] {
        let asked = Asked::of(&hostile, "ana", LEISURE).await;
        assert!(asked.outcomes.iter().all(|outcome| outcome == "4 of that name"), "{what}: {asked:?}");
        assert!(asked.outcomes.len() == 3 && asked.grown_mib < 64, "{what}: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_without_end_or_measure_take_neither_memory_nor_patience() {
    let useless = |request: &Request| request.message(SEARCH_ENTRY, &[0x04, 1, 0xff, 0x30, 0]).repeat(1000);
    let reference = |request: &Request| request.message(REFERENCE, &element(0x04, b"ldap://elsewhere/")).repeat(1000);
    let large = |request: &Request| request.entry("CN=Large", &[("cn", vec![vec![b'x'; 1 << 20]])]);
    let endless = |bytes: fn(&Request) -> Vec<u8>| {
        Hostile::searched(move |request| Reply { bytes: bytes(request), then: Then::Repeat })
    };
    let roots = Hostile::asked(|request| match request.operation {
        BIND => Reply::of(request.message(BIND_RESPONSE, &RESULT_SUCCESS)),
        _ => Reply { bytes: request.root(&ROOT).repeat(1000), then: Then::Repeat },
    });
    for (what, question, hostile, grown_mib) in [
        ("entries that are none", "ana", endless(useless).await, 64),
        ("references", "ana", endless(reference).await, 64),
        ("root entries", "ana", roots.await, 64),
        ("large objects of the configuration", "topology", endless(large).await, 640),
    ] {
        let asked = Asked::of(&hostile, question, PATIENCE).await;
        println!("{what}: {asked:?}");
        assert!(asked.outcomes.iter().all(|outcome| outcome.starts_with("the directory")), "{what}: {asked:?}");
        assert!(asked.outcomes.len() == 3 && asked.grown_mib < grown_mib, "{what}: {asked:?}");
        assert!(asked.slowest < PATIENCE * 12, "{what}: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_and_odd_values_are_read_as_they_are() {
    let upn = "userPrincipalName";
    let proxies = ("proxyAddresses", vec![b"smtp:ana@contoso.com".to_vec(); 100_000]);
    let many_names: Vec<_> = (0..100_000).map(|number| format!("attribute-{number}")).collect();
    let answers: [(&str, Entries); 4] = [
        (
            "found 16 bytes",
            Box::new(move |request| request.entry("CN=A\0", &[(upn, vec![b"ana\0@contoso.com".into()])])),
        ),
        ("found 1048576 bytes", Box::new(move |request| request.entry("CN=Ana", &[(upn, vec![vec![b'a'; 1 << 20]])]))),
        ("found 6 bytes", Box::new(move |request| request.entry("CN=Ana", std::slice::from_ref(&proxies)))),
        (
            "found 6 bytes",
            Box::new(move |request| {
                let attributes: Vec<_> = many_names.iter().map(|name| (name.as_str(), vec![b"x".into()])).collect();
                request.entry("CN=Ana", &attributes)
            }),
        ),
    ];
    for (outcome, answer) in answers {
        let hostile =
            Hostile::searched(move |request| Reply::of([answer(request), request.done(SUCCESS)].concat())).await;
        let asked = Asked::of(&hostile, "ana", LEISURE).await;
        assert!(asked.outcomes.iter().all(|found| found.starts_with(outcome)), "{outcome}: {asked:?}");
        assert!(asked.outcomes.len() == 3 && asked.grown_mib < 256, "{outcome}: {asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_ldap_is_an_error_for_whoever_asks_and_the_server_is_used_again_when_it_speaks_ldap() {
    let nonsense: [fn(&Request) -> Vec<u8>; 11] = [
        |_| {
            b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n and a lot more than that"
                .into()
        },
        |_| vec![0; 100],
        |_| vec![0xff; 100],
        |_| vec![0x30, 0],
        |_| vec![0x30, 2, 0x30, 0],
        |_| vec![0x30, 0x84, 0x7f, 0xff, 0xff, 0xff],
        |request| request.message(0x42, b""),
        |request| request.message(SEARCH_DONE, b""),
        |request| request.message(SEARCH_ENTRY, b""),
        |request| request.message(0x13, b"no reference"),
        // A page's cookie that is none.
        |request| {
            let control = [element(0x04, b"1.2.840.113556.1.4.319"), element(0x04, b"no cookie")].concat();
            let parts = [
                element(0x02, &request.id),
                element(SEARCH_DONE, &RESULT_SUCCESS),
                element(0xa0, &element(0x30, &control)),
            ];
            element(0x30, &parts.concat())
        },
    ];
    let mut talks = tokio::task::JoinSet::new();
    for nonsense in nonsense {
        talks.spawn(async move {
            let speaks_ldap = Arc::new(AtomicBool::new(false));
            let speaks = speaks_ldap.clone();
            let hostile = Hostile::searched(move |request| {
                let ldap = || [request.ana(), request.done(SUCCESS)].concat();
                Reply::of(if speaks.load(Ordering::Relaxed) { ldap() } else { nonsense(request) })
            })
            .await;
            let patience = Duration::from_millis(300);
            let (directory, _) = open(ldap::Settings { search_timeout: patience, ..settings(vec![hostile.url]) });
            within(directory.topology()).await.map(|_| ()).expect_err("no topology");
            speaks_ldap.store(true, Ordering::Relaxed);
            within(async {
                while !directory.find(&bare("ana")).await.is_ok_and(|found| found.is_some()) {
                    tokio::time::sleep(Duration::from_millis(10)).await; // not faster than people are
                }
            })
            .await;
        });
    }
    within(talks.join_all()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_start_tls_is_refused_no_password_is_sent() {
    let operations = Arc::new(Mutex::new(Vec::new()));
    let seen = operations.clone();
    let hostile = Hostile::asked(move |request| {
        seen.lock().unwrap().push(request.operation);
        Reply::of(request.message(0x78, &[0x0a, 1, 2, 0x04, 0, 0x04, 0])) // an extended response: protocolError
    })
    .await;
    let ca_file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(ca_file.path(), openldap::authority().pem()).expect("written");
    let ca_file = Some(ca_file.path().to_owned());
    let (directory, _) = open(ldap::Settings { start_tls: true, ca_file, ..settings(vec![hostile.url]) });
    let error = within(directory.find(&bare("ana"))).await.expect_err("not without TLS");
    assert!(matches!(error, DirectoryError::Unreachable { .. }), "{error:?}");
    assert_eq!(*operations.lock().unwrap(), [EXTENDED]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_say_where_its_people_are_leaves_the_question_to_the_next() {
    let greets = |contexts: &'static [(&'static str, &'static str)]| {
        Hostile::asked(move |request| match request.operation {
            BIND => Reply::of(request.message(BIND_RESPONSE, &RESULT_SUCCESS)),
            _ if request.is_for_root() => Reply::of([request.root(contexts), request.done(SUCCESS)].concat()),
            _ => Reply::of([request.ana(), request.done(SUCCESS)].concat()),
        })
    };
    let (silent, telling) = (greets(&[]).await, greets(&ROOT).await);
    let (directory, notices) = open(settings(vec![silent.url, telling.url]));
    assert!(within(directory.find(&bare("ana"))).await.expect("the next one answers").is_some());
    let notices = notices.lock().unwrap();
    assert!(
        matches!(&notices[..], [Notice::ServerAway { problem, .. }] if problem.contains("users_base must be configured")),
        "{notices:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_numbers_that_go_backwards_or_are_none_lose_no_change() {
    let numbers = ["7", "7", "3", "-1", "99999999999999999999", "many", "", "3", "4"];
    let at = Arc::new(AtomicU8::new(0));
    let looked = at.clone();
    let hostile = Hostile::asked(move |request| match request.operation {
        BIND => Reply::of(request.message(BIND_RESPONSE, &RESULT_SUCCESS)),
        _ if request.is_for_root() => {
            let number = numbers[usize::from(looked.load(Ordering::Relaxed))];
            let root = [&ROOT[..2], &[("highestCommittedUSN", number), ("dsServiceName", "CN=DC")]].concat();
            Reply::of([request.root(&root), request.done(SUCCESS)].concat())
        }
        _ => Reply::of([request.ana(), request.done(SUCCESS)].concat()),
    })
    .await;
    let (directory, _) = open(settings(vec![hostile.url]));
    let mut seen = Vec::new();
    for look in 0..numbers.len() {
        at.store(u8::try_from(look).expect("few"), Ordering::Relaxed);
        let Changes { people, may_have_missed, .. } = within(directory.changes()).await.expect("an answer");
        seen.push((people.len(), may_have_missed));
    }
    let (nothing, somebody, may_have_missed) = ((0, false), (1, false), (0, true));
    let none = [nothing; 4]; // what is no number is as if nothing had been said
    assert_eq!(seen, [&[nothing, nothing, may_have_missed][..], &none, &[nothing, somebody]].concat());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_who_ask_for_thousands_of_names_of_black_holes_are_answered_in_time_and_served_soon_after() {
    const CLIENTS: usize = 5_000;
    let slapd = real_server().await;
    let lines = [Line::to(&slapd.url("ldap")).await, Line::to(&slapd.url("ldap")).await];
    let (directory, notices) = open(impatient(lines.iter().map(Line::url).collect()));
    let runtime = tokio::runtime::Handle::current();
    let cached = CachedDirectory::new(Arc::new(directory), cache_settings(), silent(), runtime.clone());
    let cached = Arc::new(cached);
    assert!(cached.find(&bare("ana")).await.is_ok());
    let tasks_before = runtime.metrics().num_alive_tasks();
    for line in &lines {
        line.becomes(Fault::Silent);
    }
    let asked = Instant::now();
    let mut rounds = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let cached = cached.clone();
        rounds.spawn(async move {
            for round in 0..3 {
                let name = address(&format!("client-{client}-{round}@contoso.com"));
                assert!(within(cached.find(&name)).await.is_err(), "nobody knows");
            }
        });
    }
    // Each client, its search, and what the directory itself needs.
    tokio::task::yield_now().await;
    assert!(runtime.metrics().num_alive_tasks() <= tasks_before + 2 * CLIENTS + 100);
    within(rounds.join_all()).await;
    let given_up_after = asked.elapsed();
    assert!(runtime.metrics().num_alive_tasks() <= tasks_before + 100);
    for line in &lines {
        line.becomes(Fault::None);
    }
    let healed = Instant::now();
    within(async {
        while cached.find(&address("bruno@contoso.com")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await; // not faster than people are
        }
    })
    .await;
    println!(
        "{CLIENTS} clients, three names each: given up after {given_up_after:?}, served {:?} after",
        healed.elapsed()
    );
    let away = notices.lock().unwrap().iter().filter(|notice| matches!(notice, Notice::Away { .. })).count();
    assert_eq!(away, 1);
}

/// For servers that are to be given up.
const PATIENCE: Duration = Duration::from_secs(1);
/// For servers that answer: the slowest machine needs less, and `within` does not wait longer.
const LEISURE: Duration = Duration::from_secs(15);
const ROOT: [(&str, &str); 3] = [
    ("defaultNamingContext", "DC=contoso,DC=com"),
    ("configurationNamingContext", "CN=Configuration,DC=contoso,DC=com"),
    ("highestCommittedUSN", "1"),
];

// RFC 4511 section 4.
const BIND: u8 = 0x60;
const BIND_RESPONSE: u8 = 0x61;
const SEARCH: u8 = 0x63;
const SEARCH_ENTRY: u8 = 0x64;
const SEARCH_DONE: u8 = 0x65;
const REFERENCE: u8 = 0x73;
const EXTENDED: u8 = 0x77;
const SUCCESS: u8 = 0;
const RESULT_SUCCESS: [u8; 7] = [0x0a, 1, SUCCESS, 0x04, 0, 0x04, 0];
