//! The blocks whose ids are most like a given one.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use crate::id::BlockId;

/// Most blocks of one hash function that a search looks at.
pub(super) const MAX_ALIKE: usize = 100_000;

/// The first of those found, in the order of likeness: shared bits, most first, then ids.
pub(super) struct Likest {
    like: BlockId,
    limit: usize,
    found: BTreeSet<(Reverse<u32>, BlockId, u32)>,
}

impl Likest {
    /// None yet, of those that are like `like`.
    pub(super) fn new(like: BlockId, limit: usize) -> Self {
        Self {
            like,
            limit,
            found: BTreeSet::new(),
        }
    }

    /// One more, with its size in bytes.
    pub(super) fn add(&mut self, id: BlockId, bytes: u32) {
        let bits = self.like.shared_bits(&id);
        self.found.insert((Reverse(bits), id, bytes));
        if self.found.len() > self.limit {
            self.found.pop_last();
        }
    }

    pub(super) fn into_vec(self) -> Vec<(BlockId, u32)> {
        let found = self.found.into_iter();
        found.map(|(_, id, bytes)| (id, bytes)).collect()
    }
}
