//! Which snapshots are meant: those of a set, of a machine, with tags, of paths.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::catalog::Listed;
use super::error::Error;
use super::owner::MachineId;
use crate::pick::{Miss, pick};

/// Properties that snapshots must have to be meant. Nothing said: all of them are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The set's name, or the beginning of one.
    pub set: Option<String>,
    /// Tags, all of them.
    pub tags: Vec<String>,
    /// The machine's name or key, or the beginning of one.
    pub machine: Option<String>,
    /// A path in its several forms, such as typed and resolved: one of them, or a directory that it
    /// is in, was backed up.
    pub paths: Vec<PathBuf>,
}

impl Choice {
    /// Whether all are meant.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Gives what is named by a beginning its whole name.
    pub(super) fn resolve(&self, snapshots: &[Listed]) -> Result<Chosen, Error> {
        let mut chosen = Chosen {
            set: None,
            machine: None,
            choice: self.clone(),
        };
        if let Some(text) = &self.set {
            let sets = snapshots.iter().map(|listed| &*listed.logged.summary.set);
            chosen.set = Some(one_of("set", text, sets)?);
        }
        if let Some(text) = &self.machine {
            chosen.machine = Some(machine(text, snapshots)?);
        }
        for text in &self.tags {
            let tags = snapshots
                .iter()
                .flat_map(|listed| &listed.logged.summary.tags);
            let known: BTreeSet<&str> = tags.map(String::as_str).collect();
            if !known.contains(&**text) {
                return Err(Error::Name(Miss {
                    kind: "tag",
                    text: text.clone(),
                    fitting: Vec::new(),
                    known: known.into_iter().map(str::to_owned).collect(),
                }));
            }
        }
        Ok(chosen)
    }
}

fn one_of<'a>(
    kind: &'static str,
    text: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<String, Error> {
    let names: BTreeSet<&str> = names.filter(|name| !name.is_empty()).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let name = pick(kind, text, &names, |name| vec![(*name).to_owned()])?;
    Ok((*name).to_owned())
}

/// A machine that was brought back from the words has the name of the one before and another key:
/// its name means both.
fn machine(text: &str, snapshots: &[Listed]) -> Result<Machine, Error> {
    let keys: BTreeSet<[u8; 32]> = snapshots.iter().map(|listed| listed.machine).collect();
    let key = keys
        .into_iter()
        .find(|key| MachineId::new(*key).to_string() == text);
    if let Some(key) = key {
        return Ok(Machine::Key(key));
    }
    let names = snapshots.iter().map(|listed| &*listed.machine_name);
    Ok(Machine::Name(one_of("machine", text, names)?))
}

/// Which machine made a snapshot.
#[derive(Debug)]
enum Machine {
    Key([u8; 32]),
    Name(String),
}

/// A choice with whole names.
#[derive(Debug)]
pub(super) struct Chosen {
    set: Option<String>,
    machine: Option<Machine>,
    choice: Choice,
}

impl Chosen {
    /// Whether a snapshot is meant.
    pub(super) fn concerns(&self, listed: &Listed) -> bool {
        let summary = &listed.logged.summary;
        let is_of_machine = match &self.machine {
            None => true,
            Some(Machine::Key(key)) => listed.machine == *key,
            Some(Machine::Name(name)) => listed.machine_name == *name,
        };
        let is_of_set = self.set.as_ref().is_none_or(|set| *set == summary.set);
        let has_tags = self
            .choice
            .tags
            .iter()
            .all(|tag| summary.tags.contains(tag));
        let paths = &self.choice.paths;
        let has_path = || {
            let mut backed_up = summary.paths.iter();
            backed_up.any(|above| {
                let above = Path::new(std::ffi::OsStr::from_bytes(above));
                paths.iter().any(|path| path.starts_with(above))
            })
        };
        is_of_machine && is_of_set && has_tags && (paths.is_empty() || has_path())
    }
}

