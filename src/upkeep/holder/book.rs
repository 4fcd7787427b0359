//! All leases of a holder: what they promise, and what is answered about them. Synchronous; for worker threads.

mod answers;
mod forward;
mod releases;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use libp2p::PeerId;
use tokio::time::Instant;

use self::forward::Forwards;
use super::circle::Subject;
use super::share::{Member, Shares};
use super::{Candidates, Lend, Taken, page_of};
use crate::depot::ledger::{Amount, Ledger};
use crate::id::BlockId;
use crate::lease::{Held, Lease, ListDigest, Name};
use crate::net::replica::{Answer, MAX_TOLD_LEASES, Recovered, Refusal, Wish, recovery_proof};
use crate::size::ByteSize;
use crate::store::{self, LeaseId, LeaseInfo, Store};
use crate::text::count;
use crate::time::{Clock, Timestamp};
use crate::upkeep::heads::{self, is_head_lease};

/// What a block's reference takes in the index, about.
const REF_BYTES: u64 = 160;
/// The part of what is lent that such references may take.
const REF_SHARE: u64 = 4;
/// Once so many hundredths of what is lent are used, new leases are taken only from peers that are no free riders.
pub(super) const NEARLY_FULL_PERCENT: u64 = 80;
/// Ids that are read from the store as one.
const PAGE: usize = 4096;
/// How long a lease that there was no room for is refused, and how many are remembered. Who asked makes a new lease when it asks again.
const FULL_FOR: Duration = Duration::from_secs(3600);
const MAX_FULL: usize = 1024;

/// Longest time that the leases of a removed member are still kept: in it the member finds other
/// holders.
pub(super) const NOTICE: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long a lease has to be over while this node runs before it ends: a clock that is wrong for a while ends nothing. A machine that never
/// runs for so long keeps more than it owes.
pub(super) const OVER_FOR: Duration = Duration::from_secs(6 * 3600);
/// How long a list may take to come while this node runs.
pub(super) const LIST_TIME: Duration = Duration::from_secs(24 * 3600);
/// How long a lease is kept open while this node runs and none of its blocks comes.
pub(super) const FILL_TIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Of the references that are kept, one in so many may be of leases that one peer brought and that are not whole.
const OPEN_SHARE: u64 = 4;
/// So many may be in any case.
const OPEN_BLOCKS: u64 = 512;
/// Most peers that are remembered because their leases don't fit the time.
const MAX_OUT_OF_TIME: usize = 256;
/// Most owners that one peer brings leases of: each has a head that is kept, and looked for again and again.
pub(super) const MAX_OWNERS_PER_PEER: usize = 64;

type Key = ([u8; 32], Name);

/// A lease whose blocks are yet to come.
#[derive(Clone)]
pub(super) struct Job {
    pub(super) lease: LeaseId,
    pub(super) owner: [u8; 32],
    /// Who asked last.
    pub(super) from: Option<PeerId>,
    /// Most bytes that its blocks may have.
    pub(super) bytes: u64,
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
    heard: Option<Speaker>,
    /// When the entry was made, or fewer blocks were missing than ever before; and how many those were.
    moved: (Instant, u64),
    /// Bytes that were missing when its list was whole: charged until its peer's blocks are
    /// counted.
    charged: Option<u64>,
}

