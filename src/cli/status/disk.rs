//! Facts of a data directory on which no node runs: from its small files alone.
//!
//! Nothing is opened that a node locks, nothing is written, and a directory that is not there is
//! not made. A file that can't be read is one line among others: the rest is told all the same.
//! Deliberately absent: what only the store knows, such as snapshots.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::backup::last_written;
use crate::backup::owner::Vault;
use crate::backup::sets::{Set, Sets};
use crate::cli::show;
use crate::node::identity;
use crate::ring::{Ring, RingsFile};
use crate::size::ByteSize;
use crate::time::Timestamp;

/// Directories that are looked into for the size, at most; a store has few.
const MAX_DIRECTORIES: usize = 100_000;

/// A fact, or why it can't be told.
type Fact<T> = Result<T, String>;

/// Owner of this machine's backups.
#[derive(Debug)]
struct Owner {
    id: String,
    machine: String,
    name: String,
    passphrase: bool,
}

/// Facts that the files of a data directory tell.
#[derive(Debug)]
pub(super) struct Facts {
    dir: PathBuf,
    is_there: bool,
    peer: Fact<Option<String>>,
    owner: Fact<Option<Owner>>,
    sets: Fact<Vec<Set>>,
    rings: Fact<Vec<(String, usize)>>,
    /// When this machine's log was last written.
    written: Fact<Option<Timestamp>>,
    disk_bytes: u64,
}

/// The words of an error and of what caused it.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl Facts {
    /// Reads the files of `dir`.
    pub(super) fn read(dir: &Path) -> Self {
        let owner = Vault::open(dir).map_err(|error| words(&error));
        let machine = match &owner {
            Ok(Some(vault)) => Some((*vault.owner().as_bytes(), *vault.machine().as_bytes())),
            _ => None,
        };
        let written = match machine {
            Some((owner, machine)) => last_written(dir, &owner, &machine),
            None => Ok(None),
        };
        Self {
            dir: dir.to_owned(),
            is_there: dir.is_dir(),
            peer: identity::peer_of(dir).map_err(|error| words(&error)),
            owner: owner.map(|vault| {
                vault.map(|vault| Owner {
                    id: vault.owner().to_string(),
                    machine: vault.machine().to_string(),
                    name: vault.name().to_owned(),
                    passphrase: vault.is_locked(),
                })
            }),
            sets: Sets::load(dir)
                .map(|sets| sets.as_slice().to_vec())
                .map_err(|error| words(&error)),
            rings: RingsFile::new(dir)
                .load()
                .map(|rings| rings.as_slice().iter().map(members).collect())
                .map_err(|error| words(&error)),
            written: written.map_err(|error| words(&error)),
            disk_bytes: bytes_below(dir),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let owner = self.owner.as_ref().ok().and_then(Option::as_ref);
        let sets: Vec<Value> = self
            .sets
            .iter()
            .flatten()
            .map(|set| {
                json!({
                    "name": set.name,
                    "paths": set.paths.iter().map(|path| path.to_string_lossy()).collect::<Vec<_>>(),
                    "schedule": set.schedule,
                })
            })
            .collect();
        let rings: Vec<Value> = self
            .rings
            .iter()
            .flatten()
            .map(|(ring, members)| json!({ "ring": ring, "members": members }))
            .collect();
        json!({
            "running": false,
            "data_dir": self.dir.to_string_lossy(),
            "exists": self.is_there,
            "peer": self.peer.as_ref().ok(),
            "owner": owner.map(|owner| &owner.id),
            "machine": owner.map(|owner| &owner.machine),
            "machine_name": owner.map(|owner| &owner.name),
            "passphrase": owner.map(|owner| owner.passphrase),
            "sets": sets,
            "rings": rings,
            "log_written": self.written.as_ref().ok(),
            "disk_bytes": self.disk_bytes,
            "problems": self.problems(),
        })
    }

    /// Reasons why facts could not be read.
    fn problems(&self) -> Vec<&str> {
        [
            self.peer.as_ref().err(),
            self.owner.as_ref().err(),
            self.sets.as_ref().err(),
            self.rings.as_ref().err(),
            self.written.as_ref().err(),
        ]
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect()
    }

    /// The same for people. `whole`: with whole names.
    pub(super) fn to_text(&self, whole: bool) -> String {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut row = |name: &str, value: String| {
            rows.push(vec![name.to_owned(), show::printable(&value)]);
        };
        let id = |id: &str| match whole {
            true => id.to_owned(),
            false => show::short(id).to_owned(),
        };
        row("node", "not running".to_owned());
        let dir = self.dir.to_string_lossy();
        if !self.is_there {
            row("data", format!("{dir}: nothing is there"));
            row("to do", "`libernet up` starts a node there".to_owned());
            return show::table(&rows, &[]);
        }
        row("data", format!("{dir}, {}", ByteSize(self.disk_bytes)));
        if let Ok(Some(peer)) = &self.peer {
            row("peer", id(peer));
        }
        match &self.owner {
            Ok(Some(owner)) => {
                let lock = if owner.passphrase {
                    ", keys behind a passphrase"
                } else {
                    ""
                };
                row(
                    "owner",
                    format!("{} (this machine: {}{lock})", id(&owner.id), owner.name),
                );
            }
            Ok(None) => row("owner", "none yet: `libernet init` makes one".to_owned()),
            Err(_) => {}
        }
        for set in self.sets.iter().flatten() {
            let when = match &set.schedule {
                Some(schedule) => format!("{schedule}, but only while a node runs"),
                None => "no schedule".to_owned(),
            };
            row("set", format!("{}: {when}", set.name));
        }
        match &self.written {
            Ok(Some(time)) => row(
                "last log",
                format!(
                    "{} (a backup, or a change of what is kept)",
                    show::timestamp(*time)
                ),
            ),
            Ok(None) if matches!(self.owner, Ok(Some(_))) => {
                row("last log", "none: nothing is backed up yet".to_owned());
            }
            _ => {}
        }
        for (ring, members) in self.rings.iter().flatten() {
            row(
                "ring",
                format!(
                    "{ring}, {} known",
                    show::count(*members as u64, "other member")
                ),
            );
        }
        for problem in self.problems() {
            row("problem", problem.to_owned());
        }
        row(
            "to do",
            "`libernet up` starts the node; backups by schedule and copies for others wait for it"
                .to_owned(),
        );
        show::table(&rows, &[])
    }
}

