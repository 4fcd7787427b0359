//! What goes wrong, or is done on purpose, to a holder and to those whose blocks it keeps.

use super::tests::{
    DAY_MS, LONG, ask, blocks, clock, hold, lease, machine, memory, node, owner, owner_key, pair,
    shared_lease,
};
use super::*;
use crate::block::Block;
use crate::head::{Decisions, HeadEntry, HeadRecord, Revocation};
use crate::lease::{Extent, Lease, Release, Terms};
use crate::net::replica::Request;
use crate::store::{MemoryStore, StoreOptions};
use crate::time::{ManualClock, Timestamp};
use crate::upkeep::revoked;

struct Bench {
    clock: Arc<ManualClock>,
    store: Arc<dyn Store>,
    local: PeerId,
    book: Book,
}

fn bench(lend: u64) -> Bench {
    let clock = clock();
    let store = memory(&clock);
    let local = PeerId::random();
    let lend = Lend::of_bytes(lend);
    let book = Book::open(store.clone(), clock.clone(), lend, local.to_bytes()).expect("opens");
    Bench {
        clock,
        store,
        local,
        book,
    }
}

fn ids_of(blocks: &[Block]) -> Vec<BlockId> {
    blocks.iter().map(Block::id).collect()
}

impl Bench {
    fn keep(&self, peer: PeerId, lease: &Lease, ids: &[BlockId]) -> Answer {
        let request = Request::Keep {
            lease: Box::new(lease.clone()),
            ids: ids.to_vec(),
        };
        self.book.answer(peer, request)
    }

    fn lease(&self, name: u8, sequence: u64, ids: &[BlockId]) -> Lease {
        *shared_lease(self.local, name, sequence, ids, self.clock.now(), 2)
    }

    /// After a restart.
    fn reopened(&self) -> Self {
        let (lend, local) = (Lend::of_bytes(1 << 30), self.local.to_bytes());
        let book = Book::open(self.store.clone(), self.clock.clone(), lend, local);
        Self {
            book: book.expect("opens"),
            clock: self.clock.clone(),
            store: self.store.clone(),
            local: self.local,
        }
    }

