//! Calls about copies of backups on other machines.

use serde::{Deserialize, Serialize};

use super::{Call, call};
use crate::time::Timestamp;

/// Lists the leases of this machine's backups.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaseList {}
call!(LeaseList, "lease-list", LeaseListReply);

/// What [`LeaseList`] found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseListReply {
    /// The leases, by snapshot and holder.
    pub leases: Vec<LeaseEntry>,
}

/// A copy of a snapshot at a holder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseEntry {
    /// The snapshot's id, in hex.
    pub snapshot: String,
    /// Its set.
    pub set: String,
    /// The holder.
    pub peer: String,
    /// The lease's name, in hex.
    pub name: String,
    /// The sequence of its newest form.
    pub sequence: u64,
}

/// Lists the backups of others that this node keeps.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaseHeld {}
call!(LeaseHeld, "lease-held", LeaseHeldReply);

/// Result of [`LeaseHeld`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseHeldReply {
    /// The leases, by the member that brought them and by age.
    pub leases: Vec<HeldLease>,
    /// Bytes of the blocks that only leases keep; what several share counts once.
    pub bytes: u64,
}

/// A backup of somebody else's that is kept here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// The lease's name, in hex.
    pub name: String,
    /// The owner's public key, in hex.
    pub owner: String,
    /// The peer that brought it, or made it longer; empty when that is not known.
    pub peer: String,
    /// Name of that peer's machine, when it is a member; else empty.
    pub machine: String,
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether all of them are here.
    pub whole: bool,
    /// When it came.
    pub received: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Whether that peer was removed from the ring.
    pub removed: bool,
}

/// Ends leases that this node keeps, at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseDrop {
    /// Their names, in hex.
    pub names: Vec<String>,
}
call!(LeaseDrop, "lease-drop", LeaseDropReply);

/// Result of [`LeaseDrop`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseDropReply {
    /// Leases that ended.
    pub dropped: u64,
    /// Bytes that are kept for nobody any more.
    pub bytes: u64,
}

/// Ends leases by releases that the owner itself has signed. No other copies are made of their snapshots. Releases that name no holder go to all members
/// of the rings of this node, whether or not it knows of any lease there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseRelease {
    /// What to end.
    pub releases: Vec<OwnerRelease>,
}
call!(LeaseRelease, "lease-release", LeaseReleaseReply);

/// The end of one lease, or of all of a snapshot or of the owner.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnerRelease {
    /// The snapshot's id, in hex; empty for all.
    pub snapshot: String,
    /// The holder; empty for all members of the rings.
    pub peer: String,
    /// The signed release, in hex.
    pub release: String,
}

/// What [`LeaseRelease`] did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaseReleaseReply {
    /// Leases that their holders have ended.
    #[serde(default)]
    pub released: u64,
    /// Holders that could not be asked. What they keep ends when its minimum is over, or its term.
    pub unreachable: Vec<String>,
    /// Holders that refused.
    pub refused: Vec<String>,
    /// What each member of the rings said that was asked for all leases that it has.
    #[serde(default)]
    pub members: Vec<MemberRelease>,
}

/// What a member of a ring let go of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRelease {
    /// The member.
    pub peer: String,
    /// What its machine is called.
    pub name: String,
    /// Leases that it has ended.
    pub released: u64,
    /// Leases that are newer than the release, and stay.
    pub newer: u64,
    /// `done`, `unreachable` or `refused`.
    pub answer: ReleaseAnswer,
}

/// How a member answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseAnswer {
    /// It has ended what it had, which may be nothing.
    #[default]
    Done,
    /// It could not be asked.
    Unreachable,
    /// It refused.
    Refused,
}
