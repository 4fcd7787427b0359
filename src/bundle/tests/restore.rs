//! Extracting a part, in an order, beside what is there.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use proptest::prelude::*;

use super::super::pattern::Line;
use super::super::tree::{Content, Directory, Extent};
use super::super::{Bundle, Error, ExtractOptions, Overwrite};
use super::{Memory, extract, noise, picture, put, runtime};
use crate::block::{Block, BlockSource, GetError};
use crate::id::BlockId;
use crate::monitor::Silent;

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("not the root")).expect("made");
    fs::write(path, bytes).expect("written");
}

fn names(root: &Path) -> BTreeSet<String> {
    let paths = picture(root).into_keys();
    let text = paths.map(|path| String::from_utf8(path).expect("text"));
    text.filter(|path| !path.is_empty()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn lines(lines: &[&str]) -> Vec<Line> {
    lines.iter().map(|line| Line::new(*line)).collect()
}

fn make(root: &Path) {
    for name in [
        "home/u/docs/a.txt",
        "home/u/docs/deep/b.txt",
        "home/u/docs/tmp/c",
        "home/v/d.txt",
        "etc/conf",
    ] {
        write(&root.join(name), name.as_bytes());
    }
    fs::create_dir_all(root.join("home/empty")).expect("made");
    std::os::unix::fs::symlink("docs", root.join("home/u/link")).expect("made");
    fs::set_permissions(root.join("home/u"), fs::Permissions::from_mode(0o710)).expect("set");
}

#[test]
fn a_selection_comes_with_what_is_above_it() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let cases: [(&[&str], &[&str]); 4] = [
            (
                &["/home/u/docs", "!tmp"],
                &[
                    "home",
                    "home/u",
                    "home/u/docs",
                    "home/u/docs/a.txt",
                    "home/u/docs/deep",
                    "home/u/docs/deep/b.txt",
                ],
            ),
            (&["d.txt"], &["home", "home/v", "home/v/d.txt"]),
            (
                &["/home/empty/", "link"],
                &["home", "home/empty", "home/u", "home/u/link"],
            ),
            (&["nothing"], &[]),
        ];
        for (at, (select, expected)) in cases.into_iter().enumerate() {
            for first in [&[][..], &["deep", "conf"][..]] {
                let to = room.path().join(format!("to{at}{}", first.len()));
                let options = ExtractOptions {
                    select: lines(select),
                    first: lines(first),
                    newest_first: !first.is_empty(),
                    ..ExtractOptions::default()
                };
                let report = extract(&memory, &link, &to, options)
                    .await
                    .expect("extracted");
                assert!(report.is_complete());
                assert_eq!(names(&to), set(expected), "{select:?}");
                if expected.contains(&"home/u") {
                    let mode = fs::metadata(to.join("home/u")).expect("there").mode();
                    assert_eq!(mode & 0o777, 0o710);
                }
            }
        }
        let to = room.path().join("part");
        let options = ExtractOptions {
            from: ["home", "u", "docs"].map(Bytes::from).to_vec(),
            select: lines(&["/deep"]),
            ..ExtractOptions::default()
        };
        extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert_eq!(names(&to), set(&["deep", "deep/b.txt"]));
        let options = ExtractOptions {
            from: vec![Bytes::from("gone")],
            ..ExtractOptions::default()
        };
        let gone = extract(&memory, &link, &room.path().join("x"), options).await;
        assert!(matches!(gone, Err(Error::NoSuchPath { path }) if path == Path::new("gone")));
        let options = ExtractOptions {
            select: lines(&["a["]),
            ..ExtractOptions::default()
        };
        let wrong = extract(&memory, &link, &room.path().join("x"), options).await;
        assert!(matches!(wrong, Err(Error::Pattern { pattern, .. }) if pattern == "a["));
    });
}

