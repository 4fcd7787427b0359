//! Descriptors that the process may have: how many of them one kind of use may take.
//!
//! A limit that is low (64 in some services, 256 on macOS) has to do for files of the store, files
//! that are read, and connections at the same time, so each takes a share.

use rustix::process::{Resource, getrlimit};

/// One part in `of` of the descriptors that this process may have, and no more than `most`.
pub fn share(of: u64, most: usize) -> usize {
    part(getrlimit(Resource::Nofile).current, of, most)
}

fn part(all: Option<u64>, of: u64, most: usize) -> usize {
    let share = all.map_or(u64::MAX, |all| all / of.max(1));
    usize::try_from(share).map_or(most, |share| share.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_are_divided() {
        assert_eq!(part(Some(64), 4, 256), 16);
        assert_eq!(part(Some(10_240), 4, 256), 256);
        assert_eq!(part(Some(u64::MAX), 4, 256), 256);
        assert_eq!(part(None, 4, 256), 256);
    }
}
