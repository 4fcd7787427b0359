//! Reading a bundle without extracting it: listing, looking up, streaming one file, naming its blocks.
//!
//! Everything is a stream in bounded memory; nothing is fetched that is not needed for what was asked. Streams own what they
//! need and may outlive the [`Bundle`] that gave them. Deliberately absent: the file system.

use std::collections::{HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream, FuturesUnordered};

use super::codec::MAX_NODE_BYTES;
use super::cursor::{EntryCursor, ExtentCursor, Stretch, find};
use super::error::Error;
use super::opener::Opener;
use super::root::Root;
use super::tree::{Content, Directory, Entry, Extent, MAX_DEPTH, Node};
use crate::block::{BlockSource, Link};
use crate::crypto::hash;
use crate::id::BlockId;
use crate::path::unshown;

/// Blocks of one file that are fetched ahead of the reader.
const READ_AHEAD_BLOCKS: usize = 8;
/// Tree blocks fetched at once when all blocks are listed.
const LIST_AHEAD_BLOCKS: usize = 16;
/// Most symlinks that are followed for one path, as in Linux.
const MAX_LINKS: usize = 40;
/// Most bytes of tree blocks that a walk holds on to, over all levels. A tree that needs more has hundreds of directories of thousands
/// of entries each inside each other.
const MAX_HELD_BYTES: usize = 64 << 20;
/// Holes come out as slices of this many zeros.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An opened bundle. Cheap to clone.
#[derive(Clone)]
pub struct Bundle {
    inner: Arc<Inner>,
}

struct Inner {
    link: Link,
    root: Root,
    /// Path of the root in the whole bundle; empty for the whole.
    part: Vec<u8>,
    opener: Arc<Opener>,
}

/// One step of a walk.
#[derive(Clone, Debug)]
pub struct Walked {
    /// Names from the root down, with slashes between; empty for the root itself.
    pub path: Vec<u8>,
    /// What is there.
    pub entry: Entry,
}

/// Treatment of a symlink at the end of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Last {
    /// The symlink itself is meant.
    Itself,
    /// The entry that it leads to is meant.
    Followed,
}

/// Something in a bundle, and where.
#[derive(Clone, Debug)]
pub struct Found {
    /// Names from the root down, with slashes between and without symlinks on the way.
    pub path: Vec<u8>,
    /// The entry that is there.
    pub entry: Entry,
}

impl Bundle {
    /// Fetches and reads the root block.
    ///
    /// # Errors
    /// [`Error::Get`] when the block can't be had, [`Error::Open`] when the key is wrong, [`Error::NotABundle`] when it is some other
    /// block, [`Error::UnknownVersion`] and [`Error::Malformed`].
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn open(source: Arc<dyn BlockSource>, link: Link) -> Result<Self, Error> {
        let opener = Arc::new(Opener::new(source));
        let plaintext = opener.plaintext(&link).await?;
        let root = Root::decode(link.id, &plaintext)?;
        Ok(Self {
            inner: Arc::new(Inner {
                link,
                root,
                part: Vec::new(),
                opener,
            }),
        })
    }

    /// The link that it was opened with.
    pub fn link(&self) -> &Link {
        &self.inner.link
    }

    /// The root: kind, totals, index file, properties and the root entry.
    pub fn root(&self) -> &Root {
        &self.inner.root
    }

    /// Whether it is a part of another bundle.
    pub(super) fn is_part(&self) -> bool {
        !self.inner.part.is_empty()
    }

    pub(super) fn opener(&self) -> &Arc<Opener> {
        &self.inner.opener
    }

    /// A part of the bundle as a bundle of its own: what [`lookup`](Self::lookup) found at `path` is the root. Totals, index file and
    /// properties stay those of the whole.
    pub fn part(&self, path: &[u8], entry: Entry) -> Self {
        let root = Root {
            entry,
            ..self.inner.root.clone()
        };
        Self {
            inner: Arc::new(Inner {
                link: self.inner.link.clone(),
                root,
                part: path.to_vec(),
                opener: self.inner.opener.clone(),
            }),
        }
    }

