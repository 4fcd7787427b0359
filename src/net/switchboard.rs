//! The only place where the rooms of the net meet: commands go to their room, and what one room reports is told to the others
//! and to the outside.
//!
//! Everything here is synchronous and short: it runs on the task that owns the swarm.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use libp2p::swarm::NetworkBehaviour;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::{broadcast, mpsc, watch};

use super::address::is_relayed;
use super::hearsay::Hearsay;
use super::peers::Misbehaviour;
use super::{exchange, peers, providers, reach, replica, rings};
use crate::ring::RingId;

/// A fact about the net.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A peer of this network is connected and has told who it is.
    PeerConnected {
        /// The peer.
        peer: PeerId,
    },
    /// The last connection with it has ended.
    PeerGone {
        /// The peer.
        peer: PeerId,
    },
    /// A connected peer and this node have proven to each other that they are members of a ring.
    Member {
        /// The peer.
        peer: PeerId,
        /// The ring's present or a past generation.
        ring: RingId,
    },
    /// A peer is turned away for a while.
    PeerRefused {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// Another node runs with this node's key: peers can't tell the two apart.
    Twin {
        /// Where it is: an address, or only its IP part.
        address: Multiaddr,
    },
    /// The node listens on one more address.
    ListenAddress {
        /// The address, with the peer id.
        address: Multiaddr,
    },
    /// The machine's network is another one, or back, or the machine has slept.
    NetworkChanged,
    /// The DHT's routing table has been refreshed.
    Bootstrapped {
        /// Peers in the table.
        peers: usize,
    },
    /// A bootstrap peer could not be reached. The node goes on without it and tries again.
    BootstrapFailed {
        /// The address as configured.
        address: Multiaddr,
        /// What went wrong.
        error: String,
        /// When it is tried again.
        retry_in: Duration,
    },
}

/// What the views ask of the rooms.
pub(super) enum Command {
    Exchange(exchange::Command),
    Providers(providers::Command),
    Peers(peers::Command),
    Replica(replica::Command),
    Rings(rings::Command),
}

/// The driver's ends of the rooms' mailboxes.
pub(super) struct Commands {
    pub(super) exchange: mpsc::Receiver<exchange::Command>,
    pub(super) providers: mpsc::Receiver<providers::Command>,
    pub(super) peers: mpsc::Receiver<peers::Command>,
    pub(super) replica: mpsc::Receiver<replica::Command>,
    pub(super) rings: mpsc::Receiver<rings::Command>,
}

impl Commands {
    /// The next command, of no room before another; none once nobody holds a view any more.
    ///
    /// # Cancel safety
    /// Dropping the future loses no command.
    pub(super) async fn recv(&mut self) -> Option<Command> {
        tokio::select! {
            Some(command) = self.exchange.recv() => Some(Command::Exchange(command)),
            Some(command) = self.providers.recv() => Some(Command::Providers(command)),
            Some(command) = self.peers.recv() => Some(Command::Peers(command)),
            Some(command) = self.replica.recv() => Some(Command::Replica(command)),
            Some(command) = self.rings.recv() => Some(Command::Rings(command)),
            else => None,
        }
    }
}

/// The rooms inside the swarm. The order is the polling order: who may connect at all comes first.
#[derive(NetworkBehaviour)]
pub(super) struct Rooms {
    pub(super) peers: peers::Behaviour,
    pub(super) providers: providers::Behaviour,
    pub(super) exchange: exchange::Behaviour,
    pub(super) replica: replica::Behaviour,
    pub(super) rings: rings::Behaviour,
    pub(super) reach: reach::Behaviour,
    pub(super) streams: libp2p_stream::Behaviour,
}

/// Where facts go.
pub(super) struct Switchboard {
    pub(super) local: PeerId,
    pub(super) events: broadcast::Sender<Event>,
    /// Where this node listens.
    pub(super) listening: watch::Sender<Vec<Multiaddr>>,
    /// Where others find it, from wherever: what works from outside comes first.
    pub(super) told: watch::Sender<Vec<Multiaddr>>,
    /// The first part of these.
    pub(super) outside: Vec<Multiaddr>,
    pub(super) hearsay: Arc<Hearsay>,
    pub(super) connected: watch::Sender<Arc<Vec<PeerId>>>,
}

impl Switchboard {
    /// Brings a command to its room.
    pub(super) fn command(&self, rooms: &mut Rooms, command: Command) {
        match command {
            Command::Exchange(command) => rooms.exchange.command(command),
            Command::Providers(command) => rooms.providers.command(command),
            Command::Peers(command) => rooms.peers.command(command),
            Command::Replica(command) => rooms.replica.command(command),
            Command::Rings(command) => rooms.rings.command(command),
        }
    }

    /// Tells the others what a room reports.
    pub(super) fn event(&mut self, rooms: &mut Rooms, event: RoomsEvent) {
        match event {
            RoomsEvent::Peers(event) => self.peers(rooms, event),
            RoomsEvent::Providers(event) => self.providers(rooms, event),
            RoomsEvent::Exchange(event) => Self::exchange(rooms, event),
            RoomsEvent::Replica(replica::Event::TurnedAway { peer }) => {
                rooms.peers.turned_away(peer);
            }
            RoomsEvent::Replica(replica::Event::Misbehaved { peer }) => {
                rooms.peers.blame(peer, Misbehaviour::Protocol);
            }
            RoomsEvent::Rings(event) => self.rings(rooms, event),
            RoomsEvent::Reach(event) => self.reach(rooms, event),
            RoomsEvent::Streams(()) => {}
        }
    }

