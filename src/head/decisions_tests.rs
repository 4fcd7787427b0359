use data_encoding::HEXLOWER;
use proptest::prelude::*;

use super::*;
use crate::block::Link;
use crate::head::{HeadRecord, MAX_RECORD_BYTES, certify};
use crate::id::BlockId;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn machine(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + n; 32])
}

fn key(n: u8) -> MachineKey {
    machine(n).verifying_key().to_bytes()
}

/// Entry that machine `n` signs, or a thief with its key.
fn entry(n: u8, sequence: u64, log: u8) -> HeadEntry {
    let link = Link {
        id: BlockId::from_sha384([log; 48]),
        key: Key::new([log; 32]),
    };
    let certificate = certify(&owner(), &key(n));
    let owner = owner().verifying_key().to_bytes();
    HeadEntry::sign(
        &owner,
        &machine(n),
        &certificate,
        sequence,
        NOW.0,
        &link,
        &[5; 32],
    )
}

fn record(entries: &[HeadEntry]) -> HeadRecord {
    let records = entries.iter().cloned().map(HeadRecord::new);
    let merged = records.reduce(|a, b| a.merge(&b, NOW).expect("one owner"));
    merged.expect("at least one")
}

fn revocation(n: u8, made: u64, counting: &[HeadEntry]) -> Revocation {
    Revocation::sign(&owner(), key(n), Timestamp(made), counting)
}

fn handover(sequence: u64, generation: u8, machines: &[u8]) -> Handover {
    let machines = machines.iter().map(|n| key(*n));
    let secret = Key::new([generation; 32]);
    Handover::sign(&owner(), sequence, generation, &secret, machines).expect("few")
}

fn decided(record: &HeadRecord, revocations: Vec<Revocation>) -> HeadRecord {
    record.decided(&Decisions::new(revocations, None), NOW)
}

/// The attack: a stolen machine goes on signing after it was turned out, with whatever sequence and
/// time.
#[test]
fn nothing_that_a_revoked_key_signs_counts_but_what_was_known() {
    let (known, desk) = (entry(1, 3, 1), entry(2, 7, 2));
    let before = record(&[known.clone(), desk.clone()]);
    let after = decided(
        &before,
        vec![revocation(1, 9, std::slice::from_ref(&known))],
    );
    assert_eq!(after.entry(&key(1)), Some(&known));
    let forged = [
        entry(1, 4, 3),
        entry(1, 2, 3),
        entry(1, 3, 3),
        entry(1, NOW.0, 3),
    ];
    let more = record(&forged);
    for merged in [after.merge(&more, NOW), more.merge(&after, NOW)] {
        let merged = merged.expect("one owner");
        assert_eq!(merged.history(&key(1)), [&known]);
        assert_eq!(merged.entry(&key(2)), Some(&desk), "others go on");
        assert_eq!(merged.validate(&merged.id()), Ok(()));
    }
    assert!(after.has_all_of(&more) && !more.has_all_of(&after));
    // Bytes that say both are refused.
    let mut bytes = wire::Head::decode(after.encode().as_slice()).expect("a message");
    let more = wire::Head::decode(more.encode().as_slice()).expect("a message");
    let of_first = |head: &wire::Head| {
        let key = key(1);
        head.machines
            .iter()
            .position(|one| one.machine == key.as_slice())
    };
    let (at, from) = (
        of_first(&bytes).expect("there"),
        of_first(&more).expect("there"),
    );
    bytes.machines[at]
        .entries
        .extend(more.machines[from].entries.clone());
    let read = HeadRecord::decode(&bytes.encode_to_vec());
    assert!(matches!(read, Err(Error::Malformed(_))), "{read:?}");
    // Of a machine of which nothing is known nothing counts.
    let unknown = decided(&before, vec![revocation(1, 9, &[])]);
    assert_eq!(unknown.entry(&key(1)), None);
    assert_eq!(HeadRecord::decode(&unknown.encode()), Ok(unknown));
}

