//! A model of the DHT: routing tables, lookups and hostile peers, without the network. All of it
//! follows from a seed.

use super::*;
use crate::net::providers::sweep::Sweep;
use std::collections::{HashMap, HashSet};

/// Peers that a lookup asks at one time, as in the behaviour.
const PARALLELISM: usize = 10;

/// Random numbers (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    /// Up to [`REPLICATION`] of so many, each once.
    fn some_of(&mut self, count: usize) -> HashSet<usize> {
        if count <= REPLICATION {
            return (0..count).collect();
        }
        let mut some = HashSet::new();
        while some.len() < REPLICATION {
            some.insert(self.below(count));
        }
        some
    }
}

/// The first 64 bits of a hash tell peers of a small mesh apart.
fn hash(at: u64) -> Hash {
    std::array::from_fn(|n| at.to_be_bytes().get(n).copied().unwrap_or(0))
}

fn place(hash: &Hash) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

fn id(number: usize) -> PeerId {
    let bytes = [&[0, 5, 9][..], &(number as u32).to_be_bytes()].concat();
    PeerId::from_bytes(&bytes).expect("a short identity multihash")
}

/// A mesh of honest peers and of hostile ones that are nearest to one key. Hostile peers store
/// nothing, name nobody but each other, and are in routing tables as often as others.
struct Mesh {
    /// Honest peers, then hostile ones.
    places: Vec<u64>,
    honest: usize,
    /// Of each honest peer, by bucket.
    tables: Vec<Vec<Vec<usize>>>,
    numbers: HashMap<PeerId, usize>,
    /// The key that hostile peers are at.
    attacked: Option<u64>,
    random: Random,
}

impl Mesh {
    fn new(honest: usize, seed: u64) -> Self {
        let mut random = Random(seed);
        let places: Vec<u64> = (0..honest).map(|_| random.next()).collect();
        let mut mesh = Self {
            tables: vec![vec![Vec::new(); 64]; honest],
            numbers: (0..2 * honest).map(|n| (id(n), n)).collect(),
            places,
            honest,
            attacked: None,
            random,
        };
        for peer in 0..honest {
            for bucket in 0..64 {
                mesh.fill(peer, bucket);
            }
        }
        mesh
    }

    /// Fills a bucket of a peer's routing table with some of the peers that belong there.
    fn fill(&mut self, peer: usize, bucket: u32) {
        let own = self.places[peer];
        let all = self.places.iter().enumerate();
        let fitting = all.filter(|(_, place)| (**place ^ own).leading_zeros() == bucket);
        let fitting: Vec<usize> = fitting.map(|(number, _)| number).collect();
        let some = self.random.some_of(fitting.len());
        self.tables[peer][bucket as usize] = some.into_iter().map(|n| fitting[n]).collect();
        self.tables[peer][bucket as usize].sort_unstable();
    }

    /// Hostile peers take the places of earlier ones, all nearer to a key than any honest peer.
    fn attack(&mut self, key: u64, hostile: usize) {
        self.places.truncate(self.honest);
        if let Some(earlier) = self.attacked.replace(key) {
            self.fill_towards(earlier);
        }
        for _ in 0..hostile {
            let near = key ^ (self.random.next() >> 24);
            self.places.push(near);
        }
        self.fill_towards(key);
    }

    /// Fills of each peer the one bucket that peers at a key belong to.
    fn fill_towards(&mut self, key: u64) {
        for peer in 0..self.honest {
            self.fill(peer, (self.places[peer] ^ key).leading_zeros());
        }
    }

    /// The nearest peers to a target that one knows, or tells.
    fn nearest(&self, peer: usize, target: u64) -> Vec<usize> {
        let mut known: Vec<usize> = match self.tables.get(peer) {
            Some(table) => table.iter().flatten().copied().collect(),
            None => (self.honest..self.places.len()).collect(),
        };
        known.sort_by_key(|number| self.places[*number] ^ target);
        known.truncate(REPLICATION);
        known
    }

