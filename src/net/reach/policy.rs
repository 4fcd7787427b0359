//! Steps to be reachable, by the facts that are known. Pure.
//!
//! - Nobody is believed at once that this node can't be reached: two tries must have failed, where
//!   there are two addresses to try, and one that succeeds outweighs them all.
//! - A node that can't be reached answers no questions of the DHT (each would cost those that ask a
//!   wait), and has a few relays keep a way open.
//! - A node of which nothing is known behaves as if it could be reached: so it is on a LAN.
//! - Relays that cut or turn away wait longer each time before they are asked again.

use std::collections::HashMap;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::Reachable;
use crate::net::admission::Site;

/// Relays that keep a way open to this node at one time.
pub(super) const RELAYS: usize = 2;
/// Failed tries that show that this node can't be reached.
const FAILURES: usize = 2;
/// Most relays that are remembered.
const MAX_KNOWN: usize = 64;
/// First and longest pause before a relay is asked again.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);
/// A relay that has not answered for so long is given up.
const ANSWER: Duration = Duration::from_secs(20);
/// A relay that kept its word for so long has made up for earlier failures.
const STEADY: Duration = Duration::from_secs(10 * 60);

/// Facts about being reachable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Facts {
    /// Own addresses at which somebody outside has reached this node.
    pub(super) confirmed: usize,
    /// Relays that keep a way open.
    pub(super) relays: usize,
    /// Addresses that were tried in vain, and those that are to be tried.
    pub(super) failed: usize,
    pub(super) tried: usize,
}

impl Facts {
    /// Whether this node can be reached.
    pub(super) fn reachable(&self) -> Reachable {
        let has_failed = self.failed > 0 && self.failed >= FAILURES.min(self.tried);
        match self {
            _ if self.confirmed > 0 => Reachable::Public,
            _ if self.relays > 0 => Reachable::Relay,
            _ if has_failed => Reachable::No,
            _ => Reachable::Unknown,
        }
    }
}

/// Steps to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Whether to answer the DHT's questions.
    pub(super) serve: bool,
    /// Whether to relay for others.
    pub(super) relay: bool,
    /// Relays that are to keep a way open.
    pub(super) relays: usize,
}

