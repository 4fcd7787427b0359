//! The peers room inside the swarm: libp2p's plumbing with our keeper.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::allow_block_list::{self, BlockedPeers};
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::identity::Keypair;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm,
};
use libp2p::{PeerId, identify, mdns, ping};

use super::keeper::{Fact, Keeper};
use super::{Command, Misbehaviour, Source};
use crate::net::address::is_dialable;
use crate::net::config::Limits;
use crate::net::delegate::delegate_connections;
use crate::time::Clock;

/// Most addresses of one peer that are taken from what it says of itself.
const MAX_ADDRESSES: usize = 16;
/// How often the round trip of a connection is measured.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// What others may want to know of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A peer of this network is connected.
    Connected { peer: PeerId },
    /// It is no longer.
    Gone { peer: PeerId },
    /// There are several connections with a peer. Answer with [`Behaviour::settle`].
    Double { peer: PeerId },
    /// Where a peer of this network listens, and whether it serves the DHT.
    Listens {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        dht: bool,
    },
    /// A peer is turned away.
    Refused { peer: PeerId, reason: String },
    /// A bootstrap peer could not be reached.
    BootstrapFailed {
        address: Multiaddr,
        error: String,
        retry_in: Duration,
    },
}

/// What the room is made of.
pub(crate) struct Setup<'a> {
    pub(crate) key: &'a Keypair,
    /// What identify calls the network.
    pub(crate) network: String,
    /// The DHT's protocol name: who speaks it serves the DHT.
    pub(crate) kad: String,
    pub(crate) agent: String,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) mdns: bool,
    pub(crate) limits: &'a Limits,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The order is the polling order: who may connect at all comes first.
#[derive(NetworkBehaviour)]
pub(crate) struct Parts {
    limits: connection_limits::Behaviour,
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    keeper: Keeper,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
}

/// The peers room's behaviour.
pub(crate) struct Behaviour {
    parts: Parts,
    network: String,
    kad: String,
    clock: Arc<dyn Clock>,
    events: VecDeque<Event>,
}

fn bounds(limits: &Limits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_established(Some(limits.connections))
        .with_max_established_per_peer(Some(limits.connections_per_peer))
        .with_max_pending_incoming(Some(limits.pending_connections))
        .with_max_pending_outgoing(Some(limits.pending_connections))
}

