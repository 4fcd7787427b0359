//! Where an extraction writes, and how it ends: under a hidden name beside the target that becomes
//! the target when all is done, or into a directory that is there. Directories above the target
//! that are missing are made.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::Overwrite;
use super::directory::{rename, unlock};
use super::job::{Ground, Scene};
use super::leftover::hidden_name;
use crate::bundle::error::Error;
use crate::bundle::inode::Inode;
use crate::bundle::own::Own;

/// The target may be reached through symlinks: the user named it.
const TARGET_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);
/// A directory above the target need not be one that may be listed.
#[cfg(target_os = "linux")]
const PARENT_FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
const PARENT_FLAGS: OFlags = TARGET_FLAGS;

/// A place to extract to.
pub(super) struct Site {
    /// Holds the target's name and the hidden one.
    pub(super) parent: OwnedFd,
    pub(super) name: Vec<u8>,
    pub(super) hidden: Vec<u8>,
    pub(super) ground: Ground,
    /// The mode of the directory that is filled, if it was unlocked for its owner.
    pub(super) locked_mode: Option<u32>,
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
        site.locked_mode = Inode::named(&site.parent, b".")
            .ok()
            .and_then(|inode| unlock(&inode));
        Ok(site)
    }

    /// For a tree: a hidden directory beside `target`, or `target` itself when it is there and may be written to. Gives the directory.
    pub(super) fn for_tree(
        target: &Path,
        tag: &str,
        overwrite: Overwrite,
    ) -> Result<(Self, OwnedFd), Error> {
        // A target such as `.`, `..` or `/` has no name of its own.
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
            let fd = site.open_locked().map_err(|error| site.io(error))?;
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
        // The root of the file system has neither name nor parent, and needs neither: it is there.
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        let above = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) => Path::new("."),
            None => &path,
        };
        std::fs::create_dir_all(above).map_err(|error| Error::io(above, error))?;
        let parent = fs::open(above, PARENT_FLAGS, Mode::empty())
            .map_err(|error| Error::io(above, error))?;
        let hidden = hidden_name(&name, tag);
        Ok(Self {
            parent,
            name,
            hidden,
            ground: Ground::Fresh,
            locked_mode: None,
            path,
        })
    }

    /// Opens a target that is there, and unlocks it for its owner.
    fn open_locked(&mut self) -> Result<OwnedFd, Errno> {
        let open = |path: &Path| fs::open(path, TARGET_FLAGS, Mode::empty());
        let mut opened = open(&self.path);
        if opened.as_ref().is_err_and(|error| *error == Errno::ACCESS)
            && let Ok(inode) = Inode::named(&self.parent, &self.name)
        {
            self.locked_mode = unlock(&inode);
            opened = open(&self.path);
        }
        let fd = opened?;
        self.locked_mode = self.locked_mode.or_else(|| unlock(&Inode::open(&fd)));
        Ok(fd)
    }

    fn open_hidden(&mut self) -> Result<OwnedFd, Errno> {
        match fs::mkdirat(&self.parent, &self.hidden[..], Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => self.ground = Ground::Resumed,
            Err(error) => return Err(error),
        }
        let flags = TARGET_FLAGS | OFlags::NOFOLLOW;
        let fd = fs::openat(&self.parent, &self.hidden[..], flags, Mode::empty())?;
        // Somebody else's directory under this name is not one that an earlier extraction left.
        let stat = fs::fstat(&fd)?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(Errno::PERM);
        }
        // Where that is refused, what can't be written says so.
        let _ = fs::fchmod(&fd, Mode::RWXU);
        Ok(fd)
    }

    /// Removes what was made under the hidden name. Entries that can't be removed are named as
    /// unfinished when something is written there the next time.
    pub(super) fn take_away(&self) {
        if self.ground == Ground::Fresh {
            let _ = std::fs::remove_dir_all(self.hidden_path());
        }
    }

    fn hidden_path(&self) -> PathBuf {
        self.path.with_file_name(path_of(&self.hidden))
    }

    fn io(&self, error: impl Into<io::Error>) -> Error {
        Error::io(&self.path, error)
    }

    /// Scene of the extraction: facts of the site that it has to know. `target` is what paths
    /// inside the bundle are relative to.
    pub(super) fn scene(&self, tag: String, target: PathBuf) -> Scene {
        Scene {
            ground: self.ground,
            tag,
            target,
        }
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

/// Refuses a target that is or would be in a directory of libernet, whatever symlinks lead there.
pub(super) fn refuse_own(path: &Path, own: Own) -> Result<(), Error> {
    let absolute = std::path::absolute(path).map_err(|error| Error::io(path, error))?;
    let there = absolute
        .ancestors()
        .find_map(|above| above.canonicalize().ok());
    match there.and_then(|there| own.around(&there)) {
        Some(directory) => Err(Error::TargetIsOwn {
            path: path.to_owned(),
            directory,
        }),
        None => Ok(()),
    }
}

fn path_of(name: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_the_file_system_is_a_target_that_is_there() {
        for text in ["/", "/.", "/../"] {
            let target = Path::new(text);
            let (site, fd) = Site::for_tree(target, "0123abcd", Overwrite::Changed).expect("opens");
            assert_eq!(
                (site.ground, &*site.path),
                (Ground::InPlace, Path::new("/"))
            );
            let (found, root) = (fs::fstat(&fd), fs::stat("/"));
            assert_eq!(
                found.expect("there").st_ino,
                root.expect("there").st_ino,
                "{text}"
            );
            let never = Site::for_tree(target, "0123abcd", Overwrite::Never);
            assert!(matches!(never, Err(Error::TargetExists { .. })));
        }
    }

    #[test]
    fn directories_above_the_target_are_made() {
        let room = tempfile::tempdir().expect("a directory");
        let target = room.path().join("a/b/c");
        let (site, _) = Site::for_tree(&target, "0123abcd", Overwrite::Never).expect("made");
        site.reveal().expect("renamed");
        assert!(target.is_dir());
        let target = room.path().join("d/e/file");
        Site::for_file(&target, b"name", "0123abcd", Overwrite::Never).expect("made");
        assert!(room.path().join("d/e").is_dir());
        std::fs::write(room.path().join("file"), b"").expect("written");
        let under = room.path().join("file/below");
        let refused = Site::for_tree(&under, "0123abcd", Overwrite::Changed);
        assert!(refused.is_err());
    }
}
