//! The lock of a store's directory.
//!
//! It is taken before anything else in the directory is touched. RocksDB has a lock of its own, but
//! moves its log files before it takes it: two processes that start at the same moment would trip
//! over each other there.
//!
//! The file is never removed: a process that waits for it may have it open already. It names the
//! process that writes the store.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::process::{Pid, test_kill_process};

use crate::store::error::Error;

/// Name of the lock in the store's directory.
pub const LOCK_FILE: &str = "lock";
/// A process id and more.
const MAX_PID_BYTES: u64 = 32;

/// A lock that is held. Dropping it gives it back.
#[derive(Debug)]
pub struct StoreLock {
    /// Nothing when there is no file to lock: then nobody has written the store, or can.
    file: Option<File>,
    is_alone: bool,
}

impl StoreLock {
    /// Takes the lock for a process that writes: nobody else has the store open. Does not wait.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Directory`].
    pub fn alone(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK_FILE);
        let failed = |source| Error::Directory {
            path: path.clone(),
            source,
        };
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.mode(0o600).open(&path).map_err(failed)?;
        obtain(file.try_lock(), dir)?;
        // On a full disk the process stays unnamed.
        let named = file
            .set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = named {
            tracing::debug!(%error, "the store's lock does not name this process");
        }
        Ok(Self {
            file: Some(file),
            is_alone: true,
        })
    }

    /// Takes the lock for a process that only reads, and shares it with others that do. Changes
    /// nothing on disk and does not wait.
    ///
    /// # Errors
    /// [`Error::Locked`], [`Error::Directory`].
    pub fn shared(dir: &Path) -> Result<Self, Error> {
        let path = dir.join(LOCK_FILE);
        let file = match File::open(&path) {
            Ok(file) => {
                obtain(file.try_lock_shared(), dir)?;
                Some(file)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(source) => return Err(Error::Directory { path, source }),
        };
        Ok(Self {
            file,
            is_alone: false,
        })
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        // The name goes first: the next holder may be one that only reads and writes none.
        if let Some(file) = &self.file
            && self.is_alone
            && let Err(error) = file.set_len(0)
        {
            tracing::debug!(%error, "the store's lock still names this process");
        }
    }
}

fn obtain(lock: Result<(), TryLockError>, dir: &Path) -> Result<(), Error> {
    match lock {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Locked {
            dir: dir.to_owned(),
            pid: holder(dir),
        }),
        // A file system without locks: RocksDB's own is what is left.
        Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => Ok(()),
        Err(TryLockError::Error(source)) => Err(Error::Directory {
            path: dir.join(LOCK_FILE),
            source,
        }),
    }
}

/// Error of whoever would open the store in `dir`, when another process has it open.
pub fn held(dir: &Path) -> Option<Error> {
    let refused = StoreLock::shared(dir).err();
    refused.filter(|error| matches!(error, Error::Locked { .. }))
}

/// The living process that the lock names. One that was killed leaves its name behind.
pub fn holder(dir: &Path) -> Option<u32> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        let file = File::open(dir.join(LOCK_FILE))?;
        file.take(MAX_PID_BYTES).read_to_string(&mut text)?;
        Ok(text)
    };
    let pid: i32 = read().ok()?.trim().parse().ok()?;
    let is_alive = match test_kill_process(Pid::from_raw(pid)?) {
        // It may be another user's.
        Ok(()) | Err(rustix::io::Errno::PERM) => true,
        Err(_) => false,
    };
    is_alive.then_some(pid.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_writes_and_several_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let locked = |result: Result<StoreLock, Error>| match result {
            Err(Error::Locked { pid, .. }) => pid,
            other => panic!("{other:?}"),
        };
        // Without a file nobody writes.
        drop(StoreLock::shared(dir.path()).expect("nobody has it"));
        assert!(
            !dir.path().join(LOCK_FILE).exists(),
            "reading makes nothing"
        );
        let writer = StoreLock::alone(dir.path()).expect("nobody has it");
        let own = Some(std::process::id());
        assert_eq!(locked(StoreLock::alone(dir.path())), own);
        assert_eq!(locked(StoreLock::shared(dir.path())), own);
        drop(writer);
        let first = StoreLock::shared(dir.path()).expect("nobody writes");
        let second = StoreLock::shared(dir.path()).expect("readers share it");
        assert_eq!(
            locked(StoreLock::alone(dir.path())),
            None,
            "readers stay unnamed"
        );
        drop((first, second));
        drop(StoreLock::alone(dir.path()).expect("nobody has it"));
    }

    #[test]
    fn a_process_that_is_gone_is_not_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut child = std::process::Command::new("true").spawn().expect("starts");
        child.wait().expect("ends");
        for text in [child.id().to_string(), String::new(), "x".repeat(99)] {
            std::fs::write(dir.path().join(LOCK_FILE), text).expect("written");
            assert_eq!(holder(dir.path()), None);
        }
    }
}
