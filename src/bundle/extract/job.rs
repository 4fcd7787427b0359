//! What the threads of one extraction share: options, counters, the report, and the reason to stop.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio_util::sync::CancellationToken;

use super::directory::Place;
use super::{ExtractOptions, Failed, MAX_REPORTED, Missing};
use crate::bundle::error::Error;
use crate::bundle::root::Totals;
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};

/// Where an extraction writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ground {
    /// A hidden directory (or file) of its own, just made.
    Fresh,
    /// One that an earlier extraction left.
    Resumed,
    /// A directory that is in use: what is replaced is replaced whole.
    InPlace,
}

/// State of one extraction.
pub(super) struct Job {
    pub(super) options: ExtractOptions,
    pub(super) ground: Ground,
    /// What temporary names end in: it tells bundles apart.
    pub(super) tag: String,
    /// Whether this process may give files away.
    pub(super) is_root: bool,
    pub(super) target: PathBuf,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) totals: Totals,
    /// Directories whose descriptors are open, oldest first.
    pub(super) open_places: Mutex<VecDeque<Weak<Place>>>,
    pub(super) files: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) blocks: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) left_out: AtomicU64,
    stopped: AtomicBool,
    heard: CancellationToken,
    fatal: Mutex<Option<Error>>,
    findings: Mutex<Findings>,
    warned_owner: AtomicBool,
    warned_xattr: AtomicBool,
}

/// What went wrong with single entries.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) missing: Vec<Missing>,
    pub(super) missing_total: u64,
    pub(super) failed: Vec<Failed>,
    pub(super) failed_total: u64,
}

impl Job {
    pub(super) fn new(
        options: ExtractOptions,
        ground: Ground,
        tag: String,
        target: PathBuf,
        monitor: Arc<dyn Monitor>,
        totals: Totals,
    ) -> Arc<Self> {
        Arc::new(Self {
            options,
            ground,
            tag,
            is_root: rustix::process::geteuid().is_root(),
            target,
            monitor,
            totals,
            open_places: Mutex::default(),
            files: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            heard: CancellationToken::new(),
            fatal: Mutex::default(),
            findings: Mutex::default(),
            warned_owner: AtomicBool::new(false),
            warned_xattr: AtomicBool::new(false),
        })
    }

    /// Ends the extraction: the first reason counts.
    pub(super) fn stop(&self, reason: Error) {
        lock(&self.fatal).get_or_insert(reason);
        self.stopped.store(true, Ordering::Relaxed);
        self.heard.cancel();
    }

    /// Waits for [`stop`](Self::stop).
    pub(super) async fn stopped(&self) {
        self.heard.cancelled().await;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    pub(super) fn take_fatal(&self) -> Option<Error> {
        lock(&self.fatal).take()
    }

    pub(super) fn take_findings(&self) -> Findings {
        std::mem::take(&mut lock(&self.findings))
    }

    /// `path` (inside the bundle) lacks a block.
    pub(super) fn missing(&self, path: PathBuf, block: BlockId, reason: &str) {
        self.monitor
            .warning(&format!("{} is left out: {reason}", path.display()));
        let mut findings = lock(&self.findings);
        findings.missing_total += 1;
        if findings.missing.len() < MAX_REPORTED {
            findings.missing.push(Missing {
                path,
                block,
                reason: reason.to_owned(),
            });
        }
    }

    /// The file system refused something for `path` (inside the bundle). A full disk ends everything: the rest would fail too.
    pub(super) fn failed(&self, path: &Path, error: impl Into<io::Error>) {
        let error = Error::io(&self.target.join(path), error);
        let source = match error {
            Error::Io { source, .. } => source,
            full => return self.stop(full),
        };
        let reason = source.to_string();
        self.monitor
            .warning(&format!("{}: {reason}", path.display()));
        let mut findings = lock(&self.findings);
        findings.failed_total += 1;
        if findings.failed.len() < MAX_REPORTED {
            findings.failed.push(Failed {
                path: path.to_owned(),
                reason,
            });
        }
    }

    pub(super) fn warn_owner(&self) {
        if !self.warned_owner.swap(true, Ordering::Relaxed) {
            self.monitor
                .warning("owners could not be restored: that takes root");
        }
    }

    pub(super) fn warn_xattr(&self, path: &Path, error: io::Error) {
        if !self.warned_xattr.swap(true, Ordering::Relaxed) {
            self.monitor.warning(&format!(
                "{}: some extended attributes could not be restored: {error}",
                path.display()
            ));
        }
    }

    /// A regular file is done.
    pub(super) fn file_done(&self, size: u64) {
        self.files.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(size, Ordering::Relaxed);
    }

    pub(super) fn report_progress(&self) {
        self.monitor.progress(Progress {
            files: self.files.load(Ordering::Relaxed),
            files_total: self.totals.files,
            bytes: self.bytes.load(Ordering::Relaxed),
            bytes_total: self.totals.bytes,
            blocks: self.blocks.load(Ordering::Relaxed),
        });
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
