//! The shared state of the record store: what is not yet on the shelf, how much is there, and the thread that writes.
//!
//! Kademlia calls the store on the task that owns the network, so a write only goes into the overlay and onto a bounded queue; a
//! thread brings it to the shelf. What does not fit the queue is dropped and counted: announcements come again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use libp2p::PeerId;

use super::shelf::RecordShelf;
use super::stored::{Value, read_announced, read_own, read_value};
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
/// How often the thread looks at a page of what is stored; a whole round over 100,000 keys takes about half an hour and a
/// millisecond of work each time.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(10);

/// Place of a record: table and key.
pub(super) type Place = (u8, Vec<u8>);

/// How many records there are. Signed, because what was there before may be taken off before it has been counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) providers: i64,
    pub(super) of_peer: HashMap<PeerId, i64>,
    /// Values that expire; those that are kept for good are counted by who keeps them.
    pub(super) values: i64,
    pub(super) values_of_peer: HashMap<PeerId, i64>,
}

impl Counts {
    pub(super) fn add_provider(&mut self, peer: PeerId) {
        self.change(peer, 1);
    }

    pub(super) fn remove_provider(&mut self, peer: PeerId) {
        self.change(peer, -1);
    }

    pub(super) fn add_value(&mut self, value: &Value) {
        self.change_value(value, 1);
    }

    pub(super) fn remove_value(&mut self, value: &Value) {
        self.change_value(value, -1);
    }

    fn change(&mut self, peer: PeerId, by: i64) {
        self.providers += by;
        change(&mut self.of_peer, peer, by);
    }

    fn change_value(&mut self, value: &Value, by: i64) {
        if value.expires.is_none() {
            return;
        }
        self.values += by;
        if let Some(peer) = value.publisher {
            change(&mut self.values_of_peer, peer, by);
        }
    }
}

fn change(counts: &mut HashMap<PeerId, i64>, peer: PeerId, by: i64) {
    let count = counts.entry(peer).or_default();
    *count += by;
    if *count == 0 {
        counts.remove(&peer);
    }
}

/// State shared by the store and its thread. Locks are held for microseconds.
#[derive(Default)]
pub(super) struct Ledger {
    /// What is on its way to the shelf: `None` is a removal. The number tells a newer write from an older one.
    overlay: Mutex<HashMap<Place, (u64, Option<Bytes>)>>,
    counts: Mutex<Counts>,
    writes: AtomicU64,
    dropped: AtomicU64,
}

impl Ledger {
    pub(super) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn overlay(&self) -> MutexGuard<'_, HashMap<Place, (u64, Option<Bytes>)>> {
        self.overlay.lock().unwrap_or_else(|e| e.into_inner())
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
    /// Starts the thread. It first goes once through what is stored, drops what has expired and counts the rest.
    pub(super) fn start(
        shelf: Arc<dyn RecordShelf>,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<(Self, WriterThread)> {
        let (queue, places) = sync_channel(MAX_WAITING_WRITES);
        let ledger = Arc::new(Ledger::default());
        let worker = Worker {
            ledger: ledger.clone(),
            shelf: shelf.clone(),
            clock,
            next: (PROVIDERS, None),
        };
        let thread = std::thread::Builder::new()
            .name("dht-records".to_owned())
            .spawn(move || worker.run(&places))?;
        let writer = Self {
            ledger,
            shelf,
            queue,
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
                tracing::warn!(%error, "a DHT record could not be read");
                None
            }
        }
    }

    /// Puts a value (or, with `None`, a removal) on its way. False when the queue is full: then nothing has changed.
    pub(super) fn put(&self, table: u8, key: &[u8], value: Option<Bytes>) -> bool {
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

struct Worker {
    ledger: Arc<Ledger>,
    shelf: Arc<dyn RecordShelf>,
    clock: Arc<dyn Clock>,
    /// Where maintenance goes on.
    next: (u8, Option<Bytes>),
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
            let written = match value {
                Some(value) => self.shelf.put(place.0, &place.1, &value),
                None => self.shelf.remove(place.0, &place.1),
            };
            if let Err(error) = written {
                tracing::warn!(%error, "a DHT record could not be written");
            }
            let mut overlay = self.ledger.overlay();
            if overlay
                .get(place)
                .is_none_or(|(newest, _)| *newest == number)
            {
                overlay.remove(place);
                return;
            }
        }
    }

    /// Looks at one page: removes what is expired or unreadable and, if asked to, counts the rest. True at the end of a round.
    fn maintain(&mut self, count: bool) -> bool {
        let (table, after) = self.next.clone();
        let page = self
            .shelf
            .scan_prefix(table, &[], after.as_deref(), PAGE)
            .unwrap_or_default();
        for (key, value) in &page {
            let waiting = self.ledger.overlay().contains_key(&(table, key.to_vec()));
            // What waits to be written was read when it was changed: it must be counted as it was then.
            let stays = waiting || self.is_alive(table, value);
            if stays == count {
                self.account(table, value, if count { 1 } else { -1 });
            }
            if !stays && let Err(error) = self.shelf.remove(table, key) {
                tracing::warn!(%error, "an expired DHT record could not be removed");
            }
        }
        self.next = match page.last() {
            Some((last, _)) => (table, Some(last.clone())),
            None if table < OWN => (table + 1, None),
            None => (PROVIDERS, None),
        };
        self.next == (PROVIDERS, None)
    }

    /// A key's providers stay together until the last has expired; single ones go when the key is written next.
    fn is_alive(&self, table: u8, value: &Bytes) -> bool {
        let now = self.clock.now();
        match table {
            PROVIDERS => read_announced(value.clone())
                .is_ok_and(|announced| announced.iter().any(|one| one.expires > now)),
            VALUES => read_value(value.clone())
                .is_ok_and(|value| value.expires.is_none_or(|expires| expires > now)),
            _ => read_own(value.clone()).is_ok_and(|expires| expires > now),
        }
    }

    fn account(&self, table: u8, value: &Bytes, by: i64) {
        let mut counts = self.ledger.counts();
        match table {
            PROVIDERS => {
                for one in read_announced(value.clone()).unwrap_or_default() {
                    counts.change(one.peer, by);
                }
            }
            VALUES => {
                if let Ok(value) = read_value(value.clone()) {
                    counts.change_value(&value, by);
                }
            }
            _ => {}
        }
    }
}
