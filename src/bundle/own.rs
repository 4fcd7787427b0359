//! libernet's own directories: no put takes them, no extraction enters or replaces them.
//!
//! A data directory is recognised in two ways. That of this node is known by its device and inode,
//! under whatever name it is reached. Any other one, also one that was copied or moved away, is
//! known by its content: a `node.key` or an `owner.key` that begins as libernet writes them. A
//! store without a data directory around it is known by the [`STORE_TAG`] in its `CACHEDIR.TAG`.
//!
//! Deliberately absent: names. A directory called `libernet` without these marks is like any other.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, OFlags};

use super::descriptors::when_free;
use super::{quiet, stat};

/// A directory with this file holds what can be made again: <https://bford.info/cachedir/>.
pub(super) const CACHE_TAG: &str = "CACHEDIR.TAG";
/// First bytes of [`CACHE_TAG`] where it is meant so.
pub(super) const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";
/// Content of `CACHEDIR.TAG` in the directory of a store. Other backup programs leave the store out
/// by it: its files change while they are read, and a copy of them is of no use.
pub const STORE_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # The blocks of libernet. What is backed up here is kept by copies on other nodes,\n\
    # not by copies of these files: they change while they are read.\n";
/// Files that mark a directory of libernet, and how each begins, whatever its version.
const MARKS: [(&str, &[u8]); 3] = [
    ("node.key", b"libernet-key v"),
    ("owner.key", b"LNOWNKEY"),
    (CACHE_TAG, STORE_TAG.as_bytes()),
];

/// Recognises directories of libernet: those of anybody, and of this node above all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Device and inode of this node's data directory.
    data_dir: Option<(u64, u64)>,
}

impl Own {
    /// Knows the data directory of this node.
    pub fn at(data_dir: &Path) -> Self {
        Self {
            data_dir: fs::stat(data_dir).ok().map(|stat| stat::inode(&stat)),
        }
    }

    /// Whether an open directory is one of libernet's: a data directory, or a store.
    pub fn is(self, directory: impl AsFd) -> bool {
        let directory = directory.as_fd();
        self.is_this_node(directory) || MARKS.iter().any(|mark| is_marked(directory, mark))
    }

    /// As [`is`](Self::is), for a directory whose names are known: a look at them saves opening
    /// what is not there.
    pub(super) fn is_with(self, directory: impl AsFd, has: impl Fn(&[u8]) -> bool) -> bool {
        let directory = directory.as_fd();
        let mut marks = MARKS.iter().filter(|(name, _)| has(name.as_bytes()));
        self.is_this_node(directory) || marks.any(|mark| is_marked(directory, mark))
    }

    /// The directory of libernet that `path` names or lies in. `path` is absolute and resolved; it
    /// need not exist.
    pub fn around(self, path: &Path) -> Option<PathBuf> {
        let is_own = |above: &&Path| {
            when_free(|| quiet::open(above, OFlags::DIRECTORY)).is_ok_and(|found| self.is(&found))
        };
        path.ancestors().find(is_own).map(Path::to_owned)
    }

    fn is_this_node(self, directory: BorrowedFd<'_>) -> bool {
        self.data_dir.is_some()
            && fs::fstat(directory).is_ok_and(|stat| Some(stat::inode(&stat)) == self.data_dir)
    }
}

/// Marks the directory of a store, so that it is recognised wherever it is copied to. A mark that
/// is there stays.
///
/// # Errors
/// Error of the system, such as that the disk is full or read-only.
pub fn mark_store(directory: &Path) -> io::Result<()> {
    let path = directory.join(CACHE_TAG);
    match OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => file.write_all(STORE_TAG.as_bytes()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn is_marked(directory: BorrowedFd<'_>, (name, start): &(&str, &[u8])) -> bool {
    first_bytes(directory, name, start.len() as u64).is_some_and(|bytes| bytes == *start)
}

/// The first `limit` bytes of a regular file. Never waits for a FIFO of that name and follows no
/// symlink.
pub(super) fn first_bytes(directory: BorrowedFd<'_>, name: &str, limit: u64) -> Option<Vec<u8>> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = when_free(|| quiet::open_at(directory, name, flags)).ok()?;
    let stat = fs::fstat(&fd).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(limit)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_libernet_is_known_by_its_marks() {
        let room = tempfile::tempdir().expect("a directory");
        let at = |name: &str| {
            let path = room.path().join(name);
            std::fs::create_dir_all(&path).expect("made");
            path
        };
        let is = |path: &Path| Own::default().is(std::fs::File::open(path).expect("opens"));
        let (node, owner, store, other) = (at("n"), at("o"), at("s"), at("libernet"));
        for (path, content) in [
            (node.join("node.key"), &b"libernet-key v1\nsecret"[..]),
            (owner.join("owner.key"), b"LNOWNKEY\x01rest"),
            (other.join("node.key"), b"-----BEGIN PRIVATE KEY-----"),
            (other.join("owner.key"), b""),
            (other.join(CACHE_TAG), CACHE_SIGNATURE),
        ] {
            std::fs::write(path, content).expect("written");
        }
        mark_store(&store).expect("marked");
        mark_store(&store).expect("marked already");
        assert!(is(&node) && is(&owner) && is(&store));
        assert!(!is(&other) && !is(room.path()));
        let tag = std::fs::read(store.join(CACHE_TAG)).expect("there");
        assert!(tag.starts_with(CACHE_SIGNATURE));
    }

    #[test]
    fn the_node_knows_its_own_directory_under_any_name() {
        let room = tempfile::tempdir().expect("a directory");
        let path = room.path().canonicalize().expect("there");
        let data = path.join("data");
        std::fs::create_dir_all(data.join("store/deep")).expect("made");
        std::os::unix::fs::symlink(&data, path.join("link")).expect("made");
        // Found through a symlink as well.
        let own = Own::at(&path.join("link"));
        assert!(own.is(std::fs::File::open(&data).expect("opens")));
        assert!(!own.is(std::fs::File::open(&path).expect("opens")));
        let inside = data.join("store/deep/none");
        assert_eq!(own.around(&inside), Some(data.clone()));
        assert_eq!(own.around(&data), Some(data.clone()));
        assert_eq!(own.around(&path), None);
        assert_eq!(
            Own::default().around(&inside),
            None,
            "no mark, not this node's"
        );
    }
}
