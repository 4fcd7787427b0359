//! A store in memory that stops writing after so many writes, as in a crash, and whose checksums find what a disk did to a block.

use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, MutexGuard};

use super::*;
use crate::block::{Block, ChunkHash, IndexError, PutStats, Ref};
use crate::size::ByteSize;
use crate::store::{
    self, BlockStat, Event, LeaseId, LeaseInfo, Maintained, RecordShelf, RemovedPins, Usage,
};

pub(super) struct Frail {
    inner: MemoryStore,
    /// Writes that still succeed.
    left: AtomicU64,
    has_failed: AtomicBool,
    /// Pins that were begun and are not finished: they go when the store is opened again.
    open: Mutex<BTreeSet<PinId>>,
    /// Blocks whose bytes are not those that were put, as the store's checksum tells.
    spoilt: Mutex<BTreeSet<BlockId>>,
    /// Blocks that the disk does not give now.
    away: Mutex<BTreeSet<BlockId>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics with it")
}

impl Frail {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryStore::new(StoreOptions::default()),
            left: AtomicU64::new(u64::MAX),
            has_failed: AtomicBool::new(false),
            open: Mutex::default(),
            spoilt: Mutex::default(),
            away: Mutex::default(),
        })
    }

    /// Lets so many writes succeed, and none after them.
    pub(super) fn fail_after(&self, writes: u64) {
        self.left.store(writes, Ordering::SeqCst);
    }

    /// Whether a write has failed.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::SeqCst)
    }

    /// What opening it again does.
    pub(super) fn open_again(&self) {
        self.left.store(u64::MAX, Ordering::SeqCst);
        self.has_failed.store(false, Ordering::SeqCst);
        for pin in std::mem::take(&mut *lock(&self.open)) {
            // A removal that was under way may have been faster.
            let _ = self.inner.abandon_pin(pin);
        }
    }

    /// Puts other bytes in place of a block's. With `is_noticed` its checksum tells.
    pub(super) fn spoil(&self, id: BlockId, bytes: Vec<u8>, is_noticed: bool) {
        self.inner.discard(id).expect("drops");
        let spoilt = Block::from_checked(id, bytes.into());
        self.inner.put(&[spoilt], Keep::Cached).expect("fits");
        if is_noticed {
            lock(&self.spoilt).insert(id);
        }
    }

    /// From now on the disk gives these blocks no more, and all others.
    pub(super) fn set_away(&self, ids: impl IntoIterator<Item = BlockId>) {
        *lock(&self.away) = ids.into_iter().collect();
    }

    pub(super) fn unfinished(&self) -> usize {
        lock(&self.open).len()
    }

    /// `Err(true)`: this is the write in the middle of which it ends.
    fn spend(&self) -> Result<(), bool> {
        let spent = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        match spent {
            Ok(_) => Ok(()),
            Err(_) => Err(!self.has_failed.swap(true, Ordering::SeqCst)),
        }
    }

    fn write<T>(
        &self,
        write: impl FnOnce(&MemoryStore) -> Result<T, store::Error>,
    ) -> Result<T, store::Error> {
        self.spend().map_err(|_| store::Error::DiskFull)?;
        write(&self.inner)
    }
}

impl ChunkIndex for Frail {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        self.inner.lookup(hashes)
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        let failed = |_| IndexError(Box::new(store::Error::DiskFull));
        self.spend().map_err(failed)?;
        self.inner.insert(entries)
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        self.inner.keep(ids)
    }
}

impl Store for Frail {
    fn put(&self, blocks: &[Block], keep: Keep) -> Result<PutStats, store::Error> {
        match self.spend() {
            Ok(()) => self.inner.put(blocks, keep),
            Err(is_last) => {
                if is_last {
                    self.inner.put(&blocks[..blocks.len() / 2], keep)?;
                }
                Err(store::Error::DiskFull)
            }
        }
    }

    fn flush(&self) -> Result<(), store::Error> {
        self.write(|store| store.flush())
    }

    fn get(&self, id: BlockId) -> Result<Option<Block>, store::Error> {
        if lock(&self.away).contains(&id) {
            let source = "Input/output error".into();
            return Err(store::Error::Unreadable { id, source });
        }
        match lock(&self.spoilt).contains(&id) {
            true => Err(store::Error::Corrupt { id }),
            false => self.inner.get(id),
        }
    }

    fn has(&self, id: BlockId) -> Result<bool, store::Error> {
        self.inner.has(id)
    }

    fn stat(&self, id: BlockId) -> Result<Option<BlockStat>, store::Error> {
        self.inner.stat(id)
    }

