//! Calls about backups: making, listing and reading them.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    Call, CopiesReply, DeletedSnapshot, ForgetRequest, Giver, Overwrite, Unreadable, call, hex,
    path, shown,
};
use crate::backup::schedule::Schedule;
pub use crate::backup::sets::Exclusions;
use crate::block::Link;
use crate::id::BlockId;
use crate::time::Timestamp;

/// Who speaks, when it is not the owner of the node's data directory without a passphrase.
#[derive(Clone, Default, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Speaker {
    /// What unlocks the owner's file in the node's data directory.
    #[serde(default)]
    pub passphrase: Option<String>,
    /// Keys that read an owner's backups without that file, as the words give them.
    #[serde(default)]
    pub keys: Option<ReadingKeys>,
    /// With such keys, the public meeting point is not asked where the backups are.
    #[serde(default)]
    pub no_meet: bool,
}

/// What reads an owner's backups.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct ReadingKeys {
    /// The owner's public key.
    pub owner: String,
    /// The generation of the key.
    pub generation: u8,
    /// The key of that generation, in base32: it opens all that is older, too.
    pub key: String,
}

impl std::fmt::Debug for Speaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Speaker(..)")
    }
}

impl std::fmt::Debug for ReadingKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ReadingKeys(..)")
    }
}

/// Backs up some paths as one snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Backup {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// Absolute paths on the node's machine.
    #[serde(with = "path::list")]
    pub paths: Vec<PathBuf>,
    /// Name of the set; empty when paths were given by hand.
    #[serde(default)]
    pub set: String,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// What is left out.
    #[serde(default)]
    pub exclusions: Exclusions,
    /// Read every file, also those that look unchanged.
    #[serde(default)]
    pub force: bool,
    /// Only count what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Copies on other machines; when missing two for a node that is in a ring, none for others.
    #[serde(default)]
    pub copies: Option<u32>,
    /// Wait until so many other machines have acknowledged.
    #[serde(default)]
    pub wait: bool,
    /// Seconds to wait for them at most.
    #[serde(default)]
    pub timeout_s: u64,
    /// Only when this says that it is time, by when the set last ran. The node decides when the set's turn has come: who asked may not know
    /// of a run that was under way.
    #[serde(default)]
    pub due: Option<Schedule>,
}
call!(Backup, "backup", BackupReply);

/// What [`Backup`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BackupReply {
    /// The snapshot's id in hex; empty after a dry run, and when nothing was due.
    pub snapshot: String,
    /// Its link: who has it can pin and read the snapshot. Missing where there is no snapshot.
    pub link: Option<Link>,
    /// Nothing was done: the set was not due.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not_due: bool,
    /// Name of the set.
    pub set: String,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes of blocks that were not in the store before.
    pub new_bytes: u64,
    /// Files that have not changed since the last snapshot and were not read.
    pub unchanged: u64,
    /// Names that were left out.
    pub excluded: u64,
    /// Files that would be read; after a dry run only.
    pub to_read: u64,
    /// What could not be read, or changed meanwhile.
    pub unreadable: Vec<Unreadable>,
    /// Paths that no backup takes: directories of libernet itself, and sockets.
    #[serde(default)]
    pub left_out: Vec<Unreadable>,
    /// Patterns that matched nothing.
    #[serde(default)]
    pub unmatched: Vec<String>,
    /// Copies on other machines.
    #[serde(default)]
    pub copies: CopiesReply,
}

/// Properties that snapshots must have to be meant. Nothing said: all of them are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Choice {
    /// The set's name, or the beginning of one.
    pub set: Option<String>,
    /// Tags, all of them.
    pub tags: Vec<String>,
    /// The machine's name or key, or the beginning of a name.
    pub machine: Option<String>,
    /// A path in its several forms, such as typed and resolved: one of them, or a directory that it
    /// is in, was backed up.
    #[serde(with = "path::list")]
    pub paths: Vec<PathBuf>,
}

/// Lists an owner's snapshots.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Snapshots {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// Which of them.
    #[serde(default)]
    pub choice: Choice,
    /// Seconds to look for the owner's head where it is not here; 0: only a short look.
    #[serde(default)]
    pub timeout_s: u64,
    /// Also list what is forgotten and can still be had back.
    #[serde(default)]
    pub deleted: bool,
    /// Also those that only earlier entries of the head or leases lead to.
    #[serde(default)]
    pub older: bool,
}
call!(Snapshots, "snapshots", SnapshotsReply);

