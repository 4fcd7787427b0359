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
use libp2p::{PeerId, identify, mdns, ping, relay};
use tokio::time::Instant;

use super::echo::Echo;
use super::identity::Identity;
use super::keeper::{Fact, Keeper};
use super::{Command, Direction, Misbehaviour, Source};
use crate::net::address::{is_dialable, is_loopback, is_relayed, relay_of};
use crate::net::admission::{StandingOf, Unread};
use crate::net::delegate::delegate_connections;
use crate::net::hearsay::Hearsay;
use crate::net::limits::Limits;
use crate::net::metrics::Meter;
use crate::time::Clock;
use crate::wire::names;

/// Most addresses of one peer that are taken from what it says of itself.
const MAX_ADDRESSES: usize = 16;
/// Interval of asking a connection's other end whether it lives; [`Keeper`] closes silent ones.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of asking who is on the local network, unless somebody else has just done so.
const MDNS_INTERVAL: Duration = Duration::from_secs(20);

/// What others may want to know of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A peer of this network is connected.
    Connected { peer: PeerId },
    /// It is no longer.
    Gone { peer: PeerId },
    /// There are several connections with a peer. Answer with [`Behaviour::settle`].
    Double { peer: PeerId },
    /// There are more connections than there may be. Answer with [`Behaviour::make_room`].
    Crowded,
    /// Another node runs with this node's key; this is where.
    Twin { address: Multiaddr },
    /// Where a peer of this network listens, as far as others may be told, and whether it serves
    /// the DHT.
    Listens {
        peer: PeerId,
        addresses: Vec<Multiaddr>,
        dht: bool,
    },
    /// A peer of this network tells where it sees this node, over the connection with `remote`.
    Observed {
        peer: PeerId,
        remote: Multiaddr,
        is_outbound: bool,
        observed: Multiaddr,
        /// Whether the peer relays for others.
        relays: bool,
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
    /// The network's name.
    pub(crate) network: String,
    /// Standing of a peer; a peer that is known as a member of a ring of this node is a member also
    /// before it has proven so.
    pub(crate) standing: StandingOf,
    /// Bytes that peers have sent and nobody has read.
    pub(crate) unread: Unread,
    pub(crate) hearsay: Arc<Hearsay>,
    pub(crate) agent: String,
    pub(crate) bootstrap: Vec<Multiaddr>,
    pub(crate) mdns: bool,
    pub(crate) limits: &'a Limits,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) meter: Arc<Meter>,
}

/// The order is the polling order: who may connect at all comes first.
#[derive(NetworkBehaviour)]
pub(crate) struct Parts {
    limits: connection_limits::Behaviour,
    blocked: allow_block_list::Behaviour<BlockedPeers>,
    keeper: Keeper,
    identify: Identity,
    ping: ping::Behaviour,
    // One for each family: libp2p's speaks either.
    mdns4: Toggle<mdns::tokio::Behaviour>,
    mdns6: Toggle<mdns::tokio::Behaviour>,
}

/// The peers room's behaviour.
pub(crate) struct Behaviour {
    parts: Parts,
    /// Hears on the local network of other nodes with this node's key.
    echo: Option<Echo>,
    local: PeerId,
    network: String,
    unread: Unread,
    clock: Arc<dyn Clock>,
    meter: Arc<Meter>,
    events: VecDeque<Event>,
}

fn bounds(limits: &Limits) -> ConnectionLimits {
    ConnectionLimits::default()
        .with_max_established_per_peer(Some(limits.connections_per_peer))
        // The door has fewer places: silent ones give way there.
        .with_max_pending_incoming(u32::try_from(2 * limits.pending_inbound).ok())
        .with_max_pending_outgoing(Some(limits.pending_connections))
}

/// Discovery on the local network over one family of addresses.
fn discovery(local: PeerId, wanted: bool, enable_ipv6: bool) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config {
        query_interval: MDNS_INTERVAL,
        enable_ipv6,
        ..mdns::Config::default()
    };
    let opened = wanted.then(|| mdns::tokio::Behaviour::new(config, local))?;
    opened
        .inspect_err(|error| tracing::warn!(%error, "no discovery on the local network"))
        .ok()
}

