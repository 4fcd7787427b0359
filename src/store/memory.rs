//! A store in memory, for tests, simulations and throw-away nodes.
//!
//! It keeps every promise of [`Store`] but lasting: the conformance suite holds it beside the one on disk. Its quota counts blocks and
//! a fixed overhead for each.

mod evict;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::coldness::{Chances, Marks};
use super::counters::Counters;
use super::error::Error;
use super::likest::Likest;
use super::records::RecordShelf;
use super::types::{
    BlockStat, Class, Event, Holder, Keep, LeaseId, LeaseInfo, MAX_LEASES, MAX_PIN_NAME_BYTES,
    MAX_PINS, MAX_TERMS_BYTES, Maintained, PinId, PinInfo, Place, RemovedPins, StoreOptions, Usage,
    Why,
};
use super::{Store, types};
use crate::block::{Block, ChunkHash, ChunkIndex, IndexError, PutStats, Ref};
use crate::id::BlockId;
use crate::size::ByteSize;
use crate::time::Timestamp;

/// Bytes that count against the quota for each block besides its own.
const BLOCK_OVERHEAD_BYTES: u64 = 256;

/// A store that is gone when it is dropped.
#[derive(Debug)]
pub struct MemoryStore {
    options: StoreOptions,
    /// In place of that of the options: it may change.
    quota: AtomicU64,
    state: Mutex<State>,
    records: RecordShelf,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<BlockId, Entry>,
    /// Pins and leases of each block that has any, here or lost.
    refs: BTreeMap<BlockId, BTreeSet<Holder>>,
    /// Cached blocks by arrival.
    cached: BTreeMap<u64, BlockId>,
    /// The arrival at which eviction goes on.
    hand: u64,
    /// Those that come from this arrival on have their turn in its next lap.
    lap_end: u64,
    /// Cached blocks of which there are copies elsewhere.
    marks: Marks,
    pins: BTreeMap<PinId, Pin>,
    /// Cached blocks that came for pins which were never finished, and when these were given up.
    leftovers: BTreeMap<BlockId, Timestamp>,
    leases: BTreeMap<LeaseId, Lease>,
    chunks: HashMap<ChunkHash, Ref>,
    counters: HashMap<BlockId, Counters>,
    /// Blocks with counters that are not here, by when they went.
    gone: BTreeMap<u64, BlockId>,
    gone_since: HashMap<BlockId, u64>,
    next_number: u64,
    usage: Usage,
}

#[derive(Debug)]
struct Entry {
    bytes: Bytes,
    arrival: u64,
    added: Timestamp,
}

#[derive(Debug, Default)]
struct Pin {
    /// Name that it was begun with.
    name: String,
    info: Option<PinInfo>,
    blocks: BTreeSet<BlockId>,
}