/// Steps for a node that can be reached so.
pub(super) const fn wanted(reachable: Reachable) -> Wanted {
    match reachable {
        Reachable::Public => Wanted {
            serve: true,
            relay: true,
            relays: 0,
        },
        Reachable::Unknown => Wanted {
            serve: true,
            relay: false,
            relays: 0,
        },
        Reachable::Relay | Reachable::No => Wanted {
            serve: false,
            relay: false,
            relays: RELAYS,
        },
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Asked(Instant),
    Kept(Instant),
}

#[derive(Debug)]
struct Relay {
    address: Multiaddr,
    site: Option<Site>,
    is_member: bool,
    state: State,
    failures: u32,
    not_before: Instant,
}

/// Peers that relay for others, as far as this node is connected to them.
#[derive(Debug, Default)]
pub(super) struct Relays(HashMap<PeerId, Relay>);

impl Relays {
    /// A connected peer relays for others; this node has reached it at an address.
    pub(super) fn seen(&mut self, peer: PeerId, address: Multiaddr, is_member: bool, now: Instant) {
        if let Some(known) = self.0.get_mut(&peer) {
            known.is_member = is_member;
            if known.state == State::Idle {
                (known.site, known.address) = (Site::of(&address), address);
            }
            return;
        }
        if self.0.len() >= MAX_KNOWN {
            let idle = self.0.iter().filter(|(_, one)| one.state == State::Idle);
            // Those that did worst make room first, those of this node's rings last.
            let worst = idle.max_by_key(|(_, one)| (!one.is_member, one.failures));
            let Some(worst) = worst.map(|(worst, _)| *worst) else {
                return;
            };
            self.0.remove(&worst);
        }
        let relay = Relay {
            site: Site::of(&address),
            address,
            is_member,
            state: State::Idle,
            failures: 0,
            not_before: now,
        };
        self.0.insert(peer, relay);
    }

    /// The last connection with a peer has ended. One that failed is remembered.
    pub(super) fn gone(&mut self, peer: &PeerId, now: Instant) {
        self.lost(peer, now);
        self.0
            .retain(|other, one| other != peer || one.failures > 0);
    }

    /// Relays to ask now, so that `wanted` of them keep a way open: members of this node's rings
    /// first, then those that failed least, and never two of one site.
    pub(super) fn ask(
        &mut self,
        wanted: usize,
        is_connected: impl Fn(&PeerId) -> bool,
        now: Instant,
    ) -> Vec<(PeerId, Multiaddr)> {
        let mut chosen = Vec::new();
        loop {
            let busy = self.0.values().filter(|one| one.state != State::Idle);
            let sites: Vec<Option<Site>> = busy.map(|one| one.site).collect();
            if sites.len() >= wanted {
                return chosen;
            }
            let idle = self.0.iter_mut().filter(|(peer, one)| {
                one.state == State::Idle
                    && one.not_before <= now
                    && !sites.contains(&one.site)
                    && is_connected(peer)
            });
            let best = idle.min_by_key(|(peer, one)| (!one.is_member, one.failures, **peer));
            let Some((peer, relay)) = best else {
                return chosen;
            };
            relay.state = State::Asked(now);
            chosen.push((*peer, relay.address.clone()));
        }
    }

    /// A relay has promised to keep a way open.
    pub(super) fn promised(&mut self, peer: &PeerId, now: Instant) {
        if let Some(relay) = self.0.get_mut(peer)
            && !matches!(relay.state, State::Kept(_))
        {
            relay.state = State::Kept(now);
        }
    }

    /// A relay turned this node away, or has cut the way.
    pub(super) fn lost(&mut self, peer: &PeerId, now: Instant) {
        let Some(relay) = self.0.get_mut(peer) else {
            return;
        };
        match relay.state {
            State::Idle => return,
            State::Kept(since) if now.saturating_duration_since(since) >= STEADY => {
                relay.failures = 0;
            }
            _ => {}
        }
        relay.state = State::Idle;
        relay.failures = relay.failures.saturating_add(1);
        let pause = FIRST_PAUSE.saturating_mul(1 << (relay.failures - 1).min(16));
        relay.not_before = now + pause.min(LONGEST_PAUSE);
    }

    /// Relays that were asked and have not answered.
    pub(super) fn silent(&self, now: Instant) -> Vec<PeerId> {
        let is_late = |one: &Relay| match one.state {
            State::Asked(since) => now.saturating_duration_since(since) >= ANSWER,
            _ => false,
        };
        let late = self.0.iter().filter(|(_, one)| is_late(one));
        late.map(|(peer, _)| *peer).collect()
    }

    /// Relays that keep a way open.
    pub(super) fn kept(&self) -> Vec<PeerId> {
        let kept = self.0.iter();
        let kept = kept.filter(|(_, one)| matches!(one.state, State::Kept(_)));
        kept.map(|(peer, _)| *peer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Multiaddr {
        let text = format!("/ip4/8.8.8.{n}/tcp/4384");
        text.parse().expect("an address")
    }

    #[test]
    fn one_that_came_through_outweighs_all_that_did_not() {
        let facts = |confirmed, relays, failed, tried| Facts {
            confirmed,
            relays,
            failed,
            tried,
        };
        for (facts, expected) in [
            (facts(0, 0, 0, 0), Reachable::Unknown),
            (facts(0, 0, 0, 4), Reachable::Unknown),
            (facts(0, 0, 1, 4), Reachable::Unknown),
            (facts(0, 0, 1, 1), Reachable::No),
            (facts(0, 0, 2, 4), Reachable::No),
            (facts(0, 1, 2, 4), Reachable::Relay),
            (facts(1, 0, 3, 4), Reachable::Public),
            (facts(1, 2, 9, 9), Reachable::Public),
        ] {
            assert_eq!(facts.reachable(), expected, "{facts:?}");
        }
        assert!(wanted(Reachable::Unknown).serve && !wanted(Reachable::Unknown).relay);
        assert!(wanted(Reachable::Public).relay);
        assert_eq!(wanted(Reachable::No), wanted(Reachable::Relay));
        assert!(!wanted(Reachable::No).serve);
    }

    #[test]
    fn two_relays_of_different_sites_are_asked_and_members_first() {
        let now = Instant::now();
        let mut relays = Relays::default();
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        relays.seen(a, address(1), false, now);
        relays.seen(b, address(1), false, now);
        assert_eq!(relays.ask(RELAYS, |_| true, now).len(), 1, "one site");
        relays.seen(c, address(2), true, now);
        assert_eq!(relays.ask(RELAYS, |_| false, now), []);
        assert_eq!(relays.ask(RELAYS, |_| true, now), [(c, address(2))]);
        assert_eq!(relays.ask(RELAYS, |_| true, now), []);
        let mut fresh = Relays::default();
        fresh.seen(a, address(1), false, now);
        fresh.seen(c, address(2), true, now);
        assert_eq!(fresh.ask(1, |_| true, now), [(c, address(2))]);
    }

    #[test]
    fn a_relay_that_fails_waits_longer_each_time_up_to_a_bound() {
        let mut now = Instant::now();
        let mut relays = Relays::default();
        let a = PeerId::random();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            relays.seen(a, address(1), false, now);
            assert_eq!(relays.ask(RELAYS, |_| true, now).len(), 1);
            assert!(relays.silent(now).is_empty());
            assert_eq!(relays.silent(now + ANSWER), [a]);
            relays.lost(&a, now);
            // A second word of the same failure changes nothing, and parting does not wash it off.
            relays.lost(&a, now);
            relays.gone(&a, now);
            let pause = relays.0[&a].not_before - now;
            assert!(pause > last || pause == LONGEST_PAUSE, "{pause:?}");
            assert!(relays.ask(RELAYS, |_| true, now).is_empty());
            (now, last) = (now + pause, pause);
        }
        assert_eq!(last, LONGEST_PAUSE);
        relays.ask(RELAYS, |_| true, now);
        relays.promised(&a, now);
        assert_eq!(relays.kept(), [a]);
        now += STEADY;
        relays.lost(&a, now);
        assert_eq!(relays.0[&a].not_before, now + FIRST_PAUSE);
        assert!(relays.kept().is_empty());
    }

    #[test]
    fn relays_are_bounded_and_those_in_use_stay() {
        let now = Instant::now();
        let mut relays = Relays::default();
        let first = PeerId::random();
        relays.seen(first, address(1), false, now);
        relays.ask(1, |_| true, now);
        for n in 0..2 * MAX_KNOWN {
            relays.seen(PeerId::random(), address(n as u8), false, now);
        }
        assert_eq!(relays.0.len(), MAX_KNOWN);
        assert!(relays.0.contains_key(&first));
    }
}
