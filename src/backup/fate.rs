//! Fates of snapshots: which are forgotten, which are asked to be, and what keeps them. Pure
//! policy.
//!
//! - The machine that made a snapshot forgets it, and no other machine's word counts as its. What
//!   the owner's words keep it can't forget: a thief may have its key.
//! - Another machine asks. A request is carried out [`NOTICE_DAYS`] after this machine first saw it
//!   ([`Seen`]), unless a machine keeps the snapshot (`unforget`), and never for the newest
//!   snapshot of a set.
//! - The owner's words decide at once, either way ([`Order`]).
//!
//! Invariant: nothing that a machine's key can sign makes another machine's snapshot go before the
//! notice is over. A log that can't be read may hold a word against a request, so that none is
//! carried out while a log is missing.
//!
//! Deliberately absent: the removal of what is gone (`prune`), and the clock: a request's age comes
//! from the days on which this machine saw it.

use std::collections::{BTreeMap, BTreeSet};

use super::log::{Log, Logged};
use super::order::Order;
use super::owner::OwnerId;
use super::seen::Seen;
use crate::id::BlockId;
use crate::time::Timestamp;

/// Days between the first sight of a request and the day on which it is carried out.
pub const NOTICE_DAYS: u32 = 30;

type MachineKey = [u8; 32];

/// Reason why a request is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// The notice is not over: so many days are left.
    Notice(u32),
    /// The snapshot is the newest of its set.
    Newest,
    /// A machine of the owner's keeps it.
    Kept,
    /// The owner's words keep it.
    Ordered,
    /// A log could not be read, which may say that it stays.
    Unread,
}

/// A machine's request that another machine's snapshot be forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The machine that asks.
    pub by: MachineKey,
    /// The machine that made the snapshot.
    pub machine: MachineKey,
    /// The snapshot.
    pub logged: Logged,
    /// When this machine first saw the request; none where nobody keeps count.
    pub since: Option<Timestamp>,
    /// Why it stays; none when the request is carried out.
    pub hold: Option<Hold>,
}

/// Facts that decide the fates.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The owner, whose signature an order has.
    pub owner: &'a OwnerId,
    /// The logs that could be read.
    pub logs: &'a [Log],
    /// Whether these are all.
    pub is_whole: bool,
    /// Machines that were turned out: they ask for nothing and keep nothing.
    pub revoked: &'a BTreeSet<MachineKey>,
    /// Requests that this machine saw, and on which days.
    pub seen: &'a Seen,
}

/// Fates of all snapshots that some log forgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates {
    /// Snapshots that each machine's log forgets, its own and those of others.
    own: BTreeSet<(MachineKey, BlockId)>,
    /// Snapshots that go, whichever machine made them: by the owner's words, or by requests that
    /// are due.
    gone: BTreeSet<BlockId>,
    /// Snapshots that the owner's words keep, also against the machine that made them.
    saved: BTreeSet<BlockId>,
    mentioned: BTreeSet<BlockId>,
    asked: Vec<Asked>,
}

/// A request: the machine that asks, and the snapshot.
pub type Request = (MachineKey, BlockId);

/// The machines that name each snapshot, and how each names it.
type Index<'a> = BTreeMap<BlockId, Vec<(MachineKey, &'a Logged)>>;

fn index(logs: &[Log]) -> Index<'_> {
    let mut index = Index::new();
    for log in logs {
        for logged in log.snapshots() {
            let named = index.entry(logged.snapshot.id).or_default();
            named.push((log.machine, logged));
        }
    }
    index
}

/// Requests in these logs: what a machine forgets that another one names.
pub fn requests(logs: &[Log], revoked: &BTreeSet<MachineKey>) -> BTreeSet<Request> {
    requests_in(&index(logs), logs, revoked)
}

fn requests_in(
    index: &Index<'_>,
    logs: &[Log],
    revoked: &BTreeSet<MachineKey>,
) -> BTreeSet<Request> {
    let asking = logs.iter().filter(|log| !revoked.contains(&log.machine));
    let all = asking.flat_map(|log| log.forgotten().map(|id| (log.machine, *id)));
    let is_of_another = |(by, id): &Request| {
        let named = index.get(id).into_iter().flatten();
        named.clone().any(|(machine, _)| machine != by)
    };
    all.filter(is_of_another).collect()
}

