//! Every kind of stored block, damaged in every way, and what checking, pruning and reading make of it. What running and restoring make of
//! it: `damage_run`.

use std::os::unix::fs::FileExt;

use super::check::{bytes_of, check_with, options, peer_with, replace, spoil};
use super::prune::prune_on;
use super::*;
use crate::backup::check::{Part, Wrong};
use crate::bundle::tree::{Directory, Extent};
use crate::store::RocksStore;

/// What a block is for. A list of extents takes a file with many of them: see `damage_run`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Content of a large file.
    Data,
    /// Content of small files.
    Pack,
    Tree,
    Root,
    Snapshot,
    Log,
}

const KINDS: [Kind; 6] = [
    Kind::Data,
    Kind::Pack,
    Kind::Tree,
    Kind::Root,
    Kind::Snapshot,
    Kind::Log,
];

impl Kind {
    const fn part(self) -> Part {
        match self {
            Self::Data | Self::Pack => Part::Data,
            Self::Tree | Self::Root => Part::Tree,
            Self::Snapshot => Part::Snapshot,
            Self::Log => Part::Log,
        }
    }
}

/// What happened to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Gone,
    Truncated,
    Flipped,
    /// It has the bytes of another block, which is well.
    Swapped,
}

pub(super) const HOWS: [How; 4] = [How::Gone, How::Truncated, How::Flipped, How::Swapped];

/// Each kind with each damage.
fn matrix() -> impl Iterator<Item = (Kind, How)> {
    KINDS
        .into_iter()
        .flat_map(|kind| HOWS.map(|how| (kind, how)))
}

/// Files with a directory that does not fit inside its parent's block.
fn tree() -> Files {
    let mut tree = files(1, 20, 1);
    for number in 0..700 {
        tree.insert(format!("many/{number:080}"), vec![number as u8]);
    }
    tree
}