    /// A short name that tells this bundle, or this part of it, from others: half-done work is kept under it.
    pub(super) fn tag(&self) -> String {
        let id = self.inner.link.id.to_hex();
        if self.inner.part.is_empty() {
            return id[..8].to_owned();
        }
        let part = hash::sha384_id(&[id.as_bytes(), &self.inner.part].concat());
        part.to_hex()[..8].to_owned()
    }

    /// Entry at `path`: names with slashes between, slashes at the ends don't matter, empty for the
    /// root. Symlinks on the way are followed, one at the end is not. `None` when there is nothing.
    ///
    /// # Errors
    /// When a block on the way is missing or malformed.
    pub async fn lookup(&self, path: &[u8]) -> Result<Option<Entry>, Error> {
        let found = self.find(path, Last::Itself).await?;
        Ok(found.map(|found| found.entry))
    }

    /// Entry at `path`, and its place once symlinks are followed. Only places in the bundle are
    /// ever found: a symlink that leads out of it leads nowhere. An absolute one leads on only
    /// where the root of the bundle is that of a file system, as in snapshots: such a root has no
    /// name. A name that is not there is tried once more as [`shown`](crate::path::shown) writes
    /// those that are no text.
    ///
    /// # Errors
    /// As [`lookup`](Self::lookup).
    pub async fn find(&self, path: &[u8], last: Last) -> Result<Option<Found>, Error> {
        let root = &self.inner.root.entry;
        let is_system = root.name.is_empty();
        // With whether a symlink says so: `..` means something there only.
        let mut rest: VecDeque<(Bytes, bool)> = names_of(path).map(|name| (name, false)).collect();
        let mut links = 0;
        let mut way: Vec<Entry> = Vec::new();
        while let Some((name, is_of_link)) = rest.pop_front() {
            match &name[..] {
                b"." if is_of_link => continue,
                b".." if is_of_link && (way.pop().is_some() || is_system) => continue,
                b".." if is_of_link => return Ok(None),
                _ => {}
            }
            let Content::Directory(directory) = &way.last().unwrap_or(root).content else {
                return Ok(None);
            };
            let mut entry = find(&self.inner.opener, directory, &name).await?;
            if entry.is_none() && !is_of_link {
                // A person types a name that is no text as listings show it.
                if let Some(bytes) = unshown(&name) {
                    entry = find(&self.inner.opener, directory, &bytes).await?;
                }
            }
            let Some(entry) = entry else {
                return Ok(None);
            };
            let is_passed = !rest.is_empty() || last == Last::Followed;
            let Some(target) = entry.link_target().filter(|_| is_passed).cloned() else {
                way.push(entry);
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Ok(None);
            }
            if target.starts_with(b"/") {
                if !is_system {
                    return Ok(None);
                }
                way.clear();
            }
            let further: Vec<Bytes> = names_of(&target).collect();
            for name in further.into_iter().rev() {
                rest.push_front((name, true));
            }
        }
        let names: Vec<&[u8]> = way.iter().map(|entry| &entry.name[..]).collect();
        Ok(Some(Found {
            path: names.join(&b'/'),
            entry: way.pop().unwrap_or_else(|| root.clone()),
        }))
    }

