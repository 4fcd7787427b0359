//! Holders among themselves: asks other members what they keep of the same backups, passes leases on as [`circle`] decides, and releases to whoever may
//! have got the leases that they end (`forward`).
//!
//! Several members are talked to at the same time, each for a limited time: one that is slow or silent holds up none of the others.
//!
//! What was heard of others is kept on the store's shelf of small records: without it every restart would begin a new grace period. Losing
//! it costs just that.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::StreamExt;
use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout};

use super::book::{Book, Mine};
use super::circle::{self, Facts, Heard, Kept, Limits, PeerName, Subject};
use super::{Candidates, on_worker};
use crate::block::Block;
use crate::depot::Depot;
use crate::id::BlockId;
use crate::lease::{Lease, Release};
use crate::net::exchange;
use crate::net::replica::{Answer, MAX_OFFERED, MAX_PAGE_IDS, Refusal, Request, Wish};
use crate::store::{self, LeaseId, RecordTable};
use crate::time::{Clock, Timestamp};

/// How often this is looked at.
const EVERY: Duration = Duration::from_secs(60);
/// How often members are asked what they keep, and what was heard is written.
const TALK_EVERY: Duration = Duration::from_secs(30 * 60);
/// Members that are talked to at the same time.
const AT_ONCE: usize = 8;
/// How long a member may take to answer one question.
const ANSWER_TIME: Duration = Duration::from_secs(15);
/// How long one member may take for all that it is asked in a round, or is sent. What was heard until then counts; it goes on in a later round.
const MEMBER_TIME: Duration = Duration::from_secs(300);
/// How long to wait for the block that a member is to show.
const PROOF_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a member that does not want a backup is left in peace with it.
const REFUSED: Duration = Duration::from_secs(6 * 3600);
/// Most backups that are looked after in this way.
const MAX_SUBJECTS: usize = 4096;
/// Most other holders of one backup that are remembered.
const MAX_OTHERS: usize = 32;

/// What is stored of one backup.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    owner: (u64, u64),
    asker: Option<String>,
    /// By peer in hex: when last, and missed for how long since, in milliseconds.
    others: BTreeMap<String, (u64, u64)>,
}

const fn of_pair((at, missed): (u64, u64)) -> Heard {
    Heard {
        at: Timestamp(at),
        missed: Duration::from_millis(missed),
    }
}

fn to_pair(heard: &Heard) -> (u64, u64) {
    (heard.at.0, heard.missed.as_millis() as u64)
}

pub(super) struct Passer {
    pub(super) depot: Depot,
    pub(super) book: Arc<Book>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) candidates: Arc<dyn Candidates>,
    pub(super) limits: Limits,
    pub(super) known: BTreeMap<Subject, Kept>,
}

impl Passer {
    pub(super) async fn run(mut self) {
        let mut last = Instant::now();
        let mut talked: Option<Instant> = None;
        loop {
            tokio::time::sleep(EVERY).await;
            let now = Instant::now();
            let passed = now.duration_since(std::mem::replace(&mut last, now));
            let talks = talked.is_none_or(|at| at.elapsed() >= TALK_EVERY);
            if talks {
                talked = Some(now);
            }
            // A machine that slept heard nothing.
            self.round(passed.min(2 * EVERY), talks).await;
        }
    }

    /// Looks at everything once.
    pub(super) async fn round(&mut self, passed: Duration, talks: bool) {
        let mine = self.take_in();
        let peers = self.candidates.peers();
        self.forward(&peers, talks).await;
        if mine.is_empty() || peers.is_empty() {
            return;
        }
        for kept in self.known.values_mut() {
            kept.owner.missed += passed;
            for heard in kept.others.values_mut() {
                heard.missed += passed;
            }
        }
        if talks {
            let heard = Mutex::new(Vec::new());
            each(&peers, |peer| self.talk(peer, &mine, &heard)).await;
            let now = self.clock.now();
            for (peer, subject, has) in heard.into_inner().unwrap_or_else(PoisonError::into_inner) {
                if let Some(kept) = self.known.get_mut(&subject) {
                    kept.told(peer.to_bytes(), has, now);
                }
            }
            self.save().await;
        }
        let now = self.clock.now();
        let mut any_short = false;
        for kept in self.known.values_mut() {
            let is_short = circle::is_short(kept, now, &self.limits);
            any_short |= is_short;
            kept.short_since = is_short.then(|| kept.short_since.unwrap_or(now));
        }
        if any_short {
            let online = self.rooms(&peers).await;
            self.pass(&mine, online, now).await;
        }
    }

