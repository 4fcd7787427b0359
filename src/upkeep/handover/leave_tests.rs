use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;

use super::super::tests::{
    BLOCK_BYTES, Connected, LONG, Manner, block, connect, full, lease, limits, node, order,
    receive, shared_lease, worker,
};
use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::{HeadEntry, HeadRecord, certify};
use crate::monitor::Silent;
use crate::net::exchange::{BlockService, Want};
use crate::net::providers::MemoryShelf;
use crate::net::replica::{Refusal, State};
use crate::net::{Net, NetConfig, Services};
use crate::store::{MemoryStore, Store, StoreOptions};
use crate::task::Workers;
use crate::time::{SystemClock, Timestamp};
use crate::upkeep::heads::{keep_for_leases, keep_for_ours};
use crate::upkeep::holder::{self, Lend};

fn leaving(depot: &Depot, limits: Limits, timeout: Duration) -> Leaving<'static> {
    let order = order(depot, false, timeout);
    Leaving {
        worker: worker(depot, limits),
        members: order.members,
        peers: order.peers,
        own: order.own,
        force: false,
        failed: Mutex::default(),
        deadline: Deadline::new(timeout, LONG),
        done: Mutex::default(),
        monitor: &Silent,
    }
}

/// The head of the owner of [`shared_lease`], kept because of leases.
async fn leased_head(depot: &Depot) -> BlockId {
    let (owner, machine) = (
        SigningKey::from_bytes(&[1; 32]),
        SigningKey::from_bytes(&[2; 32]),
    );
    let certificate = certify(&owner, &machine.verifying_key().to_bytes());
    let owner = owner.verifying_key().to_bytes();
    let log = Link {
        id: block(200).id(),
        key: Key::new([1; 32]),
    };
    let entry = HeadEntry::sign(&owner, &machine, &certificate, 1, 0, &log, &[1; 32]);
    let heads = depot.net().heads();
    heads.keep(HeadRecord::new(entry)).await.expect("kept");
    let (head, now) = (head_id(&owner), SystemClock.now());
    let until = now.after(LONG);
    assert!(keep_for_leases(&**depot.store(), head, until, now).expect("says"));
    head
}

async fn kept(depot: &Depot) -> Vec<BlockId> {
    depot.net().heads().kept().await.expect("it runs")
}

#[tokio::test]
async fn a_head_goes_with_the_last_lease_of_its_owner() {
    let (a, b) = (full(4).await, node(1 << 30).await);
    let _receiver = receive(&b, Manner::Unwilling);
    connect(&a, &b).await;
    shared_lease(&a, 4, 1);
    let head = leased_head(&a).await;
    let left = leave(order(&a, false, LONG), &Silent).await;
    assert_eq!(left.expect("leaves").leases_kept, 1);
    assert_eq!(a.store().leases().expect("reads").len(), 2);
    assert_eq!(kept(&a).await, [head]);
    let left = leave(order(&a, true, LONG), &Silent).await;
    assert_eq!(left.expect("leaves").leases_ended, 1);
    assert!(a.store().leases().expect("reads").is_empty());
    assert!(
        kept(&a).await.is_empty(),
        "it would be taken for one kept by hand"
    );
}

#[tokio::test]
async fn a_head_that_is_kept_for_another_reason_stays() {
    for is_own in [false, true] {
        let a = node(1 << 30).await;
        let head = leased_head(&a).await;
        let mut order = order(&a, true, Duration::from_secs(1));
        if is_own {
            order.own = Arc::new(move || Some(head));
        } else {
            keep_for_ours(&**a.store(), head, SystemClock.now()).expect("says");
        }
        leave(order, &Silent).await.expect("leaves");
        assert!(a.store().leases().expect("reads").is_empty());
        assert_eq!(kept(&a).await, [head]);
        let pins = a.store().pins().expect("reads");
        assert_eq!(pins.len(), usize::from(!is_own));
    }
}

struct Mute;

