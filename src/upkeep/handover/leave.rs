//! A node leaves: what it keeps for others is handed over, as far as somebody takes it, and then let go.
//!
//! From the start on the node takes no new leases and no offers, which tells owners to look for other holders. The blocks of leases are offered
//! to ring members, all that only this node has cached to the peers nearest to them. A lease that its owner lets holders pass on goes to
//! a member that does not keep that backup yet, and ends here only when it is whole and durable there, or when without this node there are as
//! many holders as were asked for (or by force). That the owner itself has the blocks, or another holder, is no reason: the copy
//! would be missing. Of other leases the blocks are handed over to members that have nothing of the backup; its owner sees at the next audit that
//! this copy is gone, and makes up for it.
//! What is pinned here is this node's own and is not touched.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

use super::on_worker;
use super::policy::{Entry, Limits, Said, Stage, Table};
use super::work::{ASK_TIMEOUT, Worker};
use crate::depot::Depot;
use crate::id::BlockId;
use crate::lease::{Held, Lease};
use crate::monitor::{Monitor, Progress};
use crate::net::exchange;
use crate::net::replica::{Answer, Request, Wish};
use crate::store::{self, Class, LeaseId, LeaseInfo, Store};
use crate::time::Clock;
use crate::upkeep::heads::is_head_lease;
use crate::upkeep::holder::Candidates;
use crate::upkeep::holder::pass::{self, send};

/// Blocks that are handed over together.
const PAGE: usize = 512;
/// How long to wait for a first peer.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
const JOIN_POLL: Duration = Duration::from_millis(100);

/// How to leave.
pub struct Order {
    /// Store and network.
    pub depot: Depot,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Who is offered what is leased.
    pub members: Arc<dyn Candidates>,
    /// Who is offered what is cached.
    pub peers: Arc<dyn Candidates>,
    /// Limits.
    pub limits: Limits,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether leases end here even if nobody else took their blocks.
    pub force: bool,
}

/// What came of leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Leases that ended here.
    pub leases_ended: u64,
    /// Leases that stay, because not all their blocks were found elsewhere.
    pub leases_kept: u64,
    /// Blocks of leases: at another node, and at none. One in two leases counts twice.
    pub leased_safe: u64,
    /// See `leased_safe`.
    pub leased_alone: u64,
    /// Cached blocks: at another node, and at none.
    pub cached_safe: u64,
    /// See `cached_safe`.
    pub cached_alone: u64,
    /// Blocks, of both kinds, that were given to another node now.
    pub handed_over: u64,
    /// Their bytes.
    pub handed_over_bytes: u64,
}

impl Left {
    /// Whether nothing stays that only this node has.
    pub const fn is_complete(&self) -> bool {
        self.leased_alone == 0 && self.cached_alone == 0
    }

    /// Adds what came of some blocks. Returns safe and alone.
    fn count(&mut self, table: &Table) -> (u64, u64) {
        let (mut safe, mut alone) = (0, 0);
        for entry in table.values() {
            match entry.stage {
                Stage::Safe { handed } => {
                    safe += 1;
                    self.handed_over += u64::from(handed);
                    self.handed_over_bytes += u64::from(handed) * u64::from(entry.bytes);
                }
                _ => alone += 1,
            }
        }
        (safe, alone)
    }
}

