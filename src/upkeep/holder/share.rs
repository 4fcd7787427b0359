//! A member's share of what is lent. Pure.
//!
//! Room that is lent is divided among the members: each has an equal part, and more by as much as
//! it keeps for this node in return. One part is left for a member to come, so that nobody fills
//! the disk before others have joined.
//!
//! Half of each share is kept free until its member uses it, whatever the others do. The rest goes
//! to the member that comes first: that one may borrow past its own share. Its leases are not
//! renewed then while another one lacks room for its half.
//!
//! Deliberately absent: ending what was promised. A lease ends when it said, when its owner says,
//! or when this node's person does.

use std::collections::BTreeMap;

/// The part of a share that nobody else may borrow: one in so many.
const KEPT_FREE: u64 = 2;

/// Bytes that a member takes and gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Member {
    /// Bytes that its leases take here.
    pub(super) used: u64,
    /// Bytes that it keeps for this node.
    pub(super) gives: u64,
}

/// All members, and what is lent to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares<K> {
    lent: u64,
    members: BTreeMap<K, Member>,
}

impl<K: Ord> Shares<K> {
    pub(super) const fn new(lent: u64, members: BTreeMap<K, Member>) -> Self {
        Self { lent, members }
    }

    /// Weight of a member: an equal part of what is lent, and what it gives, up to all that is
    /// lent.
    fn weight(&self, member: &Member) -> u128 {
        let parts = self.members.len() as u64 + 1;
        u128::from(self.lent / parts) + u128::from(member.gives.min(self.lent))
    }

    /// The share of a member.
    fn share(&self, member: &Member) -> u64 {
        let to_come = self.weight(&Member::default());
        let all: u128 = self.members.values().map(|one| self.weight(one)).sum();
        let all = (all + to_come).max(1);
        // No more than what is lent.
        let share = u128::from(self.lent) * self.weight(member) / all;
        u64::try_from(share).unwrap_or(self.lent)
    }

    /// Bytes that are kept free for a member, and not used by it yet.
    fn kept(&self, member: &Member) -> u64 {
        (self.share(member) / KEPT_FREE).saturating_sub(member.used)
    }

    /// Bytes that must stay free for others than this member.
    fn kept_free(&self, key: &K) -> u64 {
        let others = self.members.iter().filter(|(other, _)| *other != key);
        let others = others.map(|(_, member)| self.kept(member));
        others.fold(self.kept(&Member::default()), u64::saturating_add)
    }

    /// Bytes that a member may still take when so many of all are free.
    pub(super) fn room(&self, key: &K, free: u64) -> u64 {
        let member = self.members.get(key).copied().unwrap_or_default();
        let borrowed = free.saturating_sub(self.kept_free(key));
        self.kept(&member).max(borrowed).min(free)
    }

    /// Whether a member has more than its share while there is too little left for the others.
    pub(super) fn is_over(&self, key: &K, free: u64) -> bool {
        let member = self.members.get(key).copied().unwrap_or_default();
        member.used > self.share(&member) && free < self.kept_free(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(lent: u64, members: &[(u8, u64, u64)]) -> Shares<u8> {
        let members = members.iter().map(|(key, used, gives)| {
            (
                *key,
                Member {
                    used: *used,
                    gives: *gives,
                },
            )
        });
        Shares::new(lent, members.collect())
    }

    #[test]
    fn one_that_gives_nothing_leaves_room_for_one_that_comes_later() {
        // The member is alone, and takes what it gets.
        let alone = shares(1000, &[(1, 0, 0)]);
        let taken = alone.room(&1, 1000);
        assert_eq!(taken, 750);
        assert_eq!(shares(1000, &[(1, taken, 0)]).room(&1, 1000 - taken), 0);
        // Then another one joins.
        let both = shares(1000, &[(1, taken, 0), (2, 0, 0)]);
        assert_eq!(both.room(&2, 1000 - taken), 166);
        assert_eq!(both.room(&1, 1000 - taken), 0);
        assert!(both.is_over(&1, 0) && !both.is_over(&2, 0));
    }

    #[test]
    fn a_share_grows_with_what_is_given_in_return() {
        let gives = shares(1200, &[(1, 0, 800), (2, 0, 0)]);
        let (one, other) = (
            gives.share(&gives.members[&1]),
            gives.share(&gives.members[&2]),
        );
        assert_eq!((one, other), (720, 240));
        // More than what is lent counts as that.
        let much = shares(1200, &[(1, 0, u64::MAX), (2, 0, 0)]);
        assert_eq!(much.share(&much.members[&1]), 800);
    }

    #[test]
    fn nothing_lent_is_no_room_and_everybody_is_over() {
        let none = shares(0, &[(1, 10, 5), (2, 0, 0)]);
        assert_eq!((none.room(&1, 0), none.room(&2, 0)), (0, 0));
        assert!(!none.is_over(&2, 0));
    }

    proptest! {
        #[test]
        fn whatever_others_take_half_a_share_is_left(
            lent in 1_000_u64..1 << 50,
            gives in proptest::collection::vec(0_u64..1 << 50, 2..9),
            asks in proptest::collection::vec((0_usize..8, 0_u64..1 << 50), 0..40),
        ) {
            let mut members: Vec<(u8, u64, u64)> =
                gives.iter().enumerate().map(|(at, gives)| (at as u8, 0, *gives)).collect();
            let honest = 0;
            let mut free = lent;
            for (at, bytes) in asks {
                // All others take what they get.
                let at = 1 + at % (members.len() - 1);
                let room = shares(lent, &members).room(&(at as u8), free);
                let taken = bytes.min(room);
                members[at].1 += taken;
                free -= taken;
            }
            let all = shares(lent, &members);
            let (share, room) = (all.share(&all.members[&honest]), all.room(&honest, free));
            prop_assert!(share > 0 && room >= share / KEPT_FREE, "{room} of {share}");
        }
    }
}
