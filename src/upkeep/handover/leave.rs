//! A node leaves: what it keeps for others is handed over, as far as somebody takes it, and then let go.
//!
//! From the start on the node takes no new leases and no offers, which tells owners to look for other holders. A lease that its owner lets holders pass
//! on goes to a member that does not keep that backup yet, those with most room first, and ends here only when it is whole and durable there, or
//! when without this node there are as many holders as were asked for. That the owner itself has the blocks, or another holder, is no reason: the copy
//! would be missing. A lease that can't be passed on (it is not whole here, or was made for this holder alone) can only leave its blocks behind: they are
//! offered to members that have nothing of the backup, where nothing keeps them but that they are new. That is counted apart; the owner sees at
//! the next audit that this copy is gone, and makes up for it. One that is not whole here ends in any case: its owner was never told that
//! there is a copy. By force every lease ends: what no member keeps by the lease itself is then
//! offered to everybody as mere blocks. What only this node has cached goes to the peers nearest to it.
//! What is pinned here is this node's own and is not touched.
//!
//! The head of an owner goes with the last of the owner's leases, unless it is kept for another reason as well.
//!
//! It goes on for as long as something is handed over now and then. A peer fetches at its own pace, several leases and many blocks at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::time::Instant;

use super::left::{Fate, Left, Tally};
use super::on_worker;
use super::pages::{PAGE, Page, Source, of_classes};
use super::policy::{Entry, Limits, Said, Stage, Table};
use super::work::{ASK_TIMEOUT, Deadline, UnderWay, Worker};
use crate::depot::Depot;
use crate::head::head_id;
use crate::id::BlockId;
use crate::lease::{Held, Lease};
use crate::monitor::{Monitor, Progress};
use crate::net::exchange;
use crate::net::replica::{Answer, Request, Wish};
use crate::store::{self, Class, LeaseId, LeaseInfo};
use crate::time::Clock;
use crate::upkeep::heads::{OwnHead, is_head_lease, is_head_pin};
use crate::upkeep::holder::Candidates;
use crate::upkeep::holder::pass::{self, send};

/// Leases that are passed on at the same time: as many as a holder fills at once.
const LEASES_AT_ONCE: usize = 4;
/// A member that fills a lease may give others their turn before: so many times the patience with one block.
const TURNS: u32 = 3;
/// How long to wait for a first peer.
const JOIN_PATIENCE: Duration = Duration::from_secs(30);
const JOIN_POLL: Duration = Duration::from_millis(100);

/// How to leave.
pub struct Order {
    /// Store and network.
    pub depot: Depot,
    /// A clock that only goes on.
    pub clock: Arc<dyn Clock>,
    /// Who is offered what is leased.
    pub members: Arc<dyn Candidates>,
    /// Who is offered what is cached.
    pub peers: Arc<dyn Candidates>,
    /// The head of this machine's own owner.
    pub own: OwnHead,
    /// Limits.
    pub limits: Limits,
    /// How long it may take in all.
    pub timeout: Duration,
    /// How long to go on when nothing is handed over.
    pub patience: Duration,
    /// Whether leases end here even if nobody else took their blocks.
    pub force: bool,
}

/// Hands over what is kept here for others, and lets go of it. Stays in force when it is done: see [`Depot::set_leaving`].
///
/// # Errors
/// Those of the store. What was handed over until then is.
///
/// # Cancel safety
/// Dropped, what was handed over is at others, and no lease has ended here but those that are safe.
pub async fn leave(order: Order, monitor: &dyn Monitor) -> Result<Left, store::Error> {
    let depot = order.depot.clone();
    depot.set_leaving();
    let usage = depot.store().usage();
    let leaving = Leaving {
        worker: Worker {
            depot: order.depot,
            clock: order.clock,
            limits: order.limits,
            local: None,
        },
        members: order.members,
        peers: order.peers,
        own: order.own,
        force: order.force,
        failed: Mutex::default(),
        deadline: Deadline::new(order.timeout, order.patience),
        done: Mutex::new(Progress {
            bytes_total: usage.leased_bytes + usage.cached_bytes,
            ..Progress::default()
        }),
        monitor,
    };
    let mut left = Left::default();
    let Ended { leases, heads } = leaving.leases(&mut left).await?;
    if usage.cached_bytes > 0 {
        // However long the last lease was waited for.
        leaving.deadline.moved();
        leaving.wait_for(&*leaving.peers).await;
        let cached = leaving.hand_over(Source::Cached, &*leaving.peers).await?;
        left.cached_safe = cached.safe;
        left.cached_alone = cached.alone;
        left.handed(&cached);
    }
    for lease in leases {
        remove(&depot, lease).await?;
    }
    // After the owners' leases: as long as there is one, its head is kept anew.
    for (lease, head) in heads {
        leaving.end_head(lease, head).await?;
    }
    withdraw(&depot).await?;
    Ok(left)
}

