//! Tests of the whole way, and what they share: blocks and an index in memory, and a plain picture of a directory tree.

mod archives;
mod attributes;
mod big;
mod bombs;
mod changing;
mod differences;
mod formats;
mod full_disk;
mod hostile;
mod hostile_bytes;
mod incremental;
mod interrupted;
mod paths;
mod reading;
mod restore;
mod rewriting;
mod round_trip;
mod sizes;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Bundle, Error, ExtractOptions, ExtractReport, PutOptions, PutReport};
use crate::block::{
    Block, BlockSink, BlockSource, ChunkHash, ChunkIndex, Context, GetError, IndexError, Link,
    PutError, PutStats, Ref, seal,
};
use crate::id::BlockId;
use crate::monitor::{Monitor, Silent};

/// A store and an index in memory.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) blocks: Mutex<HashMap<BlockId, Block>>,
    pub(super) chunks: Mutex<HashMap<ChunkHash, Ref>>,
    /// Ids in the order in which they were asked for.
    pub(super) asked: Mutex<Vec<BlockId>>,
    /// The sink is full with this many blocks.
    pub(super) limit: Mutex<Option<usize>>,
    /// The index fails.
    pub(super) index_fails: Mutex<bool>,
    /// What was asked to be kept, call by call.
    pub(super) keeps: Mutex<Vec<Vec<BlockId>>>,
    pub(super) commits: Mutex<Vec<usize>>,
}

#[async_trait]
impl BlockSource for Memory {
    async fn get(&self, id: BlockId) -> Result<Block, GetError> {
        self.asked.lock().unwrap().push(id);
        let found = self.blocks.lock().unwrap().get(&id).cloned();
        found.ok_or(GetError::NotFound {
            id,
            after: Duration::ZERO,
            tried: Vec::new(),
        })
    }
}

#[async_trait]
impl BlockSink for Memory {
    async fn put(&self, blocks: Vec<Block>) -> Result<PutStats, PutError> {
        let mut stored = self.blocks.lock().unwrap();
        let mut stats = PutStats::default();
        for block in blocks {
            if self
                .limit
                .lock()
                .unwrap()
                .is_some_and(|max| stored.len() >= max)
            {
                return Err(PutError::DiskFull);
            }
            let bytes = block.bytes().len() as u64;
            if stored.insert(block.id(), block).is_none() {
                stats.new_blocks += 1;
                stats.new_bytes += bytes;
            }
        }
        Ok(stats)
    }

    async fn commit(&self) -> Result<(), PutError> {
        let stored = self.blocks.lock().unwrap().len();
        self.commits.lock().unwrap().push(stored);
        Ok(())
    }
}

impl ChunkIndex for Memory {
    fn lookup(&self, hashes: &[ChunkHash]) -> Result<Vec<Option<Ref>>, IndexError> {
        self.check_index()?;
        let (chunks, blocks) = (self.chunks.lock().unwrap(), self.blocks.lock().unwrap());
        let find = |hash| {
            chunks
                .get(hash)
                .filter(|found| blocks.contains_key(&found.id))
                .cloned()
        };
        Ok(hashes.iter().map(find).collect())
    }

    fn insert(&self, entries: &[(ChunkHash, Ref)]) -> Result<(), IndexError> {
        self.check_index()?;
        self.chunks.lock().unwrap().extend(entries.iter().cloned());
        Ok(())
    }

    fn keep(&self, ids: &[BlockId]) -> Result<Vec<BlockId>, IndexError> {
        self.check_index()?;
        self.keeps.lock().unwrap().push(ids.to_vec());
        let blocks = self.blocks.lock().unwrap();
        let absent = ids.iter().filter(|id| !blocks.contains_key(id));
        Ok(absent.copied().collect())
    }
}

