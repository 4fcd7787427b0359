//! Opening a store: the format, what the writer must know, and what a crashed process left behind.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::change::bucket;
use super::database::Database;
use super::flush::FlushGate;
use super::room::Disk;
use super::schema::{self, SCHEMA_KEY, SCHEMA_VERSION, TOTALS_KEY, Tag};
use super::{RocksStore, Writer};
use crate::size::MIB;
use crate::store::error::Error;
use crate::store::records::RecordShelf;
use crate::store::types::{LeaseId, PinId, StoreOptions};
use crate::wire::store as wire;

/// Directory of the record shelf's database inside the store's.
const RECORDS_DIR: &str = "records";
/// A store's memtable is this part of its quota, within the limits below.
const MEMTABLE_SHARE: u64 = 16;
const MIN_MEMTABLE_BYTES: u64 = 4 * MIB;
const MAX_MEMTABLE_BYTES: u64 = 16 * MIB;
/// From so many files on it is looked for small ones as a store is opened. One of many large blocks
/// has more: such a look costs milliseconds.
const MANY_FILES: usize = 64;

impl RocksStore {
    /// Opens the store in `dir`, for this process alone, or makes it where there is no trace of
    /// one. The directory is made private to its owner. With
    /// [`Access::Read`](crate::store::Access::Read) nothing is made or changed, and others may read
    /// beside this process.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it open, [`Error::UnknownFormat`] when a newer libernet wrote it,
    /// [`Error::Damaged`] and [`Error::BadIndex`] when the index is damaged, [`Error::DiskFull`],
    /// [`Error::ReadOnly`], [`Error::Directory`], [`Error::Backend`].
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Self, Error> {
        let db = Database::open(dir, options.access, memtable_bytes(&options))?;
        let records = |options: &StoreOptions| RecordShelf::open(&dir.join(RECORDS_DIR), options);
        let store = Self::with_database(db, options, records)?;
        store.measure(&store.writer());
        if store.db.unwritable().is_none() {
            store.abandon_unfinished_pins()?;
            store.remove_holders_under_way()?;
            store.set_room_aside();
            // Of many short commands none stays for as long as it takes until a store is looked
            // after.
            if store.db.blocks_files()?.len() >= MANY_FILES
                && let Err(error) = store.merge_small_files()
            {
                tracing::warn!(%error, "small files of the store could not be merged");
            }
        }
        Ok(store)
    }

    /// A store on an open database, after a look at its format.
    pub(super) fn with_database(
        db: Database,
        options: StoreOptions,
        records: impl FnOnce(&StoreOptions) -> Result<RecordShelf, Error>,
    ) -> Result<Self, Error> {
        check_format(&db)?;
        let writer = load(&db)?;
        Ok(Self {
            shown: Mutex::new(writer.totals),
            writer: Mutex::new(writer),
            db,
            records: records(&options)?,
            quota: AtomicU64::new(options.quota.0),
            memtable_bytes: memtable_bytes(&options),
            options,
            pending: Mutex::default(),
            marks: Mutex::default(),
            placed: Mutex::default(),
            disk: Disk::default(),
            reclaiming: Mutex::default(),
            gate: FlushGate::default(),
        })
    }
}

/// Size of a full memtable.
pub(super) fn memtable_bytes(options: &StoreOptions) -> u64 {
    (options.quota.0 / MEMTABLE_SHARE).clamp(MIN_MEMTABLE_BYTES, MAX_MEMTABLE_BYTES)
}

fn check_format(db: &Database) -> Result<(), Error> {
    // It is written before the database gets its name.
    let bytes = db.get(SCHEMA_KEY)?.ok_or(Error::BadIndex {
        what: "the format is missing",
    })?;
    let found = schema::decode::<wire::Schema>(&bytes, "the format")?.version;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    Err(Error::UnknownFormat {
        dir: db.dir().to_owned(),
        found,
        known: SCHEMA_VERSION,
    })
}

fn load(db: &Database) -> Result<Writer, Error> {
    // An earlier process may have dropped blocks and not swept.
    let mut writer = Writer {
        sweep: Some(Tag::Chunk.start()),
        ..Writer::default()
    };
    if let Some(bytes) = db.get(TOTALS_KEY)? {
        writer.totals = schema::decode(&bytes, "the sums")?;
    }
    db.scan(Tag::Dead.start(), Tag::Dead.end(), |key, value| {
        let dead: wire::Dead = schema::decode(value, "a dropped block")?;
        let sum = writer
            .dead
            .entry(bucket(schema::number_of_key(key)?))
            .or_default();
        *sum += u64::from(dead.bytes);
        Ok(true)
    })?;
    let mut pins = HashMap::new();
    db.scan(Tag::Pin.start(), Tag::Pin.end(), |key, value| {
        let pin: wire::Pin = schema::decode(value, "a pin")?;
        pins.insert(PinId(schema::number_of_key(key)?), pin.state());
        Ok(true)
    })?;
    writer.pins = pins;
    let mut leases = HashMap::new();
    db.scan(Tag::Lease.start(), Tag::Lease.end(), |key, value| {
        let lease: wire::Lease = schema::decode(value, "a lease")?;
        leases.insert(LeaseId(schema::number_of_key(key)?), lease.state());
        Ok(true)
    })?;
    writer.leases = leases;
    Ok(writer)
}