#[test]
fn only_the_tree_blocks_on_the_way_are_fetched() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    for dir in ["a", "b", "c"] {
        for at in 0..3000 {
            write(
                &from.join(format!("{dir}/file with a rather long name {at}")),
                dir.as_bytes(),
            );
        }
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let bundle = Bundle::open(memory.clone(), link.clone())
            .await
            .expect("opens");
        let directory = |name: &'static [u8]| {
            let bundle = bundle.clone();
            async move {
                let entry = bundle.lookup(name).await.expect("reads").expect("there");
                match entry.content {
                    Content::Directory(Directory::Block(block)) => block.id,
                    other => panic!("it is large: {other:?}"),
                }
            }
        };
        let (a, b) = (directory(b"a").await, directory(b"b").await);
        // What is not needed may be missing.
        memory.blocks.lock().unwrap().remove(&a);
        memory.asked.lock().unwrap().clear();
        let options = ExtractOptions {
            select: lines(&["/b/file with a rather long name 7"]),
            ..ExtractOptions::default()
        };
        let to = room.path().join("to");
        let report = extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert!(report.is_complete());
        assert_eq!(report.files, 1);
        assert!(memory.asked.lock().unwrap().contains(&b));
        // All of it: the directory is named, the rest is there.
        let to = room.path().join("all");
        let report = extract(&memory, &link, &to, ExtractOptions::default()).await;
        let report = report.expect("extracted");
        assert_eq!((report.files, report.missing_total), (6000, 1));
        assert_eq!(report.missing[0].path, Path::new("a"));
        assert_eq!(report.missing[0].block, a);
    });
}

#[test]
fn a_block_in_the_middle_of_a_large_file_costs_that_file_only() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    write(&from.join("large"), &noise(12 << 20, 1));
    write(&from.join("other"), &noise(3 << 20, 2));
    write(&from.join("small"), b"small");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let bundle = Bundle::open(memory.clone(), link.clone())
            .await
            .expect("opens");
        let entry = bundle
            .lookup(b"large")
            .await
            .expect("reads")
            .expect("there");
        let Content::File(file) = entry.content else {
            panic!("a file");
        };
        let Extent::Data { block, .. } = &file.extents[file.extents.len() / 2] else {
            panic!("data");
        };
        memory.blocks.lock().unwrap().remove(&block.id);
        let to = room.path().join("to");
        let options = ExtractOptions {
            verify: true,
            ..ExtractOptions::default()
        };
        let report = extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert_eq!(names(&to), set(&["other", "small"]));
        assert_eq!(
            (report.files, report.verified, report.missing_total),
            (2, 2, 1)
        );
        assert_eq!(report.missing[0].path, Path::new("large"));
        assert_eq!(report.missing[0].block, block.id);
        assert_eq!((report.new_files, report.new_bytes), (2, (3 << 20) + 5));
    });
}

