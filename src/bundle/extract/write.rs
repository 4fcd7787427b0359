//! Regular files that are being written, or compared with what is there.
//!
//! A file is written by whoever has one of its blocks, in any order and by several threads. Who writes the last piece gives it its
//! attributes and its name. A file that lacks a block is taken away again: what is there is whole.
//!
//! A file that is to be verified waits with others until all of them are on the disk, and is read
//! back from there before it gets its name. A file that is there already is compared piece by
//! piece, and planned again when it differs.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;

use super::Overwrite;
use super::attributes::{Attributes, bring, bring_open};
use super::directory::{Place, rename, unlink};
use super::job::{Job, lock};
use super::readback::{Check, differs, is_zero_between, read_from_disk};
use crate::bundle::inode::Inode;
use crate::bundle::tree;
use crate::id::BlockId;

/// A regular file on its way.
pub(super) struct Target {
    job: Arc<Job>,
    plan: TargetPlan,
    /// Pieces that are still to come, and one for who plans them.
    pieces_left: AtomicU32,
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
    /// It is there and is compared, not written.
    compared: Option<Compared>,
    /// The block that was last found missing.
    lacking: Mutex<Option<BlockId>>,
}

/// A file that is there already.
struct Compared {
    /// Its content as it should be, to write it if it is not.
    file: tree::File,
    differs: AtomicBool,
    /// Its bytes were dropped from memory, so that they come from the disk.
    is_cold: AtomicBool,
}

/// A file that is there and holds something else than it should.
pub(super) struct Again {
    pub(super) plan: TargetPlan,
    pub(super) file: tree::File,
}

