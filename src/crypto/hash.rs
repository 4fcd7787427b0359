//! Hash functions: SHA-2 for block ids, BLAKE3 for everything that stays local or derives keys.

use sha2::{Digest, Sha256, Sha384};

use super::lanes;
use crate::id::{BlockId, HashKind};

/// How many messages [`sha384_ids`] works on at once.
pub const HASHES_AT_ONCE: usize = lanes::LANES;

/// Whether [`sha384_ids`] takes less time for several messages than one after the other would, on this processor.
pub fn gains_by_company() -> bool {
    lanes::are_together()
}

/// The id of a block that libernet makes: SHA2-384 of `bytes`. About 3 ms a MiB.
pub fn sha384_id(bytes: &[u8]) -> BlockId {
    BlockId::from_sha384(Sha384::digest(bytes).into())
}

/// [`sha384_id`] of everything that `next` gives, until it gives nothing and all is done: several messages at a time, which is two to three
/// times as fast as one after the other where the processor has AVX2, and more with AVX-512. `done` gets each message with its id, in any order.
///
/// `next` is told how many messages are being worked on. While there are some it should not wait for long, and is asked again soon.
pub fn sha384_ids<M: AsRef<[u8]>>(
    next: impl FnMut(usize) -> Option<M>,
    mut done: impl FnMut(M, BlockId),
) {
    lanes::sha384(next, |message, digest| {
        done(message, BlockId::from_sha384(digest));
    });
}

/// The id of `bytes` under the hash function `kind`.
pub fn id_of(kind: HashKind, bytes: &[u8]) -> BlockId {
    match kind {
        HashKind::Sha384 => sha384_id(bytes),
        HashKind::Sha256 => BlockId::from_sha256(Sha256::digest(bytes).into()),
    }
}

/// SHA2-256 of `parts`, one after the other.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// Whether `bytes` are the block that `id` names.
pub fn matches(id: &BlockId, bytes: &[u8]) -> bool {
    id_of(id.kind(), bytes) == *id
}

/// Keyed BLAKE3 of `bytes`.
pub fn keyed(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(key, bytes).as_bytes()
}

/// A key for one purpose, derived from `material` (BLAKE3 `derive_key`). `context` is a constant of the program,
/// unique to the purpose.
pub fn derive_key(context: &str, material: &[u8]) -> [u8; 32] {
    blake3::derive_key(context, material)
}

/// As [`derive_key`], as many bytes as `out` has room for.
pub fn expand(context: &str, material: &[u8], out: &mut [u8]) {
    blake3::Hasher::new_derive_key(context)
        .update(material)
        .finalize_xof()
        .fill(out);
}

/// Keyed BLAKE3 of many parts. Cheap to clone: what was added is not hashed again.
#[derive(Clone)]
pub struct KeyedHasher(blake3::Hasher);

impl KeyedHasher {
    /// Starts with nothing.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(blake3::Hasher::new_keyed(key))
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of everything added.
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// BLAKE3 of many parts for one purpose; `context` as in [`derive_key`].
#[derive(Clone, Debug)]
pub struct Incremental(blake3::Hasher);

impl Incremental {
    /// Starts with nothing.
    pub fn new(context: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(context))
    }

    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of everything added.
    pub fn finish(self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 180-4 example: "abc".
    #[test]
    fn golden_ids() {
        assert_eq!(
            sha384_id(b"abc").to_hex(),
            "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7"
        );
        assert_eq!(
            id_of(HashKind::Sha256, b"abc").to_hex(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(
            sha256(&[b"a", b"", b"bc"]).as_slice(),
            id_of(HashKind::Sha256, b"abc").digest()
        );
        assert!(matches(&sha384_id(b"abc"), b"abc"));
        assert!(!matches(&sha384_id(b"abc"), b"abd"));
    }
}
