//! Kademlia's records over a [`RecordShelf`].
//!
//! libp2p's own store keeps 1,024 keys in memory; this one keeps as many as its bounds allow, on
//! disk, with an expiry. A key's providers are one stored value, so that a question costs one point
//! read. Bounds: for each provider, for each key, for each announcing peer, and in all, by number
//! and by bytes. Peer ids cost nothing, so in a full table those subnets give way that have most,
//! and the keys that are farthest from this node.
//!
//! Invariant: an expired or unreadable record is never given out. What is under way to the disk may be lost in a crash:
//! announcements are repeated long before they expire.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{KBucketKey, ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use super::announce::worth_announcing;
use super::ledger::{OWN, PROVIDERS, Writer, WriterThread, cost};
use super::service::{self, Ports, Service};
use super::shelf::RecordShelf;
use super::stored::{
    Announced, MAX_ADDRESSES, MAX_PROVIDER_BYTES, StoredPort, read_announced, read_own, trim,
    write_announced, write_own,
};
use super::subnet::Subnet;
use super::values::Values;
use crate::time::{Clock, Timestamp};

/// How long an announcement holds.
pub const PROVIDER_TTL: Duration = Duration::from_secs(48 * 60 * 60);
/// An announcement that was not repeated for so long is probably of a peer that is gone: peers of
/// this program repeat theirs some hours before.
const FRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Providers that announced a key last and come first in each answer. The places after them, as
/// many as Kademlia has room for, are taken in turn by the others.
const LATEST: usize = 10;
/// Longest key in bytes; a multihash of SHA2-512 has 66.
pub const MAX_KEY_BYTES: usize = 128;
/// Providers kept for one key: more than fit into one answer, as many may be gone.
const PROVIDERS_PER_KEY: usize = 64;
/// Most bytes that all providers of one key take as they are stored, the version included.
pub const MAX_PROVIDERS_BYTES: usize = PROVIDERS_PER_KEY * MAX_PROVIDER_BYTES + 16;

/// Bounds of the record store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Providers kept for one key.
    pub(super) providers_per_key: usize,
    /// Announcements of one peer.
    pub(super) providers_per_peer: i64,
    /// Announcements in all: a key with one provider takes some 300 bytes on disk. The shelf takes
    /// no more keys than a million.
    pub(super) providers: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            providers_per_key: PROVIDERS_PER_KEY,
            providers_per_peer: 300_000,
            providers: 900_000,
        }
    }
}

/// Kademlia's records.
pub(crate) struct ShelfStore {
    local: PeerId,
    clock: Arc<dyn Clock>,
    bounds: Bounds,
    writer: Arc<Writer>,
    values: Values,
    /// Counts answers, so that those that follow one another name other providers.
    answers: AtomicUsize,
    /// Where connected peers say that they listen: fresher than what they announced.
    listening: HashMap<PeerId, Vec<Multiaddr>>,
    /// Whence connected peers come.
    subnets: HashMap<PeerId, Subnet>,
    own: Own,
}

/// Facts that this node tells of itself.
#[derive(Clone)]
pub(crate) struct Own {
    /// Where it listens.
    pub(crate) addresses: watch::Receiver<Vec<Multiaddr>>,
    /// Ports of other programs.
    pub(crate) ports: Arc<Ports>,
}

impl ShelfStore {
    /// A store over `shelf`, and the thread that writes for it.
    pub(super) fn open(
        local: PeerId,
        shelf: Arc<dyn RecordShelf>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
        own: Own,
    ) -> std::io::Result<(Self, WriterThread)> {
        let (writer, thread) = Writer::start(local, shelf, clock.clone(), bounds)?;
        let writer = Arc::new(writer);
        let values = Values {
            writer: writer.clone(),
            clock: clock.clone(),
        };
        let store = Self {
            local,
            clock,
            bounds,
            writer,
            values,
            answers: AtomicUsize::new(0),
            listening: HashMap::new(),
            subnets: HashMap::new(),
            own,
        };
        Ok((store, thread))
    }

