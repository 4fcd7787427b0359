//! What a holder answers to peers, and what it writes down when it does.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use libp2p::PeerId;
use tokio::time::Instant;

use super::{
    Book, Entry, Key, MAX_OWNERS_PER_PEER, OPEN_BLOCKS, OPEN_SHARE, REF_BYTES, REF_SHARE, Speaker,
    info_of, releases,
};
use crate::id::BlockId;
use crate::lease::{self, Extent, Held, Lease, ListDigest, MAX_SKEW_MS, Release, Renewal, proof};
use crate::net::exchange::Standing;
use crate::net::replica::{Answer, Refusal, Request, State};
use crate::store::{self, LeaseId};
use crate::upkeep::revoked;

impl Book {
    /// Answers a peer.
    pub(in crate::upkeep::holder) fn answer(&self, peer: PeerId, request: Request) -> Answer {
        let answered = match request {
            Request::Room => Ok(Answer::State(State {
                free_bytes: self.free_bytes(),
                ..State::default()
            })),
            Request::Keep { lease, ids } => self.keep(peer, *lease, &ids),
            Request::Holding { owner, roots } => Ok(self.holding(owner, &roots)),
            Request::State { owner, name } => {
                let entries = self.entries();
                let entry = entries
                    .get(&(owner, name))
                    .ok_or(No::Refused(Refusal::Unknown));
                entry.map(|entry| self.state(entry))
            }
            Request::Release(release) => self.release(&release),
            Request::Prove {
                owner,
                name,
                nonce,
                ids,
            } => {
                // Only the owner's machines know names of leases, but for those that a lease was passed on by.
                self.heard(peer, &(owner, name));
                self.prove((owner, name), &nonce, &ids)
            }
            // Heads are not in the book.
            Request::Recover { .. } | Request::Head { .. } | Request::Offer { .. } => {
                Err(No::Refused(Refusal::Unwilling))
            }
        };
        match answered {
            Ok(answer) => answer,
            Err(No::Refused(refusal)) => Answer::Refused(refusal),
            Err(No::Store(error)) => {
                tracing::warn!(%error, %peer, "the store failed to do what a peer asked");
                Answer::Refused(match error {
                    store::Error::Full { .. } | store::Error::DiskFull => Refusal::Full,
                    store::Error::TooManyLeases => Refusal::TooMany,
                    _ => Refusal::Busy,
                })
            }
        }
    }

    fn state(&self, entry: &Entry) -> Answer {
        let terms = entry.held.lease().terms();
        Answer::State(State {
            listed: match &entry.list {
                Some(list) => list.count(),
                None => terms.blocks,
            },
            missing: match &entry.list {
                Some(_) => terms.blocks,
                None => entry.missing.load(Ordering::Relaxed),
            },
            durable: entry.complete,
            remaining: entry.held.until().since(self.clock.now()),
            free_bytes: self.free_bytes(),
        })
    }

