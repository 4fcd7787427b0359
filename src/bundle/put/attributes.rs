//! What the file system says about one name besides its content.

use std::os::fd::AsFd;

use bytes::Bytes;
use rustix::fs::{self, Stat};
use rustix::io::Errno;

use super::seal::Handle;
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

/// Extended attributes of an open file or directory, sorted. What may not be read, or is more than an entry may carry, is left out;
/// the second value says whether anything was left out for its size.
pub(super) fn xattrs(fd: impl AsFd) -> (Vec<Xattr>, bool) {
    let fd = fd.as_fd();
    // Most files have none and file systems answer this without looking further.
    let names = match fs::flistxattr_query(fd) {
        Ok(len) if len > 0 => sized(len, |buffer| fs::flistxattr(fd, buffer)),
        _ => return (Vec::new(), false),
    };
    let mut found = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let Ok(len) = fs::fgetxattr_query(fd, name) else {
            continue;
        };
        let value = sized(len, |buffer| fs::fgetxattr(fd, name, buffer));
        found.push(Xattr {
            name: Bytes::copy_from_slice(name),
            value: value.into(),
        });
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

/// Reads something whose length was just asked for; it may grow in between, then it is asked for again.
fn sized(len: usize, read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Vec<u8> {
    let mut len = len;
    for _ in 0..3 {
        let mut buffer = vec![0; len.max(1)];
        match read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                return buffer;
            }
            Err(Errno::RANGE) => len = 2 * len + 256,
            Err(_) => break,
        }
    }
    Vec::new()
}
