//! Releases that are passed on, as the leases were that they end: each holder that ended a lease tells the members that it meets, until the lease would have
//! been over anyway. Who has it ends it, and tells others in turn; who has not says so, and that was all.
//!
//! A release is protected by its signature: whoever brings it, however often, it ends the same lease once. Pure.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::Key;
use crate::lease::Release;
use crate::net::replica::{Answer, Refusal};
use crate::time::Timestamp;

/// Most releases that are passed on at the same time. Past that the one whose lease would be over soonest is not any more.
pub(super) const MAX_FORWARDED: usize = 512;
/// Most peers that are told of one release.
pub(super) const MAX_TOLD: usize = 256;
/// Most releases that one peer is told of in one round.
pub(super) const MAX_AT_ONCE: usize = 64;
/// How often a peer is told of a release that it refuses: it may count the lease's minimum from later on.
pub(super) const MAX_TRIES: u8 = 96;

struct Forward {
    release: Release,
    /// When the lease would be over.
    until: Timestamp,
    /// How often each peer was told of it and refused; the most of it for those that need not be told again.
    told: BTreeMap<PeerId, u8>,
}

/// Releases that are passed on, by what they end; a lease may be called as all of an owner's are.
#[derive(Default)]
pub(in crate::upkeep::holder) struct Forwards(BTreeMap<(Key, u8), Forward>);

fn key_of(release: &Release) -> (Key, u8) {
    let key = (*release.owner(), *release.name());
    (key, release.extent().code())
}

impl Forwards {
    /// Passes one on from now on. One that is passed on already is for longer, if it ended a lease that lasts longer.
    pub(in crate::upkeep::holder) fn add(&mut self, release: Release, until: Timestamp) {
        let key = key_of(&release);
        if let Some(known) = self.0.get_mut(&key)
            && known.release.sequence() >= release.sequence()
        {
            if known.release == release {
                known.until = known.until.max(until);
            }
            return;
        }
        let forward = Forward {
            release,
            until,
            told: BTreeMap::new(),
        };
        self.0.insert(key, forward);
        if self.0.len() > MAX_FORWARDED {
            let soonest = self.0.iter().min_by_key(|(_, forward)| forward.until);
            if let Some(key) = soonest.map(|(key, _)| *key) {
                self.0.remove(&key);
            }
        }
    }

    /// What a peer is to be told now. What it refused is among it only if it is to be told `again`.
    pub(in crate::upkeep::holder) fn due(&self, peer: PeerId, again: bool) -> Vec<Release> {
        let is_due = |forward: &&Forward| match forward.told.get(&peer) {
            None => forward.told.len() < MAX_TOLD,
            Some(tries) => again && *tries < MAX_TRIES,
        };
        let due = self.0.values().filter(is_due).take(MAX_AT_ONCE);
        due.map(|forward| forward.release.clone()).collect()
    }

    /// What a peer said. Returns whether it can be told more now.
    pub(in crate::upkeep::holder) fn told(
        &mut self,
        peer: PeerId,
        release: &Release,
        answer: &Answer,
    ) -> bool {
        let Some(forward) = self.0.get_mut(&key_of(release)) else {
            return true;
        };
        let tries = forward.told.get(&peer).copied().unwrap_or(0);
        let tries = match answer {
            Answer::Refused(Refusal::Busy) => return false,
            Answer::State(_) | Answer::Refused(Refusal::Unknown) => MAX_TRIES,
            _ => tries.saturating_add(1).min(MAX_TRIES),
        };
        if forward.told.len() < MAX_TOLD || forward.told.contains_key(&peer) {
            forward.told.insert(peer, tries);
        }
        true
    }

