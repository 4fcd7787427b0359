//! Admission: how much of this node each peer and each address may take, for all protocols alike.
//!
//! Peer ids, sockets and streams cost nothing to make, so every bound here is one in all, with a
//! share for each peer or address below it.
//!
//! - `door`: inbound connections until both ends have proven who they are.
//! - `site`, `places`: where connections come from, and which may stay once they are established.
//! - `unread`: bytes that peers have sent and nobody has read.
//! - `requests`: requests of peers that wait for their turn, by the standing of the peer.
//! - `permits`: this node's own requests under way.
//!
//! The room knows no protocol: those that do are above it.

pub(super) mod door;
mod permits;
mod places;
mod requests;
mod site;
mod standing;
mod unread;

pub(super) use permits::{Permit, Permits};
pub(super) use places::{Held, Judgement, Newcomer, Places};
pub(super) use requests::{Bounds, Offered, RequestQueue, Reservation};
pub(super) use site::Site;
pub use standing::Standing;
pub(super) use standing::StandingOf;
pub(super) use unread::{Account, TooMuch, Unread};
