//! Makes everything that needs no blocks (directories, symlinks, empty files) and plans what does.
//!
//! Runs on a blocking thread, a batch of entries at a time, in the order of the walk.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::{self, AtFlags, FileType, Mode, Stat};
use rustix::io::Errno;

use super::Overwrite;
use super::directory::{Attributes, Place, set_attributes_at, unlink};
use super::job::{Ground, Job};
use super::write::{Target, TargetPlan, Write, open_source};
use crate::block::Link;
use crate::bundle::cursor::Stretch;
use crate::bundle::stat;
use crate::bundle::tree::{Content, Device, Entry, Extent, File, ModTime};
use crate::crypto::hash;

/// Pieces that are planned before the first of their blocks is asked for. Within a plan each block is fetched once, wherever in the tree it is
/// used; this many cover some 30,000 small files or 30 GiB of large ones, in about 15 MiB of memory.
const PLAN_PIECES: usize = 32_768;

/// One step of the walk.
pub(super) struct Step {
    /// Number of directories above it.
    pub(super) depth: usize,
    pub(super) entry: Entry,
}

/// A block and everything that is written from it.
pub(super) struct BlockJob {
    pub(super) link: Arc<Link>,
    pub(super) writes: Vec<Write>,
}

/// What is to be fetched, in order of first use.
#[derive(Default)]
pub(super) struct Plan {
    jobs: Vec<BlockJob>,
    by_block: HashMap<Link, usize>,
    pieces: usize,
}

impl Plan {
    pub(super) fn add(&mut self, link: Arc<Link>, write: Write) {
        write.target.add_piece();
        self.pieces += 1;
        if let Some(job) = self
            .by_block
            .get(&*link)
            .and_then(|at| self.jobs.get_mut(*at))
        {
            job.writes.push(write);
            return;
        }
        self.by_block.insert((*link).clone(), self.jobs.len());
        self.jobs.push(BlockJob {
            link,
            writes: vec![write],
        });
    }

    pub(super) fn is_full(&self) -> bool {
        self.pieces >= PLAN_PIECES
    }

    /// All jobs but the last, which the next entries probably need too: small files that follow each other share a pack.
    pub(super) fn take_most(&mut self) -> Vec<BlockJob> {
        let mut taken = self.take_all();
        if taken.len() > 1
            && let Some(last) = taken.pop()
        {
            self.pieces = last.writes.len();
            self.by_block.insert((*last.link).clone(), 0);
            self.jobs.push(last);
        }
        taken
    }

    pub(super) fn take_all(&mut self) -> Vec<BlockJob> {
        self.by_block.clear();
        self.pieces = 0;
        mem::take(&mut self.jobs)
    }
}

/// A further name of a file.
struct LinkTo {
    group: u32,
    place: Arc<Place>,
    name: Bytes,
}

/// What came of making a further name.
enum Linked {
    New,
    Replaced,
    WasThere,
    Skipped,
}

/// Goes along with the walk.
pub(super) struct Preparer {
    job: Arc<Job>,
    /// The directories above the current entry; `None` for one that could not be made, and what is in it is left out.
    places: Vec<Option<Arc<Place>>>,
    pub(super) plan: Plan,
    groups: HashMap<u32, Arc<Target>>,
    links: Vec<LinkTo>,
    /// Directories that come up again, by path, while the tree is gone through more than once; `None` for one that could not be made.
    kept: Option<HashMap<PathBuf, Option<Arc<Place>>>>,
    is_last_round: bool,
}

impl Preparer {
    /// `root` is where a tree's entries go.
    pub(super) fn new(job: Arc<Job>, root: Arc<Place>) -> Self {
        Self {
            job,
            places: vec![Some(root)],
            plan: Plan::default(),
            groups: HashMap::new(),
            links: Vec::new(),
            kept: None,
            is_last_round: true,
        }
    }

    /// Directories will come more than once.
    pub(super) fn expect_again(&mut self) {
        self.kept = Some(HashMap::new());
        self.is_last_round = false;
    }

    /// From here on each directory comes for the last time.
    pub(super) const fn expect_no_more(&mut self) {
        self.is_last_round = true;
    }

