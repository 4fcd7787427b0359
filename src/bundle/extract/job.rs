//! What the threads of one extraction share: options, counters, the report, and the reason to stop.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::attributes::Rights;
use super::directory::Place;
use super::leftover::Running;
use super::write::{Again, Target};
use super::{ExtractOptions, ExtractReport, Failed, MAX_REPORTED, Missing, Overwrite};
use crate::bundle::bounds::{Excess, Origin};
use crate::bundle::error::Error;
use crate::bundle::root::Totals;
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};

/// Files that are read back together, after all of them were written to the disk.
const VERIFIED_AT_ONCE: usize = 512;

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

/// Where one extraction writes, and under which names.
pub(super) struct Scene {
    pub(super) ground: Ground,
    /// What temporary names end in: it tells bundles apart.
    pub(super) tag: String,
    pub(super) target: PathBuf,
}

/// State of one extraction.
pub(super) struct Job {
    pub(super) options: ExtractOptions,
    pub(super) scene: Scene,
    _running: Running,
    pub(super) rights: Rights,
    pub(super) monitor: Arc<dyn Monitor>,
    pub(super) totals: Totals,
    /// Directories whose descriptors are open, oldest first.
    pub(super) open_places: Mutex<VecDeque<Weak<Place>>>,
    pub(super) files: AtomicU64,
    pub(super) entries: AtomicU64,
    pub(super) bytes: AtomicU64,
    /// Blocks that content came out of, and the bytes that have come or are about to.
    pub(super) origin: Origin,
    claimed: AtomicU64,
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
    pub(super) cleared: AtomicU64,
    kept_owners: AtomicU64,
    lost_powers: AtomicU64,
    /// Files that turned out to differ when they were compared.
    again: Mutex<Vec<Again>>,
    /// Files that are written and wait to be read back.
    unverified: Mutex<Vec<Arc<Target>>>,
    /// Permits for blocking work; who has them all knows that none is going on.
    workers: Arc<Semaphore>,
    worker_count: u32,
    /// Memory for plaintext, one for each that works at most.
    buffers: Mutex<Vec<Vec<u8>>>,
    stopped: AtomicBool,
    heard: CancellationToken,
    fatal: Mutex<Option<Error>>,
    findings: Mutex<Findings>,
}

/// What went wrong with single entries.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) missing: Vec<Missing>,
    pub(super) missing_total: u64,
    pub(super) failed: Vec<Failed>,
    pub(super) failed_total: u64,
    pub(super) refused: Vec<Failed>,
    pub(super) refused_total: u64,
}

