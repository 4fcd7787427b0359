//! Settings of the C library's allocator, which this program shares with RocksDB.
//!
//! A node moves blocks of 1 MiB through a few dozen threads. glibc gives each thread a heap of its own and gives the memory of large
//! buffers back to the system whenever one is freed, so that the next one is paid for with hundreds of page faults: a fifth of the processor
//! time of a fetch, and memory that many heaps hold on to. With two heaps, and the tops of them kept, both are gone. Other C
//! libraries have nothing to set, and are left alone. The settings are those of mallopt(3).

/// Heaps. Threads wait for one another rarely: small objects come from caches of each thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAPS: i32 = 2;
/// Bytes from which on a buffer is mapped by itself: more than a block and its frame.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const MAPPED_BYTES: i32 = 32 << 20;
/// Bytes that a heap keeps at its top for buffers to come.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: i32 = 64 << 20;

/// Sets the allocator up. For the start of the program, before there are other threads.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(
    unsafe_code,
    reason = "there is no safe way to set glibc's allocator from within"
)]
pub(super) fn set_up() {
    for (setting, value) in [
        (libc::M_ARENA_MAX, HEAPS),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
    ] {
        // SAFETY: mallopt takes two integers, locks what it changes, and touches no memory of ours. What it can't do it ignores.
        unsafe { libc::mallopt(setting, value) };
    }
}

/// Nothing to set.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn set_up() {}
