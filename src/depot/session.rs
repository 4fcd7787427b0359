//! One piece of work that needs blocks: a restore, a page, a pin.
//!
//! For each block: the store; then the peers that gave blocks of this session before; then connected peers that say they have it,
//! nearest to the block's id first; then providers from the DHT. One request a block is under way; when it stays silent
//! another peer is asked as well. Of larger works others who fetch the same are looked for: they share the load, see [`crowd`](super::crowd). A
//! session gives up on a block when its patience has passed, unless a peer that should have it is
//! merely busy and blocks of the session still arrive.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::choice::Roster;
use super::crowd::{Crowd, Standing};
use super::ledger::Amount;
use super::request::{ATTEMPT_TIMEOUT, Request};
use super::scout;
use super::serve::{self, Read};
use super::{Depot, Traffic, sink};
use crate::block::{Attempt, Block, BlockSource, GetError, PutError, Tried};
use crate::id::BlockId;
use crate::store::{Event, Keep};

/// How long a request stays silent before another peer is asked as well.
const HEDGE_AFTER: Duration = Duration::from_secs(4);
/// The same when there is a limit on what is fetched.
const LIMITED_HEDGE_AFTER: Duration = Duration::from_secs(20);
/// Requests for one block at once.
const MAX_ATTEMPTS_AT_ONCE: usize = 3;
/// Longest single search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Searches of one session at once.
const MAX_SEARCHES: usize = 8;
/// Pause between two searches for the same block; doubles each time.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const MAX_PAUSE: Duration = Duration::from_secs(8);
/// How often a block that waits for a loaded peer looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Others who fetch the same are looked for once so many blocks have come: what is small is had sooner than they are found.
const SCOUT_AFTER_BLOCKS: u64 = 4;
/// Patience after a block was given up and nothing came since: the next ones are probably missing for the same reason.
const SHORT_PATIENCE: Duration = Duration::from_secs(5);

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
    depot: Depot,
    patience: Duration,
    keep: Keep,
    began: Instant,
    shared: Arc<Shared>,
    searches: TaskTracker,
    stop: CancellationToken,
    _stop_on_drop: DropGuard,
}

