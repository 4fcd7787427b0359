//! Addresses that a meeting point told: which of them is dialled next, and what is remembered.
//! Pure.
//!
//! Anybody can put any address there, at no cost: the table may be full of garbage, or of addresses
//! of a victim that others are to dial. So:
//!
//! - Dials that fail are few in a minute, in all and to each IP address, whatever is told.
//! - Where peers were reached is remembered and tried first. Next comes what was never tried, one
//!   IP address after the other, and among these what more answers named.
//! - An address at which nobody of this network was found is tried a few times, ever more seldom.
//!   One at which this node itself or a peer of another network was found is never dialled again.
//! - The table is bounded. When it is full, what has failed gives way first, and what works last.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use tokio::time::Instant;

use super::key::Key;
use crate::net::address::{Reach, reach};

/// Most addresses that are remembered, and those of one IP address among them.
const MAX_PLACES: usize = 1024;
const MAX_OF_HOST: usize = 16;
/// Addresses at which peers were reached that are never given up for others.
const MAX_GOOD: usize = 64;
/// Most keys under which one address is remembered.
const MAX_KEYS_OF_PLACE: usize = 8;
/// Most addresses that are taken from one answer.
const MAX_OF_ANSWER: usize = 64;
/// Dials under way at a time.
pub const MAX_DIALS_AT_ONCE: usize = 8;
/// Dials that may fail, and the time after which one more may.
const ALL: u32 = 20;
const ALL_AGAIN: Duration = Duration::from_secs(3);
/// The same for one IP address.
const OF_HOST: u32 = 6;
const OF_HOST_AGAIN: Duration = Duration::from_secs(60);
/// First and longest pause before an address that failed over each transport is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);
const LONGEST_PAUSE: Duration = Duration::from_secs(2 * 3600);
/// The same for an address at which a peer was reached before.
const GOOD_PAUSE: Duration = Duration::from_secs(15);
const LONGEST_GOOD_PAUSE: Duration = Duration::from_secs(5 * 60);
/// Failures over each transport after which a peer is not thought to be there any more.
const GONE_AFTER: u32 = 6;
/// Answers that name an address and count for it.
const MAX_TOLD: u32 = 8;

/// Verdict on an address, as far as it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It was never tried.
    New,
    /// This peer was reached there.
    Good(PeerId, Instant),
    /// Nobody was reached there.
    Bad,
    /// It is not to be dialled: this node itself is there, or a peer of another network.
    Never,
}

#[derive(Debug)]
struct Entry {
    /// Keys under which it was told.
    keys: Vec<Key>,
    state: State,
    /// When it may be dialled again.
    due: Instant,
    /// Dials that failed since the last that did not.
    failures: u32,
    /// Answers that named it.
    told: u32,
    /// When it was last told.
    heard: Instant,
    is_dialled: bool,
}

impl Entry {
    const fn is_good(&self) -> bool {
        matches!(self.state, State::Good(..))
    }
}

/// Dials that may fail, and come back with time.
#[derive(Debug, Clone, Copy)]
struct Purse {
    left: u32,
    since: Instant,
}

impl Purse {
    const fn full(most: u32, now: Instant) -> Self {
        Self {
            left: most,
            since: now,
        }
    }

    fn refill(&mut self, most: u32, again: Duration, now: Instant) {
        let passed = now.saturating_duration_since(self.since).as_millis() / again.as_millis();
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(passed).min(most);
        self.since = match self.left == most {
            true => now,
            false => self.since + again.saturating_mul(passed),
        };
    }

    const fn give_back(&mut self, most: u32) {
        if self.left < most {
            self.left += 1;
        }
    }
}

#[derive(Debug)]
struct Host {
    purse: Purse,
    dialled: Option<Instant>,
    places: usize,
}

/// An address to be dialled, over one transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// The address.
    pub place: SocketAddrV4,
    /// Over QUIC; else over TCP. A meeting point tells a port and no transport.
    pub quic: bool,
}

impl Dial {
    /// The address as the network takes it.
    pub fn address(&self) -> Multiaddr {
        let ip = Multiaddr::empty().with(Protocol::Ip4(*self.place.ip()));
        match self.quic {
            true => ip
                .with(Protocol::Udp(self.place.port()))
                .with(Protocol::QuicV1),
            false => ip.with(Protocol::Tcp(self.place.port())),
        }
    }
}

/// Outcome of a dial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A peer of this network is there.
    Reached(PeerId),
    /// This node itself, or a peer of another network.
    Wrong,
    /// Nobody.
    Failed,
}

/// Where a peer was reached, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The address.
    pub place: SocketAddrV4,
    /// The peer.
    pub peer: PeerId,
    /// When it was last reached there.
    pub reached: Instant,
}

