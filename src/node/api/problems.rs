//! Calls about problems that somebody should hear of.

use serde::{Deserialize, Serialize};

use super::{Call, call};
pub use crate::problems::{Problem, Severity};

/// Asks for what is wrong now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Problems {}
call!(Problems, "problems", ProblemsReply);

/// Answer to [`Problems`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemsReply {
    /// The worst first, and of equals the one that lasts longest.
    pub problems: Vec<Problem>,
}

/// Sends a message on each way that the settings name, as a test.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NotifyTest {}
call!(NotifyTest, "notify-test", NotifyTestReply);

/// Answer to [`NotifyTest`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifyTestReply {
    /// What became of the message on each way; none when the settings name no way.
    pub ways: Vec<WayState>,
}

/// What became of a message on one way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WayState {
    /// The way: `command`, `mail`, `webhook` or `desktop`.
    pub way: String,
    /// Why it did not arrive; missing when it was handed over.
    #[serde(default)]
    pub error: Option<String>,
}