    fn keep(&self, peer: PeerId, lease: Lease, ids: &[BlockId]) -> Result<Answer, No> {
        let now = self.clock.now();
        let passed = lease.terms().holder != self.local;
        let valid = match passed {
            true => lease.validate_passed(now),
            false => lease.validate(&self.local, now),
        };
        if !passed {
            let is_clock = matches!(valid, Err(lease::Error::FromTheFuture | lease::Error::Over));
            self.fits_time(peer, !is_clock);
        }
        valid.map_err(invalid)?;
        if revoked::voids(self.store.records(), &lease, passed)? {
            return Err(No::Refused(Refusal::Invalid));
        }
        let received = Held::new(lease, now).brought_by(peer.to_bytes());
        let lease = received.lease();
        let key = (*lease.owner(), lease.terms().name);
        let mut entries = self.entries();
        let (room, is_over) = self.share_of(&entries, peer);
        let (mut is_from_machine, mut is_proven) = (!passed, !passed);
        if let Some(entry) = entries.get_mut(&key) {
            // Who has been passed a lease has its message as well, and must not pass for the machine by sending it back.
            is_from_machine &= entry.heard.is_none_or(|by| by.peer == peer);
            is_proven &= entry.heard.is_some_and(|by| by.is_proven);
            match entry.held.renewed_by(received).map_err(invalid)? {
                Renewal::Nothing => {}
                // The lease stays as long as it was promised.
                Renewal::Longer(_) if is_over => return Err(No::Refused(Refusal::Full)),
                Renewal::Longer(held) => {
                    (is_from_machine, is_proven) = (!passed, !passed);
                    let info = info_of(&held, entry.complete);
                    self.store.update_lease(entry.lease, &info)?;
                    entry.held = *held;
                }
            }
        } else {
            if self.is_nearly_full() && self.ledger.earned(peer) < Standing::Newcomer {
                return Err(No::Refused(Refusal::Full));
            }
            if self.full().get(&key).is_some_and(|until| *until > now) {
                return Err(No::Refused(Refusal::Full));
            }
            let is_here = |entry: &Entry| {
                let other = entry.held.lease();
                (other.owner(), other.terms().root) == (lease.owner(), lease.terms().root)
            };
            if received.is_over(now) || (passed && entries.values().any(is_here)) {
                return Err(No::Refused(Refusal::Invalid));
            }
            self.check_room(&entries, peer, lease)?;
            if room == 0 {
                return Err(No::Refused(Refusal::Full));
            }
            if releases::is_released(self.store.records(), &key, lease.terms())? {
                return Err(No::Refused(Refusal::Invalid));
            }
            let held = received;
            let entry = Entry {
                lease: self.store.begin_lease(&info_of(&held, false))?,
                held,
                complete: false,
                list: Some(ListDigest::default()),
                last: None,
                missing: Arc::default(),
                from: None,
                heard: None,
                moved: (Instant::now(), u64::MAX),
                charged: None,
            };
            entries.insert(key, entry);
        }
        let entry = entries
            .get_mut(&key)
            .expect("it was there or put there above");
        entry.from = Some(peer);
        if is_from_machine {
            entry.heard = Some(Speaker {
                peer,
                at: now,
                is_proven,
            });
        }
        match self.list(entry, ids, room) {
            Ok(()) => Ok(self.state(entry)),
            // The store may do better the next time.
            Err(No::Store(error)) => Err(No::Store(error)),
            Err(no) => {
                // What does not fit its lease, or does not fit here, is not kept at all.
                let lease = entry.lease;
                self.remove(lease)?;
                entries.remove(&key);
                Err(no)
            }
        }
    }

    fn check_room(
        &self,
        entries: &HashMap<Key, Entry>,
        peer: PeerId,
        lease: &Lease,
    ) -> Result<(), No> {
        let of_owner = entries.keys().filter(|(owner, _)| owner == lease.owner());
        if of_owner.count() >= self.lend.leases_per_owner {
            return Err(No::Refused(Refusal::TooMany));
        }
        let of_peer = entries.iter().filter(|(_, e)| e.from == Some(peer));
        let owners: HashSet<&[u8; 32]> = of_peer.clone().map(|((owner, _), _)| owner).collect();
        if owners.len() >= MAX_OWNERS_PER_PEER && !owners.contains(lease.owner()) {
            return Err(No::Refused(Refusal::TooMany));
        }
        let blocks = |entry: &Entry| entry.held.lease().terms().blocks;
        let refs = |listed: u64| {
            let refs = listed.saturating_add(lease.terms().blocks);
            refs.saturating_mul(REF_BYTES)
        };
        let most = self.lend.bytes() / REF_SHARE;
        let most_open = (most / OPEN_SHARE).max(OPEN_BLOCKS * REF_BYTES);
        let all = refs(entries.values().map(blocks).sum());
        // What is only said to come must not keep others away.
        let open: Vec<u64> = of_peer
            .filter(|(_, entry)| !entry.complete)
            .map(|(_, entry)| blocks(entry))
            .collect();
        let is_too_open = !open.is_empty() && refs(open.iter().sum()) > most_open;
        if !self.has_room() || all > most || is_too_open {
            return Err(No::Refused(Refusal::Full));
        }
        Ok(())
    }

    /// Takes in the next ids of a lease's list. Ids that are known already change nothing. Blocks
    /// that are missing must fit into `room`.
    fn list(&self, entry: &mut Entry, ids: &[BlockId], room: u64) -> Result<(), No> {
        let terms = entry.held.lease().terms();
        // The entry changes only once the store did.
        let Some(mut list) = entry.list.clone() else {
            return Ok(());
        };
        let known = ids.iter().take_while(|id| entry.last >= Some(**id)).count();
        let new = &ids[known..];
        for id in new {
            list.push(id).map_err(invalid)?;
        }
        if list.count() > terms.blocks {
            return Err(No::Refused(Refusal::Invalid));
        }
        let absent = self.store.add_lease_refs(entry.lease, new)?;
        entry
            .missing
            .fetch_add(absent.len() as u64, Ordering::Relaxed);
        entry.last = new.last().copied().or(entry.last);
        entry.list = Some(list.clone());
        if list.count() < terms.blocks {
            return Ok(());
        }
        if list.finish() != terms.digest {
            return Err(No::Refused(Refusal::Invalid));
        }
        // Blocks that are here for somebody else cost nothing; of the others only the average size is known.
        let missing = entry.missing.load(Ordering::Relaxed);
        let expected = u128::from(terms.bytes) * u128::from(missing) / u128::from(terms.blocks);
        if expected > u128::from(self.free_bytes().min(room)) {
            return Err(No::Refused(Refusal::Full));
        }
        entry.charged = u64::try_from(expected).ok();
        entry.list = None;
        Ok(())
    }

