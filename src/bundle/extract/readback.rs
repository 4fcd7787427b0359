//! Reading back what was written, and what was there before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;

use crate::crypto::hash;

const KEY: &[u8; 32] = b"libernet 2026-11 what is written";
/// Bytes that are read at once where there should be zeros.
const ZEROS_BYTES: u64 = 64 << 10;

/// A piece of a file: where it is, how long, and its hash.
pub(super) struct Check {
    at: u64,
    len: u32,
    hash: [u8; 32],
}

impl Check {
    pub(super) fn new(at: u64, bytes: &[u8]) -> Self {
        Self {
            at,
            // A piece comes from one block.
            len: bytes.len() as u32,
            hash: hash::keyed(KEY, bytes),
        }
    }
}

/// Drops what the system holds of a file in memory, so that reading it asks the disk. What is not
/// on the disk yet is written first.
///
/// # Errors
/// That it could not be written.
pub(super) fn read_from_disk(file: &File) -> io::Result<()> {
    file.sync_data()?;
    #[cfg(not(target_vendor = "apple"))]
    let _ = fs::fadvise(file, 0, None, fs::Advice::DontNeed);
    Ok(())
}

/// Whether a piece is not what it should be.
pub(super) fn differs(file: &File, checks: &[Check]) -> io::Result<bool> {
    let mut buffer = Vec::new();
    for Check { at, len, hash } in checks {
        buffer.resize(*len as usize, 0);
        file.read_exact_at(&mut buffer, *at)?;
        if hash::keyed(KEY, &buffer) != *hash {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether there is nothing but zeros outside of the pieces, up to `size`. Sorts the pieces.
pub(super) fn is_zero_between(file: &File, checks: &mut [Check], size: u64) -> io::Result<bool> {
    checks.sort_unstable_by_key(|check| check.at);
    let mut end = 0;
    for check in checks {
        if !is_zero(file, end, check.at)? {
            return Ok(false);
        }
        end = check.at + u64::from(check.len);
    }
    is_zero(file, end, size)
}

fn is_zero(file: &File, mut at: u64, end: u64) -> io::Result<bool> {
    let mut buffer = Vec::new();
    while at < end {
        at = match fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Only a hole is left.
            Err(Errno::NXIO) => return Ok(true),
            // A file system that does not tell holes from zeros.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(error.into()),
        };
        if at >= end {
            break;
        }
        let len = (end - at).min(ZEROS_BYTES);
        buffer.resize(len as usize, 0);
        file.read_exact_at(&mut buffer, at)?;
        if buffer.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_pieces_must_be_zeros() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("file");
        let mut options = File::options();
        let file = options.create(true).truncate(true).read(true).write(true);
        let file = file.open(path).expect("made");
        file.set_len(1 << 20).expect("grown");
        file.write_all_at(b"late", 700_000).expect("written");
        file.write_all_at(b"early", 10).expect("written");
        let checks = || vec![Check::new(700_000, b"late"), Check::new(10, b"early")];
        assert!(is_zero_between(&file, &mut checks(), 1 << 20).expect("reads"));
        assert!(!differs(&file, &checks()).expect("reads"));
        assert!(!is_zero_between(&file, &mut checks()[..1], 1 << 20).expect("reads"));
        for (at, byte) in [
            (0, b"x"),
            (15, b"x"),
            (699_999, b"x"),
            ((1 << 20) - 1, b"x"),
        ] {
            file.write_all_at(byte, at).expect("written");
            assert!(!is_zero_between(&file, &mut checks(), 1 << 20).expect("reads"));
            file.write_all_at(b"\0", at).expect("written");
        }
        assert!(is_zero_between(&file, &mut checks(), 1 << 20).expect("reads"));
        file.write_all_at(b"x", 11).expect("written");
        assert!(differs(&file, &checks()).expect("reads"));
    }
}
