//! Lines of patterns in the syntax of `.gitignore`: for what is left out of a put, and for what is
//! chosen from a bundle.
//!
//! Three things are added to that syntax:
//!
//! - A byte that is not part of UTF-8 text is written `\xE9`. Names are bytes, and lines are text
//!   in requests and files.
//! - A line may stand for several ([`Line`]): a relative one for each place that it may start from,
//!   one that leads through a symlink for the place that it leads to as well.
//! - Each line remembers whether it matched anything, so that a typing error can be told.
//!
//! Deliberately absent: what a match means. A filter leaves out what matches, a choice takes it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::error::Error;
use crate::file;

/// Characters that mean something in a pattern.
const SPECIAL: [char; 9] = ['*', '?', '[', ']', '{', '}', '\\', '!', '#'];
/// Stands for byte 0 where a byte is not part of UTF-8 text, the next ones for the others: the end
/// of the last plane for private use.
const FIRST_BYTE: u32 = 0x10_ff00;

/// A line as it was typed, and the lines that it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    typed: String,
    forms: Vec<String>,
}

impl Line {
    /// Stands for itself.
    pub fn new(typed: impl Into<String>) -> Self {
        let typed = typed.into();
        Self {
            forms: vec![typed.clone()],
            typed,
        }
    }

    /// A relative line with a slash inside starts at each of these places as well. They are
    /// absolute.
    #[must_use]
    pub fn starting_at<'a>(mut self, places: impl IntoIterator<Item = &'a [u8]>) -> Self {
        for place in places {
            self.add(anchored(&self.typed, place));
        }
        self
    }

    /// A relative line with a slash inside matches at any depth.
    #[must_use]
    pub fn anywhere(mut self) -> Self {
        if let Some((sign, rest)) = relative(&self.typed) {
            self.add(Some(format!("{sign}**/{rest}")));
        }
        self
    }

    /// Adds the places that lines with plain names at their start lead to. `resolve` gives the
    /// place of an absolute path without symlinks, if it leads through one.
    #[must_use]
    pub fn resolved(mut self, resolve: impl Fn(&Path) -> Option<PathBuf>) -> Self {
        for at in 0..self.forms.len() {
            let form = through_links(&self.forms[at], &resolve);
            self.add(form);
        }
        self
    }

    /// The directories that the lines lead through, as far as their names are plain. For finding
    /// out where they lead.
    pub fn ways(&self) -> Vec<PathBuf> {
        let ways = self.forms.iter().filter_map(|form| plain_start(form));
        ways.map(|(_, way, _)| way).collect()
    }

    pub(super) fn forms(&self) -> &[String] {
        &self.forms
    }

    fn add(&mut self, form: Option<String>) {
        if let Some(form) = form
            && !self.forms.contains(&form)
        {
            self.forms.push(form);
        }
    }
}

impl<T: Into<String>> From<T> for Line {
    fn from(typed: T) -> Self {
        Self::new(typed)
    }
}

/// The line of a pattern that a program was given as one argument: nothing in it is a comment or
/// blank.
pub fn argument(bytes: &[u8]) -> String {
    let mut line = text(bytes);
    if line.starts_with('#') {
        line.insert(0, '\\');
    }
    // White space at the end of a line means nothing, at the end of a name it does.
    if let Some(last) = line.chars().next_back().filter(|c| c.is_whitespace()) {
        line.pop();
        let ends_in_escape = line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
        match last {
            _ if ends_in_escape => line.push(last),
            ' ' => line.push_str("\\ "),
            last => {
                let _ = write!(line, "{{{last}}}");
            }
        }
    }
    line
}

/// A line with its bytes that are no UTF-8 as escapes.
pub fn text(bytes: &[u8]) -> String {
    let mut line = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        line.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02X}");
        }
    }
    line
}

/// A pattern that matches this name or path and nothing else.
fn literal(path: &[u8]) -> String {
    let mut line = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            if SPECIAL.contains(&c) {
                line.push('\\');
            }
            line.push(c);
        }
        for byte in chunk.invalid() {
            let _ = write!(line, "\\x{byte:02X}");
        }
    }
    line
}

/// The sign (`!` or nothing) and the rest of a relative line with a slash inside. `None` for any
/// other: such a line means the same wherever it starts.
fn relative(line: &str) -> Option<(&str, &str)> {
    let (sign, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", line),
    };
    let is_path = matches!(rest, "." | ".." | "./" | "../")
        || rest.trim_end().trim_end_matches('/').contains('/');
    let is_relative = is_path && !rest.starts_with(['/', '#']) && !rest.starts_with("**/");
    is_relative.then_some((sign, rest))
}

