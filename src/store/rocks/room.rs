//! The quota: how much is used, and making room.
//!
//! The directory is measured now and then; in between, what is written is added up, rounded up. So the sum is at every moment at
//! least what is on disk and in memory, and costs nothing to know. A part of the quota is kept free for what databases
//! need for a moment: compacting the index, and moving living blocks out of files that are mostly dead.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::rebuild::ASIDE_PREFIX;
use super::{RocksStore, Writer, lock};
use crate::store::Store;
use crate::store::error::Error;
use crate::store::types::Access;

/// A write takes at most this part more on disk than in its batch.
const OVERHEAD_SHARE: u64 = 128;
/// What a flush takes on disk besides the data: two table files, a blob file and their entries in the manifest.
const FLUSH_BYTES: u64 = 8 << 10;
/// The part of the quota that is kept free is at most this.
const MAX_RESERVE_SHARE: u64 = 4;
/// Longest wait for files under way.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);
const SETTLE_POLL: Duration = Duration::from_millis(5);

/// How much space is used.
#[derive(Debug, Default)]
pub struct Disk {
    measured: AtomicU64,
    added: AtomicU64,
}

impl Disk {
    /// Notes a batch of `bytes`.
    pub fn add(&self, bytes: u64) {
        self.added
            .fetch_add(bytes + bytes / OVERHEAD_SHARE, Ordering::Relaxed);
    }

    /// Notes a flush.
    pub fn add_flush(&self) {
        self.added.fetch_add(FLUSH_BYTES, Ordering::Relaxed);
    }

    /// Bytes on disk and in memory, at most.
    pub fn used(&self) -> u64 {
        self.measured.load(Ordering::Relaxed) + self.added.load(Ordering::Relaxed)
    }

    fn set(&self, measured: u64) {
        self.measured.store(measured, Ordering::Relaxed);
        self.added.store(0, Ordering::Relaxed);
    }
}

impl RocksStore {
    /// Measures the directory. Under the writer's lock, so that nothing is written meanwhile.
    pub(super) fn measure(&self, _writer: &Writer) {
        // Memory first: what is flushed in between is then counted twice, which is safe, and not missed.
        let in_memory = self.db.memtable_bytes();
        // Old files that a rebuild put aside are the user's to remove, and would fill the quota.
        let on_disk = directory_bytes(self.db.dir(), &|name| !name.starts_with(ASIDE_PREFIX));
        self.disk.set(in_memory + on_disk);
    }

    /// What is kept free of the quota.
    fn reserve_bytes(&self) -> u64 {
        let needed = 2 * self.memtable_bytes + self.db.index_bytes();
        needed.min(self.quota() / MAX_RESERVE_SHARE)
    }

    /// The limit for everything on disk, now.
    pub(super) fn quota(&self) -> u64 {
        self.quota.load(Ordering::Relaxed)
    }

