//! The composition root: builds a node from its parts, stops them in order, and answers calls.
//!
//! A [`Node`] holds the data directory (the store's lock keeps everyone else out), listens on the
//! network, and runs the background work. Commands and the local HTTP server talk to it by the
//! calls in [`api`], each a method of the same name.
//!
//! Order of starting: key, store, network, depot, background work. Order of stopping: searches end, calls are waited for, background
//! work is joined, the network is shut down, the store is flushed.

pub mod api;
mod backup;
mod blocks;
mod copies;
mod failure;
mod files;
mod giving;
mod health;
mod held;
pub mod identity;
mod keeper;
mod leave;
mod like;
mod meet;
mod memory;
mod mesh;
mod metrics;
mod owner;
mod pins;
mod problems;
mod rebuild;
mod release;
mod remembered;
mod rings;
mod schedule;
mod sets;
mod settings;
mod shelf;
mod status;
mod ticket;

pub use rebuild::rebuild;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use libp2p::Multiaddr;
use libp2p::identity::Keypair;
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backup::Home;
use crate::bundle::{Own, mark_store};
use crate::config::Config;
use crate::depot::ledger::Ledger;
use crate::depot::serve::Server;
use crate::depot::{Depot, Heads as Keepers, Pending};
use crate::descriptors;
use crate::net::exchange::Rates;
use crate::net::pace::Pace;
use crate::net::reach::Reachable;
use crate::net::{self, Limits, Net, NetConfig, Services};
use crate::ring::{self, Rings, RingsFile};
use crate::store::{self, Access, RocksStore, Store, StoreOptions};
use crate::task::{WorkerState, Workers};
use crate::time::{self, Clock, SteadyClock, SystemClock, Timestamp};
use crate::upkeep;
use api::*;

/// Directory of the store below the data directory.
const STORE_DIR: &str = "store";
/// Name of the ledger of peers in the data directory.
const LEDGER_FILE: &str = "ledger.json";
/// How long calls under way may take to end when the node stops.
const CALL_PATIENCE: Duration = Duration::from_millis(1500);
/// How long background work may take to end when the node stops.
const WORKER_PATIENCE: Duration = Duration::from_millis(1500);
/// Events that a slow listener may be behind before it misses some.
const EVENT_QUEUE: usize = 256;
/// Names of the pins of backups: blocks that nothing else needs are not announced.
const BACKUP_PINS: [&str; 1] = [crate::backup::SNAPSHOT_PIN];
/// Connections are at most this part of the descriptors that the process may have.
const SHARE_OF_DESCRIPTORS: u64 = 8;

/// Purpose of starting a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// To run until it is stopped: the data directory must be writable.
    #[default]
    Serve,
    /// To carry out one command. Where the disk is full or read-only, it may still read.
    Command,
    /// As [`Command`](Self::Command), for one that gives people back what they have stored: a
    /// damaged file of rings does not stop it.
    GiveBack,
    /// To carry out one command that removes something. On a full disk it may use the room that is
    /// set aside for this.
    MakeRoom,
}

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Purpose of starting it.
    pub purpose: Purpose,
    /// Settings.
    pub config: Config,
    /// Those of them that come from flags or the environment, by name: they hold whatever the file says when it is read again.
    pub overrides: BTreeMap<String, String>,
    /// Where everything is kept; made when missing.
    pub data_dir: PathBuf,
    /// Base URL of the local HTTP server, for `status`.
    pub http: Option<String>,
}

/// A running node. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

struct Inner {
    options: NodeOptions,
    settings: settings::Settings,
    depot: Depot,
    clock: Arc<dyn Clock>,
    leaving: leave::Leaving,
    /// What this machine has of its owner's.
    home: Arc<Home>,
    unlocked: backup::Unlocked,
    /// Whose turn it is to back up a set.
    turns: backup::Turns,
    /// Failures of the last scheduled runs.
    schedule: schedule::Record,
    /// What is wrong, and what was told of it.
    problems: problems::Record,
    /// Ports of other programs that are announced.
    services: Arc<upkeep::services::Services>,
    /// Progress of announcing blocks.
    announced: Arc<upkeep::announce::Report>,
    /// Copies of this machine's backups on others.
    copies: Arc<upkeep::replicate::Copies>,
    rings_file: Arc<RingsFile>,
    meeting: upkeep::meet::Meeting,
    started: Instant,
    events: broadcast::Sender<NodeEvent>,
    bootstrapped: Arc<AtomicBool>,
    twin: Arc<Twin>,
    worker_states: Vec<Arc<WorkerState>>,
    workers: Mutex<Option<Workers>>,
    /// Fires when the node stops: work on files ends at the next block.
    stop: CancellationToken,
    /// Long calls under way.
    calls: TaskTracker,
}

