use super::list::{Kept, ListInfo, Place};
use super::*;
use crate::block::Block;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::head::certify;
use crate::id::BlockId;
use crate::net::providers::MemoryShelf;
use crate::net::replica::{Answer, Refusal, Request, State};
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
    fn opener(&self, _: BlockId) -> Option<crate::lease::Opener> {
        None
    }

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
    clock.advance(Duration::from_secs(76 * 24 * 3600));
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
        listed: 0,
    }
}

/// Says what it is told to say; never more than it has. Returns how often it was asked for what.
fn answer(depot: &Depot, answers: Vec<Answer>) -> Arc<std::sync::Mutex<Vec<Request>>> {
    let mut inbox = depot.net().replica().take_inbox().expect("nobody has it");
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (noted, mut answers) = (asked.clone(), answers.into_iter());
    tokio::spawn(async move {
        while let Some(incoming) = inbox.recv().await {
            noted.lock().expect("not poisoned").push(incoming.request);
            let answer = answers.next();
            let _ = incoming
                .reply
                .send(answer.unwrap_or(Answer::Refused(Refusal::Busy)));
        }
    });
    asked
}

/// An owner with a backup, and what a holder that says these things leads to: a worker, and the name of the copy.
async fn with_holder(
    place: Place,
    answers: Vec<Answer>,
) -> (Worker, BlockId, PeerId, tempfile::TempDir) {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_millis(place.since.0));
    let (owner, holder) = (node(&clock).await, node(&clock).await);
    drop(answer(&holder, answers));
    let address = holder.net().listen_addresses()[0].clone();
    owner
        .net()
        .peers()
        .connect(address)
        .await
        .expect("connects");
    let dir = tempfile::tempdir().expect("a directory");
    let copies = Arc::new(Copies::open(&dir.path().join("copies")).expect("opens"));
    let (root, peer) = (backup(&owner, 7), holder.net().peer_id());
    copies.want(root, "set", 1).expect("writes");
    let key = data_encoding::HEXLOWER.encode(&peer.to_bytes());
    let fill = |kept: &mut Kept| {
        kept.list = Some(ListInfo {
            blocks: 30,
            bytes: 30 * 600,
            digest: "00".repeat(32),
        });
        kept.held.insert(key, place);
    };
    copies.update(&root, fill).expect("writes");
    let worker = Worker {
        secret: [1; 32],
        copies,
        depot: owner,
        clock,
        signer: Arc::new(Machine),
        pin_name: PIN,
    };
    // It lives as long as its test.
    std::mem::forget(holder);
    (worker, root, peer, dir)
}

fn fresh_place() -> Place {
    let now = Timestamp(1_000_000_000_000);
    Place {
        since: now,
        seen: now,
        sequence: now.0,
        until: now.after(Duration::from_secs(90 * 24 * 3600)),
        minimum_until: now.after(Duration::from_secs(75 * 24 * 3600)),
        ..a_place()
    }
}

fn said(listed: u64, missing: u64, durable: bool, days: u64) -> Answer {
    Answer::State(State {
        listed,
        missing,
        durable,
        remaining: Duration::from_secs(days * 24 * 3600),
        free_bytes: 0,
    })
}

/// The only copy there is.
fn copy_of(worker: &Worker, root: &BlockId) -> Option<Place> {
    let kept = worker.copies.get(root).expect("it is there");
    kept.held.into_values().next()
}

#[tokio::test]
async fn a_renewal_that_is_refused_forgets_no_copy() {
    let refuse = |refusal| vec![Answer::Refused(refusal)];
    for (refusal, stays) in [(Refusal::Full, true), (Refusal::Unknown, false)] {
        let (worker, root, peer, _dir) = with_holder(fresh_place(), refuse(refusal)).await;
        let renew = Action::Renew(root, peer.to_bytes());
        worker.act(renew).await.expect("asks");
        assert_eq!(copy_of(&worker, &root).is_some(), stays);
        let kept = worker.copies.get(&root).expect("it is there");
        assert!(kept.refused.contains_key(&peer.to_bytes()));
    }
    // One that never came whole is none.
    let place = Place {
        whole: false,
        ..fresh_place()
    };
    let (worker, root, peer, _dir) = with_holder(place, refuse(Refusal::Full)).await;
    let poll = Action::Poll(root, peer.to_bytes());
    worker.act(poll).await.expect("asks");
    assert!(copy_of(&worker, &root).is_none());
}

