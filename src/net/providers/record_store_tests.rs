use super::*;
use crate::net::providers::ledger::{Counts, MAX_WAITING_WRITES, VALUES};
use crate::net::providers::shelf::{MemoryShelf, ShelfError};
use crate::net::providers::stored::Value;
use crate::time::ManualClock;
use libp2p::Multiaddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const BOUNDS: Bounds = Bounds {
    providers_per_key: 3,
    providers_per_peer: 5,
    providers: 12,
};

struct Fixture {
    store: ShelfStore,
    thread: WriterThread,
    clock: Arc<ManualClock>,
    local: PeerId,
}

fn own(clock: &Arc<ManualClock>) -> Own {
    Own {
        addresses: watch::channel(vec![address()]).1,
        ports: Arc::new(Ports::new(clock.clone())),
    }
}

fn open(shelf: &Arc<MemoryShelf>, clock: &Arc<ManualClock>, local: PeerId) -> Fixture {
    open_with(shelf.clone(), clock, local, BOUNDS)
}

fn open_with(
    shelf: Arc<dyn RecordShelf>,
    clock: &Arc<ManualClock>,
    local: PeerId,
    bounds: Bounds,
) -> Fixture {
    let own = own(clock);
    let opened = ShelfStore::open(local, shelf, clock.clone(), bounds, own);
    let (store, thread) = opened.expect("threads start");
    Fixture {
        store,
        thread,
        clock: clock.clone(),
        local,
    }
}

fn fixture() -> (Fixture, Arc<MemoryShelf>) {
    let shelf = Arc::new(MemoryShelf::new());
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    (open(&shelf, &clock, PeerId::random()), shelf)
}

impl Fixture {
    /// Writes everything that waits and opens the same shelf again.
    fn reopen(self, shelf: &Arc<MemoryShelf>) -> Self {
        drop(self.store);
        self.thread.join();
        open(shelf, &self.clock, self.local)
    }

    fn providers(&self, of: &RecordKey) -> Vec<PeerId> {
        let records = self.store.providers(of);
        records.into_iter().map(|record| record.provider).collect()
    }
}

fn key(n: u8) -> RecordKey {
    RecordKey::from(vec![n; 50])
}

fn address() -> Multiaddr {
    "/ip4/10.0.0.1/tcp/4001".parse().expect("an address")
}

fn provider(n: u8, peer: PeerId) -> ProviderRecord {
    ProviderRecord::new(key(n), peer, vec![address()])
}

#[test]
fn what_is_announced_is_found_also_after_reopening() {
    let (mut fixture, shelf) = fixture();
    let peer = PeerId::random();
    fixture.store.add_provider(provider(1, peer)).expect("room");
    fixture
        .store
        .add_provider(provider(2, fixture.local))
        .expect("room");
    for _ in 0..2 {
        let found = fixture.store.providers(&key(1));
        assert_eq!((found.len(), found[0].provider), (1, peer));
        assert_eq!(found[0].addresses, [address()]);
        assert!(found[0].expires.is_some());
        let own = fixture.store.providers(&key(2));
        assert_eq!((own.len(), own[0].provider), (1, fixture.local));
        assert!(own[0].addresses.is_empty(), "those of the moment are used");
        assert_eq!(fixture.store.provided().count(), 1);
        fixture = fixture.reopen(&shelf);
    }
    fixture.store.remove_provider(&key(1), &peer);
    let local = fixture.local;
    fixture.store.remove_provider(&key(2), &local);
    let fixture = fixture.reopen(&shelf);
    assert!(fixture.providers(&key(1)).is_empty() && fixture.providers(&key(2)).is_empty());
    assert_eq!(fixture.store.provided().count(), 0);
}

