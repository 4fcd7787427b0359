//! Eviction of cached blocks: the walk that [`coldness`](crate::store::coldness) describes, over the ordered index of cached blocks.
//!
//! One step of that index a block, and of the blocks' statistics; and as most go in the order in which they came, whole files fall empty
//! together, so that their space comes back without moving much.

use super::change::Change;
use super::schema::{self, Tag};
use super::{RocksStore, lock};
use crate::id::BlockId;
use crate::store::coldness::{Chances, MAX_SECOND_CHANCES, is_warm};
use crate::store::error::Error;
use crate::store::types::Class;
use crate::time::Timestamp;
use crate::wire::store as wire;

/// Cached blocks that are looked at, and evicted, as one change.
const BATCH_EVICTIONS: usize = 256;

impl RocksStore {
    /// Evicts cached blocks until `wanted` bytes are dropped. Returns how many were.
    pub(super) fn evict(&self, wanted: u64) -> Result<u64, Error> {
        let mut evicted = self.evict_marked(wanted)?;
        let mut chances = Chances::new();
        while evicted < wanted {
            let mut writer = self.writer();
            let batch = self.cached_in(writer.hand, writer.lap_end, BATCH_EVICTIONS)?;
            if batch.is_empty() {
                let oldest = self.cached_in(writer.cached_from, u64::MAX, 1)?;
                let Some((oldest, _)) = oldest.first().filter(|_| chances.start_over()) else {
                    return Ok(evicted);
                };
                // Nothing older is there: the next look need not go over what is gone.
                (writer.cached_from, writer.hand) = (*oldest, *oldest);
                writer.lap_end = writer.totals.last_number + 1;
                continue;
            }
            let now = self.options.clock.now();
            let mut change = Change::new(&self.db, &mut writer);
            let mut next = 0;
            for (arrival, id) in batch {
                if evicted >= wanted {
                    break;
                }
                next = arrival + 1;
                if chances.spares(&self.requested(&id)?, now) {
                    continue;
                }
                evicted += u64::from(change.block(&id)?.bytes);
                let is_marked = lock(&self.marks).remove(&id);
                evict_one(&mut change, &id, is_marked, now)?;
            }
            self.commit(change)?;
            writer.hand = next;
            writer.note_dropped();
            drop(writer);
            self.trim_gone()?;
        }
        Ok(evicted)
    }

    /// Evicts blocks of which there are copies elsewhere. One that has become warm, or is not just cached any more, loses its mark.
    fn evict_marked(&self, wanted: u64) -> Result<u64, Error> {
        let mut evicted = 0;
        loop {
            let mut writer = self.writer();
            let now = self.options.clock.now();
            let mut change = Change::new(&self.db, &mut writer);
            let mut looked = 0;
            while evicted < wanted && looked < BATCH_EVICTIONS {
                let Some(id) = lock(&self.marks).pop(now) else {
                    break;
                };
                looked += 1;
                let block = change.block(&id)?;
                if is_cached(&block) && !is_warm(&self.requested(&id)?, now) {
                    evicted += u64::from(block.bytes);
                    evict_one(&mut change, &id, true, now)?;
                }
            }
            self.commit(change)?;
            if looked == 0 {
                return Ok(evicted);
            }
            writer.note_dropped();
            drop(writer);
            self.trim_gone()?;
        }
    }

    pub(super) fn coldest_blocks(&self, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        let now = self.options.clock.now();
        let (start, hand, lap_end) = {
            let writer = self.writer();
            (writer.cached_from, writer.hand, writer.lap_end)
        };
        let mut found = Vec::new();
        // The rest of this lap, then the next one.
        let parts = [
            (hand, lap_end),
            (start, hand),
            (hand.max(lap_end), u64::MAX),
        ];
        let mut looks = limit.saturating_add(MAX_SECOND_CHANCES);
        for (first, end) in parts {
            if found.len() >= limit || first >= end {
                continue;
            }
            let (start, end) = (
                schema::number_key(Tag::Cached, first),
                schema::number_key(Tag::Cached, end),
            );
            self.db.scan(start, end, |_, value| {
                let id = schema::read_id(value)?;
                if lock(&self.marks).contains(&id) {
                    return Ok(true);
                }
                if looks == 0 {
                    return Ok(false);
                }
                looks -= 1;
                if !is_warm(&self.requested(&id)?, now)
                    && let Some(block) = self.block_record(&id)?.filter(is_cached)
                {
                    found.push((id, block.bytes));
                }
                Ok(found.len() < limit)
            })?;
        }
        Ok(found)
    }

    pub(super) fn mark_blocks(&self, ids: &[BlockId]) -> Result<usize, Error> {
        let now = self.options.clock.now();
        let mut marked = 0;
        for id in ids {
            if let Some(block) = self.block_record(id)?.filter(is_cached) {
                marked += usize::from(lock(&self.marks).add(*id, block.bytes, now));
            }
        }
        Ok(marked)
    }

    /// Cached blocks with arrival numbers from `first` on and before `end`.
    fn cached_in(&self, first: u64, end: u64, limit: usize) -> Result<Vec<(u64, BlockId)>, Error> {
        let mut found = Vec::new();
        if first >= end {
            return Ok(found);
        }
        let (start, end) = (
            schema::number_key(Tag::Cached, first),
            schema::number_key(Tag::Cached, end),
        );
        self.db.scan(start, end, |key, value| {
            found.push((schema::number_of_key(key)?, schema::read_id(value)?));
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }
}

fn is_cached(block: &wire::Block) -> bool {
    block.is_here() && block.class() == Class::Cached
}

fn evict_one(
    change: &mut Change<'_>,
    id: &BlockId,
    is_marked: bool,
    now: Timestamp,
) -> Result<(), Error> {
    change.drop_block(id, now)?;
    let totals = change.totals();
    totals.evicted += 1;
    totals.evicted_unsure += u64::from(!is_marked);
    Ok(())
}
