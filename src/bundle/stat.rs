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

/// Whether files of the file system that `fd` is on may say that they are empty and hold something,
/// because their content is made when it is read: those of the kernel itself, and those of any
/// program (FUSE).
#[cfg(target_os = "linux")]
pub(super) fn has_unsized_files(fd: impl std::os::fd::AsFd) -> bool {
    /// From `linux/magic.h`: proc, sysfs, debugfs, tracefs, securityfs, configfs, cgroup, cgroup2,
    /// pstore, bpf, binfmt_misc, efivarfs, selinuxfs, FUSE.
    const UNSIZED: [i64; 14] = [
        0x9fa0,
        0x6265_6572,
        0x6462_6720,
        0x7472_6163,
        0x7363_6673,
        0x6265_6570,
        0x0027_e0eb,
        0x6367_7270,
        0x6165_676c,
        0xcafe_4a11,
        0x4249_4e4d,
        0xde5e_81e4,
        0xf97c_ff8c,
        0x6573_5546,
    ];
    rustix::fs::fstatfs(fd).is_ok_and(|system| UNSIZED.contains(&(system.f_type as i64)))
}

/// Not known here.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_unsized_files(_fd: impl std::os::fd::AsFd) -> bool {
    false
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
