//! View of a net: head records in the DHT.
//!
//! A record lies with the peers nearest to its key, which anybody may offer one: so each checks all signatures and merges what it is
//! offered with what it has. What peers answer to a search is checked too; peers that lie cost time, not truth.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::inbox::{How, Merged, Own, Tally, Verdict};
use super::{Command, Error};
use crate::head::HeadRecord;
use crate::id::BlockId;
use crate::net::mailbox::Mailbox;

/// How long a search may take.
pub const FIND_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for which a caller in a hurry waits for further answers once one holds.
pub const GRACE: Duration = Duration::from_secs(1);
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

/// Head that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FoundHead {
    /// All that holds, together.
    pub record: Option<HeadRecord>,
    /// Peers that told a record that holds, each with its record.
    pub told: Vec<(PeerId, HeadRecord)>,
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
        Ok(self.search(id, FIND_TIMEOUT, true).await?.record)
    }

    /// As [`find_soon`](Self::find_soon), without what is here: what somebody else would find who
    /// is connected as this node is.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find_elsewhere(&self, id: BlockId) -> Result<FoundHead, Error> {
        self.search(id, GRACE, false).await
    }

    /// As [`find`](Self::find), for somebody who waits: once an answer holds, further ones have
    /// [`GRACE`] to come. A search goes on until every peer near the key has answered or can't be
    /// reached, and the machine that is gone is often one of them.
    ///
    /// # Errors
    /// [`Error::Stopping`]. Finding nothing is no error.
    pub async fn find_soon(&self, id: BlockId) -> Result<FoundHead, Error> {
        self.search(id, GRACE, true).await
    }

    async fn search(
        &self,
        id: BlockId,
        grace: Duration,
        with_local: bool,
    ) -> Result<FoundHead, Error> {
        let key = id.to_multihash();
        let answers = {
            let _search = self.searches.acquire().await.map_err(|_| Error::Stopping)?;
            let (found, answers) = mpsc::channel(MAX_ANSWERS);
            let (_alive, dropped) = oneshot::channel();
            self.send(Command::GetValue {
                key: key.clone(),
                found,
                dropped,
            })
            .await?;
            collect(answers, id, grace).await
        };
        let judge = |reply| Own::Judge {
            id,
            answers,
            with_local,
            reply,
        };
        let Verdict {
            record,
            told,
            stale,
        } = self.ask(judge).await?;
        if let Some(record) = &record
            && !stale.is_empty()
        {
            let mut peers = stale;
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
        Ok(FoundHead { record, told })
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

/// The answers of a search: until it ends, or [`FIND_TIMEOUT`], or `grace` after the first answer
/// that holds. One that does not hold ends no wait: peers that lie must not be faster than the
/// truth.
async fn collect(
    mut answers: mpsc::Receiver<(PeerId, Vec<u8>)>,
    id: BlockId,
    grace: Duration,
) -> Vec<(PeerId, Vec<u8>)> {
    let mut until = Instant::now() + FIND_TIMEOUT;
    let mut all = Vec::new();
    // Answers that came in time count.
    while let Ok(Some((peer, answer))) = timeout_at(until, answers.recv()).await {
        if grace < FIND_TIMEOUT && holds(&answer, &id) {
            until = until.min(Instant::now() + grace);
        }
        all.push((peer, answer));
        if all.len() >= MAX_ANSWERS {
            break;
        }
    }
    all
}

fn holds(answer: &[u8], id: &BlockId) -> bool {
    HeadRecord::decode(answer).is_ok_and(|record| record.validate(id).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Link;
    use crate::crypto::key::Key;
    use crate::head::{HeadEntry, certify};
    use ed25519_dalek::SigningKey;

    fn record() -> HeadRecord {
        let (owner, machine) = (
            SigningKey::from_bytes(&[1; 32]),
            SigningKey::from_bytes(&[2; 32]),
        );
        let certificate = certify(&owner, &machine.verifying_key().to_bytes());
        let log = Link {
            id: BlockId::from_sha384([3; 48]),
            key: Key::new([4; 32]),
        };
        let owner = owner.verifying_key().to_bytes();
        let entry = HeadEntry::sign(&owner, &machine, &certificate, 1, 0, &log, &[5; 32]);
        HeadRecord::new(entry)
    }

    /// Number of answers that a search gives after `answers`, each with the seconds at which it
    /// comes, when it never ends by itself; and how long it took.
    async fn wait_for(answers: Vec<(u64, Vec<u8>)>, grace: Duration) -> (usize, Duration) {
        let (sender, receiver) = mpsc::channel(MAX_ANSWERS);
        let id = record().id();
        let began = Instant::now();
        let told = tokio::spawn(async move {
            for (at, answer) in answers {
                tokio::time::sleep_until(began + Duration::from_secs(at)).await;
                let _ = sender.send((PeerId::random(), answer)).await;
            }
            // A peer that is gone is dialled for ever.
            std::future::pending::<()>().await;
        });
        let all = collect(receiver, id, grace).await;
        told.abort();
        (all.len(), began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_gone_is_not_waited_for_once_another_has_answered() {
        let (good, second) = (record().encode(), Duration::from_secs(1));
        let answers = vec![(2, good.clone()), (2, good.clone()), (9, good.clone())];
        let (count, took) = wait_for(answers.clone(), GRACE).await;
        assert_eq!((count, took), (2, 3 * second));
        let (count, took) = wait_for(answers, FIND_TIMEOUT).await;
        assert_eq!((count, took), (3, FIND_TIMEOUT), "who has time hears all");
        // A lie is no answer: what is true may come later.
        let answers = vec![(0, b"nonsense".to_vec()), (7, good)];
        let (count, took) = wait_for(answers, GRACE).await;
        assert_eq!((count, took), (2, 8 * second));
        let (count, took) = wait_for(Vec::new(), GRACE).await;
        assert_eq!((count, took), (0, FIND_TIMEOUT));
    }
}
