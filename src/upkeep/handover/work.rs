//! Carries out what the policy decided.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::PeerId;
use tokio::time::Instant;

use super::policy::{self, Action, Limits, Outcome, Said, Table};
use crate::block::Block;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::net::exchange;
use crate::net::replica::{Answer, Refusal, Request, Why, Wish};
use crate::time::Clock;
use crate::upkeep::holder::Candidates;

/// Actions of one round at the same time.
const AT_ONCE: usize = 4;
/// How long one search may take, and how many providers are enough.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);
const PROVIDERS: usize = 4;
/// How long a peer may take to say what it has, and to give one block.
pub(super) const ASK_TIMEOUT: Duration = Duration::from_secs(10);
const PROOF_TIMEOUT: Duration = Duration::from_secs(30);

/// Sees to it that blocks are elsewhere.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) depot: Depot,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) limits: Limits,
    /// This node, unless it is leaving.
    pub(super) local: Option<PeerId>,
}

/// Actions that are under way. Their number is bounded by the limit of searches and by the peers that are there: each is asked one thing and offered
/// one thing at a time.
#[derive(Default)]
pub(super) struct UnderWay {
    actions: FuturesUnordered<BoxFuture<'static, (Subject, Outcome)>>,
    subjects: BTreeSet<Subject>,
}

/// What an action is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Search(BlockId),
    Question(PeerId),
    Offer(PeerId),
}

impl Subject {
    const fn of(action: &Action) -> Self {
        match action {
            Action::Seek(id) => Self::Search(*id),
            Action::Ask(peer, _) => Self::Question(*peer),
            Action::Offer(peer, _) => Self::Offer(*peer),
        }
    }
}

/// Until when to go on: as long as there is progress now and then, and at most until a fixed time.
pub(super) struct Deadline {
    latest: Instant,
    patience: Duration,
    moved: Mutex<Instant>,
}

impl Deadline {
    pub(super) fn new(most: Duration, patience: Duration) -> Self {
        let now = Instant::now();
        Self {
            latest: now + most,
            patience,
            moved: Mutex::new(now),
        }
    }

    /// There is progress.
    pub(super) fn moved(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn at(&self) -> Instant {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        self.latest.min(moved + self.patience)
    }

    /// What some work gives; nothing when it is not done in time. Progress of other work beside it counts, too.
    pub(super) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            let until = self.at();
            if let Ok(done) = tokio::time::timeout_at(until, &mut work).await {
                return Some(done);
            }
            if self.at() <= until {
                return None;
            }
        }
    }
}

impl Worker {
    /// Decides and acts once. Returns whether anything was done.
    pub(super) async fn round(&self, table: &mut Table, receivers: &dyn Candidates) -> bool {
        let online = receivers.peers();
        policy::settle(self.clock.now(), table, &online, &self.limits);
        let actions = policy::choose(self.clock.now(), table, &online, &self.limits);
        let is_busy = !actions.is_empty();
        let outcomes = futures::stream::iter(actions).map(|action| self.act(action));
        let mut outcomes = std::pin::pin!(outcomes.buffer_unordered(AT_ONCE));
        while let Some(outcome) = outcomes.next().await {
            self.apply(table, outcome);
        }
        is_busy
    }

    fn apply(&self, table: &mut Table, outcome: Outcome) {
        policy::apply(self.clock.now(), table, outcome, &self.limits, self.local);
    }

    /// Decides, starts what is to be done, and takes in what is done by now, or after a moment. A search that takes long holds up nothing else.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost that is under way.
    pub(super) async fn step(
        &self,
        table: &mut Table,
        receivers: &dyn Candidates,
        under_way: &mut UnderWay,
    ) {
        let (now, online) = (self.clock.now(), receivers.peers());
        policy::settle(now, table, &online, &self.limits);
        for action in policy::choose(now, table, &online, &self.limits) {
            let subject = Subject::of(&action);
            if under_way.subjects.insert(subject) {
                let worker = self.clone();
                let act = async move { (subject, worker.act(action).await) };
                under_way.actions.push(act.boxed());
            }
        }
        let first = tokio::select! {
            Some(first) = under_way.actions.next() => Some(first),
            () = tokio::time::sleep(self.limits.poll) => None,
        };
        let mut next = first;
        while let Some((subject, outcome)) = next {
            under_way.subjects.remove(&subject);
            self.apply(table, outcome);
            next = under_way.actions.next().now_or_never().flatten();
        }
    }

