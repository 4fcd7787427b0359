//! What a net is started with.

use std::sync::Arc;

use libp2p::Multiaddr;
use libp2p::identity::Keypair;

use super::exchange::{BlockService, Rates};
use super::limits::Limits;
use super::pace::Pace;
use super::providers::RecordShelf;
use crate::time::{Clock, SystemClock};

/// The name of the public network.
pub const DEFAULT_NETWORK: &str = "libernet";

/// Settings of a net.
#[derive(Clone)]
pub struct NetConfig {
    /// The node's key; its public half is the peer id.
    pub key: Keypair,
    /// Name of the network: nodes of other networks are not talked to.
    pub network: String,
    /// Where to listen. Port 0 picks a free one.
    pub listen: Vec<Multiaddr>,
    /// Whether a person chose these addresses: then each is needed. Of the program's own choice one
    /// that works is enough.
    pub listen_chosen: bool,
    /// Peers to connect to at the start; with or without a trailing `/p2p/<peer id>`.
    pub bootstrap: Vec<Multiaddr>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// Whether to ask the router to pass a port on.
    pub port_mapping: bool,
    /// Whether to answer the DHT's questions even without a confirmed external address.
    pub kad_server: bool,
    /// Talk over `/memory/N` addresses inside this process only: no sockets. For tests and simulations.
    pub memory_transport: bool,
    /// Upper bounds.
    pub limits: Limits,
    /// How fast blocks may move; can be changed while the net runs.
    pub pace: Pace,
    /// What is offered, and wanted, for blocks.
    pub rates: Rates,
    /// What peers are told about the program: name and version.
    pub agent: String,
    /// Where the time comes from.
    pub clock: Arc<dyn Clock>,
}

impl NetConfig {
    /// A net of the public network on every interface, with the given key.
    pub fn new(key: Keypair) -> Self {
        let listen = ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"];
        Self {
            key,
            network: DEFAULT_NETWORK.to_owned(),
            listen: listen
                .iter()
                .map(|text| text.parse().expect("a constant multiaddr"))
                .collect(),
            listen_chosen: true,
            bootstrap: Vec::new(),
            mdns: true,
            port_mapping: false,
            kad_server: true,
            memory_transport: false,
            limits: Limits::default(),
            pace: Pace::default(),
            rates: Rates::default(),
            agent: format!("libernet/{}", env!("CARGO_PKG_VERSION")),
            clock: Arc::new(SystemClock),
        }
    }

    /// A net inside this process: one `/memory/` address, no bootstrap peers, no mDNS.
    pub fn in_memory(key: Keypair) -> Self {
        Self {
            listen: vec!["/memory/0".parse().expect("a constant multiaddr")],
            mdns: false,
            memory_transport: true,
            ..Self::new(key)
        }
    }
}

/// What a net needs of the rooms above: blocks to serve, and somewhere to keep records of the DHT.
#[derive(Clone)]
pub struct Services {
    /// Answers peers who ask for blocks.
    pub blocks: Arc<dyn BlockService>,
    /// Keeps what peers announce.
    pub records: Arc<dyn RecordShelf>,
}
