//! Which peers give to a piece of work: for its report, and while it runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::api::Giver;
use crate::depot::Session;
use crate::monitor::{self, Monitor, Progress};

/// Pause between two reports of the peers that give.
const INTERVAL: Duration = Duration::from_millis(500);
/// Peers that are named while the work runs.
const MAX_NAMED: usize = 8;

/// The peers that gave blocks of a session, those that gave most first.
pub(super) fn givers(session: &Session) -> Vec<Giver> {
    session
        .gifts()
        .into_iter()
        .map(|(peer, gift)| Giver {
            peer: peer.to_string(),
            blocks: gift.blocks,
            bytes: gift.bytes,
        })
        .collect()
}

/// Tells another monitor, besides what it hears, which peers give.
pub(super) struct Giving {
    monitor: Arc<dyn Monitor>,
    session: Arc<Session>,
    told_at: Mutex<Option<Instant>>,
}

impl Giving {
    /// A monitor of the work that takes its blocks from `session`.
    pub(super) fn watch(session: Arc<Session>, monitor: Arc<dyn Monitor>) -> Arc<dyn Monitor> {
        Arc::new(Self {
            monitor,
            session,
            told_at: Mutex::default(),
        })
    }

    /// Whether it is time to tell again.
    fn is_due(&self) -> bool {
        // An instant is whole whenever it is looked at.
        let mut told_at = self.told_at.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = told_at.is_none_or(|at| now >= at + INTERVAL);
        if is_due {
            *told_at = Some(now);
        }
        is_due
    }
}

impl Monitor for Giving {
    fn progress(&self, progress: Progress) {
        if self.is_due() {
            let gifts = self.session.gifts().into_iter().take(MAX_NAMED);
            let givers: Vec<monitor::Giver> = gifts
                .map(|(peer, gift)| monitor::Giver {
                    peer: peer.to_string(),
                    bytes: gift.bytes,
                })
                .collect();
            if !givers.is_empty() {
                self.monitor.givers(&givers);
            }
        }
        self.monitor.progress(progress);
    }

    fn warning(&self, message: &str) {
        self.monitor.warning(message);
    }

    fn wants_totals(&self) -> bool {
        self.monitor.wants_totals()
    }
}
