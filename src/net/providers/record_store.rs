//! Kademlia's records over a [`RecordShelf`].
//!
//! libp2p's own store keeps 1,024 keys in memory; this one keeps as many as its bounds allow, on disk, with an expiry. A
//! key's providers are one stored value, so that a question costs one point read. Bounds: for each key, for each
//! announcing peer, and in all.
//!
//! Invariant: an expired or unreadable record is never given out. What is under way to the disk may be lost in a crash:
//! announcements are repeated long before they expire.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{KBucketKey, ProviderRecord, Record, RecordKey};

use super::ledger::{OWN, PROVIDERS, VALUES, Writer, WriterThread};
use super::shelf::RecordShelf;
use super::stored::{
    Announced, Value, read_announced, read_own, read_value, trim, write_announced, write_own,
};
use super::values::{NotStored, Values};
use crate::time::{Clock, Timestamp};

/// How long an announcement holds.
pub const PROVIDER_TTL: Duration = Duration::from_secs(48 * 60 * 60);
/// Longest key in bytes; a multihash of SHA2-512 has 66.
pub const MAX_KEY_BYTES: usize = 128;
/// Longest value in bytes.
pub const MAX_VALUE_BYTES: usize = 16 << 10;

/// Bounds of the record store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Providers kept for one key: Kademlia's replication factor.
    pub(super) providers_per_key: usize,
    /// Announcements of one peer.
    pub(super) providers_per_peer: i64,
    /// Announcements in all: a key with one provider takes some 300 bytes on disk.
    pub(super) providers: i64,
    /// Values that expire, in all: heads of up to 12 KiB.
    pub(super) values: i64,
    /// Values that expire and that one peer brought.
    pub(super) values_per_peer: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            providers_per_key: 20,
            providers_per_peer: 500_000,
            providers: 2_000_000,
            values: 4096,
            values_per_peer: 512,
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
}

impl ShelfStore {
    /// A store over `shelf`, and the thread that writes for it.
    pub(super) fn open(
        local: PeerId,
        shelf: Arc<dyn RecordShelf>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> std::io::Result<(Self, WriterThread)> {
        let (writer, thread) = Writer::start(shelf, clock.clone())?;
        let writer = Arc::new(writer);
        let values = Values {
            writer: writer.clone(),
            clock: clock.clone(),
            bounds,
        };
        let store = Self {
            local,
            clock,
            bounds,
            writer,
            values,
        };
        Ok((store, thread))
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
                announced.retain(|one| one.expires > now);
                announced
            }
            Err(_) => {
                self.writer.put(PROVIDERS, key, None);
                Vec::new()
            }
        }
    }

    fn own(&self, key: &[u8], now: Timestamp) -> Option<Timestamp> {
        match read_own(self.writer.get(OWN, key)?) {
            Ok(expires) => Some(expires).filter(|expires| *expires > now),
            Err(_) => {
                self.writer.put(OWN, key, None);
                None
            }
        }
    }

    /// Writes a key's providers and brings the counts in line with what was stored before, expired ones included.
    fn replace(&self, key: &[u8], announced: &[Announced]) -> Result<()> {
        let before = self.writer.get(PROVIDERS, key);
        let before = before.map_or(Vec::new(), |bytes| {
            read_announced(bytes).unwrap_or_default()
        });
        let value = (!announced.is_empty()).then(|| Bytes::from(write_announced(announced)));
        if !self.writer.put(PROVIDERS, key, value) {
            return Err(Error::MaxProvidedKeys);
        }
        let mut counts = self.writer.ledger.counts();
        for one in &before {
            counts.remove_provider(one.peer);
        }
        for one in announced {
            counts.add_provider(one.peer);
        }
        Ok(())
    }

    fn add_announced(&self, key: &[u8], new: Announced, now: Timestamp) -> Result<()> {
        let mut announced = self.announced(key, now);
        if let Some(known) = announced.iter_mut().find(|one| one.peer == new.peer) {
            *known = new;
            return self.replace(key, &announced);
        }
        let (of_peer, in_all) = {
            let counts = self.writer.ledger.counts();
            let of_peer = counts.of_peer.get(&new.peer).copied().unwrap_or(0);
            (of_peer, counts.providers)
        };
        if of_peer >= self.bounds.providers_per_peer || in_all >= self.bounds.providers {
            return Err(Error::MaxProvidedKeys);
        }
        if announced.len() >= self.bounds.providers_per_key {
            // As Kademlia's own store does: those nearest to the key stay.
            let target = KBucketKey::new(key.to_vec());
            let distance = |one: &Announced| KBucketKey::from(one.peer).distance(&target);
            let farthest = (0..announced.len()).max_by_key(|n| distance(&announced[*n]));
            match farthest {
                Some(n) if distance(&new) < distance(&announced[n]) => announced[n] = new,
                _ => return Err(Error::MaxProvidedKeys),
            }
        } else {
            announced.push(new);
        }
        self.replace(key, &announced)
    }

    fn provider_record(&self, key: &[u8], one: Announced, now: Timestamp) -> ProviderRecord {
        ProviderRecord {
            key: RecordKey::from(key.to_vec()),
            provider: one.peer,
            expires: Some(Instant::now() + one.expires.since(now)),
            addresses: one.addresses,
        }
    }
}