#[test]
fn a_port_is_told_until_its_time_is_over_also_after_reopening() {
    let (mut fixture, shelf) = fixture();
    let peer = PeerId::random();
    let service = Service {
        port: 8080,
        host: Some([192, 0, 2, 7].into()),
        ttl_s: 3600,
    };
    let mut record = provider(1, peer);
    record.addresses.push(service.to_address(key(1).as_ref()));
    fixture.store.add_provider(record).expect("room");
    for left in [3600, 3000, 1] {
        let found = fixture.store.providers(&key(1));
        let mut addresses = found[0].addresses.clone();
        let told = service::take(key(1).as_ref(), &mut addresses);
        let ttl_s = left;
        assert_eq!(told, Some(Service { ttl_s, ..service }));
        assert_eq!(addresses, [address()]);
        fixture = fixture.reopen(&shelf);
        let passed = if left == 3600 { 600 } else { 2999 };
        fixture.clock.advance(Duration::from_secs(passed));
    }
    assert!(fixture.providers(&key(1)).is_empty(), "it has ended");
    // Without a port it stays for as long as ever.
    fixture.store.add_provider(provider(1, peer)).expect("room");
    fixture.clock.advance(Duration::from_secs(3600));
    assert_eq!(fixture.providers(&key(1)), [peer]);
}

#[test]
fn where_a_peer_listens_does_not_take_the_place_of_a_port() {
    let (mut fixture, _) = fixture();
    let peer = PeerId::random();
    let service = Service {
        port: 8080,
        host: None,
        ttl_s: 3600,
    };
    let mut record = provider(1, peer);
    record.addresses.push(service.to_address(key(1).as_ref()));
    fixture.store.add_provider(record).expect("room");
    let many: Vec<Multiaddr> = (1..=MAX_ADDRESSES)
        .map(|n| {
            format!("/ip4/10.0.0.2/tcp/{n}")
                .parse()
                .expect("an address")
        })
        .collect();
    fixture.store.listens(peer, &many);
    let mut addresses = fixture.store.providers(&key(1))[0].addresses.clone();
    assert!(service::take(key(1).as_ref(), &mut addresses).is_some());
    assert_eq!(addresses, many[..MAX_ADDRESSES - 1]);
}

#[test]
fn this_node_tells_of_its_own_port() {
    let (mut fixture, _) = fixture();
    let local = fixture.local;
    let until = fixture.clock.now().after(Duration::from_secs(60));
    let ports = fixture.store.own.ports.clone();
    for n in [1, 2] {
        fixture
            .store
            .add_provider(provider(n, local))
            .expect("room");
    }
    ports.set(key(1).to_vec(), 8080, until);
    let mut addresses = fixture.store.providers(&key(1))[0].addresses.clone();
    let told = service::take(key(1).as_ref(), &mut addresses).expect("a port");
    assert_eq!((told.port, told.host, told.ttl_s), (8080, None, 60));
    assert_eq!(addresses, [address()]);
    assert!(fixture.store.providers(&key(2))[0].addresses.is_empty());
}

#[test]
fn announcements_expire_unless_repeated() {
    let (mut fixture, shelf) = fixture();
    let (early, late) = (PeerId::random(), PeerId::random());
    fixture
        .store
        .add_provider(provider(1, early))
        .expect("room");
    fixture.store.add_provider(provider(1, late)).expect("room");
    fixture
        .store
        .add_provider(provider(1, fixture.local))
        .expect("room");
    fixture.clock.advance(PROVIDER_TTL - Duration::from_secs(1));
    assert_eq!(fixture.providers(&key(1)).len(), 3);
    fixture.store.add_provider(provider(1, late)).expect("room");
    fixture.clock.advance(Duration::from_secs(2));
    assert_eq!(fixture.providers(&key(1)), [late]);
    fixture.clock.advance(PROVIDER_TTL);
    assert!(fixture.providers(&key(1)).is_empty());
    // The round over everything at the start takes what has expired off the shelf.
    let fixture = fixture.reopen(&shelf).reopen(&shelf);
    assert!(fixture.store.writer.all(PROVIDERS).is_empty());
    assert!(fixture.store.writer.all(OWN).is_empty());
}

