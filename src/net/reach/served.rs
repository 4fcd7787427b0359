//! How much this node relays for others. Pure, but for libp2p's settings at the end.
//!
//! libp2p's relay has one bound for the bytes and minutes of every circuit. What differs is how
//! many there may be: strangers open few, one after the other, each site and all together; members
//! of this node's rings as many as there are places, some of which strangers never get. Enough for
//! strangers to arrange a direct connection, and to get a few blocks where none comes about.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId, relay};
use tokio::time::Instant;

use super::Served;
use crate::net::admission::Site;

/// Peers that this node keeps a way open for, of these strangers, and connections of one peer.
const MAX_RESERVATIONS: usize = 128;
const MAX_OF_STRANGERS: usize = 96;
const MAX_RESERVATIONS_PER_PEER: usize = 2;
/// Time for which a way is kept open before the peer asks again.
const RESERVATION: Duration = Duration::from_secs(60 * 60);
/// Circuits at one time, of these those that strangers open, and those of one peer.
const MAX_CIRCUITS: usize = 48;
const MAX_CIRCUITS_OF_STRANGERS: usize = 32;
const MAX_CIRCUITS_PER_PEER: usize = 4;
/// Bytes that go through one circuit, both ways together, and its longest time.
const MAX_CIRCUIT_BYTES: u64 = 32 << 20;
const MAX_CIRCUIT_TIME: Duration = Duration::from_secs(15 * 60);
/// Circuits that the strangers of one site may open in a row, and the time after which they may
/// open a further one; the same for all strangers.
const SITE: Rate = Rate {
    burst: 8.0,
    again: Duration::from_secs(60),
};
const ALL: Rate = Rate {
    burst: 64.0,
    again: Duration::from_secs(15),
};
/// Most sites of which it is remembered what they opened.
const MAX_SITES: usize = 1024;

/// Number in a row, and the time after which one more is allowed.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    again: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, rate: Rate, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed / rate.again.as_secs_f64()).min(rate.burst);
        self.at = now;
    }
}

/// Circuits that strangers have opened.
#[derive(Debug)]
struct Strangers {
    sites: HashMap<Site, Bucket>,
    all: Bucket,
}

impl Strangers {
    fn new(now: Instant) -> Self {
        let all = Bucket {
            left: ALL.burst,
            at: now,
        };
        Self {
            sites: HashMap::new(),
            all,
        }
    }

    /// Whether a stranger may open a circuit; then it is counted.
    fn admit(&mut self, site: Option<Site>, now: Instant) -> bool {
        self.all.refill(ALL, now);
        if self.all.left < 1.0 {
            return false;
        }
        if let Some(site) = site {
            if self.sites.len() >= MAX_SITES && !self.sites.contains_key(&site) {
                // Those that are full again say nothing.
                self.sites.retain(|_, bucket| {
                    bucket.refill(SITE, now);
                    bucket.left < SITE.burst
                });
                if self.sites.len() >= MAX_SITES {
                    return false;
                }
            }
            let bucket = self.sites.entry(site).or_insert(Bucket {
                left: SITE.burst,
                at: now,
            });
            bucket.refill(SITE, now);
            if bucket.left < 1.0 {
                return false;
            }
            bucket.left -= 1.0;
        }
        self.all.left -= 1.0;
        true
    }
}

/// Tells whether a peer is a member of one of this node's rings.
pub(crate) type IsMember = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// Account of what is relayed, shared with the limits that libp2p asks.
pub(super) struct Account {
    is_member: IsMember,
    strangers: Mutex<Strangers>,
    reservations: Mutex<HashMap<PeerId, bool>>,
    circuits: AtomicUsize,
    circuits_of_strangers: AtomicUsize,
    circuits_ever: AtomicU64,
    refused: AtomicU64,
}

impl Account {
    pub(super) fn new(is_member: IsMember) -> Arc<Self> {
        Arc::new(Self {
            is_member,
            strangers: Mutex::new(Strangers::new(Instant::now())),
            reservations: Mutex::default(),
            circuits: AtomicUsize::new(0),
            circuits_of_strangers: AtomicUsize::new(0),
            circuits_ever: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        })
    }

