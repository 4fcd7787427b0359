use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::wire::head as wire;
use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use prost::Message;

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

fn record(entries: impl IntoIterator<Item = HeadEntry>) -> HeadRecord {
    let mut entries = entries.into_iter();
    let first = HeadRecord::new(entries.next().expect("one"));
    entries.fold(first, |record, entry| {
        record.merge(&HeadRecord::new(entry)).expect("one owner")
    })
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
    assert_eq!(record.entries().len(), 3);
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
    let record = record([entry(1, 2, 2), entry(2, 3, 3)]);
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
            cut.is_err() || cut.is_ok_and(|cut| cut.entries().len() == 1),
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
    let full = record((0..MAX_ENTRIES as u8).map(|n| entry(n, u64::MAX, n)));
    assert_eq!(full.entries().len(), MAX_ENTRIES);
    let bytes = full.encode();
    assert!(bytes.len() <= MAX_RECORD_BYTES, "{}", bytes.len());
    assert_eq!(HeadRecord::decode(&bytes), Ok(full.clone()));
    let one_more = entry(MAX_ENTRIES as u8, 1, 1);
    assert_eq!(full.with(one_more.clone()), Err(Error::TooManyMachines));
    assert!(full.with(entry(0, u64::MAX, 0)).is_ok());
    // Merged all the same, the machine with the lowest sequence is left out.
    let merged = full.merge(&HeadRecord::new(one_more.clone()));
    assert_eq!(merged, Ok(full.clone()));

    let mut head = wire::Head::decode(bytes.as_slice()).expect("a message");
    let mut more = head.clone();
    more.entries.push(one_more.to_wire());
    more.entries.sort_by(|a, b| a.machine.cmp(&b.machine));
    assert_eq!(
        HeadRecord::decode(&more.encode_to_vec()),
        Err(Error::TooManyMachines)
    );
    assert_eq!(
        HeadRecord::decode(&vec![0; MAX_RECORD_BYTES + 1]),
        Err(Error::TooLarge(MAX_RECORD_BYTES + 1))
    );
    head.version = 2;
    assert_eq!(
        HeadRecord::decode(&head.encode_to_vec()),
        Err(Error::UnknownVersion(2))
    );
    head.version = 1;
    head.entries.swap(0, 1);
    assert!(matches!(
        HeadRecord::decode(&head.encode_to_vec()),
        Err(Error::Malformed(_))
    ));
    head.entries[1] = head.entries[0].clone();
    assert!(HeadRecord::decode(&head.encode_to_vec()).is_err(), "twice");
    head.entries.clear();
    assert!(HeadRecord::decode(&head.encode_to_vec()).is_err(), "none");
}

#[test]
fn other_ways_to_write_a_record_are_refused() {
    let bytes = record([entry(1, 1, 1)]).encode();
    let unknown_field = [&bytes[..], &[0x20, 1]].concat();
    let version_twice = [&[0x08, 1], &bytes[..]].concat();
    let long_varint = [&[0x08, 0x81, 0], &bytes[2..]].concat();
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

/// A record as version 1 writes it, with all keys and the nonce fixed: it reads, holds, and is written in the same way.
#[test]
fn golden_record() {
    let bytes = HEXLOWER
        .decode(include_str!("golden_v1.hex").trim().as_bytes())
        .expect("hex");
    let read = HeadRecord::decode(&bytes).expect("a record");
    assert_eq!(read.validate(&read.id()), Ok(()));
    assert_eq!(read.encode(), bytes);
    assert_eq!(read.owner(), &owner(1).verifying_key().to_bytes());
    let entry = &read.entries()[0];
    assert_eq!(entry.machine(), &machine(4).verifying_key().to_bytes());
    assert_eq!((entry.sequence(), entry.time_ms()), (300, 1_300));
    assert_eq!(entry.log(&sealing_key(&ROOT)), Ok(link(0x5a)));
    // Signatures are deterministic: with the same sealed key the same bytes come out.
    assert_eq!(&entry.clone().signed(&machine(4)), entry);
    let certificate = certify(&owner(1), entry.machine());
    assert_eq!(entry.to_wire().certificate, certificate.as_slice());
}

/// Entries with made-up signatures: merging does not look at them.
fn unsigned() -> impl Strategy<Value = HeadEntry> {
    (0..40u8, 0..4u64, 0..3u8, 0..5u64).prop_map(|(machine, sequence, log, time_ms)| {
        let entry = wire::Entry {
            machine: vec![machine; 32].into(),
            certificate: vec![1; 64].into(),
            sequence,
            time_ms,
            log: BlockId::from_sha384([log; 48]).to_multihash().into(),
            sealed: vec![3; SEALED_BYTES].into(),
            signature: vec![4; 64].into(),
        };
        HeadEntry::from_wire(&[7; 32], &entry).expect("the right sizes")
    })
}

fn records() -> impl Strategy<Value = HeadRecord> {
    proptest::collection::vec(unsigned(), 1..60).prop_map(record)
}

proptest! {
    #[test]
    fn merging_knows_no_order(a in records(), b in records(), c in records()) {
        let merge = |a: &HeadRecord, b: &HeadRecord| a.merge(b).expect("one owner");
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
        prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        prop_assert_eq!(&merge(&a, &a), &a);
        let both = merge(&a, &b);
        prop_assert_eq!(&merge(&both, &a), &both);
        prop_assert!(both.entries().len() <= MAX_ENTRIES);
        prop_assert_eq!(HeadRecord::decode(&both.encode()), Ok(both));
    }

    #[test]
    fn no_entry_goes_back(a in records(), b in records()) {
        let both = a.merge(&b).expect("one owner");
        for entry in both.entries() {
            for known in [a.entry(entry.machine()), b.entry(entry.machine())] {
                prop_assert!(known.is_none_or(|known| known.sequence() <= entry.sequence()));
            }
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
        one.merge(&HeadRecord::new(other.clone())),
        Err(Error::OtherOwner)
    );
    assert_eq!(one.with(other), Err(Error::OtherOwner));
}
