//! What is backed up again and again: named sets of paths, in the file `backup.toml` of the data directory.
//!
//! The file is for people to read and edit; it is only ever replaced as a whole. A path is text;
//! one that is not UTF-8 is written `{ hex = "2f66ff" }`. What it says and this program does not
//! know is an error, never ignored: a misspelt exclusion must not be found out years later.
//! Deliberately absent: the times of past runs, which the snapshots tell.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::Error;
use super::retention::Policy;
use super::schedule::Schedule;
use crate::file;
use crate::path;
use crate::pick::pick;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "backup.toml";
/// Longest name of a set, in bytes.
pub const MAX_NAME_BYTES: usize = 64;
/// Most sets in one file.
pub const MAX_SETS: usize = 256;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// The version that is written and read.
const VERSION: u32 = 1;

/// What is left out of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Exclusions {
    /// Patterns in the syntax of `.gitignore`.
    pub exclude: Vec<String>,
    /// Patterns of what is taken although it is excluded.
    pub include: Vec<String>,
    /// Heed `.gitignore` files.
    pub ignore_files: bool,
    /// Leave out what is in directories marked by a CACHEDIR.TAG.
    pub cache_directories: bool,
    /// Leave out what is mounted below the paths.
    pub one_file_system: bool,
    /// Leave out larger files, in bytes.
    pub max_file_bytes: Option<u64>,
}

/// Paths that are backed up together, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    /// What it is called.
    pub name: String,
    /// Absolute paths.
    #[serde(with = "path::list")]
    pub paths: Vec<PathBuf>,
    /// Tags of its snapshots.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// When it is backed up by itself; missing: only when somebody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// Seconds without a new backup after which somebody is to hear of it; missing: three times
    /// what is between two runs of the schedule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warn_after_s: Option<u64>,
    /// What is left out.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exclusions: Exclusions,
    /// Copies on other machines; missing: as many as the node makes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copies: Option<u32>,
    /// Which of its snapshots stay after a scheduled run. Without a rule all do.
    #[serde(default, skip_serializing_if = "Policy::is_empty")]
    pub keep: Policy,
}

impl Set {
    /// Which of its paths are not there now, in words; none when all are. Blocks on the disk.
    pub fn gone(&self) -> Option<String> {
        let is_gone = |path: &&PathBuf| match path.symlink_metadata() {
            Ok(_) => false,
            // A path that can't be looked at may well be there: a run says what is wrong.
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let mut gone = self.paths.iter().filter(is_gone);
        let first = gone.next()?.display();
        Some(match gone.count() {
            0 => format!("the path {first} is not there"),
            more => format!("the path {first} and {more} more are not there"),
        })
    }
}

fn is_default(exclusions: &Exclusions) -> bool {
    *exclusions == Exclusions::default()
}

/// What [`Sets::remove`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// The whole set is gone.
    Set(String),
    /// The set of this name has one path less.
    Path(String),
}

/// The file's form.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    #[serde(default, rename = "set")]
    sets: Vec<Set>,
}

/// All sets of a data directory, in the order in which they were added.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sets(Vec<Set>);

