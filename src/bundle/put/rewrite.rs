//! Putting what a bundle holds once more, without some of its blocks: what makes room when blocks are used in small part only.
//!
//! The rewriter stands in for the walker and the readers: it goes through the old tree and tells the assembler what to take. A file that
//! uses none of the blocks to be left is taken as it is, and its blocks are kept. Of other files the stretches in such blocks are read, and
//! go through packs again; the rest, and the shape of lists, stays. So the new tree reads the same, entry by entry.
//!
//! **Invariant**: whatever can't be had ends the work. A new tree never says less than the old one.
//!
//! It is meant for bundles that this program made: a tree may hold what only fits because it was packed cleverly by another.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio_util::sync::CancellationToken;

use super::attributes;
use super::previous::{self, Miss, head, wait};
use super::queue::Closed;
use super::read::{Chunk, Reader};
use super::seal::{Handle, Slot};
use super::walk::{BATCH_BYTES, BATCH_STEPS, Item, Step};
use super::{Origin, PutOptions, PutReport, run};
use crate::block::{BlockSink, ChunkHash, ChunkIndex, Context, GetError};
use crate::bundle::cursor::{ExtentCursor, MAX_LEVELS, Stretch};
use crate::bundle::error::Error;
use crate::bundle::read::{Bundle, Walk, cut};
use crate::bundle::tree::{Content, Entry, Extent, File, Node};
use crate::id::BlockId;
use crate::monitor::Monitor;

/// Blocks that are known to be kept; some 10 MiB. When there are more the oldest knowledge goes, and costs asking again.
const MAX_KEPT: usize = 1 << 18;
/// Blocks that are kept with one call for a file whose extents are in lists.
const KEEP_BATCH: usize = 1024;

/// Puts what `bundle` holds as a new bundle that uses none of the blocks `left` for content. `index` must not keep a block of these when it
/// is looked up.
///
/// # Errors
/// What reading the bundle says when a block can't be had, also one that is only to be kept; [`Error::Put`], [`Error::Cancelled`].
///
/// # Cancel safety
/// Dropping the future or cancelling stops the threads soon. What the sink has stays there.
pub async fn rewrite(
    bundle: &Bundle,
    left: Arc<HashSet<BlockId>>,
    context: Context,
    sink: Arc<dyn BlockSink>,
    index: Arc<dyn ChunkIndex>,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<PutReport, Error> {
    let root = bundle.root();
    let options = PutOptions {
        context,
        index_file: root.index_file.as_ref().map(|path| path.to_vec()),
        properties: root.properties.clone(),
        ..PutOptions::default()
    };
    let origin = Origin::Bundle(Old {
        bundle: bundle.clone(),
        left,
    });
    let stopped = CancellationToken::new();
    run(origin, options, sink, index, monitor, cancel, stopped).await
}

/// A bundle that is to be put once more.
pub(super) struct Old {
    pub(super) bundle: Bundle,
    /// Blocks that the new one must not use.
    pub(super) left: Arc<HashSet<BlockId>>,
}

/// A part of a file whose extents change.
pub(super) enum Shift {
    /// The file begins. What its content says of extents is replaced.
    Begin(Box<Entry<Handle>>),
    Same(Extent<Handle>),
    Data(Chunk),
    /// A list begins; it holds what follows up to its end.
    List,
    ListEnd,
    End,
}

/// Goes through the old tree.
pub(super) struct Rewriter<'a> {
    reader: &'a Reader<'a>,
    items: SyncSender<Item>,
    runtime: Runtime,
    old: Old,
    batch: Vec<Step>,
    batch_bytes: u64,
    kept: HashSet<[u8; 16]>,
}

impl<'a> Rewriter<'a> {
    pub(super) fn new(
        reader: &'a Reader<'a>,
        items: SyncSender<Item>,
        runtime: Runtime,
        old: Old,
    ) -> Self {
        Self {
            reader,
            items,
            runtime,
            old,
            batch: Vec::new(),
            batch_bytes: 0,
            kept: HashSet::new(),
        }
    }

