//! Which requests of peers are worked on now, which wait, and which are turned away. Pure.
//!
//! A request reserves the bytes that its answer may take, from when it is started until the answer
//! is sent. Peers take turns, so that one that asks for much does not keep the others waiting.
//! Peers of a higher standing go first among those that wait, and every standing gets some turns;
//! when nobody waits, nobody is refused.
//!
//! A peer that asks and does not read holds what is reserved for it. So strangers have a part of
//! everything together, and within it a share for each peer and for each site: what is left is
//! for members of this node's rings, whatever strangers do.

use std::collections::{HashMap, VecDeque};

use libp2p::PeerId;

use super::{Site, Standing};

/// Bounds of an [`RequestQueue`].
#[derive(Clone, Copy, Debug)]
pub(in crate::net) struct Bounds {
    /// Bytes reserved in all.
    pub(in crate::net) bytes: usize,
    /// Bytes reserved for strangers, of all.
    pub(in crate::net) bytes_of_strangers: usize,
    /// Bytes reserved for one member.
    pub(in crate::net) bytes_per_member: usize,
    /// Bytes reserved for one stranger, or for all of one site that is not near.
    pub(in crate::net) bytes_per_stranger: usize,
    /// Requests started and not yet finished.
    pub(in crate::net) started: usize,
    /// Requests of strangers started and not yet finished, of all strangers.
    pub(in crate::net) started_of_strangers: usize,
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
    /// The site that it counts for, too.
    site: Option<Site>,
    is_stranger: bool,
}

impl Reservation {
    /// Bytes that are reserved.
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
/// Class that goes first at each start, over and over; where none is named, the highest that waits.
/// Every class that waits thus gets at least one turn in so many, whatever is asked for by higher
/// ones.
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

/// Outcome of offering a request.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Offered<T> {
    /// Waiting for its turn.
    Queued,
    /// Waiting in the place of another request, whose peer must be told that we are busy.
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
    /// The same for strangers of one site.
    of_sites: HashMap<Site, usize>,
    reserved_bytes: usize,
    stranger_bytes: usize,
    started: usize,
    started_of_strangers: usize,
    /// Where peers are.
    sites: HashMap<PeerId, Site>,
    queues: HashMap<PeerId, Queue<T>>,
    /// Peers that have something waiting, by class; the next one first.
    turns: [VecDeque<PeerId>; HIGHEST_FIRST.len()],
    waiting: usize,
    /// Requests offered so far.
    offered: u64,
    /// Place on the wheel.
    turn: usize,
}

/// Outcome of trying to start a request of one class.
enum Next<T> {
    Started(Reservation, T),
    /// Nothing of it waits that its peer has room for.
    Nobody,
    /// All bytes are reserved.
    Full,
    /// Strangers have all that they may have.
    FullForStrangers,
}

