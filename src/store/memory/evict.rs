//! Which cached block goes next: the walk that [`coldness`](crate::store::coldness) describes.

use super::State;
use crate::id::BlockId;
use crate::store::coldness::{Chances, is_warm};
use crate::store::types::{Class, Counter};
use crate::time::Timestamp;

impl State {
    /// The block that is evicted next, and whether a copy is known elsewhere.
    pub(super) fn next_to_go(
        &mut self,
        chances: &mut Chances,
        now: Timestamp,
    ) -> Option<(BlockId, bool)> {
        while let Some(id) = self.marks.pop(now) {
            if self.is_cached(&id) && !is_warm(&self.requested(&id), now) {
                return Some((id, true));
            }
        }
        loop {
            let lap = self.hand..self.lap_end.max(self.hand);
            let Some((arrival, id)) = self.cached.range(lap).next() else {
                if self.cached.is_empty() || !chances.start_over() {
                    return None;
                }
                (self.hand, self.lap_end) = (0, self.next_number + 1);
                continue;
            };
            self.hand = arrival + 1;
            let id = *id;
            if !chances.spares(&self.requested(&id), now) {
                return Some((id, self.marks.remove(&id)));
            }
        }
    }

    pub(super) fn coldest(&self, limit: usize, now: Timestamp) -> Vec<(BlockId, u32)> {
        let lap_end = self.lap_end.max(self.hand);
        // The rest of this lap, then the next one.
        let lap = self.cached.range(self.hand..lap_end);
        let passed = self.cached.range(..self.hand);
        let next = passed.chain(self.cached.range(lap_end..));
        lap.chain(next)
            .filter(|(_, id)| !self.marks.contains(id) && !is_warm(&self.requested(id), now))
            .filter_map(|(_, id)| Some((*id, self.blocks.get(id)?.bytes.len() as u32)))
            .take(limit)
            .collect()
    }

    /// Marks those of these blocks that are cached. Returns how many were.
    pub(super) fn mark(&mut self, ids: &[BlockId], now: Timestamp) -> usize {
        let mut marked = 0;
        for id in ids {
            if !self.is_cached(id) {
                continue;
            }
            if let Some(entry) = self.blocks.get(id) {
                marked += usize::from(self.marks.add(*id, entry.bytes.len() as u32, now));
            }
        }
        marked
    }

    fn requested(&self, id: &BlockId) -> Counter {
        let counters = self.counters.get(id);
        counters.map_or_else(Counter::default, |counters| counters.requested)
    }

    fn is_cached(&self, id: &BlockId) -> bool {
        self.blocks.contains_key(id) && self.class(id) == Class::Cached
    }
}
