//! The quota, measured from outside, and disks that fill up.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::options;
use crate::block::Block;
use crate::size::MIB;
use crate::small_disk::{self, Filler};
use crate::store::conformance::{block, info};
use crate::store::{Error, Keep, RocksStore, Store, StoreOptions};

fn on_disk(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).expect("reads");
    entries
        .filter_map(|entry| {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                return Some(on_disk(&path));
            }
            // Files come and go meanwhile.
            Some(std::fs::metadata(path).ok()?.len())
        })
        .sum()
}

fn store_of(dir: &Path, quota: u64) -> RocksStore {
    RocksStore::open(dir, options(quota)).expect("opens")
}

fn numbered(number: u32) -> Block {
    // Sizes that fit neither pages nor memtables.
    block(number, 300_000 + (number as usize * 7919) % 700_000)
}

/// Pins come, go and leave holes; cached blocks come in between; the directory never exceeds the quota.
#[test]
fn the_directory_never_exceeds_the_quota() {
    let quota = 48 * MIB;
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), quota);
    let mut pins = Vec::new();
    let mut number = 0;
    for round in 0..12 {
        let pin = store.begin_pin("p").expect("pins");
        for turn in 0..8 {
            let keep = if turn % 3 == 0 {
                Keep::Pinned(pin)
            } else {
                Keep::Cached
            };
            store
                .put(&[numbered(number)], keep)
                .expect("older ones give way");
            number += 1;
            let (used, told) = (on_disk(dir.path()), store.usage().disk_bytes);
            assert!(used <= quota, "{used} bytes are used");
            assert!(
                told <= quota && told >= used,
                "{used} bytes are used, not {told}"
            );
        }
        store
            .finish_pin(pin, &info(numbered(0).id(), "p"))
            .expect("finishes");
        pins.push(pin);
        if round % 3 == 2 {
            store.remove_pin(pins.remove(0)).expect("removes");
            store.maintain().expect("maintains");
        }
    }
    for pin in pins {
        for id in store.pin_blocks(pin, None, 99).expect("reads") {
            assert!(store.get_verified(id).expect("reads").is_some());
        }
    }
}

#[test]
fn space_comes_back_when_every_other_block_goes() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), 256 * MIB);
    let blocks: Vec<_> = (0..80).map(|n| block(n, 500_000)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    store.flush().expect("flushes");
    let before = on_disk(dir.path());
    for one in blocks.iter().step_by(2) {
        assert!(store.remove(one.id()).expect("removes"));
    }
    assert_eq!(store.usage().dead_bytes, 20_000_000);
    let maintained = store.maintain().expect("maintains");
    assert_eq!(maintained.reclaimed_bytes, 20_000_000);
    assert!(!maintained.more);
    assert_eq!(store.usage().dead_bytes, 0);
    let after = on_disk(dir.path());
    assert!(
        before - after > 19_000_000,
        "{before} bytes before, {after} after"
    );
    for one in blocks.iter().skip(1).step_by(2) {
        assert_eq!(
            store.get_verified(one.id()).expect("reads").as_ref(),
            Some(one)
        );
    }
    assert_eq!(store.maintain().expect("maintains").reclaimed_bytes, 0);
    drop(store);
    let store = store_of(dir.path(), 256 * MIB);
    assert!(
        store
            .check(None, 99, true)
            .expect("reads")
            .corrupt
            .is_empty()
    );
}

#[test]
fn blocks_dropped_before_they_reached_the_disk_cost_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), 64 * MIB);
    for round in 0..30 {
        let blocks: Vec<_> = (0..5).map(|n| block(round * 5 + n, 1 << 20)).collect();
        store.put(&blocks, Keep::Cached).expect("fits");
        for one in &blocks {
            store.remove(one.id()).expect("removes");
        }
    }
    store.maintain().expect("maintains");
    assert_eq!(store.usage().dead_bytes, 0);
    assert!(
        on_disk(dir.path()) < 3 * MIB,
        "{} bytes",
        on_disk(dir.path())
    );
}

/// Dead bytes are known again after opening.
#[test]
fn dropped_blocks_are_remembered_until_their_space_is_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), 64 * MIB);
    let blocks: Vec<_> = (0..20).map(|n| block(n, 500_000)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    for one in &blocks {
        store.remove(one.id()).expect("removes");
    }
    drop(store);
    let store = store_of(dir.path(), 64 * MIB);
    assert_eq!(store.usage().dead_bytes, 10_000_000);
    let maintained = store.maintain().expect("maintains");
    assert_eq!(maintained.reclaimed_bytes, 10_000_000);
    assert!(on_disk(dir.path()) < MIB, "{} bytes", on_disk(dir.path()));
}