    /// The entries of a directory, sorted by name. An error stands for the entries of one block; the rest follows.
    pub fn entries(&self, directory: &Entry) -> BoxStream<'static, Result<Entry, Error>> {
        let Content::Directory(directory) = &directory.content else {
            return stream::once(async { Err(Error::NotADirectory) }).boxed();
        };
        let cursor = EntryCursor::new(self.inner.opener.clone(), directory.clone());
        stream::unfold(cursor, async |mut cursor| {
            cursor.next().await.map(|entry| (entry, cursor))
        })
        .boxed()
    }

    /// Everything, depth first, each directory before its entries. An error stands for one block; the rest follows.
    pub fn walk(&self) -> BoxStream<'static, Result<Walked, Error>> {
        stream::unfold(Walk::new(self), async |mut walk| {
            walk.next().await.map(|step| {
                let step = step.map(|entry| Walked {
                    path: walk.path.clone(),
                    entry,
                });
                (step, walk)
            })
        })
        .boxed()
    }

    /// The bytes of a file from `range`, in order, fetched a few blocks ahead. A range past the end is cut. After an error nothing
    /// more comes.
    pub fn read_file(
        &self,
        file: &Entry,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, Error>> {
        let Content::File(file) = &file.content else {
            return stream::once(async { Err(Error::NotAFile) }).boxed();
        };
        let range = range.start..range.end.min(file.size);
        let opener = self.inner.opener.clone();
        let cursor = ExtentCursor::new(opener.clone(), file.extents.clone(), range);
        let stretches = stream::unfold(cursor, async |mut cursor| {
            cursor.next().await.map(|stretch| (stretch, cursor))
        });
        let pieces = stretches
            .map(move |stretch| {
                let opener = opener.clone();
                async move {
                    match stretch?.1 {
                        Stretch::Hole { len } => Ok(Piece::Zeros(len)),
                        Stretch::Data { block, offset, len } => {
                            let plaintext = opener.plaintext(&block).await?;
                            cut(&plaintext, &block, offset, len).map(Piece::Bytes)
                        }
                    }
                }
            })
            .buffered(READ_AHEAD_BLOCKS)
            .flat_map(|piece| match piece {
                Ok(piece) => piece.into_stream(),
                Err(error) => stream::once(async { Err(error) }).boxed(),
            });
        until_error(pieces.boxed())
    }

    /// The ids of every block of the bundle, the root first, each once, in no particular order after that. An error stands for a
    /// tree block that could not be had, whose id came before; the rest follows. Keeps 16 bytes a block in memory.
    pub fn all_blocks(&self) -> BoxStream<'static, Result<BlockId, Error>> {
        let mut lister = Lister {
            opener: self.inner.opener.clone(),
            seen: HashSet::new(),
            waiting: Vec::new(),
            loading: FuturesUnordered::new(),
        };
        let mut first = vec![self.inner.link.id];
        lister.see(&self.inner.link.id);
        lister.entry(&self.inner.root.entry, &mut first);
        let rest = stream::unfold(lister, async |mut lister| {
            lister.next().await.map(|found| (found, lister))
        });
        stream::once(async { Ok(first) })
            .chain(rest)
            .flat_map(|found| match found {
                Ok(ids) => stream::iter(ids.into_iter().map(Ok)).left_stream(),
                Err(error) => stream::once(async { Err(error) }).right_stream(),
            })
            .boxed()
    }

    /// The ids of the blocks that hold one file's content, in order, repetitions in a row left out.
    pub fn file_blocks(&self, file: &Entry) -> BoxStream<'static, Result<BlockId, Error>> {
        let Content::File(file) = &file.content else {
            return stream::once(async { Err(Error::NotAFile) }).boxed();
        };
        let opener = self.inner.opener.clone();
        let cursor = ExtentCursor::new(opener, file.extents.clone(), 0..file.size).noting_lists();
        stream::unfold((cursor, None), async |(mut cursor, last)| {
            let step = cursor.next().await?;
            let mut ids: Vec<Result<BlockId, Error>> =
                cursor.take_lists().into_iter().map(Ok).collect();
            let mut last: Option<BlockId> = last;
            match step {
                Ok((_, Stretch::Data { block, .. })) if last != Some(block.id) => {
                    last = Some(block.id);
                    ids.push(Ok(block.id));
                }
                Ok(_) => {}
                Err(error) => ids.push(Err(error)),
            }
            Some((stream::iter(ids), (cursor, last)))
        })
        .flatten()
        .boxed()
    }
}

