//! Keeps the connections that should be and closes those that should not.
//!
//! - Bootstrap peers are dialled until they answer, with growing pauses, and again when hardly anybody is connected.
//! - Two peers that dial each other at the same moment end with two connections; one is closed a moment later.
//! - Peers of other networks, and those that misbehaved, are turned away for a while.
//! - Peers of the local network are dialled whenever there is no connection with them.
//! - The first few connections, and those of the local network, are kept when idle, so that a small
//!   mesh stays together; others close after the idle time.
//! - Which connections may be made, and which give way, is said by `admission`; here it is done.
//! - A connection over which nothing comes any more is closed.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::PeerId;
use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint, Multiaddr};
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, ListenError,
    NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use tokio::time::{Instant, Sleep};

use super::book::{Book, Link, MAX_ADDRESSES, surplus};
use super::bootstrap::Bootstraps;
use super::keep::{Keep, KeepHandler};
use super::neighbours::Neighbours;
use super::reason::describe;
use super::refusals::Refusals;
use super::twin::{Twins, Verdict};
use super::{Connected, Direction, Error, Misbehaviour, Source, Target};
use crate::net::address::{
    is_dialable, is_quic, is_relayed, peer_of, remote, remote_of_inbound, without_peer,
};
use crate::net::admission::{Held, Judgement, Newcomer, Places, Site, Standing, StandingOf};
use crate::net::hearsay::Hearsay;
use crate::net::limits::Limits;
use crate::time::Clock;

/// How often it is looked whether a double connection can be closed: Kademlia waits 10 s for an answer that was under way on it.
const DOUBLE_INTERVAL: Duration = Duration::from_secs(1);
/// A double connection is closed after so long even if something is under way.
const DOUBLE_MAX: Duration = Duration::from_secs(60);
/// As the former, for a connection through a relay beside a direct one: the relay has others to
/// serve.
const RELAYED_MAX: Duration = Duration::from_secs(10);
/// Peers on the local network are dialled as long as no more than so many are connected.
const MAX_DISCOVERED: usize = 64;
/// So many connections are kept when idle.
const KEPT_CONNECTIONS: usize = 16;
/// Bootstrap peers that went away are dialled again soon only when fewer than so many are connected.
const FEW_PEERS: usize = 4;
/// A bootstrap peer that ends a connection sooner has sent this node away.
const STEADY: Duration = Duration::from_secs(30);
/// Intervals of looking for connections over which nothing comes, and for idle ones that are too
/// many.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
const CROWDED_INTERVAL: Duration = Duration::from_secs(1);
/// A connection over which nothing has come for so long is dead: more than two pings went
/// unanswered.
const SILENCE: Duration = Duration::from_secs(22);
/// A connection over which blocks have moved within so long is in use.
const IN_USE: Duration = Duration::from_secs(10);

/// What the keeper tells its room.
#[derive(Debug)]
pub(crate) enum Fact {
    /// The last connection with an identified peer has ended.
    Gone(PeerId),
    /// There are several connections with a peer: [`Keeper::settle`] is waited for.
    Double(PeerId),
    /// There are more connections than there may be: [`Keeper::make_room`] is waited for.
    Crowded,
    /// A bootstrap peer could not be reached.
    BootstrapFailed {
        address: Multiaddr,
        error: String,
        retry_in: Duration,
    },
    /// Another node runs with this node's key; this is where.
    Twin(Multiaddr),
}

#[derive(Debug, thiserror::Error)]
#[error("the peer is turned away for now")]
struct TurnedAway;

