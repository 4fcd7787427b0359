//! Leases, in every store.

use bytes::Bytes;

use super::{Subject, block, lease_info};
use crate::block::Block;
use crate::store::*;
use crate::time::Timestamp;

pub(super) fn leases_keep_blocks_until_they_end(store: &Subject) {
    let (a, b) = (block(1, 100), block(2, 200));
    store
        .put(&[a.clone(), b.clone()], Keep::Cached)
        .expect("fits");
    let lease = store.begin_lease(&lease_info(a.id(), 5)).expect("leases");
    let other = store.begin_lease(&lease_info(b.id(), 5)).expect("leases");
    let ids = [a.id(), b.id(), b.id()];
    assert!(store.add_lease_refs(lease, &ids).expect("adds").is_empty());
    store.add_lease_refs(other, &[b.id()]).expect("adds");
    let stat = store.stat(b.id()).expect("reads").expect("known");
    assert_eq!(
        (stat.class, stat.pins, stat.leases),
        (Some(Class::Leased), 0, 2)
    );
    let sums = |store: &Subject| {
        let usage = store.usage();
        (usage.pinned_bytes, usage.leased_bytes, usage.cached_bytes)
    };
    assert_eq!(sums(store), (0, 300, 0));
    // Mine and somebody else's: it counts as mine.
    let pin = store.begin_pin("p").expect("pins");
    store.add_refs(pin, &[b.id()]).expect("adds");
    assert_eq!(sums(store), (200, 100, 0));
    let held = store.remove(b.id());
    let is_held = matches!(
        held,
        Err(Error::Held {
            pins: 1,
            leases: 2,
            ..
        })
    );
    assert!(is_held, "{held:?}");
    assert_eq!(store.remove_pin(pin).expect("removes"), 0);
    assert_eq!(sums(store), (0, 300, 0));
    assert_eq!(store.remove_lease(lease).expect("removes"), 1);
    assert_eq!(sums(store), (0, 200, 100));
    assert!(
        store
            .lease_blocks(lease, None, 9)
            .expect("reads")
            .is_empty()
    );
    assert_eq!(store.lease_blocks(other, None, 9).expect("reads"), [b.id()]);
    assert_eq!(store.remove_lease(other).expect("removes"), 1);
    assert_eq!(sums(store), (0, 0, 300));
}

pub(super) fn leases_are_removed_together(store: &Subject) {
    let blocks: Vec<_> = (0..4).map(|n| block(n, 100)).collect();
    store.put(&blocks, Keep::Cached).expect("fits");
    let leases: Vec<_> = blocks
        .iter()
        .map(|block| {
            let lease = store.begin_lease(&lease_info(block.id(), 5));
            let lease = lease.expect("leases");
            let ids = [block.id(), blocks[3].id()];
            store.add_lease_refs(lease, &ids).expect("adds");
            lease
        })
        .collect();
    store.remove_lease(leases[1]).expect("removes");
    // One that is gone already, and one that comes twice; what another lease keeps stays leased.
    let together = [leases[0], leases[1], leases[2], leases[0]];
    assert_eq!(store.remove_leases(&together).expect("removes"), 2);
    let left = store.leases().expect("reads");
    assert_eq!(
        left.iter().map(|(l, _)| *l).collect::<Vec<_>>(),
        leases[3..]
    );
    assert_eq!(store.usage().leased_bytes, 100);
    assert_eq!(store.remove_leases(&[]).expect("does nothing"), 0);
}

pub(super) fn leased_blocks_may_be_yet_to_come(store: &Subject) {
    let blocks: Vec<_> = (0..1500).map(|n| block(n, 40)).collect();
    let mut ids: Vec<_> = blocks.iter().map(Block::id).collect();
    ids.sort();
    store.put(&blocks[..5], Keep::Cached).expect("fits");
    let lease = store.begin_lease(&lease_info(ids[0], 5)).expect("leases");
    let absent = store.add_lease_refs(lease, &ids).expect("adds");
    assert_eq!(absent.len(), 1495);
    assert_eq!(store.lost(None, 9999).expect("reads").len(), 1495);
    assert_eq!(store.lease_blocks(lease, None, 9999).expect("reads"), ids);
    let page = store.lease_blocks(lease, Some(ids[3]), 2);
    assert_eq!(page.expect("reads"), ids[4..6]);
    assert_eq!(store.usage().leased_bytes, 200);
    // Put by who knows nothing of the lease, they are leased.
    store.put(&blocks[..1000], Keep::Cached).expect("fits");
    assert_eq!(store.usage().leased_bytes, 40_000);
    assert_eq!(store.usage().cached_bytes, 0);
    store.discard(ids[0]).expect("drops");
    assert!(store.lost(None, 9999).expect("reads").contains(&ids[0]));
    let here = store.usage().blocks;
    assert_eq!(store.remove_lease(lease).expect("removes"), here);
    assert!(store.lost(None, 9).expect("reads").is_empty());
    assert_eq!(store.usage().leased_bytes, 0);
    let never_here = block(1400, 40).id();
    assert_eq!(store.stat(never_here).expect("reads"), None);
}

pub(super) fn leases_read_back(store: &Subject) {
    let (a, b) = (block(1, 100), block(2, 200));
    let first = lease_info(a.id(), 5);
    let mut second = lease_info(b.id(), 7);
    let one = store.begin_lease(&first).expect("leases");
    let two = store.begin_lease(&second).expect("leases");
    assert_eq!(
        store.leases().expect("reads"),
        [(one, first.clone()), (two, second.clone())]
    );
    second.complete = true;
    second.until = Timestamp(9);
    second.terms = Bytes::from(vec![1; MAX_TERMS_BYTES]);
    store.update_lease(two, &second).expect("updates");
    assert_eq!(store.leases().expect("reads")[1], (two, second.clone()));
    second.terms = Bytes::from(vec![1; MAX_TERMS_BYTES + 1]);
    let too_large = |result: Result<(), Error>| {
        assert!(matches!(result, Err(Error::TermsTooLarge(_))), "{result:?}");
    };
    too_large(store.update_lease(two, &second));
    too_large(store.begin_lease(&second).map(drop));
}

pub(super) fn leases_that_do_not_exist_are_refused(store: &Subject) {
    let one = block(1, 100);
    let info = lease_info(one.id(), 5);
    let gone = store.begin_lease(&info).expect("leases");
    store.remove_lease(gone).expect("removes");
    for lease in [gone, LeaseId(999)] {
        let refused = |result: Result<(), Error>| {
            assert!(
                matches!(result, Err(Error::NoSuchLease(l)) if l == lease),
                "{result:?}"
            );
        };
        refused(store.add_lease_refs(lease, &[one.id()]).map(drop));
        refused(store.update_lease(lease, &info));
        refused(store.remove_lease(lease).map(drop));
    }
    assert!(store.lost(None, 9).expect("reads").is_empty());
}
