//! Holders among themselves: leases that are passed on, and releases that follow them.

use super::tests::{
    DAY_MS, LONG, ask, blocks, clock, durable, hold, memory, node, owner, pair, shared_lease,
};
use super::*;
use crate::block::Block;
use crate::lease::{Extent, Release};

struct Only(PeerId);

impl Candidates for Only {
    fn peers(&self) -> Vec<PeerId> {
        vec![self.0]
    }
}

#[tokio::test]
async fn holders_pass_a_lease_on_when_its_owner_is_gone() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let c = node(memory(&clock)).await;
    let address = c.net().listen_addresses()[0].clone();
    b.net().peers().connect(address).await.expect("it connects");
    let workers = [hold(&b, &clock, 1 << 30), hold(&c, &clock, 1 << 30)];
    let blocks = blocks(20);
    a.store().put(&blocks, Keep::Cached).expect("room");
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let lease = shared_lease(b.net().peer_id(), 1, 1, &ids, clock.now(), 2);
    let request = Request::Keep {
        lease,
        ids: ids.clone(),
    };
    ask(&a, &b, request).await;
    durable(&a, &b, 1).await;

    let lend = Lend::of_quota(1 << 30);
    let local = b.net().peer_id().to_bytes();
    let book = Book::open(b.store().clone(), clock.clone(), lend.clone(), local).expect("opens");
    let passer = || pass::Passer {
        depot: b.clone(),
        book: Arc::new(
            Book::open(
                b.store().clone(),
                clock.clone(),
                lend.clone(),
                b.net().peer_id().to_bytes(),
            )
            .expect("opens"),
        ),
        clock: clock.clone(),
        candidates: Arc::new(Only(c.net().peer_id())),
        limits: circle::Limits::default(),
        known: std::collections::BTreeMap::new(),
    };
    assert_eq!(book.shared().len(), 1);
    let mut first = passer();
    first.round(Duration::ZERO, true).await;
    let day = Duration::from_millis(DAY_MS);
    clock.advance(day);
    first.round(day, true).await;
    assert!(c.store().leases().expect("reads").is_empty(), "not yet");
    // After a restart what was heard is known still.
    let mut second = passer();
    clock.advance(day);
    second.round(Duration::from_secs(60), true).await;
    let has_all = || c.store().usage().leased_bytes == 20_000;
    let comes = async {
        while !has_all() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, comes).await.expect("it comes");
    // Not longer than the owner asked for, and nobody else is asked.
    let leases = c.store().leases().expect("reads");
    let most = clock.now().0 + 89 * DAY_MS;
    assert!(leases[0].1.until.0 <= most, "{:?}", leases[0].1.until);
    let told = async {
        while second.known.values().all(|kept| kept.others.is_empty()) {
            second.round(Duration::ZERO, true).await;
        }
    };
    tokio::time::timeout(LONG, told).await.expect("it is told");
    // Who says it keeps a backup and can't show it does not count.
    for id in &ids {
        c.store().discard(*id).expect("it is here");
    }
    second.round(Duration::ZERO, true).await;
    assert!(second.known.values().all(|kept| kept.others.is_empty()));
    // What is known of a backup goes with it.
    let shelf = b.store().records();
    assert_eq!(shelf.len(crate::store::RecordTable::Circle), 1);
    let kept = second.book.shared();
    for mine in kept.values() {
        second.book.give_up(mine.id).expect("it is here");
    }
    second.round(Duration::ZERO, true).await;
    assert!(shelf.is_empty(crate::store::RecordTable::Circle));
    for workers in workers {
        workers.stop(LONG).await;
    }
}

/// Who ends a lease at one holder ends it at those to whom it was passed on, once, and also after a restart in between.
#[tokio::test]
async fn a_release_goes_the_way_that_its_lease_went() {
    let clock = clock();
    let (b, c) = pair(&clock).await;
    let workers = hold(&c, &clock, 1 << 30);
    let blocks = blocks(3);
    b.store().put(&blocks, Keep::Cached).expect("room");
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let local = b.net().peer_id();
    let open = || {
        let lend = Lend::of_quota(1 << 30);
        let book = Book::open(b.store().clone(), clock.clone(), lend, local.to_bytes());
        Arc::new(book.expect("opens"))
    };
    let book = open();
    let keep = || Request::Keep {
        lease: shared_lease(local, 1, 1, &ids, clock.now(), 2),
        ids: ids.clone(),
    };
    let first = keep();
    let answer = book.answer(PeerId::random(), first.clone());
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    let answer = ask(&b, &c, first.clone()).await;
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    durable(&b, &c, 1).await;

    let release = Box::new(Release::by_owner(&owner(), [1; 16], 1, clock.now()));
    let answer = book.answer(PeerId::random(), Request::Release(release.clone()));
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    assert_eq!(c.store().leases().expect("reads").len(), 1);
    let passer = |book: &Arc<Book>, to: PeerId| pass::Passer {
        depot: b.clone(),
        book: book.clone(),
        clock: clock.clone(),
        candidates: Arc::new(Only(to)),
        limits: circle::Limits::default(),
        known: std::collections::BTreeMap::new(),
    };
    let to = c.net().peer_id();
    // The node is killed before it tells anybody.
    drop(book);
    let book = open();
    assert_eq!(book.forwards().due(to, false), [*release.clone()]);
    passer(&book, to).round(Duration::ZERO, false).await;
    assert!(c.store().leases().expect("reads").is_empty());
    assert_eq!(c.store().usage().leased_bytes, 0);
    // Told once, and nothing is undone by telling it again.
    assert!(book.forwards().due(to, true).is_empty());
    let book = open();
    passer(&book, to).round(Duration::ZERO, false).await;
    assert!(book.forwards().due(to, true).is_empty());
    let refused = Answer::Refused(Refusal::Invalid);
    assert_eq!(ask(&b, &c, first).await, refused, "it does not come back");
    // Who got it tells others in turn.
    let lend = Lend::of_quota(1 << 30);
    let theirs = Book::open(c.store().clone(), clock.clone(), lend, to.to_bytes());
    let theirs = theirs.expect("opens");
    assert_eq!(theirs.forwards().due(local, false), [*release]);
    // Nobody is told of it once the lease would be over.
    clock.advance(Duration::from_millis(92 * DAY_MS));
    passer(&book, to).round(Duration::ZERO, false).await;
    assert!(book.forwards().due(PeerId::random(), false).is_empty());
    assert!(open().forwards().due(to, false).is_empty());
    workers.stop(LONG).await;
}

