//! Files that change under a put, at known moments: between the walk's look at them and their being opened, and in the middle of
//! being read.

use std::fs::{self, OpenOptions};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, Mode, mkfifoat};
use tokio_util::sync::CancellationToken;

use super::super::{ExtractOptions, Filter, PutOptions, PutReport};
use super::{Memory, extract, noise, put_with, runtime};
use crate::monitor::{Monitor, Progress};

const SMALL: usize = 1000;
/// Far more than the readers have in hand.
const LARGE: usize = 16 << 20;
/// How far the put is when a file changes in the middle.
const MIDDLE: u64 = 2 << 20;

/// What happens to a file.
type Deed = fn(&Path);

/// Does something to a file once.
#[derive(Debug)]
struct Change {
    victim: PathBuf,
    what: Deed,
    done: AtomicBool,
}

impl Change {
    fn new(victim: PathBuf, what: Deed) -> Arc<Self> {
        Arc::new(Self {
            victim,
            what,
            done: AtomicBool::new(false),
        })
    }

    fn happen(&self) {
        if !self.done.swap(true, Ordering::Relaxed) {
            (self.what)(&self.victim);
        }
    }
}

/// The walk asks for a name when it has looked at the file and nobody has opened it.
impl Filter for Change {
    fn keeps(&self, path: &Path, _: bool, _: u64) -> bool {
        if path == self.victim {
            self.happen();
        }
        true
    }
}

/// The assembler tells how far it is when a part of a large file has come.
impl Monitor for Change {
    fn progress(&self, progress: Progress) {
        if progress.bytes >= MIDDLE {
            self.happen();
        }
    }

    fn warning(&self, _: &str) {}
}

fn vanish(path: &Path) {
    fs::remove_file(path).expect("removed");
}

fn become_directory(path: &Path) {
    vanish(path);
    fs::create_dir(path).expect("made");
}

fn become_symlink(path: &Path) {
    vanish(path);
    std::os::unix::fs::symlink("after", path).expect("made");
}

fn become_fifo(path: &Path) {
    vanish(path);
    mkfifoat(CWD, path, Mode::RUSR | Mode::WUSR).expect("made");
}

fn become_socket(path: &Path) {
    vanish(path);
    drop(UnixListener::bind(path).expect("bound"));
}

fn grow(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    let len = file.metadata().expect("there").len();
    file.set_len(len + (3 << 20)).expect("grows");
}

fn shrink(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.set_len(1 << 20).expect("shrinks");
}

fn overwrite(path: &Path) {
    fs::write(path.with_extension("new"), b"new").expect("written");
    fs::rename(path.with_extension("new"), path).expect("replaced");
}

/// A directory with a file of `len` bytes that will change, and one on each side of it that will not.
fn make(room: &Path, len: usize) -> (PathBuf, PathBuf) {
    let from = room.join("from");
    fs::create_dir(&from).expect("made");
    for name in ["after", "before"] {
        fs::write(from.join(name), name).expect("written");
    }
    let victim = from.join("at");
    fs::write(&victim, noise(len, 1)).expect("written");
    (from, victim)
}

/// Extracts what was put; gives what the victim is there. The others must be as they are.
async fn out(room: &Path, memory: &Arc<Memory>, report: &PutReport) -> Option<Vec<u8>> {
    let to = room.join("to");
    let done = extract(memory, &report.link, &to, ExtractOptions::default()).await;
    assert!(done.expect("extracted").is_complete());
    for name in ["after", "before"] {
        assert_eq!(fs::read(to.join(name)).expect("there"), name.as_bytes());
    }
    fs::read(to.join("at")).ok()
}

