//! Owners' head records among many.

use super::mesh::mesh;
use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::head::{HeadEntry, HeadRecord, MAX_MACHINES, certify, sealing_key};
use crate::net::providers::{Error, HeadStats, RecordShelf};
use crate::time::{ManualClock, Timestamp};
use ed25519_dalek::SigningKey;
use tokio::sync::oneshot;

/// An owner with the machines that sign for it.
struct Owner(SigningKey);

impl Owner {
    fn new(n: u8) -> Self {
        Self(SigningKey::from_bytes(&[n; 32]))
    }

    fn id(&self) -> BlockId {
        crate::head::head_id(&self.0.verifying_key().to_bytes())
    }

    fn entry_by(&self, certifier: &SigningKey, machine: u8, sequence: u64) -> HeadEntry {
        let machine = SigningKey::from_bytes(&[100 + machine; 32]);
        let link = Link {
            id: BlockId::from_sha384([sequence as u8; 48]),
            key: Key::new([1; 32]),
        };
        HeadEntry::sign(
            &self.0.verifying_key().to_bytes(),
            &machine,
            &certify(certifier, &machine.verifying_key().to_bytes()),
            sequence,
            sequence,
            &link,
            &sealing_key(&[9; 32]),
        )
    }

    /// A record of machines 0, 1, ... with these sequences; those of 0 are left out.
    fn record(&self, sequences: &[u64]) -> HeadRecord {
        let entries = (0..).zip(sequences).filter(|(_, sequence)| **sequence > 0);
        let records =
            entries.map(|(n, sequence)| HeadRecord::new(self.entry_by(&self.0, n, *sequence)));
        records
            .reduce(|a, b| a.merge(&b, Timestamp(0)).expect("one owner"))
            .expect("at least one")
    }
}

fn sequences(record: Option<HeadRecord>) -> Vec<u64> {
    let record = record.expect("it is found");
    let mut sequences: Vec<u64> = record.newest().map(HeadEntry::sequence).collect();
    sequences.sort_unstable();
    sequences
}

/// Whether a net has a record with all entries of another one.
fn has_all_of(local: &Option<HeadRecord>, record: &HeadRecord) -> bool {
    local.as_ref().is_some_and(|local| local.has_all_of(record))
}

/// Puts any bytes under any key with one peer, as libp2p's Kademlia would.
async fn put(from: &Net, to: &Net, key: Vec<u8>, value: Vec<u8>) {
    let (reply, stored) = oneshot::channel();
    let command = crate::net::providers::Command::PutValue {
        key,
        value,
        peers: vec![to.peer_id()],
        reply,
    };
    let sent = from.heads().mailbox.send(command).await;
    sent.expect("the net lives");
    assert_eq!(within(stored).await, Ok(1));
}

