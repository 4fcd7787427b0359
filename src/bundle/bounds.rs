//! Limits on what may come out of a bundle that a stranger made.
//!
//! A tree can name one directory again and again, and a file one block, so that a few kilobytes
//! become more than any disk holds; a block of a tree can be compressed a thousandfold. Output is
//! therefore held against what it is made of: bytes against distinct blocks, entries against the
//! bytes of the distinct tree blocks that name them. Beforehand the bundle's own claims are looked
//! at, which nothing that is written ever exceeds, and the room that there is.
//!
//! Pure but for [`Room::at`]. Deliberately absent: what to do about it. A person may have it
//! written all the same.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::root::Totals;
use crate::block::MAX_BLOCK_BYTES;
use crate::id::BlockId;
use crate::size::{ByteSize, GIB};

/// Entries that may always come.
pub const USUAL_ENTRIES: u64 = 20_000;
/// Further entries that a byte of a tree block accounts for. Names that are numbers, of files that
/// are alike in all else, compress to less than a byte each.
pub const ENTRIES_PER_BYTE: u64 = 2;
/// Bytes that may always come.
pub const USUAL_BYTES: u64 = GIB;
/// Times that a block may be repeated on the average beyond [`USUAL_BYTES`].
pub const USUAL_REPEATS: u64 = 64;
/// Distinct blocks that are remembered. Past that all are forgotten, and the same ones count anew.
const MAX_REMEMBERED: usize = 1 << 20;

/// Limit on the entries, or on the bytes, that may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// Anything.
    #[default]
    None,
    /// As much as the blocks account for.
    Usual,
    /// So much, and no more.
    Most(u64),
}

/// Limits on what may come out of a bundle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Everything that has a name.
    pub entries: Bound,
    /// Bytes of content.
    pub bytes: Bound,
}

/// More would come out of a bundle than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Excess {
    /// More entries than were allowed.
    Entries {
        /// Entries that there are, as far as is known.
        entries: u64,
        /// The limit.
        most: u64,
    },
    /// More bytes than were allowed.
    Bytes {
        /// Bytes that there are, as far as is known.
        bytes: u64,
        /// The limit.
        most: u64,
    },
    /// More entries than the tree blocks account for.
    Repeated {
        /// Entries so far.
        entries: u64,
        /// Bytes of the distinct tree blocks that they came from.
        tree_bytes: u64,
    },
    /// More bytes than the blocks account for.
    Inflated {
        /// Bytes so far, or claimed.
        bytes: u64,
        /// The distinct blocks that they come from.
        blocks: u64,
    },
    /// More bytes than the disk has room for.
    NoRoom {
        /// Bytes that the bundle claims to hold.
        bytes: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// More entries than the file system has room for.
    NoInodes {
        /// Entries that the bundle claims to hold.
        entries: u64,
        /// Entries that there is room for.
        free: u64,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries { entries, most } => write!(
                f,
                "the bundle holds at least {entries} files, directories and links, more than the {most} that may come"
            ),
            Self::Bytes { bytes, most } => write!(
                f,
                "the bundle holds {}, more than the {} that may come",
                ByteSize(*bytes),
                ByteSize(*most)
            ),
            Self::Repeated {
                entries,
                tree_bytes,
            } => write!(
                f,
                "{entries} files, directories and links have come out of {} and there are more: the bundle repeats itself, perhaps to fill the disk",
                ByteSize(*tree_bytes)
            ),
            Self::Inflated { bytes, blocks } => write!(
                f,
                "the bundle holds {}, which come out of {blocks} blocks of at most {}: it repeats itself, perhaps to fill the disk",
                ByteSize(*bytes),
                ByteSize(MAX_BLOCK_BYTES as u64)
            ),
            Self::NoRoom { bytes, free } => write!(
                f,
                "the bundle says that it holds {}, holes included, and {} are free",
                ByteSize(*bytes),
                ByteSize(*free)
            ),
            Self::NoInodes { entries, free } => write!(
                f,
                "the bundle says that it holds {entries} files, directories and links, and the file system has room for {free}"
            ),
        }
    }
}

