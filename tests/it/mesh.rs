//! A mesh of many nodes in one process, over links that can be cut: put, get, loss of nodes, lying and silent peers.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use libernet::block::{Attempt, Block, BlockSink, BlockSource, GetError};
use libernet::depot::serve::Server;
use libernet::depot::{Depot, Pending};
use libernet::id::BlockId;
use libernet::net::exchange::{Answer, BlockService, Want};
use libernet::net::providers::MemoryShelf;
use libernet::net::{Net, NetConfig, Services};
use libernet::store::{Keep, MemoryStore, Store, StoreOptions};
use libp2p::PeerId;
use libp2p::identity::Keypair;

use crate::sample::noise;

/// How long a search may take before a test calls it lost.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a node answers others.
#[derive(Clone, Copy, PartialEq)]
enum Manners {
    Honest,
    /// Says that it has every block and sends other bytes.
    Lying,
    /// Says that it has every block and never sends one.
    Silent,
}

struct Rude {
    manners: Manners,
    asked: Arc<AtomicU64>,
}

#[async_trait]
impl BlockService for Rude {
    async fn blocks(&self, _: PeerId, ids: Vec<BlockId>, want: Want, _: usize) -> Vec<Answer> {
        if want == Want::Have {
            return vec![Answer::Have; ids.len()];
        }
        self.asked.fetch_add(1, Ordering::Relaxed);
        if self.manners == Manners::Silent {
            return std::future::pending().await;
        }
        vec![Answer::Block(Bytes::from_static(b"not what you asked for")); ids.len()]
    }
}

struct SimNode {
    net: Net,
    depot: Depot,
    asked: Arc<AtomicU64>,
}

impl SimNode {
    async fn start(bootstrap: Option<&SimNode>, manners: Manners) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions::default()));
        let server = Arc::new(Server::new(store.clone()));
        let asked = Arc::new(AtomicU64::new(0));
        let blocks: Arc<dyn BlockService> = match manners {
            Manners::Honest => server.clone(),
            _ => Arc::new(Rude {
                manners,
                asked: asked.clone(),
            }),
        };
        let services = Services {
            blocks,
            records: Arc::new(MemoryShelf::default()),
        };
        let mut config = NetConfig::in_memory(Keypair::generate_ed25519());
        config.bootstrap = bootstrap
            .map(|node| node.net.listen_addresses()[0].clone())
            .into_iter()
            .collect();
        let net = Net::start(config, services).await.expect("the node starts");
        let depot = Depot::new(store, net.clone(), &server, Arc::new(Pending::default()));
        Self { net, depot, asked }
    }

    fn peer(&self) -> PeerId {
        self.net.peer_id()
    }

    async fn put(&self, count: u64, seed: u64) -> Vec<BlockId> {
        let blocks: Vec<Block> = (0..count)
            .map(|n| Block::new(noise(seed * 1000 + n, 20_000).into()).expect("a block"))
            .collect();
        let ids = blocks.iter().map(Block::id).collect();
        let sink = self.depot.sink(Keep::Cached);
        sink.put(blocks).await.expect("there is room");
        sink.commit().await.expect("it is kept");
        ids
    }

    async fn announce(&self, ids: &[BlockId]) -> usize {
        let keys = ids.iter().map(BlockId::to_multihash).collect();
        self.net
            .providers()
            .announce(keys)
            .await
            .expect("it runs")
            .peers_reached
    }

    /// Gets blocks as a restore does; the peers that gave them.
    async fn get(&self, ids: &[BlockId], patience: Duration) -> Result<HashSet<PeerId>, GetError> {
        let session = self.depot.session(patience, Keep::Cached);
        let mut blocks = futures::stream::iter(ids.to_vec())
            .map(|id| {
                let session = session.clone();
                async move { session.get(id).await }
            })
            .buffer_unordered(16);
        let mut got = HashSet::new();
        while let Some(block) = blocks.next().await {
            got.insert(block?.id());
        }
        assert_eq!(got, ids.iter().copied().collect());
        Ok(session.gifts().into_iter().map(|(peer, _)| peer).collect())
    }

    async fn stop(self) {
        self.depot.stop();
        self.net.shutdown().await;
    }
}

/// Starts `count` honest nodes, each knowing only the one before it, and waits until every one has found others.
async fn mesh(count: usize) -> Vec<SimNode> {
    let mut nodes: Vec<SimNode> = Vec::new();
    for _ in 0..count {
        let node = SimNode::start(nodes.last(), Manners::Honest).await;
        if !nodes.is_empty() {
            connected(&node, 1).await;
        }
        nodes.push(node);
    }
    nodes
}

