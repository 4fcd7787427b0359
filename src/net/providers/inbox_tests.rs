use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::head::{HeadEntry, certify};
use crate::net::providers::ledger::{VALUES, Writer};
use crate::net::providers::record_store::Bounds;
use crate::net::providers::shelf::MemoryShelf;
use crate::time::ManualClock;
use ed25519_dalek::SigningKey;
use libp2p::kad::KBucketKey;

fn record(owner: u8, sequence: u64) -> HeadRecord {
    record_at(owner, sequence, 0)
}

fn record_at(owner: u8, sequence: u64, time_ms: u64) -> HeadRecord {
    let owner = SigningKey::from_bytes(&[owner; 32]);
    let machine = SigningKey::from_bytes(&[200; 32]);
    let link = Link {
        id: BlockId::from_sha384([sequence as u8; 48]),
        key: Key::new([1; 32]),
    };
    HeadRecord::new(HeadEntry::sign(
        &owner.verifying_key().to_bytes(),
        &machine,
        &certify(&owner, &machine.verifying_key().to_bytes()),
        sequence,
        time_ms,
        &link,
        &[1; 32],
    ))
}

fn checker(bounds: Bounds) -> (Checker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    let (local, shelf) = (PeerId::random(), Arc::new(MemoryShelf::new()));
    let started = Writer::start(local, shelf, clock.clone(), bounds);
    let (writer, _) = started.expect("threads start");
    let checker = Checker {
        values: Values {
            local: KBucketKey::from(local),
            writer: Arc::new(writer),
            clock: clock.clone(),
            bounds,
            is_member: Arc::new(|_| false),
        },
        tally: Arc::default(),
        kept: BTreeSet::new(),
    };
    (checker, clock)
}

/// A record from a subnet that is of no account.
fn offer(checker: &mut Checker, record: &HeadRecord, peer: PeerId) -> Result<(), Error> {
    offer_from(checker, record, peer, 0)
}

fn offer_from(
    checker: &mut Checker,
    record: &HeadRecord,
    peer: PeerId,
    subnet: u8,
) -> Result<(), Error> {
    let whence = Whence {
        subnet: Subnet::V4([10, 0, subnet]),
        is_near: true,
    };
    checker.offered(record.id(), &record.encode(), peer, whence)
}

