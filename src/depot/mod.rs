//! The one place that knows both the store and the network: get = store, else network; put = store, then tell.
//!
//! - [`Depot::heads`]: owners' heads on other nodes.
//! - [`Depot::session`]: a [`BlockSource`](crate::block::BlockSource) for one piece of work. It remembers which peers gave
//!   blocks, so that the next one is asked of them first.
//! - [`Depot::sink`]: a [`BlockSink`](crate::block::BlockSink) into the store; what is new is put on the list of what to announce.
//! - [`serve::Server`]: answers other nodes out of the store. What they ask for is counted in [`demand::Demand`].
//! - [`ledger`]: what this node and each other one have done for each other, and how they stand.
//!
//! Invariant: bytes from the network become a [`Block`](crate::block::Block) by a hash check on a worker thread before anything else sees
//! them. Deliberately absent: files, policy of what to keep, the announcing itself.

mod absent;
mod choice;
mod crowd;
pub mod demand;
mod fetch;
mod heads;
pub mod ledger;
mod pending;
mod pieces;
mod request;
mod scout;
pub mod serve;
mod session;
mod sink;
mod verify;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::block::Attempt;
use crate::id::BlockId;
use crate::net::Net;
use crate::store::{Keep, Store};

pub use heads::{FoundHead, Heads, PublishReport};
pub use pending::{Pending, PendingBlocks};
use session::lock;
pub use session::{Gift, Session};
pub use sink::{Index, Sink};

/// Counters since start.
#[derive(Debug, Default)]
pub struct Traffic {
    /// Blocks given to peers.
    pub served_blocks: AtomicU64,
    /// Their bytes.
    pub served_bytes: AtomicU64,
    /// Blocks taken from peers.
    pub fetched_blocks: AtomicU64,
    /// Their bytes.
    pub fetched_bytes: AtomicU64,
    /// Answers that were not the block asked for.
    pub wrong_blocks: AtomicU64,
    /// Damaged blocks found in the store.
    pub corrupt_blocks: AtomicU64,
    /// Blocks offered to peers because they are asked for often, each as often as it was offered.
    pub offered_blocks: AtomicU64,
    /// Copies that peers made because of that.
    pub copied_blocks: AtomicU64,
    /// Blocks taken because peers offered them.
    pub taken_blocks: AtomicU64,
}

