//! Owners' heads on other nodes: finds them, and tells keepers what is new.
//!
//! Heads lie with their keepers, nowhere else. A keeper is asked by a question that says nothing to
//! anybody who does not keep that head (see [`Acquaintance`]), so that connected peers are asked one
//! and all. When none of them keeps it, keepers are looked for in the DHT, at the places of the head
//! of this month and the last one.
//!
//! What peers tell is checked by the net's own [`Heads`](crate::net::providers::Heads), which also
//! has the heads that are kept here. Deliberately absent: which heads to keep, and taking places.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use libp2p::PeerId;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::Depot;
use crate::crypto::random;
use crate::head::{
    Acquaintance, Direction, HeadRecord, MAX_SEALED_BYTES, PLACES, months_to_look, place_key,
};
use crate::id::BlockId;
use crate::net::providers::{Error, Verdict};
use crate::net::replica::{Answer, Request};

/// How long a search may take.
pub const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a caller in a hurry waits for further answers once one holds.
pub const GRACE: Duration = Duration::from_secs(1);
/// Answers that one search looks at.
const MAX_ANSWERS: usize = 64;
/// Connected peers that one search asks.
const MAX_CONNECTED: usize = 64;
/// Peers that are asked, or told, at the same time.
const PEERS_AT_ONCE: usize = 16;
/// Time that one peer has to answer, connecting included.
const ANSWER_TIME: Duration = Duration::from_secs(10);
/// Time that connected peers have before keepers are looked for in the DHT.
const NEAR_TIME: Duration = Duration::from_secs(3);
/// Places that are looked at at the same time, and peers that are taken from one.
const PLACES_AT_ONCE: usize = 8;
const MAX_AT_PLACE: usize = 8;
/// Peers with an older record that one search brings up to date.
const MAX_UPDATED: usize = 20;
const _: () = assert!(MAX_SEALED_BYTES < 1 << 20);

/// What telling a head came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// Keepers that have all of it.
    pub stored_by: usize,
    /// Keepers that were found.
    pub asked: usize,
}

/// Head that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundHead {
    /// All that holds, together.
    pub record: Option<HeadRecord>,
    /// Peers that told a record that holds, each with its record.
    pub told: Vec<(PeerId, HeadRecord)>,
}

/// Manner in which peers are asked.
#[derive(Debug, Clone, Copy)]
struct Inquiry {
    /// Time for further answers once one holds.
    grace: Duration,
    /// Whether what is here counts.
    with_local: bool,
    wide: Wide,
}

/// Whether keepers are looked for in the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wide {
    No,
    /// When no connected one is found.
    IfNone,
    Always,
}

impl Inquiry {
    const fn patient() -> Self {
        Self {
            grace: FIND_TIMEOUT,
            with_local: true,
            wide: Wide::IfNone,
        }
    }

    const fn quick() -> Self {
        Self {
            grace: GRACE,
            ..Self::patient()
        }
    }
}

/// View of a depot: owners' heads on other nodes. Cheap to clone.
#[derive(Clone)]
pub struct Heads {
    depot: Depot,
}

impl Depot {
    /// Owners' heads on other nodes.
    pub fn heads(&self) -> Heads {
        Heads {
            depot: self.clone(),
        }
    }
}

