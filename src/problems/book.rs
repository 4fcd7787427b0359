//! The book of problems: since when each lasts, and what was told of it.
//!
//! A problem is told when it begins and when it is over, and again each week while it lasts. One
//! that comes and goes is told once a day at most; all that is to be told at one time makes one
//! message, and messages keep a distance. Times are those of the machine's clock: one that was set
//! back delays a message, and never repeats one.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Found, Problem, Severity};
use crate::file;
use crate::time::Timestamp;

/// Name of the file in the data directory.
pub const FILE_NAME: &str = "problems.json";
/// Most problems that are kept; of more the worst stay.
pub const MAX_PROBLEMS: usize = 256;
/// Longest text of a problem that is kept, in bytes.
const MAX_TEXT_BYTES: usize = 1000;
/// Largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 2 << 20;
/// The version that is written and read.
const VERSION: u32 = 1;
/// Time that a problem must be away before it counts as over.
const SETTLE: Duration = Duration::from_secs(10 * 60);
/// Time in which a problem that comes back is not told anew.
const QUIET: Duration = Duration::from_secs(24 * 3600);
/// Time between two reminders of one problem.
const REMIND_EVERY: Duration = Duration::from_secs(7 * 24 * 3600);
/// Time between two messages.
const APART: Duration = Duration::from_secs(10 * 60);

/// What a message says of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It began.
    Began,
    /// It lasts since a week or more.
    Reminder,
    /// It is over.
    Over,
    /// There is none: somebody tries whether messages arrive.
    Test,
}

/// A problem that somebody is to be told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// What is said of it.
    pub kind: Kind,
    /// The problem.
    pub problem: Problem,
}

/// One problem in the book.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    problem: Problem,
    /// Milliseconds that it may last before somebody is told.
    #[serde(default)]
    patience_ms: u64,
    /// Since when it has been away; none while it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    away: Option<Timestamp>,
    /// When it was last told that it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<Timestamp>,
    /// Whether its end is still to be told.
    #[serde(default)]
    owes_end: bool,
}

/// The file's form.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sent: Option<Timestamp>,
    entries: Vec<Entry>,
}

/// Name of a problem: its kind, and the thing that it is about.
type Key = (String, String);

/// Problems of one data directory.
#[derive(Debug, Clone, Default)]
pub struct Book {
    entries: BTreeMap<Key, Entry>,
    /// When the last message went out.
    sent: Option<Timestamp>,
}

impl Book {
    /// Path of the file below a data directory.
    pub fn path(data_dir: &Path) -> PathBuf {
        data_dir.join(FILE_NAME)
    }

    /// Reads the book. A file that is damaged is worth nothing: the problems that last are found
    /// again, and only the time since when is lost.
    ///
    /// # Errors
    /// When there is a file and it can't be read.
    pub fn load(path: &Path) -> io::Result<Self> {
        let bytes = match file::read(path, MAX_FILE_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Self::default()),
            Err(error) if file::is_damage(&error) => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let form: Form = match serde_json::from_slice(&bytes) {
            Ok(form) => form,
            Err(error) => {
                tracing::warn!(%error, file = %path.display(), "the list of problems is damaged and begins anew");
                return Ok(Self::default());
            }
        };
        if form.version != VERSION {
            return Ok(Self::default());
        }
        let entries = form.entries.into_iter().take(MAX_PROBLEMS);
        let keyed = entries.map(|entry| (key_of(&entry.problem), entry));
        Ok(Self {
            entries: keyed.collect(),
            sent: form.sent,
        })
    }

