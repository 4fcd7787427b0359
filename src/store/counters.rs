//! Counting what happens to blocks: pure, and bounded in memory.
//!
//! A hot block is counted thousands of times a minute: events are added up in [`Pending`] and written together.

use std::collections::HashMap;

use super::types::{Counter, Event};
use crate::id::BlockId;
use crate::time::Timestamp;

/// Blocks whose counts wait in memory at most: about 1.5 MiB.
pub(super) const MAX_PENDING: usize = 4096;

impl Counter {
    /// Counts one more, at `now`.
    pub(super) fn add(&mut self, now: Timestamp) {
        self.merge(&Self {
            first: Some(now),
            last: Some(now),
            count: 1,
        });
    }

    /// Adds what was counted elsewhere.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.first = match (self.first, other.first) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        self.last = self.last.max(other.last);
        self.count = self.count.saturating_add(other.count);
    }
}

/// All that is counted about one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub requested: Counter,
    pub downloaded: Counter,
    pub served: Counter,
    pub purged: Counter,
}

impl Counters {
    pub fn add(&mut self, event: Event, now: Timestamp) {
        match event {
            Event::Requested => self.requested.add(now),
            Event::Downloaded => self.downloaded.add(now),
            Event::Served => self.served.add(now),
        }
    }

    pub fn merge(&mut self, other: &Self) {
        self.requested.merge(&other.requested);
        self.downloaded.merge(&other.downloaded);
        self.served.merge(&other.served);
        self.purged.merge(&other.purged);
    }
}

/// Counts that are not written yet.
#[derive(Debug, Default)]
pub(super) struct Pending(HashMap<BlockId, Counters>);

impl Pending {
    /// Counts an event. Returns `false`, having counted nothing, when there is no room for another block.
    #[must_use]
    pub fn add(&mut self, id: BlockId, event: Event, now: Timestamp) -> bool {
        if self.0.len() >= MAX_PENDING && !self.0.contains_key(&id) {
            return false;
        }
        self.0.entry(id).or_default().add(event, now);
        true
    }

    /// What waits for one block.
    pub fn get(&self, id: &BlockId) -> Option<&Counters> {
        self.0.get(id)
    }

    /// Takes everything.
    pub fn take(&mut self) -> HashMap<BlockId, Counters> {
        std::mem::take(&mut self.0)
    }

    /// Puts back what could not be written, as far as there is room.
    pub fn restore(&mut self, taken: HashMap<BlockId, Counters>) {
        for (id, counters) in taken {
            if self.0.len() < MAX_PENDING || self.0.contains_key(&id) {
                self.0.entry(id).or_default().merge(&counters);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u32) -> BlockId {
        let mut digest = [0; 48];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    proptest! {
        /// However events are split over batches, the sums are the same.
        #[test]
        fn merging_is_counting(times in proptest::collection::vec(0u64..1000, 0..40), split in 0usize..40) {
            let mut all = Counter::default();
            times.iter().for_each(|t| all.add(Timestamp(*t)));
            let (head, tail) = times.split_at(split.min(times.len()));
            let (mut a, mut b) = (Counter::default(), Counter::default());
            head.iter().for_each(|t| a.add(Timestamp(*t)));
            tail.iter().for_each(|t| b.add(Timestamp(*t)));
            a.merge(&b);
            prop_assert_eq!(a, all);
            prop_assert_eq!(all.count, times.len() as u64);
            prop_assert_eq!(all.first, times.iter().min().map(|t| Timestamp(*t)));
            prop_assert_eq!(all.last, times.iter().max().map(|t| Timestamp(*t)));
        }
    }

    #[test]
    fn pending_is_bounded() {
        let mut pending = Pending::default();
        for number in 0..MAX_PENDING as u32 {
            assert!(pending.add(id(number), Event::Served, Timestamp(1)));
        }
        assert!(!pending.add(id(u32::MAX), Event::Served, Timestamp(1)));
        assert!(
            pending.add(id(0), Event::Requested, Timestamp(2)),
            "a block that waits already is counted on"
        );
        let taken = pending.take();
        assert_eq!(taken.len(), MAX_PENDING);
        assert!(pending.add(id(u32::MAX), Event::Served, Timestamp(3)));
        pending.restore(taken);
        assert_eq!(
            pending.take().len(),
            MAX_PENDING,
            "restoring keeps the bound"
        );
    }
}
