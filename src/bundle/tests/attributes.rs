//! After an extraction everything has the attributes of its entry, whatever was there before.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode};

use super::super::tree::{Content, Owner, Xattr};
use super::super::{ExtractOptions, Overwrite};
use super::hostile::{directory, entry, file, plant_root, plenty};
use super::{Memory, extract, noise, picture, put, runtime};
use crate::small_disk::on_a_small_disk;

/// `user::rwx,user:7:r-x,group::r-x,mask::r-x,other::r-x`.
pub(super) const ACL: [u8; 44] = [
    2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255,
    255, 16, 0, 5, 0, 255, 255, 255, 255, 32, 0, 5, 0, 255, 255, 255, 255,
];
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

fn changed() -> ExtractOptions {
    ExtractOptions {
        overwrite: Overwrite::Changed,
        owners: true,
        powers: true,
        ..ExtractOptions::default()
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("there").mode() & 0o7777
}

/// Gives the time of the last change back after a change of attributes.
fn keep_time(path: &Path, change: impl FnOnce()) {
    let time = path.metadata().expect("there").modified().expect("known");
    change();
    let file = fs::File::open(path).expect("opens");
    file.set_modified(time).expect("set");
}

/// A key, a directory with a file, a symlink, a pipe.
fn make(root: &Path) {
    fs::create_dir_all(root.join("dir")).expect("made");
    fs::write(root.join("key"), b"secret").expect("written");
    fs::write(root.join("dir/file"), b"text").expect("written");
    symlink("nowhere", root.join("link")).expect("made");
    let pipe = root.join("pipe");
    rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR, 0).expect("made");
    chmod(&pipe, 0o666);
    chmod(&root.join("key"), 0o600);
    chmod(&root.join("dir/file"), 0o640);
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["key", "dir/file", "dir"] {
        let file = fs::File::open(root.join(name)).expect("opens");
        file.set_modified(old).expect("set");
    }
}

#[test]
fn what_is_there_is_brought_to_its_entry() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    if xattr::set(from.join("key"), "user.note", b"right").is_err() {
        return println!("skipped: no extended attributes here");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let first = extract(&memory, &link, &to, changed()).await;
        assert!(first.expect("extracted").is_complete());
        let wanted = picture(&from);
        assert_eq!(picture(&to), wanted);
        let before = fs::metadata(to.join("key")).expect("there");

        let key = to.join("key");
        keep_time(&key, || {
            xattr::set(&key, "user.evil", b"x").expect("set");
            xattr::set(&key, "user.note", b"wrong").expect("set");
            chmod(&key, 0o777);
        });
        for name in ["dir", "dir/file"] {
            let path = to.join(name);
            keep_time(&path, || {
                chmod(&path, 0o777);
                let _ = xattr::set(&path, ACCESS, &ACL);
            });
        }
        let _ = xattr::set(to.join("dir"), DEFAULT, &ACL);
        chmod(&to.join("pipe"), 0o600);
        let again = extract(&memory, &link, &to, changed()).await;
        let again = again.expect("extracted");
        assert_eq!((again.unchanged, again.refused_total), (2, 0), "{again:?}");
        assert_eq!(picture(&to), wanted);
        let after = fs::metadata(&key).expect("there");
        assert_eq!(before.ino(), after.ino(), "its content was right");

        // An entry that is right is not touched: a change would make the next backup read it again.
        let changed_at = |meta: fs::Metadata| (meta.ctime(), meta.ctime_nsec());
        let last = extract(&memory, &link, &to, changed()).await;
        assert!(last.expect("extracted").is_complete());
        let untouched = fs::metadata(&key).expect("there");
        assert_eq!(changed_at(untouched), changed_at(after));
    });
}