#[test]
fn a_key_keeps_the_nearest_providers() {
    let (mut fixture, _) = fixture();
    let mut peers: Vec<PeerId> = (0..9).map(|_| PeerId::random()).collect();
    for peer in &peers {
        let _ = fixture.store.add_provider(provider(1, *peer));
    }
    let target = KBucketKey::new(key(1).to_vec());
    peers.sort_by_key(|peer| KBucketKey::from(*peer).distance(&target));
    let mut kept = fixture.providers(&key(1));
    kept.sort_by_key(|peer| KBucketKey::from(*peer).distance(&target));
    assert_eq!(kept, peers[..BOUNDS.providers_per_key]);
}

#[test]
fn at_the_bound_a_provider_that_should_have_been_heard_of_gives_way() {
    let (mut fixture, _) = fixture();
    let mut peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
    let target = KBucketKey::new(key(1).to_vec());
    peers.sort_by_key(|peer| KBucketKey::from(*peer).distance(&target));
    let [nearest, second, third, farthest] = peers[..] else {
        panic!("four");
    };
    for peer in [nearest, second, third] {
        let kept = fixture.store.add_provider(provider(1, peer));
        kept.expect("room");
        fixture.clock.advance(Duration::from_secs(60));
    }
    let kept = fixture.store.add_provider(provider(1, farthest));
    assert!(kept.is_err(), "all were heard of lately and are nearer");
    fixture.clock.advance(FRESH);
    for peer in [second, third] {
        let kept = fixture.store.add_provider(provider(1, peer));
        kept.expect("it is known");
    }
    let kept = fixture.store.add_provider(provider(1, farthest));
    kept.expect("the nearest has been silent for longer than it should");
    let mut kept = fixture.providers(&key(1));
    kept.sort();
    let mut expected = vec![second, third, farthest];
    expected.sort();
    assert_eq!(kept, expected);
}

#[test]
fn providers_heard_of_last_come_first_and_all_others_have_their_turn() {
    let now = Timestamp(1_000_000_000_000);
    let heard = |ago: Duration| Announced {
        peer: PeerId::random(),
        addresses: Vec::new(),
        expires: Timestamp(now.after(PROVIDER_TTL).0 - ago.as_millis() as u64),
        subnet: Subnet::None,
        port: None,
    };
    let fresh: Vec<_> = (0..50)
        .map(|n| heard(Duration::from_secs(60 * n)))
        .collect();
    let gone: Vec<_> = (0..14)
        .map(|n| heard(FRESH + Duration::from_secs(60 * n)))
        .collect();
    let mut all = [gone.clone(), fresh.clone()].concat();
    all.rotate_left(7);
    let mut named = std::collections::HashSet::new();
    for answer in 0..4 {
        let answered = by_worth(all.clone(), answer, now);
        assert_eq!(answered[..LATEST], fresh[..LATEST]);
        assert_eq!(answered[fresh.len()..], gone[..]);
        // As many as Kademlia sends.
        named.extend(answered[..20].iter().map(|one| one.peer));
    }
    assert_eq!(named.len(), fresh.len(), "each is named in one of them");
    assert_eq!(by_worth(Vec::new(), 3, now), []);
}

#[test]
fn bounds_hold_for_each_peer_and_in_all_and_after_reopening() {
    let (mut fixture, shelf) = fixture();
    let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
    for n in 0..5 {
        fixture
            .store
            .add_provider(provider(n, peers[0]))
            .expect("room");
    }
    for _ in 0..2 {
        let over = fixture.store.add_provider(provider(5, peers[0]));
        assert!(matches!(over, Err(Error::MaxProvidedKeys)), "{over:?}");
        // Repeating one is always possible.
        fixture
            .store
            .add_provider(provider(4, peers[0]))
            .expect("known");
        fixture = fixture.reopen(&shelf);
        wait_until_counted(&fixture, 5);
    }
    // The node's own keys are not bounded by what others announce.
    for n in 0..40 {
        let own = fixture.store.add_provider(provider(n, fixture.local));
        own.expect("own");
    }
    assert_eq!(fixture.store.writer.ledger.counts().providers.entries, 5);
}

