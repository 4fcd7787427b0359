//! Extracting: a bundle becomes files again.
//!
//! ```text
//! walk -> prepare (directories, symlinks, plan) ──block jobs──> fetch (a window of blocks) -> open, write ranges -> attributes
//! ```
//!
//! The plan goes by block: a block is fetched and opened once and all its ranges are written while it is at hand, although hundreds of
//! small files live in one. Content is decrypted and written on blocking threads.
//!
//! A tree is made in a hidden directory beside the target and renamed when it is complete, so that an interrupted extraction leaves
//! nothing half-named and the next one goes on from there. Files that lack a block are left out and reported; the others are written.
//!
//! Files that are there already are brought to the entry's attributes, too; what the system refuses
//! of them is noted and costs nothing else. In a directory that is in use, what earlier extractions
//! left unfinished is cleared away.
//!
//! **Invariants**: nothing outside the target is ever touched: see [`directory`]. Nothing is ever
//! written into a directory of libernet that is in use, or in its place.
//!
//! Memory: [`ExtractOptions::window`] blocks on their way, two plaintexts for each core, and two plans.

mod attributes;
mod before;
mod directory;
mod dry;
mod job;
mod leftover;
mod links;
mod plan;
mod prepare;
mod readback;
mod site;
mod special;
mod write;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::{FutureExt, StreamExt, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use self::attributes::Attributes;
use self::before::{check_claims, walk_first};
use self::directory::Place;
use self::job::{Ground, Job};
use self::leftover::hidden_beside;
use self::plan::Planner;
use self::prepare::{BlockJob, Preparer};
use self::site::{Site, refuse_own};
use self::write::{Again, Target, Write};
use super::bounds::Bounds;
use super::choose::Choice;
use super::error::Error;
use super::own::Own;
use super::pattern::Line;
use super::put::MAX_REPORTED;
use super::read::{Bundle, piece};
use super::root::BundleKind;
use super::tree::File;
use crate::block::{self, BlockSource, GetError, Link};
use crate::crypto::hash;
use crate::id::BlockId;
use crate::monitor::Monitor;

/// Blocks that are asked for at once, unless said otherwise: enough for distant peers, and at most 64 MiB.
pub const DEFAULT_WINDOW: usize = 32;
/// Blocks among which the source chooses which one is fetched next: many, so that those who fetch the same at the same time have different ones to
/// give each other.
const AHEAD: usize = 256;
/// Entries that are prepared in one go.
const BATCH_ENTRIES: usize = 512;

/// What to do with what is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overwrite {
    /// The target must not exist.
    #[default]
    Never,
    /// What is there stays as it is; what is not is written.
    Missing,
    /// Files whose size or time differ are replaced; what is not in the bundle stays.
    Changed,
    /// All files are replaced; what is not in the bundle stays.
    Always,
}

/// How to extract.
#[derive(Clone, Debug)]
pub struct ExtractOptions {
    /// What to do with what is there already.
    pub overwrite: Overwrite,
    /// Restores owners and groups as far as this process may: root all of them, others the groups
    /// that they are in.
    pub owners: bool,
    /// Restores setuid and setgid bits of what has its owner, ACLs, and, as root, capabilities and
    /// other attributes that only root may set. Not for what a stranger made.
    pub powers: bool,
    /// Restores devices. Takes root.
    pub devices: bool,
    /// Blocks that are asked for at once.
    pub window: usize,
    /// What is extracted in place of the whole: names from the bundle's root down. It becomes the target itself.
    pub from: Vec<Bytes>,
    /// Patterns of the paths that are wanted: a match comes with everything below it and the
    /// directories above it, `!` takes back, and a slash anchors a line at what is extracted.
    /// Empty: everything. Only the tree blocks on the way are fetched.
    pub select: Vec<Line>,
    /// Files that match come before all others; lines as in [`select`](Self::select).
    pub first: Vec<Line>,
    /// Files come by age in coarse steps, the newest first. Takes a few more walks through the tree.
    pub newest_first: bool,
    /// Nothing is written: the report tells what would be.
    pub dry_run: bool,
    /// The target gets the attributes of the bundle's root. Otherwise it keeps its own; if it is made, nobody else may enter it.
    pub root_attributes: bool,
    /// Each file is read back from the disk and compared with the bundle: those that are written,
    /// and those that are there already with the right size and time, which are replaced when they
    /// differ.
    pub verify: bool,
    /// Limits on what is written; none unless said otherwise, for a bundle that one made oneself.
    pub bounds: Bounds,
    /// Recognises directories of libernet: nothing is written into one, or in its place.
    pub own: Own,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            overwrite: Overwrite::Never,
            owners: false,
            powers: false,
            devices: false,
            window: DEFAULT_WINDOW,
            from: Vec::new(),
            select: Vec::new(),
            first: Vec::new(),
            newest_first: false,
            dry_run: false,
            root_attributes: true,
            verify: false,
            bounds: Bounds::default(),
            own: Own::default(),
        }
    }
}

