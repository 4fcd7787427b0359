//! The shared state of the record store: what is not yet on the shelf, how much is there, and the thread that writes.
//!
//! Kademlia calls the store on the task that owns the network, so a write only goes into the overlay and onto a bounded queue; a
//! thread brings it to the shelf. What does not fit the queue is dropped and counted: announcements come again.
//!
//! Accounts follow what is there: they are made up when the store is opened, change with what is
//! put, and a write that fails is taken off them again. The thread also makes room when there is
//! too much.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::kad::{KBucketDistance, KBucketKey};

use super::record_store::Bounds;
use super::seldom::Seldom;
use super::shelf::RecordShelf;
use super::stored::{Announced, read_announced, read_own, read_value, write_announced};
use super::subnet::Subnet;
use crate::time::Clock;

/// Table of providers by key.
pub(super) const PROVIDERS: u8 = 1;
/// Table of values by key.
pub(super) const VALUES: u8 = 2;
/// Table of keys that this node itself provides.
pub(super) const OWN: u8 = 3;

/// Writes that may wait for the thread.
pub(super) const MAX_WAITING_WRITES: usize = 8192;
/// Entries that maintenance looks at in one go.
const PAGE: usize = 512;
/// Pages that are looked at in one go to make room.
const MAX_PAGES: usize = 8;
/// A subnet has many announcements when it has more than one in so many.
const MANY: i64 = 16;
/// When none has, one in so many of a page of keys gives way.
const FEW: usize = 16;
/// How often the thread looks at a page of what is stored; a whole round over 100,000 keys takes about half an hour and a
/// millisecond of work each time.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(10);

/// Place of a record: table and key.
pub(super) type Place = (u8, Vec<u8>);

/// Bytes that a record takes on disk besides its key and value, about.
const RECORD_BYTES: usize = 64;

/// Bytes that a provider, or a value, takes.
pub(super) fn cost(key: &[u8], bytes: usize) -> i64 {
    i64::try_from(RECORD_BYTES + key.len() + bytes).unwrap_or(i64::MAX)
}

/// Account of the entries of one kind, and of the peers and subnets that brought them. Signed,
/// because an entry that was there before may be taken off before it has been counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) entries: i64,
    pub(super) bytes: i64,
    pub(super) of_peer: HashMap<PeerId, i64>,
    pub(super) of_subnet: HashMap<Subnet, i64>,
}

impl Account {
    fn change(&mut self, peer: Option<PeerId>, subnet: Subnet, bytes: i64, sign: i64) {
        self.entries += sign;
        self.bytes += sign * bytes;
        if let Some(peer) = peer {
            change(&mut self.of_peer, peer, sign);
        }
        change(&mut self.of_subnet, subnet, sign);
    }

    /// Entries of a peer.
    pub(super) fn of_peer(&self, peer: &PeerId) -> i64 {
        self.of_peer.get(peer).copied().unwrap_or(0)
    }

    /// Entries of a subnet.
    pub(super) fn of_subnet(&self, subnet: &Subnet) -> i64 {
        self.of_subnet.get(subnet).copied().unwrap_or(0)
    }

    /// The subnet with most entries.
    pub(super) fn largest(&self) -> Option<(Subnet, i64)> {
        let subnets = self.of_subnet.iter();
        let largest = subnets.max_by_key(|(subnet, count)| (**count, **subnet));
        largest.map(|(subnet, count)| (*subnet, *count))
    }
}

fn change<K: Hash + Eq + Copy>(counts: &mut HashMap<K, i64>, key: K, by: i64) {
    let count = counts.entry(key).or_default();
    *count += by;
    if *count == 0 {
        counts.remove(&key);
    }
}

/// Counts of the entries that others brought. Values are counted by who keeps them, and this node's
/// own announcements follow from its blocks.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) providers: Account,
    /// Distance from this node of about the middle one of the records that were looked at when room
    /// was last made.
    pub(super) radius: Option<KBucketDistance>,
}

impl Counts {
    /// Counts a stored entry, or with -1 takes it off.
    fn account(&mut self, table: u8, key: &[u8], stored: Option<Bytes>, sign: i64) {
        let Some(stored) = stored else {
            return;
        };
        if table == PROVIDERS {
            for one in read_announced(stored).unwrap_or_default() {
                let bytes = cost(key, one.bytes());
                let peer = Some(one.peer);
                self.providers.change(peer, one.subnet, bytes, sign);
            }
        }
    }
}

