//! Reach: whether others can reach this node from outside, and the ways through routers.
//!
//! - `policy`: what is done about it, by what is known; pure.
//! - `candidates`: addresses at which others saw this node, until they are confirmed; pure.
//! - `prober`: libp2p's autonat client, asked with care.
//! - `network`: notices that this machine's network has changed.
//! - `mapping`: asks the router to pass a port on (UPnP, NAT-PMP, PCP).
//! - `served`: how much this node relays for others; pure.
//! - `behaviour`: all of it together with libp2p's autonat, relay and dcutr.
//!
//! Invariant: an address is told to others only once somebody outside has reached this node there,
//! or a relay of its own choice has promised to pass connections on. Neither the word of a router
//! nor that of a peer counts for more than a try.
//!
//! Deliberately absent: which peers are dialled (`peers`), and who is told which address.

mod behaviour;
mod candidates;
mod mapping;
mod network;
mod policy;
mod prober;
mod served;

use std::fmt;
use std::net::SocketAddr;

use libp2p::{Multiaddr, PeerId};
use tokio::sync::watch;

pub(super) use behaviour::{Behaviour, Event, Observation, Setup};

/// Whether this node can be reached from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reachable {
    /// At an address of its own: somebody outside has connected to it there.
    Public,
    /// Through a relay.
    Relay,
    /// Not at all: those that tried came to nothing, and there is no relay.
    No,
    /// Nobody outside has tried yet.
    #[default]
    Unknown,
}

impl Reachable {
    /// A word for it, as scripts see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Relay => "relay",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

/// Kind of the router between this node and the internet, as far as it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Nat {
    /// None: others see an address that this machine has.
    None,
    /// All others see the same address and port: hole punching has a good chance.
    Cone,
    /// Each other one sees another port: two such routers need a relay between them.
    Symmetric,
    /// There is a router, and too few have seen this node to say more.
    Some,
    /// Nobody outside has seen this node.
    #[default]
    Unknown,
}

impl Nat {
    /// A word for it, as scripts see it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cone => "cone",
            Self::Symmetric => "symmetric",
            Self::Some => "some",
            Self::Unknown => "unknown",
        }
    }
}

/// Request to the router, and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mapping {
    /// It is not asked.
    #[default]
    Off,
    /// It was asked and has promised nothing so far.
    Asked,
    /// It says that it passes on what comes to these addresses.
    Promised(Vec<SocketAddr>),
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Asked => "none",
            Self::Promised(_) => "promised",
        })
    }
}

/// Counters of what this node relays for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Served {
    /// Whether it relays at all.
    pub on: bool,
    /// Peers that it keeps a way open for.
    pub reservations: usize,
    /// Connections that it passes on now.
    pub circuits: usize,
    /// Connections that it has passed on since the start.
    pub circuits_ever: u64,
    /// Peers and connections that it has turned away since the start.
    pub refused: u64,
}

/// How this node can be reached, as far as it knows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Whether it can.
    pub reachable: Reachable,
    /// The router before it.
    pub nat: Nat,
    /// Addresses that work from outside, those through relays included; without the peer id.
    pub addresses: Vec<Multiaddr>,
    /// Answer of the router.
    pub mapping: Mapping,
    /// Relays that keep a way open to this node.
    pub relays: Vec<PeerId>,
    /// Counters of what it relays for others.
    pub served: Served,
}

/// View of a net: how it can be reached. Cheap to clone.
#[derive(Clone)]
pub struct Reach {
    pub(super) status: watch::Receiver<Status>,
}

impl Reach {
    /// How this node can be reached. Costs next to nothing.
    pub fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// A watch on it.
    pub fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }
}