/// What happens on a node, for `up --json` and logs.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum NodeEvent {
    /// A peer connected.
    PeerConnected {
        /// The peer.
        peer: String,
    },
    /// The last connection to a peer closed.
    PeerGone {
        /// The peer.
        peer: String,
    },
    /// The node listens on one more address.
    Listening {
        /// The address.
        address: String,
    },
    /// The DHT has been joined.
    Bootstrapped {},
    /// Whether others can reach the node from outside has changed.
    Reachable {
        /// `public`, `relay`, `no` or `unknown`.
        reachable: String,
    },
    /// A peer has proven to be a member of a ring.
    Member {
        /// The peer.
        peer: String,
        /// Name that the ring has here.
        ring: String,
    },
    /// A backup ran, by its schedule or because somebody asked.
    BackedUp {
        /// The set; empty for paths given by hand.
        set: String,
        /// The snapshot's id, in hex.
        snapshot: String,
        /// Regular files.
        files: u64,
        /// Bytes of content.
        bytes: u64,
        /// Files that could not be read.
        unreadable: u64,
    },
    /// A backup by schedule failed.
    BackupFailed {
        /// The set.
        set: String,
        /// Why.
        message: String,
    },
    /// A backup of somebody else's is whole here and kept from now on.
    LeaseTaken {
        /// The node that asked last, if it is known.
        peer: Option<String>,
        /// Blocks.
        blocks: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// A problem begins, lasts for a week, or is over.
    Problem {
        /// Which of these.
        kind: crate::problems::book::Kind,
        /// The problem.
        #[serde(flatten)]
        problem: crate::problems::Problem,
    },
    /// Something went wrong and the node goes on.
    Warning {
        /// What.
        message: String,
    },
}

/// Forms of a peer's address, for a person who wrote another one.
pub(super) const PEER_FORMS: &str = "it looks like /ip4/192.0.2.7/tcp/4384, /dns/example.org/tcp/4384, /dnsaddr/example.org or example.org:4384";

/// Connections that a node takes: no more than `most`, and than leaves descriptors for the store
/// and for files.
fn connections(most: u32) -> u32 {
    let share = descriptors::share(SHARE_OF_DESCRIPTORS, most as usize);
    u32::try_from(share).unwrap_or(most).max(1)
}

