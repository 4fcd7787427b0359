//! Looks for peers of a session: those that have one block, and those that fetch the same at the same time.
//!
//! Deliberately absent: what follows from it, which is [`crowd`](super::crowd)'s.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use libp2p::kad::KBucketKey;
use tokio::time::Instant;

use super::Depot;
use super::session::{Shared, lock};
use crate::id::BlockId;
use crate::net::exchange::{Answer, MAX_IDS};

/// How long connected peers may take to say whether they have a block.
const HAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connected peers that are asked whether they have a block, and how many of them at once.
const MAX_HAVE_PEERS: usize = 32;
const HAVE_AT_ONCE: usize = 8;
/// Providers that one search collects.
const MAX_PROVIDERS: usize = 20;
/// How often a crowd is asked what it has by now.
const ROUND: Duration = Duration::from_millis(300);
/// How often while nobody gets more.
const MAX_ROUND: Duration = Duration::from_secs(10);
/// Rounds in which connected peers that are not known to have anything are asked as well.
const STRANGER_ROUNDS: u32 = 5;
/// How long to wait before the DHT is asked who else has the first block; doubles each time.
const FIRST_LOOKUP: Duration = Duration::from_secs(1);
const MAX_LOOKUP: Duration = Duration::from_secs(64);

/// Asks connected peers whether they have the block, nearest to its id first.
pub(super) async fn ask_connected(
    depot: &Depot,
    shared: &Shared,
    id: BlockId,
    tried: &HashSet<PeerId>,
) {
    let target = KBucketKey::new(id.to_multihash());
    let mut peers: Vec<PeerId> = depot
        .inner
        .net
        .peers()
        .connected()
        .iter()
        .filter(|peer| !tried.contains(peer))
        .copied()
        .collect();
    peers.sort_by_cached_key(|peer| KBucketKey::from(*peer).distance(&target));
    peers.truncate(MAX_HAVE_PEERS);
    futures::stream::iter(peers)
        .for_each_concurrent(HAVE_AT_ONCE, |peer| async move {
            let exchange = depot.inner.net.exchange();
            if let Ok(answers) = exchange.have(peer, vec![id], HAVE_TIMEOUT).await
                && answers
                    .iter()
                    .any(|(answered, answer)| *answered == id && matches!(answer, Answer::Have))
            {
                lock(&shared.peers).roster.add(peer);
                shared.changed.notify_waiters();
            }
        })
        .await;
}

/// Looks up providers in the DHT.
pub(super) async fn ask_mesh(depot: &Depot, shared: &Shared, id: BlockId) {
    let net = &depot.inner.net;
    let own = net.peer_id();
    let providers = net.providers().find(id.to_multihash(), MAX_PROVIDERS);
    let mut providers = std::pin::pin!(providers);
    while let Some(provider) = providers.next().await {
        if provider.peer == own {
            continue;
        }
        // The net remembers its addresses: the request dials it by itself.
        lock(&shared.peers).roster.add(provider.peer);
        shared.changed.notify_waiters();
    }
}

/// Finds others who fetch what a session fetches, and asks them again and again what they have by now. Ends when dropped.
pub(super) async fn watch(depot: Depot, shared: Arc<Shared>, root: BlockId, began: Instant) {
    let scout = Scout {
        depot,
        shared,
        root,
        began,
    };
    futures::join!(scout.rounds(), scout.lookups());
}

struct Scout {
    depot: Depot,
    shared: Arc<Shared>,
    /// Whoever fetches the same has it.
    root: BlockId,
    began: Instant,
}

impl Scout {
    async fn rounds(&self) {
        let mut pause = ROUND;
        for round in 0u32.. {
            let targets = self.targets(round < STRANGER_ROUNDS);
            futures::stream::iter(targets)
                .for_each_concurrent(HAVE_AT_ONCE, |peer| self.ask(peer))
                .await;
            let is_growing = lock(&self.shared.peers)
                .crowd
                .is_growing(self.began.elapsed());
            pause = match is_growing {
                true => ROUND,
                false => (2 * pause).min(MAX_ROUND),
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn lookups(&self) {
        let net = &self.depot.inner.net;
        let own = net.peer_id();
        let mut pause = FIRST_LOOKUP;
        loop {
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(MAX_LOOKUP);
            let providers = net
                .providers()
                .find(self.root.to_multihash(), MAX_PROVIDERS);
            providers
                .for_each_concurrent(HAVE_AT_ONCE, |provider| async move {
                    let is_new = !lock(&self.shared.peers).roster.contains(&provider.peer);
                    if provider.peer != own && is_new {
                        self.ask(provider.peer).await;
                    }
                })
                .await;
        }
    }

    /// Whom to ask now: who is known to lack something first.
    fn targets(&self, with_strangers: bool) -> Vec<PeerId> {
        let mut targets: Vec<PeerId> = Vec::new();
        let peers = lock(&self.shared.peers);
        let mut known = peers.roster.awake(self.began.elapsed());
        let partial: HashSet<PeerId> = peers.crowd.partial().collect();
        known.sort_by_key(|peer| !partial.contains(peer));
        targets.extend(known);
        if with_strangers {
            let connected = self.depot.inner.net.peers().connected();
            let strangers = connected.iter().filter(|peer| !peers.roster.contains(peer));
            targets.extend(strangers);
        }
        targets.truncate(MAX_HAVE_PEERS);
        targets
    }

    /// Asks one peer what it has of what is wanted next.
    async fn ask(&self, peer: PeerId) {
        let mut ids = {
            let peers = lock(&self.shared.peers);
            let ids = peers.crowd.questions(&peer);
            if ids.is_empty() && peers.roster.contains(&peer) {
                return;
            }
            ids
        };
        // The root last: it tells of a stranger whether it fetches the same.
        ids.truncate(MAX_IDS - 1);
        if !ids.contains(&self.root) {
            ids.push(self.root);
        }
        let exchange = self.depot.inner.net.exchange();
        let Ok(answers) = exchange.have(peer, ids, HAVE_TIMEOUT).await else {
            lock(&self.shared.peers).crowd.lost(&peer);
            return;
        };
        let now = self.began.elapsed();
        let mut peers = lock(&self.shared.peers);
        let has = |(_, answer): &(BlockId, Answer)| matches!(answer, Answer::Have);
        if !peers.roster.contains(&peer) {
            if !answers.iter().any(has) {
                return;
            }
            peers.roster.add(peer);
        }
        for (id, answer) in answers {
            match answer {
                Answer::Have => peers.crowd.heard(peer, id, true, now),
                Answer::DontHave => peers.crowd.heard(peer, id, false, now),
                Answer::Busy | Answer::Block(_) => {}
            }
        }
        peers.crowd.sized_up(peer);
        drop(peers);
        self.shared.changed.notify_waiters();
    }
}