/// One release ends leases that were for one holder alone, and others that were passed on: it goes on because of these, and ends both there, too.
#[tokio::test]
async fn a_release_of_many_leases_is_passed_on_if_one_of_them_was() {
    for copies in [0, 2] {
        let clock = clock();
        let (b, c) = pair(&clock).await;
        let workers = hold(&c, &clock, 1 << 30);
        let (local, to) = (b.net().peer_id(), c.net().peer_id());
        let ids: Vec<_> = blocks(4).iter().map(Block::id).collect();
        let (one, other) = ids.split_at(2);
        let open = || {
            let lend = Lend::of_quota(1 << 30);
            let book = Book::open(b.store().clone(), clock.clone(), lend, local.to_bytes());
            Arc::new(book.expect("opens"))
        };
        let book = open();
        let keep = |holder, name, ids: &[BlockId], copies| Request::Keep {
            lease: shared_lease(holder, name, 1, ids, clock.now(), copies),
            ids: ids.to_vec(),
        };
        for request in [keep(local, 1, one, copies), keep(local, 2, other, 0)] {
            let answer = book.answer(PeerId::random(), request);
            assert!(matches!(answer, Answer::State(_)), "{answer:?}");
        }
        // The other one has its own of the second backup, and of the first what may have been passed on.
        let mut theirs = vec![keep(to, 3, other, 0)];
        theirs.extend((copies > 0).then(|| keep(local, 1, one, copies)));
        let count = theirs.len();
        for request in theirs {
            let answer = ask(&b, &c, request).await;
            assert!(matches!(answer, Answer::State(_)), "{answer:?}");
        }
        let all = Release::of_many(&owner(), Extent::Everything, clock.now());
        let request = Request::Release(Box::new(all.clone()));
        let answer = book.answer(PeerId::random(), request);
        assert!(matches!(answer, Answer::State(_)), "{answer:?}");
        assert!(b.store().leases().expect("reads").is_empty());
        for book in [book, open()] {
            let due = book.forwards().due(to, false);
            assert_eq!(due.contains(&all), copies > 0, "{copies}");
        }
        assert_eq!(c.store().leases().expect("reads").len(), count);
        let mut passer = pass::Passer {
            depot: b.clone(),
            book: open(),
            clock: clock.clone(),
            candidates: Arc::new(Only(to)),
            limits: circle::Limits::default(),
            known: std::collections::BTreeMap::new(),
        };
        passer.round(Duration::ZERO, false).await;
        let left = c.store().leases().expect("reads").len();
        assert_eq!(left, usize::from(copies == 0), "{copies}");
        assert!(passer.book.forwards().due(to, true).is_empty());
        workers.stop(LONG).await;
        // Who heard of it tells others in turn, as it is written.
        let lend = Lend::of_quota(1 << 30);
        let theirs = Book::open(c.store().clone(), clock.clone(), lend, to.to_bytes());
        let due = theirs.expect("opens").forwards().due(local, false);
        assert_eq!(due.contains(&all), copies > 0, "{copies}");
    }
}

/// The holder that passed a lease on is gone for good when its owner ends it.
#[tokio::test]
async fn a_release_reaches_a_copy_whose_first_holder_is_gone() {
    let clock = clock();
    let (a, c) = pair(&clock).await;
    let workers = hold(&c, &clock, 1 << 30);
    let ids: Vec<_> = blocks(2).iter().map(Block::id).collect();
    let gone = PeerId::random();
    let keep = Request::Keep {
        lease: shared_lease(gone, 1, 1, &ids, clock.now(), 2),
        ids,
    };
    let answer = ask(&a, &c, keep).await;
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    let other = Release::by_owner(&owner(), [2; 16], 1, clock.now());
    let release = Release::by_owner(&owner(), [1; 16], 1, clock.now());
    let members = [gone, c.net().peer_id()];
    for (release, had) in [(&other, 0), (&release, 1), (&release, 0)] {
        assert_eq!(tell_of_release(&a, &members, release).await, had);
    }
    assert!(c.store().leases().expect("reads").is_empty());
    workers.stop(LONG).await;
}

#[tokio::test]
async fn a_release_of_what_was_for_one_holder_alone_goes_no_further() {
    let clock = clock();
    let (store, local) = (memory(&clock), PeerId::random());
    let lend = Lend::of_quota(1 << 30);
    let book = Book::open(store.clone(), clock.clone(), lend, local.to_bytes()).expect("opens");
    let ids: Vec<_> = blocks(1).iter().map(Block::id).collect();
    let keep = Request::Keep {
        lease: shared_lease(local, 1, 1, &ids, clock.now(), 0),
        ids,
    };
    book.answer(PeerId::random(), keep);
    let release = Release::by_owner(&owner(), [1; 16], 1, clock.now());
    let answer = book.answer(PeerId::random(), Request::Release(Box::new(release)));
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    assert!(book.forwards().due(PeerId::random(), true).is_empty());
}
