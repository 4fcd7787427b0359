use super::*;
use crate::block::Block;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::certify;
use crate::lease::{Lease, ListDigest, Release, Terms};
use crate::net::providers::MemoryShelf;
use crate::net::replica::{Request, State};
use crate::net::{Net, NetConfig, Services};
use crate::store::{Class, MemoryStore, StoreOptions};
use crate::task::Workers;
use crate::time::{Clock, ManualClock, Timestamp};
use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;

pub(super) const LONG: Duration = Duration::from_secs(90);
pub(super) const DAY_MS: u64 = 24 * 3600 * 1000;

struct Connected(Net);

impl Candidates for Connected {
    fn peers(&self) -> Vec<PeerId> {
        self.0.peers().connected().to_vec()
    }
}

struct Nobody;

impl Candidates for Nobody {
    fn peers(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

pub(super) async fn node(store: Arc<dyn Store>) -> Depot {
    let server = Arc::new(Server::new(store.clone()));
    let services = Services {
        blocks: server.clone(),
        records: Arc::new(MemoryShelf::new()),
    };
    let config = NetConfig::in_memory(Keypair::generate_ed25519());
    let net = Net::start(config, services).await.expect("it starts");
    Depot::new(store, net, &server, Arc::new(Pending::default()))
}

pub(super) fn memory(clock: &Arc<ManualClock>) -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(StoreOptions {
        clock: clock.clone(),
        ..StoreOptions::default()
    }))
}

pub(super) fn clock() -> Arc<ManualClock> {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(1_000_000_000));
    Arc::new(clock)
}

pub(super) fn hold(depot: &Depot, clock: &Arc<ManualClock>, bytes: u64) -> Workers {
    let mut workers = Workers::default();
    let lend = Lend {
        leases_per_owner: 2,
        ..Lend::of_bytes(bytes)
    };
    let candidates = Arc::new(Connected(depot.net().clone()));
    let (depot, clock) = (depot.clone(), clock.clone());
    workers.spawn("holder", |c, s| run(depot, clock, lend, candidates, c, s));
    workers
}

pub(super) fn blocks(count: u32) -> Vec<Block> {
    let block = |n: u32| Block::new([n.to_be_bytes(); 250].concat().into()).expect("a block");
    let mut blocks: Vec<_> = (0..count).map(block).collect();
    blocks.sort_by_key(Block::id);
    blocks
}

pub(super) fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

pub(super) fn owner_key() -> [u8; 32] {
    owner().verifying_key().to_bytes()
}

pub(super) fn machine() -> SigningKey {
    SigningKey::from_bytes(&[2; 32])
}

fn certificate() -> [u8; 64] {
    certify(&owner(), &machine().verifying_key().to_bytes())
}

pub(super) fn lease(
    holder: PeerId,
    name: u8,
    sequence: u64,
    ids: &[BlockId],
    now: Timestamp,
) -> Box<Lease> {
    shared_lease(holder, name, sequence, ids, now, 0)
}

pub(super) fn shared_lease(
    holder: PeerId,
    name: u8,
    sequence: u64,
    ids: &[BlockId],
    now: Timestamp,
    copies: u32,
) -> Box<Lease> {
    let terms = Terms {
        holder: holder.to_bytes(),
        name: [name; 16],
        sequence,
        made: now,
        until: Timestamp(now.0 + 90 * DAY_MS),
        minimum_until: Timestamp(now.0 + 30 * DAY_MS),
        root: ids[0],
        blocks: ids.len() as u64,
        bytes: 1000 * ids.len() as u64,
        digest: ListDigest::of(ids).expect("in order"),
        copies,
        opener: None,
    };
    Box::new(Lease::sign(&owner_key(), &machine(), &certificate(), terms))
}

pub(super) async fn ask(from: &Depot, to: &Depot, request: Request) -> Answer {
    let replica = from.net().replica();
    let asked = replica.ask(to.net().peer_id(), request);
    asked.await.expect("an answer")
}