/// What an extraction did, or would do.
#[derive(Clone, Debug, Default)]
pub struct ExtractReport {
    /// Where it is.
    pub path: PathBuf,
    /// Regular files that are there now.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files among them that were there before with the right size and time, and with
    /// [`verify`](ExtractOptions::verify) the right bytes.
    pub unchanged: u64,
    /// Files that were not there before.
    pub new_files: u64,
    /// Their bytes.
    pub new_bytes: u64,
    /// Files that took the place of something else.
    pub changed_files: u64,
    /// Their bytes.
    pub changed_bytes: u64,
    /// Files, symlinks and the like that stayed as they were because something was there.
    pub skipped: u64,
    /// Files among [`files`](Self::files) that were read back from the disk and found right.
    pub verified: u64,
    /// Devices that were not restored.
    pub left_out: u64,
    /// What lacks a block and is not there: the first [`MAX_REPORTED`].
    pub missing: Vec<Missing>,
    /// How many there are in all.
    pub missing_total: u64,
    /// What the file system refused: the first [`MAX_REPORTED`].
    pub failed: Vec<Failed>,
    /// How many there are in all.
    pub failed_total: u64,
    /// Attributes that the system refused to things that are there: the first [`MAX_REPORTED`].
    pub refused: Vec<Failed>,
    /// Number of all such attributes.
    pub refused_total: u64,
    /// Entries whose owner or group is another than in the bundle, because only root could give
    /// them away.
    pub kept_owners: u64,
    /// Entries that did not get their setuid or setgid bit back, because they belong to somebody
    /// else.
    pub lost_powers: u64,
    /// Lines of patterns that matched nothing.
    pub unmatched: Vec<String>,
}

impl ExtractReport {
    /// Whether the content of everything in the bundle is there.
    pub const fn is_complete(&self) -> bool {
        self.missing_total == 0 && self.failed_total == 0
    }
}

/// A file, or everything that is left of a directory, that lacks a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Path inside the bundle.
    pub path: PathBuf,
    /// The block.
    pub block: BlockId,
    /// Why it could not be had, for people.
    pub reason: String,
}

/// Something that could not be written, or an attribute that could not be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// Path inside the bundle.
    pub path: PathBuf,
    /// Why, for people.
    pub reason: String,
}

