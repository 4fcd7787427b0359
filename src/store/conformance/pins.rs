//! What every store must do about pins.

use super::*;

pub(super) fn pins_keep_blocks(store: &Subject) {
    let (a, b) = (block(1, 100), block(2, 200));
    store
        .put(std::slice::from_ref(&a), Keep::Cached)
        .expect("fits");
    let first = store.begin_pin("first").expect("pins");
    let second = store.begin_pin("second").expect("pins");
    store
        .put(&[a.clone(), b.clone(), b.clone()], Keep::Pinned(first))
        .expect("fits");
    let absent = store.add_refs(second, &[b.id(), block(3, 3).id(), b.id()]);
    assert_eq!(absent.expect("adds"), [block(3, 3).id()]);
    let pins = |id| store.stat(id).expect("reads").expect("known").pins;
    assert_eq!((pins(a.id()), pins(b.id())), (1, 2));
    assert_eq!(store.usage().pinned_bytes, 300);
    assert_eq!(store.usage().cached_bytes, 0);
    assert_eq!(store.usage().pins, 2);
    let mut expected = vec![a.id(), b.id()];
    expected.sort();
    assert_eq!(store.pin_blocks(first, None, 9).expect("reads"), expected);
    assert_eq!(
        store
            .pin_blocks(first, Some(expected[0]), 9)
            .expect("reads"),
        &expected[1..]
    );
    assert_eq!(
        store.pin_blocks(first, None, 1).expect("reads"),
        &expected[..1]
    );
    assert_eq!(store.pin_blocks(second, None, 9).expect("reads"), [b.id()]);

    assert_eq!(store.remove_pin(first).expect("removes"), 1);
    assert!(store.pin_blocks(first, None, 9).expect("reads").is_empty());
    assert_eq!((pins(a.id()), pins(b.id())), (0, 1));
    assert_eq!(
        (store.usage().pinned_bytes, store.usage().cached_bytes),
        (200, 100)
    );
    assert_eq!(store.remove_pin(second).expect("removes"), 1);
    assert_eq!(
        (store.usage().pinned_bytes, store.usage().cached_bytes),
        (0, 300)
    );
    assert_eq!(store.usage().pins, 0);
    assert!(
        store.has(b.id()).expect("reads"),
        "what was pinned stays, cached"
    );
}

pub(super) fn removing_a_large_pin_in_batches(store: &Subject) {
    let pin = store.begin_pin("large").expect("pins");
    let blocks: Vec<_> = (0..2500).map(|n| block(n, 40)).collect();
    store.put(&blocks, Keep::Pinned(pin)).expect("fits");
    assert_eq!(
        store.pin_blocks(pin, None, 9999).expect("reads").len(),
        2500
    );
    assert_eq!(store.remove_pin(pin).expect("removes"), 2500);
    assert_eq!(store.usage().cached_bytes, 100_000);
}

pub(super) fn pins_that_do_not_exist_are_refused(store: &Subject) {
    let gone = store.begin_pin("gone").expect("pins");
    store.remove_pin(gone).expect("removes");
    let one = block(1, 100);
    for pin in [gone, PinId(999)] {
        let refused = |result: Result<(), Error>| {
            assert!(
                matches!(result, Err(Error::NoSuchPin(p)) if p == pin),
                "{result:?}"
            );
        };
        refused(
            store
                .put(std::slice::from_ref(&one), Keep::Pinned(pin))
                .map(drop),
        );
        refused(store.add_refs(pin, &[one.id()]).map(drop));
        refused(store.finish_pin(pin, &info(one.id(), "x")));
        refused(store.remove_pin(pin).map(drop));
    }
    assert!(!store.has(one.id()).expect("reads"), "nothing was put");
}

pub(super) fn finished_pins_read_back(store: &Subject) {
    let one = block(1, 100);
    let with_link = PinInfo {
        link: Some(crate::block::Link {
            id: one.id(),
            key: Key::new([7; 32]),
        }),
        ..info(one.id(), "with a link")
    };
    let mut long = info(one.id(), &"ä".repeat(MAX_PIN_NAME_BYTES));
    let first = store.begin_pin("working name").expect("pins");
    let second = store
        .begin_pin(&"ä".repeat(MAX_PIN_NAME_BYTES))
        .expect("pins");
    assert!(store.pins().expect("reads").is_empty(), "none is finished");
    store.finish_pin(second, &long).expect("finishes");
    store.finish_pin(first, &with_link).expect("finishes");
    long.name = "ä".repeat(MAX_PIN_NAME_BYTES / 2);
    let expected = [(first, with_link), (second, long)];
    assert_eq!(store.pins().expect("reads"), expected);
    let renamed = info(one.id(), "another name");
    store
        .finish_pin(first, &renamed)
        .expect("finishing again replaces");
    assert_eq!(store.pins().expect("reads")[0].1, renamed);
}

