//! How long work tells what it has done so far. The library never prints: it calls a [`Monitor`].

use serde::{Deserialize, Serialize};

/// How far a piece of work has come. Each field counts from the start of the work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Files finished.
    pub files: u64,
    /// Files in all, as far as known; 0 when unknown.
    pub files_total: u64,
    /// Bytes of content finished.
    pub bytes: u64,
    /// Bytes of content in all, as far as known; 0 when unknown.
    pub bytes_total: u64,
    /// Blocks finished.
    pub blocks: u64,
    /// Tries of a search for a block with a certain id, and how many it takes on average; 0 when
    /// there is no such search.
    #[serde(default)]
    pub tries: u64,
    /// See [`tries`](Self::tries).
    #[serde(default)]
    pub tries_expected: u64,
}

/// A peer that gives blocks to one piece of work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Giver {
    /// The peer, as text.
    pub peer: String,
    /// Bytes that it gave so far.
    pub bytes: u64,
}

/// Hears about the progress of one piece of work.
///
/// Called from worker threads and often: an implementation must return at once.
pub trait Monitor: Send + Sync {
    /// The work has come this far.
    fn progress(&self, progress: Progress);

    /// Something went wrong with one part (a file, a block) and the work goes on without it.
    fn warning(&self, message: &str);

    /// Peers have given blocks: all so far, those that gave most first.
    fn givers(&self, _givers: &[Giver]) {}

    /// Whether somebody looks at totals, which may cost work to find.
    fn wants_totals(&self) -> bool {
        true
    }
}

/// A monitor that hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn progress(&self, _: Progress) {}
    fn warning(&self, _: &str) {}
    fn wants_totals(&self) -> bool {
        false
    }
}