#[derive(Debug)]
struct Lease {
    info: LeaseInfo,
    blocks: BTreeSet<BlockId>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(options: StoreOptions) -> Self {
        Self {
            records: RecordShelf::in_memory(&options),
            state: Mutex::default(),
            quota: AtomicU64::new(options.quota.0),
            options,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in the middle of a change would be a bug of this file; the maps are then at worst a block apart.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_block(&self, state: &mut State, id: BlockId) -> bool {
        let Some(entry) = state.blocks.remove(&id) else {
            return false;
        };
        let class = state.class(&id);
        state.account(class, entry.bytes.len() as u64, false);
        state.cached.remove(&entry.arrival);
        state.leftovers.remove(&id);
        let now = self.options.clock.now();
        state.counters.entry(id).or_default().purged.add(now);
        state.note_gone(id, self.options.max_gone_stats);
        true
    }

    /// Evicts cached blocks until `needed` bytes fit.
    fn make_room(&self, state: &mut State, needed: u64) -> Result<(), Error> {
        let quota = self.quota.load(Ordering::Relaxed);
        let mut chances = Chances::new();
        while state.usage.disk_bytes + needed > quota {
            let now = self.options.clock.now();
            let Some((id, is_marked)) = state.next_to_go(&mut chances, now) else {
                return Err(Error::Full {
                    used: state.usage.disk_bytes,
                    quota,
                    needed,
                });
            };
            self.drop_block(state, id);
            state.usage.evicted += 1;
            state.usage.evicted_unsure += u64::from(!is_marked);
        }
        Ok(())
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn class(&self, id: &BlockId) -> Class {
        match self.refs.get(id).and_then(BTreeSet::first) {
            Some(Holder::Pin(_)) => Class::Pinned,
            Some(Holder::Lease(_)) => Class::Leased,
            None => Class::Cached,
        }
    }

    fn account(&mut self, class: Class, bytes: u64, add: bool) {
        let usage = &mut self.usage;
        let class_bytes = match class {
            Class::Pinned => &mut usage.pinned_bytes,
            Class::Leased => &mut usage.leased_bytes,
            Class::Cached => &mut usage.cached_bytes,
        };
        let on_disk = bytes + BLOCK_OVERHEAD_BYTES;
        if add {
            *class_bytes += bytes;
            usage.blocks += 1;
            usage.block_bytes += bytes;
            usage.disk_bytes += on_disk;
        } else {
            *class_bytes -= bytes;
            usage.blocks -= 1;
            usage.block_bytes -= bytes;
            usage.disk_bytes -= on_disk;
        }
    }

    /// Moves a block that is here from one class to the other.
    fn reclassify(&mut self, id: &BlockId, from: Class, to: Class) {
        let Some(entry) = self.blocks.get(id) else {
            return;
        };
        if from == to {
            return;
        }
        let (bytes, arrival) = (entry.bytes.len() as u64, entry.arrival);
        self.account(from, bytes, false);
        self.account(to, bytes, true);
        if to == Class::Cached {
            self.cached.insert(arrival, *id);
            // What is not kept any more has its turn by its age.
            self.hand = self.hand.min(arrival);
        } else {
            self.cached.remove(&arrival);
            self.leftovers.remove(id);
        }
    }

    fn add_ref(&mut self, holder: Holder, id: BlockId) {
        let from = self.class(&id);
        self.refs.entry(id).or_default().insert(holder);
        self.reclassify(&id, from, self.class(&id));
        let blocks = match holder {
            Holder::Pin(pin) => self.pins.get_mut(&pin).map(|pin| &mut pin.blocks),
            Holder::Lease(lease) => self.leases.get_mut(&lease).map(|lease| &mut lease.blocks),
        };
        if let Some(blocks) = blocks {
            blocks.insert(id);
        }
    }

    /// Ends the references of a holder. Returns how many blocks nothing keeps any more.
    fn remove_refs(&mut self, holder: Holder, blocks: BTreeSet<BlockId>) -> u64 {
        let mut freed = 0;
        for id in blocks {
            let from = self.class(&id);
            let Some(holders) = self.refs.get_mut(&id) else {
                continue;
            };
            holders.remove(&holder);
            let is_free = holders.is_empty();
            if is_free {
                self.refs.remove(&id);
            }
            self.reclassify(&id, from, self.class(&id));
            freed += u64::from(is_free && self.blocks.contains_key(&id));
        }
        freed
    }

    /// How many pins and leases refer to a block.
    fn holders(&self, id: &BlockId) -> (u64, u64) {
        let holders = self.refs.get(id).into_iter().flatten();
        holders.fold((0, 0), |(pins, leases), holder| match holder {
            Holder::Pin(_) => (pins + 1, leases),
            Holder::Lease(_) => (pins, leases + 1),
        })
    }

    fn note_gone(&mut self, id: BlockId, limit: u64) {
        let number = self.number();
        if let Some(before) = self.gone_since.insert(id, number) {
            self.gone.remove(&before);
        }
        self.gone.insert(number, id);
        while self.gone.len() as u64 > limit {
            let Some((_, forgotten)) = self.gone.pop_first() else {
                return;
            };
            self.gone_since.remove(&forgotten);
            self.counters.remove(&forgotten);
        }
    }

    fn note_here(&mut self, id: &BlockId) {
        if let Some(number) = self.gone_since.remove(id) {
            self.gone.remove(&number);
        }
    }
}

fn above(after: Option<BlockId>) -> (Bound<BlockId>, Bound<BlockId>) {
    (
        after.map_or(Bound::Unbounded, Bound::Excluded),
        Bound::Unbounded,
    )
}

fn check_terms(info: &LeaseInfo) -> Result<(), Error> {
    match info.terms.len() {
        len if len > MAX_TERMS_BYTES => Err(Error::TermsTooLarge(len)),
        _ => Ok(()),
    }
}

impl ChunkIndex for MemoryStore {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        let state = self.state();
        let find = |hash| {
            let place: &Ref = state.chunks.get(hash)?;
            state.blocks.contains_key(&place.id).then(|| place.clone())
        };
        Ok(hashes.iter().map(find).collect())
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        self.state().chunks.extend(entries.iter().cloned());
        Ok(())
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        let state = self.state();
        let absent = ids.iter().filter(|id| !state.blocks.contains_key(id));
        Ok(absent.copied().collect())
    }
}

impl Store for MemoryStore {
    fn put(&self, blocks: &[Block], keep: Keep) -> Result<PutStats, Error> {
        let mut state = self.state();
        let mut stats = PutStats::default();
        if let Some(pin) = keep.pin()
            && !state.pins.contains_key(&pin)
        {
            return Err(Error::NoSuchPin(pin));
        }
        for block in blocks {
            let id = block.id();
            if !state.blocks.contains_key(&id) {
                let bytes = block.bytes().len() as u64;
                self.make_room(&mut state, bytes + BLOCK_OVERHEAD_BYTES)?;
                let arrival = state.number();
                let entry = Entry {
                    bytes: block.bytes().clone(),
                    arrival,
                    added: self.options.clock.now(),
                };
                state.blocks.insert(id, entry);
                let class = state.class(&id);
                state.account(class, bytes, true);
                if class == Class::Cached {
                    state.cached.insert(arrival, id);
                }
                state.note_here(&id);
                stats.new_blocks += 1;
                stats.new_bytes += bytes;
            }
            if let Some(pin) = keep.pin() {
                state.add_ref(pin.into(), id);
            }
        }
        Ok(stats)
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }

    fn get(&self, id: BlockId) -> Result<Option<Block>, Error> {
        let state = self.state();
        let entry = state.blocks.get(&id);
        Ok(entry.map(|entry| Block::from_checked(id, entry.bytes.clone())))
    }

    fn has(&self, id: BlockId) -> Result<bool, Error> {
        Ok(self.state().blocks.contains_key(&id))
    }

    fn stat(&self, id: BlockId) -> Result<Option<BlockStat>, Error> {
        let state = self.state();
        let entry = state.blocks.get(&id);
        let counters = state.counters.get(&id);
        let (pins, leases) = state.holders(&id);
        if entry.is_none() && counters.is_none() && pins + leases == 0 {
            return Ok(None);
        }
        let counters = counters.copied().unwrap_or_default();
        Ok(Some(types::block_stat(
            entry.map(|entry| (entry.bytes.len() as u32, state.class(&id), entry.added)),
            pins,
            leases,
            &counters,
        )))
    }

    fn list(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        let state = self.state();
        let found = state.blocks.range(above(after)).take(limit);
        Ok(found
            .map(|(id, entry)| (*id, entry.bytes.len() as u32))
            .collect())
    }

    fn like(&self, id: BlockId, bits: u32, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        let mut likest = Likest::new(id, limit);
        for (other, entry) in &self.state().blocks {
            if other.shared_bits(&id) >= bits {
                likest.add(*other, entry.bytes.len() as u32);
            }
        }
        Ok(likest.into_vec())
    }

    fn places(&self, after: Option<Place>, limit: usize) -> Result<Vec<(Place, BlockId)>, Error> {
        let state = self.state();
        let all = state.blocks.keys().map(|id| (Place::of(id), *id));
        let mut found: Vec<_> = all
            .filter(|(place, _)| after.is_none_or(|after| *place > after))
            .collect();
        found.sort_unstable();
        found.truncate(limit);
        Ok(found)
    }

    fn why(
        &self,
        id: BlockId,
        is_backup: &mut dyn FnMut(PinId) -> bool,
    ) -> Result<Option<Why>, Error> {
        let state = self.state();
        if !state.blocks.contains_key(&id) {
            return Ok(None);
        }
        let holders: Vec<Holder> = state.refs.get(&id).into_iter().flatten().copied().collect();
        // What tells of pins may ask this store.
        drop(state);
        let is_leased = !holders.is_empty();
        let pins = holders.into_iter().filter_map(|holder| match holder {
            Holder::Pin(pin) => Some(pin),
            Holder::Lease(_) => None,
        });
        let mut why = if is_leased { Why::Leased } else { Why::Cached };
        for pin in pins {
            if !is_backup(pin) {
                return Ok(Some(Why::Pinned));
            }
            why = Why::Backup;
        }
        Ok(Some(why))
    }

    fn pin_name(&self, pin: PinId) -> Result<Option<String>, Error> {
        let state = self.state();
        Ok(state.pins.get(&pin).map(|pin| match &pin.info {
            Some(info) => info.name.clone(),
            None => pin.name.clone(),
        }))
    }

    fn record(&self, events: &[(BlockId, Event)]) {
        let now = self.options.clock.now();
        let mut state = self.state();
        for (id, event) in events {
            state.counters.entry(*id).or_default().add(*event, now);
            if !state.blocks.contains_key(id) && !state.gone_since.contains_key(id) {
                state.note_gone(*id, self.options.max_gone_stats);
            }
        }
    }

    fn remove(&self, id: BlockId) -> Result<bool, Error> {
        let mut state = self.state();
        if !state.blocks.contains_key(&id) {
            return Ok(false);
        }
        if state.refs.contains_key(&id) {
            let (pins, leases) = state.holders(&id);
            return Err(Error::Held { id, pins, leases });
        }
        Ok(self.drop_block(&mut state, id))
    }

    fn discard(&self, id: BlockId) -> Result<bool, Error> {
        Ok(self.drop_block(&mut self.state(), id))
    }

    fn remove_corrupt(&self, id: BlockId) -> Result<bool, Error> {
        let Err(Error::Corrupt { .. }) = self.get_verified(id) else {
            return Ok(false);
        };
        let mut state = self.state();
        let removed = self.drop_block(&mut state, id);
        state.usage.corrupt += u64::from(removed);
        Ok(removed)
    }

    fn lost(&self, after: Option<BlockId>, limit: usize) -> Result<Vec<BlockId>, Error> {
        let state = self.state();
        let ids = state.refs.range(above(after)).map(|(id, _)| *id);
        Ok(ids
            .filter(|id| !state.blocks.contains_key(id))
            .take(limit)
            .collect())
    }

    fn begin_pin(&self, name: &str) -> Result<PinId, Error> {
        let mut state = self.state();
        if state.pins.len() >= MAX_PINS {
            return Err(Error::TooManyPins);
        }
        let pin = PinId(state.number());
        let begun = Pin {
            name: name[..name.floor_char_boundary(MAX_PIN_NAME_BYTES)].to_owned(),
            ..Pin::default()
        };
        state.pins.insert(pin, begun);
        state.usage.pins += 1;
        Ok(pin)
    }

    fn add_refs(&self, pin: PinId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        let mut state = self.state();
        if !state.pins.contains_key(&pin) {
            return Err(Error::NoSuchPin(pin));
        }
        let mut absent = Vec::new();
        for id in ids {
            if state.blocks.contains_key(id) {
                state.add_ref(pin.into(), *id);
            } else {
                absent.push(*id);
            }
        }
        Ok(absent)
    }

    fn finish_pin(&self, pin: PinId, info: &PinInfo) -> Result<(), Error> {
        let mut state = self.state();
        let record = state.pins.get_mut(&pin).ok_or(Error::NoSuchPin(pin))?;
        record.info = Some(info.clone().with_short_name());
        Ok(())
    }

    fn pins(&self) -> Result<Vec<(PinId, PinInfo)>, Error> {
        let state = self.state();
        let finished = |(id, pin): (&PinId, &Pin)| Some((*id, pin.info.clone()?));
        Ok(state.pins.iter().filter_map(finished).collect())
    }

    fn remove_pin(&self, pin: PinId) -> Result<u64, Error> {
        let mut state = self.state();
        let record = state.pins.remove(&pin).ok_or(Error::NoSuchPin(pin))?;
        state.usage.pins -= 1;
        Ok(state.remove_refs(pin.into(), record.blocks))
    }

    fn abandon_pin(&self, pin: PinId) -> Result<u64, Error> {
        let mut state = self.state();
        let record = state.pins.remove(&pin).ok_or(Error::NoSuchPin(pin))?;
        state.usage.pins -= 1;
        let freed = state.remove_refs(pin.into(), record.blocks.clone());
        if record.info.is_none() {
            let now = self.options.clock.now();
            for id in record.blocks {
                if state.blocks.contains_key(&id) && state.class(&id) == Class::Cached {
                    state.leftovers.insert(id, now);
                }
            }
        }
        Ok(freed)
    }

    fn leftovers(
        &self,
        before: Timestamp,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, Error> {
        let state = self.state();
        let found = state.leftovers.range(above(after));
        let found = found.filter(|(_, since)| **since <= before).take(limit);
        let size = |id| state.blocks.get(id).map_or(0, |entry| entry.bytes.len());
        Ok(found.map(|(id, _)| (*id, size(id) as u32)).collect())
    }

    fn remove_pins(
        &self,
        beside: Option<PinId>,
        chosen: &mut dyn FnMut(&PinInfo) -> bool,
    ) -> Result<RemovedPins, Error> {
        let mut state = self.state();
        let is_finished = |pin| state.pins.get(&pin).is_some_and(|pin| pin.info.is_some());
        if beside.is_some_and(|pin| !is_finished(pin)) {
            return Ok(RemovedPins::default());
        }
        let others = state.pins.iter().filter(|(pin, _)| Some(**pin) != beside);
        let going: Vec<PinId> = others
            .filter(|(_, pin)| pin.info.as_ref().is_some_and(&mut *chosen))
            .map(|(pin, _)| *pin)
            .collect();
        let mut removed = RemovedPins::default();
        for pin in going {
            let Some(record) = state.pins.remove(&pin) else {
                continue;
            };
            state.usage.pins -= 1;
            removed.pins += 1;
            removed.freed_blocks += state.remove_refs(pin.into(), record.blocks);
        }
        Ok(removed)
    }

    fn pin_blocks(
        &self,
        pin: PinId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        let state = self.state();
        let Some(record) = state.pins.get(&pin) else {
            return Ok(Vec::new());
        };
        Ok(record
            .blocks
            .range(above(after))
            .take(limit)
            .copied()
            .collect())
    }

    fn begin_lease(&self, info: &LeaseInfo) -> Result<LeaseId, Error> {
        check_terms(info)?;
        let mut state = self.state();
        if state.leases.len() >= MAX_LEASES {
            return Err(Error::TooManyLeases);
        }
        let lease = LeaseId(state.number());
        let record = Lease {
            info: info.clone(),
            blocks: BTreeSet::new(),
        };
        state.leases.insert(lease, record);
        Ok(lease)
    }

    fn add_lease_refs(&self, lease: LeaseId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        let mut state = self.state();
        if !state.leases.contains_key(&lease) {
            return Err(Error::NoSuchLease(lease));
        }
        for id in ids {
            state.add_ref(lease.into(), *id);
        }
        let absent = ids.iter().filter(|id| !state.blocks.contains_key(id));
        Ok(absent.copied().collect())
    }

    fn update_lease(&self, lease: LeaseId, info: &LeaseInfo) -> Result<(), Error> {
        check_terms(info)?;
        let mut state = self.state();
        let record = state.leases.get_mut(&lease);
        record.ok_or(Error::NoSuchLease(lease))?.info = info.clone();
        Ok(())
    }

    fn leases(&self) -> Result<Vec<(LeaseId, LeaseInfo)>, Error> {
        let state = self.state();
        let leases = state.leases.iter();
        Ok(leases
            .map(|(id, lease)| (*id, lease.info.clone()))
            .collect())
    }

    fn remove_lease(&self, lease: LeaseId) -> Result<u64, Error> {
        let mut state = self.state();
        let record = state.leases.remove(&lease);
        let record = record.ok_or(Error::NoSuchLease(lease))?;
        Ok(state.remove_refs(lease.into(), record.blocks))
    }

    fn lease_blocks(
        &self,
        lease: LeaseId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        let state = self.state();
        let blocks = state.leases.get(&lease).map(|lease| &lease.blocks);
        let blocks = blocks
            .into_iter()
            .flat_map(|blocks| blocks.range(above(after)));
        Ok(blocks.take(limit).copied().collect())
    }

    fn coldest(&self, limit: usize) -> Result<Vec<(BlockId, u32)>, Error> {
        Ok(self.state().coldest(limit, self.options.clock.now()))
    }

    fn mark_expendable(&self, ids: &[BlockId]) -> Result<usize, Error> {
        Ok(self.state().mark(ids, self.options.clock.now()))
    }

    fn usage(&self) -> Usage {
        let quota = self.quota.load(Ordering::Relaxed);
        let state = self.state();
        Usage {
            quota,
            evicts_at_bytes: quota,
            expendable_bytes: state.marks.bytes(),
            ..state.usage
        }
    }

    fn set_quota(&self, quota: ByteSize) {
        self.quota.store(quota.0, Ordering::Relaxed);
        self.records.set_quota(quota);
    }

    fn maintain(&self) -> Result<Maintained, Error> {
        let mut state = self.state();
        match self.make_room(&mut state, 0) {
            Ok(()) | Err(Error::Full { .. }) => {}
            Err(error) => return Err(error),
        }
        let State { chunks, blocks, .. } = &mut *state;
        chunks.retain(|_, place| blocks.contains_key(&place.id));
        Ok(Maintained::default())
    }

    fn records(&self) -> &RecordShelf {
        &self.records
    }
}
