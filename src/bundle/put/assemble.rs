//! The assembler: takes what was read in the order of the walk, and turns it into packs, chunks and tree blocks.
//!
//! It alone decides what goes where, from the order and the content only, so that the result does not depend on which thread was
//! faster. Tree blocks can be encoded only when the blocks that they name are sealed: they wait in a short queue.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use super::build::{Built, DirectoryBuilder, Emit, ExtentsBuilder, list_of};
use super::chunk::MIN_CHUNK_BYTES;
use super::queue::{Closed, Permit};
use super::read::{Chunk, Piece, SmallFile};
use super::rewrite::Shift;
use super::seal::{ChunkAt, Handle, SealJob, Shared, Slot};
use super::walk::{Item, REMEMBERED_GROUPS, Step};
use super::{MAX_REPORTED, Unreadable, note_left_out};
use crate::block::{ChunkHash, Link, MAX_PLAINTEXT_BYTES};
use crate::bundle::codec::encode_node;
use crate::bundle::root::Totals;
use crate::bundle::tree::{Content, Directory, Entry, Extent, Node, Part};
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};

/// Most chunks in one pack.
const PACK_CHUNKS: usize = 2048;
/// A pack is closed when this many tree blocks may wait for it.
const NODES_PER_PACK: usize = 8;
/// Tree blocks that may wait. More than may wait for one pack, so that the oldest never waits for the open one.
const NODES_WAITING: usize = 12;
/// Chunks of this run that are remembered: more than can be on their way to the index, so that a repeated chunk is found here or there.
const RECENT_CHUNKS: usize = 65_536;
/// Blocks that are counted; a bundle of more says that it doesn't know.
const COUNTED_BLOCKS: usize = 4_000_000;

/// Why assembling ended early.
pub(super) enum Failed {
    Closed,
    /// A reader ended without an answer.
    Reader,
    /// What was to be put could not be read at all.
    Root(PathBuf, io::Error),
}

impl From<Closed> for Failed {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

/// A tree without its root block.
pub(super) struct Assembled {
    pub(super) entry: Entry<Handle>,
    pub(super) totals: Totals,
    /// Distinct blocks besides the root block, unless there were too many to count.
    pub(super) blocks: Option<u64>,
    pub(super) unreadable: Vec<Unreadable>,
    pub(super) unreadable_total: u64,
    pub(super) left_out: Vec<Unreadable>,
    pub(super) unchanged: u64,
    pub(super) excluded: u64,
}

/// A file with the lists of extents that are open in it, outermost first.
type Shifting = (Entry<Handle>, Vec<Vec<Extent<Handle>>>);

pub(super) struct Assembler<'a> {
    writer: Writer<'a>,
    monitor: &'a dyn Monitor,
    directories: Vec<DirectoryBuilder>,
    groups: HashMap<u32, Entry<Handle>>,
    /// A file that is written anew from an earlier tree, and the lists that are open in it.
    shifting: Option<Shifting>,
    root: Option<Entry<Handle>>,
    failed_root: Option<(PathBuf, io::Error)>,
    totals: Totals,
    unreadable: Vec<Unreadable>,
    unreadable_total: u64,
    left_out: Vec<Unreadable>,
    unchanged: u64,
    excluded: u64,
}

impl<'a> Assembler<'a> {
    pub(super) fn new(shared: &'a Shared, monitor: &'a dyn Monitor) -> Self {
        Self {
            writer: Writer::new(shared),
            monitor,
            directories: Vec::new(),
            groups: HashMap::new(),
            shifting: None,
            root: None,
            failed_root: None,
            totals: Totals::default(),
            unreadable: Vec::new(),
            unreadable_total: 0,
            left_out: Vec::new(),
            unchanged: 0,
            excluded: 0,
        }
    }

