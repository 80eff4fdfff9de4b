//! What a request pays for being counted, from its beginning to its end.

use std::{hint::black_box, sync::Arc, time::Duration};

use criterion::{Criterion, criterion_group, criterion_main};
use firstcas::{
    metrics::{End, Metrics, Outcome},
    routing::protocol::Protocol,
};

fn count(criterion: &mut Criterion) {
    let metrics = Arc::new(Metrics::new());
    criterion.bench_function("count one request", |bencher| {
        bencher.iter(|| {
            let underway = metrics.begin(black_box(Protocol::Owa));
            metrics.connected(black_box("cas-opo-1"), black_box(true));
            metrics.ended(End {
                protocol: Some(Protocol::Owa),
                site: black_box(Some("Porto")),
                outcome: Outcome::Proxy,
                status: black_box(200),
                first_byte: Some(black_box(Duration::from_millis(12))),
                duration: black_box(Duration::from_millis(15)),
            });
            drop(underway);
        });
    });
}

criterion_group!(benches, count);
criterion_main!(benches);
