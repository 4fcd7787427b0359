//! Looking for files by name through many snapshots.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;

use super::archive::read_snapshot;
use super::catalog::Listed;
use super::error::Error;
use crate::block::BlockSource;
use crate::bundle::Bundle;
use crate::bundle::pattern::{Line, Patterns};
use crate::bundle::tree::Entry;
use crate::id::BlockId;
use crate::time::Timestamp;

/// A file that matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The snapshot that it is in.
    pub snapshot: BlockId,
    /// When that was made.
    pub time: Timestamp,
    /// Names from the root down, with slashes between.
    pub path: Vec<u8>,
    /// What it is.
    pub entry: Entry,
}

/// What a search gave.
#[derive(Debug, Default)]
pub struct Hits {
    /// What matches, in the order of the snapshots given.
    pub matches: Vec<Hit>,
    /// There is more.
    pub more: bool,
    /// Snapshots that could not be read to the end, and why.
    pub unread: Vec<(BlockId, Error)>,
}

/// Looks through `snapshots` for names that match `pattern`: a line in the syntax of `.gitignore`,
/// where `*.txt` and `docs/*.txt` match at any depth, and `/home/*/x` from the root. A tree that
/// equals one that was looked through already is not read again. Stops after `limit` matches.
///
/// # Errors
/// [`Error::Bundle`] or [`Error::Setting`] for a wrong pattern. A snapshot that can't be read is
/// reported.
pub async fn find_files(
    source: Arc<dyn BlockSource>,
    snapshots: &[Listed],
    pattern: &str,
    limit: usize,
) -> Result<Hits, Error> {
    let pattern = compile(pattern)?;
    let mut hits = Hits::default();
    let mut seen = HashSet::new();
    for listed in snapshots {
        let found = look_through(&source, listed, &pattern, limit, &mut seen, &mut hits).await;
        match found {
            Ok(()) => {}
            Err(Error::Stopping) => return Err(Error::Stopping),
            Err(error) => hits.unread.push((listed.logged.snapshot.id, error)),
        }
        if hits.more {
            break;
        }
    }
    Ok(hits)
}

fn compile(pattern: &str) -> Result<Patterns, Error> {
    let lines = [Line::new(pattern).anywhere()];
    let compiled = Patterns::new(Path::new("/"), &lines)?;
    match compiled.is_empty() {
        true => Err(Error::Setting(format!(
            "the pattern '{pattern}' is wrong: it matches nothing"
        ))),
        false => Ok(compiled),
    }
}

async fn look_through(
    source: &Arc<dyn BlockSource>,
    listed: &Listed,
    pattern: &Patterns,
    limit: usize,
    seen: &mut HashSet<BlockId>,
    hits: &mut Hits,
) -> Result<(), Error> {
    use std::os::unix::ffi::OsStrExt;
    let snapshot = read_snapshot(&**source, &listed.logged.snapshot).await?;
    if !seen.insert(snapshot.tree.id) {
        return Ok(());
    }
    let bundle = Bundle::open(source.clone(), snapshot.tree).await?;
    let mut walk = bundle.walk();
    while let Some(walked) = walk.next().await {
        let walked = walked?;
        let path = Path::new(std::ffi::OsStr::from_bytes(&walked.path));
        let is_match = pattern.matched(path, walked.entry.is_directory());
        if walked.path.is_empty() || !is_match.is_ignore() {
            continue;
        }
        if hits.matches.len() == limit {
            hits.more = true;
            return Ok(());
        }
        hits.matches.push(Hit {
            snapshot: listed.logged.snapshot.id,
            time: snapshot.summary.started,
            path: walked.path,
            entry: walked.entry,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pattern_matches() {
        let matches = |pattern: &str, path: &str, is_dir: bool| {
            let pattern = compile(pattern).expect("a pattern");
            pattern.matched(Path::new(path), is_dir).is_ignore()
        };
        for (pattern, path) in [
            ("x", "home/u/sub/x"),
            ("*.odt", "home/u/a.odt"),
            ("sub/x", "home/u/sub/x"),
            ("sub/x", "sub/x"),
            ("sub/*.odt", "home/u/sub/a.odt"),
            ("**/sub/x", "home/u/sub/x"),
            ("/home/u/sub/x", "home/u/sub/x"),
            ("/home/*/sub/x", "home/u/sub/x"),
        ] {
            assert!(matches(pattern, path, false), "{pattern} {path}");
        }
        assert!(matches("u/sub/", "home/u/sub", true));
        for (pattern, path) in [
            ("sub/x", "home/other/x"),
            ("/sub/x", "home/u/sub/x"),
            ("u/sub/", "home/u/sub"),
            ("X", "x"),
        ] {
            assert!(!matches(pattern, path, false), "{pattern} {path}");
        }
        assert!(compile("#").is_err() && compile("").is_err());
    }
}