    fn list(
        &self,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, store::Error> {
        self.inner.list(after, limit)
    }

    fn like(
        &self,
        id: BlockId,
        bits: u32,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, store::Error> {
        self.inner.like(id, bits, limit)
    }

    fn places(
        &self,
        after: Option<store::Place>,
        limit: usize,
    ) -> Result<Vec<(store::Place, BlockId)>, store::Error> {
        self.inner.places(after, limit)
    }

    fn why(
        &self,
        id: BlockId,
        is_backup: &mut dyn FnMut(PinId) -> bool,
    ) -> Result<Option<store::Why>, store::Error> {
        self.inner.why(id, is_backup)
    }

    fn pin_name(&self, pin: PinId) -> Result<Option<String>, store::Error> {
        self.inner.pin_name(pin)
    }

    fn record(&self, events: &[(BlockId, Event)]) {
        self.inner.record(events);
    }

    fn remove(&self, id: BlockId) -> Result<bool, store::Error> {
        let removed = self.write(|store| store.remove(id))?;
        lock(&self.spoilt).remove(&id);
        Ok(removed)
    }

    fn discard(&self, id: BlockId) -> Result<bool, store::Error> {
        let removed = self.write(|store| store.discard(id))?;
        lock(&self.spoilt).remove(&id);
        Ok(removed)
    }

    fn remove_corrupt(&self, id: BlockId) -> Result<bool, store::Error> {
        match self.get_verified(id) {
            Err(store::Error::Corrupt { .. }) => self.discard(id),
            Err(error) => Err(error),
            Ok(_) => Ok(false),
        }
    }

    fn lost(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockId>, store::Error> {
        self.inner.lost(after, limit)
    }

    fn coldest(&self, limit: usize) -> Result<Vec<(BlockId, u32)>, store::Error> {
        self.inner.coldest(limit)
    }

    fn mark_expendable(&self, ids: &[BlockId]) -> Result<usize, store::Error> {
        self.inner.mark_expendable(ids)
    }

    fn begin_pin(&self, name: &str) -> Result<PinId, store::Error> {
        let pin = self.write(|store| store.begin_pin(name))?;
        lock(&self.open).insert(pin);
        Ok(pin)
    }

    fn add_refs(&self, pin: PinId, ids: &[BlockId]) -> Result<Vec<BlockId>, store::Error> {
        self.write(|store| store.add_refs(pin, ids))
    }

    fn finish_pin(&self, pin: PinId, info: &PinInfo) -> Result<(), store::Error> {
        self.write(|store| store.finish_pin(pin, info))?;
        lock(&self.open).remove(&pin);
        Ok(())
    }

    fn pins(&self) -> Result<Vec<(PinId, PinInfo)>, store::Error> {
        self.inner.pins()
    }

    fn remove_pin(&self, pin: PinId) -> Result<u64, store::Error> {
        let left = self.write(|store| store.remove_pin(pin))?;
        lock(&self.open).remove(&pin);
        Ok(left)
    }

    fn abandon_pin(&self, pin: PinId) -> Result<u64, store::Error> {
        let left = self.write(|store| store.abandon_pin(pin))?;
        lock(&self.open).remove(&pin);
        Ok(left)
    }

    fn leftovers(
        &self,
        before: Timestamp,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, store::Error> {
        self.inner.leftovers(before, after, limit)
    }

    fn remove_pins(
        &self,
        beside: Option<PinId>,
        chosen: &mut dyn FnMut(&PinInfo) -> bool,
    ) -> Result<RemovedPins, store::Error> {
        self.write(|store| store.remove_pins(beside, chosen))
    }

    fn pin_blocks(
        &self,
        pin: PinId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, store::Error> {
        self.inner.pin_blocks(pin, after, limit)
    }

    fn begin_lease(&self, info: &LeaseInfo) -> Result<LeaseId, store::Error> {
        self.write(|store| store.begin_lease(info))
    }

    fn add_lease_refs(
        &self,
        lease: LeaseId,
        ids: &[BlockId],
    ) -> Result<Vec<BlockId>, store::Error> {
        self.write(|store| store.add_lease_refs(lease, ids))
    }

    fn update_lease(&self, lease: LeaseId, info: &LeaseInfo) -> Result<(), store::Error> {
        self.write(|store| store.update_lease(lease, info))
    }

    fn leases(&self) -> Result<Vec<(LeaseId, LeaseInfo)>, store::Error> {
        self.inner.leases()
    }

    fn remove_lease(&self, lease: LeaseId) -> Result<u64, store::Error> {
        self.write(|store| store.remove_lease(lease))
    }

    fn remove_leases(&self, leases: &[LeaseId]) -> Result<u64, store::Error> {
        self.write(|store| store.remove_leases(leases))
    }

    fn lease_blocks(
        &self,
        lease: LeaseId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, store::Error> {
        self.inner.lease_blocks(lease, after, limit)
    }

    fn usage(&self) -> Usage {
        self.inner.usage()
    }

    fn set_quota(&self, quota: ByteSize) {
        self.inner.set_quota(quota);
    }

    fn maintain(&self) -> Result<Maintained, store::Error> {
        self.write(|store| store.maintain())
    }

    fn records(&self) -> &RecordShelf {
        self.inner.records()
    }
}
