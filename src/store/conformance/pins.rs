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
