//! Making a damaged index again from the files that hold the blocks.
//!
//! Blocks name themselves: each one that is found is hashed and stored under its id. What refers to
//! blocks, pins and leases, and what is known of chunks lies in the index alone, and comes back as
//! far as the index can be read. Blocks that nothing refers to then are kept by a pin of the
//! rebuild's own when the index was not whole: nobody knows what they are for.
//!
//! Invariants: the old files are never written, and are kept aside at the end. The new database
//! gets its name when it is whole: cut off anywhere, the store is as it was before, or as it is
//! afterwards.
//!
//! Deliberately absent: the shelf of records, which is started afresh when it is damaged, and what
//! snapshots name (`backup`).

mod blob;
mod salvage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;

use self::blob::{Found, Records};
use self::salvage::Salvage;
use super::RocksStore;
use super::change::Change;
use super::database::{self, BLOCKS_DIR, Database};
use super::files;
use super::lock::StoreLock;
use super::open::memtable_bytes;
use super::pins::BATCH_REFS;
use super::reserve::free_bytes;
use super::schema::{self, Tag};
use crate::block::{Block, MAX_BLOCK_BYTES};
use crate::id::BlockId;
use crate::size::{ByteSize, MIB};
use crate::store::Store;
use crate::store::error::Error;
use crate::store::records::RecordShelf;
use crate::store::types::{Access, Holder, Keep, LeaseId, PinId, PinInfo, StoreOptions};
use crate::wire::store as wire;

/// Beginning of the names of directories in which old files are kept.
pub const ASIDE_PREFIX: &str = "damaged-";
/// Name of a rebuilt database that is whole and has not taken the old one's place yet.
const REBUILT_DIR: &str = "blocks.rebuilt";
/// Where links to the tables lie for RocksDB to repair.
const SCRATCH_DIR: &str = "blocks.repair";
/// Name of the pin that keeps what nothing refers to.
const KEPT_PIN: &str = "found by check --rebuild";
/// Free space that a rebuild wants besides the size of the old files.
const SLACK_BYTES: u64 = 64 * MIB;
/// Bytes of blocks that are written as one batch, about.
const BATCH_BYTES: usize = 4 << 20;
/// Numbers that are tried for each entry of a table where the index does not say which there are.
const TRIES_AN_ENTRY: u64 = 64;

/// Outcome of a rebuild.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// Where the old files are.
    pub aside: PathBuf,
    /// Blocks that are here again.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damaged places in the files that hold the blocks.
    pub damaged: u64,
    /// Blocks that something refers to and that were not found.
    pub lost: u64,
    /// Pins that are here again.
    pub pins: u64,
    /// Pins among them that kept more blocks than could be found out.
    pub partial_pins: Vec<PartialPin>,
    /// Leases that are here again.
    pub leases: u64,
    /// Tables of the index that can't be read.
    pub unreadable: Vec<PathBuf>,
    /// Whether all of the index could be read, as far as can be told. If not, pins and leases may
    /// be missing.
    pub is_whole: bool,
    /// The root of the pin that keeps blocks that nothing refers to, and how many it keeps.
    pub kept: Option<(BlockId, u64)>,
}

/// A pin that came back in part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialPin {
    /// Its root.
    pub root: BlockId,
    /// Its name.
    pub name: String,
    /// Blocks that it kept.
    pub blocks: u64,
    /// Blocks that it keeps.
    pub found: u64,
}

/// Finishes what an earlier rebuild was about to do, or forgets what it left behind. The caller
/// holds the store's lock.
///
/// # Errors
/// [`Error::Directory`].
pub fn finish(dir: &Path, path: &Path) -> Result<(), Error> {
    let rebuilt = dir.join(REBUILT_DIR);
    if !path.exists() && rebuilt.exists() {
        files::rename(&rebuilt, path)?;
    }
    // Where the old files were not put aside, rebuilt ones are not the newest any more as soon as
    // the old are written.
    [REBUILT_DIR, SCRATCH_DIR, database::NEW_DIR]
        .into_iter()
        .try_for_each(|name| files::remove_dir(&dir.join(name)))
}

