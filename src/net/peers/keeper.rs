//! Keeps the connections that should be and closes those that should not.
//!
//! - Bootstrap peers are dialled until they answer, with growing pauses, and again when hardly anybody is connected.
//! - Two peers that dial each other at the same moment end with two connections; one is closed a moment later.
//! - Peers of other networks, and those that misbehaved, are turned away for a while.
//! - The first few connections are kept when idle, so that a small mesh stays together; others close after the idle time.

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
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour,
    NotifyHandler, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use tokio::time::{Instant, Sleep};

use super::book::{Book, Link, surplus};
use super::bootstrap::Bootstraps;
use super::keep::{Keep, KeepHandler};
use super::{Connected, Direction, Error, Misbehaviour, Source, Target};
use crate::net::address::{peer_of, without_peer};
use crate::time::Clock;

/// How often it is looked whether a double connection can be closed: Kademlia waits 10 s for an answer that was under way on it.
const DOUBLE_INTERVAL: Duration = Duration::from_secs(1);
/// A double connection is closed after so long even if something is under way.
const DOUBLE_MAX: Duration = Duration::from_secs(60);
/// Of two peers that discover each other the one with the larger id waits so long for the other to dial.
const LATE_DIAL: Duration = Duration::from_secs(2);
/// How long a peer of another network, or one that misbehaved, is turned away.
const REFUSAL: Duration = Duration::from_secs(10 * 60);
/// Most peers that are turned away at one time.
const MAX_REFUSED: usize = 4096;
/// Most discovered peers that wait to be dialled.
const MAX_LATE_DIALS: usize = 256;
/// Peers on the local network are dialled as long as no more than so many are connected.
const MAX_DISCOVERED: usize = 64;
/// So many connections are kept when idle.
const KEPT_CONNECTIONS: usize = 16;
/// Bootstrap peers that went away are dialled again soon only when fewer than so many are connected.
const FEW_PEERS: usize = 4;

/// What the keeper tells its room.
#[derive(Debug)]
pub(crate) enum Fact {
    /// The last connection with an identified peer has ended.
    Gone(PeerId),
    /// There are several connections with a peer: [`Keeper::settle`] is waited for.
    Double(PeerId),
    /// A bootstrap peer could not be reached.
    BootstrapFailed {
        address: Multiaddr,
        error: String,
        retry_in: Duration,
    },
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
    refused: HashMap<PeerId, Instant>,
    /// When to look next at peers with several connections, and since when they have them.
    doubles: VecDeque<(Instant, (PeerId, Instant))>,
    late_dials: VecDeque<(Instant, PeerId)>,
    /// Callers that wait for a peer, and for whoever is at an address that is being dialled.
    waiting: HashMap<PeerId, Vec<Connected>>,
    dialling: HashMap<ConnectionId, Connected>,
    kept: HashSet<PeerId>,
    out: VecDeque<ToSwarm<Fact, Keep>>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What went wrong, in a line.
fn describe(error: &DialError) -> String {
    match error {
        DialError::Transport(errors) => {
            let parts: Vec<String> = errors
                .iter()
                .take(4)
                .map(|(address, error)| {
                    let mut cause: &dyn std::error::Error = error;
                    while let Some(source) = cause.source() {
                        cause = source;
                    }
                    format!("{}: {cause}", without_peer(address.clone()))
                })
                .collect();
            parts.join("; ")
        }
        DialError::NoAddresses => "no address of it is known".to_owned(),
        DialError::WrongPeerId { obtained, address } => {
            format!("{obtained} is at {}", without_peer(address.clone()))
        }
        DialError::LocalPeerId { .. } => "it is this node itself".to_owned(),
        DialError::Denied { cause } => {
            let mut cause: &dyn std::error::Error = cause;
            while let Some(source) = cause.source() {
                cause = source;
            }
            cause.to_string()
        }
        DialError::Aborted | DialError::DialPeerConditionFalse(_) => error.to_string(),
    }
}

impl Keeper {
    pub(super) fn new(local: PeerId, bootstrap: Vec<Multiaddr>, clock: Arc<dyn Clock>) -> Self {
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
            refused: HashMap::new(),
            doubles: VecDeque::new(),
            late_dials: VecDeque::new(),
            waiting: HashMap::new(),
            dialling: HashMap::new(),
            kept: HashSet::new(),
            out: VecDeque::new(),
            timer: None,
        }
    }

