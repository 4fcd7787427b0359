use std::future::Future;
use std::task::Poll;

use super::*;
use crate::backup::prune::{PruneOptions, PruneReport, adopt_orphans, prune};

pub(super) fn options(node: &Node, dry_run: bool) -> PruneOptions {
    PruneOptions {
        replacing: None,
        dry_run,
        journal_dir: node.dir.path().to_owned(),
        repack_below_percent: 0,
        spare_interrupted_for: None,
    }
}

pub(super) async fn prune_on(node: &Node) -> PruneReport {
    let (options, cancel) = (options(node, false), CancellationToken::new());
    let pruned = prune(&node.archive, &node.member, &options, &Silent, &cancel).await;
    pruned.expect("it prunes")
}

pub(super) async fn dry_run(node: &Node) -> PruneReport {
    let (options, cancel) = (options(node, true), CancellationToken::new());
    let pruned = prune(&node.archive, &node.member, &options, &Silent, &cancel).await;
    pruned.expect("it counts")
}

/// Prunes until it was polled so often, and drops it there. Returns whether it came to its end.
pub(super) async fn prune_some(node: &Node, polls: u32) -> bool {
    prune_until(node, &options(node, false), polls).await
}

/// As [`prune_some`], with other options.
pub(super) async fn prune_until(node: &Node, options: &PruneOptions, mut polls: u32) -> bool {
    let cancel = CancellationToken::new();
    let mut pruning = Box::pin(prune(
        &node.archive,
        &node.member,
        options,
        &Silent,
        &cancel,
    ));
    std::future::poll_fn(|cx| {
        if polls == 0 {
            return Poll::Ready(false);
        }
        polls -= 1;
        pruning.as_mut().poll(cx).map(|done| {
            done.expect("it prunes");
            true
        })
    })
    .await
}

fn bytes(node: &Node, ids: impl IntoIterator<Item = BlockId>) -> u64 {
    let size = |id| node.store().stat(id).expect("reads").expect("known").bytes;
    ids.into_iter().filter_map(size).map(u64::from).sum()
}

#[tokio::test]
async fn what_is_forgotten_goes_and_what_is_shared_stays() {
    let node = Node::new().await;
    let mut more = files(1, 30, 1);
    more.extend(
        files(2, 60, 2)
            .into_iter()
            .map(|(p, c)| (format!("x/{p}"), c)),
    );
    let (first, second) = (
        node.back_up(files(1, 30, 1)).await,
        node.back_up(more).await,
    );
    assert_eq!(
        prune_on(&node).await,
        PruneReport {
            disk_bytes_before: node.store().usage().disk_bytes,
            disk_bytes: node.store().usage().disk_bytes,
            ..PruneReport::default()
        },
        "nothing to do"
    );
    node.forget(second.id()).await;
    let only: Vec<_> = second.blocks.difference(&first.blocks).copied().collect();
    let expected = (1, only.len() as u64, bytes(&node, only.iter().copied()));
    let counts = |r: PruneReport| (r.snapshots, r.freed_blocks, r.freed_bytes);
    let dry = dry_run(&node).await;
    assert_eq!(counts(dry), expected);
    assert_eq!(dry.disk_bytes, dry.disk_bytes_before);
    node.assert_reads_back(&second).await;
    let report = prune_on(&node).await;
    assert_eq!(counts(report), expected);
    assert!(report.disk_bytes + report.freed_bytes <= report.disk_bytes_before + 100_000);
    assert!(only.iter().all(|id| !node.has(*id)));
    node.assert_reads_back(&first).await;
    let log = node.log().await;
    assert!(
        log.forgotten().next().is_none(),
        "no mention is needed any more"
    );
    assert_eq!(log.snapshots().len(), 1);
    assert_eq!(counts(prune_on(&node).await), (0, 0, 0));
}

