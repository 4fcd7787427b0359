//! Rings: groups of nodes that share a secret and keep each other's backups.
//!
//! A ring's secret is derived from a [`Seed`] of 128 random bits. [`handshake`] proves that both
//! ends of a connection know a secret without telling it, or any name of the ring, to a peer that
//! doesn't. A node comes in by an invitation ([`InviteCode`], a form that can be read aloud): a
//! member that made it gives the secret to a peer that proves the invitation's.
//!
//! Removing a member makes a new seed, the next [`Generation`]: a record signed with a member's
//! node key and chained to the one before. A member that was away meanwhile proves an older
//! generation and is given the new one, by a member that itself saw it prove the older one while it
//! was the present one. Two generations after the same one are branches, between which a person
//! decides.
//!
//! Invariants: secrets are wiped from memory and never in `Debug`; what is decoded is bounded and
//! refused when it is not exactly what is expected; nothing here decides by a clock or randomness
//! of its own.
//!
//! Deliberately absent: connections, timers, and what members do for each other. Members trust each
//! other to remove and to invite; there is no administrator. A member can pass the secret on: its
//! word is as good as any other's until it is removed.

mod branch;
mod code;
mod file;
mod generation;
mod group;
pub mod handshake;
mod invitation;
mod member;
pub mod message;
mod secret;

#[cfg(test)]
mod branch_tests;
#[cfg(test)]
mod tests;

pub use branch::{Branch, Followed, Heard, MAX_BRANCHES};
pub use code::{CodeError, InviteCode};
pub use file::{FILE_NAME, RingsFile};
pub use generation::{Admission, ENTROPY_BYTES, Generation, GenerationId};
pub use group::{
    GENERATION_TTL, MAX_GENERATIONS, MAX_MEMBERS, MAX_NAME_BYTES, MAX_REMOVED, MAX_RINGS, Ring,
    Rings, check_name,
};
pub use invitation::{INVITATION_TTL, MAX_INVITATION_TTL, Spent};
pub use member::{
    Known, MAX_ADDRESS_BYTES, MAX_ADDRESSES, MAX_MEMBER_NAME_BYTES, MAX_PLACE_BYTES, clean_name,
};
pub use secret::{RingId, RingSecret, Seed};

use crate::time::Timestamp;

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
    /// This node joined by an invitation and has met no member since.
    #[error("this node is invited to the ring '{0}' and no member has let it in yet")]
    NotLetIn(String),
    /// The invitation's time is over.
    #[error("this invitation is over since {}, by the clock of this machine", .0.in_zone(&crate::time::zone()).strftime("%Y-%m-%d %H:%M"))]
    InvitationOver(Timestamp),
    /// The member that made the invitation lets nobody in by it.
    #[error("the member that made this invite code lets this machine in no more: {}", .0.why())]
    Spent(Spent),
    /// The node's key is of another kind, or the numbers are used up.
    #[error("this node's key can't sign a new secret of a ring")]
    Unsignable,
    /// The ring has one secret.
    #[error("there is nothing to decide: the ring '{0}' has no branches")]
    NoBranches(String),
    /// No branch, or more than one, is called so.
    #[error("the ring '{ring}' has no branch '{id}'")]
    NoSuchBranch {
        /// The ring.
        ring: String,
        /// Beginning of an id that was asked for.
        id: String,
    },
    /// This node can't go over to a branch.
    #[error("no member of that branch of the ring '{0}' has given this machine its secret")]
    NoSecret(String),
    /// Not a name of a place.
    #[error("a place's name has at most {MAX_PLACE_BYTES} bytes and no control characters")]
    BadPlace,
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