    /// Tells members of leases that were ended here: they may have been passed on to them.
    async fn forward(&self, peers: &[PeerId], again: bool) {
        let (book, now) = (&self.book, self.clock.now());
        book.forwards().forget(now);
        let tell = |peer: PeerId| async move {
            let due = book.forwards().due(peer, again);
            for release in due {
                let request = Request::Release(Box::new(release.clone()));
                let Some(answer) = self.ask(peer, request).await else {
                    return;
                };
                if !book.forwards().told(peer, &release, &answer) {
                    return;
                }
            }
        };
        let is_due = |peer: &&PeerId| !book.forwards().due(**peer, again).is_empty();
        let due: Vec<PeerId> = peers.iter().filter(is_due).copied().collect();
        each(&due, tell).await;
    }

    /// What a member says, if it says anything in time.
    async fn ask(&self, peer: PeerId, request: Request) -> Option<Answer> {
        let replica = self.depot.net().replica();
        let asked = timeout(ANSWER_TIME, replica.ask(peer, request)).await;
        asked.ok()?.ok()
    }

    /// What is kept now; what was known of it before stays known.
    fn take_in(&mut self) -> BTreeMap<Subject, Mine> {
        let now = self.clock.now();
        let mine: BTreeMap<Subject, Mine> =
            self.book.shared().into_iter().take(MAX_SUBJECTS).collect();
        let gone = self
            .known
            .extract_if(.., |subject, _| !mine.contains_key(subject));
        for (subject, _) in gone {
            let shelf = self.depot.store().records();
            if let Err(error) = shelf.remove(RecordTable::Circle, &key_of(&subject)) {
                tracing::debug!(%error, "what was heard of other holders is not forgotten");
            }
        }
        for (subject, one) in &mine {
            let shelf = self.depot.store().records();
            let kept = self.known.entry(*subject).or_insert_with(|| {
                // Reading a small record takes no longer than a lock.
                let stored = shelf.get(RecordTable::Circle, &key_of(subject));
                restore(stored.ok().flatten().as_deref(), now)
            });
            let terms = one.lease.terms();
            (kept.copies, kept.bytes) = (terms.copies, terms.bytes);
            let is_sure =
                |asker| one.is_proven || kept.asker.as_ref().is_none_or(|known| known == asker);
            if let Some((asker, at)) = one.heard.as_ref().filter(|(asker, _)| is_sure(asker)) {
                kept.asker = Some(asker.clone());
                if *at > kept.owner.at {
                    kept.owner = Heard::now(*at);
                }
            }
        }
        mine
    }

    /// Asks a member which of these it keeps, and adds what makes a difference to what was heard.
    async fn talk(
        &self,
        peer: PeerId,
        mine: &BTreeMap<Subject, Mine>,
        heard: &Mutex<Vec<(PeerId, Subject, bool)>>,
    ) {
        let name = peer.to_bytes();
        let mut of_owner: BTreeMap<[u8; 32], Vec<Subject>> = BTreeMap::new();
        for subject in mine.keys() {
            of_owner.entry(subject.0).or_default().push(*subject);
        }
        for (owner, subjects) in of_owner {
            for page in subjects.chunks(MAX_OFFERED) {
                let request = Request::Holding {
                    owner,
                    roots: page.iter().map(|subject| subject.1).collect(),
                };
                let Some(Answer::Wishes(wishes)) = self.ask(peer, request).await else {
                    // Nothing is known of who does not answer.
                    return;
                };
                for (subject, wish) in page.iter().zip(wishes) {
                    let has = match mine.get(subject).filter(|_| wish == Wish::Have) {
                        Some(one) => self.shows(peer, one).await,
                        None => Some(false),
                    };
                    let kept = self.known.get(subject);
                    let was_known = kept.is_some_and(|kept| kept.others.contains_key(&name));
                    if let Some(has) = has.filter(|has| *has || was_known) {
                        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                        heard.push((peer, *subject, has));
                    }
                }
            }
        }
    }