#[test]
fn what_takes_a_files_place_before_it_is_read_is_told() {
    let cases: [(&str, Deed, &str); 5] = [
        ("vanished", vanish, "it vanished before it was read"),
        ("a directory", become_directory, "no longer a regular file"),
        ("a symlink", become_symlink, "it became a symlink"),
        ("a FIFO", become_fifo, "no longer a regular file"),
        ("a socket", become_socket, "no longer a regular file"),
    ];
    for len in [SMALL, 2 << 20] {
        for (name, what, reason) in cases {
            let room = tempfile::tempdir().expect("a directory");
            let (from, victim) = make(room.path(), len);
            let change = Change::new(victim.clone(), what);
            let options = PutOptions {
                filter: Some(change.clone()),
                ..PutOptions::default()
            };
            runtime().block_on(async {
                let memory = Arc::new(Memory::default());
                let report = put_with(&from, &memory, options).await.expect("put");
                assert!(change.done.load(Ordering::Relaxed));
                assert_eq!((report.files, report.unreadable_total), (2, 1), "{name}");
                assert_eq!(report.unreadable[0].path, victim);
                let told = &report.unreadable[0].reason;
                assert!(told.contains(reason), "{name}: {told}");
                assert_eq!(out(room.path(), &memory, &report).await, None, "{name}");
            });
        }
    }
}

#[test]
fn what_takes_a_directorys_place_is_told() {
    let cases: [Deed; 3] = [
        |path| fs::remove_dir(path).expect("removed"),
        |path| {
            fs::remove_dir(path).expect("removed");
            fs::write(path, b"file").expect("written");
        },
        |path| {
            fs::remove_dir(path).expect("removed");
            std::os::unix::fs::symlink("/etc", path).expect("made");
        },
    ];
    for what in cases {
        let room = tempfile::tempdir().expect("a directory");
        let (from, _) = make(room.path(), SMALL);
        let victim = from.join("directory");
        fs::create_dir(&victim).expect("made");
        let options = PutOptions {
            filter: Some(Change::new(victim.clone(), what)),
            ..PutOptions::default()
        };
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let report = put_with(&from, &memory, options).await.expect("put");
            assert_eq!((report.files, report.unreadable_total), (3, 1));
            assert_eq!(report.unreadable[0].path, victim);
            out(room.path(), &memory, &report).await.expect("there");
            let inside = fs::read_dir(room.path().join("to/directory")).expect("kept, empty");
            assert_eq!(inside.count(), 0);
        });
    }
}

/// A file that was small when it was seen is held in memory: it may not grow there.
#[test]
fn a_small_file_that_becomes_large_is_kept_up_to_a_bound_and_told() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, victim) = make(room.path(), SMALL);
    let options = PutOptions {
        filter: Some(Change::new(victim.clone(), grow)),
        ..PutOptions::default()
    };
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put_with(&from, &memory, options).await.expect("put");
        assert_eq!((report.files, report.unreadable_total), (3, 1));
        assert_eq!(report.unreadable[0].path, victim);
        assert!(report.unreadable[0].reason.contains("changed"));
        let kept = out(room.path(), &memory, &report).await.expect("there");
        let now = fs::read(&victim).expect("there");
        assert!(kept.len() < now.len() && now.starts_with(&kept));
        assert!(kept.len() >= SMALL);
    });
}

#[test]
fn a_file_that_changes_in_the_middle_of_being_read_is_told() {
    let cases: [(&str, Deed); 4] = [
        ("shrank", shrink),
        ("grew", grow),
        ("vanished", vanish),
        ("was replaced", overwrite),
    ];
    for (name, what) in cases {
        let room = tempfile::tempdir().expect("a directory");
        let (from, victim) = make(room.path(), LARGE);
        let change = Change::new(victim.clone(), what);
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let put = super::super::put(
                &from,
                PutOptions::default(),
                memory.clone(),
                memory.clone(),
                change.clone(),
                CancellationToken::new(),
            );
            let report = put.await.expect("put");
            assert!(change.done.load(Ordering::Relaxed));
            assert_eq!((report.files, report.unreadable_total), (3, 1), "{name}");
            assert_eq!(report.unreadable[0].path, victim);
            let told = &report.unreadable[0].reason;
            assert!(told.contains("changed while it was read"), "{name}: {told}");
            let kept = out(room.path(), &memory, &report).await.expect("there");
            let was = noise(LARGE, 1);
            assert!(was.starts_with(&kept), "{name}");
            let others = "after".len() as u64;
            assert!(kept.len() as u64 + others >= MIDDLE, "{name}");
            assert_eq!(kept.len() < LARGE, name == "shrank", "{name}");
        });
    }
}
