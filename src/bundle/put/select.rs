//! Which paths a put of several paths takes: a trie of names.
//!
//! At a directory on the way to a named path only the names that lead on are visited; from a named
//! path on everything is. A named path below another one is kept as well: it is taken also where
//! something on the way to it would be left out. The trie is sorted as the walk is, by the bytes of
//! the names.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

/// Most symlinks that a path may lead through, as in Linux.
const MAX_LINKS: usize = 40;

/// Paths that are named at or below one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selection {
    /// The directory itself is named: everything below is wanted.
    is_named: bool,
    /// Names that are named, or lead on to named paths.
    names: BTreeMap<Bytes, Arc<Selection>>,
}

/// Named paths, and those that could not be had.
pub(super) struct Chosen {
    pub(super) selection: Arc<Selection>,
    pub(super) failed: Vec<(PathBuf, io::Error)>,
    /// The places that the paths name.
    pub(super) real: Vec<PathBuf>,
}

impl Selection {
    /// The directory itself.
    pub(super) fn whole() -> Self {
        Self {
            is_named: true,
            names: BTreeMap::new(),
        }
    }

    /// Everything below `paths`, which are absolute and without `.` and `..`.
    fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Self {
        let mut sorted: Vec<Vec<Bytes>> = paths.map(names_of).collect();
        // A path comes before those below it.
        sorted.sort();
        Self::grow(&sorted, 0)
    }

    fn grow(paths: &[Vec<Bytes>], depth: usize) -> Self {
        let mut names = BTreeMap::new();
        for same in paths.chunk_by(|a, b| a.get(depth) == b.get(depth)) {
            if let Some(name) = same.first().and_then(|path| path.get(depth)) {
                names.insert(name.clone(), Arc::new(Self::grow(same, depth + 1)));
            }
        }
        Self {
            is_named: paths.iter().any(|path| path.len() == depth),
            names,
        }
    }

    /// Whether the directory itself is named.
    pub(super) fn is_named(&self) -> bool {
        self.is_named
    }

    /// The names that are named or lead on, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &Bytes> {
        self.names.keys()
    }

    /// Selection at or below `name`; `None` when nothing is named there.
    pub(super) fn below(&self, name: &[u8]) -> Option<&Arc<Self>> {
        self.names.get(name)
    }
}

impl Chosen {
    /// Looks for the real places of `paths`. Symlinks that a path leads through are taken as well,
    /// so that the path as it was typed leads to the content in the tree, too.
    ///
    /// # Errors
    /// When none can be had: the first and why.
    pub(super) fn find(paths: &[PathBuf]) -> Result<Self, (PathBuf, io::Error)> {
        let (mut real, mut links, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for path in paths {
            match resolve(path) {
                Ok(found) => {
                    real.push(found.real);
                    links.extend(found.links);
                }
                Err(error) => failed.push((path.clone(), error)),
            }
        }
        if real.is_empty() {
            let none = || (PathBuf::new(), io::Error::other("no path was given"));
            return Err(failed.into_iter().next().unwrap_or_else(none));
        }
        let all = real.iter().chain(&links);
        Ok(Self {
            selection: Arc::new(Selection::of(all.map(PathBuf::as_path))),
            failed,
            real,
        })
    }
}

/// Where a path leads.
struct Resolved {
    /// The place, free of symlinks.
    real: PathBuf,
    /// The symlinks on the way: each in a directory that is free of them.
    links: Vec<PathBuf>,
}

/// Follows a path. As [`Path::canonicalize`], and notes the symlinks.
fn resolve(path: &Path) -> io::Result<Resolved> {
    use std::os::unix::fs::FileTypeExt;
    let start = std::path::absolute(path)?;
    let mut rest: VecDeque<OsString> = parts(&start).collect();
    let mut links = Vec::new();
    let mut real = PathBuf::from("/");
    let mut kind = real.symlink_metadata()?.file_type();
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            real.pop();
            kind = real.symlink_metadata()?.file_type();
            continue;
        }
        let next = real.join(&part);
        kind = next.symlink_metadata()?.file_type();
        if !kind.is_symlink() {
            real = next;
            continue;
        }
        if links.len() >= MAX_LINKS {
            return Err(io::Error::other("it leads through too many symlinks"));
        }
        let target = next.read_link()?;
        if target.is_absolute() {
            real = PathBuf::from("/");
        }
        let further: Vec<OsString> = parts(&target).collect();
        for part in further.into_iter().rev() {
            rest.push_front(part);
        }
        links.push(next);
    }
    if kind.is_socket() {
        return Err(io::Error::other("it is a socket and has no content"));
    }
    Ok(Resolved { real, links })
}

