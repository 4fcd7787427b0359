//! Identify, with the addresses of this node that are of use at the other end of each connection:
//! loopback addresses are told on this machine, private ones on the local network, and to the
//! internet only those that can be reached from there.
//!
//! libp2p's identify tells everybody the same, so there is one of it for each distance. Addresses
//! through relays are told everywhere: a neighbour may leave the network.
//!
//! Observed addresses go no further than the event that reports them.

use std::collections::HashMap;
use std::task::{Context, Poll};

use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{PeerId, identify};

use crate::net::address::{Reach, distance, is_relayed, is_tellable, remote_of_inbound};

/// Distances that are told apart, the farthest first.
const DISTANCES: [Reach; 3] = [Reach::World, Reach::Network, Reach::Machine];

/// Identify, one for each distance.
pub(crate) struct Identity {
    /// In the order of [`DISTANCES`].
    parts: [identify::Behaviour; DISTANCES.len()],
    /// The part of each connection, and its peer.
    links: HashMap<ConnectionId, (usize, PeerId)>,
}

/// The part for a distance.
fn part_of(distance: Reach) -> usize {
    match distance {
        Reach::World => 0,
        Reach::Network | Reach::Link => 1,
        Reach::Machine => 2,
    }
}

impl Identity {
    pub(super) fn new(config: &identify::Config) -> Self {
        Self {
            parts: DISTANCES.map(|_| identify::Behaviour::new(config.clone())),
            links: HashMap::new(),
        }
    }

    /// Tells all peers at once that addresses from outside have changed.
    fn push(&mut self) {
        for (number, part) in self.parts.iter_mut().enumerate() {
            let links = self.links.values();
            let peers = links.filter(|(of, _)| *of == number).map(|(_, peer)| *peer);
            part.push(peers.collect::<Vec<_>>());
        }
    }
}

impl NetworkBehaviour for Identity {
    type ConnectionHandler = <identify::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = identify::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let number = part_of(distance(&remote_of_inbound(peer, local, remote)));
        self.links.insert(connection, (number, peer));
        self.parts[number].handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let number = part_of(distance(address));
        self.links.insert(connection, (number, peer));
        self.parts[number]
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        if let Some((number, _)) = self.links.get(&connection) {
            self.parts[*number].on_connection_handler_event(peer, connection, event);
        }
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            // What a relay promises is confirmed or not, and told then.
            FromSwarm::NewListenAddr(new) if is_relayed(new.addr) => {}
            FromSwarm::NewListenAddr(new) => {
                for (part, distance) in self.parts.iter_mut().zip(DISTANCES) {
                    if is_tellable(new.addr, distance) {
                        part.on_swarm_event(event);
                    }
                }
            }
            FromSwarm::ConnectionEstablished(made) => {
                if let Some((number, _)) = self.links.get(&made.connection_id) {
                    self.parts[*number].on_swarm_event(event);
                }
            }
            FromSwarm::ConnectionClosed(closed) => {
                let of = self.links.remove(&closed.connection_id);
                let is_last = closed.remaining_established == 0;
                for (number, part) in self.parts.iter_mut().enumerate() {
                    if is_last || of.is_some_and(|(of, _)| of == number) {
                        part.on_swarm_event(event);
                    }
                }
            }
            // A connection that was turned away after its handler was made.
            FromSwarm::ListenFailure(failed) => {
                self.links.remove(&failed.connection_id);
            }
            FromSwarm::DialFailure(failed) => {
                self.links.remove(&failed.connection_id);
            }
            _ => {
                let is_outside = matches!(
                    event,
                    FromSwarm::ExternalAddrConfirmed(_) | FromSwarm::ExternalAddrExpired(_)
                );
                for part in &mut self.parts {
                    part.on_swarm_event(event);
                }
                if is_outside {
                    self.push();
                }
            }
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        for part in &mut self.parts {
            while let Poll::Ready(out) = part.poll(cx) {
                // Candidates are taken from what is reported, with a share for each who reports.
                if !matches!(out, ToSwarm::NewExternalAddrCandidate(_)) {
                    return Poll::Ready(out);
                }
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libp2p::core::ConnectedPoint;
    use libp2p::identity::Keypair;
    use libp2p::swarm::behaviour::{ConnectionEstablished, ExternalAddrConfirmed, NewListenAddr};

    fn parse(text: &str) -> Multiaddr {
        text.parse().expect("an address")
    }

    /// Addresses that each part would tell, by what it says to a handler after a change.
    fn told(identity: &mut Identity) -> usize {
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut said = 0;
        while let Poll::Ready(ToSwarm::NotifyHandler { .. }) = identity.poll(&mut context) {
            said += 1;
        }
        said
    }

    #[test]
    fn a_private_address_is_news_for_the_private_network_alone() {
        let key = Keypair::generate_ed25519();
        let config = identify::Config::new("x".to_owned(), key.public());
        let mut identity = Identity::new(&config);
        let peer = PeerId::random();
        for (number, from) in [
            "/ip4/8.8.4.4/tcp/1",
            "/ip4/10.0.0.2/tcp/1",
            "/ip4/127.0.0.1/tcp/1",
        ]
        .into_iter()
        .enumerate()
        {
            let connection_id = ConnectionId::new_unchecked(number);
            let (local, remote) = (parse("/ip4/10.0.0.1/tcp/1"), parse(from));
            let made = identity.handle_established_inbound_connection(
                connection_id,
                peer,
                &local,
                &remote,
            );
            made.expect("it is let in");
            let endpoint = ConnectedPoint::Listener {
                local_addr: local,
                send_back_addr: remote,
            };
            identity.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
                peer_id: peer,
                connection_id,
                endpoint: &endpoint,
                failed_addresses: &[],
                other_established: number,
            }));
        }
        let relay = PeerId::random();
        let circuit = format!("/ip4/9.9.9.9/tcp/1/p2p/{relay}/p2p-circuit");
        for (address, hear) in [
            ("/ip4/127.0.0.1/tcp/7", 1),
            ("/ip4/192.168.1.7/tcp/7", 2),
            ("/ip4/9.9.9.9/tcp/7", 3),
            // What a relay says before it has confirmed anything.
            (circuit.as_str(), 0),
        ] {
            let addr = &parse(address);
            identity.on_swarm_event(FromSwarm::NewListenAddr(NewListenAddr {
                listener_id: libp2p::core::transport::ListenerId::next(),
                addr,
            }));
            assert_eq!(told(&mut identity), hear, "{address}");
        }
        let addr = &parse(&circuit);
        identity.on_swarm_event(FromSwarm::ExternalAddrConfirmed(ExternalAddrConfirmed {
            addr,
        }));
        // The new addresses for each connection, and each is told at once.
        assert_eq!(told(&mut identity), 6);
    }
}
