//! Carries out what the policy decided, one action at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use futures::StreamExt;
use libp2p::PeerId;

use super::Signer;
use super::list::{Copies, Error, Kept, ListInfo, Place};
use super::policy::{Action, Limits, PeerName, RENEW_BEFORE};
use crate::depot::Depot;
use crate::id::BlockId;
use crate::lease::{Lease, ListDigest, MAX_SKEW_MS, Name, Opener, Terms, proof};
use crate::net::replica::{Answer, MAX_PAGE_IDS, MAX_PROOFS, Refusal, Request, State};
use crate::store::{PinId, Store};
use crate::time::{Clock, Timestamp};

/// How long a lease lasts, and for how long only the owner itself can end it.
const TERM: Duration = Duration::from_secs(90 * 24 * 3600);
const MINIMUM: Duration = Duration::from_secs(75 * 24 * 3600);
/// A machine that is stolen ends no lease within this time of its last renewal being due.
const SAFE: Duration = Duration::from_secs(30 * 24 * 3600);
const _: () = assert!(
    MINIMUM.as_secs() >= TERM.as_secs() - RENEW_BEFORE.as_secs() + SAFE.as_secs(),
    "there is a time before each renewal in which the minimum is over"
);
/// A holder that renews for less than this does not renew.
const SHORT: Duration = Duration::from_secs(TERM.as_secs() / 2);
/// How long a peer that refused is left in peace.
const REFUSED: Duration = Duration::from_secs(3600);
/// How often a holder that is about to leave is audited, in milliseconds.
const DOUBT_EVERY_MS: u64 = 60_000;
/// Blocks of a set that one holder is asked for in a day, so that the loss of one in a hundred is
/// seen within a week with 99% probability: 0.99 to the power of 7 x 66 is less than 1%. Backups of
/// the same set share most blocks, and so this number.
const AUDITED: u32 = 66;
/// Fewest blocks of one audit.
const FEWEST_AUDITED: u32 = 8;
/// Blocks after a point chosen by chance of which one is audited. By the next one alone, a holder
/// could tell which blocks are hardly ever asked for: those that follow another one closely.
const SPREAD: usize = 64;

pub(super) struct Worker {
    pub(super) copies: Arc<Copies>,
    pub(super) depot: Depot,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) pin_name: &'static str,
    /// Moments of audits follow from it.
    pub(super) secret: [u8; 32],
}

/// A copy that an action is about.
struct Subject {
    root: BlockId,
    peer: PeerId,
    key: String,
    kept: Kept,
}

impl Worker {
    /// Who is there, with the room that each lends. A holder that takes nothing more may be about to leave: what it keeps is not counted on
    /// as audited any more.
    pub(super) async fn rooms(
        &self,
        peers: Vec<PeerId>,
        at_once: usize,
    ) -> BTreeMap<PeerName, u64> {
        let asked = futures::stream::iter(peers).map(|peer| async move {
            match self.depot.net().replica().ask(peer, Request::Room).await {
                Ok(Answer::State(state)) => Some((peer.to_bytes(), state.free_bytes)),
                Ok(Answer::Refused(Refusal::Unwilling)) => {
                    let before = Timestamp(self.clock.now().0.saturating_sub(DOUBT_EVERY_MS));
                    self.copies.doubt(&peer.to_bytes(), before);
                    Some((peer.to_bytes(), 0))
                }
                _ => None,
            }
        });
        let rooms = asked.buffer_unordered(at_once);
        rooms.filter_map(std::future::ready).collect().await
    }

    pub(super) async fn act(&self, action: Action) -> Result<(), Error> {
        let (Action::Ask(root, name)
        | Action::Poll(root, name)
        | Action::Renew(root, name)
        | Action::Audit(root, name)
        | Action::Release(root, name)
        | Action::Forget(root, name)) = &action;
        let (root, key) = (*root, HEXLOWER.encode(name));
        let (Some(kept), Ok(peer)) = (self.copies.get(&root), PeerId::from_bytes(name)) else {
            return Ok(());
        };
        let subject = Subject {
            root,
            peer,
            key,
            kept,
        };
        match action {
            Action::Ask(..) => self.start(subject).await,
            Action::Poll(..) => self.offer(subject, false).await,
            Action::Renew(..) => self.offer(subject, true).await,
            Action::Audit(..) => self.audit(subject).await,
            Action::Release(..) => self.release(subject).await,
            Action::Forget(..) => self.drop_place(subject).await,
        }
    }

