//! A new file that has its name only once it is whole: an archive, a sheet with words.
//!
//! Until then it has a hidden name beside its own: nobody takes one that broke off for a whole one.
//! It is locked while it is written, so that the next command that writes a file of that name can
//! tell what a killed one left, and remove it. Only its user can read it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use tempfile::{Builder, NamedTempFile};

/// Bytes of the file's name that its hidden one repeats; the rest of the 255 is for what is
/// added.
const REPEATED_NAME_BYTES: usize = 200;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct WholeFile(NamedTempFile);

impl WholeFile {
    /// Begins `path`, which is absolute.
    ///
    /// # Errors
    /// Error of the system.
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let prefix = hidden_start(path.file_name().unwrap_or_default());
        remove_killed(dir, &prefix);
        let file = Builder::new().prefix(&prefix).tempfile_in(dir)?;
        // Not every file system can lock; then nothing is ever taken for left.
        let _ = file.as_file().try_lock();
        Ok(Self(file))
    }

    /// Another handle of it, to write to.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub(super) fn writer(&self) -> io::Result<File> {
        self.0.as_file().try_clone()
    }

    /// Gives it its name, if nothing has it.
    ///
    /// # Errors
    /// [`io::ErrorKind::AlreadyExists`], or what else the system says.
    pub(super) fn keep(self, path: &Path) -> io::Result<()> {
        self.0.persist_noclobber(path)?;
        Ok(())
    }
}

fn hidden_start(name: &OsStr) -> OsString {
    let name = name.as_bytes();
    let repeated = &name[..name.len().min(REPEATED_NAME_BYTES)];
    OsString::from_vec([b".", repeated, b".libernet-new-"].concat())
}

/// Removes what killed commands left of files of this name. Where that fails it does no harm.
fn remove_killed(dir: &Path, prefix: &OsStr) {
    let listing = dir.read_dir().into_iter().flatten().flatten();
    let start = prefix.as_encoded_bytes();
    for entry in listing.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(start)) {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && File::open(entry.path()).is_ok_and(|left| left.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_command_left_goes_and_what_is_written_stays() {
        let room = tempfile::tempdir().expect("a directory");
        let path = room.path().join("all.tar");
        let left = room.path().join(".all.tar.libernet-new-AbCdEf");
        let other = room.path().join(".other.tar.libernet-new-AbCdEf");
        std::fs::write(&left, b"half").expect("written");
        std::fs::write(&other, b"half").expect("written");
        let first = WholeFile::create(&path).expect("made");
        assert!(!left.exists() && other.exists());
        let second = WholeFile::create(&path).expect("made");
        let count = || room.path().read_dir().expect("lists").count();
        assert_eq!(count(), 3, "the other's and both of these");
        first.keep(&path).expect("named");
        let taken = second.keep(&path).expect_err("the name is taken");
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(count(), 2, "the archive and the other's");
    }
}
