//! Blocks that are offered, are here already, and might be gone after a crash: until a flush, who offers them is not told that they are here.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::flushes::Flushes;
use crate::id::BlockId;

/// Blocks that are remembered at most.
const MAX_BLOCKS: usize = 4096;
/// How often it is looked for some that need not be remembered any more, when there is no room.
const TIDY_EVERY: Duration = Duration::from_secs(1);

/// Since when each of them is known to be here.
#[derive(Default)]
pub(super) struct Unsure {
    blocks: HashMap<BlockId, Known>,
    tidied: Option<Instant>,
}

struct Known {
    since: Instant,
    /// Whether a member of a ring of ours offered it first.
    of_member: bool,
}

impl Unsure {
    /// Whether a block that is here is durable: a flush has begun since it was first offered. What strangers offer never makes members
    /// wait longer.
    pub(super) fn is_durable(&mut self, id: BlockId, from_member: bool, flushes: &Flushes) -> bool {
        if !self.blocks.contains_key(&id) && !self.make_room(from_member, flushes) {
            return false;
        }
        let known = self.blocks.entry(id).or_insert_with(|| Known {
            since: Instant::now(),
            of_member: from_member,
        });
        known.of_member |= from_member;
        let is_durable = flushes.covers(known.since);
        if is_durable {
            self.blocks.remove(&id);
        }
        is_durable
    }

    /// Whether there is room for one more.
    fn make_room(&mut self, for_member: bool, flushes: &Flushes) -> bool {
        if self.blocks.len() < MAX_BLOCKS {
            return true;
        }
        if for_member {
            self.blocks.retain(|_, known| known.of_member);
            if self.blocks.len() >= MAX_BLOCKS {
                self.blocks.clear();
            }
            return true;
        }
        let now = Instant::now();
        if self.tidied.is_none_or(|at| now >= at + TIDY_EVERY) {
            self.tidied = Some(now);
            // Nobody has asked about these again.
            self.blocks
                .retain(|_, known| known.of_member || !flushes.covers(known.since));
        }
        self.blocks.len() < MAX_BLOCKS
    }

    /// A block is durable, as is known otherwise.
    pub(super) fn forget(&mut self, id: &BlockId) {
        self.blocks.remove(id);
    }

    /// Whether no block waits for a flush.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::flushes::Flush;
    use super::*;
    use crate::store;

    #[derive(Clone)]
    struct Disk;

    impl Flush for Disk {
        fn is_durable(&self) -> bool {
            false
        }

        fn flush(&self) -> Result<(), store::Error> {
            Ok(())
        }
    }

    fn id(number: usize) -> BlockId {
        let mut digest = [0; 48];
        digest[..8].copy_from_slice(&number.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    async fn flush(flushes: &Flushes) {
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(flushes.flush(&Disk).await.expect("flushed"));
        tokio::time::advance(Duration::from_millis(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_strangers_delays_no_member() {
        let (flushes, mut unsure) = (Flushes::default(), Unsure::default());
        let mine = id(usize::MAX);
        assert!(!unsure.is_durable(mine, true, &flushes));
        for number in 0..2 * MAX_BLOCKS {
            assert!(!unsure.is_durable(id(number), false, &flushes));
            assert!(unsure.blocks.len() <= MAX_BLOCKS);
        }
        // A second one of a member takes the room of strangers.
        assert!(!unsure.is_durable(id(usize::MAX - 1), true, &flushes));
        assert_eq!(unsure.blocks.len(), 2);
        flush(&flushes).await;
        assert!(unsure.is_durable(mine, true, &flushes));
        assert!(unsure.is_durable(id(usize::MAX - 1), true, &flushes));
        assert!(unsure.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_get_room_again_after_a_flush() {
        let (flushes, mut unsure) = (Flushes::default(), Unsure::default());
        for number in 0..=MAX_BLOCKS {
            assert!(!unsure.is_durable(id(number), false, &flushes));
        }
        assert!(!unsure.blocks.contains_key(&id(MAX_BLOCKS)));
        flush(&flushes).await;
        tokio::time::advance(TIDY_EVERY).await;
        assert!(!unsure.is_durable(id(MAX_BLOCKS), false, &flushes));
        flush(&flushes).await;
        assert!(unsure.is_durable(id(MAX_BLOCKS), false, &flushes));
    }

    #[tokio::test(start_paused = true)]
    async fn members_alone_are_bounded_too() {
        let (flushes, mut unsure) = (Flushes::default(), Unsure::default());
        for number in 0..=MAX_BLOCKS {
            assert!(!unsure.is_durable(id(number), true, &flushes));
        }
        assert_eq!(unsure.blocks.len(), 1);
        unsure.forget(&id(MAX_BLOCKS));
        assert!(unsure.is_empty());
    }
}
