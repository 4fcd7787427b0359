//! Blocks of this node's own making, on their way into the store.

use std::sync::Arc;

use async_trait::async_trait;

use super::pending::Pending;
use crate::block::{Block, BlockSink, PutError, PutStats};
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

/// What a store's failure to write means to who puts blocks.
pub(super) fn put_error(error: store::Error) -> PutError {
    match error {
        store::Error::Full { used, quota, needed } => PutError::Full { used, quota, needed },
        store::Error::DiskFull => PutError::DiskFull,
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
