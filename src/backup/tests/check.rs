use super::frail::Frail;
use super::*;
use crate::backup::check::{CheckOptions, CheckReport, Part, Wrong, check};
use crate::block::{Block, ChunkHash, ChunkIndex, GetError, IndexError, Ref};

pub(super) fn options(read_percent: f64) -> CheckOptions {
    CheckOptions {
        read_percent,
        seed: 0,
        remote: false,
        snapshot: None,
        choice: Default::default(),
        machine: None,
        patience: PATIENCE,
    }
}

pub(super) async fn check_with(node: &Node, options: &CheckOptions) -> CheckReport {
    let checked = check(&node.archive, options, &Silent, &CancellationToken::new()).await;
    checked.expect("it checks")
}

/// Flips a bit of a block, as a disk does.
pub(super) fn spoil(node: &Node, id: BlockId) {
    let mut bytes = bytes_of(node, id);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    replace(node, id, bytes);
}

/// The bytes of a block that is here.
pub(super) fn bytes_of(node: &Node, id: BlockId) -> Vec<u8> {
    let block = node.store().get(id).expect("reads").expect("is here");
    block.bytes().to_vec()
}

/// Puts other bytes in place of a block's.
pub(super) fn replace(node: &Node, id: BlockId, bytes: Vec<u8>) {
    let store = node.store();
    store.discard(id).expect("drops");
    let spoilt = Block::from_checked(id, bytes.into());
    store.put(&[spoilt], Keep::Cached).expect("fits");
}

/// A node that has all or some of the blocks of `node`, and is connected to it.
pub(super) async fn peer_with(node: &Node, has: impl Fn(&BlockId) -> bool) -> Depot {
    let peer = depot(memory()).await;
    for (id, _) in node.store().list(None, usize::MAX).expect("reads") {
        if has(&id) {
            let block = node.store().get(id).expect("reads").expect("is here");
            peer.store().put(&[block], Keep::Cached).expect("fits");
        }
    }
    let address = peer.net().listen_addresses()[0].clone();
    let connected = node.depot().net().peers().connect(address).await;
    connected.expect("it connects");
    peer
}

#[tokio::test]
async fn what_is_well_is_looked_at_once_and_left_as_it_is() {
    let node = Node::new().await;
    let one = node.back_up(files(1, 30, 2)).await;
    let mut more = files(1, 30, 2);
    more.extend(
        files(2, 9, 1)
            .into_iter()
            .map(|(p, c)| (format!("x/{p}"), c)),
    );
    let two = node.back_up(more).await;
    let all: BTreeSet<_> = one.blocks.union(&two.blocks).copied().collect();
    let usage = node.store().usage();
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!(
        (report.snapshots, report.blocks, report.read_blocks),
        (2, all.len() as u64 + 1, all.len() as u64),
        "and the log"
    );
    let none = check_with(&node, &options(0.0)).await;
    // Snapshots and roots; these trees are small enough to be inside of them.
    assert_eq!((none.blocks, none.read_blocks), (report.blocks, 4));
    let half = check_with(&node, &options(50.0)).await;
    assert!((4..report.read_blocks).contains(&half.read_blocks));
    let only = CheckOptions {
        snapshot: Some(one.id().to_hex()),
        ..options(100.0)
    };
    let only = check_with(&node, &only).await;
    assert_eq!(
        (only.snapshots, only.blocks),
        (1, one.blocks.len() as u64 + 1)
    );
    for report in [report, none, half, only] {
        assert_eq!((report.errors_total, report.mended_total), (0, 0));
        assert!(report.errors.is_empty() && report.mended.is_empty());
    }
    assert_eq!(node.store().usage(), usage);
}

#[tokio::test]
async fn parts_of_the_data_together_are_all_of_it() {
    let node = Node::new().await;
    let made = node.back_up(files(1, 30, 6)).await;
    let report = check_with(&node, &options(100.0)).await;
    let data = report.read_blocks - 2;
    let mut read = 0;
    for seed in 0..4 {
        let part = CheckOptions {
            seed,
            ..options(25.0)
        };
        read += check_with(&node, &part).await.read_blocks - 2;
    }
    assert_eq!(read, data);
    // Each damaged one is found by one of the parts.
    let big = node.entry(&made, "big3").await;
    let Content::File(file) = big.content else {
        panic!("a file")
    };
    let crate::bundle::tree::Extent::Data { block, .. } = &file.extents[0] else {
        panic!("data")
    };
    let mut found = 0;
    // Once: a second time would make it whole again.
    spoil(&node, block.id);
    for seed in 0..4 {
        let part = CheckOptions {
            seed,
            ..options(25.0)
        };
        let report = check_with(&node, &part).await;
        let corrupt = report.errors.iter().filter(|d| d.wrong == Wrong::Corrupt);
        found += corrupt.count();
        if report.errors_total > 0 {
            break;
        }
    }
    assert_eq!(found, 1);
}

