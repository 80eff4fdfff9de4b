//! What a cache hit costs, the only step of the request path that leaves the request's own data; and what a million
//! cached mailboxes cost.

#![allow(clippy::expect_used)] // a bench that cannot start says why and stops

use std::{
    fs,
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use criterion::{Criterion, criterion_group, criterion_main};
use firstcas::{
    directory::{
        Changes, Directory, DirectoryError, Entry, EntryId, TopologyReading, Verdict,
        cache::{CachedDirectory, Lookup, Settings},
        ldif,
    },
    identity::MailboxName,
    routing::mailbox::Mailbox,
    secret::Secret,
};
use moka::{Expiry, future::Cache};
use tokio::runtime::{Builder, Runtime};

/// The edge's own, so that its memory is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn settings() -> Settings {
    Settings {
        max_entries: 2_000_000,
        found_lifetime: Duration::from_secs(3600),
        not_found_lifetime: Duration::from_secs(3600),
        max_proofs: 1,
        proof_lifetime: Duration::from_secs(1),
        disproof_lifetime: Duration::from_secs(1),
        stale_lifetime: Duration::from_secs(3600),
        not_found_max: 1000,
        wrong_passwords_max: 3,
        wrong_passwords_window: Duration::from_secs(600),
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn cached(directory: impl Directory, runtime: &Runtime) -> CachedDirectory {
    CachedDirectory::new(Arc::new(directory), settings(), Arc::new(drop), runtime.handle().clone())
}

fn hit(criterion: &mut Criterion) {
    let runtime = runtime();
    let cached = cached(ldif::open("conf/contoso.ldif").expect("the LDIF file"), &runtime);
    let bruno = MailboxName::parse("CONTOSO\\bruno").expect("a name");
    criterion.bench_function("a cache hit", |bencher| {
        bencher.iter(|| runtime.block_on(cached.find(black_box(&bruno))).expect("an answer"));
    });

    // What there is to a hit if the cache knows nothing of people and changes: the measure for what they cost.
    let bare: Cache<MailboxName, Arc<Lookup>> = Cache::builder().max_capacity(100_000).expire_after(AnHour).build();
    let hits = AtomicU64::new(0);
    let lookup = runtime.block_on(cached.find(&bruno)).expect("an answer");
    runtime.block_on(bare.insert(bruno.clone(), lookup));
    criterion.bench_function("a hit of a bare moka cache", |bencher| {
        bencher.iter(|| {
            hits.fetch_add(1, Ordering::Relaxed);
            runtime.block_on(bare.get(black_box(&bruno))).expect("kept")
        });
    });
}

struct AnHour;

impl Expiry<MailboxName, Arc<Lookup>> for AnHour {
    fn expire_after_create(&self, _: &MailboxName, _: &Arc<Lookup>, _: Instant) -> Option<Duration> {
        Some(Duration::from_secs(3600))
    }
}

fn a_million(criterion: &mut Criterion) {
    let runtime = runtime();
    let cached = cached(Million, &runtime);
    runtime.block_on(async {
        let _ = cached.find(&upn(0)).await;
        let before = resident_bytes();
        for number in 0..MAILBOXES {
            cached.find(&upn(number)).await.expect("an answer");
            if number % 10 == 0 {
                cached.find(&account(number)).await.expect("an answer");
            }
        }
        let bytes = resident_bytes().saturating_sub(before);
        println!("a million mailboxes: {} MB resident, {} bytes each", bytes / 1_000_000, bytes / MAILBOXES);
    });
    let began = Instant::now();
    let people = cached.remembered();
    println!("to list them for the next start: {} ms", began.elapsed().as_millis());
    let (restored, began) = (self::cached(Million, &runtime), Instant::now());
    restored.restore(people);
    println!("to take them in there: {} ms", began.elapsed().as_millis());
    drop(restored);
    let searches = cached.counters().searches.load(Ordering::Relaxed);
    let names: Vec<_> = (0..MAILBOXES).map(upn).collect();
    let mut chance = fastrand::Rng::with_seed(4);
    criterion.bench_function("a cache hit among a million, at random", |bencher| {
        bencher.iter(|| {
            let name = &names[chance.usize(..names.len())];
            runtime.block_on(cached.find(black_box(name))).expect("an answer")
        });
    });
    assert_eq!(cached.counters().searches.load(Ordering::Relaxed), searches, "all were hits");
}

const MAILBOXES: u64 = 1_000_000;

/// A directory of a million mailboxes on a thousand databases of 250 servers, with names as long as they are in life.
struct Million;

#[async_trait]
impl Directory for Million {
    async fn topology(&self) -> Result<TopologyReading, DirectoryError> {
        Ok(TopologyReading::default())
    }

    async fn find(&self, name: &MailboxName) -> Result<Option<Entry>, DirectoryError> {
        let (MailboxName::Address(text) | MailboxName::Account { account: text, .. }) = name else { return Ok(None) };
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        Ok(digits.parse().ok().map(entry))
    }

    async fn verify(&self, _: &Entry, _: &Secret) -> Result<Verdict, DirectoryError> {
        Ok(Verdict::Wrong)
    }

    async fn changes(&self) -> Result<Changes, DirectoryError> {
        Ok(Changes::default())
    }
}

fn upn(number: u64) -> MailboxName {
    MailboxName::Address(format!("firstname.{number:07}@contoso.com"))
}

fn account(number: u64) -> MailboxName {
    MailboxName::Account { domain: "contoso".into(), account: format!("u{number:07}") }
}

fn entry(number: u64) -> Entry {
    let (database, server) = (number % 1000, number % 250);
    let groups = "exchange administrative group (fydibohf23spdlt)";
    let home_server =
        format!("/o=contoso mail organisation/ou={groups}/cn=configuration/cn=servers/cn=mbx-{server:03}");
    let home_database = format!(
        "cn=mailbox database {database:04},cn=storage group 01,cn=informationstore,cn=mbx-{server:03},cn=servers,\
         cn={groups},cn=contoso,cn=microsoft exchange,cn=services,cn=configuration,dc=contoso,dc=com"
    );
    Entry {
        id: EntryId(u128::from(number).to_be_bytes()),
        dn: format!("CN=Lastname {number:07},OU=People,OU=Lisbon,DC=contoso,DC=com"),
        name: format!("firstname.{number:07}@contoso.com"),
        mailbox: Some(Mailbox {
            key: number,
            home_server: home_server.into(),
            home_database: Some(home_database.into()),
        }),
        master_account: None,
        principal: Some(format!("u{number:07}@CONTOSO.COM")),
    }
}

fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("resident pages");
    pages * PAGE_BYTES
}

criterion_group!(benches, hit, a_million);
criterion_main!(benches);