impl Entry {
    /// Bytes that are yet to come, about.
    fn coming_bytes(&self) -> u64 {
        let terms = self.held.lease().terms();
        let missing = match self.list {
            Some(_) => 0,
            None => self.missing.load(Ordering::Relaxed),
        };
        let bytes = u128::from(terms.bytes) * u128::from(missing) / u128::from(terms.blocks.max(1));
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// Bytes that the leases of each peer take, as of the last count.
#[derive(Default)]
struct Counted {
    /// The leases that were counted.
    leases: BTreeSet<LeaseId>,
    /// By the peer's name.
    bytes: HashMap<Vec<u8>, u64>,
}

/// Who speaks for the machine that a lease is of.
#[derive(Clone, Copy)]
struct Speaker {
    peer: PeerId,
    at: Timestamp,
    /// Whether it brought something that only the machine had: a new lease, or a longer one.
    is_proven: bool,
}

/// A whole lease that may be passed on.
pub(super) struct Mine {
    pub(super) id: LeaseId,
    pub(super) lease: Box<Lease>,
    /// The peer of the machine that asked for it, and when it was heard last since this node started.
    pub(super) heard: Option<(Vec<u8>, Timestamp)>,
    /// Whether that peer has brought something that only the machine had.
    pub(super) is_proven: bool,
}

/// The leases.
pub(super) struct Book {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    lend: Lend,
    /// Our own name, as leases say it.
    local: Vec<u8>,
    ledger: Arc<Ledger>,
    members: Option<Arc<dyn Candidates>>,
    counted: Mutex<Counted>,
    entries: Mutex<HashMap<Key, Entry>>,
    /// Leases that there was no room for, and until when they are refused: whoever asks is to hear it, and not to begin again.
    full: Mutex<HashMap<Key, Timestamp>>,
    /// Leases that are over by the clock, and since when that is seen.
    over: Mutex<HashMap<LeaseId, Instant>>,
    /// Releases that others are told of.
    forwards: Mutex<Forwards>,
    /// Peers whose last lease was made after it came, or was over before: one of the clocks is wrong by more than a day.
    out_of_time: Mutex<BTreeSet<PeerId>>,
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
            if is_head_lease(&info) {
                continue;
            }
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
                from: PeerId::from_bytes(held.from()).ok(),
                heard: None,
                moved: (Instant::now(), u64::MAX),
                charged: None,
                held,
            };
            if !info.complete {
                read_list(&*store, &mut entry)?;
            }
            let terms = entry.held.lease().terms();
            let key = (*entry.held.lease().owner(), terms.name);
            if releases::is_released(store.records(), &key, terms)? {
                // The process ended in between.
                remove(&*store, lease)?;
                continue;
            }
            entries.insert(key, entry);
        }
        let forwards = releases::load(store.records(), clock.now())?;
        Ok(Self {
            store,
            clock,
            lend,
            local,
            ledger: Arc::default(),
            members: None,
            counted: Mutex::default(),
            entries: Mutex::new(entries),
            full: Mutex::default(),
            over: Mutex::default(),
            forwards: Mutex::new(forwards),
            out_of_time: Mutex::default(),
        })
    }

    /// Goes by the standings in this ledger.
    pub(super) fn with_ledger(mut self, ledger: Arc<Ledger>) -> Self {
        self.ledger = ledger;
        self
    }

    /// Divides what is lent among these.
    pub(super) fn with_members(mut self, members: Arc<dyn Candidates>) -> Self {
        self.members = Some(members);
        self
    }

    /// Bytes that a peer may still take, by its share, and whether it has more than that while
    /// others lack room. Without members there are no shares.
    fn share_of(&self, entries: &HashMap<Key, Entry>, peer: PeerId) -> (u64, bool) {
        let Some(shares) = self.shares(entries) else {
            return (u64::MAX, false);
        };
        let coming = entries.values().filter(|entry| !entry.complete);
        // Of a list that is not whole yet nothing is known.
        let listed = coming.filter(|entry| entry.list.is_none());
        let coming: u64 = listed.map(Entry::coming_bytes).sum();
        let (free, name) = (self.free_bytes().saturating_sub(coming), peer.to_bytes());
        (shares.room(&name, free), shares.is_over(&name, free))
    }

    /// The shares of all members; none when nobody said who they are.
    fn shares(&self, entries: &HashMap<Key, Entry>) -> Option<Shares<Vec<u8>>> {
        let peers = self.members.as_ref()?.members().into_iter();
        let mut members: BTreeMap<Vec<u8>, Member> = peers
            .map(|peer| {
                let gives = self.ledger.keeps_for_us(peer).bytes;
                (peer.to_bytes(), Member { used: 0, gives })
            })
            .collect();
        let counted = self.counted();
        for (name, member) in &mut members {
            member.used = counted.bytes.get(name).copied().unwrap_or_default();
        }
        drop(counted);
        // Bytes of leases that were listed since the count. Leases of others than members take
        // room, and no share.
        for entry in entries.values() {
            if let Some(member) = members.get_mut(entry.held.from()) {
                let charged = entry.charged.unwrap_or_default();
                member.used = member.used.saturating_add(charged);
            }
        }
        Some(Shares::new(self.lend.bytes(), members))
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // The count is whole between two statements.
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the bytes that the leases of each peer take, if leases have come or gone since the
    /// last time: each block once for a peer, with the average size of its lease's blocks.
    pub(super) fn count_used(&self) -> Result<(), store::Error> {
        let leases: Vec<(LeaseId, Vec<u8>, u64)> = {
            let entries = self.entries();
            let listed = entries.values().filter(|entry| entry.list.is_none());
            let listed = listed.map(|entry| {
                let terms = entry.held.lease().terms();
                let average = terms.bytes / terms.blocks.max(1);
                (entry.lease, entry.held.from().to_vec(), average)
            });
            listed.collect()
        };
        let ids: BTreeSet<LeaseId> = leases.iter().map(|(lease, ..)| *lease).collect();
        if self.counted().leases == ids {
            return Ok(());
        }
        let mut of_peer: HashMap<Vec<u8>, Vec<(LeaseId, u64)>> = HashMap::new();
        for (lease, from, average) in leases {
            of_peer.entry(from).or_default().push((lease, average));
        }
        let mut bytes = HashMap::new();
        for (from, leases) in of_peer {
            let (mut seen, mut used) = (HashSet::new(), 0_u64);
            for (lease, average) in leases {
                let mut after = None;
                loop {
                    let page = self.store.lease_blocks(lease, after, PAGE)?;
                    let Some(last) = page.last() else { break };
                    after = Some(*last);
                    let new = page.into_iter().filter(|id| seen.insert(*id)).count();
                    used = used.saturating_add(average.saturating_mul(new as u64));
                }
            }
            bytes.insert(from, used);
        }
        let mut entries = self.entries();
        for entry in entries.values_mut() {
            if ids.contains(&entry.lease) {
                entry.charged = None;
            }
        }
        *self.counted() = Counted { leases: ids, bytes };
        Ok(())
    }

    /// Leases of members that were removed end after a notice. Returns how many end earlier by it.
    pub(super) fn give_notice(&self) -> Result<u64, store::Error> {
        let Some(members) = &self.members else {
            return Ok(0);
        };
        let removed: HashSet<Vec<u8>> = members.removed().iter().map(|p| p.to_bytes()).collect();
        if removed.is_empty() {
            return Ok(0);
        }
        let last = self.clock.now().after(NOTICE);
        let mut shortened = 0;
        for entry in self.entries().values_mut() {
            if entry.held.until() > last && removed.contains(entry.held.from()) {
                let mut held = entry.held.clone();
                held.end_by(last);
                self.store
                    .update_lease(entry.lease, &info_of(&held, entry.complete))?;
                entry.held = held;
                shortened += 1;
            }
        }
        Ok(shortened)
    }

    /// What is kept for each peer that brought leases, and whether it is known of every lease who brought it.
    pub(super) fn kept(&self) -> (HashMap<PeerId, Amount>, bool) {
        let entries = self.entries();
        let mut kept: HashMap<PeerId, Amount> = HashMap::new();
        for entry in entries.values() {
            let Ok(peer) = PeerId::from_bytes(entry.held.from()) else {
                continue;
            };
            let terms = entry.held.lease().terms();
            let (blocks, bytes) = (terms.blocks, terms.bytes);
            kept.entry(peer).or_default().add(Amount { blocks, bytes });
        }
        let mut all = entries.values();
        (kept, all.all(|entry| !entry.held.from().is_empty()))
    }

    /// Whether there is too little left to lend for those who give nothing: of what is lent, or because of what is mine.
    fn is_nearly_full(&self) -> bool {
        let left = u128::from(self.free_bytes()) * 100;
        left <= u128::from(self.lend.bytes()) * u128::from(100 - NEARLY_FULL_PERCENT)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Key, Entry>> {
        // Entries change only after the store did, in steps that can't panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether more may be fetched.
    pub(super) fn has_room(&self) -> bool {
        self.store.usage().leased_bytes < self.lend.bytes()
    }

    fn free_bytes(&self) -> u64 {
        let usage = self.store.usage();
        let held = usage.pinned_bytes + usage.leased_bytes;
        // What is mine takes room, too.
        let lent = self.lend.bytes().saturating_sub(usage.leased_bytes);
        lent.min(usage.quota.saturating_sub(held))
    }

    /// One line for `status`.
    pub(super) fn describe(&self) -> String {
        let entries = self.entries();
        let waiting = entries.values().filter(|entry| !entry.complete).count();
        let keeping = format!(
            "keeping {} for {}, {waiting} of them not whole yet",
            ByteSize(self.store.usage().leased_bytes),
            count(entries.len() as u64, "lease")
        );
        match self.out_of_time().len() {
            0 => keeping,
            peers => format!(
                "{keeping}; leases of {} don't fit the time: is the clock of this machine right?",
                count(peers as u64, "peer")
            ),
        }
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
                bytes: entry.held.lease().terms().bytes,
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
                    heard: entry.heard.map(|by| (by.peer.to_bytes(), by.at)),
                    is_proven: entry.heard.is_some_and(|by| by.is_proven),
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

    /// The owner that a request to recover is about, and the next of its leases; none when nothing
    /// of that owner is here.
    pub(super) fn recover(
        &self,
        peer: PeerId,
        nonce: &[u8; 32],
        proof: &[u8; 32],
        after: Option<Name>,
    ) -> Option<([u8; 32], Recovered)> {
        let local = PeerId::from_bytes(&self.local).ok()?;
        let entries = self.entries();
        let owners: HashSet<[u8; 32]> = entries.keys().map(|(owner, _)| *owner).collect();
        let mut owners = owners.into_iter();
        let owner = owners.find(|owner| recovery_proof(owner, nonce, &peer, &local) == *proof)?;
        let of_owner = entries.iter().filter(|((of, _), _)| *of == owner);
        let mut names: BTreeMap<&Name, &Entry> =
            of_owner.map(|((_, name), entry)| (name, entry)).collect();
        names.retain(|name, _| after.is_none_or(|after| **name > after));
        let leases = names.values().take(MAX_TOLD_LEASES);
        let recovered = Recovered {
            head: None,
            leases: leases.map(|entry| entry.held.lease().clone()).collect(),
            more: names.len() > MAX_TOLD_LEASES,
        };
        Some((owner, recovered))
    }

    /// The machine that asked for a lease asks about it: it lives.
    fn heard(&self, peer: PeerId, key: &Key) {
        let now = self.clock.now();
        if let Some(entry) = self.entries().get_mut(key)
            && entry.heard.is_none_or(|by| by.peer == peer)
        {
            let is_proven = entry.heard.is_some_and(|by| by.is_proven);
            entry.heard = Some(Speaker {
                peer,
                at: now,
                is_proven,
            });
        }
    }

    /// Ends the leases that have been over for long enough, by the clock and by the time that this node ran, and those that don't get whole.
    pub(super) fn expire(&self, uptime: Instant) -> Result<u64, store::Error> {
        let now = self.clock.now();
        // Before the look, so that no lease is renewed between the look and the deed.
        let mut entries = self.entries();
        let leases = self.store.leases()?.into_iter();
        // Those of heads end with their heads.
        let over = leases.filter(|(_, info)| info.until <= now && !is_head_lease(info));
        let mut ended: Vec<LeaseId> = Vec::new();
        {
            let mut seen = self.over.lock().unwrap_or_else(PoisonError::into_inner);
            let before = std::mem::take(&mut *seen);
            for (lease, _) in over {
                let since = before.get(&lease).copied().unwrap_or(uptime);
                seen.insert(lease, since);
                if uptime.saturating_duration_since(since) >= OVER_FOR {
                    ended.push(lease);
                }
            }
        }
        for entry in entries.values_mut().filter(|entry| !entry.complete) {
            let missing = entry.missing.load(Ordering::Relaxed);
            if entry.list.is_none() && missing < entry.moved.1 {
                entry.moved = (uptime, missing);
            }
            let most = match entry.list {
                Some(_) => LIST_TIME,
                None => FILL_TIME,
            };
            if uptime.saturating_duration_since(entry.moved.0) >= most {
                tracing::info!(lease = %entry.lease, "a lease does not get whole");
                ended.push(entry.lease);
            }
        }
        if !ended.is_empty() {
            if let Err(error) = self.store.remove_leases(&ended) {
                drop(entries);
                // Some may be gone.
                self.reconcile()?;
                return Err(error);
            }
            let ended: HashSet<&LeaseId> = ended.iter().collect();
            entries.retain(|_, entry| !ended.contains(&entry.lease));
        }
        drop(entries);
        self.forget_releases(now)?;
        Ok(ended.len() as u64)
    }

    /// Forgets leases that the store does not know any more.
    pub(super) fn reconcile(&self) -> Result<(), store::Error> {
        let mut entries = self.entries();
        let known: HashSet<LeaseId> = self.store.leases()?.into_iter().map(|(l, _)| l).collect();
        entries.retain(|_, entry| known.contains(&entry.lease));
        Ok(())
    }

    /// All blocks of a lease came: makes that last, if they are here. Blocks may have been found damaged meanwhile, or there was no room for one;
    /// then the lease stays open.
    pub(super) fn complete(&self, lease: LeaseId) -> Result<(), store::Error> {
        let mut entries = self.entries();
        let Some(entry) = entries.values_mut().find(|entry| entry.lease == lease) else {
            return Ok(());
        };
        let absent = absent_of(&*self.store, lease)?;
        entry.missing.store(absent, Ordering::Relaxed);
        if absent > 0 {
            tracing::warn!(%lease, absent, "blocks of a lease came and are not here");
            return Ok(());
        }
        self.store
            .update_lease(lease, &info_of(&entry.held, true))?;
        entry.complete = true;
        let terms = entry.held.lease().terms();
        self.lend.tell(Taken {
            from: entry.from,
            blocks: terms.blocks,
            bytes: terms.bytes,
        });
        Ok(())
    }

    /// There is no room for a lease's blocks.
    pub(super) fn give_up(&self, lease: LeaseId) -> Result<(), store::Error> {
        tracing::info!(%lease, "there is no room for the blocks of a lease");
        let mut entries = self.entries();
        self.remove(lease)?;
        let now = self.clock.now();
        let mut full = self.full();
        full.retain(|_, until| *until > now);
        entries.retain(|key, entry| {
            let stays = entry.lease != lease;
            if !stays && full.len() < MAX_FULL {
                full.insert(*key, now.after(FULL_FOR));
            }
            stays
        });
        Ok(())
    }

    /// Says that a head is kept because of leases of its owner. Returns whether it may be: there are only so many places.
    pub(super) fn keep_head(&self, head: BlockId) -> Result<bool, store::Error> {
        let now = self.clock.now();
        // Until it is known how long the leases last.
        heads::keep_for_leases(&*self.store, head, now.after(heads::GRACE), now)
    }

    fn remove(&self, lease: LeaseId) -> Result<(), store::Error> {
        remove(&*self.store, lease)
    }

    /// Releases that others are told of.
    pub(super) fn forwards(&self) -> MutexGuard<'_, Forwards> {
        // They are whole between two statements.
        self.forwards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes whether a peer's lease fits the time of this machine.
    fn fits_time(&self, peer: PeerId, fits: bool) {
        let mut peers = self.out_of_time();
        if fits {
            peers.remove(&peer);
        } else if peers.len() < MAX_OUT_OF_TIME {
            peers.insert(peer);
        }
    }

    fn out_of_time(&self) -> MutexGuard<'_, BTreeSet<PeerId>> {
        // It is whole between two statements.
        self.out_of_time
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self) -> MutexGuard<'_, HashMap<Key, Timestamp>> {
        // It is whole between two statements.
        self.full.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a lease from the store. What is gone already needs no removing.
fn remove(store: &dyn Store, lease: LeaseId) -> Result<(), store::Error> {
    match store.remove_lease(lease) {
        Ok(_) | Err(store::Error::NoSuchLease(_)) => Ok(()),
        Err(error) => Err(error),
    }
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

/// How many blocks of a lease are not here.
fn absent_of(store: &dyn Store, lease: LeaseId) -> Result<u64, store::Error> {
    let (mut absent, mut after) = (0, None);
    while let Some(page) = page_of(store, lease, after)? {
        absent += page.absent.len() as u64;
        after = Some(page.last);
    }
    Ok(absent)
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
