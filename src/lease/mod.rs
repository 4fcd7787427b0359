//! Leases: an owner's signed request that one peer keeps some blocks until a time.
//!
//! - [`Lease`]: the request, signed by one of the owner's machines. [`Release`]: its end before time. Both are public and can be checked by
//!   anybody without a secret.
//! - [`Held`]: what the holder makes of a lease. It counts times from its own receipt, so that wrong clocks don't cost anybody a backup.
//! - [`ListDigest`]: how a lease names its blocks without listing them. [`proof`]: how a holder shows that it still has one.
//!
//! Invariants:
//! - Bytes have one reading and a message one form, as with head records.
//! - What a holder has promised never gets shorter but by a release: an old lease that is sent again changes nothing.
//! - A key that lies open ([`Keeper`]) adds leases and does nothing else.
//! - A lease that the owner's words open ([`Opener`]) is never replaced by one that they don't open
//!   to the same.
//! - A stolen machine can't end a lease before its minimum, which takes the owner's own signature,
//!   and it can't end another machine's lease at all.
//!
//! Deliberately absent: clock, network, storage, and the choice of holders.

mod held;
mod keeper;
mod message;
mod opener;
mod release;

use crate::crypto::hash;
use crate::id::BlockId;

pub use held::{Held, MAX_HELD_BYTES, Renewal};
pub use keeper::{KEEPER_BYTES, Keeper};
pub use message::{Lease, Terms};
pub use opener::{OPENER_BYTES, Opener, seal as seal_opener};
pub use release::{Extent, Release};

/// Longest lease or release in bytes.
pub const MAX_LEASE_BYTES: usize = 1024;
/// Bytes of a lease's name.
pub const NAME_BYTES: usize = 16;
/// Longest name of a holder in bytes.
pub const MAX_HOLDER_BYTES: usize = 64;
/// Most blocks of one lease.
pub const MAX_BLOCKS: u64 = 4_000_000;
/// Most holders that a lease may ask for.
pub const MAX_COPIES: u32 = 32;
/// Longest time that one lease may ask for, in milliseconds. Renewed leases last as long as they are renewed.
pub const MAX_TERM_MS: u64 = 400 * DAY_MS;
/// How far the clocks of a machine and a holder may differ, in milliseconds. Terms are counted by the holder's clock, but this bound is not to be
/// done without: who could make leases of any time in the future could give them sequences above all that the owner will ever sign, and a lease that
/// is kept for a term from whenever it comes could be brought again for ever.
pub const MAX_SKEW_MS: u64 = DAY_MS;

const DAY_MS: u64 = 24 * 3600 * 1000;
const LIST_CONTEXT: &str = "libernet 2026-11 lease block list";

/// The name of a lease.
pub type Name = [u8; NAME_BYTES];

/// Why a lease or release is not to be acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// More bytes than there may be.
    #[error("a lease has at most {MAX_LEASE_BYTES} bytes, not {0}")]
    TooLarge(usize),
    /// Of a version that this program does not know.
    #[error("a lease of version {0} is not one that this libernet reads")]
    UnknownVersion(u32),
    /// Not a lease, cut, or written in another way than ours.
    #[error("not a lease: {0}")]
    Malformed(&'static str),
    /// The owner did not sign the machine's certificate.
    #[error("the owner did not admit the machine")]
    BadCertificate,
    /// Who is said to have signed did not.
    #[error("the signature is wrong")]
    BadSignature,
    /// Times or sizes that no lease may have.
    #[error("the terms can't be: {0}")]
    BadTerms(&'static str),
    /// The lease was made for another holder.
    #[error("the lease is for another holder")]
    OtherHolder,
    /// The lease is of another owner, or has another name.
    #[error("it is about another lease")]
    OtherLease,
    /// A machine's word about the lease of another machine.
    #[error(
        "another machine of the owner's made the lease: only that one or the owner's words change it"
    )]
    OtherMachine,
    /// Made so far in the future that one of the clocks is wrong.
    #[error("it was made in the future: one of the clocks is wrong")]
    FromTheFuture,
    /// It was over before it came.
    #[error("the lease is over")]
    Over,
    /// A lease of the same name asks for other blocks.
    #[error("a lease of the same name is about other blocks")]
    OtherBlocks,
    /// A lease of the same name opens to something else, or to nothing.
    #[error("a lease of the same name has another opener")]
    OtherOpener,
    /// A newer lease of the same name has been made since.
    #[error("the lease has been renewed since")]
    Stale,
    /// Only the owner may end the lease now.
    #[error("before its minimum only the owner ends a lease, by its own signature")]
    TooEarly,
    /// The ids are not in order, or one comes twice.
    #[error("the block ids are not in order")]
    Unsorted,
}

/// Digest of a lease's block ids: each once, in order.
#[derive(Clone, Debug)]
pub struct ListDigest {
    hasher: hash::Incremental,
    last: Option<BlockId>,
    count: u64,
}

impl Default for ListDigest {
    fn default() -> Self {
        Self {
            hasher: hash::Incremental::new(LIST_CONTEXT),
            last: None,
            count: 0,
        }
    }
}

impl ListDigest {
    /// Adds the next id.
    ///
    /// # Errors
    /// [`Error::Unsorted`].
    pub fn push(&mut self, id: &BlockId) -> Result<(), Error> {
        if self.last.is_some_and(|last| last >= *id) {
            return Err(Error::Unsorted);
        }
        self.last = Some(*id);
        self.count += 1;
        // A multihash tells its own length, so no two lists give the same bytes.
        self.hasher.add(&id.to_multihash());
        Ok(())
    }

    /// How many ids were added.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The digest.
    pub fn finish(self) -> [u8; 32] {
        self.hasher.finish()
    }

    /// The digest of ids that are in order.
    ///
    /// # Errors
    /// [`Error::Unsorted`].
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a BlockId>) -> Result<[u8; 32], Error> {
        let mut digest = Self::default();
        ids.into_iter().try_for_each(|id| digest.push(id))?;
        Ok(digest.finish())
    }
}

/// What only who has the block's bytes can answer to a fresh `nonce`: keyed BLAKE3.
pub fn proof(nonce: &[u8; 32], block: &[u8]) -> [u8; 32] {
    hash::keyed(nonce, block)
}

fn exact<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::Malformed(what))
}

#[cfg(test)]
mod tests;
