//! A shelf of small records for the DHT: a bounded, persistent map per table.
//!
//! It is a database of its own beside the blocks, so that a burst of block writes never makes a record wait. Losing it costs
//! announcing again, never data: writes go to the operating system at once and to the disk when it sees fit, and a shelf that
//! can't be read any more is put aside and started afresh.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rocksdb::{BlockBasedOptions, Cache, DB, Options, ReadOptions, WriteBatch};

use super::error::Error;
use super::rocks::database;
use super::rocks::files::{self, Found};
use super::types::{Access, StoreOptions, Unwritable};
use crate::size::ByteSize;

/// Longest key of a record in bytes.
pub const MAX_RECORD_KEY_BYTES: usize = 512;
/// Longest value of a record in bytes: all providers of one key together, or a head.
pub const MAX_RECORD_VALUE_BYTES: usize = 40 << 10;

/// First byte of the keys of the shelf's own counters; tables use the numbers of [`RecordTable`].
const COUNT_TAG: u8 = 0xff;
const MEMTABLE_BYTES: usize = 2 << 20;
const CACHE_BYTES: usize = 2 << 20;
const MAX_WAL_BYTES: u64 = 4 << 20;
const MAX_OPEN_FILES: i32 = 32;
const MAX_LOG_BYTES: usize = 256 << 10;

/// The shelf's tables. The numbers are on disk: never change or reuse one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RecordTable {
    /// Values that others stored here.
    Values = 1,
    /// Who told that it provides what.
    Providers = 2,
    /// What this node announces and when.
    Announced = 3,
    /// Peers and their addresses, for the next start.
    Peers = 4,
    /// When other holders of what is leased here were heard.
    Circle = 5,
    /// Leases that were ended before their time.
    Released = 6,
    /// Machines that their owners turned out.
    Revoked = 7,
    /// Ports of other programs that this node announces.
    Services = 8,
    /// Where announcing is in the keyspace.
    Laps = 9,
}

impl RecordTable {
    const ALL: [Self; 9] = [
        Self::Values,
        Self::Providers,
        Self::Announced,
        Self::Peers,
        Self::Circle,
        Self::Released,
        Self::Revoked,
        Self::Services,
        Self::Laps,
    ];

    const fn index(self) -> usize {
        self as usize - 1
    }
}

/// Key and value.
pub type Record = (Vec<u8>, Vec<u8>);

/// The shelf. Cheap to clone; all clones are one shelf.
#[derive(Clone)]
pub struct RecordShelf(Arc<Inner>);

struct Inner {
    backend: Backend,
    max_records: u64,
    /// Limit for everything in the store, of which records may take a part.
    quota_bytes: AtomicU64,
    /// Entries of each table; held while writing, so that counts and entries change together.
    counts: Mutex<Counts>,
}

/// Entries of each table.
type Counts = [u64; RecordTable::ALL.len()];

enum Backend {
    Disk(DB),
    /// A database that can't be written, and why.
    ReadOnly(DB, Unwritable),
    Memory(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>),
}

impl std::fmt::Debug for RecordShelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RecordShelf({:?})", *self.0.counts())
    }
}

impl RecordShelf {
    /// A shelf that lives as long as the process.
    pub fn in_memory(options: &StoreOptions) -> Self {
        Self(Arc::new(Inner {
            backend: Backend::Memory(Mutex::default()),
            max_records: options.max_records,
            quota_bytes: AtomicU64::new(options.quota.0),
            counts: Mutex::default(),
        }))
    }

