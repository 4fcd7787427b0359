//! Nets in one process: over memory, and over real sockets.

mod exchange;
mod fair;
mod heads;
mod hostile;
mod mesh;
mod peers;
mod rings;
mod security;
mod sockets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use libp2p::PeerId;
use libp2p::identity::Keypair;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::timeout;

use super::exchange::{Answer, BlockService, Standing, Want};
use super::providers::MemoryShelf;
use super::{Event, Net, NetConfig, Services};
use crate::block::Block;
use crate::id::BlockId;

/// Far longer than anything here takes: a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(90);

/// Serves blocks from memory; each answer waits for a permit.
struct Shelf {
    blocks: Mutex<HashMap<BlockId, Bytes>>,
    gate: Semaphore,
    /// Requests that have reached the service.
    asked: watch::Sender<usize>,
    /// Of those who are not newcomers.
    standings: Mutex<HashMap<PeerId, Standing>>,
    /// Who has reached the service, in order.
    served: Mutex<Vec<PeerId>>,
}

impl Shelf {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            blocks: Mutex::default(),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            asked: watch::Sender::new(0),
            standings: Mutex::default(),
            served: Mutex::default(),
        })
    }

    /// One that answers only when the test adds permits.
    fn closed() -> Arc<Self> {
        Arc::new(Self {
            blocks: Mutex::default(),
            gate: Semaphore::new(0),
            asked: watch::Sender::new(0),
            standings: Mutex::default(),
            served: Mutex::default(),
        })
    }

    fn put(&self, bytes: Bytes) -> BlockId {
        let id = Block::new(bytes.clone()).expect("a block's size").id();
        self.blocks.lock().expect("not poisoned").insert(id, bytes);
        id
    }

    fn set_standing(&self, peer: PeerId, standing: Standing) {
        let mut standings = self.standings.lock().expect("not poisoned");
        standings.insert(peer, standing);
    }

    async fn wait_asked(&self, requests: usize) {
        let mut asked = self.asked.subscribe();
        within(asked.wait_for(|asked| *asked >= requests))
            .await
            .expect("the shelf lives");
    }
}

#[async_trait]
impl BlockService for Shelf {
    fn standing(&self, peer: PeerId) -> Standing {
        let standings = self.standings.lock().expect("not poisoned");
        standings.get(&peer).copied().unwrap_or(Standing::Newcomer)
    }

    async fn blocks(&self, peer: PeerId, ids: Vec<BlockId>, want: Want, _: usize) -> Vec<Answer> {
        self.served.lock().expect("not poisoned").push(peer);
        self.asked.send_modify(|asked| *asked += 1);
        self.gate.acquire().await.expect("never closed").forget();
        let blocks = self.blocks.lock().expect("not poisoned");
        ids.iter()
            .map(|id| match (blocks.get(id), want) {
                (Some(bytes), Want::Block) => Answer::Block(bytes.clone()),
                (Some(_), Want::Have) => Answer::Have,
                (None, _) => Answer::DontHave,
            })
            .collect()
    }
}

fn services(blocks: Arc<Shelf>) -> Services {
    Services {
        blocks,
        records: Arc::new(MemoryShelf::new()),
    }
}

fn memory() -> NetConfig {
    NetConfig::in_memory(Keypair::generate_ed25519())
}

async fn start(config: NetConfig, blocks: &Arc<Shelf>) -> Net {
    within(Net::start(config, services(blocks.clone())))
        .await
        .expect("it starts")
}

/// Two nets, the first connected to the second, and the second's shelf.
async fn pair(blocks: Arc<Shelf>) -> (Net, Net) {
    let (a, b) = (
        start(memory(), &Shelf::new()).await,
        start(memory(), &blocks).await,
    );
    connect(&a, &b).await;
    (a, b)
}

async fn connect(a: &Net, b: &Net) {
    let address = b.listen_addresses()[0].clone();
    let peer = a.peers().connect(address).await.expect("it connects");
    assert_eq!(peer, b.peer_id());
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .expect("it takes far too long")
}

/// Waits for an event that fits.
async fn wait_event(
    events: &mut broadcast::Receiver<Event>,
    fits: impl Fn(&Event) -> bool,
) -> Event {
    within(async {
        loop {
            let event = events.recv().await.expect("the net lives");
            if fits(&event) {
                return event;
            }
        }
    })
    .await
}

/// Waits until `net` is connected to all of `peers`, or to none of them.
async fn wait_connected(net: &Net, peers: &[PeerId], connected: bool) {
    let mut now = net.peers().watch_connected();
    let fits = |now: &Arc<Vec<PeerId>>| peers.iter().all(|peer| now.contains(peer) == connected);
    within(now.wait_for(fits)).await.expect("the net lives");
}

fn some_block(fill: u8, len: usize) -> Bytes {
    Bytes::from(vec![fill; len])
}
