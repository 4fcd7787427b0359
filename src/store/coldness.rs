//! Which cached blocks are cold, and in what order they go: pure, shared by all stores.
//!
//! Eviction walks through the cached blocks in the order in which they came, lap by lap, like the hand of a clock: a cold block goes, one that was
//! asked for often or lately ([`is_warm`]) is passed by and has its next turn after all others of this lap. What comes meanwhile belongs to the
//! next lap. Where the hand stands is not stored: after a restart it starts with the oldest. What is known to be elsewhere too ([`Marks`]) goes before everything else.
//!
//! Invariant: a walk ends. It passes by at most [`MAX_SECOND_CHANCES`] blocks, and by none after it has seen all of them.
//!
//! Deliberately absent: where copies are; whoever marks blocks finds that out.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::types::Counter;
use crate::id::BlockId;
use crate::time::Timestamp;

/// Requests from which on a block can be warm. A block that is read once, as one that passes through, is not.
const MIN_REQUESTS: u64 = 2;
/// How long each request keeps a block warm, counted from the last one.
const WARM_PER_REQUEST: Duration = Duration::from_secs(3600);
/// How long any number of requests does: what was popular once is not popular for ever.
const MAX_WARM: Duration = Duration::from_secs(7 * 24 * 3600);
/// What was asked for later than this from now was counted by a clock that was set wrong.
const MAX_AHEAD: Duration = Duration::from_secs(5 * 60);
/// Warm blocks that one eviction passes by at most: bounds what it reads, and that it ends.
pub(super) const MAX_SECOND_CHANCES: usize = 1024;
/// Blocks that are marked at the same time at most: about 2 MiB.
pub const MAX_EXPENDABLE: usize = 16_384;
/// How long it counts that a copy was seen elsewhere.
const MARK_LASTS: Duration = Duration::from_secs(24 * 3600);

/// Whether a block was asked for often or lately enough to stay when others can go.
pub(super) fn is_warm(requested: &Counter, now: Timestamp) -> bool {
    let Some(last) = requested.last else {
        return false;
    };
    if requested.count < MIN_REQUESTS {
        return false;
    }
    // Or else it would stay warm until the clock has caught up, and for its time on top of that.
    if last > now.after(MAX_AHEAD) {
        return false;
    }
    let requests = u32::try_from(requested.count).unwrap_or(u32::MAX);
    now.since(last) < WARM_PER_REQUEST.saturating_mul(requests).min(MAX_WARM)
}

/// The second chances of one eviction.
#[derive(Debug)]
pub(super) struct Chances {
    left: usize,
    /// How often the walk has come to the end.
    ends: usize,
}

impl Chances {
    pub fn new() -> Self {
        Self {
            left: MAX_SECOND_CHANCES,
            ends: 0,
        }
    }

    /// Whether a block has another turn later.
    pub fn spares(&mut self, requested: &Counter, now: Timestamp) -> bool {
        let spares = self.left > 0 && self.ends < 2 && is_warm(requested, now);
        self.left -= usize::from(spares);
        spares
    }

    /// The walk came to the end. Returns whether it starts over: what is left then was passed by, at the latest the third time nothing is.
    pub fn start_over(&mut self) -> bool {
        self.ends += 1;
        self.ends <= 2
    }
}

/// Blocks of which a copy was seen elsewhere, lately: eviction takes them first. In memory only, and bounded.
#[derive(Debug, Default)]
pub(super) struct Marks {
    marks: HashMap<BlockId, (Timestamp, u32)>,
    /// Those that were marked first go first. May name some that are not marked any more.
    order: VecDeque<(BlockId, Timestamp)>,
    bytes: u64,
}

impl Marks {
    /// Marks a block. Returns `false`, having done nothing, when there are too many.
    pub fn add(&mut self, id: BlockId, bytes: u32, now: Timestamp) -> bool {
        self.trim(now);
        if self.order.len() >= MAX_EXPENDABLE {
            return false;
        }
        if let Some((_, old)) = self.marks.insert(id, (now, bytes)) {
            self.bytes -= u64::from(old);
        }
        self.bytes += u64::from(bytes);
        self.order.push_back((id, now));
        true
    }

    pub fn contains(&self, id: &BlockId) -> bool {
        self.marks.contains_key(id)
    }

    /// Bytes of the marked blocks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the mark off a block. Returns whether it had one.
    pub fn remove(&mut self, id: &BlockId) -> bool {
        let Some((_, bytes)) = self.marks.remove(id) else {
            return false;
        };
        self.bytes -= u64::from(bytes);
        true
    }