/// Readers meet blocks that are evicted, moved and put again: they get the right bytes or none.
#[test]
fn reading_while_space_is_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), 40 * MIB);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (store, done) = (&store, &done);
            scope.spawn(move || {
                let blocks: Vec<_> = (0..120).map(numbered).collect();
                let mut found = 0;
                for turn in 0usize.. {
                    if done.load(Ordering::Relaxed) {
                        break;
                    }
                    let expected = &blocks[(turn * 7 + reader) % blocks.len()];
                    if let Some(block) = store.get(expected.id()).expect("nothing is damaged") {
                        assert!(block == *expected);
                        found += 1;
                    }
                }
                assert!(found > 0);
            });
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    for turn in 0..150 {
                        let one = numbered((turn * 11 + writer * 60) % 120);
                        store
                            .put(&[one], Keep::Cached)
                            .expect("older ones give way");
                        if turn % 20 == 0 {
                            store.flush().expect("flushes");
                        }
                        if turn % 30 == 7 {
                            store.maintain().expect("maintains");
                        }
                    }
                })
            })
            .collect();
        let results: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        // Whatever became of the writers, the readers must end.
        done.store(true, Ordering::Relaxed);
        results
            .into_iter()
            .for_each(|result| result.expect("no panic"));
    });
    assert!(on_disk(dir.path()) <= 40 * MIB);
    assert_eq!(store.usage().corrupt, 0);
    let listed: u64 = store
        .list(None, 999)
        .expect("reads")
        .iter()
        .map(|(_, b)| u64::from(*b))
        .sum();
    assert_eq!(store.usage().cached_bytes, listed);
}

/// A group of small blocks that somebody waits for is a file, also when the blocks are more than a
/// few. Merging them costs a bounded number of copies, whatever their number.
#[test]
fn many_small_groups_of_blocks_end_in_few_files() {
    const GROUPS: u32 = 600;
    const GROUP: u32 = 12;
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), 1024 * MIB);
    for group in 0..GROUPS {
        let blocks: Vec<_> = (0..GROUP).map(|n| block(group * GROUP + n, 600)).collect();
        store.put(&blocks, Keep::Cached).expect("fits");
        store.flush().expect("flushes");
        if group % 50 == 49 {
            while store.maintain().expect("maintains").more {}
        }
    }
    let files = store.db.blocks_files().expect("reads").len();
    assert!(files <= 40, "{files} files");
    let content = u64::from(GROUPS * GROUP * 600);
    let used = store.measured_usage().expect("measures").disk_bytes;
    assert!(used < 4 * content, "{used} bytes on disk for {content}");
    for number in (0..GROUPS * GROUP).step_by(97) {
        let one = block(number, 600);
        let found = store.get_verified(one.id()).expect("reads");
        assert_eq!(found, Some(one));
    }
}

/// Short commands that each leave a small file: the next one finds them and merges them.
#[test]
fn small_files_of_earlier_processes_are_merged() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut most = 0;
    for number in 0..150 {
        let store = store_of(dir.path(), 1024 * MIB);
        store
            .put(&[block(number, 600)], Keep::Cached)
            .expect("fits");
        store.flush().expect("flushes");
        most = most.max(store.db.blocks_files().expect("reads").len());
    }
    assert!(most <= 70, "{most} files");
    let store = store_of(dir.path(), 1024 * MIB);
    let check = store.check(None, 999, true).expect("reads");
    assert_eq!((check.checked, check.corrupt.len()), (150, 0));
}

