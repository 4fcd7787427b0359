//! Missing blocks, full disks, cancelled work, and going on afterwards.

use std::fs;
use std::sync::Arc;

use async_trait::async_trait;
use futures::TryStreamExt;
use tokio_util::sync::CancellationToken;

use super::super::{Bundle, Error, ExtractOptions, Overwrite, PutOptions};
use super::{Memory, extract, noise, picture, put, runtime};
use crate::block::{Block, BlockSource, GetError, PutError};
use crate::id::BlockId;
use crate::monitor::{Monitor, Progress, Silent};

/// Two large files, a few small ones.
fn make(root: &std::path::Path) {
    fs::create_dir_all(root.join("sub")).expect("made");
    fs::write(root.join("large1"), noise(9 << 18, 1)).expect("written");
    fs::write(root.join("large2"), noise(9 << 18, 2)).expect("written");
    for at in 0..10u8 {
        fs::write(root.join(format!("sub/{at}")), [at; 100]).expect("written");
    }
}

#[test]
fn files_that_lack_a_block_are_left_out_and_come_later() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&from, &memory).await.expect("put");
        let bundle = Bundle::open(memory.clone(), report.link.clone())
            .await
            .expect("opens");
        let large = bundle
            .lookup(b"large2")
            .await
            .expect("reads")
            .expect("there");
        let blocks: Vec<BlockId> = bundle
            .file_blocks(&large)
            .try_collect()
            .await
            .expect("reads");
        let lost = memory
            .blocks
            .lock()
            .unwrap()
            .remove(&blocks[1])
            .expect("stored");
        let done = extract(&memory, &report.link, &to, ExtractOptions::default())
            .await
            .expect("the rest is written");
        assert!(!done.is_complete());
        assert_eq!(done.missing_total, 1);
        assert_eq!(done.missing[0].path, std::path::Path::new("large2"));
        assert_eq!(done.missing[0].block, blocks[1]);
        assert_eq!(done.files, 11);
        assert!(!to.join("large2").exists() && to.join("large1").exists());
        assert!(to.join("sub/9").exists());
        memory.blocks.lock().unwrap().insert(blocks[1], lost);
        let options = ExtractOptions {
            overwrite: Overwrite::Changed,
            ..ExtractOptions::default()
        };
        let done = extract(&memory, &report.link, &to, options)
            .await
            .expect("extracted");
        assert!(done.is_complete());
        assert_eq!((done.files, done.unchanged), (12, 11));
        assert_eq!(picture(&from), picture(&to));
    });
}

/// Gives a number of blocks and then says that the node stops.
struct Stops(Arc<Memory>, std::sync::atomic::AtomicI64);

#[async_trait]
impl BlockSource for Stops {
    async fn get(&self, id: BlockId) -> Result<Block, GetError> {
        if self.1.fetch_sub(1, std::sync::atomic::Ordering::Relaxed) <= 0 {
            return Err(GetError::Stopping);
        }
        self.0.get(id).await
    }
}

#[test]
fn an_interrupted_extraction_leaves_nothing_half_named_and_goes_on() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let report = put(&from, &memory).await.expect("put");
        for blocks in 1..4 {
            let source = Stops(memory.clone(), blocks.into());
            let bundle = Bundle::open(Arc::new(source), report.link.clone())
                .await
                .expect("opens");
            let options = ExtractOptions {
                window: 1,
                ..ExtractOptions::default()
            };
            let stopped = super::super::extract(
                &bundle,
                &to,
                options,
                Arc::new(Silent),
                CancellationToken::new(),
            )
            .await;
            assert!(matches!(stopped, Err(Error::Get(GetError::Stopping))));
            assert!(!to.exists());
        }
        let hidden = format!(".to.libernet-{}", &report.link.id.to_hex()[..8]);
        assert!(room.path().join(&hidden).is_dir());
        // A second one at the same time is told so.
        let held = fs::File::open(room.path().join(&hidden)).expect("opens");
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("locks");
        let busy = extract(&memory, &report.link, &to, ExtractOptions::default()).await;
        assert!(matches!(busy, Err(Error::Busy { .. })));
        drop(held);
        // What an earlier one finished is kept; what it began is not taken for finished.
        fs::write(room.path().join(&hidden).join("large1"), b"begun").expect("written");
        let done = extract(&memory, &report.link, &to, ExtractOptions::default())
            .await
            .expect("extracted");
        assert!(done.is_complete());
        assert_eq!(picture(&from), picture(&to));
        assert!(!room.path().join(&hidden).exists());
        let again = extract(&memory, &report.link, &to, ExtractOptions::default()).await;
        assert!(matches!(again, Err(Error::TargetExists { path }) if path == to));
    });
}

#[test]
fn a_full_sink_ends_a_put_and_the_next_one_goes_on() {
    let room = tempfile::tempdir().expect("a directory");
    make(room.path());
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        for limit in 0..4 {
            *memory.limit.lock().unwrap() = Some(limit);
            let full = put(room.path(), &memory).await;
            assert!(matches!(full, Err(Error::Put(PutError::DiskFull))));
            assert_eq!(memory.len(), limit);
        }
        *memory.limit.lock().unwrap() = None;
        let stored = memory.len() as u64;
        let report = put(room.path(), &memory).await.expect("put");
        assert_eq!(report.new_blocks, report.blocks - stored);
    });
}

/// Cancels as soon as something is done.
struct Impatient(CancellationToken);

impl Monitor for Impatient {
    fn progress(&self, _: Progress) {
        self.0.cancel();
    }
    fn warning(&self, _: &str) {}
}

#[test]
fn cancelled_work_says_so() {
    let room = tempfile::tempdir().expect("a directory");
    let (from, to) = (room.path().join("from"), room.path().join("to"));
    make(&from);
    runtime().block_on(async {
        let memory = Arc::new(Memory::default());
        let cancel = CancellationToken::new();
        let result = super::super::put(
            &from,
            PutOptions::default(),
            memory.clone(),
            memory.clone(),
            Arc::new(Impatient(cancel.clone())),
            cancel,
        )
        .await;
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        let report = put(&from, &memory).await.expect("put");
        let bundle = Bundle::open(memory.clone(), report.link.clone())
            .await
            .expect("opens");
        let cancel = CancellationToken::new();
        cancel.cancel();
        let options = ExtractOptions::default();
        let result = super::super::extract(&bundle, &to, options, Arc::new(Silent), cancel).await;
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert!(!to.exists());
        // A stream that never ends does not keep a failed put waiting.
        *memory.limit.lock().unwrap() = Some(memory.len());
        let (mut feed, endless) = tokio::io::duplex(1 << 20);
        let feeding = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let _ = feed.write_all(&noise(8 << 20, 9)).await;
            std::future::pending::<()>().await;
        });
        let result = super::super::put_reader(
            b"endless",
            endless,
            PutOptions::default(),
            memory.clone(),
            memory.clone(),
            Arc::new(Silent),
            CancellationToken::new(),
        )
        .await;
        assert!(matches!(result, Err(Error::Put(PutError::DiskFull))));
        feeding.abort();
    });
}
