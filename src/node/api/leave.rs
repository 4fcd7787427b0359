//! The calls that leave, and take that back.

use serde::{Deserialize, Serialize};

use super::{Call, call};

/// Hands over what this node keeps for others, and lets go of it. Until it is started again, or told to [stay](LeaveCancel), it then takes nothing more
/// for others. If this fails, or nobody waits for the answer any more, the node goes on as before.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Leave {
    /// Seconds that it may take; when missing, it goes on for as long as something is handed over.
    #[serde(default)]
    pub timeout_s: Option<u64>,
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
    /// Leases that ended here: the sum of the next five.
    pub leases_ended: u64,
    /// Those that another member keeps now.
    #[serde(default)]
    pub leases_passed: u64,
    /// Those that as many others keep as were asked for.
    #[serde(default)]
    pub leases_spare: u64,
    /// Those whose blocks others have only cached: nothing keeps them there.
    #[serde(default)]
    pub leases_cached: u64,
    /// Those that never got whole here, so that their owners were told of no copy.
    #[serde(default)]
    pub leases_unfinished: u64,
    /// Those that ended by force, with blocks that nobody took.
    #[serde(default)]
    pub leases_dropped: u64,
    /// Leases that stay, because nobody took them or not all of their blocks.
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

/// Takes back that the node is leaving.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LeaveCancel {}
call!(LeaveCancel, "leave-cancel", LeaveCancelReply);

/// What [`LeaveCancel`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveCancelReply {
    /// Whether the node was leaving.
    pub was_leaving: bool,
}