/// State shared by the store and its thread. Locks are held for microseconds.
#[derive(Default)]
pub(super) struct Ledger {
    /// What is on its way to the shelf: `None` is a removal. The number tells a newer write from an older one.
    overlay: Mutex<HashMap<Place, (u64, Option<Bytes>)>>,
    counts: Mutex<Counts>,
    /// Held from looking at what is there until it is changed and counted.
    changing: Mutex<()>,
    writes: AtomicU64,
    dropped: AtomicU64,
    pub(super) seldom: Seldom,
}

impl Ledger {
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn overlay(&self) -> MutexGuard<'_, HashMap<Place, (u64, Option<Bytes>)>> {
        self.overlay.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Writes that were dropped because the queue was full.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// The ledger, the shelf, and the way to the thread.
pub(super) struct Writer {
    pub(super) ledger: Arc<Ledger>,
    shelf: Arc<dyn RecordShelf>,
    queue: SyncSender<Place>,
    bounds: Bounds,
}

/// Joins the writing thread and those that write through it. The thread ends when the last [`Writer`] is dropped, after it has
/// written what waits.
pub(crate) struct WriterThread(Vec<JoinHandle<()>>);

impl WriterThread {
    /// Waits for `thread` too, which holds a [`Writer`].
    pub(super) fn after(mut self, thread: JoinHandle<()>) -> Self {
        self.0.insert(0, thread);
        self
    }

    /// Waits for the threads. Blocks.
    pub(crate) fn join(self) {
        for thread in self.0 {
            if thread.join().is_err() {
                tracing::error!("a thread that writes DHT records has panicked");
            }
        }
    }
}

impl Writer {
    /// Starts the thread. It first goes once through what is stored, drops what has expired and
    /// counts the rest. `local`: this node, from which records are near or far.
    pub(super) fn start(
        local: PeerId,
        shelf: Arc<dyn RecordShelf>,
        clock: Arc<dyn Clock>,
        bounds: Bounds,
    ) -> std::io::Result<(Self, WriterThread)> {
        let (queue, places) = sync_channel(MAX_WAITING_WRITES);
        let ledger = Arc::new(Ledger::default());
        let worker = Worker {
            ledger: ledger.clone(),
            shelf: shelf.clone(),
            clock,
            local: KBucketKey::from(local),
            bounds,
            next: (PROVIDERS, None),
            crowd: None,
        };
        let thread = std::thread::Builder::new()
            .name("dht-records".to_owned())
            .spawn(move || worker.run(&places))?;
        let writer = Self {
            ledger,
            shelf,
            queue,
            bounds,
        };
        Ok((writer, WriterThread(vec![thread])))
    }

    /// What is under a key, including what is not yet written.
    pub(super) fn get(&self, table: u8, key: &[u8]) -> Option<Bytes> {
        if let Some((_, waiting)) = self.ledger.overlay().get(&(table, key.to_vec())) {
            return waiting.clone();
        }
        match self.shelf.get(table, key) {
            Ok(value) => value,
            Err(error) => {
                let seldom = &self.ledger.seldom;
                seldom.warn("a DHT record could not be read", &error);
                None
            }
        }
    }

    /// Bytes that announcements of others may take.
    pub(super) fn room(&self) -> Room {
        Room::of(self.shelf.room_bytes(), &self.bounds)
    }

    /// Puts a value (or, with `None`, a removal) on its way, and counts it in place of what was
    /// there. False when the queue is full: then nothing has changed. A write that fails is taken
    /// off again.
    pub(super) fn put(&self, table: u8, key: &[u8], value: Option<Bytes>) -> bool {
        let _change = self.ledger.change();
        let before = self.get(table, key);
        if !self.enqueue(table, key, value.clone()) {
            return false;
        }
        let mut counts = self.ledger.counts();
        counts.account(table, key, before, -1);
        counts.account(table, key, value, 1);
        true
    }

