//! What goes when there is no more room, in every store.

use std::time::Duration;

use super::{QUOTA, Subject, block, info, lease_info};
use crate::size::{ByteSize, MIB};
use crate::store::*;

pub(super) fn cached_blocks_give_way(store: &Subject) {
    for number in 0..150 {
        store
            .put(&[block(number, 1 << 20)], Keep::Cached)
            .expect("older ones give way");
        assert!(store.usage().disk_bytes <= QUOTA, "{:?}", store.usage());
    }
    assert!(!store.has(block(0, 1 << 20).id()).expect("reads"));
    assert!(store.has(block(149, 1 << 20).id()).expect("reads"));
    // What is here is the newest.
    let here: Vec<_> = (0..150)
        .filter(|n| store.has(block(*n, 1 << 20).id()).expect("reads"))
        .collect();
    assert_eq!(here, (150 - here.len() as u32..150).collect::<Vec<_>>());
    assert!(here.len() >= 25, "{} blocks", here.len());
}

pub(super) fn a_quota_that_changes_holds_at_once(store: &Subject) {
    let pin = store.begin_pin("p").expect("pins");
    let kept = block(1000, 1 << 20);
    store
        .put(std::slice::from_ref(&kept), Keep::Pinned(pin))
        .expect("fits");
    for number in 0..30 {
        store
            .put(&[block(number, 1 << 20)], Keep::Cached)
            .expect("fits");
    }
    store.flush().expect("flushes");
    store.set_quota(ByteSize(QUOTA / 2));
    assert_eq!(store.usage().quota, QUOTA / 2);
    while store.maintain().expect("maintains").more {}
    let usage = store.usage();
    assert!(usage.disk_bytes <= QUOTA / 2, "{usage:?}");
    assert!(store.has(kept.id()).expect("reads"), "a pin keeps it");

    // Below what is kept nothing goes, and nothing comes.
    store.set_quota(ByteSize(MIB / 2));
    store.maintain().expect("what can't go is no error");
    assert!(store.has(kept.id()).expect("reads"), "a pin keeps it");
    let refused = store.put(&[block(2000, 1 << 20)], Keep::Cached);
    assert!(matches!(refused, Err(Error::Full { .. })), "{refused:?}");
    store.set_quota(ByteSize(QUOTA));
    store
        .put(&[block(2000, 1 << 20)], Keep::Cached)
        .expect("there is room again");
}

pub(super) fn pinned_blocks_do_not(store: &Subject) {
    let pin = store.begin_pin("p").expect("pins");
    let mut put = 0;
    let error = loop {
        match store.put(&[block(put, 1 << 20)], Keep::Pinned(pin)) {
            Ok(_) => put += 1,
            Err(error) => break error,
        }
    };
    let Error::Full {
        used,
        quota,
        needed,
    } = error
    else {
        panic!("{error:?}");
    };
    assert!(used <= QUOTA && quota == QUOTA && needed >= 1 << 20);
    assert!(put >= 40, "{put} blocks");
    store.flush().expect("flushes");
    assert!(store.usage().disk_bytes <= QUOTA);
    for number in 0..put {
        assert!(store.has(block(number, 1 << 20).id()).expect("reads"));
    }
    // Small things still go, and so does what is there already.
    store
        .put(&[block(0, 1 << 20)], Keep::Pinned(pin))
        .expect("it is there");
    store
        .finish_pin(pin, &info(block(0, 1 << 20).id(), "p"))
        .expect("finishes");
    // Unpinned, they give way.
    store.remove_pin(pin).expect("removes");
    store
        .put(&[block(1000, 1 << 20)], Keep::Cached)
        .expect("there is room");
    assert!(store.usage().disk_bytes <= QUOTA);
}

pub(super) fn leased_blocks_do_not_either(store: &Subject) {
    let kept = block(1, MIB as usize);
    let lease = store
        .begin_lease(&lease_info(kept.id(), 5))
        .expect("leases");
    store.add_lease_refs(lease, &[kept.id()]).expect("adds");
    store
        .put(std::slice::from_ref(&kept), Keep::Cached)
        .expect("fits");
    for number in 2..2 + 2 * (QUOTA / MIB) as u32 {
        let one = block(number, MIB as usize);
        store
            .put(std::slice::from_ref(&one), Keep::Cached)
            .expect("others give way");
    }
    assert_eq!(store.get(kept.id()).expect("reads"), Some(kept));
    assert_eq!(store.usage().leased_bytes, MIB);
}

fn put(store: &Subject, number: u32) -> Result<(), Error> {
    store
        .put(&[block(number, 1 << 20)], Keep::Cached)
        .map(|_| ())
}

fn has(store: &Subject, number: u32) -> bool {
    store.has(block(number, 1 << 20).id()).expect("reads")
}

fn ask_often(store: &Subject, number: u32) {
    let id = block(number, 1 << 20).id();
    store.record(&[(id, Event::Requested); 5]);
}

