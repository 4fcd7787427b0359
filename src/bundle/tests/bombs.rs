//! Bundles of a few kilobytes that would fill a disk: what an extraction within bounds does with
//! them.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::super::codec::encode_node;
use super::super::root::Totals;
use super::super::tree::{Content, Directory, Entry, Extent, File, Node};
use super::super::{Bound, Bounds, Error, Excess, ExtractOptions, ExtractReport, Overwrite};
use super::hostile::{directory, entry, file, plant_root, plenty};
use super::{Memory, extract, runtime};
use crate::block::{Context, Link, seal};
use crate::size::GIB;

/// Names in each directory of a bomb.
const WIDTH: usize = 60;

fn plant(memory: &Memory, node: &Node) -> Arc<Link> {
    Arc::new(memory.plant(&encode_node(node, &Arc::clone).0))
}

fn numbered(at: usize) -> Bytes {
    Bytes::from(format!("{at:05}"))
}

/// Directories of one and the same content, [`WIDTH`] of them.
fn wide(block: &Arc<Link>) -> Vec<Entry> {
    let content = || Content::Directory(Directory::Block(block.clone()));
    let names = (0..WIDTH).map(numbered);
    names.map(|name| entry(&name, content())).collect()
}

/// A bundle that names one subtree again and again: 216,000 directories in four small blocks.
fn tree_bomb(memory: &Memory) -> Link {
    let empty = plant(memory, &Node::Entries(Vec::new()));
    let inner = plant(memory, &Node::Entries(wide(&empty)));
    let middle = plant(memory, &Node::Entries(wide(&inner)));
    let totals = Totals {
        entries: 300_000,
        ..Totals::default()
    };
    plant_root(memory, directory(b"bomb", wide(&middle)), totals)
}

fn run(memory: &Arc<Memory>, link: &Link, target: &Path, bounds: Bounds) -> Outcome {
    let options = ExtractOptions {
        bounds,
        ..ExtractOptions::default()
    };
    runtime().block_on(extract(memory, link, target, options))
}

type Outcome = Result<ExtractReport, Error>;

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).expect("readable").next().is_none()
}

#[test]
fn a_subtree_that_comes_again_and_again_ends_the_work_and_leaves_nothing() {
    let memory = Arc::new(Memory::default());
    let link = tree_bomb(&memory);
    let bytes: usize = memory
        .blocks
        .lock()
        .unwrap()
        .values()
        .map(|b| b.bytes().len())
        .sum();
    assert!(bytes < 8 << 10, "{bytes}");
    let dir = tempfile::tempdir().expect("a directory");
    let outcome = run(&memory, &link, &dir.path().join("x"), Bounds::USUAL);
    match outcome {
        Err(Error::Excess(Excess::Repeated { entries, .. })) => assert!(entries < 40_000),
        other => panic!("{other:?}"),
    }
    assert!(is_empty(dir.path()), "nothing was written");
    // Neither does anything come into a directory that is in use.
    let target = dir.path().join("there");
    fs::create_dir(&target).expect("made");
    let options = ExtractOptions {
        bounds: Bounds::USUAL,
        overwrite: Overwrite::Changed,
        ..ExtractOptions::default()
    };
    let outcome = runtime().block_on(extract(&memory, &link, &target, options));
    assert!(matches!(outcome, Err(Error::Excess(_))), "{outcome:?}");
    assert!(is_empty(&target));
}

/// The claims of a bundle say nothing about its parts, which are judged while they are written.
#[test]
fn what_was_written_of_a_part_that_holds_too_much_is_taken_away() {
    let memory = Arc::new(Memory::default());
    let data = Arc::new(memory.plant(b"x"));
    let files = (0..WIDTH).map(|at| file(&numbered(at), &data, 1));
    let part = directory(b"part", files.collect());
    let link = plant_root(&memory, directory(b"d", vec![part]), plenty());
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("x");
    let with = |most| ExtractOptions {
        bounds: Bounds {
            entries: Bound::Most(most),
            bytes: Bound::Usual,
        },
        from: vec![Bytes::from_static(b"part")],
        ..ExtractOptions::default()
    };
    let run = |most| runtime().block_on(extract(&memory, &link, &target, with(most)));
    let outcome = run(WIDTH as u64);
    assert!(
        matches!(outcome, Err(Error::Excess(Excess::Entries { .. }))),
        "{outcome:?}"
    );
    assert!(is_empty(dir.path()));
    // The directory counts, too.
    assert!(run(WIDTH as u64 + 1).is_ok());
}