async fn remove(depot: &Depot, lease: LeaseId) -> Result<(), store::Error> {
    let store = depot.store().clone();
    let removed = on_worker(move || match store.remove_lease(lease) {
        // Its owner may have been faster.
        Ok(_) | Err(store::Error::NoSuchLease(_)) => Ok(()),
        Err(error) => Err(error),
    });
    removed.await
}

/// What ends here.
#[derive(Default)]
struct Ended {
    /// Leases of owners.
    leases: Vec<LeaseId>,
    /// Leases of heads, each with its head.
    heads: Vec<(LeaseId, BlockId)>,
}

struct Leaving<'a> {
    worker: Worker,
    members: Arc<dyn Candidates>,
    peers: Arc<dyn Candidates>,
    own: OwnHead,
    force: bool,
    /// Members that said they would fetch a lease, and did not in time.
    failed: Mutex<BTreeSet<PeerId>>,
    deadline: Deadline,
    done: Mutex<Progress>,
    monitor: &'a dyn Monitor,
}

impl Leaving<'_> {
    async fn wait_for(&self, receivers: &dyn Candidates) {
        let now = Instant::now();
        // Half of the time is for what is to be done then.
        let left = self.deadline.at().saturating_duration_since(now) / 2;
        let until = now + left.min(JOIN_PATIENCE);
        let wait = async {
            while receivers.peers().is_empty() {
                tokio::time::sleep(JOIN_POLL).await;
            }
        };
        // Without anybody what follows finds that nobody takes anything.
        let _ = tokio::time::timeout_at(until, wait).await;
    }

    /// So much more is dealt with.
    fn advance(&self, blocks: u64, bytes: u64) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.blocks += blocks;
        done.bytes += bytes;
        self.monitor.progress(*done);
    }

    /// Deals with all leases. Returns those that end here.
    async fn leases(&self, left: &mut Left) -> Result<Ended, store::Error> {
        let store = self.worker.depot.store().clone();
        let leases = on_worker(move || store.leases()).await?;
        if leases.is_empty() {
            return Ok(Ended::default());
        }
        let (heads, leases): (Vec<_>, Vec<_>) = leases
            .into_iter()
            .partition(|(_, info)| is_head_lease(info));
        self.wait_for(&*self.members).await;
        let members = self.roomiest().await;
        let fates = futures::stream::iter(leases).map(|(lease, info)| {
            let members = members.clone();
            async move {
                let fate = self.lease(lease, &info, &members).await;
                (lease, head_of(&info), fate)
            }
        });
        let mut fates = std::pin::pin!(fates.buffer_unordered(LEASES_AT_ONCE));
        let (mut ended, mut needed) = (Ended::default(), BTreeSet::new());
        while let Some((lease, head, fate)) = fates.next().await {
            let fate = fate?;
            left.count(fate, self.force);
            match fate.may_end() || self.force {
                true => ended.leases.push(lease),
                false => needed.extend(head),
            }
        }
        // They are no leases of owners: whoever keeps the owner's backups keeps the head, too. What comes of their logs is not counted.
        for (lease, info) in heads {
            if !needed.contains(&info.root) {
                self.blocks(lease, None).await?;
                ended.heads.push((lease, info.root));
            }
        }
        Ok(ended)
    }

    /// Ends the lease of a head, and keeps the head no more if the lease is all that speaks for it.
    async fn end_head(&self, lease: LeaseId, head: BlockId) -> Result<(), store::Error> {
        let (store, own) = (self.worker.depot.store().clone(), self.own.clone());
        let is_ours = on_worker(move || {
            let mut pins = store.pins()?.into_iter();
            let is_pinned = pins.any(|(_, info)| is_head_pin(&info) && info.root == head);
            Ok(is_pinned || own() == Some(head))
        });
        if !is_ours.await? {
            // First the head: kept without a lease it would count as kept by hand, and its logs would be pinned for good.
            if let Err(error) = self.worker.depot.net().heads().release(head).await {
                tracing::warn!(%head, %error, "a head could not be let go: it is kept until its lease ends");
                return Ok(());
            }
        }
        remove(&self.worker.depot, lease).await
    }

    /// The members that take leases, those with most room first.
    async fn roomiest(&self) -> Vec<PeerId> {
        let replica = &self.worker.depot.net().replica();
        let rooms = self.members.peers().into_iter().map(|peer| async move {
            match replica.ask(peer, Request::Room).await {
                Ok(Answer::State(state)) => Some((state.free_bytes, peer)),
                // Who is leaving itself takes nothing.
                Ok(Answer::Refused(_)) => None,
                _ => Some((0, peer)),
            }
        });
        let rooms = self.deadline.within(futures::future::join_all(rooms));
        let mut rooms: Vec<_> = rooms.await.unwrap_or_default();
        rooms.sort_by_key(|room| std::cmp::Reverse(*room));
        rooms.into_iter().flatten().map(|(_, peer)| peer).collect()
    }

    /// Finds another place for a lease.
    async fn lease(
        &self,
        lease: LeaseId,
        info: &LeaseInfo,
        members: &[PeerId],
    ) -> Result<Fate, store::Error> {
        let mut alone = None;
        if let Some(signed) = passable(info) {
            let passed = self.passed(lease, &signed, members);
            let blocks = signed.terms().blocks;
            match self.deadline.within(passed).await.transpose()? {
                Some(fate @ (Fate::Passed { .. } | Fate::Spare { .. })) => return Ok(fate),
                _ => alone = Some(Fate::Alone { blocks }),
            }
        }
        match alone.filter(|_| !self.force) {
            Some(fate) => Ok(fate),
            None => {
                let tally = self.blocks(lease, Some(info.root)).await?;
                Ok(match info.complete {
                    true => Fate::Blocks(tally),
                    false => Fate::Unfinished(tally),
                })
            }
        }
    }

    async fn passed(
        &self,
        lease: LeaseId,
        signed: &Lease,
        members: &[PeerId],
    ) -> Result<Fate, store::Error> {
        let (root, blocks) = (signed.terms().root, signed.terms().blocks);
        let (mut holders, mut may) = (0, Vec::new());
        let mut begun = Vec::new();
        for peer in members.iter().copied() {
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
                Some(Wish::Want) => begun.push(peer),
                // The owner has the snapshot's block.
                Some(Wish::Refuse(_)) if !self.has(peer, root).await => may.push(peer),
                _ => {}
            }
        }
        if holders >= signed.terms().copies {
            self.advance(blocks, signed.terms().bytes);
            return Ok(Fate::Spare { blocks });
        }
        begun.extend(may);
        while let Some(peer) = self.next_of(&mut begun) {
            if self.takes(peer, lease, signed).await? && self.shows(peer, lease).await? {
                let bytes = signed.terms().bytes;
                return Ok(Fate::Passed { blocks, bytes });
            }
        }
        Ok(Fate::Alone { blocks })
    }

    /// Takes out the first of some members, those last that made nothing of an earlier lease: each of them would be waited for anew with every lease.
    fn next_of(&self, members: &mut Vec<PeerId>) -> Option<PeerId> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let good = members.iter().position(|peer| !failed.contains(peer));
        let next = good.unwrap_or(0);
        (next < members.len()).then(|| members.remove(next))
    }

    /// Whether a member keeps a lease, whole, in the end.
    async fn takes(
        &self,
        peer: PeerId,
        lease: LeaseId,
        signed: &Lease,
    ) -> Result<bool, store::Error> {
        let (limits, terms) = (&self.worker.limits, signed.terms());
        let (mut fewest, mut moved) = (terms.blocks, Instant::now());
        let mut told = 0;
        // Of what came only the number is known.
        let mut come = |missing: u64| {
            let blocks = terms.blocks.saturating_sub(missing);
            let all = u128::from(terms.blocks.max(1));
            let share = u128::from(terms.bytes) * u128::from(blocks) / all;
            let bytes = u64::try_from(share).unwrap_or(u64::MAX);
            self.advance(0, bytes.saturating_sub(told));
            told = told.max(bytes);
        };
        while moved.elapsed() < limits.patience * TURNS {
            match send(&self.worker.depot, peer, lease, signed).await? {
                Some(pass::Said::Whole) => {
                    come(0);
                    self.advance(terms.blocks, 0);
                    self.deadline.moved();
                    return Ok(true);
                }
                Some(pass::Said::No) => return Ok(false),
                Some(pass::Said::Coming { missing }) if missing < fewest => {
                    come(missing);
                    (fewest, moved) = (missing, Instant::now());
                    self.deadline.moved();
                }
                Some(pass::Said::Coming { .. }) | None => {}
            }
            tokio::time::sleep(limits.pause(moved.elapsed())).await;
        }
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.insert(peer);
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

    /// Leaves the blocks of a lease that are here with members that have nothing of the backup; by force with anybody. Without a `root` it is of no backup.
    async fn blocks(&self, lease: LeaseId, root: Option<BlockId>) -> Result<Tally, store::Error> {
        let mut asked: BTreeSet<PeerId> = self.members.peers().into_iter().collect();
        if self.force {
            asked.extend(self.peers.peers());
        }
        let mut others = Vec::new();
        let ask = async {
            for peer in asked {
                let has = match root {
                    // Who has the snapshot's block is the owner, or another holder.
                    Some(root) => self.has(peer, root).await,
                    None => false,
                };
                if !has {
                    others.push(peer);
                }
            }
        };
        // When the time is up nobody is offered anything, and all counts as alone.
        let _ = self.deadline.within(ask).await;
        self.hand_over(Source::Lease(lease), &Only(others)).await
    }

    /// Hands over some blocks; what is open when the time is up counts as alone.
    async fn hand_over(
        &self,
        source: Source,
        receivers: &dyn Candidates,
    ) -> Result<Tally, store::Error> {
        let (mut tally, mut table) = (Tally::default(), Table::new());
        let mut under_way = UnderWay::default();
        let (mut after, mut is_all) = (None, false);
        loop {
            while !is_all && table.len() < PAGE {
                let store = self.worker.depot.store().clone();
                let page = on_worker(move || source.page(&*store, after)).await?;
                let Some(Page {
                    last,
                    blocks,
                    absent,
                }) = page
                else {
                    is_all = true;
                    break;
                };
                after = Some(last);
                tally.absent += absent;
                let entry = |(id, bytes)| (id, Entry::new(bytes, source.first_stage()));
                table.extend(blocks.into_iter().map(entry));
            }
            if table.is_empty() {
                return Ok(tally);
            }
            // A step would start searches and offers before it is found to be late.
            let is_in_time = Instant::now() < self.deadline.at() && {
                let step = self.worker.step(&mut table, receivers, &mut under_way);
                self.deadline.within(step).await.is_some()
            };
            if !is_in_time {
                under_way = UnderWay::default();
            }
            let is_done = |entry: &mut Entry| !is_in_time || !entry.stage.is_open();
            let done: BTreeMap<_, _> = table.extract_if(.., |_, entry| is_done(entry)).collect();
            self.note(source, &done, &mut tally).await?;
        }
    }

    /// Takes in what became of some blocks.
    async fn note(
        &self,
        source: Source,
        done: &Table,
        tally: &mut Tally,
    ) -> Result<(), store::Error> {
        if done.is_empty() {
            return Ok(());
        }
        done.values().for_each(|entry| tally.add(entry));
        let bytes = done.values().map(|entry| u64::from(entry.bytes));
        self.advance(done.len() as u64, bytes.sum());
        let is_safe = |entry: &Entry| matches!(entry.stage, Stage::Safe { .. });
        let safe = done.iter().filter(|(_, entry)| is_safe(entry));
        let safe: Vec<BlockId> = safe.map(|(id, _)| *id).collect();
        if !safe.is_empty() {
            self.deadline.moved();
        }
        match source {
            Source::Lease(_) => Ok(()),
            Source::Cached => {
                let store = self.worker.depot.store().clone();
                on_worker(move || store.mark_expendable(&safe)).await?;
                Ok(())
            }
        }
    }
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

/// The head of the owner whose lease it is. What can't be read says nothing of an owner.
fn head_of(info: &LeaseInfo) -> Option<BlockId> {
    let held = Held::decode(&info.terms).ok()?;
    Some(head_id(held.lease().owner()))
}

/// Stops answering the DHT for all that is not this node's own. No message of the DHT takes back what others were told: they forget it when the
/// announcements expire, [`PROVIDER_TTL`](crate::net::providers::PROVIDER_TTL) after they were made.
async fn withdraw(depot: &Depot) -> Result<(), store::Error> {
    let mut after = None;
    loop {
        let store = depot.store().clone();
        let others = [Class::Leased, Class::Cached];
        let page = on_worker(move || of_classes(&*store, after, &others)).await?;
        let Some(Page { last, blocks, .. }) = page else {
            return Ok(());
        };
        after = Some(last);
        let ids: BTreeSet<BlockId> = blocks.into_iter().map(|(id, _)| id).collect();
        let keys = ids.iter().map(BlockId::to_multihash).collect();
        // It fails only when the net is stopping, and then nobody is answered any more.
        let _ = depot.net().providers().withdraw(keys).await;
    }
}

#[cfg(test)]
#[path = "leave_tests.rs"]
mod tests;
