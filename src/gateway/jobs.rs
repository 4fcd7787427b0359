//! Calls under way that tell how far they have come, for whoever looks at the node.
//!
//! There are never more than calls at once. Deliberately absent: what a call was asked for, since
//! it may hold links and passphrases, and stopping the calls of others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::monitor::Progress;
use crate::time::{Clock, SystemClock, Timestamp};

/// A call under way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Job {
    /// Number of the call since the start.
    id: u64,
    /// Its name, as in the API.
    call: String,
    /// When it began.
    since: Timestamp,
    /// How far it has come, as far as it has said.
    progress: Option<Progress>,
}

#[derive(Default)]
struct Table {
    next: u64,
    jobs: BTreeMap<u64, Job>,
}

/// All calls under way.
#[derive(Clone, Default)]
pub(super) struct Jobs(Arc<Mutex<Table>>);

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, Table> {
        // Each change is whole before the lock is given back.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call begins. It ends when what is returned is dropped.
    pub(super) fn begin(&self, call: &str) -> Running {
        let mut table = self.lock();
        let id = table.next;
        table.next += 1;
        let job = Job {
            id,
            call: call.to_owned(),
            since: SystemClock.now(),
            progress: None,
        };
        table.jobs.insert(id, job);
        Running {
            jobs: self.clone(),
            id,
        }
    }

    /// Calls under way, oldest first.
    pub(super) fn list(&self) -> Vec<Job> {
        self.lock().jobs.values().cloned().collect()
    }
}

/// A call under way.
pub(super) struct Running {
    jobs: Jobs,
    id: u64,
}

impl Running {
    /// The call says how far it has come.
    pub(super) fn progress(&self, progress: &Progress) {
        if let Some(job) = self.jobs.lock().jobs.get_mut(&self.id) {
            job.progress = Some(*progress);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.jobs.lock().jobs.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_listed_from_its_beginning_to_its_end() {
        let jobs = Jobs::default();
        let (put, get) = (jobs.begin("put"), jobs.begin("get"));
        let progress = Progress {
            files: 3,
            ..Progress::default()
        };
        get.progress(&progress);
        let listed = jobs.list();
        assert_eq!(
            (listed[0].call.as_str(), &listed[0].progress),
            ("put", &None)
        );
        assert_eq!(listed[1].progress, Some(progress));
        drop(put);
        assert_eq!(jobs.list().len(), 1);
        drop(get);
        assert!(jobs.list().is_empty());
    }
}