#[test]
fn what_is_there_stays_when_only_the_missing_is_wanted() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    fs::hard_link(from.join("etc/conf"), from.join("etc/conf2")).expect("linked");
    fs::hard_link(from.join("etc/conf"), from.join("etc/conf3")).expect("linked");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let to = room.path().join("to");
        write(&to.join("etc/conf"), b"mine");
        write(&to.join("home/u/docs/a.txt"), b"mine");
        write(&to.join("home/v"), b"a file in place of a directory");
        write(&to.join("else"), b"else");
        fs::set_permissions(to.join("home/u"), fs::Permissions::from_mode(0o700)).expect("set");
        let never = extract(&memory, &link, &to, ExtractOptions::default()).await;
        assert!(matches!(never, Err(Error::TargetExists { .. })));
        let options = ExtractOptions {
            overwrite: Overwrite::Missing,
            ..ExtractOptions::default()
        };
        let dry = ExtractOptions {
            dry_run: true,
            ..options.clone()
        };
        let before = picture(&to);
        let dry = extract(&memory, &link, &to, dry).await.expect("looked");
        assert_eq!(picture(&to), before, "nothing is touched");
        let report = extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert_eq!((report.skipped, dry.skipped), (2, 2));
        assert_eq!(report.new_files, 4);
        assert_eq!(
            dry.new_files, 5,
            "it does not see that a directory can't be made"
        );
        assert_eq!(report.failed_total, 1);
        assert_eq!(report.failed[0].path, Path::new("home/v"));
        let read = |name: &str| fs::read(to.join(name)).expect("there");
        assert_eq!(
            (read("etc/conf"), read("home/u/docs/a.txt")),
            (b"mine".to_vec(), b"mine".to_vec())
        );
        assert_eq!(
            (read("etc/conf2"), read("etc/conf3")),
            (b"etc/conf".to_vec(), b"etc/conf".to_vec())
        );
        let inode = |name: &str| fs::metadata(to.join(name)).expect("there").ino();
        assert_eq!(inode("etc/conf2"), inode("etc/conf3"));
        assert_ne!(inode("etc/conf2"), inode("etc/conf"));
        assert_eq!(read("home/u/docs/deep/b.txt"), b"home/u/docs/deep/b.txt");
        let mode = |name: &str| fs::metadata(to.join(name)).expect("there").mode() & 0o777;
        assert_eq!(mode("home/u"), 0o700, "its own");
        // Changed files are told from others.
        let options = ExtractOptions {
            overwrite: Overwrite::Changed,
            root_attributes: false,
            dry_run: true,
            ..ExtractOptions::default()
        };
        let dry = extract(&memory, &link, &to, options.clone())
            .await
            .expect("looked");
        let time = fs::metadata(&to).expect("there").mode();
        let options = ExtractOptions {
            dry_run: false,
            verify: true,
            ..options
        };
        let report = extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert!(report.is_complete());
        assert_eq!((dry.changed_files, dry.new_files), (2, 1));
        assert_eq!(
            (report.changed_files, report.new_files),
            (4, 1),
            "names of a new inode"
        );
        assert_eq!(report.files, dry.files);
        assert_eq!(fs::metadata(&to).expect("there").mode(), time);
        assert_eq!(
            fs::read(to.join("home/v/d.txt")).expect("there"),
            b"home/v/d.txt"
        );
    });
}

#[test]
fn what_another_selection_left_is_not_taken_for_this_one() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let to = room.path().join("to");
        let bundle = Bundle::open(memory.clone(), link.clone())
            .await
            .expect("opens");
        let stop = async || {
            let cancel = tokio_util::sync::CancellationToken::new();
            cancel.cancel();
            let all = ExtractOptions::default();
            let stopped = super::super::extract(&bundle, &to, all, Arc::new(Silent), cancel).await;
            assert!(matches!(stopped, Err(Error::Cancelled)));
        };
        let hidden = || {
            let names = fs::read_dir(room.path()).expect("readable").map(|entry| {
                let name = entry.expect("readable").file_name();
                name.to_string_lossy().into_owned()
            });
            names
                .filter(|name| name.contains("libernet"))
                .collect::<Vec<_>>()
        };
        // The run may end before anything is made.
        let mut tries = 0;
        while hidden().is_empty() && tries < 1000 {
            stop().await;
            tries += 1;
        }
        let left = hidden();
        assert_eq!(left.len(), 1);
        write(&room.path().join(&left[0]).join("left"), b"left");
        let options = ExtractOptions {
            select: lines(&["d.txt"]),
            ..ExtractOptions::default()
        };
        extract(&memory, &link, &to, options)
            .await
            .expect("extracted");
        assert_eq!(names(&to), set(&["home", "home/v", "home/v/d.txt"]));
        assert_eq!(hidden(), left);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Leaving directories out early changes nothing.
    #[test]
    fn a_selection_is_what_its_patterns_say(
        files in proptest::collection::btree_set("[ab]{1,2}(/[ab]{1,2}){0,3}", 1..10),
        select in proptest::collection::vec(proptest::sample::select(vec![
            "a", "/a/b", "b/*", "!a/b", "*b", "a/**/b", "/ab/", "**/a", "!b", "/b/a?", "a/", "/[ab]/b", "#a",
        ]), 1..4),
        in_rounds in any::<bool>(),
    ) {
        let room = tempfile::tempdir().expect("a directory");
        let from = room.path().join("from");
        let mut made = Vec::new();
        for name in &files {
            let path = from.join(name);
            let is_free = fs::create_dir_all(path.parent().expect("one")).is_ok();
            if is_free && !path.exists() {
                fs::write(&path, name).expect("written");
                made.push(name.clone());
            }
        }
        let mut builder = ignore::gitignore::GitignoreBuilder::new("/");
        for line in &select {
            builder.add_line(None, line).expect("good");
        }
        let rules = builder.build().expect("good");
        // The nearest that says something, from the file upwards.
        let is_wanted = |name: &str| {
            let path = Path::new("/").join(name);
            let told = path.ancestors().find_map(|at| match rules.matched(at, at != path) {
                ignore::Match::None => None,
                told => Some(told.is_ignore()),
            });
            told.unwrap_or(false)
        };
        let expected: BTreeSet<String> = made.iter().filter(|name| is_wanted(name)).cloned().collect();
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let link = put(&from, &memory).await.expect("put").link;
            let to = room.path().join("to");
            let options = ExtractOptions {
                select: lines(&select),
                first: if in_rounds { lines(&["b"]) } else { Vec::new() },
                newest_first: in_rounds,
                ..ExtractOptions::default()
            };
            let report = extract(&memory, &link, &to, options).await.expect("extracted");
            assert!(report.is_complete());
            let mut found = names(&to);
            found.retain(|name| to.join(name).is_file());
            assert_eq!(found, expected);
        });
    }
}

