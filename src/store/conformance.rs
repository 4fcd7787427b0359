//! What every store must do, run against each.

mod leases;
mod pins;
mod room;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use self::leases::{
    leased_blocks_may_be_yet_to_come, leases_are_removed_together,
    leases_keep_blocks_until_they_end, leases_read_back, leases_that_do_not_exist_are_refused,
};
use self::pins::{
    a_finished_pin_takes_the_place_of_others, finished_pins_read_back, pins_keep_blocks,
    pins_that_do_not_exist_are_refused, removing_a_large_pin_in_batches,
    the_same_content_is_pinned_by_several_at_once, what_an_abandoned_pin_leaves_is_known,
};
use self::room::{
    a_quota_that_changes_holds_at_once, cached_blocks_give_way, cold_blocks_go_before_warm_ones,
    evictions_are_counted, expendable_blocks_go_first, leased_blocks_do_not_either,
    pinned_blocks_do_not, warm_blocks_go_when_all_are_warm, what_is_kept_is_never_evicted,
};
use super::*;
use crate::block::{ChunkHash, Ref};
use crate::crypto::key::Key;
use crate::size::{ByteSize, MIB};
use crate::time::{ManualClock, Timestamp};

/// Quota of the stores under test.
const QUOTA: u64 = 64 * MIB;

struct Subject {
    store: Box<dyn Store>,
    clock: Arc<ManualClock>,
    /// Keeps the directory until the store is dropped.
    _dir: TempDir,
}

impl std::ops::Deref for Subject {
    type Target = dyn Store;

    fn deref(&self) -> &Self::Target {
        self.store.as_ref()
    }
}

fn subject(open: impl Fn(&std::path::Path, StoreOptions) -> Box<dyn Store>) -> Subject {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_millis(1000));
    let options = StoreOptions {
        quota: ByteSize(QUOTA),
        clock: clock.clone(),
        max_gone_stats: 3,
        ..StoreOptions::default()
    };
    let dir = tempfile::tempdir().expect("a directory");
    Subject {
        store: open(dir.path(), options),
        clock,
        _dir: dir,
    }
}

macro_rules! suite {
    ($($case:ident),+ $(,)?) => {
        mod memory {
            use super::*;
            $(#[test] fn $case() {
                super::$case(&subject(|_, options| Box::new(MemoryStore::new(options))));
            })+
        }
        mod rocks {
            use super::*;
            $(#[test] fn $case() {
                super::$case(&subject(|dir, options| {
                    Box::new(RocksStore::open(dir, options).expect("opens"))
                }));
            })+
        }
    };
}

suite!(
    keeps_what_is_put,
    sizes_at_the_limits,
    both_hash_kinds_live_side_by_side,
    lists_in_pages,
    finds_like_ids,
    places_follow_what_is_here,
    it_is_told_why_a_block_is_here,
    pins_keep_blocks,
    removing_a_large_pin_in_batches,
    pins_that_do_not_exist_are_refused,
    finished_pins_read_back,
    a_finished_pin_takes_the_place_of_others,
    the_same_content_is_pinned_by_several_at_once,
    what_an_abandoned_pin_leaves_is_known,
    removed_blocks_are_gone,
    discarded_blocks_are_lost_until_put_again,
    well_blocks_are_not_removed_as_corrupt,
    counts_what_happens,
    forgets_old_statistics,
    many_pending_counts_are_not_lost,
    leases_are_removed_together,
    leases_keep_blocks_until_they_end,
    leased_blocks_may_be_yet_to_come,
    leases_read_back,
    leases_that_do_not_exist_are_refused,
    chunks_show_only_with_their_block,
    a_quota_that_changes_holds_at_once,
    cached_blocks_give_way,
    pinned_blocks_do_not,
    leased_blocks_do_not_either,
    cold_blocks_go_before_warm_ones,
    warm_blocks_go_when_all_are_warm,
    expendable_blocks_go_first,
    evictions_are_counted,
    what_is_kept_is_never_evicted,
    writers_and_readers_at_once,
    keeps_records,
);

pub(super) fn block(number: u32, bytes: usize) -> Block {
    let mut content = vec![0; bytes.max(4)];
    content[..4].copy_from_slice(&number.to_be_bytes());
    // Some bytes that differ everywhere, as those of sealed blocks do.
    let mut state = u64::from(number) | 1;
    for part in content[4..].chunks_mut(8) {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        part.copy_from_slice(&state.to_le_bytes()[..part.len()]);
    }
    Block::new(Bytes::from(content)).expect("the size is allowed")
}