    fn enqueue(&self, table: u8, key: &[u8], value: Option<Bytes>) -> bool {
        let place = (table, key.to_vec());
        let number = self.ledger.writes.fetch_add(1, Ordering::Relaxed);
        let mut overlay = self.ledger.overlay();
        if let Some(waiting) = overlay.get_mut(&place) {
            // It is in the queue already; the thread will find the newer value there.
            *waiting = (number, value);
            return true;
        }
        match self.queue.try_send(place.clone()) {
            Ok(()) => {
                overlay.insert(place, (number, value));
                true
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.ledger.dropped.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Hands over what is on the shelf in a table, read `page` entries at a time, without what waits to be written. Ends early when
    /// `with` says false.
    pub(super) fn each(&self, table: u8, page: usize, mut with: impl FnMut(Bytes, Bytes) -> bool) {
        let mut after: Option<Bytes> = None;
        while let Ok(page) = self.shelf.scan_prefix(table, &[], after.as_deref(), page)
            && let Some((last, _)) = page.last()
        {
            after = Some(last.clone());
            if !page.into_iter().all(|(key, value)| with(key, value)) {
                return;
            }
        }
    }

    /// Everything in a table, a page at a time; slow, for tools and tests.
    pub(super) fn all(&self, table: u8) -> Vec<(Bytes, Bytes)> {
        let mut all = Vec::new();
        self.each(table, PAGE, |key, value| {
            all.push((key, value));
            true
        });
        let overlay = self.ledger.overlay();
        all.retain(|(key, _)| !overlay.contains_key(&(table, key.to_vec())));
        let waiting = overlay.iter().filter(|((t, _), _)| *t == table);
        all.extend(waiting.filter_map(|((_, key), (_, value))| {
            Some((Bytes::copy_from_slice(key), value.clone()?))
        }));
        all
    }
}

/// Room that others may fill.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) provider_bytes: i64,
    pub(super) providers: i64,
}

impl Room {
    /// Most of it is for announcements: a part is left for the heads that are kept here.
    fn of(bytes: u64, bounds: &Bounds) -> Self {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        Self {
            provider_bytes: bytes / 4 * 3,
            providers: bounds.providers,
        }
    }

    /// Whether there is as much as there should be at most. Entries on their way to the disk may
    /// exceed that, up to the whole.
    pub(super) const fn is_full(&self, account: &Account) -> bool {
        account.entries >= self.providers || account.bytes >= self.provider_bytes / 16 * 15
    }

    /// Whether there is no more room at all.
    pub(super) const fn is_overfull(&self, account: &Account) -> bool {
        account.entries >= self.providers + self.providers / 16
            || account.bytes >= self.provider_bytes
    }
}

struct Worker {
    ledger: Arc<Ledger>,
    shelf: Arc<dyn RecordShelf>,
    clock: Arc<dyn Clock>,
    local: KBucketKey<PeerId>,
    bounds: Bounds,
    /// Where maintenance goes on.
    next: (u8, Option<Bytes>),
    /// Where making room goes on.
    crowd: Option<Bytes>,
}

impl Worker {
    fn run(mut self, places: &Receiver<Place>) {
        // Nothing is written until everything has been counted, so that each record is counted once.
        while !self.maintain(true) {}
        let mut maintained = Instant::now();
        loop {
            match places.recv_timeout(MAINTENANCE_INTERVAL) {
                Ok(place) => self.write(&place),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.make_room();
            if maintained.elapsed() >= MAINTENANCE_INTERVAL {
                self.maintain(false);
                maintained = Instant::now();
            }
        }
    }

    fn write(&self, place: &Place) {
        // The entry stays in the overlay until it is on the shelf, so that a reader never misses it.
        loop {
            let Some((number, value)) = self.ledger.overlay().get(place).cloned() else {
                return;
            };
            let written = self.write_to_shelf(place, value.as_deref());
            let _change = self.ledger.change();
            let mut overlay = self.ledger.overlay();
            if overlay
                .get(place)
                .is_some_and(|(newest, _)| *newest != number)
            {
                continue;
            }
            overlay.remove(place);
            drop(overlay);
            if !written {
                // The shelf still holds the entry that was there before, if any.
                let (table, key) = place;
                let there = self.shelf.get(*table, key).unwrap_or_default();
                let mut counts = self.ledger.counts();
                counts.account(*table, key, value, -1);
                counts.account(*table, key, there, 1);
            }
            return;
        }
    }

    fn write_to_shelf(&self, (table, key): &Place, value: Option<&[u8]>) -> bool {
        let written = match value {
            Some(value) => self.shelf.put(*table, key, value),
            None => self.shelf.remove(*table, key),
        };
        if let Err(error) = &written {
            let seldom = &self.ledger.seldom;
            seldom.warn("a DHT record could not be written", error);
        }
        written.is_ok()
    }

    /// Looks at one page: removes what is expired or unreadable and, if asked to, counts the rest. True at the end of a round.
    fn maintain(&mut self, count: bool) -> bool {
        let (table, after) = self.next.clone();
        let page = self.page(table, after.as_deref());
        for (key, value) in &page {
            if count {
                let mut counts = self.ledger.counts();
                counts.account(table, key, Some(value.clone()), 1);
            }
            let alive = self.alive(table, value);
            if alive.as_ref() != Some(value) {
                self.replace(table, key, value, alive);
            }
        }
        self.next = match page.last() {
            Some((last, _)) => (table, Some(last.clone())),
            None if table < OWN => (table + 1, None),
            None => (PROVIDERS, None),
        };
        self.next == (PROVIDERS, None)
    }

    fn page(&self, table: u8, after: Option<&[u8]>) -> Vec<(Bytes, Bytes)> {
        let page = self.shelf.scan_prefix(table, &[], after, PAGE);
        page.unwrap_or_else(|error| {
            let seldom = &self.ledger.seldom;
            seldom.warn("the DHT records could not be looked through", &error);
            Vec::new()
        })
    }

    /// Puts something else in the place of what was read, unless it has changed since. An entry
    /// that waits to be written was counted when it was changed.
    fn replace(&self, table: u8, key: &Bytes, read: &Bytes, by: Option<Bytes>) {
        let _change = self.ledger.change();
        let place = (table, key.to_vec());
        if self.ledger.overlay().contains_key(&place)
            || self.shelf.get(table, key).ok().flatten().as_ref() != Some(read)
            || !self.write_to_shelf(&place, by.as_deref())
        {
            return;
        }
        let mut counts = self.ledger.counts();
        counts.account(table, key, Some(read.clone()), -1);
        counts.account(table, key, by, 1);
    }

    /// Rest of an entry: the providers that have not expired, or a value that has not.
    fn alive(&self, table: u8, value: &Bytes) -> Option<Bytes> {
        let now = self.clock.now();
        let is_alive = match table {
            PROVIDERS => {
                let mut announced = read_announced(value.clone()).ok()?;
                let before = announced.len();
                announced.retain(|one| one.ends() > now);
                if announced.len() != before && !announced.is_empty() {
                    return Some(write_announced(&announced).into());
                }
                !announced.is_empty()
            }
            VALUES => read_value(value.clone())
                .is_ok_and(|value| value.expires.is_none_or(|expires| expires > now)),
            _ => read_own(value.clone()).is_ok_and(|expires| expires > now),
        };
        is_alive.then(|| value.clone())
    }

    /// When there are too many announcements, those of the subnet with most of them give way: of a
    /// page of keys the half that is farther from this node. When no subnet has many, the farthest
    /// keys give way, whoever announced them. Pages follow one another.
    fn make_room(&mut self) {
        let room = Room::of(self.shelf.room_bytes(), &self.bounds);
        // An end, even if nothing is found: it goes on with the next write.
        for _ in 0..MAX_PAGES {
            let (largest, all) = {
                let counts = self.ledger.counts();
                if !room.is_full(&counts.providers) {
                    return;
                }
                (counts.providers.largest(), counts.providers.entries)
            };
            let largest = largest.filter(|(_, count)| count * MANY >= all);
            let page = self.page(PROVIDERS, self.crowd.as_deref());
            self.crowd = page.last().map(|(key, _)| key.clone());
            self.thin(&page, largest.map(|(subnet, _)| subnet));
        }
    }

    fn thin(&self, page: &[(Bytes, Bytes)], largest: Option<Subnet>) {
        let read = page.iter().filter_map(|(key, value)| {
            let announced = read_announced(value.clone()).ok()?;
            let distance = self.local.distance(&KBucketKey::new(key.to_vec()));
            Some((distance, key, value, announced))
        });
        let mut by_distance: Vec<_> = read.collect();
        by_distance.sort_by_key(|(distance, ..)| *distance);
        let Some((middle, ..)) = by_distance.get(by_distance.len() / 2) else {
            return;
        };
        self.ledger.counts().radius = Some(*middle);
        let is_theirs = |one: &Announced| largest.is_none_or(|largest| one.subnet == largest);
        by_distance.retain(|(.., announced)| announced.iter().any(is_theirs));
        let count = by_distance.len();
        let stay = if largest.is_some() {
            count / 2
        } else {
            count - count.div_ceil(FEW)
        };
        for (_, key, value, mut announced) in by_distance.into_iter().skip(stay) {
            announced.retain(|one| !is_theirs(one));
            let left = (!announced.is_empty()).then(|| write_announced(&announced).into());
            self.replace(PROVIDERS, key, value, left);
        }
    }
}
