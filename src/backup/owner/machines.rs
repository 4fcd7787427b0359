//! Turning machines out, and handing keys over: what the owner's words sign about its machines.

use std::collections::BTreeSet;

use super::error::Error;
use super::generation::LAST_GENERATION;
use super::keys::{MachineId, OwnerKeys};
use crate::head::{
    Decisions, Handover, HeadEntry, HeadRecord, MAX_COUNTING, MAX_REVOKED, Revocation,
};
use crate::time::Timestamp;

impl OwnerKeys {
    /// Turns a machine out, and hands the key of a new generation over to all others that the head
    /// names.
    ///
    /// # Errors
    /// [`Error::TooManyRevoked`], [`Error::NoGenerationLeft`], [`Error::Head`].
    pub fn turn_out(
        &self,
        head: &HeadRecord,
        machine: &MachineId,
        now: Timestamp,
    ) -> Result<Decisions, Error> {
        let known = head.decisions();
        let before = known.revocation(machine.as_bytes());
        if before.is_none() && known.revoked().count() >= MAX_REVOKED {
            return Err(Error::TooManyRevoked { max: MAX_REVOKED });
        }
        // Whose words are typed twice does not take back what counted the first time.
        let revocations = match before {
            Some(_) => Vec::new(),
            None => {
                let counting = counting(&head.history(machine.as_bytes()));
                let (key, machine) = (self.signing_key(), *machine.as_bytes());
                vec![Revocation::sign(key, machine, now, counting)]
            }
        };
        let decided = head.decided(&Decisions::new(revocations.clone(), None), now);
        let handover = self.handover(&decided, None, true)?;
        Ok(Decisions::new(revocations, Some(handover)))
    }

    /// Hands the present key over to a machine that does not have it; where a machine has it that
    /// was turned out, that of a new generation to all.
    ///
    /// # Errors
    /// As [`turn_out`](Self::turn_out).
    pub fn hand_over(&self, head: &HeadRecord, machine: &MachineId) -> Result<Decisions, Error> {
        let is_leaked = head.decisions().leaked_to().next().is_some();
        let handover = self.handover(head, Some(machine), is_leaked)?;
        Ok(Decisions::new(Vec::new(), Some(handover)))
    }

    fn handover(
        &self,
        head: &HeadRecord,
        also: Option<&MachineId>,
        is_new: bool,
    ) -> Result<Handover, Error> {
        let decisions = head.decisions();
        let step = u8::from(is_new);
        let generation = decisions.generation().checked_add(step);
        // The last key is that of the words: no machine may have it.
        let generation = generation
            .filter(|generation| *generation < LAST_GENERATION)
            .ok_or(Error::NoGenerationLeft)?;
        let sequence = decisions.handover().map_or(0, Handover::sequence);
        let sequence = sequence.checked_add(1).ok_or(Error::NoGenerationLeft)?;
        let mut machines: BTreeSet<[u8; 32]> =
            head.newest().map(|entry| *entry.machine()).collect();
        machines.extend(
            decisions
                .handover()
                .into_iter()
                .flat_map(Handover::machines),
        );
        machines.extend(also.map(MachineId::as_bytes));
        machines.retain(|machine| decisions.revocation(machine).is_none());
        let key = self.generation(generation);
        let (owner, key) = (self.signing_key(), key.key());
        Ok(Handover::sign(owner, sequence, generation, key, machines)?)
    }
}

