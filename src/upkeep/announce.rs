//! Tells the DHT which blocks are here.
//!
//! New blocks are collected for a moment and announced in one sweep; everything is announced again
//! every [`REPUBLISH`], well before the records' 48 hours are over, and soon after this node's
//! addresses change: the records carry them. Blocks that nobody could be told of are announced
//! again, with pauses that grow.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::Multiaddr;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::heads::{MAX_PINNED_LOGS, is_head_pin, leased_logs};
use crate::config::AnnouncePolicy;
use crate::depot::{Depot, Pending, PendingBlocks};
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
/// Pause between a change of addresses and announcing them: others may follow.
const SETTLE: Duration = Duration::from_secs(1);
/// First and longest pause before what could be told to nobody is announced again.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(10);
pub(super) const LONGEST_RETRY: Duration = Duration::from_secs(30 * 60);
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
    let mut retry = Retry::default();
    let mut moves = Moves::new(depot.net().watch_listening());
    loop {
        let round = async {
            tokio::select! {
                () = depot.fresh().changed() => tokio::time::sleep(COLLECT).await,
                () = tokio::time::sleep_until(republish_at) => {
                    republish_at = Instant::now() + REPUBLISH;
                    depot.fresh().add_everything();
                }
                () = moves.moved() => depot.fresh().add_everything(),
                () = retry.due() => match retry.missed.take() {
                    Some(PendingBlocks::Ids(ids)) => depot.fresh().add(ids),
                    Some(PendingBlocks::Everything) => depot.fresh().add_everything(),
                    None => {}
                },
            }
            while depot.net().peers().connected().is_empty() {
                state.set("waiting for a first peer");
                tokio::time::sleep(LONELY).await;
            }
            // A node that leaves announces only what is its own.
            let policy = match policy {
                AnnouncePolicy::All if depot.is_leaving() => AnnouncePolicy::Roots,
                policy => policy,
            };
            if let Some(blocks) = depot.fresh().take() {
                let unreached = announce(&depot, policy, blocks, &retry.missed, &state).await;
                retry.ended(unreached);
            }
        };
        tokio::select! {
            () = cancel.cancelled() => return,
            () = round => {}
        }
    }
}

/// Blocks to announce again because nobody could be told of them, and when.
#[derive(Debug, Default)]
struct Retry {
    missed: Pending,
    attempts: u32,
    at: Option<Instant>,
}

impl Retry {
    /// A round has ended, in which nobody could be told of so many blocks.
    fn ended(&mut self, unreached: usize) {
        if unreached > 0 {
            let pause = FIRST_RETRY.saturating_mul(1 << self.attempts.min(16));
            self.attempts = self.attempts.saturating_add(1);
            self.at = Some(Instant::now() + pause.min(LONGEST_RETRY));
        } else if self.at.is_none() {
            self.attempts = 0;
        }
    }

    /// Resolves when it is time; never when nothing was missed.
    async fn due(&mut self) {
        match self.at {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.at = None;
    }
}

/// Notices that this node's addresses have changed.
pub(super) struct Moves {
    listening: watch::Receiver<Vec<Multiaddr>>,
    known: HashSet<Multiaddr>,
}

impl Moves {
    pub(super) fn new(listening: watch::Receiver<Vec<Multiaddr>>) -> Self {
        let known = listening.borrow().iter().cloned().collect();
        Self { listening, known }
    }

