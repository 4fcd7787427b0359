//! What a put leaves out.
//!
//! A [`Filter`] is asked about every name before it is looked into: what is left out costs nothing and nothing below it is seen. Chosen
//! paths themselves are always kept: who names a path wants it.
//!
//! Deliberately absent: borders of file systems, which the walk knows by itself.

use std::fmt;
use std::io::Read;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use rustix::fs::{self, FileType, Mode, OFlags};

use crate::bundle::error::Error;
use crate::file;

/// Most bytes of a `.gitignore` that are read.
const MAX_IGNORE_FILE_BYTES: u64 = 1 << 20;
const IGNORE_FILE: &str = ".gitignore";
/// A directory with this file, when it starts with [`CACHE_SIGNATURE`], holds what can be made again:
/// <https://bford.info/cachedir/>.
const CACHE_TAG: &str = "CACHEDIR.TAG";
const CACHE_SIGNATURE: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55";

/// Decides what a put takes.
pub trait Filter: Send + Sync + fmt::Debug {
    /// Whether what is at `path` is taken. `size` is that of a regular file and 0 otherwise.
    fn keeps(&self, path: &Path, is_dir: bool, size: u64) -> bool;

    /// What is taken inside a directory that is entered. `directory` is open for reading.
    fn inside(&self, path: &Path, directory: BorrowedFd<'_>) -> Inside {
        let _ = (path, directory);
        Inside::Alike
    }
}

/// How things are inside a directory.
#[derive(Clone, Debug)]
pub enum Inside {
    /// As outside.
    Alike,
    /// Another filter is asked from here on.
    Other(Arc<dyn Filter>),
    /// Only these names are taken, if they are there.
    Only(Vec<Bytes>),
}

/// What to leave out.
#[derive(Clone, Debug, Default)]
pub struct FilterOptions {
    /// Patterns in the syntax of `.gitignore`, anchored at [`root`](Self::root): a later one wins over an earlier one, `!` takes back.
    pub exclude: Vec<String>,
    /// What matches one of these is taken whatever else says no, unless a directory above it is left out.
    pub include: Vec<String>,
    /// Where patterns with a slash start; empty for `/`.
    pub root: PathBuf,
    /// Heeds `.gitignore` files from the chosen paths downwards: the nearest that says something wins.
    pub ignore_files: bool,
    /// Leaves out what is in directories that are marked as caches, except for the mark.
    pub cache_directories: bool,
    /// Leaves out larger files.
    pub max_file_bytes: Option<u64>,
}

/// The filter of [`FilterOptions`].
#[derive(Clone, Debug)]
pub struct Rules {
    fixed: Arc<Fixed>,
    /// The `.gitignore` files that apply, innermost first.
    nested: Option<Arc<Nested>>,
}

#[derive(Debug)]
struct Fixed {
    exclude: Gitignore,
    include: Gitignore,
    ignore_files: bool,
    cache_directories: bool,
    max_file_bytes: Option<u64>,
}

#[derive(Debug)]
struct Nested {
    own: Gitignore,
    above: Option<Arc<Nested>>,
}

impl Rules {
    /// Reads the patterns.
    ///
    /// # Errors
    /// [`Error::Pattern`] names the first that is wrong.
    pub fn new(options: &FilterOptions) -> Result<Self, Error> {
        let root = match options.root.as_os_str().is_empty() {
            true => Path::new("/"),
            false => &options.root,
        };
        Ok(Self {
            fixed: Arc::new(Fixed {
                exclude: patterns(root, &options.exclude)?,
                include: patterns(root, &options.include)?,
                ignore_files: options.ignore_files,
                cache_directories: options.cache_directories,
                max_file_bytes: options.max_file_bytes,
            }),
            nested: None,
        })
    }
}

/// Patterns in the syntax of `.gitignore`.
///
/// # Errors
/// [`Error::Pattern`].
pub(in crate::bundle) fn patterns(root: &Path, lines: &[String]) -> Result<Gitignore, Error> {
    let mut builder = GitignoreBuilder::new(root);
    // Git takes an open bracket for itself; who types one has made a mistake.
    builder.allow_unclosed_class(false);
    let wrong = |pattern: &str, error: &ignore::Error| Error::Pattern {
        pattern: pattern.to_owned(),
        reason: error.to_string(),
    };
    for line in lines {
        builder
            .add_line(None, line)
            .map_err(|error| wrong(line, &error))?;
    }
    builder
        .build()
        .map_err(|error| wrong(&lines.join(" "), &error))
}