    /// A peer is connected, from an address.
    pub(super) fn came(&mut self, peer: PeerId, from: &Multiaddr) {
        // Bounded by the connections that there may be.
        self.subnets.insert(peer, Subnet::of(from));
    }

    /// Whence a connected peer comes.
    pub(super) fn subnet(&self, peer: &PeerId) -> Subnet {
        self.subnets.get(peer).copied().unwrap_or_default()
    }

    /// Whether a connected peer says where it listens.
    pub(super) fn is_listening(&self, peer: &PeerId) -> bool {
        self.listening.contains_key(peer)
    }

    /// Says that something went wrong which others may cause as often as they like.
    pub(super) fn warn(&self, cause: &'static str, error: &dyn std::fmt::Display) {
        self.writer.ledger.seldom.warn(cause, error);
    }

    /// A connected peer says where it listens.
    pub(super) fn listens(&mut self, peer: PeerId, addresses: &[Multiaddr]) {
        // Bounded by the connections that there may be.
        let addresses = trim(worth_announcing(addresses));
        if !addresses.is_empty() {
            self.listening.insert(peer, addresses);
        }
    }

    /// A peer is no longer connected.
    pub(super) fn gone(&mut self, peer: &PeerId) {
        self.listening.remove(peer);
        self.subnets.remove(peer);
    }

    /// The table of values, for who checks what goes into it.
    pub(super) fn values(&self) -> Values {
        self.values.clone()
    }

    /// Writes that were lost because the queue to the disk was full.
    pub(super) fn dropped_writes(&self) -> u64 {
        self.writer.ledger.dropped()
    }

    /// Who announced a key, without the expired. Removes what can't be read.
    fn announced(&self, key: &[u8], now: Timestamp) -> Vec<Announced> {
        let Some(bytes) = self.writer.get(PROVIDERS, key) else {
            return Vec::new();
        };
        match read_announced(bytes) {
            Ok(mut announced) => {
                announced.retain(|one| one.ends() > now);
                announced
            }
            Err(_) => {
                self.writer.put(PROVIDERS, key, None);
                Vec::new()
            }
        }
    }

    /// When an announcement of this node's own ends.
    fn own_until(&self, key: &[u8], now: Timestamp) -> Option<Timestamp> {
        match read_own(self.writer.get(OWN, key)?) {
            Ok(expires) => Some(expires).filter(|expires| *expires > now),
            Err(_) => {
                self.writer.put(OWN, key, None);
                None
            }
        }
    }

    /// Writes a key's providers in place of what was stored before, expired ones included.
    fn replace(&self, key: &[u8], announced: &[Announced]) -> Result<()> {
        let value = (!announced.is_empty()).then(|| Bytes::from(write_announced(announced)));
        let written = self.writer.put(PROVIDERS, key, value);
        written.then_some(()).ok_or(Error::MaxProvidedKeys)
    }

    fn add_announced(&self, key: &[u8], new: Announced, now: Timestamp) -> Result<()> {
        let mut announced = self.announced(key, now);
        if let Some(known) = announced.iter_mut().find(|one| one.peer == new.peer) {
            *known = new;
            return self.replace(key, &announced);
        }
        if !self.has_room(key, &new) {
            return Err(Error::MaxProvidedKeys);
        }
        if announced.len() < self.bounds.providers_per_key {
            announced.push(new);
        } else {
            let place = place_of(&announced, &new, key, now);
            let known = place.and_then(|place| announced.get_mut(place));
            *known.ok_or(Error::MaxProvidedKeys)? = new;
        }
        self.replace(key, &announced)
    }

