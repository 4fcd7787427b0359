//! Values by key: head records, those that this node keeps for good and those that merely pass by.
//!
//! Values that pass by expire and are bounded, by number and by bytes, in all and for each peer
//! that brought them, so that nobody fills the disk. Values that are kept, or were put by this node
//! itself, are outside of these bounds: they are for the caller to bound.
//!
//! Peer ids cost nothing. When there is no room in all, the subnet that brought most gives way to
//! one that brought less, its farthest keys first; to others of its own only keys that are farther
//! from this node than theirs. A part of the room is for members of this node's rings, and what
//! they brought gives way to nobody else's.
//!
//! Bytes are not looked at here.

use std::sync::Arc;

use libp2p::PeerId;
use libp2p::kad::{KBucketDistance, KBucketKey};

use super::IsMember;
use super::ledger::{Account, VALUES, Writer, cost};
use super::record_store::Bounds;
use super::stored::{Value, read_value, write_value};
use super::subnet::Subnet;
use crate::time::{Clock, Timestamp};

/// Values of the subnet that brought most that go at once, so that looking for them is rare.
const GIVE_WAY: usize = 32;
/// One in so many places, and bytes, is for members alone.
const RESERVE: i64 = 8;
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
    pub(super) local: KBucketKey<PeerId>,
    pub(super) writer: Arc<Writer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bounds: Bounds,
    pub(super) is_member: IsMember,
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

    /// Stores a value, in place of what was there. One that passes by stays on the account of the
    /// peer that brought it first.
    pub(super) fn put(&self, key: &[u8], mut value: Value) -> Result<(), NotStored> {
        let before = self.writer.get(VALUES, key);
        let before = before.and_then(|bytes| read_value(bytes).ok());
        match &before {
            Some(before) if before.expires.is_some() => {
                value.publisher = before.publisher;
                value.subnet = before.subnet;
            }
            _ if value.expires.is_some() => self.check_room(key, &value)?,
            _ => {}
        }
        if value.expires.is_none() {
            value.publisher = None;
            value.subnet = Subnet::None;
        }
        let bytes = write_value(&value).into();
        if !self.writer.put(VALUES, key, Some(bytes)) {
            return Err(NotStored::Busy);
        }
        Ok(())
    }

    fn distance(&self, key: &[u8]) -> KBucketDistance {
        self.local.distance(&KBucketKey::new(key.to_vec()))
    }

    fn check_room(&self, key: &[u8], value: &Value) -> Result<(), NotStored> {
        let Some(peer) = value.publisher else {
            return Ok(());
        };
        let is_member = (self.is_member)(&peer);
        let (own, largest) = {
            let counts = self.writer.ledger.counts();
            let account = &counts.values;
            if account.of_peer(&peer) >= self.bounds.values_per_peer {
                return Err(NotStored::Full);
            }
            let bytes = cost(key, value.value.len());
            if self.fits(account, bytes, is_member) {
                return Ok(());
            }
            (account.of_subnet(&value.subnet), account.largest())
        };
        let Some((largest, count)) = largest else {
            return Err(NotStored::Full);
        };
        if is_member || count > own + 1 {
            // At most half of the difference, so that this one does not become the larger.
            let most = usize::try_from((count - own) / 2).unwrap_or(GIVE_WAY);
            self.give_way(largest, most.clamp(1, GIVE_WAY), None)
        } else {
            self.give_way(largest, 1, Some(self.distance(key)))
        }
    }

    /// Whether a value of so many bytes has room, in what is for everybody or for members.
    fn fits(&self, account: &Account, bytes: i64, is_member: bool) -> bool {
        let (most, most_bytes) = (self.bounds.values, self.writer.room().value_bytes);
        let (entries, bytes) = (account.entries, account.bytes + bytes);
        if is_member {
            return entries < most && bytes <= most_bytes;
        }
        let share = |all: i64| all - all / RESERVE;
        if entries < share(most) && bytes <= share(most_bytes) {
            return true;
        }
        // Values that members brought are on the members' part of the room.
        let peers = account.of_peer.iter();
        let of_members: i64 = peers
            .filter(|(peer, _)| (self.is_member)(peer))
            .map(|(_, count)| *count)
            .sum();
        let theirs = of_members.min(most / RESERVE);
        let their_bytes = if entries > 0 {
            (account.bytes / entries * of_members).min(most_bytes / RESERVE)
        } else {
            0
        };
        entries - theirs < share(most) && bytes - their_bytes <= share(most_bytes)
    }

    /// Removes the farthest `count` values that strangers of a subnet brought and that are farther
    /// than `beyond`.
    fn give_way(
        &self,
        subnet: Subnet,
        count: usize,
        beyond: Option<KBucketDistance>,
    ) -> Result<(), NotStored> {
        let brought = |value: &Value| {
            let is_member = value.publisher.is_some_and(|peer| (self.is_member)(&peer));
            value.expires.is_some() && value.subnet == subnet && !is_member
        };
        let mut far = Vec::new();
        self.writer.each(VALUES, PAGE, |key, bytes| {
            let distance = self.distance(&key);
            if beyond.is_none_or(|beyond| distance > beyond)
                && read_value(bytes).is_ok_and(|value| brought(&value))
            {
                far.push((distance, key));
            }
            true
        });
        far.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        // The value that waits to be written counts, not the one that it replaces: by now it may be
        // kept for good.
        let far = far.into_iter().map(|(_, key)| key);
        let still = far.filter(|key| self.get(key).is_some_and(|value| brought(&value)));
        let gone: Vec<_> = still.take(count).collect();
        gone.iter().for_each(|key| self.remove(key));
        // A value that was brought a moment ago may not be on the shelf yet.
        (!gone.is_empty()).then_some(()).ok_or(NotStored::Full)
    }

    pub(super) fn remove(&self, key: &[u8]) {
        if self.writer.get(VALUES, key).is_some() {
            self.writer.put(VALUES, key, None);
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
