//! Plays the world around the gate again and again, with another seed each time.

use std::{
    hash::{BuildHasher, RandomState},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Instant,
};

use crate::world::{self, Tally};

/// Seeds that once failed, each with what failed; every run begins with them.
const REGRESSIONS: &str = include_str!("../regressions");

/// Plays all regressions and then `runs` more. `FIRSTCAS_SEED=n` begins with seed n, which repeats a failure at once.
pub fn play(runs: u64) -> Result<(), String> {
    let seeds = REGRESSIONS.lines().filter_map(|line| line.split_whitespace().next());
    for seed in seeds.filter(|seed| *seed != "#") {
        let seed = seed.parse().map_err(|_| format!("tests/gate/regressions: {seed} is no number"))?;
        world::play(seed, false).map_err(|violation| failure(seed, violation))?;
    }
    let first = match std::env::var("FIRSTCAS_SEED") {
        Ok(seed) => seed.parse().map_err(|_| format!("FIRSTCAS_SEED={seed} is no number"))?,
        Err(_) => RandomState::new().hash_one(0) >> 16,
    };
    println!("gate: {runs} interleavings from seed {first} on (FIRSTCAS_SEED={first} repeats them)");
    let started = Instant::now();
    let tally = play_all(first, runs).map_err(|(seed, violation)| failure(seed, violation))?;
    println!("gate: {tally:?} in {:.1} s", started.elapsed().as_secs_f32());
    let happened = [tally.sign_ins, tally.served_by_connection, tally.refused, tally.strangers];
    let for_people = [tally.errands, tally.errands_without_token, tally.errands_repeated];
    let mut happened = happened.iter().chain(&for_people);
    if happened.any(|count| *count < runs / 100) { Err("too little happened".into()) } else { Ok(()) }
}

fn play_all(first: u64, runs: u64) -> Result<Tally, (u64, world::Violation)> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let worker = || {
        let mut sum = Tally::default();
        loop {
            let run = next.fetch_add(1, Relaxed);
            if run >= runs || failed.load(Relaxed) {
                return Ok(sum);
            }
            let seed = first.wrapping_add(run);
            let tally = world::play(seed, false).map_err(|violation| {
                failed.store(true, Relaxed);
                (seed, violation)
            })?;
            sum = sum + tally;
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        let tallies = workers.into_iter().filter_map(|worker| worker.join().ok());
        tallies.reduce(|sum, tally| Ok(sum? + tally?)).unwrap_or(Err((first, "the simulation panicked")))
    })
}

/// Tells every step of the run that failed.
fn failure(seed: u64, violation: world::Violation) -> String {
    println!("gate: seed {seed}:");
    let _ = world::play(seed, true);
    format!("gate: seed {seed}: {violation} (FIRSTCAS_SEED={seed} repeats it; keep it in tests/gate/regressions)")
}

impl std::ops::Add for Tally {
    type Output = Tally;

    fn add(self, other: Tally) -> Tally {
        Tally {
            steps: self.steps + other.steps,
            answers: self.answers + other.answers,
            sign_ins: self.sign_ins + other.sign_ins,
            served_by_connection: self.served_by_connection + other.served_by_connection,
            refused: self.refused + other.refused,
            strangers: self.strangers + other.strangers,
            errands: self.errands + other.errands,
            errands_without_token: self.errands_without_token + other.errands_without_token,
            errands_repeated: self.errands_repeated + other.errands_repeated,
        }
    }
}
