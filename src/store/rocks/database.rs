//! RocksDB as the store uses it: two column families, no write-ahead log, typed failures.

use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBPinnableSlice, ErrorKind, FlushOptions, LogLevel, Options, ReadOptions,
    WaitForCompactOptions, WriteBatch, WriteOptions, properties,
};

use super::flush::Written;
use super::schema::BLOCKS_CF;
use crate::store::error::Error;

/// Directory of the blocks' database inside the store's.
const BLOCKS_DIR: &str = "blocks";
/// Name of the file that names the process which has the store open.
const HOLDER_FILE: &str = "holder";
const INDEX_CF: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;

/// Values from this size on lie in blob files, where nothing rewrites them but garbage collection.
const MIN_BLOB_BYTES: u64 = 4 << 10;
/// Memtables of one column family at most: one that fills, the others being written.
const MAX_MEMTABLES: i32 = 3;
/// RocksDB takes a quarter of them for flushes, of which two shall run at once.
const BACKGROUND_JOBS: i32 = 8;
/// Shared by the index's data, index and filter blocks. Blob values are never cached: the system's page cache does that.
const CACHE_BYTES: usize = 8 << 20;
const BLOOM_BITS: f64 = 10.0;
const MAX_OPEN_FILES: i32 = 256;
/// What is written to a file is gathered up to this size: of a block all but the beginning is written from where it is, without another copy.
const GATHERED_BYTES: u64 = 64 << 10;
const MAX_LOG_BYTES: usize = 256 << 10;
const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Small files pile up at level 0 during bulk puts and are merged quickly afterwards: no reason to stall a writer.
const SLOWDOWN_FILES: i32 = 60;
const STOP_FILES: i32 = 120;
/// Longest wait for files that a compaction made obsolete to be deleted.
const COMPACTION_PATIENCE: Duration = Duration::from_secs(600);
/// RocksDB looks for room every five seconds after the disk was full.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(12);
/// Never written.
const PROBE_KEY: &[u8] = b"Mprobe";
/// Missing from the crate's list of properties.
const LIVE_BLOB_FILE_SIZE: &CStr = c"rocksdb.live-blob-file-size";
const RECOVERY_POLL: Duration = Duration::from_millis(50);

/// An open database.
pub struct Database {
    db: DB,
    dir: PathBuf,
    memtable_bytes: u64,
    /// The disk was full: RocksDB refuses writes until it has found room again by itself.
    starved: AtomicBool,
    written: Written,
}

/// A file of the blocks' column family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlocksFile {
    /// Smallest arrival number.
    pub first: u64,
    /// Largest arrival number.
    pub last: u64,
    /// Entries, tombstones among them.
    pub entries: u64,
}

impl Database {
    /// Opens or creates the database below the store's directory `dir`.
    pub fn open(dir: &Path, memtable_bytes: u64) -> Result<Self, Error> {
        let path = dir.join(BLOCKS_DIR);
        create_private_dir(dir)?;
        create_private_dir(&path)?;
        let cache = Cache::new_lru_cache(CACHE_BYTES);
        let options = database_options();
        // Families of a newer format are opened as they are, so that the schema's version can be read and named.
        let mut names = vec![INDEX_CF.to_owned(), BLOCKS_CF.to_owned()];
        if path.join("CURRENT").exists() {
            let existing = DB::list_cf(&options, &path).map_err(failed)?;
            names.extend(
                existing
                    .into_iter()
                    .filter(|n| n != INDEX_CF && n != BLOCKS_CF),
            );
        }
        let families = names.into_iter().map(|name| {
            let options = if name == BLOCKS_CF {
                blocks_options(memtable_bytes, &cache)
            } else {
                index_options(memtable_bytes, &cache)
            };
            ColumnFamilyDescriptor::new(name, options)
        });
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(|error| {
            if is_lock_error(&error) {
                Error::Locked {
                    dir: dir.to_owned(),
                    pid: read_holder(dir),
                }
            } else {
                failed(error)
            }
        })?;
        let database = Self {
            db,
            dir: dir.to_owned(),
            memtable_bytes,
            starved: AtomicBool::new(false),
            written: Written::default(),
        };
        database.write_holder()?;
        Ok(database)
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn blocks(&self) -> &ColumnFamily {
        self.db
            .cf_handle(BLOCKS_CF)
            .expect("the column family is opened with the database")
    }

    fn index(&self) -> &ColumnFamily {
        self.db
            .cf_handle(INDEX_CF)
            .expect("the default column family always exists")
    }

    /// A record of the index.
    pub fn get(&self, key: &[u8]) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        self.db.get_pinned_cf(self.index(), key).map_err(failed)
    }

    /// Whether the index has a record.
    pub fn contains(&self, key: &[u8]) -> Result<bool, Error> {
        Ok(self.get(key)?.is_some())
    }