    /// Whether there is room for one more announcement. In a full table there is for subnets that
    /// have few, and for keys that are near: others give way to them a moment later.
    fn has_room(&self, key: &[u8], new: &Announced) -> bool {
        let room = self.writer.room();
        let counts = self.writer.ledger.counts();
        let account = &counts.providers;
        if account.of_peer(&new.peer) >= self.bounds.providers_per_peer
            || room.is_overfull(account)
            || account.bytes + cost(key, new.bytes()) > room.provider_bytes
        {
            return false;
        }
        if !room.is_full(account) {
            return true;
        }
        let most = account.largest().map_or(0, |(_, count)| count);
        let distance = || KBucketKey::from(self.local).distance(&KBucketKey::new(key.to_vec()));
        account.of_subnet(&new.subnet) + 1 < most
            || counts.radius.is_some_and(|radius| distance() < radius)
    }

    fn provider_record(&self, key: &[u8], one: Announced, now: Timestamp) -> ProviderRecord {
        let left = one.ends().since(now);
        let port = one.port.and_then(|port| {
            let ttl_s = u32::try_from(left.as_secs()).ok().filter(|ttl| *ttl > 0)?;
            let (port, host) = (port.port, port.host);
            Some(Service { port, host, ttl_s })
        });
        let mut addresses = match self.listening.get(&one.peer) {
            Some(addresses) => addresses.clone(),
            None => one.addresses,
        };
        if let Some(service) = port {
            addresses.truncate(MAX_ADDRESSES - 1);
            addresses.push(service.to_address(key));
        }
        ProviderRecord {
            key: RecordKey::from(key.to_vec()),
            provider: one.peer,
            expires: Some(Instant::now() + left),
            addresses,
        }
    }

    /// The record of a key that this node itself provides. Without a port it names no address:
    /// Kademlia fills in those of the moment.
    fn own_record(&self, key: &[u8], expires: Timestamp, now: Timestamp) -> ProviderRecord {
        let mut addresses = Vec::new();
        if let Some(service) = self.own.ports.of(key) {
            addresses = trim(worth_announcing(&self.own.addresses.borrow()));
            addresses.truncate(MAX_ADDRESSES - 1);
            addresses.push(service.to_address(key));
        }
        ProviderRecord {
            key: RecordKey::from(key.to_vec()),
            provider: self.local,
            expires: Some(Instant::now() + expires.since(now)),
            addresses,
        }
    }
}

/// Which provider of a key gives way to a new one. When a subnet has more of them than that of the
/// new one would have, it is one of that subnet, else one of its own subnet, if there is any. The
/// one that has been silent for longest goes, if it should have been heard of again, else the one
/// farthest from the key, as in Kademlia's own store. That a new one is heard of later than all
/// others is no reason: identities are free.
fn place_of(announced: &[Announced], new: &Announced, key: &[u8], now: Timestamp) -> Option<usize> {
    let mut subnets: HashMap<Subnet, usize> = HashMap::new();
    for one in announced {
        *subnets.entry(one.subnet).or_default() += 1;
    }
    let own = subnets.get(&new.subnet).copied().unwrap_or(0);
    let largest = subnets
        .iter()
        .max_by_key(|(subnet, count)| (**count, **subnet));
    let largest = largest.filter(|(_, count)| **count > own + 1);
    let largest = largest.map(|(subnet, _)| *subnet);
    let theirs = largest.or((own > 0).then_some(new.subnet));
    let candidates = || {
        let all = announced.iter().enumerate();
        all.filter(|(_, one)| theirs.is_none_or(|subnet| one.subnet == subnet))
    };
    let (oldest, silent) = candidates().min_by_key(|(_, one)| one.expires)?;
    if !is_fresh(silent, now) {
        return Some(oldest);
    }
    let target = KBucketKey::new(key.to_vec());
    let distance = |one: &Announced| KBucketKey::from(one.peer).distance(&target);
    let (farthest, far) = candidates().max_by_key(|(_, one)| distance(one))?;
    (largest.is_some() || distance(new) < distance(far)).then_some(farthest)
}