/// The names of a path.
fn names_of(path: &[u8]) -> impl Iterator<Item = Bytes> + '_ {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
        .map(Bytes::copy_from_slice)
}

enum Piece {
    Bytes(Bytes),
    Zeros(u64),
}

impl Piece {
    fn into_stream(self) -> BoxStream<'static, Result<Bytes, Error>> {
        match self {
            Self::Bytes(bytes) => stream::once(async { Ok(bytes) }).boxed(),
            Self::Zeros(len) => stream::unfold(len, async |left| {
                let now = left.min(ZEROS.len() as u64);
                (now > 0).then(|| (Ok(Bytes::from_static(&ZEROS[..now as usize])), left - now))
            })
            .boxed(),
        }
    }
}

/// A range of a block's plaintext.
pub(super) fn cut(plaintext: &Bytes, block: &Link, offset: u32, len: u32) -> Result<Bytes, Error> {
    Ok(plaintext.slice(piece(plaintext, block, offset, len)?))
}

/// Where a piece is in a block's plaintext.
pub(super) fn piece(
    plaintext: &[u8],
    block: &Link,
    offset: u32,
    len: u32,
) -> Result<Range<usize>, Error> {
    let (from, to) = (offset as usize, offset as usize + len as usize);
    if to > plaintext.len() {
        return Err(Error::Malformed {
            block: block.id,
            what: "it is shorter than the tree says",
        });
    }
    Ok(from..to)
}

/// Ends the stream after its first error.
fn until_error(
    pieces: BoxStream<'static, Result<Bytes, Error>>,
) -> BoxStream<'static, Result<Bytes, Error>> {
    stream::unfold(Some(pieces), async |pieces| {
        let mut pieces = pieces?;
        let piece = pieces.next().await?;
        let rest = piece.is_ok().then_some(pieces);
        Some((piece, rest))
    })
    .boxed()
}

/// Walks a bundle depth first.
pub(super) struct Walk {
    opener: Arc<Opener>,
    root_id: BlockId,
    root: Option<Entry>,
    stack: Vec<(EntryCursor, usize)>,
    /// Path of the step that was yielded last; of the directory, for an error.
    pub(super) path: Vec<u8>,
    /// The last entry was a directory that comes next.
    descend: Option<Directory>,
}

impl Walk {
    pub(super) fn new(bundle: &Bundle) -> Self {
        Self {
            opener: bundle.inner.opener.clone(),
            root_id: bundle.inner.link.id,
            root: Some(bundle.inner.root.entry.clone()),
            stack: Vec::new(),
            path: Vec::new(),
            descend: None,
        }
    }

    /// Number of directories above the entry that was yielded last.
    pub(super) fn depth(&self) -> usize {
        self.stack.len()
    }

