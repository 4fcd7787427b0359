//! What the store takes and gives: options, classes, pins, statistics.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::counters::Counters;
use crate::block::Link;
use crate::crypto::hash;
use crate::id::BlockId;
use crate::size::{ByteSize, GIB};
use crate::time::{Clock, SystemClock, Timestamp};

/// Most pins a store keeps, finished or not.
pub const MAX_PINS: usize = 65_536;
/// Longest name of a pin in bytes; longer ones are cut at a character.
pub const MAX_PIN_NAME_BYTES: usize = 1024;

/// Most leases a store keeps.
pub const MAX_LEASES: usize = 65_536;
/// Most bytes of what a lease promises.
pub const MAX_TERMS_BYTES: usize = 2048;

/// Purpose of opening a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// To read and write; on a disk without room it does not open.
    #[default]
    Write,
    /// To make room: as [`Write`](Self::Write), and on a full disk the room that is set aside for
    /// this is given up first.
    MakeRoom,
    /// Only to read, as the store can't be written. Nothing on disk changes.
    Read(Unwritable),
}

/// Why a store can't be written. Decides what a write is refused with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwritable {
    /// The disk is full.
    DiskFull,
    /// The disk or the directory is read-only.
    ReadOnly,
}

/// How a store is opened.
#[derive(Clone)]
pub struct StoreOptions {
    /// Purpose of opening.
    pub access: Access,
    /// Limit for everything in the store's directory, and for what is not written there yet.
    pub quota: ByteSize,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
    /// Blocks that are not here but whose statistics are remembered, at most; the oldest are forgotten.
    pub max_gone_stats: u64,
    /// Entries of each table of the record shelf, at most.
    pub max_records: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            access: Access::default(),
            quota: ByteSize(50 * GIB),
            clock: Arc::new(SystemClock),
            max_gone_stats: 100_000,
            max_records: 1_000_000,
        }
    }
}

impl fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreOptions")
            .field("access", &self.access)
            .field("quota", &self.quota)
            .field("max_gone_stats", &self.max_gone_stats)
            .field("max_records", &self.max_records)
            .finish_non_exhaustive()
    }
}

/// Why a block is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It passes through or is popular: it may be evicted.
    Cached,
    /// A pin refers to it.
    Pinned(PinId),
    /// A pin refers to it, and it writes down what is to go: it may use the room that is kept free
    /// of other blocks, and on a full disk the room that is set aside for removing.
    Removing(PinId),
}

impl Keep {
    /// The pin that refers to the block.
    pub const fn pin(self) -> Option<PinId> {
        match self {
            Self::Cached => None,
            Self::Pinned(pin) | Self::Removing(pin) => Some(pin),
        }
    }
}

/// Why a block is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A pin refers to it: never evicted.
    Pinned,
    /// A lease of an owner refers to it: kept until it ends.
    Leased,
    /// Nothing refers to it: evicted when room is needed.
    Cached,
}

impl Class {
    /// The name in output: `pinned`, `leased`, `cached`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Leased => "leased",
            Self::Cached => "cached",
        }
    }
}

/// Why a block is here, as far as announcing it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// A pin refers to it that is not of a backup.
    Pinned,
    /// Only pins of backups refer to it, and perhaps leases.
    Backup,
    /// Only leases refer to it.
    Leased,
    /// Nothing refers to it.
    Cached,
}

/// Place of a key in the keyspace of the DHT: the SHA-256 of its bytes, as Kademlia has it. The
/// nearest of two places is told by XOR, so places that begin alike are near each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(pub [u8; 32]);

impl Place {
    /// The place of a block's key.
    pub fn of(id: &BlockId) -> Self {
        Self(hash::sha256(&[&id.to_multihash()]))
    }
}

/// Number of a pin in one store. Numbers are never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PinId(pub u64);

impl fmt::Display for PinId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Number of a lease in one store. Numbers are never used twice, not for pins either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What refers to blocks. Pins come first, so that the first holder of a block tells its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Holder {
    Pin(PinId),
    Lease(LeaseId),
}

impl From<PinId> for Holder {
    fn from(pin: PinId) -> Self {
        Self::Pin(pin)
    }
}

impl From<LeaseId> for Holder {
    fn from(lease: LeaseId) -> Self {
        Self::Lease(lease)
    }
}

