use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::time::Timestamp;
use crate::wire::head as wire;
use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use prost::Message;
use std::time::Duration;

const ROOT: [u8; 32] = [9; 32];

fn owner(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[n; 32])
}

fn machine(n: u8) -> SigningKey {
    SigningKey::from_bytes(&[100 + n; 32])
}

fn link(n: u8) -> Link {
    Link {
        id: BlockId::from_sha384([n; 48]),
        key: Key::new([n; 32]),
    }
}

fn entry(number: u8, sequence: u64, log: u8) -> HeadEntry {
    let (owner, machine) = (owner(1), machine(number));
    let certificate = certify(&owner, &machine.verifying_key().to_bytes());
    HeadEntry::sign(
        &owner.verifying_key().to_bytes(),
        &machine,
        &certificate,
        sequence,
        sequence.saturating_add(1_000),
        &link(log),
        &sealing_key(&ROOT),
    )
}

/// An entry of a moment, as whoever has the machine's key can sign one.
fn at(number: u8, sequence: u64, time_ms: u64, log: u8) -> HeadEntry {
    let (owner, machine) = (owner(1), machine(number));
    let certificate = certify(&owner, &machine.verifying_key().to_bytes());
    HeadEntry::sign(
        &owner.verifying_key().to_bytes(),
        &machine,
        &certificate,
        sequence,
        time_ms,
        &link(log),
        &sealing_key(&ROOT),
    )
}

/// Long after the times of most entries here.
const NOW: Timestamp = Timestamp(1_000_000 * DAY_MS);

fn merge(a: &HeadRecord, b: &HeadRecord) -> HeadRecord {
    a.merge(b, NOW).expect("one owner")
}

fn record(entries: impl IntoIterator<Item = HeadEntry>) -> HeadRecord {
    let mut entries = entries.into_iter();
    let first = HeadRecord::new(entries.next().expect("one"));
    entries.fold(first, |record, entry| {
        merge(&record, &HeadRecord::new(entry))
    })
}

fn count(record: &HeadRecord) -> usize {
    record.entries().count()
}

#[test]
fn what_was_sealed_opens_with_the_owners_key_only() {
    let entry = entry(1, 5, 7);
    assert_eq!(entry.log(&sealing_key(&ROOT)), Ok(link(7)));
    assert_eq!(entry.log_id(), link(7).id);
    assert_eq!((entry.sequence(), entry.time_ms()), (5, 1_005));
    assert_eq!(entry.log(&sealing_key(&[8; 32])), Err(Error::WrongKey));
}

#[test]
fn a_record_reads_back_and_is_valid_under_its_own_key_only() {
    let record = record([entry(3, 1, 1), entry(1, 2, 2), entry(2, 3, 3)]);
    assert_eq!(count(&record), 3);
    assert!(record.entries().is_sorted_by_key(|entry| *entry.machine()));
    assert_eq!(HeadRecord::decode(&record.encode()), Ok(record.clone()));
    assert_eq!(record.validate(&record.id()), Ok(()));
    let other = head_id(&owner(2).verifying_key().to_bytes());
    assert_eq!(record.validate(&other), Err(Error::OtherOwner));
    let key = machine(2).verifying_key().to_bytes();
    assert_eq!(record.entry(&key).map(HeadEntry::sequence), Some(3));
    assert_eq!(record.entry(&[0; 32]), None);
}

#[test]
fn what_is_changed_anywhere_is_refused() {
    let record = record([entry(1, 1, 1), entry(1, 2, 2), entry(2, 3, 3)]);
    let bytes = record.encode();
    for at in 0..bytes.len() {
        for bit in [1, 0x80] {
            let mut broken = bytes.clone();
            broken[at] ^= bit;
            if let Ok(read) = HeadRecord::decode(&broken) {
                assert_eq!(read.encode(), broken);
                assert!(read.validate(&record.id()).is_err(), "byte {at}");
            }
        }
    }
    for len in 0..bytes.len() {
        let cut = HeadRecord::decode(&bytes[..len]);
        assert!(
            cut.is_err() || cut.is_ok_and(|cut| count(&cut) < 3),
            "cut at {len}"
        );
    }
}

