//! The files of a database, looked at before RocksDB may touch them.
//!
//! RocksDB takes a directory without the file `CURRENT` for a new one, and a list of files
//! (`MANIFEST`) that ends too early for one that a crash cut off. In both cases it deletes every
//! file that it does not know of. So a database is opened only when these two files are there and
//! are as the last process that closed it left them, and made only where there is no trace of one.

use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;

use crate::crypto::hash::Incremental;
use crate::store::error::Error;

/// Names the list of files.
pub const CURRENT: &str = "CURRENT";
const MANIFEST_PREFIX: &str = "MANIFEST-";
/// Name of the seal in the store's directory.
pub const SEAL_FILE: &str = "seal";
/// Purpose of the hash in a seal.
const SEAL_CONTEXT: &str = "libernet 2026-11 store: seal of a list of files";
/// Largest `CURRENT` or seal that is read, in bytes.
const MAX_SMALL_FILE_BYTES: u64 = 256;
/// Largest list of files that is sealed: past that, hashing it would make opening slow.
const MAX_SEALED_BYTES: u64 = 64 << 20;

/// Contents of a database's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// No trace of a database.
    Nothing,
    /// A database.
    Database,
}

/// Looks at the directory of a database. Changes nothing.
///
/// # Errors
/// [`Error::Damaged`] with the file that is missing or does not read, [`Error::Directory`].
pub fn look(database: &Path) -> Result<Found, Error> {
    let current = database.join(CURRENT);
    let named = match read_small(&current) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return match traces(database)? {
                false => Ok(Found::Nothing),
                true => Err(Error::damaged(current, "is missing")),
            };
        }
        Err(error) if error.kind() == ErrorKind::InvalidData => {
            return Err(Error::damaged(current, "is not what RocksDB writes"));
        }
        Err(source) => {
            return Err(Error::Directory {
                path: current,
                source,
            });
        }
    };
    let Some(manifest) = manifest_name(&named) else {
        return Err(Error::damaged(current, "is not what RocksDB writes"));
    };
    let manifest = database.join(manifest);
    match manifest.try_exists() {
        Ok(true) => Ok(Found::Database),
        Ok(false) => Err(Error::damaged(manifest, "is missing")),
        Err(source) => Err(Error::Directory {
            path: manifest,
            source,
        }),
    }
}

/// Whether there is a file that only a database leaves.
fn traces(database: &Path) -> Result<bool, Error> {
    let failed = |source| Error::Directory {
        path: database.to_owned(),
        source,
    };
    let entries = match fs::read_dir(database) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let name = entry.map_err(failed)?.file_name();
        if name.to_str().is_some_and(is_databases) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a file of that name belongs to a database and says something about what was in it.
fn is_databases(name: &str) -> bool {
    let numbered = |number: &str| !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
    let by_extension = ["sst", "blob", "log"].into_iter().any(|extension| {
        let stem = name
            .strip_suffix(extension)
            .and_then(|n| n.strip_suffix('.'));
        stem.is_some_and(numbered)
    });
    by_extension
        || name == CURRENT
        || ["MANIFEST-", "OPTIONS-"]
            .into_iter()
            .any(|prefix| name.strip_prefix(prefix).is_some_and(numbered))
}

/// The list of files that the text of `CURRENT` names.
fn manifest_name(text: &str) -> Option<&str> {
    let name = text.strip_suffix('\n')?;
    let number = name.strip_prefix(MANIFEST_PREFIX)?;
    (!number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())).then_some(name)
}

/// Reads a small file of text whole. One that is too large or no text is
/// [`ErrorKind::InvalidData`].
fn read_small(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() || metadata.len() > MAX_SMALL_FILE_BYTES {
        return Err(ErrorKind::InvalidData.into());
    }
    fs::read_to_string(path)
}

/// The list of files of a database that is closed: its name, and the hash of its bytes.
#[derive(Debug, PartialEq, Eq)]
struct Seal {
    manifest: String,
    hash: String,
}

impl Seal {
    /// The seal that fits the database as it is; none when its list of files is too large.
    fn of(database: &Path) -> io::Result<Option<Self>> {
        let text = read_small(&database.join(CURRENT))?;
        let Some(manifest) = manifest_name(&text) else {
            return Err(ErrorKind::InvalidData.into());
        };
        let path = database.join(manifest);
        if fs::metadata(&path)?.len() > MAX_SEALED_BYTES {
            return Ok(None);
        }
        let mut hash = Incremental::new(SEAL_CONTEXT);
        hash.add(&fs::read(&path)?);
        Ok(Some(Self {
            manifest: manifest.to_owned(),
            hash: HEXLOWER.encode(&hash.finish()),
        }))
    }

    fn to_text(&self) -> String {
        format!("{} {}\n", self.manifest, self.hash)
    }

    fn parse(text: &str) -> Option<Self> {
        let (manifest, hash) = text.strip_suffix('\n')?.split_once(' ')?;
        (hash.len() == 64).then(|| Self {
            manifest: manifest.to_owned(),
            hash: hash.to_owned(),
        })
    }
}

/// Checks that the list of files is the one that the last process left that closed the database.
/// When a process was killed since, there is nothing to hold it against: each process that writes
/// starts a list of another name.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Directory`].
pub fn check_seal(store: &Path, database: &Path) -> Result<(), Error> {
    let text = read_small(&store.join(SEAL_FILE)).ok();
    let Some(sealed) = text.as_deref().and_then(Seal::parse) else {
        return Ok(());
    };
    let found = Seal::of(database).map_err(|source| Error::Directory {
        path: database.to_owned(),
        source,
    })?;
    match found {
        Some(found) if found.manifest == sealed.manifest && found.hash != sealed.hash => {
            let path = database.join(found.manifest);
            Err(Error::damaged(path, "is not as it was written"))
        }
        _ => Ok(()),
    }
}

