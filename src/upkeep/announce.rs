//! Tells the DHT which blocks are here.
//!
//! New blocks are collected for a moment and announced in one sweep; everything is announced again every
//! [`REPUBLISH`], well before the records' 48 hours are over. What could be told to nobody waits for the next peer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::AnnouncePolicy;
use crate::depot::{Depot, PendingBlocks};
use crate::id::BlockId;
use crate::task::WorkerState;

/// How often everything is announced again.
pub const REPUBLISH: Duration = Duration::from_secs(22 * 3600);
/// How long new blocks are collected before they are announced together.
const COLLECT: Duration = Duration::from_millis(500);
/// How long to wait for a first peer before looking again.
const LONELY: Duration = Duration::from_secs(2);
/// Keys in one sweep, which bounds its memory to a few MiB.
const MAX_SWEEP: usize = 10_000;

/// Runs until cancelled.
pub async fn run(
    depot: Depot,
    policy: AnnouncePolicy,
    cancel: CancellationToken,
    state: Arc<WorkerState>,
) {
    if policy == AnnouncePolicy::None {
        state.set("off: announcing is switched off in the settings");
        cancel.cancelled().await;
        return;
    }
    // What was stored in earlier runs: its records may have expired while this node was away.
    depot.fresh().add_everything();
    let mut republish_at = Instant::now() + REPUBLISH;
    loop {
        let round = async {
            tokio::select! {
                () = depot.fresh().changed() => tokio::time::sleep(COLLECT).await,
                () = tokio::time::sleep_until(republish_at) => {
                    republish_at = Instant::now() + REPUBLISH;
                    depot.fresh().add_everything();
                }
            }
            while depot.net().peers().connected().is_empty() {
                state.set("waiting for a first peer");
                tokio::time::sleep(LONELY).await;
            }
            if let Some(blocks) = depot.fresh().take() {
                announce(&depot, policy, blocks, &state).await;
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = round => {}
        }
    }
}

async fn announce(
    depot: &Depot,
    policy: AnnouncePolicy,
    blocks: PendingBlocks,
    state: &WorkerState,
) {
    let mut told = 0;
    let mut peers = 0;
    match (policy, blocks) {
        (AnnouncePolicy::All, PendingBlocks::Ids(ids)) => {
            for part in ids.chunks(MAX_SWEEP) {
                peers = sweep(depot, part, state).await.max(peers);
                told += part.len();
            }
        }
        (AnnouncePolicy::All, PendingBlocks::Everything) => {
            let mut after = None;
            loop {
                let page = page(depot, after).await;
                let Some(last) = page.last() else { break };
                after = Some(*last);
                peers = sweep(depot, &page, state).await.max(peers);
                told += page.len();
            }
        }
        (AnnouncePolicy::Roots, _) => {
            let store = depot.store().clone();
            let roots = tokio::task::spawn_blocking(move || store.pins()).await;
            let roots: Vec<BlockId> = match roots {
                Ok(Ok(pins)) => pins.iter().map(|(_, pin)| pin.root).collect(),
                _ => Vec::new(),
            };
            for part in roots.chunks(MAX_SWEEP) {
                peers = sweep(depot, part, state).await.max(peers);
                told += part.len();
            }
        }
        (AnnouncePolicy::None, _) => {}
    }
    if told > 0 {
        state.set(format!("announced {told} blocks to {peers} peers"));
    } else {
        state.set("nothing to announce");
    }
}

async fn page(depot: &Depot, after: Option<BlockId>) -> Vec<BlockId> {
    let store = depot.store().clone();
    match tokio::task::spawn_blocking(move || store.list(after, MAX_SWEEP)).await {
        Ok(Ok(page)) => page.into_iter().map(|(id, _)| id).collect(),
        _ => Vec::new(),
    }
}

async fn sweep(depot: &Depot, ids: &[BlockId], state: &WorkerState) -> usize {
    state.set(format!("announcing {} blocks", ids.len()));
    let keys = ids.iter().map(BlockId::to_multihash).collect();
    match depot.net().providers().announce(keys).await {
        Ok(report) => {
            tracing::debug!(keys = ids.len(), peers = report.peers_reached, "announced");
            report.peers_reached
        }
        Err(error) => {
            state.fail(error.to_string());
            0
        }
    }
}