#[test]
fn machines_of_other_owners_are_refused() {
    let (owner, machine) = (owner(1), machine(1));
    let forged = certify(&machine, &machine.verifying_key().to_bytes());
    let entry = HeadEntry::sign(
        &owner.verifying_key().to_bytes(),
        &machine,
        &forged,
        1,
        1,
        &link(1),
        &sealing_key(&ROOT),
    );
    let record = HeadRecord::new(entry);
    assert_eq!(record.validate(&record.id()), Err(Error::BadCertificate(0)));
}

#[test]
fn limits_hold() {
    let highest = |n: u8| at(n, MAX_SKEW_MS, 0, n);
    let full = record((0..MAX_MACHINES as u8).map(highest));
    assert_eq!(count(&full), MAX_MACHINES);
    assert_eq!(HeadRecord::decode(&full.encode()), Ok(full.clone()));
    let one_more = entry(MAX_MACHINES as u8, 1, 1);
    assert_eq!(
        full.with(one_more.clone(), NOW),
        Err(Error::TooManyMachines)
    );
    assert!(full.with(highest(0), NOW).is_ok());
    // Merged all the same, the machine with the lowest sequence is left out.
    assert_eq!(merge(&full, &HeadRecord::new(one_more.clone())), full);

    let mut head = wire::Head::decode(full.encode().as_slice()).expect("a message");
    let alone = HeadRecord::new(one_more).encode();
    let mut more = head.clone();
    let alone = wire::Head::decode(alone.as_slice()).expect("a message");
    more.machines.extend(alone.machines);
    more.machines.sort_by(|a, b| a.machine.cmp(&b.machine));
    let decode = |head: &wire::Head| HeadRecord::decode(&head.encode_to_vec());
    assert_eq!(decode(&more), Err(Error::TooManyMachines));
    assert_eq!(
        HeadRecord::decode(&vec![0; MAX_RECORD_BYTES + 1]),
        Err(Error::TooLarge(MAX_RECORD_BYTES + 1))
    );
    for version in [1, 3] {
        let other = wire::Head {
            version,
            ..head.clone()
        };
        assert_eq!(decode(&other), Err(Error::UnknownVersion(version)));
    }
    let mut many = head.clone();
    let first = many.machines[0].entries[0].clone();
    many.machines[0].entries = vec![first; MAX_ENTRIES];
    assert!(
        matches!(
            decode(&many),
            Err(Error::TooManyEntries | Error::TooLarge(_))
        ),
        "more than there may be"
    );
    let mut twice = head.clone();
    let first = twice.machines[0].entries[0].clone();
    twice.machines[0].entries.push(first);
    assert!(matches!(decode(&twice), Err(Error::Malformed(_))));
    head.machines.swap(0, 1);
    assert!(matches!(decode(&head), Err(Error::Malformed(_))));
    head.machines[1] = head.machines[0].clone();
    assert!(decode(&head).is_err(), "a machine comes twice");
    head.machines[1].entries.clear();
    assert!(decode(&head).is_err(), "a machine says nothing");
    head.machines.clear();
    assert!(decode(&head).is_err(), "none");
}

