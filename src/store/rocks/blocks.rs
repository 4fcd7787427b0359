//! Putting, getting, removing and listing blocks.

use bytes::Bytes;

use super::change::Change;
use super::schema::{self, Tag};
use super::{RocksStore, Writer};
use crate::block::{Block, PutStats};
use crate::id::BlockId;
use crate::store::Store;
use crate::store::error::Error;
use crate::store::likest::{Likest, MAX_ALIKE};
use crate::store::types::Keep;
use crate::wire::store as wire;

/// Bytes of blocks that are written as one batch, about: bounds the memory of a put, which copies them.
const BATCH_BYTES: usize = 4 << 20;
/// Blocks of one batch at most: bounds how long small ones hold the writer's lock.
const BATCH_BLOCKS: usize = 1024;
/// What a block's records take in a batch, about.
const RECORD_BYTES: usize = 512;
/// How often a put makes room that others then take before it gives up.
const MAX_ATTEMPTS: usize = 16;
/// How often a read starts over because its block moved meanwhile.
const MAX_READS: usize = 4;

impl RocksStore {
    pub(super) fn put_blocks(&self, blocks: &[Block], keep: Keep) -> Result<PutStats, Error> {
        let mut stats = PutStats::default();
        let mut rest = blocks;
        while !rest.is_empty() {
            let (part, others) = rest.split_at(batch_len(rest));
            let part_stats = self.put_part(part, keep)?;
            stats.new_blocks += part_stats.new_blocks;
            stats.new_bytes += part_stats.new_bytes;
            rest = others;
        }
        Ok(stats)
    }

    fn put_part(&self, part: &[Block], keep: Keep) -> Result<PutStats, Error> {
        let mut refused = None;
        let removes = matches!(keep, Keep::Removing(_));
        if removes {
            self.make_way_for_removing();
        }
        let records: usize = part.len() * RECORD_BYTES;
        let capacity = records + part.iter().map(|block| block.bytes().len()).sum::<usize>();
        for _ in 0..MAX_ATTEMPTS {
            let mut writer = self.writer();
            check_pin(&writer, keep)?;
            let mut change = Change::with_capacity(&self.db, &mut writer, capacity);
            let mut stats = PutStats::default();
            for block in part {
                self.put_one(&mut change, block, keep, &mut stats)?;
            }
            if change.is_empty() {
                return Ok(stats);
            }
            let needed = change.bytes();
            match self.check_room(needed, stats.new_blocks > 0 && !removes) {
                Ok(()) => {
                    self.commit(change)?;
                    return Ok(stats);
                }
                Err(error) => refused = Some(error),
            }
            drop(writer);
            self.make_room(needed)?;
        }
        Err(refused.expect("each attempt but a successful one was refused"))
    }

    fn put_one(
        &self,
        change: &mut Change<'_>,
        block: &Block,
        keep: Keep,
        stats: &mut PutStats,
    ) -> Result<(), Error> {
        let id = block.id();
        let before = change.block(&id)?;
        if !before.is_here() {
            let arrival = change.number();
            let bytes = block.bytes();
            change.put_bytes(arrival, bytes);
            let after = wire::Block {
                arrival,
                bytes: bytes.len() as u32,
                added_ms: self.options.clock.now().0,
                ..before
            };
            change.set_block(&id, after)?;
            change.note_arrived(&id)?;
            stats.new_blocks += 1;
            stats.new_bytes += bytes.len() as u64;
        }
        if let Some(pin) = keep.pin() {
            if before.is_here() || before.is_held() {
                change.add_ref(pin, &id)?;
            } else {
                change.add_first_ref(pin, &id)?;
            }
        }
        Ok(())
    }

    /// What the index knows of a block.
    pub(super) fn block_record(&self, id: &BlockId) -> Result<Option<wire::Block>, Error> {
        let stored = self.db.get(&schema::id_key(Tag::Block, id))?;
        stored
            .map(|bytes| schema::decode(&bytes, "a block"))
            .transpose()
    }