    /// Ends what a release covers. One that names no lease leaves what was made after it, and says how much that is.
    fn release(&self, release: &Release) -> Result<Answer, No> {
        release.validate().map_err(invalid)?;
        if revoked::voids_release(self.store.records(), release)? {
            return Err(No::Refused(Refusal::Invalid));
        }
        let now = self.clock.now();
        let is_wide = release.extent() != Extent::Lease;
        // It ends all that is made before its time: by a clock that is ahead also what the owner is yet to make.
        if is_wide && release.sequence() > now.0.saturating_add(MAX_SKEW_MS) {
            return Err(invalid(lease::Error::FromTheFuture));
        }
        let mut entries = self.entries();
        let (mut ended, mut newer) = (Vec::new(), 0);
        for (key, entry) in &*entries {
            if !release.covers(entry.held.lease()) {
                continue;
            }
            match entry.held.check_release(release, now) {
                Ok(()) => ended.push(*key),
                Err(lease::Error::Stale) if is_wide => newer += 1,
                Err(error) => return Err(invalid(error)),
            }
        }
        if ended.is_empty() && newer == 0 {
            return Err(No::Refused(Refusal::Unknown));
        }
        if !ended.is_empty() {
            // Before any lease goes: after a crash in between all are ended again, and that is known for as long as the last of them needs.
            let leases = ended.iter().filter_map(|key| entries.get(key));
            self.remember_release(release, leases.map(|entry| entry.held.lease()));
            let taken = ended.iter().filter_map(|key| entries.remove_entry(key));
            let taken: Vec<(Key, Entry)> = taken.collect();
            // Others need not wait until that is on disk.
            drop(entries);
            self.end(taken)?;
        }
        Ok(Answer::State(State {
            listed: ended.len() as u64,
            missing: newer,
            free_bytes: self.free_bytes(),
            ..State::default()
        }))
    }

    /// Removes the leases of entries that were taken out. Those that the store fails to remove are back then.
    fn end(&self, taken: Vec<(Key, Entry)>) -> Result<(), store::Error> {
        let leases: Vec<LeaseId> = taken.iter().map(|(_, entry)| entry.lease).collect();
        let removed = self.store.remove_leases(&leases);
        if removed.is_err() {
            let mut entries = self.entries();
            for (key, entry) in taken {
                entries.entry(key).or_insert(entry);
            }
            drop(entries);
            self.reconcile()?;
        }
        removed.map(drop)
    }

    fn prove(&self, key: Key, nonce: &[u8; 32], ids: &[BlockId]) -> Result<Answer, No> {
        if !self.entries().contains_key(&key) {
            return Err(No::Refused(Refusal::Unknown));
        }
        let (mut proofs, mut lost) = (Vec::new(), 0);
        for id in ids {
            let block = match self.store.get(*id) {
                Ok(block) => block,
                Err(store::Error::Corrupt { id }) => {
                    tracing::warn!(%id, "a leased block is damaged: removing it, to fetch it again");
                    self.store.remove_corrupt(id)?;
                    None
                }
                Err(error) => return Err(error.into()),
            };
            if block.is_none() {
                let stat = self.store.stat(*id)?;
                lost += u64::from(stat.is_some_and(|stat| stat.leases > 0));
            }
            proofs.push(block.map(|block| proof(nonce, block.bytes())));
        }
        if lost > 0 {
            self.reopen(&key, lost)?;
        }
        Ok(Answer::Proofs(proofs))
    }

    /// Blocks of a whole lease are gone: it is filled again, and says so until it is.
    fn reopen(&self, key: &Key, lost: u64) -> Result<(), store::Error> {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(key).filter(|entry| entry.complete) else {
            return Ok(());
        };
        self.store
            .update_lease(entry.lease, &info_of(&entry.held, false))?;
        entry.complete = false;
        entry.missing.store(lost, Ordering::Relaxed);
        entry.moved = (Instant::now(), u64::MAX);
        Ok(())
    }
}

/// Why a peer does not get what it asked for.
enum No {
    Refused(Refusal),
    Store(store::Error),
}

impl From<store::Error> for No {
    fn from(error: store::Error) -> Self {
        Self::Store(error)
    }
}

fn invalid(error: lease::Error) -> No {
    tracing::debug!(%error, "a peer's lease is refused");
    No::Refused(Refusal::Invalid)
}
