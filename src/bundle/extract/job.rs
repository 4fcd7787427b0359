//! What the threads of one extraction share: options, counters, the report, and the reason to stop.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::directory::Place;
use super::{ExtractOptions, Failed, MAX_REPORTED, Missing, Overwrite};
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
    /// Bytes that were written to files that are not done yet.
    pub(super) under_way: AtomicU64,
    pub(super) blocks: AtomicU64,
    pub(super) unchanged: AtomicU64,
    pub(super) left_out: AtomicU64,
    pub(super) new_files: AtomicU64,
    pub(super) new_bytes: AtomicU64,
    pub(super) changed_files: AtomicU64,
    pub(super) changed_bytes: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) verified: AtomicU64,
    /// Permits for blocking work; who has them all knows that none is going on.
    workers: Arc<Semaphore>,
    worker_count: u32,
    /// Memory for plaintext, one for each that works at most.
    buffers: Mutex<Vec<Vec<u8>>>,
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
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let worker_count = u32::try_from(cores).unwrap_or(1);
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
            under_way: AtomicU64::new(0),
            blocks: AtomicU64::new(0),
            unchanged: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
            new_files: AtomicU64::new(0),
            new_bytes: AtomicU64::new(0),
            changed_files: AtomicU64::new(0),
            changed_bytes: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            verified: AtomicU64::new(0),
            workers: Arc::new(Semaphore::new(worker_count as usize)),
            worker_count,
            buffers: Mutex::default(),
            stopped: AtomicBool::new(false),
            heard: CancellationToken::new(),
            fatal: Mutex::default(),
            findings: Mutex::default(),
            warned_owner: AtomicBool::new(false),
            warned_xattr: AtomicBool::new(false),
        })
    }

    /// Runs `work` on a blocking thread, as many at a time as there are cores: each may have a block, its plaintext, and a file open.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Error> {
        let workers = self.workers.clone();
        let permit = workers.acquire_owned().await.map_err(|_| Error::Worker)?;
        let run = move || {
            // Held until the work is done, whether or not somebody still waits for it.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(run)
            .await
            .map_err(|_| Error::Worker)
    }

    /// Memory for one piece of [`work`](Self::work): what was given back last.
    pub(super) fn buffer(&self) -> Vec<u8> {
        lock(&self.buffers).pop().unwrap_or_default()
    }

    /// Gives memory back for the next.
    pub(super) fn give_back(&self, buffer: Vec<u8>) {
        lock(&self.buffers).push(buffer);
    }

    /// Waits until no work is going on.
    pub(super) async fn wait_for_workers(&self) {
        // The semaphore is never closed.
        let _ = self.workers.acquire_many(self.worker_count).await;
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

    /// A regular file is there that was not, or not like that.
    pub(super) fn file_written(&self, size: u64, replaces: bool) {
        self.file_done(size);
        let (files, bytes) = match replaces {
            true => (&self.changed_files, &self.changed_bytes),
            false => (&self.new_files, &self.new_bytes),
        };
        files.fetch_add(1, Ordering::Relaxed);
        bytes.fetch_add(size, Ordering::Relaxed);
    }

    /// Something stays as it is.
    pub(super) fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether what is there stays, whatever it is.
    pub(super) fn only_adds(&self) -> bool {
        self.options.overwrite == Overwrite::Missing && self.ground == Ground::InPlace
    }

    pub(super) fn report_progress(&self) {
        self.monitor.progress(Progress {
            files: self.files.load(Ordering::Relaxed),
            files_total: self.totals.files,
            bytes: self.bytes.load(Ordering::Relaxed) + self.under_way.load(Ordering::Relaxed),
            bytes_total: self.totals.bytes,
            blocks: self.blocks.load(Ordering::Relaxed),
        });
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    #[test]
    fn a_full_disk_ends_everything_and_another_refusal_does_not() {
        let options = ExtractOptions::default();
        let target = PathBuf::from("target");
        let monitor = Arc::new(Silent);
        let tag = String::new();
        let job = Job::new(
            options,
            Ground::Fresh,
            tag,
            target,
            monitor,
            Totals::default(),
        );
        job.failed(Path::new("a"), rustix::io::Errno::ACCESS);
        assert!(!job.is_stopped());
        job.failed(Path::new("b/c"), rustix::io::Errno::NOSPC);
        assert!(job.is_stopped());
        job.stop(Error::Cancelled);
        assert!(matches!(
            job.take_fatal(),
            Some(Error::DiskFull { path }) if path == Path::new("target/b/c")
        ));
        let findings = job.take_findings();
        assert_eq!((findings.failed.len(), findings.failed_total), (1, 1));
    }

    #[test]
    fn reports_name_so_many_and_count_the_rest() {
        let options = ExtractOptions::default();
        let monitor = Arc::new(Silent);
        let (tag, target) = (String::new(), PathBuf::new());
        let job = Job::new(
            options,
            Ground::Fresh,
            tag,
            target,
            monitor,
            Totals::default(),
        );
        for _ in 0..=MAX_REPORTED {
            job.failed(Path::new("x"), rustix::io::Errno::ACCESS);
            job.missing(PathBuf::from("y"), BlockId::from_sha384([1; 48]), "gone");
        }
        let findings = job.take_findings();
        assert_eq!(findings.failed.len(), MAX_REPORTED);
        assert_eq!(findings.failed_total, MAX_REPORTED as u64 + 1);
        assert_eq!(findings.missing.len(), MAX_REPORTED);
        assert_eq!(findings.missing_total, MAX_REPORTED as u64 + 1);
    }
}
