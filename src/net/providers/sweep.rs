//! Which lookups to make, and which keys to send to whom, so that announcing costs by the size of the mesh and not by the
//! number of keys. Pure.
//!
//! A lookup finds the [`REPLICATION`] peers nearest to its target. All peers that share more leading bits with the target than the
//! farthest of them does are then known: that region needs no other lookup, and each of its keys goes to the nearest of all
//! peers found. Keys and peers are compared by SHA-256 and XOR, as Kademlia does.

use std::collections::{BTreeMap, HashMap, HashSet};

use libp2p::PeerId;
use libp2p::kad::KBucketKey;

use super::region::{self, Crowd};

/// How many peers hold an announcement; also how many peers a lookup finds.
pub(super) const REPLICATION: usize = 20;
/// Failed lookups in a row after which the rest goes to the peers known so far.
const MAX_FAILURES: u32 = 3;

/// Most crowds of one round around which keys are stored in their whole region: each costs some
/// lookups.
const MAX_WIDE: usize = 32;

/// Where a key or peer is among all.
pub(super) type Hash = [u8; 32];

/// One round of announcing.
pub(super) struct Sweep {
    /// Hash and index of each key, sorted.
    keys: Vec<(Hash, u32)>,
    /// Positions in `keys` whose region is not covered yet, ascending.
    open: Vec<u32>,
    /// Peers found, by hash.
    peers: BTreeMap<Hash, PeerId>,
    failures: u32,
    /// Indexes of keys that are stored in their whole region, and the depth of regions.
    wide: HashSet<u32>,
    depth: u32,
}

impl Sweep {
    /// A round for these keys. Hashes each once.
    pub(super) fn new(keys: &[Vec<u8>]) -> Self {
        let mut keys: Vec<(Hash, u32)> = keys
            .iter()
            .zip(0..)
            .map(|(key, index)| (hash_of(key), index))
            .collect();
        keys.sort_unstable();
        Self {
            open: (0..keys.len() as u32).collect(),
            keys,
            peers: BTreeMap::new(),
            failures: 0,
            wide: HashSet::new(),
            depth: 0,
        }
    }

    /// Indexes of up to `most` keys to look up next, far from each other; empty when everything is covered. Only one at first:
    /// in a small mesh it covers everything.
    pub(super) fn targets(&self, most: usize) -> Vec<usize> {
        let most = if self.peers.is_empty() { 1 } else { most };
        let count = most.min(self.open.len());
        (0..count)
            .map(|n| {
                let position = self.open[(2 * n + 1) * self.open.len() / (2 * count)];
                self.keys[position as usize].1 as usize
            })
            .collect()
    }

    /// A lookup of `target` found these peers, the nearest to it.
    pub(super) fn found(&mut self, target: &[u8], peers: &[PeerId]) {
        self.found_at(&hash_of(target), &located(peers));
    }

    pub(super) fn found_at(&mut self, target: &Hash, peers: &[(Hash, PeerId)]) {
        self.add_at(peers);
        if peers.is_empty() {
            return self.failed(target);
        }
        self.failures = 0;
        if peers.len() < REPLICATION && self.peers.len() <= peers.len() {
            // There are no others.
            self.open.clear();
            return;
        }
        let shared = peers
            .iter()
            .map(|(hash, _)| shared_bits(hash, target))
            .min()
            .unwrap_or(0);
        self.cover(target, shared + 1);
    }

    /// Peers that lookups of other targets found.
    pub(super) fn add(&mut self, peers: &[PeerId]) {
        self.add_at(&located(peers));
    }

    pub(super) fn add_at(&mut self, peers: &[(Hash, PeerId)]) {
        self.peers.extend(peers.iter().copied());
    }

    /// Finds the keys that a crowd of peers hides: they will be assigned to their whole region,
    /// whose peers are to be looked up and [added](Self::add). Gives back one key of each crowd, as
    /// an index: keys in the same crowd have the same region. `depth`: of regions.
    pub(super) fn widen(&mut self, depth: u32) -> Vec<usize> {
        let peers = self.sorted_peers();
        let mut nearest = Vec::with_capacity(REPLICATION);
        let mut of_crowds: Vec<(Crowd, usize)> = Vec::new();
        for (hash, index) in &self.keys {
            nearest.clear();
            take_nearest(&peers, hash, 0, REPLICATION, &mut nearest);
            let hashes: Vec<Hash> = nearest.iter().map(|(hash, _)| *hash).collect();
            if !region::is_crowded(hash, &hashes, depth) {
                continue;
            }
            // Keys are sorted, so those of one crowd follow one another.
            let is_known = of_crowds
                .last()
                .is_some_and(|(crowd, _)| crowd.contains(hash));
            if !is_known {
                if of_crowds.len() >= MAX_WIDE {
                    continue;
                }
                of_crowds.push((Crowd::at(*hash, depth), *index as usize));
            }
            self.wide.insert(*index);
        }
        self.depth = depth;
        of_crowds.into_iter().map(|(_, index)| index).collect()
    }

