//! Putting: a file, a directory tree or a stream becomes a bundle.
//!
//! ```text
//! walker ──items, in order──────────────────────────> assembler ──jobs──> sealers ──blocks──> collector -> sink, index
//!    └──jobs──> readers (open, read, cut, hash, look up) ──┘   (packs, tree)   (compress, encrypt, hash)
//! ```
//!
//! Walker, readers, assembler and sealers are threads of one blocking task; the collector is the caller's own future. The result
//! depends on the tree, the context, what the index knows and what an earlier bundle holds, never on timing. Memory is bounded whatever the
//! input: [`PutOptions::max_in_flight_bytes`], plus the names of the directories that are open at the moment, the tree blocks of an earlier
//! bundle that belong to these, and a few bytes for each block and each hard-linked inode.
//!
//! What is unchanged since an earlier bundle ([`PutOptions::previous`]) goes from the walker to the assembler without a reader; what a
//! [`Filter`] leaves out is not looked into.
//!
//! The root block goes to the sink when everything else is there and is the last thing before the commit, so that a link always
//! names a whole bundle.

mod assemble;
mod attributes;
mod beside;
mod build;
mod chunk;
mod collect;
mod filter;
mod place;
mod previous;
mod queue;
mod read;
mod rewrite;
mod seal;
mod select;
mod start;
mod survey;
mod walk;

pub use self::beside::Beside;
pub(super) use self::chunk::may_be_packed;
pub use self::filter::{Filter, FilterOptions, Inside, Rules};
pub use self::previous::Previous;
pub use self::rewrite::rewrite;
pub use self::survey::{Survey, survey};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::thread;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::assemble::{Assembled, Assembler, Failed};
use self::collect::Collector;
use self::previous::{Miss, Past};
use self::queue::Queue;
use self::read::{ReadJob, Reader};
use self::rewrite::{Old, Rewriter};
use self::seal::{Outgoing, Shared, StopOnDrop, seal_jobs};
use self::start::{Start, StreamInput};
use self::walk::{Item, WalkOptions, Walker};
use super::codec::MAX_NODE_BYTES;
use super::error::Error;
use super::own::Own;
use super::root::{Root, Totals, check_index_file, check_properties};
use super::tree::{Content, Entry, File, check_name};
use crate::block::{self, BlockSink, ChunkIndex, Context, Link, MAX_BLOCK_BYTES, PutStats};
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress};

/// Unreadable files that a report names one by one.
pub const MAX_REPORTED: usize = 10_000;
/// Memory for file content on its way, unless said otherwise.
pub const DEFAULT_IN_FLIGHT_BYTES: usize = 64 << 20;
/// Name of the property that decides where the root block lies: the last of all properties, so that
/// its value ends the plaintext.
const NONCE_PROPERTY: &str = "~nonce";
/// Less than this does not keep a pipeline busy.
const MIN_IN_FLIGHT_BYTES: usize = 16 << 20;
/// Steps of the walk that wait for the assembler.
const ITEMS_AHEAD: usize = 64;
/// Jobs that wait for a reader.
const READS_AHEAD: usize = 64;
/// Most threads that read files; more only help where the file system is far away.
const MAX_READERS: usize = 4;
/// What a stream is read in.
const STREAM_BYTES: usize = 256 << 10;

/// How to put.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Who shares deduplication.
    pub context: Context,
    /// Name of the bundle's root, in place of the file's or directory's own.
    pub name: Option<Bytes>,
    /// Path inside the tree of what to show first.
    pub index_file: Option<Vec<u8>>,
    /// Free attributes of the bundle.
    pub properties: BTreeMap<String, Bytes>,
    /// Leaves out what is mounted below the directory.
    pub one_file_system: bool,
    /// What else is left out.
    pub filter: Option<Arc<dyn Filter>>,
    /// Recognises libernet's own directories, which are never taken.
    pub own: Own,
    /// Keeps in the tree what a later put recognises unchanged files by: inode numbers and times of change. Equal trees no longer give equal
    /// links then.
    pub keep_identity: bool,
    /// An earlier bundle of the same tree: files that have not changed since are not read.
    pub previous: Option<Previous>,
    /// An id, and the number of first bits that the id of the root block is to share with it: at
    /// most [`MAX_LIKE_BITS`](crate::block::MAX_LIKE_BITS).
    pub like: Option<(BlockId, u32)>,
    /// Memory for file content on its way.
    pub max_in_flight_bytes: usize,
}

