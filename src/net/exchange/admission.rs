//! Which requests of peers are worked on now, which wait, and which are turned away. Pure.
//!
//! A request reserves the bytes that its answer may take, from when it is started until the answer is sent. Peers take turns,
//! so that one who asks for much does not keep the others waiting.

use std::collections::{HashMap, VecDeque};

use libp2p::PeerId;

/// Bounds of an [`Admission`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes reserved in all.
    pub(super) bytes: usize,
    /// Bytes reserved for one peer.
    pub(super) bytes_per_peer: usize,
    /// Requests started and not yet finished.
    pub(super) started: usize,
    /// Requests that wait, in all.
    pub(super) waiting: usize,
    /// Requests of one peer that wait.
    pub(super) waiting_per_peer: usize,
}

/// A started request's reservation. Give it back with [`Admission::finish`].
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) struct Reservation {
    pub(super) peer: PeerId,
    bytes: usize,
}

/// Requests of type `T` that wait for their turn, and what is reserved.
pub(super) struct Admission<T> {
    bounds: Bounds,
    reserved: HashMap<PeerId, usize>,
    reserved_bytes: usize,
    started: usize,
    queues: HashMap<PeerId, VecDeque<(usize, T)>>,
    /// Peers that have something waiting, the next one first.
    turns: VecDeque<PeerId>,
    waiting: usize,
}

impl<T> Admission<T> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            reserved: HashMap::new(),
            reserved_bytes: 0,
            started: 0,
            queues: HashMap::new(),
            turns: VecDeque::new(),
            waiting: 0,
        }
    }

    /// Lines up a request whose answer may take so many bytes; gives it back when the queue is full.
    pub(super) fn offer(&mut self, peer: PeerId, bytes: usize, request: T) -> Result<(), T> {
        let queued = self.queues.get(&peer).map_or(0, VecDeque::len);
        if self.waiting >= self.bounds.waiting || queued >= self.bounds.waiting_per_peer {
            return Err(request);
        }
        // A single answer that is larger than the bounds would otherwise wait for ever.
        let bytes = bytes.min(self.bounds.bytes_per_peer).min(self.bounds.bytes);
        if queued == 0 {
            self.turns.push_back(peer);
        }
        self.queues
            .entry(peer)
            .or_default()
            .push_back((bytes, request));
        self.waiting += 1;
        Ok(())
    }

    /// The next request that may be started, if any.
    pub(super) fn start(&mut self) -> Option<(Reservation, T)> {
        if self.started >= self.bounds.started {
            return None;
        }
        for _ in 0..self.turns.len() {
            let peer = self.turns.pop_front()?;
            let queue = self.queues.get_mut(&peer)?;
            let bytes = queue.front()?.0;
            let of_peer = self.reserved.get(&peer).copied().unwrap_or(0);
            if self.reserved_bytes + bytes > self.bounds.bytes {
                // It stays first in line, or large answers would starve behind small ones.
                self.turns.push_front(peer);
                return None;
            }
            if of_peer + bytes > self.bounds.bytes_per_peer {
                self.turns.push_back(peer);
                continue;
            }
            let (_, request) = queue.pop_front()?;
            if queue.is_empty() {
                self.queues.remove(&peer);
            } else {
                self.turns.push_back(peer);
            }
            self.waiting -= 1;
            self.started += 1;
            self.reserved_bytes += bytes;
            *self.reserved.entry(peer).or_default() += bytes;
            return Some((Reservation { peer, bytes }, request));
        }
        None
    }

    /// The answer is known and takes only so many bytes.
    pub(super) fn shrink(&mut self, reservation: &mut Reservation, bytes: usize) {
        let freed = reservation.bytes.saturating_sub(bytes);
        reservation.bytes -= freed;
        self.give_back(reservation.peer, freed);
    }

    /// The answer is sent, or will never be.
    pub(super) fn finish(&mut self, reservation: Reservation) {
        self.started -= 1;
        self.give_back(reservation.peer, reservation.bytes);
    }

    /// Whether nothing of a peer waits or is started.
    pub(super) fn is_quiet(&self, peer: PeerId) -> bool {
        !self.queues.contains_key(&peer) && !self.reserved.contains_key(&peer)
    }

    /// Forgets what waits for a peer that is gone.
    pub(super) fn forget(&mut self, peer: PeerId) {
        if let Some(queue) = self.queues.remove(&peer) {
            self.waiting -= queue.len();
            self.turns.retain(|other| *other != peer);
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

    #[test]
    fn the_queue_is_bounded_for_each_peer_and_in_all() {
        let mut admission = Admission::new(BOUNDS);
        let [a, b] = [PeerId::random(), PeerId::random()];
        for n in 0..6 {
            assert_eq!(admission.offer(a, 10, n), Ok(()));
        }
        assert_eq!(admission.offer(a, 10, 6), Err(6));
        for n in 0..4 {
            assert_eq!(admission.offer(b, 10, n), Ok(()));
        }
        assert_eq!(admission.offer(b, 10, 4), Err(4));
        admission.forget(a);
        assert_eq!(admission.offer(b, 10, 5), Ok(()));
    }

    #[test]
    fn peers_take_turns_and_stay_below_their_share() {
        let mut admission = Admission::new(BOUNDS);
        let [a, b] = [PeerId::random(), PeerId::random()];
        for n in 0..5 {
            admission.offer(a, 20, n).expect("room");
        }
        admission.offer(b, 20, 9).expect("room");
        let mut order = Vec::new();
        let mut held = Vec::new();
        while let Some((reservation, request)) = admission.start() {
            order.push(request);
            held.push(reservation);
        }
        assert_eq!(order, [0, 9, 1, 2], "a's share is used up");
        admission.shrink(&mut held[0], 5);
        assert!(admission.start().is_none(), "15 free, 20 needed");
        let first = held.remove(0);
        admission.finish(first);
        assert_eq!(admission.start().map(|(_, request)| request), Some(3));
    }

    #[test]
    fn an_answer_larger_than_the_bounds_gets_its_turn() {
        let mut admission = Admission::new(BOUNDS);
        admission.offer(PeerId::random(), 1000, ()).expect("room");
        assert!(admission.start().is_some());
    }

    proptest! {
        #[test]
        fn bounds_hold_and_everything_is_given_back(steps in proptest::collection::vec((0usize..4, 0usize..80, 0usize..3), 1..200)) {
            let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
            let mut admission = Admission::new(BOUNDS);
            let mut held = Vec::new();
            for (action, bytes, peer) in steps {
                match action {
                    0 | 1 => { let _ = admission.offer(peers[peer], bytes, ()); }
                    2 => held.extend(admission.start().map(|(reservation, ())| reservation)),
                    _ => if let Some(reservation) = held.pop() { admission.finish(reservation) }
                }
                prop_assert!(admission.reserved_bytes <= BOUNDS.bytes);
                prop_assert!(admission.reserved.values().all(|bytes| *bytes <= BOUNDS.bytes_per_peer));
                prop_assert!(admission.started <= BOUNDS.started && admission.waiting <= BOUNDS.waiting);
            }
            loop {
                held.drain(..).for_each(|reservation| admission.finish(reservation));
                while let Some((reservation, ())) = admission.start() { held.push(reservation); }
                if held.is_empty() { break; }
            }
            prop_assert_eq!((admission.reserved_bytes, admission.started, admission.waiting), (0, 0, 0));
            prop_assert!(admission.reserved.is_empty() && admission.queues.is_empty() && admission.turns.is_empty());
        }
    }
}