    fn sorted_peers(&self) -> Vec<(Hash, PeerId)> {
        self.peers.iter().map(|(h, p)| (*h, *p)).collect()
    }

    /// Peers ready to be sent announcements, each with the indexes of its keys: each key is given to the [`REPLICATION`]
    /// nearest of the peers found, and one that is hidden by a crowd to those of its region, too.
    pub(super) fn assign(&self) -> HashMap<PeerId, Vec<u32>> {
        let peers = self.sorted_peers();
        let mut assigned: HashMap<PeerId, Vec<u32>> = HashMap::new();
        let mut nearest = Vec::with_capacity(REPLICATION);
        for (hash, index) in &self.keys {
            nearest.clear();
            take_nearest(&peers, hash, 0, REPLICATION, &mut nearest);
            let mut holders: Vec<PeerId> = nearest.iter().map(|(_, peer)| *peer).collect();
            if self.wide.contains(index) {
                let region = region::members(hash, &peers, self.depth).into_iter();
                let others: Vec<_> = region.filter(|peer| !holders.contains(peer)).collect();
                holders.extend(others);
            }
            for peer in holders {
                assigned.entry(peer).or_default().push(*index);
            }
        }
        assigned
    }

    fn failed(&mut self, target: &Hash) {
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            self.open.clear();
        } else {
            self.cover(target, 256);
        }
    }

    /// Everything that shares so many leading bits with `target` is covered.
    fn cover(&mut self, target: &Hash, bits: u32) {
        let first = with_tail(target, bits, 0x00);
        let last = with_tail(target, bits, 0xff);
        let from = self
            .open
            .partition_point(|n| self.keys[*n as usize].0 < first);
        let to = self
            .open
            .partition_point(|n| self.keys[*n as usize].0 <= last);
        self.open.drain(from..to);
    }
}

/// Peers with where they are.
pub(super) fn located(peers: &[PeerId]) -> Vec<(Hash, PeerId)> {
    let located = peers.iter().map(|peer| (hash_of(&peer.to_bytes()), *peer));
    located.collect()
}

/// Where a key is, or a peer whose id has these bytes.
pub(super) fn hash_of(bytes: &[u8]) -> Hash {
    let key = KBucketKey::new(bytes.to_vec());
    let mut hash = [0; 32];
    hash.copy_from_slice(key.hashed_bytes());
    hash
}

/// Leading bits that two have in common.
pub(super) fn shared_bits(a: &Hash, b: &Hash) -> u32 {
    for (n, (x, y)) in (0..).zip(a.iter().zip(b)) {
        if x != y {
            return n * 8 + (x ^ y).leading_zeros();
        }
    }
    256
}

fn bit(hash: &Hash, n: u32) -> bool {
    hash[n as usize / 8] & (0x80 >> (n % 8)) != 0
}

/// The first `bits` bits of `hash`, then only bits of `fill`.
fn with_tail(hash: &Hash, bits: u32, fill: u8) -> Hash {
    let mut result = *hash;
    for (n, byte) in (0..).zip(result.iter_mut()) {
        let keep = bits.saturating_sub(n * 8).min(8);
        let mask = !0xff_u8.checked_shr(keep).unwrap_or(0);
        *byte = (*byte & mask) | (fill & !mask);
    }
    result
}

