//! All leases of a holder: what they promise, and what is answered about them. Synchronous; for worker threads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

use super::Lend;
use super::circle::Subject;
use crate::depot::ledger::{Amount, Ledger};
use crate::id::BlockId;
use crate::lease::{Held, Lease, ListDigest, Name, Release, Renewal, proof};
use crate::net::exchange::Standing;
use crate::net::replica::{Answer, Refusal, Request, State, Wish};
use crate::size::ByteSize;
use crate::store::{self, LeaseId, LeaseInfo, Store};
use crate::time::{Clock, Timestamp};

/// What a block's reference takes in the index, about.
const REF_BYTES: u64 = 160;
/// The part of what is lent that such references may take.
const REF_SHARE: u64 = 4;
/// Once so many hundredths of what is lent are used, new leases are taken only from peers that are no free riders.
pub(super) const NEARLY_FULL_PERCENT: u64 = 80;
/// Ids that are read from the store as one.
const PAGE: usize = 4096;

type Key = ([u8; 32], Name);

/// A lease whose blocks are yet to come.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) lease: LeaseId,
    pub(super) owner: [u8; 32],
    /// Who asked last.
    pub(super) from: Option<PeerId>,
    /// Blocks that are yet to come.
    pub(super) missing: Arc<AtomicU64>,
}

struct Entry {
    lease: LeaseId,
    held: Held,
    complete: bool,
    /// The list so far; nothing once it is whole.
    list: Option<ListDigest>,
    last: Option<BlockId>,
    missing: Arc<AtomicU64>,
    from: Option<PeerId>,
    /// When the machine that the lease is of was heard about it, and which peer that is.
    heard: Option<(PeerId, Timestamp)>,
}

/// A whole lease that may be passed on.
pub(super) struct Mine {
    pub(super) id: LeaseId,
    pub(super) lease: Box<Lease>,
    /// The peer of the machine that asked for it, and when it was heard last since this node started.
    pub(super) heard: Option<(Vec<u8>, Timestamp)>,
}

/// The leases.
pub(super) struct Book {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    lend: Lend,
    /// Our own name, as leases say it.
    local: Vec<u8>,
    ledger: Arc<Ledger>,
    entries: Mutex<HashMap<Key, Entry>>,
}

