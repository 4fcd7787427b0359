//! Crowds in a simulated network: many fetch the same from one, over links with a pace.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use libp2p::PeerId;
use libp2p::identity::Keypair;

use super::serve::Server;
use super::{Depot, Pending};
use crate::block::{Attempt, Block, BlockSink, BlockSource, GetError};
use crate::id::BlockId;
use crate::net::exchange::{Answer, BlockService, Want};
use crate::net::providers::MemoryShelf;
use crate::net::{Net, NetConfig, Services};
use crate::store::{Keep, MemoryStore, Store, StoreOptions};

const BLOCK_BYTES: u64 = 4000;
const BLOCKS: u64 = 200;
/// Blocks that a fetcher asks for at once.
const WINDOW: usize = 16;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Honest,
    /// Says that it has every block and, asked for one, that it has not.
    Empty,
    /// Says that it has every block and never answers when asked for one.
    Silent,
    /// Never answers anything.
    Mute,
}

/// A node's uplink: one block after the other.
struct Uplink {
    server: Arc<Server>,
    manners: Manners,
    turn: tokio::sync::Mutex<()>,
    pace: Duration,
    asked: Arc<AtomicUsize>,
}

#[async_trait]
impl BlockService for Uplink {
    async fn blocks(&self, peer: PeerId, ids: Vec<BlockId>, want: Want, max: usize) -> Vec<Answer> {
        if want == Want::Have {
            return match self.manners {
                Manners::Honest => self.server.blocks(peer, ids, want, max).await,
                Manners::Empty | Manners::Silent => vec![Answer::Have; ids.len()],
                Manners::Mute => std::future::pending().await,
            };
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.manners {
            Manners::Honest => {
                let _turn = self.turn.lock().await;
                tokio::time::sleep(self.pace).await;
                self.server.blocks(peer, ids, want, max).await
            }
            Manners::Empty => vec![Answer::DontHave; ids.len()],
            Manners::Silent | Manners::Mute => std::future::pending().await,
        }
    }
}

struct Node {
    net: Net,
    depot: Depot,
    asked: Arc<AtomicUsize>,
}

impl Node {
    async fn start(manners: Manners, others: &[Node]) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions::default()));
        let server = Arc::new(Server::new(store.clone()));
        let asked = Arc::new(AtomicUsize::new(0));
        let blocks = Arc::new(Uplink {
            server: server.clone(),
            manners,
            turn: tokio::sync::Mutex::default(),
            pace: Duration::from_millis(20),
            asked: asked.clone(),
        });
        let services = Services {
            blocks,
            records: Arc::new(MemoryShelf::default()),
        };
        let config = NetConfig::in_memory(Keypair::generate_ed25519());
        let net = Net::start(config, services).await.expect("it starts");
        for other in others {
            let address = other.net.listen_addresses()[0].clone();
            net.peers().connect(address).await.expect("it answers");
        }
        let depot = Depot::new(store, net.clone(), &server, Arc::new(Pending::default()));
        Self { net, depot, asked }
    }

    fn sent(&self) -> u64 {
        self.depot.traffic().served_bytes.load(Ordering::Relaxed)
    }

    /// Fetches all blocks as an extraction does, from those that `source` and others have. Stops for good after `limit`.
    async fn fetch(&self, source: PeerId, ids: &[BlockId], limit: usize) {
        let session = self.depot.session(PATIENCE, Keep::Cached);
        session.prefer(source);
        session.get(ids[0]).await.expect("the root is there");
        let mut waiting: VecDeque<BlockId> = ids[1..].iter().copied().collect();
        let mut running = FuturesUnordered::new();
        let mut done = 1;
        while done < limit.min(ids.len()) {
            while running.len() < WINDOW && !waiting.is_empty() {
                let first = session.first_of(waiting.make_contiguous());
                let id = waiting.remove(first).expect("one of those offered");
                let session = session.clone();
                running.push(async move { session.get(id).await });
            }
            let block = running.next().await.expect("some are left");
            block.expect("it is there");
            done += 1;
        }
    }
}