#[tokio::test]
async fn the_holder_says_how_long_it_keeps_what_it_keeps() {
    let answers = vec![said(30, 0, true, 50), said(30, 0, true, 44)];
    let (worker, root, peer, _dir) = with_holder(fresh_place(), answers).await;
    for (days, is_failed) in [(50, false), (44, true)] {
        let renew = Action::Renew(root, peer.to_bytes());
        worker.act(renew).await.expect("asks");
        let place = copy_of(&worker, &root).expect("it is there");
        let until = fresh_place()
            .since
            .after(Duration::from_secs(days * 24 * 3600));
        assert_eq!((place.until, place.failed), (until, is_failed));
        assert!(place.minimum_until <= place.until);
    }
}

#[tokio::test]
async fn blocks_that_go_and_come_are_no_progress() {
    let answers = [(0, 30), (30, 5), (30, 9), (30, 5), (30, 4)];
    let counts = [true, true, false, false, true];
    let (mut all, mut place) = (Vec::new(), fresh_place());
    (place.whole, place.listed) = (false, 0);
    for (listed, missing) in answers {
        if listed == 0 {
            // The list is sent, and heard of that.
            all.push(said(0, missing, false, 90));
            all.push(said(30, missing, false, 90));
        } else {
            all.push(said(listed, missing, false, 90));
        }
    }
    let (worker, root, peer, _dir) = with_holder(place, all).await;
    for (number, is_progress) in counts.into_iter().enumerate() {
        worker.copies.waited(Duration::from_secs(7), &[].into());
        let poll = Action::Poll(root, peer.to_bytes());
        worker.act(poll).await.expect("asks");
        let missed = copy_of(&worker, &root).expect("it is there").missed_ms;
        assert_eq!(missed == 0, is_progress, "answer {number}");
    }
}

#[test]
fn copies_of_the_removed_count_no_more_and_are_made_elsewhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let copies = Copies::open(&dir.path().join("copies")).expect("opens");
    let (now, limits) = (fresh_place().since, Limits::default());
    let (stays, removed) = (PeerId::random(), PeerId::random());
    copies.want(root(1), "set", 2).expect("writes");
    for peer in [stays, removed] {
        let name = data_encoding::HEXLOWER.encode(&peer.to_bytes());
        let hold = |kept: &mut Kept| drop(kept.held.insert(name.clone(), held(now)));
        copies.update(&root(1), hold).expect("writes");
    }
    let health = || copies.health(now, &limits)[0].copies_min;
    assert_eq!(health(), 2);
    copies.expelled(&[removed]);
    assert_eq!(health(), 1);
    // One that is not in the ring is not asked; the next is.
    let other = PeerId::random().to_bytes();
    let facts = Facts {
        jobs: copies.jobs(),
        online: [(stays.to_bytes(), u64::MAX), (other.clone(), u64::MAX)].into(),
        sites: std::collections::BTreeMap::new(),
        secret: [0; 32],
    };
    let actions = policy::choose(now, &facts, &limits);
    let is_asked = |action: &Action| matches!(action, Action::Ask(_, peer) if *peer == other);
    assert!(actions.iter().any(is_asked), "{actions:?}");
}

#[test]
fn a_backup_that_is_gone_is_lost_and_not_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    let copies = Copies::open(&dir.path().join("copies")).expect("opens");
    let (one, two) = (root(1), root(2));
    let (now, limits) = (fresh_place().since, Limits::default());
    for root in [one, two] {
        copies.want(root, "set", 1).expect("writes");
        let hold = |kept: &mut Kept| drop(kept.held.insert("0a".to_owned(), held(now)));
        copies.update(&root, hold).expect("writes");
    }
    let reconcile = |here: &[BlockId]| {
        let look = || Ok(here.iter().copied().collect());
        copies.reconcile(look, now, &limits).expect("writes");
    };
    // The store is empty, as after restoring the data directory without it.
    reconcile(&[]);
    assert_eq!((copies.wanted().len(), copies.short(now, &limits)), (2, 2));
    let health = copies.health(now, &limits).remove(0);
    assert_eq!((health.lost, health.copies_min, health.survives), (2, 1, 0));
    let online = [(vec![10], 99), (vec![11], 99)].into();
    let facts = Facts {
        jobs: copies.jobs(),
        online,
        sites: std::collections::BTreeMap::new(),
        secret: [0; 32],
    };
    let later = now.after(Duration::from_secs(80 * 24 * 3600));
    let actions = policy::choose(later, &facts, &limits);
    assert!(
        actions.iter().all(|a| matches!(a, Action::Renew(..))),
        "{actions:?}"
    );
    reconcile(&[one, two]);
    assert_eq!(copies.health(now, &limits)[0].lost, 0);
    // One that is pinned and wanted while it is looked what is here is not lost: the look may have
    // come too early for it.
    let look = || {
        copies.want(root(3), "set", 1).expect("writes");
        Ok([one, two].into())
    };
    copies.reconcile(look, now, &limits).expect("writes");
    assert_eq!(copies.health(now, &limits)[0].lost, 0);
    copies.forgotten(|known| *known == root(3)).expect("writes");
    copies.forgotten(|root| *root == one).expect("writes");
    assert_eq!(copies.wanted(), [two]);
}

