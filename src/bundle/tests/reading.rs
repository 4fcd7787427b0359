//! Listing, looking up and streaming without extracting.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};

use super::super::{Bundle, Error, Last, PutOptions, Walked, put_paths};
use super::{Memory, noise, put, runtime};
use crate::block::Link;
use crate::crypto::key::Key;

#[test]
fn paths_lead_to_entries() {
    let room = tempfile::tempdir().expect("a directory");
    fs::create_dir_all(room.path().join("a/b")).expect("made");
    fs::write(room.path().join("a/b/c.txt"), b"hello").expect("written");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(room.path(), &memory).await.expect("put");
        let bundle = Bundle::open(memory, report.link).await.expect("opens");
        for path in [&b"a/b/c.txt"[..], b"/a/b/c.txt", b"a//b/c.txt/"] {
            let found = bundle.lookup(path).await.expect("reads").expect("is there");
            assert_eq!(found.size(), 5);
        }
        for path in [&b"x"[..], b"a/b/c.txt/d", b"a/b/c.tx", b"../a", b"a/../a"] {
            assert_eq!(bundle.lookup(path).await.expect("reads"), None, "{path:?}");
        }
        let root = bundle.lookup(b"").await.expect("reads").expect("the root");
        let names: Vec<_> = bundle
            .entries(&root)
            .map_ok(|entry| entry.name)
            .try_collect()
            .await
            .expect("reads");
        assert_eq!(names, [&b"a"[..]]);
        let walked: Vec<Walked> = bundle.walk().try_collect().await.expect("reads");
        let paths: Vec<_> = walked.iter().map(|step| step.path.as_slice()).collect();
        assert_eq!(paths, [&b""[..], b"a", b"a/b", b"a/b/c.txt"]);
        let file = bundle
            .lookup(b"a/b/c.txt")
            .await
            .expect("reads")
            .expect("there");
        assert!(matches!(
            bundle.entries(&file).next().await,
            Some(Err(Error::NotADirectory))
        ));
        assert!(matches!(
            bundle.read_file(&root, 0..1).next().await,
            Some(Err(Error::NotAFile))
        ));
    });
}

#[test]
fn symlinks_lead_to_places_in_the_bundle_only() {
    let room = tempfile::tempdir().expect("a directory");
    let at = room.path().canonicalize().expect("there");
    let tree = at.join("tree");
    fs::create_dir_all(tree.join("real/deep")).expect("made");
    fs::write(tree.join("real/deep/f"), b"in").expect("written");
    fs::write(at.join("outside"), b"out").expect("written");
    let (absolute, outside) = (tree.join("real"), at.join("outside"));
    for (target, name) in [
        ("real", "l"),
        ("../l/./deep/f", "real/up"),
        ("../../outside", "real/out"),
        ("../outside", "out"),
        ("round", "round"),
        ("nowhere", "dangling"),
        (absolute.to_str().expect("text"), "absolute"),
        (outside.to_str().expect("text"), "beside"),
    ] {
        std::os::unix::fs::symlink(target, tree.join(name)).expect("made");
    }
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&tree, &memory).await.expect("put");
        let bundle = Bundle::open(memory.clone(), report.link)
            .await
            .expect("opens");
        let follow = async |bundle: &Bundle, path: &[u8]| {
            let found = bundle.find(path, Last::Followed).await.expect("reads");
            found.map(|found| String::from_utf8(found.path).expect("text"))
        };
        for path in ["l/deep/f", "real/up", "l/up", "real/deep/f"] {
            let found = follow(&bundle, path.as_bytes()).await;
            assert_eq!(found.as_deref(), Some("real/deep/f"), "{path}");
        }
        for path in [
            "real/out", "out", "round", "round/x", "dangling", "absolute", "beside",
        ] {
            assert_eq!(follow(&bundle, path.as_bytes()).await, None, "{path}");
        }
        // One at the end is itself what is asked for; those on the way are not.
        let link = bundle.lookup(b"l").await.expect("reads").expect("there");
        assert_eq!(
            link.link_target().map(|target| &target[..]),
            Some(&b"real"[..])
        );
        let file = bundle.lookup(b"l/deep/f").await.expect("reads");
        assert_eq!(file.expect("there").size(), 2);
        // From the root of a system on absolute symlinks lead to places in it as well.
        let cancel = tokio_util::sync::CancellationToken::new();
        let silent = Arc::new(crate::monitor::Silent);
        let options = PutOptions::default();
        let paths = [tree.clone()];
        let (sink, index) = (memory.clone(), memory.clone());
        let report = put_paths(&paths, options, sink, index, silent, cancel).await;
        let link = report.expect("put").link;
        let system = Bundle::open(memory, link).await.expect("opens");
        let path = tree.join("absolute/deep/f");
        let found = follow(&system, path.as_os_str().as_encoded_bytes()).await;
        let real = tree.join("real/deep/f");
        assert_eq!(
            found.map(|found| format!("/{found}")).as_deref(),
            real.to_str()
        );
        let beside = tree.join("beside");
        let found = follow(&system, beside.as_os_str().as_encoded_bytes()).await;
        assert_eq!(found, None, "it was not put");
    });
}