    /// Hands everything out.
    pub(super) fn run(&mut self) -> Result<(), Miss> {
        let mut walk = Walk::new(&self.old.bundle);
        let mut open = 0;
        while let Some(entry) = self.wait(async { walk.next().await.transpose() })? {
            self.reader.shared.check()?;
            self.leave(&mut open, walk.depth())?;
            let (entry, file) = split(entry);
            match file {
                Some(file) => self.file(entry, file)?,
                None if entry.is_directory() => {
                    open += 1;
                    self.step(Step::Enter(entry), 0)?;
                }
                None => self.step(Step::Ready(entry), 0)?,
            }
        }
        self.leave(&mut open, 0)?;
        self.flush()
    }

    /// Ends directories until only `depth` are open.
    fn leave(&mut self, open: &mut usize, depth: usize) -> Result<(), Miss> {
        while *open > depth {
            *open -= 1;
            self.step(Step::Leave, 0)?;
        }
        Ok(())
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Miss> {
        wait(&self.runtime, &self.reader.shared.halted, work)
    }

    fn file(&mut self, entry: Entry<Handle>, file: File) -> Result<(), Miss> {
        if self.uses_left(&file)? {
            return self.shift(entry, file);
        }
        self.keep_all(&file)?;
        let content = Content::File(File {
            size: file.size,
            extents: previous::extents(file.extents),
            link_group: file.link_group,
        });
        self.step(Step::Ready(Entry { content, ..entry }), 0)
    }

    /// Whether a file uses blocks that are to be left.
    fn uses_left(&self, file: &File) -> Result<bool, Miss> {
        let left = &self.old.left;
        let mut has_lists = false;
        for extent in &file.extents {
            match extent {
                Extent::Data { block, .. } if left.contains(&block.id) => return Ok(true),
                Extent::List { .. } => has_lists = true,
                Extent::Data { .. } | Extent::Hole { .. } => {}
            }
        }
        if !has_lists {
            return Ok(false);
        }
        let mut cursor = self.cursor(file);
        self.wait(async {
            while let Some(step) = cursor.next().await {
                if let Stretch::Data { block, .. } = step?.1
                    && left.contains(&block.id)
                {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    fn cursor(&self, file: &File) -> ExtentCursor {
        let opener = self.old.bundle.opener().clone();
        ExtentCursor::new(opener, file.extents.clone(), 0..file.size).noting_lists()
    }

    /// Keeps every block of a file.
    fn keep_all(&mut self, file: &File) -> Result<(), Miss> {
        let has_lists = file
            .extents
            .iter()
            .any(|e| matches!(e, Extent::List { .. }));
        if !has_lists {
            let blocks = file.extents.iter().filter_map(|extent| match extent {
                Extent::Data { block, .. } => Some(block.id),
                Extent::Hole { .. } | Extent::List { .. } => None,
            });
            return self.keep(blocks.collect());
        }
        let mut cursor = self.cursor(file);
        loop {
            let mut ids = Vec::new();
            let (cursor, batch) = (&mut cursor, &mut ids);
            let is_end = self.wait(async {
                while batch.len() < KEEP_BATCH {
                    let step = cursor.next().await.transpose()?;
                    batch.extend(cursor.take_lists());
                    match step {
                        None => return Ok(true),
                        Some((_, Stretch::Data { block, .. })) => batch.push(block.id),
                        Some((_, Stretch::Hole { .. })) => {}
                    }
                }
                Ok(false)
            })?;
            self.keep(ids.clone())?;
            self.step(Step::Listed(ids), 0)?;
            if is_end {
                return Ok(());
            }
        }
    }

    fn keep(&mut self, mut ids: Vec<BlockId>) -> Result<(), Miss> {
        ids.retain(|id| !self.kept.contains(&head(id)));
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(());
        }
        let absent = self.reader.index.keep(&ids);
        let absent = absent.map_err(|error| Error::Put(crate::block::PutError::Store(error.0)))?;
        if let Some(id) = absent.first() {
            return Err(Miss::Error(Error::Get(GetError::NotFound {
                id: *id,
                after: Duration::ZERO,
                tried: Vec::new(),
            })));
        }
        if self.kept.len() + ids.len() > MAX_KEPT {
            self.kept.clear();
        }
        self.kept.extend(ids.iter().map(head));
        Ok(())
    }

    /// Hands out a file some of whose content moves.
    fn shift(&mut self, entry: Entry<Handle>, file: File) -> Result<(), Miss> {
        let content = Content::File(File {
            size: file.size,
            extents: Vec::new(),
            link_group: file.link_group,
        });
        let entry = Entry { content, ..entry };
        self.step(Step::Shift(Shift::Begin(Box::new(entry))), 0)?;
        let mut levels = vec![file.extents.into_iter()];
        while let Some(level) = levels.last_mut() {
            let (shift, bytes) = match level.next() {
                None => {
                    levels.pop();
                    let end = match levels.is_empty() {
                        true => Shift::End,
                        false => Shift::ListEnd,
                    };
                    (end, 0)
                }
                Some(Extent::Hole { len }) => (Shift::Same(Extent::Hole { len }), 0),
                Some(Extent::Data { block, offset, len }) if self.old.left.contains(&block.id) => {
                    let opener = self.old.bundle.opener();
                    let plaintext = self.wait(opener.plaintext(&block))?;
                    let bytes = cut(&plaintext, &block, offset, len)?;
                    (
                        Shift::Data(self.reader.chunk(bytes.to_vec())),
                        u64::from(len),
                    )
                }
                Some(Extent::Data { block, offset, len }) => {
                    self.keep(vec![block.id])?;
                    let block = Slot::known(block);
                    (Shift::Same(Extent::Data { block, offset, len }), 0)
                }
                Some(Extent::List { block, .. }) => {
                    let malformed = |what| Error::Malformed {
                        block: block.id,
                        what,
                    };
                    if levels.len() > MAX_LEVELS {
                        return Err(malformed("too many levels of lists").into());
                    }
                    let opener = self.old.bundle.opener();
                    let Node::Extents(extents) = self.wait(opener.node(&block))? else {
                        return Err(malformed("it holds something else than extents").into());
                    };
                    levels.push(extents.into_iter());
                    (Shift::List, 0)
                }
            };
            self.step(Step::Shift(shift), bytes)?;
        }
        Ok(())
    }

    fn step(&mut self, step: Step, bytes: u64) -> Result<(), Miss> {
        self.batch.push(step);
        self.batch_bytes += bytes;
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_STEPS {
            self.flush()?;
        }
        Ok(())
    }

    /// Looks up what was read, and hands the batch out.
    fn flush(&mut self) -> Result<(), Miss> {
        let mut steps = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.batch_bytes);
        if steps.is_empty() {
            return Ok(());
        }
        let mut chunks: Vec<&mut Chunk> = steps
            .iter_mut()
            .filter_map(|step| match step {
                Step::Shift(Shift::Data(chunk)) => Some(chunk),
                _ => None,
            })
            .collect();
        let hashes: Vec<ChunkHash> = chunks.iter().map(|chunk| chunk.hash).collect();
        for (chunk, known) in chunks.iter_mut().zip(self.reader.lookup(&hashes)) {
            chunk.known = known.filter(|known| {
                known.len as usize == chunk.bytes.len() && !self.old.left.contains(&known.id)
            });
        }
        let permit = self.reader.shared.read_budget.acquire(bytes as usize)?;
        let (out, read) = sync_channel(1);
        let item = Item::Steps(read, Some(permit));
        self.items.send(item).map_err(|_| Closed)?;
        out.send(steps).map_err(|_| Closed)?;
        Ok(())
    }
}

/// An entry without its content, and what is in it if it is a file.
fn split(entry: Entry) -> (Entry<Handle>, Option<File>) {
    let (content, file) = match entry.content {
        Content::File(file) => (attributes::no_bytes(file.link_group), Some(file)),
        Content::Directory(_) => (attributes::no_entries(), None),
        Content::Symlink(target) => (Content::Symlink(target), None),
        Content::Fifo => (Content::Fifo, None),
        Content::Device(device) => (Content::Device(device), None),
    };
    let entry = Entry {
        name: entry.name,
        mode: entry.mode,
        modified: entry.modified,
        owner: entry.owner,
        xattrs: entry.xattrs,
        identity: entry.identity,
        content,
    };
    (entry, file)
}