    /// Writes the book.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let form = Form {
            version: VERSION,
            sent: self.sent,
            entries: self.entries.values().cloned().collect(),
        };
        file::replace(path, &serde_json::to_vec(&form)?)
    }

    /// Takes over what a look found. Returns whether the file is to be written.
    pub fn update(&mut self, found: Vec<Found>, now: Timestamp) -> bool {
        let before = serde_json::to_vec(&self.entries.values().collect::<Vec<_>>()).ok();
        let mut seen = Vec::new();
        for one in worst(found) {
            let key = (one.id.to_owned(), cut(one.subject));
            seen.push(key.clone());
            let entry = self.entries.entry(key).or_insert_with_key(|key| Entry {
                problem: Problem {
                    id: key.0.clone(),
                    subject: key.1.clone(),
                    severity: one.severity,
                    text: String::new(),
                    advice: String::new(),
                    since: now,
                },
                patience_ms: 0,
                away: None,
                told: None,
                owes_end: false,
            });
            if entry.away.is_some_and(|away| now.since(away) >= SETTLE) {
                entry.problem.since = now;
            }
            entry.away = None;
            entry.patience_ms = u64::try_from(one.patience.as_millis()).unwrap_or(u64::MAX);
            entry.problem.severity = one.severity;
            entry.problem.text = cut(one.text);
            entry.problem.advice = cut(one.advice);
        }
        for (key, entry) in &mut self.entries {
            if !seen.contains(key) {
                entry.away.get_or_insert(now);
            }
        }
        self.entries.retain(|_, entry| {
            let is_forgotten = |away| {
                let is_quiet = entry.told.is_some_and(|told| now.since(told) < QUIET);
                now.since(away) >= SETTLE && !entry.owes_end && !is_quiet
            };
            !entry.away.is_some_and(is_forgotten)
        });
        while self.entries.len() > MAX_PROBLEMS {
            // What is away goes first, then what matters least.
            let least = self.entries.iter().min_by_key(|(_, entry)| {
                let rank = entry.away.is_none();
                (rank, entry.problem.severity)
            });
            let Some(key) = least.map(|(key, _)| key.clone()) else {
                break;
            };
            self.entries.remove(&key);
        }
        before != serde_json::to_vec(&self.entries.values().collect::<Vec<_>>()).ok()
    }

    /// Problems that are there, the worst first, and of equals the one that lasts longest.
    pub fn list(&self) -> Vec<Problem> {
        let there = self.entries.values().filter(|entry| entry.away.is_none());
        let mut list: Vec<Problem> = there.map(|entry| entry.problem.clone()).collect();
        list.sort_by_key(|one| (std::cmp::Reverse(one.severity), one.since));
        list
    }

    /// What is to be told at this time, as one message; empty when nothing is. It counts as told.
    pub fn message(&mut self, now: Timestamp) -> Vec<Notice> {
        if self
            .sent
            .is_some_and(|sent| now.since(sent) < APART && sent <= now)
        {
            return Vec::new();
        }
        let mut notices = Vec::new();
        for entry in self.entries.values_mut() {
            let mut tell = |kind| {
                notices.push(Notice {
                    kind,
                    problem: entry.problem.clone(),
                });
            };
            if let Some(away) = entry.away {
                if entry.owes_end && now.since(away) >= SETTLE {
                    entry.owes_end = false;
                    tell(Kind::Over);
                }
                continue;
            }
            let lasts = now.since(entry.problem.since);
            if lasts < Duration::from_millis(entry.patience_ms) {
                continue;
            }
            let kind = match entry.told {
                None => Kind::Began,
                Some(told) if entry.owes_end && now.since(told) >= REMIND_EVERY => Kind::Reminder,
                Some(told) if !entry.owes_end && now.since(told) >= QUIET => Kind::Began,
                Some(_) => continue,
            };
            tell(kind);
            entry.told = Some(now);
            entry.owes_end = true;
        }
        if !notices.is_empty() {
            self.sent = Some(now);
            let rank = |one: &Notice| (one.kind, std::cmp::Reverse(one.problem.severity));
            notices.sort_by_key(rank);
        }
        notices
    }
}

fn key_of(problem: &Problem) -> Key {
    (problem.id.clone(), problem.subject.clone())
}

/// The worst of many, each once.
fn worst(mut found: Vec<Found>) -> Vec<Found> {
    found.sort_by_key(|one| std::cmp::Reverse(one.severity));
    found.truncate(MAX_PROBLEMS);
    found
}

