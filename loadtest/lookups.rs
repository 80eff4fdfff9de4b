//! Look-ups of people as the edge makes them: the cache over a real LDAP server, without any HTTP. For `loadtest/directory`.
//!
//! `lookups URL BIND_DN rush REQUESTS` asks for one person so many times at once;
//! `lookups URL BIND_DN cold PEOPLE AT_A_TIME` asks for each person once;
//! `lookups URL BIND_DN steady PEOPLE REQUESTS_A_SECOND LIFETIME_MS` asks for people at random, until each entry of the cache
//! has been searched again twice.
//! The password is in BIND_PASSWORD; people are `person-0@contoso.com` and so on. It connects, writes `ready`, waits for a
//! line, does it, writes what it measured, and where something is to be counted in between, waits for another line.

#![allow(clippy::expect_used)] // a measurement that cannot go on says why and stops

use std::{
    env,
    io::{Write as _, stdin, stdout},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use firstcas::{
    directory::{
        cache::{self, CachedDirectory, Lookup},
        ldap,
    },
    identity::MailboxName,
    secret::Secret,
};
use tokio::{task::JoinSet, time::sleep_until};
use url::Url;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [url, bind_dn, what, numbers @ ..] = arguments.as_slice() else {
        panic!("usage: lookups URL BIND_DN WHAT ...")
    };
    let numbers: Vec<u32> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let lifetime =
        if let [_, _, ms] = numbers[..] { Duration::from_millis(ms.into()) } else { Duration::from_secs(3600) };
    let directory = open(url, bind_dn, lifetime);
    // What is not asked for below; the connections stand after it.
    for number in 0..100 {
        let nobody = MailboxName::Address(format!("nobody-{number}@contoso.com"));
        assert_eq!(*directory.find(&nobody).await.expect("an answer"), Lookup::NotFound);
    }
    says("ready");
    match (what.as_str(), &numbers[..]) {
        ("rush", &[requests]) => rush(&directory, requests).await,
        ("cold", &[people, at_a_time]) => cold(&directory, people, at_a_time).await,
        ("steady", &[people, a_second, _]) => steady(&directory, people, a_second, lifetime).await,
        _ => panic!("rush REQUESTS, cold PEOPLE AT_A_TIME, or steady PEOPLE REQUESTS_A_SECOND LIFETIME_MS"),
    }
}

async fn rush(directory: &Arc<CachedDirectory>, requests: u32) {
    let began = Instant::now();
    let mut finds = JoinSet::new();
    for _ in 0..requests {
        let directory = directory.clone();
        finds.spawn(async move { find(&directory, 0).await });
    }
    finds.join_all().await;
    says(&format!("{:.1}", milliseconds(began.elapsed())));
}

async fn cold(directory: &Arc<CachedDirectory>, people: u32, at_a_time: u32) {
    let next = Arc::new(AtomicU32::new(0));
    let began = Instant::now();
    let mut askers = JoinSet::new();
    for _ in 0..at_a_time {
        let (directory, next) = (directory.clone(), next.clone());
        askers.spawn(async move {
            let mut took = Vec::new();
            loop {
                let person = next.fetch_add(1, Ordering::Relaxed);
                if person >= people {
                    return took;
                }
                took.push(find(&directory, person).await);
            }
        });
    }
    let mut took = askers.join_all().await.concat();
    let seconds = began.elapsed().as_secs_f64();
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    says(&format!("{seconds:.3} {:.3} {:.1}", milliseconds(median), milliseconds(worst)));
}

/// People come one after the other during the first cycle, so that afterwards entries of every age are in the cache.
async fn steady(directory: &Arc<CachedDirectory>, people: u32, a_second: u32, lifetime: Duration) {
    // An entry is searched again by the first request after three quarters of its lifetime.
    let cycle = lifetime / 4 * 3 + Duration::from_secs(people.into()) / a_second;
    let began = Instant::now();
    let mut asked = 0;
    let mut requests = JoinSet::new();
    let mut worst = Duration::ZERO;
    let mut counted_from = None;
    let mut tick = began;
    while began.elapsed() < 3 * cycle {
        tick += Duration::from_millis(1);
        sleep_until(tick.into()).await;
        let since = began.elapsed();
        let known = share(people, since, cycle).clamp(1, people);
        if since > cycle && counted_from.is_none() {
            while let Some(took) = requests.join_next().await {
                took.expect("no panic"); // the first look-ups are not what is measured
            }
            says("counting");
            counted_from = Some(asked);
        }
        let due = share(a_second, since, Duration::from_secs(1));
        for _ in asked..due {
            let (directory, person) = (directory.clone(), fastrand::u32(0..known));
            requests.spawn(async move { find(&directory, person).await });
        }
        asked = asked.max(due);
        while let Some(took) = requests.try_join_next() {
            if counted_from.is_some() {
                worst = worst.max(took.expect("no panic"));
            }
        }
    }
    let counted = asked - counted_from.expect("three cycles");
    says(&format!("{counted} {:.1} {:.1}", (2 * cycle).as_secs_f64(), milliseconds(worst)));
}

/// So many in every `each` are so many in all.
fn share(many: u32, all: Duration, each: Duration) -> u32 {
    u32::try_from(u128::from(many) * all.as_micros() / each.as_micros()).expect("not that many")
}

/// How long it took.
async fn find(directory: &CachedDirectory, person: u32) -> Duration {
    let began = Instant::now();
    let name = MailboxName::Address(format!("person-{person}@contoso.com"));
    let lookup = directory.find(&name).await.expect("an answer");
    assert!(matches!(&*lookup, Lookup::Found(_)), "{name}: {lookup:?}");
    began.elapsed()
}

/// With the defaults of the configuration, but for what is measured.
fn open(url: &str, bind_dn: &str, found_lifetime: Duration) -> Arc<CachedDirectory> {
    let password = env::var("BIND_PASSWORD").expect("BIND_PASSWORD");
    let settings = ldap::Settings {
        servers: ldap::Where::Listed {
            domain_controllers: vec![Url::parse(url).expect("a URL")],
            global_catalogs: vec![],
        },
        account: ldap::Account::Password { dn: bind_dn.to_owned(), password: Secret::new(password.as_bytes()) },
        ca_file: None,
        start_tls: false,
        users_base: Some("DC=contoso,DC=com".into()),
        configuration_base: Some("CN=Configuration,DC=contoso,DC=com".into()),
        connect_timeout: Duration::from_secs(2),
        search_timeout: Duration::from_secs(3),
        connections: 4,
        searches_max: 32,
    };
    let directory = ldap::open(settings, vec![], &(Arc::new(drop) as _)).expect("good settings");
    let settings = cache::Settings {
        max_entries: 100_000,
        found_lifetime,
        not_found_lifetime: Duration::from_secs(30),
        max_proofs: 1,
        proof_lifetime: Duration::from_secs(1),
        disproof_lifetime: Duration::from_secs(1),
        stale_lifetime: Duration::from_secs(86400),
        not_found_max: 10_000,
        wrong_passwords_max: 3,
        wrong_passwords_window: Duration::from_secs(600),
    };
    let runtime = tokio::runtime::Handle::current();
    Arc::new(CachedDirectory::new(Arc::new(directory), settings, Arc::new(drop), runtime))
}

/// Waits for a line in return.
fn says(what: &str) {
    println!("{what}");
    stdout().flush().expect("somebody reads");
    stdin().read_line(&mut String::new()).expect("somebody answers");
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
