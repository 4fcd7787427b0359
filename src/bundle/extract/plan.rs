//! The planner: walks what is wanted of a bundle, has everything made that needs no blocks, and hands out what does.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::BATCH_ENTRIES;
use super::job::Job;
use super::prepare::{BlockJob, Preparer, Step};
use super::write::{Again, Target};
use crate::bundle::choose::{Choice, LAST_RANK, Picked, Picker};
use crate::bundle::cursor::ExtentCursor;
use crate::bundle::error::Error;
use crate::bundle::read::Bundle;
use crate::bundle::tree::{Content, Directory, Entry, Extent, File};

/// Goes through the bundle.
pub(super) struct Planner<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) job: &'a Arc<Job>,
    pub(super) out: mpsc::Sender<Vec<BlockJob>>,
}

impl Planner<'_> {
    pub(super) async fn tree(
        &self,
        mut preparer: Preparer,
        choice: &mut Choice,
    ) -> Result<Preparer, Error> {
        let ranks = choice.ranks(self.bundle).await?;
        if ranks.len() > 1 {
            preparer.expect_again();
        }
        for rank in &ranks {
            let only = (ranks.len() > 1).then_some(*rank);
            preparer = self.rank(preparer, choice, only).await?;
        }
        Ok(preparer)
    }

    /// Everything of one rank, or everything at once.
    async fn rank(
        &self,
        mut preparer: Preparer,
        choice: &Choice,
        only: Option<usize>,
    ) -> Result<Preparer, Error> {
        let is_last = only.is_none_or(|rank| rank == LAST_RANK);
        if is_last {
            preparer.expect_no_more();
        }
        let mut picker = Picker::new(self.bundle, choice, only);
        let mut steps = Vec::new();
        while let Some(picked) = picker.next().await {
            let Picked { depth, entry } = match picked {
                Ok(picked) => picked,
                Err((path, error)) => {
                    // Each time through the tree it is missing again.
                    if is_last || error.block().is_none() {
                        self.lack(&path, error)?;
                    }
                    continue;
                }
            };
            self.check_totals(picker.seen_entries, picker.seen_bytes)?;
            let ends_batch = steps.len() + 1 >= BATCH_ENTRIES || has_lists(&entry);
            steps.push(Step { depth, entry });
            if ends_batch {
                preparer = self.prepare(preparer, std::mem::take(&mut steps)).await?;
            }
        }
        self.check_totals(picker.seen_entries, picker.seen_bytes)?;
        preparer = self.prepare(preparer, steps).await?;
        self.finish(preparer).await
    }

    /// A tree block can't be had: what is in it is missing.
    fn lack(&self, path: &[u8], error: Error) -> Result<(), Error> {
        use std::os::unix::ffi::OsStrExt;
        match error.block() {
            Some(block) => {
                let path = PathBuf::from(std::ffi::OsStr::from_bytes(path));
                self.job.missing(path, block, &error.to_string());
                Ok(())
            }
            None => Err(error),
        }
    }

    /// A tree can name one block again and again and so hold more than any disk: it must say so
    /// beforehand, and stay within the bounds.
    fn check_totals(&self, entries: u64, bytes: u128) -> Result<(), Error> {
        let tree_bytes = self.bundle.opener().opened_bytes();
        let most = u64::try_from(bytes).unwrap_or(u64::MAX);
        let bounds = &self.job.options.bounds;
        bounds
            .check_entries(entries, most, tree_bytes)
            .map_err(Error::Excess)?;
        let totals = self.bundle.root().totals;
        if entries > totals.entries || bytes > u128::from(totals.bytes) {
            return Err(Error::Malformed {
                block: self.bundle.link().id,
                what: "it holds more than it says",
            });
        }
        Ok(())
    }

    async fn prepare(&self, preparer: Preparer, steps: Vec<Step>) -> Result<Preparer, Error> {
        let mut preparer = preparer;
        let prepare = move || {
            let open_end = preparer.prepare(steps);
            (preparer, open_end)
        };
        let (preparer, open_end) = self.job.work(prepare).await?;
        match open_end {
            Some((target, file)) => self.stretches(preparer, target, file).await,
            None => self.hand_out(preparer).await,
        }
    }

    /// Plans a file whose extents are listed in blocks of their own.
    pub(super) async fn stretches(
        &self,
        mut preparer: Preparer,
        target: Arc<Target>,
        file: File,
    ) -> Result<Preparer, Error> {
        let opener = self.bundle.opener().clone();
        let mut cursor = ExtentCursor::new(opener, file.extents, 0..file.size);
        while let Some(step) = cursor.next().await {
            match step {
                Ok((at, stretch)) => preparer.stretch(&target, at, stretch),
                Err(error) => {
                    let Some(block) = error.block() else {
                        return Err(error);
                    };
                    let reason = error.to_string();
                    let target = target.clone();
                    target.add_piece();
                    self.job.work(move || target.lack(block, &reason)).await?;
                }
            }
            preparer = self.hand_out(preparer).await?;
        }
        self.job.work(move || target.end_plan()).await?;
        Ok(preparer)
    }

    /// Plans files that turned out to differ from what they should be.
    pub(super) async fn again(
        &self,
        mut preparer: Preparer,
        again: Vec<Again>,
    ) -> Result<Preparer, Error> {
        for file in again {
            let rewrite = move || {
                let open_end = preparer.rewrite(file);
                (preparer, open_end)
            };
            let (planned, open_end) = self.job.work(rewrite).await?;
            preparer = match open_end {
                Some((target, file)) => self.stretches(planned, target, file).await?,
                None => self.hand_out(planned).await?,
            };
        }
        Ok(preparer)
    }

    async fn hand_out(&self, mut preparer: Preparer) -> Result<Preparer, Error> {
        if preparer.plan.is_full() {
            self.send(preparer.plan.take_most()).await?;
        }
        Ok(preparer)
    }

    pub(super) async fn finish(&self, mut preparer: Preparer) -> Result<Preparer, Error> {
        self.send(preparer.plan.take_all()).await?;
        Ok(preparer)
    }

    async fn send(&self, jobs: Vec<BlockJob>) -> Result<(), Error> {
        self.out.send(jobs).await.map_err(|_| Error::Cancelled)
    }
}

fn has_lists(entry: &Entry) -> bool {
    match &entry.content {
        Content::File(file) => file
            .extents
            .iter()
            .any(|extent| matches!(extent, Extent::List { .. })),
        Content::Directory(Directory::Inline(_) | Directory::Block(_))
        | Content::Symlink(_)
        | Content::Fifo
        | Content::Device(_) => false,
    }
}
