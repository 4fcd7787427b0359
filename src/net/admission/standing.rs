//! Standing of a peer with this node.

use std::sync::Arc;

use libp2p::PeerId;

/// Standing of a peer with this node, from lowest to highest. Peers of a higher standing are
/// answered first among those that wait.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Peer that has taken much and given next to nothing.
    FreeRider,
    /// Peer with which too little was exchanged to say.
    Newcomer,
    /// Peer that gives about as much as it takes, or more.
    Even,
    /// Peer that is in a ring with this node.
    Member,
}

impl Standing {
    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FreeRider => "free rider",
            Self::Newcomer => "newcomer",
            Self::Even => "even",
            Self::Member => "member",
        }
    }
}

/// Tells how a peer stands. Called on the task that owns the network: it is no more than a look
/// into memory.
pub(in crate::net) type StandingOf = Arc<dyn Fn(PeerId) -> Standing + Send + Sync>;