    /// Passes those on no more whose leases would be over.
    pub(in crate::upkeep::holder) fn forget(&mut self, now: Timestamp) {
        self.0.retain(|_, forward| forward.until >= now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Extent;
    use crate::net::replica::State;
    use ed25519_dalek::SigningKey;

    fn release(name: u16, sequence: u64) -> Release {
        let owner = SigningKey::from_bytes(&[1; 32]);
        let mut of = [0; 16];
        of[..2].copy_from_slice(&name.to_be_bytes());
        Release::by_owner(&owner, of, sequence, Timestamp(1))
    }

    const DONE: Answer = Answer::Refused(Refusal::Unknown);

    #[test]
    fn everybody_is_told_once_and_who_refuses_a_few_times_more() {
        let mut forwards = Forwards::default();
        let one = release(1, 5);
        forwards.add(one.clone(), Timestamp(100));
        let (a, b, c) = (PeerId::random(), PeerId::random(), PeerId::random());
        assert_eq!(forwards.due(a, false), std::slice::from_ref(&one));
        assert!(forwards.told(a, &one, &Answer::State(State::default())));
        assert!(forwards.told(b, &one, &DONE));
        // The same release again, or an older one, begins nothing anew.
        forwards.add(one.clone(), Timestamp(100));
        forwards.add(release(1, 4), Timestamp(100));
        for again in [true, false] {
            assert!(forwards.due(a, again).is_empty() && forwards.due(b, again).is_empty());
        }
        assert!(!forwards.told(c, &one, &Answer::Refused(Refusal::Busy)));
        assert_eq!(
            forwards.due(c, false),
            std::slice::from_ref(&one),
            "it was not heard"
        );
        for _ in 0..MAX_TRIES {
            assert_eq!(forwards.due(c, true), std::slice::from_ref(&one));
            forwards.told(c, &one, &Answer::Refused(Refusal::Invalid));
            assert!(forwards.due(c, false).is_empty());
        }
        assert!(forwards.due(c, true).is_empty());
        // A newer one is another one.
        let newer = release(1, 6);
        forwards.add(newer.clone(), Timestamp(100));
        assert_eq!(forwards.due(a, false), [newer]);
        forwards.forget(Timestamp(100));
        assert!(!forwards.due(a, false).is_empty());
        forwards.forget(Timestamp(101));
        assert!(forwards.due(a, false).is_empty());
    }

    #[test]
    fn what_comes_again_is_passed_on_for_as_long_as_the_longest_needs() {
        let mut forwards = Forwards::default();
        let (one, peer) = (release(1, 5), PeerId::random());
        forwards.add(one.clone(), Timestamp(100));
        forwards.told(peer, &one, &DONE);
        for until in [200, 150] {
            forwards.add(one.clone(), Timestamp(until));
        }
        // Of an older one the lease is not the same.
        forwards.add(release(1, 4), Timestamp(300));
        assert!(forwards.due(peer, true).is_empty(), "it was told");
        let other = PeerId::random();
        forwards.forget(Timestamp(200));
        assert_eq!(forwards.due(other, false), [one]);
        forwards.forget(Timestamp(201));
        assert!(forwards.due(other, false).is_empty());
    }

    #[test]
    fn a_lease_that_is_called_as_all_are_holds_up_nothing() {
        let owner = SigningKey::from_bytes(&[1; 32]);
        let narrow = release(0, u64::MAX);
        let wide = Release::of_many(&owner, Extent::Everything, Timestamp(5));
        assert_eq!(narrow.name(), wide.name());
        let mut forwards = Forwards::default();
        for one in [&narrow, &wide] {
            forwards.add(one.clone(), Timestamp(100));
        }
        let peer = PeerId::random();
        assert_eq!(forwards.due(peer, false), [narrow.clone(), wide.clone()]);
        forwards.told(peer, &narrow, &DONE);
        assert_eq!(forwards.due(peer, false), [wide]);
    }

    #[test]
    fn bounds_hold() {
        let mut forwards = Forwards::default();
        let most = MAX_FORWARDED as u16;
        for name in 0..=most {
            forwards.add(release(name, 1), Timestamp(1000 - u64::from(name)));
        }
        assert_eq!(forwards.0.len(), MAX_FORWARDED);
        let key = |name| key_of(&release(name, 1));
        assert!(
            !forwards.0.contains_key(&key(most)),
            "it would be over first"
        );
        assert_eq!(forwards.due(PeerId::random(), false).len(), MAX_AT_ONCE);
        let one = release(0, 1);
        for _ in 0..MAX_TOLD {
            forwards.told(PeerId::random(), &one, &DONE);
        }
        let late = PeerId::random();
        assert!(!forwards.due(late, false).contains(&one));
        forwards.told(late, &one, &DONE);
        assert_eq!(forwards.0[&key(0)].told.len(), MAX_TOLD);
    }
}
