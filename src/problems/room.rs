//! When a disk or a quota counts as nearly full: the same answer for the node and for `doctor`.

/// Free bytes on a disk below which writes are about to fail.
pub const LEAST_FREE_BYTES: u64 = 512 << 20;
/// Share of the quota, in percent, above which what can't be dropped leaves too little.
const FULL_PERCENT: u64 = 95;
/// Part of the disk that is to stay free at most.
const PART_OF_DISK: u64 = 20;
/// Part of what the quota still allows that must at least be there.
const PART_OF_QUOTA: u64 = 10;

/// Free bytes below which a disk is nearly full for a node which may use `allowed_bytes` more of
/// it: a tenth of these, but no more than a twentieth of the disk, and never less than
/// [`LEAST_FREE_BYTES`].
pub fn low_disk_bytes(disk_bytes: u64, allowed_bytes: u64) -> u64 {
    let wanted = (disk_bytes / PART_OF_DISK).min(allowed_bytes / PART_OF_QUOTA);
    wanted.max(LEAST_FREE_BYTES)
}

/// Whether so little of a quota is left that new blocks hardly find room.
pub fn is_nearly_full(used: u64, quota: u64) -> bool {
    u128::from(used) * 100 >= u128::from(quota) * u128::from(FULL_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::GIB;

    #[test]
    fn a_disk_is_low_by_what_the_node_may_still_write() {
        // A large quota on a disk that has hardly any room left.
        assert!(1_395_864_371 < low_disk_bytes(250 * GIB, 48 * GIB));
        assert!(40 * GIB > low_disk_bytes(250 * GIB, 50 * GIB));
        // A quota that is used up needs no more room.
        assert_eq!(low_disk_bytes(250 * GIB, 0), LEAST_FREE_BYTES);
        // A small disk is not low because of a quota that it can't hold.
        assert_eq!(low_disk_bytes(20 * GIB, 500 * GIB), GIB);
        assert_eq!(low_disk_bytes(0, 0), LEAST_FREE_BYTES);
        assert!(low_disk_bytes(u64::MAX, u64::MAX) > GIB);
    }

    #[test]
    fn a_quota_is_nearly_full_at_its_last_twentieth() {
        assert!(!is_nearly_full(94, 100));
        assert!(is_nearly_full(95, 100));
        assert!(!is_nearly_full(u64::MAX / 2, u64::MAX));
    }
}
