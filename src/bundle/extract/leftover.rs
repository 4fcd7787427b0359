//! Names of what is not complete yet, and what extractions that were killed left under such names.
//!
//! A temporary file of an earlier extraction is of no use to any later one and goes. A hidden
//! directory holds complete files and can be finished by the same extraction: it is named, and
//! never removed.
//!
//! Extractions that run in this process are known by their tags, and keep what is theirs. Another
//! process that writes to the same place at the same time is not known: what it loses, it reports.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::directory::unlink;
use super::job::{Job, lock};
use crate::bundle::inode;
use crate::crypto::hash;
use crate::monitor::Monitor;

/// Bytes of the target's name that a hidden name repeats; the rest of the 255 that a name may have
/// is for what is added.
const REPEATED_NAME_BYTES: usize = 200;
const MARK: &[u8] = b".libernet-";
const TAG_DIGITS: usize = 8;
const HASH_DIGITS: usize = 16;

/// Tags of the extractions that run in this process, and how many have each.
static RUNNING: Mutex<BTreeMap<String, usize>> = Mutex::new(BTreeMap::new());

/// Says that an extraction runs, for as long as it is held.
pub(super) struct Running(String);

impl Running {
    pub(super) fn begin(tag: &str) -> Self {
        *lock(&RUNNING).entry(tag.to_owned()).or_default() += 1;
        Self(tag.to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = lock(&RUNNING);
        if let Some(count) = running.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                running.remove(&self.0);
            }
        }
    }
}

/// The name beside `name` under which a file is written, which the next run of the same extraction
/// finds again.
pub(super) fn temporary_name(tag: &str, name: &[u8]) -> Bytes {
    const KEY: &[u8; 32] = b"libernet 2026-11 temporary names";
    let hash = hash::keyed(KEY, name);
    let hash = data_encoding::HEXLOWER.encode(&hash[..HASH_DIGITS / 2]);
    Bytes::from(format!(".libernet-{tag}-{hash}"))
}

/// The name beside the target `name` under which it is made.
pub(super) fn hidden_name(name: &[u8], tag: &str) -> Vec<u8> {
    [&hidden_start(name)[..], tag.as_bytes()].concat()
}

/// The path beside `target` under which it is made.
pub(super) fn hidden_beside(target: &Path, tag: &str) -> PathBuf {
    let name = target.file_name().unwrap_or_default().as_bytes();
    target.with_file_name(std::ffi::OsStr::from_bytes(&hidden_name(name, tag)))
}

fn hidden_start(name: &[u8]) -> Vec<u8> {
    let repeated = &name[..name.len().min(REPEATED_NAME_BYTES)];
    [b".", repeated, MARK].concat()
}

/// The tag in the name of a temporary file.
fn temporary_tag(name: &[u8]) -> Option<&str> {
    let (tag, hash) = name.strip_prefix(MARK)?.split_at_checked(TAG_DIGITS)?;
    let hash = hash.strip_prefix(b"-")?;
    (hash.len() == HASH_DIGITS && is_hex(hash) && is_hex(tag)).then_some(())?;
    std::str::from_utf8(tag).ok()
}

/// The tag in the name under which the target `target` would have been made.
fn hidden_tag<'a>(name: &'a [u8], target: &[u8]) -> Option<&'a str> {
    let tag = name.strip_prefix(&hidden_start(target)[..])?;
    (tag.len() == TAG_DIGITS && is_hex(tag)).then_some(())?;
    std::str::from_utf8(tag).ok()
}

fn is_hex(text: &[u8]) -> bool {
    text.iter()
        .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte))
}

/// Removes temporary files of earlier extractions from a directory that was there before this one.
pub(super) fn clear(job: &Job, dir: &OwnedFd) {
    let of = |name: &[u8]| {
        let tag = temporary_tag(name)?;
        let others = lock(&RUNNING).get(tag).copied().unwrap_or_default();
        // This extraction has not begun in this directory.
        let own = usize::from(tag == job.scene.tag);
        (others <= own).then_some(())
    };
    clear_where(job, dir, of);
}

