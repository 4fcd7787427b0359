use super::*;
use crate::block::{Block, Link};
use crate::crypto::key::Key;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::{HeadEntry, certify, head_id};
use crate::lease::{Lease, ListDigest, Terms};
use crate::net::providers::MemoryShelf;
use crate::net::{Net, NetConfig, Services};
use crate::store::{Class, Keep, LeaseId, LeaseInfo, MemoryStore, StoreOptions};
use crate::task::Workers;
use crate::time::{ManualClock, SystemClock};
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

/// Has a record here, for keepers to find, and tells it to those that are connected.
async fn publish(depot: &Depot, record: &HeadRecord) {
    let heads = depot.heads();
    let published = tokio::time::timeout(LONG, heads.publish(record.clone())).await;
    published.expect("in time").expect("it holds");
}

fn setup(depot: &Depot) -> Setup {
    Setup {
        depot: depot.clone(),
        clock: Arc::new(SystemClock),
        lent_bytes: watch::channel(1 << 30).1,
        own: Arc::new(|| None),
        has_holder: Arc::new(|| false),
    }
}

fn keeper(setup: &Setup) -> Keeper<'_> {
    Keeper {
        setup,
        depot: &setup.depot,
        patience: Duration::from_millis(200),
    }
}

/// Waits until the holder's only pin of the head has just these blocks.
async fn wait_pinned(depot: &Depot, logs: &[BlockId]) {
    let logs: BTreeSet<BlockId> = logs.iter().copied().collect();
    let setup = setup(depot);
    let keeper = keeper(&setup);
    let pinned = async {
        loop {
            let pins = keeper.holds().await.expect("readable");
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

fn state() -> Arc<WorkerState> {
    let mut workers = Workers::default();
    workers.spawn("test", |_, _| std::future::ready(()));
    workers.states().remove(0)
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
    let job = setup(&holder);
    workers.spawn("heads", |cancel, state| run(job, cancel, state));
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
    // The log of before stays: whoever has copied the machine's key may have signed the newer one.
    wait_pinned(&holder, &[first, second, third]).await;

    // The owner goes; a newcomer finds the record and the log by the holder.
    owners.net().clone().shutdown().await;
    let newcomer = node().await;
    connect(&newcomer, &holder).await;
    let heads_of_all = newcomer.heads();
    let found = tokio::time::timeout(LONG, heads_of_all.find(head())).await;
    let found = found.expect("in time");
    let found = found.expect("it runs").expect("the holder tells it");
    assert_eq!(found.newest().count(), 2);
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
    let setup = setup(&holder);
    let keeper = keeper(&setup);
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
    let both = |a: HeadRecord, b: HeadRecord| a.merge(&b, Timestamp(0)).expect("one owner");

    let ours = Reason::Ours;

    // Nothing to be had at all: no pin.
    missing(keeper.hold_logs(head(), &record(1, 1, nowhere), ours).await);
    wait_pinned(&holder, &[]).await;
    let start = both(record(1, 1, first), record(2, 1, second));
    keeper
        .hold_logs(head(), &start, ours)
        .await
        .expect("all there");
    wait_pinned(&holder, &[first, second]).await;
    let pin = keeper.holds().await.expect("readable")[0].hold;
    keeper
        .hold_logs(head(), &start, ours)
        .await
        .expect("all there");
    assert_eq!(keeper.holds().await.expect("readable")[0].hold, pin);

    let part = both(record(1, 2, nowhere), record(2, 2, third));
    for _ in 0..2 {
        missing(keeper.hold_logs(head(), &part, ours).await);
        wait_pinned(&holder, &[first, second, third]).await;
    }
    // Once they can be had, those of before are let go.
    let whole = both(record(1, 3, second), record(2, 2, third));
    keeper
        .hold_logs(head(), &whole, ours)
        .await
        .expect("all there");
    wait_pinned(&holder, &[second, third]).await;
}

#[tokio::test]
async fn a_pin_without_its_head_brings_the_head_back() {
    let (owners, holder) = (node().await, node().await);
    connect(&holder, &owners).await;
    let log = put_log(&holder, 1);
    let known = record(1, 1, log);
    publish(&owners, &known).await;
    let setup = setup(&holder);
    let keeper = keeper(&setup);
    let ours = Reason::Ours;
    keeper
        .hold_logs(head(), &known, ours)
        .await
        .expect("it is here");
    let state = state();
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

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A lease of the owner's for one block, whole.
fn lease(store: &dyn Store, block: BlockId, until: Timestamp) -> LeaseId {
    let machine = SigningKey::from_bytes(&[1; 32]);
    let owner_key = owner().verifying_key().to_bytes();
    let terms = Terms {
        holder: vec![1],
        name: rand::random(),
        sequence: 1,
        made: Timestamp(until.0.saturating_sub(1000)),
        until,
        minimum_until: until,
        root: block,
        blocks: 1,
        bytes: 500,
        digest: ListDigest::of([&block]).expect("in order"),
        copies: 0,
        opener: None,
    };
    let certificate = certify(&owner(), &machine.verifying_key().to_bytes());
    let lease = Lease::sign(&owner_key, &machine, &certificate, terms);
    let info = LeaseInfo {
        root: block,
        terms: Held::new(lease, Timestamp(until.0 - 1000)).encode().into(),
        until,
        blocks: 1,
        bytes: 500,
        complete: true,
    };
    let lease = store.begin_lease(&info).expect("begun");
    store.add_lease_refs(lease, &[block]).expect("leased");
    lease
}

/// A holder that knows of a head in the mesh and has a lease of its owner.
struct Leasing {
    clock: Arc<ManualClock>,
    setup: Setup,
    /// Has the log; lives as long as the test.
    _owners: Depot,
    log: BlockId,
    lease: LeaseId,
    until: Timestamp,
}

async fn leasing() -> Leasing {
    let (owners, holder) = (node().await, node().await);
    connect(&holder, &owners).await;
    let log = put_log(&owners, 1);
    publish(&owners, &record(1, 1, log)).await;
    let clock = Arc::new(ManualClock::default());
    clock.advance(10_000 * DAY);
    let until = clock.now().after(90 * DAY);
    let leased = put_log(&holder, 9);
    let lease = lease(&**holder.store(), leased, until);
    let setup = Setup {
        clock: clock.clone(),
        ..setup(&holder)
    };
    Leasing {
        clock,
        setup,
        _owners: owners,
        log,
        lease,
        until,
    }
}

impl Leasing {
    fn store(&self) -> &Arc<dyn Store> {
        self.setup.depot.store()
    }

    async fn kept(&self) -> Vec<BlockId> {
        let heads = self.setup.depot.net().heads();
        heads.kept().await.expect("it runs")
    }

    async fn round(&self, seen: &mut Seen) -> Result<Round, Error> {
        seen.done.clear();
        keeper(&self.setup).round(seen, &state()).await
    }

    /// Rounds until the head is kept and its log held.
    async fn held(&self, seen: &mut Seen) -> HeadHold {
        let held = async {
            loop {
                // What is not found at once is looked for again.
                let _ = self.round(seen).await;
                let holds = keeper(&self.setup).holds().await.expect("readable");
                if let [hold] = &holds[..]
                    && hold.logs == [self.log]
                {
                    return hold.clone();
                }
            }
        };
        tokio::time::timeout(LONG, held).await.expect("in time")
    }

    fn class(&self) -> Option<Class> {
        let stat = self.store().stat(self.log).expect("reads");
        stat.and_then(|stat| stat.class)
    }
}

#[tokio::test]
async fn a_head_of_leases_counts_as_lent_and_goes_some_time_after_them() {
    let leasing = leasing().await;
    let mut seen = Seen::default();
    let hold = leasing.held(&mut seen).await;
    assert_eq!(hold.reason, Reason::Leases(leasing.until.after(GRACE)));
    assert_eq!(leasing.class(), Some(Class::Leased));
    assert_eq!(leasing.store().usage().leased_bytes, 1000);
    assert!(leasing.store().pins().expect("reads").is_empty());
    assert_eq!(
        leased_logs(&**leasing.store()).expect("reads"),
        [leasing.log]
    );
    // After a restart it is as it was.
    let mut seen = Seen::default();
    assert_eq!(leasing.held(&mut seen).await, hold);

    leasing.store().remove_lease(leasing.lease).expect("ends");
    leasing.round(&mut seen).await.expect("it runs");
    let until = leasing.clock.now().after(GRACE);
    assert_eq!(leasing.held(&mut seen).await.reason, Reason::Leases(until));
    leasing.clock.advance(GRACE + DAY);
    leasing.round(&mut seen).await.expect("it runs");
    assert_eq!(leasing.kept().await, [head()], "the clock may be wrong");
    tokio::time::pause();
    tokio::time::advance(policy::OVER_FOR).await;
    tokio::time::resume();
    leasing.round(&mut seen).await.expect("it runs");
    assert!(leasing.kept().await.is_empty());
    assert!(leasing.store().leases().expect("reads").is_empty());
    assert_eq!(leasing.class(), Some(Class::Cached));
}

#[tokio::test]
async fn without_room_among_what_is_lent_only_the_head_is_kept() {
    let mut leasing = leasing().await;
    let (lent, watched) = watch::channel(0);
    leasing.setup.lent_bytes = watched;
    let mut seen = Seen::default();
    // A log is fetched only while there is room for something; how large it is shows then.
    for (bytes, class) in [(500, None), (999, Some(Class::Cached))] {
        lent.send_replace(bytes);
        let full = async {
            while !matches!(
                leasing.round(&mut seen).await,
                Err(Error::Full { missing: 1, .. })
            ) {}
        };
        tokio::time::timeout(LONG, full).await.expect("in time");
        assert_eq!(leasing.kept().await, [head()]);
        assert_eq!(leasing.class(), class, "{bytes}");
        assert_eq!(leasing.store().usage().leased_bytes, 500);
    }
    // As soon as there is room, it comes.
    lent.send_replace(1000);
    leasing.held(&mut seen).await;
    assert_eq!(leasing.store().usage().leased_bytes, 1000);
}

#[tokio::test]
async fn a_head_that_is_ours_by_now_does_not_go_with_its_leases() {
    for is_own in [false, true] {
        let mut leasing = leasing().await;
        let mut seen = Seen::default();
        leasing.held(&mut seen).await;
        let now = leasing.clock.now();
        if is_own {
            leasing.setup.own = Arc::new(|| Some(head()));
        } else {
            keep_for_ours(&**leasing.store(), head(), now).expect("says");
        }
        let hold = leasing.held(&mut seen).await;
        assert_eq!(hold.reason, Reason::Ours);
        assert_eq!(leasing.class(), Some(Class::Pinned));
        leasing.store().remove_lease(leasing.lease).expect("ends");
        leasing.clock.advance(1000 * DAY);
        for _ in 0..2 {
            leasing.round(&mut seen).await.expect("it runs");
        }
        assert_eq!(leasing.kept().await, [head()]);
        assert!(leasing.store().leases().expect("reads").is_empty());
    }
}