impl Behaviour {
    pub(crate) fn new(setup: Setup<'_>) -> Self {
        let public = setup.key.public();
        let local = public.to_peer_id();
        let identify = identify::Config::new(setup.network.clone(), public)
            .with_agent_version(setup.agent)
            .with_push_listen_addr_updates(true)
            // The book remembers addresses.
            .with_cache_size(0);
        let mdns = setup.mdns.then(|| {
            mdns::tokio::Behaviour::new(mdns::Config::default(), local)
                .inspect_err(|error| tracing::warn!(%error, "no discovery on the local network"))
                .ok()
        });
        let parts = Parts {
            limits: connection_limits::Behaviour::new(bounds(setup.limits)),
            blocked: allow_block_list::Behaviour::default(),
            keeper: Keeper::new(local, setup.bootstrap, setup.clock.clone()),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
            mdns: mdns.flatten().into(),
        };
        Self {
            parts,
            network: setup.network,
            kad: setup.kad,
            clock: setup.clock,
            events: VecDeque::new(),
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        let keeper = &mut self.parts.keeper;
        match command {
            Command::List(reply) => {
                let _ = reply.send(keeper.book.list());
            }
            Command::Connect(target, reply) => keeper.connect(target, reply),
            Command::Disconnect(peer) => keeper.close(peer),
            Command::Block(peer) => {
                self.parts.blocked.block_peer(peer);
            }
            Command::Unblock(peer) => {
                self.parts.blocked.unblock_peer(peer);
            }
            Command::Report(peer, what) => self.blame(peer, what),
        }
    }

    /// Counts a misbehaviour against a peer.
    pub(crate) fn blame(&mut self, peer: PeerId, what: Misbehaviour) {
        if self.parts.keeper.blame(peer, what) {
            let reason = match what {
                Misbehaviour::WrongBytes => "it sent wrong bytes several times",
                Misbehaviour::Protocol => "it broke the protocol several times",
            };
            self.events.push_back(Event::Refused {
                peer,
                reason: reason.to_owned(),
            });
        }
    }

    /// The connection with a peer is to stay open when idle.
    pub(crate) fn keep(&mut self, peer: PeerId) {
        self.parts.keeper.keep(peer);
    }

    /// Of several connections with a peer only one is to stay; `quiet`: nothing of ours is under way to it.
    pub(crate) fn settle(&mut self, peer: PeerId, quiet: bool) {
        self.parts.keeper.settle(peer, quiet);
    }

    /// Where a peer can be reached, from the DHT.
    pub(crate) fn locate(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let dialable = addresses
            .into_iter()
            .filter(|address| is_dialable(address, None));
        self.parts.keeper.book.learn(
            peer,
            dialable.take(MAX_ADDRESSES),
            Source::Dht,
            self.clock.now(),
        );
    }

    /// Blocks came from a peer or went to it.
    pub(crate) fn moved(&mut self, peer: PeerId, bytes_in: usize, bytes_out: usize) {
        let book = &mut self.parts.keeper.book;
        book.moved(&peer, bytes_in as u64, bytes_out as u64);
    }

    /// A request of a peer was turned away.
    pub(crate) fn turned_away(&mut self, peer: PeerId) {
        self.parts.keeper.book.turned_away(&peer);
    }

    fn on_event(&mut self, event: PartsEvent) {
        match event {
            PartsEvent::Keeper(Fact::Gone(peer)) => self.events.push_back(Event::Gone { peer }),
            PartsEvent::Keeper(Fact::Double(peer)) => {
                self.events.push_back(Event::Double { peer });
            }
            PartsEvent::Keeper(Fact::BootstrapFailed {
                address,
                error,
                retry_in,
            }) => self.events.push_back(Event::BootstrapFailed {
                address,
                error,
                retry_in,
            }),
            PartsEvent::Identify(identify::Event::Received {
                peer_id,
                info,
                connection_id,
            }) => self.on_identified(peer_id, connection_id, info),
            PartsEvent::Identify(_) => {}
            PartsEvent::Ping(event) => match event.result {
                Ok(rtt) => self.parts.keeper.book.measured(&event.peer, rtt),
                // A peer need not speak ping; one that does and is silent is gone.
                Err(ping::Failure::Unsupported) => {}
                Err(_) => self.parts.keeper.close_one(event.peer, event.connection),
            },
            PartsEvent::Mdns(mdns::Event::Discovered(found)) => {
                for (peer, address) in found {
                    self.parts.keeper.discovered(peer, address);
                }
            }
            // An address that has expired may still work; dialling finds out.
            PartsEvent::Mdns(mdns::Event::Expired(_)) => {}
        }
    }

    fn on_identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info) {
        let keeper = &mut self.parts.keeper;
        if info.protocol_version != self.network {
            let network: String = info.protocol_version.chars().take(64).collect();
            keeper.other_network(peer, network.clone());
            self.events.push_back(Event::Refused {
                peer,
                reason: format!("it is of another network: {network}"),
            });
            return;
        }
        let seen_at = keeper
            .book
            .links(&peer)
            .iter()
            .find(|link| link.id == connection)
            .map(|link| link.address.clone());
        let addresses: Vec<Multiaddr> = info
            .listen_addrs
            .into_iter()
            .filter(|address| is_dialable(address, seen_at.as_ref()))
            .take(MAX_ADDRESSES)
            .collect();
        let dht = info
            .protocols
            .iter()
            .any(|protocol| protocol.as_ref() == self.kad);
        let protocols = info.protocols.iter().map(ToString::to_string);
        let connected = keeper.identified(peer, &info.agent_version, protocols);
        // Who came by another way is known as that already.
        keeper.book.learn(
            peer,
            addresses.iter().cloned(),
            Source::Dht,
            self.clock.now(),
        );
        self.events.push_back(Event::Listens {
            peer,
            addresses,
            dht,
        });
        // Last: who hears of it can count on the DHT knowing the peer.
        if connected {
            self.events.push_back(Event::Connected { peer });
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <Parts as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    delegate_connections!(parts);

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.parts
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.parts
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.parts.on_swarm_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match self.parts.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => self.on_event(event),
                Poll::Ready(other) => {
                    return Poll::Ready(other.map_out(|_| unreachable!("events are taken above")));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
