//! Keeps blocks for others: answers who asks by leases, fetches what they are about, and lets go when they end. Offers of blocks come by the same
//! way and are handed to a [`Taker`].
//!
//! Times are counted by this node's clock from the moment that a lease came. A lease whose blocks have not all come stays across restarts, and
//! its fetching goes on. Who keeps a backup keeps its owner's head, too, within what is lent and as long as there are leases.
//!
//! Invariant: "durable" is said only after every block of the list was seen here and the store was flushed. What is kept for others takes at most
//! [`Lend::bytes`], and only peers that [`Candidates`] names are heard, but for offers.
//!
//! While the owner's machine is gone, the holders of a backup keep up the number of its copies among themselves (`circle`, `pass`). A release goes the
//! same way as the leases did.
//!
//! Each member has a share of what is lent (`share`). Once little is left, of what is lent or of
//! the room for copies, peers that only take get no new lease kept and no offer taken. Leases
//! promised to them before stay. Leases of members that were removed end after a notice.
//!
//! Deliberately absent: the choice of what is worth keeping; who may ask is decided elsewhere.

mod book;
pub(in crate::upkeep) mod circle;
pub(in crate::upkeep) mod pass;
mod share;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::book::{Book, Job};
use super::popular::{Taker, accept};
use crate::block::{BlockSource, GetError};
use crate::depot::Depot;
use crate::head::head_id;
use crate::id::BlockId;
use crate::lease::Name;
use crate::net::replica::{Answer, Inbox, Incoming, Refusal, Request};
use crate::store::{self, Keep, LeaseId, Store};
use crate::task::WorkerState;
use crate::time::Clock;

pub use pass::tell_of_release;

/// How often leases are looked through for those that are over, and unfinished ones are tried again.
const EVERY: Duration = Duration::from_secs(60);
/// How long to look for one block of a lease.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to look for the head of a lease's owner.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How often what has come is made durable while a lease is being filled.
const FLUSH_EVERY: Duration = Duration::from_secs(15);
/// Leases that are being filled at the same time, and blocks of each.
const PULLS_AT_ONCE: usize = 4;
const BLOCKS_AT_ONCE: usize = 16;
/// Blocks that are looked up in the store as one.
const PAGE: usize = 1024;
/// How long a lease is filled before others have their turn.
const TURN: Duration = Duration::from_secs(60);

/// Backups taken that wait to be told.
const TAKEN_QUEUE: usize = 64;