pub(super) fn a_finished_pin_takes_the_place_of_others(store: &Subject) {
    let (a, b) = (block(1, 100), block(2, 200));
    let finished = |blocks: &[Block], root: BlockId, name: &str| {
        let pin = store.begin_pin(name).expect("pins");
        store.put(blocks, Keep::Pinned(pin)).expect("fits");
        store.finish_pin(pin, &info(root, name)).expect("finishes");
        pin
    };
    let both = [a.clone(), b.clone()];
    finished(&both, a.id(), "mine");
    finished(&both[..1], a.id(), "mine, again");
    let other = finished(&both[1..], b.id(), "another's");
    let open = store.begin_pin("mine, open").expect("pins");
    let last = store.begin_pin("mine, last").expect("pins");
    store.put(&both[..1], Keep::Pinned(last)).expect("fits");
    let of_a = |known: &PinInfo| known.root == a.id();
    store
        .finish_pin_in_place_of(last, &info(a.id(), "last"), &mut { of_a })
        .expect("finishes");
    let pins = || -> Vec<PinId> {
        let pins = store.pins().expect("reads").into_iter();
        pins.map(|(pin, _)| pin).collect()
    };
    assert_eq!(pins(), [other, last]);
    assert_eq!(store.usage().pins, 3, "the open one stays");
    assert_eq!(store.usage().pinned_bytes, 300);

    // One whose place was taken meanwhile takes nobody's; nor does one that is open, or was never
    // there.
    store.remove_pin(last).expect("removes");
    let stays = finished(&both[..1], a.id(), "stays");
    for beside in [last, open, PinId(999)] {
        let removed = store.remove_pins(Some(beside), &mut { of_a });
        assert_eq!(removed.expect("looks"), RemovedPins::default());
    }
    let refused = store.finish_pin_in_place_of(last, &info(a.id(), "x"), &mut { of_a });
    assert!(matches!(refused, Err(Error::NoSuchPin(_))), "{refused:?}");
    assert_eq!(pins(), [other, stays]);
    let removed = store.remove_pins(None, &mut |_| true).expect("removes");
    assert_eq!((removed.pins, removed.freed_blocks), (2, 2));
    assert_eq!((pins(), store.usage().pins), (Vec::new(), 1));
}

/// Each round is a race: what stands at its end must be right whoever won.
pub(super) fn the_same_content_is_pinned_by_several_at_once(store: &Subject) {
    const THREADS: usize = 4;
    for round in 0..20 {
        let one = block(round, 100);
        let start = std::sync::Barrier::new(THREADS + 1);
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    start.wait();
                    let pin = store.begin_pin("p").expect("pins");
                    store
                        .put(std::slice::from_ref(&one), Keep::Pinned(pin))
                        .expect("fits");
                    let is_same = &mut |known: &PinInfo| known.root == one.id();
                    store
                        .finish_pin_in_place_of(pin, &info(one.id(), "p"), is_same)
                        .expect("finishes");
                    let stat = store.stat(one.id()).expect("reads").expect("known");
                    assert!(stat.pins > 0, "acknowledged and not pinned");
                });
            }
            scope.spawn(|| {
                start.wait();
                // As in the background of a node: it goes on removing what others are removing.
                store.maintain().expect("maintains");
            });
        });
        let pins = store.pins().expect("reads").into_iter();
        let of_round = pins.filter(|(_, known)| known.root == one.id());
        assert_eq!(of_round.count(), 1, "round {round}");
    }
    assert_eq!(store.usage().pins, 20);
    assert_eq!(store.usage().pinned_bytes, 2000);
}

pub(super) fn what_an_abandoned_pin_leaves_is_known(store: &Subject) {
    let blocks: Vec<_> = (0..6).map(|n| block(n, 100 + n as usize)).collect();
    let id = |n: usize| blocks[n].id();
    let kept = store.begin_pin("kept").expect("pins");
    store.put(&blocks[..1], Keep::Pinned(kept)).expect("fits");
    let cut_off = store.begin_pin("cut off").expect("pins");
    store
        .put(&blocks[..5], Keep::Pinned(cut_off))
        .expect("fits");
    store.put(&blocks[5..], Keep::Cached).expect("fits");
    let leftovers = |before: u64, after| -> Vec<BlockId> {
        let found = store.leftovers(Timestamp(before), after, 9).expect("reads");
        found.into_iter().map(|(id, _)| id).collect()
    };
    assert!(leftovers(u64::MAX, None).is_empty());
    // The clock of these tests stands at 1000.
    assert_eq!(store.abandon_pin(cut_off).expect("gives up"), 4);
    assert!(leftovers(999, None).is_empty());
    let mut expected: Vec<_> = (1..5).map(id).collect();
    expected.sort();
    assert_eq!(leftovers(1000, None), expected);
    assert_eq!(leftovers(1000, Some(expected[1])), expected[2..]);
    let found = store.leftovers(Timestamp(1000), None, 1).expect("reads");
    let size = blocks.iter().find(|block| block.id() == expected[0]);
    let size = size.expect("one of them").bytes().len() as u32;
    assert_eq!(found, [(expected[0], size)]);
    // A block that something keeps again, or that is gone, is left over no more: also when it is
    // let go, or comes, after that.
    store.add_refs(kept, &[id(1)]).expect("adds");
    store.remove_pin(kept).expect("removes");
    store.remove(id(2)).expect("removes");
    store.put(&blocks[2..3], Keep::Cached).expect("fits");
    let lease = store.begin_lease(&lease_info(id(3), 5)).expect("leases");
    store.add_lease_refs(lease, &[id(3)]).expect("adds");
    assert_eq!(leftovers(u64::MAX, None), [id(4)]);
    // A finished pin leaves nothing.
    let whole = store.begin_pin("whole").expect("pins");
    store.put(&blocks[5..], Keep::Pinned(whole)).expect("fits");
    store
        .finish_pin(whole, &info(id(5), "whole"))
        .expect("finishes");
    store.abandon_pin(whole).expect("removes");
    assert_eq!(leftovers(u64::MAX, None), [id(4)]);
    let gone = store.abandon_pin(whole);
    assert!(matches!(gone, Err(Error::NoSuchPin(_))), "{gone:?}");
}
