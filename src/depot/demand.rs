//! How much peers ask for each block: counts that decay.
//!
//! A request counts one when it comes and half as much after each [`HALF_LIFE`]. Only what peers ask counts, never this node's own reads, and a
//! peer that asks for the same block again counts only once every [`REPEAT_AFTER`], so that a single peer can't make a block popular.
//!
//! Invariant: a [`Table`] never has more blocks than it was made for; the coldest falls out. A table is pure: the time is an argument. That of
//! [`Demand`] never goes back: else what was counted would seem to grow, and nothing would fade until the clock has caught up.
//!
//! Deliberately absent: persistence. The store keeps lasting counters of each block; a rate is about the last hours, and after a restart it is
//! learnt again in less than one.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::PeerId;

use crate::id::BlockId;
use crate::time::{Clock, SteadyClock, Timestamp};

/// Time after which a request counts half.
pub const HALF_LIFE: Duration = Duration::from_secs(3600);
/// Blocks that were given and whose rates are known at most: about 5 MiB, 15 MiB when all have as many askers as are remembered.
pub const MAX_BLOCKS: usize = 16_384;
/// Blocks that were asked for and are not here, at most. Anybody can make up ids, so these have a table of their own.
pub const MAX_MISSED: usize = 4096;
/// Peers that asked for a block last and are remembered.
pub const MAX_ASKERS: usize = 8;
/// How long after a request the next one of the same peer for the same block does not count.
pub const REPEAT_AFTER: Duration = Duration::from_secs(600);

/// A block that is asked for, and how much.
#[derive(Clone, Debug, PartialEq)]
pub struct Hot {
    /// The block.
    pub id: BlockId,
    /// The decayed number of requests.
    pub rate: f64,
    /// Who asked last and when, the latest last; at most [`MAX_ASKERS`].
    pub askers: Vec<(PeerId, Timestamp)>,
}

/// The base-2 logarithm of a decayed count, as it would be at time 0. As all counts decay alike it changes only when something is
/// counted, and the order of two of them never changes by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Level(f64);

impl Eq for Level {}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Level {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl Level {
    fn one(now: Timestamp) -> Self {
        Self(half_lives(now))
    }

    fn plus(self, other: Self) -> Self {
        let (low, high) = (self.0.min(other.0), self.0.max(other.0));
        Self(high + (low - high).exp2().ln_1p() * std::f64::consts::LOG2_E)
    }

    fn rate(self, now: Timestamp) -> f64 {
        (self.0 - half_lives(now)).exp2()
    }
}

fn half_lives(now: Timestamp) -> f64 {
    now.0 as f64 / HALF_LIFE.as_millis() as f64
}

#[derive(Clone, Debug)]
struct Entry {
    level: Level,
    askers: Vec<(PeerId, Timestamp)>,
}

/// Decayed counts of a bounded number of blocks.
#[derive(Clone, Debug)]
pub struct Table {
    blocks: HashMap<BlockId, Entry>,
    order: BTreeSet<(Level, BlockId)>,
    max_blocks: usize,
}

impl Table {
    /// An empty one for at most so many blocks, at least one.
    pub fn new(max_blocks: usize) -> Self {
        Self {
            blocks: HashMap::new(),
            order: BTreeSet::new(),
            max_blocks: max_blocks.max(1),
        }
    }

    /// Blocks in the table.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// Counts a request. Returns whether it counted: not when the same peer asked a short time ago.
    pub fn count(&mut self, peer: PeerId, id: BlockId, now: Timestamp) -> bool {
        let one = Level::one(now);
        let Some(entry) = self.blocks.get_mut(&id) else {
            if self.blocks.len() >= self.max_blocks
                && let Some((_, coldest)) = self.order.pop_first()
            {
                self.blocks.remove(&coldest);
            }
            let entry = Entry {
                level: one,
                askers: vec![(peer, now)],
            };
            self.blocks.insert(id, entry);
            self.order.insert((one, id));
            return true;
        };
        if let Some(at) = entry.askers.iter().position(|(asker, _)| *asker == peer) {
            if now.since(entry.askers[at].1) < REPEAT_AFTER {
                return false;
            }
            entry.askers.remove(at);
        }
        if entry.askers.len() >= MAX_ASKERS {
            entry.askers.remove(0);
        }
        entry.askers.push((peer, now));
        self.order.remove(&(entry.level, id));
        entry.level = entry.level.plus(one);
        self.order.insert((entry.level, id));
        true
    }