/// A seeder with all blocks, the first, and so many others, all connected.
async fn crowd(manners: &[Manners]) -> (Vec<Node>, Vec<BlockId>) {
    let mut nodes = vec![Node::start(Manners::Honest, &[]).await];
    for manners in manners {
        let node = Node::start(*manners, &nodes).await;
        nodes.push(node);
    }
    let blocks: Vec<Block> = (0..BLOCKS)
        .map(|number| {
            let bytes: Vec<u8> = (0..BLOCK_BYTES / 8)
                .flat_map(|at| (number * BLOCK_BYTES + at).to_be_bytes())
                .collect();
            Block::new(bytes.into()).expect("a block")
        })
        .collect();
    let ids = blocks.iter().map(Block::id).collect();
    let sink = nodes[0].depot.sink(Keep::Cached);
    sink.put(blocks).await.expect("there is room");
    // Only from here on: some of what happens while peers connect goes by another clock.
    tokio::time::pause();
    (nodes, ids)
}

async fn stop(nodes: Vec<Node>) {
    for node in nodes {
        node.depot.stop();
        node.net.shutdown().await;
    }
}

fn files_sent(seeder: &Node) -> f64 {
    let sent = seeder.sent() as f64 / (BLOCKS * BLOCK_BYTES) as f64;
    println!("the seeder sent {sent} files");
    sent
}

#[tokio::test]
async fn of_ten_who_fetch_at_once_each_gets_most_from_the_others() {
    let (nodes, ids) = crowd(&[Manners::Honest; 10]).await;
    let seeder = nodes[0].net.peer_id();
    let all = nodes[1..]
        .iter()
        .map(|node| node.fetch(seeder, &ids, usize::MAX));
    futures::future::join_all(all).await;
    let sent = files_sent(&nodes[0]);
    assert!(sent <= 2.5, "the seeder sent {sent} files");
    assert!(sent >= 1.0);
    stop(nodes).await;
}

#[tokio::test]
async fn who_claims_to_have_everything_and_has_nothing_stops_nobody() {
    claims_and_gives_nothing(Manners::Empty).await;
}

#[tokio::test]
async fn who_claims_to_have_everything_and_is_silent_stops_nobody() {
    claims_and_gives_nothing(Manners::Silent).await;
}

async fn claims_and_gives_nothing(rude: Manners) {
    let (nodes, ids) = crowd(&[Manners::Honest, Manners::Honest, Manners::Honest, rude]).await;
    let seeder = nodes[0].net.peer_id();
    let all = nodes[1..4]
        .iter()
        .map(|node| node.fetch(seeder, &ids, usize::MAX));
    futures::future::join_all(all).await;
    let asked = nodes[4].asked.load(Ordering::Relaxed);
    assert!(asked < 3 * BLOCKS as usize / 2, "asked {asked} times");
    stop(nodes).await;
}

#[tokio::test]
async fn who_vanishes_in_the_middle_stops_nobody() {
    let (mut nodes, ids) = crowd(&[Manners::Honest; 5]).await;
    let seeder = nodes[0].net.peer_id();
    let leaver = nodes.pop().expect("the last");
    let leaves = async {
        leaver.fetch(seeder, &ids, BLOCKS as usize / 4).await;
        stop(vec![leaver]).await;
    };
    let all = nodes[1..]
        .iter()
        .map(|node| node.fetch(seeder, &ids, usize::MAX));
    futures::join!(leaves, futures::future::join_all(all));
    let sent = files_sent(&nodes[0]);
    assert!(sent <= 2.5, "the seeder sent {sent} files");
    stop(nodes).await;
}

/// One source and one reader: nobody waits for anybody.
#[tokio::test]
async fn alone_each_block_is_asked_for_once_and_at_once() {
    let (nodes, ids) = crowd(&[Manners::Honest]).await;
    let began = tokio::time::Instant::now();
    nodes[1]
        .fetch(nodes[0].net.peer_id(), &ids, usize::MAX)
        .await;
    let pace = Duration::from_millis(20) * BLOCKS as u32;
    let took = began.elapsed();
    assert!(took < pace + pace / 10, "{took:?} in place of {pace:?}");
    assert_eq!(nodes[0].asked.load(Ordering::Relaxed), ids.len());
    stop(nodes).await;
}

