//! Further names of files: made when all content is written.

use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use rustix::fs::{self, AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{Place, unlink};
use super::job::Ground;
use super::prepare::Preparer;
use super::write::{Target, open_source};
use crate::bundle::stat;

/// A further name of a file.
pub(super) struct LinkTo {
    pub(super) group: u32,
    pub(super) place: Arc<Place>,
    pub(super) name: Bytes,
}

/// Outcome of making a further name.
enum Linked {
    New,
    Replaced,
    WasThere,
    Skipped,
}

impl Preparer {
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
                Ok(Linked::Skipped) => {
                    self.job.skip();
                    continue;
                }
                Err(error) => {
                    self.job.failed(&place.path_of(&name), error);
                    continue;
                }
            }
            // Another name of what was read back; a copy was read back by itself.
            if self.job.options.verify {
                self.job.verified.fetch_add(1, Ordering::Relaxed);
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
            if self.job.scene.ground == Ground::InPlace {
                linked = Linked::Replaced;
            }
        }
        match fs::linkat(&*from, first.name(), &*to, name, AtFlags::empty()) {
            Ok(()) => Ok(linked),
            // A file system without hard links, or one link too many: a copy is the next best.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::MLINK | Errno::XDEV) => {
                let source = self.job.opening(|| open_source(&from, first.name()))?;
                self.copy(source, first, place, name)?;
                Ok(linked)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn copy(
        &self,
        mut source: std::fs::File,
        first: &Target,
        place: &Arc<Place>,
        name: &[u8],
    ) -> io::Result<()> {
        let dir = place.fd()?;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut copy =
            std::fs::File::from(self.job.opening(|| fs::openat(&*dir, name, flags, mode))?);
        io::copy(&mut source, &mut copy)?;
        if self.job.options.verify {
            copy.sync_data()?;
            if !is_equal(&mut source, &mut copy)? {
                unlink(&dir, name)?;
                return Err(io::Error::other(
                    "what was read back is not what was written",
                ));
            }
        }
        first.bring_copy(&copy, &|| place.path_of(name));
        Ok(())
    }
}

/// Whether two files hold the same bytes.
fn is_equal(one: &mut std::fs::File, other: &mut std::fs::File) -> io::Result<bool> {
    use std::io::{BufRead, BufReader, Read, Seek};
    one.rewind()?;
    other.rewind()?;
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let left = one.fill_buf()?;
        if left.is_empty() {
            return Ok(other.fill_buf()?.is_empty());
        }
        let mut right = vec![0; left.len()];
        match other.read_exact(&mut right) {
            Ok(()) if right == left => {}
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => return Err(error),
            _ => return Ok(false),
        }
        let len = left.len();
        one.consume(len);
    }
}
