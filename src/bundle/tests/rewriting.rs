//! Bundles that are put once more, without some of their blocks.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::super::tree::{Content, Entry};
use super::super::{Bundle, Error, PutOptions, PutReport, Seen, packed, rewrite};
use super::{Memory, extract, noise, picture, put_with, runtime};
use crate::block::Context;
use crate::bundle::ExtractOptions;
use crate::id::BlockId;
use crate::monitor::Silent;

/// Small files, hard links, a large file whose end is in a pack, and a sparse one with hundreds of small pieces, whose extents are in lists.
fn make(root: &Path) {
    use std::os::unix::fs::FileExt;
    for dir in 0..3 {
        let dir = root.join(format!("d{dir}"));
        fs::create_dir_all(&dir).expect("made");
        for file in 0..60 {
            let content = noise(20_000 + file, file as u64);
            fs::write(dir.join(format!("f{file}")), content).expect("written");
        }
    }
    fs::write(root.join("large"), noise((3 << 20) + 777, 99)).expect("written");
    fs::write(root.join("empty"), b"").expect("written");
    fs::hard_link(root.join("d0/f1"), root.join("d2/linked")).expect("linked");
    std::os::unix::fs::symlink("d0/f1", root.join("way")).expect("linked");
    let sparse = fs::File::create(root.join("sparse")).expect("made");
    for piece in 0..400 {
        let at = piece * 128 * 1024;
        sparse
            .write_at(&noise(4096, 1000 + piece), at)
            .expect("written");
    }
    let _ = xattr::set(root.join("d0/f3"), "user.note", b"kept");
}

/// Puts the tree with some more files, which then go, so that packs are used in part only.
async fn put_twice(from: &Path, memory: &Arc<Memory>) -> PutReport {
    for dir in 0..3 {
        for file in 0..10 {
            let path = from.join(format!("d{dir}/f{file}.gone"));
            fs::write(path, noise(9_000, 5000 + dir * 100 + file)).expect("written");
        }
    }
    fs::write(from.join("spare"), b"not seen later").expect("written");
    put_with(from, memory, keeping()).await.expect("put");
    for dir in 0..3 {
        for file in 0..10 {
            fs::remove_file(from.join(format!("d{dir}/f{file}.gone"))).expect("removed");
        }
    }
    fs::remove_file(from.join("spare")).expect("removed");
    put_with(from, memory, keeping()).await.expect("put")
}

fn keeping() -> PutOptions {
    PutOptions {
        keep_identity: true,
        properties: BTreeMap::from([("title".to_owned(), "x".into())]),
        ..PutOptions::default()
    }
}

/// The packs of a bundle.
async fn packs(bundle: &Bundle) -> HashSet<BlockId> {
    let mut found = HashSet::new();
    let mut note = |used: crate::bundle::Use| {
        found.insert(used.block.id);
        true
    };
    let whole = packed(bundle, &mut Seen::default(), &mut note).await;
    assert!(whole.expect("it reads"));
    found
}

/// Everything but where content is.
async fn entries(bundle: &Bundle) -> Vec<(Vec<u8>, Entry)> {
    let walked: Vec<_> = bundle.walk().collect().await;
    let bare = |walked: Result<crate::bundle::Walked, Error>| {
        let mut walked = walked.expect("it reads");
        if let Content::File(file) = &mut walked.entry.content {
            file.extents.clear();
        }
        if let Content::Directory(directory) = &mut walked.entry.content {
            *directory = super::super::tree::Directory::Inline(Vec::new());
        }
        (walked.path, walked.entry)
    };
    walked.into_iter().map(bare).collect()
}

async fn rewritten(
    bundle: &Bundle,
    left: HashSet<BlockId>,
    memory: &Arc<Memory>,
) -> Result<PutReport, Error> {
    rewrite(
        bundle,
        Arc::new(left),
        Context::public(),
        memory.clone(),
        memory.clone(),
        Arc::new(Silent),
        CancellationToken::new(),
    )
    .await
}

#[test]
fn without_some_packs_it_reads_the_same() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_twice(&from, &memory).await;
        let old = Bundle::open(memory.clone(), first.link.clone()).await;
        let old = old.expect("opens");
        let all = packs(&old).await;
        assert!(all.len() >= 2, "{} packs", all.len());
        // With nothing to leave it is the same.
        let same = rewritten(&old, HashSet::new(), &memory).await;
        assert_eq!(same.expect("put").link, first.link);
        // One that is used in full is made again as it was.
        let mut partial = HashSet::new();
        for id in &all {
            let report = rewritten(&old, HashSet::from([*id]), &memory).await;
            if report.expect("put").link != first.link {
                partial.insert(*id);
            }
        }
        assert!(!partial.is_empty() && all.len() >= 2);
        let each = partial.iter().map(|id| HashSet::from([*id]));
        for left in each.chain([partial.clone()]) {
            memory.keeps.lock().unwrap().clear();
            let report = rewritten(&old, left.clone(), &memory).await.expect("put");
            assert_eq!(
                (report.files, report.entries, report.bytes),
                (first.files, first.entries, first.bytes)
            );
            let new = Bundle::open(memory.clone(), report.link.clone()).await;
            let new = new.expect("opens");
            assert_eq!(new.root().properties, old.root().properties);
            assert_eq!(entries(&new).await, entries(&old).await);
            let blocks: HashSet<BlockId> = new
                .all_blocks()
                .map(|id| id.expect("it reads"))
                .collect()
                .await;
            assert!(blocks.is_disjoint(&left));
            let kept = memory.keeps.lock().unwrap().drain(..).flatten().collect();
            assert!(left.is_disjoint(&kept));
            assert_eq!(blocks.len() as u64, report.blocks);
        }
    });
}

#[test]
fn what_is_written_anew_needs_the_left_blocks_no_more() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_twice(&from, &memory).await;
        let old = Bundle::open(memory.clone(), first.link)
            .await
            .expect("opens");
        let all = packs(&old).await;
        let report = rewritten(&old, all.clone(), &memory).await.expect("put");
        memory
            .blocks
            .lock()
            .unwrap()
            .retain(|id, _| !all.contains(id));
        let to = room.path().join("to");
        let extracted = extract(&memory, &report.link, &to, ExtractOptions::default()).await;
        assert!(extracted.expect("extracted").is_complete());
        assert_eq!(picture(&from), picture(&to));
        // A later put finds the content where it is now.
        let later = put_with(&from, &memory, keeping()).await.expect("put");
        assert_eq!(later.link, report.link);
    });
}

#[test]
fn a_block_that_is_missing_ends_it() {
    let room = tempfile::tempdir().expect("a directory");
    let from = room.path().join("from");
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let first = put_twice(&from, &memory).await;
        let old = Bundle::open(memory.clone(), first.link.clone()).await;
        let old = old.expect("opens");
        let all: Vec<BlockId> = old
            .all_blocks()
            .map(|id| id.expect("it reads"))
            .collect()
            .await;
        let left = HashSet::from([*packs(&old).await.iter().next().expect("one")]);
        for gone in all.into_iter().filter(|id| *id != first.link.id).step_by(3) {
            let block = memory.blocks.lock().unwrap().remove(&gone).expect("there");
            let old = Bundle::open(memory.clone(), first.link.clone()).await;
            let result = rewritten(&old.expect("opens"), left.clone(), &memory).await;
            assert!(
                matches!(result, Err(Error::Get(_))),
                "{result:?} without {gone}"
            );
            memory.blocks.lock().unwrap().insert(gone, block);
        }
    });
}
