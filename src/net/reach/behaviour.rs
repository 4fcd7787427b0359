//! The reach room inside the swarm: libp2p's autonat, relay and dcutr with our policy.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::autonat::v2::server;
use libp2p::core::transport::ListenerId;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::behaviour::{FromSwarm, NewExternalAddrCandidate};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, ListenOpts, NetworkBehaviour, THandlerInEvent, ToSwarm,
};
use libp2p::{PeerId, dcutr, relay};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep};

use super::candidates::{Candidates, Witness};
use super::mapping::Mapper;
use super::network::{Change, Network, Ways};
use super::policy::{Facts, Relays, Wanted, wanted};
use super::prober::Prober;
use super::served::{self, Account, IsMember};
use super::{Reachable, Status};
use crate::net::address::{
    Reach, distance, ip, is_plain, is_relayed, remote, socket, without_peer,
};
use crate::net::admission::Site;
use crate::net::delegate::delegate_connections;
use crate::net::hearsay::Hearsay;
use crate::net::metrics::Meter;
use crate::net::preference::QuicFirst;
use crate::time::Clock;

/// Interval of looking at the network, at what the router promised, and for relays.
const TICK: Duration = Duration::from_secs(5);
/// Time after a change of the network in which dead connections are noticed.
const OUTLIVED: Duration = Duration::from_secs(30);
/// Most own addresses that count as reached from outside.
const MAX_CONFIRMED: usize = 16;

/// Facts of reach that others may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Whether to answer the DHT's questions from now on.
    Serve(bool),
    /// Where others reach this node from outside: its own addresses, and those through relays;
    /// without the peer id.
    Outside {
        own: Vec<Multiaddr>,
        relayed: Vec<Multiaddr>,
    },
    /// The network is another one, or back, or the machine has slept.
    NetworkChanged,
}

/// Observation of this node by a peer.
#[derive(Clone)]
pub(crate) struct Observation {
    pub(crate) peer: PeerId,
    pub(crate) remote: Multiaddr,
    pub(crate) is_outbound: bool,
    pub(crate) observed: Multiaddr,
    pub(crate) relays: bool,
}

/// Parts that the room is made of.
pub(crate) struct Setup {
    pub(crate) local: PeerId,
    pub(crate) relay: relay::client::Behaviour,
    pub(crate) hearsay: Arc<Hearsay>,
    pub(crate) quic_first: QuicFirst,
    pub(crate) is_member: IsMember,
    pub(crate) port_mapping: bool,
    /// Whether there is a network to be looked at.
    pub(crate) watch_network: bool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) meter: Arc<Meter>,
}

#[derive(NetworkBehaviour)]
pub(crate) struct Parts {
    prober: Prober,
    tester: server::Behaviour,
    client: relay::client::Behaviour,
    server: relay::Behaviour,
    punch: dcutr::Behaviour,
}

/// The reach room's behaviour.
pub(crate) struct Behaviour {
    parts: Parts,
    hearsay: Arc<Hearsay>,
    quic_first: QuicFirst,
    is_member: IsMember,
    account: Arc<Account>,
    candidates: Candidates,
    relays: Relays,
    /// Listeners through relays.
    listeners: HashMap<ListenerId, PeerId>,
    /// Own addresses at which somebody outside has reached this node, and those through relays.
    confirmed: BTreeSet<Multiaddr>,
    relayed: BTreeSet<Multiaddr>,
    /// Addresses that were tried in vain.
    failed: HashSet<Multiaddr>,
    /// Number of addresses that were given out to be tried.
    tried: usize,
    /// The other ends of connections.
    links: HashMap<ConnectionId, (PeerId, Multiaddr)>,
    /// Latest observation of each connected peer.
    told: HashMap<PeerId, Observation>,
    /// Time from which connections that are still there have outlived a change of the network.
    recall_at: Option<Instant>,
    /// Dials that the parts asked for: bounded by the swarm's pending connections.
    dials: HashSet<ConnectionId>,
    mapper: Mapper,
    /// Addresses that the router promised at the last look.
    promised: Vec<Multiaddr>,
    network: Option<Network>,
    looking: Option<JoinHandle<Ways>>,
    clock: Arc<dyn Clock>,
    status: watch::Sender<Status>,
    meter: Arc<Meter>,
    wanted: Wanted,
    out: VecDeque<ToSwarm<Event, THandlerInEvent<Parts>>>,
    timer: Pin<Box<Sleep>>,
}

