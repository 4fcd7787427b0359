//! The exchange room inside the swarm: libp2p's request-response with our client and server around it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::request_response::{self as rr, Message, ProtocolSupport};
use libp2p::swarm::{FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm};
use libp2p::{PeerId, StreamProtocol};

use super::client::Client;
use super::codec::{Asked, Codec, Reply, Response};
use super::server::{Outgoing, Server};
use super::{BlockService, Command, MAX_TIME, Rates};
use crate::net::admission::{Site, StandingOf};
use crate::net::delegate::delegate_connections;
use crate::net::limits::Limits;
use crate::net::pace::Pace;

/// What others may want to know of the exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A peer sent blocks.
    Received { peer: PeerId, bytes: usize },
    /// Blocks were handed to the connection to a peer.
    Sent { peer: PeerId, bytes: usize },
    /// A request of a peer was turned away because too much was under way.
    TurnedAway { peer: PeerId },
    /// A peer broke the protocol.
    Misbehaved { peer: PeerId },
}

/// Parts that the room is made of.
pub(crate) struct Setup<'a> {
    pub(crate) service: Arc<dyn BlockService>,
    pub(crate) standing: StandingOf,
    pub(crate) limits: &'a Limits,
    pub(crate) rates: Rates,
    pub(crate) pace: &'a Pace,
}

/// The exchange room's behaviour.
pub(crate) struct Behaviour {
    inner: rr::Behaviour<Codec>,
    client: Client,
    server: Server,
    events: VecDeque<Event>,
}

impl Behaviour {
    pub(crate) fn new(protocol: StreamProtocol, setup: Setup<'_>) -> Self {
        let limits = setup.limits;
        // Both directions share one bound. What is past it on the answering side is reset by libp2p without a word; the
        // queue's bounds are lower, so that who keeps to the permits hears "busy" first.
        let streams = limits.requests_per_peer + limits.waiting_per_peer + limits.serving;
        let settings = rr::Config::default()
            .with_request_timeout(MAX_TIME)
            .with_max_concurrent_streams(streams);
        Self {
            inner: rr::Behaviour::with_codec(
                Codec::new(setup.pace.down.clone()),
                [(protocol, ProtocolSupport::Full)],
                settings,
            ),
            client: Client::new(setup.rates.offered),
            server: Server::new(setup),
            events: VecDeque::new(),
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Ask { ask, permit, reply } => {
                self.client.ask(&mut self.inner, ask, permit, reply);
            }
        }
    }

    /// Whether nothing is under way to or from a peer.
    pub(crate) fn is_quiet(&self, peer: PeerId) -> bool {
        self.client.is_quiet(peer) && self.server.is_quiet(peer)
    }

    fn on_event(&mut self, event: rr::Event<Asked, Reply>) {
        match event {
            rr::Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request_id,
                    request: Ok(parcel),
                    channel,
                } => {
                    let refusal = self.server.asked(peer, request_id, parcel.request, channel);
                    if let Some(refusal) = refusal {
                        // Who offers too little has not asked too much.
                        if matches!(refusal.response, Response::Answers(_)) {
                            let peer = refusal.peer;
                            self.events.push_back(Event::TurnedAway { peer });
                        }
                        self.send(refusal);
                    }
                }
                // Without its channel the stream ends, and nothing is said.
                Message::Request {
                    request: Err(malformed),
                    ..
                } => {
                    tracing::debug!(%peer, %malformed, "a request breaks the protocol");
                    self.events.push_back(Event::Misbehaved { peer });
                }
                Message::Response {
                    request_id,
                    response,
                } => self
                    .events
                    .extend(self.client.answered(peer, request_id, response.response)),
            },
            rr::Event::OutboundFailure {
                request_id, error, ..
            } => self
                .events
                .extend(self.client.failed(&mut self.inner, request_id, &error)),
            rr::Event::InboundFailure { request_id, .. }
            | rr::Event::ResponseSent { request_id, .. } => self.server.finished(request_id),
        }
    }

    fn send(&mut self, outgoing: Outgoing) {
        let Outgoing {
            peer,
            bytes,
            response,
            channel,
        } = outgoing;
        // On failure the peer is gone or the request timed out; an event about that has come or will.
        let reply = self.server.reply(peer, response);
        if self.inner.send_response(channel, reply).is_ok() && bytes > 0 {
            self.events.push_back(Event::Sent { peer, bytes });
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <rr::Behaviour<Codec> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    delegate_connections!(inner);

    fn on_swarm_event(&mut self, event: FromSwarm) {
        match &event {
            FromSwarm::ConnectionEstablished(made) => {
                let site = Site::of(made.endpoint.get_remote_address());
                self.server.connected(made.peer_id, site);
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.server.gone(closed.peer_id);
            }
            _ => {}
        }
        self.inner.on_swarm_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            while let Poll::Ready(outgoing) = self.server.poll(cx) {
                self.send(outgoing);
            }
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(event));
            }
            match self.inner.poll(cx) {
                Poll::Ready(ToSwarm::GenerateEvent(event)) => self.on_event(event),
                Poll::Ready(other) => {
                    return Poll::Ready(other.map_out(|_| unreachable!("events are taken above")));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
