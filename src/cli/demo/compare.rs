//! Compares a tree with its copy: every byte and every attribute that a bundle keeps.
//!
//! Compared are kind, permission bits, modification time (of directories and symbolic links too), link targets, extended
//! attributes of users, device numbers, which files are hard links of each other, and content. Owners are not: restoring
//! them needs root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::cli::show;
use crate::size::ByteSize;

/// Differences that are described; more are counted.
const MAX_DIFFERENCES: usize = 20;
/// Bytes compared at once.
const PIECE_BYTES: usize = 256 << 10;

/// What was compared and what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Comparison {
    pub(super) files: u64,
    pub(super) directories: u64,
    pub(super) symlinks: u64,
    pub(super) others: u64,
    /// Bytes of content.
    pub(super) bytes: u64,
    /// Extended attributes.
    pub(super) attributes: u64,
    /// Groups of names for one file.
    pub(super) hard_links: u64,
    /// What differs, in words; the first few.
    pub(super) differences: Vec<String>,
    /// Differences in all.
    pub(super) different: u64,
}

impl Comparison {
    /// Whether something was compared and nothing differs.
    pub(super) fn is_same(&self) -> bool {
        self.different == 0 && self.files + self.directories + self.symlinks + self.others > 0
    }

    /// What was compared and the result, in a sentence.
    pub(super) fn describe(&self) -> String {
        let mut parts = vec![
            format!(
                "{} ({})",
                show::count(self.files, "file"),
                ByteSize(self.bytes)
            ),
            format!("{} directories", self.directories),
            show::count(self.symlinks, "symlink"),
        ];
        if self.others > 0 {
            parts.push(show::count(self.others, "special file"));
        }
        parts.push(show::count(self.hard_links, "hard-link group"));
        parts.push(show::count(self.attributes, "extended attribute"));
        let verdict = match self.different {
            0 => "every byte and attribute is the same".to_owned(),
            1 => "1 DIFFERENCE".to_owned(),
            many => format!("{many} DIFFERENCES"),
        };
        format!(
            "{verdict} (content, kinds, modes, times, link targets: {})",
            parts.join(", ")
        )
    }

    fn differs(&mut self, path: &Path, what: &str) {
        self.different += 1;
        if self.differences.len() < MAX_DIFFERENCES {
            let path = if path.as_os_str().is_empty() {
                Path::new(".")
            } else {
                path
            };
            self.differences.push(format!("{}: {what}", path.display()));
        }
    }
}

/// Names of one file on each side.
type Links = BTreeMap<(u64, u64), BTreeSet<PathBuf>>;

/// Compares `copy` with `source`. Paths in `left_out` (relative or absolute) are not looked at.
pub(super) fn compare(source: &Path, copy: &Path, left_out: &BTreeSet<PathBuf>) -> Comparison {
    let mut found = Comparison::default();
    let (mut links, mut copied_links) = (Links::new(), Links::new());
    let mut open = vec![PathBuf::new()];
    while let Some(path) = open.pop() {
        let (one, other) = (join(source, &path), join(copy, &path));
        if left_out.contains(&path) || left_out.contains(&one) {
            continue;
        }
        let (meta, copied) = match (
            std::fs::symlink_metadata(&one),
            std::fs::symlink_metadata(&other),
        ) {
            (Ok(meta), Ok(copied)) => (meta, copied),
            (Err(error), _) => {
                found.differs(
                    &path,
                    &format!("the source can't be read any more: {error}"),
                );
                continue;
            }
            (_, Err(error)) => {
                found.differs(&path, &format!("the copy is missing: {error}"));
                continue;
            }
        };
        if meta.file_type() != copied.file_type() {
            found.differs(&path, "another kind");
            continue;
        }
        compare_meta(&path, &meta, &copied, &mut found);
        compare_attributes(&path, &one, &other, &mut found);
        if meta.is_dir() {
            found.directories += 1;
            compare_names(&path, &one, &other, left_out, source, &mut open, &mut found);
        } else if meta.is_symlink() {
            found.symlinks += 1;
            match (std::fs::read_link(&one), std::fs::read_link(&other)) {
                (Ok(target), Ok(copied)) if target == copied => {}
                _ => found.differs(&path, "another target"),
            }
        } else if meta.is_file() {
            found.files += 1;
            found.bytes += meta.len();
            compare_content(&path, &one, &other, &mut found);
        } else {
            found.others += 1;
            let is_device = meta.file_type().is_char_device() || meta.file_type().is_block_device();
            if is_device && meta.rdev() != copied.rdev() {
                found.differs(&path, "another device");
            }
        }
        if !meta.is_dir() {
            links
                .entry((meta.dev(), meta.ino()))
                .or_default()
                .insert(path.clone());
            copied_links
                .entry((copied.dev(), copied.ino()))
                .or_default()
                .insert(path);
        }
    }
    compare_links(links, copied_links, &mut found);
    found
}