    async fn start(&self, mut subject: Subject) -> Result<(), Error> {
        if subject.kept.list.is_none() {
            let Some(list) = self.count(subject.root).await? else {
                // Its pin is gone: there is nothing that could be copied.
                return self.update(subject.root, |kept| kept.lost = true).await;
            };
            subject.kept.list = Some(list);
        }
        let now = self.clock.now();
        let name: Name = rand::random();
        let place = Place {
            name: HEXLOWER.encode(&name),
            sequence: now.0,
            whole: false,
            failed: false,
            since: now,
            seen: now,
            audited: None,
            until: now.after(TERM),
            minimum_until: now.after(MINIMUM),
            missed_ms: 0,
            unproven_ms: 0,
            missing: None,
            listed: 0,
        };
        subject.kept.held.insert(subject.key.clone(), place.clone());
        let (list, key) = (subject.kept.list.clone(), subject.key.clone());
        self.update(subject.root, move |kept| {
            kept.list = list;
            if kept.copies > 0 {
                kept.held.insert(key, place);
            }
        })
        .await?;
        let kept = self.copies.get(&subject.root);
        match kept.is_some_and(|kept| kept.held.contains_key(&subject.key)) {
            true => self.offer(subject, false).await,
            // Meanwhile somebody said that no copies are wanted: a lease that nobody knows of would stay.
            false => Ok(()),
        }
    }

    /// Sends the lease, and of its list what the holder lacks; notes how it stands.
    async fn offer(&self, mut subject: Subject, renew: bool) -> Result<(), Error> {
        self.add_opener(&mut subject).await?;
        let (Some(place), Some(list)) = (
            subject.kept.held.get(&subject.key),
            subject.kept.list.as_ref(),
        ) else {
            return Ok(());
        };
        let mut place = place.clone();
        let now = self.clock.now();
        if renew {
            place.sequence = now.0.max(place.sequence.saturating_add(1));
            place.since = now;
            place.until = now.after(TERM);
            place.minimum_until = now.after(MINIMUM);
        }
        let terms = terms_of(&subject, &place, list)?;
        let lease = Box::new(self.sign(terms).await?);
        let replica = self.depot.net().replica();
        let mut ids = Vec::new();
        let mut after = None;
        let mut listed = 0;
        let state = loop {
            let request = Request::Keep {
                lease: lease.clone(),
                ids: std::mem::take(&mut ids),
            };
            let state = match replica.ask(subject.peer, request).await {
                Ok(Answer::State(state)) => state,
                Ok(Answer::Refused(Refusal::Busy)) => return Ok(()),
                Ok(answer) => {
                    let is_gone = matches!(answer, Answer::Refused(Refusal::Unknown));
                    return self.refused(subject, is_gone || !place.whole).await;
                }
                // It may come back; until then nothing is known.
                Err(_) => return Ok(()),
            };
            if state.listed >= list.blocks {
                break state;
            }
            // The holder says how far it is: after a restart of either side the rest is enough.
            while listed < state.listed {
                let want = (state.listed - listed).min(MAX_PAGE_IDS as u64) as usize;
                let skipped = self.page(subject.root, after, want).await?;
                let Some(last) = skipped.last() else { break };
                (after, listed) = (Some(*last), listed + skipped.len() as u64);
            }
            ids = self.page(subject.root, after, MAX_PAGE_IDS).await?;
            let Some(last) = ids.last() else {
                // Without its list it can't be finished now.
                return Ok(());
            };
            (after, listed) = (Some(*last), listed + ids.len() as u64);
        };
        self.note(subject, place, state, renew).await
    }

    async fn note(
        &self,
        subject: Subject,
        mut place: Place,
        state: State,
        renew: bool,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        // Blocks that go and come again are none.
        let is_progress = place.listed < state.listed
            || place.missing.is_none_or(|fewest| state.missing < fewest);
        place.missing = Some(
            place
                .missing
                .map_or(state.missing, |n| n.min(state.missing)),
        );
        place.listed = place.listed.max(state.listed);
        if state.durable || is_progress {
            place.saw(now);
        }
        let is_new = state.durable && !place.whole;
        if is_new {
            // That it is there is for an audit to show, which follows at once.
            place.whole = true;
            place.audited = None;
        }
        if renew && !state.durable {
            place.whole = false;
        }
        // The holder's word counts for how long it keeps the blocks, as far as that is less than was asked for.
        let until = now.after(state.remaining);
        if until.0.saturating_add(MAX_SKEW_MS) < place.until.0 {
            place.until = until;
            place.minimum_until = place.minimum_until.min(until);
        }
        place.failed = place.until <= now || (renew && place.until <= now.after(SHORT));
        let (key, peer, refused) = (
            subject.key.clone(),
            subject.peer.to_bytes(),
            place.failed.then(|| now.after(REFUSED)),
        );
        let noted = place.clone();
        self.update(subject.root, move |kept| {
            kept.held.insert(key, noted);
            if let Some(until) = refused {
                kept.refused.insert(peer, until);
            }
        })
        .await?;
        if is_new && !place.failed {
            let mut subject = subject;
            subject.kept.held.insert(subject.key.clone(), place);
            self.audit(subject).await?;
        }
        Ok(())
    }

