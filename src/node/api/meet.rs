//! Calls about the public mesh: taking part in it, and the ways into it.

use serde::{Deserialize, Serialize};

use super::{Call, call};
use crate::time::Timestamp;

/// Agrees to being seen as a node of the mesh at the public meeting point.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MeshJoin {}
call!(MeshJoin, "mesh-join", MeshStatusReply);

/// Takes that back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MeshLeave {}
call!(MeshLeave, "mesh-leave", MeshStatusReply);

/// Asks for the ways into the mesh.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MeshStatus {}
call!(MeshStatus, "mesh-status", MeshStatusReply);

/// How this node takes part in the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatusReply {
    /// Whether somebody agreed to being seen at the public meeting point.
    pub joined: bool,
    /// The setting `meet`: `on`, or `off`, which beats everything.
    pub meet: String,
    /// Ways into the mesh.
    pub ways: Vec<MeshWay>,
    /// Peers that are connected.
    pub peers: u64,
    /// Whether others can reach this node: `public`, `relay`, `no` or `unknown`.
    pub reachable: String,
    /// Kind of the router between this node and the internet, as far as it shows.
    pub nat: String,
    /// Why the meeting point was of no use the last time, if it was not.
    pub error: Option<String>,
    /// Searches, announcements and dials of addresses that were told there, since the start.
    pub asked: u64,
    /// See `asked`.
    pub announced: u64,
    /// See `asked`.
    pub dialled: u64,
}

/// One way into the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshWay {
    /// `bootstrap`: a peer from the settings; `mdns`: the local network; `meet`: the public meeting
    /// point; `peer`: an address that it told, and at which a peer was reached.
    pub kind: String,
    /// Where it is.
    pub address: String,
    /// When it last worked in this run.
    pub last_ok: Option<Timestamp>,
}
