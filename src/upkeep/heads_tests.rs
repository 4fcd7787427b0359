use super::*;
use crate::block::{Block, Link};
use crate::crypto::key::Key;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::{HeadEntry, certify, head_id};
use crate::net::providers::MemoryShelf;
use crate::net::{Net, NetConfig, Services};
use crate::store::{MemoryStore, StoreOptions};
use crate::task::Workers;
use crate::time::SystemClock;
use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(90);

async fn node() -> Depot {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions::default()));
    let server = Arc::new(Server::new(store.clone()));
    let services = Services {
        blocks: server.clone(),
        records: Arc::new(MemoryShelf::new()),
    };
    let config = NetConfig::in_memory(Keypair::generate_ed25519());
    let net = Net::start(config, services).await.expect("it starts");
    Depot::new(store, net, &server, Arc::new(Pending::default()))
}

async fn connect(a: &Depot, b: &Depot) {
    let address = b.net().listen_addresses()[0].clone();
    a.net().peers().connect(address).await.expect("it connects");
}

fn put_log(depot: &Depot, fill: u8) -> BlockId {
    let block = Block::new(vec![fill; 500].into()).expect("a block");
    depot
        .store()
        .put(std::slice::from_ref(&block), Keep::Cached)
        .expect("room");
    block.id()
}

fn owner() -> SigningKey {
    SigningKey::from_bytes(&[1; 32])
}

fn head() -> BlockId {
    head_id(&owner().verifying_key().to_bytes())
}

fn record(machine: u8, sequence: u64, log: BlockId) -> HeadRecord {
    let machine = SigningKey::from_bytes(&[machine; 32]);
    HeadRecord::new(HeadEntry::sign(
        &owner().verifying_key().to_bytes(),
        &machine,
        &certify(&owner(), &machine.verifying_key().to_bytes()),
        sequence,
        0,
        &Link {
            id: log,
            key: Key::new([1; 32]),
        },
        &[1; 32],
    ))
}

/// Publishes until a peer takes it: routing tables fill a moment after connecting.
async fn publish(depot: &Depot, record: &HeadRecord) {
    let published = async {
        loop {
            let report = depot.net().heads().publish(record.clone()).await;
            if report.expect("it holds").stored_by > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, published)
        .await
        .expect("in time");
}

fn keeper(depot: &Depot) -> Keeper<'_> {
    Keeper {
        depot,
        clock: &SystemClock,
        patience: Duration::from_millis(200),
    }
}

