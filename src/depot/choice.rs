//! Whom to ask next: pure policy over what a session knows of its peers.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use libp2p::PeerId;

use crate::block::Attempt;

/// Requests under way to one peer at most: deep enough to fill a fast link at 50 ms round-trip time with blocks of 1 MiB.
const MAX_WINDOW: usize = 32;
/// Requests under way to a peer that has not given anything yet. Each block that comes soon adds
/// one, each that comes late takes away as much as it was late, and each time-out halves: on a slow
/// line few blocks wait for each other, and the last one asked for is not the last one of a long
/// queue.
const FIRST_WINDOW: usize = 4;
/// Time that a block takes from the question on when as many as fit are under way: less is soon,
/// more than twice as much late.
const QUEUE_TIME: Duration = Duration::from_secs(4);
/// Failures in a row after which a peer is left alone for a while.
const MAX_FAILURES: u32 = 3;
/// How long a peer that failed repeatedly is left alone.
const REST: Duration = Duration::from_secs(10);
/// How long a peer that wants a higher rate is left alone: its owner may change that.
const RATE_REST: Duration = Duration::from_secs(60);
/// How long a busy peer is left alone; doubles each time that it is busy again, this often.
const BUSY_REST: Duration = Duration::from_millis(200);
const MAX_BUSY: u32 = 4;
/// Peers that a session remembers at most.
const MAX_PEERS: usize = 256;

/// What a session knows of one peer. Times are since the session began.
#[derive(Debug, Clone, Copy)]
struct Known {
    window: usize,
    in_flight: usize,
    gave: u64,
    did_not: u64,
    failures: u32,
    /// Times in a row that it was busy.
    busy: u32,
    rests_until: Duration,
    /// It is connected and did not say in time whether it has a block.
    is_silent: bool,
}

impl Default for Known {
    fn default() -> Self {
        Self {
            window: FIRST_WINDOW,
            in_flight: 0,
            gave: 0,
            did_not: 0,
            failures: 0,
            busy: 0,
            rests_until: Duration::ZERO,
            is_silent: false,
        }
    }
}

/// Requests that may be under way to a peer that gave a block so long after it was asked, of
/// `window` before that, while so many were. By Little's law a queue of `n` blocks that each wait
/// for `took` is one of `n / took` a second, whatever size they have.
fn window_after(in_flight: usize, window: usize, took: Duration) -> usize {
    if took <= QUEUE_TIME {
        return (window + 1).min(MAX_WINDOW);
    }
    if took <= 2 * QUEUE_TIME {
        return window;
    }
    let fits = in_flight as f64 * QUEUE_TIME.as_secs_f64() / took.as_secs_f64();
    window.min(fits as usize).max(1)
}

/// The peers of a session.
#[derive(Debug, Default)]
pub(super) struct Roster {
    peers: HashMap<PeerId, Known>,
}

impl Roster {
    /// Remembers a peer that probably has blocks of this session.
    pub(super) fn add(&mut self, peer: PeerId) {
        if self.peers.len() < MAX_PEERS {
            self.peers.entry(peer).or_default();
        }
    }

    /// Remembers a peer that probably has blocks of this session and said nothing when it was
    /// asked: all others come before it.
    pub(super) fn add_silent(&mut self, peer: PeerId) {
        if !self.contains(&peer) {
            self.add(peer);
            if let Some(known) = self.peers.get_mut(&peer) {
                known.is_silent = true;
            }
        }
    }

    /// The best peer for a block that the peers in `tried` did not give: those of the lowest rank
    /// first, then idle ones, then those that gave most of what they were asked for. A peer that
    /// was only busy may be asked again; a peer without a rank is not asked.
    pub(super) fn choose<R: Ord + Copy>(
        &self,
        tried: &BTreeMap<PeerId, Attempt>,
        now: Duration,
        rank: impl Fn(&PeerId) -> Option<R>,
    ) -> Option<PeerId> {
        self.peers
            .iter()
            .filter(|(peer, known)| {
                known.in_flight < known.window && known.rests_until <= now && may_ask(tried, peer)
            })
            .filter_map(|(peer, known)| Some((rank(peer)?, peer, known)))
            .min_by_key(|(rank, peer, known)| {
                // A peer that mostly says no is asked last, whatever its load.
                let barren = known.did_not > 4 * (known.gave + 1);
                let was_busy = tried.contains_key(*peer);
                (
                    known.is_silent,
                    *rank,
                    barren,
                    was_busy,
                    known.in_flight,
                    std::cmp::Reverse(known.gave),
                    **peer,
                )
            })
            .map(|(_, peer, _)| *peer)
    }

    /// Whether nobody is known.
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(super) fn contains(&self, peer: &PeerId) -> bool {
        self.peers.contains_key(peer)
    }

