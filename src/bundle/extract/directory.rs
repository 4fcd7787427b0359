//! Directories that are being filled.
//!
//! **Invariant**: every operation names one entry in one open directory and never follows a symlink, and every directory was reached
//! from the target's own descriptor by names that [`check_name`](crate::bundle::tree::check_name) allows. So nothing outside the target
//! can be touched, whatever the tree says and whoever moves things about meanwhile.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::{self, AtFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::attributes::{Attributes, bring_open};
use super::job::{Job, lock};
use crate::bundle::descriptors::patiently;
use crate::bundle::inode::Inode;
use crate::bundle::stat;

/// Descriptors of directories that are kept open: few enough for systems that allow 256 in all.
const OPEN_PLACES: usize = 48;
/// Mode bits that an owner needs to fill a directory.
const OWNERS_BITS: u32 = 0o700;
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory that is being filled. When the last who works in it lets go, it gets its attributes; its parent waits for that.
pub(super) struct Place {
    job: Arc<Job>,
    parent: Option<Arc<Place>>,
    name: Bytes,
    /// Set at the end; `None` for a directory that keeps its own.
    attributes: Option<Attributes>,
    /// The mode that it had before it was unlocked for its owner, given back unless the attributes
    /// say another.
    locked_mode: Option<u32>,
    fd: Mutex<Option<Arc<OwnedFd>>>,
}

impl Place {
    /// The directory in which everything happens.
    pub(super) fn root(
        job: Arc<Job>,
        fd: OwnedFd,
        attributes: Option<Attributes>,
        locked_mode: Option<u32>,
    ) -> Arc<Self> {
        Arc::new(Self {
            job,
            parent: None,
            name: Bytes::new(),
            attributes,
            locked_mode,
            fd: Mutex::new(Some(Arc::new(fd))),
        })
    }

    /// A directory in this one, which is there already.
    pub(super) fn child(
        self: &Arc<Self>,
        name: Bytes,
        attributes: Option<Attributes>,
        locked_mode: Option<u32>,
    ) -> Arc<Self> {
        Arc::new(Self {
            job: self.job.clone(),
            parent: Some(self.clone()),
            name,
            attributes,
            locked_mode,
            fd: Mutex::default(),
        })
    }

    /// Path inside the bundle of `name` in this directory.
    pub(super) fn path_of(&self, name: &[u8]) -> PathBuf {
        use std::os::unix::ffi::OsStrExt;
        let mut names = vec![name];
        let mut place = Some(self);
        while let Some(this) = place {
            names.push(&this.name);
            place = this.parent.as_deref();
        }
        names
            .into_iter()
            .rev()
            .filter(|name| !name.is_empty())
            .map(std::ffi::OsStr::from_bytes)
            .collect()
    }

    /// The directory's descriptor, opened again from the nearest open one above if need be.
    pub(super) fn fd(self: &Arc<Self>) -> Result<Arc<OwnedFd>, Errno> {
        let mut closed: Vec<&Arc<Self>> = Vec::new();
        let mut place = self;
        let mut fd = loop {
            if let Some(fd) = lock(&place.fd).clone() {
                break fd;
            }
            closed.push(place);
            // The root's is never closed.
            place = place.parent.as_ref().ok_or(Errno::BADF)?;
        };
        for place in closed.into_iter().rev() {
            fd = Arc::new(self.job.opening(|| place.open_in(&fd))?);
            *lock(&place.fd) = Some(fd.clone());
            self.job.remember_open(place);
        }
        Ok(fd)
    }

    fn open_in(&self, parent: &OwnedFd) -> Result<OwnedFd, Errno> {
        fs::openat(parent, &self.name[..], DIRECTORY_FLAGS, Mode::empty())
    }

