//! What to do so that blocks which are about to go are elsewhere: a pure function of the time, what is known of each, who is there, and the limits.
//!
//! Each block goes one way: is it announced by others ([`Stage::Unsought`])? do those have it ([`Stage::Claimed`])? if nobody does, who takes it
//! ([`Stage::Alone`], [`Stage::Wanted`])? It ends [`Stage::Safe`] or [`Stage::Stuck`]. Nothing here waits, asks or draws lots.
//!
//! A peer fetches what it wants at its own pace. It is given the next blocks whenever some have come, never more than a window of them, and is asked
//! seldom while nothing comes: offers are limited at the other side.
//!
//! Invariant: a block is safe only by an [`Outcome`] in which a peer was found to have it; a peer that failed for a block is not asked for it again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::kad::KBucketKey;

use crate::id::BlockId;
use crate::net::exchange::MAX_IDS;
use crate::net::replica::MAX_OFFERED;
use crate::time::Timestamp;

/// How far a block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Nobody has looked yet who else has it.
    Unsought,
    /// These peers announced it.
    Claimed(Vec<PeerId>),
    /// Nobody else has it, as far as known.
    Alone,
    /// A peer said that it will fetch it.
    Wanted {
        /// The peer.
        by: PeerId,
        /// When it said so first, or fetched another block since.
        since: Timestamp,
        /// When to ask it how far it is.
        ask_at: Timestamp,
    },
    /// It is at another peer, too.
    Safe {
        /// Whether that peer was offered it; else it had it before.
        handed: bool,
    },
    /// Nobody takes it.
    Stuck(Timestamp),
}

impl Stage {
    /// Whether there is something to do.
    pub const fn is_open(&self) -> bool {
        !matches!(self, Self::Safe { .. } | Self::Stuck(_))
    }
}

/// A block that is about to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its size in bytes.
    pub bytes: u32,
    /// How far it is.
    pub stage: Stage,
    /// Peers that don't have it and don't take it.
    pub failed: BTreeSet<PeerId>,
    /// Peers that have it and are further from it than this node.
    pub further: BTreeSet<PeerId>,
}

impl Entry {
    /// A block of this size, at this stage.
    pub const fn new(bytes: u32, stage: Stage) -> Self {
        Self {
            bytes,
            stage,
            failed: BTreeSet::new(),
            further: BTreeSet::new(),
        }
    }
}

/// Blocks that are about to go.
pub type Table = BTreeMap<BlockId, Entry>;

/// Limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Searches in one round.
    pub searches: usize,
    /// Peers that are offered one block, one after the other.
    pub receivers: usize,
    /// Blocks that one peer is to fetch at the same time.
    pub window: usize,
    /// How long a peer that wants blocks may take until the next one of them has come.
    pub patience: Duration,
    /// How often such a peer is asked while blocks come.
    pub poll: Duration,
    /// How often at least, and how long a peer that has no time is left in peace.
    pub rest: Duration,
    /// How often is looked whether anything is about to go.
    pub every: Duration,
    /// How long a block that nobody took is left in peace.
    pub again: Duration,
}

impl Limits {
    /// When to ask who has made no progress for so long.
    pub fn pause(&self, waited: Duration) -> Duration {
        (waited / 4).max(self.poll).min(self.rest.max(self.poll))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            searches: 32,
            receivers: 8,
            window: 48,
            patience: Duration::from_secs(120),
            poll: Duration::from_millis(250),
            rest: Duration::from_secs(2),
            every: Duration::from_secs(30),
            again: Duration::from_secs(15 * 60),
        }
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Search who announced a block.
    Seek(BlockId),
    /// Ask a peer whether it has blocks.
    Ask(PeerId, Vec<BlockId>),
    /// Offer blocks to a peer, or hear how far it is with them.
    Offer(PeerId, Vec<(BlockId, u32)>),
}

/// What a peer said to a block, and was found to mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has it.
    Have,
    /// It will fetch it, or has no time for it now.
    Later,
    /// It has no time to say anything.
    Busy,
    /// It does not have it, does not want it, can't be reached, or lied.
    No,
}

