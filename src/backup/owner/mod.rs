//! Who owns backups: twelve words, the keys made of them, and what a machine keeps of them.
//!
//! - [`Phrase`]: the twelve words. They exist on paper, not on a machine.
//! - [`OwnerKeys`]: keys that are derived from the words. Needed to let a machine in, to turn one
//!   out, and to recover.
//! - [`GenerationKey`]: key that seals the backups, until a machine is turned out and the next
//!   generation begins.
//! - [`Membership`]: what a machine keeps: enough to write and read backups, not enough to speak for the owner.
//! - [`Vault`]: the file that holds a membership, perhaps behind a passphrase.
//! - [`sheet`]: the page to print and put away.
//!
//! Secrets are wiped from memory when dropped and never appear in `Debug` forms. Deliberately absent: the network, head records,
//! snapshots, and any way back from a membership to the words.

mod error;
mod generation;
mod keys;
mod machines;
pub mod sheet;
mod vault;
mod words;

pub use error::Error;
pub use generation::{GenerationKey, LAST_GENERATION};
pub use keys::{
    BadSignature, Certificate, MAX_NAME_BYTES, MachineId, MachineKeys, Membership, OwnerId,
    OwnerKeys, PublicKeyError, verify_certificate,
};
pub use vault::{FILE_NAME, LockedVault, MAX_PASSPHRASE_BYTES, State, Vault};
pub use words::{MAX_TEXT_BYTES, Phrase, WORDS, WordsError};
