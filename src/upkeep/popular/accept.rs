//! Which offered blocks to take: a pure function of the offer, the room, and what is under way.
//!
//! Copies for others take a share of the room for cached blocks, more of it for blocks that somebody is about to drop. Once the store is full, only
//! what is asked for more than the coldest block here is taken. That holds for what is handed over, too: else nodes that are all full would hand
//! cold blocks to each other for ever.

use std::collections::BTreeSet;

use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::net::replica::{MAX_OFFERED, Refusal, Why, Wish};

/// Limits of what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most blocks that one peer offered and that are being fetched.
    pub in_flight_per_peer: usize,
    /// Most blocks that anybody offered and that are being fetched.
    pub in_flight: usize,
    /// Part of the room for cached blocks that popular copies may take: one in so many.
    pub popular_share: u64,
    /// Part of it that copies may take with those that are handed over: one in so many.
    pub hand_over_share: u64,
    /// Part of either that what one stranger offered may take: one in so many.
    pub stranger_share: u64,
    /// Part of the quota that stays free of copies for others: one in so many.
    pub spare_share: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_per_peer: 48,
            in_flight: 144,
            popular_share: 4,
            hand_over_share: 2,
            stranger_share: 8,
            spare_share: 16,
        }
    }
}

/// How much room there is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    /// The quota.
    pub quota: u64,
    /// What is not used of it.
    pub free: u64,
    /// Cached blocks.
    pub cached: u64,
    /// Cached blocks that others offered, and those that are on their way.
    pub taken: u64,
    /// Those of them that the peer offered, when it is no member of a ring of ours.
    pub of_stranger: Option<u64>,
    /// Decayed number of requests for the coldest cached block; infinite when there is none.
    pub coldest: f64,
}

/// What is under way, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// From the peer that offers.
    pub of_peer: usize,
    /// From all.
    pub all: usize,
}

/// A block that is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offered {
    /// The block.
    pub id: BlockId,
    /// Its size as the peer says.
    pub bytes: u32,
    /// Whether it is here, durably.
    pub is_here: bool,
    /// Whether it is being fetched because of an offer.
    pub is_coming: bool,
    /// Decayed number of requests for it that came to this node.
    pub rate: f64,
}

