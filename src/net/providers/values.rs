//! Values by key: head records, those that this node keeps for good and those that merely pass by.
//!
//! What passes by expires and is bounded, in all and for each peer that brought it, so that nobody fills the disk. What is kept, or was
//! put by this node itself, is outside of these bounds: it is for the caller to bound.
//!
//! When there is no room in all, the peer that brought most gives way to one that brought less, so that a few peers can't keep
//! everybody else out.
//!
//! Bytes are not looked at here.

use std::sync::Arc;

use libp2p::PeerId;

use super::ledger::{VALUES, Writer};
use super::record_store::Bounds;
use super::stored::{Value, read_value, write_value};
use crate::time::{Clock, Timestamp};

/// Values of the peer that brought most that go at once, so that looking for them is rare.
const GIVE_WAY: usize = 32;
/// Entries that a look over everything reads at a time.
const PAGE: usize = 128;

/// Why a value was not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NotStored {
    /// There are too many, in all or of this peer.
    Full,
    /// The queue to the disk is full.
    Busy,
}

/// The table of values. Cheap to clone.
#[derive(Clone)]
pub(super) struct Values {
    pub(super) writer: Arc<Writer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bounds: Bounds,
}

impl Values {
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The value under a key, unless it has expired. Removes what can't be read.
    pub(super) fn get(&self, key: &[u8]) -> Option<Value> {
        match read_value(self.writer.get(VALUES, key)?) {
            Ok(value) => {
                Some(value).filter(|value| value.expires.is_none_or(|expires| expires > self.now()))
            }
            Err(_) => {
                self.writer.put(VALUES, key, None);
                None
            }
        }
    }

    /// Stores a value, in place of what was there. One that passes by stays on the account of the peer that brought it first.
    pub(super) fn put(&self, key: &[u8], mut value: Value) -> Result<(), NotStored> {
        let before = self.writer.get(VALUES, key);
        let before = before.and_then(|bytes| read_value(bytes).ok());
        match &before {
            Some(before) if before.expires.is_some() => value.publisher = before.publisher,
            _ if value.expires.is_some() => self.check_room(&value)?,
            _ => {}
        }
        if value.expires.is_none() {
            value.publisher = None;
        }
        let bytes = write_value(&value).into();
        if !self.writer.put(VALUES, key, Some(bytes)) {
            return Err(NotStored::Busy);
        }
        let mut counts = self.writer.ledger.counts();
        if let Some(before) = &before {
            counts.remove_value(before);
        }
        counts.add_value(&value);
        Ok(())
    }

    fn check_room(&self, value: &Value) -> Result<(), NotStored> {
        let Some(peer) = value.publisher else {
            return Ok(());
        };
        let (of_peer, largest) = {
            let counts = self.writer.ledger.counts();
            let of_peer = counts.values_of_peer.get(&peer).copied().unwrap_or(0);
            if of_peer >= self.bounds.values_per_peer {
                return Err(NotStored::Full);
            }
            if counts.values < self.bounds.values {
                return Ok(());
            }
            let largest = counts
                .values_of_peer
                .iter()
                .max_by_key(|(_, count)| **count);
            (of_peer, largest.map(|(peer, count)| (*peer, *count)))
        };
        match largest {
            // One more here and one less there must not make this one the larger.
            Some((largest, count)) if count > of_peer + 1 => {
                // At most half of the difference, for the same reason.
                let most = usize::try_from((count - of_peer) / 2).unwrap_or(GIVE_WAY);
                self.give_way(largest, most.min(GIVE_WAY))
            }
            _ => Err(NotStored::Full),
        }
    }

    fn give_way(&self, peer: PeerId, count: usize) -> Result<(), NotStored> {
        let brought = |value: &Value| value.expires.is_some() && value.publisher == Some(peer);
        let mut gone = Vec::new();
        self.writer.each(VALUES, PAGE, |key, bytes| {
            // What waits to be written counts, not what it replaces: by now it may be kept for good.
            if read_value(bytes).is_ok_and(|value| brought(&value))
                && self.get(&key).is_some_and(|value| brought(&value))
            {
                gone.push(key);
            }
            gone.len() < count
        });
        gone.iter().for_each(|key| self.remove(key));
        // What was brought a moment ago may not be on the shelf yet.
        (!gone.is_empty()).then_some(()).ok_or(NotStored::Full)
    }

    pub(super) fn remove(&self, key: &[u8]) {
        let Some(before) = self.writer.get(VALUES, key) else {
            return;
        };
        if self.writer.put(VALUES, key, None)
            && let Ok(before) = read_value(before)
        {
            self.writer.ledger.counts().remove_value(&before);
        }
    }

    /// The keys of what is kept for good; reads everything, a page at a time.
    pub(super) fn kept(&self) -> Vec<Vec<u8>> {
        let mut kept = Vec::new();
        self.writer.each(VALUES, PAGE, |key, bytes| {
            if read_value(bytes).is_ok_and(|value| value.expires.is_none()) {
                kept.push(key.to_vec());
            }
            true
        });
        kept
    }
}
