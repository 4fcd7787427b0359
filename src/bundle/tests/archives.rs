//! Archives, read back by GNU tar where there is one.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio_util::sync::CancellationToken;

use super::super::tree::{Content, Extent};
use super::super::{Bundle, TarOptions, TarReport, write_tar};
use super::{Memory, noise, picture, put, runtime};
use crate::block::Link;
use crate::monitor::Silent;

async fn archive(memory: &Arc<Memory>, link: &Link, options: &TarOptions) -> (Vec<u8>, TarReport) {
    let bundle = Bundle::open(memory.clone(), link.clone())
        .await
        .expect("opens");
    let mut out = Vec::new();
    let report = write_tar(
        &bundle,
        options,
        &mut out,
        &Silent,
        &CancellationToken::new(),
    )
    .await;
    (out, report.expect("written"))
}

fn has_tar() -> bool {
    let version = Command::new("tar").arg("--version").output();
    version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("GNU tar"))
}

fn untar(archive: &[u8], room: &Path, to: &str) {
    let file = room.join(format!("{to}.tar"));
    fs::write(&file, archive).expect("written");
    let to = room.join(to);
    fs::create_dir(&to).expect("made");
    let output = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=user.*", "--acls", "-xpf"])
        .arg(&file)
        .arg("-C")
        .arg(&to)
        .output()
        .expect("tar runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn gnu_tar_reads_what_was_put() {
    if !has_tar() {
        return;
    }
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    let long = "l".repeat(120);
    fs::create_dir_all(from.join("dir").join(&long).join(&long)).expect("made");
    fs::write(
        from.join("dir").join(&long).join(&long).join("deep"),
        noise(700, 1),
    )
    .expect("written");
    fs::write(from.join("large"), noise(5 << 20, 2)).expect("written");
    fs::write(from.join("empty"), b"").expect("written");
    fs::write(from.join("exact"), [7; 1024]).expect("written");
    fs::hard_link(from.join("large"), from.join("dir/linked")).expect("linked");
    std::os::unix::fs::symlink("../x".repeat(50), from.join("symlink")).expect("made");
    let name = <std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(b"not text \xff\xfe");
    fs::write(from.join(name), b"x").expect("written");
    let _ = xattr::set(from.join("exact"), "user.note", b"a\nb=c\0");
    for name in ["system.posix_acl_access", "system.posix_acl_default"] {
        let _ = xattr::set(from.join("dir"), name, &super::attributes::ACL);
    }
    let _ = xattr::set(
        from.join("large"),
        "system.posix_acl_access",
        &super::attributes::ACL,
    );
    let made = Command::new("mkfifo").arg(from.join("fifo")).status();
    assert!(made.expect("mkfifo runs").success());
    for (name, time) in [
        ("exact", UNIX_EPOCH - Duration::from_millis(1500)),
        (
            "empty",
            UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789),
        ),
    ] {
        let file = fs::File::options()
            .write(true)
            .open(from.join(name))
            .expect("opens");
        file.set_modified(time).expect("set");
    }
    fs::set_permissions(from.join("dir"), fs::Permissions::from_mode(0o555)).expect("set");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let put = put(&from, &memory).await.expect("put");
        let (bytes, report) = archive(&memory, &put.link, &TarOptions::default()).await;
        assert_eq!(bytes.len() % 512, 0);
        assert_eq!((report.files, report.entries), (put.files, put.entries - 1));
        assert_eq!((report.missing_total, report.zero_filled), (0, 0));
        untar(&bytes, room.path(), "to");
        let (mut one, mut other) = (picture(&from), picture(&room.path().join("to")));
        // The root is not in the archive.
        one.remove(&Vec::new());
        other.remove(&Vec::new());
        assert_eq!(one, other);
        let options = TarOptions {
            from: vec!["dir".into()],
            select: vec!["linked".into()],
        };
        let (bytes, report) = archive(&memory, &put.link, &options).await;
        assert_eq!((report.files, report.entries), (1, 1));
        untar(&bytes, room.path(), "part");
        let linked = fs::read(room.path().join("part/linked")).expect("there");
        assert_eq!(linked, noise(5 << 20, 2));
    });
    for dir in [from.join("dir"), room.path().join("to/dir")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("set");
    }
}

#[test]
fn missing_blocks_leave_files_out_or_zeros_in() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    fs::create_dir(&from).expect("made");
    fs::write(from.join("a first"), noise(6 << 20, 3)).expect("written");
    fs::write(from.join("b middle"), noise(6 << 20, 4)).expect("written");
    fs::write(from.join("c small"), b"small").expect("written");
    let holes = fs::File::create(from.join("d holes")).expect("made");
    holes.write_all_at(b"x", 3 << 20).expect("written");
    holes.set_len(4 << 20).expect("set");
    drop(holes);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let bundle = Bundle::open(memory.clone(), link.clone())
            .await
            .expect("opens");
        let mut zeroed = 0..0;
        for (name, middle) in [(&b"a first"[..], false), (b"b middle", true)] {
            let entry = bundle.lookup(name).await.expect("reads").expect("there");
            let Content::File(file) = entry.content else {
                panic!("a file");
            };
            let at = if middle { file.extents.len() / 2 } else { 0 };
            let Extent::Data { block, len, .. } = &file.extents[at] else {
                panic!("data");
            };
            let start: u64 = file.extents[..at].iter().map(Extent::len).sum();
            zeroed = start as usize..start as usize + *len as usize;
            memory.blocks.lock().unwrap().remove(&block.id);
        }
        let (bytes, report) = archive(&memory, &link, &TarOptions::default()).await;
        assert_eq!(
            (report.files, report.zero_filled, report.missing_total),
            (3, 1, 2)
        );
        assert_eq!(report.missing[0].path, Path::new("a first"));
        let mut found = std::collections::BTreeMap::new();
        for entry in ::tar::Archive::new(&bytes[..])
            .entries()
            .expect("an archive")
        {
            let mut entry = entry.expect("an entry");
            let name = entry.path().expect("a path").to_string_lossy().into_owned();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content).expect("whole");
            found.insert(name, content);
        }
        assert_eq!(found.len(), 3);
        let mut expected = noise(6 << 20, 4);
        expected[zeroed].fill(0);
        assert!(found["b middle"] == expected);
        assert_eq!(found["c small"], b"small");
        assert_eq!(
            found["d holes"],
            fs::read(from.join("d holes")).expect("there")
        );
    });
}
