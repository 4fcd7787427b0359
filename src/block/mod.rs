//! Blocks: immutable bytes named by their hash, and how plaintext becomes one.
//!
//! - [`Block`]: bytes whose hash has been checked. A `Block` in hand *is* verified; unverified bytes stay `Bytes`.
//! - [`seal()`]: payload (codec, length, data, padding), key derivation, encryption.
//! - [`Ref`]: where some plaintext is. [`Link`]: what people pass on. [`Ticket`]: a link, and where
//!   it can be had.
//! - [`BlockSource`], [`BlockSink`], [`ChunkIndex`]: what the rooms above need of stores and networks, so that files can be
//!   turned into blocks without knowing either.
//!
//! Deliberately absent: storing, fetching, files.

mod link;
mod seal;
mod ticket;
mod traits;

use bytes::Bytes;

use crate::crypto::hash;
use crate::crypto::key::Key;
use crate::id::{BlockId, HashKind};

pub use link::{Link, LinkError};
pub use seal::{
    Context, MAX_LIKE_BITS, MAX_PLAINTEXT_BYTES, NONCE_BYTES, OpenError, SealError, Sealed, Search,
    open, open_in, seal, seal_all, seal_like,
};
pub use ticket::{MAX_ADDRESSES as MAX_TICKET_ADDRESSES, Ticket, TicketError};
pub use traits::{
    Attempt, BlockSink, BlockSource, ChunkHash, ChunkIndex, GetError, IndexError, PutError,
    PutStats, Tried,
};

/// Largest block in bytes.
pub const MAX_BLOCK_BYTES: usize = 2 << 20;

/// The bytes are not the block that the id names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The hash differs.
    #[error("the bytes are not block {0}")]
    Mismatch(BlockId),
    /// Empty, or larger than [`MAX_BLOCK_BYTES`].
    #[error("a block has 1 to {MAX_BLOCK_BYTES} bytes, not {0}")]
    Size(usize),
}

/// A block whose bytes are known to fit its id. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct Block {
    id: BlockId,
    bytes: Bytes,
}

impl Block {
    /// Names `bytes` by their SHA2-384. Costs about 3 ms a MiB: not for async tasks.
    ///
    /// # Errors
    /// [`VerifyError::Size`].
    pub fn new(bytes: Bytes) -> Result<Self, VerifyError> {
        check_size(&bytes)?;
        Ok(Self {
            id: hash::id_of(HashKind::Sha384, &bytes),
            bytes,
        })
    }

    /// Checks that `bytes` are the block that `id` names. Costs about 3 ms a MiB: not for async tasks.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(id: BlockId, bytes: Bytes) -> Result<Self, VerifyError> {
        check_size(&bytes)?;
        if !hash::matches(&id, &bytes) {
            return Err(VerifyError::Mismatch(id));
        }
        Ok(Self { id, bytes })
    }

    /// [`verify`](Self::verify) of everything that `next` gives, until it gives nothing and all is done: faster than one after the other,
    /// because the blocks are hashed several at a time. `next` is told how many are being hashed, and may wait for more to come. `done` gets each
    /// verdict with what came along with its bytes, in any order.
    pub fn verify_all<T>(
        mut next: impl FnMut(usize) -> Option<(BlockId, Bytes, T)>,
        done: impl FnMut(Result<Self, VerifyError>, T),
    ) {
        let done = std::cell::RefCell::new(done);
        hash::sha384_ids(
            |busy| loop {
                let (id, bytes, tag) = next(busy)?;
                if id.kind() == HashKind::Sha384 && check_size(&bytes).is_ok() {
                    return Some(Claimed { id, bytes, tag });
                }
                done.borrow_mut()(Self::verify(id, bytes), tag);
            },
            |Claimed { id, bytes, tag }, hash| {
                let verdict = match hash == id {
                    true => Ok(Self { id, bytes }),
                    false => Err(VerifyError::Mismatch(id)),
                };
                done.borrow_mut()(verdict, tag);
            },
        );
    }

    /// A block whose bytes were verified when they were stored and are protected by the store's own checksum since.
    /// For stores only.
    pub(crate) fn from_checked(id: BlockId, bytes: Bytes) -> Self {
        Self { id, bytes }
    }

    /// The block's name.
    pub fn id(&self) -> BlockId {
        self.id
    }

    /// The block's bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes alone.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}

/// Bytes that are said to be a block.
struct Claimed<T> {
    id: BlockId,
    bytes: Bytes,
    tag: T,
}

impl<T> AsRef<[u8]> for Claimed<T> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Block({:?}, {} bytes)", self.id, self.bytes.len())
    }
}

fn check_size(bytes: &[u8]) -> Result<(), VerifyError> {
    if bytes.is_empty() || bytes.len() > MAX_BLOCK_BYTES {
        return Err(VerifyError::Size(bytes.len()));
    }
    Ok(())
}

/// Where some plaintext is: a range of the data inside one sealed block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ref {
    /// The block.
    pub id: BlockId,
    /// What opens it.
    pub key: Key,
    /// Where the range starts in the block's data, in bytes.
    pub offset: u32,
    /// Length of the range in bytes.
    pub len: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::Digest;

    #[test]
    fn size_limits() {
        assert_eq!(Block::new(Bytes::new()), Err(VerifyError::Size(0)));
        let largest = Bytes::from(vec![0; MAX_BLOCK_BYTES]);
        let block = Block::new(largest.clone()).expect("the largest size is allowed");
        assert_eq!(Block::verify(block.id(), largest), Ok(block));
        let over = Bytes::from(vec![0; MAX_BLOCK_BYTES + 1]);
        assert_eq!(
            Block::new(over),
            Err(VerifyError::Size(MAX_BLOCK_BYTES + 1))
        );
    }

    #[test]
    fn many_are_verified_each_by_itself() {
        let good = |byte| Block::new(Bytes::from(vec![byte; 300])).expect("a small block");
        let old = BlockId::from_sha256(sha2::Sha256::digest(b"old").into());
        let too_large = Bytes::from(vec![0; MAX_BLOCK_BYTES + 1]);
        let mut given = vec![
            (good(1).id(), good(1).into_bytes(), 0),
            (good(2).id(), good(3).into_bytes(), 1),
            (old, Bytes::from_static(b"old"), 2),
            (good(4).id(), too_large, 3),
            (good(5).id(), good(5).into_bytes(), 4),
        ]
        .into_iter();
        let mut results = vec![Err(VerifyError::Size(0)); 5];
        Block::verify_all(|_| given.next(), |verdict, at: usize| results[at] = verdict);
        assert_eq!(results[0], Ok(good(1)));
        assert_eq!(results[1], Err(VerifyError::Mismatch(good(2).id())));
        assert_eq!(results[2].as_ref().map(Block::id), Ok(old));
        assert_eq!(results[3], Err(VerifyError::Size(MAX_BLOCK_BYTES + 1)));
        assert_eq!(results[4], Ok(good(5)));
    }

    #[test]
    fn wrong_bytes_are_refused() {
        let block = Block::new(Bytes::from_static(b"a")).expect("one byte is a block");
        assert_eq!(
            Block::verify(block.id(), Bytes::from_static(b"b")),
            Err(VerifyError::Mismatch(block.id()))
        );
    }
}
