//! Which requests of peers are worked on now, which wait, and which are turned away. Pure.
//!
//! A request reserves the bytes that its answer may take, from when it is started until the answer is sent. Peers take turns,
//! so that one who asks for much does not keep the others waiting. Among those who wait, the ones of a higher standing go first, and
//! every standing gets some turns; when nobody waits, nobody is refused.

use std::collections::{HashMap, VecDeque};

use libp2p::PeerId;

use super::Standing;

/// Bounds of an [`RequestQueue`].
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Bounds {
    /// Bytes reserved in all.
    pub(in crate::net) bytes: usize,
    /// Bytes reserved for one peer.
    pub(in crate::net) bytes_per_peer: usize,
    /// Requests started and not yet finished.
    pub(in crate::net) started: usize,
    /// Requests that wait, in all.
    pub(in crate::net) waiting: usize,
    /// Requests of one peer that wait.
    pub(in crate::net) waiting_per_peer: usize,
}

/// A started request's reservation. Give it back with [`RequestQueue::finish`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(in crate::net) struct Reservation {
    pub(in crate::net) peer: PeerId,
    bytes: usize,
}

impl Reservation {
    /// What is reserved.
    pub(in crate::net) const fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Classes of peers, highest first.
const HIGHEST_FIRST: [Standing; 4] = [
    Standing::Member,
    Standing::Even,
    Standing::Newcomer,
    Standing::FreeRider,
];
/// Which class goes first at each start, over and over; where none is named, the highest that waits. So every class that waits gets
/// at least one turn in so many, whatever is asked for by higher ones.
const WHEEL: [Option<Standing>; 8] = [
    None,
    Some(Standing::Even),
    None,
    Some(Standing::Newcomer),
    None,
    Some(Standing::Even),
    None,
    Some(Standing::FreeRider),
];

/// What has become of a request that was offered.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Offered<T> {
    /// It waits.
    Queued,
    /// It waits, in the place of another one, which must be told that we are busy.
    Displaced(PeerId, T),
    /// There is no room for it.
    TurnedAway(T),
}

struct Waiting<T> {
    /// Counts requests, so that the one that waits longest is known.
    number: u64,
    bytes: usize,
    request: T,
}

struct Queue<T> {
    /// As it was when the first of these came.
    standing: Standing,
    requests: VecDeque<Waiting<T>>,
}

/// Requests of type `T` that wait for their turn, and what is reserved.
pub(in crate::net) struct RequestQueue<T> {
    bounds: Bounds,
    reserved: HashMap<PeerId, usize>,
    reserved_bytes: usize,
    started: usize,
    queues: HashMap<PeerId, Queue<T>>,
    /// Peers that have something waiting, by class; the next one first.
    turns: [VecDeque<PeerId>; HIGHEST_FIRST.len()],
    waiting: usize,
    /// Requests offered so far.
    offered: u64,
    /// Place on the wheel.
    turn: usize,
}

/// What came of trying to start a request of one class.
enum Next<T> {
    Started(Reservation, T),
    /// Nothing of it waits that its peer has room for.
    Nobody,
    /// All bytes are reserved.
    Full,
}