/// The entries of a machine that go on counting, of its history from the newest on: half of them
/// the newest, the others from the time before. A thief of the machine may have written the newest.
fn counting<'a>(history: &[&'a HeadEntry]) -> Vec<&'a HeadEntry> {
    let newest = MAX_COUNTING / 2;
    if history.len() <= MAX_COUNTING {
        return history.to_vec();
    }
    let (first, rest) = history.split_at(newest);
    let step = rest.len() / (MAX_COUNTING - newest);
    let before = rest.iter().step_by(step.max(1)).take(MAX_COUNTING - newest);
    first.iter().chain(before).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::owner::{GenerationKey, Membership, Phrase};
    use crate::block::Link;
    use crate::crypto::key::Key;
    use crate::id::BlockId;

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn keys() -> OwnerKeys {
        OwnerKeys::derive(&Phrase::from_entropy([7; 16]))
    }

    fn head(members: &[&Membership], entries: u64) -> HeadRecord {
        let link = Link {
            id: BlockId::from_sha384([1; 48]),
            key: Key::new([2; 32]),
        };
        let entry = |member: &Membership, sequence| {
            HeadEntry::sign(
                member.owner().as_bytes(),
                member.machine().signing_key(),
                member.certificate(),
                sequence,
                NOW.0,
                &link,
                &[3; 32],
            )
        };
        let all = members.iter();
        let all = all.flat_map(|member| (1..=entries).map(|sequence| entry(member, sequence)));
        let records = all.map(HeadRecord::new);
        let head = records.reduce(|a, b| a.merge(&b, NOW).expect("one owner"));
        head.expect("at least one")
    }

    fn key_of(head: &HeadRecord, member: &Membership) -> Option<GenerationKey> {
        let handover = head.decisions().handover()?;
        let machine = member.machine().signing_key();
        let key = handover.open(member.owner().as_bytes(), machine)?;
        Some(GenerationKey::new(handover.generation(), key))
    }

    fn members(names: &[&str]) -> Vec<Membership> {
        let create = |name: &&str| Membership::create(&keys(), *name).expect("a name");
        names.iter().map(create).collect()
    }

    #[test]
    fn those_that_stay_get_keys_that_the_one_turned_out_can_not_make() {
        let all = members(&["desk", "laptop", "server"]);
        let [desk, laptop, server] = &all[..] else {
            panic!("three");
        };
        let mut head = head(&[desk, laptop, server], 3);
        let decisions = keys().turn_out(&head, &laptop.machine().id(), NOW);
        head = head.decided(&decisions.expect("one"), NOW);
        assert_eq!(head.validate(&head.id()), Ok(()));
        let new = key_of(&head, desk).expect("it stays");
        assert_eq!(new.number(), 1);
        assert_eq!(Some(&new), key_of(&head, server).as_ref());
        assert_eq!(key_of(&head, laptop), None);
        // The new key follows from the words, gives the key of before, and follows from nothing
        // that the laptop has.
        assert_eq!(keys().last_generation().at(1), Some(new.clone()));
        assert_eq!(new.at(0).as_ref(), Some(laptop.generation()));
        assert_eq!(laptop.generation().at(1), None);
        // A machine that comes later gets it from the words, and the laptop does not.
        let late = Membership::create(&keys(), "late").expect("a name");
        assert_eq!(key_of(&head, &late), None);
        for machine in [&late, laptop] {
            let decisions = keys().hand_over(&head, &machine.machine().id());
            head = head.decided(&decisions.expect("one"), NOW);
        }
        assert_eq!(key_of(&head, &late), Some(new.clone()));
        assert_eq!(key_of(&head, laptop), None);
        // Turned out once more: another generation, and what counted goes on.
        let counting = head.history(laptop.machine().id().as_bytes()).len();
        let decisions = keys().turn_out(&head, &laptop.machine().id(), NOW);
        head = head.decided(&decisions.expect("one"), NOW);
        assert_eq!(key_of(&head, &late).map(|key| key.number()), Some(2));
        let machine = laptop.machine().id();
        assert_eq!(head.history(machine.as_bytes()).len(), counting);
    }

    /// The words are typed in two places that don't know of each other.
    #[test]
    fn two_turned_out_at_the_same_time_are_told_and_mended() {
        let all = members(&["desk", "laptop", "phone"]);
        let [desk, laptop, phone] = &all[..] else {
            panic!("three");
        };
        let before = head(&[desk, laptop, phone], 1);
        let out = |member: &Membership| {
            let decisions = keys().turn_out(&before, &member.machine().id(), NOW);
            before.decided(&decisions.expect("one"), NOW)
        };
        let both = out(laptop).merge(&out(phone), NOW).expect("one owner");
        assert_eq!(both.decisions().revoked().count(), 2);
        assert_eq!(both.decisions().leaked_to().count(), 1);
        let decisions = keys().hand_over(&both, &desk.machine().id());
        let mended = both.decided(&decisions.expect("one"), NOW);
        assert_eq!(mended.decisions().leaked_to().count(), 0);
        assert_eq!(key_of(&mended, desk).map(|key| key.number()), Some(2));
        assert!(key_of(&mended, laptop).is_none() && key_of(&mended, phone).is_none());
    }

    #[test]
    fn of_a_long_history_the_newest_and_some_of_before_count() {
        let all = members(&["desk", "laptop"]);
        let head = head(&[&all[0], &all[1]], 14);
        let machine = all[1].machine().id();
        let decisions = keys().turn_out(&head, &machine, NOW).expect("one");
        let decided = head.decided(&decisions, NOW);
        let left = decided.history(machine.as_bytes());
        assert_eq!(left.len(), MAX_COUNTING);
        assert_eq!(left[0], head.history(machine.as_bytes())[0]);
        assert!(left[MAX_COUNTING - 1].sequence() < 7);
    }
}
