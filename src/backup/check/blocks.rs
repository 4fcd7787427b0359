//! Single blocks: read, hashed, opened, mended; and which were looked at already.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;

use super::{CheckOptions, Wrong};
use crate::backup::archive::blocking;
use crate::backup::error::Error;
use crate::block::{self, Block, BlockSource, GetError, Link};
use crate::depot::{Depot, Session};
use crate::id::BlockId;
use crate::store::{self, Keep, Store};

/// Blocks that are remembered as looked at: as many as fit a table of 2^21 places, some 44 MB.
pub const MAX_REMEMBERED: usize = (1 << 21) / 8 * 7;
/// Of those beyond that, the latest that are remembered for a while, so that the files of one pack don't each read it.
const MAX_LATEST: usize = (1 << 16) / 8 * 7;
/// Searches in vain, one after the other, after which no more are made: peers that had blocks of these snapshots would have had some.
const MAX_IN_VAIN: u32 = 64;

/// What is wrong with a block, and whether it was made good.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) wrong: Wrong,
    pub(super) detail: String,
    pub(super) is_mended: bool,
}

/// What looking at a block gave: its plaintext if it can be had, and what was wrong with it.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) plaintext: Option<Bytes>,
    pub(super) trouble: Option<Trouble>,
}

/// Reads blocks and mends them.
pub(super) struct Blocks {
    store: Arc<dyn Store>,
    depot: Depot,
    session: Arc<Session>,
    in_vain: AtomicU32,
    read_blocks: AtomicU64,
    read_bytes: AtomicU64,
    share: Share,
}

/// A share of all blocks, the same for everybody: those whose digests lie in a window of the circle of all digests.
#[derive(Clone, Copy, Debug)]
struct Share {
    start: u64,
    /// From 0 to 2^64.
    width: u128,
}

impl Share {
    fn new(percent: f64, seed: u64) -> Self {
        let part = (percent / 100.0).clamp(0.0, 1.0);
        // A NaN becomes 0. Rounded up, so that n windows of 100/n percent leave no gap.
        let width = match part {
            1.0 => 1 << 64,
            part if part > 0.0 => ((part * 2_f64.powi(64)).ceil() as u128 + 1).min(1 << 64),
            _ => 0,
        };
        Self {
            start: seed.wrapping_mul(width as u64),
            width,
        }
    }

    fn has(&self, id: &BlockId) -> bool {
        let mut place = [0; 8];
        // Not the first bytes, which say where a block lies in stores and in the mesh.
        place.copy_from_slice(&id.digest()[16..24]);
        u128::from(u64::from_be_bytes(place).wrapping_sub(self.start)) < self.width
    }
}

/// A block as it is here.
pub(super) enum Read {
    Well(Block),
    Missing,
    /// It was damaged, and is taken out.
    Corrupt,
    /// It can't be read now, and stays: why.
    Unreadable(String),
}

/// Reads and hashes a block. A damaged one is taken out.
pub(super) fn read(store: &dyn Store, id: BlockId) -> Result<Read, Error> {
    let mut read = store.get_verified(id);
    if let Err(store::Error::Corrupt { .. }) = read {
        match store.remove_corrupt(id) {
            Ok(true) => return Ok(Read::Corrupt),
            // The way from the disk was wrong, not what is on it.
            Ok(false) => read = store.get_verified(id),
            Err(error) => read = Err(error),
        }
    }
    match read {
        Ok(Some(block)) => Ok(Read::Well(block)),
        Ok(None) => Ok(Read::Missing),
        Err(store::Error::Unreadable { source, .. }) => Ok(Read::Unreadable(source.to_string())),
        Err(error) => Err(error.into()),
    }
}

impl Blocks {
    pub(super) fn new(depot: &Depot, options: &CheckOptions) -> Self {
        Self {
            store: depot.store().clone(),
            depot: depot.clone(),
            session: depot.session(options.patience, Keep::Cached),
            in_vain: AtomicU32::new(0),
            read_blocks: AtomicU64::new(0),
            read_bytes: AtomicU64::new(0),
            share: Share::new(options.read_percent, options.seed),
        }
    }

    /// Whether a data block belongs to the share that is read.
    pub(super) fn is_to_be_read(&self, id: &BlockId) -> bool {
        self.share.has(id)
    }

