//! The chunk index: where chunks of files are already stored.
//!
//! Entries are written as blocks are, so that after a crash there is none whose block was put before it and lost. Entries of
//! blocks that were dropped since are never shown, and swept away bit by bit.

use prost::Message;
use rocksdb::WriteBatch;

use super::RocksStore;
use super::schema::{self, Tag};
use crate::block::{ChunkHash, ChunkIndex, IndexError, Ref};
use crate::id::BlockId;
use crate::store::error::Error;

/// Entries that one sweep looks at; about 20 ms.
const SWEEP_ENTRIES: usize = 2000;
/// Entries that are written as one batch.
const BATCH_CHUNKS: usize = 4096;

impl RocksStore {
    fn find_chunk(&self, hash: &ChunkHash) -> Result<Option<Ref>, Error> {
        let Some(bytes) = self.db.get(&schema::chunk_key(hash))? else {
            return Ok(None);
        };
        let place = schema::read_chunk(&bytes)?;
        let block = self.block_record(&place.id)?;
        Ok(block.is_some_and(|block| block.is_here()).then_some(place))
    }

    fn insert_chunks(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), Error> {
        for part in entries.chunks(BATCH_CHUNKS) {
            let mut batch = WriteBatch::default();
            for (hash, place) in part {
                batch.put(
                    schema::chunk_key(hash),
                    schema::write_chunk(place).encode_to_vec(),
                );
            }
            let bytes = batch.size_in_bytes() as u64;
            let _writer = self.writer();
            self.check_room(bytes, true)?;
            self.db.write(batch)?;
            self.disk.add(bytes);
        }
        Ok(())
    }

    /// Forgets some chunks whose blocks are gone. Looks only when blocks were dropped since the last whole sweep.
    pub(super) fn sweep_chunks(&self) -> Result<bool, Error> {
        let mut writer = self.writer();
        let Some(start) = writer.sweep.take() else {
            return Ok(false);
        };
        let mut seen = 0;
        let mut batch = WriteBatch::default();
        let mut next = None;
        self.db.scan(start, Tag::Chunk.end(), |key, value| {
            if seen == SWEEP_ENTRIES {
                next = Some(key.to_vec());
                return Ok(false);
            }
            seen += 1;
            let block = self.block_record(&schema::read_chunk(value)?.id)?;
            if !block.is_some_and(|block| block.is_here()) {
                batch.delete(key);
            }
            Ok(true)
        })?;
        if !batch.is_empty() {
            self.db.write(batch)?;
        }
        writer.sweep = next;
        Ok(writer.sweep.is_some())
    }
}

impl ChunkIndex for RocksStore {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        let found: Result<_, Error> = hashes.iter().map(|hash| self.find_chunk(hash)).collect();
        found.map_err(|error| IndexError(Box::new(error)))
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        self.insert_chunks(entries)
            .map_err(|error| IndexError(Box::new(error)))
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        let mut absent = Vec::new();
        for id in ids {
            let block = self
                .block_record(id)
                .map_err(|error| IndexError(Box::new(error)))?;
            if !block.is_some_and(|block| block.is_here()) {
                absent.push(*id);
            }
        }
        Ok(absent)
    }
}
