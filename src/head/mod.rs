//! Head records: where the logs of each of an owner's machines are.
//!
//! A [`HeadRecord`] is small and can be checked by anybody who has it, without a secret: the owner's signature
//! (the certificate) admits each machine, and each [`HeadEntry`] is signed by its machine. Only who
//! knows the owner's sealing key reads which key opens a log.
//!
//! A record is a history. A thief who has copied a machine's key signs entries as that machine
//! does, so what is newest proves nothing: entries of before stay beside it (`history`), and who
//! reads them goes past an entry that leads nowhere.
//!
//! Invariants:
//! - Bytes have one reading: `decode` refuses whatever `encode` would have written otherwise.
//! - However records are merged, the entries with the highest sequences are the same, and what came
//!   first of a day stays for [`HISTORY_MS`] whatever comes later, as long as it fits.
//! - No sequence is ahead of its time, and no entry is taken that is ahead of the taker's clock.
//!
//! A `HeadRecord` in hand has the right form; whether its signatures hold is known only after
//! [`HeadRecord::validate`].
//!
//! The owner's words turn a machine out ([`Decisions`]): from then on its signatures count no more.
//!
//! Deliberately absent: clock, network, storage, and what a log says.

mod decisions;
mod entry;
mod history;
mod meeting;
mod record;

use zeroize::Zeroizing;

use crate::crypto::hash;
use crate::id::BlockId;

pub use decisions::{Decisions, Handover, MAX_COUNTING, MAX_REVOKED, Revocation};
pub use entry::{HeadEntry, SEALED_BYTES, certify, is_admitted};
pub use meeting::{
    Acquaintance, Direction, MAX_SEALED_BYTES, PLACES, first_place, months_to_announce,
    months_to_look, place_key,
};
pub use record::HeadRecord;

/// Longest record in bytes.
pub const MAX_RECORD_BYTES: usize = 32 << 10;
/// Most machines of one owner.
pub const MAX_MACHINES: usize = 32;
/// Most entries of one record: as many as fit.
pub const MAX_ENTRIES: usize = MAX_RECORD_BYTES / history::ENTRY_BYTES;
/// Newest entries of each machine that stay whatever their times are.
pub const NEWEST: usize = 16;
/// For how long the first entry of each day stays, in milliseconds.
pub const HISTORY_MS: u64 = 75 * DAY_MS;
/// Most that clocks may differ, in milliseconds.
pub const MAX_SKEW_MS: u64 = DAY_MS;

const DAY_MS: u64 = 24 * 3600 * 1000;
const HEAD_DOMAIN: &[u8] = b"libernet head v1";
const SEALING_CONTEXT: &str = "libernet 2026-11 head sealing key";

/// Why a record or an entry is not to be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More bytes than a record may have.
    #[error("a head record has at most {MAX_RECORD_BYTES} bytes, not {0}")]
    TooLarge(usize),
    /// Of a version that this program does not know.
    #[error("a head record of version {0} is not one that this libernet reads")]
    UnknownVersion(u32),
    /// Not a record, cut, or written in another way than ours.
    #[error("not a head record: {0}")]
    Malformed(&'static str),
    /// More machines than a record may name.
    #[error("an owner has at most {MAX_MACHINES} machines")]
    TooManyMachines,
    /// More entries than a record may have.
    #[error("a head record has at most {MAX_ENTRIES} entries")]
    TooManyEntries,
    /// An entry's sequence could be reached by no machine at the time that the entry says.
    #[error("an entry's sequence is ahead of its time")]
    AheadOfItsTime,
    /// All entries were made so far in the future that one of the clocks is wrong.
    #[error("the head record was made in the future: one of the clocks is wrong")]
    FromTheFuture,
    /// There is no higher sequence.
    #[error("the sequences of this machine are used up")]
    NoSequenceLeft,
    /// The record is of another owner than the key it was found under, or than the other record.
    #[error("the head record is of another owner")]
    OtherOwner,
    /// The owner did not sign this machine's certificate.
    #[error("the owner did not admit the machine of entry {0}")]
    BadCertificate(usize),
    /// The machine did not sign its entry.
    #[error("entry {0} was not signed by its machine")]
    BadSignature(usize),
    /// The owner did not sign that a machine is turned out, or who gets the keys.
    #[error(
        "what is said to be the owner's decision about its machines was not signed by the owner"
    )]
    BadDecision,
    /// The sealing key does not open the entry.
    #[error("the key does not open the entry")]
    WrongKey,
}

/// The name of an owner's record: SHA2-384 of `libernet head v1` and the owner's public key. Whoever
/// knows it finds the record's keepers and reads what they tell, so it is told to nobody else.
pub fn head_id(owner: &[u8; 32]) -> BlockId {
    hash::sha384_id(&[HEAD_DOMAIN, owner].concat())
}

/// The key that seals what opens the logs, from the owner's backup root key.
pub fn sealing_key(backup_root: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(hash::derive_key(SEALING_CONTEXT, backup_root))
}

#[cfg(test)]
mod tests;
