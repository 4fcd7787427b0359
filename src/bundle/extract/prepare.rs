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
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::Overwrite;
use super::attributes::{Attributes, differs};
use super::directory::{Place, unlink, unlock};
use super::job::{Ground, Job};
use super::leftover::{clear, temporary_name};
use super::links::LinkTo;
use super::write::{Again, Target, TargetPlan, Write};
use crate::block::Link;
use crate::bundle::cursor::Stretch;
use crate::bundle::inode::{self, Inode};
use crate::bundle::stat;
use crate::bundle::tree::{Content, Entry, Extent, File, ModTime};

/// Pieces that are planned before the first of their blocks is asked for. Within a plan each block is fetched once, wherever in the tree it is
/// used; this many cover some 30,000 small files or 30 GiB of large ones, in about 15 MiB of memory.
const PLAN_PIECES: usize = 32_768;

/// Why nothing is written somewhere.
const OWN: &str = "libernet's own directory is there: nothing is written into it or in place of it";

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

/// Goes along with the walk.
pub(super) struct Preparer {
    pub(super) job: Arc<Job>,
    /// The directories above the current entry; `None` for one that could not be made, and what is in it is left out.
    places: Vec<Option<Arc<Place>>>,
    pub(super) plan: Plan,
    /// The first name of each file that has more.
    pub(super) groups: HashMap<u32, Arc<Target>>,
    pub(super) links: Vec<LinkTo>,
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

    /// Makes the one entry of a bundle that is no tree; as [`file`](Self::file) for a regular file,
    /// which is written under the name `hidden`.
    pub(super) fn only(
        &mut self,
        place: &Arc<Place>,
        name: Bytes,
        hidden: Bytes,
        mut entry: Entry,
    ) -> io::Result<Option<(Arc<Target>, File)>> {
        let attributes = Attributes::of(&mut entry);
        let Content::File(mut file) = entry.content else {
            entry.name = name;
            entry.xattrs = attributes.xattrs;
            return self.one(place, entry);
        };
        // Its other names are not part of this.
        file.link_group = None;
        let target = self.file(place, name, Some(hidden), attributes, &file)?;
        Ok(target.map(|target| (target, file)))
    }

    /// Plans a file that was found to hold something else than it should.
    pub(super) fn rewrite(&mut self, again: Again) -> Option<(Arc<Target>, File)> {
        let Again { plan, file } = again;
        if plan.temporary.is_none()
            && let Err(error) = plan
                .place
                .fd()
                .map_err(io::Error::from)
                .and_then(|dir| unlink(&dir, &plan.name))
        {
            self.job.failed(&plan.place.path_of(&plan.name), error);
            return None;
        }
        let target = Target::new(self.job.clone(), plan);
        if let Some(group) = file.link_group {
            self.groups.insert(group, target.clone());
        }
        self.pieces_or_lists(target, &file)
            .map(|target| (target, file))
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
        if self.directory(place, &name)? {
            return Ok(place.child(name, Some(attributes), None));
        }
        self.refuse_own(place, &name)?;
        // Its owner may not be allowed to fill it; in what an earlier extraction left it may have
        // its final mode already.
        let locked_mode = unlock(&Inode::named(&*place.fd()?, &name)?);
        // A directory that was there keeps its attributes if everything that was there does.
        let stays = self.job.only_adds();
        let child = place.child(name, (!stays).then_some(attributes), locked_mode);
        clear(&self.job, &*child.fd()?);
        Ok(child)
    }