fn members(ring: &Ring) -> (String, usize) {
    (ring.name().to_owned(), ring.members().len())
}

/// Bytes of the files below a directory. What can't be looked at counts nothing.
pub(in crate::cli) fn bytes_below(dir: &Path) -> u64 {
    let mut directories = vec![dir.to_owned()];
    let (mut bytes, mut looked) = (0, 0);
    while let Some(directory) = directories.pop() {
        looked += 1;
        if looked > MAX_DIRECTORIES {
            break;
        }
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => directories.push(entry.path()),
                Ok(meta) if meta.is_file() => bytes += meta.len(),
                _ => {}
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::owner::{Membership, OwnerKeys, Phrase};

    #[test]
    fn a_directory_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let missing = dir.path().join("none");
        let facts = Facts::read(&missing);
        let text = facts.to_text(false);
        assert!(text.starts_with("node   not running\n"), "{text}");
        assert!(text.contains("nothing is there"), "{text}");
        assert_eq!(facts.to_json()["exists"], false);
        assert!(!missing.exists());
    }

    #[test]
    fn small_files_are_told_and_none_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let keys = OwnerKeys::derive(&Phrase::random());
        let member = Membership::create(&keys, "laptop".to_owned()).expect("a name");
        Vault::create(dir.path(), &member, None).expect("written");
        std::fs::write(dir.path().join("rings.toml"), "nonsense = [").expect("written");
        let facts = Facts::read(dir.path());
        let text = facts.to_text(false);
        assert!(text.contains("this machine: laptop"), "{text}");
        assert!(text.contains("nothing is backed up yet"), "{text}");
        assert!(
            text.contains("problem") && text.contains("rings.toml"),
            "{text}"
        );
        let json = facts.to_json();
        assert_eq!(json["owner"], keys.id().to_string());
        assert_eq!(json["peer"], Value::Null);
        assert_eq!(json["problems"].as_array().map(Vec::len), Some(1));
        assert!(!text.contains(&keys.id().to_string()), "{text}");
        assert!(facts.to_text(true).contains(&keys.id().to_string()));
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["owner.key", "rings.toml"]);
    }
}
