//! Answers offers of blocks, and fetches what is taken, from the peer that offered it first.
//!
//! Any peer of the mesh may offer. Who floods hears "busy"; who offers what it then does not give, or another size than it said, is not heard for
//! a while.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::accept::{self, Load, Offered, Room};
use crate::block::BlockSource;
use crate::depot::{Depot, Traffic};
use crate::id::BlockId;
use crate::net::replica::{Answer, MAX_OFFERED, Refusal, Why, Wish};
use crate::store::{self, Class, Keep, Store};

/// How long to look for one block.
const PATIENCE: Duration = Duration::from_secs(20);
/// Blocks of one offer that are fetched at the same time.
const BLOCKS_AT_ONCE: usize = 8;
/// Offers of one peer that are answered in a minute, and peers that are counted. Who hands over much offers the next blocks, and asks how far it is with
/// those before, a few times a second.
pub(super) const OFFERS_PER_MINUTE: u32 = 300;
const MAX_COUNTED: usize = 1024;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a peer that did not give what it offered is not heard, and how many are remembered.
const REST: Duration = Duration::from_secs(600);
const MAX_RESTING: usize = 1024;
/// Blocks taken for others that are remembered, about 1 MiB.
const MAX_TAKEN: usize = 8192;
/// Places at which the store is looked into to see how cold cached blocks are, and blocks at each.
const SAMPLES: usize = 8;
const SAMPLE_BLOCKS: usize = 4;

/// Takes blocks that others offer. What it knows is forgotten with the process: then the share of the cache starts anew.
pub struct Taker {
    depot: Depot,
    limits: accept::Limits,
    /// Blocks that are being fetched: from whom, and their sizes.
    coming: HashMap<BlockId, (PeerId, u32)>,
    fetches: JoinSet<Fetched>,
    /// Blocks that were taken: from whom, and their sizes.
    taken: HashMap<BlockId, (PeerId, u32)>,
    /// Peers that are not heard, and until when.
    resting: HashMap<PeerId, Instant>,
    /// Offers in the minute that began then.
    offers: HashMap<PeerId, u32>,
    minute: Instant,
}

