//! Answers offers of blocks, and fetches what is taken, from the peer that offered it first.
//!
//! Any peer of the mesh may offer. Who floods hears "busy"; who offers what it then does not give, or another size than it said, is not heard for
//! a while. What a stranger offers beyond its share, or a free rider when little is left, is refused before the store is looked into; and however
//! many offers come, the store is made to flush at most once in a while, and only when something was written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::accept::{self, Load, Offered, Room};
use super::flushes::Flushes;
use super::unsure::Unsure;
use crate::block::BlockSource;
use crate::depot::{Depot, Traffic};
use crate::id::BlockId;
use crate::net::exchange::Standing;
use crate::net::replica::{Answer, MAX_OFFERED, Refusal, Why, Wish};
use crate::store::{self, Class, Keep, Store};

/// How long to look for one block.
const PATIENCE: Duration = Duration::from_secs(20);
/// Blocks of one offer that are fetched at the same time.
const BLOCKS_AT_ONCE: usize = 8;
/// Offers of one peer that are answered in a minute, and strangers that are counted; members are counted beside them. Who hands over much offers the next
/// blocks, and asks how far it is with those before, a few times a second.
pub(super) const OFFERS_PER_MINUTE: u32 = 300;
pub(super) const MAX_COUNTED: usize = 1024;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a peer that did not give what it offered is not heard, and how many are remembered.
const REST: Duration = Duration::from_secs(600);
const MAX_RESTING: usize = 1024;
/// Blocks taken for others that are remembered, about 1 MiB.
const MAX_TAKEN: usize = 8192;
/// How often it is looked up, for strangers whose share is used up, which of those are here still.
const LOOK_THROUGH: Duration = Duration::from_secs(60);
/// How often a flush is asked for because of blocks that are offered and are here already.
const FLUSH_EVERY: Duration = Duration::from_secs(10);
/// Places at which the store is looked into to see how cold cached blocks are, and blocks at each.
const SAMPLES: usize = 8;
const SAMPLE_BLOCKS: usize = 4;

/// Takes blocks that others offer. What it knows is forgotten with the process: then the share of the cache starts anew.
pub struct Taker {
    depot: Depot,
    limits: accept::Limits,
    /// Blocks that are being fetched.
    coming: HashMap<BlockId, Origin>,
    fetches: JoinSet<Fetched>,
    /// Blocks that were taken.
    taken: HashMap<BlockId, Origin>,
    /// Peers that are not heard, and until when.
    resting: HashMap<PeerId, Instant>,
    /// Offers in the minute that began then, of strangers and of members.
    offers: HashMap<PeerId, u32>,
    of_members: HashMap<PeerId, u32>,
    minute: Instant,
    /// When it was looked up last which of the blocks that were taken are here still.
    looked_through: Option<Instant>,
    flushes: Arc<Flushes>,
    /// Blocks that are here and were offered while they might not be durable.
    unsure: Unsure,
    /// When a flush was asked for last because of these.
    flushed: Option<Instant>,
    /// Offers for which the store was looked into.
    #[cfg(test)]
    pub(super) looks: u64,
}

/// Where a block is from.
#[derive(Clone, Copy)]
struct Origin {
    peer: PeerId,
    /// Whether that was in no ring of ours.
    is_stranger: bool,
    bytes: u32,
}

/// How fetching the blocks of an offer ended.
pub struct Fetched {
    peer: PeerId,
    blocks: Vec<FetchedBlock>,
}

/// What the store says to an offer.
struct Seen {
    room: Room,
    /// Which of the blocks are here.
    is_here: Vec<bool>,
    /// Whether those that are will stay after a crash.
    is_durable: bool,
    /// Which of them are kept here for this node itself.
    own: Vec<bool>,
}

struct FetchedBlock {
    id: BlockId,
    /// Its size as the peer said.
    said: u32,
    /// Its size; nothing when it could not be had.
    bytes: Option<u32>,
    /// Whether it is in the store, durably.
    is_kept: bool,
}

