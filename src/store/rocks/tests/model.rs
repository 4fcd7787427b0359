//! Random operations on the store on disk, closed and opened again now and then, against sets and maps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use tempfile::TempDir;

use super::open;
use crate::block::{Block, ChunkIndex, Ref};
use crate::crypto::key::Key;
use crate::id::BlockId;
use crate::store::conformance::{block, info};
use crate::store::{Class, Error, Event, Keep, PinId, RocksStore, Store};

const BLOCKS: u32 = 12;

#[derive(Debug, Clone)]
enum Op {
    Put(Vec<u32>),
    PutPinned(usize, Vec<u32>),
    BeginPin,
    AddRefs(usize, Vec<u32>),
    FinishPin(usize),
    RemovePin(usize),
    Remove(u32),
    Discard(u32),
    Record(u32),
    InsertChunk(u32),
    Flush,
    Maintain,
    Reopen,
}

fn any_op() -> impl Strategy<Value = Op> {
    let numbers = || proptest::collection::vec(0..BLOCKS, 1..5);
    prop_oneof![
        4 => numbers().prop_map(Op::Put),
        4 => (any::<usize>(), numbers()).prop_map(|(p, n)| Op::PutPinned(p, n)),
        2 => Just(Op::BeginPin),
        2 => (any::<usize>(), numbers()).prop_map(|(p, n)| Op::AddRefs(p, n)),
        2 => any::<usize>().prop_map(Op::FinishPin),
        1 => any::<usize>().prop_map(Op::RemovePin),
        3 => (0..BLOCKS).prop_map(Op::Remove),
        2 => (0..BLOCKS).prop_map(Op::Discard),
        2 => (0..BLOCKS).prop_map(Op::Record),
        2 => (0..BLOCKS).prop_map(Op::InsertChunk),
        1 => Just(Op::Flush),
        1 => Just(Op::Maintain),
        1 => Just(Op::Reopen),
    ]
}

/// Sizes on both sides of what goes into blob files.
fn numbered(number: u32) -> Block {
    block(number, 100 + number as usize * 1000)
}

#[derive(Debug, Default)]
struct Model {
    here: BTreeSet<u32>,
    /// Open pins are `false`.
    pins: BTreeMap<PinId, (bool, BTreeSet<u32>)>,
    purged: BTreeMap<u32, u64>,
    requested: BTreeMap<u32, u64>,
    /// Chunks that must be found while their block is here, and those that may.
    chunks: BTreeMap<u32, bool>,
}

impl Model {
    fn pin(&self, choice: usize) -> Option<PinId> {
        let count = self.pins.len();
        (count > 0).then(|| *self.pins.keys().nth(choice % count).expect("in range"))
    }

    fn pins_of(&self, number: u32) -> u64 {
        let refers = |(_, blocks): &&(bool, BTreeSet<u32>)| blocks.contains(&number);
        self.pins.values().filter(refers).count() as u64
    }

    fn drop_block(&mut self, number: u32) {
        if self.here.remove(&number) {
            *self.purged.entry(number).or_default() += 1;
            // Its chunk may be swept from now on.
            self.chunks.entry(number).and_modify(|sure| *sure = false);
        }
    }
}

