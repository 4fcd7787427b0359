//! Why a net could not be started.

use std::io;

use libp2p::Multiaddr;

/// Why a net could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An address can't be listened on, for example because another program uses the port.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address as configured.
        address: Multiaddr,
        /// What the system said.
        source: io::Error,
    },
    /// The kind of address is not supported.
    #[error(
        "can't listen on {address}: only /ip4|ip6/.../tcp/<port> and /ip4|ip6/.../udp/<port>/quic-v1 are supported"
    )]
    Unsupported {
        /// The address as configured.
        address: Multiaddr,
    },
    /// The network's name can't be part of a protocol's name.
    #[error("'{0}' is not a network name: use 1 to 32 letters, digits, '-' or '.'")]
    Network(String),
    /// The encryption layer could not be set up.
    #[error("the transport could not be set up: {0}")]
    Transport(String),
    /// A thread could not be started.
    #[error("a thread could not be started")]
    Thread(#[source] io::Error),
}