/// What a lease is, as far as the store needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The root block.
    pub root: BlockId,
    /// What was promised, in the words of who promised it: at most [`MAX_TERMS_BYTES`].
    pub terms: Bytes,
    /// When it ends, by this machine's clock.
    pub until: Timestamp,
    /// Blocks that it is about.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether all of them came.
    pub complete: bool,
}

/// What a finished pin is. As secret as its link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinInfo {
    /// The root block.
    pub root: BlockId,
    /// The link, when the key is known: raw blocks have none.
    pub link: Option<Link>,
    /// A name to show in lists.
    pub name: String,
    /// Bytes of content.
    pub bytes: u64,
    /// Regular files.
    pub files: u64,
    /// Blocks.
    pub blocks: u64,
    /// When it was made.
    pub created: Timestamp,
}

/// Something that happened to a block and is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Asked for, by a peer or a command.
    Requested,
    /// Fetched from the network.
    Downloaded,
    /// Given to a peer.
    Served,
}

/// How often and when something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// First time; missing when never.
    pub first: Option<Timestamp>,
    /// Last time; missing when never.
    pub last: Option<Timestamp>,
    /// Times in all.
    pub count: u64,
}

/// What is known about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStat {
    /// Whether it is here now.
    pub local: bool,
    /// Whether it was here and was dropped, by eviction, damage or by name.
    pub deleted: bool,
    /// Size in bytes, when it is here.
    pub bytes: Option<u32>,
    /// Why it is here, when it is.
    pub class: Option<Class>,
    /// Pins that refer to it.
    pub pins: u64,
    /// Leases that refer to it.
    pub leases: u64,
    /// When it came, when it is here.
    pub added: Option<Timestamp>,
    /// Asked for.
    pub requested: Counter,
    /// Fetched from the network.
    pub downloaded: Counter,
    /// Given to peers.
    pub served: Counter,
    /// Dropped.
    pub purged: Counter,
}

/// How much is in a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Bytes of blocks that pins refer to.
    pub pinned_bytes: u64,
    /// Bytes of blocks that only leases refer to.
    pub leased_bytes: u64,
    /// Bytes of blocks that may be evicted.
    pub cached_bytes: u64,
    /// Bytes on disk, all in all, with what is not written yet.
    pub disk_bytes: u64,
    /// The limit for `disk_bytes`.
    pub quota: u64,
    /// Bytes of dropped blocks that still take space.
    pub dead_bytes: u64,
    /// Pins.
    pub pins: u64,
    /// Damaged blocks found, ever.
    pub corrupt: u64,
    /// From how many `disk_bytes` on a block that comes makes others go.
    pub evicts_at_bytes: u64,
    /// Bytes of cached blocks that are marked as expendable, about.
    pub expendable_bytes: u64,
    /// Blocks evicted, ever.
    pub evicted: u64,
    /// Those of them of which no other copy was known.
    pub evicted_unsure: u64,
}

/// Outcome of one call of `remove_pins`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemovedPins {
    /// Pins that were removed.
    pub pins: u64,
    /// Blocks that nothing keeps any more.
    pub freed_blocks: u64,
}

/// What one call of `maintain` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Maintained {
    /// Bytes of dropped blocks whose space came back.
    pub reclaimed_bytes: u64,
    /// Whether there is more to do than was done.
    pub more: bool,
}

/// What one call of `check` found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Blocks read.
    pub checked: u64,
    /// Those that are damaged.
    pub corrupt: Vec<BlockId>,
    /// Blocks that can't be read now.
    pub unreadable: Vec<BlockId>,
    /// The last id read: where to go on. Missing when there was nothing to read.
    pub last: Option<BlockId>,
}

impl PinInfo {
    /// Cuts the name to what is stored.
    pub(super) fn with_short_name(mut self) -> Self {
        let end = self.name.floor_char_boundary(MAX_PIN_NAME_BYTES);
        self.name.truncate(end);
        self
    }
}

/// Puts together what is known about a block: of one that is here its size, class and arrival.
pub(super) fn block_stat(
    here: Option<(u32, Class, Timestamp)>,
    pins: u64,
    leases: u64,
    counters: &Counters,
) -> BlockStat {
    BlockStat {
        local: here.is_some(),
        deleted: here.is_none() && counters.purged.count > 0,
        bytes: here.map(|(bytes, ..)| bytes),
        class: here.map(|(_, class, _)| class),
        pins,
        leases,
        added: here.map(|(.., added)| added),
        requested: counters.requested,
        downloaded: counters.downloaded,
        served: counters.served,
        purged: counters.purged,
    }
}
