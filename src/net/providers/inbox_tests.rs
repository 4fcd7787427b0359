use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::head::{HeadEntry, certify};
use crate::net::providers::ledger::{VALUES, Writer};
use crate::net::providers::record_store::Bounds;
use crate::net::providers::shelf::MemoryShelf;
use crate::time::ManualClock;
use ed25519_dalek::SigningKey;

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

fn checker() -> (Checker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    let (local, shelf) = (PeerId::random(), Arc::new(MemoryShelf::new()));
    let started = Writer::start(local, shelf, clock.clone(), Bounds::default());
    let (writer, _) = started.expect("threads start");
    let checker = Checker {
        local,
        values: Values {
            writer: Arc::new(writer),
            clock: clock.clone(),
        },
        tally: Arc::default(),
        kept: BTreeSet::new(),
        known: BTreeMap::new(),
    };
    (checker, clock)
}

fn keep(checker: &mut Checker, record: &HeadRecord) {
    let kept = checker.merge(record, How::Keep).expect("it holds");
    assert_eq!(kept.not_stored, None);
}

/// What a peer tells that knows the head.
fn tell(checker: &mut Checker, record: &HeadRecord) -> Result<(), Error> {
    checker.told(record.id(), &record.encode())
}

/// What a peer hears that asks for the head of this id, or tells one.
fn ask(checker: &mut Checker, id: &BlockId, told: Option<&[u8]>) -> (Told, [u8; 32]) {
    let (acquaintance, peer) = (Acquaintance::new(id), PeerId::random());
    let nonce = [9; 32];
    let proof = acquaintance.proof(&nonce, &peer.to_bytes(), &checker.local.to_bytes());
    let told = told.map(|bytes| acquaintance.seal(&proof, Direction::Question, bytes).into());
    let (reply, answer) = sync_channel(1);
    checker.asked(Asked {
        peer,
        nonce,
        proof,
        told,
        reply: Box::new(move |told| drop(reply.send(told))),
    });
    (answer.recv().expect("answered"), proof)
}

#[test]
fn who_knows_a_head_that_is_here_hears_it_and_nobody_else_does() {
    let (mut checker, _) = checker();
    let (here, elsewhere) = (record(1, 5), record(2, 5));
    keep(&mut checker, &here);
    let (told, proof) = ask(&mut checker, &here.id(), None);
    let Told::Head(sealed) = told else {
        panic!("{told:?}")
    };
    let opened = Acquaintance::new(&here.id()).open(&proof, Direction::Answer, &sealed);
    assert_eq!(opened, Some(here.encode()));
    let stranger = Acquaintance::new(&elsewhere.id());
    assert_eq!(stranger.open(&proof, Direction::Answer, &sealed), None);
    assert_eq!(ask(&mut checker, &elsewhere.id(), None).0, Told::Unknown);
}

#[test]
fn a_proof_of_another_peer_or_to_another_is_none() {
    let (mut checker, _) = checker();
    let here = record(1, 5);
    keep(&mut checker, &here);
    let acquaintance = Acquaintance::new(&here.id());
    let (one, other) = (PeerId::random(), PeerId::random());
    let local = checker.local.to_bytes();
    for (asker, asked, peer) in [
        // Overheard, and brought by another one.
        (one.to_bytes(), local.clone(), other),
        // Made for another peer, which passes it on.
        (one.to_bytes(), other.to_bytes(), one),
    ] {
        let (reply, answer) = sync_channel(1);
        checker.asked(Asked {
            peer,
            nonce: [1; 32],
            proof: acquaintance.proof(&[1; 32], &asker, &asked),
            told: None,
            reply: Box::new(move |told| drop(reply.send(told))),
        });
        assert_eq!(answer.recv(), Ok(Told::Unknown));
    }
}