    /// Makes or plans the entries. For a last entry whose extents are in blocks of their own, gives the file, whose pieces the caller
    /// plans.
    pub(super) fn prepare(&mut self, steps: Vec<Step>) -> Option<(Arc<Target>, File)> {
        let mut open_end = None;
        for Step { depth, entry } in steps {
            if self.job.is_stopped() {
                return None;
            }
            self.places.truncate(depth);
            let Some(Some(place)) = self.places.last().cloned() else {
                // Its directory could not be made; depths stay in step.
                self.places.push(None);
                continue;
            };
            self.job.entries.fetch_add(1, Ordering::Relaxed);
            let name = entry.name.clone();
            match self.one(&place, entry) {
                Ok(found) => open_end = found,
                Err(error) => {
                    self.job.failed(&place.path_of(&name), error);
                    self.places.truncate(depth);
                    self.places.push(None);
                }
            }
        }
        open_end
    }

    fn one(
        &mut self,
        place: &Arc<Place>,
        mut entry: Entry,
    ) -> io::Result<Option<(Arc<Target>, File)>> {
        let attributes = Attributes::of(&mut entry);
        let name = entry.name;
        match entry.content {
            Content::Directory(_) => {
                self.enter(place, name, attributes)?;
                Ok(None)
            }
            Content::File(file) => {
                let target = self.file(place, name, None, attributes, &file)?;
                Ok(target.map(|target| (target, file)))
            }
            Content::Symlink(target) => {
                self.symlink(place, &name, &target, &attributes)?;
                Ok(None)
            }
            Content::Fifo => {
                self.special(place, &name, FileType::Fifo, 0, &attributes)?;
                Ok(None)
            }
            Content::Device(device) => {
                self.device(place, &name, device, &attributes)?;
                Ok(None)
            }
        }
    }

    /// Makes a directory, or finds it if it was made in an earlier round.
    fn enter(&mut self, place: &Arc<Place>, name: Bytes, attributes: Attributes) -> io::Result<()> {
        let path = self.kept.as_ref().map(|_| place.path_of(&name));
        if let (Some(kept), Some(path)) = (&mut self.kept, &path) {
            let known = match self.is_last_round {
                true => kept.remove(path),
                false => kept.get(path).cloned(),
            };
            if let Some(known) = known {
                self.places.push(known);
                return Ok(());
            }
        }
        let made = self.make(place, name, attributes);
        if let (Some(kept), Some(path)) = (&mut self.kept, path)
            && !self.is_last_round
        {
            kept.insert(path, made.as_ref().ok().cloned());
        }
        self.places.push(Some(made?));
        Ok(())
    }

    fn make(
        &self,
        place: &Arc<Place>,
        name: Bytes,
        attributes: Attributes,
    ) -> io::Result<Arc<Place>> {
        let fresh = self.directory(place, &name)?;
        // A directory that was there keeps its attributes if everything that was there does.
        let stays = !fresh && self.job.only_adds();
        let child = place.child(name, (!stays).then_some(attributes));
        if !fresh && self.job.ground == Ground::Resumed {
            // It may have its final mode already.
            fs::fchmod(&*child.fd()?, Mode::RWXU)?;
        }
        Ok(child)
    }

