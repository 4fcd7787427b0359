//! Sees to it that a block which is about to go is elsewhere: before eviction, and when this node leaves.
//!
//! When the store is nearly full the blocks that eviction would take next are looked up in the DHT; who announced one is asked for it. What nobody else
//! has is offered to the connected peers nearest to its id, which fetch it from here. What is found elsewhere is marked in the store, and
//! eviction takes it first. When room is needed at once eviction does not wait: the store counts what went without another copy known.
//!
//! A peer that says it has blocks must show one of them, chosen by chance, and its bytes are checked. That finds who has nothing, not who has
//! a part, nor who fetches it from somebody else in that moment, nor who drops it afterwards: a copy that was handed over is as good as the
//! peer that took it. Copies of backups are counted and audited by their owners; this is for what has no owner here.
//!
//! What to do is decided by [`policy`], which is pure. Deliberately absent: who takes what it is offered (the holder's job), and eviction itself.

pub mod policy;

mod alone;
mod leave;
mod left;
mod pages;
mod work;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use self::policy::{Entry, Stage, Table};
use self::work::Worker;
use super::holder::Candidates;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::store::{self, Usage};
use crate::task::WorkerState;
use crate::text::count;
use crate::time::Clock;

pub use alone::{Alone, only_here};
pub use leave::{Order, leave};
pub use left::Left;
pub use policy::Limits;

/// The store is nearly full from this part on of what makes it evict, in percent.
const WATERMARK_PERCENT: u64 = 90;
/// Blocks are found places for until this part of the store could go, and at most so many bytes.
const AHEAD_SHARE: u64 = 16;
const MAX_AHEAD_BYTES: u64 = 1 << 30;
/// Blocks that are looked after at the same time.
const BATCH: usize = 256;

/// What the job works with.
pub struct Setup {
    /// Store and network.
    pub depot: Depot,
    /// A clock that only goes on.
    pub clock: Arc<dyn Clock>,
    /// Who can be offered blocks.
    pub receivers: Arc<dyn Candidates>,
    /// Limits.
    pub limits: Limits,
}

/// Runs until cancelled.
pub async fn run(setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    let worker = Worker {
        local: Some(setup.depot.net().peer_id()),
        depot: setup.depot,
        clock: setup.clock,
        limits: setup.limits,
    };
    let work = async {
        let mut table = Table::new();
        loop {
            let is_busy = match look(&worker, &*setup.receivers, &mut table, &state).await {
                Ok(is_busy) => is_busy,
                Err(error) => {
                    state.fail(error.to_string());
                    false
                }
            };
            let limits = &worker.limits;
            tokio::time::sleep(if is_busy { limits.rest } else { limits.every }).await;
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// Whether eviction is near and too little is known to be elsewhere.
fn is_due(usage: &Usage) -> bool {
    let is_near = usage.disk_bytes >= usage.evicts_at_bytes / 100 * WATERMARK_PERCENT;
    let ahead = (usage.evicts_at_bytes / AHEAD_SHARE).min(MAX_AHEAD_BYTES);
    is_near && usage.expendable_bytes < ahead.min(usage.cached_bytes)
}

/// One round. Returns whether to look again soon.
async fn look(
    worker: &Worker,
    receivers: &dyn Candidates,
    table: &mut Table,
    state: &WorkerState,
) -> Result<bool, store::Error> {
    let store = worker.depot.store().clone();
    if worker.depot.is_leaving() {
        state.set("off: this node is leaving");
        return Ok(false);
    }
    if !is_due(&store.usage()) {
        table.clear();
        state.set("nothing is about to go");
        return Ok(false);
    }
    let candidates = on_worker(move || store.coldest(BATCH)).await?;
    let here: BTreeSet<BlockId> = candidates.iter().map(|(id, _)| *id).collect();
    table.retain(|id, _| here.contains(id));
    for (id, bytes) in candidates {
        let new = || Entry::new(bytes, Stage::Unsought);
        table.entry(id).or_insert_with(new);
    }
    worker.round(table, receivers).await;
    let safe: Vec<BlockId> = table
        .iter()
        .filter(|(_, entry)| matches!(entry.stage, Stage::Safe { .. }))
        .map(|(id, _)| *id)
        .collect();
    table.retain(|_, entry| !matches!(entry.stage, Stage::Safe { .. }));
    let is_open = !safe.is_empty() || table.values().any(|entry| entry.stage.is_open());
    if !safe.is_empty() {
        let store = worker.depot.store().clone();
        on_worker(move || store.mark_expendable(&safe)).await?;
    }
    let stuck = table.values().filter(|entry| !entry.stage.is_open());
    let blocks = count(table.len() as u64, "block");
    state.set(match stuck.count() {
        0 => format!("{blocks} may go soon: looking for other copies"),
        stuck => format!("{blocks} may go soon, and nobody takes {stuck} of them"),
    });
    Ok(is_open)
}

async fn on_worker<T: Default + Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, store::Error> {
    // Only a node that is going down loses its worker threads; then nothing is left to do.
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Ok(T::default()))
}

#[cfg(test)]
#[path = "handover/tests.rs"]
mod tests;
