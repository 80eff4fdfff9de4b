//! What a cache hit costs: the only step of the request path that leaves the request's own data.

#![allow(clippy::expect_used)] // a bench that cannot start says why and stops

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use firstcas::{
    directory::{
        cache::{CachedDirectory, Settings},
        ldif,
    },
    identity::MailboxName,
};

fn hit(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let directory = Arc::new(ldif::open("conf/contoso.ldif").expect("the LDIF file"));
    let cached = CachedDirectory::new(
        directory,
        Settings {
            max_entries: 100_000,
            found_lifetime: Duration::from_secs(3600),
            not_found_lifetime: Duration::from_secs(3600),
            max_proofs: 1,
            proof_lifetime: Duration::from_secs(1),
            disproof_lifetime: Duration::from_secs(1),
            stale_lifetime: Duration::from_secs(3600),
            not_found_max: 1000,
            wrong_passwords_max: 3,
            wrong_passwords_window: Duration::from_secs(600),
        },
        Arc::new(drop),
        runtime.handle().clone(),
    );
    let bruno = MailboxName::parse("CONTOSO\\bruno").expect("a name");
    criterion.bench_function("a cache hit", |bencher| {
        bencher.iter(|| runtime.block_on(cached.find(black_box(&bruno))).expect("an answer"));
    });
}

criterion_group!(benches, hit);
criterion_main!(benches);
