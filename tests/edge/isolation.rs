//! The hammer against the edge: nobody is ever answered in somebody else's name, whatever breaks.

use std::{env, str::FromStr, time::Duration};

use fastrand::Rng;

use crate::{
    hammer::{self, people, tally::Least},
    harness::{House, Plan},
};

/// Servers come back at once.
const RESTLESS: &str = "upstream.retry_dead_after = \"100ms\"";

/// Stops one server after the other, each for a moment, and never two of a site; and brings the configuration in force
/// anew all the time, with the topology and another way to trust the servers.
async fn trouble(house: &House, seed: u64) {
    let contoso = &house.contoso;
    let authorities = house.folder.path().join("ca.pem");
    let mut rng = Rng::with_seed(seed);
    loop {
        let server = contoso.server(rng.choice(["cas-lis-1", "cas-lis-2", "cas-opo-1", "cas-opo-2"]).expect("one"));
        tokio::time::sleep(Duration::from_millis(rng.u64(100..400))).await;
        server.stop().await;
        tokio::time::sleep(Duration::from_millis(rng.u64(10..100))).await;
        server.start().expect("its ports are its own");
        let mut pem = std::fs::read_to_string(&authorities).expect("the authorities");
        pem.push('\n');
        std::fs::write(&authorities, pem).expect("written");
        house.reload().await.expect("a good configuration");
    }
}

fn from_environment<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok().and_then(|value| value.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_ever_answered_in_the_name_of_somebody_else() {
    let seed = from_environment("FIRSTCAS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let lasts = Duration::from_secs(from_environment("FIRSTCAS_HAMMER_SECONDS").unwrap_or(4));
    println!("FIRSTCAS_SEED={seed}");
    let house = House::planned(Plan { people: people::ldif(), further: RESTLESS.into(), ..Plan::default() }).await;
    // These keep whom they have when they refuse a new handshake, as Apache does; the others do as IIS.
    for server in ["cas-lis-2", "cas-opo-2"] {
        house.contoso.server(server).mod_auth_gssapi();
    }
    let least = Least { ntlm: 200, kerberos: 100, basic: 500, on_signed_in: 200, nobody: 500, connections: 300 };
    let lasts_at_most = lasts + Duration::from_secs(90); // for a machine with much else to do
    let plan = hammer::Plan { address: house.plain(), seed, lasts, lasts_at_most, least, ..hammer::Plan::default() };
    let tally = tokio::select! {
        tally = hammer::run(plan) => tally,
        () = trouble(&house, seed) => unreachable!("it has no end"),
    };
    println!("{tally}");
    assert!(tally.exceptions().is_empty(), "{tally}");
    let lacks = tally.lacks(least);
    assert!(lacks.is_empty(), "too little was done to say anything: {lacks:?}\n{tally}");
}