/// Notes which files were in the hidden directory when a block was asked for.
struct Watching {
    memory: Arc<Memory>,
    room: PathBuf,
    seen: std::sync::Mutex<Vec<BTreeSet<String>>>,
}

#[async_trait]
impl BlockSource for Watching {
    async fn get(&self, id: BlockId) -> Result<Block, GetError> {
        let mut found = BTreeSet::new();
        for entry in fs::read_dir(&self.room).expect("readable") {
            let path = entry.expect("readable").path();
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_file()) {
                    found.insert(entry.file_name().to_string_lossy().into_owned());
                }
            }
        }
        self.seen.lock().unwrap().push(found);
        self.memory.get(id).await
    }
}

#[test]
fn files_come_in_the_order_that_was_asked_for() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    let now = SystemTime::now();
    let day = Duration::from_secs(24 * 3600);
    for (at, (name, age)) in [("a", 100), ("b", 0), ("c", 3), ("d", 1000)]
        .into_iter()
        .enumerate()
    {
        let path = from.join(name);
        write(&path, &noise(1 << 20, at as u64));
        let file = fs::File::options().write(true).open(path).expect("opens");
        file.set_modified(now - day * age).expect("set");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let link = put(&from, &memory).await.expect("put").link;
        let hidden = room.path().join("out");
        fs::create_dir(&hidden).expect("made");
        let watching = Arc::new(Watching {
            memory: memory.clone(),
            room: hidden.clone(),
            seen: std::sync::Mutex::default(),
        });
        let bundle = Bundle::open(watching.clone(), link).await.expect("opens");
        let options = ExtractOptions {
            first: lines(&["d"]),
            newest_first: true,
            window: 1,
            ..ExtractOptions::default()
        };
        let to = hidden.join("to");
        let cancel = tokio_util::sync::CancellationToken::new();
        let report = super::super::extract(&bundle, &to, options, Arc::new(Silent), cancel).await;
        assert!(report.expect("extracted").is_complete());
        let mut order: Vec<String> = Vec::new();
        for seen in watching.seen.lock().unwrap().iter() {
            for name in seen {
                if !order.contains(name) {
                    order.push(name.clone());
                }
            }
        }
        // The last one is begun when nothing more is asked for.
        assert!(
            ["d", "b", "c", "a"].starts_with(&order.iter().map(String::as_str).collect::<Vec<_>>())
        );
        assert!(order.len() >= 3, "{order:?}");
        assert_eq!(picture(&from), picture(&to));
    });
}