/// A text that is no longer than what is kept.
fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_BYTES {
        let end = (0..=MAX_TEXT_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

impl Notice {
    /// Message by which somebody tries whether messages arrive.
    pub fn test(now: Timestamp) -> Self {
        Self {
            kind: Kind::Test,
            problem: Problem {
                id: "test".to_owned(),
                subject: String::new(),
                severity: Severity::Notice,
                text: "this is a test: messages about problems arrive here".to_owned(),
                advice: "nothing is to be done".to_owned(),
                since: now,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;

    fn found(subject: &str) -> Found {
        Found {
            id: "backup_failed",
            subject: subject.to_owned(),
            severity: Severity::Warning,
            text: "it failed".to_owned(),
            advice: "see why".to_owned(),
            patience: Duration::ZERO,
        }
    }

    fn kinds(book: &mut Book, at: u64) -> Vec<Kind> {
        let message = book.message(Timestamp(at));
        message.into_iter().map(|notice| notice.kind).collect()
    }

    /// Looks once a minute from one time to another, and counts what is told.
    fn told(book: &mut Book, from: u64, to: u64, there: impl Fn(u64) -> bool) -> Vec<(u64, Kind)> {
        let mut all = Vec::new();
        for at in (from..to).step_by(MINUTE as usize) {
            let now = if there(at) {
                vec![found("docs")]
            } else {
                Vec::new()
            };
            book.update(now, Timestamp(at));
            all.extend(kinds(book, at).into_iter().map(|kind| (at, kind)));
        }
        all
    }

    #[test]
    fn a_problem_is_told_when_it_begins_each_week_and_when_it_is_over() {
        let mut book = Book::default();
        let all = told(&mut book, DAY, 20 * DAY, |at| at < 16 * DAY);
        let kinds: Vec<Kind> = all.iter().map(|(_, kind)| *kind).collect();
        assert_eq!(
            kinds,
            [Kind::Began, Kind::Reminder, Kind::Reminder, Kind::Over]
        );
        assert_eq!(all[0].0, DAY);
        assert_eq!(all[3].0, 16 * DAY + SETTLE.as_millis() as u64);
        assert!(book.entries.is_empty(), "it is forgotten");
    }

    #[test]
    fn a_problem_that_comes_and_goes_is_no_flood() {
        let mut book = Book::default();
        // There for half an hour of each hour.
        let all = told(&mut book, DAY, 4 * DAY, |at| at % HOUR < HOUR / 2);
        assert!(all.len() <= 6, "{all:?}");
        // Away for a moment only: one problem that lasts.
        let mut book = Book::default();
        let all = told(&mut book, DAY, 3 * DAY, |at| at % HOUR != 0);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(book.list()[0].since, Timestamp(DAY + MINUTE));
    }

    #[test]
    fn many_problems_make_one_message_and_messages_keep_a_distance() {
        let mut book = Book::default();
        let many = |count: usize| (0..count).map(|n| found(&n.to_string())).collect();
        book.update(many(MAX_PROBLEMS), Timestamp(DAY));
        assert_eq!(kinds(&mut book, DAY).len(), MAX_PROBLEMS);
        book.update(many(MAX_PROBLEMS + 1), Timestamp(DAY));
        assert_eq!(book.entries.len(), MAX_PROBLEMS, "the bound");
        let mut more: Vec<Found> = many(3);
        more.push(found("new"));
        book.update(more, Timestamp(DAY + MINUTE));
        assert_eq!(book.entries.len(), MAX_PROBLEMS);
        assert!(kinds(&mut book, DAY + MINUTE).is_empty());
        assert!(kinds(&mut book, DAY + 11 * MINUTE).contains(&Kind::Began));
    }

    #[test]
    fn patience_keeps_a_message_back_and_not_the_list() {
        let mut book = Book::default();
        let slow = || Found {
            patience: Duration::from_secs(6 * 3600),
            ..found("docs")
        };
        book.update(vec![slow()], Timestamp(DAY));
        assert_eq!(book.list().len(), 1);
        assert!(kinds(&mut book, DAY).is_empty());
        book.update(vec![slow()], Timestamp(DAY + 6 * HOUR));
        assert_eq!(kinds(&mut book, DAY + 6 * HOUR), [Kind::Began]);
        // What ends before is not told at all.
        let mut book = Book::default();
        book.update(vec![slow()], Timestamp(DAY));
        book.update(Vec::new(), Timestamp(DAY + HOUR));
        book.update(Vec::new(), Timestamp(DAY + 2 * HOUR));
        assert!(kinds(&mut book, DAY + 2 * HOUR).is_empty() && book.entries.is_empty());
    }

    #[test]
    fn the_worst_comes_first_and_of_equals_the_oldest() {
        let mut book = Book::default();
        let of = |subject: &str, severity| Found {
            severity,
            ..found(subject)
        };
        book.update(vec![of("old", Severity::Warning)], Timestamp(DAY));
        let all = vec![
            of("small", Severity::Notice),
            of("new", Severity::Warning),
            of("bad", Severity::Serious),
            of("old", Severity::Warning),
        ];
        book.update(all, Timestamp(2 * DAY));
        let list = book.list();
        let names: Vec<&str> = list.iter().map(|one| one.subject.as_str()).collect();
        assert_eq!(names, ["bad", "old", "new", "small"]);
    }

    #[test]
    fn the_file_keeps_since_when_and_what_was_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = Book::path(dir.path());
        let mut book = Book::load(&path).expect("no file");
        assert!(book.update(vec![found("docs")], Timestamp(DAY)));
        assert!(!book.update(vec![found("docs")], Timestamp(2 * DAY)));
        assert_eq!(kinds(&mut book, 2 * DAY), [Kind::Began]);
        book.save(&path).expect("written");
        let mut again = Book::load(&path).expect("reads");
        assert_eq!(again.list(), book.list());
        again.update(vec![found("docs")], Timestamp(3 * DAY));
        assert!(kinds(&mut again, 3 * DAY).is_empty(), "it was told before");
        assert_eq!(again.list()[0].since, Timestamp(DAY));
        for damage in ["", "{", "[]", "{\"version\":9,\"entries\":[]}"] {
            std::fs::write(&path, damage).expect("written");
            let list = Book::load(&path).expect("begins anew").list();
            assert!(list.is_empty(), "{damage}");
        }
        let long = Found {
            text: "ä".repeat(MAX_TEXT_BYTES),
            ..found("docs")
        };
        book.update(vec![long], Timestamp(3 * DAY));
        assert!(book.list()[0].text.len() <= MAX_TEXT_BYTES);
    }
}
