//! What can go wrong between files and blocks.

use std::io;
use std::path::{Path, PathBuf};

use super::bounds::Excess;
use crate::block::{GetError, OpenError, PutError};
use crate::id::BlockId;

/// Why a bundle could not be made, read or extracted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The link's key opens the block, and what is inside is not the start of a bundle.
    #[error("block {id} is not a bundle: it may be a part of one, or other data")]
    NotABundle {
        /// The block.
        id: BlockId,
    },
    /// Made by a newer libernet.
    #[error("block {id} uses tree format {version}, which this version does not know")]
    UnknownVersion {
        /// The block.
        id: BlockId,
        /// The format's number.
        version: u8,
    },
    /// A block could not be opened: mostly a wrong key.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The block opened, and what is inside breaks the format.
    #[error("block {block} holds a malformed tree: {what}")]
    Malformed {
        /// The block.
        block: BlockId,
        /// What is wrong.
        what: &'static str,
    },
    /// A block could not be had.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A block could not be kept.
    #[error(transparent)]
    Put(#[from] PutError),
    /// A file operation failed.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk or a disk quota is full.
    #[error("{}: the disk is full; what is complete so far stays, and a second run goes on from there", .path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// More would be written than may be.
    #[error("{0}")]
    Excess(Excess),
    /// Something is there already.
    #[error("{} is there already", .path.display())]
    TargetExists {
        /// The target.
        path: PathBuf,
    },
    /// The target is a directory of libernet, or lies in one.
    #[error("{}: nothing is ever written into libernet's own directory {}", .path.display(), .directory.display())]
    TargetIsOwn {
        /// The target.
        path: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Another extraction writes to the same place.
    #[error("{} is being written by another extraction", .path.display())]
    Busy {
        /// The hidden directory that is being written.
        path: PathBuf,
    },
    /// Only regular files and directories can be put.
    #[error("{} is neither a file nor a directory", .path.display())]
    NotPuttable {
        /// What was to be put.
        path: PathBuf,
    },
    /// A path that was to be put is a data directory of libernet, or lies in one.
    #[error("{}: {}", .path.display(), own_words(.path, .directory))]
    Own {
        /// The path that was to be put.
        path: PathBuf,
        /// The data directory.
        directory: PathBuf,
    },
    /// A name or property given with a put can't be stored.
    #[error("this can't be stored: {what}")]
    Unsuitable {
        /// What is wrong with it.
        what: &'static str,
    },
    /// A pattern that selects or leaves out files makes no sense.
    #[error("the pattern {pattern:?} makes no sense: {reason}")]
    Pattern {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nothing in the bundle has this path.
    #[error("the bundle holds nothing called {}", .path.display())]
    NoSuchPath {
        /// Path inside the bundle.
        path: PathBuf,
    },
    /// The path does not name a regular file inside the bundle.
    #[error("this is not a regular file")]
    NotAFile,
    /// The path does not name a directory inside the bundle.
    #[error("this is not a directory")]
    NotADirectory,
    /// The work was stopped on request.
    #[error("stopped")]
    Cancelled,
    /// A worker thread ended unexpectedly.
    #[error("an internal worker failed")]
    Worker,
}

fn own_words(path: &Path, directory: &Path) -> String {
    if path == directory {
        return "libernet's own data directory is never backed up or shared".to_owned();
    }
    format!(
        "it lies in libernet's own data directory {}, which is never backed up or shared",
        directory.display()
    )
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Get(error) => error.is_retryable(),
            Self::Put(_)
            | Self::Io { .. }
            | Self::DiskFull { .. }
            | Self::Busy { .. }
            | Self::Cancelled => true,
            Self::NotABundle { .. }
            | Self::UnknownVersion { .. }
            | Self::Open(_)
            | Self::Malformed { .. }
            | Self::Excess(_)
            | Self::TargetExists { .. }
            | Self::TargetIsOwn { .. }
            | Self::NotPuttable { .. }
            | Self::Own { .. }
            | Self::Unsuitable { .. }
            | Self::Pattern { .. }
            | Self::NoSuchPath { .. }
            | Self::NotAFile
            | Self::NotADirectory
            | Self::Worker => false,
        }
    }

    /// The block that is missing or damaged, if that is the reason.
    pub fn block(&self) -> Option<BlockId> {
        match self {
            Self::NotABundle { id } | Self::UnknownVersion { id, .. } => Some(*id),
            Self::Malformed { block, .. } => Some(*block),
            Self::Open(
                OpenError::WrongKey(id)
                | OpenError::Malformed { id, .. }
                | OpenError::UnknownCodec { id, .. },
            ) => Some(*id),
            Self::Get(
                GetError::NotFound { id, .. }
                | GetError::Corrupt { id }
                | GetError::Store { id, .. },
            ) => Some(*id),
            _ => None,
        }
    }

    /// An error of the system, told apart from a full disk.
    pub(super) fn io(path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path },
            _ => Self::Io { path, source },
        }
    }
}