    /// Peers that are not left alone at the moment.
    pub(super) fn awake(&self, now: Duration) -> Vec<PeerId> {
        let awake = |(peer, known): (&PeerId, &Known)| (known.rests_until <= now).then_some(*peer);
        self.peers.iter().filter_map(awake).collect()
    }

    pub(super) fn asked(&mut self, peer: PeerId) {
        self.add(peer);
        if let Some(known) = self.peers.get_mut(&peer) {
            known.in_flight += 1;
        }
    }

    /// A peer gave a block, so long after it was asked.
    pub(super) fn gave(&mut self, peer: PeerId, took: Duration) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.window = window_after(known.window.min(known.in_flight), known.window, took);
            known.in_flight = known.in_flight.saturating_sub(1);
            known.gave += 1;
            known.is_silent = false;
            known.failures = 0;
            known.busy = 0;
        }
    }

    /// A peer gave a piece of a block, and the rest did not come: it may be asked again soon.
    pub(super) fn broke_off(&mut self, peer: PeerId, now: Duration) {
        self.failed(peer, Attempt::Busy, now);
    }

    /// The request was given up before an answer came.
    pub(super) fn dropped(&mut self, peer: PeerId) {
        if let Some(known) = self.peers.get_mut(&peer) {
            known.in_flight = known.in_flight.saturating_sub(1);
        }
    }

    /// Whether a peer that did not refuse the block is only too loaded or resting to be asked now.
    pub(super) fn has_later<R>(
        &self,
        tried: &BTreeMap<PeerId, Attempt>,
        rank: impl Fn(&PeerId) -> Option<R>,
    ) -> bool {
        self.peers.iter().any(|(peer, known)| {
            known.rests_until < Duration::MAX && may_ask(tried, peer) && rank(peer).is_some()
        })
    }

    pub(super) fn failed(&mut self, peer: PeerId, attempt: Attempt, now: Duration) {
        let Some(known) = self.peers.get_mut(&peer) else {
            return;
        };
        known.in_flight = known.in_flight.saturating_sub(1);
        match attempt {
            Attempt::DontHave => known.did_not += 1,
            // Of several that come back busy together the first counts.
            Attempt::Busy if known.rests_until > now => {}
            Attempt::Busy => {
                known.window = (known.window / 2).max(1);
                known.rests_until = now + BUSY_REST * 2u32.pow(known.busy);
                known.busy = (known.busy + 1).min(MAX_BUSY);
            }
            // Once is enough: who sends wrong bytes does so again.
            Attempt::WrongBytes => known.rests_until = Duration::MAX,
            // What it wants is the same for every block.
            Attempt::RateTooLow { .. } => known.rests_until = now + RATE_REST,
            Attempt::Unreachable | Attempt::TimedOut | Attempt::Failed => {
                known.failures += 1;
                if attempt == Attempt::TimedOut {
                    known.window = (known.window / 2).max(1);
                }
                if known.failures >= MAX_FAILURES {
                    known.failures = 0;
                    known.rests_until = now + REST;
                }
            }
        }
    }
}

