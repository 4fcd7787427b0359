//! Problems that somebody should hear of: one list, with the time since when, kept across restarts.
//!
//! - [`book`]: what is wrong now, what was told of it, and what is to be told. Pure but for its file.
//! - [`send`]: ways by which a person is told outside of the program's own output.
//! - [`room`]: when a disk or a quota counts as nearly full.
//!
//! Deliberately absent: finding problems. The node does that, and `libernet status`, `health` and
//! `doctor` show the list that it gives.

pub mod book;
pub mod room;
pub mod send;

use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::time::Timestamp;

/// Days without a rehearsal of a restore after which one is due.
pub const DRILL_EVERY_DAYS: u64 = 31;
/// Name of the file in the data directory that tells of the last rehearsal.
pub const DRILL_FILE: &str = "drill.json";
/// Largest file of a rehearsal that is read, in bytes.
pub const MAX_DRILL_BYTES: u64 = 64 << 10;

/// How bad a problem is; the worst is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is lost by waiting some days.
    Notice,
    /// A backup is less safe than was asked for.
    Warning,
    /// Data may be lost, or nothing is backed up at all.
    Serious,
}

impl Severity {
    /// Its name in lists.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Serious => "serious",
        }
    }
}

/// A problem, as it was found in one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Kind of problem, such as `backup_failed`.
    pub id: &'static str,
    /// Thing that it is about: a set, a holder, a job; empty when there is only one.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub advice: String,
    /// Time that it may last before anybody is told outside of the lists: copies of a new backup
    /// are on their way for a while.
    pub patience: Duration,
}

/// A problem that lasts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Kind of problem, such as `backup_failed`.
    pub id: String,
    /// Thing that it is about: a set, a holder, a job; empty when there is only one.
    #[serde(default)]
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub text: String,
    /// What to do.
    #[serde(rename = "do")]
    pub advice: String,
    /// When it was first seen.
    pub since: Timestamp,
}

/// Score of a rehearsal of a restore, as kept in [`DRILL_FILE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillScore {
    /// When it ended.
    pub at: Timestamp,
    /// Snapshot that was tried.
    pub snapshot: String,
    /// Files that were to be restored.
    pub sampled: u64,
    /// Files that were.
    pub restored: u64,
    /// Files that differ from originals that have not changed.
    pub different: u64,
}

impl DrillScore {
    /// Whether every file came back as it was.
    pub const fn is_good(&self) -> bool {
        self.restored == self.sampled && self.different == 0
    }
}
