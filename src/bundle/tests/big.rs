//! Directories and files that are spread over many blocks.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures::TryStreamExt;

use super::super::tree::{Content, Directory, Extent, Node};
use super::super::{Bundle, ExtractOptions};
use super::{Memory, extract, noise, picture, put, runtime};

#[test]
fn a_large_directory_is_split_and_changes_cost_little() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    fs::create_dir(&from).expect("made");
    for at in 0..4000 {
        let name = from.join(format!("{at:06} is one of very many names that are long"));
        fs::write(name, at.to_string()).expect("written");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put(&from, &memory).await.expect("put");
        let bundle = Bundle::open(memory.clone(), first.link.clone())
            .await
            .expect("opens");
        let Content::Directory(Directory::Block(block)) = &bundle.root().entry.content else {
            panic!("4000 names are too many for one message");
        };
        let node = bundle.opener().node(block).await.expect("reads");
        assert!(matches!(node, Node::Parts(parts) if parts.len() > 2));
        for at in [0, 1, 2999, 3999] {
            let name = format!("{at:06} is one of very many names that are long");
            let found = bundle.lookup(name.as_bytes()).await.expect("reads");
            assert_eq!(found.expect("there").name, name.as_bytes());
        }
        for name in ["", "000000", "003000 is", "999999"] {
            let path = format!("{name}x");
            assert_eq!(bundle.lookup(path.as_bytes()).await.expect("reads"), None);
        }
        let walked: Vec<_> = bundle.walk().try_collect().await.expect("reads");
        assert_eq!(walked.len(), 4001);
        let done = extract(&memory, &first.link, &to, ExtractOptions::default())
            .await
            .expect("extracted");
        assert_eq!(done.files, 4000);
        assert_eq!(picture(&from), picture(&to));
        // One more name: a new pack, one or two new leaves, the parts, the root.
        fs::write(from.join("003000 is new"), b"new").expect("written");
        let second = put(&from, &memory).await.expect("put");
        assert!(second.new_blocks <= 5, "{} new blocks", second.new_blocks);
        assert!(second.new_blocks >= 3);
    });
}

#[test]
fn a_file_of_very_many_extents_has_lists() {
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path().join("sparse");
    let file = fs::File::create(&path).expect("made");
    for at in 0..1000u64 {
        file.write_all_at(&noise(4096, at), at * 16384)
            .expect("written");
    }
    file.set_len(1001 * 16384).expect("grown");
    drop(file);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&path, &memory).await.expect("put");
        let bundle = Bundle::open(memory.clone(), report.link.clone())
            .await
            .expect("opens");
        let Content::File(file) = &bundle.root().entry.content else {
            panic!("it is a file");
        };
        assert!(file.extents.len() > 1);
        assert!(
            file.extents
                .iter()
                .all(|extent| matches!(extent, Extent::List { .. }))
        );
        let to = room.path().join("copy");
        let done = extract(&memory, &report.link, &to, ExtractOptions::default())
            .await
            .expect("extracted");
        assert!(done.is_complete());
        assert!(fs::read(&to).expect("reads") == fs::read(&path).expect("reads"));
        use std::os::unix::fs::MetadataExt;
        let blocks = |path| fs::metadata(path).expect("there").blocks();
        // Blocks that the file system takes to note where its data is: as many as it likes.
        let noted = 64;
        assert!(blocks(&to).abs_diff(blocks(&path)) <= noted);
        assert!(blocks(&to) * 512 < 1001 * 16384 / 2);
        // A range far inside is found without reading what is before it.
        memory.asked.lock().unwrap().clear();
        let start = 900 * 16384;
        let entry = bundle.root().entry.clone();
        let bytes: Vec<_> = bundle
            .read_file(&entry, start..start + 4096)
            .try_collect()
            .await
            .expect("reads");
        assert!(bytes.concat() == noise(4096, 900));
        assert!(memory.asked.lock().unwrap().len() <= 3);
        // The lists are blocks of the bundle too.
        let ids: Vec<_> = bundle.all_blocks().try_collect().await.expect("reads");
        assert_eq!(ids.len(), memory.len());
        let own: Vec<_> = bundle
            .file_blocks(&entry)
            .try_collect()
            .await
            .expect("reads");
        let own: std::collections::HashSet<_> = own.into_iter().collect();
        assert_eq!(own.len() + 1, memory.len());
    });
}

#[test]
fn deep_trees_come_out_again() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    fs::create_dir(&from).expect("made");
    // Deeper than directories are kept open and than one message nests, and with longer paths than the system takes in one call.
    let depth = 200;
    let mut dir: rustix::fd::OwnedFd = fs::File::open(&from).expect("opens").into();
    for _ in 0..depth {
        use rustix::fs::{Mode, OFlags};
        let name = "a directory in a directory";
        rustix::fs::mkdirat(&dir, name, Mode::RWXU).expect("made");
        // Something after the way down, so that the walk has to come back.
        rustix::fs::mkdirat(&dir, "b", Mode::RWXU).expect("made");
        dir = rustix::fs::openat(
            &dir,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )
        .expect("opens");
    }
    drop(dir);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&from, &memory).await.expect("put");
        assert_eq!(report.entries, 2 * depth + 1);
        assert_eq!(report.unreadable_total, 0);
        let done = extract(&memory, &report.link, &to, ExtractOptions::default())
            .await
            .expect("extracted");
        assert!(done.is_complete(), "{:?}", done.failed);
        let again = put(&to, &Arc::new(Memory::default())).await.expect("put");
        assert_eq!(again.entries, report.entries);
    });
}