/// Offers as [`offer_from`] does, again while there is no room. Records on their way to the shelf
/// give no way yet: the thread writes them soon.
fn offer_again(
    checker: &mut Checker,
    record: &HeadRecord,
    peer: PeerId,
    subnet: u8,
) -> Result<(), Error> {
    let mut tries = 0;
    loop {
        match offer_from(checker, record, peer, subnet) {
            Err(Error::Full) if tries < 1_000 => tries += 1,
            result => return result,
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn of_subnets(checker: &Checker) -> [i64; 3] {
    let counts = checker.values.writer.ledger.counts();
    [0, 1, 2].map(|subnet| counts.values.of_subnet(&Subnet::V4([10, 0, subnet])))
}

#[test]
fn a_flood_of_owners_is_bounded_and_spares_what_is_kept() {
    let bounds = Bounds {
        values: 3,
        values_per_peer: 2,
        ..Bounds::default()
    };
    let (mut checker, clock) = checker(bounds);
    let (one, other) = (PeerId::random(), PeerId::random());
    for owner in 1..=2 {
        offer(&mut checker, &record(owner, 1), one).expect("room");
    }
    let over = offer(&mut checker, &record(3, 1), one);
    assert_eq!(over, Err(Error::Full), "of one peer");
    offer(&mut checker, &record(3, 1), other).expect("another peer");
    for owner in 10..40 {
        // A nearer one may take the place of a farther one.
        let _ = offer(&mut checker, &record(owner, 1), PeerId::random());
        let counts = checker.values.writer.ledger.counts();
        assert!(counts.values.entries <= 3, "in all");
    }
    let kept = checker.merge(&record(4, 1), How::Keep).expect("it holds");
    assert!(kept.newly_kept && kept.not_stored.is_none());
    let own = checker.merge(&record(5, 1), How::Pass).expect("it holds");
    assert_eq!(own.not_stored, None);
    // What nobody puts again goes.
    clock.advance(HEAD_TTL);
    assert_eq!(checker.local(&record(1, 1).id()), None);
    assert!(checker.local(&record(4, 1).id()).is_some(), "kept");
}

#[test]
fn the_subnet_that_brought_most_gives_way_whatever_its_peers_are_called() {
    let bounds = Bounds {
        values: 5,
        ..Bounds::default()
    };
    let (mut checker, _) = checker(bounds);
    for owner in 1..=4 {
        // Each from a peer id of its own.
        offer_from(&mut checker, &record(owner, 1), PeerId::random(), 0).expect("room");
    }
    offer_from(&mut checker, &record(5, 1), PeerId::random(), 2).expect("room");
    let mut give = |owner| {
        let given = offer_again(&mut checker, &record(owner, 1), PeerId::random(), 1);
        (given, of_subnets(&checker))
    };
    assert_eq!(give(6), (Ok(()), [2, 1, 1]));
    assert_eq!(give(7), (Ok(()), [2, 2, 1]));
}

#[test]
fn in_one_subnet_the_nearest_keys_stay() {
    let bounds = Bounds {
        values: 5,
        ..Bounds::default()
    };
    let (mut checker, _) = checker(bounds);
    let distance = |checker: &Checker, owner| {
        let key = KBucketKey::new(record(owner, 1).id().to_multihash());
        checker.values.local.distance(&key)
    };
    let mut owners: Vec<u8> = (1..=9).collect();
    owners.sort_by_key(|owner| std::cmp::Reverse(distance(&checker, *owner)));
    for owner in &owners {
        let offered = offer_again(&mut checker, &record(*owner, 1), PeerId::random(), 0);
        assert_eq!(offered, Ok(()));
    }
    let has = |owner: &u8| checker.local(&record(*owner, 1).id()).is_some();
    let kept: Vec<u8> = owners.iter().copied().filter(has).collect();
    assert_eq!(kept, owners[4..]);
    let far = offer(&mut checker, &record(owners[0], 1), PeerId::random());
    assert_eq!(far, Err(Error::Full));
}

#[test]
fn members_of_rings_have_a_reserve_and_give_way_to_no_stranger() {
    let bounds = Bounds {
        values: 16,
        ..Bounds::default()
    };
    let (mut checker, _) = checker(bounds);
    let members: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
    let known = members.clone();
    checker.values.is_member = Arc::new(move |peer| known.contains(peer));
    let strangers = |checker: &mut Checker, owners: std::ops::Range<u8>| {
        for owner in owners {
            let _ = offer_from(checker, &record(owner, 1), PeerId::random(), 0);
        }
    };
    strangers(&mut checker, 1..60);
    assert_eq!(of_subnets(&checker), [14, 0, 0], "two places are left");
    for (owner, member) in (200..).zip(&members) {
        let offered = offer_again(&mut checker, &record(owner, 1), *member, 0);
        assert_eq!(offered, Ok(()), "{owner}");
    }
    strangers(&mut checker, 60..120);
    for owner in 200..203 {
        let there = checker.local(&record(owner, 1).id());
        assert!(there.is_some(), "{owner}");
    }
    let counts = checker.values.writer.ledger.counts();
    assert!(counts.values.entries <= 16, "{counts:?}");
}

#[test]
fn what_others_are_nearer_to_is_not_taken_but_renewed() {
    let (mut checker, _) = checker(Bounds::default());
    let peer = PeerId::random();
    let far = |checker: &mut Checker, record: &HeadRecord| {
        checker.offered(record.id(), &record.encode(), peer, Whence::default())
    };
    let older = record(1, 1);
    assert_eq!(far(&mut checker, &older), Err(Error::Far));
    checker.merge(&older, How::Keep).expect("it holds");
    let newer = record(1, 2);
    assert_eq!(far(&mut checker, &newer), Ok(()));
    let now = checker.values.now();
    let both = older.merge(&newer, now).expect("one owner");
    assert_eq!(checker.local(&newer.id()), Some(both));
}

#[test]
fn what_is_offered_is_added_and_takes_nobodys_place() {
    let (mut checker, _) = checker(Bounds::default());
    let (newer, older) = (record(1, 5), record(1, 4));
    let id = newer.id();
    offer(&mut checker, &newer, PeerId::random()).expect("room");
    let counted = checker.values.writer.ledger.counts().values.clone();
    offer(&mut checker, &older, PeerId::random()).expect("it holds");
    let now = checker.values.now();
    let both = newer.merge(&older, now).expect("one owner");
    assert_eq!(checker.local(&id), Some(both.clone()));
    // The record grew; it has the place of before, and whoever brought it first answers for it.
    let counts = checker.values.writer.ledger.counts().values.clone();
    assert_eq!(counts.entries, counted.entries);
    assert_eq!(counts.of_peer, counted.of_peer);
    assert_eq!(counts.of_subnet, counted.of_subnet);
    assert!(counts.bytes > counted.bytes);
    let merged = checker.merge(&older, How::Keep).expect("it holds");
    assert_eq!(merged.record, both);
    let verdict = checker.judge(
        &id,
        &[
            (PeerId::random(), older.encode()),
            (PeerId::random(), newer.encode()),
            (PeerId::random(), record(2, 9).encode()),
            (PeerId::random(), both.encode()),
        ],
        true,
    );
    assert_eq!(verdict.record, Some(both));
    assert_eq!((verdict.stale.len(), verdict.told.len()), (2, 3));
    assert_eq!(checker.tally.refused.load(Ordering::Relaxed), 1);
}

/// The attack: who has copied a machine's key signs an entry that can never be followed.
#[test]
fn an_entry_from_the_future_is_taken_by_nobody_and_found_only_without_others() {
    let (mut checker, _) = checker(Bounds::default());
    let (honest, late) = (record(1, 5), record(1, u64::MAX));
    let (id, peer) = (honest.id(), PeerId::random());
    let future = Err(Error::Head(head::Error::FromTheFuture));
    assert_eq!(offer(&mut checker, &late, peer), future);
    offer(&mut checker, &honest, peer).expect("room");
    assert_eq!(offer(&mut checker, &late, peer), future);
    for how in [How::Keep, How::Pass] {
        let refused = checker.merge(&late, how).err();
        assert_eq!(refused, Some(Error::Head(head::Error::FromTheFuture)));
    }
    assert_eq!(checker.local(&id), Some(honest.clone()));
    let answers = [(peer, late.encode()), (peer, honest.encode())];
    let verdict = checker.judge(&id, &answers, false);
    assert_eq!(verdict.record, Some(honest));
    // Alone it may be true, and the clock here be wrong.
    let verdict = checker.judge(&id, &answers[..1], false);
    assert_eq!(verdict.record, Some(late));
}

/// The attack: entries without end, of a key that was copied, to a node that keeps the head or that
/// it only passes by.
#[test]
fn what_was_here_before_a_flood_is_here_after_it() {
    let (mut checker, clock) = checker(Bounds::default());
    clock.advance(Duration::from_secs(1_000 * 24 * 3600));
    let (honest, peer) = (record_at(1, 5, checker.values.now().0), PeerId::random());
    offer(&mut checker, &honest, peer).expect("room");
    for n in 0..200 {
        let forged = record_at(1, 1000 + n, checker.values.now().0);
        offer(&mut checker, &forged, peer).expect("it holds");
    }
    let local = checker.local(&honest.id()).expect("here");
    assert!(local.has_all_of(&honest));
    assert!(local.encode().len() <= MAX_RECORD_BYTES);
}

#[test]
fn putting_again_moves_the_expiry_without_many_writes() {
    let (mut checker, clock) = checker(Bounds::default());
    let (record, peer) = (record(1, 5), PeerId::random());
    let expires = |checker: &Checker| {
        let value = checker.values.get(&record.id().to_multihash());
        value.and_then(|value| value.expires).expect("it expires")
    };
    offer(&mut checker, &record, peer).expect("room");
    let first = expires(&checker);
    clock.advance(REFRESH);
    offer(&mut checker, &record, peer).expect("known");
    assert_eq!(expires(&checker), first);
    clock.advance(Duration::from_secs(1));
    offer(&mut checker, &record, peer).expect("known");
    assert_eq!(
        expires(&checker).since(first),
        REFRESH + Duration::from_secs(1)
    );
    assert_eq!(checker.values.writer.ledger.counts().values.entries, 1);
    // Kept, it expires no more.
    checker.merge(&record, How::Keep).expect("it holds");
    let stored = checker.values.get(&record.id().to_multihash());
    assert_eq!(stored.and_then(|value| value.expires), None);
    assert_eq!(checker.values.writer.ledger.counts().values.entries, 0);
}

#[test]
fn the_number_of_kept_heads_is_bounded() {
    let (mut checker, _) = checker(Bounds::default());
    checker.kept = (0..MAX_KEPT_HEADS as u64)
        .map(|n| {
            let mut digest = [0; 48];
            digest[..8].copy_from_slice(&n.to_be_bytes());
            BlockId::from_sha384(digest)
        })
        .collect();
    let over = checker.merge(&record(1, 1), How::Keep);
    assert_eq!(over.err(), Some(Error::Full));
    checker.kept.pop_first();
    assert!(checker.merge(&record(1, 1), How::Keep).is_ok());
}

#[test]
fn one_peer_can_not_take_all_places_in_the_queue() {
    let (mut checker, _) = checker(Bounds::default());
    checker.kept.clear();
    let (jobs, receiver) = sync_channel(MAX_OFFERED + MAX_OWN_JOBS);
    let inbox = Inbox {
        jobs,
        waiting: Arc::default(),
        tally: checker.tally.clone(),
    };
    let key = record(1, 1).id().to_multihash();
    let (flooder, whence) = (PeerId::random(), Whence::default());
    for _ in 0..=MAX_OFFERED_BY_PEER {
        inbox.offer(flooder, whence, &key, vec![1]);
    }
    assert_eq!(inbox.tally.dropped.load(Ordering::Relaxed), 1);
    for _ in 0..MAX_OFFERED - MAX_OFFERED_BY_PEER {
        inbox.offer(PeerId::random(), whence, &key, vec![1]);
    }
    assert_eq!(inbox.tally.dropped.load(Ordering::Relaxed), 1);
    inbox.offer(PeerId::random(), whence, &key, vec![1]);
    assert_eq!(inbox.tally.dropped.load(Ordering::Relaxed), 2);
    // There is still a place for what this node wants itself.
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let permit = permits.clone().try_acquire_owned().expect("one");
    let (reply, mut answer) = oneshot::channel();
    inbox.own(Own::Kept { reply }, permit);
    drop(inbox);
    checker.run(&receiver);
    assert_eq!(answer.try_recv(), Ok(vec![]));
    assert_eq!(permits.available_permits(), 1);
    let all = checker_free(&receiver);
    assert!(all, "every place is free again");
}

fn checker_free(receiver: &Receiver<Job>) -> bool {
    receiver.try_recv().is_err()
}

#[test]
fn kept_heads_are_known_again_and_garbage_is_passed_over() {
    let (mut checker, _) = checker(Bounds::default());
    checker.merge(&record(1, 1), How::Keep).expect("it holds");
    checker.merge(&record(2, 1), How::Pass).expect("it holds");
    checker
        .values
        .writer
        .put(VALUES, b"other key", Some(b"\xff".to_vec().into()));
    // What waits to be written is not yet seen: the thread is quick, but not to be relied on.
    while checker.values.kept().is_empty() {
        std::thread::yield_now();
    }
    assert_eq!(checker.values.kept(), [record(1, 1).id().to_multihash()]);
}
