//! Entries without content: symlinks, named pipes and devices.
//!
//! One that is there and of the right kind stays and gets its attributes; anything else under its
//! name goes first.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{self, FileType, Mode, Stat};

use super::attributes::{Attributes, bring};
use super::directory::{Place, unlink};
use super::prepare::Preparer;
use crate::bundle::inode::{self, Inode};
use crate::bundle::stat;
use crate::bundle::tree::Device;

impl Preparer {
    pub(super) fn symlink(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
    ) -> io::Result<()> {
        let dir = place.fd()?;
        let is_right = |_: &Stat| {
            fs::readlinkat(&*dir, name, Vec::new()).is_ok_and(|old| old.as_bytes() == target)
        };
        let make = || fs::symlinkat(target, &*dir, name).map_err(io::Error::from);
        self.unlike_file(place, (&dir, name), attributes, is_right, make)
    }

    pub(super) fn device(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        device: Device,
        attributes: &Attributes,
    ) -> io::Result<()> {
        if !self.job.options.devices || !self.job.rights.is_root {
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
    pub(super) fn special(
        &self,
        place: &Arc<Place>,
        name: &[u8],
        kind: FileType,
        number: u64,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let dir = place.fd()?;
        let is_right = |found: &Stat| {
            let is_numbered = kind != FileType::Fifo;
            inode::kind(found) == kind && (!is_numbered || stat::device_number(found) == number)
        };
        let make = || {
            // Nobody else's until it has its owner and its mode.
            let mode = Mode::RUSR | Mode::WUSR;
            fs::mknodat(&*dir, name, kind, mode, number).map_err(io::Error::from)
        };
        self.unlike_file(place, (&dir, name), attributes, is_right, make)
    }

    #[cfg(target_vendor = "apple")]
    pub(super) fn special(
        &self,
        _: &Arc<Place>,
        _: &[u8],
        _: FileType,
        _: u64,
        _: &Attributes,
    ) -> io::Result<()> {
        Err(io::Error::other("this system can't make it here"))
    }

    fn unlike_file(
        &self,
        place: &Arc<Place>,
        (dir, name): (&OwnedFd, &[u8]),
        attributes: &Attributes,
        is_right: impl Fn(&Stat) -> bool,
        make: impl Fn() -> io::Result<()>,
    ) -> io::Result<()> {
        let existing = self.existing(place, name)?;
        if existing.is_some() && self.job.only_adds() {
            self.job.skip();
            return Ok(());
        }
        // An inode with other names may be outside of the target, too: it is replaced, not changed.
        let stays = existing.is_some_and(|stat| stat.st_nlink <= 1 && is_right(&stat));
        if !stays {
            if existing.is_some() {
                self.refuse_own(place, name)?;
                unlink(dir, name)?;
            }
            make()?;
        }
        let inode = Inode::named(dir, name)?;
        // In a directory that others may write to, the name could be another's by now.
        if !is_right(&inode.stat()?) {
            return Err(io::Error::other("something else took its name"));
        }
        bring(&self.job, &inode, attributes, &|| place.path_of(name));
        Ok(())
    }
}