/// The first block of a file.
async fn first_block(node: &Node, made: &Made, path: &str) -> BlockId {
    match node.entry(made, path).await.content {
        Content::File(file) => match &file.extents[0] {
            Extent::Data { block, .. } => block.id,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

/// A block of each kind, and the path that must be named with it.
async fn victim(node: &Node, made: &Made, kind: Kind) -> (BlockId, &'static str) {
    match kind {
        Kind::Data => (first_block(node, made, "big0").await, "/big0"),
        Kind::Pack => (first_block(node, made, "small/0/0").await, "/small/0/0"),
        Kind::Tree => match node.entry(made, "many").await.content {
            Content::Directory(Directory::Block(link)) => (link.id, "/many"),
            other => panic!("{other:?}"),
        },
        Kind::Root => (made.tree.id, "/"),
        Kind::Snapshot => (made.id(), ""),
        Kind::Log => {
            let found = node.archive.find(Search::Here, Duration::ZERO).await;
            let head = found.expect("finds").head.expect("there is one");
            (head.entry(&node.machine()).expect("ours").log_id(), "")
        }
    }
}

fn hurt(node: &Node, made: &Made, id: BlockId, how: How) {
    match how {
        How::Gone => assert!(node.store().discard(id).expect("drops")),
        How::Flipped => spoil(node, id),
        How::Truncated => {
            let mut bytes = bytes_of(node, id);
            bytes.truncate(bytes.len() / 2);
            replace(node, id, bytes);
        }
        How::Swapped => {
            let other = made.blocks.iter().find(|other| **other != id);
            let bytes = bytes_of(node, *other.expect("there are others"));
            replace(node, id, bytes);
        }
    }
}

fn pins(node: &Node, id: BlockId) -> u64 {
    node.store()
        .stat(id)
        .expect("reads")
        .map_or(0, |stat| stat.pins)
}

/// A node with a snapshot of that tree, for each case to have a twin of.
async fn template() -> (Node, Made) {
    let node = Node::new().await;
    let made = node.back_up(tree()).await;
    (node, made)
}

/// A node with a snapshot that is kept, and one that is not, for each case to have a twin of.
async fn template_of_two(kept: Files, gone: Files) -> (Node, Made, Made) {
    let node = Node::new().await;
    let kept = node.back_up(kept).await;
    let gone = node.back_up(gone).await;
    (node, kept, gone)
}

async fn check_names_it(node: Node, made: &Made, kind: Kind, how: How) {
    let part = kind.part();
    let (block, path) = victim(&node, made, kind).await;
    hurt(&node, made, block, how);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!((report.errors_total, report.mended_total), (1, 0));
    let damage = &report.errors[0];
    let wrong = match how {
        How::Gone => Wrong::Missing,
        How::Truncated | How::Flipped | How::Swapped => Wrong::Corrupt,
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
    let read = node.read(made, Duration::ZERO).await;
    assert_eq!(read.is_ok(), part == Part::Log);
}

async fn check_mends_it(node: Node, made: &Made, kind: Kind, how: How) {
    let part = kind.part();
    let (block, _) = victim(&node, made, kind).await;
    let _peer = peer_with(&node, |_| true).await;
    let before = pins(&node, block);
    hurt(&node, made, block, how);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!(report.errors, []);
    // A log that is missing is simply fetched.
    let expected = u64::from((kind, how) != (Kind::Log, How::Gone));
    assert_eq!((report.errors_total, report.mended_total), (0, expected));
    for damage in &report.mended {
        assert_eq!((damage.part, damage.block), (part, block));
    }
    assert_eq!(pins(&node, block), before, "it is pinned as it was");
    let again = check_with(&node, &options(100.0)).await;
    assert_eq!((again.errors_total, again.mended_total), (0, 0));
    node.assert_reads_back(made).await;
}

async fn pruning_goes_on_beside_it(node: Node, kept: &Made, gone: &Made, kind: Kind, how: How) {
    node.forget(gone.id()).await;
    let (block, _) = victim(&node, kept, kind).await;
    let well = |node: &Node| {
        let others = kept.blocks.iter().filter(|id| **id != block);
        others.copied().all(|id| node.has(id) && pins(node, id) > 0)
    };
    hurt(&node, kept, block, how);
    let report = prune_on(&node).await;
    let is_log = kind == Kind::Log;
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
async fn damaged_ones_are_pruned(node: Node, kept: &Made, gone: &Made, kind: Kind, how: How) {
    let (block, _) = victim(&node, gone, kind).await;
    node.forget(gone.id()).await;
    hurt(&node, gone, block, how);
    let report = prune_on(&node).await;
    assert_eq!(report.snapshots, 1);
    for id in gone.blocks.difference(&kept.blocks) {
        assert!(!node.has(*id));
    }
    assert!(node.store().lost(None, 9).expect("reads").is_empty());
    node.assert_reads_back(kept).await;
}

#[tokio::test]
async fn everything_that_is_damaged_is_named() {
    let (template, made) = template().await;
    for (kind, how) in matrix() {
        check_names_it(template.twin(memory()).await, &made, kind, how).await;
    }
}

#[tokio::test]
async fn everything_that_a_peer_has_is_mended() {
    let (template, made) = template().await;
    for (kind, how) in matrix() {
        check_mends_it(template.twin(memory()).await, &made, kind, how).await;
    }
}

#[tokio::test]
async fn pruning_takes_nothing_for_forgotten_because_of_damage() {
    let (template, kept, gone) = template_of_two(tree(), files(2, 9, 1)).await;
    for (kind, how) in matrix() {
        let node = template.twin(memory()).await;
        pruning_goes_on_beside_it(node, &kept, &gone, kind, how).await;
    }
}

#[tokio::test]
async fn what_is_forgotten_goes_whatever_of_it_is_damaged() {
    let (template, kept, gone) = template_of_two(files(2, 9, 1), tree()).await;
    for (kind, how) in matrix().filter(|(kind, _)| *kind != Kind::Log) {
        let node = template.twin(memory()).await;
        damaged_ones_are_pruned(node, &kept, &gone, kind, how).await;
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
