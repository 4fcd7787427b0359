//! Rings: groups of nodes that share a secret and keep each other's backups.
//!
//! A [`Seed`] of 128 random bits is all that makes a member: the ring's secret is derived from it, and an [`InviteCode`] carries it
//! in a form that can be read aloud. [`handshake`] proves that both ends of a connection know a secret without telling it, or any
//! name of the ring, to who doesn't. Removing a member makes a new seed, the next *generation*; who was away meanwhile proves an
//! older one and is handed the new one, unless it is the removed one or nobody whom the giver had known.
//!
//! Invariants: secrets are wiped from memory and never in `Debug`; what is decoded is bounded and refused when it is not exactly
//! what is expected; nothing here decides by a clock or randomness of its own.
//!
//! Deliberately absent: connections, timers, and what members do for each other. Members trust each other to remove and to invite;
//! there is no administrator.

mod code;
mod file;
mod group;
pub mod handshake;
mod member;
pub mod message;
mod secret;

#[cfg(test)]
mod tests;

pub use code::{CodeError, InviteCode};
pub use file::{FILE_NAME, RingsFile};
pub use group::{
    GENERATION_TTL, MAX_GENERATIONS, MAX_MEMBERS, MAX_NAME_BYTES, MAX_REMOVED, MAX_RINGS, Ring,
    Rings, check_name,
};
pub use member::{Known, MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_MEMBER_NAME_BYTES, clean_name};
pub use secret::{RingId, RingSecret, Seed};

/// Why something about rings can't be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Not a name that a ring can have.
    #[error(
        "a ring's name has 1 to {MAX_NAME_BYTES} letters a to z, digits and single dashes between them"
    )]
    BadName,
    /// There is a ring of this name.
    #[error("this node is in a ring '{0}' already")]
    NameTaken(String),
    /// The same ring is there under some name.
    #[error("this node is in this ring already, as '{0}'")]
    Joined(String),
    /// There is no ring of this name.
    #[error("this node is in no ring '{0}'")]
    NoSuchRing(String),
    /// The peer is not known in the ring.
    #[error("{peer} is no member of the ring '{ring}'")]
    NoSuchMember {
        /// The ring.
        ring: String,
        /// The peer.
        peer: libp2p::PeerId,
    },
    /// As many rings as a node can be in.
    #[error("a node is in at most {MAX_RINGS} rings")]
    TooManyRings,
    /// As many as can be remembered.
    #[error("the ring '{0}' has removed as many members as can be remembered: make a new one")]
    TooManyRemoved(String),
    /// The code is not right.
    #[error(transparent)]
    Code(#[from] CodeError),
    /// The file can't be read or written.
    #[error("could not {what} {path}: {source}")]
    File {
        /// Read or write.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file's content is wrong. Says where, never what: it holds secrets.
    #[error("the file {path} is wrong: {what}")]
    Malformed {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        what: String,
    },
}
