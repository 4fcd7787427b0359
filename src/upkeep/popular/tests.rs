use super::policy::{Ledger, Limits};
use super::*;
use crate::block::Block;
use crate::depot::serve::Server;
use crate::depot::{Depot, Pending, PendingBlocks};
use crate::id::BlockId;
use crate::lease::{Lease, Name, Release, Terms};
use crate::net::providers::MemoryShelf;
use crate::net::replica::{Answer, MAX_OFFERED, Refusal, Request, Why, Wish};
use crate::net::{Net, NetConfig, Services};
use crate::store::{Class, Keep, MemoryStore, PinInfo, Store, StoreOptions};
use crate::task::{WorkerState, Workers};
use crate::time::{Clock, ManualClock, Timestamp};
use crate::upkeep::holder::{self, Candidates, Lend};
use crate::upkeep::replicate::{self, Copies, Signer};
use libp2p::PeerId;
use libp2p::identity::Keypair;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(90);

/// Nobody is of a ring: offers are heard all the same.
struct Nobody;

impl Candidates for Nobody {
    fn peers(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

struct Mesh {
    clock: Arc<ManualClock>,
    a: Depot,
    b: Depot,
    workers: Workers,
}

async fn node(clock: &Arc<ManualClock>) -> Depot {
    let options = StoreOptions {
        clock: clock.clone(),
        ..StoreOptions::default()
    };
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(options));
    let server = Arc::new(Server::new(store.clone()).with_clock(clock.clone()));
    let services = Services {
        blocks: server.clone(),
        records: Arc::new(MemoryShelf::new()),
    };
    let config = NetConfig::in_memory(Keypair::generate_ed25519());
    let net = Net::start(config, services).await.expect("it starts");
    Depot::new(store, net, &server, Arc::new(Pending::default()))
}

/// Two nodes that are connected; the second takes what is offered.
async fn mesh() -> Mesh {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(1_000_000_000));
    let clock = Arc::new(clock);
    let (a, b) = (node(&clock).await, node(&clock).await);
    let address = b.net().listen_addresses()[0].clone();
    a.net().peers().connect(address).await.expect("it connects");
    let mut connected = b.net().peers().watch_connected();
    let both = connected.wait_for(|peers| !peers.is_empty());
    tokio::time::timeout(LONG, both)
        .await
        .expect("in time")
        .expect("it lives");
    let mut workers = Workers::default();
    let (held, now) = (b.clone(), clock.clone());
    let lend = Lend::of_quota(1 << 30);
    workers.spawn("holder", |c, s| {
        holder::run(held, now, lend, Arc::new(Nobody), c, s)
    });
    Mesh {
        clock,
        a,
        b,
        workers,
    }
}

impl Mesh {
    async fn offer(&self, why: Why, blocks: &[(BlockId, u32)]) -> Answer {
        let request = Request::Offer {
            why,
            blocks: blocks.to_vec(),
        };
        let replica = self.a.net().replica();
        let asked = replica.ask(self.b.net().peer_id(), request);
        asked.await.expect("an answer")
    }