#[tokio::test]
async fn snapshots_that_are_elsewhere_are_not_looked_at_unless_named() {
    let node = Node::new().await;
    let made = node.back_up(files(1, 5, 0)).await;
    node.store().remove_pin(made.pin).expect("removes");
    let elsewhere = check_with(&node, &options(100.0)).await;
    assert_eq!((elsewhere.snapshots, elsewhere.elsewhere), (0, 1));
    assert_eq!(elsewhere.errors_total, 0);
    let named = CheckOptions {
        snapshot: Some("latest".to_owned()),
        ..options(100.0)
    };
    let named = check_with(&node, &named).await;
    assert_eq!((named.snapshots, named.errors_total), (1, 0));
    // On the machine that made it, that is damage, and it is pinned again.
    let own = CheckOptions {
        machine: Some(node.machine()),
        ..options(100.0)
    };
    let own = check_with(&node, &own).await;
    assert_eq!(
        (own.snapshots, own.errors_total, own.mended_total),
        (1, 0, 1)
    );
    let damage = &own.mended[0];
    assert_eq!(
        (damage.wrong, damage.part, damage.block),
        (Wrong::Unpinned, Part::Snapshot, made.id())
    );
    let pins = node.store().pins().expect("reads");
    let pin = pins.iter().find(|(_, info)| info.root == made.id());
    let (pin, _) = pin.expect("it is pinned again");
    let kept = node.store().pin_blocks(*pin, None, 9999).expect("reads");
    assert!(made.blocks.iter().all(|id| kept.contains(id)));
    let again = CheckOptions {
        machine: Some(node.machine()),
        ..options(100.0)
    };
    let again = check_with(&node, &again).await;
    assert_eq!((again.errors_total, again.mended_total), (0, 0));
    let wrong = CheckOptions {
        snapshot: Some("ffff".to_owned()),
        ..options(0.0)
    };
    let cancel = CancellationToken::new();
    let none = check(&node.archive, &wrong, &Silent, &cancel).await;
    assert!(matches!(none, Err(Error::NoSuchSnapshot { .. })));
    cancel.cancel();
    let stopped = check(&node.archive, &wrong, &Silent, &cancel).await;
    assert!(matches!(
        stopped,
        Err(Error::Bundle(crate::bundle::Error::Cancelled))
    ));
    let nobody = Node::new().await;
    let cancel = CancellationToken::new();
    let none = check(&nobody.archive, &options(0.0), &Silent, &cancel).await;
    assert!(matches!(none, Err(Error::NoHead { asked: 0 })));
}

#[tokio::test]
async fn peers_say_what_they_have() {
    let node = Node::new().await;
    let made = node.back_up(files(1, 30, 3)).await;
    let all = peer_with(&node, |_| true).await;
    let lost: Vec<_> = made.blocks.iter().copied().take(2).collect();
    let some = peer_with(&node, |id| !lost.contains(id)).await;
    let remote = CheckOptions {
        remote: true,
        ..options(0.0)
    };
    let report = check_with(&node, &remote).await;
    let holders: Vec<_> = report
        .holders
        .iter()
        .map(|holder| (holder.peer, holder.blocks, holder.asked))
        .collect();
    assert_eq!(
        holders,
        [
            (all.net().peer_id(), report.blocks, report.blocks),
            (some.net().peer_id(), report.blocks - 2, report.blocks)
        ]
    );
}

/// An index that says that everything lies further on in its block than it does.
struct Liar(Arc<dyn ChunkIndex>);

impl ChunkIndex for Liar {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        let mut found = self.0.lookup(hashes)?;
        for place in found.iter_mut().flatten() {
            place.offset += 100_000;
        }
        Ok(found)
    }

    fn insert(&self, _: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        Ok(())
    }
}

#[tokio::test]
async fn files_that_need_more_than_a_block_has_are_named() {
    let node = Node::new().await;
    node.back_up(files(1, 10, 0)).await;
    let index = |index| -> Arc<dyn ChunkIndex> { Arc::new(Liar(index)) };
    let (bad, logged) = node.put_with(files(1, 10, 0), index).await;
    node.change(move |log| log.add(logged)).await;
    for percent in [100.0, 0.0] {
        let report = check_with(&node, &options(percent)).await;
        let named: Vec<_> = report.errors.iter().map(|d| (d.part, d.wrong)).collect();
        let expected = [(Part::Data, Wrong::Malformed)];
        match percent {
            100.0 => assert_eq!(named, expected, "once a block"),
            _ => assert_eq!(named, [], "only who reads can tell"),
        }
    }
    assert!(node.read(&bad, Duration::ZERO).await.is_err());
}

/// A disk that fails for a while: what it does not give is told, and is neither damaged nor
/// dropped.
#[tokio::test]
async fn what_the_disk_does_not_give_now_is_told_and_stays() {
    let store = Frail::new();
    let node = Node::on(store.clone()).await;
    let made = node.back_up(files(1, 9, 2)).await;
    let Content::File(file) = node.entry(&made, "big1").await.content else {
        panic!("a file")
    };
    let crate::bundle::tree::Extent::Data { block, .. } = &file.extents[0] else {
        panic!("data")
    };
    let id = block.id;
    store.set_away([id]);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!((report.errors_total, report.mended_total), (0, 0));
    assert_eq!(report.unreadable_total, 1);
    let told = &report.unreadable[0];
    assert_eq!((told.wrong, told.block), (Wrong::Unreadable, id));
    let reason = told.reason();
    assert!(reason.contains("not readable now"), "{reason}");
    assert!(reason.contains("Input/output error"), "{reason}");
    // Reading says the same.
    let moment = Duration::from_millis(1);
    let read = node.depot().session(moment, Keep::Cached).get(id).await;
    let is_told = matches!(&read, Err(GetError::Store { id: named, .. }) if *named == id);
    assert!(is_told, "{read:?}");
    assert!(node.has(id));
    // A peer that has it gives it meanwhile.
    store.set_away([]);
    let peer = peer_with(&node, |_| true).await;
    store.set_away([id]);
    let session = node.depot().session(PATIENCE, Keep::Cached);
    let block = session.get(id).await.expect("the peer has it");
    assert_eq!(block.id(), id);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!((report.unreadable_total, report.mended_total), (1, 0));
    store.set_away([]);
    let report = check_with(&node, &options(100.0)).await;
    assert_eq!((report.errors_total, report.unreadable_total), (0, 0));
    node.assert_reads_back(&made).await;
    drop(peer);
}