    /// Whether a member that says it keeps a backup can show a block of it, chosen by chance; nothing when it can't be asked now.
    async fn shows(&self, peer: PeerId, one: &Mine) -> Option<bool> {
        let (store, lease) = (self.depot.store().clone(), one.id);
        let chosen = on_worker(move || {
            let mut digest = [0; 48];
            digest[..32].copy_from_slice(&rand::random::<[u8; 32]>());
            let start = BlockId::from_sha384(digest);
            let found = store.lease_blocks(lease, Some(start), 1)?;
            Ok(match found.is_empty() {
                true => store.lease_blocks(lease, None, 1)?,
                false => found,
            })
        });
        let id = chosen.await.ok().flatten()?.first().copied()?;
        let exchange = self.depot.net().exchange();
        let answers = match exchange.fetch(peer, vec![id], PROOF_TIMEOUT).await {
            Ok(answers) => answers,
            Err(error) => return (!error.is_retryable()).then_some(false),
        };
        match answers.into_iter().next() {
            Some((_, exchange::Answer::Block(bytes))) => {
                let checked = tokio::task::spawn_blocking(move || Block::verify(id, bytes).is_ok());
                checked.await.ok()
            }
            Some((_, exchange::Answer::Busy)) => None,
            _ => Some(false),
        }
    }

    async fn rooms(&self, peers: &[PeerId]) -> BTreeMap<PeerName, u64> {
        let rooms = each(peers, |peer| self.ask(peer, Request::Room)).await;
        let rooms = rooms.into_iter().filter_map(|(peer, answer)| match answer {
            Some(Some(Answer::State(state))) => Some((peer.to_bytes(), state.free_bytes)),
            _ => None,
        });
        rooms.collect()
    }

    async fn pass(
        &mut self,
        mine: &BTreeMap<Subject, Mine>,
        online: BTreeMap<PeerName, u64>,
        now: Timestamp,
    ) {
        let facts = Facts {
            local: self.depot.net().peer_id().to_bytes(),
            kept: self.known.clone(),
            online,
        };
        let mut of_peer: BTreeMap<PeerId, Vec<Subject>> = BTreeMap::new();
        for (subject, name) in circle::choose(now, &facts, &self.limits) {
            if let Ok(peer) = PeerId::from_bytes(&name) {
                of_peer.entry(peer).or_default().push(subject);
            }
        }
        let peers: Vec<PeerId> = of_peer.keys().copied().collect();
        let heard = Mutex::new(Vec::new());
        let (passer, of_peer, all) = (&*self, &of_peer, &heard);
        let pass_to = |peer: PeerId| async move {
            for subject in of_peer.get(&peer).into_iter().flatten() {
                let Some(one) = mine.get(subject) else {
                    continue;
                };
                let said = passer.offer(peer, one).await;
                let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                all.push((peer, *subject, said));
            }
        };
        each(&peers, pass_to).await;
        for (peer, subject, said) in heard.into_inner().unwrap_or_else(PoisonError::into_inner) {
            if let Some(kept) = self.known.get_mut(&subject) {
                kept.answered(peer, said, now);
            }
        }
    }