    /// Resolves when there are addresses that were not there before, and no others have come for a
    /// moment.
    ///
    /// # Cancel safety
    /// A change is not lost: the next call tells of it.
    pub(super) async fn moved(&mut self) {
        loop {
            if self.listening.changed().await.is_err() {
                return std::future::pending().await;
            }
            self.listening.mark_changed();
            tokio::time::sleep(SETTLE).await;
            let now: HashSet<_> = self.listening.borrow_and_update().iter().cloned().collect();
            let has_new = !now.is_subset(&self.known);
            // An address that comes back later is new again.
            self.known = now;
            if has_new {
                return;
            }
        }
    }
}

/// Announces some blocks; how many could be told to nobody.
async fn announce(
    depot: &Depot,
    policy: AnnouncePolicy,
    blocks: PendingBlocks,
    missed: &Pending,
    state: &WorkerState,
) -> usize {
    let mut told = 0;
    let mut reach = Reach::default();
    match (policy, blocks) {
        (AnnouncePolicy::All, PendingBlocks::Ids(ids)) => {
            for part in ids.chunks(MAX_SWEEP) {
                reach.add(sweep(depot, part, missed, state).await);
                told += part.len();
            }
        }
        (AnnouncePolicy::All, PendingBlocks::Everything) => {
            let mut after = None;
            loop {
                let page = page(depot, after).await;
                let Some(last) = page.last() else { break };
                after = Some(*last);
                reach.add(sweep(depot, &page, missed, state).await);
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
                reach.add(sweep(depot, part, missed, state).await);
                told += part.len();
            }
        }
        (AnnouncePolicy::None, _) => {}
    }
    let (peers, unreached) = (reach.peers, reach.unreached);
    let done = format!(
        "announced {} to {}",
        count(told as u64, "block"),
        count(peers as u64, "peer")
    );
    match told {
        0 => state.set("nothing to announce"),
        _ if unreached > 0 => state.set(format!("{done}; {unreached} of them are tried again")),
        _ => state.set(done),
    }
    unreached
}

/// Peers that were told in several sweeps.
#[derive(Debug, Default)]
struct Reach {
    peers: usize,
    /// Blocks that nobody was told of.
    unreached: usize,
}

impl Reach {
    fn add(&mut self, one: Self) {
        self.peers = self.peers.max(one.peers);
        self.unreached += one.unreached;
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

async fn sweep(depot: &Depot, ids: &[BlockId], missed: &Pending, state: &WorkerState) -> Reach {
    state.set(format!("announcing {}", count(ids.len() as u64, "block")));
    let keys = ids.iter().map(BlockId::to_multihash).collect();
    let reach = match depot.net().providers().announce(keys).await {
        Ok(report) => {
            tracing::debug!(keys = ids.len(), peers = report.peers_reached, "announced");
            Reach {
                peers: report.peers_reached,
                unreached: report.keys_unreached,
            }
        }
        Err(error) => {
            state.fail(error.to_string());
            Reach {
                peers: 0,
                unreached: ids.len(),
            }
        }
    };
    if reach.unreached > 0 {
        missed.add(ids.iter().copied());
    }
    reach
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::store::{Keep, MemoryStore, PinInfo, StoreOptions};
    use crate::time::Timestamp;
    use crate::upkeep::heads::pin_name;

    fn address(n: u8) -> Multiaddr {
        format!("/ip4/10.0.0.{n}/tcp/1")
            .parse()
            .expect("an address")
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_address_is_a_reason_to_announce_and_a_lost_one_is_not() {
        let (listening, watched) = watch::channel(vec![address(1)]);
        let mut moves = Moves::new(watched);
        let is_quiet = async |moves: &mut Moves| {
            let moved = tokio::time::timeout(2 * SETTLE, moves.moved());
            moved.await.is_err()
        };
        assert!(is_quiet(&mut moves).await);
        listening.send_modify(|addresses| addresses.push(address(2)));
        assert!(!is_quiet(&mut moves).await);
        listening.send_modify(|addresses| addresses.truncate(1));
        assert!(is_quiet(&mut moves).await);
        // It comes back, and the wait for it is dropped in between.
        listening.send_modify(|addresses| addresses.push(address(2)));
        let dropped = tokio::time::timeout(SETTLE / 2, moves.moved()).await;
        assert!(dropped.is_err());
        assert!(!is_quiet(&mut moves).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_was_told_is_tried_again_with_growing_pauses() {
        let mut retry = Retry::default();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let start = Instant::now();
            retry.ended(1);
            // Others that could be announced are no reason to forget those that could not.
            retry.ended(0);
            retry.due().await;
            pauses.push(start.elapsed());
        }
        assert!(pauses.is_sorted());
        assert!(pauses[0] >= FIRST_RETRY && pauses[11] >= LONGEST_RETRY);
        retry.ended(0);
        let due = tokio::time::timeout(2 * LONGEST_RETRY, retry.due()).await;
        assert!(due.is_err());
        let start = Instant::now();
        retry.ended(1);
        retry.due().await;
        assert!(start.elapsed() < 2 * FIRST_RETRY);
    }

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