    /// Opens a directory that nobody else works in any more, for its last change.
    fn open_last(&mut self) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = lock(&self.fd).take() {
            return Ok(fd);
        }
        let parent = self.parent.as_ref().ok_or(Errno::BADF)?.fd()?;
        Ok(Arc::new(self.job.opening(|| self.open_in(&parent))?))
    }

    fn close(&mut self) {
        // A directory of an extraction that stops is filled further by the next one.
        let attributes = self.attributes.take().filter(|_| !self.job.is_stopped());
        let locked_mode = self.locked_mode.take();
        if attributes.is_none() && locked_mode.is_none() {
            return;
        }
        let fd = match self.open_last() {
            Ok(fd) => fd,
            Err(_) if self.job.is_stopped() => return,
            Err(error) => return self.job.failed(&self.path_of(b""), error),
        };
        match (attributes, locked_mode) {
            (Some(attributes), _) => {
                bring_open(&self.job, &*fd, &attributes, &|| self.path_of(b""));
            }
            (None, Some(mode)) => {
                // The descriptor of the directory that holds a single file does not open it.
                let again = Inode::named(&*fd, b".").and_then(|inode| inode.set_mode(mode));
                if let Err(error) = again {
                    let what = format!("its mode {mode:04o}, which it had before");
                    self.job.refused(self.path_of(b""), &what, error);
                }
            }
            (None, None) => {}
        }
    }
}

/// The attributes of a directory come when everything in it is done: otherwise a read-only directory could not be filled, and filling
/// would change its time.
impl Drop for Place {
    fn drop(&mut self) {
        self.close();
        // Not by recursion: a tree may be thousands of directories deep.
        let mut above = self.parent.take();
        while let Some(mut place) = above.and_then(Arc::into_inner) {
            place.close();
            above = place.parent.take();
        }
    }
}

impl Job {
    fn remember_open(&self, place: &Arc<Place>) {
        let mut open = lock(&self.open_places);
        open.push_back(Arc::downgrade(place));
        if open.len() <= OPEN_PLACES {
            return;
        }
        let oldest = open.pop_front();
        drop(open);
        // Whoever uses the descriptor right now holds on to it. The place itself must not be dropped under a lock.
        if let Some(place) = oldest.and_then(|place| place.upgrade()) {
            lock(&place.fd).take();
        }
    }

    /// Opens something. When descriptors have run out, directories that are only kept open are
    /// closed for it.
    pub(super) fn opening<T>(&self, open: impl Fn() -> Result<T, Errno>) -> Result<T, Errno> {
        patiently(open, || self.close_places() > 0)
    }

    /// Closes the directories that are kept open, and gives their number.
    fn close_places(&self) -> usize {
        let open = std::mem::take(&mut *lock(&self.open_places));
        open.iter()
            .filter_map(std::sync::Weak::upgrade)
            .filter(|place| lock(&place.fd).take().is_some())
            .count()
    }
}

/// Lets the owner of a directory fill it, if its mode does not. Gives the mode that it had, if it
/// was changed.
pub(super) fn unlock(directory: &Inode<'_>) -> Option<u32> {
    let found = directory.stat().ok()?;
    let me = rustix::process::geteuid();
    let mode = stat::mode(&found);
    if me.is_root() || found.st_uid != me.as_raw() || mode & OWNERS_BITS == OWNERS_BITS {
        return None;
    }
    // Where that is refused, what can't be written says so.
    directory.set_mode(mode | OWNERS_BITS).ok()?;
    Some(mode)
}

/// Gives something its final name in the same directory.
pub(super) fn rename(dir: &OwnedFd, from: &[u8], to: &[u8], may_replace: bool) -> io::Result<()> {
    if may_replace {
        return Ok(fs::renameat(dir, from, dir, to)?);
    }
    match fs::renameat_with(dir, from, dir, to, RenameFlags::NOREPLACE) {
        // A file system that can't do both at once.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    match fs::statat(dir, to, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(fs::renameat(dir, from, dir, to)?),
        Ok(_) => Err(Errno::EXIST.into()),
        Err(error) => Err(error.into()),
    }
}

/// Removes a name that may not be there. Never a directory.
pub(super) fn unlink(dir: &OwnedFd, name: &[u8]) -> io::Result<()> {
    match fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
