//! Which heads are kept because of leases, and for how long: a pure function of the facts.
//!
//! The head of an owner whose backups are leased here is kept as long as one of these leases lasts, and for [`GRACE`] after: who has the twelve words
//! may still find what is left. Holders pass leases on among themselves when the owner's machine is gone, and the head is kept with them.
//! As with leases, a clock that is wrong for a while ends nothing, and one that runs behind shortens nothing.
//!
//! A head that is kept for another reason, because a snapshot is pinned here or the owner is this machine's own, stays whatever leases do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::id::BlockId;
use crate::net::providers::MAX_KEPT_HEADS;
use crate::time::Timestamp;

/// How long a head is kept after the last lease of its owner has ended here: as long as a head that nobody keeps lasts here.
pub const GRACE: Duration = crate::net::providers::HEAD_TTL;
/// How long it has to be over while this node runs before a head is let go.
pub(super) const OVER_FOR: Duration = Duration::from_secs(6 * 3600);
/// Most heads that are kept because of leases. The other places are for those that are kept for other reasons.
pub(super) const MAX_LEASED: usize = MAX_KEPT_HEADS / 2;
/// A change of the time until which a head is kept is written when it is larger than this.
const NOTICE_MS: u64 = 24 * 3600 * 1000;

/// What a lease of a head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leased {
    /// Until when the head is kept.
    pub(super) until: Timestamp,
    /// When that was written.
    pub(super) made: Timestamp,
    /// For how long it is seen to be over, while this node runs.
    pub(super) over_for: Option<Duration>,
}

/// What the leases of an owner say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owed {
    /// When the last one ends.
    pub(super) until: Timestamp,
    /// Whether one is whole.
    pub(super) is_whole: bool,
}

/// What is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// Heads that are kept.
    pub(super) kept: BTreeSet<BlockId>,
    /// Heads that have a pin.
    pub(super) pinned: BTreeSet<BlockId>,
    /// Heads that have a lease of their own.
    pub(super) leased: BTreeMap<BlockId, Leased>,
    /// Heads of owners who have leases here.
    pub(super) owed: BTreeMap<BlockId, Owed>,
    /// The head of this machine's own owner.
    pub(super) own: Option<BlockId>,
    /// Heads that were kept, and those that were kept because of leases, earlier in this run.
    pub(super) were_kept: BTreeSet<BlockId>,
    /// See `were_kept`.
    pub(super) were_leased: BTreeSet<BlockId>,
}

impl Facts {
    /// Whether a head is kept for another reason than leases.
    pub(super) fn is_ours(&self, head: &BlockId) -> bool {
        self.pinned.contains(head) || self.own.as_ref() == Some(head)
    }
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Keep a head because of leases, until then.
    Keep(BlockId, Timestamp),
    /// Keep it until another time.
    Change(BlockId, Timestamp),
    /// Keep it no more.
    LetGo(BlockId),
}

pub(super) fn choose(now: Timestamp, facts: &Facts) -> Vec<Action> {
    let mut actions = Vec::new();
    for (head, leased) in &facts.leased {
        if facts.is_ours(head) {
            // Its pin takes the place of its lease.
            continue;
        }
        let until = match facts.owed.get(head) {
            Some(owed) => owed.until.after(GRACE),
            None if leased.over_for.is_some_and(|over| over >= OVER_FOR) => {
                actions.push(Action::LetGo(*head));
                continue;
            }
            // Let go by hand.
            None if facts.were_kept.contains(head) && !facts.kept.contains(head) => {
                actions.push(Action::LetGo(*head));
                continue;
            }
            None if now < leased.made => leased.until,
            None => leased.until.min(now.after(GRACE)),
        };
        if until.0.abs_diff(leased.until.0) > NOTICE_MS {
            actions.push(Action::Change(*head, until));
        }
    }
    let is_free = |head: &BlockId| !facts.is_ours(head) && !facts.leased.contains_key(head);
    let gone = facts.were_leased.intersection(&facts.kept);
    let gone = gone.filter(|head| is_free(head) && !facts.owed.contains_key(head));
    actions.extend(gone.map(|head| Action::LetGo(*head)));
    let is_new = |(head, owed): &(&BlockId, &Owed)| {
        let is_for_another_reason = facts.kept.contains(head) && !facts.were_leased.contains(head);
        owed.is_whole && is_free(head) && !is_for_another_reason
    };
    let new = facts.owed.iter().filter(is_new);
    let new = new.take(MAX_LEASED.saturating_sub(facts.leased.len()));
    actions.extend(new.map(|(head, owed)| Action::Keep(*head, owed.until.after(GRACE))));
    actions
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
