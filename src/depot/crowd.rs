//! Who of a session's peers has which block, and what follows from it: which block to fetch next, from whom, and when to wait. Pure.
//!
//! Peers that fetch the same bundle at the same time have parts of it. A session asks them now and then which of the blocks it wants next they
//! have by now, fetches from them what they have, and leaves those that have everything to the blocks that nobody else has. For the blocks that no
//! part of the crowd has yet, all members work out alike, from their ids alone, whose turn it is to bring them in: each fetches its own
//! first and waits a little for those of others. Whoever lies about what it has, or brings nothing in, costs that little wait.
//!
//! Times are since the session began.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

use libp2p::PeerId;

use crate::id::BlockId;
use crate::net::exchange::MAX_IDS;

/// Blocks that are looked ahead at most: within them the order of fetching is free.
pub(super) const MAX_AHEAD: usize = 256;
/// Peers whose blocks are remembered.
const MAX_STOCKS: usize = 64;
/// Blocks of one peer that are remembered before those no longer wanted are forgotten.
const MAX_STOCK: usize = 4 * MAX_AHEAD;
/// Blocks that a peer said it has and then had not: from so many on it is not believed.
const MAX_BROKEN: u32 = 8;
/// A peer that said for so long nothing of new blocks brings nothing in.
const GAINING: Duration = Duration::from_secs(3);
/// How long to wait for a block that another one brings in; for one that comes after several others at most [`MAX_WAIT_TURNS`] times that.
const MAX_WAIT: Duration = Duration::from_secs(1);
const MAX_WAIT_TURNS: u32 = 3;
/// Waits in vain make the next ones shorter, down to this.
const MIN_WAIT: Duration = Duration::from_millis(30);

/// What a peer is to one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It has the block and lacks others: it is to be asked first.
    Holder,
    /// Nothing is known that it lacks.
    Source,
    /// It is not known to have the block and lacks others.
    Without,
}

/// What one peer said.
#[derive(Debug, Default)]
struct Stock {
    number: u64,
    has: HashSet<BlockId>,
    /// It was once without a block.
    is_partial: bool,
    /// It was asked about many blocks at once.
    is_sized_up: bool,
    gained_at: Option<Duration>,
    /// Blocks that it said it has and had not.
    broken: u32,
}

impl Stock {
    fn is_believed(&self) -> bool {
        self.broken < MAX_BROKEN
    }

    fn is_gaining(&self, now: Duration) -> bool {
        self.is_partial && self.gained_at.is_some_and(|at| now < at + GAINING)
    }

    fn holds(&self, id: &BlockId) -> bool {
        self.is_partial && self.has.contains(id)
    }
}

/// Numbers of peers by block: the sum over all stocks would have to be made for each of many blocks, again and again.
#[derive(Debug, Default)]
struct Holders(HashMap<BlockId, usize>);

impl Holders {
    fn add<'a>(&mut self, ids: impl IntoIterator<Item = &'a BlockId>) {
        for id in ids {
            *self.0.entry(*id).or_default() += 1;
        }
    }

    fn remove<'a>(&mut self, ids: impl IntoIterator<Item = &'a BlockId>) {
        for id in ids {
            if let Entry::Occupied(mut count) = self.0.entry(*id) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }

    fn count(&self, id: &BlockId) -> usize {
        self.0.get(id).copied().unwrap_or(0)
    }
}

/// What is known of the blocks of a session's peers.
#[derive(Debug)]
pub(super) struct Crowd {
    own: u64,
    stocks: HashMap<PeerId, Stock>,
    /// How many peers with a part have each block.
    holders: Holders,
    /// Blocks that will be wanted next.
    ahead: Vec<BlockId>,
    /// Blocks that are wanted now.
    under_way: HashSet<BlockId>,
    wait: Duration,
    /// When it was changed.
    judged_at: Duration,
}

impl Crowd {
    pub(super) fn new(own: PeerId) -> Self {
        Self {
            own: number(&own),
            stocks: HashMap::new(),
            holders: Holders::default(),
            ahead: Vec::new(),
            under_way: HashSet::new(),
            wait: MAX_WAIT,
            judged_at: Duration::ZERO,
        }
    }

    /// Which of the blocks that are wanted next is to be fetched first, as an index: those that this node is to bring in, then those that others
    /// have, the rarest first, then the rest. The order is another one in each node, so that nodes that know nothing of each other yet
    /// don't all fetch the same blocks. Of more than [`MAX_AHEAD`] only the first count.
    pub(super) fn first(&mut self, ids: &[BlockId], now: Duration) -> usize {
        let ids = ids.get(..MAX_AHEAD).unwrap_or(ids);
        let first = (0..ids.len())
            .min_by_key(|at| {
                let id = &ids[*at];
                let holders = self.holders.count(id);
                let turn = if holders == 0 { self.turn(id, now) } else { 0 };
                (turn, holders, weight(self.own, id))
            })
            .unwrap_or(0);
        self.ahead.clear();
        self.ahead.extend_from_slice(ids);
        first
    }

    /// A block is wanted from now on. Bounded by the reads of the session.
    pub(super) fn begin(&mut self, id: BlockId) {
        self.under_way.insert(id);
    }

    /// It is not any more.
    pub(super) fn end(&mut self, id: &BlockId) {
        self.under_way.remove(id);
    }