impl Behaviour {
    pub(crate) fn new(setup: Setup) -> Self {
        let account = Account::new(setup.is_member.clone());
        let mut server = relay::Behaviour::new(setup.local, served::config(&account));
        server.set_status(Some(relay::Status::Disable));
        Self {
            parts: Parts {
                prober: Prober::default(),
                tester: server::Behaviour::default(),
                client: setup.relay,
                server,
                punch: dcutr::Behaviour::new(setup.local),
            },
            hearsay: setup.hearsay,
            quic_first: setup.quic_first,
            is_member: setup.is_member,
            account,
            candidates: Candidates::default(),
            relays: Relays::default(),
            listeners: HashMap::new(),
            confirmed: BTreeSet::new(),
            relayed: BTreeSet::new(),
            failed: HashSet::new(),
            tried: 0,
            links: HashMap::new(),
            told: HashMap::new(),
            recall_at: None,
            dials: HashSet::new(),
            mapper: Mapper::new(setup.port_mapping),
            promised: Vec::new(),
            network: setup.watch_network.then(Network::default),
            looking: None,
            clock: setup.clock,
            status: setup.status,
            meter: setup.meter,
            wanted: wanted(Reachable::Unknown),
            out: VecDeque::new(),
            timer: Box::pin(sleep(Duration::ZERO)),
        }
    }

    /// A peer of this network tells where it sees this node. Only over the internet that says
    /// anything.
    pub(crate) fn observed(&mut self, told: Observation) {
        if self.links.values().any(|(peer, _)| *peer == told.peer) {
            self.told.insert(told.peer, told.clone());
        }
        let Observation { peer, remote, .. } = told;
        if is_relayed(&remote) || distance(&remote) != Reach::World {
            return;
        }
        if let Some(site) = Site::of(&remote) {
            let is_outbound = told.is_outbound;
            let by = Witness { site, is_outbound };
            let counts = self.candidates.seen(by, &told.observed);
            if counts && is_outbound {
                for address in self.candidates.punchable(&told.observed) {
                    let candidate = NewExternalAddrCandidate { addr: &address };
                    let event = FromSwarm::NewExternalAddrCandidate(candidate);
                    self.parts.punch.on_swarm_event(event);
                }
            }
        }
        let at = without_peer(remote);
        if told.relays && told.is_outbound && is_plain(&at) {
            let is_member = (self.is_member)(&peer);
            self.relays.seen(peer, at, is_member, Instant::now());
        }
        self.try_new();
        self.refresh();
    }

    /// Has addresses tried that were not.
    fn try_new(&mut self) {
        for address in self.candidates.take_new() {
            self.tried += 1;
            self.parts.prober.candidate(&address);
        }
    }

    /// Somebody outside has reached this node at an address of its own.
    fn confirm(&mut self, address: Multiaddr) {
        self.failed.remove(&address);
        if self.confirmed.len() < MAX_CONFIRMED && self.confirmed.insert(address.clone()) {
            tracing::info!(%address, "this node can be reached from outside");
            self.out.push_back(ToSwarm::ExternalAddrConfirmed(address));
            self.refresh();
        }
    }

    /// Addresses at which nobody reaches this node any more.
    fn expire(&mut self, is_gone: impl Fn(&Multiaddr) -> bool) {
        let gone = self.confirmed.iter().filter(|address| is_gone(address));
        let gone: Vec<Multiaddr> = gone.cloned().collect();
        for address in gone {
            self.confirmed.remove(&address);
            self.out.push_back(ToSwarm::ExternalAddrExpired(address));
        }
        self.refresh();
    }

    /// Takes in a connection that came straight to an address of the internet that this machine
    /// has, from somebody outside to whom it had not spoken: no router let that one through.
    fn came(&mut self, local: &Multiaddr, from: &Multiaddr) {
        let is_far = |address: &Multiaddr| {
            !is_relayed(address) && distance(address) == Reach::World && ip(address).is_some()
        };
        let is_known = self
            .links
            .values()
            .any(|(_, other)| ip(other) == ip(from) && !is_relayed(other));
        if !is_far(from) || is_known || !self.dials.is_empty() {
            return;
        }
        let Some((at, is_tcp)) = socket(local) else {
            return;
        };
        // QUIC says at which port only.
        let own = self.candidates.own().iter().filter(|own| {
            let Some((own, tcp)) = socket(own) else {
                return false;
            };
            let is_same_family = own.is_ipv4() == at.is_ipv4() && !own.ip().is_loopback();
            let is_there = own.ip() == at.ip() || at.ip().is_unspecified();
            tcp == is_tcp && own.port() == at.port() && is_same_family && is_there
        });
        let own: Vec<Multiaddr> = own.cloned().collect();
        if let [own] = &own[..]
            && is_far(own)
        {
            self.confirm(own.clone());
        }
    }