    /// Makes the opener, by which the owner's words open the backup, unless it is made or can't be
    /// now. The opener is written down before it is sent: a holder takes no other one for the same
    /// lease.
    async fn add_opener(&self, subject: &mut Subject) -> Result<(), Error> {
        if subject.kept.opener.is_some() {
            return Ok(());
        }
        let (signer, root) = (self.signer.clone(), subject.root);
        let Some(opener) = on_worker(move || Ok(signer.opener(root))).await? else {
            return Ok(());
        };
        let opener = HEXLOWER.encode(&opener);
        self.update(root, move |kept| {
            kept.opener.get_or_insert(opener);
        })
        .await?;
        // Another copy of the same backup may have had its opener made at the same time.
        if let Some(kept) = self.copies.get(&root) {
            subject.kept.opener = kept.opener;
        }
        Ok(())
    }

    /// A peer does not want to keep a backup, or not for longer. What it keeps already stays noted, for an audit to tell.
    async fn refused(&self, subject: Subject, is_gone: bool) -> Result<(), Error> {
        let until = self.clock.now().after(REFUSED);
        let (key, peer) = (subject.key, subject.peer.to_bytes());
        self.update(subject.root, move |kept| {
            if is_gone {
                kept.held.remove(&key);
            }
            kept.refused.insert(peer, until);
        })
        .await
    }

    /// Challenges the holder to show some blocks, chosen by chance.
    async fn audit(&self, subject: Subject) -> Result<(), Error> {
        let Some(place) = subject.kept.held.get(&subject.key) else {
            return Ok(());
        };
        let nonce: [u8; 32] = rand::random();
        let related = self.copies.related(&subject.root, &subject.key);
        let count = AUDITED.div_ceil(related.max(1)).max(FEWEST_AUDITED);
        let (store, root, pin_name) = (self.depot.store().clone(), subject.root, self.pin_name);
        let sample = on_worker(move || {
            let Some(pin) = pin_of(&*store, root, pin_name)? else {
                return Ok(Vec::new());
            };
            sample(&*store, pin, &nonce, count)
        })
        .await?;
        if sample.is_empty() {
            return Ok(());
        }
        let (owner, name) = (self.owner().await?, name_of(place)?);
        let mut passed = true;
        for part in sample.chunks(MAX_PROOFS) {
            let request = Request::Prove {
                owner,
                name,
                nonce,
                ids: part.iter().map(|(id, _)| *id).collect(),
            };
            passed = match self.depot.net().replica().ask(subject.peer, request).await {
                Ok(Answer::Proofs(proofs)) => {
                    let expected = part.iter().map(|(_, proof)| Some(*proof));
                    expected.eq(proofs)
                }
                Ok(Answer::Refused(Refusal::Unknown)) => false,
                // Busy, or gone: nothing is known.
                Ok(_) | Err(_) => return Ok(()),
            };
            if !passed {
                break;
            }
        }
        if !passed {
            tracing::warn!(peer = %subject.peer, backup = %subject.root, "a holder failed an audit");
        }
        let (now, key) = (self.clock.now(), subject.key);
        self.update(subject.root, move |kept| {
            if let Some(place) = kept.held.get_mut(&key) {
                if passed {
                    place.audited = Some(now);
                    place.saw(now);
                } else {
                    place.failed = true;
                }
            }
        })
        .await
    }

