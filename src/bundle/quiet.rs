//! Opening for reading without a trace: the access time of what a backup reads stays as it was.
//!
//! Linux allows that (`O_NOATIME`) to a file's owner and to root. What belongs to others is opened
//! as usual.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// Opens `name` in `directory` for reading. `flags` beside that: never follows a symlink, and is
/// closed in programs that are started.
pub(super) fn open_at(
    directory: impl AsFd,
    name: impl Arg + Copy,
    flags: OFlags,
) -> Result<OwnedFd, Errno> {
    let directory = directory.as_fd();
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    quietly(flags, |flags| {
        fs::openat(directory, name, flags, Mode::empty())
    })
}

/// Opens what is at `path` for reading; a symlink there is not followed.
pub(super) fn open(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    quietly(flags, |flags| fs::open(path, flags, Mode::empty()))
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn quietly(
    flags: OFlags,
    open: impl Fn(OFlags) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    match open(flags | OFlags::NOATIME) {
        // Somebody else's.
        Err(Errno::PERM) => open(flags),
        result => result,
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn quietly(
    flags: OFlags,
    open: impl Fn(OFlags) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    open(flags)
}