    /// Whether a way may be kept open for a peer.
    fn may_reserve(&self, peer: PeerId) -> bool {
        let reservations = self.reservations.lock();
        let reservations = reservations.unwrap_or_else(PoisonError::into_inner);
        let is_renewal = reservations.contains_key(&peer);
        let strangers = reservations.values().filter(|is_member| !**is_member);
        (self.is_member)(&peer) || is_renewal || strangers.count() < MAX_OF_STRANGERS
    }

    /// Whether a peer may open a circuit; then it is counted against its site.
    fn may_open(&self, peer: PeerId, from: &Multiaddr, now: Instant) -> bool {
        if (self.is_member)(&peer) {
            return true;
        }
        if self.circuits_of_strangers.load(Ordering::Relaxed) >= MAX_CIRCUITS_OF_STRANGERS {
            return false;
        }
        let strangers = self.strangers.lock();
        let mut strangers = strangers.unwrap_or_else(PoisonError::into_inner);
        strangers.admit(Site::of(from), now)
    }

    /// Counts what the relay reports.
    pub(super) fn on_event(&self, event: &relay::Event) {
        let reservations = self.reservations.lock();
        let mut reservations = reservations.unwrap_or_else(PoisonError::into_inner);
        let is_stranger = |peer: &PeerId| usize::from(!(self.is_member)(peer));
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, .. } => {
                reservations.insert(*src_peer_id, (self.is_member)(src_peer_id));
            }
            relay::Event::ReservationClosed { src_peer_id }
            | relay::Event::ReservationTimedOut { src_peer_id } => {
                reservations.remove(src_peer_id);
            }
            relay::Event::ReservationReqDenied { .. } | relay::Event::CircuitReqDenied { .. } => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            relay::Event::CircuitReqAccepted { src_peer_id, .. } => {
                self.circuits.fetch_add(1, Ordering::Relaxed);
                self.circuits_ever.fetch_add(1, Ordering::Relaxed);
                let of_strangers = &self.circuits_of_strangers;
                of_strangers.fetch_add(is_stranger(src_peer_id), Ordering::Relaxed);
            }
            relay::Event::CircuitClosed { src_peer_id, .. } => {
                less(&self.circuits, 1);
                less(&self.circuits_of_strangers, is_stranger(src_peer_id));
            }
            _ => {}
        }
    }

    /// The counters; `on`: whether the node relays.
    pub(super) fn served(&self, on: bool) -> Served {
        let reservations = self.reservations.lock();
        let reservations = reservations.unwrap_or_else(PoisonError::into_inner);
        Served {
            on,
            reservations: reservations.len(),
            circuits: self.circuits.load(Ordering::Relaxed),
            circuits_ever: self.circuits_ever.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// Takes from a counter what it has: a peer may have become a member since it was counted.
fn less(counter: &AtomicUsize, by: usize) {
    // It fails never: the new value is always there.
    let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
        Some(count.saturating_sub(by))
    });
}