impl Taker {
    /// Nothing is under way.
    pub fn new(depot: Depot, limits: accept::Limits) -> Self {
        Self {
            depot,
            limits,
            coming: HashMap::new(),
            fetches: JoinSet::new(),
            taken: HashMap::new(),
            resting: HashMap::new(),
            offers: HashMap::new(),
            of_members: HashMap::new(),
            minute: Instant::now(),
            looked_through: None,
            flushes: Arc::default(),
            unsure: Unsure::default(),
            flushed: None,
            #[cfg(test)]
            looks: 0,
        }
    }

    /// Answers an offer and starts to fetch what is taken. Of what a peer that is no member of a ring offers, only so much is.
    pub async fn answer(
        &mut self,
        peer: PeerId,
        is_member: bool,
        why: Why,
        blocks: Vec<(BlockId, u32)>,
    ) -> Answer {
        let standing = match is_member {
            true => Standing::Member,
            false => self.depot.ledger().earned(peer),
        };
        if let Err(refusal) = self.admit(peer, is_member, blocks.len()) {
            return Answer::Refused(refusal);
        }
        let load = self.load(peer);
        if let Some(refusal) = self.turn_away(peer, standing, why, &blocks, &load) {
            return Answer::Refused(refusal);
        }
        let Some(seen) = self.look(peer, is_member, why, &blocks).await else {
            return Answer::Refused(Refusal::Busy);
        };
        let mut room = seen.room;
        self.weigh(peer, &mut room);
        let mut offered = Vec::with_capacity(blocks.len());
        for ((id, bytes), is_here) in blocks.into_iter().zip(seen.is_here) {
            if !is_here {
                // What comes again is another copy.
                self.unsure.forget(&id);
            }
            offered.push(Offered {
                id,
                bytes,
                is_here: is_here && self.is_durable(id, is_member, seen.is_durable),
                // What came by another way is asked about again, like what comes from the peer itself.
                is_coming: is_here || self.coming.contains_key(&id),
                rate: self.depot.demand().rate(&id),
            });
        }
        self.flush_if_due(peer);
        let mut wishes = match self.taken.len() + self.coming.len() + MAX_OFFERED > MAX_TAKEN {
            true => offered.iter().map(full).collect(),
            false => accept::decide(why, standing, &offered, &room, &load, &self.limits),
        };
        for (wish, _) in wishes.iter_mut().zip(seen.own).filter(|(_, own)| *own) {
            *wish = Wish::Refuse(Refusal::Unwilling);
        }
        let mut new = Vec::new();
        for (offered, wish) in offered.into_iter().zip(&wishes) {
            if *wish == Wish::Want && !offered.is_coming {
                let (id, bytes) = (offered.id, offered.bytes);
                let origin = Origin {
                    peer,
                    is_stranger: !is_member,
                    bytes,
                };
                if self.coming.insert(id, origin).is_none() {
                    new.push((id, bytes));
                }
            }
        }
        if !new.is_empty() {
            let (depot, flushes) = (self.depot.clone(), self.flushes.clone());
            self.fetches.spawn(fetch(depot, flushes, peer, new));
        }
        Answer::Wishes(wishes)
    }

    /// Whether a peer is heard.
    fn admit(&mut self, peer: PeerId, is_member: bool, blocks: usize) -> Result<(), Refusal> {
        let now = Instant::now();
        if blocks == 0 || blocks > MAX_OFFERED {
            return Err(Refusal::Invalid);
        }
        self.resting.retain(|_, until| *until > now);
        if self.resting.contains_key(&peer) {
            return Err(Refusal::Unwilling);
        }
        if now.duration_since(self.minute) >= MINUTE {
            self.offers.clear();
            self.of_members.clear();
            self.minute = now;
        }
        // Of members there are only so many; strangers may call themselves by as many names as they like.
        let offers = match is_member {
            true => &mut self.of_members,
            false => &mut self.offers,
        };
        if offers.len() >= MAX_COUNTED && !offers.contains_key(&peer) {
            return Err(Refusal::Busy);
        }
        let offers = offers.entry(peer).or_default();
        *offers += 1;
        match *offers > OFFERS_PER_MINUTE {
            true => Err(Refusal::Busy),
            false => Ok(()),
        }
    }