    pub(super) async fn next(&mut self) -> Option<Result<Entry, Error>> {
        if let Some(root) = self.root.take() {
            return Some(Ok(self.yielded(root)));
        }
        if let Some(directory) = self.descend.take()
            && let Err(error) = self.enter(directory)
        {
            return Some(Err(error));
        }
        loop {
            let (cursor, path_len) = self.stack.last_mut()?;
            self.path.truncate(*path_len);
            match cursor.next().await {
                None => drop(self.stack.pop()),
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok(entry)) => {
                    if matches!(entry.content, Content::Directory(Directory::Block(_))) {
                        cursor.look_ahead();
                    }
                    if !self.path.is_empty() {
                        self.path.push(b'/');
                    }
                    self.path.extend_from_slice(&entry.name);
                    return Some(Ok(self.yielded(entry)));
                }
            }
        }
    }

    /// Does not go into the directory that was yielded last.
    pub(super) fn skip(&mut self) {
        self.descend = None;
    }

    fn enter(&mut self, directory: Directory) -> Result<(), Error> {
        let malformed = |what| Error::Malformed {
            block: self.root_id,
            what,
        };
        if self.stack.len() >= MAX_DEPTH {
            return Err(malformed("directories nested too deeply"));
        }
        if matches!(directory, Directory::Block(_)) {
            let held: usize = self.stack.iter().map(|(held, _)| held.loaded_bytes()).sum();
            if held > MAX_HELD_BYTES {
                return Err(malformed(
                    "directories too large for how deeply they are nested",
                ));
            }
        }
        let cursor = EntryCursor::new(self.opener.clone(), directory);
        self.stack.push((cursor, self.path.len()));
        Ok(())
    }

    /// Keeps the directory's content for the next step: what is yielded carries an empty one when it was inlined.
    fn yielded(&mut self, mut entry: Entry) -> Entry {
        if let Content::Directory(directory) = &mut entry.content {
            self.descend = Some(match directory {
                Directory::Inline(entries) => Directory::Inline(std::mem::take(entries)),
                Directory::Block(block) => Directory::Block(block.clone()),
            });
        }
        entry
    }
}

/// Lists all blocks of a bundle.
struct Lister {
    opener: Arc<Opener>,
    /// The first 16 bytes of each digest: enough to tell them apart, and who forges a collision only hides a block of his own.
    seen: HashSet<[u8; 16]>,
    waiting: Vec<Arc<Link>>,
    loading: FuturesUnordered<futures::future::BoxFuture<'static, Result<Node, Error>>>,
}

impl Lister {
    fn see(&mut self, id: &BlockId) -> bool {
        let mut head = [0; 16];
        head.copy_from_slice(&id.digest()[..16]);
        self.seen.insert(head)
    }

    fn data(&mut self, block: &Link, found: &mut Vec<BlockId>) {
        if self.see(&block.id) {
            found.push(block.id);
        }
    }

    fn tree(&mut self, block: &Arc<Link>, found: &mut Vec<BlockId>) {
        if self.see(&block.id) {
            found.push(block.id);
            self.waiting.push(block.clone());
        }
    }

    fn entry(&mut self, entry: &Entry, found: &mut Vec<BlockId>) {
        match &entry.content {
            Content::File(file) => self.extents(&file.extents, found),
            Content::Directory(Directory::Block(block)) => self.tree(block, found),
            Content::Directory(Directory::Inline(entries)) => {
                for entry in entries {
                    self.entry(entry, found);
                }
            }
            Content::Symlink(_) | Content::Fifo | Content::Device(_) => {}
        }
    }

    fn extents(&mut self, extents: &[Extent], found: &mut Vec<BlockId>) {
        for extent in extents {
            match extent {
                Extent::Data { block, .. } => self.data(block, found),
                Extent::List { block, .. } => self.tree(block, found),
                Extent::Hole { .. } => {}
            }
        }
    }

    async fn next(&mut self) -> Option<Result<Vec<BlockId>, Error>> {
        while self.loading.len() < LIST_AHEAD_BLOCKS
            && let Some(block) = self.waiting.pop()
        {
            let opener = self.opener.clone();
            self.loading
                .push(Box::pin(async move { opener.node(&block).await }));
        }
        let node = match self.loading.next().await? {
            Ok(node) => node,
            Err(error) => return Some(Err(error)),
        };
        let mut found = Vec::new();
        match node {
            Node::Entries(entries) => {
                for entry in &entries {
                    self.entry(entry, &mut found);
                }
            }
            Node::Parts(parts) => {
                for part in &parts {
                    self.tree(&part.block, &mut found);
                }
            }
            Node::Extents(extents) => self.extents(&extents, &mut found),
        }
        Some(Ok(found))
    }
}

const _: () = assert!(MAX_NODE_BYTES <= crate::block::MAX_PLAINTEXT_BYTES);
