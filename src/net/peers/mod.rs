//! Peers: connecting, knowing who they are, and keeping the unwanted away.
//!
//! - `book`: what is known of each peer, bounded; pure.
//! - `bootstrap`: when to dial which bootstrap peer.
//! - `neighbours`: when to dial which peer of the local network.
//! - `refusals`, `reason`: peers that are turned away, and why a peer could not be dialled.
//! - `twin`, `echo`: whether another node runs with this node's key.
//! - `keeper`: dialling, double connections, peers of other networks, connections that are kept,
//!   those that are dead, and those that give way.
//! - `identity`: what this node tells of itself, to whom.
//! - `behaviour`: all of it together with libp2p's identify, ping, mDNS, connection limits and block list.
//!
//! A peer counts as *connected* once it has told who it is and that it is of this network; until then nothing outside this room
//! hears of it.
//!
//! Deliberately absent: what is asked of peers.

mod behaviour;
mod book;
mod bootstrap;
mod echo;
mod identity;
mod keep;
mod keeper;
mod neighbours;
mod reason;
mod refusals;
mod twin;

use std::sync::Arc;
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::timeout;

use super::address::peer_of;
use super::mailbox::Mailbox;
use crate::time::Timestamp;

pub(super) use behaviour::{Behaviour, Event, Setup};

/// How long connecting may take, identification included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Who made a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The peer.
    Inbound,
    /// We.
    Outbound,
}

impl Direction {
    const fn reversed(self) -> Self {
        match self {
            Self::Inbound => Self::Outbound,
            Self::Outbound => Self::Inbound,
        }
    }

    /// `inbound` or `outbound`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// How a peer was first heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// On the local network.
    Mdns,
    /// It is configured.
    Bootstrap,
    /// It connected to us.
    Inbound,
    /// From the DHT.
    Dht,
    /// Somebody asked to connect to it.
    Manual,
    /// A meeting point told its address.
    Meeting,
}

impl Source {
    /// A lower-case word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mdns => "mdns",
            Self::Bootstrap => "bootstrap",
            Self::Inbound => "inbound",
            Self::Dht => "dht",
            Self::Manual => "manual",
            Self::Meeting => "meeting",
        }
    }
}

/// What a peer did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Misbehaviour {
    /// It sent bytes that are not the block.
    WrongBytes,
    /// It broke a protocol.
    Protocol,
}

/// What is known of a peer.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerInfo {
    /// The peer.
    pub peer: PeerId,
    /// Where it can be reached, the address in use first; without the peer id at the end.
    pub addresses: Vec<Multiaddr>,
    /// Name and version of its program, as it says; empty while unknown.
    pub agent: String,
    /// Protocols that it speaks, as it says.
    pub protocols: Vec<String>,
    /// The last measured round trip.
    pub rtt: Option<Duration>,
    /// Since when it is connected, if it is.
    pub connected_since: Option<Timestamp>,
    /// Connections with it: more than one only for a moment.
    pub connections: usize,
    /// Whether it is connected through a relay alone.
    pub is_relayed: bool,
    /// Who made the connection, if there is one.
    pub direction: Option<Direction>,
    /// Bytes of blocks received from it.
    pub bytes_in: u64,
    /// Bytes of blocks sent to it.
    pub bytes_out: u64,
    /// Times it sent bytes that are not the block.
    pub wrong_blocks: u64,
    /// Times it broke a protocol.
    pub faults: u64,
    /// Its requests that were turned away because too much was under way.
    pub refused: u64,
    /// How it was first heard of.
    pub source: Source,
}

/// Whom to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A peer whose addresses the net has to know.
    Peer(PeerId),
    /// Whoever is at an address; if it ends in a peer id, only that peer will do.
    Address(Multiaddr),
    /// Whoever is at an address that a meeting point told, and for which nobody vouches.
    Met(Multiaddr),
}

impl From<PeerId> for Target {
    fn from(peer: PeerId) -> Self {
        Self::Peer(peer)
    }
}