/// Waits until the holder's only pin of the head has just these blocks.
async fn wait_pinned(depot: &Depot, logs: &[BlockId]) {
    let logs: BTreeSet<BlockId> = logs.iter().copied().collect();
    let keeper = keeper(depot);
    let pinned = async {
        loop {
            let pins = keeper.pins().await.expect("readable");
            let all: Vec<_> = pins.iter().flat_map(|pin| pin.logs.clone()).collect();
            if pins.len() == usize::from(!logs.is_empty())
                && all.iter().copied().collect::<BTreeSet<_>>() == logs
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let done = tokio::time::timeout(LONG, pinned).await;
    done.unwrap_or_else(|_| panic!("{logs:?} are not pinned"));
}

async fn next_round() {
    tokio::time::pause();
    tokio::time::advance(EVERY).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_kept_head_is_followed_and_its_logs_are_pinned_and_outlive_the_owner() {
    let (owners, holder) = (node().await, node().await);
    connect(&holder, &owners).await;
    let first = put_log(&owners, 1);
    publish(&owners, &record(1, 1, first)).await;
    let mut workers = Workers::default();
    let job = holder.clone();
    workers.spawn("heads", |cancel, state| {
        run(job, Arc::new(SystemClock), cancel, state)
    });
    let heads = holder.net().heads();
    heads.keep(record(1, 1, first)).await.expect("kept");
    wait_pinned(&holder, &[first]).await;
    let name = holder.store().pins().expect("readable")[0].1.name.clone();
    assert_eq!(name, format!("head {}", &head().to_hex()[..8]));

    // A second machine, and a new log of the first.
    let (second, third) = (put_log(&owners, 2), put_log(&owners, 3));
    publish(&owners, &record(1, 2, second)).await;
    publish(&owners, &record(2, 1, third)).await;
    next_round().await;
    wait_pinned(&holder, &[second, third]).await;

    // The owner goes; a newcomer finds the record and the log by the holder.
    owners.net().clone().shutdown().await;
    let newcomer = node().await;
    connect(&newcomer, &holder).await;
    publish(&holder, &record(2, 1, third)).await;
    let found = async {
        loop {
            let local = newcomer.net().heads().local(head()).await;
            if let Some(found) = local.expect("it runs") {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(LONG, found).await.expect("in time");
    assert_eq!(found.entries().len(), 2);
    let session = newcomer.session(LONG, Keep::Cached);
    assert_eq!(session.get(third).await.expect("it is there").id(), third);

    // Released, nothing is pinned any more.
    heads.release(head()).await.expect("it runs");
    wait_pinned(&holder, &[]).await;
    assert!(workers.stop(LONG).await.is_empty());
}

#[tokio::test]
async fn while_a_log_is_missing_the_ones_of_before_stay_pinned() {
    let holder = node().await;
    let keeper = keeper(&holder);
    let (first, second, third) = (
        put_log(&holder, 1),
        put_log(&holder, 2),
        put_log(&holder, 3),
    );
    let nowhere = Block::new(vec![9; 10].into()).expect("a block").id();
    let missing = |result: Result<(), Error>| match result {
        Err(Error::Missing { missing: 1, first }) => assert_eq!(first, nowhere),
        other => panic!("{other:?}"),
    };
    let both = |a: HeadRecord, b: HeadRecord| a.merge(&b).expect("one owner");

    // Nothing to be had at all: no pin.
    missing(keeper.pin_logs(head(), &record(1, 1, nowhere)).await);
    wait_pinned(&holder, &[]).await;
    let start = both(record(1, 1, first), record(2, 1, second));
    keeper.pin_logs(head(), &start).await.expect("all there");
    wait_pinned(&holder, &[first, second]).await;
    let pin = keeper.pins().await.expect("readable")[0].pin;
    keeper.pin_logs(head(), &start).await.expect("all there");
    assert_eq!(keeper.pins().await.expect("readable")[0].pin, pin);

    let part = both(record(1, 2, nowhere), record(2, 2, third));
    for _ in 0..2 {
        missing(keeper.pin_logs(head(), &part).await);
        wait_pinned(&holder, &[first, second, third]).await;
    }
    // Once they can be had, those of before are let go.
    let whole = both(record(1, 3, second), record(2, 2, third));
    keeper.pin_logs(head(), &whole).await.expect("all there");
    wait_pinned(&holder, &[second, third]).await;
}

#[tokio::test]
async fn a_pin_without_its_head_brings_the_head_back() {
    let (owners, holder) = (node().await, node().await);
    connect(&holder, &owners).await;
    let log = put_log(&holder, 1);
    let known = record(1, 1, log);
    publish(&owners, &known).await;
    let keeper = keeper(&holder);
    keeper.pin_logs(head(), &known).await.expect("it is here");
    let state = {
        let mut workers = Workers::default();
        workers.spawn("test", |_, _| std::future::ready(()));
        workers.states().remove(0)
    };
    let mut seen = Seen::default();
    let back = async {
        while holder.net().heads().kept().await.expect("it runs") != [head()] {
            seen.done.clear();
            keeper.round(&mut seen, &state).await.expect("it runs");
        }
    };
    tokio::time::timeout(LONG, back).await.expect("in time");
    wait_pinned(&holder, &[log]).await;
    // Released in the same run, it stays away.
    keeper.round(&mut seen, &state).await.expect("it runs");
    holder.net().heads().release(head()).await.expect("it runs");
    keeper.round(&mut seen, &state).await.expect("it runs");
    wait_pinned(&holder, &[]).await;
}