    /// Takes everything; returns when every block but the root block is with the sink.
    pub(super) fn run(mut self, items: &Receiver<Item>) -> Result<Assembled, Failed> {
        while let Ok(item) = items.recv() {
            self.writer.shared.check()?;
            match item {
                Item::Steps(steps, permit) => self.steps(&steps, permit)?,
                Item::Large(pieces, path) => self.large(&pieces, path)?,
            }
            self.writer.write_settled()?;
            self.report_progress();
        }
        self.writer.shared.check()?;
        self.writer.finish()?;
        let Some(entry) = self.root else {
            return Err(match self.failed_root {
                Some((path, error)) => Failed::Root(path, error),
                None => Failed::Reader,
            });
        };
        let blocks = self.writer.count_blocks(&entry);
        self.totals.blocks = blocks.unwrap_or(0);
        Ok(Assembled {
            entry,
            totals: self.totals,
            blocks,
            unreadable: self.unreadable,
            unreadable_total: self.unreadable_total,
            left_out: self.left_out,
            unchanged: self.unchanged,
            excluded: self.excluded,
        })
    }

    fn report_progress(&self) {
        self.monitor.progress(Progress {
            files: self.totals.files,
            files_total: 0,
            bytes: self.totals.bytes,
            bytes_total: 0,
            blocks: self.writer.submitted,
            ..Progress::default()
        });
    }

    fn steps(&mut self, steps: &Receiver<Vec<Step>>, permit: Option<Permit>) -> Result<(), Failed> {
        let steps = steps.recv().map_err(|_| Failed::Reader)?;
        for step in steps {
            match step {
                Step::Enter(entry) => self.directories.push(DirectoryBuilder::new(entry)),
                Step::Leave => {
                    let directory = self.directories.pop().ok_or(Failed::Reader)?;
                    let built = directory.finish(&mut self.writer)?;
                    self.add(built)?;
                }
                Step::Ready(entry) => self.add(Built::leaf(entry))?,
                Step::Read(file) => self.small(*file)?,
                Step::Again {
                    entry,
                    link_group,
                    path,
                    ..
                } => self.again(entry, link_group, path)?,
                Step::Taken(entry) => {
                    self.unchanged += 1;
                    self.remember_group(&entry);
                    self.add(Built::leaf(*entry))?;
                }
                Step::Listed(ids) => self.writer.count(&ids),
                Step::Shift(shift) => self.shift(shift)?,
                Step::Excluded(names) => self.excluded += names,
                Step::LeftOut { path, reason } => note_left_out(&mut self.left_out, path, reason),
                Step::Unreadable { path, error } => self.unreadable(path, error),
                // A reader turned each into one of the others, and only a survey sees.
                Step::Small(_) | Step::Seen { .. } => return Err(Failed::Reader),
            }
        }
        drop(permit);
        Ok(())
    }

    fn unreadable(&mut self, path: PathBuf, error: io::Error) {
        let reason = error.to_string();
        if self.directories.is_empty() && self.root.is_none() {
            self.failed_root = Some((path.clone(), error));
        }
        self.unreadable_total += 1;
        if self.unreadable.len() < MAX_REPORTED {
            self.unreadable.push(Unreadable { path, reason });
        }
    }

    fn add(&mut self, built: Built) -> Result<(), Failed> {
        self.totals.entries += 1;
        if let Content::File(file) = &built.entry.content {
            self.totals.files += 1;
            self.totals.bytes += file.size;
        }
        match self.directories.last_mut() {
            Some(directory) => directory.push(built, &mut self.writer)?,
            None => self.root = Some(built.entry),
        }
        Ok(())
    }

    fn small(&mut self, file: SmallFile) -> Result<(), Failed> {
        let SmallFile { entry, chunk, note } = file;
        let mut extents = ExtentsBuilder::default();
        if let Some(chunk) = chunk {
            let hash = chunk.hash;
            let at = self.writer.place(chunk, true)?;
            extents.data(at, &hash, &mut self.writer)?;
        }
        self.finish_file(entry, extents)?;
        if let Some((path, error)) = note {
            self.unreadable(path, error);
        }
        Ok(())
    }

