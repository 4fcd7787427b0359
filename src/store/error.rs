//! What can go wrong in a store.

use std::io::ErrorKind;
use std::path::PathBuf;

use crate::id::BlockId;
use crate::size::ByteSize;
use crate::text::count;

use super::types::{LeaseId, MAX_LEASES, MAX_PINS, MAX_TERMS_BYTES, PinId, Unwritable};

/// Why a store could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The stored bytes of a block are damaged or gone.
    #[error("block {id} is damaged in the store")]
    Corrupt {
        /// The block.
        id: BlockId,
    },
    /// A block is here and can't be read now: the disk, or the way to it, fails. The block stays,
    /// and the next read may succeed.
    #[error("block {id} can't be read now")]
    Unreadable {
        /// The block.
        id: BlockId,
        /// Error of the database, and so of the system.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The quota is used up, even after evicting what may be evicted.
    #[error(
        "the store is full: {} of {} are used and {} more are needed; raise the quota or remove pins",
        ByteSize(*.used), ByteSize(*.quota), ByteSize(*.needed)
    )]
    Full {
        /// Bytes on disk.
        used: u64,
        /// The limit in bytes.
        quota: u64,
        /// Bytes that did not fit.
        needed: u64,
    },
    /// The disk is full.
    #[error("the disk is full")]
    DiskFull,
    /// Another process has the store open.
    #[error("the store in {} is in use by {}", .dir.display(), holder(.pid))]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// The process that holds it, when it said so.
        pid: Option<u32>,
    },
    /// The store was written by a newer libernet.
    #[error(
        "the store in {} has format {found}, and this version knows formats up to {known}: use a newer libernet",
        .dir.display()
    )]
    UnknownFormat {
        /// The store's directory.
        dir: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The pin does not exist, or is being removed.
    #[error("there is no pin {0}")]
    NoSuchPin(PinId),
    /// There are [`MAX_PINS`] pins.
    #[error("there are {MAX_PINS} pins already: remove some first")]
    TooManyPins,
    /// The lease does not exist, or is being removed.
    #[error("there is no lease {0}")]
    NoSuchLease(LeaseId),
    /// There are [`MAX_LEASES`] leases.
    #[error("there are {MAX_LEASES} leases already")]
    TooManyLeases,
    /// A lease promises more than [`MAX_TERMS_BYTES`].
    #[error("the terms of a lease have at most {MAX_TERMS_BYTES} bytes, not {0}")]
    TermsTooLarge(usize),
    /// The block can't be removed: something refers to it.
    #[error("block {id} is kept by {} and {}", count(*.pins, "pin"), count(*.leases, "lease"))]
    Held {
        /// The block.
        id: BlockId,
        /// Pins that refer to it.
        pins: u64,
        /// Leases that refer to it.
        leases: u64,
    },
    /// A record is too large for the shelf.
    #[error("a record's key of {key_bytes} bytes or value of {value_bytes} bytes is too large")]
    RecordTooLarge {
        /// Bytes of the key.
        key_bytes: usize,
        /// Bytes of the value.
        value_bytes: usize,
    },
    /// The shelf's table is full.
    #[error("the table has {0} records already, as many as it may")]
    TooManyRecords(u64),
    /// A record in the index does not decode: the index is damaged.
    #[error("the store's index is damaged: {what}")]
    BadIndex {
        /// What does not decode.
        what: &'static str,
    },
    /// A file of the store's index is missing or damaged. Nothing was changed.
    #[error("the store's index is damaged: {} {problem}", .file.display())]
    Damaged {
        /// The file; the database's directory when it is not known which.
        file: PathBuf,
        /// The damage, as the end of a sentence.
        problem: &'static str,
        /// The database's own words, if it was asked.
        source: Option<rocksdb::Error>,
    },
    /// Making the index again takes a copy of the blocks, and there is no room for it. Nothing was
    /// changed.
    #[error(
        "making the index again copies what is stored: that takes {}, and {} are free",
        ByteSize(*.needed), ByteSize(*.free)
    )]
    NoRoomToRebuild {
        /// Bytes that it takes.
        needed: u64,
        /// Free bytes of the disk.
        free: u64,
    },
    /// The store is open only for reading: its disk or directory is read-only.
    #[error("the store can't be written: its disk or directory is read-only")]
    ReadOnly,
    /// The directory can't be used.
    #[error("the store's directory {} cannot be used", .path.display())]
    Directory {
        /// The directory, or the file in it.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database stopped writing after a failure. What is stored stays readable.
    #[error("the store stopped writing after a failure; restart the node to go on")]
    Stopped(#[source] rocksdb::Error),
    /// The database failed.
    #[error("the database failed")]
    Backend(#[source] rocksdb::Error),
}

fn holder(pid: &Option<u32>) -> String {
    match pid {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl From<Unwritable> for Error {
    fn from(why: Unwritable) -> Self {
        match why {
            Unwritable::DiskFull => Self::DiskFull,
            Unwritable::ReadOnly => Self::ReadOnly,
        }
    }
}

impl Error {
    /// A file that RocksDB was not asked about.
    pub(super) const fn damaged(file: PathBuf, problem: &'static str) -> Self {
        Self::Damaged {
            file,
            problem,
            source: None,
        }
    }

    /// Why the store can't be written, when that is all that is wrong: then it may still be read.
    pub fn unwritable(&self) -> Option<Unwritable> {
        match self {
            Self::DiskFull => Some(Unwritable::DiskFull),
            Self::ReadOnly => Some(Unwritable::ReadOnly),
            Self::Directory { source, .. } => match source.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Some(Unwritable::DiskFull),
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => {
                    Some(Unwritable::ReadOnly)
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether the same call may succeed later with nothing else changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::DiskFull | Self::Locked { .. } | Self::Unreadable { .. } | Self::Backend(_) => {
                true
            }
            Self::Corrupt { .. }
            | Self::Full { .. }
            | Self::UnknownFormat { .. }
            | Self::NoSuchPin(_)
            | Self::TooManyPins
            | Self::NoSuchLease(_)
            | Self::TooManyLeases
            | Self::TermsTooLarge(_)
            | Self::Held { .. }
            | Self::RecordTooLarge { .. }
            | Self::TooManyRecords(_)
            | Self::BadIndex { .. }
            | Self::Damaged { .. }
            | Self::NoRoomToRebuild { .. }
            | Self::ReadOnly
            | Self::Directory { .. }
            | Self::Stopped(_) => false,
        }
    }
}