/// The addresses.
#[derive(Debug)]
pub struct Places {
    /// Whether addresses of private networks and of this machine count.
    takes_private: bool,
    entries: BTreeMap<SocketAddrV4, Entry>,
    hosts: HashMap<Ipv4Addr, Host>,
    all: Purse,
    dialling: usize,
}

impl Places {
    /// None. `takes_private`: addresses of private networks and of this machine count; else they
    /// would have this node dial its neighbours for a stranger.
    pub fn new(takes_private: bool, now: Instant) -> Self {
        Self {
            takes_private,
            entries: BTreeMap::new(),
            hosts: HashMap::new(),
            all: Purse::full(ALL, now),
            dialling: 0,
        }
    }

    /// Addresses in the table.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Where peers were reached, the latest first.
    pub fn good(&self) -> Vec<Place> {
        let good = self.entries.iter().filter_map(|(place, entry)| {
            let State::Good(peer, reached) = entry.state else {
                return None;
            };
            Some(Place {
                place: *place,
                peer,
                reached,
            })
        });
        let mut good: Vec<Place> = good.collect();
        good.sort_by_key(|one| Reverse(one.reached));
        good
    }

    /// One answer to a search for a key. `random` chooses what gives way in a full table.
    pub fn heard(&mut self, key: Key, answer: &[SocketAddrV4], random: u64, now: Instant) {
        let mut told = HashSet::new();
        for place in answer.iter().take(MAX_OF_ANSWER) {
            if !self.counts(place) || !told.insert(*place) {
                continue;
            }
            if !self.entries.contains_key(place) && !self.make_room(place, random) {
                continue;
            }
            let host = self.hosts.entry(*place.ip()).or_insert_with(|| Host {
                purse: Purse::full(OF_HOST, now),
                dialled: None,
                places: 0,
            });
            let entry = self.entries.entry(*place).or_insert_with(|| {
                host.places += 1;
                Entry {
                    keys: Vec::new(),
                    state: State::New,
                    due: now,
                    failures: 0,
                    told: 0,
                    heard: now,
                    is_dialled: false,
                }
            });
            entry.heard = now;
            entry.told = entry.told.saturating_add(1).min(MAX_TOLD);
            if !entry.keys.contains(&key) {
                if entry.keys.len() >= MAX_KEYS_OF_PLACE {
                    entry.keys.remove(0);
                }
                entry.keys.push(key);
            }
        }
    }

    fn counts(&self, place: &SocketAddrV4) -> bool {
        let reach = reach(&Multiaddr::empty().with(Protocol::Ip4(*place.ip())));
        place.port() != 0
            && match reach {
                Some(Reach::World) => true,
                Some(_) => self.takes_private,
                None => false,
            }
    }

    /// Whether there is room for one more address; what is worth least has given way, if need be.
    fn make_room(&mut self, place: &SocketAddrV4, random: u64) -> bool {
        let host = self.hosts.get(place.ip()).map_or(0, |host| host.places);
        let is_of_host = |other: &SocketAddrV4| host < MAX_OF_HOST || other.ip() == place.ip();
        if host < MAX_OF_HOST && self.entries.len() < MAX_PLACES {
            return true;
        }
        let good = self.entries.values().filter(|entry| entry.is_good());
        let spare_good = good.count() > MAX_GOOD;
        let worth = |place: &SocketAddrV4, entry: &Entry| match entry.state {
            State::Bad => (0, entry.heard, 0),
            // One among many: what was told first must not keep out what comes later.
            State::New => (1, self.all.since, scrambled(place, random)),
            State::Never => (2, entry.heard, 0),
            State::Good(_, reached) => (3, reached, 0),
        };
        let others = self.entries.iter().filter(|(other, entry)| {
            is_of_host(other) && !entry.is_dialled && (spare_good || !entry.is_good())
        });
        let least = others.min_by_key(|(other, entry)| worth(other, entry));
        let Some(least) = least.map(|(place, _)| *place) else {
            return false;
        };
        self.remove(&least);
        true
    }

    fn remove(&mut self, place: &SocketAddrV4) {
        if self.entries.remove(place).is_none() {
            return;
        }
        if let Some(host) = self.hosts.get_mut(place.ip()) {
            host.places -= 1;
        }
    }

