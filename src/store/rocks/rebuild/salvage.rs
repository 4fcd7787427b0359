//! The parts of a damaged index that can still be read.
//!
//! Where its list of files is whole, the database is opened as it is, only to be read. Where it is
//! not, or tables don't read, RocksDB makes a list anew for the tables, in a directory of links to
//! them. The old files are never written.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::database::{self, Database};
use super::super::files;
use super::super::schema::{self, TOTALS_KEY, Tag};
use crate::id::BlockId;
use crate::store::error::Error;
use crate::store::types::Unwritable;
use crate::wire::store as wire;

/// Directory in which RocksDB puts tables that it can't read, of a database that it repairs.
const LOST_DIR: &str = "lost";

/// The parts of an index that can be read: each as far as the one before it did not read.
pub struct Salvage {
    parts: Vec<Database>,
    /// Tables that can't be read at all.
    lost: BTreeSet<PathBuf>,
    /// Whether nothing is missing, as far as can be told.
    is_whole: bool,
}

impl Salvage {
    /// Looks at the database in `old`; `scratch` is a directory that is not there yet, in the
    /// store's directory `dir`.
    pub fn open(
        dir: &Path,
        old: &Path,
        scratch: &Path,
        memtable_bytes: u64,
    ) -> Result<Self, Error> {
        let mut salvage = Self {
            parts: Vec::new(),
            lost: BTreeSet::new(),
            is_whole: true,
        };
        match open_as_it_is(dir, old, memtable_bytes) {
            Ok(part) => salvage.parts.push(part),
            Err(error) => {
                tracing::info!(%error, "the database can't be opened as it is");
                salvage.is_whole = false;
                if let Error::Damaged { file, .. } = error
                    && file.extension().is_some_and(|extension| extension == "sst")
                {
                    salvage.lost.insert(file);
                }
            }
        }
        if !salvage.is_whole || !salvage.reads_well()? {
            salvage.is_whole = salvage.repair(dir, old, scratch, memtable_bytes)?;
        }
        Ok(salvage)
    }

    /// Whether every record of the index reads.
    fn reads_well(&self) -> Result<bool, Error> {
        for part in &self.parts {
            if let Some(error) = part.scan_around(&[0], &[u8::MAX], |_, _| Ok(()))? {
                tracing::warn!(%error, "a part of the index can't be read");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Adds what RocksDB makes of the tables. Returns whether it could read all of them.
    fn repair(
        &mut self,
        dir: &Path,
        old: &Path,
        scratch: &Path,
        memtable_bytes: u64,
    ) -> Result<bool, Error> {
        files::remove_dir(scratch)?;
        database::create_private_dir(scratch)?;
        let unusable = |source| Error::Directory {
            path: scratch.to_owned(),
            source,
        };
        link_tables(old, scratch).map_err(unusable)?;
        database::repair(scratch, memtable_bytes)?;
        for entry in fs::read_dir(scratch.join(LOST_DIR)).into_iter().flatten() {
            let path = entry.map_err(unusable)?.path();
            if path.extension().is_some_and(|extension| extension == "sst")
                && let Some(name) = path.file_name()
            {
                self.lost.insert(old.join(name));
            }
        }
        let part = Database::open_at(
            dir,
            scratch.to_owned(),
            Some(Unwritable::ReadOnly),
            memtable_bytes,
        )?;
        self.parts.push(part);
        Ok(self.lost.is_empty())
    }

    /// Tables that can't be read at all.
    pub const fn lost(&self) -> &BTreeSet<PathBuf> {
        &self.lost
    }

    /// Whether nothing is missing, as far as can be told: a table that is gone leaves no trace when
    /// the list of files is lost too.
    pub const fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Visits the records from `start` on, before `end`, that can be read. A record may come twice.
    pub fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for part in &self.parts {
            if part.scan_around(start, end, &mut visit)?.is_none() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// A record of the index, if it is there and can be read.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut parts = self.parts.iter();
        parts.find_map(|part| Some(part.get(key).ok()??.to_vec()))
    }

    /// The block that came at an arrival number.
    pub fn id_of(&self, arrival: u64) -> Option<BlockId> {
        let record = self.get(&schema::number_key(Tag::Arrival, arrival))?;
        let record: wire::Arrival = schema::decode(&record, "an arrival").ok()?;
        schema::read_id(&record.id).ok()
    }

    /// The bytes that came at an arrival number, when they lie in a table.
    pub fn bytes_of(&self, arrival: u64) -> Option<Vec<u8>> {
        let mut parts = self.parts.iter();
        parts.find_map(|part| Some(part.get_bytes(arrival).ok()??.to_vec()))
    }

    /// Ranges of arrival numbers, each with how many entries the tables have in it.
    pub fn arrivals(&self) -> Vec<(u64, u64, u64)> {
        let files = self
            .parts
            .iter()
            .filter_map(|part| part.blocks_files().ok());
        let ranges = files
            .flatten()
            .map(|file| (file.first, file.last, file.entries));
        ranges.collect()
    }

    /// The largest number that was given to anything.
    pub fn last_number(&self) -> Result<u64, Error> {
        let totals = self.get(TOTALS_KEY);
        let totals =
            totals.and_then(|bytes| schema::decode::<wire::Totals>(&bytes, "the sums").ok());
        let mut last = totals.map_or(0, |totals| totals.last_number);
        for tag in [Tag::Arrival, Tag::Pin, Tag::Lease, Tag::Dead] {
            self.scan(&tag.start(), &tag.end(), |key, _| {
                last = last.max(schema::number_of_key(key).unwrap_or(0));
                Ok(())
            })?;
        }
        let of_files = self.arrivals().into_iter().map(|(_, last, _)| last);
        Ok(last.max(of_files.max().unwrap_or(0)))
    }
}

fn open_as_it_is(dir: &Path, old: &Path, memtable_bytes: u64) -> Result<Database, Error> {
    files::look(old)?;
    files::check_seal(dir, old)?;
    Database::open_at(
        dir,
        old.to_owned(),
        Some(Unwritable::ReadOnly),
        memtable_bytes,
    )
}

/// Links the tables into another directory, or copies them where there are no links.
fn link_tables(old: &Path, scratch: &Path) -> io::Result<()> {
    for entry in fs::read_dir(old)? {
        let path = entry?.path();
        let Some(name) = path.file_name() else {
            continue;
        };
        if path.extension().is_some_and(|extension| extension == "sst") {
            let link = scratch.join(name);
            if fs::hard_link(&path, &link).is_err() {
                fs::copy(&path, &link)?;
            }
        }
    }
    Ok(())
}