#[test]
fn inherited_acls_widen_nothing() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    let home = room.path().join("home");
    fs::create_dir(&home).expect("made");
    if xattr::set(&home, DEFAULT, &ACL).is_err() {
        return println!("skipped: no ACLs here");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let wanted = picture(&from);
        // Beside the target, and in a directory that is there.
        let fresh = home.join("fresh");
        fs::create_dir(home.join("there")).expect("made");
        for target in [&fresh, &home.join("there")] {
            let done = extract(&memory, &link, target, changed()).await;
            assert!(done.expect("extracted").is_complete());
            let mut found = picture(target);
            let mut wanted = picture(&from);
            if target != &fresh {
                let root = |picture: &mut super::Picture| picture.remove(&Vec::new());
                root(&mut found);
                root(&mut wanted);
            }
            assert_eq!(found, wanted);
        }
        assert_eq!(picture(&from), wanted);
    });
}

#[test]
fn a_link_that_is_there_gets_its_time() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    let time = rustix::fs::Timespec {
        tv_sec: 981_173_106,
        tv_nsec: 5,
    };
    let times = rustix::fs::Timestamps {
        last_access: time,
        last_modification: time,
    };
    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
    rustix::fs::utimensat(CWD, from.join("link"), &times, flags).expect("set");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        fs::create_dir(&to).expect("made");
        symlink("nowhere", to.join("link")).expect("made");
        let inode = |path: &Path| path.symlink_metadata().expect("there").ino();
        let before = inode(&to.join("link"));
        let done = extract(&memory, &link, &to, changed()).await;
        assert!(done.expect("extracted").is_complete());
        let meta = to.join("link").symlink_metadata().expect("there");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (981_173_106, 5));
        assert_eq!(meta.ino(), before);
    });
}

#[test]
fn another_name_outside_keeps_its_attributes() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let done = extract(&memory, &link, &to, changed()).await;
        assert!(done.expect("extracted").is_complete());
        let outside = room.path().join("outside");
        fs::hard_link(to.join("key"), &outside).expect("linked");
        let right = extract(&memory, &link, &to, changed()).await;
        assert_eq!(right.expect("extracted").unchanged, 2, "nothing to change");
        keep_time(&outside, || chmod(&outside, 0o604));
        let done = extract(&memory, &link, &to, changed())
            .await
            .expect("extracted");
        assert_eq!((done.unchanged, done.changed_files), (1, 1));
        assert_eq!((mode(&to.join("key")), mode(&outside)), (0o600, 0o604));
        assert_eq!(fs::read(outside).expect("there"), b"secret");
    });
}

#[test]
fn ones_own_setuid_and_setgid_come_back_and_a_strangers_do_not() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    fs::create_dir_all(from.join("team")).expect("made");
    fs::write(from.join("team/tool"), b"tool").expect("written");
    chmod(&from.join("team"), 0o2775);
    chmod(&from.join("team/tool"), 0o4755);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let at = |to: &Path| (mode(&to.join("team")), mode(&to.join("team/tool")));
        for (owners, powers, expected) in [
            (true, true, (0o2775, 0o4755)),
            (false, true, (0o2775, 0o4755)),
            (false, false, (0o775, 0o755)),
        ] {
            let to = room.path().join(format!("to-{owners}-{powers}"));
            let options = ExtractOptions {
                owners,
                powers,
                ..ExtractOptions::default()
            };
            let done = extract(&memory, &link, &to, options)
                .await
                .expect("extracted");
            assert_eq!(at(&to), expected, "{owners} {powers}");
            assert_eq!((done.lost_powers, done.kept_owners), (0, 0));
        }
    });
}

