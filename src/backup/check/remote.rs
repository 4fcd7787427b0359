//! Which blocks connected peers say they have.

use std::collections::HashMap;
use std::time::Duration;

use futures::StreamExt;
use libp2p::PeerId;

use crate::depot::Depot;
use crate::id::BlockId;
use crate::net::exchange::{Answer, MAX_IDS};

/// Most peers that are asked.
pub const MAX_PEERS: usize = 32;
/// Most blocks that each is asked about; of more, an even sample.
pub const MAX_SAMPLE: usize = 100_000;
/// Peers that are asked at once.
const PEERS_AT_ONCE: usize = 8;
/// How long a peer may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions without an answer, one after the other, after which a peer is asked no more.
const MAX_SILENT: usize = 3;

/// What one peer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The peer.
    pub peer: PeerId,
    /// Blocks that it says it has.
    pub blocks: u64,
    /// Blocks that it said something about.
    pub asked: u64,
}

/// Up to [`MAX_SAMPLE`] of many blocks, picked evenly by their digests.
#[derive(Default)]
pub(super) struct Sample {
    ids: HashMap<u64, BlockId>,
    /// Halvings so far: places with a bit set in the lowest so many are left out.
    halvings: u32,
}

impl Sample {
    pub(super) fn add(&mut self, id: BlockId) {
        let mut place = [0; 8];
        place.copy_from_slice(&id.digest()[24..32]);
        let place = u64::from_be_bytes(place);
        if place.trailing_zeros() < self.halvings {
            return;
        }
        self.ids.insert(place, id);
        while self.ids.len() > MAX_SAMPLE && self.halvings < u64::BITS {
            self.halvings += 1;
            let halvings = self.halvings;
            self.ids
                .retain(|place, _| place.trailing_zeros() >= halvings);
        }
    }

    pub(super) fn into_ids(self) -> Vec<BlockId> {
        self.ids.into_values().collect()
    }
}

/// Asks connected peers about blocks; those that have most come first.
pub(super) async fn ask(depot: &Depot, ids: &[BlockId]) -> Vec<Holder> {
    let mut peers: Vec<PeerId> = depot.net().peers().connected().iter().copied().collect();
    peers.truncate(MAX_PEERS);
    let asked = peers.into_iter().map(|peer| ask_one(depot, peer, ids));
    let asked = futures::stream::iter(asked).buffer_unordered(PEERS_AT_ONCE);
    let mut holders: Vec<Holder> = asked.collect().await;
    holders.sort_by_key(|holder| (std::cmp::Reverse(holder.blocks), holder.peer));
    holders
}

async fn ask_one(depot: &Depot, peer: PeerId, ids: &[BlockId]) -> Holder {
    let exchange = depot.net().exchange();
    let mut holder = Holder {
        peer,
        blocks: 0,
        asked: 0,
    };
    let mut silent = 0;
    for ids in ids.chunks(MAX_IDS) {
        match exchange.have(peer, ids.to_vec(), ANSWER_TIMEOUT).await {
            Ok(answers) => {
                silent = 0;
                for (_, answer) in answers {
                    holder.asked += u64::from(!matches!(answer, Answer::Busy));
                    holder.blocks += u64::from(matches!(answer, Answer::Have));
                }
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "a peer does not say which blocks it has");
                silent += 1;
                if silent >= MAX_SILENT || !error.is_retryable() {
                    break;
                }
            }
        }
    }
    holder
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_stay_within_their_limit_and_small_sets_are_whole() {
        let id = |number: u64| {
            let mut digest = [0; 48];
            // Spread as digests are.
            let place = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
            digest[24..32].copy_from_slice(&place.to_be_bytes());
            BlockId::from_sha384(digest)
        };
        let mut sample = Sample::default();
        for number in 1..=MAX_SAMPLE as u64 {
            sample.add(id(number));
            sample.add(id(number));
        }
        assert_eq!(sample.ids.len(), MAX_SAMPLE);
        for number in MAX_SAMPLE as u64..3 * MAX_SAMPLE as u64 {
            sample.add(id(number));
        }
        let ids = sample.into_ids();
        assert!(ids.len() <= MAX_SAMPLE && ids.len() > MAX_SAMPLE / 3);
    }
}
