use super::*;
use crate::head::certify;
use crate::time::Timestamp;
use data_encoding::HEXLOWER;
use ed25519_dalek::SigningKey;
use proptest::prelude::*;

const HOLDER: &[u8] = b"the holder";
const NOW: Timestamp = Timestamp(1_000_000_000_000);

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn machine() -> SigningKey {
    SigningKey::from_bytes(&[101; 32])
}

fn owner_key() -> [u8; 32] {
    owner().verifying_key().to_bytes()
}

fn certificate() -> [u8; 64] {
    certify(&owner(), &machine().verifying_key().to_bytes())
}

fn id(n: u8) -> BlockId {
    BlockId::from_sha384([n; 48])
}

fn terms() -> Terms {
    Terms {
        holder: HOLDER.to_vec(),
        name: [7; 16],
        sequence: 5,
        made: NOW,
        until: Timestamp(NOW.0 + 90 * DAY_MS),
        minimum_until: Timestamp(NOW.0 + 30 * DAY_MS),
        root: id(1),
        blocks: 3,
        bytes: 3000,
        digest: ListDigest::of(&[id(1), id(2), id(3)]).expect("in order"),
        copies: 0,
        opener: Some([9; OPENER_BYTES]),
    }
}

fn lease(terms: Terms) -> Lease {
    Lease::sign(&owner_key(), &machine(), &certificate(), terms)
}

fn release(sequence: u64, by_owner: bool) -> Release {
    if by_owner {
        Release::by_owner(&owner(), [7; 16], sequence, NOW)
    } else {
        Release::by_machine(
            &owner_key(),
            &machine(),
            &certificate(),
            [7; 16],
            sequence,
            NOW,
        )
    }
}

#[test]
fn a_lease_reads_back_and_holds_for_its_holder_only() {
    let lease = lease(terms());
    assert_eq!(Lease::decode(&lease.encode()), Ok(lease.clone()));
    assert_eq!(lease.validate(HOLDER, NOW), Ok(()));
    assert_eq!(lease.validate(b"another", NOW), Err(Error::OtherHolder));
    for release in [release(5, true), release(5, false)] {
        assert_eq!(Release::decode(&release.encode()), Ok(release.clone()));
        assert_eq!(release.validate(), Ok(()));
    }
}

