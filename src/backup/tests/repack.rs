//! Repacking: what is kept reads the same, packs that are hardly used go, and nothing is lost wherever it is cut off.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::prune::{options, prune_until};
use super::*;
use crate::backup::prune::{PruneOptions, PruneReport, adopt_orphans, prune};
use crate::backup::run::{Done, Job, run};
use crate::bundle::{Seen, packed};
use crate::time::{Clock, SystemClock};

fn repacking(node: &Node, below: u8, dry_run: bool) -> PruneOptions {
    PruneOptions {
        repack_below_percent: below,
        ..options(node, dry_run)
    }
}

async fn repack(node: &Node, below: u8) -> PruneReport {
    let (options, cancel) = (repacking(node, below, false), CancellationToken::new());
    let pruned = prune(&node.archive, &node.member, &options, &Silent, &cancel).await;
    pruned.expect("it prunes")
}

/// Everything in a tree but where it is: paths, entries and content.
type Picture = Vec<(Vec<u8>, Entry, Vec<u8>)>;

async fn picture(node: &Node, snapshot: &Link) -> Picture {
    let source: Arc<dyn BlockSource> = node.depot().session(Duration::ZERO, Keep::Cached);
    let snapshot = archive::read_snapshot(&*source, snapshot).await;
    let bundle = Bundle::open(source, snapshot.expect("it reads").tree).await;
    let bundle = bundle.expect("it opens");
    let mut picture = Picture::new();
    let mut walk = bundle.walk();
    while let Some(walked) = walk.next().await {
        let mut walked = walked.expect("it reads");
        let mut content = Vec::new();
        if let Content::File(file) = &walked.entry.content {
            let mut pieces = bundle.read_file(&walked.entry, 0..file.size);
            while let Some(piece) = pieces.next().await {
                content.extend_from_slice(&piece.expect("it reads"));
            }
        }
        match &mut walked.entry.content {
            Content::File(file) => file.extents.clear(),
            Content::Directory(directory) => {
                *directory = crate::bundle::tree::Directory::Inline(Vec::new());
            }
            _ => {}
        }
        picture.push((walked.path, walked.entry, content));
    }
    picture
}

async fn packs(node: &Node, snapshot: &Link) -> BTreeSet<BlockId> {
    let source: Arc<dyn BlockSource> = node.depot().session(Duration::ZERO, Keep::Cached);
    let snapshot = archive::read_snapshot(&*source, snapshot).await;
    let bundle = Bundle::open(source, snapshot.expect("it reads").tree).await;
    let mut found = BTreeSet::new();
    let mut note = |used: crate::bundle::Use| {
        found.insert(used.block.id);
        true
    };
    let bundle = bundle.expect("it opens");
    let walked = packed(&bundle, &mut Seen::default(), &mut note).await;
    assert!(walked.expect("it reads"));
    found
}

/// The snapshots that the log of the node names, oldest first.
async fn logged(node: &Node) -> Vec<Logged> {
    node.log().await.snapshots().to_vec()
}

/// A machine with a clock that is far from when the files were made.
async fn machine() -> (Node, Arc<ManualClock>) {
    let mut node = Node::new().await;
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_millis(SystemClock.now().0 + 3_600_000));
    node.archive = Archive::new(
        node.depot().clone(),
        Access::from(&node.member),
        clock.clone(),
        Some(Arc::new(Home::new(node.dir.path()))),
    );
    (node, clock)
}

async fn back_up(node: &Node, clock: &ManualClock, path: &Path) -> Done {
    clock.advance(Duration::from_secs(60));
    let job = Job {
        paths: vec![path.to_owned()],
        ..Job::default()
    };
    let (monitor, cancel) = (Arc::new(Silent), CancellationToken::new());
    let done = run(&node.archive, &node.member, job, monitor, cancel).await;
    done.expect("it runs")
}