/// Hands over what is kept here for others, and lets go of it. Stays in force until the node stops: see [`Depot::set_leaving`].
///
/// # Errors
/// Those of the store. What was handed over until then is.
pub async fn leave(order: Order, monitor: &dyn Monitor) -> Result<Left, store::Error> {
    let depot = order.depot.clone();
    depot.set_leaving();
    let until = Instant::now() + order.timeout;
    let mut leaving = Leaving {
        worker: Worker {
            depot: order.depot,
            clock: order.clock,
            limits: order.limits,
            local: None,
        },
        until,
        left: Left::default(),
        done: Progress::default(),
        monitor,
    };
    let usage = depot.store().usage();
    leaving.done.bytes_total = usage.leased_bytes + usage.cached_bytes;
    let store = depot.store().clone();
    let mut leases = on_worker(move || store.leases()).await?;
    // Those of heads come last: they are no leases of owners, and nothing waits for them.
    leases.sort_by_key(|(_, info)| is_head_lease(info));
    if !leases.is_empty() {
        leaving.wait_for(&*order.members).await;
    }
    let mut ended = Vec::new();
    for (lease, info) in leases {
        if is_head_lease(&info) {
            leaving.head(lease, info.root, &*order.members).await?;
            ended.push((lease, 0));
            continue;
        }
        let is_safe = match passable(&info) {
            Some(signed) => leaving.pass_on(lease, &signed, &*order.members).await?,
            None => leaving.lease(lease, info.root, &*order.members).await?,
        };
        if is_safe || order.force {
            ended.push((lease, 1));
        } else {
            leaving.left.leases_kept += 1;
        }
    }
    if usage.cached_bytes > 0 {
        leaving.wait_for(&*order.peers).await;
        leaving.cached(&*order.peers).await?;
    }
    for (lease, counts) in ended {
        let store = depot.store().clone();
        let removed = on_worker(move || match store.remove_lease(lease) {
            // Its owner may have been faster.
            Ok(_) | Err(store::Error::NoSuchLease(_)) => Ok(()),
            Err(error) => Err(error),
        });
        removed.await?;
        leaving.left.leases_ended += counts;
    }
    withdraw(&depot).await?;
    Ok(leaving.left)
}

struct Leaving<'a> {
    worker: Worker,
    until: Instant,
    left: Left,
    done: Progress,
    monitor: &'a dyn Monitor,
}