/// The thread counts what is stored before it writes: once a write has gone through, everything is counted.
fn wait_until_counted(fixture: &Fixture, providers: i64) {
    while fixture.store.writer.ledger.counts().providers.entries < providers {
        std::thread::yield_now();
    }
}

#[test]
fn keys_and_addresses_are_bounded() {
    let (mut fixture, _) = fixture();
    let long = RecordKey::from(vec![0; MAX_KEY_BYTES + 1]);
    let record = ProviderRecord::new(long.clone(), PeerId::random(), vec![]);
    assert!(fixture.store.add_provider(record).is_err());
    let longest = RecordKey::from(vec![0; MAX_KEY_BYTES]);
    let many = vec![address(); MAX_ADDRESSES + 4];
    let record = ProviderRecord::new(longest.clone(), PeerId::random(), many);
    fixture.store.add_provider(record).expect("just fits");
    let found = fixture.store.providers(&longest);
    assert_eq!(found[0].addresses.len(), MAX_ADDRESSES);
}

/// Who wants to put a value, or to read what this node keeps for itself, finds no place for it here.
#[test]
fn no_value_is_put_or_told() {
    let (mut fixture, shelf) = fixture();
    let put = fixture.store.put(Record::new(key(1), vec![1]));
    assert!(put.is_err());
    let own = Value {
        value: vec![7],
        expires: None,
    };
    fixture
        .store
        .values
        .put(key(2).as_ref(), &own)
        .expect("room");
    let mut fixture = fixture.reopen(&shelf);
    assert_eq!(fixture.store.values.get(key(2).as_ref()), Some(own.clone()));
    fixture.store.remove(&key(2));
    assert_eq!(fixture.store.values.get(key(2).as_ref()), Some(own));
    assert!(fixture.store.get(&key(1)).is_none());
    assert!(fixture.store.get(&key(2)).is_none());
    assert_eq!(fixture.store.records().count(), 0);
}

#[test]
fn values_are_kept_until_they_expire() {
    let (fixture, shelf) = fixture();
    let value = |expires| Value {
        value: b"head".to_vec(),
        expires,
    };
    let hour = Duration::from_secs(3600);
    let soon = fixture.clock.now().after(hour);
    for (n, expires) in [(1, Some(soon)), (2, None)] {
        let put = fixture.store.values.put(key(n).as_ref(), &value(expires));
        put.expect("room");
    }
    let fixture = fixture.reopen(&shelf);
    let there = |n| fixture.store.values.get(key(n).as_ref());
    assert_eq!(there(1), Some(value(Some(soon))));
    fixture.clock.advance(hour);
    assert_eq!((there(1), there(2)), (None, Some(value(None))));
}

#[test]
fn unreadable_values_are_ignored_and_removed() {
    let (fixture, shelf) = fixture();
    let fixture = {
        let Fixture {
            store,
            thread,
            clock,
            local,
        } = fixture;
        drop(store);
        thread.join();
        open(&shelf, &clock, local)
    };
    for table in [PROVIDERS, VALUES, OWN] {
        shelf
            .put(table, key(1).as_ref(), b"\xffgarbage")
            .expect("memory");
        shelf
            .put(table, key(2).as_ref(), b"\x08\x09")
            .expect("memory");
    }
    for n in 1..=2 {
        assert!(fixture.store.providers(&key(n)).is_empty());
        assert!(fixture.store.values.get(key(n).as_ref()).is_none());
    }
    let Fixture { store, thread, .. } = fixture;
    drop(store);
    thread.join();
    for table in [PROVIDERS, VALUES, OWN] {
        let left = shelf.scan_prefix(table, &[], None, 10).expect("memory");
        assert!(left.is_empty(), "table {table}");
    }
}

