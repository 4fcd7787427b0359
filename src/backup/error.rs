//! What can go wrong with backups.

use crate::block::{GetError, OpenError, PutError};
use crate::id::BlockId;
use crate::text::count;
use crate::{bundle, head, store};

/// Why something about backups could not be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The block is no snapshot.
    #[error("block {id} is not a snapshot")]
    NotASnapshot {
        /// The block.
        id: BlockId,
    },
    /// The block is no machine's log.
    #[error("block {id} is not the log of a machine")]
    NotALog {
        /// The block.
        id: BlockId,
    },
    /// Written by a newer program.
    #[error("block {id} has version {version}, which this libernet does not know")]
    UnknownVersion {
        /// The block.
        id: BlockId,
        /// What it says.
        version: u8,
    },
    /// It opened, and what is inside breaks the format.
    #[error("block {id} is malformed: {what}")]
    Malformed {
        /// The block.
        id: BlockId,
        /// What is wrong.
        what: &'static str,
    },
    /// The log of this machine can't take more.
    #[error("the log of this machine is full: forget some snapshots and prune first")]
    LogFull,
    /// There are no snapshots at all.
    #[error("there are no snapshots")]
    NoSnapshots,
    /// No snapshot goes by that name.
    #[error("there is no snapshot '{text}'")]
    NoSuchSnapshot {
        /// What was asked for.
        text: String,
    },
    /// Nothing that can be had back goes by that name.
    #[error("no snapshot '{text}' is forgotten or asked to be, and can still be had back")]
    NotForgotten {
        /// Name or id that was asked for.
        text: String,
    },
    /// Bringing the snapshot back takes more than this machine's key.
    #[error("the snapshot {id} {why}")]
    NotOurs {
        /// The snapshot.
        id: BlockId,
        /// Word that forgot it, and how to take that back.
        why: String,
    },
    /// The owner turned this machine out.
    #[error("this machine was turned out by its owner: what it writes counts no more")]
    TurnedOut,
    /// The owner's machines seal with later keys than this one has.
    #[error("a machine of this owner was turned out, and this one seals with the keys of before")]
    OldKeys {
        /// Whether the present keys were handed over to it: then it has them the next time.
        is_granted: bool,
    },
    /// The order was signed by somebody else.
    #[error("these words are not those of this machine's owner")]
    OtherWords,
    /// Several snapshots begin with these digits.
    #[error("'{text}' is the beginning of several snapshots' ids: give more digits")]
    Ambiguous {
        /// What was asked for.
        text: String,
    },
    /// No set, machine or tag goes by that name, or several do.
    #[error(transparent)]
    Name(#[from] crate::pick::Miss),
    /// There are snapshots, and none of them has all that was asked for.
    #[error("there is no snapshot {0}")]
    NoneChosen(String),
    /// Nobody who was asked has the owner's head.
    #[error("no head of this owner was found; asked: {}", count(*.asked as u64, "connected peer"))]
    NoHead {
        /// Peers that were connected.
        asked: usize,
    },
    /// The head names logs, and none of them could be had.
    #[error("the head was found, but no log could be had of {}", count(*.machines as u64, "machine"))]
    NoLogs {
        /// Machines that the head names.
        machines: usize,
        /// Why the first could not be had.
        source: Box<Error>,
    },
    /// A pattern or a schedule that can't be read.
    #[error("{0}")]
    Setting(String),
    /// A file of this room's own was read, and is not what it should be.
    #[error("the file {} is wrong: {what}", .path.display())]
    DamagedFile {
        /// The file.
        path: std::path::PathBuf,
        /// Fault of the file, with the line.
        what: String,
    },
    /// A file of this room's own could not be read or written.
    #[error("{what} {}", .path.display())]
    File {
        /// What was being done.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Only a machine of the owner's writes logs.
    #[error("this machine belongs to no owner, or to another")]
    Stranger,
    /// A head record.
    #[error(transparent)]
    Head(#[from] head::Error),
    /// A block could not be had.
    #[error(transparent)]
    Get(#[from] GetError),
    /// A block could not be kept.
    #[error(transparent)]
    Put(#[from] PutError),
    /// A block could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Files.
    #[error(transparent)]
    Bundle(#[from] bundle::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The network.
    #[error(transparent)]
    Net(#[from] crate::net::providers::Error),
    /// The node is stopping.
    #[error("the node is stopping")]
    Stopping,
}

impl Error {
    /// Whether asking again later may succeed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NoHead { .. } | Self::NoLogs { .. } | Self::Net(_) => true,
            Self::OldKeys { is_granted } => *is_granted,
            Self::Get(error) => error.is_retryable(),
            Self::NotASnapshot { .. }
            | Self::NotALog { .. }
            | Self::UnknownVersion { .. }
            | Self::Malformed { .. }
            | Self::LogFull
            | Self::NoSnapshots
            | Self::NoSuchSnapshot { .. }
            | Self::NotForgotten { .. }
            | Self::NotOurs { .. }
            | Self::OtherWords
            | Self::TurnedOut
            | Self::Ambiguous { .. }
            | Self::Name(_)
            | Self::NoneChosen(_)
            | Self::Setting(_)
            | Self::Stranger
            | Self::DamagedFile { .. }
            | Self::File { .. }
            | Self::Head(_)
            | Self::Put(_)
            | Self::Open(_)
            | Self::Bundle(_)
            | Self::Store(_)
            | Self::Stopping => false,
        }
    }
}
