//! Admission: how much of this node each peer and each address may take, for all protocols alike.
//!
//! Peer ids, sockets and streams cost nothing to make, so every bound here is one in all, with a
//! share for each peer or address below it.
//!
//! - `door`: inbound connections until both ends have proven who they are.
//! - `requests`: requests of peers that wait for their turn, by the standing of the peer.
//! - `permits`: this node's own requests under way.
//!
//! The room knows no protocol: those that do are above it.

pub(super) mod door;
mod permits;
mod requests;
mod standing;

pub(super) use permits::{Permit, Permits};
pub(super) use requests::{Bounds, Offered, RequestQueue, Reservation};
pub use standing::Standing;
pub(super) use standing::StandingOf;