    /// Opens the shelf in `dir`, which nobody else may have open, or makes it. One that is damaged
    /// is put aside under another name and made anew: it must not keep anybody from the blocks.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::ReadOnly`], [`Error::Directory`], when it can't be written.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Self, Error> {
        let (backend, counts) = match options.access {
            Access::Read(why) => open_to_read(dir, why),
            Access::Write | Access::MakeRoom => open_to_write(dir)?,
        };
        Ok(Self(Arc::new(Inner {
            backend,
            max_records: options.max_records,
            quota_bytes: AtomicU64::new(options.quota.0),
            counts: Mutex::new(counts),
        })))
    }

    /// Stores a record, in place of one with the same key.
    ///
    /// # Errors
    /// [`Error::RecordTooLarge`], [`Error::TooManyRecords`], [`Error::Backend`].
    pub fn put(&self, table: RecordTable, key: &[u8], value: &[u8]) -> Result<(), Error> {
        if key.len() > MAX_RECORD_KEY_BYTES || value.len() > MAX_RECORD_VALUE_BYTES {
            return Err(Error::RecordTooLarge {
                key_bytes: key.len(),
                value_bytes: value.len(),
            });
        }
        let mut counts = self.0.counts();
        let known = self.get(table, key)?.is_some();
        let count = counts[table.index()];
        if !known && count >= self.0.max_records {
            return Err(Error::TooManyRecords(count));
        }
        let count = count + u64::from(!known);
        match &self.0.backend {
            Backend::Disk(db) => {
                let mut batch = WriteBatch::default();
                batch.put(full_key(table, key), value);
                if !known {
                    batch.put(count_key(table), count.to_be_bytes());
                }
                db.write(batch).map_err(Error::Backend)?;
            }
            Backend::ReadOnly(_, why) => return Err((*why).into()),
            Backend::Memory(map) => {
                lock(map).insert(full_key(table, key), value.to_vec());
            }
        }
        counts[table.index()] = count;
        Ok(())
    }

    /// The record with this key.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn get(&self, table: RecordTable, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        match &self.0.backend {
            Backend::Disk(db) | Backend::ReadOnly(db, _) => {
                db.get(full_key(table, key)).map_err(Error::Backend)
            }
            Backend::Memory(map) => Ok(lock(map).get(&full_key(table, key)).cloned()),
        }
    }

    /// Removes a record. Returns whether it was there.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn remove(&self, table: RecordTable, key: &[u8]) -> Result<bool, Error> {
        let mut counts = self.0.counts();
        if self.get(table, key)?.is_none() {
            return Ok(false);
        }
        let count = counts[table.index()].saturating_sub(1);
        match &self.0.backend {
            Backend::Disk(db) => {
                let mut batch = WriteBatch::default();
                batch.delete(full_key(table, key));
                batch.put(count_key(table), count.to_be_bytes());
                db.write(batch).map_err(Error::Backend)?;
            }
            Backend::ReadOnly(_, why) => return Err((*why).into()),
            Backend::Memory(map) => {
                lock(map).remove(&full_key(table, key));
            }
        }
        counts[table.index()] = count;
        Ok(true)
    }

    /// Up to `limit` records whose keys start with `prefix`, ordered by key, from the first after `after` on.
    ///
    /// # Errors
    /// [`Error::Backend`].
    pub fn scan_prefix(
        &self,
        table: RecordTable,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Record>, Error> {
        let full_prefix = full_key(table, prefix);
        // The first key behind `after` is `after` with a zero byte.
        let start = after.map_or_else(
            || full_prefix.clone(),
            |after| {
                let mut start = full_key(table, after);
                start.push(0);
                start.max(full_prefix.clone())
            },
        );
        let mut found = Vec::new();
        match &self.0.backend {
            Backend::Disk(db) | Backend::ReadOnly(db, _) => {
                let mut iterator = db.raw_iterator_opt(ReadOptions::default());
                iterator.seek(&start);
                while found.len() < limit {
                    let Some((key, value)) = iterator.item() else {
                        iterator.status().map_err(Error::Backend)?;
                        break;
                    };
                    if !key.starts_with(&full_prefix) {
                        break;
                    }
                    found.push((key[1..].to_vec(), value.to_vec()));
                    iterator.next();
                }
            }
            Backend::Memory(map) => {
                let map = lock(map);
                let range = (Bound::Included(start), Bound::Unbounded);
                found.extend(
                    map.range::<Vec<u8>, _>(range)
                        .take_while(|(key, _)| key.starts_with(&full_prefix))
                        .take(limit)
                        .map(|(key, value)| (key[1..].to_vec(), value.clone())),
                );
            }
        }
        Ok(found)
    }

    /// Limit in bytes for everything in the store that this shelf is part of. Bounding the records
    /// by it is for those who put them.
    pub fn quota_bytes(&self) -> u64 {
        self.0.quota_bytes.load(Ordering::Relaxed)
    }

    /// The store has another limit.
    pub(super) fn set_quota(&self, quota: ByteSize) {
        self.0.quota_bytes.store(quota.0, Ordering::Relaxed);
    }

    /// Number of records in a table.
    pub fn len(&self, table: RecordTable) -> u64 {
        self.0.counts()[table.index()]
    }

    /// Whether a table has no records.
    pub fn is_empty(&self, table: RecordTable) -> bool {
        self.len(table) == 0
    }
}

impl Inner {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        lock(&self.counts)
    }
}

/// Parts of an opened shelf.
type Opened = (Backend, Counts);

fn open_to_write(dir: &Path) -> Result<Opened, Error> {
    let problem = match open_database(dir) {
        Ok((db, counts)) => return Ok((Backend::Disk(db), counts)),
        Err(error) if error.unwritable().is_some() => return Err(error),
        Err(error) => error,
    };
    let aside = put_aside(dir)?;
    tracing::warn!(
        error = %problem, aside = %aside.display(),
        "the DHT records can't be read: they are put aside, and what this node announces is announced again"
    );
    match open_database(dir) {
        Ok((db, counts)) => Ok((Backend::Disk(db), counts)),
        Err(error) if error.unwritable().is_some() => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the DHT records are kept in memory only");
            Ok((Backend::Memory(Mutex::default()), Counts::default()))
        }
    }
}

