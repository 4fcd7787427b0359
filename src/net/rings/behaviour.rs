//! The rings room inside the swarm: libp2p's request-response with handshakes and news around it.
//!
//! Both ends of a connection begin a handshake when they are in any ring; that one of them would do is not worth a rule about who. A
//! handshake hashes a few KiB and nothing else here does work.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::request_response::{
    self as rr, Message, OutboundFailure, OutboundRequestId, ProtocolSupport,
};
use libp2p::swarm::{FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm};
use libp2p::{PeerId, StreamProtocol};
use tokio::time::{Instant, Sleep, sleep};

use super::Command;
use super::codec::{self, Codec};
use super::roll::{Roll, Told};
use crate::net::delegate::delegate_connections;
use crate::ring::handshake::{Initiator, Responder};
use crate::ring::message::{
    REFUSED_BUSY, REFUSED_OVER, REFUSED_STRANGER, REFUSED_USED, REFUSED_VOID, Request, Response,
};
use crate::ring::{RingId, Spent};

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Streams of one connection at one time.
const MAX_STREAMS: usize = 64;
/// How long the answer to a hello is good for.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Requests and handshakes are counted over so long.
const WINDOW: Duration = Duration::from_secs(60);
/// Handshakes that a peer may begin in that time.
pub(in crate::net) const MAX_HELLOS: u32 = 12;
/// Requests that a peer may make in that time: several rounds of news about all rings.
const MAX_REQUESTS: u32 = 256;
/// Handshakes that are begun again at once because a connection of two was closed.
const MAX_AGAIN: u32 = 2;
/// How long news are collected before they are passed on.
const COLLECT: Duration = Duration::from_millis(500);

/// What others may want to know of rings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A connected peer and this node have proven to each other that they are members.
    Member { peer: PeerId, ring: RingId },
    /// A peer broke the protocol, or asks too often.
    Misbehaved { peer: PeerId },
}

enum Asked {
    Hello(Initiator),
    Proof(Vec<RingId>),
    Info(RingId),
}

struct Peer {
    /// Handshakes of ours under way: one at most.
    shaking: bool,
    /// Which secrets the last handshake was about; none when there was none, or it failed.
    tried: Option<u64>,
    again: u32,
    /// News of ours under way, and whether there are newer ones.
    telling: usize,
    tell_again: bool,
    /// Its handshake under way.
    responder: Option<(Instant, Responder)>,
    window: Instant,
    hellos: u32,
    requests: u32,
}

impl Peer {
    fn new(now: Instant) -> Self {
        Self {
            shaking: false,
            tried: None,
            again: 0,
            telling: 0,
            tell_again: false,
            responder: None,
            window: now,
            hellos: 0,
            requests: 0,
        }
    }

    /// Counts a request. False when there are too many.
    fn admits(&mut self, request: &Request, now: Instant) -> bool {
        if now.duration_since(self.window) >= WINDOW {
            (self.window, self.hellos, self.requests) = (now, 0, 0);
        }
        self.requests += 1;
        if matches!(request, Request::Hello(_)) {
            self.hellos += 1;
        }
        self.requests <= MAX_REQUESTS && self.hellos <= MAX_HELLOS
    }
}

/// The rings room's behaviour.
pub(crate) struct Behaviour {
    inner: rr::Behaviour<Codec>,
    local: PeerId,
    roll: Arc<Roll>,
    /// Connected peers: as many as there may be connections.
    peers: HashMap<PeerId, Peer>,
    asked: HashMap<OutboundRequestId, (PeerId, Asked)>,
    events: VecDeque<Event>,
    /// When the members hear what is new.
    push: Option<Pin<Box<Sleep>>>,
}

impl Behaviour {
    pub(crate) fn new(local: PeerId, protocol: StreamProtocol, roll: Arc<Roll>) -> Self {
        let config = rr::Config::default()
            .with_request_timeout(REQUEST_TIMEOUT)
            .with_max_concurrent_streams(MAX_STREAMS);
        Self {
            inner: rr::Behaviour::with_codec(Codec, [(protocol, ProtocolSupport::Full)], config),
            local,
            roll,
            peers: HashMap::new(),
            asked: HashMap::new(),
            events: VecDeque::new(),
            push: None,
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Refresh => self.refresh(),
        }
    }

    /// A peer of this network is connected.
    pub(crate) fn connected(&mut self, peer: PeerId) {
        self.peers
            .entry(peer)
            .or_insert_with(|| Peer::new(Instant::now()));
        self.shake(peer);
    }

