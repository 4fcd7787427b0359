//! RocksDB as the store uses it: two column families, no write-ahead log, typed failures.

use std::ffi::CStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBPinnableSlice, ErrorKind, FlushOptions, LogLevel, Options, ReadOptions,
    WaitForCompactOptions, WriteBatch, WriteOptions, properties,
};

use super::files::{self, Found};
use super::flush::Written;
use super::lock::{self, StoreLock};
use super::rebuild;
use super::reserve;
use super::schema::{BLOCKS_CF, SCHEMA_KEY, SCHEMA_VERSION};
use crate::descriptors;
use crate::store::error::Error;
use crate::store::types::{Access, Unwritable};
use crate::wire::store as wire;

/// Directory of the blocks' database inside the store's.
pub const BLOCKS_DIR: &str = "blocks";
/// Where a database lies while it is made.
pub const NEW_DIR: &str = "blocks.new";
/// Files and directories that a store has when it has been in use, besides its database.
const TRACES: [&str; 4] = ["records", files::SEAL_FILE, reserve::RESERVE_FILE, "holder"];
/// See bford.info/cachedir.
const CACHE_TAG_FILE: &str = "CACHEDIR.TAG";
const CACHE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55
# libernet keeps its blocks here. Copies of these files are no backup: `libernet backup` makes one.
";
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
/// Files of the database that are kept open at most...
const MAX_OPEN_FILES: usize = 256;
/// ...and the part of the descriptors that the process may have.
const SHARE_OF_DESCRIPTORS: u64 = 4;
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
    /// The store's directory.
    dir: PathBuf,
    /// The database's own.
    path: PathBuf,
    memtable_bytes: u64,
    /// Why it is open only to be read, if it is.
    unwritable: Option<Unwritable>,
    /// The disk was full: RocksDB refuses writes until it has found room again by itself.
    starved: AtomicBool,
    written: Written,
    /// These two are dropped last and in this order, when RocksDB has closed its files.
    _seal: Option<SealWhenClosed>,
    _lock: Option<StoreLock>,
}

/// Seals a database when it is dropped.
struct SealWhenClosed {
    store: PathBuf,
    database: PathBuf,
}

impl Drop for SealWhenClosed {
    fn drop(&mut self) {
        files::seal(&self.store, &self.database);
    }
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
    /// Opens the database below the store's directory `dir`, or makes it where there is no trace of
    /// one.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Damaged`], [`Error::DiskFull`], [`Error::ReadOnly`],
    /// [`Error::Directory`], [`Error::Backend`]. When it is damaged, nothing on disk was changed.
    pub fn open(dir: &Path, access: Access, memtable_bytes: u64) -> Result<Self, Error> {
        let path = dir.join(BLOCKS_DIR);
        let unwritable = match access {
            Access::Read(why) => Some(why),
            Access::Write | Access::MakeRoom => None,
        };
        let lock = match unwritable {
            Some(_) => StoreLock::shared(dir)?,
            None => {
                create_private_dir(dir)?;
                StoreLock::alone(dir)?
            }
        };
        if unwritable.is_none() {
            rebuild::finish(dir, &path)?;
        }
        match (files::look(&path)?, unwritable) {
            (Found::Database, _) => files::check_seal(dir, &path)?,
            (Found::Nothing, Some(why)) => return Err(why.into()),
            (Found::Nothing, None) => check_nothing_vanished(dir, &path)?,
        }
        if unwritable.is_none() {
            reserve::make_way(dir, access)?;
            mark_as_cache(dir);
            if !path.join(files::CURRENT).exists() {
                make(dir, &path, memtable_bytes)?;
            }
        }
        let seal = unwritable.is_none().then(|| SealWhenClosed {
            store: dir.to_owned(),
            database: path.clone(),
        });
        Ok(Self {
            _seal: seal,
            _lock: Some(lock),
            ..Self::open_at(dir, path, unwritable, memtable_bytes)?
        })
    }