#[tokio::test]
async fn blocks_that_only_forgotten_snapshots_share_go_with_the_last() {
    let node = Node::new().await;
    let (one, two) = (
        node.back_up(files(1, 30, 1)).await,
        node.back_up(files(1, 30, 1)).await,
    );
    assert_ne!(one.id(), two.id());
    node.forget(one.id()).await;
    node.forget(two.id()).await;
    let dry = dry_run(&node).await;
    let all: BTreeSet<_> = one.blocks.union(&two.blocks).copied().collect();
    assert_eq!((dry.snapshots, dry.freed_blocks), (2, all.len() as u64));
    let report = prune_on(&node).await;
    assert_eq!(report.freed_bytes, dry.freed_bytes);
    assert!(all.iter().all(|id| !node.has(*id)));
}

#[tokio::test]
async fn runs_that_were_cut_off_are_taken_in_and_others_are_left_alone() {
    let node = Node::new().await;
    let kept = node.back_up(files(1, 5, 0)).await;
    let (orphan, logged) = node.put(files(2, 5, 0)).await;
    // Another owner, and another machine of the owner, on the same node.
    let stranger = Membership::create(&keys(1), "desk").expect("a name");
    let stranger = Node::with(node.depot().clone(), stranger);
    let strange = stranger.put(files(3, 5, 0)).await.0;
    let laptop = Membership::create(&keys(0), "laptop").expect("a name");
    let laptop = Node::with(node.depot().clone(), laptop);
    let other = laptop.put(files(4, 5, 0)).await.0;
    // That the log forgets a stranger's snapshot does not matter.
    node.forget(strange.id()).await;

    assert_eq!(dry_run(&node).await.freed_blocks, 0);
    assert!(!node.log().await.has(&orphan.id()));
    let report = prune_on(&node).await;
    assert_eq!((report.adopted, report.left_alone), (1, 1));
    assert_eq!((report.snapshots, report.freed_blocks), (0, 0));
    assert!(node.log().await.has(&logged.snapshot.id));
    let adopted = adopt_orphans(&node.archive, &node.member).await;
    assert_eq!(adopted.expect("works"), 0);
    assert_eq!(
        adopt_orphans(&laptop.archive, &laptop.member)
            .await
            .expect("works"),
        1
    );
    assert!(laptop.log().await.has(&other.id()));
    for made in [&kept, &orphan, &strange, &other] {
        node.assert_reads_back(made).await;
    }
    // Once forgotten it is never taken in again.
    node.forget(orphan.id()).await;
    let adopted = adopt_orphans(&node.archive, &node.member).await;
    assert_eq!(adopted.expect("works"), 0);
    assert_eq!(prune_on(&node).await.snapshots, 1);
    assert!(!node.has(orphan.id()));
    node.assert_reads_back(&strange).await;
}

#[tokio::test]
async fn mentions_stay_while_another_log_names_the_snapshot_or_can_not_be_read() {
    let node = Node::new().await;
    let laptop = Membership::create(&keys(0), "laptop").expect("a name");
    let laptop = Node::with(node.depot().clone(), laptop);
    let far = laptop.back_up(files(1, 5, 0)).await;
    let near = node.back_up(files(2, 5, 0)).await;
    node.store()
        .remove_pin(far.pin)
        .expect("as if it were elsewhere");
    node.forget(far.id()).await;
    prune_on(&node).await;
    assert!(node.log().await.forgets(&far.id()));

    // The other log is gone: what is known to be forgotten still goes, and mentions stay.
    node.forget(near.id()).await;
    let found = node
        .archive
        .find(Search::Here, Duration::ZERO)
        .await
        .expect("finds");
    let head = found.head.expect("there is one");
    let log_id = head.entry(&laptop.machine()).expect("it has one").log_id();
    node.store().discard(log_id).expect("drops");
    let (orphan, _) = node.put(files(3, 5, 0)).await;
    let report = prune_on(&node).await;
    assert_eq!((report.snapshots, report.adopted), (1, 1));
    assert!(!node.has(near.id()));
    let log = node.log().await;
    assert_eq!(log.forgotten().count(), 2);
    assert!(log.has(&orphan.id()));
}

