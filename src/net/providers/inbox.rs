//! Checks head records, off the task that owns the network, and is the only one that writes them:
//! so every stored record is valid, and whatever is told is added to what is here, as far as it
//! stays: see [`head`].
//!
//! One thread does one job after the other. It answers peers that ask for a head, or tell one: what
//! a question is about shows only to who keeps that head, see [`Acquaintance`]. Questions have a
//! place each, as many as are handed out at the same time; jobs of this node itself have places of
//! their own.
//!
//! Deliberately absent: a place for heads that nobody here keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use libp2p::PeerId;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::Error;
use super::stored::Value;
use super::values::{Busy, Values};
use crate::head::{self, Acquaintance, Direction, HeadRecord};
use crate::id::BlockId;
use crate::time::Timestamp;

/// How long a head that nobody here keeps stays after this node itself put it last.
pub const HEAD_TTL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Most heads that this node keeps for good.
pub const MAX_KEPT_HEADS: usize = 1024;
/// The expiry of a record that is put again unchanged is written only when it moves by more than this.
const REFRESH: Duration = Duration::from_secs(24 * 60 * 60);
/// Questions of peers that wait to be answered: at most some 12 ms of work each.
pub(super) const MAX_ASKED: usize = 16;
/// Jobs of this node itself that wait.
pub(in crate::net) const MAX_OWN_JOBS: usize = 16;

/// What happened to records of others.
#[derive(Default)]
pub(in crate::net) struct Tally {
    pub(super) refused: AtomicU64,
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

/// What peers told of a head comes to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Everything valid, with what is here if that was asked for.
    pub record: Option<HeadRecord>,
    /// Records of peers that hold, by who gave them.
    pub told: Vec<(PeerId, HeadRecord)>,
    /// Peers that lack something.
    pub stale: Vec<PeerId>,
}

/// Question of a peer about a head.
pub(in crate::net) struct Asked {
    pub(in crate::net) peer: PeerId,
    pub(in crate::net) nonce: [u8; 32],
    pub(in crate::net) proof: [u8; 32],
    /// The head as the peer knows it, if it tells one.
    pub(in crate::net) told: Option<Bytes>,
    pub(in crate::net) reply: Box<dyn FnOnce(Told) + Send>,
}

/// Answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::net) enum Told {
    /// The head, sealed.
    Head(Vec<u8>),
    /// What the peer told was taken in.
    Taken,
    /// What the peer told does not hold.
    Invalid,
    /// The head is not kept here, or there is none of which the proof holds.
    Unknown,
}

/// The way of questions to the thread.
#[derive(Clone)]
pub(in crate::net) struct Door(SyncSender<Job>);

impl Door {
    /// Hands a question over. False when the thread has ended, or too many wait.
    pub(in crate::net) fn ask(&self, asked: Asked) -> bool {
        self.0.try_send(Job::Asked(asked)).is_ok()
    }
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
    Asked(Asked),
    /// The permit stands for the place in the queue.
    Own(Own, OwnedSemaphorePermit),
}

/// The way to the thread, which ends when this and all doors are dropped.
pub(super) struct Inbox {
    jobs: SyncSender<Job>,
}

impl Inbox {
    pub(super) fn start(
        local: PeerId,
        values: Values,
        tally: Arc<Tally>,
    ) -> std::io::Result<(Self, JoinHandle<()>)> {
        let (jobs, receiver) = sync_channel(MAX_ASKED + MAX_OWN_JOBS);
        let checker = Checker {
            local,
            values,
            tally,
            kept: BTreeSet::new(),
            known: BTreeMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("dht-heads".to_owned())
            .spawn(move || checker.run(&receiver))?;
        Ok((Self { jobs }, thread))
    }

    /// The way of peers' questions.
    pub(super) fn door(&self) -> Door {
        Door(self.jobs.clone())
    }

    /// A job of this node itself, with one of [`MAX_OWN_JOBS`] permits, so that there is a place for it. When the thread has ended
    /// the reply is dropped, which says enough.
    pub(super) fn own(&self, job: Own, permit: OwnedSemaphorePermit) {
        let _ = self.jobs.try_send(Job::Own(job, permit));
    }
}

struct Checker {
    local: PeerId,
    values: Values,
    tally: Arc<Tally>,
    kept: BTreeSet<BlockId>,
    /// Heads that are here, kept or passing by: whose questions are answered.
    known: BTreeMap<BlockId, Acquaintance>,
}

impl Checker {
    fn run(mut self, jobs: &Receiver<Job>) {
        let kept = self.values.kept();
        let kept = kept
            .iter()
            .filter_map(|key| BlockId::from_multihash(key).ok());
        self.kept = kept.collect();
        let known = self.kept.iter().map(|id| (*id, Acquaintance::new(id)));
        self.known = known.collect();
        while let Ok(job) = jobs.recv() {
            match job {
                Job::Asked(asked) => self.asked(asked),
                Job::Own(job, _permit) => self.own(job),
            }
        }
    }

    fn asked(&mut self, asked: Asked) {
        let Asked {
            peer,
            nonce,
            proof,
            told,
            reply,
        } = asked;
        let (asker, local) = (peer.to_bytes(), self.local.to_bytes());
        let meant = self
            .known
            .iter()
            .find(|(_, one)| one.proof(&nonce, &asker, &local) == proof);
        let Some((id, acquaintance)) = meant.map(|(id, one)| (*id, one.clone())) else {
            return reply(Told::Unknown);
        };
        let Some(told) = told else {
            let Some(record) = self.local(&id) else {
                self.known.remove(&id);
                return reply(Told::Unknown);
            };
            let head = acquaintance.seal(&proof, Direction::Answer, &record.encode());
            return reply(Told::Head(head));
        };
        let opened = acquaintance.open(&proof, Direction::Question, &told);
        reply(match opened.map(|bytes| self.told(id, &bytes)) {
            Some(Ok(())) => Told::Taken,
            refused => {
                tracing::debug!(%peer, ?refused, "a head record was refused");
                self.tally.refuse();
                Told::Invalid
            }
        });
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

    /// Takes in what a peer tells of a head that is here.
    fn told(&mut self, id: BlockId, bytes: &[u8]) -> Result<(), Error> {
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
            None => record,
        };
        self.store(&id, &merged)
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
            let _ = self.values.put(&key, &refreshed);
        }
        true
    }

    fn store(&mut self, id: &BlockId, record: &HeadRecord) -> Result<(), Error> {
        let kept = self.kept.contains(id);
        let bytes = record.encode();
        if self.refresh(id, &bytes) {
            return Ok(());
        }
        self.write(id, bytes, kept)
    }

    fn write(&mut self, id: &BlockId, value: Vec<u8>, kept: bool) -> Result<(), Error> {
        let value = Value {
            value,
            expires: (!kept).then(|| self.values.now().after(HEAD_TTL)),
        };
        let put = self.values.put(&id.to_multihash(), &value);
        if put.is_ok() {
            let acquaintance = || Acquaintance::new(id);
            self.known.entry(*id).or_insert_with(acquaintance);
        }
        if kept && put.is_ok() {
            self.tally.changes.send_modify(|count| *count += 1);
        }
        put.map_err(|Busy| Error::Busy)
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
            self.write(&id, record.encode(), true)
        } else {
            self.store(&id, &record)
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
            && let Err(error) = self.store(id, &whole)
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
            self.write(id, record.encode(), false)?;
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