/// Waits until a net's statistics fit.
async fn wait_stats(net: &Net, fits: impl Fn(HeadStats) -> bool) {
    within(async {
        while !fits(net.heads().stats()) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Waits until a net itself has a record that fits.
async fn wait_local(net: &Net, id: BlockId, fits: impl Fn(&Option<HeadRecord>) -> bool) {
    within(async {
        while !fits(&net.heads().local(id).await.expect("it runs")) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_publishes_all_find_and_it_only_grows() {
    let nets = mesh(6).await;
    let nets: Vec<&Net> = nets.iter().map(|(net, _)| net).collect();
    let owner = Owner::new(1);
    let nobody = within(nets[4].heads().find(owner.id())).await;
    assert_eq!(nobody, Ok(None));

    let newer = owner.record(&[5, 2]);
    let report = within(nets[1].heads().publish(newer.clone())).await;
    let report = report.expect("published");
    assert!(
        report.stored_by >= 1 && report.stored_by <= report.asked && report.asked <= 5,
        "{report:?}"
    );
    wait_local(nets[0], owner.id(), |local| local.as_ref() == Some(&newer)).await;
    let found = within(nets[4].heads().find(owner.id())).await;
    assert_eq!(found, Ok(Some(newer.clone())));

    // An older record with another machine adds what is new in it and takes nothing back, wherever it comes from.
    let older = owner.record(&[3, 0, 7]);
    within(nets[3].heads().publish(older))
        .await
        .expect("published");
    let found = within(nets[2].heads().find(owner.id())).await;
    assert_eq!(sequences(found.expect("it runs")), [2, 5, 7]);
    wait_local(nets[0], owner.id(), |local| {
        sequences(local.clone()) == [2, 5, 7]
    })
    .await;

    // A whole record of the largest size goes through too.
    let large = Owner::new(2);
    let full = large.record(&[9; MAX_MACHINES]);
    within(nets[5].heads().publish(full.clone()))
        .await
        .expect("published");
    let found = within(nets[2].heads().find(large.id())).await;
    assert_eq!(found, Ok(Some(full)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_records_are_refused_and_counted() {
    let (a, b) = pair(Shelf::new()).await;
    let (owner, other) = (Owner::new(1), Owner::new(2));
    let key = owner.id().to_multihash();
    let good = owner.record(&[3]);
    let mut bad_signature = good.encode();
    *bad_signature.last_mut().expect("not empty") ^= 1;
    let own_machine = HeadRecord::new(owner.entry_by(&other.0, 1, 9));
    let forged = [
        bad_signature,
        own_machine.encode(),
        other.record(&[9]).encode(),
        vec![0; crate::head::MAX_RECORD_BYTES + 1],
        b"not a record".to_vec(),
    ];
    for (n, bytes) in (1..).zip(&forged) {
        put(&a, &b, key.clone(), bytes.clone()).await;
        wait_stats(&b, |stats| stats.refused == n).await;
    }
    // Nor is there a place for anything else.
    put(&a, &b, b"some key".to_vec(), b"some value".to_vec()).await;
    wait_stats(&b, |stats| stats.refused == 6).await;
    assert_eq!(b.heads().local(owner.id()).await, Ok(None));
    // A record that does not hold is not published in the first place.
    let refused = a.heads().publish(own_machine.clone()).await;
    assert!(matches!(refused, Err(Error::Head(_))), "{refused:?}");
    let refused = a.heads().keep(own_machine).await;
    assert!(matches!(refused, Err(Error::Head(_))), "{refused:?}");

    put(&a, &b, key, good.encode()).await;
    wait_local(&b, owner.id(), |local| local.as_ref() == Some(&good)).await;
    assert_eq!(
        within(a.heads().find(owner.id())).await,
        Ok(Some(good.clone()))
    );
}

/// Puts bytes straight onto a shelf, as a peer that lies would have them.
fn lying_shelf(owner: &Owner, bytes: Vec<u8>) -> Arc<MemoryShelf> {
    use prost::Message;
    let stored = crate::wire::dht::StoredValue {
        version: 2,
        value: bytes.into(),
        publisher: Bytes::new(),
        expires_ms: 0,
        subnet: Bytes::new(),
    };
    let shelf = Arc::new(MemoryShelf::new());
    let key = owner.id().to_multihash();
    shelf.put(2, &key, &stored.encode_to_vec()).expect("memory");
    shelf
}

async fn start_with(records: Arc<MemoryShelf>, config: NetConfig) -> Net {
    let services = Services {
        blocks: Shelf::new(),
        records,
    };
    within(Net::start(config, services)).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_outlives_liars_and_updates_the_stale() {
    let owner = Owner::new(1);
    let mut broken = owner.record(&[9]).encode();
    *broken.last_mut().expect("not empty") ^= 1;
    let (older, newer) = (owner.record(&[3, 4]), owner.record(&[5]));
    let liar = start_with(lying_shelf(&owner, broken), memory()).await;
    let bootstrap = liar.listen_addresses();
    let near = || NetConfig {
        bootstrap: bootstrap.clone(),
        ..memory()
    };
    let stale = start_with(lying_shelf(&owner, older.encode()), near()).await;
    let fresh = start_with(lying_shelf(&owner, newer.encode()), near()).await;
    let reader = start_with(Arc::default(), near()).await;
    for net in [&liar, &stale, &fresh] {
        connect(&reader, net).await;
    }
    let mut events = reader.events();
    let found = within(async {
        loop {
            let found = reader.heads().find(owner.id()).await.expect("it runs");
            let refused = reader.heads().stats().refused;
            if let Some(found) = found
                && found.newest().count() == 2
                && refused > 0
            {
                return found;
            }
            // Not all of them are in the routing table yet.
            let _ = events.recv().await;
        }
    })
    .await;
    assert_eq!(sequences(Some(found.clone())), [4, 5]);
    wait_local(&stale, owner.id(), |local| has_all_of(local, &found)).await;
    // The reader has nothing of its own by that.
    assert_eq!(reader.heads().local(owner.id()).await, Ok(None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_head_survives_and_brings_a_newcomer_up_to_date() {
    let owner = Owner::new(1);
    let record = owner.record(&[3]);
    let publisher = start(memory(), &Shelf::new()).await;
    let shelf = Arc::new(MemoryShelf::new());
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    let config = NetConfig {
        clock: clock.clone(),
        ..memory()
    };
    let holder = start_with(shelf.clone(), config.clone()).await;
    connect(&holder, &publisher).await;
    within(publisher.heads().publish(record.clone()))
        .await
        .expect("published");
    let found = within(async {
        loop {
            if let Some(found) = holder.heads().find(owner.id()).await.expect("it runs") {
                return found;
            }
        }
    })
    .await;
    let mut changes = holder.heads().watch_kept();
    assert_eq!(holder.heads().keep(found.clone()).await, Ok(record.clone()));
    assert!(changes.has_changed().expect("the net lives"));
    changes.mark_unchanged();
    assert_eq!(holder.heads().keep(found).await, Ok(record.clone()));
    assert!(!changes.has_changed().expect("the net lives"), "only once");
    within(publisher.shutdown()).await;
    within(holder.shutdown()).await;

    // Years later, in another run, with nobody else left.
    clock.advance(Duration::from_secs(3 * 365 * 24 * 3600));
    let holder = start_with(shelf.clone(), config.clone()).await;
    assert_eq!(holder.heads().kept().await, Ok(vec![owner.id()]));
    assert_eq!(
        holder.heads().local(owner.id()).await,
        Ok(Some(record.clone()))
    );
    let newcomer = start(memory(), &Shelf::new()).await;
    connect(&newcomer, &holder).await;
    within(async {
        loop {
            let report = holder.heads().publish(record.clone()).await;
            if report.expect("published").stored_by > 0 {
                return;
            }
        }
    })
    .await;
    wait_local(&newcomer, owner.id(), |local| {
        local.as_ref() == Some(&record)
    })
    .await;
    // What others put is merged into what is kept, which stays kept.
    let newer = owner.record(&[4]);
    within(newcomer.heads().publish(newer.clone()))
        .await
        .expect("published");
    wait_local(&holder, owner.id(), |local| has_all_of(local, &newer)).await;
    clock.advance(crate::net::providers::HEAD_TTL);
    let local = holder.heads().local(owner.id()).await.expect("it runs");
    assert!(has_all_of(&local, &newer) && has_all_of(&local, &record));
    // Released, it expires.
    assert_eq!(holder.heads().release(owner.id()).await, Ok(true));
    assert_eq!(holder.heads().release(owner.id()).await, Ok(false));
    assert_eq!(holder.heads().kept().await, Ok(vec![]));
    assert!(holder.heads().local(owner.id()).await != Ok(None));
    clock.advance(crate::net::providers::HEAD_TTL);
    assert_eq!(holder.heads().local(owner.id()).await, Ok(None));
    within(holder.shutdown()).await;
}

#[tokio::test]
async fn alone_a_head_is_stored_here() {
    let net = start(memory(), &Shelf::new()).await;
    let owner = Owner::new(1);
    let record = owner.record(&[1]);
    let report = within(net.heads().publish(record.clone())).await;
    assert_eq!(report, Ok(crate::net::providers::PublishReport::default()));
    assert_eq!(within(net.heads().find(owner.id())).await, Ok(Some(record)));
    let heads = net.heads();
    within(net.shutdown()).await;
    assert_eq!(heads.find(owner.id()).await, Err(Error::Stopping));
}
