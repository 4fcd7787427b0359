//! Checks head records, off the task that owns the network, and is the only one that writes them:
//! so every stored record is valid, and whatever is offered is added to what is here, as far as it
//! stays: see [`head`].
//!
//! One thread does one job after the other. Records that peers offer wait in a queue with a bound
//! in all and for each peer; a record that does not fit is dropped and counted: it is offered
//! again. Jobs of this node itself have places of their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::Error;
use super::stored::Value;
use super::subnet::Subnet;
use super::values::{NotStored, Values};
use crate::head::{self, HeadRecord, MAX_RECORD_BYTES};
use crate::id::BlockId;
use crate::time::Timestamp;

/// How long a head that nobody here keeps stays after it was put last.
pub const HEAD_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Most heads that this node keeps for good.
pub const MAX_KEPT_HEADS: usize = 1024;
/// The expiry of a record that is put again unchanged is written only when it moves by more than this.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Records of peers that wait to be checked: at most some 12 ms of work each.
pub(super) const MAX_OFFERED: usize = 256;
/// Records of one peer that wait to be checked.
pub(super) const MAX_OFFERED_BY_PEER: usize = 32;
/// Jobs of this node itself that wait.
pub(in crate::net) const MAX_OWN_JOBS: usize = 16;

/// What happened to records of others.
#[derive(Default)]
pub(in crate::net) struct Tally {
    pub(super) refused: AtomicU64,
    pub(super) dropped: AtomicU64,
    /// Counts how often what is kept has changed: which heads, or what one of them says.
    pub(super) changes: watch::Sender<u64>,
}

impl Tally {
    pub(super) fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }
}

/// What to do with a record of this node's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::net) enum How {
    /// Keep it for good.
    Keep,
    /// Have it until it expires, as one that was put by a peer.
    Pass,
}

/// What keeping or storing came to.
pub(in crate::net) struct Merged {
    /// The record together with what was here.
    pub(super) record: HeadRecord,
    /// Whether it was not kept before and now is.
    pub(super) newly_kept: bool,
    /// Why it is not stored, if it is not.
    pub(super) not_stored: Option<Error>,
}

/// What a search's answers come to.
#[derive(Default)]
pub(in crate::net) struct Verdict {
    /// Everything valid, with what is here if that was asked for.
    pub(super) record: Option<HeadRecord>,
    /// Records of peers that hold, by who gave them.
    pub(super) told: Vec<(PeerId, HeadRecord)>,
    /// Peers that lack something.
    pub(super) stale: Vec<PeerId>,
}

/// What this node asks for itself.
pub(in crate::net) enum Own {
    Local {
        id: BlockId,
        reply: oneshot::Sender<Option<HeadRecord>>,
    },
    Merge {
        record: HeadRecord,
        how: How,
        reply: oneshot::Sender<Result<Merged, Error>>,
    },
    Judge {
        id: BlockId,
        answers: Vec<(PeerId, Vec<u8>)>,
        /// Whether what is here counts, too.
        with_local: bool,
        reply: oneshot::Sender<Verdict>,
    },
    Kept {
        reply: oneshot::Sender<Vec<BlockId>>,
    },
    Release {
        id: BlockId,
        reply: oneshot::Sender<Result<bool, Error>>,
    },
}

enum Job {
    Offered {
        id: BlockId,
        bytes: Vec<u8>,
        whence: Whence,
        turn: Turn,
    },
    /// The permit stands for the place in the queue.
    Own(Own, OwnedSemaphorePermit),
}

/// Circumstances in which a peer put a record.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Whence {
    /// Where the peer is.
    pub(super) subnet: Subnet,
    /// Whether this node is among those near the key.
    pub(super) is_near: bool,
}

/// A place among the waiting records of peers; freed when dropped.
struct Turn {
    peer: PeerId,
    waiting: Arc<Mutex<HashMap<PeerId, usize>>>,
}

fn lock(waiting: &Mutex<HashMap<PeerId, usize>>) -> MutexGuard<'_, HashMap<PeerId, usize>> {
    waiting.lock().unwrap_or_else(|e| e.into_inner())
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        if let Some(count) = waiting.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&self.peer);
            }
        }
    }
}

/// The way to the thread, which ends when this is dropped.
pub(super) struct Inbox {
    jobs: SyncSender<Job>,
    waiting: Arc<Mutex<HashMap<PeerId, usize>>>,
    tally: Arc<Tally>,
}

