//! Pins: what is mine and stays.

use std::ops::ControlFlow;

use prost::Message;

use super::blocks::after_key;
use super::change::Change;
use super::schema::{self, Tag};
use super::{RocksStore, Writer};
use crate::id::BlockId;
use crate::store::error::Error;
use crate::store::types::{Holder, MAX_PIN_NAME_BYTES, MAX_PINS, PinId, PinInfo};
use crate::time::Timestamp;
use crate::wire::store as wire;
use crate::wire::store::pin::State;

/// References that are added or removed as one change.
pub(super) const BATCH_REFS: usize = 1024;
/// References that opening or maintaining removes at most; the rest waits for the next time.
const MAX_REFS_A_TURN: usize = 50_000;

impl Writer {
    /// # Errors
    /// [`Error::NoSuchPin`] when blocks can't be added to the pin.
    pub(super) fn check_pin(&self, pin: PinId) -> Result<(), Error> {
        match self.pins.get(&pin) {
            Some(State::Open | State::Finished) => Ok(()),
            Some(State::Removing) | None => Err(Error::NoSuchPin(pin)),
        }
    }

    fn is_being_removed(&self, holder: Holder) -> bool {
        use wire::lease::State as LeaseState;
        match holder {
            Holder::Pin(pin) => self.pins.get(&pin) == Some(&State::Removing),
            Holder::Lease(lease) => self.leases.get(&lease) == Some(&LeaseState::Removing),
        }
    }
}

/// Record of a pin that is being removed; `abandoned_ms` as the record has it.
fn removing_record(abandoned_ms: u64) -> Vec<u8> {
    let record = wire::Pin {
        state: State::Removing.into(),
        abandoned_ms,
        ..wire::Pin::default()
    };
    record.encode_to_vec()
}

impl RocksStore {
    pub(super) fn open_pin(&self, name: &str) -> Result<PinId, Error> {
        let mut writer = self.writer();
        if writer.pins.len() >= MAX_PINS {
            return Err(Error::TooManyPins);
        }
        let mut change = Change::new(&self.db, &mut writer);
        let pin = PinId(change.number());
        let record = wire::Pin {
            state: State::Open.into(),
            name: name[..name.floor_char_boundary(MAX_PIN_NAME_BYTES)].to_owned(),
            created_ms: self.options.clock.now().0,
            ..wire::Pin::default()
        };
        change.put(schema::number_key(Tag::Pin, pin.0), &record.encode_to_vec());
        change.totals().pins += 1;
        self.commit(change)?;
        writer.pins.insert(pin, State::Open);
        Ok(pin)
    }

    pub(super) fn refer(&self, pin: PinId, ids: &[BlockId]) -> Result<Vec<BlockId>, Error> {
        let mut absent = Vec::new();
        for part in ids.chunks(BATCH_REFS) {
            let mut writer = self.writer();
            writer.check_pin(pin)?;
            let mut change = Change::new(&self.db, &mut writer);
            for id in part {
                if change.block(id)?.is_here() {
                    change.add_ref(pin, id)?;
                } else {
                    absent.push(*id);
                }
            }
            self.check_room(change.bytes(), false)?;
            self.commit(change)?;
        }
        Ok(absent)
    }

    pub(super) fn write_finished(&self, pin: PinId, info: &PinInfo) -> Result<(), Error> {
        let mut writer = self.writer();
        writer.check_pin(pin)?;
        let record = schema::write_finished_pin(info.clone());
        let mut change = Change::new(&self.db, &mut writer);
        change.put(schema::number_key(Tag::Pin, pin.0), &record.encode_to_vec());
        self.commit(change)?;
        writer.pins.insert(pin, State::Finished);
        Ok(())
    }

    pub(super) fn finished_pins(&self) -> Result<Vec<(PinId, PinInfo)>, Error> {
        let mut pins = Vec::new();
        self.db
            .scan(Tag::Pin.start(), Tag::Pin.end(), |key, value| {
                let pin: wire::Pin = schema::decode(value, "a pin")?;
                if pin.state() == State::Finished {
                    let id = PinId(schema::number_of_key(key)?);
                    pins.push((id, schema::read_finished_pin(&pin)?));
                }
                Ok(true)
            })?;
        Ok(pins)
    }