impl Book {
    /// Reads what the store knows.
    pub(super) fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        lend: Lend,
        local: Vec<u8>,
    ) -> Result<Self, store::Error> {
        let mut entries = HashMap::new();
        for (lease, info) in store.leases()? {
            let Ok(held) = Held::decode(&info.terms) else {
                tracing::warn!(%lease, "a lease in the store can't be read: it is kept until it ends");
                continue;
            };
            let mut entry = Entry {
                lease,
                complete: info.complete,
                list: None,
                last: None,
                missing: Arc::default(),
                from: None,
                heard: None,
                held,
            };
            if !info.complete {
                read_list(&*store, &mut entry)?;
            }
            let key = (*entry.held.lease().owner(), entry.held.lease().terms().name);
            entries.insert(key, entry);
        }
        Ok(Self {
            store,
            clock,
            lend,
            local,
            ledger: Arc::default(),
            entries: Mutex::new(entries),
        })
    }

    /// Goes by the standings in this ledger.
    pub(super) fn with_ledger(mut self, ledger: Arc<Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// What is kept for each peer that brought leases, and whether it is known of every lease who brought it.
    pub(super) fn kept(&self) -> (HashMap<PeerId, Amount>, bool) {
        let entries = self.entries();
        let mut kept: HashMap<PeerId, Amount> = HashMap::new();
        for entry in entries.values() {
            let Some(peer) = entry.from else { continue };
            let terms = entry.held.lease().terms();
            let (blocks, bytes) = (terms.blocks, terms.bytes);
            kept.entry(peer).or_default().add(Amount { blocks, bytes });
        }
        (kept, entries.values().all(|entry| entry.from.is_some()))
    }

    /// Whether there is too little left to lend for those who give nothing.
    fn is_nearly_full(&self) -> bool {
        let used = u128::from(self.store.usage().leased_bytes) * 100;
        used >= u128::from(self.lend.bytes) * u128::from(NEARLY_FULL_PERCENT)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Entries change only after the store did, in steps that can't panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be fetched.
    pub(super) fn has_room(&self) -> bool {
        self.store.usage().leased_bytes < self.lend.bytes
    }

    fn free_bytes(&self) -> u64 {
        let usage = self.store.usage();
        let held = usage.pinned_bytes + usage.leased_bytes;
        // What is mine takes room, too.
        let lent = self.lend.bytes.saturating_sub(usage.leased_bytes);
        lent.min(usage.quota.saturating_sub(held))
    }

    /// One line for `status`.
    pub(super) fn describe(&self) -> String {
        let entries = self.entries();
        let waiting = entries.values().filter(|entry| !entry.complete).count();
        format!(
            "keeping {} for {} leases, {waiting} of them not whole yet",
            ByteSize(self.store.usage().leased_bytes),
            entries.len()
        )
    }

    /// Leases whose list is whole and whose blocks are not.
    pub(super) fn jobs(&self) -> Vec<Job> {
        let entries = self.entries();
        let mut jobs: Vec<Job> = entries
            .values()
            .filter(|entry| !entry.complete && entry.list.is_none())
            .map(|entry| Job {
                lease: entry.lease,
                owner: *entry.held.lease().owner(),
                from: entry.from,
                missing: entry.missing.clone(),
            })
            .collect();
        jobs.sort_by_key(|job| job.lease);
        jobs
    }

    /// Whole leases that may be passed on, one for each backup: the one that lasts longest.
    pub(super) fn shared(&self) -> BTreeMap<Subject, Mine> {
        let entries = self.entries();
        let mut shared: BTreeMap<Subject, (Timestamp, Mine)> = BTreeMap::new();
        for entry in entries.values().filter(|entry| entry.complete) {
            let lease = entry.held.lease();
            let subject = (*lease.owner(), lease.terms().root);
            let until = lease.terms().until;
            let is_longer = shared.get(&subject).is_none_or(|(other, _)| *other < until);
            if lease.terms().copies > 0 && is_longer {
                let mine = Mine {
                    id: entry.lease,
                    lease: Box::new(lease.clone()),
                    heard: entry.heard.map(|(peer, at)| (peer.to_bytes(), at)),
                };
                shared.insert(subject, (until, mine));
            }
        }
        let shared = shared.into_iter();
        shared.map(|(subject, (_, mine))| (subject, mine)).collect()
    }

    /// Which backups of an owner are here.
    fn holding(&self, owner: [u8; 32], roots: &[BlockId]) -> Answer {
        let entries = self.entries();
        let of_owner = entries
            .values()
            .filter(|entry| *entry.held.lease().owner() == owner);
        let mut here: BTreeMap<BlockId, bool> = BTreeMap::new();
        for entry in of_owner {
            *here.entry(entry.held.lease().terms().root).or_default() |= entry.complete;
        }
        let wishes = roots.iter().map(|root| match here.get(root) {
            Some(true) => Wish::Have,
            Some(false) => Wish::Want,
            None => Wish::Refuse(Refusal::Unknown),
        });
        Answer::Wishes(wishes.collect())
    }

    /// The machine that asked for a lease asks about it: it lives.
    fn heard(&self, peer: PeerId, key: &Key) {
        let now = self.clock.now();
        if let Some(entry) = self.entries().get_mut(key)
            && entry.heard.is_none_or(|(asker, _)| asker == peer)
        {
            entry.heard = Some((peer, now));
        }
    }

    /// Ends the leases that are over.
    pub(super) fn expire(&self) -> Result<u64, store::Error> {
        let now = self.clock.now();
        let expired = self.store.expire_leases(now)?;
        self.entries().retain(|_, entry| !entry.held.is_over(now));
        Ok(expired)
    }

    /// Forgets leases that the store does not know any more.
    pub(super) fn reconcile(&self) -> Result<(), store::Error> {
        let mut entries = self.entries();
        let known: HashSet<LeaseId> = self.store.leases()?.into_iter().map(|(l, _)| l).collect();
        entries.retain(|_, entry| known.contains(&entry.lease));
        Ok(())
    }

    /// All blocks of a lease are here: makes that last.
    pub(super) fn complete(&self, lease: LeaseId) -> Result<(), store::Error> {
        let mut entries = self.entries();
        let Some(entry) = entries.values_mut().find(|entry| entry.lease == lease) else {
            return Ok(());
        };
        self.store
            .update_lease(lease, &info_of(&entry.held, true))?;
        entry.complete = true;
        entry.missing.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// There is no room for a lease's blocks.
    pub(super) fn give_up(&self, lease: LeaseId) -> Result<(), store::Error> {
        tracing::info!(%lease, "there is no room for the blocks of a lease");
        self.entries().retain(|_, entry| entry.lease != lease);
        self.store.remove_lease(lease).map(drop)
    }

    /// Answers a peer.
    pub(super) fn answer(&self, peer: PeerId, request: Request) -> Answer {
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
            Request::Offer { .. } => Err(No::Refused(Refusal::Unwilling)),
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
        let received = if passed {
            lease.validate_passed(now).map_err(invalid)?;
            Held::passed(lease, now)
        } else {
            lease.validate(&self.local, now).map_err(invalid)?;
            Held::new(lease, now)
        };
        let lease = received.lease();
        let key = (*lease.owner(), lease.terms().name);
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(&key) {
            match entry.held.renewed_by(received).map_err(invalid)? {
                Renewal::Nothing => {}
                Renewal::Longer(held) => {
                    let info = info_of(&held, entry.complete);
                    self.store.update_lease(entry.lease, &info)?;
                    entry.held = *held;
                }
            }
        } else {
            if self.is_nearly_full() && self.ledger.earned(peer) < Standing::Newcomer {
                return Err(No::Refused(Refusal::Full));
            }
            let is_here = |entry: &Entry| {
                let other = entry.held.lease();
                (other.owner(), other.terms().root) == (lease.owner(), lease.terms().root)
            };
            if received.is_over(now) || (passed && entries.values().any(is_here)) {
                return Err(No::Refused(Refusal::Invalid));
            }
            self.check_room(&entries, lease)?;
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
            };
            entries.insert(key, entry);
        }
        let entry = entries
            .get_mut(&key)
            .expect("it was there or put there above");
        entry.from = Some(peer);
        if !passed {
            entry.heard = Some((peer, now));
        }
        match self.list(entry, ids) {
            Ok(()) => Ok(self.state(entry)),
            Err(no) => {
                // What does not fit its lease, or does not fit here, is not kept at all.
                let lease = entry.lease;
                entries.remove(&key);
                self.store.remove_lease(lease)?;
                Err(no)
            }
        }
    }

    fn check_room(&self, entries: &HashMap<Key, Entry>, lease: &Lease) -> Result<(), No> {
        let of_owner = entries.keys().filter(|(owner, _)| owner == lease.owner());
        if of_owner.count() >= self.lend.leases_per_owner {
            return Err(No::Refused(Refusal::TooMany));
        }
        let listed = entries
            .values()
            .map(|entry| entry.held.lease().terms().blocks);
        let refs = listed.sum::<u64>().saturating_add(lease.terms().blocks);
        if !self.has_room() || refs.saturating_mul(REF_BYTES) > self.lend.bytes / REF_SHARE {
            return Err(No::Refused(Refusal::Full));
        }
        Ok(())
    }

    /// Takes in the next ids of a lease's list. Those that are known already change nothing.
    fn list(&self, entry: &mut Entry, ids: &[BlockId]) -> Result<(), No> {
        let terms = entry.held.lease().terms();
        let Some(list) = &mut entry.list else {
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
        if list.count() < terms.blocks {
            return Ok(());
        }
        if list.clone().finish() != terms.digest {
            return Err(No::Refused(Refusal::Invalid));
        }
        // Blocks that are here for somebody else cost nothing; of the others only the average size is known.
        let missing = entry.missing.load(Ordering::Relaxed);
        let expected = u128::from(terms.bytes) * u128::from(missing) / u128::from(terms.blocks);
        let used = self.store.usage().leased_bytes;
        if u128::from(used) + expected > u128::from(self.lend.bytes) {
            return Err(No::Refused(Refusal::Full));
        }
        entry.list = None;
        Ok(())
    }

    fn release(&self, release: &Release) -> Result<Answer, No> {
        release.validate().map_err(invalid)?;
        let key = (*release.owner(), *release.name());
        let mut entries = self.entries();
        let entry = entries.get(&key).ok_or(No::Refused(Refusal::Unknown))?;
        let now = self.clock.now();
        entry.held.check_release(release, now).map_err(invalid)?;
        self.store.remove_lease(entry.lease)?;
        entries.remove(&key);
        drop(entries);
        Ok(Answer::State(State {
            free_bytes: self.free_bytes(),
            ..State::default()
        }))
    }

    fn prove(&self, key: Key, nonce: &[u8; 32], ids: &[BlockId]) -> Result<Answer, No> {
        if !self.entries().contains_key(&key) {
            return Err(No::Refused(Refusal::Unknown));
        }
        let mut proofs = Vec::new();
        for id in ids {
            proofs.push(match self.store.get(*id) {
                Ok(block) => block.map(|block| proof(nonce, block.bytes())),
                Err(store::Error::Corrupt { id }) => {
                    self.store.remove_corrupt(id)?;
                    None
                }
                Err(error) => return Err(error.into()),
            });
        }
        Ok(Answer::Proofs(proofs))
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

fn invalid(error: crate::lease::Error) -> No {
    tracing::debug!(%error, "a peer's lease is refused");
    No::Refused(Refusal::Invalid)
}

fn info_of(held: &Held, complete: bool) -> LeaseInfo {
    let terms = held.lease().terms();
    LeaseInfo {
        root: terms.root,
        terms: held.encode().into(),
        until: held.until(),
        blocks: terms.blocks,
        bytes: terms.bytes,
        complete,
    }
}

/// Reads the list of a lease that was being filled when the node stopped.
fn read_list(store: &dyn Store, entry: &mut Entry) -> Result<(), store::Error> {
    let mut list = ListDigest::default();
    let mut missing = 0;
    loop {
        let ids = store.lease_blocks(entry.lease, entry.last, PAGE)?;
        let Some(last) = ids.last().copied() else {
            break;
        };
        for id in &ids {
            missing += u64::from(!store.has(*id)?);
            if list.push(id).is_err() {
                return Err(store::Error::BadIndex { what: "a lease" });
            }
        }
        entry.last = Some(last);
    }
    entry.missing.store(missing, Ordering::Relaxed);
    let terms = entry.held.lease().terms();
    let is_whole = list.count() == terms.blocks && list.clone().finish() == terms.digest;
    entry.list = (!is_whole).then_some(list);
    Ok(())
}

impl std::fmt::Debug for Book {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Book")
            .field("leases", &self.entries().len())
            .finish_non_exhaustive()
    }
}
