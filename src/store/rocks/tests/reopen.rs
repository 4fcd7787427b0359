//! Lasting, locking, the format's version, and what a process left unfinished.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use prost::Message;
use rocksdb::WriteBatch;

use super::{open, options, refusal};
use crate::block::{Block, ChunkIndex, Ref};
use crate::crypto::key::Key;
use crate::store::conformance::{block, info, lease_info};
use crate::store::rocks::database::Database;
use crate::store::rocks::schema::{self, SCHEMA_KEY, Tag};
use crate::store::{Access, Class, Error, Event, Keep, Place, RecordTable, RocksStore, Store};
use crate::time::Timestamp;
use crate::wire::store as wire;

#[test]
fn everything_lasts() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let (mine, other) = (block(1, 100_000), block(2, 50));
    let pin = store.begin_pin("p").expect("pins");
    store
        .put(std::slice::from_ref(&mine), Keep::Pinned(pin))
        .expect("fits");
    store
        .put(std::slice::from_ref(&other), Keep::Cached)
        .expect("fits");
    store
        .finish_pin(pin, &info(mine.id(), "mine"))
        .expect("finishes");
    store.record(&[(other.id(), Event::Downloaded)]);
    let place = Ref {
        id: mine.id(),
        key: Key::new([1; 32]),
        offset: 0,
        len: 9,
    };
    store.insert(&[([5; 32], place.clone())]).expect("inserts");
    store
        .records()
        .put(RecordTable::Peers, b"k", b"v")
        .expect("writes");
    let usage = store.usage();
    // Dropped, not closed: a drop writes everything too.
    drop(store);

    let store = open(dir.path());
    assert_eq!(
        store.get_verified(mine.id()).expect("reads"),
        Some(mine.clone())
    );
    assert_eq!(
        store.get_verified(other.id()).expect("reads"),
        Some(other.clone())
    );
    assert_eq!(
        store.pins().expect("reads"),
        [(pin, info(mine.id(), "mine"))]
    );
    let stat = store.stat(other.id()).expect("reads").expect("known");
    assert_eq!(
        (stat.downloaded.count, stat.class),
        (1, Some(Class::Cached))
    );
    assert_eq!(store.lookup(&[[5; 32]]).expect("reads"), [Some(place)]);
    assert_eq!(store.records().len(RecordTable::Peers), 1);
    let again = store.usage();
    assert_eq!(
        (again.blocks, again.pinned_bytes, again.cached_bytes),
        (2, 100_000, 50)
    );
    assert_eq!(again.pins, usage.pins);
    // Numbers go on where they ended.
    assert!(store.begin_pin("next").expect("pins") > pin);
}

#[test]
fn a_store_of_an_earlier_version_learns_the_places_of_its_blocks() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let blocks: Vec<_> = (0..5000).map(|n| block(n, 10)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    let all = store.places(None, 9999).expect("reads");
    let mut batch = rocksdb::WriteBatch::default();
    batch.delete(schema::PLACES_KEY);
    for (place, _) in &all {
        batch.delete(schema::place_key(place));
    }
    store.db.write(batch).expect("writes");
    drop(store);

    let store = open(dir.path());
    assert!(!store.has_all_places().expect("reads"));
    assert!(store.places(None, 1).expect("reads").is_empty());
    assert!(store.maintain().expect("maintains").more);
    // What comes and goes meanwhile is as it should be.
    let (new, gone) = (block(5000, 10), blocks[7].id());
    store
        .put(std::slice::from_ref(&new), Keep::Cached)
        .expect("fits");
    assert!(store.remove(gone).expect("removes"));
    while store.maintain().expect("maintains").more {}
    assert!(store.has_all_places().expect("reads"));
    let mut expected = all;
    expected.retain(|(_, id)| *id != gone);
    expected.push((Place::of(&new.id()), new.id()));
    expected.sort_unstable();
    assert_eq!(store.places(None, 9999).expect("reads"), expected);
    drop(store);
    assert!(open(dir.path()).has_all_places().expect("reads"));
}

#[test]
fn leases_last_also_before_all_their_blocks_came() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let (here, absent) = (block(1, 1000), block(2, 1000));
    let info = lease_info(here.id(), 5);
    let lease = store.begin_lease(&info).expect("leases");
    store
        .put(std::slice::from_ref(&here), Keep::Cached)
        .expect("fits");
    store
        .add_lease_refs(lease, &[here.id(), absent.id()])
        .expect("adds");
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.leases().expect("reads"), [(lease, info)]);
    assert_eq!(store.lost(None, 9).expect("reads"), [absent.id()]);
    assert_eq!(store.usage().leased_bytes, 1000);
    store
        .put(std::slice::from_ref(&absent), Keep::Cached)
        .expect("fits");
    assert_eq!(store.usage().leased_bytes, 2000);
    store.start_removing_lease(lease).expect("starts");
    // Cut off here, the next start goes on.
    drop(store);
    let store = open(dir.path());
    assert!(store.leases().expect("reads").is_empty());
    assert_eq!(store.usage().leased_bytes, 0);
    assert_eq!(store.usage().cached_bytes, 2000);
    assert!(store.begin_pin("next").expect("pins").0 > lease.0);
}

