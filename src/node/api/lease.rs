//! Calls about copies of backups on other machines.

use serde::{Deserialize, Serialize};

use super::{Call, call};

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

/// Ends leases by releases that the owner itself has signed. No other copies are made of their snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaseRelease {
    /// What to end.
    pub releases: Vec<OwnerRelease>,
}
call!(LeaseRelease, "lease-release", LeaseReleaseReply);

/// The end of one lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnerRelease {
    /// The snapshot's id, in hex.
    pub snapshot: String,
    /// The holder.
    pub peer: String,
    /// The signed release, in hex.
    pub release: String,
}

/// What [`LeaseRelease`] did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaseReleaseReply {
    /// Leases that their holders have ended.
    pub released: u64,
    /// Holders that could not be asked. What they keep ends when its minimum is over, or its term.
    pub unreachable: Vec<String>,
    /// Holders that refused.
    pub refused: Vec<String>,
}
