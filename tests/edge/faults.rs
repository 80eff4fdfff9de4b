//! Faults between the edge and its directory servers, under a steady load of people that it knows and people that it does
//! not. Who is served, how late, and with how many errors is printed: `cargo test --test edge faults -- --nocapture`.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use firstcas::config::Config;
use http::Method;
use tempfile::NamedTempFile;
use tokio::task::JoinSet;

use crate::{
    harness::{Client, House, Plan, within},
    line::{Fault, Line, socket_address},
    openldap::{Authority, BIND_DN, BIND_PASSWORD, Slapd, Tls, authority},
    record,
};

/// An edge with two directory servers, each behind a line.
struct Beset {
    house: House,
    lines: [Line; 2],
    slapds: [Slapd; 2],
    authority: Authority,
    strangers_seen: AtomicUsize,
    _files: [NamedTempFile; 2],
}

/// What a load has met with.
struct Met {
    known: Vec<Served>,
    unknown: Vec<Served>,
}

/// One request, answered.
struct Served {
    status: u16,
    retry_after: bool,
    took: Duration,
}

impl Beset {
    /// Contoso with strangers, and with more in the directory servers.
    async fn start(more: &str, adjust: Option<fn(&mut Config)>) -> Beset {
        let people: String = (0..STRANGERS).map(stranger).collect();
        let contoso = format!("{CONTOSO}\n{people}{more}");
        let authority = authority();
        let (slapds, authority) = blocking(move || {
            let slapds = [0; 2].map(|_| Slapd::load(&contoso, &Tls::By(&authority)));
            (slapds, authority)
        })
        .await;
        let lines = [Line::to(&slapds[0].url("ldaps")).await, Line::to(&slapds[1].url("ldaps")).await];
        let files = [file(BIND_PASSWORD), file(&authority.pem())];
        let further = format!(
            "directory.ldap = {{ urls = [\"{}\", \"{}\"], bind_dn = \"{BIND_DN}\", bind_password_file = \"{}\", \
             ca = \"{}\", users_base = \"DC=contoso,DC=com\", configuration_base = \"CN=Configuration,DC=contoso,DC=com\", \
             connect_timeout = \"{}ms\", search_timeout = \"{}ms\" }}\ntimeouts.directory = \"{}ms\"\n",
            lines[0].url(),
            lines[1].url(),
            files[0].path().display(),
            files[1].path().display(),
            PATIENCE.as_millis(),
            PATIENCE.as_millis(),
            BUDGET.as_millis(),
        );
        let house = House::planned(Plan { further, people, adjust, ..Plan::default() }).await;
        Beset { house, lines, slapds, authority, strangers_seen: AtomicUsize::new(0), _files: files }
    }

    /// A steady load for a while: somebody known, and less often somebody that nobody has asked for yet.
    async fn load(&self, duration: Duration) -> Met {
        let (mut known, mut unknown) = (JoinSet::new(), JoinSet::new());
        let edge = self.house.plain();
        let began = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        let mut tick = 0;
        while began.elapsed() < duration {
            ticks.tick().await;
            known.spawn(request(edge, KNOWN[tick % KNOWN.len()].to_owned()));
            if tick % 4 == 0 {
                let stranger = self.strangers_seen.fetch_add(1, Ordering::Relaxed);
                assert!(stranger < STRANGERS, "there are no more of them");
                unknown.spawn(request(edge, format!("stranger-{stranger}")));
            }
            tick += 1;
        }
        Met { known: known.join_all().await, unknown: unknown.join_all().await }
    }

    async fn everybody_is_known(&self) {
        for user in KNOWN {
            assert_eq!(request(self.house.plain(), user.into()).await.status, 200, "{user}");
        }
    }
}

/// How often a server was told to answer again.
fn times_back(line: &Line) -> usize {
    record::lines(&["event=FC125", line.url().as_str()]).len()
}

/// Waits until that has been told once more.
async fn until_back(line: &Line, before: usize) {
    let back = async {
        while times_back(line) == before {
            tokio::time::sleep(TICK).await;
        }
    };
    within("the server is back", back).await;
}

