//! The network: a libp2p swarm behind a handle that is cheap to clone.
//!
//! ```text
//! Net (handle, views)  --commands-->  driver (owns the swarm)  --  switchboard  --  rooms: peers, providers, exchange, replica, rings
//! ```
//!
//! - [`exchange`]: asks peers for blocks and answers them. [`providers`]: the DHT, of blocks and of owners' heads. [`peers`]:
//!   connections and who is who. [`rings`]: which peers are members of this node's rings.
//! - [`replica`]: asks peers to keep blocks, and is asked.
//! - [`meet`]: meeting points outside of the mesh, where addresses are told.
//! - `hearsay`: which of the addresses that strangers tell are dialled; the last word before any
//!   dial. `preference`: the kind of transport that dials into the world try first.
//! - The driver is one task; it does no work: no hashing, no disk, no waiting. What takes long is done by those who ask, or by
//!   the services the net was given.
//! - Every queue, table and wait has a bound; permits are taken before commands are sent. Bounds of
//!   each peer and each address are set by `admission`, below all rooms.
//!
//! Deliberately absent: the store, hashing, and every decision about which blocks to fetch, keep or announce.

pub mod exchange;
pub mod meet;
pub mod pace;
pub mod peers;
pub mod providers;
pub mod reach;
pub mod replica;
pub mod rings;

mod address;
mod admission;
mod config;
mod cork;
mod delegate;
mod driver;
mod error;
mod frame;
mod hearsay;
pub mod like;
mod limits;
mod listeners;
mod mailbox;
mod metrics;
mod muxer;
mod preference;
mod quic;
mod remotes;
mod security;
mod switchboard;
mod tls;
mod transport;
mod weighed;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use libp2p::swarm::Swarm;
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::time::Clock;
use crate::wire::names;
use driver::Driver;
use mailbox::Mailbox;
use switchboard::{Commands, Rooms, Switchboard};

pub use address::{is_dialable_of, is_outside, parse_peer, to_pass_on};
pub use config::{DEFAULT_NETWORK, NetConfig, Services};
pub use error::Error;
pub use libp2p;
pub use limits::Limits;
pub use switchboard::Event;

/// Commands of one room that wait for the driver. Commands of the exchange and of searches have
/// taken a permit first.
const MAX_COMMANDS: usize = 256;
/// Events that a slow listener may be behind before it misses some.
const MAX_EVENTS: usize = 256;
/// Calls of connect under way.
const MAX_CONNECTING: usize = 64;
/// Connections that are not kept close after being idle for so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest name of a network in bytes.
const MAX_NETWORK_BYTES: usize = 32;

/// Handle of a running net. Cheap to clone; the net stops when the last handle is dropped, or by [`shutdown`](Self::shutdown).
#[derive(Clone)]
pub struct Net {
    shared: Arc<Shared>,
}

