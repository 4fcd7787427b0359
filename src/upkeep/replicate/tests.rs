use super::list::{Kept, ListInfo, Place};
use super::*;
use crate::block::Block;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::certify;
use crate::id::BlockId;
use crate::net::providers::MemoryShelf;
use crate::net::{Net, NetConfig, Services};
use crate::store::{Keep, MemoryStore, PinInfo, Store, StoreOptions};
use crate::task::Workers;
use crate::time::ManualClock;
use crate::upkeep::holder::{self, Lend};
use ed25519_dalek::SigningKey;
use libp2p::PeerId;
use libp2p::identity::Keypair;

const LONG: Duration = Duration::from_secs(120);
const PIN: &str = "a backup";

struct Connected(Net);

impl Candidates for Connected {
    fn peers(&self) -> Vec<PeerId> {
        self.0.peers().connected().to_vec()
    }
}

struct Machine;

impl Signer for Machine {
    fn owner(&self) -> Option<[u8; 32]> {
        Some(keys().0)
    }

    fn lease(&self, terms: Terms) -> Option<Lease> {
        let (owner, machine, certificate) = keys();
        Some(Lease::sign(&owner, &machine, &certificate, terms))
    }

    fn release(&self, name: Name, sequence: u64, made: Timestamp) -> Option<Release> {
        let (owner, machine, certificate) = keys();
        Some(Release::by_machine(
            &owner,
            &machine,
            &certificate,
            name,
            sequence,
            made,
        ))
    }
}

fn keys() -> ([u8; 32], SigningKey, [u8; 64]) {
    let owner = SigningKey::from_bytes(&[1; 32]);
    let machine = SigningKey::from_bytes(&[2; 32]);
    let certificate = certify(&owner, &machine.verifying_key().to_bytes());
    (owner.verifying_key().to_bytes(), machine, certificate)
}