async fn request(edge: SocketAddr, user: String) -> Served {
    let began = Instant::now();
    let mut client = Client::connect(edge).await;
    let answer = client.ask(Method::POST, "/EWS/Exchange.asmx").basic(&user, "Pass-word1").send().await;
    let retry_after = answer.header("Retry-After").parse::<u32>().is_ok();
    Served { status: answer.status.as_u16(), retry_after, took: began.elapsed() }
}

impl Met {
    /// The known were served as if nothing had happened.
    fn assert_known_are_served(&self, what: &str, quiet: &Met) {
        let told = self.told(what);
        assert!(self.known.iter().all(|served| served.status == 200), "{told}");
        assert!(median(&self.known) <= median(&quiet.known) * 10 + PATIENCE / 2, "{told}");
        // A busy machine may hold up some; whoever waits for the directory does so together with many.
        let held_up = self.known.iter().filter(|served| served.took >= PATIENCE).count();
        assert!(held_up * 4 <= self.known.len() && worst(&self.known) <= BUDGET + NOISE, "{told}");
    }

    /// All were served, by the other server where one is faulty.
    fn assert_unknown_are_served(&self, what: &str) {
        let told = self.told(what);
        assert!(self.unknown.iter().all(|served| served.status == 200), "{told}");
        assert!(worst(&self.unknown) <= BUDGET + NOISE, "{told}");
    }

    /// Nobody waits for longer than may be, and who was not served knows when to come back.
    fn assert_unknown_are_told_to_come_back(&self, what: &str) {
        let told = self.told(what);
        assert!(self.unknown.iter().any(|served| served.status == 503), "{told}");
        let may_come_back = |served: &Served| served.status == 503 && served.retry_after;
        assert!(self.unknown.iter().all(|served| served.status == 200 || may_come_back(served)), "{told}");
        assert!(worst(&self.unknown) <= BUDGET + NOISE, "{told}");
    }

    /// A line of the table.
    fn told(&self, what: &str) -> String {
        let mut line = format!("{what:45}");
        for served in [&self.known, &self.unknown] {
            let errors = served.iter().filter(|served| served.status != 200).count();
            let (median, worst) = (median(served).as_millis(), worst(served).as_millis());
            let _ = write!(line, " | {:5} {errors:6} {median:9} {worst:8}", served.len()); // a String takes everything
        }
        line
    }
}

fn median(served: &[Served]) -> Duration {
    let mut took: Vec<_> = served.iter().map(|served| served.took).collect();
    took.sort_unstable();
    took[took.len() / 2]
}

fn worst(served: &[Served]) -> Duration {
    served.iter().map(|served| served.took).max().expect("somebody")
}

fn table(quiet: &Met) -> String {
    let columns = "asked errors median/ms worst/ms";
    format!("{:45} | {columns} | {columns}\n{}\n", "known people, then unknown ones", quiet.told("no fault"))
}

