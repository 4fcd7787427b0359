//! Blocks of this node's own making, on their way into the store, and the index that spares the way.

use std::sync::Arc;

use async_trait::async_trait;

use super::pending::Pending;
use crate::block::{Block, BlockSink, ChunkHash, ChunkIndex, IndexError, PutError, PutStats, Ref};
use crate::id::BlockId;
use crate::store::{self, Keep, Store};

/// Puts blocks into the store and calls them fresh.
pub struct Sink {
    store: Arc<dyn Store>,
    fresh: Arc<Pending>,
    keep: Keep,
}

impl Sink {
    pub(super) fn new(store: Arc<dyn Store>, fresh: Arc<Pending>, keep: Keep) -> Self {
        Self { store, fresh, keep }
    }
}

/// The store's chunk index for one piece of work: a block that a look-up names is kept from then on as the work keeps its own blocks.
/// Without that it could be evicted between the look-up and the end of the work that relies on it.
pub struct Index {
    store: Arc<dyn Store>,
    keep: Keep,
}

impl Index {
    pub(super) fn new(store: Arc<dyn Store>, keep: Keep) -> Self {
        Self { store, keep }
    }
}

impl ChunkIndex for Index {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        let mut found = self.store.lookup(hashes)?;
        if let Some(pin) = self.keep.pin() {
            let mut ids: Vec<_> = found.iter().flatten().map(|place| place.id).collect();
            ids.sort_unstable();
            ids.dedup();
            let gone = match ids.is_empty() {
                true => Vec::new(),
                false => self
                    .store
                    .add_refs(pin, &ids)
                    .map_err(|error| IndexError(Box::new(error)))?,
            };
            for place in &mut found {
                if place.as_ref().is_some_and(|place| gone.contains(&place.id)) {
                    *place = None;
                }
            }
        }
        Ok(found)
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        self.store.insert(entries)
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        match self.keep.pin() {
            Some(pin) => self
                .store
                .add_refs(pin, ids)
                .map_err(|error| IndexError(Box::new(error))),
            None => self.store.keep(ids),
        }
    }
}

/// What a store's failure to write means to who puts blocks.
pub(super) fn put_error(error: store::Error) -> PutError {
    match error {
        store::Error::Full {
            used,
            quota,
            needed,
        } => PutError::Full {
            used,
            quota,
            needed,
        },
        store::Error::DiskFull => PutError::DiskFull,
        store::Error::ReadOnly => PutError::ReadOnly,
        other => PutError::Store(Box::new(other)),
    }
}

#[async_trait]
impl BlockSink for Sink {
    async fn put(&self, blocks: Vec<Block>) -> Result<PutStats, PutError> {
        let store = self.store.clone();
        let keep = self.keep;
        let ids: Vec<_> = blocks.iter().map(Block::id).collect();
        let stats = tokio::task::spawn_blocking(move || store.put(&blocks, keep))
            .await
            .map_err(|_| PutError::Stopping)?
            .map_err(put_error)?;
        self.fresh.add(ids);
        Ok(stats)
    }

    async fn commit(&self) -> Result<(), PutError> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.flush())
            .await
            .map_err(|_| PutError::Stopping)?
            .map_err(put_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, StoreOptions};

    #[test]
    fn what_is_kept_is_pinned_by_the_work() {
        let store = Arc::new(MemoryStore::new(StoreOptions::default()));
        let block = Block::new(bytes::Bytes::from_static(b"block")).expect("the size is allowed");
        let absent = Block::new(bytes::Bytes::from_static(b"absent")).expect("the size is allowed");
        let ids = [block.id(), absent.id()];
        store
            .put(std::slice::from_ref(&block), Keep::Cached)
            .expect("fits");
        let look = Index::new(store.clone(), Keep::Cached);
        assert_eq!(look.keep(&ids).expect("looks"), [absent.id()]);
        let pin = store.begin_pin("work").expect("begun");
        let keeping = Index::new(store.clone(), Keep::Pinned(pin));
        assert_eq!(keeping.keep(&ids).expect("keeps"), [absent.id()]);
        let pinned = store.pin_blocks(pin, None, 10).expect("lists");
        assert_eq!(pinned, [block.id()]);
    }
}
