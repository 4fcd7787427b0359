//! An inode's attributes: what a put reads and an extraction sets.
//!
//! A symlink, a named pipe, a device, or a file that may not be read has no ordinary descriptor.
//! An inode of that kind is pinned (`O_PATH`) and reached through `/proc/self/fd`, so that every
//! call is about the inode that was looked at, whatever its name leads to by then. Deliberately
//! absent: which attributes are wanted, and what a refusal means.

use std::os::fd::{AsFd, BorrowedFd};
#[cfg(target_os = "linux")]
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::Bytes;
use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;

use super::tree::ModTime;

/// An inode that is open, or pinned by its name.
pub(super) struct Inode<'a>(Handle<'a>);

enum Handle<'a> {
    Open(BorrowedFd<'a>),
    /// A descriptor that opens nothing, and the path under which the system takes it.
    #[cfg(target_os = "linux")]
    Pinned(OwnedFd, String),
    #[cfg(not(target_os = "linux"))]
    Named(BorrowedFd<'a>, &'a [u8]),
}

impl<'a> Inode<'a> {
    /// The inode behind an ordinary descriptor.
    pub(super) fn open(fd: &'a impl AsFd) -> Self {
        Self(Handle::Open(fd.as_fd()))
    }

    /// The inode called `name` in `dir`. A symlink is not followed.
    #[cfg(target_os = "linux")]
    pub(super) fn named(dir: &'a impl AsFd, name: &'a [u8]) -> Result<Self, Errno> {
        use rustix::fs::OFlags;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(dir, name, flags, Mode::empty())?;
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        Ok(Self(Handle::Pinned(fd, path)))
    }