    /// Connects to a target and tells the caller.
    pub(super) fn connect(&mut self, target: Target, reply: Connected) {
        let (peer, address) = match target {
            Target::Peer(peer) => (Some(peer), None),
            Target::Address(address) => (peer_of(&address), Some(address)),
        };
        let Some(peer) = peer else {
            if let Some(address) = address {
                let opts = DialOpts::unknown_peer_id().address(address).build();
                self.dialling.retain(|_, waiter| !waiter.is_closed());
                self.dialling.insert(opts.connection_id(), reply);
                self.out.push_back(ToSwarm::Dial { opts });
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
        let overdue = since.is_some_and(|(_, (_, since))| since.elapsed() >= DOUBLE_MAX);
        let links = self.book.links(&peer);
        let close: Vec<ConnectionId> = surplus(&self.local, &peer, links)
            .into_iter()
            .filter(|id| {
                let ours = |link: &&Link| link.direction == Direction::Outbound;
                overdue || (quiet && links.iter().filter(ours).any(|link| link.id == *id))
            })
            .collect();
        for id in close {
            self.close_one(peer, id);
        }
    }

    /// Disconnects a peer and turns it away for a while.
    pub(super) fn refuse(&mut self, peer: PeerId) {
        if self.refused.len() >= MAX_REFUSED {
            let now = Instant::now();
            self.refused.retain(|_, until| *until > now);
            if self.refused.len() >= MAX_REFUSED
                && let Some(first) = self.refused.iter().min_by_key(|(_, until)| **until)
            {
                let first = *first.0;
                self.refused.remove(&first);
            }
        }
        self.refused.insert(peer, Instant::now() + REFUSAL);
        self.book.forget(&peer);
        self.close(peer);
    }

    fn is_refused(&self, peer: &PeerId) -> bool {
        self.refused
            .get(peer)
            .is_some_and(|until| *until > Instant::now())
    }

    /// A peer turned out to be of another network.
    pub(super) fn other_network(&mut self, peer: PeerId, network: String) {
        let error = Error::OtherNetwork { peer, network };
        let text = error.to_string();
        let facts = self.bootstraps.failed(Some(peer), None, &text);
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
        if self.kept.len() < KEPT_CONNECTIONS || self.kept.contains(&peer) {
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

    /// Somebody is on the local network.
    pub(super) fn discovered(&mut self, peer: PeerId, address: Multiaddr) {
        if peer == self.local || self.is_refused(&peer) {
            return;
        }
        self.book
            .learn(peer, [address], Source::Mdns, self.clock.now());
        let queued = self.late_dials.iter().any(|(_, other)| *other == peer);
        if queued
            || !self.book.links(&peer).is_empty()
            || self.late_dials.len() >= MAX_LATE_DIALS
            || self.book.connected() >= MAX_DISCOVERED
        {
            return;
        }
        // The other one hears of us at the same moment. All addresses of one packet come one by one, so even an immediate
        // dial waits for the next poll.
        let wait = if self.local < peer {
            Duration::ZERO
        } else {
            LATE_DIAL
        };
        self.late_dials.push_back((Instant::now() + wait, peer));
    }

    fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let now = self.clock.now();
        let (direction, address) = match endpoint {
            ConnectedPoint::Dialer { address, .. } => {
                self.book.confirm(peer, address, now);
                (Direction::Outbound, address)
            }
            ConnectedPoint::Listener { send_back_addr, .. } => (Direction::Inbound, send_back_addr),
        };
        let link = Link {
            id,
            direction,
            address: address.clone(),
            since: now,
        };
        let known = self.doubles.iter().any(|(_, (other, _))| *other == peer);
        if self.book.linked(peer, link) && !known {
            let now = Instant::now();
            self.doubles.push_back((now + DOUBLE_INTERVAL, (peer, now)));
        }
        if self.bootstraps.established(peer, id, Instant::now()) {
            self.book.learn(peer, [], Source::Bootstrap, now);
        }
        if let Some(waiter) = self.dialling.remove(&id) {
            self.book.learn(peer, [], Source::Manual, now);
            if self.book.is_connected(&peer) {
                let _ = waiter.send(Ok(peer));
            } else {
                self.wait(peer, waiter);
            }
        }
    }

    fn on_closed(&mut self, peer: PeerId, id: ConnectionId, left: usize) {
        if self.book.unlinked(peer, id, self.clock.now()) {
            self.out.push_back(ToSwarm::GenerateEvent(Fact::Gone(peer)));
        }
        if left > 0 {
            return;
        }
        self.kept.remove(&peer);
        let error = Error::Unreachable {
            target: peer.to_string(),
            reason: "it closed the connection".to_owned(),
        };
        self.answer(peer, &Err(error));
        if self.book.connected() < FEW_PEERS {
            self.bootstraps.hurry(Instant::now());
        }
    }

    fn on_dial_failure(&mut self, peer: Option<PeerId>, id: ConnectionId, error: &DialError) {
        if matches!(error, DialError::DialPeerConditionFalse(_)) {
            // Somebody else is dialling, or the connection is there and the peer about to tell who it is.
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
        if let Some(waiter) = self.dialling.remove(&id) {
            let _ = waiter.send(Err(unreachable("the address".to_owned())));
        }
        if let Some(peer) = peer
            && self.book.links(&peer).is_empty()
        {
            self.answer(peer, &Err(unreachable(peer.to_string())));
        }
        let facts = self.bootstraps.failed(peer, Some(id), &describe(error));
        self.tell(facts);
        if let DialError::LocalPeerId { address } = error {
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
        while let Some((_, peer)) = take_due(&mut self.late_dials, now) {
            if self.book.links(&peer).is_empty() {
                self.dial(peer);
            }
        }
        while let Some(due) = self.bootstraps.take_due(now) {
            let id = self.dial_bootstrap(due.peer, due.address, due.attempts);
            self.bootstraps.dialling(due.number, id);
        }
        let doubles = self.doubles.iter().map(|(due, _)| *due);
        doubles
            .chain(self.late_dials.iter().map(|(due, _)| *due))
            .chain(self.bootstraps.next_due())
            .min()
    }

    /// Dials a bootstrap peer whose turn it is, unless it is there or enough others are.
    fn dial_bootstrap(
        &mut self,
        peer: Option<PeerId>,
        address: Multiaddr,
        attempts: u32,
    ) -> Option<ConnectionId> {
        let Some(peer) = peer else {
            let opts = DialOpts::unknown_peer_id().address(address).build();
            let id = opts.connection_id();
            self.out.push_back(ToSwarm::Dial { opts });
            return Some(id);
        };
        let is_linked = !self.book.links(&peer).is_empty();
        if is_linked || (attempts == 0 && self.book.connected() >= FEW_PEERS) {
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
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.is_refused(&peer) {
            return Err(ConnectionDenied::new(TurnedAway));
        }
        Ok(KeepHandler::default())
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
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if self.is_refused(&peer) {
            return Err(ConnectionDenied::new(TurnedAway));
        }
        Ok(KeepHandler::default())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_turned_away_is_bounded() {
        let clock = Arc::new(crate::time::SystemClock);
        let mut keeper = Keeper::new(PeerId::random(), Vec::new(), clock);
        let last = PeerId::random();
        for _ in 0..MAX_REFUSED + 5 {
            keeper.refuse(PeerId::random());
        }
        keeper.refuse(last);
        assert_eq!(keeper.refused.len(), MAX_REFUSED);
        assert!(keeper.is_refused(&last));
    }
}
