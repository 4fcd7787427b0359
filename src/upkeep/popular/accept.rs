//! Which offered blocks to take: a pure function of the offer, the room, and what is under way.
//!
//! Copies for others take a share of the room for cached blocks, more of it for blocks that somebody is about to drop. Once the store is full, only
//! what is asked for more than the coldest block here is taken. That holds for what is handed over, too: else nodes that are all full would hand
//! cold blocks to each other for ever.
//!
//! Who is in no ring of ours gets a part of that share, all strangers together another, and less of what is fetched at the same time: a flood of
//! their offers leaves room for those of members. Once little is left, nothing is taken from free riders.

use std::collections::BTreeSet;

use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::net::exchange::Standing;
use crate::net::replica::{MAX_OFFERED, Refusal, Why, Wish};

/// Limits of what is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most blocks that one peer offered and that are being fetched.
    pub in_flight_per_peer: usize,
    /// Most blocks that strangers offered and that are being fetched.
    pub in_flight_of_strangers: usize,
    /// Most blocks that anybody offered and that are being fetched.
    pub in_flight: usize,
    /// Part of the room for cached blocks that popular copies may take: one in so many.
    pub popular_share: u64,
    /// Part of it that copies may take with those that are handed over: one in so many.
    pub hand_over_share: u64,
    /// Part of either that what one stranger offered may take: one in so many.
    pub stranger_share: u64,
    /// Part of either that is left to members: one in so many.
    pub member_share: u64,
    /// Part of the quota that stays free of copies for others: one in so many.
    pub spare_share: u64,
    /// Once so many hundredths of the quota, or of what copies may take, are used nothing is taken from free riders.
    pub nearly_full_percent: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            in_flight_per_peer: 48,
            in_flight_of_strangers: 96,
            in_flight: 144,
            popular_share: 4,
            hand_over_share: 2,
            stranger_share: 8,
            member_share: 4,
            spare_share: 16,
            nearly_full_percent: 80,
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
    /// Those of them that the peer offered.
    pub of_peer: u64,
    /// Those of them that strangers offered.
    pub of_strangers: u64,
    /// Decayed number of requests for the coldest cached block; infinite when there is none.
    pub coldest: f64,
}

/// What is under way, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// From the peer that offers.
    pub of_peer: usize,
    /// From strangers.
    pub of_strangers: usize,
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

/// Room and load as they get with each block that is taken.
struct Scales<'a> {
    standing: Standing,
    most_taken: u64,
    /// What is free and need not stay so.
    free: u64,
    room: Room,
    load: Load,
    limits: &'a Limits,
}

impl<'a> Scales<'a> {
    fn new(why: Why, standing: Standing, room: &Room, load: &Load, limits: &'a Limits) -> Self {
        let share = match why {
            Why::Popular => limits.popular_share,
            Why::HandOver => limits.hand_over_share,
        };
        let spare = room.quota / limits.spare_share.max(1);
        Self {
            standing,
            most_taken: (room.cached.saturating_add(room.free)) / share.max(1),
            free: room.free.saturating_sub(spare),
            room: *room,
            load: *load,
            limits,
        }
    }

    const fn is_stranger(&self) -> bool {
        !matches!(self.standing, Standing::Member)
    }

    /// Whether too little is left for those who only take.
    fn is_nearly_full(&self) -> bool {
        let is_near = |used: u64, of: u64| {
            u128::from(used) * 100 >= u128::from(of) * u128::from(self.limits.nearly_full_percent)
        };
        let used = self.room.quota.saturating_sub(self.room.free);
        is_near(used, self.room.quota) || is_near(self.room.taken, self.most_taken)
    }

    /// Why a block of this size is not taken, whatever block it is.
    fn refuse(&self, bytes: u64) -> Option<Refusal> {
        if bytes == 0 || bytes > MAX_BLOCK_BYTES as u64 {
            return Some(Refusal::Invalid);
        }
        let (load, limits) = (&self.load, self.limits);
        if load.of_peer >= limits.in_flight_per_peer || load.all >= limits.in_flight {
            return Some(Refusal::Busy);
        }
        let is_beyond = |taken: u64, most: u64| taken.saturating_add(bytes) > most;
        if is_beyond(self.room.taken, self.most_taken) {
            return Some(Refusal::Full);
        }
        if self.is_stranger() {
            if load.of_strangers >= limits.in_flight_of_strangers {
                return Some(Refusal::Busy);
            }
            let most_of_one = self.most_taken / limits.stranger_share.max(1);
            let most_of_all = self.most_taken - self.most_taken / limits.member_share.max(1);
            if is_beyond(self.room.of_peer, most_of_one)
                || is_beyond(self.room.of_strangers, most_of_all)
            {
                return Some(Refusal::Full);
            }
        }
        (self.standing == Standing::FreeRider && self.is_nearly_full()).then_some(Refusal::Full)
    }