    /// What is being fetched.
    fn load(&self, peer: PeerId) -> Load {
        let mut load = Load::default();
        for origin in self.coming.values() {
            load.all += 1;
            load.of_peer += usize::from(origin.peer == peer);
            load.of_strangers += usize::from(origin.is_stranger);
        }
        load
    }

    /// Adds what is taken, and what is coming, to what is known of the room.
    fn weigh(&self, peer: PeerId, room: &mut Room) {
        for origin in self.taken.values().chain(self.coming.values()) {
            let bytes = u64::from(origin.bytes);
            room.taken += bytes;
            room.of_peer += bytes * u64::from(origin.peer == peer);
            room.of_strangers += bytes * u64::from(origin.is_stranger);
        }
    }

    /// Whether it is long ago that it was looked up which of the blocks that were taken are here still.
    fn is_stale(&self) -> bool {
        let looked = self.looked_through;
        looked.is_none_or(|at| at.elapsed() >= LOOK_THROUGH)
    }

    /// What can be said to a stranger's offer without a look into the store. What was taken because of offers is asked about again, and so is looked up.
    fn turn_away(
        &self,
        peer: PeerId,
        standing: Standing,
        why: Why,
        blocks: &[(BlockId, u32)],
        load: &Load,
    ) -> Option<Refusal> {
        let is_known =
            |(id, _): &(BlockId, u32)| self.coming.contains_key(id) || self.taken.contains_key(id);
        if standing == Standing::Member || blocks.iter().any(is_known) {
            return None;
        }
        let mut room = room_of(&**self.depot.store());
        self.weigh(peer, &mut room);
        let sizes = blocks.iter().map(|(_, bytes)| *bytes);
        let refusal = accept::turn_away(why, standing, sizes, &room, load, &self.limits)?;
        // Some of what fills its share may be gone.
        let may_be_gone = refusal == Refusal::Full && !self.taken.is_empty() && self.is_stale();
        (!may_be_gone).then_some(refusal)
    }

    /// Looks into the store; nothing when it can't be read now.
    async fn look(
        &mut self,
        peer: PeerId,
        is_member: bool,
        why: Why,
        blocks: &[(BlockId, u32)],
    ) -> Option<Seen> {
        #[cfg(test)]
        {
            self.looks += 1;
        }
        let taken = match is_member || self.is_stale() {
            true => std::mem::take(&mut self.taken),
            false => HashMap::new(),
        };
        let is_looked_through = !taken.is_empty();
        let (depot, limits) = (self.depot.clone(), self.limits);
        let asked = blocks.to_vec();
        let looked = tokio::task::spawn_blocking(move || {
            let rate = |id: &BlockId| depot.demand().rate(id);
            let mut taken = taken;
            let seen = look(&**depot.store(), why, &asked, &mut taken, rate, &limits);
            (taken, seen)
        });
        // Only a node that is going down loses its worker threads.
        let (taken, seen) = looked.await.ok()?;
        if is_looked_through {
            self.taken = taken;
            self.looked_through = Some(Instant::now());
        }
        let failed = |error: &store::Error| {
            tracing::warn!(%error, %peer, "the store could not be read for an offer");
        };
        seen.inspect_err(failed).ok()
    }