    /// Works out how this node can be reached, and does what follows from that.
    fn refresh(&mut self) {
        let kept = self.relays.kept();
        let facts = Facts {
            confirmed: self.confirmed.len(),
            relays: self.relayed.len().min(kept.len()),
            failed: self.failed.len(),
            tried: self.tried,
        };
        let reachable = facts.reachable();
        let wanted = wanted(reachable);
        if wanted.serve != self.wanted.serve {
            self.tell(Event::Serve(wanted.serve));
        }
        if wanted.relay != self.wanted.relay {
            let status = match wanted.relay {
                true => relay::Status::Enable,
                false => relay::Status::Disable,
            };
            self.parts.server.set_status(Some(status));
        }
        self.wanted = wanted;
        self.quic_first.set(reachable != Reachable::Public);
        let own: Vec<Multiaddr> = self.confirmed.iter().cloned().collect();
        let relayed: Vec<Multiaddr> = self.relayed.iter().cloned().collect();
        let status = Status {
            reachable,
            nat: self.candidates.nat(),
            addresses: own.iter().chain(&relayed).cloned().collect(),
            mapping: self.mapper.state(),
            relays: kept,
            served: self.account.served(wanted.relay),
        };
        let mut has_moved = false;
        self.status.send_if_modified(|last| {
            has_moved = last.addresses != status.addresses;
            let is_new = *last != status;
            *last = status;
            is_new
        });
        if has_moved {
            self.tell(Event::Outside { own, relayed });
        }
        self.ask_relays();
    }

    fn ask_relays(&mut self) {
        let connected: HashSet<PeerId> = self.links.values().map(|(peer, _)| *peer).collect();
        let is_connected = |peer: &PeerId| connected.contains(peer);
        let now = Instant::now();
        for (peer, address) in self.relays.ask(self.wanted.relays, is_connected, now) {
            let address = address.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
            tracing::debug!(%peer, "a relay is asked to keep a way open");
            let opts = ListenOpts::new(address);
            self.listeners.insert(opts.listener_id(), peer);
            self.out.push_back(ToSwarm::ListenOn { opts });
        }
    }

    /// A listener through a relay has ended.
    fn on_listener_closed(&mut self, id: ListenerId) {
        let Some(peer) = self.listeners.remove(&id) else {
            return;
        };
        tracing::debug!(%peer, "a relay keeps no way open any more");
        self.relays.lost(&peer, Instant::now());
        self.refresh();
    }

    /// The network is another one, or there. What was learned of another one counts no more, until
    /// connections have shown that they outlived the change.
    fn on_network_changed(&mut self, change: Change) {
        self.tell(Event::NetworkChanged);
        if change == Change::Came {
            tracing::info!("the network is there");
            return;
        }
        tracing::info!("the network has changed");
        self.recall_at = Some(Instant::now() + OUTLIVED);
        self.candidates.forget();
        self.parts.prober.reset();
        self.failed.clear();
        self.tried = 0;
        self.mapper.forget(Instant::now());
        self.promised.clear();
        let own: HashSet<Multiaddr> = self.candidates.own().iter().cloned().collect();
        self.expire(|address| !own.contains(address));
        self.try_new();
    }

    /// What peers told over connections that outlived a change of the network counts again: nobody
    /// tells it twice.
    fn recall(&mut self) {
        self.recall_at = None;
        let told: Vec<Observation> = self.told.values().cloned().collect();
        for told in told {
            self.observed(told);
        }
    }

