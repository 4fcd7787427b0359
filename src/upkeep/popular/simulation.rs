//! A mesh without a network: what copies of popular blocks are good for.
//!
//! [`NODES`] nodes run the real table of demand, the real policy of whom to offer what and the real policy of what to take, by a clock that the
//! simulation turns. What is a model:
//!
//! - Each node is connected to a few peers at each distance, as in a Kademlia table, and nobody leaves.
//! - There are [`BLOCKS`] blocks of [`BLOCK_BYTES`]. Each has one origin that never drops it. Beside that a node has room for [`CACHE`] blocks and drops
//!   the oldest arrival first, as the store does.
//! - A reader asks the [`HAVE_PEERS`] of its peers that are nearest to the block's id first, then goes from peer to nearer peer until one
//!   has the block, or is one of the [`KEEPERS`] nodes nearest to the id, which keep the records of who has it. Then it asks those in random order, the
//!   stale ones in vain. Each node that is asked is a hop, but for the first question, which goes to all those peers at once.
//! - Of ten readers [`PASSING`] are passing: they come by way of some node, read, and leave, as the command `get` does when no node runs beside it. The
//!   others are the nodes themselves. If all readers stayed, their caches alone would be enough: each is a copy for all that come later.
//! - Requests come by Zipf's law. For half an hour one block, of rank [`RANK`], is asked for a hundred times as often.
//! - A transfer takes no time, and bytes are those of blocks only. Nobody is ever too busy to answer, so that the origin's load is what it would
//!   have to bear, and not what it can.
//!
//! `tests/figures/popularity.svg` shows how it went, the numbers are beside it.
//!
//! With the readers' caches or the copies off nothing else changes: the same readers ask for the same blocks at the same times.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::identity::Keypair;
use libp2p::kad::KBucketKey;
use libp2p::multihash::Multihash;

use super::accept::{self, Load, Offered, Room};
use super::policy::{self, Facts, Heard, HotBlock, Ledger};
use crate::depot::demand::Table;
use crate::id::BlockId;
use crate::net::exchange::Standing;
use crate::net::replica::{Refusal, Why, Wish};
use crate::time::Timestamp;

mod figure;

const NODES: usize = 200;
const BLOCKS: usize = 2000;
const BLOCK_BYTES: u32 = 1 << 20;
/// Blocks that a node keeps beside those it is the origin of.
const CACHE: usize = 10;
/// Peers that a reader asks first.
const HAVE_PEERS: usize = 8;
/// Nodes nearest to a block's id that keep the records of who has it.
const KEEPERS: usize = 8;
/// Connections of a node at each distance.
const BUCKET: usize = 3;
/// Of ten readers, those that don't stay.
const PASSING: usize = 9;
/// Rank of the block that suddenly everybody wants, and how much more.
const RANK: usize = 40;
const CROWD: usize = 100;
/// Time between two requests, of all nodes together: each asks about once a minute.
const BETWEEN_MS: u64 = 60_000 / NODES as u64;
const MINUTES: u64 = 60;
const CROWD_MINUTES: std::ops::Range<u64> = 15..45;
/// Blocks that a node looks at each time, and how often it does.
const HOTTEST: usize = 8;
const ROUND_MS: u64 = 30_000;
const START_MS: u64 = 1_700_000_000_000;

/// What nodes do with blocks that they do not need for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// A reader keeps nothing.
    Nothing,
    /// A reader keeps what it read, as long as there is room.
    Caching,
    /// Popular blocks are offered as well.
    Popularity,
}

/// What one minute was like for the block that everybody wants.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Minute {
    /// Times that its origin gave it away, for copies, too.
    origin: u64,
    /// Requests that its reader could not answer by itself, and the hops of all of them.
    requests: u64,
    hops: u64,
    /// Nodes that have it, at the end.
    copies: u64,
    /// Copies of it that nodes took because it was offered.
    pushed: u64,
    /// Bytes of blocks that went over the network for all blocks.
    bytes: u64,
}

