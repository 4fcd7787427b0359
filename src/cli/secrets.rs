//! Keeps the secrets in this process's memory out of files and of other processes.
//!
//! A core dump would hold keys, words and passphrases, and stay on the disk or go to a crash
//! reporter; another process of the same user could read them from memory. The system is asked for
//! neither. Deliberately absent: locked memory. Memory that is swapped out is as safe as the swap
//! space.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Allows no core dumps, and where the system can, no look into this process's memory by others
/// than root. Protection that the system refuses is done without.
pub(super) fn keep_in_memory() {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, none);
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use rustix::process::{DumpableBehavior, dumpable_behavior, getrlimit};

    #[test]
    fn there_are_no_core_dumps() {
        keep_in_memory();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        let dumpable = dumpable_behavior().expect("known");
        assert_eq!(dumpable, DumpableBehavior::NotDumpable);
    }
}