fn may_ask(tried: &BTreeMap<PeerId, Attempt>, peer: &PeerId) -> bool {
    tried
        .get(peer)
        .is_none_or(|attempt| *attempt == Attempt::Busy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);
    const SOON: Duration = Duration::from_millis(50);

    /// What is under way to one peer over a line of so many bytes per second, with blocks of 1 MiB,
    /// after so many blocks; the longest time that one of them took.
    fn over_a_line(bytes_per_s: u64, blocks: usize) -> (usize, Duration) {
        let (mut roster, peers) = roster(1);
        let takes = Duration::from_secs_f64((1 << 20) as f64 / bytes_per_s as f64);
        let (mut now, mut free) = (Duration::ZERO, Duration::ZERO);
        let mut under_way = std::collections::VecDeque::new();
        let mut longest = Duration::ZERO;
        for n in 0..blocks {
            while roster.choose(&BTreeMap::new(), now, |_| Some(())).is_some() {
                roster.asked(peers[0]);
                free = free.max(now) + takes;
                under_way.push_back((now, free));
            }
            let (asked, comes) = under_way.pop_front().expect("something is asked for");
            now = comes + SOON;
            roster.gave(peers[0], now - asked);
            if n > blocks / 2 {
                longest = longest.max(now - asked);
            }
        }
        (roster.peers[&peers[0]].window, longest)
    }

    #[test]
    fn one_block_is_under_way_on_a_slow_line_and_many_on_a_fast_one() {
        for (bytes_per_s, least, most) in [
            (16_000, 1, 1),
            (125_000, 1, 1),
            (250_000, 1, 2),
            (1_250_000, 2, 10),
            (12_500_000, 32, 32),
        ] {
            let (window, longest) = over_a_line(bytes_per_s, 200);
            assert!((least..=most).contains(&window), "{bytes_per_s}: {window}");
            let alone = Duration::from_secs_f64((1 << 20) as f64 / bytes_per_s as f64);
            let bound = (2 * QUEUE_TIME).max(alone) + 2 * alone + SOON;
            assert!(longest <= bound, "{bytes_per_s}: {longest:?}");
        }
    }

    fn roster(count: usize) -> (Roster, Vec<PeerId>) {
        let mut roster = Roster::default();
        let peers: Vec<PeerId> = (0..count).map(|_| PeerId::random()).collect();
        for peer in &peers {
            roster.add(*peer);
        }
        (roster, peers)
    }

    #[test]
    fn the_load_is_spread_evenly() {
        let (mut roster, peers) = roster(3);
        let mut counts: BTreeMap<PeerId, usize> = BTreeMap::new();
        for _ in 0..3 * FIRST_WINDOW {
            let peer = roster
                .choose(&BTreeMap::new(), NOW, |_| Some(()))
                .expect("somebody is free");
            roster.asked(peer);
            *counts.entry(peer).or_default() += 1;
        }
        assert!(
            peers.iter().all(|p| counts[p] == FIRST_WINDOW),
            "{counts:?}"
        );
    }

    #[test]
    fn nobody_is_asked_beyond_the_bound() {
        let (mut roster, peers) = roster(1);
        let fill = |roster: &mut Roster| {
            let mut asked = 0;
            while let Some(peer) = roster.choose(&BTreeMap::new(), NOW, |_| Some(())) {
                roster.asked(peer);
                asked += 1;
            }
            asked
        };
        assert_eq!(fill(&mut roster), FIRST_WINDOW);
        for _ in 0..2 * MAX_WINDOW {
            roster.gave(peers[0], SOON);
            fill(&mut roster);
        }
        for _ in 0..MAX_WINDOW {
            roster.dropped(peers[0]);
        }
        assert_eq!(fill(&mut roster), MAX_WINDOW);
        roster.failed(peers[0], Attempt::TimedOut, NOW);
        for _ in 1..MAX_WINDOW {
            roster.dropped(peers[0]);
        }
        assert_eq!(fill(&mut roster), MAX_WINDOW / 2);
    }

    #[test]
    fn who_refused_a_block_is_not_asked_for_it_again_unless_busy() {
        let (mut roster, peers) = roster(1);
        roster.asked(peers[0]);
        roster.failed(peers[0], Attempt::DontHave, NOW);
        let tried = BTreeMap::from([(peers[0], Attempt::DontHave)]);
        assert_eq!(roster.choose(&tried, NOW, |_| Some(())), None);
        assert_eq!(
            roster.choose(&BTreeMap::new(), NOW, |_| Some(())),
            Some(peers[0])
        );
        let busy = BTreeMap::from([(peers[0], Attempt::Busy)]);
        assert_eq!(roster.choose(&busy, NOW, |_| Some(())), Some(peers[0]));
    }

    #[test]
    fn wrong_bytes_end_it_and_failures_pause_it() {
        let (mut roster, peers) = roster(2);
        roster.asked(peers[0]);
        roster.failed(peers[0], Attempt::WrongBytes, NOW);
        for _ in 0..MAX_FAILURES {
            roster.asked(peers[1]);
            roster.failed(peers[1], Attempt::TimedOut, NOW);
        }
        assert_eq!(roster.choose(&BTreeMap::new(), NOW, |_| Some(())), None);
        assert_eq!(
            roster.choose(&BTreeMap::new(), NOW + REST, |_| Some(())),
            Some(peers[1])
        );
        assert_eq!(
            roster.choose(&BTreeMap::new(), Duration::from_secs(1 << 40), |_| Some(())),
            Some(peers[1])
        );
    }

    #[test]
    fn a_silent_peer_is_asked_after_all_others_until_it_gives() {
        let (mut roster, peers) = roster(1);
        let silent = PeerId::random();
        roster.add_silent(silent);
        roster.add_silent(peers[0]);
        let choose = |roster: &Roster| roster.choose(&BTreeMap::new(), NOW, |_| Some(()));
        for _ in 0..FIRST_WINDOW {
            assert_eq!(choose(&roster), Some(peers[0]), "it was known before");
            roster.asked(peers[0]);
        }
        assert_eq!(choose(&roster), Some(silent));
        roster.asked(silent);
        roster.gave(silent, SOON);
        roster.gave(peers[0], SOON);
        roster.gave(peers[0], SOON);
        assert_eq!(choose(&roster), Some(silent), "it has less to do");
    }

    #[test]
    fn the_roster_is_bounded() {
        let (roster, _) = roster(MAX_PEERS + 10);
        assert_eq!(roster.peers.len(), MAX_PEERS);
    }
}
