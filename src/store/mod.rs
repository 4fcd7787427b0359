//! The block store: blocks, why each is here, how each is used, and what else a node must remember.
//!
//! - [`Store`]: the trait; [`RocksStore`] on disk, [`MemoryStore`] for tests and throw-away nodes. One conformance suite holds both.
//! - [`RecordShelf`]: small records for the DHT, beside the blocks and never in their way.
//!
//! Invariants:
//! - *A suffix only.* What is put is durable after [`Store::flush`]; a crash before that loses the newest changes together, never
//!   something older, and never a block without what refers to it or the other way round.
//! - *Pinned stays.* A block that a pin or a lease refers to is never evicted; it goes only when it is damaged or discarded by
//!   name, and then the references are kept, so that it can be fetched again ([`Store::lost`]).
//! - *The quota is hard.* A put that would not fit evicts cached blocks, or is refused: cached blocks have what pinned and leased ones leave.
//!   Those go first that are known to be elsewhere ([`Store::mark_expendable`]), then the cold ones, oldest arrival first; one that was
//!   asked for often or lately has a second chance.
//!
//! Deliberately absent: the network, hashing on the read path (whoever is handed a block over the network checks it; here RocksDB's
//! checksums guard the bytes), async. Every call may block on the disk: call from worker or blocking threads.

mod coldness;
mod counters;
mod error;
mod likest;
mod memory;
mod records;
mod rocks;
mod types;

#[cfg(test)]
mod conformance;

use crate::block::{Block, ChunkIndex, PutStats};
use crate::id::BlockId;
use crate::size::ByteSize;
use crate::time::Timestamp;

pub use coldness::MAX_EXPENDABLE;
pub use error::Error;
pub use memory::MemoryStore;
pub use records::{MAX_RECORD_KEY_BYTES, MAX_RECORD_VALUE_BYTES, Record, RecordShelf, RecordTable};
pub use rocks::RocksStore;
pub use rocks::lock::held;
pub use rocks::rebuild::{PartialPin, Rebuilt, rebuild};
pub use types::{
    Access, BlockStat, Check, Class, Counter, Event, Keep, LeaseId, LeaseInfo, MAX_LEASES,
    MAX_PIN_NAME_BYTES, MAX_PINS, MAX_TERMS_BYTES, Maintained, PinId, PinInfo, Place, RemovedPins,
    StoreOptions, Unwritable, Usage, Why,
};

