//! Opening a store whose files are damaged, missing, or can't be written: nothing is deleted, and
//! what is said names the file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{open, options};
use crate::block::Block;
use crate::size::MIB;
use crate::small_disk::{self, Filler};
use crate::store::conformance::{block, info};
use crate::store::{Access, Error, Keep, RecordTable, RocksStore, Store, StoreOptions, Unwritable};

/// Blocks of a filled store: every other one is so small that it lies in a table.
const COUNT: u32 = 12;

fn numbered(number: u32) -> Block {
    let bytes = if number.is_multiple_of(2) {
        900
    } else {
        50_000
    };
    block(number, bytes)
}

/// Fills a store that was opened twice, so that it has several files of each kind.
fn fill(dir: &Path) {
    for half in [0..COUNT / 2, COUNT / 2..COUNT] {
        let store = open(dir);
        let pin = store.begin_pin("p").expect("pins");
        let blocks: Vec<_> = half.map(numbered).collect();
        store.put(&blocks, Keep::Pinned(pin)).expect("fits");
        let info = info(blocks[0].id(), "p");
        store.finish_pin(pin, &info).expect("finishes");
    }
}

/// Every file below a directory, with its bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("reads") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).expect("reads");
            found.insert(path, bytes);
        }
    }
    found
}

fn is_data(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "sst" || e == "blob")
}

fn is_whole(store: &RocksStore) -> bool {
    let are_right = (0..COUNT).all(|number| {
        let found = store.get_verified(numbered(number).id());
        found.is_ok_and(|found| found == Some(numbered(number)))
    });
    are_right && store.pins().is_ok_and(|pins| pins.len() == 2)
}

/// The ways to hurt a file: its bytes afterwards, or nothing when it is gone.
fn ways(bytes: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut ways = vec![("missing".to_owned(), None)];
    let mut at: Vec<usize> = [
        0,
        bytes.len() / 3,
        bytes.len() / 2,
        bytes.len().saturating_sub(9),
    ]
    .into();
    at.dedup();
    for at in at.into_iter().filter(|at| *at < bytes.len()) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 4;
        ways.push((format!("a bit flipped at {at}"), Some(flipped)));
        ways.push((format!("cut at {at}"), Some(bytes[..at].to_vec())));
    }
    ways
}

/// One file of the blocks' database is damaged in each way: the store opens and tells damage from
/// absence, or it says which file is damaged and leaves everything as it is. With the file back it
/// is whole.
#[test]
fn one_damaged_file_costs_no_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("store");
    fill(&path);
    let whole = files(&path);
    let database = path.join("blocks");
    let mut refused = 0;
    for (hurt, bytes) in whole.iter().filter(|(file, _)| file.starts_with(&database)) {
        let name = hurt
            .file_name()
            .and_then(|name| name.to_str())
            .expect("a name");
        for (way, damaged) in ways(bytes) {
            fs::remove_dir_all(&path).expect("removed");
            for (file, bytes) in &whole {
                fs::create_dir_all(file.parent().expect("it has one")).expect("made");
                fs::write(file, bytes).expect("written");
            }
            match &damaged {
                Some(bytes) => fs::write(hurt, bytes).expect("written"),
                None => fs::remove_file(hurt).expect("removed"),
            }
            match RocksStore::open(&path, options(1 << 30)) {
                Ok(store) => {
                    let listed = store.list(None, 99);
                    if let Ok(listed) = listed {
                        assert_eq!(
                            listed.len() as u32,
                            COUNT,
                            "{name}: {way}: blocks are forgotten"
                        );
                    }
                    for number in 0..COUNT {
                        match store.get_verified(numbered(number).id()) {
                            Ok(Some(found)) => assert_eq!(found, numbered(number)),
                            Ok(None) => panic!("{name}: {way}: block {number} is forgotten"),
                            Err(Error::Corrupt { .. } | Error::Damaged { .. }) => {}
                            Err(error) => panic!("{name}: {way}: {error:?}"),
                        }
                    }
                }
                Err(error @ (Error::Damaged { .. } | Error::BadIndex { .. })) => {
                    refused += 1;
                    let said = error.to_string();
                    assert!(said.contains(name), "{name}: {way}: {said}");
                    let left = files(&path);
                    for (file, bytes) in whole
                        .iter()
                        .filter(|(file, _)| is_data(file) && *file != hurt)
                    {
                        assert_eq!(
                            left.get(file),
                            Some(bytes),
                            "{name}: {way}: {}",
                            file.display()
                        );
                    }
                    fs::write(hurt, bytes).expect("written");
                    assert!(is_whole(&open(&path)), "{name}: {way}: put back");
                }
                Err(error) => panic!("{name}: {way}: {error:?}"),
            }
        }
    }
    println!("{refused} times the store was not opened");
    assert!(refused > 10, "{refused}");
}

#[test]
fn a_database_that_is_gone_is_not_a_new_one() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path());
    let aside = dir.path().join("aside");
    fs::rename(dir.path().join("blocks"), &aside).expect("moved");
    let error = RocksStore::open(dir.path(), options(1 << 30)).expect_err("it is gone");
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(error.to_string().contains("blocks is missing"), "{error}");
    assert!(!dir.path().join("blocks").exists(), "nothing is made");
    fs::rename(&aside, dir.path().join("blocks")).expect("moved");
    assert!(is_whole(&open(dir.path())));
}