    /// Whether a block that is here stays after a crash: nothing was written since the last flush, or one began since it was seen.
    fn is_durable(&mut self, id: BlockId, is_member: bool, is_all_durable: bool) -> bool {
        // What was taken has been flushed.
        if is_all_durable || self.taken.contains_key(&id) {
            self.unsure.forget(&id);
            return true;
        }
        self.unsure.is_durable(id, is_member, &self.flushes)
    }

    /// Asks for a flush if blocks are to become durable, now and then and whoever offered them. Nobody waits for it.
    fn flush_if_due(&mut self, peer: PeerId) {
        let is_due = self.flushed.is_none_or(|at| at.elapsed() >= FLUSH_EVERY);
        if self.unsure.is_empty() || !is_due {
            return;
        }
        self.flushed = Some(Instant::now());
        let (flushes, store) = (self.flushes.clone(), self.depot.store().clone());
        self.fetches.spawn(async move {
            if let Err(error) = flushes.flush(&store).await {
                tracing::warn!(%error, "blocks that were offered are not durable");
            }
            let blocks = Vec::new();
            Fetched { peer, blocks }
        });
    }

    /// Waits for the end of a fetch; never returns when none is under way.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub async fn ended(&mut self) -> Fetched {
        loop {
            match self.fetches.join_next().await {
                Some(Ok(fetched)) => return fetched,
                // Tasks are aborted only together with this.
                Some(Err(error)) => tracing::error!(%error, "fetching offered blocks has failed"),
                None => {
                    self.coming.clear();
                    std::future::pending::<()>().await;
                }
            }
        }
    }

    /// Takes in how a fetch ended.
    pub fn settle(&mut self, fetched: Fetched) {
        let peer = fetched.peer;
        let (mut kept, mut is_honest) = (0, true);
        for block in fetched.blocks {
            let origin = self.coming.remove(&block.id);
            is_honest &= block.bytes == Some(block.said);
            if let (true, Some(bytes), Some(origin)) = (block.is_kept, block.bytes, origin) {
                kept += 1;
                self.taken.insert(block.id, Origin { bytes, ..origin });
            }
        }
        Traffic::add(&self.depot.traffic().taken_blocks, kept);
        if !is_honest {
            tracing::info!(%peer, "a peer did not give the blocks that it offered");
            if self.resting.len() < MAX_RESTING {
                self.resting.insert(peer, Instant::now() + REST);
            }
        }
    }
}

fn full(block: &Offered) -> Wish {
    match block.is_here {
        true => Wish::Have,
        false => Wish::Refuse(Refusal::Full),
    }
}

/// How much room there is, as far as it is known without a look into the index.
fn room_of(store: &dyn Store) -> Room {
    let usage = store.usage();
    Room {
        quota: usage.quota,
        free: usage.quota.saturating_sub(usage.disk_bytes),
        cached: usage.cached_bytes,
        taken: 0,
        of_peer: 0,
        of_strangers: 0,
        coldest: f64::INFINITY,
    }
}

/// What the store says. Of the blocks that were taken those are forgotten that are no cached blocks here any more, when that makes a difference.
fn look(
    store: &dyn Store,
    why: Why,
    blocks: &[(BlockId, u32)],
    taken: &mut HashMap<BlockId, Origin>,
    rate: impl Fn(&BlockId) -> f64,
    limits: &accept::Limits,
) -> Result<Seen, store::Error> {
    let is_here: Result<Vec<bool>, _> = blocks.iter().map(|(id, _)| store.has(*id)).collect();
    // In this order: what is written meanwhile was not seen here.
    let (is_here, is_durable) = (is_here?, store.is_durable());
    let mut room = room_of(store);
    let offered: u64 = blocks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    let known: u64 = taken.values().map(|origin| u64::from(origin.bytes)).sum();
    // Only when the answer may depend on it.
    let share = (room.cached.saturating_add(room.free)) / limits.popular_share.max(1);
    let share = share / limits.stranger_share.max(1);
    if known.saturating_add(offered) > share || taken.len() + 2 * MAX_OFFERED > MAX_TAKEN {
        let mut gone = Vec::new();
        for id in taken.keys() {
            let stat = store.stat(*id)?;
            if stat.and_then(|stat| stat.class) != Some(Class::Cached) {
                gone.push(*id);
            }
        }
        for id in gone {
            taken.remove(&id);
        }
    }
    let spare = room.quota / limits.spare_share.max(1);
    if room.free.saturating_sub(spare) < offered {
        room.coldest = coldest(store, rate)?;
    }
    Ok(Seen {
        room,
        is_here,
        is_durable,
        own: own(store, why, blocks)?,
    })
}

