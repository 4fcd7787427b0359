use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::work::{Deadline, UnderWay};
use super::*;
use crate::block::{Block, BlockSource};
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::monitor::Silent;
use crate::net::providers::MemoryShelf;
use crate::net::replica::{Answer, Refusal, Request, Why, Wish};
use crate::net::{Net, NetConfig, Services};
use crate::size::ByteSize;
use crate::store::{Class, Keep, LeaseInfo, MemoryStore, Store, StoreOptions};
use crate::task::Workers;
use crate::time::{SystemClock, Timestamp};
use libp2p::PeerId;
use libp2p::identity::Keypair;

pub(super) const LONG: Duration = Duration::from_secs(90);
/// Bytes of a block under test, and what it counts in the store, about.
pub(super) const BLOCK_BYTES: usize = 10_000;

pub(super) struct Connected(pub(super) Net);

impl Candidates for Connected {
    fn peers(&self) -> Vec<PeerId> {
        self.0.peers().connected().to_vec()
    }
}

pub(super) async fn node(quota: u64) -> Depot {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions {
        quota: ByteSize(quota),
        ..StoreOptions::default()
    }));
    let server = Arc::new(Server::new(store.clone()));
    let services = Services {
        blocks: server.clone(),
        records: Arc::new(MemoryShelf::new()),
    };
    let config = NetConfig::in_memory(Keypair::generate_ed25519());
    let net = Net::start(config, services).await.expect("it starts");
    Depot::new(store, net, &server, Arc::new(Pending::default()))
}

pub(super) async fn connect(a: &Depot, b: &Depot) {
    let address = b.net().listen_addresses()[0].clone();
    a.net().peers().connect(address).await.expect("it connects");
    let (mut connected, other) = (b.net().peers().watch_connected(), a.net().peer_id());
    let both = connected.wait_for(|peers| peers.contains(&other));
    let both = tokio::time::timeout(LONG, both).await;
    both.expect("it connects").expect("it lives");
}

pub(super) fn block(number: u8) -> Block {
    Block::new(vec![number; BLOCK_BYTES].into()).expect("a block")
}

pub(super) fn limits() -> Limits {
    Limits {
        poll: Duration::from_millis(20),
        rest: Duration::from_millis(200),
        every: Duration::from_millis(50),
        patience: Duration::from_secs(20),
        ..Limits::default()
    }
}

fn hand_over(depot: &Depot) -> Workers {
    let setup = Setup {
        depot: depot.clone(),
        clock: Arc::new(SystemClock),
        receivers: Arc::new(Connected(depot.net().clone())),
        limits: limits(),
    };
    let mut workers = Workers::default();
    workers.spawn("handover", |c, s| run(setup, c, s));
    workers
}

/// How a peer deals with offers.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Manner {
    /// Fetches what it is offered.
    Honest,
    /// Says that it has everything.
    Lying,
    /// Says that it wants everything, and does nothing.
    Idle,
    /// Wants nothing.
    Unwilling,
}

/// Answers offers; counts them.
pub(super) fn receive(
    depot: &Depot,
    manner: Manner,
) -> (tokio::task::JoinHandle<()>, Arc<AtomicUsize>) {
    let mut inbox = depot.net().replica().take_inbox().expect("nobody has it");
    let (depot, offers) = (depot.clone(), Arc::new(AtomicUsize::new(0)));
    let count = offers.clone();
    let fetching = Arc::new(Mutex::new(HashSet::new()));
    let task = tokio::spawn(async move {
        while let Some(incoming) = inbox.recv().await {
            let Request::Offer { why, blocks } = incoming.request else {
                let _ = incoming.reply.send(Answer::Refused(Refusal::Unknown));
                continue;
            };
            assert_eq!(why, Why::HandOver);
            count.fetch_add(1, Ordering::Relaxed);
            let wishes = blocks.into_iter().map(|(id, _)| match manner {
                Manner::Lying => Wish::Have,
                Manner::Idle => Wish::Want,
                Manner::Unwilling => Wish::Refuse(Refusal::Unwilling),
                Manner::Honest if depot.store().has(id).expect("reads") => Wish::Have,
                Manner::Honest => {
                    if fetching.lock().expect("not poisoned").insert(id) {
                        let session = depot.session(LONG, Keep::Cached);
                        session.prefer(incoming.peer);
                        tokio::spawn(async move { drop(session.get(id).await) });
                    }
                    Wish::Want
                }
            });
            let _ = incoming.reply.send(Answer::Wishes(wishes.collect()));
        }
    });
    (task, offers)
}