pub(super) fn info(root: BlockId, name: &str) -> PinInfo {
    PinInfo {
        root,
        link: None,
        name: name.to_owned(),
        bytes: 1,
        files: 2,
        blocks: 3,
        created: Timestamp(4),
    }
}

pub(super) fn lease_info(root: BlockId, until: u64) -> LeaseInfo {
    LeaseInfo {
        root,
        terms: Bytes::from_static(b"terms"),
        until: Timestamp(until),
        blocks: 2,
        bytes: 300,
        complete: false,
    }
}

fn keeps_what_is_put(store: &Subject) {
    let blocks = [block(1, 100), block(2, 5000), block(3, 70_000)];
    let stats = store.put(&blocks, Keep::Cached).expect("fits");
    assert_eq!((stats.new_blocks, stats.new_bytes), (3, 75_100));
    let twice = [block(2, 5000), block(4, 10), block(4, 10)];
    let stats = store.put(&twice, Keep::Cached).expect("fits");
    assert_eq!((stats.new_blocks, stats.new_bytes), (1, 10));
    store.flush().expect("flushes");
    for expected in &blocks {
        let id = expected.id();
        assert_eq!(store.get(id).expect("reads").as_ref(), Some(expected));
        assert_eq!(
            store.get_verified(id).expect("reads").as_ref(),
            Some(expected)
        );
        assert!(store.has(id).expect("reads"));
        let stat = store.stat(id).expect("reads").expect("known");
        assert!(stat.local && !stat.deleted);
        assert_eq!(stat.bytes, Some(expected.bytes().len() as u32));
        assert_eq!(stat.class, Some(Class::Cached));
        assert_eq!(stat.added, Some(Timestamp(1000)));
    }
    let unknown = block(9, 9).id();
    assert_eq!(store.get(unknown).expect("reads"), None);
    assert!(!store.has(unknown).expect("reads"));
    assert_eq!(store.stat(unknown).expect("reads"), None);
    let usage = store.usage();
    assert_eq!((usage.blocks, usage.block_bytes), (4, 75_110));
    assert_eq!((usage.cached_bytes, usage.pinned_bytes), (75_110, 0));
    assert_eq!(usage.quota, QUOTA);
    assert!(usage.disk_bytes > 75_110);
}

fn sizes_at_the_limits(store: &Subject) {
    let one = Block::new(Bytes::from_static(b"x")).expect("a block");
    let largest = block(1, crate::block::MAX_BLOCK_BYTES);
    store
        .put(&[one.clone(), largest.clone()], Keep::Cached)
        .expect("fits");
    store.put(&[], Keep::Cached).expect("nothing to do");
    store.flush().expect("flushes");
    assert_eq!(store.get(one.id()).expect("reads"), Some(one));
    assert_eq!(store.get(largest.id()).expect("reads"), Some(largest));
}

fn sha256_block(content: &'static [u8]) -> Block {
    use crate::crypto::hash;
    use crate::id::HashKind;
    let id = hash::id_of(HashKind::Sha256, content);
    Block::verify(id, Bytes::from_static(content)).expect("the id fits")
}

fn both_hash_kinds_live_side_by_side(store: &Subject) {
    let old = sha256_block(b"same bytes");
    let new = Block::new(old.bytes().clone()).expect("a block");
    store
        .put(&[old.clone(), new.clone()], Keep::Cached)
        .expect("fits");
    assert_eq!(store.usage().blocks, 2);
    assert_eq!(
        store.get_verified(old.id()).expect("reads"),
        Some(old.clone())
    );
    assert_eq!(
        store.get_verified(new.id()).expect("reads"),
        Some(new.clone())
    );
    let listed: Vec<_> = store.list(None, 9).expect("reads");
    assert_eq!(listed, [(old.id(), 10), (new.id(), 10)]);
}