/// A shelf whose writes wait for the test.
struct Stuck {
    inner: MemoryShelf,
    gate: std::sync::Mutex<Receiver<()>>,
}

impl Stuck {
    fn new() -> (Arc<Self>, SyncSender<()>) {
        let (open, gate) = sync_channel(0);
        let stuck = Self {
            inner: MemoryShelf::new(),
            gate: gate.into(),
        };
        (Arc::new(stuck), open)
    }
}

impl RecordShelf for Stuck {
    fn get(&self, table: u8, key: &[u8]) -> std::result::Result<Option<Bytes>, ShelfError> {
        self.inner.get(table, key)
    }
    fn put(&self, table: u8, key: &[u8], value: &[u8]) -> std::result::Result<(), ShelfError> {
        // Open once the other end is dropped.
        let _ = self.gate.lock().expect("not poisoned").recv();
        self.inner.put(table, key, value)
    }
    fn remove(&self, table: u8, key: &[u8]) -> std::result::Result<(), ShelfError> {
        self.inner.remove(table, key)
    }
    fn scan_prefix(
        &self,
        table: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> std::result::Result<Vec<(Bytes, Bytes)>, ShelfError> {
        self.inner.scan_prefix(table, prefix, after, limit)
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_blocks_nobody() {
    let (shelf, open) = Stuck::new();
    let local = PeerId::random();
    let clock = Arc::new(ManualClock::default());
    let opened = ShelfStore::open(
        local,
        shelf.clone(),
        clock.clone(),
        Bounds::default(),
        own(&clock),
    );
    let (mut store, thread) = opened.expect("threads start");
    let peer = PeerId::random();
    let record = |n: usize| ProviderRecord::new(n.to_be_bytes().to_vec(), peer, vec![]);
    let mut kept = 0;
    // The thread may hold one besides those in the queue.
    while store.add_provider(record(kept)).is_ok() {
        kept += 1;
    }
    assert!(
        (MAX_WAITING_WRITES..=MAX_WAITING_WRITES + 1).contains(&kept),
        "{kept}"
    );
    assert_eq!(store.dropped_writes(), 1);
    let entries = store.writer.ledger.counts().providers.entries;
    assert_eq!(entries, kept as i64);
    // What waits is found, and can be changed in place.
    assert_eq!(store.providers(&record(kept - 1).key).len(), 1);
    store
        .add_provider(record(kept - 1))
        .expect("it waits already");
    drop(open);
    drop(store);
    thread.join();
    let written = shelf
        .scan_prefix(PROVIDERS, &[], None, 2 * kept)
        .expect("memory");
    assert_eq!(written.len(), kept);
}

/// A shelf with little room, which takes no value longer than the real one does, and nothing at all
/// when it is out of order.
struct Small {
    inner: MemoryShelf,
    room_bytes: u64,
    out_of_order: std::sync::atomic::AtomicBool,
}

impl Small {
    fn new(room_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            inner: MemoryShelf::new(),
            room_bytes,
            out_of_order: false.into(),
        })
    }

    fn entries(&self, table: u8) -> Vec<(Bytes, Bytes)> {
        let all = self.inner.scan_prefix(table, &[], None, usize::MAX);
        all.expect("memory")
    }
}

impl RecordShelf for Small {
    fn get(&self, table: u8, key: &[u8]) -> std::result::Result<Option<Bytes>, ShelfError> {
        self.inner.get(table, key)
    }
    fn put(&self, table: u8, key: &[u8], value: &[u8]) -> std::result::Result<(), ShelfError> {
        if value.len() > MAX_PROVIDERS_BYTES || self.out_of_order.load(Ordering::Relaxed) {
            return Err(ShelfError("it is refused".into()));
        }
        self.inner.put(table, key, value)
    }
    fn remove(&self, table: u8, key: &[u8]) -> std::result::Result<(), ShelfError> {
        self.inner.remove(table, key)
    }
    fn scan_prefix(
        &self,
        table: u8,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> std::result::Result<Vec<(Bytes, Bytes)>, ShelfError> {
        self.inner.scan_prefix(table, prefix, after, limit)
    }
    fn room_bytes(&self) -> u64 {
        self.room_bytes
    }
}

fn over(shelf: &Arc<Small>, bounds: Bounds) -> Fixture {
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    open_with(shelf.clone(), &clock, PeerId::random(), bounds)
}

impl Fixture {
    /// A peer that is connected from an address.
    fn peer_at(&mut self, ip: &str) -> PeerId {
        let peer = PeerId::random();
        let from = format!("/ip4/{ip}/tcp/1").parse().expect("an address");
        self.store.came(peer, &from);
        peer
    }

