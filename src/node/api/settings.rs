//! The call that has changed settings taken over.

use serde::{Deserialize, Serialize};

use super::{Call, call};

/// Has the node read its settings file again. One that is wrong changes nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Reload {}
call!(Reload, "reload", ReloadReply);

/// What [`Reload`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReply {
    /// Settings that have changed and hold now.
    pub applied: Vec<String>,
    /// Settings that are not as the node was started with, and hold from its next start on.
    pub waiting: Vec<String>,
    /// Settings that the node has from its flags or its environment: what the file says of them does not count.
    pub overridden: Vec<String>,
}
