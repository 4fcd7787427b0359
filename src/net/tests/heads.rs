//! Owners' head records that a net has.

use super::*;
use crate::block::Link;
use crate::crypto::key::Key;
use crate::head::{HeadEntry, HeadRecord, certify, sealing_key};
use crate::net::providers::Error;
use crate::time::{ManualClock, Timestamp};
use ed25519_dalek::SigningKey;

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

async fn start_with(records: Arc<MemoryShelf>, config: NetConfig) -> Net {
    let services = Services {
        blocks: Shelf::new(),
        records,
    };
    within(Net::start(config, services)).await.expect("starts")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_head_survives_and_takes_in_what_is_new() {
    let owner = Owner::new(1);
    let (record, newer) = (owner.record(&[3]), owner.record(&[4]));
    let shelf = Arc::new(MemoryShelf::new());
    let clock = Arc::new(ManualClock::default());
    clock.advance(Duration::from_secs(1_000_000));
    let config = NetConfig {
        clock: clock.clone(),
        ..memory()
    };
    let holder = start_with(shelf.clone(), config.clone()).await;
    let heads = holder.heads();
    let mut changes = heads.watch_kept();
    assert_eq!(heads.keep(record.clone()).await, Ok(record.clone()));
    assert!(changes.has_changed().expect("the net lives"));
    changes.mark_unchanged();
    assert_eq!(heads.keep(record.clone()).await, Ok(record.clone()));
    assert!(!changes.has_changed().expect("the net lives"), "only once");
    within(holder.shutdown()).await;

    // Years later, in another run.
    clock.advance(Duration::from_secs(3 * 365 * 24 * 3600));
    let holder = start_with(shelf.clone(), config.clone()).await;
    let heads = holder.heads();
    assert_eq!(heads.kept().await, Ok(vec![owner.id()]));
    assert_eq!(heads.local(owner.id()).await, Ok(Some(record.clone())));
    // What is told later is merged into what is kept, which stays kept.
    let answers = vec![(PeerId::random(), newer.encode())];
    let verdict = heads.judge(owner.id(), answers, true).await;
    let both = verdict.expect("it runs").record.expect("it holds");
    assert!(both.has_all_of(&newer) && both.has_all_of(&record));
    clock.advance(crate::net::providers::HEAD_TTL);
    assert_eq!(heads.local(owner.id()).await, Ok(Some(both)));
    // Released, it expires.
    assert_eq!(heads.release(owner.id()).await, Ok(true));
    assert_eq!(heads.release(owner.id()).await, Ok(false));
    assert_eq!(heads.kept().await, Ok(vec![]));
    assert!(heads.local(owner.id()).await != Ok(None));
    clock.advance(crate::net::providers::HEAD_TTL);
    assert_eq!(heads.local(owner.id()).await, Ok(None));
    within(holder.shutdown()).await;
    assert_eq!(heads.kept().await, Err(Error::Stopping));
}