    /// Blocks of which every byte was read, and their bytes.
    pub(super) fn read(&self) -> (u64, u64) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (get(&self.read_blocks), get(&self.read_bytes))
    }

    /// Reads, hashes and opens a block; fetches it first when that is needed.
    pub(super) async fn look(&self, link: &Link) -> Result<Look, Error> {
        let (store, id) = (self.store.clone(), link.id);
        let wrong = match blocking(move || read(&*store, id)).await? {
            Read::Well(block) => Ok(block),
            Read::Missing => Err(Wrong::Missing),
            Read::Corrupt => Err(Wrong::Corrupt),
            Read::Unreadable(detail) => {
                let trouble = Trouble {
                    wrong: Wrong::Unreadable,
                    detail,
                    is_mended: false,
                };
                return Ok(Look {
                    plaintext: None,
                    trouble: Some(trouble),
                });
            }
        };
        let (block, mut trouble) = match wrong {
            Ok(block) => (Some(block), None),
            Err(wrong) => {
                let (block, trouble) = self.mend(id, wrong).await?;
                (block, Some(trouble))
            }
        };
        let Some(block) = block else {
            return Ok(Look {
                plaintext: None,
                trouble,
            });
        };
        self.read_blocks.fetch_add(1, Ordering::Relaxed);
        self.read_bytes
            .fetch_add(block.bytes().len() as u64, Ordering::Relaxed);
        let key = link.key.clone();
        let opened = blocking(move || Ok(block::open(&block, &key))).await?;
        let plaintext = match opened {
            Ok(plaintext) => Some(plaintext),
            Err(error) => {
                trouble = Some(Trouble {
                    wrong: Wrong::Malformed,
                    detail: error.to_string(),
                    is_mended: false,
                });
                None
            }
        };
        Ok(Look { plaintext, trouble })
    }

    /// Which of these blocks are not here; they are fetched when they can be had.
    pub(super) async fn present(
        &self,
        ids: Vec<BlockId>,
    ) -> Result<Vec<(BlockId, Trouble)>, Error> {
        let store = self.store.clone();
        let missing = blocking(move || {
            let mut missing = Vec::new();
            for id in ids {
                if !store.has(id)? {
                    missing.push(id);
                }
            }
            Ok(missing)
        })
        .await?;
        let mut troubles = Vec::with_capacity(missing.len());
        for id in missing {
            troubles.push((id, self.mend(id, Wrong::Missing).await?.1));
        }
        Ok(troubles)
    }

    /// Fetches a block that is not here. The store gives it back to the pins that it was lost to.
    async fn mend(&self, id: BlockId, wrong: Wrong) -> Result<(Option<Block>, Trouble), Error> {
        let trouble = |detail: &str, is_mended| Trouble {
            wrong,
            detail: detail.to_owned(),
            is_mended,
        };
        if self.depot.net().peers().connected().is_empty() {
            return Ok((None, trouble("no peer is connected", false)));
        }
        if self.in_vain.load(Ordering::Relaxed) >= MAX_IN_VAIN {
            let detail = "not looked for: peers had none of many others";
            return Ok((None, trouble(detail, false)));
        }
        match self.session.get(id).await {
            Ok(block) => {
                self.in_vain.store(0, Ordering::Relaxed);
                let store = self.store.clone();
                // Without room a fetched block is not kept.
                let is_kept = blocking(move || Ok(store.has(id)?)).await?;
                let detail = if is_kept { "" } else { "no room to keep it" };
                Ok((Some(block), trouble(detail, is_kept)))
            }
            Err(GetError::Stopping) => Err(Error::Stopping),
            Err(error) => {
                self.in_vain.fetch_add(1, Ordering::Relaxed);
                Ok((None, trouble(&error.to_string(), false)))
            }
        }
    }
}

/// Which blocks were looked at, and how far into each the tree reaches.
#[derive(Default)]
pub(super) struct Seen {
    all: Ends,
    latest: Ends,
    max_all: usize,
}

/// By the first 16 bytes of a digest: enough to tell blocks apart.
type Ends = HashMap<[u8; 16], u32>;

/// The length of the plaintext is known.
const KNOWN: u32 = 1 << 31;
/// Damage of the block was reported: nothing more is said about it.
const REPORTED: u32 = 1 << 30;
/// The rest: lengths are at most those of a block.
const END: u32 = REPORTED - 1;

fn prefix(id: &BlockId) -> [u8; 16] {
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&id.digest()[..16]);
    prefix
}

/// What is known about a block when the tree refers to it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// It was not looked at.
    New,
    /// It was, or will be. `is_short`: it ends before what the tree refers to, which was not reported so far.
    Old { is_short: bool },
}

impl Seen {
    pub(super) fn new() -> Self {
        Self {
            max_all: MAX_REMEMBERED,
            ..Self::default()
        }
    }

    fn get(&mut self, id: &BlockId) -> Option<&mut u32> {
        let prefix = prefix(id);
        match self.all.get_mut(&prefix) {
            Some(end) => Some(end),
            None => self.latest.get_mut(&prefix),
        }
    }