/// A relative line with a slash inside, anchored at `place`, an absolute path. `None` for any other
/// line.
pub fn anchored(line: &str, place: &[u8]) -> Option<String> {
    let (sign, rest) = relative(line)?;
    let mut above: Vec<&[u8]> = place
        .split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .collect();
    let mut rest = rest;
    loop {
        let (first, more) = rest.split_once('/').unwrap_or((rest, ""));
        match first {
            "." => {}
            ".." => drop(above.pop()),
            _ => break,
        }
        rest = more.trim_start_matches('/');
    }
    let mut anchored = sign.to_owned();
    for name in above {
        anchored.push('/');
        anchored.push_str(&literal(name));
    }
    anchored.push('/');
    anchored.push_str(rest);
    Some(anchored)
}

/// Sign, the plain names at the start of a line that is anchored as a path, and what follows them.
/// The last name of a line is not among the plain ones: a symlink that is named last is meant
/// itself.
fn plain_start(line: &str) -> Option<(&str, PathBuf, &str)> {
    let (sign, rest) = match line.strip_prefix('!') {
        Some(rest) => ("!", rest),
        None => ("", line),
    };
    let mut rest = rest.strip_prefix('/')?;
    let mut start = PathBuf::from("/");
    while let Some((name, more)) = rest.split_once('/') {
        if name.contains(SPECIAL) || matches!(name, "." | "..") {
            break;
        }
        start.push(name);
        rest = more;
    }
    (start.as_os_str() != "/").then_some((sign, start, rest))
}

fn through_links(line: &str, resolve: impl Fn(&Path) -> Option<PathBuf>) -> Option<String> {
    use std::os::unix::ffi::OsStrExt;
    let (sign, start, rest) = plain_start(line)?;
    let real = resolve(&start)?;
    let real = literal(real.as_os_str().as_bytes());
    Some(format!("{sign}{}/{rest}", real.trim_end_matches('/')))
}

/// Lines, ready to be asked. Cheap to clone; clones remember together what matched.
#[derive(Clone, Debug)]
pub struct Patterns(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: Gitignore,
    /// Some line names bytes that are not UTF-8.
    has_bytes: bool,
    lines: Vec<Typed>,
}

#[derive(Debug)]
struct Typed {
    text: String,
    /// The line without the others; it matches nothing where the line is blank or a comment.
    alone: Gitignore,
    has_matched: AtomicBool,
}

impl Patterns {
    /// Reads lines. Those with a slash inside start at `root`.
    ///
    /// # Errors
    /// [`Error::Pattern`] names the first that is wrong.
    pub fn new(root: &Path, lines: &[Line]) -> Result<Self, Error> {
        let mut all = builder(root);
        let mut has_bytes = false;
        let mut typed = Vec::with_capacity(lines.len());
        for (number, line) in lines.iter().enumerate() {
            let wrong = |error: ignore::Error| Error::Pattern {
                pattern: line.typed.clone(),
                reason: error.to_string(),
            };
            // The path given as the source of a glob comes back with each match.
            let source = PathBuf::from(number.to_string());
            let mut alone = builder(root);
            for form in &line.forms {
                let form = with_bytes(form, &mut has_bytes);
                all.add_line(Some(source.clone()), &form).map_err(wrong)?;
                alone.add_line(None, &form).map_err(wrong)?;
            }
            typed.push(Typed {
                text: line.typed.clone(),
                alone: alone.build().map_err(wrong)?,
                has_matched: AtomicBool::new(false),
            });
        }
        let rules = all.build().map_err(|error| Error::Pattern {
            pattern: String::new(),
            reason: error.to_string(),
        })?;
        Ok(Self(Arc::new(Inner {
            rules,
            has_bytes,
            lines: typed,
        })))
    }

    /// The lines of a `.gitignore` file. As for git, a line that makes no sense says nothing.
    pub(super) fn of_file(root: &Path, bytes: &[u8]) -> Self {
        let mut all = builder(root);
        let mut has_bytes = false;
        for line in file::without_mark(&text(bytes)).lines() {
            let _ = all.add_line(None, &with_bytes(line, &mut has_bytes));
        }
        Self(Arc::new(Inner {
            rules: all.build().unwrap_or_else(|_| Gitignore::empty()),
            has_bytes,
            lines: Vec::new(),
        }))
    }

    /// Whether no line says anything.
    pub fn is_empty(&self) -> bool {
        self.0.rules.is_empty()
    }

    /// Verdict of the last line that matches `path`: [`Match::Ignore`], or [`Match::Whitelist`]
    /// after a `!`. Goes by the path itself alone, not by the directories above it.
    pub fn matched(&self, path: &Path, is_dir: bool) -> Match<()> {
        use std::os::unix::ffi::OsStrExt;
        let inner = &*self.0;
        let escaped;
        let path = if inner.has_bytes && path.to_str().is_none() {
            escaped = PathBuf::from(stand_in(path.as_os_str().as_bytes()));
            &escaped
        } else {
            path
        };
        let found = inner.rules.matched(path, is_dir);
        if let Match::Ignore(glob) | Match::Whitelist(glob) = &found {
            let number = glob.from().and_then(|number| number.to_str()?.parse().ok());
            self.note(number, path, is_dir);
        }
        found.map(|_| ())
    }