    fn large(&mut self, pieces: &Receiver<Piece>, path: PathBuf) -> Result<(), Failed> {
        let mut extents = ExtentsBuilder::default();
        let before = self.totals.bytes;
        loop {
            match pieces.recv().map_err(|_| Failed::Reader)? {
                Piece::Hole(len) => {
                    self.totals.bytes += len;
                    extents.hole(len, &mut self.writer)?;
                }
                Piece::Data(chunk) => {
                    self.totals.bytes += chunk.bytes.len() as u64;
                    let hash = chunk.hash;
                    let in_pack = chunk.bytes.len() < MIN_CHUNK_BYTES;
                    let at = self.writer.place(chunk, in_pack)?;
                    extents.data(at, &hash, &mut self.writer)?;
                }
                Piece::End(entry, note) => {
                    self.totals.bytes = before;
                    self.finish_file(*entry, extents)?;
                    if let Some(error) = note {
                        self.unreadable(path, error);
                    }
                    return Ok(());
                }
                Piece::Failed(error) => {
                    self.totals.bytes = before;
                    self.unreadable(path, error);
                    return Ok(());
                }
            }
            self.writer.shared.check()?;
            self.writer.write_settled()?;
            self.report_progress();
        }
    }

    fn finish_file(
        &mut self,
        mut entry: Entry<Handle>,
        extents: ExtentsBuilder,
    ) -> Result<(), Failed> {
        let (size, extents) = extents.finish(&mut self.writer)?;
        if let Content::File(file) = &mut entry.content {
            file.size = size;
            file.extents = extents;
        }
        self.remember_group(&entry);
        self.add(Built::leaf(entry))
    }

    /// Keeps a file that may have further names at hand.
    fn remember_group(&mut self, entry: &Entry<Handle>) {
        if let Content::File(file) = &entry.content
            && let Some(group) = file.link_group
        {
            self.groups.insert(group, entry.clone());
            // The walker has further links to groups as old as this read again.
            self.groups
                .retain(|other, _| *other + REMEMBERED_GROUPS > group);
        }
    }

    /// Takes a part of a file whose content is in an earlier tree.
    fn shift(&mut self, shift: Shift) -> Result<(), Failed> {
        let extent = match shift {
            Shift::Begin(entry) => {
                self.shifting = Some((*entry, vec![Vec::new()]));
                return Ok(());
            }
            Shift::Same(extent) => extent,
            Shift::Data(chunk) => {
                let (block, offset, len) = self.writer.place(chunk, true)?;
                Extent::Data { block, offset, len }
            }
            Shift::List => {
                let (_, levels) = self.shifting.as_mut().ok_or(Failed::Reader)?;
                levels.push(Vec::new());
                return Ok(());
            }
            Shift::ListEnd => {
                let (_, levels) = self.shifting.as_mut().ok_or(Failed::Reader)?;
                let extents = levels.pop().ok_or(Failed::Reader)?;
                list_of(extents, &mut self.writer)?
            }
            Shift::End => {
                let (mut entry, mut levels) = self.shifting.take().ok_or(Failed::Reader)?;
                if let Content::File(file) = &mut entry.content {
                    file.extents = levels.pop().ok_or(Failed::Reader)?;
                }
                return self.add(Built::leaf(entry));
            }
        };
        let (_, levels) = self.shifting.as_mut().ok_or(Failed::Reader)?;
        levels.last_mut().ok_or(Failed::Reader)?.push(extent);
        Ok(())
    }

    /// A further link to an inode: everything but the name is the same.
    fn again(
        &mut self,
        entry: Entry<Handle>,
        link_group: u32,
        path: PathBuf,
    ) -> Result<(), Failed> {
        let Some(first) = self.groups.get(&link_group) else {
            let error = io::Error::other("another name of the same file could not be read");
            self.unreadable(path, error);
            return Ok(());
        };
        let name = entry.name;
        let again = Entry {
            name,
            ..first.clone()
        };
        self.add(Built::leaf(again))
    }
}