/// Cut off at each point in turn, the next prune goes on, and all is as if nothing had happened.
#[tokio::test]
async fn cut_off_anywhere_the_next_prune_goes_on() {
    let node = Node::new().await;
    let kept = node.back_up(files(1, 10, 1)).await;
    let mut finished = false;
    for polls in 1.. {
        if finished {
            break;
        }
        assert!(polls < 500, "it never ends");
        let mut more = files(1, 10, 1);
        more.extend(files(u64::from(polls) + 10, 9, 0));
        let gone = node.back_up(more).await;
        node.forget(gone.id()).await;
        finished = prune_some(&node, polls).await;
        prune_on(&node).await;
        for id in gone.blocks.difference(&kept.blocks) {
            assert!(!node.has(*id), "after {polls} polls");
        }
        assert!(node.log().await.forgotten().next().is_none());
        node.assert_reads_back(&kept).await;
    }
    let mut files: Vec<_> = std::fs::read_dir(node.dir.path())
        .expect("reads")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    files.sort_unstable();
    assert_eq!(files, ["backup.head", "prune.lock"], "the journal is gone");
}

#[tokio::test]
async fn a_wrong_journal_does_no_harm() {
    let node = Node::new().await;
    let kept = node.back_up(files(1, 10, 1)).await;
    let running = node.store().begin_pin("run").expect("pins");
    let cached = crate::block::Block::new(vec![7; 100].into()).expect("a block");
    let keep = Keep::Pinned(running);
    node.store()
        .put(std::slice::from_ref(&cached), keep)
        .expect("fits");
    let path = node.dir.path().join("prune.journal");
    // It names everything that is here, and ends in the middle of a record.
    let mut journal = b"LNPRUNEJ\x01".to_vec();
    for id in kept.blocks.iter().chain([&cached.id()]) {
        let id = id.to_multihash();
        journal.push(id.len() as u8);
        journal.extend(id);
        journal.extend(9u32.to_le_bytes());
    }
    journal.extend([50, 1, 2]);
    for bytes in [&journal[..], b"", b"LNPRUNEJ\x02", &[0xff; 5000]] {
        std::fs::write(&path, bytes).expect("writes");
        let report = prune_on(&node).await;
        assert_eq!((report.freed_blocks, report.snapshots), (0, 0));
        assert!(!path.exists());
        node.assert_reads_back(&kept).await;
        assert!(node.has(cached.id()));
    }
}

#[tokio::test]
async fn what_a_running_backup_refers_to_stays() {
    let node = Node::new().await;
    let gone = node.back_up(files(1, 10, 2)).await;
    node.forget(gone.id()).await;
    let running = node.store().begin_pin(SNAPSHOT_PIN).expect("pins");
    let some: Vec<_> = gone.blocks.iter().copied().take(2).collect();
    let absent = node.store().add_refs(running, &some).expect("adds");
    assert!(absent.is_empty());
    let report = prune_on(&node).await;
    assert_eq!(report.freed_blocks, gone.blocks.len() as u64 - 2);
    for id in &gone.blocks {
        assert_eq!(node.has(*id), some.contains(id));
    }
}

#[tokio::test]
async fn cancelled_it_says_so_and_a_second_one_waits_for_the_first() {
    let node = Node::new().await;
    let cancel = CancellationToken::new();
    let options = options(&node, false);
    cancel.cancel();
    let pruned = prune(&node.archive, &node.member, &options, &Silent, &cancel).await;
    let error = pruned.expect_err("it was cancelled");
    assert!(matches!(
        error,
        Error::Bundle(crate::bundle::Error::Cancelled)
    ));
    let gone = node.back_up(files(1, 10, 1)).await;
    node.forget(gone.id()).await;
    let (one, two) = futures::join!(prune_on(&node), prune_on(&node));
    assert_eq!(one.snapshots + two.snapshots, 1);
    assert_eq!(
        one.freed_blocks + two.freed_blocks,
        gone.blocks.len() as u64
    );
}