    /// Opens the database in the directory `path` of a store whose lock the caller holds.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(
        dir: &Path,
        path: PathBuf,
        unwritable: Option<Unwritable>,
        memtable_bytes: u64,
    ) -> Result<Self, Error> {
        let options = database_options();
        // Families of a newer format are opened as they are, so that the schema's version can be read and named.
        let names = DB::list_cf(&options, &path).map_err(|error| open_failed(&path, error))?;
        if !names.iter().any(|name| name == BLOCKS_CF) {
            return Err(Error::damaged(path, "does not know of any blocks"));
        }
        let families = families(&names, memtable_bytes);
        let opened = match unwritable {
            Some(_) => DB::open_cf_descriptors_read_only(&options, &path, families, false),
            None => DB::open_cf_descriptors(&options, &path, families),
        };
        Ok(Self {
            db: opened.map_err(|error| open_failed(&path, error))?,
            dir: dir.to_owned(),
            path,
            memtable_bytes,
            unwritable,
            starved: AtomicBool::new(false),
            written: Written::default(),
            _seal: None,
            _lock: None,
        })
    }

    /// Why the database can't be written, if it was opened only to be read.
    pub const fn unwritable(&self) -> Option<Unwritable> {
        self.unwritable
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

    /// As [`scan`](Self::scan) to the end, and goes round what does not read: visits what is before
    /// it and, from the end on backwards, what is behind it. Returns what did not read.
    ///
    /// # Errors
    /// As `visit`.
    pub fn scan_around(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<Option<Error>, Error> {
        let iterator = || {
            let mut options = ReadOptions::default();
            options.set_iterate_lower_bound(start);
            options.set_iterate_upper_bound(end);
            options.fill_cache(false);
            self.db.raw_iterator_cf_opt(self.index(), options)
        };
        let mut forward = iterator();
        let mut last = Vec::new();
        forward.seek_to_first();
        while let Some((key, value)) = forward.item() {
            visit(key, value)?;
            last.clear();
            last.extend_from_slice(key);
            forward.next();
        }
        let Err(problem) = forward.status() else {
            return Ok(None);
        };
        let mut backward = iterator();
        backward.seek_to_last();
        while let Some((key, value)) = backward.item() {
            if key <= last.as_slice() {
                break;
            }
            visit(key, value)?;
            backward.prev();
        }
        Ok(Some(failed(problem)))
    }

    /// The bytes that came at an arrival number. The raw error tells damage from other failures:
    /// see [`is_damage`](Self::is_damage).
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
        self.check_writable()?;
        if self.starved.load(Ordering::Relaxed) {
            self.recover()?;
        }
        self.written.write(|| self.write_once(batch))
    }

    /// # Errors
    /// [`Error::DiskFull`] or [`Error::ReadOnly`] when the database was opened only to be read.
    pub fn check_writable(&self) -> Result<(), Error> {
        match self.unwritable {
            None => Ok(()),
            Some(why) => Err(why.into()),
        }
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
        self.check_writable()?;
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
        reserve::free_bytes(&self.dir)
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
        self.wait_for_compactions()
    }

    /// Rewrites the whole index without what was deleted from it.
    pub fn compact_index(&self) -> Result<(), Error> {
        let mut options = CompactOptions::default();
        options.set_exclusive_manual_compaction(false);
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        self.db
            .compact_range_cf_opt(self.index(), None::<&[u8]>, None::<&[u8]>, &options);
        self.wait_for_compactions()
    }

    /// Waits until no compaction is under way and their files are deleted.
    fn wait_for_compactions(&self) -> Result<(), Error> {
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
        let Ok(entries) = fs::read_dir(&self.path) else {
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

    /// Whether a failed read of a block's bytes means that these bytes are damaged or gone.
    /// Everything else that a read may fail of is about the disk, the way to it, or this process,
    /// and passes: a loose cable, a server that is away, too few descriptors, permissions.
    pub fn is_damage(&self, error: &rocksdb::Error) -> bool {
        // RocksDB calls it corruption, too, when it can't get at a file that it needs.
        let is_of_system = error.as_ref().contains("IO error");
        match error.kind() {
            ErrorKind::Corruption => !is_of_system || self.is_gone(error),
            ErrorKind::IOError => self.is_gone(error),
            _ => false,
        }
    }

    /// Whether the file that a read failed of is gone for good: its name is not there, and the rest
    /// of the database is.
    fn is_gone(&self, error: &rocksdb::Error) -> bool {
        let dir = &self.path;
        let Some(path) = file_in_text(error.as_ref(), dir) else {
            return false;
        };
        // A link that leads nowhere is there: what it leads to may come back.
        let is_missing =
            fs::symlink_metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        is_missing && dir.join(files::CURRENT).is_file()
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
}

/// Makes a database. It gets its name when it is whole: a process that is killed here leaves no
/// database, and not half a one.
fn make(dir: &Path, path: &Path, memtable_bytes: u64) -> Result<(), Error> {
    let fresh = make_fresh(dir, memtable_bytes)?;
    files::rename(&fresh, path)
}

/// Makes an empty database that has no name yet, and gives its directory.
pub fn make_fresh(dir: &Path, memtable_bytes: u64) -> Result<PathBuf, Error> {
    let fresh = dir.join(NEW_DIR);
    files::remove_dir(&fresh)?;
    create_private_dir(&fresh)?;
    let mut options = database_options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let names = [INDEX_CF.to_owned(), BLOCKS_CF.to_owned()];
    let db = DB::open_cf_descriptors(&options, &fresh, families(&names, memtable_bytes));
    let db = db.map_err(|error| open_failed(&fresh, error))?;
    let version = wire::Schema {
        version: SCHEMA_VERSION,
    };
    db.put(SCHEMA_KEY, version.encode_to_vec())
        .and_then(|()| db.flush())
        .map_err(failed)?;
    drop(db);
    Ok(fresh)
}

/// The column families of a database, each with its options.
fn families(names: &[String], memtable_bytes: u64) -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(CACHE_BYTES);
    let families = names.iter().map(|name| {
        let options = if name == BLOCKS_CF {
            blocks_options(memtable_bytes, &cache)
        } else {
            index_options(memtable_bytes, &cache)
        };
        ColumnFamilyDescriptor::new(name, options)
    });
    families.collect()
}

/// A store that has been in use is not taken for a new one because its database is gone.
fn check_nothing_vanished(dir: &Path, path: &Path) -> Result<(), Error> {
    let has_been_used = TRACES.iter().any(|name| dir.join(name).exists());
    match has_been_used {
        true => Err(Error::damaged(path.to_owned(), "is missing")),
        false => Ok(()),
    }
}

/// Marks the directory for programs that leave caches out, backups of libernet's own among them:
/// what is here is not to be backed up as files.
fn mark_as_cache(dir: &Path) {
    let path = dir.join(CACHE_TAG_FILE);
    if !path.exists()
        && let Err(error) = fs::write(&path, CACHE_TAG)
    {
        tracing::debug!(%error, "the store is not marked as a cache");
    }
}

/// Creates a directory that only its owner may enter, or makes an existing one so.
pub fn create_private_dir(path: &Path) -> Result<(), Error> {
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

/// The error of a database, in the directory `database`, that does not open.
pub fn open_failed(database: &Path, error: rocksdb::Error) -> Error {
    let text = error.as_ref();
    let says = |words: &[&str]| words.iter().any(|words| text.contains(words));
    if is_lock_error(&error) {
        let store = database.parent().unwrap_or(database);
        return Error::Locked {
            dir: store.to_owned(),
            pid: lock::holder(store),
        };
    }
    if is_no_space(&error) {
        return Error::DiskFull;
    }
    if says(&[
        "Read-only file system",
        "Permission denied",
        "Operation not permitted",
    ]) {
        return Error::ReadOnly;
    }
    let is_damage = match error.kind() {
        ErrorKind::Corruption | ErrorKind::NotFound => true,
        ErrorKind::IOError => says(&["No such file or directory"]),
        _ => false,
    };
    match is_damage {
        true => damaged(database, error),
        false => Error::Backend(error),
    }
}

fn damaged(database: &Path, error: rocksdb::Error) -> Error {
    let file = files::named_file(database, error.as_ref());
    Error::Damaged {
        file: file.unwrap_or_else(|| database.to_owned()),
        problem: "is damaged or missing",
        source: Some(error),
    }
}

/// The error of a read of the database that failed.
pub fn failed(error: rocksdb::Error) -> Error {
    if is_no_space(&error) {
        Error::DiskFull
    } else if error.kind() == ErrorKind::Corruption {
        damaged(Path::new(BLOCKS_DIR), error)
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

/// The database's file in the directory `dir` that an error's text names.
fn file_in_text(text: &str, dir: &Path) -> Option<PathBuf> {
    let dir = dir.to_str()?;
    let (_, rest) = text.split_once(dir)?;
    let rest = rest.strip_prefix('/')?;
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '.';
    let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
    Some(Path::new(dir).join(&rest[..end]))
}

/// Has RocksDB make a list of files for the tables in the directory `path`, which come from a
/// database whose list is lost. Tables that don't read go to a directory `lost` in it.
///
/// # Errors
/// As [`Database::open`].
pub fn repair(path: &Path, memtable_bytes: u64) -> Result<(), Error> {
    let mut options = database_options();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let unusable = |error| open_failed(path, error);
    DB::repair(&options, path).map_err(unusable)?;
    // The repaired database has only families that there were tables of.
    let names = [INDEX_CF.to_owned(), BLOCKS_CF.to_owned()];
    let db = DB::open_cf_descriptors(&options, path, families(&names, memtable_bytes));
    db.map(drop).map_err(unusable)
}

fn database_options() -> Options {
    let mut options = Options::default();
    // A database is made only where there is no trace of one.
    options.create_if_missing(false);
    // Without a log, this is what makes a crash lose a suffix of both families together.
    options.set_atomic_flush(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    let open_files = descriptors::share(SHARE_OF_DESCRIPTORS, MAX_OPEN_FILES);
    // RocksDB raises what is too few for it.
    options.set_max_open_files(i32::try_from(open_files).unwrap_or(i32::MAX));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_that_an_error_names() {
        let dir = Path::new("/a b: c/blocks");
        for (text, name) in [
            (
                "IO error: No such file or directory: While open a file for random read: /a b: c/blocks/000012.blob: No such file or directory",
                Some("000012.blob"),
            ),
            (
                "Corruption: block checksum mismatch in /a b: c/blocks/7.sst",
                Some("7.sst"),
            ),
            ("IO error: /a b: c/blocks", None),
            ("IO error: /elsewhere/000012.blob", None),
            ("", None),
        ] {
            let expected = name.map(|name| dir.join(name));
            assert_eq!(file_in_text(text, dir), expected, "{text}");
        }
    }
}
