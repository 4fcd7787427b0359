//! What a tree is in memory, and which trees are allowed.
//!
//! An [`Entry`] is one name with its attributes and its content. `B` is how a block is referred to: a resolved [`Link`] when
//! reading, a place that is filled later when writing. Every limit on what a tree may hold is here; the codec enforces them when
//! reading, the writer stays below them.
//!
//! Deliberately absent: paths. An entry knows its name and nothing above it.

use std::sync::Arc;

use bytes::Bytes;

use crate::block::Link;
use crate::time::Timestamp;

/// Longest name in bytes. Linux allows 255, macOS 255 UTF-16 units, which are at most 765 bytes.
pub const MAX_NAME_BYTES: usize = 1020;
/// Longest symlink target in bytes: Linux's PATH_MAX.
pub const MAX_TARGET_BYTES: usize = 4096;
/// Most bytes of extended attributes (names and values) that one entry carries.
pub const MAX_XATTR_BYTES: usize = 128 << 10;
/// Most extended attributes that one entry carries.
pub const MAX_XATTRS: usize = 1024;
/// Most directories below each other.
pub const MAX_DEPTH: usize = 4096;
/// Most directories below each other inside one message.
pub const MAX_INLINE_DEPTH: usize = 128;
/// Largest file in bytes; what operating systems can address.
pub const MAX_FILE_BYTES: u64 = i64::MAX as u64;

/// One name in a tree: attributes and content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<B = Arc<Link>> {
    /// The name: never empty (except for a bundle's root), no `/`, no NUL, not `.` or `..`. Any other bytes.
    pub name: Bytes,
    /// Permission bits, setuid, setgid and sticky bit: the low 12 bits of `st_mode`.
    pub mode: u32,
    /// When the content was last changed, if known.
    pub modified: Option<ModTime>,
    /// Who owned it, if known.
    pub owner: Option<Owner>,
    /// Extended attributes, sorted by name, ACLs among them.
    pub xattrs: Vec<Xattr>,
    /// What tells later whether it was touched since, if that was kept.
    pub identity: Option<Identity>,
    /// What it is and what it holds.
    pub content: Content<B>,
}

impl<B> Entry<B> {
    /// Bytes of content; 0 for all but regular files.
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File(file) => file.size,
            _ => 0,
        }
    }

    /// Where a symlink leads; `None` for anything else.
    pub fn link_target(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Symlink(target) => Some(target),
            _ => None,
        }
    }

    /// Whether this is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self.content, Content::Directory(_))
    }

    /// Whether this is a regular file.
    pub const fn is_file(&self) -> bool {
        matches!(self.content, Content::File(_))
    }
}

/// A point in time with the precision of file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModTime {
    /// Seconds since 1970-01-01 UTC.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

impl From<Timestamp> for ModTime {
    fn from(time: Timestamp) -> Self {
        Self {
            seconds: (time.0 / 1000) as i64,
            nanos: (time.0 % 1000) as u32 * 1_000_000,
        }
    }
}

/// What changes with every write to a file and every change of its attributes, unlike its size and its settable time. It means
/// something on the machine that the file was on and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// When content or attributes were last changed: `st_ctime`.
    pub changed: ModTime,
    /// The inode's number.
    pub inode: u64,
}

/// User and group by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// One extended attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Xattr {
    /// Name with its namespace, such as `user.comment`.
    pub name: Bytes,
    /// Value.
    pub value: Bytes,
}

/// What an entry is and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content<B = Arc<Link>> {
    /// A regular file.
    File(File<B>),
    /// A directory.
    Directory(Directory<B>),
    /// A symbolic link and its target, which is never looked at.
    Symlink(Bytes),
    /// A named pipe.
    Fifo,
    /// A character or block device.
    Device(Device),
}

impl<B> Content<B> {
    /// The kind in one word.
    pub const fn kind_name(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Directory(_) => "directory",
            Self::Symlink(_) => "symlink",
            Self::Fifo => "fifo",
            Self::Device(_) => "device",
        }
    }
}

/// The content of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File<B = Arc<Link>> {
    /// Length in bytes: the sum of the extents' lengths.
    pub size: u64,
    /// Where the bytes are, in order.
    pub extents: Vec<Extent<B>>,
    /// Files of one bundle with the same number are hard links to each other. Never 0.
    pub link_group: Option<u32>,
}

/// A stretch of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent<B = Arc<Link>> {
    /// Bytes in a block.
    Data {
        /// The block.
        block: B,
        /// Where they start in the block's plaintext.
        offset: u32,
        /// How many.
        len: u32,
    },
    /// A hole: zeros that take no space.
    Hole {
        /// How many.
        len: u64,
    },
    /// A block that lists the extents of this stretch.
    List {
        /// The block.
        block: B,
        /// Bytes of the file that it covers.
        len: u64,
    },
}

impl<B> Extent<B> {
    /// Bytes of the file that it covers. Never 0 in a valid tree.
    pub fn len(&self) -> u64 {
        match self {
            Self::Data { len, .. } => u64::from(*len),
            Self::Hole { len } | Self::List { len, .. } => *len,
        }
    }

    /// Whether it covers nothing: not so in a valid tree.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The content of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Directory<B = Arc<Link>> {
    /// The entries themselves, sorted by name.
    Inline(Vec<Entry<B>>),
    /// A block that holds the entries, or parts of them.
    Block(B),
}

/// A device's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// A block device; otherwise a character device.
    pub is_block: bool,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
}

/// What one tree block holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node<B = Arc<Link>> {
    /// Entries of a directory, sorted by name.
    Entries(Vec<Entry<B>>),
    /// Parts of a directory, sorted by first name.
    Parts(Vec<Part<B>>),
    /// Extents of a file.
    Extents(Vec<Extent<B>>),
}

/// A part of a large directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part<B = Arc<Link>> {
    /// The first name in it.
    pub first_name: Bytes,
    /// The block with its entries or further parts.
    pub block: B,
}

/// Whether `name` may name an entry.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("an empty name"),
        b"." | b".." => Err("a name that is . or .."),
        _ if name.len() > MAX_NAME_BYTES => Err("a name that is too long"),
        _ if name.contains(&b'/') => Err("a name with a slash"),
        _ if name.contains(&0) => Err("a name with a NUL byte"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        for bad in [
            &b""[..],
            b".",
            b"..",
            b"/",
            b"a/b",
            b"../x",
            b"a\0b",
            b"/etc",
        ] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in [&b"a"[..], b"...", b"..a", b"\xff\xfe", b" ", b"a\\b", b"\n"] {
            assert_eq!(check_name(good), Ok(()), "{good:?}");
        }
        assert_eq!(check_name(&[b'x'; MAX_NAME_BYTES]), Ok(()));
        assert!(check_name(&[b'x'; MAX_NAME_BYTES + 1]).is_err());
    }
}