/// What is to be written where.
#[derive(Clone)]
pub(super) struct TargetPlan {
    pub(super) place: Arc<Place>,
    pub(super) name: Bytes,
    /// Name while it is written, if it is another.
    pub(super) temporary: Option<Bytes>,
    pub(super) attributes: Attributes,
    pub(super) size: u64,
    /// It has holes or more than one piece, so that its length has to be set.
    pub(super) in_pieces: bool,
    /// It takes the place of something.
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
        Self::with(job, plan, None)
    }

    /// A file that is there and has the right size and time: its pieces are compared with it.
    pub(super) fn compared(job: Arc<Job>, plan: TargetPlan, file: &tree::File) -> Arc<Self> {
        let compared = Compared {
            file: file.clone(),
            differs: AtomicBool::new(false),
            is_cold: AtomicBool::new(false),
        };
        Self::with(job, plan, Some(compared))
    }

    fn with(job: Arc<Job>, plan: TargetPlan, compared: Option<Compared>) -> Arc<Self> {
        Arc::new(Self {
            job,
            plan,
            pieces_left: AtomicU32::new(1),
            making: Mutex::default(),
            is_created: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_done: AtomicBool::new(false),
            written: AtomicU64::new(0),
            checks: Mutex::default(),
            compared,
            lacking: Mutex::default(),
        })
    }

    /// Path inside the bundle.
    pub(super) fn path(&self) -> PathBuf {
        self.plan.place.path_of(&self.plan.name)
    }

    pub(super) fn place(&self) -> &Arc<Place> {
        &self.plan.place
    }

    pub(super) fn name(&self) -> &[u8] {
        &self.plan.name
    }

    pub(super) fn size(&self) -> u64 {
        self.plan.size
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

    /// Writes a piece, or compares it. Errors go to the report.
    pub(super) fn write(self: &Arc<Self>, at: u64, bytes: &[u8]) {
        if self.job.is_stopped() {
            return;
        }
        if let Some(compared) = &self.compared {
            self.compare(compared, at, bytes);
            return self.piece_done(None);
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

    /// A file that can't be read counts as another: writing it anew makes it right.
    fn compare(&self, compared: &Compared, at: u64, bytes: &[u8]) {
        if compared.differs.load(Ordering::Relaxed) {
            return;
        }
        let is_same = self.open_kept(compared).and_then(|file| {
            let mut there = vec![0; bytes.len()];
            file.read_exact_at(&mut there, at)?;
            Ok(there == bytes)
        });
        match is_same {
            Ok(true) => {
                self.remember(at, bytes);
                self.count(bytes.len() as u64);
            }
            Ok(false) | Err(_) => compared.differs.store(true, Ordering::Relaxed),
        }
    }

    fn open_kept(&self, compared: &Compared) -> Result<File, std::io::Error> {
        let dir = self.plan.place.fd()?;
        let file = self.job.opening(|| open_source(&dir, &self.plan.name))?;
        if !compared.is_cold.swap(true, Ordering::Relaxed) {
            read_from_disk(&file)?;
        }
        Ok(file)
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
        self.plan.temporary.as_ref().unwrap_or(&self.plan.name)
    }

    fn open(&self) -> Result<File, std::io::Error> {
        let dir = self.plan.place.fd()?;
        let name = &self.written_name()[..];
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !self.is_created.load(Ordering::Acquire) {
            let _making = lock(&self.making);
            if !self.is_created.load(Ordering::Acquire) {
                let flags = flags | OFlags::CREATE | OFlags::EXCL;
                let mode = Mode::RUSR | Mode::WUSR;
                let fd = self.job.opening(|| fs::openat(&*dir, name, flags, mode))?;
                self.is_created.store(true, Ordering::Release);
                return Ok(fd.into());
            }
        }
        let open = || fs::openat(&*dir, name, flags, Mode::empty());
        Ok(self.job.opening(open)?.into())
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
            lock(&self.checks).push(Check::new(at, bytes));
        }
    }

    fn piece_done(self: &Arc<Self>, file: Option<File>) {
        // The last one sees what all others wrote.
        if self.pieces_left.fetch_sub(1, Ordering::AcqRel) != 1 || self.job.is_stopped() {
            return;
        }
        if self.is_broken.load(Ordering::Relaxed) {
            return self.take_away();
        }
        if let Some(compared) = &self.compared {
            return self.end_comparison(compared);
        }
        let result = match file {
            Some(file) => self.end_content(&file),
            None => self.open().and_then(|file| self.end_content(&file)),
        };
        if let Err(error) = result {
            self.give_up(error);
        }
    }

    fn end_comparison(&self, compared: &Compared) {
        self.uncount();
        let is_same = || {
            let file = self.open_kept(compared)?;
            let checks = &mut *lock(&self.checks);
            Ok::<_, std::io::Error>(
                file.metadata()?.len() == self.plan.size
                    && is_zero_between(&file, checks, self.plan.size)?,
            )
        };
        if compared.differs.load(Ordering::Relaxed) || !is_same().unwrap_or(false) {
            let (plan, file) = (self.plan.clone(), compared.file.clone());
            return self.job.write_again(Again { plan, file });
        }
        self.bring_named();
        self.set_done();
        self.job.unchanged.fetch_add(1, Ordering::Relaxed);
        self.job.verified.fetch_add(1, Ordering::Relaxed);
        self.job.file_done(self.plan.size);
    }

    /// All bytes are written.
    fn end_content(self: &Arc<Self>, file: &File) -> Result<(), std::io::Error> {
        if self.plan.in_pieces {
            file.set_len(self.plan.size)?;
        }
        if self.job.options.verify {
            self.job.verify_later(self);
            return Ok(());
        }
        self.finish(file)
    }

    /// Reads back what was written, which must be on the disk by now, and gives it its name.
    pub(super) fn verify(&self) {
        let verified = self.read_back().and_then(|file| {
            self.job.verified.fetch_add(1, Ordering::Relaxed);
            self.finish(&file)
        });
        if let Err(error) = verified {
            self.give_up(error);
        }
    }

    fn read_back(&self) -> Result<File, std::io::Error> {
        let dir = self.plan.place.fd()?;
        let file = self
            .job
            .opening(|| open_source(&dir, self.written_name()))?;
        read_from_disk(&file)?;
        let mut checks = std::mem::take(&mut *lock(&self.checks));
        let size = self.plan.size;
        let is_right = file.metadata()?.len() == size
            && !differs(&file, &checks)?
            && is_zero_between(&file, &mut checks, size)?;
        match is_right {
            true => Ok(file),
            false => Err(std::io::Error::other(
                "what was read back is not what was written",
            )),
        }
    }

    fn finish(&self, file: &File) -> Result<(), std::io::Error> {
        bring_open(&self.job, file, &self.plan.attributes, &|| self.path());
        if let Some(temporary) = &self.plan.temporary {
            let dir = self.plan.place.fd()?;
            // A file that counted as right was there, and is to be replaced.
            let may_replace = self.plan.replaces
                || matches!(
                    self.job.options.overwrite,
                    Overwrite::Changed | Overwrite::Always
                );
            rename(&dir, temporary, &self.plan.name, may_replace)?;
        }
        self.set_done();
        self.uncount();
        self.job.file_written(self.plan.size, self.plan.replaces);
        Ok(())
    }

    fn give_up(&self, error: impl Into<std::io::Error>) {
        self.refuse(error);
        self.take_away();
    }

    /// Gives a file that is there under its name its attributes.
    pub(super) fn bring_named(&self) {
        let brought = self.plan.place.fd().and_then(|dir| {
            let inode = Inode::named(&*dir, &self.plan.name)?;
            bring(&self.job, &inode, &self.plan.attributes, &|| self.path());
            Ok(())
        });
        if let Err(error) = brought {
            self.job.refused(self.path(), "its attributes", error);
        }
    }

    /// Gives a copy of this file its attributes.
    pub(super) fn bring_copy(&self, copy: &File, path: &dyn Fn() -> PathBuf) {
        bring_open(&self.job, copy, &self.plan.attributes, path);
    }

    fn take_away(&self) {
        self.uncount();
        if self.is_created.swap(false, Ordering::Relaxed)
            && let Ok(dir) = self.plan.place.fd()
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

/// Opens a file for reading: to compare it, to read it back, or to make a copy of it.
pub(super) fn open_source(dir: &OwnedFd, name: &[u8]) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(fs::openat(dir, name, flags, Mode::empty())?.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::extract::ExtractOptions;
    use crate::bundle::extract::job::{Ground, Scene};
    use crate::bundle::root::Totals;
    use crate::monitor::Silent;

    fn job(verify: bool) -> Arc<Job> {
        let options = ExtractOptions {
            verify,
            ..ExtractOptions::default()
        };
        let scene = Scene {
            ground: Ground::Fresh,
            tag: String::new(),
            target: PathBuf::new(),
        };
        Job::new(options, scene, Arc::new(Silent), Totals::default())
    }

    fn target(job: &Arc<Job>, dir: &std::path::Path, name: &'static str) -> Arc<Target> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let fd = fs::open(dir, flags, Mode::empty()).expect("opens");
        let plan = TargetPlan {
            place: Place::root(job.clone(), fd, None, None),
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
            job.verify_all();
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