impl Node {
    /// Builds and starts a node.
    ///
    /// # Errors
    /// [`ErrorKind::Locked`] when another process holds the data directory, [`ErrorKind::Usage`] for a wrong address in the settings,
    /// [`ErrorKind::Failed`] when an address can't be listened on, and what key and store say.
    pub async fn start(options: NodeOptions) -> Result<Self, CallError> {
        memory::check()?;
        let config = &options.config;
        let (listen, bootstrap) = (
            listen_addresses(&config.listen)?,
            bootstrap_addresses(&config.bootstrap)?,
        );
        make_data_dir(&options)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        // For what fades or waits within this run.
        let steady: Arc<dyn Clock> = Arc::new(SteadyClock::default());
        let (store, access) = open_store(&options, clock.clone()).await?;
        let key = identify(&options.data_dir, access)?;
        let rings_file = Arc::new(RingsFile::new(&options.data_dir));
        let rings = load_rings(&rings_file, options.purpose)?;
        let ledger = Ledger::open(&options.data_dir.join(LEDGER_FILE), clock.clone());
        let server = Server::with_ledger(store.clone(), Arc::new(ledger));
        let server = Arc::new(server.with_clock(steady.clone()));
        let services = Services {
            blocks: server.clone(),
            records: Arc::new(shelf::Shelf(store.records().clone())),
        };
        let (pace, zone) = (Pace::default(), time::zone());
        let settings = settings::Settings::new(config, options.overrides.clone());
        let bandwidth = settings.bandwidth();
        // From the first block on.
        bandwidth.borrow().apply(clock.now(), &zone, &pace);
        let net_config = NetConfig {
            pace: pace.clone(),
            rates: Rates {
                offered: config.offer_rate,
                wanted: config.min_rate,
            },
            network: config.network.clone(),
            listen,
            listen_chosen: config.listen_chosen(),
            bootstrap,
            mdns: config.mdns,
            port_mapping: config.maps_ports(options.purpose == Purpose::Serve),
            limits: Limits {
                connections: connections(config.max_connections),
                ..Limits::default()
            },
            ..NetConfig::new(key)
        };
        let net = Net::start(net_config, services).await?;
        net.rings().update(rings.clone()).await;
        let depot = Depot::new(store.clone(), net, &server, Arc::new(Pending::default()));
        let copies = copies::open(&options.data_dir)?;
        let candidates: Arc<dyn upkeep::holder::Candidates> =
            Arc::new(copies::Members::new(depot.net().clone()));
        let stop = CancellationToken::new();
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let mut workers = Workers::default();
        let announced = Arc::new(upkeep::announce::Report::default());
        let announcing = upkeep::announce::Setup {
            depot: depot.clone(),
            policy: upkeep::announce::Policy::of(config),
            backups: &BACKUP_PINS,
            clock: clock.clone(),
            report: announced.clone(),
        };
        let bootstrapped = Arc::new(AtomicBool::new(false));
        let parts = (depot.clone(), depot.clone(), events.clone());
        let now = clock.clone();
        let (from, joined) = (depot.net().events(), bootstrapped.clone());
        workers.spawn("announce", |c, s| upkeep::announce::run(announcing, c, s));
        let services = upkeep::services::Services::new(depot.clone(), clock.clone());
        let services = Arc::new(services);
        let alike = upkeep::like::Setup {
            depot: depot.clone(),
            policy: upkeep::announce::Policy::of(config),
            backups: &BACKUP_PINS,
        };
        workers.spawn("like", |c, s| upkeep::like::run(alike, c, s));
        let ports = services.clone();
        workers.spawn("services", |c, s| upkeep::services::run(ports, c, s));
        workers.spawn("heal", |c, s| upkeep::heal::run(parts.0, c, s));
        let heads = upkeep::heads::Setup {
            depot: parts.1,
            clock: now,
            lent_bytes: settings.lent_bytes(),
            own: copies::own_head(&options.data_dir),
            has_holder: copies::has_holder(&copies, &clock),
        };
        workers.spawn("heads", |c, s| upkeep::heads::run(heads, c, s));
        let job = upkeep::rings::Job {
            depot: depot.clone(),
            file: rings_file.clone(),
            saved: rings,
            name: rings::machine_name(&options.data_dir),
            lent_bytes: settings.lent_bytes(),
            clock: clock.clone(),
        };
        workers.spawn("rings", |c, s| upkeep::rings::run(job, c, s));
        let (meeting, setup) = meet::job(&options, &depot, &clock);
        workers.spawn("meet", |c, s| upkeep::meet::run(setup, c, s));
        workers.spawn("maintain", |c, s| upkeep::maintain::run(store, c, s));
        let (held, now, may) = (depot.clone(), clock.clone(), candidates.clone());
        let lend = upkeep::holder::Lend::watching(settings.lent_bytes());
        let (lend, taken) = lend.telling();
        workers.spawn("holder", |c, s| {
            upkeep::holder::run(held, now, lend, may, c, s)
        });
        let handover = leave::handover(&depot, &steady);
        workers.spawn("handover", |c, s| upkeep::handover::run(handover, c, s));
        let hot = depot.clone();
        workers.spawn("popular", |c, s| {
            let limits = upkeep::popular::policy::Limits::default();
            upkeep::popular::run(hot, limits, c, s)
        });
        let fairness = upkeep::fairness::Setup {
            depot: depot.clone(),
            copies: copies.clone(),
            bandwidth,
            pace,
            clock: clock.clone(),
            zone,
        };
        workers.spawn("fairness", |c, s| upkeep::fairness::run(fairness, c, s));
        let twin = Arc::new(Twin::default());
        let heard = Heard {
            net: from,
            taken,
            rings: depot.net().rings(),
            twin: twin.clone(),
            reach: depot.net().reach().watch(),
        };
        workers.spawn("events", |c, s| {
            forward_events(heard, parts.2, joined, c, s)
        });
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = inner.clone();
            let machine = Arc::new(copies::Machine(inner.clone()));
            let replicate = upkeep::replicate::Setup {
                copies: copies.clone(),
                depot: depot.clone(),
                clock: clock.clone(),
                signer: machine,
                candidates: candidates.clone(),
                pin_name: crate::backup::SNAPSHOT_PIN,
                limits: upkeep::replicate::Limits::default(),
            };
            let of_peers = inner.clone();
            // A node inside of a command is asked once, and tells nobody else.
            if options.http.is_some() {
                let told = inner.clone();
                workers.spawn("problems", |c, s| problems::run(told, c, s));
            }
            workers.spawn("schedule", |c, s| schedule::run(inner, c, s));
            workers.spawn("remembered", |c, s| remembered::run(of_peers, c, s));
            workers.spawn("replicate", |c, s| upkeep::replicate::run(replicate, c, s));
            Inner {
                home: Arc::new(Home::new(&options.data_dir)),
                unlocked: backup::Unlocked::default(),
                turns: backup::Turns::default(),
                schedule: schedule::Record::default(),
                problems: problems::Record::default(),
                services,
                announced,
                copies,
                rings_file,
                meeting,
                options,
                settings,
                depot,
                clock,
                leaving: leave::Leaving::new(steady),
                started: Instant::now(),
                events,
                bootstrapped,
                twin,
                worker_states: workers.states(),
                workers: Mutex::new(Some(workers)),
                stop,
                calls: TaskTracker::new(),
            }
        });
        Ok(Self { inner })
    }

    /// The node's name on the network.
    pub fn peer_id(&self) -> String {
        self.net().peer_id().to_string()
    }

    /// Where it listens, as full multiaddresses that end in `/p2p/<peer>`.
    pub fn addresses(&self) -> Vec<String> {
        self.net()
            .listen_addresses()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Which addresses did not work when the node started; it went on without them.
    pub fn listen_warnings(&self) -> &[String] {
        self.net().listen_warnings()
    }

    /// What happens from now on. A listener that falls behind misses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.inner.events.subscribe()
    }

    /// Tells who listens.
    fn happened(&self, event: NodeEvent) {
        // Nobody listening is no error.
        let _ = self.inner.events.send(event);
    }

    /// Stops everything in order and returns when what was acknowledged is on disk. A second call returns at once.
    ///
    /// # Errors
    /// When the store could not be flushed.
    pub async fn shutdown(&self) -> Result<(), CallError> {
        let workers = self
            .inner
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(workers) = workers else {
            return Ok(());
        };
        self.inner.stop.cancel();
        self.depot().stop();
        self.inner.calls.close();
        if tokio::time::timeout(CALL_PATIENCE, self.inner.calls.wait())
            .await
            .is_err()
        {
            tracing::warn!("some calls did not end in time");
        }
        for name in workers.stop(WORKER_PATIENCE).await {
            tracing::warn!(worker = name, "a background job did not end in time");
        }
        self.net().clone().shutdown().await;
        let store = self.store();
        blocking(move || Ok(store.flush()?)).await
    }

    /// Owners' heads: what is kept is looked after by the background job of that name.
    pub fn heads(&self) -> net::providers::Heads {
        self.net().heads()
    }

    /// Owners' heads on other nodes.
    pub fn keepers(&self) -> Keepers {
        self.depot().heads()
    }

    fn depot(&self) -> &Depot {
        &self.inner.depot
    }

    fn net(&self) -> &Net {
        self.inner.depot.net()
    }

    fn store(&self) -> Arc<dyn Store> {
        self.inner.depot.store().clone()
    }

    fn now(&self) -> Timestamp {
        self.inner.clock.now()
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CallError> + Send + 'static,
) -> Result<T, CallError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(failure::stopped)?
}