    fn take(&mut self, bytes: u64) {
        let (room, load) = (&mut self.room, &mut self.load);
        self.free = self.free.saturating_sub(bytes);
        room.free = room.free.saturating_sub(bytes);
        room.taken = room.taken.saturating_add(bytes);
        room.of_peer = room.of_peer.saturating_add(bytes);
        load.of_peer += 1;
        load.all += 1;
        if self.is_stranger() {
            let room = &mut self.room;
            room.of_strangers = room.of_strangers.saturating_add(bytes);
            self.load.of_strangers += 1;
        }
    }
}

/// What to say to blocks of these sizes without a look whether they are here: nothing if one of them may be taken.
pub fn turn_away(
    why: Why,
    standing: Standing,
    sizes: impl IntoIterator<Item = u32>,
    room: &Room,
    load: &Load,
    limits: &Limits,
) -> Option<Refusal> {
    let scales = Scales::new(why, standing, room, load, limits);
    let mut refusals = sizes.into_iter().map(|bytes| scales.refuse(bytes.into()));
    let first = refusals.next()??;
    // Of several reasons the one that is over soonest.
    refusals.try_fold(first, |worst, refusal| {
        let refusal = refusal?;
        Some(match (worst, refusal) {
            (Refusal::Busy, _) | (_, Refusal::Busy) => Refusal::Busy,
            (Refusal::Full, _) | (_, Refusal::Full) => Refusal::Full,
            (worst, _) => worst,
        })
    })
}