    /// Evicts what a lowered quota leaves no room for. What can't go stays, and keeps the store
    /// full.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub(super) fn fit_quota(&self) -> Result<(), Error> {
        match self.excess(0, true) {
            (0, _) => Ok(()),
            _ => match self.make_room(0) {
                Err(Error::Full { .. } | Error::DiskFull) => Ok(()),
                done => done,
            },
        }
    }

    /// From how much space used on blocks have to make room for others, by the quota alone.
    pub(super) fn evicts_at_bytes(&self) -> u64 {
        self.quota().saturating_sub(self.reserve_bytes())
    }

    /// Bytes by which a write of `needed` bytes exceeds the quota and the free space of the disk.
    /// Blocks leave the reserve alone. Other records may use it, and so may all that a command
    /// writes which makes room: what is to go is written down in a block.
    fn excess(&self, needed: u64, is_blocks: bool) -> (u64, u64) {
        let makes_room = self.options.access == Access::MakeRoom;
        let reserve = match is_blocks && !makes_room {
            true => self.reserve_bytes(),
            false => 0,
        };
        let over_quota = (self.disk.used() + needed + reserve).saturating_sub(self.quota());
        // A file system that doesn't tell is taken to have room: a write that fails says so.
        let over_disk = self.db.free_bytes().map_or(0, |free| {
            (needed + reserve + self.db.memtable_bytes()).saturating_sub(free)
        });
        (over_quota, over_disk)
    }

    /// Whether a write of `needed` bytes fits.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::DiskFull`].
    pub(super) fn check_room(&self, needed: u64, is_blocks: bool) -> Result<(), Error> {
        match self.excess(needed, is_blocks) {
            (0, 0) => Ok(()),
            (0, _) => Err(Error::DiskFull),
            _ => Err(Error::Full {
                used: self.disk.used(),
                quota: self.quota(),
                needed,
            }),
        }
    }

    /// Returns once `needed` bytes of blocks fit, having evicted what that takes.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::DiskFull`] when even evicting everything is not enough; nothing was evicted if that was clear from the
    /// start.
    pub(super) fn make_room(&self, needed: u64) -> Result<(), Error> {
        let _turn = lock(&self.reclaiming);
        loop {
            let Err(error) = self.settle(needed) else {
                return Ok(());
            };
            let totals = self.writer().totals;
            let (over_quota, over_disk) = self.excess(needed, true);
            let missing = over_quota.max(over_disk);
            let held = totals.pinned_bytes + totals.leased_bytes;
            if missing > totals.block_bytes.saturating_sub(held) + totals.dead_bytes {
                return Err(error);
            }
            // A little more than asked, so that not every put has to come back here.
            let wanted = missing + self.memtable_bytes;
            if totals.dead_bytes > 0 && self.reclaim_urgently(wanted)? > 0 {
                continue;
            }
            if self.evict(wanted)? == 0 {
                return Err(error);
            }
        }
    }

    /// Measures the directory once everything is in it and files under way have come to rest.
    pub(super) fn measure_at_rest(&self) -> Result<(), Error> {
        self.flush()?;
        let deadline = Instant::now() + SETTLE_PATIENCE;
        while self.db.has_files_under_way() && Instant::now() < deadline {
            std::thread::sleep(SETTLE_POLL);
        }
        self.measure(&self.writer());
        Ok(())
    }

    /// Whether `needed` bytes of blocks fit once files under way have come to rest: a flush counts twice while it runs, and
    /// a file that a compaction has emptied stays until its last reader is done. Nothing is evicted for what goes by itself.
    fn settle(&self, needed: u64) -> Result<(), Error> {
        let deadline = Instant::now() + SETTLE_PATIENCE;
        loop {
            self.measure(&self.writer());
            let room = self.check_room(needed, true);
            if room.is_ok() || !self.db.has_files_under_way() || Instant::now() > deadline {
                return room;
            }
            std::thread::sleep(SETTLE_POLL);
        }
    }
}

/// Bytes that the files in `dir` and below take, without entries of the directory itself whose
/// names don't count. Files that vanish meanwhile count nothing.
fn directory_bytes(dir: &Path, counts: &dyn Fn(&str) -> bool) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return 0;
    };
    entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            if !entry.file_name().to_str().is_none_or(counts) {
                return None;
            }
            let metadata = entry.metadata().ok()?;
            Some(if metadata.is_dir() {
                directory_bytes(&entry.path(), &|_| true)
            } else {
                // Both matter: space that is set aside for a file, and a length that is not written yet.
                metadata.len().max(metadata.blocks() * 512)
            })
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_measured_with_what_is_below() {
        let dir = tempfile::tempdir().expect("a directory");
        let below = dir.path().join("below");
        std::fs::create_dir(&below).expect("writes");
        std::fs::write(dir.path().join("a"), vec![1; 10_000]).expect("writes");
        std::fs::write(below.join("b"), vec![1; 5000]).expect("writes");
        let all = |dir: &Path| directory_bytes(dir, &|_| true);
        let bytes = all(dir.path());
        assert!((15_000..15_000 + 4 * 4096).contains(&bytes), "{bytes}");
        assert_eq!(all(&dir.path().join("missing")), 0);
        let rest = directory_bytes(dir.path(), &|name| name != "below");
        assert!((10_000..bytes - 4000).contains(&rest), "{rest}");
    }

    #[test]
    fn what_is_written_counts_until_it_is_measured() {
        let disk = Disk::default();
        disk.set(1000);
        disk.add(OVERHEAD_SHARE);
        disk.add_flush();
        assert_eq!(disk.used(), 1000 + OVERHEAD_SHARE + 1 + FLUSH_BYTES);
        disk.set(7);
        assert_eq!(disk.used(), 7);
    }
}