/// Small, fast, and the same on every machine: SplitMix64, by Steele, Lea and Flood.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Who asks for a block.
#[derive(Clone, Copy)]
struct Reader {
    peer: PeerId,
    /// The node itself, or the one by way of which it comes.
    node: usize,
    stays: bool,
}

#[derive(Clone)]
struct Node {
    peer: PeerId,
    key: KBucketKey<PeerId>,
    connected: Vec<usize>,
    cache: VecDeque<usize>,
    /// Those of them that were taken because somebody offered them.
    taken: BTreeSet<usize>,
    given: Table,
    missed: Table,
    ledger: Ledger,
}

/// What never changes: nodes, blocks, and which node is how near to which block.
struct World {
    nodes: Vec<Node>,
    ids: Vec<BlockId>,
    /// Of each block, the place of each node in the order of distance.
    places: Vec<Vec<u8>>,
    numbers: BTreeMap<PeerId, usize>,
    of_id: BTreeMap<BlockId, usize>,
    /// Sums of the shares of blocks, by rank.
    shares: Vec<f64>,
}

impl World {
    fn new() -> Self {
        let nodes = nodes();
        let ids: Vec<BlockId> = (0..BLOCKS as u64).map(id).collect();
        // Sixteen bytes are enough to tell so few apart.
        let start =
            |hash: &[u8]| u128::from_be_bytes(hash[..16].try_into().expect("a hash is longer"));
        let keys: Vec<u128> = nodes
            .iter()
            .map(|node| start(node.key.hashed_bytes()))
            .collect();
        let places = ids.iter().map(|id| {
            let key = start(KBucketKey::new(id.to_multihash()).hashed_bytes());
            let mut order: Vec<(u128, usize)> =
                keys.iter().map(|node| node ^ key).zip(0..).collect();
            order.sort_unstable();
            let mut places = vec![0; NODES];
            (0..)
                .zip(order)
                .for_each(|(place, (_, node))| places[node] = place);
            places
        });
        let mut sum = 0.0;
        let shares = (1..=BLOCKS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            places: places.collect(),
            numbers: nodes.iter().map(|node| node.peer).zip(0..).collect(),
            of_id: ids.iter().copied().zip(0..).collect(),
            shares: shares.collect(),
            ids,
            nodes,
        }
    }

    fn origin(block: usize) -> usize {
        (block * 7) % NODES
    }

    fn draw(&self, random: &mut Random) -> usize {
        let all = self.shares[BLOCKS - 1];
        let at = random.below(1 << 30) as f64 / f64::from(1 << 30) * all;
        self.shares
            .partition_point(|sum| *sum <= at)
            .min(BLOCKS - 1)
    }
}

fn id(number: u64) -> BlockId {
    let mut random = Random(number);
    let mut digest = [0; 48];
    for part in digest.chunks_exact_mut(8) {
        part.copy_from_slice(&random.next().to_be_bytes());
    }
    BlockId::from_sha384(digest)
}

fn nodes() -> Vec<Node> {
    let mut random = Random(1);
    let node = |number: usize| {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let key = Keypair::ed25519_from_bytes(seed).expect("32 bytes are a seed");
        let peer = key.public().to_peer_id();
        Node {
            peer,
            key: KBucketKey::from(peer),
            connected: Vec::new(),
            cache: VecDeque::new(),
            taken: BTreeSet::new(),
            given: Table::new(BLOCKS),
            missed: Table::new(BLOCKS),
            ledger: Ledger::default(),
        }
    };
    let mut nodes: Vec<Node> = (0..NODES).map(node).collect();
    let mut links: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); NODES];
    for from in 0..NODES {
        let mut buckets: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for to in (0..NODES).filter(|to| *to != from) {
            let distance = nodes[from].key.distance(&nodes[to].key);
            let bucket = distance.ilog2().unwrap_or_default();
            buckets.entry(bucket).or_default().push(to);
        }
        for mut bucket in buckets.into_values() {
            for _ in 0..BUCKET.min(bucket.len()) {
                let to = bucket.swap_remove(random.below(bucket.len()));
                links[from].insert(to);
                links[to].insert(from);
            }
        }
    }
    for (node, links) in nodes.iter_mut().zip(links) {
        node.connected = links.into_iter().collect();
    }
    nodes
}