#[test]
fn only_the_owner_turns_machines_out() {
    let before = record(&[entry(1, 3, 1), entry(2, 7, 2)]);
    let by_machine = Revocation::sign(&machine(1), key(2), NOW, &[]);
    let forged = Handover::sign(&machine(1), 9, 9, &Key::new([9; 32]), [key(1)]).expect("few");
    for decisions in [
        Decisions::new(vec![by_machine], None),
        Decisions::new(Vec::new(), Some(forged)),
    ] {
        let merged = before.decided(&decisions, NOW);
        assert_eq!(merged.validate(&merged.id()), Err(Error::BadDecision));
    }
    let ours = decided(&before, vec![revocation(1, 9, &[])]);
    assert_eq!(ours.validate(&ours.id()), Ok(()));
    let bytes = ours.encode();
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 1;
        if let Ok(read) = HeadRecord::decode(&broken) {
            assert!(read.validate(&ours.id()).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_key_is_for_the_machines_that_stay() {
    let handover = handover(1, 3, &[2, 3]);
    let owner = owner().verifying_key().to_bytes();
    let key_of = |n| handover.open(&owner, &machine(n));
    assert_eq!(key_of(2), Some(Key::new([3; 32])));
    assert_eq!(key_of(2), key_of(3));
    assert_eq!(key_of(1), None);
    assert_eq!(handover.open(&[7; 32], &machine(2)), None, "another owner");
    // The latest counts, whoever heard what first.
    let later = self::handover(2, 4, &[2]);
    let (a, b) = (
        Decisions::new(Vec::new(), Some(handover.clone())),
        Decisions::new(Vec::new(), Some(later.clone())),
    );
    assert_eq!(a.merge(&b), b.merge(&a));
    assert_eq!(a.merge(&b).handover(), Some(&later));
    assert!(b.has_all_of(&a) && !a.has_all_of(&b));
    // Two who did not know of each other.
    let both = Decisions::new(vec![revocation(2, 1, &[])], Some(later));
    assert_eq!(both.leaked_to().collect::<Vec<_>>(), [&key(2)]);
}

#[test]
fn all_that_there_can_be_fits_into_a_record() {
    let machines = 0..super::super::MAX_MACHINES as u8;
    let many: Vec<HeadEntry> = machines.clone().map(|n| entry(n, 1, n)).collect();
    let mut all = record(&many);
    for n in 0..MAX_REVOKED as u8 {
        let counting: Vec<HeadEntry> = (0..2 * MAX_COUNTING as u64)
            .map(|s| entry(n, s, n))
            .collect();
        all = decided(&all, vec![revocation(n, u64::MAX, &counting)]);
    }
    let machines: Vec<u8> = machines.collect();
    let handed = Decisions::new(Vec::new(), Some(handover(u64::MAX, u8::MAX, &machines)));
    all = all.decided(&handed, NOW);
    for n in 20..32 {
        for sequence in 0..16 {
            all = all
                .merge(&record(&[entry(n, sequence, 9)]), NOW)
                .expect("one owner");
        }
    }
    let bytes = all.encode();
    assert!(bytes.len() <= MAX_RECORD_BYTES, "{}", bytes.len());
    assert_eq!(HeadRecord::decode(&bytes), Ok(all.clone()));
    assert_eq!(all.newest().count(), 32 - MAX_REVOKED);
    // One more than there may be: the latest stay.
    let more = decided(&all, vec![revocation(31, 1, &[])]);
    assert_eq!(more.decisions().revoked().count(), MAX_REVOKED);
    assert!(more.decisions().revocation(&key(31)).is_none());
}

/// Decisions as version 1 writes them, with all keys fixed.
#[test]
fn golden_revocation() {
    let revocation = revocation(1, 300, &[]);
    let bytes = revocation.to_wire().encode_to_vec();
    assert_eq!(HEXLOWER.encode(&bytes), GOLDEN_REVOCATION);
    let empty = Handover::sign(&owner(), 2, 3, &Key::new([3; 32]), []).expect("few");
    let bytes = empty.to_wire().encode_to_vec();
    assert_eq!(HEXLOWER.encode(&bytes), GOLDEN_HANDOVER);
}

/// Made with Python's cryptography, and protobuf by hand.
const GOLDEN_REVOCATION: &str = "0a20d62f016a1efd1e4fdf793eb42cd84471e1ba9f0cf04d1287b5cc71f616287cb810ac022240e24089e57f351afa13b6b2901b5a7b6296eb57bed85459db6523e30c52824e603102bd44939fc85b1b7ad6377e321f11c772c4534b48c22fe88071127173650a";
const GOLDEN_HANDOVER: &str = "08021003224099d16e36d8ab2aa3efef884dec9f07ee6cfbba2ea05d6cf69c846d5321badcaedfe3e098a3cff5765ca8f94099dae1ecbe107834bcf058cc8a8a27c69ce78b02";

/// One thing that comes to be known somewhere.
#[derive(Clone, Debug)]
enum Word {
    Entry {
        machine: u8,
        sequence: u64,
        log: u8,
    },
    Revoke {
        machine: u8,
        made: u64,
        counting: u64,
    },
}

fn word() -> impl Strategy<Value = Word> {
    prop_oneof![
        3 => (0u8..3, 0u64..6, 0u8..3)
            .prop_map(|(machine, sequence, log)| Word::Entry { machine, sequence, log }),
        1 => (0u8..2, 0u64..3, 0u64..6)
            .prop_map(|(machine, made, counting)| Word::Revoke { machine, made, counting }),
    ]
}

fn say(word: &Word) -> HeadRecord {
    let nothing = record(&[entry(9, 1, 1)]);
    match word {
        Word::Entry {
            machine,
            sequence,
            log,
        } => record(&[entry(*machine, *sequence, *log)]),
        Word::Revoke {
            machine,
            made,
            counting,
        } => {
            let known = entry(*machine, *counting, 0);
            decided(&nothing, vec![revocation(*machine, *made, &[known])])
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    /// Records merge in any order, and at any time by the clock: nothing of a machine that was
    /// turned out counts but what its revocation names, every other machine's newest entry is
    /// there, and all know the same decisions.
    #[test]
    fn no_revoked_key_counts_and_no_honest_entry_is_lost(
        words in proptest::collection::vec(word(), 1..14),
        turn in 0usize..14,
        late in 0u64..3,
    ) {
        let now = NOW.after(Duration::from_secs(late * 24 * 3600));
        let base = record(&[entry(9, 1, 1)]);
        // No two signings of the same are the same.
        let mut said: Vec<HeadRecord> = words.iter().map(say).collect();
        let all = |said: &[HeadRecord]| said.iter().fold(base.clone(), |known, one| {
            known.merge(one, now).expect("one owner")
        });
        let first = all(&said);
        said.rotate_left(turn % words.len());
        let second = all(&said);
        prop_assert_eq!(first.decisions(), second.decisions());
        for record in [&first, &second] {
            prop_assert_eq!(record.validate(&record.id()), Ok(()));
            let read = HeadRecord::decode(&record.encode());
            prop_assert_eq!(read.as_ref(), Ok(record));
            for entry in record.entries() {
                prop_assert!(record.decisions().counts(entry));
            }
            for n in 0..3u8 {
                let signed = words.iter().filter_map(|word| match word {
                    Word::Entry { machine, sequence, .. } if *machine == n => Some(*sequence),
                    _ => None,
                });
                if record.decisions().revocation(&key(n)).is_none() {
                    let newest = record.entry(&key(n)).map(HeadEntry::sequence);
                    prop_assert_eq!(newest, signed.max());
                }
            }
        }
    }
}