/// Makes the index of the store in `dir` again. The store must not be open.
///
/// # Errors
/// [`Error::Locked`], [`Error::NoRoomToRebuild`], [`Error::Damaged`] when there are no files to
/// make it from, [`Error::Directory`], [`Error::DiskFull`], [`Error::Backend`]. Nothing was changed
/// then.
pub fn rebuild(dir: &Path, options: &StoreOptions) -> Result<Rebuilt, Error> {
    let _lock = StoreLock::alone(dir)?;
    let old = dir.join(BLOCKS_DIR);
    finish(dir, &old)?;
    if !old.is_dir() {
        return Err(Error::damaged(old, "is missing"));
    }
    check_room(dir, &old)?;
    let memtable_bytes = memtable_bytes(options);
    let scratch = dir.join(SCRATCH_DIR);
    let salvage = Salvage::open(dir, &old, &scratch, memtable_bytes)?;
    let fresh = database::make_fresh(dir, memtable_bytes)?;
    let db = Database::open_at(dir, fresh.clone(), None, memtable_bytes)?;
    // Nothing must give way while it is brought back.
    let generous = StoreOptions {
        access: Access::Write,
        quota: ByteSize(u64::MAX / 2),
        ..options.clone()
    };
    let shelf = |options: &StoreOptions| Ok(RecordShelf::in_memory(options));
    let store = RocksStore::with_database(db, generous, shelf)?;
    let mut work = Work {
        store: &store,
        salvage: &salvage,
        old: &old,
        known: BTreeMap::new(),
        damaged: 0,
    };
    let mut rebuilt = work.run()?;
    store.close()?;
    drop(salvage);
    files::remove_dir(&scratch)?;
    let whole = dir.join(REBUILT_DIR);
    files::rename(&fresh, &whole)?;
    let seal = dir.join(files::SEAL_FILE);
    if seal.exists() {
        let failed = |source| Error::Directory {
            path: seal.clone(),
            source,
        };
        fs::remove_file(&seal).map_err(failed)?;
    }
    let aside = free_name(dir);
    files::rename(&old, &aside)?;
    files::rename(&whole, &old)?;
    files::seal(dir, &old);
    rebuilt.aside = aside;
    Ok(rebuilt)
}

/// The first name in the store's directory that no earlier rebuild has used.
fn free_name(dir: &Path) -> PathBuf {
    let mut names = (1u32..).map(|number| dir.join(format!("{ASIDE_PREFIX}{number}")));
    names
        .find(|name| !name.exists())
        .expect("a directory has not so many entries")
}

