//! Values by key: head records, those that this node keeps for good and those that it has for a
//! while.
//!
//! Only this node itself puts values here: how many there are is for the caller to bound. Bytes are
//! not looked at.

use std::sync::Arc;

use super::ledger::{VALUES, Writer};
use super::stored::{Value, read_value, write_value};
use crate::time::{Clock, Timestamp};

/// Entries that a look over everything reads at a time.
const PAGE: usize = 128;

/// The queue to the disk is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Busy;

/// The table of values. Cheap to clone.
#[derive(Clone)]
pub(super) struct Values {
    pub(super) writer: Arc<Writer>,
    pub(super) clock: Arc<dyn Clock>,
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

    /// Stores a value, in place of what was there.
    pub(super) fn put(&self, key: &[u8], value: &Value) -> Result<(), Busy> {
        let bytes = write_value(value).into();
        let is_queued = self.writer.put(VALUES, key, Some(bytes));
        is_queued.then_some(()).ok_or(Busy)
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
