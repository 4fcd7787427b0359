//! The replica room inside the swarm: libp2p's request-response, our requests, and those of peers.
//!
//! Requests of peers wait as requests for blocks do, in a [`RequestQueue`]: each peer has a share,
//! peers take turns, and when there is no place left a request of a higher standing takes that of a
//! lower one. Strangers, however many they are, thus keep no member of a ring from being heard.
//! Questions for heads are handed out in the same order, through a door of their own.

use std::collections::{HashMap, VecDeque};
use std::io::ErrorKind;
use std::sync::Arc;
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
    Answer, Command, Error, Inbox, Incoming, MAX_DEADLINE, MAX_STARTED, MAX_STARTED_OF_STRANGERS,
    MAX_STARTED_PER_PEER, MAX_WAITING, MAX_WAITING_PER_PEER, REQUESTS_PER_PEER, Refusal, Request,
};
use crate::net::admission::{Bounds, Offered, Permit, RequestQueue, Reservation, Site, StandingOf};
use crate::net::delegate::delegate_connections;

/// Every request counts as one byte.
const BOUNDS: Bounds = Bounds {
    bytes: MAX_STARTED,
    bytes_of_strangers: MAX_STARTED_OF_STRANGERS,
    bytes_per_member: MAX_STARTED_PER_PEER,
    bytes_per_stranger: MAX_STARTED_PER_PEER,
    started: MAX_STARTED,
    started_of_strangers: MAX_STARTED_OF_STRANGERS,
    waiting: MAX_WAITING,
    waiting_per_peer: MAX_WAITING_PER_PEER,
};

/// Takes a question for a head; false when nobody is there to answer. Has a place for every request
/// that is started, and does no work.
pub(crate) type HeadDoor = Arc<dyn Fn(Incoming) -> bool + Send + Sync>;

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

/// A request of a peer.
struct Asking {
    request: Request,
    channel: ResponseChannel<Answer>,
}

type Answered = (Reservation, ResponseChannel<Answer>, Answer);

/// The replica room's behaviour.
pub(crate) struct Behaviour {
    inner: rr::Behaviour<Codec>,
    pending: HashMap<OutboundRequestId, Pending>,
    standing: StandingOf,
    admission: RequestQueue<Asking>,
    /// Has a place for every request that is started.
    inbox: mpsc::Sender<Incoming>,
    heads: HeadDoor,
    working: FuturesUnordered<BoxFuture<'static, Answered>>,
    events: VecDeque<Event>,
}

impl Behaviour {
    pub(crate) fn new(
        protocol: StreamProtocol,
        standing: StandingOf,
        heads: HeadDoor,
    ) -> (Self, Inbox) {
        let (inbox, requests) = mpsc::channel(MAX_STARTED);
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
            standing,
            admission: RequestQueue::new(BOUNDS),
            inbox,
            heads,
            working: FuturesUnordered::new(),
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
        self.admission.is_quiet(peer) && self.pending.values().all(|pending| pending.peer != peer)
    }

    fn asked(&mut self, peer: PeerId, request: Request, channel: ResponseChannel<Answer>) {
        let standing = (self.standing)(peer);
        let asking = Asking { request, channel };
        match self.admission.offer(peer, standing, 1, asking) {
            Offered::Queued => {}
            Offered::Displaced(other, asking) => self.turn_away(other, asking.channel),
            Offered::TurnedAway(asking) => self.turn_away(peer, asking.channel),
        }
    }

    fn turn_away(&mut self, peer: PeerId, channel: ResponseChannel<Answer>) {
        self.events.push_back(Event::TurnedAway { peer });
        self.answer(channel, Answer::Refused(Refusal::Busy));
    }

