//! Peers that were asked and did not answer lately: they are asked after all others. Pure.
//!
//! Dead providers stay in the DHT for two days. Without this memory each block would wait for all
//! of them again.
//!
//! Times are since the depot began.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::PeerId;

/// Peers that are remembered at most, about 400 KiB.
const MAX_PEERS: usize = 4096;
/// Misses within this time of one another are one silence: several requests end together.
const ONE_SILENCE: Duration = Duration::from_secs(10);
/// Time for which a peer that was silent once is asked after all others. Doubles with each silence,
/// up to [`MAX_REST`].
const FIRST_REST: Duration = Duration::from_secs(60);
const MAX_REST: Duration = Duration::from_secs(60 * 60);

#[derive(Debug, Clone, Copy)]
struct Miss {
    at: Duration,
    /// Misses in a row.
    times: u32,
}

/// The peers that did not answer.
#[derive(Debug, Default)]
pub(super) struct Absent {
    misses: HashMap<PeerId, Miss>,
}

impl Absent {
    /// A peer could not be reached, or said nothing in time.
    pub(super) fn missed(&mut self, peer: PeerId, now: Duration) {
        if let Some(miss) = self.misses.get_mut(&peer) {
            if now >= miss.at + ONE_SILENCE {
                miss.times = miss.times.saturating_add(1);
            }
            miss.at = miss.at.max(now);
            return;
        }
        if self.misses.len() >= MAX_PEERS {
            let oldest = self.misses.iter().min_by_key(|(_, miss)| miss.at);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.misses.remove(&oldest);
            }
        }
        self.misses.insert(peer, Miss { at: now, times: 1 });
    }

    /// A peer answered.
    pub(super) fn answered(&mut self, peer: &PeerId) {
        self.misses.remove(peer);
    }

    /// Whether a peer is to be asked after all others.
    pub(super) fn rests(&self, peer: &PeerId, now: Duration) -> bool {
        self.misses.get(peer).is_some_and(|miss| {
            let doublings = (miss.times - 1).min(MAX_REST.as_secs().ilog2());
            let rest = (FIRST_REST * 2u32.pow(doublings)).min(MAX_REST);
            now < miss.at + rest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_silent_peer_rests_until_it_answers_or_time_has_passed() {
        let (mut absent, peer) = (Absent::default(), PeerId::random());
        let at = 100 * SECOND;
        assert!(!absent.rests(&peer, at));
        absent.missed(peer, at);
        assert!(absent.rests(&peer, at));
        assert!(absent.rests(&peer, at + FIRST_REST - SECOND));
        assert!(!absent.rests(&peer, at + FIRST_REST));
        assert!(!absent.rests(&PeerId::random(), at));
        absent.answered(&peer);
        assert!(!absent.rests(&peer, at));
    }

    #[test]
    fn repeated_silence_rests_longer_and_one_silence_counts_once() {
        let (mut absent, peer) = (Absent::default(), PeerId::random());
        let mut at = SECOND;
        for _ in 0..8 {
            absent.missed(peer, at);
        }
        assert!(!absent.rests(&peer, at + FIRST_REST));
        at += ONE_SILENCE;
        absent.missed(peer, at);
        assert!(absent.rests(&peer, at + 2 * FIRST_REST - SECOND));
        assert!(!absent.rests(&peer, at + 2 * FIRST_REST));
        for _ in 0..100 {
            at += ONE_SILENCE;
            absent.missed(peer, at);
        }
        assert!(absent.rests(&peer, at + MAX_REST - SECOND));
        assert!(!absent.rests(&peer, at + MAX_REST));
    }

    #[test]
    fn at_the_bound_the_oldest_is_forgotten() {
        let mut absent = Absent::default();
        let peers: Vec<PeerId> = (0..=MAX_PEERS).map(|_| PeerId::random()).collect();
        for (n, peer) in peers.iter().enumerate() {
            absent.missed(*peer, Duration::from_millis(n as u64));
        }
        let now = Duration::from_millis(MAX_PEERS as u64);
        assert_eq!(absent.misses.len(), MAX_PEERS);
        assert!(!absent.rests(&peers[0], now));
        assert!(absent.rests(&peers[1], now) && absent.rests(&peers[MAX_PEERS], now));
    }
}