#[test]
fn what_is_told_is_taken_in_of_heads_that_are_here_only() {
    let (mut checker, _) = checker();
    let (older, newer) = (record(1, 1), record(1, 2));
    let tell = |checker: &mut Checker, record: &HeadRecord| {
        ask(checker, &record.id(), Some(&record.encode())).0
    };
    assert_eq!(tell(&mut checker, &older), Told::Unknown);
    assert_eq!(checker.local(&older.id()), None);
    keep(&mut checker, &older);
    assert_eq!(tell(&mut checker, &newer), Told::Taken);
    let both = older
        .merge(&newer, checker.values.now())
        .expect("one owner");
    assert_eq!(checker.local(&newer.id()), Some(both));
    let mut forged = newer.encode();
    *forged.last_mut().expect("not empty") ^= 1;
    for bytes in [&forged[..], b"nonsense", &record(2, 9).encode()] {
        let answer = ask(&mut checker, &newer.id(), Some(bytes)).0;
        assert_eq!(answer, Told::Invalid);
    }
    assert_eq!(checker.tally.refused.load(Ordering::Relaxed), 3);
}

#[test]
fn what_is_told_is_added() {
    let (mut checker, _) = checker();
    let (newer, older) = (record(1, 5), record(1, 4));
    let id = newer.id();
    keep(&mut checker, &newer);
    tell(&mut checker, &older).expect("it holds");
    let now = checker.values.now();
    let both = newer.merge(&older, now).expect("one owner");
    assert_eq!(checker.local(&id), Some(both.clone()));
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
    let (mut checker, _) = checker();
    let (honest, late) = (record(1, 5), record(1, u64::MAX));
    let (id, peer) = (honest.id(), PeerId::random());
    let future = Err(Error::Head(head::Error::FromTheFuture));
    keep(&mut checker, &honest);
    assert_eq!(tell(&mut checker, &late), future);
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

/// The attack: entries without end, of a key that was copied, to a node that keeps the head.
#[test]
fn what_was_here_before_a_flood_is_here_after_it() {
    let (mut checker, clock) = checker();
    clock.advance(Duration::from_secs(1_000 * 24 * 3600));
    let honest = record_at(1, 5, checker.values.now().0);
    keep(&mut checker, &honest);
    for n in 0..200 {
        let forged = record_at(1, 1000 + n, checker.values.now().0);
        tell(&mut checker, &forged).expect("it holds");
    }
    let local = checker.local(&honest.id()).expect("here");
    assert!(local.has_all_of(&honest));
    assert!(local.encode().len() <= head::MAX_RECORD_BYTES);
}

#[test]
fn putting_again_moves_the_expiry_without_many_writes() {
    let (mut checker, clock) = checker();
    let record = record(1, 5);
    let expires = |checker: &Checker| {
        let value = checker.values.get(&record.id().to_multihash());
        value.and_then(|value| value.expires).expect("it expires")
    };
    let passed = checker.merge(&record, How::Pass).expect("it holds");
    assert_eq!(passed.not_stored, None);
    let first = expires(&checker);
    clock.advance(REFRESH);
    tell(&mut checker, &record).expect("known");
    assert_eq!(expires(&checker), first);
    clock.advance(Duration::from_secs(1));
    tell(&mut checker, &record).expect("known");
    assert_eq!(
        expires(&checker).since(first),
        REFRESH + Duration::from_secs(1)
    );
    // Kept, it expires no more.
    checker.merge(&record, How::Keep).expect("it holds");
    let stored = checker.values.get(&record.id().to_multihash());
    assert_eq!(stored.and_then(|value| value.expires), None);
}

#[test]
fn the_number_of_kept_heads_is_bounded() {
    let (mut checker, _) = checker();
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
fn questions_leave_places_for_what_this_node_wants_itself() {
    let (mut checker, _) = checker();
    checker.kept.clear();
    let (jobs, receiver) = sync_channel(MAX_ASKED + MAX_OWN_JOBS);
    let inbox = Inbox { jobs };
    let question = || Asked {
        peer: PeerId::random(),
        nonce: [0; 32],
        proof: [0; 32],
        told: None,
        reply: Box::new(drop),
    };
    for _ in 0..MAX_ASKED {
        assert!(inbox.door().ask(question()));
    }
    let permits = Arc::new(tokio::sync::Semaphore::new(1));
    let permit = permits.clone().try_acquire_owned().expect("one");
    let (reply, mut answer) = oneshot::channel();
    inbox.own(Own::Kept { reply }, permit);
    drop(inbox);
    checker.run(&receiver);
    assert_eq!(answer.try_recv(), Ok(vec![]));
    assert_eq!(permits.available_permits(), 1);
}

#[test]
fn kept_heads_are_known_again_and_garbage_is_passed_over() {
    let (mut checker, _) = checker();
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
