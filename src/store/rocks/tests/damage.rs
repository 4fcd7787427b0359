//! Bits that flip, files that vanish: each damaged block is named, and nothing else suffers.

use std::fs;
use std::path::{Path, PathBuf};

use super::open;
use crate::block::Block;
use crate::store::conformance::{block, info};
use crate::store::{Error, Keep, RocksStore, Store};

const COUNT: u32 = 8;
const BLOCK_BYTES: usize = 50_000;

fn numbered(number: u32) -> Block {
    block(number, BLOCK_BYTES)
}

/// A store with two blob files of a pin: blocks 0 to 7 and 8 to 15.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let pin = store.begin_pin("p").expect("pins");
    for part in [0..COUNT, COUNT..2 * COUNT] {
        let blocks: Vec<_> = part.map(numbered).collect();
        store.put(&blocks, Keep::Pinned(pin)).expect("fits");
        store.flush().expect("flushes");
    }
    store
        .finish_pin(pin, &info(numbered(0).id(), "p"))
        .expect("finishes");
    dir
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("blocks")).expect("reads");
    let mut files: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    files.sort();
    files
}

/// The first blob file.
fn blob_file(dir: &Path) -> PathBuf {
    files(dir, "blob").remove(0)
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("reads");
    bytes[at] ^= 1;
    fs::write(path, bytes).expect("writes");
}

fn damaged(store: &RocksStore) -> Vec<u32> {
    let check = store.check(None, 99, false).expect("damage is no failure");
    let mut numbers: Vec<u32> = (0..2 * COUNT)
        .filter(|n| check.corrupt.contains(&numbered(*n).id()))
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers.len(), check.corrupt.len());
    numbers
}

/// Damaged blocks are removed, fetched again and pinned again; the store is as before.
fn heals(store: &RocksStore, numbers: &[u32]) {
    for number in numbers {
        let id = numbered(*number).id();
        let read = store.get(id);
        assert!(
            matches!(read, Err(Error::Corrupt { id: named }) if named == id),
            "{read:?}"
        );
        assert!(store.has(id).expect("reads"), "damage is not absence");
        assert!(store.remove_corrupt(id).expect("removes"));
        assert!(!store.remove_corrupt(id).expect("once"));
        assert_eq!(store.get(id).expect("reads"), None);
        assert!(store.stat(id).expect("reads").expect("known").deleted);
    }
    assert_eq!(store.lost(None, 99).expect("reads").len(), numbers.len());
    assert_eq!(store.usage().corrupt, numbers.len() as u64);
    let again: Vec<_> = numbers.iter().map(|n| numbered(*n)).collect();
    store.put(&again, Keep::Cached).expect("fits");
    store.flush().expect("the database still writes");
    assert!(store.lost(None, 99).expect("reads").is_empty());
    assert!(damaged(store).is_empty());
    assert_eq!(
        store.usage().pinned_bytes,
        u64::from(2 * COUNT) * BLOCK_BYTES as u64
    );
    for number in 0..2 * COUNT {
        let found = store.get_verified(numbered(number).id()).expect("reads");
        assert_eq!(found, Some(numbered(number)));
    }
}

#[test]
fn a_flipped_bit_hurts_one_block() {
    for share in [3, 2] {
        let dir = filled();
        let path = blob_file(dir.path());
        let length = fs::metadata(&path).expect("it is there").len() as usize;
        flip(&path, length / share);
        let store = open(dir.path());
        let numbers = damaged(&store);
        assert_eq!(numbers.len(), 1, "{numbers:?}");
        heals(&store, &numbers);
    }
}

#[test]
fn a_damaged_header_hurts_one_file() {
    let dir = filled();
    flip(&blob_file(dir.path()), 2);
    let store = open(dir.path());
    let numbers = damaged(&store);
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    heals(&store, &numbers);
}

#[test]
fn a_missing_file_hurts_what_was_in_it() {
    let dir = filled();
    fs::remove_file(blob_file(dir.path())).expect("removes");
    let store = open(dir.path());
    let numbers = damaged(&store);
    assert_eq!(numbers, (0..COUNT).collect::<Vec<_>>());
    heals(&store, &numbers);
}

#[test]
fn a_cut_file_hurts_what_was_in_it() {
    for keep in [0, 100, BLOCK_BYTES * 3] {
        let dir = filled();
        let path = blob_file(dir.path());
        let file = fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("opens");
        file.set_len(keep as u64).expect("cuts");
        let store = open(dir.path());
        let numbers = damaged(&store);
        assert!(
            !numbers.is_empty() && numbers.iter().all(|n| *n < COUNT),
            "{numbers:?}"
        );
        heals(&store, &numbers);
    }
}

/// A compaction that came upon damage would stop the database: what is damaged is dropped before.
#[test]
fn getting_space_back_survives_damage() {
    for kind in ["flip", "header", "missing"] {
        let dir = filled();
        let path = blob_file(dir.path());
        match kind {
            "flip" => flip(&path, BLOCK_BYTES / 2),
            "header" => flip(&path, 2),
            _ => fs::remove_file(&path).expect("removes"),
        }
        let store = open(dir.path());
        for number in COUNT / 2..COUNT {
            store.discard(numbered(number).id()).expect("drops");
        }
        store.maintain().expect("maintains");
        assert_eq!(store.usage().dead_bytes, 0, "{kind}");
        let expected = if kind == "flip" { 1 } else { COUNT / 2 };
        assert_eq!(store.usage().corrupt, u64::from(expected), "{kind}");
        assert!(!path.exists(), "{kind}: its blocks are dead or elsewhere");
        assert!(damaged(&store).is_empty());
        for number in 0..COUNT {
            store.put(&[numbered(number)], Keep::Cached).expect("fits");
        }
        store.flush().expect("the database still writes");
        for number in 0..2 * COUNT {
            let found = store.get_verified(numbered(number).id()).expect("reads");
            assert_eq!(found, Some(numbered(number)));
        }
    }
}