/// Writes the whole bundle to `target`.
///
/// A tree becomes `target` itself. A single file becomes `target`, or `target/NAME` when `target`
/// is a directory. Directories above the target are made.
///
/// # Errors
/// [`Error::TargetExists`], [`Error::TargetIsOwn`], [`Error::Busy`], [`Error::Io`] when the target
/// itself can't be written, [`Error::DiskFull`], [`Error::Excess`], [`Error::Malformed`] when the
/// bundle holds more than it says, [`Error::Get`] when the node stops, [`Error::Cancelled`]. Single
/// files that can't be had or written are no error: see [`ExtractReport`].
///
/// # Cancel safety
/// Dropping the future or cancelling stops soon; what is complete stays in the hidden directory, and the next call goes on from there.
pub async fn extract(
    bundle: &Bundle,
    target: &Path,
    options: ExtractOptions,
    monitor: Arc<dyn Monitor>,
    cancel: CancellationToken,
) -> Result<ExtractReport, Error> {
    let bundle = part(bundle, &options.from).await?;
    let target = target.to_owned();
    let (named, own) = (target.clone(), options.own);
    blocking(move || refuse_own(&named, own)).await??;
    let (whole, named, bounds) = (bundle.clone(), target.clone(), options.bounds);
    let hidden = hidden_beside(&target, &tag(&bundle, &options));
    blocking(move || check_claims(&whole, bounds, &named, &hidden)).await??;
    tokio::select! {
        walked = walk_first(&bundle, bounds) => walked?,
        () = cancel.cancelled() => return Err(Error::Cancelled),
    }
    let mut choice = Choice::new(&options.select, &options.first, options.newest_first)?;
    if options.dry_run {
        let work = dry::dry_run(&bundle, &target, &options, &choice);
        let mut report = tokio::select! {
            report = work => report,
            () = cancel.cancelled() => Err(Error::Cancelled),
        }?;
        report.unmatched = choice.unmatched();
        return Ok(report);
    }
    let for_site = bundle.clone();
    let begun = blocking(move || Begun::begin(&for_site, &target, options, monitor)).await??;
    let Begun { site, job, work } = begun;
    let _stop = StopOnDrop(job.clone());
    let both = write_all_of(&bundle, &job, &mut choice, work);
    let planned = tokio::select! {
        planned = both => planned,
        () = cancel.cancelled() => Err(Error::Cancelled),
        // Some thread or task has said why.
        () = job.stopped() => Err(Error::Cancelled),
    };
    let ended = match planned {
        Ok(preparer) => job.work(move || end(preparer)).await,
        Err(error) => Err(error),
    };
    if let Err(error) = ended {
        job.stop(error);
    }
    // What was begun is taken away by whoever had it in hand.
    job.wait_for_workers().await;
    if let Some(fatal) = job.take_fatal() {
        if matches!(fatal, Error::Excess(_)) {
            // A person who says yes begins again; nobody else wants what came so far.
            drop(job);
            blocking(move || site.take_away()).await?;
        }
        return Err(fatal);
    }
    let path = site.path.clone();
    blocking(move || site.reveal()).await??;
    leftover::tell_cleared(&job);
    Ok(ExtractReport {
        unmatched: choice.unmatched(),
        ..job.report(path)
    })
}

/// What is called `from` in the bundle.
pub(super) async fn part(bundle: &Bundle, from: &[Bytes]) -> Result<Bundle, Error> {
    use std::os::unix::ffi::OsStrExt;
    if from.is_empty() {
        return Ok(bundle.clone());
    }
    let path = from.join(&b'/');
    match bundle.lookup(&path).await? {
        Some(entry) => Ok(bundle.part(&path, entry)),
        None => Err(Error::NoSuchPath {
            path: std::ffi::OsStr::from_bytes(&path).into(),
        }),
    }
}

/// A name for this work that tells it from others: what another selection left half done is not this one's.
fn tag(bundle: &Bundle, options: &ExtractOptions) -> String {
    let tag = bundle.tag();
    if options.select.is_empty() {
        return tag;
    }
    let forms: Vec<&str> = options
        .select
        .iter()
        .flat_map(|line| line.forms().iter().map(String::as_str))
        .collect();
    let chosen = forms.join("\n");
    hash::sha384_id(&[tag.as_bytes(), chosen.as_bytes()].concat()).to_hex()[..8].to_owned()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| Error::Worker)
}

/// Tells the threads to end when the caller's future is dropped.
struct StopOnDrop(Arc<Job>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop(Error::Cancelled);
    }
}

/// An extraction whose place is made.
struct Begun {
    site: Site,
    job: Arc<Job>,
    work: Work,
}

