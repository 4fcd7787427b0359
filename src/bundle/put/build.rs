//! Decides which entries and extents go into which tree block.
//!
//! The decisions depend on names, sizes and content hashes alone, never on block ids (which may not be known yet) nor on timing: equal trees
//! give equal blocks. Boundaries are content-defined, so that a change in a large directory changes few blocks.

use super::chunk::MIN_CHUNK_BYTES;
use super::seal::Handle;
use crate::block::ChunkHash;
use crate::bundle::tree::{Content, Directory, Entry, Extent, Node, Part};
use crate::crypto::hash;

/// A closed directory of at most this many bytes stays inside its parent's message. A tree of source files has most of its directories
/// below 64 KiB; a block of its own for each would be a fetch of its own for each.
const INLINE_BYTES: usize = 64 << 10;
/// Directories inside each other in one message; well below what readers accept.
const INLINE_DEPTH: usize = 32;
/// A block of entries ends at a boundary from this size on...
const LEAF_MIN_BYTES: usize = 64 << 10;
/// ...which comes on average after this many more bytes...
const LEAF_MEAN_BYTES: usize = 64 << 10;
/// ...and at the latest here. About 128 KiB in all: 1,500 files; a change of one file costs a fraction of a data block.
const LEAF_MAX_BYTES: usize = 256 << 10;
/// Extents that a file's entry carries itself.
const INLINE_EXTENTS: usize = 256;
/// Fewest, average additional, and most items in a list of extents or parts.
const LIST_MIN: usize = 256;
const LIST_MEAN: u64 = 256;
const LIST_MAX: usize = 768;

/// About what an entry costs in bytes besides what is counted.
const ENTRY_BYTES: usize = 48;
/// About what is kept to recognise an unchanged file.
const IDENTITY_BYTES: usize = 24;
/// About what an extent costs, and an extent whose block no other entry of the message uses.
const EXTENT_BYTES: usize = 16;
const BLOCK_BYTES: usize = 88;

/// Takes a tree block and gives the handle under which its name will be known.
pub(super) trait Emit {
    type Error;
    fn emit(&mut self, node: Node<Handle>) -> Result<Handle, Self::Error>;
}

/// A finished entry and what it adds to the message that it goes into.
pub(super) struct Built {
    pub(super) entry: Entry<Handle>,
    bytes: usize,
    /// Levels of directories inside the entry, itself included.
    depth: usize,
}

impl Built {
    /// Anything but a directory with entries.
    pub(super) fn leaf(entry: Entry<Handle>) -> Self {
        let bytes = own_bytes(&entry);
        Self {
            entry,
            bytes,
            depth: 0,
        }
    }
}

fn own_bytes(entry: &Entry<Handle>) -> usize {
    let xattrs: usize = entry
        .xattrs
        .iter()
        .map(|xattr| xattr.name.len() + xattr.value.len() + 8)
        .sum();
    let content = match &entry.content {
        Content::File(file) => file.extents.iter().map(extent_bytes).sum(),
        Content::Directory(Directory::Block(_)) => BLOCK_BYTES,
        Content::Symlink(target) => target.len(),
        Content::Directory(Directory::Inline(_)) | Content::Fifo | Content::Device(_) => 0,
    };
    let identity = entry.identity.map_or(0, |_| IDENTITY_BYTES);
    ENTRY_BYTES + entry.name.len() + xattrs + identity + content
}

fn extent_bytes(extent: &Extent<Handle>) -> usize {
    let own_block = match extent {
        Extent::Data { len, .. } => *len as usize >= MIN_CHUNK_BYTES,
        Extent::List { .. } => true,
        Extent::Hole { .. } => false,
    };
    EXTENT_BYTES + if own_block { BLOCK_BYTES } else { 0 }
}

/// Collects the entries of one directory.
pub(super) struct DirectoryBuilder {
    entry: Entry<Handle>,
    entries: Vec<Entry<Handle>>,
    bytes: usize,
    depth: usize,
    parts: Levels<Part<Handle>>,
}

impl DirectoryBuilder {
    /// A directory with its attributes; what its `content` says is replaced.
    pub(super) fn new(entry: Entry<Handle>) -> Self {
        Self {
            entry,
            entries: Vec::new(),
            bytes: 0,
            depth: 0,
            parts: Levels::default(),
        }
    }

    /// Adds the next entry. Names come in ascending order.
    pub(super) fn push<E: Emit>(&mut self, built: Built, emit: &mut E) -> Result<(), E::Error> {
        let Built {
            entry,
            bytes,
            depth,
        } = built;
        self.bytes += bytes;
        self.depth = self.depth.max(depth);
        let may_end = self.bytes >= LEAF_MIN_BYTES;
        let ends = may_end
            && (self.bytes >= LEAF_MAX_BYTES || {
                let draw = draw(&entry.name);
                // The chance grows with the entry's size, so that blocks get alike in size whatever the entries are.
                u128::from(draw) * (LEAF_MEAN_BYTES as u128) < (bytes as u128) << 64
            });
        self.entries.push(entry);
        if ends {
            self.end_leaf(emit)?;
        }
        Ok(())
    }