#[test]
fn a_second_holder_is_refused_and_told_who_has_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let error = refusal(dir.path());
    let own = std::process::id();
    assert!(
        matches!(&error, Error::Locked { pid: Some(pid), .. } if *pid == own),
        "{error:?}"
    );
    assert!(
        error.to_string().contains(&format!("process {own}")),
        "{error}"
    );
    assert!(error.is_retryable());
    drop(store);
    drop(open(dir.path()));
    let lock = fs::read(dir.path().join("lock")).expect("it stays");
    assert_eq!(lock, b"", "closing takes the name out of it");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(open(dir.path()));
    let db = Database::open(dir.path(), Access::Write, 4 << 20).expect("opens");
    let mut batch = WriteBatch::default();
    batch.put(SCHEMA_KEY, wire::Schema { version: 2 }.encode_to_vec());
    db.write(batch).expect("writes");
    db.flush().expect("flushes");
    drop(db);
    let error = refusal(dir.path());
    assert!(
        matches!(
            error,
            Error::UnknownFormat {
                found: 2,
                known: 1,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(!error.is_retryable());
}

#[test]
fn only_the_owner_may_enter() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("sets");
    let _store = open(dir.path());
    let mode = |name: &str| {
        let metadata = fs::metadata(dir.path().join(name)).expect("it is there");
        metadata.permissions().mode() & 0o777
    };
    assert_eq!(
        (mode(""), mode("blocks"), mode("lock")),
        (0o700, 0o700, 0o600)
    );
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("file");
    fs::write(&path, b"in the way").expect("writes");
    let error = refusal(&path);
    assert!(matches!(error, Error::Directory { .. }), "{error:?}");
    assert!(error.to_string().contains("file"), "{error}");
}

#[test]
fn an_unfinished_pin_is_dropped_and_its_blocks_stay() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let blocks: Vec<Block> = (0..3000).map(|n| block(n, 40)).collect();
    let open_pin = store.begin_pin("unfinished").expect("pins");
    store.put(&blocks, Keep::Pinned(open_pin)).expect("fits");
    store.flush().expect("flushes");
    drop(store);
    let store = open(dir.path());
    assert_eq!(store.usage().pins, 0);
    assert_eq!(
        (store.usage().pinned_bytes, store.usage().cached_bytes),
        (0, 120_000)
    );
    assert!(
        store
            .pin_blocks(open_pin, None, 9)
            .expect("reads")
            .is_empty()
    );
    let leftovers = || {
        let found = store.leftovers(Timestamp(u64::MAX), None, 9999);
        found.expect("reads").len()
    };
    assert_eq!(leftovers(), 3000);
    // A second try finds the blocks there.
    let pin = store.begin_pin("again").expect("pins");
    let stats = store.put(&blocks, Keep::Pinned(pin)).expect("fits");
    assert_eq!(stats.new_blocks, 0);
    assert_eq!(store.usage().pinned_bytes, 120_000);
    assert_eq!(leftovers(), 0);
}

/// As a crash in the middle leaves it: some references are gone, the pin is marked.
#[test]
fn removing_a_pin_goes_on_after_a_crash() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let blocks: Vec<Block> = (0..3000).map(|n| block(n, 40)).collect();
    let pin = store.begin_pin("p").expect("pins");
    store.put(&blocks, Keep::Pinned(pin)).expect("fits");
    store
        .finish_pin(pin, &info(blocks[0].id(), "p"))
        .expect("finishes");
    store.start_removing(pin, false).expect("marks");
    let mut freed = 0;
    let first = store.remove_refs(pin, schema::holder_prefix(pin), &mut freed);
    assert!(first.expect("removes").is_continue());
    assert_eq!(freed, 1024);
    assert!(matches!(store.remove_pin(pin), Err(Error::NoSuchPin(_))));
    assert!(store.pins().expect("reads").is_empty());
    drop(store);
    let store = open(dir.path());
    assert_eq!((store.usage().pins, store.usage().pinned_bytes), (0, 0));
    assert_eq!(store.usage().cached_bytes, 120_000);
    for tag in [Tag::HolderBlock, Tag::BlockHolder, Tag::Pin] {
        let visit = |_: &[u8], _: &[u8]| panic!("a record of {tag:?} is left");
        store.db.scan(tag.start(), tag.end(), visit).expect("reads");
    }
}

#[test]
fn lowering_the_quota_refuses_new_blocks_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    let pin = store.begin_pin("p").expect("pins");
    let blocks: Vec<Block> = (0..20).map(|n| block(n, 1 << 20)).collect();
    store.put(&blocks, Keep::Pinned(pin)).expect("fits");
    store
        .finish_pin(pin, &info(blocks[0].id(), "p"))
        .expect("finishes");
    drop(store);
    let store = RocksStore::open(dir.path(), options(10 << 20)).expect("opens");
    let error = store
        .put(&[block(99, 1000)], Keep::Cached)
        .expect_err("it is full");
    assert!(matches!(error, Error::Full { .. }), "{error:?}");
    assert_eq!(
        store.get(blocks[7].id()).expect("reads"),
        Some(blocks[7].clone())
    );
    store.remove_pin(pin).expect("removes, although it is full");
}

#[test]
fn nothing_is_flushed_when_nothing_was_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    store.flush().expect("flushes");
    assert!(store.is_durable());
    let one = block(1, 100_000);
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("fits");
    assert!(!store.is_durable(), "it is in memory only");
    for _ in 0..3 {
        store.flush().expect("flushes");
        assert!(store.is_durable());
    }
    assert_eq!(store.db.blocks_files().expect("reads").len(), 1);
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("it is here");
    store.flush().expect("flushes");
    assert!(store.is_durable());
}