/// The attack: an entry above all that the machine can ever sign.
#[test]
fn a_sequence_ahead_of_its_time_is_refused() {
    let forged = |sequence: u64, time_ms: u64| {
        let bytes = HeadRecord::new(at(1, 1, time_ms, 1)).encode();
        let mut head = wire::Head::decode(bytes.as_slice()).expect("a message");
        head.machines[0].entries[0].sequence = sequence;
        HeadRecord::decode(&head.encode_to_vec())
    };
    for sequence in [MAX_SKEW_MS + 1_001, u64::MAX] {
        assert_eq!(forged(sequence, 1_000), Err(Error::AheadOfItsTime));
    }
    assert!(forged(MAX_SKEW_MS + 1_000, 1_000).is_ok());
    // Signed as it should be, it says a time that nobody takes it at.
    let late = HeadRecord::new(at(1, u64::MAX, NOW.0, 1));
    assert_eq!(late.validate(&late.id()), Ok(()));
    assert_eq!(late.clone().timely(NOW), Err(Error::FromTheFuture));
    let both = merge(&late, &HeadRecord::new(at(1, 7, NOW.0, 2)));
    let timely = both.clone().timely(NOW).expect("one is");
    assert_eq!(
        timely
            .entries()
            .map(HeadEntry::sequence)
            .collect::<Vec<_>>(),
        [7]
    );
    let machine = *late.entries().next().expect("one").machine();
    let next = |known, now| HeadRecord::next_sequence(known, &machine, now);
    assert_eq!(next(Some(&both), NOW), Ok(8));
    assert_eq!(next(None, NOW), Ok(1));
    // Nor does anything wrap around.
    assert_eq!(
        next(Some(&late), Timestamp(u64::MAX)),
        Err(Error::NoSequenceLeft)
    );
}

/// A clock that is behind holds up no machine, whatever was signed in its name.
#[test]
fn the_next_entry_is_taken_wherever_the_one_before_it_was() {
    let highest = NOW.0 + MAX_SKEW_MS + MAX_SKEW_MS;
    let before = HeadRecord::new(at(1, highest, NOW.0 + MAX_SKEW_MS, 1));
    let machine = *before.entries().next().expect("one").machine();
    let is_taken = |entry: &HeadEntry| {
        let record = HeadRecord::new(entry.clone());
        record.validate(&record.id()).is_ok()
            && record.timely(NOW.after(Duration::from_millis(1))).is_ok()
    };
    assert!(before.clone().timely(NOW).is_ok());
    for behind in [0, 1, 40 * DAY_MS, NOW.0] {
        let clock = Timestamp(NOW.0 - behind);
        // Its own entries from the future are none to such a clock, so that it begins anew; what
        // it signs is taken, and stays beside the other one.
        let next = HeadRecord::next_sequence(Some(&before), &machine, clock).expect("one");
        let entry = at(1, next, clock.0, 2);
        assert!(is_taken(&entry), "{behind}");
        let both = merge(&before, &HeadRecord::new(entry.clone()));
        assert!(both.has(&entry));
    }
}

/// The attack: whoever has copied a machine's key signs as many entries as they like, of any time.
#[test]
fn what_is_here_first_stays_whatever_a_stolen_key_signs() {
    let day = |n: u64| NOW.0 - n * DAY_MS;
    // One backup a day for 80 days, the oldest first.
    let honest: Vec<HeadEntry> = (0..80).map(|n| at(1, n + 1, day(79 - n), 1)).collect();
    let before = record(honest.clone());
    let kept: Vec<&HeadEntry> = honest.iter().filter(|entry| before.has(entry)).collect();
    assert_eq!(kept.len(), 76, "75 days and today");
    let mut flooded = before.clone();
    for n in 0..400 {
        let sequence = NOW.0 + MAX_SKEW_MS - n;
        let forged = at(1, sequence, day(n % 100), 2);
        flooded = merge(&flooded, &HeadRecord::new(forged));
    }
    for entry in kept {
        assert!(flooded.has(entry), "sequence {}", entry.sequence());
    }
    // Somebody without the key brings old entries again.
    let replayed = honest.iter().rev().fold(flooded.clone(), |record, entry| {
        merge(&record, &HeadRecord::new(entry.clone()))
    });
    assert!(replayed.has_all_of(&before) && replayed.has_all_of(&flooded));
    assert!(flooded.encode().len() <= MAX_RECORD_BYTES);
    // A month later the oldest days give way to newer ones.
    let later = NOW.after(Duration::from_secs(30 * 24 * 3600));
    let aged = flooded.merge(&before, later).expect("one owner");
    assert!(aged.entries().count() < flooded.entries().count());
}