/// What to say to each block. Those that are wanted are to be fetched unless they are coming already.
pub fn decide(
    why: Why,
    offered: &[Offered],
    room: &Room,
    load: &Load,
    limits: &Limits,
) -> Vec<Wish> {
    let share = match why {
        Why::Popular => limits.popular_share,
        Why::HandOver => limits.hand_over_share,
    };
    let most_taken = (room.cached.saturating_add(room.free)) / share.max(1);
    let spare = room.quota / limits.spare_share.max(1);
    let mut free = room.free.saturating_sub(spare);
    let (mut taken, mut of_stranger) = (room.taken, room.of_stranger);
    let most_of_stranger = most_taken / limits.stranger_share.max(1);
    let mut load = *load;
    let mut seen: BTreeSet<BlockId> = BTreeSet::new();
    let wish = |(at, block): (usize, &Offered)| {
        let bytes = u64::from(block.bytes);
        if at >= MAX_OFFERED || bytes == 0 || bytes > MAX_BLOCK_BYTES as u64 {
            return Wish::Refuse(Refusal::Invalid);
        }
        if block.is_here {
            return Wish::Have;
        }
        if block.is_coming || seen.contains(&block.id) {
            return Wish::Want;
        }
        if load.of_peer >= limits.in_flight_per_peer || load.all >= limits.in_flight {
            return Wish::Refuse(Refusal::Busy);
        }
        let fits = bytes <= free || block.rate > room.coldest;
        let is_too_much = of_stranger.is_some_and(|of| of.saturating_add(bytes) > most_of_stranger);
        if !fits || is_too_much || taken.saturating_add(bytes) > most_taken {
            return Wish::Refuse(Refusal::Full);
        }
        free = free.saturating_sub(bytes);
        taken = taken.saturating_add(bytes);
        of_stranger = of_stranger.map(|of| of.saturating_add(bytes));
        load.of_peer += 1;
        load.all += 1;
        seen.insert(block.id);
        Wish::Want
    };
    offered.iter().enumerate().map(wish).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn id(number: u16) -> BlockId {
        let mut digest = [0; 48];
        digest[..2].copy_from_slice(&number.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    fn block(number: u16, bytes: u32) -> Offered {
        Offered {
            id: id(number),
            bytes,
            is_here: false,
            is_coming: false,
            rate: 0.0,
        }
    }

    fn room() -> Room {
        Room {
            quota: 1600 * MIB,
            free: 1500 * MIB,
            cached: 100 * MIB,
            taken: 0,
            of_stranger: None,
            coldest: 0.0,
        }
    }

    fn say(why: Why, offered: &[Offered], room: &Room) -> Vec<Wish> {
        decide(why, offered, room, &Load::default(), &Limits::default())
    }

    const FULL: Wish = Wish::Refuse(Refusal::Full);
    const INVALID: Wish = Wish::Refuse(Refusal::Invalid);
    const BUSY: Wish = Wish::Refuse(Refusal::Busy);

    #[test]
    fn what_can_not_be_a_block_is_refused() {
        let most = MAX_BLOCK_BYTES as u32;
        let offered = [
            block(1, 0),
            block(2, most),
            block(3, most + 1),
            block(4, u32::MAX),
        ];
        let wishes = say(Why::Popular, &offered, &room());
        assert_eq!(wishes, [INVALID, Wish::Want, INVALID, INVALID]);
        assert!(say(Why::Popular, &[], &room()).is_empty());
    }

    #[test]
    fn what_is_here_or_coming_costs_nothing() {
        let here = Offered {
            is_here: true,
            ..block(1, 9)
        };
        let coming = Offered {
            is_coming: true,
            ..block(2, 9)
        };
        let none = Room {
            free: 0,
            cached: 0,
            coldest: f64::INFINITY,
            ..room()
        };
        let load = Load {
            of_peer: 99,
            all: 99,
        };
        let wishes = decide(
            Why::Popular,
            &[here, coming],
            &none,
            &load,
            &Limits::default(),
        );
        assert_eq!(wishes, [Wish::Have, Wish::Want]);
    }

    #[test]
    fn a_block_that_is_offered_twice_counts_once() {
        let most = Limits::default().in_flight_per_peer as u16;
        let again = MAX_OFFERED as u16 - most - 1;
        let offered: Vec<_> = (0..=most).chain(0..again).map(|n| block(n, 9)).collect();
        let wishes = say(Why::HandOver, &offered, &room());
        assert_eq!(wishes[usize::from(most)], BUSY);
        let others = wishes.iter().filter(|wish| **wish == Wish::Want);
        assert_eq!(others.count(), MAX_OFFERED - 1);
    }

    #[test]
    fn more_than_may_be_under_way_is_put_off() {
        let limits = Limits::default();
        let say = |of_peer, all| {
            let load = Load { of_peer, all };
            decide(Why::Popular, &[block(1, 9)], &room(), &load, &limits)[0]
        };
        assert_eq!(
            say(limits.in_flight_per_peer - 1, limits.in_flight - 1),
            Wish::Want
        );
        assert_eq!(say(limits.in_flight_per_peer, 0), BUSY);
        assert_eq!(say(0, limits.in_flight), BUSY);
    }

    #[test]
    fn the_share_is_kept_and_larger_for_what_is_handed_over() {
        let bytes = MIB as u32;
        let at = |taken| Room { taken, ..room() };
        let popular = 400 * MIB;
        assert_eq!(
            say(Why::Popular, &[block(1, bytes)], &at(popular - MIB)),
            [Wish::Want]
        );
        assert_eq!(
            say(Why::Popular, &[block(1, bytes)], &at(popular - MIB + 1)),
            [FULL]
        );
        assert_eq!(
            say(Why::HandOver, &[block(1, bytes)], &at(2 * popular - MIB)),
            [Wish::Want]
        );
        assert_eq!(
            say(Why::HandOver, &[block(1, bytes)], &at(2 * popular)),
            [FULL]
        );
        // The second does not fit any more.
        let two = [block(1, bytes), block(2, bytes)];
        assert_eq!(
            say(Why::Popular, &two, &at(popular - MIB)),
            [Wish::Want, FULL]
        );
    }

    #[test]
    fn one_stranger_takes_only_a_part_of_the_share() {
        let at = |of| Room {
            taken: 60 * MIB,
            of_stranger: Some(of),
            ..room()
        };
        let two = [block(1, MIB as u32), block(2, MIB as u32)];
        for (why, most) in [(Why::Popular, 50 * MIB), (Why::HandOver, 100 * MIB)] {
            assert_eq!(say(why, &two, &at(most - MIB)), [Wish::Want, FULL]);
            let member = Room {
                of_stranger: None,
                ..at(0)
            };
            assert_eq!(say(why, &two, &member), [Wish::Want, Wish::Want]);
        }
    }

    #[test]
    fn a_full_store_takes_only_what_is_hotter() {
        let full = Room {
            free: 100 * MIB,
            cached: 1500 * MIB,
            coldest: 2.0,
            ..room()
        };
        let at = |rate| Offered {
            rate,
            ..block(1, 9)
        };
        for why in [Why::Popular, Why::HandOver] {
            assert_eq!(say(why, &[at(2.0)], &full), [FULL]);
            assert_eq!(say(why, &[at(2.1)], &full), [Wish::Want]);
        }
        let nothing_to_evict = Room {
            coldest: f64::INFINITY,
            ..full
        };
        assert_eq!(say(Why::Popular, &[at(1e9)], &nothing_to_evict), [FULL]);
        let unknown = Room {
            coldest: f64::NAN,
            ..full
        };
        assert_eq!(say(Why::Popular, &[at(1e9)], &unknown), [FULL]);
    }

    fn any_offer() -> impl Strategy<Value = Vec<Offered>> {
        let size = prop_oneof![Just(0), 1..=MAX_BLOCK_BYTES as u32, any::<u32>()];
        let one = (0u16..40, size, any::<bool>(), any::<bool>(), any::<f64>());
        let one = one.prop_map(|(n, bytes, is_here, is_coming, rate)| Offered {
            id: id(n),
            bytes,
            is_here,
            is_coming,
            rate,
        });
        proptest::collection::vec(one, 0..MAX_OFFERED + 3)
    }

    proptest! {
        #[test]
        fn no_limit_is_ever_passed(
            offered in any_offer(),
            is_popular in any::<bool>(),
            numbers in any::<[u64; 4]>(),
            coldest in any::<f64>(),
            of_peer in 0usize..20,
            all in 0usize..70,
        ) {
            let [quota, free, cached, taken] = numbers;
            let of_stranger = is_popular.then_some(taken);
            let room = Room { quota, free, cached, taken, of_stranger, coldest };
            let limits = Limits::default();
            let why = if is_popular { Why::Popular } else { Why::HandOver };
            let wishes = decide(why, &offered, &room, &Load { of_peer, all }, &limits);
            prop_assert_eq!(wishes.len(), offered.len());
            let mut new = BTreeSet::new();
            let mut bytes = 0u64;
            for (block, wish) in offered.iter().zip(&wishes) {
                if *wish == Wish::Want && !block.is_coming && new.insert(block.id) {
                    prop_assert!(!block.is_here);
                    bytes += u64::from(block.bytes);
                }
            }
            if !new.is_empty() {
                prop_assert!(of_peer + new.len() <= limits.in_flight_per_peer);
                prop_assert!(all + new.len() <= limits.in_flight);
                prop_assert!(taken.saturating_add(bytes) <= cached.saturating_add(free) / 2);
            }
        }
    }
}
