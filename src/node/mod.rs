//! The composition root: builds a node from its parts, stops them in order, and answers calls.

pub mod api;
pub mod identity;

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::broadcast;

use crate::config::Config;
use crate::monitor::Monitor;
use api::*;

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Settings.
    pub config: Config,
    /// Where everything is kept; made when missing.
    pub data_dir: PathBuf,
    /// Base URL of the local HTTP server, for `status`.
    pub http: Option<String>,
}

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    _private: (),
}

/// What happens on a node, for `up --json` and logs.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeEvent {
    /// A peer connected.
    PeerConnected {
        /// The peer.
        peer: String,
    },
    /// The last connection to a peer closed.
    PeerGone {
        /// The peer.
        peer: String,
    },
    /// The node listens on one more address.
    Listening {
        /// The address.
        address: String,
    },
    /// Something went wrong and the node goes on.
    Warning {
        /// What.
        message: String,
    },
}

fn missing<T>() -> Result<T, CallError> {
    Err(CallError::new(ErrorKind::Failed, "not built yet"))
}

#[allow(missing_docs, clippy::unused_async)]
impl Node {
    pub async fn start(_options: NodeOptions) -> Result<Self, CallError> {
        missing()
    }
    pub fn peer_id(&self) -> String {
        String::new()
    }
    pub fn addresses(&self) -> Vec<String> {
        Vec::new()
    }
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        broadcast::channel(1).1
    }
    /// Stops everything in order and returns when all is on disk; under 5 s.
    pub async fn shutdown(&self) -> Result<(), CallError> {
        missing()
    }
    pub async fn put(
        &self,
        _request: Put,
        _monitor: Arc<dyn Monitor>,
    ) -> Result<PutReply, CallError> {
        missing()
    }
    /// One file of unknown length, such as standard input.
    pub async fn put_stream(
        &self,
        _name: String,
        _bytes: BoxStream<'static, std::io::Result<Bytes>>,
        _monitor: Arc<dyn Monitor>,
    ) -> Result<PutReply, CallError> {
        missing()
    }
    pub async fn get(
        &self,
        _request: Get,
        _monitor: Arc<dyn Monitor>,
    ) -> Result<GetReply, CallError> {
        missing()
    }
    pub async fn cat(
        &self,
        _request: Cat,
    ) -> Result<BoxStream<'static, Result<Bytes, CallError>>, CallError> {
        missing()
    }
    pub async fn ls(&self, _request: Ls) -> Result<LsReply, CallError> {
        missing()
    }
    pub async fn find(&self, _request: Find) -> Result<FindReply, CallError> {
        missing()
    }
    pub async fn announce(&self, _request: Announce) -> Result<AnnounceReply, CallError> {
        missing()
    }
    pub async fn peers(&self, _request: Peers) -> Result<PeersReply, CallError> {
        missing()
    }
    pub async fn connect(&self, _request: Connect) -> Result<ConnectReply, CallError> {
        missing()
    }
    pub async fn status(&self, _request: Status) -> Result<StatusReply, CallError> {
        missing()
    }
    pub async fn pin_add(
        &self,
        _request: PinAdd,
        _monitor: Arc<dyn Monitor>,
    ) -> Result<PinAddReply, CallError> {
        missing()
    }
    pub async fn pin_rm(&self, _request: PinRm) -> Result<PinRmReply, CallError> {
        missing()
    }
    pub async fn pin_ls(&self, _request: PinLs) -> Result<PinLsReply, CallError> {
        missing()
    }
    pub async fn block_get(&self, _request: BlockGet) -> Result<Bytes, CallError> {
        missing()
    }
    pub async fn block_put(&self, _bytes: Bytes) -> Result<BlockPutReply, CallError> {
        missing()
    }
    pub async fn block_has(&self, _request: BlockHas) -> Result<BlockHasReply, CallError> {
        missing()
    }
    pub async fn block_stat(&self, _request: BlockStat) -> Result<BlockStatReply, CallError> {
        missing()
    }
    pub async fn block_ls(&self, _request: BlockLs) -> Result<BlockLsReply, CallError> {
        missing()
    }
    pub async fn block_rm(&self, _request: BlockRm) -> Result<BlockRmReply, CallError> {
        missing()
    }
}