impl Traffic {
    /// Counts so many more.
    pub fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// Keepers of heads that are remembered.
const MAX_KEEPERS: usize = 32;
/// Pieces of work under way that nobody waits for.
const MAX_ASIDE: usize = 16;

/// Store and network as one. Cheap to clone.
#[derive(Clone)]
pub struct Depot {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn Store>,
    net: Net,
    traffic: Arc<Traffic>,
    ledger: Arc<ledger::Ledger>,
    fresh: Arc<Pending>,
    wounded: Arc<Pending>,
    demand: Arc<demand::Demand>,
    /// The blocks that are being fetched, so that two readers of one make one transfer.
    under_way: Mutex<HashMap<BlockId, Weak<fetch::UnderWay>>>,
    /// Peers that told a head lately: they may have blocks that nobody announces.
    keepers: Mutex<VecDeque<PeerId>>,
    /// Peers that did not answer lately.
    absent: Mutex<absent::Absent>,
    began: Instant,
    verifier: verify::Verifier,
    aside: (TaskTracker, Arc<Semaphore>),
    stop: CancellationToken,
    /// Counts how often this node began to leave or stayed after all: odd while it is leaving.
    leaving: AtomicU64,
}

impl Depot {
    /// Joins a store and a running network. `server` is the one that was given to the network.
    pub fn new(
        store: Arc<dyn Store>,
        net: Net,
        server: &serve::Server,
        fresh: Arc<Pending>,
    ) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            inner: Arc::new(Inner {
                store,
                net,
                traffic: server.traffic(),
                ledger: server.ledger(),
                fresh,
                wounded: server.wounded(),
                demand: server.demand(),
                under_way: Mutex::default(),
                keepers: Mutex::default(),
                absent: Mutex::default(),
                began: Instant::now(),
                verifier: verify::Verifier::new(cores),
                aside: (TaskTracker::new(), Arc::new(Semaphore::new(MAX_ASIDE))),
                stop: CancellationToken::new(),
                leaving: AtomicU64::new(0),
            }),
        }
    }

    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.inner.store
    }

    /// The network.
    pub fn net(&self) -> &Net {
        &self.inner.net
    }

    /// Counters since start.
    pub fn traffic(&self) -> &Traffic {
        &self.inner.traffic
    }

    /// What this node and others have done for each other.
    pub fn ledger(&self) -> &Arc<ledger::Ledger> {
        &self.inner.ledger
    }

    /// Blocks that came lately and are to be announced.
    pub fn fresh(&self) -> &Arc<Pending> {
        &self.inner.fresh
    }

    /// Blocks that were found damaged, are gone from the store, and are to be fetched again.
    pub fn wounded(&self) -> &Arc<Pending> {
        &self.inner.wounded
    }

    /// How much peers ask for each block.
    pub fn demand(&self) -> &demand::Demand {
        &self.inner.demand
    }

    /// A source for one piece of work that looks for each block up to `patience`. What comes from the network is kept as `keep`.
    pub fn session(&self, patience: Duration, keep: Keep) -> Arc<Session> {
        Arc::new(Session::new(self.clone(), patience, keep))
    }

    /// A sink into the store that keeps blocks as `keep`.
    pub fn sink(&self, keep: Keep) -> Arc<Sink> {
        Arc::new(Sink::new(
            self.inner.store.clone(),
            self.inner.fresh.clone(),
            keep,
        ))
    }

    /// The store's chunk index, keeping what it names as `keep`.
    pub fn index(&self, keep: Keep) -> Arc<Index> {
        Arc::new(Index::new(self.inner.store.clone(), keep))
    }

    /// Ends all searches; later ones fail at once.
    pub fn stop(&self) {
        self.inner.stop.cancel();
    }

    /// A peer told a head: what the backups of that owner need may be there, and is not announced.
    fn note_keeper(&self, peer: PeerId) {
        let mut keepers = lock(&self.inner.keepers);
        keepers.retain(|known| *known != peer);
        keepers.truncate(MAX_KEEPERS - 1);
        keepers.push_front(peer);
    }

    /// Peers that told a head lately, the last one first.
    fn keepers(&self) -> Vec<PeerId> {
        lock(&self.inner.keepers).iter().copied().collect()
    }

    /// Does a piece of work that nobody waits for, until this depot stops. Past [`MAX_ASIDE`] it is
    /// left undone: it must be one that is done again anyway.
    fn aside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let (tasks, places) = &self.inner.aside;
        let Ok(place) = places.clone().try_acquire_owned() else {
            return;
        };
        let stop = self.inner.stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = work => {}
            }
            drop(place);
        });
    }

    /// Whether this node is leaving: it takes nothing more for others, and announces only what is its own.
    pub fn is_leaving(&self) -> bool {
        self.leavings() % 2 == 1
    }

    /// A number that changes with [`is_leaving`](Self::is_leaving), and when leases have ended. A
    /// job that remembers what is kept for others has to look again then.
    pub fn leavings(&self) -> u64 {
        self.inner.leaving.load(Ordering::Relaxed)
    }

    /// From now until it is started again, or [stays](Self::set_staying) after all, this node is leaving.
    pub fn set_leaving(&self) {
        self.inner.leaving.fetch_or(1, Ordering::Relaxed);
    }

    /// Leases that are kept for others have ended without the job that answers for them.
    pub fn note_ended_leases(&self) {
        // An even step: whether this node is leaving stays as it is.
        self.inner.leaving.fetch_add(2, Ordering::Relaxed);
    }

    /// This node is not leaving any more. What it has is announced again.
    pub fn set_staying(&self) {
        let odd = |count: u64| (count % 2 == 1).then_some(count.wrapping_add(1));
        let leaving = &self.inner.leaving;
        let was = leaving.fetch_update(Ordering::Relaxed, Ordering::Relaxed, odd);
        if was.is_ok() {
            self.inner.fresh.add_everything();
        }
    }

    /// The state of a block that is being fetched. The session whose turn it is fetches; the others
    /// find the block in the store afterwards, or give up at their own deadline.
    fn under_way(&self, id: BlockId) -> Arc<fetch::UnderWay> {
        let mut under_way = lock(&self.inner.under_way);
        // Bounded by the fetches under way: entries of finished ones are dropped whenever the table
        // has doubled.
        if under_way.len() >= 64 && under_way.len().is_power_of_two() {
            under_way.retain(|_, fetch| fetch.strong_count() > 0);
        }
        if let Some(fetch) = under_way.get(&id).and_then(Weak::upgrade) {
            return fetch;
        }
        let fetch = Arc::default();
        under_way.insert(id, Arc::downgrade(&fetch));
        fetch
    }
}

impl Inner {
    /// A peer that was asked answered, or failed in this way.
    fn heard(&self, peer: PeerId, failed: Option<Attempt>) {
        let mut absent = lock(&self.absent);
        match failed {
            None | Some(Attempt::DontHave | Attempt::WrongBytes | Attempt::RateTooLow { .. }) => {
                absent.answered(&peer);
            }
            Some(Attempt::Unreachable | Attempt::TimedOut) => {
                absent.missed(peer, self.began.elapsed());
            }
            // These say nothing for sure: too much may be under way on our side.
            Some(Attempt::Busy | Attempt::Failed) => {}
        }
    }

    /// Whether a peer is to be asked after all others.
    fn rests(&self, peer: &PeerId) -> bool {
        lock(&self.absent).rests(peer, self.began.elapsed())
    }
}
