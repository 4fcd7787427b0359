//! Which of a machine's entries stay.
//!
//! Entries are in the order in which they came to be known here. Two kinds stay:
//! - the [`NEWEST`] by rank: a stranger can't make any, so that entries of old which are brought
//!   again push none of them out;
//! - of each day (by the entry's own time) the one that came first, for [`HISTORY_MS`]: whoever has
//!   copied a machine's key can make as many new ones as there is room for, of any time, and can't
//!   come before what is here already.
//!
//! When a record is too large, the machines with most entries give of theirs: the oldest days, then
//! the lowest of the newest.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{DAY_MS, HISTORY_MS, HeadEntry, MAX_MACHINES, MAX_RECORD_BYTES, NEWEST};
use crate::time::Timestamp;

/// Most bytes of one entry in a record: two numbers of ten bytes, a multihash of up to 66, the
/// sealed key, the signature, and their tags.
pub(super) const ENTRY_BYTES: usize = 2 * 11 + 68 + 62 + 66 + 3;
/// Most bytes of a machine without its entries, and of a record without its machines.
const MACHINE_BYTES: usize = 34 + 66 + 4;
const RECORD_BYTES: usize = 2 + 34;

const _: () = assert!(
    RECORD_BYTES + DECISIONS_BYTES + MAX_MACHINES * (MACHINE_BYTES + ENTRY_BYTES)
        <= MAX_RECORD_BYTES,
    "a record has room for an entry of each machine"
);

/// Most bytes of the owner's decisions.
const DECISIONS_BYTES: usize = 11 << 10;

/// Most entries of a record of so many machines, beside decisions of so many bytes.
const fn capacity(machines: usize, decisions_bytes: usize) -> usize {
    let other = RECORD_BYTES + machines * MACHINE_BYTES + decisions_bytes;
    MAX_RECORD_BYTES.saturating_sub(other) / ENTRY_BYTES
}

/// Leaves what stays of one machine's entries, of which each is there once.
pub(super) fn thin(entries: &mut Vec<HeadEntry>, now: Timestamp) {
    let newest = newest(entries);
    let mut days = BTreeSet::new();
    let mut at = 0;
    entries.retain(|entry| {
        let is_newest = newest.contains(&at);
        at += 1;
        let is_recent = entry.time_ms().saturating_add(HISTORY_MS) >= now.0;
        let is_first = is_recent && entry.is_timely(now) && days.insert(entry.time_ms() / DAY_MS);
        is_newest || is_first
    });
}

/// The places of the newest entries.
fn newest(entries: &[HeadEntry]) -> BTreeSet<usize> {
    let mut places: Vec<(usize, &HeadEntry)> = entries.iter().enumerate().collect();
    places.sort_unstable_by_key(|(_, entry)| Reverse(entry.rank()));
    let newest = places.into_iter().take(NEWEST);
    newest.map(|(at, _)| at).collect()
}

/// Makes the entries of all machines fit into one record, beside the owner's decisions. Each list
/// has at least one.
pub(super) fn fit<'a>(
    machines: impl IntoIterator<Item = &'a mut Vec<HeadEntry>>,
    decisions_bytes: usize,
) {
    let mut machines: Vec<&mut Vec<HeadEntry>> = machines.into_iter().collect();
    let most = capacity(machines.len(), decisions_bytes);
    while machines.iter().map(|entries| entries.len()).sum::<usize>() > most {
        let largest = machines.iter_mut().max_by_key(|entries| entries.len());
        let Some(entries) = largest else { return };
        let newest = newest(entries);
        let worth = |(at, entry): &(usize, &HeadEntry)| {
            (newest.contains(at), entry.time_ms(), entry.rank().0)
        };
        let least = entries.iter().enumerate().min_by_key(worth);
        let Some(least) = least.map(|(at, _)| at) else {
            return;
        };
        let least = match newest.len() == entries.len() {
            // All that is left is newest: the lowest of them, whatever time it says.
            true => lowest(entries),
            false => least,
        };
        entries.remove(least);
    }
}

fn lowest(entries: &[HeadEntry]) -> usize {
    let lowest = entries.iter().enumerate();
    let lowest = lowest.min_by_key(|(_, entry)| entry.rank());
    lowest.map_or(0, |(at, _)| at)
}