impl Default for PutOptions {
    fn default() -> Self {
        Self {
            context: Context::public(),
            name: None,
            index_file: None,
            properties: BTreeMap::new(),
            one_file_system: false,
            filter: None,
            own: Own::default(),
            keep_identity: false,
            previous: None,
            like: None,
            max_in_flight_bytes: DEFAULT_IN_FLIGHT_BYTES,
        }
    }
}

/// What a put did.
#[derive(Clone, Debug)]
pub struct PutReport {
    /// Names and opens the bundle.
    pub link: Link,
    /// Regular files in it.
    pub files: u64,
    /// Everything in it that has a name.
    pub entries: u64,
    /// Bytes of content.
    pub bytes: u64,
    /// Distinct blocks of the bundle, its root block included; 0 when there were too many to count.
    pub blocks: u64,
    /// Blocks that were not in the sink before.
    pub new_blocks: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Files that were taken over from the earlier bundle without reading them.
    pub unchanged: u64,
    /// Names that the filter left out; what is below a directory that was left out is not counted.
    pub excluded: u64,
    /// Patterns of the filter that matched nothing.
    pub unmatched: Vec<String>,
    /// Paths that no put takes: the first [`MAX_REPORTED`]. Each is a directory of libernet, or a
    /// socket.
    pub left_out: Vec<Unreadable>,
    /// Paths that could not be read, or not as they should: the first [`MAX_REPORTED`].
    pub unreadable: Vec<Unreadable>,
    /// How many there are in all.
    pub unreadable_total: u64,
}

/// A file or directory that could not be read, in full or in part, or is never taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it is.
    pub path: PathBuf,
    /// Why, for people.
    pub reason: String,
}

/// Notes what no put takes.
fn note_left_out(noted: &mut Vec<Unreadable>, path: PathBuf, reason: &str) {
    if noted.len() < MAX_REPORTED {
        let reason = reason.to_owned();
        noted.push(Unreadable { path, reason });
    }
}

