//! Puts that lean on an earlier one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use proptest::prelude::*;
use tokio_util::sync::CancellationToken;

use super::super::tree::{Content, Directory, Extent};
use super::super::{Bundle, Previous, PutOptions, PutReport, put_paths, survey};
use super::{Listener, Memory, extract, noise, picture, put_with, runtime};
use crate::bundle::ExtractOptions;
use crate::monitor::Silent;
use crate::time::{Clock, SystemClock, Timestamp};

/// After everything that the tests do, so that nothing counts as just changed.
fn later() -> Timestamp {
    SystemClock.now().after(Duration::from_secs(3600))
}

/// Waits until the clock of the file system has moved on, so that what follows shows another time.
fn tick(room: &Path) {
    use std::os::unix::fs::MetadataExt;
    let look = || {
        let probe = room.join("probe");
        fs::write(&probe, b"x").expect("written");
        let meta = fs::metadata(&probe).expect("there");
        (meta.ctime(), meta.ctime_nsec())
    };
    let before = look();
    while look() == before {}
}

fn keeping() -> PutOptions {
    PutOptions {
        keep_identity: true,
        ..PutOptions::default()
    }
}

fn after(report: &PutReport, memory: &Arc<Memory>) -> PutOptions {
    PutOptions {
        previous: Some(Previous {
            root: report.link.clone(),
            source: memory.clone(),
            started: later(),
        }),
        ..keeping()
    }
}

fn make(root: &Path) {
    for dir in 0..3 {
        let dir = root.join(format!("d{dir}"));
        fs::create_dir_all(&dir).expect("made");
        for file in 0..40 {
            fs::write(dir.join(format!("f{file}")), noise(300 + file, file as u64))
                .expect("written");
        }
    }
    fs::write(root.join("large"), noise(3 << 20, 99)).expect("written");
    fs::write(root.join("empty"), b"").expect("written");
    fs::hard_link(root.join("d0/f1"), root.join("d2/linked")).expect("linked");
    fs::hard_link(root.join("large"), root.join("d1/large too")).expect("linked");
}

#[test]
fn an_unchanged_tree_is_not_read_and_comes_out_the_same() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    let _ = xattr::set(from.join("d0/f3"), "user.note", b"kept");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(&from, &memory, keeping()).await.expect("put");
        assert_eq!(first.unchanged, 0);
        let second = put_with(&from, &memory, after(&first, &memory))
            .await
            .expect("put");
        assert_eq!(
            second.unchanged + 2,
            second.files,
            "all but the further links"
        );
        assert_eq!(second.new_blocks, 0);
        assert_eq!(
            second.link, first.link,
            "the same tree, blocks counted alike"
        );
        // Each pack was asked for once.
        let keeps = memory.keeps.lock().unwrap().concat();
        let mut distinct = keeps.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(keeps.len(), distinct.len());
        let to = room.path().join("to");
        let report = extract(&memory, &second.link, &to, ExtractOptions::default()).await;
        assert!(report.expect("extracted").is_complete());
        assert_eq!(picture(&from), picture(&to));
        let chosen = [from.clone()];
        let (sink, index) = (memory.clone(), memory.clone());
        let (monitor, cancel) = (Arc::new(Silent), CancellationToken::new());
        let third = put_paths(&chosen, keeping(), sink, index, monitor, cancel).await;
        fs::write(from.join("d0/f9"), b"changed").expect("written");
        let options = after(&third.expect("put"), &memory);
        let seen = survey(
            &chosen,
            &options,
            Arc::new(Silent),
            CancellationToken::new(),
        )
        .await;
        let seen = seen.expect("looked");
        assert_eq!(
            (seen.files, seen.unchanged),
            (second.files, second.unchanged - 1)
        );
        assert_eq!(
            seen.to_read_paths,
            [from.canonicalize().expect("there").join("d0/f9")]
        );
        assert_eq!(seen.to_read_bytes, 7);
    });
}