    pub(super) fn blocks_of_pin(
        &self,
        pin: PinId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        if limit == 0 || !self.is_visible(pin)? {
            return Ok(Vec::new());
        }
        self.blocks_of(pin.into(), after, limit)
    }

    /// Blocks that a holder refers to.
    pub(super) fn blocks_of(
        &self,
        holder: Holder,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let prefix = schema::holder_prefix(holder);
        let start = after.map_or_else(
            || prefix.clone(),
            |id| {
                let mut key = schema::holder_block_key(holder, &id);
                key.push(0);
                key
            },
        );
        self.db.scan(start, schema::prefix_end(&prefix), |key, _| {
            found.push(schema::id_of_holder_block_key(key)?);
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// Whether a pin exists and is not being removed. Asks the index, so that a reader does not wait for the writer.
    fn is_visible(&self, pin: PinId) -> Result<bool, Error> {
        let Some(bytes) = self.db.get(&schema::number_key(Tag::Pin, pin.0))? else {
            return Ok(false);
        };
        let record: wire::Pin = schema::decode(&bytes, "a pin")?;
        Ok(record.state() != State::Removing)
    }

    /// Marks a pin as being removed: nobody sees it or adds to it any more, and a crash does not
    /// bring it back half empty. What one that was not finished leaves is noted if it is
    /// `given_up`.
    pub(super) fn start_removing(&self, pin: PinId, given_up: bool) -> Result<(), Error> {
        let mut writer = self.writer();
        writer.check_pin(pin)?;
        let is_abandoned = given_up && writer.pins.get(&pin) == Some(&State::Open);
        // 0 would say that it was not.
        let abandoned_ms = self.options.clock.now().0.max(1);
        let record = removing_record(if is_abandoned { abandoned_ms } else { 0 });
        let mut change = Change::new(&self.db, &mut writer);
        change.put(schema::number_key(Tag::Pin, pin.0), &record);
        self.commit(change)?;
        writer.pins.insert(pin, State::Removing);
        Ok(())
    }

    /// Marks the finished pins that `chosen` picks as being removed, all in one change, and returns
    /// them. With `beside`, that pin stays, and none is marked unless it is finished.
    pub(super) fn start_removing_chosen(
        &self,
        beside: Option<PinId>,
        chosen: &mut dyn FnMut(&PinInfo) -> bool,
    ) -> Result<Vec<PinId>, Error> {
        let mut writer = self.writer();
        if beside.is_some_and(|pin| writer.pins.get(&pin) != Some(&State::Finished)) {
            return Ok(Vec::new());
        }
        let others = self.finished_pins()?.into_iter();
        let going: Vec<PinId> = others
            .filter(|(pin, info)| Some(*pin) != beside && chosen(info))
            .map(|(pin, _)| pin)
            .collect();
        let mut change = Change::new(&self.db, &mut writer);
        let record = removing_record(0);
        for pin in &going {
            change.put(schema::number_key(Tag::Pin, pin.0), &record);
        }
        self.commit(change)?;
        let going_now = going.iter().map(|pin| (*pin, State::Removing));
        writer.pins.extend(going_now);
        Ok(going)
    }

    /// Removes all references of a holder that is being removed, then the holder. Returns how many blocks nothing keeps any more.
    pub(super) fn go_on_removing(&self, holder: impl Into<Holder>) -> Result<u64, Error> {
        let holder = holder.into();
        let mut freed = 0;
        let mut start = schema::holder_prefix(holder);
        while let ControlFlow::Continue(next) = self.remove_refs(holder, start, &mut freed)? {
            start = next;
        }
        Ok(freed)
    }

    /// Removes one batch of references from the key `start` on. Continues with the next key, or breaks when the holder is gone.
    pub(super) fn remove_refs(
        &self,
        holder: impl Into<Holder>,
        start: Vec<u8>,
        freed: &mut u64,
    ) -> Result<ControlFlow<(), Vec<u8>>, Error> {
        let holder = holder.into();
        let mut writer = self.writer();
        if !writer.is_being_removed(holder) {
            // Another thread that removes the same holder was faster: the holder must not be
            // counted out twice.
            return Ok(ControlFlow::Break(()));
        }
        let end = schema::prefix_end(&schema::holder_prefix(holder));
        let mut ids = Vec::new();
        self.db.scan(start, end, |key, _| {
            ids.push(schema::id_of_holder_block_key(key)?);
            Ok(ids.len() < BATCH_REFS)
        })?;
        let abandoned_ms = self.abandoned_ms(holder)?;
        let mut change = Change::new(&self.db, &mut writer);
        let mut batch_freed = 0;
        for id in &ids {
            let is_free = change.remove_ref(holder, id)?;
            batch_freed += u64::from(is_free);
            if is_free && abandoned_ms > 0 {
                change.leave_over(id, abandoned_ms);
            }
        }
        let is_last = ids.len() < BATCH_REFS;
        if is_last {
            match holder {
                Holder::Pin(pin) => {
                    change.delete(schema::number_key(Tag::Pin, pin.0));
                    let totals = change.totals();
                    totals.pins = totals.pins.saturating_sub(1);
                }
                Holder::Lease(lease) => change.delete(schema::number_key(Tag::Lease, lease.0)),
            }
        }
        self.commit(change)?;
        *freed += batch_freed;
        match ids.last() {
            Some(last) if !is_last => Ok(ControlFlow::Continue(schema::holder_block_key(
                holder, last,
            ))),
            _ => {
                match holder {
                    Holder::Pin(pin) => drop(writer.pins.remove(&pin)),
                    Holder::Lease(lease) => drop(writer.leases.remove(&lease)),
                }
                Ok(ControlFlow::Break(()))
            }
        }
    }

    /// When a pin that is being removed was given up unfinished; 0 for every other holder.
    fn abandoned_ms(&self, holder: Holder) -> Result<u64, Error> {
        let Holder::Pin(pin) = holder else {
            return Ok(0);
        };
        let Some(record) = self.db.get(&schema::number_key(Tag::Pin, pin.0))? else {
            return Ok(0);
        };
        Ok(schema::decode::<wire::Pin>(&record, "a pin")?.abandoned_ms)
    }

    pub(super) fn leftover_blocks(
        &self,
        before: Timestamp,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<(BlockId, u32)>, Error> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let start = after_key(Tag::Leftover, after);
        self.db.scan(start, Tag::Leftover.end(), |key, value| {
            let leftover: wire::Leftover = schema::decode(value, "a leftover")?;
            if leftover.since_ms <= before.0 {
                let id = schema::id_of_key(key)?;
                let bytes = self.block_record(&id)?.map_or(0, |block| block.bytes);
                found.push((id, bytes));
            }
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    /// Starts removing the pins that a process began and did not finish.
    pub(super) fn abandon_unfinished_pins(&self) -> Result<(), Error> {
        for pin in self.pins_in(State::Open) {
            tracing::info!(%pin, "dropping a pin that was not finished; its blocks stay cached");
            self.start_removing(pin, true)?;
        }
        Ok(())
    }

    /// Goes on removing pins and leases, within a bound. What is left is done the next time.
    pub(super) fn remove_holders_under_way(&self) -> Result<bool, Error> {
        let mut turns = MAX_REFS_A_TURN / BATCH_REFS;
        let mut freed = 0;
        let pins = self.pins_in(State::Removing).into_iter().map(Holder::Pin);
        let leases = self.leases_being_removed().into_iter().map(Holder::Lease);
        for holder in pins.chain(leases) {
            let mut start = schema::holder_prefix(holder);
            loop {
                if turns == 0 {
                    return Ok(true);
                }
                turns -= 1;
                match self.remove_refs(holder, start, &mut freed)? {
                    ControlFlow::Continue(next) => start = next,
                    ControlFlow::Break(()) => break,
                }
            }
        }
        Ok(false)
    }

    fn pins_in(&self, state: State) -> Vec<PinId> {
        let writer = self.writer();
        let pins = writer.pins.iter().filter(|(_, found)| **found == state);
        pins.map(|(pin, _)| *pin).collect()
    }
}