/// Puts the file or directory at `path` (a symlink there is followed, none below it is).
///
/// # Errors
/// [`Error::Io`] when `path` itself can't be read, [`Error::NotPuttable`] when it is neither file nor directory,
/// [`Error::Own`], [`Error::Unsuitable`], [`Error::Put`], [`Error::Cancelled`]. What can't be read
/// below `path` is no error: see [`PutReport::unreadable`].
///
/// # Cancel safety
/// Dropping the future or cancelling stops the threads soon. What the sink has stays there; a second put finds it.
pub async fn put(
    path: &Path,
    options: PutOptions,
    sink: Arc<dyn BlockSink>,
    index: Arc<dyn ChunkIndex>,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<PutReport, Error> {
    let path = path.to_owned();
    let (is_filtered, own) = (options.filter.is_some(), options.own);
    let start = blocking(move || Start::at(&path, is_filtered, own)).await?;
    let stopped = CancellationToken::new();
    let origin = Origin::Files(start);
    run(origin, options, sink, index, monitor, cancel, stopped).await
}

/// Puts what is at `paths` as one tree whose root is `/` and that holds these paths, what is below them, and the directories that lead
/// to them, with their attributes and nothing else in them. A path that is or leads through a
/// symlink is followed to what it names, and the symlink is taken as well. Named paths win over the
/// filter and over [`PutOptions::one_file_system`], also below another named path. A path that
/// can't be had is reported as unreadable; so is a socket.
///
/// # Errors
/// As [`put`]; [`Error::Io`] when no path can be had.
///
/// # Cancel safety
/// As [`put`].
pub async fn put_paths(
    paths: &[PathBuf],
    options: PutOptions,
    sink: Arc<dyn BlockSink>,
    index: Arc<dyn ChunkIndex>,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<PutReport, Error> {
    let (paths, own) = (paths.to_vec(), options.own);
    let start = blocking(move || Start::at_all(&paths, own)).await?;
    let stopped = CancellationToken::new();
    let origin = Origin::Files(start);
    run(origin, options, sink, index, monitor, cancel, stopped).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Worker)?
}

/// Puts what `reader` gives as one file called `name`, without time and owner: equal bytes under one name give equal links.
///
/// # Errors
/// As [`put`]; [`Error::Io`] when the reader fails.
///
/// # Cancel safety
/// As [`put`].
pub async fn put_reader(
    name: &[u8],
    mut reader: impl AsyncRead + Send + Unpin,
    options: PutOptions,
    sink: Arc<dyn BlockSink>,
    index: Arc<dyn ChunkIndex>,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<PutReport, Error> {
    check_name(name).map_err(|what| Error::Unsuitable { what })?;
    let (bytes, input) = mpsc::channel(4);
    let start = Start::Stream {
        name: Bytes::copy_from_slice(name),
        input: StreamInput {
            input,
            now: Bytes::new(),
            is_whole: false,
        },
    };
    let stopped = CancellationToken::new();
    let heard = stopped.clone();
    let feed = async move {
        loop {
            let mut buffer = Vec::with_capacity(STREAM_BYTES);
            let mut limited = (&mut reader).take(STREAM_BYTES as u64);
            let read = tokio::select! {
                read = limited.read_to_end(&mut buffer) => read,
                // The put has failed and a thread may wait for more: it is told that nothing comes.
                () = heard.cancelled() => return,
            };
            let message = match read {
                Ok(0) => Ok(Bytes::new()),
                Ok(_) => Ok(Bytes::from(buffer)),
                Err(error) => Err(error),
            };
            let is_last = message.as_ref().map_or(true, Bytes::is_empty);
            // Nobody listens any more: the put has failed and says why.
            if bytes.send(message).await.is_err() || is_last {
                return;
            }
        }
    };
    let origin = Origin::Files(start);
    let run = run(origin, options, sink, index, monitor, cancel, stopped);
    tokio::pin!(feed, run);
    tokio::select! {
        result = &mut run => result,
        () = &mut feed => run.await,
    }
}

/// Where what is put comes from.
enum Origin {
    Files(Start),
    Bundle(Old),
}

async fn run(
    origin: Origin,
    options: PutOptions,
    sink: Arc<dyn BlockSink>,
    index: Arc<dyn ChunkIndex>,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
    stopped: CancellationToken,
) -> Result<PutReport, Error> {
    if let Some(name) = &options.name {
        check_name(name).map_err(|what| Error::Unsuitable { what })?;
    }
    let index_file = options.index_file.map(Bytes::from);
    check_index_file(index_file.as_deref().unwrap_or_default())
        .and_then(|()| check_properties(&options.properties))
        .map_err(|what| Error::Unsuitable { what })?;
    let last = options.properties.keys().next_back();
    if options.like.is_some() && last.is_some_and(|name| name.as_str() >= NONCE_PROPERTY) {
        let what = "a property's name is behind that of the nonce";
        return Err(Error::Unsuitable { what });
    }
    let filter = options.filter.clone();
    let in_flight = options.max_in_flight_bytes.max(MIN_IN_FLIGHT_BYTES);
    // Half for blocks; a quarter for small files; the rest for what large files have in hand.
    let blocks = in_flight / 2 / MAX_BLOCK_BYTES;
    let shared = Arc::new(Shared::new(options.context, blocks, in_flight / 4));
    let stop = StopOnDrop(shared.clone());
    let (out, outgoing) = mpsc::channel(blocks);
    let pipeline = Pipeline {
        shared: shared.clone(),
        index: index.clone(),
        monitor: monitor.clone(),
        walk: WalkOptions {
            one_file_system: options.one_file_system,
            keep_identity: options.keep_identity,
            filter: options.filter,
            own: options.own,
            only_count: false,
        },
        previous: options.previous,
        runtime: tokio::runtime::Handle::current(),
        name: options.name,
        index_file,
        properties: options.properties,
        like: options.like,
    };
    let work = tokio::task::spawn_blocking(move || pipeline.run(origin, &out));
    let collector = Collector {
        sink: sink.clone(),
        index,
        monitor,
        stats: PutStats::default(),
        index_failed: false,
    };
    let collected = tokio::select! {
        collected = collector.run(outgoing) => collected,
        () = cancel.cancelled() => Err(Error::Cancelled),
    };
    if collected.is_err() {
        shared.stop();
        stopped.cancel();
    }
    let made = work.await.map_err(|_| Error::Worker)?;
    let stats = collected?;
    let made = made?;
    sink.commit().await?;
    drop(stop);
    Ok(PutReport {
        unmatched: filter.map_or_else(Vec::new, |filter| filter.unmatched()),
        ..made.report(stats)
    })
}

/// The threads of one put.
struct Pipeline {
    shared: Arc<Shared>,
    index: Arc<dyn ChunkIndex>,
    monitor: Arc<dyn Monitor>,
    walk: WalkOptions,
    previous: Option<Previous>,
    runtime: tokio::runtime::Handle,
    name: Option<Bytes>,
    index_file: Option<Bytes>,
    properties: BTreeMap<String, Bytes>,
    like: Option<(BlockId, u32)>,
}

struct Made {
    link: Link,
    totals: Totals,
    /// Distinct blocks besides the root block, unless there were too many to count.
    blocks: Option<u64>,
    unreadable: Vec<Unreadable>,
    unreadable_total: u64,
    left_out: Vec<Unreadable>,
    unchanged: u64,
    excluded: u64,
}

impl Made {
    fn report(self, stats: PutStats) -> PutReport {
        PutReport {
            link: self.link,
            files: self.totals.files,
            entries: self.totals.entries,
            bytes: self.totals.bytes,
            blocks: self.blocks.map_or(0, |below| below + 1),
            new_blocks: stats.new_blocks,
            new_bytes: stats.new_bytes,
            unchanged: self.unchanged,
            excluded: self.excluded,
            unreadable: self.unreadable,
            unreadable_total: self.unreadable_total,
            left_out: self.left_out,
            unmatched: Vec::new(),
        }
    }
}

impl Pipeline {
    fn run(mut self, origin: Origin, out: &mpsc::Sender<Outgoing>) -> Result<Made, Error> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (walk_options, previous) = (std::mem::take(&mut self.walk), self.previous.take());
        let shared = &*self.shared;
        let jobs = Queue::new(READS_AHEAD);
        let index_failed = AtomicBool::new(false);
        let failure = OnceLock::new();
        let reader = Reader {
            shared,
            index: &*self.index,
            monitor: &*self.monitor,
            index_failed: &index_failed,
            keep_identity: walk_options.keep_identity,
        };
        let assembled = thread::scope(|scope| {
            // Whatever happens here, the others end.
            let _stop = StopOnDrop(self.shared.clone());
            let _close = CloseOnDrop(&jobs);
            for _ in 0..cores.clamp(2, MAX_READERS) {
                scope.spawn(|| reader.run(&jobs));
            }
            for _ in 0..cores {
                scope.spawn(|| seal_jobs(shared, out));
            }
            let (items, received) = sync_channel(ITEMS_AHEAD);
            let monitor = &*self.monitor;
            let runtime = self.runtime.clone();
            match origin {
                Origin::Files(start) => {
                    let walker = Walker::new(shared, &jobs, items, walk_options);
                    let index = &*self.index;
                    scope.spawn(move || {
                        let halted = shared.halted.clone();
                        let past = previous
                            .map(|previous| {
                                Past::open(previous, runtime, Some(index), monitor, halted)
                            })
                            .transpose();
                        // An error means that the work was stopped; the assembler knows.
                        if let Ok(past) = past {
                            walk(walker.beside(past.flatten()), start);
                        }
                    });
                }
                Origin::Bundle(old) => {
                    let mut rewriter = Rewriter::new(&reader, items, runtime, old);
                    let failure = &failure;
                    scope.spawn(move || {
                        // Stopped before the way to the assembler is let go of: what came so far is not all.
                        if let Err(Miss::Error(error)) = rewriter.run() {
                            let _ = failure.set(error);
                            shared.stop();
                        }
                    });
                }
            }
            let assembled = Assembler::new(shared, monitor).run(&received)?;
            self.root(assembled, out)
        });
        assembled.map_err(|failed| match failed {
            Failed::Closed => failure.into_inner().unwrap_or(Error::Cancelled),
            Failed::Reader => Error::Worker,
            Failed::Root(path, error) => Error::io(&path, error),
        })
    }

    /// Seals the root block and sends it after everything else.
    fn root(&self, tree: Assembled, out: &mpsc::Sender<Outgoing>) -> Result<Made, Failed> {
        let mut entry = tree.entry;
        if let Some(name) = &self.name {
            entry.name = name.clone();
        }
        let mut root = Root {
            entry,
            totals: tree.totals,
            index_file: self.index_file.clone(),
            properties: self.properties.clone(),
        };
        if self.like.is_some() {
            let nonce = Bytes::from_static(&[0; block::NONCE_BYTES]);
            root.properties.insert(NONCE_PROPERTY.to_owned(), nonce);
        }
        let plaintext = root.encode(&assemble::resolve);
        debug_assert!(plaintext.len() <= MAX_NODE_BYTES, "the limits add up");
        let sealed = self.seal_root(&plaintext)?;
        let link = Link {
            id: sealed.block.id(),
            key: sealed.key,
        };
        let outgoing = Outgoing {
            block: sealed.block,
            index: Vec::new(),
            permit: self.shared.permits.acquire(1)?,
        };
        out.blocking_send(outgoing).map_err(|_| Failed::Closed)?;
        // The sink has it before the threads are told to end.
        drop(self.shared.permits.acquire_all()?);
        Ok(Made {
            link,
            totals: tree.totals,
            blocks: tree.blocks,
            unreadable: tree.unreadable,
            unreadable_total: tree.unreadable_total,
            left_out: tree.left_out,
            unchanged: tree.unchanged,
            excluded: tree.excluded,
        })
    }
}

impl Pipeline {
    /// Seals the root block, where it is to lie if that was asked for.
    fn seal_root(&self, plaintext: &[u8]) -> Result<block::Sealed, Failed> {
        let context = &self.shared.context;
        let Some((like, bits)) = self.like else {
            return block::seal(context, plaintext).map_err(|_| Failed::Reader);
        };
        debug_assert!(
            plaintext.ends_with(&[0; block::NONCE_BYTES]),
            "the nonce is last"
        );
        let search = block::Search {
            like,
            bits,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            tried: &|tries, tries_expected| {
                self.monitor.progress(Progress {
                    tries,
                    tries_expected,
                    ..Progress::default()
                });
            },
            stopped: &|| self.shared.check().is_err(),
        };
        let sealed = block::seal_like(context, plaintext, &search);
        // Without one it was stopped: so many tries do not fail.
        sealed.map_err(|_| Failed::Reader)?.ok_or(Failed::Closed)
    }
}

struct CloseOnDrop<'a>(&'a Queue<ReadJob>);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

fn walk(walker: Walker<'_>, start: Start) {
    // An error means that the work was stopped; the assembler knows.
    let _ = match start {
        Start::Directory {
            fd,
            name,
            path,
            selection,
            failed,
        } => walker.directory(fd, &name, &path, selection, failed),
        Start::File {
            parent,
            name,
            path,
            stat,
        } => walker.file(parent, &name, &path, &stat),
        Start::Stream { name, input } => {
            let path = PathBuf::from(String::from_utf8_lossy(&name).into_owned());
            let entry = Entry {
                name,
                mode: 0o644,
                modified: None,
                owner: None,
                xattrs: Vec::new(),
                identity: None,
                content: Content::File(File {
                    size: 0,
                    extents: Vec::new(),
                    link_group: None,
                }),
            };
            let (out, pieces) = sync_channel(2);
            walker
                .items
                .send(Item::Large(pieces, path))
                .map_err(|_| queue::Closed)
                .and_then(|()| {
                    let job = ReadJob::Stream(Box::new(entry), Box::new(input), out);
                    walker.jobs.push(job)
                })
        }
    };
}