    /// Visits the index's records from `start` on, before `end`, until `visit` returns `false`.
    pub fn scan(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(end);
        let mut iterator = self.db.raw_iterator_cf_opt(self.index(), options);
        iterator.seek(&start);
        while let Some((key, value)) = iterator.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            iterator.next();
        }
        iterator.status().map_err(failed)
    }

    /// The bytes that came at an arrival number. The raw error tells damage from other failures: see [`is_damage`].
    pub fn get_bytes(&self, arrival: u64) -> Result<Option<DBPinnableSlice<'_>>, rocksdb::Error> {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        self.db
            .get_pinned_cf_opt(self.blocks(), arrival.to_be_bytes(), &options)
    }

    /// Adds a block's bytes to a batch.
    pub fn put_bytes(&self, batch: &mut WriteBatch, arrival: u64, bytes: &[u8]) {
        batch.put_cf(self.blocks(), arrival.to_be_bytes(), bytes);
    }

    /// Adds the end of a block's bytes to a batch.
    pub fn delete_bytes(&self, batch: &mut WriteBatch, arrival: u64) {
        batch.delete_cf(self.blocks(), arrival.to_be_bytes());
    }

    /// Writes a batch to memory: it lasts after the next [`flush`](Self::flush).
    pub fn write(&self, batch: WriteBatch) -> Result<(), Error> {
        if self.starved.load(Ordering::Relaxed) {
            self.recover()?;
        }
        self.written.write(|| self.write_once(batch))
    }

    fn write_once(&self, batch: WriteBatch) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db
            .write_opt(batch, &options)
            .map_err(|error| self.write_failed(error))
    }

    /// Writes all that is in memory to the disk and syncs it, both families as one.
    pub fn flush(&self) -> Result<(), Error> {
        if self.starved.load(Ordering::Relaxed) {
            self.recover()?;
        }
        self.written.flush(|| self.flush_once())
    }

    /// Whether a flush would find nothing to write.
    pub fn is_flushed(&self) -> bool {
        self.written.is_flushed()
    }

    /// Waits for RocksDB to notice that the disk has room again, if it has: it looks every few seconds.
    fn recover(&self) -> Result<(), Error> {
        let deadline = Instant::now() + RECOVERY_PATIENCE;
        loop {
            // A write of nothing. A flush would be queued, and what is queued keeps RocksDB from recovering.
            let mut probe = WriteBatch::default();
            probe.delete(PROBE_KEY);
            match self.write_once(probe) {
                Ok(()) => {
                    self.starved.store(false, Ordering::Relaxed);
                    tracing::info!("the disk has room again");
                    return Ok(());
                }
                Err(Error::DiskFull) if self.has_room_again() && Instant::now() < deadline => {
                    std::thread::sleep(RECOVERY_POLL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether there is as much room as RocksDB wants to see before it goes on.
    fn has_room_again(&self) -> bool {
        let needed = self.memtable_bytes() + 2 * self.memtable_bytes;
        self.free_bytes().is_some_and(|free| free > needed)
    }

    /// Free bytes of the disk, when its file system tells.
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(&self.dir).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn flush_once(&self) -> Result<(), Error> {
        let mut options = FlushOptions::default();
        options.set_wait(true);
        self.db
            .flush_cfs_opt(&[self.index(), self.blocks()], &options)
            .map_err(|error| self.write_failed(error))
    }

    /// Rewrites the files that hold arrivals `first` to `last`, drops what is deleted and moves what lives to new blob files.
    pub fn compact_blocks(&self, first: u64, last: u64) -> Result<(), Error> {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        let (first, last) = (first.to_be_bytes(), last.to_be_bytes());
        self.db
            .compact_range_cf_opt(self.blocks(), Some(first), Some(last), &options);
        let mut wait = WaitForCompactOptions::default();
        wait.set_timeout(COMPACTION_PATIENCE.as_micros() as u64);
        self.db
            .wait_for_compact(&wait)
            .map_err(|error| self.write_failed(error))
    }

    /// The files that hold blocks' bytes or their ends, in order.
    pub fn blocks_files(&self) -> Result<Vec<BlocksFile>, Error> {
        let mut files = Vec::new();
        for file in self.db.live_files().map_err(failed)? {
            if file.column_family_name != BLOCKS_CF {
                continue;
            }
            let number = |key: Option<Vec<u8>>| {
                super::schema::arrival_of_key(key.as_deref().unwrap_or_default())
            };
            files.push(BlocksFile {
                first: number(file.start_key)?,
                last: number(file.end_key)?,
                entries: file.num_entries,
            });
        }
        files.sort_unstable_by_key(|file| (file.first, file.last));
        Ok(files)
    }

    /// Bytes in memory that are not on disk yet.
    pub fn memtable_bytes(&self) -> u64 {
        [self.index(), self.blocks()]
            .into_iter()
            .map(|cf| {
                let bytes = self
                    .db
                    .property_int_value_cf(cf, properties::CUR_SIZE_ALL_MEM_TABLES);
                bytes.ok().flatten().unwrap_or(0)
            })
            .sum()
    }

    /// Bytes of the index's files: what one compaction of it may need for a moment.
    pub fn index_bytes(&self) -> u64 {
        let bytes = self
            .db
            .property_int_value_cf(self.index(), properties::TOTAL_SST_FILES_SIZE);
        bytes.ok().flatten().unwrap_or(0)
    }

    /// Whether there are data files that RocksDB is writing now, or needs no more and has not deleted yet.
    pub fn has_files_under_way(&self) -> bool {
        let is_data = |path: &Path| path.extension().is_some_and(|e| e == "sst" || e == "blob");
        let Ok(entries) = fs::read_dir(self.dir.join(BLOCKS_DIR)) else {
            return false;
        };
        let on_disk: u64 = entries
            .filter_map(|entry| entry.ok().filter(|entry| is_data(&entry.path())))
            .filter_map(|entry| Some(entry.metadata().ok()?.len()))
            .sum();
        let names: [&CStr; 2] = [
            properties::LIVE_SST_FILES_SIZE.as_c_str(),
            LIVE_BLOB_FILE_SIZE,
        ];
        let live: u64 = [self.index(), self.blocks()]
            .into_iter()
            .flat_map(|cf| names.map(|name| self.db.property_int_value_cf(cf, name)))
            .map(|bytes| bytes.ok().flatten().unwrap_or(0))
            .sum();
        on_disk > live
    }

    fn write_failed(&self, error: rocksdb::Error) -> Error {
        if is_no_space(&error) {
            self.starved.store(true, Ordering::Relaxed);
            return Error::DiskFull;
        }
        let failures = self.db.property_int_value(properties::BACKGROUND_ERRORS);
        if failures.ok().flatten().unwrap_or(0) > 0 {
            return Error::Stopped(error);
        }
        Error::Backend(error)
    }

    fn write_holder(&self) -> Result<(), Error> {
        let path = self.dir.join(HOLDER_FILE);
        let mut options = fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(&path);
        let written = file.and_then(|mut file| writeln!(file, "{}", std::process::id()));
        written.map_err(|source| Error::Directory {
            path: path.clone(),
            source,
        })
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // While the lock is still held: afterwards the file may be another process's.
        if let Err(error) = fs::remove_file(self.dir.join(HOLDER_FILE)) {
            tracing::debug!(%error, "the store's holder file could not be removed");
        }
    }
}

/// Creates a directory that only its owner may enter, or makes an existing one so.
fn create_private_dir(path: &Path) -> Result<(), Error> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .map_err(|source| Error::Directory {
            path: path.to_owned(),
            source,
        })
}

fn read_holder(dir: &Path) -> Option<u32> {
    let text = fs::read_to_string(dir.join(HOLDER_FILE)).ok()?;
    text.trim().parse().ok()
}

/// What a failed read or open of the database means.
pub fn failed(error: rocksdb::Error) -> Error {
    if is_no_space(&error) {
        Error::DiskFull
    } else {
        Error::Backend(error)
    }
}

fn is_no_space(error: &rocksdb::Error) -> bool {
    // RocksDB's codes don't reach us, but the system's words do.
    let words = io::Error::from(io::ErrorKind::StorageFull).to_string();
    let text = error.as_ref();
    text.contains("No space left on device") || text.contains(&words)
}

fn is_lock_error(error: &rocksdb::Error) -> bool {
    // Another process has it, or this one.
    let words = ["While lock file", "lock hold by current process"];
    error.kind() == ErrorKind::IOError && words.iter().any(|words| error.as_ref().contains(words))
}

/// Whether a failed read of a block's bytes means that these bytes are damaged or gone, and not that the process is short of
/// something.
pub fn is_damage(error: &rocksdb::Error) -> bool {
    let shortage = ["Too many open files", "Cannot allocate memory"];
    match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotFound => true,
        ErrorKind::IOError => !shortage.iter().any(|words| error.as_ref().contains(words)),
        _ => false,
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // Without a log, this is what makes a crash lose a suffix of both families together.
    options.set_atomic_flush(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_writable_file_max_buffer_size(GATHERED_BYTES);
    options.set_max_log_file_size(MAX_LOG_BYTES);
    options.set_keep_log_file_num(2);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_max_manifest_file_size(MAX_MANIFEST_BYTES);
    options.set_manifest_preallocation_size(64 << 10);
    options
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table
}

fn index_options(memtable_bytes: u64, cache: &Cache) -> Options {
    let mut table = table_options(cache);
    table.set_bloom_filter(BLOOM_BITS, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&table);
    options.set_write_buffer_size((memtable_bytes / 2) as usize);
    options.set_max_write_buffer_number(MAX_MEMTABLES);
    options.set_target_file_size_base(memtable_bytes);
    options.set_level_zero_slowdown_writes_trigger(SLOWDOWN_FILES);
    options.set_level_zero_stop_writes_trigger(STOP_FILES);
    options
}

fn blocks_options(memtable_bytes: u64, cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(cache));
    options.set_write_buffer_size(memtable_bytes as usize);
    options.set_max_write_buffer_number(MAX_MEMTABLES);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(MIN_BLOB_BYTES);
    options.set_blob_file_size(memtable_bytes);
    // Each compaction moves every living blob that it meets, so that dead ones can go; therefore it is never RocksDB that decides
    // when to compact.
    options.set_enable_blob_gc(true);
    options.set_blob_gc_age_cutoff(1.0);
    options.set_blob_gc_force_threshold(1.0);
    options.set_disable_auto_compactions(true);
    options
}