impl Heads {
    /// Searches for an owner's record: what all keepers that are found have, and what is here,
    /// merged. Keepers that have something older are told the newer; so is the net here, if it had
    /// one. Takes at most [`FIND_TIMEOUT`] and the time to tell.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find(&self, id: BlockId) -> Result<Option<HeadRecord>, Error> {
        Ok(self.search(id, Inquiry::patient()).await?.record)
    }

    /// As [`find`](Self::find), of connected peers alone.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find_near(&self, id: BlockId) -> Result<Option<HeadRecord>, Error> {
        let near = Inquiry {
            wide: Wide::No,
            ..Inquiry::patient()
        };
        Ok(self.search(id, near).await?.record)
    }

    /// As [`find_soon`](Self::find_soon), without what is here: what somebody else would find who
    /// is connected as this node is.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find_elsewhere(&self, id: BlockId) -> Result<FoundHead, Error> {
        let elsewhere = Inquiry {
            with_local: false,
            ..Inquiry::quick()
        };
        self.search(id, elsewhere).await
    }

    /// As [`find`](Self::find), for somebody who waits: once an answer holds, further ones have
    /// [`GRACE`] to come. A search goes on until every peer has answered or can't be reached, and
    /// the machine that is gone is often one of them.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find_soon(&self, id: BlockId) -> Result<FoundHead, Error> {
        self.search(id, Inquiry::quick()).await
    }

    /// Looks for all keepers of a head in the background, wherever they are: those that are found are
    /// asked for blocks later.
    pub fn look_for_keepers(&self, id: BlockId) {
        let view = self.clone();
        self.depot.aside(async move {
            let all = Inquiry {
                wide: Wide::Always,
                ..Inquiry::patient()
            };
            if let Err(error) = view.ask_all(id, all).await {
                tracing::debug!(%error, "the search for keepers of a head ended");
            }
        });
    }

    /// Has a record here, together with what is known here of the same owner, and tells it to the
    /// keepers that are found.
    ///
    /// # Errors
    /// [`Error::Head`] when the record does not hold; [`Error::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the record with some keepers and not with others.
    pub async fn publish(&self, record: HeadRecord) -> Result<PublishReport, Error> {
        let id = record.id();
        self.depot.net().heads().pass(record).await?;
        let verdict = self.ask_all(id, Inquiry::patient()).await?;
        let asked = verdict.told.len();
        let stale = verdict.stale.len();
        let told = self.update(id, &verdict).await;
        Ok(PublishReport {
            stored_by: asked - stale + told,
            asked,
        })
    }

    async fn search(&self, id: BlockId, inquiry: Inquiry) -> Result<FoundHead, Error> {
        let verdict = self.ask_all(id, inquiry).await?;
        if !verdict.stale.is_empty() {
            let (view, verdict) = (self.clone(), verdict.clone());
            // Nobody waits for the outcome.
            self.depot.aside(async move {
                view.update(id, &verdict).await;
            });
        }
        Ok(FoundHead {
            record: verdict.record,
            told: verdict.told,
        })
    }

    async fn ask_all(&self, id: BlockId, inquiry: Inquiry) -> Result<Verdict, Error> {
        // Whoever must not look wide counts as one that has found already.
        let has_found = Arc::new(AtomicBool::new(inquiry.wide == Wide::No));
        let enough = match inquiry.wide {
            Wide::Always => Arc::default(),
            Wide::No | Wide::IfNone => has_found.clone(),
        };
        let answers = self.answers(id, enough);
        let answers = collect(answers, id, inquiry.grace, &has_found).await;
        let heads = self.depot.net().heads();
        let verdict = heads.judge(id, answers, inquiry.with_local).await?;
        for (peer, _) in verdict.told.iter().take(MAX_UPDATED) {
            self.depot.note_keeper(*peer);
        }
        Ok(verdict)
    }

    /// What peers tell of a head: connected ones, and when those have had their time, or none of
    /// them knew of it, those at its places.
    fn answers(
        &self,
        id: BlockId,
        enough: Arc<AtomicBool>,
    ) -> BoxStream<'static, (PeerId, Vec<u8>)> {
        let acquaintance = Arc::new(Acquaintance::new(&id));
        let peers = self.depot.nearest();
        let mut asked: HashSet<PeerId> = peers.iter().copied().collect();
        asked.insert(self.depot.net().peer_id());
        let done = Arc::new(Notify::new());
        let view = self.clone();
        let ask = move |peer| {
            let (view, acquaintance) = (view.clone(), acquaintance.clone());
            async move { view.ask(peer, acquaintance).await }
        };
        let notify = done.clone();
        let end = stream::once(async move {
            notify.notify_one();
            None
        });
        let near = stream::iter(peers)
            .map(ask.clone())
            .buffer_unordered(PEERS_AT_ONCE)
            .chain(end);
        let view = self.clone();
        let wide = stream::once(async move {
            // Either is a reason to go on.
            let _ = timeout(NEAR_TIME, done.notified()).await;
            match enough.load(Ordering::Relaxed) {
                true => stream::empty().boxed(),
                false => view.at_places(id).boxed(),
            }
        });
        let wide = wide
            .flatten()
            .filter(move |peer| std::future::ready(asked.insert(*peer)))
            .map(ask)
            .buffer_unordered(PEERS_AT_ONCE);
        let answers = stream::select(near, wide);
        answers.filter_map(std::future::ready).boxed()
    }

    /// Peers that announced themselves at a place of the head.
    fn at_places(&self, id: BlockId) -> impl Stream<Item = PeerId> + 'static {
        let net = self.depot.net().clone();
        let months = months_to_look(net.clock().now());
        let keys = months
            .into_iter()
            .flat_map(move |month| (0..PLACES).map(move |place| place_key(&id, month, place)));
        let keys: Vec<BlockId> = keys.collect();
        let found = stream::iter(keys).map(move |key| {
            let found = net.providers().find(key.to_multihash(), MAX_AT_PLACE);
            found.map(|provider| provider.peer)
        });
        found.flatten_unordered(PLACES_AT_ONCE)
    }

    /// Asks one peer for the head. None when it does not keep it, or does not answer.
    async fn ask(
        &self,
        peer: PeerId,
        acquaintance: Arc<Acquaintance>,
    ) -> Option<(PeerId, Vec<u8>)> {
        let (nonce, proof) = self.question(peer, &acquaintance);
        let request = Request::Head {
            nonce,
            proof,
            told: None,
        };
        let replica = self.depot.net().replica();
        let asked = timeout(ANSWER_TIME, replica.ask(peer, request)).await;
        let Ok(Ok(Answer::Head(head))) = asked else {
            return None;
        };
        // What does not open is a lie: the record is nothing then, and counted as such.
        let record = acquaintance.open(&proof, Direction::Answer, &head);
        Some((peer, record.unwrap_or_default()))
    }

    fn question(&self, peer: PeerId, acquaintance: &Acquaintance) -> ([u8; 32], [u8; 32]) {
        let nonce = *random::bytes::<32>();
        let local = self.depot.net().peer_id().to_bytes();
        let proof = acquaintance.proof(&nonce, &local, &peer.to_bytes());
        (nonce, proof)
    }

    /// Tells keepers that lack something. Returns how many took it in.
    async fn update(&self, id: BlockId, verdict: &Verdict) -> usize {
        let Some(record) = verdict.record.as_ref().map(HeadRecord::encode) else {
            return 0;
        };
        let acquaintance = Acquaintance::new(&id);
        let stale: Vec<PeerId> = verdict.stale.iter().take(MAX_UPDATED).copied().collect();
        let told = stream::iter(stale)
            .map(|peer| self.tell(peer, &acquaintance, &record))
            .buffer_unordered(PEERS_AT_ONCE);
        let told: Vec<bool> = told.collect().await;
        told.into_iter().filter(|is_taken| *is_taken).count()
    }

    async fn tell(&self, peer: PeerId, acquaintance: &Acquaintance, record: &[u8]) -> bool {
        let (nonce, proof) = self.question(peer, acquaintance);
        let sealed = acquaintance.seal(&proof, Direction::Question, record);
        let request = Request::Head {
            nonce,
            proof,
            told: Some(Bytes::from(sealed)),
        };
        let replica = self.depot.net().replica();
        let told = timeout(ANSWER_TIME, replica.ask(peer, request)).await;
        matches!(told, Ok(Ok(Answer::Head(_))))
    }
}

