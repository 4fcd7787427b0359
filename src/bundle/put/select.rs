//! Which paths a put of several paths takes: a trie of names.
//!
//! At a directory on the way to a chosen path only the names that lead on are visited; from a chosen path on everything is. The trie is
//! sorted as the walk is, by the bytes of the names.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

/// What is wanted below one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// Empty: everything.
    names: BTreeMap<Bytes, Arc<Selection>>,
}

/// Chosen paths, and those that could not be had.
pub(super) struct Chosen {
    pub(super) selection: Arc<Selection>,
    pub(super) failed: Vec<(PathBuf, io::Error)>,
}

impl Selection {
    /// Everything below `paths`, which are absolute and without `.` and `..`. What lies below another of them adds nothing. No paths
    /// at all would mean everything: see to it that there is one.
    fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let mut sorted: Vec<Vec<Bytes>> = paths.map(names_of).collect();
        // A path comes before those below it.
        sorted.sort();
        let mut kept: Vec<Vec<Bytes>> = Vec::new();
        for path in sorted {
            if !kept.last().is_some_and(|above| path.starts_with(above)) {
                kept.push(path);
            }
        }
        Self::grow(&kept, 0)
    }

    fn grow(paths: &[Vec<Bytes>], depth: usize) -> Self {
        let mut names = BTreeMap::new();
        for same in paths.chunk_by(|a, b| a.get(depth) == b.get(depth)) {
            if let Some(name) = same.first().and_then(|path| path.get(depth)) {
                names.insert(name.clone(), Arc::new(Self::grow(same, depth + 1)));
            }
        }
        Self { names }
    }

    /// Whether everything below is wanted.
    pub(super) fn is_everything(&self) -> bool {
        self.names.is_empty()
    }

    /// The names that are wanted, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &Bytes> {
        self.names.keys()
    }

    /// What is wanted below `name`; `None` for everything.
    pub(super) fn below(&self, name: &[u8]) -> Option<Arc<Self>> {
        self.names
            .get(name)
            .filter(|below| !below.is_everything())
            .cloned()
    }
}

impl Chosen {
    /// Looks for the real places of `paths`.
    ///
    /// # Errors
    /// When none can be had: the first and why.
    pub(super) fn find(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let (mut found, mut failed) = (Vec::new(), Vec::new());
        for path in paths {
            match path.canonicalize() {
                Ok(real) => found.push(real),
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        if found.is_empty() {
            let none = || (PathBuf::new(), io::Error::other("no path was given"));
            return Err(failed.into_iter().next().unwrap_or_else(none));
        }
        let selection = Selection::of(found.iter().map(PathBuf::as_path));
        Ok(Self {
            selection: Arc::new(selection),
            failed,
        })
    }
}

fn names_of(path: &Path) -> Vec<Bytes> {
    use std::os::unix::ffi::OsStrExt;
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(Bytes::copy_from_slice(name.as_bytes())),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn selection(paths: &[&str]) -> Selection {
        Selection::of(paths.iter().map(Path::new))
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        assert_eq!(selection(&["/a", "/a/b"]), selection(&["/a"]));
        assert_eq!(selection(&["/a/b", "/a", "/a/c"]), selection(&["/a"]));
        assert!(selection(&["/a", "/"]).is_everything());
        // A longer name is not below a shorter one.
        let both = selection(&["/a/b", "/a/bc", "/a.b"]);
        assert_eq!(both.names().collect::<Vec<_>>(), ["a", "a.b"]);
        let below = both.below(b"a").expect("a part");
        assert_eq!(below.names().collect::<Vec<_>>(), ["b", "bc"]);
        assert_eq!(below.below(b"b"), None);
    }

    proptest! {
        #[test]
        fn a_selection_takes_what_is_at_or_below_its_paths(
            paths in proptest::collection::vec(proptest::collection::vec("[ab-]{1,2}", 0..4), 1..6),
            asked in proptest::collection::vec("[ab-]{1,2}", 0..5),
        ) {
            let path = |names: &[String]| PathBuf::from(format!("/{}", names.join("/")));
            let paths: Vec<PathBuf> = paths.iter().map(|names| path(names)).collect();
            let selection = Selection::of(paths.iter().map(PathBuf::as_path));
            let mut at = (!selection.is_everything()).then(|| Arc::new(selection));
            let mut is_reached = true;
            for name in &asked {
                let Some(partial) = &at else { break };
                is_reached = partial.names().any(|other| other == name.as_bytes());
                if !is_reached {
                    break;
                }
                at = partial.below(name.as_bytes());
            }
            let asked = path(&asked);
            let below = paths.iter().any(|path| asked.starts_with(path));
            let above = paths.iter().any(|path| path.starts_with(&asked));
            prop_assert_eq!(is_reached, below || above);
            prop_assert_eq!(is_reached && at.is_none(), below);
        }
    }
}
