//! Backups: an owner's snapshots, where they are said to be, and what is done with them.
//!
//! ```text
//! 12 words -> owner's keys -> head record with its keepers -> one log a machine -> snapshots -> trees (bundles) -> blocks
//! ```
//!
//! - [`owner`]: words, keys, and the file in which a machine keeps its part of them.
//! - [`Archive`]: head, logs and [`Catalog`] of one owner; the only place that writes a log.
//!   `lookback`: earlier entries and leases. [`ReadBack`]: what others have of the head.
//! - [`run`]: one backup. [`forget`], [`prune`], [`check`]: what is done with what is there.
//!   [`fate`]: what may go. Restoring is `bundle::extract` of a snapshot's tree.
//! - [`retention`], [`schedule`]: pure policy. [`sets`]: what is backed up again and again.
//!   [`Choice`]: which snapshots a command means.
//!
//! # Invariants
//!
//! A snapshot is named by a log only when all its blocks are durable and pinned. Nothing that a log
//! names loses its pin: forgetting writes the log first. Only the machine that made a snapshot and
//! the owner's words make it go at once; another machine's word is a request ([`fate`]). A pin that
//! no log names is either a snapshot whose run was cut off at the last moment, and is taken in by
//! the next run, or forgotten, and is removed by the next prune. No step needs a lock that a dead
//! process could leave behind.
//!
//! Deliberately absent: copies on other machines (leases), files and trees themselves (`bundle`).

mod archive;
mod catalog;
pub mod check;
mod choice;
pub mod error;
pub mod fate;
pub mod forget;
pub mod log;
mod lookback;
pub mod order;
pub mod owner;
pub mod prune;
mod readback;
pub mod retention;
pub mod run;
pub mod schedule;
mod search;
mod seen;
pub mod sets;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod unforget;

pub use archive::{
    Access, Archive, Found, HEAD_FILE, Home, REQUESTS_FILE, Search, TWIN_FILE, last_written,
    present_key, read_snapshot,
};
pub use catalog::{Catalog, Listed, MAX_SKEW};
pub use choice::Choice;
pub use error::Error;
pub use fate::Fates;
pub use log::{Log, Logged};
pub use order::Order;
pub use readback::ReadBack;
pub use search::{Hit, Hits, find_files};
pub use snapshot::{Snapshot, Summary};

/// Name of every pin of a snapshot: how they are told from other pins.
pub const SNAPSHOT_PIN: &str = "backup snapshot";

/// Remedy for a file of this room's that is wrong.
pub const DAMAGED_FILE_HINT: &str = "mend what is wrong in it, bring it back from a copy, or move it away: `libernet backup add` makes sets anew";

/// What work that was stopped on request ends with.
fn stopped() -> Error {
    Error::Bundle(crate::bundle::Error::Cancelled)
}