    /// Sends a lease and its list; nothing when the peer can't be asked now. Who says it has all must show it.
    async fn offer(&self, peer: PeerId, one: &Mine) -> Result<Option<Said>, store::Error> {
        let said = send(&self.depot, peer, one.id, &one.lease).await?;
        if !matches!(said, Some(Said::Whole)) {
            return Ok(said);
        }
        Ok(match self.shows(peer, one).await {
            Some(true) => said,
            Some(false) => Some(Said::No),
            None => None,
        })
    }

    /// Writes what was heard.
    async fn save(&self) {
        let shelf = self.depot.store().records().clone();
        let records: Vec<_> = self
            .known
            .iter()
            .map(|(subject, kept)| (key_of(subject), kept.record()))
            .collect();
        let done = tokio::task::spawn_blocking(move || {
            let records = records.into_iter();
            let mut written = records.map(|(key, record)| {
                let value = serde_json::to_vec(&record).expect("strings and numbers are JSON");
                shelf.put(RecordTable::Circle, &key, &value)
            });
            written.try_for_each(|result| result)
        });
        if let Ok(Err(error)) = done.await {
            tracing::debug!(%error, "what was heard of other holders is not written");
        }
    }
}

/// What a member says to a lease that is passed on to it.
pub(in crate::upkeep) enum Said {
    /// It has all blocks.
    Whole,
    /// It fetches them.
    Coming {
        /// How many are yet to come.
        missing: u64,
    },
    /// It does not want it.
    No,
}

/// Sends a lease that is kept here, and its list; nothing when the peer can't be asked now.
pub(in crate::upkeep) async fn send(
    depot: &Depot,
    peer: PeerId,
    lease: LeaseId,
    signed: &Lease,
) -> Result<Option<Said>, store::Error> {
    let (mut ids, mut after, mut listed) = (Vec::new(), None, 0);
    loop {
        let request = Request::Keep {
            lease: Box::new(signed.clone()),
            ids: std::mem::take(&mut ids),
        };
        let state = match depot.net().replica().ask(peer, request).await {
            Ok(Answer::State(state)) => state,
            Ok(Answer::Refused(Refusal::Busy)) | Err(_) => return Ok(None),
            Ok(_) => return Ok(Some(Said::No)),
        };
        if state.durable {
            return Ok(Some(Said::Whole));
        }
        if state.listed >= signed.terms().blocks {
            return Ok(Some(Said::Coming {
                missing: state.missing,
            }));
        }
        // What the other side has listed already is skipped.
        loop {
            let want = match state.listed.saturating_sub(listed) {
                0 => MAX_PAGE_IDS,
                rest => rest.min(MAX_PAGE_IDS as u64) as usize,
            };
            let is_known = listed < state.listed;
            let store = depot.store().clone();
            let page = on_worker(move || store.lease_blocks(lease, after, want));
            let page = page.await?.unwrap_or_default();
            let Some(last) = page.last() else {
                return Ok(Some(Said::No));
            };
            (after, listed) = (Some(*last), listed + page.len() as u64);
            if !is_known {
                ids = page;
                break;
            }
        }
    }
}

/// Tells members of a release whose lease was at a holder that can't be reached: it may have been passed on to them, and who has it tells others in turn.
/// Returns how many had it.
pub async fn tell_of_release(depot: &Depot, members: &[PeerId], release: &Release) -> usize {
    let told = each(members, |member| async move {
        let request = Request::Release(Box::new(release.clone()));
        let replica = depot.net().replica();
        let said = timeout(ANSWER_TIME, replica.ask(member, request)).await;
        matches!(said, Ok(Ok(Answer::State(_))))
    });
    let told = told.await.into_iter();
    told.filter(|(_, had)| *had == Some(true)).count()
}

/// Does something with several members at the same time, with each for at most [`MEMBER_TIME`]; nothing where it took longer.
async fn each<F: Future>(
    peers: &[PeerId],
    with: impl Fn(PeerId) -> F,
) -> Vec<(PeerId, Option<F::Output>)> {
    let with = &with;
    let done = futures::stream::iter(peers.to_vec())
        .map(|peer| async move { (peer, timeout(MEMBER_TIME, with(peer)).await.ok()) });
    done.buffer_unordered(AT_ONCE).collect().await
}