pub(super) struct Shared {
    pub(super) peers: Mutex<Peers>,
    /// Fires when a peer was added or became free, or is known to have something.
    pub(super) changed: Notify,
    gifts: Mutex<HashMap<PeerId, Gift>>,
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

struct Patience {
    last_block: Instant,
    gave_up: bool,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Everything behind these locks is whole between two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A block that is being fetched: peers are asked whether they have it.
struct Wanted<'a> {
    shared: &'a Shared,
    id: BlockId,
}

impl<'a> Wanted<'a> {
    fn new(shared: &'a Shared, id: BlockId) -> Self {
        lock(&shared.peers).crowd.begin(id);
        Self { shared, id }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        lock(&self.shared.peers).crowd.end(&self.id);
    }
}

/// What to do about a block now.
enum Next {
    Ask(Request),
    /// Somebody else is about to have it, or to have time for it.
    Wait,
    /// Nobody can be asked now.
    Nobody,
}

#[async_trait]
impl BlockSource for Session {
    async fn get(&self, id: BlockId) -> Result<Block, GetError> {
        let depot = &self.depot.inner;
        depot.store.record(&[(id, Event::Requested)]);
        let fetching = self.depot.fetch_lock(id);
        // Taken before the look into the store, it leaves nothing to look for afterwards.
        let first = fetching.try_lock().ok();
        let here = match self.read(id).await? {
            Read::Found(block) => return Ok(block),
            Read::Missing => None,
            Read::Damaged => Some(GetError::Corrupt { id }),
            Read::Unreadable(error) => Some(unreadable(id, error)),
        };
        let _fetching = match first {
            Some(first) => first,
            None => {
                let later = fetching.lock().await;
                // Who was before has mostly fetched it.
                if let Read::Found(block) = self.read(id).await? {
                    return Ok(block);
                }
                later
            }
        };
        match (self.fetch(id).await, here) {
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
                progress: Mutex::new(Patience {
                    last_block: Instant::now(),
                    gave_up: false,
                }),
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

    async fn fetch(&self, id: BlockId) -> Result<Block, GetError> {
        let _wanted = Wanted::new(&self.shared, id);
        let mut waits = Waits::default();
        let start = Instant::now();
        let patience = self.patience_now();
        let mut tried: BTreeMap<PeerId, Attempt> = BTreeMap::new();
        let mut attempts = FuturesUnordered::new();
        let mut last_ask = start;
        let mut search: Option<tokio::task::JoinHandle<()>> = None;
        let mut next_search = start;
        let mut pause = FIRST_PAUSE;
        loop {
            let mut changed = pin!(self.shared.changed.notified());
            // Listens from here on: what changes while we look at the roster is not missed.
            changed.as_mut().enable();
            let now = Instant::now();
            let silent = now.duration_since(last_ask) >= self.hedge_after();
            if attempts.is_empty() || (silent && attempts.len() < MAX_ATTEMPTS_AT_ONCE) {
                let waited = attempts.is_empty().then(|| now.duration_since(start));
                match self.choose(id, waited, &mut waits, &mut tried) {
                    Next::Ask(request) => {
                        // While this one is under way the peer counts as tried, so that a second request goes elsewhere.
                        tried.insert(request.peer, Attempt::TimedOut);
                        attempts.push(self.ask(request, id));
                        last_ask = now;
                    }
                    Next::Nobody
                        if search.is_none()
                            && now >= next_search
                            && self.needs_others(start, &tried) =>
                    {
                        search = Some(self.search(id, tried.keys().copied().collect()));
                    }
                    Next::Wait | Next::Nobody => {}
                }
            }
            if attempts.is_empty() && self.out_of_patience(start, patience, &tried) {
                lock(&self.shared.progress).gave_up = true;
                return Err(GetError::NotFound {
                    id,
                    after: start.elapsed(),
                    tried: tried
                        .into_iter()
                        .map(|(peer, attempt)| Tried {
                            peer: peer.to_string(),
                            attempt,
                        })
                        .collect(),
                });
            }
            tokio::select! {
                () = self.stop.cancelled() => return Err(GetError::Stopping),
                Some(Ok((peer, answer))) = attempts.next(), if !attempts.is_empty() => match answer {
                    Ok(block) => return self.accept(id, peer, block).await,
                    // Who is too slow while others come is loaded, and may be asked again when nobody else can be.
                    Err(Attempt::TimedOut) if self.is_flowing(ATTEMPT_TIMEOUT) => { tried.insert(peer, Attempt::Busy); }
                    Err(attempt) => { tried.insert(peer, attempt); }
                },
                _ = async { search.as_mut().expect("guarded").await }, if search.is_some() => {
                    search = None;
                    next_search = Instant::now() + pause;
                    pause = (2 * pause).min(MAX_PAUSE);
                    // Who could not be reached or was not there yet may be by now.
                    tried.retain(|_, attempt| matches!(attempt, Attempt::DontHave | Attempt::WrongBytes | Attempt::TimedOut | Attempt::RateTooLow { .. }));
                }
                () = changed => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// With a limit, silence is mostly our own doing, and a second copy of a block would take the place of another block.
    fn hedge_after(&self) -> Duration {
        if self.depot.inner.net.exchange().pace().is_limited() {
            LIMITED_HEDGE_AFTER
        } else {
            HEDGE_AFTER
        }
    }

    /// Whether waiting for the known peers is not enough: none of them may still give the block, or it takes them too long.
    fn needs_others(&self, start: Instant, tried: &BTreeMap<PeerId, Attempt>) -> bool {
        start.elapsed() >= self.hedge_after()
            || !lock(&self.shared.peers)
                .roster
                .has_later(tried, |_| Some(()))
    }

    fn patience_now(&self) -> Duration {
        if lock(&self.shared.progress).gave_up {
            self.patience.min(SHORT_PATIENCE)
        } else {
            self.patience
        }
    }

    fn out_of_patience(
        &self,
        start: Instant,
        patience: Duration,
        tried: &BTreeMap<PeerId, Attempt>,
    ) -> bool {
        if start.elapsed() < patience {
            return false;
        }
        !(self.is_flowing(patience)
            && lock(&self.shared.peers)
                .roster
                .has_later(tried, |_| Some(())))
    }

    /// Whether a block of the session came lately.
    fn is_flowing(&self, lately: Duration) -> bool {
        lock(&self.shared.progress).last_block.elapsed() < lately
    }

    /// Whom to ask for a block. `waited`: how long nobody has been asked for it; nothing while somebody is silent.
    fn choose(
        &self,
        id: BlockId,
        waited: Option<Duration>,
        waits: &mut Waits,
        tried: &mut BTreeMap<PeerId, Attempt>,
    ) -> Next {
        let now = self.began.elapsed();
        let mut peers = lock(&self.shared.peers);
        let Peers { roster, crowd } = &mut *peers;
        // Who did not have it may have got it.
        tried.retain(|peer, attempt| {
            *attempt != Attempt::DontHave || crowd.standing(peer, &id) != Standing::Holder
        });
        let rank =
            |peer: &PeerId| Some(crowd.standing(peer, &id)).filter(|s| *s != Standing::Without);
        let peer = match roster.choose(tried, now, rank) {
            Some(peer) if rank(&peer) == Some(Standing::Holder) => {
                waits.end(crowd, false, now);
                peer
            }
            Some(peer) => {
                let is_holder = |peer: &PeerId| rank(peer).filter(|s| *s == Standing::Holder);
                let is_held = roster.has_later(tried, is_holder);
                let wait = match is_held {
                    true => crowd.wait(),
                    false => crowd.wait_for(&id, now),
                };
                if waited.is_some_and(|waited| waited < wait) {
                    // That somebody has much to do says nothing against waiting for others.
                    waits.is_waiting |= !is_held;
                    return Next::Wait;
                }
                waits.end(crowd, true, now);
                peer
            }
            // Who has it has much to do.
            None if roster.has_later(tried, rank) => return Next::Nobody,
            // Nobody is known to have it.
            None => match roster.choose(tried, now, |_| Some(())) {
                Some(peer) => peer,
                None => return Next::Nobody,
            },
        };
        roster.asked(peer);
        Next::Ask(Request::new(self.shared.clone(), peer))
    }

    /// Asks one peer for one block and checks what comes, in a task of its own: the permits that it waits for are shared with
    /// other reads, and a reader that is not polled for a while (a stream whose consumer is busy) must not sit on one that
    /// was handed to it.
    fn ask(
        &self,
        request: Request,
        id: BlockId,
    ) -> AbortOnDropHandle<(PeerId, Result<Block, Attempt>)> {
        let work = request.run(self.depot.inner.clone(), id, self.began);
        AbortOnDropHandle::new(tokio::spawn(work))
    }

    /// Keeps a block that came from a peer.
    async fn accept(&self, id: BlockId, peer: PeerId, block: Block) -> Result<Block, GetError> {
        let inner = self.depot.inner.clone();
        let bytes = block.bytes().len() as u64;
        let (keep, kept) = (self.keep, block.clone());
        let stored = tokio::task::spawn_blocking(move || {
            inner.store.record(&[(id, Event::Downloaded)]);
            inner.store.put(&[kept], keep)
        })
        .await
        .map_err(|_| GetError::Stopping)?
        .map_err(sink::put_error);
        match stored {
            Ok(_) => self.depot.inner.fresh.add([id]),
            // What is only cached need not be kept: the reader has it.
            Err(error @ (PutError::Full { .. } | PutError::DiskFull | PutError::ReadOnly))
                if self.keep == Keep::Cached =>
            {
                tracing::debug!(%id, %error, "a fetched block is not kept");
            }
            Err(source) => {
                return Err(GetError::Store {
                    id,
                    source: Box::new(source),
                });
            }
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
        let mut progress = lock(&self.shared.progress);
        progress.last_block = Instant::now();
        progress.gave_up = false;
        drop(progress);
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

    /// Looks for peers that have a block and adds them to the roster. Goes on after the first is found, so that the session has
    /// several to share its load among.
    fn search(&self, id: BlockId, tried: HashSet<PeerId>) -> tokio::task::JoinHandle<()> {
        let depot = self.depot.clone();
        let shared = self.shared.clone();
        let stop = self.stop.clone();
        self.searches.spawn(async move {
            let work = async {
                let Ok(_slot) = shared.search_slots.acquire().await else {
                    return;
                };
                futures::join!(
                    scout::ask_connected(&depot, &shared, id, &tried),
                    scout::ask_mesh(&depot, &shared, id)
                );
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(SEARCH_TIMEOUT) => {}
                () = work => {}
            }
        })
    }
}

/// Whether a block waits for another peer to bring it in.
#[derive(Default)]
struct Waits {
    is_waiting: bool,
}

impl Waits {
    fn end(&mut self, crowd: &mut Crowd, in_vain: bool, now: Duration) {
        if std::mem::take(&mut self.is_waiting) {
            crowd.waited(in_vain, now);
        }
    }
}