/// Peers that may ask to keep blocks, and that can be asked.
pub trait Candidates: Send + Sync + 'static {
    /// Those that are online.
    fn peers(&self) -> Vec<PeerId>;

    /// All that have a share of what is lent, whether or not they are online.
    fn members(&self) -> Vec<PeerId> {
        self.peers()
    }

    /// Sites of peers, as far as they are known: two with the same words are perhaps one machine,
    /// or in one room.
    fn sites(&self) -> BTreeMap<Vec<u8>, String> {
        BTreeMap::new()
    }

    /// Peers that had a share and were removed.
    fn removed(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

/// A backup of somebody else's that is whole here and kept from now on.
#[derive(Clone, Debug)]
pub struct Taken {
    /// Peer that asked last, if that is known.
    pub from: Option<PeerId>,
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What is lent.
#[derive(Clone, Debug)]
pub struct Lend {
    bytes: watch::Receiver<u64>,
    taken: Option<mpsc::Sender<Taken>>,
    /// Most leases of one owner.
    pub leases_per_owner: usize,
}

impl Lend {
    /// The part of a quota that is lent unless the settings say otherwise: half.
    pub fn of_quota(quota: u64) -> Self {
        Self::of_bytes(quota / 2)
    }

    /// So many bytes.
    pub fn of_bytes(bytes: u64) -> Self {
        Self::watching(watch::channel(bytes).1)
    }

    /// So many bytes as are said there. That it becomes less ends no lease.
    pub const fn watching(bytes: watch::Receiver<u64>) -> Self {
        Self {
            bytes,
            taken: None,
            leases_per_owner: 4096,
        }
    }

    /// The same, and the receiver hears of each backup that is taken; not of those for which its
    /// queue has no room.
    pub fn telling(mut self) -> (Self, mpsc::Receiver<Taken>) {
        let (taken, receiver) = mpsc::channel(TAKEN_QUEUE);
        self.taken = Some(taken);
        (self, receiver)
    }

    fn tell(&self, taken: Taken) {
        if let Some(told) = &self.taken {
            // It is for people to read: who can't keep up misses some.
            let _ = told.try_send(taken);
        }
    }

    /// Most bytes of blocks that only leases keep, now.
    pub fn bytes(&self) -> u64 {
        *self.bytes.borrow()
    }
}

/// Runs until cancelled.
pub async fn run(
    depot: Depot,
    clock: Arc<dyn Clock>,
    lend: Lend,
    candidates: Arc<dyn Candidates>,
    cancel: CancellationToken,
    state: Arc<WorkerState>,
) {
    let Some(inbox) = depot.net().replica().take_inbox() else {
        state.fail("somebody else answers who asks to keep blocks");
        return;
    };
    let local = depot.net().peer_id().to_bytes();
    let store = depot.store().clone();
    let taker = Taker::new(depot.clone(), accept::Limits::default());
    let now = clock.clone();
    let (ledger, members) = (depot.ledger().clone(), candidates.clone());
    let opened = tokio::task::spawn_blocking(move || {
        let book = Book::open(store, now, lend, local)?;
        let book = book.with_ledger(ledger).with_members(members);
        book.count_used()?;
        Ok::<_, store::Error>(book)
    });
    let opened = opened.await;
    let book = match opened {
        Ok(Ok(book)) => Arc::new(book),
        Ok(Err(error)) => {
            state.fail(error.to_string());
            return;
        }
        Err(_) => return,
    };
    let passer = pass::Passer {
        depot: depot.clone(),
        book: book.clone(),
        clock,
        candidates: candidates.clone(),
        limits: circle::Limits::default(),
        known: std::collections::BTreeMap::new(),
    };
    let holder = Holder {
        depot,
        book,
        candidates,
        taker,
        pulls: JoinSet::new(),
        pulling: HashMap::new(),
        paused: HashMap::new(),
        turns: HashMap::new(),
        retry: HashMap::new(),
        leavings: 0,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = holder.work(inbox, &state) => {}
        () = passer.run() => {}
    }
}

struct Holder {
    depot: Depot,
    book: Arc<Book>,
    candidates: Arc<dyn Candidates>,
    taker: Taker,
    /// Leases that are being filled.
    pulls: JoinSet<(LeaseId, Result<Pulled, store::Error>)>,
    pulling: HashMap<LeaseId, Option<PeerId>>,
    /// How far those are that others were given the turn of.
    paused: HashMap<LeaseId, Progress>,
    /// When each peer had a turn last.
    turns: HashMap<Option<PeerId>, Instant>,
    /// When to try again those that could not be filled.
    retry: HashMap<LeaseId, Instant>,
    /// How often the node had begun or ceased to leave when it was last made sure which leases there are: who leaves ends some without the book.
    leavings: u64,
}

impl Holder {
    async fn work(mut self, mut inbox: Inbox, state: &WorkerState) {
        let mut tick = tokio::time::interval(EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                incoming = inbox.recv() => match incoming {
                    Some(incoming) => self.answer(incoming).await,
                    None => return,
                },
                Some(done) = self.pulls.join_next(), if !self.pulls.is_empty() => {
                    if let Ok((lease, result)) = done {
                        self.pulled(lease, result, state).await;
                    }
                }
                fetched = self.taker.ended() => self.taker.settle(fetched),
                _ = tick.tick() => {
                    let (book, has_left) = (self.book.clone(), self.depot.leavings() > 0);
                    let expired = tokio::task::spawn_blocking(move || {
                        if has_left {
                            book.reconcile()?;
                        }
                        book.give_notice()?;
                        book.count_used()?;
                        book.expire(Instant::now())
                    });
                    let expired = expired.await;
                    match expired {
                        Ok(Ok(_)) => {}
                        Ok(Err(error)) => state.fail(error.to_string()),
                        Err(_) => return,
                    }
                }
            }
            self.start_pulls();
            let (kept, all) = self.book.kept();
            self.depot.ledger().set_kept(&kept, all);
            state.set(self.book.describe());
        }
    }

    async fn answer(&mut self, incoming: Incoming) {
        let Incoming {
            peer,
            request,
            reply,
        } = incoming;
        let answer = if let Request::Recover {
            nonce,
            proof,
            after,
        } = request
        {
            // A peer that proves to know the owner is heard: a machine that is new is in no ring.
            self.recover(peer, nonce, proof, after).await
        } else if let Some(answer) = self.leaving(&request) {
            answer
        } else if let Request::Offer { why, blocks } = request {
            let is_member = self.candidates.peers().contains(&peer);
            self.taker.answer(peer, is_member, why, blocks).await
        } else if self.candidates.peers().contains(&peer) {
            let book = self.book.clone();
            let leavings = self.depot.leavings();
            let is_unsure = self.depot.is_leaving() || leavings != self.leavings;
            let answer = tokio::task::spawn_blocking(move || {
                // Leases may have ended without the book.
                if is_unsure && let Err(error) = book.reconcile() {
                    tracing::warn!(%error, "the store can't tell its leases");
                    return (false, Answer::Refused(Refusal::Busy));
                }
                (true, book.answer(peer, request))
            });
            let (is_sure, answer) = answer
                .await
                .unwrap_or((false, Answer::Refused(Refusal::Busy)));
            if is_sure {
                self.leavings = leavings;
            }
            answer
        } else {
            Answer::Refused(Refusal::Unwilling)
        };
        // Who asked may be gone.
        let _ = reply.send(answer);
    }

    /// Head and leases that are here of an owner.
    async fn recover(
        &self,
        peer: PeerId,
        nonce: [u8; 32],
        proof: [u8; 32],
        after: Option<Name>,
    ) -> Answer {
        let book = self.book.clone();
        let found = on_worker(move || Ok(book.recover(peer, &nonce, &proof, after))).await;
        let Some((owner, mut recovered)) = found.ok().flatten().flatten() else {
            return Answer::Refused(Refusal::Unknown);
        };
        let head = self.depot.net().heads().local(head_id(&owner)).await;
        recovered.head = head.ok().flatten().map(|head| head.encode().into());
        Answer::Recovered(recovered)
    }

    /// What a node that is leaving answers. It still tells what it has and lets go of it; that there is no room at all makes their owners look what
    /// is left here, and for other holders.
    fn leaving(&self, request: &Request) -> Option<Answer> {
        if !self.depot.is_leaving() {
            return None;
        }
        match request {
            Request::Keep { .. } | Request::Offer { .. } | Request::Room => {
                Some(Answer::Refused(Refusal::Unwilling))
            }
            _ => None,
        }
    }

    /// Peers take turns: one that brought many leases, or such as can't be filled, holds up none of the others.
    fn start_pulls(&mut self) {
        let now = Instant::now();
        self.retry.retain(|_, until| *until > now);
        let mut jobs = self.book.jobs();
        self.paused
            .retain(|lease, _| jobs.iter().any(|job| job.lease == *lease));
        self.turns
            .retain(|peer, _| jobs.iter().any(|job| job.from == *peer));
        jobs.retain(|job| {
            !self.pulling.contains_key(&job.lease) && !self.retry.contains_key(&job.lease)
        });
        while self.pulling.len() < PULLS_AT_ONCE {
            let turn = |job: &Job| {
                let running = self.pulling.values().filter(|peer| **peer == job.from);
                let before = self.paused.get(&job.lease).and_then(|p| p.paused);
                (
                    running.count(),
                    self.turns.get(&job.from).copied(),
                    before,
                    job.lease,
                )
            };
            let next = (0..jobs.len()).min_by_key(|at| turn(&jobs[*at]));
            let Some(job) = next.map(|at| jobs.swap_remove(at)) else {
                return;
            };
            self.pulling.insert(job.lease, job.from);
            self.turns.insert(job.from, now);
            let progress = self.paused.remove(&job.lease).unwrap_or_default();
            let (depot, book) = (self.depot.clone(), self.book.clone());
            self.pulls.spawn(async move {
                let lease = job.lease;
                (lease, pull(&depot, &book, job, progress).await)
            });
        }
    }

    async fn pulled(
        &mut self,
        lease: LeaseId,
        result: Result<Pulled, store::Error>,
        state: &WorkerState,
    ) {
        self.pulling.remove(&lease);
        let book = self.book.clone();
        let settled = match result {
            Ok(Pulled::All) => tokio::task::spawn_blocking(move || book.complete(lease)).await,
            Ok(Pulled::Full) => tokio::task::spawn_blocking(move || book.give_up(lease)).await,
            Ok(Pulled::Missing(missing)) => {
                tracing::debug!(%lease, missing, "not all blocks of a lease could be had");
                Ok(Ok(()))
            }
            Ok(Pulled::Paused(progress)) => {
                self.paused.insert(lease, progress);
                return;
            }
            Err(error) => Ok(Err(error)),
        };
        self.retry.insert(lease, Instant::now() + EVERY);
        if let Ok(Err(error)) = settled {
            state.fail(error.to_string());
        }
    }
}

/// How filling a lease ended.
enum Pulled {
    All,
    /// There is no room for it.
    Full,
    Missing(u64),
    /// Others are to have a turn.
    Paused(Progress),
}

/// How far filling a lease is.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// The last block that was tried.
    after: Option<BlockId>,
    /// Blocks that could not be had.
    missing: u64,
    /// Bytes that came.
    bytes: u64,
    /// Since when others have their turn.
    paused: Option<Instant>,
}

