//! Calls about sets of paths that are backed up again and again.

use serde::{Deserialize, Serialize};

use super::{Call, call};
pub use crate::backup::sets::Set as BackupSet;

/// Lists the sets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SetList {}
call!(SetList, "set-list", SetListReply);

/// The sets.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SetListReply {
    /// Sets in the order in which they were added.
    pub sets: Vec<BackupSet>,
}

/// Adds a set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetAdd {
    /// The set.
    pub set: BackupSet,
}
call!(SetAdd, "set-add", SetListReply);

/// Removes a set. Its snapshots stay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetRemove {
    /// The set's whole name.
    pub name: String,
}
call!(SetRemove, "set-remove", SetListReply);