/// A process that is killed while it makes a store leaves nothing that is in the way.
#[test]
fn a_store_that_was_not_made_to_the_end_is_made_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let half = dir.path().join("blocks.new");
    fs::create_dir(&half).expect("made");
    fs::write(half.join("MANIFEST-000001"), b"half").expect("written");
    fs::write(dir.path().join("lock"), b"").expect("written");
    let store = open(dir.path());
    store.put(&[numbered(1)], Keep::Cached).expect("fits");
    assert!(!half.exists());
}

/// The records' shelf alone never keeps anybody from the blocks.
#[test]
fn a_damaged_shelf_does_not_stop_the_store() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path());
    let shelf = dir.path().join("records");
    fs::remove_file(shelf.join("CURRENT")).expect("removed");
    let store = open(dir.path());
    assert!(is_whole(&store));
    assert!(dir.path().join("records.damaged-1").is_dir(), "it is kept");
    drop(store);
    fs::remove_dir_all(&shelf).expect("removed");
    assert!(is_whole(&open(dir.path())));
}

fn to_read(why: Unwritable) -> StoreOptions {
    StoreOptions {
        access: Access::Read(why),
        ..options(1 << 30)
    }
}

#[test]
fn reading_changes_nothing_and_every_write_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    fill(dir.path());
    let before = files(dir.path());
    for why in [Unwritable::DiskFull, Unwritable::ReadOnly] {
        let store = RocksStore::open(dir.path(), to_read(why)).expect("opens");
        let beside = RocksStore::open(dir.path(), to_read(why)).expect("readers share it");
        assert!(is_whole(&store) && is_whole(&beside));
        assert_eq!(store.usage().blocks, u64::from(COUNT));
        let (pin, _) = store.pins().expect("reads")[0];
        let id = numbered(0).id();
        store.record(&[(id, crate::store::Event::Requested)]);
        for refused in [
            store.put(&[block(99, 100)], Keep::Cached).map(drop),
            store.begin_pin("p").map(drop),
            store.remove_pin(pin).map(drop),
            store.discard(id).map(drop),
            store.records().put(RecordTable::Peers, b"k", b"v"),
        ] {
            let is_right = match why {
                Unwritable::DiskFull => matches!(refused, Err(Error::DiskFull)),
                Unwritable::ReadOnly => matches!(refused, Err(Error::ReadOnly)),
            };
            assert!(is_right, "{refused:?}");
        }
        store.flush().expect("there is nothing to write");
        store.maintain().expect("there is nothing to do");
    }
    assert_eq!(files(dir.path()), before);
    let empty = tempfile::tempdir().expect("a directory");
    let error = RocksStore::open(empty.path(), to_read(Unwritable::ReadOnly));
    assert!(matches!(
        error.expect_err("nothing is there"),
        Error::ReadOnly
    ));
    assert!(files(empty.path()).is_empty());
}

#[test]
fn a_full_disk_is_read_and_the_reserve_makes_room() {
    let test = "store::rocks::tests::opening::a_full_disk_is_read_and_the_reserve_makes_room";
    small_disk::on_a_small_disk(test, "size=64m", |disk| {
        let dir = disk.join("store");
        let with = |access| StoreOptions {
            access,
            ..options(1 << 30)
        };
        fill(&dir);
        let reserve = dir.join("reserve");
        assert_eq!(fs::metadata(&reserve).expect("it is there").len(), 4 * MIB);
        let filler = Filler::new(disk, 0);
        let error = RocksStore::open(&dir, with(Access::Write)).expect_err("no room");
        assert_eq!(error.unwritable(), Some(Unwritable::DiskFull), "{error:?}");
        let store = RocksStore::open(&dir, with(Access::Read(Unwritable::DiskFull)));
        assert!(is_whole(&store.expect("reads")));
        assert!(reserve.exists(), "reading leaves it alone");

        let store = RocksStore::open(&dir, with(Access::MakeRoom)).expect("there is room again");
        assert!(!reserve.exists());
        // A list of what is to go is written down in a block first.
        let log = store.put(&[numbered(COUNT)], Keep::Cached);
        log.expect("the reserve holds it");
        for (pin, _) in store.pins().expect("reads") {
            store.remove_pin(pin).expect("removes");
        }
        store.maintain().expect("maintains");
        drop(store);
        drop(filler);
        drop(RocksStore::open(&dir, with(Access::Write)).expect("opens"));
        assert!(reserve.exists(), "it is made again");
    });
}

/// A node that runs meets the full disk with the store open.
#[test]
fn a_running_store_removes_from_a_full_disk() {
    let test = "store::rocks::tests::opening::a_running_store_removes_from_a_full_disk";
    small_disk::on_a_small_disk(test, "size=64m", |disk| {
        let dir = disk.join("store");
        fill(&dir);
        let store = open(&dir);
        let _filler = Filler::new(disk, 0);
        for (pin, _) in store.pins().expect("reads") {
            store.remove_pin(pin).expect("removes");
        }
        assert!(store.pins().expect("reads").is_empty());
    });
}

#[test]
fn the_store_is_marked_as_a_cache() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let tag = fs::read(dir.path().join("CACHEDIR.TAG")).expect("it is there");
    assert!(tag.starts_with(b"Signature: 8a477f597d28d172789f06886806bc55\n"));
}