/// libp2p's settings of the relay.
pub(super) fn config(account: &Arc<Account>) -> relay::Config {
    let (reserving, opening) = (account.clone(), account.clone());
    let config = relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_reservations_per_peer: MAX_RESERVATIONS_PER_PEER,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: vec![Box::new(move |peer, _: &Multiaddr, _| {
            reserving.may_reserve(peer)
        })],
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: MAX_CIRCUIT_TIME,
        max_circuit_bytes: MAX_CIRCUIT_BYTES,
        circuit_src_rate_limiters: vec![Box::new(move |peer, from: &Multiaddr, _| {
            opening.may_open(peer, from, Instant::now())
        })],
    };
    let burst = NonZeroU32::MIN.saturating_add(29);
    config
        .reservation_rate_per_peer(burst, Duration::from_secs(120))
        .reservation_rate_per_ip(burst.saturating_add(30), Duration::from_secs(60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32) -> Multiaddr {
        let ip = std::net::Ipv4Addr::from(0x0808_0000 + n);
        let text = format!("/ip4/{ip}/tcp/4384");
        text.parse().expect("an address")
    }

    fn accepted(peer: PeerId) -> relay::Event {
        relay::Event::CircuitReqAccepted {
            src_peer_id: peer,
            dst_peer_id: PeerId::random(),
        }
    }

    #[test]
    fn a_site_of_strangers_opens_a_few_circuits_whatever_they_call_themselves() {
        let account = Account::new(Arc::new(|_: &PeerId| false));
        let now = Instant::now();
        let open = |n: u32, now| account.may_open(PeerId::random(), &at(n), now);
        let opened = (0..100).filter(|_| open(1, now)).count();
        assert_eq!(opened, SITE.burst as usize);
        assert!(open(2, now), "another site has its own share");
        assert!(!open(1, now + SITE.again / 2));
        assert!(open(1, now + SITE.again));
        assert!(!open(1, now + SITE.again));
    }

    #[test]
    fn all_strangers_together_have_a_bound_and_members_none() {
        let member = PeerId::random();
        let account = Account::new(Arc::new(move |peer: &PeerId| *peer == member));
        let now = Instant::now();
        let opened = (0..10_000).filter(|n| account.may_open(PeerId::random(), &at(*n), now));
        assert_eq!(opened.count(), ALL.burst as usize);
        assert!(account.may_open(member, &at(1), now));
        let strangers = account.strangers.lock().expect("nobody panicked");
        assert!(strangers.sites.len() <= MAX_SITES);
    }

    #[test]
    fn the_sites_that_are_remembered_are_bounded() {
        let mut now = Instant::now();
        let mut strangers = Strangers::new(now);
        let mut opened = 0;
        for n in 0..4 * MAX_SITES as u32 {
            now += ALL.again;
            opened += usize::from(strangers.admit(Site::of(&at(n)), now));
            assert!(strangers.sites.len() <= MAX_SITES);
        }
        assert_eq!(opened, 4 * MAX_SITES, "a site that has waited is forgotten");
    }

    #[test]
    fn strangers_leave_places_for_members() {
        let member = PeerId::random();
        let account = Account::new(Arc::new(move |peer: &PeerId| *peer == member));
        let now = Instant::now();
        let stranger = PeerId::random();
        for _ in 0..MAX_CIRCUITS_OF_STRANGERS {
            assert!(account.may_open(stranger, &Multiaddr::empty(), now));
            account.on_event(&accepted(stranger));
        }
        assert!(!account.may_open(stranger, &Multiaddr::empty(), now));
        assert!(account.may_open(member, &at(1), now));
        account.on_event(&accepted(member));
        account.on_event(&relay::Event::CircuitClosed {
            src_peer_id: stranger,
            dst_peer_id: member,
            error: None,
        });
        assert!(account.may_open(stranger, &Multiaddr::empty(), now));
        let served = account.served(true);
        assert_eq!(served.circuits, MAX_CIRCUITS_OF_STRANGERS);
        assert_eq!(served.circuits_ever, MAX_CIRCUITS_OF_STRANGERS as u64 + 1);

        for _ in 0..MAX_OF_STRANGERS {
            let peer = PeerId::random();
            assert!(account.may_reserve(peer));
            account.on_event(&relay::Event::ReservationReqAccepted {
                src_peer_id: peer,
                renewed: false,
            });
        }
        assert!(!account.may_reserve(stranger));
        assert!(account.may_reserve(member));
        let known = *account
            .reservations
            .lock()
            .expect("whole")
            .keys()
            .next()
            .expect("one");
        assert!(account.may_reserve(known), "who is in may stay");
        assert_eq!(account.served(true).reservations, MAX_OF_STRANGERS);
        account.on_event(&relay::Event::ReservationClosed { src_peer_id: known });
        assert!(account.may_reserve(stranger));
    }
}
