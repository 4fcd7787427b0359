//! What two bundles differ in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::{Bundle, Change, ChangeKind, DiffReport, diff};
use super::{Memory, put, runtime};
use crate::block::Link;

fn write(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().expect("not the root")).expect("made");
    fs::write(path, bytes).expect("written");
}

async fn changes(memory: &Arc<Memory>, links: [&Link; 2]) -> (Vec<Change>, DiffReport) {
    let open = async |link: &Link| {
        Bundle::open(memory.clone(), link.clone())
            .await
            .expect("opens")
    };
    let (before, after) = (open(links[0]).await, open(links[1]).await);
    let mut found = Vec::new();
    let report = diff(&before, &after, |change| found.push(change)).await;
    (found, report.expect("all there"))
}

#[test]
fn each_kind_of_change_is_told() {
    let room = tempfile::tempdir().expect("a directory");
    let at = room.path();
    for name in [
        "gone/x",
        "gone/y",
        "kept/z",
        "changed",
        "touched",
        "kind/inner",
        "plain",
    ] {
        write(&at.join(name), name.as_bytes());
    }
    std::os::unix::fs::symlink("one", at.join("link")).expect("made");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let before = put(at, &memory).await.expect("put").link;
        fs::remove_dir_all(at.join("gone")).expect("removed");
        fs::remove_dir_all(at.join("kind")).expect("removed");
        write(&at.join("kind"), b"file");
        write(&at.join("new/a"), b"12345");
        write(&at.join("changed"), b"other");
        let file = fs::File::options()
            .write(true)
            .open(at.join("touched"))
            .expect("opens");
        file.set_modified(std::time::UNIX_EPOCH).expect("set");
        fs::remove_file(at.join("link")).expect("removed");
        std::os::unix::fs::symlink("two", at.join("link")).expect("made");
        let after = put(at, &memory).await.expect("put").link;
        let (found, report) = changes(&memory, [&before, &after]).await;
        let told: Vec<(&str, ChangeKind)> = found
            .iter()
            .map(|change| {
                (
                    std::str::from_utf8(&change.path).expect("text"),
                    change.kind,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("", ChangeKind::Attributes),
                ("changed", ChangeKind::Content),
                ("gone", ChangeKind::Removed),
                ("gone/x", ChangeKind::Removed),
                ("gone/y", ChangeKind::Removed),
                ("kind", ChangeKind::Kind),
                ("kind/inner", ChangeKind::Removed),
                ("link", ChangeKind::Content),
                ("new", ChangeKind::Added),
                ("new/a", ChangeKind::Added),
                ("touched", ChangeKind::Attributes),
            ]
        );
        let expected = DiffReport {
            added: 2,
            removed: 4,
            changed: 3,
            attributes: 2,
            added_bytes: 4 + 5 + 5,
            removed_bytes: 6 + 6 + 10 + 7,
        };
        assert_eq!(report, expected);
        let (none, report) = changes(&memory, [&after, &after]).await;
        assert!(none.is_empty());
        assert_eq!(report, DiffReport::default());
    });
}

#[test]
fn equal_parts_are_not_fetched() {
    let room = tempfile::tempdir().expect("a directory");
    for dir in ["a", "b"] {
        for at in 0..4000 {
            let name = format!("{dir}/file with a rather long name {at}");
            write(&room.path().join(name), dir.as_bytes());
        }
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let before = put(room.path(), &memory).await.expect("put").link;
        write(&room.path().join("b/zzz"), b"new");
        let after = put(room.path(), &memory).await.expect("put").link;
        memory.asked.lock().unwrap().clear();
        let (found, report) = changes(&memory, [&before, &after]).await;
        assert_eq!((report.added, report.removed), (1, 0));
        assert_eq!(found.last().expect("one").path, b"b/zzz");
        let bundle = Bundle::open(memory.clone(), after).await.expect("opens");
        let entry = bundle.lookup(b"a").await.expect("reads").expect("there");
        let super::super::tree::Content::Directory(super::super::tree::Directory::Block(a)) =
            entry.content
        else {
            panic!("it is large");
        };
        assert!(!memory.asked.lock().unwrap().contains(&a.id));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn what_is_told_turns_one_into_the_other(
        before in proptest::collection::btree_map("[ab]{1,2}(/[ab]{1,2}){0,2}", 0u8..3, 0..8),
        after in proptest::collection::btree_map("[ab]{1,2}(/[ab]{1,2}){0,2}", 0u8..3, 0..8),
    ) {
        let room = tempfile::tempdir().expect("a directory");
        let make = |name: &str, files: &BTreeMap<String, u8>| {
            let root = room.path().join(name);
            fs::create_dir(&root).expect("made");
            let mut made = BTreeMap::new();
            for (path, content) in files {
                let full = root.join(path);
                let is_free = fs::create_dir_all(full.parent().expect("one")).is_ok();
                if is_free && !full.exists() {
                    fs::write(&full, [*content]).expect("written");
                    made.insert(path.clone().into_bytes(), *content);
                }
            }
            (root, made)
        };
        let (old, mut files) = make("old", &before);
        let (new, expected) = make("new", &after);
        runtime().block_on(async {
            let memory = Arc::new(Memory::default());
            let old = put(&old, &memory).await.expect("put").link;
            let new = put(&new, &memory).await.expect("put").link;
            let (found, _) = changes(&memory, [&old, &new]).await;
            for change in found {
                let is_file = change.after.as_ref().is_some_and(|entry| entry.is_file());
                match change.kind {
                    ChangeKind::Attributes => {}
                    ChangeKind::Removed => drop(files.remove(&change.path)),
                    _ if is_file => drop(files.insert(change.path.clone(), expected[&change.path])),
                    _ => drop(files.remove(&change.path)),
                }
            }
            assert_eq!(files, expected);
        });
    }
}