/// Whether a provider was heard of lately.
fn is_fresh(one: &Announced, now: Timestamp) -> bool {
    one.expires > now.after(PROVIDER_TTL.saturating_sub(FRESH))
}

/// Providers in the order in which they are worth a try: those heard of last, the others heard of
/// lately, from another one on in each answer, and those that are probably gone. Of those heard of
/// lately one of each subnet goes before a second one of any, so that a crowd of peer ids on one
/// host hides nobody.
fn by_worth(mut announced: Vec<Announced>, answer: usize, now: Timestamp) -> Vec<Announced> {
    announced.sort_by_key(|one| std::cmp::Reverse(one.expires));
    let fresh = announced.partition_point(|one| is_fresh(one, now));
    let probably_gone = announced.split_off(fresh);
    let mut seen: HashMap<Subnet, usize> = HashMap::new();
    announced.sort_by_cached_key(|one| {
        let rank = seen.entry(one.subnet).or_default();
        *rank += 1;
        *rank
    });
    if let Some(others) = announced.get_mut(LATEST..)
        && !others.is_empty()
    {
        let by = answer.wrapping_mul(LATEST) % others.len();
        others.rotate_left(by);
    }
    announced.extend(probably_gone);
    announced
}

impl RecordStore for ShelfStore {
    type RecordsIter<'a> = std::vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    /// Nothing: values that are here are no part of the DHT.
    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    /// Refused, whoever puts it.
    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        Vec::new().into_iter()
    }

    /// Keeps an announcement for [`PROVIDER_TTL`]. Our own are kept without addresses: those of the moment are filled in
    /// when somebody asks.
    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let key = record.key.as_ref();
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::ValueTooLarge);
        }
        let now = self.clock.now();
        let expires = now.after(PROVIDER_TTL);
        if record.provider == self.local {
            let kept = self.writer.put(OWN, key, Some(write_own(expires).into()));
            return kept.then_some(()).ok_or(Error::MaxProvidedKeys);
        }
        let mut addresses = record.addresses.clone();
        let service = service::take(key, &mut addresses);
        let announced = Announced {
            peer: record.provider,
            addresses: trim(addresses),
            expires,
            subnet: self.subnet(&record.provider),
            port: service.map(|service| StoredPort {
                port: service.port,
                host: service.host,
                until: now.after(Duration::from_secs(service.ttl_s.into())),
            }),
        };
        self.add_announced(key, announced.fitting(), now)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = self.clock.now();
        let key = key.as_ref();
        let own = self.own_until(key, now);
        let own = own.map(|expires| self.own_record(key, expires, now));
        let answer = self.answers.fetch_add(1, Ordering::Relaxed);
        let others = by_worth(self.announced(key, now), answer, now).into_iter();
        let others = others.map(|one| self.provider_record(key, one, now));
        own.into_iter().chain(others).collect()
    }

    /// All keys of our own; slow. Kademlia asks for it only when it re-announces by itself, which is switched off.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        let now = self.clock.now();
        let all = self.writer.all(OWN).into_iter();
        let provided: Vec<_> = all
            .filter_map(|(key, bytes)| {
                let expires = read_own(bytes).ok().filter(|expires| *expires > now)?;
                Some(Cow::Owned(self.own_record(&key, expires, now)))
            })
            .collect();
        provided.into_iter()
    }

    fn remove_provider(&mut self, key: &RecordKey, peer: &PeerId) {
        let key = key.as_ref();
        if *peer == self.local {
            self.writer.put(OWN, key, None);
            return;
        }
        let mut announced = self.announced(key, self.clock.now());
        let before = announced.len();
        announced.retain(|one| one.peer != *peer);
        if announced.len() != before {
            // On a full queue it stays until it expires.
            let _ = self.replace(key, &announced);
        }
    }
}

#[cfg(test)]
#[path = "record_store_tests.rs"]
mod tests;
