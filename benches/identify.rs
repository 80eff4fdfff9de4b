//! What it costs to read who a request is about.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use firstcas::{
    edge::{hygiene::is_forged, path::decode},
    identity::{Facts, identify},
    routing::protocol::Protocol,
};

fn identify_requests(c: &mut Criterion) {
    let nobody =
        Facts { protocol: Protocol::Owa, path: "/owa/", query: None, authorization: None, anchor_mailbox: None };
    // CONTOSO\bruno:Pass-word1
    let basic = Facts { authorization: Some(b"Basic Q09OVE9TT1xicnVubzpQYXNzLXdvcmQx"), ..nobody };
    let ntlm =
        Facts { authorization: Some(b"NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw=="), ..nobody };
    let activesync = |query| Facts {
        protocol: Protocol::ActiveSync,
        path: "/Microsoft-Server-ActiveSync",
        query: Some(query),
        ..basic
    };

    let mut group = c.benchmark_group("identify");
    for (name, facts) in [
        ("nobody", nobody),
        ("basic", basic),
        ("ntlm, not read yet", ntlm),
        (
            "basic and activesync plain query",
            activesync("Cmd=Sync&User=CONTOSO%5Cbruno&DeviceId=ApplDNQJ74&DeviceType=iPhone"),
        ),
        // Version 12.1, a policy key, tag 8 = bruno@contoso.com.
        (
            "basic and activesync base64 query",
            activesync("eQAJBAp2MTQwRGV2aWNlBJvfV9EKU21hcnRQaG9uZQgRYnJ1bm9AY29udG9zby5jb20="),
        ),
        (
            "anchor",
            Facts {
                protocol: Protocol::Ews,
                path: "/EWS/Exchange.asmx",
                anchor_mailbox: Some(b"bruno@contoso.com"),
                ..nobody
            },
        ),
        ("explicit logon", Facts { path: "/owa/bruno@contoso.com/ev.owa", query: Some("oeh=1&ns=MsgVwList"), ..basic }),
    ] {
        group.bench_function(name, |b| b.iter(|| identify(black_box(&facts))));
    }
    group.finish();
}

fn check_requests(c: &mut Criterion) {
    let mut group = c.benchmark_group("hygiene");
    for (name, path) in [("plain path", "/owa/auth/logon.aspx"), ("escaped path", "/owa/bruno%40contoso.com/")] {
        group.bench_function(name, |b| b.iter(|| decode(black_box(path))));
    }
    let fields = [
        "host",
        "user-agent",
        "accept",
        "accept-encoding",
        "cookie",
        "authorization",
        "content-type",
        "x-anchormailbox",
    ];
    group.bench_function("eight field names", |b| {
        b.iter(|| fields.iter().filter(|name| is_forged(black_box(name))).count());
    });
    group.finish();
}

criterion_group!(benches, identify_requests, check_requests);
criterion_main!(benches);