    /// A peer has or lacks a block.
    pub(super) fn heard(&mut self, peer: PeerId, id: BlockId, has: bool, now: Duration) {
        if !self.stocks.contains_key(&peer) && self.stocks.len() >= MAX_STOCKS {
            return;
        }
        let stock = self.stocks.entry(peer).or_insert_with(|| Stock {
            number: number(&peer),
            ..Stock::default()
        });
        if !has {
            if !stock.is_partial {
                stock.is_partial = true;
                self.holders.add(&stock.has);
            }
            if stock.has.remove(&id) {
                self.holders.remove([&id]);
                stock.broken += 1;
            }
            if !stock.is_believed() {
                self.holders.remove(&stock.has);
                stock.has.clear();
                stock.gained_at = None;
            }
        } else if !stock.is_believed() {
            // It says so again and again.
        } else if stock.has.insert(id) {
            stock.gained_at = Some(now);
            if stock.is_partial {
                self.holders.add([&id]);
            }
            if stock.has.len() > MAX_STOCK {
                let wanted: HashSet<&BlockId> = self.ahead.iter().chain(&self.under_way).collect();
                let gone: Vec<_> = stock.has.extract_if(|id| !wanted.contains(id)).collect();
                if stock.is_partial {
                    self.holders.remove(&gone);
                }
            }
        }
    }

    /// A peer answered [`questions`](Self::questions).
    pub(super) fn sized_up(&mut self, peer: PeerId) {
        if let Some(stock) = self.stocks.get_mut(&peer) {
            stock.is_sized_up = true;
        }
    }

    /// A peer could not be reached: what it has is nothing to wait for.
    pub(super) fn lost(&mut self, peer: &PeerId) {
        if let Some(stock) = self.stocks.get_mut(peer) {
            stock.gained_at = None;
        }
    }

    /// Which blocks a peer is to be asked about: those that the fewest are known to have, and among them those that it is this peer's turn to
    /// bring in. None for one that seems to have everything.
    pub(super) fn questions(&self, peer: &PeerId) -> Vec<BlockId> {
        let stock = self.stocks.get(peer);
        let is_known = |stock: &Stock| stock.is_sized_up && !stock.is_partial;
        if stock.is_some_and(|stock| is_known(stock) || !stock.is_believed()) {
            return Vec::new();
        }
        let number = number(peer);
        let mut open: Vec<(usize, u64, BlockId)> = self
            .under_way
            .iter()
            .chain(self.ahead.iter().filter(|id| !self.under_way.contains(*id)))
            .filter(|id| stock.is_none_or(|stock| !stock.has.contains(id)))
            .map(|id| (self.holders.count(id), weight(number, id), *id))
            .collect();
        open.sort_unstable();
        open.truncate(MAX_IDS);
        open.into_iter().map(|(_, _, id)| id).collect()
    }

    /// What a peer is to a block.
    pub(super) fn standing(&self, peer: &PeerId, id: &BlockId) -> Standing {
        match self.stocks.get(peer) {
            Some(stock) if stock.holds(id) => Standing::Holder,
            Some(stock) if stock.is_partial => Standing::Without,
            Some(_) | None => Standing::Source,
        }
    }

    /// Whether some peer has a part of what is wanted and gets more.
    pub(super) fn is_growing(&self, now: Duration) -> bool {
        self.stocks.values().any(|stock| stock.is_gaining(now))
    }

    /// Peers that lack blocks.
    pub(super) fn partial(&self) -> impl Iterator<Item = PeerId> + '_ {
        let partial = self.stocks.iter().filter(|(_, stock)| stock.is_partial);
        partial.map(|(peer, _)| *peer)
    }

    /// How long to wait, from the first look on, for somebody else to bring a block in.
    pub(super) fn wait_for(&self, id: &BlockId, now: Duration) -> Duration {
        self.wait * self.turn(id, now).min(MAX_WAIT_TURNS)
    }

    /// How long to wait for somebody who has a block and has much to do.
    pub(super) fn wait(&self) -> Duration {
        self.wait
    }

    /// Whether a wait was worth it. Of several that end together one counts.
    pub(super) fn waited(&mut self, in_vain: bool, now: Duration) {
        if now < self.judged_at + self.wait {
            return;
        }
        self.judged_at = now;
        self.wait = if in_vain {
            (self.wait / 2).max(MIN_WAIT)
        } else {
            (self.wait * 2).min(MAX_WAIT)
        };
    }

    /// How many others are to bring a block in before this node is.
    fn turn(&self, id: &BlockId, now: Duration) -> u32 {
        let own = weight(self.own, id);
        let before = |stock: &&Stock| stock.is_gaining(now) && weight(stock.number, id) < own;
        self.stocks.values().filter(before).count() as u32
    }
}

/// The end of a peer id: a part of its key, which is as good as random.
fn number(peer: &PeerId) -> u64 {
    let bytes = peer.to_bytes();
    let tail = bytes.iter().rev().take(8);
    tail.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Of all who lack a block, the one with the smallest weight is to bring it in. Everybody computes the same, and each peer is first for an equal
/// share of all blocks.
fn weight(peer: u64, id: &BlockId) -> u64 {
    let head = id.digest().iter().take(8);
    let block = head.fold(0, |number, byte| number << 8 | u64::from(*byte));
    // The last steps of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
    let mut mixed = peer ^ block.rotate_left(32);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[path = "crowd_tests.rs"]
mod tests;
