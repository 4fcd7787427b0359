//! View of a net: head records that are here, and what others tell of them.
//!
//! Peers that lie cost time, not truth: the thread of the [`inbox`](super::inbox) checks all
//! signatures and merges what is told with what is here.
//!
//! Deliberately absent: who is asked, and who is told.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use tokio::sync::{Semaphore, oneshot, watch};

use super::inbox::{How, Merged, Own, Tally, Verdict};
use super::{Command, Error};
use crate::head::HeadRecord;
use crate::id::BlockId;
use crate::net::mailbox::Mailbox;

/// Records that were not used, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Records, told or answered, that did not hold or for which there was no room.
    pub refused: u64,
}

/// View of a net: head records that are here. Cheap to clone.
#[derive(Clone)]
pub struct Heads {
    pub(in crate::net) mailbox: Mailbox<Command>,
    /// Bounds the jobs that wait for the thread that checks.
    pub(in crate::net) turns: Arc<Semaphore>,
    pub(in crate::net) tally: Arc<Tally>,
}

impl Heads {
    /// Weighs what peers told of a head, each its record: what does not hold is left out and
    /// counted. With `with_local` what is here counts, too. What is here is brought up to date.
    ///
    /// # Errors
    /// [`Error::Stopping`].
    pub async fn judge(
        &self,
        id: BlockId,
        answers: Vec<(PeerId, Vec<u8>)>,
        with_local: bool,
    ) -> Result<Verdict, Error> {
        let judge = |reply| Own::Judge {
            id,
            answers,
            with_local,
            reply,
        };
        self.ask(judge).await
    }

    /// Has a record here for [`HEAD_TTL`](super::HEAD_TTL), merged with what is here of the same
    /// owner; gives back the whole.
    ///
    /// # Errors
    /// [`Error::Head`] when the record does not hold; [`Error::Stopping`].
    pub async fn pass(&self, record: HeadRecord) -> Result<HeadRecord, Error> {
        let merged = self.merge(record, How::Pass).await?;
        if let Some(error) = &merged.not_stored {
            tracing::debug!(%error, "a head of our own was not stored here");
        }
        Ok(merged.record)
    }

    /// The record of an owner that is here: kept, or passing by.
    ///
    /// # Errors
    /// [`Error::Stopping`].
    pub async fn local(&self, id: BlockId) -> Result<Option<HeadRecord>, Error> {
        self.ask(|reply| Own::Local { id, reply }).await
    }

    /// Keeps an owner's record for good, merged with what is here; gives back the whole. It does not expire and is there after a
    /// restart, until [`release`](Self::release). What others put later is merged into it.
    ///
    /// # Errors
    /// [`Error::Head`] when the record does not hold, [`Error::Full`] when there are
    /// [`MAX_KEPT_HEADS`](super::MAX_KEPT_HEADS), [`Error::Busy`], [`Error::Stopping`].
    pub async fn keep(&self, record: HeadRecord) -> Result<HeadRecord, Error> {
        let merged = self.merge(record, How::Keep).await?;
        if let Some(error) = merged.not_stored {
            return Err(error);
        }
        if merged.newly_kept {
            self.tally.changes.send_modify(|count| *count += 1);
        }
        Ok(merged.record)
    }

    /// The owners' records that are kept, sorted; [`local`](Self::local) gives each.
    ///
    /// # Errors
    /// [`Error::Stopping`].
    pub async fn kept(&self) -> Result<Vec<BlockId>, Error> {
        self.ask(|reply| Own::Kept { reply }).await
    }

    /// Keeps a record no more: from now on it expires as those do that pass by. Returns whether it was kept.
    ///
    /// # Errors
    /// [`Error::Busy`], [`Error::Stopping`].
    pub async fn release(&self, id: BlockId) -> Result<bool, Error> {
        let released = self.ask(|reply| Own::Release { id, reply }).await??;
        if released {
            self.tally.changes.send_modify(|count| *count += 1);
        }
        Ok(released)
    }

    /// Changes whenever another record is kept, or one no more, or when one that is kept says something new.
    pub fn watch_kept(&self) -> watch::Receiver<u64> {
        self.tally.changes.subscribe()
    }

    /// What was not used of what peers sent.
    pub fn stats(&self) -> HeadStats {
        HeadStats {
            refused: self.tally.refused.load(Ordering::Relaxed),
        }
    }

    async fn merge(&self, record: HeadRecord, how: How) -> Result<Merged, Error> {
        self.ask(|reply| Own::Merge { record, how, reply }).await?
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Own) -> Result<T, Error> {
        let turn = self.turns.clone().acquire_owned().await;
        let turn = turn.map_err(|_| Error::Stopping)?;
        let (reply, answer) = oneshot::channel();
        self.send(Command::Own(job(reply), turn)).await?;
        answer.await.map_err(|_| Error::Stopping)
    }

    async fn send(&self, command: Command) -> Result<(), Error> {
        self.mailbox
            .send(command)
            .await
            .map_err(|_| Error::Stopping)
    }
}
