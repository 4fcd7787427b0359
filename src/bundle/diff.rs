//! What two bundles differ in, told one change at a time.
//!
//! Both trees are gone through side by side in the order of names; parts that are the same block are neither fetched nor looked at. Files
//! are compared by where their content is, not byte by byte: content that was stored twice, in different contexts or after its
//! block was lost, counts as changed. What is kept to recognise unchanged files (inode, time of change) is no difference, nor is
//! which names are hard links of each other.

use std::cmp::Ordering;

use super::cursor::EntryCursor;
use super::error::Error;
use super::read::Bundle;
use super::tree::{Content, Directory, Entry, MAX_DEPTH};

/// Most bytes of tree blocks that are held over all levels of both trees.
const MAX_HELD_BYTES: usize = 128 << 20;

/// One name that is not the same in both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Names from the root down, with slashes between.
    pub path: Vec<u8>,
    /// In what it differs.
    pub kind: ChangeKind,
    /// What it was; directories without what is in them.
    pub before: Option<Entry>,
    /// What it is now.
    pub after: Option<Entry>,
}

/// In what a name differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It was not there before.
    Added,
    /// It is no longer there.
    Removed,
    /// A file has other bytes, a symlink another target, a device another number.
    Content,
    /// Only mode, time, owner or extended attributes differ.
    Attributes,
    /// It is something else now: a file that was a directory.
    Kind,
}

/// How much two bundles differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct DiffReport {
    /// Names that are new.
    pub added: u64,
    /// Names that are gone.
    pub removed: u64,
    /// Names with other content or of another kind.
    pub changed: u64,
    /// Names of which only attributes differ.
    pub attributes: u64,
    /// Bytes of files that are new or changed, as they are now.
    pub added_bytes: u64,
    /// Bytes of files that are gone or changed, as they were.
    pub removed_bytes: u64,
}

/// Tells `sink` every name that differs between `before` and `after`, in the order of paths, a directory before what is in it.
///
/// # Errors
/// When a tree block that is needed can't be had or is malformed: what was told until then is right, the rest is not known.
///
/// # Cancel safety
/// Safe.
pub async fn diff(
    before: &Bundle,
    after: &Bundle,
    sink: impl FnMut(Change) + Send,
) -> Result<DiffReport, Error> {
    let mut differ = Differ {
        bundles: [before, after],
        sink,
        levels: Vec::new(),
        path: Vec::new(),
        report: DiffReport::default(),
    };
    let roots = [before, after].map(|bundle| Some(bundle.root().entry.clone()));
    differ.pair(roots)?;
    while let Some(level) = differ.levels.last_mut() {
        let pair = level.next().await?;
        let path_bytes = level.path_bytes;
        differ.path.truncate(path_bytes);
        let Some(name) = pair.iter().flatten().next().map(|entry| entry.name.clone()) else {
            differ.levels.pop();
            continue;
        };
        if !differ.path.is_empty() {
            differ.path.push(b'/');
        }
        differ.path.extend_from_slice(&name);
        differ.pair(pair)?;
    }
    Ok(differ.report)
}

struct Differ<'a, S> {
    /// Before and after.
    bundles: [&'a Bundle; 2],
    sink: S,
    levels: Vec<Level>,
    path: Vec<u8>,
    report: DiffReport,
}

/// A directory on both sides, or on one.
struct Level {
    sides: [Option<Side>; 2],
    path_bytes: usize,
}

struct Side {
    cursor: EntryCursor,
    next: Option<Entry>,
}