impl Leaving<'_> {
    async fn wait_for(&self, receivers: &dyn Candidates) {
        let until = self.until.min(Instant::now() + JOIN_PATIENCE);
        let wait = async {
            while receivers.peers().is_empty() {
                tokio::time::sleep(JOIN_POLL).await;
            }
        };
        // Without anybody what follows finds that nobody takes anything.
        let _ = tokio::time::timeout_at(until, wait).await;
    }

    /// Hands some blocks over; what is open when the time is up counts as alone.
    async fn hand_over(&mut self, table: &mut Table, receivers: &dyn Candidates) -> (u64, u64) {
        self.worker.finish(table, receivers, self.until).await;
        self.done.blocks += table.len() as u64;
        self.done.bytes += table.values().map(|e| u64::from(e.bytes)).sum::<u64>();
        self.monitor.progress(self.done);
        self.left.count(table)
    }

    /// Returns whether a lease is kept by another member in place of this node, or need not be.
    async fn pass_on(
        &mut self,
        lease: LeaseId,
        signed: &Lease,
        members: &dyn Candidates,
    ) -> Result<bool, store::Error> {
        let (blocks, bytes) = (signed.terms().blocks, signed.terms().bytes);
        let passed = self.passed(lease, signed, members.peers());
        let passed = match tokio::time::timeout_at(self.until, passed).await {
            Ok(passed) => passed?,
            Err(_) => Passed::Nowhere,
        };
        match passed {
            Passed::Nowhere => self.left.leased_alone += blocks,
            Passed::Enough => self.left.leased_safe += blocks,
            Passed::On => {
                self.left.leased_safe += blocks;
                self.left.handed_over += blocks;
                self.left.handed_over_bytes += bytes;
            }
        }
        self.done.blocks += blocks;
        self.done.bytes += bytes;
        self.monitor.progress(self.done);
        Ok(!matches!(passed, Passed::Nowhere))
    }

    async fn passed(
        &self,
        lease: LeaseId,
        signed: &Lease,
        members: Vec<PeerId>,
    ) -> Result<Passed, store::Error> {
        let root = signed.terms().root;
        let (mut holders, mut may) = (0, Vec::new());
        for peer in members {
            let request = Request::Holding {
                owner: *signed.owner(),
                roots: vec![root],
            };
            let said = self.worker.depot.net().replica().ask(peer, request).await;
            let Ok(Answer::Wishes(wishes)) = said else {
                continue;
            };
            match wishes.first() {
                Some(Wish::Have) => holders += u32::from(self.shows(peer, lease).await?),
                // Perhaps because it was passed on to it before; if not, it refuses.
                Some(Wish::Want) => may.insert(0, peer),
                // The owner has the snapshot's block.
                Some(Wish::Refuse(_)) if !self.has(peer, root).await => may.push(peer),
                _ => {}
            }
        }
        if holders >= signed.terms().copies {
            return Ok(Passed::Enough);
        }
        for peer in may {
            if self.takes(peer, lease, signed).await? && self.shows(peer, lease).await? {
                return Ok(Passed::On);
            }
        }
        Ok(Passed::Nowhere)
    }

    /// Whether a member keeps a lease, whole, in the end.
    async fn takes(
        &self,
        peer: PeerId,
        lease: LeaseId,
        signed: &Lease,
    ) -> Result<bool, store::Error> {
        let limits = &self.worker.limits;
        let (mut fewest, mut moved) = (u64::MAX, Instant::now());
        while moved.elapsed() < limits.patience {
            match send(&self.worker.depot, peer, lease, signed).await? {
                Some(pass::Said::Whole) => return Ok(true),
                Some(pass::Said::No) => return Ok(false),
                Some(pass::Said::Coming { missing }) if missing < fewest => {
                    (fewest, moved) = (missing, Instant::now());
                }
                Some(pass::Said::Coming { .. }) | None => {}
            }
            tokio::time::sleep(limits.poll).await;
        }
        Ok(false)
    }

    /// Whether a peer shows one block of a lease, chosen by chance.
    async fn shows(&self, peer: PeerId, lease: LeaseId) -> Result<bool, store::Error> {
        let mut digest = [0; 48];
        digest[..32].copy_from_slice(&rand::random::<[u8; 32]>());
        let after = BlockId::from_sha384(digest);
        let store = self.worker.depot.store().clone();
        let some = on_worker(move || match store.lease_blocks(lease, Some(after), 1)? {
            some if some.is_empty() => store.lease_blocks(lease, None, 1),
            some => Ok(some),
        });
        Ok(match some.await?.first() {
            Some(id) => self.worker.shows(peer, *id).await == Said::Have,
            None => false,
        })
    }

    async fn has(&self, peer: PeerId, id: BlockId) -> bool {
        let exchange = self.worker.depot.net().exchange();
        let answers = exchange.have(peer, vec![id], ASK_TIMEOUT).await;
        answers.is_ok_and(|answers| {
            let mut answers = answers.into_iter();
            answers.any(|(_, answer)| matches!(answer, exchange::Answer::Have))
        })
    }

    /// Returns whether all blocks of a lease that are here are elsewhere, too.
    async fn lease(
        &mut self,
        lease: LeaseId,
        root: BlockId,
        members: &dyn Candidates,
    ) -> Result<bool, store::Error> {
        let mut others = Vec::new();
        for peer in members.peers() {
            // Who has the snapshot's block is the owner, or another holder.
            if !self.has(peer, root).await {
                others.push(peer);
            }
        }
        let members = &Only(others);
        let mut after = None;
        let mut is_safe = true;
        loop {
            let store = self.worker.depot.store().clone();
            let page = on_worker(move || leased(&*store, lease, after)).await?;
            let Some((last, blocks)) = page else {
                return Ok(is_safe);
            };
            after = Some(last);
            let entries = blocks.into_iter();
            // Its owner counts copies: that somebody announced one is no reason not to offer this one.
            let mut table = entries
                .map(|(id, bytes)| (id, Entry::new(bytes, Stage::Alone)))
                .collect();
            let (safe, alone) = self.hand_over(&mut table, members).await;
            self.left.leased_safe += safe;
            self.left.leased_alone += alone;
            is_safe &= alone == 0;
        }
    }

    /// Hands over the logs of a head, as far as somebody takes them: whoever keeps the owner's backups keeps the head, too. That is not counted.
    async fn head(
        &mut self,
        lease: LeaseId,
        head: BlockId,
        members: &dyn Candidates,
    ) -> Result<(), store::Error> {
        let left = self.left;
        let handed_over = self.lease(lease, head, members).await;
        self.left = left;
        handed_over.map(drop)
    }

    async fn cached(&mut self, peers: &dyn Candidates) -> Result<(), store::Error> {
        let mut after = None;
        loop {
            let store = self.worker.depot.store().clone();
            let page = on_worker(move || cached(&*store, after)).await?;
            let Some((last, blocks)) = page else {
                return Ok(());
            };
            after = Some(last);
            if blocks.is_empty() {
                continue;
            }
            let entries = blocks.into_iter();
            let mut table = entries
                .map(|(id, bytes)| (id, Entry::new(bytes, Stage::Unsought)))
                .collect();
            let (safe, alone) = self.hand_over(&mut table, peers).await;
            self.left.cached_safe += safe;
            self.left.cached_alone += alone;
            let is_safe = |entry: &Entry| matches!(entry.stage, Stage::Safe { .. });
            let safe: Vec<BlockId> = table
                .into_iter()
                .filter(|(_, entry)| is_safe(entry))
                .map(|(id, _)| id)
                .collect();
            let store = self.worker.depot.store().clone();
            on_worker(move || store.mark_expendable(&safe)).await?;
        }
    }
}

