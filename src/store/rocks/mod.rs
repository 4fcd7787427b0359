//! The store on disk.
//!
//! What is where: [`schema`] says it. Writers take turns under one lock and write whole [`Change`]s; readers take no lock.
//! Nothing goes through a write-ahead log: changes are in memory until a flush, which writes both column families as one, so
//! that a crash loses a suffix of changes and nothing else.
//!
//! Two locks, taken in this order: `reclaiming`, then `writer`. `shown`, `pending`, `marks` and
//! `placed` are leaves.

mod blocks;
mod change;
mod chunks;
pub(super) mod database;
mod evict;
pub(super) mod files;
mod flush;
mod leases;
pub(super) mod lock;
mod open;
mod pins;
mod places;
pub(super) mod rebuild;
mod reclaim;
mod reserve;
mod room;
mod schema;
mod stats;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::change::Change;
use self::database::Database;
use self::flush::FlushGate;
use self::room::Disk;
use super::Store;
use super::coldness::Marks;
use super::counters::Pending;
use super::error::Error;
use super::records::RecordShelf;
use super::types::{
    BlockStat, Event, Keep, LeaseId, LeaseInfo, Maintained, PinId, PinInfo, Place, RemovedPins,
    StoreOptions, Usage, Why,
};
use crate::block::{Block, PutStats};
use crate::id::BlockId;
use crate::size::ByteSize;
use crate::time::Timestamp;
use crate::wire::store as wire;

/// A store in a directory, held by this process alone.
pub struct RocksStore {
    db: Database,
    records: RecordShelf,
    options: StoreOptions,
    /// In place of that of the options: it may change.
    quota: AtomicU64,
    /// Size of a full memtable and about that of a blob file, in bytes.
    memtable_bytes: u64,
    writer: Mutex<Writer>,
    /// The writer's sums after its last change, for who must not wait for it.
    shown: Mutex<wire::Totals>,
    pending: Mutex<Pending>,
    /// Cached blocks of which there are copies elsewhere.
    marks: Mutex<Marks>,
    /// The last block that was put into an index of places that is not whole yet.
    placed: Mutex<Option<BlockId>>,
    disk: Disk,
    /// Held while space is made.
    reclaiming: Mutex<()>,
    gate: FlushGate,
}

/// What the one who writes must know. As of the last change that was written.
#[derive(Debug, Default)]
struct Writer {
    totals: wire::Totals,
    /// Bytes of dropped blocks by [`change::bucket`].
    dead: BTreeMap<u64, u64>,
    /// No cached block has a smaller arrival number.
    cached_from: u64,
    /// The arrival number at which eviction goes on.
    hand: u64,
    /// Those that come from this arrival number on have their turn in its next lap.
    lap_end: u64,
    /// No block that is not here went at a smaller number.
    gone_from: u64,
    pins: HashMap<PinId, wire::pin::State>,
    leases: HashMap<LeaseId, wire::lease::State>,
    /// Where sweeping the chunk index goes on; nothing when there is nothing to sweep.
    sweep: Option<Vec<u8>>,
}

impl std::fmt::Debug for RocksStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksStore")
            .field("dir", &self.db.dir())
            .field("usage", &self.usage())
            .finish_non_exhaustive()
    }
}