impl Level {
    /// The next name: what it is on each side. Nothing on both sides at the end.
    async fn next(&mut self) -> Result<[Option<Entry>; 2], Error> {
        for side in self.sides.iter_mut().flatten() {
            if side.next.is_none() {
                side.next = side.cursor.next().await.transpose()?;
            }
        }
        let [before, after] = &mut self.sides;
        let order = match (name_of(before), name_of(after)) {
            (Some(before), Some(after)) => before.cmp(after),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        let take = |side: &mut Option<Side>| side.as_mut().and_then(|side| side.next.take());
        Ok(match order {
            Ordering::Less => [take(before), None],
            Ordering::Equal => [take(before), take(after)],
            Ordering::Greater => [None, take(after)],
        })
    }

    fn held_bytes(&self) -> usize {
        let sides = self.sides.iter().flatten();
        sides.map(|side| side.cursor.loaded_bytes()).sum()
    }
}

fn name_of(side: &Option<Side>) -> Option<&[u8]> {
    Some(&side.as_ref()?.next.as_ref()?.name)
}

impl<S: FnMut(Change)> Differ<'_, S> {
    /// Tells of one name and goes into it if there may be more.
    fn pair(&mut self, pair: [Option<Entry>; 2]) -> Result<(), Error> {
        let [mut before, mut after] = pair;
        let insides = [inside(&mut before), inside(&mut after)];
        let kind = match (&before, &after) {
            (Some(before), Some(after)) => compare(before, after),
            (Some(_), None) => Some(ChangeKind::Removed),
            (None, Some(_)) => Some(ChangeKind::Added),
            (None, None) => None,
        };
        if let Some(kind) = kind {
            self.tell(kind, before, after);
        }
        self.enter(insides)
    }

    fn tell(&mut self, kind: ChangeKind, before: Option<Entry>, after: Option<Entry>) {
        let report = &mut self.report;
        let counter = match kind {
            ChangeKind::Added => &mut report.added,
            ChangeKind::Removed => &mut report.removed,
            ChangeKind::Content | ChangeKind::Kind => &mut report.changed,
            ChangeKind::Attributes => &mut report.attributes,
        };
        *counter += 1;
        if kind != ChangeKind::Attributes {
            let size = |entry: &Option<Entry>| entry.as_ref().map_or(0, Entry::size);
            report.removed_bytes = report.removed_bytes.saturating_add(size(&before));
            report.added_bytes = report.added_bytes.saturating_add(size(&after));
        }
        (self.sink)(Change {
            path: self.path.clone(),
            kind,
            before,
            after,
        });
    }

    fn enter(&mut self, insides: [Option<Directory>; 2]) -> Result<(), Error> {
        match &insides {
            [None, None] => return Ok(()),
            [Some(before), Some(after)] if is_equal(before, after) => return Ok(()),
            _ => {}
        }
        let held: usize = self.levels.iter().map(Level::held_bytes).sum();
        if self.levels.len() >= MAX_DEPTH || held > MAX_HELD_BYTES {
            return Err(Error::Malformed {
                block: self.bundles[0].link().id,
                what: "directories nested too deeply",
            });
        }
        let [before, after] = insides;
        let side = |bundle: &Bundle, directory: Option<Directory>| {
            directory.map(|directory| Side {
                cursor: EntryCursor::new(bundle.opener().clone(), directory),
                next: None,
            })
        };
        self.levels.push(Level {
            sides: [side(self.bundles[0], before), side(self.bundles[1], after)],
            path_bytes: self.path.len(),
        });
        Ok(())
    }
}

/// Takes what is in a directory out of its entry.
fn inside(entry: &mut Option<Entry>) -> Option<Directory> {
    match &mut entry.as_mut()?.content {
        Content::Directory(directory) => {
            Some(std::mem::replace(directory, Directory::Inline(Vec::new())))
        }
        _ => None,
    }
}

fn is_equal(before: &Directory, after: &Directory) -> bool {
    match (before, after) {
        (Directory::Block(before), Directory::Block(after)) => before.id == after.id,
        (Directory::Inline(before), Directory::Inline(after)) => before == after,
        _ => false,
    }
}

fn compare(before: &Entry, after: &Entry) -> Option<ChangeKind> {
    let same_content = match (&before.content, &after.content) {
        (Content::File(before), Content::File(after)) => {
            before.size == after.size && before.extents == after.extents
        }
        (Content::Directory(_), Content::Directory(_)) | (Content::Fifo, Content::Fifo) => true,
        (Content::Symlink(before), Content::Symlink(after)) => before == after,
        (Content::Device(before), Content::Device(after)) if before.is_block == after.is_block => {
            before == after
        }
        _ => return Some(ChangeKind::Kind),
    };
    let same_attributes = before.mode == after.mode
        && before.modified == after.modified
        && before.owner == after.owner
        && before.xattrs == after.xattrs;
    match (same_content, same_attributes) {
        (false, _) => Some(ChangeKind::Content),
        (true, false) => Some(ChangeKind::Attributes),
        (true, true) => None,
    }
}
