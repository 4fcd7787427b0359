//! One atomic change of the store: everything that must agree with a block is derived here, in one place.

use std::collections::{HashMap, HashSet};

use prost::Message;
use rocksdb::WriteBatch;

use super::Writer;
use super::database::Database;
use super::schema::{self, Tag};
use crate::id::BlockId;
use crate::store::counters::Counters;
use crate::store::error::Error;
use crate::store::types::{Class, Holder, Place};
use crate::time::Timestamp;
use crate::wire::store as wire;

/// Blocks that came one after the other whose dead bytes are counted together.
const BUCKET_ARRIVALS: u64 = 32;

/// The bucket of an arrival number.
pub fn bucket(arrival: u64) -> u64 {
    arrival / BUCKET_ARRIVALS
}

/// A batch under construction, and what the writer must know once it is written. Dropping it changes nothing.
pub struct Change<'a> {
    db: &'a Database,
    writer: &'a mut Writer,
    batch: WriteBatch,
    totals: wire::Totals,
    /// Blocks as this change leaves them.
    blocks: HashMap<BlockId, wire::Block>,
    /// References that this change adds.
    refs: HashSet<(Holder, BlockId)>,
    dead: Vec<(u64, i64)>,
    cached_from: u64,
    hand: u64,
}

impl<'a> Change<'a> {
    pub fn new(db: &'a Database, writer: &'a mut Writer) -> Self {
        Self::with_capacity(db, writer, 0)
    }

    /// As [`new`](Self::new), with room for `bytes` of blocks: a batch that grows block by block copies what it has each time.
    pub fn with_capacity(db: &'a Database, writer: &'a mut Writer, bytes: usize) -> Self {
        Self {
            db,
            totals: writer.totals,
            cached_from: writer.cached_from,
            hand: writer.hand,
            writer,
            batch: WriteBatch::with_capacity_bytes(bytes),
            blocks: HashMap::new(),
            refs: HashSet::new(),
            dead: Vec::new(),
        }
    }

    /// The sums as this change leaves them.
    pub fn totals(&mut self) -> &mut wire::Totals {
        &mut self.totals
    }

    /// The sums as this change leaves them, to be shown once it is written.
    pub fn totals_now(&self) -> wire::Totals {
        self.totals
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.totals.last_number += 1;
        self.totals.last_number
    }