impl Node {
    /// Recognises the directories of libernet, this node's own above all.
    fn own(&self) -> Own {
        Own::at(&self.inner.options.data_dir)
    }
}

/// Makes the data directory. On a disk that can't be written a node that only reads goes on
/// without: what it needs may be there.
fn make_data_dir(options: &NodeOptions) -> Result<(), CallError> {
    match identity::make_data_dir(&options.data_dir) {
        Err(_) if options.purpose != Purpose::Serve && options.data_dir.is_dir() => Ok(()),
        made => Ok(made?),
    }
}

/// Error of whoever would start a node on `data_dir`, when another process has its store open.
pub fn held(data_dir: &Path) -> Option<CallError> {
    store::held(&data_dir.join(STORE_DIR)).map(CallError::from)
}

/// Opens the store, or only to read when it can't be written and the purpose allows that.
async fn open_store(
    options: &NodeOptions,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<dyn Store>, Access), CallError> {
    let dir = options.data_dir.join(STORE_DIR);
    let purpose = options.purpose;
    let mut store_options = StoreOptions {
        quota: options.config.quota,
        clock,
        access: match purpose {
            Purpose::Serve | Purpose::Command | Purpose::GiveBack => Access::Write,
            Purpose::MakeRoom => Access::MakeRoom,
        },
        ..StoreOptions::default()
    };
    blocking(move || {
        let mut opened = RocksStore::open(&dir, store_options.clone());
        if purpose != Purpose::Serve
            && let Err(error) = &opened
            && let Some(why) = error.unwritable()
        {
            tracing::warn!("{error}: what is stored can be read, and nothing can be stored");
            store_options.access = Access::Read(why);
            opened = RocksStore::open(&dir, store_options.clone());
        }
        if purpose == Purpose::Serve
            && let Err(error @ (store::Error::Damaged { .. } | store::Error::BadIndex { .. })) =
                &opened
        {
            tracing::warn!("{}: making the index again", failure::chain(error));
            let rebuilt: RebuildReply = store::rebuild(&dir, &store_options)?.into();
            rebuilt
                .lines()
                .iter()
                .for_each(|line| tracing::warn!("{line}"));
            opened = RocksStore::open(&dir, store_options.clone());
        }
        let opened = opened?;
        if store_options.access == Access::Write
            && let Err(error) = mark_store(&dir)
        {
            tracing::info!(%error, "the store could not be marked as one for other backup programs");
        }
        Ok((Arc::new(opened) as Arc<dyn Store>, store_options.access))
    })
    .await
}

