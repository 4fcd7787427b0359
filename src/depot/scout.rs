//! Looks for peers of a session: those that have one block, and those that fetch the same at the same time.
//!
//! Deliberately absent: what follows from it, which is [`crowd`](super::crowd)'s.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::kad::KBucketKey;
use tokio::time::Instant;

use super::Depot;
use super::choice::Roster;
use super::fetch::UnderWay;
use super::request::attempt_of;
use super::session::{Shared, lock};
use crate::block::Attempt;
use crate::id::BlockId;
use crate::net::exchange::{Answer, MAX_IDS};
use crate::net::providers::MAX_FOUND;

/// Time that a peer may take to say whether it has a block, connecting included.
const HAVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connected peers that are asked whether they have a block, and how many of them at once.
const MAX_HAVE_PEERS: usize = 32;
const HAVE_AT_ONCE: usize = 16;
/// Providers that one search finds to have the block before it ends.
const MAX_PROVIDERS: usize = 20;
/// Providers that one search asks at once, and how many more that did not answer lately.
const PROVIDERS_AT_ONCE: usize = 16;
const RESTING_AT_ONCE: usize = 4;
/// How often a crowd is asked what it has by now.
const ROUND: Duration = Duration::from_millis(300);
/// How often while nobody gets more.
const MAX_ROUND: Duration = Duration::from_secs(10);
/// Rounds in which connected peers that are not known to have anything are asked as well.
const STRANGER_ROUNDS: u32 = 5;
/// How long to wait before the DHT is asked who else has the first block; doubles each time.
const FIRST_LOOKUP: Duration = Duration::from_secs(1);
const MAX_LOOKUP: Duration = Duration::from_secs(64);

/// One look for peers that have one block.
pub(super) struct Search<'a> {
    pub(super) depot: &'a Depot,
    pub(super) shared: &'a Shared,
    pub(super) id: BlockId,
    /// Hears which providers did not have it, or did not answer.
    pub(super) under_way: &'a UnderWay,
}

impl Search<'_> {
    /// Asks connected peers whether they have the block: keepers of heads and members of rings first,
    /// then those nearest to its id, and last those that did not answer lately.
    pub(super) async fn ask_connected(&self, connected: &[PeerId], tried: &HashSet<PeerId>) {
        let target = KBucketKey::new(self.id.to_multihash());
        let untried = connected.iter().filter(|peer| !tried.contains(peer));
        let mut peers: Vec<PeerId> = untried.copied().collect();
        // What only a backup needs is not announced: those who may keep it come first.
        let mut keepers: HashSet<PeerId> = self.depot.keepers().into_iter().collect();
        keepers.extend(self.depot.inner.net.rings().online_members());
        peers.sort_by_cached_key(|peer| {
            let distance = KBucketKey::from(*peer).distance(&target);
            let is_keeper = keepers.contains(peer);
            (self.depot.inner.rests(peer), !is_keeper, distance)
        });
        peers.truncate(MAX_HAVE_PEERS);
        futures::stream::iter(peers)
            .for_each_concurrent(HAVE_AT_ONCE, |peer| async move {
                if self.has(peer).await == Ok(Answer::Have) {
                    self.add(|roster| roster.add(peer));
                }
            })
            .await;
    }

    /// Asks keepers of heads that are not connected, and looks up providers in the DHT and asks
    /// them, many at once: most of them may be long gone. The net connects to them by itself.
    pub(super) async fn ask_mesh(&self) {
        let net = &self.depot.inner.net;
        let connected = net.peers().connected();
        let mut keepers = self.depot.keepers();
        keepers.retain(|peer| !connected.contains(peer));
        let providers = net.providers().find(self.id.to_multihash(), MAX_FOUND);
        let providers = providers.map(|provider| provider.peer);
        let mut providers = futures::stream::iter(keepers).chain(providers);
        let mut is_looking = true;
        let (mut asks, mut last) = (FuturesUnordered::new(), VecDeque::new());
        let (mut good, mut resting) = (0, 0);
        while good < MAX_PROVIDERS {
            // Peers that did not answer lately never take the places of others.
            if resting < RESTING_AT_ONCE
                && let Some(peer) = last.pop_front()
            {
                resting += 1;
                asks.push(self.ask_provider(peer, true));
                continue;
            }
            tokio::select! {
                found = providers.next(), if is_looking && asks.len() - resting < PROVIDERS_AT_ONCE => {
                    match found {
                        None => is_looking = false,
                        Some(peer) if peer == net.peer_id() => {}
                        Some(peer) if self.depot.inner.rests(&peer) => last.push_back(peer),
                        Some(peer) => asks.push(self.ask_provider(peer, false)),
                    }
                }
                Some((is_good, was_resting)) = asks.next(), if !asks.is_empty() => {
                    good += usize::from(is_good);
                    resting -= usize::from(was_resting);
                }
                else => break,
            }
        }
    }

    /// Asks one provider, which has `rested` or not. Whether the block may be had from it.
    async fn ask_provider(&self, peer: PeerId, rested: bool) -> (bool, bool) {
        let is_good = match self.has(peer).await {
            Ok(Answer::DontHave) => {
                self.under_way.note(peer, Attempt::DontHave);
                false
            }
            Ok(_) | Err(Attempt::Busy | Attempt::RateTooLow { .. }) => {
                self.add(|roster| roster.add(peer));
                true
            }
            Err(attempt) => {
                self.under_way.note(peer, attempt);
                let is_connected = self.depot.inner.net.peers().connected().contains(&peer);
                if attempt == Attempt::TimedOut && is_connected {
                    // It may only have too much to do.
                    self.add(|roster| roster.add_silent(peer));
                }
                false
            }
        };
        (is_good, rested)
    }

    /// Asks one peer whether it has the block, connecting to it first where needed.
    async fn has(&self, peer: PeerId) -> Result<Answer, Attempt> {
        let exchange = self.depot.inner.net.exchange();
        let asked = exchange.have(peer, vec![self.id], HAVE_TIMEOUT).await;
        let answer = match asked {
            Ok(answers) => {
                let answer = answers.into_iter().find(|(id, _)| *id == self.id);
                answer.map(|(_, answer)| answer).ok_or(Attempt::Failed)
            }
            Err(error) => Err(attempt_of(&error)),
        };
        let failed = answer.as_ref().err().copied();
        self.depot.inner.heard(peer, failed);
        answer
    }

    fn add(&self, add: impl FnOnce(&mut Roster)) {
        add(&mut lock(&self.shared.peers).roster);
        self.shared.changed.notify_waiters();
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
                    let peer = provider.peer;
                    let is_new = !lock(&self.shared.peers).roster.contains(&peer);
                    if peer != own && is_new && !self.depot.inner.rests(&peer) {
                        self.ask(peer).await;
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
        let asked = exchange.have(peer, ids, HAVE_TIMEOUT).await;
        let failed = asked.as_ref().err().map(attempt_of);
        self.depot.inner.heard(peer, failed);
        let Ok(answers) = asked else {
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