/// What to say to each block of a peer that stands so. Those that are wanted are to be fetched unless they are coming already.
pub fn decide(
    why: Why,
    standing: Standing,
    offered: &[Offered],
    room: &Room,
    load: &Load,
    limits: &Limits,
) -> Vec<Wish> {
    let mut scales = Scales::new(why, standing, room, load, limits);
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
        if let Some(refusal) = scales.refuse(bytes) {
            return Wish::Refuse(refusal);
        }
        let is_hotter = block.rate > room.coldest;
        if bytes > scales.free && !is_hotter {
            return Wish::Refuse(Refusal::Full);
        }
        scales.take(bytes);
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
            of_peer: 0,
            of_strangers: 0,
            coldest: 0.0,
        }
    }

    fn say(why: Why, offered: &[Offered], room: &Room) -> Vec<Wish> {
        say_to(Standing::Member, why, offered, room)
    }

    fn say_to(standing: Standing, why: Why, offered: &[Offered], room: &Room) -> Vec<Wish> {
        let (load, limits) = (Load::default(), Limits::default());
        decide(why, standing, offered, room, &load, &limits)
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
            of_strangers: 99,
            all: 99,
        };
        let wishes = decide(
            Why::Popular,
            Standing::FreeRider,
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
        let say = |standing, of_peer, of_strangers, all| {
            let load = Load {
                of_peer,
                of_strangers,
                all,
            };
            let block = [block(1, 9)];
            let early = turn_away(Why::Popular, standing, [9], &room(), &load, &limits);
            let wish = decide(Why::Popular, standing, &block, &room(), &load, &limits)[0];
            assert_eq!(early.map(Wish::Refuse), Some(wish).filter(|w| *w == BUSY));
            wish
        };
        let (member, stranger) = (Standing::Member, Standing::Newcomer);
        let (most, of_one, of_strangers) = (
            limits.in_flight,
            limits.in_flight_per_peer,
            limits.in_flight_of_strangers,
        );
        assert_eq!(say(member, of_one - 1, of_strangers, most - 1), Wish::Want);
        assert_eq!(say(member, of_one, 0, 0), BUSY);
        assert_eq!(say(member, 0, 0, most), BUSY);
        assert_eq!(say(stranger, 0, of_strangers - 1, 0), Wish::Want);
        assert_eq!(say(stranger, 0, of_strangers, of_strangers), BUSY);
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
    fn strangers_take_only_a_part_of_the_share() {
        let two = [block(1, MIB as u32), block(2, MIB as u32)];
        for (why, of_one, of_all) in [
            (Why::Popular, 50 * MIB, 300 * MIB),
            (Why::HandOver, 100 * MIB, 600 * MIB),
        ] {
            let at = |of_peer, of_strangers| Room {
                taken: of_strangers,
                of_peer,
                of_strangers,
                ..room()
            };
            for room in [at(of_one - MIB, of_one), at(0, of_all - MIB)] {
                let stranger = say_to(Standing::Even, why, &two, &room);
                assert_eq!(stranger, [Wish::Want, FULL]);
                assert_eq!(say(why, &two, &room), [Wish::Want, Wish::Want]);
            }
        }
    }

    #[test]
    fn when_little_is_left_nothing_is_taken_from_free_riders() {
        let one = [block(1, 9)];
        let limits = Limits::default();
        let full = Room {
            free: 320 * MIB,
            cached: 0,
            ..room()
        };
        let copied = Room {
            taken: 320 * MIB,
            ..room()
        };
        let less = |room: Room| Room {
            free: room.free + MIB,
            taken: room.taken.saturating_sub(MIB),
            ..room
        };
        let say = |standing, room: &Room| {
            let (why, load) = (Why::Popular, Load::default());
            let early = turn_away(why, standing, [9], room, &load, &limits);
            let wish = decide(why, standing, &one, room, &load, &limits)[0];
            assert_eq!(early.map(Wish::Refuse), Some(wish).filter(|w| *w == FULL));
            wish
        };
        for room in [full, copied] {
            assert_eq!(say(Standing::FreeRider, &room), FULL);
            assert_eq!(say(Standing::FreeRider, &less(room)), Wish::Want);
            for standing in [Standing::Newcomer, Standing::Even, Standing::Member] {
                assert_eq!(say(standing, &room), Wish::Want, "{standing:?}");
            }
        }
    }

    #[test]
    fn of_several_reasons_the_one_that_is_over_soonest_is_told() {
        let limits = Limits::default();
        let away = |sizes: &[u32], room: &Room| {
            let sizes = sizes.iter().copied();
            let load = Load::default();
            turn_away(Why::Popular, Standing::Even, sizes, room, &load, &limits)
        };
        let beyond = Room {
            of_peer: u64::MAX,
            ..room()
        };
        assert_eq!(away(&[0, 9], &beyond), Some(Refusal::Full));
        assert_eq!(away(&[0, 0], &beyond), Some(Refusal::Invalid));
        assert_eq!(away(&[0, 9], &room()), None);
        assert_eq!(away(&[], &room()), None);
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
            numbers in any::<[u64; 6]>(),
            coldest in any::<f64>(),
            standing in prop_oneof![
                Just(Standing::FreeRider),
                Just(Standing::Newcomer),
                Just(Standing::Even),
                Just(Standing::Member),
            ],
            of_peer in 0usize..20,
            of_strangers in 0usize..70,
            all in 0usize..70,
        ) {
            let [quota, free, cached, taken, peers, strangers] = numbers;
            let room = Room { quota, free, cached, taken, of_peer: peers, of_strangers: strangers, coldest };
            let limits = Limits::default();
            let why = if is_popular { Why::Popular } else { Why::HandOver };
            let load = Load { of_peer, of_strangers, all };
            let wishes = decide(why, standing, &offered, &room, &load, &limits);
            prop_assert_eq!(wishes.len(), offered.len());
            let mut new = BTreeSet::new();
            let mut bytes = 0u64;
            for (block, wish) in offered.iter().zip(&wishes) {
                if *wish == Wish::Want && !block.is_coming && new.insert(block.id) {
                    prop_assert!(!block.is_here);
                    bytes += u64::from(block.bytes);
                }
            }
            let sizes = offered.iter().map(|block| block.bytes);
            if turn_away(why, standing, sizes, &room, &load, &limits).is_some() {
                prop_assert!(new.is_empty(), "what is turned away early would not be taken later");
            }
            if !new.is_empty() {
                prop_assert!(of_peer + new.len() <= limits.in_flight_per_peer);
                prop_assert!(all + new.len() <= limits.in_flight);
                let most = cached.saturating_add(free) / 2;
                prop_assert!(taken.saturating_add(bytes) <= most);
                if standing != Standing::Member {
                    prop_assert!(of_strangers + new.len() <= limits.in_flight_of_strangers);
                    prop_assert!(peers.saturating_add(bytes) <= most / limits.stranger_share);
                    prop_assert!(strangers.saturating_add(bytes) <= most - most / limits.member_share);
                }
            }
        }
    }
}
