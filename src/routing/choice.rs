//! Which member of a pool serves a mailbox: always the same one, on every edge, without any edge telling another.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each member's weight is a hash of mailbox and member; the highest
//! weight wins. Take a member away and only its own mailboxes move, spread over the rest; put it back and they return.

use super::topology::{Server, ServerId};

/// The living member with the highest weight for this key; `None` if no member lives.
///
/// `key` is the mailbox's [`key`](super::mailbox::Mailbox::key), or for a request without a mailbox a number that stays
/// the same for its client. `members` may come in any order.
pub fn choose<'t>(
    key: u64,
    members: impl Iterator<Item = (ServerId, &'t Server)>,
    alive: impl Fn(ServerId) -> bool,
) -> Option<ServerId> {
    let key = mix(key);
    members.filter(|(id, _)| alive(*id)).max_by_key(|(_, server)| mix(key ^ server.hash_seed)).map(|(id, _)| id)
}

/// FNV-1a of the name without ASCII case. Part of the contract between edges: changing it moves every mailbox.
pub(super) fn hash_of_name(name: &str) -> u64 {
    const OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    name.bytes().fold(OFFSET_BASIS, |hash, byte| (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(PRIME))
}

/// The finalizer of `SplitMix64` (Steele, Lea and Flood, 2014): every bit of the input changes half the output's.
pub(crate) fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

#[cfg(test)]
#[allow(clippy::expect_used)] // a test may fail by panicking
mod tests {
    use super::*;
    use crate::routing::{
        topology::{Topology, TopologyParts},
        version::Version,
    };

    const KEYS: u64 = 100_000;

    #[test]
    fn the_choice_is_the_same_whatever_the_order_of_the_members() {
        let pool = pool(5);
        for key in 0..1_000 {
            let forwards = choose(key, members(&pool), |_| true);
            let backwards = choose(key, members(&pool).collect::<Vec<_>>().into_iter().rev(), |_| true);
            assert_eq!(forwards, backwards);
        }
    }

    #[test]
    fn the_choice_is_the_same_on_every_edge_and_build() {
        let pool = pool(3);
        let chosen: Vec<_> = (0..12).filter_map(|key| choose(key, members(&pool), |_| true)).map(|id| id.0).collect();
        assert_eq!(hash_of_name("cas-1.contoso.com"), hash_of_name("CAS-1.contoso.com"));
        assert_eq!(hash_of_name("a"), 0xaf63_dc4c_8601_ec8c, "the published FNV-1a test vector");
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf, "the first number of SplitMix64 seeded with 0");
        assert_eq!(
            chosen,
            [2, 2, 2, 0, 2, 2, 0, 2, 1, 2, 0, 1],
            "another hash would move every mailbox while half the edges are upgraded"
        );
    }

    #[test]
    fn a_dead_members_mailboxes_spread_over_the_others_and_nobody_elses_move() {
        let pool = pool(4);
        let dead = ServerId(1);
        let mut taken_over = [0_u32; 4];
        for key in 0..KEYS {
            let before = choose(key, members(&pool), |_| true).expect("a living member");
            let after = choose(key, members(&pool), |id| id != dead).expect("a living member");
            if before == dead {
                taken_over[after.0] += 1;
            } else {
                assert_eq!(before, after);
            }
        }
        assert_eq!(taken_over[dead.0], 0);
        assert_even(&[taken_over[0], taken_over[2], taken_over[3]]);
    }

    #[test]
    fn mailboxes_come_home_when_their_member_returns() {
        let (before, returned) = (pool(3), pool(3));
        let without = pool(2);
        for key in 0..1_000 {
            let home = choose(key, members(&before), |_| true);
            let meanwhile = choose(key, members(&without), |_| true);
            assert!(meanwhile == home || home == Some(ServerId(2)));
            assert_eq!(choose(key, members(&returned), |_| true), home);
        }
    }

    #[test]
    fn mailboxes_spread_evenly_over_two_to_five_members() {
        for count in 2..=5 {
            let pool = pool(count);
            let mut chosen = vec![0_u32; count];
            for key in 0..KEYS {
                chosen[choose(key, members(&pool), |_| true).expect("a living member").0] += 1;
            }
            assert_even(&chosen);
        }
    }

    #[test]
    fn no_member_alive_means_no_choice() {
        assert_eq!(choose(7, members(&pool(3)), |_| false), None);
        assert_eq!(choose(7, members(&pool(0)), |_| true), None);
    }

    fn assert_even(counts: &[u32]) {
        let even = f64::from(counts.iter().sum::<u32>()) / f64::from(u32::try_from(counts.len()).expect("few members"));
        for &count in counts {
            assert!((f64::from(count) / even - 1.0).abs() < 0.03, "{counts:?} is not even");
        }
    }

    fn members(pool: &Topology) -> impl Iterator<Item = (ServerId, &Server)> {
        pool.servers().iter().enumerate().map(|(id, server)| (ServerId(id), server))
    }

    fn pool(count: usize) -> Topology {
        let server = |number| Server {
            name: format!("cas-{number}"),
            fqdn: format!("cas-{number}.contoso.com"),
            legacy_dn: String::new(),
            site_name: None,
            site: None,
            version: Version { major: 8, minor: 3, build: 83 },
            client_access: true,
            hash_seed: 0,
            virtual_directories: Default::default(),
        };
        Topology::new(TopologyParts { servers: (0..count).map(server).collect(), ..TopologyParts::default() })
    }
}
