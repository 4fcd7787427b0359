//! Where an extraction writes, and how it ends: under a hidden name beside the target that becomes the target when all is done, or into
//! a directory that is there.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::Overwrite;
use super::directory::rename;
use super::job::Ground;
use crate::bundle::error::Error;

/// Bytes of the target's name that a hidden name repeats; the rest of the 255 that a name may have is for what is added.
const REPEATED_NAME_BYTES: usize = 200;
/// The parent may be reached through symlinks: the user named it.
const PARENT_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// A place to extract to.
pub(super) struct Site {
    /// Holds the target's name and the hidden one.
    pub(super) parent: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) hidden: Vec<u8>,
    pub(super) ground: Ground,
    /// The final path.
    pub(super) path: PathBuf,
}

impl Site {
    /// For one file: at `target`, or in it under `name` when it is a directory.
    pub(super) fn for_file(
        target: &Path,
        name: &[u8],
        tag: &str,
        overwrite: Overwrite,
    ) -> Result<Self, Error> {
        let path = if target.is_dir() {
            target.join(path_of(name))
        } else {
            target.to_owned()
        };
        let mut site = Self::at(path, tag)?;
        match fs::statat(&site.parent, &site.name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => {}
            Err(error) => return Err(site.io(error)),
            Ok(_) if overwrite == Overwrite::Never => {
                return Err(Error::TargetExists { path: site.path });
            }
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                return Err(Error::TargetExists { path: site.path });
            }
            Ok(_) => {}
        }
        site.ground = Ground::InPlace;
        Ok(site)
    }

    /// For a tree: a hidden directory beside `target`, or `target` itself when it is there and may be written to. Gives the directory.
    pub(super) fn for_tree(
        target: &Path,
        tag: &str,
        overwrite: Overwrite,
    ) -> Result<(Self, OwnedFd), Error> {
        // A target such as `.` or `..` has no name of its own.
        let path = match target.file_name() {
            Some(_) => target.to_owned(),
            None => target
                .canonicalize()
                .map_err(|error| Error::io(target, error))?,
        };
        let mut site = Self::at(path, tag)?;
        if site.path.symlink_metadata().is_ok() {
            if overwrite == Overwrite::Never || !site.path.is_dir() {
                return Err(Error::TargetExists { path: site.path });
            }
            site.ground = Ground::InPlace;
            let fd = fs::open(&site.path, PARENT_FLAGS, Mode::empty())
                .map_err(|error| site.io(error))?;
            return Ok((site, fd));
        }
        let fd = site.open_hidden().map_err(|error| site.io(error))?;
        match fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(Error::Busy {
                path: site.hidden_path(),
            }),
            // Not every file system can lock; then nobody is kept out.
            Ok(()) | Err(_) => Ok((site, fd)),
        }
    }

    fn at(path: PathBuf, tag: &str) -> Result<Self, Error> {
        use std::os::unix::ffi::OsStrExt;
        let name = path
            .file_name()
            .ok_or_else(|| Error::TargetExists { path: path.clone() })?
            .as_bytes()
            .to_vec();
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let parent = fs::open(parent, PARENT_FLAGS, Mode::empty())
            .map_err(|error| Error::io(parent, error))?;
        let repeated = &name[..name.len().min(REPEATED_NAME_BYTES)];
        let hidden = [b".", repeated, b".libernet-", tag.as_bytes()].concat();
        Ok(Self {
            parent,
            name,
            hidden,
            ground: Ground::Fresh,
            path,
        })
    }

    fn open_hidden(&mut self) -> Result<OwnedFd, Errno> {
        match fs::mkdirat(&self.parent, &self.hidden[..], Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.ground = Ground::Resumed,
            Err(error) => return Err(error),
        }
        let flags = PARENT_FLAGS | OFlags::NOFOLLOW;
        let fd = fs::openat(&self.parent, &self.hidden[..], flags, Mode::empty())?;
        // Somebody else's directory under this name is not one that an earlier extraction left.
        let stat = fs::fstat(&fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Errno::PERM);
        }
        fs::fchmod(&fd, Mode::RWXU)?;
        Ok(fd)
    }

    fn hidden_path(&self) -> PathBuf {
        self.path.with_file_name(path_of(&self.hidden))
    }

    fn io(&self, error: impl Into<io::Error>) -> Error {
        Error::io(&self.path, error)
    }

    /// Another descriptor of the directory that holds the target.
    pub(super) fn parent_fd(&self) -> io::Result<OwnedFd> {
        self.parent.try_clone()
    }

    /// Gives a finished tree its name.
    pub(super) fn reveal(&self) -> Result<(), Error> {
        if self.ground == Ground::InPlace {
            return Ok(());
        }
        rename(&self.parent, &self.hidden, &self.name, false).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Error::TargetExists {
                path: self.path.clone(),
            },
            _ => self.io(error),
        })
    }
}

fn path_of(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}
