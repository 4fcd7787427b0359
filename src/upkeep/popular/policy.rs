//! Which blocks to offer to whom: pure functions of the time, the facts and the limits, and what is remembered of earlier answers.
//!
//! The hotter a block, the more copies on other nodes are wanted: a fixed number more each time that its rate doubles. They go to the connected
//! peers whose ids are nearest to the block's, where readers look first, and to peers that asked for the block long enough ago to
//! have lost it. Who refused is left alone for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::kad::KBucketKey;

use crate::id::BlockId;
use crate::time::Timestamp;

/// Blocks whose copies are remembered, and peers of each.
const MAX_BLOCKS: usize = 1024;
const MAX_PEERS_PER_BLOCK: usize = 64;
/// Peers that are left alone and remembered.
const MAX_RESTING: usize = 1024;

/// Limits of what is offered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Decayed number of requests from which on copies are wanted. More than the machines that fetch a backup to keep it.
    pub threshold: f64,
    /// Copies more each time that the rate doubles.
    pub copies_per_doubling: f64,
    /// Most copies of one block that are wanted.
    pub most_copies: usize,
    /// Most copies of one block that one decision asks for.
    pub most_new: usize,
    /// Most bytes that are offered in a minute.
    pub bytes_per_minute: u64,
    /// Most blocks of one offer.
    pub blocks_per_offer: usize,
    /// When a peer that wants a block is asked whether it has it.
    pub confirm_after: Duration,
    /// How long a peer that said it has a block is believed.
    pub believe_for: Duration,
    /// How long a peer that was given a block is thought to have it.
    pub presume_for: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            threshold: 8.0,
            copies_per_doubling: 2.0,
            most_copies: 24,
            most_new: 4,
            bytes_per_minute: 32 << 20,
            blocks_per_offer: 16,
            confirm_after: Duration::from_secs(60),
            believe_for: Duration::from_secs(3600),
            presume_for: Duration::from_secs(3600),
        }
    }
}

/// How many copies on other nodes are wanted of a block with that decayed number of requests.
pub fn target_copies(rate: f64, limits: &Limits) -> usize {
    let doublings = (rate / limits.threshold).log2();
    if doublings.is_nan() || doublings < 0.0 {
        return 0;
    }
    // A float that is too large becomes the largest number.
    let copies = (limits.copies_per_doubling * doublings) as usize;
    copies.saturating_add(1).min(limits.most_copies)
}

/// A block that is here and asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct HotBlock {
    /// The block.
    pub id: BlockId,
    /// Its size in bytes.
    pub bytes: u32,
    /// The decayed number of requests.
    pub rate: f64,
    /// Who asked last, and when.
    pub askers: Vec<(PeerId, Timestamp)>,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Blocks that are asked for, the hottest first.
    pub hot: Vec<HotBlock>,
    /// Peers that are connected.
    pub connected: Vec<KBucketKey<PeerId>>,
}

/// Blocks to offer to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The peer.
    pub peer: PeerId,
    /// Blocks and their sizes in bytes.
    pub blocks: Vec<(BlockId, u32)>,
}

/// What a peer said of a block that it was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It fetches it.
    Wants,
    /// It has it.
    Has,
}

/// What is remembered of offers. Bounded: the oldest is forgotten first.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    blocks: BTreeMap<BlockId, BTreeMap<PeerId, (Heard, Timestamp)>>,
    resting: BTreeMap<PeerId, Timestamp>,
    spent: Spent,
}

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    bytes: u64,
    at: Timestamp,
}

impl Ledger {
    /// A peer said how it stands with a block. Returns whether that is a copy that was made because the block was offered.
    pub fn heard(&mut self, peer: PeerId, id: BlockId, heard: Heard, now: Timestamp) -> bool {
        if self.blocks.len() >= MAX_BLOCKS && !self.blocks.contains_key(&id) {
            let latest = |peers: &BTreeMap<_, (Heard, Timestamp)>| {
                peers.values().map(|(_, at)| *at).max().unwrap_or_default()
            };
            let oldest = self
                .blocks
                .iter()
                .min_by_key(|(id, peers)| (latest(peers), **id));
            if let Some(oldest) = oldest.map(|(id, _)| *id) {
                self.blocks.remove(&oldest);
            }
        }
        let peers = self.blocks.entry(id).or_default();
        if peers.len() >= MAX_PEERS_PER_BLOCK && !peers.contains_key(&peer) {
            let oldest = peers.iter().min_by_key(|(peer, (_, at))| (*at, **peer));
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                peers.remove(&oldest);
            }
        }
        let before = peers.insert(peer, (heard, now));
        heard == Heard::Has && matches!(before, Some((Heard::Wants, _)))
    }

    /// A peer wants nothing now: it is left alone until then.
    pub fn rest(&mut self, peer: PeerId, until: Timestamp) {
        if self.resting.len() >= MAX_RESTING && !self.resting.contains_key(&peer) {
            let first = self
                .resting
                .iter()
                .min_by_key(|(peer, until)| (**until, **peer));
            if let Some(first) = first.map(|(peer, _)| *peer) {
                self.resting.remove(&first);
            }
        }
        self.resting.insert(peer, until);
    }

    /// Bytes that were offered and are taken.
    pub fn spend(&mut self, bytes: u64, now: Timestamp, limits: &Limits) {
        let spent = self.spent_bytes(now, limits).saturating_add(bytes);
        self.spent = Spent {
            bytes: spent,
            at: now,
        };
    }

    /// Bytes that are still counted as spent: they are forgotten at the rate that is allowed.
    fn spent_bytes(&self, now: Timestamp, limits: &Limits) -> u64 {
        let passed_ms = u64::try_from(now.since(self.spent.at).as_millis()).unwrap_or(u64::MAX);
        let forgotten = u128::from(limits.bytes_per_minute) * u128::from(passed_ms) / 60_000;
        let forgotten = u64::try_from(forgotten).unwrap_or(u64::MAX);
        self.spent.bytes.saturating_sub(forgotten)
    }

    fn is_resting(&self, peer: &PeerId, now: Timestamp) -> bool {
        self.resting.get(peer).is_some_and(|until| *until > now)
    }

    /// Peers that have a block or fetch it, as far as is known.
    pub fn copies(&self, id: &BlockId, now: Timestamp, limits: &Limits) -> usize {
        let peers = self.blocks.get(id).into_iter().flatten();
        peers
            .filter(|(_, (_, at))| now.since(*at) < limits.believe_for)
            .count()
    }
}

