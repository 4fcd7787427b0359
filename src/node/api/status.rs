//! The call that tells how the node is.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Call, LimitsStatus, call, path};

/// Tells how the node is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {}
call!(Status, "status", StatusReply);

/// How the node is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StatusReply {
    /// Program version.
    pub version: String,
    /// This node.
    pub peer: String,
    /// Name of the network.
    pub network: String,
    /// Where it listens, as full multiaddresses.
    pub addresses: Vec<String>,
    /// Base URL of the local HTTP server; missing for a node inside a command.
    pub http: Option<String>,
    /// The process.
    pub pid: u32,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// Connected peers.
    pub peers: u64,
    /// Whether the DHT has been joined.
    pub bootstrapped: bool,
    /// Whether the node has left, or is about to: it takes nothing more for others.
    #[serde(default)]
    pub leaving: bool,
    /// Where another node with this node's key was seen since the start: a copied data directory.
    #[serde(default)]
    pub twin: Option<String>,
    /// Data directory.
    #[serde(with = "path")]
    pub data_dir: PathBuf,
    /// The store.
    pub store: StoreStatus,
    /// Background work.
    pub workers: Vec<WorkerStatus>,
    /// Blocks served to and taken from others since start.
    pub exchange: ExchangeStatus,
    /// Copies beyond those that were asked for, since start.
    #[serde(default)]
    pub popularity: PopularityStatus,
    /// Progress of announcing; missing when nothing is announced.
    #[serde(default)]
    pub announcing: Option<AnnouncingStatus>,
    /// Limits on bandwidth and space, and rates.
    #[serde(default)]
    pub limits: LimitsStatus,
    /// Whether others can reach the node from outside.
    #[serde(default)]
    pub reach: ReachStatus,
}

/// How the node can be reached from outside, as far as it knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReachStatus {
    /// `public`, `relay`, `no` or `unknown`.
    pub reachable: String,
    /// Kind of the router before it: `none`, `cone`, `symmetric`, `some` or `unknown`.
    pub nat: String,
    /// Addresses that work from outside, those through relays included.
    pub addresses: Vec<String>,
    /// Whether the router passes a port on: `off` (it is not asked), `none` or `promised`.
    pub port_mapping: String,
    /// Addresses that the router promised.
    pub mapped: Vec<String>,
    /// Relays that keep a way open to the node.
    pub relays: Vec<String>,
    /// Counters of what the node relays for others.
    pub relaying: RelayingStatus,
}

impl Default for ReachStatus {
    fn default() -> Self {
        Self {
            reachable: "unknown".to_owned(),
            nat: "unknown".to_owned(),
            addresses: Vec::new(),
            port_mapping: "off".to_owned(),
            mapped: Vec::new(),
            relays: Vec::new(),
            relaying: RelayingStatus::default(),
        }
    }
}

/// Counters of what the node relays for others.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct RelayingStatus {
    /// Whether it relays at all: only a node that is reachable does.
    pub on: bool,
    /// Peers that it keeps a way open for.
    pub reservations: u64,
    /// Connections that it passes on now.
    pub circuits: u64,
    /// Connections that it has passed on since its start.
    pub circuits_ever: u64,
    /// Peers and connections that it has turned away since its start.
    pub refused: u64,
}

/// How the store is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Blocks.
    pub blocks: u64,
    /// Their bytes.
    pub block_bytes: u64,
    /// Bytes of blocks that are pinned.
    pub pinned_bytes: u64,
    /// Bytes of blocks that are kept for other owners.
    #[serde(default)]
    pub leased_bytes: u64,
    /// Bytes of blocks that may be dropped.
    pub cached_bytes: u64,
    /// Bytes on disk, all in all.
    pub disk_bytes: u64,
    /// The limit for `disk_bytes`.
    pub quota: u64,
    /// Pins.
    pub pins: u64,
    /// Damaged blocks found since start.
    pub corrupt: u64,
    /// Cached blocks that made room for others, ever.
    #[serde(default)]
    pub evicted: u64,
    /// Those of them of which no other copy was known.
    #[serde(default)]
    pub evicted_unsure: u64,
}

/// How one background job is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name.
    pub name: String,
    /// What it is doing, in a few words.
    pub state: String,
    /// Last error, if the last run failed.
    pub error: Option<String>,
}

/// Progress of the node in telling the DHT what is here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnouncingStatus {
    /// Parts of the keyspace, and with them of what is here.
    pub parts: u64,
    /// Parts that were announced in time.
    pub on_time: u64,
    /// Those that wait to be announced for the first time, or with new addresses.
    pub waiting: u64,
    /// Seconds by which the part that waited longest is late; 0: nothing is.
    pub late_s: u64,
    /// Seconds until the first record of what is here ends, unless it is announced before.
    pub ends_in_s: Option<u64>,
    /// Lookups in the DHT since the start.
    pub lookups: u64,
    /// Announcements of keys since the start.
    pub keys: u64,
    /// Warning for a person, before others forget what is here.
    pub warning: Option<String>,
}

/// Traffic in blocks since start.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct ExchangeStatus {
    /// Blocks given to peers.
    pub served_blocks: u64,
    /// Their bytes.
    pub served_bytes: u64,
    /// Blocks taken from peers.
    pub fetched_blocks: u64,
    /// Their bytes.
    pub fetched_bytes: u64,
    /// Answers that were not the block asked for.
    pub wrong_blocks: u64,
}

/// Copies of what is asked for often, in blocks since start. They may be dropped at any time and never count as copies of a backup.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct PopularityStatus {
    /// Blocks offered to peers, each as often as it was offered.
    pub offered_blocks: u64,
    /// Copies that peers made because of that.
    pub copied_blocks: u64,
    /// Blocks taken because peers offered them.
    pub taken_blocks: u64,
}
