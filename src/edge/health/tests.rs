#![allow(clippy::expect_used)] // a test may fail by panicking

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const EWS_PLACE: &str = "http://cas-1.contoso.com:80";
const OWA_PLACE: &str = "https://cas-1.contoso.com:443";
const FIRST: ServerId = ServerId(0);

fn unreachable() -> Fault {
    Fault::Unreachable("refused".into())
}

/// Checks are on, but none is made: these tests say what they found.
fn checked() -> config::Health {
    config::Health { interval: Some(HOUR), timeout: HOUR, fall: 3, rise: 2, slow_start: Duration::ZERO, checks_max: 1 }
}

fn unchecked() -> config::Health {
    config::Health { interval: None, ..checked() }
}

/// A server with OWA at one place and EWS at another; other protocols go where OWA is.
fn member(name: &str) -> Member {
    let mut ways = [(0, false); WAYS];
    ways[Protocol::Owa as usize] = (0, true);
    ways[Protocol::Ecp as usize] = (0, true);
    ways[Protocol::Ews as usize] = (1, true);
    Member { name: name.into(), hash_seed: 7, places: vec![OWA_PLACE.into(), EWS_PLACE.into()], ways }
}

fn health(settings: config::Health, names: &[&str]) -> Health {
    Health::new(settings, HOUR, names.iter().map(|name| member(name)).collect(), None)
}

fn alive(health: &Health, server: ServerId) -> [bool; 3] {
    [Protocol::Owa, Protocol::Ecp, Protocol::Ews].map(|protocol| health.is_alive(server, protocol))
}

#[test]
fn without_checks_a_dead_server_is_left_alone_until_its_time_is_over() {
    let patient = health(unchecked(), &["cas-1", "cas-2"]);
    patient.refused(FIRST, Protocol::Owa, &unreachable());
    assert_eq!(alive(&patient, FIRST), [false, false, true], "where it is reached otherwise it may be well");
    assert_eq!(alive(&patient, ServerId(1)), [true; 3], "the other one is not affected");
    patient.accepted(FIRST, Protocol::Ews);
    assert_eq!(alive(&patient, FIRST), [false, false, true]);
    patient.accepted(FIRST, Protocol::Owa);
    assert_eq!(alive(&patient, FIRST), [true; 3]);

    let impatient = Health::new(unchecked(), Duration::from_millis(1), vec![member("cas-1")], None);
    impatient.refused(FIRST, Protocol::Owa, &unreachable());
    let deadline = Instant::now() + Duration::from_secs(10);
    while !impatient.is_alive(FIRST, Protocol::Owa) {
        assert!(Instant::now() < deadline, "it is never tried again");
        std::thread::yield_now();
    }
}

#[test]
fn a_dead_server_is_probed_once_a_second_at_most_with_checks_and_without() {
    for settings in [unchecked(), checked()] {
        let health = health(settings, &["cas-1"]);
        health.refused(FIRST, Protocol::Owa, &unreachable());
        assert!(health.may_probe(FIRST, Protocol::Owa));
        let at_once = (0..100).filter(|_| health.may_probe(FIRST, Protocol::Owa)).count();
        assert!(at_once <= 1, "{at_once} probes in no time");
    }
}

#[test]
fn what_a_request_took_out_the_next_connection_brings_back_though_checks_are_made() {
    let health = health(checked(), &["cas-1"]);
    health.refused(FIRST, Protocol::Owa, &unreachable());
    assert_eq!(alive(&health, FIRST), [false, false, true]);
    health.accepted(FIRST, Protocol::Owa);
    assert_eq!(alive(&health, FIRST), [true; 3]);
}

#[test]
fn what_checks_took_out_is_back_when_they_have_found_it_twice() {
    let health = health(checked(), &["cas-1"]);
    health.refused(FIRST, Protocol::Owa, &unreachable());
    health.check_refused(FIRST, 0, &unreachable());
    health.refused(FIRST, Protocol::Owa, &unreachable()); // the one that probed it
    health.accepted(FIRST, Protocol::Owa); // of a hundred, one is lucky
    health.check_accepted(FIRST, 0);
    assert!(!health.is_alive(FIRST, Protocol::Owa));
    health.check_accepted(FIRST, 0);
    assert_eq!(alive(&health, FIRST), [true; 3]);
}

#[test]
fn a_virtual_directory_that_keeps_silent_towards_checks_only_serves_where_no_other_is_left() {
    let health = health(checked(), &["cas-1"]);
    let silent = || Err(Illness { reason: String::new(), answers: false });
    for _ in 0..3 {
        health.check_judged(FIRST, Protocol::Owa, silent());
    }
    assert_eq!(alive(&health, FIRST), [false, true, true]);
    assert!(health.is_reached(FIRST, Protocol::Owa) && !health.answers(FIRST, Protocol::Owa));
    assert!(health.may_probe(FIRST, Protocol::Owa));
    health.answered(FIRST, Protocol::Owa);
    assert!(health.answers(FIRST, Protocol::Owa) && !health.is_alive(FIRST, Protocol::Owa));
    health.check_judged(FIRST, Protocol::Owa, silent());
    assert!(!health.answers(FIRST, Protocol::Owa), "nobody may wait for a server that hangs");
}