/// The rings that this node is in. When their file is damaged, a node that gives back what is
/// stored is in none, and leaves the file as it is.
fn load_rings(file: &RingsFile, purpose: Purpose) -> Result<Rings, CallError> {
    match file.load() {
        Err(error @ ring::Error::Malformed { .. }) if purpose == Purpose::GiveBack => {
            tracing::warn!(
                "{error}: this command goes on without rings, and asks none of their members"
            );
            Ok(Rings::default())
        }
        rings => Ok(rings?),
    }
}

/// The node's key. It is made only while the store's lock is held, and so by one process. Where it
/// can't be kept, a node that only reads gets one for this time.
fn identify(data_dir: &Path, access: Access) -> Result<Keypair, CallError> {
    match (identity::load_or_create(data_dir), access) {
        (Err(identity::Error::Io { action, .. }), Access::Read(_)) if action != "read" => {
            Ok(Keypair::generate_ed25519())
        }
        (key, _) => Ok(key?),
    }
}

/// Addresses to listen on.
fn listen_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, CallError> {
    let parse = |text: &String| {
        text.parse().map_err(|error| {
            let text =
                format!("the setting listen is wrong: '{text}' is not a multiaddress: {error}");
            CallError::new(ErrorKind::Usage, text).with_hint(
                "it looks like /ip4/192.0.2.7/tcp/4384 or /ip4/192.0.2.7/udp/4384/quic-v1",
            )
        })
    };
    texts.iter().map(parse).collect()
}