    /// Bytes that the change adds.
    pub fn bytes(&self) -> u64 {
        self.batch.size_in_bytes() as u64
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// A block as this change leaves it; all zeros when it is unknown.
    pub fn block(&self, id: &BlockId) -> Result<wire::Block, Error> {
        if let Some(block) = self.blocks.get(id) {
            return Ok(*block);
        }
        match self.db.get(&schema::id_key(Tag::Block, id))? {
            Some(bytes) => schema::decode(&bytes, "a block"),
            None => Ok(wire::Block::default()),
        }
    }

    /// Puts a new block's bytes.
    pub fn put_bytes(&mut self, arrival: u64, bytes: &[u8]) {
        self.db.put_bytes(&mut self.batch, arrival, bytes);
    }

    pub fn put(&mut self, key: Vec<u8>, value: &[u8]) {
        self.batch.put(key, value);
    }

    pub fn delete(&mut self, key: Vec<u8>) {
        self.batch.delete(key);
    }

    /// Changes a block from what [`block`](Self::block) gave, with all that follows from it.
    pub fn set_block(&mut self, id: &BlockId, after: wire::Block) -> Result<(), Error> {
        let before = self.block(id)?;
        let moved = before.arrival != after.arrival;
        if before.is_here() {
            self.account(&before, false);
            if moved {
                self.delete(schema::number_key(Tag::Arrival, before.arrival));
                self.bury(&before);
            }
            if before.class() == Class::Cached && (moved || after.class() != Class::Cached) {
                self.delete(schema::number_key(Tag::Cached, before.arrival));
                self.forget_leftover(id)?;
            }
        }
        if after.is_here() {
            self.account(&after, true);
            if moved {
                let arrival = wire::Arrival {
                    id: id.to_multihash().into(),
                    bytes: after.bytes,
                };
                self.put(
                    schema::number_key(Tag::Arrival, after.arrival),
                    &arrival.encode_to_vec(),
                );
            }
            if after.class() == Class::Cached && (moved || before.class() != Class::Cached) {
                self.put(
                    schema::number_key(Tag::Cached, after.arrival),
                    &id.to_multihash(),
                );
                self.cached_from = self.cached_from.min(after.arrival);
                // What is not kept any more has its turn by its age. Those that were passed by since are looked at again.
                self.hand = self.hand.min(after.arrival);
            }
        }
        self.set_lost(id, &before, &after);
        match (before.is_here(), after.is_here()) {
            (false, true) => {
                self.put(schema::place_key(&Place::of(id)), &id.to_multihash());
                if self.totals.blocks == 1 {
                    // It is the first of all: no other is without its place.
                    self.put(schema::PLACES_KEY.to_vec(), &[]);
                }
            }
            (true, false) => self.delete(schema::place_key(&Place::of(id))),
            _ => {}
        }
        if after.is_here() || after.is_held() {
            self.put(schema::id_key(Tag::Block, id), &after.encode_to_vec());
        } else {
            self.delete(schema::id_key(Tag::Block, id));
        }
        self.blocks.insert(*id, after);
        Ok(())
    }

    /// A block that something keeps, or that is gone, is left over from nothing any more.
    fn forget_leftover(&mut self, id: &BlockId) -> Result<(), Error> {
        let key = schema::id_key(Tag::Leftover, id);
        // Most blocks never are: a look is cheaper than the end of a record that never was.
        if self.db.contains(&key)? {
            self.delete(key);
        }
        Ok(())
    }

    /// Notes that a cached block came for a pin that was never finished.
    pub fn leave_over(&mut self, id: &BlockId, since_ms: u64) {
        let leftover = wire::Leftover { since_ms };
        self.put(schema::id_key(Tag::Leftover, id), &leftover.encode_to_vec());
    }

    fn set_lost(&mut self, id: &BlockId, before: &wire::Block, after: &wire::Block) {
        let lost = |block: &wire::Block| !block.is_here() && block.is_held();
        match (lost(before), lost(after)) {
            (false, true) => self.put(schema::id_key(Tag::Lost, id), &[]),
            (true, false) => self.delete(schema::id_key(Tag::Lost, id)),
            _ => {}
        }
    }

    fn account(&mut self, block: &wire::Block, add: bool) {
        let totals = &mut self.totals;
        let bytes = u64::from(block.bytes);
        let change = |sum: &mut u64, by: u64| {
            *sum = if add {
                sum.saturating_add(by)
            } else {
                sum.saturating_sub(by)
            };
        };
        change(&mut totals.blocks, 1);
        change(&mut totals.block_bytes, bytes);
        match block.class() {
            Class::Pinned => change(&mut totals.pinned_bytes, bytes),
            Class::Leased => change(&mut totals.leased_bytes, bytes),
            Class::Cached => {}
        }
    }

    /// Notes that a block's bytes are of no use any more.
    fn bury(&mut self, block: &wire::Block) {
        let dead = wire::Dead { bytes: block.bytes };
        self.put(
            schema::number_key(Tag::Dead, block.arrival),
            &dead.encode_to_vec(),
        );
        self.totals.dead_bytes += u64::from(block.bytes);
        self.dead
            .push((bucket(block.arrival), i64::from(block.bytes)));
    }

    /// Notes that the space of dropped bytes is free again.
    pub fn unbury(&mut self, arrival: u64, bytes: u32) {
        self.delete(schema::number_key(Tag::Dead, arrival));
        self.totals.dead_bytes = self.totals.dead_bytes.saturating_sub(u64::from(bytes));
        self.dead.push((bucket(arrival), -i64::from(bytes)));
    }

    /// Makes a holder refer to a block that is here, lost, or yet to come. Returns whether it did not before.
    pub fn add_ref(&mut self, holder: impl Into<Holder>, id: &BlockId) -> Result<bool, Error> {
        let holder = holder.into();
        let key = schema::block_holder_key(id, holder);
        if self.refs.contains(&(holder, *id)) || self.db.contains(&key)? {
            return Ok(false);
        }
        self.add_first_ref(holder, id)?;
        Ok(true)
    }

    /// As [`add_ref`](Self::add_ref), for a block to which the holder can't refer yet: saves a look-up.
    pub fn add_first_ref(&mut self, holder: impl Into<Holder>, id: &BlockId) -> Result<(), Error> {
        let holder = holder.into();
        self.refs.insert((holder, *id));
        self.put(schema::block_holder_key(id, holder), &[]);
        self.put(schema::holder_block_key(holder, id), &[]);
        let mut block = self.block(id)?;
        match holder {
            Holder::Pin(_) => block.pins += 1,
            Holder::Lease(_) => block.leases += 1,
        }
        self.set_block(id, block)
    }

    /// Ends the reference of a holder to a block. Returns whether nothing keeps the block now, and it is here.
    pub fn remove_ref(&mut self, holder: Holder, id: &BlockId) -> Result<bool, Error> {
        self.delete(schema::block_holder_key(id, holder));
        self.delete(schema::holder_block_key(holder, id));
        let mut block = self.block(id)?;
        let count = match holder {
            Holder::Pin(_) => &mut block.pins,
            Holder::Lease(_) => &mut block.leases,
        };
        *count = count.saturating_sub(1);
        self.set_block(id, block)?;
        Ok(block.is_here() && !block.is_held())
    }

    fn stat(&self, id: &BlockId) -> Result<wire::Stat, Error> {
        match self.db.get(&schema::id_key(Tag::Stat, id))? {
            Some(bytes) => schema::decode(&bytes, "statistics"),
            None => Ok(wire::Stat::default()),
        }
    }

    /// Drops a block that is here; its references stay. At most once an id and change.
    pub fn drop_block(&mut self, id: &BlockId, now: Timestamp) -> Result<(), Error> {
        let mut block = self.block(id)?;
        block.arrival = 0;
        block.bytes = 0;
        block.added_ms = 0;
        self.set_block(id, block)?;
        let mut purged = Counters::default();
        purged.purged.add(now);
        self.count(id, &purged)
    }

    /// Adds to a block's statistics. At most once an id and change.
    pub fn count(&mut self, id: &BlockId, more: &Counters) -> Result<(), Error> {
        let stat = self.stat(id)?;
        let mut counters = schema::read_counters(&stat);
        counters.merge(more);
        let mut gone_number = stat.gone_number;
        if gone_number == 0 && !self.block(id)?.is_here() {
            gone_number = self.number();
            self.put(schema::gone_key(gone_number, id), &[]);
            self.totals.gone += 1;
        }
        let stat = schema::write_counters(&counters, gone_number);
        self.put(schema::id_key(Tag::Stat, id), &stat.encode_to_vec());
        Ok(())
    }

    /// Notes that a block with statistics may be here again.
    pub fn note_arrived(&mut self, id: &BlockId) -> Result<(), Error> {
        let mut stat = self.stat(id)?;
        if stat.gone_number != 0 {
            self.delete(schema::gone_key(stat.gone_number, id));
            self.totals.gone = self.totals.gone.saturating_sub(1);
            stat.gone_number = 0;
            self.put(schema::id_key(Tag::Stat, id), &stat.encode_to_vec());
        }
        Ok(())
    }

    /// Forgets the statistics of a block that is not here.
    pub fn forget(&mut self, number: u64, id: &BlockId) {
        self.delete(schema::gone_key(number, id));
        self.delete(schema::id_key(Tag::Stat, id));
        self.totals.gone = self.totals.gone.saturating_sub(1);
    }

    /// Writes everything at once. Returns the bytes that this added.
    pub fn commit(mut self) -> Result<u64, Error> {
        if self.batch.is_empty() {
            return Ok(0);
        }
        self.put(schema::TOTALS_KEY.to_vec(), &self.totals.encode_to_vec());
        let bytes = self.bytes();
        self.db.write(self.batch)?;
        self.writer.totals = self.totals;
        self.writer.cached_from = self.cached_from;
        self.writer.hand = self.hand;
        for (bucket, change) in self.dead {
            let dead = self.writer.dead.entry(bucket).or_default();
            *dead = dead.saturating_add_signed(change);
            if *dead == 0 {
                self.writer.dead.remove(&bucket);
            }
        }
        Ok(bytes)
    }
}