/// What became of a lease.
#[derive(Clone, Copy)]
enum Passed {
    /// Another member keeps it now.
    On,
    /// There are enough holders.
    Enough,
    /// No member took it.
    Nowhere,
}

/// Some peers.
struct Only(Vec<PeerId>);

impl Candidates for Only {
    fn peers(&self) -> Vec<PeerId> {
        self.0.clone()
    }
}

/// The lease as its owner signed it, if it is whole and may be passed on.
fn passable(info: &LeaseInfo) -> Option<Lease> {
    let held = Held::decode(&info.terms).ok()?;
    let is_shared = held.lease().terms().copies > 0;
    (info.complete && is_shared).then(|| held.lease().clone())
}

/// Some blocks, and the id to go on after.
type Page = Option<(BlockId, Vec<(BlockId, u32)>)>;

fn leased(store: &dyn Store, lease: LeaseId, after: Option<BlockId>) -> Result<Page, store::Error> {
    let ids = store.lease_blocks(lease, after, PAGE)?;
    let Some(last) = ids.last().copied() else {
        return Ok(None);
    };
    let mut here = Vec::new();
    for id in ids {
        let bytes = store.stat(id)?.and_then(|stat| stat.bytes);
        here.extend(bytes.map(|bytes| (id, bytes)));
    }
    Ok(Some((last, here)))
}

fn cached(store: &dyn Store, after: Option<BlockId>) -> Result<Page, store::Error> {
    of_classes(store, after, &[Class::Cached])
}

fn of_classes(
    store: &dyn Store,
    after: Option<BlockId>,
    classes: &[Class],
) -> Result<Page, store::Error> {
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
    Ok(Some((last, fitting)))
}

/// Stops answering the DHT for all that is not this node's own. Other nodes forget the announcements when they expire.
async fn withdraw(depot: &Depot) -> Result<(), store::Error> {
    let mut after = None;
    loop {
        let store = depot.store().clone();
        let others = [Class::Leased, Class::Cached];
        let page = on_worker(move || of_classes(&*store, after, &others)).await?;
        let Some((last, blocks)) = page else {
            return Ok(());
        };
        after = Some(last);
        let ids: BTreeSet<BlockId> = blocks.into_iter().map(|(id, _)| id).collect();
        let keys = ids.iter().map(BlockId::to_multihash).collect();
        // It fails only when the net is stopping, and then nobody is answered any more.
        let _ = depot.net().providers().withdraw(keys).await;
    }
}
