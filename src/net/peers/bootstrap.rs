//! Bootstrap peers: who they are, and when each is to be dialled next. Pauses grow with failed attempts.
//!
//! An attempt has succeeded when the peer has told who it is: one that has as many connections as
//! it takes accepts a socket and closes it at once. A peer that sends this node away again soon
//! after counts as a failed attempt, too.
//!
//! Deliberately absent: the dialling, and whether a peer is connected: the keeper knows.

use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::Multiaddr;
use libp2p::swarm::ConnectionId;
use tokio::time::Instant;

use super::keeper::Fact;
use crate::net::address::{peer_of, without_peer};

/// First and longest pause between attempts to reach a bootstrap peer.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(5 * 60);
/// When the last peer is lost, each is tried again within so long, whatever failed before.
const AFTER_ALL_LOST: Duration = Duration::from_secs(30);

struct Bootstrap {
    address: Multiaddr,
    /// Who is there, once known.
    peer: Option<PeerId>,
    attempts: u32,
    dialling: Option<ConnectionId>,
    /// When to look at it again.
    due: Instant,
}

/// The bootstrap peers.
pub(super) struct Bootstraps(Vec<Bootstrap>);

/// One whose turn it is.
pub(super) struct Due {
    /// Which, for [`Bootstraps::dialling`].
    pub(super) number: usize,
    pub(super) peer: Option<PeerId>,
    pub(super) address: Multiaddr,
    /// Failed attempts since it was last there.
    pub(super) attempts: u32,
}

impl Bootstraps {
    /// All are to be dialled at once.
    pub(super) fn new(addresses: Vec<Multiaddr>, now: Instant) -> Self {
        let bootstraps = addresses.into_iter().map(|address| Bootstrap {
            peer: peer_of(&address),
            address,
            attempts: 0,
            dialling: None,
            due: now,
        });
        Self(bootstraps.collect())
    }

    /// A connection with a peer was made, which has yet to tell who it is. Whether it is one of
    /// them.
    pub(super) fn established(&mut self, peer: PeerId, id: ConnectionId, now: Instant) -> bool {
        let mut is_one = false;
        for bootstrap in &mut self.0 {
            if bootstrap.dialling == Some(id) || bootstrap.peer == Some(peer) {
                is_one = true;
                bootstrap.peer = Some(peer);
                bootstrap.dialling = None;
                bootstrap.due = now + LONGEST_PAUSE;
            }
        }
        is_one
    }

    /// A peer has stayed connected for a while: earlier failures don't count any more.
    pub(super) fn stayed(&mut self, peer: PeerId) {
        let meant = self.0.iter_mut();
        for bootstrap in meant.filter(|bootstrap| bootstrap.peer == Some(peer)) {
            bootstrap.attempts = 0;
        }
    }

    /// The peer, or who was dialled by this attempt, could not be reached, or is no good.
    pub(super) fn failed(
        &mut self,
        peer: Option<PeerId>,
        id: Option<ConnectionId>,
        error: &str,
        now: Instant,
    ) -> Vec<Fact> {
        let is_it = |bootstrap: &Bootstrap| {
            (id.is_some() && bootstrap.dialling == id) || (peer.is_some() && bootstrap.peer == peer)
        };
        let meant = self.0.iter_mut().filter(|bootstrap| is_it(bootstrap));
        let facts = meant.map(|bootstrap| {
            bootstrap.dialling = None;
            bootstrap.attempts = bootstrap.attempts.saturating_add(1);
            let retry_in = pause(bootstrap.attempts, rand::random());
            bootstrap.due = now + retry_in;
            Fact::BootstrapFailed {
                address: bootstrap.address.clone(),
                error: error.to_owned(),
                retry_in,
            }
        });
        facts.collect()
    }

    /// This node itself answered at an address: the same list of bootstrap peers is given to all nodes, those on it included.
    pub(super) fn leave_out(&mut self, own: &Multiaddr) {
        let own = without_peer(own.clone());
        self.0.retain(|bootstrap| {
            bootstrap.attempts == 0 || without_peer(bootstrap.address.clone()) != own
        });
    }

    /// Hardly anybody is connected any more: none of them waits for long, but those that failed.
    pub(super) fn hurry(&mut self, now: Instant) {
        let soon = now + pause(1, rand::random());
        let meant = self.0.iter_mut();
        for bootstrap in meant.filter(|bootstrap| bootstrap.attempts == 0) {
            bootstrap.due = bootstrap.due.min(soon);
        }
    }

    /// The last peer that had stayed is lost, perhaps with the network itself: what failed before
    /// says little about what will be there next. `spread` in 0..1 keeps nodes that lost each other
    /// apart.
    pub(super) fn all_lost(&mut self, now: Instant, spread: f64) {
        for bootstrap in &mut self.0 {
            bootstrap.attempts = bootstrap.attempts.min(1);
            let soon = now + AFTER_ALL_LOST.mul_f64(spread.clamp(0.0, 1.0));
            bootstrap.due = bootstrap.due.min(soon);
        }
    }

    /// The network has changed: failures in the old one say nothing of this one.
    pub(super) fn try_now(&mut self, now: Instant) {
        for bootstrap in &mut self.0 {
            bootstrap.attempts = 0;
            bootstrap.due = bootstrap.due.min(now);
        }
    }