/// Where blocks are kept.
///
/// A store is a [`ChunkIndex`] too: `Arc<dyn Store>` coerces to `Arc<dyn ChunkIndex>`. All calls block; all are safe from several threads at once. Writers take turns; readers never wait for them.
pub trait Store: ChunkIndex + Send + Sync + 'static {
    /// Keeps `blocks`. One that is here already costs a look-up, and with [`Keep::Pinned`] gains the pin's reference. Not durable
    /// before [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::DiskFull`] when there is no room even after evicting what may be evicted;
    /// [`Error::NoSuchPin`]; [`Error::Backend`]. Some of the blocks may then be kept and others not.
    fn put(&self, blocks: &[Block], keep: Keep) -> Result<PutStats, Error>;

    /// Returns once everything put before is on durable storage. Callers at the same time share one flush; when nothing was written since the last
    /// one, there is none.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Backend`].
    fn flush(&self) -> Result<(), Error>;

    /// Whether all that a reader sees is on durable storage. A look into memory; it may say no where a flush would find nothing to do.
    fn is_durable(&self) -> bool {
        false
    }

    /// The block that `id` names, if it is here. Its bytes passed the store's checksum; they are not hashed again.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the stored bytes are damaged: call
    /// [`remove_corrupt`](Self::remove_corrupt) then. [`Error::Unreadable`] when they can't be read
    /// now, which says nothing about them.
    fn get(&self, id: BlockId) -> Result<Option<Block>, Error>;

    /// As [`get`](Self::get), and hashes the bytes: about 3 ms a MiB.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn get_verified(&self, id: BlockId) -> Result<Option<Block>, Error> {
        let Some(block) = self.get(id)? else {
            return Ok(None);
        };
        match Block::verify(id, block.into_bytes()) {
            Ok(block) => Ok(Some(block)),
            Err(_) => Err(Error::Corrupt { id }),
        }
    }

    /// Whether the block is here. Reads the index only.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn has(&self, id: BlockId) -> Result<bool, Error>;

    /// What is known about a block: also about one that was here once, or was only asked for, as long as that is remembered.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn stat(&self, id: BlockId) -> Result<Option<BlockStat>, Error>;

    /// Up to `limit` blocks that are here, with their sizes in bytes, ordered by id, from the first after `after` on.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn list(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<(BlockId, u32)>, Error>;

    /// Up to `limit` blocks that are here and whose digest, of either hash function, shares at
    /// least the first `bits` bits, at most 16, with that of `id`. Those that share most come
    /// first; then they are ordered by id. With their sizes in bytes.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn like(&self, id: BlockId, bits: u32, limit: usize) -> Result<Vec<(BlockId, u32)>, Error>;

    /// Up to `limit` blocks that are here in the order of their places in the keyspace of the DHT,
    /// from the first behind `after` on.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn places(&self, after: Option<Place>, limit: usize) -> Result<Vec<(Place, BlockId)>, Error>;

    /// Whether [`places`](Self::places) knows every block. A store that an earlier version wrote
    /// learns them in [`maintain`](Self::maintain).
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn has_all_places(&self) -> Result<bool, Error> {
        Ok(true)
    }

    /// Why a block is here; none when it is not. `is_backup` says which pins are of backups; it may
    /// ask for [`pin_name`](Self::pin_name).
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn why(
        &self,
        id: BlockId,
        is_backup: &mut dyn FnMut(PinId) -> bool,
    ) -> Result<Option<Why>, Error>;

    /// The name of a pin, finished or not; none when it is gone or on its way out.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn pin_name(&self, pin: PinId) -> Result<Option<String>, Error>;

    /// Counts what happened to blocks, now. Kept in memory first and written in batches: a crash may lose the newest counts.
    fn record(&self, events: &[(BlockId, Event)]);

    /// Removes a block that nothing refers to. Returns whether it was here.
    ///
    /// # Errors
    /// [`Error::Held`] when a pin or lease refers to it.
    fn remove(&self, id: BlockId) -> Result<bool, Error>;

    /// Removes a block whatever refers to it. References are remembered: the block counts as [`lost`](Self::lost), and is pinned
    /// again as soon as it is put again. Returns whether it was here.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn discard(&self, id: BlockId) -> Result<bool, Error>;

    /// As [`discard`](Self::discard), for a block that [`get`](Self::get) or
    /// [`get_verified`](Self::get_verified) found damaged, and counts it. It is read and hashed
    /// once more: one that reads well by now is left alone. Returns whether it was removed.
    ///
    /// # Errors
    /// [`Error::Unreadable`]: it stays. [`Error::Backend`].
    fn remove_corrupt(&self, id: BlockId) -> Result<bool, Error>;

    /// Up to `limit` blocks that something refers to and that are not here, ordered by id, from the first after `after` on.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn lost(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockId>, Error>;

    /// Reads up to `limit` blocks after `after` and tells which are damaged, and which can't be
    /// read now. With `hash` their ids are checked too, not only the store's checksums. Removes
    /// nothing.
    ///
    /// # Errors
    /// [`Error::Backend`]. What is wrong with blocks is a result, not an error.
    fn check(&self, after: Option<BlockId>, limit: usize, hash: bool) -> Result<Check, Error> {
        let mut check = Check::default();
        for (id, _) in self.list(after, limit)? {
            let read = if hash {
                self.get_verified(id)
            } else {
                self.get(id)
            };
            match read {
                Ok(_) => {}
                Err(Error::Corrupt { id }) => check.corrupt.push(id),
                Err(Error::Unreadable { id, .. }) => check.unreadable.push(id),
                Err(error) => return Err(error),
            }
            check.checked += 1;
            check.last = Some(id);
        }
        Ok(check)
    }

    /// Starts a pin, to be filled by [`put`](Self::put) and [`add_refs`](Self::add_refs) and
    /// finished by [`finish_pin`](Self::finish_pin). `name` helps to recognise it in logs. A pin
    /// that its process did not finish is [abandoned](Self::abandon_pin) when the store is opened
    /// again.
    ///
    /// # Errors
    /// [`Error::TooManyPins`].
    fn begin_pin(&self, name: &str) -> Result<PinId, Error>;

    /// Makes blocks that are here pinned by this pin, too. Returns those of `ids` that are not here: they gain no reference.
    ///
    /// # Errors
    /// [`Error::NoSuchPin`].
    fn add_refs(&self, pin: PinId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error>;

    /// Makes a pin last, durably, together with everything put before.
    ///
    /// # Errors
    /// [`Error::NoSuchPin`], and as [`flush`](Self::flush).
    fn finish_pin(&self, pin: PinId, info: &PinInfo) -> Result<(), Error>;

    /// As [`finish_pin`](Self::finish_pin); then the finished pins that `replaces` picks go. Of
    /// callers that finish pins of the same content at the same time one pin stays: a pin whose
    /// place was taken by then takes nobody's. `replaces` must not call the store.
    ///
    /// # Errors
    /// As [`finish_pin`](Self::finish_pin): then no other pin was removed.
    fn finish_pin_in_place_of(
        &self,
        pin: PinId,
        info: &PinInfo,
        replaces: &mut dyn FnMut(&PinInfo) -> bool,
    ) -> Result<(), Error> {
        // The others go when this pin is durable and not before: each of them may be what an
        // acknowledged put relies on.
        self.finish_pin(pin, info)?;
        self.remove_pins(Some(pin), replaces).map(drop)
    }

    /// The finished pins, oldest first. At most [`MAX_PINS`].
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn pins(&self) -> Result<Vec<(PinId, PinInfo)>, Error>;

    /// Removes a pin, finished or not; its blocks become cached unless something else refers to them. Works in bounded batches and
    /// goes on after a crash. Returns how many blocks nothing keeps any more.
    ///
    /// # Errors
    /// [`Error::NoSuchPin`].
    fn remove_pin(&self, pin: PinId) -> Result<u64, Error>;

    /// As [`remove_pin`](Self::remove_pin), for one whose work was cut off: the blocks of it that
    /// nothing else keeps are remembered as [`leftovers`](Self::leftovers), until something keeps
    /// them or they go. Of a finished one nothing is.
    ///
    /// # Errors
    /// [`Error::NoSuchPin`].
    fn abandon_pin(&self, pin: PinId) -> Result<u64, Error>;

    /// Up to `limit` cached blocks, with their sizes in bytes, that came for pins which were
    /// abandoned at `before` or earlier, ordered by id, from the first after `after` on.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn leftovers(
        &self,
        before: Timestamp,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, Error>;

    /// Removes the finished pins that `chosen` picks, chosen and let go in one step: a pin that is
    /// finished beside this call is either seen or stays. With `beside`, that pin stays, and
    /// nothing is removed unless it is a finished pin itself. `chosen` must not call the store.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::DiskFull`].
    fn remove_pins(
        &self,
        beside: Option<PinId>,
        chosen: &mut dyn FnMut(&PinInfo) -> bool,
    ) -> Result<RemovedPins, Error>;

    /// Up to `limit` blocks of a pin, ordered by id, from the first after `after` on. Lost ones are among them.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn pin_blocks(
        &self,
        pin: PinId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error>;

    /// Starts a lease, to be filled by [`add_lease_refs`](Self::add_lease_refs). Unlike a pin it stays when the store is opened again before all
    /// its blocks came. Not durable before [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Error::TooManyLeases`], [`Error::TermsTooLarge`].
    fn begin_lease(&self, info: &LeaseInfo) -> Result<LeaseId, Error>;

    /// Makes blocks leased by this lease, also those that are not here: these count as [`lost`](Self::lost), and are leased as soon as
    /// they are put. Returns them.
    ///
    /// # Errors
    /// [`Error::NoSuchLease`].
    fn add_lease_refs(&self, lease: LeaseId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error>;

    /// Changes what is known of a lease: that all its blocks came, or that it was renewed. Durable, together with everything put before.
    ///
    /// # Errors
    /// [`Error::NoSuchLease`], [`Error::TermsTooLarge`], and as [`flush`](Self::flush).
    fn update_lease(&self, lease: LeaseId, info: &LeaseInfo) -> Result<(), Error>;

    /// The leases, oldest first, complete or not. At most [`MAX_LEASES`].
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn leases(&self) -> Result<Vec<(LeaseId, LeaseInfo)>, Error>;

    /// Removes a lease; its blocks become cached unless something else refers to them. Works as [`remove_pin`](Self::remove_pin).
    ///
    /// # Errors
    /// [`Error::NoSuchLease`].
    fn remove_lease(&self, lease: LeaseId) -> Result<u64, Error>;

    /// Removes several leases, which are made durable as one. What is gone already needs no removing. Returns how many blocks became cached.
    ///
    /// # Errors
    /// As [`flush`](Self::flush). Some may be removed then.
    fn remove_leases(&self, leases: &[LeaseId]) -> Result<u64, Error> {
        let mut freed = 0;
        for lease in leases {
            freed += match self.remove_lease(*lease) {
                Err(Error::NoSuchLease(_)) => 0,
                removed => removed?,
            };
        }
        Ok(freed)
    }

    /// Up to `limit` blocks of a lease, ordered by id, from the first after `after` on. Those that are not here are among them.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn lease_blocks(
        &self,
        lease: LeaseId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error>;

    /// Up to `limit` blocks, with their sizes in bytes, that eviction would take next of those that are not marked as expendable. Changes
    /// nothing. Warm blocks are not among them.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn coldest(&self, limit: usize) -> Result<Vec<(BlockId, u32)>, Error>;

    /// Marks cached blocks of which a copy was seen elsewhere: eviction takes them first. Marks are kept in memory, for a day, and at
    /// most [`MAX_EXPENDABLE`]; others are ignored, and so are blocks that are not here, or are pinned or leased. Returns how many were marked.
    ///
    /// # Errors
    /// [`Error::Backend`].
    fn mark_expendable(&self, ids: &[BlockId]) -> Result<usize, Error>;

    /// How much is here.
    fn usage(&self) -> Usage;

    /// Sets another limit for what is on disk. With a lower one, cached blocks make room at the
    /// next [`maintain`](Self::maintain) or put; nothing that is pinned or leased goes, and nothing
    /// new is taken until it fits again.
    fn set_quota(&self, quota: ByteSize);

    /// Makes room on a full disk for writing down, outside of the store, what is to be removed. What
    /// this store itself removes needs no call.
    fn make_way(&self) {}

    /// Does what has piled up: writes usage counters, goes on removing pins, gets the space of dropped blocks back, forgets chunks
    /// whose blocks are gone. Takes from microseconds to seconds; to be called every minute or so.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::DiskFull`].
    fn maintain(&self) -> Result<Maintained, Error>;

    /// Gets the space back that records of what is gone take in the index: rewrites all of it, if
    /// there is room for a second one. What follows a large removal; [`maintain`](Self::maintain)
    /// does without.
    ///
    /// # Errors
    /// [`Error::Backend`], [`Error::DiskFull`].
    fn compact_index(&self) -> Result<(), Error> {
        Ok(())
    }

    /// As [`usage`](Self::usage), measured: everything is on disk before, and what is being deleted
    /// is waited for a moment.
    ///
    /// # Errors
    /// As [`flush`](Self::flush).
    fn measured_usage(&self) -> Result<Usage, Error> {
        Ok(self.usage())
    }

    /// The shelf of small records for the DHT.
    fn records(&self) -> &RecordShelf;
}