/// What came of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// These peers announced a block.
    Sought(BlockId, Vec<PeerId>),
    /// Whether a peer has blocks.
    Asked(PeerId, Vec<(BlockId, Said)>),
    /// What a peer that was offered blocks said.
    Offered(PeerId, Vec<(BlockId, Said)>),
}

/// What to do now. `online` are those that blocks may be offered to.
pub fn choose(now: Timestamp, table: &Table, online: &[PeerId], limits: &Limits) -> Vec<Action> {
    let mut actions = Vec::new();
    let mut asks: BTreeMap<PeerId, Vec<BlockId>> = BTreeMap::new();
    let mut offers: BTreeMap<PeerId, Vec<(BlockId, u32)>> = BTreeMap::new();
    let window = limits.window.min(MAX_OFFERED);
    let loads = loads(table);
    // Those that may hear of more: who has something to fetch is asked about all of it at once, and not too often.
    let mut free: Vec<_> = online
        .iter()
        .filter_map(|peer| {
            let (load, ask_at) = loads.get(peer).copied().unwrap_or_default();
            (load < window && ask_at <= now).then(|| (*peer, KBucketKey::from(*peer), load))
        })
        .collect();
    for (id, entry) in table {
        match &entry.stage {
            Stage::Unsought if actions.len() < limits.searches => actions.push(Action::Seek(*id)),
            Stage::Claimed(by) => {
                if let Some(peer) = by.iter().find(|peer| !entry.failed.contains(peer)) {
                    asks.entry(*peer).or_default().push(*id);
                }
            }
            Stage::Alone if entry.failed.len() < limits.receivers && !free.is_empty() => {
                let target = KBucketKey::new(id.to_multihash().to_vec());
                let may = free
                    .iter_mut()
                    .filter(|(peer, ..)| !entry.failed.contains(peer));
                let nearest = may.min_by_key(|(_, place, _)| place.distance(&target));
                if let Some((peer, _, load)) = nearest {
                    offers.entry(*peer).or_default().push((*id, entry.bytes));
                    *load += 1;
                }
                free.retain(|(_, _, load)| *load < window);
            }
            Stage::Wanted { by, .. } => {
                let is_due = loads.get(by).is_some_and(|(_, ask_at)| *ask_at <= now);
                if is_due {
                    offers.entry(*by).or_default().push((*id, entry.bytes));
                }
            }
            _ => {}
        }
    }
    actions.extend(asks.into_iter().map(|(peer, mut ids)| {
        ids.truncate(MAX_IDS);
        Action::Ask(peer, ids)
    }));
    actions.extend(offers.into_iter().map(|(peer, mut blocks)| {
        blocks.truncate(MAX_OFFERED);
        Action::Offer(peer, blocks)
    }));
    actions
}

/// How much each peer has to fetch, and when to ask it next.
fn loads(table: &Table) -> BTreeMap<PeerId, (usize, Timestamp)> {
    let mut loads: BTreeMap<PeerId, (usize, Timestamp)> = BTreeMap::new();
    for entry in table.values() {
        if let Stage::Wanted { by, ask_at, .. } = entry.stage {
            let (load, next) = loads.entry(by).or_default();
            *load += 1;
            *next = ask_at.max(*next);
        }
    }
    loads
}

/// How many peers that are further from a block must have it.
const FURTHER: usize = 2;

/// Whether a peer that has a block is reason enough to drop it here. `local`: this node, when it may go on and is not about to leave. Two nodes
/// that both drop a block because the other one has it lose it; so one is enough only if it is nearer to the block, which holds for one of the two.
fn suffices(local: Option<PeerId>, id: &BlockId, entry: &mut Entry, peer: PeerId) -> bool {
    let Some(local) = local else {
        return true;
    };
    let target = KBucketKey::new(id.to_multihash().to_vec());
    let distance = |peer: PeerId| KBucketKey::from(peer).distance(&target);
    if distance(peer) < distance(local) {
        return true;
    }
    entry.further.insert(peer);
    entry.further.len() >= FURTHER
}

