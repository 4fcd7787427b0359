//! What can be wrong with an owner, its words or its file.

use std::io;
use std::path::PathBuf;

use super::words::WordsError;

/// Why something with an owner failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The words are wrong.
    #[error(transparent)]
    Words(#[from] WordsError),
    /// A machine's name is empty, too long or has control characters in it.
    #[error("a machine's name has 1 to {max} bytes and no control characters")]
    Name {
        /// Longest name in bytes.
        max: usize,
    },
    /// A new passphrase is empty or too long.
    #[error("a passphrase has 1 to {max} bytes")]
    Passphrase {
        /// Longest passphrase in bytes.
        max: usize,
    },
    /// The passphrase does not open the file.
    #[error("the passphrase does not open {0}")]
    WrongPassphrase(PathBuf),
    /// A passphrase is needed and none was given.
    #[error("{0} is protected by a passphrase")]
    Locked(PathBuf),
    /// There is an owner already; it is never overwritten.
    #[error("there is an owner already: {0}")]
    Exists(PathBuf),
    /// There is no owner.
    #[error("there is no owner: {0} does not exist")]
    Missing(PathBuf),
    /// The file is not what was written.
    #[error("{path} is damaged: {what}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file was made by a newer libernet.
    #[error("{path} has version {found}, and this program knows version {known}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u8,
        /// The version that can be read.
        known: u8,
    },
    /// More machines were turned out than a head can say.
    #[error(
        "an owner turns out at most {max} machines: make a new owner with new words, and back up again"
    )]
    TooManyRevoked {
        /// Most machines.
        max: usize,
    },
    /// The keys were changed as often as they can be.
    #[error(
        "the keys were changed as often as they can be: make a new owner with new words, and back up again"
    )]
    NoGenerationLeft,
    /// A decision that a head can't hold.
    #[error(transparent)]
    Head(#[from] crate::head::Error),
    /// The system has too little memory to check the passphrase.
    #[error("there is not enough memory to check the passphrase of {0}")]
    Memory(PathBuf),
    /// The file or its directory could not be used.
    #[error("{path} could not be {action}")]
    Io {
        /// Read, made or written.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
