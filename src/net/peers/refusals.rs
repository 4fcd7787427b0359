//! Peers that are turned away for a while. Bounded and pure.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

/// Time for which a peer of another network, or one that misbehaved, is turned away.
const REFUSAL: Duration = Duration::from_secs(10 * 60);
/// Most peers that are turned away at one time.
const MAX_REFUSED: usize = 4096;

/// Peers, and until when each is turned away.
#[derive(Debug, Default)]
pub(super) struct Refusals(HashMap<PeerId, Instant>);

impl Refusals {
    /// Turns a peer away from now on. When there are too many, the one whose time is up first may
    /// come again.
    pub(super) fn add(&mut self, peer: PeerId, now: Instant) {
        if self.0.len() >= MAX_REFUSED {
            self.0.retain(|_, until| *until > now);
            let first = self.0.iter().min_by_key(|(_, until)| **until);
            if let Some((&first, _)) = first.filter(|_| self.0.len() >= MAX_REFUSED) {
                self.0.remove(&first);
            }
        }
        self.0.insert(peer, now + REFUSAL);
    }

    /// Whether a peer is turned away.
    pub(super) fn contains(&self, peer: &PeerId, now: Instant) -> bool {
        self.0.get(peer).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_bounded_and_end() {
        let mut refusals = Refusals::default();
        let now = Instant::now();
        let first = PeerId::random();
        refusals.add(first, now);
        let later = now + Duration::from_secs(1);
        for _ in 0..MAX_REFUSED + 5 {
            refusals.add(PeerId::random(), later);
        }
        let last = PeerId::random();
        refusals.add(last, later);
        assert_eq!(refusals.0.len(), MAX_REFUSED);
        assert!(!refusals.contains(&first, later) && refusals.contains(&last, later));
        assert!(!refusals.contains(&last, later + REFUSAL));
    }
}
