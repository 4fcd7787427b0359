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
use super::database::BlocksFile;
use super::schema::{self, Tag};
use super::{RocksStore, lock};
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
/// A file that holds less than this part of a memtable is small: it came from a flush that somebody
/// waited for.
const SMALL_SHARE: u64 = 4;
/// Small neighbouring files are merged from this many on.
const MIN_SMALL_FILES: usize = 8;
/// Files are merged with those of about their size: in so many steps, each [`MIN_SMALL_FILES`]
/// times the one below, so that no block is moved more often than that before its file is small no
/// more.
const SIZE_STEPS: u32 = 4;

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

    fn is_in(&self, other: &Self) -> bool {
        other.first <= self.first && self.last <= other.last
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
        maintained.more |= self.merge_small_files()?;
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
        let parts = self.runs_with_dead()?;
        let is_wanted = |run: &Run| run.dead_bytes > 0 && run.dead_percent() >= percent;
        let mut runs = joined(&parts, self.memtable_bytes, is_wanted);
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
            if let Some(bytes) = self.compact(&run)? {
                reclaimed += bytes;
                continue;
            }
            // A block that can't be read now keeps no more than the file that it is in.
            for part in parts
                .iter()
                .filter(|part| **part != run && part.is_in(&run))
            {
                reclaimed += self.compact(part)?.unwrap_or(0);
            }
        }
        Ok((reclaimed, false))
    }

    /// Merges small neighbouring files, which flushes that somebody waited for leave behind, in
    /// this process or an earlier one. Bounded work; returns whether there is more.
    pub(super) fn merge_small_files(&self) -> Result<bool, Error> {
        let mut moved = 0;
        for step in (0..SIZE_STEPS).rev() {
            let small_bytes =
                self.memtable_bytes / SMALL_SHARE / (MIN_SMALL_FILES as u64).pow(step);
            let files = self.db.blocks_files()?;
            if files.len() < MIN_SMALL_FILES {
                return Ok(false);
            }
            let mut runs = disjoint(&files);
            for run in &mut runs {
                run.live_bytes = self.bytes_up_to(run, small_bytes)?;
            }
            let is_small = |run: &Run| run.live_bytes < small_bytes;
            for run in joined(&runs, self.memtable_bytes, is_small) {
                if run.files < MIN_SMALL_FILES || !self.can_move(run.live_bytes) {
                    continue;
                }
                if moved >= MAX_MOVED_BYTES {
                    return Ok(true);
                }
                moved += run.live_bytes;
                self.compact(&run)?;
            }
        }
        Ok(false)
    }

    pub(super) fn rewrite_index(&self) -> Result<(), Error> {
        let _turn = lock(&self.reclaiming);
        // Records that are not in files yet would be left out.
        self.db.flush()?;
        if self.can_move(self.db.index_bytes()) {
            self.db.compact_index()?;
        }
        Ok(())
    }

    /// Bytes of the living blocks of a run. Counts no further than to `limit`.
    fn bytes_up_to(&self, run: &Run, limit: u64) -> Result<u64, Error> {
        let mut bytes = 0;
        let start = schema::number_key(Tag::Arrival, run.first);
        let end = schema::number_key(Tag::Arrival, run.last.saturating_add(1));
        self.db.scan(start, end, |_, value| {
            let record: wire::Arrival = schema::decode(value, "an arrival")?;
            bytes += u64::from(record.bytes);
            Ok(bytes < limit)
        })?;
        Ok(bytes)
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
        self.scan_arrivals(Tag::Arrival, run, |_, value| {
            let record: wire::Arrival = schema::decode(value, "an arrival")?;
            living.push(Living {
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

    /// Compacts a run. Returns the bytes that came back; `None` when a block of it can't be read
    /// now, and all stays as it is.
    fn compact(&self, run: &Run) -> Result<Option<u64>, Error> {
        if !self.drop_damaged(run)? {
            return Ok(None);
        }
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
        Ok(Some(dead.iter().map(|(_, bytes)| u64::from(*bytes)).sum()))
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
    /// Returns whether all others can be read, and so moved.
    fn drop_damaged(&self, run: &Run) -> Result<bool, Error> {
        for living in self.live_in(run)? {
            let read = match self.get_block(living.id) {
                Err(Error::Corrupt { .. }) => {
                    let removed = self.remove_if_corrupt(living.id);
                    if matches!(removed, Ok(true)) {
                        tracing::warn!(id = %living.id, "a stored block was damaged: it is removed");
                    }
                    removed.map(drop)
                }
                read => read.map(drop),
            };
            match read {
                Ok(()) => {}
                Err(error @ Error::Unreadable { .. }) => {
                    tracing::warn!(
                        error = %chain(&error),
                        "the space of dropped blocks beside a block waits until that one can be read"
                    );
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// An error and what it comes from, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A block that is here.
struct Living {
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
