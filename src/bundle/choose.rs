//! Which part of a bundle is wanted, and in which order.
//!
//! Patterns are [`Line`]s in the syntax of `.gitignore`, read the other way round: what matches is
//! wanted, with everything below it; `!` takes back. One with a slash is anchored at the root of
//! what is chosen from. Directories in which nothing can match are not loaded; the others come only
//! if something wanted is in them.

use std::collections::VecDeque;
use std::path::Path;

use ignore::Match;

use super::error::Error;
use super::pattern::{Line, Patterns};
use super::read::{Bundle, Walk};
use super::tree::{Entry, ModTime};

/// Newest files come first in these steps: how much older than the newest, in seconds. What is older than all comes last.
const AGES: [i64; 4] = [24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600, 365 * 24 * 3600];

/// Patterns for paths in a bundle.
#[derive(Clone, Debug)]
struct Picks {
    patterns: Patterns,
    /// What every matching path starts with, for each pattern; `None` when one can match anywhere.
    prefixes: Option<Vec<Vec<Vec<u8>>>>,
}

impl Picks {
    /// `None` for no patterns.
    ///
    /// # Errors
    /// [`Error::Pattern`].
    fn new(lines: &[Line]) -> Result<Option<Self>, Error> {
        if lines.is_empty() {
            return Ok(None);
        }
        let mut prefixes = Some(Vec::new());
        for form in lines.iter().flat_map(Line::forms) {
            match (prefix(form), &mut prefixes) {
                (Prefix::Nothing, _) | (_, None) => {}
                (Prefix::Anywhere, _) => prefixes = None,
                (Prefix::Below(names), Some(prefixes)) => prefixes.push(names),
            }
        }
        Ok(Some(Self {
            patterns: Patterns::new(Path::new("/"), lines)?,
            prefixes,
        }))
    }

    /// Whether the patterns say yes or no to `path`, going by itself alone.
    fn says(&self, path: &[u8], is_dir: bool) -> Option<bool> {
        match self.patterns.matched(as_path(path), is_dir) {
            Match::Ignore(()) => Some(true),
            Match::Whitelist(()) => Some(false),
            Match::None => None,
        }
    }

    fn may_match_below(&self, directory: &[u8]) -> bool {
        let Some(prefixes) = &self.prefixes else {
            return true;
        };
        let names = || directory.split(|b| *b == b'/');
        prefixes
            .iter()
            .any(|prefix| prefix.iter().zip(names()).all(|(a, b)| a == b))
    }
}

enum Prefix {
    /// The line is no pattern or takes back.
    Nothing,
    Anywhere,
    Below(Vec<Vec<u8>>),
}

fn prefix(line: &str) -> Prefix {
    let line = line.trim_end();
    if line.is_empty() || line.starts_with(['#', '!']) {
        return Prefix::Nothing;
    }
    let is_rooted = line.starts_with('/');
    let inner = line.trim_start_matches('/').trim_end_matches('/');
    if !is_rooted && !inner.contains('/') {
        return Prefix::Anywhere;
    }
    let plain = |name: &&str| !name.contains(['*', '?', '[', ']', '{', '}', '\\']);
    let names = inner.split('/').take_while(plain);
    Prefix::Below(names.map(|name| name.as_bytes().to_vec()).collect())
}

fn as_path(path: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path))
}

/// What is wanted, and what of it first.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    select: Option<Picks>,
    first: Option<Picks>,
    newest_first: bool,
    /// Time of the newest file, once it is known.
    newest: Option<ModTime>,
}

impl Choice {
    /// # Errors
    /// [`Error::Pattern`].
    pub(super) fn new(select: &[Line], first: &[Line], newest_first: bool) -> Result<Self, Error> {
        Ok(Self {
            select: Picks::new(select)?,
            first: Picks::new(first)?,
            newest_first,
            newest: None,
        })
    }

    /// Lines of patterns that matched nothing so far.
    pub(super) fn unmatched(&self) -> Vec<String> {
        let picks = self.select.iter().chain(&self.first);
        picks.flat_map(|picks| picks.patterns.unmatched()).collect()
    }

    /// The ranks that entries can have, in ascending order. Finding out may take a walk through the tree.
    ///
    /// # Errors
    /// When the node stops.
    pub(super) async fn ranks(&mut self, bundle: &Bundle) -> Result<Vec<usize>, Error> {
        if !self.newest_first {
            return Ok(match self.first {
                Some(_) => vec![0, LAST_RANK],
                None => vec![LAST_RANK],
            });
        }
        let mut picker = Picker::new(bundle, self, None);
        let mut newest = None;
        let mut oldest = None;
        while let Some(picked) = picker.next().await {
            match picked {
                Ok(Picked { entry, .. }) if entry.is_file() => {
                    newest = newest.max(entry.modified);
                    oldest = match oldest {
                        None => entry.modified,
                        Some(_) => oldest.min(entry.modified.or(oldest)),
                    };
                }
                Ok(_) => {}
                // It comes up again when it matters.
                Err((_, error)) if error.block().is_some() => {}
                Err((_, error)) => return Err(error),
            }
        }
        self.newest = newest;
        let highest = oldest.map_or(0, |oldest| self.age(Some(oldest)));
        let mut ranks: Vec<usize> = (0..=highest).map(|age| age + 1).collect();
        if self.first.is_some() {
            ranks.insert(0, 0);
        }
        if ranks.last() != Some(&LAST_RANK) {
            ranks.push(LAST_RANK);
        }
        Ok(ranks)
    }

    fn age(&self, modified: Option<ModTime>) -> usize {
        let (Some(newest), Some(modified)) = (self.newest, modified) else {
            return AGES.len();
        };
        let age = newest.seconds.saturating_sub(modified.seconds);
        AGES.iter()
            .position(|limit| age < *limit)
            .unwrap_or(AGES.len())
    }