/// Notes what came of an action. `local`: this node, unless it is leaving.
pub fn apply(
    now: Timestamp,
    table: &mut Table,
    outcome: Outcome,
    limits: &Limits,
    local: Option<PeerId>,
) {
    match outcome {
        Outcome::Sought(id, by) => {
            if let Some(entry) = table.get_mut(&id).filter(|e| e.stage == Stage::Unsought) {
                entry.stage = match by.is_empty() {
                    true => Stage::Alone,
                    false => Stage::Claimed(by),
                };
            }
        }
        Outcome::Asked(peer, said) => {
            for (id, said) in said {
                let Some(entry) = table.get_mut(&id) else {
                    continue;
                };
                let Stage::Claimed(by) = entry.stage.clone() else {
                    continue;
                };
                if said == Said::Have && suffices(local, &id, entry, peer) {
                    entry.stage = Stage::Safe { handed: false };
                    continue;
                }
                // Who only has no time now is no more help than who has nothing.
                entry.failed.insert(peer);
                if by.iter().all(|peer| entry.failed.contains(peer)) {
                    entry.stage = Stage::Alone;
                    // The rest don't have it: they may still want it.
                    entry.failed = entry.further.clone();
                }
            }
        }
        Outcome::Offered(peer, said) => {
            let mut has_come = false;
            for (id, said) in said {
                if let Some(entry) = table.get_mut(&id) {
                    let was_wanted = matches!(entry.stage, Stage::Wanted { .. });
                    offered(now, &id, entry, (peer, said), limits, local);
                    has_come |= was_wanted && matches!(entry.stage, Stage::Safe { .. });
                }
            }
            for entry in table.values_mut().filter(|_| has_come) {
                if let Stage::Wanted { by, since, ask_at } = &mut entry.stage
                    && *by == peer
                {
                    *since = now;
                    *ask_at = now.after(limits.poll);
                }
            }
        }
    }
}

fn offered(
    now: Timestamp,
    id: &BlockId,
    entry: &mut Entry,
    (peer, said): (PeerId, Said),
    limits: &Limits,
    local: Option<PeerId>,
) {
    let since = match &entry.stage {
        Stage::Alone => None,
        Stage::Wanted { by, since, .. } if *by == peer => Some(*since),
        _ => return,
    };
    entry.stage = match said {
        Said::Have if !suffices(local, id, entry, peer) => {
            // Another one as well.
            entry.failed.insert(peer);
            Stage::Alone
        }
        Said::Have => Stage::Safe {
            // Who has it at once had it before.
            handed: since.is_some(),
        },
        Said::Later | Said::Busy => {
            let since = since.unwrap_or(now);
            let pause = match said {
                Said::Busy => limits.rest,
                _ => limits.pause(now.since(since)),
            };
            Stage::Wanted {
                by: peer,
                since,
                ask_at: now.after(pause),
            }
        }
        Said::No => {
            entry.failed.insert(peer);
            Stage::Alone
        }
    };
}

/// Notes what time and absence bring: a peer that takes too long or is gone has failed, a block that nobody is left for is stuck, and one that has
/// been stuck for long starts over.
pub fn settle(now: Timestamp, table: &mut Table, online: &[PeerId], limits: &Limits) {
    for entry in table.values_mut() {
        if let Stage::Wanted { by, since, .. } = entry.stage
            && (now.since(since) >= limits.patience || !online.contains(&by))
        {
            entry.failed.insert(by);
            entry.stage = Stage::Alone;
        }
        match entry.stage {
            Stage::Alone => {
                let is_left = online.iter().any(|peer| !entry.failed.contains(peer));
                if entry.failed.len() >= limits.receivers || !is_left {
                    entry.stage = Stage::Stuck(now);
                }
            }
            Stage::Stuck(since) if now.since(since) >= limits.again => {
                entry.failed.clear();
                entry.further.clear();
                entry.stage = Stage::Unsought;
            }
            _ => {}
        }
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