    /// The next whose turn it is; its next turn comes after the longest pause unless something happens before.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        let number = self.0.iter().position(|bootstrap| bootstrap.due <= now)?;
        let bootstrap = &mut self.0[number];
        bootstrap.due = now + LONGEST_PAUSE;
        Some(Due {
            number,
            peer: bootstrap.peer,
            address: bootstrap.address.clone(),
            attempts: bootstrap.attempts,
        })
    }

    /// What was done about one whose turn it was.
    pub(super) fn dialling(&mut self, number: usize, id: Option<ConnectionId>) {
        if let Some(bootstrap) = self.0.get_mut(number) {
            bootstrap.dialling = id;
        }
    }

    /// When the next turn is.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.0.iter().map(|bootstrap| bootstrap.due).min()
    }
}

/// How long to wait after so many failed attempts; `spread` in 0..1 keeps nodes that failed together apart.
fn pause(attempts: u32, spread: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(LONGEST_PAUSE).mul_f64(1.0 + spread / 4.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound() {
        assert_eq!(pause(1, 0.0), FIRST_PAUSE);
        assert_eq!(pause(4, 0.0), FIRST_PAUSE * 8);
        assert_eq!(pause(40, 0.0), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST_PAUSE.mul_f64(1.25));
    }

    #[test]
    fn each_has_its_turn_once_and_again_after_a_pause() {
        let now = Instant::now();
        let address = |port: u16| -> Multiaddr {
            let text = format!("/ip4/127.0.0.1/tcp/{port}");
            text.parse().expect("an address")
        };
        let mut bootstraps = Bootstraps::new(vec![address(1), address(2)], now);
        for number in 0..2 {
            let due = bootstraps.take_due(now).expect("its turn");
            assert_eq!((due.number, due.attempts, due.peer), (number, 0, None));
            let id = ConnectionId::new_unchecked(number);
            bootstraps.dialling(due.number, Some(id));
        }
        assert!(bootstraps.take_due(now).is_none());
        assert_eq!(bootstraps.next_due(), Some(now + LONGEST_PAUSE));

        let second = Some(ConnectionId::new_unchecked(1));
        let facts = bootstraps.failed(None, second, "nobody is there", now);
        let [
            Fact::BootstrapFailed {
                address: failed,
                retry_in,
                ..
            },
        ] = &facts[..]
        else {
            panic!("{facts:?}");
        };
        assert_eq!(*failed, address(2));
        assert!(*retry_in >= FIRST_PAUSE && *retry_in < 2 * FIRST_PAUSE);
        assert!(bootstraps.next_due().expect("two") < now + LONGEST_PAUSE);
        // Who never failed is somebody else who happens to be called the same.
        bootstraps.leave_out(&address(1));
        bootstraps.leave_out(&address(2));
        assert_eq!(bootstraps.next_due(), Some(now + LONGEST_PAUSE));

        let peer = PeerId::random();
        let first = ConnectionId::new_unchecked(0);
        assert!(bootstraps.established(peer, first, now));
        assert!(bootstraps.established(peer, ConnectionId::new_unchecked(9), now));
        let other = PeerId::random();
        assert!(!bootstraps.established(other, ConnectionId::new_unchecked(8), now));
        bootstraps.hurry(now);
        assert!(bootstraps.next_due().expect("one") <= now + 2 * FIRST_PAUSE);
    }

    #[test]
    fn when_all_are_lost_what_failed_for_long_is_tried_again_within_a_minute() {
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        let mut bootstraps = Bootstraps::new(vec![address], Instant::now());
        let fail = |bootstraps: &mut Bootstraps| {
            let now = bootstraps.next_due().expect("one");
            let due = bootstraps.take_due(now).expect("its turn");
            let id = ConnectionId::new_unchecked(0);
            bootstraps.dialling(due.number, Some(id));
            bootstraps.failed(None, Some(id), "nobody is there", now);
            now
        };
        for _ in 0..12 {
            fail(&mut bootstraps);
        }
        let now = fail(&mut bootstraps);
        let due = |bootstraps: &Bootstraps| bootstraps.next_due().expect("one");
        assert!(due(&bootstraps) >= now + LONGEST_PAUSE);
        bootstraps.hurry(now);
        assert!(due(&bootstraps) >= now + LONGEST_PAUSE, "others are there");
        bootstraps.all_lost(now, 1.0);
        assert!(due(&bootstraps) <= now + Duration::from_secs(60));
        // And with growing pauses again.
        for _ in 0..12 {
            fail(&mut bootstraps);
        }
        let now = fail(&mut bootstraps);
        assert!(due(&bootstraps) >= now + LONGEST_PAUSE);
    }

    #[test]
    fn a_peer_that_accepts_a_socket_and_closes_it_is_left_alone_for_longer_each_time() {
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().expect("an address");
        let mut bootstraps = Bootstraps::new(vec![address], Instant::now());
        let peer = PeerId::random();
        let mut last = Duration::ZERO;
        for n in 0..12 {
            let now = bootstraps.next_due().expect("one");
            let due = bootstraps.take_due(now).expect("its turn");
            let id = ConnectionId::new_unchecked(n);
            bootstraps.dialling(due.number, Some(id));
            assert!(bootstraps.established(peer, id, now));
            let facts = bootstraps.failed(Some(peer), None, "it closed the connection", now);
            let [Fact::BootstrapFailed { retry_in, .. }] = facts[..] else {
                panic!("{facts:?}");
            };
            // As the keeper does when hardly anybody is connected.
            bootstraps.hurry(now);
            assert!(
                retry_in > last.mul_f64(1.1) || retry_in >= LONGEST_PAUSE,
                "{retry_in:?}"
            );
            assert!(bootstraps.next_due().expect("one") >= now + retry_in / 2);
            last = retry_in;
        }
        assert!(last >= LONGEST_PAUSE);
        bootstraps.stayed(peer);
        let now = Instant::now();
        bootstraps.hurry(now);
        assert!(bootstraps.next_due().expect("one") <= now + 2 * FIRST_PAUSE);
    }
}
