//! Calls that look after backups: forgetting, pruning, checking.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Call, Choice, SnapshotInfo, Speaker, call};
pub use crate::backup::retention::Part;
use crate::backup::retention::{LAST_OF_GROUP, NO_SUCH_TAG, Policy};
use crate::id::BlockId;
use crate::time::Timestamp;

/// Forgets snapshots by a policy or by name.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Forget {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// Which to keep. Without a rule everything is kept.
    #[serde(default)]
    pub policy: Policy,
    /// Snapshots to forget by name, besides.
    #[serde(default)]
    pub snapshots: Vec<String>,
    /// Judge only snapshots of this set.
    #[serde(default)]
    pub set: Option<String>,
    /// Judge only snapshots with this tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// Properties that the snapshots of one group have in common: each group is judged by itself.
    /// Missing: machine and set, and without a set the paths, too, unless a tag chooses the
    /// snapshots.
    #[serde(default)]
    pub group_by: Option<BTreeSet<Part>>,
    /// Judge other machines' snapshots, too.
    #[serde(default)]
    pub all_machines: bool,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}
call!(Forget, "forget", ForgetReply);

/// What [`Forget`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ForgetReply {
    /// Snapshots that stay, and which rules keep them.
    pub kept: Vec<KeptSnapshot>,
    /// Snapshots that are forgotten.
    pub forgotten: Vec<SnapshotInfo>,
    /// Snapshots of other machines that this one asks to forget.
    #[serde(default)]
    pub asked: Vec<SnapshotInfo>,
    /// Snapshots that the rules were not asked about, because the owner's other machines made them.
    #[serde(default)]
    pub others: u64,
    /// Tags of the rules that no snapshot has that was judged.
    #[serde(default)]
    pub unknown_tags: Vec<String>,
    /// Paths of which no snapshot is left.
    #[serde(default)]
    pub bare_paths: Vec<String>,
}

impl ForgetReply {
    /// Whether all rules name tags that no snapshot has: nothing is forgotten by them then.
    pub fn is_of_unknown_tags(&self) -> bool {
        let is_kept_so = |kept: &KeptSnapshot| kept.reasons == [NO_SUCH_TAG];
        self.kept.iter().any(is_kept_so)
    }

    /// Snapshots that stay although no rule keeps them.
    pub fn last_of_groups(&self) -> u64 {
        let is_last = |kept: &&KeptSnapshot| kept.reasons == [LAST_OF_GROUP];
        self.kept.iter().filter(is_last).count() as u64
    }
}

/// Takes back that snapshots are forgotten, before they are pruned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Unforget {
    /// Speaker of the call.
    #[serde(default)]
    pub speaker: Speaker,
    /// The first digits of the ids.
    pub snapshots: Vec<String>,
}
call!(Unforget, "unforget", UnforgetReply);

/// Result of [`Unforget`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UnforgetReply {
    /// Snapshots that stay.
    pub snapshots: Vec<SnapshotInfo>,
}

/// Passes on what the owner's words decided of some snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecideSnapshots {
    /// Speaker of the call.
    #[serde(default)]
    pub speaker: Speaker,
    /// The signed order, in hex.
    pub order: String,
}
call!(DecideSnapshots, "order", DecideSnapshotsReply);

/// Result of [`DecideSnapshots`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DecideSnapshotsReply {
    /// Snapshots that were listed and that the order is about.
    pub snapshots: Vec<SnapshotInfo>,
}

/// A machine's request that another machine's snapshot be forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgetRequest {
    /// Key of the machine that asks.
    pub by: String,
    /// Its name.
    pub by_name: String,
    /// Key of the machine that made the snapshot.
    pub machine: String,
    /// Its name.
    pub machine_name: String,
    /// The snapshot's id in hex.
    pub snapshot: String,
    /// Its set.
    pub set: String,
    /// When it began, as its machine's clock said.
    pub time: Timestamp,
    /// When this machine first saw the request; missing where no machine of the owner's looks.
    pub since: Option<Timestamp>,
    /// When it is carried out at the earliest; missing when it is not.
    pub due: Option<Timestamp>,
    /// State of the request.
    pub state: RequestState,
}

/// State of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestState {
    /// The request is carried out once its notice is over.
    Notice,
    /// The snapshot stays: it is the newest of its set.
    Newest,
    /// The snapshot stays: a machine or the owner's words keep it.
    Kept,
    /// The snapshot stays as long as a log can't be read.
    Unread,
    /// The notice is over: the next prune carries it out.
    Due,
}

/// A snapshot that is forgotten and can still be had back, or that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeletedSnapshot {
    /// The snapshot.
    #[serde(flatten)]
    pub info: SnapshotInfo,
    /// Word by which the snapshot is forgotten; missing while it is only asked for.
    pub forgotten_by: Option<Decider>,
}

/// Word by which a snapshot is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decider {
    /// Word of the machine that made the snapshot.
    Machine,
    /// Order signed with the owner's words.
    Words,
    /// Another machine's, whose notice is over.
    Request,
}

