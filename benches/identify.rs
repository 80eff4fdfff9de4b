//! What it costs to read who a request is about.

use std::{
    hint::black_box,
    time::{Duration, SystemTime},
};

use criterion::{Criterion, criterion_group, criterion_main};
use firstcas::{
    edge::{hygiene::is_forged, path::decode},
    identity::{
        Credential, Facts, identify,
        keytab::Keytab,
        token::{Shows, Token},
    },
    routing::protocol::Protocol,
};

fn identify_requests(c: &mut Criterion) {
    let nobody =
        Facts { protocol: Protocol::Owa, path: "/owa/", query: None, authorization: None, anchor_mailbox: None };
    // CONTOSO\bruno:Pass-word1
    let basic = Facts { authorization: Some(b"Basic Q09OVE9TT1xicnVubzpQYXNzLXdvcmQx"), ..nobody };
    let bound = |token: &'static str| Facts { authorization: Some(token.as_bytes()), ..nobody };
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
        ("ntlm type 1", bound("NTLM TlRMTVNTUAABAAAAB4IIogAAAAAAAAAAAAAAAAAAAAAGAbEdAAAADw==")),
        ("ntlm type 3", bound(include_str!("../tests/tokens/curl-ntlm-type-3"))),
        ("ntlm type 3 in spnego", bound(include_str!("../tests/tokens/pyspnego-negotiate-3"))),
        ("kerberos ap-req in spnego", bound(KERBEROS)),
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

/// A ticket of 400 bytes. One with the groups of a Windows user is some kilobytes longer, which are decrypted too.
const KERBEROS: &str = include_str!("../tests/tokens/curl-kerberos-aes256");

fn open_tickets(c: &mut Criterion) {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_375_319); // when the ticket was sent
    let Ok(keytab) = Keytab::parse(include_bytes!("../tests/tokens/service.keytab")) else { panic!("no keytab") };
    let facts = Facts {
        protocol: Protocol::Owa,
        path: "/owa/",
        query: None,
        authorization: Some(KERBEROS.as_bytes()),
        anchor_mailbox: None,
    };
    let Credential::ConnectionBound(Token { shows: Shows::Ticket(ap_req), .. }) = identify(&facts).credential else {
        panic!("no ticket");
    };
    assert!(keytab.open(&ap_req, then).is_ok());
    c.bench_function("kerberos ap-req opened", |b| b.iter(|| keytab.open(black_box(&ap_req), then)));
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

criterion_group!(benches, identify_requests, open_tickets, check_requests);
criterion_main!(benches);
