//! A meeting point as the rest of the program sees it.

use std::net::SocketAddrV4;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::key::Key;

/// Why a meeting point was of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No address of a node to begin with is known: names could not be resolved.
    #[error("none of the nodes to begin with could be resolved: {0}")]
    Unresolved(String),
    /// Nodes were asked and none has answered.
    #[error("no node of the meeting point answers; UDP may be blocked here")]
    Silent,
    /// The announcement was taken by nobody.
    #[error("no node of the meeting point took the announcement: {0}")]
    Refused(String),
    /// There is no socket or thread for it.
    #[error("the meeting point could not be opened: {0}")]
    Socket(String),
    /// Its own code has failed.
    #[error("the meeting point's client has failed")]
    Broken,
}

impl Error {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unresolved(_)
            | Self::Silent
            | Self::Refused(_)
            | Self::Socket(_)
            | Self::Broken => true,
        }
    }
}

/// A place where addresses are told under keys. IPv4 only, as Mainline is.
#[async_trait]
pub trait Point: Send + Sync + 'static {
    /// Tells that a node can be reached at this machine's address, as others see it, and `port`.
    ///
    /// # Errors
    /// [`Error`].
    async fn announce(&self, key: Key, port: u16) -> Result<(), Error>;

    /// Asks who announced a key. Addresses go to `found` as they come, an answer at a time; anybody
    /// can have put them there. Returns when the search is over, which has a bound.
    ///
    /// # Errors
    /// [`Error`]. Finding nobody is no error.
    async fn ask(
        &self,
        key: Key,
        found: mpsc::Sender<(Key, Vec<SocketAddrV4>)>,
    ) -> Result<(), Error>;
}
