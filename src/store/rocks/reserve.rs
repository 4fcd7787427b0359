//! Room that is set aside on the disk: removing takes room first.
//!
//! On a disk that is full to the last byte, RocksDB can neither be opened nor write down that
//! something is to go. So a file of some MiB lies in the store's directory. It goes before
//! something is removed from a full disk, and is made again when there is room.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::RocksStore;
use crate::size::MIB;
use crate::store::error::Error;
use crate::store::types::Access;

/// Name of the file in the store's directory.
pub const RESERVE_FILE: &str = "reserve";
/// The reserve is this part of the quota, and no more than the limit below.
const QUOTA_SHARE: u64 = 128;
const MAX_RESERVE_BYTES: u64 = 4 * MIB;
/// Room for opening the databases and closing them again, and for a little that is written in
/// between.
const OPENING_BYTES: u64 = 2 * MIB;
/// Room is set aside when this many times as much is free.
const PLENTY: u64 = 4;

/// Free bytes of the disk that a directory is on, when its file system tells.
pub fn free_bytes(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

fn is_scarce(dir: &Path) -> bool {
    free_bytes(dir).is_some_and(|free| free < OPENING_BYTES)
}

/// Sees to it that there is room for opening the databases, before RocksDB finds that there is none
/// half way. With [`Access::MakeRoom`] the reserve is given up for it.
///
/// # Errors
/// [`Error::DiskFull`].
pub fn make_way(dir: &Path, access: Access) -> Result<(), Error> {
    if !is_scarce(dir) {
        return Ok(());
    }
    // With a small quota the reserve is small too: what it gives is tried.
    match access == Access::MakeRoom && give_up(dir) {
        true => Ok(()),
        false => Err(Error::DiskFull),
    }
}

/// Gives the reserve up. Returns whether there was one.
fn give_up(dir: &Path) -> bool {
    match fs::remove_file(dir.join(RESERVE_FILE)) {
        Ok(()) => {
            tracing::info!("the disk is full: using the room that is set aside for removing");
            true
        }
        Err(error) => {
            tracing::debug!(%error, "no room is set aside");
            false
        }
    }
}

impl RocksStore {
    /// To be called before something is removed: on a full disk, the reserve makes room for writing
    /// that down, and what is in memory before it.
    pub(super) fn make_way_for_removing(&self) {
        if self.db.unwritable().is_some() {
            return;
        }
        let needed = OPENING_BYTES + self.db.memtable_bytes();
        if free_bytes(self.db.dir()).is_some_and(|free| free < needed) {
            give_up(self.db.dir());
        }
    }

    /// Sets room aside if none is and there is plenty.
    pub(super) fn set_room_aside(&self) {
        let bytes = (self.options.quota.0 / QUOTA_SHARE).min(MAX_RESERVE_BYTES);
        let path = self.db.dir().join(RESERVE_FILE);
        let is_plenty = || {
            free_bytes(self.db.dir()).is_some_and(|free| free / PLENTY >= bytes.max(OPENING_BYTES))
        };
        if path.exists() || !is_plenty() {
            return;
        }
        if let Err(error) = fill(&path, bytes) {
            tracing::debug!(%error, "no room could be set aside for removing");
            // Half a reserve would pass for one.
            let _ = fs::remove_file(&path);
        }
    }
}

/// Makes a file that really takes so many bytes on disk.
fn fill(path: &Path, bytes: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let file = options.open(path)?;
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => Ok(()),
        Err(error) if io::Error::from(error).kind() == ErrorKind::Unsupported => {
            write_noise(file, bytes)
        }
        Err(error) => Err(error.into()),
    }
}

/// Writes bytes that no file system can leave out or compress.
fn write_noise(mut file: File, bytes: u64) -> io::Result<()> {
    let mut left = bytes;
    while left > 0 {
        let noise: [u8; 4096] = rand::random();
        let len = left.min(noise.len() as u64);
        file.write_all(noise.get(..len as usize).unwrap_or(&noise))?;
        left -= len;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_takes_its_bytes() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(RESERVE_FILE);
        fill(&path, 100_000).expect("made");
        let metadata = fs::metadata(&path).expect("it is there");
        assert_eq!(metadata.len(), 100_000);
        assert!(metadata.blocks() * 512 >= 100_000, "it is no hole");
        let noise = dir.path().join("noise");
        write_noise(File::create(&noise).expect("made"), 10_000).expect("written");
        assert_eq!(fs::metadata(&noise).expect("it is there").len(), 10_000);
        assert!(give_up(dir.path()) && !give_up(dir.path()));
    }
}
