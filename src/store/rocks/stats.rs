//! Writing down how blocks are used.

use std::collections::HashMap;

use super::change::Change;
use super::schema::{self, Tag};
use super::{RocksStore, lock};
use crate::id::BlockId;
use crate::store::counters::Counters;
use crate::store::error::Error;
use crate::store::types::{BlockStat, Counter, Event, block_stat};
use crate::time::Timestamp;
use crate::wire::store as wire;

/// Blocks whose counts are written, or forgotten, as one change.
const BATCH_STATS: usize = 512;

impl RocksStore {
    pub(super) fn record_events(&self, events: &[(BlockId, Event)]) {
        let now = self.options.clock.now();
        for (id, event) in events {
            // Written when there is no room left. An event that finds none even then is not counted: a burst of unknown ids must not
            // cost memory without bound.
            if !lock(&self.pending).add(*id, *event, now) {
                self.write_pending();
                let _ = lock(&self.pending).add(*id, *event, now);
            }
        }
    }

    /// Writes the counts that wait in memory. A failure keeps them there.
    pub(super) fn write_pending(&self) {
        let taken = lock(&self.pending).take();
        if taken.is_empty() {
            return;
        }
        if let Err((error, left)) = self.write_counts(taken) {
            tracing::warn!(%error, "usage counters could not be written");
            lock(&self.pending).restore(left);
        }
    }

    fn write_counts(
        &self,
        counts: HashMap<BlockId, Counters>,
    ) -> Result<(), (Error, HashMap<BlockId, Counters>)> {
        let mut rest: Vec<(BlockId, Counters)> = counts.into_iter().collect();
        while !rest.is_empty() {
            let part = &rest[rest.len().saturating_sub(BATCH_STATS)..];
            let result = self.write_some_counts(part);
            if let Err(error) = result {
                return Err((error, rest.into_iter().collect()));
            }
            rest.truncate(rest.len().saturating_sub(BATCH_STATS));
        }
        Ok(())
    }

    fn write_some_counts(&self, counts: &[(BlockId, Counters)]) -> Result<(), Error> {
        let mut writer = self.writer();
        let mut change = Change::new(&self.db, &mut writer);
        for (id, counters) in counts {
            change.count(id, counters)?;
        }
        self.check_room(change.bytes(), false)?;
        self.commit(change)?;
        drop(writer);
        self.trim_gone()
    }

    /// Forgets the statistics of blocks that are not here beyond the limit, oldest first.
    pub(super) fn trim_gone(&self) -> Result<(), Error> {
        let limit = self.options.max_gone_stats;
        loop {
            let mut writer = self.writer();
            let excess = writer.totals.gone.saturating_sub(limit);
            if excess == 0 {
                return Ok(());
            }
            let count = (excess as usize).min(BATCH_STATS);
            let mut oldest = Vec::new();
            let start = schema::number_key(Tag::Gone, writer.gone_from);
            self.db.scan(start, Tag::Gone.end(), |key, _| {
                oldest.push((schema::number_of_key(key)?, schema::id_of_gone_key(key)?));
                Ok(oldest.len() < count)
            })?;
            let Some((last, _)) = oldest.last().copied() else {
                return Ok(());
            };
            let mut change = Change::new(&self.db, &mut writer);
            for (number, id) in oldest {
                change.forget(number, &id);
            }
            self.commit(change)?;
            writer.gone_from = last + 1;
        }
    }

    /// How often and when a block was asked for.
    pub(super) fn requested(&self, id: &BlockId) -> Result<Counter, Error> {
        let stored = match self.db.get(&schema::id_key(Tag::Stat, id))? {
            Some(bytes) => schema::decode::<wire::Stat>(&bytes, "statistics")?,
            None => wire::Stat::default(),
        };
        let mut requested = schema::read_counters(&stored).requested;
        if let Some(pending) = lock(&self.pending).get(id) {
            requested.merge(&pending.requested);
        }
        Ok(requested)
    }

    pub(super) fn block_stat(&self, id: BlockId) -> Result<Option<BlockStat>, Error> {
        let block = self.block_record(&id)?;
        let stored = match self.db.get(&schema::id_key(Tag::Stat, &id))? {
            Some(bytes) => Some(schema::decode::<wire::Stat>(&bytes, "statistics")?),
            None => None,
        };
        let pending = lock(&self.pending).get(&id).copied();
        if block.is_none() && stored.is_none() && pending.is_none() {
            return Ok(None);
        }
        let mut counters = stored
            .as_ref()
            .map(schema::read_counters)
            .unwrap_or_default();
        counters.merge(&pending.unwrap_or_default());
        let block = block.unwrap_or_default();
        let here = block
            .is_here()
            .then(|| (block.bytes, block.class(), Timestamp(block.added_ms)));
        Ok(Some(block_stat(here, block.pins, block.leases, &counters)))
    }
}