/// The names of a path and its `..`.
fn parts(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
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
    fn a_named_path_covers_what_is_below_it_and_stays_named_below_another() {
        assert!(selection(&["/a", "/"]).is_named());
        let both = selection(&["/a/b", "/a", "/a/c/d"]);
        assert!(!both.is_named());
        let a = both.below(b"a").expect("named");
        assert!(a.is_named());
        assert_eq!(a.names().collect::<Vec<_>>(), ["b", "c"]);
        assert!(a.below(b"b").expect("named").is_named());
        let c = a.below(b"c").expect("it leads on");
        assert!(!c.is_named() && c.below(b"d").expect("named").is_named());
        assert!(c.below(b"e").is_none());
        // A longer name is not below a shorter one.
        let both = selection(&["/a/b", "/a/bc", "/a.b"]);
        assert_eq!(both.names().collect::<Vec<_>>(), ["a", "a.b"]);
        let below = both.below(b"a").expect("a part");
        assert_eq!(below.names().collect::<Vec<_>>(), ["b", "bc"]);
    }

    #[test]
    fn symlinks_on_the_way_are_found_and_followed() {
        let room = tempfile::tempdir().expect("a directory");
        let at = room.path().canonicalize().expect("there");
        std::fs::create_dir_all(at.join("d/e")).expect("made");
        std::fs::write(at.join("d/e/f"), b"x").expect("written");
        for (target, link) in [
            ("d", "one"),
            ("../one/e", "d/two"),
            ("round", "round"),
            ("none", "dangling"),
        ] {
            std::os::unix::fs::symlink(target, at.join(link)).expect("made");
        }
        let follow = |path: &str| resolve(&at.join(path));
        let found = follow("one/two/../e/./f").expect("there");
        assert_eq!(found.real, at.join("d/e/f"));
        assert_eq!(
            found.links,
            ["one", "d/two", "one"].map(|name| at.join(name))
        );
        assert_eq!(
            found.real,
            at.join("one/two/../e/f").canonicalize().expect("there")
        );
        let plain = follow("d/e").expect("there");
        assert_eq!((plain.real, plain.links), (at.join("d/e"), Vec::new()));
        for wrong in ["round", "dangling", "d/e/f/g", "gone"] {
            assert!(follow(wrong).is_err(), "{wrong}");
        }
        let _socket = std::os::unix::net::UnixListener::bind(at.join("s")).expect("bound");
        assert!(follow("s").is_err(), "there is nothing to take");
    }

    proptest! {
        #[test]
        fn a_selection_takes_what_is_at_or_below_its_paths(
            paths in proptest::collection::vec(proptest::collection::vec("[ab-]{1,2}", 0..4), 1..6),
            asked in proptest::collection::vec("[ab-]{1,2}", 0..5),
        ) {
            let path = |names: &[String]| PathBuf::from(format!("/{}", names.join("/")));
            let paths: Vec<PathBuf> = paths.iter().map(|names| path(names)).collect();
            let whole = Arc::new(Selection::of(paths.iter().map(PathBuf::as_path)));
            let mut is_wanted = whole.is_named();
            let mut at = Some(&whole);
            for name in &asked {
                at = at.and_then(|at| at.below(name.as_bytes()));
                is_wanted |= at.is_some_and(|at| at.is_named());
            }
            let asked = path(&asked);
            let below = paths.iter().any(|path| asked.starts_with(path));
            let above = paths.iter().any(|path| path.starts_with(&asked));
            prop_assert_eq!(is_wanted, below);
            prop_assert_eq!(at.is_some(), above);
        }
    }
}
