//! Opening where descriptors are few: a limit that is reached is no property of what is opened.
//!
//! Other threads of this process hold descriptors and let go of them as their work goes on, so an
//! opening that finds none free waits. The wait is bounded: whatever holds them all may never let
//! go.

use std::thread;
use std::time::Duration;

use rustix::io::Errno;

/// Times that an opening is tried again...
const ATTEMPTS: u32 = 500;
/// ...and the pause before each, where nothing could be closed instead.
const PAUSE: Duration = Duration::from_millis(20);

/// Opens something. While no descriptor is free, `release` closes what can be opened again later
/// and says whether there was any; where there was none, others in the process are waited for.
///
/// # Errors
/// Error of `open`; [`Errno::MFILE`] or [`Errno::NFILE`] when no descriptor became free in time.
pub(super) fn patiently<T>(
    mut open: impl FnMut() -> Result<T, Errno>,
    mut release: impl FnMut() -> bool,
) -> Result<T, Errno> {
    let mut attempts = 0;
    loop {
        match open() {
            Err(Errno::MFILE | Errno::NFILE) if attempts < ATTEMPTS => attempts += 1,
            result => return result,
        }
        if !release() {
            thread::sleep(PAUSE);
        }
    }
}

/// As [`patiently`], for a caller that holds nothing it could close.
pub(super) fn when_free<T>(open: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    patiently(open, || false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_waits_for_descriptors_and_for_nothing_else() {
        let mut results = vec![Ok(7), Err(Errno::NFILE), Err(Errno::MFILE)];
        let mut released = 0;
        let opened = patiently(
            || results.pop().expect("asked no more often than needed"),
            || {
                released += 1;
                true
            },
        );
        assert_eq!((opened, released), (Ok(7), 2));
        let refused: Result<(), Errno> = patiently(
            || Err(Errno::ACCESS),
            || panic!("nothing is closed for a refusal"),
        );
        assert_eq!(refused, Err(Errno::ACCESS));
    }

    #[test]
    fn the_wait_for_descriptors_ends() {
        let mut attempts = 0;
        let never: Result<(), Errno> = patiently(
            || {
                attempts += 1;
                Err(Errno::MFILE)
            },
            || true,
        );
        assert_eq!((never, attempts), (Err(Errno::MFILE), ATTEMPTS + 1));
    }
}