/// Puts chunks into blocks and tree nodes behind them.
struct Writer<'a> {
    shared: &'a Shared,
    pack: Pack,
    recent: Recent,
    waiting: VecDeque<(Node<Handle>, Handle)>,
    /// The first 8 bytes of the digest of each block that the tree names. SHA-2 spreads them evenly: two of a million are alike once in
    /// 30 million bundles.
    blocks: HashSet<u64>,
    submitted: u64,
}

/// Small chunks that travel together.
#[derive(Default)]
struct Pack {
    parts: Vec<Vec<u8>>,
    chunks: Vec<ChunkAt>,
    bytes: usize,
    slot: Handle,
    nodes_since: usize,
}

/// Where the latest chunks of this run went.
#[derive(Default)]
struct Recent {
    places: HashMap<ChunkHash, (Handle, u32)>,
    order: VecDeque<ChunkHash>,
}

impl Recent {
    fn insert(&mut self, hash: ChunkHash, place: (Handle, u32)) {
        if self.order.len() >= RECENT_CHUNKS
            && let Some(oldest) = self.order.pop_front()
        {
            self.places.remove(&oldest);
        }
        if self.places.insert(hash, place).is_none() {
            self.order.push_back(hash);
        }
    }
}

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            pack: Pack::default(),
            recent: Recent::default(),
            waiting: VecDeque::new(),
            blocks: HashSet::new(),
            submitted: 0,
        }
    }

    /// Where the chunk is or will be: handle, offset, length.
    fn place(&mut self, chunk: Chunk, in_pack: bool) -> Result<(Handle, u32, u32), Closed> {
        let Chunk { bytes, hash, known } = chunk;
        let len = bytes.len() as u32;
        if let Some((handle, offset)) = self.recent.places.get(&hash) {
            return Ok((handle.clone(), *offset, len));
        }
        let place = match known {
            Some(known) => {
                let link = Link {
                    id: known.id,
                    key: known.key,
                };
                (Slot::known(Arc::new(link)), known.offset)
            }
            None if in_pack => self.pack(bytes, hash)?,
            None => {
                let slot = Handle::default();
                self.submit(vec![bytes], vec![(hash, 0, len)], slot.clone())?;
                (slot, 0)
            }
        };
        self.recent.insert(hash, place.clone());
        Ok((place.0, place.1, len))
    }

    fn pack(&mut self, bytes: Vec<u8>, hash: ChunkHash) -> Result<(Handle, u32), Closed> {
        if self.pack.bytes + bytes.len() > MAX_PLAINTEXT_BYTES
            || self.pack.chunks.len() >= PACK_CHUNKS
        {
            self.close_pack()?;
        }
        let pack = &mut self.pack;
        let (offset, len) = (pack.bytes as u32, bytes.len() as u32);
        pack.bytes += bytes.len();
        pack.chunks.push((hash, offset, len));
        pack.parts.push(bytes);
        Ok((pack.slot.clone(), offset))
    }

    fn close_pack(&mut self) -> Result<(), Closed> {
        let pack = std::mem::take(&mut self.pack);
        if pack.parts.is_empty() {
            return Ok(());
        }
        self.submit(pack.parts, pack.chunks, pack.slot)
    }

    fn submit(
        &mut self,
        parts: Vec<Vec<u8>>,
        chunks: Vec<ChunkAt>,
        slot: Handle,
    ) -> Result<(), Closed> {
        let permit = self.shared.permits.acquire(1)?;
        self.submitted += 1;
        self.shared.jobs.push(SealJob {
            parts,
            chunks,
            slot,
            permit,
        })
    }

    /// Encodes the tree blocks whose turn it is.
    fn write_settled(&mut self) -> Result<(), Closed> {
        while let Some((node, _)) = self.waiting.front() {
            if !is_settled(node) {
                return Ok(());
            }
            self.write_oldest()?;
        }
        Ok(())
    }

    /// Encodes the oldest tree block; waits for the blocks that it names.
    fn write_oldest(&mut self) -> Result<(), Closed> {
        let Some((node, slot)) = self.waiting.pop_front() else {
            return Ok(());
        };
        wait_for(&node)?;
        let (plaintext, ids) = encode_node(&node, &resolve);
        self.count(&ids);
        self.submit(vec![plaintext], Vec::new(), slot)
    }

    fn count(&mut self, ids: &[BlockId]) {
        for id in ids {
            if self.blocks.len() <= COUNTED_BLOCKS {
                let mut head = [0; 8];
                head.copy_from_slice(&id.digest()[..8]);
                self.blocks.insert(u64::from_le_bytes(head));
            }
        }
    }

    /// Sees to it that the sink has everything.
    fn finish(&mut self) -> Result<(), Closed> {
        self.close_pack()?;
        while !self.waiting.is_empty() {
            self.write_oldest()?;
        }
        drop(self.shared.permits.acquire_all()?);
        Ok(())
    }

    /// Distinct blocks of the tree with this root, which is not yet counted; `None` when there are too many to count.
    fn count_blocks(&mut self, root: &Entry<Handle>) -> Option<u64> {
        let mut ids = Vec::new();
        for_each_handle(root, &mut |handle| {
            ids.extend(handle.get().map(|link| link.id));
            true
        });
        self.count(&ids);
        let counted = self.blocks.len();
        (counted <= COUNTED_BLOCKS).then_some(counted as u64)
    }
}

