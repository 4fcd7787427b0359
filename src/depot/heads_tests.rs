use std::sync::LazyLock;

use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::{HeadEntry, certify, months_to_announce};
use crate::net::providers::MemoryShelf;
use crate::net::{Net, NetConfig, Services};
use crate::store::{MemoryStore, Store, StoreOptions};
use ed25519_dalek::SigningKey;
use libp2p::identity::Keypair;

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(90);

fn record_of(machine: u8, sequence: u64) -> HeadRecord {
    let owner = SigningKey::from_bytes(&[1; 32]);
    let machine = SigningKey::from_bytes(&[machine; 32]);
    let certificate = certify(&owner, &machine.verifying_key().to_bytes());
    let log = Link {
        id: BlockId::from_sha384([3; 48]),
        key: Key::new([4; 32]),
    };
    let owner = owner.verifying_key().to_bytes();
    let entry = HeadEntry::sign(&owner, &machine, &certificate, sequence, 0, &log, &[5; 32]);
    HeadRecord::new(entry)
}

/// The same bytes each time: sealing takes a random nonce.
fn record() -> HeadRecord {
    static RECORD: LazyLock<HeadRecord> = LazyLock::new(|| record_of(2, 1));
    RECORD.clone()
}

async fn node(bootstrap: &[&Depot]) -> Depot {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions::default()));
    let server = Arc::new(Server::new(store.clone()));
    let services = Services {
        blocks: server.clone(),
        records: Arc::new(MemoryShelf::new()),
    };
    let addresses = bootstrap
        .iter()
        .flat_map(|one| one.net().listen_addresses());
    let config = NetConfig {
        bootstrap: addresses.collect(),
        ..NetConfig::in_memory(Keypair::generate_ed25519())
    };
    let net = Net::start(config, services).await.expect("it starts");
    Depot::new(store, net, &server, Arc::new(Pending::default()))
}

async fn connect(a: &Depot, b: &Depot) {
    let address = b.net().listen_addresses()[0].clone();
    let peer = a.net().peers().connect(address).await;
    let peer = peer.expect("it connects");
    let mut connected = a.net().peers().watch_connected();
    let listed = connected.wait_for(|connected| connected.contains(&peer));
    within(listed).await.expect("the net lives");
}

async fn keep(depot: &Depot, record: &HeadRecord) {
    let kept = depot.net().heads().keep(record.clone()).await;
    kept.expect("kept");
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("in time")
}

async fn local(depot: &Depot) -> Option<HeadRecord> {
    let local = depot.net().heads().local(record().id()).await;
    local.expect("it runs")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_that_is_connected_tells_the_head_and_takes_in_what_is_new() {
    let (keeper, reader, stranger) = (node(&[]).await, node(&[]).await, node(&[]).await);
    connect(&reader, &keeper).await;
    connect(&reader, &stranger).await;
    let id = record().id();
    assert_eq!(within(reader.heads().find_near(id)).await, Ok(None));
    keep(&keeper, &record()).await;
    let found = within(reader.heads().find_soon(id)).await.expect("it runs");
    assert_eq!(found.record, Some(record()));
    assert_eq!(found.told, [(keeper.net().peer_id(), record())]);

    let newer = record_of(3, 7);
    let report = within(reader.heads().publish(newer.clone())).await;
    let taken = PublishReport {
        stored_by: 1,
        asked: 1,
    };
    assert_eq!(report, Ok(taken));
    let kept = local(&keeper).await.expect("kept");
    assert!(kept.has_all_of(&newer) && kept.has_all_of(&record()));
    assert_eq!(local(&stranger).await, None, "it is no business of its");
}

/// Keeper that announced itself at a place: whoever knows the head's id finds it there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keeper_is_found_at_its_place_by_who_knows_the_head() {
    let hub = node(&[]).await;
    let (keeper, reader) = (node(&[&hub]).await, node(&[&hub]).await);
    within(async {
        while hub.net().peers().connected().len() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    keep(&keeper, &record()).await;
    let id = record().id();
    let month = months_to_announce(keeper.net().clock().now())[0];
    let key = place_key(&id, month, PLACES - 1).to_multihash();
    let announced = async {
        loop {
            let providers = keeper.net().providers();
            let told = providers.announce(vec![key.clone()]).await;
            if told.expect("it runs").peers_reached > 0 {
                return;
            }
        }
    };
    within(announced).await;
    // In a mesh as small as this one everybody is connected soon, so the place is looked at by
    // itself.
    let at_place = async {
        loop {
            let mut at_places = reader.heads().at_places(id);
            if let Some(peer) = at_places.next().await {
                return peer;
            }
        }
    };
    assert_eq!(within(at_place).await, keeper.net().peer_id());
    let heads = reader.heads();
    let found = within(heads.find_elsewhere(id)).await.expect("it runs");
    assert_eq!(found.record, Some(record()));
    assert_eq!(found.told[0].0, keeper.net().peer_id());
    assert_eq!(
        local(&reader).await,
        None,
        "it has nothing of its own by that"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keepers_that_lack_something_are_told() {
    let (stale, fresh, reader) = (node(&[]).await, node(&[]).await, node(&[]).await);
    let (older, newer) = (record_of(2, 3), record_of(3, 5));
    keep(&stale, &older).await;
    keep(&fresh, &newer).await;
    connect(&reader, &stale).await;
    connect(&reader, &fresh).await;
    let found = within(reader.heads().find(record().id())).await;
    let found = found.expect("it runs").expect("two tell it");
    assert_eq!(found.newest().count(), 2);
    within(async {
        for keeper in [&stale, &fresh] {
            while local(keeper).await.as_ref() != Some(&found) {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
}

/// Number of answers that a search gives after `answers`, each with the seconds at which it comes,
/// when it never ends by itself; and how long it took.
async fn wait_for(answers: Vec<(u64, Vec<u8>)>, grace: Duration) -> (usize, Duration) {
    let began = Instant::now();
    let told = stream::iter(answers).then(move |(at, answer)| async move {
        tokio::time::sleep_until(began + Duration::from_secs(at)).await;
        (PeerId::random(), answer)
    });
    // A peer that is gone is dialled for ever.
    let told = told.chain(stream::pending());
    let has_found = AtomicBool::new(false);
    let all = collect(told, record().id(), grace, &has_found).await;
    (all.len(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_is_gone_is_not_waited_for_once_another_has_answered() {
    let (good, second) = (record().encode(), Duration::from_secs(1));
    let answers = vec![(2, good.clone()), (2, good.clone()), (9, good.clone())];
    let (count, took) = wait_for(answers.clone(), GRACE).await;
    assert_eq!((count, took), (2, 3 * second));
    let (count, took) = wait_for(answers, FIND_TIMEOUT).await;
    assert_eq!((count, took), (3, FIND_TIMEOUT), "who has time hears all");
    // A lie is no answer: what is true may come later.
    let answers = vec![(0, b"nonsense".to_vec()), (7, good)];
    let (count, took) = wait_for(answers, GRACE).await;
    assert_eq!((count, took), (2, 8 * second));
    let (count, took) = wait_for(Vec::new(), GRACE).await;
    assert_eq!((count, took), (0, FIND_TIMEOUT));
}
