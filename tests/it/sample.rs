//! Directory trees to put and get, and their comparison.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Makes a tree with everything that a tree keeps: many small files, a large one, odd names, links, holes, attributes.
pub fn make_tree(root: &Path) {
    std::fs::create_dir(root).expect("made");
    for number in 0..300u64 {
        let dir = root.join(format!("src/module{}", number % 17));
        std::fs::create_dir_all(&dir).expect("made");
        let text = format!(
            "// file {number}\n{}",
            "let x = 1;\n".repeat(number as usize)
        );
        std::fs::write(dir.join(format!("file{number}.rs")), text).expect("written");
    }
    std::fs::write(root.join("large.bin"), noise(1, 5_000_000)).expect("written");
    std::fs::write(root.join("empty"), b"").expect("written");
    std::fs::write(root.join(OsStr::from_bytes(b"not utf-8 \xff\xfe")), b"odd").expect("written");
    std::fs::write(root.join("new\nline"), b"odd").expect("written");
    std::fs::create_dir_all(root.join("empty dir/inside")).expect("made");
    symlink("large.bin", root.join("link")).expect("made");
    symlink("/nowhere/at/all", root.join("broken link")).expect("made");
    std::fs::hard_link(root.join("large.bin"), root.join("src/hard")).expect("made");
    let script = root.join("script");
    std::fs::write(&script, b"#!/bin/sh\n").expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o750)).expect("set");
    let sparse = std::fs::File::create(root.join("sparse")).expect("made");
    sparse.set_len(3 << 20).expect("set");
    // Not every file system has them; where it has none the comparison finds none on both sides.
    let _ = xattr::set(&script, "user.libernet.test", b"value");
}

/// What a comparison looks at, by path.
pub fn describe(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut inodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    visit(root, Path::new(""), &mut inodes, &mut found);
    found
}

fn visit(
    root: &Path,
    relative: &Path,
    inodes: &mut BTreeMap<u64, PathBuf>,
    found: &mut BTreeMap<PathBuf, String>,
) {
    let path = root.join(relative);
    let meta = std::fs::symlink_metadata(&path).expect("exists");
    let mut text = format!(
        "mode {:o} mtime {}.{:09}",
        meta.mode(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    if meta.is_symlink() {
        text += &format!(" -> {:?}", std::fs::read_link(&path).expect("a link"));
    } else if meta.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(&path)
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        names.sort();
        for name in names {
            visit(root, &relative.join(name), inodes, found);
        }
    } else {
        let bytes = std::fs::read(&path).expect("read");
        text += &format!(" {} bytes {}", bytes.len(), blake3::hash(&bytes));
        let mut attributes: Vec<_> = xattr::list(&path).expect("listed").collect();
        attributes.sort();
        for name in attributes {
            text += &format!(" {name:?}={:?}", xattr::get(&path, &name).expect("read"));
        }
        if meta.nlink() > 1 {
            let first = inodes
                .entry(meta.ino())
                .or_insert_with(|| relative.to_owned());
            text += &format!(" same as {}", first.display());
        }
    }
    found.insert(relative.to_owned(), text);
}

/// Checks that two trees are the same in content and attributes.
pub fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (describe(one), describe(other));
    for (path, text) in &one {
        assert_eq!(Some(text), other.get(path), "{}", path.display());
    }
    assert_eq!(one.len(), other.len());
}