async fn node(clock: &Arc<ManualClock>) -> Depot {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions {
        clock: clock.clone(),
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

/// A pin of 30 blocks; its root.
fn backup(depot: &Depot, seed: u8) -> BlockId {
    let block = |n: u8| Block::new([seed, n].repeat(300).into()).expect("a block");
    let blocks: Vec<_> = (0..30).map(block).collect();
    let store = depot.store();
    let pin = store.begin_pin(PIN).expect("pins");
    store.put(&blocks, Keep::Pinned(pin)).expect("room");
    let info = PinInfo {
        root: blocks[0].id(),
        link: None,
        name: PIN.to_owned(),
        bytes: 1,
        files: 1,
        blocks: 30,
        created: Timestamp(1),
    };
    store.finish_pin(pin, &info).expect("finishes");
    info.root
}

async fn wait(copies: &Copies, fits: impl Fn() -> bool) {
    let mut changes = copies.watch();
    let wait = async {
        loop {
            changes.mark_unchanged();
            if fits() {
                return;
            }
            changes.changed().await.expect("the list lives");
        }
    };
    tokio::time::timeout(LONG, wait).await.expect("it happens");
}

#[tokio::test]
async fn copies_are_made_audited_and_made_again() {
    let clock = ManualClock::default();
    clock.advance(Duration::from_secs(1_000_000_000));
    let clock = Arc::new(clock);
    let owner = node(&clock).await;
    let mut workers = Workers::default();
    let mut holders = Vec::new();
    for _ in 0..3 {
        let depot = node(&clock).await;
        let address = depot.net().listen_addresses()[0].clone();
        let (held, now) = (depot.clone(), clock.clone());
        let candidates = Arc::new(Connected(depot.net().clone()));
        workers.spawn("holder", |c, s| {
            holder::run(held, now, Lend::of_quota(1 << 30), candidates, c, s)
        });
        owner
            .net()
            .peers()
            .connect(address)
            .await
            .expect("connects");
        holders.push(depot);
    }
    let dir = tempfile::tempdir().expect("a directory");
    let copies = Arc::new(Copies::open(&dir.path().join("copies")).expect("opens"));
    let root = backup(&owner, 7);
    copies.want(root, "Documents", 2).expect("writes");
    let limits = Limits::default();
    let setup = Setup {
        copies: copies.clone(),
        depot: owner.clone(),
        clock: clock.clone(),
        signer: Arc::new(Machine),
        candidates: Arc::new(Connected(owner.net().clone())),
        pin_name: PIN,
        limits,
    };
    workers.spawn("replicate", |c, s| run(setup, c, s));
    let is_reached = || copies.reached(&root, clock.now(), &limits) == Some((2, 2));
    wait(&copies, is_reached).await;
    let holds = |depot: &&Depot| depot.store().usage().leased_bytes == 30 * 600;
    assert_eq!(holders.iter().filter(holds).count(), 2);

    // Progress is on the disk soon after, or when the job stops.
    copies.flush().expect("writes");
    let again = Copies::open(&dir.path().join("copies")).expect("opens");
    assert_eq!(again.reached(&root, clock.now(), &limits), Some((2, 2)));
    wait(&copies, || {
        copies.health(clock.now(), &limits)[0].audited.is_some()
    })
    .await;

    // One loses everything: the next audit finds out, and the third gets a copy.
    let bad = holders.iter().find(holds).expect("one holds");
    for (id, _) in bad.store().list(None, 99).expect("reads") {
        bad.store().discard(id).expect("drops");
    }
    clock.advance(Duration::from_secs(23 * 3600 + 3599));
    clock.advance(Duration::from_secs(1));
    copies.want(root, "Documents", 2).expect("writes");
    let bad_peer = bad.net().peer_id().to_bytes();
    wait(&copies, || {
        is_reached() && !copies.jobs()[&root].held.contains_key(&bad_peer)
    })
    .await;
    assert_eq!(holders.iter().filter(holds).count(), 2);
    let health = copies.health(clock.now(), &limits);
    assert_eq!(
        (
            health[0].name.as_str(),
            health[0].copies_min,
            health[0].copies_asked
        ),
        ("Documents", 2, 2)
    );

    // Forgotten, nobody keeps it once its minimum is over.
    copies.want(root, "Documents", 0).expect("writes");
    clock.advance(Duration::from_secs(31 * 24 * 3600));
    copies.want(root, "Documents", 0).expect("writes");
    wait(&copies, || copies.get(&root).is_none()).await;
    workers.stop(LONG).await;
}

fn a_place() -> Place {
    Place {
        name: "07".repeat(16),
        sequence: 5,
        whole: true,
        failed: false,
        since: Timestamp(1),
        seen: Timestamp(2),
        audited: None,
        until: Timestamp(3),
        minimum_until: Timestamp(4),
        missed_ms: 0,
        unproven_ms: 0,
        missing: None,
    }
}

#[test]
fn progress_waits_for_a_flush_and_what_matters_does_not() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("copies");
    let root = BlockId::from_sha384([1; 48]);
    let copies = Copies::open(&path).expect("opens");
    copies.want(root, "set", 2).expect("writes");
    let on_disk = || {
        let read = Copies::open(&path).expect("opens");
        read.get(&root).expect("it is there")
    };
    let place = |held: &mut Kept, change: &dyn Fn(&mut Place)| {
        change(held.held.get_mut("0a").expect("it is there"));
    };
    copies
        .update(&root, |kept| {
            drop(kept.held.insert("0a".to_owned(), a_place()))
        })
        .expect("writes");
    assert_eq!(on_disk().held.len(), 1, "who is asked is known before");
    let seen = |place_: &mut Place| (place_.whole, place_.seen) = (true, Timestamp(77));
    copies
        .update(&root, |kept| place(kept, &seen))
        .expect("notes");
    assert_eq!(
        (copies.unsaved(), on_disk().held["0a"].seen),
        (Unsaved::Progress, Timestamp(2))
    );
    copies.flush().expect("writes");
    assert_eq!(
        (copies.unsaved(), on_disk().held["0a"].seen),
        (Unsaved::Nothing, Timestamp(77))
    );
    copies.waited(Duration::from_secs(3), &[].into());
    assert_eq!(
        (copies.unsaved(), on_disk().held["0a"].missed_ms),
        (Unsaved::Time, 0)
    );
    let failed = |place_: &mut Place| place_.failed = true;
    copies
        .update(&root, |kept| place(kept, &failed))
        .expect("writes");
    assert!(
        on_disk().held["0a"].failed,
        "nobody is trusted again after a crash"
    );
    assert_eq!(on_disk().held["0a"].missed_ms, 3000);
    // What can't be written did not happen.
    std::fs::remove_dir_all(dir.path()).expect("removes");
    let gone = copies.update(&root, |kept| kept.held.clear());
    assert!(matches!(gone, Err(Error::File { .. })));
    assert_eq!(copies.get(&root).expect("it is there").held.len(), 1);
}

#[test]
fn the_file_reads_back_and_nonsense_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("copies");
    let root = BlockId::from_sha384([1; 48]);
    let copies = Copies::open(&path).expect("there need not be one");
    copies.want(root, "set", 2).expect("writes");
    let place = a_place();
    let fill = |kept: &mut Kept| {
        kept.list = Some(ListInfo {
            blocks: 1,
            bytes: 2,
            digest: "00".repeat(32),
        });
        kept.held.insert("0a".to_owned(), place.clone());
    };
    copies.update(&root, fill).expect("writes");
    let text = std::fs::read_to_string(&path).expect("reads");
    assert_eq!(text, include_str!("golden_v1.json").trim_end());
    let again = Copies::open(&path).expect("opens");
    assert_eq!(again.get(&root), copies.get(&root));
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(&path).expect("it is there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
    let newer = text.replace("\"version\": 1", "\"version\": 2");
    let no_peer = text.replace("\"0a\"", "\"xx\"");
    std::fs::write(&path, newer).expect("writes");
    assert!(matches!(Copies::open(&path), Err(Error::Newer(_))));
    for bad in [no_peer.as_str(), "", "{}", &text[..50], "version = 1"] {
        std::fs::write(&path, bad).expect("writes");
        assert!(matches!(Copies::open(&path), Err(Error::Malformed(_))));
    }
    assert!(matches!(
        copies.want(root, "set", MAX_COPIES + 1),
        Err(Error::TooMany)
    ));
}