impl Bounds {
    /// Limits within which a stranger's bundle is written without a question.
    pub const USUAL: Self = Self {
        entries: Bound::Usual,
        bytes: Bound::Usual,
    };

    /// Judges what a bundle claims to hold, before anything is written. `room` is where it would
    /// go, if all of it has to go there.
    ///
    /// # Errors
    /// [`Excess`].
    pub fn check_claims(&self, claims: Totals, room: Option<Room>) -> Result<(), Excess> {
        let Totals { entries, bytes, .. } = claims;
        self.check_most(entries, bytes)?;
        // Not every bundle says how many blocks it has.
        if claims.blocks > 0 {
            self.check_bytes(bytes, claims.blocks)?;
        }
        let Some(room) = room else { return Ok(()) };
        if self.bytes == Bound::Usual && bytes > room.bytes {
            let free = room.bytes;
            return Err(Excess::NoRoom { bytes, free });
        }
        match room.entries {
            Some(free) if self.entries == Bound::Usual && entries > free => {
                Err(Excess::NoInodes { entries, free })
            }
            _ => Ok(()),
        }
    }

    /// Judges the number of entries that have come so far and their bytes, which are in distinct
    /// tree blocks of `tree_bytes`.
    ///
    /// # Errors
    /// [`Excess`].
    pub fn check_entries(&self, entries: u64, bytes: u64, tree_bytes: u64) -> Result<(), Excess> {
        self.check_most(entries, bytes)?;
        let usual = USUAL_ENTRIES.saturating_add(tree_bytes.saturating_mul(ENTRIES_PER_BYTE));
        if self.entries == Bound::Usual && entries > usual {
            return Err(Excess::Repeated {
                entries,
                tree_bytes,
            });
        }
        Ok(())
    }

    /// Judges bytes that come out of so many distinct blocks.
    ///
    /// # Errors
    /// [`Excess`].
    pub fn check_bytes(&self, bytes: u64, blocks: u64) -> Result<(), Excess> {
        let accounted = blocks.saturating_mul(MAX_BLOCK_BYTES as u64);
        let usual = USUAL_BYTES.saturating_add(accounted.saturating_mul(USUAL_REPEATS));
        if self.bytes == Bound::Usual && bytes > usual {
            return Err(Excess::Inflated { bytes, blocks });
        }
        Ok(())
    }

    fn check_most(&self, entries: u64, bytes: u64) -> Result<(), Excess> {
        match (self.entries, self.bytes) {
            (Bound::Most(most), _) if entries > most => Err(Excess::Entries { entries, most }),
            (_, Bound::Most(most)) if bytes > most => Err(Excess::Bytes { bytes, most }),
            _ => Ok(()),
        }
    }
}

/// Room on a file system for a user that is not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories; `None` where the file system has no fixed number of them.
    pub entries: Option<u64>,
}

impl Room {
    /// Room where `path` is or would be. `None` when the system does not say.
    pub fn at(path: &Path) -> Option<Self> {
        let there = path.ancestors().find_map(|above| {
            let above = match above.as_os_str().is_empty() {
                true => Path::new("."),
                false => above,
            };
            rustix::fs::statvfs(above).ok()
        })?;
        Some(Self {
            bytes: there.f_bavail.saturating_mul(there.f_frsize),
            entries: (there.f_files > 0).then_some(there.f_favail),
        })
    }
}

/// Distinct blocks that something came out of, and their bytes.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// The first 16 bytes of each digest: whoever forges a collision only hides a block of his own.
    seen: Mutex<HashSet<[u8; 16]>>,
    blocks: AtomicU64,
    bytes: AtomicU64,
}