#[test]
fn what_was_touched_is_read_again() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(&from, &memory, keeping()).await.expect("put");
        tick(room.path());
        // The same size and time, other bytes.
        let sly = from.join("d1/f5");
        let time = fs::metadata(&sly)
            .expect("there")
            .modified()
            .expect("a time");
        fs::write(&sly, noise(305, 1234)).expect("written");
        let file = fs::File::options().write(true).open(&sly).expect("opens");
        file.set_modified(time).expect("set");
        // Attributes alone, another inode, a new name, one gone.
        fs::set_permissions(from.join("d1/f6"), fs::Permissions::from_mode(0o600)).expect("set");
        fs::copy(from.join("d1/f7"), from.join("d1/f7.new")).expect("copied");
        fs::rename(from.join("d1/f7.new"), from.join("d1/f7")).expect("renamed");
        fs::write(from.join("d1/f05"), b"new").expect("written");
        fs::remove_file(from.join("d1/f8")).expect("removed");
        fs::rename(from.join("d2"), from.join("moved")).expect("renamed");
        let options = after(&first, &memory);
        let second = put_with(&from, &memory, options.clone())
            .await
            .expect("put");
        assert!(
            second.unchanged < second.files - 40,
            "a moved directory is read"
        );
        assert!(second.unchanged > 60);
        let to = room.path().join("to");
        let report = extract(&memory, &second.link, &to, ExtractOptions::default()).await;
        assert!(report.expect("extracted").is_complete());
        assert_eq!(picture(&from), picture(&to));
        // As if all had been read.
        let fresh = Arc::new(Memory::default());
        let whole = put_with(&from, &fresh, keeping()).await.expect("put");
        assert_eq!((whole.files, whole.bytes), (second.files, second.bytes));
    });
}

#[test]
fn what_changed_while_the_earlier_run_was_about_to_start_is_not_trusted() {
    let room = tempfile::tempdir().expect("a directory");
    make(room.path());
    let started = SystemClock.now();
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(room.path(), &memory, keeping())
            .await
            .expect("put");
        let mut options = after(&first, &memory);
        if let Some(previous) = &mut options.previous {
            previous.started = started;
        }
        let second = put_with(room.path(), &memory, options).await.expect("put");
        assert_eq!(second.unchanged, 0);
    });
}

#[test]
fn lost_blocks_are_put_again() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(&from, &memory, keeping()).await.expect("put");
        let bundle = Bundle::open(memory.clone(), first.link.clone())
            .await
            .expect("opens");
        let entry = bundle
            .lookup(b"d1/f5")
            .await
            .expect("reads")
            .expect("there");
        let Content::File(file) = &entry.content else {
            panic!("a file");
        };
        let Extent::Data { block, .. } = &file.extents[0] else {
            panic!("data");
        };
        memory.blocks.lock().unwrap().remove(&block.id);
        let second = put_with(&from, &memory, after(&first, &memory))
            .await
            .expect("put");
        assert!(second.unchanged >= 1 && second.unchanged < second.files - 2);
        let to = room.path().join("to");
        let report = extract(&memory, &second.link, &to, ExtractOptions::default()).await;
        assert!(report.expect("extracted").is_complete());
        assert_eq!(picture(&from), picture(&to));
        // An index that fails, a tree that is gone: everything is read, and somebody hears of it.
        *memory.index_fails.lock().unwrap() = true;
        let third = put_with(&from, &memory, after(&second, &memory))
            .await
            .expect("put");
        assert_eq!(third.unchanged, 1, "only the empty file needs no block");
        *memory.index_fails.lock().unwrap() = false;
        memory.blocks.lock().unwrap().remove(&second.link.id);
        let listener = Arc::new(Listener::default());
        let fourth = super::super::put(
            &from,
            after(&second, &memory),
            memory.clone(),
            memory.clone(),
            listener.clone(),
            CancellationToken::new(),
        );
        assert_eq!(fourth.await.expect("put").unchanged, 0);
        assert!(listener.0.lock().unwrap()[0].contains("previous tree"));
    });
}

