//! Totals for a put that is under way: a survey goes through the same files beside it.
//!
//! Invariant: totals are told only once the survey has seen everything. A total that still grows
//! would make the time left a guess.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{PutOptions, survey};
use crate::monitor::{Giver, Monitor, Progress, Silent};

/// A survey that counts for a put. Ends when dropped.
pub struct Beside {
    monitor: Arc<dyn Monitor>,
    _survey: Option<AbortOnDropHandle<()>>,
}

impl Beside {
    /// Begins to count what a put of `paths` with these options takes, if `monitor` wants to know.
    pub fn begin(paths: &[PathBuf], options: &PutOptions, monitor: Arc<dyn Monitor>) -> Self {
        if !monitor.wants_totals() {
            return Self {
                monitor,
                _survey: None,
            };
        }
        let totals = Arc::new(OnceLock::new());
        let found = totals.clone();
        let paths = paths.to_vec();
        let options = PutOptions {
            // Which files have changed is the put's to find out.
            previous: None,
            ..options.clone()
        };
        let counting = tokio::spawn(async move {
            let cancel = CancellationToken::new();
            // The put itself warns of what can't be read, and fails where the survey does.
            if let Ok(survey) = survey(&paths, &options, Arc::new(Silent), cancel).await {
                let _ = found.set((survey.files, survey.bytes));
            }
        });
        Self {
            monitor: Arc::new(WithTotals { monitor, totals }),
            _survey: Some(AbortOnDropHandle::new(counting)),
        }
    }

    /// Monitor that the put is to tell its progress.
    pub fn monitor(&self) -> Arc<dyn Monitor> {
        self.monitor.clone()
    }
}

/// Adds totals to what another monitor hears, once they are known.
struct WithTotals {
    monitor: Arc<dyn Monitor>,
    totals: Arc<OnceLock<(u64, u64)>>,
}

impl Monitor for WithTotals {
    fn progress(&self, progress: Progress) {
        let with_totals = match self.totals.get() {
            // Files may have grown since.
            Some((files, bytes)) => Progress {
                files_total: progress.files.max(*files),
                bytes_total: progress.bytes.max(*bytes),
                ..progress
            },
            None => progress,
        };
        self.monitor.progress(with_totals);
    }

    fn warning(&self, message: &str) {
        self.monitor.warning(message);
    }

    fn givers(&self, givers: &[Giver]) {
        self.monitor.givers(givers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Heard {
        last: Mutex<Progress>,
    }

    impl Monitor for Heard {
        fn progress(&self, progress: Progress) {
            *self.last.lock().expect("not poisoned") = progress;
        }
        fn warning(&self, _: &str) {}
    }

    #[tokio::test]
    async fn totals_come_once_everything_was_seen_and_never_below_what_is_done() {
        let dir = tempfile::tempdir().expect("a directory");
        for n in 0..5 {
            std::fs::write(dir.path().join(n.to_string()), [7; 100]).expect("written");
        }
        let heard = Arc::new(Heard::default());
        let paths = [dir.path().to_owned()];
        let mut beside = Beside::begin(&paths, &PutOptions::default(), heard.clone());
        let survey = beside._survey.take().expect("it wants totals");
        survey.await.expect("it ends by itself");
        let tell = |files, bytes| {
            let progress = Progress {
                files,
                bytes,
                ..Progress::default()
            };
            beside.monitor().progress(progress);
            *heard.last.lock().expect("not poisoned")
        };
        let told = tell(2, 200);
        assert_eq!((told.files, told.files_total), (2, 5));
        assert_eq!((told.bytes, told.bytes_total), (200, 500));
        let told = tell(6, 700);
        assert_eq!((told.files_total, told.bytes_total), (6, 700));
    }

    #[tokio::test]
    async fn nobody_counts_for_a_monitor_that_hears_nothing() {
        let paths = [PathBuf::from("/")];
        let beside = Beside::begin(&paths, &PutOptions::default(), Arc::new(Silent));
        assert!(beside._survey.is_none());
    }
}
