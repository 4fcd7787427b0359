//! The blocks that a node which leaves deals with, page by page.

use super::policy::Stage;
use crate::id::BlockId;
use crate::store::{self, Class, LeaseId, Store};

/// Blocks that are listed together, and about as many are dealt with at a time.
pub(super) const PAGE: usize = 512;

/// Some blocks.
pub(super) struct Page {
    /// The id to go on after.
    pub(super) last: BlockId,
    pub(super) blocks: Vec<(BlockId, u32)>,
    /// How many are listed besides, and are not here.
    pub(super) absent: u64,
}

/// Which blocks.
#[derive(Clone, Copy)]
pub(super) enum Source {
    /// Those of a lease that are here.
    Lease(LeaseId),
    /// All that are only cached.
    Cached,
}

impl Source {
    pub(super) fn page(
        self,
        store: &dyn Store,
        after: Option<BlockId>,
    ) -> Result<Option<Page>, store::Error> {
        match self {
            Self::Lease(lease) => leased(store, lease, after),
            Self::Cached => of_classes(store, after, &[Class::Cached]),
        }
    }

    /// Owners count copies: that somebody announced a block of theirs is no reason not to offer this one.
    pub(super) const fn first_stage(self) -> Stage {
        match self {
            Self::Lease(_) => Stage::Alone,
            Self::Cached => Stage::Unsought,
        }
    }
}

fn leased(
    store: &dyn Store,
    lease: LeaseId,
    after: Option<BlockId>,
) -> Result<Option<Page>, store::Error> {
    let ids = store.lease_blocks(lease, after, PAGE)?;
    let Some(last) = ids.last().copied() else {
        return Ok(None);
    };
    let (mut blocks, mut absent) = (Vec::new(), 0);
    for id in ids {
        match store.stat(id)?.and_then(|stat| stat.bytes) {
            Some(bytes) => blocks.push((id, bytes)),
            None => absent += 1,
        }
    }
    Ok(Some(Page {
        last,
        blocks,
        absent,
    }))
}

pub(super) fn of_classes(
    store: &dyn Store,
    after: Option<BlockId>,
    classes: &[Class],
) -> Result<Option<Page>, store::Error> {
    let blocks = store.list(after, PAGE)?;
    let Some((last, _)) = blocks.last().copied() else {
        return Ok(None);
    };
    let mut fitting = Vec::new();
    for (id, bytes) in blocks {
        let class = store.stat(id)?.and_then(|stat| stat.class);
        if class.is_some_and(|class| classes.contains(&class)) {
            fitting.push((id, bytes));
        }
    }
    Ok(Some(Page {
        last,
        blocks: fitting,
        absent: 0,
    }))
}
