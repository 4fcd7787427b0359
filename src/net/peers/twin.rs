//! Notices that another node runs with this node's key, as after a data directory was copied.
//!
//! A peer that proves to have this node's key is another node, or this one itself, reached through
//! its router. A node that reaches itself hears itself at the same moment; because two twins may
//! dial each other at one moment, too, such a meeting is tried again at other times. Pure: the
//! dialling is the keeper's.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use libp2p::core::Multiaddr;
use tokio::time::Instant;

/// A node that reaches itself hears itself within so long.
const SAME_MOMENT: Duration = Duration::from_secs(1);
/// A meeting that may have been with this node itself is tried again within so long.
const AGAIN: Duration = Duration::from_secs(15);
/// Further tries: twins may dial each other at one moment more than once.
const MAX_TRIES: u32 = 4;
/// Time in which the same address is dialled for a claim, and told of, once.
const REPEAT: Duration = Duration::from_secs(10 * 60);
/// Most meetings and addresses that are remembered.
const MAX_REMEMBERED: usize = 64;

/// An action that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another node has this node's key; this is where.
    Twin(Multiaddr),
    /// The address is to be dialled, whoever is there.
    Dial(Multiaddr),
}

/// This node's key was met.
#[derive(Debug, Clone)]
struct Meeting {
    at: Instant,
    /// The address that was dialled, or the IP address of who dialled.
    address: Multiaddr,
    dialled: bool,
    /// Whether it is settled what it was.
    settled: bool,
}

/// Evidence of another node with this node's key.
#[derive(Debug, Default)]
pub(super) struct Twins {
    own: HashSet<Multiaddr>,
    meetings: VecDeque<Meeting>,
    /// Addresses to be dialled again, and when.
    again: VecDeque<(Instant, Multiaddr)>,
    /// Number of times that addresses were dialled again.
    tried: HashMap<Multiaddr, u32>,
    /// When an address was last dialled for a claim, and when one was last told of.
    claimed: HashMap<Multiaddr, Instant>,
    told: HashMap<Multiaddr, Instant>,
}

impl Twins {
    /// This node listens on an address.
    pub(super) fn listens(&mut self, address: Multiaddr) {
        self.own.insert(address);
    }

    /// This node listens on an address no more.
    pub(super) fn listens_no_more(&mut self, address: &Multiaddr) {
        self.own.remove(address);
    }

    /// Somebody on the local network claims to have this node's key at an address. Whether to dial
    /// it.
    pub(super) fn claimed(&mut self, address: &Multiaddr, now: Instant) -> bool {
        !self.own.contains(address) && is_first(&mut self.claimed, address, now)
    }

    /// This node's key was met by dialling an address.
    pub(super) fn dialled(&mut self, address: Multiaddr, now: Instant) {
        // An own address is remembered for whom this node hears at the same moment: itself.
        let settled = self.own.contains(&address);
        self.met(address, true, settled, now);
    }

    /// Somebody has dialled from an address, and no connection came about. That may be this node
    /// itself: who meets its own key turns away before the other end knows it. `is_own_key`: it was
    /// this node's key for sure.
    pub(super) fn heard(&mut self, from: &Multiaddr, is_own_key: bool, now: Instant) {
        // The port says nothing: it is another one each time.
        self.met(ip_part(from), false, !is_own_key, now);
    }

    fn met(&mut self, address: Multiaddr, dialled: bool, settled: bool, at: Instant) {
        if self.meetings.len() >= MAX_REMEMBERED {
            self.meetings.pop_front();
        }
        self.meetings.push_back(Meeting {
            at,
            address,
            dialled,
            settled,
        });
    }

    /// The next action that is due. `spread` in 0..1 keeps twins apart.
    pub(super) fn take_due(&mut self, now: Instant, spread: f64) -> Option<Verdict> {
        if let Some(due) = self.again.iter().position(|(due, _)| *due <= now) {
            let (_, address) = self.again.remove(due)?;
            return Some(Verdict::Dial(address));
        }
        loop {
            let is_due = |one: &Meeting| !one.settled && one.at + SAME_MOMENT <= now;
            let due = self.meetings.iter().position(is_due)?;
            self.meetings[due].settled = true;
            let meeting = self.meetings[due].clone();
            if !self.may_be_oneself(&meeting) {
                let place = ip_part(&meeting.address);
                if is_first(&mut self.told, &place, now) {
                    return Some(Verdict::Twin(meeting.address));
                }
            } else if meeting.dialled && self.may_try_again(&meeting.address) {
                let later = now + AGAIN.mul_f64(spread.max(0.2));
                self.again.push_back((later, meeting.address));
            }
        }
    }

