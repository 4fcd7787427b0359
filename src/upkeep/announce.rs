//! Tells the DHT which blocks are here.
//!
//! New blocks are collected for a moment and announced in one sweep; everything is announced again every
//! [`REPUBLISH`], well before the records' 48 hours are over. What could be told to nobody waits for the next peer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::heads::{MAX_PINNED_LOGS, is_head_pin, leased_logs};
use crate::config::AnnouncePolicy;
use crate::depot::{Depot, PendingBlocks};
use crate::id::BlockId;
use crate::store::{self, Store};
use crate::task::WorkerState;
use crate::text::count;

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
            // Who leaves announces only what is its own.
            let policy = match policy {
                AnnouncePolicy::All if depot.is_leaving() => AnnouncePolicy::Roots,
                policy => policy,
            };
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
            let (store, is_leaving) = (depot.store().clone(), depot.is_leaving());
            let roots = tokio::task::spawn_blocking(move || -> Result<_, store::Error> {
                let mut roots = roots(store.as_ref())?;
                if !is_leaving {
                    // Logs of those whose backups are kept here.
                    roots.extend(leased_logs(store.as_ref())?);
                }
                Ok(roots)
            });
            let roots = match roots.await {
                Ok(Ok(roots)) => roots,
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
        state.set(format!(
            "announced {} to {}",
            count(told as u64, "block"),
            count(peers as u64, "peer")
        ));
    } else {
        state.set("nothing to announce");
    }
}

/// What there is to start from: the roots of pinned bundles, and the logs that heads name.
fn roots(store: &dyn Store) -> Result<Vec<BlockId>, store::Error> {
    let mut roots = Vec::new();
    for (pin, info) in store.pins()? {
        if is_head_pin(&info) {
            roots.extend(store.pin_blocks(pin, None, MAX_PINNED_LOGS)?);
        } else {
            roots.push(info.root);
        }
    }
    Ok(roots)
}

async fn page(depot: &Depot, after: Option<BlockId>) -> Vec<BlockId> {
    let store = depot.store().clone();
    match tokio::task::spawn_blocking(move || store.list(after, MAX_SWEEP)).await {
        Ok(Ok(page)) => page.into_iter().map(|(id, _)| id).collect(),
        _ => Vec::new(),
    }
}

async fn sweep(depot: &Depot, ids: &[BlockId], state: &WorkerState) -> usize {
    state.set(format!("announcing {}", count(ids.len() as u64, "block")));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::store::{Keep, MemoryStore, PinInfo, StoreOptions};
    use crate::time::Timestamp;
    use crate::upkeep::heads::pin_name;

    #[test]
    fn the_logs_of_heads_are_roots_and_their_keys_are_not() {
        let store = MemoryStore::new(StoreOptions::default());
        let block = |n: u8| Block::new(vec![n; 10].into()).expect("a block");
        let (bundle, log) = (block(1), block(2));
        let head = BlockId::from_sha384([3; 48]);
        for (block, root, name) in [
            (&bundle, bundle.id(), "notes".to_owned()),
            (&log, head, pin_name(&head)),
        ] {
            let pin = store.begin_pin(&name).expect("room");
            let kept = store.put(std::slice::from_ref(block), Keep::Pinned(pin));
            kept.expect("room");
            let info = PinInfo {
                root,
                link: None,
                name,
                bytes: 10,
                files: 0,
                blocks: 1,
                created: Timestamp(1),
            };
            store.finish_pin(pin, &info).expect("room");
        }
        let roots = roots(&store).expect("readable");
        assert_eq!(roots, [bundle.id(), log.id()]);
    }
}
