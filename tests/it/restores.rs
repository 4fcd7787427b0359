//! Restores as a user asks for them: where to, over what is there, with few descriptors, as
//! somebody else.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::process::{fails, json, libernet, run};
use crate::sample::assert_same;

/// Any user who is not root.
const SOMEBODY: &str = "4711";

fn utf8(path: &Path) -> &str {
    path.to_str().expect("utf-8")
}

/// An owner in `data`, and a backup of `source`.
fn back_up(data: &Path, source: &Path) {
    let words = data.with_file_name("words");
    json(data, &["init", "--yes", "--words-out", utf8(&words)]);
    json(data, &["backup", utf8(source)]);
}

fn part(source: &Path, name: &str) -> String {
    format!("latest:{}", utf8(&source.join(name)))
}

fn succeeds(output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{} {said}", output.status);
    said
}

fn room() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let room = tempfile::tempdir().expect("a directory");
    let (data, source) = (room.path().join("data"), room.path().join("source"));
    std::fs::create_dir(&source).expect("made");
    (room, data, source)
}

#[test]
fn a_target_is_made_with_what_is_above_it() {
    let (room, data, source) = room();
    std::fs::write(source.join("file"), b"text").expect("written");
    std::fs::create_dir(source.join("empty")).expect("made");
    symlink("file", source.join("link")).expect("made");
    let pipe = source.join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo runs").success());
    back_up(&data, &source);
    let at = |name: &str| room.path().join(name);
    for (name, target, found) in [
        ("", "a/b/c", "a/b/c/file"),
        ("file", "new/dir", "new/dir/file"),
        ("link", "new/links", "new/links/link"),
        ("pipe", "new/pipes", "new/pipes/pipe"),
        ("empty", "new/empty", "new/empty"),
    ] {
        let restored = json(
            &data,
            &[
                "restore",
                &part(&source, name),
                "--target",
                utf8(&at(target)),
            ],
        );
        assert_eq!(restored["missing_total"], 0, "{restored}");
        assert!(at(found).symlink_metadata().is_ok(), "{name}");
    }
    let kind = |name: &str| at(name).symlink_metadata().expect("there").file_type();
    assert!(kind("new/links/link").is_symlink() && kind("new/pipes/pipe").is_fifo());
    // A file is no place to write below, and a directory is none to put a file in place of.
    let below = at("new/dir/file/below");
    let refused = run(
        &data,
        &["restore", &part(&source, ""), "--target", utf8(&below)],
    );
    assert!(!refused.status.success());
    std::fs::create_dir(at("new/dir2")).expect("made");
    std::fs::create_dir(at("new/dir2/file")).expect("made");
    let dir = at("new/dir2");
    let taken = run(
        &data,
        &["restore", &part(&source, "file"), "--target", utf8(&dir)],
    );
    fails(&taken, 8, "is there already");
}

#[test]
fn verify_says_the_same_only_of_what_is() {
    let (room, data, source) = room();
    let (target, file) = (room.path().join("target"), room.path().join("target/file"));
    std::fs::write(source.join("file"), b"right").expect("written");
    back_up(&data, &source);
    let all = part(&source, "");
    let restore = ["restore", &all, "--target", utf8(&target)];
    json(&data, &restore);
    let time = file.metadata().expect("there").modified().expect("known");
    std::fs::write(&file, b"wrong").expect("written");
    let tampered = std::fs::File::open(&file).expect("opens");
    tampered.set_modified(time).expect("set");

    let blind = json(&data, &restore);
    assert_eq!(
        (&blind["unchanged"], &blind["verified"]),
        (&1.into(), &false.into())
    );
    let said = succeeds(&run(&data, &[&restore[..], &["--verify"]].concat()));
    assert!(
        said.contains("everything was read back and is the same"),
        "{said}"
    );
    assert_eq!(std::fs::read(&file).expect("there"), b"right");
    let seen = json(&data, &[&restore[..], &["--verify"]].concat());
    assert_eq!(
        (&seen["unchanged"], &seen["verified"]),
        (&1.into(), &true.into())
    );

    std::fs::write(&file, b"mine").expect("written");
    let kept = [&restore[..], &["--verify", "--overwrite", "never"]].concat();
    let said = succeeds(&run(&data, &kept));
    assert!(
        said.contains("not everything was verified: 1 was left alone"),
        "{said}"
    );
}

