//! Permits for requests: taken before a command is sent, held until the request has ended on the wire.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The right to have one request under way.
pub(in crate::net) struct Permit {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

/// How many requests may be under way: to one peer, and in all.
pub(in crate::net) struct Permits {
    per_peer: usize,
    all: Arc<Semaphore>,
    peers: Mutex<HashMap<PeerId, Arc<Semaphore>>>,
}

impl Permits {
    /// So many for each peer and so many in all.
    pub(in crate::net) fn new(per_peer: usize, all: usize) -> Self {
        Self {
            per_peer,
            all: Arc::new(Semaphore::new(all)),
            peers: Mutex::default(),
        }
    }

    /// Waits for a permit; `None` once the net is stopping.
    pub(in crate::net) async fn acquire(&self, peer: PeerId) -> Option<Permit> {
        // The peer's first: a slow peer then keeps its own callers waiting, not those of others.
        let of_peer = self.semaphore(peer).acquire_owned().await.ok()?;
        let of_all = self.all.clone().acquire_owned().await.ok()?;
        Some(Permit {
            _of_peer: of_peer,
            _of_all: of_all,
        })
    }

    /// Turns everybody away from now on.
    pub(in crate::net) fn close(&self) {
        self.all.close();
        let peers = self.peers.lock().unwrap_or_else(|e| e.into_inner());
        peers.values().for_each(|semaphore| semaphore.close());
    }

    fn semaphore(&self, peer: PeerId) -> Arc<Semaphore> {
        let mut peers = self.peers.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(semaphore) = peers.get(&peer) {
            return semaphore.clone();
        }
        // Each permit and each waiter holds a clone: what nobody else holds is idle. So the map is never larger than
        // the number of callers.
        peers.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let semaphore = Arc::new(Semaphore::new(self.per_peer));
        peers.insert(peer, semaphore.clone());
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn both_bounds_hold_and_idle_peers_are_forgotten() {
        let permits = Permits::new(2, 3);
        let [a, b, c] = [PeerId::random(), PeerId::random(), PeerId::random()];
        let first = permits.acquire(a).await;
        let second = permits.acquire(a).await;
        assert!(permits.acquire(a).now_or_never().is_none(), "peer's bound");
        let third = permits.acquire(b).await;
        assert!(permits.acquire(c).now_or_never().is_none(), "total bound");
        drop((first, second, third));
        let again = permits.acquire(PeerId::random()).await;
        assert!(again.is_some());
        assert_eq!(permits.peers.lock().expect("not poisoned").len(), 1);
        permits.close();
        assert!(permits.acquire(a).await.is_none());
    }
}