/// Index entries of many small blocks that are gone do not stay.
#[test]
fn the_index_gives_its_space_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let few_stats = StoreOptions {
        max_gone_stats: 100,
        ..options(256 * MIB)
    };
    let store = RocksStore::open(dir.path(), few_stats).expect("opens");
    let pin = store.begin_pin("p").expect("pins");
    let ids: Vec<_> = (0..20u32)
        .flat_map(|part| {
            let blocks: Vec<_> = (0..1000).map(|n| block(part * 1000 + n, 40)).collect();
            store.put(&blocks, Keep::Pinned(pin)).expect("fits");
            blocks.into_iter().map(|block| block.id())
        })
        .collect();
    let measure = || store.measured_usage().expect("measures").disk_bytes;
    let (before, index_before) = (measure(), store.db.index_bytes());
    store.remove_pin(pin).expect("removes");
    for id in ids {
        store.remove(id).expect("removes");
    }
    while store.maintain().expect("maintains").more {}
    store.compact_index().expect("compacts");
    let (after, index_after) = (measure(), store.db.index_bytes());
    assert!(
        index_after * 10 < index_before && after < before,
        "{before} bytes before, {after} after; of the index {index_before} and {index_after}"
    );
    assert_eq!(store.usage().disk_bytes, after);
    let measured = on_disk(dir.path());
    assert!(
        measured <= after,
        "{measured} bytes are on disk, not {after}"
    );
}

/// A flush that somebody waits for leaves small files behind: they are merged.
#[test]
fn small_files_are_merged() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store_of(dir.path(), 1024 * MIB);
    let blocks: Vec<_> = (0..64).map(|n| block(n, 20_000)).collect();
    for one in &blocks {
        store
            .put(std::slice::from_ref(one), Keep::Cached)
            .expect("fits");
        store.flush().expect("flushes");
    }
    assert_eq!(store.db.blocks_files().expect("reads").len(), 64);
    store.maintain().expect("maintains");
    let files = store.db.blocks_files().expect("reads").len();
    assert!(files <= 8, "{files} files");
    for one in &blocks {
        assert_eq!(
            store.get_verified(one.id()).expect("reads").as_ref(),
            Some(one)
        );
    }
}

/// Runs a test of this file on a file system of 64 MiB.
fn on_a_small_disk(test: &str, body: impl FnOnce(&Path)) {
    let test = format!("store::rocks::tests::quota::{test}");
    small_disk::on_a_small_disk(&test, "size=64m", body);
}

#[test]
fn a_full_disk_is_told_before_the_database_meets_it() {
    on_a_small_disk("a_full_disk_is_told_before_the_database_meets_it", |dir| {
        let store = store_of(dir, 1024 * MIB);
        let pin = store.begin_pin("p").expect("pins");
        let mut count = 0;
        let error = loop {
            match store.put(&[block(count, 1 << 20)], Keep::Pinned(pin)) {
                Ok(_) => count += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::DiskFull), "{error:?}");
        assert!(count >= 8, "{count} blocks");
        store.flush().expect("what was put fits");
        for number in 0..count {
            assert!(
                store
                    .get(block(number, 1 << 20).id())
                    .expect("reads")
                    .is_some()
            );
        }
        store.remove_pin(pin).expect("removes");
        for number in count..2 * count {
            store
                .put(&[block(number, 1 << 20)], Keep::Cached)
                .expect("older ones give way");
        }
        store.flush().expect("flushes");
    });
}

/// Somebody else fills the disk between a put and its flush.
#[test]
fn the_store_goes_on_after_the_disk_was_full() {
    on_a_small_disk("the_store_goes_on_after_the_disk_was_full", |dir| {
        let store = store_of(dir, 256 * MIB);
        let early: Vec<_> = (0..4).map(|n| block(n, 1 << 20)).collect();
        store.put(&early, Keep::Cached).expect("fits");
        store.flush().expect("flushes");
        let late: Vec<_> = (4..8).map(|n| block(n, 1 << 20)).collect();
        store.put(&late, Keep::Cached).expect("fits");
        let filler = Filler::new(dir, 0);
        let error = store.flush().expect_err("the disk is full");
        assert!(matches!(error, Error::DiskFull), "{error:?}");
        for one in early.iter().chain(&late) {
            assert_eq!(store.get(one.id()).expect("reads").as_ref(), Some(one));
        }
        let error = store
            .put(&[block(9, 100)], Keep::Cached)
            .expect_err("the disk is full");
        assert!(matches!(error, Error::DiskFull), "{error:?}");
        drop(filler);
        let began = std::time::Instant::now();
        store.flush().expect("there is room again");
        println!("writable again after {:?}", began.elapsed());
        store
            .put(&[block(9, 100)], Keep::Cached)
            .expect("there is room again");
        store.flush().expect("flushes");
        drop(store);
        let store = store_of(dir, 256 * MIB);
        for one in early.iter().chain(&late) {
            assert_eq!(
                store.get_verified(one.id()).expect("reads").as_ref(),
                Some(one)
            );
        }
    });
}
