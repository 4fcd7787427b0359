//! Calls about an owner's machines.

use serde::{Deserialize, Serialize};

use super::{Call, Speaker, call};
use crate::time::Timestamp;

/// Lists an owner's machines.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Machines {
    /// Speaker of the call.
    #[serde(default)]
    pub speaker: Speaker,
    /// Seconds to look for the owner's head where it is not here; 0: only a short look.
    #[serde(default)]
    pub timeout_s: u64,
}
call!(Machines, "machines", MachinesReply);

/// Result of [`Machines`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MachinesReply {
    /// The owner.
    pub owner: String,
    /// Generation of the keys that backups are sealed with: so often they were changed.
    pub generation: u8,
    /// The machines, by name.
    pub machines: Vec<MachineInfo>,
    /// The owner's head record, in hex: what the words decide upon.
    pub record: String,
}

/// One machine of an owner.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineInfo {
    /// Its public key.
    pub machine: String,
    /// Its name; empty when its log could not be had.
    pub name: String,
    /// Whether it is the one that answers.
    pub this: bool,
    /// When it last wrote its log, as its clock said; missing when nothing that it wrote counts.
    pub updated: Option<Timestamp>,
    /// When it was turned out.
    pub revoked: Option<Timestamp>,
    /// Whether it gets the keys that new backups are sealed with.
    pub keys: bool,
}

/// Makes known what the owner's words decided about its machines.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecideMachines {
    /// Speaker of the call.
    #[serde(default)]
    pub speaker: Speaker,
    /// The owner's head record with the signed decisions, in hex.
    pub record: String,
}
call!(DecideMachines, "decide-machines", DecideMachinesReply);

/// Result of [`DecideMachines`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DecideMachinesReply {
    /// Peers that were told; they tell others.
    pub told: u64,
    /// Whether this node keeps it and goes on telling others.
    pub kept: bool,
}