impl<T> RequestQueue<T> {
    pub(in crate::net) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            reserved: HashMap::new(),
            of_sites: HashMap::new(),
            reserved_bytes: 0,
            stranger_bytes: 0,
            started: 0,
            started_of_strangers: 0,
            sites: HashMap::new(),
            queues: HashMap::new(),
            turns: Default::default(),
            waiting: 0,
            offered: 0,
            turn: 0,
        }
    }

    /// Lines up a request whose answer may take so many bytes. When the queue is full, the request
    /// takes the place of the one that has waited longest among those of the lowest class, if that
    /// is lower than its own.
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
        let most = match standing {
            Standing::Member => self.bounds.bytes_per_member.min(self.bounds.bytes),
            _ => {
                let share = self.bounds.bytes_per_stranger;
                share.min(self.bounds.bytes_of_strangers)
            }
        };
        let bytes = bytes.min(most);
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

    /// Takes out the request that has waited longest among those of the lowest class, if that is
    /// below `standing`.
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
        let mut members_only = false;
        for class in favoured.into_iter().chain(others) {
            if members_only && class != Standing::Member {
                continue;
            }
            match self.start_of(class, most_bytes) {
                Next::Started(reservation, request) => {
                    // While only small ones may go, or only members, the others do not lose
                    // their turns.
                    if most_bytes == usize::MAX && !members_only {
                        self.turn = (self.turn + 1) % WHEEL.len();
                    }
                    return Some((reservation, request));
                }
                Next::Nobody => {}
                // The turn stays theirs, or large answers would starve behind small ones.
                Next::Full => return None,
                Next::FullForStrangers => members_only = true,
            }
        }
        None
    }

    fn start_of(&mut self, class: Standing, most_bytes: usize) -> Next<T> {
        let is_stranger = class < Standing::Member;
        let is_full = self.started_of_strangers >= self.bounds.started_of_strangers;
        if is_stranger && is_full && !self.turns[class as usize].is_empty() {
            return Next::FullForStrangers;
        }
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
            if self.reserved_bytes + bytes > self.bounds.bytes {
                turns.push_front(peer);
                return Next::Full;
            }
            if is_stranger && self.stranger_bytes + bytes > self.bounds.bytes_of_strangers {
                turns.push_front(peer);
                return Next::FullForStrangers;
            }
            let site = self.sites.get(&peer).copied();
            let site = site.filter(|site| is_stranger && !site.is_near());
            let of_site = site.and_then(|site| self.of_sites.get(&site)).copied();
            let of_peer = self.reserved.get(&peer).copied().unwrap_or(0);
            let share = match is_stranger {
                true => self.bounds.bytes_per_stranger,
                false => self.bounds.bytes_per_member,
            };
            if of_peer.max(of_site.unwrap_or(0)) + bytes > share {
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
            if is_stranger {
                self.started_of_strangers += 1;
                self.stranger_bytes += bytes;
            }
            if let Some(site) = site {
                *self.of_sites.entry(site).or_default() += bytes;
            }
            let reservation = Reservation {
                peer,
                bytes,
                site,
                is_stranger,
            };
            return Next::Started(reservation, next.request);
        }
        Next::Nobody
    }

    /// The answer is known and takes only so many bytes.
    pub(in crate::net) fn shrink(&mut self, reservation: &mut Reservation, bytes: usize) {
        let freed = reservation.bytes.saturating_sub(bytes);
        reservation.bytes -= freed;
        self.give_back(reservation, freed);
    }

    /// The answer is sent, or will never be.
    pub(in crate::net) fn finish(&mut self, reservation: Reservation) {
        self.started -= 1;
        self.started_of_strangers -= usize::from(reservation.is_stranger);
        self.give_back(&reservation, reservation.bytes);
    }

    /// A peer is connected from a site.
    pub(in crate::net) fn is_at(&mut self, peer: PeerId, site: Site) {
        self.sites.insert(peer, site);
    }

    /// Whether nothing of a peer waits or is started.
    pub(in crate::net) fn is_quiet(&self, peer: PeerId) -> bool {
        !self.queues.contains_key(&peer) && !self.reserved.contains_key(&peer)
    }

    /// Forgets what waits for a peer that is gone.
    pub(in crate::net) fn forget(&mut self, peer: PeerId) {
        self.sites.remove(&peer);
        if let Some(queue) = self.queues.remove(&peer) {
            self.waiting -= queue.requests.len();
            self.turns[queue.standing as usize].retain(|other| *other != peer);
        }
    }

    fn give_back(&mut self, reservation: &Reservation, bytes: usize) {
        self.reserved_bytes -= bytes;
        if reservation.is_stranger {
            self.stranger_bytes -= bytes;
        }
        take_away(&mut self.reserved, &reservation.peer, bytes);
        if let Some(site) = &reservation.site {
            take_away(&mut self.of_sites, site, bytes);
        }
    }
}

/// Takes bytes away from a sum, which is forgotten once it is 0.
fn take_away<K: Eq + std::hash::Hash>(sums: &mut HashMap<K, usize>, key: &K, bytes: usize) {
    if let Some(sum) = sums.get_mut(key) {
        *sum -= bytes;
        if *sum == 0 {
            sums.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "requests_tests.rs"]
mod tests;
