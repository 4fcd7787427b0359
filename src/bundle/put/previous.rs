//! What an earlier put of the same tree found, so that an unchanged file costs a look at its attributes.
//!
//! The walker goes through the earlier tree beside the directories: both are sorted by name. A file whose size, time, inode and time
//! of last change are those of its earlier entry has the earlier content, as long as that time lies well before the earlier run
//! began: within one tick of the file system's clock a file can change after it was read and show the same time (git calls
//! such a file racily clean). What is taken over is kept in the store first; a block that is gone has its files read again.
//!
//! **Invariant**: an earlier tree that is wrong or can't be read costs time, never content, as far as its maker can be trusted.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio_util::sync::CancellationToken;

use super::queue::Closed;
use super::seal::{Handle, Slot};
use crate::block::{BlockSource, ChunkIndex, Link};
use crate::bundle::cursor::{EntryCursor, ExtentCursor, Stretch};
use crate::bundle::error::Error;
use crate::bundle::opener::Opener;
use crate::bundle::read::Bundle;
use crate::bundle::tree::{Content, Directory, Entry, Extent, Identity, ModTime};
use crate::id::BlockId;
use crate::monitor::Monitor;
use crate::time::Timestamp;

/// A file that was changed less than this before the earlier run began is read again: clocks of file systems tick in up to 2 seconds.
const RACY: Duration = Duration::from_secs(3);
/// Errors after which the earlier tree is no longer used: each may have cost a search for a block.
const MAX_ERRORS: u32 = 8;
/// Blocks that are known to be kept; some 10 MiB. When there are more the oldest knowledge goes, and costs asking again.
const MAX_KEPT: usize = 1 << 18;
/// Blocks that are kept with one call for a file whose extents are in lists.
const KEEP_BATCH: usize = 1024;
/// Most bytes of tree blocks that are held over all levels, as in a walk.
const MAX_HELD_BYTES: usize = 64 << 20;

/// An earlier bundle of the same tree.
#[derive(Clone)]
pub struct Previous {
    /// The bundle. It was put with [`keep_identity`](super::PutOptions::keep_identity), or nothing is recognised.
    pub root: Link,
    /// Where its tree blocks are. A store near at hand: each is waited for.
    pub source: Arc<dyn BlockSource>,
    /// When that put began, by this machine's clock.
    pub started: Timestamp,
}

impl fmt::Debug for Previous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Previous")
            .field("root", &self.root.id)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// A directory of the earlier tree, and how far it was gone through.
pub(super) struct Beside {
    cursor: EntryCursor,
    next: Option<Entry>,
}

/// Goes through the earlier tree.
pub(super) struct Past<'a> {
    runtime: Runtime,
    opener: Arc<Opener>,
    root: Option<Directory>,
    /// Changes from here on are not trusted.
    trusted_until: ModTime,
    index: Option<&'a dyn ChunkIndex>,
    monitor: &'a dyn Monitor,
    halted: CancellationToken,
    errors: u32,
    keep_failed: bool,
    kept: HashSet<[u8; 16]>,
}

/// Why a look into the past gave nothing.
pub(super) enum Miss {
    Closed,
    Error(Error),
}

impl From<Closed> for Miss {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

impl From<Error> for Miss {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<'a> Past<'a> {
    /// Opens the earlier bundle. `None` when it can't be had: then everything is read. Without `index` nothing is kept.
    pub(super) fn open(
        previous: Previous,
        runtime: Runtime,
        index: Option<&'a dyn ChunkIndex>,
        monitor: &'a dyn Monitor,
        halted: CancellationToken,
    ) -> Result<Option<Self>, Closed> {
        let opened = wait(
            &runtime,
            &halted,
            Bundle::open(previous.source, previous.root),
        );
        let bundle = match opened {
            Ok(bundle) => bundle,
            Err(Miss::Closed) => return Err(Closed),
            Err(Miss::Error(error)) => {
                monitor.warning(&format!(
                    "everything is read: the previous tree can't be had: {error}"
                ));
                return Ok(None);
            }
        };
        let racy = Timestamp(previous.started.0.saturating_sub(RACY.as_millis() as u64));
        let root = match &bundle.root().entry.content {
            Content::Directory(directory) => Some(directory.clone()),
            _ => None,
        };
        Ok(Some(Self {
            runtime,
            opener: bundle.opener().clone(),
            root,
            trusted_until: racy.into(),
            index,
            monitor,
            halted,
            errors: 0,
            keep_failed: false,
            kept: HashSet::new(),
        }))
    }

    /// The earlier root directory.
    pub(super) fn root(&mut self) -> Option<Beside> {
        let directory = self.root.take()?;
        self.beside(directory, 0)
    }

    fn beside(&self, directory: Directory, held: usize) -> Option<Beside> {
        if self.errors >= MAX_ERRORS || held > MAX_HELD_BYTES {
            return None;
        }
        Some(Beside {
            cursor: EntryCursor::new(self.opener.clone(), directory),
            next: None,
        })
    }

    /// What the earlier entry `entry` has inside, if it is a directory. `held` is what is held above it.
    pub(super) fn inside(&self, entry: Option<Entry>, held: usize) -> Option<Beside> {
        match entry?.content {
            Content::Directory(directory) => self.beside(directory, held),
            _ => None,
        }
    }

