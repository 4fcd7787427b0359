//! Files of a site, by the paths that references can name.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::{Error, Kind, Syntax};

/// Most symbolic links that one lookup goes through, as in Linux.
const MAX_HOPS: usize = 40;

/// Entry of a site's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    File,
    Directory,
    /// A symbolic link to another path of the site.
    Link(Vec<u8>),
}

/// Answer to the question whether a path is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Lookup {
    /// A file or directory has exactly this path.
    Here,
    /// A path that differs in capital letters only.
    OtherCase(Vec<u8>),
    /// Nothing is there.
    Missing,
}

/// All paths of a site, relative to its directory, with `/` between parts.
#[derive(Debug, Default)]
pub(super) struct Files {
    entries: BTreeMap<Vec<u8>, Entry>,
    /// Paths by their lower-case form.
    folded: HashMap<String, Vec<u8>>,
    /// Symbolic links that lead to nothing or out of the site.
    strays: BTreeMap<Vec<u8>, Kind>,
}

impl Files {
    /// Lists the files below `directory`.
    ///
    /// # Errors
    /// [`Error`], naming what could not be read.
    pub(super) fn read(directory: &Path) -> Result<Self, Error> {
        let failed = |path: &Path, source| Error::Read {
            path: path.to_owned(),
            source,
        };
        let root = directory.canonicalize().map_err(|e| failed(directory, e))?;
        if !root.is_dir() {
            return Err(Error::NotDirectory(directory.to_owned()));
        }
        let mut files = Self::default();
        let mut waiting = vec![PathBuf::new()];
        while let Some(relative) = waiting.pop() {
            let here = root.join(&relative);
            for entry in std::fs::read_dir(&here).map_err(|e| failed(&here, e))? {
                let entry = entry.map_err(|e| failed(&here, e))?;
                let path = relative.join(entry.file_name());
                let kind = entry.file_type().map_err(|e| failed(&entry.path(), e))?;
                if kind.is_symlink() {
                    files.add_link(&root, &path);
                } else if kind.is_dir() {
                    files.add(&path, Entry::Directory);
                    waiting.push(path);
                } else {
                    files.add(&path, Entry::File);
                }
            }
        }
        Ok(files)
    }

    fn add(&mut self, path: &Path, entry: Entry) {
        let path = path.as_os_str().as_bytes().to_vec();
        self.folded.insert(fold(&path), path.clone());
        self.entries.insert(path, entry);
    }

    fn add_link(&mut self, root: &Path, path: &Path) {
        let bytes = path.as_os_str().as_bytes().to_vec();
        let Ok(target) = root.join(path).canonicalize() else {
            self.strays.insert(bytes, Kind::Missing);
            return;
        };
        match target.strip_prefix(root) {
            Ok(inside) => self.add(path, Entry::Link(inside.as_os_str().as_bytes().to_vec())),
            Err(_) => {
                self.strays.insert(bytes, Kind::Outside);
            }
        }
    }

    /// Number of files, links among them.
    pub(super) fn count(&self) -> u64 {
        let files = self.entries.values().filter(|e| **e != Entry::Directory);
        (files.count() + self.strays.len()) as u64
    }

    /// Files that can hold references, in the order of their paths.
    pub(super) fn readable(&self) -> impl Iterator<Item = (&[u8], Syntax)> {
        self.entries
            .iter()
            .filter(|(_, entry)| **entry == Entry::File)
            .filter_map(|(path, _)| Some((path.as_slice(), Syntax::of(path)?)))
    }

    /// Symbolic links that lead to nothing or out of the site.
    pub(super) fn strays(&self) -> impl Iterator<Item = (&[u8], &Kind)> {
        self.strays
            .iter()
            .map(|(path, kind)| (path.as_slice(), kind))
    }

    /// Looks for a path; the empty one is the site's directory itself.
    pub(super) fn find(&self, path: &[u8]) -> Lookup {
        let path = self.through_links(path);
        if path.is_empty() || self.entries.contains_key(&path) {
            return Lookup::Here;
        }
        match self.folded.get(&fold(&path)) {
            Some(other) => Lookup::OtherCase(other.clone()),
            None => Lookup::Missing,
        }
    }

    /// Path with the links on its way replaced by where they lead.
    fn through_links(&self, path: &[u8]) -> Vec<u8> {
        let mut path = path.to_vec();
        for _ in 0..MAX_HOPS {
            let ends = (0..=path.len())
                .filter(|at| *at == path.len() || path.get(*at) == Some(&b'/'))
                .collect::<Vec<_>>();
            let link = ends
                .iter()
                .find_map(|end| match self.entries.get(path.get(..*end)?)? {
                    Entry::Link(target) => Some((*end, target)),
                    _ => None,
                });
            let Some((end, target)) = link else { break };
            let rest = path.get(end..).unwrap_or_default();
            let joined = [target.as_slice(), rest].concat();
            path = match target.is_empty() {
                true => rest.strip_prefix(b"/").unwrap_or_default().to_vec(),
                false => joined,
            };
        }
        path
    }
}

/// Lower-case form of a path, for names that differ in capital letters only.
fn fold(path: &[u8]) -> String {
    String::from_utf8_lossy(path).to_lowercase()
}

/// Path of a site in the form of the system.
pub(super) fn to_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

/// Path of a site as a person reads it.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
