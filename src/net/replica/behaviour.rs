//! The replica room inside the swarm: libp2p's request-response, our requests, and those of peers.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use libp2p::request_response::{
    self as rr, Message, OutboundFailure, OutboundRequestId, ProtocolSupport, ResponseChannel,
};
use libp2p::swarm::{FromSwarm, NetworkBehaviour, THandlerInEvent, ToSwarm};
use libp2p::{PeerId, StreamProtocol};
use tokio::sync::{mpsc, oneshot};

use super::codec::{Asked, Codec};
use super::{
    Answer, Command, Error, Inbox, Incoming, MAX_DEADLINE, MAX_WAITING, MAX_WAITING_PER_PEER,
    REQUESTS_PER_PEER, Refusal, Request,
};
use crate::net::delegate::delegate_connections;
use crate::net::exchange::Permit;

/// What others may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A request of a peer was turned away because too much was under way.
    TurnedAway { peer: PeerId },
    /// A peer broke the protocol.
    Misbehaved { peer: PeerId },
}

struct Pending {
    peer: PeerId,
    reply: oneshot::Sender<Result<Answer, Error>>,
    _permit: Permit,
}

type Answered = (PeerId, ResponseChannel<Answer>, Answer);

/// The replica room's behaviour.
pub(crate) struct Behaviour {
    inner: rr::Behaviour<Codec>,
    pending: HashMap<OutboundRequestId, Pending>,
    inbox: mpsc::Sender<Incoming>,
    working: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// Requests of each peer in `working`.
    of_peer: HashMap<PeerId, usize>,
    events: VecDeque<Event>,
}

impl Behaviour {
    pub(crate) fn new(protocol: StreamProtocol) -> (Self, Inbox) {
        let (inbox, requests) = mpsc::channel(MAX_WAITING);
        // Twice what a peer may have waiting, so that one who keeps to half of it hears "busy" and is not reset without a word.
        let config = rr::Config::default()
            .with_request_timeout(MAX_DEADLINE)
            .with_max_concurrent_streams(REQUESTS_PER_PEER + 2 * MAX_WAITING_PER_PEER);
        let behaviour = Self {
            inner: rr::Behaviour::with_codec(
                Codec::default(),
                [(protocol, ProtocolSupport::Full)],
                config,
            ),
            pending: HashMap::new(),
            inbox,
            working: FuturesUnordered::new(),
            of_peer: HashMap::new(),
            events: VecDeque::new(),
        };
        (behaviour, requests)
    }

    pub(crate) fn command(&mut self, command: Command) {
        let Command::Ask {
            peer,
            request,
            permit,
            reply,
        } = command;
        let id = self.inner.send_request(&peer, Ok(request));
        let pending = Pending {
            peer,
            reply,
            _permit: permit,
        };
        self.pending.insert(id, pending);
    }

    /// Whether nothing is under way to or from a peer.
    pub(crate) fn is_quiet(&self, peer: PeerId) -> bool {
        !self.of_peer.contains_key(&peer)
            && self.pending.values().all(|pending| pending.peer != peer)
    }

    fn asked(&mut self, peer: PeerId, request: Request, channel: ResponseChannel<Answer>) {
        let (reply, answer) = oneshot::channel();
        let incoming = Incoming {
            peer,
            request,
            reply,
        };
        let waiting = self.of_peer.entry(peer).or_default();
        if *waiting >= MAX_WAITING_PER_PEER || self.inbox.try_send(incoming).is_err() {
            if *waiting == 0 {
                self.of_peer.remove(&peer);
            }
            self.events.push_back(Event::TurnedAway { peer });
            let busy = Answer::Refused(Refusal::Busy);
            // On failure the peer is gone.
            let _ = self.inner.send_response(channel, busy);
            return;
        }
        *waiting += 1;
        let answered = async move {
            let answer = answer.await.unwrap_or(Answer::Refused(Refusal::Busy));
            (peer, channel, answer)
        };
        self.working.push(answered.boxed());
    }

    fn answered(&mut self, (peer, channel, answer): Answered) {
        if let Some(waiting) = self.of_peer.get_mut(&peer) {
            *waiting -= 1;
            if *waiting == 0 {
                self.of_peer.remove(&peer);
            }
        }
        // On failure the peer is gone or the request timed out.
        let _ = self.inner.send_response(channel, answer);
    }

    fn on_event(&mut self, event: rr::Event<Asked, Answer>) {
        match event {
            rr::Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => match request {
                    Ok(request) => self.asked(peer, request, channel),
                    // Without an answer the stream is reset.
                    Err(malformed) => {
                        tracing::debug!(%peer, %malformed, "a peer sent garbage");
                        self.events.push_back(Event::Misbehaved { peer });
                    }
                },
                Message::Response {
                    request_id,
                    response,
                } => {
                    if let Some(pending) = self.pending.remove(&request_id) {
                        // The caller may have given up in the meantime.
                        let _ = pending.reply.send(Ok(response));
                    }
                }
            },
            rr::Event::OutboundFailure {
                request_id, error, ..
            } => {
                if let Some(pending) = self.pending.remove(&request_id) {
                    let peer = pending.peer;
                    let error = to_error(peer, &error);
                    if matches!(error, Error::Protocol { .. }) {
                        self.events.push_back(Event::Misbehaved { peer });
                    }
                    let _ = pending.reply.send(Err(error));
                }
            }
            rr::Event::InboundFailure { .. } | rr::Event::ResponseSent { .. } => {}
        }
    }
}

fn to_error(peer: PeerId, failure: &OutboundFailure) -> Error {
    match failure {
        OutboundFailure::DialFailure | OutboundFailure::ConnectionClosed => {
            Error::Unreachable { peer }
        }
        OutboundFailure::Timeout => Error::TimedOut { peer },
        OutboundFailure::UnsupportedProtocols => Error::Unsupported { peer },
        OutboundFailure::Io(error) => match error.kind() {
            ErrorKind::InvalidData => Error::Protocol { peer },
            ErrorKind::TimedOut => Error::TimedOut { peer },
            _ => Error::Unreachable { peer },
        },
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = <rr::Behaviour<Codec> as NetworkBehaviour>::ConnectionHandler;
    type ToSwarm = Event;

    delegate_connections!(inner);

    fn on_swarm_event(&mut self, event: FromSwarm) {
        self.inner.on_swarm_event(event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            while let Poll::Ready(Some(answered)) = self.working.poll_next_unpin(cx) {
                self.answered(answered);
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