    /// The next address to dial, told under one of these keys. `is_connected` tells of peers that
    /// need no dial. [`ended`](Self::ended) is to be told of it.
    pub fn next(
        &mut self,
        keys: &HashSet<Key>,
        is_connected: impl Fn(&PeerId) -> bool,
        random: u64,
        now: Instant,
    ) -> Option<Dial> {
        self.all.refill(ALL, ALL_AGAIN, now);
        if self.dialling >= MAX_DIALS_AT_ONCE || self.all.left == 0 {
            return None;
        }
        // A host is remembered beyond its addresses as long as dials to it failed lately.
        self.hosts.retain(|_, host| {
            host.purse.refill(OF_HOST, OF_HOST_AGAIN, now);
            host.places > 0 || host.purse.left < OF_HOST
        });
        let may = self.entries.iter().filter(|(place, entry)| {
            entry.due <= now
                && self.is_wanted(entry, keys, &is_connected)
                && self.hosts.get(place.ip()).is_some_and(|h| h.purse.left > 0)
        });
        let turn = |place: &SocketAddrV4, entry: &Entry| {
            let class = match entry.state {
                State::Good(..) => 0,
                State::New => 1,
                State::Bad | State::Never => 2,
            };
            let host = self.hosts.get(place.ip());
            let last = host.and_then(|host| host.dialled);
            (class, last, Reverse(entry.told), scrambled(place, random))
        };
        let (place, _) = may.min_by_key(|(place, entry)| turn(place, entry))?;
        let place = *place;
        let entry = self.entries.get_mut(&place)?;
        entry.is_dialled = true;
        let quic = entry.failures % 2 == 1;
        self.all.left -= 1;
        self.dialling += 1;
        if let Some(host) = self.hosts.get_mut(place.ip()) {
            host.purse.left = host.purse.left.saturating_sub(1);
            host.dialled = Some(now);
        }
        Some(Dial { place, quic })
    }

    fn is_wanted(
        &self,
        entry: &Entry,
        keys: &HashSet<Key>,
        is_connected: &impl Fn(&PeerId) -> bool,
    ) -> bool {
        let is_there = match &entry.state {
            State::Never => return false,
            State::Good(peer, _) => is_connected(peer),
            State::New | State::Bad => false,
        };
        !entry.is_dialled && !is_there && entry.keys.iter().any(|key| keys.contains(key))
    }

    /// When an address told under one of these keys may be dialled next.
    pub fn due(
        &self,
        keys: &HashSet<Key>,
        is_connected: impl Fn(&PeerId) -> bool,
    ) -> Option<Instant> {
        if self.dialling >= MAX_DIALS_AT_ONCE {
            return None;
        }
        let wanted = self.entries.iter();
        let wanted = wanted.filter(|(_, entry)| self.is_wanted(entry, keys, &is_connected));
        let due = wanted.map(|(place, entry)| {
            let host = self.hosts.get(place.ip()).map(|host| host.purse);
            let host = host.filter(|purse| purse.left == 0);
            let again = host.map(|purse| purse.since + OF_HOST_AGAIN);
            again.map_or(entry.due, |again| again.max(entry.due))
        });
        let all = (self.all.left == 0).then(|| self.all.since + ALL_AGAIN);
        let first = due.min()?;
        Some(all.map_or(first, |all| all.max(first)))
    }

    /// A dial has ended.
    pub fn ended(&mut self, dial: Dial, outcome: Outcome, now: Instant) {
        self.dialling = self.dialling.saturating_sub(1);
        if matches!(outcome, Outcome::Reached(_)) {
            self.all.give_back(ALL);
            if let Some(host) = self.hosts.get_mut(dial.place.ip()) {
                host.purse.give_back(OF_HOST);
            }
        }
        let Some(entry) = self.entries.get_mut(&dial.place) else {
            return;
        };
        entry.is_dialled = false;
        match outcome {
            Outcome::Reached(peer) => {
                entry.state = State::Good(peer, now);
                // Over the transport that works first next time.
                entry.failures = u32::from(dial.quic);
                entry.due = now + GOOD_PAUSE;
            }
            Outcome::Wrong => entry.state = State::Never,
            Outcome::Failed => {
                entry.failures = entry.failures.saturating_add(1);
                if entry.failures >= GONE_AFTER || !entry.is_good() {
                    entry.state = State::Bad;
                }
                let (first, longest) = match entry.is_good() {
                    true => (GOOD_PAUSE, LONGEST_GOOD_PAUSE),
                    false => (FIRST_PAUSE, LONGEST_PAUSE),
                };
                // After TCP comes QUIC, with no pause.
                let rounds = entry.failures / 2;
                entry.due = match entry.failures % 2 {
                    1 => now,
                    _ => now + first.saturating_mul(1 << (rounds - 1).min(16)).min(longest),
                };
            }
        }
    }
}

/// A number that depends on both, and in no way that a stranger can foresee.
fn scrambled(place: &SocketAddrV4, random: u64) -> u64 {
    let bits = u64::from(u32::from(*place.ip())) << 16 | u64::from(place.port());
    // The finisher of SplitMix64.
    let mut mixed = bits ^ random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