    /// The decayed number of requests for a block; 0 for one that is not in the table.
    pub fn rate(&self, id: &BlockId, now: Timestamp) -> f64 {
        self.blocks
            .get(id)
            .map_or(0.0, |entry| entry.level.rate(now))
    }

    /// Up to `count` blocks that are asked for most, the hottest first.
    pub fn hottest(&self, count: usize, now: Timestamp) -> Vec<Hot> {
        let hottest = self.order.iter().rev().take(count);
        let hot = hottest.filter_map(|(level, id)| {
            let entry = self.blocks.get(id)?;
            Some(Hot {
                id: *id,
                rate: level.rate(now),
                askers: entry.askers.clone(),
            })
        });
        hot.collect()
    }

    /// Forgets a block, as when it is not here any more.
    pub fn forget(&mut self, id: &BlockId) {
        if let Some(entry) = self.blocks.remove(id) {
            self.order.remove(&(entry.level, *id));
        }
    }
}

struct Tables {
    given: Table,
    missed: Table,
    latest: Timestamp,
}

impl Tables {
    /// The time: never before what it was last.
    fn now(&mut self, clock: &dyn Clock) -> Timestamp {
        self.latest = self.latest.max(clock.now());
        self.latest
    }
}

/// What peers ask of this node. Filled by [`Server`](super::serve::Server).
pub struct Demand {
    clock: Arc<dyn Clock>,
    tables: Mutex<Tables>,
}

impl Default for Demand {
    fn default() -> Self {
        Self::new(Arc::new(SteadyClock::default()))
    }
}

impl fmt::Debug for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Demand").finish_non_exhaustive()
    }
}