#[tokio::test(flavor = "multi_thread")]
async fn while_one_of_two_servers_is_faulty_everybody_is_served_in_time() {
    let beset = Beset::start("", None).await;
    let stranger = authority();
    let [expiring, other_certificate, other_password] = tokio::task::block_in_place(|| {
        let contoso = std::fs::read_to_string(beset.slapds[0].ldif_path()).expect("it was loaded from there");
        let ours = &beset.authority;
        let all = [Tls::Ending(ours, 20), Tls::By(&stranger), Tls::By(ours)].map(|tls| Slapd::load(&contoso, &tls));
        let [expiring, other_certificate, mut other_password] = all;
        other_password.stop();
        edit(&other_password.ldif_path().with_file_name("slapd.conf"), BIND_PASSWORD, "another");
        other_password.start();
        [expiring, other_certificate, other_password]
    });
    beset.everybody_is_known().await;
    let quiet = beset.load(QUIET).await;
    let mut table = table(&quiet);
    let elsewhere = |slapd: &Slapd| Fault::Elsewhere(socket_address(&slapd.url("ldaps")));
    let line = &beset.lines[0];
    for (what, fault) in [
        ("refused", Fault::Refused),
        ("black hole", Fault::Silent),
        ("slow, each piece late by 3 s", Fault::Slow(2 * PATIENCE)),
        ("slow, each piece late by 100 ms", Fault::Slow(Duration::from_millis(100))),
        ("cut in mid-answer", Fault::CutAfter(100)),
        ("certificate that ends in 20 days", elsewhere(&expiring)),
        ("certificate of another authority", elsewhere(&other_certificate)),
        ("bind account with another password", elsewhere(&other_password)),
    ] {
        let times_back = times_back(line);
        line.becomes(fault);
        let met = beset.load(LOAD).await;
        let _ = writeln!(table, "{}", met.told(what)); // a String takes everything
        met.assert_known_are_served(what, &quiet);
        met.assert_unknown_are_served(what);
        line.becomes(Fault::None);
        let is_lost = record::lines(&["event=FC124", line.url().as_str()]).len() > times_back;
        if is_lost && fault != elsewhere(&other_password) {
            until_back(line, times_back).await;
        }
    }
    record::line(&["event=FC126", line.url().as_str(), "ends in 20 days"]).await;
    // Tried no sooner than after minutes, so that the account is not locked.
    assert_eq!(record::lines(&["event=FC124", line.url().as_str(), "the bind as `"]).len(), 1);
    println!("one of two servers\n{table}");
}