/// However many machines there are, and whatever one of them signs: the newest of each stay.
#[test]
fn a_machine_that_floods_takes_no_place_of_others() {
    let others = record((1..MAX_MACHINES as u8).map(|n| entry(n, 3, n)));
    let mut flooded = others.clone();
    for n in 0..150 {
        flooded = merge(
            &flooded,
            &HeadRecord::new(at(0, 1 + n, NOW.0 - n * DAY_MS, 9)),
        );
    }
    assert!(flooded.has_all_of(&others));
    let bytes = flooded.encode();
    assert!(bytes.len() <= MAX_RECORD_BYTES, "{}", bytes.len());
    assert_eq!(HeadRecord::decode(&bytes), Ok(flooded));
    // With few machines there is room for the newest of all, and for more.
    let newest = |n: u8| (0..NEWEST as u64).map(move |s| at(n, 1 + s, NOW.0, n));
    let few = record((0..4).flat_map(newest));
    assert_eq!(count(&few), 4 * NEWEST);
}

#[test]
fn other_ways_to_write_a_record_are_refused() {
    let bytes = record([entry(1, 1, 1)]).encode();
    let unknown_field = [&bytes[..], &[0x28, 1]].concat();
    let version_twice = [&[0x08, 2], &bytes[..]].concat();
    let long_varint = [&[0x08, 0x82, 0], &bytes[2..]].concat();
    for other in [unknown_field, version_twice, long_varint] {
        assert!(matches!(
            HeadRecord::decode(&other),
            Err(Error::Malformed(_))
        ));
    }
}

#[test]
fn golden_names() {
    assert_eq!(
        head_id(&[0x11; 32]).to_hex(),
        "60dc21ccb06ce36fa364063850c780d46610bdcc39cad057764e7a79c37620985fcdd8031a7a74217a683f5c586d3340"
    );
    assert_eq!(
        HEXLOWER.encode(&*sealing_key(&ROOT)),
        "14e614454b8b41e6371c7277d17275ed212a3e91c20083888b40925b19079526"
    );
}

/// A record as version 2 writes it, with all keys and the nonce fixed: it reads, holds, and is
/// written in the same way.
#[test]
fn golden_record() {
    let bytes = HEXLOWER
        .decode(include_str!("golden_v2.hex").trim().as_bytes())
        .expect("hex");
    let read = HeadRecord::decode(&bytes).expect("a record");
    assert_eq!(read.validate(&read.id()), Ok(()));
    assert_eq!(read.encode(), bytes);
    assert_eq!(read.owner(), &owner(1).verifying_key().to_bytes());
    let entry = read.entries().next().expect("one");
    assert_eq!(entry.machine(), &machine(4).verifying_key().to_bytes());
    assert_eq!((entry.sequence(), entry.time_ms()), (300, 1_300));
    assert_eq!(entry.log(&sealing_key(&ROOT)), Ok(link(0x5a)));
    // Signatures are deterministic: with the same sealed key the same bytes come out.
    assert_eq!(&entry.clone().signed(&machine(4)), entry);
    let certificate = certify(&owner(1), entry.machine());
    assert_eq!(entry.certificate(), &certificate);
}

/// Entries with made-up signatures, of whatever machines and clocks: merging does not look at them.
fn unsigned() -> impl Strategy<Value = HeadEntry> {
    let time = prop_oneof![
        0..3 * DAY_MS,
        NOW.0 - 90 * DAY_MS..NOW.0 + 3 * DAY_MS,
        Just(u64::MAX),
    ];
    (0..10u8, 0..5u64, 0..3u8, time).prop_map(|(machine, sequence, log, time_ms)| {
        let entry = wire::Entry {
            sequence,
            time_ms,
            log: BlockId::from_sha384([log; 48]).to_multihash().into(),
            sealed: vec![3; SEALED_BYTES].into(),
            // No two entries have the same one.
            signature: [&[log; 32][..], &time_ms.to_be_bytes().repeat(4)]
                .concat()
                .into(),
        };
        HeadEntry::from_wire(&[7; 32], &[machine; 32], &[1; 64], &entry).expect("the right sizes")
    })
}

fn records() -> impl Strategy<Value = HeadRecord> {
    proptest::collection::vec(unsigned(), 1..60).prop_map(record)
}

