//! Every kind of stored thing, damaged in every way, and what checking, pruning and reading make of it.

use std::os::unix::fs::FileExt;

use super::check::{check_with, options, peer_with, spoil};
use super::prune::prune_on;
use super::*;
use crate::backup::check::{Part, Wrong};
use crate::bundle::tree::{Directory, Extent};
use crate::store::RocksStore;

const PARTS: [Part; 4] = [Part::Data, Part::Tree, Part::Snapshot, Part::Log];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gone,
    Flipped,
}

/// Files with a directory that does not fit inside its parent's block.
fn tree() -> Files {
    let mut tree = files(1, 20, 1);
    for number in 0..700 {
        tree.insert(format!("many/{number:080}"), vec![number as u8]);
    }
    tree
}

/// A block of each kind, and the path that must be named with it.
async fn victim(node: &Node, made: &Made, part: Part) -> (BlockId, &'static str) {
    match part {
        Part::Data => match node.entry(made, "big0").await.content {
            Content::File(file) => match &file.extents[0] {
                Extent::Data { block, .. } => (block.id, "/big0"),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        },
        Part::Tree => match node.entry(made, "many").await.content {
            Content::Directory(Directory::Block(link)) => (link.id, "/many"),
            other => panic!("{other:?}"),
        },
        Part::Snapshot => (made.id(), ""),
        Part::Log => {
            let found = node.archive.find(Search::Here, Duration::ZERO).await;
            let head = found.expect("finds").head.expect("there is one");
            (head.entry(&node.machine()).expect("ours").log_id(), "")
        }
    }
}

fn hurt(node: &Node, id: BlockId, kind: Kind) {
    match kind {
        Kind::Gone => assert!(node.store().discard(id).expect("drops")),
        Kind::Flipped => spoil(node, id),
    }
}

fn pins(node: &Node, id: BlockId) -> u64 {
    node.store()
        .stat(id)
        .expect("reads")
        .map_or(0, |stat| stat.pins)
}

async fn check_names_it(part: Part, kind: Kind) {
    let node = Node::new().await;
    let made = node.back_up(tree()).await;
    let (block, path) = victim(&node, &made, part).await;
    hurt(&node, block, kind);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!((report.errors_total, report.mended_total), (1, 0));
    let damage = &report.errors[0];
    let wrong = match kind {
        Kind::Gone => Wrong::Missing,
        Kind::Flipped => Wrong::Corrupt,
    };
    assert_eq!(
        (damage.part, damage.wrong, damage.block),
        (part, wrong, block)
    );
    assert_eq!(String::from_utf8_lossy(&damage.path), path);
    let snapshot = (part != Part::Log).then(|| made.id());
    assert_eq!(damage.snapshot, snapshot);
    assert!(damage.reason().starts_with(wrong.name()));
    assert!(!node.has(block), "damaged bytes are of no use to anybody");
    assert!(pins(&node, block) > 0, "what needs it is remembered");
    let read = node.read(&made, Duration::ZERO).await;
    assert_eq!(read.is_ok(), part == Part::Log);
}

async fn check_mends_it(part: Part, kind: Kind) {
    let node = Node::new().await;
    let made = node.back_up(tree()).await;
    let (block, _) = victim(&node, &made, part).await;
    let _peer = peer_with(&node, |_| true).await;
    let before = pins(&node, block);
    hurt(&node, block, kind);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!(report.errors, []);
    // A log that is missing is simply fetched.
    let expected = u64::from((part, kind) != (Part::Log, Kind::Gone));
    assert_eq!((report.errors_total, report.mended_total), (0, expected));
    for damage in &report.mended {
        assert_eq!((damage.part, damage.block), (part, block));
    }
    assert_eq!(pins(&node, block), before, "it is pinned as it was");
    let again = check_with(&node, &options(100.0)).await;
    assert_eq!((again.errors_total, again.mended_total), (0, 0));
    node.assert_reads_back(&made).await;
}

async fn pruning_goes_on_beside_it(part: Part, kind: Kind) {
    let node = Node::new().await;
    let kept = node.back_up(tree()).await;
    let gone = node.back_up(files(2, 9, 1)).await;
    node.forget(gone.id()).await;
    let (block, _) = victim(&node, &kept, part).await;
    let well = |node: &Node| {
        let others = kept.blocks.iter().filter(|id| **id != block);
        others.copied().all(|id| node.has(id) && pins(node, id) > 0)
    };
    hurt(&node, block, kind);
    let report = prune_on(&node).await;
    let is_log = part == Part::Log;
    // Without its log a machine does not know what is forgotten.
    assert_eq!(report.snapshots, u64::from(!is_log));
    assert_eq!(node.has(gone.id()), is_log);
    assert_eq!(report.adopted, 0);
    assert!(well(&node), "nothing else went");
    assert!(pins(&node, block) > 0);
    let found = node.archive.find(Search::Here, Duration::ZERO).await;
    let listed = found.expect("finds").catalog.snapshots().len();
    assert_eq!(
        listed,
        usize::from(!is_log),
        "nothing was forgotten or made up"
    );
}

/// A forgotten snapshot goes whatever of it is damaged.
async fn damaged_ones_are_pruned(part: Part, kind: Kind) {
    let node = Node::new().await;
    let kept = node.back_up(files(2, 9, 1)).await;
    let gone = node.back_up(tree()).await;
    let (block, _) = victim(&node, &gone, part).await;
    node.forget(gone.id()).await;
    hurt(&node, block, kind);
    let report = prune_on(&node).await;
    assert_eq!(report.snapshots, 1);
    for id in gone.blocks.difference(&kept.blocks) {
        assert!(!node.has(*id));
    }
    assert!(node.store().lost(None, 9).expect("reads").is_empty());
    node.assert_reads_back(&kept).await;
}

#[tokio::test]
async fn everything_that_is_damaged_is_named() {
    for part in PARTS {
        for kind in [Kind::Gone, Kind::Flipped] {
            check_names_it(part, kind).await;
        }
    }
}

#[tokio::test]
async fn everything_that_a_peer_has_is_mended() {
    for part in PARTS {
        for kind in [Kind::Gone, Kind::Flipped] {
            check_mends_it(part, kind).await;
        }
    }
}

#[tokio::test]
async fn pruning_takes_nothing_for_forgotten_because_of_damage() {
    for part in PARTS {
        for kind in [Kind::Gone, Kind::Flipped] {
            pruning_goes_on_beside_it(part, kind).await;
        }
    }
    for part in [Part::Data, Part::Tree, Part::Snapshot] {
        for kind in [Kind::Gone, Kind::Flipped] {
            damaged_ones_are_pruned(part, kind).await;
        }
    }
}

/// A bit on a real disk.
#[tokio::test]
async fn a_bit_that_flips_on_disk_is_found_and_mended() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = RocksStore::open(dir.path(), StoreOptions::default()).expect("opens");
    let node = Node::on(Arc::new(store)).await;
    let made = node.back_up(files(1, 20, 8)).await;
    let _peer = peer_with(&node, |_| true).await;
    let blob = std::fs::read_dir(dir.path().join("blocks"))
        .expect("reads")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "blob"))
        .max_by_key(|path| std::fs::metadata(path).expect("it is there").len())
        .expect("there are some");
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(blob)
        .expect("opens");
    let at = file.metadata().expect("it is there").len() / 2;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("reads");
    file.write_all_at(&[byte[0] ^ 1], at).expect("writes");
    let report = check_with(&node, &options(100.0)).await;
    let mended: Vec<_> = report.mended.iter().map(|d| (d.part, d.wrong)).collect();
    assert_eq!(mended, [(Part::Data, Wrong::Corrupt)]);
    assert_eq!(report.errors, []);
    assert_eq!(node.store().usage().corrupt, 1);
    let again = check_with(&node, &options(100.0)).await;
    assert_eq!((again.errors_total, again.mended_total), (0, 0));
    node.assert_reads_back(&made).await;
}