    fn peers(&self, rooms: &mut Rooms, event: peers::Event) {
        match event {
            peers::Event::Connected { peer } => {
                self.connected.send_modify(|connected| {
                    Arc::make_mut(connected).push(peer);
                });
                rooms.rings.connected(peer);
                self.tell(Event::PeerConnected { peer });
            }
            peers::Event::Gone { peer } => {
                self.connected.send_modify(|connected| {
                    Arc::make_mut(connected).retain(|other| *other != peer);
                });
                self.tell(Event::PeerGone { peer });
            }
            peers::Event::Double { peer } => {
                let quiet = rooms.exchange.is_quiet(peer)
                    && rooms.replica.is_quiet(peer)
                    && rooms.providers.is_quiet()
                    && rooms.rings.is_quiet(peer);
                rooms.peers.settle(peer, quiet);
            }
            peers::Event::Crowded => {
                let (exchange, replica, rings) = (&rooms.exchange, &rooms.replica, &rooms.rings);
                rooms.peers.make_room(|peer| {
                    exchange.is_quiet(peer) && replica.is_quiet(peer) && rings.is_quiet(peer)
                });
            }
            peers::Event::Twin { address } => self.tell(Event::Twin { address }),
            peers::Event::Listens {
                peer,
                addresses,
                dht,
            } => {
                rooms.providers.listens(peer, &addresses);
                if dht {
                    rooms.providers.route(peer, &addresses);
                }
            }
            peers::Event::Observed {
                peer,
                remote,
                is_outbound,
                observed,
                relays,
            } => rooms.reach.observed(reach::Observation {
                peer,
                remote,
                is_outbound,
                observed,
                relays,
            }),
            peers::Event::Refused { peer, reason } => {
                rooms.providers.forget(peer);
                self.tell(Event::PeerRefused { peer, reason });
            }
            peers::Event::BootstrapFailed {
                address,
                error,
                retry_in,
            } => {
                tracing::debug!(%address, %error, ?retry_in, "a bootstrap peer can't be reached");
                self.tell(Event::BootstrapFailed {
                    address,
                    error,
                    retry_in,
                });
            }
        }
    }

    fn providers(&self, rooms: &mut Rooms, event: providers::Event) {
        match event {
            providers::Event::Located { peer, addresses } => rooms.peers.locate(peer, addresses),
            providers::Event::Bootstrapped { peers } => self.tell(Event::Bootstrapped { peers }),
        }
    }

    fn exchange(rooms: &mut Rooms, event: exchange::Event) {
        match event {
            exchange::Event::Received { peer, bytes } => rooms.peers.moved(peer, bytes, 0),
            exchange::Event::Sent { peer, bytes } => rooms.peers.moved(peer, 0, bytes),
            exchange::Event::TurnedAway { peer } => rooms.peers.turned_away(peer),
            exchange::Event::Misbehaved { peer } => {
                rooms.peers.blame(peer, Misbehaviour::Protocol);
            }
        }
    }

    fn rings(&self, rooms: &mut Rooms, event: rings::Event) {
        match event {
            rings::Event::Member { peer, ring } => {
                rooms.peers.keep(peer);
                self.tell(Event::Member { peer, ring });
            }
            rings::Event::Misbehaved { peer } => {
                rooms.peers.blame(peer, Misbehaviour::Protocol);
            }
        }
    }

    fn reach(&mut self, rooms: &mut Rooms, event: reach::Event) {
        match event {
            reach::Event::Serve(serves) => rooms.providers.serve(serves),
            reach::Event::Outside { own, relayed } => {
                self.hearsay.confirmed(own.clone());
                let all = own.into_iter().chain(relayed);
                let full = all.filter_map(|address| address.with_p2p(self.local).ok());
                self.outside = full.collect();
                self.retell();
            }
            reach::Event::NetworkChanged => {
                rooms.peers.network_changed();
                self.tell(Event::NetworkChanged);
            }
        }
    }

    /// Puts together where others find this node.
    fn retell(&self) {
        let listening = self.listening.borrow();
        let mut told = self.outside.clone();
        told.extend(listening.iter().cloned());
        let mut seen = HashSet::new();
        told.retain(|address| seen.insert(address.clone()));
        self.told.send_if_modified(|last| {
            let is_new = *last != told;
            *last = told;
            is_new
        });
    }

    /// The node listens on one more address. What a relay says of where it can be reached is not
    /// this node's word.
    pub(super) fn listens(&self, address: Multiaddr) {
        if is_relayed(&address) {
            return;
        }
        // It fails only for an address that names another peer.
        let Ok(address) = address.with_p2p(self.local) else {
            return;
        };
        self.listening.send_modify(|addresses| {
            if !addresses.contains(&address) {
                addresses.push(address.clone());
            }
        });
        self.retell();
        self.tell(Event::ListenAddress { address });
    }

    /// The node listens on an address no more.
    pub(super) fn listens_no_more(&self, address: Multiaddr) {
        if let Ok(address) = address.with_p2p(self.local) {
            self.listening
                .send_modify(|addresses| addresses.retain(|other| *other != address));
            self.retell();
        }
    }

    fn tell(&self, event: Event) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }
}
