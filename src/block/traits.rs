//! What turning files into blocks needs of the world: somewhere to get blocks, somewhere to put them, and an index of what is
//! there already.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use super::{Block, Ref};
use crate::id::BlockId;

/// One peer that was asked for a block and did not give it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tried {
    /// The peer, as text.
    pub peer: String,
    /// What came of it.
    pub attempt: Attempt,
}

/// What came of asking one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Attempt {
    /// It said that it doesn't have the block.
    DontHave,
    /// It was too busy, each time.
    Busy,
    /// It sent other bytes.
    WrongBytes,
    /// It could not be reached.
    Unreachable,
    /// It did not answer in time.
    TimedOut,
    /// It broke the protocol or closed the connection.
    Failed,
    /// It wants more for its blocks than is offered.
    RateTooLow {
        /// What it wants, in millionths of a unit a MiB.
        wanted: u64,
    },
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DontHave => "does not have it",
            Self::Busy => "was busy",
            Self::WrongBytes => "sent wrong bytes",
            Self::Unreachable => "could not be reached",
            Self::TimedOut => "did not answer in time",
            Self::Failed => "broke off",
            Self::RateTooLow { wanted } => {
                return write!(f, "wants a rate of {wanted}, more than is offered");
            }
        })
    }
}

/// Why a block could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// Nobody who was asked has it, or nobody could be asked.
    #[error("block {id} was not found within {} s: {}", .after.as_secs(), describe(.tried))]
    NotFound {
        /// The block.
        id: BlockId,
        /// How long the search went on.
        after: Duration,
        /// Who was asked, and what each said.
        tried: Vec<Tried>,
    },
    /// The stored bytes are damaged and no other copy was found.
    #[error("block {id} is damaged in the store")]
    Corrupt {
        /// The block.
        id: BlockId,
    },
    /// The store failed.
    #[error("the store could not read block {id}")]
    Store {
        /// The block.
        id: BlockId,
        /// What the store said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

fn describe(tried: &[Tried]) -> String {
    if tried.is_empty() {
        return "no peer that has it is known".to_owned();
    }
    let mut parts: Vec<String> = tried
        .iter()
        .take(8)
        .map(|t| format!("{} {}", t.peer, t.attempt))
        .collect();
    if tried.len() > parts.len() {
        parts.push(format!("and {} more", tried.len() - parts.len()));
    }
    parts.join("; ")
}

impl GetError {
    /// Whether asking again later may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotFound { .. } | Self::Store { .. } => true,
            Self::Corrupt { .. } | Self::Stopping => false,
        }
    }
}

/// Why blocks could not be kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The quota is used up, even after dropping what may be dropped.
    #[error("the store is full: {used} of {quota} bytes are used and {needed} more are needed")]
    Full {
        /// Bytes on disk.
        used: u64,
        /// The limit in bytes.
        quota: u64,
        /// Bytes that did not fit.
        needed: u64,
    },
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// The disk or the store's directory is read-only.
    #[error("the store can't be written: its disk or directory is read-only")]
    ReadOnly,
    /// The store failed.
    #[error("the store could not write")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

/// What a put did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PutStats {
    /// Blocks that were not there before.
    pub new_blocks: u64,
    /// Their bytes.
    pub new_bytes: u64,
}

/// Somewhere to get blocks from: a store, a network, or both.
#[async_trait]
pub trait BlockSource: Send + Sync {
    /// The block that `id` names, verified.
    ///
    /// # Errors
    /// [`GetError`]. Bounded in time by the source.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the search; nothing is left half done.
    async fn get(&self, id: BlockId) -> Result<Block, GetError>;

    /// Which of `ids`, all of which will be asked for soon, is best asked for now, as an index. For readers who don't care about the order.
    fn first_of(&self, ids: &[BlockId]) -> usize {
        let _ = ids;
        0
    }
}

/// Somewhere to put blocks.
///
/// What was put is *acknowledged* only by [`commit`](Self::commit): before that it may be lost in a crash, and what is lost takes
/// everything put after it along, never something before it.
#[async_trait]
pub trait BlockSink: Send + Sync {
    /// Keeps `blocks`. Those that are there already cost next to nothing.
    ///
    /// # Errors
    /// [`PutError`]: none of the blocks is then sure to be kept, those of earlier calls are.
    async fn put(&self, blocks: Vec<Block>) -> Result<PutStats, PutError>;

    /// Returns once everything put before is on durable storage.
    ///
    /// # Errors
    /// [`PutError`].
    async fn commit(&self) -> Result<(), PutError>;
}

/// Name of a chunk in the local index: a keyed hash of its plaintext.
pub type ChunkHash = [u8; 32];

/// The index failed. Losing it costs time and space, never data.
#[derive(Debug, thiserror::Error)]
#[error("the chunk index failed")]
pub struct IndexError(#[source] pub Box<dyn std::error::Error + Send + Sync>);

/// Local index from chunk to where it is already stored, so that an unchanged chunk costs no sealing.
///
/// Calls block for a few microseconds an entry: for worker threads.
pub trait ChunkIndex: Send + Sync {
    /// For each hash the place of the chunk, if its block is in the store now.
    ///
    /// # Errors
    /// [`IndexError`].
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError>;

    /// Remembers where chunks are. Call it after the blocks were put: an entry never outlives a crash that its block did not.
    ///
    /// # Errors
    /// [`IndexError`].
    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError>;

    /// Has blocks that are in the store already kept as the blocks of this piece of work are. Returns those of `ids` that are not
    /// there: they have to be put. An index that knows no store says that of all.
    ///
    /// # Errors
    /// [`IndexError`].
    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        Ok(ids.to_vec())
    }
}