fn join(root: &Path, path: &Path) -> PathBuf {
    // Joining an empty path would add a slash, and a slash behind a file is an error.
    if path.as_os_str().is_empty() {
        root.to_owned()
    } else {
        root.join(path)
    }
}

fn compare_meta(path: &Path, meta: &Metadata, copied: &Metadata, found: &mut Comparison) {
    // A symbolic link's own mode means nothing and can't be set on most systems.
    if !meta.is_symlink() && meta.mode() & 0o7777 != copied.mode() & 0o7777 {
        let (one, other) = (meta.mode() & 0o7777, copied.mode() & 0o7777);
        found.differs(path, &format!("mode {other:04o} in place of {one:04o}"));
    }
    let times = [meta, copied].map(|meta| (meta.mtime(), meta.mtime_nsec()));
    if times[0] != times[1] {
        found.differs(
            path,
            &format!("modified {:?} in place of {:?}", times[1], times[0]),
        );
    }
}

fn compare_attributes(path: &Path, one: &Path, other: &Path, found: &mut Comparison) {
    // File systems without extended attributes have none of them.
    let list = |path: &Path| -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        xattr::list(path)
            .into_iter()
            .flatten()
            .filter(|name| name.as_bytes().starts_with(b"user."))
            .map(|name| {
                let value = xattr::get(path, &name).ok().flatten();
                (name.as_bytes().to_owned(), value)
            })
            .collect()
    };
    let (one, other) = (list(one), list(other));
    found.attributes += one.len() as u64;
    if one != other {
        found.differs(path, "other extended attributes");
    }
}

fn compare_names(
    path: &Path,
    one: &Path,
    other: &Path,
    left_out: &BTreeSet<PathBuf>,
    source: &Path,
    open: &mut Vec<PathBuf>,
    found: &mut Comparison,
) {
    let names = |dir: &Path| -> std::io::Result<BTreeSet<PathBuf>> {
        std::fs::read_dir(dir)?
            .map(|entry| Ok(path.join(entry?.file_name())))
            .collect()
    };
    match (names(one), names(other)) {
        (Ok(names), Ok(copied)) => {
            for extra in copied.difference(&names) {
                found.differs(extra, "only in the copy");
            }
            for missing in names.difference(&copied) {
                if !left_out.contains(missing) && !left_out.contains(&source.join(missing)) {
                    found.differs(missing, "missing in the copy");
                }
            }
            open.extend(names.intersection(&copied).cloned());
        }
        (Err(error), _) | (_, Err(error)) => {
            found.differs(path, &format!("can't be listed: {error}"))
        }
    }
}

fn compare_content(path: &Path, one: &Path, other: &Path, found: &mut Comparison) {
    match same_content(one, other) {
        Ok(true) => {}
        Ok(false) => found.differs(path, "other content"),
        Err(error) => found.differs(path, &format!("can't be read: {error}")),
    }
}