    /// A lookup as Kademlia does it, past a crowd if there is one. `asked` is told of each peer
    /// that is asked.
    fn lookup(
        &self,
        from: usize,
        target: u64,
        crowd: Option<Crowd>,
        mut asked: impl FnMut(usize),
    ) -> Vec<usize> {
        let is_left_out = |peer: usize| {
            let place = hash(self.places[peer]);
            peer == from || crowd.is_some_and(|crowd| crowd.contains(&place))
        };
        let mut known = self.nearest(from, target);
        let mut done = HashSet::from([from]);
        loop {
            let nearest = known.iter().take(REPLICATION);
            let next: Vec<usize> = nearest
                .filter(|peer| !done.contains(peer))
                .take(PARALLELISM)
                .copied()
                .collect();
            if next.is_empty() {
                known.truncate(REPLICATION);
                return known;
            }
            for peer in next {
                done.insert(peer);
                asked(peer);
                for told in self.nearest(peer, target) {
                    if !is_left_out(told) && !known.contains(&told) {
                        known.push(told);
                    }
                }
            }
            known.sort_by_key(|peer| self.places[*peer] ^ target);
        }
    }

    fn located(&self, peers: &[usize]) -> Vec<(Hash, PeerId)> {
        let peers = peers.iter();
        peers.map(|n| (hash(self.places[*n]), id(*n))).collect()
    }

    /// Depth of regions as a peer takes it from its table, if the table says anything.
    fn depth(&self, peer: usize) -> Option<u32> {
        let known = self.tables[peer].iter().flatten();
        let known: Vec<Hash> = known.map(|n| hash(self.places[*n])).collect();
        depth(&hash(self.places[peer]), &known)
    }

    /// Peers beside a key, as a search and an announcement look for them.
    fn look_beside(&self, from: usize, key: &[u8], depth: u32) -> Vec<(Hash, PeerId)> {
        let crowd = Some(Crowd::at(hash_of(key), depth));
        let targets = targets(key, depth);
        let found = targets.iter().map(|target| {
            let found = self.lookup(from, place(&hash_of(target)), crowd, |_| ());
            self.located(&found)
        });
        found.flatten().collect()
    }

    /// Announces a key; gives the honest peers that have it then.
    fn announce(&self, from: usize, key: &[u8], regions: bool) -> HashSet<usize> {
        let keys = [key.to_vec()];
        let mut sweep = Sweep::new(&keys);
        while !sweep.targets(1).is_empty() {
            let found = self.lookup(from, place(&hash_of(key)), None, |_| ());
            sweep.found_at(&hash_of(key), &self.located(&found));
        }
        if regions
            && let Some(depth) = self.depth(from)
            && !sweep.widen(depth).is_empty()
        {
            sweep.add_at(&self.look_beside(from, key, depth));
        }
        let told = sweep.assign().into_keys();
        let told = told.map(|peer| self.numbers[&peer]);
        told.filter(|peer| *peer < self.honest).collect()
    }

    /// Whether a search finds what these peers have.
    fn finds(&self, from: usize, key: &[u8], having: &HashSet<usize>, regions: bool) -> bool {
        let mut found = false;
        let target = place(&hash_of(key));
        let nearest = self.lookup(from, target, None, |peer| found |= having.contains(&peer));
        if found || !regions {
            return found;
        }
        let Some(depth) = self.depth(from) else {
            return false;
        };
        let hashes: Vec<Hash> = nearest.iter().map(|n| hash(self.places[*n])).collect();
        if !is_crowded(&hash_of(key), &hashes, depth) {
            return false;
        }
        let mut beside = self.look_beside(from, key, depth);
        beside.sort_unstable();
        beside.dedup();
        let members = members(&hash_of(key), &beside, depth);
        let mut members = members.iter().map(|peer| self.numbers[peer]);
        members.any(|peer| having.contains(&peer))
    }
}

const PEERS: usize = 1_000;
const KEYS: u32 = 60;
const FINDERS: usize = 3;

/// Searches that find their key among so many hostile peers, of [`KEYS`] times [`FINDERS`].
fn found(mesh: &mut Mesh, hostile: usize, regions: bool) -> usize {
    let mut found = 0;
    for n in 0..KEYS {
        let key = n.to_be_bytes();
        mesh.attack(place(&hash_of(&key)), hostile);
        let announcer = mesh.random.below(PEERS);
        let having = mesh.announce(announcer, &key, regions);
        for _ in 0..FINDERS {
            let finder = mesh.random.below(PEERS);
            found += usize::from(mesh.finds(finder, &key, &having, regions));
        }
    }
    found
}