/// Seals a database that was closed. A seal that can't be written costs no more than the check at
/// the next start.
pub fn seal(store: &Path, database: &Path) {
    let write = || -> io::Result<()> {
        let Some(seal) = Seal::of(database)? else {
            return Ok(());
        };
        let mut file = tempfile::Builder::new()
            .prefix(".seal-")
            .tempfile_in(store)?;
        file.write_all(seal.to_text().as_bytes())?;
        file.persist(store.join(SEAL_FILE))?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::debug!(%error, "the store's list of files was not sealed");
    }
}

/// Removes a directory with all that is in it, if it is there.
///
/// # Errors
/// [`Error::Directory`].
pub fn remove_dir(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != ErrorKind::NotFound => Err(Error::Directory {
            path: path.to_owned(),
            source,
        }),
        _ => Ok(()),
    }
}

/// Gives a directory another name beside the old one, durably.
///
/// # Errors
/// [`Error::Directory`].
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    let sync = || match to.parent() {
        Some(parent) => fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    };
    fs::rename(from, to)
        .and_then(|()| sync())
        .map_err(|source| Error::Directory {
            path: from.to_owned(),
            source,
        })
}

/// The file that a message of RocksDB's names; in the directory of the database when the message
/// gives none.
pub fn named_file(database: &Path, message: &str) -> Option<PathBuf> {
    let is_edge = |c: char| c.is_whitespace() || "\"'`,;()[]".contains(c);
    let words = message.split(is_edge);
    words
        .map(|word| Path::new(word.trim_end_matches([':', '.'])))
        .find_map(|path| {
            let name = path
                .file_name()?
                .to_str()
                .filter(|name| is_databases(name))?;
            let has_directory = path.parent()?.file_name().is_some();
            Some(match has_directory {
                true => path.to_owned(),
                false => database.join(name),
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(result: Result<Found, Error>) -> String {
        match result {
            Err(error @ Error::Damaged { .. }) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_trace_of_a_database_is_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let database = dir.path().join("blocks");
        assert_eq!(look(&database).expect("reads"), Found::Nothing);
        fs::create_dir(&database).expect("made");
        for name in [
            "LOG",
            "LOCK",
            "IDENTITY",
            "notes.txt",
            "x.sst",
            ".blob",
            "MANIFEST-",
        ] {
            fs::write(database.join(name), b"").expect("written");
        }
        assert_eq!(look(&database).expect("reads"), Found::Nothing);
        for name in [
            "000012.sst",
            "000012.blob",
            "000012.log",
            "MANIFEST-000003",
            "OPTIONS-000005",
        ] {
            fs::write(database.join(name), b"").expect("written");
            let said = problem(look(&database));
            assert!(said.contains("CURRENT is missing"), "{name}: {said}");
            fs::remove_file(database.join(name)).expect("removed");
        }
        for text in [
            "",
            "MANIFEST-000003",
            "MANIFEST-\n",
            "../../x\n",
            "\u{0}\u{0}",
        ] {
            fs::write(database.join(CURRENT), text).expect("written");
            let said = problem(look(&database));
            assert!(said.contains("CURRENT is not what"), "{text:?}: {said}");
        }
        fs::write(database.join(CURRENT), "MANIFEST-000003\n").expect("written");
        let said = problem(look(&database));
        assert!(said.contains("MANIFEST-000003 is missing"), "{said}");
        fs::write(database.join("MANIFEST-000003"), b"").expect("written");
        assert_eq!(look(&database).expect("reads"), Found::Database);
    }

    #[test]
    fn a_seal_tells_a_changed_list_of_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, database) = (dir.path(), dir.path().join("blocks"));
        fs::create_dir(&database).expect("made");
        let manifest = database.join("MANIFEST-000003");
        fs::write(database.join(CURRENT), "MANIFEST-000003\n").expect("written");
        fs::write(&manifest, b"whole").expect("written");
        check_seal(store, &database).expect("without a seal there is nothing to check");
        seal(store, &database);
        check_seal(store, &database).expect("it is as it was");
        for bytes in [&b"who"[..], b"wholf", b""] {
            fs::write(&manifest, bytes).expect("written");
            let error = check_seal(store, &database).expect_err("it changed");
            let said = error.to_string();
            assert!(said.contains("MANIFEST-000003 is not as"), "{said}");
        }
        // A process that was killed began a list of its own.
        fs::write(database.join(CURRENT), "MANIFEST-000009\n").expect("written");
        fs::write(database.join("MANIFEST-000009"), b"other").expect("written");
        check_seal(store, &database).expect("nothing to hold it against");
        fs::write(store.join(SEAL_FILE), b"\xff").expect("written");
        check_seal(store, &database).expect("a damaged seal seals nothing");
    }

    #[test]
    fn the_file_of_a_message_is_found() {
        let dir = Path::new("/s/blocks");
        for (message, name) in [
            (
                "Corruption: checksum mismatch in /s/blocks/MANIFEST-000005",
                "MANIFEST-000005",
            ),
            (
                "Corruption: Can't access /000010.sst: NotFound",
                "000010.sst",
            ),
            (
                "IO error: No such file: While open: /s/blocks/000007.blob: No such",
                "000007.blob",
            ),
        ] {
            assert_eq!(named_file(dir, message), Some(dir.join(name)), "{message}");
        }
        assert_eq!(named_file(dir, "Corruption: bad block"), None);
    }
}
