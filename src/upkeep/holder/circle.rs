//! What a holder does for backups whose owner's machine is gone: a pure function of the time, the facts and the limits.
//!
//! As long as the owner's machine is heard it makes new copies itself, and the holders leave that to it. Once it has been silent for longer than the
//! grace period, the holders of the same backup keep up the number that its lease asks for: who finds too few of them passes the lease
//! that the owner's machine signed on to another member. Of several holders the one nearest to the backup by XOR goes first; the next
//! one only when that did not help for a while. Likewise the member that is asked is the nearest one that has room.
//!
//! Deliberately absent: the asking, the leases themselves, and any lengthening of them: what is passed on ends when the owner's lease ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::crypto::hash;
use crate::id::BlockId;
use crate::time::Timestamp;

/// A peer's name: the bytes of its id.
pub type PeerName = Vec<u8>;
/// A backup of an owner: the owner's public key and the snapshot's block.
pub type Subject = ([u8; 32], BlockId);

/// When somebody was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// When last.
    pub at: Timestamp,
    /// For how long since then this machine was up and in company: time in which it could have heard something.
    pub missed: Duration,
}

impl Heard {
    /// Heard now.
    pub const fn now(at: Timestamp) -> Self {
        Self {
            at,
            missed: Duration::ZERO,
        }
    }

    /// Whether it has been too long.
    fn is_gone(&self, now: Timestamp, limits: &Limits) -> bool {
        now.since(self.at) > limits.grace && self.missed > limits.grace * 3 / 4
    }
}

/// A backup that this node keeps, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many holders its owner asked for. None: the lease is not to be passed on.
    pub copies: u32,
    /// Bytes that another copy takes at most.
    pub bytes: u64,
    /// The machine that asked for it.
    pub owner: Heard,
    /// Its peer, which is not asked to keep its own backup.
    pub asker: Option<PeerName>,
    /// Others that said they keep it, whole.
    pub others: BTreeMap<PeerName, Heard>,
    /// Who was asked to keep it by this node, and when.
    pub asked: BTreeMap<PeerName, Timestamp>,
    /// Who did not want it, and until when not to ask them again.
    pub refused: BTreeMap<PeerName, Timestamp>,
    /// Since when there were too few, as far as this node knows.
    pub short_since: Option<Timestamp>,
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// This node.
    pub local: PeerName,
    /// What it keeps.
    pub kept: BTreeMap<Subject, Kept>,
    /// Members that are online, with the bytes that they lend and are not used.
    pub online: BTreeMap<PeerName, u64>,
}

/// Limits of what is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How long an owner's machine, or another holder, may be away.
    pub grace: Duration,
    /// How much later the second nearest holder acts than the nearest one, the third than the second.
    pub stagger: Duration,
    /// How long who was asked is waited for before another one is.
    pub patience: Duration,
    /// Most backups that are being passed on at the same time.
    pub most_asked: usize,
}

impl Default for Limits {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3600);
        Self {
            grace: 24 * HOUR,
            stagger: 2 * HOUR,
            patience: 6 * HOUR,
            most_asked: 2,
        }
    }
}

/// A backup and the member that it is passed on to.
pub type Pass = (Subject, PeerName);

/// How far a peer is from a backup.
fn distance(peer: &[u8], subject: &Subject) -> [u8; 32] {
    let (a, b) = (
        hash::sha256(&[peer]),
        hash::sha256(&[&subject.0, &subject.1.to_multihash()]),
    );
    std::array::from_fn(|at| a[at] ^ b[at])
}

/// How many keep a backup, this node and all that are not gone for too long.
fn holders(kept: &Kept, now: Timestamp, limits: &Limits) -> usize {
    let others = kept.others.values();
    1 + others.filter(|heard| !heard.is_gone(now, limits)).count()
}

/// Whether holders must make up for some, because the owner's machine does not.
pub fn is_short(kept: &Kept, now: Timestamp, limits: &Limits) -> bool {
    kept.owner.is_gone(now, limits) && holders(kept, now, limits) < kept.copies as usize
}

/// What to pass on now, and to whom; what was asked for lately is asked again of the same peer, to hear how far it is.
pub fn choose(now: Timestamp, facts: &Facts, limits: &Limits) -> Vec<Pass> {
    let is_fresh = |at: &Timestamp| now.since(*at) <= limits.patience;
    let mut passes = Vec::new();
    let mut room = facts.online.clone();
    for (subject, kept) in &facts.kept {
        if !is_short(kept, now, limits) {
            continue;
        }
        let waiting: Vec<_> = kept.asked.iter().filter(|(_, at)| is_fresh(at)).collect();
        if !waiting.is_empty() {
            let online = waiting.iter().filter(|(peer, _)| room.contains_key(*peer));
            passes.extend(online.map(|(peer, _)| (*subject, (*peer).clone())));
            continue;
        }
        if passes.len() >= limits.most_asked || !is_turn(now, *subject, kept, facts, limits) {
            continue;
        }
        let taken: BTreeSet<&PeerName> = kept.others.keys().chain(&kept.asker).collect();
        let nearest = room
            .iter()
            .filter(|(peer, free)| !taken.contains(peer) && **free >= kept.bytes)
            .filter(|(peer, _)| kept.refused.get(*peer).is_none_or(|until| *until <= now))
            // Who was asked and did not get there comes last.
            .min_by_key(|(peer, _)| (kept.asked.get(*peer), distance(peer, subject)));
        let Some(peer) = nearest.map(|(peer, _)| peer.clone()) else {
            continue;
        };
        if let Some(free) = room.get_mut(&peer) {
            *free -= kept.bytes;
        }
        passes.push((*subject, peer));
    }
    passes
}

/// Whether this node is the one to act: the nearest holder that is there, or a later one when too few have been there for too long.
fn is_turn(now: Timestamp, subject: Subject, kept: &Kept, facts: &Facts, limits: &Limits) -> bool {
    let own = distance(&facts.local, &subject);
    let others = kept.others.keys();
    let nearer =
        others.filter(|peer| facts.online.contains_key(*peer) && distance(peer, &subject) < own);
    let rank = u32::try_from(nearer.count()).unwrap_or(u32::MAX);
    let short = kept
        .short_since
        .map_or(Duration::ZERO, |since| now.since(since));
    short >= limits.stagger.saturating_mul(rank)
}

#[cfg(test)]
#[path = "circle_tests.rs"]
mod tests;