impl Sets {
    /// Reads the file in `data_dir`; when there is none, there are no sets.
    ///
    /// # Errors
    /// [`Error::File`] when it can't be read, [`Error::DamagedFile`] when it is wrong.
    pub fn load(data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(FILE_NAME);
        let damaged = |what: String| Error::DamagedFile {
            path: path.clone(),
            what,
        };
        let text = match file::read_text(&path, MAX_FILE_BYTES) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(Self::default()),
            Err(error) if file::is_damage(&error) => return Err(damaged(error.to_string())),
            Err(error) => return Err(file_error("could not read", &path, error)),
        };
        Self::parse(&text).map_err(damaged)
    }

    /// Changes the sets that the file in `data_dir` says. Nobody else changes them at the same
    /// time.
    ///
    /// # Errors
    /// Errors of `change`, of [`load`](Self::load) and of [`save`](Self::save); the file
    /// stays as it was then.
    pub fn edit<T>(
        data_dir: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let failed = |source| file_error("could not write", &data_dir.join(FILE_NAME), source);
        make_private(data_dir).map_err(failed)?;
        let _turn = file::Turn::take(data_dir).map_err(failed)?;
        let mut sets = Self::load(data_dir)?;
        let changed = change(&mut sets)?;
        sets.save(data_dir)?;
        Ok(changed)
    }

    /// Reads the file's text. The error says what is wrong with it.
    fn parse(text: &str) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Versioned {
            version: Option<u32>,
        }
        // The version first: what else a newer file holds says nothing here.
        let message = |error: toml::de::Error| {
            let at = error.span().map(|span| span.start);
            file::at_line(text, at, error.message())
        };
        match toml::from_str::<Versioned>(text).map_err(message)?.version {
            Some(VERSION) => {}
            Some(version) => {
                return Err(format!(
                    "it has version {version}, and this libernet knows version {VERSION}"
                ));
            }
            None => return Err(format!("it does not say 'version = {VERSION}'")),
        }
        let form: Form = toml::from_str(text).map_err(message)?;
        let mut sets = Self::default();
        for set in form.sets {
            sets.add(set).map_err(|error| error.to_string())?;
        }
        Ok(sets)
    }

    /// Replaces the file in `data_dir`, which only its user can read.
    ///
    /// # Errors
    /// [`Error::File`].
    pub fn save(&self, data_dir: &Path) -> Result<(), Error> {
        let path = data_dir.join(FILE_NAME);
        let failed = |source| file_error("could not write", &path, source);
        let form = Form {
            version: VERSION,
            sets: self.0.clone(),
        };
        let text = toml::to_string_pretty(&form)
            .map_err(|error| Error::Setting(format!("the sets can't be written: {error}")))?;
        make_private(data_dir)
            .and_then(|()| file::replace(&path, text.as_bytes()))
            .map_err(failed)
    }

    /// The sets.
    pub fn as_slice(&self) -> &[Set] {
        &self.0
    }

    /// The set that `text` names: its whole name, or the beginning of it.
    ///
    /// # Errors
    /// [`Error::Name`].
    pub fn pick(&self, text: &str) -> Result<&Set, Error> {
        Ok(pick("set", text, &self.0, |set| vec![set.name.clone()])?)
    }

    /// The set of that name.
    pub fn get(&self, name: &str) -> Option<&Set> {
        self.0.iter().find(|set| set.name == name)
    }

    /// Adds a set.
    ///
    /// # Errors
    /// [`Error::Setting`] when its name is none or taken, when it has no paths or one that is not
    /// absolute, or when there are too many sets.
    pub fn add(&mut self, set: Set) -> Result<(), Error> {
        let wrong = |message: String| Err(Error::Setting(message));
        let name = &set.name;
        let is_name = (1..=MAX_NAME_BYTES).contains(&name.len())
            && !name.starts_with('-')
            && !name.contains(|c: char| c.is_control() || c == '/');
        if !is_name {
            return wrong(format!(
                "the name of a set has 1 to {MAX_NAME_BYTES} bytes, no slash and no control characters, and does not begin with '-'"
            ));
        }
        if self.get(name).is_some() {
            return wrong(format!("there is a set '{name}' already"));
        }
        if self.0.len() >= MAX_SETS {
            return wrong(format!("there are {MAX_SETS} sets already"));
        }
        if set.paths.is_empty() {
            return wrong(format!("the set '{name}' has no paths"));
        }
        for path in &set.paths {
            if !path.is_absolute() {
                return wrong(format!(
                    "the set '{name}': the path {} is not absolute",
                    path.display()
                ));
            }
        }
        self.0.push(set);
        Ok(())
    }

    /// Removes the set of that name; when there is none, that path from the one set that has it;
    /// when none has, the set whose name begins so.
    ///
    /// # Errors
    /// [`Error::Name`] when there is none of that, [`Error::Setting`] when several sets have the
    /// path.
    pub fn remove(&mut self, name: &str, path: Option<&Path>) -> Result<Removed, Error> {
        if let Some(at) = self.0.iter().position(|set| set.name == name) {
            return Ok(Removed::Set(self.0.remove(at).name));
        }
        let has = |set: &Set| path.is_some_and(|path| set.paths.iter().any(|p| p == path));
        let with: Vec<usize> = (0..self.0.len()).filter(|at| has(&self.0[*at])).collect();
        match with[..] {
            [] => {
                let whole = self.pick(name)?.name.clone();
                self.0.retain(|set| set.name != whole);
                Ok(Removed::Set(whole))
            }
            [at] if self.0[at].paths.len() == 1 => Ok(Removed::Set(self.0.remove(at).name)),
            [at] => {
                let set = &mut self.0[at];
                set.paths.retain(|p| Some(p.as_path()) != path);
                Ok(Removed::Path(set.name.clone()))
            }
            _ => Err(Error::Setting(format!(
                "several sets have the path '{name}': remove one by its name"
            ))),
        }
    }
}

