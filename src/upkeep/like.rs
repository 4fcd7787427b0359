//! Answers peers that ask for ids which are like a given one.
//!
//! Only ids are told that the DHT hears of anyway, so that nobody learns more of what is here. Each
//! peer has a small share of questions, and so have all together: a question reads a part of the
//! index. A peer id costs nothing, so a crowd may use up the share of all; then nobody is answered
//! for a moment, and nothing else suffers.
//!
//! A node is found by the key of the first [`MEETING_BITS`] bits of an id: one that has announced
//! blocks below a prefix announces this key, too, as any other.
//!
//! Deliberately absent: asking others (`node`), and trust. That an id is told says nothing of the
//! block, and that a block is like another says nothing of its content: a few thousand tries find
//! bytes whose id has any 12 bits.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::announce::{Choice, Policy};
use crate::crypto::hash;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::net::like::{Asker, Found, MAX_FOUND, MIN_BITS};
use crate::store::{self, Store};
use crate::task::WorkerState;

/// First bits of ids that have a key of their own in the DHT: as many as questions share at least.
pub const MEETING_BITS: u32 = MIN_BITS;
/// Number of prefixes.
pub(super) const PREFIXES: u16 = 1 << MEETING_BITS;
/// Purpose of these keys.
const MEETING_CONTEXT: &[u8] = b"libernet like v1";
/// Blocks that are looked at for one answer: those that are not told are among them.
const MAX_LOOKED_AT: usize = 4 * MAX_FOUND;
/// Questions that are answered at the same time.
const AT_ONCE: usize = 4;
/// Questions in a row of one peer and of all, and how many more each second brings.
const SHARE: f64 = 8.0;
const SHARE_A_SECOND: f64 = 0.5;
const ALL: f64 = 64.0;
const ALL_A_SECOND: f64 = 8.0;
/// Peers whose shares are remembered.
const MAX_PEERS: usize = 512;

/// The number of an id's prefix: its first [`MEETING_BITS`] bits.
pub fn prefix_of(id: &BlockId) -> u16 {
    id.likeness() >> (u16::BITS - MEETING_BITS)
}

/// An id with a prefix.
pub(super) fn id_with(prefix: u16) -> BlockId {
    let mut digest = [0; 48];
    let first = prefix << (u16::BITS - MEETING_BITS);
    [digest[0], digest[1]] = first.to_be_bytes();
    BlockId::from_sha384(digest)
}

/// The identifier under which nodes announce that they have blocks with a prefix.
pub fn meeting_id(prefix: u16) -> BlockId {
    hash::sha384_id(&[MEETING_CONTEXT, &prefix.to_be_bytes()].concat())
}

/// Something that is used up and comes back with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    const fn full(most: f64, now: Instant) -> Self {
        Self {
            left: most,
            at: now,
        }
    }

    fn refill(&mut self, most: f64, a_second: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * a_second).min(most);
        self.at = now;
    }
}

/// Questions that may still be asked.
#[derive(Debug)]
struct Shares {
    all: Bucket,
    peers: HashMap<PeerId, Bucket>,
}

impl Shares {
    fn new(now: Instant) -> Self {
        Self {
            all: Bucket::full(ALL, now),
            peers: HashMap::new(),
        }
    }

    /// Whether a peer may ask now.
    fn take(&mut self, peer: PeerId, now: Instant) -> bool {
        self.all.refill(ALL, ALL_A_SECOND, now);
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&peer) {
            // Those whose share is full again are as good as unknown.
            self.peers.retain(|_, share| {
                share.refill(SHARE, SHARE_A_SECOND, now);
                share.left < SHARE
            });
            if self.peers.len() >= MAX_PEERS {
                return false;
            }
        }
        let share = self.peers.entry(peer).or_insert(Bucket::full(SHARE, now));
        share.refill(SHARE, SHARE_A_SECOND, now);
        if share.left < 1.0 || self.all.left < 1.0 {
            return false;
        }
        share.left -= 1.0;
        self.all.left -= 1.0;
        true
    }
}

/// Parts that the job is made of.
pub struct Setup {
    /// Where blocks are.
    pub depot: Depot,
    /// Policy that says which of them the DHT hears of.
    pub policy: Policy,
    /// Names of the pins of backups.
    pub backups: &'static [&'static str],
}

/// Ids of blocks that are here, are announced, and share at least `bits` bits with `id`.
fn alike(
    store: &dyn Store,
    mut choice: Choice<'_>,
    id: BlockId,
    bits: u32,
) -> Result<Vec<Found>, store::Error> {
    let mut found = Vec::new();
    for (other, bytes) in store.like(id, bits, MAX_LOOKED_AT)? {
        if found.len() < MAX_FOUND && choice.takes(other)? {
            found.push((other, bytes));
        }
    }
    Ok(found)
}

