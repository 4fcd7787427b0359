//! What every room's behaviour does alike: it wraps one of libp2p's and leaves all that concerns connections to it.

/// The methods of [`NetworkBehaviour`](libp2p::swarm::NetworkBehaviour) about established connections, handed on to the behaviour in the
/// field `$inner`. To be used inside of the implementation. What is about connections yet to be made stays with the rooms that have a say in
/// it, and `on_swarm_event` and `poll` are each room's own.
macro_rules! delegate_connections {
    ($inner:ident) => {
        crate::net::delegate::delegate_handlers!($inner);

        fn on_connection_handler_event(
            &mut self,
            peer: libp2p::PeerId,
            connection: libp2p::swarm::ConnectionId,
            event: libp2p::swarm::THandlerOutEvent<Self>,
        ) {
            self.$inner
                .on_connection_handler_event(peer, connection, event);
        }
    };
}

/// As [`delegate_connections`], for a room that looks at what its handlers report itself.
macro_rules! delegate_handlers {
    ($inner:ident) => {
        fn handle_established_inbound_connection(
            &mut self,
            connection: libp2p::swarm::ConnectionId,
            peer: libp2p::PeerId,
            local: &libp2p::Multiaddr,
            remote: &libp2p::Multiaddr,
        ) -> Result<libp2p::swarm::THandler<Self>, libp2p::swarm::ConnectionDenied> {
            self.$inner
                .handle_established_inbound_connection(connection, peer, local, remote)
        }

        fn handle_established_outbound_connection(
            &mut self,
            connection: libp2p::swarm::ConnectionId,
            peer: libp2p::PeerId,
            address: &libp2p::Multiaddr,
            role: libp2p::core::Endpoint,
            port_use: libp2p::core::transport::PortUse,
        ) -> Result<libp2p::swarm::THandler<Self>, libp2p::swarm::ConnectionDenied> {
            self.$inner
                .handle_established_outbound_connection(connection, peer, address, role, port_use)
        }
    };
}

pub(in crate::net) use delegate_connections;
pub(in crate::net) use delegate_handlers;