/// Both servers, each fault after the other, and back.
async fn both_servers(adjust: Option<fn(&mut Config)>, known: &str) {
    let beset = Beset::start("", adjust).await;
    beset.everybody_is_known().await;
    let quiet = beset.load(QUIET).await;
    let mut table = table(&quiet);
    for (what, fault) in [
        ("refused", Fault::Refused),
        ("black hole", Fault::Silent),
        ("slow, each piece late by 3 s", Fault::Slow(2 * PATIENCE)),
        ("cut in mid-answer", Fault::CutAfter(0)),
    ] {
        let times_back = beset.lines.each_ref().map(times_back);
        for line in &beset.lines {
            line.becomes(fault);
        }
        let met = beset.load(LOAD).await;
        let _ = writeln!(table, "{}", met.told(what)); // a String takes everything
        met.assert_known_are_served(what, &quiet);
        met.assert_unknown_are_told_to_come_back(what);
        for line in &beset.lines {
            line.becomes(Fault::None);
        }
        for (line, before) in beset.lines.iter().zip(times_back) {
            until_back(line, before).await;
        }
        let met = beset.load(QUIET).await;
        met.assert_known_are_served("healed", &quiet);
        met.assert_unknown_are_served("healed");
    }
    println!("both servers; the known are {known}\n{table}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_both_servers_are_faulty_the_known_are_served_whatever_their_age_and_others_told_to_come_back() {
    let stale = |config: &mut Config| config.cache.found_lifetime = Duration::from_millis(300);
    // One after the other: together they would hold each other up, and not the servers them.
    both_servers(None, "remembered for an hour").await;
    both_servers(Some(stale), "remembered for 300 ms, and then believed all the same").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_answers_harm_nobody_but_who_asked() {
    const SHARED: usize = 10;
    let address = |number| format!("proxyAddresses: smtp:everybody-{number}@contoso.com\n");
    let addresses = (0..SHARED).map(address).collect::<Vec<_>>().concat();
    let sharers = (0..5_000).map(|number| {
        format!(
            "\ndn: CN=sharer-{number},CN=Users,DC=contoso,DC=com\nobjectClass: top\nobjectClass: person\n\
             objectClass: organizationalPerson\nobjectClass: user\ncn: sharer-{number}\nsn: X\n{addresses}"
        )
    });
    let subnets = (0..20_000).map(|number| {
        let net = format!("172.{}.{}.{}/32", 16 + (number >> 16), number >> 8 & 0xff, number & 0xff);
        format!(
            "\ndn: CN={net},CN=Subnets,CN=Sites,CN=Configuration,DC=contoso,DC=com\nobjectClass: top\n\
             objectClass: subnet\ncn: {net}\nsiteObject: CN=Faro,CN=Sites,CN=Configuration,DC=contoso,DC=com\n"
        )
    });
    let beset = Beset::start(&sharers.chain(subnets).collect::<String>(), None).await;
    beset.everybody_is_known().await;
    let quiet = beset.load(QUIET).await;
    let mut table = table(&quiet);

    let edge = beset.house.plain();
    let met = async {
        let mut askers = JoinSet::new();
        for number in 0..SHARED {
            askers.spawn(request(edge, format!("everybody-{number}@contoso.com")));
        }
        let (met, asked) = tokio::join!(beset.load(LOAD), askers.join_all());
        for served in asked {
            // None of the first few has that password.
            assert!(served.status == 401 && served.took <= BUDGET + NOISE, "{} after {:?}", served.status, served.took);
        }
        met
    };
    let met = met.await;
    let _ = writeln!(table, "{}", met.told("10 names of 5,000 people each")); // a String takes everything
    met.assert_known_are_served("names of thousands", &quiet);
    met.assert_unknown_are_served("names of thousands");

    let url = beset.slapds[0].url("ldap");
    let removed = blocking(move || {
        let server = "CN=ex03-opo,CN=Servers,CN=First Administrative Group,\
                      CN=Administrative Groups,CN=Contoso,CN=Microsoft Exchange,CN=Services,CN=Configuration,\
                      DC=contoso,DC=com";
        let account = ["-D", BIND_DN, "-w", BIND_PASSWORD];
        Command::new("ldapdelete").args(["-r", "-x", "-H", url.as_str()]).args(account).arg(server).status()
    });
    assert!(removed.await.expect("ldapdelete is installed (Debian: ldap-utils)").success());
    let began = Instant::now();
    beset.house.edge.as_ref().expect("a running edge").read_topology_again();
    let (met, read_after) = tokio::join!(beset.load(LOAD), async {
        record::line(&["event=FC122", "ex03-opo left the organisation"]).await;
        began.elapsed()
    });
    let _ = writeln!(table, "{}", met.told("a configuration container of 20,000 objects"));
    met.assert_known_are_served("20,000 objects", &quiet);
    met.assert_unknown_are_served("20,000 objects");
    println!("thousands of answers; the container was read within {} ms\n{table}", read_after.as_millis());
}

/// Somebody like bruno.
fn stranger(number: usize) -> String {
    let unfolded = CONTOSO.replace("\n ", "");
    let mut objects = unfolded.split("\n\n");
    let bruno = objects.find(|object| object.contains("\ndn: CN=Bruno")).expect("bruno");
    let lines = bruno.lines().filter(|line| !line.starts_with(['#']) && !line.starts_with("msExchMailboxGuid"));
    let name = format!("stranger-{number}");
    let object: String = lines.flat_map(|line| [line, "\n"]).collect();
    format!(
        "\n{}",
        object.replace("Bruno Barros", &name).replace("bruno.barros", &format!("x.{name}")).replace("bruno", &name)
    )
}

fn file(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(file).expect("it is there");
    assert!(text.contains(from), "{from} in {text}");
    std::fs::write(file, text.replace(from, to)).expect("written");
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("no panic")
}

const CONTOSO: &str = include_str!("../../conf/contoso.ldif");
const KNOWN: [&str; 4] = ["ana", "bruno", "carla", "bruno.barros@contoso.com"];
const STRANGERS: usize = 1_500;
const TICK: Duration = Duration::from_millis(20);
/// For one connection, and for one search: what one faulty server may cost.
const PATIENCE: Duration = Duration::from_millis(1500);
/// For the directory in all.
const BUDGET: Duration = Duration::from_millis(4500);
/// What a busy machine adds.
const NOISE: Duration = Duration::from_secs(5);
const QUIET: Duration = Duration::from_secs(1);
const LOAD: Duration = Duration::from_millis(2500);
