//! Rings: which connected peers are members of a ring that this node is in, and what they tell of themselves and of others.
//!
//! - `codec`: frames of the ring protocol.
//! - `roll`: rings and members, shared by the view and the behaviour; pure but for its lock.
//! - `behaviour`: a handshake with each peer that connects, then news about each ring that both have proven.
//!
//! Invariant: a peer counts as an online member only on a connection on which both have proven the secret to each other, and only until the
//! peer is removed or the last connection ends. Nobody else is told anything about a ring.
//!
//! Deliberately absent: the file of rings, searching members in the DHT, and what members do for each other.

mod behaviour;
mod codec;
mod roll;

#[cfg(test)]
mod model_tests;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use libp2p::identity::Keypair;
use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

use super::mailbox::Mailbox;
use crate::ring::{self, RingId, Rings, Spent};
use crate::time::Timestamp;

pub(super) use behaviour::{Behaviour, Event};
pub(super) use roll::Roll;

/// A member of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The node.
    pub peer: PeerId,
    /// Whether it is connected and has proven the secret on this connection.
    pub online: bool,
    /// What its machine is called; empty while unknown.
    pub name: String,
    /// How many bytes its store can still take, as it last said on this connection; none while it is not online.
    pub free_bytes: Option<u64>,
    /// Lead of its clock over this machine's, in milliseconds, as it last said on this
    /// connection; less than 0 when it is behind.
    pub clock_ahead_ms: Option<i64>,
    /// When it was last seen connected; 0: never.
    pub last_seen: Timestamp,
    /// Where it can be reached, without the peer id.
    pub addresses: Vec<Multiaddr>,
    /// Where it stands, as the person of this node says; empty when nobody said.
    pub place: String,
}

/// Place or address that tells two members apart, or does not: peer ids cost nothing, and one
/// machine may have several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Site {
    /// Where the person of this node says that it stands.
    Place(String),
    /// The first of the addresses that it says it has.
    Address(IpAddr),
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Place(place) => f.write_str(place),
            Self::Address(ip) => ip.fmt(f),
        }
    }
}

/// What the view asks of the behaviour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    /// The rings have changed, or it is time to tell the members what is new.
    Refresh,
}

/// View of a net: rings and their members. Cheap to clone.
#[derive(Clone)]
pub struct RingsView {
    pub(super) mailbox: Mailbox<Command>,
    pub(super) roll: Arc<Roll>,
}

impl RingsView {
    /// Members of any ring that are connected now and have proven it. Costs next to nothing.
    pub fn online_members(&self) -> Vec<PeerId> {
        self.roll.online()
    }

    /// As [`online_members`](Self::online_members), each with the bytes that its store can still take, as it last said.
    pub fn online_space(&self) -> Vec<(PeerId, u64)> {
        self.roll.online_space()
    }

    /// Whether the peer is connected and has proven to be a member of any ring.
    pub fn is_online_member(&self, peer: &PeerId) -> bool {
        self.roll.is_online(peer)
    }

    /// A number that changes whenever [`online_members`](Self::online_members) does.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.roll.online_changes.subscribe()
    }

    /// A number that changes whenever [`rings`](Self::rings) gives something that is worth saving.
    pub fn watch_rings(&self) -> watch::Receiver<u64> {
        self.roll.ring_changes.subscribe()
    }

    /// Members of a ring other than this node, those online first.
    ///
    /// # Errors
    /// [`ring::Error::NoSuchRing`].
    pub fn members(&self, ring: &str) -> Result<Vec<Member>, ring::Error> {
        self.roll.members(ring)
    }

    /// Where each member stands, as far as that is known.
    pub fn sites(&self) -> HashMap<PeerId, Site> {
        self.roll.sites()
    }

    /// Every member of any ring that this node itself saw proving it, online or not.
    pub fn proven_members(&self) -> Vec<PeerId> {
        self.roll.proven_members()
    }

    /// Why an invitation does not let this node in, when the member that made it has said so since
    /// this node started.
    pub fn refusal(&self, invitation: &RingId) -> Option<Spent> {
        self.roll.refusal(invitation)
    }

    /// Every peer that was removed from any ring that this node is in.
    pub fn removed(&self) -> HashSet<PeerId> {
        self.roll.removed()
    }

    /// The rings as they are now. They hold secrets.
    pub fn rings(&self) -> Rings {
        self.roll.rings()
    }

    /// Changes the rings, with this node's key to sign, then proves and tells what is new to the
    /// connected peers.
    ///
    /// # Errors
    /// Error that `change` gives.
    pub async fn change<T>(
        &self,
        change: impl FnOnce(&mut Rings, &Keypair) -> Result<T, ring::Error>,
    ) -> Result<T, ring::Error> {
        let result = self.roll.change(change);
        self.refresh().await;
        result
    }

    /// Takes these rings for those that there were.
    pub async fn update(&self, rings: Rings) {
        self.roll.change_any(|own| *own = rings);
        self.refresh().await;
    }

    /// What this node tells members of itself: its machine's name and the bytes that its store can still take.
    pub fn set_local(&self, name: &str, free_bytes: u64) {
        self.roll.set_local(name, free_bytes);
    }

    /// Tells the online members what is new and tries again where a handshake has failed.
    pub async fn refresh(&self) {
        // When the net is stopping there is nobody to tell.
        let _ = self.mailbox.send(Command::Refresh).await;
    }
}