fn make_private(data_dir: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data_dir)
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        what,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(name: &str, paths: &[&str]) -> Set {
        Set {
            name: name.to_owned(),
            paths: paths.iter().map(PathBuf::from).collect(),
            tags: vec!["t".to_owned()],
            schedule: Some("daily 03:00".parse().expect("a schedule")),
            exclusions: Exclusions {
                exclude: vec!["*.o".to_owned()],
                max_file_bytes: Some(7),
                ..Exclusions::default()
            },
            warn_after_s: None,
            copies: None,
            keep: Policy {
                daily: 7,
                ..Policy::default()
            },
        }
    }

    #[test]
    fn what_is_saved_reads_back_and_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(Sets::load(dir.path()).expect("none"), Sets::default());
        let mut sets = Sets::default();
        sets.add(set("home", &["/home/u", "/etc"])).expect("added");
        let plain = Set {
            tags: Vec::new(),
            schedule: None,
            exclusions: Exclusions::default(),
            keep: Policy::default(),
            ..set("\u{e4} b", &["/"])
        };
        sets.add(plain).expect("added");
        sets.save(dir.path()).expect("saved");
        assert_eq!(Sets::load(dir.path()).expect("read"), sets);
        let meta = std::fs::metadata(dir.path().join(FILE_NAME)).expect("there");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("listed").count(), 1);
    }

    /// The format that people's files have.
    #[test]
    fn a_file_of_version_1() {
        let text = r#"
            version = 1
            [[set]]
            name = "home"
            paths = ["/home/u"]
            tags = ["t"]
            schedule = "daily 03:00"
            exclusions = { exclude = ["*.o"], max_file_bytes = 7 }
            [set.keep]
            daily = 7
        "#;
        let sets = Sets::parse(text).expect("it is right");
        assert_eq!(sets.as_slice(), [set("home", &["/home/u"])]);
        assert_eq!(Sets::parse("version = 1").expect("empty"), Sets::default());
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let with =
            |line: &str| format!("version = 1\n[[set]]\nname = \"a\"\npaths = [\"/a\"]\n{line}\n");
        assert!(Sets::parse(&with("")).is_ok());
        for (text, words) in [
            (String::new(), "version"),
            ("version = 2\nfuture = 1".to_owned(), "version 2"),
            ("version = 1\nnew = 1".to_owned(), "new"),
            (with("exclude = []"), "exclude"),
            (with("exclusions = { exlude = [] }"), "exlude"),
            (with("keep = { dayly = 1 }"), "dayly"),
            (with("schedule = \"sometimes\""), "sometimes"),
            (with("[[set]]\nname = \"a\"\npaths = [\"/b\"]"), "already"),
            (with("[[set]]\nname = \"b\"\npaths = []"), "no paths"),
            (
                with("[[set]]\nname = \"b\"\npaths = [\"b\"]"),
                "not absolute",
            ),
            (with("[[set]]\nname = \"b/c\"\npaths = [\"/b\"]"), "slash"),
        ] {
            let message = Sets::parse(&text).expect_err(&text);
            assert!(message.contains(words), "{message}");
        }
    }

    #[test]
    fn a_damaged_file_is_told_with_its_line_and_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join(FILE_NAME);
        let blanks = " ".repeat(MAX_FILE_BYTES as usize - "version = 1".len());
        for (bytes, words) in [
            (b"version = 1\n[[set]\n".to_vec(), "line 2"),
            (b"version = 1\n\xff".to_vec(), "line 2"),
            (format!("version = 1{blanks} ").into_bytes(), "bytes"),
        ] {
            std::fs::write(&path, &bytes).expect("written");
            for result in [
                Sets::load(dir.path()).map(drop),
                Sets::edit(dir.path(), |_| Ok(())),
            ] {
                let error = result.expect_err("damaged");
                assert!(matches!(error, Error::DamagedFile { .. }), "{error:?}");
                assert!(error.to_string().contains(words), "{error}");
            }
            assert_eq!(std::fs::read(&path).expect("read"), bytes);
        }
        let largest = format!("version = 1{blanks}");
        std::fs::write(&path, largest).expect("written");
        assert!(Sets::load(dir.path()).is_ok());
        // Saved by an editor that marks its texts.
        std::fs::write(&path, "\u{feff}version = 1\r\n").expect("written");
        assert!(Sets::load(dir.path()).is_ok());
    }

    #[test]
    fn sets_that_are_added_at_the_same_time_are_all_there() {
        const THREADS: usize = 4;
        const EACH: usize = 8;
        let dir = tempfile::tempdir().expect("a directory");
        let data = dir.path().join("new");
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let data = &data;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let one = set(&format!("{thread} {n}"), &["/a"]);
                        Sets::edit(data, |sets| sets.add(one)).expect("added");
                    }
                });
            }
        });
        let sets = Sets::load(&data).expect("read");
        assert_eq!(sets.as_slice().len(), THREADS * EACH);
    }

    #[test]
    fn sets_come_and_go() {
        let mut sets = Sets::default();
        sets.add(set("one", &["/a", "/b"])).expect("added");
        sets.add(set("two", &["/b"])).expect("added");
        let remove = |sets: &mut Sets, text: &str| sets.remove(text, Some(Path::new(text)));
        assert!(remove(&mut sets, "three").is_err());
        assert!(remove(&mut sets, "/b").is_err(), "two have it");
        sets.add(set("one more", &["/c"])).expect("added");
        assert_eq!(sets.pick("t").expect("it begins so").name, "two");
        assert_eq!(sets.pick("one").expect("a whole name").name, "one");
        assert!(sets.pick("o").is_err(), "two begin so");
        assert_eq!(
            remove(&mut sets, "one m").ok(),
            Some(Removed::Set("one more".to_owned()))
        );
        assert_eq!(
            remove(&mut sets, "/a").ok(),
            Some(Removed::Path("one".to_owned()))
        );
        assert_eq!(
            remove(&mut sets, "one").ok(),
            Some(Removed::Set("one".to_owned()))
        );
        assert_eq!(
            remove(&mut sets, "/b").ok(),
            Some(Removed::Set("two".to_owned()))
        );
        assert_eq!(sets, Sets::default());
        for at in 0..MAX_SETS {
            sets.add(set(&at.to_string(), &["/a"]))
                .expect("at the limit");
        }
        assert!(sets.add(set("more", &["/a"])).is_err(), "beyond the limit");
        let long = "x".repeat(MAX_NAME_BYTES);
        let mut sets = Sets::default();
        assert!(sets.add(set(&format!("{long}x"), &["/a"])).is_err());
        assert!(sets.add(set(&long, &["/a"])).is_ok());
    }

    #[test]
    fn paths_that_are_gone_are_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let there = dir.path().to_str().expect("utf-8");
        assert_eq!(set("a", &[there]).gone(), None);
        let gone = set("a", &[there, "/nowhere/1"]).gone().expect("one");
        assert_eq!(gone, "the path /nowhere/1 is not there");
        let gone = set("a", &["/nowhere/1", "/nowhere/2"]).gone().expect("two");
        assert_eq!(gone, "the path /nowhere/1 and 1 more are not there");
        // A path that is not a directory holds nothing: it may be there.
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("written");
        let below = file.join("below");
        assert_eq!(set("a", &[below.to_str().expect("utf-8")]).gone(), None);
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "(?s).{0,80}") {
            let _ = Sets::parse(&text);
            let _ = Sets::parse(&format!("version = 1\n[[set]]\n{text}"));
        }

        #[test]
        fn any_set_reads_back(name in "[a-z ]{1,20}", path in "[^\0]{0,20}", exclude in ".{0,20}") {
            let mut sets = Sets::default();
            let mut set = set(&name, &[&format!("/{path}")]);
            set.exclusions.exclude = vec![exclude];
            sets.add(set).expect("added");
            let text = toml::to_string_pretty(&Form { version: VERSION, sets: sets.0.clone() }).expect("text");
            prop_assert_eq!(Sets::parse(&text), Ok(sets));
        }
    }
}
