//! Small files of a data directory: read within a bound, written as a whole, and durable before
//! success is said.
//!
//! Invariants: a reader sees the old content or the new one, whatever happens in between, and
//! nobody but the file's user may read it. Once a call returns the content *and the name* survive a
//! loss of power: the directory is synced as well. A change that depends on what a file says is
//! made by one process at a time, which holds the directory's [`Turn`].
//!
//! Deliberately absent: what is in the files, and large ones.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Name of the file whose lock is the [`Turn`] of a directory. It is empty.
const TURN_FILE: &str = "edit.lock";
/// Mode of every file that is written: its user's alone.
const MODE: u32 = 0o600;
/// Mark that some editors put at the beginning of a text to say how it is encoded.
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// Replaces the file, or makes it.
///
/// # Errors
/// Error of the system; the old file stays then, or the new one is there and may not survive a
/// loss of power.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = write_beside(path, bytes)?;
    beside.persist(path).map_err(|error| error.error)?;
    sync_directory_of(path)
}

/// Makes the file.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when there is one, which stays as it is; what the system says.
pub fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = write_beside(path, bytes)?;
    beside
        .persist_noclobber(path)
        .map_err(|error| error.error)?;
    sync_directory_of(path)
}

/// The file's bytes; `None` when there is no file.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`] when it has more than `max_bytes`; what the system says.
pub fn read(path: &Path, max_bytes: u64) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let size = file.metadata()?.len().min(max_bytes);
    // Room for all of it from the beginning: a buffer that grows leaves copies of secrets behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(size as usize + 1));
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        let message = format!("it has more than {max_bytes} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(Some(bytes))
}

/// The file's text, without the byte order mark that some editors write; `None` when there is no
/// file.
///
/// # Errors
/// As [`read`]; [`io::ErrorKind::InvalidData`], with the line, when it is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> io::Result<Option<Zeroizing<String>>> {
    let Some(bytes) = read(path, max_bytes)? else {
        return Ok(None);
    };
    match std::str::from_utf8(&bytes) {
        Ok(text) => Ok(Some(Zeroizing::new(without_mark(text).to_owned()))),
        Err(error) => {
            let line = line_at(&bytes, error.valid_up_to());
            let message = format!("line {line} is not UTF-8");
            Err(io::Error::new(io::ErrorKind::InvalidData, message))
        }
    }
}

/// Ending of the name of a file that was damaged and is put aside.
const ASIDE: &str = ".damaged";

/// Name of the file that a damaged one becomes when it is put aside.
pub fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ASIDE);
    name.into()
}

/// Puts a damaged file aside, so that somebody hears of it and another one can take its place. One
/// that was put aside before is replaced.
///
/// # Errors
/// What the system says.
pub fn put_aside(path: &Path) -> io::Result<()> {
    std::fs::rename(path, aside(path))
}

/// Whether [`read`] or [`read_text`] says that the file is not what was written, and not that it
/// can't be read.
pub fn is_damage(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, InvalidData};
    matches!(error.kind(), InvalidData | FileTooLarge)
}

/// A text without the byte order mark that some editors write at its beginning.
pub fn without_mark(text: &str) -> &str {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// The line, counted from 1, that has the byte `at`.
pub fn line_at(text: &[u8], at: usize) -> usize {
    let before = text.iter().take(at);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// Fault of a text, in one line, after the line that it is in if that is known.
pub fn at_line(text: &str, at: Option<usize>, what: &str) -> String {
    let what = what.replace('\n', "; ");
    match at {
        Some(at) => format!("line {}: {what}", line_at(text.as_bytes(), at)),
        None => what,
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Error of the system.
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The right to change the files of one directory, for one process and thread at a time. Given back
/// when it is dropped, or with the process.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "the lock goes with the open file")] Option<File>);

impl Turn {
    /// Waits until nobody else has it. Where the file system knows no locks there is nothing to
    /// wait for.
    ///
    /// # Errors
    /// Error of the system.
    pub fn take(dir: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.create(true).truncate(false).write(true).mode(MODE);
        let file = options.open(dir.join(TURN_FILE))?;
        match file.lock() {
            Ok(()) => Ok(Self(Some(file))),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(Self(None)),
            Err(error) => Err(error),
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    sync_directory(directory_of(path))
}

/// The content, synced, in a file of another name in the same directory. It is removed again unless
/// it gets its name.
fn write_beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut file = tempfile::Builder::new()
        .prefix(&format!(".{name}-"))
        .permissions(Permissions::from_mode(MODE))
        .tempfile_in(directory_of(path))?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn what_is_written_reads_back_and_is_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        assert_eq!(read(&path, 9).expect("looks"), None);
        assert_eq!(read_text(&path, 9).expect("looks"), None);
        create(&path, b"one").expect("made");
        let there = create(&path, b"two").expect_err("it is there");
        assert_eq!(there.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(**read(&path, 3).expect("read").expect("there"), *b"one");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("set");
        replace(&path, b"four").expect("replaced");
        let large = read(&path, 3).expect_err("too large");
        assert_eq!(large.kind(), io::ErrorKind::FileTooLarge);
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        let nowhere = dir.path().join("missing/f");
        assert!(replace(&nowhere, b"x").is_err());
    }

    #[test]
    fn a_text_of_any_editor_is_read_and_a_wrong_one_is_told_by_its_line() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        replace(&path, b"\xef\xbb\xbfa = 1\r\n").expect("written");
        let text = read_text(&path, 99).expect("read").expect("there");
        assert_eq!(text.as_str(), "a = 1\r\n");
        replace(&path, b"a\nb\n\xff\n").expect("written");
        let wrong = read_text(&path, 99).expect_err("no text");
        assert_eq!(wrong.to_string(), "line 3 is not UTF-8");
        let lines = [0, 1, 2, 3, 9].map(|at| line_at(b"a\nb\n", at));
        assert_eq!(lines, [1, 1, 2, 2, 3]);
        assert_eq!(at_line("a\nb", Some(2), "no b\nhere"), "line 2: no b; here");
        assert_eq!(at_line("a", None, "no"), "no");
    }

    #[test]
    fn changes_take_turns() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("count");
        let is_taken = AtomicBool::new(false);
        replace(&path, b"0").expect("written");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10 {
                        let _turn = Turn::take(dir.path()).expect("taken");
                        assert!(!is_taken.swap(true, Ordering::SeqCst));
                        let text = read_text(&path, 9).expect("read").expect("there");
                        let count: u32 = text.parse().expect("a number");
                        replace(&path, (count + 1).to_string().as_bytes()).expect("written");
                        is_taken.store(false, Ordering::SeqCst);
                    }
                });
            }
        });
        let text = read_text(&path, 9).expect("read").expect("there");
        assert_eq!(text.as_str(), "40");
    }
}
