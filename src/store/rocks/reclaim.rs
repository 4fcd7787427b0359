//! Getting the space of dropped blocks back.
//!
//! Dropping a block changes the index only. Its bytes go when the files around it are compacted: the living blocks of these files
//! move to a new one. So space comes back in *runs* of neighbouring files, and those go first that have little to move. A run's
//! blocks are ended by tombstones in a file of their own: a tombstone in one file with new blocks would tie the oldest files to the
//! newest.
//!
//! Before a run is compacted its living blocks are read: damage that a compaction came upon would stop the database.

use rocksdb::WriteBatch;

use super::change::{Change, bucket};
use super::database::{BlocksFile, failed, is_damage};
use super::schema::{self, Tag};
use super::{RocksStore, lock};
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::store::error::Error;
use crate::store::types::Maintained;
use crate::wire::store as wire;

/// At leisure, a run is worth compacting from this share of dead bytes on, in percent.
const LEISURE_PERCENT: u64 = 30;
/// The same when room is needed now.
const URGENT_PERCENT: u64 = 5;
/// At leisure, dead bytes are looked at when they are this share of all, in percent, or fill a memtable.
const LOOK_PERCENT: u64 = 10;
/// Living bytes that one call at leisure moves, about.
const MAX_MOVED_BYTES: u64 = 512 << 20;
/// Entries of one run at most: bounds the memory that it takes to tens of MiB.
const MAX_RUN_ENTRIES: u64 = 200_000;
/// A file with this many entries or fewer is small: it came from a flush that somebody waited for.
const SMALL_FILE_ENTRIES: u64 = 8;
/// Small neighbouring files are merged from this many on.
const MIN_SMALL_FILES: usize = 8;

/// Neighbouring files, and what they hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Run {
    first: u64,
    last: u64,
    entries: u64,
    files: usize,
    live_bytes: u64,
    dead_bytes: u64,
}

impl Run {
    fn dead_percent(&self) -> u64 {
        100 * self.dead_bytes / (self.dead_bytes + self.live_bytes).max(1)
    }

    fn join(&mut self, next: &Self) {
        self.last = self.last.max(next.last);
        self.entries += next.entries;
        self.files += next.files;
        self.live_bytes += next.live_bytes;
        self.dead_bytes += next.dead_bytes;
    }
}

/// Joins files whose ranges overlap. `files` are in order.
fn disjoint(files: &[BlocksFile]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for file in files {
        let run = Run {
            first: file.first,
            last: file.last,
            entries: file.entries,
            files: 1,
            ..Run::default()
        };
        match runs.last_mut() {
            Some(before) if before.last >= run.first => before.join(&run),
            _ => runs.push(run),
        }
    }
    runs
}

/// Joins neighbours that are `wanted` as long as little enough has to be moved at once.
fn joined(runs: &[Run], max_live_bytes: u64, wanted: impl Fn(&Run) -> bool) -> Vec<Run> {
    let mut joined: Vec<Run> = Vec::new();
    let mut may_join = false;
    for run in runs {
        if !wanted(run) {
            may_join = false;
            continue;
        }
        match joined.last_mut() {
            Some(before)
                if may_join
                    && before.live_bytes + run.live_bytes <= max_live_bytes
                    && before.entries + run.entries <= MAX_RUN_ENTRIES =>
            {
                before.join(run);
            }
            _ => joined.push(run.clone()),
        }
        may_join = true;
    }
    joined
}

impl RocksStore {
    /// What `maintain` does about space: bounded work, none when there is little to gain.
    pub(super) fn tidy(&self) -> Result<Maintained, Error> {
        let _turn = lock(&self.reclaiming);
        let mut maintained = Maintained::default();
        let totals = self.writer().totals;
        let total_bytes = totals.block_bytes + totals.dead_bytes;
        let is_worth_it = totals.dead_bytes > 0
            && (totals.dead_bytes >= self.memtable_bytes
                || 100 * totals.dead_bytes >= LOOK_PERCENT * total_bytes);
        if is_worth_it {
            let (reclaimed, more) = self.reclaim(u64::MAX, MAX_MOVED_BYTES, LEISURE_PERCENT)?;
            maintained.reclaimed_bytes = reclaimed;
            maintained.more = more;
        }
        if self.disk.take_flushes() >= MIN_SMALL_FILES as u64 {
            self.merge_small_files()?;
        }
        Ok(maintained)
    }