impl Memory {
    fn check_index(&self) -> Result<(), IndexError> {
        match *self.index_fails.lock().unwrap() {
            true => Err(IndexError("broken for the test".into())),
            false => Ok(()),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.lock().unwrap().len()
    }

    pub(super) fn ids(&self) -> HashSet<BlockId> {
        self.blocks.lock().unwrap().keys().copied().collect()
    }

    /// Stores `plaintext` as it is.
    pub(super) fn plant(&self, plaintext: &[u8]) -> Link {
        let sealed = seal(&Context::public(), plaintext).expect("small enough");
        let link = Link {
            id: sealed.block.id(),
            key: sealed.key,
        };
        self.blocks.lock().unwrap().insert(link.id, sealed.block);
        link
    }
}

/// Remembers warnings.
#[derive(Default)]
pub(super) struct Listener(pub(super) Mutex<Vec<String>>);

impl Monitor for Listener {
    fn progress(&self, _: crate::monitor::Progress) {}
    fn warning(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

pub(super) async fn put(path: &Path, memory: &Arc<Memory>) -> Result<PutReport, Error> {
    put_with(path, memory, PutOptions::default()).await
}

pub(super) async fn put_with(
    path: &Path,
    memory: &Arc<Memory>,
    options: PutOptions,
) -> Result<PutReport, Error> {
    super::put(
        path,
        options,
        memory.clone(),
        memory.clone(),
        Arc::new(Silent),
        CancellationToken::new(),
    )
    .await
}

pub(super) async fn extract(
    memory: &Arc<Memory>,
    link: &Link,
    target: &Path,
    options: ExtractOptions,
) -> Result<ExtractReport, Error> {
    let bundle = Bundle::open(memory.clone(), link.clone()).await?;
    super::extract(
        &bundle,
        target,
        options,
        Arc::new(Silent),
        CancellationToken::new(),
    )
    .await
}

/// Bytes that do not compress, the same on every run.
pub(super) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// What a directory tree looks like from outside, by path.
pub(super) type Picture = BTreeMap<Vec<u8>, Seen>;

/// What one name looks like.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    kind: &'static str,
    mode: u32,
    modified: (i64, i64),
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    content: Vec<u8>,
    /// Units of 512 bytes on disk, for files with holes.
    sparse_blocks: Option<u64>,
    /// First path with the same inode.
    same_as: Option<Vec<u8>>,
}

/// Takes a picture with the standard library alone.
pub(super) fn picture(root: &Path) -> Picture {
    let mut picture = Picture::new();
    let mut inodes = HashMap::new();
    look(root, root, &mut picture, &mut inodes);
    picture
}

fn look(
    root: &Path,
    path: &Path,
    picture: &mut Picture,
    inodes: &mut HashMap<(u64, u64), Vec<u8>>,
) {
    let meta = path.symlink_metadata().expect("it is there");
    let kind = meta.file_type();
    let name = path
        .strip_prefix(root)
        .expect("below the root")
        .as_os_str()
        .as_bytes()
        .to_vec();
    let is_sparse = kind.is_file() && meta.blocks() * 512 < meta.size();
    let mut seen = Seen {
        kind: "other",
        mode: meta.mode(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        xattrs: BTreeMap::new(),
        content: Vec::new(),
        // A file system notes where data is in blocks of its own, more or fewer of them.
        sparse_blocks: is_sparse.then(|| meta.blocks().next_multiple_of(1024)),
        same_as: None,
    };
    if kind.is_file() {
        seen.kind = "file";
        seen.content = std::fs::read(path).expect("readable");
        if meta.nlink() > 1 {
            let first = inodes
                .entry((meta.dev(), meta.ino()))
                .or_insert(name.clone());
            seen.same_as = Some(first.clone());
        }
    } else if kind.is_symlink() {
        seen.kind = "symlink";
        let target = std::fs::read_link(path).expect("readable");
        seen.content = target.as_os_str().as_bytes().to_vec();
    } else if kind.is_dir() {
        seen.kind = "directory";
    }
    if kind.is_file() || kind.is_dir() {
        for name in xattr::list(path).into_iter().flatten() {
            if let Ok(Some(value)) = xattr::get(path, &name) {
                seen.xattrs.insert(name.as_bytes().to_vec(), value);
            }
        }
    }
    picture.insert(name, seen);
    if kind.is_dir() {
        let mut children: Vec<_> = std::fs::read_dir(path)
            .expect("readable")
            .map(|entry| entry.expect("readable").path())
            .collect();
        children.sort();
        for child in children {
            look(root, &child, picture, inodes);
        }
    }
}
