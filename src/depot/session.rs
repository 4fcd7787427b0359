//! One piece of work that needs blocks: a restore, a page, a pin.
//!
//! For each block: the store; then the peers that gave blocks of this session before; then
//! connected peers that say they have it, nearest to the block's id first; then providers from the
//! DHT: see [`fetch`](super::fetch). Of larger works others that fetch the same are looked for:
//! they share the load, see [`crowd`](super::crowd).
//!
//! Invariant: a reader waits no longer than the session's patience once nothing arrives, whatever
//! stalls and whoever else fetches the same block.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use libp2p::PeerId;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::choice::Roster;
use super::crowd::Crowd;
use super::fetch::{Fetch, UnderWay};
use super::ledger::Amount;
use super::serve::{self, Read};
use super::{Depot, Traffic, scout, sink};
use crate::block::{Block, BlockSource, GetError, PutError};
use crate::id::BlockId;
use crate::net::pace::Arrivals;
use crate::store::{Event, Keep};

/// Longest single search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Searches of one session at once.
const MAX_SEARCHES: usize = 8;
/// Others that fetch the same are looked for once so many blocks have come: what is small is had
/// sooner than they are found.
const SCOUT_AFTER_BLOCKS: u64 = 4;
/// Patience after a block was given up and none came since: the next ones are probably missing for
/// the same reason. Halves with each that is given up, so that a tree of many missing blocks ends.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);
const SHORTEST_PATIENCE: Duration = Duration::from_millis(500);

/// Blocks that one peer gave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gift {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A source of blocks for one piece of work. Dropping it ends its searches.
pub struct Session {
    pub(super) depot: Depot,
    patience: Duration,
    keep: Keep,
    pub(super) began: Instant,
    pub(super) shared: Arc<Shared>,
    searches: TaskTracker,
    pub(super) stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

pub(super) struct Shared {
    pub(super) peers: Mutex<Peers>,
    /// Fires when a peer was added or became free, or is known to have something.
    pub(super) changed: Notify,
    gifts: Mutex<HashMap<PeerId, Gift>>,
    /// Counts the bytes that come for this session.
    pub(super) arrivals: Arc<Arrivals>,
    progress: Mutex<Patience>,
    /// Blocks that came from peers.
    fetched: AtomicU64,
    /// The first block that came from a peer: whoever fetches the same has it, too.
    root: OnceLock<BlockId>,
    search_slots: Semaphore,
}

/// What is known of a session's peers.
pub(super) struct Peers {
    pub(super) roster: Roster,
    pub(super) crowd: Crowd,
}

/// Time to wait for blocks that do not come. Pure: times are since the session began.
#[derive(Debug, Default)]
struct Patience {
    /// Bytes that had come when they were last looked at.
    bytes: u64,
    /// When more were seen than before.
    came_at: Option<Duration>,
    /// Blocks given up since the last one came.
    given_up: u32,
}

impl Patience {
    /// Whether bytes came within the last `lately`. `bytes`: how many have come by now.
    fn is_flowing(&mut self, bytes: u64, lately: Duration, now: Duration) -> bool {
        if bytes != self.bytes {
            self.bytes = bytes;
            self.came_at = Some(now);
        }
        self.came_at.is_some_and(|at| now < at + lately)
    }

