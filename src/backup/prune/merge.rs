//! The blocks of several pins, side by side: which of them nothing else keeps.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use super::PAGE;
use crate::backup::error::Error;
use crate::id::BlockId;
use crate::store::{PinId, Store};

/// Ids that are held while the blocks of several pins are gone through side by side.
const HELD_IDS: usize = 65_536;
/// Fewest ids of one pin that are read at once.
const MIN_PIN_PAGE: usize = 16;

/// Goes through the blocks of several pins side by side, in the order of their ids, and picks those that only these pins keep.
pub(super) struct Merge {
    store: Arc<dyn Store>,
    pins: Vec<Blocks>,
    pin_page: usize,
    /// The next block of each pin that has one.
    next: BinaryHeap<Reverse<(BlockId, usize)>>,
    has_begun: bool,
}

/// What is left of one pin's blocks.
struct Blocks {
    pin: PinId,
    page: std::vec::IntoIter<BlockId>,
    last: Option<BlockId>,
}

impl Merge {
    pub(super) fn new(store: Arc<dyn Store>, pins: &[PinId]) -> Self {
        let mut pins = pins.to_vec();
        pins.sort_unstable();
        pins.dedup();
        let blocks = |pin| Blocks {
            pin,
            page: Vec::new().into_iter(),
            last: None,
        };
        Self {
            store,
            pin_page: (HELD_IDS / pins.len().max(1)).clamp(MIN_PIN_PAGE, PAGE),
            pins: pins.into_iter().map(blocks).collect(),
            next: BinaryHeap::new(),
            has_begun: false,
        }
    }

    /// Puts the next block of a pin into the heap.
    fn advance(&mut self, at: usize) -> Result<(), Error> {
        let Some(blocks) = self.pins.get_mut(at) else {
            return Ok(());
        };
        if blocks.page.len() == 0 {
            let page = self
                .store
                .pin_blocks(blocks.pin, blocks.last, self.pin_page)?;
            blocks.page = page.into_iter();
        }
        if let Some(id) = blocks.page.next() {
            blocks.last = Some(id);
            self.next.push(Reverse((id, at)));
        }
        Ok(())
    }

    /// Those of some next blocks that only these pins keep, with their sizes. `None`: there were no blocks left.
    pub(super) fn page(&mut self) -> Result<Option<Vec<(BlockId, u32)>>, Error> {
        if !self.has_begun {
            self.has_begun = true;
            (0..self.pins.len()).try_for_each(|at| self.advance(at))?;
        }
        if self.next.is_empty() {
            return Ok(None);
        }
        let mut page = Vec::new();
        for _ in 0..PAGE {
            let Some(Reverse((id, at))) = self.next.pop() else {
                break;
            };
            self.advance(at)?;
            let mut pins = 1;
            while let Some(Reverse((other, at))) = self.next.peek().copied()
                && other == id
            {
                self.next.pop();
                self.advance(at)?;
                pins += 1;
            }
            if let Some(stat) = self.store.stat(id)?
                && stat.pins == pins
                && let Some(bytes) = stat.bytes
            {
                page.push((id, bytes));
            }
        }
        Ok(Some(page))
    }
}