/// In a user namespace with one user: everybody else's files can't be given away, and attributes of
/// root's are refused.
#[test]
fn a_refused_attribute_costs_no_content() {
    let test = "bundle::tests::attributes::a_refused_attribute_costs_no_content";
    on_a_small_disk(test, "size=8m", |disk| {
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let data = Arc::new(memory.plant(b"text"));
            let owner = Some(Owner {
                uid: 4_000_000,
                gid: 3_000_000,
            });
            let mut tool = file(b"tool", &data, 4);
            tool.owner = owner;
            tool.mode = 0o6755;
            tool.xattrs = vec![Xattr {
                name: "trusted.note".into(),
                value: "x".into(),
            }];
            let mut dir = directory(b"dir", vec![file(b"file", &data, 4)]);
            let mut link = entry(b"link", Content::Symlink("nowhere".into()));
            (dir.owner, link.owner) = (owner, owner);
            let root = directory(b"r", vec![dir, link, tool]);
            let link = plant_root(&memory, root, plenty());
            for to in [disk.join("fresh"), disk.join("there")] {
                if to.ends_with("there") {
                    fs::create_dir(&to).expect("made");
                }
                let done = extract(&memory, &link, &to, changed()).await;
                let done = done.expect("extracted");
                assert!(done.is_complete(), "{done:?}");
                assert_eq!(done.files, 2);
                assert_eq!(fs::read(to.join("tool")).expect("there"), b"text");
                assert_eq!(fs::read(to.join("dir/file")).expect("there"), b"text");
                assert!(to.join("link").symlink_metadata().is_ok());
                assert_eq!(mode(&to.join("tool")), 0o755, "not for its new owner");
                assert_eq!((done.refused_total, done.lost_powers), (4, 1), "{done:?}");
                let mut named: Vec<_> = done
                    .refused
                    .iter()
                    .map(|part| (part.path.display().to_string(), part.reason.clone()))
                    .collect();
                named.sort();
                let said = |at: usize, path: &str, what: &str| {
                    let (name, reason) = &named[at];
                    assert!(name == path && reason.contains(what), "{named:?}");
                };
                said(0, "dir", "its owner");
                said(1, "link", "its owner");
                said(2, "tool", "its owner");
                said(3, "tool", "trusted.note");
            }
        });
    });
}

#[test]
fn verifying_looks_into_what_is_there() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    fs::write(from.join("large"), noise(5 << 20, 1)).expect("written");
    let holes = fs::File::create(from.join("holes")).expect("made");
    std::os::unix::fs::FileExt::write_all_at(&holes, b"data", 300_000).expect("written");
    holes.set_len(900_000).expect("grown");
    drop(holes);
    fs::hard_link(from.join("key"), from.join("other key")).expect("linked");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let done = extract(&memory, &link, &to, changed()).await;
        assert!(done.expect("extracted").is_complete());
        let wanted = picture(&from);
        let tampered = ["key", "dir/file", "large", "holes"];
        for name in tampered {
            let path = to.join(name);
            keep_time(&path, || {
                let file = fs::File::options().write(true).open(&path).expect("opens");
                // In a hole of one of them, in the last piece of another.
                let at = file.metadata().expect("known").len() - 2;
                std::os::unix::fs::FileExt::write_all_at(&file, b"#", at).expect("written");
            });
        }
        let blind = extract(&memory, &link, &to, changed())
            .await
            .expect("extracted");
        assert_eq!((blind.unchanged, blind.verified), (4, 0));
        assert_ne!(picture(&to), wanted);
        let options = ExtractOptions {
            verify: true,
            ..changed()
        };
        let seen = extract(&memory, &link, &to, options.clone())
            .await
            .expect("extracted");
        assert!(seen.is_complete());
        assert_eq!((seen.unchanged, seen.changed_files), (0, 5), "{seen:?}");
        assert_eq!((seen.verified, seen.files), (5, 5));
        assert_eq!(picture(&to), wanted);
        // And once more, when all of it is right.
        let last = extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert_eq!((last.unchanged, last.verified, last.files), (4, 5, 5));
    });
}

