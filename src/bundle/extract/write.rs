//! Regular files that are being written.
//!
//! A file is written by whoever has one of its blocks, in any order and by several threads. Who writes the last piece gives it its
//! attributes and its name. A file that lacks a block is taken away again: what is there is whole.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::{self, Mode, OFlags};

use super::Overwrite;
use super::directory::{Attributes, Place, rename, set_attributes, unlink};
use super::job::{Job, lock};
use crate::crypto::hash;
use crate::id::BlockId;

/// Files from this size on are read back from the disk when they are verified; for smaller ones waiting for the disk would cost more
/// than it tells.
const FROM_DISK_BYTES: u64 = 1 << 20;
const CHECK_KEY: &[u8; 32] = b"libernet 2026-11 what is written";

/// A regular file on its way.
pub(super) struct Target {
    job: Arc<Job>,
    place: Arc<Place>,
    name: Bytes,
    /// Name while it is written, if it is another.
    temporary: Option<Bytes>,
    attributes: Attributes,
    size: u64,
    /// Pieces that are still to come, and one for who plans them.
    pieces_left: AtomicU32,
    /// It has holes or more than one piece, so that its length has to be set.
    in_pieces: bool,
    /// It takes the place of something.
    replaces: bool,
    /// Held while it is made: the first who writes makes it, and only if nothing has its name. Where names that differ in case are one,
    /// two files would be written into each other otherwise.
    making: Mutex<()>,
    is_created: AtomicBool,
    is_broken: AtomicBool,
    is_done: AtomicBool,
    /// Bytes written so far: they count as progress before the file is done.
    written: AtomicU64,
    /// What each piece should be, if it is read back.
    checks: Mutex<Vec<Check>>,
    /// The block that was last found missing.
    lacking: Mutex<Option<BlockId>>,
}

/// A piece of a file: where it is, how long, and its hash.
struct Check {
    at: u64,
    len: u32,
    hash: [u8; 32],
}

/// What is to be written where.
pub(super) struct TargetPlan {
    pub(super) place: Arc<Place>,
    pub(super) name: Bytes,
    /// Name while it is written, if it is another.
    pub(super) temporary: Option<Bytes>,
    pub(super) attributes: Attributes,
    pub(super) size: u64,
    /// It has holes or more than one piece.
    pub(super) in_pieces: bool,
    pub(super) replaces: bool,
}

/// A range of a block's plaintext that goes into a file.
pub(super) struct Write {
    pub(super) target: Arc<Target>,
    /// Where it goes in the file.
    pub(super) at: u64,
    /// Where it is in the plaintext.
    pub(super) offset: u32,
    pub(super) len: u32,
}

impl Target {
    pub(super) fn new(job: Arc<Job>, plan: TargetPlan) -> Arc<Self> {
        Arc::new(Self {
            job,
            place: plan.place,
            name: plan.name,
            temporary: plan.temporary,
            attributes: plan.attributes,
            size: plan.size,
            pieces_left: AtomicU32::new(1),
            in_pieces: plan.in_pieces,
            replaces: plan.replaces,
            making: Mutex::default(),
            is_created: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_done: AtomicBool::new(false),
            written: AtomicU64::new(0),
            checks: Mutex::default(),
            lacking: Mutex::default(),
        })
    }