#[test]
fn few_descriptors_are_enough() {
    let (room, data, source) = room();
    for number in 0..120 {
        let dir = source.join(format!("{number}/e/f/g"));
        std::fs::create_dir_all(&dir).expect("made");
        for name in ["1", "2", "3"] {
            std::fs::write(dir.join(name), format!("{number}{name}")).expect("written");
        }
    }
    let words = room.path().join("words");
    json(&data, &["init", "--yes", "--words-out", utf8(&words)]);
    let target = room.path().join("target");
    for limit in [256, 128, 64] {
        let with_few = |arguments: &[&str]| {
            let output = Command::new("sh")
                .args(["-c", "ulimit -n \"$0\"; exec \"$@\"", &limit.to_string()])
                .arg(libernet().get_program())
                .args(["--data-dir", utf8(&data)])
                .args(arguments)
                // Each neighbour that came by would take one.
                .env("LIBERNET_MDNS", "false")
                .output();
            succeeds(&output.expect("it runs"))
        };
        // Every file is read each time.
        with_few(&["backup", "--force", utf8(&source)]);
        // A store of many files needs some of its own.
        let restore = ["restore", &part(&source, ""), "--target", utf8(&target)];
        match limit {
            64 => succeeds(&run(&data, &restore)),
            _ => with_few(&restore),
        };
        assert_same(&source, &target);
        std::fs::remove_dir_all(&target).expect("removed");
    }
}

#[test]
fn owners_restore_into_their_own_read_only_directories() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can become somebody else");
    }
    let (room, data, source) = room();
    std::fs::create_dir_all(source.join("locked/team")).expect("made");
    std::fs::write(source.join("locked/kept"), b"1").expect("written");
    std::fs::write(source.join("locked/lost"), b"2").expect("written");
    let chmod = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set");
    };
    let somebody = SOMEBODY.parse().expect("a number");
    for path in [
        room.path(),
        &source,
        &source.join("locked"),
        &source.join("locked/team"),
        &source.join("locked/kept"),
        &source.join("locked/lost"),
    ] {
        std::os::unix::fs::chown(path, Some(somebody), Some(somebody)).expect("given");
    }
    chmod(&source.join("locked/team"), 0o2775);
    chmod(&source.join("locked/kept"), 0o444);
    chmod(&source.join("locked"), 0o555);
    let as_somebody = |args: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", SOMEBODY, "--regid", SOMEBODY, "--clear-groups"]);
        command.arg(libernet().get_program());
        command.args(["--data-dir", utf8(&data)]).args(args);
        succeeds(&command.output().expect("setpriv runs"))
    };
    let words = room.path().join("words");
    as_somebody(&["init", "--yes", "--words-out", utf8(&words)]);
    as_somebody(&["backup", utf8(&source)]);
    let target = room.path().join("target");
    let (all, to) = (part(&source, ""), utf8(&target).to_owned());
    as_somebody(&["restore", &all, "--target", &to]);
    assert_same(&source, &target);

    let locked = target.join("locked");
    let time = locked.metadata().expect("there").modified().expect("known");
    std::fs::remove_file(locked.join("lost")).expect("removed");
    std::fs::write(locked.join("kept"), b"changed").expect("written");
    chmod(&locked.join("team"), 0o700);
    let said = as_somebody(&["restore", &all, "--target", &to]);
    assert!(!said.contains("warning"), "{said}");
    assert_same(&source, &target);
    assert_eq!(
        locked.metadata().expect("there").modified().expect("known"),
        time
    );

    // A directory that keeps its own attributes gets its mode back as well.
    std::fs::remove_file(locked.join("lost")).expect("removed");
    let one = part(&source, "locked/lost");
    as_somebody(&["restore", &one, "--target", utf8(&locked)]);
    assert_eq!(locked.metadata().expect("there").mode() & 0o7777, 0o555);
    assert_eq!(std::fs::read(locked.join("lost")).expect("there"), b"2");
}

#[test]
fn root_restores_owners_unless_told_otherwise() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root can give files away");
    }
    let (room, data, source) = room();
    let tool = source.join("tool");
    std::fs::write(&tool, b"tool").expect("written");
    std::os::unix::fs::chown(&tool, Some(4711), Some(4712)).expect("given");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o4755)).expect("set");
    back_up(&data, &source);
    let look = |target: &Path| {
        let meta = target.join("tool").metadata().expect("there");
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    let target = room.path().join("target");
    let all = part(&source, "");
    let restored = json(&data, &["restore", &all, "--target", utf8(&target)]);
    assert_eq!(look(&target), (4711, 4712, 0o4755));
    assert_eq!(restored["refused_total"], 0);
    // Somebody took it over in between: it is given back.
    std::os::unix::fs::chown(target.join("tool"), Some(1), Some(1)).expect("given");
    json(
        &data,
        &["restore", &all, "--target", utf8(&target), "--owners"],
    );
    assert_eq!(look(&target), (4711, 4712, 0o4755));

    let other = room.path().join("other");
    let restored = json(
        &data,
        &["restore", &all, "--target", utf8(&other), "--no-owners"],
    );
    assert_eq!(look(&other), (0, 0, 0o755));
    assert_eq!(restored["lost_powers"], 1, "{restored}");
}