fn same_content(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut piece, mut copied) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let len = fill(&mut one, &mut piece)?;
        if fill(&mut other, &mut copied)? != len || piece[..len] != copied[..len] {
            return Ok(false);
        }
        if len < PIECE_BYTES {
            return Ok(true);
        }
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match file.read(&mut buffer[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// Names that share a file in the source must share one in the copy, and no others.
fn compare_links(links: Links, copied: Links, found: &mut Comparison) {
    let groups = |links: Links| -> BTreeSet<BTreeSet<PathBuf>> {
        links
            .into_values()
            .filter(|names| names.len() > 1)
            .collect()
    };
    let (links, copied) = (groups(links), groups(copied));
    found.hard_links = links.len() as u64;
    for group in links.symmetric_difference(&copied) {
        if let Some(first) = group.first() {
            found.differs(first, "other hard links");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    fn make(root: &Path) {
        std::fs::create_dir_all(root.join("a/empty")).expect("made");
        std::fs::write(root.join("a/file"), vec![7; PIECE_BYTES + 1]).expect("written");
        std::fs::write(root.join("other"), b"x").expect("written");
        std::fs::hard_link(root.join("other"), root.join("a/hard")).expect("linked");
        symlink("nowhere", root.join("link")).expect("linked");
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000, 123_456_789);
        for name in ["a/file", "other", "a/empty", "a", ""] {
            File::open(join(root, Path::new(name)))
                .and_then(|file| file.set_modified(time))
                .expect("set");
        }
        copy_times(root, "link");
    }

    /// A symbolic link's time can't be set by the standard library: give it that of the sample directory's own.
    fn copy_times(root: &Path, name: &str) {
        let time = rustix::fs::Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 5,
        };
        let times = rustix::fs::Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(
            rustix::fs::CWD,
            root.join(name),
            &times,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .expect("set");
    }

    #[test]
    fn every_kind_of_difference_is_seen() {
        type Change = (&'static str, fn(&Path));
        let changes: [Change; 10] = [
            ("other content", |root| {
                let path = root.join("a/file");
                let time = std::fs::metadata(&path)
                    .and_then(|meta| meta.modified())
                    .expect("a time");
                let mut bytes = std::fs::read(&path).expect("read");
                bytes[PIECE_BYTES] = 8;
                std::fs::write(&path, bytes).expect("written");
                File::open(&path)
                    .and_then(|file| file.set_modified(time))
                    .expect("set");
            }),
            ("mode 0600", |root| {
                std::fs::set_permissions(root.join("a/file"), PermissionsExt::from_mode(0o600))
                    .expect("set");
            }),
            ("modified", |root| {
                File::open(root.join("a/empty"))
                    .and_then(|file| file.set_modified(SystemTime::now()))
                    .expect("set");
            }),
            ("another target", |root| {
                std::fs::remove_file(root.join("link")).expect("removed");
                symlink("elsewhere", root.join("link")).expect("linked");
                copy_times(root, "link");
            }),
            ("modified", |root| {
                std::fs::remove_file(root.join("link")).expect("removed");
                symlink("nowhere", root.join("link")).expect("linked");
            }),
            ("another kind", |root| {
                std::fs::remove_file(root.join("link")).expect("removed");
                std::fs::write(root.join("link"), b"").expect("written");
            }),
            ("missing in the copy", |root| {
                std::fs::remove_file(root.join("a/file")).expect("removed")
            }),
            ("only in the copy", |root| {
                std::fs::write(root.join("new"), b"").expect("written")
            }),
            ("other hard links", |root| {
                std::fs::remove_file(root.join("a/hard")).expect("removed");
                std::fs::write(root.join("a/hard"), b"x").expect("written");
            }),
            ("only in the copy", |root| {
                std::fs::create_dir(root.join("a/empty/more")).expect("made")
            }),
        ];
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        make(&one);
        for (what, change) in changes {
            let _ = std::fs::remove_dir_all(&other);
            make(&other);
            let found = compare(&one, &other, &BTreeSet::new());
            assert!(found.is_same(), "{found:?}");
            assert_eq!((found.files, found.directories, found.symlinks), (3, 3, 1));
            assert_eq!((found.hard_links, found.bytes), (1, PIECE_BYTES as u64 + 3));
            change(&other);
            let found = compare(&one, &other, &BTreeSet::new());
            assert!(!found.is_same());
            assert!(
                found.differences.iter().any(|text| text.contains(what)),
                "{what}: {found:?}"
            );
        }
    }

    #[test]
    fn single_files_nothing_and_what_is_left_out() {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        std::fs::write(&one, b"1").expect("written");
        assert!(
            !compare(&one, &other, &BTreeSet::new()).is_same(),
            "no copy"
        );
        assert!(
            !compare(&other, &other, &BTreeSet::new()).is_same(),
            "nothing to compare"
        );
        assert!(compare(&one, &one, &BTreeSet::new()).is_same());
        let (one, other) = (dir.path().join("a"), dir.path().join("b"));
        make(&one);
        make(&other);
        std::fs::remove_file(other.join("a/file")).expect("removed");
        let time = std::fs::metadata(one.join("a"))
            .and_then(|meta| meta.modified())
            .expect("a time");
        File::open(other.join("a"))
            .and_then(|dir| dir.set_modified(time))
            .expect("set");
        for path in [PathBuf::from("a/file"), one.join("a/file")] {
            let found = compare(&one, &other, &BTreeSet::from([path]));
            assert!(found.is_same(), "{found:?}");
        }
    }

    #[test]
    fn descriptions_are_bounded() {
        let mut found = Comparison::default();
        for _ in 0..MAX_DIFFERENCES + 5 {
            found.differs(Path::new("x"), "y");
        }
        assert_eq!(found.differences.len(), MAX_DIFFERENCES);
        assert!(found.describe().contains("25 DIFFERENCES"));
    }
}