/// What [`Snapshots`] found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotsReply {
    /// The owner.
    pub owner: String,
    /// Name of the head, by which its keepers are found, in hex.
    pub head: String,
    /// The machines that the head names.
    pub machines: Vec<MachineState>,
    /// Snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// Requests of machines that other machines' snapshots be forgotten.
    #[serde(default)]
    pub requests: Vec<ForgetRequest>,
    /// Snapshots that are forgotten and can still be had back, and those that are asked for; only
    /// when they were to be listed.
    #[serde(default)]
    pub deleted: Vec<DeletedSnapshot>,
    /// Snapshots that only earlier entries of the head or leases lead to, oldest first; empty
    /// unless they were asked for.
    #[serde(default)]
    pub older: Vec<SnapshotInfo>,
    /// Notes on how the snapshots were found.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Nodes that told a head of this owner.
    #[serde(default)]
    pub told: u64,
    /// Nodes among them whose newest entries are those that were used.
    #[serde(default)]
    pub agree: u64,
}

/// What the head says of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineState {
    /// Its public key.
    pub machine: String,
    /// Its name; empty when its log could not be had.
    pub name: String,
    /// How often it has said something.
    pub sequence: u64,
    /// When it last did.
    pub updated: Timestamp,
    /// Why its log could not be had.
    pub missing: Option<String>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotInfo {
    /// Its id in hex; the first digits name it.
    pub snapshot: String,
    /// The same id as a CID, as pins and blocks have it.
    #[serde(default)]
    pub cid: String,
    /// Its link.
    pub link: Link,
    /// When it began, as the machine's clock said.
    pub time: Timestamp,
    /// The machine's clock was wrong then: its log says so, or the time is yet to come.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub misdated: bool,
    /// The machine that made it.
    pub machine: String,
    /// Name of the set.
    pub set: String,
    /// Paths that were backed up, as [`shown`].
    pub paths: Vec<String>,
    /// Tags.
    pub tags: Vec<String>,
    /// Regular files.
    pub files: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Bytes that were new.
    pub new_bytes: u64,
}

/// Which snapshot, and what of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// `latest`, the first digits of an id, or a snapshot's link.
    pub snapshot: String,
    /// Of which snapshots it is the latest; a link needs none.
    #[serde(default)]
    pub choice: Choice,
    /// Seconds to look for a block, and for the head.
    pub timeout_s: u64,
}

/// Finds the tree of a snapshot: a link that `ls` and `cat` take.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotTree {
    /// Which.
    #[serde(flatten)]
    pub of: SnapshotRef,
}
call!(SnapshotTree, "snapshot-tree", SnapshotTreeReply);

/// What [`SnapshotTree`] found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotTreeReply {
    /// The snapshot.
    pub info: SnapshotInfo,
    /// Its tree.
    pub tree: Link,
}

/// Writes a snapshot, or a part of it, to disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// Which.
    #[serde(flatten)]
    pub of: SnapshotRef,
    /// Path inside the snapshot whose content goes straight into the target; empty: everything, below its whole path.
    #[serde(default, with = "path")]
    pub path: PathBuf,
    /// Absolute path of the directory to write to.
    #[serde(with = "path")]
    pub target: PathBuf,
    /// Patterns of what to restore; none: everything. A relative one with a slash starts at `path`,
    /// and without a path at what was backed up.
    #[serde(default)]
    pub include: Vec<String>,
    /// Patterns of what comes before everything else.
    #[serde(default)]
    pub first: Vec<String>,
    /// Newest files first.
    #[serde(default)]
    pub newest_first: bool,
    /// What to do with files that exist.
    pub overwrite: Overwrite,
    /// Read everything back from disk and compare.
    #[serde(default)]
    pub verify: bool,
    /// Restore owners and groups as far as the node may: as root all of them, and devices too.
    #[serde(default)]
    pub owners: bool,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
}
call!(Restore, "restore", RestoreReply);

