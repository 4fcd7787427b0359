//! Carries out what the policy decided.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
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

/// Actions at the same time.
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
            policy::apply(self.clock.now(), table, outcome, self.local);
        }
        is_busy
    }

    /// Goes on until nothing is open or the time is up.
    pub(super) async fn finish(
        &self,
        table: &mut Table,
        receivers: &dyn Candidates,
        until: Instant,
    ) {
        while table.values().any(|entry| entry.stage.is_open()) {
            let round = async {
                if !self.round(table, receivers).await {
                    tokio::time::sleep(self.limits.poll).await;
                }
            };
            if tokio::time::timeout_at(until, round).await.is_err() {
                return;
            }
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
            Ok(Answer::Refused(Refusal::Busy)) => all(ids, Said::Later),
            Ok(_) => all(ids, Said::No),
            Err(error) if error.is_retryable() => all(ids, Said::Later),
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