/// Waits until a node has as many peers.
async fn connected(node: &SimNode, count: usize) {
    let mut events = node.net.events();
    let enough = async {
        while node.net.peers().connected().len() < count {
            // Missed events don't matter: the count is looked at again.
            let _ = events.recv().await;
        }
    };
    tokio::time::timeout(PATIENCE, enough)
        .await
        .expect("peers connect");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_are_found_across_twenty_nodes_and_outlive_their_source() {
    let mut nodes = mesh(20).await;
    let ids = nodes[0].put(60, 1).await;
    assert!(nodes[0].announce(&ids).await > 0);
    let givers = nodes[19]
        .get(&ids, PATIENCE)
        .await
        .expect("found through the DHT");
    assert_eq!(givers, HashSet::from([nodes[0].peer()]));
    assert!(nodes[19].announce(&ids).await > 0);

    // The source and its neighbours go away; the copy stays reachable.
    let copy = nodes[19].peer();
    for node in nodes.drain(..3) {
        node.stop().await;
    }
    let givers = nodes[5]
        .get(&ids, PATIENCE)
        .await
        .expect("found at the copy");
    assert_eq!(givers, HashSet::from([copy]));
    for node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_providers_share_the_load() {
    let hub = SimNode::start(None, Manners::Honest).await;
    let mut seeders = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..4 {
        let node = SimNode::start(Some(&hub), Manners::Honest).await;
        connected(&node, 1).await;
        ids = node.put(120, 2).await;
        node.announce(&ids).await;
        seeders.push(node);
    }
    let reader = SimNode::start(Some(&hub), Manners::Honest).await;
    connected(&reader, 1).await;
    let givers = reader.get(&ids, PATIENCE).await.expect("all are there");
    assert!(givers.len() >= 3, "{} of 4 seeders gave", givers.len());
    for node in seeders.into_iter().chain([hub, reader]) {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn liars_are_caught_and_the_block_comes_from_elsewhere() {
    let hub = SimNode::start(None, Manners::Honest).await;
    let honest = SimNode::start(Some(&hub), Manners::Honest).await;
    connected(&honest, 1).await;
    let ids = honest.put(20, 3).await;
    honest.announce(&ids).await;
    let mut liars = Vec::new();
    for _ in 0..3 {
        let liar = SimNode::start(Some(&hub), Manners::Lying).await;
        connected(&liar, 1).await;
        liar.announce(&ids).await;
        liars.push(liar);
    }
    let reader = SimNode::start(Some(&hub), Manners::Honest).await;
    connected(&reader, 1).await;
    let givers = reader
        .get(&ids, PATIENCE)
        .await
        .expect("the honest one has them");
    assert_eq!(givers, HashSet::from([honest.peer()]));
    let lies: u64 = liars
        .iter()
        .map(|liar| liar.asked.load(Ordering::Relaxed))
        .sum();
    let counted = reader.depot.traffic().wrong_blocks.load(Ordering::Relaxed);
    assert!(
        counted > 0 && counted <= lies,
        "{counted} counted, {lies} told"
    );

    // Who was lied to keeps away from the liars. Somebody new, with only liars to ask, is told who they are and what they did.
    let newcomer = SimNode::start(Some(&hub), Manners::Honest).await;
    connected(&newcomer, 1).await;
    let lost = [Block::new(noise(99, 1000).into()).expect("a block").id()];
    for liar in &liars {
        liar.announce(&lost).await;
    }
    let error = newcomer
        .get(&lost, Duration::from_secs(10))
        .await
        .expect_err("nobody has it");
    let GetError::NotFound { id, tried, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*id, lost[0]);
    let wrong: Vec<&str> = tried
        .iter()
        .filter(|t| t.attempt == Attempt::WrongBytes)
        .map(|t| t.peer.as_str())
        .collect();
    assert!(!wrong.is_empty(), "{error}");
    assert!(
        liars
            .iter()
            .any(|liar| wrong.contains(&liar.peer().to_string().as_str())),
        "{error}"
    );
    for node in liars.into_iter().chain([hub, honest, reader, newcomer]) {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_peers_delay_but_do_not_stop_a_transfer() {
    let silent = SimNode::start(None, Manners::Silent).await;
    let honest = SimNode::start(Some(&silent), Manners::Honest).await;
    connected(&honest, 1).await;
    let ids = honest.put(20, 4).await;
    let reader = SimNode::start(Some(&silent), Manners::Honest).await;
    reader
        .net
        .peers()
        .connect(honest.net.listen_addresses()[0].clone())
        .await
        .expect("it answers");
    connected(&reader, 2).await;
    let givers = reader
        .get(&ids, PATIENCE)
        .await
        .expect("the honest one has them");
    assert_eq!(givers, HashSet::from([honest.peer()]));
    for node in [silent, honest, reader] {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_link_is_routed_around() {
    let near = SimNode::start(None, Manners::Honest).await;
    let far = SimNode::start(Some(&near), Manners::Honest).await;
    connected(&far, 1).await;
    let reader = SimNode::start(Some(&near), Manners::Honest).await;
    connected(&reader, 1).await;
    let ids = near.put(40, 5).await;
    far.put(40, 5).await;
    near.announce(&ids).await;
    far.announce(&ids).await;
    reader
        .get(&ids[..10], PATIENCE)
        .await
        .expect("both are there");
    // From here on the reader and the near node can't talk; the far one is still there.
    reader.net.peers().block(near.peer()).await;
    near.net.peers().block(reader.peer()).await;
    reader
        .net
        .peers()
        .connect(far.net.listen_addresses()[0].clone())
        .await
        .expect("it answers");
    let givers = reader
        .get(&ids[10..], PATIENCE)
        .await
        .expect("the far one has them");
    assert_eq!(givers, HashSet::from([far.peer()]));
    // And when that link is cut too, the search ends in time and says whom it asked.
    reader.net.peers().block(far.peer()).await;
    far.net.peers().block(reader.peer()).await;
    let more = near.put(1, 6).await;
    near.announce(&more).await;
    let error = reader
        .get(&more, Duration::from_secs(2))
        .await
        .expect_err("cut off");
    assert!(matches!(error, GetError::NotFound { .. }), "{error}");
    near.net.peers().unblock(reader.peer()).await;
    reader.net.peers().unblock(near.peer()).await;
    reader
        .net
        .peers()
        .connect(near.net.listen_addresses()[0].clone())
        .await
        .expect("the link is back");
    reader
        .get(&more, PATIENCE)
        .await
        .expect("and so is the block");
    for node in [near, far, reader] {
        node.stop().await;
    }
}
