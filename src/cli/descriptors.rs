//! The limit on open files and sockets.
//!
//! Systems give programs few by default (256 on macOS, 1,024 on Linux) and let each raise its own
//! limit. A node with many peers and a large store needs more. Deliberately absent: a demand. What
//! the system does not give is done without.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for thousands of peers beside the store's files; macOS takes no more.
const ENOUGH: u64 = 10_240;

/// Raises the soft limit as far as the hard one allows.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Some(current) = raised(&limit) {
        let current = Some(current);
        let _ = setrlimit(Resource::Nofile, Rlimit { current, ..limit });
    }
}

/// The soft limit to ask for, unless there is nothing to gain.
fn raised(limit: &Rlimit) -> Option<u64> {
    let most = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    limit
        .current
        .filter(|current| *current < most)
        .map(|_| most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_may_be() {
        let raised = |current, maximum| raised(&Rlimit { current, maximum });
        assert_eq!(raised(Some(256), None), Some(ENOUGH));
        assert_eq!(raised(Some(1024), Some(1 << 20)), Some(ENOUGH));
        assert_eq!(raised(Some(1024), Some(4096)), Some(4096));
        assert_eq!(raised(Some(64), Some(64)), None);
        assert_eq!(raised(Some(1 << 20), Some(1 << 20)), None);
        assert_eq!(raised(None, None), None);
    }
}