struct Machine {
    store: Option<RocksStore>,
    dir: TempDir,
    model: Model,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Self {
            store: Some(open(dir.path())),
            dir,
            model: Model::default(),
        }
    }

    fn apply(&mut self, op: Op) {
        let store = self.store.as_ref().expect("it is open");
        let model = &mut self.model;
        match op {
            Op::Put(numbers) => {
                let blocks: Vec<_> = numbers.iter().map(|n| numbered(*n)).collect();
                let new: BTreeSet<_> = numbers
                    .into_iter()
                    .filter(|n| !model.here.contains(n))
                    .collect();
                let stats = store.put(&blocks, Keep::Cached).expect("fits");
                assert_eq!(stats.new_blocks, new.len() as u64);
                model.here.extend(new);
            }
            Op::PutPinned(choice, numbers) => {
                let Some(pin) = model.pin(choice) else { return };
                let blocks: Vec<_> = numbers.iter().map(|n| numbered(*n)).collect();
                store.put(&blocks, Keep::Pinned(pin)).expect("fits");
                model.here.extend(&numbers);
                model
                    .pins
                    .get_mut(&pin)
                    .expect("it exists")
                    .1
                    .extend(numbers);
            }
            Op::BeginPin => {
                let pin = store.begin_pin("pin").expect("pins");
                model.pins.insert(pin, Default::default());
            }
            Op::AddRefs(choice, numbers) => {
                let Some(pin) = model.pin(choice) else { return };
                let ids: Vec<_> = numbers.iter().map(|n| numbered(*n).id()).collect();
                let absent = store.add_refs(pin, &ids).expect("adds");
                let (here, gone): (Vec<u32>, Vec<u32>) =
                    numbers.iter().partition(|n| model.here.contains(n));
                let gone: Vec<_> = gone.into_iter().map(|n| numbered(n).id()).collect();
                assert_eq!(absent, gone);
                model.pins.get_mut(&pin).expect("it exists").1.extend(here);
            }
            Op::FinishPin(choice) => {
                let Some(pin) = model.pin(choice) else { return };
                store
                    .finish_pin(pin, &info(numbered(0).id(), "x"))
                    .expect("finishes");
                model.pins.get_mut(&pin).expect("it exists").0 = true;
            }
            Op::RemovePin(choice) => {
                let Some(pin) = model.pin(choice) else { return };
                let (_, blocks) = model.pins.remove(&pin).expect("it exists");
                let freed = blocks
                    .iter()
                    .filter(|n| model.here.contains(n) && model.pins_of(**n) == 0)
                    .count();
                assert_eq!(store.remove_pin(pin).expect("removes"), freed as u64);
            }
            Op::Remove(number) => {
                let removed = store.remove(numbered(number).id());
                let is_here = model.here.contains(&number);
                if is_here && model.pins_of(number) > 0 {
                    assert!(matches!(removed, Err(Error::Held { .. })), "{removed:?}");
                } else {
                    assert_eq!(removed.expect("removes"), is_here);
                    model.drop_block(number);
                }
            }
            Op::Discard(number) => {
                let dropped = store.discard(numbered(number).id()).expect("drops");
                assert_eq!(dropped, model.here.contains(&number));
                model.drop_block(number);
            }
            Op::Record(number) => {
                store.record(&[(numbered(number).id(), Event::Requested)]);
                *model.requested.entry(number).or_default() += 1;
            }
            Op::InsertChunk(number) => {
                let place = Ref {
                    id: numbered(number).id(),
                    key: Key::new([number as u8; 32]),
                    offset: number,
                    len: 1,
                };
                store
                    .insert(&[([number as u8; 32], place)])
                    .expect("inserts");
                model.chunks.insert(number, model.here.contains(&number));
            }
            Op::Flush => store.flush().expect("flushes"),
            Op::Maintain => {
                store.maintain().expect("maintains");
            }
            Op::Reopen => {
                self.store
                    .take()
                    .expect("it is open")
                    .close()
                    .expect("closes");
                self.store = Some(open(self.dir.path()));
                model.pins.retain(|_, (finished, _)| *finished);
            }
        }
    }

    fn compare(&self) {
        let store = self.store.as_ref().expect("it is open");
        let model = &self.model;
        let mut here: Vec<(BlockId, u32)> = model
            .here
            .iter()
            .map(|n| numbered(*n))
            .map(|b| (b.id(), b.bytes().len() as u32))
            .collect();
        here.sort();
        assert_eq!(store.list(None, 99).expect("reads"), here);
        let mut sums = (0, 0);
        let mut lost = Vec::new();
        for number in 0..BLOCKS {
            let expected = numbered(number);
            let id = expected.id();
            let is_here = model.here.contains(&number);
            let found = store.get_verified(id).expect("reads");
            assert_eq!(found, is_here.then(|| expected.clone()));
            let pins = model.pins_of(number);
            let class = if pins > 0 {
                Class::Pinned
            } else {
                Class::Cached
            };
            if is_here {
                sums.0 += expected.bytes().len() as u64;
                sums.1 += if pins > 0 {
                    expected.bytes().len() as u64
                } else {
                    0
                };
            } else if pins > 0 {
                lost.push(id);
            }
            let purged = model.purged.get(&number).copied().unwrap_or(0);
            let requested = model.requested.get(&number).copied().unwrap_or(0);
            match store.stat(id).expect("reads") {
                Some(stat) => {
                    assert_eq!((stat.local, stat.pins), (is_here, pins));
                    assert_eq!(stat.class, is_here.then_some(class));
                    assert_eq!(
                        (stat.purged.count, stat.requested.count),
                        (purged, requested)
                    );
                    assert_eq!(stat.deleted, !is_here && purged > 0);
                }
                None => assert!(!is_here && pins + purged + requested == 0),
            }
            let chunk = store.lookup(&[[number as u8; 32]]).expect("reads");
            match model.chunks.get(&number) {
                Some(true) => assert_eq!(chunk[0].is_some(), is_here),
                Some(false) => assert!(is_here || chunk[0].is_none()),
                None => assert_eq!(chunk[0], None),
            }
        }
        lost.sort();
        assert_eq!(store.lost(None, 99).expect("reads"), lost);
        let usage = store.usage();
        assert_eq!(usage.blocks, model.here.len() as u64);
        assert_eq!((usage.block_bytes, usage.pinned_bytes), sums);
        assert_eq!(usage.cached_bytes, sums.0 - sums.1);
        assert_eq!(usage.pins, model.pins.len() as u64);
        let finished: Vec<_> = store
            .pins()
            .expect("reads")
            .into_iter()
            .map(|(p, _)| p)
            .collect();
        let expected = model.pins.iter().filter(|(_, (finished, _))| *finished);
        assert_eq!(finished, expected.map(|(p, _)| *p).collect::<Vec<_>>());
        for (pin, (_, blocks)) in &model.pins {
            let mut ids: Vec<_> = blocks.iter().map(|n| numbered(*n).id()).collect();
            ids.sort();
            assert_eq!(store.pin_blocks(*pin, None, 99).expect("reads"), ids);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_sets_and_maps(ops in proptest::collection::vec(any_op(), 1..40)) {
        let mut machine = Machine::new();
        for op in ops {
            machine.apply(op);
            machine.compare();
        }
    }
}