async fn answer(setup: &Setup, mut asker: Asker, may: bool) {
    let peer = asker.peer;
    let answered = async {
        let (id, bits) = asker.question().await?;
        let found = if may {
            let (store, policy) = (setup.depot.store().clone(), setup.policy);
            let backups = setup.backups;
            let look = move || {
                let choice = Choice::new(store.as_ref(), policy, backups)?;
                alike(store.as_ref(), choice, id, bits)
            };
            let found = tokio::task::spawn_blocking(look).await;
            Some(found.ok().and_then(Result::ok).unwrap_or_default())
        } else {
            None
        };
        asker.answer(found).await
    };
    if let Err(error) = answered.await {
        tracing::debug!(%peer, %error, "a question for ids that are alike was not answered");
    }
}

/// Runs until cancelled.
pub async fn run(setup: Setup, cancel: CancellationToken, state: Arc<WorkerState>) {
    let Some(mut questions) = setup.depot.net().like().questions() else {
        state.set("off: the network is stopping");
        return;
    };
    state.set("answering questions for ids that are alike");
    let mut shares = Shares::new(Instant::now());
    let mut answers = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            Some(()) = answers.next() => {}
            asker = questions.next(), if answers.len() < AT_ONCE => {
                let Some(asker) = asker else {
                    return;
                };
                let may = shares.take(asker.peer, Instant::now());
                answers.push(answer(&setup, asker, may));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Block;
    use crate::config::AnnouncePolicy;
    use crate::store::{Keep, MemoryStore, StoreOptions};
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_peer_has_a_share_and_so_have_all() {
        let mut now = Instant::now();
        let mut shares = Shares::new(now);
        let (greedy, other) = (PeerId::random(), PeerId::random());
        let answered = (0..100).filter(|_| shares.take(greedy, now)).count();
        assert_eq!(answered, SHARE as usize);
        assert!(shares.take(other, now));
        now += Duration::from_secs(4);
        let again = (0..100).filter(|_| shares.take(greedy, now)).count();
        assert_eq!(again, 2, "half a question a second");
        // A crowd is bounded, in questions and in what is remembered of it.
        let crowd = (0..10_000).filter(|_| shares.take(PeerId::random(), now));
        assert!(crowd.count() <= ALL as usize);
        assert!(shares.peers.len() <= MAX_PEERS);
        now += Duration::from_secs(60);
        assert!(shares.take(other, now), "it ends");
    }

    #[test]
    fn only_what_is_announced_is_told() {
        let store = MemoryStore::new(StoreOptions::default());
        let block = |n: u8| Block::new(vec![n; 10].into()).expect("a block");
        let (put, saved) = (block(1), block(2));
        let backup = store.begin_pin("backup").expect("room");
        let kept = store.put(std::slice::from_ref(&saved), Keep::Pinned(backup));
        kept.expect("room");
        let kept = store.put(std::slice::from_ref(&put), Keep::Cached);
        kept.expect("room");
        let told = |id: BlockId, cached| {
            let policy = Policy {
                pinned: AnnouncePolicy::All,
                leased: AnnouncePolicy::All,
                cached,
            };
            let choice = Choice::new(&store, policy, &["backup"]).expect("reads");
            alike(&store, choice, id, 12).expect("reads")
        };
        assert_eq!(told(put.id(), AnnouncePolicy::All), [(put.id(), 10)]);
        assert!(told(put.id(), AnnouncePolicy::None).is_empty());
        assert!(told(saved.id(), AnnouncePolicy::All).is_empty());
    }

    #[test]
    fn ids_that_are_alike_meet_at_one_key() {
        let id = |a, b, n| {
            let mut digest = [n; 48];
            (digest[0], digest[1]) = (a, b);
            BlockId::from_sha384(digest)
        };
        assert_eq!(prefix_of(&id(0xab, 0xcd, 1)), 0xabc);
        assert_eq!(prefix_of(&id(0xab, 0xc0, 2)), 0xabc);
        assert_ne!(prefix_of(&id(0xab, 0xbf, 1)), 0xabc);
        let ids: std::collections::HashSet<_> = (0..PREFIXES).map(meeting_id).collect();
        assert_eq!(ids.len(), 4096);
        assert!((0..PREFIXES).all(|prefix| prefix_of(&id_with(prefix)) == prefix));
    }
}