    /// The earlier entry called `name`. Names are asked for in ascending order.
    pub(super) fn find(
        &mut self,
        beside: &mut Beside,
        name: &[u8],
    ) -> Result<Option<Entry>, Closed> {
        loop {
            match &beside.next {
                Some(next) if next.name[..] > *name => return Ok(None),
                Some(next) if next.name[..] == *name => return Ok(beside.next.take()),
                _ => {}
            }
            if self.errors >= MAX_ERRORS {
                return Ok(None);
            }
            let cursor = &mut beside.cursor;
            let step = wait(&self.runtime, &self.halted, async {
                cursor.next().await.transpose()
            });
            match step {
                Ok(Some(entry)) => beside.next = Some(entry),
                Ok(None) => {
                    beside.next = None;
                    return Ok(None);
                }
                Err(Miss::Closed) => return Err(Closed),
                Err(Miss::Error(error)) => self.warn(&error),
            }
        }
    }

    fn warn(&mut self, error: &Error) {
        self.errors += 1;
        if self.errors == 1 {
            self.monitor.warning(&format!(
                "files are read again: a part of the previous tree can't be had: {error}"
            ));
        }
    }

    /// Whether a file that looks like this now is the one of the earlier entry.
    pub(super) fn is_same(
        &self,
        entry: &Entry,
        size: u64,
        modified: ModTime,
        identity: Identity,
    ) -> bool {
        entry.is_file()
            && entry.size() == size
            && entry.modified == Some(modified)
            && entry.identity == Some(identity)
            && identity.changed < self.trusted_until
    }

    /// Has the blocks of an earlier file kept. `Ok(true)` when all are there. Blocks that only lists name are told to `listed`.
    pub(super) fn take_over(
        &mut self,
        entry: &Entry,
        listed: &mut dyn FnMut(Vec<BlockId>) -> Result<(), Closed>,
    ) -> Result<bool, Closed> {
        let Content::File(file) = &entry.content else {
            return Ok(false);
        };
        let mut ids = Vec::new();
        let mut has_lists = false;
        for extent in &file.extents {
            match extent {
                Extent::Data { block, .. } => ids.push(block.id),
                Extent::List { block, .. } => {
                    has_lists = true;
                    ids.push(block.id);
                }
                Extent::Hole { .. } => {}
            }
        }
        if !self.keep(ids) {
            return Ok(false);
        }
        if !has_lists {
            return Ok(true);
        }
        let extents = file.extents.clone();
        let mut cursor =
            ExtentCursor::new(self.opener.clone(), extents, 0..file.size).noting_lists();
        loop {
            let mut ids = Vec::new();
            let cursor = &mut cursor;
            let walked = wait(&self.runtime, &self.halted, async {
                while ids.len() < KEEP_BATCH {
                    let step = cursor.next().await;
                    ids.extend(cursor.take_lists());
                    match step {
                        None => return Ok(true),
                        Some(Ok((_, Stretch::Data { block, .. }))) => ids.push(block.id),
                        Some(Ok((_, Stretch::Hole { .. }))) => {}
                        Some(Err(error)) => return Err(error),
                    }
                }
                Ok(false)
            });
            let is_end = match walked {
                Ok(is_end) => is_end,
                Err(Miss::Closed) => return Err(Closed),
                Err(Miss::Error(error)) => {
                    self.warn(&error);
                    return Ok(false);
                }
            };
            if !self.keep(ids.clone()) {
                return Ok(false);
            }
            listed(ids)?;
            if is_end {
                return Ok(true);
            }
        }
    }

    /// Whether all these blocks are there, and kept from now on.
    fn keep(&mut self, mut ids: Vec<BlockId>) -> bool {
        let Some(index) = self.index else {
            return true;
        };
        ids.retain(|id| !self.kept.contains(&head(id)));
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return true;
        }
        match index.keep(&ids) {
            Ok(absent) => {
                if self.kept.len() + ids.len() > MAX_KEPT {
                    self.kept.clear();
                }
                let there = ids.iter().filter(|id| !absent.contains(id));
                self.kept.extend(there.map(head));
                absent.is_empty()
            }
            Err(error) => {
                if !std::mem::replace(&mut self.keep_failed, true) {
                    self.monitor
                        .warning(&format!("unchanged files are read again: {error}"));
                }
                false
            }
        }
    }
}

impl Beside {
    /// Bytes of tree blocks that it holds on to.
    pub(super) fn held_bytes(&self) -> usize {
        self.cursor.loaded_bytes()
    }
}

/// Enough of a digest to tell blocks of one's own apart.
pub(super) fn head(id: &BlockId) -> [u8; 16] {
    let mut head = [0; 16];
    head.copy_from_slice(&id.digest()[..16]);
    head
}

/// Waits for something asynchronous on a thread of its own, or for the end of all work.
pub(super) fn wait<T>(
    runtime: &Runtime,
    halted: &CancellationToken,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Miss> {
    runtime.block_on(async {
        tokio::select! {
            biased;
            () = halted.cancelled() => Err(Miss::Closed),
            result = work => result.map_err(Miss::Error),
        }
    })
}

/// Extents of an earlier tree in a new one.
pub(super) fn extents(extents: Vec<Extent>) -> Vec<Extent<Handle>> {
    let mut last: Option<(Arc<Link>, Handle)> = None;
    let mut handle = |block: Arc<Link>| match &last {
        Some((same, handle)) if Arc::ptr_eq(same, &block) => handle.clone(),
        _ => {
            let handle = Slot::known(block.clone());
            last = Some((block, handle.clone()));
            handle
        }
    };
    extents
        .into_iter()
        .map(|extent| match extent {
            Extent::Data { block, offset, len } => Extent::Data {
                block: handle(block),
                offset,
                len,
            },
            Extent::Hole { len } => Extent::Hole { len },
            Extent::List { block, len } => Extent::List {
                block: handle(block),
                len,
            },
        })
        .collect()
}