impl From<Multiaddr> for Target {
    fn from(address: Multiaddr) -> Self {
        match (peer_of(&address), address.iter().count()) {
            (Some(peer), 1) => Self::Peer(peer),
            _ => Self::Address(address),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Connecting failed.
    #[error("can't connect to {target}: {reason}")]
    Unreachable {
        /// Peer or address.
        target: String,
        /// What went wrong, an address at a time.
        reason: String,
    },
    /// No connection within the time that connecting may take.
    #[error("can't connect to {target}: no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Peer or address.
        target: String,
    },
    /// The address is one of this node itself.
    #[error("this node itself is at {0}")]
    Itself(String),
    /// A peer is there that is turned away for now: it misbehaved, or is of another network.
    #[error("a peer that is turned away for now is at {0}")]
    TurnedAway(String),
    /// The peer is of another network.
    #[error("{peer} is of another network: {network}")]
    OtherNetwork {
        /// The peer.
        peer: PeerId,
        /// What it calls its network.
        network: String,
    },
    /// The net is stopping.
    #[error("the network is stopping")]
    Stopping,
}

impl Error {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Itself(_) | Self::TurnedAway(_) | Self::OtherNetwork { .. } | Self::Stopping => {
                false
            }
        }
    }
}

type Connected = oneshot::Sender<Result<PeerId, Error>>;

/// What the view asks of the behaviour.
pub(super) enum Command {
    List(oneshot::Sender<Vec<PeerInfo>>),
    Connect(Target, Connected),
    Disconnect(PeerId),
    /// Whether the peer is blocked from here on; answered once it is so.
    Bar(PeerId, bool, oneshot::Sender<()>),
    Report(PeerId, Misbehaviour),
}

/// View of a net: peers and connections. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    pub(super) mailbox: Mailbox<Command>,
    pub(super) connected: watch::Receiver<Arc<Vec<PeerId>>>,
    pub(super) connecting: Arc<Semaphore>,
}

impl Peers {
    /// Everybody known, the connected first. Empty when the net is stopping.
    pub async fn list(&self) -> Vec<PeerInfo> {
        let (reply, list) = oneshot::channel();
        if self.mailbox.send(Command::List(reply)).await.is_err() {
            return Vec::new();
        }
        list.await.unwrap_or_default()
    }

    /// Who is connected now. Costs next to nothing.
    pub fn connected(&self) -> Arc<Vec<PeerId>> {
        self.connected.borrow().clone()
    }

    /// A watch on who is connected.
    pub fn watch_connected(&self) -> watch::Receiver<Arc<Vec<PeerId>>> {
        self.connected.clone()
    }

    /// Connects to a peer or address and waits until it has told who it is; at once if it is connected.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn connect(&self, target: impl Into<Target> + Send) -> Result<PeerId, Error> {
        let target = target.into();
        let name = match &target {
            Target::Peer(peer) => peer.to_string(),
            Target::Address(address) | Target::Met(address) => address.to_string(),
        };
        let connect = async {
            let _permit = self
                .connecting
                .acquire()
                .await
                .map_err(|_| Error::Stopping)?;
            let (reply, connected) = oneshot::channel();
            let command = Command::Connect(target, reply);
            self.mailbox
                .send(command)
                .await
                .map_err(|_| Error::Stopping)?;
            connected.await.map_err(|_| Error::Stopping)?
        };
        timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or(Err(Error::TimedOut { target: name }))
    }

    /// Closes the connection with a peer. It may come back.
    pub async fn disconnect(&self, peer: PeerId) {
        self.tell(Command::Disconnect(peer)).await;
    }

    /// Closes the connection with a peer and lets none come about any more. Returns once that is
    /// so.
    pub async fn block(&self, peer: PeerId) {
        self.bar(peer, true).await;
    }

    /// Takes back [`block`](Self::block). Returns once the peer can be dialled: commands of other
    /// rooms have queues of their own, and would else come first.
    pub async fn unblock(&self, peer: PeerId) {
        self.bar(peer, false).await;
    }

    async fn bar(&self, peer: PeerId, is_blocked: bool) {
        let (reply, done) = oneshot::channel();
        self.tell(Command::Bar(peer, is_blocked, reply)).await;
        // When the net is stopping nobody answers.
        let _ = done.await;
    }

    /// Counts a misbehaviour against a peer. A peer with several in a short time is disconnected and kept away for a while.
    pub async fn report(&self, peer: PeerId, what: Misbehaviour) {
        self.tell(Command::Report(peer, what)).await;
    }

    async fn tell(&self, command: Command) {
        // When the net is stopping there are no connections to act on.
        let _ = self.mailbox.send(command).await;
    }
}