    /// Path inside the bundle.
    pub(super) fn path(&self) -> PathBuf {
        self.place.path_of(&self.name)
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.place
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it is there, whole and under its name.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::Acquire)
    }

    /// It was there before.
    pub(super) fn set_done(&self) {
        self.is_done.store(true, Ordering::Release);
    }

    /// One more piece will come. Call it before [`end_plan`](Self::end_plan).
    pub(super) fn add_piece(&self) {
        self.pieces_left.fetch_add(1, Ordering::Relaxed);
    }

    /// All pieces are known. May finish the file: not for async tasks.
    pub(super) fn end_plan(self: &Arc<Self>) {
        self.piece_done(None);
    }

    /// Writes a piece. Errors go to the report.
    pub(super) fn write(self: &Arc<Self>, at: u64, bytes: &[u8]) {
        if self.job.is_stopped() {
            return;
        }
        let mut file = None;
        if !self.is_broken.load(Ordering::Relaxed) {
            match self.open() {
                Ok(opened) => match opened.write_all_at(bytes, at) {
                    Ok(()) => {
                        self.remember(at, bytes);
                        self.count(bytes.len() as u64);
                        file = Some(opened);
                    }
                    Err(error) => self.refuse(error),
                },
                Err(error) => self.refuse(error),
            }
        }
        self.piece_done(file);
    }

    /// A piece can't be had.
    pub(super) fn lack(self: &Arc<Self>, block: BlockId, reason: &str) {
        if self.job.is_stopped() {
            return;
        }
        self.is_broken.store(true, Ordering::Relaxed);
        // Several pieces may be in one block: they come one after the other, and it is named once.
        if lock(&self.lacking).replace(block) != Some(block) {
            self.job.missing(self.path(), block, reason);
        }
        self.piece_done(None);
    }

    fn refuse(&self, error: impl Into<std::io::Error>) {
        if !self.is_broken.swap(true, Ordering::Relaxed) {
            self.job.failed(&self.path(), error);
        }
    }

    fn written_name(&self) -> &Bytes {
        self.temporary.as_ref().unwrap_or(&self.name)
    }

    fn open(&self) -> Result<File, std::io::Error> {
        let dir = self.place.fd()?;
        let name = &self.written_name()[..];
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !self.is_created.load(Ordering::Acquire) {
            let _making = lock(&self.making);
            if !self.is_created.load(Ordering::Acquire) {
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                let fd = fs::openat(&*dir, name, flags, Mode::RUSR | Mode::WUSR)?;
                self.is_created.store(true, Ordering::Release);
                return Ok(fd.into());
            }
        }
        Ok(fs::openat(&*dir, name, flags, Mode::empty())?.into())
    }

    /// Counts bytes as progress.
    fn count(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
        self.job.under_way.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The file is whole or gone: what was counted counts as part of it, or not at all.
    fn uncount(&self) {
        let bytes = self.written.swap(0, Ordering::Relaxed);
        self.job.under_way.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn remember(&self, at: u64, bytes: &[u8]) {
        if self.job.options.verify {
            lock(&self.checks).push(Check {
                at,
                // A piece comes from one block.
                len: bytes.len() as u32,
                hash: hash::keyed(CHECK_KEY, bytes),
            });
        }
    }

    /// Reads back what was written.
    fn verify(&self, file: &File) -> Result<(), std::io::Error> {
        let differs = || std::io::Error::other("what was read back is not what was written");
        if self.size >= FROM_DISK_BYTES {
            // What is not yet on the disk would come from memory again.
            file.sync_data()?;
            #[cfg(not(target_vendor = "apple"))]
            let _ = fs::fadvise(file, 0, None, fs::Advice::DontNeed);
        }
        let written = open_source(&*self.place.fd()?, self.written_name())?;
        if written.metadata()?.len() != self.size {
            return Err(differs());
        }
        let mut buffer = Vec::new();
        for Check { at, len, hash } in std::mem::take(&mut *lock(&self.checks)) {
            buffer.resize(len as usize, 0);
            written.read_exact_at(&mut buffer, at)?;
            if hash::keyed(CHECK_KEY, &buffer) != hash {
                return Err(differs());
            }
        }
        self.job.verified.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn piece_done(self: &Arc<Self>, file: Option<File>) {
        // The last one sees what all others wrote.
        if self.pieces_left.fetch_sub(1, Ordering::AcqRel) != 1 || self.job.is_stopped() {
            return;
        }
        if self.is_broken.load(Ordering::Relaxed) {
            return self.take_away();
        }
        let result = match file {
            Some(file) => self.finish(&file),
            None => self.open().and_then(|file| self.finish(&file)),
        };
        match result {
            Ok(()) => {
                self.set_done();
                self.uncount();
                self.job.file_written(self.size, self.replaces);
            }
            Err(error) => {
                self.refuse(error);
                self.take_away();
            }
        }
    }

    fn finish(&self, file: &File) -> Result<(), std::io::Error> {
        if self.in_pieces {
            file.set_len(self.size)?;
        }
        if self.job.options.verify {
            self.verify(file)?;
        }
        self.give_attributes(file)?;
        if let Some(temporary) = &self.temporary {
            let dir = self.place.fd()?;
            let may_replace = matches!(
                self.job.options.overwrite,
                Overwrite::Changed | Overwrite::Always
            );
            rename(&dir, temporary, &self.name, may_replace)?;
        }
        Ok(())
    }

    pub(super) fn give_attributes(&self, file: &File) -> Result<(), std::io::Error> {
        set_attributes(&self.job, file, &self.attributes, &self.path())?;
        Ok(())
    }

    fn take_away(&self) {
        self.uncount();
        if self.is_created.swap(false, Ordering::Relaxed)
            && let Ok(dir) = self.place.fd()
            && let Err(error) = unlink(&dir, self.written_name())
        {
            self.job.failed(&self.path(), error);
        }
    }
}

/// A file that was begun and not finished, because everything stops, does not stay.
impl Drop for Target {
    fn drop(&mut self) {
        if !*self.is_done.get_mut() {
            self.take_away();
        }
    }
}

/// Opens a file for reading, to make a copy of it.
pub(super) fn open_source(dir: &OwnedFd, name: &[u8]) -> Result<File, std::io::Error> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::extract::ExtractOptions;
    use crate::bundle::extract::job::Ground;
    use crate::bundle::root::Totals;
    use crate::monitor::Silent;

    fn job(verify: bool) -> Arc<Job> {
        let options = ExtractOptions {
            verify,
            ..ExtractOptions::default()
        };
        let (monitor, totals) = (Arc::new(Silent), Totals::default());
        Job::new(
            options,
            Ground::Fresh,
            String::new(),
            PathBuf::new(),
            monitor,
            totals,
        )
    }

    fn target(job: &Arc<Job>, dir: &std::path::Path, name: &'static str) -> Arc<Target> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = fs::open(dir, flags, Mode::empty()).expect("opens");
        let plan = TargetPlan {
            place: Place::root(job.clone(), fd, None),
            name: Bytes::from_static(name.as_bytes()),
            temporary: None,
            attributes: Attributes {
                mode: 0o644,
                modified: None,
                owner: None,
                xattrs: Vec::new(),
            },
            size: 10,
            in_pieces: true,
            replaces: false,
        };
        let target = Target::new(job.clone(), plan);
        target.add_piece();
        target.add_piece();
        target
    }

    #[test]
    fn what_reads_back_differently_is_not_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let job = job(true);
        for (name, tamper) in [("good", false), ("bad", true)] {
            let target = target(&job, dir.path(), name);
            target.write(5, b"67890");
            if tamper {
                let file = File::options().write(true).open(dir.path().join(name));
                file.expect("begun").write_all_at(b"x", 7).expect("written");
            }
            target.write(0, b"12345");
            assert_eq!(job.under_way.load(Ordering::Relaxed), 10, "not done yet");
            target.end_plan();
            assert_eq!(job.under_way.load(Ordering::Relaxed), 0);
        }
        assert_eq!(job.bytes.load(Ordering::Relaxed), 10, "of the good one");
        assert_eq!(job.verified.load(Ordering::Relaxed), 1);
        let good = std::fs::read(dir.path().join("good")).expect("there");
        assert_eq!(good, b"1234567890");
        assert!(!dir.path().join("bad").exists());
        let findings = job.take_findings();
        assert_eq!(findings.failed_total, 1);
        assert!(findings.failed[0].reason.contains("read back"));
    }

    /// As two names do that differ in case, on a file system that does not tell them apart.
    #[test]
    fn two_files_of_one_name_are_not_written_into_each_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let job = job(false);
        let (one, two) = (
            target(&job, dir.path(), "name"),
            target(&job, dir.path(), "name"),
        );
        one.write(0, b"11111");
        two.write(0, b"22222");
        two.write(5, b"22222");
        two.end_plan();
        one.write(5, b"11111");
        one.end_plan();
        let kept = std::fs::read(dir.path().join("name")).expect("there");
        assert_eq!(kept, b"1111111111");
        assert_eq!(job.take_findings().failed_total, 1);
    }
}