pub(super) async fn durable(from: &Depot, to: &Depot, name: u8) -> State {
    let wait = async {
        loop {
            let request = Request::State {
                owner: owner_key(),
                name: [name; 16],
            };
            match ask(from, to, request).await {
                Answer::State(state) if state.durable => return state,
                Answer::State(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it comes")
}

pub(super) async fn pair(clock: &Arc<ManualClock>) -> (Depot, Depot) {
    pair_with(memory(clock), clock).await
}

/// Two that are connected, the second with this store.
async fn pair_with(store: Arc<dyn Store>, clock: &Arc<ManualClock>) -> (Depot, Depot) {
    let (a, b) = (node(memory(clock)).await, node(store).await);
    let address = b.net().listen_addresses()[0].clone();
    a.net().peers().connect(address).await.expect("it connects");
    let mut connected = b.net().peers().watch_connected();
    let both = connected.wait_for(|peers| !peers.is_empty());
    tokio::time::timeout(LONG, both)
        .await
        .expect("it connects")
        .expect("it lives");
    (a, b)
}

#[tokio::test]
async fn what_is_leased_comes_stays_and_goes() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let workers = hold(&b, &clock, 1 << 30);
    let blocks = blocks(50);
    a.store().put(&blocks, Keep::Cached).expect("room");
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let lease = lease(b.net().peer_id(), 1, 1, &ids, clock.now());
    // In pages, one of which comes twice.
    for page in [&ids[..20], &ids[..20], &ids[20..]] {
        let request = Request::Keep {
            lease: lease.clone(),
            ids: page.to_vec(),
        };
        let answer = ask(&a, &b, request).await;
        let Answer::State(state) = answer else {
            panic!("{answer:?}");
        };
        assert!(state.listed >= 20);
    }
    let state = durable(&a, &b, 1).await;
    assert_eq!((state.listed, state.missing), (50, 0));
    assert_eq!(b.store().usage().leased_bytes, 50_000);
    let stat = b.store().stat(ids[7]).expect("reads").expect("known");
    assert_eq!(stat.class, Some(Class::Leased));

    let nonce = [9; 32];
    let absent = Block::new(vec![1; 9].into()).expect("a block").id();
    let prove = Request::Prove {
        owner: owner_key(),
        name: [1; 16],
        nonce,
        ids: vec![ids[3], absent],
    };
    let expected = crate::lease::proof(&nonce, blocks[3].bytes());
    assert_eq!(
        ask(&a, &b, prove).await,
        Answer::Proofs(vec![Some(expected), None])
    );

    let early = Release::by_machine(
        &owner_key(),
        &machine(),
        &certificate(),
        [1; 16],
        1,
        clock.now(),
    );
    assert_eq!(
        ask(&a, &b, Request::Release(Box::new(early.clone()))).await,
        Answer::Refused(Refusal::Invalid)
    );
    let by_owner = Release::by_owner(&owner(), [1; 16], 1, clock.now());
    let answer = ask(&a, &b, Request::Release(Box::new(by_owner))).await;
    assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    assert_eq!(b.store().usage().leased_bytes, 0);
    workers.stop(LONG).await;
}

/// The fetch of a block succeeds whether or not it could be kept.
#[tokio::test]
async fn a_store_that_fills_up_makes_no_copy_and_says_so() {
    let clock = clock();
    let small = Arc::new(MemoryStore::new(StoreOptions {
        clock: clock.clone(),
        quota: crate::size::ByteSize(6000),
        ..StoreOptions::default()
    }));
    let (a, b) = pair_with(small, &clock).await;
    let _workers = hold(&b, &clock, 1 << 30);
    let blocks = blocks(9);
    a.store().put(&blocks, Keep::Cached).expect("room");
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    // It says that its blocks are small.
    let mut terms = lease(b.net().peer_id(), 1, 1, &ids, clock.now())
        .terms()
        .clone();
    terms.bytes = 9;
    let lease = Lease::sign(&owner_key(), &machine(), &certificate(), terms);
    let keep = || Request::Keep {
        lease: Box::new(lease.clone()),
        ids: ids.clone(),
    };
    let refused = async {
        loop {
            match ask(&a, &b, keep()).await {
                Answer::State(state) => assert!(!state.durable, "{state:?}"),
                Answer::Refused(refusal) => return refusal,
                other => panic!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let refusal = tokio::time::timeout(LONG, refused).await.expect("it ends");
    assert_eq!(refusal, Refusal::Full);
    assert!(b.store().leases().expect("reads").is_empty());
    // It does not begin again before an hour has passed.
    assert_eq!(ask(&a, &b, keep()).await, Answer::Refused(Refusal::Full));
    clock.advance(Duration::from_secs(3601));
    assert!(matches!(ask(&a, &b, keep()).await, Answer::State(_)));
}

#[tokio::test]
async fn who_may_not_ask_and_what_does_not_fit_is_refused() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let keep = |lease: &Lease, ids: &[BlockId]| Request::Keep {
        lease: Box::new(lease.clone()),
        ids: ids.to_vec(),
    };
    let blocks = blocks(4);
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    // Nobody has taken the inbox: a few wait there, and are answered once somebody has.
    let workers = hold(&b, &clock, 10_000);
    let now = clock.now();
    let to = b.net().peer_id();
    let refused = async |request| match ask(&a, &b, request).await {
        Answer::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    let unknown = Request::State {
        owner: owner_key(),
        name: [9; 16],
    };
    assert_eq!(refused(unknown).await, Refusal::Unknown);
    let elsewhere = lease(PeerId::random(), 1, 1, &ids, now);
    assert_eq!(refused(keep(&elsewhere, &ids)).await, Refusal::Invalid);
    let future = Timestamp(now.0 + 2 * DAY_MS);
    let early = lease(to, 1, 1, &ids, future);
    assert_eq!(refused(keep(&early, &ids)).await, Refusal::Invalid);
    let good = lease(to, 1, 1, &ids, now);
    let other_list = [ids[0], ids[1], ids[2], absent_after(&ids)];
    assert_eq!(refused(keep(&good, &other_list)).await, Refusal::Invalid);
    assert!(b.store().leases().expect("reads").is_empty());
    assert!(b.store().lost(None, 9).expect("reads").is_empty());
    // Eleven blocks of 1000 bytes don't fit into 10,000.
    let many = self::blocks(11);
    let many: Vec<_> = many.iter().map(Block::id).collect();
    let large = lease(to, 2, 1, &many, now);
    assert_eq!(refused(keep(&large, &many)).await, Refusal::Full);
    // The third lease of an owner who may have two.
    for name in [3, 4] {
        let answer = ask(&a, &b, keep(&lease(to, name, 1, &ids, now), &[])).await;
        assert!(matches!(answer, Answer::State(_)), "{answer:?}");
    }
    assert_eq!(
        refused(keep(&lease(to, 5, 1, &ids, now), &[])).await,
        Refusal::TooMany
    );
    workers.stop(LONG).await;
}

fn absent_after(ids: &[BlockId]) -> BlockId {
    let last = ids.last().expect("some");
    (0..=255u8)
        .map(|n| BlockId::from_sha384([n; 48]))
        .find(|id| id > last)
        .expect("hashes are below all ones")
}

#[tokio::test]
async fn strangers_are_not_heard() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let mut workers = Workers::default();
    let lend = Lend::of_quota(1 << 30);
    let (depot, now) = (b.clone(), clock.clone());
    workers.spawn("holder", |c, s| {
        run(depot, now, lend, Arc::new(Nobody), c, s)
    });
    assert_eq!(
        ask(&a, &b, Request::Room).await,
        Answer::Refused(Refusal::Unwilling)
    );
    workers.stop(LONG).await;
}

#[tokio::test]
async fn leases_are_renewed_and_expire_by_the_holders_clock() {
    let clock = clock();
    let store = memory(&clock);
    let local = PeerId::random();
    let open = || {
        let lend = Lend::of_quota(1 << 30);
        Book::open(store.clone(), clock.clone(), lend, local.to_bytes()).expect("opens")
    };
    let book = open();
    let ids: Vec<_> = blocks(3).iter().map(Block::id).collect();
    let peer = PeerId::random();
    let keep = |book: &Book, sequence, ids: &[BlockId], list: &[BlockId]| {
        let request = Request::Keep {
            lease: lease(local, 1, sequence, ids, clock.now()),
            ids: list.to_vec(),
        };
        match book.answer(peer, request) {
            Answer::State(state) => state,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(keep(&book, 1, &ids, &ids[..2]).listed, 2);
    assert!(book.jobs().is_empty(), "the list is not whole");
    // After a restart it goes on where it was.
    let book = open();
    assert_eq!(keep(&book, 1, &ids, &[]).listed, 2);
    assert_eq!(keep(&book, 1, &ids, &ids[2..]).listed, 3);
    let lease_id = book.jobs()[0].lease;
    let book = open();
    assert_eq!(book.jobs().len(), 1);
    assert_eq!(book.jobs()[0].missing.load(Ordering::Relaxed), 3);
    store.put(&blocks(3), Keep::Cached).expect("room");
    book.complete(lease_id).expect("completes");
    let day = Duration::from_millis(DAY_MS);
    clock.advance(45 * day);
    // The same lease again changes nothing; a newer one counts from now.
    assert_eq!(keep(&book, 1, &ids, &[]).remaining, 45 * day);
    let state = keep(&book, 2, &ids, &[]);
    assert_eq!((state.remaining, state.durable), (90 * day, true));
    clock.advance(89 * day);
    let book = open();
    let up = Instant::now();
    assert_eq!(book.expire(up).expect("expires"), 0);
    clock.advance(400 * day);
    // The clock may be wrong: the lease ends only when it has been over for long enough.
    assert_eq!(book.expire(up).expect("expires"), 0);
    let almost = up + book::OVER_FOR - Duration::from_secs(1);
    assert_eq!(book.expire(almost).expect("expires"), 0);
    assert_eq!(store.usage().leased_bytes, 3000);
    assert_eq!(book.expire(up + book::OVER_FOR).expect("expires"), 1);
    assert!(book.jobs().is_empty());
    assert_eq!(store.usage().leased_bytes, 0);
}

#[tokio::test]
async fn a_holder_that_stops_in_the_middle_goes_on_after_its_restart() {
    let clock = clock();
    let store = memory(&clock);
    let (a, b) = (node(memory(&clock)).await, node(store.clone()).await);
    let connect = async |b: &Depot| {
        let address = b.net().listen_addresses()[0].clone();
        a.net().peers().connect(address).await.expect("it connects");
    };
    connect(&b).await;
    let workers = hold(&b, &clock, 1 << 30);
    let blocks = blocks(30);
    // A third of them can't be had at first.
    a.store().put(&blocks[..20], Keep::Cached).expect("room");
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let request = Request::Keep {
        lease: lease(b.net().peer_id(), 1, 1, &ids, clock.now()),
        ids: ids.clone(),
    };
    ask(&a, &b, request).await;
    let arrive = async |store: &Arc<dyn Store>, bytes| {
        let wait = async {
            while store.usage().leased_bytes < bytes {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("they come");
    };
    arrive(&store, 20_000).await;
    drop(workers);
    b.net().clone().shutdown().await;
    drop(b);

    a.store().put(&blocks, Keep::Cached).expect("room");
    // The lease is to the node of before; the same store goes on with it under whatever name it is reached.
    let b = node(store.clone()).await;
    connect(&b).await;
    let workers = hold(&b, &clock, 1 << 30);
    arrive(&store, 30_000).await;
    let whole = async {
        while !store.leases().expect("reads")[0].1.complete {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, whole)
        .await
        .expect("it is whole");
    workers.stop(LONG).await;
}

#[tokio::test]
async fn a_holder_that_leaves_takes_nothing_more_and_says_so() {
    let clock = clock();
    let (a, b) = pair(&clock).await;
    let _workers = hold(&b, &clock, 1 << 30);
    let blocks = blocks(3);
    a.store().put(&blocks, Keep::Cached).expect("room");
    let ids: Vec<_> = blocks.iter().map(Block::id).collect();
    let keep = |name, sequence| Request::Keep {
        lease: lease(b.net().peer_id(), name, sequence, &ids, clock.now()),
        ids: ids.clone(),
    };
    ask(&a, &b, keep(1, 1)).await;
    durable(&a, &b, 1).await;
    b.set_leaving();
    let offer = Request::Offer {
        why: crate::net::replica::Why::HandOver,
        blocks: vec![(ids[0], 9)],
    };
    // Neither a new lease, nor a longer one.
    for request in [keep(2, 1), keep(1, 2), offer] {
        let answer = ask(&a, &b, request).await;
        assert_eq!(answer, Answer::Refused(Refusal::Unwilling));
    }
    let room = ask(&a, &b, Request::Room).await;
    assert_eq!(room, Answer::Refused(Refusal::Unwilling));
    assert!(
        durable(&a, &b, 1).await.durable,
        "what is here still counts"
    );
    for (lease, _) in b.store().leases().expect("reads") {
        b.store().remove_lease(lease).expect("removes");
    }
    let gone = Request::State {
        owner: owner_key(),
        name: [1; 16],
    };
    assert_eq!(ask(&a, &b, gone).await, Answer::Refused(Refusal::Unknown));
}

/// A record that says nothing any more: the blocks stay until the lease ends, as far as the store itself knows, and the others go on.
#[tokio::test]
async fn a_damaged_record_keeps_its_blocks_until_the_lease_ends() {
    let clock = clock();
    let store = memory(&clock);
    let all = blocks(2);
    store.put(&all, crate::store::Keep::Cached).expect("fits");
    let info = crate::store::LeaseInfo {
        root: all[0].id(),
        terms: bytes::Bytes::from_static(b"\xff not what was promised"),
        until: clock.now().after(Duration::from_secs(60)),
        blocks: 2,
        bytes: 2000,
        complete: true,
    };
    let lease = store.begin_lease(&info).expect("begun");
    let ids: Vec<_> = all.iter().map(Block::id).collect();
    store.add_lease_refs(lease, &ids).expect("leased");
    let depot = node(store.clone()).await;
    let workers = hold(&depot, &clock, 1 << 20);
    let class = || {
        store
            .stat(ids[1])
            .expect("reads")
            .and_then(|stat| stat.class)
    };
    assert_eq!(class(), Some(Class::Leased));
    store.remove_lease(lease).expect("removes");
    assert_eq!(class(), Some(Class::Cached));
    workers.stop(LONG).await;
}
