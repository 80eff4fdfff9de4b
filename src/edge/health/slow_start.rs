//! Which mailboxes a server that is back has got back already.

use std::time::Duration;

use crate::routing::choice;

/// Whether the server with this seed serves this key again, so long after it came back. The share of the keys that it
/// does grows evenly over `slow_start`, in an order of its own for each server; a key that has come back stays.
pub fn has_come_back(key: u64, hash_seed: u64, since: Duration, slow_start: Duration) -> bool {
    // Rotated, because which keys are the server's own is decided by the hash of both unrotated.
    let turn = choice::mix(choice::mix(key).rotate_left(32) ^ hash_seed) >> 32;
    u128::from(turn) * slow_start.as_nanos() < since.as_nanos() << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_that_has_come_back_stays_back(key: u64, seed: u64, slow in 0..7_200_000_u64, one: u32, other: u32) {
            let slow_start = Duration::from_millis(slow);
            let (earlier, later) = (one.min(other), one.max(other));
            let is_back = |millis: u32| has_come_back(key, seed, Duration::from_millis(millis.into()), slow_start);
            prop_assert!(!is_back(earlier) || is_back(later));
        }

        #[test]
        fn all_are_back_at_the_end_and_none_at_the_beginning(key: u64, seed: u64, slow in 1..7_200_000_u64) {
            let slow_start = Duration::from_millis(slow);
            prop_assert!(!has_come_back(key, seed, Duration::ZERO, slow_start));
            prop_assert!(has_come_back(key, seed, slow_start, slow_start));
        }
    }

    #[test]
    fn the_share_of_a_servers_own_keys_grows_evenly() {
        let servers = [11, 22, 33].map(choice::mix);
        let is_own =
            |key: u64| servers.iter().all(|&seed| choice::mix(choice::mix(key) ^ seed) <= weight(key, servers[0]));
        let own: Vec<u64> = (0..100_000).filter(|key| is_own(*key)).collect();
        for tenths in 1..=10 {
            let since = Duration::from_secs(3 * tenths);
            let back =
                own.iter().filter(|key| has_come_back(**key, servers[0], since, Duration::from_secs(30))).count();
            let even = own.len() * usize::try_from(tenths).unwrap_or_default() / 10;
            assert!(back.abs_diff(even) * 50 < own.len(), "{back} of {} after {since:?}", own.len());
        }
    }

    fn weight(key: u64, seed: u64) -> u64 {
        choice::mix(choice::mix(key) ^ seed)
    }
}