impl Depot {
    /// Connected peers that are asked first: members of this node's rings before others.
    fn nearest(&self) -> Vec<PeerId> {
        let net = self.net();
        let members: HashSet<PeerId> = net.rings().online_members().into_iter().collect();
        let mut peers = net.peers().connected().to_vec();
        peers.sort_by_key(|peer| !members.contains(peer));
        peers.truncate(MAX_CONNECTED);
        peers
    }
}

/// The answers of a search: until it ends, or `until`, or `grace` after the first answer that holds.
/// One that does not hold ends no wait: peers that lie must not be faster than the truth.
async fn collect(
    answers: impl Stream<Item = (PeerId, Vec<u8>)>,
    id: BlockId,
    grace: Duration,
    has_found: &AtomicBool,
) -> Vec<(PeerId, Vec<u8>)> {
    let mut answers = std::pin::pin!(answers);
    let mut until = Instant::now() + FIND_TIMEOUT;
    let mut all = Vec::new();
    // Answers that came in time count.
    while let Ok(Some((peer, answer))) = timeout_at(until, answers.next()).await {
        if holds(&answer, &id) {
            has_found.store(true, Ordering::Relaxed);
            until = until.min(Instant::now() + grace);
        }
        all.push((peer, answer));
        if all.len() >= MAX_ANSWERS {
            break;
        }
    }
    all
}

fn holds(answer: &[u8], id: &BlockId) -> bool {
    HeadRecord::decode(answer).is_ok_and(|record| record.validate(id).is_ok())
}

#[cfg(test)]
#[path = "heads_tests.rs"]
mod tests;