/// How fetching the blocks of an offer ended.
pub struct Fetched {
    peer: PeerId,
    blocks: Vec<FetchedBlock>,
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
            minute: Instant::now(),
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
        if let Err(refusal) = self.admit(peer, blocks.len()) {
            return Answer::Refused(refusal);
        }
        let mut taken = std::mem::take(&mut self.taken);
        let (depot, limits) = (self.depot.clone(), self.limits);
        let asked = blocks.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let rate = |id: &BlockId| depot.demand().rate(id);
            let seen = look(&**depot.store(), &asked, &mut taken, rate, &limits);
            let seen = seen.and_then(|(room, is_here)| {
                let own = own(&**depot.store(), why, &asked)?;
                Ok((room, is_here, own))
            });
            (taken, seen)
        });
        let Ok((taken, seen)) = looked.await else {
            // The node is going down.
            return Answer::Refused(Refusal::Busy);
        };
        self.taken = taken;
        let (mut room, is_here, own) = match seen {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, %peer, "the store could not be read for an offer");
                return Answer::Refused(Refusal::Busy);
            }
        };
        let coming = self.coming.values().map(|(_, bytes)| u64::from(*bytes));
        room.taken = room.taken.saturating_add(coming.sum());
        room.of_stranger = (!is_member).then(|| {
            let all = self.taken.values().chain(self.coming.values());
            let of_peer = all.filter(|(of, _)| *of == peer);
            of_peer.map(|(_, bytes)| u64::from(*bytes)).sum()
        });
        let offered: Vec<Offered> = blocks
            .iter()
            .zip(is_here)
            .map(|((id, bytes), is_here)| Offered {
                id: *id,
                bytes: *bytes,
                is_here,
                is_coming: self.coming.contains_key(id),
                rate: self.depot.demand().rate(id),
            })
            .collect();
        let load = Load {
            of_peer: self.coming.values().filter(|(of, _)| *of == peer).count(),
            all: self.coming.len(),
        };
        let mut wishes = match self.taken.len() + self.coming.len() + MAX_OFFERED > MAX_TAKEN {
            true => offered.iter().map(full).collect(),
            false => accept::decide(why, &offered, &room, &load, &self.limits),
        };
        for (wish, _) in wishes.iter_mut().zip(own).filter(|(_, own)| *own) {
            *wish = Wish::Refuse(Refusal::Unwilling);
        }
        let mut new = Vec::new();
        for ((id, bytes), wish) in blocks.into_iter().zip(&wishes) {
            if *wish == Wish::Want && !self.coming.contains_key(&id) {
                self.coming.insert(id, (peer, bytes));
                new.push((id, bytes));
            }
        }
        if !new.is_empty() {
            self.fetches.spawn(fetch(self.depot.clone(), peer, new));
        }
        Answer::Wishes(wishes)
    }

    /// Whether a peer is heard.
    fn admit(&mut self, peer: PeerId, blocks: usize) -> Result<(), Refusal> {
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
            self.minute = now;
        }
        if self.offers.len() >= MAX_COUNTED && !self.offers.contains_key(&peer) {
            return Err(Refusal::Busy);
        }
        let offers = self.offers.entry(peer).or_default();
        *offers += 1;
        match *offers > OFFERS_PER_MINUTE {
            true => Err(Refusal::Busy),
            false => Ok(()),
        }
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
            self.coming.remove(&block.id);
            is_honest &= block.bytes == Some(block.said);
            if let (true, Some(bytes)) = (block.is_kept, block.bytes) {
                kept += 1;
                self.taken.insert(block.id, (peer, bytes));
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

/// What the store says: how much room there is, and which of the blocks are here, durably. Of the blocks that were taken those are forgotten that
/// are no cached blocks here any more, when that makes a difference.
fn look(
    store: &dyn Store,
    blocks: &[(BlockId, u32)],
    taken: &mut HashMap<BlockId, (PeerId, u32)>,
    rate: impl Fn(&BlockId) -> f64,
    limits: &accept::Limits,
) -> Result<(Room, Vec<bool>), store::Error> {
    let mut is_here = Vec::with_capacity(blocks.len());
    let mut is_durable = true;
    for (id, _) in blocks {
        let has = store.has(*id)?;
        // What was taken has been flushed.
        is_durable &= !has || taken.contains_key(id);
        is_here.push(has);
    }
    if !is_durable {
        store.flush()?;
    }
    let usage = store.usage();
    let free = usage.quota.saturating_sub(usage.disk_bytes);
    let offered = blocks.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    let mut room = Room {
        quota: usage.quota,
        free,
        cached: usage.cached_bytes,
        taken: taken.values().map(|(_, bytes)| u64::from(*bytes)).sum(),
        of_stranger: None,
        coldest: f64::INFINITY,
    };
    // Only when the answer may depend on it.
    let share = (room.cached.saturating_add(free)) / limits.popular_share.max(1);
    let share = share / limits.stranger_share.max(1);
    if room.taken.saturating_add(offered) > share || taken.len() + 2 * MAX_OFFERED > MAX_TAKEN {
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
        room.taken = taken.values().map(|(_, bytes)| u64::from(*bytes)).sum();
    }
    let spare = room.quota / limits.spare_share.max(1);
    if free.saturating_sub(spare) < offered {
        room.coldest = coldest(store, rate)?;
    }
    Ok((room, is_here))
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
async fn fetch(depot: Depot, peer: PeerId, blocks: Vec<(BlockId, u32)>) -> Fetched {
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
    let ids: Vec<_> = blocks.iter().map(|block| block.id).collect();
    let store = depot.store().clone();
    let kept = tokio::task::spawn_blocking(move || -> Result<Vec<bool>, store::Error> {
        store.flush()?;
        ids.into_iter().map(|id| store.has(id)).collect()
    });
    match kept.await {
        Ok(Ok(kept)) => {
            let blocks = blocks.iter_mut().zip(kept);
            blocks.for_each(|(block, is_kept)| block.is_kept = is_kept);
        }
        Ok(Err(error)) => tracing::warn!(%error, "offered blocks could not be kept"),
        // The node is going down.
        Err(_) => {}
    }
    Fetched { peer, blocks }
}