#[test]
fn claims_that_the_blocks_do_not_account_for_are_refused_before_anything_is_written() {
    let memory = Arc::new(Memory::default());
    let data = Arc::new(memory.plant(&[7; 1 << 20]));
    let pieces = 58 << 10;
    let extent = |_| Extent::Data {
        block: data.clone(),
        offset: 0,
        len: 1 << 20,
    };
    let list: Vec<Extent> = (0..1024).map(extent).collect();
    let list = plant(&memory, &Node::Extents(list));
    let lists = (0..pieces / 1024).map(|_| Extent::List {
        block: list.clone(),
        len: GIB,
    });
    let content = Content::File(File {
        size: 58 * GIB,
        extents: lists.collect(),
        link_group: None,
    });
    let totals = Totals {
        files: 1,
        entries: 2,
        bytes: 58 * GIB,
        blocks: 2,
    };
    let link = plant_root(&memory, directory(b"d", vec![entry(b"f", content)]), totals);
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("a/x");
    let outcome = run(&memory, &link, &target, Bounds::USUAL);
    let excess = Excess::Inflated {
        bytes: 58 * GIB,
        blocks: 2,
    };
    assert!(matches!(outcome, Err(Error::Excess(e)) if e == excess));
    assert!(is_empty(dir.path()), "not even the directories above it");
}

#[test]
fn more_than_was_allowed_is_refused_and_as_much_as_was_allowed_comes() {
    let memory = Arc::new(Memory::default());
    let data = Arc::new(memory.plant(b"0123456789"));
    let files = vec![file(b"a", &data, 10), file(b"b", &data, 10)];
    let totals = Totals {
        files: 2,
        entries: 3,
        bytes: 20,
        blocks: 1,
    };
    let link = plant_root(&memory, directory(b"d", files), totals);
    let dir = tempfile::tempdir().expect("a directory");
    let target = dir.path().join("x");
    let most = |entries, bytes| Bounds {
        entries: Bound::Most(entries),
        bytes: Bound::Most(bytes),
    };
    for bounds in [most(2, 20), most(3, 19)] {
        let outcome = run(&memory, &link, &target, bounds);
        assert!(matches!(outcome, Err(Error::Excess(_))), "{outcome:?}");
        assert!(is_empty(dir.path()));
    }
    let report = run(&memory, &link, &target, most(3, 20)).expect("written");
    assert_eq!((report.files, report.bytes), (2, 20));
    // A part is bounded by what it is, not by what the whole claims.
    let options = ExtractOptions {
        bounds: most(1, 10),
        from: vec![Bytes::from_static(b"a")],
        ..ExtractOptions::default()
    };
    let target = dir.path().join("part");
    let part = runtime().block_on(extract(&memory, &link, &target, options));
    assert_eq!(part.expect("written").files, 1);
}

#[test]
fn a_sparse_file_larger_than_the_disk_is_asked_about() {
    let memory = Arc::new(Memory::default());
    let content = Content::File(File {
        size: 1 << 60,
        extents: vec![Extent::Hole { len: 1 << 60 }],
        link_group: None,
    });
    let link = plant_root(&memory, entry(b"f", content), plenty());
    let dir = tempfile::tempdir().expect("a directory");
    let outcome = run(&memory, &link, &dir.path().join("f"), Bounds::USUAL);
    assert!(
        matches!(outcome, Err(Error::Excess(Excess::NoRoom { .. }))),
        "{outcome:?}"
    );
    assert!(is_empty(dir.path()));
}

/// The tersest honest directory: its files have nothing but a name and a place in a pack.
#[test]
fn the_tersest_honest_directory_is_within_bounds() {
    let memory = Memory::default();
    let pack = Arc::new(memory.plant(b"x"));
    let mut tree_bytes = 0;
    let entries = 100_000;
    for part in 0..entries / 5000 {
        let files = (0..5000).map(|at| file(&numbered(part * 5000 + at), &pack, 1));
        let (bytes, _) = encode_node(&Node::Entries(files.collect()), &Arc::clone);
        let sealed = seal(&Context::public(), &bytes).expect("fits");
        tree_bytes += sealed.block.bytes().len() as u64;
    }
    let checked = Bounds::USUAL.check_entries(entries as u64, 0, tree_bytes);
    assert_eq!(checked, Ok(()), "{tree_bytes} bytes");
}
