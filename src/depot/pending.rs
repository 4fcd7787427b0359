//! Ids of blocks that wait for a background job: new ones for the announcer, damaged ones for the healer.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::id::BlockId;

/// Most ids that are remembered one by one, about 6 MiB; with more, everything in the store counts.
const MAX_PENDING: usize = 100_000;

/// A bounded set of ids, filled by whoever handles blocks and emptied by one background job.
#[derive(Debug, Default)]
pub struct Pending {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ids: HashSet<BlockId>,
    everything: bool,
}

/// What waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PendingBlocks {
    /// These.
    Ids(Vec<BlockId>),
    /// Too many to remember: everything in the store.
    Everything,
}

impl Pending {
    /// Adds ids.
    pub fn add(&self, ids: impl IntoIterator<Item = BlockId>) {
        {
            let mut state = self.lock();
            if !state.everything {
                state.ids.extend(ids);
                if state.ids.len() > MAX_PENDING {
                    state.ids = HashSet::new();
                    state.everything = true;
                }
            }
        }
        self.changed.notify_one();
    }

    /// Makes everything in the store wait.
    pub fn add_everything(&self) {
        *self.lock() = State {
            ids: HashSet::new(),
            everything: true,
        };
        self.changed.notify_one();
    }

    /// Takes what waits, sorted; nothing when nothing does.
    pub fn take(&self) -> Option<PendingBlocks> {
        let state = std::mem::take(&mut *self.lock());
        if state.everything {
            return Some(PendingBlocks::Everything);
        }
        let mut ids: Vec<BlockId> = state.ids.into_iter().collect();
        ids.sort_unstable();
        (!ids.is_empty()).then_some(PendingBlocks::Ids(ids))
    }

    /// Returns when something was added since the last call returned.
    ///
    /// # Cancel safety
    /// Nothing is lost when dropped.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The set is whole at every moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u32) -> BlockId {
        let mut digest = [0; 48];
        digest[..4].copy_from_slice(&number.to_be_bytes());
        BlockId::from_sha384(digest)
    }

    #[test]
    fn gives_back_each_id_once() {
        let pending = Pending::default();
        assert_eq!(pending.take(), None);
        pending.add([id(2), id(1), id(2)]);
        assert_eq!(pending.take(), Some(PendingBlocks::Ids(vec![id(1), id(2)])));
        assert_eq!(pending.take(), None);
    }

    #[test]
    fn stays_within_its_bound() {
        let pending = Pending::default();
        pending.add((0..MAX_PENDING as u32).map(id));
        pending.add([id(0)]);
        assert!(
            matches!(pending.take(), Some(PendingBlocks::Ids(ids)) if ids.len() == MAX_PENDING)
        );
        pending.add((0..=MAX_PENDING as u32).map(id));
        pending.add([id(1)]);
        assert_eq!(pending.take(), Some(PendingBlocks::Everything));
        assert_eq!(pending.take(), None);
    }
}
