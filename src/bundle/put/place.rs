//! Directories of a walk: open ones, the way to them, and the names in them.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

use crate::bundle::quiet;
use crate::bundle::tree::check_name;

/// An open directory and how it was reached.
pub(super) struct Place {
    pub(super) fd: OwnedFd,
    pub(super) trail: Arc<Trail>,
    open: Open,
}

impl Place {
    /// Counts the directory with `open` for as long as it is kept open.
    pub(super) fn new(fd: OwnedFd, trail: Arc<Trail>, open: &Open) -> Arc<Self> {
        open.0.fetch_add(1, Ordering::AcqRel);
        Arc::new(Self {
            fd,
            trail,
            open: open.clone(),
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Number of directories that one walk keeps open, its own and those of files that wait for a
/// reader.
#[derive(Clone, Default)]
pub(super) struct Open(Arc<AtomicUsize>);

impl Open {
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }
}

/// A path as a chain of names: it costs nothing until somebody wants to see it.
pub(super) struct Trail {
    parent: Option<Arc<Trail>>,
    name: PathBuf,
}

impl Trail {
    pub(super) fn root(path: &Path) -> Arc<Self> {
        Arc::new(Self {
            parent: None,
            name: path.to_owned(),
        })
    }

    pub(super) fn child(self: &Arc<Self>, name: &[u8]) -> Arc<Self> {
        Arc::new(Self {
            parent: Some(self.clone()),
            name: path_of(name),
        })
    }

    /// The path of this directory.
    pub(super) fn path(&self) -> PathBuf {
        let mut names = Vec::new();
        let mut trail = Some(self);
        while let Some(this) = trail {
            names.push(this.name.clone());
            trail = this.parent.as_deref();
        }
        names.into_iter().rev().collect()
    }

    /// The path of `name` in this directory.
    pub(super) fn join(&self, name: &[u8]) -> PathBuf {
        self.path().join(path_of(name))
    }
}

pub(super) fn path_of(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}

/// Opens a directory. One that is only passed through need not be readable.
pub(super) fn open_directory(
    parent: &OwnedFd,
    name: &[u8],
    is_passage: bool,
) -> Result<OwnedFd, Errno> {
    match quiet::open_at(parent, name, OFlags::DIRECTORY) {
        #[cfg(target_os = "linux")]
        Err(Errno::ACCESS) if is_passage => {
            quiet::open_at(parent, name, OFlags::DIRECTORY | OFlags::PATH)
        }
        result => result,
    }
}

/// Names of one directory, sorted, in little memory.
#[derive(Default)]
pub(super) struct Names {
    bytes: Vec<u8>,
    spans: Vec<(u32, u16)>,
    next: usize,
}

impl Names {
    pub(super) fn read(fd: &OwnedFd) -> Result<Self, Errno> {
        let mut names = Self::default();
        for entry in Dir::read_from(fd)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            // Names that no tree may hold: `.` and `..`, and what no file system gives.
            if check_name(name).is_err() {
                continue;
            }
            let start = u32::try_from(names.bytes.len()).map_err(|_| Errno::OVERFLOW)?;
            names.bytes.extend_from_slice(name);
            names.spans.push((start, name.len() as u16));
        }
        let Self { bytes, spans, .. } = &mut names;
        spans.sort_unstable_by(|a, b| span(bytes, *a).cmp(span(bytes, *b)));
        Ok(names)
    }

    /// Names that are known to be sorted.
    pub(super) fn of<'a>(wanted: impl Iterator<Item = &'a Bytes>) -> Self {
        let mut names = Self::default();
        for name in wanted {
            // Paths that a system gave: both fit.
            names
                .spans
                .push((names.bytes.len() as u32, name.len() as u16));
            names.bytes.extend_from_slice(name);
        }
        names
    }

    /// Drops all names that are not wanted; how many went.
    pub(super) fn retain(&mut self, is_wanted: impl Fn(&[u8]) -> bool) -> u64 {
        let before = self.spans.len();
        let Self { bytes, spans, .. } = self;
        spans.retain(|at| is_wanted(span(bytes, *at)));
        (before - spans.len()) as u64
    }

    /// Whether there is such a name.
    pub(super) fn has(&self, name: &[u8]) -> bool {
        let found = self
            .spans
            .binary_search_by(|at| span(&self.bytes, *at).cmp(name));
        found.is_ok()
    }

    pub(super) fn next(&mut self) -> Option<Bytes> {
        let at = *self.spans.get(self.next)?;
        self.next += 1;
        Some(Bytes::copy_from_slice(span(&self.bytes, at)))
    }
}

fn span(bytes: &[u8], (start, len): (u32, u16)) -> &[u8] {
    &bytes[start as usize..start as usize + len as usize]
}
