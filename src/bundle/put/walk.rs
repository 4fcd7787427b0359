//! The walker: one thread that goes through a directory tree in the order of name bytes and hands out what is to be read.
//!
//! It works on directory descriptors and never follows a symlink below the root. Small files are handed out in batches, so that their
//! opening and reading runs in parallel; the order in which everything arrives at the assembler is the order of the walk.
//!
//! On the way to named paths it visits only what leads on; elsewhere a filter may say what is left
//! out, and an earlier tree what need not be read again. What is named is taken whatever filter and
//! borders of file systems say, also below what they leave out. Directories of libernet itself are
//! never taken.
//!
//! Memory: the names of the directories that are open now, and one number for each hard-linked inode.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{self, AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::attributes;
use super::chunk::SMALL_FILE_BYTES;
use super::filter::{Filter, Inside};
use super::place::{Names, Open, Place, Trail, open_directory, path_of};
use super::previous::{self, Beside, Past};
use super::queue::{Closed, Permit, Queue};
use super::read::{Piece, ReadJob};
use super::rewrite::Shift;
use super::seal::{Handle, Shared};
use super::select::Selection;
use crate::bundle::descriptors::patiently;
use crate::bundle::own::Own;
use crate::bundle::stat;
use crate::bundle::tree::{Content, Entry, File, MAX_DEPTH};
use crate::descriptors;
use crate::id::BlockId;

/// A batch is full with this many bytes of files...
pub(super) const BATCH_BYTES: u64 = 1 << 20;
/// ...or this many steps.
pub(super) const BATCH_STEPS: usize = 128;
/// Directories that are kept open at most; those above are opened again when the walk comes back to
/// them.
const OPEN_DIRECTORIES: usize = 64;
/// Directories that are kept open for files that no reader has come to yet, at most...
const WAITING_DIRECTORIES: usize = 512;
/// ...and the part of the descriptors that the process may have.
const SHARE_OF_DESCRIPTORS: u64 = 16;
/// Pause of a walker that is ahead of the readers.
const READERS_PAUSE: Duration = Duration::from_millis(1);
/// Hard-linked inodes whose content is remembered, so that further links are not read again.
pub(super) const REMEMBERED_GROUPS: u32 = 1024;
/// Pieces of a large file that are read ahead.
const PIECES_AHEAD: usize = 2;

/// A regular file that is to be read.
pub(super) struct ToRead {
    pub(super) place: Arc<Place>,
    pub(super) name: Bytes,
    pub(super) link_group: Option<u32>,
    pub(super) maybe_sparse: bool,
}

/// What the walk comes to, in order.
pub(super) enum Step {
    /// A directory begins; its content is what follows up to its `Leave`.
    Enter(Entry<Handle>),
    Leave,
    /// Something that is done as it is: mostly without content.
    Ready(Entry<Handle>),
    /// A small file that is still to be read.
    Small(ToRead),
    /// A small file that was read. Its hash, and where it is stored if it is.
    Read(Box<super::read::SmallFile>),
    /// A further link to a file that came before.
    Again {
        entry: Entry<Handle>,
        size: u64,
        link_group: u32,
        path: PathBuf,
    },
    /// A file that is as it was in the earlier tree.
    Taken(Box<Entry<Handle>>),
    /// Blocks below lists that are taken over.
    Listed(Vec<BlockId>),
    /// A part of a file that is written anew from an earlier tree.
    Shift(Shift),
    /// A file, in a walk that only counts.
    Seen {
        size: u64,
        /// Where it is, if it would be read.
        to_read: Option<PathBuf>,
    },
    /// So many names were left out.
    Excluded(u64),
    /// A path that no put takes, whatever was asked for.
    LeftOut {
        path: PathBuf,
        reason: &'static str,
    },
    /// Could not be read, in full or in part.
    Unreadable {
        path: PathBuf,
        error: io::Error,
    },
}

/// What to walk through and how.
#[derive(Default)]
pub(super) struct WalkOptions {
    pub(super) one_file_system: bool,
    pub(super) keep_identity: bool,
    pub(super) filter: Option<Arc<dyn Filter>>,
    /// Recognises directories that are never taken.
    pub(super) own: Own,
    /// Nothing is read, files are only seen.
    pub(super) only_count: bool,
}

