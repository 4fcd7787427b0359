//! Meeting points: places outside of the mesh where nodes tell each other addresses, with no server
//! of ours.
//!
//! The one that is used is the BitTorrent Mainline DHT (BEP 5, [`Mainline`]), which nobody owns: a
//! node announces its port under a [`Key`], and others who know the key are told its address.
//!
//! - `key`: keys, and when each counts.
//! - `point`: the trait behind which a meeting point is, so that tests have one of their own.
//! - `mainline`: the Mainline DHT.
//! - `planner`: when to ask for which key and when to announce; pure.
//! - `places`: addresses that were told: which is dialled next, which are remembered; pure.
//!
//! Invariant: what comes from a meeting point is an address and nothing else. Who is there is
//! proved by libp2p's handshake, and of which network by the names of protocols.
//!
//! Deliberately absent: the reason to ask for a key, and the dialling.

mod key;
mod mainline;
mod places;
mod planner;
mod point;

#[cfg(test)]
mod places_tests;

pub use key::{Key, head_keys, link_key, mesh_keys, ring_keys};
pub use mainline::Mainline;
pub use places::{Dial, MAX_DIALS_AT_ONCE, Outcome, Place, Places};
pub use planner::{Ask, Interest, Job, MAX_KEYS, Planner};
pub use point::{Error, Point};
