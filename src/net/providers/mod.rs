//! Who provides what: the DHT (libp2p's Kademlia under the network's own name) and announcing to it.
//!
//! - `record_store`: what others announce to us, on disk.
//! - `sweep`, `announce`: telling the mesh what we provide, by lookups that cover whole regions.
//! - `region`, `search`: storing and finding what a crowd of peer ids at a key would hide.
//! - `subnet`, `seldom`: who counts as one where peer ids cost nothing; few lines in the log.
//! - `service`: ports of other programs, which travel in provider records.
//! - `heads`, `inbox`: owners' head records that are kept here, and the thread that checks them.
//! - `behaviour`: queries under way.
//!
//! Keys are any bytes; for blocks the id's multihash, so that any libp2p DHT client finds our providers.
//!
//! Deliberately absent: which keys to announce and when, and fetching from who was found.

mod announce;
mod behaviour;
mod heads;
mod inbox;
mod ledger;
mod record_store;
mod region;
mod search;
mod seldom;
mod service;
pub(crate) mod shelf;
mod stored;
mod subnet;
mod sweep;
mod values;

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use super::mailbox::Mailbox;
use super::remotes::Remotes;
use crate::head;

pub(super) use behaviour::{Behaviour, Event, Setup};
pub use heads::{HeadStats, Heads};
pub(super) use inbox::{Asked, Door, MAX_OWN_JOBS, Tally, Told};
pub use inbox::{HEAD_TTL, MAX_KEPT_HEADS, Verdict};
pub(super) use ledger::WriterThread;
pub(super) use record_store::Own;
pub use record_store::{MAX_KEY_BYTES, MAX_PROVIDERS_BYTES, PROVIDER_TTL};
pub(super) use service::Ports;
pub use service::{MAX_SERVICES, Service};
pub use shelf::{MemoryShelf, RecordShelf, ShelfError};

/// Most providers that one search gives.
pub const MAX_FOUND: usize = 256;
/// Time in which a peer that is looked for is found.
const SEEK_TIMEOUT: Duration = Duration::from_secs(3);
/// Time in which a peer is looked for once, and peers that may be looked for in it.
const SEEK_AGAIN: Duration = Duration::from_secs(60);
const MAX_SOUGHT: usize = 256;
/// Most keys that the behaviour is handed at once, so that it is never busy for long.
const KEYS_PER_COMMAND: usize = 256;

/// A peer that announced a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    /// The peer.
    pub peer: PeerId,
    /// Where it can be reached, as far as known. Connecting by peer id alone works too: the net remembers them.
    pub addresses: Vec<Multiaddr>,
    /// What another program on its host offers under the key, if anything was told.
    pub service: Option<Service>,
}

/// What announcing came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AnnounceReport {
    /// Keys announced; each is also answered for by this node itself.
    pub keys: usize,
    /// Peers that took their part of the announcements.
    pub peers_reached: usize,
    /// Peers that could not be told.
    pub peers_failed: usize,
    /// Keys that no other peer was told about: there are none, or all that are responsible failed.
    pub keys_unreached: usize,
    /// Lookups that it took.
    pub lookups: usize,
}

/// Why announcing failed, or a call about head records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key is longer than the DHT takes.
    #[error("a key of {0} bytes can't be announced: at most {MAX_KEY_BYTES}")]
    KeyTooLong(usize),
    /// A head record does not hold.
    #[error("the head record was refused: {0}")]
    Head(#[from] head::Error),
    /// There are as many head records as are taken.
    #[error("there are too many head records")]
    Full,
    /// Too much waits to be written.
    #[error("the disk does not keep up with the records of the DHT")]
    Busy,
    /// The net is stopping.
    #[error("the network is stopping")]
    Stopping,
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Full | Self::Busy => true,
            Self::KeyTooLong(_) | Self::Head(_) | Self::Stopping => false,
        }
    }
}