impl RocksStore {
    /// Writes what is in memory to the disk and closes the store.
    ///
    /// # Errors
    /// As [`Store::flush`]; the store is closed all the same.
    pub fn close(self) -> Result<(), Error> {
        self.flush()
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    /// Writes a change.
    fn commit(&self, change: Change<'_>) -> Result<(), Error> {
        // The sums are shown before the writer's lock is given back, so that they never go backwards.
        let totals = change.totals_now();
        let bytes = change.commit()?;
        self.disk.add(bytes);
        *lock(&self.shown) = totals;
        Ok(())
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "the store could not write everything while closing");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard changes only after a change was written, in steps that can't panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for RocksStore {
    fn put(&self, blocks: &[Block], keep: Keep) -> Result<PutStats, Error> {
        self.put_blocks(blocks, keep)
    }

    fn flush(&self) -> Result<(), Error> {
        if self.db.unwritable().is_some() {
            // Nothing was written.
            return Ok(());
        }
        self.write_pending();
        self.gate.pass(|| {
            if self.db.is_flushed() {
                return Ok(());
            }
            self.disk.add_flush();
            self.db.flush()
        })
    }

    fn is_durable(&self) -> bool {
        self.db.is_flushed()
    }

    fn get(&self, id: BlockId) -> Result<Option<Block>, Error> {
        self.get_block(id)
    }

    fn has(&self, id: BlockId) -> Result<bool, Error> {
        Ok(self.block_record(&id)?.is_some_and(|block| block.is_here()))
    }

    fn stat(&self, id: BlockId) -> Result<Option<BlockStat>, Error> {
        self.block_stat(id)
    }

    fn list(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        self.list_blocks(after, limit)
    }

    fn like(&self, id: BlockId, bits: u32, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        self.like_blocks(id, bits, limit)
    }

    fn record(&self, events: &[(BlockId, Event)]) {
        if self.db.unwritable().is_none() {
            self.record_events(events);
        }
    }

    fn remove(&self, id: BlockId) -> Result<bool, Error> {
        self.make_way_for_removing();
        self.remove_block(id)
    }

    fn discard(&self, id: BlockId) -> Result<bool, Error> {
        self.make_way_for_removing();
        self.drop_one(id, false)
    }

    fn remove_corrupt(&self, id: BlockId) -> Result<bool, Error> {
        self.remove_if_corrupt(id)
    }

    fn places(&self, after: Option<Place>, limit: usize) -> Result<Vec<(Place, BlockId)>, Error> {
        self.placed_blocks(after, limit)
    }

    fn has_all_places(&self) -> Result<bool, Error> {
        self.has_all_places()
    }

    fn why(
        &self,
        id: BlockId,
        is_backup: &mut dyn FnMut(PinId) -> bool,
    ) -> Result<Option<Why>, Error> {
        self.why_here(id, is_backup)
    }

    fn pin_name(&self, pin: PinId) -> Result<Option<String>, Error> {
        self.name_of_pin(pin)
    }

    fn lost(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockId>, Error> {
        self.lost_blocks(after, limit)
    }

    fn begin_pin(&self, name: &str) -> Result<PinId, Error> {
        self.open_pin(name)
    }

    fn add_refs(&self, pin: PinId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        self.refer(pin, ids)
    }

    fn finish_pin(&self, pin: PinId, info: &PinInfo) -> Result<(), Error> {
        self.write_finished(pin, info)?;
        self.flush()
    }

    fn pins(&self) -> Result<Vec<(PinId, PinInfo)>, Error> {
        self.finished_pins()
    }

    fn remove_pin(&self, pin: PinId) -> Result<u64, Error> {
        self.make_way_for_removing();
        self.start_removing(pin, false)?;
        let freed = self.go_on_removing(pin)?;
        self.flush()?;
        Ok(freed)
    }

    fn abandon_pin(&self, pin: PinId) -> Result<u64, Error> {
        self.make_way_for_removing();
        self.start_removing(pin, true)?;
        let freed = self.go_on_removing(pin)?;
        self.flush()?;
        Ok(freed)
    }

    fn leftovers(
        &self,
        before: Timestamp,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, Error> {
        self.leftover_blocks(before, after, limit)
    }

    fn remove_pins(
        &self,
        beside: Option<PinId>,
        chosen: &mut dyn FnMut(&PinInfo) -> bool,
    ) -> Result<RemovedPins, Error> {
        self.make_way_for_removing();
        let going = self.start_removing_chosen(beside, chosen)?;
        let mut removed = RemovedPins::default();
        for pin in going {
            removed.pins += 1;
            removed.freed_blocks += self.go_on_removing(pin)?;
        }
        if removed.pins > 0 {
            self.flush()?;
        }
        Ok(removed)
    }

    fn pin_blocks(
        &self,
        pin: PinId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        self.blocks_of_pin(pin, after, limit)
    }

    fn begin_lease(&self, info: &LeaseInfo) -> Result<LeaseId, Error> {
        self.open_lease(info)
    }

    fn add_lease_refs(&self, lease: LeaseId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        self.lease_refs(lease, ids)
    }

    fn update_lease(&self, lease: LeaseId, info: &LeaseInfo) -> Result<(), Error> {
        self.write_lease(lease, info)?;
        self.flush()
    }

    fn leases(&self) -> Result<Vec<(LeaseId, LeaseInfo)>, Error> {
        self.all_leases()
    }

    fn remove_lease(&self, lease: LeaseId) -> Result<u64, Error> {
        self.make_way_for_removing();
        self.start_removing_lease(lease)?;
        let freed = self.go_on_removing(lease)?;
        self.flush()?;
        Ok(freed)
    }

    fn remove_leases(&self, leases: &[LeaseId]) -> Result<u64, Error> {
        self.make_way_for_removing();
        let mut freed = 0;
        for lease in leases {
            match self.start_removing_lease(*lease) {
                Err(Error::NoSuchLease(_)) => continue,
                started => started?,
            }
            freed += self.go_on_removing(*lease)?;
        }
        self.flush()?;
        Ok(freed)
    }

    fn lease_blocks(
        &self,
        lease: LeaseId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        self.blocks_of_lease(lease, after, limit)
    }

    fn coldest(&self, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        self.coldest_blocks(limit)
    }

    fn mark_expendable(&self, ids: &[BlockId]) -> Result<usize, Error> {
        self.mark_blocks(ids)
    }

    fn usage(&self) -> Usage {
        let totals = *lock(&self.shown);
        let held = totals.pinned_bytes + totals.leased_bytes;
        Usage {
            blocks: totals.blocks,
            block_bytes: totals.block_bytes,
            pinned_bytes: totals.pinned_bytes,
            leased_bytes: totals.leased_bytes,
            cached_bytes: totals.block_bytes.saturating_sub(held),
            disk_bytes: self.disk.used(),
            quota: self.quota(),
            dead_bytes: totals.dead_bytes,
            pins: totals.pins,
            corrupt: totals.corrupt,
            evicts_at_bytes: self.evicts_at_bytes(),
            expendable_bytes: lock(&self.marks).bytes(),
            evicted: totals.evicted,
            evicted_unsure: totals.evicted_unsure,
        }
    }

    fn set_quota(&self, quota: ByteSize) {
        self.quota.store(quota.0, Ordering::Relaxed);
        self.records.set_quota(quota);
    }

    fn make_way(&self) {
        self.make_way_for_removing();
    }

    fn maintain(&self) -> Result<Maintained, Error> {
        if self.db.unwritable().is_some() {
            return Ok(Maintained::default());
        }
        self.write_pending();
        self.fit_quota()?;
        let pins_wait = self.remove_holders_under_way()?;
        self.sweep_chunks()?;
        let places_wait = self.find_places()?;
        let mut maintained = self.tidy()?;
        maintained.more |= pins_wait || places_wait;
        self.set_room_aside();
        self.measure(&self.writer());
        Ok(maintained)
    }

    fn compact_index(&self) -> Result<(), Error> {
        self.rewrite_index()
    }

    fn measured_usage(&self) -> Result<Usage, Error> {
        self.measure_at_rest()?;
        Ok(self.usage())
    }

    fn records(&self) -> &RecordShelf {
        &self.records
    }
}