    /// Notes that the line of this number matched, and which before it would have.
    fn note(&self, number: Option<usize>, path: &Path, is_dir: bool) {
        let Some(upto) = number.and_then(|number| self.0.lines.get(..=number)) else {
            return;
        };
        for (at, line) in upto.iter().enumerate() {
            let is_new = !line.has_matched.load(Ordering::Relaxed)
                && (Some(at) == number || !line.alone.matched(path, is_dir).is_none());
            if is_new {
                line.has_matched.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Lines that matched nothing so far, as they were typed. Blank ones and comments are not among
    /// them.
    pub fn unmatched(&self) -> Vec<String> {
        let lines = self.0.lines.iter();
        lines
            .filter(|line| !line.alone.is_empty() && !line.has_matched.load(Ordering::Relaxed))
            .map(|line| line.text.clone())
            .collect()
    }
}

fn builder(root: &Path) -> GitignoreBuilder {
    let mut builder = GitignoreBuilder::new(root);
    // Git takes an open bracket for itself; a person who types one has made a mistake.
    builder.allow_unclosed_class(false);
    builder
}

/// A line in which characters stand for the bytes that are not UTF-8.
fn with_bytes(line: &str, has_bytes: &mut bool) -> String {
    let mut bytes = Vec::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find('\\') {
        let (before, escape) = rest.split_at(at);
        bytes.extend_from_slice(before.as_bytes());
        let hex = escape
            .strip_prefix("\\x")
            .and_then(|digits| u8::from_str_radix(digits.get(..2)?, 16).ok())
            // Others are text, where `\x` is an `x`.
            .filter(|byte| !byte.is_ascii());
        let len = match hex {
            Some(byte) => {
                bytes.push(byte);
                4
            }
            None => {
                let escaped = escape.chars().nth(1).map_or(0, char::len_utf8);
                bytes.extend_from_slice(&escape.as_bytes()[..1 + escaped]);
                1 + escaped
            }
        };
        rest = &escape[len..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    match String::from_utf8(bytes) {
        Ok(line) => line,
        Err(error) => {
            *has_bytes = true;
            stand_in(error.as_bytes())
        }
    }
}

/// Text in which a character stands for each byte that is not UTF-8.
fn stand_in(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        let stand_in = |byte: &u8| char::from_u32(FIRST_BYTE + u32::from(*byte));
        text.extend(chunk.invalid().iter().filter_map(stand_in));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    fn patterns(lines: &[Line]) -> Patterns {
        Patterns::new(Path::new("/"), lines).expect("good patterns")
    }

    fn matches(patterns: &Patterns, path: &[u8]) -> bool {
        let path = Path::new(OsStr::from_bytes(path));
        patterns.matched(path, false).is_ignore()
    }

    #[test]
    fn relative_lines_with_a_slash_start_where_they_are_said_to() {
        let at = |line: &str| anchored(line, b"/home/u [1]");
        for (line, expected) in [
            ("sub/tmp", Some("/home/u \\[1\\]/sub/tmp")),
            ("!sub/tmp/", Some("!/home/u \\[1\\]/sub/tmp/")),
            ("./tmp", Some("/home/u \\[1\\]/tmp")),
            ("../tmp", Some("/home/tmp")),
            ("../../../tmp", Some("/tmp")),
            (".", Some("/home/u \\[1\\]/")),
            ("a/**/b", Some("/home/u \\[1\\]/a/**/b")),
            ("*.tmp", None),
            ("tmp/", None),
            ("/tmp", None),
            ("!/tmp/x", None),
            ("**/a/b", None),
            ("# a/b", None),
            ("", None),
        ] {
            assert_eq!(at(line).as_deref(), expected, "{line}");
        }
        assert_eq!(anchored("a/b", b"/").as_deref(), Some("/a/b"));
        let rules = patterns(&[Line::new("a/b").starting_at([&b"/x"[..], b"/y*"])]);
        assert!(matches(&rules, b"/a/b") && matches(&rules, b"/x/a/b"));
        assert!(matches(&rules, b"/y*/a/b") && !matches(&rules, b"/yy/a/b"));
        let rules = patterns(&[Line::new("a/b").anywhere(), Line::new("/c/d").anywhere()]);
        assert!(matches(&rules, b"/x/y/a/b") && !matches(&rules, b"/x/c/d"));
    }

    #[test]
    fn lines_lead_through_symlinks() {
        let resolve = |path: &Path| {
            let rest = path.strip_prefix("/link").ok()?;
            Some(Path::new("/real [x]").join(rest))
        };
        let of = |line: &str| Line::new(line).resolved(resolve).forms;
        assert_eq!(of("/link/a/*.o"), ["/link/a/*.o", "/real \\[x\\]/a/*.o"]);
        assert_eq!(of("!/link/a"), ["!/link/a", "!/real \\[x\\]/a"]);
        assert_eq!(of("/link/"), ["/link/", "/real \\[x\\]/"]);
        // The symlink itself.
        assert_eq!(of("/link"), ["/link"]);
        assert_eq!(of("link/a"), ["link/a"]);
        assert_eq!(Line::new("/a/b/*/c").ways(), [PathBuf::from("/a/b")]);
    }

    #[test]
    fn names_that_are_no_text_have_patterns() {
        let line = argument(b"caf\xe9*.tmp");
        assert_eq!(line, "caf\\xE9*.tmp");
        let rules = patterns(&[line.into()]);
        assert!(matches(&rules, b"/d/caf\xe9.tmp") && matches(&rules, b"/caf\xe9\xff1.tmp"));
        assert!(!matches(&rules, b"/cafe.tmp") && !matches(&rules, "/caf\u{e9}.tmp".as_bytes()));
        // Bytes that are text together are that text.
        let rules = patterns(&["caf\\xC3\\xA9".into(), "\\xe9\\\\xE9".into()]);
        assert!(matches(&rules, "/caf\u{e9}".as_bytes()) && matches(&rules, b"/\xe9\\xE9"));
        let file = Patterns::of_file(Path::new("/d"), b"a\xff\n[\n/b\n");
        assert!(matches(&file, b"/d/x/a\xff") && matches(&file, b"/d/b"));
        assert!(!matches(&file, b"/d/x/b") && !matches(&file, b"/d/a\xfe"));
    }

    #[test]
    fn arguments_are_names_to_the_last_byte() {
        for (name, other) in [
            (&b"name "[..], &b"name"[..]),
            (b"name  ", b"name "),
            (b"name\t", b"name"),
            (b"#name#", b"name"),
            (b"name\\ ", b"name"),
        ] {
            let rules = patterns(&[argument(name).into()]);
            let name = if name == b"name\\ " { b"name " } else { name };
            assert!(matches(&rules, name), "{}", name.escape_ascii());
            assert!(!matches(&rules, other), "{}", other.escape_ascii());
        }
    }

    #[test]
    fn lines_that_matched_nothing_are_named() {
        let lines = [
            "a.tmp",
            "*.tmp",
            "!keep.tmp",
            "none",
            "# comment",
            "",
            "x/y",
        ];
        let lines: Vec<Line> = lines.iter().map(|line| Line::new(*line)).collect();
        let rules = patterns(&lines);
        assert_eq!(
            rules.unmatched(),
            ["a.tmp", "*.tmp", "!keep.tmp", "none", "x/y"]
        );
        assert!(!matches(&rules, b"/b"));
        let again = rules.clone();
        // A line that a later one outdoes has matched as well.
        assert!(matches(&again, b"/d/a.tmp") && !matches(&again, b"/d/keep.tmp"));
        assert_eq!(rules.unmatched(), ["none", "x/y"]);
    }

    #[test]
    fn a_bad_line_is_named() {
        let error = Patterns::new(Path::new("/"), &["fine".into(), "a[".into()]);
        let error = error.expect_err("it is wrong");
        assert!(matches!(&error, Error::Pattern { pattern, .. } if pattern == "a["));
        assert!(error.to_string().contains("a["), "{error}");
    }

    proptest! {
        #[test]
        fn the_pattern_of_a_path_matches_that_path_alone(
            path in proptest::collection::vec(any::<u8>().prop_filter("a name", |b| ![0, b'/'].contains(b)), 1..12),
            other in proptest::collection::vec(any::<u8>().prop_filter("a name", |b| ![0, b'/'].contains(b)), 1..12),
        ) {
            prop_assume!(path != b"." && path != b"..");
            let rooted = |name: &[u8]| [b"/", name].concat();
            let line = argument(format!("/{}", literal(&path)).as_bytes());
            let rules = patterns(&[line.into()]);
            prop_assert!(matches(&rules, &rooted(&path)));
            prop_assert_eq!(matches(&rules, &rooted(&other)), path == other);
        }

        #[test]
        fn any_line_gives_an_answer(line in "(?s).{0,24}", path in "(?s)/.{0,24}") {
            let typed = argument(line.as_bytes());
            let line = Line::new(typed).starting_at([&b"/a"[..]]).anywhere();
            if let Ok(rules) = Patterns::new(Path::new("/"), &[line.resolved(|_| None)]) {
                let _ = (matches(&rules, path.as_bytes()), rules.unmatched());
            }
        }
    }
}