    /// What comes of a release: how many leases it ended, and how many are newer.
    fn release(&self, release: Release) -> Result<(u64, u64), Refusal> {
        let request = Request::Release(Box::new(release));
        match self.book.answer(PeerId::random(), request) {
            Answer::State(state) => Ok((state.listed, state.missing)),
            Answer::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// A whole lease of these blocks.
    fn whole(&self, peer: PeerId, name: u8, blocks: &[Block]) -> Lease {
        let ids = ids_of(blocks);
        let lease = self.lease(name, 1, &ids);
        let answer = self.keep(peer, &lease, &ids);
        assert!(matches!(answer, Answer::State(_)), "{answer:?}");
        self.store.put(blocks, Keep::Cached).expect("room");
        let job = &self.book.jobs()[0];
        self.book.complete(job.lease).expect("completes");
        lease
    }
}

#[tokio::test]
async fn what_had_no_room_is_never_called_durable() {
    let clock = clock();
    let small: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions {
        clock: clock.clone(),
        quota: crate::size::ByteSize(100_000),
        ..StoreOptions::default()
    }));
    let pin = small.begin_pin("most of it").expect("begins");
    let mine = Block::new(vec![7; 90_000].into()).expect("a block");
    small.put(&[mine], Keep::Pinned(pin)).expect("room");
    let (a, b) = (node(memory(&clock)).await, node(small).await);
    let address = b.net().listen_addresses()[0].clone();
    a.net().peers().connect(address).await.expect("it connects");
    let workers = hold(&b, &clock, 1 << 30);
    let blocks = blocks(20);
    a.store().put(&blocks, Keep::Cached).expect("room");
    let ids = ids_of(&blocks);
    let lease = lease(b.net().peer_id(), 1, 1, &ids, clock.now());
    ask(&a, &b, Request::Keep { lease, ids }).await;
    let given_up = async {
        loop {
            let request = Request::State {
                owner: owner_key(),
                name: [1; 16],
            };
            match ask(&a, &b, request).await {
                Answer::State(state) => assert!(!state.durable, "{state:?}"),
                Answer::Refused(Refusal::Unknown) => return,
                other => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, given_up)
        .await
        .expect("it gives up");
    workers.stop(LONG).await;
}

#[test]
fn a_lease_is_whole_only_with_all_its_blocks() {
    let bench = bench(1 << 30);
    let blocks = blocks(5);
    let ids = ids_of(&blocks);
    bench.keep(PeerId::random(), &bench.lease(1, 1, &ids), &ids);
    bench.store.put(&blocks[1..], Keep::Cached).expect("room");
    let lease = bench.book.jobs()[0].lease;
    bench.book.complete(lease).expect("reads");
    assert_eq!(bench.book.jobs().len(), 1, "one is missing");
    assert!(!bench.store.leases().expect("reads")[0].1.complete);
}

#[test]
fn who_sends_back_a_lease_does_not_pass_for_the_owner() {
    let bench = bench(1 << 30);
    let (machine, thief) = (PeerId::random(), PeerId::random());
    let lease = bench.whole(machine, 1, &blocks(3));
    let heard = || {
        let mut shared = bench.book.shared();
        let (_, mine) = shared.pop_first().expect("one");
        mine.heard.expect("somebody")
    };
    let before = (machine.to_bytes(), bench.clock.now());
    bench.clock.advance(Duration::from_secs(3600));
    bench.keep(thief, &lease, &[]);
    assert_eq!(heard(), before);
    bench.keep(machine, &lease, &[]);
    assert_eq!(heard(), (machine.to_bytes(), bench.clock.now()));
    // A longer lease is the machine's own, whatever its peer is called by now.
    let ids = ids_of(&blocks(3));
    let moved = PeerId::random();
    bench.keep(moved, &bench.lease(1, 2, &ids), &[]);
    assert_eq!(heard().0, moved.to_bytes());
}

#[test]
fn what_is_only_said_to_come_does_not_hold_the_room_for_long() {
    // References to 1600 blocks fit.
    let bench = bench(1600 * 160 * 4);
    let (liar, friend) = (PeerId::random(), PeerId::random());
    let all = ids_of(&blocks(400));
    let few = &all[..1];
    for name in [1, 2] {
        let lease = bench.lease(name, 1, &all);
        let answer = bench.keep(liar, &lease, &[]);
        let expected = Answer::Refused(Refusal::Full);
        assert_eq!(answer == expected, name == 2, "{name}: {answer:?}");
    }
    let answer = bench.keep(friend, &bench.lease(3, 1, few), few);
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    let up = Instant::now();
    assert_eq!(bench.book.expire(up).expect("expires"), 0);
    let at = up + book::LIST_TIME;
    assert_eq!(bench.book.expire(at).expect("expires"), 1);
    // The other one's list is whole; it is waited for longer.
    assert_eq!(bench.book.jobs().len(), 1);
    let at = up + book::FILL_TIME;
    assert_eq!(bench.book.expire(at).expect("expires"), 1);
    assert!(bench.store.leases().expect("reads").is_empty());
}

#[test]
fn one_peer_brings_only_so_many_owners() {
    let bench = bench(1 << 30);
    let peer = PeerId::random();
    let ids = ids_of(&blocks(1));
    let of_owner = |n: u8| {
        let owner = ed25519_dalek::SigningKey::from_bytes(&[100 + n; 32]);
        let key = owner.verifying_key().to_bytes();
        let certificate = crate::head::certify(&owner, &machine().verifying_key().to_bytes());
        let terms = bench.lease(n, 1, &ids).terms().clone();
        Lease::sign(&key, &machine(), &certificate, terms)
    };
    for n in 0..=book::MAX_OWNERS_PER_PEER as u8 {
        let answer = bench.keep(peer, &of_owner(n), &ids);
        let is_last = usize::from(n) == book::MAX_OWNERS_PER_PEER;
        let refused = answer == Answer::Refused(Refusal::TooMany);
        assert_eq!(refused, is_last, "{n}: {answer:?}");
    }
}

#[test]
fn a_lease_that_was_ended_does_not_come_back() {
    let bench = bench(1 << 30);
    let peer = PeerId::random();
    let blocks = blocks(3);
    let ids = ids_of(&blocks);
    let lease = bench.whole(peer, 1, &blocks);
    let release = Release::by_owner(&owner(), [1; 16], 1, bench.clock.now());
    let answer = bench.book.answer(peer, Request::Release(Box::new(release)));
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    let refused = Answer::Refused(Refusal::Invalid);
    assert_eq!(bench.keep(peer, &lease, &ids), refused);
    // Nor after a restart.
    let again = bench.reopened();
    again.book.expire(Instant::now()).expect("expires");
    assert_eq!(again.keep(peer, &lease, &ids), refused);
    let newer = again.lease(1, 2, &ids);
    assert!(matches!(again.keep(peer, &newer, &ids), Answer::State(_)));
    // It is forgotten when the lease would be over.
    let shelf = bench.store.records();
    assert_eq!(shelf.len(crate::store::RecordTable::Released), 1);
    bench.clock.advance(Duration::from_millis(92 * DAY_MS));
    again.book.expire(Instant::now()).expect("expires");
    assert!(shelf.is_empty(crate::store::RecordTable::Released));
}

#[test]
fn the_owner_ends_leases_without_their_names_and_they_do_not_come_back() {
    let bench = bench(1 << 30);
    let peer = PeerId::random();
    let (one, other) = (blocks(3), blocks(7)[4..].to_vec());
    let first = bench.whole(peer, 1, &one);
    let second = bench.whole(peer, 2, &other);
    let now = bench.clock.now();
    let release = |extent, made| bench.release(Release::of_many(&owner(), extent, made));
    let unknown = BlockId::from_sha384([0x55; 48]);
    assert_eq!(release(Extent::Backup(unknown), now), Err(Refusal::Unknown));
    let root = first.terms().root;
    // What is newer than the release stays, and that is said.
    assert_eq!(release(Extent::Backup(root), Timestamp(0)), Ok((0, 1)));
    assert_eq!(release(Extent::Backup(root), now), Ok((1, 0)));
    let refused = Answer::Refused(Refusal::Invalid);
    assert_eq!(bench.keep(peer, &first, &ids_of(&one)), refused);
    let leases = bench.store.leases().expect("reads");
    assert_eq!(leases.len(), 1, "that of the other backup");
    assert_eq!(release(Extent::Everything, now), Ok((1, 0)));
    assert!(bench.store.leases().expect("reads").is_empty());
    assert_eq!(bench.keep(peer, &second, &ids_of(&other)), refused);
    // Another one of the same backup that was passed on meanwhile is no way back either.
    let passed = bench.lease(3, 1, &ids_of(&one));
    assert_eq!(bench.keep(peer, &passed, &ids_of(&one)), refused);
    assert_eq!(release(Extent::Everything, now), Err(Refusal::Unknown));
    // A backup that is made later is kept.
    let later = bench.lease(4, now.0 + 1, &ids_of(&one));
    let kept = bench.keep(peer, &later, &ids_of(&one));
    assert!(matches!(kept, Answer::State(_)), "{kept:?}");
}

/// Whoever has a machine's key gives a lease the name that stands for all of an owner's or of a backup's, and ends it.
#[test]
fn a_machine_ends_no_more_than_the_lease_that_it_names() {
    let bench = bench(1 << 30);
    let (peer, thief) = (PeerId::random(), PeerId::random());
    let list = blocks(3);
    let ids = ids_of(&list);
    let mine = bench.whole(peer, 1, &list);
    let certificate = crate::head::certify(&owner(), &machine().verifying_key().to_bytes());
    for extent in [Extent::Everything, Extent::Backup(mine.terms().root)] {
        let mut terms = mine.terms().clone();
        terms.name = extent.name().expect("something stands for it");
        terms.minimum_until = terms.made;
        let name = terms.name;
        let bait = Lease::sign(&owner_key(), &machine(), &certificate, terms);
        let kept = bench.keep(thief, &bait, &ids);
        assert!(matches!(kept, Answer::State(_)), "{kept:?}");
        let (key, now) = (owner_key(), bench.clock.now());
        let release = Release::by_machine(&key, &machine(), &certificate, name, u64::MAX, now);
        assert_eq!(bench.release(release), Ok((1, 0)));
        let refused = Answer::Refused(Refusal::Invalid);
        assert_eq!(bench.keep(thief, &bait, &ids), refused);
    }
    let again = bench.reopened();
    assert_eq!(again.store.leases().expect("reads").len(), 1);
    assert_eq!(again.book.shared().len(), 1);
    let kept = again.keep(peer, &again.lease(2, 1, &ids), &ids);
    assert!(matches!(kept, Answer::State(_)), "{kept:?}");
    // The owner's own word counts beside it.
    let all = Release::of_many(&owner(), Extent::Everything, again.clock.now());
    assert_eq!(again.release(all), Ok((2, 0)));
    let refused = Answer::Refused(Refusal::Invalid);
    assert_eq!(again.reopened().keep(peer, &mine, &ids), refused);
}

#[test]
fn a_release_of_many_leases_by_a_clock_that_is_ahead_ends_none() {
    let bench = bench(1 << 30);
    let list = blocks(3);
    let lease = bench.whole(PeerId::random(), 1, &list);
    let most = bench.clock.now().0 + DAY_MS;
    for extent in [Extent::Everything, Extent::Backup(lease.terms().root)] {
        for made in [most + 1, u64::MAX] {
            let release = Release::of_many(&owner(), extent, Timestamp(made));
            assert_eq!(bench.release(release), Err(Refusal::Invalid));
        }
    }
    let later = bench.lease(2, most, &ids_of(&list));
    let kept = bench.keep(PeerId::random(), &later, &[]);
    assert!(matches!(kept, Answer::State(_)), "{kept:?}");
    let release = Release::of_many(&owner(), Extent::Everything, Timestamp(most));
    assert_eq!(bench.release(release), Ok((2, 0)));
}

/// The process ends after a release of leases that last differently long is remembered, and before any of them is gone.
#[test]
fn a_release_is_known_for_as_long_as_the_last_of_its_leases() {
    let bench = bench(1 << 30);
    let peer = PeerId::random();
    let list = blocks(12);
    let mut last = None;
    for n in 0..4u8 {
        let at = 3 * usize::from(n);
        last = Some(bench.whole(peer, n, &list[at..at + 3]));
        bench.clock.advance(Duration::from_millis(5 * DAY_MS));
    }
    let last = last.expect("the one that is over last");
    let before = bench.store.leases().expect("reads");
    let all = Release::of_many(&owner(), Extent::Everything, bench.clock.now());
    assert_eq!(bench.release(all.clone()), Ok((4, 0)));
    for (_, info) in &before {
        bench.store.begin_lease(info).expect("begins");
    }
    let again = bench.reopened();
    assert!(again.store.leases().expect("reads").is_empty());
    let left = last.terms().until.0 - bench.clock.now().0;
    bench.clock.advance(Duration::from_millis(left - 1));
    again.book.expire(Instant::now()).expect("expires");
    let refused = Answer::Refused(Refusal::Invalid);
    assert_eq!(again.keep(peer, &last, &ids_of(&list[9..])), refused);
    let shelf = again.store.records();
    assert_eq!(shelf.len(crate::store::RecordTable::Released), 1);
    for book in [&bench.book, &again.book, &again.reopened().book] {
        book.forwards().forget(bench.clock.now());
        let due = book.forwards().due(peer, false);
        assert_eq!(due, std::slice::from_ref(&all));
    }
}

#[test]
fn a_block_that_is_found_missing_is_fetched_again() {
    let bench = bench(1 << 30);
    let peer = PeerId::random();
    let blocks = blocks(3);
    let ids = ids_of(&blocks);
    bench.whole(peer, 1, &blocks);
    bench.store.discard(ids[1]).expect("it is here");
    let prove = || {
        let prove = Request::Prove {
            owner: owner_key(),
            name: [1; 16],
            nonce: [5; 32],
            ids: ids.clone(),
        };
        match bench.book.answer(peer, prove) {
            Answer::Proofs(proofs) => proofs.iter().filter(|proof| proof.is_some()).count(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(prove(), 2);
    assert!(!bench.store.leases().expect("reads")[0].1.complete);
    let job = bench.book.jobs().remove(0);
    assert_eq!(job.missing.load(Ordering::Relaxed), 1);
    bench.store.put(&blocks, Keep::Cached).expect("room");
    bench.book.complete(job.lease).expect("completes");
    assert_eq!((prove(), bench.book.jobs().len()), (3, 0));
    // What no lease is about says nothing of a lease.
    let other = Block::new(vec![1; 9].into()).expect("a block").id();
    let prove = Request::Prove {
        owner: owner_key(),
        name: [1; 16],
        nonce: [5; 32],
        ids: vec![other],
    };
    bench.book.answer(peer, prove);
    assert!(bench.book.jobs().is_empty());
}

/// Filling a lease of ids that nobody has ends after a turn, and goes on where it was.
#[tokio::test]
async fn made_up_leases_leave_turns_to_others() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    // More than can be looked for in a turn, however soon each is given up.
    let made_up: Vec<_> = (0..4000_u32)
        .map(|n| {
            let mut hash = [7; 48];
            hash[..4].copy_from_slice(&n.to_be_bytes());
            BlockId::from_sha384(hash)
        })
        .collect();
    let lease = lease(b.net().peer_id(), 1, 1, &made_up, clock.now());
    let lend = Lend::of_bytes(1 << 30);
    let local = b.net().peer_id().to_bytes();
    let book = Book::open(b.store().clone(), clock.clone(), lend, local).expect("opens");
    let book = Arc::new(book);
    let keep = Request::Keep {
        lease,
        ids: made_up,
    };
    book.answer(a.net().peer_id(), keep);
    tokio::time::pause();
    let mut progress = Progress::default();
    let mut turns = 0;
    let missing = loop {
        let job = book.jobs().remove(0);
        match pull(&b, &book, job, progress).await.expect("reads") {
            Pulled::Paused(now) => progress = now,
            Pulled::Missing(missing) => break missing,
            Pulled::All | Pulled::Full => panic!("nobody has them"),
        }
        turns += 1;
    };
    assert_eq!(missing, 4000);
    assert!(turns > 0, "all in one turn");
}

/// The process ends after a release is remembered and before its lease is gone.
#[test]
fn a_lease_that_was_being_ended_is_ended_at_the_next_start() {
    let bench = bench(1 << 30);
    let peer = PeerId::random();
    bench.whole(peer, 1, &blocks(3));
    let before = bench.store.leases().expect("reads").remove(0).1;
    let release = Release::by_owner(&owner(), [1; 16], 1, bench.clock.now());
    bench
        .book
        .answer(peer, Request::Release(Box::new(release.clone())));
    bench.store.begin_lease(&before).expect("begins");
    let open = || {
        let (lend, local) = (Lend::of_bytes(1 << 30), bench.local.to_bytes());
        Book::open(bench.store.clone(), bench.clock.clone(), lend, local).expect("opens")
    };
    let book = open();
    assert!(bench.store.leases().expect("reads").is_empty());
    // One that was renewed since stays.
    let ids = ids_of(&blocks(3));
    let newer = bench.lease(1, 2, &ids);
    let request = Request::Keep {
        lease: Box::new(newer),
        ids,
    };
    let answer = book.answer(peer, request);
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    open();
    assert_eq!(bench.store.leases().expect("reads").len(), 1);
    let late = Request::Release(Box::new(release));
    assert_eq!(
        open().answer(peer, late),
        Answer::Refused(Refusal::Invalid),
        "a newer one is not ended by it"
    );
}

/// Somebody brought leases and ended them until no more releases are remembered: one more ends its lease all the same.
#[test]
fn no_more_releases_are_remembered_than_may_be() {
    use crate::store::RecordTable::Released;
    let bench = bench(1 << 30);
    let shelf = bench.store.records();
    for n in 1..65_536u32 {
        shelf
            .put(Released, &n.to_be_bytes(), &[0xff; 16])
            .expect("fits");
    }
    let peer = PeerId::random();
    let ids = ids_of(&blocks(1));
    let end = |name, sequence| {
        bench.keep(peer, &bench.lease(name, sequence, &ids), &ids);
        let release = Release::by_owner(&owner(), [name; 16], sequence, bench.clock.now());
        let answer = bench.book.answer(peer, Request::Release(Box::new(release)));
        assert!(matches!(answer, Answer::State(_)), "{answer:?}");
        assert!(bench.store.leases().expect("reads").is_empty());
        assert_eq!(shelf.len(Released), 65_536);
    };
    let comes_back = |name, sequence| {
        let answer = bench.keep(peer, &bench.lease(name, sequence, &ids), &ids);
        answer != Answer::Refused(Refusal::Invalid)
    };
    end(1, 1);
    assert!(!comes_back(1, 1));
    end(2, 1);
    assert_eq!(bench.book.forwards().due(peer, false).len(), 2);
    // What is remembered is so for longer all the same.
    end(1, 2);
    assert!(!comes_back(1, 2));
    assert!(comes_back(2, 1));
}

#[test]
fn leases_that_do_not_fit_the_time_are_told_of() {
    let bench = bench(1 << 30);
    let ids = ids_of(&blocks(1));
    let (early, late) = (PeerId::random(), PeerId::random());
    let is_told = || bench.book.describe().contains("is the clock");
    let refused = Answer::Refused(Refusal::Invalid);
    let day = Duration::from_millis(DAY_MS);
    let lease_of_now = bench.lease(1, 1, &ids);
    bench.clock.advance(day);
    bench.clock.advance(day);
    let lease_of_future = bench.lease(2, 1, &ids);
    let back = ManualClock::default();
    back.advance(Duration::from_secs(1_000_000_000));
    let behind = Book::open(
        memory(&bench.clock),
        Arc::new(back),
        Lend::of_bytes(1 << 30),
        bench.local.to_bytes(),
    )
    .expect("opens");
    let keep = |lease: &Lease| Request::Keep {
        lease: Box::new(lease.clone()),
        ids: ids.clone(),
    };
    assert_eq!(behind.answer(early, keep(&lease_of_future)), refused);
    assert!(behind.describe().contains("leases of 1 peer "));
    behind.answer(early, keep(&lease_of_now));
    assert!(!behind.describe().contains("leases of 1 peer "));

    assert!(!is_told());
    bench.clock.advance(100 * day);
    assert_eq!(bench.keep(late, &lease_of_now, &ids), refused);
    assert!(is_told());
    let of_today = bench.lease(3, 1, &ids);
    bench.keep(late, &of_today, &ids);
    assert!(!is_told());
}

/// Leases of heads, and what an older program left behind, say nothing to the book.
#[test]
fn a_lease_of_a_head_is_left_to_the_job_for_heads() {
    let bench = bench(1 << 30);
    let head = BlockId::from_sha384([9; 48]);
    assert!(bench.book.keep_head(head).expect("writes"));
    let (lend, local) = (Lend::of_bytes(1 << 30), bench.local.to_bytes());
    let book = Book::open(bench.store.clone(), bench.clock.clone(), lend, local).expect("opens");
    assert!(book.jobs().is_empty() && book.shared().is_empty());
    bench.clock.advance(Duration::from_millis(1000 * DAY_MS));
    let up = Instant::now();
    for at in [up, up + book::OVER_FOR] {
        assert_eq!(book.expire(at).expect("looks"), 0);
    }
    assert_eq!(bench.store.leases().expect("reads").len(), 1);
}

/// The attack: a stolen machine that its owner turned out ends its own leases, renews them, and
/// asks for more. Leases that are kept for it go on being kept.
#[test]
fn a_machine_that_was_turned_out_ends_nothing_and_asks_for_nothing() {
    let bench = bench(1 << 30);
    let (peer, list) = (PeerId::random(), blocks(6));
    let mut terms = bench.lease(1, 1, &ids_of(&list[..3])).terms().clone();
    terms.minimum_until = terms.made;
    let key = machine().verifying_key().to_bytes();
    let certificate = crate::head::certify(&owner(), &key);
    let sign = |terms| Lease::sign(&owner_key(), &machine(), &certificate, terms);
    let kept = bench.keep(peer, &sign(terms.clone()), &ids_of(&list[..3]));
    assert!(matches!(kept, Answer::State(_)), "{kept:?}");
    let made = bench.clock.now();
    let link = crate::block::Link {
        id: list[0].id(),
        key: crate::crypto::key::Key::new([1; 32]),
    };
    let entry = HeadEntry::sign(
        &owner_key(),
        &machine(),
        &certificate,
        1,
        0,
        &link,
        &[2; 32],
    );
    let head = HeadRecord::new(entry);
    let out = Revocation::sign(&owner(), key, made, []);
    let head = head.decided(&Decisions::new(vec![out], None), made);
    for _ in 0..2 {
        revoked::note(bench.store.records(), &head).expect("room");
    }
    bench.clock.advance(Duration::from_secs(60));
    let now = bench.clock.now();
    let release = Release::by_machine(&owner_key(), &machine(), &certificate, [1; 16], 9, now);
    assert_eq!(bench.release(release.clone()), Err(Refusal::Invalid));
    let refused = Answer::Refused(Refusal::Invalid);
    let again = |sequence| {
        sign(Terms {
            sequence,
            ..terms.clone()
        })
    };
    assert_eq!(bench.keep(peer, &again(2), &[]), refused);
    let more = bench.lease(2, 1, &ids_of(&list[3..]));
    assert_eq!(bench.keep(peer, &more, &[]), refused);
    // A lease that members pass on among themselves is kept if it is of the time before.
    let other = PeerId::random();
    let passed = |made| {
        let more = shared_lease(other, 3, 1, &ids_of(&list[3..]), made, 2);
        bench.keep(peer, &more, &[])
    };
    assert_eq!(passed(now), refused);
    assert!(matches!(passed(made), Answer::State(_)));
    // After a restart it is known as well; the owner's own word ends what it likes.
    let later = bench.reopened();
    assert_eq!(later.release(release), Err(Refusal::Invalid));
    let by_owner = Release::by_owner(&owner(), [1; 16], 9, now);
    assert_eq!(later.release(by_owner), Ok((1, 0)));
}