/// Addresses of bootstrap peers.
fn bootstrap_addresses(texts: &[String]) -> Result<Vec<Multiaddr>, CallError> {
    let parse = |text: &String| {
        crate::net::parse_peer(text).map_err(|wrong| {
            let text = format!("the setting bootstrap is wrong: {wrong}");
            CallError::new(ErrorKind::Usage, text).with_hint(PEER_FORMS)
        })
    };
    texts.iter().map(parse).collect()
}

/// Where another node with this node's key was last seen, if there was one in this run.
#[derive(Debug, Default)]
struct Twin(Mutex<Option<String>>);

impl Twin {
    fn see(&self, address: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }

    fn get(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Channels by which the node hears from its parts.
struct Heard {
    net: broadcast::Receiver<net::Event>,
    taken: mpsc::Receiver<upkeep::holder::Taken>,
    /// Names of rings.
    rings: net::rings::RingsView,
    /// Where another node with this node's key was seen.
    twin: Arc<Twin>,
    /// How this node can be reached.
    reach: watch::Receiver<net::reach::Status>,
}

async fn forward_events(
    mut from: Heard,
    events: broadcast::Sender<NodeEvent>,
    bootstrapped: Arc<AtomicBool>,
    cancel: CancellationToken,
    state: Arc<WorkerState>,
) {
    state.set("listening");
    let mut reachable = Reachable::default();
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            Ok(()) = from.reach.changed() => {
                let now = from.reach.borrow_and_update().reachable;
                if std::mem::replace(&mut reachable, now) != now {
                    // Nobody listening is no error.
                    let _ = events.send(NodeEvent::Reachable {
                        reachable: now.name().to_owned(),
                    });
                }
                continue;
            }
            event = from.net.recv() => event,
            Some(taken) = from.taken.recv() => {
                // Nobody listening is no error.
                let _ = events.send(NodeEvent::LeaseTaken {
                    peer: taken.from.map(|peer| peer.to_string()),
                    blocks: taken.blocks,
                    bytes: taken.bytes,
                });
                continue;
            }
        };
        let event = match event {
            Ok(net::Event::PeerConnected { peer }) => NodeEvent::PeerConnected {
                peer: peer.to_string(),
            },
            Ok(net::Event::PeerGone { peer }) => NodeEvent::PeerGone {
                peer: peer.to_string(),
            },
            Ok(net::Event::ListenAddress { address }) => NodeEvent::Listening {
                address: address.to_string(),
            },
            Ok(net::Event::Bootstrapped { .. }) => {
                bootstrapped.store(true, Ordering::Relaxed);
                NodeEvent::Bootstrapped {}
            }
            Ok(net::Event::BootstrapFailed {
                address,
                error,
                retry_in,
            }) => NodeEvent::Warning {
                message: format!(
                    "the bootstrap peer {address} could not be reached: {error}; next try in {} s",
                    retry_in.as_secs().max(1)
                ),
            },
            Ok(net::Event::Twin { address }) => {
                from.twin.see(address.to_string());
                NodeEvent::Warning {
                    message: format!(
                        "another node runs with this node's key, at {address}: peers can't tell the two \
                         apart. Was its data directory copied from this one? On the copy, stop the node, \
                         remove {} from its data directory, and start it again",
                        identity::FILE_NAME
                    ),
                }
            }
            Ok(net::Event::PeerRefused { peer, reason }) => NodeEvent::Warning {
                message: format!("{peer} is turned away for a while: {reason}"),
            },
            Ok(net::Event::Member { peer, ring }) => {
                let rings = from.rings.rings();
                let mut rings = rings.as_slice().iter();
                let Some(ring) = rings.find(|one| one.number_of(&ring).is_some()) else {
                    // It was left meanwhile.
                    continue;
                };
                NodeEvent::Member {
                    peer: peer.to_string(),
                    ring: ring.name().to_owned(),
                }
            }
            Ok(net::Event::NetworkChanged) | Err(broadcast::error::RecvError::Lagged(_)) => {
                continue;
            }
            Err(broadcast::error::RecvError::Closed) => return,
        };
        // Nobody listening is no error.
        let _ = events.send(event);
    }
}