#[test]
fn what_is_changed_anywhere_is_refused() {
    let bytes = lease(terms()).encode();
    for at in 0..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 1;
        if let Ok(read) = Lease::decode(&broken) {
            assert!(read.validate(HOLDER, NOW).is_err(), "byte {at}");
        }
        // Without the opener at its end it has the form of a lease, and is not signed.
        let cut = Lease::decode(&bytes[..at]);
        let is_refused = cut.is_err() || cut.is_ok_and(|cut| cut.validate(HOLDER, NOW).is_err());
        assert!(is_refused, "cut at {at}");
    }
    for by_owner in [true, false] {
        let bytes = release(5, by_owner).encode();
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            if let Ok(read) = Release::decode(&broken) {
                assert!(read.validate().is_err(), "byte {at}");
            }
            assert!(Release::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}

#[test]
fn a_machine_does_not_speak_for_the_owner() {
    let forged = certify(&machine(), &machine().verifying_key().to_bytes());
    let lease = Lease::sign(&owner_key(), &machine(), &forged, terms());
    assert_eq!(lease.validate(HOLDER, NOW), Err(Error::BadCertificate));
    // A machine's signature where the owner's belongs.
    let by_machine = Release::by_owner(&machine(), [7; 16], 5, NOW);
    let held = Held::new(self::lease(terms()), NOW);
    assert_eq!(
        held.check_release(&by_machine, NOW),
        Err(Error::OtherLease),
        "it names the machine as the owner"
    );
}

/// Two machines of one owner: neither ends what the other asked for, nor makes it its own to end
/// it.
#[test]
fn a_machine_ends_no_lease_of_another_machine() {
    let other = SigningKey::from_bytes(&[102; 32]);
    let certificate = certify(&owner(), &other.verifying_key().to_bytes());
    let held = Held::new(lease(terms()), NOW);
    let late = Timestamp(held.minimum_until().0 + 1);
    let of_other = Release::by_machine(&owner_key(), &other, &certificate, [7; 16], 5, NOW);
    assert_eq!(of_other.validate(), Ok(()));
    assert_eq!(
        held.check_release(&of_other, late),
        Err(Error::OtherMachine)
    );
    let renewal = Terms {
        sequence: 6,
        ..terms()
    };
    let renewal = Lease::sign(&owner_key(), &other, &certificate, renewal);
    assert_eq!(renewal.validate(HOLDER, NOW), Ok(()));
    assert_eq!(held.renewed(renewal, NOW), Err(Error::OtherMachine));
    assert_eq!(held.check_release(&release(5, false), late), Ok(()));
    assert_eq!(held.check_release(&release(5, true), NOW), Ok(()));
}

#[test]
fn a_keeper_adds_leases_and_nothing_else() {
    let keeper = Keeper::new(&owner_key(), &machine(), &certificate(), &[5; 32]);
    let bytes = keeper.encode();
    assert_eq!(bytes.len(), KEEPER_BYTES);
    let again = Keeper::decode(&bytes).expect("reads");
    assert_eq!(again.encode(), bytes);
    let lease = again.sign(terms());
    assert_eq!(Lease::decode(&lease.encode()), Ok(lease.clone()));
    assert_eq!(lease.validate(HOLDER, NOW), Ok(()));
    let bytes_of = lease.encode();
    assert!(bytes_of.len() <= MAX_LEASE_BYTES);
    for at in 0..bytes_of.len() {
        let mut broken = bytes_of.clone();
        broken[at] ^= 1;
        if let Ok(read) = Lease::decode(&broken) {
            assert!(read.validate(HOLDER, NOW).is_err(), "byte {at}");
        }
    }
    // Not admitted by the machine, or as if it were a machine.
    let other = Keeper::new(
        &owner_key(),
        &SigningKey::from_bytes(&[6; 32]),
        &certificate(),
        &[5; 32],
    );
    assert_eq!(
        other.sign(terms()).validate(HOLDER, NOW),
        Err(Error::BadCertificate)
    );
    let key = SigningKey::from_bytes(&[5; 32]);
    let release = Release::by_machine(&owner_key(), &key, &certificate(), [7; 16], 5, NOW);
    assert_eq!(release.validate(), Err(Error::BadCertificate));
    for at in 0..bytes.len() {
        let mut broken = bytes.to_vec();
        broken[at] ^= 1;
        assert!(Keeper::decode(&broken).is_err(), "byte {at}");
        assert!(Keeper::decode(&bytes[..at]).is_err(), "cut at {at}");
    }
    let digest = crate::crypto::hash::sha256(&[&bytes]);
    assert_eq!(HEXLOWER.encode(&digest), KEEPER_GOLDEN);
}

/// SHA-256 of the bytes of a keeper whose keys are all fixed.
const KEEPER_GOLDEN: &str = "e20f82e8b334a7be96de2b85ea00587ca27c28d8cdc7249add09cde1b188b149";

#[test]
fn clocks_may_differ_a_day() {
    let lease = lease(terms());
    let at = |ms: u64| lease.validate(HOLDER, Timestamp(ms));
    assert_eq!(at(NOW.0 - MAX_SKEW_MS), Ok(()));
    assert_eq!(at(NOW.0 - MAX_SKEW_MS - 1), Err(Error::FromTheFuture));
    let until = terms().until.0;
    assert_eq!(at(until + MAX_SKEW_MS), Ok(()));
    assert_eq!(at(until + MAX_SKEW_MS + 1), Err(Error::Over));
}

#[test]
fn a_sequence_is_not_ahead_of_its_time() {
    let at = |sequence: u64| {
        let mut terms = terms();
        terms.sequence = sequence;
        lease(terms).validate(HOLDER, NOW)
    };
    assert_eq!(at(NOW.0 + MAX_SKEW_MS), Ok(()));
    for sequence in [NOW.0 + MAX_SKEW_MS + 1, u64::MAX] {
        assert!(matches!(at(sequence), Err(Error::BadTerms(_))));
    }
}

#[test]
fn terms_at_the_limits() {
    let check = |change: fn(&mut Terms)| {
        let mut terms = terms();
        change(&mut terms);
        lease(terms).validate(HOLDER, NOW)
    };
    assert_eq!(
        check(|t| t.until = Timestamp(t.made.0 + MAX_TERM_MS)),
        Ok(())
    );
    assert_eq!(
        check(|t| {
            t.blocks = MAX_BLOCKS;
            t.bytes = MAX_BLOCKS;
        }),
        Ok(())
    );
    let wrong: [fn(&mut Terms); 7] = [
        |t| t.until = Timestamp(t.made.0 + MAX_TERM_MS + 1),
        |t| t.until = t.made,
        |t| t.minimum_until = Timestamp(t.until.0 + 1),
        |t| t.blocks = 0,
        |t| t.blocks = MAX_BLOCKS + 1,
        |t| t.bytes = 2,
        |t| t.bytes = u64::MAX,
    ];
    for change in wrong {
        assert!(matches!(check(change), Err(Error::BadTerms(_))));
    }
    assert_eq!(
        Lease::decode(&[0; MAX_LEASE_BYTES + 1]),
        Err(Error::TooLarge(MAX_LEASE_BYTES + 1))
    );
    let mut long = terms();
    long.holder = vec![1; MAX_HOLDER_BYTES];
    long.made = Timestamp(u64::MAX - 1);
    long.until = Timestamp(u64::MAX);
    let bytes = lease(long.clone()).encode();
    assert!(bytes.len() <= MAX_LEASE_BYTES, "{}", bytes.len());
    assert!(Lease::decode(&bytes).is_ok());
    long.holder.push(1);
    assert!(Lease::decode(&lease(long).encode()).is_err());
}

#[test]
fn the_owner_ends_what_it_does_not_name_and_nobody_else_does() {
    use crate::wire::lease as wire;
    use prost::Message;
    let held = Held::new(lease(terms()), NOW);
    let terms = held.lease().terms();
    let other = BlockId::from_sha384([0x55; 48]);
    let after = Timestamp(terms.sequence);
    let many = |extent, made| Release::of_many(&owner(), extent, made);
    for (extent, ends) in [
        (Extent::Everything, true),
        (Extent::Backup(terms.root), true),
        (Extent::Backup(other), false),
        (Extent::Lease, false),
    ] {
        let release = many(extent, after);
        assert_eq!(Release::decode(&release.encode()), Ok(release.clone()));
        assert_eq!(release.validate(), Ok(()));
        let expected = match ends {
            true => Ok(()),
            false => Err(Error::OtherLease),
        };
        assert_eq!(held.check_release(&release, NOW), expected, "{extent:?}");
    }
    // What was made later stays, however often it is brought.
    let early = many(Extent::Everything, Timestamp(terms.sequence - 1));
    assert_eq!(held.check_release(&early, NOW), Err(Error::Stale));
    // Nor is a release of one lease one of more when bits change.
    let mut message = wire::Release::decode(release(5, true).encode().as_slice()).expect("one");
    message.extent = 2;
    let wider = Release::decode(&message.encode_to_vec());
    assert!(matches!(wider, Err(Error::Malformed(_))), "{wider:?}");
    message.name = vec![0; NAME_BYTES].into();
    let wider = Release::decode(&message.encode_to_vec()).expect("its form is right");
    assert_eq!(wider.validate(), Err(Error::BadSignature));
    let mut message = wire::Release::decode(release(5, false).encode().as_slice()).expect("one");
    (message.extent, message.name) = (2, vec![0; NAME_BYTES].into());
    let by_machine = Release::decode(&message.encode_to_vec());
    assert!(
        matches!(by_machine, Err(Error::Malformed(_))),
        "{by_machine:?}"
    );
}

#[test]
fn releases_count_when_they_may() {
    let held = Held::new(lease(terms()), NOW);
    let early = Timestamp(held.minimum_until().0 - 1);
    assert_eq!(
        held.check_release(&release(5, false), early),
        Err(Error::TooEarly)
    );
    assert_eq!(
        held.check_release(&release(5, false), held.minimum_until()),
        Ok(())
    );
    assert_eq!(held.check_release(&release(5, true), early), Ok(()));
    assert_eq!(
        held.check_release(&release(4, true), early),
        Err(Error::Stale)
    );
}

#[test]
fn a_lease_is_passed_on_only_when_it_says_so_and_never_for_longer() {
    let alone = lease(terms());
    assert_eq!(alone.validate_passed(NOW), Err(Error::OtherHolder));
    let mut shared = terms();
    shared.copies = 3;
    let shared = lease(shared);
    assert_eq!(Lease::decode(&shared.encode()), Ok(shared.clone()));
    assert_eq!(shared.validate_passed(NOW), Ok(()));
    assert_eq!(shared.validate(b"another", NOW), Err(Error::OtherHolder));
    let until = shared.terms().until;
    let late = Timestamp(until.0 - DAY_MS);
    let held = Held::new(shared.clone(), late);
    assert_eq!(held.until(), Timestamp(until.0 + MAX_SKEW_MS));
    // In time it is counted from when it came.
    let early = Held::new(shared.clone(), NOW);
    assert_eq!(early.until(), Timestamp(NOW.0 + shared.term_ms()));
    // Passed around, it does not get longer.
    let again = early.renewed_by(Held::new(shared, late));
    assert_eq!(again, Ok(Renewal::Nothing));
    let mut many = terms();
    many.copies = MAX_COPIES + 1;
    let many = lease(many).validate_passed(NOW);
    assert!(matches!(many, Err(Error::BadTerms(_))));
}

/// An opener in the lease is all that the words need, and only they read it.
#[test]
fn an_opener_opens_what_it_was_sealed_for_and_nothing_else() {
    let (root_key, key) = ([3; 32], crate::crypto::key::Key::new([4; 32]));
    let machine_key = machine().verifying_key().to_bytes();
    let seal = |machine: &[u8; 32], root: &BlockId| {
        seal_opener(&root_key, &owner_key(), machine, root, &key)
    };
    let with = |opener: Opener| {
        lease(Terms {
            opener: Some(opener),
            ..terms()
        })
    };
    let sealed = seal(&machine_key, &id(1));
    let signed = with(sealed);
    assert_eq!(signed.validate(HOLDER, NOW), Ok(()));
    assert_eq!(signed.validate_found(), Ok(()));
    let link = signed.open(&root_key).expect("it opens");
    assert_eq!((link.id, link.key.as_bytes()), (id(1), key.as_bytes()));
    // A holder has everything but the root key.
    assert_eq!(signed.open(&owner_key()), None);
    assert_eq!(with([0; OPENER_BYTES]).open(&root_key), None);
    // A machine that was stolen passes off neither another root nor another machine's opener.
    assert_eq!(with(seal(&machine_key, &id(2))).open(&root_key), None);
    assert_eq!(with(seal(&[8; 32], &id(1))).open(&root_key), None);
    let mut bytes = signed.encode();
    let at = bytes.len() - 1;
    bytes[at] ^= 1;
    let forged = Lease::decode(&bytes).expect("its form is right");
    assert_eq!(forged.validate_found(), Err(Error::BadSignature));
    // Nor does it take away what the words open.
    let held = Held::new(signed, NOW);
    for opener in [None, Some([7; OPENER_BYTES])] {
        let later = lease(Terms {
            sequence: 6,
            opener,
            ..terms()
        });
        assert_eq!(held.renewed(later, NOW), Err(Error::OtherOpener));
    }
    let bare = Held::new(
        lease(Terms {
            opener: None,
            ..terms()
        }),
        NOW,
    );
    let later = lease(Terms {
        sequence: 6,
        opener: Some(sealed),
        ..terms()
    });
    assert!(matches!(bare.renewed(later, NOW), Ok(Renewal::Longer(_))));
}

#[test]
fn lists_have_one_order() {
    assert_eq!(
        ListDigest::of(&[id(2), id(1)]),
        Err(Error::Unsorted),
        "out of order"
    );
    assert_eq!(ListDigest::of(&[id(1), id(1)]), Err(Error::Unsorted));
    assert_ne!(ListDigest::of(&[id(1)]), ListDigest::of(&[id(1), id(2)]));
}

/// Everything that is written, with all keys and times fixed. Signatures are deterministic.
#[test]
fn golden() {
    let written = [
        terms().digest.to_vec(),
        proof(&[9; 32], b"a block").to_vec(),
        lease(terms()).encode(),
        release(5, false).encode(),
        release(5, true).encode(),
        Held::new(lease(terms()), NOW).encode(),
        Release::of_many(&owner(), Extent::Backup(id(1)), NOW).encode(),
        Release::of_many(&owner(), Extent::Everything, NOW).encode(),
    ]
    .map(|bytes| HEXLOWER.encode(&bytes));
    assert_eq!(written.join("\n"), include_str!("golden_v2.txt").trim());
}

proptest! {
    /// Whatever leases come in whatever order and however often: what was promised never gets shorter.
    #[test]
    fn nothing_gets_shorter(offers in proptest::collection::vec((0..6u64, 1..300u64, 0..300u64, 0..100u64), 1..20)) {
        let mut held: Option<Held> = None;
        let mut now = NOW;
        for (sequence, days, minimum, pause) in offers {
            now = Timestamp(now.0 + pause * DAY_MS / 10);
            let mut terms = terms();
            terms.sequence = sequence;
            terms.made = now;
            terms.until = Timestamp(now.0 + days * DAY_MS);
            terms.minimum_until = Timestamp(now.0 + minimum.min(days) * DAY_MS);
            // Signatures don't matter here.
            let offered = lease(terms);
            held = Some(match held {
                None => Held::new(offered, now),
                Some(before) => match before.renewed(offered.clone(), now).expect("the same blocks") {
                    Renewal::Nothing => {
                        prop_assert!(sequence <= before.lease().terms().sequence);
                        before
                    }
                    Renewal::Longer(after) => {
                        prop_assert!(after.until() >= before.until());
                        prop_assert!(after.minimum_until() >= before.minimum_until());
                        prop_assert_eq!(after.received(), before.received());
                        prop_assert_eq!(after.renewed(offered, now), Ok(Renewal::Nothing));
                        *after
                    }
                },
            });
        }
        let held = held.expect("at least one offer");
        prop_assert_eq!(Held::decode(&held.encode()), Ok(held));
    }

    #[test]
    fn arbitrary_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(lease) = Lease::decode(&bytes) {
            prop_assert_eq!(lease.encode(), bytes.clone());
        }
        if let Ok(release) = Release::decode(&bytes) {
            prop_assert_eq!(release.encode(), bytes.clone());
        }
        let _ = Held::decode(&bytes);
    }
}