struct Mesh<'a> {
    setting: Setting,
    world: &'a World,
    nodes: Vec<Node>,
    /// Who announced each block, beside its origin.
    providers: Vec<BTreeSet<usize>>,
    random: Random,
    minute: Minute,
}

impl Mesh<'_> {
    fn has(&self, node: usize, block: usize) -> bool {
        World::origin(block) == node || self.nodes[node].cache.contains(&block)
    }

    /// A node gets a block and keeps it.
    fn keep(&mut self, node: usize, block: usize) {
        if self.has(node, block) {
            return;
        }
        let keeper = &mut self.nodes[node];
        if keeper.cache.len() >= CACHE
            && let Some(oldest) = keeper.cache.pop_front()
        {
            keeper.taken.remove(&oldest);
        }
        keeper.cache.push_back(block);
        self.providers[block].insert(node);
    }

    /// One node gives a block to another.
    fn give(&mut self, from: usize, to: PeerId, block: usize, now: Timestamp) {
        if self.setting == Setting::Popularity {
            self.nodes[from].given.count(to, self.world.ids[block], now);
        }
        self.minute.bytes += u64::from(BLOCK_BYTES);
        if block == RANK && from == World::origin(block) {
            self.minute.origin += 1;
        }
    }

    fn miss(&mut self, asked: usize, by: PeerId, block: usize, now: Timestamp) {
        if self.setting == Setting::Popularity {
            self.nodes[asked]
                .missed
                .count(by, self.world.ids[block], now);
        }
    }

    fn reader(&self, random: &mut Random) -> Reader {
        let (node, stays) = (random.below(NODES), random.below(10) >= PASSING);
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&random.next().to_be_bytes());
        let stranger = Multihash::wrap(0x12, &hash).expect("32 bytes fit");
        let stranger = PeerId::from_multihash(stranger).expect("a hash of a key");
        Reader {
            peer: if stays {
                self.nodes[node].peer
            } else {
                stranger
            },
            node,
            stays,
        }
    }

    fn request(&mut self, reader: Reader, block: usize, now: Timestamp) {
        if reader.stays && self.has(reader.node, block) {
            return;
        }
        let (giver, hops) = self.find(reader, block, now);
        if block == RANK {
            self.minute.requests += 1;
            self.minute.hops += hops;
        }
        self.give(giver, reader.peer, block, now);
        if reader.stays && self.setting != Setting::Nothing {
            self.keep(reader.node, block);
        }
    }

    /// Who gives a block, and after how many hops.
    fn find(&mut self, reader: Reader, block: usize, now: Timestamp) -> (usize, u64) {
        let places = &self.world.places[block];
        let mut near = self.nodes[reader.node].connected.clone();
        if !reader.stays {
            near.push(reader.node);
        }
        near.sort_by_key(|node| places[*node]);
        near.truncate(HAVE_PEERS);
        if let Some(giver) = near.iter().find(|node| self.has(**node, block)) {
            return (*giver, 1);
        }
        for node in near {
            self.miss(node, reader.peer, block, now);
        }
        let (mut at, mut hops) = (reader.node, 1);
        while usize::from(places[at]) >= KEEPERS {
            let connected = self.nodes[at].connected.iter();
            let Some(next) = connected.min_by_key(|node| places[**node]).copied() else {
                break;
            };
            if places[next] >= places[at] {
                break;
            }
            at = next;
            hops += 1;
            if self.has(at, block) {
                return (at, hops);
            }
        }
        let mut providers: Vec<usize> = self.providers[block].iter().copied().collect();
        providers.push(World::origin(block));
        loop {
            let provider = providers.swap_remove(self.random.below(providers.len()));
            hops += 1;
            if self.has(provider, block) {
                return (provider, hops);
            }
            // A record lasts longer than the block did.
            self.miss(provider, reader.peer, block, now);
        }
    }

    /// What the job for popular blocks does at one node.
    fn round(&mut self, number: usize, now: Timestamp) {
        let limits = policy::Limits::default();
        let mut hot = Vec::new();
        for hottest in self.nodes[number].given.hottest(HOTTEST, now) {
            let block = self.world.of_id[&hottest.id];
            if policy::target_copies(hottest.rate, &limits) == 0 {
                break;
            }
            if !self.has(number, block) {
                self.nodes[number].given.forget(&hottest.id);
                continue;
            }
            hot.push(HotBlock {
                id: hottest.id,
                bytes: BLOCK_BYTES,
                rate: hottest.rate,
                askers: hottest.askers,
            });
        }
        if hot.is_empty() {
            return;
        }
        let connected = self.nodes[number].connected.iter();
        let facts = Facts {
            hot,
            connected: connected.map(|node| self.nodes[*node].key).collect(),
        };
        for offer in policy::choose(now, &facts, &self.nodes[number].ledger, &limits) {
            let to = self.world.numbers[&offer.peer];
            let wishes = self.offered(number, to, &offer.blocks, now);
            let ledger = &mut self.nodes[number].ledger;
            for ((id, bytes), wish) in offer.blocks.iter().zip(&wishes) {
                match wish {
                    Wish::Want => {
                        ledger.heard(offer.peer, *id, Heard::Wants, now);
                        ledger.spend(u64::from(*bytes), now, &limits);
                    }
                    Wish::Have => {
                        ledger.heard(offer.peer, *id, Heard::Has, now);
                    }
                    Wish::Refuse(refusal) => {
                        let minutes = if *refusal == Refusal::Busy { 2 } else { 30 };
                        ledger.rest(offer.peer, now.after(Duration::from_secs(60 * minutes)));
                    }
                }
            }
            for ((id, _), wish) in offer.blocks.iter().zip(&wishes) {
                let block = self.world.of_id[id];
                if *wish == Wish::Want && !self.has(to, block) {
                    self.give(number, offer.peer, block, now);
                    self.keep(to, block);
                    self.nodes[to].taken.insert(block);
                    self.minute.pushed += u64::from(block == RANK);
                }
            }
        }
    }

    fn offered(
        &self,
        from: usize,
        to: usize,
        blocks: &[(BlockId, u32)],
        now: Timestamp,
    ) -> Vec<Wish> {
        let node = &self.nodes[to];
        let rate = |id: &BlockId| node.given.rate(id, now) + node.missed.rate(id, now);
        let bytes = |blocks: usize| (blocks as u64) * u64::from(BLOCK_BYTES);
        let cached = node.cache.iter().map(|block| rate(&self.world.ids[*block]));
        let room = Room {
            quota: bytes(CACHE),
            free: bytes(CACHE - node.cache.len()),
            cached: bytes(node.cache.len()),
            taken: bytes(node.taken.len()),
            of_peer: 0,
            of_strangers: 0,
            coldest: cached.fold(f64::INFINITY, f64::min),
        };
        let offered: Vec<Offered> = blocks
            .iter()
            .map(|(id, bytes)| Offered {
                id: *id,
                bytes: *bytes,
                is_here: self.has(to, self.world.of_id[id]),
                is_coming: false,
                rate: rate(id),
            })
            .collect();
        assert_ne!(from, to, "nobody makes an offer to itself");
        let limits = accept::Limits::default();
        let (standing, load) = (Standing::Member, Load::default());
        accept::decide(Why::Popular, standing, &offered, &room, &load, &limits)
    }

    fn run(&mut self) -> Vec<Minute> {
        let mut minutes = Vec::new();
        let mut readers = Random(2);
        let mut crowd = 0.0;
        let share = 1.0 / (RANK as f64 + 1.0) / self.world.shares[BLOCKS - 1];
        for minute in 0..MINUTES {
            for at in (0..60_000).step_by(BETWEEN_MS as usize) {
                let now = Timestamp(START_MS + minute * 60_000 + at);
                let block = self.world.draw(&mut readers);
                let reader = self.reader(&mut readers);
                self.request(reader, block, now);
                if CROWD_MINUTES.contains(&minute) {
                    crowd += share * (CROWD - 1) as f64;
                }
                while crowd >= 1.0 {
                    crowd -= 1.0;
                    let reader = self.reader(&mut readers);
                    self.request(reader, RANK, now);
                }
                // Each node has its turn twice a minute.
                let turn = (at % ROUND_MS) / BETWEEN_MS;
                let turns = NODES as u64 * BETWEEN_MS / ROUND_MS;
                if self.setting == Setting::Popularity {
                    for node in turn * turns..(turn + 1) * turns {
                        self.round(node as usize, now);
                    }
                }
            }
            let have = (0..NODES).filter(|node| self.has(*node, RANK));
            self.minute.copies = have.count() as u64;
            minutes.push(std::mem::take(&mut self.minute));
        }
        minutes
    }
}