fn root(n: u8) -> BlockId {
    BlockId::from_sha384([n; 48])
}

/// A copy that counts.
fn held(now: Timestamp) -> Place {
    Place {
        audited: Some(now),
        ..fresh_place()
    }
}

#[test]
fn what_is_written_anew_keeps_its_copies_until_the_new_ones_are_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("copies");
    let copies = Copies::open(&path).expect("opens");
    let (old, new, newest) = (root(1), root(2), root(3));
    let (now, limits) = (fresh_place().since, Limits::default());
    copies.want(old, "set", 1).expect("writes");
    let hold = |root: BlockId| {
        let hold = |kept: &mut Kept| drop(kept.held.insert("0a".to_owned(), held(now)));
        copies.update(&root, hold).expect("writes");
    };
    hold(old);
    let reconcile = |here: &[BlockId]| {
        let look = || Ok(here.iter().copied().collect());
        copies.reconcile(look, now, &limits).expect("writes");
    };
    copies.supersede(old, new).expect("writes");
    let on_disk = Copies::open(&path).expect("opens");
    assert_eq!(on_disk.wanted(), [old, new]);
    // Repacking was cut off: the new one went, and all is as it was.
    reconcile(&[old]);
    assert_eq!(copies.wanted(), [old]);
    assert_eq!(copies.reached(&old, now, &limits), Some((1, 1)));
    // It went on: the old one's copies stay as long as the new one has none.
    copies.supersede(old, new).expect("writes");
    reconcile(&[old, new]);
    copies.forgotten(|root| *root == old).expect("writes");
    reconcile(&[new]);
    assert_eq!(copies.wanted(), [old, new]);
    assert_eq!(copies.short(now, &limits), 1);
    // And likewise when it is written anew once more.
    copies.supersede(new, newest).expect("writes");
    reconcile(&[newest]);
    assert_eq!(copies.wanted(), [old, new, newest]);
    hold(newest);
    reconcile(&[newest]);
    assert_eq!(copies.wanted(), [newest]);
    assert_eq!(copies.short(now, &limits), 0);
    assert!(copies.get(&new).is_none(), "it had no copies");
    assert_eq!(copies.get(&old).map(|kept| kept.held.len()), Some(1));
    // What is not copied is not copied anew.
    copies.supersede(root(8), root(9)).expect("nothing to do");
    assert_eq!(copies.wanted(), [newest]);
}

#[test]
fn what_nobody_wants_any_more_is_known_until_its_holders_have_ended_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let copies = Copies::open(&dir.path().join("copies")).expect("opens");
    let (old, new, other) = (root(1), root(2), root(3));
    copies.want(old, "set", 1).expect("writes");
    let hold = |kept: &mut Kept| drop(kept.held.insert("0a".to_owned(), fresh_place()));
    copies.update(&old, hold).expect("writes");
    copies.supersede(old, new).expect("writes");
    copies.want(other, "set", 1).expect("writes");
    copies.unwant(|root| *root != other).expect("writes");
    assert_eq!(copies.wanted(), [other]);
    assert!(copies.get(&new).is_none(), "it had no copies");
    assert_eq!(copies.leases().len(), 1);
    copies.ended(&old, &[0x0a]).expect("writes");
    assert!(copies.get(&old).is_none());
}

#[test]
fn who_looks_does_not_wait_for_the_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let copies = Copies::open(&dir.path().join("copies")).expect("opens");
    copies.want(root(1), "set", 1).expect("writes");
    let writing = copies.lock_file();
    let looked = std::thread::scope(|scope| {
        let (done, looked) = std::sync::mpsc::sync_channel(1);
        scope.spawn(|| {
            let now = Timestamp(1);
            copies.jobs();
            copies.kept_by_peer();
            copies.short(now, &Limits::default());
            copies.waited(Duration::ZERO, &[].into());
            let _ = done.send(copies.reached(&root(1), now, &Limits::default()));
            drop(done);
        });
        looked.recv_timeout(LONG)
    });
    assert_eq!(looked, Ok(Some((1, 0))));
    drop(writing);
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
