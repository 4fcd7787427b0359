//! Regions: where announcements are stored and looked for when a crowd of peers hides a key. Pure.
//!
//! Peer ids cost nothing, so somebody may make as many as it likes that are nearer to a key than
//! all honest peers. Then the nearest peers, which store an announcement and are asked for it, are
//! all of that crowd. A crowd betrays itself: ids are spread evenly, so a node that knows how dense
//! they are around itself sees where there are too many. A key with a crowd is stored at, and
//! looked for at, its whole region: all peers that share so many bits with it that about as many as
//! usually hold a record are expected there. The crowd may hide some of them, but has to be as
//! large as the mesh to hide most.
//!
//! The idea is that of arXiv 2505.01139 and of earlier work on the IPFS DHT. Here it is done only
//! for keys that are crowded, so that all others cost what they did.
//!
//! Deliberately absent: head records, and crowds at many keys of one region at the same time.

use std::collections::BTreeMap;

use libp2p::PeerId;

use super::sweep::{Hash, REPLICATION, hash_of, shared_bits};

/// A key is crowded when as many peers as hold a record share so many bits more with it than they
/// would on average. By chance that happens to less than one key in thirty, and costs only
/// further lookups then.
const CROWDED_BITS: u32 = 2;
/// Depth of a mesh of some millions; more bits would take too long to aim at.
const MAX_DEPTH: u32 = 18;
/// A region is looked at in parts, one for each value of so many bits behind its own.
const PART_BITS: u32 = 3;
/// Peers of one part that are taken, so that a crowd in one part keeps nobody out of the others.
const MAX_OF_PART: usize = 8;
/// Bits at which a region's other parts branch off from the key: a lookup aims at each.
const BRANCHES: u32 = 1 + CROWDED_BITS;
/// Peers that a bucket of the routing table has at least, so that it says how dense they are.
const MIN_OF_BUCKET: usize = 4;

/// A part of all keys where a crowd is: lookups that are to get around it leave its peers out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Crowd {
    key: Hash,
    bits: u32,
}

impl Crowd {
    /// The crowd at a key.
    pub(super) const fn at(key: Hash, depth: u32) -> Self {
        let bits = depth + CROWDED_BITS;
        Self { key, bits }
    }

    /// Whether a peer may be of it.
    pub(super) fn contains(&self, peer: &Hash) -> bool {
        shared_bits(peer, &self.key) >= self.bits
    }
}

/// Bits that the peers of a region share, which has about as many as hold a record, or twice as
/// many. Told from all peers that a node knows: of those that share just so many bits with it, a
/// bucket of its routing table, it knows all, unless the bucket is full. The middle one of these
/// buckets counts, so that a crowd in one of them changes nothing. None in a mesh so small that all
/// peers are near.
pub(super) fn depth(local: &Hash, known: &[Hash]) -> Option<u32> {
    let mut buckets: BTreeMap<u32, usize> = BTreeMap::new();
    for peer in known {
        *buckets.entry(shared_bits(local, peer)).or_default() += 1;
    }
    let telling = buckets.into_iter();
    let telling = telling.filter(|(_, count)| (MIN_OF_BUCKET..REPLICATION).contains(count));
    let mut depths: Vec<u32> = telling
        .map(|(bucket, count)| {
            // The bucket has half of the peers that share as many bits or more.
            let all = (2 * count as u64) << bucket.min(2 * MAX_DEPTH);
            let regions = all / REPLICATION as u64;
            regions.checked_ilog2().unwrap_or(0)
        })
        .collect();
    depths.sort_unstable();
    let middle = depths.get(depths.len().checked_sub(1)? / 2)?;
    (known.len() >= REPLICATION).then_some((*middle).min(MAX_DEPTH))
}

/// Whether the peers found nearest to a key are too many to be true.
pub(super) fn is_crowded(key: &Hash, nearest: &[Hash], depth: u32) -> bool {
    let crowd = Crowd::at(*key, depth);
    let near = nearest.iter().filter(|hash| crowd.contains(hash));
    near.count() >= REPLICATION
}

/// Targets of lookups that find the peers of a key's region, each in another part of it than the
/// key. They have to leave out the [`Crowd`], which would stand in the way.
pub(super) fn targets(key: &[u8], depth: u32) -> Vec<Vec<u8>> {
    let hash = hash_of(key);
    let first = depth.saturating_sub(1);
    (first..first + BRANCHES)
        .map(|bit| aim(key, &hash, bit))
        .collect()
}

/// A key whose hash shares exactly so many bits with that of another. Found by trying; each bit
/// doubles the work.
fn aim(key: &[u8], hash: &Hash, bits: u32) -> Vec<u8> {
    let mut number: u64 = 0;
    loop {
        let tried = [key, &number.to_be_bytes()].concat();
        if shared_bits(&hash_of(&tried), hash) == bits {
            return tried;
        }
        number += 1;
    }
}

/// The peers of a key's region out of those found: some of each of its parts, those nearest to the
/// key first.
pub(super) fn members(key: &Hash, found: &[(Hash, PeerId)], depth: u32) -> Vec<PeerId> {
    let mut parts: Vec<Vec<&(Hash, PeerId)>> = vec![Vec::new(); 1 << PART_BITS];
    let first = depth.saturating_sub(1);
    for peer in found {
        if shared_bits(&peer.0, key) >= first
            && let Some(part) = parts.get_mut(part_of(&peer.0, first))
        {
            part.push(peer);
        }
    }
    let distance = |hash: &Hash| -> Hash { std::array::from_fn(|n| hash[n] ^ key[n]) };
    let mut members = Vec::new();
    for mut part in parts {
        part.sort_by_cached_key(|(hash, _)| distance(hash));
        let near = part.iter().take(MAX_OF_PART);
        members.extend(near.map(|(_, peer)| *peer));
    }
    members
}

/// The value of the bits behind the first `depth` ones.
fn part_of(hash: &Hash, depth: u32) -> usize {
    let bits = (depth..depth + PART_BITS).map(|n| {
        let byte = hash.get(n as usize / 8).copied().unwrap_or(0);
        usize::from(byte & (0x80 >> (n % 8)) != 0)
    });
    bits.fold(0, |part, bit| 2 * part + bit)
}

#[cfg(test)]
#[path = "region_tests.rs"]
mod tests;