/// What [`Restore`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreReply {
    /// The snapshot's id in hex.
    pub snapshot: String,
    /// When it was made.
    pub time: Timestamp,
    /// The name of the machine that made it.
    #[serde(default)]
    pub machine: String,
    /// Name of the set; empty for paths given by hand.
    #[serde(default)]
    pub set: String,
    /// Regular files that are in place now, also those that were there already; after a dry run, that would be.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether every byte of every file that was to be restored was checked and is in place: bytes
    /// that were written against their hash, and with `verify` all of them again after they were
    /// read back from disk. Without `verify` not so when there are `unchanged` files: nobody looked
    /// into these.
    pub verified: bool,
    /// Files that were there already with the right size and time, and with `verify` the right
    /// bytes.
    pub unchanged: u64,
    /// Files that were there, differ, and were left alone.
    pub skipped: u64,
    /// What could not be restored.
    pub missing: Vec<MissingPart>,
    /// How many parts that are in all.
    pub missing_total: u64,
    /// Attributes that the system refused to files that are there.
    #[serde(default)]
    pub refused: Vec<MissingPart>,
    /// Number of all such attributes.
    #[serde(default)]
    pub refused_total: u64,
    /// Entries whose owner or group is another than it was: only root can give them away.
    #[serde(default)]
    pub kept_owners: u64,
    /// Entries that did not get their setuid or setgid bit back, because they belong to somebody
    /// else.
    #[serde(default)]
    pub lost_powers: u64,
    /// Notes on how the snapshot was found.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The newest snapshot could not be read, and this is an earlier one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fell_back: bool,
    /// Peers that gave blocks.
    pub from: Vec<Giver>,
    /// Patterns that matched nothing.
    #[serde(default)]
    pub unmatched: Vec<String>,
    /// Where it was written.
    #[serde(with = "path")]
    pub target: PathBuf,
}

/// A part that could not be restored or read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissingPart {
    /// The file or directory, as [`shown`].
    pub path: String,
    /// The path's bytes where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// The block that could not be had, where that is why.
    pub block: Option<BlockId>,
    /// Why.
    pub reason: String,
}

impl MissingPart {
    /// Names a part.
    pub fn new(path: &Path, block: Option<BlockId>, reason: String) -> Self {
        let bytes = path.as_os_str().as_bytes();
        Self {
            path: shown(bytes),
            path_hex: hex(bytes),
            block,
            reason,
        }
    }
}

/// Writes a snapshot as a tar stream: the answer is bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreTar {
    /// Which.
    #[serde(flatten)]
    pub of: SnapshotRef,
    /// Path inside the snapshot.
    #[serde(default, with = "path")]
    pub path: PathBuf,
    /// Patterns of what to restore, as in [`Restore`]; none: everything.
    #[serde(default)]
    pub include: Vec<String>,
}

/// Looks for files by name in all snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindFile {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// A pattern in the syntax of `.gitignore`. A relative one matches at any depth, also with a
    /// slash inside.
    pub pattern: String,
    /// Only in this snapshot.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// Only in these snapshots; a snapshot that is named must be one of them.
    #[serde(default)]
    pub choice: Choice,
    /// Most matches.
    pub limit: u64,
    /// Seconds to look for a block.
    pub timeout_s: u64,
}
call!(FindFile, "find-file", FindFileReply);

/// What [`FindFile`] found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindFileReply {
    /// Matches, newest snapshot first.
    pub matches: Vec<FoundFile>,
    /// There are more.
    pub more: bool,
    /// Parts of trees that could not be read.
    pub missing: Vec<MissingPart>,
}

/// A file in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundFile {
    /// The snapshot's id in hex.
    pub snapshot: String,
    /// When it was made.
    pub time: Timestamp,
    /// Absolute path, as [`shown`].
    pub path: String,
    /// The path's bytes where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// `file`, `dir`, `symlink`, ...
    pub kind: String,
    /// Bytes of content.
    pub bytes: u64,
    /// When it was last changed, in seconds since 1970.
    pub mtime_s: i64,
}

/// Compares two snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Diff {
    /// Who speaks.
    #[serde(default)]
    pub speaker: Speaker,
    /// The earlier one.
    pub a: String,
    /// The later one.
    pub b: String,
    /// Snapshots among which both are.
    #[serde(default)]
    pub choice: Choice,
    /// Most changes that are listed; the sums count all.
    pub limit: u64,
    /// Seconds to look for a block.
    pub timeout_s: u64,
}
call!(Diff, "diff", DiffReply);

/// What [`Diff`] found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DiffReply {
    /// Changes in the order of paths.
    pub changes: Vec<ChangedFile>,
    /// There are more than are listed.
    pub more: bool,
    /// Names that are new.
    pub added: u64,
    /// Names that are gone.
    pub removed: u64,
    /// Files whose content changed.
    pub changed: u64,
    /// Names whose attributes changed, or whose kind did.
    pub attributes: u64,
    /// Bytes of files that are new, or new in content.
    pub added_bytes: u64,
    /// Bytes of files that are gone, or of the old content.
    pub removed_bytes: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedFile {
    /// `added`, `removed`, `content`, `attributes` or `kind`.
    pub change: String,
    /// Absolute path, as [`shown`].
    pub path: String,
    /// The path's bytes where they are not UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
}
