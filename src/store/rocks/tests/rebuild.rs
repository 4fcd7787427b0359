//! Making the index again: every block comes back byte for byte, and what can't is said.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::{open, options, refusal};
use crate::block::{Block, ChunkIndex, Ref};
use crate::crypto::key::Key;
use crate::id::HashKind;
use crate::store::conformance::{block, info, lease_info};
use crate::store::{Class, Error, Keep, Rebuilt, RocksStore, Store, rebuild};

/// Blocks of the filled store: small ones in tables, large ones in blob files.
const COUNT: u32 = 40;

fn numbered(number: u32) -> Block {
    let bytes = if number.is_multiple_of(2) {
        700
    } else {
        40_000
    };
    block(number, bytes)
}

/// A block that is named by the other hash.
fn foreign() -> Block {
    let bytes = Bytes::from(vec![7; 30_000]);
    let id = crate::crypto::hash::id_of(HashKind::Sha256, &bytes);
    Block::verify(id, bytes).expect("it is its hash")
}

fn place(number: u32) -> ([u8; 32], Ref) {
    let place = Ref {
        id: numbered(number).id(),
        key: Key::new([3; 32]),
        offset: 1,
        len: 9,
    };
    ([number as u8; 32], place)
}

/// A store with a pin, a lease, chunks, and blocks that nothing keeps. What is pinned and what is
/// cached came in turns.
fn fill(dir: &Path) {
    for part in [0..COUNT / 2, COUNT / 2..COUNT] {
        let store = open(dir);
        let pin = store.begin_pin("p").expect("pins");
        let blocks: Vec<_> = part.map(numbered).collect();
        let (pinned, cached) = blocks.split_at(blocks.len() / 2);
        store.put(pinned, Keep::Pinned(pin)).expect("fits");
        store.put(cached, Keep::Cached).expect("fits");
        let mut about = info(pinned[0].id(), "p");
        about.blocks = pinned.len() as u64;
        store.finish_pin(pin, &about).expect("finishes");
    }
    let store = open(dir);
    store.put(&[foreign()], Keep::Cached).expect("fits");
    store.insert(&[place(3), place(4)]).expect("inserts");
    let lease = store
        .begin_lease(&lease_info(numbered(39).id(), 5))
        .expect("leases");
    let absent = block(99, 100).id();
    store
        .add_lease_refs(lease, &[numbered(39).id(), absent])
        .expect("adds");
}

fn again(dir: &Path) -> Rebuilt {
    rebuild(dir, &options(1 << 30)).expect("rebuilds")
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("blocks")).expect("reads");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains(extension))
        .collect();
    files.sort();
    files
}

fn every_block_is_back(store: &RocksStore) {
    for number in 0..COUNT {
        let found = store.get_verified(numbered(number).id()).expect("reads");
        assert_eq!(found, Some(numbered(number)), "block {number}");
    }
    let check = store.check(None, 999, true).expect("reads");
    assert!(check.corrupt.is_empty());
}

/// Everything is as it was: what is pinned, leased, cached, lost, and where chunks are.
fn is_as_before(store: &RocksStore) {
    every_block_is_back(store);
    let found = store.get_verified(foreign().id()).expect("reads");
    assert_eq!(found, Some(foreign()), "by the hash that named it");
    let pins = store.pins().expect("reads");
    assert_eq!(pins.len(), 2);
    for (number, (pin, info)) in pins.iter().enumerate() {
        assert_eq!((info.name.as_str(), info.blocks), ("p", 10));
        let kept = store.pin_blocks(*pin, None, 99).expect("reads");
        assert_eq!(kept.len(), 10);
        assert!(kept.contains(&numbered(number as u32 * COUNT / 2).id()));
    }
    let leases = store.leases().expect("reads");
    assert_eq!(leases.len(), 1);
    assert_eq!(
        store
            .lease_blocks(leases[0].0, None, 9)
            .expect("reads")
            .len(),
        2
    );
    assert_eq!(store.lost(None, 9).expect("reads"), [block(99, 100).id()]);
    let (hash, chunk) = place(4);
    assert_eq!(store.lookup(&[hash]).expect("reads"), [Some(chunk)]);
    let class = |number| {
        store
            .stat(numbered(number).id())
            .expect("reads")
            .expect("known")
            .class
    };
    assert_eq!(
        [class(0), class(12), class(39)],
        [
            Some(Class::Pinned),
            Some(Class::Cached),
            Some(Class::Leased)
        ]
    );
    let next = store.begin_pin("next").expect("pins");
    assert!(next > pins[1].0, "no number is used twice");
}