fn open_to_read(dir: &Path, why: Unwritable) -> Opened {
    let nothing = || (Backend::Memory(Mutex::default()), Counts::default());
    let open = || -> Result<Opened, Error> {
        // RocksDB would make the directory.
        if files::look(dir)? == Found::Nothing {
            return Ok(nothing());
        }
        let options = database_options();
        let db = DB::open_for_read_only(&options, dir, false);
        let db = db.map_err(|error| database::open_failed(dir, error))?;
        let counts = read_counts(&db)?;
        Ok((Backend::ReadOnly(db, why), counts))
    };
    open().unwrap_or_else(|error| {
        tracing::debug!(%error, "the DHT records are left out");
        nothing()
    })
}

fn open_database(dir: &Path) -> Result<(DB, Counts), Error> {
    let mut options = database_options();
    options.create_if_missing(files::look(dir)? == Found::Nothing);
    let db = DB::open(&options, dir).map_err(|error| database::open_failed(dir, error))?;
    let counts = read_counts(&db)?;
    Ok((db, counts))
}

fn read_counts(db: &DB) -> Result<Counts, Error> {
    let mut counts = Counts::default();
    for table in RecordTable::ALL {
        let stored = db.get(count_key(table)).map_err(Error::Backend)?;
        counts[table.index()] = stored
            .and_then(|bytes| bytes.try_into().ok())
            .map_or(0, u64::from_be_bytes);
    }
    Ok(counts)
}

