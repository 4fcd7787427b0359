//! The call that looks for ids which are like a given one: here, at connected peers, and at those
//! that the DHT names.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;
use tokio::time::{Instant, timeout_at};

use super::api::*;
use super::{Node, blocking};
use crate::id::BlockId;
use crate::net::like::{Found, MAX_BITS, MAX_FOUND, MIN_BITS};
use crate::upkeep::like::{meeting_id, prefix_of};

/// Peers that are asked at the same time, and in all.
const AT_ONCE: usize = 8;
const MAX_ASKED: usize = 64;
/// How long one peer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest time for a search, in seconds.
const MAX_TIMEOUT_S: u64 = 300;
/// Origin of an id that is here.
const HERE: &str = "here";

/// Ids that were told, the best match first.
#[derive(Default)]
struct Matches {
    like: Option<BlockId>,
    /// By shared bits, most first, and id: size, and who told it first.
    found: BTreeMap<(std::cmp::Reverse<u32>, BlockId), (u32, String)>,
}

impl Matches {
    fn add(&mut self, like: BlockId, told: Vec<Found>, from: &str) {
        self.like = Some(like);
        for (id, bytes) in told {
            let key = (std::cmp::Reverse(like.shared_bits(&id)), id);
            self.found
                .entry(key)
                .or_insert_with(|| (bytes, from.to_owned()));
            if self.found.len() > MAX_FOUND {
                self.found.pop_last();
            }
        }
    }

    fn into_vec(self) -> Vec<LikeId> {
        let found = self.found.into_iter();
        found
            .map(|((bits, id), (bytes, from))| LikeId {
                id,
                bits: bits.0,
                bytes: bytes.into(),
                from,
            })
            .collect()
    }
}

impl Node {
    /// Ids that share their first bits with a given one, best match first, at most 100. What peers
    /// tell is their word: that a block exists shows when it is fetched.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a number of bits that can't be asked for.
    pub async fn like(&self, request: Like) -> Result<LikeReply, CallError> {
        let Like { id, bits, .. } = request;
        if !(MIN_BITS..=MAX_BITS).contains(&bits) {
            let message = format!("ids are compared by {MIN_BITS} to {MAX_BITS} bits, not {bits}");
            return Err(CallError::new(ErrorKind::Usage, message));
        }
        let timeout_s = request.timeout_s.min(MAX_TIMEOUT_S);
        let deadline = Instant::now() + Duration::from_secs(timeout_s);
        let store = self.store();
        let here = blocking(move || Ok(store.like(id, bits, MAX_FOUND)?)).await?;
        let mut matches = Matches::default();
        matches.add(id, here, HERE);
        let mut asked = HashSet::from([self.net().peer_id()]);
        let mut answered = 0;
        let connected = self.net().peers().connected();
        let connected = futures::stream::iter(connected.iter().copied().collect::<Vec<_>>());
        let named = self
            .net()
            .providers()
            .find(meeting_id(prefix_of(&id)).to_multihash(), MAX_ASKED)
            .map(|provider| provider.peer);
        // Those that the DHT names may be any of the connected ones, too.
        let peers = connected.chain(named);
        let new = peers.filter(|peer| std::future::ready(asked.insert(*peer)));
        let answers = new
            .take(MAX_ASKED)
            .map(|peer| async move { (peer, self.ask_alike(peer, id, bits).await) })
            .buffer_unordered(AT_ONCE);
        let mut answers = std::pin::pin!(answers);
        let mut asked_peers = 0;
        while let Ok(Some((peer, told))) = timeout_at(deadline, answers.next()).await {
            asked_peers += 1;
            if let Some(told) = told {
                answered += 1;
                matches.add(id, told, &peer.to_string());
            }
        }
        Ok(LikeReply {
            id,
            ids: matches.into_vec(),
            asked: asked_peers,
            answered,
        })
    }

    async fn ask_alike(&self, peer: PeerId, id: BlockId, bits: u32) -> Option<Vec<Found>> {
        self.net().providers().reach(peer).await;
        match self.net().like().ask(peer, id, bits, PATIENCE).await {
            Ok(told) => Some(told),
            Err(error) => {
                tracing::debug!(%peer, %error, "a peer told no ids that are alike");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(bits: u32, n: u8) -> BlockId {
        let mut digest = [0; 48];
        let at = bits as usize / 8;
        digest[at] = 0x80 >> (bits % 8);
        digest[47] = n;
        BlockId::from_sha384(digest)
    }

    #[test]
    fn the_best_match_is_first_and_the_first_teller_counts() {
        let like = BlockId::from_sha384([0; 48]);
        let mut matches = Matches::default();
        matches.add(like, vec![(id(13, 1), 5), (id(12, 1), 6)], HERE);
        matches.add(like, vec![(id(40, 1), 7), (id(13, 1), 9)], "peer");
        let all = matches.into_vec();
        let told: Vec<_> = all
            .iter()
            .map(|one| (one.bits, one.bytes, &*one.from))
            .collect();
        assert_eq!(told, [(40, 7, "peer"), (13, 5, HERE), (12, 6, HERE)]);
    }

    #[test]
    fn a_hundred_at_most_and_the_best_of_them() {
        let like = BlockId::from_sha384([0; 48]);
        let mut matches = Matches::default();
        for n in 0..120 {
            matches.add(like, vec![(id(12, n), 1), (id(20, n), 1)], "peer");
        }
        let all = matches.into_vec();
        assert_eq!(all.len(), MAX_FOUND);
        assert!(all.iter().all(|one| one.bits == 20));
    }
}