impl Behaviour {
    pub(crate) fn new(setup: Setup<'_>) -> Self {
        let public = setup.key.public();
        let local = public.to_peer_id();
        // Identify's name of the network is for people: stock libp2p nodes can't choose it.
        let version = names::identify(&setup.network);
        let identify = identify::Config::new(version, public)
            .with_agent_version(setup.agent)
            .with_push_listen_addr_updates(true)
            // The book remembers addresses.
            .with_cache_size(0);
        let keeper = Keeper::new(
            local,
            setup.bootstrap,
            setup.limits,
            setup.standing,
            setup.hearsay,
            setup.clock.clone(),
        );
        let parts = Parts {
            limits: connection_limits::Behaviour::new(bounds(setup.limits)),
            blocked: allow_block_list::Behaviour::default(),
            keeper,
            identify: Identity::new(&identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING_INTERVAL)),
            mdns4: discovery(local, setup.mdns, false).into(),
            mdns6: discovery(local, setup.mdns, true).into(),
        };
        let echo = setup.mdns.then(|| Echo::open(local));
        let echo = echo.and_then(|opened| {
            opened
                .inspect_err(|error| tracing::debug!(%error, "a twin may go unnoticed"))
                .ok()
        });
        Self {
            parts,
            echo,
            local,
            network: setup.network,
            unread: setup.unread,
            clock: setup.clock,
            meter: setup.meter,
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
            Command::Bar(peer, is_blocked, reply) => {
                match is_blocked {
                    true => self.parts.blocked.block_peer(peer),
                    false => self.parts.blocked.unblock_peer(peer),
                };
                let _ = reply.send(());
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
        for link in self.parts.keeper.book.links(&peer) {
            self.unread
                .identified(&link.address, self.parts.keeper.is_member(&peer));
        }
    }

    /// The network has come back, or is another one: whoever was waited for is tried at once.
    pub(crate) fn network_changed(&mut self) {
        self.parts.keeper.network_changed();
    }

    /// Of several connections with a peer only one is to stay; `quiet`: nothing of ours is under way to it.
    pub(crate) fn settle(&mut self, peer: PeerId, quiet: bool) {
        self.parts.keeper.settle(peer, quiet);
    }

    /// Of too many connections idle ones are to end; `quiet`: nothing is under way with that peer.
    pub(crate) fn make_room(&mut self, quiet: impl Fn(PeerId) -> bool) {
        self.parts.keeper.make_room(quiet);
    }

    /// Where a peer can be reached, from the DHT: what counts of it.
    pub(crate) fn locate(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let addresses = addresses.into_iter().take(MAX_ADDRESSES);
        let book = &mut self.parts.keeper.book;
        book.learn(peer, addresses, Source::Dht, self.clock.now());
    }

    /// Blocks came from a peer or went to it.
    pub(crate) fn moved(&mut self, peer: PeerId, bytes_in: usize, bytes_out: usize) {
        let book = &mut self.parts.keeper.book;
        let (bytes_in, bytes_out) = (bytes_in as u64, bytes_out as u64);
        book.moved(&peer, bytes_in, bytes_out, Instant::now());
    }

    /// A request of a peer was turned away.
    pub(crate) fn turned_away(&mut self, peer: PeerId) {
        self.parts.keeper.book.turned_away(&peer);
    }

    fn on_event(&mut self, event: PartsEvent) {
        match &event {
            PartsEvent::Identify(event) => self.meter.identify(event),
            PartsEvent::Ping(event) => self.meter.ping(event),
            _ => {}
        }
        match event {
            PartsEvent::Keeper(Fact::Gone(peer)) => self.events.push_back(Event::Gone { peer }),
            PartsEvent::Keeper(Fact::Double(peer)) => {
                self.events.push_back(Event::Double { peer });
            }
            PartsEvent::Keeper(Fact::Crowded) => self.events.push_back(Event::Crowded),
            PartsEvent::Keeper(Fact::Twin(address)) => {
                self.events.push_back(Event::Twin { address });
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
            PartsEvent::Ping(event) => self.on_pinged(event),
            PartsEvent::Mdns4(event) | PartsEvent::Mdns6(event) => self.on_mdns(event),
        }
    }

    /// A ping that fails says less than it seems to: its answer may wait behind blocks.
    fn on_pinged(&mut self, event: ping::Event) {
        let (book, now) = (&mut self.parts.keeper.book, Instant::now());
        match event.result {
            Ok(rtt) => book.measured(&event.peer, event.connection, rtt, now),
            // A peer need not speak ping.
            Err(ping::Failure::Unsupported) => {}
            Err(_) => book.unanswered(&event.peer, event.connection, now),
        }
    }

    fn on_mdns(&mut self, event: mdns::Event) {
        let keeper = &mut self.parts.keeper;
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, address) in found {
                    if is_near_by(&address) {
                        keeper.discovered(peer, address);
                    }
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, address) in gone {
                    keeper.expired(&peer, &address);
                }
            }
        }
    }

    fn on_identified(&mut self, peer: PeerId, connection: ConnectionId, info: identify::Info) {
        let keeper = &mut self.parts.keeper;
        let protocols = info.protocols.iter().map(AsRef::as_ref);
        if let Some(network) = other_network(&self.network, protocols) {
            let network: String = network.chars().take(64).collect();
            keeper.other_network(peer, network.clone());
            self.events.push_back(Event::Refused {
                peer,
                reason: format!("it is of another network: {network}"),
            });
            return;
        }
        let links = keeper.book.links(&peer).iter();
        let mut links = links.filter(|link| link.id == connection);
        let link = links
            .next()
            .map(|link| (link.address.clone(), link.direction));
        let seen_at = link.as_ref().map(|(address, _)| address.clone());
        if let Some(address) = &seen_at {
            self.unread.identified(address, keeper.is_member(&peer));
        }
        let mut addresses = keeper.heard(peer, seen_at.as_ref(), info.listen_addrs);
        let passed_on = keeper.hearsay.on_own_host(seen_at.as_ref(), &addresses);
        // Others reach it through this node; this node does not.
        addresses.retain(|address| relay_of(address).is_none_or(|(_, by)| by != self.local));
        let kad = names::kad(&self.network);
        let speaks = |name: &str| info.protocols.iter().any(|one| one.as_ref() == name);
        let (dht, relays) = (speaks(&kad), speaks(relay::HOP_PROTOCOL_NAME.as_ref()));
        let protocols = info.protocols.iter().map(ToString::to_string);
        let connected = keeper.identified(peer, &info.agent_version, protocols);
        // A peer that came by another way is known as that already.
        let now = self.clock.now();
        keeper.book.hear(peer, addresses, Source::Dht, now);
        self.events.push_back(Event::Listens {
            peer,
            addresses: passed_on,
            dht,
        });
        if let Some((remote, direction)) = link {
            self.events.push_back(Event::Observed {
                peer,
                remote,
                is_outbound: direction == Direction::Outbound,
                observed: info.observed_addr,
                relays,
            });
        }
        // Last: who hears of it can count on the DHT knowing the peer.
        if connected {
            self.events.push_back(Event::Connected { peer });
        }
    }
}

