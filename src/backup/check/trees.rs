//! Goes through the trees of snapshots, each block once.
//!
//! What the blocks say is checked as far as one block and those that refer to it can tell: they decode, parts of directories start and
//! end where they should, lists cover what they should, and files need no more of a block than there is.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;

use super::blocks::{Blocks, Seen, Sight, Trouble};
use super::remote::Sample;
use super::{CheckReport, Damage, Part, Wrong};
use crate::backup::error::Error;
use crate::block::Link;
use crate::bundle::tree::{Content, Directory, Entry, Extent, MAX_DEPTH, Node};
use crate::bundle::{Root, decode_node};
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};

/// Data blocks that are read at the same time.
const READS_AT_ONCE: usize = 8;
/// Data blocks that one question to the store is about.
const PRESENT_AT_ONCE: usize = 256;

/// A data block and what needs it first.
struct Data {
    link: Arc<Link>,
    snapshot: Option<BlockId>,
    path: Arc<[u8]>,
}

/// What looking at some data blocks gave: lengths of plaintexts that were read, and damage.
type Looked = Vec<(Data, Option<u32>, Option<Trouble>)>;

/// A tree block that is to be looked at.
enum Todo {
    /// Entries of a directory, or parts of them: from `first` on, below `end`.
    Directory {
        link: Arc<Link>,
        path: Arc<[u8]>,
        first: Option<Bytes>,
        end: Option<Bytes>,
        depth: usize,
    },
    /// Extents of a file that cover `len` bytes.
    List {
        link: Arc<Link>,
        path: Arc<[u8]>,
        len: u64,
    },
}

/// The trees of all snapshots of one check.
pub(super) struct Trees<'a> {
    blocks: Arc<Blocks>,
    monitor: &'a dyn Monitor,
    pub(super) report: &'a mut CheckReport,
    sample: Option<&'a mut Sample>,
    seen: Seen,
    snapshot: Option<BlockId>,
    /// Data blocks that must be here and are not read.
    present: Vec<Data>,
    /// Data blocks that are to be read.
    reads: Vec<Data>,
    jobs: FuturesUnordered<BoxFuture<'static, Result<Looked, Error>>>,
}

impl<'a> Trees<'a> {
    pub(super) fn new(
        blocks: Arc<Blocks>,
        monitor: &'a dyn Monitor,
        report: &'a mut CheckReport,
        sample: Option<&'a mut Sample>,
    ) -> Self {
        Self {
            blocks,
            monitor,
            report,
            sample,
            seen: Seen::new(),
            snapshot: None,
            present: Vec::new(),
            reads: Vec::new(),
            jobs: FuturesUnordered::new(),
        }
    }

    /// What comes is needed by this snapshot.
    pub(super) fn begin(&mut self, snapshot: BlockId) {
        self.snapshot = Some(snapshot);
    }

    /// Notes damage that can't be mended.
    pub(super) fn damage(
        &mut self,
        part: Part,
        block: BlockId,
        path: &[u8],
        wrong: Wrong,
        detail: &str,
    ) {
        let trouble = Trouble {
            wrong,
            detail: detail.to_owned(),
            is_mended: false,
        };
        self.trouble(part, block, path, self.snapshot, trouble);
    }

    fn trouble(
        &mut self,
        part: Part,
        block: BlockId,
        path: &[u8],
        snapshot: Option<BlockId>,
        trouble: Trouble,
    ) {
        let damage = Damage {
            snapshot,
            path: path.to_vec(),
            block,
            part,
            wrong: trouble.wrong,
            detail: trouble.detail,
        };
        if !trouble.is_mended {
            let path = String::from_utf8_lossy(path);
            self.monitor
                .warning(&format!("block {block} {path}: {}", damage.reason()));
        }
        self.report.add(damage, trouble.is_mended);
    }

    /// Whether a block is met for the first time, in which case it is counted.
    fn see(&mut self, id: &BlockId, end: u32) -> Sight {
        let sight = self.seen.see(id, end);
        if sight == Sight::New {
            self.report.blocks += 1;
            if let Some(sample) = &mut self.sample {
                sample.add(*id);
            }
        }
        sight
    }

    /// The plaintext of a snapshot's or tree's block. `None`: it was seen before, or can't be had, which is noted.
    pub(super) async fn fetch(
        &mut self,
        part: Part,
        link: &Link,
        path: &[u8],
    ) -> Result<Option<Bytes>, Error> {
        if self.see(&link.id, 0) != Sight::New {
            return Ok(None);
        }
        let look = self.blocks.look(link).await?;
        if let Some(trouble) = look.trouble {
            self.trouble(part, link.id, path, self.snapshot, trouble);
        }
        Ok(look.plaintext)
    }

