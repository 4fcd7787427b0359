//! The call that tells whether every backup is there, as new as it should be, and has its copies.

use serde::{Deserialize, Serialize};

use super::{Call, ForgetRequest, call};
use crate::time::Timestamp;

/// Copies of a backup on other machines.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopiesReply {
    /// Asked for.
    pub asked: u32,
    /// Acknowledged: whole and durable there.
    pub reached: u32,
    /// The machines that have acknowledged.
    #[serde(default)]
    pub holders: Vec<HolderState>,
    /// The head as others told it when it was read back from them; missing when nobody was asked.
    #[serde(default)]
    pub head: Option<HeadState>,
}

/// The head that leads to this machine's newest backup, as others have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadState {
    /// Nodes that told it as this machine wrote it last.
    pub told: u32,
    /// Whether one of them gave the log that it names.
    pub log: bool,
    /// Whether somebody told a newer one in this machine's name: its key may have been copied.
    pub overtaken: bool,
}

impl HeadState {
    /// Whether the twelve words lead to the newest backup without this machine.
    pub const fn is_found(&self) -> bool {
        self.told > 0 && self.log && !self.overtaken
    }
}

/// A machine that keeps a copy of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HolderState {
    /// Its node.
    pub peer: String,
    /// Its name; empty when it is not known to any ring of this node.
    pub name: String,
    /// Whether it is connected.
    pub online: bool,
    /// Seconds since it was last heard of; missing when it is online.
    #[serde(default)]
    pub seen_s_ago: Option<u64>,
}

/// Tells whether all is well with every backup.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Health {
    /// Only this set: its name, or the beginning of it.
    #[serde(default)]
    pub set: Option<String>,
}
call!(Health, "health", HealthReply);

/// Answer to [`Health`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HealthReply {
    /// The sets that are configured, that have snapshots, or whose backups ask for copies, by name.
    pub sets: Vec<SetHealth>,
    /// Whether this machine has an owner; without one it backs nothing up.
    #[serde(default)]
    pub owner: bool,
    /// Reasons that keep this node from knowing, or from doing what the sets say.
    #[serde(default)]
    pub problems: Vec<String>,
    /// Requests of other machines that snapshots of this one be forgotten, whose notice is running.
    #[serde(default)]
    pub requests: Vec<ForgetRequest>,
    /// Reasons why members refuse backups: their clocks, or this machine's, are wrong.
    #[serde(default)]
    pub clocks: Vec<String>,
    /// Holders that count as several, and are perhaps one machine, or stand in one place. The
    /// counts are not changed by it.
    #[serde(default)]
    pub doubts: Vec<String>,
    /// The head as others told it when it was read back from them; missing when nobody is
    /// connected, or no backup asks for copies.
    #[serde(default)]
    pub head: Option<HeadState>,
}

impl HealthReply {
    /// Whether everything holds that was asked for. A machine that has an owner and no backup is
    /// not well, nor is one whose snapshots another machine is about to make go.
    pub fn is_well(&self) -> bool {
        let has_any = !self.sets.is_empty() || !self.owner;
        let is_found = self.head.is_none_or(|head| head.is_found());
        let is_calm = is_found && self.problems.is_empty() && self.requests.is_empty();
        has_any && is_calm && self.sets.iter().all(SetHealth::is_well)
    }
}

/// State of one set's backups.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetHealth {
    /// The set's name; empty for paths given by hand.
    pub name: String,
    /// Copies on other machines, of the backup that has fewest.
    pub copies_min: u32,
    /// Copies asked for.
    pub copies_asked: u32,
    /// Machines that may be lost at the same time, whichever, without losing a backup.
    pub survives: u32,
    /// Backups whose blocks are not on this machine any more, though nobody forgot them. Their
    /// copies stay where they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lost: u32,
    /// Seconds since the copy that was audited longest ago was; missing when one never was.
    pub audited_s_ago: Option<u64>,
    /// The machines that keep copies that count.
    #[serde(default)]
    pub holders: Vec<HolderState>,
    /// When the newest backup was made; missing when there is none, or none that is known here.
    #[serde(default)]
    pub last_backup: Option<Timestamp>,
    /// Seconds since then.
    #[serde(default)]
    pub last_backup_s_ago: Option<u64>,
    /// The set is configured and has never been backed up.
    #[serde(default)]
    pub never: bool,
    /// When it is to be backed up, as text; missing without a schedule.
    #[serde(default)]
    pub schedule: Option<String>,
    /// When its next run is due.
    #[serde(default)]
    pub next_backup: Option<Timestamp>,
    /// When the first run was due of those that were missed, when there are two or more.
    #[serde(default)]
    pub overdue_since: Option<Timestamp>,
    /// Why it can't be backed up, or was not the last time.
    #[serde(default)]
    pub problem: Option<String>,
    /// Patterns of the set that matched nothing in its last run, as far as this node saw that run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unmatched: Vec<String>,
    /// Copies of the newest backup on other machines, and copies asked for; missing where the
    /// newest has none to look after. `copies_min` may speak of an older one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<NewestCopies>,
}

/// Copies of a set's newest backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestCopies {
    /// Copies that count.
    pub copies: u32,
    /// Copies asked for.
    pub copies_asked: u32,
}

/// Numbers that say something only when they are not zero.
fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl SetHealth {
    /// Whether there are as many copies as were asked for, and what they are copies of.
    pub const fn is_as_asked(&self) -> bool {
        self.copies_min >= self.copies_asked && self.lost == 0
    }

    /// Whether all is as asked: the copies, and a backup that is as new as the schedule says.
    pub const fn is_well(&self) -> bool {
        let is_new = !self.never && self.overdue_since.is_none();
        self.is_as_asked() && is_new && self.problem.is_none()
    }
}
