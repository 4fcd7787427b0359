//! libp2p's autonat client, asked with care.
//!
//! - Only peers that this node dialled over the internet are asked to try its addresses: those of
//!   the same network could reach it where nobody else can.
//! - libp2p's client tries each address once and for all. When the network changes there is a new
//!   one, which knows of the connections made since.

use std::collections::HashSet;
use std::task::{Context, Poll};

use libp2p::PeerId;
use libp2p::autonat::v2::client;
use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::behaviour::{FromSwarm, NewExternalAddrCandidate};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent,
    ToSwarm,
};

use crate::net::address::{Reach, distance, is_relayed};

/// The autonat client.
#[derive(Default)]
pub(crate) struct Prober {
    inner: client::Behaviour,
    /// Connections that the present client knows.
    known: HashSet<ConnectionId>,
}

impl Prober {
    /// An address is to be tried, if it was not.
    pub(super) fn candidate(&mut self, address: &Multiaddr) {
        let candidate = NewExternalAddrCandidate { addr: address };
        self.inner
            .on_swarm_event(FromSwarm::NewExternalAddrCandidate(candidate));
    }

    /// Everything is to be tried anew.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

impl NetworkBehaviour for Prober {
    type ConnectionHandler = <client::Behaviour as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = client::Event;

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.inner
            .handle_established_inbound_connection(connection, peer, local, remote)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if is_relayed(address) || distance(address) != Reach::World {
            // As of a peer that came: it may connect back, and is not asked to.
            return self
                .inner
                .handle_established_inbound_connection(connection, peer, address, address);
        }
        self.inner
            .handle_established_outbound_connection(connection, peer, address, role, port_use)
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        // An answer to a client of before.
        if self.known.contains(&connection) {
            self.inner
                .on_connection_handler_event(peer, connection, event);
        }
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(made) => {
                self.known.insert(made.connection_id);
            }
            FromSwarm::ConnectionClosed(closed) if !self.known.remove(&closed.connection_id) => {
                return;
            }
            // Candidates come by `candidate` alone, which bounds them.
            FromSwarm::NewExternalAddrCandidate(_) => return,
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}