/// What the views ask of the behaviour.
pub(super) enum Command {
    Find {
        key: Vec<u8>,
        limit: usize,
        found: mpsc::Sender<Provider>,
        /// At the end the depth of regions, when a crowd of peers hides the key.
        crowded: oneshot::Sender<u32>,
        /// Resolves when nobody listens any more.
        dropped: oneshot::Receiver<()>,
    },
    /// A peer was asked for the providers of a key and named these; those that count.
    Told {
        teller: PeerId,
        key: Vec<u8>,
        told: Vec<(PeerId, Vec<Multiaddr>)>,
        reply: oneshot::Sender<Vec<Provider>>,
    },
    /// The depth of regions, if the mesh is so large that there are any.
    Depth(oneshot::Sender<Option<u32>>),
    /// The peers nearest to a key that are not of a crowd.
    LookPast {
        key: Vec<u8>,
        crowd: region::Crowd,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    /// The peers nearest to a key.
    Lookup {
        key: Vec<u8>,
        reply: oneshot::Sender<Vec<PeerId>>,
    },
    /// Answer for these keys, or no more.
    Provide {
        keys: Vec<Vec<u8>>,
        provide: bool,
        reply: oneshot::Sender<()>,
    },
    /// Connect to a peer that a lookup found, if not connected.
    Reach(PeerId),
    /// For the thread that checks head records; the permit is for a place in its queue.
    Own(inbox::Own, OwnedSemaphorePermit),
}

/// View of a net: finding providers and announcing. Cheap to clone.
#[derive(Clone)]
pub struct Providers {
    pub(super) mailbox: Mailbox<Command>,
    pub(super) streams: libp2p_stream::Control,
    pub(super) protocol: StreamProtocol,
    pub(super) local: PeerId,
    /// Where this node can be reached, from wherever.
    pub(super) addresses: watch::Receiver<Vec<Multiaddr>>,
    pub(super) distances: Arc<Remotes>,
    pub(super) searches: Arc<Semaphore>,
    pub(super) announcing: Arc<Semaphore>,
    pub(super) sought: Arc<Sought>,
    pub(super) ports: Arc<Ports>,
}

/// Peers that were looked for lately: one that is gone is not looked for again and again.
#[derive(Debug, Default)]
pub(super) struct Sought(Mutex<HashMap<PeerId, Instant>>);

impl Sought {
    /// Whether the peer was not looked for lately; then it is remembered.
    fn is_first(&self, peer: PeerId, now: Instant) -> bool {
        let mut sought = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sought.retain(|_, then| now.saturating_duration_since(*then) < SEEK_AGAIN);
        if sought.len() >= MAX_SOUGHT || sought.contains_key(&peer) {
            return false;
        }
        sought.insert(peer, now);
        true
    }
}

impl Providers {
    /// Searches the DHT for providers of a key, up to `limit` and at most [`MAX_FOUND`]. This node
    /// itself is never among them. When a crowd of peers hides the key, the peers of its region are
    /// asked, too. The stream ends with the search.
    ///
    /// # Cancel safety
    /// Dropping the stream ends the search.
    pub fn find(
        &self,
        key: Vec<u8>,
        limit: usize,
    ) -> impl Stream<Item = Provider> + Send + Unpin + 'static + use<> {
        let (mailbox, searches) = (self.mailbox.clone(), self.searches.clone());
        let limit = limit.clamp(1, MAX_FOUND);
        let (tell, crowded) = oneshot::channel();
        let sought = key.clone();
        let start = async move {
            let permit = searches.acquire_owned().await.ok()?;
            // Room for all of them: who is slow to look loses none.
            let (found, receiver) = mpsc::channel(limit);
            let (alive, dropped) = oneshot::channel();
            let command = Command::Find {
                key: sought,
                limit,
                found,
                crowded: tell,
                dropped,
            };
            mailbox.send(command).await.ok()?;
            Some(Search {
                receiver,
                _alive: alive,
                _permit: permit,
            })
        };
        let view = self.clone();
        let wide = async move {
            // Told only when fewer were found than wanted.
            let depth = crowded.await.ok()?;
            Some(view.search_region(key, depth))
        };
        let first = futures::stream::once(start)
            .filter_map(std::future::ready)
            .flatten();
        let wide = futures::stream::once(wide)
            .filter_map(std::future::ready)
            .flatten();
        let mut seen = HashSet::new();
        let all = first.chain(wide);
        let new = all.filter(move |provider| std::future::ready(seen.insert(provider.peer)));
        Box::pin(new.take(limit))
    }

    /// Stops answering for keys. Other nodes forget them when their announcements expire.
    ///
    /// # Errors
    /// [`Error::Stopping`].
    pub async fn withdraw(&self, keys: Vec<Vec<u8>>) -> Result<(), Error> {
        self.provide(&keys, false).await
    }

    async fn provide(&self, keys: &[Vec<u8>], provide: bool) -> Result<(), Error> {
        for part in keys.chunks(KEYS_PER_COMMAND) {
            let (reply, done) = oneshot::channel();
            let command = Command::Provide {
                keys: part.to_vec(),
                provide,
                reply,
            };
            self.mailbox
                .send(command)
                .await
                .map_err(|_| Error::Stopping)?;
            done.await.map_err(|_| Error::Stopping)?;
        }
        Ok(())
    }

    /// Asks the peers nearest to a peer where it can be reached, unless that was just asked. True
    /// when the peer was found in time: then connecting to it tries these addresses, too.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the search to end by itself.
    pub async fn seek(&self, peer: PeerId) -> bool {
        if !self.sought.is_first(peer, Instant::now()) {
            return false;
        }
        let Ok(_permit) = self.searches.acquire().await else {
            return false;
        };
        let found = timeout(SEEK_TIMEOUT, self.lookup(peer.to_bytes())).await;
        matches!(found, Ok(Ok(peers)) if peers.contains(&peer))
    }

    /// Has a connection made to a peer that was found, if there is none. Does not wait for it.
    pub async fn reach(&self, peer: PeerId) {
        // It fails when the network is stopping.
        let _ = self.mailbox.send(Command::Reach(peer)).await;
    }

    async fn lookup(&self, key: Vec<u8>) -> Result<Vec<PeerId>, Error> {
        let (reply, peers) = oneshot::channel();
        self.mailbox
            .send(Command::Lookup { key, reply })
            .await
            .map_err(|_| Error::Stopping)?;
        peers.await.map_err(|_| Error::Stopping)
    }
}

/// A search under way.
struct Search {
    receiver: mpsc::Receiver<Provider>,
    _alive: oneshot::Sender<()>,
    _permit: OwnedSemaphorePermit,
}

impl Stream for Search {
    type Item = Provider;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Provider>> {
        self.receiver.poll_recv(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_looked_for_once_in_a_while() {
        let sought = Sought::default();
        let (peer, now) = (PeerId::random(), Instant::now());
        assert!(sought.is_first(peer, now));
        assert!(!sought.is_first(peer, now + SEEK_AGAIN / 2));
        assert!(sought.is_first(peer, now + SEEK_AGAIN));
        let others = (0..2 * MAX_SOUGHT).filter(|_| sought.is_first(PeerId::random(), now));
        assert_eq!(others.count(), MAX_SOUGHT - 1);
    }
}