/// Time for which a session with so much patience looks for a block, and what it says.
async fn look(node: &Node, id: BlockId, patience: Duration) -> (Duration, Result<Block, GetError>) {
    let began = tokio::time::Instant::now();
    let session = node.depot.session(patience, Keep::Cached);
    let got = session.get(id).await;
    (began.elapsed(), got)
}

const SHORT: Duration = Duration::from_secs(1);

/// As when a `get` wants what the heal job is looking for.
#[tokio::test]
async fn a_reader_ends_at_its_own_deadline_behind_one_with_more_patience() {
    let (nodes, _) = crowd(&[]).await;
    let nowhere = BlockId::from_sha384([7; 48]);
    let patient = nodes[0].depot.session(PATIENCE, Keep::Cached);
    let mut other = pin!(patient.get(nowhere));
    tokio::select! {
        _ = &mut other => panic!("nobody has it"),
        () = tokio::time::sleep(SHORT) => {}
    }
    let looks = async {
        let (took, got) = look(&nodes[0], nowhere, SHORT).await;
        assert!(matches!(got, Err(GetError::NotFound { .. })));
        assert!(took >= SHORT && took < 2 * SHORT, "{took:?}");
    };
    tokio::select! {
        _ = &mut other => panic!("it has more patience"),
        () = looks => {}
    }
    stop(nodes).await;
}

#[tokio::test]
async fn a_reader_ends_at_its_own_deadline_while_a_peer_is_silent() {
    let (nodes, _) = crowd(&[Manners::Silent, Manners::Honest]).await;
    let nowhere = BlockId::from_sha384([7; 48]);
    let (took, got) = look(&nodes[2], nowhere, SHORT).await;
    let Err(GetError::NotFound { tried, .. }) = got else {
        panic!("nobody gives it");
    };
    assert!(took >= SHORT && took < 2 * SHORT, "{took:?}");
    let silent = nodes[1].net.peer_id().to_string();
    let said = tried.iter().find(|one| one.peer == silent);
    assert_eq!(said.map(|one| one.attempt), Some(Attempt::TimedOut));
    stop(nodes).await;
}

/// After the first blocks that nobody gives the next ones are given up sooner and sooner.
#[tokio::test]
async fn many_missing_blocks_take_no_patience_each() {
    let (nodes, _) = crowd(&[Manners::Silent]).await;
    let session = nodes[0].depot.session(PATIENCE, Keep::Cached);
    session.prefer(nodes[1].net.peer_id());
    let began = tokio::time::Instant::now();
    for n in 0..20 {
        let got = session.get(BlockId::from_sha384([n; 48])).await;
        assert!(matches!(got, Err(GetError::NotFound { .. })));
    }
    let took = began.elapsed();
    assert!(took < 2 * PATIENCE, "{took:?}");
    stop(nodes).await;
}

#[tokio::test]
async fn many_that_never_answer_hide_no_holder() {
    let (nodes, ids) = crowd(&[&[Manners::Mute; 22][..], &[Manners::Honest]].concat()).await;
    let reader = nodes.last().expect("the last");
    let (took, got) = look(reader, ids[0], PATIENCE).await;
    got.expect("one has it");
    let two_rounds = Duration::from_secs(12);
    assert!(took < two_rounds, "{took:?}");
    // Once each has been silent they are remembered: another piece of work asks them last.
    let (_, got) = look(reader, BlockId::from_sha384([7; 48]), two_rounds).await;
    assert!(got.is_err(), "nobody has it");
    let (took, got) = look(reader, ids[1], PATIENCE).await;
    got.expect("one has it");
    assert!(took < SHORT, "{took:?}");
    stop(nodes).await;
}

#[tokio::test]
async fn a_peer_that_connects_later_is_asked_at_once() {
    let (nodes, ids) = crowd(&[]).await;
    let late = Node::start(Manners::Honest, &[]).await;
    let looks = look(&late, ids[0], Duration::from_secs(3600));
    let comes = async {
        // By now searches are far apart.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let address = nodes[0].net.listen_addresses()[0].clone();
        late.net.peers().connect(address).await.expect("it answers");
        tokio::time::Instant::now()
    };
    let began = tokio::time::Instant::now();
    let ((took, got), came) = futures::join!(looks, comes);
    got.expect("it is there by now");
    assert!(began + took < came + SHORT, "{took:?}");
    stop(nodes).await;
    stop(vec![late]).await;
}
