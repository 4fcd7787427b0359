//! The job with a meeting point of the tests' own, and nets that talk over loopback.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use libp2p::identity::Keypair;

use super::*;
use crate::depot::Pending;
use crate::depot::serve::Server;
use crate::net::providers::MemoryShelf;
use crate::net::{NetConfig, Services};
use crate::store::{MemoryStore, StoreOptions};
use crate::task::Workers;
use crate::time::SystemClock;

const LONG: Duration = Duration::from_secs(120);

/// A meeting point in memory, where everybody is on loopback.
#[derive(Default)]
struct Board {
    told: Mutex<HashMap<Key, Vec<SocketAddrV4>>>,
    opened: AtomicUsize,
    asked: AtomicUsize,
}

#[async_trait]
impl Point for Board {
    async fn announce(&self, key: Key, port: u16) -> Result<(), Error> {
        let mut told = self.told.lock().expect("not poisoned");
        let told = told.entry(key).or_default();
        told.push(SocketAddrV4::new([127, 0, 0, 1].into(), port));
        Ok(())
    }

    async fn ask(
        &self,
        key: Key,
        found: mpsc::Sender<(Key, Vec<SocketAddrV4>)>,
    ) -> Result<(), Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let told = self.told.lock().expect("not poisoned").get(&key).cloned();
        // Nobody may be listening any more.
        let _ = found.send((key, told.unwrap_or_default())).await;
        Ok(())
    }
}

struct Member {
    depot: Depot,
    meeting: Meeting,
    workers: Workers,
}

impl Member {
    async fn start(board: &Arc<Board>, network: &str, meeting: Meeting) -> Self {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(StoreOptions::default()));
        let server = Arc::new(Server::new(store.clone()));
        let services = Services {
            blocks: server.clone(),
            records: Arc::new(MemoryShelf::new()),
        };
        let config = NetConfig {
            network: network.to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
            mdns: false,
            ..NetConfig::new(Keypair::generate_ed25519())
        };
        let net = Net::start(config, services).await.expect("it starts");
        let depot = Depot::new(store, net, &server, Arc::new(Pending::default()));
        let board = board.clone();
        let setup = Setup {
            depot: depot.clone(),
            // All meet under the key of one network: anybody can.
            network: "libernet".to_owned(),
            meeting: meeting.clone(),
            open: Box::new(move || {
                board.opened.fetch_add(1, Ordering::Relaxed);
                board.clone()
            }),
            takes_private: true,
            serves: true,
            roots: true,
            backup_pin: "a backup",
            clock: Arc::new(SystemClock),
        };
        let mut workers = Workers::default();
        workers.spawn("meet", |c, s| run(setup, c, s));
        Self {
            depot,
            meeting,
            workers,
        }
    }

    async fn meets(&self, other: &Self) {
        let (mut connected, peer) = (
            self.depot.net().peers().watch_connected(),
            other.depot.net().peer_id(),
        );
        let met = connected.wait_for(|peers| peers.contains(&peer));
        let met = tokio::time::timeout(LONG, met).await;
        drop(met.expect("in time").expect("the net lives"));
    }

    /// Waits until the report fits.
    async fn reports(&self, fits: impl Fn(&Report) -> bool) {
        let wait = async {
            while !fits(&self.meeting.report()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(LONG, wait).await.expect("in time");
    }

    async fn stop(self) {
        assert!(self.workers.stop(LONG).await.is_empty());
        self.depot.net().clone().shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_who_joined_meet_and_who_did_not_sends_nothing() {
    let (board, empty) = (Arc::<Board>::default(), Arc::<Board>::default());
    let outside = Member::start(&empty, "libernet", Meeting::new(true, false)).await;
    let off = Member::start(&empty, "libernet", Meeting::new(false, true)).await;
    let one = Member::start(&board, "libernet", Meeting::new(true, true)).await;
    let late = Member::start(&board, "libernet", Meeting::new(true, false)).await;
    one.reports(|report| report.announced > 0).await;
    assert_eq!(late.meeting.report(), Report::default());
    late.meeting.join(true);
    late.meets(&one).await;
    late.reports(|report| !report.ways.is_empty()).await;
    let way = late.meeting.report().ways[0].clone();
    assert_eq!(way.peer, one.depot.net().peer_id());
    assert!(late.meeting.report().answered.is_some());

    // By now a node that may not would have asked, too.
    assert_eq!(outside.meeting.report(), Report::default());
    assert_eq!(off.meeting.report(), Report::default());
    assert_eq!(empty.opened.load(Ordering::Relaxed), 0);
    let head = BlockId::from_sha384([3; 48]);
    let want = outside.meeting.want(Topic::Head(head), Duration::ZERO);
    outside.reports(|report| report.asked > 0).await;
    drop(want);
    assert!(
        off.meeting
            .want(Topic::Head(head), Duration::ZERO)
            .is_none()
    );
    assert_eq!(empty.opened.load(Ordering::Relaxed), 1);
    assert!(empty.told.lock().expect("not poisoned").is_empty());
    for member in [outside, off, one, late] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_of_another_network_is_not_dialled_twice() {
    let board = Arc::<Board>::default();
    let foreign = Member::start(&board, "foreign", Meeting::new(true, true)).await;
    foreign.reports(|report| report.announced > 0).await;
    let one = Member::start(&board, "libernet", Meeting::new(true, true)).await;
    one.reports(|report| report.dialled > 0 && report.answered.is_some())
        .await;
    // Each round of searches tells the same address again. A connection that the other end closed
    // before it said who it is has shown nothing, and is tried once more.
    let settled = async {
        loop {
            let before = one.meeting.report();
            one.reports(|report| report.asked > before.asked + 4).await;
            if one.meeting.report().dialled == before.dialled {
                return;
            }
        }
    };
    let settled = tokio::time::timeout(LONG, settled).await;
    settled.expect("it is dialled no more");
    assert!(one.meeting.report().ways.is_empty());
    for member in [foreign, one] {
        member.stop().await;
    }
}