    /// Whether it was made now.
    fn directory(&self, place: &Arc<Place>, name: &[u8]) -> io::Result<bool> {
        let dir = place.fd()?;
        match fs::mkdirat(&*dir, name, Mode::RWXU) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) if self.job.ground != Ground::Fresh => {}
            Err(error) => return Err(error.into()),
        }
        let stat = fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Ok(false);
        }
        if self.job.only_adds() {
            return Err(io::Error::other("something that is no directory is there"));
        }
        unlink(&dir, name)?;
        fs::mkdirat(&*dir, name, Mode::RWXU)?;
        Ok(true)
    }

    /// What is there under this name, if that is possible at all.
    fn existing(&self, place: &Arc<Place>, name: &[u8]) -> io::Result<Option<Stat>> {
        if self.job.ground == Ground::Fresh {
            return Ok(None);
        }
        match fs::statat(&*place.fd()?, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Plans a regular file. `None` when there is nothing left to do for the caller. With `temporary` it is written under that name.
    pub(super) fn file(
        &mut self,
        place: &Arc<Place>,
        name: Bytes,
        temporary: Option<Bytes>,
        attributes: Attributes,
        file: &File,
    ) -> io::Result<Option<Arc<Target>>> {
        if let Some(group) = file.link_group
            && self.groups.contains_key(&group)
        {
            self.links.push(LinkTo {
                group,
                place: place.clone(),
                name,
            });
            return Ok(None);
        }
        let existing = self.existing(place, &name)?;
        if existing.is_some() && self.job.only_adds() {
            // Further names of the same file don't become names of this one, which may be another.
            self.job.skip();
            return Ok(None);
        }
        let replaces = existing.is_some() && self.job.ground == Ground::InPlace;
        let keep = self.keeps_same()
            && existing
                .as_ref()
                .is_some_and(|stat| is_same(stat, file.size, attributes.modified));
        let temporary = match self.job.ground {
            Ground::InPlace if temporary.is_none() => Some(self.temporary_name(&name)),
            _ => temporary,
        };
        let in_pieces = !matches!(file.extents.as_slice(), [Extent::Data { .. }]);
        if !keep {
            let left = temporary.as_ref().unwrap_or(&name);
            if self.job.ground != Ground::Fresh {
                unlink(&*place.fd()?, left)?;
            }
        }
        let plan = TargetPlan {
            place: place.clone(),
            name,
            temporary,
            attributes,
            size: file.size,
            in_pieces,
            replaces,
        };
        let target = Target::new(self.job.clone(), plan);
        if let Some(group) = file.link_group {
            self.groups.insert(group, target.clone());
        }
        if keep {
            target.set_done();
            self.job.unchanged.fetch_add(1, Ordering::Relaxed);
            self.job.file_done(file.size);
            return Ok(None);
        }
        if file
            .extents
            .iter()
            .any(|extent| matches!(extent, Extent::List { .. }))
        {
            return Ok(Some(target));
        }
        self.pieces(&target, file);
        target.end_plan();
        Ok(None)
    }

    /// Whether a file of the right size and time counts as right.
    fn keeps_same(&self) -> bool {
        self.job.options.overwrite != Overwrite::Always || self.job.ground == Ground::Resumed
    }

    fn pieces(&mut self, target: &Arc<Target>, file: &File) {
        let mut at = 0;
        for extent in &file.extents {
            if let Extent::Data { block, offset, len } = extent {
                let write = Write {
                    target: target.clone(),
                    at,
                    offset: *offset,
                    len: *len,
                };
                self.plan.add(block.clone(), write);
            }
            at += extent.len();
        }
    }

    /// Plans one stretch of a file whose extents the caller walks through.
    pub(super) fn stretch(&mut self, target: &Arc<Target>, at: u64, stretch: Stretch) {
        if let Stretch::Data { block, offset, len } = stretch {
            let target = target.clone();
            let write = Write {
                target,
                at,
                offset,
                len,
            };
            self.plan.add(block, write);
        }
    }

    /// A name beside `name` that the next run finds again.
    fn temporary_name(&self, name: &[u8]) -> Bytes {
        const KEY: &[u8; 32] = b"libernet 2026-11 temporary names";
        let hash = hash::keyed(KEY, name);
        let hash = data_encoding::HEXLOWER.encode(&hash[..8]);
        Bytes::from(format!(".libernet-{}-{hash}", self.job.tag))
    }

    fn symlink(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
    ) -> io::Result<()> {
        let dir = place.fd()?;
        if self.existing(place, name)?.is_some() {
            if self.job.only_adds() {
                self.job.skip();
                return Ok(());
            }
            if fs::readlinkat(&*dir, name, Vec::new()).is_ok_and(|old| old.as_bytes() == target) {
                return Ok(());
            }
            unlink(&dir, name)?;
        }
        fs::symlinkat(target, &*dir, name)?;
        set_attributes_at(&self.job, &dir, name, attributes, false)?;
        Ok(())
    }

    fn device(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        device: Device,
        attributes: &Attributes,
    ) -> io::Result<()> {
        if !self.job.options.devices || !self.job.is_root {
            self.job.left_out.fetch_add(1, Ordering::Relaxed);
            let path = place.path_of(name);
            self.job.monitor.warning(&format!(
                "{} is left out: a device, which only root can restore and only when asked to",
                path.display()
            ));
            return Ok(());
        }
        let kind = match device.is_block {
            true => FileType::BlockDevice,
            false => FileType::CharacterDevice,
        };
        let number = fs::makedev(device.major, device.minor);
        self.special(place, name, kind, number, attributes)
    }

    #[cfg(not(target_vendor = "apple"))]
    fn special(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        kind: FileType,
        number: u64,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let dir = place.fd()?;
        if self.existing(place, name)?.is_some() {
            if self.job.only_adds() {
                self.job.skip();
                return Ok(());
            }
            unlink(&dir, name)?;
        }
        let mode = Mode::from_raw_mode(attributes.mode & 0o777);
        fs::mknodat(&*dir, name, kind, mode, number)?;
        // In a directory that others may write to, the name could be another's by now.
        let with_mode = self.job.ground != Ground::InPlace;
        set_attributes_at(&self.job, &dir, name, attributes, with_mode)?;
        Ok(())
    }

    #[cfg(target_vendor = "apple")]
    fn special(
        &self,
        _: &Arc<Place>,
        _: &[u8],
        _: FileType,
        _: u64,
        _: &Attributes,
    ) -> io::Result<()> {
        Err(io::Error::other("this system can't make it here"))
    }

    /// Makes the further names of files, after all content is written.
    pub(super) fn link_all(&mut self) {
        for LinkTo { group, place, name } in mem::take(&mut self.links) {
            if self.job.is_stopped() {
                return;
            }
            let Some(first) = self.groups.get(&group) else {
                continue;
            };
            let result = if first.is_done() {
                self.link(first, &place, &name)
            } else {
                let what = format!("it is the same file as {}", first.path().display());
                Err(io::Error::other(what))
            };
            match result {
                Ok(Linked::New) => self.job.file_written(first.size(), false),
                Ok(Linked::Replaced) => self.job.file_written(first.size(), true),
                Ok(Linked::WasThere) => self.job.file_done(first.size()),
                Ok(Linked::Skipped) => self.job.skip(),
                Err(error) => self.job.failed(&place.path_of(&name), error),
            }
        }
    }

    fn link(&self, first: &Target, place: &Arc<Place>, name: &[u8]) -> io::Result<Linked> {
        let (from, to) = (first.place().fd()?, place.fd()?);
        let mut linked = Linked::New;
        if let Some(stat) = self.existing(place, name)? {
            if self.job.only_adds() {
                return Ok(Linked::Skipped);
            }
            let source = fs::statat(&*from, first.name(), AtFlags::SYMLINK_NOFOLLOW)?;
            if stat::inode(&stat) == stat::inode(&source) {
                return Ok(Linked::WasThere);
            }
            unlink(&to, name)?;
            if self.job.ground == Ground::InPlace {
                linked = Linked::Replaced;
            }
        }
        match fs::linkat(&*from, first.name(), &*to, name, AtFlags::empty()) {
            Ok(()) => Ok(linked),
            // A file system without hard links, or one link too many: a copy is the next best.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::XDEV) => {
                let mut source = open_source(&from, first.name())?;
                self.copy(&mut source, first, place, name)?;
                Ok(linked)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn copy(
        &self,
        source: &mut std::fs::File,
        first: &Target,
        place: &Arc<Place>,
        name: &[u8],
    ) -> io::Result<()> {
        let dir = place.fd()?;
        let flags = fs::OFlags::WRONLY
            | fs::OFlags::CREATE
            | fs::OFlags::EXCL
            | fs::OFlags::NOFOLLOW
            | fs::OFlags::CLOEXEC;
        let fd = fs::openat(&*dir, name, flags, Mode::RUSR | Mode::WUSR)?;
        let mut copy = std::fs::File::from(fd);
        io::copy(source, &mut copy)?;
        first.give_attributes(&copy)?;
        Ok(())
    }
}

fn is_same(stat: &Stat, size: u64, modified: Option<ModTime>) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat::size(stat) == size
        && modified == Some(stat::modified(stat))
}