/// Whether an address that the local network tells can be one of a neighbour. A loopback address
/// would be one of this machine.
fn is_near_by(address: &Multiaddr) -> bool {
    is_dialable(address, None) && !is_loopback(address) && !is_relayed(address)
}

/// The network that a peer with these protocols is of, when it is another one than `ours`. The
/// names of protocols alone separate networks: a peer that has none of any network asks only, and
/// does no harm.
fn other_network<'a>(ours: &str, protocols: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let of_a_network = |name: &'a str| {
        let name = name.strip_prefix('/')?;
        let name = name.strip_suffix("/1.0.0")?;
        name.strip_suffix("/kad").or(name.strip_suffix("/exchange"))
    };
    let mut other = None;
    for network in protocols.filter_map(of_a_network) {
        if network == ours {
            return None;
        }
        other = Some(network);
    }
    other
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
        // What a relay says of where this node is is not this node's word.
        let is_of_relay = match &event {
            FromSwarm::NewListenAddr(event) => is_relayed(event.addr),
            FromSwarm::ExpiredListenAddr(event) => is_relayed(event.addr),
            _ => false,
        };
        if !is_of_relay {
            self.parts.on_swarm_event(event);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            if let Some(echo) = &mut self.echo
                && let Poll::Ready(claims) = echo.poll(cx)
            {
                let keeper = &mut self.parts.keeper;
                let claims = claims.into_iter();
                claims
                    .filter(is_near_by)
                    .for_each(|address| keeper.claimed(address));
                // Until it is asked again it wakes nobody.
                continue;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_protocols_separate_networks() {
        for (protocols, other) in [
            (&["/libernet/kad/1.0.0", "/ipfs/id/1.0.0"][..], None),
            (&["/libernet/exchange/1.0.0", "/ipfs/kad/1.0.0"], None),
            (&["/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"], None),
            (&[], None),
            (&["/elsewhere/exchange/1.0.0"], Some("elsewhere")),
            (&["/ipfs/lan/kad/1.0.0"], Some("ipfs/lan")),
            (&["/libernet2/kad/1.0.0"], Some("libernet2")),
        ] {
            let found = other_network("libernet", protocols.iter().copied());
            assert_eq!(found, other, "{protocols:?}");
        }
    }
}
