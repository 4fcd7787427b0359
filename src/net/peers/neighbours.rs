//! Peers of the local network, as mDNS tells: who they are, and when each is to be dialled next.
//!
//! mDNS tells of a peer once, so it does not say when a link that was down is up again. As long as
//! it holds a peer for present, the peer is dialled whenever there is no connection, with pauses
//! that stay short. Pure: the dialling is the keeper's.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use tokio::time::Instant;

/// Most neighbours that are remembered.
const MAX_NEIGHBOURS: usize = 256;
/// First and longest pause between two dials. A link that is up again is found within the longest
/// one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Of two peers that discover each other the one with the larger id waits so long for the other to
/// dial.
const LATE_DIAL: Duration = Duration::from_secs(2);

struct Neighbour {
    addresses: Vec<Multiaddr>,
    attempts: u32,
    /// When to look at it again; none while it is connected.
    due: Option<Instant>,
}

/// The neighbours.
pub(super) struct Neighbours {
    local: PeerId,
    known: HashMap<PeerId, Neighbour>,
}

impl Neighbours {
    pub(super) fn new(local: PeerId) -> Self {
        Self {
            local,
            known: HashMap::new(),
        }
    }

    /// A peer is there. The peer hears of this one at the same moment, so only one of them dials at
    /// once.
    pub(super) fn discovered(&mut self, peer: PeerId, address: Multiaddr, now: Instant) {
        let is_new = !self.known.contains_key(&peer);
        if is_new && self.known.len() >= MAX_NEIGHBOURS {
            return;
        }
        let due = now + self.patience(&peer);
        let neighbour = self.known.entry(peer).or_insert_with(|| Neighbour {
            addresses: Vec::new(),
            attempts: 0,
            due: Some(due),
        });
        if !neighbour.addresses.contains(&address) {
            neighbour.addresses.push(address);
            // All addresses of one packet come one by one; a further one is as good as a new peer.
            neighbour.attempts = 0;
            neighbour.due = neighbour.due.map(|_| due);
        }
    }

    /// An address of a peer was not heard of for long.
    pub(super) fn expired(&mut self, peer: &PeerId, address: &Multiaddr) {
        if let Some(neighbour) = self.known.get_mut(peer) {
            neighbour.addresses.retain(|known| known != address);
            if neighbour.addresses.is_empty() {
                self.known.remove(peer);
            }
        }
    }

    /// Whether a peer is a neighbour.
    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.known.contains_key(peer)
    }

    /// Where a neighbour is.
    pub(super) fn addresses(&self, peer: &PeerId) -> &[Multiaddr] {
        self.known.get(peer).map_or(&[], |one| &one.addresses)
    }

    /// A peer has told who it is. Whether it is a neighbour.
    pub(super) fn identified(&mut self, peer: &PeerId) -> bool {
        let known = self.known.get_mut(peer);
        if let Some(neighbour) = known {
            neighbour.attempts = 0;
            neighbour.due = None;
            return true;
        }
        false
    }

    /// The last connection with a peer has ended, or none came about.
    pub(super) fn unreached(&mut self, peer: &PeerId, now: Instant, spread: f64) {
        let patience = self.patience(peer);
        if let Some(neighbour) = self.known.get_mut(peer) {
            neighbour.attempts = neighbour.attempts.saturating_add(1);
            neighbour.due = Some(now + pause(neighbour.attempts, spread) + patience);
        }
    }

    /// The next whose turn it is; its next turn comes after the longest pause, whatever happens.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<PeerId> {
        let mut known = self.known.iter_mut();
        let (peer, neighbour) = known.find(|(_, one)| one.due.is_some_and(|due| due <= now))?;
        neighbour.due = Some(now + LONGEST_PAUSE);
        Some(*peer)
    }

    /// When the next turn is.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.known.values().filter_map(|one| one.due).min()
    }

    fn patience(&self, peer: &PeerId) -> Duration {
        if self.local < *peer {
            Duration::ZERO
        } else {
            LATE_DIAL
        }
    }
}

/// The pause after so many attempts; `spread` in 0..1 keeps nodes apart.
fn pause(attempts: u32, spread: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 + spread / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Multiaddr {
        format!("/ip4/10.0.0.{n}/tcp/1")
            .parse()
            .expect("an address")
    }

    /// Neighbours of a peer with a smaller id than `first`, and two of them.
    fn scene() -> (Neighbours, PeerId, PeerId) {
        let mut peers = [PeerId::random(), PeerId::random(), PeerId::random()];
        peers.sort();
        let [local, a, b] = peers;
        (Neighbours::new(local), a, b)
    }

    #[test]
    fn a_neighbour_is_dialled_until_it_is_there_and_again_when_it_is_gone() {
        let (mut neighbours, a, _) = scene();
        let mut now = Instant::now();
        neighbours.discovered(a, address(1), now);
        assert_eq!(neighbours.take_due(now), Some(a));
        assert_eq!(neighbours.take_due(now), None, "it is being dialled");
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            neighbours.unreached(&a, now, 1.0);
            let due = neighbours.next_due().expect("it is to be dialled");
            longest = longest.max(due - now);
            now = due;
            assert_eq!(neighbours.take_due(now), Some(a));
        }
        assert_eq!(longest, LONGEST_PAUSE.mul_f64(1.25));
        assert!(neighbours.identified(&a));
        assert_eq!(neighbours.next_due(), None);
        neighbours.unreached(&a, now, 0.0);
        assert_eq!(neighbours.next_due(), Some(now + FIRST_PAUSE));
    }

    #[test]
    fn the_peer_with_the_larger_id_waits_for_the_other() {
        let (Neighbours { local, .. }, a, _) = scene();
        let mut neighbours = Neighbours::new(a);
        let now = Instant::now();
        neighbours.discovered(local, address(1), now);
        assert_eq!(neighbours.next_due(), Some(now + LATE_DIAL));
    }

    #[test]
    fn whoever_is_not_heard_of_any_more_is_forgotten() {
        let (mut neighbours, a, b) = scene();
        let now = Instant::now();
        neighbours.discovered(a, address(1), now);
        neighbours.discovered(a, address(2), now);
        neighbours.expired(&a, &address(1));
        assert_eq!(neighbours.take_due(now), Some(a));
        neighbours.expired(&a, &address(2));
        assert!(!neighbours.identified(&a));
        // A stranger to mDNS is never dialled from here.
        neighbours.unreached(&b, now, 0.0);
        assert_eq!(neighbours.next_due(), None);
    }

    #[test]
    fn neighbours_are_bounded() {
        let (mut neighbours, ..) = scene();
        let now = Instant::now();
        for _ in 0..MAX_NEIGHBOURS + 5 {
            neighbours.discovered(PeerId::random(), address(1), now);
        }
        assert_eq!(neighbours.known.len(), MAX_NEIGHBOURS);
    }
}