    async fn wishes(&self, why: Why, blocks: &[(BlockId, u32)]) -> Vec<Wish> {
        match self.offer(why, blocks).await {
            Answer::Wishes(wishes) => wishes,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the second node has taken so many blocks.
    async fn taken(&self, blocks: u64) {
        let wait = async {
            while self.b.traffic().taken_blocks.load(Ordering::Relaxed) < blocks {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("they come");
    }
}

fn blocks(count: u8) -> Vec<Block> {
    let block = |n: u8| Block::new([n, 1].repeat(500).into()).expect("a block");
    (0..count).map(block).collect()
}

fn sizes(blocks: &[Block]) -> Vec<(BlockId, u32)> {
    blocks.iter().map(|block| (block.id(), 1000)).collect()
}

#[tokio::test]
async fn what_is_offered_is_taken_announced_and_only_cached() {
    let mesh = mesh().await;
    let blocks = blocks(3);
    mesh.a.store().put(&blocks, Keep::Cached).expect("room");
    let offered = sizes(&blocks);
    assert_eq!(mesh.wishes(Why::HandOver, &offered).await, [Wish::Want; 3]);
    mesh.taken(3).await;
    assert_eq!(mesh.wishes(Why::HandOver, &offered).await, [Wish::Have; 3]);
    let Some(PendingBlocks::Ids(fresh)) = mesh.b.fresh().take() else {
        panic!("they are to be announced");
    };
    assert_eq!(fresh.len(), 3);
    // They are nobody's backup: nothing but the cache keeps them, and no lease says so.
    for (id, _) in &offered {
        let stat = mesh.b.store().stat(*id).expect("reads").expect("known");
        assert_eq!((stat.class, stat.leases), (Some(Class::Cached), 0));
    }
    assert!(mesh.b.store().leases().expect("reads").is_empty());
    mesh.workers.stop(LONG).await;
}

/// Signs nothing: the owner's file is locked.
struct Locked;

impl Signer for Locked {
    fn opener(&self, _: BlockId) -> Option<crate::lease::Opener> {
        None
    }

    fn owner(&self) -> Option<[u8; 32]> {
        None
    }

    fn lease(&self, _: Terms) -> Option<Lease> {
        None
    }

    fn release(&self, _: Name, _: u64, _: Timestamp) -> Option<Release> {
        None
    }
}

/// Another node has every block of a backup, because they were offered: still the backup has no copy.
#[tokio::test]
async fn popular_copies_are_no_copies_of_a_backup() {
    let mesh = mesh().await;
    let (blocks, store) = (blocks(3), mesh.a.store());
    let pin = store.begin_pin("a backup").expect("pins");
    store.put(&blocks, Keep::Pinned(pin)).expect("room");
    let root = blocks[0].id();
    let info = PinInfo {
        root,
        link: None,
        name: "a backup".to_owned(),
        bytes: 1,
        files: 1,
        blocks: 3,
        created: Timestamp(1),
    };
    store.finish_pin(pin, &info).expect("finishes");
    mesh.wishes(Why::Popular, &sizes(&blocks)).await;
    mesh.taken(3).await;

    let dir = tempfile::tempdir().expect("a directory");
    let copies = Arc::new(Copies::open(&dir.path().join("copies")).expect("opens"));
    copies.want(root, "Documents", 1).expect("writes");
    let setup = replicate::Setup {
        copies: copies.clone(),
        depot: mesh.a.clone(),
        clock: mesh.clock.clone(),
        signer: Arc::new(Locked),
        candidates: Arc::new(Everybody(mesh.b.net().peer_id())),
        pin_name: "a backup",
        limits: replicate::Limits::default(),
    };
    let mut workers = Workers::default();
    workers.spawn("replicate", |c, s| replicate::run(setup, c, s));
    let state = workers.states()[0].clone();
    let looked = async {
        while state.get().0 == "starting" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, looked).await.expect("it looks");
    let limits = replicate::Limits::default();
    let reached = copies.reached(&root, mesh.clock.now(), &limits);
    assert_eq!(reached, Some((1, 0)));
    workers.stop(LONG).await;
    mesh.workers.stop(LONG).await;
}

struct Everybody(PeerId);

impl Candidates for Everybody {
    fn peers(&self) -> Vec<PeerId> {
        vec![self.0]
    }
}

#[tokio::test]
async fn who_offers_lies_is_not_heard_for_a_while() {
    let mesh = mesh().await;
    let blocks = blocks(2);
    mesh.a
        .store()
        .put(&blocks[..1], Keep::Cached)
        .expect("room");
    let id = blocks[0].id();
    assert_eq!(
        mesh.wishes(Why::Popular, &[(id, 999), (id, 999)]).await,
        [Wish::Want; 2],
        "one block, twice"
    );
    mesh.taken(1).await;
    assert_eq!(
        mesh.offer(Why::Popular, &sizes(&blocks)).await,
        Answer::Refused(Refusal::Unwilling),
        "the size was a lie"
    );
    assert!(!mesh.b.store().has(blocks[1].id()).expect("reads"));
    mesh.workers.stop(LONG).await;
}

#[tokio::test]
async fn floods_are_put_off() {
    let mesh = mesh().await;
    let blocks = blocks(1);
    mesh.b.store().put(&blocks, Keep::Cached).expect("room");
    let mut last = Answer::Refused(Refusal::Unknown);
    let mut heard = 0;
    while last != Answer::Refused(Refusal::Busy) {
        last = mesh.offer(Why::Popular, &sizes(&blocks)).await;
        heard += u32::from(last == Answer::Wishes(vec![Wish::Have]));
    }
    assert_eq!(heard, take::OFFERS_PER_MINUTE);
    mesh.workers.stop(LONG).await;
}

#[tokio::test]
async fn what_can_not_be_an_offer_is_refused_before_anything_else() {
    let mesh = mesh().await;
    let mut taker = Taker::new(mesh.b.clone(), accept::Limits::default());
    let from = PeerId::random();
    let many: Vec<_> = (0..=MAX_OFFERED as u8)
        .map(|n| (BlockId::from_sha384([n; 48]), 9))
        .collect();
    let invalid = Answer::Refused(Refusal::Invalid);
    assert_eq!(
        taker.answer(from, false, Why::Popular, Vec::new()).await,
        invalid
    );
    assert_eq!(
        taker.answer(from, false, Why::Popular, many.clone()).await,
        invalid
    );
    // Of as many as may be offered one peer's share is fetched; nobody has them, and the peer is not heard any more.
    let most = many[..MAX_OFFERED].to_vec();
    let Answer::Wishes(wishes) = taker.answer(from, false, Why::HandOver, most).await else {
        panic!("they are looked at");
    };
    let wanted = wishes.iter().filter(|wish| **wish == Wish::Want).count();
    assert_eq!(wanted, accept::Limits::default().in_flight_per_peer);
    mesh.b.stop();
    let fetched = taker.ended().await;
    taker.settle(fetched);
    let answer = taker
        .answer(from, false, Why::HandOver, many[..1].to_vec())
        .await;
    assert_eq!(answer, Answer::Refused(Refusal::Unwilling));
    assert_eq!(mesh.b.traffic().taken_blocks.load(Ordering::Relaxed), 0);
    mesh.workers.stop(LONG).await;
}

/// A flood of strangers: who has its share hears so without a look into the store, and a member is heard all the same.
#[tokio::test]
async fn strangers_beyond_their_share_cost_no_look_and_crowd_out_no_member() {
    let mesh = mesh().await;
    let limits = accept::Limits::default();
    let mut taker = Taker::new(mesh.b.clone(), limits);
    // No fetch ends while this test looks at what is under way.
    let mut next = 0u16;
    let mut offer = |count: usize| {
        let block = |_| {
            next += 1;
            let mut digest = [7; 48];
            digest[..2].copy_from_slice(&next.to_be_bytes());
            (BlockId::from_sha384(digest), 9)
        };
        (0..count).map(block).collect::<Vec<_>>()
    };
    let busy = Answer::Refused(Refusal::Busy);
    let of_one = limits.in_flight_per_peer;
    let flooding = limits.in_flight_of_strangers / of_one;
    for n in 0..flooding {
        let stranger = PeerId::random();
        let answer = taker.answer(stranger, false, Why::Popular, offer(of_one));
        assert_eq!(answer.await, Answer::Wishes(vec![Wish::Want; of_one]));
        let looks = taker.looks;
        assert_eq!(looks, n as u64 + 1);
        let more = taker.answer(stranger, false, Why::Popular, offer(1));
        assert_eq!(more.await, busy);
        assert_eq!(taker.looks, looks);
    }
    let looks = taker.looks;
    // So many names that no more are counted.
    for _ in 0..take::MAX_COUNTED {
        let answer = taker.answer(PeerId::random(), false, Why::HandOver, offer(1));
        assert_eq!(answer.await, busy);
    }
    assert_eq!(taker.looks, looks, "nothing of that was looked up");
    let member = PeerId::random();
    let answer = taker.answer(member, true, Why::HandOver, offer(of_one));
    assert_eq!(answer.await, Answer::Wishes(vec![Wish::Want; of_one]));
    mesh.b.stop();
    mesh.workers.stop(LONG).await;
}

/// A peer that only took offers what is here and what is not, to a node that is nearly full and to one that is not.
#[tokio::test]
async fn a_nearly_full_node_takes_no_offers_of_free_riders() {
    use crate::depot::ledger::{ALLOWANCE_BYTES, Amount};
    let clock = Arc::new(ManualClock::default());
    let depot = node(&clock).await;
    let quota = depot.store().usage().quota;
    let rider = PeerId::random();
    let got = Amount {
        blocks: 1,
        bytes: ALLOWANCE_BYTES + 1,
    };
    depot.ledger().served(rider, got);
    let offered = |n: u8| vec![(BlockId::from_sha384([n; 48]), 9)];
    let limits = accept::Limits {
        // Nearly full from the first byte on.
        nearly_full_percent: 0,
        ..accept::Limits::default()
    };
    assert!(quota > 0);
    let mut full = Taker::new(depot.clone(), limits);
    let mut empty = Taker::new(depot.clone(), accept::Limits::default());
    for why in [Why::Popular, Why::HandOver] {
        let answer = full.answer(rider, false, why, offered(1)).await;
        assert_eq!(answer, Answer::Refused(Refusal::Full));
        assert_eq!(full.looks, 0);
    }
    let want = Answer::Wishes(vec![Wish::Want]);
    let newcomer = PeerId::random();
    let answer = full.answer(newcomer, false, Why::Popular, offered(2));
    assert_eq!(answer.await, want);
    let answer = empty.answer(rider, false, Why::Popular, offered(3)).await;
    assert_eq!(answer, want);
    // A member is heard whatever it took.
    let answer = full.answer(rider, true, Why::HandOver, offered(4)).await;
    assert_eq!(answer, want);
    depot.stop();
}

#[tokio::test]
async fn what_is_asked_for_often_gets_a_copy_on_another_node() {
    let mesh = mesh().await;
    let (blocks, limits) = (blocks(2), Limits::default());
    mesh.a.store().put(&blocks, Keep::Cached).expect("room");
    let state = mesh.workers.states()[0].clone();
    let mut ledger = Ledger::default();
    let round = async |ledger: &mut Ledger, state: &WorkerState| {
        work::round(&mesh.a, &limits, ledger, state).await;
    };
    // Too few readers: nothing is offered.
    let few = limits.threshold.ceil() as usize - 1;
    (0..few).for_each(|_| {
        mesh.a
            .demand()
            .count(PeerId::random(), &[blocks[0].id()], &[])
    });
    round(&mut ledger, &state).await;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let traffic = mesh.a.traffic();
    assert_eq!(count(&traffic.offered_blocks), 0);
    // Own reads don't count; another reader does.
    mesh.a.store().get(blocks[0].id()).expect("reads");
    mesh.a
        .demand()
        .count(PeerId::random(), &[blocks[0].id()], &[]);
    round(&mut ledger, &state).await;
    assert_eq!(count(&traffic.offered_blocks), 1);
    mesh.taken(1).await;
    assert!(mesh.b.store().has(blocks[0].id()).expect("reads"));
    assert!(!mesh.b.store().has(blocks[1].id()).expect("reads"));
    // It is asked whether it has come once, and that counts once.
    round(&mut ledger, &state).await;
    assert_eq!(count(&traffic.offered_blocks), 1);
    mesh.clock.advance(limits.confirm_after);
    round(&mut ledger, &state).await;
    round(&mut ledger, &state).await;
    assert_eq!(
        (
            count(&traffic.offered_blocks),
            count(&traffic.copied_blocks)
        ),
        (2, 1)
    );
    let now = mesh.clock.now();
    assert_eq!(ledger.copies(&blocks[0].id(), now, &limits), 1);
    mesh.workers.stop(LONG).await;
}