/// Blob files and tables of a database, ordered by name.
fn data_files(database: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let failed = |source| Error::Directory {
        path: database.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(database).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn check_room(dir: &Path, old: &Path) -> Result<(), Error> {
    let mut needed = SLACK_BYTES;
    for extension in ["blob", "sst"] {
        for path in data_files(old, extension)? {
            needed += fs::metadata(&path).map_or(0, |metadata| metadata.len());
        }
    }
    match free_bytes(dir) {
        Some(free) if free < needed => Err(Error::NoRoomToRebuild { needed, free }),
        _ => Ok(()),
    }
}

/// A pin that is brought back, and how many blocks it should keep.
struct KnownPin {
    info: PinInfo,
    found: u64,
}

struct Work<'a> {
    store: &'a RocksStore,
    salvage: &'a Salvage,
    old: &'a Path,
    known: BTreeMap<PinId, KnownPin>,
    damaged: u64,
}

impl Work<'_> {
    fn run(&mut self) -> Result<Rebuilt, Error> {
        // Numbers are never used twice.
        self.store.writer().totals.last_number = self.salvage.last_number()?;
        let keeper = self.store.begin_pin(KEPT_PIN)?;
        self.bring_large_blocks(keeper)?;
        self.bring_small_blocks(keeper)?;
        self.bring_pins()?;
        let leases = self.bring_leases()?;
        self.bring_missing_refs()?;
        self.bring_chunks_and_counts()?;
        let kept = self.settle(keeper)?;
        self.store.flush()?;
        let usage = self.store.usage();
        let partial_pins = self.known.values().filter_map(KnownPin::partial).collect();
        Ok(Rebuilt {
            aside: PathBuf::new(),
            blocks: usage.blocks,
            bytes: usage.block_bytes,
            damaged: self.damaged,
            lost: self.count_lost()?,
            pins: self.known.len() as u64,
            partial_pins,
            leases,
            unreadable: self.salvage.lost().iter().cloned().collect(),
            is_whole: self.salvage.is_whole(),
            kept,
        })
    }

    /// Brings back what lies in blob files.
    fn bring_large_blocks(&mut self, keeper: PinId) -> Result<(), Error> {
        for path in data_files(self.old, "blob")? {
            // RocksDB ends a blob file when it is about as large as a memtable.
            let bytes = match fs::read(&path) {
                Ok(bytes) => bytes,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "a file of blocks can't be read");
                    self.damaged += 1;
                    continue;
                }
            };
            let mut batch = Batch::new(self.store, keeper);
            for found in Records::new(&bytes) {
                match found {
                    Found::Whole { arrival, value } => {
                        batch.add(self.named(arrival, Bytes::copy_from_slice(value)))?;
                    }
                    Found::Damaged => self.damaged += 1,
                }
            }
            batch.put()?;
        }
        Ok(())
    }

    /// Brings back what is so small that it lies in tables.
    fn bring_small_blocks(&mut self, keeper: PinId) -> Result<(), Error> {
        let mut batch = Batch::new(self.store, keeper);
        let tag = Tag::Arrival;
        self.salvage.scan(&tag.start(), &tag.end(), |key, value| {
            let Ok(record) = schema::decode::<wire::Arrival>(value, "an arrival") else {
                return Ok(());
            };
            let arrival = schema::number_of_key(key)?;
            match schema::read_id(&record.id) {
                Ok(id) if !self.store.has(id)? => self.bring_number(arrival, &mut batch),
                _ => Ok(()),
            }
        })?;
        if !self.salvage.is_whole() {
            for (first, last, entries) in self.salvage.arrivals() {
                let tries = entries.saturating_mul(TRIES_AN_ENTRY);
                for arrival in (first..=last).take(usize::try_from(tries).unwrap_or(usize::MAX)) {
                    self.bring_number(arrival, &mut batch)?;
                }
            }
        }
        batch.put()
    }

    fn bring_number(&self, arrival: u64, batch: &mut Batch<'_>) -> Result<(), Error> {
        match self.salvage.bytes_of(arrival) {
            Some(bytes) if (1..=MAX_BLOCK_BYTES).contains(&bytes.len()) => {
                batch.add(self.named(arrival, bytes.into()))
            }
            _ => Ok(()),
        }
    }

    /// The block with these bytes. The index knows by which hash it was named; without it, it is
    /// the one that blocks are made with.
    fn named(&self, arrival: u64, bytes: Bytes) -> Option<Block> {
        let known = self.salvage.id_of(arrival);
        let known = known.and_then(|id| Block::verify(id, bytes.clone()).ok());
        known.or_else(|| Block::new(bytes).ok())
    }

    /// Brings back the pins that were finished, with what they refer to.
    fn bring_pins(&mut self) -> Result<(), Error> {
        let mut pins = BTreeMap::new();
        let tag = Tag::Pin;
        self.salvage.scan(&tag.start(), &tag.end(), |key, value| {
            let Ok(record) = schema::decode::<wire::Pin>(value, "a pin") else {
                return Ok(());
            };
            if record.state() == wire::pin::State::Finished
                && let Ok(info) = schema::read_finished_pin(&record)
            {
                pins.insert(PinId(schema::number_of_key(key)?), (record, info));
            }
            Ok(())
        })?;
        for (pin, (record, info)) in pins {
            let mut writer = self.store.writer();
            let mut change = Change::new(&self.store.db, &mut writer);
            let key = schema::number_key(Tag::Pin, pin.0);
            change.put(key, &record.encode_to_vec());
            change.totals().pins += 1;
            self.store.commit(change)?;
            writer.pins.insert(pin, record.state());
            drop(writer);
            let found = self.bring_refs(pin.into())?;
            self.known.insert(pin, KnownPin { info, found });
        }
        Ok(())
    }

    /// Brings back the leases, with what they refer to. Returns how many.
    fn bring_leases(&self) -> Result<u64, Error> {
        let mut leases = BTreeMap::new();
        let tag = Tag::Lease;
        self.salvage.scan(&tag.start(), &tag.end(), |key, value| {
            let Ok(record) = schema::decode::<wire::Lease>(value, "a lease") else {
                return Ok(());
            };
            if record.state() != wire::lease::State::Removing && schema::read_lease(&record).is_ok()
            {
                leases.insert(LeaseId(schema::number_of_key(key)?), record);
            }
            Ok(())
        })?;
        let count = leases.len() as u64;
        for (lease, record) in leases {
            let mut writer = self.store.writer();
            let mut change = Change::new(&self.store.db, &mut writer);
            let key = schema::number_key(Tag::Lease, lease.0);
            change.put(key, &record.encode_to_vec());
            self.store.commit(change)?;
            writer.leases.insert(lease, record.state());
            drop(writer);
            self.bring_refs(lease.into())?;
        }
        Ok(count)
    }

    /// Brings back what a holder refers to. Returns to how many blocks.
    fn bring_refs(&self, holder: Holder) -> Result<u64, Error> {
        let prefix = schema::holder_prefix(holder);
        let (mut ids, mut count) = (Vec::new(), 0);
        let end = schema::prefix_end(&prefix);
        self.salvage.scan(&prefix, &end, |key, _| {
            ids.push(schema::id_of_holder_block_key(key)?);
            if ids.len() >= BATCH_REFS {
                count += self.refer(holder, &std::mem::take(&mut ids))?;
            }
            Ok(())
        })?;
        Ok(count + self.refer(holder, &ids)?)
    }

    /// References are stored twice: what one half has lost, the other may have.
    fn bring_missing_refs(&mut self) -> Result<(), Error> {
        if self.salvage.is_whole() {
            return Ok(());
        }
        let tag = Tag::BlockHolder;
        let mut added: BTreeMap<PinId, u64> = BTreeMap::new();
        self.salvage.scan(&tag.start(), &tag.end(), |key, _| {
            let Some((id, holder)) = schema::block_and_holder_of_key(key) else {
                return Ok(());
            };
            let is_here = match holder {
                Holder::Pin(pin) => self.known.contains_key(&pin),
                Holder::Lease(lease) => self.store.writer().leases.contains_key(&lease),
            };
            if is_here {
                let new = self.refer(holder, &[id])?;
                if let Holder::Pin(pin) = holder {
                    *added.entry(pin).or_default() += new;
                }
            }
            Ok(())
        })?;
        for (pin, new) in added {
            if let Some(known) = self.known.get_mut(&pin) {
                known.found += new;
            }
        }
        Ok(())
    }

    /// Makes a holder refer to blocks. Returns to how many it did not before.
    fn refer(&self, holder: Holder, ids: &[BlockId]) -> Result<u64, Error> {
        let mut writer = self.store.writer();
        let mut change = Change::new(&self.store.db, &mut writer);
        let mut new = 0;
        for id in ids {
            new += u64::from(change.add_ref(holder, id)?);
        }
        self.store.commit(change)?;
        Ok(new)
    }

    /// Brings back where chunks are, and how blocks that are here were used.
    fn bring_chunks_and_counts(&self) -> Result<(), Error> {
        for tag in [Tag::Chunk, Tag::Stat] {
            let mut records = Vec::new();
            self.salvage.scan(&tag.start(), &tag.end(), |key, value| {
                records.push((key.to_vec(), value.to_vec()));
                if records.len() >= BATCH_REFS {
                    self.bring_records(tag, std::mem::take(&mut records))?;
                }
                Ok(())
            })?;
            self.bring_records(tag, records)?;
        }
        Ok(())
    }

    fn bring_records(&self, tag: Tag, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), Error> {
        let mut writer = self.store.writer();
        let mut change = Change::new(&self.store.db, &mut writer);
        for (key, value) in records {
            let id = match tag {
                Tag::Chunk => schema::read_chunk(&value).map(|place| place.id),
                _ => schema::id_of_key(&key),
            };
            let is_wanted = match id {
                Ok(id) => change.block(&id)?.is_here(),
                Err(_) => false,
            };
            match (is_wanted, tag) {
                (false, _) => {}
                (true, Tag::Chunk) => change.put(key, &value),
                (true, _) => {
                    if let Ok(mut stat) = wire::Stat::decode(value.as_slice()) {
                        // It is here.
                        stat.gone_number = 0;
                        change.put(key, &stat.encode_to_vec());
                    }
                }
            }
        }
        self.store.commit(change)?;
        Ok(())
    }

    /// Lets go of what something else refers to. What nothing refers to is cached when the index
    /// was whole; otherwise it stays kept.
    fn settle(&self, keeper: PinId) -> Result<Option<(BlockId, u64)>, Error> {
        if self.salvage.is_whole() {
            self.store.remove_pin(keeper)?;
            return Ok(None);
        }
        let (mut after, mut first, mut kept, mut bytes) = (None, None, 0, 0);
        loop {
            let page = self.store.blocks_of(keeper.into(), after, BATCH_REFS)?;
            let Some(last) = page.last().copied() else {
                break;
            };
            after = Some(last);
            let mut writer = self.store.writer();
            let mut change = Change::new(&self.store.db, &mut writer);
            for id in page {
                let block = change.block(&id)?;
                if block.pins + block.leases > 1 {
                    change.remove_ref(keeper.into(), &id)?;
                } else {
                    first = first.or(Some(id));
                    kept += 1;
                    bytes += u64::from(block.bytes);
                }
            }
            self.store.commit(change)?;
        }
        let Some(root) = first else {
            self.store.remove_pin(keeper)?;
            return Ok(None);
        };
        let info = PinInfo {
            root,
            link: None,
            name: KEPT_PIN.to_owned(),
            bytes,
            files: 0,
            blocks: kept,
            created: self.store.options.clock.now(),
        };
        self.store.finish_pin(keeper, &info)?;
        Ok(Some((root, kept)))
    }

    fn count_lost(&self) -> Result<u64, Error> {
        let mut lost = 0;
        let tag = Tag::Lost;
        self.store.db.scan(tag.start(), tag.end(), |_, _| {
            lost += 1;
            Ok(true)
        })?;
        Ok(lost)
    }
}

impl KnownPin {
    fn partial(&self) -> Option<PartialPin> {
        (self.found < self.info.blocks).then(|| PartialPin {
            root: self.info.root,
            name: self.info.name.clone(),
            blocks: self.info.blocks,
            found: self.found,
        })
    }
}

/// Blocks that are put together.
struct Batch<'a> {
    store: &'a RocksStore,
    keeper: PinId,
    blocks: Vec<Block>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    const fn new(store: &'a RocksStore, keeper: PinId) -> Self {
        Self {
            store,
            keeper,
            blocks: Vec::new(),
            bytes: 0,
        }
    }

    fn add(&mut self, block: Option<Block>) -> Result<(), Error> {
        let Some(block) = block else {
            return Ok(());
        };
        self.bytes += block.bytes().len();
        self.blocks.push(block);
        match self.bytes >= BATCH_BYTES {
            true => self.put(),
            false => Ok(()),
        }
    }

    fn put(&mut self) -> Result<(), Error> {
        self.bytes = 0;
        let blocks = std::mem::take(&mut self.blocks);
        self.store.put(&blocks, Keep::Pinned(self.keeper)).map(drop)
    }
}