fn lists_in_pages(store: &Subject) {
    let blocks: Vec<_> = (0..10).map(|n| block(n, 50 + n as usize)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    let mut expected: Vec<_> = blocks
        .iter()
        .map(|b| (b.id(), b.bytes().len() as u32))
        .collect();
    expected.sort();
    let mut found = Vec::new();
    loop {
        let after = found.last().map(|(id, _)| *id);
        let page = store.list(after, 3).expect("reads");
        assert!(page.len() <= 3);
        if page.is_empty() {
            break;
        }
        found.extend(page);
    }
    assert_eq!(found, expected);
    assert!(store.list(None, 0).expect("reads").is_empty());
    let check = store.check(None, 4, true).expect("reads");
    assert_eq!((check.checked, check.last), (4, Some(expected[3].0)));
    assert!(check.corrupt.is_empty());
    let end = store.check(Some(expected[9].0), 4, false).expect("reads");
    assert_eq!(end, Check::default());
}

fn finds_like_ids(store: &Subject) {
    // Enough blocks that two of them share 16 bits would be many: ask for the bits of each instead.
    let blocks: Vec<_> = (0..20).map(|n| block(n, 40)).collect();
    let old = sha256_block(b"old");
    store.put(&blocks, Keep::Cached).expect("fits");
    store
        .put(std::slice::from_ref(&old), Keep::Cached)
        .expect("fits");
    for one in blocks.iter().chain([&old]) {
        for bits in [1, 2, 12, 16] {
            let all = blocks.iter().chain([&old]);
            let mut expected: Vec<_> = all
                .map(|block| (block.id(), block.bytes().len() as u32))
                .filter(|(id, _)| id.shared_bits(&one.id()) >= bits)
                .collect();
            expected.sort_by_key(|(id, _)| (std::cmp::Reverse(id.shared_bits(&one.id())), *id));
            expected.truncate(9);
            assert_eq!(expected[0].0, one.id());
            assert_eq!(store.like(one.id(), bits, 9).expect("reads"), expected);
            assert!(store.like(one.id(), bits, 0).expect("reads").is_empty());
        }
    }
    // The last prefix there is has no successor of its length.
    let last = BlockId::from_sha384([0xff; 48]);
    assert!(store.like(last, 16, 9).expect("reads").len() <= 1);
}

fn places_follow_what_is_here(store: &Subject) {
    let blocks: Vec<_> = (0..50).map(|n| block(n, 40)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    assert!(store.has_all_places().expect("reads"));
    let expected = |gone: &[BlockId]| {
        let ids = blocks.iter().map(Block::id);
        let ids = ids.filter(|id| !gone.contains(id));
        let mut all: Vec<_> = ids.map(|id| (Place::of(&id), id)).collect();
        all.sort();
        all
    };
    let gone = [blocks[3].id(), blocks[7].id()];
    assert_eq!(store.places(None, 99).expect("reads"), expected(&[]));
    assert!(store.places(None, 0).expect("reads").is_empty());
    assert!(store.remove(gone[0]).expect("removes"));
    assert!(store.discard(gone[1]).expect("removes"));
    let all = expected(&gone);
    assert_eq!(store.places(None, 99).expect("reads"), all);
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.places(after, 7).expect("reads");
        let Some((place, _)) = page.last() else { break };
        after = Some(*place);
        paged.extend(page);
    }
    assert_eq!(paged, all);
    store.put(&blocks, Keep::Cached).expect("fits");
    assert_eq!(store.places(None, 99).expect("reads"), expected(&[]));
}

fn it_is_told_why_a_block_is_here(store: &Subject) {
    let (a, b, c, d) = (block(1, 40), block(2, 40), block(3, 40), block(4, 40));
    let blocks = [a.clone(), b.clone(), c.clone()];
    store.put(&blocks, Keep::Cached).expect("fits");
    let backup = store.begin_pin("a backup").expect("pins");
    let other = store.begin_pin("a put").expect("pins");
    store.add_refs(backup, &[a.id(), b.id()]).expect("adds");
    store.add_refs(other, &[b.id()]).expect("adds");
    assert_eq!(
        store.pin_name(backup).expect("reads").as_deref(),
        Some("a backup")
    );
    let mut is_backup = |pin| store.pin_name(pin).expect("reads").as_deref() == Some("a backup");
    let mut why = |block: &Block| store.why(block.id(), &mut is_backup).expect("reads");
    assert_eq!(why(&a), Some(Why::Backup));
    assert_eq!(why(&b), Some(Why::Pinned));
    assert_eq!(why(&c), Some(Why::Cached));
    assert_eq!(why(&d), None);
    let info = LeaseInfo {
        root: c.id(),
        terms: Bytes::new(),
        until: Timestamp(1),
        blocks: 1,
        bytes: 40,
        complete: true,
    };
    let lease = store.begin_lease(&info).expect("leases");
    let ids = [a.id(), c.id(), d.id()];
    store.add_lease_refs(lease, &ids).expect("adds");
    assert_eq!(why(&a), Some(Why::Backup));
    assert_eq!(why(&c), Some(Why::Leased));
    assert_eq!(why(&d), None, "it is not here");
    store.remove_pin(backup).expect("removes");
    assert_eq!(why(&a), Some(Why::Leased));
    assert_eq!(store.pin_name(backup).expect("reads"), None);
}

fn removed_blocks_are_gone(store: &Subject) {
    let (a, b) = (block(1, 5000), block(2, 5000));
    let pin = store.begin_pin("p").expect("pins");
    store
        .put(std::slice::from_ref(&a), Keep::Cached)
        .expect("fits");
    store
        .put(std::slice::from_ref(&b), Keep::Pinned(pin))
        .expect("fits");
    assert!(store.remove(a.id()).expect("removes"));
    assert!(!store.remove(a.id()).expect("nothing left"));
    assert_eq!(store.get(a.id()).expect("reads"), None);
    let stat = store.stat(a.id()).expect("reads").expect("remembered");
    assert!(stat.deleted && !stat.local);
    assert_eq!((stat.bytes, stat.class, stat.added), (None, None, None));
    assert_eq!(stat.purged.count, 1);
    assert_eq!(stat.purged.last, Some(Timestamp(1000)));
    let held = store.remove(b.id());
    assert!(
        matches!(
            held,
            Err(Error::Held {
                pins: 1,
                leases: 0,
                ..
            })
        ),
        "{held:?}"
    );
    assert!(store.has(b.id()).expect("reads"));
    assert_eq!(store.list(None, 9).expect("reads"), [(b.id(), 5000)]);
    store
        .put(std::slice::from_ref(&a), Keep::Cached)
        .expect("fits again");
    assert_eq!(store.get(a.id()).expect("reads"), Some(a.clone()));
    let stat = store.stat(a.id()).expect("reads").expect("known");
    assert!(stat.local && !stat.deleted);
    assert_eq!(stat.purged.count, 1, "what happened before is remembered");
}

fn discarded_blocks_are_lost_until_put_again(store: &Subject) {
    let (a, b) = (block(1, 5000), block(2, 6000));
    let pin = store.begin_pin("p").expect("pins");
    store
        .put(&[a.clone(), b.clone()], Keep::Pinned(pin))
        .expect("fits");
    assert!(store.discard(a.id()).expect("drops"));
    assert!(!store.discard(a.id()).expect("nothing left"));
    assert_eq!(store.get(a.id()).expect("reads"), None);
    assert_eq!(store.lost(None, 9).expect("reads"), [a.id()]);
    assert!(store.lost(Some(a.id()), 9).expect("reads").is_empty());
    assert!(store.lost(None, 0).expect("reads").is_empty());
    assert_eq!(store.list(None, 9).expect("reads").len(), 1);
    assert!(store.like(a.id(), 16, 9).expect("reads").is_empty());
    assert_eq!(store.stat(a.id()).expect("reads").expect("known").pins, 1);
    assert_eq!(store.pin_blocks(pin, None, 9).expect("reads").len(), 2);
    assert_eq!(store.usage().pinned_bytes, 6000);
    // Put again by who knows nothing of the pin, it is pinned again.
    store
        .put(std::slice::from_ref(&a), Keep::Cached)
        .expect("fits");
    assert_eq!(store.usage().pinned_bytes, 11_000);
    assert!(store.lost(None, 9).expect("reads").is_empty());
    // Lost again, and then no longer wanted.
    store.discard(a.id()).expect("drops");
    assert_eq!(
        store.remove_pin(pin).expect("removes"),
        1,
        "the lost one is not here"
    );
    assert!(store.lost(None, 9).expect("reads").is_empty());
}

fn well_blocks_are_not_removed_as_corrupt(store: &Subject) {
    let one = block(1, 5000);
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("fits");
    assert!(!store.remove_corrupt(one.id()).expect("reads"));
    assert!(!store.remove_corrupt(block(2, 2).id()).expect("reads"));
    assert!(store.has(one.id()).expect("reads"));
    assert_eq!(store.usage().corrupt, 0);
}

fn counts_what_happens(store: &Subject) {
    let one = block(1, 100);
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("fits");
    store.record(&[(one.id(), Event::Requested), (one.id(), Event::Served)]);
    store.clock.advance(Duration::from_millis(500));
    store.flush().expect("flushes");
    store.record(&[
        (one.id(), Event::Requested),
        (block(2, 2).id(), Event::Requested),
    ]);
    for _ in 0..2 {
        let stat = store.stat(one.id()).expect("reads").expect("known");
        let requested = Counter {
            first: Some(Timestamp(1000)),
            last: Some(Timestamp(1500)),
            count: 2,
        };
        assert_eq!(stat.requested, requested);
        assert_eq!(stat.served.count, 1);
        assert_eq!(stat.downloaded, Counter::default());
        let unknown = store.stat(block(2, 2).id()).expect("reads").expect("known");
        assert!(!unknown.local && !unknown.deleted, "it was only asked for");
        assert_eq!(unknown.requested.count, 1);
        // The second time round everything is written.
        store.maintain().expect("maintains");
    }
}

/// The limit is three.
fn forgets_old_statistics(store: &Subject) {
    let blocks: Vec<_> = (0..5).map(|n| block(n, 100)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    for one in &blocks {
        store.remove(one.id()).expect("removes");
    }
    let known = |n: usize| store.stat(blocks[n].id()).expect("reads").is_some();
    assert_eq!([0, 1, 2, 3, 4].map(known), [false, false, true, true, true]);
    // One that comes back makes room.
    store.put(&blocks[2..3], Keep::Cached).expect("fits");
    store.remove(blocks[2].id()).expect("removes");
    assert_eq!([0, 1, 2, 3, 4].map(known), [false, false, true, true, true]);
    store.record(&[(block(9, 9).id(), Event::Requested)]);
    store.flush().expect("flushes");
    assert_eq!([2, 3, 4].map(known), [true, false, true]);
}

fn many_pending_counts_are_not_lost(store: &Subject) {
    let blocks: Vec<_> = (0..1000).map(|n| block(n, 40)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    for round in 0..10 {
        let events: Vec<_> = blocks.iter().map(|b| (b.id(), Event::Served)).collect();
        store.record(&events);
        if round % 4 == 3 {
            store.flush().expect("flushes");
        }
    }
    for one in &blocks {
        let stat = store.stat(one.id()).expect("reads").expect("known");
        assert_eq!(stat.served.count, 10);
    }
}

fn chunks_show_only_with_their_block(store: &Subject) {
    let one = block(1, 100);
    let place = |id| Ref {
        id,
        key: Key::new([3; 32]),
        offset: 7,
        len: u32::MAX,
    };
    let (known, dangling): (ChunkHash, ChunkHash) = ([1; 32], [2; 32]);
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("fits");
    let entries = [
        (known, place(one.id())),
        (dangling, place(block(2, 2).id())),
    ];
    store.insert(&entries).expect("inserts");
    let lookup = || store.lookup(&[known, dangling, [9; 32]]).expect("reads");
    assert_eq!(lookup(), [Some(place(one.id())), None, None]);
    let absent = store.keep(&[one.id(), block(2, 2).id()]);
    assert_eq!(absent.expect("looks"), [block(2, 2).id()]);
    store.remove(one.id()).expect("removes");
    assert_eq!(lookup(), [None, None, None]);
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("fits");
    assert_eq!(
        lookup(),
        [Some(place(one.id())), None, None],
        "not swept yet"
    );
    store.remove(one.id()).expect("removes");
    store.maintain().expect("maintains");
    store
        .put(std::slice::from_ref(&one), Keep::Cached)
        .expect("fits");
    assert_eq!(lookup(), [None, None, None], "swept");
}

fn writers_and_readers_at_once(store: &Subject) {
    std::thread::scope(|scope| {
        for thread in 0..4u32 {
            scope.spawn(move || {
                let pin = store.begin_pin("p").expect("pins");
                for number in 0..20 {
                    // Neighbours put the same blocks.
                    let one = block(thread / 2 * 100 + number, 20_000);
                    store
                        .put(std::slice::from_ref(&one), Keep::Pinned(pin))
                        .expect("fits");
                    store.record(&[(one.id(), Event::Requested)]);
                    assert_eq!(store.get(one.id()).expect("reads"), Some(one));
                    if number % 5 == thread {
                        store.flush().expect("flushes");
                    }
                }
                store
                    .finish_pin(pin, &info(block(thread, 4).id(), "p"))
                    .expect("finishes");
            });
        }
    });
    assert_eq!(store.usage().blocks, 40);
    assert_eq!(store.usage().pinned_bytes, 800_000);
    for (id, _) in store.list(None, 99).expect("reads") {
        let stat = store.stat(id).expect("reads").expect("known");
        assert_eq!((stat.pins, stat.requested.count), (2, 2));
    }
    assert_eq!(store.pins().expect("reads").len(), 4);
}

fn keeps_records(store: &Subject) {
    let shelf = store.records();
    shelf.put(RecordTable::Values, b"k", b"v").expect("writes");
    assert_eq!(
        shelf.get(RecordTable::Values, b"k").expect("reads"),
        Some(b"v".to_vec())
    );
    store.set_quota(ByteSize(7_000_000));
    assert_eq!(shelf.quota_bytes(), 7_000_000);
}