/// Who brought a value is for our own accounts: others are not told.
fn to_record(key: &[u8], value: Value, now: Timestamp) -> Record {
    Record {
        key: RecordKey::from(key.to_vec()),
        value: value.value,
        publisher: None,
        expires: value
            .expires
            .map(|expires| Instant::now() + expires.since(now)),
    }
}

impl RecordStore for ShelfStore {
    type RecordsIter<'a> = std::vec::IntoIter<Cow<'a, Record>>;
    type ProvidedIter<'a> = std::vec::IntoIter<Cow<'a, ProviderRecord>>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        let value = self.values.get(key.as_ref())?;
        Some(Cow::Owned(to_record(key.as_ref(), value, self.clock.now())))
    }

    /// Stores a value as it is. Kademlia never calls it for what peers put: that is checked first.
    fn put(&mut self, record: Record) -> Result<()> {
        let key = record.key.as_ref();
        if record.value.len() > MAX_VALUE_BYTES || key.len() > MAX_KEY_BYTES {
            return Err(Error::ValueTooLarge);
        }
        let now = self.clock.now();
        let value = Value {
            value: record.value.clone(),
            publisher: record.publisher,
            expires: record
                .expires
                .map(|at| now.after(at.saturating_duration_since(Instant::now()))),
        };
        let put = self.values.put(key, value);
        put.map_err(|(NotStored::Full | NotStored::Busy)| Error::MaxRecords)
    }

    fn remove(&mut self, key: &RecordKey) {
        self.values.remove(key.as_ref());
    }

    /// Everything; slow. Kademlia asks for it only when it replicates by itself, which is switched off.
    fn records(&self) -> Self::RecordsIter<'_> {
        let now = self.clock.now();
        let all = self.writer.all(VALUES).into_iter();
        let records: Vec<_> = all
            .filter_map(|(key, bytes)| {
                let value = read_value(bytes).ok()?;
                let alive = value.expires.is_none_or(|expires| expires > now);
                alive.then(|| Cow::Owned(to_record(&key, value, now)))
            })
            .collect();
        records.into_iter()
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
        let announced = Announced {
            peer: record.provider,
            addresses: trim(record.addresses.clone()),
            expires,
        };
        self.add_announced(key, announced, now)
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let now = self.clock.now();
        let key = key.as_ref();
        let own = self.own(key, now).map(|expires| Announced {
            peer: self.local,
            addresses: Vec::new(),
            expires,
        });
        own.into_iter()
            .chain(self.announced(key, now))
            .map(|one| self.provider_record(key, one, now))
            .collect()
    }

    /// All keys of our own; slow. Kademlia asks for it only when it re-announces by itself, which is switched off.
    fn provided(&self) -> Self::ProvidedIter<'_> {
        let now = self.clock.now();
        let all = self.writer.all(OWN).into_iter();
        let provided: Vec<_> = all
            .filter_map(|(key, bytes)| {
                let expires = read_own(bytes).ok().filter(|expires| *expires > now)?;
                let own = Announced {
                    peer: self.local,
                    addresses: Vec::new(),
                    expires,
                };
                Some(Cow::Owned(self.provider_record(&key, own, now)))
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
