//! What comes of leaving, counted.

use super::policy::{Entry, Stage};

/// What came of leaving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Leases that ended here: the sum of the next five.
    pub leases_ended: u64,
    /// Those that another member keeps in place of this node.
    pub leases_passed: u64,
    /// Those that as many others keep as were asked for.
    pub leases_spare: u64,
    /// Those whose blocks others have cached, and nothing more.
    pub leases_cached: u64,
    /// Those that never got whole here, so that nobody was told of a copy. Of their blocks those count that are here.
    pub leases_unfinished: u64,
    /// Those that ended by force, with blocks that nobody took.
    pub leases_dropped: u64,
    /// Leases that stay, because nobody took them or not all of their blocks.
    pub leases_kept: u64,
    /// Blocks of leases: at another node, and at none as far as is known. One in two leases counts twice.
    pub leased_safe: u64,
    /// See `leased_safe`.
    pub leased_alone: u64,
    /// Cached blocks: at another node, and at none.
    pub cached_safe: u64,
    /// See `cached_safe`.
    pub cached_alone: u64,
    /// Blocks, of both kinds, that were given to another node now.
    pub handed_over: u64,
    /// Their bytes.
    pub handed_over_bytes: u64,
}

impl Left {
    /// Whether nothing stays that only this node has.
    pub const fn is_complete(&self) -> bool {
        self.leased_alone == 0 && self.cached_alone == 0
    }

    /// Adds what came of a lease.
    pub(super) fn count(&mut self, fate: Fate, force: bool) {
        match fate {
            Fate::Passed { blocks, bytes } => {
                self.leases_passed += 1;
                self.leased_safe += blocks;
                self.handed_over += blocks;
                self.handed_over_bytes += bytes;
            }
            Fate::Spare { blocks } => {
                self.leases_spare += 1;
                self.leased_safe += blocks;
            }
            Fate::Alone { blocks } => self.leased_alone += blocks,
            Fate::Blocks(tally) => {
                self.leases_cached += u64::from(fate.may_end());
                self.leased_safe += tally.safe;
                self.leased_alone += tally.alone + tally.absent;
                self.handed(&tally);
            }
            Fate::Unfinished(tally) => {
                self.leases_unfinished += 1;
                self.leased_safe += tally.safe;
                self.leased_alone += tally.alone;
                self.handed(&tally);
            }
        }
        match (fate.may_end(), force) {
            (true, _) => self.leases_ended += 1,
            (false, true) => {
                self.leases_ended += 1;
                self.leases_dropped += 1;
            }
            (false, false) => self.leases_kept += 1,
        }
    }

    /// Adds what was given to others.
    pub(super) const fn handed(&mut self, tally: &Tally) {
        self.handed_over += tally.handed;
        self.handed_over_bytes += tally.handed_bytes;
    }
}

/// What came of some blocks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) safe: u64,
    pub(super) alone: u64,
    /// Those that are not here, so that nobody could be offered them.
    pub(super) absent: u64,
    handed: u64,
    handed_bytes: u64,
}

impl Tally {
    pub(super) const fn add(&mut self, entry: &Entry) {
        match entry.stage {
            Stage::Safe { handed } => {
                self.safe += 1;
                if handed {
                    self.handed += 1;
                    self.handed_bytes += entry.bytes as u64;
                }
            }
            _ => self.alone += 1,
        }
    }
}

/// What became of a lease.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    /// Another member keeps it now.
    Passed { blocks: u64, bytes: u64 },
    /// There are enough holders without this one.
    Spare { blocks: u64 },
    /// No member took it.
    Alone { blocks: u64 },
    /// Its blocks were offered, and no more.
    Blocks(Tally),
    /// It never got whole here. Those of its blocks that came were offered, and no more.
    Unfinished(Tally),
}

impl Fate {
    /// Whether it may end without force: others have all of it, or nobody was told that it is kept here.
    pub(super) const fn may_end(&self) -> bool {
        match self {
            Self::Passed { .. } | Self::Spare { .. } | Self::Unfinished(_) => true,
            Self::Alone { .. } => false,
            Self::Blocks(tally) => tally.alone + tally.absent == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lease_is_counted_as_what_it_is() {
        let mut left = Left::default();
        let all = Tally {
            safe: 4,
            ..Tally::default()
        };
        let some = Tally {
            safe: 1,
            alone: 3,
            ..Tally::default()
        };
        let fates = [
            Fate::Passed {
                blocks: 4,
                bytes: 40,
            },
            Fate::Spare { blocks: 4 },
            Fate::Alone { blocks: 4 },
            Fate::Blocks(all),
            Fate::Blocks(some),
            Fate::Blocks(Tally { absent: 5, ..all }),
            Fate::Unfinished(Tally { absent: 9, ..some }),
        ];
        fates.iter().for_each(|fate| left.count(*fate, false));
        assert_eq!((left.leases_ended, left.leases_kept), (4, 3));
        assert_eq!(left.leases_unfinished, 1);
        assert_eq!((left.leases_passed, left.leases_spare), (1, 1));
        assert_eq!((left.leases_cached, left.leases_dropped), (1, 0));
        assert_eq!((left.leased_safe, left.leased_alone), (18, 15));
        assert_eq!((left.handed_over, left.handed_over_bytes), (4, 40));
        assert!(!left.is_complete());
        let mut forced = Left::default();
        fates.iter().for_each(|fate| forced.count(*fate, true));
        assert_eq!((forced.leases_ended, forced.leases_kept), (7, 0));
        assert_eq!((forced.leases_cached, forced.leases_dropped), (1, 3));
        assert_eq!(forced.leases_unfinished, 1);
    }
}