/// Small blocks lie in tables, not in blob files.
#[test]
fn damage_to_small_blocks_is_named_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let blocks: Vec<_> = (0..40).map(|n| block(n, 1000)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    store.flush().expect("flushes");
    drop(store);
    // The blocks' table is the one that holds their bytes.
    let table = files(dir.path(), "sst")
        .into_iter()
        .max_by_key(|path| fs::metadata(path).expect("it is there").len())
        .expect("there are tables");
    flip(&table, 500);
    let store = open(dir.path());
    let check = store.check(None, 99, true).expect("damage is no failure");
    assert_eq!(check.checked, 40);
    assert!(
        (1..10).contains(&check.corrupt.len()),
        "{:?}",
        check.corrupt
    );
    for id in check.corrupt {
        assert!(store.remove_corrupt(id).expect("removes"));
    }
    store.put(&blocks, Keep::Cached).expect("fits");
    store.flush().expect("flushes");
    assert!(
        store
            .check(None, 99, true)
            .expect("reads")
            .corrupt
            .is_empty()
    );
}

/// Ways in which a file that is there can't be read, as with a disk that comes and goes. Root may
/// read everything, so that permissions are no such way here.
#[derive(Clone, Copy, Debug)]
enum Ailing {
    /// It opens, and reading fails (EISDIR).
    Directory,
    /// It is a link to what is away (ENOENT, though the name is there).
    LeadsNowhere,
    /// It can't be opened (ELOOP).
    LeadsInCircles,
}

impl Ailing {
    const ALL: [Self; 3] = [Self::Directory, Self::LeadsNowhere, Self::LeadsInCircles];

    fn begin(self, path: &Path, aside: &Path) {
        use std::os::unix::fs::symlink;
        fs::rename(path, aside).expect("moved");
        match self {
            Self::Directory => fs::create_dir(path),
            Self::LeadsNowhere => symlink("/nonexistent/away", path),
            Self::LeadsInCircles => symlink(path.file_name().expect("a name"), path),
        }
        .expect("made");
    }

    fn end(self, path: &Path, aside: &Path) {
        match self {
            Self::Directory => fs::remove_dir(path),
            _ => fs::remove_file(path),
        }
        .expect("removed");
        fs::rename(aside, path).expect("moved back");
    }
}

/// Blocks that can't be read are told as that; they are never dropped, and are read as soon as the
/// disk gives them again.
#[test]
fn a_disk_that_fails_for_a_while_costs_no_block() {
    for ailing in Ailing::ALL {
        let dir = filled();
        let path = blob_file(dir.path());
        let away = tempfile::tempdir().expect("a directory");
        let aside = away.path().join("aside");
        let store = open(dir.path());
        ailing.begin(&path, &aside);
        for number in 0..COUNT {
            let id = numbered(number).id();
            for read in [store.get(id), store.get_verified(id)] {
                let is_told =
                    matches!(read, Err(Error::Unreadable { id: named, .. }) if named == id);
                assert!(is_told, "{ailing:?}: {read:?}");
            }
            let removed = store.remove_corrupt(id);
            assert!(
                matches!(removed, Err(Error::Unreadable { .. })),
                "{ailing:?}: {removed:?}"
            );
            assert!(store.has(id).expect("reads"));
        }
        let check = store.check(None, 99, true).expect("a result, no failure");
        assert_eq!((check.checked, check.corrupt.len()), (16, 0), "{ailing:?}");
        assert_eq!(check.unreadable.len(), COUNT as usize, "{ailing:?}");

        // Space beside them waits; other space comes back, and the database goes on.
        for number in [1, 2, 3, 4, COUNT, COUNT + 1, COUNT + 2, COUNT + 3] {
            store.discard(numbered(number).id()).expect("drops");
        }
        store.maintain().expect("maintains");
        let waiting = 4 * BLOCK_BYTES as u64;
        assert_eq!(store.usage().dead_bytes, waiting, "{ailing:?}");
        store.put(&[numbered(99)], Keep::Cached).expect("fits");
        store.flush().expect("the database still writes");

        ailing.end(&path, &aside);
        store.maintain().expect("maintains");
        assert_eq!(store.usage().dead_bytes, 0, "{ailing:?}");
        for number in [0, 5, 6, 7] {
            let found = store.get_verified(numbered(number).id()).expect("reads");
            assert_eq!(found, Some(numbered(number)), "{ailing:?}");
        }
        assert_eq!(store.usage().corrupt, 0, "{ailing:?}");
        drop(store);
        let check = open(dir.path()).check(None, 99, true).expect("reads");
        let found = (check.checked, check.corrupt.len(), check.unreadable.len());
        assert_eq!(found, (9, 0, 0), "{ailing:?}");
    }
}