    async fn act(&self, action: Action) -> Outcome {
        match action {
            Action::Seek(id) => Outcome::Sought(id, self.seek(id).await),
            Action::Ask(peer, ids) => {
                let said = self.ask(peer, &ids).await;
                Outcome::Asked(peer, self.proven(peer, said).await)
            }
            Action::Offer(peer, blocks) => {
                let said = self.offer(peer, blocks).await;
                Outcome::Offered(peer, self.proven(peer, said).await)
            }
        }
    }

    /// Who announced a block. A search that does not end in time found whom it found.
    async fn seek(&self, id: BlockId) -> Vec<PeerId> {
        let providers = self.depot.net().providers();
        let mut search = providers.find(id.to_multihash(), PROVIDERS);
        let mut found = Vec::new();
        let collect = async {
            while let Some(provider) = search.next().await {
                found.push(provider.peer);
            }
        };
        let _ = tokio::time::timeout(SEARCH_TIMEOUT, collect).await;
        found
    }

    async fn ask(&self, peer: PeerId, ids: &[BlockId]) -> Vec<(BlockId, Said)> {
        let exchange = self.depot.net().exchange();
        match exchange.have(peer, ids.to_vec(), ASK_TIMEOUT).await {
            Ok(answers) => {
                let said = answers.into_iter().map(|(id, answer)| match answer {
                    exchange::Answer::Have => (id, Said::Have),
                    _ => (id, Said::No),
                });
                said.collect()
            }
            Err(_) => all(ids.iter().copied(), Said::No),
        }
    }

    async fn offer(&self, peer: PeerId, blocks: Vec<(BlockId, u32)>) -> Vec<(BlockId, Said)> {
        let ids: Vec<BlockId> = blocks.iter().map(|(id, _)| *id).collect();
        let request = Request::Offer {
            why: Why::HandOver,
            blocks,
        };
        match self.depot.net().replica().ask(peer, request).await {
            Ok(Answer::Wishes(wishes)) => {
                let said = wishes.into_iter().map(|wish| match wish {
                    Wish::Have => Said::Have,
                    Wish::Want | Wish::Refuse(Refusal::Busy) => Said::Later,
                    Wish::Refuse(_) => Said::No,
                });
                ids.into_iter().zip(said).collect()
            }
            Ok(Answer::Refused(Refusal::Busy)) => all(ids, Said::Busy),
            Ok(_) => all(ids, Said::No),
            Err(error) if error.is_retryable() => all(ids, Said::Busy),
            Err(_) => all(ids, Said::No),
        }
    }

    /// Has a peer show one of the blocks that it says it has, chosen by chance. If it can't, nothing that it said counts.
    async fn proven(&self, peer: PeerId, mut said: Vec<(BlockId, Said)>) -> Vec<(BlockId, Said)> {
        let had: Vec<BlockId> = said
            .iter()
            .filter(|(_, said)| *said == Said::Have)
            .map(|(id, _)| *id)
            .collect();
        if had.is_empty() {
            return said;
        }
        let Some(chosen) = had.get(rand::random::<u32>() as usize % had.len()).copied() else {
            return said;
        };
        let verdict = self.shows(peer, chosen).await;
        if verdict != Said::Have {
            tracing::debug!(%peer, id = %chosen, "a peer did not show a block that it said it has");
        }
        for (_, said) in said.iter_mut().filter(|(_, said)| *said == Said::Have) {
            *said = verdict;
        }
        said
    }

    /// Whether a peer gives a block.
    pub(super) async fn shows(&self, peer: PeerId, id: BlockId) -> Said {
        let exchange = self.depot.net().exchange();
        let answers = exchange.fetch(peer, vec![id], PROOF_TIMEOUT).await;
        let answer = answers.map(|answers| answers.into_iter().next().map(|(_, answer)| answer));
        match answer {
            Ok(Some(exchange::Answer::Block(bytes))) => {
                let checked = tokio::task::spawn_blocking(move || Block::verify(id, bytes).is_ok());
                match checked.await {
                    Ok(true) => Said::Have,
                    _ => Said::No,
                }
            }
            Ok(Some(exchange::Answer::Busy)) => Said::Later,
            Ok(_) => Said::No,
            Err(error) if error.is_retryable() => Said::Later,
            Err(_) => Said::No,
        }
    }
}

fn all(ids: impl IntoIterator<Item = BlockId>, said: Said) -> Vec<(BlockId, Said)> {
    ids.into_iter().map(|id| (id, said)).collect()
}
