//! Head records: where the newest log of each of an owner's machines is.
//!
//! A [`HeadRecord`] is small, public and checkable by anybody without a secret: its key in the DHT ([`head_id`]) is a hash of the
//! owner's public key, the owner's signature (the certificate) admits each machine, and each [`HeadEntry`] is signed by its
//! machine. Only who knows the owner's sealing key reads which key opens a log.
//!
//! Invariants:
//! - Bytes have one reading and a record one form: `decode` refuses whatever `encode` would have written otherwise.
//! - [`HeadRecord::merge`] is commutative, associative and idempotent, so that it does not matter who heard what first, and an
//!   old entry never takes the place of a newer one.
//!
//! A `HeadRecord` in hand has the right form; whether its signatures hold is known only after [`HeadRecord::validate`].
//!
//! Deliberately absent: clock, network, storage, and what a log says. Nobody can take a machine back: an owner who no longer
//! trusts one makes a new owner.

mod entry;
mod record;

use zeroize::Zeroizing;

use crate::crypto::hash;
use crate::id::BlockId;

pub use entry::{HeadEntry, SEALED_BYTES, certify, is_admitted};
pub use record::HeadRecord;

/// Longest record in bytes.
pub const MAX_RECORD_BYTES: usize = 12 << 10;
/// Most machines of one owner.
pub const MAX_ENTRIES: usize = 32;

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
    #[error("a head record of version {0} needs a newer libernet")]
    UnknownVersion(u32),
    /// Not a record, cut, or written in another way than ours.
    #[error("not a head record: {0}")]
    Malformed(&'static str),
    /// More machines than a record may name.
    #[error("an owner has at most {MAX_ENTRIES} machines")]
    TooManyMachines,
    /// The record is of another owner than the key it was found under, or than the other record.
    #[error("the head record is of another owner")]
    OtherOwner,
    /// The owner did not sign this machine's certificate.
    #[error("the owner did not admit the machine of entry {0}")]
    BadCertificate(usize),
    /// The machine did not sign its entry.
    #[error("entry {0} was not signed by its machine")]
    BadSignature(usize),
    /// The sealing key does not open the entry.
    #[error("the key does not open the entry")]
    WrongKey,
}

/// The key of an owner's record in the DHT: SHA2-384 of `libernet head v1` and the owner's public key.
pub fn head_id(owner: &[u8; 32]) -> BlockId {
    hash::sha384_id(&[HEAD_DOMAIN, owner].concat())
}

/// The key that seals what opens the logs, from the owner's backup root key.
pub fn sealing_key(backup_root: &[u8; 32]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(hash::derive_key(SEALING_CONTEXT, backup_root))
}

#[cfg(test)]
mod tests;
