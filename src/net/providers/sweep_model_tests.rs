//! Announcing in the order of the keyspace, in a model of a large mesh whose lookups are perfect:
//! lookups, messages, and what is found afterwards, beside one lookup a key.
//!
//! The full size is run by hand: `cargo test --release --lib -- --ignored --nocapture
//! announcing_a_million_keys`.

use std::collections::{HashMap, HashSet};

use super::*;

/// Keys of one sweep, as the node announces them.
const KEYS_A_SWEEP: usize = 10_000;
/// Lookups that a lap may take at 10,000 servers, whatever the number of keys.
const MAX_LOOKUPS: usize = 3000;

struct Mesh {
    /// Sorted by place.
    peers: Vec<(Hash, PeerId)>,
}

impl Mesh {
    fn new(count: u32) -> Self {
        let ids: Vec<PeerId> = (0..count)
            .map(|n| {
                let bytes = [&[0, 5, 9][..], &n.to_be_bytes()].concat();
                PeerId::from_bytes(&bytes).expect("a short identity multihash")
            })
            .collect();
        let mut peers = located(&ids);
        peers.sort_unstable();
        Self { peers }
    }

    fn nearest(&self, target: &Hash) -> Vec<(Hash, PeerId)> {
        let mut nearest = Vec::with_capacity(REPLICATION);
        take_nearest(&self.peers, target, 0, REPLICATION, &mut nearest);
        nearest
    }

    /// Bits that the peers of a region share, as a node of the mesh works them out.
    fn depth(&self) -> u32 {
        (self.peers.len() as u32 / REPLICATION as u32).ilog2()
    }

    /// The mesh once some part of its peers is gone, one in `of` staying away at `is_gone`.
    fn without(&self, is_gone: impl Fn(usize) -> bool) -> Self {
        let all = self.peers.iter().enumerate();
        let left = all.filter(|(n, _)| !is_gone(*n)).map(|(_, peer)| *peer);
        Self {
            peers: left.collect(),
        }
    }
}

/// Result of a lap.
#[derive(Default)]
struct Outcome {
    lookups: usize,
    messages: usize,
    streams: usize,
    /// Holders of the keys that were chosen to be looked for.
    holders: HashMap<Vec<u8>, HashSet<PeerId>>,
}

/// Announces keys in the order of their places, a region's width at a time.
fn lap(mesh: &Mesh, keys: &[Vec<u8>], sample: usize) -> Outcome {
    let mut sorted: Vec<(Hash, usize)> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| (hash_of(key), n))
        .collect();
    sorted.sort_unstable();
    let depth = mesh.depth();
    let mut outcome = Outcome::default();
    let steps = sorted.chunk_by(|(a, _), (b, _)| shared_bits(a, b) >= depth);
    for step in steps {
        for part in step.chunks(KEYS_A_SWEEP) {
            let part: Vec<Vec<u8>> = part.iter().map(|(_, n)| keys[*n].clone()).collect();
            sweep(mesh, &part, depth, sample, &mut outcome);
        }
    }
    outcome
}

fn sweep(mesh: &Mesh, keys: &[Vec<u8>], depth: u32, sample: usize, outcome: &mut Outcome) {
    let mut sweep = Sweep::new(keys);
    loop {
        let targets = sweep.targets(4);
        if targets.is_empty() {
            break;
        }
        for target in targets {
            outcome.lookups += 1;
            let hash = hash_of(&keys[target]);
            sweep.found_at(&hash, &mesh.nearest(&hash));
        }
    }
    for wide in sweep.widen(depth) {
        for target in region::targets(&keys[wide], depth) {
            outcome.lookups += 1;
            sweep.add_at(&mesh.nearest(&hash_of(&target)));
        }
    }
    for (peer, indexes) in sweep.assign() {
        outcome.streams += 1;
        outcome.messages += indexes.len();
        for index in indexes {
            let key = &keys[index as usize];
            if usize::from(hash_of(key)[31]) % sample == 0 {
                let holders = outcome.holders.entry(key.clone()).or_default();
                holders.insert(peer);
            }
        }
    }
}

/// Share of the chosen keys of which one of the peers that are asked knows a provider.
fn found(mesh: &Mesh, outcome: &Outcome) -> f64 {
    let found = outcome.holders.iter().filter(|(key, holders)| {
        let asked = mesh.nearest(&hash_of(key));
        asked.iter().any(|(_, peer)| holders.contains(peer))
    });
    found.count() as f64 / outcome.holders.len() as f64
}

fn keys(count: u32) -> Vec<Vec<u8>> {
    let digest = |n: u32| crate::crypto::hash::sha384_id(&n.to_be_bytes());
    (0..count).map(|n| digest(n).to_multihash()).collect()
}

#[test]
fn lookups_follow_the_mesh_and_not_the_keys() {
    let mesh = Mesh::new(10_000);
    let keys = keys(30_000);
    let few = lap(&mesh, &keys[..10_000], 16);
    let many = lap(&mesh, &keys, 16);
    for outcome in [&few, &many] {
        assert!(outcome.lookups <= MAX_LOOKUPS, "{}", outcome.lookups);
        assert!(found(&mesh, outcome) >= 0.999);
        let third_gone = mesh.without(|n| n * 7 % 10 < 3);
        assert!(found(&third_gone, outcome) >= 0.99);
    }
    assert!(many.lookups < few.lookups * 3 / 2, "{}", many.lookups);
    assert!(many.messages <= keys.len() * REPLICATION * 11 / 10);
}

#[test]
fn a_small_mesh_takes_few_lookups() {
    let mesh = Mesh::new(40);
    let outcome = lap(&mesh, &keys(30_000), 64);
    assert!(outcome.lookups <= 30, "{}", outcome.lookups);
    assert!(found(&mesh, &outcome) >= 0.999);
}

#[test]
#[ignore = "the full size: a minute or so in a release build"]
fn announcing_a_million_keys() {
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        let pages = status.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok());
        (pages.unwrap_or(0) * 4096) >> 20
    };
    for servers in [100, 1000, 10_000] {
        let mesh = Mesh::new(servers);
        for count in [10_000, 100_000, 1_000_000] {
            let keys = keys(count);
            let before = resident();
            let start = std::time::Instant::now();
            let outcome = lap(&mesh, &keys, 64);
            let third_gone = mesh.without(|n| n * 7 % 10 < 3);
            println!(
                "{servers} servers, {count} keys: {} lookups (one a key: {count}), {} messages on {} streams, \
                 found {:.4}, with 30% of the servers gone {:.4}; {:.1} s of CPU, {} MiB more resident with all keys \
                 and the sample in memory",
                outcome.lookups,
                outcome.messages,
                outcome.streams,
                found(&mesh, &outcome),
                found(&third_gone, &outcome),
                start.elapsed().as_secs_f64(),
                resident().saturating_sub(before),
            );
            assert!(outcome.lookups <= MAX_LOOKUPS);
        }
    }
}