#[test]
fn checks_that_cannot_connect_take_out_the_place_and_those_of_a_virtual_directory_that_alone() {
    let health = health(checked(), &["cas-1"]);
    for _ in 0..3 {
        assert_eq!(alive(&health, FIRST), [true; 3]);
        health.check_refused(FIRST, 1, &unreachable());
    }
    assert_eq!(alive(&health, FIRST), [true, true, false]);
    for _ in 0..3 {
        assert!(health.is_alive(FIRST, Protocol::Owa));
        health.check_judged(FIRST, Protocol::Owa, Err(Illness { reason: String::new(), answers: true }));
    }
    assert_eq!(alive(&health, FIRST), [false, true, false]);
    assert!(health.answers(FIRST, Protocol::Owa), "where no other is left, its own words are better than none");
    assert!(!health.answers(FIRST, Protocol::Ews));
    health.check_judged(FIRST, Protocol::Owa, Err(Illness { reason: String::new(), answers: false }));
    assert!(!health.answers(FIRST, Protocol::Owa), "nobody may wait for a server that hangs");
    for _ in 0..2 {
        health.check_judged(FIRST, Protocol::Owa, Ok(()));
        health.check_accepted(FIRST, 1);
    }
    assert_eq!(alive(&health, FIRST), [true; 3]);
}

#[test]
fn what_is_not_checked_is_as_its_place() {
    let health = health(checked(), &["cas-1"]);
    assert!(health.is_alive(FIRST, Protocol::Opened));
    health.refused(FIRST, Protocol::Opened, &unreachable());
    assert_eq!(alive(&health, FIRST), [false, false, true]);
    assert_eq!(health.checked_at(FIRST, 0).collect::<Vec<_>>(), [Protocol::Owa, Protocol::Ecp]);
    assert_eq!(health.checked_at(FIRST, 1).collect::<Vec<_>>(), [Protocol::Ews]);
    assert_eq!(health.watched().count(), 2);
}

#[test]
fn a_server_that_is_back_takes_few_keys_at_first_and_all_of_them_in_the_end() {
    let slow = Health::new(config::Health { slow_start: HOUR, ..checked() }, HOUR, vec![member("cas-1")], None);
    let taken = |health: &Health| (0..1_000).filter(|key| health.takes(FIRST, Protocol::Owa, *key)).count();
    assert_eq!(taken(&slow), 1_000, "at its start the edge knows of no outage");
    slow.refused(FIRST, Protocol::Owa, &unreachable());
    assert_eq!(taken(&slow), 0);
    slow.check_accepted(FIRST, 0);
    slow.check_accepted(FIRST, 0);
    assert!(slow.is_alive(FIRST, Protocol::Owa) && taken(&slow) < 50, "{} after no time of an hour", taken(&slow));

    let at_once = health(checked(), &["cas-1"]);
    at_once.refused(FIRST, Protocol::Owa, &unreachable());
    at_once.check_accepted(FIRST, 0);
    at_once.check_accepted(FIRST, 0);
    assert_eq!(taken(&at_once), 1_000);
}

#[test]
fn a_virtual_directory_that_is_back_starts_slowly_too() {
    let slow = Health::new(config::Health { slow_start: HOUR, ..checked() }, HOUR, vec![member("cas-1")], None);
    for _ in 0..3 {
        slow.check_judged(FIRST, Protocol::Owa, Err(Illness { reason: String::new(), answers: true }));
    }
    for _ in 0..2 {
        slow.check_judged(FIRST, Protocol::Owa, Ok(()));
    }
    let taken = |protocol| (0..1_000).filter(|key| slow.takes(FIRST, protocol, *key)).count();
    assert!(taken(Protocol::Owa) < 50);
    assert_eq!(taken(Protocol::Ecp), 1_000);
}

#[test]
fn a_new_topology_knows_who_was_out_in_the_old_one() {
    let old = health(checked(), &["cas-0", "cas-1"]);
    old.refused(ServerId(1), Protocol::Owa, &unreachable());
    for _ in 0..3 {
        old.check_judged(ServerId(1), Protocol::Ews, Err(Illness { reason: String::new(), answers: false }));
    }
    let members = ["new", "cas-0", "cas-1"].map(member).into();
    let new = Health::new(checked(), HOUR, members, Some(&old));
    assert_eq!(alive(&new, ServerId(2)), [false; 3]);
    assert_eq!(alive(&new, ServerId(1)), [true; 3]);
    let _busy = old.enter(ServerId(1));
    assert_eq!(new.servers[2].load.load(Relaxed), 1);
    for _ in 0..2 {
        new.check_accepted(ServerId(2), 0);
        new.check_judged(ServerId(2), Protocol::Ews, Ok(()));
    }
    assert_eq!(alive(&old, ServerId(1)), [true; 3], "both know it at once");
}

#[test]
fn a_place_that_has_moved_or_is_watched_no_more_starts_anew() {
    let old = health(checked(), &["cas-1"]);
    old.refused(FIRST, Protocol::Owa, &unreachable());
    old.refused(FIRST, Protocol::Ews, &unreachable());
    let mut moved = member("cas-1");
    moved.places[0] = "https://cas-1.contoso.com:8443".into();
    let new = Health::new(checked(), HOUR, vec![moved], Some(&old));
    assert_eq!(alive(&new, FIRST), [true, true, false]);
    let unwatched = Health::new(unchecked(), HOUR, vec![member("cas-1")], Some(&old));
    assert_eq!(alive(&unwatched, FIRST), [true; 3], "nobody would ever bring it back");
}

#[test]
fn a_request_counts_at_its_server_until_it_is_over() {
    let health = health(unchecked(), &["cas-1"]);
    let load = || health.servers[0].load.load(Relaxed);
    let (one, other) = (health.enter(FIRST), health.enter(FIRST));
    assert_eq!(load(), 2);
    drop(one);
    assert_eq!(load(), 1);
    drop(other);
    assert_eq!(load(), 0);
}
