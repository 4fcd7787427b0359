//! The blocks that are here in the order of their places in the keyspace of the DHT, and why each
//! is here. [`Change`] keeps the index; stores of earlier versions get it while they are looked
//! after.

use super::change::Change;
use super::schema::{self, PLACES_KEY, Tag};
use super::{RocksStore, lock};
use crate::id::BlockId;
use crate::store::error::Error;
use crate::store::types::{Holder, PinId, Place, Why};
use crate::wire::store as wire;

/// Blocks that are put into the index as one change.
const BATCH_PLACES: usize = 2048;

impl RocksStore {
    pub(super) fn placed_blocks(
        &self,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<(Place, BlockId)>, Error> {
        let mut found = Vec::new();
        if limit == 0 {
            return Ok(found);
        }
        let start = after.map_or_else(
            || Tag::Place.start(),
            |place| {
                let mut key = schema::place_key(&place);
                key.push(0);
                key
            },
        );
        self.db.scan(start, Tag::Place.end(), |key, value| {
            found.push((schema::place_of_key(key)?, schema::read_id(value)?));
            Ok(found.len() < limit)
        })?;
        Ok(found)
    }

    pub(super) fn why_here(
        &self,
        id: BlockId,
        is_backup: &mut dyn FnMut(PinId) -> bool,
    ) -> Result<Option<Why>, Error> {
        let Some(block) = self.block_record(&id)?.filter(wire::Block::is_here) else {
            return Ok(None);
        };
        if block.pins == 0 {
            let leased = block.leases > 0;
            return Ok(Some(if leased { Why::Leased } else { Why::Cached }));
        }
        let mut why = Why::Backup;
        let prefix = schema::holders_prefix(&id);
        let end = schema::prefix_end(&prefix);
        self.db.scan(prefix, end, |key, _| {
            if let Some((_, Holder::Pin(pin))) = schema::block_and_holder_of_key(key)
                && !is_backup(pin)
            {
                why = Why::Pinned;
            }
            Ok(why == Why::Backup)
        })?;
        Ok(Some(why))
    }

    pub(super) fn name_of_pin(&self, pin: PinId) -> Result<Option<String>, Error> {
        let Some(bytes) = self.db.get(&schema::number_key(Tag::Pin, pin.0))? else {
            return Ok(None);
        };
        let record: wire::Pin = schema::decode(&bytes, "a pin")?;
        let is_going = record.state() == wire::pin::State::Removing;
        Ok((!is_going).then_some(record.name))
    }

    pub(super) fn has_all_places(&self) -> Result<bool, Error> {
        Ok(lock(&self.shown).blocks == 0 || self.db.contains(PLACES_KEY)?)
    }

    /// Puts some more blocks into the index, if it is not whole. Returns whether there is more to
    /// do.
    pub(super) fn find_places(&self) -> Result<bool, Error> {
        if self.has_all_places()? {
            return Ok(false);
        }
        let mut writer = self.writer();
        let after = *lock(&self.placed);
        // Under the writer's lock, so that what is read is as it is.
        let blocks = self.list_blocks(after, BATCH_PLACES)?;
        let mut change = Change::new(&self.db, &mut writer);
        for (id, _) in &blocks {
            change.put(schema::place_key(&Place::of(id)), &id.to_multihash());
        }
        let is_last = blocks.len() < BATCH_PLACES;
        if is_last {
            change.put(PLACES_KEY.to_vec(), &[]);
        }
        self.commit(change)?;
        if let Some((last, _)) = blocks.last() {
            *lock(&self.placed) = Some(*last);
        }
        Ok(!is_last)
    }
}