impl Kept {
    /// What a member said to a lease that was passed on to it.
    fn answered(&mut self, peer: PeerId, said: Result<Option<Said>, store::Error>, now: Timestamp) {
        let name = peer.to_bytes();
        match said {
            Ok(Some(Said::Whole)) => self.told(name, true, now),
            Ok(Some(Said::Coming { .. })) => {
                self.asked.entry(name).or_insert(now);
            }
            // Another one is asked next.
            Ok(Some(Said::No)) => {
                self.asked.remove(&name);
                self.refused.insert(name, now.after(REFUSED));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, %peer, "a lease could not be passed on");
            }
        }
    }

    /// A member says whether it keeps this backup.
    fn told(&mut self, peer: PeerName, has: bool, now: Timestamp) {
        if !has {
            self.others.remove(&peer);
        } else if self.others.len() < MAX_OTHERS || self.others.contains_key(&peer) {
            self.asked.remove(&peer);
            self.others.insert(peer, Heard::now(now));
        }
    }

    fn record(&self) -> Record {
        let others = self.others.iter();
        Record {
            owner: to_pair(&self.owner),
            asker: self.asker.as_ref().map(|asker| HEXLOWER.encode(asker)),
            others: others
                .map(|(peer, heard)| (HEXLOWER.encode(peer), to_pair(heard)))
                .collect(),
        }
    }
}

fn key_of(subject: &Subject) -> Vec<u8> {
    [subject.0.as_slice(), &subject.1.to_multihash()].concat()
}

/// What was stored, or a beginning: the owner counts as heard now.
fn restore(stored: Option<&[u8]>, now: Timestamp) -> Kept {
    let record: Option<Record> = stored.and_then(|bytes| serde_json::from_slice(bytes).ok());
    let name = |hex: &str| HEXLOWER.decode(hex.as_bytes()).ok();
    let mut kept = Kept {
        copies: 0,
        bytes: 0,
        owner: Heard::now(now),
        asker: None,
        others: BTreeMap::new(),
        asked: BTreeMap::new(),
        refused: BTreeMap::new(),
        short_since: None,
    };
    if let Some(record) = record {
        kept.owner = of_pair(record.owner);
        kept.asker = record.asker.as_deref().and_then(name);
        let others = record.others.iter().take(MAX_OTHERS);
        let others = others.filter_map(|(peer, pair)| Some((name(peer)?, of_pair(*pair))));
        kept.others = others.collect();
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 40 members some answer at once, some after a while and half of them never.
    #[tokio::test(start_paused = true)]
    async fn slow_and_silent_members_hold_up_none_of_the_others() {
        let peers: Vec<PeerId> = (0..40).map(|_| PeerId::random()).collect();
        let began = Instant::now();
        let started = Mutex::new(Vec::new());
        let answered = each(&peers, |peer| {
            let at = peers.iter().position(|other| *other == peer);
            let wait = match at.expect("one of them") % 4 {
                0 => Duration::ZERO,
                1 => MEMBER_TIME / 2,
                _ => MEMBER_TIME * 1000,
            };
            started.lock().expect("it is whole").push(began.elapsed());
            tokio::time::sleep(wait)
        });
        let answered = answered.await;
        let silent = answered.iter().filter(|(_, answer)| answer.is_none());
        assert_eq!((answered.len(), silent.count()), (40, 20));
        let started = started.lock().expect("it is whole");
        let at_once = started.iter().filter(|after| **after < MEMBER_TIME / 2);
        // Those that answer at once make room for the next ones; never are more talked to than may be.
        assert!(
            (AT_ONCE..2 * AT_ONCE).contains(&at_once.count()),
            "{started:?}"
        );
        let rounds = peers.len().div_ceil(AT_ONCE) as u32;
        assert!(
            began.elapsed() <= MEMBER_TIME * rounds,
            "{:?}",
            began.elapsed()
        );
    }
}