/// Which of these are kept here for this node itself. That is no place to hand them over to: what a leaving holder keeps may be the copy of just
/// this node's backup, and would be lost with it.
fn own(store: &dyn Store, why: Why, blocks: &[(BlockId, u32)]) -> Result<Vec<bool>, store::Error> {
    let is_own = |(id, _): &(BlockId, u32)| {
        let stat = store.stat(*id)?;
        Ok(why == Why::HandOver && stat.and_then(|stat| stat.class) == Some(Class::Pinned))
    };
    blocks.iter().map(is_own).collect()
}

/// The lowest rate of some cached blocks, chosen at random; infinite when none were met.
fn coldest(store: &dyn Store, rate: impl Fn(&BlockId) -> f64) -> Result<f64, store::Error> {
    let mut coldest = f64::INFINITY;
    for _ in 0..SAMPLES {
        let mut digest = [0; 48];
        digest[..32].copy_from_slice(&rand::random::<[u8; 32]>());
        let start = BlockId::from_sha384(digest);
        let mut found = store.list(Some(start), SAMPLE_BLOCKS)?;
        if found.is_empty() {
            found = store.list(None, SAMPLE_BLOCKS)?;
        }
        for (id, _) in found {
            let stat = store.stat(id)?;
            if stat.and_then(|stat| stat.class) == Some(Class::Cached) {
                coldest = coldest.min(rate(&id));
            }
        }
    }
    Ok(coldest)
}

/// Fetches blocks of an offer, and makes what came durable.
async fn fetch(
    depot: Depot,
    flushes: Arc<Flushes>,
    peer: PeerId,
    blocks: Vec<(BlockId, u32)>,
) -> Fetched {
    let session = depot.session(PATIENCE, Keep::Cached);
    session.prefer(peer);
    let fetched = futures::stream::iter(blocks).map(|(id, said)| {
        let session = session.clone();
        async move {
            let block = session.get(id).await;
            let bytes = block.ok().map(|block| block.bytes().len());
            FetchedBlock {
                id,
                said,
                bytes: bytes.and_then(|bytes| u32::try_from(bytes).ok()),
                is_kept: false,
            }
        }
    });
    let mut blocks: Vec<_> = fetched.buffer_unordered(BLOCKS_AT_ONCE).collect().await;
    let came = blocks.iter().filter(|block| block.bytes.is_some());
    let ids: Vec<BlockId> = came.map(|block| block.id).collect();
    if ids.is_empty() {
        return Fetched { peer, blocks };
    }
    let store = depot.store().clone();
    let kept = async {
        if !flushes.flush(&store).await? {
            return Ok(Vec::new());
        }
        let store = store.clone();
        let here = tokio::task::spawn_blocking(move || -> Result<Vec<BlockId>, store::Error> {
            let mut here = Vec::new();
            for id in ids {
                if store.has(id)? {
                    here.push(id);
                }
            }
            Ok(here)
        });
        // Only a node that is going down loses its worker threads.
        here.await.unwrap_or_else(|_| Ok(Vec::new()))
    };
    match kept.await {
        Ok(here) => {
            for block in &mut blocks {
                block.is_kept = here.contains(&block.id);
            }
        }
        Err(error) => tracing::warn!(%error, "offered blocks could not be kept"),
    }
    Fetched { peer, blocks }
}