    /// Gets at least `wanted` bytes back, if there are so many. Returns how many came back.
    pub(super) fn reclaim_urgently(&self, wanted: u64) -> Result<u64, Error> {
        let (reclaimed, _) = self.reclaim(wanted, u64::MAX, URGENT_PERCENT)?;
        Ok(reclaimed)
    }

    /// Returns the bytes that came back, and whether there was more to do.
    fn reclaim(&self, wanted: u64, max_moved: u64, percent: u64) -> Result<(u64, bool), Error> {
        // What was dropped before it ever reached the disk must get there to be found in files.
        self.db.flush()?;
        let mut runs = joined(&self.runs_with_dead()?, self.memtable_bytes, |run| {
            run.dead_bytes > 0 && run.dead_percent() >= percent
        });
        runs.sort_by_key(|run| std::cmp::Reverse(run.dead_percent()));
        let (mut reclaimed, mut moved) = (0, 0);
        for run in runs {
            if reclaimed >= wanted {
                break;
            }
            if moved >= max_moved {
                return Ok((reclaimed, true));
            }
            if !self.can_move(run.live_bytes) {
                continue;
            }
            moved += run.live_bytes;
            reclaimed += self.compact(&run)?;
        }
        Ok((reclaimed, false))
    }

    /// Merges files of few blocks, which flushes that somebody waited for leave behind.
    fn merge_small_files(&self) -> Result<(), Error> {
        let mut runs = disjoint(&self.db.blocks_files()?);
        for run in &mut runs {
            // Upper bounds are enough here, and cost nothing.
            run.live_bytes = run.entries * MAX_BLOCK_BYTES as u64;
        }
        let is_small = |run: &Run| run.entries <= SMALL_FILE_ENTRIES;
        let mut moved = 0;
        for run in joined(&runs, 4 * self.memtable_bytes, is_small) {
            if run.files < MIN_SMALL_FILES || !self.can_move(run.live_bytes) {
                continue;
            }
            moved += run.live_bytes;
            self.compact(&run)?;
            if moved >= MAX_MOVED_BYTES {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether there is room for a second copy of `bytes` for a while.
    fn can_move(&self, bytes: u64) -> bool {
        bytes == 0 || self.check_room(bytes, false).is_ok()
    }

    /// The files as runs that don't overlap, with what those that have dead bytes hold.
    fn runs_with_dead(&self) -> Result<Vec<Run>, Error> {
        let mut runs = disjoint(&self.db.blocks_files()?);
        for run in &mut runs {
            let buckets = bucket(run.first)..=bucket(run.last);
            if self.writer().dead.range(buckets).next().is_none() {
                continue;
            }
            run.live_bytes = self.live_in(run)?.iter().map(|b| u64::from(b.bytes)).sum();
            run.dead_bytes = self.dead_in(run)?.iter().map(|(_, b)| u64::from(*b)).sum();
        }
        Ok(runs)
    }

    fn live_in(&self, run: &Run) -> Result<Vec<Living>, Error> {
        let mut living = Vec::new();
        self.scan_arrivals(Tag::Arrival, run, |arrival, value| {
            let record: wire::Arrival = schema::decode(value, "an arrival")?;
            living.push(Living {
                arrival,
                id: schema::read_id(&record.id)?,
                bytes: record.bytes,
            });
            Ok(())
        })?;
        Ok(living)
    }

    fn dead_in(&self, run: &Run) -> Result<Vec<(u64, u32)>, Error> {
        let mut dead = Vec::new();
        self.scan_arrivals(Tag::Dead, run, |arrival, value| {
            let record: wire::Dead = schema::decode(value, "a dropped block")?;
            dead.push((arrival, record.bytes));
            Ok(())
        })?;
        Ok(dead)
    }

    fn scan_arrivals(
        &self,
        tag: Tag,
        run: &Run,
        mut visit: impl FnMut(u64, &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let start = schema::number_key(tag, run.first);
        let end = schema::number_key(tag, run.last.saturating_add(1));
        self.db.scan(start, end, |key, value| {
            visit(schema::number_of_key(key)?, value)?;
            Ok(true)
        })
    }

    /// Compacts a run. Returns the bytes that came back.
    fn compact(&self, run: &Run) -> Result<u64, Error> {
        self.drop_damaged(run)?;
        let dead = self.dead_in(run)?;
        if !dead.is_empty() {
            self.write_tombstones(&dead)?;
        }
        self.db.compact_blocks(run.first, run.last)?;
        let mut writer = self.writer();
        let mut change = Change::new(&self.db, &mut writer);
        for (arrival, bytes) in &dead {
            change.unbury(*arrival, *bytes);
        }
        self.commit(change)?;
        Ok(dead.iter().map(|(_, bytes)| u64::from(*bytes)).sum())
    }

    fn write_tombstones(&self, dead: &[(u64, u32)]) -> Result<(), Error> {
        let mut batch = WriteBatch::default();
        for (arrival, _) in dead {
            self.db.delete_bytes(&mut batch, *arrival);
        }
        // Nobody else writes meanwhile, so that the tombstones are alone in their file.
        let _writer = self.writer();
        self.db.flush()?;
        self.db.write(batch)?;
        self.db.flush()
    }

    /// Drops the damaged ones of the blocks that would have to be moved; their references stay.
    fn drop_damaged(&self, run: &Run) -> Result<(), Error> {
        for living in self.live_in(run)? {
            let is_damaged = match self.db.get_bytes(living.arrival) {
                Ok(found) => found.is_none_or(|bytes| bytes.len() != living.bytes as usize),
                Err(error) if is_damage(&error) => true,
                Err(error) => return Err(failed(error)),
            };
            let is_still_here = || -> Result<bool, Error> {
                let record = self.block_record(&living.id)?;
                Ok(record.is_some_and(|block| block.arrival == living.arrival))
            };
            if is_damaged && is_still_here()? {
                tracing::warn!(id = %living.id, "a stored block is damaged: removing it");
                self.drop_one(living.id, true)?;
            }
        }
        Ok(())
    }
}

/// A block that is here.
struct Living {
    arrival: u64,
    id: BlockId,
    bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(first: u64, last: u64) -> BlocksFile {
        BlocksFile {
            first,
            last,
            entries: last - first + 1,
        }
    }

    #[test]
    fn overlapping_files_are_one_run() {
        let runs = disjoint(&[
            file(1, 9),
            file(3, 4),
            file(10, 20),
            file(20, 20),
            file(30, 31),
        ]);
        let ranges: Vec<_> = runs.iter().map(|r| (r.first, r.last, r.files)).collect();
        assert_eq!(ranges, [(1, 9, 2), (10, 20, 2), (30, 31, 1)]);
    }

    #[test]
    fn neighbours_join_while_little_is_moved() {
        let run = |first, live_bytes, dead_bytes| Run {
            first,
            last: first,
            entries: 1,
            files: 1,
            live_bytes,
            dead_bytes,
        };
        let runs = [
            run(1, 0, 10),
            run(2, 5, 5),
            run(3, 6, 4),
            run(4, 9, 0),
            run(5, 0, 9),
        ];
        let joined = joined(&runs, 10, |run| run.dead_bytes > 0);
        let ranges: Vec<_> = joined.iter().map(|r| (r.first, r.last)).collect();
        assert_eq!(ranges, [(1, 2), (3, 3), (5, 5)]);
        assert_eq!(joined[0].dead_percent(), 75);
    }
}