    /// Whether it was made now.
    fn directory(&self, place: &Arc<Place>, name: &[u8]) -> io::Result<bool> {
        let dir = place.fd()?;
        match fs::mkdirat(&*dir, name, Mode::RWXU) {
            Ok(()) => return Ok(true),
            Err(Errno::EXIST) if self.job.scene.ground != Ground::Fresh => {}
            Err(error) => return Err(error.into()),
        }
        let stat = fs::statat(&*dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if inode::kind(&stat) == FileType::Directory {
            return Ok(false);
        }
        if self.job.only_adds() {
            return Err(io::Error::other("something that is no directory is there"));
        }
        self.refuse_own(place, name)?;
        unlink(&dir, name)?;
        fs::mkdirat(&*dir, name, Mode::RWXU)?;
        Ok(true)
    }

    /// Refuses what would be written into a directory of libernet, or put in place of a symlink to
    /// one.
    pub(super) fn refuse_own(&self, place: &Arc<Place>, name: &[u8]) -> io::Result<()> {
        // A directory that an extraction made itself is not in use.
        if self.job.scene.ground != Ground::InPlace {
            return Ok(());
        }
        let dir = place.fd()?;
        // Only to look at it a symlink is followed.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = self
            .job
            .opening(|| fs::openat(&*dir, name, flags, Mode::empty()));
        match opened {
            Ok(found) if self.job.options.own.is(&found) => Err(io::Error::other(OWN)),
            _ => Ok(()),
        }
    }

    /// What is there under this name, if that is possible at all.
    pub(super) fn existing(&self, place: &Arc<Place>, name: &[u8]) -> io::Result<Option<Stat>> {
        if self.job.scene.ground == Ground::Fresh {
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
        let replaces = existing.is_some() && self.job.scene.ground == Ground::InPlace;
        let kept = match existing {
            Some(stat) if self.keeps_same() && is_same(&stat, file.size, attributes.modified) => {
                self.keepable(place, &name, &stat, &attributes)?
            }
            _ => false,
        };
        let temporary = match self.job.scene.ground {
            Ground::InPlace if temporary.is_none() => {
                Some(temporary_name(&self.job.scene.tag, &name))
            }
            _ => temporary,
        };
        let plan = TargetPlan {
            place: place.clone(),
            name,
            temporary,
            attributes,
            size: file.size,
            in_pieces: !matches!(file.extents.as_slice(), [Extent::Data { .. }]),
            replaces,
        };
        let target = match kept {
            true if self.job.options.verify => Target::compared(self.job.clone(), plan, file),
            true => self.keep(plan),
            false => {
                if existing
                    .as_ref()
                    .is_some_and(|stat| inode::kind(stat) == FileType::Symlink)
                {
                    self.refuse_own(place, &plan.name)?;
                }
                if self.job.scene.ground != Ground::Fresh {
                    let left = plan.temporary.as_ref().unwrap_or(&plan.name);
                    unlink(&*place.fd()?, left)?;
                }
                Target::new(self.job.clone(), plan)
            }
        };
        if let Some(group) = file.link_group {
            self.groups.insert(group, target.clone());
        }
        if target.is_done() {
            return Ok(None);
        }
        Ok(self.pieces_or_lists(target, file))
    }

    /// Whether a file of the right size and time may stay and be given its attributes. One that has
    /// other names may only if there is nothing to change: its other names may be outside of the
    /// target.
    fn keepable(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        stat: &Stat,
        attributes: &Attributes,
    ) -> io::Result<bool> {
        if stat.st_nlink <= 1 {
            return Ok(true);
        }
        let dir = place.fd()?;
        Ok(!differs(
            &self.job,
            &Inode::named(&*dir, name)?,
            attributes,
        )?)
    }

    /// A file that counts as right, and gets its attributes.
    fn keep(&self, plan: TargetPlan) -> Arc<Target> {
        let target = Target::new(self.job.clone(), plan);
        target.bring_named();
        target.set_done();
        self.job.unchanged.fetch_add(1, Ordering::Relaxed);
        self.job.file_done(target.size());
        target
    }

    /// Plans the pieces of a file, or gives it back when they are listed in blocks of their own.
    fn pieces_or_lists(&mut self, target: Arc<Target>, file: &File) -> Option<Arc<Target>> {
        let is_listed = |extent: &Extent| matches!(extent, Extent::List { .. });
        if file.extents.iter().any(is_listed) {
            return Some(target);
        }
        self.pieces(&target, file);
        target.end_plan();
        None
    }

    /// Whether a file of the right size and time counts as right.
    fn keeps_same(&self) -> bool {
        self.job.options.overwrite != Overwrite::Always || self.job.scene.ground == Ground::Resumed
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
}

fn is_same(stat: &Stat, size: u64, modified: Option<ModTime>) -> bool {
    inode::kind(stat) == FileType::RegularFile
        && stat::size(stat) == size
        && modified == Some(stat::modified(stat))
}