/// What to offer now. Blocks come hottest first until the bytes of this minute are used up; a peer gets at most one offer.
pub fn choose(now: Timestamp, facts: &Facts, ledger: &Ledger, limits: &Limits) -> Vec<Offer> {
    let spent = ledger.spent_bytes(now, limits);
    let mut room = limits.bytes_per_minute.saturating_sub(spent);
    let mut offers: BTreeMap<PeerId, Vec<(BlockId, u32)>> = BTreeMap::new();
    for hot in &facts.hot {
        for peer in peers_for(now, hot, facts, ledger, limits) {
            let blocks = offers.entry(peer).or_default();
            let is_listed = blocks.iter().any(|(id, _)| *id == hot.id);
            let bytes = u64::from(hot.bytes);
            if blocks.len() < limits.blocks_per_offer && bytes <= room && !is_listed {
                blocks.push((hot.id, hot.bytes));
                room -= bytes;
            }
        }
    }
    let offers = offers.into_iter();
    offers
        .filter(|(_, blocks)| !blocks.is_empty())
        .map(|(peer, blocks)| Offer { peer, blocks })
        .collect()
}

/// Whom to offer a block to.
fn peers_for(
    now: Timestamp,
    hot: &HotBlock,
    facts: &Facts,
    ledger: &Ledger,
    limits: &Limits,
) -> Vec<PeerId> {
    let target = target_copies(hot.rate, limits);
    if target == 0 {
        return Vec::new();
    }
    let known = ledger.blocks.get(&hot.id);
    let is_due = |(heard, at): (Heard, Timestamp)| {
        let age = now.since(at);
        heard == Heard::Wants && age >= limits.confirm_after && age < limits.believe_for
    };
    let missing = target.saturating_sub(ledger.copies(&hot.id, now, limits));
    let wanted = missing.min(limits.most_new);
    if wanted == 0 && !known.is_some_and(|known| known.values().any(|heard| is_due(*heard))) {
        return Vec::new();
    }
    let fresh = |peer: &PeerId| {
        let (heard, at) = *known?.get(peer)?;
        (now.since(at) < limits.believe_for).then_some((heard, at))
    };
    let presumed: BTreeSet<PeerId> = hot
        .askers
        .iter()
        .filter(|(_, at)| now.since(*at) < limits.presume_for)
        .map(|(peer, _)| *peer)
        .collect();
    let mut free = Vec::new();
    let mut due = Vec::new();
    for key in &facts.connected {
        let peer = key.preimage();
        if ledger.is_resting(peer, now) {
            continue;
        }
        match fresh(peer) {
            Some(heard) if is_due(heard) => due.push(*peer),
            Some(_) => {}
            None if presumed.contains(peer) => {}
            None => free.push(key),
        }
    }
    if wanted == 0 {
        return due;
    }
    let place = KBucketKey::new(hot.id.to_multihash());
    free.sort_by_cached_key(|key| key.distance(&place));
    let is_free = |peer: &PeerId| free.iter().any(|key| key.preimage() == peer);
    let returning = hot.askers.iter().map(|(peer, _)| *peer);
    let mut returning = returning.filter(is_free).collect::<Vec<_>>().into_iter();
    let mut nearest = free.iter().map(|key| *key.preimage());
    let mut chosen: Vec<PeerId> = Vec::new();
    while chosen.len() < wanted {
        let next = match chosen.len() % 2 {
            1 => returning.next().or_else(|| nearest.next()),
            _ => nearest.next(),
        };
        match next {
            Some(peer) if chosen.contains(&peer) => {}
            Some(peer) => chosen.push(peer),
            None => break,
        }
    }
    due.extend(chosen);
    due
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