#[test]
fn what_hostile_peers_at_a_key_hide_is_found_in_its_region() {
    let mut mesh = Mesh::new(PEERS, 1);
    let all = KEYS as usize * FINDERS;
    assert_eq!(found(&mut mesh, 0, true), all, "nobody is hostile");
    for hostile in [20, 50, 100, 200] {
        let found = found(&mut mesh, hostile, true);
        assert!(found * 100 >= all * 99, "{hostile}: {found} of {all}");
    }
}

#[test]
fn without_regions_hostile_peers_at_a_key_hide_it() {
    let mut mesh = Mesh::new(PEERS, 1);
    let all = KEYS as usize * FINDERS;
    for hostile in [20, 200] {
        let found = found(&mut mesh, hostile, false);
        assert!(found * 2 < all, "{hostile}: {found} of {all}");
    }
}

#[test]
fn hardly_any_key_is_crowded_by_chance() {
    let mesh = Mesh::new(PEERS, 2);
    let crowded = |n: &u32| {
        let key = hash_of(&n.to_be_bytes());
        let peer = *n as usize % PEERS;
        let mut nearest: Vec<Hash> = mesh.places.iter().map(|place| hash(*place)).collect();
        nearest.sort_by_key(|hash| place(hash) ^ place(&key));
        nearest.truncate(REPLICATION);
        mesh.depth(peer)
            .is_some_and(|depth| is_crowded(&key, &nearest, depth))
    };
    let count = (0..2_000).filter(crowded).count();
    assert!(count <= 60, "{count} of 2000");
}

#[test]
fn targets_are_in_the_other_parts_of_a_region() {
    let key = b"some key";
    for depth in [0, 1, 5, 9] {
        let targets = targets(key, depth);
        let shared = targets
            .iter()
            .map(|t| shared_bits(&hash_of(t), &hash_of(key)));
        let first = depth.saturating_sub(1);
        let expected: Vec<u32> = (first..first + BRANCHES).collect();
        assert_eq!(shared.collect::<Vec<_>>(), expected, "{depth}");
    }
}

#[test]
fn a_crowd_in_one_part_of_a_region_keeps_nobody_out_of_the_others() {
    let key = hash(0);
    let mut found: Vec<(Hash, PeerId)> = (0..500).map(|n| (hash(n as u64), id(n))).collect();
    // Depth 3, so that the region starts at 2 bits and has parts of 5.
    let honest: Vec<PeerId> = (0..16).map(|n| id(1_000 + n)).collect();
    for (n, peer) in (0_u64..).zip(&honest) {
        found.push((hash(((n % 8) << 59) | (1 << 50) | n), *peer));
    }
    let members = members(&key, &found, 3);
    let reached = honest.iter().filter(|peer| members.contains(peer));
    assert_eq!(
        reached.count(),
        14,
        "all but the two in the part of the crowd"
    );
    assert!(members.len() <= MAX_OF_PART << PART_BITS);
    assert_eq!(super::members(&hash(1 << 63), &found, 3), []);
}

#[test]
fn a_small_mesh_has_no_regions() {
    let local = hash(0);
    let few: Vec<Hash> = (1..REPLICATION as u64).map(hash).collect();
    assert_eq!(depth(&local, &few), None);
}

#[test]
fn how_deep_regions_are_follows_from_buckets_that_are_not_full() {
    let bucket = |bits: u32, count: u64| (0..count).map(move |n| hash((1 << (63 - bits)) | n));
    let depth = |buckets: &[(u32, u64)]| {
        let known = buckets
            .iter()
            .flat_map(|(bits, count)| bucket(*bits, *count));
        depth(&hash(0), &known.collect::<Vec<_>>())
    };
    let full = REPLICATION as u64;
    // As with 1,000 peers.
    let far = (0..5).map(|bits| (bits, full));
    let table: Vec<(u32, u64)> = far.chain([(5, 15), (6, 8), (7, 4)]).collect();
    assert_eq!(depth(&table), Some(5));
    // A crowd fills one bucket.
    for crowded in [5, 6, 7, 20] {
        let mut table = table.clone();
        table.retain(|(bits, _)| *bits != crowded);
        table.push((crowded, full));
        assert_eq!(depth(&table), Some(5), "{crowded}");
    }
    assert_eq!(depth(&[(0, 15), (1, 7), (2, 4)]), Some(0));
    assert_eq!(depth(&[(50, 19), (0, full)]), Some(MAX_DEPTH));
}