/// The entries of a record, in one order.
fn set(record: &HeadRecord) -> Vec<HeadEntry> {
    let mut all: Vec<HeadEntry> = record.entries().cloned().collect();
    all.sort_by_key(|entry| {
        (
            *entry.machine(),
            entry.sequence(),
            entry.to_wire().encode_to_vec(),
        )
    });
    all
}

/// The newest entries of each machine.
fn newest(record: &HeadRecord) -> Vec<HeadEntry> {
    let machines = record.newest().map(|entry| *entry.machine());
    let all = machines.flat_map(|machine| record.history(&machine).into_iter().take(NEWEST));
    all.cloned().collect()
}

proptest! {
    /// Which entries are the newest is the same for all, whoever heard what first; and there are
    /// never more than fit.
    #[test]
    fn the_newest_know_no_order(a in records(), b in records(), c in records()) {
        prop_assert_eq!(newest(&merge(&a, &b)), newest(&merge(&b, &a)));
        let (first, last) = (merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        prop_assert_eq!(newest(&first), newest(&last));
        prop_assert_eq!(set(&merge(&a, &a)), set(&a));
        let both = merge(&a, &b);
        prop_assert_eq!(set(&merge(&both, &a)), set(&both));
        prop_assert!(both.encode().len() <= MAX_RECORD_BYTES);
        prop_assert_eq!(HeadRecord::decode(&both.encode()), Ok(both));
    }

    #[test]
    fn no_newest_entry_goes_back(a in records(), b in records()) {
        let both = merge(&a, &b);
        for entry in both.newest() {
            for known in [a.entry(entry.machine()), b.entry(entry.machine())] {
                prop_assert!(known.is_none_or(|known| known.sequence() <= entry.sequence()));
            }
        }
    }

    /// No honest snapshot is lost: what a holder has of the last 75 days stays there, whatever
    /// comes in whatever order, as long as the machine has made no newer one.
    #[test]
    fn the_first_of_each_day_outlives_whatever_comes(
        mine in proptest::collection::btree_set(0u64..75, 1..20),
        more in proptest::collection::vec(unsigned().prop_filter("one machine", |e| e.machine() == &[0; 32]), 0..4),
        floods in proptest::collection::vec((0u64..200, 1u64..100), 0..120),
    ) {
        let entry = |sequence: u64, day: u64, who: u8| {
            let entry = wire::Entry {
                sequence,
                time_ms: NOW.0 - day * DAY_MS,
                log: BlockId::from_sha384([who; 48]).to_multihash().into(),
                sealed: vec![3; SEALED_BYTES].into(),
                signature: vec![who.wrapping_add(sequence as u8); 64].into(),
            };
            HeadEntry::from_wire(&[7; 32], &[0; 32], &[1; 64], &entry).expect("the right sizes")
        };
        let honest: Vec<HeadEntry> = mine.iter().rev().zip(1..).map(|(day, n)| entry(n, *day, 0)).collect();
        let mut held = record(honest.clone());
        for other in more.into_iter().map(HeadRecord::new) {
            held = merge(&held, &other);
        }
        for (day, sequence) in floods {
            held = merge(&held, &HeadRecord::new(entry(1000 + sequence, day, 100)));
        }
        for entry in &honest {
            prop_assert!(held.has(entry));
        }
    }

    #[test]
    fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(record) = HeadRecord::decode(&bytes) {
            prop_assert_eq!(record.encode(), bytes);
        }
    }
}

#[test]
fn records_of_two_owners_do_not_merge() {
    let one = HeadRecord::new(entry(1, 1, 1));
    let (owner, machine) = (owner(2), machine(1));
    let certificate = certify(&owner, &machine.verifying_key().to_bytes());
    let other = HeadEntry::sign(
        &owner.verifying_key().to_bytes(),
        &machine,
        &certificate,
        1,
        1,
        &link(1),
        &sealing_key(&ROOT),
    );
    assert_eq!(
        one.merge(&HeadRecord::new(other.clone()), NOW),
        Err(Error::OtherOwner)
    );
    assert_eq!(one.with(other, NOW), Err(Error::OtherOwner));
}