    /// Goes through the tree of a snapshot.
    pub(super) async fn tree(&mut self, link: &Link) -> Result<(), Error> {
        let root: Arc<[u8]> = Arc::from(&b"/"[..]);
        let Some(plaintext) = self.fetch(Part::Tree, link, &root).await? else {
            return Ok(());
        };
        let mut todo = Vec::new();
        match Root::decode(link.id, &plaintext) {
            Ok(decoded) if decoded.entry.is_directory() => {
                self.content(decoded.entry.content, &root, 0, &mut todo);
            }
            Ok(_) => {
                let detail = "it is one file, not a tree";
                self.damage(Part::Tree, link.id, &root, Wrong::Malformed, detail);
            }
            Err(error) => {
                let detail = error.to_string();
                self.damage(Part::Tree, link.id, &root, Wrong::Malformed, &detail);
            }
        }
        self.start_jobs().await?;
        // Depth first, in order: what is held is what waits beside the way down.
        todo.reverse();
        while let Some(next) = todo.pop() {
            let mut below = Vec::new();
            self.node(next, &mut below).await?;
            self.start_jobs().await?;
            todo.extend(below.into_iter().rev());
        }
        Ok(())
    }

    async fn node(&mut self, todo: Todo, below: &mut Vec<Todo>) -> Result<(), Error> {
        let (link, path) = match &todo {
            Todo::Directory { link, path, .. } | Todo::List { link, path, .. } => {
                (link.clone(), path.clone())
            }
        };
        let Some(plaintext) = self.fetch(Part::Tree, &link, &path).await? else {
            return Ok(());
        };
        let wrong = match decode_node(link.id, &plaintext) {
            Ok(node) => self.inside(todo, node, below).err(),
            Err(error) => Some(error.to_string()),
        };
        if let Some(detail) = wrong {
            self.damage(Part::Tree, link.id, &path, Wrong::Malformed, &detail);
        }
        Ok(())
    }

    /// What is inside a tree block. An error says how it does not fit what refers to it.
    fn inside(&mut self, todo: Todo, node: Node, below: &mut Vec<Todo>) -> Result<(), String> {
        match (todo, node) {
            (
                Todo::Directory {
                    path,
                    first,
                    end,
                    depth,
                    ..
                },
                Node::Entries(entries),
            ) => {
                let names = (entries.first(), entries.last());
                let names = (names.0.map(|e| &e.name), names.1.map(|e| &e.name));
                check_names(names, first.as_ref(), end.as_ref())?;
                self.entries(entries, &path, depth, below);
                Ok(())
            }
            (
                Todo::Directory {
                    path,
                    first,
                    end,
                    depth,
                    ..
                },
                Node::Parts(parts),
            ) => {
                let names = (parts.first(), parts.last());
                let names = (
                    names.0.map(|part| &part.first_name),
                    names.1.map(|part| &part.first_name),
                );
                check_names(names, first.as_ref(), end.as_ref())?;
                let ends: Vec<Option<Bytes>> = parts
                    .iter()
                    .skip(1)
                    .map(|part| Some(part.first_name.clone()))
                    .chain([end])
                    .collect();
                for (part, end) in parts.into_iter().zip(ends) {
                    below.push(Todo::Directory {
                        link: part.block,
                        path: path.clone(),
                        first: Some(part.first_name),
                        end,
                        depth,
                    });
                }
                Ok(())
            }
            (Todo::List { path, len, .. }, Node::Extents(extents)) => {
                let sum: u128 = extents.iter().map(|extent| u128::from(extent.len())).sum();
                self.extents(extents, &path, below);
                if sum != u128::from(len) {
                    return Err("a list that covers more or less than it should".to_owned());
                }
                Ok(())
            }
            (Todo::Directory { .. }, Node::Extents(_)) => {
                Err("it holds extents in place of entries".to_owned())
            }
            (Todo::List { .. }, _) => Err("it holds entries in place of extents".to_owned()),
        }
    }

    fn entries(&mut self, entries: Vec<Entry>, path: &[u8], depth: usize, below: &mut Vec<Todo>) {
        for entry in entries {
            if matches!(entry.content, Content::File(_) | Content::Directory(_)) {
                let path = child(path, &entry.name);
                self.content(entry.content, &path, depth + 1, below);
            }
        }
    }

    fn content(&mut self, content: Content, path: &Arc<[u8]>, depth: usize, below: &mut Vec<Todo>) {
        match content {
            Content::File(file) => self.extents(file.extents, path, below),
            Content::Directory(Directory::Inline(entries)) => {
                self.entries(entries, path, depth, below);
            }
            Content::Directory(Directory::Block(link)) if depth > MAX_DEPTH => {
                let detail = "directories nested too deeply";
                self.damage(Part::Tree, link.id, path, Wrong::Malformed, detail);
            }
            Content::Directory(Directory::Block(link)) => below.push(Todo::Directory {
                link,
                path: path.clone(),
                first: None,
                end: None,
                depth,
            }),
            Content::Symlink(_) | Content::Fifo | Content::Device(_) => {}
        }
    }