    /// When an entry's turn is; what is no file comes last. `is_first`: a directory above it comes first.
    fn rank(&self, entry: &Entry, is_first: bool) -> usize {
        match (entry.is_file(), is_first, self.newest_first) {
            (true, true, _) => 0,
            (true, false, true) => self.age(entry.modified) + 1,
            _ => LAST_RANK,
        }
    }
}

/// The rank of what is in no hurry.
pub(super) const LAST_RANK: usize = AGES.len() + 1;

/// An entry that is wanted, or a directory on the way to one.
pub(super) struct Picked {
    /// Directories above it.
    pub(super) depth: usize,
    pub(super) entry: Entry,
}

/// Goes through a bundle and yields what is wanted in the order of the walk, each directory before what is in it.
pub(super) struct Picker<'a> {
    walk: Walk,
    choice: &'a Choice,
    /// Only entries of this rank; `None` for all.
    rank: Option<usize>,
    /// For each directory above: whether all in it is wanted, whether it comes first, and itself if it was not yielded yet.
    above: Vec<Above>,
    ready: VecDeque<Picked>,
    /// Entries seen so far, wanted or not, and their bytes.
    pub(super) seen_entries: u64,
    pub(super) seen_bytes: u128,
}

struct Above {
    is_wanted: bool,
    is_first: bool,
    entry: Option<Entry>,
}

impl<'a> Picker<'a> {
    pub(super) fn new(bundle: &Bundle, choice: &'a Choice, rank: Option<usize>) -> Self {
        Self {
            walk: Walk::new(bundle),
            choice,
            rank,
            above: Vec::new(),
            ready: VecDeque::new(),
            seen_entries: 0,
            seen_bytes: 0,
        }
    }

    /// The next entry; the root itself is not among them. An error comes with the path of the directory that lacks a block, and the rest
    /// follows.
    pub(super) async fn next(&mut self) -> Option<Result<Picked, (Vec<u8>, Error)>> {
        loop {
            if let Some(picked) = self.ready.pop_front() {
                return Some(Ok(picked));
            }
            let entry = match self.walk.next().await? {
                Ok(entry) => entry,
                Err(error) => return Some(Err((self.walk.path.clone(), error))),
            };
            self.seen_entries += 1;
            self.seen_bytes += u128::from(entry.size());
            self.see(entry);
        }
    }

    fn see(&mut self, entry: Entry) {
        let depth = self.walk.depth();
        self.above.truncate(depth);
        let Some(parent) = self.above.last() else {
            self.above.push(Above {
                is_wanted: self.choice.select.is_none(),
                is_first: false,
                entry: None,
            });
            return;
        };
        let is_dir = entry.is_directory();
        let path = &self.walk.path;
        let says = |patterns: &Option<Picks>, above| match patterns {
            Some(patterns) => patterns.says(path, is_dir).unwrap_or(above),
            None => above,
        };
        let is_wanted = says(&self.choice.select, parent.is_wanted);
        let is_first = says(&self.choice.first, parent.is_first);
        if !is_dir {
            let rank = self.choice.rank(&entry, is_first);
            if is_wanted && self.rank.is_none_or(|only| only == rank) {
                self.yield_above();
                self.ready.push_back(Picked { depth, entry });
            }
            return;
        }
        if !is_wanted
            && let Some(select) = &self.choice.select
            && !select.may_match_below(path)
        {
            self.walk.skip();
            return;
        }
        self.above.push(Above {
            is_wanted,
            is_first,
            entry: Some(entry),
        });
        // Empty directories come with the last.
        if is_wanted && self.rank.is_none_or(|only| only == LAST_RANK) {
            self.yield_above();
        }
    }

    /// Yields the directories above that were not yielded yet.
    fn yield_above(&mut self) {
        for (depth, above) in self.above.iter_mut().enumerate() {
            if let Some(entry) = above.entry.take() {
                self.ready.push_back(Picked { depth, entry });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns_of(lines: &[&str]) -> Picks {
        let lines: Vec<Line> = lines.iter().map(|line| Line::new(*line)).collect();
        Picks::new(&lines).expect("good").expect("some")
    }

    #[test]
    fn only_directories_that_can_hold_a_match_are_entered() {
        let anchored = patterns_of(&["/home/u/docs/", "etc/*.conf", "!etc/secret.conf", "# x"]);
        for (directory, expected) in [
            (&b"home"[..], true),
            (b"home/u", true),
            (b"home/v", false),
            (b"etc", true),
            (b"etc/ssl", true),
            (b"usr", false),
        ] {
            assert_eq!(anchored.may_match_below(directory), expected);
        }
        assert!(patterns_of(&["a/b", "*.txt"]).may_match_below(b"x/y"));
        assert!(patterns_of(&["**/x"]).may_match_below(b"x/y"));
        assert_eq!(anchored.says(b"etc/secret.conf", false), Some(false));
        assert_eq!(anchored.says(b"etc/a.conf", false), Some(true));
        assert_eq!(anchored.says(b"home/u/docs", true), Some(true));
        assert_eq!(anchored.says(b"home/u", true), None);
    }

    #[test]
    fn ages_are_counted_from_the_newest() {
        let mut choice = Choice::new(&[], &[], true).expect("good");
        let at = |seconds| Some(ModTime { seconds, nanos: 0 });
        choice.newest = at(i64::MAX);
        assert_eq!(choice.age(at(i64::MAX)), 0);
        assert_eq!(choice.age(at(i64::MAX - 24 * 3600)), 1);
        assert_eq!(choice.age(at(i64::MIN)), AGES.len());
        assert_eq!(choice.age(None), AGES.len());
    }
}