impl Filter for Rules {
    fn keeps(&self, path: &Path, is_dir: bool, size: u64) -> bool {
        let fixed = &*self.fixed;
        if fixed.include.matched(path, is_dir).is_ignore() {
            return true;
        }
        if fixed.max_file_bytes.is_some_and(|max| size > max) {
            return false;
        }
        if fixed.exclude.matched(path, is_dir).is_ignore() {
            return false;
        }
        let mut nested = self.nested.as_deref();
        while let Some(Nested { own, above }) = nested {
            match own.matched(path, is_dir) {
                Match::Ignore(_) => return false,
                Match::Whitelist(_) => return true,
                Match::None => nested = above.as_deref(),
            }
        }
        true
    }

    fn inside(&self, path: &Path, directory: BorrowedFd<'_>) -> Inside {
        let fixed = &*self.fixed;
        if fixed.cache_directories && is_cache(directory) {
            return Inside::Only(vec![Bytes::from_static(CACHE_TAG.as_bytes())]);
        }
        if !fixed.ignore_files {
            return Inside::Alike;
        }
        let Some(bytes) = read(directory, IGNORE_FILE, MAX_IGNORE_FILE_BYTES) else {
            return Inside::Alike;
        };
        let mut builder = GitignoreBuilder::new(path);
        for line in file::without_mark(&String::from_utf8_lossy(&bytes)).lines() {
            // As git does: a line that makes no sense says nothing.
            let _ = builder.add_line(None, line);
        }
        match builder.build() {
            Ok(own) if !own.is_empty() => Inside::Other(Arc::new(Self {
                fixed: self.fixed.clone(),
                nested: Some(Arc::new(Nested {
                    own,
                    above: self.nested.clone(),
                })),
            })),
            _ => Inside::Alike,
        }
    }
}

fn is_cache(directory: BorrowedFd<'_>) -> bool {
    read(directory, CACHE_TAG, CACHE_SIGNATURE.len() as u64)
        .is_some_and(|bytes| bytes == CACHE_SIGNATURE)
}

/// The first `limit` bytes of a regular file.
fn read(directory: BorrowedFd<'_>, name: &str, limit: u64) -> Option<Vec<u8>> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let fd = fs::openat(directory, name, flags, Mode::empty()).ok()?;
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

    fn rules(exclude: &[&str], include: &[&str]) -> Rules {
        let owned = |list: &[&str]| list.iter().map(|line| (*line).to_owned()).collect();
        Rules::new(&FilterOptions {
            exclude: owned(exclude),
            include: owned(include),
            max_file_bytes: Some(100),
            ..FilterOptions::default()
        })
        .expect("good patterns")
    }

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let rules = rules(
            &["*.tmp", "!keep.tmp", "/proc", "build/", "a/**/z"],
            &["/home/u/big.iso", "rescued.tmp"],
        );
        let keeps = |path: &str, is_dir| rules.keeps(Path::new(path), is_dir, 0);
        assert!(!keeps("/x/y.tmp", false) && keeps("/x/keep.tmp", false));
        assert!(keeps("/x/rescued.tmp", false));
        assert!(!keeps("/proc", true) && keeps("/x/proc", true));
        assert!(!keeps("/x/build", true) && keeps("/x/build", false));
        assert!(!keeps("/a/b/c/z", false) && keeps("/x/a/b/z", false));
        assert!(!rules.keeps(Path::new("/x"), false, 101));
        assert!(rules.keeps(Path::new("/x"), false, 100));
        assert!(rules.keeps(Path::new("/home/u/big.iso"), false, 101));
    }

    #[test]
    fn a_bad_pattern_is_named() {
        let options = FilterOptions {
            exclude: vec!["fine".to_owned(), "a[".to_owned()],
            ..FilterOptions::default()
        };
        let error = Rules::new(&options).expect_err("it is wrong");
        assert!(matches!(&error, Error::Pattern { pattern, .. } if pattern == "a["));
        assert!(error.to_string().contains("a["), "{error}");
    }
}
