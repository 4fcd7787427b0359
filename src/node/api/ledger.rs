//! Calls about what peers have done for each other.

use serde::{Deserialize, Serialize};

use super::{Call, call};
use crate::depot::ledger::Amount;
use crate::net::exchange::Standing;

/// Lists what this node and each other one have done for each other.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Ledger {}
call!(Ledger, "ledger", LedgerReply);

/// The ledger.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LedgerReply {
    /// Those with whom most was exchanged first; peers that are not connected, too.
    pub peers: Vec<LedgerPeer>,
}

/// One peer of the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerPeer {
    /// The peer.
    pub peer: String,
    /// How it stands: `member`, `even`, `newcomer` or `free_rider`.
    pub standing: Standing,
    /// Served to it.
    pub served: Amount,
    /// Taken from it.
    pub taken: Amount,
    /// Blocks from it that were not what was asked for.
    pub wrong_blocks: u64,
    /// What it keeps for this node's backups: whole copies.
    pub keeps_for_us: Amount,
    /// What this node keeps by leases that the peer brought.
    pub kept_for_it: Amount,
    /// Seconds since something was exchanged; missing when nothing ever was.
    pub seen_s_ago: Option<u64>,
    /// Whether it is connected now.
    pub connected: bool,
}

/// Limits on bandwidth and space, and rates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Bytes of blocks served in a second; 0: no limit.
    pub up: u64,
    /// Bytes of blocks fetched in a second; 0: no limit.
    pub down: u64,
    /// Local hours in which the two hold; empty: always.
    pub hours: String,
    /// Whether they hold now.
    pub holding: bool,
    /// Most bytes that are lent to others.
    pub lend: u64,
    /// Who offers less for a MiB of blocks gets none.
    pub min_rate: u64,
    /// What is offered for a MiB of blocks.
    pub offer_rate: u64,
}