#[test]
fn any_range_of_a_file_can_be_read() {
    let room = tempfile::tempdir().expect("a directory");
    let path = room.path().join("f");
    let content = {
        use std::os::unix::fs::FileExt;
        let file = fs::File::create(&path).expect("made");
        file.write_all_at(&noise(3 << 20, 1), 0).expect("written");
        file.write_all_at(&noise(100_000, 2), 8 << 20)
            .expect("written");
        fs::read(&path).expect("reads")
    };
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&path, &memory).await.expect("put");
        let bundle = Bundle::open(memory, report.link).await.expect("opens");
        let file = &bundle.root().entry;
        let len = content.len() as u64;
        for (from, to) in [
            (0, len),
            (0, 0),
            (0, 1),
            (len - 1, len),
            (len - 1, u64::MAX),
            (len, u64::MAX),
            (u64::MAX, u64::MAX),
            (1_500_000, 1_500_001),
            (100_000, 3 << 20),
            ((3 << 20) - 5, (8 << 20) + 5),
            (4 << 20, 5 << 20),
        ] {
            let pieces: Vec<_> = bundle
                .read_file(file, from..to)
                .try_collect()
                .await
                .expect("reads");
            let end = to.min(len) as usize;
            let expected = content.get(from as usize..end).unwrap_or_default();
            assert_eq!(pieces.concat(), expected, "{from}..{to}");
        }
    });
}

#[test]
fn all_blocks_are_what_was_stored() {
    let room = tempfile::tempdir().expect("a directory");
    for at in 0..20 {
        let dir = room.path().join(format!("{at:02}"));
        fs::create_dir(&dir).expect("made");
        for file in 0..150 {
            fs::write(
                dir.join(format!("a file with a rather long name {file}")),
                [at, file],
            )
            .expect("written");
        }
    }
    fs::write(room.path().join("large"), noise(4 << 20, 5)).expect("written");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(room.path(), &memory).await.expect("put");
        assert!(report.blocks > 8, "the tree has blocks of its own");
        let bundle = Bundle::open(memory.clone(), report.link.clone())
            .await
            .expect("opens");
        let ids: Vec<_> = bundle.all_blocks().try_collect().await.expect("reads");
        let distinct: HashSet<_> = ids.iter().copied().collect();
        assert_eq!(ids.len(), distinct.len());
        assert_eq!(ids[0], report.link.id);
        assert_eq!(distinct, memory.ids());
        assert_eq!(ids.len() as u64, report.blocks);
        assert_eq!(bundle.root().totals.blocks + 1, report.blocks);
        let large = bundle
            .lookup(b"large")
            .await
            .expect("reads")
            .expect("there");
        let its: Vec<_> = bundle
            .file_blocks(&large)
            .try_collect()
            .await
            .expect("reads");
        assert!(its.len() >= 2 && its.iter().all(|id| distinct.contains(id)));
    });
}

#[test]
fn what_is_not_a_bundle_is_named() {
    let room = tempfile::tempdir().expect("a directory");
    fs::write(room.path().join("f"), b"some data").expect("written");
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(room.path(), &memory).await.expect("put");
        let open = async |link: Link| Bundle::open(memory.clone(), link).await.err();
        let wrong_key = Link {
            key: Key::new([1; 32]),
            ..report.link.clone()
        };
        assert!(matches!(
            open(wrong_key).await,
            Some(Error::Open(crate::block::OpenError::WrongKey(id))) if id == report.link.id
        ));
        for other in [&b""[..], b"some data", b"LNT\x01", b"LNBUNDLE"] {
            let link = memory.plant(other);
            assert!(matches!(
                open(link.clone()).await,
                Some(Error::NotABundle { id }) if id == link.id
            ));
        }
        assert!(matches!(
            open(memory.plant(b"LNBUNDLE\x02")).await,
            Some(Error::UnknownVersion { version: 2, .. })
        ));
        assert!(matches!(
            open(memory.plant(b"LNBUNDLE\x01\xff")).await,
            Some(Error::Malformed { .. })
        ));
        let absent = Link {
            id: crate::id::BlockId::from_sha384([3; 48]),
            key: Key::new([3; 32]),
        };
        assert!(matches!(open(absent).await, Some(Error::Get(_))));
    });
}
