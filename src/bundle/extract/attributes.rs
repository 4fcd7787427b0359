//! Brings an inode to the attributes of its entry: owner, extended attributes and ACLs, mode, time.
//!
//! Attributes that are there are compared with those that are wanted first, and only differences
//! are set: attributes that the entry does not have go, and an inode that is right already is not
//! touched. What the system refuses is noted, and never costs content.

use std::os::fd::AsFd;
use std::path::PathBuf;

use bytes::Bytes;
use rustix::fs::FileType;
use rustix::io::Errno;

use super::job::Job;
use crate::bundle::acl::{ACCESS_ACL, DEFAULT_ACL};
use crate::bundle::inode::{self, Inode};
use crate::bundle::stat;
use crate::bundle::tree::{Entry, ModTime, Owner, Xattr};

const SET_ID: u32 = 0o6000;

/// Attributes of an entry: all that it has besides its content.
#[derive(Clone, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) modified: Option<ModTime>,
    pub(super) owner: Option<Owner>,
    pub(super) xattrs: Vec<Xattr>,
}

impl Attributes {
    pub(super) fn of(entry: &mut Entry) -> Self {
        Self {
            mode: entry.mode,
            modified: entry.modified,
            owner: entry.owner,
            xattrs: std::mem::take(&mut entry.xattrs),
        }
    }
}

/// Attributes that this process may give, and those that it was asked to give.
#[derive(Clone, Debug)]
pub(super) struct Rights {
    pub(super) is_root: bool,
    /// Groups that this process belongs to.
    pub(super) groups: Vec<u32>,
    /// Owners are wanted.
    pub(super) owners: bool,
    /// The maker of the bundle may give powers: setuid, setgid, capabilities, ACLs.
    pub(super) powers: bool,
}

/// Attributes that an inode has.
struct Seen {
    kind: FileType,
    mode: u32,
    owner: Owner,
    modified: ModTime,
    xattrs: Vec<Bytes>,
}

impl Seen {
    fn of(inode: &Inode<'_>) -> Result<Self, Errno> {
        let found = inode.stat()?;
        Ok(Self {
            kind: inode::kind(&found),
            mode: stat::mode(&found),
            owner: Owner {
                uid: found.st_uid,
                gid: found.st_gid,
            },
            modified: stat::modified(&found),
            xattrs: inode.xattr_names(),
        })
    }
}

/// Attributes that have to change.
#[derive(Debug, PartialEq, Eq)]
struct Changes {
    uid: Option<u32>,
    gid: Option<u32>,
    /// The owner or group will not be the entry's, because only root could give it away.
    keeps_owner: bool,
    remove: Vec<Bytes>,
    set: Vec<Xattr>,
    /// `None` for a symlink, whose mode means nothing.
    mode: Option<u32>,
    modified: Option<ModTime>,
}

impl Changes {
    fn is_empty(&self, seen: &Seen) -> bool {
        self.uid.is_none()
            && self.gid.is_none()
            && self.remove.is_empty()
            && self.set.is_empty()
            && self.mode.is_none_or(|mode| mode == seen.mode)
            && self.modified.is_none()
    }
}

