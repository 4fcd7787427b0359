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

/// How long a member may take to offer a block again before strangers may have its room.
const MEMBERS_TIME: Duration = Duration::from_secs(300);

/// Since when each of them is known to be here.
#[derive(Default)]
pub(super) struct Unsure {
    blocks: HashMap<BlockId, Known>,
    tidied: Option<Instant>,
}

struct Known {
    since: Instant,
    /// Whether a member of a ring of ours offered it.
    is_members: bool,
}

impl Unsure {
    /// Whether a block that is here is durable: a flush has begun since it was first offered. What strangers offer never makes members
    /// wait longer.
    pub(super) fn is_durable(&mut self, id: BlockId, is_member: bool, flushes: &Flushes) -> bool {
        if !self.blocks.contains_key(&id) && !self.make_room(is_member, flushes) {
            return false;
        }
        let known = self.blocks.entry(id).or_insert_with(|| Known {
            since: Instant::now(),
            is_members: is_member,
        });
        known.is_members |= is_member;
        let is_durable = flushes.covers(known.since);
        // A stranger's question is not the one that a member is going to ask.
        if is_durable && (is_member || !known.is_members) {
            self.blocks.remove(&id);
        }
        is_durable
    }

    /// Whether there is room for one more.
    fn make_room(&mut self, is_member: bool, flushes: &Flushes) -> bool {
        if self.blocks.len() < MAX_BLOCKS {
            return true;
        }
        let waits = |known: &Known| !flushes.covers(known.since);
        if is_member {
            self.blocks
                .retain(|_, known| known.is_members && waits(known));
            if self.blocks.len() >= MAX_BLOCKS {
                self.blocks.clear();
            }
            return true;
        }
        let now = Instant::now();
        if self.tidied.is_none_or(|at| now >= at + TIDY_EVERY) {
            self.tidied = Some(now);
            // Nobody has asked about these again; members may still do.
            let is_late = |known: &Known| now >= known.since + MEMBERS_TIME;
            self.blocks
                .retain(|_, known| waits(known) || (known.is_members && !is_late(known)));
        }
        self.blocks.len() < MAX_BLOCKS
    }

    /// A block is durable, as is known otherwise, or is not here.
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
    async fn a_strangers_question_does_not_take_a_members_answer() {
        let (flushes, mut unsure) = (Flushes::default(), Unsure::default());
        assert!(!unsure.is_durable(id(1), true, &flushes));
        flush(&flushes).await;
        assert!(unsure.is_durable(id(1), false, &flushes));
        assert!(unsure.is_durable(id(1), true, &flushes));
        assert!(unsure.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_members_forgot_makes_room_in_the_end() {
        let (flushes, mut unsure) = (Flushes::default(), Unsure::default());
        for number in 0..MAX_BLOCKS {
            assert!(!unsure.is_durable(id(number), true, &flushes));
        }
        flush(&flushes).await;
        assert!(!unsure.is_durable(id(MAX_BLOCKS), false, &flushes));
        assert!(!unsure.blocks.contains_key(&id(MAX_BLOCKS)));
        tokio::time::advance(MEMBERS_TIME).await;
        assert!(!unsure.is_durable(id(MAX_BLOCKS), false, &flushes));
        assert_eq!(unsure.blocks.len(), 1);
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