/// A snapshot that stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeptSnapshot {
    /// The snapshot.
    pub snapshot: SnapshotInfo,
    /// Rules that keep it.
    pub reasons: Vec<String>,
}

/// Gives back the space of what was forgotten.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prune {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Rewrite packs of which less than this share, in percent, is still used. 0: none.
    #[serde(default)]
    pub repack_below_percent: u8,
    /// Leave what interrupted runs stored for a week: the next run goes on with it.
    #[serde(default)]
    pub spare_interrupted: bool,
}
call!(Prune, "prune", PruneReply);

/// What [`Prune`] did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PruneReply {
    /// Snapshots whose blocks were let go.
    pub snapshots: u64,
    /// Snapshots of runs that were cut off at the last moment, and that were taken into the log.
    #[serde(default)]
    pub adopted: u64,
    /// Snapshots that are kept here and that nobody names, and that are not this machine's: they were left alone.
    #[serde(default)]
    pub left_alone: u64,
    /// Blocks removed; after a dry run, that would be.
    pub freed_blocks: u64,
    /// Blocks among them that interrupted runs had stored.
    #[serde(default)]
    pub interrupted_blocks: u64,
    /// Their bytes.
    pub freed_bytes: u64,
    /// Packs that were rewritten.
    #[serde(default)]
    pub repacked_blocks: u64,
    /// Bytes on disk before.
    pub disk_bytes_before: u64,
    /// Bytes on disk afterwards.
    pub disk_bytes: u64,
}

/// Checks an owner's backups.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Check {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// Share of the data to read, in percent: 0 checks only that everything is there, 100 reads every byte.
    pub read_data_percent: f64,
    /// Ask connected peers which blocks of the snapshots they hold.
    #[serde(default)]
    pub remote: bool,
    /// Only this snapshot.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Only these snapshots; a snapshot that is named must be one of them.
    #[serde(default)]
    pub choice: Choice,
    /// Seconds to look for a block that must be mended.
    pub timeout_s: u64,
}
call!(Check, "check", CheckReply);

/// What [`Check`] found.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CheckReply {
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Snapshots that are not kept here and were not looked at.
    #[serde(default)]
    pub elsewhere: u64,
    /// Distinct blocks looked at.
    pub blocks: u64,
    /// Blocks of which every byte was read.
    pub read_blocks: u64,
    /// Their bytes.
    pub read_bytes: u64,
    /// Damage that is still there.
    pub errors: Vec<Damage>,
    /// How much there is in all.
    pub errors_total: u64,
    /// Damage that was made good with a copy from a peer.
    pub mended: Vec<Damage>,
    /// How much of that there is in all.
    pub mended_total: u64,
    /// Blocks that can't be read now, which says nothing about them: the first of them. They stay.
    #[serde(default)]
    pub unreadable: Vec<Damage>,
    /// Number of all such blocks.
    #[serde(default)]
    pub unreadable_total: u64,
    /// Blocks that peers hold, with `remote`.
    pub holders: Vec<Holder>,
    /// Outcome of making the index again, when that was asked for. The command does it before a
    /// node answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rebuilt: Option<RebuildReply>,
}

/// Outcome of making the store's index again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebuildReply {
    /// Where the old files are.
    #[serde(with = "super::path")]
    pub aside: PathBuf,
    /// Blocks that are here again.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged places in the files that hold the blocks.
    pub damaged: u64,
    /// Blocks that pins or leases need and that were not found.
    pub lost: u64,
    /// Pins that are here again.
    pub pins: u64,
    /// Pins that came back in part.
    pub partial_pins: Vec<PartialPin>,
    /// Leases that are here again.
    pub leases: u64,
    /// Files of the old index that can't be read.
    pub unreadable: Vec<String>,
    /// Whether the old index could be read whole, as far as can be told. If not, pins and leases
    /// may be missing.
    pub whole_index: bool,
    /// The root of the pin that keeps blocks that nothing else refers to.
    pub kept: Option<BlockId>,
    /// Number of blocks that it keeps.
    pub kept_blocks: u64,
}

/// A pin that came back in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartialPin {
    /// Its root.
    pub id: BlockId,
    /// Its name.
    pub name: String,
    /// Blocks that it kept.
    pub blocks: u64,
    /// Blocks that it keeps.
    pub found: u64,
}

/// Damage of one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The first snapshot that needs the block, in hex; empty for a log.
    pub snapshot: String,
    /// The first file or directory that needs it.
    pub path: String,
    /// The block.
    pub block: BlockId,
    /// Fault of the block: `missing`, `corrupt`, `not readable now`, `malformed`, and why it could
    /// not be mended.
    pub reason: String,
}

/// What one peer holds of the snapshots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The peer.
    pub peer: String,
    /// Blocks that it says it has.
    pub blocks: u64,
    /// Blocks that it was asked for.
    pub asked: u64,
}