/// Fetches what a lease lacks, for at most a turn.
async fn pull(
    depot: &Depot,
    book: &Arc<Book>,
    job: Job,
    mut progress: Progress,
) -> Result<Pulled, store::Error> {
    let session = depot.session(PATIENCE, Keep::Cached);
    if let Some(peer) = job.from {
        session.prefer(peer);
    }
    let began = Instant::now();
    // The list came in memory only; from here on a crash costs no more than the last blocks.
    flush(depot).await?;
    let mut flushed = Instant::now();
    loop {
        let (store, after) = (depot.store().clone(), progress.after);
        let page = on_worker(move || page_of(&*store, job.lease, after)).await?;
        let Some(page) = page else {
            // Whether anything is missing is not known.
            return Ok(Pulled::Missing(1));
        };
        let Some(page) = page else { break };
        let tried = AtomicUsize::new(0);
        let mut came = Vec::new();
        // Neither the room nor the turn is overrun by more than what is under way.
        let may_go_on = |_: &BlockId| {
            let goes_on = began.elapsed() < TURN && book.has_room();
            futures::future::ready(goes_on)
        };
        let fetched = futures::stream::iter(page.absent.clone())
            .take_while(may_go_on)
            .map(|id| {
                tried.fetch_add(1, Ordering::Relaxed);
                let session = session.clone();
                async move { (id, session.get(id).await) }
            });
        let mut fetched = std::pin::pin!(fetched.buffer_unordered(BLOCKS_AT_ONCE));
        while let Some((id, got)) = fetched.next().await {
            match got {
                Ok(block) => {
                    progress.bytes += block.bytes().len() as u64;
                    came.push(id);
                    // It may have come for another lease as well.
                    let less = |n: u64| n.checked_sub(1);
                    let left = &job.missing;
                    let _ = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                }
                Err(GetError::Store { .. }) => return Ok(Pulled::Full),
                Err(_) => progress.missing += 1,
            }
            if progress.bytes > job.bytes {
                tracing::info!(lease = %job.lease, "the blocks of a lease are larger than it said");
                return Ok(Pulled::Full);
            }
            if flushed.elapsed() >= FLUSH_EVERY {
                flush(depot).await?;
                flushed = Instant::now();
            }
        }
        // A block that came is here only if there was room for it.
        let store = depot.store().clone();
        match on_worker(move || all_here(&*store, &came)).await? {
            Some(true) => {}
            Some(false) => return Ok(Pulled::Full),
            None => return Ok(Pulled::Missing(1)),
        }
        let tried = tried.load(Ordering::Relaxed);
        if tried < page.absent.len() {
            if !book.has_room() {
                return Ok(Pulled::Full);
            }
            let last = tried.checked_sub(1).map(|at| page.absent[at]);
            progress.after = last.or(progress.after);
            progress.paused = Some(Instant::now());
            return Ok(Pulled::Paused(progress));
        }
        progress.after = Some(page.last);
    }
    if progress.missing > 0 {
        return Ok(Pulled::Missing(progress.missing));
    }
    keep_head(depot, book, &job.owner).await;
    Ok(Pulled::All)
}

