//! Who is heard when many ask, and who is stored for when little is left.

use super::tests::{LONG, ask, blocks, clock, hold, lease, memory, pair};
use super::*;
use crate::block::Block;
use crate::depot::ledger::{ALLOWANCE_BYTES, Amount, Ledger};
use crate::store::{MemoryStore, StoreOptions};

#[tokio::test]
async fn a_flood_hears_busy_and_the_holder_lives_on() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let workers = hold(&b, &clock, 1 << 30);
    let ids: Vec<_> = blocks(2).iter().map(Block::id).collect();
    let replay = lease(b.net().peer_id(), 1, 1, &ids, clock.now());
    let replica = a.net().replica();
    let flood = (0..300).map(|n| {
        let request = match n % 2 {
            0 => Request::Room,
            _ => Request::Keep {
                lease: replay.clone(),
                ids: ids.clone(),
            },
        };
        replica.ask(b.net().peer_id(), request)
    });
    let answers = futures::future::join_all(flood).await;
    let fits = |answer: &Result<Answer, _>| {
        matches!(
            answer,
            Ok(Answer::State(_) | Answer::Refused(Refusal::Busy))
        )
    };
    assert!(answers.iter().all(fits), "{answers:?}");
    // The same lease so many times is one lease.
    assert_eq!(b.store().leases().expect("reads").len(), 1);
    assert!(matches!(ask(&a, &b, Request::Room).await, Answer::State(_)));
    workers.stop(LONG).await;
}

/// How a lease of one block is answered when so many of 100 blocks that are lent are used.
#[tokio::test]
async fn when_little_is_left_free_riders_are_stored_for_last() {
    let clock = clock();
    let (rider, newcomer) = (PeerId::random(), PeerId::random());
    let ledger = Arc::new(Ledger::default());
    let got = Amount {
        blocks: 1,
        bytes: ALLOWANCE_BYTES + 1,
    };
    ledger.served(rider, got);
    // All who may ask are members: what counts is what it gave.
    ledger.refresh(&[rider].into());
    let all = blocks(100);
    let bytes = all.iter().map(|block| block.bytes().len() as u64).sum();
    for (used, of_rider) in [(79, true), (80, false)] {
        let store = memory(&clock);
        let local = PeerId::random();
        let lend = Lend::of_bytes(bytes);
        let book = Book::open(store.clone(), clock.clone(), lend, local.to_bytes())
            .expect("opens")
            .with_ledger(ledger.clone());
        let keep = |peer, name, blocks: &[Block]| {
            let ids: Vec<_> = blocks.iter().map(Block::id).collect();
            let lease = Box::new(*lease(local, name, 1, &ids, clock.now()));
            book.answer(peer, Request::Keep { lease, ids })
        };
        let answer = keep(newcomer, 1, &all[..used]);
        assert!(matches!(answer, Answer::State(_)), "{answer:?}");
        store.put(&all[..used], Keep::Cached).expect("room");
        let answer = keep(rider, 2, &all[99..]);
        let expected = Answer::Refused(Refusal::Full);
        assert_eq!(answer != expected, of_rider, "{used}: {answer:?}");
        let answer = keep(newcomer, 3, &all[98..99]);
        assert!(matches!(answer, Answer::State(_)), "{used}: {answer:?}");
        let (kept, of_all) = book.kept();
        assert!(of_all);
        assert_eq!(kept[&newcomer].blocks, used as u64 + 1);
        assert_eq!(kept.contains_key(&rider), of_rider);
    }
}

#[tokio::test]
async fn both_sides_write_down_what_was_served_and_what_it_costs() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let block = blocks(1).remove(0);
    a.store()
        .put(std::slice::from_ref(&block), Keep::Cached)
        .expect("room");
    let session = b.session(LONG, Keep::Cached);
    session.prefer(a.net().peer_id());
    session.get(block.id()).await.expect("it is there");
    let amount = Amount {
        blocks: 1,
        bytes: block.bytes().len() as u64,
    };
    let of_a = a.ledger().list();
    assert_eq!((of_a.len(), of_a[0].0), (1, b.net().peer_id()));
    assert_eq!((of_a[0].1.served, of_a[0].1.taken.blocks), (amount, 0));
    let of_b = b.ledger().list();
    assert_eq!((of_b.len(), of_b[0].0), (1, a.net().peer_id()));
    assert_eq!((of_b[0].1.taken, of_b[0].1.served.blocks), (amount, 0));
}

/// What is mine leaves little of what is lent.
#[test]
fn what_is_mine_makes_a_holder_nearly_full_too() {
    let clock = clock();
    for (mine, of_rider) in [(89_000, true), (90_000, false)] {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions {
            clock: clock.clone(),
            quota: crate::size::ByteSize(100_000),
            ..StoreOptions::default()
        }));
        let pin = store.begin_pin("mine").expect("begins");
        let block = Block::new(vec![7; mine].into()).expect("a block");
        store.put(&[block], Keep::Pinned(pin)).expect("room");
        let (rider, newcomer) = (PeerId::random(), PeerId::random());
        let ledger = Arc::new(Ledger::default());
        let got = Amount {
            blocks: 1,
            bytes: ALLOWANCE_BYTES + 1,
        };
        ledger.served(rider, got);
        let (local, lend) = (PeerId::random(), Lend::of_bytes(50_000));
        let book = Book::open(store, clock.clone(), lend, local.to_bytes());
        let book = book.expect("opens").with_ledger(ledger);
        let keep = |peer, name| {
            let ids: Vec<_> = blocks(1).iter().map(Block::id).collect();
            let lease = lease(local, name, 1, &ids, clock.now());
            book.answer(peer, Request::Keep { lease, ids })
        };
        let full = Answer::Refused(Refusal::Full);
        assert_eq!(keep(rider, 1) != full, of_rider, "{mine}");
        assert!(keep(newcomer, 2) != full, "{mine}");
    }
}