    /// Hands out the requests whose turn it is.
    fn start(&mut self) {
        while let Some((reservation, asking)) = self.admission.start(usize::MAX) {
            let Asking { request, channel } = asking;
            // Nobody waits any more for what has waited for too long.
            if !channel.is_open() {
                self.admission.finish(reservation);
                continue;
            }
            let (reply, answer) = oneshot::channel();
            let peer = reservation.peer;
            let incoming = Incoming {
                peer,
                request,
                reply,
            };
            let is_taken = match incoming.request {
                Request::Head { .. } => (self.heads)(incoming),
                _ => self.inbox.try_send(incoming).is_ok(),
            };
            if !is_taken {
                // Who took the inbox has ended.
                self.admission.finish(reservation);
                self.turn_away(peer, channel);
                continue;
            }
            let answered = async move {
                let answer = answer.await.unwrap_or(Answer::Refused(Refusal::Busy));
                (reservation, channel, answer)
            };
            self.working.push(answered.boxed());
        }
    }

    fn answered(&mut self, (reservation, channel, answer): Answered) {
        self.admission.finish(reservation);
        self.answer(channel, answer);
    }

    fn answer(&mut self, channel: ResponseChannel<Answer>, answer: Answer) {
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
        match &event {
            FromSwarm::ConnectionEstablished(made) => {
                if let Some(site) = Site::of(made.endpoint.get_remote_address()) {
                    self.admission.is_at(made.peer_id, site);
                }
            }
            FromSwarm::ConnectionClosed(closed) if closed.remaining_established == 0 => {
                self.admission.forget(closed.peer_id);
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
            self.start();
            while let Poll::Ready(Some(answered)) = self.working.poll_next_unpin(cx) {
                self.answered(answered);
                self.start();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::admission::Standing;

    /// Strangers who ask as much as they can, and nobody who answers.
    fn flooded(standing: Standing) -> RequestQueue<usize> {
        let mut admission = RequestQueue::new(BOUNDS);
        for _ in 0..MAX_STARTED + MAX_WAITING {
            let stranger = PeerId::random();
            for n in 0..=MAX_WAITING_PER_PEER {
                let offered = admission.offer(stranger, standing, 1, n);
                assert!(
                    !matches!(offered, Offered::Displaced(..)),
                    "all stand alike"
                );
                let is_beyond_share = n == MAX_WAITING_PER_PEER;
                assert!(!is_beyond_share || offered == Offered::TurnedAway(n));
            }
        }
        let late = admission.offer(PeerId::random(), standing, 1, 0);
        assert_eq!(late, Offered::TurnedAway(0), "there is no place left");
        admission
    }

    #[test]
    fn however_many_strangers_ask_a_member_is_heard_next() {
        for standing in [Standing::FreeRider, Standing::Newcomer, Standing::Even] {
            let mut admission = flooded(standing);
            let member = PeerId::random();
            for n in 0..MAX_WAITING_PER_PEER {
                let offered = admission.offer(member, Standing::Member, 1, 1000 + n);
                assert!(matches!(offered, Offered::Displaced(..)), "{standing:?}");
            }
            // More than its share is not even a member's.
            let offered = admission.offer(member, Standing::Member, 1, 2000);
            assert_eq!(offered, Offered::TurnedAway(2000));
        }
    }

    #[test]
    fn a_member_is_heard_at_once_beside_any_number_of_strangers() {
        let mut admission = RequestQueue::new(BOUNDS);
        for n in 0..MAX_WAITING {
            let stranger = PeerId::random();
            assert_eq!(
                admission.offer(stranger, Standing::Newcomer, 1, n),
                Offered::Queued
            );
        }
        let mut started = Vec::new();
        while let Some((reservation, _)) = admission.start(usize::MAX) {
            started.push(reservation);
        }
        assert_eq!(started.len(), MAX_STARTED_OF_STRANGERS);
        for n in 1000..1000 + MAX_STARTED - MAX_STARTED_OF_STRANGERS {
            admission.offer(PeerId::random(), Standing::Member, 1, n);
            let (reservation, number) = admission.start(usize::MAX).expect("its part");
            assert_eq!(number, n);
            started.push(reservation);
        }
    }
}