pub(super) fn cold_blocks_go_before_warm_ones(store: &Subject) {
    for number in 0..20 {
        put(store, number).expect("there is room");
    }
    // Some that are old, and one that was asked for once.
    for number in [0, 3, 4] {
        ask_often(store, number);
    }
    store.record(&[(block(1, 1 << 20).id(), Event::Requested)]);
    let coldest: Vec<_> = [1, 2, 5].map(|n| (block(n, 1 << 20).id(), 1 << 20)).into();
    assert_eq!(store.coldest(3).expect("reads"), coldest);
    for number in 20..300 {
        put(store, number).expect("cold ones give way");
        assert!(store.usage().disk_bytes <= QUOTA);
    }
    // Several times as much came as there is room for.
    assert!([0, 3, 4].iter().all(|n| has(store, *n)));
    assert!([1, 2, 5].iter().all(|n| !has(store, *n)));
    // Nobody asks for them any more: they go like others.
    store.clock.advance(Duration::from_secs(6 * 3600));
    for number in 300..450 {
        put(store, number).expect("others give way");
    }
    assert!([0, 3, 4].iter().all(|n| !has(store, *n)));
}

pub(super) fn warm_blocks_go_when_all_are_warm(store: &Subject) {
    for number in 0..200 {
        put(store, number).expect("others give way");
        ask_often(store, number);
        assert!(store.usage().disk_bytes <= QUOTA);
    }
    assert!(has(store, 199));
    assert!(store.coldest(999).expect("reads").is_empty());
}

pub(super) fn expendable_blocks_go_first(store: &Subject) {
    for number in 0..30 {
        put(store, number).expect("there is room");
    }
    let ids: Vec<_> = (0..30).map(|n| block(n, 1 << 20).id()).collect();
    let pin = store.begin_pin("p").expect("pins");
    store.add_refs(pin, &ids[10..11]).expect("adds");
    let marked = [&ids[10..16], &[block(999, 9).id()]].concat();
    assert_eq!(store.mark_expendable(&marked).expect("marks"), 5);
    assert_eq!(store.usage().expendable_bytes, 5 << 20);
    let coldest = store.coldest(12).expect("reads");
    let coldest: Vec<_> = coldest.into_iter().map(|(id, _)| id).collect();
    assert_eq!(coldest, [&ids[..10], &ids[16..18]].concat());
    // One is asked for, one is pinned.
    ask_often(store, 11);
    store.add_refs(pin, &ids[12..13]).expect("adds");
    let mut number = 30;
    while store.usage().evicted == 0 {
        put(store, number).expect("others give way");
        number += 1;
    }
    let went: Vec<_> = (0..30).filter(|n| !has(store, *n)).collect();
    let first = (13..16).filter(|n| went.contains(n)).count() as u64;
    assert!(first > 0, "{went:?}");
    // Others only after all of these.
    assert!(first == 3 || went.len() == first as usize, "{went:?}");
    assert!([10, 11, 12].iter().all(|n| has(store, *n)));
    let usage = store.usage();
    assert_eq!(usage.evicted, went.len() as u64);
    assert_eq!(usage.evicted_unsure, usage.evicted - first);
    if first == 3 {
        assert_eq!(usage.expendable_bytes, 0);
    }
}

pub(super) fn evictions_are_counted(store: &Subject) {
    for number in 0..100 {
        put(store, number).expect("others give way");
    }
    let gone = (0..100).filter(|n| !has(store, *n)).count() as u64;
    let usage = store.usage();
    assert_eq!((usage.evicted, usage.evicted_unsure), (gone, gone));
    assert!(gone > 0 && usage.evicts_at_bytes <= usage.quota);
    assert!(usage.disk_bytes > usage.evicts_at_bytes / 2);
    store.remove(block(99, 1 << 20).id()).expect("removes");
    assert_eq!(store.usage().evicted, gone, "that was no eviction");
}

/// Whatever is warm, marked, or let go in between.
pub(super) fn what_is_kept_is_never_evicted(store: &Subject) {
    let pin = store.begin_pin("p").expect("pins");
    let lease = store
        .begin_lease(&lease_info(block(1, 1 << 20).id(), u64::MAX))
        .expect("leases");
    let let_go = store.begin_pin("q").expect("pins");
    let mut state = 1u64;
    let mut kept = Vec::new();
    for number in 0..250 {
        state = state.wrapping_mul(6_364_136_223_846_793_005) + 1;
        let choice = state >> 33;
        put(store, number).expect("others give way");
        let id = block(number, 1 << 20).id();
        match choice % 16 {
            0 => {
                store.add_refs(pin, &[id]).expect("adds");
                kept.push(number);
            }
            1 => {
                store.add_lease_refs(lease, &[id]).expect("adds");
                kept.push(number);
            }
            2 if number < 60 => drop(store.add_refs(let_go, &[id]).expect("adds")),
            3 | 4 => ask_often(store, number),
            5 | 6 => drop(store.mark_expendable(&[id]).expect("marks")),
            _ => {}
        }
        if kept.len() > 12 {
            break;
        }
        if number == 60 {
            store.remove_pin(let_go).expect("removes");
        }
        store.clock.advance(Duration::from_secs(choice % 1000));
        if number % 16 == 0 {
            assert!(kept.iter().all(|n| has(store, *n)), "after {number}");
        }
        assert!(store.usage().disk_bytes <= QUOTA);
        if number == 59 {
            // Everything at once: also what is kept can't be marked.
            let all: Vec<_> = (0..60).map(|n| block(n, 1 << 20).id()).collect();
            store.mark_expendable(&all).expect("marks");
        }
    }
    assert!(kept.len() > 5, "{} blocks", kept.len());
    assert!(kept.iter().all(|n| has(store, *n)));
}
