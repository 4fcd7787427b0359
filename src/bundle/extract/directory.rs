//! Directories that are being filled, and the attributes of everything.
//!
//! **Invariant**: every operation names one entry in one open directory and never follows a symlink, and every directory was reached
//! from the target's own descriptor by names that [`check_name`](crate::bundle::tree::check_name) allows. So nothing outside the target
//! can be touched, whatever the tree says and whoever moves things about meanwhile.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::fs::{
    self, AtFlags, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, UTIME_OMIT, Uid,
    XattrFlags,
};
use rustix::io::Errno;

use super::job::{Job, lock};
use crate::bundle::tree::{Entry, ModTime, Owner, Xattr};

/// Descriptors of directories that are kept open.
const OPEN_PLACES: usize = 256;
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// A directory that is being filled. When the last who works in it lets go, it gets its attributes; its parent waits for that.
pub(super) struct Place {
    job: Arc<Job>,
    parent: Option<Arc<Place>>,
    name: Bytes,
    /// Set at the end; `None` for a directory that is not ours.
    attributes: Option<Attributes>,
    fd: Mutex<Option<Arc<OwnedFd>>>,
}

/// What an entry has besides its content.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) modified: Option<ModTime>,
    pub(super) owner: Option<Owner>,
    pub(super) xattrs: Vec<Xattr>,
}

impl Attributes {
    pub(super) fn of(entry: &mut Entry) -> Self {
        Self {
            mode: entry.mode,
            modified: entry.modified,
            owner: entry.owner,
            xattrs: std::mem::take(&mut entry.xattrs),
        }
    }
}

impl Place {
    /// The directory in which everything happens.
    pub(super) fn root(job: Arc<Job>, fd: OwnedFd, attributes: Option<Attributes>) -> Arc<Self> {
        Arc::new(Self {
            job,
            parent: None,
            name: Bytes::new(),
            attributes,
            fd: Mutex::new(Some(Arc::new(fd))),
        })
    }

    /// A directory in this one, which is there already.
    pub(super) fn child(
        self: &Arc<Self>,
        name: Bytes,
        attributes: Option<Attributes>,
    ) -> Arc<Self> {
        Arc::new(Self {
            job: self.job.clone(),
            parent: Some(self.clone()),
            name,
            attributes,
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
            let opened = fs::openat(&*fd, &place.name[..], DIRECTORY_FLAGS, Mode::empty())?;
            fd = Arc::new(opened);
            *lock(&place.fd) = Some(fd.clone());
            self.job.remember_open(place);
        }
        Ok(fd)
    }

    fn finish(&self, fd: &OwnedFd) {
        if let Some(attributes) = &self.attributes
            && !self.job.is_stopped()
        {
            let path = self.path_of(b"");
            if let Err(error) = set_attributes(&self.job, fd, attributes, &path) {
                self.job.failed(&path, error);
            }
        }
    }

    /// Opens a directory that nobody else works in any more, for its last change.
    fn open_last(&mut self) -> Result<Arc<OwnedFd>, Errno> {
        if let Some(fd) = lock(&self.fd).take() {
            return Ok(fd);
        }
        let parent = self.parent.as_ref().ok_or(Errno::BADF)?.fd()?;
        let fd = fs::openat(&*parent, &self.name[..], DIRECTORY_FLAGS, Mode::empty())?;
        Ok(Arc::new(fd))
    }

    fn close(&mut self) {
        match self.open_last() {
            Ok(fd) => self.finish(&fd),
            Err(_) if self.job.is_stopped() || self.attributes.is_none() => {}
            Err(error) => self.job.failed(&self.path_of(b""), error),
        }
        self.attributes = None;
    }
}

/// The attributes of a directory come when everything in it is done: otherwise a read-only directory could not be filled, and filling
/// would change its time.
impl Drop for Place {
    fn drop(&mut self) {
        if self.attributes.is_none() && self.parent.is_none() {
            return;
        }
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
}

/// Owner, extended attributes, mode and times of something that is open. Times come last: a file with the right size and time is a
/// file that is complete.
pub(super) fn set_attributes(
    job: &Job,
    fd: impl AsFd,
    attributes: &Attributes,
    path: &std::path::Path,
) -> Result<(), Errno> {
    let fd = fd.as_fd();
    if job.options.owners
        && let Some(owner) = attributes.owner
        && fs::fchown(
            fd,
            Some(Uid::from_raw(owner.uid)),
            Some(Gid::from_raw(owner.gid)),
        )
        .is_err()
    {
        job.warn_owner();
    }
    for xattr in &attributes.xattrs {
        // Only root may set these; a restore by somebody else is complete without them.
        let for_root = xattr.name.starts_with(b"trusted.") || xattr.name.starts_with(b"security.");
        if for_root && !job.is_root {
            continue;
        }
        if let Err(error) = fs::fsetxattr(fd, &xattr.name[..], &xattr.value, XattrFlags::empty()) {
            job.warn_xattr(path, error.into());
        }
    }
    fs::fchmod(fd, mode_of(job, attributes.mode))?;
    if let Some(modified) = attributes.modified {
        fs::futimens(fd, &timestamps(modified))?;
    }
    Ok(())
}

/// Owner and times of a name that can't be opened, such as a symlink.
pub(super) fn set_attributes_at(
    job: &Job,
    dir: &OwnedFd,
    name: &[u8],
    attributes: &Attributes,
    with_mode: bool,
) -> Result<(), Errno> {
    if job.options.owners
        && let Some(owner) = attributes.owner
        && fs::chownat(
            dir,
            name,
            Some(Uid::from_raw(owner.uid)),
            Some(Gid::from_raw(owner.gid)),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .is_err()
    {
        job.warn_owner();
    }
    if with_mode {
        // Linux knows no fchmodat that does not follow; what is here was just made in a directory of ours and is no symlink.
        let mode = mode_of(job, attributes.mode);
        fs::chmodat(dir, name, mode, AtFlags::empty())?;
    }
    if let Some(modified) = attributes.modified {
        fs::utimensat(dir, name, &timestamps(modified), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Setuid and setgid mean something only together with the owner, and would be a present to whoever made the bundle otherwise.
fn mode_of(job: &Job, mode: u32) -> Mode {
    let allowed = if job.is_root && job.options.owners {
        0o7777
    } else {
        0o1777
    };
    Mode::from_raw_mode((mode & allowed) as _)
}

fn timestamps(modified: ModTime) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT as _,
        },
        last_modification: Timespec {
            tv_sec: modified.seconds as _,
            tv_nsec: modified.nanos as _,
        },
    }
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