impl Inbox {
    pub(super) fn start(
        values: Values,
        tally: Arc<Tally>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, receiver) = sync_channel(MAX_OFFERED + MAX_OWN_JOBS);
        let checker = Checker {
            values,
            tally: tally.clone(),
            kept: BTreeSet::new(),
        };
        let thread = std::thread::Builder::new()
            .name("dht-heads".to_owned())
            .spawn(move || checker.run(&receiver))?;
        let inbox = Self {
            jobs,
            waiting: Arc::default(),
            tally,
        };
        Ok((inbox, thread))
    }

    /// Takes what a peer put, to be checked later. Does no work.
    pub(super) fn offer(&self, peer: PeerId, whence: Whence, key: &[u8], bytes: Vec<u8>) {
        let Ok(id) = BlockId::from_multihash(key) else {
            return self.tally.refuse();
        };
        if bytes.len() > MAX_RECORD_BYTES {
            return self.tally.refuse();
        }
        let sent = self.turn(peer).is_some_and(|turn| {
            let job = Job::Offered {
                id,
                bytes,
                whence,
                turn,
            };
            self.jobs.try_send(job).is_ok()
        });
        if !sent {
            self.tally.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn turn(&self, peer: PeerId) -> Option<Turn> {
        let mut waiting = lock(&self.waiting);
        let of_peer = waiting.get(&peer).copied().unwrap_or(0);
        // At most MAX_OFFERED entries, so summing is cheap.
        if of_peer >= MAX_OFFERED_BY_PEER || waiting.values().sum::<usize>() >= MAX_OFFERED {
            return None;
        }
        waiting.insert(peer, of_peer + 1);
        Some(Turn {
            peer,
            waiting: self.waiting.clone(),
        })
    }

    /// A job of this node itself, with one of [`MAX_OWN_JOBS`] permits, so that there is a place for it. When the thread has ended
    /// the reply is dropped, which says enough.
    pub(super) fn own(&self, job: Own, permit: OwnedSemaphorePermit) {
        let _ = self.jobs.try_send(Job::Own(job, permit));
    }
}

struct Checker {
    values: Values,
    tally: Arc<Tally>,
    kept: BTreeSet<BlockId>,
}

impl Checker {
    fn run(mut self, jobs: &Receiver<Job>) {
        let kept = self.values.kept();
        let kept = kept
            .iter()
            .filter_map(|key| BlockId::from_multihash(key).ok());
        self.kept = kept.collect();
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Offered {
                    id,
                    bytes,
                    whence,
                    turn,
                } => {
                    if let Err(error) = self.offered(id, &bytes, turn.peer, whence) {
                        tracing::debug!(peer = %turn.peer, %error, "a head record was refused");
                        self.tally.refuse();
                    }
                }
                Job::Own(job, _permit) => self.own(job),
            }
        }
    }

    fn own(&mut self, job: Own) {
        // Who asked may have gone.
        match job {
            Own::Local { id, reply } => drop(reply.send(self.local(&id))),
            Own::Merge { record, how, reply } => drop(reply.send(self.merge(&record, how))),
            Own::Judge {
                id,
                answers,
                with_local,
                reply,
            } => drop(reply.send(self.judge(&id, &answers, with_local))),
            Own::Kept { reply } => drop(reply.send(self.kept.iter().copied().collect())),
            Own::Release { id, reply } => drop(reply.send(self.release(&id))),
        }
    }

    /// What is stored here was valid when it was stored.
    fn local(&self, id: &BlockId) -> Option<HeadRecord> {
        let value = self.values.get(&id.to_multihash())?;
        let record = HeadRecord::decode(&value.value).ok()?;
        (record.id() == *id).then_some(record)
    }

    /// Takes a record that a peer puts. A record that is here already may always be renewed.
    fn offered(
        &mut self,
        id: BlockId,
        bytes: &[u8],
        peer: PeerId,
        whence: Whence,
    ) -> Result<(), Error> {
        if self.refresh(&id, bytes) {
            return Ok(());
        }
        let record = HeadRecord::decode(bytes)?;
        let local = self.local(&id);
        record.validate_beyond(&id, local.as_ref())?;
        let now = self.values.now();
        let record = record.timely(now)?;
        let merged = match local {
            Some(local) => local.merge(&record, now)?,
            None if !whence.is_near => return Err(Error::Far),
            None => record,
        };
        self.store(&id, &merged, Some((peer, whence.subnet)))
    }

    /// The same bytes again need no signature checked. True when they are what is here.
    fn refresh(&self, id: &BlockId, bytes: &[u8]) -> bool {
        let key = id.to_multihash();
        let Some(value) = self.values.get(&key).filter(|value| value.value == bytes) else {
            return false;
        };
        let expires = self.values.now().after(HEAD_TTL);
        if let Some(known) = value.expires
            && expires.since(known) > REFRESH
        {
            let refreshed = Value {
                expires: Some(expires),
                ..value
            };
            // It comes again.
            let _ = self.values.put(&key, refreshed);
        }
        true
    }

    fn store(
        &self,
        id: &BlockId,
        record: &HeadRecord,
        from: Option<(PeerId, Subnet)>,
    ) -> Result<(), Error> {
        let kept = self.kept.contains(id);
        let bytes = record.encode();
        if self.refresh(id, &bytes) {
            return Ok(());
        }
        self.write(id, bytes, kept, from)
    }

    fn write(
        &self,
        id: &BlockId,
        value: Vec<u8>,
        kept: bool,
        from: Option<(PeerId, Subnet)>,
    ) -> Result<(), Error> {
        let value = Value {
            value,
            publisher: from.map(|(peer, _)| peer),
            expires: (!kept).then(|| self.values.now().after(HEAD_TTL)),
            subnet: from.map_or(Subnet::None, |(_, subnet)| subnet),
        };
        let put = self.values.put(&id.to_multihash(), value);
        if kept && put.is_ok() {
            self.tally.changes.send_modify(|count| *count += 1);
        }
        put.map_err(|why| match why {
            NotStored::Full => Error::Full,
            NotStored::Busy => Error::Busy,
        })
    }

    fn merge(&mut self, record: &HeadRecord, how: How) -> Result<Merged, Error> {
        let id = record.id();
        let local = self.local(&id);
        record.validate_beyond(&id, local.as_ref())?;
        let now = self.values.now();
        let record = record.clone().timely(now)?;
        let record = match local {
            Some(local) => local.merge(&record, now)?,
            None => record,
        };
        let newly_kept = how == How::Keep && !self.kept.contains(&id);
        let stored = if newly_kept {
            if self.kept.len() >= MAX_KEPT_HEADS {
                return Err(Error::Full);
            }
            self.write(&id, record.encode(), true, None)
        } else {
            self.store(&id, &record, None)
        };
        if newly_kept && stored.is_ok() {
            self.kept.insert(id);
        }
        Ok(Merged {
            record,
            newly_kept: newly_kept && stored.is_ok(),
            not_stored: stored.err(),
        })
    }

    /// Entries from the future count only when there are no others: then it may be the clock of
    /// this machine that is wrong.
    fn judge(&mut self, id: &BlockId, answers: &[(PeerId, Vec<u8>)], with_local: bool) -> Verdict {
        // Most peers have the same: each record is checked once.
        let mut checked: BTreeMap<&[u8], Option<HeadRecord>> = BTreeMap::new();
        let (now, local) = (self.values.now(), self.local(id));
        let (mut best, mut untimely) = (local.clone().filter(|_| with_local), None);
        for (peer, bytes) in answers {
            if checked.contains_key(bytes.as_slice()) {
                continue;
            }
            let known = best.as_ref().or(local.as_ref());
            let record = match check(id, bytes, known) {
                Ok(record) => Some(record),
                Err(error) => {
                    tracing::debug!(%peer, %error, "a peer answered with a head record that does not hold");
                    None
                }
            };
            if let Some(record) = &record {
                match record.clone().timely(now) {
                    Ok(timely) => best = joined(best, timely, now),
                    Err(_) => untimely = joined(untimely, record.clone(), now),
                }
            }
            checked.insert(bytes, record);
        }
        let mut verdict = Verdict::default();
        for (peer, bytes) in answers {
            match checked.get(bytes.as_slice()) {
                Some(Some(record)) => {
                    if best.as_ref().is_some_and(|best| !record.has_all_of(best)) {
                        verdict.stale.push(*peer);
                    }
                    verdict.told.push((*peer, record.clone()));
                }
                _ => self.tally.refuse(),
            }
        }
        if let (Some(local), Some(best)) = (local, &best)
            && let Ok(whole) = local.merge(best, now)
            && let Err(error) = self.store(id, &whole, None)
        {
            tracing::debug!(%error, "a newer head record was not stored");
        }
        verdict.record = best.or(untimely);
        verdict
    }

    fn release(&mut self, id: &BlockId) -> Result<bool, Error> {
        if !self.kept.contains(id) {
            return Ok(false);
        }
        if let Some(record) = self.local(id) {
            self.write(id, record.encode(), false, None)?;
        }
        self.kept.remove(id);
        Ok(true)
    }
}

fn check(
    id: &BlockId,
    bytes: &[u8],
    valid: Option<&HeadRecord>,
) -> Result<HeadRecord, head::Error> {
    let record = HeadRecord::decode(bytes)?;
    record.validate_beyond(id, valid)?;
    Ok(record)
}

/// Two records of one owner as one.
fn joined(known: Option<HeadRecord>, more: HeadRecord, now: Timestamp) -> Option<HeadRecord> {
    match known {
        // The owner is the same, because the name is.
        Some(known) => known.merge(&more, now).ok(),
        None => Some(more),
    }
}

#[cfg(test)]
#[path = "inbox_tests.rs"]
mod tests;