    fn look_at_router(&mut self) {
        self.mapper.tick(self.candidates.ports(), Instant::now());
        let promised = self.candidates.maps(&self.mapper.promised());
        if promised == self.promised {
            return;
        }
        let last = std::mem::replace(&mut self.promised, promised.clone());
        let own: HashSet<Multiaddr> = self.candidates.own().iter().cloned().collect();
        self.expire(|address| {
            last.contains(address) && !promised.contains(address) && !own.contains(address)
        });
        for address in promised {
            if self.candidates.take(&address) {
                self.tried += 1;
                self.parts.prober.candidate(&address);
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.recall_at.is_some_and(|at| at <= now) {
            self.recall();
        }
        self.look_at_router();
        for peer in self.relays.silent(now) {
            self.relays.lost(&peer, now);
        }
        if self.network.is_some() && self.looking.is_none() {
            // Asking the system for all addresses takes a moment on large machines.
            self.looking = Some(tokio::task::spawn_blocking(Ways::now));
        }
        self.refresh();
    }

    fn tell(&mut self, event: Event) {
        self.out.push_back(ToSwarm::GenerateEvent(event));
    }

    fn on_event(&mut self, event: PartsEvent) {
        match event {
            PartsEvent::Prober(event) => {
                let address = event.tested_addr;
                let is_asked = self.candidates.is_tried(&address);
                if event.result.is_err() && is_asked && !self.confirmed.contains(&address) {
                    tracing::debug!(%address, by = %event.server, "nobody came through");
                    self.failed.insert(address);
                    self.refresh();
                }
            }
            PartsEvent::Client(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            }) => {
                self.relays.promised(&relay_peer_id, Instant::now());
                self.refresh();
            }
            PartsEvent::Client(_) | PartsEvent::Tester(_) => {}
            PartsEvent::Server(event) => {
                self.meter.relay(&event);
                self.account.on_event(&event);
                self.refresh();
            }
            PartsEvent::Punch(event) => {
                self.meter.dcutr(&event);
                let peer = event.remote_peer_id;
                match event.result {
                    Ok(_) => tracing::debug!(%peer, "got through both routers"),
                    Err(error) => tracing::debug!(%peer, %error, "a relay stays between"),
                }
            }
        }
    }

    /// Requests of the parts to the swarm, as far as they are passed on.
    fn pass(
        &mut self,
        out: ToSwarm<PartsEvent, THandlerInEvent<Parts>>,
    ) -> Option<ToSwarm<Event, THandlerInEvent<Parts>>> {
        match out {
            ToSwarm::GenerateEvent(event) => {
                self.on_event(event);
                None
            }
            ToSwarm::ExternalAddrConfirmed(address) if is_relayed(&address) => {
                self.relayed.insert(without_peer(address.clone()));
                self.refresh();
                Some(ToSwarm::ExternalAddrConfirmed(address))
            }
            ToSwarm::ExternalAddrConfirmed(address) => {
                if self.candidates.is_tried(&address) {
                    self.confirm(address);
                }
                None
            }
            ToSwarm::ExternalAddrExpired(address) => {
                self.relayed.remove(&without_peer(address.clone()));
                self.refresh();
                Some(ToSwarm::ExternalAddrExpired(address))
            }
            ToSwarm::Dial { opts } => {
                self.dials.insert(opts.connection_id());
                Some(ToSwarm::Dial { opts })
            }
            other => Some(other.map_out(|_| unreachable!("events are taken above"))),
        }
    }

    fn on_connection(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        self.dials.remove(&id);
        if let ConnectedPoint::Listener {
            local_addr,
            send_back_addr,
        } = endpoint
        {
            self.came(local_addr, send_back_addr);
        }
        self.links.insert(id, (peer, remote(peer, endpoint)));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <Parts as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    delegate_connections!(parts);

    /// Addresses that a peer wants dialled (to try it, or to meet it half-way) are hearsay: they
    /// are on the account of the place that the peer is connected from.
    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        if let Some(peer) = peer
            && self.dials.contains(&connection)
        {
            let mut links = self.links.values();
            let link = links.find(|(other, _)| *other == peer);
            if let Some((_, remote)) = link {
                let told = addresses.to_vec();
                self.hearsay.hear(peer, Some(remote), peer, told);
            }
        }
        Ok(Vec::new())
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        // The parts come first: a connection may be the one that shows that this node can be
        // reached, and the relay tells only connections that it knows that it relays.
        self.parts.on_swarm_event(event);
        match &event {
            FromSwarm::ConnectionEstablished(event) => {
                self.on_connection(event.peer_id, event.connection_id, event.endpoint);
            }
            FromSwarm::ConnectionClosed(event) => {
                self.links.remove(&event.connection_id);
                if event.remaining_established == 0 {
                    self.told.remove(&event.peer_id);
                    self.relays.gone(&event.peer_id, Instant::now());
                }
            }
            FromSwarm::DialFailure(event) => {
                self.dials.remove(&event.connection_id);
            }
            FromSwarm::NewListenAddr(event) => {
                self.candidates.listens(event.addr);
                self.try_new();
            }
            FromSwarm::ExpiredListenAddr(event) => {
                self.candidates.listens_no_more(event.addr);
                self.expire(|address| address == event.addr);
            }
            FromSwarm::ListenerClosed(event) => self.on_listener_closed(event.listener_id),
            _ => {}
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if self.timer.as_mut().poll(cx).is_ready() {
                self.timer.as_mut().reset(Instant::now() + TICK);
                self.tick();
                continue;
            }
            if let Some(looking) = &mut self.looking
                && let Poll::Ready(ways) = Pin::new(looking).poll(cx)
            {
                self.looking = None;
                let now = self.clock.now();
                if let (Ok(ways), Some(network)) = (ways, &mut self.network)
                    && let Some(change) = network.look(ways, now, Instant::now())
                {
                    self.on_network_changed(change);
                }
            }
            if let Some(out) = self.out.pop_front() {
                return Poll::Ready(out);
            }
            let Poll::Ready(out) = self.parts.poll(cx) else {
                return Poll::Pending;
            };
            if let Some(out) = self.pass(out) {
                return Poll::Ready(out);
            }
        }
    }
}