#[test]
fn without_its_list_of_files_the_store_comes_back_whole() {
    type Hurt = fn(&Path);
    let hurt: [(&str, Hurt); 4] = [
        ("CURRENT", |path| fs::remove_file(path).expect("removed")),
        ("MANIFEST", |path| fs::remove_file(path).expect("removed")),
        ("MANIFEST", |path| {
            let mut bytes = fs::read(path).expect("read");
            bytes[90] ^= 1;
            fs::write(path, bytes).expect("written");
        }),
        ("MANIFEST", |path| {
            let bytes = fs::read(path).expect("read");
            fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
        }),
    ];
    for (number, (name, hurt)) in hurt.into_iter().enumerate() {
        let dir = tempfile::tempdir().expect("a directory");
        fill(dir.path());
        hurt(&files(dir.path(), name)[0]);
        let blobs = files(dir.path(), ".blob").len();
        let error = refusal(dir.path());
        assert!(
            matches!(error, Error::Damaged { .. }),
            "{number}: {error:?}"
        );
        let rebuilt = again(dir.path());
        assert_eq!(rebuilt.aside, dir.path().join("damaged-1"));
        assert!(
            rebuilt.blocks == u64::from(COUNT) + 1,
            "{number}: {rebuilt:?}"
        );
        assert_eq!(
            (rebuilt.pins, rebuilt.leases, rebuilt.lost),
            (2, 1, 1),
            "{number}"
        );
        assert_eq!(
            (rebuilt.damaged, rebuilt.partial_pins.len()),
            (0, 0),
            "{number}"
        );
        let aside = fs::read_dir(&rebuilt.aside).expect("kept");
        let is_blob = |path: PathBuf| path.extension().is_some_and(|e| e == "blob");
        let kept = aside.filter(|entry| is_blob(entry.as_ref().expect("an entry").path()));
        assert_eq!(kept.count(), blobs, "{number}: the old files are kept");
        is_as_before(&open(dir.path()));
        // A second one is not needed, and changes nothing.
        let rebuilt = again(dir.path());
        assert!(
            rebuilt.is_whole && rebuilt.kept.is_none(),
            "{number}: {rebuilt:?}"
        );
        assert_eq!(rebuilt.aside, dir.path().join("damaged-2"));
    }
}

/// One table is hurt: every block that lies in a blob file comes back, and is kept when nobody
/// knows its use.
#[test]
fn a_damaged_table_costs_no_block() {
    let dir = tempfile::tempdir().expect("a directory");
    let whole = dir.path().join("whole");
    fill(&whole);
    for (number, table) in files(&whole, ".sst").into_iter().enumerate() {
        for is_gone in [true, false] {
            let store_dir = dir.path().join(format!("{number}-{is_gone}"));
            copy(&whole, &store_dir);
            let table = store_dir
                .join("blocks")
                .join(table.file_name().expect("a name"));
            match is_gone {
                true => fs::remove_file(&table).expect("removed"),
                false => {
                    let mut bytes = fs::read(&table).expect("read");
                    for byte in bytes.iter_mut().skip(20).step_by(300) {
                        *byte ^= 0x55;
                    }
                    fs::write(&table, bytes).expect("written");
                }
            }
            let rebuilt = again(&store_dir);
            let said = format!("{}: {rebuilt:?}", table.display());
            // Of a table of blocks the index does not say that it is damaged, and needs nothing of
            // it.
            assert!(!is_gone || rebuilt.unreadable == [table], "{said}");
            let store = open(&store_dir);
            for number in (1..COUNT).step_by(2) {
                let id = numbered(number).id();
                let found = store.get_verified(id).expect("reads");
                assert_eq!(found, Some(numbered(number)), "{said}");
                let stat = store.stat(id).expect("reads").expect("known");
                let may_go = stat.class == Some(Class::Cached);
                assert!(rebuilt.is_whole || !may_go, "{said}");
            }
            let pins = store.pins().expect("reads");
            match rebuilt.kept {
                Some((root, _)) => {
                    let kept = pins.iter().find(|(_, info)| info.root == root);
                    let (kept, info) = kept.expect("it is listed");
                    assert_eq!(info.name, "found by check --rebuild");
                    store.remove_pin(*kept).expect("can be let go of");
                }
                None => assert!(rebuilt.is_whole && pins.len() == 2, "{said}"),
            }
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("reads") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => drop(fs::copy(&path, &target).expect("copied")),
        }
    }
}

#[test]
fn damaged_blocks_are_counted_and_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path());
    fs::remove_file(&files(dir.path(), "CURRENT")[0]).expect("removed");
    let blob = &files(dir.path(), ".blob")[0];
    let mut bytes = fs::read(blob).expect("read");
    bytes[20_000] ^= 1;
    fs::write(blob, bytes).expect("written");
    let rebuilt = again(dir.path());
    assert_eq!((rebuilt.blocks, rebuilt.damaged), (u64::from(COUNT), 1));
    // Pinned, and now to be fetched.
    assert_eq!(rebuilt.lost, 2, "{rebuilt:?}");
    let store = open(dir.path());
    let lost = store.lost(None, 9).expect("reads");
    let number = (0..COUNT).find(|n| lost.contains(&numbered(*n).id()));
    let number = number.expect("one of them");
    store.put(&[numbered(number)], Keep::Cached).expect("fits");
    is_as_before(&store);
}

/// Cut off anywhere, the store is as it was or as it is to be.
#[test]
fn a_rebuild_that_was_cut_off_is_finished_or_forgotten() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path());
    again(dir.path());
    let (blocks, rebuilt) = (dir.path().join("blocks"), dir.path().join("blocks.rebuilt"));
    // After the old files were put aside.
    fs::rename(&blocks, &rebuilt).expect("moved");
    is_as_before(&open(dir.path()));
    assert!(!rebuilt.exists());
    // Before that.
    copy(&blocks, &rebuilt);
    copy(&blocks, &dir.path().join("blocks.new"));
    is_as_before(&open(dir.path()));
    assert!(
        !rebuilt.exists(),
        "what is written now would be missing there"
    );
}

#[test]
fn an_open_store_and_an_empty_one_are_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let error = rebuild(dir.path(), &options(1 << 30)).expect_err("there is nothing");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    let _store = open(dir.path());
    let error = rebuild(dir.path(), &options(1 << 30)).expect_err("it is open");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
}