#[async_trait]
impl BlockService for Mute {
    async fn blocks(&self, _: PeerId, _: Vec<BlockId>, _: Want, _: usize) -> Vec<exchange::Answer> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn who_says_nothing_is_waited_for_no_longer_than_there_is_time() {
    let a = full(3).await;
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions::default()));
    let services = Services {
        blocks: Arc::new(Mute),
        records: Arc::new(MemoryShelf::new()),
    };
    let config = NetConfig::in_memory(Keypair::generate_ed25519());
    let net = Net::start(config, services).await.expect("it starts");
    let server = Server::new(store.clone());
    let mute = Depot::new(store, net, &server, Arc::new(Pending::default()));
    let (_task, offers) = receive(&mute, Manner::Idle);
    connect(&a, &mute).await;
    let kept = lease(&a, 0..3);
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    let leaving = leaving(&a, limits(), Duration::from_millis(200));
    let tally = leaving.blocks(kept, Some(block(0).id())).await;
    assert_eq!(tally.expect("reads").alone, 3);
    assert!(began.elapsed() < ASK_TIMEOUT / 2, "{:?}", began.elapsed());
    // The key of a head is no block that anybody could be asked for.
    let leaving = self::leaving(&a, limits(), ASK_TIMEOUT / 2);
    let tally = leaving.blocks(kept, None).await;
    assert_eq!(tally.expect("reads").alone, 3);
    assert!(offers.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn nothing_is_begun_when_the_time_is_up() {
    let (a, b) = (full(3).await, node(1 << 30).await);
    let (_task, offers) = receive(&b, Manner::Idle);
    connect(&a, &b).await;
    let kept = lease(&a, 0..3);
    let leaving = leaving(&a, limits(), Duration::ZERO);
    let receivers = Connected(a.net().clone());
    let tally = leaving.hand_over(Source::Lease(kept), &receivers).await;
    assert_eq!(tally.expect("reads").alone, 3);
    // With time standing still, a sleep ends when nothing else has anything left to do.
    tokio::time::pause();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(offers.load(Ordering::Relaxed), 0);
}

/// Says that it fetches every lease, and does nothing. Counts how often.
fn promise(depot: &Depot) -> Arc<AtomicUsize> {
    let mut inbox = depot.net().replica().take_inbox().expect("nobody has it");
    let promises = Arc::new(AtomicUsize::new(0));
    let count = promises.clone();
    tokio::spawn(async move {
        while let Some(incoming) = inbox.recv().await {
            let answer = match incoming.request {
                Request::Holding { .. } => Answer::Wishes(vec![Wish::Refuse(Refusal::Unwilling)]),
                Request::Keep { lease, .. } => {
                    count.fetch_add(1, Ordering::Relaxed);
                    Answer::State(State {
                        listed: lease.terms().blocks,
                        missing: lease.terms().blocks,
                        durable: false,
                        remaining: LONG,
                        free_bytes: u64::MAX,
                    })
                }
                _ => Answer::Refused(Refusal::Unknown),
            };
            let _ = incoming.reply.send(answer);
        }
    });
    promises
}

#[tokio::test]
async fn who_promised_in_vain_comes_last_from_then_on() {
    let (a, idle, honest) = (full(4).await, node(1 << 30).await, node(1 << 30).await);
    let promises = promise(&idle);
    let mut workers = Workers::default();
    let (depot, clock) = (honest.clone(), Arc::new(SystemClock));
    let members = Arc::new(Connected(honest.net().clone()));
    workers.spawn("holder", |c, s| {
        holder::run(depot, clock, Lend::of_quota(1 << 30), members, c, s)
    });
    connect(&a, &idle).await;
    connect(&a, &honest).await;
    let kept = shared_lease(&a, 4, 1);
    let signed = passable(&a.store().leases().expect("reads")[0].1).expect("whole");
    let hasty = Limits {
        patience: Duration::from_millis(50),
        ..limits()
    };
    let mut leaving = leaving(&a, hasty, LONG);
    let (idle, honest) = (idle.net().peer_id(), honest.net().peer_id());
    let took = leaving.takes(idle, kept, &signed).await;
    assert!(!took.expect("reads"));
    let before = promises.load(Ordering::Relaxed);
    assert!(before > 0);
    leaving.worker.limits = limits();
    let fate = leaving.passed(kept, &signed, &[idle, honest]).await;
    let fate = fate.expect("reads");
    assert!(matches!(fate, Fate::Passed { blocks: 4, .. }), "{fate:?}");
    assert_eq!(promises.load(Ordering::Relaxed), before);
    // With nobody else there it is asked again.
    let mut open = vec![idle];
    assert_eq!(leaving.next_of(&mut open), Some(idle));
    assert_eq!(leaving.next_of(&mut open), None);
    workers.stop(LONG).await;
}

#[tokio::test]
async fn blocks_that_are_not_here_are_at_nobody_elses() {
    for complete in [false, true] {
        let (a, b) = (full(3).await, node(1 << 30).await);
        let _receiver = receive(&b, Manner::Honest);
        connect(&a, &b).await;
        let ids: Vec<_> = (0..5).map(|n| block(n).id()).collect();
        let info = LeaseInfo {
            root: ids[0],
            terms: vec![1].into(),
            until: Timestamp(u64::MAX),
            blocks: 5,
            bytes: 5 * BLOCK_BYTES as u64,
            complete,
        };
        let lease = a.store().begin_lease(&info).expect("leases");
        a.store().add_lease_refs(lease, &ids).expect("adds");
        let left = leave(order(&a, false, LONG), &Silent).await;
        let left = left.expect("leaves");
        assert_eq!((left.leases_cached, left.leased_safe), (0, 3), "{left:?}");
        // An owner was told that the one is whole; on the other nobody counts.
        let (ended, alone) = if complete { (0, 2) } else { (1, 0) };
        assert_eq!((left.leases_ended, left.leased_alone), (ended, alone));
        assert_eq!(
            (left.leases_unfinished, left.leases_kept),
            (ended, 1 - ended)
        );
        assert_eq!(left.is_complete(), !complete);
    }
}