struct Shared {
    local: PeerId,
    exchange: exchange::Exchange,
    providers: providers::Providers,
    like: like::Like,
    heads: providers::Heads,
    peers: peers::Peers,
    replica: replica::Replica,
    rings: rings::RingsView,
    reach: reach::Reach,
    listening: watch::Receiver<Vec<Multiaddr>>,
    told: watch::Receiver<Vec<Multiaddr>>,
    meter: Arc<metrics::Meter>,
    clock: Arc<dyn Clock>,
    warnings: Vec<String>,
    events: broadcast::Sender<Event>,
    cancel: CancellationToken,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl Net {
    /// Starts a net and waits until it listens.
    ///
    /// Bootstrap peers that can't be reached don't keep it from starting: see [`Event::BootstrapFailed`].
    ///
    /// # Errors
    /// [`Error`], for example when a port is in use; it names the address. An address that the node
    /// can do without is among the [warnings](Self::listen_warnings).
    pub async fn start(config: NetConfig, services: Services) -> Result<Self, Error> {
        let local = config.key.public().to_peer_id();
        let (to_exchange, exchange) = Mailbox::open(MAX_COMMANDS);
        let (to_providers, providers) = Mailbox::open(MAX_COMMANDS);
        let (to_peers, peers) = Mailbox::open(MAX_COMMANDS);
        let (to_replica, replica) = Mailbox::open(MAX_COMMANDS);
        let (to_rings, rings) = Mailbox::open(MAX_COMMANDS);
        let commands = Commands {
            exchange,
            providers,
            peers,
            replica,
            rings,
        };
        let (events, _) = broadcast::channel(MAX_EVENTS);
        let (listening_sender, listening) = watch::channel(Vec::new());
        let (connected_sender, connected) = watch::channel(Arc::default());
        let (told_sender, told) = watch::channel(Vec::new());
        let (status, reachable) = watch::channel(reach::Status::default());
        let distances = Arc::new(remotes::Remotes::default());
        let (relay_transport, relay) = libp2p::relay::client::new(local);
        let kad = protocol(&config.network, names::kad)?;
        let alike = protocol(&config.network, names::like)?;
        let tally = Arc::new(providers::Tally::default());
        let roll = Arc::new(rings::Roll::new(
            config.key.clone(),
            config.clock.clone(),
            told.clone(),
            distances.clone(),
        ));
        let unread = admission::Unread::new(&config.limits);
        let hearsay = Arc::new(hearsay::Hearsay::default());
        let quic_first = preference::QuicFirst::default();
        let ports = Arc::new(providers::Ports::new(config.clock.clone()));
        let meter = Arc::new(metrics::Meter::default());
        let shared = InCommon {
            meter: meter.clone(),
            tally: tally.clone(),
            roll: roll.clone(),
            unread: unread.clone(),
            hearsay: hearsay.clone(),
            quic_first: quic_first.clone(),
            own: providers::Own {
                addresses: told.clone(),
                ports: ports.clone(),
            },
            distances: distances.clone(),
            relay,
            status,
        };
        let (rooms, records, inbox) = rooms(&config, services, kad.clone(), shared)?;
        let streams = rooms.streams.new_control();
        let permits = Arc::new(admission::Permits::new(
            config.limits.requests_per_peer,
            config.limits.requests,
        ));
        let cancel = CancellationToken::new();
        let tasks = transport::Tasks::default();
        let transport = if config.memory_transport {
            transport::memory(&config.key, &unread, relay_transport)
        } else {
            let hearsay = hearsay.clone();
            transport::sockets(
                &config.key,
                &config.limits,
                &unread,
                transport::Dials {
                    hearsay,
                    quic_first,
                },
                relay_transport,
            )
        }?;
        let swarm_config = libp2p::swarm::Config::with_executor(tasks.clone())
            .with_idle_connection_timeout(IDLE_TIMEOUT);
        // Boxed: a swarm is large, and futures that hold it would be too.
        let mut driver = Box::new(Driver {
            swarm: Swarm::new(transport, rooms, local, swarm_config),
            switchboard: Switchboard {
                local,
                events: events.clone(),
                listening: listening_sender,
                told: told_sender,
                outside: Vec::new(),
                hearsay,
                connected: connected_sender,
            },
            commands,
            cancel: cancel.clone(),
            permits: permits.clone(),
            tasks,
            records,
            meter: meter.clone(),
            listeners: Vec::new(),
        });
        let warnings = match driver.listen(&config.listen, config.listen_chosen).await {
            Ok(warnings) => warnings,
            Err(error) => {
                driver.end().await;
                return Err(error);
            }
        };
        let like = like::Like {
            streams: streams.clone(),
            protocol: alike,
        };
        let providers = providers::Providers {
            mailbox: to_providers.clone(),
            streams,
            protocol: kad,
            local,
            addresses: told.clone(),
            distances,
            searches: Arc::new(Semaphore::new(config.limits.searches)),
            announcing: Arc::new(Semaphore::new(1)),
            sought: Arc::default(),
            ports,
        };
        let seeker = providers.clone();
        let shared = Shared {
            local,
            exchange: exchange::Exchange {
                mailbox: to_exchange,
                permits,
                pace: config.pace.down.clone(),
                lines: Arc::default(),
                seek: Arc::new(move |peer| {
                    let seeker = seeker.clone();
                    Box::pin(async move { seeker.seek(peer).await })
                }),
            },
            providers,
            like,
            heads: providers::Heads {
                mailbox: to_providers,
                turns: Arc::new(Semaphore::new(providers::MAX_OWN_JOBS)),
                tally,
            },
            replica: replica::Replica::new(to_replica, inbox),
            peers: peers::Peers {
                mailbox: to_peers,
                connected,
                connecting: Arc::new(Semaphore::new(MAX_CONNECTING)),
            },
            rings: rings::RingsView {
                mailbox: to_rings,
                roll,
            },
            reach: reach::Reach { status: reachable },
            listening,
            told,
            meter,
            clock: config.clock.clone(),
            warnings,
            events,
            cancel,
            driver: Mutex::new(Some(tokio::spawn(driver.run()))),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// This node's peer id.
    pub fn peer_id(&self) -> PeerId {
        self.shared.local
    }

    /// The clock that the net goes by.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.shared.clock
    }

    /// Where this node listens now, each address with the peer id at its end.
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.listening.borrow().clone()
    }

    /// A watch on where others find this node: addresses that work from outside, then those that it
    /// listens on; each with the peer id at its end.
    pub fn watch_addresses(&self) -> watch::Receiver<Vec<Multiaddr>> {
        self.shared.told.clone()
    }

    /// Which addresses did not work when the net started; it went on without them.
    pub fn listen_warnings(&self) -> &[String] {
        &self.shared.warnings
    }

    /// Asking peers for blocks.
    pub fn exchange(&self) -> exchange::Exchange {
        self.shared.exchange.clone()
    }

    /// Finding providers and announcing.
    pub fn providers(&self) -> providers::Providers {
        self.shared.providers.clone()
    }

    /// Asking peers for ids that are alike.
    pub fn like(&self) -> like::Like {
        self.shared.like.clone()
    }

    /// Owners' head records that are here.
    pub fn heads(&self) -> providers::Heads {
        self.shared.heads.clone()
    }

    /// Peers and connections.
    pub fn peers(&self) -> peers::Peers {
        self.shared.peers.clone()
    }

    /// Asking peers to keep blocks, and what they ask.
    pub fn replica(&self) -> replica::Replica {
        self.shared.replica.clone()
    }

    /// Rings and their members.
    pub fn rings(&self) -> rings::RingsView {
        self.shared.rings.clone()
    }

    /// Whether this node can be reached from outside, and by which way.
    pub fn reach(&self) -> reach::Reach {
        self.shared.reach.clone()
    }

    /// Libp2p's own metrics in the text form of OpenMetrics, without the line that ends it.
    pub fn metrics(&self) -> String {
        self.shared.meter.text()
    }

    /// Facts from now on. A listener that falls too far behind misses some and is told so.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Stops: closes listeners and connections, ends every task and thread of the net and frees its ports. Other handles
    /// and views get "stopping" errors from then on.
    pub async fn shutdown(self) {
        self.shared.cancel.cancel();
        let driver = {
            let mut driver = self.shared.driver.lock().unwrap_or_else(|e| e.into_inner());
            driver.take()
        };
        if let Some(driver) = driver
            && let Err(error) = driver.await
        {
            tracing::error!(%error, "the network's task has failed");
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Parts that several rooms share.
struct InCommon {
    meter: Arc<metrics::Meter>,
    tally: Arc<providers::Tally>,
    roll: Arc<rings::Roll>,
    unread: admission::Unread,
    hearsay: Arc<hearsay::Hearsay>,
    quic_first: preference::QuicFirst,
    own: providers::Own,
    distances: Arc<remotes::Remotes>,
    relay: libp2p::relay::client::Behaviour,
    status: watch::Sender<reach::Status>,
}

fn rooms(
    config: &NetConfig,
    services: Services,
    kad: StreamProtocol,
    common: InCommon,
) -> Result<(Rooms, providers::WriterThread, replica::Inbox), Error> {
    let InCommon {
        meter,
        tally,
        roll,
        unread,
        hearsay,
        quic_first,
        own,
        distances,
        relay,
        status,
    } = common;
    let local = config.key.public().to_peer_id();
    let is_member: Arc<dyn Fn(&PeerId) -> bool + Send + Sync> = {
        let roll = roll.clone();
        Arc::new(move |peer| roll.knows(peer))
    };
    let blocks = services.blocks.clone();
    let standing: admission::StandingOf = Arc::new(move |peer| blocks.standing(peer));
    let peers = peers::Behaviour::new(peers::Setup {
        key: &config.key,
        network: config.network.clone(),
        standing: {
            let (roll, standing) = (roll.clone(), standing.clone());
            Arc::new(move |peer| match roll.knows(&peer) {
                true => admission::Standing::Member,
                false => standing(peer),
            })
        },
        unread,
        hearsay: hearsay.clone(),
        agent: config.agent.clone(),
        bootstrap: config.bootstrap.clone(),
        mdns: config.mdns && !config.memory_transport,
        limits: &config.limits,
        clock: config.clock.clone(),
        meter: meter.clone(),
    });
    let exchange = exchange::Behaviour::new(
        protocol(&config.network, names::exchange)?,
        exchange::Setup {
            service: services.blocks,
            standing: standing.clone(),
            limits: &config.limits,
            rates: config.rates,
            pace: &config.pace,
        },
    );
    let (providers, records) = providers::Behaviour::new(providers::Setup {
        local,
        protocol: kad,
        shelf: services.records,
        clock: config.clock.clone(),
        server: config.kad_server,
        tally,
        own,
        hearsay: hearsay.clone(),
        distances,
        meter: meter.clone(),
    })
    .map_err(Error::Thread)?;
    let (replica, inbox) = replica::Behaviour::new(
        protocol(&config.network, names::replica)?,
        standing,
        to_heads(providers.door()),
    );
    let rings = rings::Behaviour::new(local, protocol(&config.network, names::ring)?, roll);
    let reach = reach::Behaviour::new(reach::Setup {
        local,
        relay,
        hearsay,
        quic_first,
        is_member,
        port_mapping: config.port_mapping && !config.memory_transport,
        watch_network: !config.memory_transport,
        clock: config.clock.clone(),
        status,
        meter,
    });
    let rooms = Rooms {
        peers,
        providers,
        exchange,
        replica,
        rings,
        reach,
        streams: libp2p_stream::Behaviour::new(),
    };
    Ok((rooms, records, inbox))
}

/// Brings questions for heads to the thread that has them.
fn to_heads(door: providers::Door) -> replica::HeadDoor {
    Arc::new(move |incoming| {
        let replica::Incoming {
            peer,
            request,
            reply,
        } = incoming;
        let replica::Request::Head { nonce, proof, told } = request else {
            return false;
        };
        let answer = move |told| {
            let answer = match told {
                providers::Told::Head(head) => replica::Answer::Head(head.into()),
                providers::Told::Taken => replica::Answer::Head(bytes::Bytes::new()),
                providers::Told::Invalid => replica::Answer::Refused(replica::Refusal::Invalid),
                providers::Told::Unknown => replica::Answer::Refused(replica::Refusal::Unknown),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        };
        door.ask(providers::Asked {
            peer,
            nonce,
            proof,
            told,
            reply: Box::new(answer),
        })
    })
}

fn protocol(network: &str, name: fn(&str) -> String) -> Result<StreamProtocol, Error> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if network.is_empty() || network.len() > MAX_NETWORK_BYTES || !network.chars().all(good) {
        return Err(Error::Network(
            network.chars().take(MAX_NETWORK_BYTES).collect(),
        ));
    }
    StreamProtocol::try_from_owned(name(network)).map_err(|_| Error::Network(network.to_owned()))
}
