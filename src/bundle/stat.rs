//! The numbers of `stat`, in the same types on every system.
#![allow(
    clippy::unnecessary_cast,
    reason = "the fields' types differ between systems"
)]

use rustix::fs::Stat;

use super::tree::{Identity, ModTime};

/// When the content was last changed.
pub(super) fn modified(stat: &Stat) -> ModTime {
    ModTime {
        seconds: stat.st_mtime as i64,
        nanos: stat.st_mtime_nsec as u32,
    }
}

/// What changes with every write and every change of attributes.
pub(super) fn identity(stat: &Stat) -> Identity {
    Identity {
        changed: ModTime {
            seconds: stat.st_ctime as i64,
            nanos: stat.st_ctime_nsec as u32,
        },
        inode: stat.st_ino as u64,
    }
}

/// Permission bits, setuid, setgid and sticky bit.
pub(super) fn mode(stat: &Stat) -> u32 {
    stat.st_mode as u32 & 0o7777
}

/// The file system.
pub(super) fn device(stat: &Stat) -> u64 {
    stat.st_dev as u64
}

/// What tells an inode from all others.
pub(super) fn inode(stat: &Stat) -> (u64, u64) {
    (device(stat), stat.st_ino as u64)
}

/// Length in bytes.
pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Whether the file may have holes: it takes less space than it is long. Compression by the file system looks alike.
pub(super) fn maybe_sparse(stat: &Stat) -> bool {
    // st_blocks counts units of 512 bytes on every system.
    (stat.st_blocks as u64).saturating_mul(512) < size(stat)
}

/// Whether two looks at a file show the same content.
pub(super) fn is_unchanged(before: &Stat, after: &Stat) -> bool {
    before.st_size == after.st_size
        && modified(before) == modified(after)
        && before.st_ctime == after.st_ctime
        && before.st_ctime_nsec == after.st_ctime_nsec
}

/// The number of the device that this is.
pub(super) fn device_number(stat: &Stat) -> u64 {
    stat.st_rdev as u64
}