/// What the assembler gets, in order.
pub(super) enum Item {
    Steps(Receiver<Vec<Step>>, Option<Permit>),
    /// A large file in pieces.
    Large(Receiver<Piece>, PathBuf),
}

/// Where the walker's findings go.
pub(super) struct Walker<'a> {
    pub(super) shared: &'a Shared,
    pub(super) jobs: &'a Queue<ReadJob>,
    pub(super) items: SyncSender<Item>,
    options: WalkOptions,
    past: Option<Past<'a>>,
    excluded: u64,
    batch: Vec<Step>,
    batch_bytes: u64,
    groups: HashMap<(u64, u64), u32>,
    frames: Vec<Frame>,
    open: Open,
    /// Directories of the walk's own that may be kept open.
    open_directories: usize,
    /// Directories that may be kept open for files that no reader has come to yet.
    waiting_directories: usize,
    /// A file system, and whether its files may hold more than they say.
    unsized_files: Option<(u64, bool)>,
}

/// A directory that the walk is in.
struct Frame {
    names: Names,
    place: Option<Arc<Place>>,
    trail: Arc<Trail>,
    name: Bytes,
    /// Device and inode.
    inode: (u64, u64),
    scope: Scope,
    /// Only these names are wanted, and those that lead on to named paths.
    only: Option<Vec<Bytes>>,
    /// The path, if the filter wants it.
    path: PathBuf,
}

/// What is wanted in a directory, and what it was like before.
#[derive(Default)]
pub(super) struct Scope {
    /// Paths that are named at or below the directory, if any are.
    pub(super) selection: Option<Arc<Selection>>,
    /// Only names that lead on to named paths are wanted.
    pub(super) is_passage: bool,
    pub(super) filter: Option<Arc<dyn Filter>>,
    pub(super) beside: Option<Beside>,
}

impl Scope {
    /// Whether the directory itself is named.
    fn is_named(&self) -> bool {
        self.selection.as_ref().is_some_and(|here| here.is_named())
    }

