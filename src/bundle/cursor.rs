//! Steps through directories and files that may be spread over many blocks, one step at a time and in bounded memory.
//!
//! What the blocks say is checked on the way: parts are in order and start where they say, lists cover what they say, and
//! neither goes deeper than [`MAX_LEVELS`].

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::error::Error;
use super::opener::Opener;
use super::tree::{Content, Directory, Entry, Extent, Node, Part};
use crate::block::Link;
use crate::id::BlockId;

/// Most levels of parts in a directory, or of lists in a file. The writer puts hundreds in each level: 4 are plenty.
pub(super) const MAX_LEVELS: usize = 8;
/// Tree blocks that are fetched ahead.
const AHEAD: usize = 8;
/// Entries that are looked at to find what to fetch ahead.
const AHEAD_ENTRIES: usize = 2048;

enum Level {
    Entries(std::vec::IntoIter<Entry>),
    Parts(std::vec::IntoIter<Part>),
}

/// Yields the entries of one directory in order.
pub(super) struct EntryCursor {
    opener: Arc<Opener>,
    /// With the size of the block that each came from.
    levels: Vec<(Level, usize)>,
    /// Every name so far is below the next one.
    last: Option<Bytes>,
    /// A block that is to be loaded next, and what it must start with.
    pending: Option<(Arc<Link>, Option<Bytes>)>,
    ahead: JoinSet<()>,
}

impl EntryCursor {
    pub(super) fn new(opener: Arc<Opener>, directory: Directory) -> Self {
        let (levels, pending) = match directory {
            Directory::Inline(entries) => (vec![(Level::Entries(entries.into_iter()), 0)], None),
            Directory::Block(block) => (Vec::new(), Some((block, None))),
        };
        Self {
            opener,
            levels,
            last: None,
            pending,
            ahead: JoinSet::new(),
        }
    }

    /// The next entry. After an error the rest of the directory can still be had: what was in that block is left out.
    pub(super) async fn next(&mut self) -> Option<Result<Entry, Error>> {
        loop {
            if let Some((block, first)) = self.pending.take()
                && let Err(error) = self.load(&block, first).await
            {
                return Some(Err(error));
            }
            match &mut self.levels.last_mut()?.0 {
                Level::Entries(entries) => match entries.next() {
                    Some(entry) => {
                        self.last = Some(entry.name.clone());
                        return Some(Ok(entry));
                    }
                    None => drop(self.levels.pop()),
                },
                Level::Parts(parts) => match parts.next() {
                    Some(part) => {
                        let next: Vec<Arc<Link>> = parts
                            .as_slice()
                            .iter()
                            .take(AHEAD)
                            .map(|part| part.block.clone())
                            .collect();
                        self.pending = Some((part.block, Some(part.first_name)));
                        self.fetch_ahead(next);
                    }
                    None => drop(self.levels.pop()),
                },
            }
        }
    }