async fn wait(fits: impl Fn() -> bool) {
    let wait = async {
        while !fits() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it happens");
}

/// Full to the watermark with blocks that only this node has.
pub(super) async fn full(blocks: u8) -> Depot {
    let depot = node(u64::from(blocks) * 10_256 + 5000).await;
    for number in 0..blocks {
        depot
            .store()
            .put(&[block(number)], Keep::Cached)
            .expect("room");
    }
    depot
}

#[tokio::test]
async fn the_only_copy_is_elsewhere_before_it_is_dropped() {
    let (a, b) = (full(40).await, node(1 << 30).await);
    let _receiver = receive(&b, Manner::Honest);
    connect(&a, &b).await;
    let _workers = hand_over(&a);
    wait(|| a.store().usage().expendable_bytes > 0).await;
    // Now others come, one after the other, and each time something goes.
    for number in 100..110 {
        wait(|| a.store().usage().expendable_bytes > 0).await;
        a.store().put(&[block(number)], Keep::Cached).expect("room");
    }
    let usage = a.store().usage();
    assert!(usage.evicted > 0);
    assert_eq!(usage.evicted_unsure, 0);
    for number in (0..40).chain(100..110) {
        let id = block(number).id();
        let is_somewhere = [&a, &b].iter().any(|d| d.store().has(id).expect("reads"));
        assert!(is_somewhere, "block {number}");
    }
}

#[tokio::test]
async fn without_takers_the_quota_holds_all_the_same() {
    let (a, b) = (full(20).await, node(1 << 30).await);
    let (_task, offers) = receive(&b, Manner::Unwilling);
    connect(&a, &b).await;
    let _workers = hand_over(&a);
    wait(|| offers.load(Ordering::Relaxed) > 0).await;
    a.store().put(&[block(100)], Keep::Cached).expect("room");
    a.store().put(&[block(101)], Keep::Cached).expect("room");
    let usage = a.store().usage();
    assert!(usage.evicted > 0 && usage.disk_bytes <= usage.quota);
    assert_eq!(
        (usage.expendable_bytes, usage.evicted_unsure),
        (0, usage.evicted)
    );
}

pub(super) fn worker(depot: &Depot, limits: Limits) -> Worker {
    Worker {
        local: None,
        depot: depot.clone(),
        clock: Arc::new(SystemClock),
        limits,
    }
}

fn alone(blocks: u8) -> Table {
    let entry = |n| (block(n).id(), Entry::new(BLOCK_BYTES as u32, Stage::Alone));
    (0..blocks).map(entry).collect()
}

async fn finish(worker: &Worker, table: &mut Table) {
    let receivers = Connected(worker.depot.net().clone());
    let mut under_way = UnderWay::default();
    let work = async {
        while table.values().any(|entry| entry.stage.is_open()) {
            worker.step(table, &receivers, &mut under_way).await;
        }
    };
    tokio::time::timeout(LONG, work).await.expect("it ends");
}

#[tokio::test]
async fn who_only_says_that_it_has_blocks_is_found_out() {
    let (a, liar, honest) = (full(5).await, node(1 << 30).await, node(1 << 30).await);
    let _liar = receive(&liar, Manner::Lying);
    connect(&a, &liar).await;
    let worker = worker(&a, limits());
    let mut table = alone(5);
    finish(&worker, &mut table).await;
    assert!(table.values().all(|e| matches!(e.stage, Stage::Stuck(_))));
    // With another one there, that gets them.
    let _honest = receive(&honest, Manner::Honest);
    connect(&a, &honest).await;
    let mut table = alone(5);
    finish(&worker, &mut table).await;
    let handed = Stage::Safe { handed: true };
    assert!(
        table.values().all(|entry| entry.stage == handed),
        "{table:?}"
    );
    let usage = honest.store().usage();
    assert_eq!(usage.blocks, 5);
}

#[tokio::test]
async fn a_receiver_that_dies_or_does_nothing_is_replaced() {
    let a = full(5).await;
    let (dying, idle, honest) = (
        node(1 << 30).await,
        node(1 << 30).await,
        node(1 << 30).await,
    );
    let (_dying, offers) = receive(&dying, Manner::Idle);
    let _idle = receive(&idle, Manner::Idle);
    connect(&a, &dying).await;
    let limits = Limits {
        patience: Duration::from_secs(2),
        ..limits()
    };
    let worker = worker(&a, limits);
    let mut table = alone(5);
    let receivers = Connected(a.net().clone());
    while offers.load(Ordering::Relaxed) == 0 {
        worker.round(&mut table, &receivers).await;
    }
    dying.net().clone().shutdown().await;
    let _honest = receive(&honest, Manner::Honest);
    connect(&a, &idle).await;
    connect(&a, &honest).await;
    finish(&worker, &mut table).await;
    let handed = Stage::Safe { handed: true };
    assert!(
        table.values().all(|entry| entry.stage == handed),
        "{table:?}"
    );
    assert_eq!(honest.store().usage().blocks, 5);
}

pub(super) fn lease(depot: &Depot, numbers: std::ops::Range<u8>) -> crate::store::LeaseId {
    let ids: Vec<_> = numbers.map(|n| block(n).id()).collect();
    let info = LeaseInfo {
        root: ids[0],
        terms: vec![1].into(),
        until: Timestamp(u64::MAX),
        blocks: ids.len() as u64,
        bytes: 1,
        complete: true,
    };
    let lease = depot.store().begin_lease(&info).expect("leases");
    depot.store().add_lease_refs(lease, &ids).expect("adds");
    lease
}

pub(super) fn order(depot: &Depot, force: bool, timeout: Duration) -> Order {
    Order {
        depot: depot.clone(),
        clock: Arc::new(SystemClock),
        members: Arc::new(Connected(depot.net().clone())),
        peers: Arc::new(Connected(depot.net().clone())),
        own: Arc::new(|| None),
        limits: limits(),
        timeout,
        patience: LONG,
        force,
    }
}

#[tokio::test]
async fn who_leaves_hands_over_and_lets_go() {
    let (a, b) = (full(12).await, node(1 << 30).await);
    let _receiver = receive(&b, Manner::Honest);
    connect(&a, &b).await;
    lease(&a, 0..5);
    let pin = a.store().begin_pin("mine").expect("pins");
    let mine: Vec<_> = (10..12).map(|n| block(n).id()).collect();
    a.store().add_refs(pin, &mine).expect("adds");
    let left = leave(order(&a, false, LONG), &Silent)
        .await
        .expect("leaves");
    assert!(left.is_complete() && a.is_leaving());
    assert_eq!((left.leases_ended, left.leases_kept), (1, 0));
    // It could not be passed on: nobody promised to keep its blocks.
    assert_eq!((left.leases_cached, left.leases_passed), (1, 0));
    assert_eq!((left.leased_safe, left.cached_safe), (5, 5));
    assert_eq!(left.handed_over, 10);
    assert_eq!(left.handed_over_bytes, 10 * BLOCK_BYTES as u64);
    assert!(a.store().leases().expect("reads").is_empty());
    assert_eq!(b.store().usage().blocks, 10);
    // What is this node's own went nowhere and stays.
    for id in mine {
        let stat = a.store().stat(id).expect("reads").expect("known");
        assert_eq!(stat.class, Some(Class::Pinned));
        assert!(!b.store().has(id).expect("reads"));
    }
}

/// A lease of the first blocks that two holders are to keep.
pub(super) fn shared_lease(depot: &Depot, blocks: u8, name: u8) -> crate::store::LeaseId {
    shared_lease_of(depot, 0..blocks, name)
}

fn shared_lease_of(depot: &Depot, blocks: std::ops::Range<u8>, name: u8) -> crate::store::LeaseId {
    let root = block(blocks.start).id();
    use crate::lease::{Held, Lease, ListDigest, Terms};
    use ed25519_dalek::SigningKey;
    let (owner, machine) = (
        SigningKey::from_bytes(&[1; 32]),
        SigningKey::from_bytes(&[2; 32]),
    );
    let certificate = crate::head::certify(&owner, &machine.verifying_key().to_bytes());
    let mut ids: Vec<_> = blocks.map(|n| block(n).id()).collect();
    ids.sort_unstable();
    let now = SystemClock.now();
    let until = now.after(Duration::from_secs(1000));
    let terms = Terms {
        holder: depot.net().peer_id().to_bytes(),
        name: [name; 16],
        sequence: 1,
        made: now,
        until,
        minimum_until: now,
        root,
        blocks: ids.len() as u64,
        bytes: ids.len() as u64 * BLOCK_BYTES as u64,
        digest: ListDigest::of(&ids).expect("in order"),
        copies: 2,
        opener: None,
    };
    let owner = owner.verifying_key().to_bytes();
    let lease = Lease::sign(&owner, &machine, &certificate, terms);
    let info = LeaseInfo {
        root,
        until,
        blocks: ids.len() as u64,
        bytes: lease.terms().bytes,
        terms: Held::new(lease, now).encode().into(),
        complete: true,
    };
    let lease = depot.store().begin_lease(&info).expect("leases");
    depot.store().add_lease_refs(lease, &ids).expect("adds");
    lease
}

#[tokio::test]
async fn that_the_owner_or_another_holder_has_the_blocks_is_no_reason_to_let_go() {
    use crate::upkeep::holder::{self, Lend};
    let (a, owner, b) = (full(4).await, full(4).await, node(1 << 30).await);
    let mut workers = Workers::default();
    for depot in [&owner, &b] {
        let (depot, clock) = (depot.clone(), Arc::new(SystemClock));
        let candidates = Arc::new(Connected(depot.net().clone()));
        workers.spawn("holder", |c, s| {
            holder::run(depot, clock, Lend::of_quota(1 << 30), candidates, c, s)
        });
    }
    connect(&a, &owner).await;
    let first = shared_lease(&a, 4, 1);
    let left = leave(order(&a, false, LONG), &Silent)
        .await
        .expect("leaves");
    assert_eq!((left.leases_ended, left.leases_kept), (0, 1));
    assert_eq!(a.store().leases().expect("reads")[0].0, first);
    // A member that has nothing yet keeps it, durably, and not just its blocks.
    connect(&a, &b).await;
    let left = leave(order(&a, false, LONG), &Silent)
        .await
        .expect("leaves");
    assert_eq!((left.leases_ended, left.handed_over), (1, 4));
    assert_eq!((left.leases_passed, left.leases_cached), (1, 0));
    let leases = b.store().leases().expect("reads");
    assert!(leases.len() == 1 && leases[0].1.complete, "{leases:?}");
    assert!(owner.store().leases().expect("reads").is_empty());
    // Of two copies one must not be cut off because there is the other.
    shared_lease(&a, 4, 2);
    let left = leave(order(&a, false, LONG), &Silent)
        .await
        .expect("leaves");
    assert_eq!((left.leases_ended, left.leases_kept), (0, 1));
    workers.stop(LONG).await;
}

#[tokio::test]
async fn leases_that_nobody_takes_stay_unless_forced() {
    let (a, b) = (full(6).await, node(1 << 30).await);
    let _receiver = receive(&b, Manner::Unwilling);
    connect(&a, &b).await;
    let kept = lease(&a, 0..4);
    let left = leave(order(&a, false, LONG), &Silent)
        .await
        .expect("leaves");
    assert!(!left.is_complete());
    assert_eq!((left.leases_ended, left.leases_kept), (0, 1));
    assert_eq!((left.leased_alone, left.cached_alone), (4, 2));
    assert_eq!(a.store().leases().expect("reads")[0].0, kept);
    let left = leave(order(&a, true, LONG), &Silent).await.expect("leaves");
    assert_eq!((left.leases_ended, left.leased_alone), (1, 4));
    assert_eq!(left.leases_dropped, 1);
    assert!(a.store().leases().expect("reads").is_empty());
}

#[tokio::test]
async fn what_no_member_keeps_is_left_with_anybody_by_force_and_not_called_kept() {
    let (a, b) = (full(4).await, node(1 << 30).await);
    let _receiver = receive(&b, Manner::Honest);
    connect(&a, &b).await;
    shared_lease(&a, 4, 1);
    let order = |force| Order {
        members: Arc::new(Nobody),
        ..order(&a, force, Duration::from_secs(6))
    };
    let left = leave(order(false), &Silent).await.expect("leaves");
    assert_eq!((left.leases_kept, left.leased_alone), (1, 4));
    assert_eq!(b.store().usage().blocks, 0, "it is for members");
    let left = leave(order(true), &Silent).await.expect("leaves");
    assert_eq!((left.leases_ended, left.leases_cached), (1, 1));
    assert_eq!((left.leases_passed, left.leased_safe), (0, 4));
    assert_eq!(b.store().usage().blocks, 4);
}

pub(super) struct Nobody;

impl Candidates for Nobody {
    fn peers(&self) -> Vec<PeerId> {
        Vec::new()
    }
}

/// Who takes answers as a node does, with its limits of what one peer may offer.
#[tokio::test]
async fn much_is_handed_over_at_the_pace_of_who_takes_it() {
    use crate::upkeep::holder::{self, Lend};
    const BLOCKS: u8 = 240;
    let (a, b) = (full(BLOCKS).await, node(1 << 30).await);
    let mut workers = Workers::default();
    let (depot, clock) = (b.clone(), Arc::new(SystemClock));
    let members = Arc::new(Connected(b.net().clone()));
    workers.spawn("holder", |c, s| {
        holder::run(depot, clock, Lend::of_quota(1 << 30), members, c, s)
    });
    connect(&a, &b).await;
    for name in 0..8 {
        shared_lease_of(&a, 16 * name..16 * (name + 1), name);
    }
    let order = Order {
        limits: Limits::default(),
        ..order(&a, false, LONG)
    };
    let left = leave(order, &Silent).await.expect("leaves");
    assert!(left.is_complete(), "{left:?}");
    assert_eq!(left.leases_passed, 8, "{left:?}");
    assert_eq!(left.cached_safe, u64::from(BLOCKS) - 8 * 16);
    workers.stop(LONG).await;
}

#[tokio::test]
async fn a_deadline_moves_with_progress_up_to_the_time_that_there_is() {
    let second = Duration::from_secs(1);
    // Timers are a millisecond early or late.
    let is_about =
        |time: Duration, expected: Duration| time.abs_diff(expected) < Duration::from_millis(20);
    tokio::time::pause();
    let deadline = Deadline::new(10 * second, 3 * second);
    let work = async {
        for _ in 0..4 {
            tokio::time::sleep(2 * second).await;
            deadline.moved();
        }
    };
    assert!(deadline.within(work).await.is_some(), "8 seconds, in steps");
    let endless = async {
        loop {
            tokio::time::sleep(second).await;
            deadline.moved();
        }
    };
    let began = tokio::time::Instant::now();
    assert!(deadline.within(endless).await.is_none());
    assert!(is_about(began.elapsed(), 2 * second));
    let idle = Deadline::new(10 * second, 3 * second);
    let began = tokio::time::Instant::now();
    assert!(idle.within(std::future::pending::<()>()).await.is_none());
    assert!(is_about(began.elapsed(), 3 * second));
}

#[tokio::test]
async fn who_stays_takes_and_announces_again() {
    let a = full(2).await;
    let _ = a.fresh().take();
    a.set_staying();
    assert!(!a.is_leaving() && a.leavings() == 0, "nothing has changed");
    assert!(a.fresh().take().is_none());
    a.set_leaving();
    a.set_leaving();
    assert!(a.is_leaving() && a.leavings() == 1);
    a.set_staying();
    assert!(!a.is_leaving() && a.leavings() == 2);
    assert!(a.fresh().take().is_some());
}

#[tokio::test]
async fn leaving_ends_when_the_time_is_up() {
    let (a, b) = (full(3).await, node(1 << 30).await);
    let _receiver = receive(&b, Manner::Idle);
    connect(&a, &b).await;
    lease(&a, 0..2);
    let short = Duration::from_millis(200);
    let left = leave(order(&a, false, short), &Silent)
        .await
        .expect("leaves");
    assert_eq!((left.leases_kept, left.leased_alone), (1, 2));
    assert_eq!(left.cached_alone, 1);
}

#[test]
fn what_is_due() {
    let usage = Usage {
        quota: 1000,
        evicts_at_bytes: 1000,
        disk_bytes: 900,
        cached_bytes: 800,
        ..Usage::default()
    };
    assert!(is_due(&usage));
    let due = |change: fn(&mut Usage)| {
        let mut usage = usage;
        change(&mut usage);
        is_due(&usage)
    };
    assert!(!due(|usage| usage.disk_bytes = 899));
    assert!(due(|usage| usage.expendable_bytes = 61));
    assert!(!due(|usage| usage.expendable_bytes = 62));
    assert!(!due(|usage| usage.cached_bytes = 0));
}
