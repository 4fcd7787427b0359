//! What the file system says about one name besides its content.

use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::fs::{self, Stat};
use rustix::io::Errno;

use super::seal::Handle;
use crate::bundle::inode::Inode;
use crate::bundle::stat;
use crate::bundle::tree::{
    Content, Device, Directory, Entry, File, MAX_XATTR_BYTES, MAX_XATTRS, Owner, Xattr,
};

/// An entry with the attributes from `stat` and no content yet.
pub(super) fn entry(name: &[u8], stat: &Stat, content: Content<Handle>) -> Entry<Handle> {
    Entry {
        name: Bytes::copy_from_slice(name),
        mode: stat::mode(stat),
        modified: Some(stat::modified(stat)),
        owner: Some(Owner {
            uid: stat.st_uid,
            gid: stat.st_gid,
        }),
        xattrs: Vec::new(),
        identity: None,
        content,
    }
}

/// Placeholder for a directory that is filled later.
pub(super) const fn no_entries() -> Content<Handle> {
    Content::Directory(Directory::Inline(Vec::new()))
}

/// Placeholder for a file that is read later.
pub(super) const fn no_bytes(link_group: Option<u32>) -> Content<Handle> {
    Content::File(File {
        size: 0,
        extents: Vec::new(),
        link_group,
    })
}

pub(super) fn device(stat: &Stat, is_block: bool) -> Content<Handle> {
    let number = stat.st_rdev as _;
    Content::Device(Device {
        is_block,
        major: fs::major(number),
        minor: fs::minor(number),
    })
}

/// Extended attributes of an open file or directory, sorted. What may not be read, or is more than
/// an entry may carry, is left out; the second value says whether anything was left out for its
/// size.
pub(super) fn xattrs(fd: impl AsFd) -> (Vec<Xattr>, bool) {
    xattrs_of(&Inode::open(&fd))
}

/// The same for a name that is not opened: a symlink, a named pipe, a device.
///
/// # Errors
/// [`Errno::NOENT`] for a name that is gone, [`Errno::MFILE`] where no descriptor is free.
pub(super) fn xattrs_at(dir: impl AsFd, name: &[u8]) -> Result<(Vec<Xattr>, bool), Errno> {
    Inode::named(&dir, name).map(|inode| xattrs_of(&inode))
}

fn xattrs_of(inode: &Inode<'_>) -> (Vec<Xattr>, bool) {
    let mut found = Vec::new();
    for name in inode.xattr_names() {
        if let Some(value) = inode.xattr(&name) {
            // Names are slices of one list, which would stay in memory as a whole.
            let name = Bytes::copy_from_slice(&name);
            let value = value.into();
            found.push(Xattr { name, value });
        }
    }
    found.sort();
    found.dedup_by(|a, b| a.name == b.name);
    let (mut bytes, before) = (0, found.len());
    found.retain(|xattr| {
        let more = bytes + xattr.name.len() + xattr.value.len();
        let fits = more <= MAX_XATTR_BYTES;
        if fits {
            bytes = more;
        }
        fits
    });
    found.truncate(MAX_XATTRS);
    let left_out = found.len() < before;
    (found, left_out)
}
