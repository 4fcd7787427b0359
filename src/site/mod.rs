//! Websites as directories: finds what keeps one from working as a bundle.
//!
//! A bundle is read at an origin of its own, under a path that its author doesn't know, and mostly
//! without the network that it was written on. So each page, style sheet, drawing and manifest may
//! load only what lies in the same directory, by relative references that name a file as it is
//! spelled.
//! Links that a person follows may lead elsewhere.
//!
//! Deliberately absent: what scripts load while they run (they are not read), validation of HTML
//! or CSS as such, and any change of the files.

mod css;
mod files;
mod html;
mod manifest;
mod position;
mod reference;

use std::fmt;
use std::path::{Path, PathBuf};

use files::Files;
use position::Lines;
use reference::{Judge, Use};

/// Largest file in bytes that is read for references. A longer one is a problem of its own.
const MAX_READ_BYTES: u64 = 32 << 20;
/// Most problems that a report lists. Further ones are counted.
pub const MAX_PROBLEMS: usize = 10_000;

/// A directory that could not be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The path is no directory.
    #[error("{0} is not a directory")]
    NotDirectory(PathBuf),
    /// A file or directory could not be read.
    #[error("{path} could not be read")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Cause that the system gave.
        source: std::io::Error,
    },
}

/// Kind of a problem. Scripts rely on its text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Kind {
    /// Something is loaded from another server.
    External,
    /// A reference starts at the root of the server.
    Absolute,
    /// A reference leads out of the directory.
    Outside,
    /// The file that a reference names is not there.
    Missing,
    /// The file is there under a name with other capital letters.
    Case,
    /// A `base` element changes the meaning of all relative references.
    Base,
    /// A reference can't be understood.
    Invalid,
    /// A file was too long, or nested too deeply, to be read to its end.
    Unread,
}

impl Kind {
    /// Word for the kind in JSON and in listings.
    pub fn name(self) -> &'static str {
        match self {
            Self::External => "external",
            Self::Absolute => "absolute",
            Self::Outside => "outside",
            Self::Missing => "missing",
            Self::Case => "case",
            Self::Base => "base",
            Self::Invalid => "invalid",
            Self::Unread => "unread",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A place in a site that does not work in a bundle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File relative to the site's directory. Bytes that are not UTF-8 are replaced.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1.
    pub column: u64,
    /// Kind of the problem.
    pub kind: Kind,
    /// Sentence about the problem, with what to do.
    pub text: String,
}

/// Result of a check.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Problems in the order of files and lines, at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// Number of problems that are not listed.
    pub more: u64,
    /// Number of files of the site.
    pub files: u64,
    /// Number of files that were read for references.
    pub read: u64,
    /// Number of links that a person may follow to other servers.
    pub links_out: u64,
}

impl Report {
    /// Number of all problems, listed or not.
    pub fn count(&self) -> u64 {
        self.problems.len() as u64 + self.more
    }

    fn push(&mut self, problem: Problem) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem);
        } else {
            self.more += 1;
        }
    }
}

/// Reads the site in `directory` and lists what would not work in a bundle.
///
/// # Errors
/// [`Error`], naming the file or directory.
pub fn check(directory: &Path) -> Result<Report, Error> {
    let files = Files::read(directory)?;
    let mut report = Report {
        files: files.count(),
        ..Report::default()
    };
    for (file, kind) in files.strays() {
        report.push(Problem {
            file: files::shown(file),
            line: 1,
            column: 1,
            kind: *kind,
            text: match kind {
                Kind::Outside => "this symbolic link leads out of the site: copy the file here",
                _ => "this symbolic link leads to nothing",
            }
            .to_owned(),
        });
    }
    for (file, syntax) in files.readable() {
        read_file(directory, file, syntax, &files, &mut report)?;
    }
    report.problems.sort();
    Ok(report)
}

/// Syntax of a file that can hold references.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    /// HTML, XHTML or SVG.
    Markup,
    /// A style sheet.
    Css,
    /// A web app manifest.
    Manifest,
}

impl Syntax {
    /// Syntax by a file's name, as browsers are told by its media type.
    fn of(name: &[u8]) -> Option<Self> {
        let dot = name.iter().rposition(|byte| *byte == b'.')?;
        match name.get(dot + 1..)?.to_ascii_lowercase().as_slice() {
            b"html" | b"htm" | b"xhtml" | b"xht" | b"svg" => Some(Self::Markup),
            b"css" => Some(Self::Css),
            b"webmanifest" => Some(Self::Manifest),
            _ => None,
        }
    }
}

/// Finds the references of one file, and adds those that don't work to the report.
fn read_file(
    directory: &Path,
    file: &[u8],
    syntax: Syntax,
    files: &Files,
    report: &mut Report,
) -> Result<(), Error> {
    let path = directory.join(files::to_path(file));
    let failed = |source| Error::Read {
        path: path.clone(),
        source,
    };
    if std::fs::metadata(&path).map_err(failed)?.len() > MAX_READ_BYTES {
        report.push(Problem {
            file: files::shown(file),
            line: 1,
            column: 1,
            kind: Kind::Unread,
            text: format!(
                "the file has more than {} and was not read for references",
                crate::size::ByteSize(MAX_READ_BYTES)
            ),
        });
        return Ok(());
    }
    let bytes = std::fs::read(&path).map_err(failed)?;
    report.read += 1;
    let mut found = Found::default();
    match syntax {
        Syntax::Markup => html::read(&bytes, &mut found),
        Syntax::Css => css::read(&String::from_utf8_lossy(&bytes), 0, &mut found),
        Syntax::Manifest => manifest::read(&bytes, &mut found),
    }
    let judge = Judge::new(file, files);
    let lines = Lines::of(&bytes);
    for Reference {
        at,
        raw,
        place,
        usage,
    } in found.references
    {
        let Some((kind, text)) = judge.judge(&raw, usage, &mut report.links_out) else {
            continue;
        };
        let (line, column) = lines.position(at);
        report.push(Problem {
            file: files::shown(file),
            line,
            column,
            kind,
            text: format!("{place}: {text}"),
        });
    }
    for (at, kind, text) in found.faults {
        let (line, column) = lines.position(at);
        report.push(Problem {
            file: files::shown(file),
            line,
            column,
            kind,
            text,
        });
    }
    Ok(())
}

/// References of one file as its reader finds them.
#[derive(Debug, Default)]
struct Found {
    references: Vec<Reference>,
    /// Faults that are no reference: offset, kind, text.
    faults: Vec<(usize, Kind, String)>,
}

/// A reference to another file or server.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference {
    /// Offset of the reference in its file, in bytes.
    at: usize,
    /// Reference as it is written, without the escapes of its syntax.
    raw: String,
    /// Place where it stands, such as `img src`.
    place: String,
    usage: Use,
}

impl Found {
    fn reference(&mut self, at: usize, raw: impl Into<String>, place: &str, usage: Use) {
        self.references.push(Reference {
            at,
            raw: raw.into(),
            place: place.to_owned(),
            usage,
        });
    }

    fn fault(&mut self, at: usize, kind: Kind, text: impl Into<String>) {
        self.faults.push((at, kind, text.into()));
    }
}

#[cfg(test)]
mod tests;
