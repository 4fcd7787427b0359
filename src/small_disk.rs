//! A small file system of a test's own, to fill up. Only tests have it.
//!
//! Mounting takes a mount namespace, so the test runs again in a child process that has one. Some systems allow that to nobody but
//! root, and some to nobody: then the test says that it was skipped, and why.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the file system's directory to the test that runs in a child.
const DISK: &str = "LIBERNET_TEST_SMALL_DISK";
/// Written beside the directory when the body has run: a test of another name would do nothing and seem to pass.
const DONE: &str = "done";
/// What the shell ends with when it can't mount.
const CANNOT_MOUNT: i32 = 77;

/// Runs `body` where a tmpfs with these mount options (`size=8m`) is mounted, at the directory that it is given. What is beside that
/// directory is on an ordinary disk, and gone afterwards. `test` is the caller's name, with all modules.
pub(crate) fn on_a_small_disk(test: &str, options: &str, body: impl FnOnce(&Path)) {
    if let Some(disk) = std::env::var_os(DISK) {
        let disk = Path::new(&disk);
        body(disk);
        std::fs::write(disk.with_file_name(DONE), b"").expect("written");
        return;
    }
    let room = tempfile::tempdir().expect("a directory");
    let disk = room.path().join("disk");
    std::fs::create_dir(&disk).expect("made");
    let mount =
        format!("mount -t tmpfs -o {options} tmpfs \"$0\" || exit {CANNOT_MOUNT}; exec \"$@\"");
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", &mount])
        .arg(&disk)
        .arg(std::env::current_exe().expect("this test has a file"))
        .args(["--exact", test, "--nocapture"])
        .env(DISK, &disk)
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            return println!("skipped: no small file system can be mounted here ({error})");
        }
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    match output.status.code() {
        Some(0) => assert!(
            room.path().join(DONE).exists(),
            "{test} is not the name of a test"
        ),
        // What `unshare` ends with when it may not.
        Some(1 | CANNOT_MOUNT) => {
            println!("skipped: no small file system can be mounted here ({said})")
        }
        _ => panic!(
            "the test failed on the small disk ({}):\n{said}",
            output.status
        ),
    }
}

/// A file that takes up the room on a disk until it is dropped.
pub(crate) struct Filler(PathBuf);

impl Filler {
    /// Fills the file system of `dir` but for `spare` bytes.
    pub(crate) fn new(dir: &Path, spare: u64) -> Self {
        let path = dir.join("filler");
        let mut file = File::create(&path).expect("creates");
        while file.write_all(&[0; 4096]).is_ok() {}
        let len = file.metadata().expect("it is there").len();
        file.set_len(len.saturating_sub(spare))
            .expect("becomes shorter");
        Self(path)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