fn name(root: &Path, number: u64) -> PathBuf {
    root.join(format!("d{}/f{number}", number % 4))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_snapshots_read_the_same_and_packs_that_are_hardly_used_go() {
    let (node, clock) = machine().await;
    let room = tempfile::tempdir().expect("a directory");
    let root = room.path().canonicalize().expect("there");
    for dir in 0..4 {
        fs::create_dir(root.join(format!("d{dir}"))).expect("made");
    }
    let content = files(7, 1, 1).remove("big0").expect("made");
    let write = |number: u64, seed: usize| {
        let bytes = &content[seed * 1000..][..9000];
        fs::write(name(&root, number), bytes).expect("written");
    };
    (0..300).for_each(|number| write(number, number as usize));
    fs::write(root.join("large"), &content).expect("written");
    fs::hard_link(name(&root, 0), root.join("d3/linked")).expect("linked");
    fs::hard_link(root.join("large"), root.join("d3/large too")).expect("linked");
    std::os::unix::fs::symlink("d0", root.join("way")).expect("linked");
    fs::set_permissions(name(&root, 20), fs::Permissions::from_mode(0o751)).expect("set");
    let first = back_up(&node, &clock, &root).await;
    for number in (0..300).filter(|number| number % 20 != 0) {
        fs::remove_file(name(&root, number)).expect("removed");
    }
    let second = back_up(&node, &clock, &root).await;
    write(40, 400);
    let third = back_up(&node, &clock, &root).await;
    let kept = [&second.link, &third.link];
    let before = [picture(&node, kept[0]).await, picture(&node, kept[1]).await];
    let old = packs(&node, &first.link).await;
    node.forget(first.link.id).await;

    let dry = repacking(&node, 50, true);
    let cancel = CancellationToken::new();
    let dry = prune(&node.archive, &node.member, &dry, &Silent, &cancel).await;
    let dry = dry.expect("it counts");
    assert_eq!(dry.snapshots, 1);
    assert!(dry.repacked_blocks > 0);
    let nothing = repack(&node, 1).await;
    assert_eq!((nothing.repacked_blocks, nothing.snapshots), (0, 1));
    let report = repack(&node, 50).await;
    assert_eq!(report.repacked_blocks, dry.repacked_blocks);
    assert_eq!(
        (report.snapshots, report.adopted, report.left_alone),
        (0, 0, 0)
    );
    assert!(report.freed_bytes > 200_000, "{report:?}");
    assert!(old.iter().all(|id| !node.has(*id)));

    let log = node.log().await;
    assert!(log.forgotten().next().is_none());
    let now = logged(&node).await;
    assert_eq!(now.len(), 2);
    for (number, logged) in now.iter().enumerate() {
        assert_ne!(logged.snapshot, *kept[number]);
        assert!(!node.has(kept[number].id));
        assert!(
            picture(&node, &logged.snapshot).await == before[number],
            "snapshot {number} reads as it did"
        );
    }
    assert_eq!(now[0].summary, second.snapshot.summary);
    assert_eq!(now[1].summary, third.snapshot.summary);
    let again = repack(&node, 50).await;
    assert_eq!((again.repacked_blocks, again.freed_blocks), (0, 0));
    assert_eq!(logged(&node).await, now);
    // What is unchanged is taken over, and what is the same is found.
    let fourth = back_up(&node, &clock, &root).await;
    assert_eq!(fourth.report.unchanged + 2, fourth.report.files);
}

/// One snapshot that leaves little used, and two that use it.
async fn mostly_dead(node: &Node, seed: u64) -> (Made, [Made; 2]) {
    let few = |from: &Files, part: usize| -> Files {
        let some = from.iter().enumerate().filter(|(at, _)| at % 9 == part);
        some.map(|(_, (path, bytes))| (path.clone(), bytes.clone()))
            .collect()
    };
    let all = files(seed, 40, 0);
    let gone = node.back_up(all.clone()).await;
    let mut more = few(&all, 1);
    more.extend(few(&all, 0));
    (
        gone,
        [node.back_up(few(&all, 0)).await, node.back_up(more).await],
    )
}

async fn assert_all_there(node: &Node, expected: &[Made], where_cut: u32) {
    let now = logged(node).await;
    assert_eq!(now.len(), expected.len(), "after {where_cut} polls");
    for (logged, made) in now.iter().zip(expected) {
        let source: Arc<dyn BlockSource> = node.depot().session(Duration::ZERO, Keep::Cached);
        let snapshot = archive::read_snapshot(&*source, &logged.snapshot).await;
        let now = Made {
            link: logged.snapshot.clone(),
            tree: snapshot.expect("it reads").tree,
            ..made.clone()
        };
        node.assert_reads_back(&now).await;
    }
}

#[tokio::test]
async fn cut_off_anywhere_nothing_is_lost_and_the_next_one_goes_on() {
    let mut polls = 1;
    loop {
        let node = Node::new().await;
        let (gone, kept) = mostly_dead(&node, 5).await;
        node.forget(gone.id()).await;
        let finished = prune_until(&node, &repacking(&node, 60, false), polls).await;
        assert_all_there(&node, &kept, polls).await;
        let adopted = adopt_orphans(&node.archive, &node.member).await;
        assert_eq!(adopted.expect("it adopts"), 0, "after {polls} polls");
        let report = repack(&node, 60).await;
        assert_eq!((report.adopted, report.left_alone), (0, 0));
        assert_all_there(&node, &kept, polls).await;
        for id in packs(&node, &logged(&node).await[1].snapshot).await {
            assert!(!gone.blocks.contains(&id), "after {polls} polls");
        }
        let log = node.log().await;
        assert!(log.forgotten().next().is_none());
        // No pins but those of what is named.
        let pins = node.store().pins().expect("reads").into_iter();
        let pins = pins.filter(|(_, info)| info.name == SNAPSHOT_PIN && info.link.is_some());
        assert_eq!(pins.count(), kept.len(), "after {polls} polls");
        if finished {
            return;
        }
        polls += 1 + polls / 8;
        assert!(polls < 2000, "it never ends");
    }
}

#[tokio::test]
async fn a_twin_of_what_was_forgotten_meanwhile_is_not_taken_in() {
    let node = Node::new().await;
    let (made, named) = node.put(files(1, 9, 0)).await;
    node.change(|log| log.add(named)).await;
    // The same snapshot but for its tree, as repacking would leave it.
    let source = node.depot().session(Duration::ZERO, Keep::Cached);
    let snapshot = archive::read_snapshot(&*source, &made.link).await;
    let other = node.put(files(2, 9, 0)).await.0;
    let twin = Snapshot {
        tree: other.tree.clone(),
        ..snapshot.expect("it reads")
    };
    let sealed = seal(node.archive.access().context(), &twin.encode()).expect("it fits");
    let link = Link {
        id: sealed.block.id(),
        key: sealed.key,
    };
    let store = node.store();
    let pin = store.begin_pin(SNAPSHOT_PIN).expect("pins");
    archive::put_pinned(&**store, &sealed.block, pin).expect("it fits");
    let info = PinInfo {
        root: link.id,
        link: Some(link.clone()),
        name: SNAPSHOT_PIN.to_owned(),
        bytes: 0,
        files: 0,
        blocks: 1,
        created: Timestamp(0),
    };
    store.finish_pin(pin, &info).expect("it finishes");
    node.forget(made.id()).await;
    let adopted = adopt_orphans(&node.archive, &node.member).await;
    assert_eq!(adopted.expect("it adopts"), 1, "the other one");
    assert!(node.has(link.id), "only a prune removes it");
    let report = super::prune::prune_on(&node).await;
    assert_eq!((report.adopted, report.left_alone), (0, 0));
    assert!(!node.has(link.id) && !node.has(made.id()));
    assert!(!node.log().await.has(&link.id));
}

#[tokio::test]
async fn packs_that_something_else_keeps_are_left_alone() {
    let node = Node::new().await;
    let (gone, kept) = mostly_dead(&node, 6).await;
    node.forget(gone.id()).await;
    let old = packs(&node, &kept[1].link).await;
    let running = node.store().begin_pin("run").expect("pins");
    let ids: Vec<_> = old.iter().copied().collect();
    let absent = node.store().add_refs(running, &ids).expect("adds");
    assert!(absent.is_empty());
    assert_eq!(repack(&node, 90).await.repacked_blocks, 0);
    assert_all_there(&node, &kept, 0).await;
    assert_eq!(logged(&node).await[0].snapshot, kept[0].link);
    node.store().remove_pin(running).expect("removes");
    assert!(repack(&node, 90).await.repacked_blocks > 0);
    assert_all_there(&node, &kept, 0).await;
    assert!(old.iter().all(|id| !node.has(*id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_takes_the_place_of_what_is_told_before_anything_is_forgotten() {
    use crate::backup::prune::Replacing;
    let node = Node::new().await;
    let (gone, kept) = mostly_dead(&node, 3).await;
    node.forget(gone.link.id).await;
    let before = logged(&node).await;
    // Who can't note it is spared: the snapshots stay as they are.
    let refusing = PruneOptions {
        replacing: Some(Replacing::new(|_, _| Err("the disk is full".to_owned()))),
        ..repacking(&node, 50, false)
    };
    let cancel = CancellationToken::new();
    let refused = prune(&node.archive, &node.member, &refusing, &Silent, &cancel).await;
    assert_eq!(refused.expect("it prunes").repacked_blocks, 0);
    assert_eq!(logged(&node).await, before);
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (noted, store) = (told.clone(), node.depot().store().clone());
    let replacing = Replacing::new(move |old, new| {
        for id in [old, new] {
            let stat = store.stat(id).expect("reads").expect("known");
            assert!(stat.pins > 0, "both are here");
        }
        noted.lock().expect("not poisoned").push((old, new));
        Ok(())
    });
    let noting = PruneOptions {
        replacing: Some(replacing),
        ..repacking(&node, 50, false)
    };
    let pruned = prune(&node.archive, &node.member, &noting, &Silent, &cancel).await;
    assert!(pruned.expect("it prunes").repacked_blocks > 0);
    let told: BTreeSet<_> = told.lock().expect("not poisoned").iter().copied().collect();
    let ids = |logged: Vec<Logged>| logged.into_iter().map(|logged| logged.snapshot.id);
    let pairs = kept.iter().map(|made| made.link.id);
    let pairs: BTreeSet<_> = pairs.zip(ids(logged(&node).await)).collect();
    assert_eq!(told, pairs);
}