    pub(super) fn get_block(&self, id: BlockId) -> Result<Option<Block>, Error> {
        for _ in 0..MAX_READS {
            let Some(record) = self.block_record(&id)?.filter(wire::Block::is_here) else {
                return Ok(None);
            };
            match self.db.get_bytes(record.arrival) {
                Ok(Some(bytes)) if bytes.len() == record.bytes as usize => {
                    return Ok(Some(Block::from_checked(
                        id,
                        Bytes::copy_from_slice(&bytes),
                    )));
                }
                Ok(_) => {}
                Err(error) if self.db.is_damage(&error) => {
                    tracing::debug!(%id, %error, "a block is damaged");
                }
                Err(error) => {
                    let source = Box::new(error);
                    return Err(Error::Unreadable { id, source });
                }
            }
            // The bytes may be missing because the block was dropped, and perhaps put again, since its record was read.
            let again = self.block_record(&id)?;
            if again.is_some_and(|again| again.arrival == record.arrival) {
                return Err(Error::Corrupt { id });
            }
        }
        Ok(None)
    }

    pub(super) fn remove_block(&self, id: BlockId) -> Result<bool, Error> {
        let mut writer = self.writer();
        let mut change = Change::new(&self.db, &mut writer);
        let block = change.block(&id)?;
        if !block.is_here() {
            return Ok(false);
        }
        if block.is_held() {
            return Err(Error::Held {
                id,
                pins: block.pins,
                leases: block.leases,
            });
        }
        change.drop_block(&id, self.options.clock.now())?;
        self.commit(change)?;
        writer.note_dropped();
        drop(writer);
        self.trim_gone()?;
        Ok(true)
    }

    /// Drops a block if it is still damaged when it is read once more.
    pub(super) fn remove_if_corrupt(&self, id: BlockId) -> Result<bool, Error> {
        match self.get_verified(id) {
            Err(Error::Corrupt { .. }) => self.drop_one(id, true),
            Ok(_) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops a block whatever refers to it; counts it as damaged if it is.
    pub(super) fn drop_one(&self, id: BlockId, corrupt: bool) -> Result<bool, Error> {
        let mut writer = self.writer();
        let mut change = Change::new(&self.db, &mut writer);
        if !change.block(&id)?.is_here() {
            return Ok(false);
        }
        change.drop_block(&id, self.options.clock.now())?;
        if corrupt {
            change.totals().corrupt += 1;
        }
        self.commit(change)?;
        writer.note_dropped();
        drop(writer);
        self.trim_gone()?;
        Ok(true)
    }

    pub(super) fn list_blocks(
        &self,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, Error> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let start = after_key(Tag::Block, after);
        self.db.scan(start, Tag::Block.end(), |key, value| {
            let block: wire::Block = schema::decode(value, "a block")?;
            if block.is_here() {
                found.push((schema::id_of_key(key)?, block.bytes));
            }
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    pub(super) fn like_blocks(
        &self,
        id: BlockId,
        bits: u32,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, Error> {
        let mut likest = Likest::new(id, limit);
        for (start, end) in schema::like_ranges(&id, bits) {
            let mut left = MAX_ALIKE;
            self.db.scan(start, end, |key, value| {
                let block: wire::Block = schema::decode(value, "a block")?;
                let other = schema::id_of_key(key)?;
                if block.is_here() && other.shared_bits(&id) >= bits {
                    likest.add(other, block.bytes);
                }
                left -= 1;
                Ok(left > 0)
            })?;
        }
        Ok(likest.into_vec())
    }

    pub(super) fn lost_blocks(
        &self,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let start = after_key(Tag::Lost, after);
        self.db.scan(start, Tag::Lost.end(), |key, _| {
            found.push(schema::id_of_key(key)?);
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }
}

impl Writer {
    /// Notes that chunks may be in the index whose blocks are gone.
    pub(super) fn note_dropped(&mut self) {
        self.sweep.get_or_insert_with(|| Tag::Chunk.start());
    }
}

fn check_pin(writer: &Writer, keep: Keep) -> Result<(), Error> {
    keep.pin().map_or(Ok(()), |pin| writer.check_pin(pin))
}

/// The first key behind that of `after`, or the first of its kind.
pub(super) fn after_key(tag: Tag, after: Option<BlockId>) -> Vec<u8> {
    after.map_or_else(
        || tag.start(),
        |id| {
            let mut key = schema::id_key(tag, &id);
            key.push(0);
            key
        },
    )
}

/// How many of the first blocks make one batch: at least one.
fn batch_len(blocks: &[Block]) -> usize {
    let mut bytes = 0;
    let fits = blocks.iter().take(BATCH_BLOCKS).take_while(|block| {
        bytes += block.bytes().len();
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}