    async fn release(&self, subject: Subject) -> Result<(), Error> {
        let Some(place) = subject.kept.held.get(&subject.key) else {
            return Ok(());
        };
        let now = self.clock.now();
        let (signer, name, sequence) = (self.signer.clone(), name_of(place)?, place.sequence);
        let release = on_worker(move || Ok(signer.release(name, sequence, now)));
        let Some(release) = release.await?.map(Box::new) else {
            // While the owner's file is locked nothing is given back early; the lease ends by itself.
            return Ok(());
        };
        let replica = self.depot.net().replica();
        let answer = replica.ask(subject.peer, Request::Release(release)).await;
        match answer {
            Ok(Answer::State(_)) | Ok(Answer::Refused(Refusal::Unknown)) => {
                self.drop_place(subject).await
            }
            // Told again the next time, or it ends by itself.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn drop_place(&self, subject: Subject) -> Result<(), Error> {
        let key = subject.key;
        self.update(subject.root, move |kept| {
            kept.held.remove(&key);
        })
        .await
    }

    /// The owner's key, as leases say it.
    async fn owner(&self) -> Result<[u8; 32], Error> {
        let signer = self.signer.clone();
        on_worker(move || signer.owner().ok_or(Error::Locked)).await
    }

    async fn sign(&self, terms: Terms) -> Result<Lease, Error> {
        let signer = self.signer.clone();
        on_worker(move || signer.lease(terms).ok_or(Error::Locked)).await
    }

    /// Notes which backups are here, as their pins tell.
    pub(super) async fn reconcile(&self, limits: &Limits) -> Result<(), Error> {
        if self.copies.wanted().is_empty() {
            return Ok(());
        }
        let (store, copies, pin_name) = (
            self.depot.store().clone(),
            self.copies.clone(),
            self.pin_name,
        );
        let (now, limits) = (self.clock.now(), *limits);
        on_worker(move || {
            let look = || {
                let pins = store.pins()?.into_iter();
                let here = pins.filter(|(_, info)| info.name == pin_name);
                Ok(here.map(|(_, info)| info.root).collect())
            };
            copies.reconcile(look, now, &limits)
        })
        .await
    }

    /// Counts the blocks of a backup; nothing when its pin is gone.
    async fn count(&self, root: BlockId) -> Result<Option<ListInfo>, Error> {
        let (store, pin_name) = (self.depot.store().clone(), self.pin_name);
        on_worker(move || {
            let Some(pin) = pin_of(&*store, root, pin_name)? else {
                return Ok(None);
            };
            let (mut digest, mut bytes, mut after) = (ListDigest::default(), 0, None);
            loop {
                let ids = store.pin_blocks(pin, after, MAX_PAGE_IDS)?;
                let Some(last) = ids.last() else { break };
                after = Some(*last);
                for id in &ids {
                    digest.push(id)?;
                    let stat = store.stat(*id)?;
                    bytes += u64::from(stat.and_then(|stat| stat.bytes).unwrap_or(1));
                }
            }
            Ok(Some(ListInfo {
                blocks: digest.count(),
                bytes,
                digest: HEXLOWER.encode(&digest.finish()),
            }))
        })
        .await
    }

    async fn page(
        &self,
        root: BlockId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockId>, Error> {
        let (store, pin_name) = (self.depot.store().clone(), self.pin_name);
        on_worker(move || match pin_of(&*store, root, pin_name)? {
            Some(pin) => Ok(store.pin_blocks(pin, after, limit)?),
            None => Ok(Vec::new()),
        })
        .await
    }

    async fn update(
        &self,
        root: BlockId,
        change: impl FnOnce(&mut Kept) + Send + 'static,
    ) -> Result<(), Error> {
        let copies = self.copies.clone();
        on_worker(move || copies.update(&root, change)).await
    }
}

async fn on_worker<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| Error::Stopping)?
}

fn pin_of(store: &dyn Store, root: BlockId, name: &str) -> Result<Option<PinId>, Error> {
    let pins = store.pins()?.into_iter();
    let mut fitting = pins.filter(|(_, info)| info.root == root && info.name == name);
    Ok(fitting.next().map(|(pin, _)| pin))
}

/// Sample of a pin's blocks, with what a holder must answer. The choice follows from the nonce;
/// each block is about as likely as any other.
fn sample(
    store: &dyn Store,
    pin: PinId,
    nonce: &[u8; 32],
    count: u32,
) -> Result<Vec<(BlockId, [u8; 32])>, Error> {
    let mut chosen = BTreeMap::new();
    for part in 0..count {
        let random = proof(nonce, &part.to_be_bytes());
        let mut digest = [0; 48];
        digest[..32].copy_from_slice(&random);
        let start = BlockId::from_sha384(digest);
        let mut ids = store.pin_blocks(pin, Some(start), SPREAD)?;
        if ids.len() < SPREAD {
            ids.extend(store.pin_blocks(pin, None, SPREAD - ids.len())?);
        }
        let at = usize::from(random[31]) % ids.len().max(1);
        if let Some(id) = ids.get(at)
            && !chosen.contains_key(id)
            && let Some(block) = store.get(*id)?
        {
            chosen.insert(*id, proof(nonce, block.bytes()));
        }
    }
    Ok(chosen.into_iter().collect())
}