/// What is to be planned.
enum Work {
    Tree(Preparer),
    /// One file; its extents are still to be planned when they are given.
    File(Preparer, Option<(Arc<Target>, File)>),
}

impl Begun {
    fn begin(
        bundle: &Bundle,
        target: &Path,
        options: ExtractOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Result<Self, Error> {
        match bundle.root().kind() {
            BundleKind::Tree => Self::tree(bundle, target, options, monitor),
            BundleKind::Stream => Self::file(bundle, target, options, monitor),
        }
    }

    fn tree(
        bundle: &Bundle,
        target: &Path,
        options: ExtractOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Result<Self, Error> {
        let tag = tag(bundle, &options);
        let (root_attributes, overwrite) = (options.root_attributes, options.overwrite);
        let (site, fd) = Site::for_tree(target, &tag, options.overwrite)?;
        let job = Job::new(
            options,
            site.scene(tag, site.path.clone()),
            monitor,
            bundle.root().totals,
        );
        leftover::name_unfinished(&job, &site.parent, &site.path);
        if site.ground != Ground::Fresh {
            leftover::clear(&job, &fd);
        }
        let mut entry = bundle.root().entry.clone();
        let stays = site.ground == Ground::InPlace && overwrite == Overwrite::Missing;
        let attributes = (root_attributes && !stays).then(|| Attributes::of(&mut entry));
        let root = Place::root(job.clone(), fd, attributes, site.locked_mode);
        let work = Work::Tree(Preparer::new(job.clone(), root));
        Ok(Self { site, job, work })
    }

    /// One file, or another single thing.
    fn file(
        bundle: &Bundle,
        target: &Path,
        options: ExtractOptions,
        monitor: Arc<dyn Monitor>,
    ) -> Result<Self, Error> {
        let tag = tag(bundle, &options);
        let entry = bundle.root().entry.clone();
        let name = match &entry.name {
            name if name.is_empty() => tag.as_bytes(),
            name => name,
        };
        let site = Site::for_file(target, name, &tag, options.overwrite)?;
        let (totals, path) = (bundle.root().totals, site.path.clone());
        let folder = path.parent().map(Path::to_owned).unwrap_or_default();
        let job = Job::new(options, site.scene(tag, folder), monitor, totals);
        leftover::clear_beside(&job, &site.parent, &site.name);
        let parent = site.parent_fd().map_err(|error| Error::io(&path, error))?;
        let place = Place::root(job.clone(), parent, None, site.locked_mode);
        let (name, hidden) = (site.name.clone().into(), Bytes::from(site.hidden.clone()));
        let mut preparer = Preparer::new(job.clone(), place.clone());
        let open_end = preparer
            .only(&place, name, hidden, entry)
            .map_err(|error| Error::io(&path, error))?;
        let work = Work::File(preparer, open_end);
        Ok(Self { site, job, work })
    }
}

/// Reads back what waits for it and makes the further names of files; the directories get their
/// attributes when the preparer lets go of them.
fn end(mut preparer: Preparer) {
    preparer.job.verify_all();
    preparer.link_all();
}

/// Writes everything, and once more what turned out to be another than it should be.
async fn write_all_of(
    bundle: &Bundle,
    job: &Arc<Job>,
    choice: &mut Choice,
    work: Work,
) -> Result<Preparer, Error> {
    let source = bundle.opener().source().clone();
    let (out, jobs) = mpsc::channel(1);
    let planned = plan(Planner { bundle, job, out }, choice, work);
    let preparer = futures::join!(planned, write_blocks(job, source.clone(), jobs)).0?;
    let again = job.take_again();
    if again.is_empty() {
        return Ok(preparer);
    }
    let (out, jobs) = mpsc::channel(1);
    let planned = plan_again(Planner { bundle, job, out }, preparer, again);
    futures::join!(planned, write_blocks(job, source, jobs)).0
}

/// Walks the bundle, makes what needs no blocks, and hands out what does.
async fn plan(planner: Planner<'_>, choice: &mut Choice, work: Work) -> Result<Preparer, Error> {
    match work {
        Work::Tree(preparer) => planner.tree(preparer, choice).await,
        Work::File(preparer, None) => planner.finish(preparer).await,
        Work::File(preparer, Some((target, file))) => {
            let preparer = planner.stretches(preparer, target, file).await?;
            planner.finish(preparer).await
        }
    }
}

/// Hands out what files are made of that have to be written after all.
async fn plan_again(
    planner: Planner<'_>,
    preparer: Preparer,
    again: Vec<Again>,
) -> Result<Preparer, Error> {
    let preparer = planner.again(preparer, again).await?;
    planner.finish(preparer).await
}

/// Fetches blocks, a window of them at a time, and has them written.
async fn write_blocks(
    job: &Arc<Job>,
    source: Arc<dyn BlockSource>,
    jobs: mpsc::Receiver<Vec<BlockJob>>,
) {
    let window = job.options.window.max(1);
    let ahead = Ahead {
        jobs,
        waiting: VecDeque::new(),
        source: source.clone(),
    };
    stream::unfold(ahead, async |mut ahead| {
        let next = ahead.next().await?;
        Some((next, ahead))
    })
    .map(|work| {
        let (job, source) = (job.clone(), source.clone());
        async move {
            if let Err(error) = write_block(&job, &*source, work).await {
                job.stop(error);
            }
        }
        .boxed()
    })
    .buffer_unordered(window)
    .for_each(async |()| {})
    .await;
}

/// Blocks that are to be fetched. What was handed out together may be fetched in any order, within bounds.
struct Ahead {
    jobs: mpsc::Receiver<Vec<BlockJob>>,
    waiting: VecDeque<BlockJob>,
    source: Arc<dyn BlockSource>,
}

impl Ahead {
    async fn next(&mut self) -> Option<BlockJob> {
        while self.waiting.is_empty() {
            self.waiting = self.jobs.recv().await?.into();
        }
        let ids: Vec<BlockId> = self
            .waiting
            .iter()
            .take(AHEAD)
            .map(|job| job.link.id)
            .collect();
        let first = self.source.first_of(&ids).min(ids.len() - 1);
        self.waiting.remove(first)
    }
}

async fn write_block(
    job: &Arc<Job>,
    source: &dyn BlockSource,
    work: BlockJob,
) -> Result<(), Error> {
    let BlockJob { link, writes } = work;
    if job.is_stopped() {
        return Ok(());
    }
    let block = match source.get(link.id).await {
        Ok(block) => block,
        Err(error @ GetError::Stopping) => return Err(error.into()),
        Err(error) => {
            let reason = error.to_string();
            return job.work(move || lack_all(&writes, link.id, &reason)).await;
        }
    };
    let of_job = job.clone();
    job.work(move || {
        let mut buffer = of_job.buffer();
        match block::open_in(&block, &link.key, &mut buffer) {
            Ok(plaintext) => {
                drop(block);
                of_job.origin.add(&link.id, plaintext.len());
                write_all(&of_job, &plaintext, &link, writes);
            }
            Err(error) => lack_all(&writes, link.id, &error.to_string()),
        }
        of_job.give_back(buffer);
    })
    .await?;
    job.blocks.fetch_add(1, Ordering::Relaxed);
    job.report_progress();
    Ok(())
}

fn write_all(job: &Job, plaintext: &[u8], link: &Link, writes: Vec<Write>) {
    for write in writes {
        if let Err(excess) = job.claim(write.len) {
            return job.stop(Error::Excess(excess));
        }
        match piece(plaintext, link, write.offset, write.len) {
            Ok(piece) => write.target.write(write.at, &plaintext[piece]),
            Err(error) => write.target.lack(link.id, &error.to_string()),
        }
    }
}

fn lack_all(writes: &[Write], block: BlockId, reason: &str) {
    for write in writes {
        write.target.lack(block, reason);
    }
}