    /// Notes that the tree refers to the first `end` bytes of a block.
    pub(super) fn see(&mut self, id: &BlockId, end: u32) -> Sight {
        if let Some(known) = self.get(id) {
            let is_short = *known & KNOWN != 0 && *known & REPORTED == 0 && *known & END < end;
            if is_short {
                *known |= REPORTED;
            } else if *known & KNOWN == 0 {
                *known = (*known & REPORTED) | (*known & END).max(end);
            }
            return Sight::Old { is_short };
        }
        let end = end.min(END);
        if self.all.len() < self.max_all {
            self.all.insert(prefix(id), end);
        } else {
            if self.latest.len() >= MAX_LATEST {
                self.latest.clear();
            }
            self.latest.insert(prefix(id), end);
        }
        Sight::New
    }

    /// Notes how long a block's plaintext is. Returns whether it is shorter than what the tree referred to so far.
    pub(super) fn learn(&mut self, id: &BlockId, len: u32) -> bool {
        let Some(known) = self.get(id) else {
            return false;
        };
        let is_short = *known & END > len;
        *known = KNOWN | len.min(END) | (*known & REPORTED);
        if is_short {
            *known |= REPORTED;
        }
        is_short
    }

    /// Notes that damage of a block was reported.
    pub(super) fn reported(&mut self, id: &BlockId) {
        if let Some(known) = self.get(id) {
            *known |= REPORTED;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u32) -> BlockId {
        Block::new(number.to_be_bytes().to_vec().into())
            .expect("a block")
            .id()
    }

    #[test]
    fn successive_shares_cover_everything_evenly() {
        for (percent, shares) in [
            (100.0, 1),
            (50.0, 2),
            (10.0, 10),
            (100.0 / 3.0, 3),
            (1.0, 100),
        ] {
            for first in [0, 7, u64::MAX - 1] {
                let mut counts = vec![0; shares];
                for number in 0..2000 {
                    let id = id(number);
                    let mut hits = 0;
                    for (seed, count) in (0..).zip(&mut counts) {
                        if Share::new(percent, u64::wrapping_add(first, seed)).has(&id) {
                            hits += 1;
                            *count += 1;
                        }
                    }
                    assert!(hits >= 1, "{percent} {number}");
                }
                let total: usize = counts.iter().sum();
                assert!(total <= 2002, "{total} in {shares} shares");
                assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
            }
        }
        assert!((0..100).all(|n| !Share::new(0.0, 3).has(&id(n))));
        assert!((0..100).all(|n| !Share::new(f64::NAN, 3).has(&id(n))));
        assert!((0..100).all(|n| !Share::new(-1.0, 3).has(&id(n))));
        assert!((0..100).all(|n| Share::new(1e9, 3).has(&id(n))));
    }

    #[test]
    fn lengths_are_held_against_what_the_tree_says_in_any_order() {
        let mut seen = Seen::new();
        assert_eq!(seen.see(&id(1), 10), Sight::New);
        assert_eq!(seen.see(&id(1), 30), Sight::Old { is_short: false });
        assert!(seen.learn(&id(1), 20), "30 are needed");
        assert_eq!(seen.see(&id(1), 40), Sight::Old { is_short: false }, "once");
        assert_eq!(seen.see(&id(2), 10), Sight::New);
        assert!(!seen.learn(&id(2), 20));
        assert_eq!(seen.see(&id(2), 20), Sight::Old { is_short: false });
        assert_eq!(seen.see(&id(2), 21), Sight::Old { is_short: true });
        assert_eq!(seen.see(&id(2), 22), Sight::Old { is_short: false }, "once");
    }

    #[test]
    fn beyond_the_limit_the_latest_are_remembered() {
        let mut seen = Seen {
            max_all: 10,
            ..Seen::default()
        };
        let first = 10 + MAX_LATEST as u32;
        for number in 0..first + 1 {
            assert_eq!(seen.see(&id(number), 1), Sight::New, "{number}");
            assert_ne!(seen.see(&id(number), 1), Sight::New, "{number}");
        }
        assert_eq!(seen.all.len(), 10);
        assert_eq!(seen.latest.len(), 1);
    }

    proptest! {
        #[test]
        fn a_short_block_is_reported_once(steps in proptest::collection::vec((any::<bool>(), 0u32..50), 1..20), len in 0u32..50) {
            let (mut seen, mut reports, mut needed, mut is_known) = (Seen::new(), 0, 0, false);
            seen.see(&id(1), 0);
            for (learn, end) in steps {
                if learn {
                    reports += u32::from(!is_known && seen.learn(&id(1), len));
                    is_known = true;
                } else {
                    needed = needed.max(end);
                    reports += u32::from(seen.see(&id(1), end) == Sight::Old { is_short: true });
                }
            }
            prop_assert_eq!(reports, u32::from(is_known && needed > len));
        }
    }
}
