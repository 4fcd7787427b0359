//! Something to share that is on most machines: a folder of many files.

use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure};
use crate::size::{ByteSize, GIB};

/// Largest default sample in bytes.
const MAX_BYTES: u64 = GIB;
/// Fewest files of a default sample.
const MIN_FILES: u64 = 1000;
/// A folder with this many files is preferred.
const MANY_FILES: u64 = 20_000;
/// Most entries looked at in one candidate.
const MAX_ENTRIES: u64 = 500_000;

/// A folder or file and how much it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) path: PathBuf,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// Measures what the user chose.
pub(super) fn measure(path: &Path) -> Result<Sample, Failure> {
    std::fs::symlink_metadata(path)
        .map_err(|error| Failure::io(format!("{} can't be read", path.display()), &error))?;
    let (files, bytes) = count(path, u64::MAX, u64::MAX).unwrap_or((0, 0));
    Ok(Sample {
        path: path.to_owned(),
        files,
        bytes,
    })
}

/// The first usable folder of this machine, one with very many files if there is any.
pub(super) fn find() -> Result<Sample, Failure> {
    choose(&candidates(), MIN_FILES, MANY_FILES, MAX_BYTES).ok_or_else(|| {
        Failure::new(Exit::Failed, "no folder of this machine fits as a sample").with_hint(format!(
            "name one: `libernet demo PATH`, best with more than {MIN_FILES} files and less than {}",
            ByteSize(MAX_BYTES)
        ))
    })
}

fn choose(
    candidates: &[PathBuf],
    min_files: u64,
    many_files: u64,
    max_bytes: u64,
) -> Option<Sample> {
    let mut fitting = None;
    for path in candidates {
        let Some((files, bytes)) = count(path, MAX_ENTRIES, max_bytes) else {
            continue;
        };
        if files < min_files {
            continue;
        }
        let sample = Sample {
            path: path.clone(),
            files,
            bytes,
        };
        if files >= many_files {
            return Some(sample);
        }
        fitting.get_or_insert(sample);
    }
    fitting
}

fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(home) = directories::BaseDirs::new().map(|dirs| dirs.home_dir().to_owned()) {
        found.push(home.join(".cargo/registry/src"));
        let toolchains = std::fs::read_dir(home.join(".rustup/toolchains"));
        let mut toolchains: Vec<PathBuf> = toolchains
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect();
        toolchains.sort();
        for toolchain in toolchains {
            found.push(toolchain.join("lib/rustlib/src/rust/library"));
            found.push(toolchain.join("share/doc"));
        }
    }
    let system = [
        "/usr/share/doc",
        "/usr/include",
        "/usr/share/man",
        "/usr/lib/python3",
        "/usr/share",
        "/opt/homebrew/include",
        "/usr/local/share",
        "/Library/Developer/CommandLineTools/SDKs",
    ];
    found.extend(system.map(PathBuf::from));
    found
}

/// Regular files and their bytes below `path`; `None` when there is more than allowed, or a directory can't be read.
fn count(path: &Path, max_entries: u64, max_bytes: u64) -> Option<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path).ok()?;
    if !meta.is_dir() {
        return Some((u64::from(meta.is_file()), meta.len()));
    }
    let (mut entries, mut files, mut bytes) = (0, 0, 0u64);
    let mut open = vec![path.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(&dir).ok()? {
            let entry = entry.ok()?;
            let meta = entry.metadata().ok()?;
            entries += 1;
            if meta.is_dir() {
                open.push(entry.path());
            } else if meta.is_file() {
                files += 1;
                bytes = bytes.saturating_add(meta.len());
            }
            if entries > max_entries || bytes > max_bytes {
                return None;
            }
        }
    }
    Some((files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(root: &Path, name: &str, files: u64) -> PathBuf {
        let path = root.join(name);
        std::fs::create_dir_all(path.join("sub")).expect("made");
        for number in 0..files {
            std::fs::write(path.join("sub").join(number.to_string()), b"12345").expect("written");
        }
        path
    }

    #[test]
    fn the_first_that_fits_is_taken_and_one_with_many_files_preferred() {
        let dir = tempfile::tempdir().expect("a directory");
        let small = folder(dir.path(), "small", 2);
        let fits = folder(dir.path(), "fits", 3);
        let many = folder(dir.path(), "many", 9);
        let nowhere = dir.path().join("nowhere");
        let choose = |list: &[&PathBuf], max: u64| {
            let list: Vec<PathBuf> = list.iter().map(|path| (*path).clone()).collect();
            choose(&list, 3, 9, max).map(|sample| (sample.path, sample.files, sample.bytes))
        };
        assert_eq!(choose(&[&nowhere, &small], 100), None);
        assert_eq!(
            choose(&[&nowhere, &small, &fits], 100),
            Some((fits.clone(), 3, 15))
        );
        assert_eq!(choose(&[&fits, &many], 100), Some((many.clone(), 9, 45)));
        assert_eq!(choose(&[&fits, &many], 45), Some((many.clone(), 9, 45)));
        assert_eq!(choose(&[&fits, &many], 44), Some((fits, 3, 15)));
        let file = many.join("sub/0");
        assert_eq!(measure(&file).map(|s| (s.files, s.bytes)), Ok((1, 5)));
        assert!(measure(&nowhere).is_err());
    }
}