async fn flush(depot: &Depot) -> Result<(), store::Error> {
    let store = depot.store().clone();
    on_worker(move || store.flush().map(Some)).await.map(drop)
}

/// Some blocks of a lease.
struct Page {
    last: BlockId,
    absent: Vec<BlockId>,
}

fn page_of(
    store: &dyn Store,
    lease: LeaseId,
    after: Option<BlockId>,
) -> Result<Option<Page>, store::Error> {
    let ids = store.lease_blocks(lease, after, PAGE)?;
    let Some(last) = ids.last().copied() else {
        return Ok(None);
    };
    let mut absent = Vec::new();
    for id in ids {
        if !store.has(id)? {
            absent.push(id);
        }
    }
    Ok(Some(Page { last, absent }))
}

fn all_here(store: &dyn Store, ids: &[BlockId]) -> Result<bool, store::Error> {
    for id in ids {
        if !store.has(*id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Nothing when the work did not come to its end: the node is going down, or it panicked.
async fn on_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<Option<T>, store::Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map(Some),
        Err(_) => Ok(None),
    }
}

/// Keeps the head of a lease's owner: how the owner finds the backup again. The job for heads does the rest, also when it is not found now.
async fn keep_head(depot: &Depot, book: &Arc<Book>, owner: &[u8; 32]) {
    let heads = depot.net().heads();
    let id = head_id(owner);
    // What is kept already stays for the reason that it is kept for.
    if heads.kept().await.is_ok_and(|kept| kept.contains(&id)) {
        return;
    }
    let kept = tokio::time::timeout(HEAD_PATIENCE, async {
        let Some(head) = depot.heads().find(id).await? else {
            return Ok(false);
        };
        let book = book.clone();
        // First why it is kept: else it would be kept for ever.
        if !matches!(on_worker(move || book.keep_head(id)).await, Ok(Some(true))) {
            return Ok(false);
        }
        heads.keep(head).await.map(|_| true)
    });
    match kept.await {
        Ok(Ok(true)) => {}
        other => tracing::info!(head = %id, ?other, "the head of a lease's owner is not kept yet"),
    }
}

#[cfg(test)]
#[path = "holder/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "holder/pass_tests.rs"]
mod pass_tests;

#[cfg(test)]
#[path = "holder/fair_tests.rs"]
mod fair_tests;

#[cfg(test)]
#[path = "holder/share_tests.rs"]
mod share_tests;

#[cfg(test)]
#[path = "holder/hostile_tests.rs"]
mod hostile_tests;