fn name_of(place: &Place) -> Result<Name, Error> {
    let bytes = HEXLOWER.decode(place.name.as_bytes()).unwrap_or_default();
    let wrong = crate::lease::Error::Malformed("a lease's name has 16 bytes");
    bytes.as_slice().try_into().map_err(|_| wrong.into())
}

fn opener_of(kept: &Kept) -> Option<Opener> {
    let bytes = HEXLOWER.decode(kept.opener.as_ref()?.as_bytes()).ok()?;
    bytes.as_slice().try_into().ok()
}

fn terms_of(subject: &Subject, place: &Place, list: &ListInfo) -> Result<Terms, Error> {
    let digest = HEXLOWER.decode(list.digest.as_bytes()).unwrap_or_default();
    let wrong = crate::lease::Error::Malformed("a digest has 32 bytes");
    let as_made = |at: Timestamp| at.max(place.since);
    Ok(Terms {
        holder: subject.peer.to_bytes(),
        name: name_of(place)?,
        sequence: place.sequence,
        made: place.since,
        until: as_made(place.until),
        minimum_until: as_made(place.minimum_until),
        root: subject.root,
        blocks: list.blocks,
        bytes: list.bytes,
        digest: digest.as_slice().try_into().map_err(|_| wrong)?,
        copies: subject.kept.copies,
        opener: opener_of(&subject.kept),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::block::Block;
    use crate::store::{Keep, MemoryStore, StoreOptions};

    fn pinned(count: u32) -> (MemoryStore, PinId, Vec<BlockId>) {
        let store = MemoryStore::new(StoreOptions::default());
        let pin = store.begin_pin("a backup").expect("begins");
        let block = |n: u32| Block::new(n.to_be_bytes().to_vec().into()).expect("a block");
        let blocks: Vec<Block> = (0..count).map(block).collect();
        store.put(&blocks, Keep::Pinned(pin)).expect("room");
        let mut ids: Vec<BlockId> = blocks.iter().map(Block::id).collect();
        ids.sort();
        (store, pin, ids)
    }

    /// In how many of 100 weeks of daily audits the loss of these is seen.
    fn seen(store: &MemoryStore, pin: PinId, lost: &HashSet<BlockId>) -> usize {
        let weeks = (0..100_u8).filter(|week| {
            let mut days = 0..7_u8;
            days.any(|day| {
                let nonce = proof(&[7; 32], &[*week, day]);
                let sample = sample(store, pin, &nonce, AUDITED).expect("reads");
                assert!(sample.len() <= AUDITED as usize);
                sample.iter().any(|(id, _)| lost.contains(id))
            })
        });
        weeks.count()
    }

    #[test]
    fn the_loss_of_one_block_in_a_hundred_is_seen_within_a_week() {
        let (store, pin, ids) = pinned(1000);
        let chance: HashSet<BlockId> = ids.iter().step_by(100).copied().collect();
        let weeks = seen(&store, pin, &chance);
        assert!(weeks >= 96, "{weeks} of 100 weeks");
        // A holder lets go of those that follow another one most closely.
        let gap = |pair: &[BlockId]| {
            let place = |id: &BlockId| {
                let (first, _) = id.digest().split_first_chunk::<16>().expect("48 bytes");
                u128::from_be_bytes(*first)
            };
            place(&pair[1]) - place(&pair[0])
        };
        let mut close: Vec<(u128, BlockId)> =
            ids.windows(2).map(|pair| (gap(pair), pair[1])).collect();
        close.sort();
        let close: HashSet<BlockId> = close.into_iter().take(10).map(|(_, id)| id).collect();
        let weeks = seen(&store, pin, &close);
        assert!(weeks >= 96, "{weeks} of 100 weeks");
    }

    #[test]
    fn few_blocks_are_all_audited_and_none_is_no_fault() {
        let (store, pin, _) = pinned(3);
        assert_eq!(
            sample(&store, pin, &[1; 32], AUDITED).expect("reads").len(),
            3
        );
        let (store, pin, _) = pinned(0);
        assert!(
            sample(&store, pin, &[1; 32], AUDITED)
                .expect("reads")
                .is_empty()
        );
    }
}