    fn may_try_again(&mut self, address: &Multiaddr) -> bool {
        if self.tried.len() >= MAX_REMEMBERED && !self.tried.contains_key(address) {
            return false;
        }
        let tries = self.tried.entry(address.clone()).or_default();
        *tries += 1;
        *tries <= MAX_TRIES
    }

    /// Whether this node met its key the other way at the same moment.
    fn may_be_oneself(&self, meeting: &Meeting) -> bool {
        let apart = |other: &Meeting| {
            let (a, b) = (meeting.at, other.at);
            a.max(b).saturating_duration_since(a.min(b))
        };
        let others = self.meetings.iter();
        let mut others = others.filter(|other| other.dialled != meeting.dialled);
        others.any(|other| apart(other) <= SAME_MOMENT)
    }

    /// When to look again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let open = self.meetings.iter().filter(|one| !one.settled);
        let open = open.map(|one| one.at + SAME_MOMENT);
        open.chain(self.again.iter().map(|(due, _)| *due)).min()
    }
}

/// The IP address that an address starts with.
fn ip_part(address: &Multiaddr) -> Multiaddr {
    address.iter().take(1).collect()
}

/// Whether an address comes for the first time in a while; then it is remembered.
fn is_first(known: &mut HashMap<Multiaddr, Instant>, address: &Multiaddr, now: Instant) -> bool {
    known.retain(|_, then| now.saturating_duration_since(*then) < REPEAT);
    if known.contains_key(address) || known.len() >= MAX_REMEMBERED {
        return false;
    }
    known.insert(address.clone(), now);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> Multiaddr {
        format!("/ip4/10.0.0.{n}/tcp/4384")
            .parse()
            .expect("an address")
    }

    #[test]
    fn a_twin_is_told_of_once_in_a_while() {
        let mut twins = Twins::default();
        let mut now = Instant::now();
        twins.listens(address(1));
        assert!(!twins.claimed(&address(1), now), "that is this node");
        assert!(twins.claimed(&address(2), now));
        assert!(!twins.claimed(&address(2), now), "it is being dialled");
        twins.dialled(address(2), now);
        assert_eq!(twins.take_due(now, 0.5), None, "it may hear itself yet");
        now = twins.next_due().expect("soon");
        assert_eq!(twins.take_due(now, 0.5), Some(Verdict::Twin(address(2))));
        twins.dialled(address(2), now);
        now += SAME_MOMENT;
        assert_eq!(twins.take_due(now, 0.5), None, "it was told");
        now += REPEAT;
        twins.heard(&address(2), true, now);
        now += SAME_MOMENT;
        let ip: Multiaddr = "/ip4/10.0.0.2".parse().expect("an address");
        assert_eq!(twins.take_due(now, 0.5), Some(Verdict::Twin(ip)));
        assert_eq!(twins.next_due(), None);
    }

    #[test]
    fn a_node_that_reaches_itself_is_no_twin() {
        let mut twins = Twins::default();
        let mut now = Instant::now();
        twins.listens(address(1));
        // By an address that it listens on.
        twins.dialled(address(1), now);
        twins.heard(&address(1), false, now);
        now += SAME_MOMENT;
        assert_eq!(twins.take_due(now, 0.5), None);
        // Through its router, as often as it tries.
        now += 2 * SAME_MOMENT;
        for tries in 0..=MAX_TRIES {
            let again = tries < MAX_TRIES;
            twins.dialled(address(9), now);
            twins.heard(&address(8), false, now + SAME_MOMENT / 2);
            now += 2 * SAME_MOMENT;
            assert_eq!(twins.take_due(now, 0.5), None);
            let next = twins.next_due();
            assert_eq!(next.is_some(), again);
            if let Some(next) = next {
                now = next;
                assert_eq!(twins.take_due(now, 0.5), Some(Verdict::Dial(address(9))));
            }
        }
    }

    #[test]
    fn twins_that_dial_each_other_at_one_moment_are_told_apart_at_the_second_try() {
        let mut twins = Twins::default();
        let mut now = Instant::now();
        twins.dialled(address(2), now);
        twins.heard(&address(2), true, now);
        now += SAME_MOMENT;
        assert_eq!(twins.take_due(now, 0.9), None);
        now = twins.next_due().expect("it is tried again");
        assert_eq!(twins.take_due(now, 0.9), Some(Verdict::Dial(address(2))));
        twins.dialled(address(2), now);
        now += SAME_MOMENT;
        assert_eq!(twins.take_due(now, 0.9), Some(Verdict::Twin(address(2))));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut twins = Twins::default();
        let now = Instant::now();
        for n in 0..=255 {
            twins.claimed(&address(n), now);
            twins.heard(&address(n), true, now);
        }
        assert_eq!(twins.meetings.len(), MAX_REMEMBERED);
        assert_eq!(twins.claimed.len(), MAX_REMEMBERED);
    }
}
