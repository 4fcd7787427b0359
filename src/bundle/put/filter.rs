//! What a put leaves out.
//!
//! A [`Filter`] is asked about every name before it is looked into: what is left out costs nothing
//! and nothing below it is seen. Named paths are never asked about: they are taken whatever a
//! filter says.
//!
//! Deliberately absent: borders of file systems, which the walk knows by itself.

use std::fmt;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use ignore::Match;

use crate::bundle::error::Error;
use crate::bundle::own::{CACHE_SIGNATURE, CACHE_TAG, first_bytes};
use crate::bundle::pattern::{Line, Patterns};

/// Most bytes of a `.gitignore` that are read.
const MAX_IGNORE_FILE_BYTES: u64 = 1 << 20;
const IGNORE_FILE: &str = ".gitignore";

/// Decides what a put takes.
pub trait Filter: Send + Sync + fmt::Debug {
    /// Whether what is at `path` is taken. `size` is that of a regular file and 0 otherwise.
    fn keeps(&self, path: &Path, is_dir: bool, size: u64) -> bool;

    /// What is taken inside a directory that is entered. `directory` is open for reading.
    fn inside(&self, path: &Path, directory: BorrowedFd<'_>) -> Inside {
        let _ = (path, directory);
        Inside::Alike
    }

    /// Patterns that matched nothing that the put came to.
    fn unmatched(&self) -> Vec<String> {
        Vec::new()
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
    /// Lines of patterns; those with a slash start at `/`. A later one wins over an earlier one,
    /// `!` takes back. What a line names through symlinks is left out at the place that they lead
    /// to.
    pub exclude: Vec<String>,
    /// What matches one of these is taken whatever else says no, unless a directory above it is left out.
    pub include: Vec<String>,
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
    exclude: Patterns,
    include: Patterns,
    ignore_files: bool,
    cache_directories: bool,
    max_file_bytes: Option<u64>,
}

#[derive(Debug)]
struct Nested {
    own: Patterns,
    above: Option<Arc<Nested>>,
}

impl Rules {
    /// Reads the patterns, and looks where those lead that name symlinks.
    ///
    /// # Errors
    /// [`Error::Pattern`] names the first that is wrong.
    pub fn new(options: &FilterOptions) -> Result<Self, Error> {
        Ok(Self {
            fixed: Arc::new(Fixed {
                exclude: patterns(&options.exclude)?,
                include: patterns(&options.include)?,
                ignore_files: options.ignore_files,
                cache_directories: options.cache_directories,
                max_file_bytes: options.max_file_bytes,
            }),
            nested: None,
        })
    }
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
        let Some(bytes) = first_bytes(directory, IGNORE_FILE, MAX_IGNORE_FILE_BYTES) else {
            return Inside::Alike;
        };
        let own = Patterns::of_file(path, &bytes);
        if own.is_empty() {
            return Inside::Alike;
        }
        Inside::Other(Arc::new(Self {
            fixed: self.fixed.clone(),
            nested: Some(Arc::new(Nested {
                own,
                above: self.nested.clone(),
            })),
        }))
    }

    fn unmatched(&self) -> Vec<String> {
        let mut unmatched = self.fixed.exclude.unmatched();
        unmatched.extend(self.fixed.include.unmatched());
        unmatched
    }
}

fn patterns(lines: &[String]) -> Result<Patterns, Error> {
    let resolve = |way: &Path| {
        // Names behind the last part that is there can't lead through a symlink.
        let there = way.ancestors().find(|way| way.exists())?;
        let rest = way.strip_prefix(there).ok()?;
        let real = there.canonicalize().ok()?.join(rest);
        (real != way).then_some(real)
    };
    let lines = lines.iter().map(|line| Line::new(line).resolved(resolve));
    Patterns::new(Path::new("/"), &lines.collect::<Vec<_>>())
}

fn is_cache(directory: BorrowedFd<'_>) -> bool {
    first_bytes(directory, CACHE_TAG, CACHE_SIGNATURE.len() as u64)
        .is_some_and(|bytes| bytes == CACHE_SIGNATURE)
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
    fn patterns_through_symlinks_leave_out_what_is_there() {
        let room = tempfile::tempdir().expect("a directory");
        let at = room.path().canonicalize().expect("there");
        std::fs::create_dir_all(at.join("real/cache")).expect("made");
        std::os::unix::fs::symlink("real", at.join("link")).expect("made");
        let line = |rest: &str| format!("{}/{rest}", at.display());
        let (through, later) = (line("link/cache"), line("link/none/yet"));
        let itself = line("link");
        let rules = rules(&[&through, &later, &itself], &[]);
        let keeps = |rest: &str| rules.keeps(&at.join(rest), true, 0);
        assert!(!keeps("real/cache") && !keeps("link/cache") && !keeps("real/none/yet"));
        // The symlink is left out, and what it leads to is not.
        assert!(!keeps("link") && keeps("real"));
        assert!(rules.unmatched().is_empty());
    }
}