/// Request in the words of an error.
impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.set.iter().map(|set| format!("of the set '{set}'")));
        match &self.machine {
            None => {}
            Some(Machine::Name(name)) => parts.push(format!("of the machine '{name}'")),
            Some(Machine::Key(key)) => {
                parts.push(format!("of the machine {}", MachineId::new(*key)));
            }
        }
        let tags = self.choice.tags.iter();
        parts.extend(tags.map(|tag| format!("with the tag '{tag}'")));
        let path = self.choice.paths.first();
        parts.extend(path.map(|path| format!("that holds {}", path.display())));
        f.write_str(&parts.join(" and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::Catalog;
    use crate::backup::Fates;
    use crate::backup::log::tests::logged;
    use crate::backup::{Log, Summary};
    use crate::time::Timestamp;

    /// Two machines called laptop, the later one brought back from the words, and one called
    /// server.
    fn catalog() -> Catalog {
        let mut logs = Vec::new();
        for (number, name, set, tag, path) in [
            (1u8, "laptop", "docs", "a", "/home/u/docs"),
            (2, "laptop", "docs", "b", "/home/u/docs"),
            (3, "server", "docs-old", "a", "/srv"),
            (4, "server", "", "a", "/srv/www"),
        ] {
            let mut log = Log::new([number; 32], name.to_owned());
            let mut logged = logged(number);
            logged.summary = Summary {
                set: set.to_owned(),
                tags: vec![tag.to_owned()],
                paths: vec![path.to_owned().into()],
                ..logged.summary
            };
            log.add(logged).expect("room");
            logs.push(log);
        }
        Catalog::of(&logs, &Fates::default(), Timestamp(u64::MAX))
    }

    fn chosen(choice: &Choice) -> Result<Vec<u8>, String> {
        let catalog = catalog();
        let chosen = catalog.choose(choice).map_err(|error| error.to_string())?;
        Ok(chosen.iter().map(|listed| listed.machine[0]).collect())
    }

    #[test]
    fn by_set_machine_tag_and_path() {
        let set = |text: &str| Choice {
            set: Some(text.to_owned()),
            ..Choice::default()
        };
        let machine = |text: &str| Choice {
            machine: Some(text.to_owned()),
            ..Choice::default()
        };
        let tags = |tags: &[&str]| Choice {
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            ..Choice::default()
        };
        let path = |paths: &[&str]| Choice {
            paths: paths.iter().map(PathBuf::from).collect(),
            ..Choice::default()
        };
        assert_eq!(chosen(&Choice::default()), Ok(vec![1, 2, 3, 4]));
        assert_eq!(chosen(&set("docs")), Ok(vec![1, 2]), "a whole name");
        assert_eq!(chosen(&set("docs-")), Ok(vec![3]), "a beginning");
        assert_eq!(chosen(&machine("lap")), Ok(vec![1, 2]), "both of that name");
        let key = MachineId::new([2; 32]).to_string();
        assert_eq!(chosen(&machine(&key)), Ok(vec![2]));
        assert_eq!(chosen(&tags(&["a"])), Ok(vec![1, 3, 4]));
        assert_eq!(chosen(&path(&["/srv/www/x"])), Ok(vec![3, 4]));
        assert_eq!(chosen(&path(&["/link", "/home/u/docs"])), Ok(vec![1, 2]));
        assert_eq!(
            chosen(&path(&["/srv"])),
            Ok(vec![3]),
            "what holds all of it"
        );
        let both = Choice {
            machine: Some("server".to_owned()),
            ..tags(&["a"])
        };
        assert_eq!(chosen(&both), Ok(vec![3, 4]));
    }

    #[test]
    fn what_matches_nothing_is_named() {
        let error = |choice: Choice| chosen(&choice).expect_err("nothing");
        let of_set = Choice {
            set: Some("photos".to_owned()),
            ..Choice::default()
        };
        let text = error(of_set);
        assert_eq!(text, "there is no set 'photos': there are docs, docs-old");
        let tagged = Choice {
            tags: vec!["c".to_owned()],
            ..Choice::default()
        };
        assert_eq!(error(tagged), "there is no tag 'c': there are a, b");
        let none = Choice {
            set: Some("docs".to_owned()),
            machine: Some("server".to_owned()),
            ..Choice::default()
        };
        let text = error(none);
        assert_eq!(
            text,
            "there is no snapshot of the set 'docs' and of the machine 'server'"
        );
        let path = Choice {
            paths: vec![PathBuf::from("/etc")],
            ..Choice::default()
        };
        assert_eq!(error(path), "there is no snapshot that holds /etc");
    }

    #[test]
    fn latest_is_the_latest_of_what_was_chosen() {
        let catalog = catalog();
        let choice = Choice {
            machine: Some("laptop".to_owned()),
            ..Choice::default()
        };
        let latest = catalog.find_chosen("latest", &choice).expect("one");
        assert_eq!(latest.machine[0], 2);
        let other = catalog.snapshots()[3].logged.snapshot.id.to_hex();
        let found = catalog.find_chosen(&other, &choice);
        assert!(
            matches!(found, Err(Error::NoSuchSnapshot { .. })),
            "{found:?}"
        );
        assert_eq!(catalog.find("latest").expect("one").machine[0], 4);
    }
}