    fn end_leaf<E: Emit>(&mut self, emit: &mut E) -> Result<(), E::Error> {
        let entries = std::mem::take(&mut self.entries);
        let Some(first) = entries.first() else {
            return Ok(());
        };
        let first_name = first.name.clone();
        self.bytes = 0;
        self.depth = 0;
        let block = emit.emit(Node::Entries(entries))?;
        let draw = draw(&first_name);
        self.parts
            .push(Part { first_name, block }, draw, &mut |parts| {
                part_of(parts, emit)
            })
    }

    /// The directory, inside the message or in blocks of its own.
    pub(super) fn finish<E: Emit>(mut self, emit: &mut E) -> Result<Built, E::Error> {
        let fits = self.bytes <= INLINE_BYTES && self.depth < INLINE_DEPTH;
        if self.parts.is_empty() && fits {
            self.entry.content = Content::Directory(Directory::Inline(self.entries));
            return Ok(Built {
                bytes: own_bytes(&self.entry) + self.bytes,
                depth: self.depth + 1,
                entry: self.entry,
            });
        }
        self.end_leaf(emit)?;
        let mut parts = self.parts.finish(1, &mut |parts| part_of(parts, emit))?;
        let block = match parts.pop() {
            Some(part) => part.block,
            None => emit.emit(Node::Entries(Vec::new()))?,
        };
        self.entry.content = Content::Directory(Directory::Block(block));
        Ok(Built::leaf(self.entry))
    }
}

fn part_of<E: Emit>(parts: Vec<Part<Handle>>, emit: &mut E) -> Result<Part<Handle>, E::Error> {
    let first_name = parts
        .first()
        .map(|part| part.first_name.clone())
        .unwrap_or_default();
    let block = emit.emit(Node::Parts(parts))?;
    Ok(Part { first_name, block })
}

/// Collects the extents of one file.
#[derive(Default)]
pub(super) struct ExtentsBuilder {
    size: u64,
    extents: Levels<Extent<Handle>>,
}

impl ExtentsBuilder {
    /// Adds data; `hash` is that of its plaintext.
    pub(super) fn data<E: Emit>(
        &mut self,
        at: (Handle, u32, u32),
        hash: &ChunkHash,
        emit: &mut E,
    ) -> Result<(), E::Error> {
        let (block, offset, len) = at;
        self.size += u64::from(len);
        let draw = u64::from_le_bytes([
            hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
        ]);
        self.extents
            .push(Extent::Data { block, offset, len }, draw, &mut |extents| {
                list_of(extents, emit)
            })
    }

    /// Adds a hole.
    pub(super) fn hole<E: Emit>(&mut self, len: u64, emit: &mut E) -> Result<(), E::Error> {
        self.size += len;
        let draw = draw(&self.size.to_le_bytes());
        self.extents
            .push(Extent::Hole { len }, draw, &mut |extents| {
                list_of(extents, emit)
            })
    }

    /// Length of the file and its extents.
    pub(super) fn finish<E: Emit>(
        self,
        emit: &mut E,
    ) -> Result<(u64, Vec<Extent<Handle>>), E::Error> {
        let extents = self
            .extents
            .finish(INLINE_EXTENTS, &mut |extents| list_of(extents, emit))?;
        Ok((self.size, extents))
    }
}

/// A list of extents in a block of its own.
pub(super) fn list_of<E: Emit>(
    extents: Vec<Extent<Handle>>,
    emit: &mut E,
) -> Result<Extent<Handle>, E::Error> {
    let len = extents.iter().map(Extent::len).sum();
    let block = emit.emit(Node::Extents(extents))?;
    Ok(Extent::List { block, len })
}

/// A number that depends on `bytes` alone and is spread evenly.
fn draw(bytes: &[u8]) -> u64 {
    const KEY: &[u8; 32] = b"libernet 2026-11 tree boundaries";
    let hash = hash::keyed(KEY, bytes);
    u64::from_le_bytes([
        hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7],
    ])
}

/// Items in groups, groups in groups of groups, and so on, while they come one by one: a B-tree grown from its leaves, with
/// boundaries drawn from the content.
struct Levels<T>(Vec<Vec<T>>);

impl<T> Default for Levels<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Levels<T> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn push<E>(
        &mut self,
        item: T,
        draw: u64,
        group: &mut dyn FnMut(Vec<T>) -> Result<T, E>,
    ) -> Result<(), E> {
        let (mut item, mut draw) = (item, draw);
        let mut level = 0;
        loop {
            if level == self.0.len() {
                self.0.push(Vec::new());
            }
            let items = &mut self.0[level];
            items.push(item);
            let len = items.len();
            let ends = len >= LIST_MAX || (len >= LIST_MIN && draw % LIST_MEAN == 0);
            if !ends {
                return Ok(());
            }
            item = group(std::mem::take(items))?;
            // Each level looks at other bits.
            draw /= LIST_MEAN;
            level += 1;
        }
    }

    /// At most `top` items that stand for all.
    fn finish<E>(
        mut self,
        top: usize,
        group: &mut dyn FnMut(Vec<T>) -> Result<T, E>,
    ) -> Result<Vec<T>, E> {
        let mut level = 0;
        while level < self.0.len() {
            let is_top = level + 1 == self.0.len();
            let items = std::mem::take(&mut self.0[level]);
            if is_top && items.len() <= top {
                return Ok(items);
            }
            if !items.is_empty() {
                let item = group(items)?;
                if is_top {
                    self.0.push(Vec::new());
                }
                self.0[level + 1].push(item);
            }
            level += 1;
        }
        Ok(Vec::new())
    }
}