fn simulate(setting: Setting, world: &World) -> Vec<Minute> {
    let mut mesh = Mesh {
        setting,
        world,
        nodes: world.nodes.clone(),
        providers: vec![BTreeSet::new(); BLOCKS],
        random: Random(3),
        minute: Minute::default(),
    };
    mesh.run()
}

fn sum(minutes: &[Minute], value: impl Fn(&Minute) -> u64) -> u64 {
    minutes.iter().map(value).sum()
}

/// With `LIBERNET_FIGURE` set to the path of an SVG file, the figure is written there and the numbers beside it.
#[test]
fn copies_of_popular_blocks_spare_the_origin() {
    let world = &World::new();
    let settings = [Setting::Nothing, Setting::Caching, Setting::Popularity];
    let runs = std::thread::scope(|scope| {
        let started = settings.map(|setting| scope.spawn(move || simulate(setting, world)));
        started.map(|run| run.join().expect("no panic"))
    });
    if let Some(path) = std::env::var_os("LIBERNET_FIGURE") {
        let path = std::path::PathBuf::from(path);
        std::fs::write(&path, figure::svg(&runs)).expect("the figure is written");
        std::fs::write(path.with_extension("csv"), figure::csv(&runs)).expect("and the numbers");
    }
    let all = |value: fn(&Minute) -> u64| runs.each_ref().map(|run| sum(run, value));
    let (origin, bytes, pushed) = (all(|m| m.origin), all(|m| m.bytes), all(|m| m.pushed));
    let (requests, hops) = (all(|m| m.requests), all(|m| m.hops));
    println!(
        "origin {origin:?} bytes {bytes:?} pushed {pushed:?} requests {requests:?} hops {hops:?}"
    );
    let [nothing, caching, popularity] = origin;
    assert!(
        3 * popularity < 2 * caching && 10 * caching < nothing,
        "{origin:?}"
    );
    let hops = |run: usize| hops[run] as f64 / requests[run] as f64;
    assert!(hops(2) < hops(1) && hops(1) < hops(0));
    // Copies of all blocks together cost little beside what readers fetch, and there are never more of one than the policy allows for each giver.
    assert!(bytes[2] < bytes[1] + bytes[1] / 20, "{bytes:?}");
    assert!(pushed[2] > 0 && pushed[2] < NODES as u64, "{pushed:?}");
    assert_eq!((pushed[0], pushed[1]), (0, 0));
}