impl Emit for Writer<'_> {
    type Error = Closed;

    fn emit(&mut self, node: Node<Handle>) -> Result<Handle, Closed> {
        let slot = Handle::default();
        self.waiting.push_back((node, slot.clone()));
        if !self.pack.parts.is_empty() {
            self.pack.nodes_since += 1;
            if self.pack.nodes_since >= NODES_PER_PACK {
                self.close_pack()?;
            }
        }
        while self.waiting.len() > NODES_WAITING {
            self.write_oldest()?;
        }
        Ok(slot)
    }
}

/// What a handle stands for; asked only when it is known to be settled.
pub(super) fn resolve(handle: &Handle) -> Arc<Link> {
    handle
        .get()
        .expect("nodes are encoded after what they name is sealed")
}

fn is_settled(node: &Node<Handle>) -> bool {
    all_handles(node, &mut |handle| handle.is_settled())
}

fn wait_for(node: &Node<Handle>) -> Result<(), Closed> {
    let mut result = Ok(());
    all_handles(node, &mut |handle| {
        if let Err(closed) = handle.wait() {
            result = Err(closed);
        }
        result.is_ok()
    });
    result
}

/// Whether `test` holds for all; stops at the first for which it doesn't.
fn all_handles(node: &Node<Handle>, test: &mut dyn FnMut(&Handle) -> bool) -> bool {
    match node {
        Node::Entries(entries) => entries.iter().all(|entry| for_each_handle(entry, test)),
        Node::Parts(parts) => parts.iter().all(|Part { block, .. }| test(block)),
        Node::Extents(extents) => all_of_extents(extents, test),
    }
}

fn for_each_handle(entry: &Entry<Handle>, test: &mut dyn FnMut(&Handle) -> bool) -> bool {
    match &entry.content {
        Content::File(file) => all_of_extents(&file.extents, test),
        Content::Directory(Directory::Block(block)) => test(block),
        Content::Directory(Directory::Inline(entries)) => {
            entries.iter().all(|entry| for_each_handle(entry, test))
        }
        Content::Symlink(_) | Content::Fifo | Content::Device(_) => true,
    }
}

fn all_of_extents(extents: &[Extent<Handle>], test: &mut dyn FnMut(&Handle) -> bool) -> bool {
    extents.iter().all(|extent| match extent {
        Extent::Data { block, .. } | Extent::List { block, .. } => test(block),
        Extent::Hole { .. } => true,
    })
}