/// Gives a directory the first free name of those that damaged ones get.
fn put_aside(dir: &Path) -> Result<PathBuf, Error> {
    let mut names = (1u32..).map(|number| dir.with_extension(format!("damaged-{number}")));
    let aside = names
        .find(|aside| !aside.exists())
        .expect("a directory has not so many entries");
    match fs::rename(dir, &aside) {
        Ok(()) => Ok(aside),
        Err(source) => Err(Error::Directory {
            path: dir.to_owned(),
            source,
        }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Everything under these locks is whole at every moment, so a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn full_key(table: RecordTable, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(1 + key.len());
    full.push(table as u8);
    full.extend_from_slice(key);
    full
}

fn count_key(table: RecordTable) -> [u8; 2] {
    [COUNT_TAG, table as u8]
}

fn database_options() -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(CACHE_BYTES));
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(false);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_size(MEMTABLE_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_max_total_wal_size(MAX_WAL_BYTES);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_max_log_file_size(MAX_LOG_BYTES);
    options.set_keep_log_file_num(2);
    options.set_log_level(rocksdb::LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_manifest_preallocation_size(64 << 10);
    options.set_max_manifest_file_size(1 << 20);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(max_records: u64) -> StoreOptions {
        StoreOptions {
            max_records,
            ..StoreOptions::default()
        }
    }

    fn both(test: impl Fn(RecordShelf)) {
        test(RecordShelf::in_memory(&options(3)));
        let dir = tempfile::tempdir().expect("a directory");
        test(RecordShelf::open(dir.path(), &options(3)).expect("opens"));
    }

    #[test]
    fn keeps_counts_and_limits() {
        both(|shelf| {
            let table = RecordTable::Providers;
            assert!(shelf.is_empty(table));
            for key in [b"a1", b"a2", b"b1"] {
                shelf.put(table, key, b"x").expect("there is room");
            }
            let over = shelf.put(table, b"b2", b"x");
            assert!(matches!(over, Err(Error::TooManyRecords(3))), "{over:?}");
            shelf
                .put(table, b"b1", b"y")
                .expect("replacing needs no room");
            shelf
                .put(RecordTable::Values, b"b2", b"z")
                .expect("tables are counted apart");
            assert_eq!(shelf.get(table, b"b1").expect("reads"), Some(b"y".to_vec()));
            assert_eq!(shelf.get(table, b"b2").expect("reads"), None);
            assert!(shelf.remove(table, b"a1").expect("writes"));
            assert!(!shelf.remove(table, b"a1").expect("writes"));
            assert_eq!(shelf.len(table), 2);
            shelf.put(table, b"b2", b"x").expect("there is room again");
        });
    }

    #[test]
    fn size_limits() {
        both(|shelf| {
            let table = RecordTable::Values;
            let (key, value) = (
                vec![1; MAX_RECORD_KEY_BYTES],
                vec![2; MAX_RECORD_VALUE_BYTES],
            );
            shelf
                .put(table, &key, &value)
                .expect("the largest is allowed");
            let too_large = |key: &[u8], value: &[u8]| {
                matches!(
                    shelf.put(table, key, value),
                    Err(Error::RecordTooLarge { .. })
                )
            };
            assert!(too_large(&[1; MAX_RECORD_KEY_BYTES + 1], b""));
            assert!(too_large(b"", &[2; MAX_RECORD_VALUE_BYTES + 1]));
        });
    }

    #[test]
    fn scans_by_prefix_in_pages() {
        both(|shelf| {
            let table = RecordTable::Announced;
            for key in [&b"a"[..], b"ab", b"b"] {
                shelf.put(table, key, key).expect("there is room");
            }
            shelf
                .put(RecordTable::Peers, b"ac", b"other")
                .expect("there is room");
            let keys = |prefix: &[u8], after: Option<&[u8]>, limit| -> Vec<Vec<u8>> {
                let found = shelf
                    .scan_prefix(table, prefix, after, limit)
                    .expect("reads");
                found.into_iter().map(|(key, _)| key).collect()
            };
            assert_eq!(keys(b"", None, 9), [&b"a"[..], b"ab", b"b"]);
            assert_eq!(keys(b"a", None, 9), [&b"a"[..], b"ab"]);
            assert_eq!(keys(b"a", None, 1), [b"a"]);
            assert_eq!(keys(b"a", Some(b"a"), 9), [b"ab"]);
            assert_eq!(keys(b"b", Some(b"a"), 9), [b"b"]);
            assert!(keys(b"a", Some(b"ab"), 9).is_empty());
        });
    }

    #[test]
    fn survives_reopening() {
        let dir = tempfile::tempdir().expect("a directory");
        let shelf = RecordShelf::open(dir.path(), &options(9)).expect("opens");
        shelf.put(RecordTable::Peers, b"k", b"v").expect("writes");
        drop(shelf);
        let shelf = RecordShelf::open(dir.path(), &options(9)).expect("opens");
        assert_eq!(shelf.len(RecordTable::Peers), 1);
        assert_eq!(
            shelf.get(RecordTable::Peers, b"k").expect("reads"),
            Some(b"v".to_vec())
        );
    }

    /// The shelf opens when one of its files is damaged, and the old files are kept under another
    /// name.
    #[test]
    fn a_damaged_shelf_is_put_aside_and_starts_afresh() {
        let hurt: [fn(&Path); 5] = [
            |dir| fs::write(dir.join("CURRENT"), b"MANIFEST-nonsense").expect("written"),
            |dir| fs::remove_file(dir.join("CURRENT")).expect("removed"),
            |dir| fs::remove_file(named(dir, "MANIFEST-")).expect("removed"),
            |dir| fs::write(named(dir, "MANIFEST-"), b"nonsense").expect("written"),
            |dir| fs::remove_file(named(dir, ".sst")).expect("removed"),
        ];
        for (number, hurt) in hurt.into_iter().enumerate() {
            let dir = tempfile::tempdir().expect("a directory");
            let path = dir.path().join("records");
            let shelf = RecordShelf::open(&path, &options(9)).expect("opens");
            shelf.put(RecordTable::Peers, b"k", b"v").expect("writes");
            drop(shelf);
            // Opening again writes a table.
            drop(RecordShelf::open(&path, &options(9)).expect("opens"));
            hurt(&path);
            let shelf = RecordShelf::open(&path, &options(9)).expect("opens all the same");
            assert_eq!(shelf.len(RecordTable::Peers), 0, "{number}");
            shelf.put(RecordTable::Peers, b"k2", b"v").expect("writes");
            let aside = dir.path().join("records.damaged-1");
            assert!(fs::read_dir(&aside).expect("kept").count() > 1, "{number}");
        }
    }

    fn named(dir: &Path, part: &str) -> PathBuf {
        let mut paths = fs::read_dir(dir)
            .expect("reads")
            .map(|entry| entry.expect("an entry").path());
        let is_named = |path: &PathBuf| path.to_string_lossy().contains(part);
        paths.find(is_named).expect("there is one")
    }

    #[test]
    fn a_shelf_that_cannot_be_written_is_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("records");
        let to_read = StoreOptions {
            access: Access::Read(Unwritable::DiskFull),
            ..options(9)
        };
        let shelf = RecordShelf::open(&path, &to_read).expect("opens");
        assert!(shelf.is_empty(RecordTable::Peers) && !path.exists());
        let shelf = RecordShelf::open(&path, &options(9)).expect("opens");
        shelf.put(RecordTable::Peers, b"k", b"v").expect("writes");
        drop(shelf);
        let shelf = RecordShelf::open(&path, &to_read).expect("opens");
        assert_eq!(
            shelf.get(RecordTable::Peers, b"k").expect("reads"),
            Some(b"v".to_vec())
        );
        for refused in [
            shelf.put(RecordTable::Peers, b"k2", b"v").map(|()| true),
            shelf.remove(RecordTable::Peers, b"k"),
        ] {
            assert!(matches!(refused, Err(Error::DiskFull)), "{refused:?}");
        }
    }
}
