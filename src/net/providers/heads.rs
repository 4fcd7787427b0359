//! View of a net: head records in the DHT.
//!
//! A record lies with the peers nearest to its key, which anybody may offer one: so each checks all signatures and merges what it is
//! offered with what it has. What peers answer to a search is checked too; peers that lie cost time, not truth.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::inbox::{How, Merged, Own, Tally};
use super::{Command, Error};
use crate::head::HeadRecord;
use crate::id::BlockId;
use crate::net::switchboard::Mailbox;

/// How long a search may take.
pub const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// Answers that one search looks at.
const MAX_ANSWERS: usize = 64;
/// Peers with an older record that one search brings up to date.
const MAX_UPDATED: usize = 20;

/// What publishing came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PublishReport {
    /// Peers that took the record. They say so before they have checked it, so it is no promise.
    pub stored_by: usize,
    /// Peers that were asked to: those nearest to the key.
    pub asked: usize,
}

/// What was not used of what peers sent, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HeadStats {
    /// Records, offered or answered, that did not hold or for which there was no room.
    pub refused: u64,
    /// Records offered that were not looked at: too many were waiting.
    pub dropped: u64,
}

/// View of a net: head records in the DHT. Cheap to clone.
#[derive(Clone)]
pub struct Heads {
    pub(in crate::net) mailbox: Mailbox<Command>,
    pub(in crate::net) searches: Arc<Semaphore>,
    /// Bounds the jobs that wait for the thread that checks.
    pub(in crate::net) turns: Arc<Semaphore>,
    pub(in crate::net) tally: Arc<Tally>,
}

impl Heads {
    /// Stores a record here and with the peers nearest to its key, together with what is known here of the same owner. Without any
    /// other peer it is stored here only. It stays for [`HEAD_TTL`](super::HEAD_TTL): publish again well before.
    ///
    /// # Errors
    /// [`Error::Head`] when the record does not hold; [`Error::Stopping`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the record with some peers and not with others.
    pub async fn publish(&self, record: HeadRecord) -> Result<PublishReport, Error> {
        let merged = self.merge(record, How::Pass).await?;
        if let Some(error) = &merged.not_stored {
            tracing::debug!(%error, "a head of our own was not stored here");
        }
        let key = merged.record.id().to_multihash();
        let _search = self.searches.acquire().await.map_err(|_| Error::Stopping)?;
        let (reply, peers) = oneshot::channel();
        self.send(Command::Lookup {
            key: key.clone(),
            reply,
        })
        .await?;
        let peers = peers.await.map_err(|_| Error::Stopping)?;
        if peers.is_empty() {
            return Ok(PublishReport::default());
        }
        let asked = peers.len();
        let (reply, stored) = oneshot::channel();
        self.send(Command::PutValue {
            key,
            value: merged.record.encode(),
            peers,
            reply,
        })
        .await?;
        Ok(PublishReport {
            stored_by: stored.await.map_err(|_| Error::Stopping)?,
            asked,
        })
    }

    /// Searches for an owner's record: what all peers asked have, and what is here, merged. Answers that do not hold are left out
    /// and counted. Peers that have something older are told the newer in the background; so is the store here, if it had one.
    /// Takes at most [`FIND_TIMEOUT`] and the wait for a turn.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find(&self, id: BlockId) -> Result<Option<HeadRecord>, Error> {
        let key = id.to_multihash();
        let answers = {
            let _search = self.searches.acquire().await.map_err(|_| Error::Stopping)?;
            let (found, mut answers) = mpsc::channel(MAX_ANSWERS);
            let (_alive, dropped) = oneshot::channel();
            self.send(Command::GetValue {
                key: key.clone(),
                found,
                dropped,
            })
            .await?;
            let mut all: Vec<(PeerId, Vec<u8>)> = Vec::new();
            let collect = async {
                while let Some(answer) = answers.recv().await {
                    all.push(answer);
                    if all.len() >= MAX_ANSWERS {
                        break;
                    }
                }
            };
            // What came in time counts.
            let _ = timeout(FIND_TIMEOUT, collect).await;
            all
        };
        let verdict = self.ask(|reply| Own::Judge { id, answers, reply }).await?;
        if let Some(record) = &verdict.record
            && !verdict.stale.is_empty()
        {
            let mut peers = verdict.stale;
            peers.truncate(MAX_UPDATED);
            // Nobody waits for the outcome.
            let (reply, _) = oneshot::channel();
            self.send(Command::PutValue {
                key,
                value: record.encode(),
                peers,
                reply,
            })
            .await?;
        }
        Ok(verdict.record)
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
            dropped: self.tally.dropped.load(Ordering::Relaxed),
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