/// Removes what an earlier extraction of one file began to write beside it.
pub(super) fn clear_beside(job: &Job, parent: &OwnedFd, target: &[u8]) {
    let of = |name: &[u8]| {
        let tag = hidden_tag(name, target)?;
        let is_other = tag != job.scene.tag && !lock(&RUNNING).contains_key(tag);
        is_other.then_some(())
    };
    clear_where(job, parent, of);
}

fn clear_where(job: &Job, dir: &OwnedFd, of: impl Fn(&[u8]) -> Option<()>) {
    for name in names(job, dir, of) {
        let Ok(found) = fs::statat(dir, &name[..], AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        let is_mine = found.st_uid == rustix::process::geteuid().as_raw();
        let is_file = inode::kind(&found) == FileType::RegularFile;
        // Where it can't be removed it does no harm.
        if is_mine && is_file && unlink(dir, &name).is_ok() {
            job.cleared.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn names(job: &Job, dir: &OwnedFd, of: impl Fn(&[u8]) -> Option<()>) -> Vec<Bytes> {
    // A directory that may not be listed is filled all the same.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = job.opening(|| fs::openat(dir, ".", flags, Mode::empty()));
    let Ok(listing) = opened.and_then(Dir::new) else {
        return Vec::new();
    };
    listing
        .filter_map(Result::ok)
        .filter(|entry| of(entry.file_name().to_bytes()).is_some())
        .map(|entry| Bytes::copy_from_slice(entry.file_name().to_bytes()))
        .collect()
}

/// Names hidden directories that earlier extractions to the same target left unfinished.
pub(super) fn name_unfinished(job: &Job, parent: &OwnedFd, target: &Path) {
    let Some(name) = target.file_name() else {
        return;
    };
    let of = |found: &[u8]| {
        hidden_tag(found, name.as_bytes())
            .filter(|tag| *tag != job.scene.tag)
            .map(|_| ())
    };
    for found in names(job, parent, of) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(fd) = fs::openat(parent, &found[..], flags, Mode::empty()) else {
            continue;
        };
        let locked = fs::flock(&fd, FlockOperation::NonBlockingLockShared);
        if locked == Err(Errno::WOULDBLOCK) {
            continue;
        }
        let path = target.with_file_name(PathBuf::from(std::ffi::OsStr::from_bytes(&found)));
        job.monitor.warning(&format!(
            "{} is left of another extraction that was interrupted: it can be removed",
            path.display()
        ));
    }
}

/// Says that left-overs were removed.
pub(super) fn tell_cleared(job: &Job) {
    let (cleared, monitor): (u64, &dyn Monitor) =
        (job.cleared.load(Ordering::Relaxed), &*job.monitor);
    match cleared {
        0 => {}
        1 => monitor.warning("a temporary file of an interrupted extraction was removed"),
        more => monitor.warning(&format!(
            "{more} temporary files of interrupted extractions were removed"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_are_told_from_others() {
        let name = temporary_name("0123abcd", b"letter");
        assert_eq!(temporary_tag(&name), Some("0123abcd"));
        let hidden = hidden_name(b"target", "0123abcd");
        assert_eq!(hidden, b".target.libernet-0123abcd");
        assert_eq!(hidden_tag(&hidden, b"target"), Some("0123abcd"));
        assert_eq!(hidden_tag(&hidden, b"other"), None);
        for other in [
            &b".libernet-"[..],
            b".libernet-0123abcd",
            b".libernet-0123abcd-",
            b".libernet-0123abcd-0123456789abcdeF",
            b".libernet-0123abcd-0123456789abcdef0",
            b".libernet-0123abcd_0123456789abcdef",
            b".libernet-012zabcd-0123456789abcdef",
            b"x.libernet-0123abcd-0123456789abcdef",
        ] {
            assert_eq!(temporary_tag(other), None, "{}", other.escape_ascii());
        }
        let long = [b'n'; 255];
        let hidden = hidden_name(&long, "0123abcd");
        assert!(hidden.len() <= 255);
        assert_eq!(hidden_tag(&hidden, &long), Some("0123abcd"));
    }

    #[test]
    fn an_extraction_runs_until_all_of_its_tag_have_ended() {
        let is_running = || lock(&RUNNING).contains_key("tag of this test");
        let one = Running::begin("tag of this test");
        let two = Running::begin("tag of this test");
        drop(one);
        assert!(is_running());
        drop(two);
        assert!(!is_running());
    }
}