impl Demand {
    /// Nothing was asked for so far. The clock should be one that nobody sets back: as long as it is behind itself, time stands still.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            tables: Mutex::new(Tables {
                given: Table::new(MAX_BLOCKS),
                missed: Table::new(MAX_MISSED),
                latest: Timestamp(0),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Tables> {
        // Nothing between two statements of a table can panic.
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what a peer asked for: blocks that it got, and blocks that are not here.
    pub fn count(&self, peer: PeerId, given: &[BlockId], missed: &[BlockId]) {
        if given.is_empty() && missed.is_empty() {
            return;
        }
        let mut tables = self.lock();
        let now = tables.now(&*self.clock);
        for id in given {
            tables.given.count(peer, *id, now);
        }
        for id in missed {
            tables.missed.count(peer, *id, now);
        }
    }

    /// The time by which is counted.
    pub fn now(&self) -> Timestamp {
        self.lock().now(&*self.clock)
    }

    /// The decayed number of peers' requests for a block, whether it was here or not.
    pub fn rate(&self, id: &BlockId) -> f64 {
        let mut tables = self.lock();
        let now = tables.now(&*self.clock);
        tables.given.rate(id, now) + tables.missed.rate(id, now)
    }

    /// Up to `count` blocks that were given most, the hottest first, with times by [`now`](Self::now). Some may have been dropped since.
    pub fn hottest(&self, count: usize) -> Vec<Hot> {
        let mut tables = self.lock();
        let now = tables.now(&*self.clock);
        tables.given.hottest(count, now)
    }

    /// Forgets that a block was given, because it is not here any more.
    pub fn forget(&self, id: &BlockId) {
        self.lock().given.forget(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::ManualClock;
    use libp2p::identity::Keypair;
    use proptest::prelude::*;
    use std::sync::LazyLock;

    const START: u64 = 1_700_000_000_000;

    fn id(number: u32) -> BlockId {
        let mut digest = [0; 48];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    /// Keys take long to make, and property tests need many.
    fn peer(number: u8) -> PeerId {
        static PEERS: LazyLock<Vec<PeerId>> = LazyLock::new(|| {
            let key = |n| Keypair::ed25519_from_bytes([n; 32]).expect("32 bytes");
            (0..64).map(|n| key(n).public().to_peer_id()).collect()
        });
        PEERS[usize::from(number)]
    }

    fn at(ms: u64) -> Timestamp {
        Timestamp(START + ms)
    }

    fn is_near(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-6 * a.abs().max(b.abs()).max(1e-9)
    }

    proptest! {
        #[test]
        fn the_table_is_bounded_and_keeps_the_hottest(asked in proptest::collection::vec((0u32..30, 0u8..4, 0u64..10_000_000), 0..200), max in 1usize..12) {
            let mut table = Table::new(max);
            let mut times: Vec<_> = asked.iter().map(|(.., ms)| *ms).collect();
            times.sort_unstable();
            for ((block, who, _), ms) in asked.iter().zip(times) {
                table.count(peer(*who), id(*block), at(ms));
                prop_assert!(table.len() <= max);
                prop_assert_eq!(table.order.len(), table.len());
            }
            let hot = table.hottest(usize::MAX, at(10_000_000));
            prop_assert_eq!(hot.len(), table.len());
            prop_assert!(hot.windows(2).all(|pair| pair[0].rate >= pair[1].rate));
            prop_assert!(hot.iter().all(|hot| hot.askers.len() <= MAX_ASKERS));
        }

        #[test]
        fn rates_only_fall_by_themselves(asked in proptest::collection::vec(0u64..50_000_000, 1..50), later in proptest::collection::vec(0u64..1_000_000_000, 1..20)) {
            let mut table = Table::new(1);
            for (ms, who) in asked.iter().zip(0..) {
                table.count(peer(who), id(1), at(*ms));
            }
            let mut later = later;
            later.sort_unstable();
            let rates: Vec<_> = later.iter().map(|ms| table.rate(&id(1), at(50_000_000 + ms))).collect();
            prop_assert!(rates.windows(2).all(|pair| pair[0] >= pair[1]));
            prop_assert!(rates.iter().all(|rate| *rate >= 0.0 && *rate <= asked.len() as f64 + 1e-6));
        }

        /// The sum is that of all requests by themselves, in whatever order they are counted.
        #[test]
        fn the_order_does_not_matter(asked in proptest::collection::vec(0u64..50_000_000, 1..40), seed in any::<u64>()) {
            let now = at(50_000_000);
            let mut shuffled = asked.clone();
            let len = shuffled.len();
            (0..len).for_each(|i| shuffled.swap(i, (seed as usize).wrapping_mul(i + 7) % len));
            let rate = |times: &[u64]| {
                let mut table = Table::new(3);
                for (ms, who) in times.iter().zip(0..) {
                    table.count(peer(who), id(1), at(*ms));
                }
                table.rate(&id(1), now)
            };
            let sum: f64 = asked.iter().map(|ms| (-((50_000_000 - ms) as f64) / HALF_LIFE.as_millis() as f64).exp2()).sum();
            prop_assert!(is_near(rate(&asked), sum));
            prop_assert!(is_near(rate(&shuffled), sum));
        }
    }

    #[test]
    fn a_request_counts_half_after_a_half_life() {
        let mut table = Table::new(9);
        table.count(peer(1), id(1), at(0));
        table.count(peer(2), id(1), at(0));
        assert!(is_near(table.rate(&id(1), at(0)), 2.0));
        let later = at(0).after(HALF_LIFE);
        assert!(is_near(table.rate(&id(1), later), 1.0));
        assert_eq!(table.rate(&id(2), later), 0.0);
    }

    #[test]
    fn one_peer_alone_makes_nothing_popular() {
        let mut table = Table::new(9);
        let repeat = REPEAT_AFTER.as_millis() as u64;
        assert!(table.count(peer(1), id(1), at(0)));
        for ms in 0..1000 {
            assert!(!table.count(peer(1), id(1), at(ms)));
        }
        assert!(!table.count(peer(1), id(1), at(repeat - 1)));
        assert!(table.count(peer(1), id(1), at(repeat)));
        assert!(table.rate(&id(1), at(repeat)) < 2.0);
        let askers = &table.hottest(1, at(repeat))[0].askers;
        assert_eq!(*askers, [(peer(1), at(repeat))]);
    }

    #[test]
    fn the_last_askers_are_remembered_up_to_the_limit() {
        let mut table = Table::new(1);
        for who in 0..=MAX_ASKERS as u8 {
            table.count(peer(who), id(1), at(who.into()));
        }
        let hot = table.hottest(9, at(100));
        assert_eq!(hot[0].askers.len(), MAX_ASKERS);
        assert_eq!(hot[0].askers[0].0, peer(1));
        assert_eq!(hot[0].askers[MAX_ASKERS - 1].0, peer(MAX_ASKERS as u8));
    }

    #[test]
    fn the_coldest_falls_out() {
        let mut table = Table::new(2);
        table.count(peer(1), id(1), at(0));
        table.count(peer(2), id(1), at(0));
        table.count(peer(1), id(2), at(0));
        table.count(peer(1), id(3), at(1));
        assert_eq!(table.rate(&id(2), at(1)), 0.0);
        assert!(table.rate(&id(1), at(1)) > 1.9);
        table.forget(&id(1));
        table.forget(&id(2));
        assert_eq!((table.len(), table.order.len()), (1, 1));
    }

    #[test]
    fn made_up_ids_push_nothing_out() {
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_millis(START));
        let demand = Demand::new(clock.clone());
        let given: Vec<_> = (0..MAX_BLOCKS as u32 + 1).map(id).collect();
        demand.count(peer(1), &given, &[]);
        let missed: Vec<_> = (1_000_000..1_000_000 + MAX_MISSED as u32 + 1)
            .map(id)
            .collect();
        demand.count(peer(1), &[], &missed);
        assert_eq!(demand.hottest(usize::MAX).len(), MAX_BLOCKS);
        assert_eq!(demand.lock().missed.len(), MAX_MISSED);
        let last = missed.last().expect("some");
        assert!(is_near(demand.rate(last), 1.0));
        demand.forget(&given[9]);
        assert_eq!(demand.hottest(usize::MAX).len(), MAX_BLOCKS - 1);
    }

    /// A clock that may go back.
    struct Settable(std::sync::atomic::AtomicU64);

    impl Clock for Settable {
        fn now(&self) -> Timestamp {
            Timestamp(self.0.load(std::sync::atomic::Ordering::Relaxed))
        }
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_hot() {
        let clock = Arc::new(Settable(START.into()));
        let set = |ms: u64| clock.0.store(ms, std::sync::atomic::Ordering::Relaxed);
        let demand = Demand::new(clock.clone());
        let half_life = HALF_LIFE.as_millis() as u64;
        demand.count(peer(1), &[id(1)], &[]);
        for back in [1000, half_life, 100 * half_life] {
            set(START - back);
            assert_eq!(demand.now(), Timestamp(START));
            assert!(is_near(demand.rate(&id(1)), 1.0), "it did not grow");
        }
        demand.count(peer(2), &[id(1)], &[]);
        let hot = demand.hottest(1);
        assert!(is_near(hot[0].rate, 2.0));
        assert_eq!(hot[0].askers[1].1, Timestamp(START));
        set(START + half_life);
        assert!(is_near(demand.rate(&id(1)), 1.0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_for_fades_whatever_the_machine_says_of_the_time() {
        let clock = SteadyClock::starting_at(Timestamp(START));
        let demand = Demand::new(Arc::new(clock));
        demand.count(peer(1), &[id(1)], &[id(2)]);
        tokio::time::advance(HALF_LIFE).await;
        assert!(is_near(demand.rate(&id(1)), 0.5));
        assert!(is_near(demand.rate(&id(2)), 0.5));
        // A peer that comes back after the time for that counts again.
        demand.count(peer(1), &[id(1)], &[]);
        assert!(is_near(demand.rate(&id(1)), 1.5));
    }
}