    /// Bytes of the tree blocks that it holds on to.
    pub(super) fn loaded_bytes(&self) -> usize {
        self.levels.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Has the blocks of the directories that come soon after the current entry fetched in the background.
    pub(super) fn look_ahead(&mut self) {
        let Some((Level::Entries(entries), _)) = self.levels.last() else {
            return;
        };
        let next: Vec<Arc<Link>> = entries
            .as_slice()
            .iter()
            .take(AHEAD_ENTRIES)
            .filter_map(|entry| match &entry.content {
                Content::Directory(Directory::Block(block)) => Some(block.clone()),
                _ => None,
            })
            .take(AHEAD)
            .collect();
        self.fetch_ahead(next);
    }

    fn fetch_ahead(&mut self, blocks: Vec<Arc<Link>>) {
        while self.ahead.try_join_next().is_some() {}
        for block in blocks {
            if self.ahead.len() >= AHEAD {
                return;
            }
            let opener = self.opener.clone();
            // An error shows again when the block is needed.
            self.ahead.spawn(async move {
                let _ = opener.plaintext(&block).await;
            });
        }
    }

    async fn load(&mut self, block: &Link, first: Option<Bytes>) -> Result<(), Error> {
        let (node, node_bytes) = self.opener.node_and_size(block).await?;
        let malformed = |what| Error::Malformed {
            block: block.id,
            what,
        };
        let (start, level) = match node {
            Node::Entries(entries) => (
                entries.first().map(|entry| entry.name.clone()),
                Level::Entries(entries.into_iter()),
            ),
            Node::Parts(parts) => (
                parts.first().map(|part| part.first_name.clone()),
                Level::Parts(parts.into_iter()),
            ),
            Node::Extents(_) => return Err(malformed("it holds extents in place of entries")),
        };
        if first.is_some() && start != first {
            return Err(malformed("a part that does not start where it should"));
        }
        if start.is_some() && start <= self.last {
            return Err(malformed("parts of a directory that overlap"));
        }
        if self.levels.len() >= MAX_LEVELS {
            return Err(malformed("too many levels of parts"));
        }
        self.levels.push((level, node_bytes));
        Ok(())
    }
}

/// One entry of a directory by name.
pub(super) async fn find(
    opener: &Opener,
    directory: &Directory,
    name: &[u8],
) -> Result<Option<Entry>, Error> {
    let mut block = match directory {
        Directory::Inline(entries) => return Ok(pick(entries, name)),
        Directory::Block(block) => block.clone(),
    };
    for _ in 0..=MAX_LEVELS {
        match opener.node(&block).await? {
            Node::Entries(entries) => return Ok(pick(&entries, name)),
            Node::Parts(parts) => {
                let after = parts.partition_point(|part| part.first_name <= name);
                match after.checked_sub(1).and_then(|at| parts.get(at)) {
                    Some(part) => block = part.block.clone(),
                    None => return Ok(None),
                }
            }
            Node::Extents(_) => {
                return Err(Error::Malformed {
                    block: block.id,
                    what: "it holds extents in place of entries",
                });
            }
        }
    }
    Err(Error::Malformed {
        block: block.id,
        what: "too many levels of parts",
    })
}

fn pick(entries: &[Entry], name: &[u8]) -> Option<Entry> {
    let at = entries
        .binary_search_by(|entry| entry.name[..].cmp(name))
        .ok()?;
    entries.get(at).cloned()
}

/// A stretch of a file as it is stored: data or hole.
#[derive(Clone, Debug)]
pub(super) enum Stretch {
    Data {
        block: Arc<Link>,
        offset: u32,
        len: u32,
    },
    Hole {
        len: u64,
    },
}

/// Yields the data and holes of a file in order, those from a range only.
pub(super) struct ExtentCursor {
    opener: Arc<Opener>,
    levels: Vec<std::vec::IntoIter<Extent>>,
    /// Where the next extent starts in the file.
    at: u64,
    start: u64,
    end: u64,
    /// Blocks of lists that were loaded; for who wants to know all blocks.
    lists: Option<Vec<BlockId>>,
}

impl ExtentCursor {
    pub(super) fn new(
        opener: Arc<Opener>,
        extents: Vec<Extent>,
        range: std::ops::Range<u64>,
    ) -> Self {
        Self {
            opener,
            levels: vec![extents.into_iter()],
            at: 0,
            start: range.start,
            end: range.end,
            lists: None,
        }
    }

    /// Notes which list blocks are loaded.
    pub(super) fn noting_lists(mut self) -> Self {
        self.lists = Some(Vec::new());
        self
    }

    /// The list blocks loaded since the last call.
    pub(super) fn take_lists(&mut self) -> Vec<BlockId> {
        self.lists.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Where in the file the next stretch starts, and the stretch, cut to the range. After an error the rest can still be had.
    pub(super) async fn next(&mut self) -> Option<Result<(u64, Stretch), Error>> {
        loop {
            if self.at >= self.end {
                return None;
            }
            let Some(extent) = self.levels.last_mut()?.next() else {
                self.levels.pop();
                continue;
            };
            let from = self.at;
            let to = from.saturating_add(extent.len());
            if to <= self.start {
                self.at = to;
                continue;
            }
            let (skip, keep_to) = (self.start.saturating_sub(from), to.min(self.end));
            let len = keep_to - from - skip;
            let stretch = match extent {
                Extent::List { block, len } => {
                    if let Err(error) = self.load(&block, len).await {
                        self.at = to;
                        return Some(Err(error));
                    }
                    continue;
                }
                Extent::Hole { .. } => Stretch::Hole { len },
                // Both fit: the extent's own length and offset are 32 bits.
                Extent::Data { block, offset, .. } => Stretch::Data {
                    block,
                    offset: offset + skip as u32,
                    len: len as u32,
                },
            };
            self.at = to;
            return Some(Ok((from + skip, stretch)));
        }
    }

    async fn load(&mut self, block: &Link, len: u64) -> Result<(), Error> {
        let malformed = |what| Error::Malformed {
            block: block.id,
            what,
        };
        if let Some(lists) = &mut self.lists {
            lists.push(block.id);
        }
        let Node::Extents(extents) = self.opener.node(block).await? else {
            return Err(malformed("it holds something else in place of extents"));
        };
        let sum: u128 = extents.iter().map(|extent| u128::from(extent.len())).sum();
        if sum != u128::from(len) {
            return Err(malformed("a list that covers more or less than it should"));
        }
        if self.levels.len() > MAX_LEVELS {
            return Err(malformed("too many levels of lists"));
        }
        self.levels.push(extents.into_iter());
        Ok(())
    }
}