impl Job {
    pub(super) fn new(
        options: ExtractOptions,
        scene: Scene,
        monitor: Arc<dyn Monitor>,
        totals: Totals,
    ) -> Arc<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let worker_count = u32::try_from(cores).unwrap_or(1);
        let rights = rights(&options);
        Arc::new(Self {
            options,
            _running: Running::begin(&scene.tag),
            scene,
            rights,
            monitor,
            totals,
            open_places: Mutex::default(),
            files: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            origin: Origin::default(),
            claimed: AtomicU64::new(0),
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
            cleared: AtomicU64::new(0),
            kept_owners: AtomicU64::new(0),
            lost_powers: AtomicU64::new(0),
            again: Mutex::default(),
            unverified: Mutex::default(),
            workers: Arc::new(Semaphore::new(worker_count as usize)),
            worker_count,
            buffers: Mutex::default(),
            stopped: AtomicBool::new(false),
            heard: CancellationToken::new(),
            fatal: Mutex::default(),
            findings: Mutex::default(),
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
        self.stopped.store(true, Ordering::SeqCst);
        self.heard.cancel();
        // Work that waits holds on to this job, and files that it began go with it.
        drop(self.take_again());
        drop(std::mem::take(&mut *lock(&self.unverified)));
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

    /// Report on the whole extraction.
    pub(super) fn report(&self, path: PathBuf) -> ExtractReport {
        let findings = self.take_findings();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ExtractReport {
            path,
            files: count(&self.files),
            bytes: count(&self.bytes),
            unchanged: count(&self.unchanged),
            new_files: count(&self.new_files),
            new_bytes: count(&self.new_bytes),
            changed_files: count(&self.changed_files),
            changed_bytes: count(&self.changed_bytes),
            skipped: count(&self.skipped),
            verified: count(&self.verified),
            left_out: count(&self.left_out),
            missing: findings.missing,
            missing_total: findings.missing_total,
            failed: findings.failed,
            failed_total: findings.failed_total,
            refused: findings.refused,
            refused_total: findings.refused_total,
            kept_owners: count(&self.kept_owners),
            lost_powers: count(&self.lost_powers),
            unmatched: Vec::new(),
        }
    }

    /// `path` (inside the bundle) lacks a block.
    pub(super) fn missing(&self, path: PathBuf, block: BlockId, reason: &str) {
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
        let error = Error::io(&self.scene.target.join(path), error);
        let source = match error {
            Error::Io { source, .. } => source,
            full => return self.stop(full),
        };
        let (path, reason) = (named(path.to_owned()), source.to_string());
        let mut findings = lock(&self.findings);
        findings.failed_total += 1;
        if findings.failed.len() < MAX_REPORTED {
            findings.failed.push(Failed { path, reason });
        }
    }

    /// The system refused an attribute of `path` (inside the bundle); its content is there all the
    /// same.
    pub(super) fn refused(&self, path: PathBuf, what: &str, error: impl Into<io::Error>) {
        let reason = format!("{what}: {}", error.into());
        let path = named(path);
        let mut findings = lock(&self.findings);
        findings.refused_total += 1;
        if findings.refused.len() < MAX_REPORTED {
            findings.refused.push(Failed { path, reason });
        }
    }

    /// A file is written and has to be read back from the disk: with others, so that the disk is
    /// waited for once.
    pub(super) fn verify_later(&self, target: &Arc<Target>) {
        let mut waiting = lock(&self.unverified);
        if self.stopped.load(Ordering::SeqCst) {
            return;
        }
        waiting.push(target.clone());
        if waiting.len() >= VERIFIED_AT_ONCE {
            let batch = std::mem::take(&mut *waiting);
            drop(waiting);
            verify(batch);
        }
    }

    /// Reads back all that waits for it.
    pub(super) fn verify_all(&self) {
        let batch = std::mem::take(&mut *lock(&self.unverified));
        verify(batch);
    }

    /// An entry belongs to another owner or group than it did.
    pub(super) fn kept_owner(&self) {
        self.kept_owners.fetch_add(1, Ordering::Relaxed);
    }

    /// An entry has not got its setuid or setgid bit back.
    pub(super) fn lost_powers(&self) {
        self.lost_powers.fetch_add(1, Ordering::Relaxed);
    }

    /// A file that is there holds something else than it should.
    pub(super) fn write_again(&self, file: Again) {
        let mut again = lock(&self.again);
        if self.stopped.load(Ordering::SeqCst) {
            // Letting go of it takes locks.
            drop(again);
            return drop(file);
        }
        again.push(file);
    }

    pub(super) fn take_again(&self) -> Vec<Again> {
        std::mem::take(&mut lock(&self.again))
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

    /// Asks for leave to write so many further bytes.
    pub(super) fn claim(&self, bytes: u32) -> Result<(), Excess> {
        let bytes = u64::from(bytes);
        let claimed = self.claimed.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let bounds = &self.options.bounds;
        bounds.check_bytes(claimed, self.origin.blocks())
    }

    /// Something stays as it is.
    pub(super) fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether what is there stays, whatever it is.
    pub(super) fn only_adds(&self) -> bool {
        self.options.overwrite == Overwrite::Missing && self.scene.ground == Ground::InPlace
    }

    pub(super) fn report_progress(&self) {
        self.monitor.progress(Progress {
            files: self.files.load(Ordering::Relaxed),
            files_total: self.totals.files,
            bytes: self.bytes.load(Ordering::Relaxed) + self.under_way.load(Ordering::Relaxed),
            bytes_total: self.totals.bytes,
            blocks: self.blocks.load(Ordering::Relaxed),
            ..Progress::default()
        });
    }
}

/// A path for people: what is extracted has none inside the bundle.
fn named(path: PathBuf) -> PathBuf {
    match path.as_os_str().is_empty() {
        true => PathBuf::from("."),
        false => path,
    }
}

fn verify(batch: Vec<Arc<Target>>) {
    #[cfg(target_os = "linux")]
    if let Some(first) = batch.first()
        && let Ok(dir) = first.place().fd()
    {
        // Each file is asked for its own errors afterwards.
        let _ = rustix::fs::syncfs(&*dir);
    }
    for target in batch {
        target.verify();
    }
}

fn rights(options: &ExtractOptions) -> Rights {
    let mut groups: Vec<u32> = rustix::process::getgroups()
        .unwrap_or_default()
        .into_iter()
        .map(rustix::process::Gid::as_raw)
        .collect();
    groups.push(rustix::process::getegid().as_raw());
    Rights {
        is_root: rustix::process::geteuid().is_root(),
        groups,
        owners: options.owners,
        powers: options.powers,
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::bounds::Bounds;
    use crate::monitor::Silent;

    fn job(target: &str) -> Arc<Job> {
        let scene = Scene {
            ground: Ground::Fresh,
            tag: String::new(),
            target: PathBuf::from(target),
        };
        let (options, monitor) = (ExtractOptions::default(), Arc::new(Silent));
        Job::new(options, scene, monitor, Totals::default())
    }

    #[test]
    fn a_full_disk_ends_everything_and_another_refusal_does_not() {
        let job = job("target");
        job.failed(Path::new("a"), rustix::io::Errno::ACCESS);
        job.refused(PathBuf::from("a"), "its mode", rustix::io::Errno::NOSPC);
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
        assert_eq!((findings.refused.len(), findings.refused_total), (1, 1));
    }

    #[test]
    fn leave_to_write_is_given_for_what_blocks_account_for() {
        let scene = Scene {
            ground: Ground::Fresh,
            tag: String::new(),
            target: PathBuf::new(),
        };
        let options = ExtractOptions {
            bounds: Bounds::USUAL,
            ..ExtractOptions::default()
        };
        let job = Job::new(options, scene, Arc::new(Silent), Totals::default());
        let piece = 1 << 30;
        assert!(job.claim(piece).is_ok(), "always");
        assert!(job.claim(piece).is_err(), "out of no block");
        for byte in 0..16 {
            job.origin.add(&BlockId::from_sha384([byte; 48]), 1);
        }
        // 64 times 16 blocks of 2 MiB are 2 GiB.
        assert!(job.claim(piece).is_ok());
        assert!(job.claim(piece).is_err());
    }

    #[test]
    fn reports_name_so_many_and_count_the_rest() {
        let job = job("");
        for _ in 0..=MAX_REPORTED {
            job.failed(Path::new("x"), rustix::io::Errno::ACCESS);
            job.missing(PathBuf::from("y"), BlockId::from_sha384([1; 48]), "gone");
            job.refused(PathBuf::from("z"), "its mode", rustix::io::Errno::PERM);
        }
        let findings = job.take_findings();
        let most = (MAX_REPORTED, MAX_REPORTED as u64 + 1);
        assert_eq!((findings.failed.len(), findings.failed_total), most);
        assert_eq!((findings.missing.len(), findings.missing_total), most);
        assert_eq!((findings.refused.len(), findings.refused_total), most);
    }
}
