//! The address space that the process may use (`ulimit -v`).
//!
//! RocksDB and the standard library abort a process that gets less than it asks for, in the middle
//! of whatever it does. A limit that is too low for a node is therefore told before one is started.
//! Deliberately absent: a node that runs into a limit later all the same.

use rustix::process::{Resource, getrlimit};

use super::api::{CallError, ErrorKind};
use crate::size::{ByteSize, GIB};

/// Address space that a node takes while it backs up or serves many peers: stacks of its threads
/// and heaps of the allocator, most of which is never touched. A backup on two cores took 351 MiB;
/// each core adds some.
const NEEDED_BYTES: u64 = GIB;

/// Whether a node has the address space that it needs.
///
/// # Errors
/// [`ErrorKind::Failed`], which says how much there is.
pub(super) fn check() -> Result<(), CallError> {
    enough(getrlimit(Resource::As).current)
}

fn enough(limit: Option<u64>) -> Result<(), CallError> {
    match limit {
        Some(limit) if limit < NEEDED_BYTES => {
            let (limit, needed) = (ByteSize(limit), ByteSize(NEEDED_BYTES));
            let message =
                format!("this process may use {limit} of address space, and a node needs {needed}");
            let hint = "raise the limit: `ulimit -v unlimited`. Most of it is never touched: how much memory may be used is said otherwise, as by MemoryMax of systemd";
            Err(CallError::new(ErrorKind::Failed, message).with_hint(hint))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_low_is_told_with_its_size() {
        assert!(enough(None).is_ok() && enough(Some(NEEDED_BYTES)).is_ok());
        let error = enough(Some(NEEDED_BYTES / 2)).expect_err("too low");
        assert_eq!(error.kind, ErrorKind::Failed);
        assert!(error.message.contains("512 MiB"), "{}", error.message);
    }
}