    fn extents(&mut self, extents: Vec<Extent>, path: &Arc<[u8]>, below: &mut Vec<Todo>) {
        for extent in extents {
            match extent {
                Extent::Hole { .. } => {}
                Extent::List { block, len } => below.push(Todo::List {
                    link: block,
                    path: path.clone(),
                    len,
                }),
                Extent::Data { block, offset, len } => {
                    self.data(block, offset.saturating_add(len), path);
                }
            }
        }
    }

    fn data(&mut self, link: Arc<Link>, end: u32, path: &Arc<[u8]>) {
        match self.see(&link.id, end) {
            Sight::Old { is_short: false } => {}
            Sight::Old { is_short: true } => {
                self.damage(Part::Data, link.id, path, Wrong::Malformed, TOO_SHORT);
            }
            Sight::New => {
                let is_to_be_read = self.blocks.is_to_be_read(&link.id);
                let data = Data {
                    link,
                    snapshot: self.snapshot,
                    path: path.clone(),
                };
                match is_to_be_read {
                    true => self.reads.push(data),
                    false => self.present.push(data),
                }
            }
        }
    }

    /// Starts looking at the data blocks that one tree block named.
    async fn start_jobs(&mut self) -> Result<(), Error> {
        for data in std::mem::take(&mut self.reads) {
            let blocks = self.blocks.clone();
            self.start(Box::pin(async move {
                let look = blocks.look(&data.link).await?;
                // Plaintexts are at most as long as blocks.
                let len = look.plaintext.map(|plaintext| plaintext.len() as u32);
                Ok(vec![(data, len, look.trouble)])
            }))
            .await?;
        }
        if self.present.len() >= PRESENT_AT_ONCE {
            self.start_present().await?;
        }
        Ok(())
    }

    async fn start_present(&mut self) -> Result<(), Error> {
        let mut present = std::mem::take(&mut self.present);
        while !present.is_empty() {
            let rest = present.split_off(present.len().min(PRESENT_AT_ONCE));
            let data = std::mem::replace(&mut present, rest);
            let blocks = self.blocks.clone();
            self.start(Box::pin(async move {
                let ids = data.iter().map(|data| data.link.id).collect();
                let mut troubles = blocks.present(ids).await?.into_iter().peekable();
                // Both are in the same order.
                let looked = data.into_iter().map(|data| {
                    let trouble = troubles.next_if(|(id, _)| *id == data.link.id);
                    (data, None, trouble.map(|(_, trouble)| trouble))
                });
                Ok(looked.collect())
            }))
            .await?;
        }
        Ok(())
    }

    async fn start(&mut self, job: BoxFuture<'static, Result<Looked, Error>>) -> Result<(), Error> {
        if self.jobs.len() >= READS_AT_ONCE {
            self.take_one().await?;
        }
        self.jobs.push(job);
        Ok(())
    }

    async fn take_one(&mut self) -> Result<(), Error> {
        let Some(looked) = self.jobs.next().await else {
            return Ok(());
        };
        for (data, len, trouble) in looked? {
            let id = data.link.id;
            if let Some(trouble) = trouble {
                if !trouble.is_mended {
                    self.seen.reported(&id);
                }
                self.trouble(Part::Data, id, &data.path, data.snapshot, trouble);
            }
            if let Some(len) = len
                && self.seen.learn(&id, len)
            {
                let trouble = Trouble {
                    wrong: Wrong::Malformed,
                    detail: TOO_SHORT.to_owned(),
                    is_mended: false,
                };
                self.trouble(Part::Data, id, &data.path, data.snapshot, trouble);
            }
        }
        self.monitor.progress(Progress {
            blocks: self.report.blocks,
            bytes: self.blocks.read().1,
            ..Progress::default()
        });
        Ok(())
    }

    /// Waits for what is under way.
    pub(super) async fn finish(mut self) -> Result<(), Error> {
        self.start_present().await?;
        while !self.jobs.is_empty() {
            self.take_one().await?;
        }
        Ok(())
    }
}

const TOO_SHORT: &str = "it is shorter than the tree says";

fn child(path: &[u8], name: &[u8]) -> Arc<[u8]> {
    let mut child = Vec::with_capacity(path.len() + 1 + name.len());
    child.extend_from_slice(path);
    if !path.ends_with(b"/") {
        child.push(b'/');
    }
    child.extend_from_slice(name);
    child.into()
}

fn check_names(
    (found_first, found_last): (Option<&Bytes>, Option<&Bytes>),
    first: Option<&Bytes>,
    end: Option<&Bytes>,
) -> Result<(), String> {
    if first.is_some() && found_first != first {
        return Err("a part that does not start where it should".to_owned());
    }
    if end.is_some() && found_last >= end {
        return Err("parts of a directory that overlap".to_owned());
    }
    Ok(())
}