    /// Whether nothing is under way to a peer.
    pub(crate) fn is_quiet(&self, peer: PeerId) -> bool {
        self.asked.values().all(|(other, _)| *other != peer)
    }

    /// Tells members what is new; shakes hands where that was not done with the present secrets.
    fn refresh(&mut self) {
        self.roll.expire();
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.tell(peer);
            self.shake(peer);
        }
    }

    /// Begins a handshake unless one is under way or would tell nothing new.
    fn shake(&mut self, peer: PeerId) {
        let version = self.roll.secrets_version();
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if state.shaking || state.tried == Some(version) {
            return;
        }
        let secrets = self.roll.secrets_for(&peer);
        state.tried = Some(version);
        if secrets.is_empty() {
            return;
        }
        state.shaking = true;
        let (initiator, hello) = Initiator::start(self.local, peer, secrets, rand::random());
        self.ask(
            peer,
            Request::Hello(Box::new(hello)),
            Asked::Hello(initiator),
        );
    }

    fn tell(&mut self, peer: PeerId) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        if state.telling > 0 {
            state.tell_again = true;
            return;
        }
        let infos = self.roll.infos(&peer, None);
        state.telling = infos.len();
        for info in infos {
            let ring = info.ring;
            self.ask(peer, Request::Info(Box::new(info)), Asked::Info(ring));
        }
    }

    /// The peer has heard one of our news, or won't.
    fn heard(&mut self, peer: PeerId) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.telling = state.telling.saturating_sub(1);
            if state.telling == 0 && std::mem::take(&mut state.tell_again) {
                self.tell(peer);
            }
        }
    }

    fn ask(&mut self, peer: PeerId, request: Request, asked: Asked) {
        let id = self.inner.send_request(&peer, Ok(request));
        self.asked.insert(id, (peer, asked));
    }

    fn misbehaved(&mut self, peer: PeerId) {
        self.events.push_back(Event::Misbehaved { peer });
    }

    fn on_request(&mut self, peer: PeerId, request: Request) -> Response {
        let now = Instant::now();
        let state = self.peers.entry(peer).or_insert_with(|| Peer::new(now));
        if !state.admits(&request, now) {
            self.misbehaved(peer);
            return Response::Refused(REFUSED_BUSY);
        }
        match request {
            Request::Hello(hello) => {
                let secrets = self.roll.secrets_for(&peer);
                let (responder, answer) =
                    Responder::answer(self.local, peer, secrets, &hello, rand::random());
                state.responder = Some((now, responder));
                Response::Answer(Box::new(answer))
            }
            Request::Proof(proofs) => {
                let responder = state.responder.take();
                let live = |(at, _): &(Instant, _)| now.duration_since(*at) < HANDSHAKE_TIMEOUT;
                let Some((_, responder)) = responder.filter(live) else {
                    return Response::Refused(REFUSED_STRANGER);
                };
                let proven = responder.finish(&proofs);
                if proven.is_empty() {
                    // Who keeps to the protocol stops when the answer has proven nothing.
                    self.misbehaved(peer);
                }
                self.on_proven(peer, &proven);
                Response::Done
            }
            Request::Info(info) => {
                let ring = info.ring;
                let told = self.roll.told(peer, *info);
                self.on_told(told);
                let info = match told {
                    Told::Stranger => None,
                    Told::Known | Told::News => self.roll.infos(&peer, Some(&ring)).pop(),
                };
                let refusal = || match self.roll.spent(&peer, &ring) {
                    None => REFUSED_STRANGER,
                    Some(Spent::Used) => REFUSED_USED,
                    Some(Spent::Over) => REFUSED_OVER,
                    Some(Spent::Void) => REFUSED_VOID,
                };
                info.map_or_else(
                    || Response::Refused(refusal()),
                    |info| Response::Info(Box::new(info)),
                )
            }
        }
    }

    fn on_proven(&mut self, peer: PeerId, ids: &[RingId]) {
        for ring in self.roll.proven(peer, ids) {
            self.events.push_back(Event::Member { peer, ring });
        }
    }

    fn on_told(&mut self, told: Told) {
        if told == Told::News && self.push.is_none() {
            self.push = Some(Box::pin(sleep(COLLECT)));
        }
    }

    fn on_response(&mut self, id: OutboundRequestId, response: Response) {
        let Some((peer, asked)) = self.asked.remove(&id) else {
            return;
        };
        if matches!(asked, Asked::Info(_)) {
            self.heard(peer);
        }
        match (asked, response) {
            (Asked::Hello(initiator), Response::Answer(answer)) => {
                match initiator.finish(&answer, rand::random()) {
                    Some((proven, proofs)) => {
                        self.ask(peer, Request::Proof(proofs), Asked::Proof(proven));
                    }
                    None => self.shaken(peer, true),
                }
            }
            (Asked::Proof(proven), Response::Done) => {
                self.on_proven(peer, &proven);
                self.tell(peer);
                self.shaken(peer, true);
            }
            (Asked::Info(_), Response::Info(info)) => {
                let told = self.roll.told(peer, *info);
                self.on_told(told);
            }
            // It has left the ring, or this node was removed from it.
            (Asked::Info(ring), Response::Refused(REFUSED_STRANGER)) => {
                self.roll.disowned(&peer, &ring);
            }
            (Asked::Info(ring), Response::Refused(REFUSED_USED)) => {
                self.roll.refused(&peer, &ring, Spent::Used);
            }
            (Asked::Info(ring), Response::Refused(REFUSED_OVER)) => {
                self.roll.refused(&peer, &ring, Spent::Over);
            }
            (Asked::Info(ring), Response::Refused(REFUSED_VOID)) => {
                self.roll.refused(&peer, &ring, Spent::Void);
            }
            // It has not proven what this side takes for proven, or asks are too many: the next refresh begins anew.
            (_, Response::Refused(_)) => self.shaken(peer, false),
            _ => {
                self.misbehaved(peer);
                self.shaken(peer, true);
            }
        }
    }

    /// A handshake of ours has ended. When the secrets are others by now, there is another one.
    fn shaken(&mut self, peer: PeerId, done: bool) {
        if let Some(state) = self.peers.get_mut(&peer) {
            state.shaking = false;
            if done {
                state.again = 0;
                self.shake(peer);
            } else {
                state.tried = None;
            }
        }
    }

    fn on_failure(&mut self, id: OutboundRequestId, failure: &OutboundFailure) {
        let Some((peer, asked)) = self.asked.remove(&id) else {
            return;
        };
        tracing::debug!(%peer, %failure, "a request about rings failed");
        if let OutboundFailure::Io(error) = failure
            && error.kind() == std::io::ErrorKind::InvalidData
        {
            self.misbehaved(peer);
        }
        // Who does not speak of rings is in none.
        let done = matches!(failure, OutboundFailure::UnsupportedProtocols);
        if matches!(asked, Asked::Info(_)) {
            self.heard(peer);
            return;
        }
        self.shaken(peer, done);
        // One of two connections to the same peer is closed soon after both were made.
        if matches!(failure, OutboundFailure::ConnectionClosed)
            && self.inner.is_connected(&peer)
            && let Some(state) = self.peers.get_mut(&peer)
            && state.again < MAX_AGAIN
        {
            state.again += 1;
            self.shake(peer);
        }
    }

    fn on_event(&mut self, event: rr::Event<codec::Asked, Response>) {
        match event {
            rr::Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => {
                    // What is known of a peer is forgotten with its last connection.
                    if !self.inner.is_connected(&peer) {
                        return;
                    }
                    match request {
                        Ok(request) => {
                            let response = self.on_request(peer, request);
                            // On failure the peer is gone.
                            let _ = self.inner.send_response(channel, response);
                        }
                        // Without an answer the stream is reset.
                        Err(malformed) => {
                            tracing::debug!(%peer, %malformed, "a peer sent garbage");
                            self.misbehaved(peer);
                        }
                    }
                }
                Message::Response {
                    request_id,
                    response,
                } => self.on_response(request_id, response),
            },
            rr::Event::OutboundFailure {
                request_id, error, ..
            } => self.on_failure(request_id, &error),
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <rr::Behaviour<Codec> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    delegate_connections!(inner);

    fn on_swarm_event(&mut self, event: FromSwarm) {
        if let FromSwarm::ConnectionClosed(closed) = &event
            && closed.remaining_established == 0
        {
            self.peers.remove(&closed.peer_id);
            self.roll.gone(&closed.peer_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(push) = &mut self.push
                && push.as_mut().poll(cx).is_ready()
            {
                self.push = None;
                self.refresh();
            }
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => self.on_event(event),
                Poll::Ready(other) => {
                    return Poll::Ready(other.map_out(|_| unreachable!("events are taken above")));
                }
                Poll::Pending if self.events.is_empty() => return Poll::Pending,
                Poll::Pending => {}
            }
        }
    }
}