    /// Selection at or below `name`.
    fn below(&self, name: &[u8]) -> Option<Arc<Selection>> {
        self.selection.as_ref()?.below(name).cloned()
    }
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        jobs: &'a Queue<ReadJob>,
        items: SyncSender<Item>,
        options: WalkOptions,
    ) -> Self {
        Self {
            shared,
            jobs,
            items,
            options,
            past: None,
            excluded: 0,
            batch: Vec::new(),
            batch_bytes: 0,
            groups: HashMap::new(),
            frames: Vec::new(),
            open: Open::default(),
            open_directories: descriptors::share(SHARE_OF_DESCRIPTORS, OPEN_DIRECTORIES).max(2),
            waiting_directories: descriptors::share(SHARE_OF_DESCRIPTORS, WAITING_DIRECTORIES),
            unsized_files: None,
        }
    }

    /// Goes through an earlier tree, too.
    pub(super) fn beside(mut self, past: Option<Past<'a>>) -> Self {
        self.past = past;
        self
    }

    /// Walks the tree below the directory `fd`, or what is selected of it. Reports what `failed` before the walk.
    pub(super) fn directory(
        mut self,
        fd: OwnedFd,
        name: &[u8],
        path: &Path,
        selection: Arc<Selection>,
        failed: Vec<(PathBuf, io::Error)>,
    ) -> Result<(), Closed> {
        let trail = Trail::root(path);
        let name = Bytes::copy_from_slice(name);
        let scope = Scope {
            is_passage: !selection.is_named(),
            selection: Some(selection),
            filter: self.options.filter.clone(),
            beside: self.past.as_mut().and_then(Past::root),
        };
        self.enter(fd, name, trail, scope)?;
        for (path, error) in failed {
            self.unreadable(path, error)?;
        }
        while let Some(frame) = self.frames.last_mut() {
            self.shared.check()?;
            match frame.names.next() {
                Some(name) => self.visit(name)?,
                None => {
                    self.frames.pop();
                    self.step(Step::Leave, 0)?;
                    self.reopen()?;
                }
            }
        }
        self.flush()
    }

    /// Hands out one regular file.
    pub(super) fn file(
        mut self,
        parent: OwnedFd,
        name: &[u8],
        path: &Path,
        stat: &Stat,
    ) -> Result<(), Closed> {
        let trail = Trail::root(path.parent().unwrap_or(path));
        let place = Place::new(parent, trail, &self.open);
        self.regular(&place, Bytes::copy_from_slice(name), stat, None, None)?;
        self.flush()
    }

    fn enter(
        &mut self,
        fd: OwnedFd,
        name: Bytes,
        trail: Arc<Trail>,
        mut scope: Scope,
    ) -> Result<(), Closed> {
        let path = || trail.path();
        let stat = match fs::fstat(&fd) {
            Ok(stat) => stat,
            Err(error) => return self.unreadable(path(), error),
        };
        let (mut names, unread) = match (&scope.selection, scope.is_passage) {
            (Some(selection), true) => (Names::of(selection.names()), None),
            _ => match self.opening(|| Names::read(&fd))? {
                Ok(names) => (names, None),
                Err(error) => (Names::default(), Some(error)),
            },
        };
        if !scope.is_passage && self.options.own.is_with(&fd, |name| names.has(name)) {
            return self.left_out(path(), "libernet's own data");
        }
        let mut entry = attributes::entry(&name, &stat, attributes::no_entries());
        let (xattrs, left_out) = attributes::xattrs(&fd);
        entry.xattrs = xattrs;
        self.step(Step::Enter(entry), 0)?;
        if left_out {
            self.unreadable(path(), too_large())?;
        }
        if let Some(error) = unread {
            self.unreadable(path(), error)?;
        }
        let path = match &scope.filter {
            Some(_) => path(),
            None => PathBuf::new(),
        };
        let mut only = None;
        if !scope.is_passage
            && let Some(filter) = &scope.filter
        {
            match filter.inside(&path, fd.as_fd()) {
                Inside::Alike => {}
                Inside::Other(other) => scope.filter = Some(other),
                // A person who names a cache wants what is in it.
                Inside::Only(_) if scope.is_named() => {}
                Inside::Only(wanted) => {
                    self.excluded += names.retain(|name| {
                        wanted.iter().any(|other| other == name) || scope.below(name).is_some()
                    });
                    only = Some(wanted);
                }
            }
        }
        let place = Place::new(fd, trail.clone(), &self.open);
        self.frames.push(Frame {
            names,
            place: Some(place),
            trail,
            name,
            inode: stat::inode(&stat),
            scope,
            only,
            path,
        });
        // The root stays open: everything is found again from there.
        if let Some(far) = self.frames.len().checked_sub(self.open_directories)
            && far > 0
            && let Some(frame) = self.frames.get_mut(far)
        {
            frame.place = None;
        }
        Ok(())
    }

    /// Opens the innermost directory again if it was closed to save descriptors.
    fn reopen(&mut self) -> Result<(), Closed> {
        let Some(last) = self.frames.len().checked_sub(1) else {
            return Ok(());
        };
        let Some(open) = (0..=last).rev().find(|at| self.frames[*at].place.is_some()) else {
            return Err(Closed);
        };
        for at in open + 1..=last {
            let parent = self.frames[at - 1].place.clone().ok_or(Closed)?;
            let frame = &self.frames[at];
            let (name, inode, trail) = (frame.name.clone(), frame.inode, frame.trail.clone());
            let is_passage = frame.scope.is_passage;
            let again = self.opening(|| {
                let fd = open_directory(&parent.fd, &name, is_passage)?;
                // Another directory under the same name is not the one that was being walked.
                if stat::inode(&fs::fstat(&fd)?) != inode {
                    return Err(Errno::NOENT);
                }
                Ok(fd)
            })?;
            match again {
                Ok(fd) => self.frames[at].place = Some(Place::new(fd, trail, &self.open)),
                Err(error) => {
                    // What is left of it and of those inside can't be read: they end here.
                    let path = trail.path();
                    self.unreadable(path, error)?;
                    for frame in self.frames.drain(at..).rev().collect::<Vec<_>>() {
                        drop(frame);
                        self.step(Step::Leave, 0)?;
                    }
                    return Ok(());
                }
            }
            // Only the innermost is needed: the ones between are closed again.
            if at > open + 1 && at - 1 > 0 && last - (at - 1) >= self.open_directories / 2 {
                self.frames[at - 1].place = None;
            }
        }
        Ok(())
    }

    fn visit(&mut self, name: Bytes) -> Result<(), Closed> {
        let Some(frame) = self.frames.last_mut() else {
            return Err(Closed);
        };
        let place = frame.place.clone().ok_or(Closed)?;
        let stat = match fs::statat(&place.fd, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(error) => return self.unreadable(place.trail.join(&name), error),
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        let selection = frame.scope.below(&name);
        let is_named = selection.as_ref().is_some_and(|here| here.is_named());
        let mut is_passage = frame.scope.is_passage && !is_named;
        if !frame.scope.is_passage
            && !is_named
            && let Some(filter) = &frame.scope.filter
        {
            let size = match kind {
                FileType::RegularFile => stat::size(&stat),
                _ => 0,
            };
            let path = frame.path.join(path_of(&name));
            let only = frame.only.as_ref();
            let is_kept =
                only.is_none_or(|names| names.contains(&name)) && filter.keeps(&path, is_dir, size);
            if !is_kept {
                if selection.is_none() || !is_dir {
                    self.excluded += 1;
                    return Ok(());
                }
                // Left out, but for what is named below it.
                is_passage = true;
            }
        }
        let earlier = match (&mut self.past, &mut frame.scope.beside) {
            (Some(past), Some(beside)) => past.find(beside, &name)?,
            _ => None,
        };
        let simple = match kind {
            FileType::Directory => {
                let scope = Scope {
                    selection,
                    is_passage,
                    filter: frame.scope.filter.clone(),
                    beside: None,
                };
                return self.subdirectory(&place, name, &stat, scope, earlier);
            }
            FileType::RegularFile => return self.linked(&place, name, &stat, earlier),
            FileType::Symlink => match fs::readlinkat(&place.fd, &name[..], Vec::new()) {
                Ok(target) => Content::Symlink(Bytes::from(target.into_bytes())),
                Err(error) => return self.unreadable(place.trail.join(&name), error),
            },
            FileType::Fifo => Content::Fifo,
            FileType::CharacterDevice => attributes::device(&stat, false),
            FileType::BlockDevice => attributes::device(&stat, true),
            FileType::Socket => return self.left_out(place.trail.join(&name), "a socket"),
            FileType::Unknown => {
                return self.left_out(place.trail.join(&name), "of a kind that is not known");
            }
        };
        let mut entry = attributes::entry(&name, &stat, simple);
        let unread: Option<io::Error> =
            match self.opening(|| attributes::xattrs_at(&place.fd, &name))? {
                Ok((xattrs, left_out)) => {
                    entry.xattrs = xattrs;
                    left_out.then(too_large)
                }
                // The entry was there a moment ago, and is kept as it was.
                Err(Errno::NOENT) => None,
                Err(error) => Some(error.into()),
            };
        self.step(Step::Ready(entry), 0)?;
        match unread {
            Some(error) => self.unreadable(place.trail.join(&name), error),
            None => Ok(()),
        }
    }

    /// Enters a directory, or keeps it as an empty one where it can't or must not be entered.
    fn subdirectory(
        &mut self,
        place: &Place,
        name: Bytes,
        stat: &Stat,
        mut scope: Scope,
        earlier: Option<Entry>,
    ) -> Result<(), Closed> {
        let Some(frame) = self.frames.last() else {
            return Err(Closed);
        };
        let is_border = self.options.one_file_system
            && !scope.is_named()
            && !scope.is_passage
            && stat::device(stat) != frame.inode.0;
        if is_border && scope.selection.is_some() {
            // Something below is named.
            scope.is_passage = true;
        }
        let opened = if self.frames.len() >= MAX_DEPTH {
            Some(Err(Errno::NAMETOOLONG))
        } else if is_border && !scope.is_passage {
            None
        } else {
            Some(self.opening(|| open_directory(&place.fd, &name, scope.is_passage))?)
        };
        if let Some(Ok(fd)) = opened {
            let besides = self.frames.iter().flat_map(|frame| &frame.scope.beside);
            let held = besides.map(Beside::held_bytes).sum();
            let past = self.past.as_ref();
            scope.beside = past.and_then(|past| past.inside(earlier, held));
            return self.enter(fd, name.clone(), place.trail.child(&name), scope);
        }
        // The directory itself is kept, and nothing of what is in it.
        let entry = attributes::entry(&name, stat, attributes::no_entries());
        self.step(Step::Enter(entry), 0)?;
        self.step(Step::Leave, 0)?;
        match opened {
            Some(Err(error)) => self.unreadable(place.trail.join(&name), error),
            _ => Ok(()),
        }
    }

    /// A regular file that may have other names.
    fn linked(
        &mut self,
        place: &Arc<Place>,
        name: Bytes,
        stat: &Stat,
        earlier: Option<Entry>,
    ) -> Result<(), Closed> {
        if stat.st_nlink <= 1 {
            return self.regular(place, name, stat, None, earlier);
        }
        let latest = self.groups.len() as u32;
        let inode = stat::inode(stat);
        match self.groups.get(&inode) {
            Some(&group) if group + REMEMBERED_GROUPS > latest => {
                let content = attributes::no_bytes(Some(group));
                let path = place.trail.join(&name);
                let entry = attributes::entry(&name, stat, content);
                let again = Step::Again {
                    entry,
                    size: stat::size(stat),
                    link_group: group,
                    path,
                };
                self.step(again, 0)
            }
            Some(&group) => self.regular(place, name, stat, Some(group), earlier),
            None => {
                let group = latest + 1;
                self.groups.insert(inode, group);
                self.regular(place, name, stat, Some(group), earlier)
            }
        }
    }

    fn regular(
        &mut self,
        place: &Arc<Place>,
        name: Bytes,
        stat: &Stat,
        link_group: Option<u32>,
        earlier: Option<Entry>,
    ) -> Result<(), Closed> {
        let size = stat::size(stat);
        let is_unsized = size == 0 && self.may_say_nothing(place, stat);
        if !is_unsized && self.as_before(&name, stat, link_group, earlier)? {
            return Ok(());
        }
        if self.options.only_count {
            let to_read = Some(place.trail.join(&name));
            return self.step(Step::Seen { size, to_read }, 0);
        }
        let maybe_sparse = stat::maybe_sparse(stat);
        let file = ToRead {
            place: place.clone(),
            name,
            link_group,
            maybe_sparse,
        };
        if size < SMALL_FILE_BYTES && !maybe_sparse && !is_unsized {
            return self.step(Step::Small(file), size);
        }
        self.flush()?;
        let path = file.place.trail.join(&file.name);
        let (out, pieces) = sync_channel(PIECES_AHEAD);
        // The assembler hears of it first: it takes the pieces in order.
        self.send(Item::Large(pieces, path))?;
        self.jobs.push(ReadJob::Large(file, out))
    }

    /// Whether a file that says it is empty may have content all the same, as those of `/proc` do:
    /// it is read to its end as a stream then. On other file systems a small file is read to its
    /// end in any case.
    fn may_say_nothing(&mut self, place: &Place, stat: &Stat) -> bool {
        let device = stat::device(stat);
        match self.unsized_files {
            Some((last, is)) if last == device => is,
            _ => {
                let is = stat::has_unsized_files(&place.fd);
                self.unsized_files = Some((device, is));
                is
            }
        }
    }

    /// Takes a file's content over from the earlier tree, if it is the same and all there.
    fn as_before(
        &mut self,
        name: &[u8],
        stat: &Stat,
        link_group: Option<u32>,
        earlier: Option<Entry>,
    ) -> Result<bool, Closed> {
        let Some(earlier) = earlier else {
            return Ok(false);
        };
        let Some(mut past) = self.past.take() else {
            return Ok(false);
        };
        let size = stat::size(stat);
        let identity = stat::identity(stat);
        let mut taken = Ok(past.is_same(&earlier, size, stat::modified(stat), identity));
        if taken == Ok(true) && !self.options.only_count {
            taken = past.take_over(&earlier, &mut |ids| self.step(Step::Listed(ids), 0));
        }
        self.past = Some(past);
        if !taken? {
            return Ok(false);
        }
        if self.options.only_count {
            self.step(
                Step::Seen {
                    size,
                    to_read: None,
                },
                0,
            )?;
            return Ok(true);
        }
        let Content::File(File { extents, .. }) = earlier.content else {
            return Ok(false);
        };
        let content = Content::File(File {
            size,
            extents: previous::extents(extents),
            link_group,
        });
        let entry = Entry {
            // A change of theirs would have changed the time of the last change.
            xattrs: earlier.xattrs,
            identity: self.options.keep_identity.then_some(identity),
            ..attributes::entry(name, stat, content)
        };
        self.step(Step::Taken(Box::new(entry)), 0)?;
        Ok(true)
    }

    /// Opens something. When descriptors have run out, the batch is handed out, whose files keep
    /// their directories open, and directories above the innermost are closed.
    fn opening<T>(
        &mut self,
        open: impl Fn() -> Result<T, Errno>,
    ) -> Result<Result<T, Errno>, Closed> {
        self.await_readers()?;
        let flushed = Cell::new(Ok(()));
        let unless_closed = || {
            flushed
                .get()
                .map_err(|Closed| Errno::CANCELED)
                .and_then(|()| open())
        };
        let opened = patiently(unless_closed, || {
            flushed.set(self.flush());
            let above = self.frames.len().saturating_sub(1);
            // The root stays open: everything is found again from there.
            let frames = self.frames.iter_mut().take(above).skip(1);
            frames.filter_map(|frame| frame.place.take()).count() > 0
        });
        flushed.get().map(|()| opened)
    }

    /// Waits while too many directories are kept open for files that no reader has come to yet.
    fn await_readers(&mut self) -> Result<(), Closed> {
        let is_full = |walker: &Self| {
            let own = walker.frames.iter().filter(|frame| frame.place.is_some());
            walker.open.count() > own.count() + walker.waiting_directories
        };
        if !is_full(self) {
            return Ok(());
        }
        self.flush()?;
        while is_full(self) {
            self.shared.check()?;
            std::thread::sleep(READERS_PAUSE);
        }
        Ok(())
    }

    fn left_out(&mut self, path: PathBuf, reason: &'static str) -> Result<(), Closed> {
        self.step(Step::LeftOut { path, reason }, 0)
    }

    fn unreadable(&mut self, path: PathBuf, error: impl Into<io::Error>) -> Result<(), Closed> {
        let error = error.into();
        self.step(Step::Unreadable { path, error }, 0)
    }

    fn step(&mut self, step: Step, bytes: u64) -> Result<(), Closed> {
        self.batch.push(step);
        self.batch_bytes += bytes;
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_STEPS {
            self.flush()?;
        }
        Ok(())
    }

    /// Hands the batch out. Memory for its files is taken in the order of the walk, so that the oldest batch always has what it needs.
    fn flush(&mut self) -> Result<(), Closed> {
        if self.excluded > 0 {
            let excluded = std::mem::take(&mut self.excluded);
            self.batch.push(Step::Excluded(excluded));
        }
        let steps = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.batch_bytes);
        if steps.is_empty() {
            return Ok(());
        }
        let permit = self.shared.read_budget.acquire(bytes as usize)?;
        let (out, read) = sync_channel(1);
        self.send(Item::Steps(read, Some(permit)))?;
        if steps.iter().any(|step| matches!(step, Step::Small(_))) {
            self.jobs.push(ReadJob::Steps(steps, out))
        } else {
            out.send(steps).map_err(|_| Closed)
        }
    }

    fn send(&self, item: Item) -> Result<(), Closed> {
        self.items.send(item).map_err(|_| Closed)
    }
}

fn too_large() -> io::Error {
    io::Error::other("some of its extended attributes are too large to keep")
}