/// Keeps the connections that should be.
pub(crate) struct Keeper {
    local: PeerId,
    clock: Arc<dyn Clock>,
    pub(super) book: Book,
    bootstraps: Bootstraps,
    refused: Refusals,
    /// When to look next at peers with several connections, and since when they have them.
    doubles: VecDeque<(Instant, (PeerId, Instant))>,
    neighbours: Neighbours,
    twins: Twins,
    /// Callers that wait for a peer, and for whoever is at an address that is being dialled.
    waiting: HashMap<PeerId, Vec<Connected>>,
    dialling: HashMap<ConnectionId, (Connected, Source)>,
    kept: HashSet<PeerId>,
    places: Places,
    settled_after: Duration,
    standing: StandingOf,
    pub(super) hearsay: Arc<Hearsay>,
    /// Connections that are being closed so that others have their places.
    leaving: HashSet<ConnectionId>,
    /// When to look for dead connections, and for those that are too many.
    look_at: Instant,
    crowded: Option<Instant>,
    out: VecDeque<ToSwarm<Fact, Keep>>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Keeper {
    pub(super) fn new(
        local: PeerId,
        bootstrap: Vec<Multiaddr>,
        limits: &Limits,
        standing: StandingOf,
        hearsay: Arc<Hearsay>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let now = clock.now();
        let mut book = Book::default();
        let others = bootstrap
            .into_iter()
            .filter(|address| peer_of(address) != Some(local));
        let others: Vec<Multiaddr> = others.collect();
        for address in &others {
            if let Some(peer) = peer_of(address) {
                book.learn(peer, [address.clone()], Source::Bootstrap, now);
            }
        }
        Self {
            local,
            bootstraps: Bootstraps::new(others, Instant::now()),
            book,
            clock,
            refused: Refusals::default(),
            doubles: VecDeque::new(),
            neighbours: Neighbours::new(local),
            twins: Twins::default(),
            waiting: HashMap::new(),
            dialling: HashMap::new(),
            kept: HashSet::new(),
            places: Places::new(limits),
            settled_after: limits.settled_after,
            standing,
            hearsay,
            leaving: HashSet::new(),
            look_at: Instant::now(),
            crowded: None,
            out: VecDeque::new(),
            timer: None,
        }
    }

    /// Connects to a target and tells the caller, who vouches for an address unless a meeting point
    /// told it.
    pub(super) fn connect(&mut self, target: Target, reply: Connected) {
        let (peer, address) = match target {
            Target::Peer(peer) => (Some(peer), None),
            Target::Address(address) => {
                self.hearsay.vouch(&address);
                (peer_of(&address), Some(address))
            }
            Target::Met(address) => {
                self.hearsay.pass(&address);
                self.dial_for(address, reply, Source::Meeting);
                return;
            }
        };
        let Some(peer) = peer else {
            if let Some(address) = address {
                self.dial_for(address, reply, Source::Manual);
            }
            return;
        };
        if let Some(address) = address {
            self.book
                .learn(peer, [address], Source::Manual, self.clock.now());
        }
        if self.book.is_connected(&peer) {
            let _ = reply.send(Ok(peer));
            return;
        }
        self.wait(peer, reply);
        self.dial(peer);
    }

    /// Dials whoever is at an address, for a caller.
    fn dial_for(&mut self, address: Multiaddr, reply: Connected, source: Source) {
        self.dialling.retain(|_, (waiter, _)| !waiter.is_closed());
        let id = self.dial_address(address);
        self.dialling.insert(id, (reply, source));
    }

    fn wait(&mut self, peer: PeerId, reply: Connected) {
        self.waiting.retain(|_, waiters| {
            waiters.retain(|waiter| !waiter.is_closed());
            !waiters.is_empty()
        });
        self.waiting.entry(peer).or_default().push(reply);
    }

    fn dial(&mut self, peer: PeerId) -> ConnectionId {
        let opts = DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .build();
        let id = opts.connection_id();
        self.out.push_back(ToSwarm::Dial { opts });
        id
    }

    /// Dials whoever is at an address.
    fn dial_address(&mut self, address: Multiaddr) -> ConnectionId {
        let opts = DialOpts::unknown_peer_id().address(address).build();
        let id = opts.connection_id();
        self.out.push_back(ToSwarm::Dial { opts });
        id
    }

    fn answer(&mut self, peer: PeerId, result: &Result<PeerId, Error>) {
        for waiter in self.waiting.remove(&peer).unwrap_or_default() {
            let _ = waiter.send(result.clone());
        }
    }

    /// Closes all connections with a peer.
    pub(super) fn close(&mut self, peer: PeerId) {
        self.out.push_back(ToSwarm::CloseConnection {
            peer_id: peer,
            connection: CloseConnection::All,
        });
    }

    /// Closes one connection.
    pub(super) fn close_one(&mut self, peer: PeerId, connection: ConnectionId) {
        self.out.push_back(ToSwarm::CloseConnection {
            peer_id: peer,
            connection: CloseConnection::One(connection),
        });
    }

    /// Closes what is too much of several connections with a peer: each side those that it dialled itself, once it has nothing under
    /// way to the peer; after some time all in any case.
    pub(super) fn settle(&mut self, peer: PeerId, quiet: bool) {
        let since = self.doubles.iter().find(|(_, (other, _))| *other == peer);
        let lasted = since.map_or(Duration::ZERO, |(_, (_, since))| since.elapsed());
        let links = self.book.links(&peer);
        let close: Vec<ConnectionId> = surplus(&self.local, &peer, links)
            .into_iter()
            .filter(|id| {
                let mut links = links.iter();
                let link = links.find(|link| link.id == *id);
                let is_ours = link.is_some_and(|link| link.direction == Direction::Outbound);
                let is_relayed = link.is_some_and(|link| is_relayed(&link.address));
                let most = if is_relayed { RELAYED_MAX } else { DOUBLE_MAX };
                lasted >= most || (quiet && is_ours)
            })
            .collect();
        for id in close {
            self.close_one(peer, id);
        }
    }

    /// Disconnects a peer and turns it away for a while.
    pub(super) fn refuse(&mut self, peer: PeerId) {
        self.refused.add(peer, Instant::now());
        self.book.forget(&peer);
        self.close(peer);
    }

    fn is_refused(&self, peer: &PeerId) -> bool {
        self.refused.contains(peer, Instant::now())
    }

    /// A peer turned out to be of another network.
    pub(super) fn other_network(&mut self, peer: PeerId, network: String) {
        let error = Error::OtherNetwork { peer, network };
        let text = error.to_string();
        let now = Instant::now();
        let facts = self.bootstraps.failed(Some(peer), None, &text, now);
        self.tell(facts);
        self.answer(peer, &Err(error));
        self.refuse(peer);
    }

    /// A peer misbehaved; if too often it is disconnected and turned away. True in that case.
    pub(super) fn blame(&mut self, peer: PeerId, what: Misbehaviour) -> bool {
        let too_much = self.book.blame(peer, what, self.clock.now());
        if too_much {
            self.refuse(peer);
        }
        too_much
    }

    /// A peer of this network has told who it is. True when it is now connected and was not before.
    pub(super) fn identified(
        &mut self,
        peer: PeerId,
        agent: &str,
        protocols: impl Iterator<Item = String>,
    ) -> bool {
        if self.book.links(&peer).is_empty() {
            // The connection has ended in the meantime.
            return false;
        }
        let first = self
            .book
            .identified(peer, agent, protocols, self.clock.now());
        self.answer(peer, &Ok(peer));
        if self.neighbours.identified(&peer)
            || self.kept.len() < KEPT_CONNECTIONS
            || self.kept.contains(&peer)
        {
            self.keep(peer);
        }
        first
    }

    /// Keeps the connections with a peer open when they are idle.
    pub(super) fn keep(&mut self, peer: PeerId) {
        let links = self.book.links(&peer);
        if links.is_empty() {
            return;
        }
        self.kept.insert(peer);
        for link in links {
            self.out.push_back(ToSwarm::NotifyHandler {
                peer_id: peer,
                handler: NotifyHandler::One(link.id),
                event: Keep,
            });
        }
    }

    /// A peer says where it listens, over a connection with `seen_at`. Gives back what counts.
    /// Neighbours and members of this node's rings vouch for their addresses.
    pub(super) fn heard(
        &mut self,
        peer: PeerId,
        seen_at: Option<&Multiaddr>,
        addresses: Vec<Multiaddr>,
    ) -> Vec<Multiaddr> {
        if !self.is_member(&peer) && !self.neighbours.contains(&peer) {
            return self.hearsay.hear(peer, seen_at, peer, addresses);
        }
        let dialable = addresses.into_iter();
        let dialable = dialable.filter(|address| is_dialable(address, seen_at));
        let dialable: Vec<Multiaddr> = dialable.take(MAX_ADDRESSES).collect();
        dialable
            .iter()
            .for_each(|address| self.hearsay.vouch(address));
        dialable
    }

    /// Somebody is on the local network.
    pub(super) fn discovered(&mut self, peer: PeerId, address: Multiaddr) {
        if peer == self.local || self.is_refused(&peer) {
            return;
        }
        self.hearsay.vouch(&address);
        self.book
            .hear(peer, [address.clone()], Source::Mdns, self.clock.now());
        self.neighbours.discovered(peer, address, Instant::now());
        if self.book.is_connected(&peer) && self.neighbours.identified(&peer) {
            self.keep(peer);
        }
    }

    /// An address of a peer on the local network was not heard of for long. It may still work.
    pub(super) fn expired(&mut self, peer: &PeerId, address: &Multiaddr) {
        self.neighbours.expired(peer, address);
    }

    /// Somebody on the local network claims to be this node, at an address: dialling shows whether
    /// it is so.
    pub(super) fn claimed(&mut self, address: Multiaddr) {
        if self.has_room() && self.twins.claimed(&address, Instant::now()) {
            self.hearsay.vouch(&address);
            self.dial_address(address);
        }
    }

    fn has_room(&self) -> bool {
        self.places.has_room(self.book.all_links())
    }

    /// Whether a peer is a member of one of this node's rings.
    pub(super) fn is_member(&self, peer: &PeerId) -> bool {
        (self.standing)(*peer) == Standing::Member
    }

    /// Connections that are too many.
    fn excess(&self) -> usize {
        let links = self.book.all();
        let strangers = links.filter(|(peer, ..)| !self.is_member(peer)).count();
        self.places.excess(self.book.all_links(), strangers)
    }

    /// Parts with idle connections that are too many; `quiet`: nothing is under way with that peer.
    pub(super) fn make_room(&mut self, quiet: impl Fn(PeerId) -> bool) {
        let excess = self.excess();
        let now = self.clock.now();
        let stays = |peer: &PeerId, link: &Link| {
            now.since(link.since) < self.settled_after
                || self.waiting.contains_key(peer)
                || self.is_member(peer)
                || !quiet(*peer)
        };
        for peer in self.book.least_useful(excess, stays) {
            tracing::debug!(%peer, "an idle connection gives way to another");
            self.close(peer);
        }
    }

    /// The network has come back, or is another one: pauses after failures were for the old one.
    pub(super) fn network_changed(&mut self) {
        let now = Instant::now();
        self.bootstraps.try_now(now);
        self.look_at = now;
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let now = self.clock.now();
        let direction = match endpoint {
            ConnectedPoint::Dialer {
                address,
                role_override,
                ..
            } => {
                if !is_relayed(address) {
                    self.book.confirm(peer, address, now);
                }
                // Both ends dial to get through their routers: they agree whose call it is.
                match role_override {
                    Endpoint::Dialer => Direction::Outbound,
                    Endpoint::Listener => Direction::Inbound,
                }
            }
            ConnectedPoint::Listener { .. } => Direction::Inbound,
        };
        let link = Link {
            id,
            direction,
            address: remote(peer, endpoint),
            since: now,
            alive: None,
        };
        let known = self.doubles.iter().any(|(_, (other, _))| *other == peer);
        if self.book.linked(peer, link) && !known {
            let now = Instant::now();
            self.doubles.push_back((now + DOUBLE_INTERVAL, (peer, now)));
        }
        if self.excess() > 0 {
            self.crowded.get_or_insert_with(Instant::now);
        }
        if self.bootstraps.established(peer, id, Instant::now()) {
            self.book.learn(peer, [], Source::Bootstrap, now);
        }
        if let Some((waiter, source)) = self.dialling.remove(&id) {
            self.book.learn(peer, [], source, now);
            if self.book.is_connected(&peer) {
                let _ = waiter.send(Ok(peer));
            } else {
                self.wait(peer, waiter);
            }
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, left: usize) {
        let now = self.clock.now();
        let ended = self.book.links(&peer).iter().find(|link| link.id == id);
        let lasted = ended.map_or(Duration::ZERO, |link| now.since(link.since));
        let was_connected = self.book.unlinked(peer, id, now);
        self.leaving.remove(&id);
        if was_connected {
            self.out.push_back(ToSwarm::GenerateEvent(Fact::Gone(peer)));
        }
        if left > 0 {
            return;
        }
        self.kept.remove(&peer);
        let now = Instant::now();
        self.neighbours.unreached(&peer, now, rand::random());
        let reason = if was_connected {
            "it closed the connection"
        } else {
            "it closed the connection before it told who it is: it may have as many as it takes"
        };
        if was_connected && lasted >= STEADY {
            self.bootstraps.stayed(peer);
            if self.book.connected() == 0 {
                self.bootstraps.all_lost(now, rand::random());
            }
        } else if !self.is_refused(&peer) {
            let facts = self.bootstraps.failed(Some(peer), None, reason, now);
            self.tell(facts);
        }
        let error = Error::Unreachable {
            target: peer.to_string(),
            reason: reason.to_owned(),
        };
        self.answer(peer, &Err(error));
        if self.book.connected() < FEW_PEERS {
            self.bootstraps.hurry(now);
        }
    }

    fn newcomer(&self, peer: PeerId, direction: Direction, address: &Multiaddr) -> Newcomer {
        Newcomer {
            site: Site::of(address),
            is_inbound: direction == Direction::Inbound,
            is_quic: is_quic(address),
            standing: (self.standing)(peer),
        }
    }

    /// Lets a connection be made, if need be in the place of another one.
    fn admit(
        &mut self,
        peer: PeerId,
        direction: Direction,
        address: &Multiaddr,
    ) -> Result<KeepHandler, ConnectionDenied> {
        if self.is_refused(&peer) {
            return Err(ConnectionDenied::new(TurnedAway));
        }
        let (now, here) = (self.clock.now(), Instant::now());
        let in_use = |at: Instant| here.saturating_duration_since(at) < IN_USE;
        let links = self.book.all();
        let stay = links.filter(|(_, link, _)| !self.leaving.contains(&link.id));
        let held: Vec<Held> = stay
            .map(|(peer, link, moved)| Held {
                id: link.id,
                facts: self.newcomer(*peer, link.direction, &link.address),
                moved: moved.bytes,
                age: now.since(link.since),
                is_busy: self.waiting.contains_key(peer) || moved.at.is_some_and(in_use),
            })
            .collect();
        let newcomer = self.newcomer(peer, direction, address);
        match self.places.judge(&newcomer, &held) {
            Judgement::Admit => {}
            Judgement::Refuse(full) => return Err(ConnectionDenied::new(full)),
            Judgement::Replace(id) => {
                let least = self.book.all().find(|(_, link, _)| link.id == id);
                if let Some((least, ..)) = least {
                    let least = *least;
                    tracing::debug!(peer = %least, "a connection gives way to another");
                    self.leaving.insert(id);
                    self.close_one(least, id);
                }
            }
        }
        Ok(KeepHandler::default())
    }

    fn on_dial_failure(&mut self, peer: Option<PeerId>, id: ConnectionId, error: &DialError) {
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            // Somebody else is dialling, or the connection is there and the peer about to tell who it is.
            return;
        }
        let is_through_itself = |error: &DialError| matches!(error, DialError::LocalPeerId { address } if is_relayed(address));
        if peer == Some(self.local) && is_through_itself(error) {
            // An address through this node as the relay: that shows no twin.
            return;
        }
        if let (Some(peer), DialError::Transport(errors)) = (peer, error) {
            for (address, _) in errors {
                self.book.doubt(peer, address);
            }
        }
        let unreachable = |target: String| Error::Unreachable {
            target,
            reason: describe(error),
        };
        if let Some((waiter, _)) = self.dialling.remove(&id) {
            let failed = match error {
                DialError::Denied { cause } if cause.downcast_ref::<TurnedAway>().is_some() => {
                    Error::TurnedAway("the address".to_owned())
                }
                DialError::LocalPeerId { address } => {
                    Error::Itself(without_peer(address.clone()).to_string())
                }
                _ => unreachable("the address".to_owned()),
            };
            let _ = waiter.send(Err(failed));
        }
        let now = Instant::now();
        if let Some(peer) = peer
            && self.book.links(&peer).is_empty()
        {
            self.answer(peer, &Err(unreachable(peer.to_string())));
            self.neighbours.unreached(&peer, now, rand::random());
        }
        let facts = self
            .bootstraps
            .failed(peer, Some(id), &describe(error), now);
        self.tell(facts);
        if let DialError::LocalPeerId { address } = error {
            self.twins.dialled(without_peer(address.clone()), now);
            self.bootstraps.leave_out(address);
        }
    }

    fn tell(&mut self, facts: Vec<Fact>) {
        self.out
            .extend(facts.into_iter().map(ToSwarm::GenerateEvent));
    }

    /// Does what is due and gives back when to look again.
    fn act(&mut self, now: Instant) -> Option<Instant> {
        while let Some((_, (peer, since))) = take_due(&mut self.doubles, now) {
            if self.book.links(&peer).len() > 1 {
                self.doubles
                    .push_back((now + DOUBLE_INTERVAL, (peer, since)));
                self.out
                    .push_back(ToSwarm::GenerateEvent(Fact::Double(peer)));
            }
        }
        while let Some(peer) = self.neighbours.take_due(now) {
            let few = self.book.connected() < MAX_DISCOVERED && self.has_room();
            if few && self.book.links(&peer).is_empty() && !self.is_refused(&peer) {
                let addresses = self.neighbours.addresses(&peer);
                addresses.iter().for_each(|one| self.hearsay.vouch(one));
                self.dial(peer);
            }
        }
        while let Some(verdict) = self.twins.take_due(now, rand::random()) {
            match verdict {
                Verdict::Twin(place) => self.tell(vec![Fact::Twin(place)]),
                Verdict::Dial(address) => drop(self.dial_address(address)),
            }
        }
        if self.look_at <= now {
            self.look_at = now + LOOK_INTERVAL;
            for (peer, id) in self.book.dead(now, SILENCE) {
                tracing::debug!(%peer, "nothing comes over a connection any more");
                self.close_one(peer, id);
            }
        }
        if self.crowded.is_some_and(|due| due <= now) {
            let is_crowded = self.excess() > 0;
            self.crowded = is_crowded.then_some(now + CROWDED_INTERVAL);
            if is_crowded {
                self.tell(vec![Fact::Crowded]);
            }
        }
        while let Some(due) = self.bootstraps.take_due(now) {
            let id = self.dial_bootstrap(due.peer, due.address, due.attempts);
            self.bootstraps.dialling(due.number, id);
        }
        let doubles = self.doubles.iter().map(|(due, _)| *due);
        let is_linked = self.book.all_links() > 0;
        doubles
            .chain(self.neighbours.next_due())
            .chain(self.twins.next_due())
            .chain(self.bootstraps.next_due())
            .chain(self.crowded)
            .chain(is_linked.then_some(self.look_at))
            .min()
    }

    /// Dials a bootstrap peer whose turn it is, unless it is there or enough others are.
    fn dial_bootstrap(
        &mut self,
        peer: Option<PeerId>,
        address: Multiaddr,
        attempts: u32,
    ) -> Option<ConnectionId> {
        self.hearsay.vouch(&address);
        let Some(peer) = peer else {
            return Some(self.dial_address(address));
        };
        let is_linked = !self.book.links(&peer).is_empty();
        let enough = FEW_PEERS.min(self.places.all());
        if is_linked || (attempts == 0 && self.book.connected() >= enough) {
            return None;
        }
        self.book
            .learn(peer, [address], Source::Bootstrap, self.clock.now());
        Some(self.dial(peer))
    }
}

fn take_due<T: Copy>(queue: &mut VecDeque<(Instant, T)>, now: Instant) -> Option<(Instant, T)> {
    let first = queue.iter().position(|(due, _)| *due <= now)?;
    queue.remove(first)
}

impl NetworkBehaviour for Keeper {
    type ConnectionHandler = KeepHandler;
    type ToSwarm = Fact;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let remote = remote_of_inbound(peer, local, remote);
        self.admit(peer, Direction::Inbound, &remote)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        match peer {
            Some(peer) if self.is_refused(&peer) => Err(ConnectionDenied::new(TurnedAway)),
            Some(peer) => Ok(self.book.addresses(&peer)),
            None => Ok(Vec::new()),
        }
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.admit(peer, Direction::Outbound, address)
    }

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.on_established(event.peer_id, event.connection_id, event.endpoint);
            }
            FromSwarm::ConnectionClosed(event) => {
                self.on_closed(
                    event.peer_id,
                    event.connection_id,
                    event.remaining_established,
                );
            }
            FromSwarm::DialFailure(event) => {
                self.on_dial_failure(event.peer_id, event.connection_id, event.error);
            }
            FromSwarm::ListenFailure(event) => {
                let is_own_key = matches!(event.error, ListenError::LocalPeerId { .. });
                let now = Instant::now();
                self.twins.heard(event.send_back_addr, is_own_key, now);
            }
            FromSwarm::NewListenAddr(event) => {
                self.hearsay.listens(event.addr);
                self.twins.listens(event.addr.clone());
            }
            FromSwarm::ExpiredListenAddr(event) => {
                self.hearsay.listens_no_more(event.addr);
                self.twins.listens_no_more(event.addr);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            let next = self.act(Instant::now());
            if let Some(out) = self.out.pop_front() {
                return Poll::Ready(out);
            }
            let Some(next) = next else {
                self.timer = None;
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            match timer.as_mut().poll(cx) {
                Poll::Ready(()) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
