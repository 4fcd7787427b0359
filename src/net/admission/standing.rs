//! How a peer stands with this node.

use std::sync::Arc;

use libp2p::PeerId;

/// How a peer stands with this node, from lowest to highest. Of several that wait, the higher are
/// answered first.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has taken much and given next to nothing.
    FreeRider,
    /// Too little was exchanged with it to say.
    Newcomer,
    /// It gives about as much as it takes, or more.
    Even,
    /// It is in a ring with this node.
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
