//! One member that takes all it gets, an honest one, and one that was removed.

use std::sync::Mutex;

use super::book::{Book, NOTICE};
use super::tests::{blocks, clock, lease, memory};
use super::*;
use crate::block::Block;
use crate::time::ManualClock;

/// Members and removed ones, as a test says at each time.
#[derive(Default)]
struct Ring {
    members: Mutex<Vec<PeerId>>,
    removed: Mutex<Vec<PeerId>>,
}

impl Candidates for Ring {
    fn peers(&self) -> Vec<PeerId> {
        self.members.lock().expect("whole").clone()
    }

    fn removed(&self) -> Vec<PeerId> {
        self.removed.lock().expect("whole").clone()
    }
}

struct Scene {
    clock: Arc<ManualClock>,
    store: Arc<dyn Store>,
    ring: Arc<Ring>,
    book: Book,
    local: PeerId,
    all: Vec<Block>,
}

impl Scene {
    /// A holder that lends room for 100 blocks.
    fn new(members: &[PeerId]) -> Self {
        let (clock, ring) = (clock(), Arc::new(Ring::default()));
        *ring.members.lock().expect("whole") = members.to_vec();
        let (store, local) = (memory(&clock), PeerId::random());
        let book = open(&store, &clock, &ring, local);
        let all = blocks(200);
        Self {
            clock,
            store,
            ring,
            book,
            local,
            all,
        }
    }

    /// Asks for a lease of these blocks, which come at once if they may.
    fn keep(
        &self,
        peer: PeerId,
        name: u8,
        sequence: u64,
        blocks: std::ops::Range<usize>,
    ) -> Answer {
        let blocks = &self.all[blocks];
        let ids: Vec<BlockId> = blocks.iter().map(Block::id).collect();
        let lease = lease(self.local, name, sequence, &ids, self.clock.now());
        let answer = self.book.answer(peer, Request::Keep { lease, ids });
        if matches!(answer, Answer::State(_)) {
            self.store.put(blocks, Keep::Cached).expect("room");
            for job in self.book.jobs() {
                self.book.complete(job.lease).expect("whole");
            }
            self.book.count_used().expect("counted");
        }
        answer
    }
}

fn open(store: &Arc<dyn Store>, clock: &Arc<ManualClock>, ring: &Arc<Ring>, local: PeerId) -> Book {
    let lend = Lend::of_bytes(100_000);
    let book = Book::open(store.clone(), clock.clone(), lend, local.to_bytes()).expect("opens");
    let book = book.with_members(ring.clone());
    book.count_used().expect("counted");
    book
}

fn is_kept(answer: &Answer) -> bool {
    matches!(answer, Answer::State(_))
}

#[test]
fn one_that_takes_all_leaves_an_honest_one_its_share_also_after_a_restart() {
    let (greedy, honest) = (PeerId::random(), PeerId::random());
    let mut scene = Scene::new(&[greedy]);
    let mut taken = 0;
    for n in 0..20 {
        let at = usize::from(n) * 5;
        taken += u32::from(is_kept(&scene.keep(greedy, n, 1, at..at + 5)));
        // The bytes taken are known after a restart.
        scene.book = open(&scene.store, &scene.clock, &scene.ring, scene.local);
    }
    assert_eq!(taken, 15, "three quarters, while it is alone");
    scene.ring.members.lock().expect("whole").push(honest);
    assert!(!is_kept(&scene.keep(greedy, 50, 1, 100..101)));
    assert!(is_kept(&scene.keep(honest, 60, 1, 110..125)));
    // Beyond its share nothing is renewed while the other one lacks room; what is within it is.
    assert!(!is_kept(&scene.keep(greedy, 0, 2, 0..5)));
    assert!(is_kept(&scene.keep(honest, 60, 2, 110..125)));
    // The promise of before holds.
    assert_eq!(scene.store.leases().expect("reads").len(), 16);
}

#[test]
fn the_same_blocks_in_many_leases_count_once() {
    let peer = PeerId::random();
    let scene = Scene::new(&[peer]);
    for n in 0..3 {
        assert!(is_kept(&scene.keep(peer, n, 1, 0..30)), "{n}");
    }
    assert!(!is_kept(&scene.keep(peer, 30, 1, 30..80)));
    assert!(is_kept(&scene.keep(peer, 31, 1, 30..70)));
}

#[test]
fn leases_of_a_removed_member_end_after_a_notice() {
    let (stays, goes) = (PeerId::random(), PeerId::random());
    let mut scene = Scene::new(&[stays, goes]);
    assert!(is_kept(&scene.keep(stays, 1, 1, 0..5)));
    assert!(is_kept(&scene.keep(goes, 2, 1, 5..10)));
    assert_eq!(scene.book.give_notice().expect("writes"), 0);
    *scene.ring.members.lock().expect("whole") = vec![stays];
    *scene.ring.removed.lock().expect("whole") = vec![goes];
    // The peer that each lease is from is known after a restart, too.
    scene.book = open(&scene.store, &scene.clock, &scene.ring, scene.local);
    assert_eq!(scene.book.give_notice().expect("writes"), 1);
    assert_eq!(scene.book.give_notice().expect("writes"), 0, "once");
    let last = scene.clock.now().after(NOTICE);
    let leases = scene.store.leases().expect("reads");
    let ending = leases.iter().filter(|(_, info)| info.until <= last);
    assert_eq!((leases.len(), ending.count()), (2, 1));
}