#[test]
fn left_overs_of_killed_extractions_go_or_are_named() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        fs::create_dir_all(to.join("dir")).expect("made");
        let stale = [
            "to/.libernet-0123abcd-0123456789abcdef",
            "to/dir/.libernet-76543210-0123456789abcdef",
        ];
        let others = [
            "to/.libernet-notes",
            "to/dir/.libernet-0123abcd-0123456789abcdeX",
        ];
        for name in stale.iter().chain(&others) {
            fs::write(room.path().join(name), b"x").expect("written");
        }
        let hidden = room.path().join(".to.libernet-0123abcd");
        fs::create_dir(&hidden).expect("made");
        let listener = Arc::new(super::Listener::default());
        let bundle = super::super::Bundle::open(memory.clone(), link)
            .await
            .expect("opens");
        let cancel = tokio_util::sync::CancellationToken::new();
        let done = super::super::extract(&bundle, &to, changed(), listener.clone(), cancel).await;
        assert!(done.expect("extracted").is_complete());
        for name in stale {
            assert!(!room.path().join(name).exists(), "{name}");
        }
        for name in others {
            assert!(room.path().join(name).exists(), "{name}");
        }
        assert!(hidden.exists(), "it may hold complete files");
        let said = listener.0.lock().expect("unpoisoned").join("\n");
        assert!(said.contains(".to.libernet-0123abcd"), "{said}");
        assert!(said.contains("2 temporary files"), "{said}");
    });
}

#[test]
fn a_single_thing_that_is_no_file_is_extracted() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    fs::create_dir(from.join("empty")).expect("made");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        for name in ["link", "pipe", "empty", "key"] {
            let to = room.path().join("new/deep").join(name);
            let options = ExtractOptions {
                from: vec![name.into()],
                ..changed()
            };
            let done = extract(&memory, &link, &to, options)
                .await
                .expect("extracted");
            assert!(done.is_complete(), "{name}: {done:?}");
            let kind = |path: &Path| path.symlink_metadata().expect("there").file_type();
            assert_eq!(kind(&to), kind(&from.join(name)), "{name}");
        }
    });
}

#[test]
fn directories_of_libernet_are_never_entered_or_replaced() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    for name in ["data/store/block", "linked/file", "none/file", "away/file"] {
        let path = from.join(name);
        fs::create_dir_all(path.parent().expect("one")).expect("made");
        fs::write(path, b"old").expect("written");
    }
    fs::write(from.join("file"), b"old").expect("written");
    symlink("away", from.join("link")).expect("made");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let mark = |path: &Path| {
            fs::create_dir_all(path).expect("made");
            fs::write(path.join("node.key"), b"libernet-key v1\n").expect("written");
        };
        // One in the way, and one behind symlinks that would be replaced.
        let (data, elsewhere) = (to.join("data"), room.path().join("elsewhere"));
        mark(&data);
        mark(&elsewhere);
        for name in ["linked", "link", "file"] {
            symlink(&elsewhere, to.join(name)).expect("made");
        }
        let before = (picture(&data), picture(&elsewhere));
        for overwrite in [Overwrite::Changed, Overwrite::Always] {
            let options = ExtractOptions {
                overwrite,
                ..changed()
            };
            let done = extract(&memory, &link, &to, options)
                .await
                .expect("extracted");
            assert_eq!((picture(&data), picture(&elsewhere)), before);
            for name in ["linked", "link", "file"] {
                assert_eq!(fs::read_link(to.join(name)).expect("there"), elsewhere);
            }
            assert_eq!(fs::read(to.join("none/file")).expect("there"), b"old");
            let mut named: Vec<_> = done.failed.iter().map(|part| part.path.clone()).collect();
            named.sort();
            assert_eq!(
                named,
                ["data", "file", "link", "linked"].map(std::path::PathBuf::from)
            );
            assert!(
                done.failed[0].reason.contains("libernet"),
                "{:?}",
                done.failed
            );
        }
        // Neither is one of them a target, nor is anything in one.
        let link_to = room.path().join("link to data");
        symlink(&data, &link_to).expect("made");
        for target in [data.clone(), data.join("new/deep"), link_to.join("x")] {
            for dry_run in [true, false] {
                let options = ExtractOptions {
                    dry_run,
                    ..changed()
                };
                let refused = extract(&memory, &link, &target, options).await;
                assert!(
                    matches!(refused, Err(super::Error::TargetIsOwn { .. })),
                    "{}: {refused:?}",
                    target.display()
                );
            }
        }
        assert_eq!(picture(&data), before.0);
    });
}