    /// Takes the block that was marked first.
    pub fn pop(&mut self, now: Timestamp) -> Option<BlockId> {
        self.trim(now);
        let (id, _) = self.order.pop_front()?;
        self.remove(&id);
        Some(id)
    }

    /// Drops marks that are too old from the front, and what stands there without its mark.
    fn trim(&mut self, now: Timestamp) {
        while let Some((id, at)) = self.order.front().copied() {
            let is_marked = self.marks.get(&id).is_some_and(|(since, _)| *since == at);
            let is_fresh = now.since(at) < MARK_LASTS;
            if is_marked && is_fresh {
                return;
            }
            if is_marked {
                self.remove(&id);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(count: u64, last: u64) -> Counter {
        Counter {
            first: Some(Timestamp(0)),
            last: Some(Timestamp(last)),
            count,
        }
    }

    fn id(number: u8) -> BlockId {
        BlockId::from_sha384([number; 48])
    }

    fn at(duration: Duration) -> Timestamp {
        Timestamp(0).after(duration)
    }

    #[test]
    fn warmth_ends() {
        assert!(!is_warm(&Counter::default(), Timestamp(0)));
        assert!(!is_warm(&asked(MIN_REQUESTS - 1, 0), Timestamp(0)));
        let twice = 2 * WARM_PER_REQUEST;
        assert!(is_warm(&asked(2, 0), Timestamp(at(twice).0 - 1)));
        assert!(!is_warm(&asked(2, 0), at(twice)));
        assert!(is_warm(&asked(u64::MAX, 0), Timestamp(at(MAX_WARM).0 - 1)));
        assert!(!is_warm(&asked(u64::MAX, 0), at(MAX_WARM)));
    }

    #[test]
    fn what_a_clock_that_was_wrong_counted_is_not_warm_for_ever() {
        let ahead = MAX_AHEAD.as_millis() as u64;
        assert!(is_warm(&asked(9, ahead), Timestamp(0)));
        assert!(!is_warm(&asked(9, ahead + 1), Timestamp(0)));
    }

    #[test]
    fn chances_are_bounded() {
        let mut chances = Chances::new();
        for _ in 0..MAX_SECOND_CHANCES {
            assert!(chances.spares(&asked(9, 0), Timestamp(0)));
        }
        assert!(!chances.spares(&asked(9, 0), Timestamp(0)));
        let mut chances = Chances::new();
        assert!(chances.start_over() && chances.start_over());
        assert!(!chances.spares(&asked(9, 0), Timestamp(0)));
        assert!(!chances.start_over());
    }

    #[test]
    fn marks_are_bounded_and_end() {
        let mut marks = Marks::default();
        let number = |n: usize| {
            let mut digest = [0; 48];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            BlockId::from_sha384(digest)
        };
        for n in 0..MAX_EXPENDABLE {
            assert!(marks.add(number(n), 3, Timestamp(1)));
        }
        assert!(!marks.add(id(255), 3, Timestamp(1)));
        assert_eq!(marks.bytes(), 3 * MAX_EXPENDABLE as u64);
        assert_eq!(marks.pop(Timestamp(1)), Some(number(0)));
        assert!(!marks.contains(&number(0)));
        assert!(marks.add(id(255), 5, Timestamp(1)));
        assert_eq!(marks.pop(Timestamp(1).after(MARK_LASTS)), None);
        assert_eq!(marks.bytes(), 0);
    }

    proptest! {
        /// Whatever is marked, unmarked and taken: the sum is that of what is marked, and each comes out at most once.
        #[test]
        fn marks_add_up(steps in proptest::collection::vec((0u8..3, 0u8..6, 1u32..100), 0..60)) {
            let (mut marks, mut model) = (Marks::default(), HashMap::new());
            for (time, (step, number, bytes)) in steps.into_iter().enumerate() {
                let now = Timestamp(time as u64);
                match step {
                    0 => {
                        prop_assert!(marks.add(id(number), bytes, now));
                        model.insert(id(number), bytes);
                    }
                    1 => prop_assert_eq!(marks.remove(&id(number)), model.remove(&id(number)).is_some()),
                    _ => match marks.pop(now) {
                        Some(taken) => prop_assert!(model.remove(&taken).is_some()),
                        None => prop_assert!(model.is_empty()),
                    },
                }
                prop_assert_eq!(marks.bytes(), model.values().map(|b| u64::from(*b)).sum::<u64>());
            }
        }
    }
}
