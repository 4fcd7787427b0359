//! Calls about single blocks.

use serde::{Deserialize, Serialize};

use super::{Call, call};
use crate::block::Link;
use crate::id::BlockId;
use crate::time::Timestamp;

/// Gets one block as it is. Answered as bytes, not as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockGet {
    /// The block.
    pub id: BlockId,
    /// Seconds to look for it.
    pub timeout_s: u64,
}

/// Stores the request's body as one block, pinned. Sent as bytes, with this as the query of the
/// URL.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BlockPut {
    /// The id that the bytes must have. When missing they are named by their SHA2-384.
    #[serde(default)]
    pub id: Option<BlockId>,
}

/// What [`BlockPut`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockPutReply {
    /// The block.
    pub id: BlockId,
    /// Its digest as hex digits.
    pub hex: String,
    /// Its size.
    pub bytes: u64,
}

/// Asks whether the store has a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockHas {
    /// The block.
    pub id: BlockId,
}
call!(BlockHas, "block-has", BlockHasReply);

/// Whether the store has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockHasReply {
    /// The block.
    pub id: BlockId,
    /// Whether it is here.
    pub has: bool,
}

/// Tells what is known about a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockStat {
    /// The block.
    pub id: BlockId,
}
call!(BlockStat, "block-stat", BlockStatReply);

/// What is known about a block.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockStatReply {
    /// The block.
    pub id: BlockId,
    /// Whether it is here now. Statistics of blocks that were purged are kept for a while.
    pub local: bool,
    /// Whether it was here and was dropped.
    #[serde(default)]
    pub deleted: bool,
    /// Size in bytes, when it is here.
    pub bytes: Option<u64>,
    /// `pinned`, `leased` or `cached`.
    pub class: Option<String>,
    /// Pins that keep it.
    pub pins: u64,
    /// Asked for, by peers or by commands.
    pub requested: Usage,
    /// Fetched from the network.
    pub downloaded: Usage,
    /// Given to peers.
    pub served: Usage,
    /// Dropped.
    pub purged: Usage,
}

/// Sums up how the blocks of a bundle were used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BundleStat {
    /// The bundle.
    pub link: Link,
    /// Seconds to look for one block of its tree.
    pub timeout_s: u64,
}
call!(BundleStat, "bundle-stat", BundleStatReply);

/// How the blocks of a bundle were used, all in all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleStatReply {
    /// Blocks of the bundle.
    pub blocks: u64,
    /// Blocks of it that are here.
    pub local: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blocks of it that were here and were dropped.
    pub deleted: u64,
    /// Asked for: first and last time of any block, and the sum of all.
    pub requested: Usage,
    /// Fetched from the network.
    pub downloaded: Usage,
    /// Given to peers.
    pub served: Usage,
    /// Dropped.
    pub purged: Usage,
}

/// How often and when something happened to a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// First time.
    pub first: Option<Timestamp>,
    /// Last time.
    pub last: Option<Timestamp>,
    /// Times in all.
    pub count: u64,
}

impl Usage {
    /// Adds what happened to another block.
    pub fn add(&mut self, other: &Self) {
        self.first = match (self.first, other.first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
    }
}

/// Lists blocks, a page at a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockLs {
    /// The last id of the page before.
    #[serde(default)]
    pub after: Option<BlockId>,
    /// Only ids whose first 16 bits are those of this one.
    #[serde(default)]
    pub like: Option<BlockId>,
    /// Most ids to return.
    pub limit: u64,
}
call!(BlockLs, "block-ls", BlockLsReply);

/// One page of blocks.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockLsReply {
    /// The blocks, ordered by id.
    pub blocks: Vec<BlockItem>,
    /// Whether there are more.
    pub more: bool,
}

/// One block of a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockItem {
    /// The block.
    pub id: BlockId,
    /// Its size.
    pub bytes: u64,
}

/// Drops a block from the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockRm {
    /// The block.
    pub id: BlockId,
    /// Drop it although a pin keeps it.
    #[serde(default)]
    pub force: bool,
}
call!(BlockRm, "block-rm", BlockRmReply);

/// What [`BlockRm`] did.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BlockRmReply {
    /// Whether the block was there.
    pub removed: bool,
}