    /// The inode called `name` in `dir`. A symlink is not followed.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn named(dir: &'a impl AsFd, name: &'a [u8]) -> Result<Self, Errno> {
        let inode = Self(Handle::Named(dir.as_fd(), name));
        inode.stat()?;
        Ok(inode)
    }

    pub(super) fn stat(&self) -> Result<Stat, Errno> {
        match &self.0 {
            Handle::Open(fd) => fs::fstat(fd),
            #[cfg(target_os = "linux")]
            Handle::Pinned(fd, _) => fs::fstat(fd),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(dir, name) => fs::statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Gives it to another user, another group, or both.
    pub(super) fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> Result<(), Errno> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match &self.0 {
            Handle::Open(fd) => fs::fchown(fd, uid, gid),
            #[cfg(target_os = "linux")]
            Handle::Pinned(fd, _) => fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(dir, name) => {
                fs::chownat(dir, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    /// Sets the low 12 bits of its mode. Not for symlinks, which have none of their own.
    pub(super) fn set_mode(&self, mode: u32) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(mode as _);
        match &self.0 {
            Handle::Open(fd) => fs::fchmod(fd, mode),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => fs::chmod(path.as_str(), mode),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(dir, name) => fs::chmodat(dir, *name, mode, AtFlags::SYMLINK_NOFOLLOW),
        }
    }

    /// Sets when its content was last changed, and leaves the time of the last access.
    pub(super) fn set_modified(&self, modified: ModTime) -> Result<(), Errno> {
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT as _,
            },
            last_modification: Timespec {
                tv_sec: modified.seconds as _,
                tv_nsec: modified.nanos as _,
            },
        };
        match &self.0 {
            Handle::Open(fd) => fs::futimens(fd, &times),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => {
                fs::utimensat(fs::CWD, path.as_str(), &times, AtFlags::empty())
            }
            #[cfg(not(target_os = "linux"))]
            Handle::Named(dir, name) => {
                fs::utimensat(dir, *name, &times, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }

    /// Names of its extended attributes, ACLs among them; none where the file system has no such
    /// thing.
    pub(super) fn xattr_names(&self) -> Vec<Bytes> {
        // Most inodes have none, and file systems answer this without looking further.
        let len = match &self.0 {
            Handle::Open(fd) => fs::flistxattr_query(fd),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => fs::listxattr_query(path.as_str()),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(..) => Ok(0),
        };
        let list = match len {
            Ok(len) if len > 0 => sized(len, |buffer| match &self.0 {
                Handle::Open(fd) => fs::flistxattr(fd, buffer),
                #[cfg(target_os = "linux")]
                Handle::Pinned(_, path) => fs::listxattr(path.as_str(), buffer),
                #[cfg(not(target_os = "linux"))]
                Handle::Named(..) => Ok(0),
            }),
            _ => None,
        };
        let list = Bytes::from(list.unwrap_or_default());
        list.split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
            .map(|name| list.slice_ref(name))
            .collect()
    }

    /// The value of an extended attribute; `None` when it is gone or may not be read.
    pub(super) fn xattr(&self, name: &[u8]) -> Option<Vec<u8>> {
        let len = match &self.0 {
            Handle::Open(fd) => fs::fgetxattr_query(fd, name),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => fs::getxattr_query(path.as_str(), name),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(..) => Err(Errno::NOTSUP),
        };
        sized(len.ok()?, |buffer| match &self.0 {
            Handle::Open(fd) => fs::fgetxattr(fd, name, buffer),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => fs::getxattr(path.as_str(), name, buffer),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(..) => Err(Errno::NOTSUP),
        })
    }

    pub(super) fn set_xattr(&self, name: &[u8], value: &[u8]) -> Result<(), Errno> {
        match &self.0 {
            Handle::Open(fd) => fs::fsetxattr(fd, name, value, XattrFlags::empty()),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => {
                fs::setxattr(path.as_str(), name, value, XattrFlags::empty())
            }
            #[cfg(not(target_os = "linux"))]
            Handle::Named(..) => Err(Errno::NOTSUP),
        }
    }

    pub(super) fn remove_xattr(&self, name: &[u8]) -> Result<(), Errno> {
        match &self.0 {
            Handle::Open(fd) => fs::fremovexattr(fd, name),
            #[cfg(target_os = "linux")]
            Handle::Pinned(_, path) => fs::removexattr(path.as_str(), name),
            #[cfg(not(target_os = "linux"))]
            Handle::Named(..) => Err(Errno::NOTSUP),
        }
    }
}

/// Kind of inode that `stat` tells of.
pub(super) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Reads something whose length was just asked for; it may grow in between, then it is asked for
/// again.
fn sized(len: usize, read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Option<Vec<u8>> {
    let mut len = len;
    for _ in 0..3 {
        let mut buffer = vec![0; len.max(1)];
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return Some(buffer);
            }
            Err(Errno::RANGE) => len = 2 * len + 256,
            Err(_) => break,
        }
    }
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    #[test]
    fn attributes_go_to_the_inode_that_was_pinned() {
        let room = tempfile::tempdir().expect("a directory");
        let dir = std::fs::File::open(room.path()).expect("opens");
        let at = |name: &str| room.path().join(name);
        std::fs::write(at("far"), b"far").expect("written");
        let far = at("far").metadata().expect("there");
        symlink("far", at("link")).expect("made");
        fs::mknodat(&dir, "pipe", FileType::Fifo, Mode::RUSR, 0).expect("made");
        let time = ModTime {
            seconds: 981_173_106,
            nanos: 5,
        };
        let link = Inode::named(&dir, b"link").expect("pinned");
        link.set_modified(time).expect("set");
        assert_eq!(
            at("link").symlink_metadata().expect("there").mtime(),
            981_173_106
        );
        assert_eq!(at("far").metadata().expect("there").mtime(), far.mtime());

        let pipe = Inode::named(&dir, b"pipe").expect("pinned");
        assert_eq!(kind(&pipe.stat().expect("there")), FileType::Fifo);
        std::fs::rename(at("pipe"), at("elsewhere")).expect("renamed");
        symlink("far", at("pipe")).expect("made");
        pipe.set_mode(0o622).expect("set");
        assert_eq!(
            at("elsewhere").metadata().expect("there").mode() & 0o7777,
            0o622
        );
        assert_eq!(at("far").metadata().expect("there").mode(), far.mode());
    }

    #[test]
    fn extended_attributes_of_what_may_not_be_opened() {
        let room = tempfile::tempdir().expect("a directory");
        let dir = std::fs::File::open(room.path()).expect("opens");
        std::fs::write(room.path().join("file"), b"x").expect("written");
        let inode = Inode::named(&dir, b"file").expect("pinned");
        if inode.set_xattr(b"user.note", b"value").is_err() {
            return println!("skipped: no extended attributes here");
        }
        assert_eq!(inode.xattr(b"user.note"), Some(b"value".to_vec()));
        assert!(inode.xattr_names().contains(&Bytes::from("user.note")));
        inode.remove_xattr(b"user.note").expect("removed");
        assert_eq!(inode.xattr(b"user.note"), None);
    }
}