/// On disk the space comes back, and a prune that was cut off goes on after a restart.
#[tokio::test]
async fn on_disk_space_comes_back_also_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = || -> Arc<dyn Store> {
        let store = crate::store::RocksStore::open(dir.path(), StoreOptions::default());
        Arc::new(store.expect("opens"))
    };
    let node = Node::on(open()).await;
    let kept = node.back_up(files(1, 50, 4)).await;
    let gone = node.back_up(files(2, 50, 20)).await;
    node.forget(gone.id()).await;
    let (member, journal) = (node.member, node.dir);
    let head = node.archive.find(Search::Here, Duration::ZERO).await;
    let head = head.expect("finds").head.expect("there is one");
    let noted = gone.blocks.clone();
    drop(node.archive);
    // As if it had been killed after the pin was removed: the journal is whole.
    let mut bytes = b"LNPRUNEJ\x01".to_vec();
    for id in &noted {
        let id = id.to_multihash();
        bytes.push(id.len() as u8);
        bytes.extend(id);
        bytes.extend(1u32.to_le_bytes());
    }
    std::fs::write(journal.path().join("prune.journal"), bytes).expect("writes");
    let store = loop {
        // The network's tasks let go of it a little later.
        match crate::store::RocksStore::open(dir.path(), StoreOptions::default()) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    };
    store.remove_pin(gone.pin).expect("removes");
    let depot = depot(Arc::new(store)).await;
    let node = Node {
        archive: archive_of(&depot, &member, journal.path()),
        member,
        dir: journal,
        made: AtomicU64::default(),
    };
    let heads = node.depot().net().heads();
    heads.keep(head).await.expect("kept");
    let report = prune_on(&node).await;
    assert_eq!(report.freed_blocks, noted.len() as u64);
    assert!(noted.iter().all(|id| !node.has(*id)));
    assert!(
        report.disk_bytes + 20_000_000 < report.disk_bytes_before,
        "{report:?}"
    );
    node.assert_reads_back(&kept).await;
}

/// Blocks that a run that was killed stored are cached by then, and nothing else would ever give
/// their space back.
#[tokio::test]
async fn what_an_interrupted_run_stored_goes_unless_it_is_spared() {
    let node = Node::new().await;
    let whole = node.back_up(files(1, 30, 1)).await;
    let store = node.store();
    let block = |n: u8| crate::block::Block::new(vec![n; 1000].into()).expect("a block");
    let blocks: Vec<_> = (0..6).map(block).collect();
    let id = |n: usize| blocks[n].id();
    let pin = store.begin_pin(SNAPSHOT_PIN).expect("pins");
    store.put(&blocks[..5], Keep::Pinned(pin)).expect("fits");
    let shared: Vec<_> = whole.blocks.iter().copied().take(3).collect();
    store.add_refs(pin, &shared).expect("adds");
    store.put(&blocks[5..], Keep::Cached).expect("fits");
    store.abandon_pin(pin).expect("it is given up");
    // One is needed again, one came from another node.
    let again = store.begin_pin("another's").expect("pins");
    store.add_refs(again, &[id(0)]).expect("adds");
    store.record(&[(id(1), crate::store::Event::Downloaded)]);

    let here = || -> Vec<bool> { (0..6).map(|n| node.has(id(n))).collect() };
    let cancel = CancellationToken::new();
    let spared = PruneOptions {
        spare_interrupted_for: Some(Duration::from_secs(1)),
        ..options(&node, false)
    };
    let report = prune(&node.archive, &node.member, &spared, &Silent, &cancel).await;
    assert_eq!(report.expect("it prunes").freed_blocks, 0);
    let dry = dry_run(&node).await;
    assert_eq!((dry.interrupted_blocks, dry.freed_bytes), (3, 3000));
    assert_eq!(here(), [true; 6]);
    let report = prune_on(&node).await;
    let counts = (report.snapshots, report.freed_blocks, report.freed_bytes);
    assert_eq!((report.interrupted_blocks, counts), (3, (0, 3, 3000)));
    assert_eq!(here(), [true, true, false, false, false, true]);
    node.assert_reads_back(&whole).await;
    assert_eq!(prune_on(&node).await.freed_blocks, 0);
}
