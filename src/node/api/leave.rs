//! The call that leaves.

use serde::{Deserialize, Serialize};

use super::{Call, call};

/// Hands over what this node keeps for others, and lets go of it. Until it is started again it then takes nothing more for others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leave {
    /// Seconds that it may take.
    pub timeout_s: u64,
    /// Whether to leave the rings as well, at the end.
    #[serde(default)]
    pub rings: bool,
    /// Whether leases end here even if nobody else took their blocks.
    #[serde(default)]
    pub force: bool,
}
call!(Leave, "leave", LeaveReply);

/// What [`Leave`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveReply {
    /// Whether another node has all that was kept here for others.
    pub complete: bool,
    /// Leases that ended here.
    pub leases_ended: u64,
    /// Leases that stay, because not all their blocks were found elsewhere.
    pub leases_kept: u64,
    /// Blocks of leases that another node has.
    pub leased_safe: u64,
    /// Blocks of leases that no other node was found to have.
    pub leased_alone: u64,
    /// Cached blocks that another node has.
    pub cached_safe: u64,
    /// Cached blocks that no other node was found to have.
    pub cached_alone: u64,
    /// Blocks that were given to another node now.
    pub handed_over: u64,
    /// Their bytes.
    pub handed_over_bytes: u64,
    /// The rings that were left.
    pub rings: Vec<String>,
}