#[test]
fn a_part_of_the_earlier_tree_that_is_gone_is_read_again() {
    let room = tempfile::tempdir().expect("a directory");
    for dir in ["a", "b"] {
        fs::create_dir(room.path().join(dir)).expect("made");
        for at in 0..3000 {
            let name = format!("{dir}/file with a rather long name {at}");
            fs::write(room.path().join(name), dir).expect("written");
        }
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(room.path(), &memory, keeping())
            .await
            .expect("put");
        let bundle = Bundle::open(memory.clone(), first.link.clone())
            .await
            .expect("opens");
        let entry = bundle.lookup(b"a").await.expect("reads").expect("there");
        let Content::Directory(Directory::Block(block)) = entry.content else {
            panic!("it is large");
        };
        memory.blocks.lock().unwrap().remove(&block.id);
        let second = put_with(room.path(), &memory, after(&first, &memory))
            .await
            .expect("put");
        assert_eq!((second.unchanged, second.link), (3000, first.link));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    /// Whatever is done between two puts, the second tree is what is there.
    #[test]
    fn any_change_is_seen(
        files in proptest::collection::vec(("[abc]{1,2}(/[abc]{1,2}){0,2}", 0usize..3), 1..16),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), 0u8..6), 0..8),
        lost in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let room = tempfile::tempdir().expect("a directory");
        let from = room.path().join("from");
        fs::create_dir(&from).expect("made");
        let mut paths = Vec::new();
        for (name, kind) in &files {
            let path = from.join(name);
            let is_free = fs::create_dir_all(path.parent().expect("one")).is_ok();
            if is_free && !path.exists() {
                fs::write(&path, noise([0, 5, 700_000][*kind], paths.len() as u64)).expect("written");
                paths.push(path);
            }
        }
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let first = put_with(&from, &memory, keeping()).await.expect("put");
            tick(room.path());
            for (at, (which, edit)) in edits.iter().enumerate() {
                let path = which.get(&paths).clone();
                let other = from.join(format!("other{at}"));
                if !path.is_file() {
                    continue;
                }
                let size = fs::metadata(&path).expect("there").len() as usize;
                match edit {
                    0 => fs::write(&path, noise(size, 1000)).expect("written"),
                    1 => fs::remove_file(&path).expect("removed"),
                    2 => fs::rename(&path, &other).expect("renamed"),
                    3 => fs::hard_link(&path, &other).expect("linked"),
                    4 => drop(fs::set_permissions(&path, fs::Permissions::from_mode(0o600))),
                    _ => {
                        fs::remove_file(&path).expect("removed");
                        fs::create_dir(&path).expect("made");
                    }
                }
            }
            if let Some(lost) = lost {
                let mut ids: Vec<_> = memory.ids().into_iter().collect();
                ids.sort_unstable();
                memory.blocks.lock().unwrap().remove(lost.get(&ids));
            }
            let second = put_with(&from, &memory, after(&first, &memory)).await.expect("put");
            let to = room.path().join("to");
            let report = extract(&memory, &second.link, &to, ExtractOptions::default()).await;
            assert!(report.expect("extracted").is_complete());
            assert_eq!(picture(&from), picture(&to));
        });
    }
}

#[test]
fn files_with_lists_are_taken_over_whole() {
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path().join("holes");
    let file = fs::File::create(&path).expect("made");
    // Very many extents: data and holes by turns.
    for at in 0..3000u64 {
        use std::os::unix::fs::FileExt;
        file.write_all_at(&at.to_le_bytes(), at * 64 * 1024)
            .expect("written");
    }
    drop(file);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(room.path(), &memory, keeping())
            .await
            .expect("put");
        let second = put_with(room.path(), &memory, after(&first, &memory))
            .await
            .expect("put");
        assert_eq!((second.unchanged, second.new_blocks), (1, 0));
        assert_eq!(second.link, first.link);
        let kept: std::collections::HashSet<_> =
            memory.keeps.lock().unwrap().concat().into_iter().collect();
        let bundle = Bundle::open(memory.clone(), second.link)
            .await
            .expect("opens");
        let entry = bundle
            .lookup(b"holes")
            .await
            .expect("reads")
            .expect("there");
        let blocks: Vec<_> = bundle.file_blocks(&entry).collect().await;
        assert!(blocks.len() > 2);
        for id in blocks {
            assert!(kept.contains(&id.expect("there")));
        }
    });
}

#[test]
fn many_unchanged_files_are_taken_over_in_few_steps() {
    let files = 4_000;
    let room = tempfile::tempdir().expect("a directory");
    for at in 0..files {
        let dir = room.path().join(format!("d{:03}", at / 500));
        if at % 500 == 0 {
            fs::create_dir(&dir).expect("made");
        }
        fs::write(dir.join(format!("f{at}")), noise(64, at)).expect("written");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_with(room.path(), &memory, keeping())
            .await
            .expect("put");
        let second = put_with(room.path(), &memory, after(&first, &memory))
            .await
            .expect("put");
        assert_eq!(second.unchanged, files);
        assert_eq!(second.link, first.link);
        assert!(memory.keeps.lock().unwrap().len() <= 256);
    });
}