/// Adds the `count` peers nearest to `target` out of `peers`, which are sorted and share the first `depth` bits.
fn take_nearest(
    peers: &[(Hash, PeerId)],
    target: &Hash,
    depth: u32,
    count: usize,
    nearest: &mut Vec<(Hash, PeerId)>,
) {
    if peers.len() <= count || depth == 256 {
        nearest.extend(peers.iter().take(count));
        return;
    }
    let middle = peers.partition_point(|(hash, _)| !bit(hash, depth));
    let (zeros, ones) = peers.split_at(middle);
    let (near, far) = if bit(target, depth) {
        (ones, zeros)
    } else {
        (zeros, ones)
    };
    take_nearest(near, target, depth + 1, count, nearest);
    if near.len() < count {
        take_nearest(far, target, depth + 1, count - near.len(), nearest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nearest(peers: &[PeerId], key: &[u8], count: usize) -> Vec<PeerId> {
        let target = KBucketKey::new(key.to_vec());
        let mut sorted = peers.to_vec();
        sorted.sort_by_cached_key(|peer| KBucketKey::from(*peer).distance(&target));
        sorted.truncate(count);
        sorted
    }

    fn mesh(count: usize, seed: u8) -> Vec<PeerId> {
        let peers = (0..count as u32).map(|n| {
            // Identity multihashes need no key pair behind them.
            let bytes = [&[0, 5, seed][..], &n.to_be_bytes()].concat();
            PeerId::from_bytes(&bytes).expect("a short identity multihash")
        });
        peers.collect()
    }

    fn keys(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|n| n.to_be_bytes().to_vec()).collect()
    }

    /// Runs a round against a mesh whose lookups are perfect; gives back the number of lookups.
    fn run(sweep: &mut Sweep, keys: &[Vec<u8>], peers: &[PeerId]) -> usize {
        let mut lookups = 0;
        loop {
            let targets = sweep.targets(4);
            if targets.is_empty() {
                return lookups;
            }
            for target in targets {
                lookups += 1;
                sweep.found(&keys[target], &nearest(peers, &keys[target], REPLICATION));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn keys_reach_the_peers_that_are_asked_for_them(count in 1usize..250, seed in any::<u8>(), key_count in 1usize..300) {
            let peers = mesh(count, seed);
            let keys = keys(key_count);
            let mut sweep = Sweep::new(&keys);
            let lookups = run(&mut sweep, &keys, &peers);
            let mut holders = vec![HashSet::new(); key_count];
            for (peer, indexes) in sweep.assign() {
                for index in indexes {
                    prop_assert!(holders[index as usize].insert(peer), "each key once");
                }
            }
            let mut right = 0;
            for (key, holders) in keys.iter().zip(&holders) {
                prop_assert_eq!(holders.len(), count.min(REPLICATION));
                let wanted = nearest(&peers, key, REPLICATION);
                let hits = wanted.iter().filter(|peer| holders.contains(peer)).count();
                prop_assert!(hits * 4 >= wanted.len(), "{} of {} nearest peers have it", hits, wanted.len());
                right += hits;
            }
            prop_assert!(right * 100 >= 85 * key_count * count.min(REPLICATION), "{right}");
            // The point of it all: lookups follow the mesh.
            prop_assert!(lookups <= 4 + count / 3, "{} lookups for {} peers", lookups, count);
        }

        #[test]
        fn nearest_is_nearest(count in 0usize..80, seed in any::<u8>(), key in any::<[u8; 4]>()) {
            let peers = mesh(count, seed);
            let mut sorted: Vec<_> = peers.iter().map(|peer| (hash_of(&peer.to_bytes()), *peer)).collect();
            sorted.sort_unstable();
            let mut found = Vec::new();
            take_nearest(&sorted, &hash_of(&key), 0, REPLICATION, &mut found);
            let found: HashSet<_> = found.into_iter().map(|(_, peer)| peer).collect();
            prop_assert_eq!(found, nearest(&peers, &key, REPLICATION).into_iter().collect::<HashSet<_>>());
        }
    }

    #[test]
    fn a_mesh_smaller_than_the_replication_takes_one_lookup() {
        let (keys, peers) = (keys(5000), mesh(REPLICATION - 1, 1));
        let mut sweep = Sweep::new(&keys);
        assert_eq!(run(&mut sweep, &keys, &peers), 1);
        assert_eq!(sweep.assign().len(), peers.len());
    }

    #[test]
    fn failing_lookups_come_to_an_end() {
        let keys = keys(100);
        let mut sweep = Sweep::new(&keys);
        assert_eq!(run(&mut sweep, &keys, &[]), MAX_FAILURES as usize);
        assert!(sweep.assign().is_empty());
        assert!(Sweep::new(&[]).targets(4).is_empty());
    }

    #[test]
    fn prefixes() {
        let hash = [0b1010_1010; 32];
        assert_eq!(with_tail(&hash, 0, 0), [0; 32]);
        assert_eq!(with_tail(&hash, 256, 0xff), hash);
        let tail = with_tail(&hash, 11, 0xff);
        assert_eq!(tail[..3], [0b1010_1010, 0b1011_1111, 0xff]);
        assert_eq!(shared_bits(&hash, &tail), 11);
        assert_eq!(shared_bits(&hash, &hash), 256);
    }
}

#[cfg(test)]
#[path = "sweep_model_tests.rs"]
mod model;