impl Origin {
    /// Counts a block unless it was counted before.
    pub(super) fn add(&self, id: &BlockId, bytes: usize) {
        let mut head = [0; 16];
        head.copy_from_slice(&id.digest()[..16]);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_REMEMBERED {
            seen.clear();
        }
        if seen.insert(head) {
            self.blocks.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.load(Ordering::Relaxed)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLAIMS: Totals = Totals {
        files: 1,
        entries: 3,
        bytes: 58 * GIB,
        blocks: 2,
    };

    #[test]
    fn claims_are_held_against_blocks_and_room() {
        let plenty = Room {
            bytes: u64::MAX,
            entries: None,
        };
        let usual = Bounds::USUAL;
        assert_eq!(
            usual.check_claims(CLAIMS, Some(plenty)),
            Err(Excess::Inflated {
                bytes: 58 * GIB,
                blocks: 2
            })
        );
        let many = Totals {
            blocks: 29 * 1024,
            ..CLAIMS
        };
        assert_eq!(usual.check_claims(many, Some(plenty)), Ok(()));
        let (bytes, entries) = (58 * GIB, 3);
        let free = bytes - 1;
        let small = Room {
            bytes: free,
            entries: Some(3),
        };
        assert_eq!(
            usual.check_claims(many, Some(small)),
            Err(Excess::NoRoom { bytes, free })
        );
        let few = Room {
            bytes,
            entries: Some(2),
        };
        assert_eq!(
            usual.check_claims(many, Some(few)),
            Err(Excess::NoInodes { entries, free: 2 })
        );
        // A person said yes, or these are one's own files.
        for room in [small, few] {
            let any = Bounds::default();
            assert_eq!(any.check_claims(CLAIMS, Some(room)), Ok(()));
        }
        let nobody_counted = Totals {
            blocks: 0,
            ..CLAIMS
        };
        assert_eq!(usual.check_claims(nobody_counted, Some(plenty)), Ok(()));
    }

    #[test]
    fn limits_that_were_said_hold_alone() {
        let most = |entries, bytes| Bounds {
            entries: Bound::Most(entries),
            bytes: Bound::Most(bytes),
        };
        assert_eq!(most(3, 58 * GIB).check_claims(CLAIMS, None), Ok(()));
        assert!(most(2, 58 * GIB).check_claims(CLAIMS, None).is_err());
        assert!(most(3, 58 * GIB - 1).check_claims(CLAIMS, None).is_err());
        assert_eq!(most(9, 9).check_entries(9, 9, 0), Ok(()));
        assert!(most(9, 9).check_entries(10, 9, 1 << 30).is_err());
        assert!(most(9, 9).check_entries(9, 10, 1 << 30).is_err());
    }

    #[test]
    fn entries_are_held_against_the_tree_blocks_that_name_them() {
        let usual = Bounds::USUAL;
        assert_eq!(usual.check_entries(USUAL_ENTRIES, 0, 0), Ok(()));
        assert!(usual.check_entries(USUAL_ENTRIES + 1, 0, 0).is_err());
        // As many as the review got out of 5.6 KB.
        assert!(usual.check_entries(215_114, 0, 5_600).is_err());
        assert_eq!(usual.check_entries(1_000_000, 0, 500_000), Ok(()));
        assert_eq!(Bounds::default().check_entries(u64::MAX, 0, 0), Ok(()));
    }

    #[test]
    fn a_block_counts_once() {
        let origin = Origin::default();
        for byte in [1, 2, 1, 2] {
            origin.add(&BlockId::from_sha384([byte; 48]), 10);
        }
        assert_eq!((origin.blocks(), origin.bytes()), (2, 20));
    }

    #[test]
    fn the_room_of_a_place_that_is_not_there_is_that_of_the_place_above() {
        let dir = tempfile::tempdir().expect("a directory");
        let room = Room::at(&dir.path().join("a/b")).expect("known");
        assert!(room.bytes > 0);
    }
}