    fn announce(&mut self, n: u32, peer: PeerId) -> Result<()> {
        let key = RecordKey::from(n.to_be_bytes().to_vec());
        let record = ProviderRecord::new(key, peer, vec![address()]);
        self.store.add_provider(record)
    }

    /// Waits until everything is written that waits, and room is made. Gives the accounts.
    fn settle(self) -> Counts {
        let ledger = self.store.writer.ledger.clone();
        drop(self.store);
        self.thread.join();
        ledger.counts().clone()
    }
}

#[test]
fn peers_with_long_addresses_keep_nobody_out_of_a_key() {
    let shelf = Small::new(1 << 30);
    let mut fixture = over(&shelf, Bounds::default());
    let long = |n: usize| -> Multiaddr {
        let name = "a".repeat(230 + n);
        format!("/dns4/{name}/tcp/1").parse().expect("an address")
    };
    for _ in 0..PROVIDERS_PER_KEY - 1 {
        let addresses = (0..8).map(long).collect();
        let record = ProviderRecord::new(key(1), PeerId::random(), addresses);
        fixture.store.add_provider(record).expect("room");
    }
    let honest = PeerId::random();
    let added = fixture.store.add_provider(provider(1, honest));
    added.expect("there is a place");
    let counts = fixture.settle();
    let [(_, stored)] = &shelf.entries(PROVIDERS)[..] else {
        panic!("it was not written");
    };
    let stored = read_announced(stored.clone()).expect("readable");
    assert_eq!(stored.len(), PROVIDERS_PER_KEY);
    assert!(stored.iter().any(|one| one.peer == honest));
    assert_eq!(counts.providers.entries, PROVIDERS_PER_KEY as i64);
}

#[test]
fn what_could_not_be_written_is_on_nobodys_account() {
    let shelf = Small::new(1 << 30);
    let bounds = Bounds {
        providers_per_peer: 50,
        ..Bounds::default()
    };
    let mut fixture = over(&shelf, bounds);
    let peer = PeerId::random();
    fixture.announce(0, peer).expect("room");
    while shelf.entries(PROVIDERS).is_empty() {
        std::thread::yield_now();
    }
    shelf.out_of_order.store(true, Ordering::Relaxed);
    for n in 0..50 {
        fixture.announce(n, peer).expect("it is not yet known");
    }
    let counts = fixture.settle();
    assert_eq!(counts.providers.entries, 1, "the one that is there");
    assert_eq!(counts.providers.of_peer, HashMap::from([(peer, 1)]));
}

#[test]
fn announcements_stay_within_their_part_of_the_disk() {
    let room_bytes = 64_000;
    let shelf = Small::new(room_bytes);
    let mut fixture = over(&shelf, Bounds::default());
    for n in 0..20_000 {
        // Each from a subnet of its own.
        let [_, a, b, c] = (n + 1_u32).to_be_bytes();
        let peer = fixture.peer_at(&format!("20.{b}.{c}.{a}"));
        let _ = fixture.announce(n, peer);
        fixture.store.gone(&peer);
    }
    let counts = fixture.settle();
    let entries = shelf.entries(PROVIDERS);
    let bytes = entries.iter().map(|(key, value)| key.len() + value.len());
    let bytes: usize = bytes.sum();
    assert!(bytes > 10_000, "{bytes}");
    assert!(bytes as u64 <= room_bytes * 3 / 4, "{bytes}");
    assert_eq!(counts.providers.entries, entries.len() as i64);
}

#[test]
fn the_largest_subnet_gives_way_to_others() {
    let shelf = Small::new(1 << 30);
    let bounds = Bounds {
        providers: 400,
        ..Bounds::default()
    };
    let mut fixture = over(&shelf, bounds);
    // Each from a peer id of its own.
    for n in 0..2_000 {
        let sybil = fixture.peer_at("66.6.6.6");
        let _ = fixture.announce(n, sybil);
    }
    let honest = fixture.peer_at("8.8.8.8");
    for n in 5_000..5_100 {
        let mut tries = 0;
        // The thread may be behind: announcements come again.
        while fixture.announce(n, honest).is_err() {
            tries += 1;
            assert!(tries < 100_000, "{n} is kept out");
            std::thread::yield_now();
        }
    }
    for n in 2_000..4_000 {
        let sybil = fixture.peer_at("66.6.6.7");
        let _ = fixture.announce(n, sybil);
    }
    let counts = fixture.settle();
    assert_eq!(counts.providers.of_peer(&honest), 100);
    assert!(counts.providers.entries <= bounds.providers + bounds.providers / 16);
}

#[test]
fn the_farthest_keys_give_way_when_all_come_from_one_subnet() {
    let shelf = Small::new(1 << 30);
    let bounds = Bounds {
        providers: 200,
        ..Bounds::default()
    };
    let mut fixture = over(&shelf, bounds);
    let local = KBucketKey::from(fixture.local);
    let peer = fixture.peer_at("66.6.6.6");
    for n in 0..4_000 {
        let _ = fixture.announce(n, peer);
    }
    fixture.settle();
    let distance = |key: &[u8]| local.distance(&KBucketKey::new(key.to_vec()));
    let keys = (0..4_000_u32).map(|n| n.to_be_bytes());
    let mut all: Vec<_> = keys.map(|key| distance(&key)).collect();
    all.sort();
    let entries = shelf.entries(PROVIDERS);
    let mut kept: Vec<_> = entries.iter().map(|(key, _)| distance(key)).collect();
    kept.sort();
    let (middle, of_all) = (kept[kept.len() / 2], all[all.len() / 2]);
    assert!(middle < of_all, "{middle:?} {of_all:?}");
}

#[test]
fn a_crowd_on_one_host_keeps_nobody_out_of_a_key_and_hides_nobody() {
    let shelf = Small::new(1 << 30);
    let mut fixture = over(&shelf, Bounds::default());
    let sybils = |fixture: &mut Fixture| {
        for _ in 0..2 * PROVIDERS_PER_KEY {
            let sybil = fixture.peer_at("66.6.6.6");
            let _ = fixture.store.add_provider(provider(1, sybil));
        }
    };
    sybils(&mut fixture);
    let honest: Vec<PeerId> = (1..=10)
        .map(|n| fixture.peer_at(&format!("8.8.{n}.8")))
        .collect();
    for peer in &honest {
        let added = fixture.store.add_provider(provider(1, *peer));
        added.expect("the crowd gives way");
    }
    fixture.clock.advance(Duration::from_secs(60));
    sybils(&mut fixture);
    // As many as Kademlia sends.
    let answered: Vec<PeerId> = fixture.providers(&key(1))[..20].to_vec();
    let named = honest.iter().filter(|peer| answered.contains(peer));
    assert_eq!(named.count(), honest.len());
}