impl Fates {
    /// Weighs all that the logs say.
    pub fn weigh(facts: &Facts<'_>) -> Self {
        let forgets = |log: &Log| -> Vec<(MachineKey, BlockId)> {
            log.forgotten().map(|id| (log.machine, *id)).collect()
        };
        let own: BTreeSet<_> = facts.logs.iter().flat_map(forgets).collect();
        let ordered = ordered(facts);
        let mut fates = Self {
            mentioned: own.iter().map(|(_, id)| *id).collect(),
            own,
            ..Self::default()
        };
        for (id, order) in &ordered {
            if order.forgets() {
                fates.gone.insert(*id);
                fates.mentioned.insert(*id);
            } else {
                fates.saved.insert(*id);
            }
        }
        let speaking = || {
            let logs = facts.logs.iter();
            logs.filter(|log| !facts.revoked.contains(&log.machine))
        };
        let kept: BTreeSet<&BlockId> = speaking().flat_map(|log| log.kept()).collect();
        let newest = newest(facts.logs, &fates);
        let index = index(facts.logs);
        for (by, id) in requests_in(&index, facts.logs, facts.revoked) {
            let mut named = index.get(&id).into_iter().flatten();
            let named = named.find(|(machine, _)| *machine != by && !fates.is_gone(machine, &id));
            let Some((machine, logged)) = named else {
                continue;
            };
            let seen = facts.seen.get(&(by, id));
            let days = seen.map_or(0, |days| days.age());
            let hold = if ordered.contains_key(&id) {
                Some(Hold::Ordered)
            } else if kept.contains(&id) {
                Some(Hold::Kept)
            } else if newest.contains(&id) {
                Some(Hold::Newest)
            } else if days < NOTICE_DAYS {
                Some(Hold::Notice(NOTICE_DAYS - days))
            } else if !facts.is_whole {
                Some(Hold::Unread)
            } else {
                None
            };
            fates.asked.push(Asked {
                by,
                machine: *machine,
                logged: (*logged).clone(),
                since: seen.map(|days| days.first()),
                hold,
            });
        }
        let due = fates.asked.iter().filter(|asked| asked.hold.is_none());
        let due: Vec<BlockId> = due.map(|asked| asked.logged.snapshot.id).collect();
        fates.gone.extend(due);
        fates
    }

    /// Fates by what each machine says of its own: without the owner's words, and without a request
    /// that is due.
    #[cfg(test)]
    pub(super) fn of_logs(logs: &[Log]) -> Self {
        Self::weigh(&Facts {
            owner: &OwnerId::new([0; 32]),
            logs,
            is_whole: true,
            revoked: &BTreeSet::new(),
            seen: &Seen::default(),
        })
    }

    /// Whether a snapshot of this machine's is forgotten.
    pub fn is_gone(&self, machine: &MachineKey, id: &BlockId) -> bool {
        self.gone.contains(id) || (self.own.contains(&(*machine, *id)) && !self.is_saved(id))
    }

    /// Whether the owner's words keep a snapshot: only they can have it forgotten.
    pub fn is_saved(&self, id: &BlockId) -> bool {
        self.saved.contains(id)
    }

    /// Whether any log forgets it, rightly or not, or the owner's words do.
    pub fn is_mentioned(&self, id: &BlockId) -> bool {
        self.mentioned.contains(id)
    }

    /// Requests of machines about others' snapshots that are still named.
    pub fn asked(&self) -> &[Asked] {
        &self.asked
    }
}

/// The latest order about each snapshot. Of two at the same moment the one that keeps counts.
fn ordered<'a>(facts: &Facts<'a>) -> BTreeMap<BlockId, &'a Order> {
    let mut latest: BTreeMap<BlockId, &Order> = BTreeMap::new();
    let mut checked: Vec<&Order> = Vec::new();
    // Orders count whichever log carries them: no machine can make one.
    for order in facts.logs.iter().flat_map(Log::orders) {
        if checked.contains(&order) || !order.is_by(facts.owner) {
            continue;
        }
        checked.push(order);
        for id in order.ids() {
            let rank = |order: &Order| (order.made(), !order.forgets());
            match latest.get(id) {
                Some(known) if rank(known) >= rank(order) => {}
                _ => drop(latest.insert(*id, order)),
            }
        }
    }
    latest
}

/// The newest snapshot of each set of each machine, by what that machine's own logs say; without a
/// set, that of the same paths. Another machine's log can name more of them, and never fewer.
fn newest(logs: &[Log], fates: &Fates) -> BTreeSet<BlockId> {
    let mut newest: BTreeMap<_, (_, BlockId)> = BTreeMap::new();
    for log in logs {
        for logged in log.snapshots() {
            let id = logged.snapshot.id;
            if fates.is_gone(&log.machine, &id) {
                continue;
            }
            let summary = &logged.summary;
            let paths = summary.set.is_empty().then_some(&summary.paths);
            let rank = (logged.sequence.max(1), summary.started, id);
            let known = newest.entry((log.machine, &summary.set, paths));
            let known = known.or_insert((rank, id));
            if known.0 < rank {
                *known = (rank, id);
            }
        }
    }
    newest.into_values().map(|(_, id)| id).collect()
}

#[cfg(test)]
#[path = "fate_tests.rs"]
mod tests;
