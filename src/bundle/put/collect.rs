//! The last stop of a put: sealed blocks go to the sink, and the index hears where their chunks are.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::seal::Outgoing;
use crate::block::{Block, BlockSink, ChunkHash, ChunkIndex, PutStats, Ref};
use crate::bundle::error::Error;
use crate::monitor::Monitor;

/// Most blocks and bytes in one call of the sink.
const SINK_BLOCKS: usize = 16;
const SINK_BYTES: usize = 8 << 20;
/// A very long run is made durable each time this much was put: what a crash can cost.
const COMMIT_BYTES: u64 = 4 << 30;
/// Brings sealed blocks to the sink, and what the index should know to the index.
pub(super) struct Collector {
    pub(super) sink: Arc<dyn BlockSink>,
    pub(super) index: Arc<dyn ChunkIndex>,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) stats: PutStats,
    pub(super) index_failed: bool,
}

impl Collector {
    pub(super) async fn run(
        mut self,
        mut outgoing: mpsc::Receiver<Outgoing>,
    ) -> Result<PutStats, Error> {
        let mut uncommitted = 0;
        while let Some(first) = outgoing.recv().await {
            let mut batch = vec![first];
            let mut bytes = batch[0].block.bytes().len();
            while batch.len() < SINK_BLOCKS
                && bytes < SINK_BYTES
                && let Ok(next) = outgoing.try_recv()
            {
                bytes += next.block.bytes().len();
                batch.push(next);
            }
            let (mut blocks, mut entries, mut permits) = (Vec::new(), Vec::new(), Vec::new());
            for Outgoing {
                block,
                index,
                permit,
            } in batch
            {
                blocks.push(block);
                entries.extend(index);
                permits.push(permit);
            }
            self.put(blocks).await?;
            self.remember(entries).await?;
            uncommitted += bytes as u64;
            if uncommitted >= COMMIT_BYTES {
                self.sink.commit().await?;
                uncommitted = 0;
            }
            drop(permits);
        }
        Ok(self.stats)
    }

    async fn put(&mut self, blocks: Vec<Block>) -> Result<(), Error> {
        let stats = self.sink.put(blocks).await?;
        self.stats.new_blocks += stats.new_blocks;
        self.stats.new_bytes += stats.new_bytes;
        Ok(())
    }

    /// Tells the index. That it fails costs space in later runs, never data.
    async fn remember(&mut self, entries: Vec<(ChunkHash, Ref)>) -> Result<(), Error> {
        if entries.is_empty() {
            return Ok(());
        }
        let index = self.index.clone();
        let result = tokio::task::spawn_blocking(move || index.insert(&entries))
            .await
            .map_err(|_| Error::Worker)?;
        if let Err(error) = result
            && !std::mem::replace(&mut self.index_failed, true)
        {
            self.monitor.warning(&format!(
                "later runs will not find what this one stores: {error}"
            ));
        }
        Ok(())
    }
}