impl<T> RequestQueue<T> {
    pub(in crate::net) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            reserved: HashMap::new(),
            reserved_bytes: 0,
            started: 0,
            queues: HashMap::new(),
            turns: Default::default(),
            waiting: 0,
            offered: 0,
            turn: 0,
        }
    }

    /// Lines up a request whose answer may take so many bytes. When the queue is full, it takes the place of the one that has waited longest
    /// among those of the lowest class, if that is lower than its own.
    pub(in crate::net) fn offer(
        &mut self,
        peer: PeerId,
        standing: Standing,
        bytes: usize,
        request: T,
    ) -> Offered<T> {
        let queued = self.queues.get(&peer).map_or(0, |q| q.requests.len());
        if queued >= self.bounds.waiting_per_peer {
            return Offered::TurnedAway(request);
        }
        let mut displaced = None;
        if self.waiting >= self.bounds.waiting {
            displaced = self.displace(standing);
            if displaced.is_none() {
                return Offered::TurnedAway(request);
            }
        }
        // A single answer that is larger than the bounds would otherwise wait for ever.
        let bytes = bytes.min(self.bounds.bytes_per_peer).min(self.bounds.bytes);
        let turns = &mut self.turns;
        let queue = self.queues.entry(peer).or_insert_with(|| {
            turns[standing as usize].push_back(peer);
            Queue {
                standing,
                requests: VecDeque::new(),
            }
        });
        queue.requests.push_back(Waiting {
            number: self.offered,
            bytes,
            request,
        });
        self.offered += 1;
        self.waiting += 1;
        displaced.map_or(Offered::Queued, |(peer, request)| {
            Offered::Displaced(peer, request)
        })
    }

    /// Takes out the request that has waited longest among those of the lowest class, if that is below `standing`.
    fn displace(&mut self, standing: Standing) -> Option<(PeerId, T)> {
        let mut lowest_first = HIGHEST_FIRST.iter().rev();
        let lowest = *lowest_first.find(|class| !self.turns[**class as usize].is_empty())?;
        if lowest >= standing {
            return None;
        }
        let longest = |peer: &&PeerId| {
            let queue = self.queues.get(peer);
            queue.and_then(|queue| Some(queue.requests.front()?.number))
        };
        let peer = *self.turns[lowest as usize].iter().min_by_key(longest)?;
        let queue = self.queues.get_mut(&peer)?;
        let first = queue.requests.pop_front()?;
        if queue.requests.is_empty() {
            self.queues.remove(&peer);
            self.turns[lowest as usize].retain(|other| *other != peer);
        }
        self.waiting -= 1;
        Some((peer, first.request))
    }

    /// The next request that may be started, if any; one whose answer takes at most so many bytes.
    pub(in crate::net) fn start(&mut self, most_bytes: usize) -> Option<(Reservation, T)> {
        if self.started >= self.bounds.started {
            return None;
        }
        let favoured = WHEEL[self.turn];
        let others = HIGHEST_FIRST
            .into_iter()
            .filter(|class| Some(*class) != favoured);
        for class in favoured.into_iter().chain(others) {
            match self.start_of(class, most_bytes) {
                Next::Started(reservation, request) => {
                    // While only small ones may go, the large ones do not lose their turns.
                    if most_bytes == usize::MAX {
                        self.turn = (self.turn + 1) % WHEEL.len();
                    }
                    return Some((reservation, request));
                }
                Next::Nobody => {}
                // The turn stays theirs, or large answers would starve behind small ones.
                Next::Full => return None,
            }
        }
        None
    }

    fn start_of(&mut self, class: Standing, most_bytes: usize) -> Next<T> {
        let turns = &mut self.turns[class as usize];
        for _ in 0..turns.len() {
            let Some(peer) = turns.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&peer) else {
                continue;
            };
            let fits = |waiting: &Waiting<T>| waiting.bytes <= most_bytes;
            let Some(at) = queue.requests.iter().position(fits) else {
                turns.push_back(peer);
                continue;
            };
            let bytes = queue.requests[at].bytes;
            let of_peer = self.reserved.get(&peer).copied().unwrap_or(0);
            if self.reserved_bytes + bytes > self.bounds.bytes {
                turns.push_front(peer);
                return Next::Full;
            }
            if of_peer + bytes > self.bounds.bytes_per_peer {
                turns.push_back(peer);
                continue;
            }
            let next = queue.requests.remove(at);
            if queue.requests.is_empty() {
                self.queues.remove(&peer);
            } else {
                turns.push_back(peer);
            }
            let Some(next) = next else { continue };
            self.waiting -= 1;
            self.started += 1;
            self.reserved_bytes += bytes;
            *self.reserved.entry(peer).or_default() += bytes;
            return Next::Started(Reservation { peer, bytes }, next.request);
        }
        Next::Nobody
    }

    /// The answer is known and takes only so many bytes.
    pub(in crate::net) fn shrink(&mut self, reservation: &mut Reservation, bytes: usize) {
        let freed = reservation.bytes.saturating_sub(bytes);
        reservation.bytes -= freed;
        self.give_back(reservation.peer, freed);
    }

    /// The answer is sent, or will never be.
    pub(in crate::net) fn finish(&mut self, reservation: Reservation) {
        self.started -= 1;
        self.give_back(reservation.peer, reservation.bytes);
    }

    /// Whether nothing of a peer waits or is started.
    pub(in crate::net) fn is_quiet(&self, peer: PeerId) -> bool {
        !self.queues.contains_key(&peer) && !self.reserved.contains_key(&peer)
    }

    /// Forgets what waits for a peer that is gone.
    pub(in crate::net) fn forget(&mut self, peer: PeerId) {
        if let Some(queue) = self.queues.remove(&peer) {
            self.waiting -= queue.requests.len();
            self.turns[queue.standing as usize].retain(|other| *other != peer);
        }
    }

    fn give_back(&mut self, peer: PeerId, bytes: usize) {
        self.reserved_bytes -= bytes;
        if let Some(reserved) = self.reserved.get_mut(&peer) {
            *reserved -= bytes;
            if *reserved == 0 {
                self.reserved.remove(&peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDS: Bounds = Bounds {
        bytes: 100,
        bytes_per_peer: 60,
        started: 8,
        waiting: 10,
        waiting_per_peer: 6,
    };

    const ALL: [Standing; 4] = HIGHEST_FIRST;

    fn offer<T: std::fmt::Debug>(
        admission: &mut RequestQueue<T>,
        peer: PeerId,
        bytes: usize,
        request: T,
    ) -> Offered<T> {
        admission.offer(peer, Standing::Newcomer, bytes, request)
    }

    #[test]
    fn the_queue_is_bounded_for_each_peer_and_in_all() {
        let mut admission = RequestQueue::new(BOUNDS);
        let [a, b] = [PeerId::random(), PeerId::random()];
        for n in 0..6 {
            assert_eq!(offer(&mut admission, a, 10, n), Offered::Queued);
        }
        assert_eq!(offer(&mut admission, a, 10, 6), Offered::TurnedAway(6));
        for n in 0..4 {
            assert_eq!(offer(&mut admission, b, 10, n), Offered::Queued);
        }
        assert_eq!(offer(&mut admission, b, 10, 4), Offered::TurnedAway(4));
        admission.forget(a);
        assert_eq!(offer(&mut admission, b, 10, 5), Offered::Queued);
    }

    #[test]
    fn peers_take_turns_and_stay_below_their_share() {
        let mut admission = RequestQueue::new(BOUNDS);
        let [a, b] = [PeerId::random(), PeerId::random()];
        for n in 0..5 {
            offer(&mut admission, a, 20, n);
        }
        offer(&mut admission, b, 20, 9);
        let mut order = Vec::new();
        let mut held = Vec::new();
        while let Some((reservation, request)) = admission.start(usize::MAX) {
            order.push(request);
            held.push(reservation);
        }
        assert_eq!(order, [0, 9, 1, 2], "a's share is used up");
        admission.shrink(&mut held[0], 5);
        assert!(admission.start(usize::MAX).is_none(), "15 free, 20 needed");
        let first = held.remove(0);
        admission.finish(first);
        assert_eq!(
            admission.start(usize::MAX).map(|(_, request)| request),
            Some(3)
        );
    }

    #[test]
    fn an_answer_larger_than_the_bounds_gets_its_turn() {
        let mut admission = RequestQueue::new(BOUNDS);
        offer(&mut admission, PeerId::random(), 1000, ());
        assert!(admission.start(usize::MAX).is_some());
    }

    #[test]
    fn small_ones_may_pass_large_ones_without_taking_their_turn() {
        let mut admission = RequestQueue::new(BOUNDS);
        let [a, b] = [PeerId::random(), PeerId::random()];
        for (peer, bytes, n) in [(a, 20, 0), (a, 5, 1), (b, 20, 2), (b, 6, 3), (a, 5, 4)] {
            offer(&mut admission, peer, bytes, n);
        }
        let mut small = Vec::new();
        while let Some((_, request)) = admission.start(5) {
            small.push(request);
        }
        assert_eq!(small, [1, 4], "six are more than five");
        assert_eq!(admission.turn, 0);
        let mut rest = Vec::new();
        while let Some((_, request)) = admission.start(usize::MAX) {
            rest.push(request);
        }
        rest.sort_unstable();
        assert_eq!(rest, [0, 2, 3]);
    }

    #[test]
    fn when_nothing_waits_a_free_rider_is_served_at_once() {
        let mut admission = RequestQueue::new(BOUNDS);
        for n in 0..20 {
            admission.offer(PeerId::random(), Standing::FreeRider, 100, n);
            let (reservation, request) = admission.start(usize::MAX).expect("idle");
            assert_eq!(request, n);
            admission.finish(reservation);
        }
    }

    #[test]
    fn the_longest_waiting_of_the_lowest_class_makes_room_for_a_higher_one() {
        let mut admission = RequestQueue::new(BOUNDS);
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        let mut put = |peer: usize, standing, n| admission.offer(peers[peer], standing, 10, n);
        for n in 0..5 {
            put(0, Standing::Newcomer, n);
        }
        for n in 5..8 {
            put(1, Standing::FreeRider, n);
        }
        put(2, Standing::FreeRider, 8);
        put(1, Standing::FreeRider, 9);
        assert_eq!(
            put(2, Standing::FreeRider, 10),
            Offered::TurnedAway(10),
            "its own class does not make room"
        );
        for (n, gone) in [(11, 5), (12, 6)] {
            let offered = put(0, Standing::Newcomer, n);
            // The sixth of one peer still has room, the seventh has not.
            match n {
                11 => assert_eq!(offered, Offered::Displaced(peers[1], gone)),
                _ => assert_eq!(offered, Offered::TurnedAway(12)),
            }
        }
        for gone in [6, 7, 8, 9, 0, 1] {
            let from = match gone {
                6 | 7 | 9 => peers[1],
                8 => peers[2],
                _ => peers[0],
            };
            let member = PeerId::random();
            assert_eq!(
                admission.offer(member, Standing::Member, 10, 100 + gone),
                Offered::Displaced(from, gone)
            );
        }
        assert_eq!(admission.waiting, BOUNDS.waiting);
    }

    #[test]
    fn higher_standings_go_first_and_each_gets_one_turn_in_eight() {
        let bounds = Bounds {
            bytes: 1,
            bytes_per_peer: 1,
            started: 1,
            waiting: 4000,
            waiting_per_peer: 1000,
        };
        let mut admission = RequestQueue::new(bounds);
        for standing in ALL {
            let peer = PeerId::random();
            for _ in 0..1000 {
                admission.offer(peer, standing, 1, standing);
            }
        }
        let mut order = Vec::new();
        for _ in 0..800 {
            let (reservation, standing) = admission.start(usize::MAX).expect("all wait");
            admission.finish(reservation);
            order.push(standing);
        }
        for window in order.windows(WHEEL.len()) {
            let count = |standing| window.iter().filter(|s| **s == standing).count();
            assert_eq!(ALL.map(count), [4, 2, 1, 1]);
        }
    }

    proptest! {
        /// However requests come in, whoever waits at the head of its line is started after a bounded number of others.
        #[test]
        fn nobody_starves(arrivals in proptest::collection::vec((0usize..4, 1usize..3), 50..300)) {
            let bounds = Bounds { bytes: 1, bytes_per_peer: 1, started: 1, waiting: 10_000, waiting_per_peer: 10_000 };
            let mut admission = RequestQueue::new(bounds);
            let peers: Vec<PeerId> = ALL.iter().map(|_| PeerId::random()).collect();
            let mut waiting = [0usize; 4];
            let mut passed = [0usize; 4];
            for (class, count) in arrivals {
                for _ in 0..count {
                    admission.offer(peers[class], ALL[class], 1, class);
                    waiting[class] += 1;
                }
                let (reservation, started) = admission.start(usize::MAX).expect("something waits");
                admission.finish(reservation);
                waiting[started] -= 1;
                passed[started] = 0;
                for class in (0..4).filter(|class| *class != started) {
                    passed[class] = if waiting[class] > 0 { passed[class] + 1 } else { 0 };
                    prop_assert!(passed[class] < WHEEL.len());
                }
            }
        }

        #[test]
        fn bounds_hold_and_everything_is_given_back(
            steps in proptest::collection::vec((0usize..4, 0usize..80, 0usize..3, 0usize..4), 1..200),
        ) {
            let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
            let mut admission = RequestQueue::new(BOUNDS);
            let mut held = Vec::new();
            for (action, bytes, peer, standing) in steps {
                match action {
                    0 | 1 => {
                        let before = admission.waiting;
                        match admission.offer(peers[peer], ALL[standing], bytes, ()) {
                            Offered::Queued => prop_assert_eq!(admission.waiting, before + 1),
                            Offered::Displaced(..) | Offered::TurnedAway(()) => prop_assert_eq!(admission.waiting, before),
                        }
                    }
                    2 => held.extend(admission.start(usize::MAX).map(|(reservation, ())| reservation)),
                    _ => if let Some(reservation) = held.pop() { admission.finish(reservation) }
                }
                prop_assert!(admission.reserved_bytes <= BOUNDS.bytes);
                prop_assert!(admission.reserved.values().all(|bytes| *bytes <= BOUNDS.bytes_per_peer));
                prop_assert!(admission.started <= BOUNDS.started && admission.waiting <= BOUNDS.waiting);
                let lined_up: usize = admission.turns.iter().map(VecDeque::len).sum();
                prop_assert_eq!(lined_up, admission.queues.len());
            }
            loop {
                held.drain(..).for_each(|reservation| admission.finish(reservation));
                while let Some((reservation, ())) = admission.start(usize::MAX) { held.push(reservation); }
                if held.is_empty() { break; }
            }
            prop_assert_eq!((admission.reserved_bytes, admission.started, admission.waiting), (0, 0, 0));
            prop_assert!(admission.reserved.is_empty() && admission.queues.is_empty());
            prop_assert!(admission.turns.iter().all(VecDeque::is_empty));
        }
    }
}