    /// Time to look for the next block, of `whole` at most.
    fn next(&self, whole: Duration) -> Duration {
        match self.given_up.checked_sub(1) {
            None => whole,
            Some(halvings) => {
                let short = SHORT_PATIENCE / 2u32.pow(halvings.min(8));
                whole.min(short.max(SHORTEST_PATIENCE))
            }
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Everything behind these locks is whole between two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl BlockSource for Session {
    async fn get(&self, id: BlockId) -> Result<Block, GetError> {
        let start = Instant::now();
        self.depot.inner.store.record(&[(id, Event::Requested)]);
        let under_way = self.depot.under_way(id);
        // Taken before the look into the store, it leaves nothing to look for afterwards.
        let first = under_way.turn.try_lock().ok();
        let here = match self.read(id).await? {
            Read::Found(block) => return Ok(block),
            Read::Missing => None,
            Read::Damaged => Some(GetError::Corrupt { id }),
            Read::Unreadable(error) => Some(unreadable(id, error)),
        };
        let _turn = match first {
            Some(first) => first,
            None => {
                // The session that fetches it may have far more patience than this one.
                let turn = tokio::select! {
                    biased;
                    turn = under_way.turn.lock() => turn,
                    () = self.stop.cancelled() => return Err(GetError::Stopping),
                    () = sleep_until(start + self.patience_now()) => {
                        return Err(self.give_up(id, start, &under_way));
                    }
                };
                // That session has mostly fetched it.
                if let Read::Found(block) = self.read(id).await? {
                    return Ok(block);
                }
                turn
            }
        };
        let fetched = Fetch::new(self, id, start, &under_way).run().await;
        match (fetched, here) {
            (Err(GetError::NotFound { .. }), Some(GetError::Store { .. })) => {
                // Nobody else has it, and what is here may be read by now.
                match self.read(id).await? {
                    Read::Found(block) => Ok(block),
                    Read::Unreadable(error) => Err(unreadable(id, error)),
                    Read::Missing | Read::Damaged => Err(GetError::Corrupt { id }),
                }
            }
            (Err(GetError::NotFound { tried, .. }), Some(here)) if tried.is_empty() => Err(here),
            (fetched, _) => fetched,
        }
    }

    fn first_of(&self, ids: &[BlockId]) -> usize {
        let mut peers = lock(&self.shared.peers);
        if peers.roster.is_empty() {
            // All came from the store so far: that is fastest in order.
            return 0;
        }
        peers.crowd.first(ids, self.began.elapsed())
    }
}

/// The block is here, and the disk does not give it.
fn unreadable(id: BlockId, error: crate::store::Error) -> GetError {
    GetError::Store {
        id,
        source: Box::new(error),
    }
}

impl Session {
    pub(super) fn new(depot: Depot, patience: Duration, keep: Keep) -> Self {
        let stop = depot.inner.stop.child_token();
        let crowd = Crowd::new(depot.inner.net.peer_id());
        Self {
            depot,
            patience,
            keep,
            began: Instant::now(),
            shared: Arc::new(Shared {
                peers: Mutex::new(Peers {
                    roster: Roster::default(),
                    crowd,
                }),
                changed: Notify::new(),
                gifts: Mutex::default(),
                arrivals: Arc::default(),
                progress: Mutex::default(),
                fetched: AtomicU64::new(0),
                root: OnceLock::new(),
                search_slots: Semaphore::new(MAX_SEARCHES),
            }),
            searches: TaskTracker::new(),
            _stop_on_drop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Asks this peer before others.
    pub fn prefer(&self, peer: PeerId) {
        lock(&self.shared.peers).roster.add(peer);
        self.shared.changed.notify_waiters();
    }

    /// The peers that gave blocks so far, most bytes first.
    pub fn gifts(&self) -> Vec<(PeerId, Gift)> {
        let mut gifts: Vec<_> = lock(&self.shared.gifts)
            .iter()
            .map(|(peer, gift)| (*peer, *gift))
            .collect();
        gifts.sort_by_key(|(peer, gift)| (std::cmp::Reverse(gift.bytes), *peer));
        gifts
    }

    async fn read(&self, id: BlockId) -> Result<Read, GetError> {
        let inner = self.depot.inner.clone();
        tokio::task::spawn_blocking(move || {
            serve::read(inner.store.as_ref(), &inner.traffic, &inner.wounded, id)
        })
        .await
        .map_err(|_| GetError::Stopping)?
        .map_err(|source| GetError::Store {
            id,
            source: Box::new(source),
        })
    }

    /// Time to look for a block that is asked for now.
    pub(super) fn patience_now(&self) -> Duration {
        lock(&self.shared.progress).next(self.patience)
    }

    /// Whether bytes of the session came lately.
    pub(super) fn is_flowing(&self, lately: Duration) -> bool {
        let bytes = self.shared.arrivals.bytes();
        lock(&self.shared.progress).is_flowing(bytes, lately, self.began.elapsed())
    }

    /// Ends the wait for a block that did not come.
    pub(super) fn give_up(&self, id: BlockId, start: Instant, under_way: &UnderWay) -> GetError {
        let mut progress = lock(&self.shared.progress);
        progress.given_up = progress.given_up.saturating_add(1);
        GetError::NotFound {
            id,
            after: start.elapsed(),
            tried: under_way.tried(),
        }
    }

    /// Keeps a block that came from a peer. If the block is only to be cached, a disk that stalls
    /// holds the reader up for the session's patience at most.
    pub(super) async fn accept(
        &self,
        id: BlockId,
        peer: PeerId,
        block: Block,
    ) -> Result<Block, GetError> {
        let inner = self.depot.inner.clone();
        let bytes = block.bytes().len() as u64;
        let (keep, kept) = (self.keep, block.clone());
        let mut storing = tokio::task::spawn_blocking(move || {
            inner.store.record(&[(id, Event::Downloaded)]);
            let stored = inner.store.put(&[kept], keep);
            if stored.is_ok() {
                inner.fresh.add([id]);
            }
            stored
        });
        let stored = match self.keep {
            Keep::Cached => timeout(self.patience, &mut storing).await.ok(),
            _ => Some(storing.await),
        };
        match stored {
            Some(Ok(Ok(_))) => {}
            Some(Ok(Err(error))) => match sink::put_error(error) {
                // A block that is only cached need not be kept: the reader has it.
                error @ (PutError::Full { .. } | PutError::DiskFull | PutError::ReadOnly)
                    if self.keep == Keep::Cached =>
                {
                    tracing::debug!(%id, %error, "a fetched block is not kept");
                }
                source => {
                    let source = Box::new(source);
                    return Err(GetError::Store { id, source });
                }
            },
            Some(Err(_)) => return Err(GetError::Stopping),
            None => tracing::debug!(%id, "the disk is slow to keep a fetched block"),
        }
        Traffic::add(&self.depot.inner.traffic.fetched_blocks, 1);
        Traffic::add(&self.depot.inner.traffic.fetched_bytes, bytes);
        self.depot
            .inner
            .ledger
            .taken(peer, Amount { blocks: 1, bytes });
        let mut gifts = lock(&self.shared.gifts);
        let gift = gifts.entry(peer).or_default();
        gift.blocks += 1;
        gift.bytes += bytes;
        drop(gifts);
        lock(&self.shared.progress).given_up = 0;
        let root = *self.shared.root.get_or_init(|| id);
        if self.shared.fetched.fetch_add(1, Ordering::Relaxed) + 1 == SCOUT_AFTER_BLOCKS {
            self.scout(root);
        }
        Ok(block)
    }

    /// Looks for others who fetch the same, as long as this session lasts.
    fn scout(&self, root: BlockId) {
        let work = scout::watch(self.depot.clone(), self.shared.clone(), root, self.began);
        let stop = self.stop.clone();
        self.searches.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
        });
    }

    /// Looks for peers that have a block and adds them to the roster: `newcomers` alone, or the
    /// connected peers and the DHT. Goes on after the first is found, so that the session has
    /// several to share its load among.
    pub(super) fn search(
        &self,
        id: BlockId,
        under_way: Arc<UnderWay>,
        newcomers: Option<Vec<PeerId>>,
        tried: HashSet<PeerId>,
    ) -> JoinHandle<()> {
        let depot = self.depot.clone();
        let shared = self.shared.clone();
        let stop = self.stop.clone();
        self.searches.spawn(async move {
            let search = scout::Search {
                depot: &depot,
                shared: &shared,
                id,
                under_way: &under_way,
            };
            let work = async {
                if let Some(newcomers) = newcomers {
                    return search.ask_connected(&newcomers, &tried).await;
                }
                let Ok(_slot) = shared.search_slots.acquire().await else {
                    return;
                };
                let connected = depot.inner.net.peers().connected();
                futures::join!(search.ask_connected(&connected, &tried), search.ask_mesh());
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(SEARCH_TIMEOUT) => {}
                () = work => {}
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn patience_shrinks_with_each_block_that_is_given_up() {
        let mut patience = Patience::default();
        let whole = 60 * SECOND;
        assert_eq!(patience.next(whole), whole);
        let mut last = whole;
        for given_up in 1..100 {
            patience.given_up = given_up;
            let next = patience.next(whole);
            assert!(next <= last && next >= SHORTEST_PATIENCE);
            last = next;
        }
        assert_eq!(last, SHORTEST_PATIENCE);
        patience.given_up = 1;
        assert_eq!(patience.next(whole), SHORT_PATIENCE);
        assert_eq!(
            patience.next(SECOND),
            SECOND,
            "never more than was asked for"
        );
        patience.given_up = 0;
        assert_eq!(patience.next(whole), whole);
    }

    #[test]
    fn bytes_flow_until_none_came_for_a_while() {
        let mut patience = Patience::default();
        assert!(!patience.is_flowing(0, SECOND, SECOND));
        assert!(patience.is_flowing(7, SECOND, SECOND));
        assert!(patience.is_flowing(7, 2 * SECOND, 2 * SECOND));
        assert!(!patience.is_flowing(7, SECOND, 2 * SECOND));
        assert!(patience.is_flowing(8, SECOND, 3 * SECOND));
    }
}