impl Rights {
    /// `value` tells what an extended attribute is.
    fn changes(
        &self,
        seen: &Seen,
        wanted: &Attributes,
        value: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Changes {
        let owner = wanted.owner.filter(|_| self.owners).unwrap_or(seen.owner);
        let uid = Some(owner.uid).filter(|uid| *uid != seen.owner.uid && self.is_root);
        let gid = Some(owner.gid)
            .filter(|gid| *gid != seen.owner.gid && (self.is_root || self.groups.contains(gid)));
        let after = Owner {
            uid: uid.unwrap_or(seen.owner.uid),
            gid: gid.unwrap_or(seen.owner.gid),
        };
        let carried = || {
            let all = wanted.xattrs.iter();
            all.filter(|xattr| self.carries(seen.kind, &xattr.name))
        };
        let is_wanted = |name: &Bytes| carried().any(|xattr| xattr.name == *name);
        // Giving a file away drops its capabilities.
        let is_given = uid.is_some() || gid.is_some();
        Changes {
            uid,
            gid,
            keeps_owner: after != owner,
            remove: seen
                .xattrs
                .iter()
                .filter(|name| self.removes(name) && !is_wanted(name))
                .cloned()
                .collect(),
            set: carried()
                .filter(|xattr| {
                    is_given
                        || !seen.xattrs.contains(&xattr.name)
                        || value(&xattr.name).as_deref() != Some(&xattr.value)
                })
                .cloned()
                .collect(),
            mode: (seen.kind != FileType::Symlink).then(|| self.mode(wanted, after)),
            modified: wanted.modified.filter(|time| *time != seen.modified),
        }
    }

    /// Setuid and setgid mean something only together with the owner, and would be a present to
    /// whoever made the bundle otherwise.
    fn mode(&self, wanted: &Attributes, owner: Owner) -> u32 {
        let mut mode = wanted.mode & 0o1777;
        if let Some(original) = wanted.owner.filter(|_| self.powers) {
            for (bit, is_same) in [
                (0o4000, original.uid == owner.uid),
                (0o2000, original.gid == owner.gid),
            ] {
                if is_same {
                    mode |= wanted.mode & bit;
                }
            }
        }
        mode
    }

    /// Whether an extended attribute of the entry is restored to an inode of this kind.
    fn carries(&self, kind: FileType, name: &[u8]) -> bool {
        match name {
            // Users that an ACL lets in are the maker's choice, as setuid is.
            ACCESS_ACL => self.powers && kind != FileType::Symlink,
            DEFAULT_ACL => self.powers && kind == FileType::Directory,
            _ if name.starts_with(b"system.") => self.powers,
            // The system makes this one itself and lets nobody set it.
            b"security.evm" => false,
            // Capabilities, labels and the like: root's, and from a trusted origin only.
            _ if name.starts_with(b"trusted.") || name.starts_with(b"security.") => {
                self.is_root && self.powers
            }
            _ => true,
        }
    }

    /// Whether an extended attribute that the entry does not have is removed. Labels of the
    /// system's own stay.
    #[cfg(not(target_vendor = "apple"))]
    fn removes(&self, name: &[u8]) -> bool {
        match name {
            ACCESS_ACL | DEFAULT_ACL => true,
            b"security.capability" => self.is_root,
            _ if name.starts_with(b"trusted.") => self.is_root,
            _ => name.starts_with(b"user."),
        }
    }

    #[cfg(target_vendor = "apple")]
    fn removes(&self, name: &[u8]) -> bool {
        !name.starts_with(b"com.apple.")
    }
}

/// Whether [`bring`] would change anything.
pub(super) fn differs(job: &Job, inode: &Inode<'_>, wanted: &Attributes) -> Result<bool, Errno> {
    let seen = Seen::of(inode)?;
    let changes = job.rights.changes(&seen, wanted, |name| inode.xattr(name));
    Ok(!changes.is_empty(&seen))
}

/// Gives something that is open its attributes.
pub(super) fn bring_open(
    job: &Job,
    fd: &impl AsFd,
    wanted: &Attributes,
    path: &dyn Fn() -> PathBuf,
) {
    bring(job, &Inode::open(fd), wanted, path);
}

/// Gives an inode its attributes. The time comes last: a file with the right size and time is a
/// file that is complete.
pub(super) fn bring(job: &Job, inode: &Inode<'_>, wanted: &Attributes, path: &dyn Fn() -> PathBuf) {
    let refused = |what: &str, error: Errno| job.refused(path(), what, error);
    let seen = match Seen::of(inode) {
        Ok(seen) => seen,
        Err(error) => return refused("its attributes", error),
    };
    let rights = &job.rights;
    let changes = rights.changes(&seen, wanted, |name| inode.xattr(name));
    let (mut owner, mut keeps_owner) = (seen.owner, changes.keeps_owner);
    let is_given = changes.uid.is_some() || changes.gid.is_some();
    if is_given {
        match inode.set_owner(changes.uid, changes.gid) {
            Ok(()) => {
                owner.uid = changes.uid.unwrap_or(owner.uid);
                owner.gid = changes.gid.unwrap_or(owner.gid);
            }
            Err(error) => {
                refused("its owner", error);
                // Counted once: as refused.
                keeps_owner = false;
            }
        }
    }
    let mut is_touched = is_given;
    for name in &changes.remove {
        match inode.remove_xattr(name) {
            Ok(()) => is_touched |= **name == *ACCESS_ACL,
            Err(Errno::NODATA) => {}
            Err(error) => refused(&format!("{} has to go", name.escape_ascii()), error),
        }
    }
    for xattr in &changes.set {
        match inode.set_xattr(&xattr.name, &xattr.value) {
            Ok(()) => is_touched |= *xattr.name == *ACCESS_ACL,
            Err(error) => refused(&xattr.name.escape_ascii().to_string(), error),
        }
    }
    if changes.mode.is_some() {
        let mode = rights.mode(wanted, owner);
        // A change of owner or ACL changes the mode.
        if is_touched || mode != seen.mode {
            match inode.set_mode(mode) {
                Ok(()) => note_lost_powers(job, inode, wanted),
                Err(error) => refused(&format!("its mode {:04o}", wanted.mode), error),
            }
        } else if rights.powers && mode & SET_ID != wanted.mode & SET_ID {
            job.lost_powers();
        }
    }
    if keeps_owner {
        job.kept_owner();
    }
    if let Some(modified) = changes.modified
        && let Err(error) = inode.set_modified(modified)
    {
        refused("its time", error);
    }
}

/// Setuid and setgid are dropped where the owner is another, and by the system where this process
/// is not in the group.
fn note_lost_powers(job: &Job, inode: &Inode<'_>, wanted: &Attributes) {
    let special = wanted.mode & SET_ID;
    if special == 0 || !job.rights.powers {
        return;
    }
    if !inode
        .stat()
        .is_ok_and(|now| stat::mode(&now) & SET_ID == special)
    {
        job.lost_powers();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: Owner = Owner { uid: 7, gid: 8 };
    const ROOT: Owner = Owner { uid: 0, gid: 0 };

    fn rights(is_root: bool) -> Rights {
        Rights {
            is_root,
            groups: vec![8, 9],
            owners: true,
            powers: true,
        }
    }

    fn seen(owner: Owner, xattrs: &[&'static str]) -> Seen {
        Seen {
            kind: FileType::RegularFile,
            mode: 0o600,
            owner,
            modified: ModTime {
                seconds: 1,
                nanos: 2,
            },
            xattrs: xattrs.iter().map(|name| Bytes::from(*name)).collect(),
        }
    }

    fn wanted(mode: u32, owner: Owner, xattrs: &[&'static str]) -> Attributes {
        Attributes {
            mode,
            modified: None,
            owner: Some(owner),
            xattrs: xattrs
                .iter()
                .map(|name| Xattr {
                    name: Bytes::from(*name),
                    value: Bytes::from("value"),
                })
                .collect(),
        }
    }

    fn changes(rights: &Rights, seen: &Seen, wanted: &Attributes) -> Changes {
        rights.changes(seen, wanted, |_| Some(b"value".to_vec()))
    }

    #[test]
    fn an_inode_that_is_right_is_not_touched() {
        let there = seen(ME, &["user.a", "security.selinux"]);
        let same = wanted(0o600, ME, &["user.a"]);
        for is_root in [false, true] {
            assert!(changes(&rights(is_root), &there, &same).is_empty(&there));
        }
        let later = Attributes {
            modified: Some(ModTime {
                seconds: 1,
                nanos: 3,
            }),
            ..same
        };
        assert!(!changes(&rights(false), &there, &later).is_empty(&there));
    }

    #[test]
    fn what_the_entry_does_not_have_goes() {
        let there = seen(
            ME,
            &[
                "user.old",
                "system.posix_acl_access",
                "trusted.x",
                "security.capability",
            ],
        );
        let plan = changes(&rights(false), &there, &wanted(0o600, ME, &[]));
        assert_eq!(plan.remove, ["user.old", "system.posix_acl_access"]);
        let plan = changes(&rights(true), &there, &wanted(0o600, ME, &["trusted.x"]));
        assert_eq!(
            plan.remove,
            ["user.old", "system.posix_acl_access", "security.capability"]
        );
    }

    #[test]
    fn powers_come_back_where_the_owner_does() {
        let mode = |rights: &Rights, owner| {
            let plan = changes(rights, &seen(ME, &[]), &wanted(0o6755, owner, &[]));
            (plan.mode, plan.keeps_owner)
        };
        assert_eq!(mode(&rights(false), ME), (Some(0o6755), false));
        assert_eq!(mode(&rights(true), ROOT), (Some(0o6755), false));
        assert_eq!(mode(&rights(false), ROOT), (Some(0o755), true));
        // A group that this process is in can be given, another user's name can't.
        let theirs = Owner { uid: 5, gid: 9 };
        assert_eq!(mode(&rights(false), theirs), (Some(0o2755), true));
        let without = Rights {
            owners: false,
            ..rights(true)
        };
        assert_eq!(mode(&without, ROOT), (Some(0o755), false));
        let strangers = Rights {
            powers: false,
            ..rights(true)
        };
        assert_eq!(mode(&strangers, ROOT), (Some(0o755), false));
    }

    #[test]
    fn acls_and_attributes_of_roots_come_from_a_trusted_origin_only() {
        let acls = ["system.nfs4_acl", "system.posix_acl_access"];
        let names = [
            acls[0],
            acls[1],
            "security.capability",
            "trusted.x",
            "user.a",
        ];
        let entry = wanted(0o600, ROOT, &names);
        let set = |rights: &Rights| {
            let plan = changes(rights, &seen(ROOT, &[]), &entry);
            plan.set
                .into_iter()
                .map(|xattr| xattr.name)
                .collect::<Vec<_>>()
        };
        assert_eq!(set(&rights(true)), names);
        assert_eq!(set(&rights(false)), [acls[0], acls[1], "user.a"]);
        let strangers = Rights {
            powers: false,
            ..rights(true)
        };
        assert_eq!(set(&strangers), ["user.a"]);
    }
}
