//! Distances of connected peers, for rooms that tell peers addresses: what is of use on the local
//! network alone is told there alone.
//!
//! Bounded by the number of connections.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;
use libp2p::core::ConnectedPoint;
use libp2p::swarm::{ConnectionId, FromSwarm};

use super::address::{Reach, distance, remote};

/// Distances of connected peers. One room keeps it; others look.
#[derive(Debug, Default)]
pub(super) struct Remotes(Mutex<HashMap<PeerId, Vec<(ConnectionId, Reach)>>>);

impl Remotes {
    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Vec<(ConnectionId, Reach)>>> {
        // Each change is whole before anything can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in that a connection was made, or has ended.
    pub(super) fn on_swarm_event(&self, event: &FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.came(event.peer_id, event.connection_id, event.endpoint);
            }
            FromSwarm::ConnectionClosed(event) => self.gone(&event.peer_id, event.connection_id),
            _ => {}
        }
    }

    fn came(&self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let distance = distance(&remote(peer, endpoint));
        self.lock().entry(peer).or_default().push((id, distance));
    }

    fn gone(&self, peer: &PeerId, id: ConnectionId) {
        let mut all = self.lock();
        if let Some(links) = all.get_mut(peer) {
            links.retain(|(other, _)| *other != id);
            if links.is_empty() {
                all.remove(peer);
            }
        }
    }

    /// Distance of a peer. Of several connections the farthest counts, for any of them may be used;
    /// a peer that is not connected may be anywhere.
    pub(super) fn of(&self, peer: &PeerId) -> Reach {
        let all = self.lock();
        let links = all.get(peer).into_iter().flatten();
        let farthest = links.map(|(_, distance)| *distance).min();
        farthest.unwrap_or(Reach::World)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_farthest_connection_with_a_peer_counts() {
        let remotes = Remotes::default();
        let peer = PeerId::random();
        assert_eq!(remotes.of(&peer), Reach::World);
        let from = |text: &str| ConnectedPoint::Listener {
            local_addr: "/ip4/10.0.0.1/tcp/1".parse().expect("an address"),
            send_back_addr: text.parse().expect("an address"),
        };
        let id = ConnectionId::new_unchecked;
        remotes.came(peer, id(1), &from("/ip4/10.0.0.2/tcp/2"));
        assert_eq!(remotes.of(&peer), Reach::Network);
        remotes.came(peer, id(2), &from("/ip4/127.0.0.1/tcp/2"));
        assert_eq!(remotes.of(&peer), Reach::Network);
        remotes.came(peer, id(3), &from("/ip4/198.51.100.7/tcp/2"));
        assert_eq!(remotes.of(&peer), Reach::World);
        remotes.gone(&peer, id(3));
        remotes.gone(&peer, id(1));
        assert_eq!(remotes.of(&peer), Reach::Machine);
        remotes.gone(&peer, id(2));
        assert!(remotes.lock().is_empty());
    }

    #[test]
    fn a_connection_through_a_relay_may_come_from_anywhere() {
        let remotes = Remotes::default();
        let (peer, relay) = (PeerId::random(), PeerId::random());
        let through = ConnectedPoint::Listener {
            local_addr: format!("/ip4/10.0.0.9/tcp/1/p2p/{relay}/p2p-circuit")
                .parse()
                .expect("an address"),
            send_back_addr: format!("/p2p/{peer}").parse().expect("an address"),
        };
        remotes.came(peer, ConnectionId::new_unchecked(1), &through);
        assert_eq!(remotes.of(&peer), Reach::World);
    }
}
